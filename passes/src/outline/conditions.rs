//! Masks in numbers that several blocks read, such as `(1 - mask) * -3.4e38`, are made anew for each of them, so that a
//! block is handed the condition and not numbers of which nothing is known. Where no block comes of it they are found
//! equal again later.

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::{DType, Graph, GraphError, NodeId, Op, Value};

/// Gives every reader of numbers that a condition alone decides its own.
pub(super) fn make_anew(graph: &mut Graph) -> Result<(), GraphError> {
    let numbers = numbers_of_conditions(graph)?;
    let shared = |n: &NodeId| {
        let readers = graph.users(Value::from(*n)).into_iter().filter(|(user, _)| !numbers.contains(user));
        (*n, readers.skip(1).map(|(user, _)| user).collect::<BTreeSet<_>>())
    };
    let shared: Vec<_> = numbers.iter().map(shared).filter(|(_, readers)| !readers.is_empty()).collect();
    // A reader that is replaced may be one of another value, too.
    let mut instead: BTreeMap<NodeId, NodeId> = BTreeMap::new();
    for (node, readers) in shared {
        for reader in readers {
            let reader = *instead.get(&reader).unwrap_or(&reader);
            let (op, path) = (graph.node(reader).op.clone(), graph.node(reader).path.clone());
            if graph.node(reader).types.len() != 1 {
                continue;
            }
            let own = copy(graph, node.into(), &numbers, &path, &mut BTreeMap::new())?;
            let take = |v: Option<Value>| if v == Some(node.into()) { Some(own) } else { v };
            let operands: Vec<_> = graph.operands(reader).into_iter().map(take).collect();
            let new = graph.add_with(op, &operands, &path)?;
            graph.replace(reader.into(), new.into());
            graph.remove(reader);
            instead.insert(reader, new);
        }
    }
    Ok(())
}

/// Nodes whose elements are one of two constants each, as a condition says, and conditions, both moved and repeated in any
/// way.
fn numbers_of_conditions(graph: &Graph) -> Result<BTreeSet<NodeId>, GraphError> {
    let (mut numbers, mut constants) = (BTreeSet::new(), BTreeSet::new());
    for node in graph.topological()? {
        let inputs: Vec<NodeId> = graph.inputs(node).into_iter().map(|v| v.node).collect();
        let condition = |i: usize| graph.operand(node, i).is_some_and(|v| graph.ty(v).dtype == DType::Bool);
        let known = |inputs: &[NodeId]| inputs.iter().all(|n| numbers.contains(n) || constants.contains(n));
        let made = match graph.node(node).op {
            Op::Const { .. } => true,
            Op::Cast { dtype } if condition(0) => dtype.is_float(),
            Op::Reshape { .. } | Op::Broadcast { .. } if condition(0) => true,
            Op::Select {} => inputs.len() == 3 && known(&inputs[1..]),
            Op::Cast { .. } | Op::Binary { .. } | Op::Reshape { .. } | Op::Broadcast { .. } => known(&inputs),
            _ => false,
        };
        let constant = matches!(graph.node(node).op, Op::Const { .. })
            || made && !inputs.is_empty() && inputs.iter().all(|n| constants.contains(n));
        if constant {
            constants.insert(node);
        } else if made {
            numbers.insert(node);
        }
    }
    Ok(numbers)
}

/// The same numbers again; `copied` are those that have been copied already.
fn copy(
    graph: &mut Graph,
    value: Value,
    numbers: &BTreeSet<NodeId>,
    path: &str,
    copied: &mut BTreeMap<Value, Value>,
) -> Result<Value, GraphError> {
    if !numbers.contains(&value.node) {
        return Ok(value);
    }
    if let Some(&copy) = copied.get(&value) {
        return Ok(copy);
    }
    let op = graph.node(value.node).op.clone();
    let mut operands = graph.operands(value.node);
    for operand in operands.iter_mut().flatten() {
        *operand = copy(graph, *operand, numbers, path, copied)?;
    }
    let new = Value::from(graph.add_with(op, &operands, path)?);
    copied.insert(value, new);
    Ok(new)
}
