//! Registers for virtual registers, by the allocator that Cranelift uses.

use regalloc2::{
    Algorithm, Block, Function, Inst as Index, InstRange, MachineEnv, Operand, Output, PReg, PRegSet, RegClass,
    RegallocOptions, VReg,
};

use super::Isa;
use super::inst::{Code, INT, MASK, Op, VEC};

/// Integer registers that a function may change without saving them, in the order of preference.
const FREE: [u8; 9] = [0, 1, 2, 6, 7, 8, 9, 10, 11];
/// Integer registers that a function must leave as they were.
pub const SAVED: [u8; 6] = [3, 5, 12, 13, 14, 15];

/// Code as the allocator sees it.
pub struct Allocatable<'a> {
    /// The code.
    pub code: &'a Code,
    /// Its instruction set.
    pub isa: Isa,
}

/// Chooses a place for every operand.
///
/// # Errors
/// When the allocator finds the code wrong.
pub fn allocate(code: &Code, isa: Isa) -> Result<Output, String> {
    let set = |class: RegClass, numbers: &mut dyn Iterator<Item = u8>| {
        numbers.fold(PRegSet::empty(), |set, n| set.with(PReg::new(n.into(), class)))
    };
    let vectors = if isa == Isa::Avx512 { 32 } else { 16 };
    let masks = if isa == Isa::Avx512 { 1..8 } else { 1..1 };
    let env = MachineEnv {
        preferred_regs_by_class: [
            set(INT, &mut FREE.into_iter()),
            set(VEC, &mut (0..vectors)),
            set(MASK, &mut masks.clone()),
        ],
        non_preferred_regs_by_class: [set(INT, &mut SAVED.into_iter()), PRegSet::empty(), PRegSet::empty()],
        scratch_by_class: [None; 3],
        fixed_stack_slots: Vec::new(),
    };
    let options =
        RegallocOptions { verbose_log: false, validate_ssa: cfg!(debug_assertions), algorithm: Algorithm::Ion };
    regalloc2::run(&Allocatable { code, isa }, &env, &options).map_err(|e| e.to_string())
}

impl Function for Allocatable<'_> {
    fn num_insts(&self) -> usize {
        self.code.insts.len()
    }

    fn num_blocks(&self) -> usize {
        self.code.blocks.len()
    }

    fn entry_block(&self) -> Block {
        Block::new(0)
    }

    fn block_insns(&self, block: Block) -> InstRange {
        let (first, end) = self.code.blocks[block.index()].insts;
        InstRange::new(Index::new(first), Index::new(end))
    }

    fn block_succs(&self, block: Block) -> &[Block] {
        &self.code.blocks[block.index()].succs
    }

    fn block_preds(&self, block: Block) -> &[Block] {
        &self.code.blocks[block.index()].preds
    }

    fn block_params(&self, block: Block) -> &[VReg] {
        &self.code.blocks[block.index()].params
    }

    fn is_ret(&self, inst: Index) -> bool {
        matches!(self.code.insts[inst.index()].op, Op::Return)
    }

    fn is_branch(&self, inst: Index) -> bool {
        matches!(self.code.insts[inst.index()].op, Op::Jump(_) | Op::Branch(_))
    }

    fn branch_blockparams(&self, _: Block, inst: Index, _: usize) -> &[VReg] {
        match &self.code.insts[inst.index()].op {
            Op::Jump(args) => args,
            _ => &[],
        }
    }

    fn inst_operands(&self, inst: Index) -> &[Operand] {
        &self.code.insts[inst.index()].operands
    }

    fn inst_clobbers(&self, _: Index) -> PRegSet {
        PRegSet::empty()
    }

    fn num_vregs(&self) -> usize {
        self.code.vregs
    }

    fn spillslot_size(&self, class: RegClass) -> usize {
        match class {
            VEC if self.isa == Isa::Avx512 => 8,
            VEC => 4,
            _ => 1,
        }
    }
}
