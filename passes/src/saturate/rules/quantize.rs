//! Motion of conversions: casts meet, scales of quantized weights leave products, rounded activations.

use std::collections::BTreeMap;

use lith_ir::testing::Rng;
use lith_ir::{DType, Dim, Type};

use super::super::language::Attr;
use super::super::rule::{Rule, exact, reassociate};
use super::super::sample::{Bindings, Operand, Sample};

/// The rules of this theme.
pub fn rules() -> Vec<Rule> {
    vec![
        exact(
            "cast-cast",
            "cast(cast(x, d), e) = cast(x, e) if d holds every x",
            "(cast ?e (cast ?d ?x))",
            "(cast ?e ?x)",
        )
        .when("(@holds ?d ?x) (@casts_alike ?e ?d ?x)"),
        // Weights of 8 bits with a scale for each output: scaled after the product there are fewer elements.
        reassociate(
            "dequantize-rows-after-product",
            "x (s w)^T = (x w^T) s for a number s a row of w",
            "(dot true ?x (mul ?w (broadcast ?a [0] ?s)))",
            "(mul (dot true ?x ?w) (broadcast (@shape (dot true ?x ?w)) [1] ?s))",
        )
        .when("(@rank ?w #2) (@rank ?s #1) (@float ?x)"),
        reassociate(
            "dequantize-columns-after-product",
            "x (s w) = (x w) s for a number s a column of w",
            "(dot false ?x (mul ?w (broadcast ?a [1] ?s)))",
            "(mul (dot false ?x ?w) (broadcast (@shape (dot false ?x ?w)) [1] ?s))",
        )
        .when("(@rank ?w #2) (@rank ?s #1) (@float ?x)"),
        exact(
            "quantize-neg",
            "q(-x) = -q(x)",
            "(dynamic_quantize ?g ?n (neg ?x))",
            "(neg (dynamic_quantize ?g ?n ?x))",
        )
        .when("(@wide ?x)"),
        // Whole groups of rows that are taken later are rounded alike.
        exact(
            "quantize-gather",
            "q(x)[rows] = q(x[rows])",
            "(gather #0 (dynamic_quantize ?g ?n ?x) ?i)",
            "(dynamic_quantize ?g ?n (gather #0 ?x ?i))",
        )
        .when("(@rank_above ?x #1) (@rank ?i #1) (@nonempty_rows ?x)"),
        exact("round-round", "round(round(x)) = round(x)", "(round (round ?x))", "(round ?x)"),
        exact("floor-floor", "floor(floor(x)) = floor(x)", "(floor (floor ?x))", "(floor ?x)"),
        exact("ceil-ceil", "ceil(ceil(x)) = ceil(x)", "(ceil (ceil ?x))", "(ceil ?x)"),
        exact("round-neg", "round(-x) = -round(x)", "(round (neg ?x))", "(neg (round ?x))"),
        exact("floor-neg", "floor(-x) = -ceil(x)", "(floor (neg ?x))", "(neg (ceil ?x))"),
        exact("ceil-neg", "ceil(-x) = -floor(x)", "(ceil (neg ?x))", "(neg (floor ?x))"),
        exact(
            "clamp-clamp-low",
            "max(max(x, c), d) = max(x, max(c, d))",
            "(max (max ?x ?c) ?d)",
            "(max ?x (@full (@greater ?c ?d) ?x))",
        )
        .when("(@splat ?c) (@splat ?d) (@varies ?x)"),
        exact(
            "clamp-clamp-high",
            "min(min(x, c), d) = min(x, min(c, d))",
            "(min (min ?x ?c) ?d)",
            "(min ?x (@full (@lesser ?c ?d) ?x))",
        )
        .when("(@splat ?c) (@splat ?d) (@varies ?x)"),
        exact(
            "quantize-groups",
            "q of each group = q(x)",
            "(reshape ?o (dynamic_quantize ?g ?n (reshape ?r ?x)))",
            "(dynamic_quantize ?g ?n ?x)",
        )
        .when("(@same_shape ?o ?x) (@grouped ?r ?g ?x) (@wide ?x)")
        .sample(Sample::Bound(groups)),
        // Symmetric rounding to integers and back, one group a row.
        exact(
            "dynamic-quantize",
            "round(x n/m) m/n = q(x), m = max |x|",
            QUANTIZE,
            "(dynamic_quantize (@whole_group ?x) (@whole ?n) ?x)",
        )
        .when("(@last ?a ?x) (@in_place ?b ?s) (@wide ?x) (@splat ?n) (@positive ?n)"),
    ]
}

const QUANTIZE: &str = "(mul
    (round (mul ?x (broadcast ?s ?b (div ?n (select (eq (reduce_max ?a true (abs ?x)) 0) 1 (reduce_max ?a true (abs ?x)))))))
    (broadcast ?s ?b (div (reduce_max ?a true (abs ?x)) ?n)))";

/// Rows of whole groups.
fn groups(rng: &mut Rng) -> Bindings {
    let (rows, groups, group) = (1 + rng.below(3), 1 + rng.below(3), 1 + rng.below(4));
    let shape = |dims: &[usize]| Operand::Attr(Attr::of(&dims.iter().map(|&d| Dim::from(d)).collect::<Vec<_>>()));
    let bound = [
        ("x", Operand::Tensor(Type::new(DType::F32, [rows, groups * group]))),
        ("r", shape(&[rows, groups, group])),
        ("o", shape(&[rows, groups * group])),
        ("g", Operand::Attr(Attr::of(&group))),
        ("n", Operand::Attr(Attr::of(&rng.pick(&[127usize, 32512])))),
    ];
    BTreeMap::from(bound.map(|(name, operand)| (name.to_string(), operand)))
}
