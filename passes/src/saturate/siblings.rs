//! Linear layers of one input, put beside each other so that rules can make one of them: no pattern with one root finds what
//! only shares an operand. Every layer of such a group is also a slice of the group's concatenation; the rules of
//! [`super::rules`] named `siblings-..` say that this is one linear layer, and extraction whether it pays.

use std::collections::{BTreeMap, BTreeSet};

use egg::{Id, Language};
use lith_ir::{Dim, Graph, NodeId, Op, Value};

use super::analysis::Classes;
use super::encode::Encoded;
use super::explain::Applied;
use super::language::{Head, Node};
use super::rule::add_op;
use super::rules::SIBLINGS;

/// A layer: its class, how many outputs it has and the e-node.
type Layer = (Id, Dim, Node);

/// The classes that may be layers of a group: those of the graph whose readers are no elementwise ops. Such a reader is
/// computed while a part of the layer's result is at hand, and would read it from memory again if layers were one.
pub fn layers(graph: &Graph, encoded: &Encoded) -> BTreeSet<Id> {
    let elementwise = |op: &Op| {
        matches!(
            op,
            Op::Unary { .. }
                | Op::Binary { .. }
                | Op::Compare { .. }
                | Op::Select {}
                | Op::Cast { .. }
                | Op::Activation { .. }
        )
    };
    let (mut found, mut other) = (BTreeSet::new(), BTreeSet::new());
    for (&value, &id) in &encoded.class_of {
        let id = encoded.classes.find(id);
        // What only adds the bias is in the class of the layer before or of that with it.
        let outside =
            |n: &NodeId| encoded.class_of.get(&Value::from(*n)).is_none_or(|&c| encoded.classes.find(c) != id);
        let readers = graph.users(value).into_iter().map(|(n, _)| n).filter(outside);
        if readers.into_iter().any(|n| elementwise(&graph.node(n).op)) {
            other.insert(id);
        }
        found.insert(id);
    }
    found.difference(&other).copied().collect()
}

/// Puts siblings among `layers` beside each other; `rule_of` finds a rule by name. For each group the rule that makes it one
/// layer, and the class it is to be used on.
pub fn gather(
    classes: &mut Classes,
    layers: &BTreeSet<Id>,
    rule_of: &dyn Fn(&str) -> Option<usize>,
) -> Vec<(usize, Id)> {
    let mut found = Vec::new();
    for group in groups(classes, layers) {
        let bias = |(_, _, node): &Layer| if has_bias(classes, node) { 'b' } else { '-' };
        let name = format!("siblings-{}", group.iter().map(bias).collect::<String>());
        let Some(rule) = rule_of(&name) else { continue };
        found.extend(put_together(classes, rule, group).map(|class| (rule, class)));
    }
    found
}

fn has_bias(classes: &Classes, node: &Node) -> bool {
    node.children().last().is_some_and(|&b| classes[b].data.tensor().is_some())
}

/// Layers of the same input whose weights can be stored one after the other, in the order of their classes.
fn groups(classes: &Classes, layers: &BTreeSet<Id>) -> Vec<Vec<Layer>> {
    let linear = Head::of(&Op::Linear {}).0;
    // By input, and by how weights are stored.
    let mut groups: BTreeMap<(Id, u32), Vec<Layer>> = BTreeMap::new();
    for &id in layers {
        let mut here: BTreeMap<(Id, u32), Layer> = BTreeMap::new();
        for node in &classes[id].nodes {
            let Node::Op(head, children) = node else { continue };
            let &[x, weight, bias] = &children[..] else { continue };
            if *head != linear {
                continue;
            }
            let (Some(w), Some(ty)) = (classes[weight].data.tensor(), classes[id].data.tensor()) else { continue };
            let plain_bias = classes[bias].data.tensor().is_none_or(|b| b.known.weight().is_some());
            let (Some(stored), Some(size)) = (w.known.weight().filter(|w| !w.shared), ty.ty.shape.last()) else {
                continue;
            };
            if size.as_const().is_some() && plain_bias {
                here.entry((classes.find(x), stored.stored)).or_insert_with(|| (id, size.clone(), node.clone()));
            }
        }
        for (key, layer) in here {
            groups.entry(key).or_default().push(layer);
        }
    }
    groups.into_values().filter(|layers| (2..=SIBLINGS).contains(&layers.len())).collect()
}

/// Adds the concatenation of the layers, and each layer as a slice of it.
fn put_together(classes: &mut Classes, rule: usize, layers: Vec<Layer>) -> Option<Id> {
    let axis = classes[layers.first()?.0].data.tensor()?.ty.rank().checked_sub(1)?;
    let ids: Vec<Option<Id>> = layers.iter().map(|l| Some(l.0)).collect();
    let matched: Vec<Node> = layers.iter().map(|l| l.2.clone()).collect();
    let mut made = Vec::new();
    let all = add_op(classes, &Op::Concat { axis }, &ids, &mut made)?;
    let mut start = Dim::default();
    for (id, size, _) in layers {
        let stop = start.clone() + size;
        let slice = Op::Slice { axis, start: start.clone(), stop: stop.clone(), step: 1 };
        let slice = add_op(classes, &slice, &[Some(all)], &mut made)?;
        classes.union(id, slice);
        classes.analysis.log.applied.push(Applied {
            rule,
            class: id,
            matched: matched.clone(),
            made: std::mem::take(&mut made),
        });
        start = stop;
    }
    classes.rebuild();
    Some(all)
}
