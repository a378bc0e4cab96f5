//! The stage: every graph of a program saturated, side by side, and those forms taken whose kernels cost no more. What a
//! graph becomes is a function of its text, of what is known of its weights, and of the options, so it can be kept.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lith_ir::{Graph, Program, Symbols, text};
use serde::{Deserialize, Serialize};

use super::cost::Costs;
use super::estimate::{plan_costs, runs};
use super::{GraphReport, Rewrite, Saturation, rules_of};
use crate::weights::{self, GraphWeights};
use crate::{Compiled, Options, PassError, canonicalize};

/// What saturation made of one graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// The form found, as the text of a program with this one function; `None` where it is the graph as it was.
    pub found: Option<String>,
    /// What it did.
    pub report: GraphReport,
    /// The rewrites that made the form.
    pub rewrites: Vec<Rewrite>,
}

/// A place that keeps what saturation made of graphs. What it gives must be what it took for the same key, by the same
/// build of the rules; it may forget.
pub trait Store: Debug + Send + Sync {
    /// What was kept under a key.
    fn get(&self, key: &str) -> Option<Block>;
    /// Keeps it. That it cannot is not told.
    fn put(&self, key: &str, block: &Block);
}

/// The store in use, if any.
#[derive(Clone, Debug, Default)]
pub struct Memo(pub Option<Arc<dyn Store>>);

pub(crate) fn run(compiled: &mut Compiled, options: &Options) -> Result<(), PassError> {
    if options.saturation.iterations == 0 {
        return Ok(());
    }
    let program = &compiled.program;
    let weights = weights::find(program, &options.stored, options.numeric);
    let graphs: Vec<(&str, &Graph)> = program.graphs().collect();
    // What the program costs as it is can be found out meanwhile.
    let (blocks, before) = std::thread::scope(|scope| {
        let before = scope.spawn(|| plan_costs(program, options));
        let blocks = side_by_side(&graphs, |&(name, graph)| {
            let weights = weights.get(name).cloned().unwrap_or_default();
            block(name, graph, &weights, &program.symbols, options)
        });
        (blocks, joined(before))
    });
    let (before, mut estimated) = before?;
    let mut costs = |program: &Program| {
        plan_costs(program, options).map(|(costs, kernels)| {
            estimated += kernels;
            costs
        })
    };
    let mut candidate = program.clone();
    let mut reports = Vec::with_capacity(graphs.len());
    for ((name, _), block) in graphs.iter().zip(blocks) {
        let block = block?;
        if let Some(found) = &block.found {
            put(&mut candidate, name, read(name, found)?);
        }
        reports.push(block);
    }
    let mut after = match reports.iter().all(|block| block.found.is_none()) {
        true => before.clone(),
        false => costs(&candidate)?,
    };
    // A form whose kernels cost more is not taken; if graphs then still do, it is the company they are in.
    let mut refused: Vec<&str> = Vec::new();
    for all in [false, true] {
        let within = |name: &str| after.get(name).zip(before.get(name)).is_some_and(|(a, b)| a.is_within(b));
        if graphs.iter().all(|(name, _)| within(name)) {
            break;
        }
        let worse: Vec<&str> = graphs.iter().map(|(name, _)| *name).filter(|name| all || !within(name)).collect();
        for name in worse {
            if let Some(graph) = program.graph(name) {
                put(&mut candidate, name, graph.clone());
            }
            refused.push(name);
        }
        after = costs(&candidate)?;
    }
    compiled.saturation.estimated_kernels += estimated;
    let runs = runs(program);
    for mut block in reports {
        let report = &mut block.report;
        let name = report.graph.as_str();
        let [b, a] = [&before, &after].map(|costs| costs.get(name).cloned().unwrap_or_default());
        report.runs = runs.get(name).copied().unwrap_or(0);
        (report.cost_before_us, report.cost_after_us) = (b.typical_us(), a.typical_us());
        (report.kernels_before, report.kernels_after) = (b.kernels, a.kernels);
        report.refused = block.found.is_some() && refused.contains(&name);
        tracing::debug!(
            graph = name,
            before = b.typical_us(),
            after = a.typical_us(),
            nodes = report.nodes,
            "saturated"
        );
        if !report.refused {
            compiled.saturation.rewrites.extend(block.rewrites);
        }
        compiled.saturation.graphs.push(block.report);
    }
    compiled.program = candidate;
    Ok(lith_ir::verify(&compiled.program)?)
}

/// What saturation makes of one graph; kept or found.
fn block(
    name: &str,
    graph: &Graph,
    weights: &GraphWeights,
    symbols: &Symbols,
    options: &Options,
) -> Result<Block, PassError> {
    let text = |graph: Graph| {
        let mut program = Program { symbols: symbols.clone(), ..Program::new("") };
        program.functions.insert(name.into(), graph);
        text::print(&program)
    };
    let kept = options.memo.0.as_ref().map(|store| {
        let Options { numeric, saturation, device, .. } = options;
        (store, format!("{}\n{weights:?}\n{numeric:?} {saturation:?} {device:?}", text(graph.clone())))
    });
    if let Some(block) = kept.as_ref().and_then(|(store, key)| store.get(key))
        // What cannot be read is made anew.
        && block.found.as_ref().is_none_or(|found| read(name, found).is_ok())
    {
        return Ok(block);
    }
    let in_graph = PassError::in_graph(name);
    let rules = rules_of(options.numeric).map_err(|e| PassError::broken(name, e))?;
    let costs = Costs::new(&options.device, symbols);
    let mut saturation = Saturation::new(graph, weights).map_err(&in_graph)?;
    saturation.run(rules, &options.saturation);
    let (found, report, rewrites) = saturation.extract(name, rules, &costs).map_err(&in_graph)?;
    let simplified = |mut graph: Graph| canonicalize::simplify(name, &mut graph).map(|()| graph);
    let found = found.map(simplified).transpose()?.map(text);
    let block = Block { found, report, rewrites };
    if let Some((store, key)) = kept {
        store.put(&key, &block);
    }
    Ok(block)
}

/// The graph of this name in the text of a program.
fn read(name: &str, found: &str) -> Result<Graph, PassError> {
    let broken = |problem: String| PassError::broken(name, problem);
    let mut program = text::parse(found).map_err(|e| broken(format!("the form found: {e}")))?;
    program.functions.remove(name).ok_or_else(|| broken("the form found is not there".into()))
}

fn put(program: &mut Program, name: &str, graph: Graph) {
    let graphs: [&mut BTreeMap<String, Graph>; 2] = [&mut program.functions, &mut program.entries];
    if let Some(place) = graphs.into_iter().find_map(|graphs| graphs.get_mut(name)) {
        *place = graph;
    }
}

/// What a thread found; its panic goes on here.
fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// `of` every item, in order, by as many threads as there are cores.
fn side_by_side<T: Sync, R: Send>(items: &[T], of: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    if threads < 2 {
        return items.iter().map(of).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return done };
            done.push((index, of(item)));
        }
    };
    let mut found: Vec<(usize, R)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        for worker in workers {
            all.extend(joined(worker));
        }
        all
    });
    found.sort_by_key(|(index, _)| *index);
    found.into_iter().map(|(_, result)| result).collect()
}
