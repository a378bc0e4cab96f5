//! What the runtime has to know of the arguments of an entry point before it calls it: their shapes, and what compiled
//! code relies on of their values.

use lith_ir::dim::Atom;
use lith_ir::{Dim, Graph, NodeId, Op, Program, Value};
use lith_runtime::manifest::{ArgEntry, ArgSize, SequencesEntry};

use crate::CodegenError;

/// Calls nest no deeper than this in what is followed.
const DEPTH: usize = 64;

/// The arguments of an entry point.
///
/// # Errors
/// When a size is neither a constant nor a symbol and a constant.
pub fn arguments(program: &Program, name: &str, graph: &Graph) -> Result<Vec<ArgEntry>, CodegenError> {
    let mut entries = Vec::new();
    for (index, node) in graph.args().into_iter().enumerate() {
        let Op::Arg { name: arg, ty, .. } = &graph.node(node).op else { continue };
        let size = |d: &Dim| {
            arg_size(program, d).ok_or_else(|| CodegenError::Plan {
                graph: name.into(),
                problem: format!("argument `{arg}` is {ty}: `{d}` is neither a constant nor a symbol and a constant"),
            })
        };
        let offsets_of = offsets_of(program, graph, index, 0).map(|tokens| size(&tokens)).transpose()?;
        let shape = ty.shape.iter().map(size).collect::<Result<_, _>>()?;
        entries.push(ArgEntry { name: arg.clone(), dtype: ty.dtype, shape, offsets_of });
    }
    Ok(entries)
}

fn arg_size(program: &Program, dim: &Dim) -> Option<ArgSize> {
    if let Some(c) = dim.as_const() {
        return Some(ArgSize::Constant(u64::try_from(c).ok()?));
    }
    let [symbol] = &dim.symbols()[..] else { return None };
    let offset = (dim.clone() - Dim::symbol(symbol)).as_const()?;
    let linear = dim.terms().all(|(atoms, _)| atoms.iter().all(|a| matches!(a, Atom::Symbol(_))));
    let symbol = program.symbols.keys().position(|s| s == symbol).filter(|_| linear)?;
    Some(ArgSize::Symbol { symbol, offset })
}

/// The number of tokens that an argument divides into sequences, when it is used as their offsets, here or in a called
/// function.
fn offsets_of(program: &Program, graph: &Graph, index: usize, depth: usize) -> Option<Dim> {
    let arg: NodeId = *graph.args().get(index)?;
    graph.users(arg.into()).into_iter().find_map(|(user, position)| match (&graph.node(user).op, position) {
        (Op::PackedAttention { .. } | Op::PackedAttentionGrad { .. } | Op::PagedAttention { .. }, 3)
        | (Op::SegmentPool { .. }, 1) => graph.operand(user, 0).and_then(|x| graph.ty(x).shape.first().cloned()),
        (Op::SegmentIds { tokens }, 0) => Some(tokens.clone()),
        (Op::Call { function, .. }, _) if depth < DEPTH => {
            offsets_of(program, program.functions.get(function)?, position, depth + 1)
        }
        _ => None,
    })
}

/// The arguments that attention finds sequences in the paged cache by, each combination once.
///
/// # Errors
/// When they are no arguments but computed: nobody could check them.
pub fn sequences(program: &Program, name: &str, graph: &Graph) -> Result<Vec<SequencesEntry>, CodegenError> {
    let mut found = Vec::new();
    for [offsets, past, pages] in paged(program, graph, 0) {
        let (Some(offsets), Some(past), Some(pages)) = (offsets, past, pages) else {
            let problem = "attention to a paged cache by offsets, past or pages that are no arguments".into();
            return Err(CodegenError::Plan { graph: name.into(), problem });
        };
        let entry = SequencesEntry { offsets, past, pages };
        if !found.contains(&entry) {
            found.push(entry);
        }
    }
    Ok(found)
}

/// Offsets, past and pages of every paged attention of a graph and the functions it calls: indices of arguments.
fn paged(program: &Program, graph: &Graph, depth: usize) -> Vec<[Option<usize>; 3]> {
    let argument = |value: Option<Value>| match &graph.node(value?.node).op {
        Op::Arg { index, .. } => Some(*index),
        _ => None,
    };
    let mut found = Vec::new();
    for id in graph.petgraph().node_indices() {
        match &graph.node(id).op {
            Op::PagedAttention { .. } => found.push([3, 4, 5].map(|i| argument(graph.operand(id, i)))),
            Op::Call { function, .. } if depth < DEPTH => {
                let Some(called) = program.functions.get(function) else { continue };
                for inner in paged(program, called, depth + 1) {
                    found.push(inner.map(|i| argument(graph.operand(id, i?))));
                }
            }
            _ => {}
        }
    }
    found
}
