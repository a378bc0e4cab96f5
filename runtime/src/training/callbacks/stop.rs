//! Ending a run from outside, by Ctrl-C say, with a checkpoint to go on from. (TL-19)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Callback, CallbackError, Event, TrainerControl};
use crate::training::arguments::{SaveStrategy, TrainingArguments};
use crate::training::state::TrainerState;

/// Ends training after the update in which a flag is set, and saves a checkpoint before, unless checkpoints are not wanted.
#[derive(Debug, Clone)]
pub struct StopWhen(Arc<AtomicBool>);

impl StopWhen {
    /// Training ends soon after the flag becomes true.
    pub fn new(flag: Arc<AtomicBool>) -> Self {
        StopWhen(flag)
    }
}

impl Callback for StopWhen {
    fn name(&self) -> &'static str {
        "StopWhen"
    }

    fn on(
        &mut self,
        event: &Event<'_>,
        args: &TrainingArguments,
        _: &TrainerState,
        control: &mut TrainerControl,
    ) -> Result<(), CallbackError> {
        if *event == Event::StepEnd && self.0.load(Ordering::Relaxed) {
            control.should_training_stop = true;
            control.should_save |= args.save_strategy != SaveStrategy::No;
        }
        Ok(())
    }
}
