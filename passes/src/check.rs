//! Checks plans against what `lith_ir::plan` promises to code generation, apart from the passes that make them. A
//! violation is a bug of a pass; tests run this on every plan they make.

use std::collections::BTreeSet;

use lith_ir::plan::{GraphPlan, Kernel, KernelKind, Layout, Place, Region};
use lith_ir::quant::{ACTIVATION_GROUP, ACTIVATION_LEVELS};
use lith_ir::{DType, Dim, Graph, NodeId, Op, Symbol, Value};

use crate::cache::{Caches, Origin};
use crate::fuse::{IndexMap, compose, elementwise_before, identity, is_row_of, operand_index, readers_of_state};
use crate::legalize::{is_scatter, takes_panels};
use crate::memory::{ALIGNMENT, shares};
use crate::reads::{Stored, is_outside, operands};
use crate::regions::live_range;
use crate::{Compiled, PassError};

/// Checks the kernels of every graph: all that is read is stored before, every kernel has the form of its kind, every
/// result is stored; and places and layouts, when the plan has them.
///
/// # Errors
/// The first violation.
pub fn check(compiled: &Compiled) -> Result<(), PassError> {
    let caches = Caches::find(&compiled.program)?;
    for (name, graph) in compiled.program.graphs() {
        let plan = compiled.plan.graphs.get(name).ok_or_else(|| PassError::broken(name, "no plan"))?;
        check_graph(At { compiled, caches: &caches, name }, graph, plan)
            .map_err(|problem| PassError::broken(name, problem))?;
    }
    Ok(())
}

/// Checks the memory of every graph for values of the symbols: blocks lie within the arena, aligned, and those that are
/// needed at one time share no byte.
///
/// # Errors
/// The first violation, or a symbol without a value.
pub fn check_memory(compiled: &Compiled, value_of: &dyn Fn(&Symbol) -> Option<i64>) -> Result<(), PassError> {
    for (name, graph) in compiled.program.graphs() {
        let plan = compiled.plan.graphs.get(name).ok_or_else(|| PassError::broken(name, "no plan"))?;
        let problem = |problem| PassError::broken(name, problem);
        check_arena(compiled, graph, plan, value_of).map_err(problem)?;
    }
    Ok(())
}

fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(problem()) }
}

/// The graph that is checked and what it is part of.
#[derive(Clone, Copy)]
struct At<'a> {
    compiled: &'a Compiled,
    caches: &'a Caches,
    name: &'a str,
}

fn check_graph(at: At<'_>, graph: &Graph, plan: &GraphPlan) -> Result<(), String> {
    let stored = Stored::new(graph, &plan.kernels);
    let outputs: usize = plan.kernels.iter().map(|k| k.outputs.len()).sum();
    ensure(stored.producer.len() == outputs, || "a value is stored twice".into())?;
    for (i, kernel) in plan.kernels.iter().enumerate() {
        let problem = |p: String| format!("kernel {i}: {p}");
        let mut inside = BTreeSet::new();
        for &n in &kernel.nodes {
            let node = graph.get(n).ok_or_else(|| problem(format!("no node {}", n.index())))?;
            ensure(!is_outside(&node.op), || problem(format!("computes `{}`", node.op.name())))?;
            for v in graph.inputs(n).into_iter().filter(|v| kernel.nodes.contains(&v.node)) {
                ensure(inside.contains(&v.node), || problem("nodes out of order".into()))?;
            }
            inside.insert(n);
        }
        for v in operands(graph, kernel) {
            let root = stored.root(v);
            let before = stored.producer.get(&root).is_some_and(|&p| p < i);
            let outside = is_outside(&graph.node(root.node).op);
            ensure(before || outside, || problem(format!("reads node {} before it is stored", root.node.index())))?;
            ensure(plan.places.is_empty() || plan.places.contains_key(&v), || {
                problem(format!("operand {} has no place", v.node.index()))
            })?;
        }
        for v in &kernel.outputs {
            ensure(inside.contains(&v.node), || problem("stores a value of another kernel".into()))?;
            ensure(plan.places.is_empty() || plan.places.contains_key(v), || problem("an output has no place".into()))?;
        }
        ensure(!kernel.outputs.is_empty(), || problem("stores nothing".into()))?;
        check_kind(at, graph, plan, kernel, &stored).map_err(problem)?;
    }
    plan.regions.iter().try_for_each(|r| check_region(graph, plan, &stored, r))?;
    for (i, (name, v)) in graph.results().iter().enumerate() {
        let root = stored.root(*v);
        if let Some(Origin::Arg(arg)) = at.caches.origin(at.name, graph, root) {
            ensure(plan.places.is_empty() || plan.in_place.get(i) == Some(&Some(arg)), || {
                format!("result `{name}` is argument {arg}, which the plan does not tell")
            })?;
            continue;
        }
        ensure(stored.producer.contains_key(&root), || format!("result `{name}` is not stored"))?;
        ensure(plan.places.is_empty() || plan.places.get(&root) == Some(&Place::Result(i)), || {
            format!("result `{name}` lies elsewhere")
        })?;
    }
    Ok(())
}

fn check_kind(
    At { compiled, caches, name }: At<'_>,
    graph: &Graph,
    plan: &GraphPlan,
    kernel: &Kernel,
    stored: &Stored<'_>,
) -> Result<(), String> {
    let in_memory = |n: NodeId| graph.inputs(n).iter().all(|v| !kernel.nodes.contains(&v.node));
    let alone = |core: NodeId| kernel.nodes == [core] && in_memory(core);
    let f32 = |v: Value| graph.ty(v).dtype == DType::F32;
    let in_pages = |v: Value| caches.contains(name, graph, v);
    match kernel.kind {
        KernelKind::Loop => check_loop(graph, kernel),
        KernelKind::Contraction { core } => {
            let weight = graph.operand(core, 1).ok_or("a contraction without weight")?;
            let layout = match &graph.node(weight.node).op {
                Op::Param { name, .. } => compiled.plan.layouts.get(name).is_none_or(|l| l.contains(&Layout::Panels)),
                Op::Arg { index, .. } => plan.arg_layouts.get(*index).is_none_or(|l| *l == Layout::Panels),
                _ => return Err("a contraction by a computed weight".into()),
            };
            ensure(layout, || "a weight is not in panels".into())?;
            let quantized = quantized_operand(graph, kernel, core);
            let given = graph.inputs(core).iter().all(|v| !kernel.nodes.contains(&v.node) || Some(v.node) == quantized);
            ensure(matches!(graph.node(core).op, Op::Linear {}) && given, || "no contraction core".into())?;
            if let Some(quantize) = quantized {
                let group = matches!(graph.node(quantize).op, Op::DynamicQuantize { group: ACTIVATION_GROUP, levels }
                    if ACTIVATION_LEVELS.contains(&levels));
                let only =
                    kernel.nodes.iter().all(|&n| n == core || graph.inputs(n).iter().all(|v| v.node != quantize));
                ensure(group && in_memory(quantize) && only, || "activations quantized in another way".into())?;
            }
            ensure(graph.operand(core, 2).is_none(), || "a contraction with bias".into())?;
            let shape = &graph.ty(core.into()).shape;
            ensure(kernel.outputs.len() == 1 && kernel.outputs.iter().all(|&v| f32(v)), || {
                "a contraction stores one f32 value".into()
            })?;
            ensure(kernel.outputs.iter().all(|&v| graph.ty(v).shape == *shape), || {
                "an epilogue of another shape".into()
            })?;
            check_indices(graph, kernel, shape)
        }
        KernelKind::Dot { core } => {
            ensure(alone(core) && matches!(graph.node(core).op, Op::Dot { .. }) && f32(core.into()), || {
                "no dot".into()
            })?;
            let rows = |v: Value| match &graph.node(v.node).op {
                Op::Param { name, .. } => compiled.plan.layouts.get(name).is_none_or(|l| l.contains(&Layout::Rows)),
                Op::Arg { index, .. } => plan.arg_layouts.get(*index).is_none_or(|l| *l == Layout::Rows),
                _ => true,
            };
            let readable =
                |operand| graph.operand(core, operand).is_none_or(rows) || takes_panels(graph, core, operand);
            ensure(readable(0) && readable(1), || "a product of what lies in panels".into())
        }
        KernelKind::Attention { core } => {
            let fits = match graph.node(core).op {
                Op::Attention { .. } | Op::PackedAttention { .. } | Op::PackedAttentionGrad { .. } => true,
                Op::PagedAttention { .. } => [1, 2, 6, 7].iter().all(|&i| graph.operand(core, i).is_none_or(in_pages)),
                _ => false,
            };
            ensure(alone(core) && fits && f32(core.into()), || "no attention".into())
        }
        KernelKind::Rope { core } => {
            ensure(alone(core) && matches!(graph.node(core).op, Op::Rope { .. }) && f32(core.into()), || {
                "no rope".into()
            })
        }
        KernelKind::CacheAppend { core } => {
            let (Some(cache), Some(x)) = (graph.operand(core, 0), graph.operand(core, 1)) else {
                return Err("an append without operands".into());
            };
            let (from, to) = (graph.ty(x).dtype, graph.ty(cache).dtype);
            let fits = matches!(graph.node(core).op, Op::CacheAppend { .. }) && in_pages(cache);
            ensure(alone(core) && fits && kernel.outputs == [core.into()], || "no append".into())?;
            ensure(from == to || from == DType::F32 && to.is_float(), || format!("{from} appended to {to}"))?;
            ensure(plan.places.get(&core.into()).is_none_or(|p| *p == Place::Alias(cache)), || {
                "a cache that is not changed in place".into()
            })
        }
        KernelKind::Scatter { core } => {
            let fits = matches!(graph.node(core).op, Op::ScatterAdd {}) && is_scatter(graph, core);
            ensure(alone(core) && fits, || "no scatter".into())
        }
        KernelKind::Random { core } => {
            ensure(alone(core) && matches!(graph.node(core).op, Op::RandomBits { .. }), || "no generator".into())
        }
        KernelKind::Embedding { core } => {
            let table = graph.operand(core, 0).ok_or("an embedding of nothing")?;
            let packed = match &graph.node(table.node).op {
                Op::Param { name, .. } => compiled.plan.layouts.get(name).is_none_or(|l| l.contains(&Layout::Panels)),
                _ => false,
            };
            let fits = matches!(graph.node(core).op, Op::Gather { axis: 0 }) && graph.ty(table).rank() == 2;
            ensure(alone(core) && fits && packed && f32(core.into()), || "no embedding".into())
        }
        KernelKind::Call { core } => {
            let Op::Call { function, .. } = &graph.node(core).op else { return Err("no call".into()) };
            ensure(alone(core), || "a call with company".into())?;
            let types = &graph.node(core).types;
            ensure(kernel.outputs.len() == types.len(), || "a call that drops results".into())?;
            let callee = compiled.plan.graphs.get(function).ok_or_else(|| format!("no plan of `{function}`"))?;
            for (result, arg) in callee.in_place.iter().enumerate() {
                let Some(given) = arg.and_then(|arg| graph.operand(core, arg)) else { continue };
                let value = Value { node: core, result: result as u32 };
                ensure(plan.places.get(&value).is_none_or(|p| *p == Place::Alias(given)), || {
                    format!("result {result} of `{function}` lies elsewhere than its argument")
                })?;
            }
            for (v, layout) in graph.inputs(core).into_iter().zip(&callee.arg_layouts) {
                let given = match &graph.node(v.node).op {
                    Op::Arg { index, .. } => plan.arg_layouts.get(*index).copied().unwrap_or(Layout::Rows),
                    Op::Param { name, .. } if compiled.plan.layouts.get(name).is_some_and(|l| l.contains(layout)) => {
                        *layout
                    }
                    _ => Layout::Rows,
                };
                ensure(given == *layout, || format!("an argument of `{function}` in another layout"))?;
            }
            Ok(())
        }
        KernelKind::Copy => {
            let core = kernel.nodes.first().copied().ok_or("an empty copy")?;
            let source = graph.operand(core, 0).ok_or("a copy of nothing")?;
            let copies = match graph.node(core).op {
                Op::Reshape { .. } | Op::StateWrite { .. } => graph.ty(source) == graph.ty(core.into()),
                _ => false,
            };
            ensure(alone(core) && copies && stored.root(core.into()) == core.into(), || "no copy".into())
        }
    }
}

fn check_loop(graph: &Graph, kernel: &Kernel) -> Result<(), String> {
    for &write in &kernel.nodes {
        let Op::StateWrite { name } = &graph.node(write).op else { continue };
        let before = elementwise_before(graph, write);
        let elsewhere = |n: &NodeId| kernel.nodes.contains(n) && !before.contains(n);
        ensure(!readers_of_state(graph, name).iter().any(elsewhere), || {
            format!("reads state `{name}` elsewhere while it is written")
        })?;
    }
    let op = |n: NodeId| &graph.node(n).op;
    let last = kernel.nodes.last().copied().ok_or("no nodes")?;
    if matches!(op(last), Op::CumSum { .. } | Op::SegmentIds { .. } | Op::SegmentPool { .. } | Op::Dot { .. }) {
        return ensure(kernel.nodes.len() == 1, || format!("`{}` with company", op(last).name()));
    }
    let operand_shape = |n: NodeId| graph.operand(n, 0).map(|x| graph.ty(x).shape.clone()).unwrap_or_default();
    let reductions: Vec<NodeId> =
        kernel.nodes.iter().copied().filter(|&n| matches!(op(n), Op::Reduce { .. })).collect();
    let of_rows = |n: &NodeId| match op(*n) {
        Op::Reduce { axes, .. } => axes[..] == [operand_shape(*n).len().wrapping_sub(1)],
        _ => false,
    };
    if reductions.iter().any(|n| !of_rows(n)) {
        ensure(reductions == [last] && kernel.outputs == [last.into()], || {
            "a reduction of other axes with company".into()
        })?;
        return check_indices(graph, kernel, &operand_shape(last));
    }
    let full = kernel.outputs.iter().map(|&v| graph.ty(v).shape.clone()).max_by_key(Vec::len).unwrap_or_default();
    let domain = reductions.first().map_or(full, |&n| operand_shape(n));
    for &n in &reductions {
        ensure(operand_shape(n) == domain, || "reductions over two domains".into())?;
    }
    for &v in &kernel.outputs {
        let shape = &graph.ty(v).shape;
        ensure(*shape == domain || is_row_of(shape, &domain), || {
            format!("stores {} over another domain", graph.ty(v))
        })?;
    }
    check_indices(graph, kernel, &domain)
}

/// The node of the kernel that makes 8-bit activations for a contraction.
fn quantized_operand(graph: &Graph, kernel: &Kernel, core: NodeId) -> Option<NodeId> {
    let x = graph.operand(core, 0)?.node;
    (kernel.nodes.contains(&x) && matches!(graph.node(x).op, Op::DynamicQuantize { .. })).then_some(x)
}

/// Walks from what the kernel stores to all it computes: reductions may be needed at the index of their row only, and
/// operands must be in memory where their index is computed.
fn check_indices(graph: &Graph, kernel: &Kernel, domain: &[Dim]) -> Result<(), String> {
    let mut stack: Vec<(NodeId, Option<IndexMap>)> =
        kernel.outputs.iter().map(|v| (v.node, Some(identity(&graph.ty(*v).shape)))).collect();
    let mut seen = BTreeSet::new();
    while let Some((n, index)) = stack.pop() {
        if !seen.insert((n, index.clone())) {
            continue;
        }
        let shape = &graph.ty(n.into()).shape;
        let reduces = matches!(graph.node(n).op, Op::Reduce { .. } | Op::Linear {});
        let aligned = index.as_ref() == Some(&identity(shape));
        ensure(!reduces || aligned, || format!("`{}` at another index than its row", graph.node(n).op.name()))?;
        for (position, v) in graph.operands(n).into_iter().enumerate() {
            let Some(v) = v.filter(|v| kernel.nodes.contains(&v.node)) else { continue };
            if quantized_operand(graph, kernel, n) == Some(v.node) {
                // The core reads it as a whole.
                seen.insert((v.node, None));
                continue;
            }
            let by_index = matches!((&graph.node(n).op, position), (Op::Gather { .. }, 0));
            ensure(!by_index, || "a gathered operand is not in memory".into())?;
            let inner = operand_index(graph, n, position, v);
            // A reduction runs over the whole row; its operand is at the index of the domain.
            let index = if reduces {
                ensure(graph.ty(v).shape == *domain, || "a reduction of another shape than the domain".into())?;
                inner
            } else {
                index.as_ref().zip(inner).map(|(outer, inner)| compose(outer, &inner))
            };
            stack.push((v.node, index));
        }
    }
    let computed: BTreeSet<NodeId> = seen.into_iter().map(|(n, _)| n).collect();
    ensure(kernel.nodes.iter().all(|n| computed.contains(n)), || "computes what it does not need".into())?;
    let call = |&n: &NodeId| matches!(graph.node(n).op, Op::Call { .. });
    ensure(!kernel.nodes.iter().any(call), || "a call inside a loop".into())
}

/// What a region promises of its kernels and its inner values.
fn check_region(graph: &Graph, plan: &GraphPlan, stored: &Stored<'_>, region: &Region) -> Result<(), String> {
    let Region { kernels, rows, inner } = region;
    let overlaps = |r: &Region| r != region && r.kernels.start < kernels.end && kernels.start < r.kernels.end;
    ensure(!plan.regions.iter().any(overlaps), || "regions overlap".into())?;
    let inside = plan.kernels.get(kernels.clone()).ok_or("a region of kernels that are not there")?;
    for kernel in inside {
        let shape = |v: Value| graph.ty(v).shape.as_slice();
        let fits = match kernel.kind {
            KernelKind::Loop => true,
            KernelKind::Contraction { core } => shape(core.into()).len() == 2,
            _ => false,
        };
        let by_rows = kernel.outputs.iter().all(|&v| shape(v).first() == Some(rows));
        ensure(fits && by_rows, || format!("a {} kernel in a region of {rows} rows", kernel.kind.name()))?;
        for v in operands(graph, kernel) {
            let here = stored.producer.get(&stored.root(v)).is_some_and(|k| kernels.contains(k));
            ensure(!here || shape(v).first() == Some(rows), || {
                "a region reads its own values under other rows".into()
            })?;
        }
    }
    for v in inner {
        let outside = |(k, reads): (usize, &BTreeSet<Value>)| !kernels.contains(&k) && reads.contains(v);
        let read_outside = stored.reads.iter().enumerate().any(outside);
        let made_here = stored.producer.get(v).is_some_and(|k| kernels.contains(k));
        let in_arena = plan.places.get(v).is_none_or(|p| matches!(p, Place::Arena(_)));
        ensure(made_here && !read_outside && in_arena, || "an inner value that others need".into())?;
    }
    Ok(())
}

fn check_arena(
    compiled: &Compiled,
    graph: &Graph,
    plan: &GraphPlan,
    value_of: &dyn Fn(&Symbol) -> Option<i64>,
) -> Result<(), String> {
    let eval = |d: &Dim| d.eval(value_of).map_err(|e| e.to_string());
    let stored = Stored::new(graph, &plan.kernels);
    let arena = eval(&plan.arena)?;
    // The value (none: an arena of a call), first and one past the last byte, first and last kernel.
    type Block = (Option<Value>, i64, i64, (usize, usize));
    let mut blocks: Vec<Block> = Vec::new();
    for (&value, place) in &plan.places {
        let Place::Arena(offset) = place else { continue };
        let (start, bytes) = (eval(offset)?, eval(&graph.ty(value).bytes())?);
        blocks.push((Some(value), start, start + bytes, live_range(plan, stored.live_range(value))));
    }
    for (i, kernel) in plan.kernels.iter().enumerate() {
        let (KernelKind::Call { core }, Some(Op::Call { function, .. })) =
            (&kernel.kind, kernel.nodes.first().map(|&n| &graph.node(n).op))
        else {
            continue;
        };
        let bytes = compiled.plan.graphs.get(function).map_or(Ok(0), |p| eval(&p.arena))?;
        let start = eval(plan.call_arenas.get(core).ok_or("a call without arena")?)?;
        blocks.push((None, start, start + bytes, (i, i)));
    }
    for (i, &(v, start, end, live)) in blocks.iter().enumerate() {
        ensure(start >= 0 && start % ALIGNMENT == 0 && end <= arena, || {
            format!("a block at {start}..{end} of an arena of {arena} bytes")
        })?;
        for &(w, other_start, other_end, other_live) in &blocks[..i] {
            let together = live.0 <= other_live.1 && other_live.0 <= live.1;
            let overlap = start.max(other_start) < end.min(other_end);
            let in_place = match (v, w) {
                (Some(v), Some(w)) if start == other_start => shares(graph, &stored, plan, v, w),
                _ => false,
            };
            ensure(!together || !overlap || in_place, || {
                format!("blocks at {start}..{end} and {other_start}..{other_end} are needed at one time")
            })?;
        }
    }
    Ok(())
}
