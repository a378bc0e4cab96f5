//! One template: parsed once, rendered for any number of conversations.

use std::fmt;
use std::ops::Range;

use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value};

use super::{ChatError, Clock, engine, tags};

/// Longest source of a template, in bytes.
const MAX_SOURCE: usize = 1 << 20;

/// Steps (an instruction, or 64 bytes written) that any template gets; a hundred times what the longest in use take.
const STEPS: u64 = 100_000;

/// Further steps for each byte of the conversation.
const STEPS_PER_BYTE: u64 = 8;

/// Stack of the thread that renders: dropping or printing a value as deep as the steps allow fits.
const STACK: usize = 256 << 20;

/// Put after the message that is to be continued, and found again in the text.
const CONTINUE: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// The fields a message's reasoning is known by; the first is the one that templates should read. (CT-13)
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A chat template that has been parsed.
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    marks_generation: bool,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("source", &self.source).finish_non_exhaustive()
    }
}

/// What a template is rendered for. (CT-05)
#[derive(Clone, Debug, Default)]
pub struct Conversation<'a> {
    /// The messages: objects with `role`, `content` and whatever the template reads.
    pub messages: &'a [Value],
    /// JSON schemas of functions that the model may call. (CT-11)
    pub tools: Option<&'a [Value]>,
    /// Documents to answer from, objects with `title` and `text`.
    pub documents: Option<&'a [Value]>,
    /// All other variables: special tokens by name, and what a template takes besides.
    pub variables: Map<String, Value>,
    /// End with the beginning of an answer.
    pub add_generation_prompt: bool,
    /// Leave the last message open, at the end of this field (`content`), so that the model goes on with it.
    pub continue_final_message: Option<&'a str>,
    /// Tell where the assistant's words are.
    pub assistant_spans: bool,
}

/// A rendered conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The prompt.
    pub text: String,
    /// The bytes of `text` that `{% generation %}` blocks wrote; empty unless asked for. (CT-08)
    pub assistant: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// [`ChatError::Syntax`].
    pub fn new(source: &str) -> Result<ChatTemplate, ChatError> {
        ChatTemplate::with_clock(source, Clock::Local)
    }

    /// Parses a template that takes the time from `clock`.
    ///
    /// # Errors
    /// [`ChatError::Syntax`].
    pub fn with_clock(source: &str, clock: Clock) -> Result<ChatTemplate, ChatError> {
        if source.len() > MAX_SOURCE {
            return Err(ChatError::Syntax(format!("{} bytes, more than {MAX_SOURCE}", source.len())));
        }
        let syntax = |e: minijinja::Error| ChatError::Syntax(describe(&e));
        let mut env = engine::environment(clock).map_err(syntax)?;
        let (rewritten, marks_generation) = tags::rewrite(source);
        env.add_template_owned("chat_template", rewritten).map_err(syntax)?;
        Ok(ChatTemplate { env, source: source.into(), marks_generation })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template says which words are the assistant's, with `{% generation %}`. (CT-08)
    pub fn marks_generation(&self) -> bool {
        self.marks_generation
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// [`ChatError`]; what the template itself objects to is [`ChatError::Refused`]. (CT-16)
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<Rendered, ChatError> {
        let wrong = |problem: &str| ChatError::Conversation(problem.into());
        if conversation.messages.is_empty() {
            return Err(wrong("the conversation is empty: a chat template needs at least one message"));
        }
        if conversation.continue_final_message.is_some() && conversation.add_generation_prompt {
            return Err(wrong(
                "continue_final_message and add_generation_prompt exclude each other: the last message is either \
                 left open or answered",
            ));
        }
        if conversation.continue_final_message.is_some() && conversation.assistant_spans {
            return Err(wrong("continue_final_message excludes the assistant's mask"));
        }
        let mut messages = conversation.messages.iter().map(normalized).collect::<Result<Vec<_>, _>>()?;
        let continued = match (conversation.continue_final_message, messages.last_mut()) {
            (Some(field), Some(last)) => Some(self.leave_open(last, field)?),
            _ => None,
        };
        let mut context = conversation.variables.clone();
        context.insert("messages".into(), Value::Array(messages.into_iter().map(Value::Object).collect()));
        context.insert("tools".into(), conversation.tools.map_or(Value::Null, Value::from));
        context.insert("documents".into(), conversation.documents.map_or(Value::Null, Value::from));
        context.insert("add_generation_prompt".into(), conversation.add_generation_prompt.into());
        let context = Value::Object(context);

        let size = context.to_string();
        let marks = if conversation.assistant_spans { Some(self.marks(&size)?) } else { None };
        let steps = (size.len() as u64).saturating_mul(STEPS_PER_BYTE).saturating_add(STEPS);
        let text = self.run(&context, marks, steps)?;
        let (text, assistant) = match marks {
            Some(marks) => spans(&text, marks),
            None => (text, Vec::new()),
        };
        let text = match continued {
            Some(message) => cut_open(text, &message)?,
            None => text,
        };
        Ok(Rendered { text, assistant })
    }

    /// Renders on a thread of its own, whose stack suffices for the deepest value that the steps allow.
    fn run(&self, context: &Value, marks: Option<(char, char)>, steps: u64) -> Result<String, ChatError> {
        let mut env = self.env.clone();
        env.set_fuel(Some(steps));
        let render = || {
            let context = jinja_value(context);
            let result =
                env.get_template("chat_template").and_then(|t| engine::with_marks(marks, || t.render(context)));
            result.map_err(|e| failure(&e, steps))
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("chat-template".into()).stack_size(STACK);
            let thread = thread.spawn_scoped(scope, render);
            let thread = thread.map_err(|e| ChatError::Failed(format!("no thread to render on: {e}")))?;
            thread.join().unwrap_or_else(|_| Err(ChatError::Failed("internal failure of the template engine".into())))
        })
    }

    /// Two characters that occur neither in the template nor in what it is rendered for.
    fn marks(&self, context: &str) -> Result<(char, char), ChatError> {
        // Unicode's noncharacters: no text has a use for them.
        let mut free = ('\u{fdd0}'..='\u{fdef}').filter(|&c| !self.source.contains(c) && !context.contains(c));
        let both = free.next().zip(free.next());
        both.ok_or_else(|| ChatError::Conversation("the conversation consists of noncharacters".into()))
    }

    /// Marks the end of the last message's `field` and gives its text.
    fn leave_open(&self, message: &mut Map<String, Value>, field: &str) -> Result<String, ChatError> {
        let wrong = |problem: String| ChatError::Conversation(format!("continue_final_message: {problem}"));
        let value = message.get(field).cloned();
        let value = value.ok_or_else(|| wrong(format!("the last message has no {field:?} to continue")))?;
        // Reasoning stands under several names: every copy is marked, whichever the template reads.
        let copies: Vec<&str> = match REASONING.contains(&field) {
            true => REASONING.into_iter().filter(|&name| message.get(name) == Some(&value)).collect(),
            false => vec![field],
        };
        if !copies.iter().any(|name| self.source.contains(name)) {
            return Err(wrong(format!("the chat template does not read {field:?}")));
        }
        match value {
            Value::String(text) => {
                for name in copies {
                    message.insert(name.into(), Value::from(format!("{text}{CONTINUE}")));
                }
                Ok(text)
            }
            Value::Array(mut parts) => {
                let last = parts.iter_mut().rev().find_map(|part| match part.get_mut("text") {
                    Some(Value::String(text)) => Some(text),
                    _ => None,
                });
                let last = last.ok_or_else(|| wrong("the last message has no text to continue".into()))?;
                let text = last.clone();
                last.push_str(CONTINUE);
                message.insert(field.into(), Value::Array(parts));
                Ok(text)
            }
            other => Err(wrong(format!("{field:?} of the last message is {other}, not a text"))),
        }
    }
}

/// JSON as the engine's values; objects keep their order.
fn jinja_value(value: &Value) -> minijinja::Value {
    match value {
        Value::Null => minijinja::Value::from(()),
        Value::Bool(flag) => (*flag).into(),
        Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => n.into(),
            (None, Some(n)) => n.into(),
            (None, None) => n.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(jinja_value).collect(),
        Value::Object(fields) => {
            minijinja::Value::from_pairs(fields.iter().map(|(name, v)| (name.as_str(), jinja_value(v))))
        }
    }
}

/// A message without fields that are null, its reasoning under every name. (CT-12, CT-13)
fn normalized(message: &Value) -> Result<Map<String, Value>, ChatError> {
    let Value::Object(fields) = message else {
        let problem = format!("a message is an object with \"role\" and \"content\", found {message}");
        return Err(ChatError::Conversation(problem));
    };
    let given =
        || fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.clone(), value.clone()));
    let mut fields = Map::new();
    // The order is upstream's: some templates print it.
    if let Some(reasoning) = REASONING.iter().find_map(|name| message.get(*name).filter(|v| !v.is_null())) {
        fields.insert("thinking".into(), reasoning.clone());
        fields.extend(given());
        fields.insert(REASONING[0].into(), reasoning.clone());
    } else {
        fields.extend(given());
    }
    Ok(fields)
}

/// The text up to where the message ends that was left open.
fn cut_open(text: String, message: &str) -> Result<String, ChatError> {
    let at = text.rfind(CONTINUE.trim_end()).filter(|_| text.contains(message.trim()));
    let at = at.ok_or_else(|| {
        let problem = "continue_final_message: the last message is not in the text that the chat template makes: it \
                       leaves parts of it out";
        ChatError::Conversation(problem.into())
    })?;
    // Where the template kept the mark's own space it trims nothing; else the message's space goes too.
    let kept = text[at..].starts_with(CONTINUE);
    let open = &text[..at];
    Ok(if kept { open } else { open.trim_end() }.to_string())
}

/// The text without marks, and what stood between them.
fn spans(text: &str, (start, end): (char, char)) -> (String, Vec<Range<usize>>) {
    let mut plain = String::with_capacity(text.len());
    let (mut found, mut open) = (Vec::new(), Vec::new());
    for c in text.chars() {
        if c == start {
            open.push(plain.len());
        } else if c == end {
            found.extend(open.pop().map(|from| from..plain.len()));
        } else {
            plain.push(c);
        }
    }
    (plain, found)
}

/// What went wrong while rendering.
fn failure(error: &minijinja::Error, steps: u64) -> ChatError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = source {
        if let Some(raised) = e.downcast_ref::<engine::Raised>() {
            return ChatError::Refused(raised.0.clone());
        }
        if e.downcast_ref::<minijinja::Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
            return ChatError::Endless(steps);
        }
        source = e.source();
    }
    ChatError::Failed(describe(error))
}

/// An error with its line, without the template's name.
fn describe(error: &minijinja::Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}
