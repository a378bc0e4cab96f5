//! Activations computed again instead of kept from forward to backward, within a budget of memory (Chen et al. 2016).
//!
//! After outlining a layer is a call whose results are what the next layer takes and what only the backward of the layer
//! takes. The latter are kept until then, for every layer at once. Where they exceed the budget the call is made twice: forward
//! for what goes on, and again, as soon as the backward pass comes to it, for the rest. The second is another function, so
//! that no later stage finds the two equal, and it takes the gradient that arrives at the layer as an argument it has no use
//! for, so that it cannot run before. The first layers go first, since theirs are kept longest.

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::{Graph, GraphError, NodeId, Op, Program, Type, Value};
use petgraph::Direction;

use crate::differentiate::is_backward;
use crate::memory::typical_bytes;
use crate::outline::same;
use crate::{Compiled, Options, PassError};

pub(crate) fn run(compiled: &mut Compiled, options: &Options) -> Result<(), PassError> {
    let Some(budget) = options.activation_memory else { return Ok(()) };
    let program = &mut compiled.program;
    let names: Vec<String> = program.entries.keys().cloned().collect();
    for name in names {
        let Some(mut graph) = program.entries.remove(&name) else { continue };
        let done = within(program, &mut graph, i128::from(budget)).map_err(PassError::in_graph(&name));
        program.entries.insert(name, graph);
        done?;
    }
    let called: BTreeSet<String> = program.graphs().flat_map(|(_, g)| calls(g)).map(|(_, f)| f).collect();
    program.functions.retain(|name, _| called.contains(name));
    Ok(())
}

/// The calls of a graph and what they call.
fn calls(graph: &Graph) -> Vec<(NodeId, String)> {
    let called = |n: NodeId| match &graph.node(n).op {
        Op::Call { function, .. } => Some((n, function.clone())),
        _ => None,
    };
    graph.petgraph().node_indices().filter_map(called).collect()
}

/// Makes calls of an entry point twice until what is kept for the backward pass fits.
fn within(program: &mut Program, graph: &mut Graph, budget: i128) -> Result<(), GraphError> {
    let order = graph.topological()?;
    let mut layers = Vec::new();
    let mut kept = 0;
    for &node in order.iter().filter(|n| !is_backward(&graph.node(**n).path)) {
        let Op::Call { function, .. } = &graph.node(node).op else { continue };
        let late = late_results(graph, node);
        let bytes: i128 = late.iter().map(|&v| typical_bytes(&graph.ty(v).bytes(), &program.symbols)).sum();
        kept += bytes;
        layers.push((node, function.clone(), late, bytes));
    }
    for (node, function, late, bytes) in layers {
        if kept <= budget {
            break;
        }
        if bytes > 0 && make_twice(program, graph, node, &function, &late)? {
            kept -= bytes;
        }
    }
    Ok(())
}

/// The results of a call that something reads, but only on the way back.
fn late_results(graph: &Graph, call: NodeId) -> BTreeSet<Value> {
    let results = (0..graph.node(call).types.len() as u32).map(|result| Value { node: call, result });
    let late = |v: &Value| {
        let users = graph.users(*v);
        let given = graph.results().iter().any(|(_, r)| r == v);
        !given && !users.is_empty() && users.iter().all(|(user, _)| is_backward(&graph.node(*user).path))
    };
    results.filter(late).collect()
}

/// Splits a call into one forward and one for `late`. Whether that was possible.
fn make_twice(
    program: &mut Program,
    graph: &mut Graph,
    call: NodeId,
    function: &str,
    late: &BTreeSet<Value>,
) -> Result<bool, GraphError> {
    let Some(body) = program.functions.get(function) else { return Ok(false) };
    let is_late = |i: usize| late.contains(&Value { node: call, result: i as u32 });
    let types = graph.node(call).types.clone();
    let Some(after) = arriving(graph, late)? else { return Ok(false) };
    let (path, operands) = (graph.node(call).path.to_string(), graph.operands(call));

    let mut onward = body.clone();
    onward.retain_results(|i| !is_late(i));
    onward.prune();
    let mut again = body.clone();
    again.retain_results(is_late);
    again.prune();
    let waits = Op::Arg { index: again.args().len(), name: "after".into(), ty: graph.ty(after).clone() };
    again.add(waits, &[], "")?;

    let of = |late: bool| -> Vec<(usize, Type)> {
        types.iter().cloned().enumerate().filter(|(i, _)| is_late(*i) == late).collect()
    };
    let mut add = |suffix: &str, body: Graph, kept: Vec<(usize, Type)>, operands: &[Option<Value>], path: &str| {
        let name = free_name(program, &format!("{function}.{suffix}"), &body);
        let op = Op::Call { function: name.clone(), results: kept.iter().map(|(_, t)| t.clone()).collect() };
        program.functions.insert(name, body);
        let new = graph.add_with(op, operands, path)?;
        for (result, (old, _)) in kept.into_iter().enumerate() {
            graph.replace(Value { node: call, result: old as u32 }, Value { node: new, result: result as u32 });
        }
        Ok::<_, GraphError>(())
    };
    add("onward", onward, of(false), &operands, &path)?;
    let operands: Vec<Option<Value>> = operands.into_iter().chain([Some(after)]).collect();
    add("again", again, of(true), &operands, &crate::differentiate::backward(&path))?;
    graph.remove(call);
    Ok(true)
}

/// This name, numbered where another function or an entry point has it.
fn free_name(program: &Program, name: &str, body: &Graph) -> String {
    let numbered = (2..).map(|i: usize| format!("{name}_{i}"));
    let free = |n: &String| !program.entries.contains_key(n) && program.functions.get(n).is_none_or(|f| same(f, body));
    std::iter::once(name.to_string()).chain(numbered).find(free).unwrap_or_else(|| name.into())
}

/// The last value on the way back that a reader of `late` waits for anyway and that does not itself depend on `late`.
fn arriving(graph: &Graph, late: &BTreeSet<Value>) -> Result<Option<Value>, GraphError> {
    let users: BTreeSet<NodeId> = late.iter().flat_map(|&v| graph.users(v)).map(|(user, _)| user).collect();
    let (mut below, mut stack) = (BTreeSet::new(), users.iter().copied().collect::<Vec<NodeId>>());
    while let Some(n) = stack.pop() {
        if below.insert(n) {
            stack.extend(graph.petgraph().neighbors_directed(n, Direction::Outgoing));
        }
    }
    let position: BTreeMap<NodeId, usize> = graph.topological()?.into_iter().enumerate().map(|(i, n)| (n, i)).collect();
    let waited = users.iter().flat_map(|&n| graph.inputs(n));
    let outside = waited.filter(|v| !below.contains(&v.node) && is_backward(&graph.node(v.node).path));
    Ok(outside.max_by_key(|v| position.get(&v.node).copied()))
}
