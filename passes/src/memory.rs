//! The memory plan: a place for every stored value. One arena for each graph; its offsets and size are expressions of the
//! symbols, so values share bytes only where that is right for every value of every symbol. Paged caches lie outside, each
//! with its part of every page.

mod pack;

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::plan::{CachePlan, GraphPlan, KernelKind, PagePart, Place};
use lith_ir::{Dim, Graph, NodeId, Op, Program, Symbols, Type, Value};
use pack::pack;

use crate::cache::Caches;
use crate::calls::callees_first;
use crate::reads::{Stored, is_elementwise};
use crate::regions::{both_inner, in_region, live_range};
use crate::{Compiled, PassError};

/// Offsets are multiples of this many bytes: a cache line, and the widest vector.
pub const ALIGNMENT: i64 = 64;

pub(crate) fn run(compiled: &mut Compiled) -> Result<(), PassError> {
    let Compiled { program, plan, .. } = compiled;
    let caches = Caches::find(program)?;
    plan.cache = pages(program, &caches)?;
    // Called functions first: their arenas are part of their callers'.
    for name in callees_first(program)? {
        let arenas: BTreeMap<&str, Dim> = plan.graphs.iter().map(|(n, p)| (n.as_str(), p.arena.clone())).collect();
        let (Some(graph), Some(graph_plan)) = (program.graph(&name), plan.graphs.get(&name)) else {
            return Err(PassError::broken(&name, "no kernels"));
        };
        let mut next = graph_plan.clone();
        let in_pages = InPages { caches: &caches, name: &name };
        place(graph, &program.symbols, &arenas, in_pages, &mut next);
        plan.graphs.insert(name, next);
    }
    Ok(())
}

/// The parts of a page, in the order of the names of states.
fn pages(program: &Program, caches: &Caches) -> Result<Option<CachePlan>, PassError> {
    let (mut parts, mut end, mut pages) = (BTreeMap::new(), 0u64, None);
    for (name, &part) in &caches.states {
        let problem = |problem: &str| PassError::broken(&program.name, format!("state `{name}`: {problem}"));
        let ty = program.states.get(name).ok_or_else(|| problem("unknown"))?;
        let symbol =
            ty.shape.first().and_then(|d| d.symbols().into_iter().next()).ok_or_else(|| problem("no pages"))?;
        if *pages.get_or_insert(symbol.clone()) != symbol {
            return Err(problem("counts its pages apart from other states"));
        }
        let page = Type { dtype: ty.dtype, shape: ty.shape[1..].to_vec() };
        let bytes = page.bytes().as_const().and_then(|b| u64::try_from(b).ok()).ok_or_else(|| problem("no size"))?;
        parts.insert(name.clone(), PagePart { offset: end, bytes, part });
        let after = end.checked_add(bytes).and_then(|e| e.checked_next_multiple_of(ALIGNMENT as u64));
        end = after.ok_or_else(|| problem("pages too large"))?;
    }
    Ok(pages.map(|pages| CachePlan { pages, page_bytes: end, parts }))
}

/// The caches as one graph sees them.
#[derive(Clone, Copy)]
struct InPages<'a> {
    caches: &'a Caches,
    name: &'a str,
}

fn place(
    graph: &Graph,
    symbols: &Symbols,
    arenas: &BTreeMap<&str, Dim>,
    InPages { caches, name }: InPages<'_>,
    plan: &mut GraphPlan,
) {
    let stored = Stored::new(graph, &plan.kernels);
    let mut places = BTreeMap::new();
    plan.cache_args = caches.args.get(name).map(|args| args.keys().copied().collect()).unwrap_or_default();
    plan.in_place = caches.in_place.get(name).cloned().unwrap_or_else(|| vec![None; graph.results().len()]);
    for (i, (_, value)) in graph.results().iter().enumerate() {
        if plan.in_place.get(i).copied().flatten().is_none() {
            places.insert(stored.root(*value), Place::Result(i));
        }
    }
    for &value in stored.producer.keys().filter(|&&v| caches.contains(name, graph, v)) {
        if let Some(before) = caches.before(graph, value) {
            places.insert(value, Place::Alias(before));
        }
    }
    let inside: BTreeSet<NodeId> = plan.kernels.iter().flat_map(|k| &k.nodes).copied().collect();
    for id in graph.petgraph().node_indices() {
        let place = match &graph.node(id).op {
            Op::Arg { index, .. } => Place::Arg(*index),
            Op::Param { name, .. } => Place::Param(name.clone()),
            Op::Const { .. } => Place::Const,
            Op::StateRead { name, .. } | Op::StateWrite { name } => Place::State(name.clone()),
            Op::Reshape { .. } | Op::Slice { .. } | Op::Transpose { .. }
                if !stored.producer.contains_key(&id.into()) =>
            {
                match graph.operand(id, 0) {
                    // A reshape inside kernels may be all there is: then nothing else knows it.
                    Some(x) if !inside.contains(&id) => Place::Alias(x),
                    _ => continue,
                }
            }
            _ => continue,
        };
        places.insert(id.into(), place);
    }
    let mut blocks: Vec<Block> = stored
        .producer
        .keys()
        .filter(|v| !places.contains_key(v))
        .map(|&v| Block {
            what: What::Value(v),
            bytes: graph.ty(v).bytes(),
            live: live_range(plan, stored.live_range(v)),
        })
        .collect();
    for (i, kernel) in plan.kernels.iter().enumerate() {
        if let (KernelKind::Call { core }, Op::Call { function, .. }) = (&kernel.kind, &graph.node(kernel.nodes[0]).op)
        {
            let bytes = arenas.get(function.as_str()).cloned().unwrap_or_default();
            blocks.push(Block { what: What::Arena(*core), bytes, live: (i, i) });
        }
    }
    let in_place = |a: &Block, b: &Block| match (a.what, b.what) {
        (What::Value(v), What::Value(w)) => shares(graph, &stored, plan, v, w),
        _ => false,
    };
    let (offsets, arena) = pack(&blocks, symbols, &in_place);
    let mut call_arenas = BTreeMap::new();
    for (block, offset) in blocks.iter().zip(offsets) {
        match block.what {
            What::Value(v) => drop(places.insert(v, Place::Arena(offset))),
            What::Arena(call) => drop(call_arenas.insert(call, offset)),
        }
    }
    (plan.places, plan.arena, plan.call_arenas) = (places, arena, call_arenas);
}

/// Something that needs bytes of the arena.
struct Block {
    what: What,
    bytes: Dim,
    /// First and last kernel that need it.
    live: (usize, usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// A stored value.
    Value(Value),
    /// The arena of what this node calls.
    Arena(NodeId),
}

/// Whether two values may have the very same bytes although both are needed at one time: by one kernel, which reads one last
/// and stores the other, element by element at the index it reads; or by one region, to which both are inner, with rows of
/// one size, so that a thread has both in the same place, one after the other.
pub(crate) fn shares(graph: &Graph, stored: &Stored<'_>, plan: &GraphPlan, v: Value, w: Value) -> bool {
    let (a, b) = (stored.live_range(v), stored.live_range(w));
    let (old, new, at) = match (a.1 == b.0, b.1 == a.0) {
        (true, false) => (v, w, b.0),
        (false, true) => (w, v, a.0),
        (false, false) if a.1 < b.0 || b.1 < a.0 => {
            return both_inner(plan, v, w) && graph.ty(v).bytes() == graph.ty(w).bytes();
        }
        _ => return false,
    };
    let kernel = &plan.kernels[at];
    // Walks from the output along elementwise nodes, which are at its index; what reads `old`, or one of them,
    // outside that walk reads at another.
    let mut walked = BTreeSet::new();
    let mut stack = vec![new.node];
    while let Some(n) = stack.pop() {
        if is_elementwise(&graph.node(n).op) && kernel.nodes.contains(&n) && walked.insert(n) {
            stack.extend(graph.inputs(n).into_iter().map(|v| v.node));
        }
    }
    let elsewhere = |x: Value| walked.contains(&x.node) || stored.root(x) == old;
    let at_the_index = |n: &NodeId| walked.contains(n) || !graph.inputs(*n).into_iter().any(elsewhere);
    (both_inner(plan, v, w) || !in_region(plan, at))
        && kernel.kind == KernelKind::Loop
        && kernel.outputs == [new]
        && kernel.nodes.iter().all(|n| !matches!(graph.node(*n).op, Op::Reduce { .. }) && at_the_index(n))
        && graph.ty(old).elements() == graph.ty(new).elements()
        && graph.ty(old).dtype.size() == graph.ty(new).dtype.size()
}

/// A size at middling values of the symbols (256, within what is known of each), to compare what cannot be proved.
pub(crate) fn typical_bytes(size: &Dim, symbols: &Symbols) -> i128 {
    let value = |s: &lith_ir::Symbol| Some(symbols.get(s).map_or(256, |i| 256i64.clamp(i.min, i.max.max(i.min))));
    size.eval(&value).map_or(i128::MAX >> 32, i128::from)
}
