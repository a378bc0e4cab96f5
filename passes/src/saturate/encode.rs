//! From a graph to an e-graph and back. Knows no rule and no cost.

use std::collections::BTreeMap;

use egg::Id;
use lith_ir::{Class, Graph, GraphError, NodeId, Op, Value};

use super::analysis::{Classes, Fact, Facts, Opaque, op_of};
use super::language::{Head, Node};
use super::rule::add_op;
use crate::weights::GraphWeights;

/// Constants of more elements than this are not looked into.
const LARGEST_CONSTANT: i64 = 64;

/// A graph as e-classes.
pub struct Encoded {
    /// The e-graph.
    pub classes: Classes,
    /// What must be made: results, and nodes with an effect.
    pub roots: Vec<Id>,
    /// The class of every value of the graph.
    pub class_of: BTreeMap<Value, Id>,
    /// The graph's node behind each opaque node.
    opaque: Vec<NodeId>,
}

/// Whether a node is kept as it is: its value comes from outside, or it has an effect, or lies in place of another.
fn is_opaque(graph: &Graph, node: NodeId) -> bool {
    match &graph.node(node).op {
        Op::Const { value } => value.ty().elements().as_const().is_none_or(|n| n > LARGEST_CONSTANT),
        Op::CacheAppend { .. } => true,
        op @ (Op::Arg { .. } | Op::Param { .. }) => op.class() == Class::Source,
        op => op.class() == Class::Control,
    }
}

/// The e-graph of a graph, and the choice of e-nodes that is the graph as it stands. `weights` tells which arguments are
/// parameters at every call, and how parameters are stored.
///
/// # Errors
/// When the graph has a cycle.
pub fn encode(graph: &Graph, weights: &GraphWeights) -> Result<(Encoded, BTreeMap<Id, Node>), GraphError> {
    let mut encoded = Encoded {
        classes: Classes::new(Facts { allowed: weights.allowed, ..Facts::default() }),
        roots: Vec::new(),
        class_of: BTreeMap::new(),
        opaque: Vec::new(),
    };
    let mut chosen = BTreeMap::new();
    for node in graph.topological()? {
        let at = graph.node(node);
        let operands: Vec<Option<Id>> =
            graph.operands(node).into_iter().map(|v| v.and_then(|v| encoded.class_of.get(&v).copied())).collect();
        let classes = &mut encoded.classes;
        let rewritten = if is_opaque(graph, node) { None } else { add_op(classes, &at.op, &operands, &mut Vec::new()) };
        if let Some(id) = rewritten {
            encoded.class_of.insert(node.into(), id);
            continue;
        }
        let known = weights.source(&at.op);
        let index = classes.analysis.opaque.len() as u32;
        classes.analysis.opaque.push(Opaque { op: at.op.clone(), types: at.types.clone(), known });
        encoded.opaque.push(node);
        let children = operands.into_iter().map(|o| o.unwrap_or_else(|| classes.add(Node::Absent))).collect();
        let id = classes.add(Node::Opaque(index, children));
        if at.types.len() == 1 {
            encoded.class_of.insert(node.into(), id);
        } else {
            for k in 0..at.types.len() as u32 {
                let result = classes.add(Node::Result(k, id));
                encoded.class_of.insert(Value { node, result: k }, result);
            }
        }
        if let Op::StateWrite { .. } = at.op {
            encoded.roots.push(id);
        }
    }
    encoded.classes.rebuild();
    // Before any rule has run, each class is one node.
    for class in encoded.classes.classes() {
        chosen.extend(class.nodes.first().map(|n| (class.id, n.clone())));
    }
    encoded.roots.extend(graph.results().iter().filter_map(|(_, v)| encoded.class_of.get(v).copied()));
    Ok((encoded, chosen))
}

impl Encoded {
    /// The choice `original`, made before rules ran, over the classes as they are now.
    pub fn current(&self, graph: &Graph, original: &BTreeMap<Id, Node>) -> Result<BTreeMap<Id, Node>, GraphError> {
        let find = |id: Id| self.classes.find(id);
        let canonical = |node: &Node| egg::Language::map_children(node.clone(), find);
        let mut chosen = BTreeMap::new();
        // In the order of the graph the first node of a class reads only classes that began before it: no cycle.
        for node in graph.topological()? {
            let results = graph.node(node).types.len() as u32;
            for result in 0..results {
                if let Some(id) = self.class_of.get(&Value { node, result })
                    && let Some(n) = original.get(id)
                {
                    chosen.entry(find(*id)).or_insert_with(|| canonical(n));
                }
            }
        }
        for (&id, node) in original {
            chosen.entry(find(id)).or_insert_with(|| canonical(node));
        }
        Ok(chosen)
    }

    /// Path of the first node of the graph in a class, or else in a class that reads it.
    pub fn path_near(&self, graph: &Graph, class: Id) -> String {
        let mut path_of: BTreeMap<Id, &str> = BTreeMap::new();
        for (value, &id) in &self.class_of {
            path_of.entry(self.classes.find(id)).or_insert(&graph.node(value.node).path);
        }
        let mut seen = std::collections::BTreeSet::new();
        let mut queue = std::collections::VecDeque::from([self.classes.find(class)]);
        while let Some(id) = queue.pop_front() {
            match path_of.get(&id) {
                Some(path) if !path.is_empty() => return path.to_string(),
                _ => {}
            }
            let parents: std::collections::BTreeSet<Id> =
                self.classes[id].parents().map(|p| self.classes.find(p)).collect();
            queue.extend(parents.into_iter().filter(|p| seen.insert(*p)));
        }
        String::new()
    }

    /// The graph that a choice of e-nodes stands for. Nodes keep the order and the paths of the original as far as they
    /// are in it; new ones stand at the path of the node they are made for.
    ///
    /// # Errors
    /// When the choice does not type, which is a bug of a rule.
    pub fn decode(&self, graph: &Graph, chosen: &BTreeMap<Id, Node>) -> Result<Graph, GraphError> {
        let order = graph.topological()?;
        let mut first: BTreeMap<Id, NodeId> = BTreeMap::new();
        for &node in &order {
            if let Some(&id) = self.class_of.get(&node.into()) {
                first.entry(self.classes.find(id)).or_insert(node);
            }
        }
        let path_of = |id: Id| first.get(&id).map(|&n| graph.node(n).path.to_string());
        let mut writer = Writer {
            encoded: self,
            original: graph,
            chosen,
            graph: Graph::new(),
            values: BTreeMap::new(),
            moved: super::explain::paths(&self.classes, &path_of),
            first: &first,
        };
        let needed = super::extract::reachable(&self.classes, &self.roots, chosen);
        for node in order {
            let at = graph.node(node);
            let here = (0..at.types.len() as u32).filter_map(|result| self.class_of.get(&Value { node, result }));
            for id in here.map(|&id| self.classes.find(id)).collect::<Vec<_>>() {
                if needed.contains(&id) || matches!(at.op, Op::Arg { .. }) {
                    writer.value(id, &at.path)?;
                }
            }
        }
        for &root in &self.roots {
            writer.value(self.classes.find(root), "")?;
        }
        for (name, value) in graph.results() {
            let id = self.class_of.get(value).map(|&id| self.classes.find(id));
            let new = id.and_then(|id| writer.values.get(&id).copied());
            let new = new.ok_or(GraphError::NoSuchValue { path: name.clone(), operand: 0 })?;
            writer.graph.add_result(name, new);
        }
        Ok(writer.graph)
    }
}

struct Writer<'a> {
    encoded: &'a Encoded,
    original: &'a Graph,
    chosen: &'a BTreeMap<Id, Node>,
    graph: Graph,
    values: BTreeMap<Id, Value>,
    /// The paths of nodes that moved.
    moved: BTreeMap<Node, String>,
    /// The first node of the original graph in each class.
    first: &'a BTreeMap<Id, NodeId>,
}

impl Writer<'_> {
    fn value(&mut self, id: Id, demanded_at: &str) -> Result<Value, GraphError> {
        let classes = &self.encoded.classes;
        let id = classes.find(id);
        if let Some(&value) = self.values.get(&id) {
            return Ok(value);
        }
        let missing = || GraphError::NoSuchValue { path: demanded_at.into(), operand: 0 };
        let node = self.chosen.get(&id).ok_or_else(missing)?;
        let first = self.first.get(&id).map(|&n| self.original.node(n));
        // A node of the same op is the node it was; another may be one that moved here.
        let kept = first.filter(|at| matches!(node, Node::Op(head, _) if Head::of(&at.op).0 == *head));
        let path = match (kept, self.moved.get(node), first) {
            (Some(at), ..) | (None, None, Some(at)) => at.path.to_string(),
            (None, Some(path), _) => path.clone(),
            (None, None, None) => demanded_at.to_string(),
        };
        let value = match node {
            Node::Result(k, call) => {
                let call = self.value(*call, &path)?;
                Value { node: call.node, result: *k }
            }
            Node::Opaque(i, children) => {
                let original = *self.encoded.opaque.get(*i as usize).ok_or_else(missing)?;
                let operands = self.operands(children.iter().map(|&c| Some(c)).collect(), &path)?;
                let (op, path) = (self.original.node(original).op.clone(), self.original.node(original).path.clone());
                self.graph.add_with(op, &operands, &path)?.into()
            }
            Node::Op(head, children) => {
                let (op, operands) = op_of(classes, *head, children).map_err(|_| missing())?;
                let operands = self.operands(operands, &path)?;
                self.graph.add_with(op, &operands, &path)?.into()
            }
            Node::Attr(_) | Node::Absent | Node::Function(..) | Node::Number(_) => return Err(missing()),
        };
        self.values.insert(id, value);
        Ok(value)
    }

    fn operands(&mut self, ids: Vec<Option<Id>>, path: &str) -> Result<Vec<Option<Value>>, GraphError> {
        let mut operands = Vec::with_capacity(ids.len());
        for id in ids {
            let there = id.filter(|&id| self.encoded.classes[id].data != Fact::Absent);
            operands.push(there.map(|id| self.value(id, path)).transpose()?);
        }
        Ok(operands)
    }
}
