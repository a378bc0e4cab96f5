//! Paged caches: which states lie in pages, which values of the graphs are their bytes, and which results of functions are
//! arguments changed in place. A paged cache has one version at a time: what `cache_append` gives is the bytes it was
//! given, so whoever reads the value from before reads the wrong one. [`Caches::find`] refuses programs that do.

use std::collections::BTreeMap;

use lith_ir::plan::PAGE_TOKENS;
use lith_ir::{CachePart, DType, Dim, Graph, NodeId, Op, Program, Type, Value};

use crate::PassError;

/// The paged caches of a program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caches {
    /// The states in pages with what they hold.
    pub states: BTreeMap<String, CachePart>,
    /// For each function the arguments that are such states.
    pub args: BTreeMap<String, BTreeMap<usize, CachePart>>,
    /// For each function and each of its results the argument whose bytes it is.
    pub in_place: BTreeMap<String, Vec<Option<usize>>>,
}

/// Where the bytes of a cache come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// A state of the program.
    State(String),
    /// An argument of the graph.
    Arg(usize),
}

/// What a user does with a cache.
enum Use {
    /// Puts tokens into it.
    Change,
    /// Reads it.
    Read,
    /// Writes it back to this state.
    Write(String),
    /// Something that knows nothing of pages.
    Other,
}

impl Caches {
    /// Finds the caches: states that are appended to or attended to, and what they become in functions.
    ///
    /// # Errors
    /// When such a state cannot lie in pages, is read by another op, read after it was changed, or changed and not written
    /// back.
    pub fn find(program: &Program) -> Result<Caches, PassError> {
        let mut caches = Caches::default();
        for (name, graph) in &program.functions {
            let mut args = BTreeMap::new();
            for (index, arg) in graph.args().into_iter().enumerate() {
                if let Some(part) = part_of(program, graph, arg.into()) {
                    args.insert(index, part);
                }
            }
            caches.args.insert(name.clone(), args);
        }
        for (name, graph) in &program.entries {
            for (state, reads) in state_reads(graph) {
                let Some(part) = reads.iter().find_map(|&n| part_of(program, graph, n.into())) else { continue };
                let ty = graph.ty(reads[0].into());
                if !fits_pages(ty, part) {
                    let problem =
                        format!("state `{state}` is {ty}, which has no place in pages of {PAGE_TOKENS} tokens");
                    return Err(PassError::broken(name, problem));
                }
                caches.states.insert(state, part);
            }
        }
        caches.settle(program);
        for (name, graph) in program.graphs() {
            caches.check(program, graph).map_err(|problem| PassError::broken(name, problem))?;
        }
        Ok(caches)
    }

    /// Takes away arguments that a call gives something else for, until what is left agrees with itself.
    fn settle(&mut self, program: &Program) {
        loop {
            self.find_in_place(program);
            let mut fallen = Vec::new();
            for (name, graph) in program.graphs() {
                for call in graph.petgraph().node_indices() {
                    let Some(function) = callee(graph, call) else { continue };
                    for (index, v) in graph.inputs(call).into_iter().enumerate() {
                        if self.arg(function, index).is_some() && self.origin(name, graph, v).is_none() {
                            fallen.push((function.to_string(), index));
                        }
                    }
                }
            }
            if fallen.is_empty() {
                return;
            }
            for (function, index) in fallen {
                self.args.entry(function).or_default().remove(&index);
            }
        }
    }

    /// The results of functions that are arguments; those of a function follow from those of what it calls.
    fn find_in_place(&mut self, program: &Program) {
        self.in_place.clear();
        loop {
            let before = self.in_place.clone();
            for (name, graph) in &program.functions {
                let origin = |&(_, v): &(String, Value)| match self.origin(name, graph, v) {
                    Some(Origin::Arg(index)) => Some(index),
                    _ => None,
                };
                let results = graph.results().iter().map(origin).collect();
                self.in_place.insert(name.clone(), results);
            }
            if self.in_place == before {
                return;
            }
        }
    }

    fn arg(&self, function: &str, index: usize) -> Option<CachePart> {
        self.args.get(function)?.get(&index).copied()
    }

    /// The cache whose bytes a value of graph `name` is, if it is one.
    pub fn origin(&self, name: &str, graph: &Graph, value: Value) -> Option<Origin> {
        match self.origin_in(graph, value)? {
            Origin::Arg(index) => self.arg(name, index).map(|_| Origin::Arg(index)),
            state => Some(state),
        }
    }

    /// [`Caches::origin`], any argument taken for a cache.
    fn origin_in(&self, graph: &Graph, mut value: Value) -> Option<Origin> {
        loop {
            match &graph.node(value.node).op {
                Op::StateRead { name, .. } => {
                    return self.states.contains_key(name).then(|| Origin::State(name.clone()));
                }
                Op::Arg { index, .. } => return Some(Origin::Arg(*index)),
                _ => value = self.before(graph, value)?,
            }
        }
    }

    /// The value whose bytes, changed in place, `value` is.
    pub fn before(&self, graph: &Graph, value: Value) -> Option<Value> {
        match &graph.node(value.node).op {
            Op::CacheAppend { .. } => graph.operand(value.node, 0),
            Op::Call { function, .. } => {
                let arg = self.in_place.get(function)?.get(value.result as usize).copied().flatten()?;
                graph.operand(value.node, arg)
            }
            _ => None,
        }
    }

    /// Whether a value of graph `name` is a paged cache.
    pub fn contains(&self, name: &str, graph: &Graph, value: Value) -> bool {
        self.origin(name, graph, value).is_some()
    }

    /// Whether the function puts tokens into this argument.
    fn changes(&self, program: &Program, function: &str, index: usize) -> bool {
        let Some(graph) = program.functions.get(function) else { return false };
        let Some(&arg) = graph.args().get(index) else { return false };
        graph.users(arg.into()).into_iter().any(|(n, operand)| match self.usage(program, graph, n, operand) {
            Use::Change => true,
            Use::Read | Use::Write(_) | Use::Other => false,
        })
    }

    fn usage(&self, program: &Program, graph: &Graph, node: NodeId, operand: usize) -> Use {
        match &graph.node(node).op {
            Op::CacheAppend { .. } if operand == 0 => Use::Change,
            Op::PagedAttention { .. } if attended(operand).is_some() => Use::Read,
            Op::StateWrite { name } => Use::Write(name.clone()),
            Op::Call { function, .. } if self.arg(function, operand).is_some() => {
                if self.changes(program, function, operand) { Use::Change } else { Use::Read }
            }
            _ => Use::Other,
        }
    }

    /// Holds every version of every cache of a graph against the rule that there is one at a time.
    fn check(&self, program: &Program, graph: &Graph) -> Result<(), String> {
        let name = program.graphs().find(|(_, g)| std::ptr::eq(*g, graph)).map_or("", |(n, _)| n);
        let is_entry = program.entries.contains_key(name);
        for id in graph.petgraph().node_indices() {
            for result in 0..graph.node(id).types.len() as u32 {
                let value = Value { node: id, result };
                let Some(origin) = self.origin(name, graph, value) else { continue };
                self.check_version(program, graph, value, &origin, is_entry)?;
            }
            self.check_attention(name, graph, id)?;
        }
        Ok(())
    }

    fn check_version(
        &self,
        program: &Program,
        graph: &Graph,
        value: Value,
        origin: &Origin,
        is_entry: bool,
    ) -> Result<(), String> {
        let cache = match origin {
            Origin::State(name) => format!("state `{name}`"),
            Origin::Arg(index) => format!("argument {index}"),
        };
        // Reads of one state in several nodes are one version.
        let users = match &graph.node(value.node).op {
            Op::StateRead { name, .. } => state_reads(graph).remove(name).unwrap_or_default(),
            _ => vec![value.node],
        };
        let users: Vec<(NodeId, usize)> =
            users.into_iter().flat_map(|node| graph.users(Value { node, ..value })).collect();
        let results = graph.results().iter().filter(|(_, v)| *v == value).count();
        if is_entry && results > 0 || results > 1 {
            return Err(format!("the cache of {cache} is a result"));
        }
        let at = |n: NodeId| format!("`{}` at `{}`", graph.node(n).op.name(), graph.node(n).path);
        let (mut changes, mut written) = (None, false);
        for &(node, operand) in &users {
            match self.usage(program, graph, node, operand) {
                Use::Change => changes = Some(node),
                Use::Write(name) if *origin == Origin::State(name.clone()) => written = true,
                Use::Read => {}
                Use::Write(_) | Use::Other => return Err(format!("{} reads the pages of {cache}", at(node))),
            }
        }
        let changed = self.before(graph, value).is_some();
        match changes {
            Some(node) if users.len() + results > 1 => {
                let (other, _) = users.iter().find(|(n, _)| *n != node).unwrap_or(&users[0]);
                Err(format!("{} changes {cache}, which {} reads as it was", at(node), at(*other)))
            }
            None if changed && !written && results == 0 => {
                Err(format!("{} changes {cache}, which is not written back", at(value.node)))
            }
            _ => Ok(()),
        }
    }

    /// A paged attention is over caches, all of them and in `f32`, or over none.
    fn check_attention(&self, name: &str, graph: &Graph, id: NodeId) -> Result<(), String> {
        if !matches!(graph.node(id).op, Op::PagedAttention { .. }) {
            return Ok(());
        }
        let operands = graph.operands(id).into_iter().enumerate();
        let caches = operands.filter(|(i, _)| attended(*i).is_some()).filter_map(|(_, v)| v);
        let caches: Vec<bool> = caches.map(|v| self.contains(name, graph, v)).collect();
        let paged = caches.iter().any(|&c| c);
        if paged && (graph.ty(id.into()).dtype != DType::F32 || caches.contains(&false)) {
            let ty = graph.ty(id.into());
            return Err(format!("`paged_attention` at `{}`: {ty} to a cache in pages and others", graph.node(id).path));
        }
        Ok(())
    }
}

/// What operand of a paged attention holds what.
fn attended(operand: usize) -> Option<CachePart> {
    match operand {
        1 => Some(CachePart::Keys),
        2 => Some(CachePart::Values),
        6 | 7 => Some(CachePart::Scales),
        _ => None,
    }
}

/// What a value is as a cache, by what is done with it first.
fn part_of(program: &Program, graph: &Graph, value: Value) -> Option<CachePart> {
    graph.users(value).into_iter().find_map(|(node, operand)| match &graph.node(node).op {
        Op::CacheAppend { part } if operand == 0 => Some(*part),
        Op::PagedAttention { .. } => attended(operand),
        Op::Call { function, .. } => {
            let callee = program.functions.get(function)?;
            part_of(program, callee, (*callee.args().get(operand)?).into())
        }
        _ => None,
    })
}

/// The reads of each state.
fn state_reads(graph: &Graph) -> BTreeMap<String, Vec<NodeId>> {
    let mut reads: BTreeMap<String, Vec<NodeId>> = BTreeMap::new();
    for id in graph.petgraph().node_indices() {
        if let Op::StateRead { name, .. } = &graph.node(id).op {
            reads.entry(name.clone()).or_default().push(id);
        }
    }
    reads
}

/// `[pages, PAGE_TOKENS, ..]` of a type that the kernels know.
fn fits_pages(ty: &Type, part: CachePart) -> bool {
    let dtype = match part {
        CachePart::Scales => ty.dtype == DType::F32,
        CachePart::Keys | CachePart::Values => {
            matches!(ty.dtype, DType::F32 | DType::F16 | DType::Bf16 | DType::I8)
        }
    };
    let [pages, page, rest @ ..] = &ty.shape[..] else { return false };
    let symbol = matches!(&pages.symbols()[..], [s] if Dim::symbol(s) == *pages);
    dtype && symbol && *page == Dim::from(PAGE_TOKENS) && rest.iter().all(|d| d.as_const().is_some())
}

fn callee(graph: &Graph, node: NodeId) -> Option<&str> {
    match &graph.node(node).op {
        Op::Call { function, .. } => Some(function),
        _ => None,
    }
}
