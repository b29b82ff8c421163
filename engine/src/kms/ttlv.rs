//! TTLV: the bytes in which KMIP writes its messages, laid by hand.
//!
//! Follows the KMIP specification version 1.2, section 9.1 (TTLV encoding). An item is a tag of three bytes, a type of
//! one, a length of four and a value, all big-endian; a value that is no multiple of eight bytes long is filled up with
//! zeros, which the length does not count.
//!
//! Whatever arrives was written by a stranger. So a message is bounded in length and depth, decoding allocates no more
//! than a small multiple of what was received, and no bytes make it panic. It borrows from the message and copies
//! nothing: a caller that wipes the message has wiped every value in it. Bytes are accepted in one form only, so that
//! encoding what was decoded gives the same bytes.
//!
//! Deliberately left out: the meaning of tags (which child belongs where is for the caller to say), the arithmetic of
//! Big Integers (their bytes are handed on), and the encodings of KMIP in XML and JSON.

use std::fmt::{Display, Formatter};

/// The longest message in bytes, its header included. The largest one that Farside needs carries a label of some
/// hundred bytes; the limit keeps a server from filling a client's memory.
pub const MAXIMUM_MESSAGE: usize = 64 * 1024;

/// How deep structures may lie in each other. KMIP 1.2's own messages need at most nine.
pub const MAXIMUM_DEPTH: usize = 16;

/// Tag, type and length of an item.
pub const HEADER: usize = 8;

/// What values are filled up to a multiple of (section 9.1.1.3).
const ALIGNMENT: usize = 8;

/// The first byte of a tag: the specification's own and, second, the one for extensions (section 9.1.1.1).
const TAG_FAMILIES: [u8; 2] = [0x42, 0x54];

/// The item types of section 9.1.1.2.
mod kind {
    pub(super) const STRUCTURE: u8 = 0x01;
    pub(super) const INTEGER: u8 = 0x02;
    pub(super) const LONG_INTEGER: u8 = 0x03;
    pub(super) const BIG_INTEGER: u8 = 0x04;
    pub(super) const ENUMERATION: u8 = 0x05;
    pub(super) const BOOLEAN: u8 = 0x06;
    pub(super) const TEXT_STRING: u8 = 0x07;
    pub(super) const BYTE_STRING: u8 = 0x08;
    pub(super) const DATE_TIME: u8 = 0x09;
    pub(super) const INTERVAL: u8 = 0x0a;
}

/// Why bytes are no TTLV, or an item can't be written as TTLV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TtlvError {
    /// The bytes end within an item.
    Truncated,
    /// Something follows the item.
    Trailing,
    /// The message is longer than [`MAXIMUM_MESSAGE`].
    TooLong,
    /// Structures lie in each other deeper than [`MAXIMUM_DEPTH`].
    TooDeep,
    /// A tag outside the two families that there are.
    Tag(u32),
    /// An item type that KMIP 1.2 does not have.
    Type {
        /// The item's tag.
        tag: u32,
        /// The type that it claims.
        kind: u8,
    },
    /// A length that the type does not allow.
    Length {
        /// The item's tag.
        tag: u32,
    },
    /// What fills a value up is not zero.
    Padding {
        /// The item's tag.
        tag: u32,
    },
    /// A Boolean that is neither 0 nor 1.
    Boolean {
        /// The item's tag.
        tag: u32,
    },
    /// A Text String that is not UTF-8.
    Text {
        /// The item's tag.
        tag: u32,
    },
}

impl Display for TtlvError {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truncated => write!(f, "the message ends within an item"),
            Self::Trailing => write!(f, "something follows the message"),
            Self::TooLong => write!(f, "the message is longer than {MAXIMUM_MESSAGE} bytes"),
            Self::TooDeep => write!(f, "the message is nested deeper than {MAXIMUM_DEPTH} structures"),
            Self::Tag(tag) => write!(f, "{tag:06x} is no tag"),
            Self::Type { tag, kind } => write!(f, "item {tag:06x} is of type {kind:02x}, which there is not"),
            Self::Length { tag } => write!(f, "item {tag:06x} has a length that its type does not allow"),
            Self::Padding { tag } => write!(f, "item {tag:06x} is filled up with something other than zeros"),
            Self::Boolean { tag } => write!(f, "item {tag:06x} is neither true nor false"),
            Self::Text { tag } => write!(f, "item {tag:06x} is not UTF-8"),
        }
    }
}

impl std::error::Error for TtlvError {}

/// What an item holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// Items in their order.
    Structure(Vec<Item<'a>>),
    /// A signed number of 32 bits; bit masks are written so too.
    Integer(i32),
    /// A signed number of 64 bits.
    LongInteger(i64),
    /// A signed number in two's complement, sign-extended to a multiple of eight bytes.
    BigInteger(&'a [u8]),
    /// One of a list of values.
    Enumeration(u32),
    /// True or false.
    Boolean(bool),
    /// Text in UTF-8.
    TextString(&'a str),
    /// Bytes.
    ByteString(&'a [u8]),
    /// Seconds since 1970.
    DateTime(i64),
    /// A span in seconds.
    Interval(u32),
}

/// A tagged value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item<'a> {
    /// What it means, as the tables of section 9.1.3.1 say.
    pub tag: u32,
    /// What it holds.
    pub value: Value<'a>,
}

impl<'a> Item<'a> {
    /// A structure.
    pub fn structure(tag: u32, children: Vec<Item<'a>>) -> Self {
        Self { tag, value: Value::Structure(children) }
    }

    /// An integer.
    pub fn integer(tag: u32, value: i32) -> Self {
        Self { tag, value: Value::Integer(value) }
    }

    /// An enumeration.
    pub fn enumeration(tag: u32, value: u32) -> Self {
        Self { tag, value: Value::Enumeration(value) }
    }

    /// A text string.
    pub fn text(tag: u32, value: &'a str) -> Self {
        Self { tag, value: Value::TextString(value) }
    }

    /// A byte string.
    pub fn bytes(tag: u32, value: &'a [u8]) -> Self {
        Self { tag, value: Value::ByteString(value) }
    }

    /// The items within that have a tag, in their order; none if this is no structure.
    pub fn children(&self, tag: u32) -> impl Iterator<Item = &Item<'a>> {
        let children = match &self.value {
            Value::Structure(children) => children.as_slice(),
            _ => &[],
        };
        children.iter().filter(move |child| child.tag == tag)
    }

    /// The first item within that has a tag.
    pub fn child(&self, tag: u32) -> Option<&Item<'a>> {
        self.children(tag).next()
    }

    /// The number, if it is an integer.
    pub fn as_integer(&self) -> Option<i32> {
        match self.value {
            Value::Integer(value) => Some(value),
            _ => None,
        }
    }

    /// The number, if it is an enumeration.
    pub fn as_enumeration(&self) -> Option<u32> {
        match self.value {
            Value::Enumeration(value) => Some(value),
            _ => None,
        }
    }

    /// The text, if it is a text string.
    pub fn as_text(&self) -> Option<&'a str> {
        match self.value {
            Value::TextString(value) => Some(value),
            _ => None,
        }
    }

    /// The bytes, if it is a byte string.
    pub fn as_bytes(&self) -> Option<&'a [u8]> {
        match self.value {
            Value::ByteString(value) => Some(value),
            _ => None,
        }
    }

    /// The item as TTLV. Refuses what [`Item::decode`] would refuse.
    pub fn encode(&self) -> Result<Vec<u8>, TtlvError> {
        let mut out = Vec::new();
        self.write(&mut out, 0)?;
        if out.len() > MAXIMUM_MESSAGE {
            return Err(TtlvError::TooLong);
        }
        Ok(out)
    }

    /// Appends the item. The length is known only when the value is written, and is put in afterwards.
    fn write(&self, out: &mut Vec<u8>, depth: usize) -> Result<(), TtlvError> {
        let start = out.len();
        let [highest, tag @ ..] = self.tag.to_be_bytes();
        if highest != 0 || !TAG_FAMILIES.contains(&tag[0]) {
            return Err(TtlvError::Tag(self.tag));
        }
        out.extend(tag);
        out.extend([0; HEADER - 3]);
        let kind = self.write_value(out, depth)?;
        let length = u32::try_from(out.len() - start - HEADER).map_err(|_| TtlvError::TooLong)?;
        out[start + HEADER - 5] = kind;
        out[start + HEADER - 4..start + HEADER].copy_from_slice(&length.to_be_bytes());
        out.resize(start + HEADER + padded(out.len() - start - HEADER), 0);
        Ok(())
    }

    /// Appends the value without what fills it up, and answers its type.
    fn write_value(&self, out: &mut Vec<u8>, depth: usize) -> Result<u8, TtlvError> {
        Ok(match &self.value {
            Value::Structure(_) if depth == MAXIMUM_DEPTH => return Err(TtlvError::TooDeep),
            Value::Structure(children) => {
                for child in children {
                    child.write(out, depth + 1)?;
                }
                kind::STRUCTURE
            }
            Value::Integer(value) => append(out, &value.to_be_bytes(), kind::INTEGER),
            Value::LongInteger(value) => append(out, &value.to_be_bytes(), kind::LONG_INTEGER),
            Value::BigInteger(value) if value.is_empty() || value.len() % ALIGNMENT != 0 => {
                return Err(TtlvError::Length { tag: self.tag });
            }
            Value::BigInteger(value) => append(out, value, kind::BIG_INTEGER),
            Value::Enumeration(value) => append(out, &value.to_be_bytes(), kind::ENUMERATION),
            Value::Boolean(value) => append(out, &u64::from(*value).to_be_bytes(), kind::BOOLEAN),
            Value::TextString(value) => append(out, value.as_bytes(), kind::TEXT_STRING),
            Value::ByteString(value) => append(out, value, kind::BYTE_STRING),
            Value::DateTime(value) => append(out, &value.to_be_bytes(), kind::DATE_TIME),
            Value::Interval(value) => append(out, &value.to_be_bytes(), kind::INTERVAL),
        })
    }

    /// Reads one item that is all of `message`.
    pub fn decode(message: &'a [u8]) -> Result<Self, TtlvError> {
        if message.len() > MAXIMUM_MESSAGE {
            return Err(TtlvError::TooLong);
        }
        let mut rest = message;
        let item = Self::read(&mut rest, 0)?;
        if !rest.is_empty() {
            return Err(TtlvError::Trailing);
        }
        Ok(item)
    }

    /// Takes one item from the front of `rest`.
    fn read(rest: &mut &'a [u8], depth: usize) -> Result<Self, TtlvError> {
        let header: [u8; HEADER] =
            *rest.split_off(..HEADER).and_then(|h| h.first_chunk()).ok_or(TtlvError::Truncated)?;
        let (tag, kind, length) = split_header(header)?;
        let value = rest.split_off(..length).ok_or(TtlvError::Truncated)?;
        let padding = rest.split_off(..padded(length) - length).ok_or(TtlvError::Truncated)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(TtlvError::Padding { tag });
        }
        Ok(Self { tag, value: Value::read(tag, kind, value, depth)? })
    }
}

impl<'a> Value<'a> {
    /// Reads a value of a known type from exactly its bytes.
    fn read(tag: u32, kind: u8, bytes: &'a [u8], depth: usize) -> Result<Self, TtlvError> {
        let length = TtlvError::Length { tag };
        let four = || <[u8; 4]>::try_from(bytes).map_err(|_| length);
        let eight = || <[u8; 8]>::try_from(bytes).map_err(|_| length);
        Ok(match kind {
            kind::STRUCTURE => Self::Structure(read_children(tag, bytes, depth)?),
            kind::INTEGER => Self::Integer(i32::from_be_bytes(four()?)),
            kind::LONG_INTEGER => Self::LongInteger(i64::from_be_bytes(eight()?)),
            kind::BIG_INTEGER if bytes.is_empty() || !bytes.len().is_multiple_of(ALIGNMENT) => return Err(length),
            kind::BIG_INTEGER => Self::BigInteger(bytes),
            kind::ENUMERATION => Self::Enumeration(u32::from_be_bytes(four()?)),
            kind::BOOLEAN => Self::Boolean(match u64::from_be_bytes(eight()?) {
                0 => false,
                1 => true,
                _ => return Err(TtlvError::Boolean { tag }),
            }),
            kind::TEXT_STRING => Self::TextString(str::from_utf8(bytes).map_err(|_| TtlvError::Text { tag })?),
            kind::BYTE_STRING => Self::ByteString(bytes),
            kind::DATE_TIME => Self::DateTime(i64::from_be_bytes(eight()?)),
            kind::INTERVAL => Self::Interval(u32::from_be_bytes(four()?)),
            kind => return Err(TtlvError::Type { tag, kind }),
        })
    }
}

/// The length in bytes of the message that begins with `header`, header included: how much to read before
/// [`Item::decode`]. Refuses what is too long before anything is set aside for it.
pub fn message_length(header: [u8; HEADER]) -> Result<usize, TtlvError> {
    let (tag, kind, length) = split_header(header)?;
    if kind != kind::STRUCTURE {
        return Err(TtlvError::Type { tag, kind });
    }
    if !length.is_multiple_of(ALIGNMENT) {
        return Err(TtlvError::Length { tag });
    }
    Ok(HEADER + length)
}

/// Tag, type and length. The length is at most that of a message, so that sums with it don't overflow.
fn split_header(header: [u8; HEADER]) -> Result<(u32, u8, usize), TtlvError> {
    let [family, middle, low, kind, length @ ..] = header;
    let tag = u32::from_be_bytes([0, family, middle, low]);
    if !TAG_FAMILIES.contains(&family) {
        return Err(TtlvError::Tag(tag));
    }
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| TtlvError::TooLong)?;
    if length > MAXIMUM_MESSAGE - HEADER {
        return Err(TtlvError::TooLong);
    }
    Ok((tag, kind, length))
}

/// Reads what lies in a structure.
fn read_children(tag: u32, mut bytes: &[u8], depth: usize) -> Result<Vec<Item<'_>>, TtlvError> {
    if depth == MAXIMUM_DEPTH {
        return Err(TtlvError::TooDeep);
    }
    if !bytes.len().is_multiple_of(ALIGNMENT) {
        return Err(TtlvError::Length { tag });
    }
    let mut children = Vec::new();
    while !bytes.is_empty() {
        children.push(Item::read(&mut bytes, depth + 1)?);
    }
    Ok(children)
}

/// Appends bytes and hands their type on.
fn append(out: &mut Vec<u8>, bytes: &[u8], kind: u8) -> u8 {
    out.extend_from_slice(bytes);
    kind
}

/// The length of a value with what fills it up.
fn padded(length: usize) -> usize {
    length.next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests;
