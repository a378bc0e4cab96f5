//! How a program is executed: which nodes form a kernel, in which order kernels run, where values live. Passes make a
//! plan, code generation follows it. A plan says nothing of machine code.

use std::collections::BTreeMap;

use crate::dim::Dim;
use crate::graph::{NodeId, Value};

/// How a weight lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layout {
    /// Row-major.
    Rows,
    /// A matrix `[n, k]` as panels of 16 outputs: for each panel `k` times 16 values, padded with zeros.
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
    /// A state of the program.
    State(String),
    /// The bytes of another value under another shape.
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
    /// `linear` without bias, `f32`, by a weight in panels (a parameter or an argument): `core`, the first node that is not
    /// inline. Then elementwise nodes of its shape as epilogue; the one output is `f32`, of that shape, and shares no
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
    /// `packed_attention` of `f32`, operands in memory.
    Attention {
        /// The attention node.
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

/// The plan of one graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GraphPlan {
    /// Kernels in execution order; each sees what those before it stored.
    pub kernels: Vec<Kernel>,
    /// The place of every value that is stored or comes from outside.
    pub places: BTreeMap<Value, Place>,
    /// Size of the arena in bytes, room for called functions' arenas included.
    pub arena: Dim,
    /// Offset in the caller's arena of the arena of each call, by call node.
    pub call_arenas: BTreeMap<NodeId, Dim>,
    /// How each argument lies in memory.
    pub arg_layouts: Vec<Layout>,
}

/// The plan of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By name of function or entry point.
    pub graphs: BTreeMap<String, GraphPlan>,
    /// The layouts in which each parameter is needed, ascending; a parameter may be needed in two.
    pub layouts: BTreeMap<String, Vec<Layout>>,
}
