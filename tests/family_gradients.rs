//! Gradients of every family and everything it is trained for: in double precision against central differences of the
//! loss, and as compiled in single precision against those. Dropout is on, so what is dropped has to be the same forward
//! and backward. Windows, soft caps and slopes of attention are for generation only: models are trained without, or not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use lith::train::all_of;
use lith_codegen::{Target, WeightData, WeightStorage};
use lith_frontend::Layout;
use lith_ir::interp::{Interpreter, Mode, Tensor};
use lith_ir::testing::Rng;
use lith_ir::{DType, Graph, Op, Program as Ir, Type, text};
use lith_models::Head;
use lith_models::config::Config;
use lith_models::families::{self, Family, LOSS_ENTRY, REGISTRY, Training};
use lith_passes::train::{Optimizer, gradient_state};
use lith_passes::{Options, Stage};
use lith_runtime::program::Program;
use lith_runtime::tensor::View;

/// Half the distance between the two points of a difference.
const STEP: f64 = 1.0 / (1 << 16) as f64;

/// How far gradients of double precision may be from differences, relative to the larger of the difference and the norm of
/// what it is the sum of.
const OF_DIFFERENCES: f64 = 1e-6;

/// How far a parameter's compiled gradient may be from that of double precision, by norms. What is 0 but for rounding (of
/// biases of keys, say) is measured against a thousandth of the whole gradient.
const OF_COMPILED: f64 = 1e-4;

/// Fields that tell how much is dropped, in whatever family.
const DROPOUTS: &[&str] = &[
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout_prob",
    "attention_dropout",
    "hidden_dropout",
    "dropout",
    "seq_classif_dropout",
    "attn_pdrop",
    "embd_pdrop",
    "resid_pdrop",
    "residual_dropout",
    "embedding_dropout",
];

/// A model with all it needs to compute its loss.
struct Trial {
    name: String,
    program: Ir,
    /// Arguments of the loss by name.
    args: BTreeMap<String, Tensor>,
    params: BTreeMap<String, Tensor>,
}

impl Trial {
    /// A head of the model in `folder`, with random weights and a random batch.
    fn new(folder: &Path, head: Head, problem: &str, seed: u64) -> Trial {
        let mut config = Config::read(&folder.join("config.json")).unwrap();
        for (field, none) in [("sliding_window", "100000"), ("attn_logit_softcapping", "null")] {
            if config.value(field).is_number() {
                assert!(config.set(&format!("{field}={none}")).unwrap());
            }
        }
        let drops: Vec<&str> = DROPOUTS.iter().copied().filter(|field| config.value(field).is_number()).collect();
        for field in drops {
            assert!(config.set(&format!("{field}=0.2")).unwrap());
        }
        let labels = match (head, problem) {
            (Head::QuestionAnswering, _) => 2,
            (_, "regression") => 1,
            _ => 3,
        };
        config.set(&format!("num_labels={labels}")).unwrap();
        if !problem.is_empty() {
            config.set(&format!("problem_type={problem}")).unwrap();
        }
        let name = format!("{}, {head} {problem}", folder.file_name().unwrap().to_string_lossy());
        let options = families::Options {
            layout: Layout::Packed,
            training: Some(Training { smoothing: 0.1 }),
            ..families::Options::default()
        };
        let program = families::trace(&config, head, &options).unwrap_or_else(|e| panic!("{name}: {e}")).program;
        let mut rng = Rng::new(seed);
        let batch = Batch::new(head, &config);
        let graph = &program.entries[LOSS_ENTRY];
        let args = arguments(graph).map(|(name, ty)| (name.into(), batch.argument(name, ty, &mut rng))).collect();
        let params = program.params.iter().map(|(name, ty)| (name.clone(), parameter(name, ty, &mut rng))).collect();
        Trial { name, program, args, params }
    }

    /// The step that adds up gradients, alone: they are all that is asked for.
    fn accumulate(&self) -> Ir {
        let training = Some(all_of(&self.program, Optimizer::AdamW));
        let options = Options { stop_after: Some(Stage::Differentiate), training, ..Options::default() };
        let compiled =
            lith_passes::run(self.program.clone(), &options).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let mut program = compiled.program;
        program.entries.retain(|name, _| name == "accumulate");
        program
    }

    fn args(&self, graph: &Graph) -> Vec<Tensor> {
        arguments(graph).map(|(name, _)| self.args[name].clone()).collect()
    }

    /// The gradient of `loss_sum` by parameter, of double precision.
    fn gradients(&self) -> BTreeMap<String, Vec<f64>> {
        let program = doubled(&self.accumulate());
        let mut states: BTreeMap<String, Tensor> =
            self.params.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
        let args = self.args(&program.entries["accumulate"]);
        let interpreter = Interpreter::new(&program, Mode::Exact).unwrap();
        interpreter.run("accumulate", &args, &|_| None, &mut states).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let gradient = |name: &String| states[&gradient_state(name)].as_floats().unwrap().to_vec();
        self.params.keys().map(|name| (name.clone(), gradient(name))).collect()
    }

    /// Holds gradients against differences, of each parameter along a random direction and of all together. Returns the
    /// largest relative difference.
    fn check_differences(&self, gradients: &BTreeMap<String, Vec<f64>>, rng: &mut Rng) -> f64 {
        let program = doubled(&self.program);
        let interpreter = Interpreter::new(&program, Mode::Exact).unwrap();
        let mut worst = 0.0f64;
        for wanted in gradients.keys().map(|name| vec![name]).chain([gradients.keys().collect()]) {
            // Where two steps do not agree there is a corner between, of a ReLU say, and the next direction is tried.
            let off = (0..8).find_map(|_| {
                let directions: BTreeMap<&str, Vec<f64>> = wanted
                    .iter()
                    .map(|name| (name.as_str(), gradients[*name].iter().map(|_| rng.between(-1.0, 1.0)).collect()))
                    .collect();
                let parts = directions.iter().flat_map(|(name, d)| gradients[*name].iter().zip(d).map(|(g, d)| g * d));
                let (along, square) = parts.fold((0.0, 0.0), |(sum, square), part| (sum + part, square + part * part));
                let away = |a: f64, b: f64| (a - b).abs() / square.sqrt().max(b.abs()).max(0.01);
                let expected = self.difference(&interpreter, &directions, STEP);
                let off = away(along, expected);
                if off <= OF_DIFFERENCES {
                    return Some(off);
                }
                let nearer = self.difference(&interpreter, &directions, STEP / 4.0);
                // A loss that bends much needs the nearer points.
                if away(along, nearer) <= OF_DIFFERENCES {
                    return Some(away(along, nearer));
                }
                let corner = away(nearer, expected) > OF_DIFFERENCES;
                assert!(corner, "{}, {wanted:?}: {along:e}, by differences {expected:e}", self.name);
                None
            });
            let off = off.unwrap_or_else(|| panic!("{}, {wanted:?}: there are corners everywhere", self.name));
            worst = worst.max(off);
        }
        worst
    }

    /// How the loss changes along directions of some parameters, by the difference of two points.
    fn difference(&self, interpreter: &Interpreter, directions: &BTreeMap<&str, Vec<f64>>, step: f64) -> f64 {
        let args = self.args(&self.program.entries[LOSS_ENTRY]);
        let loss = |by: f64| {
            let param = |name: &str| {
                let tensor = &self.params[name];
                let Some(direction) = directions.get(name) else { return Some(tensor.clone()) };
                let moved = tensor.as_floats().unwrap().iter().zip(direction).map(|(x, d)| x + by * d);
                Some(Tensor::floats(DType::F64, tensor.shape(), moved.collect()).unwrap())
            };
            let results = interpreter.run(LOSS_ENTRY, &args, &param, &mut BTreeMap::new());
            results.unwrap_or_else(|e| panic!("{}: {e}", self.name))[0].as_floats().unwrap()[0]
        };
        (loss(step) - loss(-step)) / (2.0 * step)
    }

    /// Holds compiled gradients against these. Returns the largest relative difference.
    fn check_compiled(&self, gradients: &BTreeMap<String, Vec<f64>>) -> f64 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trial.lith");
        let compiled = lith_passes::run(self.accumulate(), &Options::default()).unwrap();
        let storage = WeightStorage::of(DType::F32);
        let target = Target::new("native").unwrap();
        let module = lith_codegen::compile(&compiled.program, &compiled.plan, &target, &storage).unwrap();
        let mut weights = |name: &str| {
            let values = self.params[name].as_floats().unwrap();
            let bytes = values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect();
            Ok(WeightData::Elements { dtype: DType::F32, bytes })
        };
        lith_codegen::write_artifact::<lith_codegen::CodegenError>(&path, &module, &mut weights, &[]).unwrap();
        let [one, two] = [1, 2].map(|threads| self.run_compiled(&path, threads));
        assert!(one == two, "{}: two threads give other bits than one", self.name);
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let whole = norm(&mut gradients.values().flatten().copied());
        let mut worst = 0.0f64;
        for (name, expected) in gradients {
            let off = norm(&mut one[name].iter().zip(expected).map(|(f, e)| f64::from(*f) - e));
            let off = off / norm(&mut expected.iter().copied()).max(1e-3 * whole);
            assert!(off <= OF_COMPILED, "{}, {name}: compiled gradient off by {off:e}", self.name);
            worst = worst.max(off);
        }
        worst
    }

    fn run_compiled(&self, path: &Path, threads: usize) -> BTreeMap<String, Vec<f32>> {
        let program = Program::open(path, threads).unwrap();
        let entry = program.manifest().entry("accumulate").unwrap();
        let floats = |t: &Tensor| Tensor::floats(DType::F32, t.shape(), t.as_floats().unwrap().to_vec()).unwrap();
        let single = |t: &Tensor| if t.dtype() == DType::F64 { floats(t) } else { t.clone() };
        let args: Vec<(&str, Tensor, Vec<u8>)> = entry
            .args
            .iter()
            .map(|arg| single(&self.args[&arg.name]))
            .zip(&entry.args)
            .map(|(tensor, arg)| (arg.name.as_str(), tensor.clone(), tensor.to_bytes()))
            .collect();
        let views: Vec<(&str, View<'_>)> =
            args.iter().map(|(name, t, bytes)| (*name, View { dtype: t.dtype(), shape: t.shape(), bytes })).collect();
        program.run("accumulate", &views).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let gradient = |name: &String| {
            let bytes = program.read_state(&gradient_state(name)).unwrap();
            bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        };
        self.params.keys().map(|name| (name.clone(), gradient(name))).collect()
    }
}

/// The program with double precision in place of single.
fn doubled(program: &Ir) -> Ir {
    text::parse(&text::print(program).replace("f32", "f64")).unwrap()
}

/// Arguments of a graph in order.
fn arguments(graph: &Graph) -> impl Iterator<Item = (&str, &Type)> {
    graph.args().into_iter().map(|id| match &graph.node(id).op {
        Op::Arg { name, ty, .. } => (name.as_str(), ty),
        other => panic!("{} is no argument", other.name()),
    })
}

/// A random parameter; what norms multiply by is near 1. All are numbers of single precision.
fn parameter(name: &str, ty: &Type, rng: &mut Rng) -> Tensor {
    let shape = ty.static_shape().unwrap();
    let middle = if shape.len() == 1 && name.ends_with("weight") { 1.0 } else { 0.0 };
    let count = shape.iter().product();
    let values = (0..count).map(|_| f64::from((middle + rng.between(-0.3, 0.3)) as f32)).collect();
    Tensor::floats(DType::F64, &shape, values).unwrap()
}

/// What a batch is like.
struct Batch {
    offsets: Vec<i64>,
    by_token: bool,
    /// What labels are below.
    classes: usize,
    tokens: usize,
    types: usize,
}

impl Batch {
    /// Sequences beyond windows and of one token; where nothing is asked of whole sequences, some have none.
    fn new(head: Head, config: &Config) -> Batch {
        let by_token = !matches!(head, Head::SequenceClassification | Head::QuestionAnswering);
        let offsets = if by_token { vec![0, 0, 14, 15, 15, 24] } else { vec![0, 14, 15, 24] };
        let tokens = config.size("vocab_size").unwrap();
        let classes = if matches!(head, Head::MaskedLm | Head::CausalLm) { tokens } else { config.num_labels() };
        let types = config.value("type_vocab_size").as_u64().unwrap_or(1) as usize;
        Batch { offsets, by_token, classes, tokens, types }
    }

    fn argument(&self, name: &str, ty: &Type, rng: &mut Rng) -> Tensor {
        let (tokens, sequences) = (self.offsets[self.offsets.len() - 1] as usize, self.offsets.len() - 1);
        let count = if self.by_token { tokens } else { sequences };
        let mut ints = |count: usize, value: &mut dyn FnMut(usize, &mut Rng) -> i64| {
            let values = (0..count).map(|i| value(i, rng)).collect();
            Tensor::ints(DType::I32, &[count], values).unwrap()
        };
        match name {
            "input_ids" => ints(tokens, &mut |_, rng| rng.below(self.tokens) as i64),
            "token_type_ids" => ints(tokens, &mut |_, rng| rng.below(self.types) as i64),
            "offsets" => Tensor::ints(DType::I32, &[self.offsets.len()], self.offsets.clone()).unwrap(),
            "dropout_key" => Tensor::ints(DType::U32, &[2], vec![7, 11]).unwrap(),
            "labels" if ty.dtype == DType::I32 => {
                ints(count, &mut |i, rng| if i % 4 == 1 { -100 } else { rng.below(self.classes) as i64 })
            }
            "labels" => {
                let values = (0..count * self.classes).map(|_| f64::from(rng.below(2) as f32)).collect();
                Tensor::floats(DType::F64, &[count, self.classes], values).unwrap()
            }
            // One answer lies outside of its text.
            "start_positions" | "end_positions" => ints(sequences, &mut |i, rng| match i {
                2 => 64,
                _ => rng.below((self.offsets[i + 1] - self.offsets[i]) as usize) as i64,
            }),
            other => panic!("unknown argument `{other}`"),
        }
    }
}

/// What a model of this head learns. The loss is the same code for all families.
fn problems(family: &str, head: Head) -> &'static [&'static str] {
    match (family, head) {
        ("bert", Head::SequenceClassification) => {
            &["single_label_classification", "multi_label_classification", "regression"]
        }
        (_, Head::SequenceClassification) => &["single_label_classification"],
        _ => &[""],
    }
}

/// Everything that the models of these fixtures are trained for. Expects that no family with the head `of` is left out.
fn check<'a>(names: impl Iterator<Item = &'a str>, of: Head) {
    let (mut seen, mut seed) = (BTreeSet::new(), 0);
    for name in names {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let config = Config::read(&folder.join("config.json")).unwrap();
        let family = Family::find(config.model_type()).unwrap();
        for head in family.heads().filter(|head| *head != Head::Base) {
            for problem in problems(family.model_type, head) {
                seed += 1;
                let trial = Trial::new(&folder, head, problem, seed);
                let gradients = trial.gradients();
                let by_differences = trial.check_differences(&gradients, &mut Rng::new(seed));
                let compiled = trial.check_compiled(&gradients);
                println!("{}: {by_differences:.1e} by differences, {compiled:.1e} compiled", trial.name);
                seen.insert((family.model_type, head));
            }
        }
    }
    for family in REGISTRY.iter().filter(|family| family.heads().any(|head| head == of)) {
        for head in family.heads().filter(|head| *head != Head::Base) {
            assert!(seen.contains(&(family.model_type, head)), "no trial of {}, {head}", family.model_type);
        }
    }
}

/// TL-07
#[test]
fn encoders() {
    let families = ["bert", "distilbert", "roberta", "xlm-roberta", "camembert", "mpnet", "electra", "albert"];
    let names = families.map(|family| format!("{family}-sequence-classification"));
    check(names.iter().map(String::as_str), Head::MaskedLm);
}

/// TL-07
#[test]
fn decoders() {
    let names = [
        "cohere",
        "cohere-qk-norm",
        "falcon-7b",
        "falcon-new",
        "gemma",
        "gemma2",
        "gemma3",
        "gpt-neox",
        "gpt2",
        "gpt2-variant",
        "granite",
        "llama",
        "llama-yarn",
        "mistral",
        "olmo2",
        "phi3",
        "qwen2-window",
        "qwen3",
        "smollm3",
        "starcoder2",
    ];
    let names = names.map(|name| format!("decoders/{name}"));
    check(names.iter().map(String::as_str), Head::CausalLm);
}

/// What attention has no backward form of is told, not left out.
#[test]
fn what_cannot_be_trained() {
    for name in ["falcon-rw", "gemma2", "mistral"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decoders").join(name);
        let config = Config::read(&folder.join("config.json")).unwrap();
        let training = Some(Training { smoothing: 0.0 });
        let options = families::Options { training, ..families::Options::default() };
        let error = families::trace(&config, Head::CausalLm, &options).unwrap_err().to_string();
        assert!(error.contains("windows, soft caps and slopes need the paged layout"), "{name}: {error}");
    }
}
