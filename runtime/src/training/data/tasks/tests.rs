//! Rows to examples with a small tokenizer, against what the rules of Transformers' scripts give.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::*;
use crate::tokenizer::{Assets, AutoTokenizer, Directory, EncodeOptions, TOKENIZER_FILES, Text};
use crate::training::data::{Dataset, Place};

/// Files of a tokenizer of 160 pieces; [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4.
fn files() -> BTreeMap<String, Vec<u8>> {
    let folder = Directory(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/bert-base"));
    let file = |name: &&str| Some((name.to_string(), folder.read(name).unwrap()?.into_owned()));
    TOKENIZER_FILES.iter().filter_map(file).collect()
}

fn tokenizer() -> Arc<AutoTokenizer> {
    Arc::new(AutoTokenizer::from_assets(&files()).unwrap())
}

fn encoder() -> Encoder {
    Encoder::new(tokenizer(), Some(32))
}

fn row(json: Json) -> Row {
    let place = Place { file: "a.jsonl".into(), unit: "line", number: 7 };
    let Json::Object(fields) = json else { unreachable!("rows are objects") };
    Row::new(place, fields)
}

fn one(preprocessor: &dyn Preprocessor, json: Json) -> Example {
    let mut examples = preprocessor.examples(&row(json), 0).unwrap();
    assert_eq!(examples.len(), 1);
    examples.remove(0)
}

fn error(preprocessor: &dyn Preprocessor, json: Json) -> String {
    let error = preprocessor.examples(&row(json), 0).unwrap_err();
    assert!(error.is_usage());
    error.to_string()
}

fn ids(text: &str, pair: Option<&str>) -> Vec<i32> {
    let row = tokenizer().encode(text, pair.map(Text::Raw), &EncodeOptions::default()).unwrap().into_single();
    row.ids.iter().map(|id| *id as i32).collect()
}

fn names(names: &[&str]) -> Labels {
    Labels::new(names.iter().map(|n| n.to_string()).collect()).unwrap()
}

fn classification(target: Option<Target>) -> TextClassification {
    let label = target.map(|target| ("label".into(), target));
    TextClassification { encoder: encoder(), text: "text".into(), pair: None, label }
}

/// DS-04: a class by name or number, a number, and several classes.
#[test]
fn ds_04_targets() {
    let single = classification(Some(Target::Single(names(&["bad", "good"]))));
    let example = one(&single, json!({"text": "the rain in paris", "label": "good"}));
    assert_eq!(example.ints("input_ids").unwrap(), ids("the rain in paris", None));
    assert_eq!(example.ints("token_type_ids").map(<[i32]>::len), Some(example.tokens()));
    assert_eq!(example.get("label"), Some(&Feature::Int(1)));
    for value in [json!(1), json!("1"), json!(1.0), json!(true)] {
        assert_eq!(one(&single, json!({"text": "the", "label": value})).get("label"), Some(&Feature::Int(1)));
    }
    // Numbers that are names are names.
    let stars = classification(Some(Target::Single(names(&["1", "2", "3"]))));
    assert_eq!(one(&stars, json!({"text": "the", "label": 1})).get("label"), Some(&Feature::Int(0)));
    assert_eq!(one(&stars, json!({"text": "the", "label": 3.0})).get("label"), Some(&Feature::Int(2)));

    let regression = classification(Some(Target::Regression(1)));
    for value in [json!(0.5), json!("0.5")] {
        assert_eq!(one(&regression, json!({"text": "the", "label": value})).get("label"), Some(&Feature::Float(0.5)));
    }
    let two = classification(Some(Target::Regression(2)));
    assert_eq!(one(&two, json!({"text": "the", "label": [1, 2]})).get("label"), Some(&Feature::Floats(vec![1.0, 2.0])));
    let multi = classification(Some(Target::Multi(names(&["a", "b", "c"]))));
    for (value, hot) in
        [(json!(["c", "a"]), [1.0, 0.0, 1.0]), (json!([]), [0.0; 3]), (json!([0.0, 1.0, 1.0]), [0.0, 1.0, 1.0])]
    {
        let example = one(&multi, json!({"text": "the", "label": value}));
        assert_eq!(example.get("label"), Some(&Feature::Floats(hot.to_vec())));
    }

    let pair = TextClassification { pair: Some("second".into()), ..classification(None) };
    let example = one(&pair, json!({"text": "the rain", "second": "in paris"}));
    assert_eq!(example.ints("input_ids").unwrap(), ids("the rain", Some("in paris")));
    assert!(example.ints("token_type_ids").unwrap().contains(&1) && example.get("label").is_none());
}

/// DS-12: errors name file and line, and what there is instead.
#[test]
fn ds_12_errors() {
    let single = classification(Some(Target::Single(names(&["bad", "good"]))));
    let expect = |json: Json, message: &str| assert_eq!(error(&single, json), format!("a.jsonl, line 7: {message}"));
    expect(json!({"sentence": "x"}), r#"there is no column "text"; there are "sentence""#);
    expect(json!({"text": null, "label": 0}), r#"column "text": expected a text, found null"#);
    expect(
        json!({"text": "x", "label": "fair"}),
        r#"column "label": unknown label "fair"; the labels are "bad", "good""#,
    );
    expect(json!({"text": "x", "label": 2}), r#"column "label": unknown label "2"; the labels are "bad", "good""#);
    expect(json!({"text": "x", "label": -1}), r#"column "label": unknown label "-1"; the labels are "bad", "good""#);
    expect(json!({"text": "x", "label": null}), r#"column "label": expected a label, found null"#);
    let regression = classification(Some(Target::Regression(1)));
    for value in [json!("x"), json!(null), json!("nan"), json!(1e300)] {
        assert!(error(&regression, json!({"text": "x", "label": value})).contains("expected a number"));
    }
    let two = classification(Some(Target::Regression(2)));
    assert!(error(&two, json!({"text": "x", "label": [1]})).contains("a list of 2 numbers"));
}

/// DS-12, DS-02: a text that is too long is refused; cut when asked; read in windows when asked.
#[test]
fn ds_12_too_long() {
    let long = "rain ".repeat(100);
    let with = |encoder: Encoder| TextClassification { encoder, ..classification(None) };
    let message = error(&with(encoder()), json!({"text": long}));
    assert!(
        message.starts_with("a.jsonl, line 7: the text has 102 tokens, more than the 32 the model takes"),
        "{message}"
    );
    assert!(error(&with(encoder().max_length(Some(8))), json!({"text": "rain ".repeat(7)})).contains("9 tokens"));
    let cut = one(&with(encoder().overlong(Overlong::Truncate)), json!({"text": long}));
    assert_eq!(cut.tokens(), 32);
    let windows = with(encoder().max_length(Some(12)).overlong(Overlong::Windows { stride: 4 }));
    let label = Some(("label".into(), Target::Single(names(&["a", "b"]))));
    let windows = TextClassification { label, ..windows };
    let examples = windows.examples(&row(json!({"text": long, "label": "b"})), 0).unwrap();
    // Ten tokens of text a window, six of them new: 1 + 90 / 6.
    assert_eq!(examples.len(), 16);
    assert!(examples.iter().all(|e| e.tokens() <= 12 && e.get("label") == Some(&Feature::Int(1))));
}

#[test]
fn labels_and_targets_of_columns() {
    let dataset = |values: Vec<Json>| Dataset::from_json(values.into_iter().map(|v| json!({ "label": v }))).unwrap();
    let infer = |values: Vec<Json>| Target::infer(&dataset(values), "label").unwrap();
    let named = |target: &Target| match target {
        Target::Single(labels) | Target::Multi(labels) => labels.names().to_vec(),
        Target::Regression(_) => Vec::new(),
    };
    let target = infer(vec![json!("pos"), json!("neg"), json!("pos")]);
    assert_eq!(
        (target.problem_type(), named(&target)),
        ("single_label_classification", vec!["neg".into(), "pos".into()])
    );
    assert_eq!(named(&infer(vec![json!(1), json!(0), json!(2)])), ["LABEL_0", "LABEL_1", "LABEL_2"]);
    assert_eq!(named(&infer(vec![json!("10"), json!("9")])), ["9", "10"]);
    assert_eq!(infer(vec![json!(0.5), json!(1)]), Target::Regression(1));
    assert_eq!(infer(vec![json!("0.5"), json!("1")]).problem_type(), "regression");
    let multi = infer(vec![json!(["b", "a"]), json!([])]);
    assert_eq!((multi.problem_type(), multi.num_labels()), ("multi_label_classification", 2));
    assert!(Target::infer(&Dataset::default(), "label").is_err());
    assert!(Labels::of_column(&dataset(vec![json!(null)]), "label").is_err());
    assert!(Labels::new(vec!["a".into(), "a".into()]).is_err() && Labels::new(Vec::new()).is_err());
}

/// DS-07: the first token of a word has its tag; others have none, or the inside of it; special tokens have none.
#[test]
fn ds_07_token_classification() {
    let task = |label_all_tokens| TokenClassification {
        encoder: encoder(),
        tokens: "tokens".into(),
        tags: Some(("tags".into(), names(&["O", "B-X", "I-X"]))),
        label_all_tokens,
    };
    // [CLS] paris graph ##s is [SEP]
    let words = json!({"tokens": ["paris", "graphs", "is"], "tags": ["O", "B-X", 0]});
    let example = one(&task(false), words.clone());
    assert_eq!(example.ints("labels").unwrap(), [-100, 0, 1, -100, 0, -100]);
    assert_eq!(one(&task(true), words.clone()).ints("labels").unwrap(), [-100, 0, 1, 2, 0, -100]);
    let plain = TokenClassification { tags: None, ..task(false) };
    assert_eq!(one(&plain, words).ints("word_ids").unwrap(), [-1, 0, 1, 1, 2, -1]);
    let uneven = error(&task(false), json!({"tokens": ["a", "b"], "tags": ["O"]}));
    assert!(uneven.ends_with(r#"column "tokens" has 2 words and column "tags" has 1 tags"#), "{uneven}");
    assert!(error(&task(false), json!({"tokens": "a b", "tags": ["O"]})).contains("a list of texts"));
    assert!(error(&task(false), json!({"tokens": ["a"], "tags": ["B-Y"]})).contains("unknown label"));
}

/// DS-08: the answer's tokens in the windows that hold it, [CLS] in the others and where there is none.
#[test]
fn ds_08_question_answering() {
    let mut task = QuestionAnswering::new(tokenizer(), Some(32));
    let context = "the capital is paris and the rain in paris is the rain of paris";
    let start = context.match_indices("paris and").next().unwrap().0;
    let with = |answers: Json| json!({"question": "  the capital?", "context": context, "answers": answers});
    let span = |example: &Example| {
        let position = |name: &str| match example.get(name) {
            Some(Feature::Int(at)) => *at as usize,
            other => unreachable!("{other:?}"),
        };
        let (from, to) = (position("start_positions"), position("end_positions"));
        let span: Vec<u32> = example.ints("input_ids").unwrap()[from..=to].iter().map(|id| *id as u32).collect();
        (from, tokenizer().convert_ids_to_tokens(&span, false).unwrap().join(" "))
    };
    for answers in [
        json!({"text": ["paris and"], "answer_start": [start]}),
        json!([{"text": "paris and", "answer_start": start}, {"text": "rain", "answer_start": 29}]),
    ] {
        assert_eq!(span(&one(&task, with(answers))).1, "paris and");
    }
    for answers in [json!({"text": [], "answer_start": []}), json!([]), json!(null)] {
        assert_eq!(span(&one(&task, with(answers))), (0, "[CLS]".into()));
    }
    (task.max_seq_length, task.doc_stride) = (12, 3);
    let answers = json!({"text": ["paris and"], "answer_start": [start]});
    let windows = task.examples(&row(with(answers.clone())), 3).unwrap();
    let spans: Vec<String> = windows.iter().map(|window| span(window).1).collect();
    assert!(windows.len() > 2 && spans.contains(&"paris and".to_string()) && spans.contains(&"[CLS]".to_string()));

    task.for_prediction = true;
    for window in task.examples(&row(with(json!(null))), 3).unwrap() {
        assert_eq!(window.get("overflow_to_sample_mapping"), Some(&Feature::Int(3)));
        let offsets = window.ints("offset_mapping").unwrap();
        assert_eq!((offsets.len(), &offsets[..2]), (2 * window.tokens(), &[-1, -1][..]));
        let text: Vec<char> = context.chars().collect();
        let first = offsets.chunks_exact(2).find(|pair| pair[0] >= 0).unwrap();
        assert!(text[first[0] as usize].is_alphabetic());
    }
    task.for_prediction = false;
    for (answers, message) in [
        (json!({"text": ["rain"], "answer_start": [0]}), r#"the context has "the " where the answer is "rain""#),
        (json!({"text": ["rain"], "answer_start": [900]}), "behind the context"),
        (json!({"text": ["rain"], "answer_start": [-1]}), "expected answers"),
        (json!({"text": "rain"}), "expected answers"),
        (json!("rain"), "expected answers"),
    ] {
        let error = error(&task, with(answers));
        assert!(error.contains(message), "{error}");
    }
}

/// DS-09: the target's tokens are the labels.
#[test]
fn ds_09_seq2seq() {
    let task = Seq2Seq {
        encoder: encoder(),
        target_encoder: encoder().max_length(Some(4)),
        source: "source".into(),
        target: "target".into(),
        prefix: "the ".into(),
    };
    let example = one(&task, json!({"source": "rain", "target": "in paris"}));
    assert_eq!(example.ints("input_ids").unwrap(), ids("the rain", None));
    assert_eq!(example.ints("labels").unwrap(), ids("in paris", None));
    assert!(error(&task, json!({"source": "rain", "target": "in paris in"})).contains("5 tokens, more than the 4"));
}

fn chat(template: &str, special: &[(&str, &str)]) -> ChatTuning {
    let mut files = files();
    files.insert("chat_template.jinja".into(), template.as_bytes().to_vec());
    let mut tokenizer = AutoTokenizer::from_assets(&files).unwrap();
    special.iter().for_each(|(name, token)| tokenizer.set_special_token(name, Some(token)).unwrap());
    ChatTuning::new(Encoder::new(Arc::new(tokenizer), Some(64)))
}

/// The text of the tokens that count.
fn answers(task: &ChatTuning, example: &Example) -> String {
    let (ids, labels) = (example.ints("input_ids").unwrap(), example.ints("labels").unwrap());
    let kept: Vec<u32> = ids.iter().zip(labels).filter(|(_, l)| **l != -100).map(|(id, _)| *id as u32).collect();
    assert!(ids.iter().zip(labels).all(|(id, label)| *label == -100 || id == label));
    task.encoder.tokenizer().convert_ids_to_tokens(&kept, false).unwrap().join(" ")
}

const PLAIN: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }} ; {% endfor %}\
                     {% if add_generation_prompt %}assistant: {% endif %}";
const MARKED: &str = "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }} ; \
                      {% endgeneration %}{% else %}{{ m.content }} ; {% endif %}{% endfor %}";

/// DS-10: answers alone count, by the template's marks or by what it writes with and without them.
#[test]
fn ds_10_chat() {
    let messages = json!([
        {"role": "user", "content": "the capital"},
        {"role": "assistant", "content": "paris"},
        {"role": "user", "content": "the rain", "name": null},
        {"role": "assistant", "content": "in paris"},
    ]);
    for template in [PLAIN, MARKED] {
        let mut task = chat(template, &[]);
        let example = one(&task, json!({ "messages": messages }));
        assert_eq!(answers(&task, &example), "paris ; in paris ;");
        let whole = example.ints("input_ids").unwrap().len();
        task.answers_only = false;
        assert_eq!(one(&task, json!({ "messages": messages })).ints("labels").unwrap().len(), whole);
        assert!(answers(&task, &one(&task, json!({ "messages": messages }))).contains("capital"));

        task.answers_only = true;
        task.columns = ChatColumns::PromptCompletion("prompt".into(), "completion".into());
        let split = messages.as_array().unwrap().split_at(3);
        let example = one(&task, json!({"prompt": split.0, "completion": split.1}));
        assert_eq!(answers(&task, &example), "in paris ;");
    }
    let task = chat(PLAIN, &[]);
    let only = |role: &str| json!({"messages": [{"role": role, "content": "the"}]});
    assert!(error(&task, only("user")).contains("no answer of the assistant"));
    assert!(error(&task, json!({"messages": []})).contains("a list of messages"));
    assert!(error(&task, json!({"messages": [{"role": "user"}]})).contains("a list of messages"));
    let reversed = chat("{% for m in messages | reverse %}{{ m.role }}: {{ m.content }} {% endfor %}", &[]);
    let unclear = error(&reversed, json!({ "messages": messages }));
    assert!(unclear.contains("cannot be told"), "{unclear}");
    let plain = ChatTuning::new(encoder());
    assert!(error(&plain, json!({ "messages": messages })).contains("no chat template"));
    let short = ChatTuning { encoder: chat(PLAIN, &[]).encoder.max_length(Some(8)), ..ChatTuning::new(encoder()) };
    assert!(error(&short, json!({ "messages": messages })).contains("more than the 8"));
    let cut = ChatTuning { encoder: short.encoder.clone().overlong(Overlong::Truncate), ..short };
    let example = one(&cut, json!({ "messages": messages }));
    assert_eq!((example.tokens(), example.ints("labels").unwrap().len()), (8, 8));
}

/// DS-10: a prompt and its completion; the end of the text is learned too.
#[test]
fn ds_10_completions() {
    let mut task = chat(PLAIN, &[("eos_token", "[MASK]")]);
    task.columns = ChatColumns::PromptCompletion("prompt".into(), "completion".into());
    let example = one(&task, json!({"prompt": "the capital is", "completion": " paris and"}));
    assert_eq!(answers(&task, &example), "paris and [MASK]");
    let ends = chat(PLAIN, &[("eos_token", "[SEP]")]);
    let ends = ChatTuning { columns: task.columns.clone(), ..ends };
    let example = one(&ends, json!({"prompt": "the capital is", "completion": " paris"}));
    assert_eq!(answers(&ends, &example), "paris [SEP]");
    assert!(error(&task, json!({"prompt": "x"})).contains("no column \"completion\""));
}

#[test]
fn plain_texts_for_language_models() {
    let mut task = LanguageModeling::new(encoder());
    task.special_tokens_mask = true;
    task.offset_mapping = true;
    let example = one(&task, json!({"text": "the rain"}));
    assert_eq!(example.ints("special_tokens_mask").unwrap(), [1, 0, 0, 1]);
    assert_eq!(example.ints("offset_mapping").unwrap(), [0, 0, 0, 3, 4, 8, 0, 0]);
    assert!(error(&task, json!({"text": "rain ".repeat(100)})).contains("102 tokens"));
    task.joined = true;
    assert_eq!(one(&task, json!({"text": "rain ".repeat(100)})).tokens(), 102);
    task.add_eos = true;
    assert!(error(&task, json!({"text": "rain"})).contains("no eos_token"));
    let mut tokenizer = AutoTokenizer::from_assets(&files()).unwrap();
    tokenizer.set_special_token("eos_token", Some("[MASK]")).unwrap();
    let encoder = Encoder::new(Arc::new(tokenizer), Some(8)).overlong(Overlong::Truncate);
    let task = LanguageModeling { add_eos: true, ..LanguageModeling::new(encoder) };
    let example = one(&task, json!({"text": "rain ".repeat(100)}));
    assert_eq!((example.tokens(), example.ints("input_ids").unwrap().last()), (8, Some(&4)));
}

/// DS-13: settings tell apart all that changes examples.
#[test]
fn ds_13_settings() {
    let base = classification(Some(Target::Single(names(&["a", "b"]))));
    let all = [
        base.clone(),
        classification(None),
        classification(Some(Target::Single(names(&["b", "a"])))),
        classification(Some(Target::Multi(names(&["a", "b"])))),
        classification(Some(Target::Regression(1))),
        TextClassification { text: "other".into(), ..base.clone() },
        TextClassification { pair: Some("other".into()), ..base.clone() },
        TextClassification { encoder: encoder().max_length(Some(8)), ..base.clone() },
        TextClassification { encoder: encoder().overlong(Overlong::Truncate), ..base.clone() },
        TextClassification { encoder: chat(PLAIN, &[]).encoder.max_length(Some(32)), ..base.clone() },
        TextClassification { encoder: chat(PLAIN, &[("eos_token", "[SEP]")]).encoder, ..base.clone() },
    ];
    let distinct: std::collections::BTreeSet<String> = all.iter().map(|task| task.settings().unwrap()).collect();
    assert_eq!(distinct.len(), all.len());
    assert_eq!(base.settings().unwrap(), base.clone().settings().unwrap());
    // Another copy of the same tokenizer is the same.
    assert_eq!(tokenizer().fingerprint().unwrap(), tokenizer().fingerprint().unwrap());
}
