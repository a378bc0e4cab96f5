//! `lith merge`.

use super::args::Merge;
use super::progress::Progress;
use crate::error::{Error, Result};

pub fn merge(args: &Merge) -> Result<()> {
    if args.from.quantize.is_some() {
        return Err(Error::input(
            "--quantize: Transformers reads floats; lith compile --adapter quantizes what is merged",
        ));
    }
    let storage = args.from.compile_options()?.storage;
    let progress = Progress::new(args.quiet);
    progress.say("merging");
    let warnings = crate::merge::merge(&args.model, &args.from.options()?, storage, &args.output_dir)?;
    drop(progress);
    if !args.quiet {
        warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        eprintln!("{}: model with the adapter merged", args.output_dir.display());
    }
    Ok(())
}
