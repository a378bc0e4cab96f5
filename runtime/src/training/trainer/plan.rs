//! How many batches, updates and epochs a run has. (TL-02)

use super::TrainerError;
use crate::training::arguments::TrainingArguments;

/// The counts of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Plan {
    /// Examples of a batch.
    pub(super) batch_size: usize,
    /// Batches of an update.
    pub(super) window: u64,
    /// Examples of an epoch that batches are made of; `None` of streams.
    pub(super) examples: Option<u64>,
    /// Batches of an epoch; of streams those of the whole run.
    pub(super) batches: u64,
    /// Updates of an epoch; of streams those of the whole run.
    pub(super) updates: u64,
    /// Updates of the run.
    pub(super) max_steps: u64,
    /// Epochs of the run, the last perhaps not to its end; of streams as many as it takes.
    pub(super) epochs: u64,
    /// Examples of the whole run, for speeds.
    pub(super) samples: f64,
}

impl Plan {
    /// The plan for data of this length (`None`: a stream) in batches of this size.
    pub(super) fn new(
        args: &TrainingArguments,
        length: Option<usize>,
        batch_size: usize,
    ) -> Result<Plan, TrainerError> {
        let window = args.gradient_accumulation_steps as u64;
        let total = batch_size as f64 * window as f64;
        let given = u64::try_from(args.max_steps).ok().filter(|&steps| steps > 0);
        let Some(length) = length else {
            let Some(max_steps) = given else {
                return Err(TrainerError::conflict("streams have no length: max_steps must be above 0"));
            };
            let batches = max_steps.saturating_mul(window);
            return Ok(Plan {
                batch_size,
                window,
                examples: None,
                batches,
                updates: max_steps,
                max_steps,
                epochs: u64::MAX,
                samples: max_steps as f64 * total,
            });
        };
        let (length, size) = (length as u64, batch_size as u64);
        let batches = if args.dataloader_drop_last { length / size } else { length.div_ceil(size) };
        if batches == 0 {
            let why =
                if length == 0 { "there are no training examples" } else { "dataloader_drop_last leaves no batch" };
            return Err(TrainerError::conflict(format!("{why}: {length} examples, {size} for a batch")));
        }
        let updates = batches.div_ceil(window);
        let max_steps = given.unwrap_or_else(|| (args.num_train_epochs * updates as f64).ceil() as u64);
        Ok(Plan {
            batch_size,
            window,
            examples: Some(if args.dataloader_drop_last { batches * size } else { length }),
            batches,
            updates,
            max_steps,
            epochs: if given.is_some() { max_steps.div_ceil(updates) } else { args.num_train_epochs.ceil() as u64 },
            samples: if given.is_some() { max_steps as f64 * total } else { length as f64 * args.num_train_epochs },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TL-02: updates of an epoch and of the run, with windows that are not full and epochs that are not whole.
    #[test]
    fn tl_02_counts() {
        let plan = |length, batch_size, window, epochs, max_steps, drop| {
            let args = TrainingArguments {
                gradient_accumulation_steps: window,
                num_train_epochs: epochs,
                max_steps,
                dataloader_drop_last: drop,
                ..TrainingArguments::default()
            };
            Plan::new(&args, length, batch_size).map(|p| (p.batches, p.updates, p.max_steps, p.epochs))
        };
        assert_eq!(plan(Some(10), 4, 1, 3.0, -1, false).unwrap(), (3, 3, 9, 3));
        assert_eq!(plan(Some(10), 4, 1, 3.0, -1, true).unwrap(), (2, 2, 6, 3));
        assert_eq!(plan(Some(10), 4, 2, 3.0, -1, false).unwrap(), (3, 2, 6, 3));
        assert_eq!(plan(Some(10), 4, 2, 1.25, -1, false).unwrap(), (3, 2, 3, 2));
        assert_eq!(plan(Some(10), 4, 2, 3.0, 5, false).unwrap(), (3, 2, 5, 3));
        assert_eq!(plan(None, 4, 2, 3.0, 5, false).unwrap(), (10, 5, 5, u64::MAX));
        for error in
            [plan(None, 4, 1, 3.0, -1, false), plan(Some(0), 4, 1, 3.0, -1, false), plan(Some(3), 4, 1, 3.0, -1, true)]
        {
            assert!(error.unwrap_err().is_usage());
        }
    }
}
