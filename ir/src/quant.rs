//! Matrices of small codes: what a quantized weight is, whatever file or scheme it came from, and the value of each of
//! its elements. That value, rounded to `f32` as said here, is the reference of every kernel. Knows no file format and
//! no layout in memory: readers of files and quantizers make these, packing turns them into what kernels read.

use crate::dtype::DType;

/// Elements that share a scale in activations that contractions take as codes.
pub const ACTIVATION_GROUP: usize = 32;

/// The greatest codes of such activations, of one and of two bytes: the `levels` of a `dynamic_quantize` that contractions
/// take in. A code of two bytes is `255 a + b`.
pub const ACTIVATION_LEVELS: [usize; 2] = [127, 255 * 127 + 127];

/// The group of a scheme with one scale for each row.
pub const PER_ROW: usize = usize::MAX;

/// What a code stands for before it is scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Values {
    /// `code - zero`
    Offset {
        /// The code of zero, 0 to 128.
        zero: u8,
    },
    /// [`NL4`]
    Nl4,
    /// [`NF4`]
    Nf4,
}

/// The values of four-bit codes of llama.cpp's IQ4_NL and IQ4_XS blocks.
pub const NL4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The values of four-bit NormalFloat codes (Dettmers et al. 2023, arXiv 2305.14314).
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

impl Values {
    /// The value of a code; codes beyond a table count from its start again.
    pub fn value(self, code: u8) -> f32 {
        match self {
            Values::Offset { zero } => f32::from(i16::from(code) - i16::from(zero)),
            Values::Nl4 => f32::from(NL4[usize::from(code & 15)]),
            Values::Nf4 => NF4[usize::from(code & 15)],
        }
    }
}

/// How the scale (and minimum) of a group is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Scales {
    /// An `f32`.
    F32,
    /// A number that binary16 holds exactly.
    F16,
    /// A small integer for the group, times a number that binary16 holds exactly for `groups` groups in a row.
    Super {
        /// Groups that share the number.
        groups: usize,
    },
}

/// How a matrix is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Scheme {
    /// Bits of a code, 1 to 8.
    pub bits: u8,
    /// What codes stand for.
    pub values: Values,
    /// Columns that share a scale: a multiple of 16, or [`PER_ROW`]. Groups start at the first column of a row.
    pub group: usize,
    /// How scales are kept.
    pub scales: Scales,
    /// Whether groups have a minimum besides the scale.
    pub mins: bool,
}

impl Scheme {
    /// Groups of a row of `cols` columns.
    pub const fn groups(&self, cols: usize) -> usize {
        cols.div_ceil(self.group)
    }

    /// Elements of [`QuantMatrix::scales`] for a row of `cols` columns.
    pub const fn scales_per_row(&self, cols: usize) -> usize {
        match self.scales {
            Scales::F32 | Scales::F16 => self.groups(cols),
            Scales::Super { groups } => self.groups(cols).div_ceil(groups),
        }
    }
}

/// How a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Storage {
    /// Plain floats: `F32`, `F16` or `Bf16`.
    Float(DType),
    /// Codes.
    Quantized(Scheme),
}

/// A quantized matrix. Element `(r, c)`, in group `g = c / group`, is
/// `scale(r, g) * values.value(codes[r][c]) - min(r, g)`, every operation rounded to `f32`, where a [`Scales::Super`]
/// scale is `scales * sub_scales` and its minimum `mins * sub_mins`, rounded too.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantMatrix {
    /// How.
    pub scheme: Scheme,
    /// Rows: outputs of a layer, or entries of a table.
    pub rows: usize,
    /// Columns: inputs of a layer, or the width of a table.
    pub cols: usize,
    /// A byte for each code, row-major.
    pub codes: Vec<u8>,
    /// For each row its [`Scheme::scales_per_row`] scales.
    pub scales: Vec<f32>,
    /// As `scales`; empty without minima.
    pub mins: Vec<f32>,
    /// [`Scales::Super`]: for each row a number for each group; else empty.
    pub sub_scales: Vec<i8>,
    /// [`Scales::Super`] with minima: for each row a number for each group; else empty.
    pub sub_mins: Vec<u8>,
}

/// Parts of a quantized matrix that do not fit each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} of a quantized {rows} by {cols} matrix: expected {expected} elements, found {found}")]
pub struct QuantError {
    /// Which part.
    pub what: &'static str,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Elements it should have.
    pub expected: usize,
    /// Elements it has.
    pub found: usize,
}

impl QuantMatrix {
    /// Checks that all parts have the lengths that scheme and size ask for.
    ///
    /// # Errors
    /// The first part that has not.
    pub fn check(&self) -> Result<(), QuantError> {
        let (s, rows, cols) = (&self.scheme, self.rows, self.cols);
        let is_super = matches!(s.scales, Scales::Super { .. });
        let per_row = s.scales_per_row(cols);
        let parts = [
            ("codes", cols, self.codes.len()),
            ("scales", per_row, self.scales.len()),
            ("minima", if s.mins { per_row } else { 0 }, self.mins.len()),
            ("sub-scales", if is_super { s.groups(cols) } else { 0 }, self.sub_scales.len()),
            ("sub-minima", if is_super && s.mins { s.groups(cols) } else { 0 }, self.sub_mins.len()),
        ];
        for (what, each, found) in parts {
            let expected = rows.saturating_mul(each);
            if expected != found {
                return Err(QuantError { what, rows, cols, expected, found });
            }
        }
        Ok(())
    }

    /// A matrix of some of the rows, in the order given.
    ///
    /// # Panics
    /// When there is no such row, or [`QuantMatrix::check`] fails.
    pub fn take_rows(&self, rows: impl Iterator<Item = usize> + Clone) -> QuantMatrix {
        fn take<T: Copy>(from: &[T], of: usize, rows: impl Iterator<Item = usize>) -> Vec<T> {
            let each = from.len() / of.max(1);
            rows.flat_map(|row| from[row * each..][..each].iter().copied()).collect()
        }
        let of = self.rows;
        QuantMatrix {
            scheme: self.scheme,
            rows: rows.clone().count(),
            cols: self.cols,
            codes: take(&self.codes, of, rows.clone()),
            scales: take(&self.scales, of, rows.clone()),
            mins: take(&self.mins, of, rows.clone()),
            sub_scales: take(&self.sub_scales, of, rows.clone()),
            sub_mins: take(&self.sub_mins, of, rows),
        }
    }

    /// Scale and minimum of a group of a row.
    pub fn scale_and_min(&self, row: usize, group: usize) -> (f32, f32) {
        let per_row = self.scheme.scales_per_row(self.cols);
        let min = |at: usize| self.mins.get(at).copied().unwrap_or(0.0);
        match self.scheme.scales {
            Scales::F32 | Scales::F16 => {
                let at = row * per_row + group;
                (self.scales[at], min(at))
            }
            Scales::Super { groups } => {
                let at = row * per_row + group / groups;
                let sub = row * self.scheme.groups(self.cols) + group;
                let sub_min = self.sub_mins.get(sub).copied().unwrap_or(0);
                (self.scales[at] * f32::from(self.sub_scales[sub]), min(at) * f32::from(sub_min))
            }
        }
    }

    /// The values of a row, into `out` of as many columns.
    ///
    /// # Panics
    /// When there is no such row, `out` is shorter than a row, or [`QuantMatrix::check`] fails.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let codes = &self.codes[row * self.cols..][..self.cols];
        let step = self.scheme.group.min(self.cols.max(1));
        for (group, (codes, out)) in codes.chunks(step).zip(out[..self.cols].chunks_mut(step)).enumerate() {
            let (scale, min) = self.scale_and_min(row, group);
            for (out, &code) in out.iter_mut().zip(codes) {
                let scaled = scale * self.scheme.values.value(code);
                *out = if self.scheme.mins { scaled - min } else { scaled };
            }
        }
    }

    /// All values, row-major.
    ///
    /// # Panics
    /// When [`QuantMatrix::check`] fails.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        for (row, out) in out.chunks_exact_mut(self.cols.max(1)).enumerate() {
            self.row(row, out);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_what_the_formula_says() {
        let scheme = Scheme {
            bits: 4,
            values: Values::Offset { zero: 8 },
            group: 16,
            scales: Scales::Super { groups: 2 },
            mins: true,
        };
        let matrix = QuantMatrix {
            scheme,
            rows: 1,
            cols: 48,
            codes: (0..48).map(|c| c % 16).collect(),
            scales: vec![0.5, 2.0],
            mins: vec![0.25, 1.0],
            sub_scales: vec![1, -3, 5],
            sub_mins: vec![0, 4, 2],
        };
        assert_eq!(matrix.check(), Ok(()));
        let values = matrix.dequantize();
        assert_eq!(values[0], 0.5 * -8.0);
        assert_eq!(values[17], -1.5 * -7.0 - 1.0);
        assert_eq!(values[47], 10.0 * 7.0 - 2.0);
        let twice =
            QuantMatrix { rows: 2, codes: matrix.codes.repeat(2), scales: vec![0.5, 2.0, 7.0, 8.0], ..matrix.clone() };
        let twice = QuantMatrix { mins: matrix.mins.repeat(2), sub_scales: matrix.sub_scales.repeat(2), ..twice };
        let twice = QuantMatrix { sub_mins: matrix.sub_mins.repeat(2), ..twice };
        assert_eq!(twice.take_rows([0].into_iter()), matrix);
        assert_eq!(twice.take_rows([1, 0].into_iter()).scales, [7.0, 8.0, 0.5, 2.0]);
        let short = QuantMatrix { sub_mins: vec![0], ..matrix };
        assert!(short.check().unwrap_err().to_string().contains("sub-minima"));
    }
}
