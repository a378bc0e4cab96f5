//! Results and states that kernels can store.

use std::collections::BTreeSet;

use lith_ir::{Graph, GraphError, NodeId, Op, Value};

/// Lets the users of a state write use what is written.
pub(super) fn pass_writes_on(graph: &mut Graph) {
    for write in writes(graph) {
        if let Some(x) = graph.operand(write, 0) {
            graph.replace(write.into(), x);
        }
    }
}

fn writes(graph: &Graph) -> Vec<NodeId> {
    graph.petgraph().node_indices().filter(|&n| matches!(graph.node(n).op, Op::StateWrite { .. })).collect()
}

/// Lets every result be a value of its own that a kernel stores: one that comes from outside, or is the bytes of another
/// result, becomes a copy, which is written as a reshape to the same shape. A state write takes a copy of another state,
/// which may be overwritten first. Caches stay: they are changed in place.
pub(super) fn storable(graph: &mut Graph, cache: &dyn Fn(&Graph, Value) -> bool) -> Result<(), GraphError> {
    for write in writes(graph) {
        let Some(x) = graph.operand(write, 0) else { continue };
        let Op::StateWrite { name } = graph.node(write).op.clone() else { continue };
        let other = |op: &Op| matches!(op, Op::StateRead { name: read, .. } if *read != name);
        if other(&graph.node(root(graph, x).node).op) {
            let path = graph.node(write).path.clone();
            let copied = copy(graph, x, &path)?;
            graph.remove(write);
            graph.add(Op::StateWrite { name }, &[copied], &path)?;
        }
    }
    let mut claimed = BTreeSet::new();
    for (index, (name, value)) in graph.results().to_vec().into_iter().enumerate() {
        if cache(graph, value) {
            continue;
        }
        let from = root(graph, value);
        let outside = match graph.node(from.node).op {
            Op::Arg { .. } | Op::Param { .. } | Op::Const { .. } | Op::StateRead { .. } => true,
            _ => !claimed.insert(from),
        };
        if outside {
            let copied = copy(graph, value, &name)?;
            graph.set_result(index, copied);
        }
    }
    graph.prune();
    Ok(())
}

fn copy(graph: &mut Graph, value: Value, path: &str) -> Result<Value, GraphError> {
    let shape = graph.ty(value).shape.clone();
    graph.add(Op::Reshape { shape }, &[value], path)
}

/// The value whose bytes `value` is.
fn root(graph: &Graph, mut value: Value) -> Value {
    while let (Op::Reshape { .. }, Some(x)) = (&graph.node(value.node).op, graph.operand(value.node, 0)) {
        value = x;
    }
    value
}
