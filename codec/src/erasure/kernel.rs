//! The inner loop, once per instruction set. Chosen at run time; every one is tested against the scalar one.

use super::gf256;

/// Coefficients as a kernel wants them: one entry for each output and input, outputs outermost.
pub struct Tables {
    /// Outputs.
    pub(super) rows: usize,
    /// Inputs.
    pub(super) columns: usize,
    /// Low and high nibble products (32 bytes a coefficient), or an 8x8 bit matrix each.
    pub(super) entries: Entries,
}

pub(super) enum Entries {
    Nibbles(Vec<[u8; 32]>),
    Bits(Vec<u64>),
}

/// Multiplies a matrix over GF(2^8) with slices of bytes.
pub trait Kernel: Sync {
    /// For benchmarks and status.
    fn name(&self) -> &'static str;
    /// Turns rows of coefficients into what `multiply` wants.
    fn prepare(&self, rows: &[Vec<u8>]) -> Tables;
    /// outputs = tables · inputs. All slices have one length.
    fn multiply(&self, tables: &Tables, inputs: &[&[u8]], outputs: &mut [&mut [u8]]);
}

/// The kernels that this machine runs, fastest first. The last one always is the scalar one.
pub fn kernels() -> &'static [&'static dyn Kernel] {
    static FOUND: std::sync::OnceLock<Vec<&'static dyn Kernel>> = std::sync::OnceLock::new();
    FOUND.get_or_init(|| {
        let mut found: Vec<&'static dyn Kernel> = Vec::new();
        if super::gfni::Gfni::is_available() {
            found.push(&super::gfni::Gfni);
        }
        if super::avx2::Avx2::is_available() {
            found.push(&super::avx2::Avx2);
        }
        found.push(&Scalar);
        found
    })
}

pub(super) fn nibbles(rows: &[Vec<u8>]) -> Tables {
    let entry = |coefficient: &u8| {
        let mut table = [0; 32];
        for nibble in 0..16u8 {
            table[usize::from(nibble)] = gf256::multiply(*coefficient, nibble);
            table[16 + usize::from(nibble)] = gf256::multiply(*coefficient, nibble << 4);
        }
        table
    };
    let entries = rows.iter().flatten().map(entry).collect();
    Tables { rows: rows.len(), columns: rows.first().map_or(0, Vec::len), entries: Entries::Nibbles(entries) }
}

/// Two table look-ups a byte: the reference, and what every machine has.
pub(super) struct Scalar;

impl Kernel for Scalar {
    fn name(&self) -> &'static str {
        "scalar"
    }
    fn prepare(&self, rows: &[Vec<u8>]) -> Tables {
        nibbles(rows)
    }
    fn multiply(&self, tables: &Tables, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
        multiply_tail(tables, inputs, outputs, 0);
    }
}

/// The bytes from `from` on, which a wider kernel leaves over.
pub(super) fn multiply_tail(tables: &Tables, inputs: &[&[u8]], outputs: &mut [&mut [u8]], from: usize) {
    let Entries::Nibbles(entries) = &tables.entries else { return };
    for (row, output) in outputs.iter_mut().enumerate() {
        let entries = &entries[row * tables.columns..][..tables.columns];
        for (at, out) in output.iter_mut().enumerate().skip(from) {
            let product = |(entry, input): (&[u8; 32], &&[u8])| {
                entry[usize::from(input[at] & 15)] ^ entry[16 + usize::from(input[at] >> 4)]
            };
            *out = entries.iter().zip(inputs).map(product).fold(0, |sum, product| sum ^ product);
        }
    }
}
