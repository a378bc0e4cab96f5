//! Speculation changes how fast tokens come, not which. (GE-15)

use serde_json::json;

use super::sampling::assert_distribution;
use super::table::VOCAB;
use super::*;

fn drafted(pages: usize, draft: Table) -> Generator<Table> {
    generator(pages).with_draft(Box::new(draft)).unwrap()
}

fn results(generator: &mut Generator<Table>, requests: Vec<Request>) -> Vec<Vec<Generated>> {
    run(generator, requests).into_iter().map(|r| r.unwrap().sequences).collect()
}

fn same(a: &[Vec<Generated>], b: &[Vec<Generated>]) {
    let of = |r: &[Vec<Generated>]| -> Vec<Vec<(Vec<u32>, FinishReason)>> {
        r.iter().map(|s| s.iter().map(|s| (s.tokens.clone(), s.finish)).collect()).collect()
    };
    assert_eq!(of(a), of(b));
}

/// GE-15: prompt lookup gives the same text, greedy or sampled, with processors and end tokens, in fewer calls where text
/// repeats.
#[test]
fn ge_15_prompt_lookup() {
    let options = [
        json!({"max_new_tokens": 60, "eos_token_id": 99}),
        json!({"max_new_tokens": 60}),
        json!({"max_new_tokens": 60, "eos_token_id": 99, "do_sample": true, "seed": 3, "top_k": 2, "num_return_sequences": 3}),
        json!({"max_new_tokens": 60, "eos_token_id": 99, "repetition_penalty": 1.1, "min_new_tokens": 5}),
        json!({"max_new_tokens": 60, "eos_token_id": [3, 4, 5], "logprobs": 2}),
    ];
    let requests = |lookup: bool| -> Vec<Request> {
        let with = |options: &Value| {
            let mut options = options.clone();
            if lookup {
                options["prompt_lookup_num_tokens"] = 5.into();
            }
            request(&[1, 2, 3, 1, 2, 3, 1, 2], options)
        };
        options.iter().map(with).collect()
    };
    // Logits depend on two tokens, so the text runs into a cycle.
    let table = || Table { memory: Some(2), ..Table::new(900, 4) };
    let plain = results(&mut Generator::new(table(), Limits::default()), requests(false));
    let guessed = results(&mut Generator::new(table(), Limits::default()), requests(true));
    same(&plain, &guessed);
    let calls = |lookup: usize| {
        let mut generator = Generator::new(table(), Limits::default());
        let output = run(&mut generator, vec![requests(lookup == 1).remove(0)]).remove(0).unwrap();
        (generator.model().calls.len(), output.counts)
    };
    let ((plain, none), (guessed, counts)) = (calls(0), calls(1));
    assert_eq!((plain, none.guessed_tokens), (60, 0));
    assert!(
        guessed < 30 && counts.accepted_tokens > 30 && counts.accepted_tokens <= counts.guessed_tokens,
        "{guessed}"
    );
}

/// GE-15: greedy search with a draft model gives the same text, be the draft right, often right or wrong, or short of
/// pages; with several requests and samples.
#[test]
fn ge_15_draft_greedy() {
    let options = |i: usize| match i % 3 {
        0 => json!({"max_new_tokens": 30, "assistant_confidence_threshold": 0.0}),
        1 => {
            json!({"max_new_tokens": 41, "eos_token_id": 99, "num_assistant_tokens_schedule": "heuristic", "num_assistant_tokens": 3})
        }
        _ => json!({"max_new_tokens": 17, "eos_token_id": 99, "repetition_penalty": 1.3, "stop_strings": []}),
    };
    let requests = || (0..7).map(|i| request(&vec![1 + i as u32; 3 + 9 * i], options(i))).collect::<Vec<_>>();
    let plain = results(&mut generator(900), requests());
    for (draft, right) in [
        (Table::new(900, 8), true),
        (Table { memory: Some(3), ..Table::new(900, 8) }, false),
        (Table { salt: 9, ..Table::new(900, 8) }, false),
        (Table::new(20, 8), false),
        (Table { most_tokens: 30, ..Table::new(900, 8) }, false),
    ] {
        let mut generator = drafted(2000, draft);
        same(&plain, &results(&mut generator, requests()));
        let pool = generator.draft_pool().unwrap();
        assert_eq!(pool.free_pages(), pool.pages());
        let calls = generator.model().calls.len();
        assert!(!right || calls < 41, "{calls}");
    }
}

/// GE-15: sampling with a draft model keeps the distribution of the model, over pairs of tokens (the second is guessed
/// first after the first, and drawn from the residual where the guess is refused).
#[test]
fn ge_15_draft_sampling_distribution() {
    let model = Table::new(1, 4);
    let options = json!({
        "do_sample": true, "top_k": 5, "max_new_tokens": 4, "num_return_sequences": 6000, "seed": 2, "eos_token_id": 99,
        "num_assistant_tokens": 2, "assistant_confidence_threshold": 0.0,
    });
    let p = |tokens: &[u32]| super::sampling::probabilities(&model.logits(tokens), options.clone());
    // Tokens two and three given the first, which is always made the same.
    let mut request = request(&[6, 2], options.clone());
    request.processor = Some(std::sync::Arc::new(|tokens: &[u32], row: &mut [f32]| {
        if tokens.len() == 2 {
            row.fill(f32::NEG_INFINITY);
            row[9] = 0.0;
        }
    }));
    let second = p(&[6, 2, 9]);
    let mut expected = vec![0.0; VOCAB * VOCAB];
    for a in (0..VOCAB).filter(|&a| second[a] > 0.0) {
        let third = p(&[6, 2, 9, a as u32]);
        (0..VOCAB).for_each(|b| expected[a * VOCAB + b] = second[a] * third[b]);
    }
    let mut generator = drafted(30_000, Table { noise: 0.4, ..Table::new(30_000, 4) });
    let output = run(&mut generator, vec![request]).remove(0).unwrap();
    let mut counts = vec![0; VOCAB * VOCAB];
    output.sequences.iter().for_each(|s| counts[s.tokens[1] as usize * VOCAB + s.tokens[2] as usize] += 1);
    assert!(output.counts.accepted_tokens > 500 && output.counts.accepted_tokens < output.counts.guessed_tokens);
    assert_distribution(&counts, &expected);
}

/// GE-15: a draft that is the model itself is always right, sampled too.
#[test]
fn ge_15_perfect_draft() {
    let options = json!({
        "do_sample": true, "seed": 2, "eos_token_id": 99, "max_new_tokens": 40, "num_assistant_tokens": 4,
        "assistant_confidence_threshold": 0.0, "num_return_sequences": 5,
    });
    let mut generator = drafted(900, Table::new(900, 4));
    let output = run(&mut generator, vec![request(&[1, 2], options)]).remove(0).unwrap();
    assert_eq!(output.counts.accepted_tokens, output.counts.guessed_tokens);
    assert_eq!(generator.model().calls.len(), 1 + 39usize.div_ceil(5));
}

/// A draft model with another vocabulary is refused.
#[test]
fn draft_with_another_vocabulary() {
    struct Small(Table);
    impl LanguageModel for Small {
        fn vocab_size(&self) -> usize {
            VOCAB - 1
        }
        fn max_positions(&self) -> Option<usize> {
            self.0.max_positions()
        }
        fn page_tokens(&self) -> usize {
            self.0.page_tokens()
        }
        fn pages(&self) -> usize {
            self.0.pages()
        }
        fn forward(&mut self, batch: &Batch) -> Result<crate::tensor::Tensor, ForwardError> {
            self.0.forward(batch)
        }
        fn copy_page(&mut self, from: u32, to: u32) {
            self.0.copy_page(from, to);
        }
    }
    let error = generator(9).with_draft(Box::new(Small(Table::new(9, 4)))).err().unwrap();
    assert!(error.is_usage() && error.to_string().contains("23") && error.to_string().contains("24"), "{error}");
    // And contrastive search is refused where there are no hidden states.
    let mut small = Generator::new(Small(Table::new(9, 4)), Limits::default());
    let error = small.submit(request(&[1], json!({"penalty_alpha": 0.5, "top_k": 4}))).unwrap_err();
    assert!(error.to_string().contains("hidden states"), "{error}");
}
