//! From CLIF to instructions over virtual registers: the order of blocks, what is used and what is folded, addresses.
//! Blocks are gone through from the last to the first, and so are their instructions: when one is reached, all its users
//! have said whether they want its result in a register.

use std::collections::HashMap;

use cranelift_codegen::ir::{self, Function, InstructionData, Opcode, Type, Value, ValueDef, condcodes::IntCC, types};
use regalloc2::{Block as Target, PReg, RegClass, VReg};

use super::Isa;
use super::encode::Width;
use super::inst::{Address, Code, CodeBlock, INT, Inst, MASK, Op, Rm, Source, VEC};
use super::rows;

/// The registers of integer parameters, in order: System V.
const PARAMS: [usize; 6] = [7, 6, 2, 1, 8, 9];

/// A block on the way: one of the function's, or one on an edge between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Node {
    Block(ir::Block),
    /// The edge from a block to its successor of this number.
    Edge(ir::Block, usize),
}

/// The choice of instructions while it goes on.
pub struct Select<'f> {
    pub f: &'f Function,
    pub isa: Isa,
    vregs: usize,
    /// Registers of values that are wanted in one.
    wanted: HashMap<Value, VReg>,
    /// Mask registers of comparisons that are wanted in one.
    masks: HashMap<Value, VReg>,
    /// How many operands a value is.
    uses: HashMap<Value, u32>,
    /// Number of stores before each instruction of a block.
    epochs: HashMap<ir::Inst, usize>,
    /// The instruction at hand.
    at: Option<ir::Inst>,
    /// Instructions of the instruction at hand, in order.
    seq: Vec<Inst>,
    /// Where explicit stack slots begin.
    slots: HashMap<ir::StackSlot, u32>,
}

/// Chooses instructions.
///
/// # Errors
/// What the function uses and there is no choice for.
pub fn select(f: &Function, isa: Isa) -> Result<Code, String> {
    let mut frame = 0u32;
    let mut slots = HashMap::new();
    for (slot, data) in f.sized_stack_slots.iter() {
        frame = frame.next_multiple_of(8);
        slots.insert(slot, frame);
        frame += data.size;
    }
    let mut s = Select {
        f,
        isa,
        vregs: 0,
        wanted: HashMap::new(),
        masks: HashMap::new(),
        uses: HashMap::new(),
        epochs: HashMap::new(),
        at: None,
        seq: Vec::new(),
        slots,
    };
    s.count();
    let order = s.order()?;
    let number: HashMap<Node, usize> = order.iter().enumerate().map(|(i, n)| (*n, i)).collect();
    let mut lowered = Vec::new();
    for &node in order.iter().rev() {
        lowered.push(s.node(node)?);
    }
    let mut code = Code { vregs: s.vregs, frame, ..Code::default() };
    for (&node, insts) in order.iter().zip(lowered.into_iter().rev()) {
        let first = code.insts.len();
        code.insts.extend(insts);
        let mut block = CodeBlock { insts: (first, code.insts.len()), ..CodeBlock::default() };
        if let Node::Block(b) = node
            && order.first() != Some(&node)
        {
            block.params = f.dfg.block_params(b).iter().map(|p| s.wanted[p]).collect();
        }
        block.succs = s.successors(node)?.iter().map(|n| Target::new(number[n])).collect();
        code.blocks.push(block);
    }
    for i in 0..code.blocks.len() {
        for succ in code.blocks[i].succs.clone() {
            code.blocks[succ.index()].preds.push(Target::new(i));
        }
    }
    Ok(code)
}

impl<'f> Select<'f> {
    /// Counts uses and stores.
    fn count(&mut self) {
        for block in self.f.layout.blocks() {
            let mut stores = 0;
            for inst in self.f.layout.block_insts(block) {
                self.epochs.insert(inst, stores);
                stores += usize::from(self.f.dfg.insts[inst].opcode().can_store());
                for v in self.f.dfg.inst_values(inst) {
                    *self.uses.entry(self.root(v)).or_default() += 1;
                }
            }
        }
    }

    fn terminator(&self, block: ir::Block) -> Result<ir::Inst, String> {
        self.f.layout.last_inst(block).ok_or_else(|| "an empty block".to_string())
    }

    fn successors(&self, node: Node) -> Result<Vec<Node>, String> {
        let pool = &self.f.dfg.value_lists;
        let (Node::Block(block) | Node::Edge(block, _)) = node;
        let inst = self.terminator(block)?;
        Ok(match (node, &self.f.dfg.insts[inst]) {
            (Node::Block(_), InstructionData::Jump { destination, .. }) => vec![Node::Block(destination.block(pool))],
            (Node::Block(b), InstructionData::Brif { .. }) => vec![Node::Edge(b, 0), Node::Edge(b, 1)],
            (Node::Edge(_, i), InstructionData::Brif { blocks, .. }) => vec![Node::Block(blocks[i].block(pool))],
            (_, data) if data.opcode() == Opcode::Return => Vec::new(),
            (_, data) => return Err(format!("{} at the end of a block", data.opcode())),
        })
    }

    /// The blocks in reverse postorder; of a branch the second successor comes last, so that loops stay together.
    fn order(&self) -> Result<Vec<Node>, String> {
        let entry = Node::Block(self.f.layout.entry_block().ok_or("an empty function")?);
        let mut post = Vec::new();
        let mut seen = std::collections::HashSet::from([entry]);
        let mut stack = vec![(entry, self.successors(entry)?)];
        while let Some((node, rest)) = stack.last_mut() {
            match rest.pop() {
                Some(next) if seen.insert(next) => stack.push((next, self.successors(next)?)),
                Some(_) => {}
                None => {
                    post.push(*node);
                    stack.pop();
                }
            }
        }
        post.reverse();
        Ok(post)
    }

    /// The instructions of a block, in order.
    fn node(&mut self, node: Node) -> Result<Vec<Inst>, String> {
        let mut reversed = Vec::new();
        let mut take = |s: &mut Self| reversed.extend(std::mem::take(&mut s.seq).into_iter().rev());
        match node {
            Node::Edge(block, i) => {
                let inst = self.terminator(block)?;
                self.at = None;
                if let InstructionData::Brif { blocks, .. } = &self.f.dfg.insts[inst] {
                    self.jump(blocks[i])?;
                }
                take(self);
            }
            Node::Block(block) => {
                let insts: Vec<_> = self.f.layout.block_insts(block).collect();
                for &inst in insts.iter().rev() {
                    self.at = Some(inst);
                    self.inst(inst)?;
                    take(self);
                }
                let params = self.f.dfg.block_params(block);
                let regs: Vec<VReg> = params.iter().map(|&p| self.register(p)).collect();
                if Some(block) == self.f.layout.entry_block() {
                    let mut arrive = Inst { op: Op::Params, operands: Vec::new() };
                    for (&v, r) in regs.iter().zip(PARAMS) {
                        arrive = arrive.implied_def(v, PReg::new(r, INT));
                    }
                    if regs.len() > PARAMS.len() {
                        return Err("parameters on the stack".into());
                    }
                    reversed.push(arrive);
                }
            }
        }
        reversed.reverse();
        Ok(reversed)
    }

    fn jump(&mut self, to: ir::BlockCall) -> Result<(), String> {
        let mut args = Vec::new();
        for arg in to.args(&self.f.dfg.value_lists) {
            let Some(v) = arg.as_value() else { return Err("an argument that is no value".into()) };
            args.push(self.reg(v)?);
        }
        self.put(Inst { op: Op::Jump(args), operands: Vec::new() });
        Ok(())
    }

    /// Instructions for an instruction, if anybody wants its result.
    fn inst(&mut self, inst: ir::Inst) -> Result<(), String> {
        let data = self.f.dfg.insts[inst];
        match data {
            InstructionData::Jump { destination, .. } => return self.jump(destination),
            InstructionData::Brif { arg, .. } => {
                let condition = self.condition(arg)?;
                self.put(Inst { op: Op::Branch(condition), operands: Vec::new() });
                return Ok(());
            }
            InstructionData::MultiAry { opcode: Opcode::Return, .. } => {
                if !self.f.dfg.inst_args(inst).is_empty() {
                    return Err("a result".into());
                }
                self.put(Inst { op: Op::Return, operands: Vec::new() });
                return Ok(());
            }
            InstructionData::Store { opcode: Opcode::Store, args: [x, to], offset, .. } => {
                return self.store(x, to, offset.into());
            }
            _ => {}
        }
        let result = match self.f.dfg.inst_results(inst) {
            [result] => *result,
            _ => return Err(format!("{}", data.opcode())),
        };
        if self.root(result) != result {
            return Ok(());
        }
        if let Some(&mask) = self.masks.get(&result) {
            self.compare_to_mask(inst, mask)?;
        }
        let Some(&to) = self.wanted.get(&result) else { return Ok(()) };
        let ty = self.f.dfg.value_type(result);
        if let Some(&mask) = self.masks.get(&result) {
            return self.mask_to(mask, to, ty);
        }
        if class(ty) == INT { self.integer(inst, to, ty) } else { self.vector(inst, to, ty) }
    }

    /// The error for an instruction there is no choice for.
    pub fn refuse<T>(&self, inst: ir::Inst) -> Result<T, String> {
        let of = self.f.dfg.inst_values(inst).next().map(|v| self.f.dfg.value_type(v).to_string());
        let result = self.f.dfg.inst_results(inst).first().map(|&v| self.f.dfg.value_type(v).to_string());
        let opcode = self.f.dfg.insts[inst].opcode();
        Err(format!("{opcode} of {} to {}", of.unwrap_or_default(), result.unwrap_or_default()))
    }

    /// Appends an instruction.
    pub fn put(&mut self, inst: Inst) {
        self.seq.push(inst);
    }

    /// A new register.
    pub fn fresh(&mut self, class: RegClass) -> VReg {
        self.vregs += 1;
        VReg::new(self.vregs - 1, class)
    }

    /// The instruction whose result a value is, behind casts.
    pub fn def(&self, v: Value) -> Option<ir::Inst> {
        match self.f.dfg.value_def(self.root(v)) {
            ValueDef::Result(inst, _) => Some(inst),
            _ => None,
        }
    }

    /// The data of the instruction whose result a value is.
    pub fn data(&self, v: Value) -> Option<InstructionData> {
        self.def(v).map(|inst| self.f.dfg.insts[inst])
    }

    /// The value that this one is another view of: casts between types of one class change nothing.
    pub fn root(&self, mut v: Value) -> Value {
        while let ValueDef::Result(inst, _) = self.f.dfg.value_def(v) {
            let arg = match self.f.dfg.insts[inst] {
                InstructionData::LoadNoOffset { opcode: Opcode::Bitcast, arg, .. }
                | InstructionData::Unary { opcode: Opcode::Bitcast, arg } => arg,
                _ => break,
            };
            if class(self.ty(arg)) != class(self.ty(v)) {
                break;
            }
            v = arg;
        }
        v
    }

    /// Type of a value.
    pub fn ty(&self, v: Value) -> Type {
        self.f.dfg.value_type(v)
    }

    /// An integer constant.
    pub fn constant(&self, v: Value) -> Option<i64> {
        match self.data(v)? {
            InstructionData::UnaryImm { opcode: Opcode::Iconst, imm } => Some(imm.bits()),
            InstructionData::Unary { opcode: Opcode::Splat, arg } => self.constant(arg),
            _ => None,
        }
    }

    /// An integer constant that fits an immediate operand.
    pub fn small(&self, v: Value) -> Option<i32> {
        let k = self.constant(v)?;
        match self.ty(v) {
            types::I64 => i32::try_from(k).ok(),
            _ => Some(k as i32),
        }
    }

    /// The 32 bits of every lane of a constant.
    pub fn bits(&self, v: Value) -> Option<u32> {
        let mut v = v;
        loop {
            if self.ty(v).lane_bits() != 32 {
                return None;
            }
            v = match self.data(v)? {
                InstructionData::UnaryImm { opcode: Opcode::Iconst, imm } => return Some(imm.bits() as u32),
                InstructionData::UnaryIeee32 { imm, .. } => return Some(imm.bits()),
                InstructionData::Unary { opcode: Opcode::Splat | Opcode::Bitcast, arg }
                | InstructionData::LoadNoOffset { opcode: Opcode::Bitcast, arg, .. } => arg,
                _ => return None,
            };
        }
    }

    fn register(&mut self, v: Value) -> VReg {
        let v = self.root(v);
        if let Some(&r) = self.wanted.get(&v) {
            return r;
        }
        let r = self.fresh(class(self.ty(v)));
        self.wanted.insert(v, r);
        r
    }

    /// A value in a register. Constants are made where they are used: keeping them would crowd out all else.
    pub fn reg(&mut self, v: Value) -> Result<VReg, String> {
        let ty = self.ty(v);
        if class(ty) == VEC {
            if let Some(bits) = self.bits(v) {
                return Ok(self.lanes_of(bits, ty));
            }
            if let Some(InstructionData::UnaryIeee64 { imm, .. }) = self.data(v) {
                let r = self.fresh(VEC);
                self.put(Inst::new(rows::LOAD_SD, Width::V128).def(r).place(Rm::Const64(imm.bits())));
                return Ok(r);
            }
        } else if let Some(k) = self.constant(v) {
            return Ok(self.immediate(k, ty));
        }
        Ok(self.register(v))
    }

    /// A register with these bits in every lane of a type.
    pub fn lanes_of(&mut self, bits: u32, ty: Type) -> VReg {
        let r = self.fresh(VEC);
        let row = if ty.is_vector() { rows::BROADCAST } else { rows::LOAD_SS };
        self.put(Inst::new(row, width(ty)).def(r).place(Rm::Const { bits, lanes: 1, broadcast: false }));
        r
    }

    /// An integer constant in a register.
    pub fn immediate(&mut self, k: i64, ty: Type) -> VReg {
        let r = self.fresh(INT);
        let inst = match i32::try_from(k) {
            _ if ty.bits() < 64 => Inst::new(rows::MOV_IMM, Width::W32).rm_def(r).imm32(k as i32),
            Ok(k) => Inst::new(rows::MOV_IMM, Width::W64).rm_def(r).imm32(k),
            Err(_) => Inst::new(rows::MOV, Width::W64).def(r).place(Rm::Const64(k as u64)),
        };
        self.put(inst);
        r
    }

    /// A mask register for a vector or scalar comparison of floats or of vectors' integers.
    pub fn mask(&mut self, v: Value) -> Option<VReg> {
        let v = self.root(v);
        if self.isa != Isa::Avx512 {
            return None;
        }
        let compares = match self.data(v)? {
            InstructionData::FloatCompare { .. } => true,
            InstructionData::IntCompare { .. } => self.ty(v).is_vector(),
            _ => false,
        };
        if !compares {
            return None;
        }
        if let Some(&r) = self.masks.get(&v) {
            return Some(r);
        }
        let r = self.fresh(MASK);
        self.masks.insert(v, r);
        Some(r)
    }

    /// Whether no user of a value comes after the instruction at hand, as far as its block tells.
    pub fn dies(&self, v: Value) -> bool {
        let v = self.root(v);
        if self.wanted.contains_key(&v) {
            return false;
        }
        let Some(at) = self.at else { return false };
        let block = match self.f.dfg.value_def(v) {
            ValueDef::Result(inst, _) => self.f.layout.inst_block(inst),
            ValueDef::Param(block, _) => Some(block),
            ValueDef::Union(..) => None,
        };
        block.is_some() && block == self.f.layout.inst_block(at)
    }

    /// Whether a value is computed in the block of the instruction at hand.
    fn is_here(&self, v: Value) -> bool {
        let here = self.at.and_then(|at| self.f.layout.inst_block(at));
        here.is_some() && self.def(v).and_then(|inst| self.f.layout.inst_block(inst)) == here
    }

    /// Whether nobody else uses a value.
    pub fn alone(&self, v: Value) -> bool {
        self.uses.get(&self.root(v)) == Some(&1)
    }

    /// Whether a value needs no register as the operand that may be memory: a constant, or a load that only the
    /// instruction at hand wants, and no store between.
    pub fn folds(&self, v: Value) -> bool {
        if class(self.ty(v)) == VEC && self.bits(v).is_some() {
            return true;
        }
        let (root, at) = (self.root(v), self.at);
        matches!(self.data(root), Some(InstructionData::Load { opcode: Opcode::Load, .. }))
            && self.alone(root)
            && self.ty(root).bits() == self.ty(v).bits()
            && self.is_here(root)
            && at.and_then(|at| self.epochs.get(&at)) == self.def(root).and_then(|inst| self.epochs.get(&inst))
    }

    /// A value as the operand that may be memory.
    pub fn source(&mut self, v: Value) -> Result<Source, String> {
        if self.folds(v) {
            if let Some(bits) = self.bits(v) {
                return Ok(Source::Const(bits));
            }
            if let Some(InstructionData::Load { arg, offset, .. }) = self.data(v) {
                return Ok(Source::Mem(self.address(arg, offset.into())?));
            }
        }
        Ok(Source::Reg(self.reg(v)?))
    }

    /// `v * scale` as a summand of an address: what is scaled and the logarithm.
    fn scaled(&self, v: Value) -> Option<(Value, u8)> {
        let Some(InstructionData::Binary { opcode, args: [x, k] }) = self.data(v).filter(|_| self.is_here(v)) else {
            return None;
        };
        match (opcode, self.constant(k)?) {
            (Opcode::Imul, 1 | 2 | 4 | 8) => Some((x, self.constant(k)?.trailing_zeros() as u8)),
            (Opcode::Ishl, n @ 0..=3) => Some((x, n as u8)),
            _ => None,
        }
    }

    /// The address `v + offset`, what is added in this block folded into it.
    pub fn address(&mut self, v: Value, offset: i32) -> Result<Address, String> {
        let Some(InstructionData::Binary { opcode: Opcode::Iadd, args: [x, y] }) =
            self.data(v).filter(|_| self.is_here(v))
        else {
            return Ok(Address { base: self.reg(v)?, index: None, disp: offset });
        };
        for (x, y) in [(x, y), (y, x)] {
            if let Some(disp) = self.small(y).and_then(|k| k.checked_add(offset)) {
                return Ok(Address { base: self.reg(x)?, index: None, disp });
            }
        }
        for (x, y) in [(x, y), (y, x)] {
            if let Some((i, scale)) = self.scaled(y) {
                return Ok(Address { base: self.reg(x)?, index: Some((self.reg(i)?, scale)), disp: offset });
            }
        }
        Ok(Address { base: self.reg(x)?, index: Some((self.reg(y)?, 0)), disp: offset })
    }

    /// Address of a stack slot into a register.
    pub fn slot_address(&mut self, slot: ir::StackSlot, offset: i32, to: VReg) -> Result<(), String> {
        let start = self.slots.get(&slot).and_then(|s| s.checked_add_signed(offset));
        let start = start.ok_or("a stack slot that is not there")?;
        self.put(Inst::new(rows::LEA, Width::W64).def(to).place(Rm::Frame(start)));
        Ok(())
    }
}

/// The class of registers for a type.
pub fn class(ty: Type) -> RegClass {
    if ty.is_int() && ty.bits() <= 64 && !ty.is_vector() { INT } else { VEC }
}

/// The width of a vector register that holds a type.
pub fn width(ty: Type) -> Width {
    match ty.bits() {
        512 => Width::V512,
        256 => Width::V256,
        _ => Width::V128,
    }
}

/// The width of an operation on integers of a type; narrow ones are computed in 32 bits.
pub fn int_width(ty: Type) -> Width {
    if ty == types::I64 { Width::W64 } else { Width::W32 }
}

/// The condition code of a comparison.
pub fn condition(cc: IntCC) -> u8 {
    match cc {
        IntCC::UnsignedLessThan => 2,
        IntCC::UnsignedGreaterThanOrEqual => 3,
        IntCC::Equal => 4,
        IntCC::NotEqual => 5,
        IntCC::UnsignedLessThanOrEqual => 6,
        IntCC::UnsignedGreaterThan => 7,
        IntCC::SignedLessThan => 12,
        IntCC::SignedGreaterThanOrEqual => 13,
        IntCC::SignedLessThanOrEqual => 14,
        IntCC::SignedGreaterThan => 15,
    }
}
