//! Gradients of attention against f64.

use super::{Dropout, Random, bits, close};
use crate::kernels::Isa;
use crate::kernels::attention::{AttentionGradArgs, attention_grad_on};
use crate::threads::Barrier;

struct Case {
    lengths: Vec<usize>,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    /// Of q, k, v and dy.
    strides: [usize; 4],
    operands: [Vec<f32>; 4],
    bias: Option<(usize, Vec<f32>)>,
    causal: bool,
    scale: f32,
    dropout: Option<Dropout>,
}

impl Case {
    fn new(random: &mut Random, lengths: &[usize], heads: usize, kv_heads: usize, dim: usize) -> Case {
        let tokens: usize = lengths.iter().sum();
        let widths = [heads, kv_heads, kv_heads, heads].map(|h| h * dim);
        let strides = widths.map(|w| w + random.pick(&[0, 3]));
        let operands = strides.map(|stride| random.values(tokens * stride));
        let positions = random.pick(&[3, 100]);
        let bias = random.pick(&[false, true]).then(|| (positions, random.values(heads * (2 * positions - 1))));
        let causal = random.pick(&[false, true]);
        let scale = random.pick(&[0.2, 1.0, -0.5]);
        let key = [0; 2].map(|_: u32| random.bits() as u32);
        let dropped = random.pick(&[0, 6554, 32768]);
        let dropout = (dropped > 0).then_some(Dropout { key, dropped });
        Case { lengths: lengths.to_vec(), heads, kv_heads, dim, strides, operands, bias, causal, scale, dropout }
    }

    fn offsets(&self) -> Vec<i32> {
        let mut offsets = vec![0i32];
        for &length in &self.lengths {
            offsets.push(offsets[offsets.len() - 1] + length as i32);
        }
        offsets
    }

    fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.dim
    }

    fn run(&self, isa: Isa, threads: usize) -> Vec<f32> {
        let (offsets, stride) = (self.offsets(), self.width() + 1);
        let tokens: usize = self.lengths.iter().sum();
        let mut out = vec![7.5f32; tokens * stride];
        let barrier = Barrier::new(threads);
        let [q, k, v, dy] = [0, 1, 2, 3].map(|i| self.operands[i].as_ptr());
        let [q_stride, k_stride, v_stride, dy_stride] = self.strides.map(|s| s as i64);
        let args = AttentionGradArgs {
            q,
            q_stride,
            k,
            k_stride,
            v,
            v_stride,
            dy,
            dy_stride,
            out: out.as_mut_ptr(),
            out_stride: stride as i64,
            offsets: offsets.as_ptr(),
            batch: self.lengths.len() as i64,
            heads: self.heads as i64,
            kv_heads: self.kv_heads as i64,
            head_dim: self.dim as i64,
            relative_bias: self.bias.as_ref().map_or(std::ptr::null(), |(_, table)| table.as_ptr()),
            positions: self.bias.as_ref().map_or(0, |&(positions, _)| positions as i64),
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
                scope.spawn(move || unsafe { attention_grad_on(isa, &*(shared as *const AttentionGradArgs)) });
            }
        });
        let mut rows = Vec::new();
        for row in out.chunks_exact(stride) {
            assert_eq!(row[stride - 1], 7.5, "nothing is written between the rows");
            rows.extend_from_slice(&row[..stride - 1]);
        }
        rows
    }

    /// Each gradient, and the sum of the magnitudes that it is made of.
    fn reference(&self) -> Vec<(f64, f64)> {
        let tokens: usize = self.lengths.iter().sum();
        let mut out = vec![(0.0, 0.0); tokens * self.width()];
        let at = |which: usize, token: usize, column: usize| {
            f64::from(self.operands[which][token * self.strides[which] + column])
        };
        let (dim, scale) = (self.dim, f64::from(self.scale));
        for (bounds, head) in self.offsets().windows(2).flat_map(|w| (0..self.heads).map(move |h| ([w[0], w[1]], h))) {
            let [start, end] = bounds.map(|b| b as usize);
            let kv = head * self.kv_heads / self.heads;
            for query in start..end {
                let seen = if self.causal { query + 1 } else { end };
                let dot = |a: usize, i: usize, x: usize, b: usize, j: usize, y: usize| -> f64 {
                    (0..dim).map(|c| at(a, i, x * dim + c) * at(b, j, y * dim + c)).sum()
                };
                let scores: Vec<f64> = (start..seen)
                    .map(|key| {
                        let bias = self.bias.as_ref().map_or(0.0, |(positions, table)| {
                            let columns = 2 * *positions as isize - 1;
                            let column = *positions as isize - 1 + key as isize - query as isize;
                            f64::from(table[head * columns as usize + column.clamp(0, columns - 1) as usize])
                        });
                        dot(0, query, head, 1, key, kv) * scale + bias
                    })
                    .collect();
                let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|x| (x - greatest).exp()).sum();
                let p: Vec<f64> = scores.iter().map(|x| (x - greatest).exp() / total).collect();
                let row = query * self.heads + head;
                let factor = |place: usize| self.dropout.map_or(1.0, |dropout| dropout.factor(row, place));
                let dp: Vec<f64> =
                    (start..seen).map(|key| dot(3, query, head, 2, key, kv) * factor(key - start)).collect();
                let mean: f64 = p.iter().zip(&dp).map(|(p, d)| p * d).sum();
                let size: f64 = p.iter().zip(&dp).map(|(p, d)| p * d.abs()).sum();
                for (i, key) in (start..seen).enumerate() {
                    let ds = p[i] * (dp[i] - mean) * scale;
                    let weight = p[i] * (dp[i].abs() + size) * scale.abs();
                    for c in 0..dim {
                        let mut add = |token: usize, column: usize, x: f64, y: f64| {
                            let to = &mut out[token * self.width() + column * dim + c];
                            *to = (to.0 + x * y, to.1 + x.abs().max(weight) * y.abs());
                        };
                        add(query, head, ds, at(1, key, kv * dim + c));
                        add(key, self.heads + kv, ds, at(0, query, head * dim + c));
                        let to = &mut out[key * self.width() + (self.heads + self.kv_heads + kv) * dim + c];
                        let y = at(3, query, head * dim + c);
                        let p = p[i] * factor(i);
                        *to = (to.0 + p * y, to.1 + p * y.abs());
                    }
                }
            }
        }
        out
    }
}

#[test]
fn gradients_of_attention_are_those_of_its_formula() {
    let mut random = Random(11);
    for (lengths, heads, kv_heads, dim) in [
        (&[1][..], 1, 1, 1),
        (&[5, 0, 17], 2, 1, 8),
        (&[48, 49, 3], 4, 2, 16),
        (&[130], 3, 3, 32),
        (&[33, 64], 4, 1, 20),
        (&[100, 47], 2, 2, 64),
    ] {
        for _ in 0..6 {
            let case = Case::new(&mut random, lengths, heads, kv_heads, dim);
            let what =
                format!("{lengths:?} {heads}/{kv_heads} {dim} causal {} bias {}", case.causal, case.bias.is_some());
            let what = format!("{what} dropout {:?}", case.dropout.map(|dropout| dropout.dropped));
            let reference = case.reference();
            for isa in Isa::available() {
                let whole = case.run(isa, 1);
                close(&whole, &reference, 2e-5, &format!("{what} {isa:?}"));
                for threads in [2, 5] {
                    assert_eq!(bits(&whole), bits(&case.run(isa, threads)), "{what} {isa:?} on {threads} threads");
                }
            }
        }
    }
}
