//! Which kernel stores a value and which values a kernel reads. Reshapes that no kernel computes are other names of
//! their operand; all here looks through them.

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::plan::Kernel;
use lith_ir::{Graph, Op, Value};

/// Whether the op's value is in memory before the graph runs.
pub(crate) fn is_outside(op: &Op) -> bool {
    matches!(op, Op::Arg { .. } | Op::Param { .. } | Op::Const { .. } | Op::StateRead { .. })
}

/// The stored values of a graph.
pub(crate) struct Stored<'a> {
    graph: &'a Graph,
    /// The kernel that stores each value.
    pub producer: BTreeMap<Value, usize>,
}

impl<'a> Stored<'a> {
    pub fn new(graph: &'a Graph, kernels: &[Kernel]) -> Self {
        let producer = kernels.iter().enumerate().flat_map(|(i, k)| k.outputs.iter().map(move |&v| (v, i))).collect();
        Stored { graph, producer }
    }

    /// The stored or outside value whose bytes `value` is.
    pub fn root(&self, mut value: Value) -> Value {
        while !self.producer.contains_key(&value) {
            match (&self.graph.node(value.node).op, self.graph.operand(value.node, 0)) {
                (Op::Reshape { .. }, Some(x)) => value = x,
                _ => break,
            }
        }
        value
    }

    /// The values a kernel reads from memory, as they are written in the graph.
    pub fn operands(&self, kernel: &Kernel) -> BTreeSet<Value> {
        let inside = |v: &Value| kernel.nodes.contains(&v.node);
        kernel.nodes.iter().flat_map(|&n| self.graph.inputs(n)).filter(|v| !inside(v)).collect()
    }

    /// The stored values a kernel reads: roots of its operands, sources left out.
    pub fn reads(&self, kernel: &Kernel) -> BTreeSet<Value> {
        let computed = |v: &Value| !is_outside(&self.graph.node(v.node).op);
        self.operands(kernel).into_iter().map(|v| self.root(v)).filter(computed).collect()
    }
}
