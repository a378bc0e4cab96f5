//! Sixteen f32 lanes as one vector, whatever the machine: the vocabulary all kernels are written in.
//!
//! A value of a type that implements [`Simd`] is the proof that the CPU has the instructions, so arithmetic is safe and
//! only memory access is not. Every operation works lane by lane with one IEEE rounding, so all implementations give the same bits (see [`Isa`](super::isa::Isa) for the one exception).

use half::{bf16, f16};

use super::tile::{TileArgs, dispatch_tile, tile};
use super::words::Words;

/// Lanes of a vector, and outputs of a weight panel.
pub const LANES: usize = 16;

/// A computation that can run on any [`Simd`].
pub(crate) trait Kernel {
    /// What it answers.
    type Output;
    /// Must be `#[inline(always)]`, so that it is compiled with the instructions of `S`; so must what it calls, and
    /// vectors must not be handled in closures, unless what calls them is inlined for certain.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// How an element of a panel is stored; arithmetic is f32 always.
pub(crate) trait Element: Copy + 'static {
    /// Sixteen stored elements as f32 lanes.
    ///
    /// # Safety
    /// `p` is readable for sixteen elements.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::V;

    /// Rows and panels of the register tile for contractions of many rows.
    #[inline(always)]
    fn tile<S: Simd>() -> [usize; 2] {
        [S::ROWS, S::PANELS]
    }

    /// A tile of `rows` and `panels`, at most as many as [`Element::tile`] says.
    ///
    /// # Safety
    /// See [`TileArgs`].
    #[inline(always)]
    unsafe fn multiply<S: Simd>(s: S, rows: usize, panels: usize, args: &TileArgs<Self>) {
        // SAFETY: the caller's promise.
        unsafe { s.tile(rows, panels, args) }
    }
}

impl Element for f32 {
    #[inline(always)]
    fn tile<S: Simd>() -> [usize; 2] {
        S::LEAN
    }

    #[inline(always)]
    unsafe fn multiply<S: Simd>(s: S, rows: usize, panels: usize, args: &TileArgs<f32>) {
        // SAFETY: the caller's promise.
        unsafe { if [rows, panels] == S::LEAN { s.lean_tile(args) } else { s.tile(rows, panels, args) } }
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load(p) }
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const bf16) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_bf16(p) }
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f16) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_f16(p) }
    }
}

impl Element for i8 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const i8) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_i8(p) }
    }
}

/// Sixteen-lane arithmetic on one instruction set.
pub(crate) trait Simd: Words {
    /// Rows of the largest register tile.
    const ROWS: usize;
    /// Panels (of sixteen columns) of the largest register tile.
    const PANELS: usize;
    /// Rows and panels of the register tile that takes the fewest instructions for each multiply-add, which decide where
    /// a core's other hardware thread is busy.
    const LEAN: [usize; 2] = [Self::ROWS, Self::PANELS];

    /// Runs `kernel` with the instructions of this set enabled.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output;

    /// The register tile of `rows` by `panels`: up to [`Simd::ROWS`] by [`Simd::PANELS`], or fewer than [`Simd::LEAN`].
    ///
    /// # Safety
    /// See [`TileArgs`].
    unsafe fn tile<E: Element>(self, rows: usize, panels: usize, args: &TileArgs<E>);

    /// The register tile of [`Simd::LEAN`].
    ///
    /// # Safety
    /// See [`TileArgs`].
    #[inline(always)]
    unsafe fn lean_tile(self, args: &TileArgs<f32>) {
        // SAFETY: the caller's promise.
        unsafe { self.tile(Self::LEAN[0], Self::LEAN[1], args) }
    }

    /// # Safety
    /// `p` is readable for 16 values.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `p` is readable for 16 values.
    unsafe fn load_bf16(self, p: *const bf16) -> Self::V;
    /// # Safety
    /// `p` is readable for 16 values.
    unsafe fn load_f16(self, p: *const f16) -> Self::V;
    /// # Safety
    /// `p` is readable for 16 values.
    unsafe fn load_i8(self, p: *const i8) -> Self::V;
    /// # Safety
    /// `p` is writable for 16 values.
    unsafe fn store(self, p: *mut f32, v: Self::V);

    fn splat(self, x: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` if either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` if either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    fn abs(self, a: Self::V) -> Self::V;
    /// The magnitude of `a` with the sign of `b`.
    fn copysign(self, a: Self::V, b: Self::V) -> Self::V;
    /// Per lane `if a < b { x } else { y }`.
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// `a * 2^n` rounded once, for integral `n` in -252..=254 and `a` in 0.5..=2.
    fn scale2(self, a: Self::V, n: Self::V) -> Self::V;
    /// `a * 2^n` rounded once, for any `n` that is no NaN, and `a` in 0.5..=2: 0 and infinity beyond the reach of `f32`.
    #[inline(always)]
    fn scale2_any(self, a: Self::V, n: Self::V) -> Self::V {
        self.scale2(a, self.min(self.splat(254.0), self.max(self.splat(-252.0), n)))
    }
    /// The rows of a 16×16 matrix become its columns.
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES];

    /// The lanes as an array.
    #[inline(always)]
    fn to_array(self, v: Self::V) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        // SAFETY: the array is sixteen values long.
        unsafe { self.store(lanes.as_mut_ptr(), v) };
        lanes
    }

    /// The first `n` < 16 values at `p`, other lanes `fill`.
    ///
    /// # Safety
    /// `p` is readable for `n` values.
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize, fill: f32) -> Self::V {
        let mut lanes = [fill; LANES];
        // SAFETY: `n` values are readable at `p`, and n < 16 fit the array.
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n.min(LANES));
            self.load(lanes.as_ptr())
        }
    }

    /// Writes the first `n` < 16 lanes to `p`.
    ///
    /// # Safety
    /// `p` is writable for `n` values.
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: Self::V) {
        let lanes = self.to_array(v);
        // SAFETY: `n` values are writable at `p`, and n < 16 are in the array.
        unsafe { std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n.min(LANES)) }
    }
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn map2(a: [f32; LANES], b: [f32; LANES], op: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| op(a[i], b[i]))
}

impl Simd for Portable {
    const ROWS: usize = 2;
    const PANELS: usize = 1;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    unsafe fn tile<E: Element>(self, rows: usize, panels: usize, args: &TileArgs<E>) {
        dispatch_tile!(tile, self, E, rows, panels, args, [1: 1 2])
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: the caller's promise; unaligned is fine for `read_unaligned`.
        unsafe { p.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[bf16; LANES]>().read_unaligned() }.map(bf16::to_f32)
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[f16; LANES]>().read_unaligned() }.map(f16::to_f32)
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> Self::V {
        // SAFETY: the caller's promise; an array of bytes has no alignment.
        unsafe { p.cast::<[i8; LANES]>().read() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(v) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Without the instruction `mul_add` is a library call per lane. In f64 the product is exact, and rounding the sum
        // a second time to f32 almost never shows.
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
        } else {
            std::array::from_fn(|i| (f64::from(a[i]) * f64::from(b[i]) + f64::from(c[i])) as f32)
        }
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn copysign(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, f32::copysign)
    }
    #[inline(always)]
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn scale2(self, a: Self::V, n: Self::V) -> Self::V {
        // In two steps, since 2^n itself may be no normal number; only the last product can round.
        map2(a, n, |a, n| {
            let n = n as i32;
            let half = n >> 1;
            a * power_of_two(half) * power_of_two(n - half)
        })
    }
    #[inline(always)]
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES] {
        std::array::from_fn(|c| std::array::from_fn(|r| rows[r][c]))
    }
}

/// 2^n for n in -126..=127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}
