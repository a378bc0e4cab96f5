//! The text form of programs: what dumps, tests and bug reports are written in. It prints and parses back to the same
//! program: structure, names, paths, attributes, constants to the bit.
//!
//! ```text
//! program "bert"
//! symbol tokens in 0..=2147483647
//! param "embeddings.weight": f32[30522, 384]
//!
//! func "layer" (%0 x: f32[tokens, 384], %1 weight: f32[384, 384]) {
//!   %2: f32[tokens, 384] = linear(%0, %1) @ "query"
//!   %3: f32[tokens, 384] = gelu(%2)
//!   return hidden = %3
//! }
//! ```
//!
//! - `derived "w" () { .. }` is a parameter that follows from others: see [`Program::derived`].
//! - `%7` is the first result of node 7, `%7.1` its second; a node of several results writes its types in parentheses.
//!   Nodes stand after what they use; printing numbers them anew, arguments first, then in topological order.
//! - An operand that is absent in the middle is `_`. Attributes follow in braces (`{axis: 0}`), but for those that the
//!   result types tell: `ty`, `results`, `shape`, `dtype`.
//! - Elementwise ops and activations go by their function's name (`add`, `lt`, `gelu`), reductions as `reduce_sum`.
//! - A constant's elements follow its name, flat: `const 1.5`, `const [1, 2, 3]`, or `const hex "0000c03f"` as bytes.
//!   A NaN with unusual bits is `nan("7fc00001")`.
//! - `//` begins a comment.
//!
//! Parsing checks syntax and the type rule of each node; whether names refer to something is the verifier's matter.

mod lexer;
mod parser;
mod printer;

pub use lexer::ParseError;
pub use parser::parse;

use crate::attr::AttrValue;
use crate::op::{Activation, Binary, Compare, Op, Reduction, Unary};
use crate::program::Program;
use crate::types::Type;

/// The text of a program.
pub fn print(program: &Program) -> String {
    printer::print(program)
}

impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&print(self))
    }
}

impl std::str::FromStr for Program {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text)
    }
}

/// The value of an attribute that the result types tell, so that it need not be written.
fn implied(attribute: &str, types: &[Type]) -> Option<AttrValue> {
    match attribute {
        "ty" => Some(AttrValue::Type(types.first()?.clone())),
        "results" => Some(AttrValue::List(types.iter().cloned().map(AttrValue::Type).collect())),
        "shape" => Some(AttrValue::List(types.first()?.shape.iter().cloned().map(AttrValue::Dim).collect())),
        "dtype" => Some(AttrValue::Word(types.first()?.dtype.name().into())),
        "dropout" => Some(AttrValue::Float(0.0)),
        _ => None,
    }
}

/// The name an op is written by, and whether it tells the attribute `f`.
fn spelling(op: &Op) -> (String, bool) {
    match op {
        Op::Unary { f } => (f.name().into(), true),
        Op::Binary { f } => (f.name().into(), true),
        Op::Compare { f } => (f.name().into(), true),
        Op::Activation { f } => (f.name().into(), true),
        Op::Reduce { f, .. } => (format!("reduce_{}", f.name()), true),
        other => (other.name().into(), false),
    }
}

/// The row's name and the function of the op written by this name.
fn row(name: &str) -> Option<(&str, Option<&str>)> {
    if Op::NAMES.contains(&name) {
        return Some((name, None));
    }
    let reduction = name.strip_prefix("reduce_").filter(|f| Reduction::from_name(f).is_some());
    if let Some(f) = reduction {
        Some(("reduce", Some(f)))
    } else if Unary::from_name(name).is_some() {
        Some(("unary", Some(name)))
    } else if Binary::from_name(name).is_some() {
        Some(("binary", Some(name)))
    } else if Compare::from_name(name).is_some() {
        Some(("compare", Some(name)))
    } else if Activation::from_name(name).is_some() {
        Some(("activation", Some(name)))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_means_one_op() {
        let mut names: Vec<&str> = Op::NAMES.to_vec();
        names.extend(Unary::ALL.iter().map(|f| f.name()));
        names.extend(Binary::ALL.iter().map(|f| f.name()));
        names.extend(Compare::ALL.iter().map(|f| f.name()));
        names.extend(Activation::ALL.iter().map(|f| f.name()));
        for name in &names {
            assert_eq!(names.iter().filter(|n| *n == name).count(), 1, "{name}");
        }
        assert_eq!(row("reduce_sum"), Some(("reduce", Some("sum"))));
        assert_eq!(row("add"), Some(("binary", Some("add"))));
        assert_eq!(row("nothing"), None);
    }
}
