//! Simplification that never changes a bit of a result: dead nodes, equal nodes, rewrites by equation ([`rules`]) and
//! folding of constants. Runs to a fixed point; same graph, same result.

mod common;

use lith_ir::Graph;

use crate::{Compiled, PassError};

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
        if !changed {
            return Ok(());
        }
    }
}
