//! Fill mask: the likeliest tokens at each masked place. (PO-03)

use serde_json::{Value, json};

use super::math::{number, softmax};
use super::{Args, Input, Pipeline, PipelineError};
use crate::tokenizer::{EncodeOptions, Encoding, Text, TokenizerError, Truncation};

pub(super) fn call(pipeline: &Pipeline, inputs: &[Input], args: &Args) -> Result<Vec<Value>, PipelineError> {
    let kwargs = args.get("tokenizer_kwargs");
    let options = pipeline.encode_options(|name| kwargs?.get(name))?;
    let top_k = args.positive("top_k")?.unwrap_or(5);
    let targets = args.list("targets").map(|targets| target_ids(pipeline, &targets)).transpose()?;
    // `Pipeline::new` saw to it that there is one.
    let mask = pipeline.tokenizer.mask_token_id().unwrap_or(u32::MAX);

    let mut texts = Vec::with_capacity(inputs.len());
    for (index, input) in inputs.iter().enumerate() {
        texts.push((Text::Raw(input.text(index)?), None));
    }
    let (rows, _) = pipeline.encode(&texts, &options)?;
    let mut sequences = Vec::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        if !row.ids.contains(&mask) {
            let token = pipeline.tokenizer.mask_token().unwrap_or_default();
            let problem = format!("no mask_token ({token}) found on the input");
            return Err(PipelineError::Input { index, problem });
        }
        sequences.push(pipeline.sequence(index, row, "cut it with tokenizer_kwargs={\"truncation\": true}")?);
    }

    let mut answers = Vec::with_capacity(inputs.len());
    pipeline.run(&sequences, args, |i, answer| {
        let (width, logits) = answer.rows(&["logits"])?;
        let row = &rows[i];
        let places: Vec<usize> = (0..row.len()).filter(|&t| row.ids[t] == mask).collect();
        let mut masks = Vec::with_capacity(places.len());
        for &place in &places {
            let scores = softmax(&logits[place * width..(place + 1) * width]);
            let best = best_tokens(&scores, targets.as_deref(), top_k);
            let filled = best
                .into_iter()
                .map(|id| proposal(pipeline, i, row, place, id, scores[id as usize], places.len() == 1));
            masks.push(filled.collect::<Result<Value, _>>()?);
        }
        answers.push(if masks.len() == 1 { masks.remove(0) } else { Value::Array(masks) });
        Ok(())
    })?;
    Ok(answers)
}

/// The `top_k` ids with the highest scores, best first, of all or of `targets`.
fn best_tokens(scores: &[f32], targets: Option<&[u32]>, top_k: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = match targets {
        Some(targets) => targets.iter().copied().filter(|&id| (id as usize) < scores.len()).collect(),
        None => (0..).take(scores.len()).collect(),
    };
    let order = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
    if top_k < ids.len() {
        ids.select_nth_unstable_by(top_k, order);
        ids.truncate(top_k);
    }
    ids.sort_unstable_by(order);
    ids
}

fn proposal(
    pipeline: &Pipeline,
    index: usize,
    row: &Encoding,
    place: usize,
    id: u32,
    score: f32,
    single: bool,
) -> Result<Value, PipelineError> {
    let tokenizer = &pipeline.tokenizer;
    let failed = |source: TokenizerError| PipelineError::Tokenizer { index, source };
    let pad = tokenizer.pad_token_id();
    let filled: Vec<u32> =
        (0..row.len()).map(|t| if t == place { id } else { row.ids[t] }).filter(|&t| Some(t) != pad).collect();
    // With several masks the others must stay visible, so special tokens do.
    let sequence = decode(pipeline, &filled, single).map_err(failed)?;
    let token_str = decode(pipeline, &[id], false).map_err(failed)?;
    Ok(json!({ "score": number(score), "token": id, "token_str": token_str, "sequence": sequence }))
}

/// Decodes, leaving out ids that only the model's table has: embeddings are often padded beyond the vocabulary.
fn decode(pipeline: &Pipeline, ids: &[u32], skip_special_tokens: bool) -> Result<String, TokenizerError> {
    let known: Vec<u32> = ids.iter().copied().filter(|&id| pipeline.tokenizer.id_to_token(id).is_ok()).collect();
    pipeline.tokenizer.decode(&known, skip_special_tokens, None)
}

/// The ids of target tokens; a text that is no token stands for its first one.
fn target_ids(pipeline: &Pipeline, targets: &[&str]) -> Result<Vec<u32>, PipelineError> {
    let options = EncodeOptions {
        add_special_tokens: false,
        truncation: Some(Truncation::LongestFirst),
        max_length: Some(1),
        ..EncodeOptions::default()
    };
    let mut ids = Vec::with_capacity(targets.len());
    for target in targets {
        if let Some(id) = pipeline.tokenizer.token_to_id(target) {
            ids.push(id);
            continue;
        }
        let row = pipeline.tokenizer.encode(*target, None, &options);
        let row = row.map_err(|e| PipelineError::argument("targets", format!("{target:?}: {e}")))?.into_single();
        match (row.ids.first(), row.tokens.first()) {
            (Some(&id), Some(token)) => {
                tracing::warn!("target {target:?} is not in the vocabulary: {token:?} is taken in its place");
                ids.push(id);
            }
            _ => tracing::warn!("target {target:?} is not in the vocabulary and is ignored"),
        }
    }
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() { Err(PipelineError::argument("targets", "at least one target is needed")) } else { Ok(ids) }
}
