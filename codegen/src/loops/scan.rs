//! Running sums: a row is what runs along the summed axis, and its sum so far is carried from element to element.

use cranelift_codegen::ir::Function;
use cranelift_codegen::isa::CallConv;
use lith_ir::{Binary, Op, Symbols, Value};

use super::emit::{Emit, Machine, Res, Tables, Val};
use super::index::{Index, Pos, product};
use super::kernel::{LoopKernel, Span};
use super::reduce::accumulator;
use crate::builder::{Builder, ENTRY};

/// The operand and axis of a kernel that is one running sum.
pub fn running_sum(kernel: &LoopKernel<'_>) -> Option<(Value, usize)> {
    let [(output, _)] = kernel.outputs[..] else { return None };
    match kernel.graph.node(output.node).op {
        Op::CumSum { axis } => Some((kernel.graph.operand(output.node, 0)?, axis)),
        _ => None,
    }
}

/// The function `(environment, begin, end)` over rows.
pub fn generate(
    kernel: &LoopKernel<'_>,
    (x, axis): (Value, usize),
    symbols: &Symbols,
    tables: &mut Tables,
    machine: Machine,
) -> Res<(Function, Span)> {
    let ty = kernel.graph.ty(x).clone();
    let mut others = ty.shape.clone();
    let columns = others.remove(axis);
    let (b, params) = Builder::new(3, CallConv::SystemV);
    let none = Default::default();
    let mut e = Emit::new(b, params[0], kernel.graph, &kernel.inputs, tables, symbols, machine, &none);
    let rows = e.b.open_loop(ENTRY, params[1], params[2], 1, &[]);
    let row = Index::new(if others.is_empty() { Vec::new() } else { vec![(Pos::of(rows.i), others.len())] });
    let (before, behind) = (e.sub(&row, &others, 0, axis)?, e.sub(&row, &others, axis, others.len())?);
    let (zero, end) = (e.b.iconst(0), e.dim_at(&columns));
    let dtype = accumulator(ty.dtype);
    let nothing = e.zero(dtype)?;
    let open = e.b.open_loop(rows.scope, zero, end, 1, &[nothing.at]);
    let mut groups = before;
    groups.push((Pos::of(open.i), 1));
    groups.extend(behind);
    let index = Index::new(groups);
    let element = e.value(x, &index)?;
    let sum = e.binary(Binary::Add, dtype, Val { at: open.carried[0], vector: false }, element)?;
    for &(_, buffer) in &kernel.outputs {
        e.store(buffer, &index, &ty.shape, sum, open.scope)?;
    }
    e.b.close_loop(open, &[sum.at]);
    e.b.close_loop(rows, &[]);
    Ok((e.b.finish(None), Span::Rows { rows: product(&others), columns }))
}
