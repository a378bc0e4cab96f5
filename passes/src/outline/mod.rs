//! Repeated layers become one function, called once for each repetition, so that code does not grow with depth.
//!
//! A block is what lies between two values of a chain: all that depends on the first and that the second depends on.
//! Repetitions are found by walking backwards from nodes like a block's output in step with the block itself: ops,
//! attributes, types and wiring must be equal, parameters stand where parameters stood, and so do states. Paths choose
//! among cuts that fit equally (a block should be one layer, not the end of one and the start of the next) and name the
//! result; they prove nothing. Repetitions need not follow each other:
//! layers of two kinds in turn become two functions.
//!
//! A block neither reads nor writes states: caches come in by argument and leave as results.

mod block;
mod conditions;
mod extract;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::{Discriminant, discriminant};

use lith_ir::{Class, Graph, NodeId, Op};

use crate::{Compiled, PassError};
use block::{Instance, Repetition};
pub(crate) use extract::same;

pub(crate) fn run(compiled: &mut Compiled) -> Result<(), PassError> {
    let program = &mut compiled.program;
    let entries: BTreeSet<String> = program.entries.keys().cloned().collect();
    for (name, graph) in &mut program.entries {
        conditions::make_anew(graph).map_err(PassError::in_graph(name))?;
        while let Some(repetition) = best(name, graph)? {
            match extract::extract(graph, &repetition, &program.functions, &entries)
                .map_err(PassError::in_graph(name))?
            {
                Some(extracted) => {
                    *graph = extracted.caller;
                    program.functions.insert(extracted.name, extracted.function);
                }
                None => break,
            }
        }
    }
    Ok(())
}

/// How many nodes like its output, counted backwards from it, a block is first looked for at. Where a block is found
/// among so few, it is one of the whole graph, however deep that is; where none is, all are looked at.
const RECENT: usize = 16;

/// How many nodes like its output, counted backwards from it, may be the input of a block: a layer has some of a kind.
const INPUTS: usize = 4;

/// The repetition that leaves least code: whole layers first and one at a time, then the most nodes, then the fewest
/// values between.
fn best(name: &str, graph: &Graph) -> Result<Option<Repetition>, PassError> {
    match best_of(name, graph, RECENT)? {
        None => best_of(name, graph, usize::MAX),
        found => Ok(found),
    }
}

/// [`best`] by what stands at the last `recent` nodes like each candidate's output.
fn best_of(name: &str, graph: &Graph, recent: usize) -> Result<Option<Repetition>, PassError> {
    let order = graph.topological().map_err(PassError::in_graph(name))?;
    // Possible outputs of blocks: nodes that look alike, in order. The last of them ends the template.
    let mut alike: Vec<Vec<NodeId>> = Vec::new();
    let mut looks: HashMap<(String, Discriminant<Op>), Vec<usize>> = HashMap::new();
    let mut last_call = None;
    let mut calls: BTreeMap<NodeId, NodeId> = BTreeMap::new();
    for &n in &order {
        let node = graph.node(n);
        if let Op::Call { .. } = node.op {
            last_call = Some(n);
        }
        if node.op.class() == Class::Source || matches!(node.op, Op::Broadcast { .. }) || node.types.len() != 1 {
            continue;
        }
        calls.extend(last_call.map(|call| (n, call)));
        let looks = looks.entry((without_numbers(&node.path), discriminant(&node.op))).or_default();
        let same = |&&group: &&usize| {
            let first = alike[group].first().map(|&first| graph.node(first));
            first.is_some_and(|first| first.op == node.op && first.types == node.types)
        };
        match looks.iter().find(same) {
            Some(&group) => alike[group].push(n),
            None => {
                looks.push(alike.len());
                alike.push(vec![n]);
            }
        }
    }
    let layers = Layers::of(graph);
    let position: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(i, &n)| (n, i)).collect();
    let score = |r: &Repetition| {
        let nodes = r.compute_nodes(graph);
        let outputs = Reverse(r.outputs(graph).len());
        let inputs = Reverse(r.computed_inputs(graph));
        (nodes * (r.instances.len() - 1), outputs, inputs, position.get(&r.output).copied())
    };
    let mut candidates = Vec::new();
    for ends in &alike {
        let Some((&output, earlier)) = ends.split_last().filter(|(_, earlier)| !earlier.is_empty()) else { continue };
        // A layer may follow one of another kind, which is a call already.
        let call = calls.get(&output).filter(|&&c| graph.node(c).types.first() == graph.node(output).types.first());
        for &input in earlier.iter().rev().take(INPUTS).chain(call) {
            let last = &ends[ends.len().saturating_sub(recent)..];
            candidates.extend(Repetition::between(graph, input, output, last).map(|r| (r, ends)));
        }
    }
    candidates.retain(|(r, _)| r.instances.len() > 1);
    let cuts: Vec<(usize, usize)> = candidates.iter().map(|(r, _)| layers.cut(r)).collect();
    let least = cuts.iter().min().copied();
    let whole = candidates.into_iter().zip(cuts).filter(|(_, cut)| Some(*cut) == least).map(|(c, _)| c);
    Ok(whole.max_by_key(|(r, _)| score(r)).map(|(mut found, ends)| {
        found.find(graph, ends);
        found
    }))
}

/// Which layer each node that computes is part of, by its path, and how many each layer has.
struct Layers {
    of: BTreeMap<NodeId, usize>,
    sizes: Vec<usize>,
}

impl Layers {
    fn of(graph: &Graph) -> Layers {
        let mut layers = Layers { of: BTreeMap::new(), sizes: Vec::new() };
        let mut numbers: BTreeMap<Vec<&str>, usize> = BTreeMap::new();
        for n in graph.petgraph().node_indices().filter(|&n| is_work(&graph.node(n).op)) {
            let segments: Vec<&str> = graph.node(n).path.split('.').collect();
            let Some(at) = segments.iter().position(|s| is_number(s)) else { continue };
            let next = numbers.len();
            let layer = *numbers.entry(segments[..=at].to_vec()).or_insert(next);
            layers.of.insert(n, layer);
            layers.sizes.resize(numbers.len(), 0);
            layers.sizes[layer] += 1;
        }
        layers
    }

    /// How many nodes of the layers that a repetition takes from it leaves, then over how many layers a block goes.
    fn cut(&self, repetition: &Repetition) -> (usize, usize) {
        let layers =
            |nodes: &[NodeId]| -> BTreeSet<usize> { nodes.iter().filter_map(|n| self.of.get(n)).copied().collect() };
        let nodes = |i: &Instance| -> Vec<NodeId> { i.nodes.values().copied().collect() };
        let block = repetition.instances.last().map_or(0, |i| layers(&nodes(i)).len());
        let mut taken: Vec<NodeId> =
            repetition.instances.iter().flat_map(nodes).filter(|n| self.of.contains_key(n)).collect();
        taken.sort_unstable();
        taken.dedup();
        let touched = layers(&taken);
        (touched.iter().map(|&l| self.sizes[l]).sum::<usize>() - taken.len(), block)
    }
}

/// Whether a node is work of the layer whose path it has.
fn is_work(op: &Op) -> bool {
    op.class() != Class::Source && !block::is_free(op) && !matches!(op, Op::StateRead { .. } | Op::StateWrite { .. })
}

/// `encoder.layer.3.output` with `#` for numbers.
fn without_numbers(path: &str) -> String {
    path.split('.').map(|s| if is_number(s) { "#" } else { s }).collect::<Vec<_>>().join(".")
}

/// Whether a segment of a path counts repetitions.
fn is_number(segment: &str) -> bool {
    !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_digit())
}

/// The segments that all paths begin with; nodes without a path have no say.
fn common_prefix<'a>(paths: impl Iterator<Item = &'a str>) -> String {
    let mut prefix: Option<Vec<&str>> = None;
    for path in paths.filter(|p| !p.is_empty()) {
        let segments: Vec<&str> = path.split('.').collect();
        prefix = Some(match prefix {
            None => segments,
            Some(p) => p.into_iter().zip(segments).take_while(|(a, b)| a == b).map(|(a, _)| a).collect(),
        });
    }
    prefix.unwrap_or_default().join(".")
}
