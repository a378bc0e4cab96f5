//! Which graphs call which. Knows nothing of what is in them.

use std::collections::BTreeSet;

use lith_ir::{Op, Program};

use crate::PassError;

/// Names of all graphs, each after those it calls.
pub(crate) fn callees_first(program: &Program) -> Result<Vec<String>, PassError> {
    let mut order: Vec<String> = Vec::new();
    let mut left: BTreeSet<&str> = program.graphs().map(|(n, _)| n).collect();
    while !left.is_empty() {
        let calls_left = |name: &&&str| {
            program.graph(name).is_some_and(|g| {
                g.petgraph().node_weights().any(|n| match &n.op {
                    Op::Call { function, .. } => left.contains(function.as_str()),
                    _ => false,
                })
            })
        };
        let Some(&next) = left.iter().find(|n| !calls_left(n)) else {
            return Err(PassError::broken(left.first().unwrap_or(&""), "functions call each other"));
        };
        left.remove(next);
        order.push(next.to_string());
    }
    Ok(order)
}
