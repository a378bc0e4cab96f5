//! Every environment variable that compiled programs read.

/// Instruction set of the kernels: `portable`, `avx2` or `avx512`; default the best the CPU has.
pub const ISA: &str = "LITH_ISA";

/// The instruction set asked for.
pub fn isa() -> Option<String> {
    std::env::var(ISA).ok().filter(|v| !v.is_empty())
}
