//! Bytes of a function whose registers are chosen: prologue, moves between places, jumps, constants behind the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use regalloc2::{Allocation, AllocationKind, Block, Edit, InstOrEdit, Output, RegClass};

use super::allocate::{Allocatable, SAVED};
use super::encode::{Encoded, Imm, Place, Row, Width};
use super::inst::{Code, Field, Fields, Last, Op, Rm, VEC};
use super::{Bytes, Isa, rows};

/// The stack pointer.
const RSP: u8 = 4;
/// Alignment of constants: a vector of AVX2.
const POOL: usize = 32;
/// Alignment of loops: a line of decoded instructions.
const LOOP: usize = 32;

/// A jump whose distance is to be filled in.
struct Jump {
    at: usize,
    to: Block,
}

struct Emitter {
    isa: Isa,
    out: Vec<u8>,
    text: Option<String>,
    /// Bytes of the frame below the explicit slots: those of the allocator.
    spill: u32,
    /// Constants: where they are needed, and where the instruction that needs them ends.
    constants: BTreeMap<Vec<u8>, Vec<(usize, usize)>>,
}

/// The bytes of a function; with `listing`, their text too.
///
/// # Errors
/// When an instruction has no bytes: a mistake in the choice of instructions.
pub fn emit(code: &Code, output: &Output, isa: Isa, listing: bool) -> Result<Bytes, String> {
    let spill = output.num_spillslots as u32 * 8;
    let text = listing.then(String::new);
    let mut e = Emitter { isa, out: Vec::new(), text, spill, constants: BTreeMap::new() };
    let saved = saved(output);
    let frame = (spill + code.frame).next_multiple_of(16) as i32;
    for &r in &saved {
        e.push_pop(0x50, r);
    }
    if frame != 0 {
        e.stack(5, frame)?;
    }
    let targets = threaded(code, output);
    let mut starts = vec![0; code.blocks.len()];
    let mut jumps = Vec::new();
    for (i, block) in code.blocks.iter().enumerate() {
        if targets[i].index() != i {
            continue;
        }
        if block.preds.iter().any(|p| p.index() >= i) {
            e.align(LOOP);
        }
        starts[i] = e.out.len();
        if let Some(text) = &mut e.text {
            let _ = writeln!(text, "block{i}:");
        }
        let next = (i + 1..code.blocks.len()).find(|&b| targets[b].index() == b);
        for step in output.block_insts_and_edits(&Allocatable { code, isa }, Block::new(i)) {
            match step {
                InstOrEdit::Edit(Edit::Move { from, to }) => e.transfer(*from, *to)?,
                InstOrEdit::Inst(inst) => match &code.insts[inst.index()].op {
                    Op::Params => {}
                    Op::Jump(_) => {
                        let to = targets[block.succs[0].index()];
                        if Some(to.index()) != next {
                            jumps.push(e.jump(None, to));
                        }
                    }
                    Op::Branch(condition) => {
                        let [yes, no] = [0, 1].map(|s| targets[block.succs[s].index()]);
                        if Some(yes.index()) == next {
                            jumps.push(e.jump(Some(condition ^ 1), no));
                        } else {
                            jumps.push(e.jump(Some(*condition), yes));
                            if Some(no.index()) != next {
                                jumps.push(e.jump(None, no));
                            }
                        }
                    }
                    Op::Return => {
                        if frame != 0 {
                            e.stack(0, frame)?;
                        }
                        for &r in saved.iter().rev() {
                            e.push_pop(0x58, r);
                        }
                        // Vectors' upper halves are left clean for code that knows of none: vzeroupper, ret.
                        e.out.extend([0xc5, 0xf8, 0x77, 0xc3]);
                        e.line("vzeroupper; ret");
                    }
                    op => e.inst(op, output.inst_allocs(inst))?,
                },
            }
        }
    }
    for Jump { at, to } in jumps {
        e.patch(at, at + 4, starts[to.index()])?;
    }
    e.finish()
}

/// Registers in use that must be left as they were.
fn saved(output: &Output) -> Vec<u8> {
    let mut used = BTreeSet::new();
    let moved = output.edits.iter().flat_map(|(_, Edit::Move { from, to })| [*from, *to]);
    for allocation in output.allocs.iter().copied().chain(moved) {
        if let Some(r) = allocation.as_reg()
            && r.class() == RegClass::Int
        {
            used.insert(r.hw_enc() as u8);
        }
    }
    SAVED.into_iter().filter(|r| used.contains(r)).collect()
}

/// For each block where a jump to it leads: past blocks that only jump.
fn threaded(code: &Code, output: &Output) -> Vec<Block> {
    let only_jumps = |i: usize| {
        let (first, end) = code.blocks[i].insts;
        end - first == 1
            && matches!(code.insts[first].op, Op::Jump(_))
            && !output.edits.iter().any(|(point, Edit::Move { from, to })| point.inst().index() == first && from != to)
    };
    let target = |from: usize| {
        // Each step leads on; no more of them than blocks.
        let next = |&at: &usize| (at != 0 && only_jumps(at)).then(|| code.blocks[at].succs[0].index());
        let path = std::iter::successors(Some(from), next).take(code.blocks.len());
        Block::new(path.last().unwrap_or(from))
    };
    (0..code.blocks.len()).map(target).collect()
}

impl Emitter {
    fn line(&mut self, line: &str) {
        if let Some(text) = &mut self.text {
            let _ = writeln!(text, "  {line}");
        }
    }

    /// `push` or `pop` by the opcode of the first register.
    fn push_pop(&mut self, op: u8, r: u8) {
        if r > 7 {
            self.out.push(0x41);
        }
        self.out.push(op + (r & 7));
        self.line(&format!("{} {}", if op == 0x50 { "push" } else { "pop" }, register(Width::W64, false, r)));
    }

    /// `add` (digit 0) or `sub` (digit 5) on the stack pointer.
    fn stack(&mut self, digit: u8, bytes: i32) -> Result<(), String> {
        self.machine(Encoded {
            row: rows::ALU_IMM,
            width: Width::W64,
            reg: digit,
            vvvv: 0,
            place: Place::Reg(RSP),
            mask: 0,
            broadcast: false,
            imm: Imm::Dword(bytes),
        })?;
        Ok(())
    }

    fn machine(&mut self, encoded: Encoded) -> Result<Option<usize>, String> {
        if self.text.is_some() {
            let line = listing(&encoded);
            self.line(&line);
        }
        encoded.write(&mut self.out)
    }

    /// Fills up to a multiple with instructions that do nothing, as long ones as possible.
    fn align(&mut self, to: usize) {
        let mut missing = self.out.len().next_multiple_of(to) - self.out.len();
        while missing > 0 {
            let n = missing.min(9);
            let nop: &[u8] = match n {
                1 => &[0x90],
                2 => &[0x66, 0x90],
                3 => &[0x0f, 0x1f, 0x00],
                4 => &[0x0f, 0x1f, 0x40, 0x00],
                5 => &[0x0f, 0x1f, 0x44, 0x00, 0x00],
                6 => &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
                7 => &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
                8 => &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
                _ => &[0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
            };
            self.out.extend_from_slice(nop);
            missing -= n;
        }
    }

    /// A jump, on a condition or always.
    fn jump(&mut self, condition: Option<u8>, to: Block) -> Jump {
        match condition {
            Some(c) => self.out.extend([0x0f, 0x80 + c]),
            None => self.out.push(0xe9),
        }
        self.line(&format!("{} block{}", if condition.is_some() { "jcc" } else { "jmp" }, to.index()));
        self.out.extend([0; 4]);
        Jump { at: self.out.len() - 4, to }
    }

    fn patch(&mut self, at: usize, from: usize, to: usize) -> Result<(), String> {
        let distance = i32::try_from(to as i64 - from as i64).map_err(|_| "a function of gigabytes".to_string())?;
        self.out[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        Ok(())
    }

    /// A place on the stack, counted from the end of the allocator's part.
    fn frame(&self, offset: i64) -> Result<Place, String> {
        let disp = i32::try_from(i64::from(self.spill) + offset).map_err(|_| "a frame of gigabytes".to_string())?;
        Ok(Place::Mem { base: RSP, index: None, disp })
    }

    /// A move between registers and stack slots.
    fn transfer(&mut self, from: Allocation, to: Allocation) -> Result<(), String> {
        if from == to {
            return Ok(());
        }
        let class = [from, to].iter().find_map(|a| a.as_reg()).map(|r| r.class());
        let (whole, load, store): (Row, Row, Row) = match class {
            Some(RegClass::Int) => (rows::MOV, rows::MOV, rows::MOV_TO),
            Some(VEC) => (rows::MOVE, rows::LOAD, rows::STORE),
            _ => (rows::KMOV, rows::KMOV, rows::KMOV_STORE),
        };
        let width = match class {
            Some(RegClass::Int) => Width::W64,
            Some(VEC) if self.isa == Isa::Avx512 => Width::V512,
            Some(VEC) => Width::V256,
            _ => Width::V128,
        };
        let slot = |e: &Self, a: Allocation| match (a.as_reg(), a.as_stack()) {
            (Some(r), _) => Ok(Place::Reg(r.hw_enc() as u8)),
            (_, Some(s)) => e.frame(8 * s.index() as i64 - i64::from(e.spill)),
            _ => Err("a move from or to nowhere".to_string()),
        };
        let (row, reg, place) = match (from.kind(), to.kind()) {
            (AllocationKind::Reg, AllocationKind::Reg) => (whole, to, slot(self, from)?),
            (AllocationKind::Stack, _) => (load, to, slot(self, from)?),
            _ => (store, from, slot(self, to)?),
        };
        let Some(reg) = reg.as_reg() else { return Err("a move between two stack slots".into()) };
        let reg = reg.hw_enc() as u8;
        self.machine(Encoded { row, width, reg, vvvv: 0, place, mask: 0, broadcast: false, imm: Imm::None })?;
        Ok(())
    }

    fn inst(&mut self, op: &Op, allocs: &[Allocation]) -> Result<(), String> {
        let Op::Machine(Fields { row, width, reg, vvvv, rm, mask, last }) = op else { return Ok(()) };
        let at = |i: u8| match allocs.get(usize::from(i)).and_then(|a| a.as_reg()) {
            Some(r) => Ok(r.hw_enc() as u8),
            None => Err(format!("an operand of {} is in no register", row.name)),
        };
        let field = |f: Field| match f {
            Field::Fixed(n) => Ok(n),
            Field::Operand(i) => at(i),
        };
        let mut constant = None;
        let mut broadcasts = false;
        let place = match *rm {
            Rm::Reg(f) => Place::Reg(field(f)?),
            Rm::Mem { base, index, disp } => {
                let index = index.map(|(i, scale)| at(i).map(|i| (i, scale))).transpose()?;
                Place::Mem { base: at(base)?, index, disp }
            }
            Rm::Frame(offset) => self.frame(offset.into())?,
            Rm::Const { bits, lanes, broadcast } => {
                broadcasts = broadcast;
                constant = Some(bits.to_le_bytes().repeat(if broadcast { 1 } else { lanes.into() }));
                Place::Rip
            }
            Rm::Const64(bits) => {
                constant = Some(bits.to_le_bytes().to_vec());
                Place::Rip
            }
        };
        let imm = match *last {
            Last::Imm(imm) => imm,
            Last::Operand(i) => Imm::Byte(at(i)? << 4),
        };
        let encoded = Encoded {
            row: *row,
            width: *width,
            reg: field(*reg)?,
            vvvv: field(*vvvv)?,
            place,
            mask: field(*mask)?,
            broadcast: broadcasts,
            imm,
        };
        let rip = self.machine(encoded)?;
        if let (Some(at), Some(bytes)) = (rip, constant) {
            let end = self.out.len();
            self.constants.entry(bytes).or_default().push((at, end));
        }
        Ok(())
    }

    /// The code with its constants behind it, longer ones first, so that each is aligned to its size.
    fn finish(mut self) -> Result<Bytes, String> {
        let mut constants: Vec<_> = std::mem::take(&mut self.constants).into_iter().collect();
        constants.sort_by_key(|(bytes, _)| std::cmp::Reverse(bytes.len()));
        if !constants.is_empty() {
            // Between code and constants: breakpoints, should anything ever run there.
            self.out.resize(self.out.len().next_multiple_of(POOL), 0xcc);
        }
        for (bytes, uses) in constants {
            let place = self.out.len();
            for (at, end) in uses {
                self.patch(at, end, place)?;
            }
            self.out.extend(bytes);
        }
        Ok(Bytes { bytes: self.out, text: self.text.unwrap_or_default() })
    }
}

/// Name of a register: an integer's of this width, or a vector's.
fn register(width: Width, vector: bool, n: u8) -> String {
    const NAMES: [&str; 8] = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
    match (vector, width, NAMES.get(usize::from(n))) {
        (true, Width::V512, _) => format!("zmm{n}"),
        (true, Width::V256, _) => format!("ymm{n}"),
        (true, ..) => format!("xmm{n}"),
        (_, Width::W64, Some(name)) => format!("r{name}"),
        (_, _, Some(name)) => format!("e{name}"),
        (_, Width::W64, None) => format!("r{n}"),
        _ => format!("r{n}d"),
    }
}

/// An instruction in words: all its fields, those of vectors by their vector names.
fn listing(e: &Encoded) -> String {
    let vector = e.width >= Width::V128;
    let mut line = format!("{} {}", e.row.name, register(e.width, vector, e.reg));
    if vector {
        let _ = write!(line, ", {}", register(e.width, true, e.vvvv));
    }
    let _ = match e.place {
        Place::Reg(r) => write!(line, ", {}", register(e.width, vector, r)),
        Place::Rip => write!(line, ", [constant]{}", if e.broadcast { " to all lanes" } else { "" }),
        Place::Mem { base, index, disp } => {
            let index = index.map(|(i, s)| format!(" + {}*{}", register(Width::W64, false, i), 1 << s));
            write!(line, ", [{}{} + {disp}]", register(Width::W64, false, base), index.unwrap_or_default())
        }
    };
    if e.mask != 0 {
        let _ = write!(line, " {{k{}}}", e.mask);
    }
    match e.imm {
        Imm::None => {}
        Imm::Byte(b) => line += &format!(", {b}"),
        Imm::Dword(d) => line += &format!(", {d}"),
    }
    line
}
