//! From a program and its plan to a module: all code of an artifact, its manifest and what lies in its sections.

use std::collections::{BTreeMap, BTreeSet};

use cranelift_codegen::ir::Function;
use cranelift_codegen::isa::CallConv;
use lith_ir::plan::{KernelKind, Layout, PAGE_TOKENS, Place, Plan};
use lith_ir::quant::Storage;
use lith_ir::{DType, Op, Program, Value};
use lith_runtime::manifest::{CacheEntry, EntryPoint, Manifest, ResultEntry, StateEntry, SymbolEntry};
use lith_runtime::weights::Derived;

use crate::arguments::{arguments, sequences};
use crate::constants::Weights;
use crate::entry::{Shared, compile_graph};
use crate::link::{Linked, Text, compile_function, is_wide};
use crate::loops::Tables;
use crate::{CodegenError, Target, wide};

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
    /// The derived parameters and what they follow from.
    pub(crate) derived: Derived,
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

    /// The assembly of every function: Cranelift's, or that of the back end for wide vectors.
    pub fn asm(&self) -> String {
        let listing = |(name, f): &(String, Function)| {
            let text = match self.target.wide_isa().filter(|_| is_wide(f)) {
                Some(isa) => wide::compile(f, isa, true).ok().map(|code| code.text),
                None => compile_function(&self.target, name, f.clone(), true).ok().and_then(|(code, _)| code.vcode),
            };
            format!(";; {name}\n{}\n", text.unwrap_or_default())
        };
        self.functions.iter().map(listing).collect()
    }
}

/// How `f32` parameters are stored; computation stays in `f32`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightStorage {
    /// The type of weights in panels, and of tables that only loops look values up in: `F32`, `F16` or `Bf16`.
    pub default: DType,
    /// Parameters that are stored otherwise. Codes are possible for those that are in panels only.
    pub by_param: BTreeMap<String, Storage>,
}

impl WeightStorage {
    /// All of one type: `F32`, `F16` or `Bf16`.
    pub fn of(default: DType) -> WeightStorage {
        WeightStorage { default, by_param: BTreeMap::new() }
    }

    fn get(&self, name: &str) -> Storage {
        self.by_param.get(name).copied().unwrap_or(Storage::Float(self.default))
    }
}

/// Compiles a program by its plan.
///
/// # Errors
/// When the plan is not one of this program, a parameter has no fixed size, or one is to be stored as it cannot be.
pub fn compile(
    program: &Program,
    plan: &Plan,
    target: &Target,
    storage: &WeightStorage,
) -> Result<Module, CodegenError> {
    let rows_in_half = halvable_rows(program, plan);
    let derived = Derived::new(program);
    let storage_of = |name: &str| derived.storage(name, &|n| storage.get(n));
    let stored = |name: &str, layout: Layout| match storage_of(name) {
        Storage::Float(_) if layout == Layout::Rows && !rows_in_half.contains(name) => Storage::Float(DType::F32),
        storage => storage,
    };
    let weights = Weights::new(program, plan, stored)?;
    let mut shared = Shared {
        program,
        tables: Tables::default(),
        weights: &weights,
        text: Text::new(target),
        functions: BTreeMap::new(),
        arg_layouts: plan.graphs.iter().map(|(n, p)| (n.clone(), p.arg_layouts.clone())).collect(),
        cache: plan.cache.as_ref(),
        kernels: Vec::new(),
        loops: BTreeMap::new(),
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
                sequences: sequences(program, name, graph)?,
            });
        }
    }
    let id = shared.text.declare("dims");
    let function = shared.tables.dims.function(&program.symbols, CallConv::SystemV);
    shared.text.define(id, function)?;
    let dims_code = shared.text.offset(id).unwrap_or_default();
    let dims = shared.tables.dims.len();
    let consts = shared.tables.constants.into_bytes();
    let kernels = shared.kernels;
    let Linked { bytes, entries: code, functions } = shared.text.finish()?;
    let states = states(program, plan, &weights)?;
    let manifest = Manifest {
        name: program.name.clone(),
        symbols: symbols(program),
        dims,
        dims_code,
        entries,
        params: weights.entries,
        states,
        cache: cache(program, plan)?,
        kernels,
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
        derived,
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

fn states(program: &Program, plan: &Plan, weights: &Weights) -> Result<Vec<StateEntry>, CodegenError> {
    let entry = |(name, ty): (&String, &lith_ir::Type)| {
        if let Some(part) = plan.cache.as_ref().and_then(|c| c.parts.get(name)) {
            let (name, page_offset) = (name.clone(), Some(part.offset));
            let (bytes, dtype) = (part.bytes, ty.dtype);
            return Ok(StateEntry { name, bytes, dtype, shape: Vec::new(), page_offset, initial: None });
        }
        let wrong = |problem: &str| CodegenError::Plan {
            graph: program.name.clone(),
            problem: format!("state `{name}` of {ty} {problem}"),
        };
        let bytes =
            ty.bytes().as_const().and_then(|b| u64::try_from(b).ok()).ok_or_else(|| wrong("has no fixed size"))?;
        let initial = match program.params.get(name) {
            None => None,
            Some(_) => {
                let rows = weights.get(name, Layout::Rows).filter(|e| e.dtype == ty.dtype && e.bytes == bytes);
                Some(rows.ok_or_else(|| wrong("begins with a parameter that is not stored as it is"))?.offset)
            }
        };
        let shape = ty.static_shape().ok_or_else(|| wrong("has no fixed shape"))?;
        Ok(StateEntry { name: name.clone(), bytes, dtype: ty.dtype, shape, page_offset: None, initial })
    };
    program.states.iter().map(entry).collect()
}

fn cache(program: &Program, plan: &Plan) -> Result<Option<CacheEntry>, CodegenError> {
    let Some(cache) = &plan.cache else { return Ok(None) };
    let wrong = |problem: String| CodegenError::Plan { graph: program.name.clone(), problem };
    let pages = program.symbols.keys().position(|s| *s == cache.pages);
    let pages = pages.ok_or_else(|| wrong(format!("no symbol `{}` counts the pages", cache.pages.name())))?;
    let page_bytes = usize::try_from(cache.page_bytes).ok().filter(|b| b % 64 == 0);
    let page_bytes = page_bytes.ok_or_else(|| wrong(format!("pages of {} bytes", cache.page_bytes)))?;
    Ok(Some(CacheEntry { page_tokens: PAGE_TOKENS, page_bytes, pages }))
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
                let in_panels = |position: usize| match graph.node(node).op {
                    Op::Linear {} => position == 1,
                    Op::Gather { .. } => position == 0 && matches!(kernel.kind, KernelKind::Embedding { .. }),
                    _ => false,
                };
                for (position, value) in graph.operands(node).into_iter().enumerate() {
                    let Some((value, name)) = value.and_then(|v| Some((v, param(v)?))) else { continue };
                    if kernel.kind == KernelKind::Loop && graph.ty(value).rank() >= 2 {
                        read.insert(name);
                    } else if !in_panels(position) {
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
