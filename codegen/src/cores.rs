//! Kernels that are calls of the runtime's cores: their arguments, put together on the stack from addresses, sizes and
//! what the op says. Knows the argument structures of the cores.

use std::collections::HashMap;
use std::mem::{offset_of, size_of};

use cranelift_codegen::ir::{InstBuilder, types};
use lith_ir::plan::{Kernel, KernelKind, Layout, Place};
use lith_ir::quant::{ACTIVATION_GROUP, ACTIVATION_LEVELS};
use lith_ir::{CachePart, DType, Dim, NodeId, Op, Value, dropped_of};
use lith_runtime::abi::{Context, Table};
use lith_runtime::kernels::{
    AppendArgs, AttentionArgs, AttentionGradArgs, CacheType, DotArgs, EmbedArgs, GemmArgs, PagedArgs, RandomArgs,
    RopeArgs, ScatterArgs,
};

use crate::CodegenError;
use crate::builder::{At, ENTRY};
use crate::entry::GraphCode;
use crate::loops::{Buffer, LoopKernel};

/// A field of an argument structure.
pub(crate) enum Field {
    /// A number that is known now.
    Number(i64),
    /// The same in 32 bits.
    Short(i64),
    /// A 32-bit float.
    Float(f64),
    /// A size.
    Size(Dim),
    /// The address of a value, as rows.
    Rows(Value),
    /// The address of a value, or null.
    Maybe(Option<Value>),
    /// The address of a weight in panels.
    Panels(Value),
    /// Something computed.
    At(At),
}

/// Product of sizes.
fn product(shape: &[Dim]) -> Dim {
    shape.iter().cloned().fold(Dim::constant(1), |a, d| a * d)
}

impl GraphCode<'_, '_, '_> {
    /// Puts an argument structure of so many bytes on the stack and calls the core at this offset of the table.
    pub(crate) fn core(
        &mut self,
        function: usize,
        bytes: usize,
        fields: Vec<(usize, Field)>,
    ) -> Result<(), CodegenError> {
        let args = self.b.stack(bytes as u32);
        for (offset, field) in fields {
            let at = match field {
                Field::Number(n) => self.b.iconst(n),
                Field::Short(n) => self.b.put(ENTRY, |c| c.ins().iconst(types::I32, n)),
                Field::Float(x) => self.b.put(ENTRY, |c| c.ins().f32const(x as f32)),
                Field::Size(dim) => self.dim(&dim),
                Field::Rows(value) | Field::Maybe(Some(value)) => self.address(value, Layout::Rows)?,
                Field::Maybe(None) => self.b.iconst(0),
                Field::Panels(value) => self.address(value, Layout::Panels)?,
                Field::At(at) => at,
            };
            self.store(args, offset, at);
        }
        self.call_table(function, &[args, self.thread, self.threads]);
        Ok(())
    }

    fn shape(&self, value: Value) -> &[Dim] {
        &self.graph.ty(value).shape
    }

    /// Size of an axis; of axes that are not there, 0.
    fn size(&self, value: Value, axis: usize) -> Dim {
        self.shape(value).get(axis).cloned().unwrap_or_default()
    }

    pub(crate) fn contraction(&mut self, index: usize, kernel: &Kernel, core: NodeId) -> Result<(), CodegenError> {
        let (mut x, weight) = (self.operand(core, 0)?, self.operand(core, 1)?);
        // The core rounds the activations itself.
        let rounded = kernel.nodes.contains(&x.node).then_some(x.node);
        let mut code_bytes = 0;
        if let Some(node) = rounded {
            code_bytes = match self.graph.node(node).op {
                Op::DynamicQuantize { group: ACTIVATION_GROUP, levels } => {
                    ACTIVATION_LEVELS.iter().position(|&l| l == levels).map_or(0, |at| at as i64 + 1)
                }
                _ => 0,
            };
            if code_bytes == 0 {
                return self.wrong("a contraction of a value that is nowhere");
            }
            x = self.operand(node, 0)?;
        }
        let output = self.output(kernel)?;
        let c = self.address(output, Layout::Rows)?;
        let (Some((n, lead)), Some(k)) = (self.shape(core.into()).split_last(), self.shape(x).last().cloned()) else {
            return self.wrong("a contraction of scalars");
        };
        let (n, rows) = (n.clone(), product(lead));
        let mut epilogue = None;
        if output != core.into() {
            // The epilogue reads the product where it will store its own result.
            let rest: Vec<NodeId> = kernel.nodes.iter().copied().filter(|&n| n != core && Some(n) != rounded).collect();
            let part = Kernel { kind: KernelKind::Loop, nodes: rest, outputs: kernel.outputs.clone() };
            let (mut inputs, mut slots) = (HashMap::new(), Vec::new());
            for value in self.operands(&part) {
                if let Op::Const { value: literal } = &self.graph.node(value.node).op
                    && literal.bytes().len() == literal.dtype().size()
                {
                    continue;
                }
                inputs.insert(value, Buffer { slot: slots.len(), dtype: self.graph.ty(value).dtype });
                slots.push(if value == core.into() { c } else { self.address(value, Layout::Rows)? });
            }
            let outputs = self.outputs(&part, &mut slots)?;
            let form = LoopKernel { graph: self.graph, nodes: &part.nodes, inputs, outputs };
            let (id, _) = self.shared.define_loop(&form, true, self.kernel_name(index, kernel))?;
            epilogue = Some((id, slots));
        }
        let zero = self.b.iconst(0);
        let [first, count] = self.first_and_count(&rows);
        let (function, env) = match epilogue {
            None => (zero, zero),
            Some((id, slots)) => (self.pointer(id, 5), self.environment(&slots)),
        };
        let fields = vec![
            (offset_of!(GemmArgs, a), Field::Rows(x)),
            (offset_of!(GemmArgs, lda), Field::Size(k.clone())),
            (offset_of!(GemmArgs, b), Field::Panels(weight)),
            (offset_of!(GemmArgs, activations), Field::Number(code_bytes)),
            (offset_of!(GemmArgs, c), Field::At(c)),
            (offset_of!(GemmArgs, ldc), Field::Size(n.clone())),
            (offset_of!(GemmArgs, row), Field::At(first)),
            (offset_of!(GemmArgs, m), Field::At(count)),
            (offset_of!(GemmArgs, n), Field::Size(n)),
            (offset_of!(GemmArgs, k), Field::Size(k)),
            (offset_of!(GemmArgs, epilogue), Field::At(function)),
            (offset_of!(GemmArgs, env), Field::At(env)),
        ];
        self.core(offset_of!(Table, gemm_panels), size_of::<GemmArgs>(), fields)
    }

    pub(crate) fn dot(&mut self, kernel: &Kernel, core: NodeId) -> Result<(), CodegenError> {
        let (a, b) = (self.operand(core, 0)?, self.operand(core, 1)?);
        let Op::Dot { transpose_rhs } = self.graph.node(core).op else {
            return self.wrong("a `dot` kernel of another op");
        };
        let output = self.output(kernel)?;
        let to = self.shape(core.into()).to_vec();
        let [lead @ .., m, n] = &to[..] else { return self.wrong("a product of vectors") };
        let Some(k) = self.shape(a).last().cloned() else { return self.wrong("a product of scalars") };
        let (m, n) = (m.clone(), n.clone());
        let weight = (!transpose_rhs && self.in_panels(b)).then_some(b);
        let [(a, a_row, a_col), (b, b_row, b_col)] = [self.matrix(a), self.matrix(b)];
        let (b_row, b_col) = if transpose_rhs { (b_col, b_row) } else { (b_row, b_col) };
        let fields = vec![
            (offset_of!(DotArgs, a), Field::Rows(a)),
            (offset_of!(DotArgs, a_batch), Field::Size(m.clone() * k.clone())),
            (offset_of!(DotArgs, a_row), Field::Size(a_row)),
            (offset_of!(DotArgs, a_col), Field::Size(a_col)),
            (offset_of!(DotArgs, weight), weight.map_or(Field::Number(0), Field::Panels)),
            (offset_of!(DotArgs, b), if weight.is_some() { Field::Number(0) } else { Field::Rows(b) }),
            (offset_of!(DotArgs, b_batch), Field::Size(k.clone() * n.clone())),
            (offset_of!(DotArgs, b_row), Field::Size(b_row)),
            (offset_of!(DotArgs, b_col), Field::Size(b_col)),
            (offset_of!(DotArgs, c), Field::Rows(output)),
            (offset_of!(DotArgs, c_batch), Field::Size(m.clone() * n.clone())),
            (offset_of!(DotArgs, c_row), Field::Size(n.clone())),
            (offset_of!(DotArgs, c_col), Field::Number(1)),
            (offset_of!(DotArgs, batch), Field::Size(product(lead))),
            (offset_of!(DotArgs, m), Field::Size(m.clone())),
            (offset_of!(DotArgs, n), Field::Size(n.clone())),
            (offset_of!(DotArgs, k), Field::Size(k)),
        ];
        self.core(offset_of!(Table, dot_f32), size_of::<DotArgs>(), fields)
    }

    /// Whether a value is a weight that lies in panels.
    fn in_panels(&self, value: Value) -> bool {
        match &self.graph.node(value.node).op {
            Op::Param { name, .. } => self.shared.weights.get(name, Layout::Panels).is_some(),
            Op::Arg { index, .. } => self.plan.arg_layouts.get(*index) == Some(&Layout::Panels),
            _ => false,
        }
    }

    /// The matrices of an operand of a product, as they lie in memory: the value, and from one row and column to the next.
    fn matrix(&self, value: Value) -> (Value, Dim, Dim) {
        let one = Dim::constant(1);
        let aliased = matches!(self.plan.places.get(&value), Some(Place::Alias(_)));
        match (&self.graph.node(value.node).op, self.graph.operand(value.node, 0)) {
            (Op::Transpose { .. }, Some(x)) if aliased => (x, one, self.row_stride(x)),
            _ => (value, self.row_stride(value), one),
        }
    }

    pub(crate) fn attention(&mut self, kernel: &Kernel, core: NodeId) -> Result<(), CodegenError> {
        let (heads, kv_heads, scale, causal, dropout) = match self.graph.node(core).op {
            Op::Attention { heads, kv_heads, scale, causal } => (heads, kv_heads, scale, causal, None),
            Op::PackedAttention { heads, kv_heads, scale, causal, dropout } => {
                (heads, kv_heads, scale, causal, Some(dropout))
            }
            Op::PackedAttentionGrad { .. } => return self.attention_grad(kernel, core),
            Op::PagedAttention { .. } => return self.paged_attention(kernel, core),
            _ => return self.wrong("an attention kernel of another op"),
        };
        let [q, k, v] = [0, 1, 2].map(|i| self.operand(core, i));
        let (q, k, v) = (q?, k?, v?);
        let [seen, bias] = [3, 4].map(|i| self.graph.operand(core, i));
        let (offsets, mask, key) = match dropout {
            Some(_) => (Some(self.operand(core, 3)?), None, self.graph.operand(core, 5)),
            None => (None, seen, None),
        };
        let dropout = dropout.unwrap_or(0.0);
        let batch = offsets.map_or(self.size(q, 0), |o| self.size(o, 0) - Dim::constant(1));
        let positions = bias.map_or(Dim::default(), |b| (self.size(b, 1) + Dim::constant(1)).floor_div(2));
        let Some(width) = self.shape(q).last().cloned() else { return self.wrong("attention of scalars") };
        let barrier = self.field(self.context, offset_of!(Context, barrier) as i32);
        let fields = vec![
            (offset_of!(AttentionArgs, q), Field::Rows(q)),
            (offset_of!(AttentionArgs, q_stride), Field::Size(self.row_stride(q))),
            (offset_of!(AttentionArgs, k), Field::Rows(k)),
            (offset_of!(AttentionArgs, k_stride), Field::Size(self.row_stride(k))),
            (offset_of!(AttentionArgs, v), Field::Rows(v)),
            (offset_of!(AttentionArgs, v_stride), Field::Size(self.row_stride(v))),
            (offset_of!(AttentionArgs, out), Field::Rows(self.output(kernel)?)),
            (offset_of!(AttentionArgs, out_stride), Field::Size(width.clone())),
            (offset_of!(AttentionArgs, offsets), Field::Maybe(offsets)),
            (offset_of!(AttentionArgs, batch), Field::Size(batch)),
            // Of each sequence, where no offsets tell.
            (offset_of!(AttentionArgs, queries), Field::Size(self.size(q, 1))),
            (offset_of!(AttentionArgs, keys), Field::Size(self.size(k, 1))),
            (offset_of!(AttentionArgs, heads), Field::Number(heads as i64)),
            (offset_of!(AttentionArgs, kv_heads), Field::Number(kv_heads as i64)),
            (offset_of!(AttentionArgs, head_dim), Field::Size(width.floor_div(heads.max(1) as i64))),
            (offset_of!(AttentionArgs, relative_bias), Field::Maybe(bias)),
            (offset_of!(AttentionArgs, positions), Field::Size(positions)),
            (offset_of!(AttentionArgs, key_mask), Field::Maybe(mask)),
            (offset_of!(AttentionArgs, scale), Field::Float(scale)),
            (offset_of!(AttentionArgs, causal), Field::Short(causal.into())),
            (offset_of!(AttentionArgs, key), Field::Maybe(key)),
            (offset_of!(AttentionArgs, dropped), Field::Short(dropped_of(dropout).into())),
            (offset_of!(AttentionArgs, kept), Field::Float(1.0 / (1.0 - dropout))),
            (offset_of!(AttentionArgs, barrier), Field::At(barrier)),
        ];
        self.core(offset_of!(Table, attention_packed), size_of::<AttentionArgs>(), fields)
    }

    fn attention_grad(&mut self, kernel: &Kernel, core: NodeId) -> Result<(), CodegenError> {
        let Op::PackedAttentionGrad { heads, kv_heads, scale, causal, dropout } = self.graph.node(core).op else {
            return self.wrong("gradients of attention by another op");
        };
        let [q, k, v, offsets, dy] = [0, 1, 2, 3, 4].map(|i| self.operand(core, i));
        let (q, k, v, offsets, dy) = (q?, k?, v?, offsets?, dy?);
        let [bias, key] = [5, 6].map(|i| self.graph.operand(core, i));
        let positions = bias.map_or(Dim::default(), |b| (self.size(b, 1) + Dim::constant(1)).floor_div(2));
        let output = self.output(kernel)?;
        let barrier = self.field(self.context, offset_of!(Context, barrier) as i32);
        let fields = vec![
            (offset_of!(AttentionGradArgs, q), Field::Rows(q)),
            (offset_of!(AttentionGradArgs, q_stride), Field::Size(self.row_stride(q))),
            (offset_of!(AttentionGradArgs, k), Field::Rows(k)),
            (offset_of!(AttentionGradArgs, k_stride), Field::Size(self.row_stride(k))),
            (offset_of!(AttentionGradArgs, v), Field::Rows(v)),
            (offset_of!(AttentionGradArgs, v_stride), Field::Size(self.row_stride(v))),
            (offset_of!(AttentionGradArgs, dy), Field::Rows(dy)),
            (offset_of!(AttentionGradArgs, dy_stride), Field::Size(self.row_stride(dy))),
            (offset_of!(AttentionGradArgs, out), Field::Rows(output)),
            (offset_of!(AttentionGradArgs, out_stride), Field::Size(self.size(output, 1))),
            (offset_of!(AttentionGradArgs, offsets), Field::Rows(offsets)),
            (offset_of!(AttentionGradArgs, batch), Field::Size(self.size(offsets, 0) - Dim::constant(1))),
            (offset_of!(AttentionGradArgs, heads), Field::Number(heads as i64)),
            (offset_of!(AttentionGradArgs, kv_heads), Field::Number(kv_heads as i64)),
            (offset_of!(AttentionGradArgs, head_dim), Field::Size(self.size(q, 1).floor_div(heads.max(1) as i64))),
            (offset_of!(AttentionGradArgs, relative_bias), Field::Maybe(bias)),
            (offset_of!(AttentionGradArgs, positions), Field::Size(positions)),
            (offset_of!(AttentionGradArgs, scale), Field::Float(scale)),
            (offset_of!(AttentionGradArgs, causal), Field::Short(causal.into())),
            (offset_of!(AttentionGradArgs, key), Field::Maybe(key)),
            (offset_of!(AttentionGradArgs, dropped), Field::Short(dropped_of(dropout).into())),
            (offset_of!(AttentionGradArgs, kept), Field::Float(1.0 / (1.0 - dropout))),
            (offset_of!(AttentionGradArgs, barrier), Field::At(barrier)),
        ];
        self.core(offset_of!(Table, attention_grad), size_of::<AttentionGradArgs>(), fields)
    }

    pub(crate) fn scatter(&mut self, kernel: &Kernel, core: NodeId) -> Result<(), CodegenError> {
        let [x, indices, updates] = [0, 1, 2].map(|i| self.operand(core, i));
        let (x, indices, updates) = (x?, indices?, updates?);
        let width = product(self.shape(x).get(1..).unwrap_or_default());
        let fields = vec![
            (offset_of!(ScatterArgs, x), Field::Rows(x)),
            (offset_of!(ScatterArgs, indices), Field::Rows(indices)),
            (offset_of!(ScatterArgs, updates), Field::Rows(updates)),
            (offset_of!(ScatterArgs, out), Field::Rows(self.output(kernel)?)),
            (offset_of!(ScatterArgs, rows), Field::Size(self.size(x, 0))),
            (offset_of!(ScatterArgs, count), Field::Size(product(self.shape(indices)))),
            (offset_of!(ScatterArgs, width), Field::Size(width)),
        ];
        self.core(offset_of!(Table, scatter_add), size_of::<ScatterArgs>(), fields)
    }

    pub(crate) fn random(&mut self, kernel: &Kernel, core: NodeId) -> Result<(), CodegenError> {
        let Op::RandomBits { shape, stream } = self.graph.node(core).op.clone() else {
            return self.wrong("numbers of another op than a generator");
        };
        let fields = vec![
            (offset_of!(RandomArgs, key), Field::Rows(self.operand(core, 0)?)),
            (offset_of!(RandomArgs, out), Field::Rows(self.output(kernel)?)),
            (offset_of!(RandomArgs, count), Field::Size(product(&shape))),
            (offset_of!(RandomArgs, stream), Field::Number(stream as i64)),
        ];
        self.core(offset_of!(Table, random_bits), size_of::<RandomArgs>(), fields)
    }

    pub(crate) fn embedding(&mut self, kernel: &Kernel, core: NodeId) -> Result<(), CodegenError> {
        let (table, ids) = (self.operand(core, 0)?, self.operand(core, 1)?);
        if !matches!(self.graph.node(core).op, Op::Gather { axis: 0 }) || self.graph.ty(ids).dtype != DType::I32 {
            return self.wrong("an embedding by another op than a gather of rows by `i32`");
        }
        let fields = vec![
            (offset_of!(EmbedArgs, ids), Field::Rows(ids)),
            (offset_of!(EmbedArgs, count), Field::Size(product(self.shape(ids)))),
            (offset_of!(EmbedArgs, table), Field::Panels(table)),
            (offset_of!(EmbedArgs, out), Field::Rows(self.output(kernel)?)),
            (offset_of!(EmbedArgs, stride), Field::Size(self.size(table, 1))),
        ];
        self.core(offset_of!(Table, embed_panels), size_of::<EmbedArgs>(), fields)
    }

    /// Bytes from one page of the cache to the next.
    fn page_stride(&self) -> Result<i64, CodegenError> {
        match self.shared.cache {
            Some(cache) => Ok(cache.page_bytes as i64),
            None => self.wrong("a kernel on pages, and no state in pages"),
        }
    }

    /// How the elements of a paged cache are stored.
    fn cache_type(&self, cache: Value) -> Result<i64, CodegenError> {
        let dtype = self.graph.ty(cache).dtype;
        match CacheType::of(dtype) {
            Some(t) => Ok(t as i64),
            None => self.wrong(format!("a cache of {dtype}")),
        }
    }

    pub(crate) fn rope(&mut self, kernel: &Kernel, core: NodeId) -> Result<(), CodegenError> {
        let Op::Rope { heads, interleaved } = self.graph.node(core).op else {
            return self.wrong("a `rope` kernel of another op");
        };
        let [x, cos, sin] = [0, 1, 2].map(|i| self.operand(core, i));
        let (x, cos, sin) = (x?, cos?, sin?);
        let (Some((width, lead)), Some(half)) = (self.shape(x).split_last(), self.shape(cos).last()) else {
            return self.wrong("rotated scalars");
        };
        let (width, tokens, half) = (width.clone(), product(lead), half.clone());
        let fields = vec![
            (offset_of!(RopeArgs, x), Field::Rows(x)),
            (offset_of!(RopeArgs, x_stride), Field::Size(self.row_stride(x))),
            (offset_of!(RopeArgs, cos), Field::Rows(cos)),
            (offset_of!(RopeArgs, sin), Field::Rows(sin)),
            (offset_of!(RopeArgs, angle_stride), Field::Size(half.clone())),
            (offset_of!(RopeArgs, out), Field::Rows(self.output(kernel)?)),
            (offset_of!(RopeArgs, out_stride), Field::Size(width.clone())),
            (offset_of!(RopeArgs, tokens), Field::Size(tokens)),
            (offset_of!(RopeArgs, heads), Field::Number(heads as i64)),
            (offset_of!(RopeArgs, head_dim), Field::Size(width.floor_div(heads.max(1) as i64))),
            (offset_of!(RopeArgs, half), Field::Size(half)),
            (offset_of!(RopeArgs, interleaved), Field::Short(interleaved.into())),
        ];
        self.core(offset_of!(Table, rope), size_of::<RopeArgs>(), fields)
    }

    pub(crate) fn cache_append(&mut self, kernel: &Kernel, core: NodeId) -> Result<(), CodegenError> {
        let Op::CacheAppend { part } = self.graph.node(core).op else {
            return self.wrong("a `cache_append` kernel of another op");
        };
        let [cache, x, slots] = [0, 1, 2].map(|i| self.operand(core, i));
        let (cache, x, slots) = (cache?, x?, slots?);
        let output = self.output(kernel)?;
        if self.root(output) != self.root(cache) {
            return self.wrong("a cache that is not changed in place");
        }
        let head_dim = if part == CachePart::Scales { Dim::constant(1) } else { self.size(cache, 3) };
        let fields = vec![
            (offset_of!(AppendArgs, cache), Field::Rows(cache)),
            (offset_of!(AppendArgs, page_stride), Field::Number(self.page_stride()?)),
            (offset_of!(AppendArgs, pages), Field::Size(self.size(cache, 0))),
            (offset_of!(AppendArgs, part), Field::Number(part as i64)),
            (offset_of!(AppendArgs, dtype), Field::Number(self.cache_type(cache)?)),
            (offset_of!(AppendArgs, x), Field::Rows(x)),
            (offset_of!(AppendArgs, x_dtype), Field::Number(self.cache_type(x)?)),
            (offset_of!(AppendArgs, x_stride), Field::Size(self.row_stride(x))),
            (offset_of!(AppendArgs, heads), Field::Size(self.size(cache, 2))),
            (offset_of!(AppendArgs, head_dim), Field::Size(head_dim)),
            (offset_of!(AppendArgs, slots), Field::Rows(slots)),
            (offset_of!(AppendArgs, tokens), Field::Size(self.size(x, 0))),
        ];
        self.core(offset_of!(Table, cache_append), size_of::<AppendArgs>(), fields)
    }

    fn paged_attention(&mut self, kernel: &Kernel, core: NodeId) -> Result<(), CodegenError> {
        let Op::PagedAttention { heads, kv_heads, scale, window, softcap } = self.graph.node(core).op else {
            return self.wrong("an attention kernel of another op");
        };
        let [q, k, v, offsets, past, table] = [0, 1, 2, 3, 4, 5].map(|i| self.operand(core, i));
        let (q, k, v, offsets, past, table) = (q?, k?, v?, offsets?, past?, table?);
        let [k_scale, v_scale, slopes] = [6, 7, 8].map(|i| self.graph.operand(core, i));
        let dtype = self.cache_type(k)?;
        if dtype != self.cache_type(v)? || (k_scale.is_some() && v_scale.is_some()) != (dtype == CacheType::I8 as i64) {
            return self.wrong("keys and values of different types, or with scales they should not have");
        }
        // Windows larger than any position are none.
        let window = i64::try_from(window).unwrap_or(0);
        let barrier = self.field(self.context, offset_of!(Context, barrier) as i32);
        let scratch = self.field(self.context, offset_of!(Context, scratch) as i32);
        let fields = vec![
            (offset_of!(PagedArgs, q), Field::Rows(q)),
            (offset_of!(PagedArgs, q_stride), Field::Size(self.row_stride(q))),
            (offset_of!(PagedArgs, k), Field::Rows(k)),
            (offset_of!(PagedArgs, v), Field::Rows(v)),
            (offset_of!(PagedArgs, k_scale), Field::Maybe(k_scale)),
            (offset_of!(PagedArgs, v_scale), Field::Maybe(v_scale)),
            (offset_of!(PagedArgs, page_stride), Field::Number(self.page_stride()?)),
            (offset_of!(PagedArgs, dtype), Field::Number(dtype)),
            (offset_of!(PagedArgs, offsets), Field::Rows(offsets)),
            (offset_of!(PagedArgs, past), Field::Rows(past)),
            (offset_of!(PagedArgs, table), Field::Rows(table)),
            (offset_of!(PagedArgs, table_width), Field::Size(self.size(table, 1))),
            (offset_of!(PagedArgs, sequences), Field::Size(self.size(table, 0))),
            (offset_of!(PagedArgs, heads), Field::Number(heads as i64)),
            (offset_of!(PagedArgs, kv_heads), Field::Number(kv_heads as i64)),
            (offset_of!(PagedArgs, head_dim), Field::Size(self.size(k, 3))),
            (offset_of!(PagedArgs, window), Field::Number(window)),
            (offset_of!(PagedArgs, slopes), Field::Maybe(slopes)),
            (offset_of!(PagedArgs, out), Field::Rows(self.output(kernel)?)),
            (offset_of!(PagedArgs, out_stride), Field::Size(self.size(core.into(), 1))),
            (offset_of!(PagedArgs, barrier), Field::At(barrier)),
            (offset_of!(PagedArgs, scratch), Field::At(scratch)),
            (offset_of!(PagedArgs, scale), Field::Float(scale)),
            (offset_of!(PagedArgs, softcap), Field::Float(softcap)),
        ];
        self.core(offset_of!(Table, attention_paged), size_of::<PagedArgs>(), fields)
    }
}
