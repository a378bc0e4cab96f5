//! Activations as codes: what enters a linear layer of the chosen weights is rounded to one or two bytes in groups, so that
//! its products are integers.
//!
//! Three kinds of layers stand out by what that does to answers (measured on SmolLM2: answers of a 4-bit model stay in 7 of 8
//! cases without them, in 3 with them): those that make queries, keys and values, from inputs with a few large channels; those
//! that read the output of an activation function, which has rare large values; and those that make results. [`Rounding::Robust`]
//! gives them two bytes.

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::quant::{ACTIVATION_GROUP, ACTIVATION_LEVELS};
use lith_ir::{Binary, DType, Graph, NodeId, Op, Value};

use crate::{Compiled, PassError};

/// To how many bytes activations are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// Not at all.
    #[default]
    Nowhere,
    /// Two in all of the chosen layers.
    Fine,
    /// One in the layers that answers depend on least, two in the others.
    Robust,
    /// One in all of the chosen layers.
    Everywhere,
}

/// Rounds the activations of linear layers whose weight is one of `weights`.
pub(crate) fn run(compiled: &mut Compiled, rounding: Rounding, weights: &BTreeSet<String>) -> Result<(), PassError> {
    if rounding == Rounding::Nowhere || weights.is_empty() {
        return Ok(());
    }
    let program = &mut compiled.program;
    for (name, graph) in program.functions.iter_mut().chain(&mut program.entries) {
        // One rounding serves all layers that read a value.
        let mut rounded: BTreeMap<(Value, usize), Value> = BTreeMap::new();
        for node in graph.topological().map_err(PassError::in_graph(name))? {
            let Some(x) = activation(graph, node, weights) else { continue };
            let fine = match rounding {
                Rounding::Fine => true,
                Rounding::Robust => is_sensitive(graph, node, x),
                Rounding::Nowhere | Rounding::Everywhere => false,
            };
            let levels = ACTIVATION_LEVELS[usize::from(fine)];
            let known = rounded.get(&(x, levels)).copied();
            let y = match known {
                Some(y) => y,
                None => {
                    let path = graph.node(node).path.clone();
                    let op = Op::DynamicQuantize { group: ACTIVATION_GROUP, levels };
                    let y = graph.add(op, &[x], &path).map_err(PassError::in_graph(name))?;
                    rounded.insert((x, levels), y);
                    y
                }
            };
            let mut operands = graph.operands(node);
            operands[0] = Some(y);
            let path = graph.node(node).path.clone();
            let linear = graph.add_with(Op::Linear {}, &operands, &path).map_err(PassError::in_graph(name))?;
            graph.replace(node.into(), linear.into());
            graph.remove(node);
        }
    }
    Ok(())
}

/// What a linear layer of one of the weights reads.
fn activation(graph: &Graph, node: NodeId, weights: &BTreeSet<String>) -> Option<Value> {
    let Op::Linear {} = graph.node(node).op else { return None };
    let weight = graph.operand(node, 1)?;
    let x = graph.operand(node, 0)?;
    match &graph.node(weight.node).op {
        Op::Param { name, .. } if weights.contains(name) && graph.ty(x).dtype == DType::F32 => Some(x),
        _ => None,
    }
}

/// Whether a layer that reads `x` is one of those that this module's head names.
fn is_sensitive(graph: &Graph, layer: NodeId, x: Value) -> bool {
    reads_activation(graph, x) || leads_out(graph, layer)
}

/// Whether a value is made by an activation function, or is a product with what one makes.
fn reads_activation(graph: &Graph, x: Value) -> bool {
    let made_by = |v: Value| matches!(graph.node(v.node).op, Op::Activation { .. });
    match graph.node(x.node).op {
        Op::Binary { f: Binary::Mul } => graph.inputs(x.node).into_iter().any(made_by),
        _ => made_by(x),
    }
}

/// Whether what a layer makes goes into attention or becomes a result before it meets another layer or is added to what
/// was there before.
fn leads_out(graph: &Graph, layer: NodeId) -> bool {
    let (mut seen, mut stack) = (BTreeSet::new(), vec![layer]);
    while let Some(node) = stack.pop() {
        if graph.results().iter().any(|(_, v)| v.node == node) {
            return true;
        }
        for (user, _) in graph.users(node.into()) {
            match graph.node(user).op {
                Op::CacheAppend { .. }
                | Op::PagedAttention { .. }
                | Op::PackedAttention { .. }
                | Op::Attention { .. } => {
                    return true;
                }
                // A head of the right width, turned or normalised; a bias; a bound on logits.
                Op::Reshape { .. } | Op::Transpose { .. } | Op::Rope { .. } | Op::RmsNorm { .. } | Op::Unary { .. } => {
                }
                Op::Binary { .. } if has_constant(graph, user) => {}
                _ => continue,
            }
            if seen.insert(user) {
                stack.push(user);
            }
        }
    }
    false
}

/// Whether one of a node's operands is a constant or a parameter, repeated perhaps.
fn has_constant(graph: &Graph, node: NodeId) -> bool {
    graph.inputs(node).into_iter().any(|mut v| {
        while let (Op::Broadcast { .. }, Some(x)) = (&graph.node(v.node).op, graph.operand(v.node, 0)) {
            v = x;
        }
        matches!(graph.node(v.node).op, Op::Const { .. } | Op::Param { .. })
    })
}

#[cfg(test)]
mod tests {
    use lith_ir::{Activation, Builder, Dim, Program, Symbol, Type};

    use super::*;

    /// A gated block with attention: which of its layers round to so many levels.
    fn rounded(rounding: Rounding, levels: usize) -> Vec<String> {
        let tokens = Dim::symbol(&Symbol::new("tokens"));
        let mut graph = Graph::new();
        let ty = |n: i64| Type::new(DType::F32, [tokens.clone(), Dim::from(n)]);
        let mut b = Builder::new(&mut graph, "");
        let x = b.arg("x", ty(32)).unwrap();
        let offsets = Type::new(DType::I32, [Dim::from(2i64)]);
        let offsets = b.arg("offsets", offsets).unwrap();
        let layer = |b: &mut Builder<'_>, name: &str, x: Value| {
            let w = b.param(name, Type::new(DType::F32, [32i64, 32])).unwrap();
            b.op(Op::Linear {}, &[x, w]).unwrap()
        };
        let q = layer(&mut b, "q", x);
        let attention = Op::PackedAttention { heads: 2, kv_heads: 2, scale: 0.5, causal: true, dropout: 0.0 };
        let y = b.op(attention, &[q, q, q, offsets]).unwrap();
        let o = layer(&mut b, "o", y);
        let x = b.add(x, o).unwrap();
        let gate = layer(&mut b, "gate", x);
        let up = layer(&mut b, "up", x);
        let act = b.op(Op::Activation { f: Activation::Silu }, &[gate]).unwrap();
        let product = b.mul(act, up).unwrap();
        let down = layer(&mut b, "down", product);
        let x = b.add(x, down).unwrap();
        let head = layer(&mut b, "head", x);
        let logits = b.mul_const(head, 2.0).unwrap();
        graph.add_result("logits", logits);
        let mut program = Program::new("test");
        program.entries.insert("forward".into(), graph);
        let mut compiled = Compiled { program, ..Compiled::default() };
        let weights = ["q", "o", "gate", "up", "down", "head"].map(String::from);
        run(&mut compiled, rounding, &weights.into()).unwrap();
        let graph = &compiled.program.entries["forward"];
        let mut names: Vec<String> = graph
            .petgraph()
            .node_indices()
            .filter(|&n| matches!(graph.node(n).op, Op::Linear {}))
            .filter(|&n| {
                let x = &graph.node(graph.operand(n, 0).unwrap().node).op;
                matches!(x, Op::DynamicQuantize { levels: found, .. } if *found == levels)
            })
            .filter_map(|n| match &graph.node(graph.operand(n, 1).unwrap().node).op {
                Op::Param { name, .. } => Some(name.clone()),
                _ => None,
            })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn sensitive_layers_take_two_bytes() {
        let [one, two] = ACTIVATION_LEVELS;
        let (all, none) = (["down", "gate", "head", "o", "q", "up"], Vec::<String>::new());
        for (rounding, bytes, wide) in [
            (Rounding::Nowhere, none.clone(), none.clone()),
            (Rounding::Fine, none.clone(), all.map(String::from).into()),
            (
                Rounding::Robust,
                ["gate", "o", "up"].map(String::from).into(),
                ["down", "head", "q"].map(String::from).into(),
            ),
            (Rounding::Everywhere, all.map(String::from).into(), none),
        ] {
            assert_eq!((rounded(rounding, one), rounded(rounding, two)), (bytes, wide), "{rounding:?}");
        }
    }
}
