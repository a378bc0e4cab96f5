//! Keys and values of a head as the register tiles read them.

use super::super::simd::{LANES, Simd};
use super::super::vmath::LOG2_E;
use super::{AttentionArgs, KEY_BLOCK, Sequence};

/// A block of keys and values of one head.
pub(super) struct Packed<'a> {
    /// Keys times the factor of the scores, transposed, in panels of sixteen: `head_dim` × 16 each, zeros past the last.
    pub keys: &'a mut [f32],
    /// Values in panels of sixteen columns: keys × 16 each, zeros past the last column.
    pub values: &'a mut [f32],
    /// Where in the sequence each key stands: ascending.
    positions: [u32; KEY_BLOCK],
    count: usize,
    /// Where in the sequence the block ends.
    pub end: usize,
    /// The greatest magnitude of the values.
    pub largest: f32,
    /// Which block this is: first token, key-value head, first key.
    which: Option<(usize, usize, usize)>,
}

impl<'a> Packed<'a> {
    pub fn new(keys: &'a mut [f32], values: &'a mut [f32]) -> Packed<'a> {
        Packed { keys, values, positions: [0; KEY_BLOCK], count: 0, end: 0, largest: 0.0, which: None }
    }

    /// Where in the sequence the keys of the block stand.
    pub fn positions(&self) -> &[u32] {
        &self.positions[..self.count]
    }

    /// Packs the next keys that are seen from key `from` of the sequence on, unless they are packed already.
    ///
    /// # Safety
    /// The sequence lies within the operands of `args`, which are valid; the buffers hold a block, or the sequence.
    #[inline(always)]
    pub unsafe fn block<S: Simd>(
        &mut self,
        s: S,
        args: &AttentionArgs,
        sequence: &Sequence,
        kv_head: usize,
        from: usize,
    ) {
        let which = Some((sequence.key, kv_head, from));
        if self.which == which {
            return;
        }
        self.which = which;
        (self.count, self.end) = (0, from);
        while self.end < sequence.keys && self.count < KEY_BLOCK {
            // SAFETY: the mask has a byte for each key.
            if args.key_mask.is_null() || unsafe { *args.key_mask.add(sequence.key + self.end) } != 0 {
                self.positions[self.count] = self.end as u32;
                self.count += 1;
            }
            self.end += 1;
        }
        let dim = args.head_dim as usize;
        // SAFETY: these keys and values of the sequence exist.
        unsafe {
            let k = args.k.add(sequence.key * args.k_stride as usize + kv_head * dim);
            let factor = args.scale * LOG2_E;
            pack_keys(s, k, args.k_stride as usize, &self.positions[..self.count], dim, factor, self.keys);
            let v = args.v.add(sequence.key * args.v_stride as usize + kv_head * dim);
            self.largest = pack_values(s, v, args.v_stride as usize, &self.positions[..self.count], dim, self.values);
        }
    }
}

/// Packs the keys at these positions, times `factor`.
///
/// # Safety
/// `k` holds the keys `stride` apart; `panels` has room for them, keys and values rounded up to sixteen.
#[inline(always)]
unsafe fn pack_keys<S: Simd>(
    s: S,
    k: *const f32,
    stride: usize,
    positions: &[u32],
    dim: usize,
    factor: f32,
    panels: &mut [f32],
) {
    let (zero, factor) = (s.splat(0.0), s.splat(factor));
    for (panel, keys) in positions.chunks(LANES).enumerate() {
        for column in (0..dim).step_by(LANES) {
            let width = LANES.min(dim - column);
            let mut rows = [zero; LANES];
            for (row, &position) in rows.iter_mut().zip(keys) {
                // SAFETY: that key exists, and has `width` values from `column` on.
                unsafe {
                    let key = k.add(position as usize * stride + column);
                    *row = if width == LANES { s.load(key) } else { s.load_partial(key, width, 0.0) };
                }
            }
            let out = &mut panels[(panel * dim + column) * LANES..][..width * LANES];
            for (out, &column) in out.chunks_exact_mut(LANES).zip(&s.transpose(rows)) {
                // SAFETY: `out` is sixteen values long.
                unsafe { s.store(out.as_mut_ptr(), s.mul(column, factor)) };
            }
        }
    }
}

/// Packs the values at these positions into panels of sixteen columns; answers the greatest magnitude.
///
/// # Safety
/// `v` holds the rows `stride` apart; `panels` has room for them, `dim` rounded up to sixteen.
#[inline(always)]
unsafe fn pack_values<S: Simd>(
    s: S,
    v: *const f32,
    stride: usize,
    positions: &[u32],
    dim: usize,
    panels: &mut [f32],
) -> f32 {
    let mut largest = s.splat(0.0);
    for (panel, column) in (0..dim).step_by(LANES).enumerate() {
        let width = LANES.min(dim - column);
        let out = panels[panel * positions.len() * LANES..][..positions.len() * LANES].chunks_exact_mut(LANES);
        for (&position, out) in positions.iter().zip(out) {
            // SAFETY: that row exists, and has `width` values from `column` on; `out` is sixteen values long.
            unsafe {
                let row = v.add(position as usize * stride + column);
                let x = if width == LANES { s.load(row) } else { s.load_partial(row, width, 0.0) };
                // A NaN is lost sooner or later, and no matter.
                largest = s.max(largest, s.abs(x));
                s.store(out.as_mut_ptr(), x);
            }
        }
    }
    s.to_array(largest).into_iter().fold(0.0, f32::max)
}
