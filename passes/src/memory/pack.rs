//! Offsets of blocks that are needed at known times, in one arena. Knows sizes and times, nothing of graphs.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use lith_ir::dim::Atom;
use lith_ir::{Dim, Symbols};

use super::{ALIGNMENT, Block, typical_bytes};

/// An offset: as a sum over the monomials of [`Sizes`], and at middling values of the symbols.
#[derive(Clone, Default)]
struct Offset {
    sum: Vec<i64>,
    typical: i128,
}

/// Offsets for all blocks and the size of the arena. Large blocks first, each at the lowest offset that is provably free.
pub(super) fn pack(blocks: &[Block], symbols: &Symbols, in_place: &dyn Fn(&Block, &Block) -> bool) -> (Vec<Dim>, Dim) {
    let sizes: Vec<Dim> = blocks.iter().map(|b| b.bytes.align_up(ALIGNMENT)).collect();
    let order = Sizes::new(&sizes, symbols);
    // What is so for all values of the symbols is so for these: most questions need no proof.
    let sizes: Vec<Offset> =
        sizes.iter().map(|size| Offset { sum: order.sum(size), typical: typical_bytes(size, symbols) }).collect();
    let mut by_size: Vec<usize> = (0..blocks.len()).collect();
    by_size.sort_by_key(|&i| (Reverse(sizes[i].typical), blocks[i].live, i));
    let zero = Offset { sum: vec![0; order.monomials.len()], typical: 0 };
    let behind = |at: &Offset, i: usize| {
        let sum = at.sum.iter().zip(&sizes[i].sum).map(|(a, b)| a.saturating_add(*b)).collect();
        Offset { sum, typical: at.typical + sizes[i].typical }
    };
    // Each block that has a place: where it starts, and where it ends.
    let mut placed: Vec<(usize, Offset, Offset)> = Vec::new();
    let mut end = zero.clone();
    for i in by_size {
        let meets = |j: usize| blocks[i].live.0 <= blocks[j].live.1 && blocks[j].live.0 <= blocks[i].live.1;
        let others: Vec<&(usize, Offset, Offset)> = placed.iter().filter(|(j, ..)| meets(*j)).collect();
        let mut candidates = vec![&zero];
        candidates.extend(others.iter().flat_map(|(_, start, end)| [start, end]));
        candidates.sort_by_key(|at| at.typical);
        // What stood in the way of one candidate is likely in the way of the next.
        let mut in_the_way = 0;
        let mut known = vec![None; blocks.len()];
        let mut in_place = |j: usize| *known[j].get_or_insert_with(|| in_place(&blocks[i], &blocks[j]));
        let mut free = |at: &Offset| {
            let after = behind(at, i);
            let mut fits = |(j, start, end): &(usize, Offset, Offset)| {
                after.typical <= start.typical && order.provably_le(&after.sum, &start.sum)
                    || end.typical <= at.typical && order.provably_le(&end.sum, &at.sum)
                    || (start.sum == at.sum && in_place(*j))
            };
            if others.get(in_the_way).is_some_and(|other| !fits(other)) {
                return false;
            }
            if let Some(found) = others.iter().position(|other| !fits(other)) {
                in_the_way = found;
                return false;
            }
            // The end must stay comparable, for it is the size of the arena.
            order.provably_le(&after.sum, &end.sum) || order.provably_le(&end.sum, &after.sum)
        };
        let at = candidates.into_iter().find(|at| free(at)).unwrap_or(&end).clone();
        let after = behind(&at, i);
        if !order.provably_le(&after.sum, &end.sum) {
            end = after.clone();
        }
        placed.push((i, at, after));
    }
    let mut offsets = vec![Dim::default(); blocks.len()];
    for (i, at, _) in placed {
        offsets[i] = order.dim(&at.sum);
    }
    (offsets, order.dim(&end.sum))
}

/// Sums of sizes as coefficients of the few monomials that occur in them: thousands of blocks are compared by them.
struct Sizes {
    monomials: Vec<Vec<Atom>>,
    /// Least and greatest value of each.
    bounds: Vec<(i128, i128)>,
    /// Of each that is one `floor(x, k)`: `x` and `k`.
    floors: Vec<Option<(Vec<i64>, i64)>>,
}

/// The number of the monomial without factors.
const ONE: usize = 0;

impl Sizes {
    fn new(sizes: &[Dim], symbols: &Symbols) -> Sizes {
        let mut numbers = BTreeMap::from([(Vec::new(), ONE)]);
        let mut open: Vec<Dim> = sizes.to_vec();
        while let Some(dim) = open.pop() {
            for (monomial, _) in dim.terms().filter(|(m, _)| !m.is_empty()) {
                let next = numbers.len();
                if *numbers.entry(monomial.to_vec()).or_insert(next) == next
                    && let [Atom::FloorDiv(x, _)] = monomial
                {
                    open.push(x.clone());
                }
            }
        }
        let mut monomials = vec![Vec::new(); numbers.len()];
        numbers.into_iter().for_each(|(monomial, number)| monomials[number] = monomial);
        let bounds = monomials.iter().map(|m| product(m).bounds(symbols)).map(|(lo, hi)| (lo.into(), hi.into()));
        let mut order = Sizes { bounds: bounds.collect(), monomials, floors: Vec::new() };
        let floor = |monomial: &Vec<Atom>| match monomial.as_slice() {
            [Atom::FloorDiv(x, k)] => Some((order.sum(x), *k)),
            _ => None,
        };
        order.floors = order.monomials.iter().map(floor).collect();
        order
    }

    /// A size, or what is in the floor of one, as coefficients.
    fn sum(&self, dim: &Dim) -> Vec<i64> {
        let mut sum = vec![0; self.monomials.len()];
        for (monomial, c) in dim.terms() {
            if let Some(at) = self.monomials.iter().position(|m| m == monomial) {
                sum[at] = c;
            }
        }
        sum
    }

    fn dim(&self, sum: &[i64]) -> Dim {
        let terms = self.monomials.iter().zip(sum).filter(|(_, c)| **c != 0);
        terms.fold(Dim::default(), |dim, (monomial, &c)| dim + product(monomial) * Dim::constant(c))
    }

    /// Whether `a <= b` for all values of the symbols. May miss some that are so.
    fn provably_le(&self, a: &[i64], b: &[i64]) -> bool {
        if a.iter().zip(b).zip(&self.bounds).all(|((a, b), &(lo, _))| a == b || a < b && lo >= 0) {
            return true;
        }
        let difference: Vec<i64> = b.iter().zip(a).map(|(b, a)| b.saturating_sub(*a)).collect();
        self.least(&difference) >= 0
            || self.without_floors(&difference).is_some_and(|difference| self.least(&difference) >= 0)
    }

    /// A lower bound of a sum, by interval arithmetic.
    fn least(&self, sum: &[i64]) -> i128 {
        let least = |(&c, &(lo, hi)): (&i64, &(i128, i128))| i128::from(c).saturating_mul(if c > 0 { lo } else { hi });
        sum.iter().zip(&self.bounds).map(least).fold(0, i128::saturating_add)
    }

    /// A sum that is negative wherever this one is: this times a positive number, and for each `floor(x, k)` the end of
    /// `(x - k + 1) / k ..= x / k` that makes the sum smaller. None when there are no floors in it.
    fn without_floors(&self, sum: &[i64]) -> Option<Vec<i64>> {
        let floors = || self.floors.iter().zip(sum).filter_map(|(floor, &c)| Some((floor.as_ref()?, c)));
        let present = || floors().filter(|(_, c)| *c != 0);
        present().next()?;
        let divisor = present().fold(1i64, |product, ((_, k), _)| product.saturating_mul(*k));
        let mut without: Vec<i64> = sum
            .iter()
            .zip(&self.floors)
            .map(|(c, f)| if f.is_none() { c.saturating_mul(divisor) } else { 0 })
            .collect();
        for ((x, k), c) in present() {
            let times = c.saturating_mul(divisor / k);
            for (to, from) in without.iter_mut().zip(x) {
                *to = to.saturating_add(from.saturating_mul(times));
            }
            if c > 0 {
                without[ONE] = without[ONE].saturating_sub((k - 1).saturating_mul(times));
            }
        }
        Some(without)
    }
}

/// The product of factors.
fn product(monomial: &[Atom]) -> Dim {
    let dim = |atom: &Atom| match atom {
        Atom::Symbol(s) => Dim::symbol(s),
        Atom::FloorDiv(d, k) => d.floor_div(*k),
    };
    monomial.iter().fold(Dim::constant(1), |product, atom| product * dim(atom))
}
