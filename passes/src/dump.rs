//! Text of plans, for people: kernels and the memory plan.

use std::fmt::{self, Write};

use lith_ir::plan::{GraphPlan, KernelKind, Place};
use lith_ir::{Dim, Graph, Symbol, Value};

use crate::Compiled;
use crate::reads::Stored;

/// The kernels of every graph, one a line: number, kind, ops with the paths they stand at, places of the outputs.
pub fn kernels(compiled: &Compiled) -> String {
    let mut text = String::new();
    for (name, plan) in &compiled.plan.graphs {
        let Some(graph) = compiled.program.graph(name) else { continue };
        let _ = writeln!(text, "{name}: {} kernels", plan.kernels.len());
        for (i, kernel) in plan.kernels.iter().enumerate() {
            let kind = kernel.kind.name();
            let _ = write!(text, "  {i:>3} {kind:<11}");
            let mut path = "";
            for &n in &kernel.nodes {
                let node = graph.node(n);
                if *node.path != *path {
                    path = &node.path;
                    let _ = write!(text, " @{path}");
                }
                let _ = write!(text, " {}", op_name(graph, n.into()));
            }
            for &v in &kernel.outputs {
                let _ = write!(text, " -> {}", graph.ty(v));
                if let Some(place) = plan.places.get(&v) {
                    let _ = write!(text, " {}", Shown(origin(plan, place)));
                }
            }
            text.push('\n');
        }
        for region in &plan.regions {
            let (first, last) = (region.kernels.start, region.kernels.end - 1);
            let _ =
                writeln!(text, "  {first} to {last} by rows of {}, {} values inner", region.rows, region.inner.len());
        }
    }
    text
}

/// The function of an elementwise op or reduction, else the op's name.
fn op_name(graph: &Graph, value: Value) -> &'static str {
    use lith_ir::Op;
    match graph.node(value.node).op {
        Op::Unary { f } => f.name(),
        Op::Binary { f } => f.name(),
        Op::Compare { f } => f.name(),
        Op::Reduce { f, .. } => f.name(),
        ref op => op.name(),
    }
}

struct Shown<'a>(&'a Place);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Place::Arena(offset) => write!(f, "arena[{offset}]"),
            Place::Arg(i) => write!(f, "arg {i}"),
            Place::Result(i) => write!(f, "result {i}"),
            Place::Param(name) => write!(f, "param {name}"),
            Place::Const => f.write_str("const"),
            Place::State(name) => write!(f, "state {name}"),
            Place::Alias(v) => write!(f, "alias of node {}", v.node.index()),
        }
    }
}

/// The place of the bytes that a place is another name of.
fn origin<'a>(plan: &'a GraphPlan, mut place: &'a Place) -> &'a Place {
    while let Place::Alias(v) = place {
        match plan.places.get(v) {
            Some(next) => place = next,
            None => break,
        }
    }
    place
}

/// A block of an arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Where the value comes from: node path and op, or the called function's name.
    pub what: String,
    /// Size in bytes.
    pub bytes: Dim,
    /// Offset in the arena in bytes.
    pub offset: Dim,
    /// First and last kernel that need it.
    pub live: (usize, usize),
}

/// The blocks of a graph's arena by first kernel.
pub fn slots(graph: &Graph, plan: &GraphPlan, arenas: &dyn Fn(&str) -> Dim) -> Vec<Slot> {
    let stored = Stored::new(graph, &plan.kernels);
    let mut slots = Vec::new();
    for (&value, place) in &plan.places {
        let Place::Arena(offset) = place else { continue };
        let path = &graph.node(value.node).path;
        slots.push(Slot {
            what: format!("{path}{}{}", if path.is_empty() { "" } else { " " }, op_name(graph, value)),
            bytes: graph.ty(value).bytes(),
            offset: offset.clone(),
            live: stored.live_range(value),
        });
    }
    for (i, kernel) in plan.kernels.iter().enumerate() {
        let KernelKind::Call { core } = kernel.kind else { continue };
        let (Some(offset), lith_ir::Op::Call { function, .. }) = (plan.call_arenas.get(&core), &graph.node(core).op)
        else {
            continue;
        };
        let what = format!("{} arena of {function}", graph.node(core).path);
        slots.push(Slot { what, bytes: arenas(function), offset: offset.clone(), live: (i, i) });
    }
    slots.sort_by_key(|s| (s.live, s.what.clone()));
    slots
}

/// The memory plan: for each graph its arena with size and blocks, with values of the symbols also in bytes, and what is
/// changed in place; then the pages of caches.
pub fn memory(compiled: &Compiled, value_of: &dyn Fn(&Symbol) -> Option<i64>) -> String {
    let mut text = String::new();
    let shown = |d: &Dim| match (d.as_const(), d.eval(value_of)) {
        (None, Ok(v)) => format!("{d} = {v}"),
        _ => d.to_string(),
    };
    for (name, plan) in &compiled.plan.graphs {
        let Some(graph) = compiled.program.graph(name) else { continue };
        let _ = writeln!(text, "{name}: arena of {} bytes", shown(&plan.arena));
        let arena = |f: &str| compiled.plan.graphs.get(f).map(|p| p.arena.clone()).unwrap_or_default();
        for slot in slots(graph, plan, &arena) {
            let (from, to) = slot.live;
            let _ = writeln!(
                text,
                "  {from:>3}..{to:<3} at {} size {}  {}",
                shown(&slot.offset),
                shown(&slot.bytes),
                slot.what
            );
        }
        for (result, arg) in plan.in_place.iter().enumerate() {
            if let Some(arg) = arg {
                let _ = writeln!(text, "  result {result} is arg {arg}");
            }
        }
    }
    if let Some(cache) = &compiled.plan.cache {
        let _ = writeln!(text, "{} pages of {} bytes", cache.pages, cache.page_bytes);
        for (name, part) in &cache.parts {
            let _ = writeln!(text, "  {name} at {} size {} {}", part.offset, part.bytes, part.part.name());
        }
    }
    text
}
