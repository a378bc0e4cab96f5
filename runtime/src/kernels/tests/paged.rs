//! The paged cache and attention over it against f64, and against themselves cut into other calls.

use std::ops::Range;

use half::{bf16, f16};
use lith_ir::CachePart;
use lith_ir::plan::PAGE_TOKENS;

use super::{Random, bits, close};
use crate::kernels::append::append_on;
use crate::kernels::paged::paged_on;
use crate::kernels::{AppendArgs, CacheType, Isa, PagedArgs, SharedScratch};
use crate::threads::Pool;

/// A call: for each of its sequences how many more tokens it takes.
type Call = Vec<(usize, usize)>;

struct Sequence {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// 8-bit codes of `k` and `v`, and the scales of each token and head; `k` and `v` are their values.
    codes: [Vec<i8>; 2],
    scales: [Vec<f32>; 2],
}

struct Case {
    dtype: CacheType,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    scale: f32,
    softcap: f32,
    window: usize,
    slopes: Option<Vec<f32>>,
    lengths: Vec<usize>,
    sequences: Vec<Sequence>,
}

fn element_size(dtype: CacheType) -> usize {
    match dtype {
        CacheType::F32 => 4,
        CacheType::Bf16 | CacheType::F16 => 2,
        CacheType::I8 => 1,
    }
}

impl Case {
    fn new(random: &mut Random, dtype: CacheType, lengths: &[usize], heads: [usize; 2], dim: usize) -> Case {
        let [heads, kv_heads] = heads;
        let sequence = |&len: &usize| {
            let width = kv_heads * dim;
            let mut sequence = Sequence {
                q: random.values(len * heads * dim),
                k: random.values(len * width),
                v: random.values(len * width),
                codes: Default::default(),
                scales: Default::default(),
            };
            for (i, x) in [&mut sequence.k, &mut sequence.v].into_iter().enumerate() {
                match dtype {
                    CacheType::F32 | CacheType::Bf16 | CacheType::F16 => {}
                    CacheType::I8 => {
                        sequence.scales[i] = (0..len * kv_heads).map(|_| (random.value() + 1.5) / 127.0).collect();
                        sequence.codes[i] = x.iter().map(|x| (x * 127.0) as i8).collect();
                        let codes = sequence.codes[i].iter().enumerate();
                        *x = codes.map(|(j, &code)| f32::from(code) * sequence.scales[i][j / dim]).collect();
                    }
                }
            }
            sequence
        };
        let sequences = lengths.iter().map(sequence).collect();
        Case {
            dtype,
            heads,
            kv_heads,
            dim,
            scale: random.pick(&[0.2, 1.0, -0.5]),
            softcap: random.pick(&[0.0, 0.0, 3.0]),
            window: random.pick(&[0, 0, 1, 20, 300]),
            slopes: random.pick(&[false, false, true]).then(|| (0..heads).map(|_| random.value() / 16.0).collect()),
            lengths: lengths.to_vec(),
            sequences,
        }
    }

    fn what(&self) -> String {
        let Case { dtype, heads, kv_heads, dim, scale, softcap, window, lengths, .. } = self;
        let slopes = self.slopes.is_some();
        format!(
            "{dtype:?} {lengths:?} {heads}/{kv_heads} × {dim} {scale} cap {softcap} window {window} slopes {slopes}"
        )
    }

    /// The output rows of each sequence, computed by some calls.
    fn run(&self, isa: Isa, threads: usize, calls: &[Call], random: &mut Random) -> Vec<Vec<f32>> {
        let (heads, kv_heads, dim) = (self.heads, self.kv_heads, self.dim);
        let size = element_size(self.dtype);
        let part = (PAGE_TOKENS * kv_heads * dim * size).next_multiple_of(64);
        let scales = (PAGE_TOKENS * kv_heads * 4).next_multiple_of(64);
        // Keys, a gap, values, and scales of each.
        let starts = [0, part + 64, 2 * part + 64, 2 * part + 64 + scales];
        let page_bytes = starts[3] + scales;
        let table_width = self.lengths.iter().map(|len| len.div_ceil(PAGE_TOKENS)).sum::<usize>() + 1;
        let pages = self.lengths.len() * table_width;
        // What is not written is not a number, whatever the type.
        let mut memory = vec![u8::MAX; pages * page_bytes + 64];
        let shift = memory.as_ptr().align_offset(64);
        let pool = memory[shift..].as_mut_ptr() as usize;
        let mut free: Vec<i32> = (0..pages as i32).collect();
        let mut tables = vec![vec![]; self.lengths.len()];
        let mut past = vec![0; self.lengths.len()];
        let mut outputs: Vec<Vec<f32>> = self.lengths.iter().map(|len| vec![f32::NAN; len * heads * dim]).collect();
        let scratch = SharedScratch::new();
        let team = Pool::new(threads);
        for call in calls {
            let mut offsets = vec![0i32];
            let (mut q, mut table, mut slots) = (vec![], vec![], vec![]);
            let (mut x, mut codes, mut token_scales) = ([vec![], vec![]], [vec![], vec![]], [vec![], vec![]]);
            let call_past: Vec<i32> = call.iter().map(|&(s, _)| past[s] as i32).collect();
            for &(s, count) in call {
                let (first, last) = (past[s], past[s] + count);
                let rows = |x: &[f32], width: usize| x[first * width..last * width].to_vec();
                let sequence = &self.sequences[s];
                while tables[s].len() < last.div_ceil(PAGE_TOKENS) {
                    tables[s].push(free.swap_remove((random.bits() % free.len() as u64) as usize));
                }
                slots.extend((first..last).map(|p| tables[s][p / 64] * 64 + (p % 64) as i32));
                for row in rows(&sequence.q, heads * dim).chunks_exact(heads * dim) {
                    q.extend_from_slice(row);
                    q.extend([f32::NAN; 3]);
                }
                x[0].extend(rows(&sequence.k, kv_heads * dim));
                x[1].extend(rows(&sequence.v, kv_heads * dim));
                if self.dtype == CacheType::I8 {
                    for i in 0..2 {
                        codes[i].extend_from_slice(&sequence.codes[i][first * kv_heads * dim..last * kv_heads * dim]);
                        token_scales[i].extend(rows(&sequence.scales[i], kv_heads));
                    }
                }
                let mut row = tables[s].clone();
                row.resize(table_width, 0);
                table.extend(row);
                past[s] = last;
                offsets.push(offsets[offsets.len() - 1] + count as i32);
            }
            let tokens = slots.len();
            let out_stride = heads * dim + 1;
            let mut out = vec![7.5f32; tokens * out_stride];
            let out_start = out.as_mut_ptr() as usize;
            team.run(|team| {
                let state = |i: usize| (pool + starts[i]) as *mut u8;
                let append =
                    |i: usize, part: CachePart, x: *const u8, x_dtype: CacheType, dtype: CacheType, dim: usize| {
                        let args = AppendArgs {
                            cache: state(i),
                            page_stride: page_bytes as i64,
                            pages: pages as i64,
                            part: part as i64,
                            dtype: dtype as i64,
                            x,
                            x_dtype: x_dtype as i64,
                            x_stride: (kv_heads * dim) as i64,
                            heads: kv_heads as i64,
                            head_dim: dim as i64,
                            slots: slots.as_ptr(),
                            tokens: tokens as i64,
                        };
                        // SAFETY: the operands have the sizes the arguments name.
                        unsafe { append_on(isa, &args, team.thread, team.threads) };
                    };
                for (i, part) in [CachePart::Keys, CachePart::Values].into_iter().enumerate() {
                    if self.dtype == CacheType::I8 {
                        append(i, part, codes[i].as_ptr().cast(), self.dtype, self.dtype, dim);
                        let scales = token_scales[i].as_ptr().cast();
                        append(2 + i, CachePart::Scales, scales, CacheType::F32, CacheType::F32, 1);
                    } else {
                        append(i, part, x[i].as_ptr().cast(), CacheType::F32, self.dtype, dim);
                    }
                }
                team.barrier.wait();
                let scale_of = |i: usize| if self.dtype == CacheType::I8 { state(i) } else { std::ptr::null_mut() };
                let args = PagedArgs {
                    q: q.as_ptr(),
                    q_stride: (heads * dim + 3) as i64,
                    k: state(0),
                    v: state(1),
                    k_scale: scale_of(2),
                    v_scale: scale_of(3),
                    page_stride: page_bytes as i64,
                    dtype: self.dtype as i64,
                    offsets: offsets.as_ptr(),
                    past: call_past.as_ptr(),
                    table: table.as_ptr(),
                    table_width: table_width as i64,
                    sequences: call.len() as i64,
                    heads: heads as i64,
                    kv_heads: kv_heads as i64,
                    head_dim: dim as i64,
                    window: self.window as i64,
                    slopes: self.slopes.as_ref().map_or(std::ptr::null(), |s| s.as_ptr()),
                    out: out_start as *mut f32,
                    out_stride: out_stride as i64,
                    barrier: team.barrier,
                    scratch: &scratch,
                    scale: self.scale,
                    softcap: self.softcap,
                };
                // SAFETY: the operands have the sizes the arguments name.
                unsafe { paged_on(isa, &args, team.thread, team.threads) };
            });
            for (i, &(s, count)) in call.iter().enumerate() {
                let first = past[s] - count;
                for token in 0..count {
                    let row = &out[(offsets[i] as usize + token) * out_stride..][..out_stride];
                    assert_eq!(row[out_stride - 1], 7.5, "nothing is written between the rows");
                    outputs[s][(first + token) * heads * dim..][..heads * dim].copy_from_slice(&row[..heads * dim]);
                }
            }
        }
        assert_eq!(past, self.lengths);
        outputs
    }

    fn reference(&self, s: usize) -> Vec<(f64, f64)> {
        let (heads, kv_heads, dim) = (self.heads, self.kv_heads, self.dim);
        let sequence = &self.sequences[s];
        let stored = |x: f32| {
            f64::from(match self.dtype {
                CacheType::F32 | CacheType::I8 => x,
                CacheType::Bf16 => bf16::from_f32(x).to_f32(),
                CacheType::F16 => f16::from_f32(x).to_f32(),
            })
        };
        let mut out = vec![];
        for i in 0..self.lengths[s] {
            for h in 0..heads {
                let kv = h / (heads / kv_heads);
                let row = |x: &[f32], j: usize| -> Vec<f64> {
                    x[(j * kv_heads + kv) * dim..][..dim].iter().map(|&x| stored(x)).collect()
                };
                let q = &sequence.q[(i * heads + h) * dim..][..dim];
                let seen: Range<usize> = if self.window == 0 { 0 } else { (i + 1).saturating_sub(self.window) }..i + 1;
                let scores: Vec<f64> = seen
                    .clone()
                    .map(|j| {
                        let dot: f64 = q.iter().zip(row(&sequence.k, j)).map(|(&a, b)| f64::from(a) * b).sum();
                        let mut x = dot * f64::from(self.scale);
                        if self.softcap != 0.0 {
                            x = f64::from(self.softcap) * (x / f64::from(self.softcap)).tanh();
                        }
                        x + self.slopes.as_ref().map_or(0.0, |s| f64::from(s[h]) * (j as f64 - i as f64))
                    })
                    .collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let mut y = vec![0.0; dim];
                for (j, w) in seen.zip(weights) {
                    y.iter_mut().zip(row(&sequence.v, j)).for_each(|(y, v)| *y += w / sum * v);
                }
                out.extend(y.into_iter().map(|y| (y, 1.0)));
            }
        }
        out
    }

    /// All sequences at once in one call.
    fn whole(&self) -> Vec<Call> {
        vec![(0..self.lengths.len()).map(|s| (s, self.lengths[s])).collect()]
    }

    /// Calls of some sequences each, with some tokens each.
    fn cut(&self, random: &mut Random, most: usize) -> Vec<Call> {
        let mut left = self.lengths.clone();
        let mut calls = vec![];
        while left.iter().any(|&n| n > 0) {
            let mut call = vec![];
            for (s, left) in left.iter_mut().enumerate() {
                if *left > 0 && random.pick(&[true, true, false]) {
                    let count = (*left).min(1 + (random.bits() % most as u64) as usize);
                    call.push((s, count));
                    *left -= count;
                }
            }
            if random.pick(&[true, false]) {
                call.reverse();
            }
            calls.push(call);
        }
        calls
    }

    /// Right by f64, and the same bits however it is computed.
    fn check(&self, random: &mut Random) {
        let what = self.what();
        let mut fused: Vec<Vec<Vec<u32>>> = vec![];
        for isa in Isa::available() {
            let whole = self.run(isa, 1, &self.whole(), random);
            for (s, rows) in whole.iter().enumerate() {
                close(rows, &self.reference(s), 1e-5, &format!("{what} {isa:?} sequence {s}"));
            }
            let whole: Vec<_> = whole.iter().map(|rows| bits(rows)).collect();
            let alone: Vec<Call> = (0..self.lengths.len()).map(|s| vec![(s, self.lengths[s])]).collect();
            for (name, calls, threads) in [
                ("at once", self.whole(), &[2, 3][..]),
                ("one sequence a call", alone, &[1]),
                ("large pieces", self.cut(random, 200), &[1, 3]),
                ("small pieces", self.cut(random, 7), &[2]),
                ("token by token", self.cut(random, 1), &[2]),
            ] {
                // Thousands of calls would tell no more than hundreds.
                if calls.len() > 700 {
                    continue;
                }
                for &threads in threads {
                    let found: Vec<_> = self.run(isa, threads, &calls, random).iter().map(|rows| bits(rows)).collect();
                    assert!(found == whole, "{what} {isa:?}: {name} on {threads} threads");
                }
            }
            if isa != Isa::Portable {
                fused.push(whole);
            }
        }
        assert!(fused.windows(2).all(|pair| pair[0] == pair[1]), "{what}: instruction sets with FMA agree");
    }
}

/// AT-01, AT-02: causal, grouped heads, windows, soft caps and slopes over every type of cache.
#[test]
fn paged_attention_is_softmax_of_scores_times_values() {
    let mut random = Random(7);
    for round in 0..40 {
        let dtype = [CacheType::F32, CacheType::F16, CacheType::Bf16, CacheType::I8][round % 4];
        let count = random.pick(&[0, 1, 2, 4]);
        let lengths: Vec<usize> = (0..count).map(|_| random.pick(&[1, 2, 15, 16, 17, 63, 64, 65, 100, 130])).collect();
        let heads = random.pick(&[[1, 1], [2, 2], [4, 2], [3, 1], [9, 3], [14, 2], [13, 1]]);
        let dim = random.pick(&[1, 8, 16, 24, 32, 64, 80]);
        Case::new(&mut random, dtype, &lengths, heads, dim).check(&mut random);
    }
}

/// AT-06: sequences of several blocks of keys.
#[test]
fn paged_attention_over_long_sequences() {
    let mut random = Random(8);
    for (round, dtype) in [CacheType::F32, CacheType::F16, CacheType::Bf16, CacheType::I8].into_iter().enumerate() {
        let lengths = [vec![256, 257], vec![600, 3], vec![1030], vec![300, 511, 20]][round].clone();
        for (window, dim) in [(0, 16), (300, 24), (256, 8)] {
            let heads = random.pick(&[[3, 1], [4, 2]]);
            let mut case = Case::new(&mut random, dtype, &lengths, heads, dim);
            case.window = window;
            case.check(&mut random);
        }
    }
}

/// A value that is not a number reaches the rows that see it, and no others.
#[test]
fn what_a_row_does_not_see_does_not_touch_it() {
    let mut random = Random(9);
    for (window, at) in [(0, 40), (0, 270), (25, 40), (25, 270)] {
        let mut case = Case::new(&mut random, CacheType::F32, &[330], [4, 2], 24);
        (case.window, case.softcap, case.slopes) = (window, 0.0, None);
        let clean = case.run(Isa::current(), 2, &case.whole(), &mut random);
        for part in 0..2 {
            let saved = case.sequences[0].k.clone();
            let sequence = &mut case.sequences[0];
            let x = if part == 0 { &mut sequence.k } else { &mut sequence.v };
            let old = x.clone();
            // The second key head of one position.
            x[(at * 2 + 1) * 24..][..24].fill(f32::NAN);
            let found = case.run(Isa::current(), 2, &case.whole(), &mut random);
            for (i, (found, clean)) in found[0].chunks_exact(24).zip(clean[0].chunks_exact(24)).enumerate() {
                let (position, head) = (i / 4, i % 4);
                let sees = head >= 2 && position >= at && (window == 0 || position < at + window);
                let what = format!("row {position} of head {head}, window {window}, part {part}");
                assert!(found.iter().all(|x| x.is_nan() == sees), "{what}");
                assert!(sees || bits(found) == bits(clean), "{what}");
            }
            let sequence = &mut case.sequences[0];
            if part == 0 { sequence.k = saved } else { sequence.v = old }
        }
    }
}

/// Many short sequences decode at once, on more threads than there are cores.
#[test]
fn many_sequences_on_many_threads() {
    let mut random = Random(10);
    let lengths: Vec<usize> = (0..20).map(|_| 1 + (random.bits() % 40) as usize).collect();
    let case = Case::new(&mut random, CacheType::F16, &lengths, [6, 2], 16);
    let whole = case.run(Isa::current(), 1, &case.whole(), &mut random);
    for threads in [4, 13] {
        let calls = case.cut(&mut random, 9);
        let cut = case.run(Isa::current(), threads, &calls, &mut random);
        assert!(whole.iter().zip(&cut).all(|(a, b)| bits(a) == bits(b)), "{threads} threads");
    }
}
