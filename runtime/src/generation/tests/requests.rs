//! Requests from prompt to end: stop rules, constraints, events, cancellation, log-probabilities.

use std::sync::Arc;

use serde_json::json;

use super::table::VOCAB;
use super::*;

/// One letter a token: `a` for 1.
fn letters(ids: &[u32]) -> String {
    ids.iter().filter_map(|&id| char::from_u32(96 + id)).collect()
}

/// GE-25: stop strings across tokens: the text ends with the token that completes one, and holds it.
#[test]
fn ge_25_stop_strings() {
    let options = json!({"max_new_tokens": 30, "eos_token_id": 99});
    let prompt = [3, 1, 4];
    let plain = tokens(request(&prompt, options.clone())).remove(0);
    for (start, len) in [(0, 1), (4, 3), (9, 6), (20, 2)] {
        let stop = letters(&plain[start..start + len]);
        let mut options = options.clone();
        options["stop_strings"] = json!(["not there", stop]);
        let mut request = request(&prompt, options);
        request.text = Some(Arc::new(letters));
        let output = run(&mut generator(100), vec![request]).remove(0).unwrap();
        let found = &output.sequences[0];
        let end = letters(&plain).find(&stop).unwrap() + len;
        assert_eq!(
            (letters(&found.tokens), found.finish),
            (letters(&plain)[..end].into(), FinishReason::StopString(1))
        );
    }
    // Two letters a token, the stop string begins and ends within tokens; what follows it in the last stays.
    let pairs = |ids: &[u32]| ids.iter().map(|&id| format!("{0}{0}", letters(&[id]))).collect::<String>();
    let text = pairs(&plain);
    let mut options = options.clone();
    options["stop_strings"] = json!(&text[3..6]);
    let mut request = request(&prompt, options);
    request.text = Some(Arc::new(pairs));
    let output = run(&mut generator(100), vec![request]).remove(0).unwrap();
    assert_eq!(output.sequences[0].tokens, plain[..3]);
}

/// GE-25: a stop string that was complete in the prompt does not end the text; one that begins there does.
#[test]
fn ge_25_stop_strings_and_prompt() {
    let prompt = [3, 1, 4];
    let plain = tokens(request(&prompt, json!({"eos_token_id": 99}))).remove(0);
    let with = |stop: String| {
        let mut request = request(&prompt, json!({"eos_token_id": 99, "stop_strings": stop}));
        request.text = Some(Arc::new(letters));
        tokens(request).remove(0)
    };
    assert_eq!(with("cad".into()), plain);
    assert_eq!(with(format!("ad{}", letters(&plain[..1]))), plain[..1]);
}

/// GE-25: the caller's criterion, the time limit, several end tokens; GE-23: a constraint.
#[test]
fn ge_25_other_ends() {
    let mut by_criterion = request(&[3, 1], json!({"eos_token_id": 99, "max_new_tokens": 30}));
    by_criterion.criterion = Some(Arc::new(|tokens: &[u32]| tokens.len() == 9));
    let by_time = request(&[3, 1], json!({"eos_token_id": 99, "max_new_tokens": 900, "max_time": 0.0}));
    let plain = tokens(request(&[3, 1], json!({"eos_token_id": 99, "max_new_tokens": 30}))).remove(0);
    let by_token = request(&[3, 1], json!({"eos_token_id": [plain[4], plain[6]], "max_new_tokens": 30}));
    let mut constrained = request(&[3, 1], json!({"eos_token_id": 99, "max_new_tokens": 8}));
    constrained.allowed = Some(Arc::new(|tokens: &[u32]| vec![tokens.len() as u32 % 3 + 5, 20, 999]));
    let mut impossible = request(&[3, 1], json!({"eos_token_id": 99, "max_new_tokens": 8}));
    impossible.allowed = Some(Arc::new(|tokens: &[u32]| if tokens.len() < 5 { vec![7] } else { vec![] }));
    let outputs = run(&mut generator(900), vec![by_criterion, by_time, by_token, constrained, impossible]);
    let found: Vec<&Generated> = outputs.iter().map(|o| &o.as_ref().unwrap().sequences[0]).collect();
    assert_eq!((found[0].tokens.len(), found[0].finish), (7, FinishReason::Criterion));
    assert_eq!((found[1].tokens.len(), found[1].finish), (1, FinishReason::Time));
    let end = plain.iter().position(|id| *id == plain[4] || *id == plain[6]).unwrap();
    assert_eq!((&found[2].tokens[..], found[2].finish), (&plain[..=end], FinishReason::EndToken));
    let allowed = |(i, id): (usize, &u32)| *id == 20 || *id == (i as u32 + 2) % 3 + 5;
    assert!(found[3].tokens.iter().enumerate().all(allowed) && found[3].finish == FinishReason::Length);
    assert_eq!((&found[4].tokens[..], found[4].finish), (&[7, 7, 7][..], FinishReason::Error));
    assert!(found[4].error.as_ref().unwrap().to_string().contains("after 5 tokens"));
}

/// GE-45: tokens come as they are made, one event each, and a request ends with its results.
#[test]
fn ge_45_events() {
    let requests = vec![
        request(&[3, 1], json!({"do_sample": true, "num_return_sequences": 3, "seed": 4, "max_new_tokens": 12})),
        request(&[7, 7, 7], json!({"num_beams": 3})),
        request(&[2], json!({"penalty_alpha": 0.5, "top_k": 3})),
    ];
    let mut streamed = vec![Vec::new(); 3];
    let mut generator = generator(900);
    let results = generator.generate(requests, &mut |event| {
        if let Event::Token { request, sample, token, .. } = event {
            let sample = request.0 as usize * 10 + sample;
            streamed.resize(streamed.len().max(sample + 1), Vec::new());
            streamed[sample].push(*token);
        }
    });
    let results: Vec<Output> = results.into_iter().map(Result::unwrap).collect();
    assert_eq!(streamed[..3], results[0].sequences.iter().map(|s| s.tokens.clone()).collect::<Vec<_>>());
    assert_eq!(streamed[20], results[2].sequences[0].tokens);
    assert!(streamed[10].is_empty());
    let counts = results[0].counts;
    assert_eq!(counts.new_tokens, streamed[..3].iter().map(Vec::len).sum::<usize>());
    assert!(counts.prompt_tokens == 2 && !counts.first_token.is_zero() && counts.total >= counts.first_token);
}

/// GE-45: Ctrl-C in the middle: a clean end with what there is, in every mode; others go on.
#[test]
fn ge_45_cancellation() {
    for (options, partial) in [
        (json!({}), true),
        (json!({"do_sample": true, "num_return_sequences": 2}), true),
        (json!({"num_beams": 3, "num_return_sequences": 2}), true),
        (json!({"num_beams": 4, "num_beam_groups": 2}), true),
        (json!({"penalty_alpha": 0.5, "top_k": 3}), true),
        (json!({"prefill_chunk_size": 1}), false),
    ] {
        let mut options = options.clone();
        options["max_new_tokens"] = 200.into();
        options["eos_token_id"] = 99.into();
        let one = request(&[3, 1, 5, 6, 7, 8, 9, 9], options.clone());
        let cancel = one.cancel.clone();
        let mut generator = generator(2000);
        generator.submit(one).unwrap();
        let other = generator.submit(request(&[3], json!({"max_new_tokens": 12, "eos_token_id": 99}))).unwrap();
        let (mut results, mut steps) = (Vec::new(), 0);
        while generator.step(&mut |event| {
            if let Event::Finished { request, result } = event {
                results.push((request, result.unwrap()));
            }
        }) {
            steps += 1;
            if steps == 5 {
                cancel.cancel();
            }
        }
        let (first, last) = (&results[0].1, &results[1]);
        assert_eq!((last.0, last.1.sequences[0].tokens.len()), (other, 12));
        for s in &first.sequences {
            assert_eq!(s.finish, FinishReason::Cancelled, "{options}");
            assert_eq!(!s.tokens.is_empty(), partial, "{options}");
            assert!(s.tokens.len() < 6);
        }
        assert!(!first.sequences.is_empty(), "{options}");
        generator.forget();
        assert_eq!(generator.pool().free_pages(), 2000, "{options}");
    }
}

/// Log-probabilities are of the model's own distribution, whatever processors do.
#[test]
fn logprobs_are_of_the_logits() {
    let model = Table::new(1, 4);
    for options in [
        json!({"logprobs": 3}),
        json!({"logprobs": 3, "repetition_penalty": 1.7, "suppress_tokens": [1, 2, 3, 4, 5]}),
        json!({"logprobs": 3, "do_sample": true, "temperature": 2.0, "output_scores": true}),
        json!({"logprobs": 3, "penalty_alpha": 0.5, "top_k": 4}),
    ] {
        let prompt = [4, 9];
        let output = run(&mut generator(300), vec![request(&prompt, options.clone())]).remove(0).unwrap();
        let s = &output.sequences[0];
        assert_eq!(s.logprobs.len(), s.tokens.len());
        for (i, logprob) in s.logprobs.iter().enumerate() {
            let logits = model.logits(&[&prompt[..], &s.tokens[..i]].concat());
            let sum = logits.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
            let exact = |id: u32| f64::from(logits[id as usize]) - sum;
            assert_eq!(logprob.token, s.tokens[i]);
            assert!((f64::from(logprob.logprob) - exact(logprob.token)).abs() < 1e-5, "{options}");
            let mut sorted: Vec<f64> = (0..VOCAB as u32).map(exact).collect();
            sorted.sort_by(|a, b| b.total_cmp(a));
            assert!(
                logprob.top.len() == 3
                    && logprob.top.iter().zip(&sorted).all(|(a, b)| (f64::from(a.1) - b).abs() < 1e-5)
            );
        }
    }
}

/// Penalties by OpenAI's definition: per occurrence and per presence in the generated text.
#[test]
fn frequency_and_presence_penalties() {
    let settings = settings(json!({"frequency_penalty": 0.5, "presence_penalty": 1.0, "logit_bias": {"6": 3.0}}));
    let mut processors = processors::Processors::new(&settings, None, None, 2, 50, 8).unwrap();
    let mut row = [0.0f32; 8];
    processors.apply(&mut [processors::Scores { row: &mut row, tokens: &[1, 1, 2, 3, 2, 2] }]).unwrap();
    assert_eq!(row, [0.0, 0.0, -2.5, -1.5, 0.0, 0.0, 3.0, 0.0]);
}

/// GE-20: guidance blends log-probabilities of the prompt and of another one: `g * (c - u) + u`.
#[test]
fn ge_20_guidance() {
    let model = Table::new(1, 4);
    let log_softmax = |mut row: Vec<f32>| {
        row::log_softmax(&mut row);
        row
    };
    for (prompt, negative) in [(vec![4, 9, 2], Some(vec![7, 7, 1, 5, 9])), (vec![4, 9, 2], None), (vec![5], None)] {
        let mut options = json!({"guidance_scale": 2.5, "max_new_tokens": 9, "eos_token_id": 99});
        if let Some(negative) = &negative {
            options["negative_prompt_ids"] = json!(negative);
        }
        let found = tokens(request(&prompt, options)).remove(0);
        let mut expected: Vec<u32> = Vec::new();
        let guide = negative.unwrap_or(vec![*prompt.last().unwrap()]);
        for _ in 0..9 {
            let c = log_softmax(model.logits(&[&prompt[..], &expected].concat()));
            let u = log_softmax(model.logits(&[&guide[..], &expected].concat()));
            let row: Vec<f32> = c.iter().zip(&u).map(|(c, u)| 2.5 * (c - u) + u).collect();
            expected.push(row::argmax(&row).unwrap().id);
        }
        assert_eq!(found, expected);
    }
}

/// Prompts that cannot be continued, and an empty one that can.
#[test]
fn prompts() {
    let mut generator = generator(10);
    let mut refuse = |prompt: &[u32], options, part: &str| {
        let error = generator.submit(request(prompt, options)).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    };
    refuse(&[], json!({}), "bos_token_id");
    refuse(&[1, 24], json!({}), "token 24");
    refuse(&[1; 1000], json!({}), "takes 1000");
    refuse(&[1; 60], json!({}), "61 tokens need 16 pages of 4 tokens, 10 can be had");
    refuse(&[1], json!({"logit_bias": {"24": 1.0}}), "logit_bias");
    refuse(&[1], json!({"stop_strings": "a"}), "tokenizer");
    let outputs = run(&mut generator, vec![request(&[], json!({"bos_token_id": 5})), request(&[5], json!({}))]);
    let outputs: Vec<Output> = outputs.into_iter().map(Result::unwrap).collect();
    assert_eq!((&outputs[0].prompt, &outputs[0].sequences[0].tokens), (&vec![5], &outputs[1].sequences[0].tokens));
}
