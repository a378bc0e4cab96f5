//! Composites taken apart come back: what an exporter leaves compiles to what the traced model does.

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::testing::{Case, Rng, cases_for};
use lith_ir::{Class, Graph, Op, Program};
use lith_passes::saturate::cost::Costs;
use lith_passes::saturate::{Budget, DeviceProfile, Numeric, Rules, Saturation, rules};
use lith_passes::weights::GraphWeights;
use lith_passes::{Stage, run_until};

fn count(graph: &Graph, name: &str) -> usize {
    graph.petgraph().node_weights().filter(|n| n.op.name() == name && n.op.class() == Class::Composite).count()
}

/// Composites that do not come back from primitives, each with the reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("cache_append", "writes in place: only a tracer that knows of caches makes one"),
    ("cross_entropy", "only a traced loss has one"),
    ("cross_entropy_grad", "only differentiation makes one"),
    ("packed_attention_grad", "only differentiation makes one"),
    ("random_bits", "only a traced dropout has one"),
    ("paged_attention", "reads a paged cache: only a tracer that knows of caches makes one"),
];

/// Cases whose primitives are not those of the composite any more.
fn is_other(case: &Case) -> bool {
    // Sizes 0 and 1 make parts vanish; what computes in a wider type is other ops.
    let odd = |shape: &[usize]| shape.iter().any(|&d| d < 2) || shape.is_empty();
    case.args.iter().any(|a| odd(a.shape()) || a.dtype().is_float() && a.dtype().size() == 2)
        // The axis of a single head is nowhere.
        || case.name.contains("1/1 heads")
        // A mask of constant size is folded to a constant.
        || case.name.contains("causal true") && case.program.symbols.is_empty()
        // Only a traced loss drops anything.
        || case.name.contains("dropout 0.")
        // A row that is no whole number of groups is quantized in two parts.
        || case.name.starts_with("dynamic_quantize") && {
            let group: usize = case.name.split(' ').nth(2).and_then(|g| g.parse().ok()).unwrap_or(1);
            group < 2 || case.args[0].shape().last().is_none_or(|n| n % group != 0 || *n == group)
        }
}

fn simplified(program: Program) -> Graph {
    let mut compiled = run_until(program, Stage::Canonicalize).unwrap();
    compiled.program.entries.remove("main").unwrap()
}

#[test]
fn every_composite_comes_back() {
    let rules = Rules::new(rules::all(), Numeric::Reassociate).unwrap();
    let device = DeviceProfile::default();
    let (mut lost, mut back): (Vec<String>, BTreeMap<&str, usize>) = (Vec::new(), BTreeMap::new());
    for &name in Op::NAMES {
        if EXCEPTIONS.iter().any(|(e, _)| *e == name) {
            continue;
        }
        for seed in 0..10 {
            for case in cases_for(name, &mut Rng::new(seed)) {
                let before = simplified(case.program.clone());
                if is_other(&case) || count(&before, name) == 0 {
                    continue;
                }
                let mut program = case.program.clone();
                for graph in program.entries.values_mut() {
                    lith_ir::decompose::decompose_all(graph, |_| true).unwrap();
                }
                let graph = simplified(program);
                let costs = Costs::new(&device, &case.program.symbols);
                let mut saturation = Saturation::new(&graph, &GraphWeights::default()).unwrap();
                saturation.run(&rules, &Budget::default());
                let (found, report, _) = saturation.extract("main", &rules, &costs).unwrap();
                assert!(report.cost_after_us <= report.cost_before_us, "{}: {report:?}", case.name);
                let found = found.unwrap_or(graph);
                if count(&found, name) < count(&before, name) {
                    let mut program = case.program.clone();
                    program.entries.insert("main".into(), found);
                    lost.push(format!("{}: {report:?}\n{}", case.name, lith_ir::text::print(&program)));
                } else {
                    *back.entry(name).or_default() += 1;
                }
            }
        }
    }
    println!("{back:?}");
    let mut seen = BTreeSet::new();
    let first: Vec<String> =
        lost.iter().filter(|l| seen.insert(l.split(" of ").next().map(str::to_string))).cloned().collect();
    assert!(lost.is_empty(), "{} lost; one of each:\n{}", lost.len(), first.join("\n"));
    for &name in Op::NAMES {
        let composite =
            cases_for(name, &mut Rng::new(0)).iter().any(|c| count(&simplified(c.program.clone()), name) > 0);
        let known = EXCEPTIONS.iter().any(|(e, _)| *e == name) || back.contains_key(name);
        assert!(known || !composite, "no case of {name} was tried");
    }
}
