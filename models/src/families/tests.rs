//! Every fixture of `tests/fixtures` through the interpreter, in both layouts, against what Transformers computed.

use std::path::{Path, PathBuf};

use lith_frontend::Layout;
use lith_ir::interp::{Interpreter, Mode, Tensor};
use lith_ir::{DType, Op};
use serde_json::{Map, Value};

use super::*;
use crate::checkpoint::{Checkpoint, OpenOptions};
use crate::source::Source;
use crate::weights::{LoadOptions, Loaded, resolve};

/// Largest accepted difference, relative to the largest value. Goldens have nine digits.
const TOLERANCE: f64 = 1e-6;

fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let mut found: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.join("golden.json").is_file());
    found.sort();
    found
}

pub(super) fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub(super) fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        other => vec![other.as_f64().unwrap()],
    }
}

/// Token sequences of one call.
struct Batch {
    ids: Vec<Vec<i64>>,
    types: Vec<Vec<i64>>,
}

impl Batch {
    /// The arguments in the order of the entry point. Packed, sequences without tokens stand before, between and after
    /// the others; padded, there is a column more than the longest sequence needs, where
    /// the model allows it.
    fn arguments(&self, traced: &Traced, layout: Layout, pad: i64) -> Vec<Tensor> {
        let graph = &traced.program.entries[ENTRY];
        let longest = (self.ids.iter().map(Vec::len).max().unwrap() + 1).min(traced.max_length);
        let grid = |rows: &[Vec<i64>], fill: i64| -> Vec<i64> {
            rows.iter().flat_map(|row| row.iter().copied().chain(std::iter::repeat(fill)).take(longest)).collect()
        };
        let shape = [self.ids.len(), longest];
        let tokens = |rows: &[Vec<i64>], fill| match layout {
            Layout::Packed | Layout::Paged(_) => {
                let flat = rows.concat();
                Tensor::ints(DType::I32, &[flat.len()], flat)
            }
            Layout::Padded => Tensor::ints(DType::I32, &shape, grid(rows, fill)),
        };
        let argument = |id| {
            let Op::Arg { name, .. } = &graph.node(id).op else { panic!("no argument") };
            match name.as_str() {
                "input_ids" => tokens(&self.ids, pad),
                "token_type_ids" => tokens(&self.types, 0),
                "attention_mask" => {
                    let ones: Vec<_> = self.ids.iter().map(|row| vec![1; row.len()]).collect();
                    Tensor::ints(DType::Bool, &shape, grid(&ones, 0))
                }
                "offsets" => {
                    let mut offsets = vec![0, 0];
                    for row in &self.ids {
                        let end = offsets.last().unwrap() + row.len() as i64;
                        offsets.extend([end, end]);
                    }
                    Tensor::ints(DType::I32, &[offsets.len()], offsets)
                }
                other => panic!("unknown argument `{other}`"),
            }
        };
        graph.args().into_iter().map(|id| argument(id).unwrap()).collect()
    }

    /// The part of a result that belongs to sequence `i`; `by_token` tells what its outer axes are.
    fn part(&self, i: usize, result: &Tensor, layout: Layout, by_token: bool) -> Vec<f64> {
        let outer = if by_token && layout == Layout::Padded { 2 } else { 1 };
        let row: usize = result.shape()[outer..].iter().product();
        let length = self.ids[i].len();
        let (first, count) = match (layout, by_token) {
            (Layout::Packed | Layout::Paged(_), true) => (self.ids[..i].iter().map(Vec::len).sum(), length),
            (Layout::Packed | Layout::Paged(_), false) => (2 * i + 1, 1),
            (Layout::Padded, true) => (i * result.shape()[1], length),
            (Layout::Padded, false) => (i, 1),
        };
        result.as_floats().unwrap()[first * row..(first + count) * row].to_vec()
    }
}

pub(super) fn load(source: &Source, part: &Part) -> Loaded {
    let checkpoint = Checkpoint::open(source, &OpenOptions::default()).unwrap();
    resolve(checkpoint, &part.wanted, &part.rules, &LoadOptions::default()).unwrap()
}

/// Runs a traced model; `loaded` has the checkpoint of each of its parts.
fn run(traced: &Traced, loaded: &[Loaded], args: &[Tensor]) -> Vec<Tensor> {
    let param = |name: &str| {
        let (part, loaded) = traced.parts.iter().zip(loaded).rev().find(|(part, _)| name.starts_with(&part.prefix))?;
        let name = &name[part.prefix.len()..];
        let shape = &part.wanted.iter().find(|wanted| wanted.name == name)?.shape;
        let bytes = loaded.bytes(name, DType::F64)?.unwrap();
        let values = bytes.chunks_exact(8).map(|chunk| f64::from_le_bytes(chunk.try_into().unwrap())).collect();
        Some(Tensor::floats(DType::F32, shape, values).unwrap())
    };
    let interpreter = Interpreter::new(&traced.program, Mode::Exact).unwrap();
    interpreter.run(ENTRY, args, &param, &mut Default::default()).unwrap()
}

/// Largest difference, relative to the largest expected value: constants of the program are rounded to `f32`, which
/// single values near zero would tell too loudly.
pub(super) fn difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = |values: &mut dyn Iterator<Item = f64>| {
        values.fold(0.0, |a, b: f64| if b.is_nan() { b } else { a.max(b.abs()) })
    };
    largest(&mut found.iter().zip(expected).map(|(f, e)| f - e)) / largest(&mut expected.iter().copied())
}

const LAYOUTS: [Layout; 2] = [Layout::Packed, Layout::Padded];

/// Every family and head, each container and naming: INS-10, INS-11, WLD-03, WLD-04, PST-01.
#[test]
fn families_give_what_transformers_gives() {
    let (mut directories, mut values) = (0, 0);
    for path in fixtures() {
        let golden = json(&path.join("golden.json"));
        let Some(batches) = golden["batches"].as_array() else { continue };
        directories += 1;
        let place = path.file_name().unwrap().to_string_lossy().into_owned();
        let source = Source::folder_at(&path);
        let config = Config::load(&source).unwrap();
        let class = golden["class"].as_str().unwrap();
        let head = Head::ALL.into_iter().find(|head| class.ends_with(head.suffix())).unwrap();
        let stored = Checkpoint::open(&source, &OpenOptions::default()).unwrap();
        let pooler = Family::find(config.model_type()).unwrap().has_pooler(|name| stored.tensor(name).is_some());
        for layout in LAYOUTS {
            let traced = trace(&config, head, &Options { layout, pooler, ..Options::default() }).unwrap();
            let loaded = [load(&source, &traced.parts[0])];
            let graph = &traced.program.entries[ENTRY];
            for batch in batches {
                let sequences = batch.as_array().unwrap();
                let whole = |value: &Value| numbers(value).into_iter().map(|n| n as i64).collect::<Vec<_>>();
                let ids: Vec<Vec<i64>> = sequences.iter().map(|s| whole(&s["input_ids"])).collect();
                let types = sequences.iter().zip(&ids).map(|(s, ids)| match &s["token_type_ids"] {
                    Value::Null => vec![0; ids.len()],
                    types => whole(types),
                });
                let batch = Batch { types: types.collect(), ids };
                let pad = config.value("pad_token_id").as_i64().unwrap_or(0);
                let results = run(&traced, &loaded, &batch.arguments(&traced, layout, pad));
                for (i, sequence) in sequences.iter().enumerate() {
                    let outputs: &Map<String, Value> = sequence["outputs"].as_object().unwrap();
                    assert_eq!(outputs.len(), graph.results().len(), "{place}");
                    for ((name, _), result) in graph.results().iter().zip(&results) {
                        let expected = numbers(&outputs[name]);
                        let by_token = name == "last_hidden_state"
                            || name.ends_with("_logits")
                            || name == "logits" && head != Head::SequenceClassification;
                        let found = batch.part(i, result, layout, by_token);
                        let off = difference(&found, &expected);
                        assert!(off <= TOLERANCE, "{place}, {layout:?}, `{name}` of sequence {i}: off by {off:e}");
                        values += found.len();
                    }
                }
            }
        }
    }
    assert!(directories >= 60 && values > 100_000, "only {directories} fixtures with {values} values were there");
}

/// Attention drops by the field that the family has for it: in training, not where the model is used.
#[test]
fn attention_drops_in_training_alone() {
    for (place, head, field) in [
        ("bert-sequence-classification", Head::SequenceClassification, "attention_probs_dropout_prob"),
        ("roberta-sequence-classification", Head::SequenceClassification, "attention_probs_dropout_prob"),
        ("electra-token-classification", Head::TokenClassification, "attention_probs_dropout_prob"),
        ("albert-sequence-classification", Head::SequenceClassification, "attention_probs_dropout_prob"),
        ("mpnet-masked-lm", Head::MaskedLm, "attention_probs_dropout_prob"),
        ("distilbert-question-answering", Head::QuestionAnswering, "attention_dropout"),
        ("decoders/gpt2", Head::CausalLm, "attn_pdrop"),
        ("decoders/gpt-neox", Head::CausalLm, "attention_dropout"),
        ("decoders/falcon-7b", Head::CausalLm, "attention_dropout"),
        ("decoders/llama", Head::CausalLm, "attention_dropout"),
        ("decoders/qwen2", Head::CausalLm, "attention_dropout"),
    ] {
        let source = Source::folder_at(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(place));
        let mut config = Config::load(&source).unwrap();
        let options = Options { training: Some(Training { smoothing: 0.0 }), ..Options::default() };
        let mut shares = |value: f64, entry: &str| -> Vec<f64> {
            assert!(config.set(&format!("{field}={value}")).unwrap(), "{place} has no `{field}`");
            let traced = trace(&config, head, &options).unwrap();
            let graph = &traced.program.entries[entry];
            let of = |op: &Op| if let Op::PackedAttention { dropout, .. } = op { Some(*dropout) } else { None };
            graph.petgraph().node_weights().filter_map(|node| of(&node.op)).collect()
        };
        for (value, entry, expected) in [(0.25, LOSS_ENTRY, 0.25), (0.25, EVAL_ENTRY, 0.0), (0.0, LOSS_ENTRY, 0.0)] {
            let found = shares(value, entry);
            assert!(!found.is_empty() && found.iter().all(|share| *share == expected), "{place}, {entry}: {found:?}");
        }
    }
}

/// Sentence-transformers directories.
#[test]
fn sentence_stacks_give_what_sentence_transformers_gives() {
    let mut directories = 0;
    for path in fixtures() {
        let golden = json(&path.join("golden.json"));
        let Some(cases) = golden["cases"].as_array().filter(|_| golden["task"] == "sentence-embedding") else {
            continue;
        };
        directories += 1;
        let source = Source::folder_at(&path);
        let config = Config::load(&source).unwrap();
        let stack = sentence::Stack::read(&source).unwrap().unwrap();
        assert_eq!((stack.max_seq_length, stack.do_lower_case), (Some(24), false));
        for layout in LAYOUTS {
            let traced = sentence::trace(&config, &stack, layout).unwrap();
            assert_eq!(stack.max_seq_length, Some(24));
            let load = |part: &Part| load(&Source::folder_at(path.join(&part.folder)), part);
            let loaded: Vec<Loaded> = traced.parts.iter().map(load).collect();
            assert!(loaded.iter().all(|loaded| loaded.report().is_clean()), "{}", path.display());
            let whole = |case: &Value| numbers(&case["ids"]).into_iter().map(|n| n as i64).collect::<Vec<_>>();
            let ids: Vec<Vec<i64>> = cases.iter().map(whole).collect();
            let batch = Batch { types: ids.iter().map(|ids| vec![0; ids.len()]).collect(), ids };
            let results = run(&traced, &loaded, &batch.arguments(&traced, layout, 0));
            for (i, case) in cases.iter().enumerate() {
                let off = difference(&batch.part(i, &results[0], layout, false), &numbers(&case["embedding"]));
                assert!(off <= TOLERANCE, "{}, {layout:?}, case {i}: off by {off:e}", path.display());
            }
        }
    }
    assert!(directories >= 7, "only {directories} fixtures were there");
}

fn config(fields: &str) -> Config {
    crate::config::parse_str(&format!("{{{fields}}}"), Path::new("m/config.json")).unwrap()
}

/// A directory of these files.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    directory
}

/// `modules.json` of these module classes, each in a folder named by its position.
fn modules(classes: &[&str]) -> String {
    let entry = |(i, class): (usize, &&str)| {
        format!(r#"{{"idx": {i}, "name": "{i}", "path": "{i}", "type": "sentence_transformers.models.{class}"}}"#)
    };
    format!("[{}]", classes.iter().enumerate().map(entry).collect::<Vec<_>>().join(", "))
}

#[test]
fn every_module_and_pooling_of_a_stack() {
    let list = modules(&["Transformer", "Pooling", "Dropout", "LayerNorm", "Dense", "Normalize"]);
    let directory = directory(&[
        ("modules.json", &list),
        ("0/sentence_roberta_config.json", r#"{"max_seq_length": null, "do_lower_case": true}"#),
        (
            "1/config.json",
            r#"{"pooling_mode_lasttoken": true, "pooling_mode_weightedmean_tokens": true, "pooling_mode_cls_token": true}"#,
        ),
        ("3/config.json", r#"{"dimension": 32}"#),
        ("4/config.json", r#"{"in_features": 32, "out_features": 5, "bias": false}"#),
    ]);
    let stack = sentence::Stack::read(&Source::folder_at(directory.path())).unwrap().unwrap();
    assert_eq!((stack.transformer.as_str(), stack.max_seq_length, stack.do_lower_case), ("0", None, true));
    use lith_frontend::nn::Pooling::{Cls, LastToken, Mean, WeightedMean};
    assert_eq!(stack.modules[0], sentence::Module::Pooling(vec![Cls, Mean, WeightedMean, LastToken]));
    let config = config(r#""model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1"#);
    for layout in LAYOUTS {
        let traced = sentence::trace(&config, &stack, layout).unwrap();
        let names = |i: usize| traced.parts[i].wanted.iter().map(|w| w.name.as_str()).collect::<Vec<_>>();
        assert_eq!((traced.parts[1].folder.as_str(), names(1)), ("3", vec!["norm.bias", "norm.weight"]));
        assert_eq!((traced.parts[2].prefix.as_str(), names(2)), ("4.", vec!["linear.weight"]));
        assert_eq!((traced.parts[0].folder.as_str(), traced.max_length), ("0", 512));
    }
}

#[test]
fn broken_stacks_name_the_file() {
    let pooled = modules(&["Transformer", "Pooling"]);
    let dense = modules(&["Transformer", "Pooling", "Dense"]);
    let mean = ("1/config.json", r#"{"pooling_mode": "mean"}"#);
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("modules.json", "[")], "modules.json: EOF"),
        (&[("modules.json", "[]")], "modules.json: no modules"),
        (&[("modules.json", &modules(&["Pooling"]))], "the first module is sentence_transformers.models.Pooling"),
        (&[("modules.json", &modules(&["Transformer", "Normalize"]))], "the second module is no Pooling"),
        (&[("modules.json", &modules(&["Transformer", "LSTM"]))], "unknown module `LSTM`"),
        (&[("modules.json", r#"[{"path": "", "type": "mine.Encoder"}]"#)], "`mine.Encoder` needs Python code"),
        (&[("modules.json", &pooled.replace("\"1\", \"type", "\"../x\", \"type"))], "path `../x` leads out"),
        (&[("modules.json", &pooled)], "1/config.json"),
        (&[("modules.json", &pooled), ("1/config.json", r#"{"pooling_mode": "best"}"#)], "unknown pooling_mode `best`"),
        (&[("modules.json", &pooled), ("1/config.json", r#"{"pooling_mode_mean_tokens": false}"#)], "no pooling mode"),
        (&[("modules.json", &dense), mean, ("2/config.json", r#"{"in_features": -1}"#)], "2/config.json"),
        (
            &[
                ("modules.json", &dense),
                mean,
                ("2/config.json", r#"{"in_features": 1, "out_features": 1, "activation_function": "mine.Act"}"#),
            ],
            "unknown activation_function `mine.Act`",
        ),
        (
            &[
                ("modules.json", &dense),
                mean,
                ("2/config.json", r#"{"in_features": 1, "out_features": 1, "module_input_name": "token_embeddings"}"#),
            ],
            "module_input_name `token_embeddings`",
        ),
    ];
    for (files, expected) in cases {
        let directory = directory(files);
        let error = sentence::Stack::read(&Source::folder_at(directory.path())).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}, expected {expected}");
    }
    let none = directory(&[]);
    assert_eq!(sentence::Stack::read(&Source::folder_at(none.path())).unwrap(), None);
    let stack = sentence::Stack {
        transformer: String::new(),
        max_seq_length: None,
        do_lower_case: false,
        modules: vec![
            sentence::Module::Pooling(vec![lith_frontend::nn::Pooling::Mean]),
            sentence::Module::LayerNorm { folder: "2".into(), width: 9 },
        ],
    };
    let error = sentence::trace(&config(r#""model_type": "mpnet""#), &stack, Layout::Packed).unwrap_err().to_string();
    assert!(
        error.starts_with("m/config.json: at `2.norm`: layer_norm: `weight` is f32[9], expected f32[768]"),
        "{error}"
    );
}

/// INS-02: every family has the heads of its kind; an absent one is told with those there are.
#[test]
fn heads() {
    for family in REGISTRY {
        let heads: Vec<Head> = family.heads().collect();
        let encoder: Vec<Head> = Head::ALL.into_iter().filter(|head| *head != Head::CausalLm).collect();
        assert!(heads == [Head::Base, Head::CausalLm] || heads == encoder, "{}: {heads:?}", family.model_type);
        assert!(family.rules.ignorable.is_empty() || family.pooler.is_none(), "sentence::trace replaces ignorables");
    }
    let error = FamilyError::NoHead {
        file: "m/config.json".into(),
        model_type: "x",
        head: Head::MaskedLm,
        heads: "base, token-classification".into(),
    };
    assert_eq!(
        error.to_string(),
        "m/config.json: `x` has no head `masked-lm`; its heads are base, token-classification"
    );
}

#[test]
fn what_does_not_fit_names_path_and_shapes() {
    let small = r#""model_type": "bert", "hidden_size": 30, "num_attention_heads": 4, "num_hidden_layers": 1"#;
    let error = trace(&config(small), Head::TokenClassification, &Options::default()).unwrap_err().to_string();
    assert_eq!(
        error,
        "m/config.json: at `bert.encoder.layer.0.attention`: packed_attention: query f32[tokens, 30] of 4 heads \
         and key f32[tokens, 30] of 4 heads"
    );
}

#[test]
fn fields_out_of_range_are_refused() {
    let cases = [
        (
            r#""model_type": "bert", "num_hidden_layers": 1000000000"#,
            "field `num_hidden_layers`: expected at most 2048",
        ),
        (r#""model_type": "albert", "inner_group_num": 2000"#, "field `inner_group_num`: expected at most 2048 layers"),
        (r#""model_type": "albert", "num_hidden_groups": 0"#, "field `num_hidden_groups`: expected positive"),
        (r#""model_type": "bert", "num_attention_heads": 0"#, "field `num_attention_heads`: expected positive"),
        (r#""model_type": "bert", "hidden_act": "prelu""#, "field `hidden_act`: expected the name of an activation"),
        (r#""model_type": "bert", "position_embedding_type": "relative_key""#, "expected absolute, found relative_key"),
        (r#""model_type": "roberta", "pad_token_id": null"#, "field `pad_token_id`: expected integer"),
        (r#""model_type": "mpnet", "relative_attention_num_buckets": 8"#, "expected at least 32, found 8"),
    ];
    for (fields, expected) in cases {
        let error = trace(&config(fields), Head::Base, &Options::default()).unwrap_err().to_string();
        assert!(error.starts_with("m/config.json: field"), "{error}");
        assert!(error.contains(expected), "{error}");
    }
    let labels = r#""model_type": "bert", "num_labels": 3"#;
    let error = trace(&config(labels), Head::QuestionAnswering, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("expected 2 for question answering, found 3"), "{error}");
}

/// Albert's layers have paths of their own and share their weights.
#[test]
fn shared_layers() {
    let config =
        config(r#""model_type": "albert", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3"#);
    let traced = trace(&config, Head::Base, &Options::default()).unwrap();
    let graph = &traced.program.entries[ENTRY];
    let count = |f: &dyn Fn(&lith_ir::Node) -> bool| graph.petgraph().node_weights().filter(|n| f(n)).count();
    assert_eq!(count(&|n| &*n.path == "encoder.layer.2.attention.query" && n.op.name() == "linear"), 1);
    assert_eq!(count(&|n| matches!(&n.op, Op::Param { name, .. } if name.ends_with("attention.query.weight"))), 1);
}

/// Names that files may have a parameter by, and which parameters a headless file lacks. PST-01
#[test]
fn tied_and_head_parameters() {
    let wanted = |fields: &str| {
        let traced = trace(&config(fields), Head::MaskedLm, &Options::default()).unwrap();
        traced.parts.into_iter().flat_map(|part| part.wanted)
    };
    let find = |fields: &str, name: &str| wanted(fields).find(|wanted| wanted.name == name).unwrap();
    let (decoder, words) = ("cls.predictions.decoder", "bert.embeddings.word_embeddings.weight");
    let bert = r#""model_type": "bert", "num_hidden_layers": 1"#;
    assert_eq!(find(bert, &format!("{decoder}.weight")).tied_to, [words]);
    assert_eq!(find(bert, words).tied_to, [format!("{decoder}.weight")]);
    assert_eq!(find(bert, &format!("{decoder}.bias")).tied_to, ["cls.predictions.bias"]);
    let untied = &format!("{bert}, \"tie_word_embeddings\": false");
    assert!(find(untied, &format!("{decoder}.weight")).tied_to.is_empty());
    assert_eq!(find(untied, &format!("{decoder}.bias")).tied_to, ["cls.predictions.bias"]);
    assert!(wanted(bert).all(|wanted| wanted.head == wanted.name.starts_with("cls.")));
}
