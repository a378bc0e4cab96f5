//! Options: names, kinds, priority, contradictions.

use serde_json::json;

use super::*;

fn resolve(call: Value, model: Value) -> Result<(Settings, Vec<String>), GenerationError> {
    let parse = |value: Value| GenerationConfig::from_json(value.as_object().unwrap());
    Settings::resolve(&parse(call)?, &parse(model)?)
}

/// GE-01: what the call says holds, then what the model's configuration says, then the defaults.
#[test]
fn ge_01_priority() {
    let model =
        json!({"temperature": 0.6, "do_sample": true, "top_p": 0.9, "eos_token_id": [2, 3], "max_length": null});
    let (s, warnings) = resolve(json!({"temperature": 0.2, "top_p": null}), model.clone()).unwrap();
    assert_eq!((s.temperature, s.top_p, s.do_sample, s.top_k), (0.2, 0.9, true, 50));
    assert_eq!((&s.eos_token_id[..], s.pad_token_id), (&[2, 3][..], Some(2)));
    assert!(warnings.is_empty(), "{warnings:?}");
    // GE-03: sampling flags of the model are no mistake of a call that does not sample; flags of the call are.
    let (_, warnings) = resolve(json!({"do_sample": false}), model.clone()).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let (_, warnings) = resolve(json!({"do_sample": false, "min_p": 0.1, "length_penalty": 2.0}), model).unwrap();
    assert!(
        warnings.len() == 2 && warnings[0].contains("min_p") && warnings[1].contains("length_penalty"),
        "{warnings:?}"
    );
}

/// GE-01: a model's file may hold what is not known here; the call may not.
#[test]
fn ge_01_model_file() {
    let file = json!({
        "_from_model_config": true, "transformers_version": "4.40.0", "eos_token_id": 2, "pad_token_id": -1,
        "no_such_option": 3, "top_p": "much",
    });
    let (config, warnings) = GenerationConfig::from_model(file.as_object().unwrap());
    assert_eq!(config.given().collect::<Vec<_>>(), [("eos_token_id", &json!(2))]);
    assert!(
        warnings.len() == 2 && warnings[0].contains("no_such_option") && warnings[1].contains("top_p"),
        "{warnings:?}"
    );
}

/// GE-04: an unknown option is an error that lists the known ones.
#[test]
fn ge_04_unknown_option() {
    for error in [
        resolve(json!({"temprature": 0.5}), json!({})).unwrap_err(),
        GenerationConfig::new().set_text("temprature", Some("0.5")).unwrap_err(),
    ] {
        assert!(error.is_usage());
        let message = error.to_string();
        assert!(message.contains("temprature") && message.contains("temperature, top_k"), "{message}");
    }
}

/// GE-02, GE-03, GE-05: values and combinations that cannot be.
#[test]
fn ge_03_contradictions() {
    for (options, name) in [
        (json!({"do_sample": true, "temperature": 0.0}), "temperature"),
        (json!({"do_sample": true, "temperature": -1.0}), "temperature"),
        (json!({"top_k": -1}), "top_k"),
        (json!({"top_k": 2.5}), "top_k"),
        (json!({"top_p": 1.5}), "top_p"),
        (json!({"min_p": -0.1}), "min_p"),
        (json!({"top_h": 0.0}), "top_h"),
        (json!({"typical_p": 0.0}), "typical_p"),
        (json!({"epsilon_cutoff": 1.0}), "epsilon_cutoff"),
        (json!({"repetition_penalty": 0.0}), "repetition_penalty"),
        (json!({"max_new_tokens": 0}), "max_new_tokens"),
        (json!({"early_stopping": "sometimes"}), "early_stopping"),
        (json!({"num_return_sequences": 2}), "num_return_sequences"),
        (json!({"num_return_sequences": 3, "num_beams": 2}), "num_return_sequences"),
        (json!({"num_beams": 0}), "num_beams"),
        (json!({"num_beams": 4, "num_beam_groups": 3}), "num_beam_groups"),
        (json!({"num_beams": 4, "num_beam_groups": 2, "do_sample": true}), "num_beam_groups"),
        (json!({"forced_eos_token_id": 2, "suppress_tokens": [2, 3]}), "forced_eos_token_id"),
        (json!({"forced_bos_token_id": 2, "bad_words_ids": [[2]]}), "forced_bos_token_id"),
        (json!({"bad_words_ids": [[]]}), "bad_words_ids"),
        (json!({"sequence_bias": [[[], 1.0]]}), "sequence_bias"),
        (json!({"sequence_bias": [[1, 2]]}), "sequence_bias"),
        (json!({"stop_strings": [""]}), "stop_strings"),
        (json!({"stop_strings": [3]}), "stop_strings"),
        (json!({"eos_token_id": -5}), "eos_token_id"),
        (json!({"eos_token_id": 4_294_967_296u64}), "eos_token_id"),
        (json!({"prompt_lookup_num_tokens": 0}), "prompt_lookup_num_tokens"),
        (json!({"logprobs": 2, "num_beams": 2}), "logprobs"),
        (json!({"guidance_scale": 1.5, "num_beams": 2}), "guidance_scale"),
        (json!({"watermarking_config": {"bias": 2.0}}), "watermarking_config"),
        (json!({"output_attentions": true}), "output_attentions"),
    ] {
        let error = resolve(options.clone(), json!({})).expect_err(&options.to_string());
        assert!(error.is_usage() && error.to_string().contains(name), "{options}: {error}");
    }
}

/// GE-02: lengths.
#[test]
fn ge_02_lengths() {
    let limit = |options, prompt| settings(options).length_limit(prompt, Some(100));
    assert_eq!(limit(json!({}), 5).unwrap(), 25);
    assert_eq!(limit(json!({}), 95).unwrap(), 100);
    assert_eq!(limit(json!({"max_length": 30}), 5).unwrap(), 30);
    assert_eq!(limit(json!({"max_length": 30, "max_new_tokens": 3}), 5).unwrap(), 8);
    assert_eq!(limit(json!({"max_new_tokens": u32::MAX}), 5).unwrap(), 100);
    assert!(limit(json!({"max_length": 5}), 5).unwrap_err().to_string().contains("max_length is 5"));
    assert!(limit(json!({}), 100).unwrap_err().to_string().contains("model takes 100"));
}

/// The command line gives what JSON gives.
#[test]
fn flags_and_json_agree() {
    let flags = [
        ("do-sample", None),
        ("early-stopping", Some("never")),
        ("temperature", Some("0.5")),
        ("top-k", Some("7")),
        ("eos-token-id", Some("3, 4")),
        ("pad-token-id", Some("none")),
        ("stop-strings", Some("12")),
        ("stop-strings", Some("b")),
        ("bad-words-ids", Some("[[1, 2], [3]]")),
        ("logit-bias", Some("{\"4\": -2.5}")),
        ("exponential-decay-length-penalty", Some("[3, 1.5]")),
        ("use-cache", Some("false")),
        ("seed", Some("18446744073709551615")),
    ];
    let mut config = GenerationConfig::new();
    flags.iter().for_each(|(name, text)| config.set_text(name, *text).unwrap());
    let json = json!({
        "do_sample": true, "early_stopping": "never", "temperature": 0.5, "top_k": 7, "eos_token_id": [3, 4],
        "pad_token_id": null, "stop_strings": ["12", "b"], "bad_words_ids": [[1, 2], [3]], "logit_bias": {"4": -2.5},
        "exponential_decay_length_penalty": [3, 1.5], "use_cache": false, "seed": u64::MAX,
    });
    assert_eq!(config, super::config(json.as_object().unwrap()));
    for (name, text) in
        [("top-k", Some("many")), ("top-k", Some("-3")), ("temperature", None), ("eos-token-id", Some("a,b"))]
    {
        assert!(GenerationConfig::new().set_text(name, text).is_err(), "{name}");
    }
}

/// Every option has one name, a help text and a default to show.
#[test]
fn table_is_complete() {
    for (i, spec) in OPTIONS.iter().enumerate() {
        assert!(!spec.help.is_empty() && !spec.default.is_empty(), "{}", spec.name);
        assert!(OPTIONS[i + 1..].iter().all(|other| other.name != spec.name), "{}", spec.name);
    }
}
