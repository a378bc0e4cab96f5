//! Composites, as the interpreter decomposes them, against formulas written out in plain `f64`.

mod common;

use common::{floats, near, random, run, run_in};
use lith_ir::decompose::{decompose_all, threefry};
use lith_ir::interp::{Interpreter, Mode, Tensor};
use lith_ir::testing::{Rng, THREEFRY_ANSWERS, attention_number, cases_for, tolerance};
use lith_ir::{Activation, Builder, Class, DType, Dim, Graph, Op, Pool, Program, Symbol, SymbolInfo, Type};

#[test]
fn decompositions_are_primitives_and_leave_nothing_behind() {
    for name in Op::NAMES {
        for case in cases_for(name, &mut Rng::new(11)) {
            let mut graph = case.program.entries["main"].clone();
            let composites =
                |g: &Graph| g.petgraph().node_weights().filter(|n| n.op.class() == Class::Composite).count();
            let before = composites(&graph);
            assert_eq!(decompose_all(&mut graph, |_| true).unwrap(), before);
            assert_eq!(composites(&graph), 0, "{}", case.name);
            assert_eq!(graph.prune(), 0, "{}", case.name);
            let at_path =
                graph.petgraph().node_weights().all(|n| n.op.class() == Class::Source || &*n.path == "block.op");
            assert!(at_path, "{}", case.name);
        }
    }
}

#[test]
fn activations() {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let relu6 = |x: f64| x.clamp(0.0, 6.0);
    let points: Vec<f64> = (-80..=80).map(|i| i as f64 / 4.0).collect();
    let x = floats(&[points.len()], points.clone());
    for &f in Activation::ALL {
        let formula = |x: f64| match f {
            Activation::Relu => x.max(0.0),
            Activation::Gelu => x / 2.0 * (1.0 + libm::erf(x / 2f64.sqrt())),
            Activation::GeluTanh => {
                x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Activation::QuickGelu => x * sigmoid(1.702 * x),
            Activation::Sigmoid => sigmoid(x),
            Activation::Silu => x * sigmoid(x),
            Activation::Mish => x * x.exp().ln_1p().tanh(),
            Activation::Relu2 => x.max(0.0).powi(2),
            Activation::Relu6 => relu6(x),
            Activation::Hardswish => x * relu6(x + 3.0) / 6.0,
            Activation::LeakyRelu => {
                if x > 0.0 {
                    x
                } else {
                    0.01 * x
                }
            }
        };
        near(&run(Op::Activation { f }, &[Some(&x)]), &points.iter().map(|&x| formula(x)).collect::<Vec<_>>());
    }
    // Far out in `f32` nothing overflows into NaN.
    let far = Tensor::floats(DType::F32, &[2], vec![-1e4, 1e4]).unwrap();
    for &f in Activation::ALL {
        let y = run_in(Mode::Rounded, Op::Activation { f }, &[Some(&far)]);
        assert!(y.as_floats().unwrap().iter().all(|v| v.is_finite()), "{}: {y:?}", f.name());
    }
}

#[test]
fn softmax() {
    let inf = f64::INFINITY;
    let x = floats(&[3, 3], vec![1.0, 2.0, 3.0, 1000.0, -inf, 1000.0, -inf, -inf, -inf]);
    let e: Vec<f64> = [1f64, 2.0, 3.0].iter().map(|x| x.exp()).collect();
    let sum: f64 = e.iter().sum();
    let expected = [e[0] / sum, e[1] / sum, e[2] / sum, 0.5, 0.0, 0.5, 0.0, 0.0, 0.0];
    near(&run(Op::Softmax {}, &[Some(&x)]), &expected);
    near(&run(Op::Softmax {}, &[Some(&floats(&[2, 0], vec![]))]), &[]);
    let nan = run(Op::Softmax {}, &[Some(&floats(&[2], vec![f64::NAN, 0.0]))]);
    assert!(nan.as_floats().unwrap().iter().all(|v| v.is_nan()));
}

#[test]
fn norms() {
    let mut rng = Rng::new(5);
    let (rows, n) = (4, 7);
    let (x, w, b) = (random(&mut rng, &[rows, n]), random(&mut rng, &[n]), random(&mut rng, &[n]));
    let row = |r: usize| &x.as_floats().unwrap()[r * n..(r + 1) * n];
    let normed = |eps: f64| {
        (0..rows).flat_map(move |r| {
            let mean = row(r).iter().sum::<f64>() / n as f64;
            let var = row(r).iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
            row(r).iter().map(move |v| (v - mean) / (var + eps).sqrt()).collect::<Vec<_>>()
        })
    };
    let (w0, b0) = (w.as_floats().unwrap(), b.as_floats().unwrap());
    let full: Vec<f64> = normed(1e-5).enumerate().map(|(i, v)| v * w0[i % n] + b0[i % n]).collect();
    near(&run(Op::LayerNorm { eps: 1e-5 }, &[Some(&x), Some(&w), Some(&b)]), &full);
    let biased: Vec<f64> = normed(0.5).enumerate().map(|(i, v)| v + b0[i % n]).collect();
    near(&run(Op::LayerNorm { eps: 0.5 }, &[Some(&x), None, Some(&b)]), &biased);
    near(&run(Op::LayerNorm { eps: 0.5 }, &[Some(&x)]), &normed(0.5).collect::<Vec<_>>());

    let unit: Vec<f64> = (0..rows)
        .flat_map(|r| {
            let norm = row(r).iter().map(|v| v * v).sum::<f64>().sqrt();
            row(r).iter().map(move |v| v / norm).collect::<Vec<_>>()
        })
        .collect();
    near(&run(Op::L2Norm { eps: 1e-12 }, &[Some(&x)]), &unit);
    near(&run(Op::L2Norm { eps: 2.0 }, &[Some(&floats(&[2], vec![0.6, 0.8]))]), &[0.3, 0.4]);
}

#[test]
fn linear() {
    let mut rng = Rng::new(6);
    let (x, w, b) = (random(&mut rng, &[2, 3, 5]), random(&mut rng, &[4, 5]), random(&mut rng, &[4]));
    let (x0, w0, b0) = (x.as_floats().unwrap(), w.as_floats().unwrap(), b.as_floats().unwrap());
    let y = |r: usize, n: usize| (0..5).map(|k| x0[r * 5 + k] * w0[n * 5 + k]).sum::<f64>();
    let plain: Vec<f64> = (0..6).flat_map(|r| (0..4).map(move |n| y(r, n))).collect();
    near(&run(Op::Linear {}, &[Some(&x), Some(&w)]), &plain);
    let biased: Vec<f64> = plain.iter().enumerate().map(|(i, v)| v + b0[i % 4]).collect();
    let found = run(Op::Linear {}, &[Some(&x), Some(&w), Some(&b)]);
    assert_eq!(found.shape(), [2, 3, 4]);
    near(&found, &biased);
}

/// Element of a row and a column.
type Rows<'a> = &'a dyn Fn(usize, usize) -> f64;

/// Attention of one query head, written out: `seen(i, j)` and `bias(i, j)` tell what query `i` makes of key `j`.
fn attend(
    (q, sq): (Rows<'_>, usize),
    (k, v, sk): (Rows<'_>, Rows<'_>, usize),
    d: usize,
    scale: f64,
    seen: &dyn Fn(usize, usize) -> bool,
    bias: &dyn Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let mut out = Vec::new();
    for i in 0..sq {
        let weight = |j: usize| {
            let dot: f64 = (0..d).map(|c| q(i, c) * k(j, c)).sum();
            if seen(i, j) { (dot * scale + bias(i, j)).exp() } else { 0.0 }
        };
        let total: f64 = (0..sk).map(weight).sum();
        for c in 0..d {
            let sum: f64 = (0..sk).map(|j| weight(j) * v(j, c)).sum();
            out.push(if total == 0.0 { 0.0 } else { sum / total });
        }
    }
    out
}

#[test]
fn padded_attention() {
    let mut rng = Rng::new(7);
    let (b, sq, sk, heads, kv_heads, d, scale) = (2usize, 3usize, 5usize, 4usize, 2usize, 3usize, 0.6);
    let q = random(&mut rng, &[b, sq, heads * d]);
    let (k, v) = (random(&mut rng, &[b, sk, kv_heads * d]), random(&mut rng, &[b, sk, kv_heads * d]));
    let table = random(&mut rng, &[heads, 5]);
    let mask_values = [1, 0, 1, 1, 0, 0, 0, 0, 0, 0];
    let mask = Tensor::ints(DType::Bool, &[b, sk], mask_values.to_vec()).unwrap();
    let (q0, k0, v0, t0) =
        (q.as_floats().unwrap(), k.as_floats().unwrap(), v.as_floats().unwrap(), table.as_floats().unwrap());
    for (causal, masked, biased) in
        [(false, false, false), (true, false, true), (false, true, true), (true, true, false)]
    {
        // The last query stands at the last key when the mask is causal.
        let position = |i: usize| if causal { i as i64 + sk as i64 - sq as i64 } else { i as i64 };
        let mut expected = vec![0.0; b * sq * heads * d];
        for n in 0..b {
            for h in 0..heads {
                let kv = h / 2;
                let at = |x: &[f64], s: usize, w: usize, i: usize, c: usize| x[(n * s + i) * w + c];
                let out = attend(
                    (&|i, c| at(q0, sq, heads * d, i, h * d + c), sq),
                    (
                        &|j, c| at(k0, sk, kv_heads * d, j, kv * d + c),
                        &|j, c| at(v0, sk, kv_heads * d, j, kv * d + c),
                        sk,
                    ),
                    d,
                    scale,
                    &|i, j| (!masked || mask_values[n * sk + j] == 1) && (!causal || j as i64 <= position(i)),
                    &|i, j| if biased { t0[h * 5 + (j as i64 - position(i) + 2).clamp(0, 4) as usize] } else { 0.0 },
                );
                for i in 0..sq {
                    for c in 0..d {
                        expected[(n * sq + i) * heads * d + h * d + c] = out[i * d + c];
                    }
                }
            }
        }
        let op = Op::Attention { heads, kv_heads, scale, causal };
        let operands = [Some(&q), Some(&k), Some(&v), masked.then_some(&mask), biased.then_some(&table)];
        near(&run(op, &operands), &expected);
    }
}

/// A batch of sequences one after the other gives what each gives alone in the padded layout.
#[test]
fn packed_attention_is_padded_attention_of_each_sequence() {
    let mut rng = Rng::new(8);
    let (heads, kv_heads, d, scale) = (3usize, 1usize, 4usize, 0.5);
    let offsets = [0usize, 2, 2, 7, 8];
    let tokens = 8;
    let q = random(&mut rng, &[tokens, heads * d]);
    let (k, v) = (random(&mut rng, &[tokens, kv_heads * d]), random(&mut rng, &[tokens, kv_heads * d]));
    let table = random(&mut rng, &[heads, 3]);
    let packed_offsets =
        Tensor::ints(DType::I32, &[offsets.len()], offsets.iter().map(|&o| o as i64).collect()).unwrap();
    for causal in [false, true] {
        let packed = run(
            Op::PackedAttention { heads, kv_heads, scale, causal, dropout: 0.0 },
            &[Some(&q), Some(&k), Some(&v), Some(&packed_offsets), Some(&table)],
        );
        for pair in offsets.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            let part = |x: &Tensor| {
                let w = x.shape()[1];
                floats(&[1, to - from, w], x.as_floats().unwrap()[from * w..to * w].to_vec())
            };
            let (q, k, v) = (part(&q), part(&k), part(&v));
            let op = Op::Attention { heads, kv_heads, scale, causal };
            let alone = run(op, &[Some(&q), Some(&k), Some(&v), None, Some(&table)]);
            let w = heads * d;
            near(&alone, &packed.as_floats().unwrap()[from * w..to * w]);
        }
    }
}

/// Attention with dropout is that without it of weights that are zero where the words of the generator say so, written out.
#[test]
fn attention_drops_by_the_words_of_the_generator() {
    let (heads, kv_heads, d, dropout) = (2usize, 1usize, 2usize, 0.3);
    let (offsets, tokens) = ([0usize, 70, 73], 73);
    let mut rng = Rng::new(21);
    let q = random(&mut rng, &[tokens, heads * d]);
    let (k, v) = (random(&mut rng, &[tokens, kv_heads * d]), random(&mut rng, &[tokens, kv_heads * d]));
    let ints = |dtype, values: &[i64]| Tensor::ints(dtype, &[values.len()], values.to_vec()).unwrap();
    let bounds = ints(DType::I32, &offsets.map(|o| o as i64));
    let key = [7u32, 4_000_000_000];
    let words = ints(DType::U32, &key.map(i64::from));
    let op = Op::PackedAttention { heads, kv_heads, scale: 1.0, causal: false, dropout };
    let found = run(op, &[Some(&q), Some(&k), Some(&v), Some(&bounds), None, Some(&words)]);
    let (q, k, v) = (q.as_floats().unwrap(), k.as_floats().unwrap(), v.as_floats().unwrap());
    let (mut expected, mut dropped) = (vec![0.0; tokens * heads * d], 0);
    for (from, to) in offsets.windows(2).map(|w| (w[0], w[1])) {
        for (i, h) in (from..to).flat_map(|i| (0..heads).map(move |h| (i, h))) {
            let dot = |j: usize| (0..d).map(|c| q[(i * heads + h) * d + c] * k[j * d + c]).sum::<f64>();
            let sum: f64 = (from..to).map(|j| dot(j).exp()).sum();
            for j in from..to {
                let place = j - from;
                if f64::from(attention_number(key, i * heads + h, place)) < (dropout * 65536.0f64).round() {
                    dropped += 1;
                    continue;
                }
                for c in 0..d {
                    expected[(i * heads + h) * d + c] += dot(j).exp() / sum / (1.0 - dropout) * v[j * d + c];
                }
            }
        }
    }
    near(&found, &expected);
    let share = f64::from(dropped) / (2 * (70 * 70 + 3 * 3)) as f64;
    assert!((share - dropout).abs() < 0.02, "{share} of all dropped");
}

#[test]
fn segments() {
    let x = floats(&[4, 2], vec![1.0, -2.0, 3.0, -4.0, 5.0, 6.0, -7.0, -8.0]);
    let offsets = Tensor::ints(DType::I32, &[5], vec![0, 0, 1, 4, 4]).unwrap();
    let ids = run(Op::SegmentIds { tokens: Dim::from(4i64) }, &[Some(&offsets)]);
    assert_eq!(ids.as_ints(), Some([1, 2, 2, 2].as_slice()));
    let inf = f64::INFINITY;
    for (f, expected) in [
        (Pool::Sum, [0.0, 0.0, 1.0, -2.0, 1.0, -6.0, 0.0, 0.0]),
        (Pool::Mean, [0.0, 0.0, 1.0, -2.0, 1.0 / 3.0, -2.0, 0.0, 0.0]),
        (Pool::Max, [-inf, -inf, 1.0, -2.0, 5.0, 6.0, -inf, -inf]),
    ] {
        near(&run(Op::SegmentPool { f }, &[Some(&x), Some(&offsets)]), &expected);
    }
}

/// 16-bit composites compute in `f32` and round once: the result is the exact one to half a unit of the type.
#[test]
fn sixteen_bit_composites_round_once() {
    let names =
        ["softmax", "layer_norm", "rms_norm", "rope", "linear", "attention", "packed_attention", "paged_attention"];
    for name in names.into_iter().chain(["activation", "segment_pool"]) {
        for seed in 0..20 {
            for case in cases_for(name, &mut Rng::new(seed)) {
                let dtype = case.args[0].dtype();
                if !matches!(dtype, DType::F16 | DType::Bf16) {
                    continue;
                }
                let (exact, rounded) = (case.run(Mode::Exact).unwrap(), case.run(Mode::Rounded).unwrap());
                let half_unit = tolerance(dtype) / 2.0;
                for (e, r) in exact.iter().zip(&rounded) {
                    for (e, r) in e.as_floats().unwrap().iter().zip(r.as_floats().unwrap()) {
                        assert!(e == r || (e - r).abs() <= half_unit * e.abs() + 1e-4, "{}: {r}, exact {e}", case.name);
                    }
                }
            }
        }
    }
}

#[test]
fn symbols_come_from_shapes() {
    let tokens = Dim::symbol(&Symbol::new("tokens"));
    let mut graph = Graph::new();
    let ty = Type::new(DType::F64, [tokens.clone() * Dim::from(2i64) + Dim::from(1i64)]);
    let x = graph.add(Op::Arg { index: 0, name: "x".into(), ty }, &[], "").unwrap();
    let slice = Op::Slice { axis: 0, start: Dim::from(1i64), stop: tokens.clone(), step: 1 };
    let y = graph.add(slice, &[x], "body.cut").unwrap();
    graph.add_result("y", y);
    let mut program = Program::new("test");
    program.symbols.insert(Symbol::new("tokens"), SymbolInfo { min: 0, max: 4, multiple_of: 1 });
    program.entries.insert("main".into(), graph);
    let interpreter = Interpreter::new(&program, Mode::Exact).unwrap();
    let run = |n: usize| interpreter.run_pure("main", &[floats(&[n], (0..n).map(|i| i as f64).collect())]);

    assert_eq!(run(7).unwrap()[0].as_floats(), Some([1.0, 2.0].as_slice()));
    let error = |n: usize| run(n).unwrap_err().to_string();
    assert!(error(6).starts_with("argument `x`, axis 0"), "{}", error(6));
    assert_eq!(error(13), "symbol `tokens`: 6 is not in 0..=4 in multiples of 1");
    assert_eq!(error(1), "graph `main`, node `body.cut`: slice: size tokens - 1 = -1");

    let other = Tensor::floats(DType::F32, &[3], vec![0.0; 3]).unwrap();
    let wrong = interpreter.run_pure("main", &[other]).unwrap_err().to_string();
    assert_eq!(wrong, "argument `x` is f32[3], expected f64[2*tokens + 1]");
    assert_eq!(
        interpreter.run_pure("main", &[]).unwrap_err().to_string(),
        "entry point `main` takes 1 arguments, found 0"
    );
    assert_eq!(interpreter.run_pure("other", &[]).unwrap_err().to_string(), "no entry point `other`");
}

#[test]
fn states_change_after_the_call() {
    let case =
        cases_for("state_write", &mut Rng::new(1)).into_iter().find(|c| !c.args[0].shape().contains(&0)).unwrap();
    let mut states = case.states.clone();
    let first = case.run_with(Mode::Exact, &mut states).unwrap();
    assert_eq!(first[0], case.states["cache"]);
    assert_eq!(states["cache"].to_bytes(), first[1].to_bytes());
    let mut absent = std::collections::BTreeMap::new();
    let read = case.run_with(Mode::Exact, &mut absent).unwrap().remove(0);
    assert_eq!(read, Tensor::zeros(read.dtype(), read.shape()).unwrap());
}

/// Six layers of width 384, as MiniLM has, on 12 tokens.
#[test]
fn a_small_encoder_takes_seconds_at_most() {
    let mut rng = Rng::new(9);
    let (tokens, hidden, inner) = (12usize, 384usize, 1536usize);
    let mut program = Program::new("encoder");
    let mut params = std::collections::BTreeMap::new();
    let mut graph = Graph::new();
    let mut param = |graph: &mut Graph, shape: &[usize]| {
        let name = format!("w{}", params.len());
        let ty = Type::new(DType::F32, shape.iter().copied());
        let values = (0..shape.iter().product()).map(|_| rng.between(-0.05, 0.05)).collect();
        params.insert(name.clone(), Tensor::floats(DType::F32, shape, values).unwrap());
        program.params.insert(name.clone(), ty.clone());
        graph.add(Op::Param { name, ty }, &[], "").unwrap()
    };
    let ids = Op::Arg { index: 0, name: "ids".into(), ty: Type::new(DType::I64, [tokens]) };
    let ids = graph.add(ids, &[], "").unwrap();
    let offsets = Op::Arg { index: 1, name: "offsets".into(), ty: Type::new(DType::I32, [2i64]) };
    let offsets = graph.add(offsets, &[], "").unwrap();
    let table = param(&mut graph, &[30522, hidden]);
    let mut x = graph.add(Op::Gather { axis: 0 }, &[table, ids], "embeddings").unwrap();
    for _ in 0..6 {
        let mut linear = |graph: &mut Graph, x, n: usize, k: usize| {
            let w = param(graph, &[n, k]);
            graph.add(Op::Linear {}, &[x, w], "").unwrap()
        };
        let q = linear(&mut graph, x, hidden, hidden);
        let k = linear(&mut graph, x, hidden, hidden);
        let v = linear(&mut graph, x, hidden, hidden);
        let attention =
            Op::PackedAttention { heads: 12, kv_heads: 12, scale: 32f64.sqrt().recip(), causal: false, dropout: 0.0 };
        let a = graph.add(attention, &[q, k, v, offsets], "").unwrap();
        let a = linear(&mut graph, a, hidden, hidden);
        let h = linear(&mut graph, a, inner, hidden);
        let h = graph.add(Op::Activation { f: Activation::Gelu }, &[h], "").unwrap();
        let h = linear(&mut graph, h, hidden, inner);
        x = graph.add(Op::LayerNorm { eps: 1e-12 }, &[h], "").unwrap();
    }
    graph.add_result("hidden", x);
    program.entries.insert("main".into(), graph);

    let ids = Tensor::ints(DType::I64, &[tokens], (0..tokens as i64).map(|i| i * 977).collect()).unwrap();
    let offsets = Tensor::ints(DType::I32, &[2], vec![0, tokens as i64]).unwrap();
    let start = std::time::Instant::now();
    for mode in [Mode::Exact, Mode::Rounded] {
        let interpreter = Interpreter::new(&program, mode).unwrap();
        let param = |name: &str| params.get(name).cloned();
        let args = [ids.clone(), offsets.clone()];
        let y = interpreter.run("main", &args, &param, &mut Default::default()).unwrap().remove(0);
        assert!(y.as_floats().unwrap().iter().all(|v| v.is_finite()));
    }
    println!("both modes: {:?}", start.elapsed());
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

/// The known answers that come with the generator's authors' library.
#[test]
fn threefry_gives_its_known_answers() {
    let words = |[a, b]: [u32; 2]| Tensor::ints(DType::U32, &[2], vec![a.into(), b.into()]).unwrap();
    for [counter, key, expected] in THREEFRY_ANSWERS {
        let mut graph = Graph::new();
        let mut b = Builder::new(&mut graph, "test");
        let [counter_arg, key_arg] = ["counter", "key"].map(|n| b.arg(n, Type::new(DType::U32, [2i64])).unwrap());
        let mut word = |x, i: usize| {
            let slice = Op::Slice { axis: 0, start: Dim::from(i), stop: Dim::from(i + 1), step: 1 };
            let one = b.op(slice, &[x]).unwrap();
            b.reshape(one, &[]).unwrap()
        };
        let (key_words, counters) = ([0, 1].map(|i| word(key_arg, i)), [0, 1].map(|i| word(counter_arg, i)));
        let found = threefry(&mut b, key_words, counters).unwrap();
        for (name, word) in ["first", "second"].into_iter().zip(found) {
            graph.add_result(name, word);
        }
        let mut program = Program::new("test");
        program.entries.insert("main".into(), graph);
        let interpreter = Interpreter::new(&program, Mode::Rounded).unwrap();
        let found = interpreter.run_pure("main", &[words(counter), words(key)]).unwrap();
        let found: Vec<i64> = found.iter().map(|t| t.as_ints().unwrap()[0]).collect();
        assert_eq!(found, expected.map(i64::from));
    }
    let bits = |shape: &[usize], stream| {
        let op = Op::RandomBits { shape: shape.iter().map(|&d| Dim::from(d)).collect(), stream };
        run(op, &[Some(&words([0; 2]))]).as_ints().unwrap().to_vec()
    };
    assert_eq!(bits(&[1], 0), [0x6b20_0159_i64 ^ 0x99ba_4efe]);
    assert_eq!(bits(&[2, 3], 5), bits(&[6], 5));
    assert_ne!(bits(&[6], 5), bits(&[6], 6));
}

#[test]
fn cross_entropy_by_its_formula() {
    let mut rng = Rng::new(4);
    let (rows, classes) = (7, 5);
    let logits = random(&mut rng, &[rows, classes]);
    let labels = Tensor::ints(DType::I32, &[rows], vec![0, 4, -100, 2, 9, -3, 1]).unwrap();
    for smoothing in [0.0, 0.3] {
        let x = logits.as_floats().unwrap();
        let expected: Vec<f64> = (0..rows)
            .map(|r| {
                let row = &x[r * classes..][..classes];
                let total: f64 = row.iter().map(|v| v.exp()).sum();
                let log_p: Vec<f64> = row.iter().map(|v| v - total.ln()).collect();
                match labels.as_ints().unwrap()[r] {
                    -100 => 0.0,
                    label => {
                        let of_label = log_p[label.clamp(0, classes as i64 - 1) as usize];
                        -(1.0 - smoothing) * of_label - smoothing * log_p.iter().sum::<f64>() / classes as f64
                    }
                }
            })
            .collect();
        near(&run(Op::CrossEntropy { ignore: -100, smoothing }, &[Some(&logits), Some(&labels)]), &expected);
    }
    // Neither the greatest nor the least logits overflow or vanish in `f32`.
    let far = Tensor::floats(DType::F32, &[2, 2], vec![1e4, -1e4, -1e4, -1e4]).unwrap();
    let labels = Tensor::ints(DType::I32, &[2], vec![1, 1]).unwrap();
    let op = Op::CrossEntropy { ignore: -100, smoothing: 0.0 };
    let loss = run_in(Mode::Rounded, op, &[Some(&far), Some(&labels)]);
    assert_eq!(loss.as_floats().unwrap(), [2e4, f64::from(std::f32::consts::LN_2)]);
}
