//! What a corpus is turned into on stable: the coarse changes that a fuzzer begins with, all from one seed.

use farside_io::sim::histories::Dice;

/// Inputs that grow past this say nothing new.
const MOST_BYTES: usize = 8 << 10;

/// One of `corpus`, changed in up to four places.
pub fn mutated(dice: &Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = dice.pick(corpus);
    for _ in 0..dice.between(1, 4) {
        change(dice, &mut bytes, corpus);
    }
    bytes.truncate(MOST_BYTES);
    bytes
}

fn change(dice: &Dice, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = dice.below(bytes.len() as u64) as usize;
    if bytes.is_empty() {
        return bytes.push(dice.below(256) as u8);
    }
    match dice.below(8) {
        0 => bytes[at] ^= 1 << dice.below(8),
        1 => bytes[at] = dice.pick(&[0, 1, 2, 0x7f, 0x80, 0xfe, 0xff]),
        2 => bytes[at] = dice.below(256) as u8,
        3 => bytes.truncate(at),
        4 => bytes.insert(at, dice.below(256) as u8),
        5 => drop(bytes.remove(at)),
        6 => {
            // A length, most likely.
            let number = dice.pick(&[0u32, 1, 255, 4096, 65_536, 4 << 20, u32::MAX]);
            let end = (at + 4).min(bytes.len());
            bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
        }
        _ => {
            let other = dice.pick(corpus);
            let from = dice.below(other.len() as u64) as usize;
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from.min(other.len())..]);
        }
    }
}
