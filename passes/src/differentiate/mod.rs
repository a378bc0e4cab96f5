//! Reverse-mode differentiation: adds to a graph the nodes that compute the gradient of a scalar with respect to values.
//!
//! Each op row has its rule, found by one exhaustive match: primitives in `primitives`, composites with a backward form
//! of their own in `composites` and `attention`. A composite without one is put in its graph as its decomposition
//! first. A value's gradient is the sum of what its users contribute, in the reverse of the graph's order, so that the same
//! graph gives the same bits. Nodes stand at the path of the node that they are the backward of, behind `backward`, so that
//! what repeats forward repeats backward. Knows no optimizer.

mod attention;
mod composites;
mod primitives;
mod term;

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::decompose::decompose;
use lith_ir::{Builder, Graph, GraphError, NodeId, Op, Type, Value};

use term::{Sheet, Term};

/// Why there is no gradient.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DifferentiateError {
    /// A broken graph, or a rule whose nodes do not fit each other.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// What is differentiated is no floating-point scalar.
    #[error("at `{path}`: the loss is {found}, expected a floating-point scalar")]
    NoScalar {
        /// Where it stands.
        path: String,
        /// Its type.
        found: Type,
    },
    /// There is no gradient with respect to integers.
    #[error("at `{path}`: the gradient with respect to {found}, expected a floating-point value")]
    NoFloat {
        /// Where the value stands.
        path: String,
        /// Its type.
        found: Type,
    },
    /// The loss depends on the values through an op without derivative.
    #[error("at `{path}`: `{op}` has no derivative: {reason}")]
    NoDerivative {
        /// Where the op stands.
        path: String,
        /// Its name.
        op: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// A value is not in the graph.
    #[error("a value that is not in the graph")]
    NoSuchValue,
}

/// Adds the gradient of `loss` with respect to each of `wrt`, of its type, and returns them in that order: zeros where the
/// loss does not depend on it. `wrt` may be arguments, parameters, states or values between.
///
/// Where functions have a corner, the gradient is that of the constant side for activations, and is shared equally among
/// equal operands of `max` and `min`. Rounding and comparisons have gradient 0, [`Op::DynamicQuantize`] that of the
/// identity. Composites that only their decomposition differentiates are replaced by it.
///
/// # Errors
/// When `loss` is no floating-point scalar, a value of `wrt` is not floating-point, or one depends on the other through an
/// op without derivative; the graph may then have nodes that nobody uses.
pub fn gradients(graph: &mut Graph, loss: Value, wrt: &[Value]) -> Result<Vec<Value>, DifferentiateError> {
    let path = |graph: &Graph, v: Value| graph.node(v.node).path.to_string();
    let found = graph.try_ty(loss).ok_or(DifferentiateError::NoSuchValue)?.clone();
    if found.rank() != 0 || !found.dtype.is_float() {
        return Err(DifferentiateError::NoScalar { path: path(graph, loss), found });
    }
    for &v in wrt {
        let found = graph.try_ty(v).ok_or(DifferentiateError::NoSuchValue)?.clone();
        if !found.dtype.is_float() {
            return Err(DifferentiateError::NoFloat { path: path(graph, v), found });
        }
    }
    let (mut loss, mut wrt) = (loss, wrt.to_vec());
    for (old, new) in take_apart(graph, loss, &wrt)? {
        wrt.iter_mut().chain([&mut loss]).filter(|v| **v == old).for_each(|v| *v = new);
    }

    let order = graph.topological()?;
    let active = active(graph, &order, &wrt);
    let mut adjoints = Adjoints::default();
    if active.contains(&loss) {
        let at = backward(&path(graph, loss));
        let one = Builder::new(graph, &at).full(&found, 1.0)?;
        adjoints.0.insert(loss, vec![(one, at)]);
    }
    for &node in order.iter().rev() {
        let results = graph.node(node).types.len() as u32;
        for result in 0..results {
            let value = Value { node, result };
            let Some(dy) = adjoints.total(graph, value)? else { continue };
            let operands = graph.operands(node);
            let wanted: Vec<bool> = operands.iter().map(|v| v.is_some_and(|v| active.contains(&v))).collect();
            if wanted.contains(&true) {
                let at = backward(&path(graph, value));
                for (operand, part) in contributions(graph, value, dy, &operands, wanted)? {
                    adjoints.0.entry(operand).or_default().push((part, at.clone()));
                }
            }
        }
    }
    wrt.into_iter()
        .map(|v| match adjoints.total(graph, v)? {
            Some(gradient) => Ok(gradient),
            None => {
                let ty = graph.ty(v).clone();
                Ok(Builder::new(graph, &backward(&path(graph, v))).full(&ty, 0.0)?)
            }
        })
        .collect()
}

/// The path of what is the backward of nodes at `path`.
pub(crate) fn backward(path: &str) -> String {
    if path.is_empty() { "backward".into() } else { format!("backward.{path}") }
}

/// Whether a node at this path is the backward of others.
pub(crate) fn is_backward(path: &str) -> bool {
    path.split('.').next() == Some("backward")
}

/// Floating-point values that depend on one of `wrt`.
fn active(graph: &Graph, order: &[NodeId], wrt: &[Value]) -> BTreeSet<Value> {
    let mut active: BTreeSet<Value> = wrt.iter().copied().collect();
    for &node in order {
        if graph.inputs(node).iter().any(|v| active.contains(v)) {
            let types = graph.node(node).types.iter().enumerate();
            let floats = types.filter(|(_, t)| t.dtype.is_float());
            active.extend(floats.map(|(result, _)| Value { node, result: result as u32 }));
        }
    }
    active
}

/// What the users of each value contributed to its gradient so far, and where they stand.
#[derive(Default)]
struct Adjoints(BTreeMap<Value, Vec<(Value, String)>>);

impl Adjoints {
    /// The gradient of a value all users of which have contributed; `None` when there was none. The sum stands where the first
    /// user does: a layer's backward ends with the gradient of what it took in.
    fn total(&mut self, graph: &mut Graph, value: Value) -> Result<Option<Value>, GraphError> {
        let Some(parts) = self.0.get_mut(&value) else { return Ok(None) };
        let Some((_, at)) = parts.last().cloned() else { return Ok(None) };
        let mut b = Builder::new(graph, &at);
        let mut sum = None;
        for (part, _) in parts.drain(..) {
            sum = Some(match sum {
                None => part,
                Some(sum) => b.add(sum, part)?,
            });
        }
        parts.extend(sum.map(|sum| (sum, at)));
        Ok(sum)
    }
}

/// Puts decompositions in the place of composites between `wrt` and the loss that have no backward form of their own.
/// Returns each value so replaced with its successor; the old nodes stay, without users.
fn take_apart(graph: &mut Graph, loss: Value, wrt: &[Value]) -> Result<Vec<(Value, Value)>, GraphError> {
    let order = graph.topological()?;
    let active = active(graph, &order, wrt);
    let (mut towards, mut stack) = (BTreeSet::new(), vec![loss.node]);
    while let Some(node) = stack.pop() {
        if towards.insert(node) {
            stack.extend(graph.inputs(node).iter().map(|v| v.node));
        }
    }
    let mut replaced = Vec::new();
    for node in order {
        let operand = |i: usize| graph.operand(node, i).is_some_and(|v| active.contains(&v));
        if !towards.contains(&node) || !(0..graph.operands(node).len()).any(operand) {
            continue;
        }
        let apart = match graph.node(node).op {
            Op::Attention { .. } | Op::PackedAttentionGrad { .. } | Op::CrossEntropyGrad { .. } => true,
            Op::PackedAttention { .. } => operand(4),
            Op::Rope { .. } => operand(1) || operand(2),
            _ => false,
        };
        if let Some(value) = if apart { decompose(graph, node)? } else { None } {
            graph.replace(node.into(), value);
            replaced.push((node.into(), value));
        }
    }
    Ok(replaced)
}

/// One node on the way back.
struct Step<'s, 'g> {
    sheet: &'s Sheet<'g>,
    operands: Vec<Option<Value>>,
    wanted: Vec<bool>,
    /// The node's result.
    y: Term<'s, 'g>,
    /// Its gradient.
    dy: Term<'s, 'g>,
    parts: Vec<(Value, Value)>,
}

/// A rule's answer: contributions are given to the step.
type Ruled = Result<(), &'static str>;

impl<'s, 'g> Step<'s, 'g> {
    /// Operand `i`, if it is there.
    fn optional(&self, i: usize) -> Option<Term<'s, 'g>> {
        self.operands.get(i).copied().flatten().map(|v| self.sheet.term(v))
    }

    /// Operand `i` of a node that has it.
    fn x(&self, i: usize) -> Result<Term<'s, 'g>, &'static str> {
        self.optional(i).ok_or("an operand is missing")
    }

    /// Whether the gradient of operand `i` is asked for.
    fn wants(&self, i: usize) -> bool {
        self.wanted.get(i).copied().unwrap_or(false)
    }

    /// Contributes to the gradient of operand `i`, in its element type.
    fn give(&mut self, i: usize, part: Term<'s, 'g>) {
        if let Some(operand) = self.operands.get(i).copied().flatten().filter(|_| self.wants(i)) {
            let part = part.cast(self.sheet.term(operand).ty().dtype);
            self.parts.push((operand, part.value()));
        }
    }
}

/// What the node of `value` contributes to the gradients of its operands.
fn contributions(
    graph: &mut Graph,
    value: Value,
    dy: Value,
    operands: &[Option<Value>],
    wanted: Vec<bool>,
) -> Result<Vec<(Value, Value)>, DifferentiateError> {
    let node = graph.node(value.node);
    let (op, path) = (node.op.clone(), node.path.to_string());
    let sheet = Sheet::new(graph, &backward(&path));
    let mut step = Step {
        sheet: &sheet,
        operands: operands.to_vec(),
        wanted,
        y: sheet.term(value),
        dy: sheet.term(dy),
        parts: Vec::new(),
    };
    let ruled = rule(&op, &mut step);
    let parts = step.parts;
    sheet.finish()?;
    match ruled {
        Ok(()) => Ok(parts),
        Err(reason) => Err(DifferentiateError::NoDerivative { path, op: op.name(), reason }),
    }
}

/// The backward rule of every op.
fn rule(op: &Op, step: &mut Step<'_, '_>) -> Ruled {
    match op {
        Op::Arg { .. } | Op::Param { .. } | Op::Const { .. } | Op::StateRead { .. } => Ok(()),
        Op::Iota { .. } | Op::Size { .. } | Op::Compare { .. } => Ok(()),
        Op::Unary { f } => primitives::unary(step, *f),
        Op::Binary { f } => primitives::binary(step, *f),
        Op::Select {} => primitives::select(step),
        // To integers there is no way back: such a result is not active.
        Op::Cast { .. } | Op::DynamicQuantize { .. } | Op::StateWrite { .. } => {
            step.give(0, step.dy);
            Ok(())
        }
        Op::Reshape { .. } => primitives::reshape(step),
        Op::Transpose { perm } => primitives::transpose(step, perm),
        Op::Broadcast { axes, .. } => primitives::broadcast(step, axes),
        Op::Slice { axis, start, stop, step: by } => primitives::slice(step, *axis, start, stop, *by),
        Op::Concat { axis } => primitives::concat(step, *axis),
        Op::Pad { axis, before, after } => primitives::pad(step, *axis, *before, *after),
        Op::Gather { axis } => primitives::gather(step, *axis),
        Op::Dot { transpose_rhs } => primitives::dot(step, *transpose_rhs),
        Op::Reduce { f, axes, keep } => primitives::reduce(step, *f, axes, *keep),
        Op::Scatter {} => primitives::scatter(step),
        Op::ScatterAdd {} => primitives::scatter_add(step),
        Op::CumSum { axis } => primitives::cumsum(step, *axis),
        Op::Activation { f } => composites::activation(step, *f),
        Op::Softmax {} => composites::softmax(step),
        Op::LayerNorm { eps } => composites::layer_norm(step, *eps),
        Op::RmsNorm { eps, offset } => composites::rms_norm(step, *eps, *offset),
        Op::L2Norm { eps } => composites::l2_norm(step, *eps),
        Op::Linear {} => composites::linear(step),
        Op::SegmentPool { f } => composites::segment_pool(step, *f),
        Op::CrossEntropy { ignore, smoothing } => composites::cross_entropy(step, *ignore, *smoothing),
        Op::Rope { heads, interleaved } => attention::rope(step, *heads, *interleaved),
        &Op::PackedAttention { heads, kv_heads, scale, causal, dropout } => {
            attention::packed(step, Op::PackedAttentionGrad { heads, kv_heads, scale, causal, dropout })
        }
        Op::Attention { .. } | Op::CrossEntropyGrad { .. } | Op::PackedAttentionGrad { .. } => {
            Err("it should have been taken apart")
        }
        Op::CacheAppend { .. } | Op::PagedAttention { .. } => {
            Err("caches serve generation; train in the layout without one")
        }
        Op::SegmentIds { .. } | Op::RandomBits { .. } => Err("its result is integers"),
        Op::Call { .. } => Err("functions come after differentiation"),
    }
}
