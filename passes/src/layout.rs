//! How weights lie in memory: in panels where a contraction reads them, row-major where anything else does. A parameter
//! that is read both ways is kept both ways.

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::plan::{GraphPlan, Layout};
use lith_ir::{Graph, NodeId, Op, Value};

use crate::{Compiled, PassError};

pub(crate) fn run(compiled: &mut Compiled) -> Result<(), PassError> {
    let Compiled { program, plan } = compiled;
    // Legalization has made sure that an argument is read in one way only, so it has a layout without its callers; one
    // that a function only hands on has the layout of the called function's argument.
    let mut arg_layouts: BTreeMap<String, Vec<Layout>> = BTreeMap::new();
    for (name, graph) in program.graphs() {
        arg_layouts.insert(name.into(), vec![Layout::Rows; graph.args().len()]);
    }
    let mut layouts: BTreeMap<String, BTreeSet<Layout>> = BTreeMap::new();
    loop {
        let before = arg_layouts.clone();
        for (name, graph) in program.graphs() {
            let Some(graph_plan) = plan.graphs.get(name) else { continue };
            for (value, layout) in uses(graph, graph_plan, &before) {
                match &graph.node(value.node).op {
                    Op::Param { name, .. } => {
                        layouts.entry(name.clone()).or_default().insert(layout);
                    }
                    Op::Arg { index, .. } if layout == Layout::Panels => {
                        if let Some(l) = arg_layouts.get_mut(name).and_then(|l| l.get_mut(*index)) {
                            *l = layout;
                        }
                    }
                    _ => {}
                }
            }
        }
        if arg_layouts == before {
            break;
        }
        layouts.clear();
    }
    for (name, layouts) in arg_layouts {
        if let Some(graph_plan) = plan.graphs.get_mut(&name) {
            graph_plan.arg_layouts = layouts;
        }
    }
    plan.layouts = layouts.into_iter().map(|(name, set)| (name, set.into_iter().collect())).collect();
    Ok(())
}

/// Every read of a source with the layout the reader takes it in.
fn uses(graph: &Graph, plan: &GraphPlan, args: &BTreeMap<String, Vec<Layout>>) -> Vec<(Value, Layout)> {
    let computed: BTreeSet<NodeId> = plan.kernels.iter().flat_map(|k| &k.nodes).copied().collect();
    let mut uses = Vec::new();
    // Reshapes in no kernel are names of their operand, so they count as readers of rows.
    let aliases = graph.petgraph().node_indices().filter(|n| !computed.contains(n));
    for node in computed.iter().copied().chain(aliases) {
        for (position, value) in graph.operands(node).into_iter().enumerate() {
            let Some(value) = value else { continue };
            let layout = match &graph.node(node).op {
                // Every `linear` that legalization leaves is the core of a contraction.
                Op::Linear {} if position == 1 => Layout::Panels,
                Op::Call { function, .. } => {
                    args.get(function).and_then(|l| l.get(position)).copied().unwrap_or(Layout::Rows)
                }
                _ => Layout::Rows,
            };
            uses.push((value, layout));
        }
    }
    uses
}
