//! Instructions for integers and addresses, and for conditions. Of values of less than 32 bits the upper bits of the
//! register mean nothing.

use cranelift_codegen::ir::condcodes::{CondCode, IntCC};
use cranelift_codegen::ir::{self, InstructionData, Opcode, Type, Value, types};
use regalloc2::{PReg, VReg};

use super::encode::{Row, Width};
use super::inst::{INT, Inst, Source, VEC};
use super::rows;
use super::select::{Select, class, condition, int_width};

const RAX: usize = 0;
const RDX: usize = 2;
/// Digits of [`rows::UNARY`].
const NOT: u8 = 2;
const NEG: u8 = 3;
const DIV: u8 = 6;
/// Digits of [`rows::ALU_IMM`].
const AND: u8 = 4;
const CMP: u8 = 7;
/// Digits of [`rows::SHIFT`].
const SHL: u8 = 4;
const SHR: u8 = 5;
const SAR: u8 = 7;

impl Select<'_> {
    /// An instruction whose result is an integer in a register.
    pub fn integer(&mut self, inst: ir::Inst, to: VReg, ty: Type) -> Result<(), String> {
        let width = int_width(ty);
        match self.f.dfg.insts[inst] {
            InstructionData::Load { opcode: Opcode::Load, arg, offset, .. } => {
                let address = self.address(arg, offset.into())?;
                let (row, width) = match ty {
                    types::I8 => (rows::MOVZX8, Width::W32),
                    types::I16 => (rows::MOVZX16, Width::W32),
                    _ => (rows::MOV, width),
                };
                self.put(Inst::new(row, width).def(to).mem(address));
                Ok(())
            }
            InstructionData::StackAddr { stack_slot, offset, .. } => self.slot_address(stack_slot, offset.into(), to),
            InstructionData::Binary { opcode, args: [x, y] } => self.integer_binary(inst, opcode, [x, y], to, ty),
            InstructionData::IntCompare { cond, args, .. } if !self.ty(args[0]).is_vector() => {
                let code = self.compare(cond, args)?;
                self.set(code, to);
                Ok(())
            }
            InstructionData::FloatCompare { .. } => {
                // A mask of one lane: all ones or zeros in AVX2, one bit in AVX-512.
                let result = self.f.dfg.first_result(inst);
                match self.mask(result) {
                    Some(mask) => {
                        self.compare_to_mask(inst, mask)?;
                        self.put(Inst::new(rows::KMOV_TO, Width::V128).def(to).rm(mask));
                    }
                    None => {
                        let (vector, bits) = (self.fresh(VEC), self.fresh(INT));
                        self.compare_to_vector(inst, vector)?;
                        self.put(Inst::new(rows::MOVD_TO, Width::V128).reg(vector).rm_def(bits));
                        self.put(Inst::new(rows::ALU_IMM, Width::W32).digit(AND).change_rm(to, bits).imm32(1));
                    }
                }
                Ok(())
            }
            InstructionData::Ternary { opcode: Opcode::Select, args: [c, a, b] } => {
                let (a, b) = (self.reg(a)?, self.reg(b)?);
                let code = self.condition(c)?;
                self.put(Inst::new(rows::cmov(code), width).change(to, b).rm(a));
                Ok(())
            }
            InstructionData::Unary { opcode, arg } => self.integer_unary(inst, opcode, arg, to, ty),
            InstructionData::LoadNoOffset { opcode: Opcode::Bitcast, arg, .. } if class(self.ty(arg)) == VEC => {
                let x = self.reg(arg)?;
                let row = if ty.bits() == 64 { rows::MOVQ_TO } else { rows::MOVD_TO };
                self.put(Inst::new(row, Width::V128).reg(x).rm_def(to));
                Ok(())
            }
            InstructionData::BinaryImm8 { opcode: Opcode::Extractlane, arg, imm } if ty == types::I32 => {
                let x = self.reg(arg)?;
                if self.ty(arg).bits() != 128 {
                    return self.refuse(inst);
                }
                self.put(Inst::new(rows::EXTRACT_I32, Width::V128).reg(x).rm_def(to).imm8(imm));
                Ok(())
            }
            _ => self.refuse(inst),
        }
    }

    fn integer_binary(
        &mut self,
        inst: ir::Inst,
        opcode: Opcode,
        [x, y]: [Value; 2],
        to: VReg,
        ty: Type,
    ) -> Result<(), String> {
        let width = int_width(ty);
        // A constant is the second operand.
        let commutes = matches!(opcode, Opcode::Iadd | Opcode::Imul | Opcode::Band | Opcode::Bor | Opcode::Bxor);
        let (x, y) = if commutes && self.constant(x).is_some() { (y, x) } else { (x, y) };
        let constant = self.constant(y);
        match opcode {
            Opcode::Iadd => {
                let result = self.f.dfg.first_result(inst);
                let address = self.address(result, 0)?;
                self.put(Inst::new(rows::LEA, width).def(to).mem(address));
            }
            Opcode::Isub => self.change(rows::SUB, width, to, [x, y])?,
            Opcode::Imul => match (constant, self.small(y)) {
                (Some(k), _) if k > 0 && k.count_ones() == 1 => {
                    self.shift(SHL, width, to, x, k.trailing_zeros() as u8)?;
                }
                (_, Some(k)) => {
                    let x = self.reg(x)?;
                    self.put(Inst::new(rows::IMUL_IMM, width).def(to).rm(x).imm32(k));
                }
                _ => self.change(rows::IMUL, width, to, [x, y])?,
            },
            Opcode::Band | Opcode::Bor | Opcode::Bxor => match (opcode, self.small(y)) {
                (_, Some(k)) => {
                    let digit = match opcode {
                        Opcode::Band => AND,
                        Opcode::Bor => 1,
                        _ => 6,
                    };
                    let x = self.reg(x)?;
                    self.put(Inst::new(rows::ALU_IMM, width).digit(digit).change_rm(to, x).imm32(k));
                }
                (Opcode::Band, _) => self.change(rows::AND, width, to, [x, y])?,
                (Opcode::Bor, _) => self.change(rows::OR, width, to, [x, y])?,
                _ => self.change(rows::XOR, width, to, [x, y])?,
            },
            Opcode::Ishl | Opcode::Ushr | Opcode::Sshr if ty.bits() >= 32 => {
                let digit = match opcode {
                    Opcode::Ishl => SHL,
                    Opcode::Ushr => SHR,
                    _ => SAR,
                };
                let Some(n) = constant else { return self.refuse(inst) };
                self.shift(digit, width, to, x, (n & i64::from(ty.bits() - 1)) as u8)?;
            }
            Opcode::Udiv | Opcode::Urem if ty.bits() >= 32 => match constant {
                Some(k) if k > 0 && k.count_ones() == 1 && k <= 1 << 30 => {
                    if opcode == Opcode::Udiv {
                        self.shift(SHR, width, to, x, k.trailing_zeros() as u8)?;
                    } else {
                        let x = self.reg(x)?;
                        self.put(Inst::new(rows::ALU_IMM, width).digit(AND).change_rm(to, x).imm32((k - 1) as i32));
                    }
                }
                _ => {
                    let (x, y) = (self.reg(x)?, self.reg(y)?);
                    let zero = self.immediate(0, ty);
                    let other = self.fresh(INT);
                    let (quotient, remainder) = if opcode == Opcode::Udiv { (to, other) } else { (other, to) };
                    let [rax, rdx] = [RAX, RDX].map(|r| PReg::new(r, INT));
                    let divide = Inst::new(rows::UNARY, width).digit(DIV).rm(y);
                    let divide = divide.implied_use(x, rax).implied_use(zero, rdx);
                    self.put(divide.implied_def(quotient, rax).implied_def(remainder, rdx));
                }
            },
            _ => return self.refuse(inst),
        }
        Ok(())
    }

    fn integer_unary(&mut self, inst: ir::Inst, opcode: Opcode, arg: Value, to: VReg, ty: Type) -> Result<(), String> {
        let width = int_width(ty);
        let from = self.ty(arg);
        match opcode {
            Opcode::Ineg | Opcode::Bnot => {
                let x = self.reg(arg)?;
                let digit = if opcode == Opcode::Ineg { NEG } else { NOT };
                self.put(Inst::new(rows::UNARY, width).digit(digit).change_rm(to, x));
            }
            // All ones or zeros.
            Opcode::Bmask => self.ones_if(arg, to)?,
            Opcode::Uextend | Opcode::Sextend if class(from) == INT => {
                let x = self.reg(arg)?;
                let signed = opcode == Opcode::Sextend;
                let (row, width) = match (from, signed) {
                    (types::I8, false) => (rows::MOVZX8, Width::W32),
                    (types::I16, false) => (rows::MOVZX16, Width::W32),
                    (types::I8, true) => (rows::MOVSX8, width),
                    (types::I16, true) => (rows::MOVSX16, width),
                    // A move of 32 bits clears the others.
                    (_, false) => (rows::MOV, Width::W32),
                    (_, true) => (rows::MOVSXD, Width::W64),
                };
                self.put(Inst::new(row, width).def(to).rm(x));
            }
            Opcode::Ireduce => {
                let x = self.reg(arg)?;
                self.put(Inst::new(rows::MOV, Width::W32).def(to).rm(x));
            }
            Opcode::Bitcast => {
                let x = self.reg(arg)?;
                let row = if ty.bits() == 64 { rows::MOVQ_TO } else { rows::MOVD_TO };
                self.put(Inst::new(row, Width::V128).reg(x).rm_def(to));
            }
            _ => return self.refuse(inst),
        }
        Ok(())
    }

    /// A result that takes the place of its first operand.
    fn change(&mut self, row: Row, width: Width, to: VReg, [x, y]: [Value; 2]) -> Result<(), String> {
        let (x, y) = (self.reg(x)?, self.reg(y)?);
        self.put(Inst::new(row, width).change(to, x).rm(y));
        Ok(())
    }

    fn shift(&mut self, digit: u8, width: Width, to: VReg, x: Value, by: u8) -> Result<(), String> {
        let x = self.reg(x)?;
        self.put(Inst::new(rows::SHIFT, width).digit(digit).change_rm(to, x).imm8(by));
        Ok(())
    }

    fn set(&mut self, code: u8, to: VReg) {
        let byte = self.fresh(INT);
        self.put(Inst::new(rows::set(code), Width::W8).rm_def(byte));
        self.put(Inst::new(rows::MOVZX8, Width::W32).def(to).rm(byte));
    }

    /// All ones if a `bool` holds, else all zeros, in 64 bits.
    pub fn ones_if(&mut self, c: Value, to: VReg) -> Result<(), String> {
        let (x, wide, negative) = (self.reg(c)?, self.fresh(INT), self.fresh(INT));
        let row = if self.ty(c) == types::I8 { rows::MOVZX8 } else { rows::MOV };
        self.put(Inst::new(row, Width::W32).def(wide).rm(x));
        self.put(Inst::new(rows::UNARY, Width::W64).digit(NEG).change_rm(negative, wide));
        // The negation borrowed unless it was of 0.
        self.put(Inst::new(rows::SBB, Width::W64).change(to, negative).rm(negative));
        Ok(())
    }

    /// Compares integers; the condition code that tells the result.
    fn compare(&mut self, cc: IntCC, [x, y]: [Value; 2]) -> Result<u8, String> {
        let ty = self.ty(x);
        let (cc, x, y) = if self.constant(x).is_some() { (cc.swap_args(), y, x) } else { (cc, x, y) };
        if ty.bits() < 32 {
            return Err(format!("a comparison of {ty}"));
        }
        let width = int_width(ty);
        let a = self.reg(x)?;
        match self.small(y) {
            Some(k) => self.put(Inst::new(rows::ALU_IMM, width).digit(CMP).rm(a).imm32(k)),
            None => match self.source(y)? {
                Source::Mem(address) => self.put(Inst::new(rows::CMP, width).reg(a).mem(address)),
                Source::Reg(b) => self.put(Inst::new(rows::CMP, width).reg(a).rm(b)),
                Source::Const(_) => return Err("a comparison with a vector".into()),
            },
        }
        Ok(condition(cc))
    }

    /// Sets the flags by a `bool`; the condition code that tells whether it holds.
    pub fn condition(&mut self, c: Value) -> Result<u8, String> {
        if let Some(InstructionData::IntCompare { cond, args, .. }) = self.data(c)
            && self.ty(args[0]).bits() >= 32
        {
            return self.compare(cond, args);
        }
        let x = self.reg(c)?;
        let (row, width) =
            if self.ty(c) == types::I8 { (rows::TEST8, Width::W8) } else { (rows::TEST, int_width(self.ty(c))) };
        self.put(Inst::new(row, width).reg(x).rm(x));
        Ok(condition(IntCC::NotEqual))
    }
}
