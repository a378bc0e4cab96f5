//! Repeated layers become one function, called once for each repetition, so that code does not grow with depth.
//!
//! A block is what lies between two values of a chain: all that depends on the first and that the second depends on.
//! Repetitions are found by walking backwards from nodes like a block's output in step with the block itself: ops,
//! attributes, types and wiring must be equal, parameters stand where parameters stood, and so do states. Paths choose
//! among cuts that fit equally (a block should be one layer, not the end of one and the start of the next) and name the
//! result; they prove nothing. Layers of two kinds in turn become a function for one kind, then one for a whole period.
//!
//! A block neither reads nor writes states: caches come in by argument and leave as results.

mod block;
mod extract;

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::{Class, Graph, NodeId, Op};

use crate::{Compiled, PassError};
use block::Repetition;

/// A block of fewer nodes is not worth a function.
const LEAST_NODES: usize = 4;

pub(crate) fn run(compiled: &mut Compiled) -> Result<(), PassError> {
    let program = &mut compiled.program;
    let entries: BTreeSet<String> = program.entries.keys().cloned().collect();
    for (name, graph) in &mut program.entries {
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

/// The repetition that leaves least code: whole layers first, then the most nodes, then the fewest values between.
fn best(name: &str, graph: &Graph) -> Result<Option<Repetition>, PassError> {
    let order = graph.topological().map_err(PassError::in_graph(name))?;
    // Possible outputs of blocks: nodes that look alike, in order.
    let mut alike: BTreeMap<String, Vec<NodeId>> = BTreeMap::new();
    for &n in &order {
        let node = graph.node(n);
        if node.op.class() == Class::Source || matches!(node.op, Op::Broadcast { .. }) || node.types.len() != 1 {
            continue;
        }
        let look = format!("{} {:?} {:?}", without_numbers(&node.path), node.op, node.types);
        alike.entry(look).or_default().push(n);
    }
    let position = |n: NodeId| order.iter().position(|&m| m == n);
    let score = |r: &Repetition| {
        let nodes = r.compute_nodes(graph);
        let outputs = std::cmp::Reverse(r.outputs(graph).len());
        let inputs = std::cmp::Reverse(r.computed_inputs(graph));
        (r.is_whole_layer(graph), nodes * (r.instances.len() - 1), outputs, inputs, position(r.output))
    };
    let candidates = alike.values().filter_map(|ends| match ends[..] {
        [.., input, output] => Repetition::between(graph, input, output, ends),
        _ => None,
    });
    Ok(candidates.filter(|r| r.instances.len() > 1 && r.compute_nodes(graph) >= LEAST_NODES).max_by_key(score))
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
