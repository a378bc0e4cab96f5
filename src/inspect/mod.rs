//! What a program is made of, for people and tools: counts, structure, operations, memory.

mod dot;
mod explain;
pub mod flops;
mod weights;

use std::collections::BTreeMap;
use std::fmt::Write;

use lith_ir::plan::PAGE_TOKENS;
use lith_ir::{Graph, Op, Program, Symbol, Type};
use serde::Serialize;

use crate::bench::Shape;

pub use dot::dot;
pub use explain::{explain, saturation_of};
pub use weights::{Stored, StoredWeights};

/// A program in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The program's name: the model type.
    pub name: String,
    /// The task it serves, when known.
    pub task: Option<String>,
    /// Number of parameter tensors.
    pub tensors: usize,
    /// Number of parameters.
    pub parameters: i64,
    /// Their size in bytes in the types the program computes with.
    pub parameter_bytes: i64,
    /// Entry points.
    pub entries: Vec<EntrySummary>,
    /// Functions: blocks that occur more than once.
    pub functions: Vec<FunctionSummary>,
    /// Batch and length that operations and memory are counted for.
    pub shape: String,
    /// Matrix-product and attention operations of one call of the first entry point.
    pub flops: Option<i64>,
    /// Bytes of the arena of one call, when the program has a memory plan.
    pub arena_bytes: Option<i64>,
    /// How an artifact's weights are stored.
    pub weights: StoredWeights,
}

/// An entry point in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct EntrySummary {
    /// Name.
    pub name: String,
    /// Arguments by name with their types.
    pub arguments: Vec<(String, String)>,
    /// Results by name with their types.
    pub results: Vec<(String, String)>,
    /// Nodes that compute.
    pub nodes: usize,
    /// Paths of the calls of each function.
    pub calls: BTreeMap<String, Vec<String>>,
}

/// A function in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct FunctionSummary {
    /// Name.
    pub name: String,
    /// Nodes that compute.
    pub nodes: usize,
    /// How often entry points and functions call it.
    pub calls: usize,
}

/// The values of a model's symbols for a batch of equal lengths.
pub fn symbol_value(shape: Shape) -> impl Fn(&Symbol) -> Option<i64> {
    move |symbol| match symbol.name() {
        "tokens" => i64::try_from(shape.batch.checked_mul(shape.length)?).ok(),
        "sequences" | "batch" | "outputs" => i64::try_from(shape.batch).ok(),
        "table" => i64::try_from(shape.length.div_ceil(PAGE_TOKENS)).ok(),
        "page_count" => i64::try_from(shape.batch.checked_mul(shape.length.div_ceil(PAGE_TOKENS))?).ok(),
        "seq" => i64::try_from(shape.length).ok(),
        _ => None,
    }
}

fn named_types<'a>(items: impl Iterator<Item = (&'a str, &'a Type)>) -> Vec<(String, String)> {
    items.map(|(name, ty)| (name.to_string(), ty.to_string())).collect()
}

fn calls(graph: &Graph) -> BTreeMap<String, Vec<String>> {
    let mut calls: BTreeMap<String, Vec<String>> = BTreeMap::new();
    // In the order of execution; a graph without one was refused before.
    for id in graph.topological().unwrap_or_default() {
        let node = graph.node(id);
        if let Op::Call { function, .. } = &node.op {
            calls.entry(function.clone()).or_default().push(node.path.to_string());
        }
    }
    calls
}

impl Summary {
    /// The numbers of a program.
    pub fn new(program: &Program, task: Option<String>, shape: Shape, arena_bytes: Option<i64>) -> Summary {
        let count = |ty: &Type| ty.elements().as_const().unwrap_or(0);
        let entries: Vec<EntrySummary> = program
            .entries
            .iter()
            .map(|(name, graph)| {
                let args = graph.args();
                let arguments = args.iter().filter_map(|&n| match &graph.node(n).op {
                    Op::Arg { name, ty, .. } => Some((name.as_str(), ty)),
                    _ => None,
                });
                EntrySummary {
                    name: name.clone(),
                    arguments: named_types(arguments),
                    results: named_types(graph.results().iter().map(|(n, v)| (n.as_str(), graph.ty(*v)))),
                    nodes: graph.compute_nodes(),
                    calls: calls(graph),
                }
            })
            .collect();
        let call_count = |function: &str| -> usize {
            program.graphs().map(|(_, g)| calls(g).get(function).map_or(0, Vec::len)).sum()
        };
        let functions = program.functions.iter().map(|(name, graph)| FunctionSummary {
            name: name.clone(),
            nodes: graph.compute_nodes(),
            calls: call_count(name),
        });
        let first = program.entries.values().next();
        Summary {
            name: program.name.clone(),
            task,
            tensors: program.params.len(),
            parameters: program.params.values().map(count).sum(),
            parameter_bytes: program.params.values().map(|t| count(t) * t.dtype.size() as i64).sum(),
            functions: functions.collect(),
            shape: shape.to_string(),
            flops: first.and_then(|g| flops::flops(program, g).at(shape.batch as i64, shape.length as i64)),
            arena_bytes,
            weights: StoredWeights::default(),
            entries,
        }
    }

    /// The numbers as text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let task = self.task.as_ref().map_or(String::new(), |t| format!(" for {t}"));
        let _ = writeln!(out, "{}{task}", self.name);
        let _ = writeln!(
            out,
            "parameters  {} in {} tensors, {}",
            thousands(self.parameters),
            self.tensors,
            bytes(self.parameter_bytes)
        );
        out += &self.weights.text();
        for entry in &self.entries {
            let _ = writeln!(out, "entry       {} ({} nodes)", entry.name, entry.nodes);
            for (name, ty) in &entry.arguments {
                let _ = writeln!(out, "  takes     {name}: {ty}");
            }
            for (name, ty) in &entry.results {
                let _ = writeln!(out, "  gives     {name}: {ty}");
            }
            for (function, paths) in &entry.calls {
                let _ = writeln!(out, "  calls     {} times `{function}`: {}", paths.len(), paths.join(", "));
            }
        }
        for f in &self.functions {
            let _ = writeln!(out, "function    {} ({} nodes, {} calls)", f.name, f.nodes, f.calls);
        }
        if let Some(flops) = self.flops {
            let _ = writeln!(out, "operations  {:.3} GFLOP for {}", flops as f64 / 1e9, self.shape);
        }
        if let Some(arena) = self.arena_bytes {
            let _ = writeln!(out, "memory      {} arena for {}", bytes(arena), self.shape);
        }
        out
    }
}

fn thousands(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    if n < 0 { format!("-{out}") } else { out }
}

fn bytes(n: i64) -> String {
    match n as f64 {
        n if n >= 1e9 => format!("{:.2} GB", n / 1e9),
        n if n >= 1e6 => format!("{:.1} MB", n / 1e6),
        n if n >= 1e3 => format!("{:.1} kB", n / 1e3),
        n => format!("{n} bytes"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_readable() {
        assert_eq!(super::thousands(22_713_216), "22,713,216");
        assert_eq!(super::thousands(999), "999");
        assert_eq!(super::bytes(90_852_864), "90.9 MB");
    }
}
