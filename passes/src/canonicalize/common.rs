//! Common subexpressions: nodes with equal ops on equal operands become one.

use std::collections::HashMap;

use lith_ir::{Graph, GraphError, Literal, Op, Value};

/// What makes two nodes equal: the op with its attributes, and the operands.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Const(Literal),
    /// There may be thousands.
    Param(String),
    Node(String, Vec<Option<Value>>),
}

/// Lets the users of equal nodes use the first. Whether there were any.
pub(super) fn merge_equal(graph: &mut Graph) -> Result<bool, GraphError> {
    let mut first: HashMap<Key, Value> = HashMap::new();
    let mut changed = false;
    for node in graph.topological()? {
        let key = match &graph.node(node).op {
            Op::Arg { .. } | Op::StateWrite { .. } => continue,
            Op::Const { value } => Key::Const(value.clone()),
            // All of one name are one parameter, of one type.
            Op::Param { name, .. } => Key::Param(name.clone()),
            // The debug form tells every attribute to the last bit.
            op => Key::Node(format!("{op:?}"), graph.operands(node)),
        };
        match first.get(&key) {
            Some(&same) => {
                for result in 0..graph.node(node).types.len() as u32 {
                    graph.replace(Value { node, result }, Value { node: same.node, result });
                }
                graph.remove(node);
                changed = true;
            }
            None => drop(first.insert(key, node.into())),
        }
    }
    Ok(changed)
}
