//! Ctrl-C while a model writes or learns: the first ends that cleanly, the second the program. Must not know what is
//! written or learnt.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_shutdown, register_usize};

use crate::generation::Cancel;
use crate::training::arguments::TrainingArguments;
use crate::training::callbacks::{Callback, CallbackError, Event, TrainerControl};
use crate::training::state::TrainerState;

/// Exit code of a program that Ctrl-C ended, as shells count it.
pub const EXIT_CODE: u8 = 130;

/// Watches for Ctrl-C from its making on.
pub struct Interrupt {
    cancel: Cancel,
    flag: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes Ctrl-C over.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn watch() -> io::Result<Interrupt> {
        let cancel = Cancel::new();
        let flag = cancel.flag();
        // In this order: a Ctrl-C that finds the flag up ends the program before it is raised again.
        register_conditional_shutdown(SIGINT, EXIT_CODE.into(), flag.clone())?;
        register(SIGINT, flag.clone())?;
        Ok(Interrupt { cancel, flag })
    }

    /// Raised by Ctrl-C.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Whether Ctrl-C came since the last call of this.
    pub fn take(&self) -> bool {
        self.flag.swap(false, Ordering::Relaxed)
    }
}

/// Ctrl-C and requests to terminate while a model learns: from the beginning of training on the first raises a flag, which
/// ends it after the update that is being done, the second ends the program. (TL-19)
#[derive(Clone, Debug, Default)]
pub struct StopOnSignal {
    stop: Arc<AtomicBool>,
    /// The signal; 0 for none.
    signal: Arc<AtomicUsize>,
    watching: bool,
}

impl StopOnSignal {
    /// The flag that a signal raises.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// The exit code of a program that a signal ended, as shells count it; `None` without one.
    pub fn exit_code(&self) -> Option<u8> {
        let signal = self.signal.load(Ordering::Relaxed);
        (signal != 0).then(|| code_of(i32::try_from(signal).unwrap_or_default()) as u8)
    }
}

/// The exit code of a program that this signal ended.
fn code_of(signal: i32) -> i32 {
    i32::from(EXIT_CODE) - SIGINT + signal
}

impl Callback for StopOnSignal {
    fn name(&self) -> &'static str {
        "StopOnSignal"
    }

    fn on(
        &mut self,
        event: &Event<'_>,
        _: &TrainingArguments,
        _: &TrainerState,
        _: &mut TrainerControl,
    ) -> Result<(), CallbackError> {
        if *event != Event::TrainBegin || self.watching {
            return Ok(());
        }
        self.watching = true;
        for signal in [SIGINT, SIGTERM] {
            let watch = || {
                // In this order: a signal that finds the flag up ends the program before it is raised again.
                register_conditional_shutdown(signal, code_of(signal), self.stop.clone())?;
                register_usize(signal, self.signal.clone(), usize::try_from(signal).unwrap_or_default())?;
                register(signal, self.stop.clone())
            };
            watch().map_err(|e| CallbackError::Other(e.into()))?;
        }
        Ok(())
    }
}
