//! Text generation on the command line: text as it is written, and conversations that consist of one message.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::interrupt::Interrupt;
use super::{RunCommandError, answer};
use crate::pipelines::{Args, Input, Piece, Pipeline, Task};

/// How answers are shown.
pub struct Show {
    /// A line of JSON for each input.
    pub json: bool,
    /// Pieces of text as they come.
    pub stream: bool,
    /// The prompt before the text.
    pub prompt: bool,
}

/// Turns an input into a conversation, for `--system` and `--chat` with an input.
pub fn as_message(input: Input, system: Option<&str>) -> Input {
    let Input::Text(text) = input else { return input };
    let mut messages: Vec<Value> = system.map(|s| json!({ "role": "system", "content": s })).into_iter().collect();
    messages.push(json!({ "role": "user", "content": text }));
    Input::Messages(messages)
}

/// Answers inputs, which are told apart where there are `many`.
///
/// # Errors
/// When an argument or input cannot be used, the model fails, or the answers cannot be written.
pub fn answer_all(
    pipeline: &Pipeline,
    batch: &[Input],
    args: &Args,
    show: &Show,
    many: bool,
    interrupt: &Interrupt,
    out: &mut dyn Write,
) -> Result<(), RunCommandError> {
    let stream = show.stream && !many;
    let mut failed: io::Result<()> = Ok(());
    if let (true, false, true, Some(Input::Text(prompt))) = (stream, show.json, show.prompt, batch.first()) {
        out.write_all(prompt.as_bytes())?;
        out.flush()?;
    }
    let (mut written, mut last) = (0, '\n');
    let mut on_piece = |piece: &Piece<'_>| {
        if !stream || failed.is_err() {
            return;
        }
        written += piece.text.len();
        last = piece.text.chars().next_back().unwrap_or(last);
        failed = if show.json {
            writeln!(out, "{}", json!({ "sample": piece.sample, "text": piece.text }))
        } else if piece.sample == 0 {
            out.write_all(piece.text.as_bytes())
        } else {
            Ok(())
        };
        failed = std::mem::replace(&mut failed, Ok(())).and_then(|()| out.flush());
        if failed.is_err() {
            interrupt.cancel().cancel();
        }
    };
    let answers = pipeline.call_streaming(batch, args, interrupt.cancel(), &mut on_piece)?;
    failed?;
    let mut problem = None;
    for (input, value) in batch.iter().zip(&answers) {
        if show.json {
            serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        } else if stream && written > 0 {
            // The first result is on the screen already.
            if last != '\n' {
                writeln!(out)?;
            }
            answer::print_results(value, 1, "", out)?;
        } else {
            answer::print(Task::TextGeneration, input, value, many, out)?;
        }
        let error = value.as_array().into_iter().flatten().find_map(|r| r.get("error")?.as_str());
        problem = problem.or(error.map(str::to_string));
    }
    out.flush()?;
    match problem {
        Some(problem) => Err(RunCommandError::Partial(problem)),
        None => Ok(()),
    }
}
