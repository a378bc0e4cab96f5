//! Speed of attention over a paged cache: `cargo bench -p lith-runtime --bench attention`. Every figure is the best of
//! many short repetitions, a single thread's by its time on a core. Decoding is told in bytes of the cache read per
//! second, prefill in multiply-adds (times two) of the keys that are seen. `LITH_ISA` chooses the instruction set.
#![allow(unsafe_code, reason = "kernels take raw operands")]

mod timing;

use lith_runtime::kernels::{CacheType, PagedArgs, SharedScratch, attention_paged, select};
use lith_runtime::threads::Pool;
use timing::best;

/// Sequences of `past` tokens with `new` ones more.
#[derive(Clone, Copy)]
struct Shape {
    sequences: usize,
    past: usize,
    new: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

impl Shape {
    /// Seconds of a layer; `layers` different ones in turn, as a model has them.
    fn seconds(&self, pool: &Pool, dtype: CacheType, layers: usize) -> f64 {
        let Shape { sequences, past, new, heads, kv_heads, dim } = *self;
        let width = (past + new).div_ceil(64);
        let part = 64 * kv_heads * dim * element_size(dtype);
        let scales = 64 * kv_heads * 4;
        let layer = 2 * part + 2 * scales;
        let page_bytes = layer * layers;
        let pages = sequences * width;
        // Eights as bytes are small numbers of every type.
        let mut memory = vec![0x38u8; pages * page_bytes + 64];
        let shift = memory.as_ptr().align_offset(64);
        let cache = memory[shift..].as_mut_ptr() as usize;
        let q: Vec<f32> = (0..sequences * new * heads * dim).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let mut out = vec![0.0f32; q.len()];
        let out = out.as_mut_ptr() as usize;
        let offsets: Vec<i32> = (0..=sequences).map(|s| (s * new) as i32).collect();
        let pasts = vec![past as i32; sequences];
        let table: Vec<i32> = (0..pages as i32).rev().collect();
        let scratch = SharedScratch::new();
        let seconds = best(pool, 0.3, || {
            pool.run(|team| {
                for l in 0..layers {
                    let at = |bytes: usize| (cache + l * layer + bytes) as *const u8;
                    let scale = |i: usize| match dtype {
                        CacheType::I8 => at(2 * part + i * scales),
                        CacheType::F32 | CacheType::Bf16 | CacheType::F16 => std::ptr::null(),
                    };
                    let args = PagedArgs {
                        q: q.as_ptr(),
                        q_stride: (heads * dim) as i64,
                        k: at(0),
                        v: at(part),
                        k_scale: scale(0),
                        v_scale: scale(1),
                        page_stride: page_bytes as i64,
                        dtype: dtype as i64,
                        offsets: offsets.as_ptr(),
                        past: pasts.as_ptr(),
                        table: table.as_ptr(),
                        table_width: width as i64,
                        sequences: sequences as i64,
                        heads: heads as i64,
                        kv_heads: kv_heads as i64,
                        head_dim: dim as i64,
                        window: 0,
                        slopes: std::ptr::null(),
                        out: out as *mut f32,
                        out_stride: (heads * dim) as i64,
                        barrier: team.barrier,
                        scratch: &scratch,
                        scale: 0.125,
                        softcap: 0.0,
                    };
                    // SAFETY: the operands above have these sizes; the barrier separates the layers.
                    unsafe { attention_paged(&args, team.thread as i64, team.threads as i64) };
                    team.barrier.wait();
                }
            });
        });
        seconds / layers as f64
    }
}

fn element_size(dtype: CacheType) -> usize {
    match dtype {
        CacheType::F32 => 4,
        CacheType::Bf16 | CacheType::F16 => 2,
        CacheType::I8 => 1,
    }
}

fn main() {
    let isa = select(std::env::var("LITH_ISA").ok().as_deref()).unwrap();
    println!("instruction set {}", isa.name());
    for threads in [1, 2] {
        let pool = Pool::new(threads);
        println!("\n{threads} thread(s)");
        for dtype in [CacheType::F32, CacheType::F16, CacheType::Bf16, CacheType::I8] {
            for (sequences, past, heads, kv_heads, dim, layers) in
                [(1, 575, 9, 3, 64, 1), (1, 575, 9, 3, 64, 30), (8, 575, 9, 3, 64, 30), (1, 4095, 32, 8, 128, 4)]
            {
                let shape = Shape { sequences, past, new: 1, heads, kv_heads, dim };
                let seconds = shape.seconds(&pool, dtype, layers);
                let bytes = sequences * (past + 1) * kv_heads * dim * 2 * element_size(dtype);
                println!(
                    "{dtype:?} decode {sequences} x {:4}, {heads:2}/{kv_heads} heads of {dim:3}, {layers:2} layers {:9.1} us {:6.1} GB/s",
                    past + 1,
                    seconds * 1e6,
                    bytes as f64 / seconds / 1e9
                );
            }
            for (past, new, heads, kv_heads, dim) in [(0, 512, 9, 3, 64), (0, 512, 12, 12, 64), (4096, 512, 32, 8, 128)]
            {
                let shape = Shape { sequences: 1, past, new, heads, kv_heads, dim };
                let seconds = shape.seconds(&pool, dtype, 1);
                let seen: usize = (past + 1..=past + new).sum();
                println!(
                    "{dtype:?} prefill {past:4} + {new}, {heads:2}/{kv_heads} heads of {dim:3} {:9.1} us {:6.1} GFLOP/s",
                    seconds * 1e6,
                    (4 * seen * heads * dim) as f64 / seconds / 1e9
                );
            }
        }
    }
}
