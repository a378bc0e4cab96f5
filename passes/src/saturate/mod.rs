//! Equality saturation: all forms of a graph that the rules know, in one e-graph, and the cheapest of them taken. Each
//! unique block is done once, as a function; so are entry points. Knows no model and no machine but a
//! [`DeviceProfile`].
//!
//! - [`language`], [`analysis`]: op rows as e-nodes, what is known of each class.
//! - [`rule`], [`rules`], `functions`: the rules and what they say.
//! - [`cost`], [`profile`], `extract`: what forms cost, on which device, and the choice among them.
//! - [`estimate`], `stage`: what the fused kernels of a form cost, which decides; the stage itself.
//! - [`explain`]: which rules made the result. [`sample`]: how tests try every rule.

pub mod analysis;
pub mod cost;
mod encode;
pub mod estimate;
pub mod explain;
mod extract;
mod functions;
pub mod language;
pub mod profile;
pub mod rule;
pub mod rules;
pub mod sample;
mod siblings;
mod stage;
mod thin;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use egg::{BackoffScheduler, Id, Runner, StopReason};
use lith_ir::{Graph, GraphError};
use serde::{Deserialize, Serialize};

pub use explain::Rewrite;
pub use profile::DeviceProfile;
pub use rule::{Numeric, Rule};
pub(crate) use stage::run;
pub use stage::{Block, Memo, Store};

use crate::weights::GraphWeights;
use analysis::Classes;
use cost::{Costs, node_cost};
use encode::Encoded;
use language::Node;

/// How far saturation goes. Nodes and iterations are what stops it: then the same graph always gives the same result.
#[derive(Clone, Debug)]
pub struct Budget {
    /// E-nodes.
    pub nodes: usize,
    /// Times that all rules are tried.
    pub iterations: usize,
    /// An emergency brake for graphs that no one thought of.
    pub time: Duration,
}

impl Budget {
    /// No saturation at all.
    pub const NONE: Budget = Budget { nodes: 0, iterations: 0, time: Duration::ZERO };
}

impl Default for Budget {
    fn default() -> Self {
        Budget { nodes: 12_000, iterations: 12, time: Duration::from_secs(10) }
    }
}

/// What saturation found for one graph. What a called function costs counts with the function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GraphReport {
    /// Name of the graph.
    pub graph: String,
    /// How many times it runs in one run of the program.
    pub runs: usize,
    /// Estimated microseconds of one run as it was. In a program's report these are those of the fused kernels
    /// ([`estimate`]), from [`Saturation::extract`] the sums of [`cost`].
    pub cost_before_us: f64,
    /// The same of what it is now.
    pub cost_after_us: f64,
    /// Kernels as it was.
    pub kernels_before: usize,
    /// Kernels of what it is now.
    pub kernels_after: usize,
    /// Whether a form was found and refused, since its kernels cost more under some load.
    pub refused: bool,
    /// E-nodes in the end.
    pub nodes: usize,
    /// E-classes in the end.
    pub classes: usize,
    /// Iterations that ran.
    pub iterations: usize,
    /// Why it stopped: `saturated`, `nodes`, `iterations` or `time`.
    pub stopped: String,
}

/// What saturation did to a program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Every graph, functions first.
    pub graphs: Vec<GraphReport>,
    /// The rewrites that made the result, for each graph in the order they were found.
    pub rewrites: Vec<Rewrite>,
    /// Kernels that estimates looked at, which do not grow with the number of layers.
    pub estimated_kernels: usize,
}

impl Report {
    /// Estimated microseconds of one run of the program, before and after.
    pub fn total_us(&self) -> (f64, f64) {
        let sum = |us: fn(&GraphReport) -> f64| self.graphs.iter().map(|g| us(g) * g.runs as f64).sum();
        (sum(|g| g.cost_before_us), sum(|g| g.cost_after_us))
    }
}

/// The rules of a numeric class, ready to run.
pub struct Rules {
    rows: Vec<Rule>,
    rewrites: Vec<egg::Rewrite<Node, analysis::Facts>>,
}

impl Rules {
    /// Those of `rows` that `allowed` permits.
    ///
    /// # Errors
    /// When a row is wrong.
    pub fn new(rows: Vec<Rule>, allowed: Numeric) -> Result<Rules, rule::RuleError> {
        let rows: Vec<Rule> = rows.into_iter().filter(|r| r.numeric <= allowed).collect();
        let mut rewrites = Vec::with_capacity(rows.len());
        for (index, row) in rows.iter().enumerate() {
            let compiled = rule::Compiled::new(index, row, allowed)?;
            let rewrite = egg::Rewrite::new(row.name.as_str(), compiled.left.clone(), compiled);
            rewrites.push(rewrite.map_err(|problem| rule::RuleError { rule: row.name.clone(), problem })?);
        }
        Ok(Rules { rows, rewrites })
    }
}

/// All rules that a class permits; read once, when they are first wanted.
fn rules_of(allowed: Numeric) -> Result<&'static Rules, String> {
    type Read = OnceLock<Result<Rules, rule::RuleError>>;
    static RULES: [Read; Numeric::ALL.len()] = [const { OnceLock::new() }; Numeric::ALL.len()];
    let read = RULES[allowed as usize].get_or_init(|| Rules::new(rules::all(), allowed));
    read.as_ref().map_err(ToString::to_string)
}

/// A graph being saturated. It can go on with more budget after it stopped.
pub struct Saturation<'g> {
    graph: &'g Graph,
    encoded: Encoded,
    original: BTreeMap<Id, Node>,
    iterations: usize,
    stopped: String,
}

impl<'g> Saturation<'g> {
    /// The graph as it stands, and which of its values are weights.
    ///
    /// # Errors
    /// When the graph has a cycle.
    pub fn new(graph: &'g Graph, weights: &GraphWeights) -> Result<Self, GraphError> {
        let (encoded, original) = encode::encode(graph, weights)?;
        Ok(Saturation { graph, encoded, original, iterations: 0, stopped: String::new() })
    }

    /// Lets the rules run until nothing is new or the budget is spent. What earlier runs found stays.
    pub fn run(&mut self, rules: &Rules, budget: &Budget) {
        let classes = std::mem::take(&mut self.encoded.classes);
        let runner = Runner::<Node, analysis::Facts>::default()
            .with_egraph(classes)
            .with_node_limit(budget.nodes)
            .with_iter_limit(budget.iterations)
            .with_time_limit(budget.time)
            .with_scheduler(BackoffScheduler::default().with_initial_match_limit(4_000))
            .run(&rules.rewrites);
        self.iterations += runner.iterations.len();
        self.stopped = match runner.stop_reason {
            Some(StopReason::Saturated) | None => "saturated",
            Some(StopReason::IterationLimit(_)) => "iterations",
            Some(StopReason::NodeLimit(_)) => "nodes",
            Some(StopReason::TimeLimit(_)) | Some(StopReason::Other(_)) => "time",
        }
        .into();
        self.encoded.classes = runner.egraph;
        self.merge_siblings(rules);
    }

    /// Finds layers of one input, and lets the rules that make one layer of them run on them.
    fn merge_siblings(&mut self, rules: &Rules) {
        let layers = siblings::layers(self.graph, &self.encoded);
        let classes = &mut self.encoded.classes;
        let rule_of = |name: &str| rules.rows.iter().position(|r| r.name == name);
        for (rule, class) in siblings::gather(classes, &layers, &rule_of) {
            let rewrite = &rules.rewrites[rule];
            let found = egg::Searcher::search_eclass(&*rewrite.searcher, classes, classes.find(class));
            rewrite.apply(classes, &found.into_iter().collect::<Vec<_>>());
            classes.rebuild();
        }
    }

    /// The cheapest graph found, unless that is the graph as it was; what it and the original cost; and what led to it.
    ///
    /// # Errors
    /// When the choice does not type, which is a bug of a rule.
    pub fn extract(
        &self,
        name: &str,
        rules: &Rules,
        costs: &Costs<'_>,
    ) -> Result<(Option<Graph>, GraphReport, Vec<Rewrite>), GraphError> {
        let classes: &Classes = &self.encoded.classes;
        let original = self.encoded.current(self.graph, &self.original)?;
        let cost = node_cost(costs, classes);
        let before = extract::total(classes, &self.encoded.roots, &original, &cost).unwrap_or(f64::INFINITY);
        let (choice, after) = extract::extract(classes, &self.encoded.roots, &original, &cost)
            .unwrap_or_else(|| (original.clone(), before));
        let report = GraphReport {
            graph: name.into(),
            runs: 0,
            cost_before_us: before,
            cost_after_us: after,
            kernels_before: 0,
            kernels_after: 0,
            refused: false,
            nodes: classes.total_size(),
            classes: classes.number_of_classes(),
            iterations: self.iterations,
            stopped: self.stopped.clone(),
        };
        if choice == original || after >= before {
            return Ok((None, GraphReport { cost_after_us: before, ..report }, Vec::new()));
        }
        let graph = self.encoded.decode(self.graph, &choice)?;
        let used = extract::reachable(classes, &self.encoded.roots, &choice);
        let chosen: BTreeMap<Id, Node> = choice.into_iter().filter(|(id, _)| used.contains(id)).collect();
        let is_original = |id: Id, node: &Node| original.get(&id) == Some(node);
        let applied = explain::applications(classes, &chosen, &is_original);
        let rewrites = applied.into_iter().filter_map(|i| self.rewrite(name, rules, i)).collect();
        Ok((Some(graph), report, rewrites))
    }

    /// An application of a rule as it is told to people: at the path of the first node of the class it was used on, or
    /// of a node that reads it.
    fn rewrite(&self, graph: &str, rules: &Rules, index: usize) -> Option<Rewrite> {
        let applied = self.encoded.classes.analysis.log.applied.get(index)?;
        let row = rules.rows.get(applied.rule)?;
        Some(Rewrite {
            rule: row.name.clone(),
            equation: row.equation.clone(),
            numeric: row.numeric.name().into(),
            graph: graph.into(),
            path: self.encoded.path_near(self.graph, applied.class),
        })
    }
}
