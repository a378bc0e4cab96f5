//! From architecture names to heads and pipeline tasks (TR-02).

use std::fmt;
use std::str::FromStr;

/// What stands on top of a model's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Head {
    /// None: hidden states.
    Base,
    /// One class per sequence.
    SequenceClassification,
    /// One class per token.
    TokenClassification,
    /// A token for each masked position.
    MaskedLm,
    /// Start and end of an answer.
    QuestionAnswering,
    /// The token that follows each token.
    CausalLm,
}

impl Head {
    /// Every head.
    pub const ALL: [Head; 6] = [
        Head::Base,
        Head::SequenceClassification,
        Head::TokenClassification,
        Head::MaskedLm,
        Head::QuestionAnswering,
        Head::CausalLm,
    ];

    /// What an architecture's name ends with: `ForMaskedLM` in `BertForMaskedLM`.
    pub const fn suffix(self) -> &'static str {
        match self {
            Head::Base => "Model",
            Head::SequenceClassification => "ForSequenceClassification",
            Head::TokenClassification => "ForTokenClassification",
            Head::MaskedLm => "ForMaskedLM",
            Head::QuestionAnswering => "ForQuestionAnswering",
            Head::CausalLm => "ForCausalLM",
        }
    }

    /// The head of an architecture's name less its family, if Lith has it.
    pub fn from_suffix(suffix: &str) -> Option<Head> {
        // What GPT-2's class is called.
        if suffix == "LMHeadModel" {
            return Some(Head::CausalLm);
        }
        Head::ALL.into_iter().find(|head| head.suffix() == suffix)
    }

    /// The pipeline task a model with this head serves when none is asked for.
    pub const fn task(self) -> &'static str {
        match self {
            Head::Base => "feature-extraction",
            Head::SequenceClassification => "text-classification",
            Head::TokenClassification => "token-classification",
            Head::MaskedLm => "fill-mask",
            Head::QuestionAnswering => "question-answering",
            Head::CausalLm => "text-generation",
        }
    }

    /// The head a pipeline task needs, if it is a task of one model. Aliases count (TR-01).
    pub fn for_task(task: &str) -> Option<Head> {
        Some(match task {
            "feature-extraction" | "sentence-embedding" => Head::Base,
            "text-classification" | "sentiment-analysis" | "zero-shot-classification" => Head::SequenceClassification,
            "token-classification" | "ner" => Head::TokenClassification,
            "fill-mask" => Head::MaskedLm,
            "question-answering" => Head::QuestionAnswering,
            "text-generation" => Head::CausalLm,
            _ => return None,
        })
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Head::Base => "base",
            Head::SequenceClassification => "sequence-classification",
            Head::TokenClassification => "token-classification",
            Head::MaskedLm => "masked-lm",
            Head::QuestionAnswering => "question-answering",
            Head::CausalLm => "causal-lm",
        })
    }
}

impl FromStr for Head {
    type Err = String;
    /// Reads what [`Head`] displays.
    fn from_str(text: &str) -> Result<Head, String> {
        Head::ALL.into_iter().find(|head| head.to_string() == text).ok_or_else(|| format!("unknown head `{text}`"))
    }
}
