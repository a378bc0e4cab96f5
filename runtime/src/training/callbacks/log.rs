//! The log as a file: one line of JSON for each time that figures are logged. (TI-08)

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{Callback, CallbackError, Event, TrainerControl};
use crate::training::arguments::TrainingArguments;
use crate::training::state::TrainerState;

/// Writes the log history into a file, line by line as it grows. When a run is resumed the file begins with what the
/// checkpoint had logged, so it always tells of one run.
#[derive(Debug)]
pub struct JsonlLog {
    path: PathBuf,
    file: Option<BufWriter<File>>,
    written: usize,
}

impl JsonlLog {
    /// A log in this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        JsonlLog { path: path.into(), file: None, written: 0 }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self, state: &TrainerState) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        for line in state.log_history.iter().skip(self.written) {
            serde_json::to_writer(&mut *file, line)?;
            file.write_all(b"\n")?;
        }
        self.written = state.log_history.len();
        file.flush()
    }
}

impl Callback for JsonlLog {
    fn name(&self) -> &'static str {
        "JsonlLog"
    }

    fn on(
        &mut self,
        event: &Event<'_>,
        _: &TrainingArguments,
        state: &TrainerState,
        _: &mut TrainerControl,
    ) -> Result<(), CallbackError> {
        let written = match event {
            Event::TrainBegin => {
                self.written = 0;
                let made = self.path.parent().map_or(Ok(()), std::fs::create_dir_all);
                made.and_then(|()| File::create(&self.path)).and_then(|file| {
                    self.file = Some(BufWriter::new(file));
                    self.write(state)
                })
            }
            Event::Log(_) => self.write(state),
            _ => Ok(()),
        };
        written.map_err(|error| CallbackError::Other(format!("{}: {error}", self.path.display()).into()))
    }
}
