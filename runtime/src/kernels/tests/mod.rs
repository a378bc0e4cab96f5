//! The kernels against f64 references, against each other on every instruction set of this CPU, and against
//! themselves in other batches and on other numbers of threads.

mod append;
mod attention;
mod attention_grad;
mod dot;
mod gemm;
mod paged;
mod quant;
mod random;
mod rope;
mod scatter;
mod vmath;

use lith_ir::testing::attention_number;

/// Deterministic values: a small generator is enough to place every operand (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// From -1 to 1.
    pub fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    /// One of the choices.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[(self.bits() % from.len() as u64) as usize]
    }
}

pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Dropout of attention, as its definition says it, word by word.
#[derive(Clone, Copy)]
pub struct Dropout {
    pub key: [u32; 2],
    /// Of 65536 numbers.
    pub dropped: u32,
}

impl Dropout {
    pub fn kept(self) -> f32 {
        65536.0 / (65536 - self.dropped) as f32
    }

    /// What the weight of a key at this position is multiplied by; `row` is query token · heads + head.
    pub fn factor(self, row: usize, place: usize) -> f64 {
        if attention_number(self.key, row, place) < self.dropped { 0.0 } else { f64::from(self.kept()) }
    }
}

/// Fails unless each `found` is within `tolerance` times its `scale` of what was `expected`.
pub fn close(found: &[f32], expected: &[(f64, f64)], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&found, &(value, scale))) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - value).abs();
        assert!(
            error <= tolerance * scale,
            "{what}: element {i} is {found}, expected {value} within {tolerance} of {scale}"
        );
    }
}
