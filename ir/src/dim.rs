//! Symbolic dimensions: integer polynomials over named symbols, kept in a canonical form so that equal
//! expressions compare equal. Knows nothing of tensors or graphs.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul, Sub};
use std::sync::Arc;

/// A named unknown of a program, such as `tokens` or `batch`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Symbol(Arc<str>);

impl Symbol {
    /// A symbol of this name. Names are identifiers: a letter or `_`, then letters, digits, `_`.
    pub fn new(name: &str) -> Self {
        Symbol(name.into())
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is known of a symbol before it gets its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolInfo {
    /// Least value, inclusive.
    pub min: i64,
    /// Greatest value, inclusive.
    pub max: i64,
    /// The value is a multiple of this positive number.
    pub multiple_of: i64,
}

impl Default for SymbolInfo {
    /// Any size that an `i32` offset can address.
    fn default() -> Self {
        SymbolInfo { min: 0, max: i32::MAX as i64, multiple_of: 1 }
    }
}

/// The symbols of a program with what is known of each.
pub type Symbols = BTreeMap<Symbol, SymbolInfo>;

/// A factor of a monomial.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Atom {
    /// A symbol.
    Symbol(Symbol),
    /// `floor(dim / divisor)` that does not simplify; the divisor is at least 2.
    FloorDiv(Dim, i64),
}

/// A dimension: a sum of `coefficient * atom * atom * ...` in canonical order, without zero coefficients.
/// The empty sum is 0; the term without atoms is the constant. Cheap to copy: types are full of dimensions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim(Sum);

/// Terms by their atoms, without zero coefficients.
type Terms = BTreeMap<Vec<Atom>, i64>;

/// The terms; equal sums are one form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Sum {
    /// No atoms.
    Constant(i64),
    /// At least one term with atoms.
    Of(Arc<Terms>),
}

impl Default for Dim {
    fn default() -> Self {
        Dim::constant(0)
    }
}

/// Why a dimension has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DimError {
    /// A symbol has no value.
    #[error("symbol `{0}` has no value")]
    Unbound(Symbol),
    /// The value does not fit 64 bits.
    #[error("the value of `{0}` does not fit 64 bits")]
    Overflow(Dim),
}

impl Dim {
    /// A constant.
    pub const fn constant(value: i64) -> Self {
        Dim(Sum::Constant(value))
    }

    /// The dimension of these terms.
    fn of(terms: Terms) -> Self {
        match terms.first_key_value() {
            None => Dim::constant(0),
            Some((atoms, &c)) if atoms.is_empty() && terms.len() == 1 => Dim::constant(c),
            _ => Dim(Sum::Of(Arc::new(terms))),
        }
    }

    fn into_terms(self) -> Terms {
        match self.0 {
            Sum::Constant(0) => Terms::new(),
            Sum::Constant(c) => Terms::from([(Vec::new(), c)]),
            Sum::Of(terms) => Arc::unwrap_or_clone(terms),
        }
    }

    /// A symbol.
    pub fn symbol(symbol: &Symbol) -> Self {
        Dim::of(Terms::from([(vec![Atom::Symbol(symbol.clone())], 1)]))
    }

    /// The value, when no symbol occurs.
    pub fn as_const(&self) -> Option<i64> {
        match self.0 {
            Sum::Constant(c) => Some(c),
            Sum::Of(_) => None,
        }
    }

    /// The terms in canonical order: (factors, coefficient).
    pub fn terms(&self) -> impl Iterator<Item = (&[Atom], i64)> {
        let (constant, sum) = match &self.0 {
            Sum::Constant(c) => (Some(*c).filter(|&c| c != 0), None),
            Sum::Of(terms) => (None, Some(terms)),
        };
        let constant = constant.into_iter().map(|c| (&[][..], c));
        constant.chain(sum.into_iter().flat_map(|terms| terms.iter().map(|(m, c)| (m.as_slice(), *c))))
    }

    /// `floor(self / divisor)` for a positive divisor. Terms whose coefficient the divisor divides leave the floor.
    ///
    /// # Panics
    /// When `divisor` is not positive.
    pub fn floor_div(&self, divisor: i64) -> Dim {
        assert!(divisor > 0, "floor_div by {divisor}");
        if divisor == 1 {
            return self.clone();
        }
        let (mut whole, mut rest) = (Terms::new(), Terms::new());
        for (monomial, c) in self.terms() {
            let (q, r) = if monomial.is_empty() {
                (c.div_euclid(divisor), c.rem_euclid(divisor))
            } else if c % divisor == 0 {
                (c / divisor, 0)
            } else {
                (0, c)
            };
            add_term(&mut whole, monomial.to_vec(), q);
            add_term(&mut rest, monomial.to_vec(), r);
        }
        let (whole, rest) = (Dim::of(whole), Dim::of(rest));
        match rest.as_const() {
            Some(c) => whole + Dim::constant(c.div_euclid(divisor)),
            None => whole + Dim::of(Terms::from([(vec![Atom::FloorDiv(rest, divisor)], 1)])),
        }
    }

    /// `ceil(self / divisor)` for a positive divisor.
    pub fn ceil_div(&self, divisor: i64) -> Dim {
        (self.clone() + Dim::constant(divisor - 1)).floor_div(divisor)
    }

    /// The least multiple of `alignment` (positive) that is not below `self`.
    pub fn align_up(&self, alignment: i64) -> Dim {
        self.ceil_div(alignment) * Dim::constant(alignment)
    }

    /// `self / other` when that is a polynomial: the quotient `q` with `q * other == self`.
    pub fn exact_div(&self, other: &Dim) -> Option<Dim> {
        let mut divisors = other.terms();
        let (divisor, divisor_c) = divisors.next()?;
        if divisors.next().is_some() {
            return None;
        }
        let mut quotient = Terms::new();
        for (monomial, c) in self.terms() {
            let mut left = monomial.to_vec();
            for atom in divisor {
                let at = left.iter().position(|a| a == atom)?;
                left.remove(at);
            }
            if c % divisor_c != 0 {
                return None;
            }
            add_term(&mut quotient, left, c / divisor_c);
        }
        Some(Dim::of(quotient))
    }

    /// The value under an assignment of symbols.
    pub fn eval(&self, value_of: &dyn Fn(&Symbol) -> Option<i64>) -> Result<i64, DimError> {
        if let Some(c) = self.as_const() {
            return Ok(c);
        }
        let overflow = || DimError::Overflow(self.clone());
        let mut sum = 0i64;
        for (monomial, c) in self.terms() {
            let mut product = c;
            for atom in monomial {
                let v = match atom {
                    Atom::Symbol(s) => value_of(s).ok_or_else(|| DimError::Unbound(s.clone()))?,
                    Atom::FloorDiv(d, by) => d.eval(value_of)?.div_euclid(*by),
                };
                product = product.checked_mul(v).ok_or_else(overflow)?;
            }
            sum = sum.checked_add(product).ok_or_else(overflow)?;
        }
        Ok(sum)
    }

    /// Inclusive bounds by interval arithmetic; saturating. Symbols that are not in `symbols` are `0..=i32::MAX`.
    pub fn bounds(&self, symbols: &Symbols) -> (i64, i64) {
        let clamp = |v: i128| v.clamp(i64::MIN as i128, i64::MAX as i128) as i64;
        let (mut lo, mut hi) = (0i128, 0i128);
        for (monomial, c) in self.terms() {
            let (mut a, mut b) = (c as i128, c as i128);
            for atom in monomial {
                let (x, y) = match atom {
                    Atom::Symbol(s) => symbols.get(s).map_or((0, i32::MAX as i64), |i| (i.min, i.max)),
                    Atom::FloorDiv(d, by) => {
                        let (x, y) = d.bounds(symbols);
                        (x.div_euclid(*by), y.div_euclid(*by))
                    }
                };
                let all = [
                    a.saturating_mul(x as i128),
                    a.saturating_mul(y as i128),
                    b.saturating_mul(x as i128),
                    b.saturating_mul(y as i128),
                ];
                a = all.into_iter().min().unwrap_or(0);
                b = all.into_iter().max().unwrap_or(0);
            }
            lo = lo.saturating_add(a);
            hi = hi.saturating_add(b);
        }
        (clamp(lo), clamp(hi))
    }

    /// Whether every value is known to be a multiple of `n` (positive).
    pub fn is_multiple_of(&self, n: i64, symbols: &Symbols) -> bool {
        self.terms().all(|(monomial, c)| {
            let known = monomial.iter().fold(c, |acc, atom| match atom {
                Atom::Symbol(s) => acc.saturating_mul(symbols.get(s).map_or(1, |i| i.multiple_of)),
                Atom::FloorDiv(..) => acc,
            });
            known % n == 0
        })
    }

    /// Every symbol that occurs.
    pub fn symbols(&self) -> Vec<Symbol> {
        let mut found = Vec::new();
        self.collect_symbols(&mut found);
        found.sort();
        found.dedup();
        found
    }

    fn collect_symbols(&self, out: &mut Vec<Symbol>) {
        for atom in self.terms().flat_map(|(monomial, _)| monomial) {
            match atom {
                Atom::Symbol(s) => out.push(s.clone()),
                Atom::FloorDiv(d, _) => d.collect_symbols(out),
            }
        }
    }
}

fn add_term(terms: &mut Terms, mut monomial: Vec<Atom>, c: i64) {
    if c == 0 {
        return;
    }
    monomial.sort();
    let sum = terms.get(&monomial).copied().unwrap_or(0).saturating_add(c);
    if sum == 0 {
        terms.remove(&monomial);
    } else {
        terms.insert(monomial, sum);
    }
}

impl From<i64> for Dim {
    fn from(v: i64) -> Self {
        Dim::constant(v)
    }
}

impl From<usize> for Dim {
    fn from(v: usize) -> Self {
        Dim::constant(i64::try_from(v).unwrap_or(i64::MAX))
    }
}

impl From<&Symbol> for Dim {
    fn from(s: &Symbol) -> Self {
        Dim::symbol(s)
    }
}

impl Add for Dim {
    type Output = Dim;
    fn add(self, rhs: Dim) -> Dim {
        match (&self.0, &rhs.0) {
            (Sum::Constant(a), Sum::Constant(b)) => return Dim::constant(a.saturating_add(*b)),
            (Sum::Constant(0), _) => return rhs,
            (_, Sum::Constant(0)) => return self,
            _ => {}
        }
        let mut sum = self.into_terms();
        for (m, c) in rhs.terms() {
            add_term(&mut sum, m.to_vec(), c);
        }
        Dim::of(sum)
    }
}

impl Sub for Dim {
    type Output = Dim;
    fn sub(self, rhs: Dim) -> Dim {
        if let (Sum::Constant(a), Sum::Constant(b)) = (&self.0, &rhs.0) {
            return Dim::constant(a.saturating_add(b.saturating_neg()));
        }
        let mut sum = self.into_terms();
        for (m, c) in rhs.terms() {
            add_term(&mut sum, m.to_vec(), c.saturating_neg());
        }
        Dim::of(sum)
    }
}

impl Mul for Dim {
    type Output = Dim;
    fn mul(self, rhs: Dim) -> Dim {
        match (&self.0, &rhs.0) {
            (Sum::Constant(a), Sum::Constant(b)) => return Dim::constant(a.saturating_mul(*b)),
            (Sum::Constant(1), _) => return rhs,
            (_, Sum::Constant(1)) => return self,
            _ => {}
        }
        let mut product = Terms::new();
        for (m, c) in self.terms() {
            for (n, d) in rhs.terms() {
                add_term(&mut product, m.iter().chain(n).cloned().collect(), c.saturating_mul(d));
            }
        }
        Dim::of(product)
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Atom::Symbol(s) => write!(f, "{s}"),
            Atom::FloorDiv(d, by) => write!(f, "floor({d}, {by})"),
        }
    }
}

/// `2*tokens*hidden + floor(seq + 1, 2) - 3`: atoms before the constant, which comes last.
impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(c) = self.as_const() {
            return write!(f, "{c}");
        }
        let (constant, rest): (Vec<_>, Vec<_>) = self.terms().partition(|(m, _)| m.is_empty());
        for (i, (monomial, c)) in rest.into_iter().chain(constant).enumerate() {
            let magnitude = c.unsigned_abs();
            f.write_str(match (i, c < 0) {
                (0, false) => "",
                (0, true) => "-",
                (_, false) => " + ",
                (_, true) => " - ",
            })?;
            if magnitude != 1 || monomial.is_empty() {
                write!(f, "{magnitude}")?;
                if !monomial.is_empty() {
                    f.write_str("*")?;
                }
            }
            for (j, atom) in monomial.iter().enumerate() {
                write!(f, "{}{atom}", if j == 0 { "" } else { "*" })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sym(name: &str) -> Dim {
        Dim::symbol(&Symbol::new(name))
    }

    #[test]
    fn canonical_form_is_order_free() {
        let (t, b) = (sym("tokens"), sym("batch"));
        let left = (t.clone() + Dim::from(1i64)) * (b.clone() - Dim::from(2i64));
        let right = b.clone() * t.clone() - t.clone() - t.clone() + b.clone() - Dim::from(2i64);
        assert_eq!(left, right);
        assert_eq!(left.to_string(), "batch + batch*tokens - 2*tokens - 2");
        assert_eq!((t.clone() - t).as_const(), Some(0));
    }

    #[test]
    fn floor_division() {
        let t = sym("t");
        let d = (t.clone() * Dim::from(32i64) + Dim::from(37i64)).floor_div(16);
        assert_eq!(d, t.clone() * Dim::from(2i64) + Dim::from(2i64));
        let odd = (t.clone() + Dim::from(1i64)).floor_div(2);
        assert_eq!(odd.to_string(), "floor(t + 1, 2)");
        assert_eq!(odd.eval(&|_| Some(6)), Ok(3));
        assert_eq!(t.ceil_div(16).eval(&|_| Some(33)), Ok(3));
        assert_eq!(t.align_up(64).eval(&|_| Some(65)), Ok(128));
    }

    #[test]
    fn exact_division() {
        let (t, h) = (sym("t"), sym("h"));
        let product = t.clone() * h.clone() * Dim::from(12i64);
        assert_eq!(product.exact_div(&(t.clone() * Dim::from(4i64))), Some(h * Dim::from(3i64)));
        assert_eq!(product.exact_div(&Dim::from(5i64)), None);
    }

    #[test]
    fn bounds_and_divisibility() {
        let s = Symbol::new("s");
        let symbols = Symbols::from([(s.clone(), SymbolInfo { min: 8, max: 512, multiple_of: 8 })]);
        let d = Dim::symbol(&s) * Dim::from(2i64) - Dim::from(16i64);
        assert_eq!(d.bounds(&symbols), (0, 1008));
        assert!(d.is_multiple_of(16, &symbols));
        assert!(!d.is_multiple_of(32, &symbols));
    }

    #[test]
    fn overflow_is_an_error() {
        let t = sym("t");
        let square = t.clone() * t;
        assert!(matches!(square.eval(&|_| Some(i64::MAX)), Err(DimError::Overflow(_))));
        assert!(matches!(square.eval(&|_| None), Err(DimError::Unbound(_))));
    }
}
