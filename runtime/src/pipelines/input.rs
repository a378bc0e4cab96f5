//! Inputs of a pipeline: texts, lists of words and records, from JSON and from lines of text.
//! Must not know what a task makes of them.

use serde_json::{Map, Value};

use super::error::PipelineError;
use super::model::Task;

/// One input.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A text.
    Text(String),
    /// The words of a text.
    Words(Vec<String>),
    /// Named texts: `{"text", "text_pair"}` or `{"question", "context"}`.
    Record(Map<String, Value>),
    /// A conversation: objects with `role` and `content`.
    Messages(Vec<Value>),
}

impl From<&str> for Input {
    fn from(text: &str) -> Self {
        Input::Text(text.into())
    }
}

impl Task {
    /// The names of the texts in a record, for tasks that take records. The first is needed.
    pub fn record_keys(self) -> &'static [&'static str] {
        match self {
            Task::TextClassification => &["text", "text_pair"],
            Task::QuestionAnswering => &["question", "context"],
            Task::TokenClassification
            | Task::FillMask
            | Task::FeatureExtraction
            | Task::ZeroShotClassification
            | Task::SentenceEmbedding
            | Task::TextGeneration => &[],
        }
    }
}

impl Input {
    /// An input given on the command line or as a line of a file.
    ///
    /// A line is plain text, except: a JSON object whose keys are those of the task's records
    /// (`{"text": ..., "text_pair": ...}`, `{"question": ..., "context": ...}`) is a record, for token classification
    /// a JSON list of texts is a list of words, and for text generation a JSON list of messages is a conversation.
    pub fn from_line(task: Task, line: &str) -> Input {
        let start = line.trim_start();
        let json: Option<Value> = start.starts_with(['{', '[']).then(|| serde_json::from_str(line).ok()).flatten();
        match json {
            Some(Value::Object(map))
                if !map.is_empty() && map.keys().all(|k| task.record_keys().contains(&k.as_str())) =>
            {
                Input::Record(map)
            }
            Some(Value::Array(items)) if task == Task::TokenClassification => match words(&items) {
                Some(words) => Input::Words(words),
                None => Input::Text(line.into()),
            },
            Some(Value::Array(items)) if task == Task::TextGeneration && is_chat(&items) => Input::Messages(items),
            _ => Input::Text(line.into()),
        }
    }

    fn from_json(index: usize, value: &Value) -> Result<Input, PipelineError> {
        let problem = || PipelineError::Input {
            index,
            problem: format!("expected a text, a list of words or an object with named texts, found {value}"),
        };
        match value {
            Value::String(text) => Ok(Input::Text(text.clone())),
            Value::Array(items) if is_chat(items) => Ok(Input::Messages(items.clone())),
            Value::Array(items) => words(items).map(Input::Words).ok_or_else(problem),
            Value::Object(map) => Ok(Input::Record(map.clone())),
            _ => Err(problem()),
        }
    }

    /// The text of this input, for tasks that take nothing else.
    pub(super) fn text(&self, index: usize) -> Result<&str, PipelineError> {
        match self {
            Input::Text(text) => Ok(text),
            Input::Words(_) | Input::Record(_) | Input::Messages(_) => {
                Err(PipelineError::Input { index, problem: "this task takes plain texts".into() })
            }
        }
    }
}

/// Whether a list is a conversation.
fn is_chat(items: &[Value]) -> bool {
    items.first().is_some_and(|first| first.get("role").is_some())
}

/// A text of a record.
pub(super) fn field<'a>(
    record: &'a Map<String, Value>,
    index: usize,
    name: &str,
) -> Result<Option<&'a str>, PipelineError> {
    match record.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => {
            Err(PipelineError::Input { index, problem: format!("{name:?}: expected a text, found {other}") })
        }
    }
}

fn words(items: &[Value]) -> Option<Vec<String>> {
    items.iter().map(|w| w.as_str().map(str::to_string)).collect()
}

/// How the inputs of a call were given, which decides the shape of the result. (PP-01)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One input by itself.
    Single,
    /// A list.
    List,
    /// The words of one text, which upstream takes as a list of one.
    WordsAlone,
}

/// The inputs of a call as Transformers takes them.
pub(super) fn read(task: Task, split: bool, value: &Value) -> Result<(Vec<Input>, Form), PipelineError> {
    match value {
        Value::Array(items) if split && items.iter().all(Value::is_string) => {
            Ok((vec![Input::from_json(0, value)?], Form::WordsAlone))
        }
        Value::Array(items) if task == Task::TextGeneration && is_chat(items) => {
            Ok((vec![Input::Messages(items.clone())], Form::Single))
        }
        Value::Array(items) => {
            let inputs = items.iter().enumerate().map(|(i, item)| Input::from_json(i, item));
            let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
            // Upstream, a list of one question is a question.
            let form = if task == Task::QuestionAnswering && inputs.len() == 1 { Form::Single } else { Form::List };
            Ok((inputs, form))
        }
        Value::Object(map) if task == Task::QuestionAnswering && map.get("question").is_some_and(Value::is_array) => {
            let records = questions(map)?;
            let form = if records.len() == 1 { Form::Single } else { Form::List };
            Ok((records, form))
        }
        one => Ok((vec![Input::from_json(0, one)?], Form::Single)),
    }
}

/// `{"question": [...], "context": ...}`: several questions about one context, or each about its own.
fn questions(map: &Map<String, Value>) -> Result<Vec<Input>, PipelineError> {
    let wrong = |problem: String| PipelineError::Input { index: 0, problem };
    let questions = map.get("question").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let contexts: Vec<&Value> = match map.get("context") {
        Some(Value::Array(contexts)) if contexts.len() == questions.len() => contexts.iter().collect(),
        Some(Value::Array(contexts)) => {
            return Err(wrong(format!("{} questions and {} contexts", questions.len(), contexts.len())));
        }
        Some(context) => vec![context; questions.len()],
        None => return Err(wrong("\"context\" is missing".into())),
    };
    let record = |(question, context): (&Value, &Value)| {
        let fields = [("question".to_string(), question.clone()), ("context".to_string(), context.clone())];
        Input::Record(fields.into_iter().collect())
    };
    Ok(questions.iter().zip(contexts).map(record).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_text_unless_they_are_records() {
        let task = Task::TextClassification;
        assert_eq!(Input::from_line(task, "a { b"), Input::Text("a { b".into()));
        assert_eq!(Input::from_line(task, "{not json"), Input::Text("{not json".into()));
        assert_eq!(Input::from_line(task, r#"{"other": 1}"#), Input::Text(r#"{"other": 1}"#.into()));
        assert!(matches!(Input::from_line(task, r#"{"text": "a", "text_pair": "b"}"#), Input::Record(_)));
        assert!(matches!(Input::from_line(Task::FillMask, r#"{"text": "a"}"#), Input::Text(_)));
        assert_eq!(Input::from_line(task, r#"["a", "b"]"#), Input::Text(r#"["a", "b"]"#.into()));
        let ner = Task::TokenClassification;
        assert_eq!(Input::from_line(ner, r#"["a", "b"]"#), Input::Words(vec!["a".into(), "b".into()]));
    }
}
