//! Linear layers of one input as one: queries, keys and values; gate and up. The input is read once, and one kernel
//! starts instead of several. Sums stay what they are, so no bit changes, unless a layer without a bias gets one of zeros.

use super::super::rule::{Rule, exact, reassociate};

/// Most layers that become one.
pub const SIBLINGS: usize = 4;

/// The rules of this theme: one for each number of layers and for which of them have a bias.
pub fn rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    for n in 2..=SIBLINGS {
        for biased in 0..1u32 << n {
            let has = |i: usize| biased >> i & 1 == 1;
            let each = |one: &dyn Fn(usize) -> String| (0..n).map(one).collect::<Vec<_>>().join(" ");
            let layer = |i| format!("(linear ?x ?w{i} {})", if has(i) { format!("?b{i}") } else { "absent".into() });
            let bias = |i| if has(i) { format!("?b{i}") } else { format!("(const (@no_bias ?w{i}))") };
            let biases = if biased == 0 { "absent".into() } else { format!("(concat #0 {})", each(&bias)) };
            let weights = each(&|i| format!("?w{i}"));
            let class = if biased == 0 || biased + 1 == 1 << n { exact } else { reassociate };
            let plain = each(&|i| if has(i) { format!("(@plain ?b{i})") } else { String::new() });
            let marks: String = (0..n).map(|i| if has(i) { 'b' } else { '-' }).collect();
            rules.push(
                class(
                    &format!("siblings-{marks}"),
                    "linear(x, v), linear(x, w) = parts of linear(x, [v; w])",
                    &format!("(concat ?a {})", each(&layer)),
                    &format!("(linear ?x (concat #0 {weights}) {biases})"),
                )
                .when(&format!("(@is_last ?a ?x) (@alike {weights}) {plain}")),
            );
        }
    }
    rules
}
