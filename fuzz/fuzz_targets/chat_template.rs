//! Any text as a chat template, over a conversation that any text fills: refused, or rendered within its steps.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lith_runtime::chat::{ChatTemplate, Conversation};
use serde_json::{Map, Value, json};

/// Past this no template tells more of the engine, and a render takes time.
const LONGEST: usize = 2048;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]);
    // The template, and after a zero byte what the messages say.
    let (source, content) = text.split_once('\0').unwrap_or((&text, "Hello"));
    let Ok(template) = ChatTemplate::new(source) else { return };
    let messages = [
        json!({ "role": "system", "content": "Be brief." }),
        json!({ "role": "user", "content": content, "n": 1.5, "flags": [true, null, { "k": [] }] }),
        json!({ "role": "assistant", "content": [{ "type": "text", "text": content }] }),
    ];
    let tools = [json!({ "type": "function", "function": { "name": content, "parameters": { "properties": {} } } })];
    let mut variables = Map::new();
    variables.insert("bos_token".into(), Value::from("<s>"));
    let conversation = Conversation { messages: &messages, tools: Some(&tools), variables, ..Conversation::default() };
    let spans = Conversation { assistant_spans: true, ..conversation.clone() };
    let open = Conversation { continue_final_message: Some("content"), ..conversation.clone() };
    for conversation in [conversation, spans, open] {
        if let Ok(rendered) = template.render(&conversation) {
            assert!(rendered.assistant.iter().all(|span| rendered.text.get(span.clone()).is_some()));
        }
    }
});
