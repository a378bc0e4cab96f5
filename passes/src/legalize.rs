//! Leaves only ops that have a kernel of their own: composites without one become primitives, biases of linear layers
//! become additions that fusion makes an epilogue. Also gives every result a value that a kernel can store right there.

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::decompose::decompose;
use lith_ir::{Builder, DType, Graph, GraphError, NodeId, Op, Program, Value};

use crate::{Compiled, PassError, canonicalize};

pub(crate) fn run(compiled: &mut Compiled) -> Result<(), PassError> {
    let program = &mut compiled.program;
    let packable = packable_args(program)?;
    for (name, graph) in program.functions.iter_mut().chain(&mut program.entries) {
        let packable = packable.get(name);
        let weight = |graph: &Graph, v: Value| match &graph.node(v.node).op {
            Op::Param { .. } => true,
            Op::Arg { index, .. } => packable.is_some_and(|args| args.contains(index)),
            _ => false,
        };
        decompose_until_legal(graph, &weight).map_err(PassError::in_graph(name))?;
        canonicalize::simplify(name, graph)?;
        storable_results(graph).map_err(PassError::in_graph(name))?;
    }
    Ok(())
}

/// The arguments of each function that can come packed in panels: weights of linear layers and nothing else in the
/// function, and at every call a parameter or such an argument of the caller.
fn packable_args(program: &Program) -> Result<BTreeMap<String, BTreeSet<usize>>, PassError> {
    let mut packable: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (name, graph) in &program.functions {
        let only_weight = |&arg: &NodeId| {
            let users = graph.users(arg.into());
            let weight_of = |&(user, operand): &(NodeId, usize)| {
                operand == 1 && matches!(graph.node(user).op, Op::Linear {}) || called_arg(graph, user).is_some()
            };
            graph.ty(arg.into()).dtype == DType::F32
                && !users.is_empty()
                && users.iter().all(weight_of)
                && !graph.results().iter().any(|(_, v)| v.node == arg)
        };
        let args = graph.args().iter().enumerate().filter(|(_, n)| only_weight(n)).map(|(i, _)| i).collect();
        packable.insert(name.clone(), args);
    }
    // An argument falls out when a call gives something else for it, or the function hands it to a call that wants rows.
    loop {
        let mut fallen = Vec::new();
        for (name, graph) in program.graphs() {
            for call in graph.petgraph().node_indices() {
                let Some(function) = called_arg(graph, call) else { continue };
                let Some(args) = packable.get(function) else {
                    return Err(PassError::broken(name, format!("no function `{function}`")));
                };
                for (i, operand) in graph.inputs(call).into_iter().enumerate() {
                    let from_arg = match graph.node(operand.node).op {
                        Op::Arg { index, .. } => Some(index),
                        _ => None,
                    };
                    let packed = packable.get(name).zip(from_arg).is_some_and(|(own, i)| own.contains(&i));
                    let param = matches!(graph.node(operand.node).op, Op::Param { .. });
                    if args.contains(&i) && !param && !packed {
                        fallen.push((function.to_string(), i));
                    }
                    if let (false, true, Some(index)) = (args.contains(&i), packed, from_arg) {
                        fallen.push((name.to_string(), index));
                    }
                }
            }
        }
        if fallen.is_empty() {
            return Ok(packable);
        }
        for (function, i) in fallen {
            packable.entry(function).or_default().remove(&i);
        }
    }
}

fn called_arg(graph: &Graph, node: NodeId) -> Option<&str> {
    match &graph.node(node).op {
        Op::Call { function, .. } => Some(function),
        _ => None,
    }
}

fn decompose_until_legal(graph: &mut Graph, weight: &dyn Fn(&Graph, Value) -> bool) -> Result<(), GraphError> {
    loop {
        let mut changed = false;
        for node in graph.topological()? {
            let replacement =
                if is_legal(graph, node, weight) { split_bias(graph, node)? } else { decompose(graph, node)? };
            if let Some(value) = replacement {
                graph.replace(node.into(), value);
                graph.remove(node);
                changed = true;
            }
        }
        if !changed {
            return Ok(());
        }
    }
}

/// Whether a kernel computes the node as it is. Composites not named here are decomposed.
fn is_legal(graph: &Graph, node: NodeId, weight: &dyn Fn(&Graph, Value) -> bool) -> bool {
    let f32 = || graph.ty(node.into()).dtype == DType::F32;
    match graph.node(node).op {
        Op::Linear {} => f32() && graph.operand(node, 1).is_some_and(|w| weight(graph, w)),
        Op::PackedAttention { .. } | Op::SegmentPool { .. } => f32(),
        Op::SegmentIds { .. } => true,
        Op::Activation { .. }
        | Op::Softmax {}
        | Op::LayerNorm { .. }
        | Op::RmsNorm { .. }
        | Op::L2Norm { .. }
        | Op::Rope { .. }
        | Op::DynamicQuantize { .. }
        | Op::Attention { .. }
        | Op::CacheAppend { .. }
        | Op::PagedAttention { .. } => false,
        Op::Arg { .. }
        | Op::Param { .. }
        | Op::Const { .. }
        | Op::Iota { .. }
        | Op::Size { .. }
        | Op::Unary { .. }
        | Op::Binary { .. }
        | Op::Compare { .. }
        | Op::Select {}
        | Op::Cast { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Broadcast { .. }
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Pad { .. }
        | Op::Gather { .. }
        | Op::Dot { .. }
        | Op::Scatter {}
        | Op::Reduce { .. }
        | Op::CumSum { .. }
        | Op::Call { .. }
        | Op::StateRead { .. }
        | Op::StateWrite { .. } => true,
    }
}

/// `linear(x, w, b)` is `linear(x, w) + broadcast(b)`.
fn split_bias(graph: &mut Graph, node: NodeId) -> Result<Option<Value>, GraphError> {
    if !matches!(graph.node(node).op, Op::Linear {}) {
        return Ok(None);
    }
    let [Some(x), Some(weight), Some(bias)] = graph.operands(node)[..] else { return Ok(None) };
    let path = graph.node(node).path.clone();
    let mut b = Builder::new(graph, &path);
    let product = b.op(Op::Linear {}, &[x, weight])?;
    let shape = b.ty(product).shape;
    let bias = b.expand(bias, &shape)?;
    b.add(product, bias).map(Some)
}

/// Lets every result be a value of its own that a kernel stores: one that comes from outside, or is the bytes of another
/// result, becomes a copy, which is written as a reshape to the same shape. A state write passes its operand on to its
/// users, and takes a copy of another state, which may be overwritten first.
fn storable_results(graph: &mut Graph) -> Result<(), GraphError> {
    let writes: Vec<NodeId> =
        graph.petgraph().node_indices().filter(|&n| matches!(graph.node(n).op, Op::StateWrite { .. })).collect();
    for write in writes {
        let Some(x) = graph.operand(write, 0) else { continue };
        graph.replace(write.into(), x);
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
