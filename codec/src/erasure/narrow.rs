//! Narrow stripes: systematic Reed-Solomon over GF(2^8) with a Cauchy matrix, up to 32 fragments.
//!
//! Parity is a matrix times the data, and so is every lost fragment: k rows of the identity and the Cauchy matrix, those
//! of the fragments that are left, are invertible whichever they are.

use super::geometry::Geometry;
use super::gf256::Matrix;
use super::kernel::{Kernel, Product};

/// Bytes of each fragment that are coded before the next ones: where a stripe takes more than one pass over its
/// inputs, they are still in the second-level cache at the next one.
const SLICE_BYTES: usize = 32 << 10;

pub(super) struct Narrow {
    data: usize,
    kernel: &'static dyn Kernel,
    /// m rows of k coefficients.
    parity_rows: Matrix,
    /// The same, prepared.
    parity: Box<dyn Product>,
}

impl Narrow {
    pub(super) fn new(geometry: Geometry, kernel: &'static dyn Kernel) -> Self {
        let parity_rows = Matrix::cauchy(geometry.data(), geometry.parity());
        let parity = kernel.prepare(parity_rows.rows());
        Self { data: geometry.data(), kernel, parity_rows, parity }
    }

    pub(super) fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        multiply(&*self.parity, data, parity);
    }

    /// Rebuilds from distinct fragments, at least k of them, all of one length.
    pub(super) fn reconstruct(&self, present: &[(usize, &[u8])], wanted: &mut [(usize, &mut [u8])]) {
        // Data fragments first: each is a row of the identity, which costs the inversion next to nothing.
        let mut present = present.to_vec();
        present.sort_unstable_by_key(|(index, _)| *index);
        present.truncate(self.data);
        let survivors = Matrix::from_rows(present.iter().map(|(index, _)| self.row(*index)));
        let inverse = survivors.inverted().expect("k distinct rows of the identity and a Cauchy matrix are invertible");
        let rows: Vec<Vec<u8>> =
            wanted.iter().map(|(index, _)| inverse.multiplied_from_left(&self.row(*index))).collect();
        let inputs: Vec<&[u8]> = present.iter().map(|(_, slice)| *slice).collect();
        let mut outputs: Vec<&mut [u8]> = wanted.iter_mut().map(|(_, slice)| &mut **slice).collect();
        multiply(&*self.kernel.prepare(&rows), &inputs, &mut outputs);
    }

    /// What a fragment is of the data fragments.
    fn row(&self, index: usize) -> Vec<u8> {
        match index.checked_sub(self.data) {
            None => Matrix::unit_row(self.data, index),
            Some(parity) => self.parity_rows.rows()[parity].clone(),
        }
    }
}

fn multiply(product: &dyn Product, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
    let length = inputs.first().map_or(0, |first| first.len());
    for start in (0..length).step_by(SLICE_BYTES) {
        product.multiply(inputs, outputs, start..(start + SLICE_BYTES).min(length));
    }
}
