//! Sampling: distributions, and what they depend on.

use serde_json::json;

use super::super::warpers::Warpers;
use super::table::VOCAB;
use super::*;

/// 99.9 % quantile of chi-square with this many degrees of freedom (Wilson and Hilferty's approximation).
pub fn chi_square_bound(degrees: usize) -> f64 {
    let k = degrees as f64;
    k * (1.0 - 2.0 / (9.0 * k) + 3.09 * (2.0 / (9.0 * k)).sqrt()).powi(3)
}

/// Whether counts are a likely sample of probabilities; cells expected less than 5 times are joined.
pub fn assert_distribution(counts: &[usize], probabilities: &[f64]) {
    let n: usize = counts.iter().sum();
    let (mut chi, mut cells, mut rest) = (0.0, 0, (0.0, 0.0));
    for (&count, &p) in counts.iter().zip(probabilities) {
        let (count, expected) = (count as f64, p * n as f64);
        assert!(p > 0.0 || count == 0.0, "what cannot come came");
        if expected < 5.0 {
            rest = (rest.0 + count, rest.1 + expected);
        } else {
            chi += (count - expected).powi(2) / expected;
            cells += 1;
        }
    }
    if rest.1 > 5.0 {
        chi += (rest.0 - rest.1).powi(2) / rest.1;
        cells += 1;
    }
    assert!(cells > 1 && chi < chi_square_bound(cells - 1), "chi-square {chi} over {cells} cells");
}

/// The probabilities that the options make of logits.
pub fn probabilities(logits: &[f32], options: Value) -> Vec<f64> {
    let mut row = logits.to_vec();
    Warpers::new(&settings(options)).warp(&mut row, &mut Vec::new());
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = row.iter().map(|&x| f64::from(x - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

/// GE-11: tokens come with their probabilities, under every warper.
#[test]
fn ge_11_distribution() {
    let model = Table::new(1, 4);
    for (seed, options) in [
        json!({"top_k": 0}),
        json!({"top_k": 5, "temperature": 1.5}),
        json!({"top_k": 0, "top_p": 0.8}),
        json!({"top_k": 0, "min_p": 0.1, "temperature": 0.7}),
        json!({"top_k": 0, "typical_p": 0.7}),
        json!({"top_k": 0, "eta_cutoff": 0.004, "epsilon_cutoff": 0.003}),
    ]
    .into_iter()
    .enumerate()
    {
        let mut options = options.clone();
        options["do_sample"] = true.into();
        let expected = probabilities(&model.logits(&[6, 2]), options.clone());
        (options["seed"], options["max_new_tokens"]) = (seed.into(), 1.into());
        options["num_return_sequences"] = 4000.into();
        let mut counts = [0; VOCAB];
        tokens(request(&[6, 2], options)).iter().for_each(|t| counts[t[0] as usize] += 1);
        assert_distribution(&counts, &expected);
    }
}

/// GE-13: beam sampling draws pairs without replacement, each next in proportion to what is left.
#[test]
fn ge_13_beam_sampling() {
    let model = Table::new(1, 4);
    let base = json!({"do_sample": true, "num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 1, "top_k": 6});
    let p = probabilities(&model.logits(&[6, 2]), base.clone());
    let mut expected = vec![0.0; VOCAB * VOCAB];
    for (a, b) in (0..VOCAB).flat_map(|a| (0..VOCAB).map(move |b| (a, b))).filter(|(a, b)| a != b) {
        // In results the better of the two comes first.
        let (first, second) = if p[a] > p[b] { (a, b) } else { (b, a) };
        expected[first * VOCAB + second] += p[a] * p[b] / (1.0 - p[a]);
    }
    let requests = (0..3000).map(|seed| {
        let mut options = base.clone();
        options["seed"] = seed.into();
        request(&[6, 2], options)
    });
    let mut counts = vec![0; VOCAB * VOCAB];
    for output in run(&mut generator(4000), requests.collect()) {
        let found: Vec<u32> = output.unwrap().sequences.iter().map(|s| s.tokens[0]).collect();
        counts[found[0] as usize * VOCAB + found[1] as usize] += 1;
    }
    assert_distribution(&counts, &expected);
}

/// GE-48, GE-32: a request gives the same whatever else runs, in whatever order, with any pages, parts of prompts and
/// prefixes left from before; another seed gives something else.
#[test]
fn ge_48_requests_do_not_depend_on_each_other() {
    let prompts: Vec<Vec<u32>> =
        (0..12u32).map(|i| (0..1 + i * 5).map(|j| 1 + (i % 3 * 7 + j) % 23).collect()).collect();
    let options = |i: usize| match i % 4 {
        0 => json!({"do_sample": true, "seed": 5, "num_return_sequences": 3, "max_new_tokens": 15}),
        1 => json!({"do_sample": true, "seed": 6, "top_p": 0.9, "repetition_penalty": 1.2}),
        2 => json!({"do_sample": true, "num_beams": 3, "seed": 7, "max_new_tokens": 9}),
        _ => json!({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.3}),
    };
    let requests = || prompts.iter().enumerate().map(|(i, prompt)| request(prompt, options(i)));
    let of = |output: Result<Output, GenerationError>| {
        output.unwrap().sequences.into_iter().map(|s| (s.tokens, s.sequence_score)).collect::<Vec<_>>()
    };
    let alone: Vec<_> = requests().map(|r| of(run(&mut generator(500), vec![r]).remove(0))).collect();
    for (page_tokens, pages, prefill_tokens, most) in [(4, 3000, 512, 256), (1, 9000, 3, 5), (64, 400, 17, 256)] {
        let limits = Limits { prefill_tokens, requests: most };
        let mut generator = Generator::new(Table::new(pages, page_tokens), limits);
        for _ in 0..2 {
            let mut shuffled: Vec<usize> = (0..prompts.len()).collect();
            shuffled.sort_by_key(|i| i * 7 % 12);
            let all: Vec<Request> = requests().collect();
            let results = generator.generate(shuffled.iter().map(|&i| all[i].clone()), &mut |_| {});
            for (i, result) in shuffled.iter().zip(results) {
                assert_eq!(of(result), alone[*i], "request {i}");
            }
        }
    }
    let mut other = options(0);
    other["seed"] = 8.into();
    assert_ne!(of(run(&mut generator(500), vec![request(&prompts[0], other)]).remove(0)), alone[0]);
}

/// GE-11: a fresh seed each time, which the result tells.
#[test]
fn ge_11_fresh_seeds() {
    let options = json!({"do_sample": true, "eos_token_id": 99, "max_new_tokens": 30});
    let once = |options: &Value| {
        let output = run(&mut generator(100), vec![request(&[4], options.clone())]).remove(0).unwrap();
        (output.seed, output.sequences[0].tokens.clone())
    };
    let (first, second) = (once(&options), once(&options));
    assert_ne!(first, second);
    let mut seeded = options.clone();
    seeded["seed"] = first.0.into();
    assert_eq!(once(&seeded), first);
}
