//! Speed of the CPU kernels beside what the machine can do: `cargo bench -p lith-runtime [--bench kernels] [-- WORD ...]`.
//!
//! Every figure is the best of many short repetitions, so that a busy machine shows less. The roof is measured in the same
//! run: independent multiply-adds of the widest vectors, on as many threads. `LITH_ISA` chooses the instruction set.
#![allow(unsafe_code, reason = "kernels take raw operands")]

mod timing;

use std::sync::atomic::{AtomicU64, Ordering};

use lith_ir::dtype::DType;
use lith_ir::quant::{PER_ROW, QuantMatrix, Scales, Scheme, Storage, Values};
use lith_runtime::kernels::{
    AttentionArgs, DotArgs, GemmArgs, Isa, attention_packed, dot_f32, gemm_panels, pack_floats, pack_quantized,
    packed_len, read_bandwidth, select, vmath,
};
use lith_runtime::threads::Pool;
use timing::best;

/// Multiply-adds per second times two, of `n` rounds of independent chains of the widest vectors.
fn chains(n: usize) -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        #[target_feature(enable = "avx512f")]
        unsafe fn wide(n: usize) -> f32 {
            let mut sums = [_mm512_set1_ps(1.0); 12];
            let (a, b) = (_mm512_set1_ps(std::hint::black_box(0.5)), _mm512_set1_ps(std::hint::black_box(0.5)));
            for _ in 0..n {
                for sum in &mut sums {
                    *sum = _mm512_fmadd_ps(*sum, a, b);
                }
            }
            sums.into_iter().map(|x| _mm512_reduce_add_ps(x)).sum()
        }
        #[target_feature(enable = "avx2,fma")]
        unsafe fn narrow(n: usize) -> f32 {
            let mut sums = [_mm256_set1_ps(1.0); 12];
            let (a, b) = (_mm256_set1_ps(std::hint::black_box(0.5)), _mm256_set1_ps(std::hint::black_box(0.5)));
            for _ in 0..n {
                for sum in &mut sums {
                    *sum = _mm256_fmadd_ps(*sum, a, b);
                }
            }
            sums.into_iter().map(|x| _mm_cvtss_f32(_mm256_castps256_ps128(x))).sum()
        }
        // SAFETY: the instruction set in force is one the CPU has.
        unsafe {
            match Isa::current() {
                Isa::Avx512 => {
                    std::hint::black_box(wide(n));
                    return (n * 12 * 16 * 2) as f64;
                }
                Isa::Avx2 => {
                    std::hint::black_box(narrow(n));
                    return (n * 12 * 8 * 2) as f64;
                }
                Isa::Portable => {}
            }
        }
    }
    let mut sums = [1.0f32; 64];
    let (a, b) = (std::hint::black_box(0.5), std::hint::black_box(0.5));
    for _ in 0..n {
        for sum in &mut sums {
            *sum = *sum * a + b;
        }
    }
    std::hint::black_box(sums);
    (n * 64 * 2) as f64
}

fn peak(pool: &Pool) -> f64 {
    let flops = AtomicU64::new(0);
    let seconds = best(pool, 0.3, || {
        flops.store(0, Ordering::Relaxed);
        pool.run(|team| {
            team.barrier.wait();
            flops.fetch_add(chains(200_000) as u64, Ordering::Relaxed);
        });
    });
    flops.into_inner() as f64 / seconds
}

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect()
}

/// A packed weight of arbitrary numbers.
fn packed(n: usize, k: usize, storage: Storage) -> Vec<u8> {
    let mut out = vec![0; packed_len(n, k, &storage).unwrap()];
    match storage {
        Storage::Float(dtype) => pack_floats(&vec![0x3C; n * k * dtype.size()], dtype, n, k, &mut out).unwrap(),
        Storage::Quantized(scheme) => {
            let per_row = n * scheme.scales_per_row(k);
            let mins = if scheme.mins { per_row } else { 0 };
            let subs = if matches!(scheme.scales, Scales::Super { .. }) { n * scheme.groups(k) } else { 0 };
            let matrix = QuantMatrix {
                scheme,
                rows: n,
                cols: k,
                codes: (0..n * k).map(|i| (i * 37 % 101) as u8 & (u8::MAX >> (8 - scheme.bits))).collect(),
                scales: vec![0.0078125; per_row],
                mins: vec![0.0625; mins],
                sub_scales: vec![3; subs],
                sub_mins: vec![2; if scheme.mins { subs } else { 0 }],
            };
            pack_quantized(&matrix, &mut out).unwrap();
        }
    }
    out
}

/// A product to be timed; `weights` different ones in turn, as layers are.
#[derive(Clone, Copy)]
struct Product {
    m: usize,
    n: usize,
    k: usize,
    storage: Storage,
    activations: i64,
    weights: usize,
}

/// Seconds of a product.
fn gemm(pool: &Pool, product: Product) -> f64 {
    let Product { m, n, k, storage, activations, weights } = product;
    let panels = packed(n, k, storage);
    // One cache line more than needed, to start at one.
    let len = panels.len().next_multiple_of(64);
    let mut all = vec![0u8; len * weights + 64];
    let shift = all.as_ptr().align_offset(64);
    for copy in all[shift..].chunks_exact_mut(len).take(weights) {
        copy[..panels.len()].copy_from_slice(&panels);
    }
    let (inputs, mut outputs) = (values(m * k + 16), vec![0.0f32; m * n + 16]);
    let a = inputs[inputs.as_ptr().align_offset(64)..].as_ptr() as usize;
    let skip = outputs.as_ptr().align_offset(64);
    let c = outputs[skip..].as_mut_ptr() as usize;
    let b = all[shift..].as_ptr() as usize;
    best(pool, 0.25, || {
        pool.run(|team| {
            for w in 0..weights {
                let args = GemmArgs {
                    a: a as *const f32,
                    lda: k as i64,
                    b: (b + w * len) as *const u8,
                    c: c as *mut f32,
                    ldc: n as i64,
                    row: 0,
                    m: m as i64,
                    n: n as i64,
                    k: k as i64,
                    activations,
                    epilogue: None,
                    env: std::ptr::null(),
                };
                // SAFETY: the operands above have these sizes; the barrier separates the products.
                unsafe { gemm_panels(&args, team.thread as i64, team.threads as i64) };
                team.barrier.wait();
            }
        });
    }) / weights as f64
}

/// Seconds of a product of activations; `across` says which of the operands lie transposed. Four of each in turn, as in
/// training, where the last layer's have left the caches.
fn dot(pool: &Pool, [m, n, k]: [usize; 3], across: [bool; 2]) -> f64 {
    const TURNS: usize = 4;
    let (a, b, mut c) = (values(TURNS * m * k), values(TURNS * k * n), vec![0.0f32; TURNS * m * n]);
    let (a, b, c) = (a.as_ptr() as usize, b.as_ptr() as usize, c.as_mut_ptr() as usize);
    let steps = |across: bool, rows: usize, columns: usize| match across {
        true => [1, rows as i64],
        false => [columns as i64, 1],
    };
    let ([a_row, a_col], [b_row, b_col]) = (steps(across[0], m, k), steps(across[1], k, n));
    best(pool, 0.5, || {
        pool.run(|team| {
            for turn in 0..TURNS {
                let args = DotArgs {
                    a: (a as *const f32).wrapping_add(turn * m * k),
                    a_batch: 0,
                    a_row,
                    a_col,
                    weight: std::ptr::null(),
                    b: (b as *const f32).wrapping_add(turn * k * n),
                    b_batch: 0,
                    b_row,
                    b_col,
                    c: (c as *mut f32).wrapping_add(turn * m * n),
                    c_batch: 0,
                    c_row: n as i64,
                    c_col: 1,
                    batch: 1,
                    m: m as i64,
                    n: n as i64,
                    k: k as i64,
                };
                // SAFETY: the operands above have these sizes; the barrier separates the products.
                unsafe { dot_f32(&args, team.thread as i64, team.threads as i64) };
                team.barrier.wait();
            }
        });
    }) / TURNS as f64
}

/// Seconds of attention within sequences of these lengths.
fn attention(pool: &Pool, lengths: &[usize], heads: usize, dim: usize) -> f64 {
    let tokens: usize = lengths.iter().sum();
    let width = heads * dim;
    let qkv = values(tokens * 3 * width);
    let mut out = vec![0.0f32; tokens * width];
    let mut offsets = vec![0i32];
    offsets.extend(lengths.iter().scan(0, |end, &len| {
        *end += len as i32;
        Some(*end)
    }));
    let (qkv, out, offsets) = (qkv.as_ptr() as usize, out.as_mut_ptr() as usize, offsets.as_ptr() as usize);
    best(pool, 0.25, || {
        pool.run(|team| {
            let (q, stride) = (qkv as *const f32, 3 * width as i64);
            let args = AttentionArgs {
                q,
                q_stride: stride,
                k: q.wrapping_add(width),
                k_stride: stride,
                v: q.wrapping_add(2 * width),
                v_stride: stride,
                out: out as *mut f32,
                out_stride: width as i64,
                offsets: offsets as *const i32,
                batch: lengths.len() as i64,
                queries: 0,
                keys: 0,
                heads: heads as i64,
                kv_heads: heads as i64,
                head_dim: dim as i64,
                relative_bias: std::ptr::null(),
                positions: 0,
                key_mask: std::ptr::null(),
                scale: 0.18,
                causal: 0,
                key: std::ptr::null(),
                dropped: 0,
                kept: 1.0,
                barrier: team.barrier,
            };
            team.barrier.wait();
            // SAFETY: the operands above have these sizes.
            unsafe { attention_packed(&args, team.thread as i64, team.threads as i64) };
        });
    })
}

/// Weights of language models, by the names their files or `--quantize` have for them.
fn storages() -> Vec<(&'static str, Storage)> {
    let offset = |bits, zero, group, scales, mins| {
        Storage::Quantized(Scheme { bits, values: Values::Offset { zero }, group, scales, mins })
    };
    let nf4 = Scheme { bits: 4, values: Values::Nf4, group: 64, scales: Scales::F16, mins: false };
    vec![
        ("f32", Storage::Float(DType::F32)),
        ("bf16", Storage::Float(DType::Bf16)),
        ("f16", Storage::Float(DType::F16)),
        ("int8", offset(8, 128, PER_ROW, Scales::F32, false)),
        ("q8_0", offset(8, 128, 32, Scales::F16, false)),
        ("q4_0", offset(4, 8, 32, Scales::F16, false)),
        ("q4_1", offset(4, 0, 32, Scales::F16, true)),
        ("int4-128", offset(4, 8, 128, Scales::F16, false)),
        ("q5_0", offset(5, 16, 32, Scales::F16, false)),
        ("q2_k", offset(2, 0, 16, Scales::Super { groups: 16 }, true)),
        ("q4_k", offset(4, 0, 32, Scales::Super { groups: 8 }, true)),
        ("q6_k", offset(6, 32, 16, Scales::Super { groups: 16 }, false)),
        ("iq4_nl", Storage::Quantized(Scheme { values: Values::Nl4, group: 32, ..nf4 })),
        ("nf4", Storage::Quantized(nf4)),
    ]
}

fn main() {
    let isa = select(std::env::var("LITH_ISA").ok().as_deref()).unwrap();
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |word: &str| words.is_empty() || words.iter().any(|w| w == word);
    println!("instruction set {}", isa.name());
    for threads in [1, 2] {
        let pool = Pool::new(threads);
        let roof = peak(&pool);
        println!("\n{threads} thread(s): roof {:.1} GFLOP/s", roof / 1e9);
        let report = |what: String, flops: f64, seconds: f64| {
            let rate = flops / seconds;
            println!("{what:44} {:9.1} us {:7.1} GFLOP/s {:5.1} %", seconds * 1e6, rate / 1e9, 100.0 * rate / roof);
        };
        if wanted("gemm") {
            for m in [16, 128, 1024] {
                for (n, k) in [(384, 384), (1152, 384), (1536, 384), (384, 1536), (768, 768), (3072, 768)] {
                    let storage = Storage::Float(DType::F32);
                    let seconds = gemm(&pool, Product { m, n, k, storage, activations: 0, weights: 6 });
                    report(format!("gemm f32 {m} x {n} x {k}"), (2 * m * n * k) as f64, seconds);
                }
            }
        }
        if wanted("dot") {
            // Forward, gradient of the input, gradient of the weight of a layer of 2048 tokens.
            for ([m, n, k], across) in [
                ([2048, 1536, 384], [false, true]),
                ([2048, 384, 1536], [false, true]),
                ([2048, 384, 1536], [false, false]),
                ([2048, 1536, 384], [false, false]),
                ([1536, 384, 2048], [true, false]),
                ([384, 1536, 2048], [true, false]),
                ([384, 384, 2048], [true, false]),
                ([2048, 384, 384], [false, true]),
            ] {
                let what = format!(
                    "dot {m} x {n} x {k}{}{}",
                    [", A across", ""][!across[0] as usize],
                    [", B across", ""][!across[1] as usize]
                );
                report(what, (2 * m * n * k) as f64, dot(&pool, [m, n, k], across));
            }
        }
        if wanted("half") {
            for dtype in [DType::Bf16, DType::F16] {
                for m in [1, 16, 1024] {
                    let storage = Storage::Float(dtype);
                    let product = Product { m, n: 1536, k: 384, storage, activations: 0, weights: 6 };
                    report(format!("gemm {dtype} {m} x 1536 x 384"), (2 * m * 1536 * 384) as f64, gemm(&pool, product));
                }
            }
        }
        if wanted("decode") || wanted("prefill") {
            // Beyond any cache of a core, on each thread.
            let memory = read_bandwidth(threads, 256 << 20);
            println!("memory {:.1} GB/s", memory / 1e9);
            for (name, storage) in storages() {
                for activations in [0, 1] {
                    if activations == 1 && matches!(storage, Storage::Float(_)) {
                        continue;
                    }
                    let what = |m, n, k| format!("{name}{} {m} x {n} x {k}", [" f32", " int8"][activations as usize]);
                    for (n, k) in [(1536, 576), (576, 1536), (576, 576), (49152, 576)] {
                        for m in [1, 2, 4, 8] {
                            // Other weights each time, 64 MB in all: none are in a core's cache when they come.
                            let bytes = packed_len(n, k, &storage).unwrap();
                            let product = Product { m, n, k, storage, activations, weights: (64 << 20) / bytes + 1 };
                            if wanted("decode") && (m == 1 || n == 1536) {
                                let seconds = gemm(&pool, product);
                                let rate = bytes as f64 / seconds;
                                println!(
                                    "{:44} {:9.1} us {:7.1} GB/s {:9.1} % of memory",
                                    what(m, n, k),
                                    seconds * 1e6,
                                    rate / 1e9,
                                    100.0 * rate / memory
                                );
                            }
                        }
                        if wanted("prefill") && n < 10_000 {
                            let product = Product { m: 512, n, k, storage, activations, weights: 2 };
                            report(what(512, n, k), (2 * 512 * n * k) as f64, gemm(&pool, product));
                        }
                    }
                }
            }
        }
        if wanted("attention") {
            // Sequences of 5 to 200 tokens in no order.
            let mixed: Vec<usize> = (0..64).map(|i| 5 + i * 73 % 64 * 195 / 63).collect();
            for (what, lengths, heads, dim) in [
                ("1 x 16", vec![16], 12, 32),
                ("1 x 128", vec![128], 12, 32),
                ("8 x 128", vec![128; 8], 12, 32),
                ("4 x 512", vec![512; 4], 12, 32),
                ("64 mixed", mixed.clone(), 12, 32),
                ("8 x 128", vec![128; 8], 12, 64),
                ("1 x 512", vec![512], 12, 64),
                ("64 mixed", mixed, 12, 64),
                ("1 x 2048", vec![2048], 4, 64),
            ] {
                let seconds = attention(&pool, &lengths, heads, dim);
                let flops = lengths.iter().map(|len| (4 * heads * len * len * dim) as f64).sum();
                report(format!("attention {what}, {heads} heads of {dim}"), flops, seconds);
            }
        }
        if wanted("vmath") {
            let mut x = values(4096);
            let entries: [(&str, unsafe extern "C" fn(*mut f32, i64)); 5] = [
                ("exp", vmath::exp_in_place),
                ("erf", vmath::erf_in_place),
                ("tanh", vmath::tanh_in_place),
                ("gelu_erf", vmath::gelu_erf_in_place),
                ("gelu_tanh", vmath::gelu_tanh_in_place),
            ];
            for (name, entry) in entries {
                let seconds = best(&pool, 0.05, || {
                    x.iter_mut().for_each(|x| *x = 0.7);
                    // SAFETY: the 4096 values of `x`.
                    unsafe { entry(x.as_mut_ptr(), 4096) };
                });
                println!("{name:44} {:9.2} values/ns", 4096.0 / seconds / 1e9);
            }
        }
        if wanted("threads") {
            let dispatch = best(&pool, 0.2, || pool.run(|_| ()));
            let waits = best(&pool, 0.2, || {
                pool.run(|team| (0..1000).for_each(|_| team.barrier.wait()));
            });
            println!("empty run {:.2} us, barrier {:.0} ns", dispatch * 1e6, (waits - dispatch) * 1e6);
        }
    }
}
