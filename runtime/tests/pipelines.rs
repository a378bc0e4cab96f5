//! Pipelines over a model whose outputs are plain arithmetic on the token ids: batching, shapes of results, and bad input.
//! What real models answer is compared with Transformers in the tests of the root package.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lith_runtime::pipelines::{
    Args, Gather, Input, ModelInfo, Output, Pipeline, PipelineError, RunError, Task, TokenBatch, TokenModel,
};
use lith_runtime::tokenizer::{AutoTokenizer, Directory};
use serde_json::{Map, Value, json};

const LABELS: &[&str] = &["O", "B-PER", "I-PER", "B-LOC", "I-LOC"];
const VOCABULARY: usize = 160;
const LIMIT: usize = 64;

/// The tasks of models that read.
fn tasks() -> impl Iterator<Item = Task> {
    Task::all().filter(|task| *task != Task::TextGeneration)
}

/// What the fake model gives back.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    Fails,
    WrongRows,
    NotANumber,
    NoOutput,
}

/// A value in [-4, 4) that depends on one token, its neighbours' sum and a column, as a model's would.
fn value(ids: &[i32], types: &[i32], token: usize, column: usize) -> f32 {
    let sum: i64 = ids.iter().zip(types).map(|(&id, &ty)| i64::from(id) + 7 * i64::from(ty)).sum();
    let x = (i64::from(ids[token]) * 31 + sum * 17 + column as i64 * 101 + token as i64 * 13) % 997;
    (x as f32 / 997.0 - 0.5) * 8.0
}

/// (sequences, tokens) of each call.
type Calls = Arc<Mutex<Vec<(usize, usize)>>>;

struct Fake {
    info: ModelInfo,
    fault: Fault,
    calls: Calls,
}

impl TokenModel for Fake {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn forward(&self, batch: &TokenBatch) -> Result<Vec<Output>, RunError> {
        assert_eq!(batch.input_ids.len(), batch.token_type_ids.len());
        self.calls.lock().unwrap().push((batch.sequences(), batch.tokens()));
        if self.fault == Fault::Fails {
            return Err(RunError::new("out of order"));
        }
        let width = if self.info.task == Task::FillMask { VOCABULARY } else { LABELS.len() };
        let (mut by_token, mut by_sequence) = (Vec::new(), Vec::new());
        for w in batch.offsets.windows(2) {
            let span = w[0] as usize..w[1] as usize;
            let (ids, types) = (&batch.input_ids[span.clone()], &batch.token_type_ids[span]);
            by_sequence.extend((0..width).map(|c| value(ids, types, 0, c)));
            by_token.extend((0..ids.len()).flat_map(|t| (0..width).map(move |c| value(ids, types, t, c))));
        }
        let column = |c: usize| by_token.iter().skip(c).step_by(width).copied().collect::<Vec<f32>>();
        let output =
            |name: &str, shape: &[usize], data: Vec<f32>| Output { name: name.into(), shape: shape.to_vec(), data };
        let (sequences, tokens) = (batch.sequences(), batch.tokens());
        let mut outputs = match self.info.task {
            Task::TextClassification | Task::ZeroShotClassification => {
                vec![output("logits", &[sequences, width], by_sequence)]
            }
            Task::TokenClassification | Task::FillMask => vec![output("logits", &[tokens, width], by_token)],
            Task::FeatureExtraction => vec![output("last_hidden_state", &[tokens, width], by_token)],
            Task::SentenceEmbedding => vec![output("sentence_embedding", &[sequences, width], by_sequence)],
            Task::TextGeneration => unreachable!("has tests of its own"),
            Task::QuestionAnswering => {
                vec![output("start_logits", &[tokens], column(0)), output("end_logits", &[tokens, 1], column(1))]
            }
        };
        match self.fault {
            Fault::None | Fault::Fails => {}
            Fault::WrongRows => outputs[0].shape[0] += 1,
            Fault::NotANumber => outputs[0].data.fill(f32::NAN),
            Fault::NoOutput => outputs.clear(),
        }
        Ok(outputs)
    }
}

fn info(task: Task) -> ModelInfo {
    ModelInfo {
        task,
        model_type: "bert".into(),
        id2label: LABELS.iter().map(|l| l.to_string()).enumerate().collect(),
        label2id: LABELS.iter().map(|l| l.to_string()).zip(0..).collect(),
        problem_type: None,
        max_positions: Some(LIMIT),
        max_seq_length: None,
        do_lower_case: false,
        has_token_types: true,
        vocab_size: VOCABULARY,
        hidden_size: LABELS.len(),
    }
}

fn tokenizer() -> AutoTokenizer {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/bert-base");
    AutoTokenizer::from_assets(&Directory(directory)).unwrap()
}

fn with(info: ModelInfo, fault: Fault) -> (Pipeline, Calls) {
    let calls = Arc::default();
    let task = info.task;
    let model = Fake { info, fault, calls: Arc::clone(&calls) };
    (Pipeline::new(task, Box::new(model), tokenizer(), Args::new(task)).unwrap(), calls)
}

fn pipeline(task: Task) -> Pipeline {
    with(info(task), Fault::None).0
}

fn args(task: Task, values: Value) -> Args {
    Args::from_json(task, values.as_object().unwrap()).unwrap()
}

fn run(task: Task, inputs: Value, values: Value) -> Value {
    pipeline(task).call_json(&inputs, values.as_object().unwrap()).unwrap()
}

/// Inputs of very different lengths for each task, with arguments that leave long ones possible.
fn mixed(task: Task) -> (Vec<Input>, Value) {
    let long = "Anna Berger walked from Paris to Berlin in the cold rain. ".repeat(9);
    let texts = ["A good book.", &long, "a", "", "Müller in Köln: naïve café?", "中文 😀 ok", &long[..200]];
    let text = |t: &&str| Input::Text(t.to_string());
    let all: Vec<Input> = texts.iter().map(text).collect();
    match task {
        Task::TextClassification => (all, json!({ "truncation": true, "top_k": null })),
        Task::TokenClassification => {
            (all, json!({ "aggregation_strategy": "average", "stride": 9, "ignore_labels": [] }))
        }
        Task::TextGeneration => unreachable!("has tests of its own"),
        Task::FeatureExtraction => (all, json!({ "truncation": true })),
        Task::SentenceEmbedding => (all, json!({})),
        Task::FillMask => {
            let masked = texts.iter().map(|t| Input::Text(format!("[MASK] {t} [MASK]")));
            (masked.collect(), json!({ "tokenizer_kwargs": { "truncation": true } }))
        }
        Task::ZeroShotClassification => {
            let full = all.into_iter().filter(|t| *t != Input::Text(String::new())).collect();
            (full, json!({ "candidate_labels": ["rain", "snow", "wind"] }))
        }
        Task::QuestionAnswering => {
            let record = |context: &&str| {
                let record = json!({ "question": "Who is it?", "context": context });
                Input::Record(record.as_object().unwrap().clone())
            };
            (texts.iter().filter(|t| !t.is_empty()).map(record).collect(), json!({ "top_k": 3, "doc_stride": 11 }))
        }
    }
}

/// PF-02, PP-05: together, in calls of any size, or one by one: the same answers in the same order.
#[test]
fn pf_02_batches_equal_single_calls() {
    for task in tasks() {
        let (pipeline, calls) = with(info(task), Fault::None);
        let (inputs, values) = mixed(task);
        let plain = args(task, values.clone());
        let together = pipeline.call(&inputs, &plain).unwrap();
        assert_eq!(together.len(), inputs.len());
        assert_eq!(calls.lock().unwrap().len(), 1, "{task}: small inputs share one call");
        for (input, answer) in inputs.iter().zip(&together) {
            assert_eq!(pipeline.call(std::slice::from_ref(input), &plain).unwrap()[0], *answer, "{task}");
        }
        for size in [1, 2, 5] {
            calls.lock().unwrap().clear();
            let mut sized = plain.clone();
            sized.set("batch_size", json!(size)).unwrap();
            assert_eq!(pipeline.call(&inputs, &sized).unwrap(), together, "{task} in batches of {size}");
            assert!(calls.lock().unwrap().iter().all(|(sequences, _)| *sequences <= size));
        }
        assert_eq!(pipeline.call(&[], &plain).unwrap(), Vec::<Value>::new());
    }
}

/// Many sequences go to the model in calls of bounded size.
#[test]
fn calls_are_bounded_in_tokens() {
    let (pipeline, calls) = with(info(Task::TextClassification), Fault::None);
    let inputs = vec![Input::from("a good book near the old river"); 1000];
    pipeline.call(&inputs, &Args::new(Task::TextClassification)).unwrap();
    let calls = calls.lock().unwrap();
    assert_eq!(calls.iter().map(|(sequences, _)| sequences).sum::<usize>(), 1000);
    assert!(calls.len() > 1 && calls.len() < 20 && calls.iter().all(|(_, tokens)| *tokens <= 4096), "{calls:?}");

    // A large vocabulary makes calls smaller.
    let large = ModelInfo { vocab_size: 1 << 20, ..info(Task::FillMask) };
    let (pipeline, calls) = with(large, Fault::None);
    pipeline.call(&vec![Input::from("a [MASK]"); 20], &Args::new(Task::FillMask)).unwrap();
    assert!(calls.lock().unwrap().iter().all(|(_, tokens)| *tokens <= 16));
}

/// The budget of a call is the caller's; results do not depend on it, nor on the order of short and long inputs.
#[test]
fn batches_by_tokens() {
    for task in tasks() {
        let (pipeline, calls) = with(info(task), Fault::None);
        let (inputs, values) = mixed(task);
        let plain = args(task, values.clone());
        let alone: Vec<Value> =
            inputs.iter().flat_map(|i| pipeline.call(std::slice::from_ref(i), &plain).unwrap()).collect();
        let longest = calls.lock().unwrap().iter().map(|(_, tokens)| *tokens).max().unwrap();
        let mut before = usize::MAX;
        for budget in [1, 40, 100_000] {
            calls.lock().unwrap().clear();
            let mut sized = plain.clone();
            sized.set("batch_tokens", json!(budget)).unwrap();
            assert_eq!(pipeline.call(&inputs, &sized).unwrap(), alone, "{task} in batches of {budget} tokens");
            let calls = calls.lock().unwrap();
            assert!(calls.iter().all(|(n, tokens)| *tokens <= budget || *n == 1 && *tokens <= longest), "{calls:?}");
            assert!(calls.len() < before, "{calls:?}");
            before = calls.len();
        }
        assert_eq!(before, 1);
        let mut none = plain.clone();
        none.set("batch_tokens", json!(0)).unwrap();
        assert!(pipeline.call(&inputs, &none).unwrap_err().to_string().contains("batch_tokens"));
    }
}

/// Inputs that come one by one are answered as alone, in their order, and share calls of the model.
#[test]
fn streams_are_answered_in_order() {
    for task in tasks() {
        let (pipeline, calls) = with(info(task), Fault::None);
        let (inputs, values) = mixed(task);
        let plain = args(task, values.clone());
        let inputs: Vec<Input> = inputs.iter().cycle().take(5 * inputs.len()).cloned().collect();
        let expected = pipeline.call(&inputs, &plain).unwrap();
        for tokens in [1, 60, 100_000] {
            calls.lock().unwrap().clear();
            // Long enough for the whole stream to come.
            let gather = Gather { tokens, wait: Duration::from_secs(60), ..Gather::default() };
            let answers = pipeline.stream(inputs.clone(), plain.clone(), gather).unwrap();
            assert_eq!(answers.collect::<Result<Vec<_>, _>>().unwrap(), expected, "{task} by {tokens} tokens");
            assert_eq!(calls.lock().unwrap().len() == 1, tokens == 100_000, "{task} by {tokens} tokens");
        }
    }
}

/// An input that comes alone is answered before the next one comes; what cannot be answered ends the stream after the
/// answers before it, however the batches fell.
#[test]
fn streams_answer_soon_and_end_at_errors() {
    let task = Task::FeatureExtraction;
    let pipeline = pipeline(task);
    let (send, inputs) = std::sync::mpsc::channel::<Input>();
    let gather = Gather { wait: Duration::from_millis(1), ..Gather::default() };
    let mut answers = pipeline.stream(inputs, Args::new(task), gather).unwrap();
    for text in ["rain", "a good book"] {
        send.send(text.into()).unwrap();
        assert_eq!(answers.next().unwrap().unwrap(), pipeline.call(&[text.into()], &Args::new(task)).unwrap()[0]);
    }
    drop(send);
    assert!(answers.next().is_none());

    for wait in [0, 60_000] {
        let inputs = ["rain", "snow", &"rain ".repeat(100), "wind"].map(Input::from);
        let gather = Gather { wait: Duration::from_millis(wait), ..Gather::default() };
        let mut answers = pipeline.stream(inputs, Args::new(task), gather).unwrap();
        assert!(answers.next().unwrap().is_ok());
        assert!(answers.next().unwrap().is_ok());
        assert!(matches!(answers.next(), Some(Err(PipelineError::TooLong { index: 2, .. }))));
        assert!(answers.next().is_none());
    }
}

/// PP-06, bad input: a text of 100,000 words is cut where the task cuts, else refused with the model's limit; in either
/// case soon.
#[test]
fn pp_06_long_texts() {
    let long = "rain ".repeat(100_000);
    for task in tasks() {
        let (input, values) = match task {
            Task::QuestionAnswering => {
                (json!({ "question": "Who?", "context": long }), json!({ "max_seq_len": 200, "doc_stride": 1 }))
            }
            Task::FillMask => (json!(format!("[MASK] {long}")), json!({})),
            Task::ZeroShotClassification => (json!(long), json!({ "candidate_labels": ["a"] })),
            _ => (json!(long), json!({})),
        };
        let start = Instant::now();
        let result = pipeline(task).call_json(&input, values.as_object().unwrap());
        assert!(start.elapsed() < Duration::from_secs(60), "{task}: {:?}", start.elapsed());
        match task {
            Task::TokenClassification | Task::SentenceEmbedding | Task::ZeroShotClassification => {
                result.unwrap();
            }
            _ => {
                let error = result.unwrap_err();
                assert!(error.is_usage() && matches!(error, PipelineError::TooLong { limit: LIMIT, .. }), "{error}");
                assert!(error.to_string().contains("64"), "{error}");
            }
        }
    }
}

/// PO-01: shapes of results.
#[test]
fn po_01_text_classification() {
    let task = Task::TextClassification;
    let one = run(task, json!("a"), json!({}));
    let all = run(task, json!("a"), json!({ "top_k": null }));
    let entries = all.as_array().unwrap();
    assert_eq!(one, json!([entries[0]]));
    assert_eq!(run(task, json!(["a", "a"]), json!({})), json!([entries[0], entries[0]]));
    assert_eq!(run(task, json!(["a"]), json!({ "top_k": 2 })), json!([[entries[0], entries[1]]]));
    assert_eq!(run(task, json!("a"), json!({ "return_all_scores": true })), all);
    assert_eq!(run(task, json!({ "text": "a" }), json!({})), entries[0]);
    assert_eq!(run(task, json!([]), json!({})), json!([]));
    assert_eq!(entries.len(), LABELS.len());
    let scores: Vec<f64> = entries.iter().map(|e| e["score"].as_f64().unwrap()).collect();
    assert!(scores.windows(2).all(|w| w[0] >= w[1]) && (scores.iter().sum::<f64>() - 1.0).abs() < 1e-6);
    assert_eq!(entries[0].as_object().unwrap().keys().collect::<Vec<_>>(), ["label", "score"]);

    // The model's kind decides what becomes of logits; an argument decides over it.
    for (problem, function) in
        [("regression", "none"), ("multi_label_classification", "sigmoid"), ("single_label_classification", "softmax")]
    {
        let (special, _) = with(ModelInfo { problem_type: Some(problem.into()), ..info(task) }, Fault::None);
        let top = json!({ "top_k": null });
        let by_kind = special.call_json(&json!("a"), top.as_object().unwrap()).unwrap();
        assert_eq!(
            by_kind,
            run(task, json!("a"), json!({ "top_k": null, "function_to_apply": function })),
            "{problem}"
        );
    }
    // A second text changes the token types, and with them the scores.
    let pair = run(task, json!({ "text": "a", "text_pair": "a" }), json!({}));
    assert_ne!(pair, run(task, json!({ "text": "a [SEP] a" }), json!({})));
}

/// PO-02: entities without aggregation carry their place, groups do not.
#[test]
fn po_02_token_classification() {
    let task = Task::TokenClassification;
    let tokens = run(task, json!("rain snow"), json!({ "ignore_labels": [] }));
    let keys = |v: &Value| v[0].as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(keys(&tokens), "entity score index word start end");
    let groups = run(task, json!("rain snow"), json!({ "ignore_labels": [], "aggregation_strategy": "simple" }));
    assert_eq!(keys(&groups), "entity_group score word start end");
    assert_eq!(run(task, json!("rain snow"), json!({ "ignore_labels": [], "grouped_entities": true })), groups);
    let words = run(task, json!(["rain", "snow"]), json!({ "ignore_labels": [], "is_split_into_words": true }));
    assert_eq!(words, json!([tokens]));
    let apart = run(
        task,
        json!(["rain", "snow"]),
        json!({ "ignore_labels": [], "is_split_into_words": true, "delimiter": "--" }),
    );
    let last = |v: &Value| v.as_array().unwrap().last().unwrap()["end"].as_u64().unwrap();
    assert_eq!((last(&tokens), last(&apart[0])), (9, 10));
    for word in tokens.as_array().unwrap() {
        let (start, end) = (word["start"].as_u64().unwrap() as usize, word["end"].as_u64().unwrap() as usize);
        assert_eq!(word["word"].as_str().unwrap().trim_start_matches('#'), &"rain snow"[start..end]);
    }
}

/// The embedding is the model's row; `similarity` gives the matrix of the inputs.
#[test]
fn sentence_embeddings() {
    let task = Task::SentenceEmbedding;
    let vectors = run(task, json!(["rain", "snow", "rain"]), json!({}));
    assert_eq!(vectors[0].as_array().unwrap().len(), LABELS.len());
    assert_eq!(vectors[0], vectors[2]);
    let rows = run(task, json!(["rain", "snow", "rain"]), json!({ "similarity": true }));
    assert_eq!(rows[0][1], rows[1][0]);
    assert!((rows[0][2].as_f64().unwrap() - 1.0).abs() < 1e-6);
    // Texts are cut to what the directory says.
    let (short, calls) = with(ModelInfo { max_seq_length: Some(5), ..info(task) }, Fault::None);
    short.call(&[Input::from("a b c d e f g")], &Args::new(task)).unwrap();
    assert_eq!(calls.lock().unwrap()[..], [(1, 5)]);
}

/// Bad input and wrong usage are the caller's; a failing model is not.
#[test]
fn errors_name_the_cause() {
    let none = Map::new();
    let usage = |task: Task, input: Value, values: Value, found: &str| {
        let error = pipeline(task).call_json(&input, values.as_object().unwrap()).unwrap_err();
        assert!(error.is_usage(), "{error}");
        assert!(error.to_string().contains(found), "{error}");
    };
    usage(Task::TextClassification, json!(["a", ["b"]]), json!({}), "input 1");
    usage(Task::TextClassification, json!({ "txt": "a" }), json!({}), "\"txt\"");
    usage(Task::TextClassification, json!({ "text_pair": "a" }), json!({}), "\"text\" is missing");
    usage(Task::TextClassification, json!(3), json!({}), "expected a text");
    usage(
        Task::TextClassification,
        json!("a b c"),
        json!({ "truncation": "only_second", "max_length": 3 }),
        "needs a pair",
    );
    usage(Task::FillMask, json!("no mask"), json!({}), "no mask_token ([MASK])");
    usage(Task::FillMask, json!("a [MASK]"), json!({ "top_k": 0 }), "top_k");
    usage(Task::FillMask, json!("a [MASK]"), json!({ "targets": [""] }), "targets");
    usage(Task::QuestionAnswering, json!("a"), json!({}), "question");
    usage(Task::QuestionAnswering, json!({ "question": "a", "context": "" }), json!({}), "\"context\" is empty");
    usage(Task::QuestionAnswering, json!({ "question": ["a", "b"], "context": ["c"] }), json!({}), "2 questions");
    usage(Task::ZeroShotClassification, json!("a"), json!({}), "candidate_labels");
    usage(
        Task::ZeroShotClassification,
        json!("a"),
        json!({ "candidate_labels": "a", "hypothesis_template": "b" }),
        "hypothesis_template",
    );
    usage(Task::TokenClassification, json!("a"), json!({ "stride": 3 }), "aggregation_strategy");
    usage(Task::TokenClassification, json!("a"), json!({ "unknown": 3 }), "ignore_labels");
    usage(Task::SentenceEmbedding, json!("a"), json!({ "batch_size": 0 }), "batch_size");

    // An id beyond the model's table never reaches the model.
    let (small, calls) = with(ModelInfo { vocab_size: 10, ..info(Task::FeatureExtraction) }, Fault::None);
    let error = small.call_json(&json!("book"), &none).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("vocabulary of 10"), "{error}");
    assert!(calls.lock().unwrap().is_empty());

    for fault in [Fault::Fails, Fault::WrongRows, Fault::NotANumber, Fault::NoOutput] {
        for task in tasks() {
            let (inputs, values) = mixed(task);
            let error = with(info(task), fault).0.call(&inputs, &args(task, values)).unwrap_err();
            assert!(!error.is_usage(), "{task}: {error}");
        }
    }
}

/// TR-01: names and aliases of tasks; a model serves only the task it was compiled for.
#[test]
fn tr_01_tasks() {
    for task in tasks() {
        assert_eq!(task.name().parse::<Task>().unwrap(), task);
        assert_eq!(serde_json::to_value(task).unwrap(), json!(task.name()));
    }
    assert_eq!("sentiment-analysis".parse::<Task>().unwrap(), Task::TextClassification);
    assert_eq!("ner".parse::<Task>().unwrap(), Task::TokenClassification);
    let error = "text-to-tea".parse::<Task>().unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("question-answering"), "{error}");

    let model = |task| Box::new(Fake { info: info(task), fault: Fault::None, calls: Arc::default() });
    let make = |task, compiled| Pipeline::new(task, model(compiled), tokenizer(), Args::new(task));
    assert!(make(Task::ZeroShotClassification, Task::TextClassification).is_ok());
    assert!(make(Task::FillMask, Task::TextClassification).unwrap_err().is_usage());
    let mut bare = tokenizer();
    bare.set_special_token("mask_token", None).unwrap();
    let task = Task::FillMask;
    assert!(Pipeline::new(task, model(task), bare, Args::new(task)).unwrap_err().to_string().contains("mask_token"));
}

/// PI-01: arguments given at construction hold until a call overrides them. PI-04: the parts are readable.
#[test]
fn pi_01_defaults() {
    let task = Task::TextClassification;
    let model = Box::new(Fake { info: info(task), fault: Fault::None, calls: Arc::default() });
    let pipeline = Pipeline::new(task, model, tokenizer(), args(task, json!({ "top_k": 2 }))).unwrap();
    let labels =
        |values: Value| pipeline.call_json(&json!("a"), values.as_object().unwrap()).unwrap().as_array().unwrap().len();
    assert_eq!((labels(json!({})), labels(json!({ "top_k": 4 }))), (2, 4));
    assert_eq!((pipeline.task(), pipeline.info().model_type.as_str()), (task, "bert"));
    // The tokenizer promises no more than the model takes.
    assert_eq!(pipeline.tokenizer().model_max_length, Some(LIMIT));
}

/// PI-07: one pipeline serves several threads.
#[test]
fn pi_07_threads() {
    let pipeline = pipeline(Task::TextClassification);
    let texts: Vec<String> = (0..40).map(|i| "rain ".repeat(i + 1)).collect();
    let none = Args::new(Task::TextClassification);
    let alone: Vec<Value> =
        texts.iter().map(|t| pipeline.call(&[Input::Text(t.clone())], &none).unwrap().remove(0)).collect();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for (text, expected) in texts.iter().zip(&alone) {
                    assert_eq!(pipeline.call(&[Input::Text(text.clone())], &none).unwrap()[0], *expected);
                }
            });
        }
    });
}

/// What the compiler stores is what the runtime reads; fields that a later compiler adds may be absent.
#[test]
fn model_info_round_trips() {
    for task in tasks() {
        let stored = serde_json::to_string(&info(task)).unwrap();
        assert_eq!(serde_json::from_str::<ModelInfo>(&stored).unwrap(), info(task));
    }
    let least = r#"{"task":"fill-mask","model_type":"bert","has_token_types":false,"vocab_size":3,"hidden_size":2}"#;
    assert_eq!(serde_json::from_str::<ModelInfo>(least).unwrap().label(4), "LABEL_4");
}
