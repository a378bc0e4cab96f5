//! A conversation with a model: on a terminal with line editing and history, or one message a line from a pipe.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};

use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Config, Editor};
use serde_json::{Value, json};

use super::RunCommandError;
use super::interrupt::{EXIT_CODE, Interrupt};
use crate::pipelines::{Args, Input, Pipeline};

/// Longest message, in bytes.
const MAX_MESSAGE: usize = 16 << 20;

const HELP: &str = "\
/reset          forget the conversation (the system message stays)
/system TEXT    set the system message and forget the conversation
/regenerate     answer the last message again
/save FILE      write the conversation to a file, as JSON
/help           show this
/exit           end; so does Ctrl-D
A line that ends with \\ goes on in the next one; so do lines between \"\"\" and \"\"\". Ctrl-C ends an answer early.";

/// What comes of reading a line.
enum Line {
    Text(String),
    Interrupted,
    End,
}

/// Where the user's lines come from.
enum Reader {
    Terminal(Box<Editor<(), MemHistory>>),
    Pipe,
}

impl Reader {
    fn new() -> Result<Reader, RunCommandError> {
        if !io::stdin().is_terminal() {
            return Ok(Reader::Pipe);
        }
        let config = Config::builder().auto_add_history(false).build();
        let editor = Editor::with_history(config, MemHistory::new());
        editor.map(|e| Reader::Terminal(Box::new(e))).map_err(|e| RunCommandError::Input(format!("the terminal: {e}")))
    }

    /// One line, without its end; `prompt` is shown on a terminal only.
    fn line(&mut self, prompt: &str) -> Result<Line, RunCommandError> {
        match self {
            Reader::Terminal(editor) => match editor.readline(prompt) {
                Ok(line) => Ok(Line::Text(line)),
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(e) => Err(RunCommandError::Input(format!("the terminal: {e}"))),
            },
            Reader::Pipe => {
                let mut bytes = Vec::new();
                let stdin = io::stdin();
                let read = io::Read::take(stdin.lock(), MAX_MESSAGE as u64).read_until(b'\n', &mut bytes);
                if read.map_err(|e| RunCommandError::Input(format!("standard input: {e}")))? == 0 {
                    return Ok(Line::End);
                }
                let text = String::from_utf8(bytes);
                let text = text.map_err(|_| RunCommandError::Input("standard input: not UTF-8".into()))?;
                Ok(Line::Text(text.trim_end_matches(['\n', '\r']).to_string()))
            }
        }
    }

    /// One message: lines ending with a backslash, and lines between triple quotes, belong together.
    fn message(&mut self) -> Result<Line, RunCommandError> {
        let mut text = match self.line("> ")? {
            Line::Text(line) => line,
            other => return Ok(other),
        };
        let fence = text.trim_start().starts_with("\"\"\"");
        if fence {
            text = text.trim_start().trim_start_matches("\"\"\"").to_string();
        }
        let mut first = true;
        loop {
            let open = match fence {
                // The opening line may close at once.
                true => !text.trim_end().ends_with("\"\"\""),
                false => text.ends_with('\\'),
            };
            if fence && !open {
                text.truncate(text.trim_end().len() - 3);
                text.truncate(text.trim_end_matches('\n').len());
            }
            if !open {
                break;
            }
            if !fence {
                text.pop();
            }
            match self.line(". ")? {
                Line::Text(line) => {
                    if !(fence && first && text.is_empty()) {
                        text.push('\n');
                    }
                    text.push_str(&line);
                }
                Line::Interrupted => return Ok(Line::Interrupted),
                Line::End => break,
            }
            first = false;
            if text.len() > MAX_MESSAGE {
                return Err(RunCommandError::Input(format!("a message of more than {MAX_MESSAGE} bytes")));
            }
        }
        if let Reader::Terminal(editor) = self {
            let _ = editor.add_history_entry(text.as_str());
        }
        Ok(Line::Text(text))
    }
}

/// The conversation so far.
struct Conversation {
    messages: Vec<Value>,
}

impl Conversation {
    fn new(system: Option<&str>) -> Conversation {
        let messages = system.map(|text| json!({ "role": "system", "content": text })).into_iter().collect();
        Conversation { messages }
    }

    fn role(message: &Value) -> Option<&str> {
        message.get("role").and_then(Value::as_str)
    }

    fn push(&mut self, role: &str, text: &str) {
        self.messages.push(json!({ "role": role, "content": text }));
    }

    /// Forgets all but the system message.
    fn reset(&mut self) {
        self.messages.retain(|m| Conversation::role(m) == Some("system"));
    }

    /// Takes the last answer back; whether there is a message to answer.
    fn take_answer_back(&mut self) -> bool {
        if self.messages.last().and_then(Conversation::role) == Some("assistant") {
            self.messages.pop();
        }
        self.messages.last().and_then(Conversation::role) == Some("user")
    }
}

/// Talks until the user ends it. With `json`, each answer is a line of JSON: the pipeline's.
///
/// # Errors
/// When standard input or output fail. What the model or its template refuse is told and the conversation goes on, except
/// from a pipe, where it ends.
pub fn converse(
    pipeline: &Pipeline,
    args: &Args,
    system: Option<&str>,
    json: bool,
    interrupt: &Interrupt,
    out: &mut dyn Write,
) -> Result<(), RunCommandError> {
    let mut reader = Reader::new()?;
    let watched = matches!(reader, Reader::Terminal(_));
    let mut conversation = Conversation::new(system);
    if watched {
        eprintln!("Type a message; /help shows what else there is.");
    }
    loop {
        let text = match reader.message()? {
            Line::Text(text) => text,
            Line::Interrupted => continue,
            Line::End => return Ok(()),
        };
        let (command, rest) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
        match command {
            "" => continue,
            "/exit" | "/quit" | "/bye" => return Ok(()),
            "/reset" => {
                conversation.reset();
                continue;
            }
            "/system" => {
                conversation = Conversation::new(Some(rest.trim()).filter(|text| !text.is_empty()));
                continue;
            }
            "/save" => {
                let saved = serde_json::to_vec_pretty(&conversation.messages).map_err(io::Error::from);
                let saved = saved.and_then(|bytes| fs::write(rest.trim(), bytes));
                tell(saved.map_err(|e| RunCommandError::Input(format!("{}: {e}", rest.trim()))), watched)?;
                continue;
            }
            "/regenerate" => {
                if !conversation.take_answer_back() {
                    let nothing = RunCommandError::Input("/regenerate: there is no message to answer".into());
                    tell(Err(nothing), watched)?;
                    continue;
                }
            }
            "/help" => {
                eprintln!("{HELP}");
                continue;
            }
            _ if command.starts_with('/')
                && command[1..].chars().all(|c| c.is_ascii_alphabetic())
                && rest.is_empty() =>
            {
                tell(Err(RunCommandError::Input(format!("{command}: no such command; /help lists them"))), watched)?;
                continue;
            }
            _ => conversation.push("user", &text),
        }
        let answered = answer(pipeline, args, &mut conversation, json, interrupt, out);
        if answered.is_err() && conversation.messages.last().and_then(Conversation::role) == Some("user") {
            conversation.messages.pop();
        }
        // On a terminal Ctrl-C ends the answer only; in a pipe there is nobody to go on.
        if interrupt.take() && !watched {
            return Err(RunCommandError::Interrupted(EXIT_CODE));
        }
        tell(answered, watched)?;
    }
}

/// Shows an error and goes on, where somebody can see it and mend it.
fn tell(done: Result<(), RunCommandError>, watched: bool) -> Result<(), RunCommandError> {
    match done {
        Err(RunCommandError::Output(e)) => Err(RunCommandError::Output(e)),
        Err(e) if watched => {
            eprintln!("error: {e}");
            Ok(())
        }
        other => other,
    }
}

/// Has the model answer and notes the answer, as far as it came.
fn answer(
    pipeline: &Pipeline,
    args: &Args,
    conversation: &mut Conversation,
    json: bool,
    interrupt: &Interrupt,
    out: &mut dyn Write,
) -> Result<(), RunCommandError> {
    let input = [Input::Messages(conversation.messages.clone())];
    let mut failed: io::Result<()> = Ok(());
    let mut streamed = 0;
    let answers = pipeline.call_streaming(&input, args, interrupt.cancel(), &mut |piece| {
        if json || piece.sample > 0 || failed.is_err() {
            return;
        }
        streamed += piece.text.len();
        failed = out.write_all(piece.text.as_bytes()).and_then(|()| out.flush());
        if failed.is_err() {
            interrupt.cancel().cancel();
        }
    })?;
    failed?;
    let answer = answers.into_iter().next().unwrap_or_default();
    let record = answer.get(0).cloned().unwrap_or_default();
    let text = match record.get("generated_text") {
        Some(Value::Array(messages)) => {
            let last = messages.last().and_then(|m| m.get("content")).and_then(Value::as_str);
            last.unwrap_or_default().to_string()
        }
        Some(Value::String(text)) => text.clone(),
        _ => String::new(),
    };
    if json {
        writeln!(out, "{answer}")?;
    } else if streamed == 0 {
        writeln!(out, "{text}")?;
    } else {
        writeln!(out)?;
    }
    out.flush()?;
    conversation.push("assistant", &text);
    match record.get("error").and_then(Value::as_str) {
        Some(error) => Err(RunCommandError::Partial(error.to_string())),
        None => Ok(()),
    }
}
