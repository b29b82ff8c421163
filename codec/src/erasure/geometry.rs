//! k+m, and which code it means.

use crate::field::{DecodeError, Field, Reader};
use crate::limits;

/// How a stripe is coded. Stored in its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// GF(2^8), Cauchy: up to 32 fragments.
    Cauchy = 1,
    /// GF(2^16), `reed-solomon-simd` 3: wider ones.
    Leopard = 2,
}

/// Widest stripe of the narrow code: its work is k times m, and above this that outgrows what its simplicity saves.
const MAX_NARROW: usize = 32;

/// k data and m parity fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Geometry {
    data: u8,
    parity: u8,
}

impl Geometry {
    /// 4+2: survives two losses at half again the space, and fits six devices.
    pub const DEFAULT: Self = Self { data: 4, parity: 2 };

    /// `data` from 1, `parity` from 0 (from 1 above 32 in all), together at most 128.
    pub fn new(data: usize, parity: usize) -> Option<Self> {
        let good = data >= 1 && data.checked_add(parity)? <= limits::MAX_FRAGMENTS;
        // The wide code needs at least one parity fragment to be a code at all.
        let good = good && (parity > 0 || data <= MAX_NARROW);
        good.then_some(Self { data: data as u8, parity: parity as u8 })
    }

    /// Reads `4+2`, exactly as [`Display`](std::fmt::Display) writes it.
    pub fn parse(text: &str) -> Option<Self> {
        let (data, parity) = text.split_once('+')?;
        let geometry = Self::new(data.parse().ok()?, parity.parse().ok()?)?;
        (geometry.to_string() == text).then_some(geometry)
    }

    /// Data fragments.
    pub fn data(self) -> usize {
        usize::from(self.data)
    }
    /// Parity fragments.
    pub fn parity(self) -> usize {
        usize::from(self.parity)
    }
    /// All fragments.
    pub fn total(self) -> usize {
        self.data() + self.parity()
    }
    /// The code of its stripes.
    pub fn code(self) -> Code {
        if self.total() <= MAX_NARROW { Code::Cauchy } else { Code::Leopard }
    }
}

impl std::fmt::Display for Geometry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+{}", self.data, self.parity)
    }
}

impl Field for Geometry {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.data, self.parity, self.code() as u8]);
    }
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let [data, parity, code] = input.array()?;
        let geometry = Self::new(usize::from(data), usize::from(parity));
        geometry.filter(|known| known.code() as u8 == code).ok_or(DecodeError::Invalid { what: "geometry" })
    }
}
