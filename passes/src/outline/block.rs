//! Blocks and their repetitions.

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::{Class, Graph, NodeId, Op, Value};
use petgraph::Direction;
use petgraph::visit::{EdgeRef, NodeIndexable};

use crate::reads::is_elementwise;

/// One occurrence of a block.
pub(super) struct Instance {
    /// For each node of the template the node that does its work here.
    pub nodes: BTreeMap<NodeId, NodeId>,
    /// For each value that the template takes from outside the value taken here.
    pub inputs: BTreeMap<Value, Value>,
}

/// A block and where it occurs.
pub(super) struct Repetition {
    /// The value that goes from block to block, where the template takes it.
    carried: Value,
    /// The node whose value goes on to the next block.
    pub output: NodeId,
    /// The template's nodes; free ones may be missing.
    inner: NodeSet,
    /// From first to last, not necessarily one right after the other; the last is the template itself.
    pub instances: Vec<Instance>,
}

/// A block of fewer nodes is not worth a function.
const LEAST_NODES: usize = 4;

/// Made anew in each function rather than handed over: constants, what only repeats a value, and bits of the first stream,
/// whose keys tell one use from another.
pub(super) fn is_free(op: &Op) -> bool {
    matches!(op, Op::Const { .. } | Op::Iota { .. } | Op::Size { .. } | Op::Broadcast { .. })
        || matches!(op, Op::RandomBits { stream: 0, .. })
}

/// A set of a graph's nodes. Sets are made for every candidate, so they are plain tables.
struct NodeSet {
    members: Vec<NodeId>,
    has: Vec<bool>,
}

impl NodeSet {
    fn of(graph: &Graph) -> NodeSet {
        NodeSet { members: Vec::new(), has: vec![false; graph.petgraph().node_bound()] }
    }

    fn contains(&self, node: NodeId) -> bool {
        self.has.get(node.index()).copied().unwrap_or(false)
    }

    /// Whether it was not there before.
    fn insert(&mut self, node: NodeId) -> bool {
        let new = self.has.get_mut(node.index()).is_some_and(|has| !std::mem::replace(has, true));
        if new {
            self.members.push(node);
        }
        new
    }
}

/// Everything reachable from `start` in a direction by way of `within`, itself included.
fn reach(graph: &Graph, start: NodeId, direction: Direction, within: impl Fn(NodeId) -> bool) -> NodeSet {
    let mut seen = NodeSet::of(graph);
    let mut stack = vec![start];
    while let Some(n) = stack.pop() {
        if seen.insert(n) {
            stack.extend(graph.petgraph().neighbors_directed(n, direction).filter(|&n| within(n)));
        }
    }
    seen
}

impl Repetition {
    /// The block from `input` to `output` with all its repetitions that end in one of `ends`, the last of which is
    /// `output`; `None` when it is no block.
    pub fn between(graph: &Graph, input: NodeId, output: NodeId, ends: &[NodeId]) -> Option<Repetition> {
        let below = reach(graph, input, Direction::Outgoing, |_| true);
        if !below.contains(output) {
            return None;
        }
        // What lies between two nodes is reached from the second by way of what depends on the first.
        let mut inner = reach(graph, output, Direction::Incoming, |n| n != input && below.contains(n));
        // What only the block uses belongs to it, such as a cast of one of its weights.
        let mut stack: Vec<NodeId> = inner.members.clone();
        while let Some(user) = stack.pop() {
            for n in graph.petgraph().neighbors_directed(user, Direction::Incoming) {
                let only_inside = !inner.contains(n)
                    && !below.contains(n)
                    && graph.node(n).op.class() != Class::Source
                    && !matches!(graph.node(n).op, Op::StateRead { .. })
                    && !graph.results().iter().any(|(_, v)| v.node == n)
                    && graph.petgraph().neighbors_directed(n, Direction::Outgoing).all(|m| inner.contains(m));
                if only_inside && inner.insert(n) {
                    stack.push(n);
                }
            }
        }
        let control = |n: &NodeId| match &graph.node(*n).op {
            Op::Call { .. } => false,
            op => op.class() == Class::Control,
        };
        if inner.members.iter().any(control) {
            return None;
        }
        let mut repetition = Repetition { carried: input.into(), output, inner, instances: Vec::new() };
        if repetition.compute_nodes(graph) < LEAST_NODES || repetition.is_one_loop(graph) {
            return None;
        }
        repetition.find(graph, ends);
        Some(repetition)
    }

    /// Finds the block again wherever it ends in one of `ends`, the last of which is its output.
    pub fn find(&mut self, graph: &Graph, ends: &[NodeId]) {
        self.instances.clear();
        let mut taken = NodeSet::of(graph);
        let mut paired = vec![None; graph.petgraph().node_bound()];
        for &end in ends.iter().rev() {
            if taken.contains(end) {
                continue;
            }
            let Some(instance) = self.occurrence(graph, end, &mut paired) else { continue };
            let nodes = || instance.nodes.values().copied().filter(|&n| !is_free(&graph.node(n).op));
            if nodes().all(|n| !taken.contains(n)) {
                for n in nodes() {
                    taken.insert(n);
                }
                self.instances.push(instance);
            }
        }
        self.instances.reverse();
    }

    /// The occurrence of the block that ends in `end`. `paired` is a table with `None` for every node, and is left so.
    fn occurrence(&self, graph: &Graph, end: NodeId, paired: &mut [Option<NodeId>]) -> Option<Instance> {
        let (mut nodes, mut inputs) = (Vec::new(), BTreeMap::new());
        let found = self.walk(graph, end, paired, &mut nodes, &mut inputs);
        for (node, _) in &nodes {
            if let Some(entry) = paired.get_mut(node.index()) {
                *entry = None;
            }
        }
        found.then(|| Instance { nodes: nodes.into_iter().collect(), inputs })
    }

    /// Walks template and occurrence side by side; whether they are alike.
    fn walk(
        &self,
        graph: &Graph,
        end: NodeId,
        paired: &mut [Option<NodeId>],
        nodes: &mut Vec<(NodeId, NodeId)>,
        inputs: &mut BTreeMap<Value, Value>,
    ) -> bool {
        let mut stack = vec![(self.output, end)];
        while let Some((a, b)) = stack.pop() {
            let Some(pair) = paired.get_mut(a.index()) else { return false };
            match *pair {
                Some(before) if before == b => continue,
                Some(_) => return false,
                None => *pair = Some(b),
            }
            nodes.push((a, b));
            let (at, bt) = (graph.node(a), graph.node(b));
            if at.op != bt.op || at.types != bt.types {
                return false;
            }
            let (ai, bi) = (graph.operands(a), graph.operands(b));
            if ai.len() != bi.len() {
                return false;
            }
            for pair in ai.into_iter().zip(bi) {
                let (va, vb) = match pair {
                    (None, None) => continue,
                    (Some(va), Some(vb)) => (va, vb),
                    _ => return false,
                };
                if self.inner.contains(va.node) || is_free(&graph.node(va.node).op) {
                    if va.result != vb.result {
                        return false;
                    }
                    stack.push((va.node, vb.node));
                } else {
                    let param = |v: Value| matches!(graph.node(v.node).op, Op::Param { .. });
                    let fits = graph.ty(va) == graph.ty(vb) && param(va) == param(vb);
                    if !fits || *inputs.entry(va).or_insert(vb) != vb {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// The nodes of the template that compute.
    fn computing(&self, graph: &Graph) -> impl Iterator<Item = NodeId> {
        self.inner.members.iter().copied().filter(|&n| !is_free(&graph.node(n).op))
    }

    /// How many nodes of the template compute and are in no function yet.
    pub fn compute_nodes(&self, graph: &Graph) -> usize {
        self.computing(graph).filter(|&n| !matches!(graph.node(n).op, Op::Call { .. })).count()
    }

    /// Whether all of it is elementwise: one loop, whose code equal loops share without a function.
    fn is_one_loop(&self, graph: &Graph) -> bool {
        self.computing(graph).all(|n| is_elementwise(&graph.node(n).op))
    }

    /// What the template takes from outside: the carried value, then what is computed, then parameters.
    pub fn inputs(&self, graph: &Graph) -> Vec<Value> {
        let inputs = self.instances.iter().take(1).flat_map(|i| i.inputs.keys().copied());
        let mut inputs: Vec<Value> = inputs.collect();
        inputs.sort_by_key(|v| (*v != self.carried, matches!(graph.node(v.node).op, Op::Param { .. }), *v));
        inputs
    }

    /// How many of the inputs are computed.
    pub fn computed_inputs(&self, graph: &Graph) -> usize {
        self.inputs(graph).iter().filter(|v| !matches!(graph.node(v.node).op, Op::Param { .. })).count()
    }

    /// The template's values that any occurrence is asked for from outside; the one that is handed on comes first.
    pub fn outputs(&self, graph: &Graph) -> Vec<Value> {
        let mut outputs = BTreeSet::new();
        let results: BTreeSet<Value> = graph.results().iter().map(|(_, v)| *v).collect();
        // The occurrence that each node is part of; free ones may be of several and are not asked.
        let mut part = vec![usize::MAX; graph.petgraph().node_bound()];
        for (i, instance) in self.instances.iter().enumerate() {
            for b in instance.nodes.values() {
                part[b.index()] = i;
            }
        }
        for (i, instance) in self.instances.iter().enumerate() {
            for (&a, &b) in instance.nodes.iter().filter(|(a, _)| !is_free(&graph.node(**a).op)) {
                let asked = graph.petgraph().edges_directed(b, Direction::Outgoing);
                let asked = asked.filter(|e| part[e.target().index()] != i).map(|e| e.weight().result);
                outputs.extend(asked.map(|result| Value { node: a, result }));
                let results = (0..graph.node(b).types.len() as u32)
                    .filter(|&result| results.contains(&Value { node: b, result }));
                outputs.extend(results.map(|result| Value { node: a, result }));
            }
        }
        outputs.remove(&self.output.into());
        std::iter::once(self.output.into()).chain(outputs).collect()
    }
}
