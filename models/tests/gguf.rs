//! GGUF files: every block type, every architecture, every order of rows, and files that lie (LB-15, LB-16, LB-18).
//! The fixtures are made by `tests/oracle/make_gguf.py`.

use std::fs;
use std::path::{Path, PathBuf};

use lith_ir::quant::{QuantMatrix, Scales, Storage};
use lith_models::gguf::{Gguf, GgufError, TensorData, Value, blocks, find};
use lith_models::{Checkpoint, Source};
use serde_json::Value as Json;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/gguf").join(name)
}

fn matrix(data: TensorData<'_>) -> Option<QuantMatrix> {
    match data {
        TensorData::Quantized(matrix) => Some(matrix),
        TensorData::Float(..) => None,
    }
}

/// LB-15, LB-18: the values of random and extreme blocks of every type are those of the `gguf` package, bit for bit, and
/// codes stay as narrow as they are.
#[test]
fn blocks_dequantize_bit_for_bit() {
    let gguf = Gguf::open(&fixture("blocks.gguf")).unwrap();
    let mut seen = 0;
    for of in blocks::all().filter(|of| of.storage().is_some() && of.name != "F32") {
        let tensor = gguf.tensor(of.name).unwrap_or_else(|| panic!("no blocks of {}", of.name));
        assert_eq!(tensor.block_type().id, of.id);
        let expected = gguf.tensor(&format!("{}.f32", of.name)).unwrap();
        assert_eq!(tensor.shape(), expected.shape());
        let bits = |values: Vec<f32>| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(tensor.to_f32().unwrap()), bits(expected.to_f32().unwrap()), "{}", of.name);
        if let Some(matrix) = matrix(tensor.read().unwrap()) {
            matrix.check().unwrap();
            assert_eq!(tensor.storage().unwrap(), Storage::Quantized(matrix.scheme));
            let limit = 1u32 << matrix.scheme.bits;
            assert!(matrix.codes.iter().all(|&code| u32::from(code) < limit), "{}: codes of {limit}", of.name);
            if matches!(matrix.scheme.scales, Scales::F16 | Scales::Super { .. }) {
                let exact = |scale: &f32| half::f16::from_f32(*scale).to_f32() == *scale;
                assert!(matrix.scales.iter().chain(&matrix.mins).all(exact), "{}: scales", of.name);
            }
        }
        seen += 1;
    }
    assert_eq!(seen, 20);
    let unread = gguf.tensor("IQ2_XS").unwrap();
    let error = unread.read().unwrap_err().to_string();
    assert!(error.contains("tensor `IQ2_XS`: block type IQ2_XS is not supported"), "{error}");
}

/// `(file, parameters that are stored as codes)`
const MODELS: [(&str, usize); 11] = [
    ("llama", 6),
    ("mistral", 0),
    ("qwen2", 0),
    ("qwen3", 0),
    ("gemma2", 0),
    ("gemma3", 0),
    ("phi3", 0),
    ("gpt2", 0),
    ("gptneox", 0),
    ("falcon", 4),
    ("starcoder2", 0),
];

/// LB-16, LB-17, LB-18: every parameter of a random model of every architecture comes back from its GGUF file, under the
/// name and in the order of rows that Transformers has, codes included; and there is nothing else in the file.
#[test]
fn parameters_are_those_of_transformers() {
    for (name, quantized) in MODELS {
        let gguf = Gguf::open(&fixture(&format!("{name}.gguf"))).unwrap();
        let checkpoint = Checkpoint::open_file(&fixture(&format!("{name}.safetensors"))).unwrap();
        let mut wanted: Vec<String> = checkpoint.tensors().map(|tensor| tensor.name().to_string()).collect();
        let mut found: Vec<String> = gguf.parameters().collect();
        wanted.sort();
        found.sort();
        assert_eq!(found, wanted, "{name}");
        let mut codes = 0;
        for tensor in checkpoint.tensors() {
            let stored = gguf.tensor(tensor.name()).unwrap();
            assert_eq!(stored.shape(), tensor.shape(), "{name}: {}", tensor.name());
            let (values, expected) = (stored.to_f32().unwrap(), tensor.to_f32().unwrap());
            // Norms with one added lost what the sum could not hold; all others are exact.
            let close = |(a, b): (&f32, &f32)| {
                if name.starts_with("gemma") && tensor.name().ends_with("norm.weight") {
                    (a - b).abs() <= 2f32.powi(-23)
                } else {
                    a == b
                }
            };
            assert!(values.iter().zip(&expected).all(close), "{name}: {}", tensor.name());
            codes += usize::from(matrix(stored.read().unwrap()).is_some());
        }
        assert_eq!(codes, quantized, "{name}: parameters stored as codes");
        assert!(gguf.tensor("lm_head.weight.nothing").is_none());
    }
}

/// What Transformers' configuration says of a field of ours, whose older names it takes but does not write.
fn transformers_field<'a>(config: &'a Json, field: &str) -> &'a Json {
    let rope = &config["rope_parameters"];
    match field {
        "rope_theta" | "rotary_emb_base" => &rope["rope_theta"],
        "partial_rotary_factor" | "rotary_pct" => &rope["partial_rotary_factor"],
        "rope_scaling" => rope,
        other => &config[other],
    }
}

/// Whether every part of `ours` is in `theirs`.
fn says(ours: &Json, theirs: &Json) -> bool {
    match (ours, theirs) {
        (Json::Object(ours), Json::Object(theirs)) => {
            ours.iter().all(|(key, value)| theirs.get(key).is_some_and(|other| says(value, other)))
        }
        (Json::Array(ours), Json::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| says(a, b))
        }
        (Json::Number(a), Json::Number(b)) => a.as_f64() == b.as_f64(),
        (ours, theirs) => ours == theirs,
    }
}

/// LB-17: every field of the configuration is that of the Transformers configuration the file was made from.
#[test]
fn configurations_are_those_of_transformers() {
    for (name, _) in MODELS {
        let gguf = Gguf::open(&fixture(&format!("{name}.gguf"))).unwrap();
        let ours = gguf.config().unwrap();
        let theirs: Json = serde_json::from_slice(&fs::read(fixture(&format!("{name}.json"))).unwrap()).unwrap();
        assert!(ours.len() >= 10, "{name}: {ours:?}");
        for (field, value) in &ours {
            if field == "architectures" || (name, field.as_str()) == ("llama", "rope_scaling") {
                continue;
            }
            let mut other = transformers_field(&theirs, field);
            // Where the size of a head is not given, it follows.
            let share = Json::from(
                theirs["hidden_size"].as_u64().unwrap_or(0) / theirs["num_attention_heads"].as_u64().unwrap_or(1),
            );
            if field == "head_dim" && other.is_null() {
                other = &share;
            }
            assert!(says(value, other), "{name}: {field} is {value}, in Transformers {other}");
        }
        lith_models::Config::from_map(ours, gguf.path()).unwrap();
    }
    // Llama 3's divisors: 1 for the fastest frequency, the factor for the slowest, between them one that is blended.
    let llama = Gguf::open(&fixture("llama.gguf")).unwrap().config().unwrap();
    let divisors: Vec<f64> =
        llama["rope_scaling"]["long_factor"].as_array().unwrap().iter().filter_map(Json::as_f64).collect();
    assert_eq!(llama["rope_scaling"]["short_factor"], llama["rope_scaling"]["long_factor"]);
    assert_eq!(divisors.len(), 3);
    assert!((divisors[2] - 8.0).abs() < 1e-5 && divisors[0] >= 1.0, "{divisors:?}");
}

// ---- files that lie ----

/// A GGUF file in the making.
#[derive(Clone)]
struct Writer {
    version: u32,
    entries: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl Writer {
    fn new() -> Writer {
        Writer { version: 3, entries: Vec::new(), tensors: Vec::new(), data: Vec::new() }
    }

    fn entry(mut self, key: &str, of: u32, value: &[u8]) -> Writer {
        self.entries.push([&string(key)[..], &of.to_le_bytes(), value].concat());
        self
    }

    fn text(self, key: &str, value: &str) -> Writer {
        self.entry(key, 8, &string(value))
    }

    fn size(self, key: &str, value: u32) -> Writer {
        self.entry(key, 4, &value.to_le_bytes())
    }

    fn texts(self, key: &str, values: &[&str]) -> Writer {
        let parts: Vec<u8> = values.iter().flat_map(|value| string(value)).collect();
        self.entry(key, 9, &[&8u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &parts].concat())
    }

    fn tensor(mut self, name: &str, dims: &[u64], of: u32, offset: u64) -> Writer {
        let dims_bytes: Vec<u8> = dims.iter().flat_map(|dim| dim.to_le_bytes()).collect();
        let count = (dims.len() as u32).to_le_bytes();
        self.tensors.push([&string(name)[..], &count, &dims_bytes, &of.to_le_bytes(), &offset.to_le_bytes()].concat());
        self
    }

    fn data(mut self, bytes: usize) -> Writer {
        self.data = vec![0; bytes];
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.entries.len() as u64).to_le_bytes());
        bytes.extend(self.entries.concat());
        bytes.extend(self.tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }

    fn error(&self) -> String {
        open(self.bytes()).unwrap_err().to_string()
    }
}

fn open(bytes: Vec<u8>) -> Result<Gguf, GgufError> {
    Gguf::from_bytes(bytes, Path::new("some.gguf"))
}

/// LB-15, LB-18: each lie gets an error that names the file, and the key or tensor, what was expected and found.
#[test]
fn lies_are_refused() {
    let plain = || Writer::new().size("a", 1).tensor("t", &[4], 0, 0).data(16);
    let shape = open(plain().bytes()).unwrap().tensor("t").unwrap().shape();
    assert_eq!(shape, [4]);
    let (huge, most) = (u64::MAX.to_le_bytes(), (1u64 << 40).to_le_bytes());
    let array = |of: u32, count: &[u8]| [&of.to_le_bytes()[..], count].concat();
    let mut endian = plain().bytes();
    endian[4..8].reverse();
    let mut tensors = plain().bytes();
    tensors[8..16].copy_from_slice(&huge);
    let mut entries = plain().bytes();
    entries[16..24].copy_from_slice(&most);
    for (bytes, expected) in [
        (b"".to_vec(), "truncated"),
        (b"GGML\x03\0\0\0".to_vec(), "expected the magic"),
        (Writer { version: 1, ..plain() }.bytes(), "version 1; expected 2 or 3"),
        (Writer { version: 4, ..plain() }.bytes(), "version 4; expected 2 or 3"),
        (endian, "big-endian"),
        (tensors, "18446744073709551615 tensors"),
        (entries, "1099511627776 metadata entries"),
        (plain().entry("key", 13, &[]).bytes(), "metadata `key`: unknown value type 13"),
        (
            plain().entry("key", 8, &huge).bytes(),
            "metadata `key`: truncated or broken: 18446744073709551615 bytes of a string",
        ),
        (
            plain().entry("key", 9, &array(4, &most)).bytes(),
            "metadata `key`: truncated or broken: 1099511627776 array elements",
        ),
        (
            plain().entry("key", 9, &array(8, &most)).bytes(),
            "metadata `key`: truncated or broken: 1099511627776 array elements",
        ),
        (plain().entry("key", 7, &[2]).bytes(), "metadata `key`: expected a boolean, 0 or 1, found 2"),
        (plain().entry("key", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]).bytes(), "metadata `key`: the string at byte"),
        (plain().size("a", 2).bytes(), "metadata `a`: given twice"),
        (
            plain().size("general.alignment", 24).bytes(),
            "metadata `general.alignment`: expected a power of two, found 24",
        ),
        (plain().size("general.alignment", 0).bytes(), "expected a power of two, found 0"),
        (
            plain().text("general.alignment", "32").bytes(),
            "expected an integer from 0 to 2147483647, found string \"32\"",
        ),
        (plain().size("split.count", 3).bytes(), "metadata `split.count`: one of 3 parts"),
        (plain().tensor("t", &[4], 0, 0).bytes(), "tensor `t`: named twice"),
        (plain().tensor("u", &[4; 5], 0, 0).bytes(), "tensor `u`: 5 dimensions, expected 4"),
        (plain().tensor("u", &[0], 0, 0).bytes(), "tensor `u`: a dimension of 0"),
        (
            plain().tensor("u", &[1 << 40, 1 << 40], 0, 0).bytes(),
            "tensor `u`: shape [1099511627776, 1099511627776] is too large",
        ),
        (plain().tensor("u", &[4], 4, 0).bytes(), "tensor `u`: unknown block type 4"),
        (plain().tensor("u", &[4], 99, 0).bytes(), "tensor `u`: unknown block type 99"),
        (
            plain().tensor("u", &[33], 2, 0).bytes(),
            "tensor `u`: rows of 33 elements are no whole number of Q4_0 blocks of 32",
        ),
        (plain().tensor("u", &[1], 0, 8).bytes(), "tensor `u`: offset 8 is no multiple of the alignment 32"),
        (plain().tensor("u", &[1], 0, 32).bytes(), "tensor `u`: truncated: 4 bytes of F32 [1] at offset 32"),
        (
            plain().tensor("u", &[1], 0, u64::MAX - 31).bytes(),
            "tensor `u`: truncated: 4 bytes of F32 [1] at offset 18446744073709551584",
        ),
        (plain().tensor("u", &[2], 0, 0).bytes(), "overlaps"),
        (plain().data(15).bytes(), "tensor `t`: truncated: 16 bytes of F32 [4] at offset 0"),
    ] {
        let error = open(bytes).map(drop).unwrap_err().to_string();
        assert!(error.starts_with("some.gguf: ") && error.contains(expected), "expected {expected:?}, found {error}");
    }
    let nested = (0..6).fold(array(0, &0u64.to_le_bytes()), |inner, _| [array(9, &1u64.to_le_bytes()), inner].concat());
    assert!(plain().entry("deep", 9, &nested).error().contains("metadata `deep`: arrays nested more than 4 deep"));
}

/// LB-18: a file cut off anywhere is refused, or what is left of it is read, without a panic.
#[test]
fn cut_files_do_no_harm() {
    for name in ["llama.gguf", "tokenizer-spm.gguf"] {
        let whole = fs::read(fixture(name)).unwrap();
        for length in (0..whole.len()).step_by(13) {
            let cut = open(whole[..length].to_vec());
            if let Ok(gguf) = cut {
                assert!(gguf.is_empty(), "{name} has tensors after {length} of {} bytes", whole.len());
            }
        }
        assert!(open(whole).is_ok());
    }
}

/// A description of a model that cannot be.
#[test]
fn broken_descriptions_are_refused() {
    let model = || {
        let sizes = [("block_count", 1), ("context_length", 64), ("embedding_length", 16), ("feed_forward_length", 8)];
        let file = Writer::new().text("general.architecture", "llama").tensor("token_embd.weight", &[16, 3], 0, 0);
        sizes.iter().fold(file.data(192), |file, (key, size)| file.size(&format!("llama.{key}"), *size))
    };
    let heads = |count| model().size("llama.attention.head_count", count);
    let config = |file: Writer| open(file.bytes()).unwrap().config();
    assert_eq!(config(heads(4)).unwrap()["vocab_size"], 3);
    for (file, expected) in [
        (Writer::new(), "metadata `general.architecture`: expected, but it is not there"),
        (Writer::new().text("general.architecture", "rwkv9"), "unknown architecture `rwkv9`; known: llama, "),
        (model(), "metadata `llama.attention.head_count`: expected, but it is not there"),
        (heads(0), "metadata `llama.attention.head_count`: expected a positive integer, found 0"),
        (heads(5), "metadata `llama.attention.key_length`: expected an even size of a head, found 3"),
        (heads(4).size("llama.attention.head_count_kv", 3), "head_count_kv`: expected a divisor of 4 heads, found 3"),
        (
            heads(4).size("llama.attention.value_length", 6),
            "value_length`: expected the 4 elements of keys' heads, found 6",
        ),
        (heads(4).size("llama.expert_count", 8), "expert_count`: mixtures of experts are not supported"),
        (heads(4).text("llama.rope.freq_base", "x"), "rope.freq_base`: expected a finite number, found string \"x\""),
        (
            heads(4).text("llama.rope.scaling.type", "wild"),
            "scaling.type`: expected none, linear, yarn or longrope, found `wild`",
        ),
        (
            heads(4).text("llama.rope.scaling.type", "yarn"),
            "scaling.factor`: expected a positive number, found nothing",
        ),
        (heads(4).size("llama.rope.dimension_count", 9), "dimension_count`: expected an even number up to the 4"),
    ] {
        let error = config(file).unwrap_err().to_string();
        assert!(error.contains(expected), "expected {expected:?}, found {error}");
    }
    let mut layers = heads(4);
    layers.entries.retain(|entry| !entry.windows(11).any(|part| part == b"block_count"));
    let error = config(layers.size("llama.block_count", 1 << 30)).unwrap_err().to_string();
    assert!(error.contains("block_count`: 1073741824 layers, but the file has only 1 tensors"), "{error}");

    // Rows that do not fit the heads.
    let file = heads(4).tensor("blk.0.attn_q.weight", &[16, 6], 0, 192).data(192 + 384);
    let gguf = open(file.bytes()).unwrap();
    let error = gguf.tensor("model.layers.0.self_attn.q_proj.weight").unwrap().read().unwrap_err().to_string();
    assert!(error.contains("tensor `blk.0.attn_q.weight`: expected 16 rows for 4 heads of 4"), "{error}");
}

/// A tokenizer that cannot be.
#[test]
fn broken_tokenizers_are_refused() {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    let kind = |kind: &str| Writer::new().text("tokenizer.ggml.model", kind);
    let gpt2 = |pre: &str| kind("gpt2").text("tokenizer.ggml.pre", pre);
    let merges =
        |merges: &[&str]| gpt2("smollm").texts(TOKENS, &["a", "b", "ab"]).texts("tokenizer.ggml.merges", merges);
    let files = |file: Writer| open(file.bytes()).unwrap().tokenizer_files();
    let names: Vec<String> = files(merges(&["a b"])).unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]);
    for (file, expected) in [
        (Writer::new(), "metadata `tokenizer.ggml.model`: expected, but it is not there"),
        (kind("gpt2"), "metadata `tokenizer.ggml.tokens`: expected, but it is not there"),
        (kind("rwkv").texts(TOKENS, &["a"]), "model`: expected gpt2, llama, t5 or bert, found `rwkv`"),
        (gpt2("odd").texts(TOKENS, &["a"]), "pre`: unknown pre-tokenizer `odd`; known: default, gpt-2"),
        (gpt2("smollm").texts(TOKENS, &["a"]), "merges`: expected, but it is not there"),
        (kind("gpt2").texts(TOKENS, &["a", "a"]), "tokens`: token \"a\" is there twice, as 0 and 1"),
        (kind("gpt2").entry(TOKENS, 9, &[0; 12]), "tokens`: expected an array of strings"),
        (merges(&["ab"]), "merges`: merge 0, \"ab\": expected two pieces"),
        (merges(&["b a"]), "merge 0, \"b a\": its pieces, or what they make, are not in the vocabulary"),
        (merges(&[]).size("tokenizer.ggml.eos_token_id", 3), "eos_token_id`: expected a token below 3, found 3"),
        (kind("llama").texts(TOKENS, &["a"]), "scores`: expected, but it is not there"),
        (
            kind("llama").texts(TOKENS, &["a"]).entry("tokenizer.ggml.scores", 9, &[0; 12]),
            "scores`: expected 1 finite numbers, found 0",
        ),
        (
            kind("llama").texts(TOKENS, &["a"]).entry("tokenizer.ggml.token_type", 9, &[0; 12]),
            "token_type`: expected one for each of 1 tokens, found 0",
        ),
    ] {
        let error = files(file).unwrap_err().to_string();
        assert!(error.contains(expected), "expected {expected:?}, found {error}");
    }
}

/// LB-15: the parts of a split file are one file; one that is missing, or another's, is an error.
#[test]
fn split_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = |part: u32| folder.path().join(format!("model-{part:05}-of-00002.gguf"));
    let split = |no: u32| {
        let file = Writer::new().size("split.no", no).size("split.count", 2).size("split.tensors.count", 2);
        file.text("name", if no == 0 { "first" } else { "second" }).data(16)
    };
    let write = |part: u32, file: Writer| fs::write(path(part), file.bytes()).unwrap();
    write(1, split(0).tensor("a", &[4], 0, 0));
    assert!(Gguf::open(&path(1)).unwrap_err().to_string().contains("model-00002-of-00002.gguf"));
    write(2, split(1).tensor("b", &[4], 0, 0));
    for part in [1, 2] {
        let gguf = Gguf::open(&path(part)).unwrap();
        assert_eq!((gguf.len(), gguf.files().count()), (2, 2));
        assert_eq!(gguf.metadata().find(|(key, _)| *key == "name").unwrap().1, &Value::Text("first".into()));
        assert_eq!(gguf.tensor("b").unwrap().file(), path(2));
    }
    write(2, split(1).tensor("a", &[4], 0, 0));
    assert!(Gguf::open(&path(1)).unwrap_err().to_string().contains("tensor `a`: also in"));
    write(2, split(0).tensor("b", &[4], 0, 0));
    assert!(Gguf::open(&path(1)).unwrap_err().to_string().contains("metadata `split.no`: expected 1, found 0"));
    write(2, split(1));
    assert!(
        Gguf::open(&path(1))
            .unwrap_err()
            .to_string()
            .contains("split.tensors.count`: expected 2 tensors in all parts, found 1")
    );
    let other = folder.path().join("model.gguf");
    fs::copy(path(1), &other).unwrap();
    assert!(Gguf::open(&other).unwrap_err().to_string().contains("its name does not end in -00001-of-00002.gguf"));
    // As the only model of its folder, but not beside others or a configuration.
    fs::remove_file(&other).unwrap();
    write(2, split(1).tensor("b", &[4], 0, 0));
    let source = Source::folder_at(folder.path());
    assert_eq!(find(&source).unwrap(), Some(path(1)));
    fs::write(&other, b"").unwrap();
    let error = find(&source).unwrap_err().to_string();
    assert!(error.contains("several GGUF files; name one of them: model-00001-of-00002.gguf, model.gguf"), "{error}");
    fs::remove_file(path(2)).unwrap();
    fs::remove_file(&other).unwrap();
    assert!(find(&source).unwrap_err().to_string().contains("no model-00002-of-00002.gguf"));
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    assert_eq!(find(&source).unwrap(), None);
}
