//! Leaves only ops that have a kernel of their own: composites without one become primitives, biases of linear layers
//! become additions that fusion makes an epilogue. Also gives every result a value that a kernel can store right there.

mod results;
mod rewrite;

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::decompose::decompose;
use lith_ir::quant::{ACTIVATION_GROUP, ACTIVATION_LEVELS};
use lith_ir::{DType, Graph, GraphError, NodeId, Op, Program, Value};

use crate::cache::Caches;
use crate::{Compiled, PassError, canonicalize};

pub(crate) fn run(compiled: &mut Compiled) -> Result<(), PassError> {
    let program = &mut compiled.program;
    for graph in program.entries.values_mut() {
        results::pass_writes_on(graph);
    }
    let caches = Caches::find(program)?;
    let packable = packable_args(program)?;
    for (name, graph) in program.functions.iter_mut().chain(&mut program.entries) {
        let packable = packable.get(name);
        let weight = |graph: &Graph, v: Value| match &graph.node(v.node).op {
            Op::Param { .. } => true,
            Op::Arg { index, .. } => packable.is_some_and(|args| args.contains(index)),
            _ => false,
        };
        let cache = |graph: &Graph, v: Value| caches.contains(name, graph, v);
        decompose_until_legal(graph, &Legal { weight: &weight, cache: &cache }).map_err(PassError::in_graph(name))?;
        canonicalize::simplify(name, graph)?;
        results::storable(graph, &cache).map_err(PassError::in_graph(name))?;
    }
    Ok(())
}

/// Whether an operand of a node can be a weight in panels: that of a linear layer, or of the product of a gradient with the
/// weight of a linear layer, which sums over its outputs.
pub(crate) fn takes_panels(graph: &Graph, node: NodeId, operand: usize) -> bool {
    match graph.node(node).op {
        Op::Linear {} => operand == 1,
        Op::Dot { transpose_rhs: false } => {
            let matrices = graph.operands(node).into_iter().flatten().all(|x| graph.ty(x).rank() == 2);
            operand == 1 && matrices && graph.ty(node.into()).dtype == DType::F32
        }
        _ => false,
    }
}

/// The arguments of each function that can come packed in panels: weights of linear layers and nothing else in the
/// function, and at every call a parameter or such an argument of the caller.
pub(crate) fn packable_args(program: &Program) -> Result<BTreeMap<String, BTreeSet<usize>>, PassError> {
    let mut packable: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (name, graph) in &program.functions {
        let only_weight = |&arg: &NodeId| {
            let users = graph.users(arg.into());
            let weight_of = |&(user, operand): &(NodeId, usize)| {
                takes_panels(graph, user, operand) || called_arg(graph, user).is_some()
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

/// What legality hangs on besides the node.
struct Legal<'a> {
    /// Whether a value comes in panels when it is a weight.
    weight: &'a dyn Fn(&Graph, Value) -> bool,
    /// Whether a value is a cache in pages.
    cache: &'a dyn Fn(&Graph, Value) -> bool,
}

fn decompose_until_legal(graph: &mut Graph, legal: &Legal<'_>) -> Result<(), GraphError> {
    loop {
        let mut changed = false;
        for node in graph.topological()? {
            let replacement = match rewrite::rewrite(graph, node, legal)? {
                None if !is_legal(graph, node, legal) => decompose(graph, node)?,
                rewritten => rewritten,
            };
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

/// Whether a kernel adds the rows of this `scatter_add`: floats by 32-bit indices.
pub(crate) fn is_scatter(graph: &Graph, node: NodeId) -> bool {
    let indices = graph.operand(node, 1).is_some_and(|i| graph.ty(i).dtype == DType::I32);
    graph.ty(node.into()).dtype == DType::F32 && indices
}

/// So few random words are computed where they are used.
const FEW_WORDS: u64 = 256;

/// Whether a kernel computes the node as it is. Composites not named here are decomposed.
fn is_legal(graph: &Graph, node: NodeId, legal: &Legal<'_>) -> bool {
    let f32 = || graph.ty(node.into()).dtype == DType::F32;
    let in_pages = |operand: usize| graph.operand(node, operand).is_some_and(|v| (legal.cache)(graph, v));
    match graph.node(node).op {
        Op::Linear {} => f32() && graph.operand(node, 1).is_some_and(|w| (legal.weight)(graph, w)),
        Op::Attention { .. }
        | Op::PackedAttention { .. }
        | Op::PackedAttentionGrad { .. }
        | Op::SegmentPool { .. }
        | Op::Rope { .. } => f32(),
        Op::CacheAppend { .. } => in_pages(0),
        Op::PagedAttention { .. } => in_pages(1),
        // Contractions take it in.
        Op::DynamicQuantize { group, levels } => {
            let contraction = |&(user, operand): &(NodeId, usize)| {
                operand == 0 && matches!(graph.node(user).op, Op::Linear {}) && is_legal(graph, user, legal)
            };
            group == ACTIVATION_GROUP
                && ACTIVATION_LEVELS.contains(&levels)
                && graph.users(node.into()).iter().all(contraction)
                && !graph.results().iter().any(|(_, v)| v.node == node)
        }
        Op::ScatterAdd {} => is_scatter(graph, node),
        Op::SegmentIds { .. } => true,
        Op::RandomBits { ref shape, .. } => {
            let count = shape.iter().try_fold(1u64, |n, d| Some(n.saturating_mul(d.as_const()?.unsigned_abs())));
            count.is_none_or(|count| count >= FEW_WORDS)
        }
        Op::Activation { .. }
        | Op::Softmax {}
        | Op::LayerNorm { .. }
        | Op::RmsNorm { .. }
        | Op::L2Norm { .. }
        | Op::CrossEntropy { .. }
        | Op::CrossEntropyGrad { .. }
        // Rewrites put primitives in their place.
        | Op::Scatter {} => false,
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
        | Op::Reduce { .. }
        | Op::CumSum { .. }
        | Op::Call { .. }
        | Op::StateRead { .. }
        | Op::StateWrite { .. } => true,
    }
}
