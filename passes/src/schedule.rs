//! The order of kernels: each after those it reads, and among those that could run the one that adds least to what is
//! alive. What writes a state comes after all that read it, which see its old value.

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::plan::Kernel;
use lith_ir::{Graph, Op, Symbols, Value};

use crate::cache::Caches;
use crate::memory::typical_bytes;
use crate::reads::{Stored, operands};
use crate::{Compiled, PassError};

pub(crate) fn run(compiled: &mut Compiled) -> Result<(), PassError> {
    let Compiled { program, plan, .. } = compiled;
    let caches = Caches::find(program)?;
    for (name, graph_plan) in &mut plan.graphs {
        let Some(graph) = program.graph(name) else { continue };
        let in_arena = |v: &Value| !caches.contains(name, graph, *v);
        let order = order(graph, &graph_plan.kernels, &program.symbols, &in_arena)
            .ok_or_else(|| PassError::broken(name, "kernels depend on each other"))?;
        graph_plan.kernels = order.into_iter().map(|k| graph_plan.kernels[k].clone()).collect();
    }
    Ok(())
}

/// Indices of kernels in execution order; `None` when there is a cycle.
fn order(
    graph: &Graph,
    kernels: &[Kernel],
    symbols: &Symbols,
    in_arena: &dyn Fn(&Value) -> bool,
) -> Option<Vec<usize>> {
    let stored = Stored::new(graph, kernels);
    let reads = &stored.reads;
    let results: BTreeSet<Value> = graph.results().iter().map(|&(_, v)| stored.root(v)).collect();
    let states = |k: &Kernel| -> (BTreeSet<&str>, BTreeSet<&str>) {
        let written = k.nodes.iter().filter_map(|&n| match &graph.node(n).op {
            Op::StateWrite { name } => Some(name.as_str()),
            _ => None,
        });
        let roots = operands(graph, k).into_iter().map(|v| stored.root(v).node);
        let read = roots.filter_map(|n| match &graph.node(n).op {
            Op::StateRead { name, .. } => Some(name.as_str()),
            _ => None,
        });
        (written.collect(), read.collect())
    };
    let (written, read): (Vec<_>, Vec<_>) = kernels.iter().map(states).unzip();
    // How many kernels that have not run read what each state was.
    let mut state_readers: BTreeMap<&str, usize> = BTreeMap::new();
    for state in read.iter().flatten() {
        *state_readers.entry(state).or_default() += 1;
    }

    // How many kernels that have not run read each value; results are never free; neither they nor caches
    // cost the arena anything.
    let mut readers: BTreeMap<Value, usize> = BTreeMap::new();
    for value in reads.iter().flatten() {
        *readers.entry(*value).or_default() += 1;
    }
    let state = |v: &Value| matches!(graph.node(v.node).op, Op::StateWrite { .. });
    let size = |v: &Value| match results.contains(v) || state(v) || !in_arena(v) {
        true => 0,
        false => typical_bytes(&graph.ty(*v).bytes(), symbols),
    };
    let mut left: BTreeSet<usize> = (0..kernels.len()).collect();
    let mut done: BTreeSet<Value> = BTreeSet::new();
    let mut order = Vec::with_capacity(kernels.len());
    while !left.is_empty() {
        let ready = left.iter().copied().filter(|&k| {
            reads[k].iter().all(|v| done.contains(v))
                && written[k].iter().all(|s| state_readers.get(s).copied().unwrap_or(0) == read[k].contains(s).into())
        });
        let growth = |&k: &usize| {
            let made: i128 = kernels[k].outputs.iter().map(size).sum();
            let freed: i128 = reads[k].iter().filter(|v| readers[v] == 1).map(size).sum();
            (made - freed, k)
        };
        let next = ready.min_by_key(growth)?;
        for v in &reads[next] {
            readers.entry(*v).and_modify(|n| *n -= 1);
        }
        done.extend(&kernels[next].outputs);
        left.remove(&next);
        for state in &read[next] {
            state_readers.entry(state).and_modify(|n| *n -= 1);
        }
        order.push(next);
    }
    Some(order)
}
