//! 8-bit activations: what enters a linear layer of the chosen weights is rounded to 8 bits in groups, so that its
//! products are integers.

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::{DType, Graph, NodeId, Op, Value};

use crate::{Compiled, PassError};

/// Elements that share a scale: what the cores are made for.
pub const GROUP: usize = 32;

/// Rounds the activations of linear layers whose weight is one of `weights`.
pub(crate) fn run(compiled: &mut Compiled, weights: &BTreeSet<String>) -> Result<(), PassError> {
    if weights.is_empty() {
        return Ok(());
    }
    let program = &mut compiled.program;
    for (name, graph) in program.functions.iter_mut().chain(&mut program.entries) {
        // One rounding serves all layers that read a value.
        let mut rounded: BTreeMap<Value, Value> = BTreeMap::new();
        for node in graph.topological().map_err(PassError::in_graph(name))? {
            let Some(x) = activation(graph, node, weights) else { continue };
            let known = rounded.get(&x).copied();
            let y = match known {
                Some(y) => y,
                None => {
                    let path = graph.node(node).path.clone();
                    let op = Op::DynamicQuantize { group: GROUP };
                    let y = graph.add(op, &[x], &path).map_err(PassError::in_graph(name))?;
                    rounded.insert(x, y);
                    y
                }
            };
            let mut operands = graph.operands(node);
            operands[0] = Some(y);
            let path = graph.node(node).path.clone();
            let linear = graph.add_with(Op::Linear {}, &operands, &path).map_err(PassError::in_graph(name))?;
            graph.replace(node.into(), linear.into());
            graph.remove(node);
        }
    }
    Ok(())
}

/// What a linear layer of one of the weights reads.
fn activation(graph: &Graph, node: NodeId, weights: &BTreeSet<String>) -> Option<Value> {
    let Op::Linear {} = graph.node(node).op else { return None };
    let weight = graph.operand(node, 1)?;
    let x = graph.operand(node, 0)?;
    match &graph.node(weight.node).op {
        Op::Param { name, .. } if weights.contains(name) && graph.ty(x).dtype == DType::F32 => Some(x),
        _ => None,
    }
}
