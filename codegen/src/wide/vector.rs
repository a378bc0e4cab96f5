//! Instructions for vectors and for floats, which are vectors of one lane.

use cranelift_codegen::ir::{self, InstructionData, Opcode, Type, Value, types};
use regalloc2::VReg;

use super::Isa;
use super::choice::{GREATER_OR_EQUAL, ORDERED};
use super::encode::{Row, Width};
use super::inst::{INT, Inst, Rm, Source, VEC};
use super::rows::{self, Float};
use super::select::{Select, class, width};

/// The sign bit.
const SIGN: u32 = 0x8000_0000;
/// All bits.
pub const ONES: u32 = u32::MAX;
/// Digits of [`rows::PSHIFT`].
const SHL: u8 = 6;
const SHR: u8 = 2;
const SAR: u8 = 4;
/// Which instructions compute on a type.
pub fn float(ty: Type) -> Float {
    match ty {
        types::F32 => Float::Ss,
        types::F64 => Float::Sd,
        _ => Float::Ps,
    }
}

/// The width of an operation and the 32-bit lanes a constant of it has.
#[derive(Clone, Copy)]
pub struct Shape {
    /// The width.
    pub width: Width,
    /// The lanes.
    pub lanes: u8,
}

/// The shape of a type.
pub fn shape(ty: Type) -> Shape {
    Shape { width: width(ty), lanes: ty.lane_count() as u8 }
}

impl Select<'_> {
    /// An instruction with a source in the field that may be memory.
    pub fn from(&self, inst: Inst, source: Source, shape: Shape) -> Inst {
        match source {
            Source::Reg(v) => inst.rm(v),
            Source::Mem(address) => inst.mem(address),
            Source::Const(bits) => {
                let broadcast = self.isa == Isa::Avx512 && shape.lanes > 1;
                inst.place(Rm::Const { bits, lanes: shape.lanes, broadcast })
            }
        }
    }

    /// `to = a op b`
    pub fn three(&mut self, row: Row, shape: Shape, to: VReg, a: VReg, b: Source) {
        let inst = self.from(Inst::new(row, shape.width).def(to).vvvv(a), b, shape);
        self.put(inst);
    }

    /// `a op b` of values.
    pub fn operate(&mut self, row: Row, to: VReg, [a, b]: [Value; 2], commutes: bool) -> Result<(), String> {
        let shape = shape(self.ty(a));
        let (a, b) = if commutes && self.folds(a) && !self.folds(b) { (b, a) } else { (a, b) };
        let (a, b) = (self.reg(a)?, self.source(b)?);
        self.three(row, shape, to, a, b);
        Ok(())
    }

    /// `op x`
    pub fn two(&mut self, row: Row, shape: Shape, to: VReg, x: Source) {
        let inst = self.from(Inst::new(row, shape.width).def(to), x, shape);
        self.put(inst);
    }

    /// An instruction whose result is a float or a vector.
    pub fn vector(&mut self, inst: ir::Inst, to: VReg, ty: Type) -> Result<(), String> {
        match self.f.dfg.insts[inst] {
            InstructionData::Load { opcode: Opcode::Load, arg, offset, .. } => {
                let address = self.address(arg, offset.into())?;
                let row = match (ty, ty.bits()) {
                    (types::F64, _) => rows::LOAD_SD,
                    (types::F32, _) => rows::LOAD_SS,
                    (_, 32) => rows::MOVD,
                    (_, 64) => rows::MOVQ,
                    _ => rows::LOAD,
                };
                self.put(Inst::new(row, width(ty)).def(to).mem(address));
                Ok(())
            }
            InstructionData::Unary { opcode, arg } => self.vector_unary(inst, opcode, arg, to, ty),
            InstructionData::LoadNoOffset { opcode: Opcode::Bitcast, arg, .. } if class(self.ty(arg)) == INT => {
                let x = self.reg(arg)?;
                let row = if ty.bits() == 64 { rows::MOVQ } else { rows::MOVD };
                self.put(Inst::new(row, Width::V128).def(to).rm(x));
                Ok(())
            }
            InstructionData::Binary { opcode, args } => self.vector_binary(inst, opcode, args, to, ty),
            InstructionData::Ternary { opcode: Opcode::Fma, args } => self.fma(args, to, ty),
            InstructionData::Ternary { opcode: Opcode::Bitselect, args } => self.bitselect(args, to, ty),
            InstructionData::Ternary { opcode: Opcode::Select, args } => self.select(args, to, ty),
            InstructionData::FloatCompare { .. } | InstructionData::IntCompare { .. } => {
                self.compare_to_vector(inst, to)
            }
            InstructionData::BinaryImm8 { opcode: Opcode::Extractlane, arg, imm } => {
                let x = self.reg(arg)?;
                let from = self.ty(arg);
                match (ty, from.bits(), imm) {
                    (types::F32, 128, 0) | (types::I128, _, 0) => {
                        self.two(rows::MOVE, shape(types::F32), to, Source::Reg(x));
                    }
                    (types::F32, 128, lane) => {
                        self.put(Inst::new(rows::PERMUTE, Width::V128).def(to).rm(x).imm8(lane));
                    }
                    (types::I128, ..) => {
                        self.put(Inst::new(rows::EXTRACT128, width(from)).reg(x).rm_def(to).imm8(imm));
                    }
                    _ => return self.refuse(inst),
                }
                Ok(())
            }
            InstructionData::TernaryImm8 { opcode: Opcode::Insertlane, args: [x, y], imm } if ty.bits() == 128 => {
                let (x, y) = (self.reg(x)?, self.reg(y)?);
                let (row, imm) = match ty.lane_type() {
                    types::F32 => (rows::INSERT, imm << 4),
                    types::I32 => (rows::INSERT_I32, imm),
                    _ => return self.refuse(inst),
                };
                self.put(Inst::new(row, Width::V128).def(to).vvvv(x).rm(y).imm8(imm));
                Ok(())
            }
            _ => self.refuse(inst),
        }
    }

    fn vector_unary(&mut self, inst: ir::Inst, opcode: Opcode, arg: Value, to: VReg, ty: Type) -> Result<(), String> {
        let (from, s) = (self.ty(arg), shape(ty));
        let kind = float(ty);
        let single = ty.lane_bits() == 32;
        let rounding = |mode: u8| (rows::round(kind), mode);
        match opcode {
            Opcode::Splat if from == types::F32 => {
                let x = self.source(arg)?;
                self.two(rows::BROADCAST, s, to, x);
            }
            Opcode::Splat if from == types::I32 => {
                let x = self.reg(arg)?;
                if self.isa == Isa::Avx512 {
                    self.two(rows::BROADCAST_GPR, s, to, Source::Reg(x));
                } else {
                    let low = self.fresh(VEC);
                    self.put(Inst::new(rows::MOVD, Width::V128).def(low).rm(x));
                    self.two(rows::BROADCAST_I32, s, to, Source::Reg(low));
                }
            }
            Opcode::Bitcast if class(from) == INT => {
                let x = self.reg(arg)?;
                let row = if ty.bits() == 64 { rows::MOVQ } else { rows::MOVD };
                self.put(Inst::new(row, Width::V128).def(to).rm(x));
            }
            Opcode::Fneg | Opcode::Fabs if single => {
                let x = self.reg(arg)?;
                let (row, bits) = if opcode == Opcode::Fneg { (rows::XORPS, SIGN) } else { (rows::ANDPS, !SIGN) };
                // A constant operand of these has four lanes at least.
                self.three(row, Shape { lanes: s.lanes.max(4), ..s }, to, x, Source::Const(bits));
            }
            Opcode::Sqrt => {
                if kind == Float::Ps {
                    let x = self.source(arg)?;
                    self.two(rows::sqrt(kind), s, to, x);
                } else {
                    let x = self.reg(arg)?;
                    self.three(rows::sqrt(kind), s, to, x, Source::Reg(x));
                }
            }
            Opcode::Floor | Opcode::Ceil | Opcode::Nearest | Opcode::Trunc => {
                // How to round, and not to tell of inexact results.
                let (row, mode) = match opcode {
                    Opcode::Floor => rounding(9),
                    Opcode::Ceil => rounding(10),
                    Opcode::Nearest => rounding(8),
                    _ => rounding(11),
                };
                let x = self.reg(arg)?;
                let rounded = Inst::new(row, s.width).def(to);
                let rounded = if kind == Float::Ps { rounded } else { rounded.vvvv(x) };
                self.put(rounded.rm(x).imm8(mode));
            }
            Opcode::Fpromote | Opcode::Fdemote => {
                let x = self.reg(arg)?;
                let row = if opcode == Opcode::Fpromote { rows::CVT_SS2SD } else { rows::CVT_SD2SS };
                self.three(row, s, to, x, Source::Reg(x));
            }
            Opcode::FcvtFromSint if ty.is_vector() && single => {
                let x = self.source(arg)?;
                self.two(rows::CVT_I32, s, to, x);
            }
            Opcode::FcvtFromSint if ty == types::F32 && matches!(from, types::I32 | types::I64) => {
                let x = self.reg(arg)?;
                let row = if from == types::I64 { rows::CVT_SI2SS.wide() } else { rows::CVT_SI2SS };
                // The upper lanes are those of whatever register the first one is.
                self.put(Inst::new(row, Width::V128).def(to).rm(x));
            }
            Opcode::FcvtToSintSat if ty.is_vector() && single => {
                let x = self.reg(arg)?;
                let (low, bounded) = (self.fresh(VEC), self.fresh(VEC));
                self.two(rows::CVT_TO_I32, s, low, Source::Reg(x));
                // What is too large has become the least number, as has what is too small, and NaN.
                let limit = Source::Const(2f32.powi(31).to_bits());
                self.where_float(GREATER_OR_EQUAL, [x.into(), limit], Source::Const(!SIGN), low, bounded, s, Float::Ps);
                let zero = self.lanes_of(0, ty);
                self.where_float(ORDERED, [x.into(), x.into()], Source::Reg(bounded), zero, to, s, Float::Ps);
            }
            Opcode::Ineg if single && ty.is_vector() => {
                let x = self.source(arg)?;
                let zero = self.lanes_of(0, ty);
                self.three(rows::PSUB, s, to, zero, x);
            }
            Opcode::Iabs if single && ty.is_vector() => {
                let x = self.source(arg)?;
                self.two(rows::PABS, s, to, x);
            }
            Opcode::Bnot if single && ty.is_vector() => {
                let x = self.reg(arg)?;
                self.three(rows::XORPS, s, to, x, Source::Const(ONES));
            }
            Opcode::Uextend if single && ty.is_vector() => {
                let row = match from.lane_bits() {
                    16 => rows::WIDEN16,
                    8 => rows::WIDEN8,
                    _ => return self.refuse(inst),
                };
                let x = self.source(arg)?;
                self.two(row, s, to, x);
            }
            Opcode::Ireduce if self.isa == Isa::Avx2 && from.lane_bits() == 32 && matches!(ty.lane_bits(), 8 | 16) => {
                let x = self.reg(arg)?;
                let (bits, low) = (ty.lane_bits(), self.fresh(VEC));
                self.three(rows::ANDPS, shape(from), low, x, Source::Const((1 << bits) - 1));
                let mut high = low;
                if from.bits() == 256 {
                    high = self.fresh(VEC);
                    self.put(Inst::new(rows::EXTRACT128, Width::V256).reg(low).rm_def(high).imm8(1));
                }
                let halves = shape(types::I32X4);
                let words = if bits == 8 { self.fresh(VEC) } else { to };
                self.three(rows::PACK16, halves, words, low, Source::Reg(high));
                if bits == 8 {
                    self.three(rows::PACK8, halves, to, words, Source::Reg(words));
                }
            }
            Opcode::Ireduce if self.isa == Isa::Avx512 && from.lane_bits() == 32 && ty.is_vector() => {
                let row = match ty.lane_bits() {
                    16 => rows::NARROW16,
                    8 => rows::NARROW8,
                    _ => return self.refuse(inst),
                };
                let x = self.reg(arg)?;
                self.put(Inst::new(row, width(from)).reg(x).rm_def(to));
            }
            _ => return self.refuse(inst),
        }
        Ok(())
    }

    fn vector_binary(
        &mut self,
        inst: ir::Inst,
        opcode: Opcode,
        args: [Value; 2],
        to: VReg,
        ty: Type,
    ) -> Result<(), String> {
        let kind = float(ty);
        let is_float = ty.lane_type().is_float();
        let words = ty.lane_type() == types::I32;
        match opcode {
            Opcode::Fadd => self.operate(rows::add(kind), to, args, true),
            Opcode::Fsub => self.operate(rows::sub(kind), to, args, false),
            Opcode::Fmul => self.operate(rows::mul(kind), to, args, true),
            Opcode::Fdiv => self.operate(rows::div(kind), to, args, false),
            Opcode::Fmin | Opcode::Fmax if is_float && ty.lane_bits() == 32 => {
                self.extreme(opcode == Opcode::Fmax, args, to, ty)
            }
            Opcode::Iadd if words => self.operate(rows::PADD, to, args, true),
            Opcode::Isub if words => self.operate(rows::PSUB, to, args, false),
            Opcode::Imul if words => self.operate(rows::PMUL, to, args, true),
            Opcode::Band if words => self.operate(rows::ANDPS, to, args, true),
            Opcode::Bxor if words => self.operate(rows::XORPS, to, args, true),
            Opcode::Bor if words => self.or(args, to, ty),
            Opcode::Ishl | Opcode::Ushr | Opcode::Sshr if words => {
                let digit = match opcode {
                    Opcode::Ishl => SHL,
                    Opcode::Ushr => SHR,
                    _ => SAR,
                };
                let Some(n) = self.constant(args[1]) else { return self.refuse(inst) };
                let x = self.reg(args[0])?;
                let shifted = Inst::new(rows::PSHIFT, width(ty)).digit(digit).vvvv_def(to);
                self.put(shifted.rm(x).imm8((n & 31) as u8));
                Ok(())
            }
            _ => self.refuse(inst),
        }
    }

    /// `x | y`; with a conjunction that nobody else wants, in one.
    fn or(&mut self, [x, y]: [Value; 2], to: VReg, ty: Type) -> Result<(), String> {
        if self.isa == Isa::Avx512 {
            for (x, y) in [(x, y), (y, x)] {
                if let Some(InstructionData::Binary { opcode: Opcode::Band, args: [a, b] }) = self.data(y)
                    && self.alone(y)
                {
                    let (x, a, b) = (self.reg(x)?, self.reg(a)?, self.source(b)?);
                    // The table of `x | a & b`.
                    let inst = Inst::new(rows::TERNLOG, width(ty)).change(to, x).vvvv(a);
                    let inst = self.from(inst, b, shape(ty)).imm8(0xf8);
                    self.put(inst);
                    return Ok(());
                }
            }
        }
        self.operate(rows::ORPS, to, [x, y], true)
    }

    /// `a * b + c`, in the place of an operand that nobody wants afterwards, with one in memory where that is possible.
    fn fma(&mut self, [a, b, c]: [Value; 3], to: VReg, ty: Type) -> Result<(), String> {
        let (s, kind) = (shape(ty), float(ty));
        let (a, b) = if self.folds(a) && !self.folds(b) { (b, a) } else { (a, b) };
        // Which of the factors makes room, should one.
        let (a, b) = if self.dies(b) && !self.dies(a) && !self.folds(b) { (b, a) } else { (a, b) };
        let (row, change, vvvv, rm) = if self.folds(c) && !self.folds(b) {
            (rows::fma213(kind), a, b, c)
        } else if self.dies(c) || self.folds(c) || !self.dies(a) {
            (rows::fma231(kind), c, a, b)
        } else {
            (rows::fma132(kind), a, c, b)
        };
        let (change, vvvv, rm) = (self.reg(change)?, self.reg(vvvv)?, self.source(rm)?);
        let inst = self.from(Inst::new(row, s.width).change(to, change).vvvv(vvvv), rm, s);
        self.put(inst);
        Ok(())
    }

    /// A store of any type.
    pub fn store(&mut self, x: Value, at: Value, offset: i32) -> Result<(), String> {
        let ty = self.ty(x);
        let address = self.address(at, offset)?;
        let (row, width) = match (ty, class(ty) == INT, ty.bits()) {
            (types::I8, true, _) => (rows::MOV_TO8, Width::W8),
            (types::I16, true, _) => (rows::MOV_TO, Width::W16),
            (types::I32, true, _) => (rows::MOV_TO, Width::W32),
            (_, true, _) => (rows::MOV_TO, Width::W64),
            (types::F32, ..) => (rows::STORE_SS, Width::V128),
            (types::F64, ..) => (rows::STORE_SD, Width::V128),
            (_, _, 32) => (rows::MOVD_TO, Width::V128),
            (_, _, 64) => (rows::MOVQ_TO, Width::V128),
            _ => (rows::STORE, width(ty)),
        };
        let x = self.reg(x)?;
        self.put(Inst::new(row, width).reg(x).mem(address));
        Ok(())
    }
}

impl From<VReg> for Source {
    fn from(v: VReg) -> Source {
        Source::Reg(v)
    }
}
