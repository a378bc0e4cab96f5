//! What an op costs in microseconds on a device, as a share of the kernel it is likely to become part of. Never needs the
//! device: a profile says how fast it is. Symbols count with representative values.

use std::cell::RefCell;
use std::collections::BTreeMap;

use egg::Id;
use lith_ir::decompose::decompose;
use lith_ir::{Binary, DType, Dim, Graph, Op, Symbol, Symbols, Type, Unary, Value};
use serde::{Deserialize, Serialize};

use super::analysis::{Classes, Fact, Facet, op_of};
use super::language::Node;
use crate::weights::{Known, known_after};

/// How fast a device is. `lith bench --calibrate` may write one; [`DeviceProfile::default`] is a desktop core.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceProfile {
    /// Name, for reports.
    pub name: String,
    /// Floating-point operations per second of a contraction, a multiplication and an addition being two.
    pub flops_per_second: f64,
    /// Bytes per second between the cores and memory or the last cache.
    pub bytes_per_second: f64,
    /// Elements per second of a simple elementwise operation whose operands are in registers or the first cache.
    pub elements_per_second: f64,
    /// Microseconds that a kernel takes to start.
    pub launch_us: f64,
    /// Threads that share the work.
    pub threads: usize,
}

impl Default for DeviceProfile {
    /// One core with 256-bit vectors: 16 multiply-adds a cycle at 3 GHz.
    fn default() -> Self {
        DeviceProfile {
            name: "x86-64-v3".into(),
            flops_per_second: 8e10,
            bytes_per_second: 1e10,
            elements_per_second: 6e9,
            launch_us: 0.5,
            threads: 1,
        }
    }
}

/// The value that a symbol counts with where no bound says otherwise.
fn representative(name: &str) -> i64 {
    match name {
        "tokens" => 256,
        "sequences" | "batch" => 4,
        "seq" | "length" => 64,
        "outputs" => 4,
        "table" => 8,
        "page_count" => 64,
        _ => 32,
    }
}

/// A composite counts as this share of its parts: code generation may choose their form, and rewrites that only improve the
/// parts would hide it.
const COMPOSITE: f64 = 0.7;

/// What is added for every node, so that of equals the smaller graph wins.
const NODE_US: f64 = 1e-3;

/// Costs of e-nodes on a device.
pub struct Costs<'a> {
    profile: &'a DeviceProfile,
    symbols: &'a Symbols,
    known: RefCell<BTreeMap<Node, f64>>,
}

impl<'a> Costs<'a> {
    /// Costs under this profile for a program with these symbols.
    pub fn new(profile: &'a DeviceProfile, symbols: &'a Symbols) -> Self {
        Costs { profile, symbols, known: RefCell::default() }
    }

    fn size(&self, dim: &Dim) -> f64 {
        let value = |s: &Symbol| {
            let info = self.symbols.get(s);
            Some(info.map_or(representative(s.name()), |i| representative(s.name()).clamp(i.min, i.max.max(i.min))))
        };
        dim.eval(&value).map_or(0.0, |v| v.max(0) as f64)
    }

    fn elements(&self, ty: &Type) -> f64 {
        ty.shape.iter().map(|d| self.size(d)).product()
    }

    fn bytes(&self, ty: &Type) -> f64 {
        self.elements(ty) * ty.dtype.size() as f64
    }

    fn seconds_us(&self, amount: f64, per_second: f64) -> f64 {
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
            Op::Broadcast { .. } => fused(0.05),
            Op::Reshape { shape } => {
                let real = |s: &[Dim]| -> Vec<Dim> { s.iter().filter(|d| d.as_const() != Some(1)).cloned().collect() };
                match input(0) {
                    Some(x) if real(&x.shape) == real(shape) => 0.0,
                    // Its operand has to be stored, and is read again.
                    _ => memory(self.bytes(&ty)) * 0.5,
                }
            }
            Op::Unary { f } => fused(match f {
                Unary::Exp | Unary::Log | Unary::Sin | Unary::Cos | Unary::Tanh | Unary::Erf => 4.0,
                Unary::Sqrt | Unary::Rsqrt => 2.0,
                _ => 0.5,
            }),
            Op::Binary { f } => fused(match f {
                Binary::Pow | Binary::Rem => 12.0,
                Binary::Div => 2.0,
                _ => 0.5,
            }),
            Op::Compare { .. } | Op::Select {} | Op::Cast { .. } => fused(0.5),
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
            Op::Scatter {} | Op::CumSum { .. } => moved * 2.0,
            Op::Dot { .. } => {
                let k = match (input(0), op) {
                    (Some(a), _) => a.shape.last().map_or(1.0, |d| self.size(d)),
                    _ => 1.0,
                };
                contraction(2.0 * out * k, 0.5)
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
                contraction(2.0 * out * k, if packed { 0.9 } else { 0.5 }) * 0.95 + bias * 0.9
            }
            Op::PackedAttention { causal, .. } if ty.dtype == DType::F32 => {
                let sequences = input(3).map_or(1.0, |o| (self.elements(o) - 1.0).max(1.0));
                let keys = input(1).and_then(|k| k.shape.first()).map_or(1.0, |d| self.size(d)) / sequences;
                let share = if *causal { 0.5 } else { 1.0 };
                contraction(4.0 * out * keys * share, 0.5)
            }
            Op::PagedAttention { .. } => contraction(4.0 * out * 128.0, 0.4),
            Op::Rope { .. } if ty.dtype == DType::F32 => fused(1.0) + memory(self.bytes(&ty)) + launch,
            Op::SegmentPool { .. } if ty.dtype == DType::F32 => memory(read) + launch,
            Op::DynamicQuantize { .. } => fused(2.0),
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
