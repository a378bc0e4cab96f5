//! Programs to text.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{implied, spelling};
use crate::attr::AttrValue;
use crate::dtype::DType;
use crate::graph::{Graph, NodeId, Value};
use crate::interp::{Data, Tensor};
use crate::op::Op;
use crate::program::Program;
use crate::types::{Literal, Type};
use crate::verify::is_symbol_name;

/// Constants with more elements are written as bytes.
const LISTED: usize = 32;

pub(super) fn print(program: &Program) -> String {
    let mut out = format!("program {}\n", quote(&program.name));
    for (symbol, info) in &program.symbols {
        let multiple = if info.multiple_of == 1 { String::new() } else { format!(" multiple_of {}", info.multiple_of) };
        line(&mut out, format_args!("symbol {symbol} in {}..={}{multiple}", info.min, info.max));
    }
    for (kind, types) in [("param", &program.params), ("state", &program.states)] {
        for (name, ty) in types {
            line(&mut out, format_args!("{kind} {}: {ty}", quote(name)));
        }
    }
    for (kind, graphs) in [("derived", &program.derived), ("func", &program.functions), ("entry", &program.entries)] {
        for (name, g) in graphs {
            graph(&mut out, kind, name, g);
        }
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(text);
    out.push('\n');
}

fn graph(out: &mut String, kind: &str, name: &str, graph: &Graph) {
    // A graph with a cycle is printed too, so that it can be looked at.
    let order = graph.topological().unwrap_or_else(|_| graph.petgraph().node_indices().collect());
    let signature = signature(graph);
    let mut numbers: BTreeMap<NodeId, usize> = BTreeMap::new();
    for &id in signature.iter().chain(&order) {
        let next = numbers.len();
        numbers.entry(id).or_insert(next);
    }
    let value = |v: Value| {
        let number = numbers.get(&v.node).copied().unwrap_or(usize::MAX);
        if v.result == 0 { format!("%{number}") } else { format!("%{number}.{}", v.result) }
    };

    let args: Vec<String> = signature
        .iter()
        .filter_map(|&id| match &graph.node(id).op {
            Op::Arg { name, ty, .. } => {
                Some(format!("{} {}: {ty}{}", value(id.into()), word(name), path(&graph.node(id).path)))
            }
            _ => None,
        })
        .collect();
    line(out, format_args!("\n{kind} {} ({}) {{", quote(name), args.join(", ")));
    for id in order.into_iter().filter(|id| numbers.get(id).is_some_and(|&n| n >= signature.len())) {
        let node = graph.node(id);
        let operands = graph.operands(id).into_iter().map(|o| o.map_or_else(|| "_".to_string(), value)).collect();
        line(
            out,
            format_args!(
                "  {}: {} = {}{}",
                value(id.into()),
                types(&node.types),
                op(&node.op, operands, &node.types),
                path(&node.path)
            ),
        );
    }
    let results: Vec<String> = graph.results().iter().map(|(n, v)| format!(" {} = {}", word(n), value(*v))).collect();
    line(out, format_args!("  return{}\n}}", results.join(",")));
}

/// The arguments in order, when their indices are those of a signature; else they are printed as plain nodes.
fn signature(graph: &Graph) -> Vec<NodeId> {
    let index = |id: NodeId| match &graph.node(id).op {
        Op::Arg { index, ty, .. } if graph.node(id).types.first() == Some(ty) => Some(*index),
        _ => None,
    };
    let mut args: Vec<(usize, NodeId)> =
        graph.petgraph().node_indices().filter_map(|id| index(id).map(|i| (i, id))).collect();
    args.sort_unstable();
    if args.iter().map(|(i, _)| *i).eq(0..args.len()) {
        args.into_iter().map(|(_, id)| id).collect()
    } else {
        Vec::new()
    }
}

fn types(types: &[Type]) -> String {
    match types {
        [one] => one.to_string(),
        many => format!("({})", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

fn path(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" @ {}", quote(path)) }
}

fn op(op: &Op, operands: Vec<String>, types: &[Type]) -> String {
    let (mut out, tells_f) = spelling(op);
    if let Op::Const { value } = op {
        return format!("{out} {}", literal(value));
    }
    if !operands.is_empty() {
        let _ = write!(out, "({})", operands.join(", "));
    }
    let attributes: Vec<String> = op
        .attributes()
        .into_iter()
        .filter(|(name, value)| !(tells_f && *name == "f") && implied(name, types).as_ref() != Some(value))
        .map(|(name, value)| format!("{name}: {}", attribute(&value)))
        .collect();
    if !attributes.is_empty() {
        let _ = write!(out, " {{{}}}", attributes.join(", "));
    }
    out
}

fn attribute(value: &AttrValue) -> String {
    match value {
        AttrValue::Dim(d) => d.to_string(),
        AttrValue::Float(v) => float(DType::F64, *v, &v.to_le_bytes()),
        AttrValue::Word(w) => w.clone(),
        AttrValue::Text(t) => quote(t),
        AttrValue::Type(t) => t.to_string(),
        AttrValue::Literal(l) => literal(l),
        AttrValue::List(items) => format!("[{}]", items.iter().map(attribute).collect::<Vec<_>>().join(", ")),
    }
}

fn literal(value: &Literal) -> String {
    let (dtype, bytes) = (value.dtype(), value.bytes());
    let elements = bytes.len() / dtype.size();
    // A `bool` is written as a word only when its byte is that word's.
    let odd_bool = dtype == DType::Bool && bytes.iter().any(|b| *b > 1);
    let tensor = Tensor::try_from(value).ok().filter(|_| elements <= LISTED && !odd_bool);
    let items: Vec<String> = match tensor.as_ref().map(Tensor::data) {
        None => {
            let mut hex = String::with_capacity(2 * bytes.len());
            for b in bytes {
                let _ = write!(hex, "{b:02x}");
            }
            return format!("hex \"{hex}\"");
        }
        Some(Data::Float(v)) => {
            v.iter().zip(bytes.chunks(dtype.size())).map(|(v, bits)| float(dtype, *v, bits)).collect()
        }
        Some(Data::Int(v)) if dtype == DType::Bool => v.iter().map(|v| (*v != 0).to_string()).collect(),
        Some(Data::Int(v)) => v.iter().map(ToString::to_string).collect(),
    };
    match items.as_slice() {
        [one] if value.shape().is_empty() => one.clone(),
        items => format!("[{}]", items.join(", ")),
    }
}

/// The quiet NaN without sign and payload, little-endian.
pub(super) fn plain_nan(dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F64 => 0x7ff8_0000_0000_0000u64.to_le_bytes().into(),
        DType::F16 => 0x7e00u16.to_le_bytes().into(),
        DType::Bf16 => 0x7fc0u16.to_le_bytes().into(),
        _ => 0x7fc0_0000u32.to_le_bytes().into(),
    }
}

/// The shortest decimal that is `value` again when read as `dtype`; `bytes` are its own.
fn float(dtype: DType, value: f64, bytes: &[u8]) -> String {
    if value.is_nan() {
        if bytes == plain_nan(dtype) {
            return "nan".into();
        }
        let hex: String = bytes.iter().rev().map(|b| format!("{b:02x}")).collect();
        return format!("nan(\"{hex}\")");
    }
    // 16-bit floats are written as the `f32` they are.
    if dtype == DType::F64 { format!("{value:?}") } else { format!("{:?}", value as f32) }
}

/// Bare when it is a plain word, else in quotes.
fn word(name: &str) -> String {
    if is_symbol_name(name) { name.into() } else { quote(name) }
}

fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
