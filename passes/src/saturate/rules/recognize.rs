//! Activation functions from the forms that exporters and hand-written models leave. `algebra` brings constants outwards
//! first, so each form stands here once.

use super::super::rule::{Rule, exact, reassociate};

/// The rules of this theme.
pub fn rules() -> Vec<Rule> {
    vec![
        // relu(x) = max(x, 0)
        exact("relu", "max(x, 0) = relu(x)", "(max ?x 0)", "(relu ?x)").when("(@wide ?x)"),
        reassociate("relu-by-select", "x > 0 ? x : 0 = relu(x)", "(select (gt ?x 0) ?x 0)", "(relu ?x)")
            .when("(@float ?x)"),
        reassociate("relu-by-select-not-below", "x >= 0 ? x : 0 = relu(x)", "(select (ge ?x 0) ?x 0)", "(relu ?x)")
            .when("(@float ?x)"),
        reassociate("relu-by-select-below", "x < 0 ? 0 : x = relu(x)", "(select (lt ?x 0) 0 ?x)", "(relu ?x)")
            .when("(@float ?x)"),
        exact("relu-relu", "relu(relu(x)) = relu(x)", "(relu (relu ?x))", "(relu ?x)"),
        // sigmoid(x) = 1 / (1 + e^-x)
        exact("sigmoid", "1 / (1 + e^-x) = sigmoid(x)", "(div 1 (add (exp (neg ?x)) 1))", "(sigmoid ?x)")
            .when("(@wide ?x)"),
        reassociate(
            "sigmoid-by-exp",
            "e^x / (e^x + 1) = sigmoid(x)",
            "(div (exp ?x) (add (exp ?x) 1))",
            "(sigmoid ?x)",
        ),
        reassociate(
            "sigmoid-by-tanh",
            "(tanh(x / 2) + 1) / 2 = sigmoid(x)",
            "(mul (add (tanh (mul ?x 0.5)) 1) 0.5)",
            "(sigmoid ?x)",
        ),
        reassociate("one-minus-sigmoid", "1 - sigmoid(x) = sigmoid(-x)", "(sub 1 (sigmoid ?x))", "(sigmoid (neg ?x))"),
        // silu(x) = x sigmoid(x)
        exact("silu", "x sigmoid(x) = silu(x)", "(mul ?x (sigmoid ?x))", "(silu ?x)").when("(@wide ?x)"),
        reassociate("silu-by-div", "x / (1 + e^-x) = silu(x)", "(div ?x (add (exp (neg ?x)) 1))", "(silu ?x)"),
        // SwiGLU: silu(x) y (Shazeer 2020)
        reassociate(
            "swiglu-gate",
            "x (sigmoid(x) y) = silu(x) y",
            "(mul ?x (mul (sigmoid ?x) ?y))",
            "(mul (silu ?x) ?y)",
        ),
        reassociate(
            "swiglu-value",
            "sigmoid(x) (x y) = silu(x) y",
            "(mul (sigmoid ?x) (mul ?x ?y))",
            "(mul (silu ?x) ?y)",
        ),
        // quick_gelu(x) = x sigmoid(1.702 x)
        exact(
            "quick-gelu",
            "x sigmoid(1.702 x) = quick_gelu(x)",
            "(mul ?x (sigmoid (mul ?x 1.702)))",
            "(quick_gelu ?x)",
        )
        .when("(@wide ?x)"),
        // gelu(x) = x/2 (1 + erf(x / sqrt 2))
        exact(
            "gelu",
            "x/2 (1 + erf(x / sqrt 2)) = gelu(x)",
            "(mul (mul ?x 0.5) (add (erf (mul ?x 0.7071067811865476)) 1))",
            "(gelu ?x)",
        )
        .when("(@wide ?x)"),
        reassociate(
            "gelu-half-last",
            "(x (1 + erf(x / sqrt 2))) / 2 = gelu(x)",
            "(mul (mul ?x (add (erf (mul ?x 0.7071067811865476)) 1)) 0.5)",
            "(gelu ?x)",
        ),
        reassociate(
            "gelu-half-inside",
            "x ((1 + erf(x / sqrt 2)) / 2) = gelu(x)",
            "(mul ?x (mul (add (erf (mul ?x 0.7071067811865476)) 1) 0.5))",
            "(gelu ?x)",
        ),
        // gelu_tanh(x) = x/2 (1 + tanh(sqrt(2/pi) x (1 + 0.044715 x^2)))
        exact(
            "gelu-tanh",
            "x/2 (1 + tanh(sqrt(2/pi) x (1 + 0.044715 x^2))) = gelu_tanh(x)",
            "(mul (mul ?x 0.5) (add (tanh (mul (mul ?x (add (mul (mul ?x ?x) 0.044715) 1)) 0.7978845608028654)) 1))",
            "(gelu_tanh ?x)",
        )
        .when("(@wide ?x)"),
        reassociate(
            "gelu-tanh-half-last",
            "(x (1 + tanh(..))) / 2 = gelu_tanh(x)",
            "(mul (mul ?x (add (tanh (mul (mul ?x (add (mul (mul ?x ?x) 0.044715) 1)) 0.7978845608028654)) 1)) 0.5)",
            "(gelu_tanh ?x)",
        ),
        reassociate(
            "gelu-tanh-cubic",
            "x + 0.044715 x^3 = x (1 + 0.044715 x^2)",
            "(add ?x (mul (mul ?x (mul ?x ?x)) 0.044715))",
            "(mul ?x (add (mul (mul ?x ?x) (@full 0.044715 ?x)) (@full 1 ?x)))",
        ),
        // relu2(x) = relu(x)^2
        exact("relu2", "relu(x) relu(x) = relu2(x)", "(mul (relu ?x) (relu ?x))", "(relu2 ?x)").when("(@wide ?x)"),
        // relu6(x) = min(relu(x), 6)
        exact("relu6", "min(relu(x), 6) = relu6(x)", "(min (relu ?x) 6)", "(relu6 ?x)").when("(@wide ?x)"),
        reassociate("relu6-other-order", "max(min(x, 6), 0) = relu6(x)", "(relu (min ?x 6))", "(relu6 ?x)"),
        // hardswish(x) = x relu6(x + 3) / 6
        exact(
            "hardswish",
            "x relu6(x + 3) / 6 = hardswish(x)",
            "(div (mul ?x (relu6 (add ?x 3))) 6)",
            "(hardswish ?x)",
        )
        .when("(@wide ?x)"),
        reassociate(
            "hardswish-by-mul",
            "(x relu6(x + 3)) (1/6) = hardswish(x)",
            "(mul (mul ?x (relu6 (add ?x 3))) 0.16666666666666666)",
            "(hardswish ?x)",
        ),
        // leaky_relu(x) = x > 0 ? x : 0.01 x
        exact(
            "leaky-relu",
            "x > 0 ? x : 0.01 x = leaky_relu(x)",
            "(select (gt ?x 0) ?x (mul ?x 0.01))",
            "(leaky_relu ?x)",
        )
        .when("(@wide ?x)"),
        reassociate("leaky-relu-by-max", "max(x, 0.01 x) = leaky_relu(x)", "(max ?x (mul ?x 0.01))", "(leaky_relu ?x)"),
        // mish(x) = x tanh(log(1 + e^x))
        reassociate("mish", "x tanh(log(1 + e^x)) = mish(x)", "(mul ?x (tanh (log (add (exp ?x) 1))))", "(mish ?x)"),
        exact("mish-decomposed", "x n / (n + 2 r) = mish(x), w = e^-|x|", MISH, "(mish ?x)").when("(@wide ?x)"),
    ]
}

/// The form that never overflows: with `w = e^-|x|`, `n / (n + 2 r)` where `n = 1 + 2w, r = w^2` for positive `x`, else
/// `n = w (w + 2), r = 1`.
const MISH: &str = "(mul ?x (div
    (select (gt ?x 0) (add (mul (exp (neg (abs ?x))) 2) 1) (mul (exp (neg (abs ?x))) (add (exp (neg (abs ?x))) 2)))
    (add
        (select (gt ?x 0) (add (mul (exp (neg (abs ?x))) 2) 1) (mul (exp (neg (abs ?x))) (add (exp (neg (abs ?x))) 2)))
        (mul (select (gt ?x 0) (mul (exp (neg (abs ?x))) (exp (neg (abs ?x)))) 1) 2))))";
