//! Zero-shot classification: each label becomes a hypothesis that a model of natural language inference judges. (PO-05)

use serde_json::{Value, json};

use super::math::{number, softmax};
use super::run::Sequence;
use super::{Args, Input, ModelInfo, Pipeline, PipelineError};
use crate::tokenizer::{EncodeOptions, Text, TokenizerError, Truncation};

pub(super) fn call(pipeline: &Pipeline, inputs: &[Input], args: &Args) -> Result<Vec<Value>, PipelineError> {
    let labels = labels(args)?;
    let template = args.text("hypothesis_template").unwrap_or("This example is {}.");
    let hypotheses = labels.iter().map(|label| format_template(template, label)).collect::<Result<Vec<_>, _>>()?;

    let mut texts = Vec::with_capacity(inputs.len());
    let mut sequences = Vec::with_capacity(inputs.len() * labels.len());
    for (index, input) in inputs.iter().enumerate() {
        let text = input.text(index)?;
        if text.is_empty() {
            return Err(PipelineError::Input { index, problem: "is empty".into() });
        }
        sequences.extend(pairs(pipeline, index, text, &hypotheses)?);
        texts.push(text);
    }

    let mut logits: Vec<Vec<f32>> = Vec::with_capacity(sequences.len());
    pipeline.run(&sequences, args, |_, answer| {
        logits.push(answer.row(&["logits"])?.to_vec());
        Ok(())
    })?;
    let entailment = entailment_id(pipeline.info());
    let multi_label = args.flag("multi_label") == Some(true) || labels.len() == 1;
    let answers = texts.iter().zip(logits.chunks_exact(labels.len()));
    answers.map(|(text, rows)| answer(text, &labels, rows, entailment, multi_label)).collect()
}

/// The candidate labels: a list, or one text split at commas.
fn labels(args: &Args) -> Result<Vec<&str>, PipelineError> {
    let labels: Vec<&str> = match args.text("candidate_labels") {
        Some(joined) => joined.split(',').map(str::trim).filter(|label| !label.is_empty()).collect(),
        None => args.list("candidate_labels").unwrap_or_default(),
    };
    if labels.is_empty() {
        return Err(PipelineError::argument("candidate_labels", "at least one label is needed"));
    }
    Ok(labels)
}

/// Puts `label` at each `{}` (or `{0}`); `{{` and `}}` stand for braces, as in Python's `str.format`.
fn format_template(template: &str, label: &str) -> Result<String, PipelineError> {
    let wrong = |problem: &str| PipelineError::argument("hypothesis_template", format!("{template:?} {problem}"));
    let mut out = String::new();
    let mut rest = template;
    let mut filled = false;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, brace) = rest.split_at(at);
        out.push_str(before);
        let field = ["{}", "{0}"].into_iter().find(|f| brace.starts_with(f));
        rest = if let Some(field) = field {
            out.push_str(label);
            filled = true;
            &brace[field.len()..]
        } else if brace.starts_with("{{") || brace.starts_with("}}") {
            out.push_str(&brace[..1]);
            &brace[2..]
        } else {
            return Err(wrong("has a brace that is neither {} nor doubled"));
        };
    }
    out.push_str(rest);
    if filled { Ok(out) } else { Err(wrong("has no {} where the label should go")) }
}

/// The text with each hypothesis. Only the text is cut, never the hypothesis.
fn pairs(pipeline: &Pipeline, index: usize, text: &str, hypotheses: &[String]) -> Result<Vec<Sequence>, PipelineError> {
    let inputs: Vec<_> =
        hypotheses.iter().map(|h| (Text::Raw(text), Some(Text::Raw(h)).filter(|_| !h.is_empty()))).collect();
    let encode = |truncation| {
        let options = EncodeOptions { truncation: Some(truncation), ..EncodeOptions::default() };
        pipeline.tokenizer.encode_batch(&inputs, &options)
    };
    // A hypothesis that fills the model by itself leaves nothing to cut: then the length check speaks.
    let batch = match encode(Truncation::OnlyFirst) {
        Err(TokenizerError::TooShort { .. }) => encode(Truncation::DoNotTruncate),
        other => other,
    };
    let batch = batch.map_err(|source| PipelineError::Tokenizer { index, source })?;
    batch.rows.iter().map(|row| pipeline.sequence(index, row, "use shorter labels or a shorter template")).collect()
}

/// Index of the first label that is called something like entailment.
fn entailment_id(info: &ModelInfo) -> Option<usize> {
    let found = info.label2id.iter().find(|(label, _)| label.to_lowercase().starts_with("entail")).map(|(_, id)| *id);
    if found.is_none() {
        tracing::warn!("no label of the model starts with \"entail\": the last one is taken for entailment");
    }
    found
}

fn answer(
    text: &str,
    labels: &[&str],
    logits: &[Vec<f32>],
    entailment: Option<usize>,
    multi_label: bool,
) -> Result<Value, PipelineError> {
    // An index counts from the end where upstream's is -1.
    let pick = |row: &[f32], id: Option<usize>| {
        let id = id.or_else(|| row.len().checked_sub(1));
        let value = id.and_then(|id| row.get(id)).copied();
        value.ok_or_else(|| {
            PipelineError::output("logits", format!("have {} labels, too few for entailment", row.len()))
        })
    };
    let entail = logits.iter().map(|row| pick(row, entailment)).collect::<Result<Vec<_>, _>>()?;
    let scores = if multi_label {
        // Each label by itself: entailment against contradiction, which is the first label, or the last if that is
        // entailment.
        let contradiction = if entailment == Some(0) { None } else { Some(0) };
        let against = logits.iter().map(|row| pick(row, contradiction)).collect::<Result<Vec<_>, _>>()?;
        entail.iter().zip(against).map(|(&e, c)| softmax(&[c, e])[1]).collect()
    } else {
        softmax(&entail)
    };
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // Upstream reverses an ascending order, so of equal scores the later label comes first.
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    order.reverse();
    Ok(json!({
        "sequence": text,
        "labels": order.iter().map(|&i| labels[i]).collect::<Vec<_>>(),
        "scores": order.iter().map(|&i| number(scores[i])).collect::<Vec<_>>(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        assert_eq!(format_template("It is {}.", "a{}b").unwrap(), "It is a{}b.");
        assert_eq!(format_template("{{{0}}} {}", "x").unwrap(), "{x} x");
        for wrong in ["nothing", "{", "}", "{name}", "{1}", "{{}}"] {
            assert!(format_template(wrong, "x").unwrap_err().is_usage(), "{wrong}");
        }
    }
}
