//! Training as Transformers' users know it: data, collators, metrics and what drives the compiled steps.
//!
//! Must not know the compiler: a compiled program is known by what it takes and gives, so that an executable trains too.

pub mod arguments;
pub mod callbacks;
pub mod card;
pub mod checkpoint;
pub mod collate;
pub mod compiled;
pub mod data;
pub mod executable;
pub mod file_form;
pub mod fine_tune;
pub mod metrics;
pub mod program;
mod report;
pub mod schedule;
pub mod state;
pub mod trainer;
