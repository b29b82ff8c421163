//! Shares of the system key: enough of them give it back, and nothing else does.

use farside_codec::ids::SiteId;
use farside_codec::seal::shares::{MAX_SHARES, SHARE_BYTES, Share, ShareError, combine, split};
use proptest::prelude::*;
use proptest::sample::subsequence;

const SITE: SiteId = SiteId([1; 16]);

/// Bytes that follow from one, for tests alone.
fn stream(seed: u8) -> impl FnMut(&mut [u8]) {
    let mut block = blake3::hash(&[seed]);
    move |bytes| {
        for byte in bytes {
            *byte = block.as_bytes()[0];
            block = blake3::hash(block.as_bytes());
        }
    }
}

fn cut(threshold: u8, shares: u8, seed: u8) -> Vec<Share> {
    split(&[seed; 32], SITE, threshold, shares, [seed; 16], &mut stream(seed)).expect("shares")
}

fn refused(shares: &[Share]) -> ShareError {
    combine(shares).expect_err("they give no key")
}

#[test]
fn golden_vectors() {
    let shares = cut(3, 5, 9);
    assert_eq!(shares[0].to_text(), GOLDEN);
    let bytes = shares[0].to_bytes();
    assert_eq!(bytes[..4], [1, 3, 5, 1]);
    assert_eq!((&bytes[4..20], &bytes[20..36]), (&[1; 16][..], &[9; 16][..]));
    assert_eq!(Share::parse(GOLDEN), Ok(shares[0].clone()));
    assert_eq!(combine(&shares[2..]).map(|(site, key)| (site, *key)), Ok((SITE, [9; 32])));
}
const GOLDEN: &str = "farside-share-1-041ga0-81040g-208104-0g2081-040g20-81144g-j28914-4gj289-144gj2-8914yv-v47qrr-\
                      gjqsjv-dp4p31-16x20s-m2q35r-mq5501-hc0jx7-85bs43-xrjgqp-888pbj-hbrw40-cst886-gz97mz-ha9ha0";

proptest! {
    #[test]
    fn any_threshold_of_the_shares_give_the_key(
        (threshold, chosen, order) in (2..=8_u8, 0..=8_u8).prop_flat_map(|(threshold, more)| {
            let all: Vec<usize> = (0..usize::from(threshold + more)).collect();
            let count = all.len();
            let some = subsequence(all, usize::from(threshold)..=count).prop_shuffle();
            (Just(threshold), some, Just(threshold + more))
        }),
        secret: [u8; 32],
        seed: u8,
    ) {
        let shares = split(&secret, SITE, threshold, order, [seed; 16], &mut stream(seed)).expect("shares");
        let chosen: Vec<Share> = chosen.into_iter().map(|at| shares[at].clone()).collect();
        prop_assert_eq!(combine(&chosen).map(|(site, key)| (site, *key)), Ok((SITE, secret)));
        let few = &chosen[..usize::from(threshold) - 1];
        prop_assert_eq!(combine(few).expect_err("too few"), match few.len() {
            0 => ShareError::TooFew { given: 0, needed: 2 },
            given => ShareError::TooFew { given: given as u8, needed: threshold },
        });
    }

    #[test]
    fn no_bit_of_a_share_may_change(seed: u8, at in 0..SHARE_BYTES * 8) {
        let share = &cut(2, 3, seed)[1];
        let mut bytes = share.to_bytes();
        prop_assert_eq!(Share::from_bytes(&bytes[..]), Ok(share.clone()));
        bytes[at / 8] ^= 1 << (at % 8);
        prop_assert_eq!(Share::from_bytes(&bytes[..]), Err(ShareError::Damaged));
    }

    #[test]
    fn a_text_is_read_however_it_was_typed(seed: u8, breaks in proptest::collection::vec((0..160_usize, "[ \t\n-]"), 0..9)) {
        let share = &cut(2, 3, seed)[0];
        let text = share.to_text();
        let mut typed: Vec<String> = text.chars().map(String::from).collect();
        let begin = "farside-share-1-".len();
        for (at, between) in &breaks {
            let place = typed.get_mut(begin + at % (text.len() - begin)).expect("a letter");
            place.insert_str(0, between);
        }
        let typed = typed.concat();
        // Only a blank line ends a share.
        let lines: Vec<&str> = typed.lines().filter(|line| !line.trim().is_empty()).collect();
        let typed = format!("a heading of farside's\n\n{}\n\nwhat follows", lines.join("\r\n"));
        let confused = text.replace('0', "O").replace('1', "l").replacen('l', "1", 1);
        for text in [typed.to_uppercase(), typed, confused] {
            prop_assert_eq!(Share::parse(&text), Ok(share.clone()));
        }
    }
}

#[test]
fn texts_that_are_no_share() {
    let text = cut(2, 3, 4)[0].to_text();
    let check = |text: &str, error| assert_eq!(Share::parse(text), Err(error), "{text}");
    check("", ShareError::NoShare);
    check("farside-share-", ShareError::NoShare);
    check("farside-share-one-0", ShareError::NoShare);
    check("farside-share-99999-0", ShareError::NoShare);
    check(&text.replace("share-1", "share-2"), ShareError::Version(2));
    check(&text[..text.len() - 1], ShareError::Length { letters: 143 });
    check(&format!("{text}0"), ShareError::Length { letters: 145 });
    check(&format!("{text}u"), ShareError::Letter('u'));
    check(&format!("{text}\u{e9}"), ShareError::Letter('\u{e9}'));
    check(&format!("{text}\n\n{text}"), ShareError::Several);
    let (last, other) = (&text[text.len() - 1..], if text.ends_with('0') { "1" } else { "0" });
    assert_ne!(last, other);
    check(&format!("{}{other}", &text[..text.len() - 1]), ShareError::Damaged);
}

#[test]
fn shares_that_do_not_belong_together() {
    let (shares, others) = (cut(3, 5, 1), cut(3, 5, 2));
    let elsewhere = split(&[1; 32], SiteId([9; 16]), 3, 5, [1; 16], &mut stream(1)).expect("shares");
    let of = |shares: [&Share; 3]| shares.map(Share::clone);
    assert_eq!(refused(&[]), ShareError::TooFew { given: 0, needed: 2 });
    assert_eq!(refused(&shares[..2]), ShareError::TooFew { given: 2, needed: 3 });
    assert_eq!(refused(&of([&shares[0], &shares[1], &shares[0]])), ShareError::Twice { index: 1 });
    assert_eq!(refused(&of([&shares[0], &shares[1], &others[2]])), ShareError::OtherSet);
    assert_eq!(refused(&of([&shares[0], &shares[1], &elsewhere[2]])), ShareError::OtherSite);
    let few = ShareError::TooFew { given: 2, needed: 3 };
    assert_eq!(few.to_string(), "2 of the 3 shares that are needed: 1 missing");
}

/// Who holds a share can make its checksum right again, but not the key's check.
#[test]
fn a_forged_share_gives_no_key() {
    let shares = cut(3, 5, 1);
    let forge = |at: usize| {
        let mut bytes = shares[at].to_bytes();
        bytes[40] ^= 1;
        let checksum = blake3::hash(&bytes[..84]);
        bytes[84..].copy_from_slice(&checksum.as_bytes()[..6]);
        Share::from_bytes(&bytes[..]).expect("a share")
    };
    let mut mixed = shares.clone();
    mixed[1] = forge(1);
    assert_eq!(refused(&mixed), ShareError::WrongSecret);
    mixed.swap(1, 4);
    assert_eq!(refused(&mixed), ShareError::WrongSecret, "beyond the threshold as well");
    assert!(combine(&mixed[..3]).is_ok());
}

#[test]
fn thresholds_that_make_no_sense() {
    for (threshold, shares) in [(0, 0), (0, 3), (1, 1), (1, 3), (4, 3), (2, MAX_SHARES + 1), (255, 255)] {
        let refused = split(&[1; 32], SITE, threshold, shares, [1; 16], &mut stream(1));
        assert_eq!(refused, Err(ShareError::Threshold { threshold, shares }));
    }
    let all = cut(MAX_SHARES, MAX_SHARES, 3);
    assert!(combine(&all).is_ok());
    assert!(!format!("{:?}", all[0]).contains("value"), "a share is not shown");
}
