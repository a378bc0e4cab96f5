//! Vectors of 64 codes on x86-64: two AVX2 registers, or one of AVX-512 with its dot products of bytes (VNNI).
//!
//! Why the unsafe blocks of this file are sound: as in [`x86`](crate::kernels::x86).
#![allow(clippy::undocumented_unsafe_blocks)]

use std::arch::x86_64::*;

use super::activations::{BASE, Group, ROUND, factors, greatest};
use super::bytes::Bytes;
use super::layout::BLOCK;
use crate::kernels::x86::{Avx2, Avx512, halves};

/// Integers below 256 added to it are exact, and stand in its low byte.
const TWO_TO_23: f32 = 8_388_608.0;
/// The lowest byte of each lane.
const LOW_BYTES: u64 = 0x1111_1111_1111_1111;

/// The codes of four columns.
#[inline(always)]
unsafe fn four(a: *const i8) -> i32 {
    unsafe { a.cast::<i32>().read_unaligned() }
}

impl Bytes for Avx2 {
    type V = [__m256; 2];
    type B = [__m256i; 2];
    type I = [__m256i; 2];
    const CODE_ROWS: usize = 4;
    const FUSED: bool = true;
    const WIDE_OFFSET: i32 = 128;
    const NARROW: bool = true;

    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> Self::B {
        halves!(i => unsafe { _mm256_loadu_si256(p.add(32 * i).cast()) })
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, b: Self::B) {
        unsafe {
            _mm256_storeu_si256(p.cast(), b[0]);
            _mm256_storeu_si256(p.add(32).cast(), b[1]);
        }
    }
    #[inline(always)]
    fn part(self, b: Self::B, bit: u32, first: u32, mask: u8) -> Self::B {
        // What a shift of 16-bit words carries from byte to byte, the mask removes.
        halves!(i => unsafe {
            let count = _mm_cvtsi32_si128(bit.abs_diff(first) as i32);
            let moved = if bit > first { _mm256_srl_epi16(b[i], count) } else { _mm256_sll_epi16(b[i], count) };
            _mm256_and_si256(moved, _mm256_set1_epi8(mask as i8))
        })
    }
    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        halves!(i => unsafe { _mm256_or_si256(a[i], b[i]) })
    }
    #[inline(always)]
    fn lookup_bytes(self, table: &[u8; 16], b: Self::B) -> Self::B {
        halves!(i => unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            _mm256_shuffle_epi8(table, b[i])
        })
    }
    #[inline(always)]
    fn byte(self, b: Self::B, j: usize, zero: f32) -> Self::V {
        // The byte, with the upper bits of 2^23 over it, is 2^23 and the byte.
        halves!(i => unsafe {
            let place = _mm256_set_epi32(12, 8, 4, 0, 12, 8, 4, 0);
            let place = _mm256_or_si256(_mm256_add_epi32(place, _mm256_set1_epi32(j as i32)), _mm256_set1_epi32(!255));
            let float = _mm256_or_si256(_mm256_shuffle_epi8(b[i], place), _mm256_set1_epi32(TWO_TO_23.to_bits() as i32));
            _mm256_sub_ps(_mm256_castsi256_ps(float), _mm256_set1_ps(TWO_TO_23 + zero))
        })
    }
    #[inline(always)]
    fn lookup(self, table: &[f32; 16], b: Self::B, j: usize) -> Self::V {
        // Each half of the table by the low three bits; then the fourth bit, moved to the sign, chooses.
        halves!(i => unsafe {
            let index = _mm256_srl_epi32(b[i], _mm_cvtsi32_si128(8 * j as i32));
            let low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr()), index);
            let high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr().add(8)), index);
            let fourth = _mm256_sll_epi32(b[i], _mm_cvtsi32_si128(28 - 8 * j as i32));
            _mm256_blendv_ps(low, high, _mm256_castsi256_ps(fourth))
        })
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Self::V {
        halves!(i => unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(8 * i).cast()))) })
    }
    #[inline(always)]
    unsafe fn dot<const R: usize, const N: usize>(
        self,
        bits: u8,
        w: &[Self::B; N],
        a: *const i8,
        start: *const i32,
    ) -> [Self::I; R] {
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut sums = [[_mm256_setzero_si256(); 2]; R];
            for (r, total) in sums.iter_mut().enumerate() {
                let a = a.add(BLOCK * r);
                let mut sum = [_mm256_set1_epi32(start.add(r).read()); 2];
                if bits == 8 {
                    // The bytes that multiply unsigned are magnitudes, at most 128: two products fit 16 bits.
                    for (step, w) in w.iter().enumerate() {
                        let a = _mm256_set1_epi32(four(a.add(4 * step)));
                        sum = halves!(i => {
                            let signed = _mm256_xor_si256(w[i], _mm256_set1_epi8(i8::MIN));
                            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(a, signed));
                            _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs, ones))
                        });
                    }
                } else {
                    // (2^bits - 1) * 127 * 2 * steps < 2^15: so many steps fit 16 bits before they are widened.
                    let steps = 8 >> bits.saturating_sub(4);
                    let mut pairs = [_mm256_setzero_si256(); 2];
                    for (step, w) in w.iter().enumerate() {
                        let a = _mm256_set1_epi32(four(a.add(4 * step)));
                        pairs = halves!(i => _mm256_add_epi16(pairs[i], _mm256_maddubs_epi16(w[i], a)));
                        if (step + 1) % steps == 0 || step + 1 == N {
                            sum = halves!(i => _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs[i], ones)));
                            pairs = [_mm256_setzero_si256(); 2];
                        }
                    }
                }
                *total = sum;
            }
            sums
        }
    }
    #[inline(always)]
    fn to_float(self, x: Self::I) -> Self::V {
        halves!(i => unsafe { _mm256_cvtepi32_ps(x[i]) })
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_near(self, p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_to_write(self, p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(p.cast()) }
    }
}

impl Bytes for Avx512 {
    type V = __m512;
    type B = __m512i;
    type I = __m512i;
    const CODE_ROWS: usize = 8;
    const FUSED: bool = true;
    const WIDE_OFFSET: i32 = 0;
    const NARROW: bool = false;

    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> Self::B {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, b: Self::B) {
        unsafe { _mm512_storeu_si512(p.cast(), b) }
    }
    #[inline(always)]
    fn part(self, b: Self::B, bit: u32, first: u32, mask: u8) -> Self::B {
        unsafe {
            let count = _mm_cvtsi32_si128(bit.abs_diff(first) as i32);
            let moved = if bit > first { _mm512_srl_epi16(b, count) } else { _mm512_sll_epi16(b, count) };
            _mm512_and_si512(moved, _mm512_set1_epi8(mask as i8))
        }
    }
    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    fn lookup_bytes(self, table: &[u8; 16], b: Self::B) -> Self::B {
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, b)
        }
    }
    #[inline(always)]
    fn byte(self, b: Self::B, j: usize, zero: f32) -> Self::V {
        // The byte, with the upper bits of 2^23 over it, is 2^23 and the byte.
        unsafe {
            let place = _mm512_broadcast_i32x4(_mm_add_epi32(_mm_set_epi32(12, 8, 4, 0), _mm_set1_epi32(j as i32)));
            let base = _mm512_set1_epi32(TWO_TO_23.to_bits() as i32);
            let float = _mm512_mask_shuffle_epi8(base, LOW_BYTES, b, place);
            _mm512_sub_ps(_mm512_castsi512_ps(float), _mm512_set1_ps(TWO_TO_23 + zero))
        }
    }
    #[inline(always)]
    fn lookup(self, table: &[f32; 16], b: Self::B, j: usize) -> Self::V {
        // The permutation looks at the low four bits of each lane only.
        unsafe {
            let index = _mm512_srl_epi32(b, _mm_cvtsi32_si128(8 * j as i32));
            _mm512_permutexvar_ps(index, _mm512_loadu_ps(table.as_ptr()))
        }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Self::V {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn dot<const R: usize, const N: usize>(
        self,
        _: u8,
        w: &[Self::B; N],
        a: *const i8,
        start: *const i32,
    ) -> [Self::I; R] {
        unsafe {
            let mut sums = [_mm512_setzero_si512(); R];
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_set1_epi32(start.add(r).read());
            }
            // Row by row within a step: the sums of the rows are independent of each other.
            for (step, &w) in w.iter().enumerate() {
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_dpbusd_epi32(*sum, w, _mm512_set1_epi32(four(a.add(BLOCK * r + 4 * step))));
                }
            }
            sums
        }
    }
    #[inline(always)]
    fn to_float(self, i: Self::I) -> Self::V {
        unsafe { _mm512_cvtepi32_ps(i) }
    }
    #[inline(always)]
    fn quantize<const Q: usize>(self, x: &[f32; BLOCK]) -> Group<Q> {
        unsafe {
            let x = [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))];
            let magnitude = _mm512_set1_epi32(i32::MAX);
            let magnitudes = halves!(i => _mm512_and_si512(_mm512_castps_si512(x[i]), magnitude));
            let most = _mm512_reduce_max_epu32(_mm512_max_epu32(magnitudes[0], magnitudes[1]));
            let (inverse, scale) = factors(f32::from_bits(most), greatest::<Q>());
            let (inverse, round) = (_mm512_set1_ps(inverse), _mm512_set1_ps(ROUND));
            let mut rest = halves!(i => _mm512_mul_ps(x[i], inverse));
            let mut group = Group { codes: [[0; BLOCK]; Q], scale, sums: [[0; 2]; Q] };
            for q in 0..Q {
                let mut rounded = halves!(i => _mm512_add_ps(rest[i], round));
                if q + 1 < Q {
                    let (part, base) = (_mm512_set1_ps(1.0 / BASE), _mm512_set1_ps(BASE));
                    let code = halves!(i => _mm512_sub_ps(rounded[i], round));
                    rounded = halves!(i => _mm512_add_ps(_mm512_mul_ps(code[i], part), round));
                    rest = halves!(i => {
                        _mm512_sub_ps(code[i], _mm512_mul_ps(base, _mm512_sub_ps(rounded[i], round)))
                    });
                }
                let bytes = halves!(i => _mm512_cvtepi32_epi8(_mm512_castps_si512(rounded[i])));
                group.sums[q] = halves!(i => {
                    _mm_storeu_si128(group.codes[q].as_mut_ptr().add(16 * i).cast(), bytes[i]);
                    _mm512_reduce_add_epi32(_mm512_cvtepi8_epi32(bytes[i]))
                });
            }
            group
        }
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_near(self, p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_to_write(self, p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(p.cast()) }
    }
}
