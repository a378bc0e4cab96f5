//! Attention against f64: packed sequences, and sequences of one length.

use super::{Dropout, Random, bits, close};
use crate::kernels::Isa;
use crate::kernels::attention::{AttentionArgs, attention_on};
use crate::threads::Barrier;

struct Case {
    /// Queries and keys of each sequence.
    lengths: Vec<(usize, usize)>,
    /// Whether offsets tell them; else all are equal.
    packed: bool,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    q_stride: usize,
    kv_stride: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    bias: Option<(usize, Vec<f32>)>,
    mask: Option<Vec<u8>>,
    causal: bool,
    scale: f32,
    dropout: Option<Dropout>,
}

impl Case {
    fn packed(random: &mut Random, lengths: &[usize], heads: usize, kv_heads: usize, dim: usize) -> Case {
        let lengths = lengths.iter().map(|&n| (n, n)).collect();
        Case::new(random, lengths, true, heads, kv_heads, dim)
    }

    fn new(
        random: &mut Random,
        lengths: Vec<(usize, usize)>,
        packed: bool,
        heads: usize,
        kv_heads: usize,
        dim: usize,
    ) -> Case {
        let (queries, keys) = lengths.iter().fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1));
        let (q_stride, kv_stride) = (heads * dim + random.pick(&[0, 3]), kv_heads * dim + random.pick(&[0, 7]));
        let longest = lengths.iter().map(|n| n.0.max(n.1)).max().unwrap_or(0);
        let positions = longest + random.pick(&[1, 10]);
        let bias = random.pick(&[false, true]).then(|| (positions, random.values(heads * (2 * positions - 1))));
        let mask =
            random.pick(&[false, false, true]).then(|| (0..keys).map(|_| random.pick(&[0, 1, 7, 255])).collect());
        Case {
            lengths,
            packed,
            heads,
            kv_heads,
            dim,
            q_stride,
            kv_stride,
            q: random.values(queries * q_stride),
            k: random.values(keys * kv_stride),
            v: random.values(keys * kv_stride),
            bias,
            mask,
            causal: random.pick(&[false, true]),
            // From scores near zero to such as need a shift.
            scale: random.pick(&[0.2, 1.0, 3.0, -0.5, 40.0]),
            dropout: None,
        }
    }

    fn run(&self, isa: Isa, threads: usize) -> Vec<f32> {
        self.run_sequences(isa, threads, 0..self.lengths.len())
    }

    /// The first query and the first key of a sequence.
    fn start(&self, sequence: usize) -> (usize, usize) {
        self.lengths[..sequence].iter().fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1))
    }

    /// The output rows of some of the sequences, run as a batch of their own.
    fn run_sequences(&self, isa: Isa, threads: usize, sequences: std::ops::Range<usize>) -> Vec<f32> {
        let (query, key) = self.start(sequences.start);
        let mut offsets = vec![0i32];
        for (queries, _) in &self.lengths[sequences.clone()] {
            offsets.push(offsets[offsets.len() - 1] + *queries as i32);
        }
        let stride = self.heads * self.dim + 1;
        let mut out = vec![7.5f32; offsets[offsets.len() - 1] as usize * stride];
        let (queries, keys) = self.lengths.first().copied().unwrap_or_default();
        let barrier = Barrier::new(threads);
        let args = AttentionArgs {
            q: self.q[query * self.q_stride..].as_ptr(),
            q_stride: self.q_stride as i64,
            k: self.k[key * self.kv_stride..].as_ptr(),
            k_stride: self.kv_stride as i64,
            v: self.v[key * self.kv_stride..].as_ptr(),
            v_stride: self.kv_stride as i64,
            out: out.as_mut_ptr(),
            out_stride: stride as i64,
            offsets: if self.packed { offsets.as_ptr() } else { std::ptr::null() },
            batch: sequences.len() as i64,
            queries: queries as i64,
            keys: keys as i64,
            heads: self.heads as i64,
            kv_heads: self.kv_heads as i64,
            head_dim: self.dim as i64,
            relative_bias: self.bias.as_ref().map_or(std::ptr::null(), |(_, table)| table.as_ptr()),
            positions: self.bias.as_ref().map_or(0, |&(positions, _)| positions as i64),
            key_mask: self.mask.as_ref().map_or(std::ptr::null(), |mask| mask[key..].as_ptr()),
            scale: self.scale,
            causal: self.causal.into(),
            key: self.dropout.as_ref().map_or(std::ptr::null(), |dropout| dropout.key.as_ptr()),
            dropped: self.dropout.map_or(0, |dropout| dropout.dropped),
            kept: self.dropout.map_or(1.0, Dropout::kept),
            barrier: &barrier,
        };
        let shared = &raw const args as usize;
        std::thread::scope(|scope| {
            for _ in 0..threads {
                // SAFETY: the operands above have the sizes the arguments name and outlive the scope.
                scope.spawn(move || unsafe { attention_on(isa, &*(shared as *const AttentionArgs), threads) });
            }
        });
        let mut rows = Vec::new();
        for row in out.chunks_exact(stride) {
            assert_eq!(row[stride - 1], 7.5, "nothing is written between the rows");
            rows.extend_from_slice(&row[..stride - 1]);
        }
        rows
    }

    /// Results, and the sums of their terms' magnitudes.
    fn reference(&self) -> Vec<(f64, f64)> {
        let mut out = vec![(0.0, 1.0); self.start(self.lengths.len()).0 * self.heads * self.dim];
        for (sequence, &(queries, keys)) in self.lengths.iter().enumerate() {
            let (query, key) = self.start(sequence);
            let ahead = if self.causal { keys as isize - queries as isize } else { 0 };
            for h in 0..self.heads {
                let kv = h / (self.heads / self.kv_heads);
                for i in 0..queries {
                    let place = i as isize + ahead;
                    let score = |j: usize| {
                        let q = &self.q[(query + i) * self.q_stride + h * self.dim..][..self.dim];
                        let k = &self.k[(key + j) * self.kv_stride + kv * self.dim..][..self.dim];
                        let dot: f64 = q.iter().zip(k).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                        let bias = self.bias.as_ref().map_or(0.0, |(p, table)| {
                            let column = (*p as isize - 1 + j as isize - place).clamp(0, 2 * *p as isize - 2);
                            table[h * (2 * p - 1) + column as usize]
                        });
                        dot * f64::from(self.scale) + f64::from(bias)
                    };
                    let seen = |&j: &usize| {
                        (!self.causal || j as isize <= place)
                            && self.mask.as_ref().is_none_or(|mask| mask[key + j] != 0)
                    };
                    let seen: Vec<usize> = (0..keys).filter(seen).collect();
                    let scores: Vec<f64> = seen.iter().map(|&j| score(j)).collect();
                    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                    let sum: f64 = weights.iter().sum();
                    for d in 0..self.dim {
                        let value = |j: usize| f64::from(self.v[(key + j) * self.kv_stride + kv * self.dim + d]);
                        let row = (query + i) * self.heads + h;
                        let factor = |j: usize| self.dropout.map_or(1.0, |dropout| dropout.factor(row, j));
                        let x: f64 = weights.iter().zip(&seen).map(|(w, &j)| w / sum * factor(j) * value(j)).sum();
                        // Roundings of large scores show in the weights.
                        out[((query + i) * self.heads + h) * self.dim + d] = (x, f64::from(self.scale.abs().max(1.0)));
                    }
                }
            }
        }
        out
    }

    fn kind(&self) -> String {
        let Case { heads, kv_heads, dim, causal, scale, .. } = self;
        let (bias, mask) = (self.bias.is_some(), self.mask.is_some());
        format!("heads {heads}/{kv_heads} × {dim} bias {bias} mask {mask} causal {causal} scale {scale}")
    }

    fn check(&self, what: &str) {
        self.check_within(3e-6, what);
    }

    fn check_within(&self, tolerance: f64, what: &str) {
        let expected = self.reference();
        let mut fused = Vec::new();
        for isa in Isa::available() {
            let whole = self.run(isa, 1);
            close(&whole, &expected, tolerance, &format!("{what} {isa:?}"));
            for threads in [2, 3, 7] {
                assert_eq!(bits(&whole), bits(&self.run(isa, threads)), "{what} {isa:?} on {threads} threads");
            }
            let mut row = 0;
            for (sequence, (len, _)) in self.lengths.iter().enumerate() {
                // What is dropped goes by the place in the batch.
                if self.dropout.is_none() || row == 0 {
                    let alone = self.run_sequences(isa, 1, sequence..sequence + 1);
                    let width = self.heads * self.dim;
                    let there = &whole[row * width..(row + len) * width];
                    assert_eq!(bits(&alone), bits(there), "{what} {isa:?}: sequence {sequence} alone");
                }
                row += len;
            }
            if isa != Isa::Portable {
                fused.push(bits(&whole));
            }
        }
        assert!(fused.windows(2).all(|pair| pair[0] == pair[1]), "{what}: instruction sets with FMA agree");
    }
}

/// AT-01 (encoder and causal forms, GQA, packed), AT-03 (masked keys and rows)
#[test]
fn attention_is_softmax_of_scores_times_values() {
    let mut random = Random(4);
    for round in 0..60 {
        let count = random.pick(&[0, 1, 2, 4]);
        let lengths: Vec<usize> = (0..count).map(|_| random.pick(&[0, 1, 2, 7, 16, 17, 47, 49, 100])).collect();
        let (heads, kv_heads) = random.pick(&[(1, 1), (2, 2), (4, 2), (3, 1)]);
        let dim = random.pick(&[1, 8, 20, 32, 48, 64, 80]);
        let case = Case::packed(&mut random, &lengths, heads, kv_heads, dim);
        case.check(&format!("round {round}: {lengths:?} {}", case.kind()));
    }
}

/// Weights that are dropped are zero, the others larger, in short sequences and over blocks of keys, with and without shifts.
#[test]
fn attention_drops_what_the_key_says() {
    let mut random = Random(12);
    let all = [vec![1], vec![0, 20, 7], vec![64, 65], vec![130, 3, 47], vec![600], vec![3, 520]];
    for (round, lengths) in all.iter().cycle().take(24).enumerate() {
        let (heads, kv_heads) = random.pick(&[(1, 1), (2, 2), (4, 2), (3, 1)]);
        let dim = random.pick(&[8, 20, 32, 64]);
        let mut case = Case::packed(&mut random, lengths, heads, kv_heads, dim);
        let key = [0; 2].map(|_: u32| random.bits() as u32);
        (case.mask, case.dropout) = (None, Some(Dropout { key, dropped: random.pick(&[6554, 32768, 65535]) }));
        // Few that are kept make large results.
        case.scale = random.pick(&[0.2, 1.0, 40.0]);
        case.check_within(
            3e-6 * f64::from(case.dropout.map_or(1.0, Dropout::kept)),
            &format!("round {round}: {lengths:?} {}", case.kind()),
        );
    }
}

/// AT-01 (padded, also with other keys than queries), AT-03
#[test]
fn attention_of_sequences_of_one_length() {
    let mut random = Random(7);
    for round in 0..60 {
        let lengths = vec![(random.pick(&[0, 1, 5, 33, 50]), random.pick(&[0, 1, 5, 33, 70])); random.pick(&[0, 1, 3])];
        let (heads, kv_heads) = random.pick(&[(1, 1), (2, 2), (4, 2), (3, 1)]);
        let dim = random.pick(&[1, 20, 32, 64]);
        let case = Case::new(&mut random, lengths, false, heads, kv_heads, dim);
        case.check(&format!("round {round}: {:?} {}", case.lengths, case.kind()));
    }
}

/// AT-06: past a key block the running softmax takes over.
#[test]
fn attention_over_long_sequences() {
    let mut random = Random(5);
    for (lengths, causal) in [(vec![513], false), (vec![700, 3], true), (vec![1100], true), (vec![1025], false)] {
        for scale in [1.0, 60.0] {
            let mut case = Case::packed(&mut random, &lengths, 2, 1, 16);
            (case.causal, case.scale) = (causal, scale);
            case.check(&format!("{lengths:?} {}", case.kind()));
        }
    }
}

/// Rows that need a shift, and values that must not be multiplied by large powers, beside others that are neither.
#[test]
fn scores_and_values_of_any_size() {
    let mut random = Random(8);
    for lengths in [vec![30, 20], vec![600]] {
        let mut case = Case::packed(&mut random, &lengths, 2, 2, 20);
        (case.bias, case.mask, case.causal, case.scale) = (None, None, false, 1.0);
        for row in [1, 3, 17, 18, 29] {
            let factor = random.pick(&[-300.0, 40.0, 1000.0]);
            case.q[row * case.q_stride..][..case.dim].fill(factor);
        }
        let expected = case.reference();
        for isa in Isa::available() {
            let found = case.run(isa, 1);
            // Where scores are in the thousands their roundings are all there is.
            for (row, (found, expected)) in found.chunks(40).zip(expected.chunks(40)).enumerate() {
                let tolerance = if [1, 3, 17, 18, 29].contains(&row) { 2e-3 } else { 3e-6 };
                close(found, expected, tolerance, &format!("{isa:?} row {row}"));
            }
        }
        for x in case.v.iter_mut().step_by(7) {
            *x *= 1e37;
        }
        for isa in Isa::available() {
            assert!(case.run(isa, 1).iter().all(|x| x.is_finite()), "{isa:?}");
        }
    }
}

/// AT-03: a key that is masked is no key, bit for bit.
#[test]
fn masked_keys_are_no_keys() {
    let mut random = Random(9);
    for dim in [16, 40] {
        let mut padded = Case::new(&mut random, vec![(70, 70); 2], false, 2, 1, dim);
        (padded.bias, padded.causal) = (None, false);
        let mut mask = vec![1; 140];
        mask[23..70].fill(0);
        padded.mask = Some(mask);
        let mut packed = Case::packed(&mut random, &[23, 70], 2, 1, dim);
        (packed.bias, packed.mask, packed.causal, packed.scale) = (None, None, false, padded.scale);
        (packed.q_stride, packed.kv_stride) = (padded.q_stride, padded.kv_stride);
        let keep = |x: &[f32], stride: usize| [&x[..23 * stride], &x[70 * stride..]].concat();
        packed.q = keep(&padded.q, padded.q_stride);
        packed.k = keep(&padded.k, padded.kv_stride);
        packed.v = keep(&padded.v, padded.kv_stride);
        for isa in Isa::available() {
            assert_eq!(bits(&keep(&padded.run(isa, 1), 2 * dim)), bits(&packed.run(isa, 2)), "{isa:?}");
        }
    }
}

/// AT-03
#[test]
fn rows_with_every_key_masked_are_zero_and_nan_is_not_hidden() {
    let mut random = Random(6);
    for lengths in [[20, 5], [600, 530]] {
        let mut case = Case::packed(&mut random, &lengths, 2, 2, 24);
        let mut mask = vec![1; lengths[0] + lengths[1]];
        mask[..lengths[0]].fill(0);
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
