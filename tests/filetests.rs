//! Text programs through the passes, against expected text beside them. The folder names the stage after which the
//! result is taken; after the fuse stage it is the kernels, after the memory stage the memory plan. A line
//! `// numeric: CLASS` says how much rewrites may change numbers, a line `// optimizer: NAME` what trains all parameters. `BLESS=1` rewrites the expected text.

use std::fs;
use std::path::{Path, PathBuf};

use lith_passes::saturate::Numeric;
use lith_passes::train::{Optimizer, Training};
use lith_passes::{Compiled, Options, Stage, dump, run};

fn result(stage: Stage, compiled: &Compiled) -> String {
    match stage {
        Stage::Trace
        | Stage::Canonicalize
        | Stage::Differentiate
        | Stage::Quantize
        | Stage::Outline
        | Stage::Recompute
        | Stage::Saturate
        | Stage::Hoist
        | Stage::Legalize => lith_ir::text::print(&compiled.program),
        Stage::Fuse | Stage::Layout | Stage::Schedule | Stage::Regions => dump::kernels(compiled),
        Stage::Memory => dump::memory(compiled, &|_| None),
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "lith"))
        .collect();
    found.sort();
    found
}

#[test]
fn programs_after_each_stage() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests");
    let bless = std::env::var_os("BLESS").is_some();
    let (mut checked, mut wrong) = (0, Vec::new());
    for stage in Stage::ALL.iter().filter(|s| root.join(s.name()).is_dir()) {
        for file in files(&root.join(stage.name())) {
            let text = fs::read_to_string(&file).unwrap();
            let program = lith_ir::text::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            let printed = lith_ir::text::print(&program);
            let again = lith_ir::text::parse(&printed).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            assert_eq!(printed, lith_ir::text::print(&again), "{}: text round trip", file.display());
            let named = text.lines().find_map(|l| l.strip_prefix("// numeric: "));
            let numeric = named.map(|n| Numeric::from_name(n).unwrap_or_else(|| panic!("{}: {n}", file.display())));
            let optimizer = text.lines().find_map(|l| l.strip_prefix("// optimizer: "));
            let training = optimizer.map(|name| Training {
                trained: program.params.keys().cloned().collect(),
                decayed: program.params.keys().filter(|name| name.ends_with("weight")).cloned().collect(),
                optimizer: Optimizer::from_name(name).unwrap_or_else(|| panic!("{}: {name}", file.display())),
            });
            let numeric = numeric.unwrap_or_default();
            let options = Options { stop_after: Some(*stage), numeric, training, ..Options::default() };
            let compiled = run(program, &options).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            let (found, beside) = (result(*stage, &compiled), file.with_extension("expected"));
            if bless {
                fs::write(&beside, &found).unwrap();
            }
            let expected =
                fs::read_to_string(&beside).unwrap_or_else(|e| panic!("{}: {e}; BLESS=1 writes it", beside.display()));
            if found != expected {
                wrong.push(format!("{}\n--- expected\n{expected}\n--- found\n{found}", file.display()));
            }
            checked += 1;
        }
    }
    assert!(checked >= 8, "{checked} file tests");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
