//! The system key in shares: any `threshold` of them give it back, fewer say nothing about it (Shamir, "How to Share a
//! Secret", 1979), byte by byte over the field of erasure coding.
//!
//! A share is 90 bytes, so that its text is 144 letters with none left over: two bits more or less in a letter would be two
//! texts of one share. Each carries a check of the key, so that shares that don't belong together give an error instead of
//! a wrong key. The check is a MAC under a key of 256 random bits: it tells nobody more than whether a key that he has found
//! elsewhere is this one. The checksum guards against slips of the pen, the check against people.
//!
//! Deliberately absent: finding out which of several shares was forged. Whoever holds `threshold` others leaves it out.

use crate::erasure::gf256;
use crate::ids::SiteId;
use aws_lc_rs::{constant_time, hmac};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of what is shared out.
pub const SECRET_BYTES: usize = 32;
/// Fewest shares that give the secret back: with one, every share would be the secret.
pub const MIN_THRESHOLD: u8 = 2;
/// Most shares of an export: more people than that keep no secret.
pub const MAX_SHARES: u8 = 32;
/// Bytes of a share.
pub const SHARE_BYTES: usize = 90;

const VERSION: u8 = 1;
/// What the text of every share begins with, whatever its version.
const PREFIX: &str = "farside-share-";
/// Crockford's: no letter is taken for another one, and none makes a word.
const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Letters of a share: five bits each.
const TEXT_LETTERS: usize = SHARE_BYTES * 8 / 5;
/// Letters between two hyphens: as many as one reads at a glance.
const GROUP_LETTERS: usize = 6;
const CHECKSUM_BYTES: usize = 6;

const _: () = assert!(SHARE_BYTES * 8 == TEXT_LETTERS * 5 && TEXT_LETTERS.is_multiple_of(GROUP_LETTERS));
const _: () = assert!(size_of::<Layout>() == SHARE_BYTES);

/// Why shares give no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareError {
    /// The text holds no share.
    NoShare,
    /// The text holds more than one share.
    Several,
    /// It was made by a version that this build doesn't know.
    Version(u16),
    /// It has too few letters, or too many.
    Length {
        /// Letters that there are.
        letters: usize,
    },
    /// A letter that is in no share.
    Letter(char),
    /// Its checksum does not match: a letter is wrong, or two are swapped.
    Damaged,
    /// It is another site's than the share before it.
    OtherSite,
    /// It was made in another export than the share before it.
    OtherSet,
    /// A share is given twice.
    Twice {
        /// Its number.
        index: u8,
    },
    /// There are too few.
    TooFew {
        /// Shares that there are.
        given: u8,
        /// Shares that are needed.
        needed: u8,
    },
    /// They do not give the key that was shared out: one of them was forged.
    WrongSecret,
    /// No secret can be shared out like that.
    Threshold {
        /// Shares that would have to come together.
        threshold: u8,
        /// Shares in all.
        shares: u8,
    },
}

impl std::fmt::Display for ShareError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoShare => write!(f, "there is no share in it: one begins with {PREFIX}{VERSION}-"),
            Self::Several => f.write_str("there is more than one share in it"),
            Self::Version(version) => write!(f, "the share is of version {version}, which this build does not read"),
            Self::Length { letters } => {
                write!(f, "the share is damaged: it has {letters} letters where there should be {TEXT_LETTERS}")
            }
            Self::Letter(letter) => {
                write!(f, "the share is damaged: no share has the letter {}", letter.escape_default())
            }
            Self::Damaged => {
                f.write_str("the share is damaged: its checksum does not match, so a letter of it is wrong")
            }
            Self::OtherSite => f.write_str("the shares are of different sites"),
            Self::OtherSet => f.write_str("the shares are of different exports: only those made together fit together"),
            Self::Twice { index } => write!(f, "share {index} is given twice"),
            Self::TooFew { given, needed } => {
                let missing = needed.saturating_sub(*given);
                write!(f, "{given} of the {needed} shares that are needed: {missing} missing")
            }
            Self::WrongSecret => {
                f.write_str("the shares do not give the key that was exported: one of them was forged")
            }
            Self::Threshold { threshold, shares } => write!(
                f,
                "a key can't be cut into {shares} shares of which {threshold} give it back: {MIN_THRESHOLD} to \
                 {MAX_SHARES} shares, and a threshold from {MIN_THRESHOLD} to their number"
            ),
        }
    }
}

impl std::error::Error for ShareError {}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
#[repr(C)]
struct Layout {
    version: u8,
    threshold: u8,
    shares: u8,
    index: u8,
    site: [u8; 16],
    set: [u8; 16],
    value: [u8; SECRET_BYTES],
    check: [u8; 16],
    checksum: [u8; CHECKSUM_BYTES],
}

impl Layout {
    fn own_checksum(&self) -> [u8; CHECKSUM_BYTES] {
        let hash = blake3::hash(&self.as_bytes()[..SHARE_BYTES - CHECKSUM_BYTES]);
        std::array::from_fn(|at| hash.as_bytes()[at])
    }

    /// Whether its numbers are those of a share that somebody could have made.
    fn is_possible(&self) -> bool {
        may_be_cut(self.threshold, self.shares) && (1..=self.shares).contains(&self.index)
    }
}

fn may_be_cut(threshold: u8, shares: u8) -> bool {
    (MIN_THRESHOLD..=shares).contains(&threshold) && shares <= MAX_SHARES
}

/// One share. It is a secret: `Debug` shows none of it, and it is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Share(Layout);

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Share({} of {}, site {})", self.index(), self.shares(), self.site())
    }
}

impl Share {
    /// The site whose key it is of.
    pub fn site(&self) -> SiteId {
        SiteId(self.0.site)
    }
    /// The export that it was made in: all shares of one have the same.
    pub fn set(&self) -> [u8; 16] {
        self.0.set
    }
    /// What [`check_of`] gives for the key.
    pub fn check(&self) -> [u8; 16] {
        self.0.check
    }
    /// How many shares give the key back.
    pub fn threshold(&self) -> u8 {
        self.0.threshold
    }
    /// How many were made.
    pub fn shares(&self) -> u8 {
        self.0.shares
    }
    /// Which one it is, from 1.
    pub fn index(&self) -> u8 {
        self.0.index
    }

    /// Reads the 90 bytes of DISK.md's table.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ShareError> {
        let layout = Layout::read_from_bytes(bytes).map_err(|_| ShareError::Length { letters: bytes.len() * 8 / 5 })?;
        if layout.own_checksum() != layout.checksum {
            return Err(ShareError::Damaged);
        }
        match layout.version {
            VERSION if layout.is_possible() => Ok(Self(layout)),
            VERSION => Err(ShareError::Damaged),
            other => Err(ShareError::Version(u16::from(other))),
        }
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Zeroizing<[u8; SHARE_BYTES]> {
        let mut bytes = Zeroizing::new([0; SHARE_BYTES]);
        bytes.copy_from_slice(self.0.as_bytes());
        bytes
    }

    /// Finds the one share that `text` holds. Capitals, hyphens, spaces and line breaks within it don't matter, nor does what
    /// stands before it, or behind a blank line after it; O is read as 0, and I and L as 1.
    pub fn parse(text: &str) -> Result<Self, ShareError> {
        let text = Zeroizing::new(text.to_ascii_lowercase());
        let mut found = text.match_indices(PREFIX);
        let (at, _) = found.next().ok_or(ShareError::NoShare)?;
        if found.next().is_some() {
            return Err(ShareError::Several);
        }
        let (version, letters) = text[at + PREFIX.len()..].split_once('-').ok_or(ShareError::NoShare)?;
        let version: u16 = version.trim().parse().map_err(|_| ShareError::NoShare)?;
        if version != u16::from(VERSION) {
            return Err(ShareError::Version(version));
        }
        Self::from_bytes(&bytes_of(letters)?[..])
    }

    /// One line that people can print, read aloud and type.
    pub fn to_text(&self) -> String {
        let mut text = format!("{PREFIX}{VERSION}");
        let bytes = self.to_bytes();
        let bit = |at: usize| usize::from(bytes[at / 8] >> (7 - at % 8) & 1);
        for letter in 0..TEXT_LETTERS {
            if letter % GROUP_LETTERS == 0 {
                text.push('-');
            }
            let value = (0..5).fold(0, |value, place| value << 1 | bit(letter * 5 + place));
            text.push(char::from(LETTERS[value]));
        }
        text
    }
}

/// The bytes that the letters of a share stand for.
fn bytes_of(letters: &str) -> Result<Zeroizing<[u8; SHARE_BYTES]>, ShareError> {
    let lines = letters.lines().skip_while(|line| line.trim().is_empty()).take_while(|line| !line.trim().is_empty());
    let mut bytes = Zeroizing::new([0; SHARE_BYTES]);
    let mut count = 0;
    for letter in lines.flat_map(str::chars).filter(|letter| !letter.is_whitespace() && *letter != '-') {
        let letter = match letter {
            'o' => '0',
            'i' | 'l' => '1',
            other => other,
        };
        let value = LETTERS.iter().position(|known| char::from(*known) == letter).ok_or(ShareError::Letter(letter))?;
        for place in (0..5).filter(|_| count < TEXT_LETTERS) {
            let bit = count * 5 + place;
            bytes[bit / 8] |= ((value >> (4 - place) & 1) as u8) << (7 - bit % 8);
        }
        count += 1;
    }
    match count {
        TEXT_LETTERS => Ok(bytes),
        letters => Err(ShareError::Length { letters }),
    }
}

/// What tells one key from another, within one export: HMAC-SHA256 under the key, cut to 128 bits.
pub fn check_of(secret: &[u8; SECRET_BYTES], site: SiteId, set: &[u8; 16]) -> [u8; 16] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, &[&b"farside system key share check v1"[..], &site.0, set].concat());
    std::array::from_fn(|at| tag.as_ref()[at])
}

/// Cuts the system key of `site` into `shares` shares, any `threshold` of which give it back. `set` is drawn at random for
/// each export; `random` fills what it is given with bytes that nobody can foresee.
pub fn split(
    secret: &[u8; SECRET_BYTES],
    site: SiteId,
    threshold: u8,
    shares: u8,
    set: [u8; 16],
    random: &mut dyn FnMut(&mut [u8]),
) -> Result<Vec<Share>, ShareError> {
    if !may_be_cut(threshold, shares) {
        return Err(ShareError::Threshold { threshold, shares });
    }
    // Coefficients of the polynomials, one a byte of the secret, from the highest power down to the first.
    let mut coefficients = Zeroizing::new(vec![[0; SECRET_BYTES]; usize::from(threshold) - 1]);
    coefficients.iter_mut().for_each(|powers| random(powers));
    let check = check_of(secret, site, &set);
    let share = |index: u8| {
        let value = value_at(index, secret, &coefficients);
        let mut layout = Layout {
            version: VERSION,
            threshold,
            shares,
            index,
            site: site.0,
            set,
            value: *value,
            check,
            checksum: [0; CHECKSUM_BYTES],
        };
        layout.checksum = layout.own_checksum();
        Share(layout)
    };
    Ok((1..=shares).map(share).collect())
}

/// The polynomials at `at`, by Horner's rule; the secret is what they are at 0.
fn value_at(at: u8, secret: &[u8; SECRET_BYTES], coefficients: &[[u8; SECRET_BYTES]]) -> Zeroizing<[u8; SECRET_BYTES]> {
    let mut value = Zeroizing::new([0; SECRET_BYTES]);
    for powers in coefficients.iter().chain([secret]) {
        let next = value.iter_mut().zip(powers);
        next.for_each(|(value, power)| *value = gf256::multiply_secret(*value, at) ^ power);
    }
    value
}

/// The polynomials through these shares at `at`, by Lagrange's formula. Numbers of shares are no secret.
fn interpolate(shares: &[Share], at: u8) -> Zeroizing<[u8; SECRET_BYTES]> {
    let mut sum = Zeroizing::new([0; SECRET_BYTES]);
    for share in shares {
        let others = shares.iter().map(Share::index).filter(|other| *other != share.index());
        let weight = others.fold(1, |weight, other| {
            let quotient = gf256::multiply(at ^ other, gf256::inverse(share.index() ^ other));
            gf256::multiply(weight, quotient)
        });
        let add = sum.iter_mut().zip(&share.0.value);
        add.for_each(|(sum, value)| *sum ^= gf256::multiply_secret(*value, weight));
    }
    sum
}

/// The system key out of its shares, and the site whose it is. What is given beyond the threshold must fit as well.
pub fn combine(shares: &[Share]) -> Result<(SiteId, Zeroizing<[u8; SECRET_BYTES]>), ShareError> {
    let first = shares.first().ok_or(ShareError::TooFew { given: 0, needed: MIN_THRESHOLD })?;
    for (at, share) in shares.iter().enumerate() {
        if share.site() != first.site() {
            return Err(ShareError::OtherSite);
        }
        let header = |share: &Share| (share.0.set, share.0.threshold, share.0.shares, share.0.check);
        if header(share) != header(first) {
            return Err(ShareError::OtherSet);
        }
        if shares[..at].iter().any(|before| before.index() == share.index()) {
            return Err(ShareError::Twice { index: share.index() });
        }
    }
    // No number stands twice among them, so there are 32 at most.
    let (given, needed) = (shares.len() as u8, first.threshold());
    let Some((enough, more)) = shares.split_at_checked(usize::from(needed)) else {
        return Err(ShareError::TooFew { given, needed });
    };
    let secret = interpolate(enough, 0);
    let check = check_of(&secret, first.site(), &first.set());
    let is_right = constant_time::verify_slices_are_equal(&check, &first.0.check).is_ok();
    let fits = |share: &Share| *interpolate(enough, share.index()) == share.0.value;
    match is_right && more.iter().all(fits) {
        true => Ok((first.site(), secret)),
        false => Err(ShareError::WrongSecret),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With one share too few, every secret is as possible as any other: each makes the missing share another one.
    #[test]
    fn one_share_too_few_says_nothing() {
        let mut next = 0_u8;
        let mut random = |bytes: &mut [u8]| {
            bytes.iter_mut().for_each(|byte| {
                next = next.wrapping_mul(29).wrapping_add(57);
                *byte = next;
            });
        };
        for threshold in 2..=5 {
            let shares = split(&[7; 32], SiteId([1; 16]), threshold, 6, [2; 16], &mut random).expect("shares");
            let (held, missing) = (&shares[..usize::from(threshold) - 1], &shares[usize::from(threshold) - 1]);
            let mut seen = vec![[false; 256]; SECRET_BYTES];
            for guess in 0..=255 {
                // A secret is a share as any other, of number 0.
                let mut supposed = Share(held[0].0.clone());
                (supposed.0.index, supposed.0.value) = (0, [guess; SECRET_BYTES]);
                let points = [held, &[supposed]].concat();
                let value = interpolate(&points, missing.index());
                seen.iter_mut().zip(&value[..]).for_each(|(seen, value)| seen[usize::from(*value)] = true);
            }
            assert!(seen.iter().flatten().all(|seen| *seen), "threshold {threshold}");
        }
    }
}
