//! Text generation: what follows a text, or the answer in a conversation. (PO-04, PC-09, PI-05)

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::{Args, Input, Model, ModelInfo, Pipeline, PipelineError};
use crate::generation::{
    Cancel, Event, Generated, GenerationConfig, GenerationError, Generator, LanguageModel, Limits, Output, Request,
    Settings, StreamDecoder, TokenText,
};
use crate::tokenizer::{AutoTokenizer, ChatOptions, EncodeOptions, Text, TokenizerError};

/// New text of one result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The index of the input.
    pub input: usize,
    /// Which of its results.
    pub sample: usize,
    /// The text.
    pub text: &'a str,
}

/// A language model with its cache, which calls take turns to use, and what the model's files say of generation.
pub(super) struct Writer {
    generator: Mutex<Generator<Box<dyn LanguageModel>>>,
    info: ModelInfo,
    config: GenerationConfig,
}

impl Writer {
    pub fn new(
        model: Box<dyn LanguageModel>,
        info: ModelInfo,
        config: GenerationConfig,
        draft: Option<Box<dyn LanguageModel>>,
    ) -> Result<Writer, PipelineError> {
        let mut generator = Generator::new(model, Limits::default());
        if let Some(draft) = draft {
            generator = generator.with_draft(draft)?;
        }
        Ok(Writer { generator: Mutex::new(generator), info, config })
    }

    pub fn info(&self) -> &ModelInfo {
        &self.info
    }
}

/// An input as it goes to the model and comes back.
struct Prompt<'a> {
    input: &'a Input,
    ids: Vec<u32>,
    /// The new text goes on with the last message.
    continues: bool,
}

pub(super) fn call(
    pipeline: &Pipeline,
    inputs: &[Input],
    args: &Args,
    cancel: &Cancel,
    on_piece: &mut dyn FnMut(&Piece<'_>),
) -> Result<Vec<Value>, PipelineError> {
    let Model::Language(writer) = &pipeline.model else {
        let compiled = pipeline.info().task.to_string();
        return Err(PipelineError::WrongTask { compiled, wanted: pipeline.task.to_string() });
    };
    let form = Form::of(args)?;
    let settings = settings(writer, &pipeline.tokenizer, args)?;
    let mut prompts = Vec::with_capacity(inputs.len());
    for (index, input) in inputs.iter().enumerate() {
        let mut prompt = encode(pipeline, index, input, args)?;
        if args.text("handle_long_generation").is_some() {
            leave_room(&mut prompt.ids, &settings, pipeline.tokenizer.model_max_length)?;
        }
        prompts.push(prompt);
    }
    let most = args.positive("batch_size")?.unwrap_or(usize::MAX).min(prompts.len().max(1));
    let mut answers = Vec::with_capacity(prompts.len());
    for (group, chunk) in prompts.chunks(most).enumerate() {
        let outputs = generate(pipeline, writer, chunk, &settings, group * most, &form, cancel, on_piece)?;
        for (prompt, output) in chunk.iter().zip(outputs) {
            answers.push(records(pipeline, prompt, &output, &settings, &form)?);
        }
    }
    Ok(answers)
}

/// What an answer is made of.
struct Form {
    tensors: bool,
    full_text: bool,
    skip_special_tokens: bool,
    clean_up: Option<bool>,
}

impl Form {
    fn of(args: &Args) -> Result<Form, PipelineError> {
        let flag = |name: &str| args.flag(name);
        for (a, b) in [
            ("return_full_text", "return_text"),
            ("return_full_text", "return_tensors"),
            ("return_text", "return_tensors"),
        ] {
            if flag(a).is_some() && flag(b).is_some() {
                return Err(PipelineError::argument(a, format!("cannot be given together with {b}")));
            }
        }
        Ok(Form {
            tensors: flag("return_tensors").unwrap_or(false),
            full_text: flag("return_full_text").unwrap_or(true),
            skip_special_tokens: flag("skip_special_tokens").unwrap_or(true),
            clean_up: flag("clean_up_tokenization_spaces"),
        })
    }

    fn decode(&self, tokenizer: &AutoTokenizer, ids: &[u32]) -> Result<String, TokenizerError> {
        tokenizer.decode(&known(tokenizer, ids), self.skip_special_tokens, self.clean_up)
    }
}

/// The ids that the tokenizer has: a model's table is often larger.
fn known(tokenizer: &AutoTokenizer, ids: &[u32]) -> Vec<u32> {
    ids.iter().copied().filter(|&id| tokenizer.id_to_token(id).is_ok()).collect()
}

/// Text of ids as it streams: never cleaned up, since what was shown cannot be taken back.
struct Decode {
    tokenizer: Arc<AutoTokenizer>,
    skip_special_tokens: bool,
}

impl TokenText for Decode {
    fn text(&self, ids: &[u32]) -> String {
        let ids = known(&self.tokenizer, ids);
        self.tokenizer.decode(&ids, self.skip_special_tokens, Some(false)).unwrap_or_default()
    }
}

/// The options of the call over the model's, over what the pipeline sets where neither does. (PC-09, GE-01)
fn settings(writer: &Writer, tokenizer: &AutoTokenizer, args: &Args) -> Result<Settings, PipelineError> {
    let mut given = args.generation()?;
    if let Some(stop) = args.list("stop_sequence") {
        if given.get("stop_strings").is_some() {
            return Err(PipelineError::argument("stop_sequence", "cannot be given together with stop_strings"));
        }
        given.set("stop_strings", json!(stop))?;
    }
    let mut defaults = GenerationConfig::new();
    let set = given.over(&writer.config);
    // A length limit of any kind is not to be overridden.
    if set.get("max_length").is_none() {
        defaults.set("max_new_tokens", json!(256))?;
    }
    defaults.set("do_sample", json!(true))?;
    if set.over(&defaults).get("do_sample") == Some(&json!(true)) {
        defaults.set("temperature", json!(0.7))?;
    }
    if let Some(pad) = tokenizer.pad_token_id() {
        defaults.set("pad_token_id", json!(pad))?;
    }
    let (mut settings, warnings) = Settings::resolve(&given, &writer.config.over(&defaults))?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    // Lengths in all count the prompt; the prefix comes on top.
    if let Some(prefix) = args.text("prefix").filter(|p| !p.is_empty()) {
        let plain = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
        let encoded = tokenizer.encode(Text::Raw(prefix), None, &plain);
        let length = encoded.map_err(|source| PipelineError::Tokenizer { index: 0, source })?.into_single().len();
        settings.max_length = settings.max_length.map(|n| n.saturating_add(length));
        settings.min_length = settings.min_length.saturating_add(if settings.min_length > 0 { length } else { 0 });
    }
    Ok(settings)
}

/// The tokens of an input.
fn encode<'a>(pipeline: &Pipeline, index: usize, input: &'a Input, args: &Args) -> Result<Prompt<'a>, PipelineError> {
    let failed = |source: TokenizerError| PipelineError::Tokenizer { index, source };
    let kwargs = args.get("tokenizer_encode_kwargs").and_then(Value::as_object);
    let option = |name: &str| kwargs.and_then(|k| k.get(name)).or_else(|| args.get(name));
    let mut options = pipeline.encode_options(option)?;
    // A maximal length of text and prompt together cuts no prompt by itself.
    if options.truncation.is_none() {
        options.max_length = None;
    }
    options.add_special_tokens = option("add_special_tokens").and_then(Value::as_bool).unwrap_or(true);
    let (ids, continues) = match input {
        Input::Text(text) => {
            let text = format!("{}{text}", args.text("prefix").unwrap_or_default());
            // The model's special tokens around nothing would be a prompt that nobody gave.
            let row = pipeline.tokenizer.encode(Text::Raw(&text), None, &options).map_err(failed)?;
            (row.into_single().ids, false)
        }
        Input::Messages(messages) => {
            if let Some(at) = messages.iter().position(|m| !m.get("role").is_some_and(Value::is_string)) {
                let problem = format!("message {at} is no object with \"role\" and \"content\"");
                return Err(PipelineError::Input { index, problem });
            }
            let last = messages.last().and_then(|m| m.get("role")).and_then(Value::as_str);
            let continues = args.flag("continue_final_message").unwrap_or(last == Some("assistant"));
            let chat = ChatOptions {
                chat_template: option("chat_template").and_then(Value::as_str),
                tools: args.objects("tools"),
                documents: args.objects("documents"),
                add_generation_prompt: !continues,
                continue_final_message: continues.then_some("content"),
                variables: template_variables(args, kwargs),
            };
            let chat = pipeline.tokenizer.encode_chat(messages, &chat, &options, false).map_err(failed)?;
            (chat.encoding.ids, continues)
        }
        Input::Words(_) | Input::Record(_) => {
            let problem = "this task takes texts and conversations".into();
            return Err(PipelineError::Input { index, problem });
        }
    };
    Ok(Prompt { input, ids, continues })
}

/// Variables of the chat template: its own argument, and what else is among the tokenizer's.
fn template_variables(args: &Args, kwargs: Option<&Map<String, Value>>) -> Map<String, Value> {
    const OTHERS: [&str; 6] =
        ["truncation", "max_length", "padding", "add_special_tokens", "chat_template", "return_tensors"];
    let own = args.get("chat_template_kwargs").and_then(Value::as_object);
    let others = kwargs.into_iter().flatten().filter(|(name, _)| !OTHERS.contains(&name.as_str()));
    others.chain(own.into_iter().flatten()).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Cuts the beginning of a prompt that leaves no room for the new tokens (`handle_long_generation="hole"`).
fn leave_room(ids: &mut Vec<u32>, settings: &Settings, limit: Option<usize>) -> Result<(), PipelineError> {
    let Some(limit) = limit else { return Ok(()) };
    let new = match (settings.max_new_tokens, settings.max_length) {
        (Some(new), _) => new,
        (None, Some(length)) => length.saturating_sub(ids.len()),
        (None, None) => return Ok(()),
    };
    if ids.len().saturating_add(new) > limit {
        let keep = limit.checked_sub(new).filter(|&keep| keep > 0).ok_or_else(|| {
            let problem = format!("{new} new tokens leave no room for a prompt in the {limit} tokens the model takes");
            PipelineError::argument("handle_long_generation", problem)
        })?;
        ids.drain(..ids.len().saturating_sub(keep));
    }
    Ok(())
}

/// Runs prompts together; `first` is the index of the first one's input.
#[allow(clippy::too_many_arguments, reason = "the parts of one call")]
fn generate(
    pipeline: &Pipeline,
    writer: &Writer,
    prompts: &[Prompt<'_>],
    settings: &Settings,
    first: usize,
    form: &Form,
    cancel: &Cancel,
    on_piece: &mut dyn FnMut(&Piece<'_>),
) -> Result<Vec<Output>, PipelineError> {
    // What generation knows of a generator is in order after every step, so one that a panic has left is sound.
    let mut generator = writer.generator.lock().unwrap_or_else(PoisonError::into_inner);
    let at = |input: usize| {
        move |error: GenerationError| match error {
            GenerationError::Prompt(problem) => PipelineError::Input { index: first + input, problem },
            other => PipelineError::Generation(other),
        }
    };
    // The caller's flag is looked at between steps; this one also ends what an error leaves behind.
    let stop = Cancel::new();
    let mut failure = None;
    let mut ids = Vec::with_capacity(prompts.len());
    for (i, prompt) in prompts.iter().enumerate() {
        let text = Decode { tokenizer: pipeline.tokenizer.clone(), skip_special_tokens: false };
        let mut request = Request::new(prompt.ids.clone(), settings.clone());
        request.text = Some(Arc::new(text));
        request.cancel = stop.clone();
        match generator.submit(request).map_err(at(i)) {
            Ok(id) => ids.push(id),
            Err(error) => {
                failure = Some(error);
                stop.cancel();
                break;
            }
        }
    }
    let mut outputs: Vec<Option<Output>> = prompts.iter().map(|_| None).collect();
    let mut streams: BTreeMap<(usize, usize), StreamDecoder<Decode>> = BTreeMap::new();
    let new_stream = || {
        let (tokenizer, skip_special_tokens) = (pipeline.tokenizer.clone(), form.skip_special_tokens);
        StreamDecoder::new(Decode { tokenizer, skip_special_tokens })
    };
    loop {
        if cancel.is_cancelled() {
            stop.cancel();
        }
        let more = generator.step(&mut |event| match event {
            Event::Token { request, sample, token, .. } => {
                let Ok(i) = ids.binary_search(&request) else { return };
                let text = streams.entry((i, sample)).or_insert_with(new_stream).push(token);
                if let Some(text) = text {
                    on_piece(&Piece { input: first + i, sample, text: &text });
                }
            }
            Event::Finished { request, result } => {
                let Ok(i) = ids.binary_search(&request) else { return };
                for ((_, sample), stream) in streams.range_mut((i, 0)..(i + 1, 0)) {
                    if let Some(text) = stream.finish() {
                        on_piece(&Piece { input: first + i, sample: *sample, text: &text });
                    }
                }
                match result {
                    Ok(output) => outputs[i] = Some(output),
                    Err(error) => failure = failure.take().or_else(|| Some(at(i)(error))),
                }
            }
        });
        if !more {
            break;
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(outputs.into_iter().flatten().collect()),
    }
}

/// The results of a prompt, in the form of the answer. A result that ended with an error has it beside its text.
fn records(
    pipeline: &Pipeline,
    prompt: &Prompt<'_>,
    output: &Output,
    settings: &Settings,
    form: &Form,
) -> Result<Value, PipelineError> {
    let padded = output.padded(settings.pad_token_id.unwrap_or(0));
    let record = |(generated, row): (&Generated, Vec<u32>)| {
        let mut record = Map::new();
        if form.tensors {
            record.insert("generated_token_ids".into(), json!(row));
        } else {
            let text = form.decode(&pipeline.tokenizer, &generated.tokens);
            let text = text.map_err(|source| PipelineError::Tokenizer { index: 0, source })?;
            record.insert("generated_text".into(), if form.full_text { whole(prompt, text) } else { text.into() });
        }
        if let Some(error) = &generated.error {
            record.insert("error".into(), Value::from(error.to_string()));
        }
        Ok(Value::Object(record))
    };
    output.sequences.iter().zip(padded).map(record).collect()
}

/// The text, or the conversation, with the new text.
fn whole(prompt: &Prompt<'_>, text: String) -> Value {
    let mut messages = match prompt.input {
        Input::Messages(messages) => messages.clone(),
        Input::Text(before) => return Value::from(format!("{before}{text}")),
        Input::Words(_) | Input::Record(_) => return Value::from(text),
    };
    match messages.last_mut() {
        Some(last) if prompt.continues => match last.get_mut("content") {
            Some(Value::String(content)) => content.push_str(&text),
            Some(Value::Array(parts)) => parts.push(json!({ "type": "text", "text": text })),
            _ => {}
        },
        _ => messages.push(json!({ "role": "assistant", "content": text })),
    }
    Value::Array(messages)
}
