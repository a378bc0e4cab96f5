//! Why nodes look as they do: the rewrites of equality saturation that made them.

use std::fmt::Write;

use lith_ir::Program;
use lith_passes::saturate::Report;

use crate::compile::SATURATION_REPORT;
use crate::error::{Error, Result};
use lith_runtime::artifact::Artifact;
use lith_runtime::tokenizer::Assets;

/// The report that an artifact carries; empty when saturation changed nothing.
///
/// # Errors
/// When the report is damaged.
pub fn saturation_of(artifact: &Artifact) -> Result<Report> {
    match artifact.read(SATURATION_REPORT).map_err(|e| Error::io(artifact.path(), e))? {
        Some(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| Error::input(format!("{}: {SATURATION_REPORT}: {e}", artifact.path().display()))),
        None => Ok(Report::default()),
    }
}

/// Whether a path is `node` or lies below it; the name of a graph stands for all in it.
fn is_within(graph: &str, path: &str, node: &str) -> bool {
    let below = |whole: &str| whole.strip_prefix(node).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    graph == node || below(path) || below(&format!("{graph}.{path}"))
}

/// The rewrites that led to the nodes at path `node` or below it, each with its equation, and what its graph cost before
/// and after.
///
/// # Errors
/// When nothing of the program stands at this path.
pub fn explain(program: &Program, report: &Report, node: &str) -> Result<String> {
    let known = program.graphs().any(|(name, graph)| {
        graph.petgraph().node_weights().any(|n| is_within(name, &n.path, node))
            || report.rewrites.iter().any(|r| is_within(&r.graph, &r.path, node))
    });
    if !known {
        return Err(Error::input(format!(
            "--explain {node}: no node stands at this path; --format text shows all paths"
        )));
    }
    let mut out = String::new();
    for graph in &report.graphs {
        let rewrites: Vec<_> =
            report.rewrites.iter().filter(|r| r.graph == graph.graph && is_within(&r.graph, &r.path, node)).collect();
        if rewrites.is_empty() {
            continue;
        }
        let _ = writeln!(
            out,
            "{}: estimated {:.2} us in {} kernels before and {:.2} us in {} after equality saturation",
            graph.graph, graph.cost_before_us, graph.kernels_before, graph.cost_after_us, graph.kernels_after
        );
        for rewrite in rewrites {
            let _ = writeln!(out, "  {} at `{}`, {}", rewrite.rule, rewrite.path, rewrite.numeric);
            let _ = writeln!(out, "    {}", rewrite.equation);
        }
    }
    if out.is_empty() {
        let _ = writeln!(out, "no rewrite changed `{node}`");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lith_ir::{Builder, DType, Graph, Type};
    use lith_passes::saturate::{GraphReport, Rewrite};

    #[test]
    fn rewrites_are_found_by_path() {
        let mut graph = Graph::new();
        let mut b = Builder::new(&mut graph, "pooler.dense");
        let x = b.arg("x", Type::new(DType::F32, [2i64])).unwrap();
        graph.add_result("y", x);
        let mut program = Program::new("p");
        program.entries.insert("encode".into(), graph);
        let rewrite = |path: &str| Rewrite {
            rule: "neg-neg".into(),
            equation: "-(-x) = x".into(),
            numeric: "exact".into(),
            graph: "encode".into(),
            path: path.into(),
        };
        let costs = GraphReport {
            graph: "encode".into(),
            runs: 1,
            cost_before_us: 2.0,
            cost_after_us: 1.0,
            kernels_before: 2,
            kernels_after: 1,
            refused: false,
            nodes: 3,
            classes: 2,
            iterations: 1,
            stopped: "saturated".into(),
        };
        let rewrites = vec![rewrite("pooler.dense"), rewrite("pooler.dense_2")];
        let report = Report { graphs: vec![costs], rewrites, ..Report::default() };
        let text = explain(&program, &report, "pooler.dense").unwrap();
        assert!(text.contains("neg-neg at `pooler.dense`, exact") && text.contains("-(-x) = x"), "{text}");
        assert!(!text.contains("dense_2"), "{text}");
        assert_eq!(explain(&program, &report, "encode").unwrap().matches("neg-neg").count(), 2);
        assert!(explain(&program, &report, "nowhere").is_err());
        assert_eq!(explain(&program, &Report::default(), "pooler").unwrap(), "no rewrite changed `pooler`\n");
    }
}
