//! The rules, by theme. One row a rule: how much it changes numbers, name, equation, left, right, premises.

mod algebra;
mod attention;
mod contraction;
mod folding;
mod movement;
mod norms;
mod quantize;
mod recognize;
mod rope;
mod siblings;

use super::rule::Rule;
pub use siblings::SIBLINGS;

/// A theme: its name, and its rules.
pub type Table = (&'static str, fn() -> Vec<Rule>);

/// The tables.
pub const TABLES: &[Table] = &[
    ("algebra", algebra::rules),
    ("movement", movement::rules),
    ("contraction", contraction::rules),
    ("folding", folding::rules),
    ("siblings", siblings::rules),
    ("recognize", recognize::rules),
    ("norms", norms::rules),
    ("attention", attention::rules),
    ("rope", rope::rules),
    ("quantize", quantize::rules),
];

/// Every rule. Same order, same result.
pub fn all() -> Vec<Rule> {
    TABLES.iter().flat_map(|(_, rules)| rules()).collect()
}
