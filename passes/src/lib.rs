//! Graph-to-graph transformations: from the traced program to one that code generation can follow step by step. Knows
//! the IR only: no model by name, no machine.
//!
//! Stages run in the order of one table, and each can be the last: see [`Stage`].
#![forbid(unsafe_code)]

mod cache;
mod calls;
pub mod canonicalize;
pub mod check;
pub mod differentiate;
pub mod dump;
mod fuse;
mod hoist;
mod layout;
mod legalize;
mod memory;
mod outline;
pub mod quantize;
mod reads;
mod recompute;
mod regions;
pub mod saturate;
mod schedule;
pub mod train;
pub mod weights;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lith_ir::plan::Plan;
use lith_ir::quant::Storage;
use lith_ir::{GraphError, Program, VerifyError, verify};

/// A program with as much of its plan as the stages so far have made.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// The program.
    pub program: Program,
    /// The plan; empty before [`Stage::Fuse`], without places before [`Stage::Memory`].
    pub plan: Plan,
    /// What equality saturation did.
    pub saturation: saturate::Report,
    /// How long each stage took, in order.
    pub timings: Vec<(Stage, Duration)>,
}

/// Why a program has no plan.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// A graph is broken or an op's operands do not fit it.
    #[error("graph `{graph}`: {source}")]
    Graph {
        /// Name of the graph.
        graph: String,
        /// What is broken.
        source: GraphError,
    },
    /// The program is not sound.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A stage left something that the next cannot take: a bug of a pass.
    #[error("graph `{graph}`: {problem}")]
    Broken {
        /// Name of the graph.
        graph: String,
        /// What was found.
        problem: String,
    },
}

impl PassError {
    /// Names the graph of a graph error.
    fn in_graph(graph: &str) -> impl Fn(GraphError) -> PassError {
        move |source| PassError::Graph { graph: graph.into(), source }
    }

    fn broken(graph: &str, problem: impl Into<String>) -> PassError {
        PassError::Broken { graph: graph.into(), problem: problem.into() }
    }
}

/// The order table: name and pass of every stage.
macro_rules! stages {
    ($($(#[$doc:meta])* $stage:ident = $name:literal: $pass:expr;)*) => {
        /// A stage, named by what it leaves behind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Stage { $($(#[$doc])* $stage),* }

        impl Stage {
            /// Every stage in order.
            pub const ALL: &'static [Stage] = &[$(Stage::$stage),*];

            /// The name on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Stage::$stage => $name),* }
            }

            /// The stage of this name.
            pub fn from_name(name: &str) -> Option<Stage> {
                match name { $($name => Some(Stage::$stage),)* _ => None }
            }

            fn run(self, compiled: &mut Compiled, options: &Options) -> Result<(), PassError> {
                match self { $(Stage::$stage => $pass(compiled, options)),* }
            }
        }
    };
}

stages! {
    /// The program as it was traced, found sound.
    Trace = "trace": |compiled: &mut Compiled, _: &Options| Ok(verify(&compiled.program)?);
    /// Constants folded, common and dead nodes gone, movement of data simplified. See [`canonicalize`].
    Canonicalize = "canonicalize": |compiled, _: &Options| canonicalize::run(compiled);
    /// The steps of training, where there is something to train. See [`train`].
    Differentiate = "differentiate": train::run;
    /// Activations of the chosen layers rounded to 8 bits. See [`quantize`].
    Quantize = "quantize": |compiled, options: &Options| quantize::run(compiled, options.rounding, &options.int8_activations);
    /// Repeated blocks are functions, called once for each repetition.
    Outline = "outline": |compiled, _: &Options| outline::run(compiled);
    /// Activations computed again where keeping them takes too much memory. See [`Options::activation_memory`].
    Recompute = "recompute": recompute::run;
    /// The cheapest of all forms that the rules know. See [`saturate`].
    Saturate = "saturate": saturate::run;
    /// What follows from parameters alone is a derived parameter, see [`lith_ir::Program::derived`].
    Hoist = "hoist": hoist::run;
    /// Only ops that have a kernel; every result is a value that a kernel stores.
    Legalize = "legalize": |compiled, _: &Options| legalize::run(compiled);
    /// Nodes grouped into kernels.
    Fuse = "fuse": fuse::run;
    /// The layouts of weights.
    Layout = "layout": layout::run;
    /// Kernels in an order that keeps little memory alive.
    Schedule = "schedule": |compiled, _: &Options| schedule::run(compiled);
    /// Runs of kernels that go through a block of rows at a time.
    Regions = "regions": |compiled, _: &Options| regions::run(compiled);
    /// A place for every stored value.
    Memory = "memory": |compiled, _: &Options| memory::run(compiled);
}

/// What to compile and how far.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The last stage to run; `None` runs all.
    pub stop_after: Option<Stage>,
    /// What is trained; nothing by default.
    pub training: Option<train::Training>,
    /// How many bytes activations that are kept from forward to backward may take (`activation_checkpointing`), counted at 256
    /// tokens and as many of every other symbol as it can have up to that. Layers that do not fit are computed again in the
    /// backward pass; with 0 all are. Without a budget all are kept.
    pub activation_memory: Option<u64>,
    /// Which linear layers of `int8_activations` compute with activations of 8 bits.
    pub rounding: quantize::Rounding,
    /// Weights whose linear layers may.
    pub int8_activations: BTreeSet<String>,
    /// Tables that lie in panels only, because they are quantized: rows are gathered from there.
    pub packed_tables: BTreeSet<String>,
    /// Parameters that are stored neither as plain floats of the default type nor computed with: codes, and what a file
    /// brought in another type.
    pub stored: BTreeMap<String, Storage>,
    /// How much rewrites may change numbers.
    pub numeric: saturate::Numeric,
    /// How far equality saturation goes.
    pub saturation: saturate::Budget,
    /// What costs are estimated for.
    pub device: saturate::DeviceProfile,
    /// Where what equality saturation made of graphs is kept.
    pub memo: saturate::Memo,
}

/// Takes a traced program through the stages.
///
/// # Errors
/// When the program is not sound. Same program, same result.
pub fn run(program: Program, options: &Options) -> Result<Compiled, PassError> {
    let mut compiled = Compiled { program, ..Compiled::default() };
    for &stage in Stage::ALL {
        let start = Instant::now();
        stage.run(&mut compiled, options)?;
        compiled.timings.push((stage, start.elapsed()));
        let nodes: usize = compiled.program.graphs().map(|(_, g)| g.compute_nodes()).sum();
        tracing::debug!(stage = stage.name(), nodes, "stage done");
        if options.stop_after == Some(stage) {
            break;
        }
    }
    Ok(compiled)
}

/// [`run`] up to and including `stage`.
///
/// # Errors
/// As [`run`].
pub fn run_until(program: Program, stage: Stage) -> Result<Compiled, PassError> {
    run(program, &Options { stop_after: Some(stage), ..Options::default() })
}
