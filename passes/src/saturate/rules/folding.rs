//! Work that moves into weights, where it is done once, when they are packed: scales and shifts around linear layers, the
//! weights of norms before them, two layers in a row. All round differently than before. Only weights stored as plain
//! floats are changed; codes and what a file brought in 16 bits would be rounded anew.

use super::super::rule::{Rule, reassociate};

/// `w` with its columns, or its rows, times a vector.
const COLUMNS: &str = "(mul ?w (broadcast (@shape ?w) [1] ?v))";
const ROWS: &str = "(mul ?w (broadcast (@shape ?w) [0] ?v))";
/// `w` times a number.
const ALL: &str = "(mul ?w (@full (@value ?c) ?w))";
/// `w v`: what a layer makes of a vector.
const IMAGE: &str = "(reduce_sum [1] false (mul ?w (broadcast (@shape ?w) [1] ?v)))";

/// The rules of this theme.
pub fn rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    // Each with a bias and without.
    for (suffix, b, bias, scaled, divided, shifted, when) in [
        ("", "absent", "", "absent".to_string(), "absent", IMAGE.to_string(), ""),
        (
            "-biased",
            "?b",
            ", b",
            "(mul ?b ?v)".into(),
            "(mul ?b (@full (@value ?c) ?b))",
            format!("(add ?b {IMAGE})"),
            "(@plain ?b)",
        ),
    ] {
        let mut add = |name: &str, equation: &str, left: String, right: String, premises: &str| {
            rules.push(
                reassociate(&format!("{name}{suffix}"), &equation.replace(", b", bias), &left, &right)
                    .when(&format!("{premises} {when}")),
            );
        };
        add(
            "fold-scale-before",
            "linear(v x, w, b) = linear(x, w v, b)",
            format!("(linear (mul ?x (broadcast ?s ?r ?v)) ?w {b})"),
            format!("(linear ?x {COLUMNS} {b})"),
            "(@row ?r ?s) (@plain ?v) (@rank ?v #1) (@plain ?w) (@varies ?x)",
        );
        add(
            "fold-scale-after",
            "v linear(x, w, b) = linear(x, v w, v b)",
            format!("(mul (linear ?x ?w {b}) (broadcast ?s ?r ?v))"),
            format!("(linear ?x {ROWS} {scaled})"),
            "(@row ?r ?s) (@plain ?v) (@rank ?v #1) (@plain ?w)",
        );
        add(
            "fold-factor-before",
            "linear(c x, w, b) = linear(x, c w, b)",
            format!("(linear (mul ?x ?c) ?w {b})"),
            format!("(linear ?x {ALL} {b})"),
            "(@splat ?c) (@varies ?x) (@plain ?w)",
        );
        add(
            "fold-factor-after",
            "c linear(x, w, b) = linear(x, c w, c b)",
            format!("(mul (linear ?x ?w {b}) ?c)"),
            format!("(linear ?x {ALL} {divided})"),
            "(@splat ?c) (@plain ?w)",
        );
        add(
            "fold-shift-before",
            "linear(x + v, w, b) = linear(x, w, w v + b)",
            format!("(linear (add ?x (broadcast ?s ?r ?v)) ?w {b})"),
            format!("(linear ?x ?w {shifted})"),
            "(@row ?r ?s) (@plain ?v) (@rank ?v #1) (@plain ?w) (@varies ?x)",
        );
        add(
            "fold-rms-weight",
            "linear(rms_norm(x, v), w, b) = linear(rms_norm(x), w (v + offset), b)",
            format!("(linear (rms_norm ?e ?o ?x ?v) ?w {b})"),
            format!(
                "(linear (rms_norm ?e 0 ?x absent) (mul ?w (broadcast (@shape ?w) [1] (add ?v (@full (@value ?o) ?v)))) {b})"
            ),
            "(@plain ?v) (@plain ?w)",
        );
        add(
            "fold-norm-weight",
            "linear(layer_norm(x, v), w, b) = linear(layer_norm(x), w v, b)",
            format!("(linear (layer_norm ?e ?x ?v absent) ?w {b})"),
            format!("(linear (layer_norm ?e ?x absent absent) {COLUMNS} {b})"),
            "(@plain ?v) (@plain ?w)",
        );
        add(
            "fold-norm-bias",
            "linear(layer_norm(x, g, v), w, b) = linear(layer_norm(x, g), w, w v + b)",
            format!("(linear (layer_norm ?e ?x ?g ?v) ?w {b})"),
            format!("(linear (layer_norm ?e ?x ?g absent) ?w {shifted})"),
            "(@plain ?v) (@plain ?w)",
        );
        add(
            "fold-two-layers",
            "linear(linear(x, v), w, b) = linear(x, w v, b)",
            format!("(linear (linear ?x ?v absent) ?w {b})"),
            format!("(linear ?x (dot false ?w ?v) {b})"),
            "(@plain ?v) (@plain ?w)",
        );
    }
    rules
}
