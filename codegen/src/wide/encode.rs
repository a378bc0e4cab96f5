//! Bytes of x86-64 instructions: legacy integer ones, VEX and EVEX vector ones, from rows of opcodes. Follows chapter 2 of
//! the Intel 64 and IA-32 manual, volume 2. Knows physical registers only; which instruction is wanted is not its matter.

/// How an opcode is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// With a REX prefix where needed.
    Legacy,
    /// With a VEX prefix.
    Vex,
    /// With an EVEX prefix.
    Evex,
    /// With the shorter of VEX and EVEX that can say it.
    Both,
}

/// An instruction of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Mnemonic.
    pub name: &'static str,
    /// Prefix family.
    pub space: Space,
    /// Mandatory prefix: 0 none, 1 for 66, 2 for F3, 3 for F2.
    pub pp: u8,
    /// Opcode map: 0 one byte, 1 for 0F, 2 for 0F38, 3 for 0F3A.
    pub map: u8,
    /// Opcode.
    pub op: u8,
    /// The W bit of VEX and EVEX; of legacy instructions the width of the operation says it.
    pub w: bool,
}

/// Width of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Width {
    /// An 8-bit integer.
    W8,
    /// A 16-bit integer.
    W16,
    /// A 32-bit integer.
    W32,
    /// A 64-bit integer.
    W64,
    /// A scalar or 128 bits of vector.
    V128,
    /// 256 bits of vector.
    V256,
    /// 512 bits of vector.
    V512,
}

/// The operand that may be memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A register.
    Reg(u8),
    /// `[base + index * 2^scale + disp]`
    Mem {
        /// Base register.
        base: u8,
        /// Index register and the logarithm of its scale.
        index: Option<(u8, u8)>,
        /// Displacement.
        disp: i32,
    },
    /// Memory at a distance from the instruction's end that is filled in later.
    Rip,
}

/// What follows the operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imm {
    /// Nothing.
    None,
    /// A byte.
    Byte(u8),
    /// Four bytes, sign-extended where the operation is wider.
    Dword(i32),
}

/// An instruction with its registers.
#[derive(Clone, Copy, Debug)]
pub struct Encoded {
    /// The row.
    pub row: Row,
    /// The width.
    pub width: Width,
    /// ModRM's register, or the digit that belongs to the opcode.
    pub reg: u8,
    /// The extra source or destination of VEX and EVEX.
    pub vvvv: u8,
    /// ModRM's other operand.
    pub place: Place,
    /// Mask register; 0 is none.
    pub mask: u8,
    /// One element of memory stands for all lanes.
    pub broadcast: bool,
    /// What follows.
    pub imm: Imm,
}

impl Row {
    const fn new(name: &'static str, space: Space, pp: u8, map: u8, op: u8, w: bool) -> Row {
        Row { name, space, pp, map, op, w }
    }

    /// An integer instruction with a one-byte opcode.
    pub const fn int(name: &'static str, op: u8) -> Row {
        Row::new(name, Space::Legacy, 0, 0, op, false)
    }

    /// An integer instruction whose opcode follows 0F.
    pub const fn int0f(name: &'static str, op: u8) -> Row {
        Row::new(name, Space::Legacy, 0, 1, op, false)
    }

    /// A vector instruction that both VEX and EVEX have.
    pub const fn both(name: &'static str, pp: u8, map: u8, op: u8) -> Row {
        Row::new(name, Space::Both, pp, map, op, false)
    }

    /// A vector instruction with EVEX only.
    pub const fn evex(name: &'static str, pp: u8, map: u8, op: u8) -> Row {
        Row::new(name, Space::Evex, pp, map, op, false)
    }

    /// A vector instruction with VEX only.
    pub const fn vex(name: &'static str, pp: u8, map: u8, op: u8) -> Row {
        Row::new(name, Space::Vex, pp, map, op, false)
    }

    /// The same with the W bit set.
    pub const fn wide(self) -> Row {
        Row { w: true, ..self }
    }
}

impl Encoded {
    /// Appends the bytes; answers where the four bytes of a [`Place::Rip`] are to be filled in.
    ///
    /// # Errors
    /// When the row cannot name these operands: the mistake of who chose it.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<Option<usize>, String> {
        match self.row.space {
            Space::Legacy => self.legacy(out),
            _ if self.needs_evex() => match self.row.space {
                Space::Vex => return Err(format!("{} with EVEX", self.row.name)),
                _ => self.evex(out),
            },
            _ => self.vex(out),
        }
        let rip = self.modrm(out);
        match self.imm {
            Imm::None => {}
            Imm::Byte(b) => out.push(b),
            Imm::Dword(d) => out.extend(d.to_le_bytes()),
        }
        Ok(rip)
    }

    /// Bits 3 and 4 of the index and of the base or register, and the latter's number.
    fn place_bits(&self) -> (u8, u8) {
        match self.place {
            // A register's fifth bit goes where an index's fourth would.
            Place::Reg(r) => ((r >> 4) & 1, (r >> 3) & 1),
            Place::Mem { base, index, .. } => (index.map_or(0, |(i, _)| (i >> 3) & 1), (base >> 3) & 1),
            Place::Rip => (0, 0),
        }
    }

    fn needs_evex(&self) -> bool {
        let high = matches!(self.place, Place::Reg(r) if r > 15);
        self.row.space == Space::Evex
            || self.width == Width::V512
            || self.reg > 15
            || self.vvvv > 15
            || high
            || self.mask != 0
            || self.broadcast
    }

    fn legacy(&self, out: &mut Vec<u8>) {
        if self.width == Width::W16 {
            out.push(0x66);
        }
        let (x, b) = self.place_bits();
        let rex = u8::from(self.width == Width::W64) << 3 | ((self.reg >> 3) & 1) << 2 | x << 1 | b;
        // Of the byte registers the fifth to eighth have their name only with a prefix; extensions read bytes too.
        let extends_byte = self.row.map == 1 && matches!(self.row.op, 0xb6 | 0xbe);
        if rex != 0 || self.width == Width::W8 || extends_byte {
            out.push(0x40 | rex);
        }
        if self.row.map == 1 {
            out.push(0x0f);
        }
        out.push(self.row.op);
    }

    fn vex(&self, out: &mut Vec<u8>) {
        let (x, b) = self.place_bits();
        let r = (self.reg >> 3) & 1;
        let last = (!self.vvvv & 15) << 3 | u8::from(self.width == Width::V256) << 2 | self.row.pp;
        if x == 0 && b == 0 && !self.row.w && self.row.map == 1 {
            out.extend([0xc5, (1 - r) << 7 | last, self.row.op]);
        } else {
            let first = (1 - r) << 7 | (1 - x) << 6 | (1 - b) << 5 | self.row.map;
            out.extend([0xc4, first, u8::from(self.row.w) << 7 | last, self.row.op]);
        }
    }

    fn evex(&self, out: &mut Vec<u8>) {
        let (x, b) = self.place_bits();
        let not = |bit: u8| 1 - (bit & 1);
        let length = match self.width {
            Width::V512 => 2,
            Width::V256 => 1,
            _ => 0,
        };
        out.extend([
            0x62,
            not(self.reg >> 3) << 7 | (1 - x) << 6 | (1 - b) << 5 | not(self.reg >> 4) << 4 | self.row.map,
            u8::from(self.row.w) << 7 | (!self.vvvv & 15) << 3 | 1 << 2 | self.row.pp,
            length << 5 | u8::from(self.broadcast) << 4 | not(self.vvvv >> 4) << 3 | self.mask,
            self.row.op,
        ]);
    }

    fn modrm(&self, out: &mut Vec<u8>) -> Option<usize> {
        let reg = (self.reg & 7) << 3;
        match self.place {
            Place::Reg(r) => out.push(0xc0 | reg | (r & 7)),
            Place::Rip => {
                out.push(reg | 5);
                out.extend([0; 4]);
                return Some(out.len() - 4);
            }
            Place::Mem { base, index, disp } => {
                // EVEX scales short displacements by what its memory operand is; only 0 is the same for all.
                let short = i8::try_from(disp).ok().filter(|d| *d == 0 || !self.is_evex());
                let mode = match short {
                    Some(0) if base & 7 != 5 => 0x00,
                    Some(_) => 0x40,
                    None => 0x80,
                };
                match index {
                    None if base & 7 != 4 => out.push(mode | reg | (base & 7)),
                    _ => {
                        let (index, scale) = index.unwrap_or((4, 0));
                        out.extend([mode | reg | 4, scale << 6 | (index & 7) << 3 | (base & 7)]);
                    }
                }
                match (mode, short) {
                    (0x40, Some(d)) => out.push(d as u8),
                    (0x80, _) => out.extend(disp.to_le_bytes()),
                    _ => {}
                }
            }
        }
        None
    }

    fn is_evex(&self) -> bool {
        self.row.space != Space::Legacy && self.needs_evex()
    }
}
