//! Pages: sharing, copies on write, reuse, and what happens when they run out.

use serde_json::json;

use super::*;

/// Samples share the pages of their prompt: 8 of them take 25 pages once and a few each.
#[test]
fn samples_share_the_prompt() {
    let prompt: Vec<u32> = (0..102).map(|i| 1 + i % 20).collect();
    let options =
        json!({"do_sample": true, "num_return_sequences": 8, "seed": 1, "max_new_tokens": 6, "eos_token_id": 99});
    let mut generator = generator(25 + 8 * 2);
    let result = generator.generate([request(&prompt, options)], &mut |_| {}).remove(0).unwrap();
    assert!(result.sequences.iter().all(|s| s.finish == FinishReason::Length && s.tokens.len() == 6));
}

/// A sequence that runs out of pages fails alone, says what it needs and keeps its tokens; others go on. (issue: out of
/// memory for the cache)
#[test]
fn out_of_pages() {
    let long = request(&[1, 2, 3], json!({"max_new_tokens": 200, "eos_token_id": 99}));
    let short = |i| request(&[i], json!({"max_new_tokens": 10, "eos_token_id": 99}));
    let mut generator = generator(8);
    let results = run(&mut generator, vec![short(1), long, short(2)]);
    let results: Vec<Output> = results.into_iter().map(Result::unwrap).collect();
    let failed = &results[1].sequences[0];
    assert_eq!((failed.finish, failed.tokens.len()), (FinishReason::Error, 30));
    let message = failed.error.as_ref().unwrap().to_string();
    assert!(message.contains("33 tokens need 9 pages of 4 tokens, 8 can be had"), "{message}");
    for (result, prompt) in [(&results[0], 1), (&results[2], 2)] {
        assert_eq!(result.sequences[0].tokens, tokens(short(prompt))[0]);
    }
    // Of several samples some end for want of pages, and leave them to the rest.
    let many =
        json!({"do_sample": true, "num_return_sequences": 4, "seed": 3, "max_new_tokens": 20, "eos_token_id": 99});
    let result = run(&mut generator, vec![request(&[1, 2, 3], many)]).remove(0).unwrap();
    let whole = result.sequences.iter().filter(|s| s.finish == FinishReason::Length).count();
    let failed = result.sequences.iter().filter(|s| s.finish == FinishReason::Error).count();
    assert!(whole > 0 && failed > 0 && whole + failed == 4);
    assert!(result.sequences.iter().filter(|s| s.finish == FinishReason::Length).all(|s| s.tokens.len() == 20));
}

/// No request fails for pages that another takes: it waits.
#[test]
fn requests_wait_for_pages() {
    let requests = (0..20).map(|i| request(&[1 + i], json!({"max_new_tokens": 25, "eos_token_id": 99})));
    let results = run(&mut generator(16), requests.collect());
    assert!(results.into_iter().all(|r| r.unwrap().sequences[0].finish == FinishReason::Length));
}

/// GE-31: the next turn of a conversation finds the pages of the one before, whole and in part; results are the same.
#[test]
fn ge_31_prefix_reuse() {
    let mut generator = generator(40);
    let mut prompt: Vec<u32> = (0..22).map(|i| 1 + i % 20).collect();
    for turn in 0..4 {
        let one = request(&prompt, json!({"max_new_tokens": 7, "eos_token_id": 99}));
        let output = generator.generate([one.clone()], &mut |_| {}).remove(0).unwrap();
        // All but the last token of the turn before is there.
        assert_eq!(output.counts.reused_tokens, if turn == 0 { 0 } else { prompt.len() - 4 });
        assert_eq!(vec![output.sequences[0].tokens.clone()], tokens(one));
        prompt.extend(&output.sequences[0].tokens);
        prompt.extend([5, 6, 7]);
    }
    // The same prompt again: all but its last token. Another one: the part that is alike.
    let again = request(&prompt[..30], json!({"eos_token_id": 99}));
    assert_eq!(generator.generate([again], &mut |_| {}).remove(0).unwrap().counts.reused_tokens, 29);
    let mut other = prompt[..13].to_vec();
    other.extend([23, 23, 23]);
    let other = request(&other, json!({"eos_token_id": 99}));
    let output = generator.generate([other.clone()], &mut |_| {}).remove(0).unwrap();
    assert_eq!((output.counts.reused_tokens, output.sequences[0].tokens.clone()), (13, tokens(other)[0].clone()));
    // Kept pages make room for what needs them.
    let large = request(&[9; 100], json!({"max_new_tokens": 40, "eos_token_id": 99}));
    let output = run(&mut generator, vec![large.clone()]).remove(0).unwrap();
    assert_eq!(vec![output.sequences[0].tokens.clone()], tokens(large));
    let mut private = request(&prompt, json!({}));
    private.reuse_prefix = false;
    generator.generate([private], &mut |_| {});
    assert_eq!(generator.pool().free_pages(), 40);
}

/// A call that is too large for memory is cut; a request that is too large alone fails alone.
#[test]
fn out_of_memory() {
    let limits = Limits { prefill_tokens: 10_000, ..Limits::default() };
    let mut generator = Generator::new(Table { most_tokens: 60, ..Table::new(900, 4) }, limits);
    let prompts = [vec![1; 40], vec![2; 50], vec![3; 70], vec![4; 20]];
    let requests = prompts.iter().map(|prompt| request(prompt, json!({"eos_token_id": 99})));
    let results = run(&mut generator, requests.collect());
    for (i, (result, prompt)) in results.iter().zip(&prompts).enumerate() {
        match result {
            Ok(output) => {
                assert_eq!(output.sequences[0].tokens, tokens(request(prompt, json!({"eos_token_id": 99})))[0])
            }
            Err(error) => {
                assert!(i == 2 && error.to_string().contains("out of memory: 70 tokens") && !error.is_usage())
            }
        }
    }
    assert!(results[2].is_err());
}
