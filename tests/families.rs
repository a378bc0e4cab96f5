//! Every family and head, compiled, against figures from Transformers in double precision; and the promise that a
//! sequence's results depend on nothing but itself.

mod support;

use std::path::Path;

use lith_runtime::pipelines::TokenBatch;
use serde_json::Value;
use support::*;

/// The task that loads a model class of Transformers.
fn task_of(class: &str) -> &'static str {
    match class.split_once("For").map(|(_, head)| head) {
        None => "feature-extraction",
        Some("SequenceClassification") => "text-classification",
        Some("TokenClassification") => "token-classification",
        Some("MaskedLM") => "fill-mask",
        Some("QuestionAnswering") => "question-answering",
        Some(other) => panic!("no task for {other}"),
    }
}

fn sequences(batch: &Value) -> TokenBatch {
    let parts = batch.as_array().expect("a batch").iter().map(|s| {
        let found = ids(&s["input_ids"]);
        let types = s.get("token_type_ids").map_or(vec![0; found.len()], ids);
        (found, types)
    });
    support::batch(&parts.collect::<Vec<_>>())
}

/// Runs all batches of a golden file; returns the largest relative difference.
fn check(folder: &Path) -> f64 {
    let golden = read_json(&folder.join("golden.json"));
    let task = task_of(golden["class"].as_str().expect("a class"));
    let compiled = Compiled::new(folder, Some(task));
    let models = [1, 2, 3].map(|threads| compiled.load(threads));
    let mut worst: f64 = 0.0;
    for batch in golden["batches"].as_array().expect("batches") {
        let tokens = sequences(batch);
        let outputs = forward(&models[0], &tokens);
        for model in &models[1..] {
            assert_eq!(forward(model, &tokens), outputs, "{}: threads change the result", folder.display());
        }
        for (i, sequence) in batch.as_array().expect("a batch").iter().enumerate() {
            let alone = forward(&models[1], &sequences(&Value::Array(vec![sequence.clone()])));
            let expected = sequence["outputs"].as_object().expect("outputs");
            for (name, values) in expected {
                let at = outputs.iter().position(|o| o.name == *name);
                let at = at.unwrap_or_else(|| panic!("{}: no output {name}", folder.display()));
                let by_token = outputs[at].shape[0] == tokens.input_ids.len()
                    && !(task == "text-classification" || name == "pooler_output");
                let found = part(&outputs[at], &tokens, i, by_token);
                assert_eq!(found, alone[at].data, "{}: the batch changes {name} of sequence {i}", folder.display());
                let difference = relative_difference(found, &flat(values));
                assert!(difference <= 1e-5, "{}: {name} of sequence {i} differs by {difference:e}", folder.display());
                worst = worst.max(difference);
            }
        }
    }
    worst
}

fn check_family(family: &str) {
    let models =
        golden_models(|name| name.split('-').next() == Some(family) || (family == "xlm" && name.starts_with("xlm-")));
    assert!(models.len() >= 5, "{family}: {} fixtures", models.len());
    for folder in models {
        println!("{}: {:.2e}", folder.display(), check(&folder));
    }
}

macro_rules! families {
    ($($(#[$doc:meta])* $test:ident: $name:literal),* $(,)?) => { $($(#[$doc])* #[test] fn $test() { check_family($name); })* };
}

families! {
    /// INS-11, INS-12, PST-11
    bert: "bert",
    /// CFG-13
    distilbert: "distilbert",
    roberta: "roberta",
    xlm_roberta: "xlm",
    camembert: "camembert",
    mpnet: "mpnet",
    electra: "electra",
    albert: "albert",
}

/// WLD-03, WLD-04, WLD-12, WLD-15, CKP-04, CKP-17: what old and other containers hold, loaded and run.
#[test]
fn containers_and_old_names() {
    let models = golden_models(|name| name.starts_with("load-"));
    assert!(models.len() >= 10, "{} fixtures", models.len());
    for folder in models {
        println!("{}: {:.2e}", folder.display(), check(&folder));
    }
}

/// Sentence-transformers directories: every pooling, dense and normalize module.
#[test]
fn sentence_transformers() {
    let models = golden_models(|name| name.starts_with("st-"));
    assert!(models.len() >= 5, "{} fixtures", models.len());
    for folder in models {
        let golden = read_json(&folder.join("golden.json"));
        let compiled = Compiled::new(&folder, None);
        let model = compiled.load(2);
        let cases = golden["cases"].as_array().expect("cases");
        let tokens: Vec<_> = cases.iter().map(|c| (ids(&c["ids"]), vec![0; ids(&c["ids"]).len()])).collect();
        let tokens = batch(&tokens);
        let outputs = forward(&model, &tokens);
        for (i, case) in cases.iter().enumerate() {
            let found = part(&outputs[0], &tokens, i, false);
            let difference = relative_difference(found, &flat(&case["embedding"]));
            assert!(difference <= 1e-5, "{}: case {i} differs by {difference:e}", folder.display());
        }
    }
}
