//! Attention over packed sequences against f64.

use super::{Random, bits, close};
use crate::kernels::Isa;
use crate::kernels::attention::{AttentionArgs, attention_on};

struct Case {
    lengths: Vec<usize>,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    q_stride: usize,
    kv_stride: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    bias: Option<(usize, Vec<f32>)>,
    mask: Option<Vec<f32>>,
    causal: bool,
    scale: f32,
}

impl Case {
    fn new(random: &mut Random, lengths: &[usize], heads: usize, kv_heads: usize, dim: usize) -> Case {
        let tokens = lengths.iter().sum::<usize>();
        let (q_stride, kv_stride) = (heads * dim + random.pick(&[0, 3]), kv_heads * dim + random.pick(&[0, 7]));
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let positions = longest + random.pick(&[1, 10]);
        let bias = random.pick(&[false, true]).then(|| (positions, random.values(heads * (2 * positions - 1))));
        let mask = random.pick(&[false, false, true]).then(|| {
            let one =
                |random: &mut Random| if random.bits().is_multiple_of(4) { f32::NEG_INFINITY } else { random.value() };
            (0..tokens).map(|_| one(random)).collect()
        });
        Case {
            lengths: lengths.to_vec(),
            heads,
            kv_heads,
            dim,
            q_stride,
            kv_stride,
            q: random.values(tokens * q_stride),
            k: random.values(tokens * kv_stride),
            v: random.values(tokens * kv_stride),
            bias,
            mask,
            causal: random.pick(&[false, true]),
            scale: random.pick(&[0.2, 1.0, 3.0, -0.5]),
        }
    }

    fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn run(&self, isa: Isa, threads: usize) -> Vec<f32> {
        self.run_sequences(isa, threads, 0..self.lengths.len())
    }

    /// The output rows of some of the sequences, run as a batch of their own.
    fn run_sequences(&self, isa: Isa, threads: usize, sequences: std::ops::Range<usize>) -> Vec<f32> {
        let start: usize = self.lengths[..sequences.start].iter().sum();
        let mut offsets = vec![0i32];
        for len in &self.lengths[sequences] {
            offsets.push(offsets[offsets.len() - 1] + *len as i32);
        }
        let stride = self.heads * self.dim + 1;
        let mut out = vec![7.5f32; offsets[offsets.len() - 1] as usize * stride];
        let args = AttentionArgs {
            q: self.q[start * self.q_stride..].as_ptr(),
            q_stride: self.q_stride as i64,
            k: self.k[start * self.kv_stride..].as_ptr(),
            k_stride: self.kv_stride as i64,
            v: self.v[start * self.kv_stride..].as_ptr(),
            v_stride: self.kv_stride as i64,
            out: out.as_mut_ptr(),
            out_stride: stride as i64,
            offsets: offsets.as_ptr(),
            batch: offsets.len() as i64 - 1,
            heads: self.heads as i64,
            kv_heads: self.kv_heads as i64,
            head_dim: self.dim as i64,
            relative_bias: self.bias.as_ref().map_or(std::ptr::null(), |(_, table)| table.as_ptr()),
            positions: self.bias.as_ref().map_or(0, |&(positions, _)| positions as i64),
            key_mask: self.mask.as_ref().map_or(std::ptr::null(), |mask| mask[start..].as_ptr()),
            scale: self.scale,
            causal: self.causal.into(),
        };
        for thread in 0..threads {
            // SAFETY: the operands above have the sizes the arguments name.
            unsafe { attention_on(isa, &args, thread, threads) };
        }
        let mut rows = Vec::new();
        for row in out.chunks_exact(stride) {
            assert_eq!(row[stride - 1], 7.5, "nothing is written between the rows");
            rows.extend_from_slice(&row[..stride - 1]);
        }
        rows
    }

    fn reference(&self) -> Vec<(f64, f64)> {
        let mut out = vec![(0.0, 1.0); self.tokens() * self.heads * self.dim];
        let mut start = 0;
        for &len in &self.lengths {
            for h in 0..self.heads {
                let kv = h / (self.heads / self.kv_heads);
                for i in 0..len {
                    let score = |j: usize| {
                        let q = &self.q[(start + i) * self.q_stride + h * self.dim..][..self.dim];
                        let k = &self.k[(start + j) * self.kv_stride + kv * self.dim..][..self.dim];
                        let dot: f64 = q.iter().zip(k).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                        let bias = self.bias.as_ref().map_or(0.0, |(p, table)| table[h * (2 * p - 1) + p - 1 + j - i]);
                        let mask = self.mask.as_ref().map_or(0.0, |mask| mask[start + j]);
                        dot * f64::from(self.scale) + f64::from(bias) + f64::from(mask)
                    };
                    let keys = if self.causal { i + 1 } else { len };
                    let scores: Vec<f64> = (0..keys).map(score).collect();
                    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    if largest == f64::NEG_INFINITY {
                        continue;
                    }
                    let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                    let sum: f64 = weights.iter().sum();
                    for d in 0..self.dim {
                        let value = |j: usize| f64::from(self.v[(start + j) * self.kv_stride + kv * self.dim + d]);
                        let x: f64 = weights.iter().enumerate().map(|(j, w)| w / sum * value(j)).sum();
                        out[((start + i) * self.heads + h) * self.dim + d] = (x, 1.0);
                    }
                }
            }
            start += len;
        }
        out
    }

    fn check(&self, what: &str) {
        let expected = self.reference();
        let mut fused = Vec::new();
        for isa in Isa::available() {
            let whole = self.run(isa, 1);
            close(&whole, &expected, 3e-6, &format!("{what} {isa:?}"));
            for threads in [2, 3, 7] {
                assert_eq!(bits(&whole), bits(&self.run(isa, threads)), "{what} {isa:?} on {threads} threads");
            }
            let mut row = 0;
            for (sequence, len) in self.lengths.iter().enumerate() {
                let alone = self.run_sequences(isa, 1, sequence..sequence + 1);
                let width = self.heads * self.dim;
                let there = &whole[row * width..(row + len) * width];
                assert_eq!(bits(&alone), bits(there), "{what} {isa:?}: sequence {sequence} alone");
                row += len;
            }
            if isa != Isa::Portable {
                fused.push(bits(&whole));
            }
        }
        assert!(fused.windows(2).all(|pair| pair[0] == pair[1]), "{what}: instruction sets with FMA agree");
    }
}

/// AT-01 (encoder and causal forms, GQA, packed), AT-03 (masked rows)
#[test]
fn attention_is_softmax_of_scores_times_values() {
    let mut random = Random(4);
    for round in 0..50 {
        let count = random.pick(&[0, 1, 2, 4]);
        let lengths: Vec<usize> = (0..count).map(|_| random.pick(&[0, 1, 2, 7, 16, 17, 47, 49, 100])).collect();
        let (heads, kv_heads) = random.pick(&[(1, 1), (2, 2), (4, 2), (3, 1)]);
        let dim = random.pick(&[1, 8, 20, 32, 48, 64, 80]);
        let case = Case::new(&mut random, &lengths, heads, kv_heads, dim);
        let (bias, mask, causal) = (case.bias.is_some(), case.mask.is_some(), case.causal);
        let what = format!(
            "round {round}: {lengths:?} heads {heads}/{kv_heads} × {dim} bias {bias} mask {mask} causal {causal}"
        );
        case.check(&what);
    }
}

/// AT-06: past a key block the running softmax takes over.
#[test]
fn attention_over_long_sequences() {
    let mut random = Random(5);
    for (lengths, causal) in [(vec![513], false), (vec![700, 3], true), (vec![1100], true), (vec![1025], false)] {
        let mut case = Case::new(&mut random, &lengths, 2, 1, 16);
        case.causal = causal;
        case.check(&format!("{lengths:?} causal {causal}"));
    }
}

/// AT-03
#[test]
fn rows_with_every_key_masked_are_zero_and_nan_is_not_hidden() {
    let mut random = Random(6);
    for lengths in [[20, 5], [600, 530]] {
        let mut case = Case::new(&mut random, &lengths, 2, 2, 24);
        let mut mask = vec![0.0; case.tokens()];
        mask[..lengths[0]].fill(f32::NEG_INFINITY);
        (case.mask, case.causal) = (Some(mask), false);
        case.check("masked");
        for isa in Isa::available() {
            let out = case.run(isa, 1);
            assert!(out[..lengths[0] * 48].iter().all(|&x| x == 0.0));
            assert!(out[lengths[0] * 48..].iter().any(|&x| x != 0.0));
        }
        // The second sequence's second query, first head.
        case.q[(lengths[0] + 1) * case.q_stride] = f32::NAN;
        for isa in Isa::available() {
            let out = case.run(isa, 1);
            let nan: Vec<usize> = (0..out.len()).filter(|&i| out[i].is_nan()).collect();
            let first = (lengths[0] + 1) * 48;
            assert_eq!(nan, (first..first + 24).collect::<Vec<_>>());
        }
    }
}
