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
        let counter = [row as u32, (place / 64 * 16 + place % 16) as u32];
        let word = threefry(self.key, counter)[place / 32 % 2];
        let number = if (place / 16).is_multiple_of(2) { word & 0xffff } else { word >> 16 };
        if number < self.dropped { 0.0 } else { f64::from(self.kept()) }
    }
}

/// Threefry-2x32 with 20 rounds (Salmon et al. 2011, section 3.3).
fn threefry(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    let keys = [key[0], key[1], key[0] ^ key[1] ^ 0x1BD1_1BDA];
    let [mut a, mut b] = [counter[0].wrapping_add(keys[0]), counter[1].wrapping_add(keys[1])];
    for round in 0..20 {
        a = a.wrapping_add(b);
        b = b.rotate_left([13, 15, 26, 6, 17, 29, 16, 24][round % 8]) ^ a;
        if round % 4 == 3 {
            let n = round / 4 + 1;
            a = a.wrapping_add(keys[n % 3]);
            b = b.wrapping_add(keys[(n + 1) % 3]).wrapping_add(n as u32);
        }
    }
    [a, b]
}

/// The known answers that the generator's authors publish with it.
#[test]
fn threefry_of_the_reference_gives_its_known_answers() {
    assert_eq!(threefry([0; 2], [0; 2]), [0x6b20_0159, 0x99ba_4efe]);
    assert_eq!(threefry([u32::MAX; 2], [u32::MAX; 2]), [0x1cb9_96fc, 0xbb00_2be7]);
    assert_eq!(threefry([0x1319_8a2e, 0x0370_7344], [0x243f_6a88, 0x85a3_08d3]), [0xc492_3a9c, 0x483d_f7a0]);
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
