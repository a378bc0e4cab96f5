//! Common subexpressions: nodes with equal ops on equal operands become one.

use std::collections::hash_map::Entry;
use std::mem::{Discriminant, discriminant};

use lith_ir::{Graph, GraphError, Literal, NodeId, Op, Value};
use rustc_hash::FxHashMap;

/// What equal nodes have in common, and few others.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Const(Literal),
    /// A parameter or a state: all of one name are one, of one type.
    Named(Discriminant<Op>, String),
    Node(Discriminant<Op>, Vec<Option<Value>>),
}

/// Lets the users of equal nodes use the first. Whether there were any.
pub(super) fn merge_equal(graph: &mut Graph) -> Result<bool, GraphError> {
    let mut known: FxHashMap<Key, Vec<NodeId>> = FxHashMap::default();
    let mut changed = false;
    for node in graph.topological()? {
        let key = match &graph.node(node).op {
            Op::Arg { .. } | Op::StateWrite { .. } => continue,
            Op::Const { value } => Key::Const(value.clone()),
            op @ (Op::Param { name, .. } | Op::StateRead { name, .. }) => Key::Named(discriminant(op), name.clone()),
            op => Key::Node(discriminant(op), graph.operands(node)),
        };
        let alike = match known.entry(key) {
            Entry::Vacant(new) => {
                new.insert(vec![node]);
                continue;
            }
            Entry::Occupied(alike) => alike.into_mut(),
        };
        let equal = |&&other: &&NodeId| same(&graph.node(other).op, &graph.node(node).op);
        match alike.iter().find(equal).copied() {
            Some(first) => {
                for result in 0..graph.node(node).types.len() as u32 {
                    graph.replace(Value { node, result }, Value { node: first, result });
                }
                graph.remove(node);
                changed = true;
            }
            None => alike.push(node),
        }
    }
    Ok(changed)
}

/// Whether two ops of one key have the same attributes to the last bit, which the debug form tells: as numbers, both zeros
/// are equal and NaN is not.
fn same(a: &Op, b: &Op) -> bool {
    match (a, b) {
        (Op::Const { .. } | Op::Param { .. } | Op::StateRead { .. }, _) => true,
        _ => format!("{a:?}") == format!("{b:?}"),
    }
}
