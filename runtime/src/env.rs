//! Every environment variable that compiled programs read.

/// Instruction set of the kernels: `portable`, `avx2` or `avx512`; default the best the CPU has.
pub const ISA: &str = "LITH_ISA";

/// The instruction set asked for.
pub fn isa() -> Option<String> {
    std::env::var(ISA).ok().filter(|v| !v.is_empty())
}

/// Whether threads keep to one core each: any value but `0`.
pub const PIN: &str = "LITH_PIN";

/// Whether [`PIN`] asks for it.
pub fn pin() -> bool {
    std::env::var_os(PIN).is_some_and(|v| !v.is_empty() && v != "0")
}
