//! What is known of an e-class: its type, the one value of all its elements, whether it is a weight. Knows ops by their
//! type rules only.

use egg::{Analysis, DidMerge, EGraph, Id};
use lith_ir::infer::result_types;
use lith_ir::interp::Tensor;
use lith_ir::{Binary, DType, Dim, Op, Type, Unary};

use super::explain::Log;
use super::language::{Attr, Head, Node};
use super::rule::Numeric;
use crate::weights::{Known, known_after};

/// The e-graph of equality saturation.
pub type Classes = EGraph<Node, Facts>;

/// What every element of a tensor is.
#[derive(Clone, Debug, PartialEq)]
pub enum Splat {
    /// This number.
    Number(f64),
    /// The value of this dimension.
    Size(Dim),
}

/// What is known of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Facet {
    /// Its type.
    pub ty: Type,
    /// What all its elements are, if they are known to be one value.
    pub splat: Option<Splat>,
    /// When it is known.
    pub known: Known,
}

impl Facet {
    /// Whether it can lie packed in memory: a parameter, or one that follows from parameters.
    pub fn param(&self) -> bool {
        self.known.weight().is_some()
    }
}

/// What is known of an e-class.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// It is an attribute.
    Attr(Attr),
    /// It is an absent operand.
    Absent,
    /// It is a tensor.
    Tensor(Facet),
    /// It is a node of several results.
    Several(Vec<Type>),
    /// Nothing: it has no type. No rule leaves this behind.
    Unknown,
}

impl Fact {
    /// The tensor, if it is one.
    pub fn tensor(&self) -> Option<&Facet> {
        match self {
            Fact::Tensor(t) => Some(t),
            _ => None,
        }
    }
}

/// A node that is never rewritten.
#[derive(Clone, Debug)]
pub struct Opaque {
    /// The op, with the types of its results.
    pub op: Op,
    /// The types of the results.
    pub types: Vec<Type>,
    /// When it is known.
    pub known: Known,
}

/// The analysis: facts of e-classes, and what the e-graph's nodes came from.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The opaque nodes by index.
    pub opaque: Vec<Opaque>,
    /// Which rule made which node.
    pub log: Log,
    /// How much numbers may change.
    pub allowed: Numeric,
}

/// The op of an e-node and its operands.
///
/// # Errors
/// When attributes do not fit the row.
pub fn op_of(classes: &Classes, head: Head, children: &[Id]) -> Result<(Op, Vec<Option<Id>>), String> {
    let attrs: Vec<&Attr> = children
        .iter()
        .map_while(|&c| match &classes[c].data {
            Fact::Attr(attr) => Some(attr),
            _ => None,
        })
        .collect();
    let (op, taken) = head.op(&attrs)?;
    let absent = |c: &Id| (classes[*c].data != Fact::Absent).then_some(*c);
    Ok((op, children[taken..].iter().map(absent).collect()))
}

/// What is known of the result of an op.
fn facet(classes: &Classes, head: Head, children: &[Id]) -> Option<Facet> {
    let (op, operands) = op_of(classes, head, children).ok()?;
    let mut inputs: Vec<Option<&Facet>> = Vec::with_capacity(operands.len());
    for operand in operands {
        inputs.push(match operand {
            Some(id) => Some(classes[id].data.tensor()?),
            None => None,
        });
    }
    let types: Vec<Option<&Type>> = inputs.iter().map(|i| i.map(|f| &f.ty)).collect();
    let ty = result_types(&op, &types).ok()?.into_iter().next()?;
    let splat = splat(&op, &inputs, &ty);
    let operands: Vec<Known> = inputs.iter().flatten().map(|f| f.known).collect();
    let known = known_after(&op, &operands, &ty, classes.analysis.allowed);
    Some(Facet { ty, splat, known })
}

/// The value of all elements of an op's result, where it follows from those of its operands.
fn splat(op: &Op, inputs: &[Option<&Facet>], ty: &Type) -> Option<Splat> {
    let of = |i: usize| inputs.get(i).copied().flatten().and_then(|f| f.splat.as_ref());
    let number = |i: usize| match of(i)? {
        Splat::Number(v) => Some(*v),
        Splat::Size(_) => None,
    };
    let rounded = |v: f64| ty.dtype.is_float().then(|| Splat::Number(ty.dtype.round(v)));
    match op {
        Op::Const { value } => {
            let tensor = Tensor::from_bytes(value.dtype(), value.shape(), value.bytes()).ok()?;
            let values: Vec<f64> = match (tensor.as_floats(), tensor.as_ints()) {
                (Some(floats), _) => floats.to_vec(),
                // Beyond these bounds not every integer is a number of this kind.
                (_, Some(ints)) if ints.iter().all(|v| v.unsigned_abs() < 1 << 53) => {
                    ints.iter().map(|&v| v as f64).collect()
                }
                _ => return None,
            };
            let first = *values.first()?;
            values.iter().all(|v| v.to_bits() == first.to_bits()).then_some(Splat::Number(first))
        }
        Op::Size { dim } => Some(dim.as_const().map_or_else(|| Splat::Size(dim.clone()), |v| Splat::Number(v as f64))),
        Op::Broadcast { .. } | Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice { .. } => of(0).cloned(),
        Op::Cast { dtype } => match of(0)? {
            Splat::Number(v) if dtype.is_float() => Some(Splat::Number(dtype.round(*v))),
            Splat::Number(v) => {
                (v.fract() == 0.0 && v.abs() < 128.0 && *dtype != DType::Bool && *v >= 0.0).then_some(Splat::Number(*v))
            }
            Splat::Size(d) => (*dtype != DType::Bool && dtype.size() >= 4).then(|| Splat::Size(d.clone())),
        },
        Op::Unary { f: Unary::Neg } => rounded(-number(0)?),
        Op::Unary { f: Unary::Sqrt } => rounded(number(0)?.sqrt()),
        Op::Unary { f: Unary::Rsqrt } => rounded(1.0 / number(0)?.sqrt()),
        Op::Binary { f: Binary::Add } => rounded(number(0)? + number(1)?),
        Op::Binary { f: Binary::Sub } => rounded(number(0)? - number(1)?),
        Op::Binary { f: Binary::Mul } => rounded(number(0)? * number(1)?),
        Op::Binary { f: Binary::Div } => rounded(number(0)? / number(1)?),
        _ => None,
    }
}

impl Analysis<Node> for Facts {
    type Data = Fact;

    fn make(classes: &mut Classes, node: &Node, _: Id) -> Fact {
        match node {
            Node::Op(head, children) => facet(classes, *head, children).map_or(Fact::Unknown, Fact::Tensor),
            Node::Attr(attr) => Fact::Attr(attr.clone()),
            Node::Absent => Fact::Absent,
            Node::Opaque(i, _) => match classes.analysis.opaque.get(*i as usize) {
                Some(o) => match &o.types[..] {
                    [ty] => Fact::Tensor(Facet { ty: ty.clone(), splat: None, known: o.known }),
                    types => Fact::Several(types.to_vec()),
                },
                None => Fact::Unknown,
            },
            Node::Result(k, call) => match &classes[*call].data {
                Fact::Several(types) => types.get(*k as usize).map_or(Fact::Unknown, |ty| {
                    Fact::Tensor(Facet { ty: ty.clone(), splat: None, known: Known::Running })
                }),
                _ => Fact::Unknown,
            },
            Node::Function(..) | Node::Number(_) => Fact::Unknown,
        }
    }

    /// Equal things have equal types, whatever rule said that they are equal.
    fn merge(&mut self, a: &mut Fact, b: Fact) -> DidMerge {
        match (a, b) {
            (Fact::Tensor(a), Fact::Tensor(b)) => {
                assert_eq!(a.ty, b.ty, "an e-class of two types");
                let merged = Facet {
                    ty: b.ty.clone(),
                    splat: a.splat.clone().or_else(|| b.splat.clone()),
                    known: a.known.and(b.known),
                };
                let changed = DidMerge(merged != *a, merged != b);
                *a = merged;
                changed
            }
            (a, b) => {
                assert_eq!(*a, b, "an e-class of two kinds");
                DidMerge(false, false)
            }
        }
    }
}
