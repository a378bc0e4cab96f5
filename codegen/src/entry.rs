//! Functions and entry points as machine code: for every kernel of the plan this thread's share of a loop, or a call of
//! the runtime with its arguments, and barriers between kernels that touch the same bytes. Knows the plan; knows of loops
//! only that they are functions.

use std::collections::{BTreeMap, HashMap};
use std::mem::{offset_of, size_of};

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AbiParam, InstBuilder, Signature, types};
use cranelift_codegen::isa::CallConv;
use lith_ir::plan::{GraphPlan, Kernel, KernelKind, Layout, Place};
use lith_ir::{DType, Dim, Graph, NodeId, Op, Program, Value};
use lith_runtime::abi::{Context, Table};
use lith_runtime::kernels::{AttentionArgs, DotArgs, GemmArgs};

use crate::CodegenError;
use crate::builder::{At, Builder, ENTRY, IntOp, plain};
use crate::constants::{Weights, storage};
use crate::hazards::{Access, Hazards, Region};
use crate::link::{FunctionId, Text, import};
use crate::loops::{Buffer, ENV_HEAD, LoopKernel, Span, Tables, compile_loop};

/// Below this many elements a loop is one thread's: sharing it costs more than it saves.
const SHARED_ELEMENTS: i64 = 4096;
/// Shares of a loop over elements are multiples of this many: no two threads write one cache line of `f32`.
const SHARE: i64 = 16;

/// What all functions of a program share while code is generated.
pub struct Shared<'p, 't> {
    /// The program.
    pub program: &'p Program,
    /// Dims table and constants.
    pub tables: Tables,
    /// The weights.
    pub weights: &'p Weights,
    /// The text section.
    pub text: Text<'t>,
    /// Every function by name.
    pub functions: BTreeMap<String, FunctionId>,
    /// How each function takes its arguments.
    pub arg_layouts: BTreeMap<String, Vec<Layout>>,
    /// Storage of panels that are arguments.
    pub panels: DType,
    /// Whether a fused multiply-add is one instruction.
    pub fma: bool,
}

/// The signature of a function of `params` 64-bit integers.
pub(crate) fn signature(params: usize) -> Signature {
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params.extend((0..params).map(|_| AbiParam::new(types::I64)));
    signature
}

/// Compiles a function `(context, thread, threads, arena, arguments, results)`, or an entry point, which is a
/// [`lith_runtime::abi::EntryFn`].
///
/// # Errors
/// When the plan does not fit the graph.
pub fn compile_graph(
    shared: &mut Shared<'_, '_>,
    name: &str,
    graph: &Graph,
    plan: &GraphPlan,
    entry: bool,
) -> Result<(), CodegenError> {
    let (mut b, params) = Builder::new(if entry { 3 } else { 6 }, CallConv::SystemV);
    let context = params[0];
    let field = |b: &mut Builder, offset: usize| b.load_i64(context, offset as i32);
    let (arena, args, results) = if entry {
        (
            field(&mut b, offset_of!(Context, arena)),
            field(&mut b, offset_of!(Context, args)),
            field(&mut b, offset_of!(Context, results)),
        )
    } else {
        (params[3], params[4], params[5])
    };
    let table = field(&mut b, offset_of!(Context, table));
    let dims = field(&mut b, offset_of!(Context, dims));
    let mut code = GraphCode {
        shared,
        name,
        graph,
        plan,
        b,
        context,
        thread: params[1],
        threads: params[2],
        arena,
        args,
        results,
        table,
        dims,
        loaded: HashMap::new(),
        places: HashMap::new(),
        hazards: Hazards::default(),
    };
    let mut next = 0;
    while let Some(kernel) = plan.kernels.get(next) {
        next += match code.calls(&plan.kernels[next..])? {
            0 => {
                code.kernel(next, kernel)?;
                1
            }
            calls => calls,
        };
    }
    // Callers rely on all threads being through; the caller of an entry point waits for them itself.
    if !entry && code.hazards.pending() {
        code.barrier();
    }
    let function = code.b.finish(None);
    let id = shared.functions[name];
    shared.text.define(id, function)
}

pub(crate) struct GraphCode<'s, 'p, 't> {
    pub(crate) shared: &'s mut Shared<'p, 't>,
    name: &'s str,
    pub(crate) graph: &'s Graph,
    pub(crate) plan: &'s GraphPlan,
    pub(crate) b: Builder,
    pub(crate) context: At,
    pub(crate) thread: At,
    pub(crate) threads: At,
    pub(crate) arena: At,
    args: At,
    results: At,
    table: At,
    dims: At,
    /// Fields of memory already loaded, by base and offset.
    loaded: HashMap<(At, i32), At>,
    places: HashMap<Value, At>,
    pub(crate) hazards: Hazards,
}

impl GraphCode<'_, '_, '_> {
    pub(crate) fn wrong<T>(&self, problem: impl Into<String>) -> Result<T, CodegenError> {
        Err(CodegenError::Plan { graph: self.name.into(), problem: problem.into() })
    }

    pub(crate) fn field(&mut self, base: At, offset: i32) -> At {
        if let Some(&at) = self.loaded.get(&(base, offset)) {
            return at;
        }
        let at = self.b.load_i64(base, offset);
        self.loaded.insert((base, offset), at);
        at
    }

    pub(crate) fn dim(&mut self, dim: &Dim) -> At {
        match dim.as_const() {
            Some(c) => self.b.iconst(c),
            None => {
                let place = self.shared.tables.dims.place(dim);
                self.field(self.dims, 8 * place as i32)
            }
        }
    }

    /// The value whose bytes `value` is.
    pub(crate) fn root(&self, mut value: Value) -> Value {
        while let Some(Place::Alias(of)) = self.plan.places.get(&value) {
            value = *of;
        }
        value
    }

    /// Address of a value, in the layout it is wanted in.
    pub(crate) fn address(&mut self, value: Value, layout: Layout) -> Result<At, CodegenError> {
        let value = self.root(value);
        if let Some(&at) = self.places.get(&value)
            && layout == Layout::Rows
        {
            return Ok(at);
        }
        let offset_from = |code: &mut Self, base: At, offset: At| code.b.int(IntOp::Add, base, offset);
        let at = match self.plan.places.get(&value) {
            Some(Place::Arena(offset)) => {
                let offset = self.dim(offset);
                offset_from(self, self.arena, offset)
            }
            Some(Place::Arg(i)) => self.field(self.args, 8 * *i as i32),
            Some(Place::Result(i)) => self.field(self.results, 8 * *i as i32),
            Some(Place::Param(name)) => {
                let Some(offset) = self.shared.weights.get(name, layout).map(|e| e.offset as i64) else {
                    return self.wrong(format!("parameter `{name}` has no {layout:?} layout"));
                };
                let base = self.field(self.context, offset_of!(Context, weights) as i32);
                let offset = self.b.iconst(offset);
                offset_from(self, base, offset)
            }
            Some(Place::Const) => {
                let Op::Const { value } = &self.graph.node(value.node).op else {
                    return self.wrong("a constant's place for another node");
                };
                let offset = self.shared.tables.constants.place(value) as i64;
                let base = self.field(self.context, offset_of!(Context, consts) as i32);
                let offset = self.b.iconst(offset);
                offset_from(self, base, offset)
            }
            Some(Place::State(name)) => {
                let Some(index) = self.shared.program.states.keys().position(|n| n == name) else {
                    return self.wrong(format!("no state `{name}`"));
                };
                let states = self.field(self.context, offset_of!(Context, states) as i32);
                self.field(states, 8 * index as i32)
            }
            Some(Place::Alias(_)) | None => {
                let node = self.graph.node(value.node);
                return self.wrong(format!("`{}` at `{}` has no place", node.op.name(), node.path));
            }
        };
        if layout == Layout::Rows {
            self.places.insert(value, at);
        }
        Ok(at)
    }

    /// The bytes of a value, to find out which kernels touch the same ones.
    fn region(&self, value: Value) -> Region {
        let value = self.root(value);
        let size = self.graph.ty(value).bytes();
        match self.plan.places.get(&value) {
            Some(Place::Arena(offset)) => Region::Arena(offset.clone(), size),
            Some(Place::Result(i)) => Region::Result(*i),
            Some(Place::State(name)) => Region::State(name.clone()),
            _ => Region::Constant,
        }
    }

    pub(crate) fn barrier(&mut self) {
        let barrier = self.field(self.context, offset_of!(Context, barrier) as i32);
        self.call_table(offset_of!(Table, barrier_wait), &[barrier]);
        self.hazards.clear();
    }

    fn call_table(&mut self, offset: usize, args: &[At]) {
        let function = self.field(self.table, offset as i32);
        let signature = self.b.func.import_signature(signature(args.len()));
        let args: Vec<_> = args.iter().map(|a| a.v).collect();
        self.b.cursor(ENTRY).ins().call_indirect(signature, function.v, &args);
    }

    fn call(&mut self, id: FunctionId, args: &[At]) {
        let function = import(&mut self.b.func, id, signature(args.len()));
        let args: Vec<_> = args.iter().map(|a| a.v).collect();
        self.b.cursor(ENTRY).ins().call(function, &args);
    }

    fn store(&mut self, base: At, offset: usize, value: At) {
        self.b.cursor(ENTRY).ins().store(plain(), value.v, base.v, offset as i32);
    }

    /// Values that a kernel reads from memory, in a fixed order.
    fn operands(&self, kernel: &Kernel) -> Vec<Value> {
        let mut found = Vec::new();
        for &node in &kernel.nodes {
            for v in self.graph.inputs(node) {
                if !kernel.nodes.contains(&v.node) && !found.contains(&v) {
                    found.push(v);
                }
            }
        }
        found
    }

    fn kernel(&mut self, index: usize, kernel: &Kernel) -> Result<(), CodegenError> {
        let mut accesses: Vec<Access> =
            self.operands(kernel).into_iter().map(|v| Access { region: self.region(v), write: false }).collect();
        accesses.extend(kernel.outputs.iter().map(|&v| Access { region: self.region(v), write: true }));
        if self.hazards.conflict(&accesses, &self.shared.program.symbols) {
            self.barrier();
        }
        match kernel.kind {
            KernelKind::Loop | KernelKind::Copy => self.loops(index, kernel)?,
            KernelKind::Contraction { core } => self.contraction(index, kernel, core)?,
            KernelKind::Dot { core } => self.dot(kernel, core)?,
            KernelKind::Attention { core } => self.attention(kernel, core)?,
            KernelKind::Call { .. } => return self.wrong("a call outside a run of calls"),
        }
        self.hazards.add(accesses);
        Ok(())
    }

    /// The memory of a loop's operands: the buffers by value and their addresses by slot.
    fn buffers(&mut self, kernel: &Kernel) -> Result<(HashMap<Value, Buffer>, Vec<At>), CodegenError> {
        let (mut inputs, mut slots) = (HashMap::new(), Vec::new());
        for value in self.operands(kernel) {
            if let Op::Const { value: literal } = &self.graph.node(value.node).op
                && literal.bytes().len() == literal.dtype().size()
            {
                continue;
            }
            let dtype = match self.plan.places.get(&value) {
                Some(Place::Param(name)) => self.shared.weights.get(name, Layout::Rows).map(|e| e.dtype),
                _ => None,
            };
            let dtype = dtype.unwrap_or(self.graph.ty(value).dtype);
            inputs.insert(value, Buffer { slot: slots.len(), dtype });
            slots.push(self.address(value, Layout::Rows)?);
        }
        Ok((inputs, slots))
    }

    fn outputs(&mut self, kernel: &Kernel, slots: &mut Vec<At>) -> Result<Vec<(Value, Buffer)>, CodegenError> {
        let mut outputs = Vec::new();
        for &value in &kernel.outputs {
            outputs.push((value, Buffer { slot: slots.len(), dtype: self.graph.ty(value).dtype }));
            slots.push(self.address(value, Layout::Rows)?);
        }
        Ok(outputs)
    }

    /// A loop's environment on the stack.
    fn environment(&mut self, slots: &[At]) -> At {
        let env = self.b.stack(8 * (ENV_HEAD + slots.len()) as u32);
        let consts = self.field(self.context, offset_of!(Context, consts) as i32);
        let head: [At; ENV_HEAD] = [self.table, self.dims, consts];
        for (i, &at) in head.iter().chain(slots).enumerate() {
            self.store(env, 8 * i, at);
        }
        env
    }

    fn kernel_name(&self, index: usize, kernel: &Kernel) -> String {
        let last = kernel.outputs.first().map(|v| v.node).or(kernel.nodes.last().copied());
        let path = last.map_or("", |n| &self.graph.node(n).path);
        format!("{}.{index} {path}", self.name).trim_end().to_string()
    }

    fn loops(&mut self, index: usize, kernel: &Kernel) -> Result<(), CodegenError> {
        let (inputs, mut slots) = self.buffers(kernel)?;
        let outputs = self.outputs(kernel, &mut slots)?;
        let form = LoopKernel { graph: self.graph, nodes: &kernel.nodes, inputs, outputs };
        let symbols = &self.shared.program.symbols;
        let (function, span) = compile_loop(&form, false, symbols, &mut self.shared.tables, self.shared.fma)?;
        let id = self.shared.text.declare(self.kernel_name(index, kernel));
        self.shared.text.define(id, function)?;
        let env = self.environment(&slots);
        let [begin, end] = self.share(&span);
        self.call(id, &[env, begin, end]);
        Ok(())
    }

    /// This thread's share of a loop.
    fn share(&mut self, span: &Span) -> [At; 2] {
        let (count, elements, unit) = match span {
            Span::Elements(n) => (n.ceil_div(SHARE), n.clone(), SHARE),
            Span::Rows { rows, columns } => (rows.clone(), rows.clone() * columns.clone(), 1),
        };
        let (n, total) = (self.dim(&count), self.dim(&elements));
        let last = if unit == 1 { n } else { total };
        let [zero, one, limit] = [0, 1, SHARED_ELEMENTS].map(|k| self.b.iconst(k));
        let small = self.b.icmp(IntCC::SignedLessThan, total, limit);
        let first = self.b.icmp(IntCC::Equal, self.thread, zero);
        let alone = self.b.select(first, zero, one);
        let thread = self.b.select(small, alone, self.thread);
        let threads = self.b.select(small, one, self.threads);
        let next = self.b.int(IntOp::Add, thread, one);
        [thread, next].map(|t| {
            let scaled = self.b.int(IntOp::Mul, n, t);
            let part = self.b.int(IntOp::Div, scaled, threads);
            let at = self.b.scale(part, unit);
            let beyond = self.b.icmp(IntCC::SignedGreaterThan, at, last);
            self.b.select(beyond, last, at)
        })
    }

    fn operand(&self, node: NodeId, position: usize) -> Result<Value, CodegenError> {
        match self.graph.operand(node, position) {
            Some(v) => Ok(v),
            None => self.wrong(format!("`{}` lacks operand {position}", self.graph.node(node).op.name())),
        }
    }

    fn output(&self, kernel: &Kernel) -> Result<Value, CodegenError> {
        match kernel.outputs[..] {
            [v] => Ok(v),
            _ => self.wrong(format!("{} outputs of one call", kernel.outputs.len())),
        }
    }

    /// Storage of a weight in panels.
    fn panels(&self, value: Value) -> Result<i64, CodegenError> {
        let dtype = match self.plan.places.get(&value) {
            Some(Place::Param(name)) => self.shared.weights.get(name, Layout::Panels).map(|e| e.dtype),
            _ => None,
        };
        match storage(dtype.unwrap_or(self.shared.panels)) {
            Some(s) => Ok(s as i64),
            None => self.wrong("panels of no known storage"),
        }
    }

    fn contraction(&mut self, index: usize, kernel: &Kernel, core: NodeId) -> Result<(), CodegenError> {
        let (x, weight) = (self.operand(core, 0)?, self.operand(core, 1)?);
        let output = self.output(kernel)?;
        let c = self.address(output, Layout::Rows)?;
        let (shape, inner) = (self.graph.ty(core.into()).shape.clone(), self.graph.ty(x).shape.clone());
        let (Some((n, lead)), Some(k)) = (shape.split_last(), inner.last()) else {
            return self.wrong("a contraction of scalars");
        };
        let rows = lead.iter().cloned().fold(Dim::constant(1), |a, d| a * d);
        let mut epilogue = None;
        if output != core.into() {
            // The epilogue reads the product where it will store its own result.
            let rest: Vec<NodeId> = kernel.nodes.iter().copied().filter(|&n| n != core).collect();
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
            let symbols = &self.shared.program.symbols;
            let (function, _) = compile_loop(&form, true, symbols, &mut self.shared.tables, self.shared.fma)?;
            let id = self.shared.text.declare(self.kernel_name(index, kernel));
            self.shared.text.define(id, function)?;
            epilogue = Some((id, slots));
        }
        let zero = self.b.iconst(0);
        let (function, env) = match epilogue {
            None => (zero, zero),
            Some((id, slots)) => {
                let function = import(&mut self.b.func, id, signature(5));
                let at = self.b.put(ENTRY, |cur| cur.ins().func_addr(types::I64, function));
                (at, self.environment(&slots))
            }
        };
        let args = self.b.stack(size_of::<GemmArgs>() as u32);
        let fields = [
            (offset_of!(GemmArgs, a), self.address(x, Layout::Rows)?),
            (offset_of!(GemmArgs, lda), self.dim(k)),
            (offset_of!(GemmArgs, b), self.address(weight, Layout::Panels)?),
            (offset_of!(GemmArgs, b_dtype), {
                let storage = self.panels(weight)?;
                self.b.iconst(storage)
            }),
            (offset_of!(GemmArgs, c), c),
            (offset_of!(GemmArgs, ldc), self.dim(n)),
            (offset_of!(GemmArgs, m), self.dim(&rows)),
            (offset_of!(GemmArgs, n), self.dim(n)),
            (offset_of!(GemmArgs, k), self.dim(k)),
            (offset_of!(GemmArgs, epilogue), function),
            (offset_of!(GemmArgs, env), env),
        ];
        for (offset, at) in fields {
            self.store(args, offset, at);
        }
        self.call_table(offset_of!(Table, gemm_panels), &[args, self.thread, self.threads]);
        Ok(())
    }

    fn dot(&mut self, kernel: &Kernel, core: NodeId) -> Result<(), CodegenError> {
        let (a, b) = (self.operand(core, 0)?, self.operand(core, 1)?);
        let Op::Dot { transpose_rhs } = self.graph.node(core).op else {
            return self.wrong("a `dot` kernel of another op");
        };
        let output = self.output(kernel)?;
        let (left, to) = (self.graph.ty(a).shape.clone(), self.graph.ty(core.into()).shape.clone());
        let [lead @ .., m, n] = &to[..] else { return self.wrong("a product of vectors") };
        let Some(k) = left.last() else { return self.wrong("a product of scalars") };
        let batch = lead.iter().cloned().fold(Dim::constant(1), |a, d| a * d);
        let one = Dim::constant(1);
        let (b_row, b_col) = if transpose_rhs { (&one, k) } else { (n, &one) };
        let args = self.b.stack(size_of::<DotArgs>() as u32);
        let sizes = [
            (offset_of!(DotArgs, a_batch), m.clone() * k.clone()),
            (offset_of!(DotArgs, a_row), k.clone()),
            (offset_of!(DotArgs, a_col), one.clone()),
            (offset_of!(DotArgs, b_batch), k.clone() * n.clone()),
            (offset_of!(DotArgs, b_row), b_row.clone()),
            (offset_of!(DotArgs, b_col), b_col.clone()),
            (offset_of!(DotArgs, c_batch), m.clone() * n.clone()),
            (offset_of!(DotArgs, c_row), n.clone()),
            (offset_of!(DotArgs, c_col), one.clone()),
            (offset_of!(DotArgs, batch), batch),
            (offset_of!(DotArgs, m), m.clone()),
            (offset_of!(DotArgs, n), n.clone()),
            (offset_of!(DotArgs, k), k.clone()),
        ];
        for (offset, dim) in sizes {
            let at = self.dim(&dim);
            self.store(args, offset, at);
        }
        for (offset, value) in
            [(offset_of!(DotArgs, a), a), (offset_of!(DotArgs, b), b), (offset_of!(DotArgs, c), output)]
        {
            let at = self.address(value, Layout::Rows)?;
            self.store(args, offset, at);
        }
        self.call_table(offset_of!(Table, dot_f32), &[args, self.thread, self.threads]);
        Ok(())
    }

    fn attention(&mut self, kernel: &Kernel, core: NodeId) -> Result<(), CodegenError> {
        let Op::PackedAttention { heads, kv_heads, scale, causal } = self.graph.node(core).op else {
            return self.wrong("an attention kernel of another op");
        };
        let [q, k, v, offsets] = [0, 1, 2, 3].map(|i| self.operand(core, i));
        let (q, k, v, offsets) = (q?, k?, v?, offsets?);
        let output = self.output(kernel)?;
        let width = |code: &Self, x: Value| code.graph.ty(x).shape.get(1).cloned().unwrap_or_default();
        let (q_width, k_width, out_width) = (width(self, q), width(self, k), width(self, core.into()));
        let sequences = self.graph.ty(offsets).shape[0].clone() - Dim::constant(1);
        let head = q_width.floor_div(heads.max(1) as i64);
        let bias = self.graph.operand(core, 4);
        let positions = bias.map_or(Dim::default(), |b| (width(self, b) + Dim::constant(1)).floor_div(2));
        let args = self.b.stack(size_of::<AttentionArgs>() as u32);
        let sizes = [
            (offset_of!(AttentionArgs, q_stride), q_width),
            (offset_of!(AttentionArgs, k_stride), k_width.clone()),
            (offset_of!(AttentionArgs, v_stride), k_width),
            (offset_of!(AttentionArgs, out_stride), out_width),
            (offset_of!(AttentionArgs, batch), sequences),
            (offset_of!(AttentionArgs, heads), Dim::from(heads)),
            (offset_of!(AttentionArgs, kv_heads), Dim::from(kv_heads)),
            (offset_of!(AttentionArgs, head_dim), head),
            (offset_of!(AttentionArgs, positions), positions),
            (offset_of!(AttentionArgs, key_mask), Dim::default()),
            (offset_of!(AttentionArgs, relative_bias), Dim::default()),
        ];
        for (offset, dim) in sizes {
            let at = self.dim(&dim);
            self.store(args, offset, at);
        }
        let pointers = [
            (offset_of!(AttentionArgs, q), Some(q)),
            (offset_of!(AttentionArgs, k), Some(k)),
            (offset_of!(AttentionArgs, v), Some(v)),
            (offset_of!(AttentionArgs, offsets), Some(offsets)),
            (offset_of!(AttentionArgs, out), Some(output)),
            (offset_of!(AttentionArgs, relative_bias), bias),
        ];
        for (offset, value) in pointers {
            if let Some(value) = value {
                let at = self.address(value, Layout::Rows)?;
                self.store(args, offset, at);
            }
        }
        let scale = self.b.put(ENTRY, |c| c.ins().f32const(scale as f32));
        let causal = self.b.put(ENTRY, |c| c.ins().iconst(types::I32, i64::from(causal)));
        self.store(args, offset_of!(AttentionArgs, scale), scale);
        self.store(args, offset_of!(AttentionArgs, causal), causal);
        self.call_table(offset_of!(Table, attention_packed), &[args, self.thread, self.threads]);
        Ok(())
    }
}
