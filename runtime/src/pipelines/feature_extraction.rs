//! Feature extraction: the hidden states of each token. (PO-08)

use serde_json::Value;

use super::math::number;
use super::{Args, Input, Pipeline, PipelineError};
use crate::tokenizer::Text;

pub(super) fn call(pipeline: &Pipeline, inputs: &[Input], args: &Args) -> Result<Vec<Value>, PipelineError> {
    let kwargs = args.get("tokenize_kwargs");
    if args.get("truncation").is_some() && kwargs.is_some_and(|k| k.get("truncation").is_some()) {
        return Err(PipelineError::argument("truncation", "is given twice, also in tokenize_kwargs"));
    }
    let options = pipeline.encode_options(|name| args.get(name).or_else(|| kwargs?.get(name)))?;
    let mut texts = Vec::with_capacity(inputs.len());
    for (index, input) in inputs.iter().enumerate() {
        texts.push((Text::Raw(input.text(index)?), None));
    }
    let (rows, _) = pipeline.encode(&texts, &options)?;
    let sequences = rows.iter().enumerate().map(|(i, row)| pipeline.sequence(i, row, "cut it with truncation=true"));
    let sequences = sequences.collect::<Result<Vec<_>, _>>()?;

    let mut answers = Vec::with_capacity(inputs.len());
    pipeline.run(&sequences, args, |_, answer| {
        let (width, states) = answer.rows(&["last_hidden_state", "logits"])?;
        let tokens: Value =
            states.chunks_exact(width).map(|row| row.iter().copied().map(number).collect::<Value>()).collect();
        // Upstream keeps the batch dimension of one.
        answers.push(Value::Array(vec![tokens]));
        Ok(())
    })?;
    Ok(answers)
}
