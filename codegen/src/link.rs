//! The text section: compiles functions and lays them out one after the other, calls between them resolved, so that no
//! relocation is left. Knows Cranelift functions by number.

use cranelift_codegen::Context;
use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{ExtFuncData, ExternalName, FuncRef, Function, Signature, UserExternalName};
use cranelift_codegen::{CompiledCode, FinalizedMachReloc, FinalizedRelocTarget};
use lith_runtime::manifest::CodeEntry;

use crate::{CodegenError, Target, wide};

/// A function by number; declared first, defined once.
pub type FunctionId = u32;

/// Alignment of functions: a fetch block.
const ALIGNMENT: usize = 32;

struct Slot {
    name: String,
    offset: Option<(usize, usize)>,
}

/// The section while it grows.
pub struct Text<'t> {
    target: &'t Target,
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    /// Places to patch: offset, target, addend.
    patches: Vec<(usize, FunctionId, i64)>,
    /// The functions in the order defined, for listings.
    functions: Vec<(String, Function)>,
}

/// A finished section.
pub struct Linked {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What lies where.
    pub entries: Vec<CodeEntry>,
    /// The functions in the order defined.
    pub functions: Vec<(String, Function)>,
}

/// Compiles one function; with `listing`, the result has Cranelift's assembly text.
///
/// # Errors
/// When Cranelift refuses it.
pub fn compile_function(
    target: &Target,
    name: &str,
    function: Function,
    listing: bool,
) -> Result<(CompiledCode, Function), CodegenError> {
    let internal = |problem: String| CodegenError::Internal { what: name.into(), problem };
    let mut context = Context::for_function(function);
    context.set_disasm(listing);
    context.compile(target.isa(), &mut ControlPlane::default()).map_err(|e| internal(format!("{:?}", e.inner)))?;
    let code = context.take_compiled_code().ok_or_else(|| internal("no code".into()))?;
    Ok((code, context.func))
}

impl<'t> Text<'t> {
    /// An empty section.
    pub fn new(target: &'t Target) -> Self {
        Text { target, bytes: Vec::new(), slots: Vec::new(), patches: Vec::new(), functions: Vec::new() }
    }

    /// A new function of this name.
    pub fn declare(&mut self, name: impl Into<String>) -> FunctionId {
        self.slots.push(Slot { name: name.into(), offset: None });
        self.slots.len() as FunctionId - 1
    }

    /// Compiles a function.
    ///
    /// # Errors
    /// When Cranelift refuses it, or it needs what an artifact does not have.
    pub fn define(&mut self, id: FunctionId, function: Function) -> Result<(), CodegenError> {
        let name = self.slots[id as usize].name.clone();
        let internal = |problem: String| CodegenError::Internal { what: name.clone(), problem };
        self.functions.push((name.clone(), function.clone()));
        let (code, function) = compile_function(self.target, &name, function, false)?;
        let start = self.place(id, ALIGNMENT.max(code.buffer.alignment as usize), code.buffer.data());
        for FinalizedMachReloc { offset, kind, addend, target } in code.buffer.relocs() {
            let target = match target {
                FinalizedRelocTarget::ExternalName(ExternalName::User(name)) => {
                    function.params.user_named_funcs()[*name].index
                }
                other => return Err(internal(format!("refers to {other:?}"))),
            };
            match kind {
                Reloc::X86CallPCRel4 | Reloc::X86PCRel4 => {
                    self.patches.push((start + *offset as usize, target, *addend));
                }
                other => return Err(internal(format!("relocation {other}"))),
            }
        }
        Ok(())
    }

    /// Compiles a function with vectors wider than Cranelift's, unless it has none or needs what their back end lacks.
    pub fn define_wide(&mut self, id: FunctionId, function: &Function) -> bool {
        let Some(isa) = self.target.wide_isa().filter(|_| is_wide(function)) else { return false };
        let name = self.slots[id as usize].name.clone();
        let code = match wide::compile(function, isa, false) {
            Ok(code) => code,
            Err(problem) => {
                tracing::debug!("{name} has vectors of 128 bits: {problem}");
                return false;
            }
        };
        self.place(id, ALIGNMENT, &code.bytes);
        self.functions.push((name, function.clone()));
        true
    }

    /// Appends the bytes of a function; where they start.
    fn place(&mut self, id: FunctionId, alignment: usize, code: &[u8]) -> usize {
        // Between functions: breakpoints, should anything ever run there.
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0xCC);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(code);
        self.slots[id as usize].offset = Some((start, code.len()));
        start
    }

    /// The target.
    pub fn target(&self) -> &'t Target {
        self.target
    }

    /// The finished section.
    ///
    /// # Errors
    /// When a function was declared and not defined, or the section is too large for its calls.
    pub fn finish(mut self) -> Result<Linked, CodegenError> {
        let internal =
            |what: &str, problem: &str| CodegenError::Internal { what: what.into(), problem: problem.into() };
        for (at, id, addend) in std::mem::take(&mut self.patches) {
            let slot = &self.slots[id as usize];
            let (offset, _) = slot.offset.ok_or_else(|| internal(&slot.name, "never defined"))?;
            let distance = i32::try_from(offset as i64 + addend - at as i64)
                .map_err(|_| internal(&slot.name, "too far from its callers"))?;
            self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        }
        let mut entries = Vec::new();
        for slot in self.slots {
            let (offset, bytes) = slot.offset.ok_or_else(|| internal(&slot.name, "never defined"))?;
            entries.push(CodeEntry { name: slot.name, offset: offset as u64, bytes: bytes as u64 });
        }
        Ok(Linked { bytes: self.bytes, entries, functions: self.functions })
    }

    /// Where a defined function starts.
    pub fn offset(&self, id: FunctionId) -> Option<u64> {
        self.slots.get(id as usize)?.offset.map(|(o, _)| o as u64)
    }
}

/// Whether a function has vectors of more than 128 bits.
pub fn is_wide(function: &Function) -> bool {
    function.dfg.values().any(|v| function.dfg.value_type(v).bits() > 128)
}

/// Lets `function` call or take the address of another one of the section.
pub fn import(function: &mut Function, id: FunctionId, signature: Signature) -> FuncRef {
    let name = function.declare_imported_user_function(UserExternalName { namespace: 0, index: id });
    let signature = function.import_signature(signature);
    function.import_function(ExtFuncData {
        name: ExternalName::user(name),
        signature,
        colocated: true,
        patchable: false,
    })
}
