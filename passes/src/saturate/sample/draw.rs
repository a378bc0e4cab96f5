//! Draws operands and attributes for the left side of a rule.

use std::collections::BTreeMap;

use egg::{ENodeOrVar, Id, PatternAst};
use lith_ir::infer::result_types;
use lith_ir::testing::Rng;
use lith_ir::{DType, Dim, Symbol, Type};

use super::super::language::{Attr, Head, Node};

/// What a variable of a rule is bound to.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A tensor of random values.
    Tensor(Type),
    /// A parameter of random values.
    Param(Type),
    /// A `bool` tensor with a true element in each row.
    SomeTrue(Type),
    /// A tensor full of one value.
    Splat(Type, f64),
    /// A tensor full of the value of a dimension.
    Size(Type, Dim),
    /// An attribute.
    Attr(Attr),
    /// Nothing: an optional operand.
    Absent,
}

impl Operand {
    fn ty(&self) -> Option<Type> {
        match self {
            Operand::Tensor(t)
            | Operand::Param(t)
            | Operand::SomeTrue(t)
            | Operand::Splat(t, _)
            | Operand::Size(t, _) => Some(t.clone()),
            Operand::Attr(_) | Operand::Absent => None,
        }
    }
}

/// Variables by name, without the question mark.
pub type Bindings = BTreeMap<String, Operand>;

/// Which variables must be what, as numbers and premises of the row say.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Full of this number.
    pub numbers: BTreeMap<String, f64>,
    /// Full of any number.
    pub splats: Vec<String>,
    /// Full of the size of the last axis of another variable.
    pub counts: Vec<(String, String)>,
    /// Parameters.
    pub params: Vec<String>,
    /// Dtypes to begin with.
    pub dtypes: Vec<DType>,
}

/// A drawing in the making.
pub struct Draw<'a> {
    pub rng: &'a mut Rng,
    pub ast: &'a PatternAst<Node>,
    pub wanted: &'a Wanted,
    pub bound: Bindings,
}

/// A size: mostly a constant, sometimes a symbol that stands for it.
pub fn size(rng: &mut Rng) -> Dim {
    let n = rng.pick(&[1usize, 2, 3, 4, 5, 6]);
    if rng.one_in(6) { Dim::symbol(&Symbol::new(&format!("n{n}"))) } else { Dim::from(n) }
}

/// The value of a size of [`size`].
pub fn value_of(symbol: &Symbol) -> Option<i64> {
    symbol.name().strip_prefix('n')?.parse().ok()
}

impl Draw<'_> {
    /// Draws all variables below the root. `None` when it led nowhere.
    pub fn all(&mut self) -> Option<()> {
        let root = Id::from(self.ast.len().checked_sub(1)?);
        self.settle();
        self.node(root, None).map(|_| ())
    }

    /// Numbers beside operands whose type is known have that type.
    fn settle(&mut self) {
        loop {
            let before = self.bound.len();
            for node in self.ast {
                let ENodeOrVar::ENode(Node::Op(head, children)) = node else { continue };
                let alike = match head.row_name() {
                    "binary" | "compare" => &children[..],
                    "select" => &children[1..],
                    _ => continue,
                };
                let Some(ty) = alike.iter().find_map(|&c| self.known(c)) else { continue };
                for &c in alike {
                    if let ENodeOrVar::Var(v) = &self.ast[c]
                        && let Some(&n) = self.wanted.numbers.get(&name_of(v))
                    {
                        self.bound.entry(name_of(v)).or_insert_with(|| Operand::Splat(ty.clone(), n));
                    }
                }
            }
            if self.bound.len() == before {
                return;
            }
        }
    }

    fn random_type(&mut self) -> Type {
        let rank = self.rng.pick(&[1usize, 2, 2, 3, 3, 4]);
        let dtype = self.rng.pick(&self.wanted.dtypes);
        Type { dtype, shape: (0..rank).map(|_| size(self.rng)).collect() }
    }

    /// The type of a term all of whose variables are bound.
    fn known(&self, id: Id) -> Option<Type> {
        match &self.ast[id] {
            ENodeOrVar::Var(v) => self.bound.get(&name_of(v))?.ty(),
            ENodeOrVar::ENode(Node::Op(head, children)) => {
                let (op, taken) = head.op(&self.attrs(children)?.iter().collect::<Vec<_>>()).ok()?;
                let mut types = Vec::new();
                for &c in &children[taken..] {
                    types.push(if self.is_absent(c) { None } else { Some(self.known(c)?) });
                }
                let types: Vec<Option<&Type>> = types.iter().map(Option::as_ref).collect();
                result_types(&op, &types).ok()?.into_iter().next()
            }
            ENodeOrVar::ENode(_) => None,
        }
    }

    fn is_absent(&self, id: Id) -> bool {
        match &self.ast[id] {
            ENodeOrVar::ENode(Node::Absent) => true,
            ENodeOrVar::Var(v) => self.bound.get(&name_of(v)) == Some(&Operand::Absent),
            ENodeOrVar::ENode(_) => false,
        }
    }

    /// The attributes among the first children, as far as they are bound.
    fn attrs(&self, children: &[Id]) -> Option<Vec<Attr>> {
        let mut attrs = Vec::new();
        for &c in children {
            match &self.ast[c] {
                ENodeOrVar::ENode(Node::Attr(attr)) => attrs.push(attr.clone()),
                ENodeOrVar::Var(v) => match self.bound.get(&name_of(v)) {
                    Some(Operand::Attr(attr)) => attrs.push(attr.clone()),
                    _ => break,
                },
                ENodeOrVar::ENode(_) => break,
            }
        }
        Some(attrs)
    }

    /// Binds what is below a node so that its type is `expected`, or any; the type.
    fn node(&mut self, id: Id, expected: Option<Type>) -> Option<Type> {
        if let Some(known) = self.known(id) {
            return expected.is_none_or(|e| e == known).then_some(known);
        }
        match self.ast[id].clone() {
            ENodeOrVar::Var(v) => self.variable(&name_of(&v), expected),
            ENodeOrVar::ENode(Node::Op(head, children)) => {
                let expected = match expected {
                    Some(e) => e,
                    None => self.result_for(head, &children)?,
                };
                self.op(head, &children, &expected)?;
                // What is bound now must type, and to what was asked for.
                self.known(id).filter(|t| *t == expected)
            }
            ENodeOrVar::ENode(_) => None,
        }
    }

    fn variable(&mut self, name: &str, expected: Option<Type>) -> Option<Type> {
        let ty = expected.unwrap_or_else(|| self.random_type());
        let operand = if let Some(&v) = self.wanted.numbers.get(name) {
            Operand::Splat(ty.clone(), v)
        } else if self.wanted.splats.iter().any(|s| s == name) {
            let sizes: Vec<i64> = ty.shape.iter().filter_map(Dim::as_const).filter(|&v| v > 0).collect();
            let size = if sizes.is_empty() { 3 } else { self.rng.pick(&sizes) } as f64;
            let v = self.rng.pick(&[0.5, 2.0, -1.5, 3.0, 0.25, -1e30, size, 1.0 / size]);
            Operand::Splat(ty.clone(), if ty.dtype.is_float() { ty.dtype.round(v) } else { v.trunc().clamp(-9.0, 9.0) })
        } else if let Some(last) = self.counted(name) {
            Operand::Size(ty.clone(), last)
        } else if self.wanted.params.iter().any(|s| s == name) {
            Operand::Param(ty.clone())
        } else {
            Operand::Tensor(ty.clone())
        };
        self.bound.insert(name.into(), operand);
        Some(ty)
    }

    /// The size that a variable is to be full of.
    fn counted(&self, name: &str) -> Option<Dim> {
        let (_, of) = self.wanted.counts.iter().find(|(n, _)| n == name)?;
        self.bound.get(of)?.ty()?.shape.last().cloned()
    }

    /// A result type that an op may have, with regard to what is bound below it.
    fn result_for(&mut self, head: Head, children: &[Id]) -> Option<Type> {
        let random = self.random_type();
        let name = head.name();
        let (op_row, _) = self.probe(head);
        // Where the result has the type of an operand that is known, it is that.
        let like = match op_row {
            "unary" | "binary" | "activation" | "softmax" | "layer_norm" | "rms_norm" | "l2_norm"
            | "dynamic_quantize" => children.iter().find_map(|&c| self.known(c)),
            "select" => children.iter().skip(1).find_map(|&c| self.known(c)),
            _ => None,
        };
        let mut ty = like.unwrap_or(random);
        if matches!(name, "eq" | "ne" | "lt" | "le" | "gt" | "ge") {
            ty.dtype = DType::Bool;
        }
        // A negation may be of a comparison, whatever that is of.
        if name == "not" && self.rng.one_in(2) {
            ty.dtype = DType::Bool;
        }
        if matches!(op_row, "dot" | "linear") && ty.rank() < 2 {
            ty.shape.insert(0, size(self.rng));
        }
        Some(ty)
    }

    /// The row of a head.
    fn probe(&self, head: Head) -> (&'static str, &'static str) {
        (head.row_name(), head.name())
    }

    /// Binds an attribute; `false` when it is bound to something else.
    fn set(&mut self, id: Id, attr: Attr) -> Option<()> {
        match &self.ast[id] {
            ENodeOrVar::ENode(Node::Attr(found)) => (*found == attr).then_some(()),
            ENodeOrVar::Var(v) => {
                let name = name_of(v);
                match self.bound.get(&name) {
                    Some(found) => (*found == Operand::Attr(attr)).then_some(()),
                    None => {
                        self.bound.insert(name, Operand::Attr(attr));
                        Some(())
                    }
                }
            }
            ENodeOrVar::ENode(_) => None,
        }
    }

    /// The value of an attribute child, if it is bound.
    fn attr<T: lith_ir::attr::Attribute>(&self, id: Id) -> Option<T> {
        match &self.ast[id] {
            ENodeOrVar::ENode(Node::Attr(attr)) => attr.get(),
            ENodeOrVar::Var(v) => match self.bound.get(&name_of(v))? {
                Operand::Attr(attr) => attr.get(),
                _ => None,
            },
            ENodeOrVar::ENode(_) => None,
        }
    }

    fn optional(&mut self, id: Id, ty: Type) -> Option<()> {
        if self.is_absent(id) {
            return Some(());
        }
        if let ENodeOrVar::Var(v) = &self.ast[id] {
            let name = name_of(v);
            if !self.bound.contains_key(&name) && self.rng.one_in(3) && !self.wanted.params.contains(&name) {
                self.bound.insert(name, Operand::Absent);
                return Some(());
            }
        }
        self.node(id, Some(ty)).map(|_| ())
    }

    /// Binds attributes and operands of an op whose result is to be of type `t`.
    fn op(&mut self, head: Head, children: &[Id], t: &Type) -> Option<()> {
        let row = head.row_name();
        let operand = |i: usize| children.get(i).copied();
        match row {
            "unary" | "activation" | "softmax" => {
                self.node(operand(0)?, Some(t.clone()))?;
            }
            "binary" => {
                self.node(operand(0)?, Some(t.clone()))?;
                self.node(operand(1)?, Some(t.clone()))?;
            }
            "compare" => {
                let dtype = self.rng.pick(&self.wanted.dtypes);
                let known = operand(0).and_then(|c| self.known(c)).or(operand(1).and_then(|c| self.known(c)));
                let inner = known.unwrap_or_else(|| t.with_dtype(dtype));
                self.node(operand(0)?, Some(inner.clone()))?;
                self.node(operand(1)?, Some(inner))?;
            }
            "select" => {
                self.node(operand(0)?, Some(t.with_dtype(DType::Bool)))?;
                self.node(operand(1)?, Some(t.clone()))?;
                self.node(operand(2)?, Some(t.clone()))?;
            }
            "l2_norm" => {
                self.set(operand(0)?, Attr::of(&0.125)).or(Some(()))?;
                self.node(operand(1)?, Some(t.clone()))?;
            }
            "dynamic_quantize" => {
                let group = 1 + self.rng.below(4);
                self.set(operand(0)?, Attr::of(&group)).or(Some(()))?;
                self.set(operand(1)?, Attr::of(&127usize)).or(Some(()))?;
                self.node(operand(2)?, Some(t.clone()))?;
            }
            "layer_norm" | "rms_norm" => {
                let attrs = if row == "layer_norm" { 1 } else { 2 };
                for i in 0..attrs {
                    let v = if i == 0 { 0.01 } else { self.rng.pick(&[0.0, 1.0]) };
                    if self.attr::<f64>(operand(i)?).is_none() {
                        self.set(operand(i)?, Attr::of(&v))?;
                    }
                }
                self.node(operand(attrs)?, Some(t.clone()))?;
                let row = Type { dtype: t.dtype, shape: vec![t.shape.last()?.clone()] };
                for &c in &children[attrs + 1..] {
                    self.optional(c, row.clone())?;
                }
            }
            "cast" => {
                self.set(operand(0)?, Attr::of(&t.dtype))?;
                let dtype = self.rng.pick(&[DType::F32, DType::F64, DType::I32, DType::Bool, DType::I8, DType::I64]);
                let inner = self.known(operand(1)?).unwrap_or_else(|| t.with_dtype(dtype));
                self.node(operand(1)?, Some(inner))?;
            }
            "transpose" => self.transpose(children, t)?,
            "reshape" => {
                self.set(operand(0)?, Attr::of(&t.shape))?;
                let inner = match self.known(operand(1)?) {
                    Some(known) => known,
                    None => Type { dtype: t.dtype, shape: self.regrouped(&t.shape) },
                };
                self.node(operand(1)?, Some(inner))?;
            }
            "broadcast" => self.broadcast(children, t)?,
            "reduce" => self.reduce(children, t)?,
            "slice" => {
                let known = self.known(operand(4)?);
                let axis = self.attr::<usize>(operand(0)?).unwrap_or_else(|| self.rng.below(t.rank().max(1)));
                let step = self.attr::<usize>(operand(3)?).unwrap_or(if self.rng.one_in(4) { 2 } else { 1 });
                let start = self.rng.below(3) as i64;
                let wanted = t.shape.get(axis)?.clone();
                let stop = Dim::from(start) + (wanted - Dim::constant(1)) * Dim::from(step) + Dim::constant(1);
                let mut inner = t.clone();
                inner.shape[axis] = stop.clone() + Dim::from(self.rng.below(3));
                self.set(operand(0)?, Attr::of(&axis))?;
                self.set(operand(1)?, Attr::of(&Dim::from(start)))?;
                self.set(operand(2)?, Attr::of(&stop))?;
                self.set(operand(3)?, Attr::of(&step))?;
                self.node(operand(4)?, Some(known.unwrap_or(inner)))?;
            }
            "concat" => {
                let axis = self.attr::<usize>(operand(0)?).unwrap_or_else(|| self.rng.below(t.rank().max(1)));
                self.set(operand(0)?, Attr::of(&axis))?;
                let parts = children.len() as i64 - 1;
                let whole = t.shape.get(axis)?.as_const().filter(|&w| w >= parts)?;
                let longest = self.rng.below(children.len() - 1);
                for (i, &c) in children[1..].iter().enumerate() {
                    let mut part = t.clone();
                    part.shape[axis] = Dim::from(if i == longest { whole - parts + 1 } else { 1 });
                    let known = self.known(c);
                    self.node(c, Some(known.unwrap_or(part)))?;
                }
            }
            "gather" => {
                // One axis replaced by the indices'.
                let axis = self.attr::<usize>(operand(0)?).unwrap_or_else(|| self.rng.below(t.rank().max(1)));
                self.set(operand(0)?, Attr::of(&axis))?;
                let rank = 1 + usize::from(self.rng.one_in(3));
                let indices = t.shape.get(axis..axis + rank)?.to_vec();
                let mut inner = t.clone();
                inner.shape.splice(axis..axis + rank, [size(self.rng)]);
                let known = self.known(operand(1)?);
                self.node(operand(1)?, Some(known.unwrap_or(inner)))?;
                self.node(operand(2)?, Some(Type { dtype: DType::I32, shape: indices }))?;
            }
            "dot" => {
                let transposed = self.attr::<bool>(operand(0)?).unwrap_or_else(|| self.rng.one_in(2));
                self.set(operand(0)?, Attr::of(&transposed))?;
                let (lead, ends) = t.shape.split_at_checked(t.rank().checked_sub(2)?)?;
                let k = size(self.rng);
                let of =
                    |a: &Dim, b: &Dim| Type { dtype: t.dtype, shape: lead.iter().chain([a, b]).cloned().collect() };
                let known = [self.known(operand(1)?), self.known(operand(2)?)];
                let k = match &known {
                    [Some(a), _] => a.shape.last()?.clone(),
                    [_, Some(b)] => b.shape.get(if transposed { b.rank() - 1 } else { b.rank() - 2 })?.clone(),
                    _ => k,
                };
                self.node(operand(1)?, Some(of(&ends[0], &k)))?;
                let rhs = if transposed { of(&ends[1], &k) } else { of(&k, &ends[1]) };
                self.node(operand(2)?, Some(rhs))?;
            }
            "linear" => {
                let k = match (self.known(operand(0)?), self.known(operand(1)?)) {
                    (Some(x), _) => x.shape.last()?.clone(),
                    (_, Some(w)) => w.shape.last()?.clone(),
                    _ => Dim::from(1 + self.rng.below(4)),
                };
                let n = t.shape.last()?.clone();
                let mut x = t.clone();
                *x.shape.last_mut()? = k.clone();
                self.node(operand(0)?, Some(x))?;
                self.node(operand(1)?, Some(Type { dtype: t.dtype, shape: vec![n.clone(), k] }))?;
                self.optional(operand(2)?, Type { dtype: t.dtype, shape: vec![n] })?;
            }
            // The rest needs operands that hang together; the row binds them.
            _ => return None,
        }
        Some(())
    }

    fn transpose(&mut self, children: &[Id], t: &Type) -> Option<()> {
        let bound: Option<Vec<usize>> = self.attr(*children.first()?);
        let perm = bound.unwrap_or_else(|| {
            let mut perm: Vec<usize> = (0..t.rank()).collect();
            for i in (1..perm.len()).rev() {
                perm.swap(i, self.rng.below(i + 1));
            }
            // Often the exchange of the last two, which contractions know.
            let n = perm.len();
            if n >= 2 && self.rng.one_in(2) {
                perm = (0..n).collect();
                perm.swap(n - 2, n - 1);
            }
            perm
        });
        if perm.len() != t.rank() {
            return None;
        }
        self.set(children[0], Attr::of(&perm))?;
        let mut inner = t.clone();
        for (i, &p) in perm.iter().enumerate() {
            *inner.shape.get_mut(p)? = t.shape[i].clone();
        }
        self.node(*children.get(1)?, Some(inner)).map(|_| ())
    }

    /// The same elements in another shape: sizes merged, split or added.
    fn regrouped(&mut self, shape: &[Dim]) -> Vec<Dim> {
        let mut shape = shape.to_vec();
        for _ in 0..1 + self.rng.below(2) {
            let at = self.rng.below(shape.len().max(1));
            match self.rng.below(3) {
                0 if at + 1 < shape.len() => {
                    let merged = shape[at].clone() * shape.remove(at + 1);
                    shape[at] = merged;
                }
                1 => {
                    if let Some(n) = shape.get(at).and_then(Dim::as_const).filter(|n| n % 2 == 0 && *n > 0) {
                        shape[at] = Dim::from(n / 2);
                        shape.insert(at, Dim::from(2i64));
                    }
                }
                _ => match shape.iter().position(|d| d.as_const() == Some(1)) {
                    Some(one) if self.rng.one_in(2) => drop(shape.remove(one)),
                    _ => shape.insert(at.min(shape.len()), Dim::constant(1)),
                },
            }
        }
        shape
    }

    fn broadcast(&mut self, children: &[Id], t: &Type) -> Option<()> {
        self.set(*children.first()?, Attr::of(&t.shape))?;
        let inner = *children.get(2)?;
        let all: Vec<usize> = (0..t.rank()).collect();
        if let Some(known) = self.known(inner) {
            // Every choice of axes that fits; one of them.
            let mut fitting: Vec<Vec<usize>> = vec![Vec::new()];
            for d in &known.shape {
                let grown = fitting.iter().flat_map(|axes| {
                    let next = axes.last().map_or(0, |l| l + 1);
                    all.iter()
                        .copied()
                        .filter(move |&a| a >= next)
                        .map(|a| [&axes[..], &[a]].concat())
                        .collect::<Vec<_>>()
                });
                fitting = grown
                    .filter(|axes| axes.last().is_some_and(|&a| *d == t.shape[a] || d.as_const() == Some(1)))
                    .collect();
            }
            if fitting.is_empty() {
                return None;
            }
            let chosen = self.rng.below(fitting.len());
            return self.set(children[1], Attr::of(&fitting[chosen]));
        }
        let bound: Option<Vec<usize>> = self.attr(children[1]);
        let last = t.rank().checked_sub(1);
        let (axes, shape): (Vec<usize>, Vec<Dim>) = match (bound, self.rng.below(4), last) {
            (Some(axes), chance, _) => {
                let mut shape: Vec<Dim> = axes.iter().map(|&a| t.shape.get(a).cloned()).collect::<Option<_>>()?;
                // The axes of what was reduced may be bound already.
                if let Some(last) = shape.last_mut().filter(|_| chance > 0 && axes.len() == t.rank()) {
                    *last = Dim::constant(1);
                }
                (axes, shape)
            }
            // As after a reduction of the last axis.
            (_, 0 | 1, Some(last)) => {
                let mut shape = t.shape.clone();
                shape[last] = Dim::constant(1);
                (all, shape)
            }
            // A row.
            (_, 2, Some(last)) => (vec![last], vec![t.shape[last].clone()]),
            _ => {
                let axes: Vec<usize> = all.into_iter().filter(|_| self.rng.one_in(2)).collect();
                let shape = axes.iter().map(|&a| t.shape[a].clone()).collect();
                (axes, shape)
            }
        };
        self.set(children[1], Attr::of(&axes))?;
        self.node(inner, Some(Type { dtype: t.dtype, shape })).map(|_| ())
    }

    fn reduce(&mut self, children: &[Id], t: &Type) -> Option<()> {
        let keep = self.attr::<bool>(*children.get(1)?).unwrap_or_else(|| self.rng.one_in(2));
        self.set(children[1], Attr::of(&keep))?;
        let inner = *children.get(2)?;
        if let Some(known) = self.known(inner) {
            let axes = if self.rng.one_in(3) {
                vec![self.rng.below(known.rank().max(1))]
            } else {
                vec![known.rank().checked_sub(1)?]
            };
            self.set(children[0], Attr::of(&axes))?;
            return self.node(inner, Some(known)).map(|_| ());
        }
        let bound: Option<Vec<usize>> = self.attr(children[0]);
        let mut shape = t.shape.clone();
        let axes = if keep {
            let ones: Vec<usize> = (0..t.rank()).filter(|&i| t.shape[i].as_const() == Some(1)).collect();
            let axes = match bound {
                Some(axes) => axes,
                None if ones.is_empty() => return None,
                None => vec![*ones.last()?],
            };
            for &a in &axes {
                *shape.get_mut(a).filter(|d| d.as_const() == Some(1))? = size(self.rng);
            }
            axes
        } else {
            let at = if self.rng.one_in(2) { t.rank() } else { self.rng.below(t.rank() + 1) };
            let axes = bound.unwrap_or_else(|| vec![at]);
            for &a in &axes {
                if a > shape.len() {
                    return None;
                }
                shape.insert(a, size(self.rng));
            }
            axes
        };
        self.set(children[0], Attr::of(&axes))?;
        self.node(inner, Some(Type { dtype: t.dtype, shape })).map(|_| ())
    }
}

/// The name of a variable without its question mark.
pub fn name_of(v: &egg::Var) -> String {
    v.to_string().trim_start_matches('?').to_string()
}
