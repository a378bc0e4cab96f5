//! The ops, one row each: name, operands, attributes, class. What each row means stands in `infer` (types), `interp`
//! (primitives) and `decompose` (composites); those match on every row, so a new row names its missing parts at
//! compile time.
//!
//! Composites of 16-bit floats compute in `f32` throughout and round once, at the end. Primitives round every result.

use crate::attr::{AttrValue, Attribute};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::types::{Literal, Type};

/// What kind of meaning an op has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Brings a value into the graph: arguments, parameters, constants.
    Source,
    /// Defined by the interpreter.
    Primitive,
    /// Defined by its decomposition into primitives.
    Composite,
    /// Runs another graph or touches program state.
    Control,
}

/// A named choice: an enum whose variants are written as bare words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $name {
            /// Every choice.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The word used in the text form.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }

            /// The choice of this name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($word => Some($name::$variant),)* _ => None }
            }
        }

        impl Attribute for $name {
            fn to_value(&self) -> AttrValue {
                AttrValue::Word(self.name().to_string())
            }
            fn from_value(value: &AttrValue) -> Result<Self, String> {
                let AttrValue::Word(word) = value else {
                    return Err(format!("expected one of {:?}, found {value:?}", $name::ALL));
                };
                $name::from_name(word).ok_or_else(|| format!("`{word}` is none of {:?}", $name::ALL.map_names()))
            }
        }

        impl MapNames for &[$name] {
            fn map_names(&self) -> Vec<&'static str> {
                self.iter().map(|v| v.name()).collect()
            }
        }
    };
}

trait MapNames {
    fn map_names(&self) -> Vec<&'static str>;
}

words! {
    /// Elementwise functions of one operand; the result has the operand's type.
    Unary {
        /// `-x`; integers wrap.
        Neg = "neg",
        /// `|x|`; integers wrap.
        Abs = "abs",
        /// -1, 0 or 1 with the sign of `x`; zero and NaN keep their value.
        Sign = "sign",
        /// `e^x` (floats).
        Exp = "exp",
        /// Natural logarithm; NaN below 0, negative infinity at 0 (floats).
        Log = "log",
        /// Square root (floats).
        Sqrt = "sqrt",
        /// `1 / sqrt(x)` (floats).
        Rsqrt = "rsqrt",
        /// Sine, radians (floats).
        Sin = "sin",
        /// Cosine, radians (floats).
        Cos = "cos",
        /// Hyperbolic tangent (floats).
        Tanh = "tanh",
        /// Error function (floats).
        Erf = "erf",
        /// Largest whole number not above `x` (floats).
        Floor = "floor",
        /// Smallest whole number not below `x` (floats).
        Ceil = "ceil",
        /// Nearest whole number, ties to even (floats).
        Round = "round",
        /// Logical negation (`bool`) or complement of the bits (integers).
        Not = "not",
    }
}

words! {
    /// Elementwise functions of two operands of one type; the result has that type.
    Binary {
        /// Sum; integers wrap.
        Add = "add",
        /// Difference; integers wrap.
        Sub = "sub",
        /// Product; integers wrap.
        Mul = "mul",
        /// Quotient; integers truncate towards zero, and division by zero gives 0.
        Div = "div",
        /// Remainder with the sign of the first operand; by zero it gives 0 for integers, NaN for floats.
        Rem = "rem",
        /// `a^b` (floats).
        Pow = "pow",
        /// The greater; NaN when an operand is NaN, and of zeros of both signs either.
        Max = "max",
        /// The smaller; NaN when an operand is NaN, and of zeros of both signs either.
        Min = "min",
        /// Bitwise or logical and (integers, `bool`).
        And = "and",
        /// Bitwise or logical or (integers, `bool`).
        Or = "or",
        /// Bitwise or logical exclusive or (integers, `bool`).
        Xor = "xor",
        /// `a * 2^b`, wrapped; `b` counts modulo the number of bits (integers).
        Shl = "shl",
        /// `a / 2^b` towards negative infinity; `b` counts modulo the number of bits (integers).
        Shr = "shr",
    }
}

words! {
    /// Elementwise comparisons of two operands of one type; the result is `bool`. With a NaN only `ne` holds.
    Compare {
        /// `a == b`
        Eq = "eq",
        /// `a != b`
        Ne = "ne",
        /// `a < b`
        Lt = "lt",
        /// `a <= b`
        Le = "le",
        /// `a > b`
        Gt = "gt",
        /// `a >= b`
        Ge = "ge",
    }
}

words! {
    /// Reductions. The value of an empty reduction is the identity named here.
    Reduction {
        /// Sum; 0. Floats accumulate in an order that depends on the reduced sizes alone, 16-bit floats in `f32`;
        /// integers wrap.
        Sum = "sum",
        /// Product; 1. Accumulates as the sum does.
        Prod = "prod",
        /// Greatest; the least value of the type (floats: negative infinity). NaN when an element is NaN.
        Max = "max",
        /// Least; the greatest value of the type (floats: infinity). NaN when an element is NaN.
        Min = "min",
    }
}

words! {
    /// Activation functions by Transformers' meaning; names that mean the same there are one row here.
    Activation {
        /// `max(x, 0)`
        Relu = "relu",
        /// `x * (1 + erf(x / sqrt 2)) / 2` (Hendrycks & Gimpel 2016): gelu, gelu_python.
        Gelu = "gelu",
        /// `x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))) / 2`: gelu_new, gelu_fast, gelu_pytorch_tanh, gelu_accurate.
        GeluTanh = "gelu_tanh",
        /// `x * sigmoid(1.702 x)`
        QuickGelu = "quick_gelu",
        /// `1 / (1 + e^-x)`
        Sigmoid = "sigmoid",
        /// `x * sigmoid(x)`, also called swish.
        Silu = "silu",
        /// `x * tanh(log(1 + e^x))`
        Mish = "mish",
        /// `relu(x)^2`
        Relu2 = "relu2",
        /// `min(max(x, 0), 6)`
        Relu6 = "relu6",
        /// `x * relu6(x + 3) / 6`
        Hardswish = "hardswish",
        /// `x` for positive `x`, else `0.01 x`
        LeakyRelu = "leaky_relu",
    }
}

words! {
    /// How the tokens of a sequence become one vector.
    Pool {
        /// Mean over the tokens; zeros for an empty sequence.
        Mean = "mean",
        /// Greatest value of each feature; negative infinity for an empty sequence.
        Max = "max",
        /// Sum over the tokens; zeros for an empty sequence.
        Sum = "sum",
    }
}

words! {
    /// What a paged cache holds. Its elements are the same whatever that is; how a page lies in memory is not.
    CachePart {
        /// The keys of attention.
        Keys = "keys",
        /// The values of attention.
        Values = "values",
        /// A number for each token and head.
        Scales = "scales",
    }
}

/// How an operand of a row occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// Always there.
    One,
    /// May be absent.
    Optional,
    /// Any number, at the end.
    Many,
}

/// Of the numbers of 16 bits those that drop: as many as are nearest to the share `dropout`, from 0 to below 1.
pub fn dropped_of(dropout: f64) -> u16 {
    (dropout * 65536.0).round() as u16
}

macro_rules! arity {
    () => {
        Arity::One
    };
    (?) => {
        Arity::Optional
    };
    (*) => {
        Arity::Many
    };
}

macro_rules! ops {
    ($(
        $(#[$doc:meta])*
        $class:ident $variant:ident = $name:literal ( $($operand:ident $([$mark:tt])?),* ) { $($attr:ident : $ty:ty),* }
    )*) => {
        /// An operation. The documentation of a row tells shapes and meaning; operands are in the order of the row.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op {
            $($(#[$doc])* $variant {
                $(#[doc = concat!("Attribute `", stringify!($attr), "`; the row's documentation tells its meaning.")] $attr: $ty),*
            },)*
        }

        impl Op {
            /// The name of the row; elementwise ops and reductions carry their function in the attribute `f`.
            pub const fn name(&self) -> &'static str {
                match self { $(Op::$variant { .. } => $name),* }
            }

            /// The class of the row.
            pub const fn class(&self) -> Class {
                match self { $(Op::$variant { .. } => Class::$class),* }
            }

            /// Names and occurrence of the operands.
            pub const fn operands(&self) -> &'static [(&'static str, Arity)] {
                match self { $(Op::$variant { .. } => &[$((stringify!($operand), arity!($($mark)?))),*]),* }
            }

            /// Names and values of the attributes, in the order of the row.
            pub fn attributes(&self) -> Vec<(&'static str, AttrValue)> {
                match self { $(Op::$variant { $($attr),* } => vec![$((stringify!($attr), Attribute::to_value($attr))),*]),* }
            }

            /// The op of this name with these attributes; `take` hands out an attribute by name.
            pub fn from_attributes(
                name: &str,
                take: &mut dyn FnMut(&'static str) -> Result<AttrValue, String>,
            ) -> Result<Op, String> {
                let _ = &take;
                match name {
                    $($name => Ok(Op::$variant {
                        $($attr: Attribute::from_value(&take(stringify!($attr))?)
                            .map_err(|e| format!("attribute `{}` of `{}`: {e}", stringify!($attr), $name))?),*
                    }),)*
                    other => Err(format!("unknown op `{other}`")),
                }
            }

            /// The names of all rows.
            pub const NAMES: &'static [&'static str] = &[$($name),*];
        }
    };
}

ops! {
    /// Argument `index` of the graph. `name` is what callers know it by.
    Source Arg = "arg" () { index: usize, name: String, ty: Type }
    /// The program's parameter of this name (a weight, by its name on disk).
    Source Param = "param" () { name: String, ty: Type }
    /// A constant.
    Source Const = "const" () { value: Literal }
    /// `result[i0, .., in] = i_axis`, cast to `dtype`.
    Source Iota = "iota" () { shape: Vec<Dim>, axis: usize, dtype: DType }
    /// The value of a dimension: an `i64` scalar.
    Source Size = "size" () { dim: Dim }

    /// `f(x)` for every element.
    Primitive Unary = "unary" (x) { f: Unary }
    /// `f(a, b)` for every pair of elements; equal types, no implicit broadcast.
    Primitive Binary = "binary" (a, b) { f: Binary }
    /// `f(a, b)` for every pair of elements as `bool`; equal types.
    Primitive Compare = "compare" (a, b) { f: Compare }
    /// `cond ? a : b` for every element; `cond` is `bool` of the shape of `a` and `b`.
    Primitive Select = "select" (cond, a, b) {}
    /// Conversion: floats round to nearest even; float to integer truncates and saturates (NaN gives 0); integer to
    /// integer wraps; to `bool` is `x != 0`.
    Primitive Cast = "cast" (x) { dtype: DType }
    /// The same elements in row-major order under another shape.
    Primitive Reshape = "reshape" (x) { shape: Vec<Dim> }
    /// `result` axis `i` is axis `perm[i]` of `x`.
    Primitive Transpose = "transpose" (x) { perm: Vec<usize> }
    /// Axis `i` of `x` becomes axis `axes[i]` of `shape`, where its size is equal or 1; other axes repeat. `axes` ascend.
    Primitive Broadcast = "broadcast" (x) { shape: Vec<Dim>, axes: Vec<usize> }
    /// Elements `start, start + step, ..` below `stop` of `axis`.
    Primitive Slice = "slice" (x) { axis: usize, start: Dim, stop: Dim, step: usize }
    /// Operands one after the other along `axis`; the other sizes are equal.
    Primitive Concat = "concat" (xs[*]) { axis: usize }
    /// `before` and `after` elements of the scalar `value` around `x` along `axis`.
    Primitive Pad = "pad" (x, value) { axis: usize, before: usize, after: usize }
    /// Slices of `x` along `axis` chosen by integer `indices`: the shape of `x` with that axis replaced by the shape of
    /// `indices`. An index outside the axis is clamped to it; an empty axis gives zeros.
    Primitive Gather = "gather" (x, indices) { axis: usize }
    /// Matrix product over equal leading batch axes: `[.., m, k]` by `[.., k, n]`, or by `[.., n, k]` when
    /// `transpose_rhs`; accumulates in the element type (16-bit floats in `f32`).
    Primitive Dot = "dot" (lhs, rhs) { transpose_rhs: bool }
    /// Reduction over `axes` (ascending), which stay as size 1 when `keep`, else vanish.
    Primitive Reduce = "reduce" (x) { f: Reduction, axes: Vec<usize>, keep: bool }
    /// `x [rows, ..]` with row `indices[i]` replaced by `updates[i]`: `indices` of one axis, `updates [indices, ..]`. Of
    /// equal indices the last counts; an index outside the rows changes nothing.
    Primitive Scatter = "scatter" (x, indices, updates) {}
    /// `x [rows, ..]` plus `updates[i]` at row `indices[i]`, added in the order of `i`: `indices` of one axis, `updates
    /// [indices, ..]`. An index outside the rows changes nothing. Integers wrap, 16-bit floats accumulate in `f32`.
    Primitive ScatterAdd = "scatter_add" (x, indices, updates) {}
    /// Inclusive running sum along `axis`; integers wrap, 16-bit floats accumulate in `f32`.
    Primitive CumSum = "cumsum" (x) { axis: usize }

    /// An activation function of every element.
    Composite Activation = "activation" (x) { f: Activation }
    /// `exp(x - max) / sum(exp(x - max))` along the last axis; rows of negative infinity give zeros.
    Composite Softmax = "softmax" (x) {}
    /// `(x - mean) / sqrt(var + eps) * weight + bias` along the last axis, biased variance (Ba et al. 2016).
    Composite LayerNorm = "layer_norm" (x, weight[?], bias[?]) { eps: f64 }
    /// `x / sqrt(mean(x^2) + eps) * (weight + offset)` along the last axis (Zhang & Sennrich 2019).
    Composite RmsNorm = "rms_norm" (x, weight[?]) { eps: f64, offset: f64 }
    /// Rotary position embedding (Su et al. 2021): `x [.., heads * d]`, `cos, sin [.., r / 2]` for an even `r` of at most
    /// `d`. The first `r` elements of each head are pairs, `(i, i + r / 2)` or, `interleaved`, `(2i, 2i + 1)`; pair `i`,
    /// `(a, b)`, becomes `(a cos_i - b sin_i, b cos_i + a sin_i)`. Other elements stay.
    Composite Rope = "rope" (x, cos, sin) { heads: usize, interleaved: bool }
    /// Every element as dynamic quantization to integers from `-levels` to `levels` represents it: in each `group` of the
    /// last axis (the last may be shorter) with greatest magnitude `m` the element `round(x * (levels / m)) * (m / levels)`,
    /// ties to even; 0 where `m` is 0. 127 levels are 8 bits; 32512 are 255 * 127 + 127, two bytes.
    Composite DynamicQuantize = "dynamic_quantize" (x) { group: usize, levels: usize }
    /// `x / max(|x|, eps)` along the last axis, Euclidean norm.
    Composite L2Norm = "l2_norm" (x) { eps: f64 }
    /// `x[.., k] * weight[n, k]^T + bias[n]`: a layer as checkpoints store it.
    Composite Linear = "linear" (x, weight, bias[?]) {}
    /// Scaled dot-product attention (Vaswani et al. 2017) in the padded layout: `q [b, sq, heads * d]`, `k, v
    /// [b, sk, kv_heads * d]`, `mask [b, sk]` `bool` (false keys are not attended), `rel_bias [heads, 2p - 1]`. Key `j`
    /// stands at position `j`; query `i` at position `i`, or `i + sk - sq` when `causal`: then the last query sees all
    /// keys and each sees those not after it. The score is `scale * (q . k) + rel_bias[head, p - 1 + position of key -
    /// position of query]`, that index clamped. Each key head serves `heads / kv_heads` neighbouring query heads. Rows
    /// without any key give zeros; values of keys that are not attended are finite. Result as `q`.
    Composite Attention = "attention" (q, k, v, mask[?], rel_bias[?]) { heads: usize, kv_heads: usize, scale: f64, causal: bool }
    /// The same over sequences one after the other: `q, k, v [tokens, ..]`, `offsets i32[sequences + 1]` from 0 to
    /// `tokens`, ascending. Tokens attend within their sequence. With `key u32[2]`, which is there when `dropout` is not 0
    /// (and below 1), what a query takes of a key is after the softmax 0 with this probability, else over `1 - dropout`:
    /// for head `h`, query token `t` and the key at position `j` of its sequence it is 0 where part `j / 16 % 4` of the words
    /// of Threefry-2x32 with 20 rounds (as [`Op::RandomBits`]) of the counter `(t * heads + h, j / 64 * 16 + j % 16)` is below
    /// [`dropped_of`] `dropout`. The parts are the low and high half of the first word, then of the second.
    Composite PackedAttention = "packed_attention" (q, k, v, offsets, rel_bias[?], key[?]) { heads: usize, kv_heads: usize, scale: f64, causal: bool, dropout: f64 }
    /// The gradients of [`Op::PackedAttention`] with respect to `q`, `k` and `v`, beside each other: for the gradient `dy` of
    /// its result `[tokens, heads * d]` the columns of `[tokens, (heads + 2 kv_heads) * d]` are those of `q`, then `k`, then `v`.
    Composite PackedAttentionGrad = "packed_attention_grad" (q, k, v, offsets, dy, rel_bias[?], key[?]) { heads: usize, kv_heads: usize, scale: f64, causal: bool, dropout: f64 }
    /// Writes tokens to a paged cache: `cache [pages, page, heads, d]` or, for one number each head, `[pages, page, heads]`;
    /// `x [tokens, heads * d]` of any floating-point type or that of the cache; `slots i32[tokens]`, where slot
    /// `n * page + i` is place `i` of page `n`. Slots are distinct; one outside the cache is not written. Result as `cache`,
    /// which is updated in place.
    Composite CacheAppend = "cache_append" (cache, x, slots) { part: CachePart }
    /// Causal attention of new tokens to sequences in a paged cache: `q [tokens, heads * d]`, `k, v
    /// [pages, page, kv_heads, d]`, `offsets i32[sequences + 1]` of the new tokens, `past i32[sequences]` tokens before
    /// them, `table i32[sequences, n]` the pages of each sequence: its key `j` is place `j % page` of page
    /// `table[s, j / page]`. New token `i` of sequence `s` stands at position `past[s] + i` and sees the keys at positions
    /// not after its own and, if `window` is not 0, after its own less `window`. Each key head serves `heads / kv_heads`
    /// neighbouring query heads. The score is `scale * (q . k)`, `softcap * tanh(score / softcap)` of it if `softcap` is not
    /// 0, plus `slopes[head] * (position of key - position of query)`. An 8-bit cache has `k_scale, v_scale
    /// [pages, page, kv_heads]` `f32`, which its elements are multiplied by. Result as `q`.
    Composite PagedAttention = "paged_attention" (q, k, v, offsets, past, table, k_scale[?], v_scale[?], slopes[?]) { heads: usize, kv_heads: usize, scale: f64, window: usize, softcap: f64 }
    /// The sequence of each of `tokens` tokens, the number of offsets not above it less one: `i32[tokens]` from
    /// `offsets i32[sequences + 1]`.
    Composite SegmentIds = "segment_ids" (offsets) { tokens: Dim }
    /// One vector for each sequence: `x [tokens, h]`, `offsets i32[sequences + 1]` to `[sequences, h]`.
    Composite SegmentPool = "segment_pool" (x, offsets) { f: Pool }

    /// What the model loses on each row: `logits [rows, classes]`, `labels i32[rows]` to `[rows]`. With `p` the softmax of a
    /// row it is `-(1 - smoothing) log p[label] - smoothing mean(log p)` (Szegedy et al. 2016, section 7), computed from the
    /// logarithm of the sum of exponentials, so that no probability underflows. 0 where the label is `ignore`; other labels
    /// outside the classes count as the nearest class.
    Composite CrossEntropy = "cross_entropy" (logits, labels) { ignore: i64, smoothing: f64 }
    /// The gradient of [`Op::CrossEntropy`] with respect to `logits` for the gradient `dy [rows]` of its result:
    /// `dy (p - (1 - smoothing) onehot(label) - smoothing / classes)`, 0 in rows where the label is `ignore`.
    Composite CrossEntropyGrad = "cross_entropy_grad" (logits, labels, dy) { ignore: i64, smoothing: f64 }
    /// Random bits, a function of `key u32[2]`, `stream` and the place in `shape` alone: element `i`, in row-major order modulo
    /// `2^32`, is the exclusive or of the two words of Threefry-2x32 with 20 rounds (Salmon et al. 2011) of the counter
    /// `(i, stream)`, `stream` below `2^32`.
    Composite RandomBits = "random_bits" (key) { shape: Vec<Dim>, stream: usize }

    /// Runs the function of this name; its arguments are the operands, its results have these types.
    Control Call = "call" (xs[*]) { function: String, results: Vec<Type> }
    /// The current value of the program's state of this name.
    Control StateRead = "state_read" () { name: String, ty: Type }
    /// Replaces the state's value by `x` at the end of the call; the result is `x`.
    Control StateWrite = "state_write" (x) { name: String }
}
