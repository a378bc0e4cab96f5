//! Positions and indices: where in a value an element lies, as sums of loop counters, so that a value is fetched without
//! division wherever shapes allow. Groups of neighbouring axes stay one number until an op asks for them apart.

use cranelift_codegen::ir::condcodes::IntCC;
use lith_ir::Dim;

use super::emit::{Emit, Res, Stop};
use crate::builder::{At, ENTRY, IntOp, ScopeId};

/// A position: the sum of `terms` and `konst` for the first lane, `step` more for each further lane.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pos {
    /// Summands, at most one for each scope, outer ones first.
    pub terms: Vec<At>,
    /// The constant summand.
    pub konst: i64,
    /// From one lane to the next; 0 when all lanes are at the same position.
    pub step: i64,
    /// What the sum of the terms is known to be a multiple of; 0 when there are none.
    pub multiple: i64,
}

impl Pos {
    /// The same constant position for all lanes.
    pub fn constant(konst: i64) -> Pos {
        Pos { terms: Vec::new(), konst, step: 0, multiple: 0 }
    }

    /// A counter.
    pub fn of(at: At) -> Pos {
        Pos { terms: vec![at], konst: 0, step: 0, multiple: 1 }
    }

    /// A counter that is a multiple of the `lanes`, whose lanes are `offset` and on.
    pub fn lanes(at: At, offset: i64, lanes: i64) -> Pos {
        Pos { terms: vec![at], konst: offset, step: 1, multiple: lanes }
    }

    /// The value, when it is constant and the same for all lanes.
    pub fn as_const(&self) -> Option<i64> {
        (self.terms.is_empty() && self.step == 0).then_some(self.konst)
    }

    /// Whether the first lane is at a multiple of the lanes.
    pub fn lane_aligned(&self, lanes: i64) -> bool {
        self.multiple % lanes == 0 && self.konst % lanes == 0
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a.abs() } else { gcd(b, a % b) }
}

/// Where in a value of some shape an element lies: a position in each group of neighbouring axes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Index {
    /// Row-major positions with the number of axes each stands for, outermost first.
    pub groups: Vec<(Pos, usize)>,
    /// The index may be outside the value unless this holds; memory is then not read at it.
    pub guard: Option<At>,
}

impl Index {
    /// An index of these groups, always within the value.
    pub fn new(groups: Vec<(Pos, usize)>) -> Index {
        Index { groups, guard: None }
    }

    /// Other groups under the same guard.
    pub fn with(&self, groups: Vec<(Pos, usize)>) -> Index {
        Index { groups, guard: self.guard }
    }

    /// Whether all lanes are at the same index.
    pub fn uniform(&self) -> bool {
        self.groups.iter().all(|(p, _)| p.step == 0)
    }
}

/// The number of elements of a shape.
pub fn product(shape: &[Dim]) -> Dim {
    shape.iter().cloned().fold(Dim::constant(1), |a, d| a * d)
}

impl Emit<'_> {
    /// The deepest scope that an index depends on.
    pub fn index_scope(&self, index: &Index) -> ScopeId {
        let terms = index.groups.iter().flat_map(|(p, _)| &p.terms).chain(&index.guard);
        terms.fold(ENTRY, |s, at| self.b.deeper(s, at.scope))
    }

    /// The most lanes that a dimension is known to be a multiple of.
    fn multiple(&self, dim: &Dim) -> i64 {
        [16, 8, 4].into_iter().find(|&lanes| dim.is_multiple_of(lanes, self.symbols)).unwrap_or(1)
    }

    /// The value of a dimension.
    pub fn dim(&mut self, dim: &Dim) -> Pos {
        match dim.as_const() {
            Some(c) => Pos::constant(c),
            None => {
                let place = self.tables.dims.place(dim);
                let base = self.dims_base;
                let at = match self.dim_values.get(&place) {
                    Some(&at) => at,
                    None => {
                        let at = self.b.load_i64(base, 8 * place as i32);
                        self.dim_values.insert(place, at);
                        at
                    }
                };
                let multiple = self.multiple(dim);
                Pos { terms: vec![at], konst: 0, step: 0, multiple }
            }
        }
    }

    /// The value of a dimension as a 64-bit integer.
    pub fn dim_at(&mut self, dim: &Dim) -> At {
        let pos = self.dim(dim);
        self.pos_at(&pos)
    }

    /// The position of the first lane as one value.
    pub fn pos_at(&mut self, pos: &Pos) -> At {
        let mut sum: Option<At> = None;
        for &at in &pos.terms {
            sum = Some(match sum {
                Some(s) => self.b.int(IntOp::Add, s, at),
                None => at,
            });
        }
        match sum {
            None => self.b.iconst(pos.konst),
            Some(s) if pos.konst == 0 => s,
            Some(s) => {
                let k = self.b.iconst(pos.konst);
                self.b.int(IntOp::Add, s, k)
            }
        }
    }

    /// Sum of two positions.
    pub fn add(&mut self, a: &Pos, b: &Pos) -> Pos {
        let mut terms = a.terms.clone();
        for &at in &b.terms {
            match terms.iter_mut().find(|t| t.scope == at.scope) {
                Some(t) => *t = self.b.int(IntOp::Add, *t, at),
                None => {
                    let place = terms.iter().position(|t| self.b.deeper(t.scope, at.scope) == t.scope);
                    terms.insert(place.unwrap_or(terms.len()), at);
                }
            }
        }
        Pos {
            terms,
            konst: a.konst.wrapping_add(b.konst),
            step: a.step + b.step,
            multiple: gcd(a.multiple, b.multiple),
        }
    }

    /// A position times one that is the same for all lanes.
    pub fn mul(&mut self, a: &Pos, n: &Pos) -> Res<Pos> {
        if let Some(k) = n.as_const() {
            if k == 0 {
                return Ok(Pos::constant(0));
            }
            let terms = a.terms.iter().map(|&t| self.b.scale(t, k)).collect();
            return Ok(Pos {
                terms,
                konst: a.konst.wrapping_mul(k),
                step: a.step * k,
                multiple: a.multiple.wrapping_mul(k),
            });
        }
        if a.step != 0 {
            return Err(Stop::NotVector);
        }
        let n_at = self.pos_at(n);
        let mut terms: Vec<At> = Vec::new();
        if a.konst != 0 {
            terms.push(self.b.scale(n_at, a.konst));
        }
        let mut sum = Pos { terms, konst: 0, step: 0, multiple: n.multiple };
        for &t in &a.terms {
            let term = self.b.int(IntOp::Mul, t, n_at);
            sum = self.add(&sum, &Pos { terms: vec![term], konst: 0, step: 0, multiple: n.multiple });
        }
        // `n` may itself carry a constant; only its terms are known to be a multiple.
        sum.multiple = gcd(n.multiple, n.konst).max(1);
        Ok(sum)
    }

    /// Position `p` in axes of which the inner ones have `inner` elements: in the outer axes (`outer`) or in the inner
    /// ones.
    fn part(&mut self, p: &Pos, inner: &Dim, outer: bool) -> Res<Pos> {
        if inner.as_const() == Some(1) {
            return Ok(if outer { p.clone() } else { Pos::constant(0) });
        }
        if let (Some(k), Some(n)) = (p.as_const(), inner.as_const()) {
            let n = n.max(1);
            return Ok(Pos::constant(if outer { k / n } else { k % n }));
        }
        if p.as_const() == Some(0) {
            return Ok(Pos::constant(0));
        }
        if p.step != 0 && self.flat_loop {
            return Err(Stop::NotFlat);
        }
        let lanes = self.lanes;
        if p.step != 0 && !(p.step == 1 && p.lane_aligned(lanes) && inner.is_multiple_of(lanes, self.symbols)) {
            return Err(Stop::NotVector);
        }
        let p_at = self.pos_at(p);
        let mut n_at = self.dim_at(inner);
        if inner.bounds(self.symbols).0 < 1 {
            // A loop over no elements may have this computed before it: a divisor of 0 would trap.
            let one = self.b.iconst(1);
            let some = self.b.icmp(IntCC::SignedGreaterThan, n_at, one);
            n_at = self.b.select(some, n_at, one);
        }
        let at = self.b.int(if outer { IntOp::Div } else { IntOp::Rem }, p_at, n_at);
        Ok(match outer {
            true => Pos::of(at),
            false => {
                let known = gcd(p.multiple, p.konst);
                let n = inner.as_const().unwrap_or(self.multiple(inner));
                Pos { terms: vec![at], konst: 0, step: p.step, multiple: gcd(known, n).max(1) }
            }
        })
    }

    /// The groups of axes `lo..hi` of an index into `shape`.
    pub fn sub(&mut self, index: &Index, shape: &[Dim], lo: usize, hi: usize) -> Res<Vec<(Pos, usize)>> {
        let mut found = Vec::new();
        let mut first = 0;
        for (pos, count) in &index.groups {
            let (g0, g1) = (first, first + count);
            first = g1;
            let (a, z) = (g0.max(lo), g1.min(hi));
            if a >= z {
                continue;
            }
            let mut pos = pos.clone();
            if z < g1 {
                pos = self.part(&pos, &product(&shape[z..g1]), true)?;
            }
            if a > g0 {
                pos = self.part(&pos, &product(&shape[a..z]), false)?;
            }
            found.push((pos, z - a));
        }
        Ok(found)
    }

    /// The position along one axis.
    pub fn axis(&mut self, index: &Index, shape: &[Dim], axis: usize) -> Res<Pos> {
        let groups = self.sub(index, shape, axis, axis + 1)?;
        Ok(groups.into_iter().next().map_or(Pos::constant(0), |(p, _)| p))
    }

    /// Neighbouring groups as one position; `sizes` are the elements of each group.
    fn merge(&mut self, groups: &[(Pos, Dim)]) -> Res<Pos> {
        let mut sum = Pos::constant(0);
        for (pos, size) in groups {
            if sum.as_const() != Some(0) {
                let n = self.dim(size);
                sum = self.mul(&sum, &n)?;
            }
            sum = self.add(&sum, pos);
        }
        Ok(sum)
    }

    /// The row-major position in a value of this shape.
    pub fn flat(&mut self, index: &Index, shape: &[Dim]) -> Res<Pos> {
        let mut groups = Vec::new();
        let mut axis = 0;
        for (pos, count) in &index.groups {
            groups.push((pos.clone(), product(&shape[axis..axis + count])));
            axis += count;
        }
        self.merge(&groups)
    }

    /// The index of the same element under another shape. Groups stay as they are where the shapes agree on them.
    pub fn reshape(&mut self, index: &Index, from: &[Dim], to: &[Dim]) -> Res<Index> {
        // Cuts of the new shape: number of elements up to each axis.
        let mut prefix = vec![Dim::constant(1)];
        for d in to {
            prefix.push(prefix[prefix.len() - 1].clone() * d.clone());
        }
        let (mut groups, mut pending) = (Vec::new(), Vec::new());
        let (mut from_axis, mut to_axis) = (0, 0);
        let mut seen = Dim::constant(1);
        for (i, (pos, count)) in index.groups.iter().enumerate() {
            let size = product(&from[from_axis..from_axis + count]);
            from_axis += count;
            seen = seen * size.clone();
            pending.push((pos.clone(), size));
            let last = i + 1 == index.groups.len();
            let cut = if last { Some(to.len()) } else { (to_axis + 1..to.len()).find(|&j| prefix[j] == seen) };
            if let Some(cut) = cut
                && (cut > to_axis || last)
            {
                let merged = self.merge(&std::mem::take(&mut pending))?;
                if cut > to_axis {
                    groups.push((merged, cut - to_axis));
                }
                to_axis = cut;
            }
        }
        if to_axis < to.len() {
            // No groups at all: one element.
            groups.push((Pos::constant(0), to.len() - to_axis));
        }
        Ok(index.with(groups))
    }
}
