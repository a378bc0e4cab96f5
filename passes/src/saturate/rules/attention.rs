//! Attention from its parts, in every form of mask, and masks in the form that attention knows.

use std::collections::BTreeMap;

use lith_ir::testing::Rng;
use lith_ir::{DType, Dim, Type};

use super::super::language::Attr;
use super::super::rule::{Rule, approximate, exact, reassociate};
use super::super::sample::{Bindings, Operand, Sample};

/// How far ahead of each query each key is; `first` is the position of the first query.
const AHEAD: &str = "(sub (iota ?i #1 i32) (iota ?i #0 i32))";
const AHEAD_OF_FIRST: &str = "(sub (sub (iota ?i #1 i32) (iota ?i #0 i32)) ?f)";
/// The sequence of each token.
const IDS: &str = "(segment_ids ?n ?offsets)";

/// What a query sees.
struct Mask {
    name: &'static str,
    /// The condition and the axes of the scores that it is over.
    seen: Option<(String, &'static str)>,
    causal: bool,
    /// Whether positions begin at `?f`.
    shifted: bool,
    packed: bool,
    key_mask: bool,
}

fn masks() -> Vec<Mask> {
    let mut masks = Vec::new();
    let grid = |m: &str, axes: &str| format!("(broadcast ?grid {axes} {m})");
    for (shifted, ahead) in [(false, AHEAD), (true, AHEAD_OF_FIRST)] {
        let past = format!("(le {ahead} 0)");
        let mask = |name, seen, causal, key_mask| Mask { name, seen, causal, shifted, packed: false, key_mask };
        if !shifted {
            masks.push(mask("", None, false, false));
            masks.push(mask("-masked", Some(("?mask".to_string(), "[0,3]")), false, true));
        }
        let both = format!("(and {} {})", grid("?mask", "[0,2]"), grid(&past, "[1,2]"));
        let names = if shifted { ["-causal-later", "-causal-later-masked"] } else { ["-causal", "-causal-masked"] };
        masks.push(mask(names[0], Some((past, "[2,3]")), true, false));
        masks.push(mask(names[1], Some((both, "[0,2,3]")), true, true));
    }
    let same = format!("(eq (broadcast ?i [0] {IDS}) (broadcast ?i [1] {IDS}))");
    let past = format!("(and {same} (le {AHEAD} 0))");
    let packed = |name, seen, causal| Mask {
        name,
        seen: Some((seen, "[2,3]")),
        causal,
        shifted: false,
        packed: true,
        key_mask: false,
    };
    masks.push(packed("-packed", same, false));
    masks.push(packed("-packed-causal", past, true));
    masks
}

/// How key heads serve query heads.
#[derive(Clone, Copy, PartialEq)]
enum KeyHeads {
    /// Each its own.
    Own,
    /// Several query heads each.
    Grouped,
    /// One serves all, so that its axis of size 1 is nowhere.
    Single,
}

/// Attention with this mask; with or without a scale, and a bias by distance.
fn attention(mask: &Mask, scaled: bool, key_heads: KeyHeads, biased: bool) -> Rule {
    let split = |x: &str, shape: &str| format!("(transpose [0,2,1,3] (reshape {shape} {x}))");
    let repeated = |x: &str| match key_heads {
        KeyHeads::Own => split(x, "?ks"),
        KeyHeads::Grouped => format!("(reshape ?full (broadcast ?groups [0,1,3,4] {}))", split(x, "?ks")),
        KeyHeads::Single => {
            let axes = if mask.packed { "[3,4]" } else { "[0,3,4]" };
            format!("(reshape ?full (broadcast ?single {axes} {x}))")
        }
    };
    let mut scores = format!("(dot true {} {})", split("?q", "?qs"), repeated("?k"));
    if scaled {
        scores = format!("(mul {scores} ?c)");
    }
    if biased {
        let ahead = if mask.shifted { AHEAD_OF_FIRST } else { AHEAD };
        scores = format!("(add {scores} (broadcast ?b [1,2,3] (gather #1 ?bias (add {ahead} ?z))))");
    }
    if let Some((seen, axes)) = &mask.seen {
        scores = format!("(select (broadcast ?b {axes} {seen}) {scores} -inf)");
    }
    let left = format!("(reshape ?o (transpose [0,2,1,3] (dot false (softmax {scores}) {})))", repeated("?v"));
    let scale = if scaled { "(@value ?c)" } else { "1" };
    let bias = if biased { "?bias" } else { "absent" };
    let key = if key_heads == KeyHeads::Single { "#1" } else { "(@heads ?ks)" };
    let heads = format!("(@heads ?qs) {key} {scale} {}", mask.causal);
    // What follows may want another shape than the query's.
    let right = if mask.packed {
        format!("(reshape ?o (packed_attention {heads} 0 ?q ?k ?v ?offsets {bias} absent))")
    } else {
        let seen = if mask.key_mask { "?mask" } else { "absent" };
        format!("(reshape ?o (attention {heads} ?q ?k ?v {seen} {bias}))")
    };
    let splits = if mask.packed { "splits_packed" } else { "splits_heads" };
    let mut when = format!("(@{splits} ?qs ?q) (@wide ?q)");
    when += &match key_heads {
        KeyHeads::Own => format!(" (@{splits} ?ks ?k)"),
        KeyHeads::Grouped => format!(" (@{splits} ?ks ?k) (@repeats_heads ?groups ?ks) (@heads_fill ?full ?groups)"),
        KeyHeads::Single => " (@repeats_single ?single ?k ?qs) (@heads_fill ?full ?single)".to_string(),
    };
    if scaled {
        when += " (@splat ?c)";
    }
    if mask.shifted {
        when += " (@first ?f ?q ?k)";
    } else if mask.causal && !mask.packed {
        when += " (@aligned ?q ?k)";
    }
    if biased {
        when += " (@middle ?z ?bias)";
    }
    let kind = [
        (scaled, "-scaled"),
        (key_heads == KeyHeads::Grouped, "-grouped"),
        (key_heads == KeyHeads::Single, "-single"),
        (biased, "-biased"),
    ];
    let kind: String = kind.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    let equation = "softmax(c q k^T + bias, -inf where not seen) v = attention(q, k, v)";
    exact(&format!("attention{}{kind}", mask.name), equation, &left, &right).when(&when).sample(Sample::Bound(operands))
}

/// Operands of attention that hang together; variables that a rule does not have are not looked at.
fn operands(rng: &mut Rng) -> Bindings {
    let (batch, keys) = (1 + rng.below(3), 1 + rng.below(4));
    let (kv, groups, width) = (rng.pick(&[1usize, 1, 2, 3]), rng.pick(&[1usize, 2, 3]), 1 + rng.below(3));
    let queries = if rng.one_in(2) { keys } else { 1 + rng.below(4) };
    let heads = kv * groups;
    // Packed rows of tokens, where a batch of one says so.
    let packed = rng.one_in(2);
    let batch = if packed { 1 } else { batch };
    let queries = if packed { keys } else { queries };
    let dtype = rng.pick(&[DType::F32, DType::F64]);
    let float = |shape: &[usize]| Operand::Tensor(Type::new(dtype, shape.iter().copied()));
    let shape = |shape: &[usize]| Operand::Attr(Attr::of(&shape.iter().map(|&d| Dim::from(d)).collect::<Vec<_>>()));
    let rows =
        |length: usize, width: usize| if packed { float(&[length, width]) } else { float(&[batch, length, width]) };
    let first = keys as f64 - queries as f64;
    let p = 1 + rng.below(4);
    let grid = Type::new(DType::I32, [queries, keys]);
    let bound = [
        ("q", rows(queries, heads * width)),
        ("k", rows(keys, kv * width)),
        ("v", rows(keys, kv * width)),
        ("qs", shape(&[batch, queries, heads, width])),
        ("ks", shape(&[batch, keys, kv, width])),
        ("o", if packed { shape(&[queries, heads * width]) } else { shape(&[batch, queries, heads * width]) }),
        ("groups", shape(&[batch, kv, groups, keys, width])),
        ("single", shape(&[batch, 1, heads, keys, width])),
        ("full", shape(&[batch, heads, keys, width])),
        ("c", Operand::Splat(Type::new(dtype, [batch, heads, queries, keys]), 0.25)),
        ("b", shape(&[batch, heads, queries, keys])),
        ("grid", shape(&[batch, queries, keys])),
        ("i", shape(&[queries, keys])),
        ("f", Operand::Splat(grid.clone(), first)),
        ("z", Operand::Splat(grid, p as f64 - 1.0)),
        ("mask", Operand::Tensor(Type::new(DType::Bool, [batch, keys]))),
        ("bias", float(&[heads, 2 * p - 1])),
        ("n", Operand::Attr(Attr::of(&Dim::from(keys)))),
        ("offsets", Operand::Tensor(Type::new(DType::I32, [1 + rng.below(3)]))),
    ];
    BTreeMap::from(bound.map(|(name, operand)| (name.to_string(), operand)))
}

/// The rules of this theme.
pub fn rules() -> Vec<Rule> {
    let mut rules = vec![
        // Masks that are added are masks that choose.
        reassociate(
            "mask-by-product",
            "(1 - m) c = m ? 0 : c for m of 0 and 1",
            "(mul (sub 1 (cast ?d ?m)) ?c)",
            "(select ?m (@full 0 ?c) ?c)",
        )
        .when("(@boolean ?m) (@splat ?c) (@float ?c)"),
        reassociate(
            "mask-by-difference",
            "(m - 1) c = m ? 0 : -c for m of 0 and 1",
            "(mul (sub (cast ?d ?m) 1) ?c)",
            "(select ?m (@full 0 ?c) (@full (@neg ?c) ?c))",
        )
        .when("(@boolean ?m) (@splat ?c) (@float ?c)"),
        reassociate(
            "mask-added",
            "x + (m ? 0 : -inf) = m ? x : -inf",
            "(add ?x (broadcast ?s ?a (select ?m 0 -inf)))",
            "(select (broadcast ?s ?a ?m) ?x (@full -inf ?x))",
        )
        .when("(@float ?x)"),
        reassociate(
            "mask-added-whole",
            "x + (m ? 0 : -inf) = m ? x : -inf",
            "(add ?x (select ?m 0 -inf))",
            "(select ?m ?x (@full -inf ?x))",
        )
        .when("(@float ?x)"),
        // A number so low that its exponential is 0 does what -inf does, but for rows that see nothing.
        approximate(
            1e-6,
            "mask-of-low-numbers",
            "softmax(m ? x : c) = softmax(m ? x : -inf) for c below all x, where a row sees anything",
            "(softmax (select ?m ?x ?c))",
            "(softmax (select ?m ?x (@full -inf ?x)))",
        )
        .when("(@never ?c) (@splat ?c) (@wide ?x)")
        .sample(Sample::Bound(seen_rows)),
        approximate(
            1e-6,
            "mask-of-low-numbers-added",
            "softmax(x + (m ? 0 : c)) = softmax(m ? x : -inf) for c below all x, where a row sees anything",
            "(softmax (add ?x (broadcast ?s ?a (select ?m 0 ?c))))",
            "(softmax (select (broadcast ?s ?a ?m) ?x (@full -inf ?x)))",
        )
        .when("(@never ?c) (@splat ?c) (@wide ?x)")
        .sample(Sample::Bound(seen_rows_repeated)),
        exact(
            "segment-ids",
            "number of offsets not above each token, less one = segment_ids",
            "(add (reduce_sum [1] false (cast i32 (le (broadcast ?p [1] ?o) (iota ?p #0 i32)))) -1)",
            "(segment_ids (@size ?p #0) ?o)",
        )
        .sample(Sample::Bound(segments)),
    ];
    let member = format!("(eq (broadcast ?p [1] {IDS}) (iota ?p #0 i32))");
    let pooled = |f: &str, outside: &str| {
        format!("(reduce_{f} [1] false (select (broadcast ?cube [0,1] {member}) (broadcast ?cube [1,2] ?x) {outside}))")
    };
    let when = "(@wide ?x) (@rank ?x #2) (@pools ?x ?offsets ?p ?cube)";
    for (name, left) in [
        ("sum", pooled("sum", "0")),
        ("max", pooled("max", "-inf")),
        (
            "mean",
            format!(
                "(div {} (broadcast ?r [0] (max (reduce_sum [1] false (cast ?d {member})) 1)))",
                pooled("sum", "0")
            ),
        ),
    ] {
        let equation = format!("{name} over the tokens of each sequence = segment_pool(x, offsets)");
        let right = format!("(segment_pool {name} ?x ?offsets)");
        rules.push(
            exact(&format!("segment-pool-{name}"), &equation, &left, &right).when(when).sample(Sample::Bound(segments)),
        );
    }
    for mask in masks() {
        for key_heads in [KeyHeads::Own, KeyHeads::Grouped, KeyHeads::Single] {
            for (scaled, biased) in [(false, false), (true, false), (false, true), (true, true)] {
                rules.push(attention(&mask, scaled, key_heads, biased));
            }
        }
    }
    rules
}

/// Rows of which each sees at least one key: the mask is a constant that is true.
fn seen_rows(rng: &mut Rng) -> Bindings {
    let (rows, keys) = (1 + rng.below(4), 1 + rng.below(5));
    let shape = Attr::of(&[rows, keys].map(Dim::from).to_vec());
    let ty = Type::new(DType::F32, [rows, keys]);
    let bound = [
        ("m", Operand::SomeTrue(Type::new(DType::Bool, [rows, keys]))),
        ("x", Operand::Tensor(ty.clone())),
        ("c", Operand::Splat(ty, rng.pick(&[-1e30, -3.4e38, -1e10]))),
        ("s", Operand::Attr(shape)),
        ("a", Operand::Attr(Attr::of(&vec![0usize, 1]))),
    ];
    BTreeMap::from(bound.map(|(name, operand)| (name.to_string(), operand)))
}

/// The same mask for all heads.
fn seen_rows_repeated(rng: &mut Rng) -> Bindings {
    let mut bound = seen_rows(rng);
    if let Some(Operand::Tensor(ty)) = bound.get("x").cloned() {
        let mut shape = ty.shape.clone();
        shape.insert(0, Dim::from(1 + rng.below(3)));
        bound.insert("s".into(), Operand::Attr(Attr::of(&shape)));
        bound.insert("a".into(), Operand::Attr(Attr::of(&vec![1usize, 2])));
        bound.insert("x".into(), Operand::Tensor(Type { dtype: ty.dtype, shape }));
    }
    bound
}

/// Tokens of some sequences.
fn segments(rng: &mut Rng) -> Bindings {
    let (tokens, sequences, hidden) = (1 + rng.below(5), 1 + rng.below(3), 1 + rng.below(4));
    let shape = |dims: &[usize]| Operand::Attr(Attr::of(&dims.iter().map(|&d| Dim::from(d)).collect::<Vec<_>>()));
    let offsets = Operand::Tensor(Type::new(DType::I32, [sequences + 1]));
    let pool = rng.one_in(2);
    let dtype = rng.pick(&[DType::F32, DType::F64]);
    let bound = [
        ("p", if pool { shape(&[sequences, tokens]) } else { shape(&[tokens, sequences + 1]) }),
        ("o", offsets.clone()),
        ("offsets", offsets),
        ("n", Operand::Attr(Attr::of(&Dim::from(tokens)))),
        ("x", Operand::Tensor(Type::new(dtype, [tokens, hidden]))),
        ("cube", shape(&[sequences, tokens, hidden])),
        ("r", shape(&[sequences, hidden])),
        ("d", Operand::Attr(Attr::of(&dtype))),
    ];
    BTreeMap::from(bound.map(|(name, operand)| (name.to_string(), operand)))
}
