//! Programs that cost the same with fewer calls: what a repeated layer costs counts with its function, so an estimate need not
//! grow with depth. Knows nothing of costs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lith_ir::quant::Storage;
use lith_ir::{Graph, GraphError, NodeId, Op, Program, Value};

/// What a call gives for an operand, as far as anything outside the called function hangs on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Given {
    /// A parameter that is stored so, and that nothing else reads.
    Param(Option<Storage>),
    /// What another call results in.
    Through,
    /// This very value.
    Value(Value),
}

/// Where a parameter is read: by calls of one function as one of its arguments, or in several ways.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader<'p> {
    Argument(&'p str, usize),
    Several,
}

/// The program without calls that are like an earlier one in all that its own graph can tell, and for each entry point how
/// many it lacks. Whoever read the result of such a call reads what that call was given instead, so everything still
/// depends on what it depended on. Programs with states stay as they are, since what calls do to those matters.
///
/// # Errors
/// When a graph has a cycle.
pub(super) fn without_repeats(
    program: &Program,
    stored: &BTreeMap<String, Storage>,
) -> Result<(Program, BTreeMap<String, usize>), GraphError> {
    let mut left_out = BTreeMap::new();
    if !program.states.is_empty() || !program.derived.is_empty() {
        return Ok((program.clone(), left_out));
    }
    let readers = readers(program);
    let mut thin = Program {
        name: program.name.clone(),
        symbols: program.symbols.clone(),
        functions: program.functions.clone(),
        ..Program::default()
    };
    for (name, graph) in &program.entries {
        let instead = repeats(graph, &readers, stored)?;
        left_out.insert(name.clone(), instead.len());
        let graph = without(graph, &instead)?;
        for node in graph.petgraph().node_weights() {
            if let Op::Param { name, .. } = &node.op
                && let Some(ty) = program.params.get(name)
            {
                thin.params.insert(name.clone(), ty.clone());
            }
        }
        thin.entries.insert(name.clone(), graph);
    }
    Ok((thin, left_out))
}

fn readers<'p>(program: &'p Program) -> HashMap<&'p str, Reader<'p>> {
    let mut readers: HashMap<&str, Reader<'p>> = HashMap::new();
    for graph in program.entries.values() {
        let mut read = |value: Value, reader: Reader<'p>| {
            if let Op::Param { name, .. } = &graph.node(value.node).op {
                let known = readers.entry(name).or_insert(reader);
                if *known != reader {
                    *known = Reader::Several;
                }
            }
        };
        for node in graph.petgraph().node_indices() {
            for (index, value) in graph.inputs(node).into_iter().enumerate() {
                read(
                    value,
                    match &graph.node(node).op {
                        Op::Call { function, .. } => Reader::Argument(function, index),
                        _ => Reader::Several,
                    },
                );
            }
        }
        graph.results().iter().for_each(|(_, value)| read(*value, Reader::Several));
    }
    readers
}

/// The results of calls that can be left out, each with the value that stands for it.
fn repeats(
    graph: &Graph,
    readers: &HashMap<&str, Reader<'_>>,
    stored: &BTreeMap<String, Storage>,
) -> Result<BTreeMap<Value, Value>, GraphError> {
    let is_call = |node: NodeId| matches!(graph.node(node).op, Op::Call { .. });
    let mut seen = BTreeSet::new();
    let mut instead: BTreeMap<Value, Value> = BTreeMap::new();
    for node in graph.topological()? {
        let Op::Call { function, .. } = &graph.node(node).op else { continue };
        let (result, mut through) = (Value::from(node), Vec::new());
        let mut alone = true;
        let mut given = |value: Value| match &graph.node(value.node).op {
            Op::Param { name, .. } => {
                alone &= readers.get(name.as_str()) != Some(&Reader::Several);
                Given::Param(stored.get(name).copied())
            }
            Op::Call { .. } => {
                through.push(value);
                Given::Through
            }
            _ => Given::Value(value),
        };
        let kind: Vec<Given> = graph.inputs(node).into_iter().map(&mut given).collect();
        let [value] = through[..] else { continue };
        let passes = graph.node(node).types.len() == 1 && graph.ty(value) == graph.ty(result);
        let only_calls = graph.users(result).iter().all(|(user, _)| is_call(*user));
        let is_result = graph.results().iter().any(|(_, v)| *v == result);
        if alone && passes && only_calls && !is_result && !seen.insert((function, kind)) {
            instead.insert(result, *instead.get(&value).unwrap_or(&value));
        }
    }
    Ok(instead)
}

/// The graph without the nodes that only the left out calls need.
fn without(graph: &Graph, instead: &BTreeMap<Value, Value>) -> Result<Graph, GraphError> {
    let order = graph.topological()?;
    let kept = |value: Value| *instead.get(&value).unwrap_or(&value);
    let mut needed: BTreeSet<NodeId> = graph.results().iter().map(|(_, value)| kept(*value).node).collect();
    for &node in order.iter().rev() {
        if matches!(graph.node(node).op, Op::Arg { .. }) {
            needed.insert(node);
        }
        if needed.contains(&node) {
            needed.extend(graph.inputs(node).into_iter().map(|value| kept(value).node));
        }
    }
    let mut thin = Graph::new();
    let mut new: BTreeMap<NodeId, NodeId> = BTreeMap::new();
    let value = |new: &BTreeMap<NodeId, NodeId>, value: Value| {
        let Value { node, result } = kept(value);
        new.get(&node).map(|&node| Value { node, result })
    };
    for node in order.into_iter().filter(|node| needed.contains(node)) {
        let operands: Vec<Option<Value>> =
            graph.operands(node).into_iter().map(|v| v.and_then(|v| value(&new, v))).collect();
        new.insert(node, thin.add_with(graph.node(node).op.clone(), &operands, &graph.node(node).path)?);
    }
    for (name, result) in graph.results() {
        let result = value(&new, *result).ok_or(GraphError::NoSuchValue { path: name.clone(), operand: 0 })?;
        thin.add_result(name, result);
    }
    Ok(thin)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Eight layers of one kind, of which the first is given the argument and the last is read by a sum; the fifth is given
    /// what another function made.
    fn program(between: &str) -> String {
        let mut text = String::from("program \"deep\"\nsymbol n in 1..=64\n");
        (0..8).for_each(|i| text += &format!("param \"w{i}\": f32[4]\n"));
        text += "func \"layer\" (%0 x: f32[n, 4], %1 w: f32[4]) {\n  %2: f32[n, 4] = broadcast(%1) {axes: [1]}\n  \
                 %3: f32[n, 4] = mul(%0, %2)\n  return y = %3\n}\n";
        text += "func \"other\" (%0 x: f32[n, 4]) {\n  %1: f32[n, 4] = neg(%0)\n  return y = %1\n}\n";
        text += "entry \"main\" (%0 x: f32[n, 4]) {\n";
        (0..8).for_each(|i| text += &format!("  %{}: f32[4] = param {{name: \"w{i}\"}}\n", i + 1));
        text += "  %9: f32[n, 4] = call(%0, %1) {function: \"layer\", results: [f32[n, 4]]}\n";
        for i in 1..8 {
            let from = if i == 4 && !between.is_empty() { between.to_string() } else { format!("%{}", i + 8) };
            if i == 4 && !between.is_empty() {
                text += &format!("  {between}: f32[n, 4] = call(%12) {{function: \"other\", results: [f32[n, 4]]}}\n");
            }
            let call = format!("call({from}, %{}) {{function: \"layer\", results: [f32[n, 4]]}}", i + 1);
            text += &format!("  %{}: f32[n, 4] = {call}\n", i + 9);
        }
        text += "  %30: f32[n, 4] = add(%16, %0)\n  return y = %30\n}\n";
        text
    }

    fn thin(text: &str, stored: &[(&str, Storage)]) -> (Program, usize) {
        let program = lith_ir::text::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let stored = stored.iter().map(|(name, storage)| (name.to_string(), *storage)).collect();
        let (thin, left_out) = without_repeats(&program, &stored).unwrap();
        lith_ir::verify(&thin).unwrap();
        (thin, left_out["main"])
    }

    #[test]
    fn calls_of_one_kind_are_left_out() {
        for between in ["", "%20"] {
            let (thin, left_out) = thin(&program(between), &[]);
            assert_eq!((left_out, thin.params.len()), (5, 3));
            let others = |p: &Program| {
                let of_other = |op: &Op| matches!(op, Op::Call { function, .. } if function == "other");
                p.entries["main"].petgraph().node_weights().filter(|n| of_other(&n.op)).count()
            };
            assert_eq!(others(&thin), usize::from(!between.is_empty()), "what is between stays");
        }
    }

    #[test]
    fn calls_that_differ_outside_stay() {
        let same = |change: &str, to: &str, stored: &[(&str, Storage)]| {
            let text = program("");
            assert!(text.contains(change), "{change}");
            thin(&text.replacen(change, to, 1), stored).1
        };
        assert_eq!(same("", "", &[]), 5);
        // One weight in another type: the second of its kind goes, the first stays.
        assert_eq!(same("", "", &[("w3", Storage::Float(lith_ir::DType::F16))]), 4);
        // A layer in between is a result, or something else reads it.
        assert_eq!(same("return y = %30", "return z = %12, y = %30", &[]), 4);
        assert_eq!(same("add(%16, %0)", "add(%16, %12)", &[]), 4);
    }
}
