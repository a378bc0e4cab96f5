//! The dims table: every symbolic size, offset and stride that compiled code reads, computed once for each shape of a
//! call. Knows polynomials only.

use std::collections::BTreeMap;

use cranelift_codegen::ir::{Function, InstBuilder, condcodes::IntCC, types};
use cranelift_codegen::isa::CallConv;
use lith_ir::dim::Atom;
use lith_ir::{Dim, Symbol, Symbols};

use crate::builder::{At, Builder, ENTRY, plain};

/// The table under construction; a dimension's place is its index.
#[derive(Debug, Default)]
pub struct DimTable {
    index: BTreeMap<Dim, usize>,
    order: Vec<Dim>,
}

impl DimTable {
    /// The place of a dimension, made on first use.
    pub fn place(&mut self, dim: &Dim) -> usize {
        if let Some(&i) = self.index.get(dim) {
            return i;
        }
        let i = self.order.len();
        self.order.push(dim.clone());
        self.index.insert(dim.clone(), i);
        i
    }

    /// Number of places.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// The function that fills the table and tells whether a value did not fit: a [`lith_runtime::abi::DimsFn`]. Symbols
    /// come in their order in `symbols`.
    pub fn function(&self, symbols: &Symbols, call_conv: CallConv) -> Function {
        let (mut b, params) = Builder::new(2, call_conv);
        let zero = b.iconst(0);
        let mut overflow = zero;
        let values: BTreeMap<_, _> =
            symbols.keys().enumerate().map(|(i, s)| (s.clone(), b.load_i64(params[0], 8 * i as i32))).collect();
        for (i, dim) in self.order.iter().enumerate() {
            let v = eval(&mut b, dim, &|s| values.get(s).copied(), &mut overflow);
            b.cursor(ENTRY).ins().store(plain(), v.v, params[1].v, 8 * i as i32);
        }
        b.finish(Some(overflow))
    }
}

/// The value of a dimension; its overflows are joined to `overflow`.
fn eval(b: &mut Builder, dim: &Dim, value_of: &dyn Fn(&Symbol) -> Option<At>, overflow: &mut At) -> At {
    let mut sum: Option<At> = None;
    for (atoms, coefficient) in dim.terms() {
        let mut product: Option<At> = (coefficient != 1 || atoms.is_empty()).then(|| b.iconst(coefficient));
        for atom in atoms {
            let v = match atom {
                // A symbol that the program does not list has no value; the verifier refuses such programs.
                Atom::Symbol(s) => value_of(s).unwrap_or_else(|| b.iconst(0)),
                Atom::FloorDiv(d, by) => {
                    let v = eval(b, d, value_of, overflow);
                    floor_div(b, v, *by)
                }
            };
            product = Some(match product {
                Some(p) => checked(b, true, p, v, overflow),
                None => v,
            });
        }
        if let Some(p) = product {
            sum = Some(match sum {
                Some(s) => checked(b, false, s, p, overflow),
                None => p,
            });
        }
    }
    sum.unwrap_or_else(|| b.iconst(0))
}

/// A product (`mul`) or sum that notes when it does not fit.
fn checked(b: &mut Builder, mul: bool, x: At, y: At, overflow: &mut At) -> At {
    let before = *overflow;
    let mut c = b.cursor(ENTRY);
    let (v, flag) = if mul { c.ins().smul_overflow(x.v, y.v) } else { c.ins().sadd_overflow(x.v, y.v) };
    let flag = c.ins().uextend(types::I64, flag);
    *overflow = At { v: c.ins().bor(before.v, flag), scope: ENTRY };
    At { v, scope: ENTRY }
}

/// The quotient rounded down, for a positive divisor.
fn floor_div(b: &mut Builder, v: At, by: i64) -> At {
    let divisor = b.iconst(by);
    b.put(ENTRY, |c| {
        let q = c.ins().sdiv(v.v, divisor.v);
        let whole = c.ins().imul(q, divisor.v);
        let below = c.ins().icmp(IntCC::SignedLessThan, v.v, whole);
        let below = c.ins().uextend(types::I64, below);
        c.ins().isub(q, below)
    })
}
