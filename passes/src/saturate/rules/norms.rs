//! Means, softmax and norms along the last axis.

use super::super::rule::{Rule, exact, reassociate};

/// The rules of this theme.
pub fn rules() -> Vec<Rule> {
    // A mean is the sum divided by the count.
    let mean = |x: &str| format!("(div (reduce_sum ?a true {x}) ?n)");
    let over_last = "(@last ?a ?x) (@in_place ?b ?s) (@float ?x)";
    let max = "(reduce_max ?a true ?x)";
    let none = format!("(eq {max} -inf)");
    let shifted = format!("(exp (sub ?x (broadcast ?s ?b (select {none} 0 {max}))))");
    let plainly_shifted = format!("(exp (sub ?x (broadcast ?s ?b {max})))");
    let softmax_of = |exp: &str, sum: &str| format!("(div {exp} (broadcast ?s ?b {sum}))");
    let sum_of = |exp: &str| format!("(reduce_sum ?a true {exp})");
    let centred = format!("(sub ?x (broadcast ?s ?b {}))", mean("?x"));
    let variance = mean(&format!("(mul {centred} {centred})"));
    let counted = format!("{over_last} (@count ?n ?x)");
    let weight = "(@row ?r ?s) (@rank ?w #1)";
    vec![
        reassociate(
            "mean",
            "sum(x) (1 / n) = sum(x) / n",
            "(mul (reduce_sum ?a ?k ?x) ?c)",
            "(div (reduce_sum ?a ?k ?x) (@full (@last_size ?x) (reduce_sum ?a ?k ?x)))",
        )
        .when("(@splat ?c) (@last ?a ?x) (@reciprocal_count ?c ?x) (@float ?x)"),
        // Softmax in the form that decomposition gives, and as others write it.
        exact(
            "softmax",
            "e^(x - max) / sum(e^(x - max)), 0 for rows of -inf = softmax(x)",
            &softmax_of(&shifted, &format!("(select {none} 1 {})", sum_of(&shifted))),
            "(softmax ?x)",
        )
        .when(over_last)
        .when("(@wide ?x)"),
        reassociate(
            "softmax-of-finite",
            "e^(x - max) / sum(e^(x - max)) = softmax(x)",
            &softmax_of(&plainly_shifted, &sum_of(&plainly_shifted)),
            "(softmax ?x)",
        )
        .when(over_last),
        reassociate(
            "softmax-without-max",
            "e^x / sum(e^x) = softmax(x)",
            &softmax_of("(exp ?x)", &sum_of("(exp ?x)")),
            "(softmax ?x)",
        )
        .when(over_last),
        reassociate(
            "softmax-by-log",
            "e^(x - log(sum(e^x))) = softmax(x)",
            "(exp (sub ?x (broadcast ?s ?b (log (reduce_sum ?a true (exp ?x))))))",
            "(softmax ?x)",
        )
        .when(over_last),
        reassociate(
            "softmax-of-shifted",
            "softmax(x - c) = softmax(x)",
            "(softmax (sub ?x (broadcast ?s ?b ?c)))",
            "(softmax ?x)",
        )
        .when("(@in_place ?b ?s) (@one_a_row ?c)"),
        // The forms of a reciprocal root.
        reassociate(
            "mul-by-rows-of-rsqrt",
            "x rsqrt(v) = x / sqrt(v)",
            "(mul ?x (broadcast ?s ?b (rsqrt ?v)))",
            "(div ?x (broadcast ?s ?b (sqrt ?v)))",
        ),
        reassociate(
            "mul-by-rows-of-reciprocals",
            "x (1 / v) = x / v",
            "(mul ?x (broadcast ?s ?b (div 1 ?v)))",
            "(div ?x (broadcast ?s ?b ?v))",
        )
        .when("(@float ?x)"),
        reassociate(
            "variance-of-moments",
            "mean(x^2) - mean(x)^2 = mean((x - mean(x))^2)",
            &format!("(sub {} (mul {m} {m}))", mean("(mul ?x ?x)"), m = mean("?x")),
            "(div (reduce_sum ?a true (mul
                (sub ?x (broadcast (@shape ?x) (@all_axes ?x) (div (reduce_sum ?a true ?x) ?n)))
                (sub ?x (broadcast (@shape ?x) (@all_axes ?x) (div (reduce_sum ?a true ?x) ?n))))) ?n)",
        )
        .when("(@last ?a ?x) (@count ?n ?x) (@float ?x)"),
        // Layer norm: (x - mean) / sqrt(var + eps) * weight + bias
        exact(
            "layer-norm",
            "(x - mean) / sqrt(var + eps) = layer_norm(x)",
            &format!("(div {centred} (broadcast ?s ?b (sqrt (add {variance} ?e))))"),
            "(layer_norm (@value ?e) ?x absent absent)",
        )
        .when(&counted)
        .when("(@splat ?e) (@positive ?e) (@wide ?x)"),
        exact(
            "layer-norm-weight",
            "layer_norm(x) w = layer_norm(x, w)",
            "(mul (layer_norm ?e ?x absent absent) (broadcast ?s ?r ?w))",
            "(layer_norm ?e ?x ?w absent)",
        )
        .when(weight)
        .when("(@wide ?x)"),
        exact(
            "layer-norm-bias",
            "layer_norm(x, w) + b = layer_norm(x, w, b)",
            "(add (layer_norm ?e ?x ?v absent) (broadcast ?s ?r ?w))",
            "(layer_norm ?e ?x ?v ?w)",
        )
        .when(weight)
        .when("(@wide ?x)"),
        // RMS norm: x / sqrt(mean(x^2) + eps) * (weight + offset)
        exact(
            "rms-norm",
            "x / sqrt(mean(x^2) + eps) = rms_norm(x)",
            &format!("(div ?x (broadcast ?s ?b (sqrt (add {} ?e))))", mean("(mul ?x ?x)")),
            "(rms_norm (@value ?e) 0 ?x absent)",
        )
        .when(&counted)
        .when("(@splat ?e) (@positive ?e) (@wide ?x)"),
        exact(
            "rms-norm-weight",
            "rms_norm(x) w = rms_norm(x, w)",
            "(mul (rms_norm ?e ?o ?x absent) (broadcast ?s ?r ?w))",
            "(rms_norm ?e 0 ?x ?w)",
        )
        .when(weight)
        .when("(@wide ?x)"),
        exact(
            "rms-norm-offset",
            "rms_norm(x, w + c) = rms_norm(x, w) with offset c",
            "(rms_norm ?e ?o ?x (add ?w ?c))",
            "(rms_norm ?e (@value ?c) ?x ?w)",
        )
        .when("(@splat ?c) (@nonzero ?c) (@wide ?x) (@equal ?o 0)"),
        // x / max(|x|, eps)
        exact(
            "l2-norm",
            "x / max(sqrt(sum(x^2)), eps) = l2_norm(x)",
            "(div ?x (broadcast ?s ?b (max (sqrt (reduce_sum ?a true (mul ?x ?x))) ?e)))",
            "(l2_norm (@value ?e) ?x)",
        )
        .when(over_last)
        .when("(@splat ?e) (@positive ?e) (@wide ?x)"),
        // Norms that forget a factor or a constant.
        reassociate(
            "l2-norm-scaled",
            "l2_norm(c x) = l2_norm(x), c > 0",
            "(l2_norm ?e (mul ?x ?c))",
            "(l2_norm (@over ?e ?c) ?x)",
        )
        .when("(@splat ?c) (@positive ?c) (@varies ?x)"),
        // Motion of reductions.
        reassociate(
            "sum-of-scaled",
            "sum(x c) = sum(x) c",
            "(reduce_sum ?a ?k (mul ?x ?c))",
            "(mul (reduce_sum ?a ?k ?x) (@full (@value ?c) (reduce_sum ?a ?k ?x)))",
        )
        .when("(@splat ?c) (@varies ?x) (@float ?x)"),
        reassociate(
            "sum-of-sum",
            "sum(a) + sum(b) = sum(a + b)",
            "(add (reduce_sum ?a ?k ?x) (reduce_sum ?a ?k ?y))",
            "(reduce_sum ?a ?k (add ?x ?y))",
        )
        .when("(@same ?x ?y) (@float ?x)"),
        reassociate("max-of-neg", "max(-x) = -min(x)", "(reduce_max ?a ?k (neg ?x))", "(neg (reduce_min ?a ?k ?x))")
            .when("(@float ?x) (@no_empty ?x)"),
        reassociate("min-of-neg", "min(-x) = -max(x)", "(reduce_min ?a ?k (neg ?x))", "(neg (reduce_max ?a ?k ?x))")
            .when("(@float ?x) (@no_empty ?x)"),
    ]
}
