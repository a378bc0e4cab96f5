//! The paged key/value cache as a sequence sees it: which slots the new tokens take, and states that grow by them.
//! Knows nothing of how pages lie in memory.

use lith_ir::plan::PAGE_TOKENS;
use lith_ir::{CachePart, Compare, DType, Dim, Literal, Op};

use crate::{Scope, Tensor, Trace};

/// The element type of a key/value cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CacheType {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats of IEEE 754.
    F16,
    /// 16-bit floats with the exponent of `f32`.
    Bf16,
    /// 8-bit integers with one scale for each token and head.
    Int8,
}

impl CacheType {
    /// The type of the elements.
    pub const fn dtype(self) -> DType {
        match self {
            CacheType::F32 => DType::F32,
            CacheType::F16 => DType::F16,
            CacheType::Bf16 => DType::Bf16,
            CacheType::Int8 => DType::I8,
        }
    }
}

/// The cache of a batch. Each attention has the states `PATH.k` and `PATH.v` `[page_count, 64, kv_heads, d]`, where PATH
/// is its model path, and in an 8-bit cache `PATH.k_scale` and `PATH.v_scale` `f32[page_count, 64, kv_heads]`.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    pub kind: CacheType,
    /// `i32[sequences]`
    pub past: Tensor,
    /// `i32[sequences, table]`
    pub pages: Tensor,
    /// `i32[outputs]`
    pub outputs: Tensor,
    /// Number of pages of the pool; occurs in states only.
    pub page_count: Dim,
}

/// What attention reads of the cache: the elements and, of 8-bit ones, the scales.
pub(crate) struct Cached {
    pub elements: Tensor,
    pub scales: Option<Tensor>,
}

impl Cache {
    /// The slot of each token, `i32[tokens]`, from its position and the number of its sequence (both `i32[tokens]`).
    pub fn slots(&self, positions: &Tensor, segments: &Tensor) -> Tensor {
        let [sequences, table] = self.pages.shape() else { return self.pages.clone() };
        let page = PAGE_TOKENS as f64;
        let trace = self.pages.trace();
        let number = positions / page;
        let entry = segments * trace.size(table.clone(), DType::I32) + &number;
        let pages = self.pages.reshape([sequences.clone() * table.clone()]);
        pages.gather(0, &entry) * page + (positions - &number * page)
    }

    /// Puts the keys or values of the new tokens, `x [tokens, kv_heads * d]`, into the state `PATH.NAME` of this scope.
    pub fn append(
        &self,
        scope: &Scope,
        (name, part): (&str, CachePart),
        x: &Tensor,
        kv_heads: usize,
        slots: &Tensor,
    ) -> Cached {
        let trace = scope.trace();
        let Some(width) = x.shape().last().and_then(Dim::as_const) else {
            return Cached { elements: x.clone(), scales: None };
        };
        let kv = i64::try_from(kv_heads).unwrap_or(i64::MAX);
        if kv <= 0 || width % kv != 0 {
            let none = trace.misfit("cache", format!("{width} features of {kv_heads} heads"));
            return Cached { elements: none, scales: None };
        }
        let rows = [self.page_count.clone(), Dim::from(PAGE_TOKENS), Dim::constant(kv)];
        let grow = |name: String, part: CachePart, dtype: DType, shape: Vec<Dim>, x: &Tensor| {
            let name = if scope.path().is_empty() { name } else { format!("{}.{name}", scope.path()) };
            let before = trace.state_read(&name, dtype, shape);
            let after = trace.record(Op::CacheAppend { part }, &[&before, x, slots]);
            trace.state_write(&name, &after);
            after
        };
        let all: Vec<Dim> = rows.iter().cloned().chain([Dim::constant(width / kv)]).collect();
        if self.kind != CacheType::Int8 {
            let elements = grow(name.into(), part, self.kind.dtype(), all, x);
            return Cached { elements, scales: None };
        }
        let (codes, scale) = quantize(trace, x, [kv, width / kv]);
        let elements = grow(name.into(), part, DType::I8, all, &codes);
        let scales = grow(format!("{name}_scale"), CachePart::Scales, DType::F32, rows.to_vec(), &scale);
        Cached { elements, scales: Some(scales) }
    }
}

/// `x [tokens, heads * d]` as 8-bit codes and scales `[tokens, heads]`: with `m` the greatest magnitude of a head,
/// `round(x * (127 / m))` and `m / 127`; zeros where `m` is 0.
fn quantize(trace: &Trace, x: &Tensor, [heads, width]: [i64; 2]) -> (Tensor, Tensor) {
    let Some(ty) = x.ty() else { return (x.clone(), x.clone()) };
    let (dtype, flat, tokens) = (ty.dtype, ty.shape.clone(), ty.shape[0].clone());
    let [heads, width] = [heads, width].map(Dim::constant);
    let x = x.reshape([tokens.clone(), heads.clone(), width]);
    let max = x.abs().max(&[-1], true);
    let one = trace.constant(Literal::scalar(dtype, 1.0)).broadcast_to(max.shape());
    let safe = max.compare_to(Compare::Eq, 0.0).select(&one, &max);
    let steps = trace.constant(Literal::scalar(dtype, 127.0)) / &safe;
    let codes = (x * steps).round().cast(DType::I8).reshape(flat);
    (codes, (max / 127.0).reshape([tokens, heads]))
}
