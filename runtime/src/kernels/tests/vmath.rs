//! Vector functions against f64, in units in the last place.

use super::bits;
use crate::kernels::isa::Isa;
use crate::kernels::simd::{Kernel, LANES, Simd};
use crate::kernels::vmath::{self, Exp, Function, GeluErf, GeluTanh, Tanh};

struct Apply<'a, F>(F, &'a [f32]);

impl<F: Function> Kernel for Apply<'_, F> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.1.len());
        for x in self.1.chunks(LANES) {
            let mut full = [0.0; LANES];
            full[..x.len()].copy_from_slice(x);
            // SAFETY: the array is a vector long.
            let x = unsafe { s.load(full.as_ptr()) };
            out.extend_from_slice(&s.to_array(self.0.apply(s, x)));
        }
        out.truncate(self.1.len());
        out
    }
}

#[derive(Clone, Copy)]
struct Exp2;

impl Function for Exp2 {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
        vmath::exp2(s, x)
    }
}

/// Floats in ascending order of magnitude, both signs, up to `most`: every 997th of them.
fn sweep(most: f32) -> Vec<f32> {
    (0..=most.to_bits()).step_by(997).map(f32::from_bits).flat_map(|x| [x, -x]).collect()
}

/// The largest error in units in the last place of the f32 nearest to the exact value, and where.
fn worst(found: &[f32], xs: &[f32], exact: impl Fn(f64) -> f64) -> (f64, f32) {
    let mut worst = (0.0, 0.0);
    for (&y, &x) in found.iter().zip(xs) {
        let value = exact(f64::from(x));
        let nearest = value as f32;
        if nearest.is_infinite() {
            assert_eq!(y, nearest, "at {x:e}");
            continue;
        }
        let binade = nearest.abs().max(f32::MIN_POSITIVE).to_bits() & 0x7F80_0000;
        let ulp = f64::from(f32::from_bits(binade)) / f64::from(1 << 23);
        let error = (f64::from(y) - value).abs() / ulp;
        assert!(error.is_finite(), "{y} at {x:e}");
        if error > worst.0 {
            worst = (error, x);
        }
    }
    worst
}

/// erf in f64 to about 1e-15 (relative): its series (Abramowitz and Stegun 7.1.6), and the continued fraction 7.1.14 of
/// erfc where that is slow.
fn erf(x: f64) -> f64 {
    let t = x.abs();
    let value = if t < 3.0 {
        let (mut term, mut sum) = (t, t);
        for n in 1..120 {
            term *= 2.0 * t * t / f64::from(2 * n + 1);
            sum += term;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-t * t).exp() * sum
    } else {
        let mut fraction = 0.0;
        for n in (1..60).rev() {
            fraction = f64::from(n) / 2.0 / (t + fraction);
        }
        1.0 - (-t * t).exp() / (std::f64::consts::PI.sqrt() * (t + fraction))
    };
    value.copysign(x)
}

/// One function on every instruction set: the accuracy, and that all agree.
fn check<F: Function>(name: &str, function: F, xs: &[f32], bound: f64, exact: impl Fn(f64) -> f64) {
    for isa in Isa::available() {
        let found = isa.run(Apply(function, xs));
        let (error, at) = worst(&found, xs, &exact);
        println!("{name} {isa:?}: {error:.3} ulp at {at:e}");
        assert!(error <= bound, "{name} on {isa:?} is {error} ulp off at {at:e}");
    }
    let fused: Vec<_> =
        Isa::available().filter(|&isa| isa != Isa::Portable).map(|isa| bits(&isa.run(Apply(function, xs)))).collect();
    assert!(fused.windows(2).all(|pair| pair[0] == pair[1]), "{name}: instruction sets with FMA agree");
}

#[test]
fn vector_math_is_accurate() {
    check("exp2", Exp2, &sweep(155.0), 1.0, f64::exp2);
    check("exp", Exp, &sweep(106.0), 1.1, f64::exp);
    check("erf", vmath::Erf, &sweep(8.0), 1.5, erf);
    check("tanh", Tanh, &sweep(20.0), 2.0, f64::tanh);
}

#[test]
fn vector_math_at_the_ends() {
    let xs = [f32::NEG_INFINITY, f32::INFINITY, -1e30, 1e30, 0.0, -0.0, f32::NAN];
    for isa in Isa::available() {
        let expect = |found: Vec<f32>, expected: [f32; 6]| {
            assert_eq!(bits(&found[..6]), bits(&expected), "{isa:?}");
            assert!(found[6].is_nan(), "{isa:?} keeps NaN");
        };
        expect(isa.run(Apply(Exp2, &xs)), [0.0, f32::INFINITY, 0.0, f32::INFINITY, 1.0, 1.0]);
        expect(isa.run(Apply(Exp, &xs)), [0.0, f32::INFINITY, 0.0, f32::INFINITY, 1.0, 1.0]);
        expect(isa.run(Apply(vmath::Erf, &xs)), [-1.0, 1.0, -1.0, 1.0, 0.0, -0.0]);
        expect(isa.run(Apply(Tanh, &xs)), [-1.0, 1.0, -1.0, 1.0, 0.0, -0.0]);
    }
}

#[test]
fn slices_of_any_length_are_mapped_in_place() {
    for n in [0usize, 1, 15, 16, 17, 50] {
        let xs: Vec<f32> = (0..n).map(|i| i as f32 * 0.21 - 4.0).collect();
        type Entry = unsafe extern "C" fn(*mut f32, i64);
        let gelu = |x: f64| x / 2.0 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
        let gelu_tanh =
            |x: f64| x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh());
        let cases: [(Entry, &dyn Fn(f64) -> f64); 5] = [
            (vmath::exp_in_place, &f64::exp),
            (vmath::erf_in_place, &erf),
            (vmath::tanh_in_place, &f64::tanh),
            (vmath::gelu_erf_in_place, &gelu),
            (vmath::gelu_tanh_in_place, &gelu_tanh),
        ];
        for (entry, exact) in cases {
            let mut ys = xs.clone();
            ys.push(9.0);
            // SAFETY: `n` of the n + 1 values.
            unsafe { entry(ys.as_mut_ptr(), n as i64) };
            assert_eq!(ys.pop(), Some(9.0), "nothing past the end is touched");
            for (&x, &y) in xs.iter().zip(&ys) {
                let value = exact(f64::from(x));
                assert!((f64::from(y) - value).abs() <= 3e-7 * value.abs().max(1.0), "{x}: {y}, expected {value}");
            }
        }
    }
    // Both GELUs are exact functions of a lane, so the entries above and a vector of them agree.
    let x = [0.3f32; LANES];
    assert!(Isa::current().run(Apply(GeluErf, &x)).iter().all(|y| (y - 0.185_373_4).abs() < 1e-6));
    assert!(Isa::current().run(Apply(GeluTanh, &x)).iter().all(|y| (y - 0.185_37).abs() < 1e-4));
}
