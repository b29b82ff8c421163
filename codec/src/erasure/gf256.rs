//! Arithmetic in GF(2^8) with the polynomial x^8+x^4+x^3+x^2+1 (0x11D), and small matrices over it.

const POLYNOMIAL: u16 = 0x11d;

const fn tables() -> ([u8; 512], [u8; 256]) {
    let (mut exponents, mut logarithms) = ([0u8; 512], [0u8; 256]);
    let (mut value, mut power) = (1u16, 0);
    while power < 255 {
        exponents[power] = value as u8;
        exponents[power + 255] = value as u8;
        logarithms[value as usize] = power as u8;
        value <<= 1;
        if value & 0x100 != 0 {
            value ^= POLYNOMIAL;
        }
        power += 1;
    }
    (exponents, logarithms)
}

static TABLES: ([u8; 512], [u8; 256]) = tables();

/// a · b.
pub(super) fn multiply(a: u8, b: u8) -> u8 {
    let (exponents, logarithms) = &TABLES;
    match a == 0 || b == 0 {
        true => 0,
        false => exponents[usize::from(logarithms[usize::from(a)]) + usize::from(logarithms[usize::from(b)])],
    }
}

/// 1 / a, for a other than 0.
pub(super) fn inverse(a: u8) -> u8 {
    let (exponents, logarithms) = &TABLES;
    assert!(a != 0, "zero has no inverse");
    exponents[255 - usize::from(logarithms[usize::from(a)])]
}

/// Rows of coefficients.
#[derive(Debug, Default, Clone)]
pub(super) struct Matrix(Vec<Vec<u8>>);

impl Matrix {
    /// Parity rows: row i, column j holds 1 / ((k + i) + j).
    pub(super) fn cauchy(data: usize, parity: usize) -> Self {
        let coefficient = |row: usize, column: usize| inverse(((data + row) ^ column) as u8);
        Self((0..parity).map(|row| (0..data).map(|column| coefficient(row, column)).collect()).collect())
    }

    pub(super) fn from_rows(rows: impl Iterator<Item = Vec<u8>>) -> Self {
        Self(rows.collect())
    }

    pub(super) fn identity_row(width: usize, index: usize) -> Vec<u8> {
        (0..width).map(|column| u8::from(column == index)).collect()
    }

    pub(super) fn row(&self, index: usize) -> &[u8] {
        &self.0[index]
    }

    pub(super) fn coefficients(&self) -> &[Vec<u8>] {
        &self.0
    }

    /// row · self.
    pub(super) fn multiply_row(&self, row: &[u8]) -> Vec<u8> {
        let column =
            |at: usize| row.iter().zip(&self.0).fold(0, |sum, (factor, line)| sum ^ multiply(*factor, line[at]));
        (0..self.0.len()).map(column).collect()
    }

    /// Gauss-Jordan; `None` if it is singular.
    pub(super) fn inverted(&self) -> Option<Self> {
        let size = self.0.len();
        let mut left = self.0.clone();
        let mut right: Vec<Vec<u8>> = (0..size).map(|index| Self::identity_row(size, index)).collect();
        for pivot in 0..size {
            let from = (pivot..size).find(|row| left[*row][pivot] != 0)?;
            left.swap(pivot, from);
            right.swap(pivot, from);
            let scale = inverse(left[pivot][pivot]);
            for value in left[pivot].iter_mut().chain(right[pivot].iter_mut()) {
                *value = multiply(*value, scale);
            }
            let (pivot_left, pivot_right) = (left[pivot].clone(), right[pivot].clone());
            for row in (0..size).filter(|row| *row != pivot) {
                let factor = left[row][pivot];
                eliminate(&mut left[row], &pivot_left, factor);
                eliminate(&mut right[row], &pivot_right, factor);
            }
        }
        Some(Self(right))
    }
}

fn eliminate(row: &mut [u8], pivot: &[u8], factor: u8) {
    row.iter_mut().zip(pivot).for_each(|(value, pivot)| *value ^= multiply(factor, *pivot));
}
