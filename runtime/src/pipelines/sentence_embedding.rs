//! Sentence embedding: one vector a text, as sentence-transformers makes it, and cosine similarities.

use std::borrow::Cow;

use serde_json::Value;

use super::math::number;
use super::{Args, Input, Pipeline, PipelineError};
use crate::tokenizer::{EncodeOptions, Text, Truncation};

pub(super) fn call(pipeline: &Pipeline, inputs: &[Input], args: &Args) -> Result<Vec<Value>, PipelineError> {
    // sentence-transformers cuts every text silently.
    let limit = [pipeline.info().max_seq_length, pipeline.tokenizer().model_max_length].into_iter().flatten().min();
    let truncation = Some(if limit.is_some() { Truncation::LongestFirst } else { Truncation::DoNotTruncate });
    let options = EncodeOptions { truncation, max_length: limit, ..EncodeOptions::default() };
    let mut texts: Vec<Cow<'_, str>> = Vec::with_capacity(inputs.len());
    for (index, input) in inputs.iter().enumerate() {
        let text = input.text(index)?;
        texts.push(if pipeline.info().do_lower_case { text.to_lowercase().into() } else { text.into() });
    }
    let texts: Vec<_> = texts.iter().map(|text| (Text::Raw(text), None)).collect();
    let (rows, _) = pipeline.encode(&texts, &options)?;
    let sequences = rows.iter().enumerate().map(|(i, row)| pipeline.sequence(i, row, "shorten it"));
    let sequences = sequences.collect::<Result<Vec<_>, _>>()?;

    let mut vectors: Vec<Vec<f32>> = Vec::with_capacity(inputs.len());
    pipeline.run(&sequences, args, |_, answer| {
        vectors.push(answer.row(&["sentence_embedding"])?.to_vec());
        Ok(())
    })?;
    Ok(if args.flag("similarity") == Some(true) {
        similarities(&vectors)
    } else {
        vectors.iter().map(|v| list(v)).collect()
    })
}

fn list(values: &[f32]) -> Value {
    values.iter().copied().map(number).collect()
}

/// Row `i`: the cosines of vector `i` to all; 0 to a vector of zeros. Summed in float64, so the matrix is symmetric and
/// exact to the last places of float32.
fn similarities(vectors: &[Vec<f32>]) -> Vec<Value> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let norms: Vec<f64> = vectors.iter().map(|v| dot(v, v).sqrt()).collect();
    let cosine = |i: usize, j: usize| {
        let scale = norms[i] * norms[j];
        if scale > 0.0 { (dot(&vectors[i], &vectors[j]) / scale) as f32 } else { 0.0 }
    };
    (0..vectors.len()).map(|i| (0..vectors.len()).map(|j| number(cosine(i, j))).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cosines() {
        let rows = similarities(&[vec![3.0, 4.0], vec![-4.0, 3.0], vec![0.0, 0.0], vec![6.0, 8.0]]);
        assert_eq!(rows[0], json!([1.0, 0.0, 0.0, 1.0]));
        assert_eq!(rows[2], json!([0.0, 0.0, 0.0, 0.0]));
    }
}
