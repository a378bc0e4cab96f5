//! Inputs of the `run` command: from arguments, files and standard input, a line each, checked as text.

use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::path::PathBuf;
use std::vec::IntoIter;

use clap::ArgMatches;
use serde_json::{Map, Value};

use super::RunCommandError;
use crate::pipelines::{Input, Task};

/// Longest line that is read, in bytes: a text beyond is no text.
const MAX_LINE: u64 = 64 << 20;

/// The inputs, read as they are needed.
pub struct Inputs {
    task: Task,
    given: IntoIter<Input>,
    files: IntoIter<PathBuf>,
    open: Option<Lines>,
    named: bool,
}

struct Lines {
    name: String,
    reader: Box<dyn BufRead + Send>,
    line: usize,
}

impl Inputs {
    /// The inputs that parsed arguments name; standard input when they name none.
    ///
    /// # Errors
    /// When parts of a record are given without its first.
    pub fn from_matches(task: Task, matches: &ArgMatches) -> Result<Inputs, RunCommandError> {
        let texts = matches.get_many::<String>("input").into_iter().flatten();
        let mut given: Vec<Input> = texts.map(|text| Input::from_line(task, text)).collect();
        given.extend(record(task, matches)?);
        let mut files: Vec<PathBuf> = matches.get_many::<PathBuf>("file").into_iter().flatten().cloned().collect();
        let named = !given.is_empty() || !files.is_empty();
        if !named && !super::stdin_is_terminal() {
            files.push("-".into());
        }
        Ok(Inputs { task, given: given.into_iter(), files: files.into_iter(), open: None, named })
    }

    /// Whether inputs or files were named, so that standard input is not meant by default.
    pub fn are_named(&self) -> bool {
        self.named
    }

    /// Whether all inputs are there already, none to be read.
    pub fn are_given(&self) -> bool {
        self.files.len() == 0 && self.open.is_none()
    }

    fn next_line(&mut self) -> Result<Option<Input>, RunCommandError> {
        loop {
            let lines = match &mut self.open {
                Some(lines) => lines,
                None => match self.files.next() {
                    Some(path) => self.open.insert(Lines::open(path)?),
                    None => return Ok(None),
                },
            };
            match lines.next()? {
                Some(text) => return Ok(Some(Input::from_line(self.task, &text))),
                None => self.open = None,
            }
        }
    }
}

impl Iterator for Inputs {
    type Item = Result<Input, RunCommandError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.given.next().map(Ok).or_else(|| self.next_line().transpose())
    }
}

/// The record that `--question` and `--context`, or `--text` and `--text-pair`, make.
fn record(task: Task, matches: &ArgMatches) -> Result<Option<Input>, RunCommandError> {
    let mut map = Map::new();
    let keys = task.record_keys();
    for key in keys.iter().filter(|key| super::given(matches, key)) {
        if let Some(text) = matches.get_one::<String>(key) {
            map.insert(key.to_string(), Value::from(text.as_str()));
        }
    }
    match keys.first() {
        _ if map.is_empty() => Ok(None),
        Some(first) if !map.contains_key(*first) => {
            Err(RunCommandError::Input(format!("--{} is missing", first.replace('_', "-"))))
        }
        _ => Ok(Some(Input::Record(map))),
    }
}

impl Lines {
    fn open(path: PathBuf) -> Result<Lines, RunCommandError> {
        if path.as_os_str() == "-" {
            return Ok(Lines { name: "standard input".into(), reader: Box::new(BufReader::new(stdin())), line: 0 });
        }
        let file = File::open(&path).map_err(|e| RunCommandError::Input(format!("{}: {e}", path.display())))?;
        Ok(Lines { name: path.display().to_string(), reader: Box::new(BufReader::new(file)), line: 0 })
    }

    /// The next line without its end.
    fn next(&mut self) -> Result<Option<String>, RunCommandError> {
        use std::io::Read;
        let place = |line| format!("{}: line {line}", self.name);
        let mut bytes = Vec::new();
        let read = self.reader.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut bytes);
        let read = read.map_err(|e| RunCommandError::Input(format!("{}: {e}", place(self.line + 1))))?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        if bytes.len() as u64 > MAX_LINE {
            return Err(RunCommandError::Input(format!("{}: longer than {MAX_LINE} bytes", place(self.line))));
        }
        while bytes.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
            bytes.pop();
        }
        let text = String::from_utf8(bytes);
        text.map(Some).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            RunCommandError::Input(format!("{}: not UTF-8 from byte {at} on", place(self.line)))
        })
    }
}
