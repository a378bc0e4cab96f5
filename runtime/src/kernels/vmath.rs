//! Exponential, error function and tanh on sixteen lanes, and over slices for compiled code.
//!
//! The polynomials are minimax fits (Remez exchange) on the ranges named beside them. Largest errors against f64, in
//! units in the last place of the exact result, over every 997th float (the test `vector_math_is_accurate` holds these as
//! bounds): exp2 1.0, exp 1.1, erf 1.5, tanh 2.0.

use super::isa::Isa;
use super::simd::{Kernel, LANES, Simd};

/// A function of one vector.
pub(crate) trait Function: Copy {
    /// The function of each lane.
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V;
}

/// `c[0] + c[1] x + c[2] x² + ...`, by Horner's rule.
#[inline(always)]
fn polynomial<S: Simd>(s: S, x: S::V, c: &[f32]) -> S::V {
    let mut sum = s.splat(c[c.len() - 1]);
    for &c in c[..c.len() - 1].iter().rev() {
        sum = s.fma(sum, x, s.splat(c));
    }
    sum
}

/// 2^f on [-1/2, 1/2]: relative error 2^-29.
const EXP2: [f32; 7] =
    [1.0, std::f32::consts::LN_2, 0.240_226_46, 0.055_503_286, 0.009_618_489, 0.001_339_993_1, 0.000_153_458_27];
/// log2(e), and what its f32 value lacks.
pub(crate) const LOG2_E: f32 = std::f32::consts::LOG2_E;
const LOG2_E_REST: f32 = 1.925_963e-8;

/// 2^x; 0 below -150, infinity from 128 on.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(s: S, x: S::V) -> S::V {
    exp2_sum(s, x, s.splat(0.0))
}

/// 2^f on [-1/2, 1/2] for weights of a mean: relative error 2^-23.4.
#[allow(clippy::approx_constant, reason = "the best fit is not ln 2")]
const EXP2_OF_WEIGHT: [f32; 6] = [1.0, 0.693_147, 0.240_222_42, 0.055_507_336, 0.009_671_513, 0.001_326_472_7];

/// 2^x; NaN for infinities.
#[inline(always)]
pub(crate) fn exp2_of_finite<S: Simd>(s: S, x: S::V) -> S::V {
    let n = s.round(x);
    s.scale2_any(polynomial(s, s.sub(x, n), &EXP2_OF_WEIGHT), n)
}

/// 2^x for x ≤ 0 (or NaN), minus infinity included: the bits of [`exp2_of_finite`].
#[inline(always)]
pub(crate) fn exp2_of_negative<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.max(s.splat(-160.0), x);
    let n = s.round(x);
    s.scale2(polynomial(s, s.sub(x, n), &EXP2_OF_WEIGHT), n)
}

/// 2^(x + rest), `rest` being small.
#[inline(always)]
fn exp2_sum<S: Simd>(s: S, x: S::V, rest: S::V) -> S::V {
    // The bounds keep the power of two in the reach of `scale2`; a NaN, being the second operand, passes.
    let x = s.min(s.splat(160.0), s.max(s.splat(-160.0), x));
    let n = s.round(x);
    let f = s.add(s.sub(x, n), rest);
    s.scale2(polynomial(s, f, &EXP2), n)
}

/// e^x, by way of 2^(x log2 e) with the product in two parts.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // Beyond these bounds the result is 0 or infinity anyway; within, no intermediate is infinite.
    let x = s.min(s.splat(110.0), s.max(s.splat(-110.0), x));
    let product = s.mul(x, s.splat(LOG2_E));
    let lost = s.fma(x, s.splat(LOG2_E), s.sub(s.splat(0.0), product));
    exp2_sum(s, product, s.fma(x, s.splat(LOG2_E_REST), lost))
}

/// Where [`erf`] changes its formula.
const ERF_SPLIT: f32 = 0.9375;
/// erf(x)/x - 1 in x² on [0, 0.9375²]: error 2^-30.
const ERF_SMALL: [f32; 7] =
    [0.128_379_17, -0.376_126_32, 0.112_836_86, -0.026_858_851, 0.005_199_599_5, -0.000_812_580_4, 8.296_603_5e-5];
/// -log2(1 - erf(x)) on [0.9375, 4]: error of erf 2^-29.
const ERFC_LOG2: [f32; 7] =
    [0.000_322_545_85, 1.626_726_6, 0.919_536_77, 0.149_699_6, -0.031_950_53, 0.004_361_420_4, -0.000_279_731_03];

/// The error function.
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    let t = s.abs(x);
    let near = s.fma(t, polynomial(s, s.mul(t, t), &ERF_SMALL), t);
    // At 4 the distance to 1 is below half a unit in the last place.
    let q = polynomial(s, s.min(s.splat(4.0), t), &ERFC_LOG2);
    let far = s.sub(s.splat(1.0), exp2(s, s.sub(s.splat(0.0), q)));
    s.copysign(s.select_lt(t, s.splat(ERF_SPLIT), near, far), x)
}

/// Where [`tanh`] changes its formula.
const TANH_SPLIT: f32 = 0.625;
/// (tanh(x)/x - 1)/x² in x² on [0, 0.625²]: relative error of tanh 2^-28.
const TANH_SMALL: [f32; 5] = [-0.333_332_84, 0.133_314_9, -0.053_743_497, 0.020_650_584, -0.005_717_042];

/// The hyperbolic tangent; 1 - 2/(e^2x + 1) where x is not small.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let t = s.abs(x);
    let square = s.mul(t, t);
    let near = s.fma(s.mul(t, square), polynomial(s, square, &TANH_SMALL), t);
    let one = s.splat(1.0);
    let power = exp(s, s.add(t, t));
    let far = s.sub(one, s.div(s.splat(2.0), s.add(power, one)));
    s.copysign(s.select_lt(t, s.splat(TANH_SPLIT), near, far), x)
}

/// x Φ(x) = x/2 (1 + erf(x/√2)): GELU as its paper defines it (Hendrycks and Gimpel 2016).
#[inline(always)]
pub(crate) fn gelu_erf<S: Simd>(s: S, x: S::V) -> S::V {
    let half = s.mul(x, s.splat(0.5));
    s.fma(half, erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2))), half)
}

/// x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))): the tanh approximation of GELU from the same paper.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let half = s.mul(x, s.splat(0.5));
    let cube = s.mul(s.mul(x, x), x);
    let inner = s.mul(s.fma(cube, s.splat(0.044_715), x), s.splat(0.797_884_6));
    s.fma(half, tanh(s, inner), half)
}

struct Map<F> {
    function: F,
    x: *mut f32,
    n: usize,
}

impl<F: Function> Kernel for Map<F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let full = self.n / LANES * LANES;
        // SAFETY: `x` holds `n` values (the entries below pass on their caller's promise).
        unsafe {
            for i in (0..full).step_by(LANES) {
                let p = self.x.add(i);
                s.store(p, self.function.apply(s, s.load(p)));
            }
            if full < self.n {
                let (p, rest) = (self.x.add(full), self.n - full);
                let y = self.function.apply(s, s.load_partial(p, rest, 0.0));
                s.store_partial(p, rest, y);
            }
        }
    }
}

/// An entry that maps a function over `n` values in place.
macro_rules! slice_entries {
    ($($(#[$doc:meta])* $entry:ident = $function:ident as $name:ident;)+) => {$(
        #[derive(Clone, Copy)]
        pub(crate) struct $name;

        impl Function for $name {
            #[inline(always)]
            fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
                $function(s, x)
            }
        }

        $(#[$doc])*
        ///
        /// # Safety
        /// `x` is readable and writable for `n` values, and nobody else touches them meanwhile.
        pub unsafe extern "C" fn $entry(x: *mut f32, n: i64) {
            Isa::current().run(Map { function: $name, x, n: n.max(0) as usize });
        }
    )+};
}

slice_entries! {
    /// e^x of `n` values in place.
    exp_in_place = exp as Exp;
    /// erf(x) of `n` values in place.
    erf_in_place = erf as Erf;
    /// tanh(x) of `n` values in place.
    tanh_in_place = tanh as Tanh;
    /// GELU, x Φ(x), of `n` values in place.
    gelu_erf_in_place = gelu_erf as GeluErf;
    /// GELU in its tanh approximation, of `n` values in place.
    gelu_tanh_in_place = gelu_tanh as GeluTanh;
}
