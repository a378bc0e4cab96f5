//! Comparisons, masks, and what is chosen by them. AVX-512 compares into mask registers and chooses by them; AVX2 has
//! lanes of ones and zeros, as CLIF does.

use cranelift_codegen::ir::condcodes::{CondCode, FloatCC, IntCC};
use cranelift_codegen::ir::{self, InstructionData, Type, Value, types};
use regalloc2::VReg;

use super::Isa;
use super::encode::Width;
use super::inst::{INT, Inst, MASK, Source, VEC};
use super::rows::{self, Float};
use super::select::{Select, width};
use super::vector::{ONES, Shape, float, shape};

/// Comparison that holds where one is NaN.
const UNORDERED: u8 = 3;
/// Comparison that holds where neither is NaN.
pub const ORDERED: u8 = 7;
/// Comparison of numbers.
pub const GREATER_OR_EQUAL: u8 = 0x1d;

/// The predicate of a comparison of floats.
fn predicate(cc: FloatCC) -> u8 {
    match cc {
        FloatCC::Equal => 0,
        FloatCC::LessThan => 0x11,
        FloatCC::LessThanOrEqual => 0x12,
        FloatCC::GreaterThan => 0x1e,
        FloatCC::GreaterThanOrEqual => GREATER_OR_EQUAL,
        FloatCC::NotEqual => 4,
        FloatCC::Unordered => UNORDERED,
        FloatCC::Ordered => ORDERED,
        FloatCC::OrderedNotEqual => 0x0c,
        FloatCC::UnorderedOrEqual => 8,
        FloatCC::UnorderedOrLessThan => 0x19,
        FloatCC::UnorderedOrLessThanOrEqual => 0x1a,
        FloatCC::UnorderedOrGreaterThan => 0x16,
        FloatCC::UnorderedOrGreaterThanOrEqual => 0x15,
    }
}

impl Select<'_> {
    /// `yes` in the lanes where the comparison `a ? b` holds, else `no`.
    #[allow(clippy::too_many_arguments, reason = "two instructions in one")]
    pub fn where_float(
        &mut self,
        predicate: u8,
        [a, b]: [Source; 2],
        yes: Source,
        no: VReg,
        to: VReg,
        s: Shape,
        kind: Float,
    ) {
        let Source::Reg(a) = a else { return };
        if self.isa == Isa::Avx512 {
            let k = self.fresh(MASK);
            let inst = Inst::new(rows::cmp_k(kind), s.width).def(k).vvvv(a);
            let inst = self.from(inst, b, s).imm8(predicate);
            self.put(inst);
            self.blend(k, yes, no, to, s);
        } else {
            let mask = self.fresh(VEC);
            let inst = Inst::new(rows::cmp(kind), s.width).def(mask).vvvv(a);
            let inst = self.from(inst, b, s).imm8(predicate);
            self.put(inst);
            let inst = self.from(Inst::new(rows::BLEND_V, s.width).def(to).vvvv(no), yes, s).last(mask);
            self.put(inst);
        }
    }

    fn blend(&mut self, k: VReg, yes: Source, no: VReg, to: VReg, s: Shape) {
        let inst = self.from(Inst::new(rows::BLEND_K, s.width).def(to).mask(k).vvvv(no), yes, s);
        self.put(inst);
    }

    /// The greater or lesser of two; NaN if one is, and -0 is less than +0.
    pub fn extreme(&mut self, greater: bool, [a, b]: [Value; 2], to: VReg, ty: Type) -> Result<(), String> {
        let (s, kind) = (shape(ty), float(ty));
        let (a, b) = (self.reg(a)?, self.reg(b)?);
        let [first, second, both, sum] = [0; 4].map(|_| self.fresh(VEC));
        // The instruction gives its second operand when both are 0 or one is NaN: of zeros either sign's bit wins.
        let row = if greater { rows::max(kind) } else { rows::min(kind) };
        self.three(row, s, first, a, Source::Reg(b));
        self.three(row, s, second, b, Source::Reg(a));
        self.three(if greater { rows::ANDPS } else { rows::ORPS }, s, both, first, Source::Reg(second));
        self.three(rows::add(kind), s, sum, a, Source::Reg(b));
        self.where_float(UNORDERED, [a.into(), b.into()], Source::Reg(sum), both, to, s, kind);
        Ok(())
    }

    /// Whether two values are the same, or constants with the same bits.
    fn same(&self, a: Value, b: Value) -> bool {
        self.root(a) == self.root(b) || (self.bits(a).is_some() && self.bits(a) == self.bits(b))
    }

    /// `c ? a : b` as a minimum or maximum, which it is when `c` compares `a` and `b`.
    fn minimum(&mut self, [c, a, b]: [Value; 3], to: VReg, ty: Type) -> Result<bool, String> {
        let Some(InstructionData::FloatCompare { args: [p, q], cond, .. }) = self.data(c) else { return Ok(false) };
        if self.ty(p) != ty {
            return Ok(false);
        }
        let straight = self.same(a, p) && self.same(b, q);
        let crossed = self.same(a, q) && self.same(b, p);
        // `a < b ? a : b` and `a > b ? a : b` are what the instructions compute, for NaNs and zeros too.
        let row = match (cond, straight, crossed) {
            (FloatCC::LessThan, true, _) | (FloatCC::GreaterThan, _, true) => rows::min(float(ty)),
            (FloatCC::GreaterThan, true, _) | (FloatCC::LessThan, _, true) => rows::max(float(ty)),
            _ => return Ok(false),
        };
        self.operate(row, to, [a, b], false)?;
        Ok(true)
    }

    /// `c ? a : b` bit by bit.
    pub fn bitselect(&mut self, [c, a, b]: [Value; 3], to: VReg, ty: Type) -> Result<(), String> {
        let s = shape(ty);
        if self.minimum([c, a, b], to, ty)? {
            return Ok(());
        }
        if let Some(k) = self.mask(c) {
            let (no, yes) = (self.reg(b)?, self.source(a)?);
            self.blend(k, yes, no, to, s);
            return Ok(());
        }
        let compares =
            matches!(self.data(c), Some(InstructionData::FloatCompare { .. } | InstructionData::IntCompare { .. }));
        let mask = self.reg(c)?;
        if self.isa == Isa::Avx512 {
            let (a, b) = (self.reg(a)?, self.source(b)?);
            // The table of `mask ? a : b`.
            let inst = Inst::new(rows::TERNLOG, s.width).change(to, mask).vvvv(a);
            let inst = self.from(inst, b, s).imm8(0xca);
            self.put(inst);
        } else if compares {
            let (no, yes) = (self.reg(b)?, self.source(a)?);
            let inst = self.from(Inst::new(rows::BLEND_V, s.width).def(to).vvvv(no), yes, s).last(mask);
            self.put(inst);
        } else {
            let (a, b) = (self.source(a)?, self.source(b)?);
            let (yes, no) = (self.fresh(VEC), self.fresh(VEC));
            self.three(rows::ANDPS, s, yes, mask, a);
            self.three(rows::ANDNPS, s, no, mask, b);
            self.three(rows::ORPS, s, to, yes, Source::Reg(no));
        }
        Ok(())
    }

    /// `c ? a : b` where `c` is one `bool`.
    pub fn select(&mut self, [c, a, b]: [Value; 3], to: VReg, ty: Type) -> Result<(), String> {
        let s = shape(ty);
        if self.minimum([c, a, b], to, ty)? {
            return Ok(());
        }
        let (no, yes) = (self.reg(b)?, self.reg(a)?);
        if self.isa == Isa::Avx512 {
            let k = match self.mask(c).filter(|_| !ty.is_vector()) {
                Some(k) => k,
                None => {
                    let (bits, k) = (self.fresh(INT), self.fresh(MASK));
                    self.ones_if(c, bits)?;
                    self.put(Inst::new(rows::KMOV_FROM, Width::V128).def(k).rm(bits));
                    k
                }
            };
            let row = if ty == types::F64 { rows::BLEND_K64 } else { rows::BLEND_K };
            self.put(Inst::new(row, s.width).def(to).mask(k).vvvv(no).rm(yes));
            return Ok(());
        }
        let (bits, low) = (self.fresh(INT), self.fresh(VEC));
        self.ones_if(c, bits)?;
        self.put(Inst::new(rows::MOVQ, Width::V128).def(low).rm(bits));
        let mut mask = low;
        if ty.is_vector() {
            mask = self.fresh(VEC);
            self.two(rows::BROADCAST_I32, s, mask, Source::Reg(low));
        }
        let row = if ty == types::F64 { rows::BLEND_V64 } else { rows::BLEND_V };
        self.put(Inst::new(row, s.width).def(to).vvvv(no).rm(yes).last(mask));
        Ok(())
    }

    /// A comparison of floats or of vectors into a mask register.
    pub fn compare_to_mask(&mut self, inst: ir::Inst, k: VReg) -> Result<(), String> {
        let (row, args, predicate) = match self.f.dfg.insts[inst] {
            InstructionData::FloatCompare { args: [a, b], cond, .. } => {
                let (a, b, cond) =
                    if self.folds(a) && !self.folds(b) { (b, a, cond.swap_args()) } else { (a, b, cond) };
                (rows::cmp_k(float(self.ty(a))), [a, b], predicate(cond))
            }
            InstructionData::IntCompare { args: [a, b], cond, .. } if self.ty(a).lane_bits() == 32 => {
                let (a, b, cond) =
                    if self.folds(a) && !self.folds(b) { (b, a, cond.swap_args()) } else { (a, b, cond) };
                let unsigned = matches!(
                    cond,
                    IntCC::UnsignedLessThan
                        | IntCC::UnsignedLessThanOrEqual
                        | IntCC::UnsignedGreaterThan
                        | IntCC::UnsignedGreaterThanOrEqual
                );
                let predicate = match cond {
                    IntCC::Equal => 0,
                    IntCC::SignedLessThan | IntCC::UnsignedLessThan => 1,
                    IntCC::SignedLessThanOrEqual | IntCC::UnsignedLessThanOrEqual => 2,
                    IntCC::NotEqual => 4,
                    IntCC::SignedGreaterThanOrEqual | IntCC::UnsignedGreaterThanOrEqual => 5,
                    IntCC::SignedGreaterThan | IntCC::UnsignedGreaterThan => 6,
                };
                (if unsigned { rows::PCMPU_K } else { rows::PCMP_K }, [a, b], predicate)
            }
            _ => return self.refuse(inst),
        };
        let s = shape(self.ty(args[0]));
        let (a, b) = (self.reg(args[0])?, self.source(args[1])?);
        let inst = self.from(Inst::new(row, s.width).def(k).vvvv(a), b, s).imm8(predicate);
        self.put(inst);
        Ok(())
    }

    /// A mask register as the value it stands for.
    pub fn mask_to(&mut self, k: VReg, to: VReg, ty: Type) -> Result<(), String> {
        let (row, width) =
            if ty.is_vector() { (rows::MASK_TO_VECTOR, width(ty)) } else { (rows::KMOV_TO, Width::V128) };
        self.put(Inst::new(row, width).def(to).rm(k));
        Ok(())
    }

    /// A comparison of floats or of vectors as lanes of ones or zeros.
    pub fn compare_to_vector(&mut self, inst: ir::Inst, to: VReg) -> Result<(), String> {
        let result = self.f.dfg.first_result(inst);
        if let Some(k) = self.mask(result) {
            self.compare_to_mask(inst, k)?;
            return self.mask_to(k, to, self.ty(result));
        }
        match self.f.dfg.insts[inst] {
            InstructionData::FloatCompare { args: [a, b], cond, .. } => {
                let (a, b, cond) =
                    if self.folds(a) && !self.folds(b) { (b, a, cond.swap_args()) } else { (a, b, cond) };
                let (s, row) = (shape(self.ty(a)), rows::cmp(float(self.ty(a))));
                let (a, b) = (self.reg(a)?, self.source(b)?);
                let inst = self.from(Inst::new(row, s.width).def(to).vvvv(a), b, s).imm8(predicate(cond));
                self.put(inst);
                Ok(())
            }
            InstructionData::IntCompare { args: [a, b], cond, .. } if self.ty(a).lane_bits() == 32 => {
                let s = shape(self.ty(a));
                let (a, b) = (self.reg(a)?, self.reg(b)?);
                // Only equality and the signed order have instructions: others are those of operands crossed over, of
                // the extreme of both, or the opposite.
                let (row, extreme, crossed, opposite) = match cond {
                    IntCC::Equal => (rows::PCMPEQ, None, false, false),
                    IntCC::NotEqual => (rows::PCMPEQ, None, false, true),
                    IntCC::SignedGreaterThan => (rows::PCMPGT, None, false, false),
                    IntCC::SignedLessThan => (rows::PCMPGT, None, true, false),
                    IntCC::SignedLessThanOrEqual => (rows::PCMPGT, None, false, true),
                    IntCC::SignedGreaterThanOrEqual => (rows::PCMPGT, None, true, true),
                    IntCC::UnsignedGreaterThanOrEqual => (rows::PCMPEQ, Some(rows::PMAXU), false, false),
                    IntCC::UnsignedLessThan => (rows::PCMPEQ, Some(rows::PMAXU), false, true),
                    IntCC::UnsignedLessThanOrEqual => (rows::PCMPEQ, Some(rows::PMINU), false, false),
                    IntCC::UnsignedGreaterThan => (rows::PCMPEQ, Some(rows::PMINU), false, true),
                };
                let (a, mut b) = if crossed { (b, a) } else { (a, b) };
                if let Some(row) = extreme {
                    let both = self.fresh(VEC);
                    self.three(row, s, both, a, Source::Reg(b));
                    b = both;
                }
                let holds = if opposite { self.fresh(VEC) } else { to };
                self.three(row, s, holds, a, Source::Reg(b));
                if opposite {
                    self.three(rows::XORPS, s, to, holds, Source::Const(ONES));
                }
                Ok(())
            }
            _ => self.refuse(inst),
        }
    }
}
