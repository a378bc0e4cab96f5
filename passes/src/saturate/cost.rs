//! What an op costs in microseconds on a device, as a share of the kernel it is likely to become part of. Never needs the
//! device: a profile says how fast it is. Symbols count with representative values.

use std::cell::RefCell;
use std::collections::BTreeMap;

use egg::Id;
use lith_ir::decompose::decompose;
use lith_ir::{Binary, DType, Dim, Graph, Op, Symbol, Symbols, Type, Unary, Value};

use super::analysis::{Classes, Facet, Fact, op_of};
use super::language::Node;
use super::profile::DeviceProfile;
use crate::weights::{Known, known_after};

/// How much a call is given to do: the values that symbols count with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    /// One token, as in decoding.
    Token,
    /// One short sequence.
    Short,
    /// A few sequences: what costs are reported for.
    Typical,
    /// A large batch.
    Batch,
}

impl Load {
    /// Every load, by size.
    pub const ALL: [Load; 4] = [Load::Token, Load::Short, Load::Typical, Load::Batch];

    /// The value that a symbol counts with where no bound says otherwise.
    fn representative(self, name: &str) -> i64 {
        let by_load = |values: [i64; 4]| values[self as usize];
        match name {
            "tokens" => by_load([1, 16, 256, 1024]),
            "sequences" | "batch" | "outputs" => by_load([1, 1, 4, 8]),
            "seq" | "length" => by_load([1, 16, 64, 128]),
            "table" => by_load([8, 1, 8, 8]),
            "page_count" => by_load([8, 1, 64, 64]),
            _ => by_load([1, 16, 32, 64]),
        }
    }
}

/// A composite counts as this share of its parts: code generation may choose their form, and rewrites that only improve the
/// parts would hide it.
const COMPOSITE: f64 = 0.7;

/// The share of the device's contraction rate that contractions by packed weights reach.
pub(super) const PACKED_SHARE: f64 = 0.9;

/// The share that products of two computed matrices, and attention, reach.
pub(super) const PRODUCT_SHARE: f64 = 0.5;

/// Keys that a new token attends in a paged cache.
pub(super) const CACHED_KEYS: f64 = 128.0;

/// How much work an element of an elementwise op's result is, of operands at hand. An addition is a half.
pub(super) fn weight(op: &Op) -> f64 {
    match op {
        Op::Unary { f: Unary::Exp | Unary::Log | Unary::Sin | Unary::Cos | Unary::Tanh | Unary::Erf } => 4.0,
        Op::Unary { f: Unary::Sqrt | Unary::Rsqrt } => 2.0,
        Op::Binary { f: Binary::Pow | Binary::Rem } => 12.0,
        Op::Binary { f: Binary::Div } | Op::DynamicQuantize { .. } => 2.0,
        Op::Unary { .. } | Op::Binary { .. } | Op::Compare { .. } | Op::Select {} | Op::Cast { .. } => 0.5,
        Op::Broadcast { .. } => 0.05,
        _ => 0.0,
    }
}

/// What is added for every node, so that of equals the smaller graph wins.
const NODE_US: f64 = 1e-3;

/// Costs of e-nodes on a device.
pub struct Costs<'a> {
    pub(super) profile: &'a DeviceProfile,
    symbols: &'a Symbols,
    load: Load,
    known: RefCell<BTreeMap<Node, f64>>,
}

impl<'a> Costs<'a> {
    /// Costs under this profile for a program with these symbols, of a typical load.
    pub fn new(profile: &'a DeviceProfile, symbols: &'a Symbols) -> Self {
        Costs::at(profile, symbols, Load::Typical)
    }

    /// Costs of a load.
    pub fn at(profile: &'a DeviceProfile, symbols: &'a Symbols, load: Load) -> Self {
        Costs { profile, symbols, load, known: RefCell::default() }
    }

    pub(super) fn size(&self, dim: &Dim) -> f64 {
        let value = |s: &Symbol| {
            let value = self.load.representative(s.name());
            Some(self.symbols.get(s).map_or(value, |i| value.clamp(i.min, i.max.max(i.min))))
        };
        dim.eval(&value).map_or(0.0, |v| v.max(0) as f64)
    }

    pub(super) fn elements(&self, ty: &Type) -> f64 {
        ty.shape.iter().map(|d| self.size(d)).product()
    }

    pub(super) fn bytes(&self, ty: &Type) -> f64 {
        self.elements(ty) * ty.dtype.size() as f64
    }

    pub(super) fn seconds_us(&self, amount: f64, per_second: f64) -> f64 {
        amount / (per_second * self.profile.threads.max(1) as f64) * 1e6
    }

    /// Microseconds that an e-node takes.
    pub fn of(&self, classes: &Classes, node: &Node) -> f64 {
        let Node::Op(head, children) = node else { return 0.0 };
        if let Some(&known) = self.known.borrow().get(node) {
            return known;
        }
        let cost = (|| {
            let (op, operands) = op_of(classes, *head, children).ok()?;
            let operands = operands.into_iter().map(|id| id.and_then(|id| classes[id].data.tensor()));
            let operands: Vec<Option<&Facet>> = operands.collect();
            // What follows from parameters is computed once, when weights are packed.
            let types: Vec<Option<&Type>> = operands.iter().map(|f| f.map(|f| &f.ty)).collect();
            let result = lith_ir::infer::result_types(&op, &types).ok()?.into_iter().next()?;
            let known: Vec<Known> = operands.iter().flatten().map(|f| f.known).collect();
            if known_after(&op, &known, &result, classes.analysis.allowed).weight().is_some() {
                return Some(NODE_US);
            }
            let inputs: Vec<Option<(Type, bool)>> =
                operands.into_iter().map(|f| f.map(|f| (f.ty.clone(), f.param()))).collect();
            Some(self.op(&op, &inputs))
        })();
        // What has no type is never chosen.
        let cost = cost.unwrap_or(f64::INFINITY);
        self.known.borrow_mut().insert(node.clone(), cost);
        cost
    }

    /// Microseconds that an op takes on operands of these types, of which some are parameters.
    pub fn op(&self, op: &Op, inputs: &[Option<(Type, bool)>]) -> f64 {
        let types: Vec<Option<&Type>> = inputs.iter().map(|i| i.as_ref().map(|(t, _)| t)).collect();
        let Some(ty) = lith_ir::infer::result_types(op, &types).ok().and_then(|t| t.into_iter().next()) else {
            return f64::INFINITY;
        };
        let input = |i: usize| types.get(i).copied().flatten();
        let out = self.elements(&ty);
        let fused = |weight: f64| self.seconds_us(out * weight, self.profile.elements_per_second);
        let memory = |bytes: f64| self.seconds_us(bytes, self.profile.bytes_per_second);
        let read: f64 = types.iter().flatten().map(|t| self.bytes(t)).sum();
        let launch = self.profile.launch_us;
        // A kernel of its own that goes over its operands once.
        let moved = memory(read.min(self.bytes(&ty) * 2.0) + self.bytes(&ty)) + launch;
        let contraction = |flops: f64, share: f64| {
            self.seconds_us(flops, self.profile.flops_per_second * share).max(memory(read + self.bytes(&ty))) + launch
        };
        let own = match op {
            Op::Arg { .. } | Op::Param { .. } | Op::Const { .. } | Op::Iota { .. } | Op::Size { .. } => return 0.0,
            Op::Call { .. } | Op::StateRead { .. } | Op::StateWrite { .. } => return 0.0,
            // Free where the operand is one number.
            Op::Broadcast { axes, .. } if axes.is_empty() => return 0.0,
            Op::Broadcast { .. } => fused(weight(op)),
            Op::Reshape { shape } => {
                let real = |s: &[Dim]| -> Vec<Dim> { s.iter().filter(|d| d.as_const() != Some(1)).cloned().collect() };
                match input(0) {
                    Some(x) if real(&x.shape) == real(shape) => 0.0,
                    // Its operand has to be stored, and is read again.
                    _ => memory(self.bytes(&ty)) * 0.5,
                }
            }
            Op::Unary { .. } | Op::Binary { .. } | Op::Compare { .. } | Op::Select {} | Op::Cast { .. } => {
                fused(weight(op))
            }
            // Columns of what lies in memory are read there.
            Op::Slice { axis, step: 1, .. } if axis + 1 == ty.rank() && *axis > 0 => 0.0,
            Op::Transpose { .. } | Op::Slice { .. } | Op::Concat { .. } | Op::Pad { .. } => moved,
            Op::Gather { .. } => memory(self.bytes(&ty) * 2.0) + launch,
            Op::Reduce { axes, .. } => {
                let last = input(0).is_some_and(|x| axes[..] == [x.rank().wrapping_sub(1)]);
                let elements = input(0).map_or(0.0, |x| self.elements(x));
                let sum = self.seconds_us(elements * 0.5, self.profile.elements_per_second);
                if last { sum + launch * 0.2 } else { sum + memory(read) + launch }
            }
            Op::Scatter {} | Op::ScatterAdd {} | Op::CumSum { .. } => moved * 2.0,
            Op::Dot { .. } => {
                let k = match (input(0), op) {
                    (Some(a), _) => a.shape.last().map_or(1.0, |d| self.size(d)),
                    _ => 1.0,
                };
                contraction(2.0 * out * k, PRODUCT_SHARE)
            }
            Op::Linear {} => {
                let k = input(0).and_then(|x| x.shape.last()).map_or(1.0, |d| self.size(d));
                let packed = ty.dtype == DType::F32 && inputs.get(1).is_some_and(|w| w.as_ref().is_some_and(|w| w.1));
                // The bias comes with the tile.
                let read: f64 = types.iter().take(2).flatten().map(|t| self.bytes(t)).sum();
                let contraction = |flops: f64, share: f64| {
                    self.seconds_us(flops, self.profile.flops_per_second * share).max(memory(read + self.bytes(&ty)))
                        + launch
                };
                let bias = if input(2).is_some() { fused(0.5) } else { 0.0 };
                contraction(2.0 * out * k, if packed { PACKED_SHARE } else { PRODUCT_SHARE }) * 0.95 + bias * 0.9
            }
            Op::Attention { causal, .. } if ty.dtype == DType::F32 => {
                let keys = input(1).and_then(|k| k.shape.get(1)).map_or(1.0, |d| self.size(d));
                contraction(4.0 * out * keys * if *causal { 0.5 } else { 1.0 }, PRODUCT_SHARE)
            }
            Op::PackedAttention { causal, .. } if ty.dtype == DType::F32 => {
                let sequences = input(3).map_or(1.0, |o| (self.elements(o) - 1.0).max(1.0));
                let keys = input(1).and_then(|k| k.shape.first()).map_or(1.0, |d| self.size(d)) / sequences;
                let share = if *causal { 0.5 } else { 1.0 };
                contraction(4.0 * out * keys * share, PRODUCT_SHARE)
            }
            Op::PagedAttention { .. } => contraction(4.0 * out * CACHED_KEYS, PRODUCT_SHARE),
            Op::Rope { .. } if ty.dtype == DType::F32 => fused(1.0) + memory(self.bytes(&ty)) + launch,
            Op::RandomBits { .. } => fused(2.0) + memory(self.bytes(&ty)) + launch,
            Op::SegmentPool { .. } if ty.dtype == DType::F32 => memory(read) + launch,
            Op::DynamicQuantize { .. } => fused(weight(op)),
            Op::CacheAppend { .. } => input(1).map_or(0.0, |x| memory(self.bytes(x) * 2.0)) + launch,
            Op::Activation { .. }
            | Op::SegmentIds { .. }
            | Op::Softmax {}
            | Op::LayerNorm { .. }
            | Op::RmsNorm { .. }
            | Op::Rope { .. }
            | Op::L2Norm { .. }
            | Op::Attention { .. }
            | Op::PackedAttention { .. }
            | Op::PackedAttentionGrad { .. }
            | Op::CrossEntropy { .. }
            | Op::CrossEntropyGrad { .. }
            | Op::SegmentPool { .. } => return self.decomposed(op, inputs) * COMPOSITE,
        };
        own + NODE_US
    }

    /// A composite without a kernel costs what it consists of.
    fn decomposed(&self, op: &Op, inputs: &[Option<(Type, bool)>]) -> f64 {
        let mut graph = Graph::new();
        let mut operands: Vec<Option<Value>> = Vec::with_capacity(inputs.len());
        for (index, input) in inputs.iter().enumerate() {
            let arg = |ty: &Type| Op::Arg { index, name: format!("x{index}"), ty: ty.clone() };
            operands.push(input.as_ref().and_then(|(ty, _)| graph.add(arg(ty), &[], "").ok()));
        }
        let Ok(node) = graph.add_with(op.clone(), &operands, "") else { return f64::INFINITY };
        let Ok(Some(result)) = decompose(&mut graph, node) else { return f64::INFINITY };
        graph.remove(node);
        graph.add_result("y", result);
        // As what it is compared with was simplified.
        if crate::canonicalize::simplify("", &mut graph).is_err() {
            return f64::INFINITY;
        }
        self.graph(&graph)
    }

    /// The sum over all nodes of a graph.
    pub fn graph(&self, graph: &Graph) -> f64 {
        let cost = |n| {
            let node = graph.node(n);
            let inputs: Vec<Option<(Type, bool)>> = graph
                .operands(n)
                .into_iter()
                .map(|v| v.map(|v| (graph.ty(v).clone(), matches!(graph.node(v.node).op, Op::Param { .. }))))
                .collect();
            self.op(&node.op, &inputs)
        };
        graph.petgraph().node_indices().map(cost).sum()
    }
}

/// The cost function that extraction takes.
pub fn node_cost<'a>(costs: &'a Costs<'_>, classes: &'a Classes) -> impl Fn(Id, &Node) -> f64 + 'a {
    move |id, node| if classes[id].data == Fact::Unknown { f64::INFINITY } else { costs.of(classes, node) }
}
