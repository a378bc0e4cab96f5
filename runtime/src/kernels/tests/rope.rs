//! Rotary positions against the equation.

use super::{Random, bits};
use crate::kernels::rope::rope_on;
use crate::kernels::{Isa, RopeArgs};

/// ROPE-01: both kinds of pairs, part of a head or all of it, in place and not.
#[test]
fn heads_are_turned_by_their_tokens_angles() {
    let mut random = Random(12);
    for round in 0..100 {
        let (tokens, heads) = (random.pick(&[0, 1, 5, 33]), random.pick(&[1, 3, 9]));
        let half = random.pick(&[1, 4, 8, 16, 20, 32, 64]);
        let dim = 2 * half + random.pick(&[0, 0, 1, 16]);
        let interleaved = random.pick(&[false, true]);
        let (x_stride, out_stride, angle_stride) = (heads * dim + 3, heads * dim + 1, half + random.pick(&[0, 2]));
        let x = random.values(tokens * x_stride);
        let (cos, sin) = (random.values(tokens * angle_stride), random.values(tokens * angle_stride));
        let mut expected = vec![];
        for token in 0..tokens {
            for head in 0..heads {
                let x = &x[token * x_stride + head * dim..][..dim];
                let mut y = x.to_vec();
                for i in 0..half {
                    let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
                    let (cos, sin) = (cos[token * angle_stride + i], sin[token * angle_stride + i]);
                    (y[a], y[b]) = (x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin);
                }
                expected.extend(y);
            }
        }
        for (isa, threads, in_place) in Isa::available().flat_map(|i| [(i, 1, true), (i, 3, true), (i, 2, false)]) {
            let mut source = x.clone();
            let mut result = vec![7.5; tokens * out_stride];
            let from = source.as_mut_ptr();
            let (out, out_stride) = if in_place { (from, x_stride) } else { (result.as_mut_ptr(), out_stride) };
            let args = RopeArgs {
                x: from,
                x_stride: x_stride as i64,
                cos: cos.as_ptr(),
                sin: sin.as_ptr(),
                angle_stride: angle_stride as i64,
                out,
                out_stride: out_stride as i64,
                tokens: tokens as i64,
                heads: heads as i64,
                head_dim: dim as i64,
                half: half as i64,
                interleaved: interleaved.into(),
            };
            for thread in 0..threads {
                // SAFETY: the operands above have the sizes the arguments name.
                unsafe { rope_on(isa, &args, thread, threads) };
            }
            let rows = if in_place { &source } else { &result };
            let found: Vec<f32> = rows.chunks_exact(out_stride).flat_map(|row| row[..heads * dim].to_vec()).collect();
            assert_eq!(bits(&found), bits(&expected), "round {round} {isa:?} in place {in_place} {interleaved} {half}");
            let between = rows.chunks_exact(out_stride).zip(x.chunks_exact(x_stride));
            for (row, x) in between {
                let kept = if in_place { &x[heads * dim..] } else { &[7.5][..] };
                assert_eq!(row[heads * dim..], *kept, "nothing is written between the rows");
            }
        }
    }
}
