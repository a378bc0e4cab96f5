//! The way a model goes: traced program, passes, machine code, artifact.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lith_codegen::{Target, WeightData, WeightStorage};
use lith_ir::DType;
use lith_ir::quant::Storage;
use lith_passes::saturate::{Budget, DeviceProfile, Memo, Numeric};
use lith_passes::train::Optimizer;
use lith_passes::{Compiled, Stage};
use lith_runtime::model::ENTRY;

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::executable;
use crate::model::{Model, ModelOptions, Opened};
use crate::quantize::{self, Matrices, Quantization, StoragePlan, Widths};
use crate::train::Learner;

/// Name of the asset with the errors of quantized weights.
pub const QUANTIZATION_REPORT: &str = "quantization.json";

/// Name of the asset with what equality saturation did.
pub const SATURATION_REPORT: &str = "saturation.json";

/// A part of compilation and how long it took.
pub type Timing = (String, Duration);

/// How a model is compiled.
#[derive(Clone)]
pub struct CompileOptions {
    /// How weights in panels are stored (`F32`, `F16` or `Bf16`); computation is in `f32`.
    pub storage: DType,
    /// The processor.
    pub target: Target,
    /// Which weights and activations are quantized.
    pub quantization: Quantization,
    /// How much rewrites may change numbers.
    pub numeric: Numeric,
    /// The device that costs are estimated for.
    pub device: DeviceProfile,
    /// Whether equality saturation runs.
    pub saturate: bool,
    /// Where what it made of graphs is kept; nowhere by default.
    pub memo: Memo,
    /// How a model that is traced for it is trained.
    pub optimizer: Optimizer,
    /// How many bytes activations kept for the backward pass may take; see [`lith_passes::Options::activation_memory`].
    pub activation_memory: Option<u64>,
}

impl CompileOptions {
    /// Options by their names on the command line: `float32`, `float16` or `bfloat16`; `native`, `x86-64-v3` and so on.
    ///
    /// # Errors
    /// When a name is unknown.
    pub fn new(dtype: &str, target: &str) -> Result<CompileOptions> {
        let storage = match dtype.strip_prefix("torch.").unwrap_or(dtype) {
            "float32" | "f32" => DType::F32,
            "float16" | "f16" => DType::F16,
            "bfloat16" | "bf16" => DType::Bf16,
            other => {
                return Err(Error::input(format!("--dtype {other}: expected float32, float16 or bfloat16")));
            }
        };
        let target = Target::new(target).map_err(Error::input)?;
        Ok(CompileOptions {
            storage,
            target,
            quantization: Quantization::default(),
            numeric: Numeric::default(),
            device: DeviceProfile::default(),
            saturate: true,
            memo: Memo::default(),
            optimizer: Optimizer::AdamW,
            activation_memory: None,
        })
    }
}

impl CompileOptions {
    /// The options of the passes, as far as they do not hang on a model's weights.
    pub fn of_passes(&self) -> lith_passes::Options {
        lith_passes::Options {
            numeric: self.numeric,
            device: self.device.clone(),
            memo: self.memo.clone(),
            saturation: if self.saturate { Budget::default() } else { Budget::NONE },
            ..lith_passes::Options::default()
        }
    }
}

/// A model with its program and plan, ready to become machine code.
pub struct Compilation {
    /// The model.
    pub model: Model,
    /// Its program after passes, and how it is executed.
    pub compiled: Compiled,
    /// How its weights are stored.
    pub storage: StoragePlan,
    options: CompileOptions,
}

/// Runs the passes on a model, up to and including `stop_after`, or all.
///
/// # Errors
/// When a pass fails, which is a bug, or the program is broken.
pub fn prepare(model: Model, options: &CompileOptions, stop_after: Option<Stage>) -> Result<Compilation> {
    let program = model.program.clone();
    let training = model.training.then(|| match &model.adapted {
        Some(adapted) => crate::train::some_of(adapted.trained.keys().cloned(), options.optimizer),
        None => crate::train::all_of(&program, options.optimizer),
    });
    let mut matrices = Matrices::of(&program);
    if let Some(training) = &training {
        matrices.leave_out(&training.trained);
        if options.quantization.widths != Widths::Keep && matrices.linear.is_empty() {
            return Err(Error::input(
                "--quantize: every weight of a linear layer is trained, and only those that stay as they are can be \
                 quantized; train adapters beside them (--lora)",
            ));
        }
    }
    let values = |name: &str| -> Result<quantize::Matrix> {
        let cols = program.params.get(name).and_then(|ty| ty.static_shape()?.last().copied()).unwrap_or(0);
        Ok((model.weights.values(name)?, cols))
    };
    let storage = quantize::plan(&matrices, &options.quantization, &|name| model.weights.kept(name), &values)?;
    let is_quantized = |name: &&String| matches!(storage.storage.get(*name), Some(Storage::Quantized(_)));
    let pass_options = lith_passes::Options {
        stop_after,
        training,
        activation_memory: options.activation_memory,
        packed_tables: matrices.tables.iter().filter(is_quantized).cloned().collect(),
        // All or none: a block of mixed widths stays one function.
        rounding: options.quantization.rounding,
        int8_activations: matrices.linear.clone(),
        stored: storage.storage.clone(),
        ..options.of_passes()
    };
    let compiled = lith_passes::run(program.clone(), &pass_options).map_err(Error::failure)?;
    drop(program);
    Ok(Compilation { model, compiled, storage, options: options.clone() })
}

impl Compilation {
    /// The machine code.
    ///
    /// # Errors
    /// When code generation fails, which is a bug, or the program asks for more than the target has.
    pub fn module(&self) -> Result<lith_codegen::Module> {
        let Compiled { program, plan, .. } = &self.compiled;
        let by_param = self.storage.storage.clone();
        let storage = WeightStorage { by_param, ..WeightStorage::of(self.options.storage) };
        lith_codegen::compile(program, plan, &self.options.target, &storage).map_err(Error::failure)
    }

    /// Writes the artifact under a temporary name, then renames it; tells how long code generation and writing took.
    ///
    /// # Errors
    /// When code generation fails, a weight cannot be read, or the file cannot be written; nothing is then left of it.
    pub fn write_artifact(&self, path: &Path) -> Result<Vec<Timing>> {
        let start = Instant::now();
        let mut module = self.module()?;
        let generated = Instant::now();
        module.set_model(serde_json::to_value(&self.model.info).map_err(Error::failure)?);
        module.set_plan_text(self.plan_text());
        let report = serde_json::to_vec(&self.storage.report).map_err(Error::failure)?;
        let mut assets: Vec<(&str, &[u8])> =
            self.model.assets.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
        if !self.storage.report.is_empty() {
            assets.push((QUANTIZATION_REPORT, &report));
        }
        let saturation = serde_json::to_vec(&self.compiled.saturation).map_err(Error::failure)?;
        assets.push((SATURATION_REPORT, &saturation));
        let mut weights = |name: &str| self.weight(name);
        lith_codegen::write_artifact(path, &module, &mut weights, &assets)?;
        Ok(vec![("code".into(), generated - start), ("weights".into(), generated.elapsed())])
    }

    /// A parameter as it is to be stored.
    fn weight(&self, name: &str) -> Result<WeightData<'_>> {
        let found = self.model.weights.read(name)?;
        match (self.storage.storage.get(name), found) {
            (Some(Storage::Quantized(scheme)), WeightData::Elements { .. }) => {
                let cols = self.compiled.program.params.get(name).and_then(|ty| ty.static_shape()?.last().copied());
                let values = self.model.weights.values(name)?;
                Ok(WeightData::Quantized(lith_passes::quantize::quantize(&values, cols.unwrap_or(0), *scheme)))
            }
            // A matrix that nothing reads as one, such as a table of positions.
            (None, WeightData::Quantized(_)) => {
                let bytes = self.model.weights.values(name)?.iter().flat_map(|v| v.to_le_bytes()).collect();
                Ok(WeightData::Elements { dtype: DType::F32, bytes })
            }
            (_, found) => Ok(found),
        }
    }

    /// Writes an executable: the runner with the artifact behind it, and between them what learns, if there is to be that.
    ///
    /// # Errors
    /// As [`Compilation::write_artifact`], and when there is no runner, or the two artifacts are not of one model.
    pub fn write_executable(&self, path: &Path, learner: Option<&Learner>) -> Result<Vec<Timing>> {
        let runner = executable::find_runner(learner.is_some())?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let temporary = tempfile::Builder::new().prefix(".lith").tempdir_in(folder);
        let temporary = temporary.map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
        let artifact = temporary.path().join("artifact.lith");
        let timings = self.write_artifact(&artifact).map_err(|e| e.on_the_way_to(path))?;
        executable::write_executable(&runner, learner.map(Learner::artifact), &artifact, path)?;
        Ok(timings)
    }

    /// Kernels and memory plan, readable.
    pub fn plan_text(&self) -> String {
        use lith_passes::dump;
        format!("{}\n{}", dump::kernels(&self.compiled), dump::memory(&self.compiled, &|_| None))
    }

    /// Bytes of the arena of one call, for values of the symbols; `None` before the memory stage.
    pub fn arena_bytes(&self, value_of: &dyn Fn(&lith_ir::Symbol) -> Option<i64>) -> Option<i64> {
        self.compiled.plan.graphs.get(ENTRY)?.arena.eval(value_of).ok()
    }
}

/// The artifact of a model in the user's cache, compiled when it is not there, and what the user should know. `say` is
/// told what is being done.
///
/// # Errors
/// When the model cannot be read or compiled, or the cache cannot be written.
pub fn compile_cached(
    model: &str,
    from: &ModelOptions,
    options: &CompileOptions,
    say: &dyn Fn(&str),
) -> Result<(PathBuf, Vec<String>)> {
    say("reading the model");
    cached(Opened::new(model, from)?.load()?, from, options, say)
}

/// The artifact of a model that is read already, as [`compile_cached`].
///
/// # Errors
/// As [`compile_cached`].
pub fn cached(
    model: Model,
    from: &ModelOptions,
    options: &CompileOptions,
    say: &dyn Fn(&str),
) -> Result<(PathBuf, Vec<String>)> {
    let cache = Cache::open()?;
    let mut settings = vec![
        model.info.task.name().to_string(),
        format!("{:?} {:?} {:?} {:?}", from.training, from.lora, options.optimizer, options.activation_memory),
        format!("{:?} {:?} {:?} {:?}", options.storage, options.quantization, options.numeric, from.cache),
        format!("{:?} saturate={}", options.device, options.saturate),
        format!("{} {}", options.target.name(), options.target.features().join(",")),
        format!("strict={} mismatched={}", from.strict, from.ignore_mismatched_sizes),
        format!("fresh={} all={} seed={}", from.fresh_head, from.from_scratch, from.fresh_seed),
    ];
    settings.extend(from.overrides.iter().cloned());
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let path = cache.artifact(&model.files, &settings)?;
    // An artifact that is not whole, or of another build, is compiled again.
    if lith_runtime::artifact::Artifact::open(&path).is_ok() {
        return Ok((path, Vec::new()));
    }
    say("compiling");
    let warnings = model.warnings.clone();
    prepare(model, options, None)?.write_artifact(&path)?;
    Ok((path, warnings))
}
