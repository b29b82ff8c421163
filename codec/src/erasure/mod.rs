//! Erasure coding: k data fragments, m parity fragments, any k of the k+m give back the rest.
//!
//! Two codes. Narrow stripes (up to 32 fragments): Reed-Solomon over GF(2^8), polynomial 0x11D, systematic with a
//! Cauchy matrix (Blömer et al., 1995), byte-equal with ISA-L's `gf_gen_cauchy1_matrix`; coefficient of parity row i
//! (counted from k) and data column j is 1 / (i + j) in the field. Wide stripes: the `reed-solomon-simd` crate's
//! O(n log n) code over GF(2^16). The two are not interchangeable, so a stripe's header says its [`Code`].

mod avx2;
mod geometry;
mod gf256;
mod gfni;
mod kernel;

pub use geometry::{Code, Geometry};
pub use kernel::{Kernel, kernels};

use gf256::Matrix;

/// Why fragments can't be rebuilt. Always the caller's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErasureError {
    /// Fewer than k fragments are present.
    TooFew {
        /// Distinct fragments given.
        present: usize,
        /// Fragments needed.
        needed: usize,
    },
    /// Fragments of one stripe have one length, and for wide stripes an even one.
    Lengths,
    /// No such fragment in this geometry, or one named twice.
    Index(usize),
}

impl std::fmt::Display for ErasureError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooFew { present, needed } => write!(f, "{present} fragments are left, {needed} are needed"),
            Self::Lengths => f.write_str("the fragments' lengths differ"),
            Self::Index(index) => write!(f, "fragment {index} is not in this stripe, or is named twice"),
        }
    }
}

impl std::error::Error for ErasureError {}

/// Bytes of each fragment coded before the next ones: the slices of a stripe then stay in the second-level cache.
const SLICE_BYTES: usize = 32 << 10;

/// Codes and rebuilds stripes of one geometry.
pub struct Coder {
    geometry: Geometry,
    kernel: &'static dyn Kernel,
    /// m rows of k coefficients; empty for wide stripes.
    parity_rows: Matrix,
}

impl Coder {
    /// With the fastest kernel that this machine runs.
    pub fn new(geometry: Geometry) -> Self {
        Self::with_kernel(geometry, kernels()[0])
    }

    /// With a kernel of the caller's choice, for tests and benchmarks.
    pub fn with_kernel(geometry: Geometry, kernel: &'static dyn Kernel) -> Self {
        let parity_rows = match geometry.code() {
            Code::Cauchy => Matrix::cauchy(geometry.data(), geometry.parity()),
            Code::Leopard => Matrix::default(),
        };
        Self { geometry, kernel, parity_rows }
    }

    /// What it codes.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Computes all parity fragments of a stripe. `data` holds k slices and `parity` m, all of one length.
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<(), ErasureError> {
        let length = data.first().map_or(0, |first| first.len());
        let lengths =
            data.iter().all(|slice| slice.len() == length) && parity.iter().all(|slice| slice.len() == length);
        if data.len() != self.geometry.data() || parity.len() != self.geometry.parity() || !lengths {
            return Err(ErasureError::Lengths);
        }
        match self.geometry.code() {
            _ if parity.is_empty() => Ok(()),
            Code::Cauchy => {
                self.apply(&self.parity_rows, data, parity);
                Ok(())
            }
            Code::Leopard => {
                let computed = reed_solomon_simd::encode(self.geometry.data(), self.geometry.parity(), data)
                    .map_err(|_| ErasureError::Lengths)?;
                parity.iter_mut().zip(computed).for_each(|(out, computed)| out.copy_from_slice(&computed));
                Ok(())
            }
        }
    }

    /// Rebuilds the `wanted` fragments (data or parity, by index) from at least k `present` ones.
    pub fn reconstruct(
        &self,
        present: &[(usize, &[u8])],
        wanted: &mut [(usize, &mut [u8])],
    ) -> Result<(), ErasureError> {
        self.check(present, wanted)?;
        match self.geometry.code() {
            _ if wanted.is_empty() => Ok(()),
            Code::Cauchy => self.reconstruct_cauchy(&present[..self.geometry.data()], wanted),
            Code::Leopard => self.reconstruct_leopard(present, wanted),
        }
    }

    fn check(&self, present: &[(usize, &[u8])], wanted: &[(usize, &mut [u8])]) -> Result<(), ErasureError> {
        let mut seen = [false; crate::limits::MAX_FRAGMENTS];
        for index in present.iter().map(|(index, _)| *index).chain(wanted.iter().map(|(index, _)| *index)) {
            if index >= self.geometry.total() || std::mem::replace(&mut seen[index], true) {
                return Err(ErasureError::Index(index));
            }
        }
        if present.len() < self.geometry.data() {
            return Err(ErasureError::TooFew { present: present.len(), needed: self.geometry.data() });
        }
        let length = present[0].1.len();
        let equal = present.iter().all(|(_, slice)| slice.len() == length);
        match equal && wanted.iter().all(|(_, slice)| slice.len() == length) {
            true => Ok(()),
            false => Err(ErasureError::Lengths),
        }
    }

    fn reconstruct_cauchy(
        &self,
        present: &[(usize, &[u8])],
        wanted: &mut [(usize, &mut [u8])],
    ) -> Result<(), ErasureError> {
        let data = self.geometry.data();
        let row = |index: usize| match index < data {
            true => Matrix::identity_row(data, index),
            false => self.parity_rows.row(index - data).to_vec(),
        };
        let survivors = Matrix::from_rows(present.iter().map(|(index, _)| row(*index)));
        // Every square part of a Cauchy matrix extended by the identity is invertible, so this never fails for k
        // distinct rows.
        let inverse = survivors.inverted().ok_or(ErasureError::TooFew { present: present.len(), needed: data })?;
        let rows = Matrix::from_rows(wanted.iter().map(|(index, _)| inverse.multiply_row(&row(*index))));
        let inputs: Vec<&[u8]> = present.iter().map(|(_, slice)| *slice).collect();
        let mut outputs: Vec<&mut [u8]> = wanted.iter_mut().map(|(_, slice)| &mut **slice).collect();
        self.apply(&rows, &inputs, &mut outputs);
        Ok(())
    }

    /// outputs = rows · inputs, a cache-sized slice at a time.
    fn apply(&self, rows: &Matrix, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
        let length = inputs.first().map_or(0, |first| first.len());
        let tables = self.kernel.prepare(rows.coefficients());
        let mut from = 0;
        while from < length {
            let to = (from + SLICE_BYTES).min(length);
            let inputs: Vec<&[u8]> = inputs.iter().map(|slice| &slice[from..to]).collect();
            let mut outputs: Vec<&mut [u8]> = outputs.iter_mut().map(|slice| &mut slice[from..to]).collect();
            self.kernel.multiply(&tables, &inputs, &mut outputs);
            from = to;
        }
    }

    fn reconstruct_leopard(
        &self,
        present: &[(usize, &[u8])],
        wanted: &mut [(usize, &mut [u8])],
    ) -> Result<(), ErasureError> {
        let (data, parity) = (self.geometry.data(), self.geometry.parity());
        let originals = present.iter().filter(|(index, _)| *index < data).map(|(index, slice)| (*index, *slice));
        let recovery = present.iter().filter(|(index, _)| *index >= data).map(|(index, slice)| (index - data, *slice));
        let restored =
            reed_solomon_simd::decode(data, parity, originals, recovery).map_err(|_| ErasureError::Lengths)?;
        let find = |index: usize| -> Option<&[u8]> {
            let held = present.iter().find(|(at, _)| *at == index).map(|(_, slice)| *slice);
            held.or_else(|| restored.get(&index).map(Vec::as_slice))
        };
        // Parity is rebuilt by coding again, which needs all of the data.
        let again = match wanted.iter().any(|(index, _)| *index >= data) {
            false => Vec::new(),
            true => {
                let all: Option<Vec<&[u8]>> = (0..data).map(find).collect();
                let all = all.ok_or(ErasureError::TooFew { present: present.len(), needed: data })?;
                reed_solomon_simd::encode(data, parity, all).map_err(|_| ErasureError::Lengths)?
            }
        };
        for (index, out) in wanted.iter_mut() {
            let found = if *index < data { find(*index) } else { again.get(*index - data).map(Vec::as_slice) };
            out.copy_from_slice(found.ok_or(ErasureError::Index(*index))?);
        }
        Ok(())
    }
}
