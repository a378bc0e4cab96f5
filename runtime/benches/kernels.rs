//! Speed of the CPU kernels beside what the machine can do: `cargo bench -p lith-runtime [--bench kernels] [-- WORD ...]`.
//!
//! Every figure is the best of many short repetitions, so that a busy machine shows less. The roof is measured in the same
//! run: independent multiply-adds of the widest vectors, on as many threads. `LITH_ISA` chooses the instruction set.
#![allow(unsafe_code, reason = "kernels take raw operands")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use lith_runtime::kernels::{
    AttentionArgs, GemmArgs, Isa, Storage, attention_packed, gemm_panels, pack_panels, panels_len, select, vmath,
};
use lith_runtime::threads::Pool;

/// Seconds of the calling thread on a core, where the system tells: a team of one is then timed without its neighbours.
fn on_core() -> Option<f64> {
    #[cfg(target_os = "linux")]
    {
        #[repr(C)]
        struct Timespec {
            seconds: i64,
            nanoseconds: i64,
        }
        unsafe extern "C" {
            fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
        }
        const THREAD_CPU_TIME: i32 = 3;
        let mut time = Timespec { seconds: 0, nanoseconds: 0 };
        // SAFETY: POSIX writes one `timespec`, which on 64-bit Linux is this.
        if cfg!(target_pointer_width = "64") && unsafe { clock_gettime(THREAD_CPU_TIME, &mut time) } == 0 {
            return Some(time.seconds as f64 + time.nanoseconds as f64 * 1e-9);
        }
    }
    None
}

/// Seconds of the quickest of the repetitions that fit in about `budget` seconds.
fn best(pool: &Pool, budget: f64, mut body: impl FnMut()) -> f64 {
    let start = Instant::now();
    let now = || match on_core() {
        Some(seconds) if pool.threads() == 1 => seconds,
        _ => start.elapsed().as_secs_f64(),
    };
    let (mut best, mut rounds) = (f64::INFINITY, 0);
    while rounds < 5 || start.elapsed().as_secs_f64() < budget {
        let one = now();
        body();
        best = best.min(now() - one);
        rounds += 1;
    }
    best
}

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

/// Seconds of a product; `weights` different ones in turn, as layers are.
fn gemm(pool: &Pool, m: usize, n: usize, k: usize, storage: Storage, weights: usize) -> f64 {
    let rows = vec![0x3C; n * k * storage.size()];
    let mut panels = vec![0; panels_len(n, k, storage).unwrap()];
    pack_panels(&rows, storage, n, k, &mut panels).unwrap();
    // One cache line more than needed, to start at one.
    let len = panels.len();
    let mut all = vec![0u8; len * weights + 64];
    let shift = all.as_ptr().align_offset(64);
    for copy in all[shift..].chunks_exact_mut(len).take(weights) {
        copy.copy_from_slice(&panels);
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
                    b_dtype: storage as i64,
                    c: c as *mut f32,
                    ldc: n as i64,
                    m: m as i64,
                    n: n as i64,
                    k: k as i64,
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

/// Seconds of the attention of `batch` sequences.
fn attention(pool: &Pool, batch: usize, len: usize, heads: usize, dim: usize, causal: bool) -> f64 {
    let tokens = batch * len;
    let width = heads * dim;
    let qkv = values(tokens * 3 * width);
    let mut out = vec![0.0f32; tokens * width];
    let offsets: Vec<i32> = (0..=batch).map(|s| (s * len) as i32).collect();
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
                batch: batch as i64,
                heads: heads as i64,
                kv_heads: heads as i64,
                head_dim: dim as i64,
                relative_bias: std::ptr::null(),
                positions: 0,
                key_mask: std::ptr::null(),
                scale: 0.18,
                causal: causal.into(),
            };
            // SAFETY: the operands above have these sizes.
            unsafe { attention_packed(&args, team.thread as i64, team.threads as i64) };
        });
    })
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
                    let seconds = gemm(&pool, m, n, k, Storage::F32, 6);
                    report(format!("gemm f32 {m} x {n} x {k}"), (2 * m * n * k) as f64, seconds);
                }
            }
        }
        if wanted("half") {
            for storage in [Storage::Bf16, Storage::F16] {
                for m in [1, 16, 1024] {
                    let seconds = gemm(&pool, m, 1536, 384, storage, 6);
                    report(format!("gemm {storage:?} {m} x 1536 x 384"), (2 * m * 1536 * 384) as f64, seconds);
                }
            }
        }
        if wanted("attention") {
            for (batch, len, heads, dim) in [
                (1, 16, 12, 32),
                (1, 128, 12, 32),
                (8, 128, 12, 32),
                (4, 512, 12, 32),
                (1, 512, 12, 64),
                (1, 2048, 4, 64),
            ] {
                let seconds = attention(&pool, batch, len, heads, dim, false);
                let flops = (4 * batch * heads * len * len * dim) as f64;
                report(format!("attention {batch} x {len}, {heads} heads of {dim}"), flops, seconds);
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
