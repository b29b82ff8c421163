//! Golden vectors of the KMIP specification 1.2, section 9.1.2; every way to be no TTLV; and properties over arbitrary
//! items and arbitrary bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use proptest::prelude::*;

/// The tag of the specification's examples.
const EXAMPLE: u32 = 0x42_0020;

fn from_hex(hex: &str) -> Vec<u8> {
    let digits: String = hex.chars().filter(char::is_ascii_hexdigit).collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn assert_golden(value: Value<'_>, hex: &str) {
    let item = Item { tag: EXAMPLE, value };
    assert_eq!(item.encode().unwrap(), from_hex(hex), "encoding of {item:?}");
    assert_eq!(Item::decode(&from_hex(hex)).unwrap(), item, "decoding of {hex}");
}

#[test]
fn the_specification_s_examples() {
    assert_golden(Value::Integer(8), "42 00 20 | 02 | 00 00 00 04 | 00 00 00 08 00 00 00 00");
    assert_golden(Value::LongInteger(123_456_789_000_000_000), "42 00 20 | 03 | 00 00 00 08 | 01 B6 9B 4B A5 74 92 00");
    assert_golden(
        Value::BigInteger(&1_234_567_890_000_000_000_000_000_000_i128.to_be_bytes()),
        "42 00 20 | 04 | 00 00 00 10 | 00 00 00 00 03 FD 35 EB 6B C2 DF 46 18 08 00 00",
    );
    assert_golden(Value::Enumeration(255), "42 00 20 | 05 | 00 00 00 04 | 00 00 00 FF 00 00 00 00");
    assert_golden(Value::Boolean(true), "42 00 20 | 06 | 00 00 00 08 | 00 00 00 00 00 00 00 01");
    assert_golden(
        Value::TextString("Hello World"),
        "42 00 20 | 07 | 00 00 00 0B | 48 65 6C 6C 6F 20 57 6F 72 6C 64 00 00 00 00 00",
    );
    assert_golden(Value::ByteString(&[1, 2, 3]), "42 00 20 | 08 | 00 00 00 03 | 01 02 03 00 00 00 00 00");
    // Friday, March 14, 2008, 11:56:40 GMT.
    assert_golden(Value::DateTime(1_205_495_800), "42 00 20 | 09 | 00 00 00 08 | 00 00 00 00 47 DA 67 F8");
    // Ten days.
    assert_golden(Value::Interval(864_000), "42 00 20 | 0A | 00 00 00 04 | 00 0D 2F 00 00 00 00 00");
    assert_golden(
        Value::Structure(vec![Item::enumeration(0x42_0004, 254), Item::integer(0x42_0005, 255)]),
        "42 00 20 | 01 | 00 00 00 20 | 42 00 04 | 05 | 00 00 00 04 | 00 00 00 FE 00 00 00 00 \
         | 42 00 05 | 02 | 00 00 00 04 | 00 00 00 FF 00 00 00 00",
    );
}

#[test]
fn what_is_no_ttlv_is_refused_with_the_reason() {
    let tag = EXAMPLE;
    for (hex, error) in [
        ("", TtlvError::Truncated),
        ("420020 02 00000004 00000008", TtlvError::Truncated),
        ("420020 02 00000004 00000008 00000000 00", TtlvError::Trailing),
        ("420020 02 00000004 00000008 00000001", TtlvError::Padding { tag }),
        ("420020 02 00000008 00000008 00000000", TtlvError::Length { tag }),
        ("420020 02 00000000", TtlvError::Length { tag }),
        ("420020 03 00000004 00000008 00000000", TtlvError::Length { tag }),
        ("420020 04 00000000", TtlvError::Length { tag }),
        ("420020 04 00000004 00000008 00000000", TtlvError::Length { tag }),
        ("420020 06 00000008 00000000 00000002", TtlvError::Boolean { tag }),
        ("420020 07 00000002 c3280000 00000000", TtlvError::Text { tag }),
        ("420020 08 00000003 01020300 000000ff", TtlvError::Padding { tag }),
        ("420020 00 00000000", TtlvError::Type { tag, kind: 0 }),
        ("420020 0b 00000008 00000000 00000000", TtlvError::Type { tag, kind: 11 }),
        ("430020 02 00000004 00000008 00000000", TtlvError::Tag(0x43_0020)),
        ("420020 08 ffffffff", TtlvError::TooLong),
        ("420020 01 00000004 00000000 00000000", TtlvError::Length { tag }),
        ("420020 01 00000008 420020 02 00000004 00000000 00000000", TtlvError::Truncated),
    ] {
        assert_eq!(Item::decode(&from_hex(hex)), Err(error), "{hex}");
    }
    assert_eq!(Item::decode(&vec![0; MAXIMUM_MESSAGE + 1]), Err(TtlvError::TooLong));
}

#[test]
fn what_would_be_refused_is_not_written() {
    let whole = vec![7; MAXIMUM_MESSAGE - HEADER];
    assert_eq!(Item::bytes(EXAMPLE, &whole).encode().unwrap().len(), MAXIMUM_MESSAGE);
    let long = vec![7; MAXIMUM_MESSAGE - HEADER + 1];
    assert_eq!(Item::bytes(EXAMPLE, &long).encode(), Err(TtlvError::TooLong));
    assert_eq!(Item::integer(0x41_0020, 1).encode(), Err(TtlvError::Tag(0x41_0020)));
    assert_eq!(Item::integer(0x142_0020, 1).encode(), Err(TtlvError::Tag(0x142_0020)));
    let uneven = Item { tag: EXAMPLE, value: Value::BigInteger(&[1, 2, 3]) };
    assert_eq!(uneven.encode(), Err(TtlvError::Length { tag: EXAMPLE }));
}

#[test]
fn depth_is_bounded_both_ways() {
    let nested =
        |depth: usize| (0..depth).fold(Item::integer(EXAMPLE, 1), |inner, _| Item::structure(EXAMPLE, vec![inner]));
    let deepest = nested(MAXIMUM_DEPTH).encode().unwrap();
    assert_eq!(Item::decode(&deepest).unwrap(), nested(MAXIMUM_DEPTH));
    assert_eq!(nested(MAXIMUM_DEPTH + 1).encode(), Err(TtlvError::TooDeep));
    // As deep as a message can be: structures of which each holds the next and nothing else.
    let levels = MAXIMUM_MESSAGE / HEADER;
    let bottomless: Vec<u8> = (1..=levels)
        .rev()
        .flat_map(|level| {
            let length = u32::try_from((level - 1) * HEADER).unwrap();
            [&[0x42, 0, 0x20, 1][..], &length.to_be_bytes()].concat()
        })
        .collect();
    assert_eq!(Item::decode(&bottomless), Err(TtlvError::TooDeep));
}

#[test]
fn the_header_of_a_message_says_how_much_to_read() {
    let header = |hex: &str| message_length(*from_hex(hex).first_chunk().unwrap());
    assert_eq!(header("42007b 01 00000020"), Ok(40));
    assert_eq!(header("42007b 01 0000fff8"), Ok(MAXIMUM_MESSAGE));
    assert_eq!(header("42007b 01 00010000"), Err(TtlvError::TooLong));
    assert_eq!(header("42007b 01 00000021"), Err(TtlvError::Length { tag: 0x42_007b }));
    assert_eq!(header("42007b 07 00000020"), Err(TtlvError::Type { tag: 0x42_007b, kind: 7 }));
    // What a web server would say.
    assert_eq!(header("48545450 2f312e31"), Err(TtlvError::Tag(0x48_5454)));
}

/// Any item that can be written. What it borrows is leaked, which a test may do.
fn any_item() -> impl Strategy<Value = Item<'static>> {
    let tag = prop_oneof![0x42_0000_u32..=0x42_ffff, 0x54_0000_u32..=0x54_ffff];
    let leaf = prop_oneof![
        any::<i32>().prop_map(Value::Integer),
        any::<i64>().prop_map(Value::LongInteger),
        (1..4_usize, any::<[u8; 24]>())
            .prop_map(|(words, bytes)| Value::BigInteger(Vec::leak(bytes[..words * 8].to_vec()))),
        any::<u32>().prop_map(Value::Enumeration),
        any::<bool>().prop_map(Value::Boolean),
        ".{0,20}".prop_map(|text| Value::TextString(String::leak(text))),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Value::ByteString(Vec::leak(bytes))),
        any::<i64>().prop_map(Value::DateTime),
        any::<u32>().prop_map(Value::Interval),
    ];
    let tagged = (tag.clone(), leaf).prop_map(|(tag, value)| Item { tag, value });
    tagged.prop_recursive(6, 48, 6, move |inner| {
        (tag.clone(), prop::collection::vec(inner, 0..6)).prop_map(|(tag, children)| Item::structure(tag, children))
    })
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(item in any_item()) {
        let bytes = item.encode().unwrap();
        prop_assert_eq!(bytes.len() % ALIGNMENT, 0);
        prop_assert_eq!(Item::decode(&bytes).unwrap(), item);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = Item::decode(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic_and_have_one_form(
        item in any_item(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        shorten in any::<bool>(),
    ) {
        let mut bytes = item.encode().unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if shorten {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(decoded) = Item::decode(&bytes) {
            prop_assert_eq!(decoded.encode().unwrap(), bytes);
        }
    }
}
