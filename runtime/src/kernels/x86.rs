//! The sixteen-lane vectors on x86-64: two AVX2 registers, or one of AVX-512.
//!
//! Why the unsafe blocks of this file are sound: the intrinsics that touch no memory only need their CPU features, and a
//! value of [`Avx2`] or [`Avx512`] exists only where [`Isa::detect`] found them; those that touch memory pass on the
//! promise of the method's caller.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::isa::Isa;
use super::lean;
use super::simd::{Element, Kernel, LANES, Simd};
use super::tile::{TileArgs, dispatch_tile, tile};

/// AVX2, FMA and F16C: proof that the CPU has them.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// AVX-512 F, BW, DQ, VL and VNNI: proof that the CPU has them.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx2 {
    /// The proof, if the CPU has AVX2, FMA and F16C.
    pub(crate) fn new() -> Option<Self> {
        (Isa::detect() >= Isa::Avx2).then_some(Avx2(()))
    }
}

impl Avx512 {
    /// The proof, if the CPU has AVX-512.
    pub(crate) fn new() -> Option<Self> {
        (Isa::detect() >= Isa::Avx512).then_some(Avx512(()))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn vectorize_avx2<K: Kernel>(s: Avx2, kernel: K) -> K::Output {
    kernel.run(s)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn vectorize_avx512<K: Kernel>(s: Avx512, kernel: K) -> K::Output {
    kernel.run(s)
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_avx2<S: Simd, E: Element, const R: usize, const P: usize>(s: S, t: &TileArgs<E>) {
    unsafe { tile::<S, E, R, P>(s, t) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn tile_avx512<S: Simd, E: Element, const R: usize, const P: usize>(s: S, t: &TileArgs<E>) {
    unsafe { tile::<S, E, R, P>(s, t) }
}

/// The same for both halves of a vector. No closure: one that is not inlined would lack the CPU features.
macro_rules! halves {
    ($i:ident => $body:expr) => {
        [
            {
                let $i = 0;
                $body
            },
            {
                let $i = 1;
                $body
            },
        ]
    };
}
pub(crate) use halves;

impl Simd for Avx2 {
    // 6×16: twelve accumulators, two columns of B and two broadcasts fill the sixteen registers.
    const ROWS: usize = 6;
    const PANELS: usize = 1;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        unsafe { vectorize_avx2(self, kernel) }
    }
    #[inline(always)]
    unsafe fn tile<E: Element>(self, rows: usize, panels: usize, args: &TileArgs<E>) {
        dispatch_tile!(tile_avx2, self, E, rows, panels, args, [1: 1 2 3 4 5 6])
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> Self::V {
        halves!(i => unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(8 * i).cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        })
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16) -> Self::V {
        halves!(i => unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.add(8 * i).cast())) })
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> Self::V {
        halves!(i => unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8 * i).cast()))) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [unsafe { _mm256_set1_ps(x) }; 2]
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(i => unsafe { _mm256_add_ps(a[i], b[i]) })
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(i => unsafe { _mm256_sub_ps(a[i], b[i]) })
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(i => unsafe { _mm256_mul_ps(a[i], b[i]) })
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(i => unsafe { _mm256_div_ps(a[i], b[i]) })
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(i => unsafe { _mm256_max_ps(a[i], b[i]) })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(i => unsafe { _mm256_min_ps(a[i], b[i]) })
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        halves!(i => unsafe { _mm256_fmadd_ps(a[i], b[i], c[i]) })
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        halves!(i => unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[i]) })
    }
    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        halves!(i => unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a[i]) })
    }
    #[inline(always)]
    fn copysign(self, a: Self::V, b: Self::V) -> Self::V {
        halves!(i => unsafe {
            let sign = _mm256_set1_ps(-0.0);
            _mm256_or_ps(_mm256_and_ps(sign, b[i]), _mm256_andnot_ps(sign, a[i]))
        })
    }
    #[inline(always)]
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        halves!(i => unsafe { _mm256_blendv_ps(y[i], x[i], _mm256_cmp_ps::<_CMP_LT_OQ>(a[i], b[i])) })
    }
    #[inline(always)]
    fn scale2(self, a: Self::V, n: Self::V) -> Self::V {
        // In two steps, since 2^n itself may be no normal number; only the last product can round.
        halves!(i => unsafe {
            let n = _mm256_cvtps_epi32(n[i]);
            let half = _mm256_srai_epi32::<1>(n);
            let bias = _mm256_set1_epi32(127);
            let rest = _mm256_sub_epi32(n, half);
            let first = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias)));
            let second = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(rest, bias)));
            _mm256_mul_ps(_mm256_mul_ps(a[i], first), second)
        })
    }
    #[inline(always)]
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES] {
        unsafe { transpose16_of_halves(rows) }
    }
}

/// The rows of an 8×8 matrix become its columns.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn transpose8(r: [__m256; 8]) -> [__m256; 8] {
    // Pairs of rows interleaved, then pairs of pairs, then the 128-bit halves exchanged.
    let t: [__m256; 8] = std::array::from_fn(|i| {
        let (a, b) = (r[i / 2 * 2], r[i / 2 * 2 + 1]);
        if i % 2 == 0 { _mm256_unpacklo_ps(a, b) } else { _mm256_unpackhi_ps(a, b) }
    });
    let u: [__m256; 8] = std::array::from_fn(|i| {
        let (a, b) = (t[i / 4 * 4 + i % 4 / 2], t[i / 4 * 4 + i % 4 / 2 + 2]);
        if i % 2 == 0 { _mm256_shuffle_ps::<0x44>(a, b) } else { _mm256_shuffle_ps::<0xEE>(a, b) }
    });
    std::array::from_fn(|i| {
        let (a, b) = (u[i % 4], u[i % 4 + 4]);
        if i < 4 { _mm256_permute2f128_ps::<0x20>(a, b) } else { _mm256_permute2f128_ps::<0x31>(a, b) }
    })
}

/// The rows of a 16×16 matrix become its columns: four 8×8 blocks, the off-diagonal ones swapped.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn transpose16_of_halves(rows: [[__m256; 2]; LANES]) -> [[__m256; 2]; LANES] {
    let block = |r: usize, c: usize| transpose8(std::array::from_fn(|i| rows[8 * r + i][c]));
    let (b00, b01, b10, b11) = (block(0, 0), block(0, 1), block(1, 0), block(1, 1));
    std::array::from_fn(|i| if i < 8 { [b00[i], b10[i]] } else { [b01[i - 8], b11[i - 8]] })
}

/// The rows of a 16×16 matrix become its columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn transpose16(r: [__m512; LANES]) -> [__m512; LANES] {
    // 4×4 blocks inside the 128-bit quarters first, then the quarters themselves in two steps.
    let t: [__m512; LANES] = std::array::from_fn(|i| {
        let (a, b) = (r[i / 2 * 2], r[i / 2 * 2 + 1]);
        if i % 2 == 0 { _mm512_unpacklo_ps(a, b) } else { _mm512_unpackhi_ps(a, b) }
    });
    let u: [__m512; LANES] = std::array::from_fn(|i| {
        let (a, b) = (t[i / 4 * 4 + i % 4 / 2], t[i / 4 * 4 + i % 4 / 2 + 2]);
        if i % 2 == 0 { _mm512_shuffle_ps::<0x44>(a, b) } else { _mm512_shuffle_ps::<0xEE>(a, b) }
    });
    // u[4g + c], quarter q: rows 4g..4g+4 of column 4q + c.
    let v: [__m512; LANES] = std::array::from_fn(|i| {
        let (pair, c, odd) = (i / 8, i % 4, i / 4 % 2);
        let (a, b) = (u[8 * pair + c], u[8 * pair + 4 + c]);
        if odd == 0 { _mm512_shuffle_f32x4::<0x88>(a, b) } else { _mm512_shuffle_f32x4::<0xDD>(a, b) }
    });
    // v[8*pair + 4*odd + c] holds quarters (a_odd, a_odd+2, b_odd, b_odd+2) of its two operands.
    std::array::from_fn(|i| {
        let (q, c) = (i / 4, i % 4);
        let (a, b) = (v[4 * (q % 2) + c], v[8 + 4 * (q % 2) + c]);
        if q < 2 { _mm512_shuffle_f32x4::<0x88>(a, b) } else { _mm512_shuffle_f32x4::<0xDD>(a, b) }
    })
}

impl Simd for Avx512 {
    // 12×32: 24 accumulators, two columns of B and the broadcast leave a few of the 32 registers; 14 loads feed 24
    // multiply-adds.
    const ROWS: usize = 12;
    const PANELS: usize = 2;
    const LEAN: [usize; 2] = [lean::ROWS, lean::PANELS];

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        unsafe { vectorize_avx512(self, kernel) }
    }
    #[inline(always)]
    unsafe fn tile<E: Element>(self, rows: usize, panels: usize, args: &TileArgs<E>) {
        dispatch_tile!(tile_avx512, self, E, rows, panels, args,
            [1: 1 2 3 4 5 6 7 8 9 10 11 12, 2: 1 2 3 4 5 6 7 8 9 10 11 12, 3: 1 2 3 4 5 6 7])
    }
    #[inline(always)]
    unsafe fn lean_tile(self, args: &TileArgs<f32>) {
        unsafe { lean::tile(args) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> Self::V {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16) -> Self::V {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> Self::V {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    fn copysign(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe {
            let sign = _mm512_set1_epi32(i32::MIN);
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            _mm512_castsi512_ps(_mm512_or_si512(_mm512_and_si512(sign, b), _mm512_andnot_si512(sign, a)))
        }
    }
    #[inline(always)]
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x) }
    }
    #[inline(always)]
    fn scale2(self, a: Self::V, n: Self::V) -> Self::V {
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    fn scale2_any(self, a: Self::V, n: Self::V) -> Self::V {
        self.scale2(a, n)
    }
    #[inline(always)]
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES] {
        unsafe { transpose16(rows) }
    }
}
