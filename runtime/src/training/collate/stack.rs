//! Features of whole samples, stacked; and the collators that need no more. Must not know tokens.

use super::batch::Batch;
use super::error::CollateError;
use super::layout::{Layout, TOKEN_FEATURES, Tokens, describe, missing, shape};
use super::{Collator, Feature, Sample};

/// The names under which datasets have the target; in a batch it is `labels`. (DS-04)
const LABELS: [&str; 2] = ["label", "label_ids"];

/// Stacks the feature `name` of all samples as `target`: numbers to `[samples]`, lists of one length to `[samples, length]`.
pub(super) fn stack(batch: &mut Batch, samples: &[Sample<'_>], name: &str, target: &str) -> Result<(), CollateError> {
    let (mut ints, mut floats) = (Vec::new(), Vec::new());
    let mut width: Option<Option<usize>> = None;
    for (i, sample) in samples.iter().enumerate() {
        let feature = sample.example.get(name).ok_or_else(|| missing(samples, i, name))?;
        let found = match feature {
            Feature::Int(_) | Feature::Float(_) => None,
            Feature::Ints(values) => Some(values.len()),
            Feature::Floats(values) => Some(values.len()),
        };
        let expected = *width.get_or_insert(found);
        let first = samples.first().and_then(|s| s.example.get(name));
        let same_kind = first.is_some_and(|f| std::mem::discriminant(f) == std::mem::discriminant(feature));
        if !same_kind || expected != found {
            let expected = first.map(describe).unwrap_or_default();
            return Err(shape(i, name, format!("{expected}, as in sample 0"), describe(feature)));
        }
        match feature {
            Feature::Int(x) => ints.push(*x),
            Feature::Float(x) => floats.push(*x),
            Feature::Ints(values) => ints.extend(values),
            Feature::Floats(values) => floats.extend(values),
        }
    }
    let dims: Vec<usize> = std::iter::once(samples.len()).chain(width.flatten()).collect();
    match samples.first().and_then(|s| s.example.get(name)) {
        Some(Feature::Float(_) | Feature::Floats(_)) => batch.set_f32(target, dims, &floats),
        _ => batch.set_i32(target, dims, &ints),
    }
}

/// Stacks all features but those in `except`; a label becomes `labels`.
pub(super) fn stack_others(batch: &mut Batch, samples: &[Sample<'_>], except: &[&str]) -> Result<(), CollateError> {
    let Some(first) = samples.first() else { return Err(CollateError::Empty) };
    let label = LABELS.iter().find(|name| first.example.get(name).is_some());
    for (name, _) in first.example.fields().filter(|(name, _)| !except.contains(name)) {
        match label {
            Some(label) if name == *label => stack(batch, samples, name, "labels")?,
            // Of `label` and `label_ids` the first counts.
            _ if LABELS.contains(&name) => {}
            _ => stack(batch, samples, name, name)?,
        }
    }
    Ok(())
}

/// Stacks features of equal shape. (COL-01)
#[derive(Debug, Clone, Copy, Default)]
pub struct DefaultDataCollator;

impl Collator for DefaultDataCollator {
    fn collate(&self, samples: &[Sample<'_>]) -> Result<Batch, CollateError> {
        let mut batch = Batch::default();
        stack_others(&mut batch, samples, &[])?;
        Ok(batch)
    }
}

/// Tokens of any number, joined or padded, and a target for each sample. (COL-02)
#[derive(Debug, Clone, Default)]
pub struct DataCollatorWithPadding {
    /// How tokens lie.
    pub layout: Layout,
}

impl Collator for DataCollatorWithPadding {
    fn collate(&self, samples: &[Sample<'_>]) -> Result<Batch, CollateError> {
        let mut batch = Tokens::read(samples, &self.layout)?.into_batch(&self.layout)?;
        stack_others(&mut batch, samples, &TOKEN_FEATURES)?;
        Ok(batch)
    }
}
