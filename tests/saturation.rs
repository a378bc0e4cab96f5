//! What equality saturation promises of whole models: the kernels that run are estimated to take no longer with it, under
//! any load; and keeping what it found changes no byte.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use lith::cache::{Blocks, Cache};
use lith::compile::{CompileOptions, prepare};
use lith::model::{Model, ModelOptions};
use lith_passes::saturate::estimate::{PlanCost, costs_of, runs};
use lith_passes::saturate::{Memo, Numeric};
use lith_passes::{Options, Stage};
use support::*;

fn open(folder: &Path, padded: bool) -> Model {
    let from = ModelOptions { padded, ..ModelOptions::default() };
    Model::open(&folder.to_string_lossy(), &from).unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
}

/// Estimates the plans that are compiled, with and without saturation; returns the typical load's microseconds.
fn check(folder: &Path, padded: bool, numeric: Numeric) -> (f64, f64) {
    let options = CompileOptions { numeric, ..CompileOptions::new("float32", "native").unwrap() };
    let [without, with] = [false, true].map(|saturate| {
        let options = CompileOptions { saturate, ..options.clone() };
        let compilation = prepare(open(folder, padded), &options, None).unwrap_or_else(|e| panic!("{e}"));
        let compiled = compilation.compiled;
        let costs = costs_of(&compiled, &options.device, &compilation.storage.storage).unwrap();
        assert_eq!(compiled.saturation.graphs.is_empty(), !saturate);
        for report in &compiled.saturation.graphs {
            let found = costs[&report.graph].typical_us();
            let told = report.cost_after_us;
            assert!((found - told).abs() <= found * 1e-9, "{}: {found} {report:?}", folder.display());
        }
        (runs(&compiled.program), costs)
    });
    let total = |(runs, costs): &(BTreeMap<String, usize>, BTreeMap<String, PlanCost>)| -> f64 {
        costs.iter().map(|(name, cost)| cost.typical_us() * runs[name] as f64).sum()
    };
    for (name, cost) in &with.1 {
        let before = &without.1[name];
        assert!(before.us.iter().all(|us| us.is_finite() && *us >= 0.0));
        assert!(cost.is_within(before), "{}, `{name}`: {cost:?} after {before:?}", folder.display());
    }
    (total(&without), total(&with))
}

#[test]
fn no_model_costs_more() {
    let models = golden_models(|name| !name.starts_with("load-"));
    assert!(models.len() >= 40, "{} fixtures", models.len());
    let (mut cheaper, mut checked) = (0, 0);
    for folder in models {
        for padded in [false, true] {
            let (before, after) = check(&folder, padded, Numeric::Reassociate);
            println!("{}, padded {padded}: {before:.1} us, {after:.1} us", folder.display());
            cheaper += usize::from(after < before * 0.999);
            checked += 1;
        }
    }
    assert!(cheaper > 0, "none of {checked} is cheaper");
}

#[test]
fn no_language_model_costs_more() {
    let folder = fixtures().join("decoders");
    let mut models: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    models.retain(|m| m.join("config.json").is_file());
    models.sort();
    assert!(models.len() >= 5, "{} decoders", models.len());
    for model in models {
        for numeric in [Numeric::Exact, Numeric::Approximate] {
            let (before, after) = check(&model, false, numeric);
            println!("{}, {numeric:?}: {before:.1} us, {after:.1} us", model.display());
        }
    }
}

#[test]
#[ignore = "needs LITH_TEST_MODELS"]
fn no_real_model_costs_more() {
    for model in ["minilm", "smollm2"] {
        for numeric in Numeric::ALL {
            let (before, after) = check(&real_models().join(model), false, numeric);
            println!("{model}, {numeric:?}: {before:.1} us, {after:.1} us");
        }
    }
}

#[test]
fn what_is_kept_changes_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path().join("cache")).unwrap();
    let memo = Memo(Some(Arc::new(Blocks::of(&cache).unwrap())));
    let path = folder.path().join("model.lith");
    let compile = |memo: Memo| {
        let options = CompileOptions { memo, ..CompileOptions::new("float32", "x86-64-v3").unwrap() };
        prepare(open(&fixtures().join("bert-base"), false), &options, None).unwrap().write_artifact(&path).unwrap();
        fs::read(&path).unwrap()
    };
    let kept = || {
        let mut files: Vec<_> =
            fs::read_dir(cache.folder().join("blocks")).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|f| (fs::read(&f).unwrap(), f)).collect::<Vec<_>>()
    };
    let plain = compile(Memo::default());
    assert!(compile(memo.clone()) == plain, "keeping changes the artifact");
    let first = kept();
    assert!(first.len() >= 2, "{} blocks are kept", first.len());
    assert!(compile(memo.clone()) == plain, "what was kept changes the artifact");
    assert_eq!(first, kept());
    for (bytes, file) in &first {
        // Cut short, nothing at all, another graph's, and one letter changed.
        let mut other = bytes.clone();
        *other.last_mut().unwrap() ^= 1;
        for damaged in [&bytes[..bytes.len() / 2], b"", b"{}", &first[first.len() - 1].0[1..], &other] {
            fs::write(file, damaged).unwrap();
            assert!(compile(memo.clone()) == plain, "a damaged block changes the artifact");
            assert_eq!(first, kept(), "a damaged block is written again");
        }
    }
}

/// What the documentation shows of an example: the program, what is made of it, by which rewrites, and the estimates.
fn shown(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples").join(format!("{name}.ir"));
    let before = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let program = lith_ir::text::parse(&before).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let options = CompileOptions { numeric: Numeric::Reassociate, ..CompileOptions::new("float32", "native").unwrap() };
    let options = Options { stop_after: Some(Stage::Saturate), ..options.of_passes() };
    let compiled = lith_passes::run(program, &options).unwrap();
    let after = lith_ir::text::print(&compiled.program);
    let (before_us, after_us) = compiled.saturation.total_us();
    let [graph] = &compiled.saturation.graphs[..] else { panic!("{name}: one entry point") };
    let mut out = format!("Before:\n\n```text\n{before}```\n\nRewrites that made the result:\n\n");
    let mut told: Vec<&str> = Vec::new();
    for rewrite in &compiled.saturation.rewrites {
        if !told.contains(&rewrite.rule.as_str()) {
            told.push(&rewrite.rule);
            out += &format!("- `{}` ({}): {}\n", rewrite.rule, rewrite.numeric, rewrite.equation.replace('|', "\\|"));
        }
    }
    out += &format!("\nAfter:\n\n```text\n{after}```\n\n");
    out += &format!(
        "Estimated: {before_us:.1} us in {} kernels before, {after_us:.1} us in {} after.\n",
        graph.kernels_before, graph.kernels_after
    );
    out
}

/// The examples of the documentation, word for word; `BLESS=1` writes them anew.
#[test]
fn examples_are_what_comes_out() {
    let doc = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/saturation.md");
    let mut text = fs::read_to_string(&doc).unwrap();
    let mut wrong = Vec::new();
    for name in ["feed_forward", "attention", "linear_attention"] {
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
        let from = text.find(&begin).unwrap_or_else(|| panic!("no place for {name}")) + begin.len();
        let to = text.find(&end).unwrap_or_else(|| panic!("no end of {name}"));
        let found = shown(name);
        if text[from..to] != found {
            text.replace_range(from..to, &found);
            wrong.push(name);
        }
    }
    if std::env::var_os("BLESS").is_some() {
        fs::write(&doc, &text).unwrap();
    } else {
        assert!(wrong.is_empty(), "{} shows something else than comes out of {wrong:?}", doc.display());
    }
}
