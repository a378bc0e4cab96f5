//! The groups while they form: which nodes each has, over which domain, and who reads whom.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use lith_ir::plan::KernelKind;
use lith_ir::{Dim, Graph, NodeId, Op, Value};

use super::nodes::NodeMap;
use super::role::{Context, IndexMap, Role, compose, identity, operand_index, role, unit_axes};
use crate::PassError;

/// What kind of kernel a group becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A loop nest over the domain.
    Loop,
    /// A loop nest that ends in one reduction over other axes than the last.
    Reduction,
    /// A contraction with epilogue.
    Contraction(NodeId),
    /// A kernel of one node.
    Alone(KernelKind),
}

struct Group {
    kind: Kind,
    /// The index space: of the operand for reductions, else of the result.
    domain: Vec<Dim>,
    nodes: Vec<NodeId>,
    /// Positions of the first and the last node in topological order.
    span: (usize, usize),
}

/// All groups of a graph. A node that computes is in one group, or in none: then its readers compute it themselves.
pub(super) struct Groups<'g> {
    pub graph: &'g Graph,
    /// Topological order.
    pub order: Vec<NodeId>,
    pub position: NodeMap<usize>,
    pub roles: NodeMap<Role>,
    /// Nodes whose first result is read from memory in any case.
    pub stored: BTreeSet<NodeId>,
    /// Reshapes and slices that are another name of stored bytes.
    aliases: BTreeSet<NodeId>,
    pub group_of: NodeMap<usize>,
    groups: Vec<Option<Group>>,
    /// For each grouped node the grouped nodes that read it, be it through nodes in no group.
    pub consumers: NodeMap<Vec<NodeId>>,
}

/// Whether `small` is `domain` without its last axis, or with 1 for it.
pub(crate) fn is_row_of(small: &[Dim], domain: &[Dim]) -> bool {
    let Some((_, rows)) = domain.split_last() else { return false };
    small == rows || small.split_last().is_some_and(|(last, s)| s == rows && last.as_const() == Some(1))
}

impl<'g> Groups<'g> {
    /// One group for each node that computes.
    pub fn new(name: &str, graph: &'g Graph, context: &Context<'_>) -> Result<Self, PassError> {
        let order = graph.topological().map_err(PassError::in_graph(name))?;
        let position = order.iter().enumerate().map(|(i, &n)| (n, i)).collect();
        let mut roles = NodeMap::default();
        for &n in &order {
            let role = role(name, graph, n, context)
                .ok_or_else(|| PassError::broken(name, format!("no kernel for `{}`", graph.node(n).op.name())))?;
            roles.insert(n, role);
        }
        let mut groups = Groups {
            graph,
            order,
            position,
            roles,
            stored: graph.results().iter().map(|(_, v)| v.node).collect(),
            aliases: BTreeSet::new(),
            group_of: NodeMap::default(),
            groups: Vec::new(),
            consumers: NodeMap::default(),
        };
        groups.find_stored();
        for n in groups.order.clone() {
            groups.start_group(n);
        }
        groups.find_consumers();
        Ok(groups)
    }

    /// Marks what is read from memory: by kernels of their own, at computed indices, under another shape.
    fn find_stored(&mut self) {
        for &n in self.order.iter().rev() {
            let inputs = self.graph.inputs(n).into_iter().map(|v| v.node);
            match (&self.roles[&n], &self.graph.node(n).op) {
                (Role::Alone(_), _) => self.stored.extend(inputs),
                (Role::Contraction, _) => {
                    self.stored.extend(inputs.filter(|n| self.roles[n] != Role::Quantize));
                }
                (Role::Quantize, _) => self.stored.extend(inputs),
                (Role::Store, _) => drop(self.stored.insert(n)),
                (_, Op::Gather { .. }) => self.stored.extend(inputs.take(1)),
                (Role::View, Op::Reshape { shape }) => {
                    let from = self.graph.operand(n, 0).map(|x| self.graph.ty(x).shape.clone()).unwrap_or_default();
                    if self.stored.contains(&n) || unit_axes(&from, shape).is_none() {
                        self.aliases.insert(n);
                        self.stored.extend(inputs);
                    }
                }
                (Role::View, _) => {
                    self.aliases.insert(n);
                    self.stored.extend(inputs);
                }
                _ => {}
            }
        }
    }

    fn start_group(&mut self, n: NodeId) {
        let own = || self.graph.node(n).types.first().map(|t| t.shape.clone()).unwrap_or_default();
        let operand = || self.graph.operand(n, 0).map(|x| self.graph.ty(x).shape.clone()).unwrap_or_default();
        let (kind, domain) = match &self.roles[&n] {
            Role::Memory | Role::View | Role::Quantize => return,
            Role::Generator | Role::Broadcast if !self.stored.contains(&n) => return,
            Role::Generator | Role::Broadcast | Role::Elementwise | Role::Store | Role::Movement => (Kind::Loop, own()),
            Role::RowReduce => (Kind::Loop, operand()),
            Role::Reduce => (Kind::Reduction, operand()),
            Role::Contraction => (Kind::Contraction(n), own()),
            Role::Alone(kind) => (Kind::Alone(kind.clone()), own()),
        };
        self.group_of.insert(n, self.groups.len());
        let at = self.position[&n];
        self.groups.push(Some(Group { kind, domain, nodes: vec![n], span: (at, at) }));
    }

    fn find_consumers(&mut self) {
        let grouped: Vec<NodeId> = self.order.iter().copied().filter(|n| self.group_of.contains_key(n)).collect();
        let mut consumers: NodeMap<Vec<NodeId>> = grouped.iter().map(|&n| (n, Vec::new())).collect();
        for &n in &grouped {
            let sources: BTreeSet<NodeId> = self.accesses(n).into_iter().map(|(s, _)| s).collect();
            for source in sources {
                if let Some(readers) = consumers.get_mut(&source) {
                    readers.push(n);
                }
            }
        }
        self.consumers = consumers;
    }

    fn group(&self, g: usize) -> &Group {
        self.groups[g].as_ref().expect("a group that was joined or dissolved is in no index")
    }

    pub fn kind(&self, g: usize) -> &Kind {
        &self.group(g).kind
    }

    pub fn domain(&self, g: usize) -> &[Dim] {
        &self.group(g).domain
    }

    pub fn nodes(&self, g: usize) -> &[NodeId] {
        &self.group(g).nodes
    }

    pub fn set_domain(&mut self, g: usize, domain: Vec<Dim>) {
        if let Some(group) = &mut self.groups[g] {
            group.domain = domain;
        }
    }

    /// Moves the nodes of one group to another.
    pub fn join(&mut self, from: usize, to: usize) {
        let Some(gone) = self.groups[from].take() else { return };
        for &n in &gone.nodes {
            self.group_of.insert(n, to);
        }
        if let Some(group) = &mut self.groups[to] {
            group.nodes.extend(gone.nodes);
            group.span = (group.span.0.min(gone.span.0), group.span.1.max(gone.span.1));
        }
    }

    /// Leaves the computation of a group to its readers.
    pub fn dissolve(&mut self, g: usize) {
        let Some(gone) = self.groups[g].take() else { return };
        let sources: BTreeSet<NodeId> =
            gone.nodes.iter().flat_map(|&n| self.accesses(n)).map(|(source, _)| source).collect();
        let mut readers = BTreeSet::new();
        for n in &gone.nodes {
            self.group_of.remove(n);
            readers.extend(self.consumers.remove(n).unwrap_or_default());
        }
        for source in sources {
            if let Some(readers) = self.consumers.get_mut(&source) {
                readers.retain(|r| !gone.nodes.contains(r));
            }
        }
        // What they computed for others is computed by those, who read what it took.
        for reader in readers.into_iter().filter(|r| !gone.nodes.contains(r)) {
            for (source, _) in self.accesses(reader) {
                let Some(known) = self.consumers.get_mut(&source) else { continue };
                if let Err(at) = known.binary_search_by_key(&self.position[&reader], |n| self.position[n]) {
                    known.insert(at, reader);
                }
            }
        }
    }

    /// Whether the group has no reduction and all its values have the shape of the domain.
    pub fn is_flat(&self, g: usize) -> bool {
        let full = |n: &NodeId| self.roles[n] != Role::RowReduce && self.graph.ty((*n).into()).shape == self.domain(g);
        self.nodes(g).iter().all(full)
    }

    /// The grouped nodes that `node` reads, be it through nodes in no group, each with the index it reads them at by its
    /// own index (reductions: the index they reduce over); `None` where that is not picked from axes, or from memory.
    pub fn accesses(&self, node: NodeId) -> Vec<(NodeId, Option<IndexMap>)> {
        let mut found = Vec::new();
        let memory = matches!(self.roles[&node], Role::Alone(_) | Role::Contraction);
        for (position, operand) in self.graph.operands(node).into_iter().enumerate() {
            if let Some(v) = operand {
                let map = if memory { None } else { operand_index(self.graph, node, position, v) };
                self.walk(v, map, &mut |source, map| found.push((source, map)));
            }
        }
        found.retain(|(n, _)| self.group_of.contains_key(n));
        found
    }

    /// Calls `visit` with every grouped or outside node behind `value`.
    fn walk(&self, value: Value, map: Option<IndexMap>, visit: &mut dyn FnMut(NodeId, Option<IndexMap>)) {
        let n = value.node;
        if self.group_of.contains_key(&n) || self.roles[&n] == Role::Memory {
            return visit(n, map);
        }
        let map = if self.aliases.contains(&n) { None } else { map };
        for (position, operand) in self.graph.operands(n).into_iter().enumerate() {
            if let Some(v) = operand {
                let inner = operand_index(self.graph, n, position, v);
                self.walk(v, map.as_ref().zip(inner).map(|(outer, inner)| compose(outer, &inner)), visit);
            }
        }
    }

    /// Whether `node` reads all it reads of `producers` at its own index of `domain`, or of its rows.
    pub fn all_aligned(&self, producers: &[NodeId], node: NodeId, domain: &[Dim]) -> bool {
        self.accesses(node).into_iter().filter(|(n, _)| producers.contains(n)).all(|(n, map)| {
            let shape = &self.graph.ty(n.into()).shape;
            (shape == domain || is_row_of(shape, domain)) && map.is_some_and(|m| m == identity(shape))
        })
    }

    /// Whether code over rows and columns finds all operands of `node`: in domains of more than two axes they may vary
    /// by the last axis, by all others together, or by all.
    pub fn epilogue_can_read(&self, node: NodeId) -> bool {
        let shape = &self.graph.ty(node.into()).shape;
        let all: Vec<usize> = identity(shape).into_iter().flatten().collect();
        let (rows, last): (Vec<usize>, Vec<usize>) = all.iter().partition(|&&a| a + 1 < shape.len());
        let mut fits = true;
        for (position, operand) in self.graph.operands(node).into_iter().enumerate() {
            let Some(v) = operand else { continue };
            self.walk(v, operand_index(self.graph, node, position, v), &mut |_, map| {
                let axes: Vec<usize> = map.iter().flatten().copied().flatten().collect();
                fits &= map.is_some() && (shape.len() <= 2 || axes.is_empty() || [&all, &rows, &last].contains(&&axes));
            });
        }
        fits
    }

    /// Whether a kernel reads `node` from memory when `members` are one kernel.
    pub fn leaves(&self, node: NodeId, members: &[NodeId]) -> bool {
        self.stored.contains(&node) || self.consumers[&node].iter().any(|c| !members.contains(c))
    }

    /// Whether something else reads a group of `from` and is read by `to`, so that they cannot be one kernel.
    pub fn path_around(&self, from: &[usize], to: usize) -> bool {
        let last = self.group(to).span.1;
        let mut seen = vec![false; self.groups.len()];
        from.iter().for_each(|&g| seen[g] = true);
        let readers = |g: usize| self.nodes(g).iter().flat_map(|n| &self.consumers[n]).map(|n| self.group_of[n]);
        let mut stack: Vec<usize> = from.iter().flat_map(|&g| readers(g)).filter(|&g| g != to).collect();
        while let Some(g) = stack.pop() {
            // What lies behind all of `to` reads none of it; groups run as a whole.
            if std::mem::replace(&mut seen[g], true) || self.group(g).span.0 >= last {
                continue;
            }
            for reader in readers(g) {
                if reader == to {
                    return true;
                }
                stack.push(reader);
            }
        }
        false
    }

    /// The nodes with all that they compute for themselves, each after its operands.
    pub fn with_inline(&self, nodes: &[NodeId]) -> Vec<NodeId> {
        let mut all: BTreeSet<NodeId> = nodes.iter().copied().collect();
        let mut stack = nodes.to_vec();
        while let Some(n) = stack.pop() {
            for v in self.graph.inputs(n) {
                let inline = !self.group_of.contains_key(&v.node)
                    && self.roles[&v.node] != Role::Memory
                    && !self.aliases.contains(&v.node);
                if inline && all.insert(v.node) {
                    stack.push(v.node);
                }
            }
        }
        let mut all: Vec<NodeId> = all.into_iter().collect();
        all.sort_by_key(|n| self.position[n]);
        all
    }

    /// The groups, each after those it reads; among those that could come next, the one with the earliest last node.
    pub fn in_order(&self) -> Vec<usize> {
        let live: Vec<usize> = (0..self.groups.len()).filter(|&g| self.groups[g].is_some()).collect();
        let key = |g: usize| (self.group(g).span.1, g);
        let readers = |g: usize| -> BTreeSet<usize> {
            let consumers = self.nodes(g).iter().flat_map(|n| &self.consumers[n]);
            consumers.map(|n| self.group_of[n]).filter(|&r| r != g).collect()
        };
        let mut waiting: BTreeMap<usize, usize> = live.iter().map(|&g| (g, 0)).collect();
        for &g in &live {
            for r in readers(g) {
                *waiting.entry(r).or_default() += 1;
            }
        }
        let mut ready: BinaryHeap<_> = live.iter().filter(|g| waiting[g] == 0).map(|&g| Reverse(key(g))).collect();
        let mut order = Vec::with_capacity(live.len());
        while let Some(Reverse((_, g))) = ready.pop() {
            order.push(g);
            for r in readers(g) {
                if let Some(count) = waiting.get_mut(&r) {
                    *count -= 1;
                    if *count == 0 {
                        ready.push(Reverse(key(r)));
                    }
                }
            }
        }
        order
    }
}
