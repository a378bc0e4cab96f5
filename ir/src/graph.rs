//! The graph: nodes with an op, result types and a path in the model, over petgraph. Knows nothing of programs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use petgraph::Direction;
use petgraph::stable_graph::{EdgeIndex, NodeIndex, StableDiGraph};
use petgraph::visit::{EdgeRef, NodeIndexable};

use crate::infer::{TypeError, result_types};
use crate::op::{Class, Op};
use crate::types::Type;

/// A node's index in its graph; stable while other nodes come and go.
pub type NodeId = NodeIndex<u32>;

/// A node: what it does, what it yields and where in the model it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The operation.
    pub op: Op,
    /// Types of the results.
    pub types: Vec<Type>,
    /// Path in the model, such as `encoder.layer.0.attention.query`; empty for glue.
    pub path: Arc<str>,
}

/// An edge from the node that makes a value to a node that uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// Which result of the source.
    pub result: u32,
    /// Which operand of the target, by position in the op's row.
    pub operand: u32,
}

/// A result of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value {
    /// The node.
    pub node: NodeId,
    /// Which of its results.
    pub result: u32,
}

impl From<NodeId> for Value {
    fn from(node: NodeId) -> Self {
        Value { node, result: 0 }
    }
}

/// Why a node was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// The operands do not fit the op.
    #[error("at `{path}`: {source}")]
    Type {
        /// The model path of the refused node.
        path: String,
        /// What does not fit.
        source: TypeError,
    },
    /// An operand is not in the graph.
    #[error("at `{path}`: operand {operand} is no value of this graph")]
    NoSuchValue {
        /// The model path of the refused node.
        path: String,
        /// Position of the operand.
        operand: usize,
    },
    /// The nodes depend on each other.
    #[error("the graph has a cycle through node {0}")]
    Cycle(usize),
}

/// A dataflow graph with arguments and results.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: StableDiGraph<Node, Use, u32>,
    results: Vec<(String, Value)>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Graph::default()
    }

    /// The petgraph, for any of its algorithms.
    pub fn petgraph(&self) -> &StableDiGraph<Node, Use, u32> {
        &self.nodes
    }

    /// Adds a node; its types follow from the operands. `None` stands for an absent optional operand.
    ///
    /// # Errors
    /// When the operands do not fit the op or are not in the graph; the graph is then unchanged.
    pub fn add_with(&mut self, op: Op, operands: &[Option<Value>], path: &str) -> Result<NodeId, GraphError> {
        let mut types = Vec::with_capacity(operands.len());
        for (i, operand) in operands.iter().enumerate() {
            types.push(match operand {
                None => None,
                Some(v) => match self.try_ty(*v) {
                    Some(t) => Some(t),
                    None => return Err(GraphError::NoSuchValue { path: path.into(), operand: i }),
                },
            });
        }
        let types = result_types(&op, &types).map_err(|source| GraphError::Type { path: path.into(), source })?;
        let node = self.nodes.add_node(Node { op, types, path: path.into() });
        for (i, operand) in operands.iter().enumerate() {
            if let Some(v) = operand {
                self.nodes.add_edge(v.node, node, Use { result: v.result, operand: i as u32 });
            }
        }
        Ok(node)
    }

    /// [`Graph::add_with`] for an op whose operands are all there, returning its first result.
    ///
    /// # Errors
    /// As [`Graph::add_with`].
    pub fn add(&mut self, op: Op, operands: &[Value], path: &str) -> Result<Value, GraphError> {
        let operands: Vec<_> = operands.iter().copied().map(Some).collect();
        self.add_with(op, &operands, path).map(Value::from)
    }

    /// The node of this index.
    ///
    /// # Panics
    /// When it is not in the graph.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// The node of this index, if it is in the graph.
    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.nodes.node_weight(id)
    }

    /// Changes the path of a node.
    pub fn set_path(&mut self, id: NodeId, path: &str) {
        if let Some(node) = self.nodes.node_weight_mut(id) {
            node.path = path.into();
        }
    }

    /// The type of a value.
    ///
    /// # Panics
    /// When it is not in the graph.
    pub fn ty(&self, value: Value) -> &Type {
        &self.nodes[value.node].types[value.result as usize]
    }

    /// The type of a value, if it is in the graph.
    pub fn try_ty(&self, value: Value) -> Option<&Type> {
        self.nodes.node_weight(value.node)?.types.get(value.result as usize)
    }

    /// The operands by position in the op's row, `None` where an optional one is absent; trailing absent ones are cut.
    pub fn operands(&self, id: NodeId) -> Vec<Option<Value>> {
        let mut operands = Vec::new();
        for e in self.nodes.edges_directed(id, Direction::Incoming) {
            let at = e.weight().operand as usize;
            if operands.len() <= at {
                operands.resize(at + 1, None);
            }
            operands[at] = Some(Value { node: e.source(), result: e.weight().result });
        }
        operands
    }

    /// The operands that are there, in order.
    pub fn inputs(&self, id: NodeId) -> Vec<Value> {
        self.operands(id).into_iter().flatten().collect()
    }

    /// Operand `position` of a node, if it is there.
    pub fn operand(&self, id: NodeId, position: usize) -> Option<Value> {
        self.nodes
            .edges_directed(id, Direction::Incoming)
            .find(|e| e.weight().operand as usize == position)
            .map(|e| Value { node: e.source(), result: e.weight().result })
    }

    /// Users of a value as (node, operand position), ascending.
    pub fn users(&self, value: Value) -> Vec<(NodeId, usize)> {
        let mut users: Vec<_> = self
            .nodes
            .edges_directed(value.node, Direction::Outgoing)
            .filter(|e| e.weight().result == value.result)
            .map(|e| (e.target(), e.weight().operand as usize))
            .collect();
        users.sort_unstable();
        users
    }

    /// The results with their names.
    pub fn results(&self) -> &[(String, Value)] {
        &self.results
    }

    /// Adds a result.
    pub fn add_result(&mut self, name: &str, value: Value) {
        self.results.push((name.into(), value));
    }

    /// Lets result `index` be another value.
    ///
    /// # Panics
    /// When there is no such result.
    pub fn set_result(&mut self, index: usize, value: Value) {
        self.results[index].1 = value;
    }

    /// Forgets all results; nodes stay.
    pub fn clear_results(&mut self) {
        self.results.clear();
    }

    /// Keeps only the results whose index `keep` accepts.
    pub fn retain_results(&mut self, keep: impl Fn(usize) -> bool) {
        let mut index = 0;
        self.results.retain(|_| {
            index += 1;
            keep(index - 1)
        });
    }

    /// The arguments by index.
    pub fn args(&self) -> Vec<NodeId> {
        let by_index: BTreeMap<usize, NodeId> = self
            .nodes
            .node_indices()
            .filter_map(|n| match self.nodes[n].op {
                Op::Arg { index, .. } => Some((index, n)),
                _ => None,
            })
            .collect();
        by_index.into_values().collect()
    }

    /// Lets every user of `old`, results of the graph among them, use `new` instead. Types must be equal.
    ///
    /// # Panics
    /// When the types differ: a pass that changes a type has a bug.
    pub fn replace(&mut self, old: Value, new: Value) {
        assert_eq!(self.ty(old), self.ty(new), "replacement of another type");
        let edges: Vec<(EdgeIndex<u32>, NodeId, Use)> = self
            .nodes
            .edges_directed(old.node, Direction::Outgoing)
            .filter(|e| e.weight().result == old.result && e.target() != new.node)
            .map(|e| (e.id(), e.target(), *e.weight()))
            .collect();
        for (edge, target, mut used) in edges {
            self.nodes.remove_edge(edge);
            used.result = new.result;
            self.nodes.add_edge(new.node, target, used);
        }
        for (_, value) in &mut self.results {
            if *value == old {
                *value = new;
            }
        }
    }

    /// Removes a node and its edges. Its values must have no users left.
    pub fn remove(&mut self, id: NodeId) {
        self.nodes.remove_node(id);
    }

    /// Removes every node that no result depends on; arguments and state writes stay. Returns how many went.
    pub fn prune(&mut self) -> usize {
        let mut live = vec![false; self.nodes.node_bound()];
        let mut stack: Vec<NodeId> = self.results.iter().map(|(_, v)| v.node).collect();
        stack.extend(
            self.nodes.node_indices().filter(|&n| matches!(self.nodes[n].op, Op::Arg { .. } | Op::StateWrite { .. })),
        );
        while let Some(n) = stack.pop() {
            if !std::mem::replace(&mut live[n.index()], true) {
                stack.extend(self.nodes.neighbors_directed(n, Direction::Incoming));
            }
        }
        let before = self.nodes.node_count();
        self.nodes.retain_nodes(|_, n| live[n.index()]);
        before - self.nodes.node_count()
    }

    /// Nodes in an order where each follows its operands; among those that could come next, the least index.
    ///
    /// # Errors
    /// When there is a cycle.
    pub fn topological(&self) -> Result<Vec<NodeId>, GraphError> {
        let mut waiting = vec![0usize; self.nodes.node_bound()];
        let mut ready = BinaryHeap::new();
        for n in self.nodes.node_indices() {
            let count = self.nodes.edges_directed(n, Direction::Incoming).count();
            waiting[n.index()] = count;
            if count == 0 {
                ready.push(Reverse(n));
            }
        }
        let mut order = Vec::with_capacity(self.nodes.node_count());
        while let Some(Reverse(n)) = ready.pop() {
            order.push(n);
            for e in self.nodes.edges_directed(n, Direction::Outgoing) {
                let count = &mut waiting[e.target().index()];
                *count -= 1;
                if *count == 0 {
                    ready.push(Reverse(e.target()));
                }
            }
        }
        match waiting.iter().position(|&count| count > 0) {
            Some(n) => Err(GraphError::Cycle(n)),
            None => Ok(order),
        }
    }

    /// Number of nodes that compute something.
    pub fn compute_nodes(&self) -> usize {
        self.nodes.node_weights().filter(|n| n.op.class() != Class::Source).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dim::{Dim, Symbol};
    use crate::dtype::DType;
    use crate::op::{Activation, Binary};

    fn arg(g: &mut Graph, index: usize, ty: Type) -> Value {
        g.add(Op::Arg { index, name: format!("x{index}"), ty }, &[], "").unwrap()
    }

    #[test]
    fn optional_operands_keep_their_position() {
        let t = Dim::symbol(&Symbol::new("tokens"));
        let mut g = Graph::new();
        let x = arg(&mut g, 0, Type::new(DType::F32, [t.clone(), Dim::from(8i64)]));
        let b = arg(&mut g, 1, Type::new(DType::F32, [8i64]));
        let n = g.add_with(Op::LayerNorm { eps: 1e-5 }, &[Some(x), None, Some(b)], "norm").unwrap();
        assert_eq!(g.operands(n), [Some(x), None, Some(b)]);
        assert_eq!(g.users(b), [(n, 2)]);
    }

    #[test]
    fn a_wrong_shape_names_path_and_types() {
        let mut g = Graph::new();
        let x = arg(&mut g, 0, Type::new(DType::F32, [4i64, 8]));
        let w = arg(&mut g, 1, Type::new(DType::F32, [16i64, 9]));
        let error = g.add(Op::Linear {}, &[x, w], "encoder.layer.0.query").unwrap_err().to_string();
        assert_eq!(error, "at `encoder.layer.0.query`: linear: f32[4, 8] by weight f32[16, 9]");
    }

    #[test]
    fn replace_and_prune() {
        let mut g = Graph::new();
        let x = arg(&mut g, 0, Type::new(DType::F32, [4i64]));
        let y = g.add(Op::Activation { f: Activation::Gelu }, &[x], "").unwrap();
        let z = g.add(Op::Binary { f: Binary::Add }, &[y, y], "").unwrap();
        g.add_result("z", z);
        g.replace(y, x);
        assert_eq!(g.prune(), 1);
        assert_eq!(g.inputs(z.node), [x, x]);
        assert_eq!(g.topological().unwrap().len(), 2);
    }
}
