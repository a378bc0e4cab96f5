//! Text classification: one row of logits a text. (PO-01)

use serde_json::{Map, Value, json};

use super::input::field;
use super::math::{argmax, number, sigmoid, softmax};
use super::model::ModelInfo;
use super::{Args, Input, Pipeline, PipelineError};
use crate::tokenizer::Text;

/// How logits become scores.
#[derive(Clone, Copy)]
enum Function {
    Sigmoid,
    Softmax,
    None,
}

impl Function {
    fn new(args: &Args, info: &ModelInfo, labels: usize) -> Self {
        match (args.text("function_to_apply"), info.problem_type.as_deref()) {
            (Some("sigmoid"), _) => Function::Sigmoid,
            (Some("softmax"), _) => Function::Softmax,
            (Some("none"), _) | (_, Some("regression")) => Function::None,
            (_, Some("multi_label_classification")) => Function::Sigmoid,
            _ if labels == 1 => Function::Sigmoid,
            _ => Function::Softmax,
        }
    }

    fn apply(self, logits: &[f32]) -> Vec<f32> {
        match self {
            Function::Sigmoid => sigmoid(logits),
            Function::Softmax => softmax(logits),
            Function::None => logits.to_vec(),
        }
    }
}

/// Whether only the best label is given: no number of labels was asked for.
pub(super) fn best_only(args: &Args) -> bool {
    args.get("top_k").is_none() && args.flag("return_all_scores") != Some(true)
}

pub(super) fn call(pipeline: &Pipeline, inputs: &[Input], args: &Args) -> Result<Vec<Value>, PipelineError> {
    let options = pipeline.encode_options(|name| args.get(name))?;
    let mut texts = Vec::with_capacity(inputs.len());
    for (index, input) in inputs.iter().enumerate() {
        texts.push(match input {
            Input::Text(text) => (Text::Raw(text), None),
            Input::Record(record) => {
                check_keys(record, index)?;
                let text = field(record, index, "text")?;
                let text = text.ok_or_else(|| PipelineError::Input { index, problem: "\"text\" is missing".into() })?;
                // Upstream reads an empty second text as none.
                let pair = field(record, index, "text_pair")?.filter(|pair| !pair.is_empty());
                (Text::Raw(text), pair.map(Text::Raw))
            }
            Input::Words(_) | Input::Messages(_) => {
                let problem = "a list is no text; a pair of texts is {\"text\": ..., \"text_pair\": ...}".into();
                return Err(PipelineError::Input { index, problem });
            }
        });
    }
    let (rows, _) = pipeline.encode(&texts, &options)?;
    let sequences = rows.iter().enumerate().map(|(i, row)| pipeline.sequence(i, row, "cut it with truncation=true"));
    let sequences = sequences.collect::<Result<Vec<_>, _>>()?;

    let info = pipeline.info();
    let mut answers = Vec::with_capacity(inputs.len());
    pipeline.run(&sequences, args, |i, answer| {
        let logits = answer.row(&["logits"])?;
        let scores = Function::new(args, info, logits.len()).apply(logits);
        let entry = |i: usize| json!({ "label": info.label(i), "score": number(scores[i]) });
        answers.push(if best_only(args) {
            let best = entry(argmax(&scores));
            // Upstream puts the answer to a text in a list, the answer to a record not.
            if matches!(inputs.get(i), Some(Input::Record(_))) { best } else { Value::Array(vec![best]) }
        } else {
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            order.truncate(args.int("top_k").unwrap_or(usize::MAX));
            order.into_iter().map(entry).collect()
        });
        Ok(())
    })?;
    Ok(answers)
}

fn check_keys(record: &Map<String, Value>, index: usize) -> Result<(), PipelineError> {
    match record.keys().find(|k| !["text", "text_pair"].contains(&k.as_str())) {
        Some(key) => {
            Err(PipelineError::Input { index, problem: format!("{key:?} is neither \"text\" nor \"text_pair\"") })
        }
        None => Ok(()),
    }
}
