//! Chat templates against Transformers: byte-equal renders of templates in the formats in use, the same refusals, and
//! templates that mean harm.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lith_runtime::chat::{ChatError, ChatTemplate, Clock, Conversation};
use serde_json::{Map, Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/chat")
}

fn golden() -> Value {
    serde_json::from_slice(&fs::read(folder().join("golden.json")).unwrap()).unwrap()
}

fn template(source: &str) -> Result<ChatTemplate, ChatError> {
    ChatTemplate::with_clock(source, Clock::fixed("2024-07-26T09:05:03+00:00[UTC]").unwrap())
}

/// A conversation as the golden file has it: keyword arguments of `apply_chat_template`.
fn conversation<'a>(arguments: &'a Value, special: &Value) -> Conversation<'a> {
    let list = |name: &str| arguments[name].as_array().map(Vec::as_slice);
    let known = ["messages", "tools", "documents", "add_generation_prompt", "continue_final_message"];
    let mut variables = special.as_object().unwrap().clone();
    let others = arguments.as_object().unwrap().iter().filter(|(name, _)| !known.contains(&name.as_str()));
    variables.extend(others.map(|(name, value)| (name.clone(), value.clone())));
    Conversation {
        messages: list("messages").unwrap(),
        tools: list("tools"),
        documents: list("documents"),
        variables,
        add_generation_prompt: arguments["add_generation_prompt"] == true,
        continue_final_message: (arguments["continue_final_message"] == true).then_some("content"),
        assistant_spans: false,
    }
}

/// CT-02 to CT-08, CT-11 to CT-13, CT-15, CT-16: over thirty templates in the formats in use, each with conversations
/// with and without system message, tools, documents, reasoning, parts and an open end, byte for byte as Transformers
/// renders them, or refused where it refuses them, in the template's own words.
#[test]
fn ct_15_renders_equal_transformers() {
    let golden = golden();
    let cases = golden["cases"].as_array().unwrap();
    let mut wrong = Vec::new();
    for case in cases {
        let name = format!("{} / {}", case["template"].as_str().unwrap(), case["conversation"].as_str().unwrap());
        let source = fs::read_to_string(folder().join(format!("{}.jinja", case["template"].as_str().unwrap())));
        let parsed = match template(&source.unwrap()) {
            Ok(parsed) => parsed,
            Err(e) => {
                wrong.push(format!("{name}: {e}"));
                continue;
            }
        };
        let arguments = &golden["conversations"][case["conversation"].as_str().unwrap()];
        let mut conversation = conversation(arguments, &golden["special"]);
        conversation.assistant_spans = conversation.continue_final_message.is_none();
        match (parsed.render(&conversation), case.get("text")) {
            (Ok(found), Some(text)) => {
                let spans: Vec<Value> = found.assistant.iter().map(|s| json!([s.start, s.end])).collect();
                let expected = case.get("spans").cloned().unwrap_or_else(|| json!([]));
                if found.text != text.as_str().unwrap() {
                    let expected = text.as_str().unwrap();
                    let same = found.text.chars().zip(expected.chars()).take_while(|(a, b)| a == b).count();
                    let from = |text: &str| text.chars().skip(same.saturating_sub(20)).take(80).collect::<String>();
                    wrong.push(format!("{name}\n  found    {:?}\n  expected {:?}", from(&found.text), from(expected)));
                } else if json!(spans) != expected {
                    wrong.push(format!("{name}: spans {spans:?}, expected {expected}"));
                }
            }
            (Err(e), None) => {
                let raised = matches!(&e, ChatError::Refused(m) if *m == case["error"].as_str().unwrap());
                if raised != (case["raised"] == true) {
                    wrong.push(format!("{name}: {e}, expected {case}"));
                }
            }
            (Ok(found), None) => wrong.push(format!("{name}: {:?}, expected {case}", found.text)),
            (Err(e), Some(_)) => wrong.push(format!("{name}: {e}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() > 300);
}

fn user(text: &str) -> Vec<Value> {
    vec![json!({ "role": "user", "content": text })]
}

fn render(source: &str, messages: &[Value]) -> Result<String, ChatError> {
    let parsed = template(source)?;
    Ok(parsed.render(&Conversation { messages, ..Conversation::default() })?.text)
}

/// A template that does not end, or writes without end, is stopped within a moment; so is one that nests without end.
#[test]
fn templates_without_end_are_stopped() {
    let nested = |grow: &str, then: &str| {
        format!(
            "{{% set ns = namespace(a=[]) %}}{{% for i in range(90000) %}}{{% set ns.a = {grow} %}}{{% endfor %}}{then}"
        )
    };
    let endless = [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}".to_string(),
        "{% set ns = namespace(t='ab') %}{% for a in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}{{ ns.t }}".into(),
        "{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}".into(),
        "{{ 'x' * 99999999 }}".into(),
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}".into(),
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}".into(),
        "{% set ns = namespace(a=[1]) %}{% for a in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a | tojson }}".into(),
        "{% set ns = namespace(a=[1]) %}{% for a in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a }}".into(),
        "{% set ns = namespace(a=[1]) %}{% for a in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ [ns.a] | join }}".into(),
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns | tojson }}".into(),
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}".into(),
        "{{ '{:999999999}'.format('x') }}".into(),
        "{{ '{:{}}'.format('x', 999999999) }}".into(),
        "{{ '%999999999s' % 'x' }}".into(),
        "{{ range(99999999) | list }}".into(),
        "{{ ('a' * 9999).replace('a', 'b' * 9999).replace('b', 'c' * 999) }}".into(),
        "{{ [[0] * 99999] * 99999 }}".into(),
        nested("[ns.a]", "{{ ns.a }}"),
        nested("[ns.a]", "{{ ns.a | tojson }}"),
        nested("ns.a[1:]", "{{ ns.a | list | length }}{{ ns.nothing.more }}"),
        nested("{'k': ns.a}", "{{ ns.a == {'k': ns.a} }}{{ ns.nothing.more }}"),
    ];
    for source in endless {
        println!("{}", source.get(..150).unwrap_or(&source));
        let start = Instant::now();
        let error = render(&source, &user("a")).unwrap_err();
        let short: String = source.chars().take(120).collect();
        assert!(matches!(error, ChatError::Endless(_) | ChatError::Failed(_)), "{short}: {error}");
        assert!(start.elapsed().as_secs_f64() < 30.0, "{short}: {:?}", start.elapsed());
    }
}

/// What a template may not do is an error: other files, Python's insides, changing what it was given, absurd sources.
#[test]
fn ct_04_what_is_not_allowed_is_refused() {
    for source in [
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% extends 'x' %}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.x }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{{ messages[0].pop('role') }}",
        "{% set ns = namespace(__init__=1) %}",
        "{{ undefined_function() }}",
        "{{ nothing.at.all }}",
        "{{ 'a' + 1 }}",
        "{{ 1 / 0 }}",
        "{{ messages | nofilter }}",
        "{{ messages is notest }}",
    ] {
        let error = render(source, &user("a")).unwrap_err();
        assert!(matches!(error, ChatError::Failed(_) | ChatError::Syntax(_)), "{source}: {error:?}");
    }
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
    let long = "x".repeat(2 << 20);
    for source in
        ["{% if %}", "{{", "{% for a in b %}", "{{ 'open }}", "{% unknown %}", "{% generation %}", &deep, &long]
    {
        assert!(matches!(template(source), Err(ChatError::Syntax(_))), "{:?}", source.get(..30));
    }
}

/// CT-09, CT-16: conversations that are none.
#[test]
fn ct_16_bad_conversations_are_refused() {
    let parsed = template("{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}{% endfor %}").unwrap();
    let messages = user("a ");
    let base = Conversation { messages: &messages, ..Conversation::default() };
    let refused = |c: &Conversation<'_>| matches!(parsed.render(c), Err(ChatError::Conversation(_)));
    assert!(refused(&Conversation { messages: &[], ..base.clone() }));
    assert!(refused(&Conversation { messages: &[json!("text")], ..base.clone() }));
    assert!(refused(&Conversation {
        add_generation_prompt: true,
        continue_final_message: Some("content"),
        ..base.clone()
    }));
    assert!(refused(&Conversation { continue_final_message: Some("content"), assistant_spans: true, ..base.clone() }));
    assert!(refused(&Conversation { continue_final_message: Some("role_"), ..base.clone() }));
    let open = Conversation { continue_final_message: Some("content"), ..base.clone() };
    assert_eq!(parsed.render(&open).unwrap().text, "[user] a", "what the template trims stays trimmed");
    let leaves_out = template("{# content #}{{ messages[0].role }}").unwrap();
    assert!(matches!(leaves_out.render(&open), Err(ChatError::Conversation(_))));
}

/// CT-05: variables of the call override special tokens of the same name; CT-12: null fields are not there.
#[test]
fn ct_05_variables_and_missing_fields() {
    let parsed = template("{{ bos_token }}{{ x }}{{ messages[0].tool_calls is defined }}").unwrap();
    let messages = [json!({ "role": "user", "content": "a", "tool_calls": null })];
    let variables: Map<String, Value> = json!({ "bos_token": "<s>", "x": 7 }).as_object().unwrap().clone();
    let chat = Conversation { messages: &messages, variables, ..Conversation::default() };
    assert_eq!(parsed.render(&chat).unwrap().text, "<s>7False");
}
