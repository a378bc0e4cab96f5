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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelKind {
    /// One loop nest over the shape of its outputs (all of one shape, or that shape without or with 1 as its last axis);
    /// reductions in it run over the last axis of that shape, or the kernel is one reduction over any axes.
    Loop,
    /// `linear` or `dot` by a parameter in panels: `core`, then elementwise nodes on its result as epilogue.
    Contraction {
        /// The `linear` node.
        core: NodeId,
    },
    /// A product of two computed matrices, no epilogue.
    Dot {
        /// The `dot` node.
        core: NodeId,
    },
    /// Attention of either layout.
    Attention {
        /// The attention node.
        core: NodeId,
    },
    /// A call of a function.
    Call {
        /// The call node.
        core: NodeId,
    },
    /// A copy of an operand to a result or a state: outputs that alias something else.
    Copy,
}

/// Nodes that run as one piece of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The kind.
    pub kind: KernelKind,
    /// The nodes it computes, each after its operands. Values of other nodes are read from their place.
    pub nodes: Vec<NodeId>,
    /// The values it stores to their place; all others of its nodes exist in registers only.
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
