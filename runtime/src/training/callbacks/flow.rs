//! When to log, evaluate, save and stop, by the arguments' strategies. (TA-16 to TA-18, TL-16)

use super::{Callback, CallbackError, Event, TrainerControl};
use crate::training::arguments::{IntervalStrategy, SaveStrategy, TrainingArguments};
use crate::training::state::TrainerState;

/// The first callback of every trainer.
pub(in crate::training) struct DefaultFlow;

impl Callback for DefaultFlow {
    fn name(&self) -> &'static str {
        "DefaultFlowCallback"
    }

    fn on(
        &mut self,
        event: &Event<'_>,
        args: &TrainingArguments,
        state: &TrainerState,
        control: &mut TrainerControl,
    ) -> Result<(), CallbackError> {
        let step = state.global_step;
        match event {
            Event::StepEnd => {
                let due = |every: f64| every >= 1.0 && step.is_multiple_of(every as u64);
                let last = step >= state.max_steps;
                control.should_log |= step == 1 && args.logging_first_step;
                control.should_log |= args.logging_strategy == IntervalStrategy::Steps && due(state.logging_steps);
                // Strategies of steps hold at the last one too.
                control.should_evaluate |= args.eval_strategy == IntervalStrategy::Steps
                    && (due(state.eval_steps) || last)
                    && args.eval_delay <= step as f64;
                control.should_save |= args.save_strategy == SaveStrategy::Steps && (due(state.save_steps) || last);
                control.should_training_stop |= last;
            }
            Event::EpochEnd => {
                control.should_log |= args.logging_strategy == IntervalStrategy::Epoch;
                control.should_evaluate |=
                    args.eval_strategy == IntervalStrategy::Epoch && args.eval_delay <= state.epoch;
                control.should_save |= args.save_strategy == SaveStrategy::Epoch;
            }
            _ => {}
        }
        Ok(())
    }
}
