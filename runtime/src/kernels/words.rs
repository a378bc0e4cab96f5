//! Sixteen 32-bit words as one vector: what a counter-based generator is made of.

use super::quant::bytes::Bytes;
use super::simd::{LANES, Portable};

/// Integer arithmetic, modulo 2^32, on the sixteen integers of an instruction set.
pub(crate) trait Words: Bytes {
    /// The lanes of an array.
    fn words(self, lanes: [u32; LANES]) -> Self::I;
    fn splat_word(self, x: u32) -> Self::I;
    /// Puts the lanes into an array.
    fn store_words(self, to: &mut [u32; LANES], a: Self::I);
    fn add_words(self, a: Self::I, b: Self::I) -> Self::I;
    fn xor_words(self, a: Self::I, b: Self::I) -> Self::I;
    /// The bits of each lane turned up by `UP`; `DOWN` is 32 less that.
    fn rotate<const UP: i32, const DOWN: i32>(self, a: Self::I) -> Self::I;
    /// The low and the high 16 bits of each lane.
    fn halves(self, a: Self::I) -> [Self::I; 2];
}

impl Words for Portable {
    #[inline(always)]
    fn words(self, lanes: [u32; LANES]) -> Self::I {
        lanes.map(u32::cast_signed)
    }
    #[inline(always)]
    fn splat_word(self, x: u32) -> Self::I {
        [x.cast_signed(); LANES]
    }
    #[inline(always)]
    fn store_words(self, to: &mut [u32; LANES], a: Self::I) {
        *to = a.map(i32::cast_unsigned);
    }
    #[inline(always)]
    fn add_words(self, a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn xor_words(self, a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|i| a[i] ^ b[i])
    }
    #[inline(always)]
    fn rotate<const UP: i32, const DOWN: i32>(self, a: Self::I) -> Self::I {
        a.map(|x| x.rotate_left(UP.cast_unsigned()))
    }
    #[inline(always)]
    fn halves(self, a: Self::I) -> [Self::I; 2] {
        [a.map(|x| x & 0xffff), a.map(|x| (x.cast_unsigned() >> 16).cast_signed())]
    }
}

/// The same in vector registers. The intrinsics touch no memory but arrays of their own, and a value of `Avx2` or `Avx512`
/// is the proof that the CPU has them.
#[cfg(target_arch = "x86_64")]
#[allow(clippy::undocumented_unsafe_blocks, reason = "see above")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LANES, Words};
    use crate::kernels::x86::{Avx2, Avx512, halves};

    impl Words for Avx2 {
        #[inline(always)]
        fn words(self, lanes: [u32; LANES]) -> Self::I {
            halves!(i => unsafe { _mm256_loadu_si256(lanes.as_ptr().add(8 * i).cast()) })
        }
        #[inline(always)]
        fn splat_word(self, x: u32) -> Self::I {
            [unsafe { _mm256_set1_epi32(x.cast_signed()) }; 2]
        }
        #[inline(always)]
        fn store_words(self, to: &mut [u32; LANES], a: Self::I) {
            halves!(i => unsafe { _mm256_storeu_si256(to.as_mut_ptr().add(8 * i).cast(), a[i]) });
        }
        #[inline(always)]
        fn add_words(self, a: Self::I, b: Self::I) -> Self::I {
            halves!(i => unsafe { _mm256_add_epi32(a[i], b[i]) })
        }
        #[inline(always)]
        fn xor_words(self, a: Self::I, b: Self::I) -> Self::I {
            halves!(i => unsafe { _mm256_xor_si256(a[i], b[i]) })
        }
        #[inline(always)]
        fn rotate<const UP: i32, const DOWN: i32>(self, a: Self::I) -> Self::I {
            halves!(i => unsafe { _mm256_or_si256(_mm256_slli_epi32::<UP>(a[i]), _mm256_srli_epi32::<DOWN>(a[i])) })
        }
        #[inline(always)]
        fn halves(self, a: Self::I) -> [Self::I; 2] {
            let low = halves!(i => unsafe { _mm256_and_si256(a[i], _mm256_set1_epi32(0xffff)) });
            [low, halves!(i => unsafe { _mm256_srli_epi32::<16>(a[i]) })]
        }
    }

    impl Words for Avx512 {
        #[inline(always)]
        fn words(self, lanes: [u32; LANES]) -> Self::I {
            unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
        }
        #[inline(always)]
        fn splat_word(self, x: u32) -> Self::I {
            unsafe { _mm512_set1_epi32(x.cast_signed()) }
        }
        #[inline(always)]
        fn store_words(self, to: &mut [u32; LANES], a: Self::I) {
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), a) }
        }
        #[inline(always)]
        fn add_words(self, a: Self::I, b: Self::I) -> Self::I {
            unsafe { _mm512_add_epi32(a, b) }
        }
        #[inline(always)]
        fn xor_words(self, a: Self::I, b: Self::I) -> Self::I {
            unsafe { _mm512_xor_si512(a, b) }
        }
        #[inline(always)]
        fn rotate<const UP: i32, const DOWN: i32>(self, a: Self::I) -> Self::I {
            unsafe { _mm512_rol_epi32::<UP>(a) }
        }
        #[inline(always)]
        fn halves(self, a: Self::I) -> [Self::I; 2] {
            unsafe { [_mm512_and_si512(a, _mm512_set1_epi32(0xffff)), _mm512_srli_epi32::<16>(a)] }
        }
    }
}
