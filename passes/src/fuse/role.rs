//! What each op is to fusion, and at which index of an operand a node reads it.

use std::collections::BTreeSet;

use lith_ir::plan::KernelKind;
use lith_ir::{Binary, DType, Dim, Graph, NodeId, Op, Unary, Value};

use crate::cache::Caches;
use crate::reads::is_elementwise;

/// What a legal node is to fusion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A value in memory before the graph runs, or one that is stored by making what it consists of.
    Memory,
    /// Made from nothing wherever it is needed.
    Generator,
    /// Computes every element from the elements of its operands at the same index.
    Elementwise,
    /// Stores every element where the state had it that the same element was computed from.
    Store,
    /// Only says at which index of its operand an element lies.
    Broadcast,
    /// A reshape, columns of a value in memory, or matrices that products read across.
    View,
    /// Takes each element from a computed index of an operand.
    Movement,
    /// Reduces the last axis.
    RowReduce,
    /// Reduces other axes.
    Reduce,
    /// Starts a contraction.
    Contraction,
    /// Part of every contraction that reads it.
    Quantize,
    /// A kernel of this kind by itself.
    Alone(KernelKind),
}

/// What roles hang on besides the node.
pub(super) struct Context<'a> {
    /// The paged caches.
    pub caches: &'a Caches,
    /// Parameters that lie in panels.
    pub tables: &'a BTreeSet<String>,
}

/// The role of a node of graph `name`; `None` for a composite that legalization should have taken apart.
pub(super) fn role(name: &str, graph: &Graph, id: NodeId, context: &Context<'_>) -> Option<Role> {
    let in_pages = |operand: usize| graph.operand(id, operand).is_some_and(|v| context.caches.contains(name, graph, v));
    Some(match &graph.node(id).op {
        Op::Arg { .. } | Op::Param { .. } | Op::Const { .. } | Op::StateRead { .. } => Role::Memory,
        Op::Iota { .. } | Op::Size { .. } => Role::Generator,
        Op::Unary { .. } | Op::Binary { .. } | Op::Compare { .. } | Op::Select {} | Op::Cast { .. } => {
            Role::Elementwise
        }
        Op::Broadcast { .. } => Role::Broadcast,
        Op::Reshape { shape } => match graph.operand(id, 0) {
            Some(x) if graph.ty(x).shape == *shape => Role::Alone(KernelKind::Copy),
            _ => Role::View,
        },
        Op::Slice { .. } if is_columns(graph, id) => Role::View,
        Op::Transpose { .. } if is_across(graph, id) => Role::View,
        Op::Gather { axis: 0 } if gathers_panels(graph, id, context) => Role::Alone(KernelKind::Embedding { core: id }),
        Op::Transpose { .. } | Op::Slice { .. } | Op::Concat { .. } | Op::Pad { .. } | Op::Gather { .. } => {
            Role::Movement
        }
        Op::Reduce { axes, .. } => {
            let rank = graph.operand(id, 0).map_or(0, |x| graph.ty(x).rank());
            if axes[..] == [rank.wrapping_sub(1)] { Role::RowReduce } else { Role::Reduce }
        }
        Op::Dot { .. } if graph.ty(id.into()).dtype == DType::F32 => Role::Alone(KernelKind::Dot { core: id }),
        Op::Dot { .. } | Op::CumSum { .. } | Op::SegmentIds { .. } | Op::SegmentPool { .. } => {
            Role::Alone(KernelKind::Loop)
        }
        Op::Linear {} => Role::Contraction,
        Op::DynamicQuantize { .. } => Role::Quantize,
        Op::Attention { .. } | Op::PackedAttention { .. } | Op::PackedAttentionGrad { .. } => {
            Role::Alone(KernelKind::Attention { core: id })
        }
        Op::PagedAttention { .. } if in_pages(1) => Role::Alone(KernelKind::Attention { core: id }),
        Op::Rope { .. } => Role::Alone(KernelKind::Rope { core: id }),
        Op::CacheAppend { .. } if in_pages(0) => Role::Alone(KernelKind::CacheAppend { core: id }),
        Op::Call { .. } => Role::Alone(KernelKind::Call { core: id }),
        // What is written was changed where it lies.
        Op::StateWrite { .. } if in_pages(0) => Role::Memory,
        Op::StateWrite { .. } if writes_in_place(graph, id) => Role::Store,
        Op::StateWrite { .. } => Role::Alone(KernelKind::Copy),
        Op::ScatterAdd {} => Role::Alone(KernelKind::Scatter { core: id }),
        Op::RandomBits { .. } => Role::Alone(KernelKind::Random { core: id }),
        Op::Activation { .. }
        | Op::Softmax {}
        | Op::LayerNorm { .. }
        | Op::RmsNorm { .. }
        | Op::L2Norm { .. }
        | Op::Scatter {}
        | Op::CrossEntropy { .. }
        | Op::CrossEntropyGrad { .. }
        | Op::CacheAppend { .. }
        | Op::PagedAttention { .. } => return None,
    })
}

/// Whether a slice is columns of a value in memory that only kernels read which take any distance between rows.
fn is_columns(graph: &Graph, id: NodeId) -> bool {
    let Op::Slice { axis, start, step: 1, .. } = &graph.node(id).op else { return false };
    let Some(x) = graph.operand(id, 0) else { return false };
    let computed = !matches!(graph.node(x.node).op, Op::Slice { .. } | Op::Param { .. } | Op::Const { .. });
    computed && *axis > 0 && axis + 1 == graph.ty(x).rank() && start.as_const().is_some() && reads_columns(graph, id)
}

/// The nodes that compute each element of what a state becomes from elements at the same index.
pub(crate) fn elementwise_before(graph: &Graph, write: NodeId) -> BTreeSet<NodeId> {
    let (mut found, mut stack) = (BTreeSet::new(), vec![write]);
    while let Some(n) = stack.pop() {
        if (n == write || is_elementwise(&graph.node(n).op)) && found.insert(n) {
            stack.extend(graph.inputs(n).into_iter().map(|v| v.node));
        }
    }
    found
}

/// Those that read the value that the state of this name had before.
pub(crate) fn readers_of_state(graph: &Graph, name: &str) -> Vec<NodeId> {
    let reads = |n: &NodeId| matches!(&graph.node(*n).op, Op::StateRead { name: read, .. } if read == name);
    let nodes = graph.petgraph().node_indices().filter(reads);
    nodes.flat_map(|n| graph.users(n.into())).map(|(user, _)| user).collect()
}

/// Whether the kernel that computes what a state becomes can store it right there: who else reads the state does not wait
/// for that kernel.
fn writes_in_place(graph: &Graph, write: NodeId) -> bool {
    let Op::StateWrite { name } = &graph.node(write).op else { return false };
    let before = elementwise_before(graph, write);
    let (mut after, mut stack) = (before.clone(), before.iter().copied().collect::<Vec<_>>());
    while let Some(n) = stack.pop() {
        let results = 0..graph.node(n).types.len() as u32;
        for (user, _) in results.flat_map(|result| graph.users(Value { node: n, result })) {
            if after.insert(user) {
                stack.push(user);
            }
        }
    }
    readers_of_state(graph, name).iter().all(|n| before.contains(n) || !after.contains(n))
}

/// Whether a node is matrices the other way round that only products read, which take any distance between elements.
fn is_across(graph: &Graph, id: NodeId) -> bool {
    let Op::Transpose { perm } = &graph.node(id).op else { return false };
    let rank = perm.len();
    let swapped = |(i, &axis): (usize, &usize)| match rank - i {
        1 => axis + 2 == rank,
        2 => axis + 1 == rank,
        _ => axis == i,
    };
    let product = |&(user, _): &(NodeId, usize)| {
        matches!(graph.node(user).op, Op::Dot { .. }) && graph.ty(user.into()).dtype == DType::F32
    };
    let users = graph.users(id.into());
    rank >= 2
        && perm.iter().enumerate().all(swapped)
        && !users.is_empty()
        && users.iter().all(product)
        && graph.results().iter().all(|(_, v)| v.node != id)
}

/// Whether all that reads a value takes any distance between rows, be it through reshapes that keep rows.
fn reads_columns(graph: &Graph, id: NodeId) -> bool {
    let last = |n: NodeId| graph.ty(n.into()).shape.last();
    let takes = |&(user, operand): &(NodeId, usize)| match (&graph.node(user).op, operand) {
        (Op::Attention { .. } | Op::PackedAttention { .. }, 0..=2) | (Op::PackedAttentionGrad { .. }, 0..=2 | 4) => {
            graph.ty(user.into()).dtype == DType::F32
        }
        (Op::PagedAttention { .. } | Op::Rope { .. }, 0) => graph.ty(user.into()).dtype == DType::F32,
        (Op::CacheAppend { .. }, 1) => true,
        (Op::Dot { .. }, _) => graph.ty(id.into()).rank() == 2 && graph.ty(user.into()).dtype == DType::F32,
        (Op::Transpose { .. }, _) => graph.ty(id.into()).rank() == 2 && is_across(graph, user),
        (Op::Reshape { .. }, 0) => {
            let copies = graph.ty(id.into()).shape == graph.ty(user.into()).shape;
            !copies && last(id) == last(user) && reads_columns(graph, user)
        }
        _ => false,
    };
    let users = graph.users(id.into());
    !users.is_empty() && users.iter().all(takes) && graph.results().iter().all(|(_, v)| v.node != id)
}

/// Whether a gather of rows is from a parameter in panels.
fn gathers_panels(graph: &Graph, id: NodeId, context: &Context<'_>) -> bool {
    graph.operand(id, 0).is_some_and(|table| match &graph.node(table.node).op {
        Op::Param { name, ty } => ty.rank() == 2 && ty.dtype == DType::F32 && context.tables.contains(name),
        _ => false,
    })
}

/// Relative price of computing one element again instead of loading it.
pub(super) fn cost(op: &Op) -> usize {
    match op {
        Op::Unary { f: Unary::Exp | Unary::Log | Unary::Sin | Unary::Cos | Unary::Tanh | Unary::Erf }
        | Op::Binary { f: Binary::Pow | Binary::Rem } => 16,
        Op::Unary { f: Unary::Sqrt | Unary::Rsqrt } | Op::Binary { f: Binary::Div } => 4,
        Op::Gather { .. } => 4,
        Op::Broadcast { .. } | Op::Reshape { .. } => 0,
        _ => 1,
    }
}

/// The index of an operand as axes of an index of the reader; `None` where an axis of size 1 has index 0 anyway.
pub(crate) type IndexMap = Vec<Option<usize>>;

/// `0, 1, ..` for a shape.
pub(crate) fn identity(shape: &[Dim]) -> IndexMap {
    shape.iter().enumerate().map(|(i, d)| (d.as_const() != Some(1)).then_some(i)).collect()
}

/// At which index of operand `position` a node at some index reads: one picked from the axes of that index, else `None`.
pub(crate) fn operand_index(graph: &Graph, node: NodeId, position: usize, operand: Value) -> Option<IndexMap> {
    let shape = &graph.ty(operand).shape;
    match (&graph.node(node).op, position) {
        (
            Op::Unary { .. }
            | Op::Binary { .. }
            | Op::Compare { .. }
            | Op::Select {}
            | Op::Cast { .. }
            | Op::StateWrite { .. },
            _,
        ) => Some(identity(shape)),
        // Of the whole index space that is reduced.
        (Op::Reduce { .. }, _) => Some(identity(shape)),
        (Op::Broadcast { axes, .. }, _) => {
            Some(shape.iter().zip(axes).map(|(d, &a)| (d.as_const() != Some(1)).then_some(a)).collect())
        }
        (Op::Gather { axis }, 1) => {
            Some(shape.iter().enumerate().map(|(i, d)| (d.as_const() != Some(1)).then_some(axis + i)).collect())
        }
        (Op::Pad { .. }, 1) => Some(Vec::new()),
        (Op::Reshape { shape: to }, _) => unit_axes(shape, to),
        _ => None,
    }
}

/// The index map of a reshape that only adds or drops axes of size 1.
pub(super) fn unit_axes(from: &[Dim], to: &[Dim]) -> Option<IndexMap> {
    let real = |shape: &[Dim]| -> Vec<usize> { (0..shape.len()).filter(|&i| shape[i].as_const() != Some(1)).collect() };
    let (a, b) = (real(from), real(to));
    if a.len() != b.len() || a.iter().zip(&b).any(|(&i, &j)| from[i] != to[j]) {
        return None;
    }
    let mut map = vec![None; from.len()];
    for (i, j) in a.into_iter().zip(b) {
        map[i] = Some(j);
    }
    Some(map)
}

/// `outer` after `inner`: the index of what `inner` reads by the index that `outer` is over.
pub(crate) fn compose(outer: &IndexMap, inner: &IndexMap) -> IndexMap {
    inner.iter().map(|axis| axis.and_then(|a| outer.get(a).copied().flatten())).collect()
}
