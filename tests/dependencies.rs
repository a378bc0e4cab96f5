//! The walls between the crates, as ARCHITECTURE.md draws them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Crate, and the crates of ours that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("lith-ir", &[]),
    ("lith-frontend", &["lith-ir"]),
    ("lith-models", &["lith-ir", "lith-frontend"]),
    ("lith-passes", &["lith-ir"]),
    ("lith-runtime", &["lith-ir"]),
    ("lith-codegen", &["lith-ir", "lith-runtime"]),
    ("lith", &["lith-ir", "lith-frontend", "lith-models", "lith-passes", "lith-runtime", "lith-codegen"]),
];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline"])
        // Crates that only other platforms need are not downloaded.
        .args(["--filter-platform", "x86_64-unknown-linux-gnu", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// Name by package id, and the ids each package needs outside tests.
fn resolved(metadata: &Value) -> (BTreeMap<String, String>, BTreeMap<String, BTreeSet<String>>) {
    let text = |v: &Value| v.as_str().expect("a string").to_string();
    let packages = metadata["packages"].as_array().expect("packages");
    let names = packages.iter().map(|p| (text(&p["id"]), text(&p["name"]))).collect();
    let nodes = metadata["resolve"]["nodes"].as_array().expect("nodes");
    let needs = |node: &Value| {
        let deps = node["deps"].as_array().expect("deps");
        let normal = |d: &&Value| d["dep_kinds"].as_array().expect("kinds").iter().any(|k| k["kind"].is_null());
        deps.iter().filter(normal).map(|d| text(&d["pkg"])).collect()
    };
    (names, nodes.iter().map(|n| (text(&n["id"]), needs(n))).collect())
}

#[test]
fn crates_know_only_what_the_architecture_allows() {
    let metadata = metadata();
    let (names, needs) = resolved(&metadata);
    for (name, allowed) in ALLOWED {
        let id = names.iter().find(|(_, n)| n == name).expect("the crate exists").0;
        let ours: BTreeSet<&str> =
            needs[id].iter().map(|d| names[d].as_str()).filter(|n| n.starts_with("lith")).collect();
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        assert!(ours.is_subset(&allowed), "{name} depends on {ours:?}, allowed {allowed:?}");
    }
}

/// A compiled program holds no compiler: nothing the runtime needs, near or far, generates code or rewrites graphs.
#[test]
fn the_runtime_reaches_no_compiler() {
    let metadata = metadata();
    let (names, needs) = resolved(&metadata);
    let start = names.iter().find(|(_, n)| *n == "lith-runtime").expect("the crate exists").0;
    let (mut seen, mut stack) = (BTreeSet::new(), vec![start.clone()]);
    while let Some(id) = stack.pop() {
        if seen.insert(id.clone()) {
            stack.extend(needs[&id].iter().cloned());
        }
    }
    let reached: BTreeSet<&str> = seen.iter().map(|id| names[id].as_str()).collect();
    for name in &reached {
        let compiler = name.starts_with("cranelift")
            || ["lith-codegen", "lith-passes", "lith-models", "lith-frontend", "egg"].contains(name);
        assert!(!compiler, "the runtime reaches {name}");
    }
    assert!(reached.contains("lith-ir") && reached.contains("tokenizers"), "the walk saw {reached:?}");
}

/// The runners that executables are made of are the runtime alone.
#[test]
fn the_runners_use_the_runtime_alone() {
    for source in [include_str!("../src/bin/lith-runner.rs"), include_str!("../src/bin/lith-trainer.rs")] {
        for name in ["lith::", "lith_ir", "lith_frontend", "lith_models", "lith_passes", "lith_codegen"] {
            assert!(!source.contains(name), "a runner names {name}");
        }
    }
}
