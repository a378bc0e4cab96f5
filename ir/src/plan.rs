//! How a program is executed: which nodes form a kernel, in which order kernels run, where values live. Passes make a
//! plan, code generation follows it. A plan says nothing of machine code.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::dim::{Dim, Symbol};
use crate::graph::{NodeId, Value};
use crate::op::CachePart;

/// Tokens of a page of a paged cache: the second axis of every state that is one.
pub const PAGE_TOKENS: usize = 64;

/// How a weight lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layout {
    /// Row-major.
    Rows,
    /// A matrix `[n, k]` as panels of 16 outputs, in the element type it is stored in; it tells of itself what it is.
    Panels,
}

/// Where a value of a graph lives while the graph runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the graph's arena at this offset in bytes.
    Arena(Dim),
    /// Argument of this index, given by the caller.
    Arg(usize),
    /// Result of this index, memory given by the caller.
    Result(usize),
    /// A parameter of the program.
    Param(String),
    /// A constant in the artifact.
    Const,
    /// A state of the program. That of a paged cache is not row-major: see [`CachePlan`].
    State(String),
    /// The bytes of another value, under another shape or changed in place: a reshape in no kernel, the result of a
    /// `cache_append`, a result of a call that the called plan has [`GraphPlan::in_place`]. A `slice` of the last axis in no
    /// kernel is columns of that value, its rows as far apart as those they are part of; attention, `rope` and `cache_append`
    /// read such.
    Alias(Value),
}

/// What kind of code a kernel is.
///
/// A node of a kernel is computed wherever another node of it needs an element: elementwise nodes and reductions at the
/// reader's own index, nodes that move data (`broadcast`, `transpose`, `slice`, `concat`, `pad`, `gather`, a `reshape`
/// that only adds or drops axes of size 1) by passing the index on changed. `iota` and `size` occur in any kernel.
/// Arguments, parameters, constants and states are in none: they are read from their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelKind {
    /// One of these:
    /// - *Over rows.* A domain, such that every output has its shape, or that shape without or with 1 as its last axis (a
    ///   row value). Elementwise nodes, nodes that move data, and reductions of the last axis of operands of the
    ///   domain's shape. Row values, reductions among them, are needed only at the row that is being computed; values
    ///   of the domain's shape that are needed before and after a reduction may be computed twice or kept for the row.
    ///   Where no output is of the full shape, the domain is that of the reductions' operands.
    /// - *A reduction* of other axes: its last node, the output. The others are elementwise nodes of the reduced
    ///   operand's shape, and what those need.
    /// - *One node*: `cumsum`, `segment_ids`, `segment_pool`, or `dot` of another type than `f32`; operands in memory.
    ///
    /// Operand 0 of `gather` is always in memory. A kernel with one output and no reduction may be told to store it
    /// where an operand of as many equally wide elements lies that is only read at the index of the output.
    Loop,
    /// `linear` without bias, `f32`, by a weight in panels (a parameter or an argument): `core`. Its operand 0 is in
    /// memory, or is a `dynamic_quantize` with groups of 32 among the nodes: then that node's operand is in memory, and
    /// the product is computed from 8-bit activations. That node may be in several kernels. Then elementwise nodes of its shape as epilogue; the one output is `f32`, of that shape, and shares no
    /// byte with any operand. Epilogues read computed and outside values of that shape, or through `broadcast`; where it
    /// has more than two axes, broadcast values vary by the last axis, by all others together, or not at all. Nodes on
    /// scalars may be among the others.
    Contraction {
        /// The `linear` node.
        core: NodeId,
    },
    /// `dot` of `f32`: a product of two matrices in memory (rows), no epilogue.
    Dot {
        /// The `dot` node.
        core: NodeId,
    },
    /// `packed_attention` or `paged_attention` of `f32`, operands in memory. The keys, values and scales of the paged one are
    /// states in pages (or arguments that are, see [`GraphPlan::cache_args`]), of type `f32`, `f16`, `bf16` or `i8`.
    Attention {
        /// The attention node.
        core: NodeId,
    },
    /// `rope` of `f32`, operands in memory.
    Rope {
        /// The `rope` node.
        core: NodeId,
    },
    /// `cache_append` to a state in pages, operands in memory: `x` of `f32` or of the cache's type. It writes in place, and
    /// nothing else reads what was there before: the place of the output is an alias of operand 0.
    CacheAppend {
        /// The `cache_append` node.
        core: NodeId,
    },
    /// `gather` of rows of an `f32` parameter in panels, indices in memory; the output is rows.
    Embedding {
        /// The `gather` node.
        core: NodeId,
    },
    /// `scatter_add` of `f32` rows by `i32` indices, operands in memory.
    Scatter {
        /// The `scatter_add` node.
        core: NodeId,
    },
    /// `random_bits`, key in memory.
    Random {
        /// The `random_bits` node.
        core: NodeId,
    },
    /// A call of a function; operands in memory, each in the layout of the argument. All results are outputs.
    Call {
        /// The call node.
        core: NodeId,
    },
    /// A copy of operand 0 of its one node, a `state_write` or a `reshape` to the same shape, to the place of the output.
    Copy,
}

impl KernelKind {
    /// The name of the kind in dumps and profiles.
    pub const fn name(&self) -> &'static str {
        match self {
            KernelKind::Loop => "loop",
            KernelKind::Contraction { .. } => "contraction",
            KernelKind::Dot { .. } => "dot",
            KernelKind::Attention { .. } => "attention",
            KernelKind::Rope { .. } => "rope",
            KernelKind::CacheAppend { .. } => "append",
            KernelKind::Embedding { .. } => "embedding",
            KernelKind::Scatter { .. } => "scatter",
            KernelKind::Random { .. } => "random",
            KernelKind::Call { .. } => "call",
            KernelKind::Copy => "copy",
        }
    }
}

/// Nodes that run as one piece of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The kind.
    pub kind: KernelKind,
    /// The nodes it computes, each after its operands. Values of other nodes are read from their place; a `reshape` in
    /// no kernel is an alias.
    pub nodes: Vec<NodeId>,
    /// The values it stores to their place; all others of its nodes exist in registers only, and may be computed by
    /// several kernels.
    pub outputs: Vec<Value>,
}

/// Consecutive kernels that store rows of one axis and read the rows they compute: they may run one after the other for
/// some of the rows, on one thread, before they do for others. Loops, and contractions whose result is a matrix; every
/// operand with as many rows is read only at the row that is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where the kernels stand in [`GraphPlan::kernels`].
    pub kernels: Range<usize>,
    /// How many rows: the first axis of all that they store.
    pub rows: Dim,
    /// The values that nothing else reads. Rows of them need to exist only while their block of rows is computed.
    pub inner: BTreeSet<Value>,
}

/// The plan of one graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GraphPlan {
    /// Kernels in execution order; each sees what those before it stored.
    pub kernels: Vec<Kernel>,
    /// Disjoint, ascending. Values that kernels of one region touch share no bytes, but for inner ones with rows of one size
    /// that lie in the same place.
    pub regions: Vec<Region>,
    /// The place of every value that is stored or comes from outside.
    pub places: BTreeMap<Value, Place>,
    /// Size of the arena in bytes, room for called functions' arenas included.
    pub arena: Dim,
    /// Offset in the caller's arena of the arena of each call, by call node.
    pub call_arenas: BTreeMap<NodeId, Dim>,
    /// How each argument lies in memory.
    pub arg_layouts: Vec<Layout>,
    /// The arguments that are paged caches, ascending; only functions have any. A call gives a state in pages for each.
    pub cache_args: BTreeSet<usize>,
    /// For each result the argument whose bytes it is, changed in place. Such a result has no place of its own, and the
    /// caller gives no memory for it: there it is an alias of what was given for that argument.
    pub in_place: Vec<Option<usize>>,
}

/// Where the paged states of a program lie. All are of the shape `[pages, PAGE_TOKENS, ..]`; page `n` of all of them
/// together is `page_bytes` bytes at `n * page_bytes` of one pool, and each has its part of the page.
///
/// Within its part, keys of `h` heads of width `d` are for each head `[PAGE_TOKENS / 16][d][16]` elements, values for each
/// head `[PAGE_TOKENS][d]`, scales for each head `[PAGE_TOKENS]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachePlan {
    /// The symbol of the first axis, which occurs in no argument.
    pub pages: Symbol,
    /// Size of a page of all states together in bytes: a multiple of 64.
    pub page_bytes: u64,
    /// The parts of the paged states, by name of the state.
    pub parts: BTreeMap<String, PagePart>,
}

/// The part of a page that belongs to one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagePart {
    /// Bytes from the start of the page: a multiple of 64.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// What it holds, and so the order of its elements.
    pub part: CachePart,
}

/// The plan of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By name of function or entry point.
    pub graphs: BTreeMap<String, GraphPlan>,
    /// The layouts in which each parameter is needed, ascending; a parameter may be needed in two.
    pub layouts: BTreeMap<String, Vec<Layout>>,
    /// The paged states; `None` when there are none.
    pub cache: Option<CachePlan>,
}
