//! Blocks and their repetitions.

use std::collections::{BTreeMap, BTreeSet};

use lith_ir::{Class, Graph, NodeId, Op, Value};
use petgraph::Direction;
use petgraph::visit::NodeIndexable;

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
    inner: BTreeSet<NodeId>,
    /// From first to last, not necessarily one right after the other; the last is the template itself.
    pub instances: Vec<Instance>,
}

/// Made anew in each function rather than handed over: constants, what only repeats a value, and bits of the first stream,
/// whose keys tell one use from another.
pub(super) fn is_free(op: &Op) -> bool {
    matches!(op, Op::Const { .. } | Op::Iota { .. } | Op::Size { .. } | Op::Broadcast { .. })
        || matches!(op, Op::RandomBits { stream: 0, .. })
}

/// A set of a graph's nodes.
pub(super) struct NodeSet(Vec<bool>);

impl NodeSet {
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.get(node.index()).copied().unwrap_or(false)
    }
}

/// Everything reachable from `start` in a direction, itself included: as a set, and one after the other.
fn reach(graph: &Graph, start: NodeId, direction: Direction) -> (NodeSet, Vec<NodeId>) {
    let mut seen = NodeSet(vec![false; graph.petgraph().node_bound()]);
    let mut found = Vec::new();
    let mut stack = vec![start];
    while let Some(n) = stack.pop() {
        if let Some(seen) = seen.0.get_mut(n.index()).filter(|seen| !**seen) {
            *seen = true;
            found.push(n);
            stack.extend(graph.petgraph().neighbors_directed(n, direction));
        }
    }
    (seen, found)
}

/// All that a node depends on, itself included.
pub(super) fn above(graph: &Graph, node: NodeId) -> NodeSet {
    reach(graph, node, Direction::Incoming).0
}

impl Repetition {
    /// The block from `input` to `output` with all its repetitions that end in one of `ends`, the last of which is
    /// `output`; `None` when it is no block. `above` is all that `output` depends on.
    pub fn between(
        graph: &Graph,
        input: NodeId,
        output: NodeId,
        above: &NodeSet,
        ends: &[NodeId],
    ) -> Option<Repetition> {
        if !above.contains(input) {
            return None;
        }
        let (below, all_below) = reach(graph, input, Direction::Outgoing);
        let mut inner: BTreeSet<NodeId> = all_below.into_iter().filter(|&n| n != input && above.contains(n)).collect();
        // What only the block uses belongs to it, such as a cast of one of its weights.
        let mut stack: Vec<NodeId> = inner.iter().copied().collect();
        while let Some(user) = stack.pop() {
            for n in graph.petgraph().neighbors_directed(user, Direction::Incoming) {
                let only_inside = !inner.contains(&n)
                    && !below.contains(n)
                    && graph.node(n).op.class() != Class::Source
                    && !matches!(graph.node(n).op, Op::StateRead { .. })
                    && !graph.results().iter().any(|(_, v)| v.node == n)
                    && graph.petgraph().neighbors_directed(n, Direction::Outgoing).all(|m| inner.contains(&m));
                if only_inside {
                    inner.insert(n);
                    stack.push(n);
                }
            }
        }
        if inner
            .iter()
            .any(|&n| graph.node(n).op.class() == Class::Control && !matches!(graph.node(n).op, Op::Call { .. }))
        {
            return None;
        }
        let mut repetition = Repetition { carried: input.into(), output, inner, instances: Vec::new() };
        repetition.find(graph, ends);
        Some(repetition)
    }

    /// Finds the block again wherever it ends in one of `ends`, the last of which is its output.
    pub fn find(&mut self, graph: &Graph, ends: &[NodeId]) {
        self.instances.clear();
        let mut taken: BTreeSet<NodeId> = BTreeSet::new();
        for &end in ends.iter().rev() {
            let Some(instance) = self.occurrence(graph, self.output, end) else { continue };
            let nodes: Vec<NodeId> =
                instance.nodes.values().copied().filter(|&n| !is_free(&graph.node(n).op)).collect();
            if nodes.iter().all(|n| !taken.contains(n)) {
                taken.extend(nodes);
                self.instances.push(instance);
            }
        }
        self.instances.reverse();
    }

    /// The occurrence of the block that ends in `end`.
    fn occurrence(&self, graph: &Graph, output: NodeId, end: NodeId) -> Option<Instance> {
        let mut found = Instance { nodes: BTreeMap::new(), inputs: BTreeMap::new() };
        let mut stack = vec![(output, end)];
        while let Some((a, b)) = stack.pop() {
            match found.nodes.get(&a) {
                Some(&before) if before == b => continue,
                Some(_) => return None,
                None => found.nodes.insert(a, b),
            };
            let (at, bt) = (graph.node(a), graph.node(b));
            if at.op != bt.op || at.types != bt.types {
                return None;
            }
            let (ai, bi) = (graph.operands(a), graph.operands(b));
            if ai.len() != bi.len() {
                return None;
            }
            for pair in ai.into_iter().zip(bi) {
                let (va, vb) = match pair {
                    (None, None) => continue,
                    (Some(va), Some(vb)) => (va, vb),
                    _ => return None,
                };
                if self.inner.contains(&va.node) || is_free(&graph.node(va.node).op) {
                    if va.result != vb.result {
                        return None;
                    }
                    stack.push((va.node, vb.node));
                } else {
                    let param = |v: Value| matches!(graph.node(v.node).op, Op::Param { .. });
                    let fits = graph.ty(va) == graph.ty(vb) && param(va) == param(vb);
                    if !fits || *found.inputs.entry(va).or_insert(vb) != vb {
                        return None;
                    }
                }
            }
        }
        Some(found)
    }

    /// The nodes of the template that compute.
    fn computing(&self, graph: &Graph) -> impl Iterator<Item = NodeId> {
        self.inner.iter().copied().filter(|&n| !is_free(&graph.node(n).op))
    }

    /// How many nodes of the template compute and are in no function yet.
    pub fn compute_nodes(&self, graph: &Graph) -> usize {
        self.computing(graph).filter(|&n| !matches!(graph.node(n).op, Op::Call { .. })).count()
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
        for instance in &self.instances {
            let here: BTreeSet<NodeId> = instance.nodes.values().copied().collect();
            for (&a, &b) in instance.nodes.iter().filter(|(a, _)| !is_free(&graph.node(**a).op)) {
                for result in 0..graph.node(b).types.len() as u32 {
                    let value = Value { node: b, result };
                    let asked = graph.users(value).iter().any(|(user, _)| !here.contains(user))
                        || graph.results().iter().any(|(_, v)| *v == value);
                    if asked {
                        outputs.insert(Value { node: a, result });
                    }
                }
            }
        }
        outputs.remove(&self.output.into());
        std::iter::once(self.output.into()).chain(outputs).collect()
    }
}
