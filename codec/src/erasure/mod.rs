//! Erasure coding: k data fragments, m parity fragments, any k of the k+m give back the rest.
//!
//! A stripe's geometry decides its [`Code`], and both are in the header of each of its fragments, because fragments of
//! the one are meaningless to the other.
//!
//! | [`Code`] | byte | stripes | what it is |
//! |---|---|---|---|
//! | `Cauchy` | 1 | k+m up to 32 | Reed-Solomon over GF(2^8), polynomial 0x11D, one matrix product a stripe |
//! | `Leopard` | 2 | k+m from 33 to 128 | `reed-solomon-simd` 3: O(n log n) over GF(2^16) |
//!
//! The narrow code is systematic with a Cauchy matrix (Blömer et al., "An XOR-Based Erasure-Resilient Coding Scheme",
//! 1995), byte-equal with ISA-L's `gf_gen_cauchy1_matrix`: the coefficient of data fragment j in fragment i, a parity
//! one, counted over all fragments, is 1 / (i xor j). For 4+2, in hexadecimal:
//!
//! | | D0 | D1 | D2 | D3 |
//! |---|---|---|---|---|
//! | P4 | 47 | a7 | 7a | ba |
//! | P5 | a7 | 47 | ba | 7a |
//!
//! Deliberately absent: finding out which fragments are wrong. Checksums do that; a code is told which are there.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod geometry;
pub(crate) mod gf256;
#[cfg(target_arch = "x86_64")]
mod gfni;
mod kernel;
mod narrow;
mod scalar;
mod wide;

pub use geometry::{Code, Geometry};
pub use kernel::{Kernel, Product, kernels};

use crate::limits::MAX_FRAGMENTS;
use narrow::Narrow;
use wide::Wide;

/// Why fragments can't be coded or rebuilt. Always the caller's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErasureError {
    /// Fewer than k fragments are present.
    TooFew {
        /// Distinct fragments given.
        present: usize,
        /// Fragments needed.
        needed: usize,
    },
    /// A stripe to encode has another number of fragments than its geometry.
    Count,
    /// Fragments of one stripe have one length, and for wide stripes an even one.
    Lengths,
    /// No such fragment in this geometry, or one named twice: two times present, two times wanted, or both.
    Index(usize),
}

impl std::fmt::Display for ErasureError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooFew { present, needed } => write!(f, "{present} fragments are left, {needed} are needed"),
            Self::Count => f.write_str("the number of fragments is not that of the geometry"),
            Self::Lengths => f.write_str("the fragments' lengths differ, or are odd in a wide stripe"),
            Self::Index(index) => write!(f, "fragment {index} is not in this stripe, or is named twice"),
        }
    }
}

impl std::error::Error for ErasureError {}

/// Codes and rebuilds stripes of one geometry. Encoding allocates nothing after the first stripe.
pub struct Coder {
    geometry: Geometry,
    scheme: Scheme,
}

enum Scheme {
    Narrow(Narrow),
    Wide(Wide),
}

impl Coder {
    /// With the fastest kernel that this machine runs.
    pub fn new(geometry: Geometry) -> Self {
        Self::with_kernel(geometry, kernels()[0])
    }

    /// With a kernel of the caller's choice, for tests and benchmarks. Wide stripes have their library's own.
    pub fn with_kernel(geometry: Geometry, kernel: &'static dyn Kernel) -> Self {
        let scheme = match geometry.code() {
            Code::Cauchy => Scheme::Narrow(Narrow::new(geometry, kernel)),
            Code::Leopard => Scheme::Wide(Wide::new(geometry)),
        };
        Self { geometry, scheme }
    }

    /// What it codes.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Computes all parity fragments of a stripe. `data` holds k slices and `parity` m, all of one length.
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<(), ErasureError> {
        if data.len() != self.geometry.data() || parity.len() != self.geometry.parity() {
            return Err(ErasureError::Count);
        }
        let mut lengths = data.iter().map(|slice| slice.len()).chain(parity.iter().map(|slice| slice.len()));
        if !lengths.all(|length| length == data[0].len()) {
            return Err(ErasureError::Lengths);
        }
        match &self.scheme {
            Scheme::Narrow(narrow) => narrow.encode(data, parity),
            Scheme::Wide(wide) => wide.encode(data, parity)?,
        }
        Ok(())
    }

    /// Rebuilds the `wanted` fragments (data or parity, by index, none of them present) from the `present` ones, at
    /// least k, in any order. All slices have one length, which may be that of a part of the fragments: the same bytes
    /// of each, for wide stripes from a multiple of 64 to another one or to the end.
    pub fn reconstruct(
        &self,
        present: &[(usize, &[u8])],
        wanted: &mut [(usize, &mut [u8])],
    ) -> Result<(), ErasureError> {
        self.check(present, wanted)?;
        match &self.scheme {
            _ if wanted.is_empty() => Ok(()),
            Scheme::Narrow(narrow) => {
                narrow.reconstruct(present, wanted);
                Ok(())
            }
            Scheme::Wide(wide) => wide.reconstruct(present, wanted),
        }
    }

    fn check(&self, present: &[(usize, &[u8])], wanted: &[(usize, &mut [u8])]) -> Result<(), ErasureError> {
        let mut named = [false; MAX_FRAGMENTS];
        for index in present.iter().map(|(index, _)| *index).chain(wanted.iter().map(|(index, _)| *index)) {
            if index >= self.geometry.total() || std::mem::replace(&mut named[index], true) {
                return Err(ErasureError::Index(index));
            }
        }
        if present.len() < self.geometry.data() {
            return Err(ErasureError::TooFew { present: present.len(), needed: self.geometry.data() });
        }
        let mut lengths = present.iter().map(|(_, slice)| slice.len()).chain(wanted.iter().map(|(_, out)| out.len()));
        match lengths.all(|length| length == present[0].1.len()) {
            true => Ok(()),
            false => Err(ErasureError::Lengths),
        }
    }
}
