//! The verifier: what every program must satisfy before anything runs, prints or compiles it. Graphs built through
//! [`Graph::add_with`] have sound types by themselves; the rest (names that refer to other parts of the program,
//! arguments, results, symbols) is checked here, and types once more.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::Direction;
use petgraph::visit::EdgeRef;

use crate::dim::{Dim, Symbol};
use crate::graph::{Graph, NodeId, Use, Value};
use crate::infer::result_types;
use crate::op::{Class, Op};
use crate::program::Program;
use crate::types::Type;

/// What is wrong with a program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A node of a graph.
    #[error("graph `{graph}`, node {index} `{path}`: {op}: {problem}")]
    Node {
        /// Name of the graph.
        graph: String,
        /// The node's index in it.
        index: usize,
        /// The node's model path.
        path: String,
        /// Name of its op.
        op: &'static str,
        /// What was expected and found.
        problem: String,
    },
    /// A graph as a whole.
    #[error("graph `{graph}`: {problem}")]
    Graph {
        /// Name of the graph.
        graph: String,
        /// What was expected and found.
        problem: String,
    },
    /// Symbols, parameters or states.
    #[error("program `{program}`: {problem}")]
    Program {
        /// Name of the program.
        program: String,
        /// What was expected and found.
        problem: String,
    },
}

/// Words that a dimension or attribute may hold and which are no symbols.
const RESERVED: [&str; 6] = ["floor", "true", "false", "inf", "nan", "_"];

/// Whether a symbol may have this name: a letter or `_`, then letters, digits, `_` (all ASCII); no reserved word.
pub fn is_symbol_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !RESERVED.contains(&name)
        && name.parse::<crate::dtype::DType>().is_err()
}

/// Checks a program: symbols are known and sensible; constant sizes are not negative; parameters, states and functions
/// exist with the types their users say; derived parameters follow from parameters; functions take everything by argument and do not recurse; argument indices are
/// dense and unique; names of arguments and of results are unique; results exist; no cycles; types follow the rules.
///
/// # Errors
/// The first violation, in the order of the program's names.
pub fn verify(program: &Program) -> Result<(), VerifyError> {
    let error = |problem: String| VerifyError::Program { program: program.name.clone(), problem };
    for (symbol, info) in &program.symbols {
        if !is_symbol_name(symbol.name()) {
            return Err(error(format!("`{symbol}` is no name for a symbol")));
        }
        if info.min > info.max || info.multiple_of < 1 {
            return Err(error(format!(
                "symbol `{symbol}`: {}..={} in multiples of {} is no range",
                info.min, info.max, info.multiple_of
            )));
        }
    }
    for (what, types) in [("parameter", &program.params), ("state", &program.states)] {
        for (name, ty) in types {
            check_type(program, ty).map_err(|problem| error(format!("{what} `{name}`: {problem}")))?;
        }
    }
    if let Some(name) = program.functions.keys().find(|n| program.entries.contains_key(*n)) {
        return Err(error(format!("`{name}` is both a function and an entry point")));
    }
    for (name, graph) in &program.derived {
        if program.params.contains_key(name) {
            return Err(error(format!("parameter `{name}` is derived and given")));
        }
        verify_graph(program, name, graph, Kind::Derived)?;
    }
    for (name, graph) in &program.functions {
        verify_graph(program, name, graph, Kind::Function)?;
    }
    for (name, graph) in &program.entries {
        verify_graph(program, name, graph, Kind::Entry)?;
    }
    no_recursion(program)
}

fn check_dim(program: &Program, dim: &Dim) -> Result<(), String> {
    let unknown = |s: &Symbol| !program.symbols.contains_key(s);
    match dim.symbols().into_iter().find(unknown) {
        Some(symbol) => Err(format!("unknown symbol `{symbol}`")),
        None => Ok(()),
    }
}

fn check_type(program: &Program, ty: &Type) -> Result<(), String> {
    for dim in &ty.shape {
        check_dim(program, dim)?;
        if dim.as_const().is_some_and(|v| v < 0) {
            return Err(format!("negative size in {ty}"));
        }
    }
    Ok(())
}

/// What a graph is to its program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Derived,
    Function,
    Entry,
}

fn verify_graph(program: &Program, name: &str, graph: &Graph, kind: Kind) -> Result<(), VerifyError> {
    let graph_error = |problem: String| VerifyError::Graph { graph: name.into(), problem };
    graph.topological().map_err(|e| graph_error(e.to_string()))?;
    if kind == Kind::Derived {
        match graph.results() {
            [(_, value)] if graph.try_ty(*value).is_none_or(|ty| ty.static_shape().is_some()) => {}
            [_] => return Err(graph_error("a derived parameter without a fixed size".into())),
            results => return Err(graph_error(format!("a derived parameter of {} results", results.len()))),
        }
    }

    let mut args: BTreeMap<usize, &str> = BTreeMap::new();
    let mut arg_names: BTreeSet<&str> = BTreeSet::new();
    let mut written: BTreeSet<&str> = BTreeSet::new();
    for id in graph.petgraph().node_indices() {
        let node = graph.node(id);
        let error = |problem: String| VerifyError::Node {
            graph: name.into(),
            index: id.index(),
            path: node.path.to_string(),
            op: node.op.name(),
            problem,
        };
        check_node(program, graph, id, kind).map_err(error)?;
        match &node.op {
            Op::Arg { index, name, .. } => {
                if args.insert(*index, name).is_some() {
                    return Err(error(format!("two arguments of index {index}")));
                }
                if !arg_names.insert(name) {
                    return Err(error(format!("two arguments of name `{name}`")));
                }
            }
            Op::StateWrite { name } if !written.insert(name) => {
                return Err(error(format!("state `{name}` is written twice")));
            }
            _ => {}
        }
    }
    if let Some((missing, _)) = args.keys().enumerate().find(|(i, index)| i != *index) {
        return Err(graph_error(format!("no argument has index {missing}")));
    }
    let mut names = BTreeSet::new();
    for (result, value) in graph.results() {
        if graph.try_ty(*value).is_none() {
            return Err(graph_error(format!("result `{result}` is no value of the graph")));
        }
        if !names.insert(result) {
            return Err(graph_error(format!("two results of name `{result}`")));
        }
    }
    Ok(())
}

fn check_node(program: &Program, graph: &Graph, id: NodeId, kind: Kind) -> Result<(), String> {
    let node = graph.node(id);
    let edges = || graph.petgraph().edges_directed(id, Direction::Incoming);
    let most = edges().count() + node.op.operands().len();
    let mut types: Vec<Option<&Type>> = Vec::new();
    for e in edges() {
        let Use { result, operand } = *e.weight();
        let at = operand as usize;
        if at >= most {
            return Err("an operand beyond the row's last".into());
        }
        if types.len() <= at {
            types.resize(at + 1, None);
        }
        let ty = graph.try_ty(Value { node: e.source(), result });
        let ty = ty.ok_or_else(|| format!("operand {operand} is result {result} of a node"))?;
        if types[at].replace(ty).is_some() {
            return Err(format!("two values for operand {operand}"));
        }
    }
    let expected = result_types(&node.op, &types).map_err(|e| e.problem)?;
    if expected != node.types {
        return Err(format!("results are {}, expected {}", list(&node.types), list(&expected)));
    }
    for ty in &node.types {
        check_type(program, ty)?;
    }

    let declared = |what: &str, name: &str, found: Option<&Type>, ty: &Type| match found {
        _ if kind == Kind::Function => Err(format!("a function refers to {what} `{name}`; it must come by argument")),
        None => Err(format!("unknown {what} `{name}`")),
        Some(t) if t != ty => Err(format!("{what} `{name}` is {t}, not {ty}")),
        Some(_) => Ok(()),
    };
    match &node.op {
        Op::Param { name, ty } if kind == Kind::Derived => declared("parameter", name, program.params.get(name), ty),
        op if kind == Kind::Derived
            && (op.class() == Class::Control || matches!(op, Op::Arg { .. } | Op::Size { .. })) =>
        {
            Err("in a derived parameter, which follows from parameters alone".into())
        }
        Op::Param { name, ty } => declared("parameter", name, program.param_type(name), ty),
        Op::StateRead { name, ty } => declared("state", name, program.states.get(name), ty),
        Op::StateWrite { name } => declared("state", name, program.states.get(name), &node.types[0]),
        Op::Size { dim } => check_dim(program, dim),
        Op::Slice { start, stop, .. } => check_dim(program, start).and_then(|()| check_dim(program, stop)),
        Op::Call { function, .. } => {
            let callee = program.functions.get(function).ok_or_else(|| format!("unknown function `{function}`"))?;
            let wanted: Vec<&Type> = callee.args().iter().filter_map(|a| callee.node(*a).types.first()).collect();
            let given: Vec<&Type> = types.into_iter().flatten().collect();
            if wanted != given {
                return Err(format!("arguments {} to `{function}`, expected {}", list(given), list(wanted)));
            }
            let results: Vec<&Type> = callee.results().iter().filter_map(|(_, v)| callee.try_ty(*v)).collect();
            if results.iter().copied().ne(&node.types) {
                return Err(format!("results {} of `{function}`, which gives {}", list(&node.types), list(results)));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn list<'a>(types: impl IntoIterator<Item = &'a Type>) -> String {
    let types: Vec<String> = types.into_iter().map(ToString::to_string).collect();
    format!("({})", types.join(", "))
}

/// The functions a graph calls.
fn callees(graph: &Graph) -> BTreeSet<&str> {
    let called = |id: NodeId| match &graph.node(id).op {
        Op::Call { function, .. } => Some(function.as_str()),
        _ => None,
    };
    graph.petgraph().node_indices().filter_map(called).collect()
}

/// Takes away functions that call none but those already taken; a rest calls itself.
fn no_recursion(program: &Program) -> Result<(), VerifyError> {
    let mut left: BTreeMap<&str, BTreeSet<&str>> =
        program.functions.iter().map(|(n, g)| (n.as_str(), callees(g))).collect();
    loop {
        let ready: Vec<&str> =
            left.iter().filter(|(_, calls)| !calls.iter().any(|c| left.contains_key(c))).map(|(n, _)| *n).collect();
        if ready.is_empty() {
            break;
        }
        left.retain(|n, _| !ready.contains(n));
    }
    match left.keys().next() {
        Some(name) => {
            Err(VerifyError::Graph { graph: name.to_string(), problem: "the function calls itself in the end".into() })
        }
        None => Ok(()),
    }
}
