//! Working memory of a thread, kept from call to call.

use std::cell::RefCell;

use super::simd::LANES;

/// One cache line, so that scratch vectors are aligned to theirs.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

thread_local! {
    static LINES: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `floats` values of this thread's working memory, aligned to 64 bytes, their contents arbitrary
/// (what earlier calls left). Kernels bound what they ask for, whatever the lengths of their inputs.
pub(crate) fn with_scratch<T>(floats: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    LINES.with_borrow_mut(|lines| {
        let count = floats.div_ceil(LANES);
        if lines.len() < count {
            lines.resize(count, Line([0.0; LANES]));
        }
        // SAFETY: `count` lines are `count * LANES` initialised f32 values in a row, borrowed as long as `lines` is.
        let values = unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<f32>(), count * LANES) };
        f(&mut values[..floats])
    })
}
