//! Takes out of every graph what follows from parameters and constants alone: it becomes a derived parameter of the program,
//! computed once when weights are packed. A function gets it as an argument and each call hands on its own, so repeated
//! layers stay one function. Parameters that nobody reads any more are no arguments any longer.
//!
//! What counts as known then, and which weights are left as they are stored, stands at [`crate::weights`]. A value that is
//! larger than what it is made of, such as a bias repeated for every row, is not taken out, but what is in it may be.

mod names;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lith_ir::{Class, Graph, GraphError, NodeId, Op, Program, Value};
use petgraph::visit::NodeIndexable;

use crate::calls::callees_first;
use crate::weights::{self, GraphWeights, Known, known_after};
use crate::{Compiled, Options, PassError};

pub(crate) fn run(compiled: &mut Compiled, options: &Options) -> Result<(), PassError> {
    let program = &mut compiled.program;
    // Functions first, then entry points in the order of their names, since values get their names there.
    let order = callees_first(program)?.into_iter().filter(|n| program.functions.contains_key(n));
    let order: Vec<String> = order.chain(program.entries.keys().cloned()).collect();
    // Taking values out of a graph does not change what those that call it are given, so it is found out once.
    let mut weights = weights::find(program, &options.stored, options.numeric);
    let mut derived = DerivedBySources::of(program);
    for name in order {
        let mut weights = weights.remove(&name).unwrap_or_default();
        // What reads a weight beside what is taken out keeps it: that is settled now.
        weights.settle();
        let in_graph = PassError::in_graph(&name);
        if let Some(graph) = program.functions.get(&name) {
            let taken = find(graph, &weights).map_err(&in_graph)?;
            if !taken.is_empty() {
                let (function, arguments) = from_function(graph, &taken).map_err(&in_graph)?;
                let body = graph.clone();
                for (caller, graph) in program.functions.iter_mut().chain(&mut program.entries) {
                    call_with(graph, &name, &body, &arguments).map_err(PassError::in_graph(caller))?;
                }
                program.functions.insert(name.clone(), function);
            }
        } else if let Some(graph) = program.entries.get(&name) {
            let taken = find(graph, &weights).map_err(&in_graph)?;
            let mut graph = graph.clone();
            for value in taken {
                from_entry(program, &mut derived, &mut graph, value).map_err(&in_graph)?;
            }
            graph.prune();
            program.entries.insert(name.clone(), graph);
        }
    }
    Ok(lith_ir::verify(program)?)
}

/// The values to take out, in the order of the graph.
fn find(graph: &Graph, weights: &GraphWeights) -> Result<Vec<Value>, GraphError> {
    let order = graph.topological()?;
    let mut known = vec![Known::Running; graph.petgraph().node_bound()];
    for &id in &order {
        let node = graph.node(id);
        let operands: Vec<Known> = graph.inputs(id).iter().map(|v| known[v.node.index()]).collect();
        let here = match (node.op.class(), &node.types[..]) {
            (Class::Source, _) => weights.source(&node.op),
            (_, [ty]) => known_after(&node.op, &operands, ty, weights.allowed),
            _ => Known::Running,
        };
        known[id.index()] = here;
    }
    let is_made = |id: NodeId| known[id.index()].weight().is_some() && graph.node(id).op.class() != Class::Source;
    let mut stack: Vec<NodeId> = Vec::new();
    for &id in order.iter().filter(|&&id| is_made(id)) {
        let read = graph.users(id.into()).iter().any(|(user, _)| known[user.index()].weight().is_none());
        if read || graph.results().iter().any(|(_, v)| v.node == id) {
            stack.push(id);
        }
    }
    let mut taken = BTreeSet::new();
    while let Some(id) = stack.pop() {
        let weight_of_linear =
            graph.users(id.into()).iter().any(|&(user, operand)| operand == 1 && graph.node(user).op == Op::Linear {});
        if weight_of_linear || elements(graph, id) <= sources(graph, id).iter().map(|&s| elements(graph, s)).sum() {
            taken.insert(id);
        } else {
            stack.extend(graph.inputs(id).iter().map(|v| v.node).filter(|&n| is_made(n)));
        }
    }
    Ok(order.into_iter().filter(|id| taken.contains(id)).map(Value::from).collect())
}

fn elements(graph: &Graph, id: NodeId) -> usize {
    let shape = graph.node(id).types.first().and_then(lith_ir::Type::static_shape);
    shape.map_or(0, |s| s.iter().fold(1, |a: usize, &d| a.saturating_mul(d)))
}

/// The parameters and arguments that a value is made of.
fn sources(graph: &Graph, id: NodeId) -> Vec<NodeId> {
    let (mut seen, mut stack) = (BTreeSet::new(), vec![id]);
    while let Some(n) = stack.pop() {
        if seen.insert(n) {
            stack.extend(graph.inputs(n).into_iter().map(|v| v.node));
        }
    }
    seen.into_iter().filter(|&n| matches!(graph.node(n).op, Op::Arg { .. } | Op::Param { .. })).collect()
}

/// Adds a value and what it is made of to another graph; `known` has what is there already.
fn copy(
    from: &Graph,
    value: Value,
    to: &mut Graph,
    known: &mut BTreeMap<Value, Value>,
    path: &str,
) -> Result<Value, GraphError> {
    if let Some(&there) = known.get(&value) {
        return Ok(there);
    }
    let mut operands = Vec::new();
    for operand in from.operands(value.node) {
        operands.push(operand.map(|v| copy(from, v, to, known, path)).transpose()?);
    }
    let node = from.node(value.node);
    let path = if path.is_empty() || node.path.is_empty() {
        format!("{path}{}", node.path)
    } else {
        format!("{path}.{}", node.path)
    };
    let new = Value { node: to.add_with(node.op.clone(), &operands, &path)?, result: value.result };
    known.insert(value, new);
    Ok(new)
}

/// What a call gives for an argument of a function that values were taken out of.
enum Argument {
    /// What it gave for the argument that had this index.
    Kept(usize),
    /// A value that the function computed before.
    Made(Value),
}

/// The function with arguments for what is taken out of it, and what each of its arguments is.
fn from_function(graph: &Graph, taken: &[Value]) -> Result<(Graph, Vec<Argument>), GraphError> {
    let mut left = graph.clone();
    let names: BTreeSet<String> = graph.args().iter().filter_map(|&a| arg_name(graph, a)).collect();
    let mut fresh: BTreeMap<NodeId, Value> = BTreeMap::new();
    for &value in taken {
        let parts = names_of(graph, value.node);
        let used =
            |n: &str| names.contains(n) || fresh.keys().any(|&a| arg_name(&left, a).is_some_and(|known| known == n));
        let name = names::of(&parts, used);
        let op = Op::Arg { index: graph.args().len() + fresh.len(), name, ty: graph.ty(value).clone() };
        let arg = left.add(op, &[], "")?;
        left.replace(value, arg);
        fresh.insert(arg.node, value);
    }
    left.prune();
    // Arguments are numbered anew without those that nothing reads.
    let stays = |&a: &NodeId| !left.users(a.into()).is_empty() || left.results().iter().any(|(_, v)| v.node == a);
    let kept: Vec<NodeId> = left.args().into_iter().filter(stays).collect();
    let mut known = BTreeMap::new();
    let (mut function, mut arguments) = (Graph::new(), Vec::new());
    for (index, &arg) in kept.iter().enumerate() {
        let Op::Arg { index: old, name, ty } = left.node(arg).op.clone() else { continue };
        let new = function.add(Op::Arg { index, name, ty }, &[], &left.node(arg).path)?;
        known.insert(arg.into(), new);
        arguments.push(fresh.get(&arg).map_or(Argument::Kept(old), |&v| Argument::Made(v)));
    }
    for node in left.topological()? {
        if matches!(left.node(node).op, Op::Arg { .. }) {
            continue;
        }
        let operands: Vec<Option<Value>> =
            left.operands(node).into_iter().map(|v| v.and_then(|v| known.get(&v).copied())).collect();
        let new = function.add_with(left.node(node).op.clone(), &operands, &left.node(node).path)?;
        for result in 0..left.node(node).types.len() as u32 {
            known.insert(Value { node, result }, Value { node: new, result });
        }
    }
    for (name, value) in left.results() {
        let value = known.get(value).ok_or(GraphError::NoSuchValue { path: name.clone(), operand: 0 })?;
        function.add_result(name, *value);
    }
    Ok((function, arguments))
}

fn arg_name(graph: &Graph, node: NodeId) -> Option<String> {
    match &graph.node(node).op {
        Op::Arg { name, .. } | Op::Param { name, .. } => Some(name.clone()),
        _ => None,
    }
}

/// Lets every call of a function, whose graph was `body`, give `arguments`.
fn call_with(graph: &mut Graph, function: &str, body: &Graph, arguments: &[Argument]) -> Result<(), GraphError> {
    let calls = graph
        .petgraph()
        .node_indices()
        .filter(|&n| matches!(&graph.node(n).op, Op::Call { function: called, .. } if called == function));
    for call in calls.collect::<Vec<_>>() {
        let (op, path) = (graph.node(call).op.clone(), graph.node(call).path.to_string());
        let given = graph.inputs(call);
        let mut known: BTreeMap<Value, Value> =
            body.args().into_iter().map(Value::from).zip(given.iter().copied()).collect();
        let mut operands = Vec::with_capacity(arguments.len());
        for argument in arguments {
            operands.push(match argument {
                Argument::Kept(index) => given.get(*index).copied(),
                Argument::Made(value) => Some(copy(body, *value, graph, &mut known, &path)?),
            });
        }
        let new = graph.add_with(op, &operands, &path)?;
        for result in 0..graph.node(call).types.len() as u32 {
            graph.replace(Value { node: call, result }, Value { node: new, result });
        }
        graph.remove(call);
    }
    graph.prune();
    Ok(())
}

/// The names of derived parameters by those of the parameters that they are made of.
struct DerivedBySources(HashMap<Vec<String>, Vec<String>>);

impl DerivedBySources {
    fn of(program: &Program) -> DerivedBySources {
        let mut known = DerivedBySources(HashMap::new());
        for (name, graph) in &program.derived {
            let parts = graph.results().first().map(|(_, value)| names_of(graph, value.node));
            known.made_of(&parts.unwrap_or_default()).push(name.clone());
        }
        known
    }

    fn made_of(&mut self, parts: &[String]) -> &mut Vec<String> {
        let mut parts = parts.to_vec();
        parts.sort_unstable();
        self.0.entry(parts).or_default()
    }
}

/// The names of what a value is made of.
fn names_of(graph: &Graph, id: NodeId) -> Vec<String> {
    sources(graph, id).into_iter().filter_map(|n| arg_name(graph, n)).collect()
}

/// Makes a value of an entry point a derived parameter; an equal one is it already.
fn from_entry(
    program: &mut Program,
    known: &mut DerivedBySources,
    graph: &mut Graph,
    value: Value,
) -> Result<(), GraphError> {
    let mut derived = Graph::new();
    let result = copy(graph, value, &mut derived, &mut BTreeMap::new(), "")?;
    derived.add_result("value", result);
    let parts = names_of(graph, value.node);
    let alike = known.made_of(&parts);
    let equal = alike.iter().find(|name| program.derived.get(*name).is_some_and(|known| same(known, &derived)));
    let name = match equal {
        Some(name) => name.clone(),
        None => {
            let name = names::of(&parts, |n| program.param_type(n).is_some());
            alike.push(name.clone());
            name
        }
    };
    let path = graph.node(value.node).path.to_string();
    let param = graph.add(Op::Param { name: name.clone(), ty: graph.ty(value).clone() }, &[], &path)?;
    graph.replace(value, param);
    program.derived.insert(name, derived);
    Ok(())
}

/// Whether two graphs were built by the same steps.
fn same(a: &Graph, b: &Graph) -> bool {
    let nodes = |g: &Graph| g.petgraph().node_indices().collect::<Vec<_>>();
    let (of_a, of_b) = (nodes(a), nodes(b));
    let alike = |(x, y): (&NodeId, &NodeId)| a.node(*x).op == b.node(*y).op && a.operands(*x) == b.operands(*y);
    a.results() == b.results() && of_a.len() == of_b.len() && of_a.iter().zip(&of_b).all(alike)
}
