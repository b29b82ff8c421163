//! One look-up in a table of 256 products a byte: what every machine has, and the reference for the other kernels.

use super::gf256;
use super::kernel::{Kernel, Product, Shape};
use std::ops::Range;

pub(super) static KERNEL: &dyn Kernel = &Scalar;

struct Scalar;

impl Kernel for Scalar {
    fn name(&self) -> &'static str {
        "scalar"
    }
    fn prepare(&self, rows: &[Vec<u8>]) -> Box<dyn Product> {
        let products = |coefficient: &u8| std::array::from_fn(|byte| gf256::multiply(*coefficient, byte as u8));
        let tables = rows.iter().map(|row| row.iter().map(products).collect()).collect();
        Box::new(Tables { shape: Shape::of(rows), tables })
    }
}

/// For each output and input, what each byte is multiplied to.
struct Tables {
    shape: Shape,
    tables: Vec<Vec<[u8; 256]>>,
}

impl Product for Tables {
    fn multiply(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]], range: Range<usize>) {
        self.shape.check(inputs, outputs, &range);
        for (output, tables) in outputs.iter_mut().zip(&self.tables) {
            let output = &mut output[range.clone()];
            output.fill(0);
            for (input, table) in inputs.iter().zip(tables) {
                let input = &input[range.clone()];
                output.iter_mut().zip(input).for_each(|(sum, byte)| *sum ^= table[usize::from(*byte)]);
            }
        }
    }
}
