//! Vectors of 64 codes, the vocabulary of the quantized kernels: byte `4 o + c` belongs to output o of a panel, so that
//! a vector of bytes, one of sixteen integers and one of sixteen floats are about the same outputs, lane by lane.

use super::activations::{Group, quantize};
use super::layout::BLOCK;
use crate::kernels::simd::Portable;

/// Operations on 64 bytes, or sixteen 32-bit integers, on one instruction set; integers are exact.
pub(crate) trait Bytes: Copy + 'static {
    /// Sixteen `f32`.
    type V: Copy;
    /// 64 bytes.
    type B: Copy;
    /// Sixteen `i32`.
    type I: Copy;
    /// Rows of the largest tile of 8-bit activations: a power of two, at most 8.
    const CODE_ROWS: usize;
    /// Whether there are kernels that unpack codes on the way to a few rows.
    const FUSED: bool;
    /// What [`Bytes::dot`] takes from codes of eight bits before it multiplies.
    const WIDE_OFFSET: i32;
    /// Whether [`Bytes::dot`] is quicker for codes of fewer bits.
    const NARROW: bool;

    /// # Safety
    /// `p` is readable for 64 bytes.
    unsafe fn load_bytes(self, p: *const u8) -> Self::B;
    /// # Safety
    /// `p` is writable for 64 bytes.
    unsafe fn store_bytes(self, p: *mut u8, b: Self::B);
    /// Bits of each byte moved up by `first` and down by `bit`, those of `mask` kept.
    fn part(self, b: Self::B, bit: u32, first: u32, mask: u8) -> Self::B;
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    /// The entry of `table` at each byte, which is below 16.
    fn lookup_bytes(self, table: &[u8; 16], b: Self::B) -> Self::B;
    /// Byte `j` of each lane less `zero`, at most 128, as a float.
    fn byte(self, b: Self::B, j: usize, zero: f32) -> Self::V;
    /// The entry of `table` at byte `j` of each lane, which is below 16.
    fn lookup(self, table: &[f32; 16], b: Self::B, j: usize) -> Self::V;
    /// # Safety
    /// `p` is readable for 16 bytes.
    unsafe fn load_u8(self, p: *const u8) -> Self::V;
    /// For R rows: `start` plus the sums of products of codes of at most `bits` bits (less [`Bytes::WIDE_OFFSET`] where
    /// those are 8) with activations from -127 to 127; four columns to a vector of codes.
    ///
    /// # Safety
    /// `a` is readable for `4 N` bytes from each multiple of 32 below `32 R` on, `start` for R integers.
    unsafe fn dot<const R: usize, const N: usize>(
        self,
        bits: u8,
        w: &[Self::B; N],
        a: *const i8,
        start: *const i32,
    ) -> [Self::I; R];
    fn to_float(self, i: Self::I) -> Self::V;
    /// The codes of a group of activations.
    #[inline(always)]
    fn quantize<const Q: usize>(self, x: &[f32; BLOCK]) -> Group<Q> {
        quantize(x)
    }
    /// Asks for the cache line at `p`, which need not exist.
    fn prefetch(self, p: *const u8);
    /// Asks for the cache line at `p`, which need not exist, in the second-level cache.
    fn prefetch_near(self, p: *const u8);
    /// Asks for the cache line at `p`, which need not exist, to write it.
    fn prefetch_to_write(self, p: *const u8);
}

impl Bytes for Portable {
    type V = [f32; 16];
    type B = [u8; 64];
    type I = [i32; 16];
    const CODE_ROWS: usize = 1;
    const FUSED: bool = false;
    const WIDE_OFFSET: i32 = 0;
    const NARROW: bool = false;

    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> [u8; 64] {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[u8; 64]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, b: [u8; 64]) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[u8; 64]>().write_unaligned(b) }
    }
    #[inline(always)]
    fn part(self, b: [u8; 64], bit: u32, first: u32, mask: u8) -> [u8; 64] {
        b.map(|x| ((u32::from(x) << first >> bit) as u8) & mask)
    }
    #[inline(always)]
    fn or(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn lookup_bytes(self, table: &[u8; 16], b: [u8; 64]) -> [u8; 64] {
        b.map(|x| table[usize::from(x & 15)])
    }
    #[inline(always)]
    fn byte(self, b: [u8; 64], j: usize, zero: f32) -> [f32; 16] {
        std::array::from_fn(|o| f32::from(b[4 * o + j]) - zero)
    }
    #[inline(always)]
    fn lookup(self, table: &[f32; 16], b: [u8; 64], j: usize) -> [f32; 16] {
        std::array::from_fn(|o| table[usize::from(b[4 * o + j] & 15)])
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> [f32; 16] {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[u8; 16]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn dot<const R: usize, const N: usize>(
        self,
        _: u8,
        w: &[[u8; 64]; N],
        a: *const i8,
        start: *const i32,
    ) -> [[i32; 16]; R] {
        // SAFETY: the caller's promise.
        let mut sums = std::array::from_fn(|r| [unsafe { start.add(r).read() }; 16]);
        for (r, sums) in sums.iter_mut().enumerate() {
            for (step, w) in w.iter().enumerate() {
                // SAFETY: the caller's promise.
                let a = unsafe { a.add(BLOCK * r + 4 * step).cast::<[i8; 4]>().read() };
                for (o, sum) in sums.iter_mut().enumerate() {
                    for (c, &a) in a.iter().enumerate() {
                        *sum += i32::from(w[4 * o + c]) * i32::from(a);
                    }
                }
            }
        }
        sums
    }
    #[inline(always)]
    fn to_float(self, i: [i32; 16]) -> [f32; 16] {
        i.map(|x| x as f32)
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    fn prefetch_near(self, _: *const u8) {}
    #[inline(always)]
    fn prefetch_to_write(self, _: *const u8) {}
}
