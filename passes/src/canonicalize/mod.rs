//! Simplification that never changes a bit of a result: dead nodes, equal nodes, rewrites by equation (one table of rules) and
//! folding of constants. Runs to a fixed point; same graph, same result.

mod common;
mod fold;
mod rules;

use lith_ir::{Graph, GraphError, Op};

use crate::{Compiled, PassError};
pub(crate) use rules::holds;

pub(crate) fn run(compiled: &mut Compiled) -> Result<(), PassError> {
    let program = &mut compiled.program;
    for (name, graph) in program.functions.iter_mut().chain(&mut program.entries) {
        simplify(name, graph)?;
    }
    Ok(())
}

/// Simplifies one graph until nothing changes.
pub(crate) fn simplify(name: &str, graph: &mut Graph) -> Result<(), PassError> {
    let in_graph = PassError::in_graph(name);
    loop {
        let changed = common::merge_equal(graph).map_err(&in_graph)?;
        graph.prune();
        if !rewrite(name, graph).map_err(&in_graph)? && !changed {
            return Ok(());
        }
        graph.prune();
    }
}

/// Applies the first rule that fits to every node, operands before users. Whether any did.
fn rewrite(name: &str, graph: &mut Graph) -> Result<bool, GraphError> {
    let mut changed = false;
    for node in graph.topological()? {
        // There may be thousands of parameters.
        if matches!(graph.node(node).op, Op::Param { .. } | Op::Arg { .. } | Op::Const { .. }) {
            continue;
        }
        for (rule, apply) in rules::RULES {
            if let Some(value) = apply(graph, node)? {
                tracing::trace!(graph = name, path = &*graph.node(node).path, rule, "rewritten");
                graph.replace(node.into(), value);
                changed = true;
                break;
            }
        }
    }
    Ok(changed)
}
