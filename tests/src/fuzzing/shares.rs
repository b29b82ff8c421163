//! Shares of the system key: as people type them, and as they come together.

use super::Seed;
use super::feed::Feed;
use farside_codec::ids::SiteId;
use farside_codec::seal::shares::{SECRET_BYTES, SHARE_BYTES, Share, ShareError, combine, split};

/// What the first byte says of the rest: a text, or choices.
const TEXT: u8 = b't';

/// A text in which a share may be, or a key that is cut and put together again out of what the bytes say.
pub fn share(bytes: &[u8]) {
    match bytes.split_first() {
        Some((&TEXT, text)) => typed(text),
        Some((_, choices)) => cut(&mut Feed::new(choices)),
        None => {}
    }
}

fn typed(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match Share::parse(&text) {
        Ok(share) => {
            assert_eq!(Share::parse(&share.to_text()).as_ref(), Ok(&share));
            assert_eq!(Share::from_bytes(&share.to_bytes()[..]).as_ref(), Ok(&share));
            assert!((1..=share.shares()).contains(&share.index()) && share.threshold() <= share.shares());
            assert!(combine(&[share]).is_err(), "one share is never enough");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Ok(share) = Share::from_bytes(&bytes[..bytes.len().min(SHARE_BYTES)]) {
        assert_eq!(Share::parse(&share.to_text()), Ok(share));
    }
}

fn cut(feed: &mut Feed) {
    let (threshold, shares, byte) = (feed.byte() % 8, feed.byte() % 10, feed.byte());
    let (secret, site) = ([feed.byte(); SECRET_BYTES], SiteId([feed.byte(); 16]));
    let (at, change) = (feed.below(SHARE_BYTES), feed.byte().max(1));
    let mut next = byte;
    let mut random = |bytes: &mut [u8]| {
        for byte in bytes {
            next = next.wrapping_mul(29).wrapping_add(57);
            *byte = next;
        }
    };
    let made = match split(&secret, site, threshold, shares, [byte; 16], &mut random) {
        Ok(made) => made,
        Err(error) => {
            assert!(threshold < 2 || threshold > shares, "{error}");
            return;
        }
    };
    let mut chosen: Vec<Share> = Vec::new();
    while !feed.is_empty() && chosen.len() < made.len() {
        chosen.push(made[feed.below(made.len())].clone());
    }
    let is_twice = (0..chosen.len()).any(|at| chosen[..at].contains(&chosen[at]));
    match combine(&chosen) {
        Ok((of, key)) => {
            assert!(!is_twice && chosen.len() >= usize::from(threshold));
            assert_eq!((of, *key), (site, secret));
        }
        Err(ShareError::Twice { .. }) => assert!(is_twice),
        Err(error) => {
            let given = chosen.len() as u8;
            let needed = if given == 0 { 2 } else { threshold };
            assert_eq!(error, ShareError::TooFew { given, needed });
            assert!(!is_twice && given < threshold);
        }
    }
    let mut bytes = made[0].to_bytes();
    bytes[at] ^= change;
    assert_eq!(Share::from_bytes(&bytes[..]), Err(ShareError::Damaged), "byte {at} may change");
}

/// Seeds of [`share`].
pub fn share_seeds() -> Vec<Seed> {
    let made = split(&[7; SECRET_BYTES], SiteId([1; 16]), 2, 3, [9; 16], &mut |bytes| bytes.fill(5)).expect("shares");
    let text = made[1].to_text();
    let of = |text: &str| [&[TEXT], text.as_bytes()].concat();
    vec![
        ("line", of(&text)),
        (
            "letter",
            of(&format!(
                "Share 2 of 3\n\n{}\n\nKeep it.",
                text.to_uppercase().replace('-', " - ").replacen(" - ", "-", 3)
            )),
        ),
        ("wrapped", of(&text.replace("-0", "\r\n0"))),
        ("two", of(&format!("{text}\n{text}"))),
        ("later-version", of(&text.replace("share-1", "share-2"))),
        ("binary", [&[TEXT], &made[0].to_bytes()[..]].concat()),
        ("three-of-five", vec![0, 3, 5, 1, 2, 3, 40, 1, 4, 2, 0]),
        ("too-few", vec![0, 4, 6, 1, 2, 3, 84, 9, 5, 2]),
        ("twice", vec![0, 2, 2, 1, 2, 3, 0, 1, 1, 1]),
    ]
}
