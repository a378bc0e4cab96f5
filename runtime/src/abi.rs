//! What compiled code and the runtime know of each other: the layouts of the structures that machine code reads and the
//! signatures it is called by. Everything here is part of the artifact format: a change raises
//! [`crate::artifact::format::FORMAT_VERSION`].

use crate::kernels::{
    AppendArgs, AttentionArgs, AttentionGradArgs, DotArgs, EmbedArgs, GemmArgs, PagedArgs, RandomArgs, RopeArgs,
    ScatterArgs, SharedScratch,
};
use crate::profile::Profile;
use crate::threads::Barrier;

/// What a call of an entry point runs on; the threads of a call have equal ones.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The runtime's functions.
    pub table: *const Table,
    /// Where the threads of the call meet.
    pub barrier: *const Barrier,
    /// The arguments' data, by index.
    pub args: *const *const u8,
    /// Memory for the results' data, by index.
    pub results: *const *mut u8,
    /// The weight section.
    pub weights: *const u8,
    /// The section of constants.
    pub consts: *const u8,
    /// The states' data, by index; null for a state in pages.
    pub states: *const *mut u8,
    /// The first page of the pool that states in pages lie in; null for a program without.
    pub pages: *mut u8,
    /// Memory that kernels share among threads while they run.
    pub scratch: *const SharedScratch,
    /// What [`Table::kernel_starts`] writes to; null on all threads but the first, and where nobody wants to know.
    pub profile: *mut Profile,
    /// The arena, of the size the dims table tells; aligned to 64 bytes.
    pub arena: *mut u8,
    /// The dims table that [`DimsFn`] filled for the shapes of this call.
    pub dims: *const i64,
}

/// The runtime's functions that compiled code calls. All are SPMD: every thread of the call makes the same call, with
/// its number and the count of threads, and does its share.
#[repr(C)]
pub struct Table {
    /// Waits until all threads of the call are here.
    pub barrier_wait: unsafe extern "C" fn(barrier: *const Barrier),
    /// Tells that the thread comes to the kernel of this number.
    pub kernel_starts: unsafe extern "C" fn(context: *const Context, kernel: i64),
    /// Runs a region.
    pub region: unsafe extern "C" fn(args: *const RegionArgs, thread: i64, threads: i64),
    /// Matrix product by a weight in panels, with an epilogue.
    pub gemm_panels: unsafe extern "C" fn(args: *const GemmArgs, thread: i64, threads: i64),
    /// Matrix product of two computed matrices.
    pub dot_f32: unsafe extern "C" fn(args: *const DotArgs, thread: i64, threads: i64),
    /// Attention over packed sequences.
    pub attention_packed: unsafe extern "C" fn(args: *const AttentionArgs, thread: i64, threads: i64),
    /// The gradients of attention over packed sequences.
    pub attention_grad: unsafe extern "C" fn(args: *const AttentionGradArgs, thread: i64, threads: i64),
    /// Attention over a paged cache.
    pub attention_paged: unsafe extern "C" fn(args: *const PagedArgs, thread: i64, threads: i64),
    /// Tokens into a paged cache.
    pub cache_append: unsafe extern "C" fn(args: *const AppendArgs, thread: i64, threads: i64),
    /// Rotary position embedding.
    pub rope: unsafe extern "C" fn(args: *const RopeArgs, thread: i64, threads: i64),
    /// Rows of a table in panels.
    pub embed_panels: unsafe extern "C" fn(args: *const EmbedArgs, thread: i64, threads: i64),
    /// Rows added to rows of a table.
    pub scatter_add: unsafe extern "C" fn(args: *const ScatterArgs, thread: i64, threads: i64),
    /// Words of a generator.
    pub random_bits: unsafe extern "C" fn(args: *const RandomArgs, thread: i64, threads: i64),
    /// Scalar functions.
    pub math: MathTable,
}

/// Functions of 64-bit floats that compiled code calls where it has no form of its own. Pure; any thread calls them.
#[repr(C)]
pub struct MathTable {
    /// `e^x`
    pub exp: extern "C" fn(f64) -> f64,
    /// Natural logarithm.
    pub log: extern "C" fn(f64) -> f64,
    /// Sine, radians.
    pub sin: extern "C" fn(f64) -> f64,
    /// Cosine, radians.
    pub cos: extern "C" fn(f64) -> f64,
    /// Hyperbolic tangent.
    pub tanh: extern "C" fn(f64) -> f64,
    /// Error function.
    pub erf: extern "C" fn(f64) -> f64,
    /// `x^y`
    pub pow: extern "C" fn(f64, f64) -> f64,
    /// Remainder with the sign of the first operand.
    pub rem: extern "C" fn(f64, f64) -> f64,
}

/// Fills the dims table: every size, offset and stride the program needs, from the values of its symbols in the order of
/// the manifest. Answers 0, or another number when a value does not fit 64 bits; the table is then of no use.
pub type DimsFn = unsafe extern "C" fn(symbols: *const i64, dims: *mut i64) -> i64;

/// A run of kernels that compute each row from the same row.
#[repr(C)]
pub struct RegionArgs {
    /// What the call runs on.
    pub context: *const Context,
    /// The arena of the function.
    pub arena: *mut u8,
    /// Its arguments, by index.
    pub args: *const *const u8,
    /// Its results, by index.
    pub results: *const *mut u8,
    /// How many rows there are.
    pub rows: i64,
    /// Bytes of a row of what one kernel reads and stores, of that where they are most.
    pub row_bytes: i64,
    /// All kernels for some rows.
    pub by_rows: RowsFn,
    /// All kernels for all rows, one after the other.
    pub by_kernels: KernelsFn,
}

/// Runs the kernels of a region for the rows from `begin` to `end`: multiples of 16, or all. Inner values are kept where
/// rows from `first` on have their place, which no other thread uses.
pub type RowsFn = unsafe extern "C" fn(
    context: *const Context,
    arena: *mut u8,
    args: *const *const u8,
    results: *const *mut u8,
    begin: i64,
    end: i64,
    first: i64,
);

/// Runs the kernels of a region as one of `threads` threads.
pub type KernelsFn = unsafe extern "C" fn(
    context: *const Context,
    thread: i64,
    threads: i64,
    arena: *mut u8,
    args: *const *const u8,
    results: *const *mut u8,
);

/// Runs an entry point as one of `threads` threads.
pub type EntryFn = unsafe extern "C" fn(context: *const Context, thread: i64, threads: i64);
