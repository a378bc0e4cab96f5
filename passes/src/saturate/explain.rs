//! Which rules made a result: every application that added or joined something is logged with the e-nodes it matched, so
//! that each node that extraction chose leads back to nodes of the original graph.

use std::collections::{BTreeMap, BTreeSet};

use egg::{Id, Language};
use serde::{Deserialize, Serialize};

use super::analysis::Classes;
use super::language::Node;

/// One application of a rule.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Index of the rule.
    pub rule: usize,
    /// The e-class that matched.
    pub class: Id,
    /// The e-nodes that matched.
    pub matched: Vec<Node>,
    /// The e-nodes that were new.
    pub made: Vec<Node>,
}

/// Every application that changed the e-graph, in order.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// The applications.
    pub applied: Vec<Applied>,
}

/// A rewrite that led to the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    /// Name of the rule.
    pub rule: String,
    /// The rule as an equation.
    pub equation: String,
    /// `exact`, `reassociate` or `approximate`.
    pub numeric: String,
    /// The graph.
    pub graph: String,
    /// Path of the node that the rule was used on.
    pub path: String,
}

/// The paths of e-nodes that rules made of one with the same head: a norm that goes before a gather is still that norm.
/// `path_of` is the path of the first node of a class in the original graph.
pub fn paths(classes: &Classes, path_of: &dyn Fn(Id) -> Option<String>) -> BTreeMap<Node, String> {
    let canonical = |node: &Node| node.clone().map_children(|c| classes.find(c));
    let mut paths: BTreeMap<Node, String> = BTreeMap::new();
    for applied in &classes.analysis.log.applied {
        for made in &applied.made {
            let Node::Op(head, _) = made else { continue };
            let alike = applied.matched.iter().find(|m| matches!(m, Node::Op(h, _) if h == head));
            let path = alike.map(canonical).and_then(|m| {
                let own = paths.get(&m).cloned();
                own.or_else(|| classes.lookup(m).and_then(|id| path_of(classes.find(id))))
            });
            if let Some(path) = path {
                paths.entry(canonical(made)).or_insert(path);
            }
        }
    }
    paths
}

/// The applications that `chosen` e-nodes, each the choice for its class, come from, in the order they happened.
/// `original` tells whether an e-node was in the graph from the start, in this class.
pub fn applications(
    classes: &Classes,
    chosen: &BTreeMap<Id, Node>,
    original: &dyn Fn(Id, &Node) -> bool,
) -> Vec<usize> {
    let canonical = |node: &Node| node.clone().map_children(|c| classes.find(c));
    let log = &classes.analysis.log.applied;
    let mut maker: BTreeMap<Node, usize> = BTreeMap::new();
    let mut joined: BTreeMap<Id, Vec<usize>> = BTreeMap::new();
    for (i, applied) in log.iter().enumerate() {
        for node in &applied.made {
            maker.entry(canonical(node)).or_insert(i);
        }
        joined.entry(classes.find(applied.class)).or_default().push(i);
    }
    let mut found = BTreeSet::new();
    let mut stack: Vec<usize> = Vec::new();
    for (&class, node) in chosen {
        if original(class, node) {
            continue;
        }
        match maker.get(&canonical(node)) {
            Some(&i) => stack.push(i),
            // It was there before, but elsewhere: a rule joined the classes.
            None => stack.extend(joined.get(&class).into_iter().flatten().copied().take(1)),
        }
    }
    while let Some(i) = stack.pop() {
        if found.insert(i) {
            let matched = log.get(i).map_or(&[][..], |a| &a.matched);
            // Only what was made before: a rule may also match what it made.
            stack.extend(matched.iter().filter_map(|n| maker.get(&canonical(n)).copied()).filter(|&m| m < i));
        }
    }
    found.into_iter().collect()
}
