//! Configurations: rows CFG-* and TR-02 of the surface specification.

use std::path::Path;

use lith_models::config::{Config, ConfigError, Head, ProblemType, parse_str, table};
use lith_models::{DType, Source};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn config(value: Value) -> Result<Config, ConfigError> {
    parse_str(&value.to_string(), Path::new("m/config.json"))
}

fn good(value: Value) -> Config {
    config(value).unwrap()
}

fn message(result: Result<Config, ConfigError>) -> String {
    result.expect_err("must be refused").to_string()
}

/// CFG-12: an empty config of each type has the defaults that Transformers has.
#[test]
fn cfg_12_defaults_of_every_type() {
    let text = include_str!("data/defaults.json");
    let expected: Map<String, Value> = serde_json::from_str(text).unwrap();
    let types: Vec<_> = table::TYPES.iter().map(|row| row.name).collect();
    assert_eq!(types, expected.keys().collect::<Vec<_>>());
    for (model_type, fields) in &expected {
        let config = good(json!({"model_type": model_type}));
        for (name, value) in fields.as_object().unwrap() {
            assert_eq!(config.value(name), *value, "{model_type}: {name}");
            assert!(
                table::ModelType::find(model_type).unwrap().field(name).is_some(),
                "{model_type}: {name} has no row"
            );
        }
        assert_eq!(config.num_labels(), 2);
    }
}

/// CFG-13
#[test]
fn cfg_13_aliases_read_and_write_the_same_field() {
    let config = good(json!({"model_type": "distilbert", "dim": 64, "n_layers": 3, "num_attention_heads": 4}));
    assert_eq!(config.size("hidden_size").unwrap(), 64);
    assert_eq!(config.size("num_hidden_layers").unwrap(), 3);
    assert_eq!(config.size("n_heads").unwrap(), 4);
    assert_eq!(config.size("intermediate_size").unwrap(), 3072);
    assert!(config.to_json().contains("\"n_heads\": 4"));
}

/// CFG-02
#[test]
fn cfg_02_missing_and_broken_files() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::folder_at(folder.path());
    let text = message(Config::load(&source));
    assert!(text.contains("config.json") && text.contains(folder.path().to_str().unwrap()), "{text}");
    std::fs::write(folder.path().join("adapter_config.json"), "{}").unwrap();
    assert!(message(Config::load(&source)).contains("adapter"));
    for broken in ["", "{", "[1]", "{\"model_type\": \"bert\"} x", "\u{feff}{}", "null"] {
        std::fs::write(folder.path().join("config.json"), broken).unwrap();
        let text = message(Config::load(&source));
        assert!(text.contains("config.json"), "{broken:?}: {text}");
    }
    std::fs::write(folder.path().join("config.json"), b"\xff\xfe{}").unwrap();
    assert!(message(Config::load(&source)).contains("not UTF-8"));
    let deep = format!("{{\"model_type\":\"bert\",\"x\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(message(parse_str(&deep, Path::new("deep.json"))).contains("deep.json"));
}

/// CFG-03
#[test]
fn cfg_03_model_type() {
    assert!(message(config(json!({"hidden_size": 8}))).contains("no `model_type`"));
    let text = message(config(json!({"model_type": "mystery"})));
    assert!(text.contains("`mystery`") && text.contains("distilbert") && text.contains("m/config.json"), "{text}");
    assert!(message(config(json!({"model_type": 3}))).contains("expected string, found integer 3"));
}

/// CFG-06
#[test]
fn cfg_06_remote_code_is_refused_unless_the_architecture_is_ours() {
    let map = json!({"AutoModel": "modeling_x.XModel"});
    assert!(message(config(json!({"model_type": "x", "auto_map": map}))).contains("Python code"));
    assert!(message(config(json!({"auto_map": map}))).contains("Python code"));
    let foreign = json!({"model_type": "bert", "auto_map": map, "architectures": ["JinaBertForMaskedLM"]});
    assert!(message(config(foreign)).contains("`JinaBertForMaskedLM` needs Python code"));
    good(json!({"model_type": "bert", "auto_map": map, "architectures": ["BertForMaskedLM"]}));
    good(json!({"model_type": "bert", "auto_map": null, "architectures": ["JinaBertForMaskedLM"]}));
}

/// CFG-11
#[test]
fn cfg_11_overrides() {
    let mut config = good(json!({"model_type": "distilbert"}));
    assert!(config.set("num_hidden_layers=2").unwrap());
    assert!(config.set("activation=relu").unwrap());
    assert!(config.set("dropout=0").unwrap());
    assert!(!config.set("no_such_field=1").unwrap());
    assert_eq!((config.size("n_layers").unwrap(), config.text("hidden_act").unwrap().as_str()), (2, "relu"));
    assert_eq!(config.float("dropout").unwrap(), 0.0);
    let before = config.clone();
    assert!(config.set("n_layers=two").unwrap_err().to_string().contains("expected integer, found string \"two\""));
    assert!(config.set("n_layers").unwrap_err().to_string().contains("key=value"));
    assert_eq!(config, before, "a refused override changes nothing");

    let mut config = good(json!({"model_type": "bert", "id2label": {"0": "no", "1": "yes"}}));
    config.set("num_labels=2").unwrap();
    assert_eq!(config.labels().name(1), Some("yes"), "the same number keeps the names");
    config.set("num_labels=3").unwrap();
    assert_eq!(config.labels().iter().collect::<Vec<_>>(), [(0, "LABEL_0"), (1, "LABEL_1"), (2, "LABEL_2")]);
}

/// CFG-14
#[test]
fn cfg_14_labels() {
    let labels = good(json!({"model_type": "bert"})).labels().clone();
    assert_eq!(labels.iter().collect::<Vec<_>>(), [(0, "LABEL_0"), (1, "LABEL_1")]);
    assert_eq!(labels.id("LABEL_1"), Some(1));
    let config = good(json!({"model_type": "bert", "id2label": {"1": "b", "0": "a", "10": "k"}}));
    assert_eq!(config.labels().iter().collect::<Vec<_>>(), [(0, "a"), (1, "b"), (10, "k")]);
    assert_eq!(config.labels().id("k"), Some(10), "label2id follows where it is not given");
    assert_eq!(good(json!({"model_type": "bert", "num_labels": 5})).num_labels(), 5);
    let both = good(json!({"model_type": "bert", "num_labels": 5, "id2label": {"0": "a"}}));
    assert_eq!((both.num_labels(), both.warnings().len()), (1, 1));
    for bad in [json!({"x": "a"}), json!({"-1": "a"}), json!({"0": 1}), json!(["a"])] {
        assert!(message(config_with("id2label", bad)).contains("id2label"));
    }
    let ids = self::config(json!({"model_type": "bert", "id2label": {"0": "a"}, "label2id": {"a": "zero"}}));
    assert!(message(ids).contains("label2id.a"));
    assert!(message(config_with("num_labels", json!(1u64 << 40))).contains("num_labels"));
}

fn config_with(key: &str, value: Value) -> Result<Config, ConfigError> {
    let mut map = Map::new();
    map.insert("model_type".into(), "bert".into());
    map.insert(key.into(), value);
    Config::from_map(map, Path::new("m/config.json"))
}

/// CFG-15
#[test]
fn cfg_15_problem_type() {
    let with =
        |kind: &str, labels: usize| config(json!({"model_type": "bert", "problem_type": kind, "num_labels": labels}));
    assert_eq!(with("regression", 1).unwrap().problem_type(), Some(ProblemType::Regression));
    let multi = with("multi_label_classification", 4).unwrap();
    assert_eq!(multi.problem_type(), Some(ProblemType::MultiLabelClassification));
    let single = with("single_label_classification", 2).unwrap();
    assert_eq!(single.problem_type(), Some(ProblemType::SingleLabelClassification));
    assert!(message(with("single_label_classification", 1)).contains("problem_type"));
    assert!(message(with("guess", 2)).contains("guess"));
    assert_eq!(good(json!({"model_type": "bert", "problem_type": null})).problem_type(), None);
}

/// CFG-16, CFG-17
#[test]
fn cfg_17_dtype_forms() {
    for (text, dtype) in [
        ("float16", DType::F16),
        ("torch.bfloat16", DType::Bf16),
        ("float32", DType::F32),
        ("torch.float64", DType::F64),
    ] {
        for key in ["dtype", "torch_dtype"] {
            assert_eq!(config_with(key, text.into()).unwrap().dtype().unwrap(), Some(dtype), "{key} {text}");
        }
    }
    let both = good(json!({"model_type": "bert", "torch_dtype": "float16", "dtype": "bfloat16"}));
    assert_eq!(both.dtype().unwrap(), Some(DType::Bf16));
    assert_eq!(config_with("dtype", "auto".into()).unwrap().dtype().unwrap(), None);
    assert_eq!(good(json!({"model_type": "bert"})).dtype().unwrap(), None);
    assert!(message(config_with("dtype", "int7".into())).contains("int7"));
}

/// CFG-18, CFG-24
#[test]
fn cfg_24_saving_writes_sorted_differences_and_reads_back_equal() {
    let text = r#"{"zebra": {"b": 1, "a": [2.5, null]}, "model_type": "bert", "vocab_size": 30522, "hidden_size": 64,
        "layer_norm_eps": 1e-5, "pad_token_id": null, "id2label": {"0": "x"}, "max_length": 40, "torch_dtype": "float16"}"#;
    let config = parse_str(text, Path::new("a.json")).unwrap();
    let saved = config.to_json();
    let expected = r#"{
  "dtype": "float16",
  "hidden_size": 64,
  "id2label": {
    "0": "x"
  },
  "label2id": {
    "x": 0
  },
  "layer_norm_eps": 0.00001,
  "model_type": "bert",
  "pad_token_id": null,
  "zebra": {
    "a": [
      2.5,
      null
    ],
    "b": 1
  }
}
"#;
    assert_eq!(saved, expected);
    let again = parse_str(&saved, Path::new("b.json")).unwrap();
    assert_eq!(again.to_json(), saved);
    for name in ["hidden_size", "layer_norm_eps", "pad_token_id", "zebra", "vocab_size"] {
        assert_eq!(again.value(name), config.value(name), "{name}");
    }
    assert_eq!(again.labels(), config.labels());
    for row in table::TYPES {
        let config = Config::of_type(row.name).unwrap();
        assert_eq!(config.to_json(), format!("{{\n  \"model_type\": \"{}\"\n}}\n", row.name));
    }
}

/// CFG-19
#[test]
fn cfg_19_generation_fields_are_set_apart() {
    let config = good(json!({"model_type": "bert", "max_length": 40, "num_beams": 4, "hidden_size": 8}));
    assert_eq!(config.generation().len(), 2);
    assert_eq!(config.generation()["num_beams"], 4);
    assert_eq!(config.value("max_length"), Value::Null);
    assert!(!config.to_json().contains("num_beams"));
}

/// CFG-23
#[test]
fn cfg_23_wrong_types_name_field_expected_and_found() {
    for (key, value, parts) in [
        ("hidden_size", json!("768"), ["integer", "string \"768\""]),
        ("hidden_size", json!(7.5), ["integer", "number 7.5"]),
        ("hidden_size", json!(null), ["integer", "null"]),
        ("layer_norm_eps", json!([1]), ["number", "a list"]),
        ("hidden_act", json!(1), ["string", "integer 1"]),
        ("is_decoder", json!("no"), ["boolean", "string \"no\""]),
        ("architectures", json!("BertModel"), ["list of strings", "string \"BertModel\""]),
        ("eos_token_id", json!(["a"]), ["integer or list", "a list"]),
        ("auto_map", json!(1), ["object", "integer 1"]),
    ] {
        let text = message(config_with(key, value));
        assert!(
            text.contains(&format!("m/config.json: field `{key}`")) && parts.iter().all(|part| text.contains(part)),
            "{text}"
        );
    }
    let config = config_with("layer_norm_eps", json!({"__float__": "Infinity"})).unwrap();
    assert_eq!(config.float("layer_norm_eps").unwrap(), f64::INFINITY);
    for size in [json!(-1), json!(1u64 << 31), json!(u64::MAX)] {
        let config = config_with("hidden_size", size).unwrap();
        assert!(config.size("hidden_size").unwrap_err().to_string().contains("hidden_size"));
    }
    assert!(config_with("hidden_size", json!(0)).unwrap().positive("hidden_size").is_err());
    assert_eq!(good(json!({"model_type": "bert"})).optional_float("classifier_dropout").unwrap(), None);
    assert!(good(json!({"model_type": "bert"})).flag("tie_word_embeddings").unwrap());
}

/// CFG-25
#[test]
fn cfg_25_token_ids_outside_the_vocabulary_warn() {
    let config = good(
        json!({"model_type": "bert", "vocab_size": 10, "pad_token_id": 10, "eos_token_id": [1, -1], "bos_token_id": 9}),
    );
    assert_eq!(config.warnings().len(), 2, "{:?}", config.warnings());
}

/// TR-02
#[test]
fn tr_02_head_and_task_follow_from_the_architecture() {
    for (model_type, architecture, head, task) in [
        ("bert", "BertForMaskedLM", Head::MaskedLm, "fill-mask"),
        ("xlm-roberta", "XLMRobertaForTokenClassification", Head::TokenClassification, "token-classification"),
        ("distilbert", "DistilBertForSequenceClassification", Head::SequenceClassification, "text-classification"),
        ("albert", "AlbertForQuestionAnswering", Head::QuestionAnswering, "question-answering"),
        ("mpnet", "MPNetModel", Head::Base, "feature-extraction"),
    ] {
        let config = good(json!({"model_type": model_type, "architectures": [architecture]}));
        assert_eq!(config.head(), Some(head));
        assert_eq!(head.task(), task);
        assert_eq!(Head::for_task(task), Some(head));
        assert_eq!(head.to_string().parse(), Ok(head));
    }
    assert_eq!(good(json!({"model_type": "bert"})).head(), None);
    assert_eq!(good(json!({"model_type": "bert", "architectures": ["BertForNextSentencePrediction"]})).head(), None);
}

/// Every configuration among the fixtures is read, and survives saving.
#[test]
fn fixtures_are_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let mut count = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path().join("config.json");
        if path.is_file() {
            let config = Config::read(&path).unwrap();
            assert_eq!(parse_str(&config.to_json(), &path).unwrap(), config, "{}", path.display());
            assert!(
                config.head().is_some() || config.architectures().iter().all(|name| name.contains("ForPreTraining"))
            );
            count += 1;
        }
    }
    assert!(count > 40, "{count} configurations");
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z.]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z0-9]{0,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever a config holds, it is read or refused; what is read can be saved and read again.
    #[test]
    fn any_fields_are_read_or_refused(
        model in 0..table::TYPES.len(),
        fields in prop::collection::vec((0..24usize, json_value()), 0..6),
    ) {
        let row = &table::TYPES[model];
        let mut map = Map::new();
        map.insert("model_type".into(), row.name.into());
        for (index, value) in fields {
            let field = row.all_fields().nth(index).map_or("other", |field| field.name);
            map.insert(field.into(), value);
        }
        if let Ok(config) = Config::from_map(map, Path::new("p.json")) {
            let saved = config.to_json();
            prop_assert_eq!(parse_str(&saved, Path::new("p.json")).unwrap().to_json(), saved);
        }
    }

    /// Any text is read or refused.
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*") {
        let _ = parse_str(&text, Path::new("p.json"));
    }
}
