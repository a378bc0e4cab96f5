//! The plan of every fixture model, padding-free and padded: kernels of the form their kind asks for, operands stored
//! before they are read, no two live blocks of an arena sharing a byte.

mod support;

use lith::compile::{CompileOptions, prepare};
use lith::inspect::symbol_value;
use lith::model::{Model, ModelOptions};
use lith_passes::check::{check, check_memory};
use support::*;

#[test]
fn plans_of_all_families_are_sound() {
    let options = CompileOptions::new("float32", "native").unwrap();
    let models = golden_models(|name| !name.starts_with("load-"));
    assert!(models.len() >= 40, "{} fixtures", models.len());
    for folder in models {
        for padded in [false, true] {
            let from = ModelOptions { padded, ..ModelOptions::default() };
            let model = Model::open(&folder.to_string_lossy(), &from).unwrap_or_else(|e| panic!("{e}"));
            let compiled =
                prepare(model, &options, None).unwrap_or_else(|e| panic!("{}: {e}", folder.display())).compiled;
            check(&compiled).unwrap_or_else(|e| panic!("{}, padded {padded}: {e}", folder.display()));
            for shape in ["1x1", "3x7", "2x24"] {
                let values = symbol_value(shape.parse().unwrap());
                check_memory(&compiled, &values)
                    .unwrap_or_else(|e| panic!("{}, padded {padded}, {shape}: {e}", folder.display()));
            }
        }
    }
}
