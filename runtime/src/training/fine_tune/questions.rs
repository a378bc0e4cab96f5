//! Evaluation of question answering: the answers that a model finds in windows of contexts, against those of the rows.
//! Must not know how examples are made or programs run.

use std::sync::Arc;

use super::{DataError, Dataset, Examples};
use crate::training::data::{Feature, Preprocessor, QuestionAnswering, Rows, prepare};
use crate::training::metrics::{
    Answer, AnswerSettings, MetricError, Metrics, SquadAnswer, Window, extract_answers, squad, squad_v2,
};
use crate::training::trainer::Predictions;

/// The questions of a set of rows, with their windows in the order of the examples.
pub(super) struct Questions {
    contexts: Vec<String>,
    references: Vec<Vec<String>>,
    windows: Box<dyn Examples>,
}

impl Questions {
    /// The questions of these rows, as `task` cuts them to windows.
    ///
    /// # Errors
    /// When a row is wrong.
    pub fn new(rows: &Dataset, task: &QuestionAnswering) -> Result<Questions, DataError> {
        let contexts = rows.iter().map(|row| row.text(&task.context).map(String::from)).collect::<Result<_, _>>()?;
        let references = rows.iter().map(|row| task.references(row)).collect::<Result<_, _>>()?;
        let mut task = task.clone();
        task.for_prediction = true;
        let task: Arc<dyn Preprocessor> = Arc::new(task);
        Ok(Questions { contexts, references, windows: prepare(Rows::Memory(rows), task, None, None)? })
    }

    /// `exact_match` and `f1` of SQuAD 1.1; where a question has no answer, the metrics of 2.0. In percent.
    ///
    /// # Errors
    /// When the predictions are not of these questions' windows.
    pub fn metrics(&self, predictions: &Predictions) -> Result<Metrics, MetricError> {
        let with_negative = self.references.iter().any(Vec::is_empty);
        let answers = self.answers(predictions, with_negative)?;
        let references: Vec<Vec<&str>> =
            self.references.iter().map(|texts| texts.iter().map(String::as_str).collect()).collect();
        if with_negative {
            // How probable it is that there is no answer is not said, as in Transformers' example.
            let answers: Vec<SquadAnswer<'_>> =
                answers.iter().map(|a| SquadAnswer { text: &a.text, no_answer_probability: 0.0 }).collect();
            return squad_v2(&answers, &references, 1.0);
        }
        let answers: Vec<&str> = answers.iter().map(|answer| answer.text.as_str()).collect();
        let (exact, f1) = squad(&answers, &references)?;
        Ok(vec![("exact_match".into(), exact), ("f1".into(), f1)])
    }

    fn answers(&self, predictions: &Predictions, with_negative: bool) -> Result<Vec<Answer>, MetricError> {
        let logits = |name: &str| predictions.output(name).map(|tensor| tensor.f32s()).unwrap_or_default();
        let (starts, ends) = (logits("start_logits"), logits("end_logits"));
        let sequences = predictions.offsets.len().saturating_sub(1);
        if sequences != self.windows.len() {
            return Err(MetricError::Lengths { predictions: sequences, references: self.windows.len() });
        }
        let wrong = |at: usize, found: String| MetricError::Value {
            what: format!("window {at}"),
            expected: "a window of a question with logits for its tokens".into(),
            found,
        };
        let windows: Vec<_> = (0..sequences)
            .map(|at| self.windows.get(at).map_err(|e| wrong(at, e.to_string())))
            .collect::<Result<_, _>>()?;
        let parts = windows.iter().zip(predictions.offsets.windows(2)).enumerate().map(|(at, (window, tokens))| {
            let index = |name: &str| match window.get(name) {
                Some(Feature::Int(value)) => usize::try_from(*value).ok(),
                _ => None,
            };
            let part = || {
                Some(Window {
                    question: index("overflow_to_sample_mapping")?,
                    offsets: window.ints("offset_mapping")?,
                    start_logits: starts.get(tokens[0]..tokens[1])?,
                    end_logits: ends.get(tokens[0]..tokens[1])?,
                    null_token: index("null_token")?,
                })
            };
            part().ok_or_else(|| wrong(at, format!("tokens {tokens:?} of {} logits", starts.len())))
        });
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        let contexts: Vec<&str> = self.contexts.iter().map(String::as_str).collect();
        let settings = AnswerSettings { version_2_with_negative: with_negative, ..AnswerSettings::default() };
        extract_answers(&contexts, &parts, &settings)
    }
}
