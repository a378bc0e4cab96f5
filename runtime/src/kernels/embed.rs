//! Rows of a packed table: an embedding, also where the same packed weights serve a linear layer.

use super::gemm::part;
use super::panels::{HEADER, Header, Row};

/// Arguments of [`embed_panels`].
#[repr(C)]
pub struct EmbedArgs {
    /// Rows wanted; numbers outside the table mean its nearest row.
    pub ids: *const i32,
    /// How many.
    pub count: i64,
    /// The table, packed by [`pack_floats`](super::pack_floats) or [`pack_quantized`](super::pack_quantized).
    pub table: *const u8,
    /// `count` rows of as many values as a row of the table.
    pub out: *mut f32,
    /// Elements from one row of `out` to the next.
    pub stride: i64,
}

/// `out[i] = table[ids[i]]` as `f32`: the part of `thread` of `threads`.
///
/// # Safety
/// The operands are as [`EmbedArgs`] describes them, alive, and `out` not accessed by others until all threads are
/// through. A table without rows has no ids.
pub unsafe extern "C" fn embed_panels(args: *const EmbedArgs, thread: i64, threads: i64) {
    // SAFETY: the caller's promise; rows are in range, so the row and its place in `out` are there.
    unsafe {
        let args = &*args;
        let Header { storage, n, k } = Header::read(args.table);
        if n == 0 || args.count <= 0 {
            return;
        }
        for i in part(args.count as usize, thread as usize, threads as usize) {
            let row = (i64::from(*args.ids.add(i)).max(0) as usize).min(n - 1);
            let out = std::slice::from_raw_parts_mut(args.out.add(i * args.stride as usize), k);
            Row::of(storage, k, args.table.add(HEADER), row).values(out);
        }
    }
}
