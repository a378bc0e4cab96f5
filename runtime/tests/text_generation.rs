//! Text generation as a pipeline over a model whose next token is arithmetic on the last one: forms of inputs and
//! results, defaults, streams, conversations, and bad input. What real models write is tested in the root package.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use lith_runtime::chat::ChatError;
use lith_runtime::generation::{Batch, Cancel, ForwardError, GenerationConfig, LanguageModel};
use lith_runtime::pipelines::{Args, Input, ModelInfo, Pipeline, PipelineError, Task};
use lith_runtime::tensor::Tensor;
use lith_runtime::tokenizer::{AutoTokenizer, ChatOptions, EncodeOptions, TokenizerError};
use serde_json::{Map, Value, json};

const LIMIT: usize = 64;
const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";

/// The token after `id`; never a special one.
fn after(id: i32, vocab: usize) -> usize {
    5 + (id as usize * 7 + 3) % (vocab - 5)
}

struct Arithmetic {
    vocab: usize,
    pages: usize,
    /// Sequences of each call.
    calls: Arc<Mutex<Vec<usize>>>,
}

impl LanguageModel for Arithmetic {
    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn max_positions(&self) -> Option<usize> {
        Some(LIMIT)
    }

    fn page_tokens(&self) -> usize {
        8
    }

    fn pages(&self) -> usize {
        self.pages
    }

    fn forward(&mut self, batch: &Batch) -> Result<Tensor, ForwardError> {
        self.calls.lock().unwrap().push(batch.sequences());
        let mut logits = vec![0.0f32; batch.outputs.len() * self.vocab];
        for (row, &at) in logits.chunks_exact_mut(self.vocab).zip(&batch.outputs) {
            row[after(batch.ids[at as usize], self.vocab)] = 9.0;
        }
        let mut tensor = Tensor::zeros(lith_ir::DType::F32, vec![batch.outputs.len(), self.vocab]).unwrap();
        tensor.bytes_mut().copy_from_slice(bytemuck::cast_slice(&logits));
        Ok(tensor)
    }

    fn copy_page(&mut self, _: u32, _: u32) {}
}

/// The files of a small byte-level tokenizer, with further ones.
fn files(more: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/roberta-base");
    let own = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
    let read = |name: &str| Some((name.to_string(), fs::read(folder.join(name)).ok()?));
    let more = more.iter().map(|(name, text)| (name.to_string(), text.as_bytes().to_vec()));
    own.into_iter().filter_map(read).chain(more).collect()
}

fn tokenizer(more: &[(&str, &str)]) -> AutoTokenizer {
    AutoTokenizer::from_assets(&files(more)).unwrap()
}

fn info(vocab: usize) -> ModelInfo {
    ModelInfo {
        task: Task::TextGeneration,
        model_type: "llama".into(),
        id2label: BTreeMap::new(),
        label2id: Vec::new(),
        problem_type: None,
        max_positions: Some(LIMIT),
        max_seq_length: None,
        do_lower_case: false,
        has_token_types: false,
        vocab_size: vocab,
        hidden_size: 8,
    }
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

struct Fixture {
    pipeline: Pipeline,
    calls: Arc<Mutex<Vec<usize>>>,
}

fn fixture(config: Value, pages: usize) -> Fixture {
    let tokenizer = tokenizer(&[("chat_template.jinja", TEMPLATE)]);
    let (vocab, calls) = (tokenizer.len(), Arc::default());
    let model = Box::new(Arithmetic { vocab, pages, calls: Arc::clone(&calls) });
    let config = GenerationConfig::from_json(&object(config)).unwrap();
    let args = Args::new(Task::TextGeneration);
    let pipeline = Pipeline::text_generation(model, info(vocab), config, None, tokenizer, args).unwrap();
    Fixture { pipeline, calls }
}

fn pipeline() -> Pipeline {
    fixture(json!({ "eos_token_id": 2, "do_sample": false }), 64).pipeline
}

fn run(inputs: Value, args: Value) -> Result<Value, PipelineError> {
    pipeline().call_json(&inputs, &object(args))
}

/// What the model writes after a prompt.
fn written(tokenizer: &AutoTokenizer, prompt: &[u32], new: usize) -> (Vec<u32>, String) {
    let mut last = *prompt.last().unwrap();
    let ids: Vec<u32> = (0..new)
        .map(|_| {
            last = after(last as i32, tokenizer.len()) as u32;
            last
        })
        .collect();
    let text = tokenizer.decode(&ids, true, None).unwrap();
    (ids, text)
}

fn ids(tokenizer: &AutoTokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, None, &EncodeOptions::default()).unwrap().into_single().ids
}

/// PO-04: a text gives a list of results, a list of texts a list of those; with the prompt, without it, or as ids.
#[test]
fn po_04_forms_of_texts() {
    let tokenizer = tokenizer(&[]);
    let prompt = ids(&tokenizer, "A good book");
    let (new, text) = written(&tokenizer, &prompt, 6);
    let args = |more: Value| {
        let mut args = object(json!({ "max_new_tokens": 6 }));
        args.extend(object(more));
        Value::Object(args)
    };
    assert_eq!(
        run(json!("A good book"), args(json!({}))).unwrap(),
        json!([{ "generated_text": format!("A good book{text}") }])
    );
    let short = json!([{ "generated_text": text }]);
    assert_eq!(run(json!("A good book"), args(json!({ "return_full_text": false }))).unwrap(), short);
    let both = run(json!(["A good book", "A good book"]), args(json!({ "return_full_text": false }))).unwrap();
    assert_eq!(both, json!([short, short]));
    let all = [&prompt[..], &new].concat();
    assert_eq!(
        run(json!("A good book"), args(json!({ "return_tensors": true }))).unwrap(),
        json!([{ "generated_token_ids": all }])
    );
    let beams = json!({ "num_beams": 4, "num_return_sequences": 3, "batch_size": 1 });
    let several = run(json!("A good book"), args(beams)).unwrap();
    assert_eq!(several.as_array().unwrap().len(), 3);
    for (a, b) in [("return_full_text", "return_tensors"), ("return_text", "return_tensors")] {
        assert!(run(json!("a"), json!({ a: true, b: true })).unwrap_err().is_usage());
    }
}

/// PO-04: a prefix stands before the prompt and not in the answer; a stop sequence ends the text and stays in it.
#[test]
fn po_04_prefix_and_stop_sequence() {
    let tokenizer = tokenizer(&[]);
    let (_, text) = written(&tokenizer, &ids(&tokenizer, "Once a book"), 8);
    let args = json!({ "max_new_tokens": 8, "prefix": "Once " });
    assert_eq!(run(json!("a book"), args).unwrap(), json!([{ "generated_text": format!("a book{text}") }]));
    let stop: String = text.chars().skip(2).take(2).collect();
    let args = json!({ "max_new_tokens": 8, "prefix": "Once ", "stop_sequence": stop, "return_full_text": false });
    let stopped = run(json!("a book"), args).unwrap();
    let stopped = stopped[0]["generated_text"].as_str().unwrap();
    assert!(stopped.contains(&stop) && stopped.len() < text.len() && text.starts_with(stopped), "{stopped:?} {text:?}");
}

/// PO-04: conversations come back with the answer as a message, or go on with the last one; several of them in a list.
#[test]
fn po_04_conversations() {
    let tokenizer = tokenizer(&[("chat_template.jinja", TEMPLATE)]);
    let user = json!([{ "role": "user", "content": "rain?" }]);
    let prompt = |text: &str| {
        let plain = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
        tokenizer.encode(text, None, &plain).unwrap().into_single().ids
    };
    let (_, text) = written(&tokenizer, &prompt("<s>[user]rain?[assistant]"), 5);
    let answered = json!([{ "generated_text": [user[0], { "role": "assistant", "content": text }] }]);
    let args = json!({ "max_new_tokens": 5 });
    assert_eq!(run(user.clone(), args.clone()).unwrap(), answered);
    assert_eq!(run(json!([user, user]), args.clone()).unwrap(), json!([answered, answered]));

    let open = json!([user[0], { "role": "assistant", "content": "Rain is" }]);
    let (_, text) = written(&tokenizer, &prompt("<s>[user]rain?[assistant]Rain is"), 5);
    let whole = json!([user[0], { "role": "assistant", "content": format!("Rain is{text}") }]);
    assert_eq!(run(open.clone(), args).unwrap(), json!([{ "generated_text": whole }]));
    let answered = run(open, json!({ "max_new_tokens": 5, "continue_final_message": false })).unwrap();
    assert_eq!(answered[0]["generated_text"].as_array().unwrap().len(), 3);
}

/// PC-09, GE-01: the call's options, then the model's, then the pipeline's.
#[test]
fn pc_09_defaults() {
    let new = |config: Value, args: Value| {
        let answer = fixture(config, 64).pipeline.call_json(&json!("A"), &object(args)).unwrap();
        answer[0]["generated_token_ids"].as_array().unwrap().len() - 3
    };
    let greedy = |more: Value| {
        let mut args = object(json!({ "do_sample": false, "return_tensors": true }));
        args.extend(object(more));
        Value::Object(args)
    };
    // The pipeline's 256 new tokens end at the model's positions.
    assert_eq!(new(json!({}), greedy(json!({}))), LIMIT - 3);
    assert_eq!(new(json!({ "max_new_tokens": 4 }), greedy(json!({}))), 4);
    assert_eq!(new(json!({ "max_length": 10 }), greedy(json!({}))), 7);
    assert_eq!(new(json!({ "max_new_tokens": 4 }), greedy(json!({ "max_new_tokens": 9 }))), 9);
    assert_eq!(new(json!({}), greedy(json!({ "max_length": 12 }))), 9);
    // Sampling is on unless somebody turns it off: several results are then no contradiction.
    let sampled = |config: Value, args: Value| fixture(config, 64).pipeline.call_json(&json!("A"), &object(args));
    let several = json!({ "num_return_sequences": 2, "max_new_tokens": 3, "seed": 5 });
    assert_eq!(sampled(json!({}), several.clone()).unwrap().as_array().unwrap().len(), 2);
    assert!(sampled(json!({ "do_sample": false }), several.clone()).is_err());
    assert_eq!(sampled(json!({}), several.clone()).unwrap(), sampled(json!({}), several).unwrap());
}

/// TD-07, GE-45, PF-02: the pieces of a stream are the new text; inputs that share calls get what they get alone.
#[test]
fn td_07_streams_and_batches() {
    let Fixture { pipeline, calls } = fixture(json!({ "do_sample": false }), 64);
    let inputs: Vec<Input> = ["A good book", "naïve 😀", "in Paris", "a"].iter().map(|t| Input::from(*t)).collect();
    let options = json!({ "max_new_tokens": 20, "return_full_text": false, "skip_special_tokens": true });
    let args = Args::from_json(Task::TextGeneration, &object(options)).unwrap();
    let mut texts = vec![String::new(); inputs.len()];
    let together = pipeline
        .call_streaming(&inputs, &args, &Cancel::new(), &mut |piece| {
            assert!(!piece.text.is_empty());
            texts[piece.input] += piece.text;
        })
        .unwrap();
    assert!(calls.lock().unwrap().contains(&inputs.len()));
    for ((input, answer), text) in inputs.iter().zip(&together).zip(texts) {
        assert_eq!(answer[0]["generated_text"], json!(text));
        assert_eq!(pipeline.call(std::slice::from_ref(input), &args).unwrap()[0], *answer);
    }
}

/// GE-45: a call that is cancelled ends at once and keeps what was written.
#[test]
fn ge_45_cancelled_calls_keep_their_text() {
    let pipeline = pipeline();
    let args = Args::from_json(Task::TextGeneration, &object(json!({ "return_full_text": false }))).unwrap();
    let (cancel, mut text, mut pieces) = (Cancel::new(), String::new(), 0);
    let answer = pipeline
        .call_streaming(&["A good book".into()], &args, &cancel, &mut |piece| {
            text += piece.text;
            pieces += 1;
            if pieces == 4 {
                cancel.cancel();
            }
        })
        .unwrap();
    assert_eq!(answer[0][0]["generated_text"], json!(text));
    assert!((4..8).contains(&pieces), "{pieces}");
    // The pipeline is as good as new.
    let none = Args::from_json(Task::TextGeneration, &object(json!({ "max_new_tokens": 9 }))).unwrap();
    assert!(pipeline.call(&["A".into()], &none).is_ok());
}

/// PO-04: `handle_long_generation="hole"` cuts the beginning of a prompt that leaves no room.
#[test]
fn po_04_hole() {
    let long = "rain and snow ".repeat(40);
    let args = json!({ "max_new_tokens": 10, "return_tensors": true, "handle_long_generation": "hole" });
    let answer = run(json!(long), args).unwrap();
    assert_eq!(answer[0]["generated_token_ids"].as_array().unwrap().len(), LIMIT);
    let args = json!({ "max_new_tokens": LIMIT, "handle_long_generation": "hole" });
    assert!(run(json!(long), args).unwrap_err().is_usage());
    assert!(run(json!(long), json!({ "handle_long_generation": "cut" })).unwrap_err().is_usage());
}

/// Bad input and wrong usage are told as such: the exit code is 2.
#[test]
fn bad_input_is_wrong_usage() {
    let user = |text: &str| json!([{ "role": "user", "content": text }]);
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let cases = [
        (json!("rain ".repeat(200)), json!({ "max_new_tokens": 5 }), "no room"),
        (json!("a"), json!({ "max_new_token": 5 }), "max_new_token"),
        (json!("a"), json!({ "do_sample": true, "temperature": 0.0 }), "temperature"),
        (json!("a"), json!({ "top_k": -1 }), "top_k"),
        (json!("a"), json!({ "num_beams": 2, "num_return_sequences": 3 }), "num_return_sequences"),
        (json!("a"), json!({ "stop_sequence": "x", "stop_strings": "y" }), "stop_sequence"),
        (json!([{ "role": "user", "content": "a" }, { "content": "b" }]), json!({}), "message 1"),
        (user("a"), json!({ "chat_template": "{% for %}" }), "does not parse"),
        (user("a"), json!({ "chat_template": endless }), "does not come to an end"),
        (user("a"), json!({ "chat_template": "{% include 'secret' %}" }), "include"),
        (user("a"), json!({ "chat_template": "{{ messages.__class__.__base__ }}" }), "undefined"),
        (user("a"), json!({ "chat_template": "{{ raise_exception('not so') }}" }), "not so"),
        (
            user("a"),
            json!({ "continue_final_message": true, "chat_template": "{{ messages[0].role }} content" }),
            "last message",
        ),
        (json!({ "text": "a" }), json!({}), "texts and conversations"),
        (json!("a"), json!({ "tools": [1] }), "tools"),
    ];
    for (inputs, args, told) in cases {
        let error = run(inputs.clone(), args.clone()).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains(told), "{inputs} {args}: {error}");
    }
}

/// A result that runs out of cache keeps its text and tells why; others are not touched.
#[test]
fn out_of_cache_is_told_beside_the_text() {
    let Fixture { pipeline, .. } = fixture(json!({ "do_sample": false, "eos_token_id": 2 }), 3);
    let options = object(json!({ "max_new_tokens": 40, "return_full_text": false, "return_tensors": null }));
    let mut options = options;
    options.remove("return_tensors");
    let answers = pipeline.call_json(&json!(["a b c", "a"]), &options).unwrap();
    let error = answers[0][0]["error"].as_str().unwrap();
    assert!(error.contains("cache"), "{error}");
    assert!(!answers[0][0]["generated_text"].as_str().unwrap().is_empty());
}

/// CT-10: the template writes the special tokens, none are added; CT-08: the assistant's tokens are marked.
#[test]
fn ct_10_one_bos_and_ct_08_masks() {
    let tokenizer = tokenizer(&[("chat_template.jinja", TEMPLATE)]);
    let messages = [
        json!({ "role": "user", "content": "naïve 😀?" }),
        json!({ "role": "assistant", "content": "A book" }),
        json!({ "role": "user", "content": "a" }),
    ];
    let chat = ChatOptions::default();
    let found = tokenizer.encode_chat(&messages, &chat, &EncodeOptions::default(), true).unwrap();
    let bos = tokenizer.token_to_id("<s>").unwrap();
    assert_eq!(found.encoding.ids.iter().filter(|&&id| id == bos).count(), 1);
    let mask = found.assistant_masks.unwrap();
    assert_eq!(mask.len(), found.encoding.len());
    let marked: Vec<u32> = found.encoding.ids.iter().zip(&mask).filter(|(_, m)| **m == 1).map(|(id, _)| *id).collect();
    assert!(tokenizer.decode(&marked, false, None).unwrap().contains("A book"));
    assert!(marked.len() < 12, "{marked:?}");
}

/// CT-01: a file of its own goes before the configuration, that before the processor's; tools choose `tool_use`.
#[test]
fn ct_01_sources_of_templates() {
    let messages = [json!({ "role": "user", "content": "a" })];
    let tools = [json!({ "type": "function" })];
    let render =
        |tokenizer: &AutoTokenizer, options: &ChatOptions<'_>| tokenizer.apply_chat_template(&messages, options);
    let plain = ChatOptions::default();
    let with_tools = ChatOptions { tools: Some(&tools), ..ChatOptions::default() };
    let config = r#"{"chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]}"#;
    let processor = r#"{"chat_template": "P"}"#;

    let only_processor = tokenizer(&[("chat_template.json", processor)]);
    assert_eq!(render(&only_processor, &plain).unwrap(), "P");
    let named = tokenizer(&[("tokenizer_config.json", config), ("chat_template.json", processor)]);
    assert_eq!(render(&named, &plain).unwrap(), "D");
    assert_eq!(render(&named, &with_tools).unwrap(), "T");
    let own = tokenizer(&[
        ("chat_template.jinja", "F"),
        ("additional_chat_templates/rag.jinja", "R"),
        ("tokenizer_config.json", config),
    ]);
    assert_eq!(render(&own, &plain).unwrap(), "F");
    assert_eq!(render(&own, &with_tools).unwrap(), "F");
    assert_eq!(render(&own, &ChatOptions { chat_template: Some("rag"), ..ChatOptions::default() }).unwrap(), "R");
    let given = ChatOptions { chat_template: Some("{{ messages[0].content }}!"), ..ChatOptions::default() };
    assert_eq!(render(&own, &given).unwrap(), "a!");
    assert!(matches!(render(&tokenizer(&[]), &plain), Err(ChatError::NoTemplate(_))));
    let other = r#"{"chat_template": [{"name": "other", "template": "O"}]}"#;
    assert!(render(&tokenizer(&[("tokenizer_config.json", other)]), &plain).unwrap_err().to_string().contains("other"));
    let broken = AutoTokenizer::from_assets(&files(&[("tokenizer_config.json", r#"{"chat_template": 3}"#)]));
    assert!(matches!(broken, Err(TokenizerError::Broken { .. })));
}

/// CT-15 and `rendered` of the goldens: the template of the real model.
#[test]
#[ignore = "needs LITH_TEST_MODELS"]
fn ct_15_smollm2_renders_its_chats() {
    let models = std::env::var("LITH_TEST_MODELS").expect("LITH_TEST_MODELS names the folder of the models");
    let folder = Path::new(&models).join("smollm2");
    let tokenizer = AutoTokenizer::from_assets(&lith_runtime::tokenizer::Directory(folder)).unwrap();
    let chat = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
    let start = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n";
    for (messages, rendered, tokens) in [
        (
            vec![json!({ "role": "user", "content": "What is 2 plus 2?" })],
            format!("{start}<|im_start|>user\nWhat is 2 plus 2?<|im_end|>\n<|im_start|>assistant\n"),
            1,
        ),
        (
            vec![
                json!({ "role": "system", "content": "You answer in one word." }),
                json!({ "role": "user", "content": "Name a color of the sky." }),
            ],
            "<|im_start|>system\nYou answer in one word.<|im_end|>\n<|im_start|>user\nName a color of the sky.<|im_end|>\n<|im_start|>assistant\n".to_string(),
            1,
        ),
    ] {
        let found = tokenizer.encode_chat(&messages, &chat, &EncodeOptions::default(), false).unwrap();
        assert_eq!(found.text, rendered);
        let bos = tokenizer.token_to_id("<|im_start|>").unwrap();
        assert_eq!(found.encoding.ids.iter().take(2).filter(|&&id| id == bos).count(), tokens, "one start only");
    }
}
