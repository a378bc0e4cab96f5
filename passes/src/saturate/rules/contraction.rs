//! Products: linear layers from dots, transposes and constants out of them, regrouping, rows chosen before.

use super::super::rule::{Rule, exact, reassociate};

/// The rules of this theme.
pub fn rules() -> Vec<Rule> {
    let mut rules = vec![
        // Layers as checkpoints store them.
        exact("linear", "x w^T = linear(x, w)", "(dot true ?x ?w)", "(linear ?x ?w absent)")
            .when("(@param ?w) (@rank ?w #2) (@float ?x)"),
        // A weight that an exporter left input by output is turned when weights are packed.
        exact(
            "linear-by-columns",
            "x w = linear(x, w^T)",
            "(dot false ?x ?w)",
            "(linear ?x (transpose [1,0] ?w) absent)",
        )
        .when("(@plain ?w) (@rank ?w #2) (@float ?x)"),
        exact(
            "linear-of-rows",
            "linear(reshape(x), w) = reshape(linear(x, w)) if the last axis stays",
            "(linear (reshape ?s ?x) ?w ?b)",
            "(reshape (@with_last ?s ?w) (linear ?x ?w ?b))",
        )
        .when("(@same_last ?s ?x) (@rank_above ?x #1)"),
        reassociate(
            "linear-bias",
            "linear(x, w) + b = linear(x, w, b)",
            "(add (linear ?x ?w absent) (broadcast ?s ?r ?b))",
            "(linear ?x ?w ?b)",
        )
        .when("(@row ?r ?s) (@rank ?b #1)"),
        reassociate(
            "linear-bias-of-rows",
            "reshape(linear(x, w)) + b = reshape(linear(x, w, b)) if the last axis stays",
            "(add (reshape ?s (linear ?x ?w absent)) (broadcast ?s ?r ?b))",
            "(reshape ?s (linear ?x ?w ?b))",
        )
        .when("(@row ?r ?s) (@rank ?b #1) (@same_last ?s (@with_last (@shape ?x) ?w))"),
        reassociate(
            "linear-split-input",
            "linear(x, w) + linear(y, w) = linear(x + y, w)",
            "(add (linear ?x ?w ?b) (linear ?y ?w absent))",
            "(linear (add ?x ?y) ?w ?b)",
        ),
        reassociate(
            "linear-split-input-sub",
            "linear(x, w, b) - linear(y, w, b) = linear(x - y, w)",
            "(sub (linear ?x ?w ?b) (linear ?y ?w ?b))",
            "(linear (sub ?x ?y) ?w absent)",
        ),
        // Transposes.
        exact(
            "dot-transposed",
            "a b^p = a (b^q)^T, q ends otherwise",
            "(dot false ?a (transpose ?p ?b))",
            "(dot true ?a (transpose (@swap_last ?p) ?b))",
        ),
        exact(
            "dot-twice-transposed",
            "a (b^p)^T = a b^q, q ends otherwise",
            "(dot true ?a (transpose ?p ?b))",
            "(dot false ?a (transpose (@swap_last ?p) ?b))",
        ),
        reassociate(
            "transpose-of-dot",
            "(a b)^T = b^T a^T",
            "(transpose ?p (dot false ?a ?b))",
            "(dot false (transpose ?p ?b) (transpose ?p ?a))",
        )
        .when("(@swaps_last ?p) (@float ?a)"),
        reassociate(
            "transpose-of-dot-transposed",
            "(a b^T)^T = b a^T",
            "(transpose ?p (dot true ?a ?b))",
            "(dot true ?b ?a)",
        )
        .when("(@swaps_last ?p) (@float ?a)"),
        // Batches of products: merged leading axes apart again.
        exact(
            "dot-of-merged-batch",
            "reshape(a) reshape(b) = reshape(a b) if only leading axes are merged",
            "(dot ?t (reshape ?r ?a) (reshape ?s ?b))",
            "(reshape (@shape (dot ?t (reshape ?r ?a) (reshape ?s ?b))) (dot ?t ?a ?b))",
        )
        .when("(@same_tail ?r ?a #2) (@same_tail ?s ?b #2) (@same_lead ?a ?b)"),
        // Regrouping.
        reassociate(
            "dot-associates",
            "(a b) c = a (b c)",
            "(dot false (dot false ?a ?b) ?c)",
            "(dot false ?a (dot false ?b ?c))",
        )
        .when("(@float ?a)"),
        reassociate(
            "dot-associates-back",
            "a (b c) = (a b) c",
            "(dot false ?a (dot false ?b ?c))",
            "(dot false (dot false ?a ?b) ?c)",
        )
        .when("(@float ?a)"),
        reassociate(
            "dot-factor-left",
            "a b + a c = a (b + c)",
            "(add (dot ?t ?a ?b) (dot ?t ?a ?c))",
            "(dot ?t ?a (add ?b ?c))",
        )
        .when("(@float ?a)"),
        reassociate(
            "dot-factor-right",
            "a c + b c = (a + b) c",
            "(add (dot ?t ?a ?c) (dot ?t ?b ?c))",
            "(dot ?t (add ?a ?b) ?c)",
        )
        .when("(@float ?a)"),
        // Constants leave.
        reassociate("dot-scaled-left", "(c a) b = c (a b)", "(dot ?t (mul ?a ?c) ?b)", SCALED_DOT).when(SCALED),
        reassociate("dot-scaled-right", "a (c b) = c (a b)", "(dot ?t ?a (mul ?b ?c))", SCALED_DOT).when(SCALED),
        reassociate(
            "linear-scaled",
            "linear(c x, w) = c linear(x, w)",
            "(linear (mul ?a ?c) ?w absent)",
            "(mul (linear ?a ?w absent) (@full (@value ?c) (linear ?a ?w absent)))",
        )
        .when("(@splat ?c) (@varies ?a)"),
        reassociate("dot-neg-left", "(-a) b = -(a b)", "(dot ?t (neg ?a) ?b)", "(neg (dot ?t ?a ?b))")
            .when("(@wide ?a)"),
        // Rows scaled before are rows scaled after.
        reassociate(
            "dot-rows-scaled",
            "(r a) b = r (a b) for a number r a row",
            "(dot ?t (mul ?a (broadcast ?s ?x ?r)) ?b)",
            "(mul (dot ?t ?a ?b) (broadcast (@shape (dot ?t ?a ?b)) ?x ?r))",
        )
        .when("(@in_place ?x ?s) (@one_a_row ?r) (@float ?a)"),
        reassociate(
            "dot-rows-divided",
            "(a / r) b = (a b) / r for a number r a row",
            "(dot ?t (div ?a (broadcast ?s ?x ?r)) ?b)",
            "(div (dot ?t ?a ?b) (broadcast (@shape (dot ?t ?a ?b)) ?x ?r))",
        )
        .when("(@in_place ?x ?s) (@one_a_row ?r) (@float ?a)"),
    ];
    // Rows that are not wanted are not computed: f(x)[rows] = f(x[rows]) where f takes rows one by one.
    for (name, op, rest) in [
        ("linear", "linear ?x", " ?w ?b"),
        ("layer_norm", "layer_norm ?e ?x", " ?w ?b"),
        ("rms_norm", "rms_norm ?e ?o ?x", " ?w"),
        ("l2_norm", "l2_norm ?e ?x", ""),
        ("softmax", "softmax ?x", ""),
        ("gelu", "gelu ?x", ""),
        ("silu", "silu ?x", ""),
        ("relu", "relu ?x", ""),
        ("tanh", "tanh ?x", ""),
    ] {
        let on = |x: &str| format!("({}{rest})", op.replace("?x", x));
        let left = on("?x");
        rules.push(
            exact(
                &format!("gather-{name}"),
                &format!("{name}(x)[rows] = {name}(x[rows])"),
                &format!("(gather #0 {left} ?i)"),
                &on("(gather #0 ?x ?i)"),
            )
            .when("(@rank_above ?x #1) (@rank ?i #1) (@nonempty_rows ?x)"),
        );
        if !matches!(name, "gelu" | "silu" | "relu" | "tanh") {
            rules.push(
                exact(
                    &format!("slice-{name}"),
                    &format!("{name}(x)[a..b] = {name}(x[a..b]) along another axis than the last"),
                    &format!("(slice ?j ?from ?to ?t {left})"),
                    &on("(slice ?j ?from ?to ?t ?x)"),
                )
                .when("(@below_last ?j ?x)"),
            );
        }
    }
    rules
}

const SCALED_DOT: &str = "(mul (dot ?t ?a ?b) (@full (@value ?c) (dot ?t ?a ?b)))";
const SCALED: &str = "(@splat ?c) (@varies ?a) (@varies ?b) (@float ?a)";
