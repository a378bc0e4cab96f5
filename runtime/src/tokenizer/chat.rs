//! Conversations to prompts and token ids: which of a checkpoint's chat templates is meant, and what it is given.
//! Must not know how templates run. (CT-01, CT-09, CT-10)

use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

use super::assets::Assets;
use super::config::{broken, object};
use super::encode::EncodeOptions;
use super::encoding::Encoding;
use super::error::TokenizerError;
use super::{AutoTokenizer, Text};
use crate::chat::{ChatError, ChatTemplate, Conversation, Rendered};

const FILE: &str = "chat_template.jinja";
const CONFIG: &str = "tokenizer_config.json";
const PROCESSOR: &str = "chat_template.json";

/// The template that is meant when none is named.
const DEFAULT: &str = "default";
/// The template that is meant when there are tools.
const TOOL_USE: &str = "tool_use";
/// Names of the templates that may lie beside the default one.
const ADDITIONAL: [&str; 2] = [TOOL_USE, "rag"];

/// The templates of a checkpoint, parsed when first used.
#[derive(Debug, Default)]
pub(super) struct ChatTemplates {
    named: Vec<(String, String, OnceLock<Arc<ChatTemplate>>)>,
}

impl ChatTemplates {
    /// Reads the files that may hold templates: files of their own first, then the tokenizer's configuration, then the
    /// processor's. (CT-01)
    pub fn read(assets: &(impl Assets + ?Sized)) -> Result<ChatTemplates, TokenizerError> {
        let mut templates = ChatTemplates::default();
        let file = |name: &str| -> Result<Option<String>, TokenizerError> {
            let bytes = assets.read(name).map_err(|e| broken(assets, name, e.to_string()))?;
            let text = bytes.map(|b| String::from_utf8(b.into_owned()));
            text.transpose().map_err(|e| broken(assets, name, format!("not UTF-8: {e}")))
        };
        if let Some(source) = file(FILE)? {
            templates.add(DEFAULT, source);
        }
        for name in ADDITIONAL {
            if let Some(source) = file(&format!("additional_chat_templates/{name}.jinja"))? {
                templates.add(name, source);
            }
        }
        if templates.named.is_empty() {
            templates
                .add_config(object(assets, CONFIG)?.get("chat_template"))
                .map_err(|e| broken(assets, CONFIG, e))?;
        }
        if templates.named.is_empty() {
            let processor = object(assets, PROCESSOR)?;
            templates.add_config(processor.get("chat_template")).map_err(|e| broken(assets, PROCESSOR, e))?;
        }
        Ok(templates)
    }

    fn add(&mut self, name: &str, source: String) {
        self.named.push((name.into(), source, OnceLock::new()));
    }

    /// A template, or a list of `{"name", "template"}`.
    fn add_config(&mut self, value: Option<&Value>) -> Result<(), String> {
        match value {
            None | Some(Value::Null) => {}
            Some(Value::String(source)) => self.add(DEFAULT, source.clone()),
            Some(Value::Array(entries)) => {
                for entry in entries {
                    let text = |key: &str| entry.get(key).and_then(Value::as_str);
                    let (name, source) = text("name")
                        .zip(text("template"))
                        .ok_or("chat_template: every entry of the list needs \"name\" and \"template\"")?;
                    self.add(name, source.into());
                }
            }
            Some(_) => return Err("chat_template is neither a text nor a list".into()),
        }
        Ok(())
    }

    /// Names and texts of all templates.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.named.iter().flat_map(|(name, source, _)| [name.as_str(), source.as_str()])
    }

    /// The template that `choice` names or is; without a choice the one for tools, or the default.
    fn choose(&self, choice: Option<&str>, tools: bool) -> Result<Arc<ChatTemplate>, ChatError> {
        let named = |wanted: &str| self.named.iter().find(|(name, ..)| name == wanted);
        let found = match choice {
            Some(choice) => match named(choice) {
                Some(found) => found,
                None => return ChatTemplate::new(choice).map(Arc::new),
            },
            None => {
                let for_tools = tools.then(|| named(TOOL_USE)).flatten();
                for_tools.or_else(|| named(DEFAULT)).ok_or_else(|| self.absent())?
            }
        };
        let (_, source, parsed) = found;
        if let Some(template) = parsed.get() {
            return Ok(template.clone());
        }
        let template = Arc::new(ChatTemplate::new(source)?);
        Ok(parsed.get_or_init(|| template).clone())
    }

    fn absent(&self) -> ChatError {
        ChatError::NoTemplate(match self.named.is_empty() {
            true => {
                "the model has no chat template, so it takes plain text only; give a template with chat_template".into()
            }
            false => {
                let names: Vec<&str> = self.named.iter().map(|(name, ..)| name.as_str()).collect();
                format!("the model has no default chat template; name one of {} with chat_template", names.join(", "))
            }
        })
    }
}

/// How a conversation becomes a prompt. (CT-09)
#[derive(Clone, Debug, Default)]
pub struct ChatOptions<'a> {
    /// Name of one of the checkpoint's templates, or a template.
    pub chat_template: Option<&'a str>,
    /// JSON schemas of functions that the model may call.
    pub tools: Option<&'a [Value]>,
    /// Documents to answer from.
    pub documents: Option<&'a [Value]>,
    /// End with the beginning of an answer.
    pub add_generation_prompt: bool,
    /// Leave the last message open at the end of this field (`content`).
    pub continue_final_message: Option<&'a str>,
    /// Further variables of the template (`enable_thinking`, ...); they go before special tokens of the same name.
    pub variables: Map<String, Value>,
}

/// A conversation as tokens.
#[derive(Clone, Debug)]
pub struct ChatEncoding {
    /// The prompt's text.
    pub text: String,
    /// Its tokens; the template writes special tokens itself, so none are added. (CT-10)
    pub encoding: Encoding,
    /// 1 for each token that a `{% generation %}` block of the template wrote, if asked for. (CT-08)
    pub assistant_masks: Option<Vec<u32>>,
}

impl AutoTokenizer {
    /// Whether the checkpoint brings a chat template.
    pub fn has_chat_template(&self) -> bool {
        !self.chat.named.is_empty()
    }

    /// The text of the template that `choice` names, or that is meant without a name. (CT-01)
    ///
    /// # Errors
    /// [`ChatError::NoTemplate`], and when the template does not parse.
    pub fn chat_template(&self, choice: Option<&str>, tools: bool) -> Result<Arc<ChatTemplate>, ChatError> {
        self.chat.choose(choice, tools)
    }

    /// The prompt of a conversation. (CT-09)
    ///
    /// # Errors
    /// [`ChatError`].
    pub fn apply_chat_template(&self, messages: &[Value], options: &ChatOptions<'_>) -> Result<String, ChatError> {
        Ok(self.render(messages, options, false)?.text)
    }

    fn render(&self, messages: &[Value], options: &ChatOptions<'_>, spans: bool) -> Result<Rendered, ChatError> {
        let template = self.chat_template(options.chat_template, options.tools.is_some())?;
        let mut variables: Map<String, Value> =
            self.special_tokens_map().map(|(name, token)| (name.to_string(), Value::from(token))).collect();
        variables.extend(options.variables.clone());
        if spans && !template.marks_generation() {
            tracing::warn!("the chat template has no generation blocks: the assistant's mask is all zeros");
        }
        template.render(&Conversation {
            messages,
            tools: options.tools,
            documents: options.documents,
            variables,
            add_generation_prompt: options.add_generation_prompt,
            continue_final_message: options.continue_final_message,
            assistant_spans: spans,
        })
    }

    /// The tokens of a conversation; `encode` says how they are cut and padded. (CT-08 to CT-10)
    ///
    /// # Errors
    /// [`TokenizerError::Chat`], and as [`AutoTokenizer::encode`].
    pub fn encode_chat(
        &self,
        messages: &[Value],
        options: &ChatOptions<'_>,
        encode: &EncodeOptions,
        assistant_masks: bool,
    ) -> Result<ChatEncoding, TokenizerError> {
        let Rendered { text, assistant } = self.render(messages, options, assistant_masks)?;
        let encode = EncodeOptions { add_special_tokens: false, ..encode.clone() };
        let encoding = self.encode(Text::Raw(&text), None, &encode)?.into_single();
        let assistant_masks = assistant_masks.then(|| {
            let chars = |byte: usize| text.get(..byte).map_or(0, |before| before.chars().count());
            let spans: Vec<_> = assistant.iter().map(|span| chars(span.start)..chars(span.end)).collect();
            let within = |&(start, end): &(usize, usize)| spans.iter().any(|s| start < s.end && end > s.start);
            encoding.offsets.iter().map(|offsets| u32::from(within(offsets))).collect()
        });
        Ok(ChatEncoding { text, encoding, assistant_masks })
    }
}
