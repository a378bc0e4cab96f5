//! How weights lie in memory: in panels where a contraction or an embedding reads them, row-major where anything else
//! does. A product that sums over the outputs of a weight reads the panels that are there for a contraction. A parameter that
//! is read both ways is kept both ways.

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::plan::{KernelKind, Layout};
use lith_ir::{Graph, NodeId, Op, Program, Value};

use crate::legalize::{packable_args, takes_panels};
use crate::weights::{leaves, params_of};
use crate::{Compiled, Options, PassError};

pub(crate) fn run(compiled: &mut Compiled, options: &Options) -> Result<(), PassError> {
    let Compiled { program, plan, .. } = compiled;
    let embeddings: BTreeSet<(&str, NodeId)> = plan
        .graphs
        .iter()
        .flat_map(|(name, p)| p.kernels.iter().map(move |k| (name.as_str(), &k.kind)))
        .filter_map(|(name, kind)| match kind {
            KernelKind::Embedding { core } => Some((name, *core)),
            _ => None,
        })
        .collect();
    let embeds = |name: &str, node: NodeId| embeddings.contains(&(name, node));
    let (leaves, packable) = (leaves(program), packable_args(program)?);
    let there = Layouts::find(program, &embeds, &|_| false, &options.packed_tables);
    let in_panels = |param: &str| there.params.get(param).is_some_and(|l| l.contains(&Layout::Panels));
    let across = |read: &Read<'_>| {
        let source = &read.graph.node(read.value.node).op;
        let alone = match source {
            Op::Arg { index, .. } => packable.get(read.name).is_some_and(|args| args.contains(index)),
            _ => true,
        };
        alone && params_of(read.name, source, &leaves).is_some_and(|params| params.iter().all(|p| in_panels(p)))
    };
    let found = Layouts::find(program, &embeds, &across, &options.packed_tables);
    drop((embeddings, there, leaves));
    if let Some((graph, problem)) = found.unpacked {
        return Err(PassError::broken(&graph, problem));
    }
    for (name, layouts) in found.args {
        if let Some(graph_plan) = plan.graphs.get_mut(&name) {
            graph_plan.arg_layouts = layouts;
        }
    }
    let mut layouts = found.params;
    // What a state begins with.
    for name in program.states.keys().filter(|name| program.params.contains_key(*name)) {
        layouts.entry(name.clone()).or_default().insert(Layout::Rows);
    }
    plan.layouts = layouts.into_iter().map(|(name, set)| (name, set.into_iter().collect())).collect();
    Ok(())
}

/// The parameters that some contraction reads.
pub(crate) fn contracted(program: &Program) -> BTreeSet<String> {
    let found = Layouts::find(program, &|_, _| false, &|_| false, &BTreeSet::new());
    found.params.into_iter().filter(|(_, layouts)| layouts.contains(&Layout::Panels)).map(|(name, _)| name).collect()
}

/// A value that a node of a graph reads.
struct Read<'a> {
    /// Name of the graph.
    name: &'a str,
    graph: &'a Graph,
    value: Value,
}

/// What the readers of weights want.
#[derive(Default)]
struct Layouts {
    /// By graph. Legalization has made sure that an argument is read in one way only, so it has a layout without its
    /// callers; one that a function only hands on has the layout of the called function's argument.
    args: BTreeMap<String, Vec<Layout>>,
    params: BTreeMap<String, BTreeSet<Layout>>,
    /// A read of the rows of a parameter that lies in panels only: the graph, and what is wrong.
    unpacked: Option<(String, String)>,
}

impl Layouts {
    /// `embeds` tells which nodes of which graphs gather from panels, `across` which of the products that could read panels
    /// do, `packed` has the parameters that lie in panels only.
    fn find(
        program: &Program,
        embeds: &dyn Fn(&str, NodeId) -> bool,
        across: &dyn Fn(&Read<'_>) -> bool,
        packed: &BTreeSet<String>,
    ) -> Layouts {
        let rows = |(name, graph): (&str, &Graph)| (name.to_string(), vec![Layout::Rows; graph.args().len()]);
        let mut found = Layouts { args: program.graphs().map(rows).collect(), ..Layouts::default() };
        loop {
            let before = found.args.clone();
            for (name, graph) in program.graphs() {
                found.read(name, graph, &before, embeds, across, packed);
            }
            if found.args == before {
                return found;
            }
            found = Layouts { args: found.args, ..Layouts::default() };
        }
    }

    /// Every read of a source in a graph. Reshapes in no kernel are names of their operand, so they count as readers of
    /// rows.
    fn read(
        &mut self,
        name: &str,
        graph: &Graph,
        args: &BTreeMap<String, Vec<Layout>>,
        embeds: &dyn Fn(&str, NodeId) -> bool,
        across: &dyn Fn(&Read<'_>) -> bool,
        packed: &BTreeSet<String>,
    ) {
        for node in graph.petgraph().node_indices() {
            for (position, value) in graph.operands(node).into_iter().enumerate() {
                let Some(value) = value else { continue };
                let layout = match &graph.node(node).op {
                    // Every `linear` that legalization leaves is the core of a contraction.
                    Op::Linear {} if position == 1 => Layout::Panels,
                    Op::Dot { .. } if takes_panels(graph, node, position) && across(&Read { name, graph, value }) => {
                        Layout::Panels
                    }
                    Op::Gather { .. } if position == 0 && embeds(name, node) => Layout::Panels,
                    Op::Call { function, .. } => {
                        args.get(function).and_then(|l| l.get(position)).copied().unwrap_or(Layout::Rows)
                    }
                    _ => Layout::Rows,
                };
                match &graph.node(value.node).op {
                    Op::Param { name: param, .. } => {
                        self.params.entry(param.clone()).or_default().insert(layout);
                        if layout == Layout::Rows && self.unpacked.is_none() && packed.contains(param) {
                            let reader = graph.node(node);
                            let reads = format!("`{}` at `{}` reads", reader.op.name(), reader.path);
                            let problem = format!("{reads} the rows of `{param}`, which is packed");
                            self.unpacked = Some((name.into(), problem));
                        }
                    }
                    Op::Arg { index, .. } if layout == Layout::Panels => {
                        if let Some(l) = self.args.get_mut(name).and_then(|l| l.get_mut(*index)) {
                            *l = layout;
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}
