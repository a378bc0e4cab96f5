//! `lith bench` and `lith verify`.

use lith_runtime::model::CompiledModel;
use lith_runtime::pipelines::TokenModel;
use lith_runtime::program::Program;

use super::args::{Bench, Verify};
use super::print;
use crate::bench::{Shape, measure};
use crate::error::{Error, Result};
use crate::inspect::flops::flops;
use crate::verify::{program_of, verify as compare};

pub fn bench(args: &Bench) -> Result<()> {
    let shapes: Vec<Shape> = args.shapes.iter().map(|s| s.parse().map_err(Error::input)).collect::<Result<_>>()?;
    lith_runtime::kernels::select(lith_runtime::env::isa().as_deref()).map_err(Error::input)?;
    let path = super::run::artifact_of(&args.artifact, &args.from)?;
    let model = CompiledModel::new(Program::open(&path, args.threads).map_err(Error::input)?).map_err(Error::input)?;
    let program = program_of(model.program().artifact())?;
    let entry = program.entries.get("forward").ok_or_else(|| Error::input("no entry point `forward`"))?;
    let operations = flops(&program, entry);
    for shape in shapes {
        let limit = model.info().max_positions.unwrap_or(usize::MAX);
        if shape.length > limit {
            return Err(Error::input(format!("shape {shape}: the model takes at most {limit} tokens")));
        }
        let found = measure(model.program(), shape, model.info().vocab_size, &operations)?;
        if args.json {
            print(&(serde_json::to_string(&found).map_err(Error::failure)? + "\n"))?;
        } else {
            print(&format!(
                "{:>8}  {} threads  {:9.3} ms  {:10.0} tokens/s  {:7.1} GFLOP/s\n",
                found.shape, found.threads, found.median_ms, found.tokens_per_s, found.gflops_per_s
            ))?;
        }
    }
    Ok(())
}

pub fn verify(args: &Verify) -> Result<()> {
    let model = CompiledModel::new(Program::open(&args.artifact, 0).map_err(Error::input)?).map_err(Error::input)?;
    let found = compare(model.program(), args.batches, model.info().vocab_size, args.seed)?;
    for d in &found {
        if args.json {
            print(&(serde_json::to_string(d).map_err(Error::failure)? + "\n"))?;
        } else {
            print(&format!(
                "{:<20} lengths {:?}: largest difference {:.3e}, relative {:.3e}\n",
                d.result, d.lengths, d.absolute, d.relative
            ))?;
        }
    }
    match found.iter().find(|d| d.relative.is_nan() || d.relative > args.tolerance) {
        None => Ok(()),
        Some(d) => Err(Error::failure(format!(
            "`{}` differs from the interpreter by {:.3e} relative, more than {:.1e}",
            d.result, d.relative, args.tolerance
        ))),
    }
}
