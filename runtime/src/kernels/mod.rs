//! Hand-tuned CPU cores: matrix products on packed weights, batched products of activations, attention over packed
//! sequences, and vector math. Compiled programs call them through their `extern "C"` entries.
//!
//! **Contract of every entry.** It is SPMD: each of `threads` threads calls it with the same arguments and its own
//! `thread`; each does its static part and returns, and the caller puts one barrier behind it ([`attention_paged`] alone
//! may wait for the other threads within). Results are the same bits for any number of threads, any other rows in the
//! batch and any row position: the order of operations of an output element is a function of its row (and of the sizes
//! along the reduction) alone. They are the same bits on every [`Isa`] with a fused multiply-add, too.
//!
//! This module knows pointers, sizes and strides; it must not know programs, artifacts or tensors. Arguments are trusted:
//! whoever fills them (compiled code, after the program's checks) keeps the sizes within the buffers.
#![allow(unsafe_code, reason = "raw operands from compiled code, and CPU intrinsics")]

mod append;
mod attention;
mod caches;
mod dot;
mod embed;
mod gemm;
mod isa;
#[cfg(target_arch = "x86_64")]
mod lean;
mod paged;
mod panels;
mod quant;
mod random;
mod region;
mod roof;
mod rope;
mod scatter;
mod scratch;
mod simd;
mod tile;
mod transposed;
pub mod vmath;
mod words;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod tests;

pub use append::{AppendArgs, CacheType, cache_append};
pub use attention::{AttentionArgs, AttentionGradArgs, attention_grad, attention_packed};
pub use dot::{DotArgs, dot_f32};
pub use embed::{EmbedArgs, embed_panels};
pub use gemm::{Epilogue, GemmArgs, gemm_panels};
pub use isa::{Isa, IsaError, select};
pub use paged::{PagedArgs, attention_paged};
pub use panels::{PackError, Packed, pack_floats, pack_quantized, packed_len};
pub use random::{RandomArgs, random_bits};
pub use region::run_region;
pub use roof::read_bandwidth;
pub use rope::{RopeArgs, rope};
pub use scatter::{ScatterArgs, scatter_add};
pub use scratch::SharedScratch;
pub use simd::LANES;
