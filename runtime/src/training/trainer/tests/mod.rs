//! The trainer over a program written in Rust: linear regression with dropout of inputs and Adam, whose gradients are
//! exact.

mod disk;
mod evaluation;
mod frail;
mod loops;
mod mock;
mod resuming;
