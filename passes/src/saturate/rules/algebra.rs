//! Elementwise algebra: order, neutral elements, constants, powers, comparisons.

use super::super::rule::{Rule, exact, reassociate};

/// The rules of this theme.
pub fn rules() -> Vec<Rule> {
    let mut rules = vec![
        // Signs.
        exact("neg-neg", "-(-x) = x", "(neg (neg ?x))", "?x"),
        exact("not-not", "!!x = x", "(not (not ?x))", "?x"),
        exact("abs-neg", "|-x| = |x|", "(abs (neg ?x))", "(abs ?x)"),
        exact("abs-abs", "||x|| = |x|", "(abs (abs ?x))", "(abs ?x)"),
        exact("sub-neg", "a - (-b) = a + b", "(sub ?a (neg ?b))", "(add ?a ?b)"),
        exact("add-neg", "a + (-b) = a - b", "(add ?a (neg ?b))", "(sub ?a ?b)"),
        exact("mul-neg", "(-a) b = -(a b)", "(mul (neg ?a) ?b)", "(neg (mul ?a ?b))").when("(@float ?a)"),
        exact("div-neg", "(-a) / b = -(a / b)", "(div (neg ?a) ?b)", "(neg (div ?a ?b))").when("(@float ?a)"),
        exact("div-by-neg", "a / (-b) = -(a / b)", "(div ?a (neg ?b))", "(neg (div ?a ?b))").when("(@float ?a)"),
        reassociate("neg-sub", "-(a - b) = b - a", "(neg (sub ?a ?b))", "(sub ?b ?a)"),
        exact("mul-minus-one", "x (-1) = -x", "(mul ?x -1)", "(neg ?x)").when("(@float ?x)"),
        exact("square-abs", "|x| |x| = x x", "(mul (abs ?x) (abs ?x))", "(mul ?x ?x)"),
        reassociate("sqrt-square", "sqrt(x x) = |x|", "(sqrt (mul ?x ?x))", "(abs ?x)"),
        // Neutral elements.
        exact("sub-zero", "x - 0 = x", "(sub ?x 0)", "?x").when("(@varies ?x)"),
        reassociate("add-zero", "x + 0 = x", "(add ?x 0)", "?x").when("(@varies ?x)"),
        exact("mul-one", "x 1 = x", "(mul ?x 1)", "?x").when("(@varies ?x)"),
        exact("div-one", "x / 1 = x", "(div ?x 1)", "?x").when("(@varies ?x)"),
        exact("pow-one", "x^1 = x", "(pow ?x 1)", "?x").when("(@varies ?x)"),
        exact("max-same", "max(x, x) = x", "(max ?x ?x)", "?x"),
        exact("min-same", "min(x, x) = x", "(min ?x ?x)", "?x"),
        exact("and-same", "x & x = x", "(and ?x ?x)", "?x"),
        exact("or-same", "x | x = x", "(or ?x ?x)", "?x"),
        // Constants meet.
        reassociate(
            "add-constants",
            "(x + c) + d = x + (c + d)",
            "(add (add ?x ?c) ?d)",
            "(add ?x (@full (@plus ?c ?d) ?x))",
        )
        .when("(@splat ?c) (@splat ?d) (@varies ?x) (@float ?x)"),
        reassociate("mul-constants", "(x c) d = x (c d)", "(mul (mul ?x ?c) ?d)", "(mul ?x (@full (@times ?c ?d) ?x))")
            .when("(@splat ?c) (@splat ?d) (@varies ?x) (@float ?x)"),
        reassociate("sub-constant", "x - c = x + (-c)", "(sub ?x ?c)", "(add ?x (@full (@neg ?c) ?x))")
            .when("(@splat ?c) (@varies ?x) (@float ?x)"),
        reassociate("div-constant", "x / c = x (1 / c)", "(div ?x ?c)", "(mul ?x (@full (@recip ?c) ?x))")
            .when("(@splat ?c) (@nonzero ?c) (@varies ?x) (@float ?x)"),
        reassociate("mul-constant-out", "(x c) y = (x y) c", "(mul (mul ?x ?c) ?y)", "(mul (mul ?x ?y) ?c)")
            .when("(@splat ?c) (@varies ?x) (@varies ?y) (@float ?x)"),
        reassociate("add-constant-out", "(x + c) + y = (x + y) + c", "(add (add ?x ?c) ?y)", "(add (add ?x ?y) ?c)")
            .when("(@splat ?c) (@varies ?x) (@varies ?y) (@float ?x)"),
        reassociate("div-constant-out", "(x c) / y = (x / y) c", "(div (mul ?x ?c) ?y)", "(mul (div ?x ?y) ?c)")
            .when("(@splat ?c) (@varies ?x) (@varies ?y) (@float ?x)"),
        reassociate(
            "constant-over-constant",
            "c / (x d) = (c / d) / x",
            "(div ?c (mul ?x ?d))",
            "(div (@full (@over ?c ?d) ?x) ?x)",
        )
        .when("(@splat ?c) (@splat ?d) (@nonzero ?d) (@varies ?x) (@float ?x)"),
        // Common factors.
        reassociate("factor", "a b + a c = a (b + c)", "(add (mul ?a ?b) (mul ?a ?c))", "(mul ?a (add ?b ?c))")
            .when("(@float ?a)"),
        reassociate("factor-sub", "a b - a c = a (b - c)", "(sub (mul ?a ?b) (mul ?a ?c))", "(mul ?a (sub ?b ?c))")
            .when("(@float ?a)"),
        reassociate("factor-one", "a + a b = a (b + 1)", "(add ?a (mul ?a ?b))", "(mul ?a (add ?b (@full 1 ?b)))")
            .when("(@float ?a)"),
        reassociate("factor-constant", "x c + c = (x + 1) c", "(add (mul ?x ?c) ?d)", "(mul (add ?x (@full 1 ?x)) ?c)")
            .when("(@splat ?c) (@splat ?d) (@equal ?c ?d) (@varies ?x) (@float ?x)"),
        reassociate(
            "factor-product",
            "a + (a b) c = a (b c + 1)",
            "(add ?a (mul (mul ?a ?b) ?c))",
            "(mul ?a (add (mul ?b ?c) (@full 1 ?b)))",
        )
        .when("(@splat ?c) (@varies ?b) (@float ?a)"),
        // Quotients.
        reassociate("mul-reciprocal", "x (1 / y) = x / y", "(mul ?x (div 1 ?y))", "(div ?x ?y)").when("(@float ?x)"),
        reassociate("div-div", "(x / y) / z = x / (y z)", "(div (div ?x ?y) ?z)", "(div ?x (mul ?y ?z))")
            .when("(@float ?x)"),
        reassociate("div-by-quotient", "x / (y / z) = (x z) / y", "(div ?x (div ?y ?z))", "(div (mul ?x ?z) ?y)")
            .when("(@float ?x)"),
        reassociate(
            "common-divisor",
            "x / z + y / z = (x + y) / z",
            "(add (div ?x ?z) (div ?y ?z))",
            "(div (add ?x ?y) ?z)",
        )
        .when("(@float ?x)"),
        reassociate("div-sqrt", "x (1 / sqrt y) = x / sqrt y", "(mul ?x (rsqrt ?y))", "(div ?x (sqrt ?y))"),
        reassociate("reciprocal-sqrt", "1 / sqrt x = rsqrt x", "(div 1 (sqrt ?x))", "(rsqrt ?x)"),
        // Powers and exponentials.
        reassociate("pow-two", "x^2 = x x", "(pow ?x 2)", "(mul ?x ?x)"),
        reassociate("pow-three", "x^3 = x (x x)", "(pow ?x 3)", "(mul ?x (mul ?x ?x))"),
        reassociate("pow-half", "x^(1/2) = sqrt x", "(pow ?x 0.5)", "(sqrt ?x)"),
        reassociate("pow-minus-half", "x^(-1/2) = rsqrt x", "(pow ?x -0.5)", "(rsqrt ?x)"),
        reassociate("pow-minus-one", "x^-1 = 1 / x", "(pow ?x -1)", "(div (@full 1 ?x) ?x)"),
        reassociate("exp-product", "e^a e^b = e^(a + b)", "(mul (exp ?a) (exp ?b))", "(exp (add ?a ?b))"),
        reassociate("exp-reciprocal", "1 / e^x = e^(-x)", "(div 1 (exp ?x))", "(exp (neg ?x))"),
        // Choices and comparisons.
        exact("select-same", "c ? a : a = a", "(select ?c ?a ?a)", "?a"),
        exact("select-not", "!c ? a : b = c ? b : a", "(select (not ?c) ?a ?b)", "(select ?c ?b ?a)"),
        exact(
            "select-first",
            "c ? (c ? a : b) : d = c ? a : d",
            "(select ?c (select ?c ?a ?b) ?d)",
            "(select ?c ?a ?d)",
        ),
        exact(
            "select-second",
            "c ? a : (c ? b : d) = c ? a : d",
            "(select ?c ?a (select ?c ?b ?d))",
            "(select ?c ?a ?d)",
        ),
        exact("not-eq", "!(a == b) = a != b", "(not (eq ?a ?b))", "(ne ?a ?b)"),
        exact("not-ne", "!(a != b) = a == b", "(not (ne ?a ?b))", "(eq ?a ?b)"),
        exact("not-lt", "!(a < b) = a >= b", "(not (lt ?a ?b))", "(ge ?a ?b)").when("(@integer ?a)"),
        exact("not-le", "!(a <= b) = a > b", "(not (le ?a ?b))", "(gt ?a ?b)").when("(@integer ?a)"),
        exact("not-gt", "!(a > b) = a <= b", "(not (gt ?a ?b))", "(le ?a ?b)").when("(@integer ?a)"),
        exact("not-ge", "!(a >= b) = a < b", "(not (ge ?a ?b))", "(lt ?a ?b)").when("(@integer ?a)"),
        exact("lt-gt", "a < b = b > a", "(lt ?a ?b)", "(gt ?b ?a)"),
        exact("ge-le", "a >= b = b <= a", "(ge ?a ?b)", "(le ?b ?a)"),
    ];
    // The order of operands is free: a + b = b + a, and so on.
    for f in ["add", "mul", "max", "min", "and", "or", "xor", "eq", "ne"] {
        rules.push(exact(
            &format!("{f}-commutes"),
            &format!("{f}(a, b) = {f}(b, a)"),
            &format!("({f} ?a ?b)"),
            &format!("({f} ?b ?a)"),
        ));
    }
    rules
}
