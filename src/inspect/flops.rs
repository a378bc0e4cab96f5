//! Floating-point operations of a program: matrix products and attention, two for each multiply-add. Elementwise work
//! is not counted, as is the custom.

use std::collections::BTreeMap;

use lith_ir::{Dim, Graph, Op, Program, Symbol};

/// Operations as a function of the program's symbols.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flops {
    /// Of products by weights and other matrix products.
    pub products: Dim,
    /// Of attention over packed sequences, for each token and each token it attends.
    pub attention_pairs: Dim,
}

impl Flops {
    /// Operations for `batch` sequences of `length` tokens each; `None` when a symbol is unknown or the count overflows.
    pub fn at(&self, batch: i64, length: i64) -> Option<i64> {
        let value = |s: &Symbol| match s.name() {
            "tokens" => batch.checked_mul(length),
            // Of a language model the last token's logits are wanted.
            "sequences" | "batch" | "outputs" => Some(batch),
            "seq" => Some(length),
            _ => None,
        };
        let pairs = batch.checked_mul(length)?.checked_mul(length)?;
        let attention = self.attention_pairs.eval(&value).ok()?.checked_mul(pairs)?;
        self.products.eval(&value).ok()?.checked_add(attention)
    }

    fn plus(self, other: Flops) -> Flops {
        Flops {
            products: self.products + other.products,
            attention_pairs: self.attention_pairs + other.attention_pairs,
        }
    }
}

/// Operations of one call of an entry point.
pub fn flops(program: &Program, entry: &Graph) -> Flops {
    graph_flops(program, entry, &mut BTreeMap::new())
}

fn graph_flops(program: &Program, graph: &Graph, functions: &mut BTreeMap<String, Flops>) -> Flops {
    let mut sum = Flops::default();
    for id in graph.petgraph().node_indices() {
        let node = graph.node(id);
        let shape = |i: usize| graph.operand(id, i).map(|v| graph.ty(v).shape.clone()).unwrap_or_default();
        let product = |k: Option<&Dim>| match (k, node.types.first()) {
            (Some(k), Some(t)) => t.elements() * k.clone() * Dim::constant(2),
            _ => Dim::default(),
        };
        sum = sum.plus(match &node.op {
            Op::Linear {} | Op::Dot { .. } => Flops { products: product(shape(0).last()), ..Flops::default() },
            Op::PackedAttention { .. } | Op::PagedAttention { .. } => Flops {
                attention_pairs: shape(0).last().cloned().unwrap_or_default() * Dim::constant(4),
                ..Flops::default()
            },
            // Two products forward are five backward.
            Op::PackedAttentionGrad { .. } => Flops {
                attention_pairs: shape(0).last().cloned().unwrap_or_default() * Dim::constant(10),
                ..Flops::default()
            },
            Op::Attention { .. } => {
                let keys = shape(1).get(1).cloned().unwrap_or_default();
                Flops { products: product(Some(&(keys * Dim::constant(2)))), ..Flops::default() }
            }
            Op::Call { function, .. } => match (functions.get(function), program.functions.get(function)) {
                (Some(known), _) => known.clone(),
                (None, Some(callee)) => {
                    let found = graph_flops(program, callee, functions);
                    functions.insert(function.clone(), found.clone());
                    found
                }
                (None, None) => Flops::default(),
            },
            _ => Flops::default(),
        });
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use lith_ir::{DType, Type};

    #[test]
    fn a_layer_of_products_and_attention() {
        let tokens = Dim::symbol(&Symbol::new("tokens"));
        let mut g = Graph::new();
        let x = Type::new(DType::F32, [tokens.clone(), Dim::from(8i64)]);
        let x = g.add(Op::Arg { index: 0, name: "x".into(), ty: x }, &[], "").unwrap();
        let offsets = Type::new(DType::I32, [Dim::symbol(&Symbol::new("sequences")) + Dim::from(1i64)]);
        let offsets = g.add(Op::Arg { index: 1, name: "offsets".into(), ty: offsets }, &[], "").unwrap();
        let w = Op::Param { name: "w".into(), ty: Type::new(DType::F32, [16i64, 8]) };
        let w = g.add(w, &[], "").unwrap();
        let y = g.add(Op::Linear {}, &[x, w], "").unwrap();
        let attention = Op::PackedAttention { heads: 2, kv_heads: 2, scale: 0.5, causal: false, dropout: 0.0 };
        let z = g.add(attention, &[x, x, x, offsets], "").unwrap();
        g.add_result("y", y);
        g.add_result("z", z);
        let program = Program::new("test");
        // 3 sequences of 5 tokens: 15 * 16 * 8 * 2 and 3 * 5 * 5 * 8 * 4.
        assert_eq!(flops(&program, &g).at(3, 5), Some(3840 + 2400));
    }
}
