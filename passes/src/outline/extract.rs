//! From a repetition to a function and its calls.

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::{Graph, GraphError, Op, Value};

use super::block::{Instance, Repetition, is_free};
use super::{common_prefix, is_number};

/// A function taken out of a graph.
pub(super) struct Extracted {
    /// Name of the function.
    pub name: String,
    /// The function; it may be one that the program had already.
    pub function: Graph,
    /// The graph with calls in place of the block.
    pub caller: Graph,
}

/// Makes the block a function. `None` when its values are so entwined with the rest that calls would wait for each other.
pub(super) fn extract(
    graph: &Graph,
    repetition: &Repetition,
    functions: &BTreeMap<String, Graph>,
    entries: &BTreeSet<String>,
) -> Result<Option<Extracted>, GraphError> {
    let Some(template) = repetition.instances.last() else { return Ok(None) };
    let (inputs, outputs) = (repetition.inputs(graph), repetition.outputs(graph));
    let layer = path_of(graph, template);
    let function = function(graph, template, &layer, &inputs, &outputs)?;
    let name = name(&layer, &function, functions, entries);

    let mut caller = graph.clone();
    let results: Vec<_> = outputs.iter().map(|v| graph.ty(*v).clone()).collect();
    let mut replaced: BTreeMap<Value, Value> = BTreeMap::new();
    for instance in &repetition.instances {
        let here = |v: &Value| instance.inputs.get(v).map(|v| *replaced.get(v).unwrap_or(v));
        let operands: Vec<Option<Value>> = inputs.iter().map(here).collect();
        let op = Op::Call { function: name.clone(), results: results.clone() };
        let call = caller.add_with(op, &operands, &path_of(graph, instance))?;
        for (result, value) in outputs.iter().enumerate() {
            let Some(&node) = instance.nodes.get(&value.node) else { continue };
            let old = Value { node, result: value.result };
            let new = Value { node: call, result: result as u32 };
            caller.replace(old, new);
            replaced.insert(old, new);
        }
    }
    caller.prune();
    Ok(caller.topological().is_ok().then_some(Extracted { name, function, caller }))
}

/// Where an occurrence stands in the model: what the paths of its nodes begin with.
fn path_of(graph: &Graph, instance: &Instance) -> String {
    let computing = instance.nodes.values().map(|&n| graph.node(n)).filter(|n| !is_free(&n.op));
    common_prefix(computing.map(|n| &*n.path))
}

/// The name of the layer without its number; the name of an equal function if there is one.
fn name(layer: &str, function: &Graph, functions: &BTreeMap<String, Graph>, entries: &BTreeSet<String>) -> String {
    let mut segments: Vec<&str> = layer.split('.').filter(|s| !s.is_empty()).collect();
    if segments.last().is_some_and(|s| is_number(s)) {
        segments.pop();
    }
    let base = if segments.is_empty() { "block".to_string() } else { segments.join(".") };
    let numbered = (2..).map(|i: usize| format!("{base}_{i}"));
    let free = |name: &String| !entries.contains(name) && functions.get(name).is_none_or(|f| same(f, function));
    std::iter::once(base.clone()).chain(numbered).find(free).unwrap_or(base)
}

/// Whether two graphs were built by the same steps.
pub(crate) fn same(a: &Graph, b: &Graph) -> bool {
    let nodes =
        |g: &Graph| -> Vec<_> { g.petgraph().node_indices().map(|n| (g.node(n).op.clone(), g.operands(n))).collect() };
    a.results() == b.results() && nodes(a) == nodes(b)
}

/// The template as a graph of its own. Names and paths are relative to the layer.
fn function(
    graph: &Graph,
    template: &Instance,
    layer: &str,
    inputs: &[Value],
    outputs: &[Value],
) -> Result<Graph, GraphError> {
    let mut function = Graph::new();
    let mut new: BTreeMap<Value, Value> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for (index, &input) in inputs.iter().enumerate() {
        let wanted = match &graph.node(input.node).op {
            Op::Param { name, .. } | Op::StateRead { name, .. } => relative(name, layer),
            Op::Arg { name, .. } => name.clone(),
            _ if index == 0 => "x".into(),
            _ => format!("x{index}"),
        };
        let name = if taken.contains(&wanted) { format!("{wanted}_{index}") } else { wanted };
        taken.insert(name.clone());
        let ty = graph.ty(input).clone();
        new.insert(input, function.add(Op::Arg { index, name, ty }, &[], "")?);
    }
    for node in graph.topological()?.into_iter().filter(|n| template.nodes.contains_key(n)) {
        let at = graph.node(node);
        let operands: Vec<Option<Value>> =
            graph.operands(node).into_iter().map(|v| v.and_then(|v| new.get(&v).copied())).collect();
        let path = at.path.strip_prefix(layer).map_or(&*at.path, |p| p.trim_start_matches('.'));
        let id = function.add_with(at.op.clone(), &operands, path)?;
        for result in 0..at.types.len() as u32 {
            new.insert(Value { node, result }, Value { node: id, result });
        }
    }
    for (i, output) in outputs.iter().enumerate() {
        if let Some(&value) = new.get(output) {
            function.add_result(&if i == 0 { "y".into() } else { format!("y{i}") }, value);
        }
    }
    function.prune();
    Ok(function)
}

/// What follows the layer in the name of one of its parameters or states, else the whole name.
fn relative(name: &str, layer: &str) -> String {
    let marker = format!("{layer}.");
    match name.find(&marker) {
        Some(at) if !layer.is_empty() && (at == 0 || name[..at].ends_with('.')) => name[at + marker.len()..].into(),
        _ => name.into(),
    }
}
