//! Rotary position embedding (Su et al. 2021): each head's pairs of elements turned by the angles of their token.
//!
//! Every product and sum is rounded by itself, as the op's decomposition has it, so the bits are the interpreter's.

use super::gemm::part;
use super::isa::Isa;
use super::simd::{Kernel, LANES, Simd};

/// Arguments of [`rope`]. Strides count elements.
#[repr(C)]
pub struct RopeArgs {
    /// Tokens × (heads · head_dim), a token's values contiguous.
    pub x: *const f32,
    /// From one token of `x` to the next.
    pub x_stride: i64,
    /// Cosines: tokens × half.
    pub cos: *const f32,
    /// Sines: tokens × half.
    pub sin: *const f32,
    /// From one token of `cos` and of `sin` to the next.
    pub angle_stride: i64,
    /// Output, as `x`; `x` itself (with its stride), or no byte shared with it.
    pub out: *mut f32,
    /// From one token of `out` to the next.
    pub out_stride: i64,
    /// Tokens.
    pub tokens: i64,
    /// Heads.
    pub heads: i64,
    /// Values of a head, at least 2 · `half`; those past 2 · `half` stay as they are.
    pub head_dim: i64,
    /// Pairs of a head.
    pub half: i64,
    /// 1 if the pairs are elements (2i, 2i + 1), 0 if (i, i + half).
    pub interleaved: u32,
}

/// The part of `thread` of `threads`.
///
/// # Safety
/// The operands are as [`RopeArgs`] describes them, alive, and `out` not accessed by others until all threads are through.
pub unsafe extern "C" fn rope(args: *const RopeArgs, thread: i64, threads: i64) {
    // SAFETY: the caller's promise.
    unsafe { rope_on(Isa::current(), &*args, thread as usize, threads as usize) }
}

/// [`rope`] on a given instruction set.
///
/// # Safety
/// As for [`rope`].
pub(crate) unsafe fn rope_on(isa: Isa, args: &RopeArgs, thread: usize, threads: usize) {
    debug_assert!(thread < threads);
    isa.run(Rope { args, thread, threads });
}

struct Rope<'a> {
    args: &'a RopeArgs,
    thread: usize,
    threads: usize,
}

impl Kernel for Rope<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let args = self.args;
        let (heads, dim, half) = (args.heads.max(0) as usize, args.head_dim as usize, args.half as usize);
        for i in part(args.tokens.max(0) as usize * heads, self.thread, self.threads) {
            let (token, head) = (i / heads, i % heads);
            // SAFETY: this head of this token is in the operands, and this thread's alone.
            unsafe {
                let x = args.x.add(token * args.x_stride as usize + head * dim);
                let out = args.out.add(token * args.out_stride as usize + head * dim);
                let cos = args.cos.add(token * args.angle_stride as usize);
                let sin = args.sin.add(token * args.angle_stride as usize);
                if args.interleaved != 0 {
                    turn_neighbours(x, cos, sin, out, half);
                } else {
                    turn_halves(s, x, cos, sin, out, half);
                }
                if x != out.cast_const() {
                    std::ptr::copy_nonoverlapping(x.add(2 * half), out.add(2 * half), dim - 2 * half);
                }
            }
        }
    }
}

/// Pairs (i, i + half).
///
/// # Safety
/// `x` is readable and `out` writable for 2 · `half` values, `cos` and `sin` readable for `half`; `out` is `x` or apart.
#[inline(always)]
unsafe fn turn_halves<S: Simd>(s: S, x: *const f32, cos: *const f32, sin: *const f32, out: *mut f32, half: usize) {
    for i in (0..half).step_by(LANES) {
        let n = LANES.min(half - i);
        // SAFETY: `n` pairs from `i` on are left, in the two halves and in the angles.
        unsafe {
            if n == LANES {
                let (a, b) = (s.load(x.add(i)), s.load(x.add(half + i)));
                let (cos, sin) = (s.load(cos.add(i)), s.load(sin.add(i)));
                s.store(out.add(i), s.sub(s.mul(a, cos), s.mul(b, sin)));
                s.store(out.add(half + i), s.add(s.mul(b, cos), s.mul(a, sin)));
            } else {
                let (a, b) = (s.load_partial(x.add(i), n, 0.0), s.load_partial(x.add(half + i), n, 0.0));
                let (cos, sin) = (s.load_partial(cos.add(i), n, 0.0), s.load_partial(sin.add(i), n, 0.0));
                s.store_partial(out.add(i), n, s.sub(s.mul(a, cos), s.mul(b, sin)));
                s.store_partial(out.add(half + i), n, s.add(s.mul(b, cos), s.mul(a, sin)));
            }
        }
    }
}

/// Pairs (2i, 2i + 1).
///
/// # Safety
/// As for [`turn_halves`].
#[inline(always)]
unsafe fn turn_neighbours(x: *const f32, cos: *const f32, sin: *const f32, out: *mut f32, half: usize) {
    for i in 0..half {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, b, cos, sin) = (*x.add(2 * i), *x.add(2 * i + 1), *cos.add(i), *sin.add(i));
            *out.add(2 * i) = a * cos - b * sin;
            *out.add(2 * i + 1) = b * cos + a * sin;
        }
    }
}
