//! The composites of decoders against formulas written out in plain `f64`.

mod common;

use std::collections::BTreeMap;

use common::{floats, near, random, run, run_in};
use lith_ir::interp::{Mode, Tensor};
use lith_ir::testing::Rng;
use lith_ir::{CachePart, DType, Op};

fn ints(values: &[i64]) -> Tensor {
    Tensor::ints(DType::I32, &[values.len()], values.to_vec()).unwrap()
}

#[test]
fn rms_norm() {
    let mut rng = Rng::new(21);
    let (rows, n) = (3, 7);
    let (x, w) = (random(&mut rng, &[rows, n]), random(&mut rng, &[n]));
    let (x0, w0) = (x.as_floats().unwrap(), w.as_floats().unwrap());
    let unit = |r: usize, i: usize, eps: f64| {
        let row = &x0[r * n..(r + 1) * n];
        row[i] / (row.iter().map(|v| v * v).sum::<f64>() / n as f64 + eps).sqrt()
    };
    let all = |f: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
        (0..rows).flat_map(|r| (0..n).map(move |i| f(r, i))).collect()
    };
    near(&run(Op::RmsNorm { eps: 0.5, offset: 0.0 }, &[Some(&x)]), &all(&|r, i| unit(r, i, 0.5)));
    let weighted = run(Op::RmsNorm { eps: 1e-6, offset: 0.0 }, &[Some(&x), Some(&w)]);
    near(&weighted, &all(&|r, i| unit(r, i, 1e-6) * w0[i]));
    let above = run(Op::RmsNorm { eps: 1e-6, offset: 1.0 }, &[Some(&x), Some(&w)]);
    near(&above, &all(&|r, i| unit(r, i, 1e-6) * (1.0 + w0[i])));
    // Zeros stay zeros, with no division by zero.
    near(&run(Op::RmsNorm { eps: 1e-6, offset: 0.0 }, &[Some(&floats(&[2], vec![0.0; 2]))]), &[0.0, 0.0]);
}

/// ROPE: both ways of pairing, whole heads and parts of them.
#[test]
fn rope() {
    let mut rng = Rng::new(22);
    let (tokens, heads) = (3, 2);
    for (d, half) in [(8, 4), (10, 3), (6, 1), (5, 2)] {
        let x = random(&mut rng, &[tokens, heads * d]);
        let (cos, sin) = (random(&mut rng, &[tokens, half]), random(&mut rng, &[tokens, half]));
        for interleaved in [false, true] {
            let mut expected = x.as_floats().unwrap().to_vec();
            for t in 0..tokens {
                for h in 0..heads {
                    for i in 0..half {
                        let (c, s) = (cos.as_floats().unwrap()[t * half + i], sin.as_floats().unwrap()[t * half + i]);
                        let (first, second) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
                        let base = t * heads * d + h * d;
                        let (a, b) = (expected[base + first], expected[base + second]);
                        expected[base + first] = a * c - b * s;
                        expected[base + second] = b * c + a * s;
                    }
                }
            }
            near(&run(Op::Rope { heads, interleaved }, &[Some(&x), Some(&cos), Some(&sin)]), &expected);
        }
    }
}

#[test]
fn dynamic_quantize() {
    let mut rng = Rng::new(23);
    let (rows, n) = (2, 11);
    let x = random(&mut rng, &[rows, n]);
    for (group, levels) in [(1, 127), (4, 127), (11, 32512), (32, 127), (32, 32512)] {
        let mut expected = Vec::new();
        for row in x.as_floats().unwrap().chunks(n) {
            for values in row.chunks(group) {
                let m = values.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
                let most = levels as f64;
                expected.extend(values.iter().map(|v| (v * (most / m)).round_ties_even() * (m / most)));
            }
        }
        near(&run(Op::DynamicQuantize { group, levels }, &[Some(&x)]), &expected);
    }
    // Half a step goes to the even one; groups of zeros give zeros.
    let x = floats(&[1, 6], vec![127.0, 0.5, -1.5, 2.5, 0.0, 0.0]);
    near(&run(Op::DynamicQuantize { group: 4, levels: 127 }, &[Some(&x)]), &[127.0, 0.0, -2.0, 2.0, 0.0, 0.0]);
    // The greatest magnitude is represented as it is, and nothing leaves the codes from -127 to 127.
    for seed in 0..50 {
        let x = Tensor::floats(DType::F32, &[32], random(&mut Rng::new(seed), &[32]).as_floats().unwrap().to_vec());
        let y = run_in(Mode::Rounded, Op::DynamicQuantize { group: 32, levels: 127 }, &[Some(&x.unwrap())]);
        let m = y.as_floats().unwrap().iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        let codes = y.as_floats().unwrap().iter().map(|v| v * 127.0 / m);
        assert!(codes.clone().all(|c| (c - c.round()).abs() < 1e-4 && c.abs() < 127.001), "seed {seed}");
        assert!(codes.fold(0.0, |m: f64, c| m.max(c.abs())) > 126.999);
    }
}

#[test]
fn cache_append() {
    // Two pages of three places, two heads of width two.
    let cache = floats(&[2, 3, 2, 2], (0..24).map(f64::from).collect());
    let x = floats(&[4, 4], (100..116).map(f64::from).collect());
    let mut expected: Vec<f64> = (0..24).map(f64::from).collect();
    for (token, slot) in [(0usize, 5usize), (2, 0)] {
        for i in 0..4 {
            expected[slot * 4 + i] = 100.0 + (token * 4 + i) as f64;
        }
    }
    let slots = ints(&[5, -1, 0, 6]);
    near(&run(Op::CacheAppend { part: CachePart::Keys }, &[Some(&cache), Some(&x), Some(&slots)]), &expected);
    // A number for each head; what comes in is cast.
    let scales = Tensor::floats(DType::F16, &[1, 2, 3], vec![0.0; 6]).unwrap();
    let x = floats(&[1, 3], vec![0.1, 1e6, -2.0]);
    let op = Op::CacheAppend { part: CachePart::Scales };
    let y = run_in(Mode::Rounded, op, &[Some(&scales), Some(&x), Some(&ints(&[1]))]);
    assert_eq!(y.as_floats().unwrap(), [0.0, 0.0, 0.0, DType::F16.round(0.1), f64::INFINITY, -2.0]);
}

/// What a case of paged attention consists of besides the tensors.
struct Paged {
    heads: usize,
    kv_heads: usize,
    d: usize,
    page: usize,
    window: usize,
    softcap: f64,
    slopes: bool,
    quantized: bool,
}

/// Every token of every sequence against the formula of the row, over pages in another order than the sequences.
fn paged(Paged { heads, kv_heads, d, page, window, softcap, slopes, quantized }: Paged) {
    let mut rng = Rng::new(24);
    let scale = 0.4;
    // (tokens in the cache before, new ones) and the pages of each sequence; 9 is no page and needed by no key.
    let sequences = [(0usize, 3usize, [4usize, 9, 9]), (5, 2, [0, 6, 9]), (7, 0, [1, 2, 9]), (9, 2, [7, 3, 5])];
    let pages = 8;
    let tokens: usize = sequences.iter().map(|s| s.1).sum();
    let q = random(&mut rng, &[tokens, heads * d]);
    let shape = [pages, page, kv_heads, d];
    let codes = |rng: &mut Rng| {
        let values = (0..shape.iter().product()).map(|_| rng.below(255) as i64 - 127).collect();
        Tensor::ints(DType::I8, &shape, values).unwrap()
    };
    let [k, v] = [(); 2].map(|()| if quantized { codes(&mut rng) } else { random(&mut rng, &shape) });
    let scales = |rng: &mut Rng| {
        let values = (0..pages * page * kv_heads).map(|_| rng.between(0.001, 0.02)).map(|v| DType::F32.round(v));
        Tensor::floats(DType::F32, &shape[..3], values.collect()).unwrap()
    };
    let scale_of = [(); 2].map(|()| scales(&mut rng));
    let slope: Vec<f64> = (0..heads).map(|h| 0.5f64.powi(h as i32 + 1)).collect();
    let (mut offsets, mut table) = (vec![0i64], Vec::new());
    for (_, new, own) in &sequences {
        offsets.push(offsets[offsets.len() - 1] + *new as i64);
        table.extend(own.iter().map(|&p| p as i64));
    }
    let table = Tensor::ints(DType::I32, &[sequences.len(), 3], table).unwrap();
    let past = ints(&sequences.map(|s| s.0 as i64));
    let element = |x: &Tensor, which: usize, place: usize, h: usize, c: usize| -> f64 {
        let at = (place * kv_heads + h) * d + c;
        match x.as_ints() {
            Some(codes) => codes[at] as f64 * scale_of[which].as_floats().unwrap()[place * kv_heads + h],
            None => x.as_floats().unwrap()[at],
        }
    };
    let mut expected = Vec::new();
    for (s, (before, new, own)) in sequences.iter().enumerate() {
        for i in 0..*new {
            let (token, position) = (offsets[s] as usize + i, before + i);
            for (h, slope) in slope.iter().enumerate() {
                let kv = h / (heads / kv_heads);
                let first = if window == 0 { 0 } else { (position + 1).saturating_sub(window) };
                let mut weights = BTreeMap::new();
                for key in first..=position {
                    let place = own[key / page] * page + key % page;
                    let q = &q.as_floats().unwrap()[(token * heads + h) * d..][..d];
                    let dot: f64 = (0..d).map(|c| q[c] * element(&k, 0, place, kv, c)).sum();
                    let mut score = dot * scale;
                    if softcap != 0.0 {
                        score = softcap * (score / softcap).tanh();
                    }
                    if slopes {
                        score -= slope * (position - key) as f64;
                    }
                    weights.insert(place, score.exp());
                }
                let total: f64 = weights.values().sum();
                for c in 0..d {
                    expected.push(weights.iter().map(|(&p, w)| w * element(&v, 1, p, kv, c)).sum::<f64>() / total);
                }
            }
        }
    }
    let slope = floats(&[heads], slope);
    let op = Op::PagedAttention { heads, kv_heads, scale, window, softcap };
    let (offsets, [k_scale, v_scale]) = (ints(&offsets), &scale_of);
    let operands = [
        Some(&q),
        Some(&k),
        Some(&v),
        Some(&offsets),
        Some(&past),
        Some(&table),
        quantized.then_some(k_scale),
        quantized.then_some(v_scale),
        slopes.then_some(&slope),
    ];
    near(&run(op, &operands), &expected);
}

#[test]
fn paged_attention() {
    let plain =
        || Paged { heads: 2, kv_heads: 2, d: 4, page: 4, window: 0, softcap: 0.0, slopes: false, quantized: false };
    paged(plain());
    paged(Paged { heads: 6, ..plain() });
    paged(Paged { heads: 3, kv_heads: 1, ..plain() });
    for window in [1, 2, 6, 100] {
        paged(Paged { window, ..plain() });
    }
    paged(Paged { softcap: 0.7, ..plain() });
    paged(Paged { slopes: true, heads: 4, ..plain() });
    paged(Paged { softcap: 0.7, slopes: true, window: 3, ..plain() });
    paged(Paged { quantized: true, heads: 4, ..plain() });
}
