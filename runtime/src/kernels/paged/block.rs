//! The arithmetic: rows of queries against blocks of keys and values in pages.

use std::ops::Range;

use lith_ir::plan::PAGE_TOKENS;

use super::super::attention::{SCORE_ROWS, exponentiate, tiles};
use super::super::simd::{Element, LANES, Simd};
use super::super::tile::{Next, TileArgs};
use super::super::vmath::{LOG2_E, exp2_of_negative, tanh};
use super::plan::{Task, Unit};
use super::{BLOCK_PAGES, KEY_BLOCK, PagedArgs, Sizes};

/// A thread's working memory.
pub(super) struct Buffers<'a> {
    /// The queries of a task, row by row: token by token, the query heads of the key head side by side.
    pub q: &'a mut [f32],
    /// Scores of a tile of rows: [`SCORE_ROWS`] × [`KEY_BLOCK`].
    pub scores: &'a mut [f32],
    /// Values of a block, rows rounded up to full vectors; empty where the cache's own rows are such.
    pub values: &'a mut [f32],
    /// The result of a tile of rows for a block.
    pub result: &'a mut [f32],
}

/// Where a block of the keys of a task lies, and which rows it meets.
struct Block<'a> {
    args: &'a PagedArgs,
    sizes: &'a Sizes,
    unit: Unit,
    block: usize,
    /// The pages of the block, as far as the sequence has them.
    pages: *const i32,
    /// Pages of the block that the task comes to after this one.
    next_pages: usize,
}

impl Block<'_> {
    /// The head's part of page `page` of the block, of a cache with `width` elements for each token and head.
    ///
    /// # Safety
    /// The sequence has this page.
    #[inline(always)]
    unsafe fn page<T>(&self, cache: *const u8, page: usize, width: usize) -> *const T {
        // SAFETY: the caller's promise; the page is in the cache and has this head.
        unsafe {
            let start = cache.add(*self.pages.add(page) as usize * self.args.page_stride as usize);
            start.cast::<T>().add(self.unit.head * PAGE_TOKENS * width)
        }
    }

    /// The head's part of a page, to be asked for while a product of `steps` steps is computed.
    ///
    /// # Safety
    /// As for [`Block::page`].
    #[inline(always)]
    unsafe fn ahead<T>(&self, cache: *const u8, page: usize, steps: usize) -> Next {
        let bytes = PAGE_TOKENS * self.sizes.dim * size_of::<T>();
        // SAFETY: the caller's promise.
        Next { lines: unsafe { self.page::<T>(cache, page, self.sizes.dim) }.cast(), step: bytes / steps.max(1) }
    }

    /// The parts of `keys` of the block in its pages: the page, and the keys.
    fn by_page(keys: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        (0..BLOCK_PAGES).filter_map(move |page| {
            let part = keys.start.max(page * PAGE_TOKENS)..keys.end.min((page + 1) * PAGE_TOKENS);
            (!part.is_empty()).then_some((page, part))
        })
    }
}

/// Blocks of a task. The thread with the first block of the task merges its blocks to `state`; another leaves the result
/// of each in its place behind `state`.
///
/// # Safety
/// The task is one of the operands of `args`, which are valid; the buffers are as their description says; `state` has
/// room for the results, which are nobody else's.
#[inline(always)]
pub(super) unsafe fn attend<S: Simd, E: Element>(
    s: S,
    args: &PagedArgs,
    sizes: &Sizes,
    task: &Task,
    blocks: Range<usize>,
    state: *mut f32,
    buffers: &mut Buffers<'_>,
) {
    let unit = task.unit;
    let rows = unit.tokens * sizes.group;
    // SAFETY: the tokens and heads of the unit are in `q`, and the buffer holds them.
    unsafe {
        for token in 0..unit.tokens {
            let len = sizes.group * sizes.dim;
            let from = args.q.add((unit.token + token) * args.q_stride as usize + unit.head * len);
            std::ptr::copy_nonoverlapping(from, buffers.q[token * len..][..len].as_mut_ptr(), len);
        }
    }
    let others = task.blocks_of_others();
    let merging = !others.contains(&blocks.start);
    if merging {
        // SAFETY: `state` has room for the result of the rows.
        unsafe { clear(s, sizes, rows, state) };
    }
    let last_key = unit.seen(unit.tokens - 1).end;
    for block in blocks.clone() {
        let left = if block + 1 < blocks.end { last_key.saturating_sub((block + 1) * KEY_BLOCK) } else { 0 };
        let next_pages = left.div_ceil(PAGE_TOKENS).min(BLOCK_PAGES);
        // SAFETY: the sequence has a table of pages that reaches to the keys that its tokens see.
        unsafe {
            let pages = args.table.add(unit.sequence * args.table_width as usize + block * BLOCK_PAGES);
            let place = Block { args, sizes, unit, block, pages, next_pages };
            if sizes.width != sizes.dim {
                widen_values::<S, E>(s, &place, buffers.values);
            }
            let to = if merging { state } else { state.add((1 + block - others.start) * sizes.state(rows)) };
            for first in (0..rows).step_by(SCORE_ROWS) {
                let tile = first..rows.min(first + SCORE_ROWS);
                let to = to.add(sizes.state(first));
                if merging {
                    let result = buffers.result.as_mut_ptr();
                    tile_of_block::<S, E>(s, &place, tile.clone(), buffers, result);
                    merge(s, sizes, tile.len(), to, result);
                } else {
                    tile_of_block::<S, E>(s, &place, tile, buffers, to);
                }
            }
        }
    }
}

/// Results of no keys at all.
///
/// # Safety
/// `state` has room for `rows` rows.
#[inline(always)]
unsafe fn clear<S: Simd>(s: S, sizes: &Sizes, rows: usize, state: *mut f32) {
    for first in (0..rows).step_by(SCORE_ROWS) {
        // SAFETY: the caller's promise.
        unsafe {
            let tile = state.add(sizes.state(first));
            for i in (0..sizes.tile(SCORE_ROWS.min(rows - first))).step_by(LANES) {
                s.store(tile.add(i), s.splat(if i == 0 { f32::NEG_INFINITY } else { 0.0 }));
            }
        }
    }
}

/// The result of at most [`SCORE_ROWS`] rows for one block, to `to`.
///
/// # Safety
/// As for [`attend`]; `rows` are of the unit, `to` has room for their result.
#[inline(always)]
unsafe fn tile_of_block<S: Simd, E: Element>(
    s: S,
    place: &Block<'_>,
    rows: Range<usize>,
    buffers: &mut Buffers<'_>,
    to: *mut f32,
) {
    let Block { args, sizes, unit, block, .. } = *place;
    let (dim, group) = (sizes.dim, sizes.group);
    let height = rows.len();
    let tokens = rows.start / group..(rows.end - 1) / group + 1;
    // Both ends ascend with the token.
    let (first, last) = (unit.seen_in(tokens.start, block), unit.seen_in(tokens.end - 1, block));
    let keys = first.start..last.end;
    // SAFETY: the result has the vectors of maxima and sums, then the rows' values.
    let (maxima, sums, sum_of_values) = unsafe {
        s.store(to, s.splat(f32::NEG_INFINITY));
        s.store(to.add(LANES), s.splat(0.0));
        let maxima = std::slice::from_raw_parts_mut(to, LANES);
        let sums = std::slice::from_raw_parts_mut(to.add(LANES), LANES);
        (maxima, sums, to.add(2 * LANES))
    };
    // SAFETY: the same.
    unsafe {
        for i in (0..height * sizes.width).step_by(LANES) {
            s.store(sum_of_values.add(i), s.splat(0.0));
        }
    }
    if keys.is_empty() {
        return;
    }
    let panels = keys.start / LANES..keys.end.div_ceil(LANES);
    let padded = panels.start * LANES..panels.end * LANES;
    let scores = buffers.scores.as_mut_ptr();
    // Scores are finished in memory where they must be; else the scale goes into the exponent.
    let plain = args.softcap == 0.0 && args.slopes.is_null() && args.scale > 0.0;
    let unit_of_scores = s.splat(if plain { args.scale * LOG2_E } else { LOG2_E });
    // SAFETY: pages of the sequence hold the keys, whole panels of them; the scores have room for a block.
    unsafe {
        for (page, keys) in Block::by_page(padded.clone()) {
            let b = place.page::<E>(args.k, page, dim).add((keys.start - page * PAGE_TOKENS) * dim);
            let c = scores.add(keys.start);
            let a = buffers.q.as_ptr().add(rows.start * dim);
            let steps = keys.len().div_ceil(LANES * S::PANELS) * dim;
            let tile = TileArgs {
                k: dim,
                a,
                lda: dim,
                b,
                b_step: LANES,
                b_panel: dim * LANES,
                c,
                ldc: KEY_BLOCK,
                accumulate: false,
                next: Some(place.ahead::<E>(args.v, page, steps)),
            };
            tiles(s, height, keys.len() / LANES, tile);
        }
        if !args.k_scale.is_null() {
            multiply(s, place, args.k_scale, padded.clone(), height, scores);
        }
        for row in 0..height {
            let token = (rows.start + row) / group;
            let scores = scores.add(row * KEY_BLOCK);
            if !plain {
                finish_scores(s, place, token, (rows.start + row) % group, padded.clone(), scores);
            }
            let seen = unit.seen_in(token, block);
            for key in (padded.start..seen.start).chain(seen.end.max(padded.start)..padded.end) {
                *scores.add(key) = f32::NEG_INFINITY;
            }
        }
        let start = scores.add(padded.start);
        exponentiate(s, start, KEY_BLOCK, height, padded.len(), unit_of_scores, maxima, sums);
        if !args.v_scale.is_null() {
            multiply(s, place, args.v_scale, padded, height, scores);
        }
        // Each row sums over the keys that it sees and no others, in order: first those that not all rows see any more,
        // then those of all rows together, then those that not all rows see yet.
        let common = last.start..first.end;
        for token in tokens.clone() {
            let seen = unit.seen_in(token, block);
            let end = if common.is_empty() { seen.end } else { common.start };
            weigh::<S, E>(s, place, seen.start..end, of_token(token, group, &rows), buffers, sum_of_values);
        }
        if !common.is_empty() {
            weigh::<S, E>(s, place, common.clone(), 0..height, buffers, sum_of_values);
            for token in tokens {
                let seen = unit.seen_in(token, block);
                weigh::<S, E>(s, place, common.end..seen.end, of_token(token, group, &rows), buffers, sum_of_values);
            }
        }
    }
}

/// The rows of a token within the tile of `rows`.
fn of_token(token: usize, group: usize, rows: &Range<usize>) -> Range<usize> {
    (token * group).max(rows.start) - rows.start..((token + 1) * group).min(rows.end) - rows.start
}

/// Adds to the results of `rows` of the tile the values of `keys` by their weights.
///
/// # Safety
/// As for [`tile_of_block`]: the keys are in pages of the sequence, the weights in the buffer for scores.
#[inline(always)]
unsafe fn weigh<S: Simd, E: Element>(
    s: S,
    place: &Block<'_>,
    keys: Range<usize>,
    rows: Range<usize>,
    buffers: &Buffers<'_>,
    to: *mut f32,
) {
    if keys.is_empty() {
        return;
    }
    let Sizes { dim, width, .. } = *place.sizes;
    // SAFETY: the caller's promise.
    unsafe {
        let weights = buffers.scores.as_ptr().add(rows.start * KEY_BLOCK);
        let c = to.add(rows.start * width);
        if dim != width {
            let tile = TileArgs {
                k: keys.len(),
                a: weights.add(keys.start),
                lda: KEY_BLOCK,
                b: buffers.values.as_ptr().add(keys.start * width),
                b_step: width,
                b_panel: LANES,
                c,
                ldc: width,
                accumulate: true,
                next: None,
            };
            return tiles(s, rows.len(), width / LANES, tile);
        }
        for (page, keys) in Block::by_page(keys) {
            let steps = width.div_ceil(LANES * S::PANELS) * keys.len();
            let tile = TileArgs {
                k: keys.len(),
                a: weights.add(keys.start),
                lda: KEY_BLOCK,
                b: place.page::<E>(place.args.v, page, dim).add((keys.start - page * PAGE_TOKENS) * dim),
                b_step: dim,
                b_panel: LANES,
                c,
                ldc: width,
                accumulate: true,
                next: (page < place.next_pages).then(|| place.ahead::<E>(place.args.k, page + BLOCK_PAGES, steps)),
            };
            tiles(s, rows.len(), width / LANES, tile);
        }
    }
}

/// The values of the block that the unit sees, in rows of full vectors, zeros past the last value.
///
/// # Safety
/// As for [`attend`]; `values` has room for a block.
#[inline(always)]
unsafe fn widen_values<S: Simd, E: Element>(s: S, place: &Block<'_>, values: &mut [f32]) {
    let Sizes { dim, width, .. } = *place.sizes;
    let unit = &place.unit;
    let keys = unit.seen_in(0, place.block).start..unit.seen_in(unit.tokens - 1, place.block).end;
    for (page, keys) in Block::by_page(keys) {
        // SAFETY: the keys are in a page of the sequence.
        let rows = unsafe { place.page::<E>(place.args.v, page, dim) };
        for key in keys {
            for (column, out) in (0..dim).step_by(LANES).zip(values[key * width..][..width].chunks_exact_mut(LANES)) {
                // SAFETY: `n` values of the row are left; the array is sixteen elements long, of which zeros are valid
                // ones; `out` is sixteen values long.
                unsafe {
                    let mut lanes = [std::mem::zeroed::<E>(); LANES];
                    let row = rows.add((key - page * PAGE_TOKENS) * dim + column);
                    std::ptr::copy_nonoverlapping(row, lanes.as_mut_ptr(), LANES.min(dim - column));
                    s.store(out.as_mut_ptr(), E::load(s, lanes.as_ptr()));
                }
            }
        }
    }
}

/// Multiplies the scores (or weights) of `keys`, whole panels, by the scales of the keys.
///
/// # Safety
/// As for [`tile_of_block`].
#[inline(always)]
unsafe fn multiply<S: Simd>(
    s: S,
    place: &Block<'_>,
    scales: *const u8,
    keys: Range<usize>,
    rows: usize,
    scores: *mut f32,
) {
    for (page, keys) in Block::by_page(keys) {
        for key in keys.step_by(LANES) {
            // SAFETY: the caller's promise.
            unsafe {
                let scale = s.load(place.page::<f32>(scales, page, 1).add(key - page * PAGE_TOKENS));
                for row in 0..rows {
                    let score = scores.add(row * KEY_BLOCK + key);
                    s.store(score, s.mul(s.load(score), scale));
                }
            }
        }
    }
}

/// Scales, bounds and biases the scores of one row: token `token` of the unit, query head `head` of the group.
///
/// # Safety
/// `scores` has room for a block, the keys are whole panels of it.
#[inline(always)]
unsafe fn finish_scores<S: Simd>(
    s: S,
    place: &Block<'_>,
    token: usize,
    head: usize,
    keys: Range<usize>,
    scores: *mut f32,
) {
    let Block { args, sizes, unit, block, .. } = *place;
    let ramp: [f32; LANES] = std::array::from_fn(|i| i as f32);
    // SAFETY: an array of sixteen.
    let ramp = unsafe { s.load(ramp.as_ptr()) };
    let bounded = args.softcap != 0.0;
    let scale = s.splat(if bounded { args.scale / args.softcap } else { args.scale });
    // SAFETY: there is a slope for each query head.
    let slope = (!args.slopes.is_null()).then(|| unsafe { *args.slopes.add(unit.head * sizes.group + head) });
    for key in keys.step_by(LANES) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut x = s.mul(s.load(scores.add(key)), scale);
            if bounded {
                x = s.mul(tanh(s, x), s.splat(args.softcap));
            }
            if let Some(slope) = slope {
                let ahead = (block * KEY_BLOCK + key) as i64 - (unit.position + token) as i64;
                x = s.fma(s.splat(slope), s.add(ramp, s.splat(ahead as f32)), x);
            }
            s.store(scores.add(key), x);
        }
    }
}

/// Merges the result of a further block into that of the blocks before it, for at most [`SCORE_ROWS`] rows.
///
/// # Safety
/// Both are results of `rows` rows.
#[inline(always)]
pub(super) unsafe fn merge<S: Simd>(s: S, sizes: &Sizes, rows: usize, state: *mut f32, result: *const f32) {
    // SAFETY: the caller's promise, for all of this.
    unsafe {
        let (m0, m1) = (s.load(state), s.load(result));
        let (l0, l1) = (s.load(state.add(LANES)), s.load(result.add(LANES)));
        let maximum = s.max(m0, m1);
        // With nothing seen so far any finite shift will do: all powers are zero.
        let shift = s.select_lt(s.splat(f32::MIN), maximum, maximum, s.splat(0.0));
        let (shrink0, shrink1) = (exp2_of_negative(s, s.sub(m0, shift)), exp2_of_negative(s, s.sub(m1, shift)));
        s.store(state, maximum);
        s.store(state.add(LANES), s.fma(l0, shrink0, s.mul(l1, shrink1)));
        let (shrink0, shrink1, sums) = (s.to_array(shrink0), s.to_array(shrink1), s.to_array(l1));
        for row in 0..rows {
            // A block that a row does not see is no block for it.
            if sums[row] == 0.0 {
                continue;
            }
            let (shrink0, shrink1) = (s.splat(shrink0[row]), s.splat(shrink1[row]));
            let start = 2 * LANES + row * sizes.width;
            for i in (start..start + sizes.width).step_by(LANES) {
                let new = s.mul(s.load(result.add(i)), shrink1);
                s.store(state.add(i), s.fma(s.load(state.add(i)), shrink0, new));
            }
        }
    }
}

/// Merges the blocks that other threads left behind `state`.
///
/// # Safety
/// `state` is that of the task, followed by the results of those blocks.
#[inline(always)]
pub(super) unsafe fn merge_rest<S: Simd>(s: S, sizes: &Sizes, task: &Task, state: *mut f32) {
    let rows = task.unit.tokens * sizes.group;
    for i in 1..=task.blocks_of_others().len() {
        for first in (0..rows).step_by(SCORE_ROWS) {
            // SAFETY: the caller's promise.
            unsafe {
                let state = state.add(sizes.state(first));
                let result = state.add(i * sizes.state(rows));
                merge(s, sizes, SCORE_ROWS.min(rows - first), state, result);
            }
        }
    }
}

/// Writes the rows of a unit whose blocks are all merged.
///
/// # Safety
/// The unit is one of the operands of `args`, which are valid, and `state` its result.
#[inline(always)]
pub(super) unsafe fn finish<S: Simd>(s: S, args: &PagedArgs, sizes: &Sizes, unit: &Unit, state: *const f32) {
    let Sizes { group, dim, width } = *sizes;
    for row in 0..unit.tokens * group {
        let (tile, row_of_tile) = (row / SCORE_ROWS * SCORE_ROWS, row % SCORE_ROWS);
        // SAFETY: the caller's promise.
        unsafe {
            let state = state.add(sizes.state(tile));
            let sum = *state.add(LANES + row_of_tile);
            let factor = s.splat(if sum == 0.0 { 0.0 } else { 1.0 / sum });
            let values = state.add(2 * LANES + row_of_tile * width);
            let head = unit.head * group + row % group;
            let out = args.out.add((unit.token + row / group) * args.out_stride as usize + head * dim);
            for column in (0..dim).step_by(LANES) {
                let x = s.mul(s.load(values.add(column)), factor);
                if dim - column >= LANES {
                    s.store(out.add(column), x);
                } else {
                    s.store_partial(out.add(column), dim - column, x);
                }
            }
        }
    }
}
