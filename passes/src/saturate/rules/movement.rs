//! Movement of data: transposes, reshapes, broadcasts, slices and concatenations meet, vanish, and pass elementwise ops.

use super::super::rule::{Rule, exact, reassociate};

/// Functions of one operand that movement passes.
const UNARY: [&str; 19] = [
    "neg",
    "abs",
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "cos",
    "sin",
    "tanh",
    "erf",
    "not",
    "relu",
    "gelu",
    "gelu_tanh",
    "sigmoid",
    "silu",
    "quick_gelu",
    "relu2",
    "hardswish",
];
/// Functions of two operands that movement passes.
const BINARY: [&str; 6] = ["add", "sub", "mul", "div", "max", "min"];

/// The rules of this theme.
pub fn rules() -> Vec<Rule> {
    let mut rules = vec![
        exact("transpose-transpose", "(x^q)^p = x^(q p)", "(transpose ?p (transpose ?q ?x))", "(transpose (@compose ?p ?q) ?x)"),
        exact("reshape-reshape", "reshape(reshape(x, r), s) = reshape(x, s)", "(reshape ?s (reshape ?r ?x))", "(reshape ?s ?x)"),
        exact("transpose-of-ones", "x^p = reshape(x) if p moves only axes of size 1", "(transpose ?p ?x)", "(reshape (@permuted ?p ?x) ?x)")
            .when("(@unit_moves ?p ?x)"),
        exact(
            "broadcast-broadcast",
            "broadcast(broadcast(x, b), a) = broadcast(x, a b)",
            "(broadcast ?s ?a (broadcast ?t ?b ?x))",
            "(broadcast ?s (@through ?b ?a) ?x)",
        ),
        exact(
            "broadcast-reshape",
            "broadcast(reshape(x), a) = broadcast(x, b) if only axes of size 1 differ",
            "(broadcast ?s ?a (reshape ?r ?x))",
            "(broadcast ?s (@without_reshape ?s ?a ?x ?r) ?x)",
        ),
        exact("cast-transpose", "cast(x^p) = cast(x)^p", "(cast ?d (transpose ?p ?x))", "(transpose ?p (cast ?d ?x))"),
        exact("cast-reshape", "cast(reshape(x)) = reshape(cast(x))", "(cast ?d (reshape ?s ?x))", "(reshape ?s (cast ?d ?x))"),
        exact(
            "cast-broadcast",
            "cast(broadcast(x)) = broadcast(cast(x))",
            "(cast ?d (broadcast ?s ?a ?x))",
            "(broadcast ?s ?a (cast ?d ?x))",
        ),
        // Choices by a moved condition between two constants.
        exact(
            "select-reshape",
            "reshape(m) ? c : d = reshape(m ? c : d)",
            "(select (reshape ?s ?m) ?c ?d)",
            "(reshape ?s (select ?m (@full (@value ?c) (cast (@dtype ?c) ?m)) (@full (@value ?d) (cast (@dtype ?c) ?m))))",
        )
        .when("(@splat ?c) (@splat_or_never ?d) (@float ?c)"),
        exact(
            "select-broadcast",
            "broadcast(m) ? c : d = broadcast(m ? c : d)",
            "(select (broadcast ?s ?a ?m) ?c ?d)",
            "(broadcast ?s ?a (select ?m (@full (@value ?c) (cast (@dtype ?c) ?m)) (@full (@value ?d) (cast (@dtype ?c) ?m))))",
        )
        .when("(@splat ?c) (@splat_or_never ?d) (@float ?c)"),
        // Slices.
        exact(
            "slice-slice",
            "x[a..b][c..d] = x[a+c..a+d]",
            "(slice ?i ?c ?d #1 (slice ?i ?a ?b #1 ?x))",
            "(slice ?i (@add_dims ?a ?c) (@add_dims ?a ?d) #1 ?x)",
        ),
        exact(
            "slice-of-first",
            "concat(x, y)[..] = x[..] within x",
            "(slice ?i ?a ?b ?t (concat ?i ?x ?y))",
            "(slice ?i ?a ?b ?t ?x)",
        )
        .when("(@at_most ?b (@size ?x ?i))"),
        exact(
            "slice-of-second",
            "concat(x, y)[..] = y[..] within y",
            "(slice ?i ?a ?b ?t (concat ?i ?x ?y))",
            "(slice ?i (@sub_dims ?a (@size ?x ?i)) (@sub_dims ?b (@size ?x ?i)) ?t ?y)",
        )
        .when("(@at_most (@size ?x ?i) ?a)"),
        exact(
            "concat-of-slices",
            "concat(x[a..b], x[b..c]) = x[a..c]",
            "(concat ?i (slice ?i ?a ?b #1 ?x) (slice ?i ?b ?c #1 ?x))",
            "(slice ?i ?a ?c #1 ?x)",
        ),
        exact(
            "concat-concat",
            "concat(concat(x, y), z) = concat(x, y, z)",
            "(concat ?i (concat ?i ?x ?y) ?z)",
            "(concat ?i ?x ?y ?z)",
        ),
        exact(
            "slice-transpose",
            "x^p[..] = x[..]^p",
            "(slice ?i ?a ?b ?t (transpose ?p ?x))",
            "(transpose ?p (slice (@axis_through ?p ?i) ?a ?b ?t ?x))",
        ),
        exact(
            "concat-transpose",
            "concat(x^p, y^p) = concat(x, y)^p",
            "(concat ?i (transpose ?p ?x) (transpose ?p ?y))",
            "(transpose ?p (concat (@axis_through ?p ?i) ?x ?y))",
        ),
        exact("gather-transpose", "x^p[indices] = .. if p exchanges the first two of two axes", "(gather #0 (transpose [1,0] ?x) ?j)", "(transpose [1,0] (gather #1 ?x ?j))")
            .when("(@rank ?j #1)"),
        exact(
            "gather-gather",
            "x[i][j] = x[i[j]]",
            "(gather #0 (gather #0 ?x ?i) ?j)",
            "(gather #0 ?x (gather #0 ?i ?j))",
        )
        .when("(@rank ?i #1) (@rank ?j #1) (@no_empty ?i)"),
        // Reductions.
        exact(
            "max-of-transpose",
            "max over a of x^p = max over p[a] of x, transposed",
            "(reduce_max ?a true (transpose ?p ?x))",
            "(transpose ?p (reduce_max (@axes_through ?p ?a) true ?x))",
        ),
        reassociate(
            "sum-of-transpose",
            "sum over a of x^p = sum over p[a] of x, transposed",
            "(reduce_sum ?a true (transpose ?p ?x))",
            "(transpose ?p (reduce_sum (@axes_through ?p ?a) true ?x))",
        )
        .when("(@float ?x)"),
    ];
    for f in ["sum", "max", "min", "prod"] {
        // A reduction that drops its axes is one that keeps them, reshaped.
        rules.push(exact(
            &format!("{f}-keeps-axes"),
            &format!("{f}(x) = reshape({f}(x) with its axes kept)"),
            &format!("(reduce_{f} ?a false ?x)"),
            &format!("(reshape (@without ?a ?x) (reduce_{f} ?a true ?x))"),
        ));
    }
    for f in UNARY {
        for (name, left, right) in [
            ("transpose", format!("({f} (transpose ?p ?x))"), format!("(transpose ?p ({f} ?x))")),
            ("reshape", format!("({f} (reshape ?s ?x))"), format!("(reshape ?s ({f} ?x))")),
            ("broadcast", format!("({f} (broadcast ?s ?a ?x))"), format!("(broadcast ?s ?a ({f} ?x))")),
        ] {
            let equation = format!("{f}({name}(x)) = {name}({f}(x))");
            rules.push(exact(&format!("{f}-{name}"), &equation, &left, &right).when("(@varies ?x)"));
        }
        rules.push(exact(
            &format!("slice-{f}"),
            &format!("{f}(x)[..] = {f}(x[..])"),
            &format!("(slice ?i ?a ?b ?t ({f} ?x))"),
            &format!("({f} (slice ?i ?a ?b ?t ?x))"),
        ));
    }
    for f in ["cos", "sin", "neg"] {
        rules.push(exact(
            &format!("{f}-concat"),
            &format!("{f}(concat(x, y)) = concat({f}(x), {f}(y))"),
            &format!("({f} (concat ?i ?x ?y))"),
            &format!("(concat ?i ({f} ?x) ({f} ?y))"),
        ));
    }
    for f in BINARY {
        for (name, attrs) in [("transpose", "?p"), ("reshape", "?s")] {
            let like = if name == "reshape" { "(@same ?x ?y)" } else { "" };
            rules.push(
                exact(
                    &format!("{f}-{name}"),
                    &format!("{f}({name}(x), {name}(y)) = {name}({f}(x, y))"),
                    &format!("({f} ({name} {attrs} ?x) ({name} {attrs} ?y))"),
                    &format!("({name} {attrs} ({f} ?x ?y))"),
                )
                .when(like),
            );
        }
        rules.push(exact(
            &format!("slice-{f}"),
            &format!("{f}(x, y)[..] = {f}(x[..], y[..])"),
            &format!("(slice ?i ?a ?b ?t ({f} ?x ?y))"),
            &format!("({f} (slice ?i ?a ?b ?t ?x) (slice ?i ?a ?b ?t ?y))"),
        ));
    }
    // A constant is the same wherever it is moved.
    for f in ["add", "sub", "mul", "div"] {
        for (name, attrs) in [("transpose", "?p"), ("reshape", "?s"), ("broadcast", "?s ?a")] {
            for (place, left, right) in [
                (
                    "",
                    format!("({f} ({name} {attrs} ?x) ?c)"),
                    format!("({name} {attrs} ({f} ?x (@full (@value ?c) ?x)))"),
                ),
                (
                    "-constant-first",
                    format!("({f} ?c ({name} {attrs} ?x))"),
                    format!("({name} {attrs} ({f} (@full (@value ?c) ?x) ?x))"),
                ),
            ] {
                if place.is_empty() || matches!(f, "sub" | "div") {
                    rules.push(
                        exact(
                            &format!("{f}-constant-{name}{place}"),
                            &format!("{f}({name}(x), c) = {name}({f}(x, c))"),
                            &left,
                            &right,
                        )
                        .when("(@splat ?c) (@varies ?x) (@float ?x)"),
                    );
                }
            }
        }
    }
    rules
}
