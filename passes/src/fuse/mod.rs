//! Groups nodes into kernels. Each node that computes starts as a group of its own; contractions take the elementwise
//! nodes behind them as epilogue, then neighbours over one domain merge, then what is cheaper to compute again than to
//! store goes into its readers. What a kernel may look like stands at [`lith_ir::plan::KernelKind`].

mod group;
mod nodes;
mod role;

use std::collections::BTreeSet;

use lith_ir::plan::{GraphPlan, Kernel, KernelKind};
use lith_ir::{DType, Dim, Graph, NodeId, Op};

use crate::cache::Caches;
use crate::reads::{is_outside, operands};
use crate::{Compiled, Options, PassError, layout};
use group::{Groups, Kind};
use role::{Context, Role, cost};

pub(crate) use group::is_row_of;
pub(crate) use role::{IndexMap, compose, elementwise_before, identity, operand_index, readers_of_state};

pub(crate) fn run(compiled: &mut Compiled, options: &Options) -> Result<(), PassError> {
    let caches = Caches::find(&compiled.program)?;
    let mut tables = layout::contracted(&compiled.program);
    tables.extend(options.packed_tables.iter().cloned());
    let context = Context { caches: &caches, tables: &tables };
    for (name, graph) in compiled.program.graphs() {
        let kernels = fuse(name, graph, &context)?;
        compiled.plan.graphs.insert(name.into(), GraphPlan { kernels, ..GraphPlan::default() });
    }
    Ok(())
}

fn fuse(name: &str, graph: &Graph, context: &Context<'_>) -> Result<Vec<Kernel>, PassError> {
    let mut groups = Groups::new(name, graph, context)?;
    for node in groups.order.clone() {
        if groups.roles[&node] == Role::Contraction {
            take_epilogue(&mut groups, node);
        }
    }
    while merge_neighbours(&mut groups) {}
    dissolve_cheap(&mut groups);
    emit(name, graph, &groups)
}

/// Grows the group of a `linear` by elementwise nodes of its shape, as long as one `f32` value leaves it.
fn take_epilogue(groups: &mut Groups<'_>, core: NodeId) {
    let graph = groups.graph;
    let shape = graph.ty(core.into()).shape.clone();
    let mut members = vec![core];
    let mut refused = BTreeSet::new();
    let first = groups.group_of[&core];
    loop {
        let next = members
            .iter()
            .flat_map(|m| &groups.consumers[m])
            .filter(|&n| !members.contains(n) && !refused.contains(n))
            .min_by_key(|&n| groups.position[n]);
        let Some(&node) = next else { break };
        let taken: Vec<usize> = members.iter().map(|m| groups.group_of[m]).collect();
        let fits = groups.roles[&node] == Role::Elementwise
            && graph.ty(node.into()).shape == shape
            && groups.nodes(groups.group_of[&node]).len() == 1
            && groups.all_aligned(&members, node, &shape)
            && groups.epilogue_can_read(node)
            && !groups.path_around(&taken, groups.group_of[&node]);
        if fits {
            members.push(node);
        } else {
            refused.insert(node);
        }
    }
    // The longest part of it that leaves one value.
    while members.len() > 1 {
        let leaving: Vec<NodeId> = members.iter().copied().filter(|&m| groups.leaves(m, &members)).collect();
        if leaving.len() == 1 && graph.ty(leaving[0].into()).dtype == DType::F32 {
            break;
        }
        members.pop();
    }
    for &node in &members[1..] {
        groups.join(groups.group_of[&node], first);
    }
}

/// Merges groups over one domain where one reads the other at its own index. Whether anything changed.
fn merge_neighbours(groups: &mut Groups<'_>) -> bool {
    let mut changed = false;
    for node in groups.order.clone() {
        if !groups.group_of.contains_key(&node) {
            continue;
        }
        for (source, _) in groups.accesses(node) {
            let (p, c) = (groups.group_of[&source], groups.group_of[&node]);
            if p == c {
                continue;
            }
            if let Some(domain) = merged_domain(groups, p, c) {
                groups.join(p, c);
                groups.set_domain(c, domain);
                changed = true;
            }
        }
    }
    changed
}

/// The domain of the kernel that computes both groups, if one kernel can.
fn merged_domain(groups: &Groups<'_>, p: usize, c: usize) -> Option<Vec<Dim>> {
    let (from, to) = (groups.domain(p), groups.domain(c));
    let (producers, consumers) = (groups.nodes(p), groups.nodes(c));
    let only_read_here = |&n: &NodeId| !groups.leaves(n, &[producers, consumers].concat());
    let domain = match (groups.kind(p), groups.kind(c)) {
        (Kind::Loop, Kind::Loop) if from == to => to,
        (Kind::Loop, Kind::Loop) if groups.is_flat(p) && is_row_of(from, to) => to,
        (Kind::Loop, Kind::Loop) if groups.is_flat(c) && is_row_of(to, from) => from,
        // A reduction over other axes takes in what only it reads, and no other reduction.
        (Kind::Loop, Kind::Reduction) if from == to && groups.is_flat(p) && producers.iter().all(only_read_here) => to,
        _ => return None,
    }
    .to_vec();
    let aligned = consumers.iter().all(|&n| groups.all_aligned(producers, n, &domain));
    (aligned && !groups.path_around(&[p], c)).then_some(domain)
}

/// The price up to which a value with one reader is computed in the reader instead of stored.
const CHEAP: usize = 8;
/// The same where the reader would compute elements more than once.
const CHEAP_REPEATED: usize = 2;

/// Dissolves groups that are cheap to compute where they are read at another index than their own.
fn dissolve_cheap(groups: &mut Groups<'_>) {
    let graph = groups.graph;
    for node in groups.order.clone() {
        let Some(&g) = groups.group_of.get(&node) else { continue };
        let nodes = groups.nodes(g).to_vec();
        let dear = |nodes: &[NodeId]| nodes.iter().map(|&n| cost(&graph.node(n).op)).sum::<usize>() > CHEAP;
        if groups.kind(g) != &Kind::Loop || dear(&nodes) || nodes.iter().any(|n| groups.roles[n] == Role::RowReduce) {
            continue;
        }
        // What is computed along with it when it is computed again.
        let price: usize = groups.with_inline(&nodes).iter().map(|&n| cost(&graph.node(n).op)).sum();
        let readers: BTreeSet<usize> =
            nodes.iter().flat_map(|n| &groups.consumers[n]).map(|c| groups.group_of[c]).filter(|&c| c != g).collect();
        let scalar = groups.domain(g).iter().all(|d| d.as_const() == Some(1));
        let repeated = |&r: &usize| {
            let elements = |shape: &[Dim]| shape.iter().cloned().fold(Dim::constant(1), |a, d| a * d);
            elements(groups.domain(r)) != elements(groups.domain(g))
        };
        let limit = if !scalar && readers.iter().any(repeated) { CHEAP_REPEATED } else { CHEAP };
        let inlines = |&r: &usize| match groups.kind(r) {
            Kind::Loop | Kind::Reduction => true,
            Kind::Contraction(_) => scalar,
            Kind::Alone(_) => false,
        };
        if price <= limit
            && (readers.len() == 1 || scalar)
            && readers.iter().all(inlines)
            && nodes.iter().all(|n| !groups.stored.contains(n))
        {
            groups.dissolve(g);
        }
    }
}

fn emit(name: &str, graph: &Graph, groups: &Groups<'_>) -> Result<Vec<Kernel>, PassError> {
    let mut kernels = Vec::new();
    for g in groups.in_order() {
        let kind = match groups.kind(g) {
            Kind::Loop | Kind::Reduction => KernelKind::Loop,
            Kind::Contraction(core) => KernelKind::Contraction { core: *core },
            Kind::Alone(kind) => kind.clone(),
        };
        kernels.push(Kernel { kind, nodes: groups.with_inline(groups.nodes(g)), outputs: Vec::new() });
    }
    // A node of several kernels is inline in all of them; one of a single kernel's group is stored there when read.
    let mut outputs: Vec<BTreeSet<_>> = vec![BTreeSet::new(); kernels.len()];
    let index: std::collections::BTreeMap<usize, usize> =
        groups.in_order().into_iter().enumerate().map(|(i, g)| (g, i)).collect();
    let mut store = |value: lith_ir::Value| -> Result<(), PassError> {
        let mut value = value;
        loop {
            if let Some(g) = groups.group_of.get(&value.node) {
                outputs[index[g]].insert(value);
                return Ok(());
            }
            match (&graph.node(value.node).op, graph.operand(value.node, 0)) {
                (Op::Reshape { .. } | Op::Slice { .. } | Op::Transpose { .. }, Some(x)) => value = x,
                (op, _) if is_outside(op) => return Ok(()),
                (op, _) => return Err(PassError::broken(name, format!("`{}` is read and not stored", op.name()))),
            }
        }
    };
    for kernel in &kernels {
        operands(graph, kernel).into_iter().try_for_each(&mut store)?;
        // All results of a call have a place, read or not, and what has none to read it is stored all the same.
        if let KernelKind::Call { core } | KernelKind::CacheAppend { core } = kernel.kind {
            (0..graph.node(core).types.len() as u32)
                .try_for_each(|result| store(lith_ir::Value { node: core, result }))?;
        }
        let writes = kernel.nodes.iter().filter(|&&n| matches!(graph.node(n).op, Op::StateWrite { .. }));
        writes.copied().map(lith_ir::Value::from).try_for_each(&mut store)?;
    }
    graph.results().iter().try_for_each(|&(_, v)| store(v))?;
    for (kernel, outputs) in kernels.iter_mut().zip(outputs) {
        kernel.outputs = outputs.into_iter().collect();
    }
    Ok(kernels)
}
