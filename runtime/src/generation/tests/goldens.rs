//! Against Transformers: same logits in, same scores, tokens and beams out.

use serde_json::{Map, Value, json};

use super::super::processors::{Processors, Scores};
use super::super::warpers::Warpers;
use super::table::Table;
use super::*;

const PROCESSORS: &str = include_str!("../../../../tests/fixtures/generation/processors.json");
const MODES: &str = include_str!("../../../../tests/fixtures/generation/modes.json");

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// Numbers, `null` for negative infinity and words for what JSON has no number for.
fn floats(value: &Value) -> Vec<f32> {
    let number = |v: &Value| match v {
        Value::Null => f32::NEG_INFINITY,
        Value::String(word) => word.parse().unwrap(),
        v => v.as_f64().unwrap() as f32,
    };
    value.as_array().unwrap().iter().map(number).collect()
}

fn close(a: f32, b: f32) -> bool {
    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 2e-5 * b.abs().max(1.0)
}

/// GE-20, GE-21: every processor and warper alone and together.
#[test]
fn ge_20_ge_21_processors_and_warpers() {
    let cases: Vec<Map<String, Value>> = serde_json::from_str(PROCESSORS).unwrap();
    assert!(cases.len() > 200);
    for case in cases {
        let settings = settings(case["options"].clone());
        let (tokens, prompt) = (ids(&case["tokens"]), case["prompt"].as_u64().unwrap() as usize);
        let (mut row, expected) = (floats(&case["row"]), floats(&case["scores"]));
        let limit = settings.length_limit(prompt, None).unwrap();
        let mut processors = Processors::new(&settings, None, None, prompt, limit, row.len()).unwrap();
        processors.apply(&mut [Scores { row: &mut row, tokens: &tokens }]).unwrap();
        if settings.do_sample {
            Warpers::new(&settings).warp(&mut row, &mut Vec::new());
        }
        let wrong = row.iter().zip(&expected).position(|(a, b)| !close(*a, *b));
        assert!(wrong.is_none(), "{} at {wrong:?}:\n{row:?}\n{expected:?}", case["options"]);
    }
}

fn check(case: &Map<String, Value>, output: &Output) {
    let what = format!("{} {} {}", case["kind"], case["options"], case["prompt"]);
    let s = settings(case["options"].clone());
    let pad = s.pad_token_id.unwrap_or(0);
    let expected: Vec<Vec<u32>> = case["sequences"].as_array().unwrap().iter().map(ids).collect();
    let longest = expected.iter().map(Vec::len).max().unwrap();
    let mut found: Vec<Vec<u32>> = output.sequences.iter().map(|s| s.tokens.clone()).collect();
    found.iter_mut().for_each(|row| row.resize(longest, pad));
    assert_eq!(found, expected, "{what}");
    let scores: Vec<f32> = output.sequences.iter().filter_map(|s| s.sequence_score).collect();
    let expected = case.get("scores").map(floats).unwrap_or_default();
    assert!(scores.len() == expected.len() && scores.iter().zip(&expected).all(|(a, b)| close(*a, *b)), "{what}");
    for (s, beams) in output.sequences.iter().zip(case.get("beams").and_then(Value::as_array).into_iter().flatten()) {
        let beams: Vec<i64> = beams.as_array().unwrap().iter().filter_map(Value::as_i64).filter(|b| *b >= 0).collect();
        assert_eq!(s.rows.iter().map(|&row| row as i64).collect::<Vec<_>>(), beams, "{what}");
    }
    if let Some(transition) = case.get("transition").and_then(Value::as_array) {
        let found = output.transition_scores(case["kind"] == json!("greedy"));
        for (found, expected) in found.iter().zip(transition) {
            let expected = floats(expected);
            assert!(found.len() <= expected.len() && found.iter().zip(&expected).all(|(a, b)| close(*a, *b)), "{what}");
        }
    }
}

/// GE-07, GE-10, GE-12, GE-14, GE-15, GE-16, GE-35: greedy, beam, diverse beam and contrastive search and prompt lookup
/// give Transformers' tokens, scores and beam indices; alone and all in one batch, with pages and prompt parts of any
/// size (GE-32).
#[test]
fn ge_10_to_16_modes() {
    let cases: Vec<Map<String, Value>> = serde_json::from_str(MODES).unwrap();
    assert!(cases.len() > 100);
    let request = |case: &Map<String, Value>| {
        let mut options = case["options"].clone();
        options["output_scores"] = true.into();
        request(&ids(&case["prompt"]), options)
    };
    for (page_tokens, prefill_tokens) in [(64, 512), (4, 7)] {
        let limits = Limits { prefill_tokens, ..Limits::default() };
        let mut generator = Generator::new(Table::new(20_000, page_tokens), limits);
        let together = run(&mut generator, cases.iter().map(request).collect());
        for (case, output) in cases.iter().zip(together) {
            check(case, &output.unwrap());
        }
    }
    for case in &cases {
        let output = run(&mut Generator::new(Table::new(1000, 16), Limits::default()), vec![request(case)]).remove(0);
        check(case, &output.unwrap());
    }
}
