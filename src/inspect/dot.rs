//! A program as Graphviz source: one cluster for each graph, model paths on the nodes.

use std::fmt::Write;

use lith_ir::{Class, Graph, Op, Program};

/// Graphviz source of all graphs of a program.
pub fn dot(program: &Program) -> String {
    let mut out =
        String::from("digraph lith {\n  rankdir=TB; node [shape=box, fontname=\"monospace\", fontsize=10];\n");
    for (index, (name, graph)) in program.graphs().enumerate() {
        let _ = writeln!(out, "  subgraph cluster_{index} {{\n    label={};", quote(name));
        nodes(&mut out, index, graph);
        out.push_str("  }\n");
    }
    out.push_str("}\n");
    out
}

fn nodes(out: &mut String, index: usize, graph: &Graph) {
    let inner = graph.petgraph();
    for id in inner.node_indices() {
        let node = graph.node(id);
        let what = match &node.op {
            Op::Unary { f } => f.name().to_string(),
            Op::Binary { f } => f.name().to_string(),
            Op::Compare { f } => f.name().to_string(),
            Op::Activation { f } => f.name().to_string(),
            Op::Reduce { f, .. } => format!("reduce {}", f.name()),
            Op::Arg { name, .. } => format!("arg {name}"),
            Op::Param { name, .. } => format!("param {name}"),
            Op::Call { function, .. } => format!("call {function}"),
            other => other.name().to_string(),
        };
        let types: Vec<String> = node.types.iter().map(|t| t.to_string()).collect();
        let label = format!("{what}\n{}\n{}", types.join(", "), node.path);
        let shape = if node.op.class() == Class::Source { ", style=rounded" } else { "" };
        let _ = writeln!(out, "    n{index}_{} [label={}{shape}];", id.index(), quote(label.trim_end()));
    }
    for edge in inner.edge_indices() {
        if let Some((from, to)) = inner.edge_endpoints(edge) {
            let _ = writeln!(out, "    n{index}_{} -> n{index}_{};", from.index(), to.index());
        }
    }
    for (i, (name, value)) in graph.results().iter().enumerate() {
        let _ = writeln!(out, "    r{index}_{i} [label={}, style=bold];", quote(name));
        let _ = writeln!(out, "    n{index}_{} -> r{index}_{i};", value.node.index());
    }
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
