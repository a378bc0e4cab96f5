//! Rotary position embeddings, by pairs and by halves.

use std::collections::BTreeMap;

use lith_ir::testing::Rng;
use lith_ir::{DType, Dim, Type};

use super::super::language::Attr;
use super::super::rule::{Rule, exact, reassociate};
use super::super::sample::{Bindings, Operand, Sample};

/// The rules of this theme.
pub fn rules() -> Vec<Rule> {
    let (cos, sin) = ("(broadcast ?pair ?over ?cos)", "(broadcast ?pair ?over ?sin)");
    let rotated = |x: &str| {
        let part = |from: usize| format!("(reshape ?pair (slice ?axis #{from} #{} #1 (reshape ?split {x})))", from + 1);
        let (a, b) = (part(0), part(1));
        format!(
            "(concat ?axis (reshape ?one (sub (mul {a} {cos}) (mul {b} {sin}))) (reshape ?one (add (mul {b} {cos}) (mul {a} {sin}))))"
        )
    };
    let when = "(@same_shape ?pair (@pairs ?split ?axis)) (@over_heads ?over ?pair) (@wide ?x)";
    let part = "(slice ?last #0 ?turned #1 (reshape ?heads ?x))";
    let half = "(@halves ?h ?x) (@is_last ?k ?x)";
    let turned = "(concat ?k (neg (slice ?k ?h ?d #1 ?x)) (slice ?k #0 ?h #1 ?x))";
    vec![
        exact(
            "rope",
            "(a cos - b sin, b cos + a sin) for all pairs of a head = rope(x)",
            &format!("(reshape ?o {})", rotated("?x")),
            "(rope (@pair_heads ?split ?x) (@interleaved ?axis ?split) ?x ?cos ?sin)",
        )
        .when(when)
        .when("(@same_shape ?o ?x)")
        .sample(Sample::Bound(pairs)),
        exact(
            "rope-partial",
            "(a cos - b sin, b cos + a sin) for the first pairs of a head = rope(x)",
            &format!(
                "(reshape ?o (concat ?last (reshape ?joined {}) (slice ?last ?turned ?width #1 (reshape ?heads ?x))))",
                rotated(part)
            ),
            "(rope (@third_last ?split) (@interleaved ?axis ?split) ?x ?cos ?sin)",
        )
        .when(when)
        .when("(@same_shape ?o ?x) (@cuts_heads ?heads ?x ?last)")
        .sample(Sample::Bound(partial)),
        reassociate(
            "rope-by-halves",
            "x cos + (-x_2, x_1) sin = rope(x) for angles repeated in both halves",
            &format!("(add (mul ?x (broadcast ?s ?a (concat ?l ?cos ?cos))) (mul {turned} (broadcast ?s ?a (concat ?l ?sin ?sin))))"),
            "(rope #1 false ?x (broadcast (@half_shape ?s) ?a ?cos) (broadcast (@half_shape ?s) ?a ?sin))",
        )
        .when(half)
        .when("(@is_last ?l ?cos) (@ends_in_last ?a ?s) (@same_dims ?d (@last_dim ?x)) (@wide ?x)")
        .sample(Sample::Bound(halves)),
        reassociate(
            "rope-by-halves-plain",
            "x cos + (-x_2, x_1) sin = rope(x) for angles repeated in both halves",
            &format!("(add (mul ?x (concat ?k ?cos ?cos)) (mul {turned} (concat ?k ?sin ?sin)))"),
            "(rope #1 false ?x ?cos ?sin)",
        )
        .when(half)
        .when("(@same_dims ?d (@last_dim ?x)) (@wide ?x)")
        .sample(Sample::Bound(halves)),
        exact(
            "rope-of-heads",
            "rope of each head of x^[0,2,1,3] = rope(x), transposed",
            "(rope #1 ?i (transpose [0,2,1,3] (reshape ?heads ?x)) (broadcast ?c [0,2,3] ?cos) (broadcast ?c [0,2,3] ?sin))",
            "(transpose [0,2,1,3] (reshape ?heads (rope (@heads ?heads) ?i ?x ?cos ?sin)))",
        )
        .when("(@splits_heads ?heads ?x) (@wide ?x)")
        .sample(Sample::Bound(heads)),
    ]
}

fn shape(dims: &[usize]) -> Operand {
    Operand::Attr(Attr::of(&dims.iter().map(|&d| Dim::from(d)).collect::<Vec<_>>()))
}

fn bindings(bound: Vec<(&str, Operand)>) -> Bindings {
    bound.into_iter().map(|(name, operand)| (name.to_string(), operand)).collect::<BTreeMap<_, _>>()
}

/// All of each head in pairs.
fn pairs(rng: &mut Rng) -> Bindings {
    rotation(rng, 0)
}

/// The first part of each head in pairs.
fn partial(rng: &mut Rng) -> Bindings {
    let rest = 1 + rng.below(3);
    rotation(rng, rest)
}

fn rotation(rng: &mut Rng, rest: usize) -> Bindings {
    let (tokens, heads, half) = (1 + rng.below(4), 1 + rng.below(3), 1 + rng.below(3));
    let lead = if rng.one_in(2) { vec![tokens] } else { vec![1 + rng.below(2), tokens] };
    let rank = lead.len();
    let interleaved = rng.one_in(2);
    let dtype = rng.pick(&[DType::F32, DType::F64]);
    let with = |more: &[usize]| -> Vec<usize> { lead.iter().chain(more).copied().collect() };
    let (split, axis) = if interleaved { ([heads, half, 2], rank + 2) } else { ([heads, 2, half], rank + 1) };
    let width = 2 * half + rest;
    let mut one = with(&[heads, half]);
    one.insert(axis, 1);
    let float = |dims: Vec<usize>| Operand::Tensor(Type::new(dtype, dims));
    let attr = |n: usize| Operand::Attr(Attr::of(&n));
    bindings(vec![
        ("x", float(with(&[heads * width]))),
        ("cos", float(with(&[half]))),
        ("sin", float(with(&[half]))),
        ("o", shape(&with(&[heads * width]))),
        ("split", shape(&with(&split))),
        ("pair", shape(&with(&[heads, half]))),
        ("one", shape(&one)),
        ("axis", attr(axis)),
        ("over", Operand::Attr(Attr::of(&(0..rank).chain([rank + 1]).collect::<Vec<usize>>()))),
        ("heads", shape(&with(&[heads, width]))),
        ("joined", shape(&with(&[heads, 2 * half]))),
        ("last", attr(rank + 1)),
        ("turned", attr(2 * half)),
        ("width", attr(width)),
    ])
}

/// The form that turns halves.
fn halves(rng: &mut Rng) -> Bindings {
    let (batch, heads, tokens, half) = (1 + rng.below(2), 1 + rng.below(3), 1 + rng.below(3), 1 + rng.below(3));
    let plain = rng.one_in(2);
    let full = [batch, heads, tokens, 2 * half];
    let angles = if plain { vec![batch, heads, tokens, half] } else { vec![tokens, half] };
    let angles = Operand::Tensor(Type::new(DType::F32, angles));
    let attr = |n: usize| Operand::Attr(Attr::of(&n));
    bindings(vec![
        ("x", Operand::Tensor(Type::new(DType::F32, full))),
        ("cos", angles.clone()),
        ("sin", angles),
        ("s", shape(&full)),
        ("a", Operand::Attr(Attr::of(&vec![2usize, 3]))),
        ("l", attr(1)),
        ("k", attr(3)),
        ("h", attr(half)),
        ("d", attr(2 * half)),
    ])
}

/// Heads as axes of their own.
fn heads(rng: &mut Rng) -> Bindings {
    let (batch, heads, tokens, half) = (1 + rng.below(2), 1 + rng.below(3), 1 + rng.below(3), 1 + rng.below(3));
    let angles = Operand::Tensor(Type::new(DType::F32, [batch, tokens, half]));
    bindings(vec![
        ("x", Operand::Tensor(Type::new(DType::F32, [batch, tokens, heads * 2 * half]))),
        ("heads", shape(&[batch, tokens, heads, 2 * half])),
        ("c", shape(&[batch, heads, tokens, half])),
        ("cos", angles.clone()),
        ("sin", angles),
        ("i", Operand::Attr(Attr::of(&rng.one_in(2)))),
    ])
}
