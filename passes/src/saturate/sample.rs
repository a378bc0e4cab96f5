//! Tries a rule: random operands that fit its left side, then both sides by the reference interpreter. The operands come
//! from the row itself: types flow from the root of the pattern down, attributes are drawn where an op leaves them open,
//! and what fails to type or a premise is drawn again. A row whose operands hang together in a way that drawing does not
//! find says how in its [`Sample`].

mod check;
mod draw;

pub use check::{Tried, try_rule};
pub use draw::{Bindings, Operand};

use lith_ir::testing::Rng;

/// How operands for a rule are made.
#[derive(Clone, Copy, Debug, Default)]
pub enum Sample {
    /// Drawn by type alone.
    #[default]
    Drawn,
    /// These variables first, the others drawn.
    Bound(fn(&mut Rng) -> Bindings),
}
