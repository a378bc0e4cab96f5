//! Lith's runtime: opens artifacts, runs compiled programs on all threads, tokenizes, and answers tasks. It reaches no
//! compiler: everything an executable holds is here.

pub mod abi;
pub mod artifact;
pub mod cache;
pub mod chat;
pub mod command;
pub mod env;
pub mod generation;
pub mod kernels;
pub mod manifest;
mod math;
pub mod model;
pub mod pipelines;
pub mod profile;
pub mod program;
pub mod states;
pub mod tensor;
pub mod threads;
pub mod tokenizer;
pub mod training;
pub mod weights;
