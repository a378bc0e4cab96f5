//! The block types of GGUF tensors: their sizes, and how the bytes of a block become codes and scales, exactly
//! (LB-15). Nothing is widened here: a matrix of four-bit codes stays one.
//!
//! The value of every element equals, bit for bit, what the `gguf` Python package computes in `f32`: its products and
//! sums are those of [`QuantMatrix`], in the same order (`(d * sc) * q - dmin * m` for the K types). The minimum of
//! `Q4_1` and `Q5_1` is stored negated, and `x - (-m)` is `x + m` in every case. Not-a-number stays one, but its sign and payload are
//! not promised.

use half::{bf16, f16};
use lith_ir::DType;
use lith_ir::quant::{QuantMatrix, Scales, Scheme, Storage, Values};

/// One type of the format.
#[derive(Debug)]
pub struct BlockType {
    /// Its number in files.
    pub id: u32,
    /// Its name.
    pub name: &'static str,
    /// Elements of a block.
    pub elements: usize,
    /// Bytes of a block.
    pub bytes: usize,
    read: Read,
}

/// How a block is read.
#[derive(Debug)]
enum Read {
    /// Floats that Lith has.
    Float(DType),
    /// Numbers that become `f32`, rounded to nearest.
    Number(fn(&[u8]) -> f32),
    /// Codes, by a scheme in which every block has one scale of its own.
    Codes(Scheme, fn(&[u8], Block<'_>)),
    /// Known by name and size only.
    No,
}

/// Where the parts of one block of a [`QuantMatrix`] go. Empty where the scheme does not have them.
struct Block<'a> {
    codes: &'a mut [u8],
    scale: &'a mut f32,
    min: &'a mut f32,
    sub_scales: &'a mut [i8],
    sub_mins: &'a mut [u8],
}

const fn float(id: u32, name: &'static str, dtype: DType) -> BlockType {
    BlockType { id, name, elements: 1, bytes: dtype.size(), read: Read::Float(dtype) }
}

const fn number(id: u32, name: &'static str, bytes: usize, read: fn(&[u8]) -> f32) -> BlockType {
    BlockType { id, name, elements: 1, bytes, read: Read::Number(read) }
}

const fn unread(id: u32, name: &'static str, elements: usize, bytes: usize) -> BlockType {
    BlockType { id, name, elements, bytes, read: Read::No }
}

/// Blocks of 32 with a scale, and a minimum where `mins`.
const fn small(
    (id, name, bytes): (u32, &'static str, usize),
    (bits, values, mins): (u8, Values, bool),
    read: fn(&[u8], Block<'_>),
) -> BlockType {
    let scheme = Scheme { bits, values, group: 32, scales: Scales::F16, mins };
    BlockType { id, name, elements: 32, bytes, read: Read::Codes(scheme, read) }
}

/// Blocks of 256 whose groups have small integers as scales, times one number.
const fn super_block(
    (id, name, bytes): (u32, &'static str, usize),
    (bits, values, mins): (u8, Values, bool),
    group: usize,
    read: fn(&[u8], Block<'_>),
) -> BlockType {
    let scheme = Scheme { bits, values, group, scales: Scales::Super { groups: 256 / group }, mins };
    BlockType { id, name, elements: 256, bytes, read: Read::Codes(scheme, read) }
}

const fn zero(zero: u8) -> Values {
    Values::Offset { zero }
}

/// MXFP4's scale is a power of two that binary16 may not hold, and its sixteen values, doubled, are integers from -12
/// to 12: codes of five bits.
const MXFP4: Scheme = Scheme { bits: 5, values: zero(MXFP4_ZERO), group: 32, scales: Scales::F32, mins: false };
const MXFP4_ZERO: u8 = 12;

/// Every type of the format.
static TYPES: [BlockType; 34] = [
    float(0, "F32", DType::F32),
    float(1, "F16", DType::F16),
    small((2, "Q4_0", 18), (4, zero(8), false), q4_0),
    small((3, "Q4_1", 20), (4, zero(0), true), q4_1),
    small((6, "Q5_0", 22), (5, zero(16), false), q5_0),
    small((7, "Q5_1", 24), (5, zero(0), true), q5_1),
    small((8, "Q8_0", 34), (8, zero(128), false), q8_0),
    unread(9, "Q8_1", 32, 40),
    super_block((10, "Q2_K", 84), (2, zero(0), true), 16, q2_k),
    super_block((11, "Q3_K", 110), (3, zero(4), false), 16, q3_k),
    super_block((12, "Q4_K", 144), (4, zero(0), true), 32, q4_k),
    super_block((13, "Q5_K", 176), (5, zero(0), true), 32, q5_k),
    super_block((14, "Q6_K", 210), (6, zero(32), false), 16, q6_k),
    unread(15, "Q8_K", 256, 292),
    unread(16, "IQ2_XXS", 256, 66),
    unread(17, "IQ2_XS", 256, 74),
    unread(18, "IQ3_XXS", 256, 98),
    unread(19, "IQ1_S", 256, 50),
    small((20, "IQ4_NL", 18), (4, Values::Nl4, false), q4_0),
    unread(21, "IQ3_S", 256, 110),
    unread(22, "IQ2_S", 256, 82),
    super_block((23, "IQ4_XS", 136), (4, Values::Nl4, false), 32, iq4_xs),
    number(24, "I8", 1, |b| f32::from(i8::from_le_bytes(first(b)))),
    number(25, "I16", 2, |b| f32::from(i16::from_le_bytes(first(b)))),
    number(26, "I32", 4, |b| i32::from_le_bytes(first(b)) as f32),
    number(27, "I64", 8, |b| i64::from_le_bytes(first(b)) as f32),
    number(28, "F64", 8, |b| f64::from_le_bytes(first(b)) as f32),
    unread(29, "IQ1_M", 256, 56),
    float(30, "BF16", DType::Bf16),
    unread(34, "TQ1_0", 256, 54),
    unread(35, "TQ2_0", 256, 66),
    BlockType { id: 39, name: "MXFP4", elements: 32, bytes: 17, read: Read::Codes(MXFP4, mxfp4) },
    unread(40, "NVFP4", 64, 36),
    unread(41, "Q1_0", 128, 18),
];

/// The type with this number.
pub fn find(id: u32) -> Option<&'static BlockType> {
    TYPES.iter().find(|row| row.id == id)
}

/// Every type, for tests of all of them.
pub fn all() -> impl Iterator<Item = &'static BlockType> {
    TYPES.iter()
}

impl BlockType {
    /// How Lith stores a tensor of this type; `None` where it cannot read one. Integers and `F64` become `F32`.
    pub fn storage(&self) -> Option<Storage> {
        match self.read {
            Read::Float(dtype) => Some(Storage::Float(dtype)),
            Read::Number(_) => Some(Storage::Float(DType::F32)),
            Read::Codes(scheme, _) => Some(Storage::Quantized(scheme)),
            Read::No => None,
        }
    }

    /// The type of its elements, if they are floats that Lith has.
    pub(super) fn float(&self) -> Option<DType> {
        match self.read {
            Read::Float(dtype) => Some(dtype),
            _ => None,
        }
    }

    /// Bytes of a tensor of this type, or why there can be none of this shape.
    pub fn bytes_of(&self, shape: &[usize]) -> Result<usize, String> {
        let row = shape.last().copied().unwrap_or(1);
        if row % self.elements != 0 {
            return Err(format!(
                "rows of {row} elements are no whole number of {} blocks of {}",
                self.name, self.elements
            ));
        }
        let elements = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        elements
            .and_then(|elements| (elements / self.elements).checked_mul(self.bytes))
            .ok_or_else(|| format!("shape {shape:?} is too large"))
    }

    /// Reads rows that lie at `source(0)`, `source(1)`, ... of `bytes` as a matrix; `None` if this is no type of codes,
    /// or `bytes` do not hold such rows.
    pub(super) fn matrix(
        &self,
        bytes: &[u8],
        (rows, cols): (usize, usize),
        source: impl Fn(usize) -> usize,
    ) -> Option<QuantMatrix> {
        let Read::Codes(scheme, read) = self.read else { return None };
        let row_bytes = self.bytes_of(&[cols]).ok()?;
        if rows.checked_mul(row_bytes) != Some(bytes.len()) {
            return None;
        }
        // Sizes from here on are at most a few times those of `bytes`.
        let blocks = rows * (cols / self.elements);
        let (groups, per_block) = match scheme.scales {
            Scales::Super { groups } => (blocks * groups, groups),
            Scales::F32 | Scales::F16 => (0, 0),
        };
        let mut matrix = QuantMatrix {
            scheme,
            rows,
            cols,
            codes: vec![0; rows * cols],
            scales: vec![0.0; blocks],
            mins: vec![0.0; if scheme.mins { blocks } else { 0 }],
            sub_scales: vec![0; groups],
            sub_mins: vec![0; if scheme.mins { groups } else { 0 }],
        };
        let mut codes = matrix.codes.chunks_exact_mut(self.elements);
        let mut scales = matrix.scales.iter_mut();
        let mut mins = matrix.mins.iter_mut();
        let mut sub_scales = matrix.sub_scales.chunks_exact_mut(per_block.max(1));
        let mut sub_mins = matrix.sub_mins.chunks_exact_mut(per_block.max(1));
        for row in 0..rows {
            let at = source(row).checked_mul(row_bytes)?;
            for block in bytes.get(at..at.checked_add(row_bytes)?)?.chunks_exact(self.bytes) {
                let mut no_min = 0.0;
                let block_parts = Block {
                    codes: codes.next()?,
                    scale: scales.next()?,
                    min: mins.next().unwrap_or(&mut no_min),
                    sub_scales: sub_scales.next().unwrap_or_default(),
                    sub_mins: sub_mins.next().unwrap_or_default(),
                };
                read(block, block_parts);
            }
        }
        Some(matrix)
    }

    /// Appends the elements of bytes of plain numbers to `out`; `false` if this is a type of codes.
    pub(super) fn numbers(&self, bytes: &[u8], out: &mut Vec<f32>) -> bool {
        let elements = bytes.chunks_exact(self.bytes);
        match self.read {
            Read::Float(DType::F16) => out.extend(elements.map(half_at::<0>)),
            Read::Float(DType::Bf16) => out.extend(elements.map(|b| bf16::from_le_bytes(first(b)).to_f32())),
            Read::Float(_) => out.extend(elements.map(|b| f32::from_le_bytes(first(b)))),
            Read::Number(read) => out.extend(elements.map(read)),
            Read::Codes(..) | Read::No => return false,
        }
        true
    }
}

/// The first `N` bytes, zeros where there are fewer.
fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}

/// The binary16 number at byte `AT`.
fn half_at<const AT: usize>(bytes: &[u8]) -> f32 {
    f16::from_le_bytes(first(bytes.get(AT..).unwrap_or_default())).to_f32()
}

/// The bytes from `at` on, `count` of them. The blocks the readers below get are of the size the table says, so nothing
/// is ever missing.
fn part(block: &[u8], at: usize, count: usize) -> &[u8] {
    block.get(at..).and_then(|rest| rest.get(..count)).unwrap_or_default()
}

/// Sixteen bytes of two codes each: the low halves first.
fn nibbles(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(codes.len() / 2);
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}

/// Adds `1 << 4` to code `i` where bit `i` of `bits` is set.
fn fifth_bits(bits: [u8; 4], codes: &mut [u8]) {
    let bits = u32::from_le_bytes(bits);
    for (i, code) in codes.iter_mut().enumerate().take(32) {
        *code |= ((bits >> i & 1) as u8) << 4;
    }
}

fn q4_0(block: &[u8], out: Block<'_>) {
    *out.scale = half_at::<0>(block);
    nibbles(part(block, 2, 16), out.codes);
}

fn q4_1(block: &[u8], out: Block<'_>) {
    (*out.scale, *out.min) = (half_at::<0>(block), -half_at::<2>(block));
    nibbles(part(block, 4, 16), out.codes);
}

fn q5_0(block: &[u8], out: Block<'_>) {
    *out.scale = half_at::<0>(block);
    nibbles(part(block, 6, 16), out.codes);
    fifth_bits(first(part(block, 2, 4)), out.codes);
}

fn q5_1(block: &[u8], out: Block<'_>) {
    (*out.scale, *out.min) = (half_at::<0>(block), -half_at::<2>(block));
    nibbles(part(block, 8, 16), out.codes);
    fifth_bits(first(part(block, 4, 4)), out.codes);
}

fn q8_0(block: &[u8], out: Block<'_>) {
    *out.scale = half_at::<0>(block);
    for (code, &byte) in out.codes.iter_mut().zip(part(block, 2, 32)) {
        // An i8 plus 128.
        *code = byte ^ 0x80;
    }
}

/// Codes of `bits` bits, of which `bytes` holds as many as fit side by side, in runs of `run`: all that lie lowest in a
/// run of bytes first. They are added to the codes, moved up by `up` bits.
fn runs(bytes: &[u8], run: usize, bits: u32, up: u32, codes: &mut [u8]) {
    let mut out = codes.chunks_exact_mut(run);
    for bytes in bytes.chunks_exact(run) {
        for shift in (0..8).step_by(bits as usize) {
            for (code, &byte) in out.next().into_iter().flatten().zip(bytes) {
                *code |= (byte >> shift & ((1 << bits) - 1)) << up;
            }
        }
    }
}

fn q2_k(block: &[u8], out: Block<'_>) {
    for ((scale, min), &byte) in out.sub_scales.iter_mut().zip(out.sub_mins).zip(part(block, 0, 16)) {
        (*scale, *min) = ((byte & 15) as i8, byte >> 4);
    }
    runs(part(block, 16, 64), 32, 2, 0, out.codes);
    (*out.scale, *out.min) = (half_at::<80>(block), half_at::<82>(block));
}

fn q3_k(block: &[u8], out: Block<'_>) {
    runs(part(block, 32, 64), 32, 2, 0, out.codes);
    // Bit i of the mask is the third bit of run i.
    runs(part(block, 0, 32), 32, 1, 2, out.codes);
    let (low, high) = (part(block, 96, 8), part(block, 104, 4));
    let mut scales = [0; 16];
    runs(low, 8, 4, 0, &mut scales);
    runs(high, 4, 2, 4, &mut scales);
    for (out, scale) in out.sub_scales.iter_mut().zip(scales) {
        *out = scale as i8 - 32;
    }
    *out.scale = half_at::<108>(block);
}

/// The eight scales and minima of six bits each that `Q4_K` and `Q5_K` keep in twelve bytes.
fn six_bits(bytes: [u8; 12], out: &mut Block<'_>) {
    for j in 0..4 {
        let [d, m, x] = [bytes[j], bytes[j + 4], bytes[j + 8]];
        for (place, scale, min) in [(j, d & 63, m & 63), (j + 4, x & 15 | d >> 6 << 4, x >> 4 | m >> 6 << 4)] {
            if let (Some(scale_out), Some(min_out)) = (out.sub_scales.get_mut(place), out.sub_mins.get_mut(place)) {
                (*scale_out, *min_out) = (scale as i8, min);
            }
        }
    }
}

fn q4_k(block: &[u8], mut out: Block<'_>) {
    (*out.scale, *out.min) = (half_at::<0>(block), half_at::<2>(block));
    six_bits(first(part(block, 4, 12)), &mut out);
    runs(part(block, 16, 128), 32, 4, 0, out.codes);
}

fn q5_k(block: &[u8], mut out: Block<'_>) {
    (*out.scale, *out.min) = (half_at::<0>(block), half_at::<2>(block));
    six_bits(first(part(block, 4, 12)), &mut out);
    runs(part(block, 48, 128), 32, 4, 0, out.codes);
    runs(part(block, 16, 32), 32, 1, 4, out.codes);
}

fn q6_k(block: &[u8], out: Block<'_>) {
    runs(part(block, 0, 128), 64, 4, 0, out.codes);
    runs(part(block, 128, 64), 32, 2, 4, out.codes);
    for (scale, &byte) in out.sub_scales.iter_mut().zip(part(block, 192, 16)) {
        *scale = byte as i8;
    }
    *out.scale = half_at::<208>(block);
}

fn iq4_xs(block: &[u8], out: Block<'_>) {
    *out.scale = half_at::<0>(block);
    let high = u16::from_le_bytes(first(part(block, 2, 2)));
    let low = part(block, 4, 4).iter().flat_map(|byte| [byte & 15, byte >> 4]);
    for ((i, scale), low) in out.sub_scales.iter_mut().enumerate().zip(low) {
        *scale = (low | ((high >> (2 * i) & 3) as u8) << 4) as i8 - 32;
    }
    runs(part(block, 8, 128), 16, 4, 0, out.codes);
}

fn mxfp4(block: &[u8], out: Block<'_>) {
    /// E2M1, doubled, plus [`MXFP4_ZERO`].
    const CODES: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];
    // Half of 2^(e - 127), of which the first two are subnormal.
    let [exponent] = first(block);
    *out.scale = f32::from_bits(match exponent {
        0 | 1 => 0x0020_0000 << exponent,
        _ => u32::from(exponent - 1) << 23,
    });
    nibbles(part(block, 1, 16), out.codes);
    for code in out.codes {
        *code = CODES[usize::from(*code & 15)];
    }
}
