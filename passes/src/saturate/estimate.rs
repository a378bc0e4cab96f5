//! What programs cost as they run: a roofline of every kernel that fusion makes of a graph. Of each kernel the time of its
//! arithmetic or the time of the bytes that it moves between memory and cores counts, whichever is longer, and its start.
//! This is what is reported and what decides; single e-nodes are priced by [`super::cost`], which only guides the choice.

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::plan::{GraphPlan, Kernel, KernelKind};
use lith_ir::quant::Storage;
use lith_ir::{Graph, NodeId, Op, Program, Value};

use super::cost::{CACHED_KEYS, Costs, Load, PACKED_SHARE, PRODUCT_SHARE, weight};
use super::profile::DeviceProfile;
use super::thin::without_repeats;
use crate::reads::{Stored, operands};
use crate::weights::ElementBytes;
use crate::{Compiled, Options, PassError, Stage};

/// What one run of a graph costs, what it calls aside.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlanCost {
    /// Kernels.
    pub kernels: usize,
    /// Microseconds for each of [`Load::ALL`].
    pub us: [f64; Load::ALL.len()],
}

impl PlanCost {
    /// Microseconds of a typical load.
    pub fn typical_us(&self) -> f64 {
        self.us[Load::Typical as usize]
    }

    /// Whether no load costs more than by `other`.
    pub fn is_within(&self, other: &PlanCost) -> bool {
        // Sums of the same kernels in another order differ in their last bits.
        self.us.iter().zip(&other.us).all(|(a, b)| *a <= *b * (1.0 + 1e-9))
    }
}

/// What every graph of a program costs when it goes through the stages from saturation to fusion, by name; and how many
/// kernels were looked at to find out.
///
/// # Errors
/// When the program has no kernels.
pub(super) fn plan_costs(
    program: &Program,
    options: &Options,
) -> Result<(BTreeMap<String, PlanCost>, usize), PassError> {
    let (program, left_out) = without_repeats(program, &options.stored).map_err(PassError::in_graph(&program.name))?;
    let mut compiled = Compiled { program, ..Compiled::default() };
    for stage in Stage::ALL.iter().filter(|s| (Stage::Saturate..=Stage::Fuse).contains(s)).skip(1) {
        stage.run(&mut compiled, options)?;
    }
    let mut costs = costs_of(&compiled, &options.device, &options.stored)?;
    let estimated = costs.values().map(|cost| cost.kernels).sum();
    for (name, calls) in left_out {
        costs.entry(name).or_default().kernels += calls;
    }
    Ok((costs, estimated))
}

/// What every graph of a program with a plan costs on a device, by name. `stored` is as in [`Options::stored`].
///
/// # Errors
/// When a graph has no plan.
pub fn costs_of(
    compiled: &Compiled,
    device: &DeviceProfile,
    stored: &BTreeMap<String, Storage>,
) -> Result<BTreeMap<String, PlanCost>, PassError> {
    let loads = Load::ALL.map(|load| Costs::at(device, &compiled.program.symbols, load));
    let element_bytes = ElementBytes::of(&compiled.program, stored);
    let cost = |(name, graph): (&str, &Graph)| {
        let plan = compiled.plan.graphs.get(name);
        let plan = plan.ok_or_else(|| PassError::broken(name, "no plan"))?;
        let weight = |op: &Op| element_bytes.of_weight(name, op);
        let us = std::array::from_fn(|i| graph_us(&loads[i], graph, plan, &weight));
        Ok((name.to_string(), PlanCost { kernels: plan.kernels.len(), us }))
    };
    compiled.program.graphs().map(cost).collect()
}

/// How many times each graph runs in one run of every entry point.
pub fn runs(program: &Program) -> BTreeMap<String, usize> {
    let mut runs: BTreeMap<String, usize> = BTreeMap::new();
    let mut stack: Vec<&str> = program.entries.keys().map(String::as_str).collect();
    // A function that calls itself has no plan, and is found there.
    let mut budget = 1_000_000;
    while let Some(name) = stack.pop() {
        *runs.entry(name.into()).or_default() += 1;
        budget -= 1;
        let Some(graph) = program.graph(name).filter(|_| budget > 0) else { continue };
        for node in graph.petgraph().node_weights() {
            if let Op::Call { function, .. } = &node.op {
                stack.push(function);
            }
        }
    }
    runs
}

/// Microseconds of one run of a graph by its plan, what it calls aside.
fn graph_us(costs: &Costs<'_>, graph: &Graph, plan: &GraphPlan, weight: Weights<'_>) -> f64 {
    let stored = Stored::new(graph, &plan.kernels);
    plan.kernels.iter().map(|kernel| kernel_us(costs, graph, &stored, weight, kernel)).sum()
}

/// Bytes of an element of the matrix that a source brings, where that is not its type's.
type Weights<'a> = &'a dyn Fn(&Op) -> Option<f64>;

fn kernel_us(costs: &Costs<'_>, graph: &Graph, stored: &Stored<'_>, weight: Weights<'_>, kernel: &Kernel) -> f64 {
    if let KernelKind::Call { .. } = kernel.kind {
        return 0.0;
    }
    let compute: f64 = kernel.nodes.iter().map(|&n| compute_us(costs, graph, n)).sum();
    let bytes = read_bytes(costs, graph, stored, weight, kernel) + written_bytes(costs, graph, kernel);
    compute.max(costs.seconds_us(bytes, costs.profile.bytes_per_second)) + costs.profile.launch_us
}

/// Microseconds of the arithmetic of one node.
fn compute_us(costs: &Costs<'_>, graph: &Graph, node: NodeId) -> f64 {
    let op = &graph.node(node).op;
    let out = costs.elements(graph.ty(node.into()));
    let ty = |operand: usize| graph.operand(node, operand).map(|v| graph.ty(v));
    let elementwise = |weight: f64| costs.seconds_us(weight, costs.profile.elements_per_second);
    let product = |flops: f64, share: f64| costs.seconds_us(flops, costs.profile.flops_per_second * share);
    let inner = || ty(0).and_then(|t| t.shape.last()).map_or(1.0, |d| costs.size(d));
    match op {
        Op::Linear {} => product(2.0 * out * inner(), PACKED_SHARE),
        Op::Dot { .. } => product(2.0 * out * inner(), PRODUCT_SHARE),
        Op::Attention { causal, .. } => {
            let keys = ty(1).and_then(|k| k.shape.get(1)).map_or(1.0, |d| costs.size(d));
            product(4.0 * out * keys * if *causal { 0.5 } else { 1.0 }, PRODUCT_SHARE)
        }
        Op::PackedAttention { causal, .. } => {
            let sequences = ty(3).map_or(1.0, |o| (costs.elements(o) - 1.0).max(1.0));
            let keys = ty(1).and_then(|k| k.shape.first()).map_or(1.0, |d| costs.size(d)) / sequences;
            product(4.0 * out * keys * if *causal { 0.5 } else { 1.0 }, PRODUCT_SHARE)
        }
        Op::PagedAttention { .. } => product(4.0 * out * CACHED_KEYS, PRODUCT_SHARE),
        Op::Reduce { .. } | Op::CumSum { .. } | Op::SegmentPool { .. } => {
            elementwise(0.5 * ty(0).map_or(0.0, |t| costs.elements(t)))
        }
        Op::Rope { .. } | Op::Transpose { .. } | Op::Concat { .. } | Op::Gather { .. } => elementwise(out),
        Op::Slice { .. } | Op::Pad { .. } => elementwise(0.5 * out),
        op => elementwise(weight(op) * out),
    }
}

/// Bytes that a kernel reads from memory, each once.
fn read_bytes(costs: &Costs<'_>, graph: &Graph, stored: &Stored<'_>, weight: Weights<'_>, kernel: &Kernel) -> f64 {
    let inside: BTreeSet<NodeId> = kernel.nodes.iter().copied().collect();
    let mut read: BTreeMap<Value, f64> = BTreeMap::new();
    for value in operands(graph, kernel) {
        let all = costs.bytes(graph.ty(value));
        let users = graph.users(value).into_iter().filter(|(user, _)| inside.contains(user));
        let bytes: f64 = users.map(|(user, operand)| part_read(costs, graph, user, operand).unwrap_or(all)).sum();
        // Two shapes of the same bytes are read once, two parts of them are two.
        let root = stored.root(value);
        let known = read.entry(root).or_default();
        *known = (*known + bytes.min(all)).min(costs.bytes(graph.ty(root)));
    }
    let as_stored = |(root, bytes): (Value, f64)| match weight(&graph.node(root.node).op) {
        Some(element) => bytes / graph.ty(root).dtype.size() as f64 * element,
        None => bytes,
    };
    read.into_iter().map(as_stored).sum()
}

/// Bytes of an operand that a node reads, where that is not the whole.
fn part_read(costs: &Costs<'_>, graph: &Graph, node: NodeId, operand: usize) -> Option<f64> {
    let out = graph.ty(node.into());
    match (&graph.node(node).op, operand) {
        (Op::Slice { .. }, 0) | (Op::Gather { .. }, 0) => Some(costs.bytes(out)),
        // Written in place.
        (Op::CacheAppend { .. }, 0) => Some(0.0),
        (Op::PagedAttention { .. }, _) => {
            let cache = graph.ty(graph.operand(node, operand)?);
            let [_, page, rest @ ..] = cache.shape.as_slice() else { return None };
            let paged = !rest.is_empty() && operand > 0 && page.as_const() == Some(lith_ir::plan::PAGE_TOKENS as i64);
            let row: f64 = rest.iter().map(|d| costs.size(d)).product();
            paged.then(|| row * cache.dtype.size() as f64 * CACHED_KEYS)
        }
        _ => None,
    }
}

fn written_bytes(costs: &Costs<'_>, graph: &Graph, kernel: &Kernel) -> f64 {
    match kernel.kind {
        KernelKind::CacheAppend { core } => {
            let x = graph.operand(core, 1).map(|x| graph.ty(x));
            let dtype = graph.ty(core.into()).dtype;
            x.map_or(0.0, |x| costs.elements(x) * dtype.size() as f64)
        }
        _ => kernel.outputs.iter().map(|v| costs.bytes(graph.ty(*v))).sum(),
    }
}
