//! Real language models, through the real command, the library and by hand, against figures from Transformers. Ignored
//! unless asked for: they need a folder of models, named in `LITH_TEST_MODELS`.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use lith::compile::{CompileOptions, prepare};
use lith::model::{Model, ModelOptions};
use lith::quantize::Quantization;
use lith_ir::interp::{Interpreter, Mode, Tensor as Exact};
use lith_runtime::artifact::Artifact;
use lith_runtime::model::{OpenOptions, open_pipeline, pipeline};
use lith_runtime::tokenizer::{AutoTokenizer, ChatOptions, Text};
use serde_json::{Map, Value, json};
use support::language::{greedy, load, perplexity, prompt_logits};
use support::*;
use tempfile::TempDir;

fn golden() -> Vec<Value> {
    let golden = read_json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/smollm2.json"));
    let cases = golden["cases"].as_array().unwrap().clone();
    assert_eq!(cases.len(), 8);
    cases
}

fn smollm2() -> PathBuf {
    real_models().join("smollm2")
}

fn gguf() -> PathBuf {
    real_models().join("smollm2-gguf")
}

/// Compiles a model by the library.
fn artifact(model: &Path, activations: Option<&str>) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.lith");
    let model = Model::open(&model.to_string_lossy(), &ModelOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let quantization = Quantization::new(None, None, None, activations).unwrap();
    let options = CompileOptions { quantization, ..CompileOptions::new("float32", "native").unwrap() };
    prepare(model, &options, None).unwrap().write_artifact(&path).unwrap_or_else(|e| panic!("{e}"));
    (folder, path)
}

/// Greedy generation of 48 tokens, answered as ids.
fn greedy_args() -> Map<String, Value> {
    let args = json!({"do_sample": false, "max_new_tokens": 48, "return_tensors": true});
    args.as_object().unwrap().clone()
}

fn input(case: &Value) -> Value {
    case.get("messages").or(case.get("prompt")).unwrap().clone()
}

fn generated(answer: &Value, case: &Value) -> Vec<i32> {
    let all = ids(&answer[0]["generated_token_ids"]);
    let prompt = ids(&case["ids"]);
    assert_eq!(all[..prompt.len()], prompt);
    all[prompt.len()..].to_vec()
}

/// GE-10, CT-02, CT-10, PO-04: every answer, by the executable one at a time, by the library one at a time and all at
/// once; the logits that the first token is chosen by; the conversations as the template writes them.
#[test]
#[ignore = "needs LITH_TEST_MODELS"]
fn smollm2_answers() {
    let cases = golden();
    let folder = tempfile::tempdir().unwrap();
    let executable = folder.path().join("smollm2");
    let output = Command::new(env!("CARGO_BIN_EXE_lith"))
        .arg("compile")
        .args([smollm2().as_os_str(), "-o".as_ref(), executable.as_os_str()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let pipeline = open_pipeline(&executable, 2, None).unwrap();
    let inputs: Vec<Value> = cases.iter().map(input).collect();
    let together = pipeline.call_json(&Value::Array(inputs.clone()), &greedy_args()).unwrap();
    for (i, case) in cases.iter().enumerate() {
        let expected = ids(&case["generated_ids"]);
        let alone = pipeline.call_json(&inputs[i], &greedy_args()).unwrap();
        assert_eq!(generated(&alone, case), expected, "case {i} by the library");
        assert_eq!(alone, together[i], "case {i} among all");
        let text = match &inputs[i] {
            Value::String(text) => text.clone(),
            messages => messages.to_string(),
        };
        let command = ["--json", "--threads", "1", "--do-sample=false", "--max-new-tokens", "48", "--return-tensors"];
        let output = Command::new(&executable).args(command).args(["--", &text]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(printed, alone, "case {i} by the executable");
    }
    drop(pipeline);

    let mut models = [1, 2].map(|threads| load(&executable, threads, 1024));
    let mut worst: f64 = 0.0;
    for (i, case) in cases.iter().enumerate() {
        let prompt = ids(&case["ids"]);
        let [logits, same] = models.each_mut().map(|model| prompt_logits(model, &prompt));
        assert_eq!(logits, same, "case {i}: threads change the result");
        for (id, expected) in ids(&case["top_ids"]).into_iter().zip(flat(&case["top_logits"])) {
            worst = worst.max((f64::from(logits[id as usize]) - expected).abs());
        }
    }
    println!("largest difference of the top logits {worst:.2e}");
    assert!(worst <= 1e-3, "{worst:e}");

    let artifact = Artifact::open(&executable).unwrap();
    let tokenizer = AutoTokenizer::from_assets(&artifact).unwrap();
    for case in cases.iter().filter(|c| c.get("messages").is_some()) {
        let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
        let rendered = tokenizer.apply_chat_template(case["messages"].as_array().unwrap(), &options).unwrap();
        assert_eq!(rendered, case["rendered"].as_str().unwrap());
    }
}

/// Contrastive search of the prompts of [`golden`] against Transformers. (GE-16)
#[test]
#[ignore = "needs LITH_TEST_MODELS"]
fn smollm2_contrastive_search() {
    let (_folder, path) = artifact(&smollm2(), None);
    let pipeline = open_pipeline(&path, 2, None).unwrap();
    let prompts = golden();
    let contrastive = read_json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/smollm2-contrastive.json"));
    let cases = contrastive["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let prompt = &prompts[case["case"].as_u64().unwrap() as usize];
        let mut args = greedy_args();
        args.insert("max_new_tokens".into(), 32.into());
        for option in ["penalty_alpha", "top_k"] {
            args.insert(option.into(), case[option].clone());
        }
        let answer = pipeline.call_json(&input(prompt), &args).unwrap();
        assert_eq!(generated(&answer, prompt), ids(&case["generated_ids"]), "{case}");
    }
}

/// GE-15: the same model at four bits guesses ahead, and so do the prompts themselves; every answer is the one without.
#[test]
#[ignore = "needs LITH_TEST_MODELS"]
fn smollm2_speculation() {
    let (_folder, path) = artifact(&smollm2(), None);
    let (_other, draft) = artifact(&gguf(), Some("int8-all"));
    let options = OpenOptions { threads: 2, draft: Some(draft), ..OpenOptions::default() };
    let drafted = pipeline(Artifact::open(&path).unwrap(), &options).unwrap();
    let plain = open_pipeline(&path, 2, None).unwrap();
    let lookup = json!({"prompt_lookup_num_tokens": 6});
    let few = json!({"num_assistant_tokens": 3, "assistant_confidence_threshold": 0.0});
    let cases = golden();
    let inputs: Value = cases.iter().map(input).collect();
    for (name, pipeline, more) in
        [("a draft", &drafted, json!({})), ("a draft of three tokens", &drafted, few), ("lookup", &plain, lookup)]
    {
        let mut args = greedy_args();
        args.extend(more.as_object().unwrap().clone());
        let answers = pipeline.call_json(&inputs, &args).unwrap();
        for (i, case) in cases.iter().enumerate() {
            assert_eq!(generated(&answers[i], case), ids(&case["generated_ids"]), "case {i} with {name}");
        }
    }
}

/// English text of about 20 kB: this project's own pages.
fn english() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "benches/RESULTS.md"];
    let mut text: String = pages.iter().map(|p| std::fs::read_to_string(root.join(p)).unwrap()).collect();
    let mut end = 20_000.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    assert!(text.len() > 19_000, "{} bytes", text.len());
    text
}

/// LB-15, LB-16, QR-01: weights kept at their four bits against the interpreter on their values; answers and perplexity
/// with activations of 8 bits.
#[test]
#[ignore = "needs LITH_TEST_MODELS"]
fn smollm2_at_four_bits() {
    let cases = golden();
    let (_folder, exact) = artifact(&gguf(), None);
    let (_other, rounded) = artifact(&gguf(), Some("int8"));
    let source = Model::open(&gguf().to_string_lossy(), &ModelOptions::default()).unwrap();
    let interpreter = Interpreter::new(&source.program, Mode::Exact).unwrap();
    let mut model = load(&exact, 2, 2048);
    let mut model8 = load(&rounded, 2, 2048);
    let params: std::collections::BTreeMap<String, Exact> = source
        .program
        .params
        .iter()
        .map(|(name, ty)| {
            let values = source.weights.values(name).unwrap().into_iter().map(f64::from).collect();
            (name.clone(), Exact::floats(ty.dtype, &ty.static_shape().unwrap(), values).unwrap())
        })
        .collect();

    let (mut worst, mut same, mut golden_same): (f64, usize, usize) = (0.0, 0, 0);
    for case in &cases {
        let prompt = ids(&case["ids"]);
        let found = prompt_logits(&mut model, &prompt);
        let wanted = interpreted(&source, &interpreter, &params, &prompt);
        let gap = found.iter().zip(&wanted).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        worst = worst.max(gap);
        let [a, b] = [&mut model, &mut model8].map(|model| greedy(model, &prompt, 48, 2));
        same += usize::from(a == b);
        golden_same += usize::from(a == ids(&case["generated_ids"]));
    }
    println!("logits: largest difference to the interpreter {worst:.2e}");
    println!(
        "answers with 8-bit activations equal in {same} of 8 (those of the unquantized model: {golden_same} of 8)"
    );
    assert!(worst <= 1e-3, "{worst:e}");
    assert!(same >= 6, "{same} of 8");

    let tokenizer = AutoTokenizer::from_assets(&Artifact::open(&exact).unwrap()).unwrap();
    let text = english();
    let tokens = tokenizer.encode(Text::from(text.as_str()), None, &Default::default()).unwrap().into_single();
    let tokens: Vec<i32> = tokens.ids.iter().map(|&id| id as i32).collect();
    let [a, b] = [&mut model, &mut model8].map(|model| perplexity(model, &tokens, 1024));
    println!("perplexity of {} bytes: {a:.4} dequantized, {b:.4} with 8-bit activations", text.len());
    assert!((b / a - 1.0).abs() <= 0.01, "{a} and {b}");
}

/// The logits of a prompt's last token, by the interpreter.
fn interpreted(
    model: &Model,
    interpreter: &Interpreter,
    params: &std::collections::BTreeMap<String, Exact>,
    prompt: &[i32],
) -> Vec<f64> {
    use lith_ir::DType::I32;
    let ints =
        |shape: &[usize], values: &[i32]| Exact::ints(I32, shape, values.iter().map(|&v| v.into()).collect()).unwrap();
    let n = prompt.len() as i32;
    let pages: Vec<i32> = (0..prompt.len().div_ceil(64) as i32).collect();
    let mut states = model
        .program
        .states
        .iter()
        .map(|(name, ty)| {
            let size = |d: &lith_ir::Dim| d.eval(&|_| Some(pages.len() as i64)).unwrap() as usize;
            let shape: Vec<usize> = ty.shape.iter().map(size).collect();
            (name.clone(), Exact::zeros(ty.dtype, &shape).unwrap())
        })
        .collect();
    let args: Vec<Exact> = model.program.entries["forward"]
        .args()
        .into_iter()
        .map(|node| match &model.program.entries["forward"].node(node).op {
            lith_ir::Op::Arg { name, .. } => match name.as_str() {
                "input_ids" => ints(&[prompt.len()], prompt),
                "offsets" => ints(&[2], &[0, n]),
                "past" => ints(&[1], &[0]),
                "pages" => ints(&[1, pages.len()], &pages),
                "outputs" => ints(&[1], &[n - 1]),
                other => panic!("unknown argument `{other}`"),
            },
            other => panic!("{other:?} is no argument"),
        })
        .collect();
    let results = interpreter.run("forward", &args, &|name: &str| params.get(name).cloned(), &mut states).unwrap();
    results[0].as_floats().unwrap().to_vec()
}
