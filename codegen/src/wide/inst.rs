//! Machine code before registers are chosen: instructions over virtual registers, in blocks.

use regalloc2::{Block, Operand, OperandConstraint, OperandKind, OperandPos, PReg, RegClass, VReg};

use super::encode::{Imm, Row, Width};

/// The class of integers and addresses.
pub const INT: RegClass = RegClass::Int;
/// The class of floats and vectors.
pub const VEC: RegClass = RegClass::Float;
/// The class of mask registers.
pub const MASK: RegClass = RegClass::Vector;

/// A register field of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Nothing, or a digit that belongs to the opcode.
    Fixed(u8),
    /// The operand of this number.
    Operand(u8),
}

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Base.
    pub base: VReg,
    /// Index and the logarithm of its scale.
    pub index: Option<(VReg, u8)>,
    /// Displacement.
    pub disp: i32,
}

/// A source that need not be a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A register.
    Reg(VReg),
    /// Memory.
    Mem(Address),
    /// A 32-bit constant, in all lanes where they are several.
    Const(u32),
}

/// The field that may be memory, once operands have numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rm {
    /// A register.
    Reg(Field),
    /// Memory.
    Mem {
        /// Operand that is the base.
        base: u8,
        /// Operand that is the index, and the logarithm of its scale.
        index: Option<(u8, u8)>,
        /// Displacement.
        disp: i32,
    },
    /// A place of the stack frame, from its explicit slots on.
    Frame(u32),
    /// A constant beside the code: 32 bits, in as many copies or broadcast.
    Const {
        /// The bits.
        bits: u32,
        /// How many lanes the instruction reads.
        lanes: u8,
        /// Whether it reads one and broadcasts it.
        broadcast: bool,
    },
    /// A 64-bit constant beside the code.
    Const64(u64),
}

/// The last byte or word of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// An immediate, or nothing.
    Imm(Imm),
    /// The register of this operand, in the upper half of a byte.
    Operand(u8),
}

/// An instruction.
#[derive(Clone, Debug)]
pub struct Inst {
    /// What it does.
    pub op: Op,
    /// Its virtual registers.
    pub operands: Vec<Operand>,
}

/// An instruction of the machine, its registers given as operands.
#[derive(Clone, Copy, Debug)]
pub struct Fields {
    /// Its row.
    pub row: Row,
    /// Its width.
    pub width: Width,
    /// ModRM's register.
    pub reg: Field,
    /// The extra register.
    pub vvvv: Field,
    /// ModRM's other operand.
    pub rm: Rm,
    /// The mask.
    pub mask: Field,
    /// What follows.
    pub last: Last,
}

/// What an instruction does.
#[derive(Clone, Debug)]
pub enum Op {
    /// An instruction of the machine.
    Machine(Fields),
    /// The function's parameters come to be.
    Params,
    /// To the block's only successor, with arguments.
    Jump(Vec<VReg>),
    /// To the first successor if the condition code holds, else to the second.
    Branch(u8),
    /// Back to the caller.
    Return,
}

impl Inst {
    /// An instruction of the machine without operands yet.
    pub fn new(row: Row, width: Width) -> Inst {
        let none = Field::Fixed(0);
        let last = Last::Imm(Imm::None);
        let op = Op::Machine(Fields { row, width, reg: none, vvvv: none, rm: Rm::Reg(none), mask: none, last });
        Inst { op, operands: Vec::new() }
    }

    fn operand(&mut self, v: VReg, constraint: OperandConstraint, kind: OperandKind, pos: OperandPos) -> u8 {
        self.operands.push(Operand::new(v, constraint, kind, pos));
        (self.operands.len() - 1) as u8
    }

    fn used(&mut self, v: VReg) -> u8 {
        self.operand(v, OperandConstraint::Reg, OperandKind::Use, OperandPos::Early)
    }

    /// Number of a new operand that is written.
    fn defined(&mut self, v: VReg) -> u8 {
        self.operand(v, OperandConstraint::Reg, OperandKind::Def, OperandPos::Late)
    }

    fn set(mut self, f: impl FnOnce(&mut Fields)) -> Inst {
        if let Op::Machine(fields) = &mut self.op {
            f(fields);
        }
        self
    }

    /// ModRM's register is written.
    pub fn def(mut self, v: VReg) -> Inst {
        let i = self.defined(v);
        self.set(|f| f.reg = Field::Operand(i))
    }

    /// ModRM's register is read.
    pub fn reg(mut self, v: VReg) -> Inst {
        let i = self.used(v);
        self.set(|f| f.reg = Field::Operand(i))
    }

    /// ModRM's register is read as `input` and written as `v`.
    pub fn change(mut self, v: VReg, input: VReg) -> Inst {
        let i = self.used(input);
        let i = self.operand(v, OperandConstraint::Reuse(i.into()), OperandKind::Def, OperandPos::Late);
        self.set(|f| f.reg = Field::Operand(i))
    }

    /// ModRM's other operand is read as `input` and written as `v`.
    pub fn change_rm(mut self, v: VReg, input: VReg) -> Inst {
        let i = self.used(input);
        let i = self.operand(v, OperandConstraint::Reuse(i.into()), OperandKind::Def, OperandPos::Late);
        self.set(|f| f.rm = Rm::Reg(Field::Operand(i)))
    }

    /// A digit that belongs to the opcode.
    pub fn digit(self, digit: u8) -> Inst {
        self.set(|f| f.reg = Field::Fixed(digit))
    }

    /// The extra register is read.
    pub fn vvvv(mut self, v: VReg) -> Inst {
        let i = self.used(v);
        self.set(|f| f.vvvv = Field::Operand(i))
    }

    /// The extra register is written.
    pub fn vvvv_def(mut self, v: VReg) -> Inst {
        let i = self.defined(v);
        self.set(|f| f.vvvv = Field::Operand(i))
    }

    /// ModRM's other operand is a register that is written.
    pub fn rm_def(mut self, v: VReg) -> Inst {
        let i = self.defined(v);
        self.set(|f| f.rm = Rm::Reg(Field::Operand(i)))
    }

    /// ModRM's other operand is a register that is read.
    pub fn rm(mut self, v: VReg) -> Inst {
        let i = self.used(v);
        self.set(|f| f.rm = Rm::Reg(Field::Operand(i)))
    }

    /// ModRM's other operand is memory.
    pub fn mem(mut self, a: Address) -> Inst {
        let base = self.used(a.base);
        let index = a.index.map(|(v, scale)| (self.used(v), scale));
        self.set(|f| f.rm = Rm::Mem { base, index, disp: a.disp })
    }

    /// ModRM's other operand as it is.
    pub fn place(self, place: Rm) -> Inst {
        self.set(|f| f.rm = place)
    }

    /// Lanes are chosen by a mask register.
    pub fn mask(mut self, v: VReg) -> Inst {
        let i = self.used(v);
        self.set(|f| f.mask = Field::Operand(i))
    }

    /// A byte follows.
    pub fn imm8(self, imm: u8) -> Inst {
        self.set(|f| f.last = Last::Imm(Imm::Byte(imm)))
    }

    /// Four bytes follow.
    pub fn imm32(self, imm: i32) -> Inst {
        self.set(|f| f.last = Last::Imm(Imm::Dword(imm)))
    }

    /// A fourth register follows.
    pub fn last(mut self, v: VReg) -> Inst {
        let i = self.used(v);
        self.set(|f| f.last = Last::Operand(i))
    }

    /// Another register is read, one that the opcode implies.
    pub fn implied_use(mut self, v: VReg, at: PReg) -> Inst {
        self.operand(v, OperandConstraint::FixedReg(at), OperandKind::Use, OperandPos::Early);
        self
    }

    /// Another register is written, one that the opcode implies.
    pub fn implied_def(mut self, v: VReg, at: PReg) -> Inst {
        self.operand(v, OperandConstraint::FixedReg(at), OperandKind::Def, OperandPos::Late);
        self
    }
}

/// A function over virtual registers.
#[derive(Debug, Default)]
pub struct Code {
    /// Instructions, block after block.
    pub insts: Vec<Inst>,
    /// The blocks, the entry first, in the order they are to lie.
    pub blocks: Vec<CodeBlock>,
    /// Number of virtual registers.
    pub vregs: usize,
    /// Bytes of explicit slots on the stack.
    pub frame: u32,
}

/// A block.
#[derive(Debug, Default)]
pub struct CodeBlock {
    /// First and last but one of its instructions.
    pub insts: (usize, usize),
    /// Parameters.
    pub params: Vec<VReg>,
    /// Successors.
    pub succs: Vec<Block>,
    /// Predecessors.
    pub preds: Vec<Block>,
}
