//! Functions and entry points as machine code: for every kernel of the plan this thread's share of a loop, or a call of
//! a core ([`crate::cores`]), and barriers between kernels that touch the same bytes. Knows the plan; knows of loops only
//! that they are functions.

use std::collections::{BTreeMap, HashMap};
use std::mem::offset_of;

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AbiParam, InstBuilder, Signature, types};
use cranelift_codegen::isa::CallConv;
use lith_ir::plan::{CachePlan, GraphPlan, Kernel, KernelKind, Layout, Place};
use lith_ir::{Dim, Graph, NodeId, Op, Program, Value};
use lith_runtime::abi::{Context, Table};
use lith_runtime::manifest::KernelEntry;

use crate::CodegenError;
use crate::builder::{At, Builder, ENTRY, IntOp, plain};
use crate::constants::Weights;
use crate::hazards::{Access, Bytes, Hazards};
use crate::link::{FunctionId, Text, import};
use crate::loops::{Buffer, ENV_HEAD, LANES, LoopKernel, Machine, Span, Tables, compile_loop};
use crate::regions::Block;

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
    /// Where states in pages lie.
    pub cache: Option<&'p CachePlan>,
    /// The kernels so far; their index is the number that code gives them.
    pub kernels: Vec<KernelEntry>,
    /// The functions of loops so far, by the name of the kernel.
    pub loops: BTreeMap<String, (FunctionId, Span)>,
}

impl Shared<'_, '_> {
    /// Defines a loop kernel's function, with the widest vectors that can run it; once for each name.
    ///
    /// # Errors
    /// When it has no loop form.
    pub(crate) fn define_loop(
        &mut self,
        kernel: &LoopKernel<'_>,
        epilogue: bool,
        name: String,
    ) -> Result<(FunctionId, Span), CodegenError> {
        if let Some((id, span)) = self.loops.get(&name) {
            return Ok((*id, span.clone()));
        }
        let id = self.text.declare(name.clone());
        let (target, symbols) = (self.text.target(), &self.program.symbols);
        let fma = target.has_fma();
        for &lanes in target.wide_lanes() {
            let form = compile_loop(kernel, epilogue, symbols, &mut self.tables, Machine { fma, lanes })?;
            if let Some((function, span)) = form
                && self.text.define_wide(id, &function)
            {
                self.loops.insert(name, (id, span.clone()));
                return Ok((id, span));
            }
        }
        let form = compile_loop(kernel, epilogue, symbols, &mut self.tables, Machine { fma, lanes: LANES })?;
        let Some((function, span)) = form else {
            let problem = "no vectors are narrow enough".into();
            return Err(CodegenError::Internal { what: "loop kernel".into(), problem });
        };
        self.text.define(id, function)?;
        self.loops.insert(name, (id, span.clone()));
        Ok((id, span))
    }
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
    let memory = if entry {
        [offset_of!(Context, arena), offset_of!(Context, args), offset_of!(Context, results)]
            .map(|offset| field(&mut b, offset))
    } else {
        [params[3], params[4], params[5]]
    };
    let of = Of { name, graph, plan };
    let mut code = GraphCode::new(shared, of, b, context, [params[1], params[2]], memory);
    let mut next = 0;
    while let Some(kernel) = plan.kernels.get(next) {
        code.forget();
        if let Some(region) = plan.regions.iter().find(|r| r.kernels.start == next) {
            code.region(region)?;
            next = region.kernels.end;
            continue;
        }
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

/// What is compiled.
#[derive(Clone, Copy)]
pub(crate) struct Of<'s> {
    pub(crate) name: &'s str,
    pub(crate) graph: &'s Graph,
    pub(crate) plan: &'s GraphPlan,
}

pub(crate) struct GraphCode<'s, 'p, 't> {
    pub(crate) shared: &'s mut Shared<'p, 't>,
    pub(crate) name: &'s str,
    pub(crate) graph: &'s Graph,
    pub(crate) plan: &'s GraphPlan,
    pub(crate) b: Builder,
    pub(crate) context: At,
    pub(crate) thread: At,
    pub(crate) threads: At,
    pub(crate) arena: At,
    pub(crate) args: At,
    pub(crate) results: At,
    table: At,
    dims: At,
    /// The rows that this function computes; `None` for a share of all.
    pub(crate) block: Option<Block<'s>>,
    /// Fields of memory already loaded, by base and offset.
    loaded: HashMap<(At, i32), At>,
    places: HashMap<Value, At>,
    pub(crate) hazards: Hazards,
}

impl<'s, 'p, 't> GraphCode<'s, 'p, 't> {
    /// Code for this thread of so many, with the arena, the arguments and the results.
    pub(crate) fn new(
        shared: &'s mut Shared<'p, 't>,
        Of { name, graph, plan }: Of<'s>,
        mut b: Builder,
        context: At,
        [thread, threads]: [At; 2],
        [arena, args, results]: [At; 3],
    ) -> Self {
        let table = b.load_i64(context, offset_of!(Context, table) as i32);
        let dims = b.load_i64(context, offset_of!(Context, dims) as i32);
        GraphCode {
            shared,
            name,
            graph,
            plan,
            b,
            context,
            thread,
            threads,
            arena,
            args,
            results,
            table,
            dims,
            block: None,
            loaded: HashMap::new(),
            places: HashMap::new(),
            hazards: Hazards::default(),
        }
    }

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

    /// Lets what was loaded so far be loaded again: what lives through thousands of kernels costs the allocation of
    /// registers minutes, and a load next to nothing.
    fn forget(&mut self) {
        self.loaded.clear();
        self.places.clear();
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

    /// What a value is columns of, itself in most cases, and the offset of its first row there in bytes.
    fn columns(&self, mut value: Value) -> (Value, i64) {
        let (mut offset, last) = (0, |v: Value| self.graph.ty(v).shape.last());
        while let Some(&Place::Alias(of)) = self.plan.places.get(&value) {
            match &self.graph.node(value.node).op {
                Op::Slice { start, .. } => {
                    offset += start.as_const().unwrap_or(0) * self.graph.ty(value).dtype.size() as i64;
                }
                // Rows stay rows.
                Op::Reshape { .. } if last(value) == last(of) => {}
                _ => break,
            }
            value = of;
        }
        (value, offset)
    }

    /// Elements from one row of a value to the next.
    pub(crate) fn row_stride(&self, value: Value) -> Dim {
        let (of, _) = self.columns(value);
        self.graph.ty(of).shape.last().cloned().unwrap_or_default()
    }

    /// Address of a value, in the layout it is wanted in.
    pub(crate) fn address(&mut self, value: Value, layout: Layout) -> Result<At, CodegenError> {
        let (of, offset) = self.columns(value);
        if offset != 0 {
            let (base, offset) = (self.address(of, layout)?, self.b.iconst(offset));
            return Ok(self.b.int(IntOp::Add, base, offset));
        }
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
                let (base, offset) = self.state(name)?;
                let offset = self.b.iconst(offset);
                offset_from(self, base, offset)
            }
            Some(Place::Alias(_)) | None => {
                let node = self.graph.node(value.node);
                return self.wrong(format!("`{}` at `{}` has no place", node.op.name(), node.path));
            }
        };
        let at = self.shifted(value, at);
        if layout == Layout::Rows {
            self.places.insert(value, at);
        }
        Ok(at)
    }

    /// Base address and offset of a state: its part of the first page, for one in pages.
    pub(crate) fn state(&mut self, name: &str) -> Result<(At, i64), CodegenError> {
        if let Some(part) = self.shared.cache.and_then(|c| c.parts.get(name)) {
            return Ok((self.field(self.context, offset_of!(Context, pages) as i32), part.offset as i64));
        }
        let Some(index) = self.shared.program.states.keys().position(|n| n == name) else {
            return self.wrong(format!("no state `{name}`"));
        };
        let states = self.field(self.context, offset_of!(Context, states) as i32);
        Ok((self.field(states, 8 * index as i32), 0))
    }

    /// The bytes of a value, to find out which kernels touch the same ones.
    fn bytes(&self, value: Value) -> Bytes {
        let value = self.root(value);
        let size = self.graph.ty(value).bytes();
        match self.plan.places.get(&value) {
            Some(Place::Arena(offset)) => Bytes::Arena(offset.clone(), size),
            Some(Place::Result(i)) => Bytes::Result(*i),
            Some(Place::State(name)) => Bytes::State(name.clone()),
            Some(Place::Arg(i)) => Bytes::Arg(*i),
            _ => Bytes::Constant,
        }
    }

    pub(crate) fn barrier(&mut self) {
        let barrier = self.field(self.context, offset_of!(Context, barrier) as i32);
        self.call_table(offset_of!(Table, barrier_wait), &[barrier]);
        self.hazards.clear();
    }

    pub(crate) fn call_table(&mut self, offset: usize, args: &[At]) {
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

    pub(crate) fn store(&mut self, base: At, offset: usize, value: At) {
        self.b.cursor(ENTRY).ins().store(plain(), value.v, base.v, offset as i32);
    }

    /// Values that a kernel reads from memory, in a fixed order.
    pub(crate) fn operands(&self, kernel: &Kernel) -> Vec<Value> {
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

    /// The bytes that a kernel touches.
    pub(crate) fn accesses(&self, kernel: &Kernel) -> Vec<Access> {
        let mut accesses: Vec<Access> =
            self.operands(kernel).into_iter().map(|v| Access { bytes: self.bytes(v), write: false }).collect();
        accesses.extend(kernel.outputs.iter().map(|&v| Access { bytes: self.bytes(v), write: true }));
        if let KernelKind::Attention { core } = kernel.kind {
            let paged = matches!(self.graph.node(core).op, Op::PagedAttention { .. });
            let bytes = if paged { Bytes::Scratch } else { Bytes::Tickets };
            accesses.push(Access { bytes, write: true });
        }
        accesses
    }

    pub(crate) fn kernel(&mut self, index: usize, kernel: &Kernel) -> Result<(), CodegenError> {
        let accesses = self.accesses(kernel);
        if self.block.is_none() && self.hazards.conflict(&accesses, &self.shared.program.symbols) {
            self.barrier();
        }
        let name = self.kernel_name(index, kernel);
        self.mark(name, kernel.kind.name());
        match kernel.kind {
            KernelKind::Loop | KernelKind::Copy => self.loops(index, kernel)?,
            KernelKind::Contraction { core } => self.contraction(index, kernel, core)?,
            KernelKind::Dot { core } => self.dot(kernel, core)?,
            KernelKind::Attention { core } => self.attention(kernel, core)?,
            KernelKind::Rope { core } => self.rope(kernel, core)?,
            KernelKind::CacheAppend { core } => self.cache_append(kernel, core)?,
            KernelKind::Embedding { core } => self.embedding(kernel, core)?,
            KernelKind::Scatter { core } => self.scatter(kernel, core)?,
            KernelKind::Random { core } => self.random(kernel, core)?,
            KernelKind::Call { .. } => return self.wrong("a call outside a run of calls"),
        }
        self.hazards.add(accesses);
        Ok(())
    }

    /// Tells the runtime that the thread comes to a kernel, should it want to know.
    fn mark(&mut self, name: String, kind: &str) {
        let known = self.shared.kernels.iter().position(|k| k.name == name);
        let number = self.b.iconst(known.unwrap_or(self.shared.kernels.len()) as i64);
        if known.is_none() {
            self.shared.kernels.push(KernelEntry { name, kind: kind.into() });
        }
        self.call_table(offset_of!(Table, kernel_starts), &[self.context, number]);
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

    pub(crate) fn outputs(
        &mut self,
        kernel: &Kernel,
        slots: &mut Vec<At>,
    ) -> Result<Vec<(Value, Buffer)>, CodegenError> {
        let mut outputs = Vec::new();
        for &value in &kernel.outputs {
            outputs.push((value, Buffer { slot: slots.len(), dtype: self.graph.ty(value).dtype }));
            slots.push(self.address(value, Layout::Rows)?);
        }
        Ok(outputs)
    }

    /// A loop's environment on the stack.
    pub(crate) fn environment(&mut self, slots: &[At]) -> At {
        let env = self.b.stack(8 * (ENV_HEAD + slots.len()) as u32);
        let consts = self.field(self.context, offset_of!(Context, consts) as i32);
        let head: [At; ENV_HEAD] = [self.table, self.dims, consts];
        for (i, &at) in head.iter().chain(slots).enumerate() {
            self.store(env, 8 * i, at);
        }
        env
    }

    pub(crate) fn kernel_name(&self, index: usize, kernel: &Kernel) -> String {
        let last = kernel.outputs.first().map(|v| v.node).or(kernel.nodes.last().copied());
        let path = last.map_or("", |n| &self.graph.node(n).path);
        format!("{}.{index} {path}", self.name).trim_end().to_string()
    }

    fn loops(&mut self, index: usize, kernel: &Kernel) -> Result<(), CodegenError> {
        let (inputs, mut slots) = self.buffers(kernel)?;
        let outputs = self.outputs(kernel, &mut slots)?;
        let form = LoopKernel { graph: self.graph, nodes: &kernel.nodes, inputs, outputs };
        let (id, span) = self.shared.define_loop(&form, false, self.kernel_name(index, kernel))?;
        let env = self.environment(&slots);
        let [begin, end] = match self.block_of(&span, kernel)? {
            Some(bounds) => bounds,
            None => self.share(&span),
        };
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

    pub(crate) fn operand(&self, node: NodeId, position: usize) -> Result<Value, CodegenError> {
        match self.graph.operand(node, position) {
            Some(v) => Ok(v),
            None => self.wrong(format!("`{}` lacks operand {position}", self.graph.node(node).op.name())),
        }
    }

    pub(crate) fn output(&self, kernel: &Kernel) -> Result<Value, CodegenError> {
        match kernel.outputs[..] {
            [v] => Ok(v),
            _ => self.wrong(format!("{} outputs of one call", kernel.outputs.len())),
        }
    }
}
