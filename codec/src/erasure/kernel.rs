//! The inner loop: a small matrix over GF(2^8) times slices of bytes, once per instruction set.
//!
//! A [`Kernel`] turns a matrix into a [`Product`], which holds the coefficients in the form and order that its loop
//! wants. Which kernels a machine runs is found out once. The scalar one always runs, and is what all others are
//! tested against.

use std::ops::Range;
use std::sync::OnceLock;

/// One way to multiply.
pub trait Kernel: Sync {
    /// For benchmarks and status.
    fn name(&self) -> &'static str;
    /// Prepares the multiplication by a matrix, given as its rows: one an output, in each a coefficient an input.
    fn prepare(&self, rows: &[Vec<u8>]) -> Box<dyn Product>;
}

/// A matrix, ready to be multiplied with.
pub trait Product: Send + Sync {
    /// In the bytes of `range`: outputs = matrix · inputs. As many outputs as the matrix has rows, as many inputs as
    /// it has columns, and `range` inside all of them.
    fn multiply(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]], range: Range<usize>);
}

/// The kernels that this machine runs, fastest first; the last one is the scalar one.
pub fn kernels() -> &'static [&'static dyn Kernel] {
    static FOUND: OnceLock<Vec<&'static dyn Kernel>> = OnceLock::new();
    FOUND.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        let vector = [super::gfni::detect(), super::avx2::detect()];
        #[cfg(not(target_arch = "x86_64"))]
        let vector: [Option<&'static dyn Kernel>; 0] = [];
        vector.into_iter().flatten().chain([super::scalar::KERNEL]).collect()
    })
}

/// Rows and columns of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    rows: usize,
    columns: usize,
}

impl Shape {
    pub(super) fn of(rows: &[Vec<u8>]) -> Self {
        let columns = rows.first().map_or(0, Vec::len);
        assert!(rows.iter().all(|row| row.len() == columns && columns > 0), "the rows of a matrix have one length");
        Self { rows: rows.len(), columns }
    }

    /// Asserts what [`Product::multiply`] asks for. Loops with raw pointers rely on it.
    pub(super) fn check(self, inputs: &[&[u8]], outputs: &[&mut [u8]], range: &Range<usize>) {
        // A matrix without rows, that of a stripe without parity, has no columns either.
        let fits = outputs.len() == self.rows && (inputs.len() == self.columns || self.rows == 0);
        assert!(fits, "slices fit the matrix");
        let inside = |length: usize| range.start <= range.end && range.end <= length;
        assert!(inputs.iter().all(|slice| inside(slice.len())), "the range is inside all inputs");
        assert!(outputs.iter().all(|slice| inside(slice.len())), "the range is inside all outputs");
    }
}

/// A matrix in the order in which a vector loop reads it: blocks of up to `width` outputs that are computed together,
/// in a block one input after the other, for an input the coefficients of the block's outputs.
pub(super) struct Blocks<T> {
    shape: Shape,
    width: usize,
    entries: Vec<T>,
}

impl<T> Blocks<T> {
    pub(super) fn new(rows: &[Vec<u8>], width: usize, entry: impl Fn(u8) -> T) -> Self {
        let shape = Shape::of(rows);
        let mut entries = Vec::with_capacity(shape.rows * shape.columns);
        for block in rows.chunks(width) {
            for column in 0..shape.columns {
                entries.extend(block.iter().map(|row| entry(row[column])));
            }
        }
        Self { shape, width, entries }
    }

    /// Runs `block` for each block of outputs with its coefficients, after [`Shape::check`].
    pub(super) fn for_each(
        &self,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        range: &Range<usize>,
        mut block: impl FnMut(&[T], &mut [&mut [u8]]),
    ) {
        self.shape.check(inputs, outputs, range);
        let entries = self.entries.chunks((self.width * self.shape.columns).max(1));
        outputs.chunks_mut(self.width).zip(entries).for_each(|(outputs, entries)| block(entries, outputs));
    }
}
