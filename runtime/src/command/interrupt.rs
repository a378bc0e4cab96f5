//! Ctrl-C while a model writes: the first ends the text cleanly, the second the program. Must not know what is written.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::SIGINT;
use signal_hook::flag::{register, register_conditional_shutdown};

use crate::generation::Cancel;

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
