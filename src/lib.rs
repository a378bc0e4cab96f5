//! Lith: an ahead-of-time compiler for transformer models. A checkpoint goes in; one file comes out that takes text in and
//! gives answers out.
//!
//! ```no_run
//! # fn main() -> lith::Result<()> {
//! let pipe = lith::pipeline("sentiment-analysis", "reviews")?;
//! let answers = pipe.call(&["A wonderful film.".into()], &lith::Args::new(pipe.task())).map_err(lith::Error::input)?;
//! println!("{}", answers[0]);
//! # Ok(())
//! # }
//! ```

pub mod bench;
mod bundled;
pub mod cache;
pub mod cli;
pub mod compile;
mod env;
pub mod error;
pub mod executable;
pub mod inspect;
pub mod merge;
pub mod model;
pub mod quantize;
pub mod train;
pub mod verify;
pub mod weights;

pub use error::{Error, Result};
pub use lith_ir as ir;
pub use lith_ir::Graph;
pub use lith_models::Config as AutoConfig;
pub use lith_runtime::pipelines::{Args, Input, Pipeline, Task};
pub use lith_runtime::program::Program;
pub use lith_runtime::tokenizer::AutoTokenizer;
pub use model::Model as AutoModel;

use compile::CompileOptions;
use model::ModelOptions;

/// A pipeline for a task, as Transformers' `pipeline(task, model)`: the model, a directory, hub id, bundled model,
/// artifact or executable, is compiled into the cache when it is not compiled yet.
///
/// # Errors
/// When the task is unknown, or the model cannot be read, compiled or used for it.
pub fn pipeline(task: &str, model: &str) -> Result<Pipeline> {
    let task: Task = task.parse().map_err(Error::input)?;
    let path = std::path::Path::new(model);
    let artifact = if executable::holds_artifact(path)? {
        path.to_path_buf()
    } else {
        let from = ModelOptions { task: Some(task.name().into()), ..ModelOptions::default() };
        let options = CompileOptions::new("float32", "native")?;
        compile::compile_cached(model, &from, &options, &|_| ())?.0
    };
    lith_runtime::model::open_pipeline(&artifact, 0, Some(task)).map_err(Error::input)
}
