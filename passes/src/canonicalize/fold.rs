//! Folding of constants: what depends on constants alone is computed once, here.

use std::collections::BTreeMap;

use lith_ir::interp::{Interpreter, Mode};
use lith_ir::{Class, Graph, GraphError, Literal, NodeId, Op, Program, Type, Value};

/// A constant of more elements is cheaper to compute again than to carry along.
const MAX_ELEMENTS: i64 = 1 << 16;

/// The value of a node whose operands are constants; one number broadcast where all elements are equal.
pub(super) fn fold(g: &mut Graph, n: NodeId) -> Result<Option<Value>, GraphError> {
    let node = g.node(n);
    let made_anywhere = matches!(node.op, Op::Broadcast { .. });
    let computes = matches!(node.op.class(), Class::Primitive | Class::Composite);
    if made_anywhere || !computes || !is_small(&node.types) || !g.inputs(n).iter().all(|v| is_constant(g, v.node)) {
        return Ok(None);
    }
    let (path, ty) = (node.path.clone(), g.ty(n.into()).clone());
    let Some(literal) = evaluate(g, n)? else { return Ok(None) };
    let size = ty.dtype.size();
    let first = literal.bytes().get(..size).unwrap_or_default();
    if ty.rank() > 0 && !first.is_empty() && literal.bytes().chunks(size).all(|c| c == first) {
        let Some(value) = Literal::new(ty.dtype, Vec::new(), first) else { return Ok(None) };
        let scalar = g.add(Op::Const { value }, &[], &path)?;
        return g.add(Op::Broadcast { shape: ty.shape, axes: Vec::new() }, &[scalar], &path).map(Some);
    }
    g.add(Op::Const { value: literal }, &[], &path).map(Some)
}

fn is_small(types: &[Type]) -> bool {
    let elements = |t: &Type| t.elements().as_const().is_some_and(|n| n <= MAX_ELEMENTS);
    types.iter().all(|t| t.static_shape().is_some() && elements(t))
}

/// Whether the node is a constant as folding leaves them: nodes come in topological order, so others are folded already.
fn is_constant(g: &Graph, n: NodeId) -> bool {
    match &g.node(n).op {
        Op::Const { .. } => true,
        Op::Iota { .. } => is_small(&g.node(n).types),
        Op::Broadcast { .. } => is_small(&g.node(n).types) && g.inputs(n).iter().all(|v| is_constant(g, v.node)),
        _ => false,
    }
}

/// Runs the node and the constants it reads. `None` when the interpreter refuses; then it stays for run time.
fn evaluate(g: &Graph, n: NodeId) -> Result<Option<Literal>, GraphError> {
    let mut graph = Graph::new();
    let mut copies = BTreeMap::new();
    let value = copy(g, n, &mut graph, &mut copies)?;
    graph.add_result("value", value);
    let mut program = Program::new("fold");
    program.entries.insert("main".into(), graph);
    let run = Interpreter::new(&program, Mode::Rounded).and_then(|i| i.run_pure("main", &[]));
    let tensor = run.ok().and_then(|r| r.into_iter().next());
    Ok(tensor.and_then(|t| Literal::new(t.dtype(), t.shape().to_vec(), t.to_bytes())))
}

/// Copies a node with all it reads.
fn copy(g: &Graph, n: NodeId, to: &mut Graph, copies: &mut BTreeMap<NodeId, Value>) -> Result<Value, GraphError> {
    if let Some(&copied) = copies.get(&n) {
        return Ok(copied);
    }
    let mut operands = Vec::new();
    for operand in g.operands(n) {
        operands.push(operand.map(|v| copy(g, v.node, to, copies)).transpose()?);
    }
    let copied = Value::from(to.add_with(g.node(n).op.clone(), &operands, "")?);
    copies.insert(n, copied);
    Ok(copied)
}
