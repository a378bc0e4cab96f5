//! Progress on a terminal; silence in a pipe.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A spinner that tells what is being done; hidden when standard error is no terminal.
pub struct Progress(ProgressBar);

impl Progress {
    /// A spinner, or nothing when `quiet`.
    pub fn new(quiet: bool) -> Progress {
        // indicatif hides itself where standard error is no terminal.
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Progress(bar)
    }

    /// Tells what is being done now.
    pub fn say(&self, what: &str) {
        self.0.set_message(what.to_string());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
