//! The messages of KMIP 1.2 that the provider needs: requests built, answers taken apart.
//!
//! Follows the KMIP specification 1.2: section 7 (message format), 4 (operations), 3 (attributes) and 9.1.3 (numbers of
//! tags and enumerations). A message holds one batch item, so that an answer belongs to one question.
//!
//! Deliberately left out: credentials in the header (the client is known by its certificate), asynchronous answers,
//! batches, and every operation and attribute that a key for MACs does not need.

use super::connection::LinkError;
use crate::kms::presentable;
use crate::kms::ttlv::{Item, MAXIMUM_MESSAGE, TtlvError, Value};

/// Tags, section 9.1.3.1.
pub(super) mod tag {
    pub(super) const ATTRIBUTE: u32 = 0x42_0008;
    pub(super) const ATTRIBUTE_NAME: u32 = 0x42_000a;
    pub(super) const ATTRIBUTE_VALUE: u32 = 0x42_000b;
    pub(super) const BATCH_COUNT: u32 = 0x42_000d;
    pub(super) const BATCH_ITEM: u32 = 0x42_000f;
    pub(super) const CRYPTOGRAPHIC_ALGORITHM: u32 = 0x42_0028;
    pub(super) const CRYPTOGRAPHIC_PARAMETERS: u32 = 0x42_002b;
    pub(super) const MAXIMUM_ITEMS: u32 = 0x42_004f;
    pub(super) const MAXIMUM_RESPONSE_SIZE: u32 = 0x42_0050;
    pub(super) const NAME_TYPE: u32 = 0x42_0054;
    pub(super) const NAME_VALUE: u32 = 0x42_0055;
    pub(super) const OBJECT_TYPE: u32 = 0x42_0057;
    pub(super) const OPERATION: u32 = 0x42_005c;
    pub(super) const PROTOCOL_VERSION: u32 = 0x42_0069;
    pub(super) const PROTOCOL_VERSION_MAJOR: u32 = 0x42_006a;
    pub(super) const PROTOCOL_VERSION_MINOR: u32 = 0x42_006b;
    pub(super) const REQUEST_HEADER: u32 = 0x42_0077;
    pub(super) const REQUEST_MESSAGE: u32 = 0x42_0078;
    pub(super) const REQUEST_PAYLOAD: u32 = 0x42_0079;
    pub(super) const RESPONSE_MESSAGE: u32 = 0x42_007b;
    pub(super) const RESPONSE_PAYLOAD: u32 = 0x42_007c;
    pub(super) const RESULT_MESSAGE: u32 = 0x42_007d;
    pub(super) const RESULT_REASON: u32 = 0x42_007e;
    pub(super) const RESULT_STATUS: u32 = 0x42_007f;
    pub(super) const STORAGE_STATUS_MASK: u32 = 0x42_008e;
    pub(super) const TEMPLATE_ATTRIBUTE: u32 = 0x42_0091;
    pub(super) const UNIQUE_IDENTIFIER: u32 = 0x42_0094;
    pub(super) const DATA: u32 = 0x42_00c2;
    pub(super) const MAC_DATA: u32 = 0x42_00c6;
}

/// Operations, section 9.1.3.2.27.
pub(super) mod operation {
    pub(in crate::kms::kmip) const CREATE: u32 = 0x01;
    pub(in crate::kms::kmip) const LOCATE: u32 = 0x08;
    pub(in crate::kms::kmip) const GET_ATTRIBUTES: u32 = 0x0b;
    pub(in crate::kms::kmip) const ACTIVATE: u32 = 0x12;
    pub(in crate::kms::kmip) const DESTROY: u32 = 0x14;
    pub(in crate::kms::kmip) const MAC: u32 = 0x23;
}

/// Result reasons, section 9.1.3.2.29; those from 0x36 on are of KMIP 2.0, and servers that speak both send them.
pub(super) mod reason {
    pub(in crate::kms::kmip) const ITEM_NOT_FOUND: u32 = 0x01;
    pub(in crate::kms::kmip) const AUTHENTICATION_NOT_SUCCESSFUL: u32 = 0x03;
    pub(in crate::kms::kmip) const INVALID_FIELD: u32 = 0x07;
    pub(in crate::kms::kmip) const FEATURE_NOT_SUPPORTED: u32 = 0x08;
    pub(in crate::kms::kmip) const PERMISSION_DENIED: u32 = 0x0c;
    pub(in crate::kms::kmip) const OBJECT_DESTROYED: u32 = 0x36;
    pub(in crate::kms::kmip) const OBJECT_NOT_FOUND: u32 = 0x37;
    pub(in crate::kms::kmip) const NOT_AUTHORISED: u32 = 0x39;
    pub(in crate::kms::kmip) const WRONG_KEY_LIFECYCLE_STATE: u32 = 0x43;
    pub(super) const GENERAL_FAILURE: u32 = 0x100;
}

/// States of a key, section 9.1.3.2.18.
pub(super) mod state {
    pub(in crate::kms::kmip) const PRE_ACTIVE: u32 = 1;
    pub(in crate::kms::kmip) const ACTIVE: u32 = 2;
    pub(in crate::kms::kmip) const DEACTIVATED: u32 = 3;
    pub(in crate::kms::kmip) const COMPROMISED: u32 = 4;
    pub(in crate::kms::kmip) const DESTROYED: u32 = 5;
    pub(in crate::kms::kmip) const DESTROYED_COMPROMISED: u32 = 6;
}

/// Cryptographic algorithms, section 9.1.3.2.13.
pub(super) mod algorithm {
    pub(in crate::kms::kmip) const AES: u32 = 0x03;
    pub(in crate::kms::kmip) const HMAC_SHA256: u32 = 0x09;
}

/// The result status of an operation that was carried out, section 9.1.3.2.28.
const SUCCESS: u32 = 0;

/// Symmetric Key among the object types, section 9.1.3.2.12.
const SYMMETRIC_KEY: u32 = 2;

/// MAC Generate among the bits of a usage mask, section 9.1.3.3.1. Nothing else may be done with a key.
const MAC_GENERATE: i32 = 0x80;

/// How many bits a key has: as many as HMAC-SHA256 gives.
const KEY_BITS: i32 = 256;

/// Uninterpreted Text String among the types of names, section 9.1.3.2.11.
const UNINTERPRETED_TEXT: u32 = 1;

/// Why an operation gave nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// No answer came, or none that could be used.
    Link(LinkError),
    /// The server answered that it does not do this.
    Refused {
        /// Its reason, one of [`reason`] or another.
        reason: u32,
        /// What it adds in words, made fit to be shown.
        message: String,
    },
}

impl From<LinkError> for Trouble {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

/// An answer that can't be used.
pub(super) fn unusable(why: impl Into<String>) -> Trouble {
    Trouble::Link(LinkError::Unusable(why.into()))
}

/// The bytes that ask for one operation.
pub(super) fn request(operation: u32, payload: Vec<Item<'_>>) -> Result<Vec<u8>, TtlvError> {
    let version = vec![Item::integer(tag::PROTOCOL_VERSION_MAJOR, 1), Item::integer(tag::PROTOCOL_VERSION_MINOR, 2)];
    let largest = i32::try_from(MAXIMUM_MESSAGE).map_err(|_| TtlvError::TooLong)?;
    let header = vec![
        Item::structure(tag::PROTOCOL_VERSION, version),
        Item::integer(tag::MAXIMUM_RESPONSE_SIZE, largest),
        Item::integer(tag::BATCH_COUNT, 1),
    ];
    let item = vec![Item::enumeration(tag::OPERATION, operation), Item::structure(tag::REQUEST_PAYLOAD, payload)];
    let message = vec![Item::structure(tag::REQUEST_HEADER, header), Item::structure(tag::BATCH_ITEM, item)];
    Item::structure(tag::REQUEST_MESSAGE, message).encode()
}

/// Takes an answer apart and hands its payload to `read`, which says what is missing in it.
pub(super) fn answer<T>(
    message: &[u8],
    operation: u32,
    read: impl FnOnce(&Item<'_>) -> Result<T, String>,
) -> Result<T, Trouble> {
    let message = Item::decode(message).map_err(LinkError::no_kmip)?;
    if message.tag != tag::RESPONSE_MESSAGE {
        return Err(unusable("it answers with something other than a KMIP response"));
    }
    let mut items = message.children(tag::BATCH_ITEM);
    let (Some(item), None) = (items.next(), items.next()) else {
        return Err(unusable("it answers one question with none or several answers"));
    };
    let number = |tag| item.child(tag).and_then(Item::as_enumeration);
    let status = number(tag::RESULT_STATUS).ok_or_else(|| unusable("its answer lacks the result status"))?;
    if status != SUCCESS {
        let message = item.child(tag::RESULT_MESSAGE).and_then(Item::as_text).unwrap_or("without a message");
        let reason = number(tag::RESULT_REASON).unwrap_or(reason::GENERAL_FAILURE);
        return Err(Trouble::Refused { reason, message: presentable(message) });
    }
    if number(tag::OPERATION).is_some_and(|answered| answered != operation) {
        return Err(unusable("it answers another question than the one that was asked"));
    }
    // A server may leave out a payload in which nothing would be, as that of a Locate which finds nothing.
    let nothing = Item::structure(tag::RESPONSE_PAYLOAD, Vec::new());
    read(item.child(tag::RESPONSE_PAYLOAD).unwrap_or(&nothing)).map_err(unusable)
}

/// A result reason in words, as far as they tell an operator more than its number.
pub(super) fn reason_in_words(reason: u32) -> String {
    let words = match reason {
        reason::ITEM_NOT_FOUND => "Item Not Found",
        reason::AUTHENTICATION_NOT_SUCCESSFUL => "Authentication Not Successful",
        0x04 => "Invalid Message",
        0x05 => "Operation Not Supported",
        reason::INVALID_FIELD => "Invalid Field",
        reason::FEATURE_NOT_SUPPORTED => "Feature Not Supported",
        0x0a => "Cryptographic Failure",
        0x0b => "Illegal Operation",
        reason::PERMISSION_DENIED => "Permission Denied",
        0x0d => "Object Archived",
        reason::GENERAL_FAILURE => "General Failure",
        _ => return format!("result reason {reason:#x}"),
    };
    words.to_owned()
}

/// Storage Status Mask (section 9.1.3.3.2): an archived key is not destroyed, and its name is not free.
const ON_LINE_AND_ARCHIVED: i32 = 3;

/// The payload of Locate: every object of exactly this name, but no more than two, which is one too many.
pub(super) fn locate(name: &str) -> Vec<Item<'_>> {
    vec![
        Item::integer(tag::MAXIMUM_ITEMS, 2),
        Item::integer(tag::STORAGE_STATUS_MASK, ON_LINE_AND_ARCHIVED),
        name_attribute(name),
    ]
}

/// The identifiers in the answer to Locate.
pub(super) fn located(payload: &Item<'_>) -> Result<Vec<String>, String> {
    let texts = payload.children(tag::UNIQUE_IDENTIFIER).map(|item| item.as_text().map(str::to_owned));
    texts.collect::<Option<_>>().ok_or_else(|| "an identifier in its answer is no text".to_owned())
}

/// The payload of Create: a key of this name that computes MACs and does nothing else.
pub(super) fn create(name: &str, algorithm: u32) -> Vec<Item<'_>> {
    let attributes = vec![
        attribute("Cryptographic Algorithm", Value::Enumeration(algorithm)),
        attribute("Cryptographic Length", Value::Integer(KEY_BITS)),
        attribute("Cryptographic Usage Mask", Value::Integer(MAC_GENERATE)),
        name_attribute(name),
    ];
    vec![Item::enumeration(tag::OBJECT_TYPE, SYMMETRIC_KEY), Item::structure(tag::TEMPLATE_ATTRIBUTE, attributes)]
}

/// The identifier in the answer to Create.
pub(super) fn created(payload: &Item<'_>) -> Result<String, String> {
    let identifier = payload.child(tag::UNIQUE_IDENTIFIER).and_then(Item::as_text);
    identifier.map(str::to_owned).ok_or_else(|| "it made a key and does not say which".to_owned())
}

/// The payload of Activate and of Destroy.
pub(super) fn of_object(identifier: &str) -> Vec<Item<'_>> {
    vec![Item::text(tag::UNIQUE_IDENTIFIER, identifier)]
}

/// The payload of Get Attributes that asks for the state.
pub(super) fn get_state(identifier: &str) -> Vec<Item<'_>> {
    vec![Item::text(tag::UNIQUE_IDENTIFIER, identifier), Item::text(tag::ATTRIBUTE_NAME, "State")]
}

/// The state in the answer to Get Attributes, one of [`state`].
pub(super) fn state_of(payload: &Item<'_>) -> Result<u32, String> {
    let value = payload.child(tag::ATTRIBUTE).and_then(|attribute| attribute.child(tag::ATTRIBUTE_VALUE));
    value.and_then(Item::as_enumeration).ok_or_else(|| "it does not say in what state the key is".to_owned())
}

/// The payload of MAC. The algorithm is always named, because a key's own may be another one.
pub(super) fn mac<'a>(identifier: &'a str, label: &'a [u8]) -> Vec<Item<'a>> {
    let algorithm = Item::enumeration(tag::CRYPTOGRAPHIC_ALGORITHM, algorithm::HMAC_SHA256);
    vec![
        Item::text(tag::UNIQUE_IDENTIFIER, identifier),
        Item::structure(tag::CRYPTOGRAPHIC_PARAMETERS, vec![algorithm]),
        Item::bytes(tag::DATA, label),
    ]
}

/// The bytes in the answer to MAC, where they lie in the message.
pub(super) fn mac_data<'a>(payload: &Item<'a>) -> Result<&'a [u8], String> {
    let data = payload.child(tag::MAC_DATA).and_then(Item::as_bytes);
    data.ok_or_else(|| "its answer lacks the MAC".to_owned())
}

fn attribute<'a>(name: &'a str, value: Value<'a>) -> Item<'a> {
    let value = Item { tag: tag::ATTRIBUTE_VALUE, value };
    Item::structure(tag::ATTRIBUTE, vec![Item::text(tag::ATTRIBUTE_NAME, name), value])
}

fn name_attribute(name: &str) -> Item<'_> {
    let parts = vec![Item::text(tag::NAME_VALUE, name), Item::enumeration(tag::NAME_TYPE, UNINTERPRETED_TEXT)];
    attribute("Name", Value::Structure(parts))
}
