//! Runs of kernels that work row by row: each row of what they store is computed from the same row of what they read. A
//! thread takes such a run through a block of rows at a time, without waiting for others, and what flows from kernel to
//! kernel stays in its cache. Knows kernels, not machines: whether blocks pay is decided when shapes are known.

use std::collections::BTreeSet;
use std::ops::Range;

use lith_ir::plan::{GraphPlan, Kernel, KernelKind, Region};
use lith_ir::{Dim, Graph, NodeId, Op, Value};

use crate::cache::Caches;
use crate::reads::{Stored, is_elementwise, operands};
use crate::{Compiled, PassError};

pub(crate) fn run(compiled: &mut Compiled) -> Result<(), PassError> {
    let Compiled { program, plan, .. } = compiled;
    let caches = Caches::find(program)?;
    for (name, graph_plan) in &mut plan.graphs {
        let Some(graph) = program.graph(name) else { continue };
        let in_pages = |v: Value| caches.contains(name, graph, v);
        graph_plan.regions = find(graph, &graph_plan.kernels, &in_pages);
    }
    Ok(())
}

/// The regions of a graph: as long as they can be, each with a contraction, since others have nothing to gain.
fn find(graph: &Graph, kernels: &[Kernel], in_pages: &dyn Fn(Value) -> bool) -> Vec<Region> {
    let stored = Stored::new(graph, kernels);
    let results: BTreeSet<Value> = graph.results().iter().map(|&(_, v)| stored.root(v)).collect();
    let mut regions = Vec::new();
    let mut start = 0;
    while start < kernels.len() {
        let Some(rows) = row_count(graph, &kernels[start]) else {
            start += 1;
            continue;
        };
        let mut end = start;
        while end < kernels.len() && joins(graph, &stored, kernels, start..end, end, rows) {
            end += 1;
        }
        let contracts = |k: &Kernel| matches!(k.kind, KernelKind::Contraction { .. });
        if kernels[start..end].iter().any(contracts) {
            let read_after = |v: &Value| stored.reads[end..].iter().any(|reads| reads.contains(v));
            let inner = kernels[start..end].iter().flat_map(|k| &k.outputs).copied();
            let inner = inner.filter(|v| !results.contains(v) && !read_after(v) && !in_pages(*v)).collect();
            regions.push(Region { kernels: start..end, rows: rows.clone(), inner });
        }
        start = end.max(start + 1);
    }
    regions
}

/// The rows of a kernel that could be part of a region: the first axis of all that it stores, which varies from call to
/// call.
fn row_count<'g>(graph: &'g Graph, kernel: &Kernel) -> Option<&'g Dim> {
    if !matches!(kernel.kind, KernelKind::Loop | KernelKind::Contraction { .. }) {
        return None;
    }
    let rows = graph.ty(*kernel.outputs.first()?).shape.first()?;
    let same = |v: &Value| graph.ty(*v).shape.first() == Some(rows);
    (rows.as_const().is_none() && kernel.outputs.iter().all(same)).then_some(rows)
}

/// Whether kernel `next` goes on with the region of these kernels.
fn joins(
    graph: &Graph,
    stored: &Stored<'_>,
    kernels: &[Kernel],
    region: Range<usize>,
    next: usize,
    rows: &Dim,
) -> bool {
    let kernel = &kernels[next];
    if row_count(graph, kernel) != Some(rows) {
        return false;
    }
    if let KernelKind::Contraction { core } = kernel.kind
        && graph.ty(core.into()).rank() != 2
    {
        return false;
    }
    let made_here = |v: Value| stored.producer.get(&stored.root(v)).is_some_and(|k| region.contains(k));
    let has_rows = |v: Value| graph.ty(v).shape.first() == Some(rows);
    let by_row = read_by_row(graph, kernel, rows);
    operands(graph, kernel).into_iter().all(|v| by_row.contains(&v) || !has_rows(v) && !made_here(v))
}

/// The values in memory that the kernel reads only at the row that it computes.
fn read_by_row(graph: &Graph, kernel: &Kernel, rows: &Dim) -> BTreeSet<Value> {
    let (mut found, mut elsewhere) = (BTreeSet::new(), BTreeSet::new());
    let mut stack: Vec<(NodeId, bool)> = kernel.outputs.iter().map(|v| (v.node, true)).collect();
    let mut seen = BTreeSet::new();
    while let Some((node, at_row)) = stack.pop() {
        if !seen.insert((node, at_row)) {
            continue;
        }
        for (position, v) in graph.operands(node).into_iter().enumerate() {
            let Some(v) = v else { continue };
            let at_row = at_row && keeps_row(graph, node, position, v, rows);
            if kernel.nodes.contains(&v.node) {
                stack.push((v.node, at_row));
            } else {
                let reads = if at_row { &mut found } else { &mut elsewhere };
                reads.insert(v);
            }
        }
    }
    &found - &elsewhere
}

/// Whether a row of the node reads the same row of operand `v`.
fn keeps_row(graph: &Graph, node: NodeId, position: usize, v: Value, rows: &Dim) -> bool {
    let shape = &graph.ty(v).shape;
    let at_own_row = match &graph.node(node).op {
        op if is_elementwise(op) => true,
        Op::Reshape { shape: to } => to.first() == Some(rows),
        Op::Broadcast { axes, .. } => axes.first() == Some(&0),
        Op::Reduce { axes, .. } => axes.first() != Some(&0),
        Op::Transpose { perm } => perm.first() == Some(&0),
        Op::Slice { axis, .. } | Op::Concat { axis } => *axis != 0,
        Op::Pad { axis, .. } => *axis != 0 && position == 0,
        Op::Gather { axis } => (*axis == 0) == (position == 1),
        Op::Linear {} | Op::DynamicQuantize { .. } => position == 0,
        _ => false,
    };
    at_own_row && shape.first() == Some(rows)
}

/// The kernels during which a value has to be kept, first and last: within a region its kernels are at different rows, so
/// all that one of them needs is needed by all.
pub(crate) fn live_range(plan: &GraphPlan, (first, last): (usize, usize)) -> (usize, usize) {
    let region = |k: usize| plan.regions.iter().find(|r| r.kernels.contains(&k));
    (region(first).map_or(first, |r| r.kernels.start), region(last).map_or(last, |r| r.kernels.end - 1))
}

/// Whether a kernel is part of a region.
pub(crate) fn in_region(plan: &GraphPlan, kernel: usize) -> bool {
    plan.regions.iter().any(|r| r.kernels.contains(&kernel))
}

/// Whether two values are inner to one region: a thread has the rows that it is at in one place.
pub(crate) fn both_inner(plan: &GraphPlan, v: Value, w: Value) -> bool {
    plan.regions.iter().any(|r| r.inner.contains(&v) && r.inner.contains(&w))
}
