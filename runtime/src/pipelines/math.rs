//! The arithmetic after a model: in float32 and in NumPy's order of summation, so that scores agree with Transformers'.
//! Must not know what the numbers mean.

use serde_json::{Value, json};

/// The sum in NumPy's pairwise order: blocks of up to 128 with eight partial sums, halves beyond.
pub(super) fn sum(values: &[f32]) -> f32 {
    let n = values.len();
    if n < 8 {
        return values.iter().fold(0.0, |a, b| a + b);
    }
    if n <= 128 {
        let (blocks, rest) = values.split_at(n - n % 8);
        let mut r = [0.0f32; 8];
        for (i, block) in blocks.chunks_exact(8).enumerate() {
            for (r, &x) in r.iter_mut().zip(block) {
                *r = if i == 0 { x } else { *r + x };
            }
        }
        let total = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
        return rest.iter().fold(total, |a, b| a + b);
    }
    let half = n / 2 - (n / 2) % 8;
    let (a, b) = values.split_at(half);
    sum(a) + sum(b)
}

/// The arithmetic mean; 0 of nothing.
pub(super) fn mean(values: &[f32]) -> f32 {
    if values.is_empty() { 0.0 } else { sum(values) / values.len() as f32 }
}

/// `exp(x) / sum(exp(x))`, shifted by the largest value.
pub(super) fn softmax(values: &[f32]) -> Vec<f32> {
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut exp: Vec<f32> = values.iter().map(|x| (x - max).exp()).collect();
    let total = sum(&exp);
    exp.iter_mut().for_each(|x| *x /= total);
    exp
}

/// `1 / (1 + exp(-x))` of each value.
pub(super) fn sigmoid(values: &[f32]) -> Vec<f32> {
    values.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect()
}

/// Index of the first largest value; 0 of nothing.
pub(super) fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, x) in values.iter().enumerate() {
        if *x > values[best] {
            best = i;
        }
    }
    best
}

/// A float32 as a JSON number: its exact value. (PO-22)
pub(super) fn number(x: f32) -> Value {
    json!(f64::from(x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_follow_numpy() {
        // NumPy gives these sums of 1/1 + 1/2 + ... in float32.
        let values: Vec<f32> = (1..=1000).map(|i| 1.0 / i as f32).collect();
        assert_eq!([sum(&values), sum(&values[..100]), sum(&values[..130])], [7.485_471_7, 5.187_378_4, 5.448_592]);
        let counted: Vec<f32> = (0..300).map(|i| i as f32).collect();
        assert_eq!(sum(&counted), 44850.0);
        assert_eq!(mean(&counted), 149.5);
        assert_eq!(mean(&[]), 0.0);
    }

    #[test]
    fn softmax_of_large_values_is_finite() {
        assert_eq!(softmax(&[1e30, 1e30]), [0.5, 0.5]);
        let scores = softmax(&[1.0, 2.0, 3.0]);
        for (score, expected) in scores.iter().zip([0.09003057, 0.24472848, 0.66524094]) {
            assert!((score - expected).abs() < 1e-7);
        }
        assert_eq!(sigmoid(&[0.0]), [0.5]);
    }

    #[test]
    fn argmax_takes_the_first() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[]), 0);
    }
}
