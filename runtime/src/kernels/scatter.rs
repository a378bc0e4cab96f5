//! Rows added to rows of a table: the gradient of an embedding.

/// Arguments of [`scatter_add`].
#[repr(C)]
pub struct ScatterArgs {
    /// The table before: `rows` × `width`.
    pub x: *const f32,
    /// Which row each update is added to; none where it is not in the table.
    pub indices: *const i32,
    /// The updates: `count` × `width`.
    pub updates: *const f32,
    /// The table after. May be `x`; must not overlap the others.
    pub out: *mut f32,
    /// Rows of the table.
    pub rows: i64,
    /// Updates.
    pub count: i64,
    /// Values of a row.
    pub width: i64,
}

/// Rows that lie together are one thread's: so many, that threads do not share lines, so few, that rows that are often
/// named (their numbers are near each other where words are sorted by frequency) are not all one thread's.
const RUN: usize = 16;

/// `out = x`, then `out[indices[i]] += updates[i]` in the order of i: the part of `thread` of `threads`.
///
/// # Safety
/// The operands are as [`ScatterArgs`] describes them, alive, and `out` not accessed by others until all threads are
/// through.
pub unsafe extern "C" fn scatter_add(args: *const ScatterArgs, thread: i64, threads: i64) {
    // SAFETY: the caller's promise.
    let args = unsafe { &*args };
    let [rows, count, width] = [args.rows, args.count, args.width].map(|n| n.max(0) as usize);
    let mine = |row: usize| row / RUN % threads.max(1) as usize == thread as usize;
    if args.x != args.out {
        for first in (0..rows).step_by(RUN).filter(|&row| mine(row)) {
            let values = RUN.min(rows - first) * width;
            // SAFETY: these rows are in both tables, which do not overlap, and are this thread's.
            unsafe {
                std::ptr::copy_nonoverlapping(args.x.add(first * width), args.out.add(first * width), values);
            }
        }
    }
    for i in 0..count {
        // SAFETY: the index is one of `count`.
        let row = unsafe { *args.indices.add(i) };
        let Some(row) = usize::try_from(row).ok().filter(|&row| row < rows && mine(row)) else { continue };
        // SAFETY: the row is in the table and this thread's, the update is one of `count`.
        let (to, from) = unsafe {
            let to = std::slice::from_raw_parts_mut(args.out.add(row * width), width);
            (to, std::slice::from_raw_parts(args.updates.add(i * width), width))
        };
        for (to, from) in to.iter_mut().zip(from) {
            *to += from;
        }
    }
}
