//! What a KMIP server says, before anything of it is believed.

use super::Seed;
use farside::kms::ttlv::{HEADER, Item, Value, message_length};

/// One message, whole or not.
pub fn ttlv(bytes: &[u8]) {
    let Ok(item) = Item::decode(bytes) else { return };
    assert_eq!(item.encode().as_deref(), Ok(bytes), "bytes that are an item are its only form");
    if let (Value::Structure(_), Some(header)) = (&item.value, bytes.first_chunk::<HEADER>()) {
        assert_eq!(message_length(*header), Ok(bytes.len()), "whoever reads it knows where it ends");
    }
}

/// Seeds of [`ttlv`].
pub fn ttlv_seeds() -> Vec<Seed> {
    let tag = |low: u32| 0x42_0000 + low;
    let version = Item::structure(tag(0x69), vec![Item::integer(tag(0x6a), 1), Item::integer(tag(0x6b), 2)]);
    let header = Item::structure(tag(0x7a), vec![version, Item::integer(tag(0x0d), 1)]);
    let payload = Item::structure(tag(0x7c), vec![Item::text(tag(0x94), "1"), Item::bytes(tag(0xc6), &[7; 32])]);
    let batch = vec![Item::enumeration(tag(0x5c), 0x23), Item::enumeration(tag(0x7f), 0), payload];
    let answer = Item::structure(tag(0x7b), vec![header, Item::structure(tag(0x0f), batch)]);
    let others = Item::structure(
        tag(1),
        vec![
            Item { tag: tag(2), value: Value::LongInteger(-2) },
            Item { tag: tag(3), value: Value::BigInteger(&[0xff; 8]) },
            Item { tag: tag(4), value: Value::Boolean(true) },
            Item { tag: tag(5), value: Value::DateTime(0x47da_67f8) },
            Item { tag: tag(6), value: Value::Interval(864_000) },
            Item::structure(tag(7), Vec::new()),
        ],
    );
    let encoded = |item: &Item<'_>| item.encode().expect("a seed is encoded");
    vec![("mac", encoded(&answer)), ("types", encoded(&others)), ("empty", Vec::new())]
}
