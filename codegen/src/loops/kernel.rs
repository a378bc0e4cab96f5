//! A loop kernel as a function: which axes are rows and which the columns, the loops over them, the stores. Tries
//! vectors of elements first and falls back where an op cannot.

use std::collections::{BTreeSet, HashMap};

use cranelift_codegen::ir::{Function, InstBuilder};
use cranelift_codegen::isa::CallConv;
use lith_ir::{Dim, Graph, NodeId, Op, Symbols, Value};

use super::emit::{Buffer, Emit, LANES, Machine, Res, Stop, Tables};
use super::index::{Index, Pos, product};
use super::scan;
use crate::CodegenError;
use crate::builder::{At, Builder, ENTRY, ScopeId};

/// What a loop kernel computes.
pub struct LoopKernel<'a> {
    /// The graph it is a part of.
    pub graph: &'a Graph,
    /// Its nodes, each after its operands; all of them have a loop form.
    pub nodes: &'a [NodeId],
    /// Values that lie in memory.
    pub inputs: HashMap<Value, Buffer>,
    /// Values it stores.
    pub outputs: Vec<(Value, Buffer)>,
}

/// What the function's bounds count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// Elements of the outputs; begin and end are multiples of 16 or the number of elements.
    Elements(Dim),
    /// Rows of this many elements.
    Rows {
        /// Number of rows.
        rows: Dim,
        /// Elements of a row.
        columns: Dim,
    },
}

/// The iteration space: rows over the leading axes, columns over the last one.
struct Domain {
    lead: Vec<Dim>,
    last: Dim,
    /// For each output, whether it has one element for each row instead of a whole row.
    per_row: Vec<bool>,
}

impl Domain {
    fn of(kernel: &LoopKernel<'_>) -> Option<Domain> {
        let graph = kernel.graph;
        let mut candidates: Vec<(Vec<Dim>, Dim)> = Vec::new();
        // Reductions over trailing axes: their rows are this kernel's, where that fits all outputs.
        for &node in kernel.nodes {
            let Op::Reduce { axes, .. } = &graph.node(node).op else { continue };
            let shape = &graph.ty(graph.operand(node, 0)?).shape;
            let first = shape.len() - axes.len();
            if !axes.is_empty() && axes.iter().copied().eq(first..shape.len()) {
                candidates.push((shape[..first].to_vec(), product(&shape[first..])));
            }
        }
        for (value, _) in &kernel.outputs {
            let shape = &graph.ty(*value).shape;
            candidates.push(match shape.split_last() {
                Some((last, lead)) => (lead.to_vec(), last.clone()),
                None => (Vec::new(), Dim::constant(1)),
            });
        }
        // A whole row beats one element a row, for those outputs that could be either.
        candidates.into_iter().find_map(|(lead, last)| {
            let rows = product(&lead);
            let all = rows.clone() * last.clone();
            let per_row = kernel
                .outputs
                .iter()
                .map(|(value, _)| match graph.ty(*value).elements() {
                    n if n == all => Some(false),
                    n if n == rows => Some(true),
                    _ => None,
                })
                .collect::<Option<Vec<bool>>>()?;
            Some(Domain { lead, last, per_row })
        })
    }

    fn shape(&self) -> Vec<Dim> {
        let mut shape = self.lead.clone();
        shape.push(self.last.clone());
        shape
    }
}

/// What one attempt at a kernel assumes.
#[derive(Clone, Debug, Default)]
struct Attempt {
    flat: bool,
    vector: bool,
    scalar: BTreeSet<NodeId>,
}

/// Compiles a kernel to a function `(environment, begin, end)`, or as an epilogue `(environment, row begin, row end,
/// column begin, column end)`. `None` if it cannot run with the machine's vectors and narrower ones should be tried, which
/// is no answer for those of [`LANES`].
///
/// # Errors
/// When an op has no loop form or the outputs do not fit one iteration space.
pub fn compile_loop(
    kernel: &LoopKernel<'_>,
    epilogue: bool,
    symbols: &Symbols,
    tables: &mut Tables,
    machine: Machine,
) -> Result<Option<(Function, Span)>, CodegenError> {
    let wrong = |problem: &str| CodegenError::Internal { what: "loop kernel".into(), problem: problem.into() };
    if let Some(sum) = scan::running_sum(kernel) {
        if machine.wide() {
            return Ok(None);
        }
        return scan::generate(kernel, sum, symbols, tables, machine).map(Some).map_err(|stop| match stop {
            Stop::Fail(error) => error,
            _ => wrong("a running sum has no loop form"),
        });
    }
    let domain = Domain::of(kernel).ok_or_else(|| wrong("the outputs do not fit one iteration space"))?;
    let whole = domain.per_row.iter().all(|r| !r);
    let mut attempt = Attempt { flat: whole && !epilogue, vector: true, ..Attempt::default() };
    let only_flat = domain.lead.is_empty() && attempt.flat;
    loop {
        let function = generate(kernel, &domain, epilogue, symbols, tables, machine, &attempt);
        match function {
            Ok(f) => {
                let rows = product(&domain.lead);
                let columns = domain.last.clone();
                let span = if attempt.flat { Span::Elements(rows * columns) } else { Span::Rows { rows, columns } };
                return Ok(Some((f, span)));
            }
            Err(Stop::Fail(error)) => return Err(error),
            Err(Stop::NotFlat) if machine.wide() && attempt.flat && !only_flat => attempt.flat = false,
            Err(Stop::NotVector) if machine.wide() && attempt.flat && !only_flat => attempt.flat = false,
            Err(_) if machine.wide() => return Ok(None),
            Err(Stop::NotVectorAt(node)) => {
                if !attempt.scalar.insert(node) {
                    return Err(wrong("a reduction has neither form"));
                }
            }
            Err(Stop::NotFlat | Stop::NotVector) => {
                if attempt.flat && !only_flat {
                    attempt.flat = false;
                } else if attempt.vector {
                    attempt.vector = false;
                } else {
                    return Err(wrong("an op has neither a vector nor a scalar form"));
                }
            }
        }
    }
}

fn generate(
    kernel: &LoopKernel<'_>,
    domain: &Domain,
    epilogue: bool,
    symbols: &Symbols,
    tables: &mut Tables,
    machine: Machine,
    attempt: &Attempt,
) -> Res<Function> {
    let (b, params) = Builder::new(if epilogue { 5 } else { 3 }, CallConv::SystemV);
    let mut e = Emit::new(b, params[0], kernel.graph, &kernel.inputs, tables, symbols, machine, &attempt.scalar);
    e.flat_loop = attempt.flat && !domain.lead.is_empty();
    if attempt.flat {
        let (begin, end) = (params[1], params[2]);
        columns(&mut e, kernel, domain, None, [begin, end], attempt.vector, ENTRY)?;
        return Ok(e.b.finish(None));
    }
    let open = e.b.open_loop(ENTRY, params[1], params[2], 1, &[]);
    let (row, scope) = (open.i, open.scope);
    let bounds = if epilogue {
        [params[3], params[4]]
    } else {
        let zero = e.b.iconst(0);
        [zero, e.dim_at(&domain.last)]
    };
    if domain.per_row.iter().any(|r| !r) {
        columns(&mut e, kernel, domain, Some(row), bounds, attempt.vector, scope)?;
    }
    let index = Index::new(if domain.lead.is_empty() { Vec::new() } else { vec![(Pos::of(row), domain.lead.len())] });
    store(&mut e, kernel, domain, true, &domain.lead, &index, scope)?;
    e.b.close_loop(open, &[]);
    Ok(e.b.finish(None))
}

/// The loops over columns `bounds` of a row, or over elements of all rows as one.
fn columns(
    e: &mut Emit<'_>,
    kernel: &LoopKernel<'_>,
    domain: &Domain,
    row: Option<At>,
    [begin, end]: [At; 2],
    vector: bool,
    scope: ScopeId,
) -> Res<()> {
    let known = domain.last.as_const().filter(|_| row.is_some());
    let shape = domain.shape();
    let index = |pos: Pos| {
        Index::new(match row {
            None => vec![(pos, shape.len())],
            Some(_) if domain.lead.is_empty() => vec![(pos, 1)],
            Some(row) => vec![(Pos::of(row), domain.lead.len()), (pos, 1)],
        })
    };
    // The widest vectors, what is left with those of four, then single elements.
    let mut widths = vec![e.machine.lanes];
    if e.machine.wide() {
        if known.is_some_and(|n| n < e.machine.lanes) {
            return Err(Stop::NotVector);
        }
        widths.push(LANES);
    }
    let mut first = begin;
    let mut unit = i64::MAX;
    for lanes in widths {
        if !vector || known.is_some_and(|n| n % unit < lanes) {
            continue;
        }
        e.lanes = lanes;
        let open = e.b.open_loop(scope, first, end, lanes, &[]);
        let body = open.scope;
        store(e, kernel, domain, false, &shape, &index(Pos::lanes(open.i, 0, lanes)), body)?;
        e.b.close_loop(open, &[]);
        let at = e.b.deeper(begin.scope, end.scope);
        let begin = first;
        first = e.b.put(at, |c| {
            let length = c.ins().isub(end.v, begin.v);
            let whole = c.ins().band_imm_s(length, -lanes);
            c.ins().iadd(begin.v, whole)
        });
        unit = lanes;
    }
    e.lanes = e.machine.lanes;
    if unit == i64::MAX || known.is_none_or(|n| n % unit != 0) {
        let open = e.b.open_loop(scope, first, end, 1, &[]);
        let body = open.scope;
        store(e, kernel, domain, false, &shape, &index(Pos::of(open.i)), body)?;
        e.b.close_loop(open, &[]);
    }
    Ok(())
}

/// Computes and stores the outputs that have an element for each row (`per_row`), or the others.
fn store(
    e: &mut Emit<'_>,
    kernel: &LoopKernel<'_>,
    domain: &Domain,
    per_row: bool,
    shape: &[Dim],
    index: &Index,
    scope: ScopeId,
) -> Res<()> {
    let mut values = Vec::new();
    for (&(value, buffer), _) in kernel.outputs.iter().zip(&domain.per_row).filter(|(_, r)| **r == per_row) {
        let ty = e.graph.ty(value).clone();
        let index = e.reshape(index, shape, &ty.shape)?;
        let x = e.value(value, &index)?;
        values.push((buffer, index, ty, x));
    }
    for (buffer, index, ty, x) in values {
        e.store(buffer, &index, &ty.shape, x, scope)?;
    }
    Ok(())
}
