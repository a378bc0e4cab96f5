//! Answers as people read them. The JSON form is the pipelines' own.

use std::io::{self, Write};

use serde_json::Value;

use crate::pipelines::{Input, Task};

/// Prints the answer to one input; `many` inputs are told apart by a line with the input's beginning.
///
/// # Errors
/// When it cannot be written.
pub fn print(task: Task, input: &Input, answer: &Value, many: bool, out: &mut (impl Write + ?Sized)) -> io::Result<()> {
    if many && task != Task::SentenceEmbedding && task != Task::FeatureExtraction {
        writeln!(out, "{}", title(input))?;
    }
    let indent = if many { "  " } else { "" };
    match task {
        Task::TextClassification => rows(answer, out, indent, &["score", "label"]),
        Task::TokenClassification => {
            rows(answer, out, indent, &["score", "entity", "entity_group", "start", "end", "word"])
        }
        Task::FillMask => rows(answer, out, indent, &["score", "token_str", "sequence"]),
        Task::QuestionAnswering => rows(answer, out, indent, &["score", "start", "end", "answer"]),
        Task::ZeroShotClassification => {
            let (labels, scores) = (items(&answer["labels"]), items(&answer["scores"]));
            for (label, score) in labels.iter().zip(scores) {
                writeln!(out, "{indent}{}  {}", cell(score), cell(label))?;
            }
            Ok(())
        }
        Task::SentenceEmbedding | Task::FeatureExtraction => writeln!(out, "{answer}"),
        Task::TextGeneration => print_results(answer, 0, indent, out),
    }
}

/// Prints the results of text generation from the one numbered `from` on, several of them apart from each other.
///
/// # Errors
/// When they cannot be written.
pub fn print_results(answer: &Value, from: usize, indent: &str, out: &mut (impl Write + ?Sized)) -> io::Result<()> {
    let results = items(answer);
    for (i, result) in results.iter().enumerate().skip(from) {
        if results.len() > 1 {
            writeln!(out, "{indent}[{}]", i + 1)?;
        }
        let text = match &result["generated_text"] {
            Value::String(text) => text.clone(),
            Value::Array(messages) => messages.last().map(|m| cell(&m["content"])).unwrap_or_default(),
            _ => result["generated_token_ids"].to_string(),
        };
        for line in text.lines() {
            writeln!(out, "{indent}{line}")?;
        }
    }
    Ok(())
}

fn title(input: &Input) -> String {
    let text = match input {
        Input::Text(text) => text.clone(),
        Input::Words(words) => words.join(" "),
        Input::Record(map) => map.values().filter_map(Value::as_str).collect::<Vec<_>>().join(" | "),
        Input::Messages(messages) => messages.last().map(|m| cell(&m["content"])).unwrap_or_default(),
    };
    let short: String = text.chars().take(72).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        other => std::slice::from_ref(other),
    }
}

/// One line for each result, of those fields that it has. Lists in lists (several masks) follow each other.
fn rows(answer: &Value, out: &mut (impl Write + ?Sized), indent: &str, fields: &[&str]) -> io::Result<()> {
    for item in items(answer) {
        if item.is_array() {
            rows(item, out, indent, fields)?;
            continue;
        }
        let cells: Vec<String> = fields.iter().filter_map(|f| item.get(f)).map(cell).collect();
        writeln!(out, "{indent}{}", cells.join("  "))?;
    }
    Ok(())
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(n) if n.is_f64() => format!("{:.4}", n.as_f64().unwrap_or(f64::NAN)),
        other => other.to_string(),
    }
}
