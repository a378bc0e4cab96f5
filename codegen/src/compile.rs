//! From a program and its plan to a module: all code of an artifact, its manifest and what lies in its sections.

use std::collections::{BTreeMap, BTreeSet};

use cranelift_codegen::ir::Function;
use cranelift_codegen::isa::CallConv;
use lith_ir::dim::Atom;
use lith_ir::plan::{KernelKind, Layout, Place, Plan};
use lith_ir::{DType, Dim, Graph, NodeId, Op, Program, Value};
use lith_runtime::kernels::Storage;
use lith_runtime::manifest::{ArgEntry, ArgSize, EntryPoint, Manifest, ResultEntry, StateEntry, SymbolEntry};

use crate::constants::Weights;
use crate::entry::{Shared, compile_graph};
use crate::link::{Linked, Text, compile_function};
use crate::loops::Tables;
use crate::{CodegenError, Target};

/// A compiled program without its weights.
#[derive(Clone)]
pub struct Module {
    /// Machine code.
    pub text: Vec<u8>,
    /// Constants.
    pub consts: Vec<u8>,
    /// What the artifact says of itself.
    pub manifest: Manifest,
    /// The program in text form.
    pub graph_text: String,
    /// The plan, readable.
    pub plan_text: String,
    target: Target,
    functions: Vec<(String, Function)>,
}

impl Module {
    /// Puts what the pipelines know of the model into the manifest.
    pub fn set_model(&mut self, model: serde_json::Value) {
        self.manifest.model = model;
    }

    /// Sets the readable plan.
    pub fn set_plan_text(&mut self, text: String) {
        self.plan_text = text;
    }

    /// The target it was compiled for.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Cranelift's IR of every function, before optimisation.
    pub fn clif(&self) -> String {
        self.functions.iter().map(|(name, f)| format!(";; {name}\n{}\n", f.display())).collect()
    }

    /// Cranelift's assembly of every function.
    pub fn asm(&self) -> String {
        let listing = |(name, f): &(String, Function)| {
            let code = compile_function(&self.target, name, f.clone(), true).ok();
            format!(";; {name}\n{}\n", code.and_then(|(code, _)| code.vcode).unwrap_or_default())
        };
        self.functions.iter().map(listing).collect()
    }
}

/// Compiles a program by its plan. `storage` is how `f32` weights of contractions, and tables that only loops look
/// values up in, are stored; computation stays in `f32`.
///
/// # Errors
/// When the plan is not one of this program, or a parameter has no fixed size.
pub fn compile(program: &Program, plan: &Plan, target: &Target, storage: Storage) -> Result<Module, CodegenError> {
    let rows_in_half = halvable_rows(program, plan);
    let panels = match storage {
        Storage::F32 => DType::F32,
        Storage::Bf16 => DType::Bf16,
        Storage::F16 => DType::F16,
    };
    let stored = |name: &str, layout: Layout| {
        if layout == Layout::Panels || rows_in_half.contains(name) { panels } else { DType::F32 }
    };
    let weights = Weights::new(program, plan, stored)?;
    let mut shared = Shared {
        program,
        tables: Tables::default(),
        weights: &weights,
        text: Text::new(target),
        functions: BTreeMap::new(),
        arg_layouts: plan.graphs.iter().map(|(n, p)| (n.clone(), p.arg_layouts.clone())).collect(),
        panels,
        fma: target.has_fma(),
    };
    for (name, _) in program.graphs() {
        let id = shared.text.declare(name);
        shared.functions.insert(name.into(), id);
    }
    let mut entries = Vec::new();
    for (name, graph) in program.graphs() {
        let wrong = |problem: &str| CodegenError::Plan { graph: name.into(), problem: problem.into() };
        let graph_plan = plan.graphs.get(name).ok_or_else(|| wrong("no plan"))?;
        let entry = program.entries.contains_key(name);
        compile_graph(&mut shared, name, graph, graph_plan, entry)?;
        if entry {
            let code = shared.text.offset(shared.functions[name]).ok_or_else(|| wrong("no code"))?;
            let mut result = |(result, value): &(String, Value)| {
                let ty = graph.ty(*value);
                let shape = ty.shape.iter().map(|d| shared.tables.dims.place(d)).collect();
                ResultEntry { name: result.clone(), dtype: ty.dtype, shape }
            };
            let results = graph.results().iter().map(&mut result).collect();
            let arena = shared.tables.dims.place(&graph_plan.arena);
            entries.push(EntryPoint {
                name: name.into(),
                code,
                arena,
                args: arguments(program, name, graph)?,
                results,
            });
        }
    }
    let id = shared.text.declare("dims");
    let function = shared.tables.dims.function(&program.symbols, CallConv::SystemV);
    shared.text.define(id, function)?;
    let dims_code = shared.text.offset(id).unwrap_or_default();
    let dims = shared.tables.dims.len();
    let consts = shared.tables.constants.into_bytes();
    let Linked { bytes, entries: code, functions } = shared.text.finish()?;
    let manifest = Manifest {
        name: program.name.clone(),
        symbols: symbols(program),
        dims,
        dims_code,
        entries,
        params: weights.entries,
        states: states(program)?,
        code,
        model: serde_json::Value::Null,
    };
    let graph_text = lith_ir::text::print(program);
    Ok(Module {
        text: bytes,
        consts,
        manifest,
        graph_text,
        plan_text: String::new(),
        target: target.clone(),
        functions,
    })
}

fn symbols(program: &Program) -> Vec<SymbolEntry> {
    let entry = |(symbol, info): (&lith_ir::Symbol, &lith_ir::SymbolInfo)| SymbolEntry {
        name: symbol.name().into(),
        min: info.min,
        max: info.max,
        multiple_of: info.multiple_of,
    };
    program.symbols.iter().map(entry).collect()
}

fn states(program: &Program) -> Result<Vec<StateEntry>, CodegenError> {
    let entry = |(name, ty): (&String, &lith_ir::Type)| {
        let bytes = ty.bytes().as_const().and_then(|b| u64::try_from(b).ok());
        let bytes = bytes.ok_or_else(|| CodegenError::Plan {
            graph: program.name.clone(),
            problem: format!("state `{name}` of {ty} has no fixed size"),
        })?;
        Ok(StateEntry { name: name.clone(), bytes })
    };
    program.states.iter().map(entry).collect()
}

/// The arguments of an entry point for the manifest.
fn arguments(program: &Program, name: &str, graph: &Graph) -> Result<Vec<ArgEntry>, CodegenError> {
    let mut entries = Vec::new();
    for (index, node) in graph.args().into_iter().enumerate() {
        let Op::Arg { name: arg, ty, .. } = &graph.node(node).op else { continue };
        let size = |d: &Dim| {
            arg_size(program, d).ok_or_else(|| CodegenError::Plan {
                graph: name.into(),
                problem: format!("argument `{arg}` is {ty}: `{d}` is neither a constant nor a symbol plus one"),
            })
        };
        let tokens = offsets_of(program, graph, index, 0);
        let offsets_of = tokens.as_ref().and_then(|d| match arg_size(program, d) {
            Some(ArgSize::Symbol { symbol, offset: 0 }) => Some(symbol),
            _ => None,
        });
        let shape = ty.shape.iter().map(size).collect::<Result<_, _>>()?;
        entries.push(ArgEntry { name: arg.clone(), dtype: ty.dtype, shape, offsets_of });
    }
    Ok(entries)
}

fn arg_size(program: &Program, dim: &Dim) -> Option<ArgSize> {
    if let Some(c) = dim.as_const() {
        return Some(ArgSize::Constant(u64::try_from(c).ok()?));
    }
    let [symbol] = &dim.symbols()[..] else { return None };
    let offset = (dim.clone() - Dim::symbol(symbol)).as_const()?;
    let linear = dim.terms().all(|(atoms, _)| atoms.iter().all(|a| matches!(a, Atom::Symbol(_))));
    let symbol = program.symbols.keys().position(|s| s == symbol).filter(|_| linear)?;
    Some(ArgSize::Symbol { symbol, offset })
}

/// The number of tokens that an argument divides into sequences, when it is used as their offsets, here or in a called
/// function.
fn offsets_of(program: &Program, graph: &Graph, index: usize, depth: usize) -> Option<Dim> {
    let arg: NodeId = *graph.args().get(index)?;
    graph.users(arg.into()).into_iter().find_map(|(user, position)| match (&graph.node(user).op, position) {
        (Op::PackedAttention { .. }, 3) | (Op::SegmentPool { .. }, 1) => {
            graph.operand(user, 0).and_then(|x| graph.ty(x).shape.first().cloned())
        }
        (Op::SegmentIds { tokens }, 0) => Some(tokens.clone()),
        (Op::Call { function, .. }, _) if depth < 64 => {
            offsets_of(program, program.functions.get(function)?, position, depth + 1)
        }
        _ => None,
    })
}

/// Matrices whose row-major form only loops of entry points read: these convert what they load.
fn halvable_rows(program: &Program, plan: &Plan) -> BTreeSet<String> {
    let (mut read, mut other) = (BTreeSet::new(), BTreeSet::new());
    for (name, graph) in program.graphs() {
        let Some(graph_plan) = plan.graphs.get(name) else { continue };
        let param = |value: Value| match graph_plan.places.get(&value) {
            Some(Place::Param(name)) => Some(name.clone()),
            _ => None,
        };
        for kernel in &graph_plan.kernels {
            for &node in &kernel.nodes {
                let linear = matches!(graph.node(node).op, Op::Linear {});
                for (position, value) in graph.operands(node).into_iter().enumerate() {
                    let Some((value, name)) = value.and_then(|v| Some((v, param(v)?))) else { continue };
                    if kernel.kind == KernelKind::Loop && graph.ty(value).rank() >= 2 {
                        read.insert(name);
                    } else if !(linear && position == 1) {
                        other.insert(name);
                    }
                }
            }
        }
        other.extend(graph_plan.places.values().filter_map(|p| match p {
            Place::Alias(of) => param(*of),
            _ => None,
        }));
    }
    read.difference(&other).cloned().collect()
}
