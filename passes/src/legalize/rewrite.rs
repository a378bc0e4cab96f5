//! Legal forms of nodes that have no kernel as they stand, apart from what they mean by definition.

use lith_ir::{Builder, Compare, DType, Graph, GraphError, NodeId, Op, Reduction, Value};

use super::Legal;

/// What stands for a node, if it needs another form.
pub(super) fn rewrite(graph: &mut Graph, node: NodeId, legal: &Legal<'_>) -> Result<Option<Value>, GraphError> {
    match graph.node(node).op {
        Op::Linear {} => split_bias(graph, node, legal),
        Op::Scatter {} => choose_rows(graph, node),
        Op::ScatterAdd {} if !super::is_scatter(graph, node) => add_rows(graph, node),
        Op::CacheAppend { .. } => cast_to_cache(graph, node, legal),
        _ => Ok(None),
    }
}

/// `linear(x, w, b)` is `linear(x, w) + broadcast(b)`.
fn split_bias(graph: &mut Graph, node: NodeId, legal: &Legal<'_>) -> Result<Option<Value>, GraphError> {
    if !super::is_legal(graph, node, legal) {
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

/// `scatter` without a kernel: every row looks for the last index that names it.
fn choose_rows(graph: &mut Graph, node: NodeId) -> Result<Option<Value>, GraphError> {
    let [Some(x), Some(indices), Some(updates)] = graph.operands(node)[..] else { return Ok(None) };
    let path = graph.node(node).path.clone();
    let mut b = Builder::new(graph, &path);
    let shape = b.ty(x).shape;
    let pairs = [shape[0].clone(), b.ty(indices).shape[0].clone()];
    let row = b.iota(&pairs, 0, DType::I64)?;
    let indices = b.cast(indices, DType::I64)?;
    let indices = b.broadcast(indices, &pairs, &[1])?;
    let named = b.compare(Compare::Eq, row, indices)?;
    let update = b.iota(&pairs, 1, DType::I64)?;
    let none = b.full_like(update, -1.0)?;
    let update = b.select(named, update, none)?;
    let update = b.reduce(Reduction::Max, update, &[1], false)?;
    let hit = b.compare_const(Compare::Ge, update, 0.0)?;
    let hit = b.broadcast(hit, &shape, &[0])?;
    let taken = b.gather(updates, update, 0)?;
    b.select(hit, taken, x).map(Some)
}

/// `scatter_add` without a kernel: every row adds up the updates whose index names it.
fn add_rows(graph: &mut Graph, node: NodeId) -> Result<Option<Value>, GraphError> {
    let [Some(x), Some(indices), Some(updates)] = graph.operands(node)[..] else { return Ok(None) };
    let path = graph.node(node).path.clone();
    let mut b = Builder::new(graph, &path);
    let ty = b.ty(x);
    // As the op accumulates.
    let wide = if ty.dtype.is_float() && ty.dtype.size() == 2 { DType::F32 } else { ty.dtype };
    let (x, updates) = (b.cast(x, wide)?, b.cast(updates, wide)?);
    let mut shape = ty.shape.clone();
    shape.insert(1, b.ty(indices).shape[0].clone());
    let row = b.iota(&shape[..2], 0, DType::I64)?;
    let indices = b.cast(indices, DType::I64)?;
    let indices = b.broadcast(indices, &shape[..2], &[1])?;
    let named = b.compare(Compare::Eq, row, indices)?;
    let named = b.broadcast(named, &shape, &[0, 1])?;
    let axes: Vec<usize> = (1..shape.len()).collect();
    let updates = b.broadcast(updates, &shape, &axes)?;
    let none = b.full_like(updates, 0.0)?;
    let added = b.select(named, updates, none)?;
    let added = b.reduce(Reduction::Sum, added, &[1], false)?;
    let sum = b.add(x, added)?;
    b.cast(sum, ty.dtype).map(Some)
}

/// A kernel writes `f32` to a cache of floats, or what has the cache's type already.
fn cast_to_cache(graph: &mut Graph, node: NodeId, legal: &Legal<'_>) -> Result<Option<Value>, GraphError> {
    let [Some(cache), Some(x), Some(slots)] = graph.operands(node)[..] else { return Ok(None) };
    let (from, to) = (graph.ty(x).dtype, graph.ty(cache).dtype);
    if !(legal.cache)(graph, cache) || from == to || from == DType::F32 && to.is_float() {
        return Ok(None);
    }
    let (op, path) = (graph.node(node).op.clone(), graph.node(node).path.clone());
    let mut b = Builder::new(graph, &path);
    let x = b.cast(x, to)?;
    b.op(op, &[cache, x, slots]).map(Some)
}
