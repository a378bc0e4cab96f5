//! Generation over a model whose logits are a function of the tokens it finds through the page tables, so that a wrong
//! page shows. Goldens are Transformers' results for the same function (`tests/oracle/make_generation.py`).

mod goldens;
mod options;
mod requests;
mod sampling;
mod sharing;
mod speculation;
mod table;

use serde_json::{Map, Value};

use super::*;
use table::Table;

/// The settings of these options, given as JSON.
fn settings(options: Value) -> Settings {
    let Value::Object(mut options) = options else { panic!("options are an object") };
    options.entry("eos_token_id").or_insert(0.into());
    Settings::resolve(&config(&options), &GenerationConfig::new()).unwrap().0
}

fn config(options: &Map<String, Value>) -> GenerationConfig {
    GenerationConfig::from_json(options).unwrap()
}

fn request(prompt: &[u32], options: Value) -> Request {
    Request::new(prompt.to_vec(), settings(options))
}

/// A generator over a fresh table with pages of 4 tokens.
fn generator(pages: usize) -> Generator<Table> {
    Generator::new(Table::new(pages, 4), Limits::default())
}

/// The results of requests that run together; every page is back afterwards.
fn run(generator: &mut Generator<Table>, requests: Vec<Request>) -> Vec<Result<Output, GenerationError>> {
    let results = generator.generate(requests, &mut |_| {});
    assert!(generator.is_idle());
    generator.forget();
    assert_eq!(generator.pool().free_pages(), generator.pool().pages(), "pages are lost");
    results
}

/// The tokens of each result of one request.
fn tokens(request: Request) -> Vec<Vec<u32>> {
    let output = run(&mut generator(4000), vec![request]).remove(0).unwrap();
    output.sequences.into_iter().map(|s| s.tokens).collect()
}
