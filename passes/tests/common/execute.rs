//! Follows a plan kernel by kernel on plain bytes: one arena, values at their planned offsets. Each kernel's nodes run in
//! the reference interpreter, so what this tests is which values a kernel is given and where they lie.

use std::collections::BTreeMap;

use lith_ir::interp::{Interpreter, Mode, Tensor};
use lith_ir::plan::{GraphPlan, Kernel, KernelKind, Place};
use lith_ir::{DType, Dim, Graph, NodeId, Op, Program, Symbol, Type, Value};
use lith_passes::Compiled;

/// One call of an entry point.
pub struct Execution<'a> {
    compiled: &'a Compiled,
    symbols: BTreeMap<Symbol, i64>,
    params: &'a BTreeMap<String, Tensor>,
    states: BTreeMap<String, Tensor>,
    arena: Vec<u8>,
}

/// Results and states after the call.
pub type Outcome = (Vec<Tensor>, BTreeMap<String, Tensor>);

impl<'a> Execution<'a> {
    /// Runs an entry point by its plan.
    pub fn run(
        compiled: &'a Compiled,
        entry: &str,
        args: &[Tensor],
        params: &'a BTreeMap<String, Tensor>,
        states: &BTreeMap<String, Tensor>,
        symbols: BTreeMap<Symbol, i64>,
    ) -> Outcome {
        let mut execution = Execution { compiled, symbols, params, states: states.clone(), arena: Vec::new() };
        let plan = &compiled.plan.graphs[entry];
        // Nothing may count on what the arena held before.
        execution.arena = vec![0xa5; execution.size(&plan.arena)];
        for (name, ty) in &compiled.program.states {
            let shape = execution.shape(&ty.shape);
            execution.states.entry(name.clone()).or_insert_with(|| Tensor::zeros(ty.dtype, &shape).unwrap());
        }
        let results = execution.graph(&compiled.program.entries[entry], plan, 0, &mut args.to_vec());
        (results, execution.states)
    }

    fn size(&self, d: &Dim) -> usize {
        d.eval(&|s| self.symbols.get(s).copied()).unwrap().try_into().unwrap()
    }

    fn shape(&self, shape: &[Dim]) -> Vec<usize> {
        shape.iter().map(|d| self.size(d)).collect()
    }

    fn graph(&mut self, graph: &Graph, plan: &GraphPlan, base: usize, args: &mut [Tensor]) -> Vec<Tensor> {
        let mut results: Vec<Option<Tensor>> = vec![None; graph.results().len()];
        for kernel in &plan.kernels {
            let inside = |v: &Value| kernel.nodes.contains(&v.node);
            let mut given = BTreeMap::new();
            for v in kernel.nodes.iter().flat_map(|&n| graph.inputs(n)).filter(|v| !inside(v)) {
                given.insert(v, self.read(graph, plan, base, args, &results, v));
            }
            for (&output, tensor) in kernel.outputs.iter().zip(self.kernel(graph, plan, base, kernel, &given)) {
                match &plan.places[&output] {
                    Place::Arena(offset) => {
                        let at = base + self.size(offset);
                        let bytes = tensor.to_bytes();
                        self.arena[at..at + bytes.len()].copy_from_slice(&bytes);
                    }
                    Place::Result(i) => results[*i] = Some(tensor),
                    Place::State(name) => drop(self.states.insert(name.clone(), tensor)),
                    // Changed in place: what lies there is the new value.
                    Place::Alias(of) => self.write_through(plan, args, *of, tensor),
                    other => panic!("a kernel stores to {other:?}"),
                }
            }
        }
        let result = |(_, v): &(String, Value)| self.read(graph, plan, base, args, &results, *v);
        graph.results().iter().map(result).collect()
    }

    /// Replaces the bytes that an alias of `value` would be.
    fn write_through(&mut self, plan: &GraphPlan, args: &mut [Tensor], value: Value, tensor: Tensor) {
        match &plan.places[&value] {
            Place::State(name) => drop(self.states.insert(name.clone(), tensor)),
            Place::Arg(i) => args[*i] = tensor,
            Place::Alias(of) => self.write_through(plan, args, *of, tensor),
            other => panic!("{other:?} is changed in place"),
        }
    }

    fn read(
        &self,
        graph: &Graph,
        plan: &GraphPlan,
        base: usize,
        args: &[Tensor],
        results: &[Option<Tensor>],
        value: Value,
    ) -> Tensor {
        let ty = graph.ty(value);
        let shape = self.shape(&ty.shape);
        let bytes = match &plan.places[&value] {
            Place::Arena(offset) => {
                let at = base + self.size(offset);
                self.arena[at..at + self.size(&ty.bytes())].to_vec()
            }
            Place::Arg(i) => args[*i].to_bytes(),
            Place::Result(i) => results[*i].as_ref().expect("a result is read before it is stored").to_bytes(),
            Place::Param(name) => match self.params.get(name) {
                Some(param) => param.to_bytes(),
                None => {
                    let interpreter = Interpreter::new(&self.compiled.program, Mode::Rounded).unwrap();
                    interpreter.derive(name, &|n| self.params.get(n).cloned()).unwrap().to_bytes()
                }
            },
            Place::Const => match &graph.node(value.node).op {
                Op::Const { value } => value.bytes().to_vec(),
                other => panic!("`{}` as constant", other.name()),
            },
            Place::State(name) => self.states[name].to_bytes(),
            Place::Alias(of) => {
                let whole = self.read(graph, plan, base, args, results, *of);
                match &graph.node(value.node).op {
                    Op::Slice { start, stop, .. } => columns(&whole, self.size(start)..self.size(stop)),
                    Op::Transpose { .. } => across(&whole),
                    _ => whole.to_bytes(),
                }
            }
        };
        Tensor::from_bytes(ty.dtype, &shape, &bytes).unwrap()
    }

    fn kernel(
        &mut self,
        graph: &Graph,
        plan: &GraphPlan,
        base: usize,
        kernel: &Kernel,
        given: &BTreeMap<Value, Tensor>,
    ) -> Vec<Tensor> {
        if let (KernelKind::Call { core }, Op::Call { function, .. }) = (&kernel.kind, &graph.node(kernel.nodes[0]).op)
        {
            let base = base + self.size(&plan.call_arenas[core]);
            let mut args: Vec<Tensor> = graph.inputs(*core).iter().map(|v| given[v].clone()).collect();
            let compiled = self.compiled;
            return self.graph(&compiled.program.functions[function], &compiled.plan.graphs[function], base, &mut args);
        }
        let mut small = Graph::new();
        let mut new: BTreeMap<Value, Value> = BTreeMap::new();
        let mut args = Vec::new();
        let mut arg = |small: &mut Graph, ty: Type, tensor: Tensor| {
            let index = args.len();
            args.push(tensor);
            small.add(Op::Arg { index, name: format!("a{index}"), ty }, &[], "").unwrap()
        };
        // One argument for each symbol, so that the interpreter knows its value.
        for (symbol, &value) in &self.symbols {
            let tensor = Tensor::zeros(DType::I8, &[value as usize]).unwrap();
            arg(&mut small, Type::new(DType::I8, [Dim::symbol(symbol)]), tensor);
        }
        for (&v, tensor) in given {
            let a = arg(&mut small, graph.ty(v).clone(), tensor.clone());
            new.insert(v, a);
        }
        for &n in &kernel.nodes {
            let operands: Vec<Option<Value>> = graph.operands(n).into_iter().map(|v| v.map(|v| new[&v])).collect();
            let op = match graph.node(n).op.clone() {
                // The interpreter has no states here; the place tells where the copy goes.
                Op::StateWrite { .. } => Op::Reshape { shape: graph.ty(n.into()).shape.clone() },
                op => op,
            };
            let id: NodeId = small.add_with(op, &operands, "").unwrap();
            new.insert(n.into(), id.into());
        }
        for (i, v) in kernel.outputs.iter().enumerate() {
            small.add_result(&format!("r{i}"), new[v]);
        }
        let mut program = Program::new("kernel");
        program.symbols = self.compiled.program.symbols.clone();
        program.entries.insert("main".into(), small);
        Interpreter::new(&program, Mode::Rounded).unwrap().run_pure("main", &args).unwrap()
    }
}

/// The bytes of columns of a tensor.
fn columns(whole: &Tensor, columns: std::ops::Range<usize>) -> Vec<u8> {
    let (bytes, size) = (whole.to_bytes(), whole.dtype().size());
    let row = whole.shape().last().copied().unwrap_or(0) * size;
    if row == 0 {
        return Vec::new();
    }
    bytes.chunks(row).flat_map(|row| row[columns.start * size..columns.end * size].to_vec()).collect()
}

/// The bytes of matrices, the last two axes, the other way round.
fn across(whole: &Tensor) -> Vec<u8> {
    let (shape, bytes, size) = (whole.shape(), whole.to_bytes(), whole.dtype().size());
    let [.., rows, cols] = shape[..] else { panic!("{shape:?} the other way round") };
    if rows * cols == 0 {
        return Vec::new();
    }
    let matrices = bytes.chunks(rows * cols * size).flat_map(|matrix| {
        let at = move |row: usize, col: usize| &matrix[(row * cols + col) * size..][..size];
        (0..cols).flat_map(move |col| (0..rows).flat_map(move |row| at(row, col).to_vec()))
    });
    matrices.collect()
}
