//! Writing to a paged key/value cache, and how a page of it lies in memory.
//!
//! A page holds [`PAGE_TOKENS`] tokens. Within the part of a page that belongs to one cache, elements lie as attention
//! reads them, so that nothing is packed at a call: keys of each head in panels of sixteen tokens, `[4][d][16]`; values of
//! each head row by row, `[64][d]`; scales of each head side by side, `[64]`.

use half::{bf16, f16, slice::HalfFloatSliceExt};
use lith_ir::plan::PAGE_TOKENS;
use lith_ir::{CachePart, DType};

use super::gemm::part;
use super::isa::Isa;
use super::simd::{Kernel, LANES, Simd};

/// How the elements of a cache are stored. The discriminant is what [`AppendArgs`] and
/// [`PagedArgs`](super::PagedArgs) carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum CacheType {
    /// IEEE single precision.
    F32 = 0,
    /// The upper half of a single.
    Bf16 = 1,
    /// IEEE half precision.
    F16 = 2,
    /// Two's complement, to be multiplied by the scale of its token and head.
    I8 = 3,
}

impl CacheType {
    /// The type of a cache, if it can be one.
    pub fn of(dtype: DType) -> Option<CacheType> {
        match dtype {
            DType::F32 => Some(CacheType::F32),
            DType::Bf16 => Some(CacheType::Bf16),
            DType::F16 => Some(CacheType::F16),
            DType::I8 => Some(CacheType::I8),
            _ => None,
        }
    }
}

/// Arguments of [`cache_append`].
#[repr(C)]
pub struct AppendArgs {
    /// The cache's part of the first page.
    pub cache: *mut u8,
    /// Bytes from one page to the next.
    pub page_stride: i64,
    /// Pages.
    pub pages: i64,
    /// What the cache holds: a [`CachePart`] as a number.
    pub part: i64,
    /// How the cache is stored: a [`CacheType`] as a number.
    pub dtype: i64,
    /// The tokens: tokens × (heads · head_dim), a token's values contiguous.
    pub x: *const u8,
    /// How `x` is stored: that of the cache, or `f32` for a cache of floats, whose elements are rounded to nearest, ties
    /// to even.
    pub x_dtype: i64,
    /// Elements from one token of `x` to the next.
    pub x_stride: i64,
    /// Heads.
    pub heads: i64,
    /// Values of a head; 1 for scales.
    pub head_dim: i64,
    /// Where each token goes: slot n · 64 + i is place i of page n. Slots are distinct; one that is not in the cache is
    /// not written.
    pub slots: *const i32,
    /// Tokens.
    pub tokens: i64,
}

/// The part of `thread` of `threads`.
///
/// # Safety
/// The operands are as [`AppendArgs`] describes them, alive, and the slots of the cache not accessed by others until all
/// threads are through.
pub unsafe extern "C" fn cache_append(args: *const AppendArgs, thread: i64, threads: i64) {
    // SAFETY: the caller's promise.
    unsafe { append_on(Isa::current(), &*args, thread as usize, threads as usize) }
}

/// [`cache_append`] on a given instruction set.
///
/// # Safety
/// As for [`cache_append`].
pub(crate) unsafe fn append_on(isa: Isa, args: &AppendArgs, thread: usize, threads: usize) {
    debug_assert!(thread < threads);
    if args.tokens <= 0 || args.heads <= 0 {
        return;
    }
    // SAFETY: there is a slot for each token.
    let slots = unsafe { std::slice::from_raw_parts(args.slots, args.tokens as usize) };
    macro_rules! append {
        ($x:ty, $cache:ty) => {
            isa.run(Append::<$x, $cache> { args, slots, thread, threads, types: std::marker::PhantomData })
        };
    }
    const F32: i64 = CacheType::F32 as i64;
    const BF16: i64 = CacheType::Bf16 as i64;
    const F16: i64 = CacheType::F16 as i64;
    const I8: i64 = CacheType::I8 as i64;
    match (args.x_dtype, args.dtype) {
        (F32, F32) => append!(f32, f32),
        (F32, BF16) => append!(f32, bf16),
        (F32, F16) => append!(f32, f16),
        // Elements of the same type are moved only.
        (BF16, BF16) | (F16, F16) => append!(u16, u16),
        (I8, I8) => append!(i8, i8),
        (x, cache) => unreachable!("elements of type {x} for a cache of type {cache}"),
    }
}

struct Append<'a, X, C> {
    args: &'a AppendArgs,
    slots: &'a [i32],
    thread: usize,
    threads: usize,
    types: std::marker::PhantomData<(X, C)>,
}

impl<X: Stored<C>, C: Copy> Kernel for Append<'_, X, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let args = self.args;
        let (tokens, dim) = (self.slots.len(), args.head_dim as usize);
        let slots_of_all = args.pages.max(0) as usize * PAGE_TOKENS;
        let inside = |slot: i32| usize::try_from(slot).ok().filter(|&slot| slot < slots_of_all);
        // Head by head, so that a thread's share of a long prompt is neighbouring tokens.
        let share = part(tokens * args.heads as usize, self.thread, self.threads);
        let mut i = share.start;
        while i < share.end {
            let (head, token) = (i / tokens, i % tokens);
            // SAFETY: token and head are in `x`, the slot is in the cache, and no other thread has them.
            unsafe {
                let x = args.x.cast::<X>().add(token * args.x_stride as usize + head * dim);
                let Some(slot) = inside(self.slots[token]) else {
                    i += 1;
                    continue;
                };
                let page = args.cache.add(slot / PAGE_TOKENS * args.page_stride as usize);
                let (head, place) = (page.cast::<C>().add(head * PAGE_TOKENS * dim), slot % PAGE_TOKENS);
                if args.part != CachePart::Keys as i64 {
                    X::row(x, head.add(place * dim), dim);
                    i += 1;
                    continue;
                }
                let panel = head.add(place / LANES * LANES * dim);
                let ahead = (share.end - i).min(tokens - token);
                let whole = place.is_multiple_of(LANES) && ahead >= LANES && {
                    let next = &self.slots[token..token + LANES];
                    next.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == 1)
                };
                if whole {
                    X::panel(s, x, args.x_stride as usize, panel, dim);
                    i += LANES;
                } else {
                    X::column(x, panel.add(place % LANES), dim);
                    i += 1;
                }
            }
        }
    }
}

/// An element that is stored in a cache as a `C`.
trait Stored<C: Copy>: Copy {
    fn convert(self) -> C;

    /// `n` elements side by side.
    ///
    /// # Safety
    /// `x` is readable and `to` writable for `n` values.
    #[inline(always)]
    unsafe fn row(x: *const Self, to: *mut C, n: usize) {
        for i in 0..n {
            // SAFETY: the caller's promise.
            unsafe { *to.add(i) = (*x.add(i)).convert() };
        }
    }

    /// `n` elements, each sixteen after the one before.
    ///
    /// # Safety
    /// `x` is readable for `n` values, `to` writable at every sixteenth place as often.
    #[inline(always)]
    unsafe fn column(x: *const Self, to: *mut C, n: usize) {
        for i in 0..n {
            // SAFETY: the caller's promise.
            unsafe { *to.add(i * LANES) = (*x.add(i)).convert() };
        }
    }

    /// Sixteen rows of `n` elements become `n` rows of sixteen.
    ///
    /// # Safety
    /// `x` is readable for sixteen rows `stride` apart, `to` writable for `n` · 16 values.
    #[inline(always)]
    unsafe fn panel<S: Simd>(_: S, x: *const Self, stride: usize, to: *mut C, n: usize) {
        for row in 0..LANES {
            // SAFETY: the caller's promise.
            unsafe { Self::column(x.add(row * stride), to.add(row), n) };
        }
    }
}

impl Stored<i8> for i8 {
    #[inline(always)]
    fn convert(self) -> i8 {
        self
    }
}

impl Stored<u16> for u16 {
    #[inline(always)]
    fn convert(self) -> u16 {
        self
    }
}

/// A float narrowed from sixteen lanes.
macro_rules! stored_from_f32 {
    ($($to:ty: $one:expr, $lanes:expr;)+) => {$(
        impl Stored<$to> for f32 {
            #[inline(always)]
            fn convert(self) -> $to {
                $one(self)
            }

            #[inline(always)]
            unsafe fn row(x: *const f32, to: *mut $to, n: usize) {
                // SAFETY: the caller's promise.
                unsafe { $lanes(std::slice::from_raw_parts(x, n), std::slice::from_raw_parts_mut(to, n)) };
            }

            #[inline(always)]
            unsafe fn panel<S: Simd>(s: S, x: *const f32, stride: usize, to: *mut $to, n: usize) {
                let mut column = 0;
                while n - column >= LANES {
                    let mut rows = [s.splat(0.0); LANES];
                    for (r, row) in rows.iter_mut().enumerate() {
                        // SAFETY: row `r` has sixteen values from `column` on.
                        *row = unsafe { s.load(x.add(r * stride + column)) };
                    }
                    for (i, lanes) in s.transpose(rows).into_iter().enumerate() {
                        // SAFETY: the caller's promise.
                        let to = unsafe { std::slice::from_raw_parts_mut(to.add((column + i) * LANES), LANES) };
                        $lanes(&s.to_array(lanes), to);
                    }
                    column += LANES;
                }
                for row in 0..LANES {
                    // SAFETY: the columns that are left of each row.
                    unsafe { Self::column(x.add(row * stride + column), to.add(column * LANES + row), n - column) };
                }
            }
        }
    )+};
}

stored_from_f32! {
    f32: (|x| x), (|x: &[f32], to: &mut [f32]| to.copy_from_slice(x));
    f16: f16::from_f32, (|x: &[f32], to: &mut [f16]| to.convert_from_f32_slice(x));
    bf16: bf16::from_f32, (|x: &[f32], to: &mut [bf16]| to.convert_from_f32_slice(x));
}
