//! Chooses one e-node for each class so that the sum of costs over the classes in use is small: a class that many read
//! counts once. Greedy from the leaves up, then local improvement, each also from the graph as it was; never a cycle.
//! The same e-graph gives the same choice.

use std::collections::{BTreeMap, BTreeSet};

use egg::{Id, Language};

use super::analysis::Classes;
use super::language::Node;

/// One e-node for each class.
pub type Choice = BTreeMap<Id, Node>;

/// How many times the whole choice is gone through for improvements.
const ROUNDS: usize = 8;
/// How many alternatives are tried in all.
const TRIALS: usize = 4_000;

/// The classes that a choice makes use of.
pub fn reachable(classes: &Classes, roots: &[Id], choice: &Choice) -> BTreeSet<Id> {
    let mut seen = BTreeSet::new();
    let mut stack: Vec<Id> = roots.iter().map(|&r| classes.find(r)).collect();
    while let Some(id) = stack.pop() {
        if seen.insert(id)
            && let Some(node) = choice.get(&id)
        {
            stack.extend(node.children().iter().map(|&c| classes.find(c)));
        }
    }
    seen
}

/// How far a walk has come with a class.
#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    New,
    Begun,
    Done,
}

/// The states of all classes, which are numbered without large gaps.
#[derive(Default)]
struct States(Vec<State>);

impl States {
    fn of(&mut self, id: Id) -> &mut State {
        let index = usize::from(id);
        if self.0.len() <= index {
            self.0.resize(index + 1, State::New);
        }
        &mut self.0[index]
    }
}

/// The cost of a choice; `None` when it has a cycle or a class without a node.
pub fn total(classes: &Classes, roots: &[Id], choice: &Choice, cost: &dyn Fn(Id, &Node) -> f64) -> Option<f64> {
    sum_of(classes, roots, f64::INFINITY, &mut |id, children| {
        let node = choice.get(&id)?;
        children.extend(node.children().iter().map(|&c| classes.find(c)));
        Some(cost(id, node))
    })
}

/// The sum of the costs of all classes in use; `None` when one has no node, there is a cycle, or it is above a limit. `look`
/// gives the cost of what is chosen for a class, and adds its operands to a list.
fn sum_of(
    classes: &Classes,
    roots: &[Id],
    limit: f64,
    look: &mut dyn FnMut(Id, &mut Vec<Id>) -> Option<f64>,
) -> Option<f64> {
    // Depth first; a class that is met while it is being worked on is part of a cycle.
    let mut done = States::default();
    let mut stack: Vec<(Id, bool)> = roots.iter().rev().map(|&r| (classes.find(r), false)).collect();
    let mut children = Vec::new();
    let mut sum = 0.0;
    while let Some((id, finished)) = stack.pop() {
        let state = done.of(id);
        match state {
            _ if finished => {
                *state = State::Done;
                continue;
            }
            State::Done => continue,
            State::Begun => return None,
            State::New => *state = State::Begun,
        }
        children.clear();
        sum += look(id, &mut children)?;
        if sum > limit {
            return None;
        }
        stack.push((id, true));
        for &child in children.iter().rev() {
            match done.of(child) {
                State::Done => {}
                State::Begun => return None,
                State::New => stack.push((child, false)),
            }
        }
    }
    Some(sum)
}

/// The cheapest choice found, and its cost. It never costs more than `original`.
pub fn extract(
    classes: &Classes,
    roots: &[Id],
    original: &Choice,
    cost: &dyn Fn(Id, &Node) -> f64,
) -> Option<(Choice, f64)> {
    let start = total(classes, roots, original, cost)?;
    let mut best = (original.clone(), start);
    improve(classes, roots, &mut best, cost);
    let greedy = greedy(classes, cost);
    share(classes, roots, &mut best, &greedy, cost);
    if let Some(sum) = total(classes, roots, &greedy, cost) {
        let mut other = (greedy.clone(), sum);
        improve(classes, roots, &mut other, cost);
        share(classes, roots, &mut other, &greedy, cost);
        // Of equals the one that is the graph as it was.
        if other.1 < best.1 * (1.0 - 1e-9) {
            best = other;
        }
    }
    Some(best)
}

/// For each class the node whose own cost with all that it needs, each class once, is least.
fn greedy(classes: &Classes, cost: &dyn Fn(Id, &Node) -> f64) -> Choice {
    // What a class needs, itself included, with the cost of each; and the sum.
    type Needs = (BTreeMap<Id, f64>, f64, Node);
    let mut best: BTreeMap<Id, Needs> = BTreeMap::new();
    let mut ids: Vec<Id> = classes.classes().map(|c| c.id).collect();
    ids.sort_unstable();
    let parents = |id: Id| -> BTreeSet<Id> { classes[id].parents().map(|p| classes.find(p)).collect() };
    let mut pending: BTreeSet<Id> = ids.iter().copied().collect();
    while let Some(id) = pending.pop_first() {
        let mut improved = false;
        for node in &classes[id].nodes {
            let children: Vec<Id> = node.children().iter().map(|&c| classes.find(c)).collect();
            if children.iter().any(|c| *c == id || best.get(c).is_none_or(|b| b.0.contains_key(&id))) {
                continue;
            }
            let own = cost(id, node);
            let most = children.iter().filter_map(|c| best.get(c)).map(|b| b.1).fold(0.0, f64::max);
            // Even alone it costs more than what is known.
            if best.get(&id).is_some_and(|b| own + most >= b.1) {
                continue;
            }
            // What is free and needs nothing is part of no cycle and adds nothing, such as parameters.
            let mut needs = BTreeMap::new();
            if own > 0.0 || !children.is_empty() {
                needs.insert(id, own);
            }
            for c in &children {
                if let Some(b) = best.get(c) {
                    needs.extend(b.0.iter().map(|(k, v)| (*k, *v)));
                }
            }
            let sum: f64 = needs.values().sum();
            if best.get(&id).is_none_or(|b| sum < b.1 * (1.0 - 1e-12)) {
                best.insert(id, (needs, sum, node.clone()));
                improved = true;
            }
        }
        if improved {
            pending.extend(parents(id));
        }
    }
    best.into_iter().map(|(id, (_, _, node))| (id, node)).collect()
}

/// Takes other nodes for single classes as long as the whole gets cheaper.
fn improve(classes: &Classes, roots: &[Id], best: &mut (Choice, f64), cost: &dyn Fn(Id, &Node) -> f64) {
    // What is chosen, by class: its cost and operands, for the whole is summed up at every trial.
    let entry = |id: Id, node: &Node| -> (f64, Vec<Id>) {
        (cost(id, node), node.children().iter().map(|&c| classes.find(c)).collect())
    };
    let mut chosen: Vec<Option<(f64, Vec<Id>)>> = Vec::new();
    for (&id, node) in &best.0 {
        chosen.resize(chosen.len().max(usize::from(id) + 1), None);
        chosen[usize::from(id)] = Some(entry(id, node));
    }
    let mut trials = 0;
    for _ in 0..ROUNDS {
        let before = best.1;
        for id in reachable(classes, roots, &best.0) {
            for node in &classes[id].nodes {
                // Classes that nothing chose a node for yet cannot be read.
                let known = node.children().iter().all(|&c| best.0.contains_key(&classes.find(c)));
                if !known || best.0.get(&id) == Some(node) {
                    continue;
                }
                trials += 1;
                if trials > TRIALS {
                    return;
                }
                let old = chosen[usize::from(id)].replace(entry(id, node));
                let look = &mut |id: Id, operands: &mut Vec<Id>| {
                    let (cost, children) = chosen.get(usize::from(id))?.as_ref()?;
                    operands.extend(children);
                    Some(*cost)
                };
                match sum_of(classes, roots, best.1, look) {
                    Some(sum) if sum < best.1 * (1.0 - 1e-9) => {
                        best.0.insert(id, node.clone());
                        best.1 = sum;
                    }
                    _ => chosen[usize::from(id)] = old,
                }
            }
        }
        if best.1 >= before {
            return;
        }
    }
}

/// Whether only ops that take rows at any distance read these classes, be it through reshapes that keep rows: then columns of
/// a wider value need no copy.
fn read_in_place(classes: &Classes, roots: &[Id], choice: &Choice, columns: &BTreeSet<Id>) -> bool {
    let last = |id: Id| classes[id].data.tensor().and_then(|t| t.ty.shape.last());
    let mut strided = columns.clone();
    // Operands come before what reads them only in the order of the graph, so this goes on until nothing is new.
    loop {
        let before = strided.len();
        for id in reachable(classes, roots, choice) {
            let Some(Node::Op(head, children)) = choice.get(&id) else { continue };
            let reads = children.iter().any(|&c| strided.contains(&classes.find(c)));
            match head.name() {
                _ if !reads || strided.contains(&id) => {}
                "attention" | "packed_attention" | "paged_attention" | "rope" | "cache_append" => {}
                "reshape" if children.iter().any(|&c| last(c).is_some() && last(c) == last(id)) => {
                    strided.insert(id);
                }
                _ => return false,
            }
        }
        if strided.len() == before {
            return !roots.iter().any(|&r| strided.contains(&classes.find(r)));
        }
    }
}

/// Lets all classes at once that could read one that nothing reads yet do so, where together they cost less: each alone would
/// pay for it. `fallback` has nodes for classes that the choice has none for.
fn share(
    classes: &Classes,
    roots: &[Id],
    best: &mut (Choice, f64),
    fallback: &Choice,
    cost: &dyn Fn(Id, &Node) -> f64,
) {
    let used = reachable(classes, roots, &best.0);
    let mut readers: BTreeMap<Id, BTreeMap<Id, &Node>> = BTreeMap::new();
    for &id in &used {
        for node in &classes[id].nodes {
            for child in node.children().iter().map(|&c| classes.find(c)).filter(|c| !used.contains(c)) {
                readers.entry(child).or_default().entry(id).or_insert(node);
            }
        }
    }
    for together in readers.into_values().filter(|r| r.len() > 1).take(TRIALS) {
        let mut choice = best.0.clone();
        for (id, node) in fallback {
            choice.entry(*id).or_insert_with(|| node.clone());
        }
        choice.extend(together.iter().map(|(&id, &node)| (id, node.clone())));
        let slices = together.into_iter().filter(|(_, node)| matches!(node, Node::Op(h, _) if h.name() == "slice"));
        if !read_in_place(classes, roots, &choice, &slices.map(|(id, _)| id).collect()) {
            continue;
        }
        match total(classes, roots, &choice, cost) {
            Some(sum) if sum < best.1 * (1.0 - 1e-9) => *best = (choice, sum),
            _ => {}
        }
    }
}
