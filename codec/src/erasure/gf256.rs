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

/// a · b, by tables: which lines of the cache it touches tells of both, so neither is ever a secret.
pub(crate) fn multiply(a: u8, b: u8) -> u8 {
    let (exponents, logarithms) = &TABLES;
    match a == 0 || b == 0 {
        true => 0,
        false => exponents[usize::from(logarithms[usize::from(a)]) + usize::from(logarithms[usize::from(b)])],
    }
}

/// a · b, without a branch or an address that depends on either: for secrets, of which there are few bytes.
pub(crate) fn multiply_secret(a: u8, b: u8) -> u8 {
    let mut product = 0;
    for bit in (0..8).rev() {
        // All ones where the bit is set.
        let overflow = (product >> 7 & 1_u8).wrapping_neg();
        product = product << 1 ^ overflow & POLYNOMIAL as u8;
        product ^= a & (b >> bit & 1).wrapping_neg();
    }
    product
}

/// 1 / a, for a other than 0.
pub(crate) fn inverse(a: u8) -> u8 {
    let (exponents, logarithms) = &TABLES;
    assert!(a != 0, "zero has no inverse");
    exponents[255 - usize::from(logarithms[usize::from(a)])]
}

/// Rows of coefficients.
pub(super) struct Matrix(Vec<Vec<u8>>);

impl Matrix {
    /// Parity rows: in row i and column j 1 / ((k + i) xor j). As k + i > j, nothing is divided by zero.
    pub(super) fn cauchy(data: usize, parity: usize) -> Self {
        let coefficient = |row: usize, column: usize| inverse(((data + row) ^ column) as u8);
        Self((0..parity).map(|row| (0..data).map(|column| coefficient(row, column)).collect()).collect())
    }

    pub(super) fn from_rows(rows: impl Iterator<Item = Vec<u8>>) -> Self {
        Self(rows.collect())
    }

    /// Row `index` of the identity.
    pub(super) fn unit_row(width: usize, index: usize) -> Vec<u8> {
        (0..width).map(|column| u8::from(column == index)).collect()
    }

    pub(super) fn rows(&self) -> &[Vec<u8>] {
        &self.0
    }

    /// row · self, for a square matrix.
    pub(super) fn multiplied_from_left(&self, row: &[u8]) -> Vec<u8> {
        let mut sum = vec![0; self.0.len()];
        row.iter().zip(&self.0).for_each(|(factor, line)| add_multiple(&mut sum, line, *factor));
        sum
    }

    /// The inverse of a square matrix, by Gauss and Jordan; `None` if it has none.
    pub(super) fn inverted(&self) -> Option<Self> {
        let size = self.0.len();
        // Each row, with the identity's beside it.
        let beside = |(index, row): (usize, &Vec<u8>)| [row.clone(), Self::unit_row(size, index)].concat();
        let mut rows: Vec<Vec<u8>> = self.0.iter().enumerate().map(beside).collect();
        for column in 0..size {
            let from = (column..size).find(|row| rows[*row][column] != 0)?;
            rows.swap(column, from);
            let mut pivot = std::mem::take(&mut rows[column]);
            let scale = inverse(pivot[column]);
            pivot.iter_mut().for_each(|value| *value = multiply(*value, scale));
            for row in rows.iter_mut().filter(|row| !row.is_empty()) {
                let factor = row[column];
                add_multiple(row, &pivot, factor);
            }
            rows[column] = pivot;
        }
        Some(Self::from_rows(rows.into_iter().map(|mut row| row.split_off(size))))
    }
}

/// sum + factor · line
fn add_multiple(sum: &mut [u8], line: &[u8], factor: u8) {
    if factor != 0 {
        sum.iter_mut().zip(line).for_each(|(sum, value)| *sum ^= multiply(factor, *value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_products_are_one_field() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(multiply_secret(a, b), multiply(a, b), "{a} times {b}");
            }
            assert!(a == 0 || multiply_secret(a, inverse(a)) == 1);
        }
    }
}
