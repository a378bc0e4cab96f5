//! Which kernel stores a value and which values a kernel reads. Reshapes, slices and transpositions that no kernel computes
//! are other names of their operand, or of columns of it; all here looks through them.

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::plan::Kernel;
use lith_ir::{Graph, NodeId, Op, Value};

/// Whether the op's value is in memory before the graph runs.
pub(crate) fn is_outside(op: &Op) -> bool {
    matches!(op, Op::Arg { .. } | Op::Param { .. } | Op::Const { .. } | Op::StateRead { .. })
}

/// Whether the op computes every element from the elements of its operands at the same index.
pub(crate) fn is_elementwise(op: &Op) -> bool {
    matches!(op, Op::Unary { .. } | Op::Binary { .. } | Op::Compare { .. } | Op::Select {} | Op::Cast { .. })
}

/// The stored values of a graph.
pub(crate) struct Stored<'a> {
    graph: &'a Graph,
    /// The kernel that stores each value.
    pub producer: BTreeMap<Value, usize>,
    /// For each kernel the stored values it reads: roots of its operands, what comes from outside left out.
    pub reads: Vec<BTreeSet<Value>>,
    /// The last kernel that reads each value that one reads.
    last_read: BTreeMap<Value, usize>,
}

impl<'a> Stored<'a> {
    pub fn new(graph: &'a Graph, kernels: &[Kernel]) -> Self {
        let producer = kernels.iter().enumerate().flat_map(|(i, k)| k.outputs.iter().map(move |&v| (v, i))).collect();
        let mut stored = Stored { graph, producer, reads: Vec::new(), last_read: BTreeMap::new() };
        let computed = |v: &Value| !is_outside(&graph.node(v.node).op);
        let reads = |k: &Kernel| operands(graph, k).into_iter().map(|v| stored.root(v)).filter(computed).collect();
        stored.reads = kernels.iter().map(reads).collect();
        stored.last_read =
            stored.reads.iter().enumerate().flat_map(|(i, reads)| reads.iter().map(move |&v| (v, i))).collect();
        stored
    }

    /// The stored or outside value whose bytes `value` is.
    pub fn root(&self, mut value: Value) -> Value {
        while !self.producer.contains_key(&value) {
            match (&self.graph.node(value.node).op, self.graph.operand(value.node, 0)) {
                (Op::Reshape { .. } | Op::Slice { .. } | Op::Transpose { .. }, Some(x)) => value = x,
                _ => break,
            }
        }
        value
    }

    /// The kernel that stores a value and the last that reads it.
    pub fn live_range(&self, value: Value) -> (usize, usize) {
        let first = self.producer.get(&value).copied().unwrap_or(0);
        (first, self.last_read.get(&value).map_or(first, |&last| last.max(first)))
    }
}

/// The values a kernel reads from memory, as they are written in the graph.
pub(crate) fn operands(graph: &Graph, kernel: &Kernel) -> BTreeSet<Value> {
    let inside: BTreeSet<NodeId> = kernel.nodes.iter().copied().collect();
    kernel.nodes.iter().flat_map(|&n| graph.inputs(n)).filter(|v| !inside.contains(&v.node)).collect()
}
