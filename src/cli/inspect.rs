//! `lith inspect` and `lith tokenize`.

use std::path::Path;

use lith_passes::saturate::Report;
use lith_runtime::artifact::Artifact;
use lith_runtime::artifact::format::section;
use lith_runtime::model::{ENTRY, model_info};
use lith_runtime::pipelines::ModelInfo;
use lith_runtime::program::Program;
use lith_runtime::tokenizer::{AutoTokenizer, EncodeOptions, Fields, Text};

use super::args::{Format, Inspect, Tokenize};
use super::print;
use crate::bench::{Random, RandomTokens, Shape};
use crate::compile::prepare;
use crate::error::{Error, Result};
use crate::executable::holds_artifact;
use crate::inspect::{StoredWeights, Summary, dot, explain, saturation_of, symbol_value};
use crate::model::{Model, Opened};
use crate::verify::program_of;

/// What is inspected, in one form for models and artifacts.
struct Subject {
    program: lith_ir::Program,
    info: ModelInfo,
    plan: String,
    weights: StoredWeights,
    arena: Option<i64>,
    saturation: Report,
}

pub fn inspect(args: &Inspect) -> Result<()> {
    let shape: Shape = args.shape.parse().map_err(Error::input)?;
    let subject = subject(args, shape)?;
    if let Some(node) = &args.explain {
        return print(&explain(&subject.program, &subject.saturation, node)?);
    }
    if args.weights {
        return print(&subject.weights.table());
    }
    if args.kernels || args.memory {
        let (kernels, memory) = subject.plan.split_once("\n\n").unwrap_or((&subject.plan, ""));
        if args.kernels {
            print(kernels)?;
            print("\n")?;
        }
        if args.memory {
            print(memory)?;
            if let Some(peak) = subject.arena {
                print(&format!("peak for {shape}: {peak} bytes\n"))?;
            }
        }
        return Ok(());
    }
    let summary = || Summary {
        weights: subject.weights.clone(),
        ..Summary::new(&subject.program, Some(subject.info.task.to_string()), shape, subject.arena)
    };
    match args.format {
        Format::Summary => print(&summary().text()),
        Format::Text => print(&lith_ir::text::print(&subject.program)),
        Format::Dot => print(&dot(&subject.program)),
        Format::Json => print(&(serde_json::to_string_pretty(&summary()).map_err(Error::failure)? + "\n")),
    }
}

fn subject(args: &Inspect, shape: Shape) -> Result<Subject> {
    if holds_artifact(Path::new(&args.model))? {
        let program = Program::open(Path::new(&args.model), 1).map_err(Error::input)?;
        let info = model_info(program.artifact()).map_err(Error::input)?;
        let lengths = vec![shape.length; shape.batch];
        let tokens = RandomTokens::new(&lengths, info.vocab_size, &mut Random::new(0));
        let arena = tokens.with_args(&program, ENTRY, |a| program.arena_bytes(ENTRY, a).map_err(Error::input))?;
        return Ok(Subject {
            program: program_of(program.artifact())?,
            info,
            weights: StoredWeights::of(program.artifact())?,
            plan: program.artifact().text_section(section::PLAN).map_err(Error::input)?.to_string(),
            arena: i64::try_from(arena).ok(),
            saturation: saturation_of(program.artifact())?,
        });
    }
    let options = args.from.compile_options()?;
    let compilation = prepare(Model::open(&args.model, &args.from.options()?)?, &options, None)?;
    Ok(Subject {
        arena: compilation.arena_bytes(&symbol_value(shape)),
        plan: compilation.plan_text(),
        weights: StoredWeights::default(),
        info: compilation.model.info,
        saturation: compilation.compiled.saturation,
        program: compilation.compiled.program,
    })
}

pub fn tokenize(args: &Tokenize) -> Result<()> {
    let tokenizer = if holds_artifact(Path::new(&args.model))? {
        let artifact = Artifact::open(Path::new(&args.model)).map_err(Error::input)?;
        AutoTokenizer::from_assets(&artifact).map_err(Error::input)?
    } else {
        Opened::new(&args.model, &args.from.options()?)?.tokenizer()?
    };
    let options = EncodeOptions { add_special_tokens: !args.no_special_tokens, ..EncodeOptions::default() };
    let pair = args.pair.as_deref().map(Text::from);
    let encoding = tokenizer.encode(Text::from(args.text.as_str()), pair, &options).map_err(Error::input)?;
    if args.json {
        let fields = Fields { token_type_ids: true, attention_mask: true, offset_mapping: true, ..Fields::default() };
        let mut json = encoding.to_json(fields, true);
        json["tokens"] = encoding.into_single().tokens.into();
        return print(&format!("{json}\n"));
    }
    let row = encoding.into_single();
    let lines = row.ids.iter().zip(&row.tokens).map(|(id, token)| format!("{id:>8}  {token}\n"));
    print(&lines.collect::<String>())
}
