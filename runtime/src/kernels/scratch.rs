//! Working memory, kept from call to call: of a thread, and of the threads of a call together.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use super::simd::LANES;

/// One cache line, so that scratch vectors are aligned to theirs.
#[derive(Clone, Copy, Debug)]
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

/// Working memory that the threads of a call share. A program needs one for each call that runs at a time.
#[derive(Debug, Default)]
pub struct SharedScratch(Mutex<Vec<Line>>);

impl SharedScratch {
    /// None yet: it grows as kernels need it.
    pub fn new() -> SharedScratch {
        SharedScratch::default()
    }

    /// `floats` values, aligned to 64 bytes, their contents arbitrary.
    ///
    /// All threads of a call ask for the same count, so whoever comes first lets it grow, and no thread of an earlier
    /// kernel is still at work then: it stays where it is until all of them are through.
    pub(crate) fn reserve(&self, floats: usize) -> *mut f32 {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = floats.div_ceil(LANES);
        if lines.len() < count {
            // What earlier kernels left is of no use, and not to be copied.
            lines.clear();
            lines.resize(count, Line([0.0; LANES]));
        }
        lines.as_mut_ptr().cast()
    }
}
