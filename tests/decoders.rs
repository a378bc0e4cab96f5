//! Every decoder family and rotary variant, compiled, against figures from Transformers in double precision; and the
//! promise that a token's logits depend on its own sequence alone.

mod support;

use std::path::{Path, PathBuf};

use lith::compile::{CompileOptions, prepare};
use lith::model::{Model, ModelOptions};
use lith_frontend::CacheType;
use serde_json::Value;
use support::language::{Cached, feed, fresh, load};
use support::*;

struct Golden {
    prompts: Vec<Vec<i32>>,
    fed: Vec<Vec<i32>>,
    /// For each case the logits, of `columns`, of the prompt's last token and of each fed token.
    logits: Vec<Vec<Vec<f64>>>,
    columns: Vec<usize>,
}

impl Golden {
    fn read(folder: &Path) -> Golden {
        let golden = read_json(&folder.join("golden.json"));
        let list = |value: &Value| value.as_array().expect("a list").clone();
        let logits: Vec<Vec<Vec<f64>>> =
            list(&golden["logits"]).iter().map(|case| list(case).iter().map(flat).collect()).collect();
        let cases = list(&golden["cases"]);
        let prompt = |case: &Value| case["prompt"].as_u64().expect("a length") as usize;
        Golden {
            prompts: cases.iter().map(|c| ids(&c["ids"])[..prompt(c)].to_vec()).collect(),
            fed: cases.iter().map(|c| ids(&c["ids"])[prompt(c)..].to_vec()).collect(),
            columns: ids(&golden["columns"]).into_iter().map(|c| c as usize).collect(),
            logits,
        }
    }

    fn difference(&self, row: &[f32], case: usize, step: usize) -> f64 {
        let found: Vec<f32> = self.columns.iter().map(|&c| row[c]).collect();
        relative_difference(&found, &self.logits[case][step])
    }
}

fn compile(folder: &Path, out: &Path, cache: CacheType) {
    let from = ModelOptions { cache, task: Some("text-generation".into()), ..ModelOptions::default() };
    let model = Model::open(&folder.to_string_lossy(), &from).unwrap_or_else(|e| panic!("{e}"));
    let options = CompileOptions::new("float32", "native").unwrap();
    let compiled = prepare(model, &options, None).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    lith_passes::check::check(&compiled.compiled).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    compiled.write_artifact(out).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
}

/// Runs all cases of a golden file as one batch, prompt then token by token; returns the largest relative difference.
fn check(folder: &Path, cache: CacheType, allowed: f64) -> f64 {
    let golden = Golden::read(folder);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.lith");
    compile(folder, &path, cache);
    let mut models = [1, 2, 3].map(|threads| load(&path, threads, 4096));
    let longest = golden.prompts.iter().zip(&golden.fed).map(|(p, f)| p.len() + f.len()).max().unwrap();
    let count = golden.prompts.len();
    let mut worst: f64 = 0.0;

    // All cases at once, on 1, 2 and 3 threads.
    let mut states = fresh(&models[0], count, longest);
    let mut all_rows: Vec<Vec<Vec<f32>>> = Vec::new();
    for step in 0..golden.logits[0].len() {
        let tokens: Vec<&[i32]> = (0..count)
            .map(|i| if step == 0 { golden.prompts[i].as_slice() } else { &golden.fed[i][step - 1..step] })
            .collect();
        let before = states.clone();
        let mut rows = Vec::new();
        for model in &mut models {
            states.clone_from_slice(&before);
            let mut batch: Vec<(&mut Cached, &[i32])> = states.iter_mut().zip(tokens.iter().copied()).collect();
            let found = feed(model, &mut batch, 1);
            assert!(rows.is_empty() || rows == found, "{}: threads change the result", folder.display());
            rows = found;
        }
        for (case, row) in rows.iter().enumerate() {
            let difference = golden.difference(row, case, step);
            assert!(difference <= allowed, "{}: case {case}, step {step} differs by {difference:e}", folder.display());
            worst = worst.max(difference);
        }
        all_rows.push(rows);
    }

    // Angles that depend on the length so far depend on the calls: keys stay as they were turned, here and in Transformers.
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    if name.contains("dynamic") || name.contains("longrope") {
        return worst;
    }
    // Each case alone, its prompt in chunks of every size and then its tokens all at once: the same bits.
    let model = &mut models[1];
    for (case, (prompt, fed)) in golden.prompts.iter().zip(&golden.fed).enumerate() {
        for chunk in [1, 2, 7, prompt.len()] {
            let mut state = fresh(model, 1, longest).remove(0);
            let mut last = Vec::new();
            for part in prompt.chunks(chunk) {
                last = feed(model, &mut [(&mut state, part)], 1);
            }
            assert_eq!(last[0], all_rows[0][case], "{}: case {case} in chunks of {chunk}", folder.display());
            let rest = feed(model, &mut [(&mut state, fed)], fed.len());
            for (step, row) in rest.iter().enumerate() {
                assert_eq!(*row, all_rows[step + 1][case], "{}: case {case}, token {step}", folder.display());
            }
        }
    }
    worst
}

fn decoders(wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(fixtures().join("decoders"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.join("golden.json").is_file() && wanted(&p.file_name().unwrap().to_string_lossy()))
        .collect();
    found.sort();
    found
}

/// ROPE-01 to ROPE-10, ROPE-12, AT-01, AT-02, GE-32: every family and rotary variant, prefill and 32 decoding steps.
#[test]
fn families_and_rotary_variants() {
    let models = decoders(|_| true);
    assert!(models.len() >= 20, "{} fixtures", models.len());
    for folder in models {
        println!("{}: {:.2e}", folder.display(), check(&folder, CacheType::F32, 1e-4));
    }
}

/// GE-30: caches of fewer bits.
#[test]
fn narrow_caches() {
    // Twenty times the rounding of one element.
    for (cache, allowed) in [(CacheType::F16, 1e-2), (CacheType::Bf16, 8e-2), (CacheType::Int8, 8e-2)] {
        for folder in decoders(|name| ["llama", "gemma2", "qwen3"].contains(&name)) {
            println!("{}, {cache:?}: {:.2e}", folder.display(), check(&folder, cache, allowed));
        }
    }
}
