//! Values of symbols, found from the shapes a caller brings.

use std::collections::BTreeMap;

use super::InterpError;
use crate::dim::{Atom, Dim, Symbol, Symbols};

/// Symbols with their values.
#[derive(Clone, Debug, Default)]
pub(super) struct Bindings(BTreeMap<Symbol, i64>);

impl Bindings {
    /// The values under which each dimension has its size. A symbol is found from a dimension in which it is the only
    /// unknown and linear, such as `2*tokens + 1`; every dimension is checked in the end.
    pub(super) fn solve(symbols: &Symbols, sizes: &[(Dim, usize, String)]) -> Result<Self, InterpError> {
        let mut bound = Bindings::default();
        let mut open: Vec<&(Dim, usize, String)> = sizes.iter().collect();
        loop {
            let before = open.len();
            open.retain(|(dim, size, _)| {
                let unknown: Vec<Symbol> = dim.symbols().into_iter().filter(|s| !bound.0.contains_key(s)).collect();
                match unknown.as_slice() {
                    [] => false,
                    [symbol] => match bound.solve_one(dim, symbol, *size) {
                        Some(value) => {
                            bound.0.insert(symbol.clone(), value);
                            false
                        }
                        None => true,
                    },
                    _ => true,
                }
            });
            if open.len() == before {
                break;
            }
        }
        for (dim, size, place) in sizes {
            let value = bound.eval(dim).map_err(|problem| InterpError::Shape { place: place.clone(), problem })?;
            if value != *size as i64 {
                let problem = format!("size {size}, expected {dim} = {value}");
                return Err(InterpError::Shape { place: place.clone(), problem });
            }
        }
        for (symbol, value) in &bound.0 {
            let Some(info) = symbols.get(symbol) else { continue };
            if !(info.min..=info.max).contains(value) || value % info.multiple_of != 0 {
                let problem =
                    format!("{value} is not in {}..={} in multiples of {}", info.min, info.max, info.multiple_of);
                return Err(InterpError::Shape { place: format!("symbol `{symbol}`"), problem });
            }
        }
        Ok(bound)
    }

    /// `x` such that `dim` is `size`, when `dim` is `a*x + b` with `a` and `b` known.
    fn solve_one(&self, dim: &Dim, x: &Symbol, size: usize) -> Option<i64> {
        let (mut a, mut b) = (0i64, 0i64);
        for (monomial, c) in dim.terms() {
            let mut value = c;
            let mut degree = 0;
            for atom in monomial {
                value = value.checked_mul(match atom {
                    Atom::Symbol(s) if s == x => {
                        degree += 1;
                        1
                    }
                    Atom::Symbol(s) => *self.0.get(s)?,
                    Atom::FloorDiv(d, by) => self.eval(d).ok()?.div_euclid(*by),
                })?;
            }
            match degree {
                0 => b = b.checked_add(value)?,
                1 => a = a.checked_add(value)?,
                _ => return None,
            }
        }
        let rest = i64::try_from(size).ok()?.checked_sub(b)?;
        (a != 0 && rest.checked_rem(a) == Some(0)).then(|| rest / a)
    }

    /// The value of a dimension.
    pub(super) fn eval(&self, dim: &Dim) -> Result<i64, String> {
        dim.eval(&|s| self.0.get(s).copied()).map_err(|e| e.to_string())
    }

    /// The sizes of a shape.
    pub(super) fn shape(&self, shape: &[Dim]) -> Result<Vec<usize>, String> {
        let size = |d: &Dim| {
            let value = self.eval(d)?;
            usize::try_from(value).map_err(|_| format!("size {d} = {value}"))
        };
        shape.iter().map(size).collect()
    }
}
