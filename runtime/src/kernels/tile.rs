//! The register tile: a few rows of A times a few panels of B, summed over k in order, each step one fused
//! multiply-add. GEMM, dot and attention are loops around it.
//!
//! Per element of C the order of operations is k = 0, 1, 2, ... whatever the tile's shape, so results do not depend on
//! how a caller cuts rows, columns or k into tiles (partial sums are f32 in registers and in C alike).

use super::simd::{Element, LANES, Simd};

/// Operands of a tile of R rows and P panels.
///
/// Safety of a tile: `a` is readable at `r * lda + i` for r < R, i < k; `b` at `p * b_panel + i * b_step + 0..16` for
/// p < P, i < k; `c` is writable (and readable, if `accumulate`) at `r * ldc + 0..16 * P`.
pub(crate) struct TileArgs<E> {
    /// Products per element.
    pub k: usize,
    /// Rows of A, contiguous along k.
    pub a: *const f32,
    /// Elements from one row of A to the next.
    pub lda: usize,
    /// Sixteen columns of B for k = 0.
    pub b: *const E,
    /// Elements of B from one k to the next.
    pub b_step: usize,
    /// Elements of B from one panel to the next.
    pub b_panel: usize,
    /// Rows of C, contiguous along the columns.
    pub c: *mut f32,
    /// Elements from one row of C to the next.
    pub ldc: usize,
    /// Whether to start from C instead of zero.
    pub accumulate: bool,
    /// What is wanted next, if operands lie far away.
    pub next: Option<Next>,
}

/// Memory to ask for while a tile is computed.
#[derive(Clone, Copy)]
pub(crate) struct Next {
    /// What is wanted, from here on.
    pub lines: *const u8,
    /// Bytes of it to go on by with each step of k; 0 when nothing is wanted but C.
    pub step: usize,
}

/// Up to so many rows memory sets the pace, and B is asked for ahead of its use.
const FEW_ROWS: usize = 4;
/// Bytes ahead.
const AHEAD: usize = 2048;

/// C = A·B (or C += A·B) for one tile.
///
/// # Safety
/// See [`TileArgs`].
#[inline(always)]
pub(crate) unsafe fn tile<S: Simd, E: Element, const R: usize, const P: usize>(s: S, t: &TileArgs<E>) {
    // SAFETY: every address is one the contract of `TileArgs` names, for r < R, p < P, i < k.
    unsafe {
        let mut acc = [[s.splat(0.0); P]; R];
        if t.accumulate {
            for (r, row) in acc.iter_mut().enumerate() {
                for (p, x) in row.iter_mut().enumerate() {
                    *x = s.load(t.c.add(r * t.ldc + p * LANES));
                }
            }
        }
        // Large tiles only: they leave room between their loads.
        if R > FEW_ROWS && t.next.is_some() && !t.accumulate {
            for r in 0..R {
                for p in 0..P {
                    s.prefetch_to_write(t.c.add(r * t.ldc + p * LANES).cast());
                }
            }
        }
        let Next { mut lines, step } = t.next.unwrap_or(Next { lines: t.b.cast(), step: 0 });
        let mut b = t.b;
        for i in 0..t.k {
            s.prefetch_near(lines);
            lines = lines.wrapping_add(step);
            if R <= FEW_ROWS {
                for p in 0..P {
                    s.prefetch(b.add(p * t.b_panel).cast::<u8>().wrapping_add(AHEAD));
                }
            }
            let columns: [S::V; P] = std::array::from_fn(|p| E::load(s, b.add(p * t.b_panel)));
            for (r, row) in acc.iter_mut().enumerate() {
                let x = s.splat(*t.a.add(r * t.lda + i));
                for (sum, &column) in row.iter_mut().zip(&columns) {
                    *sum = s.fma(x, column, *sum);
                }
            }
            b = b.add(t.b_step);
        }
        for (r, row) in acc.iter().enumerate() {
            for (p, &x) in row.iter().enumerate() {
                s.store(t.c.add(r * t.ldc + p * LANES), x);
            }
        }
    }
}

/// Calls `$tile::<_, E, R, P>` for run-time `rows` and `panels`; the list names the compiled shapes by panels.
macro_rules! dispatch_tile {
    ($tile:ident, $s:expr, $e:ty, $rows:expr, $panels:expr, $args:expr, [$($p:literal: $($r:literal)+),+]) => {
        match ($panels, $rows) {
            // SAFETY: the caller of `Simd::tile` keeps the contract of `TileArgs` for these rows and panels.
            $($(($p, $r) => unsafe { $tile::<_, $e, $r, $p>($s, $args) },)+)+
            (panels, rows) => unreachable!("no register tile of {rows} rows and {panels} panels"),
        }
    };
}
pub(crate) use dispatch_tile;
