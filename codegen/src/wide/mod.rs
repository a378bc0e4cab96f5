//! A back end for vectors of 256 and 512 bits, which Cranelift's x86-64 back end has none of: the same CLIF that loop
//! kernels are generated as, with wider types, becomes AVX2 or AVX-512 code. Instructions are chosen block by block from
//! the last one up, so that what is folded into its users is never computed; registers are chosen by `regalloc2`; what
//! CLIF has and loop kernels never use is refused, and the kernel goes to Cranelift with vectors of 128 bits. Knows
//! nothing of kernels.

mod allocate;
mod choice;
mod emit;
mod encode;
mod inst;
mod integer;
mod rows;
mod select;
#[cfg(test)]
mod tests;
mod vector;

use cranelift_codegen::ir::Function;

/// An instruction set with vectors wider than Cranelift's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX2 and FMA: 256 bits.
    Avx2,
    /// AVX-512 F, BW, DQ and VL: 512 bits.
    Avx512,
}

/// A compiled function: position-independent, calls nothing.
#[derive(Debug)]
pub struct Bytes {
    /// Code and, behind it, its constants.
    pub bytes: Vec<u8>,
    /// The code in words, if it was wanted.
    pub text: String,
}

/// Compiles a leaf function of 64-bit integer parameters. With `listing`, its code in words as well.
///
/// # Errors
/// What the function needs and this back end does not have.
pub fn compile(function: &Function, isa: Isa, listing: bool) -> Result<Bytes, String> {
    let code = select::select(function, isa)?;
    let output = allocate::allocate(&code, isa)?;
    emit::emit(&code, &output, isa, listing)
}
