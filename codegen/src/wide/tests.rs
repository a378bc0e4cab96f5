//! Every row is written and read back by a decoder: the bytes are one instruction of that name with those operands.

use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind, Register};
use lith_ir::testing::Rng;

use super::encode::{Encoded, Imm, Place, Row, Space, Width};
use super::rows::{self, Float};

fn decode(bytes: &[u8]) -> Option<Instruction> {
    let instruction = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
    (!instruction.is_invalid() && instruction.len() == bytes.len()).then_some(instruction)
}

fn write(encoded: &Encoded) -> Vec<u8> {
    let mut bytes = Vec::new();
    encoded.write(&mut bytes).unwrap();
    bytes
}

/// A register's number within its kind, and whether it is a vector.
fn number(r: Register) -> Option<(u8, bool)> {
    let n = r as usize;
    [
        (Register::XMM0, 32, true),
        (Register::YMM0, 32, true),
        (Register::ZMM0, 32, true),
        (Register::RAX, 16, false),
        (Register::EAX, 16, false),
        (Register::AX, 16, false),
        (Register::K0, 8, false),
    ]
    .into_iter()
    .find(|(first, count, _)| (*first as usize..*first as usize + count).contains(&n))
    .map(|(first, _, vector)| ((n - first as usize) as u8, vector))
}

fn registers(i: &Instruction) -> Vec<(u8, bool)> {
    let operands = (0..i.op_count()).filter(|&o| i.op_kind(o) == OpKind::Register);
    operands.filter_map(|o| number(i.op_register(o))).collect()
}

/// The names that rows of several instructions may have, and those that differ between VEX and EVEX.
fn names(row: &Row) -> Vec<&'static str> {
    match row.name {
        "alu" => vec!["add", "or", "and", "sub", "xor", "cmp"],
        "shift" => vec!["shl", "shr", "sar"],
        "unary" => vec!["not", "neg", "div"],
        "vpshiftd" => vec!["vpslld", "vpsrld", "vpsrad"],
        "cmov" => vec!["cmove"],
        "set" => vec!["sete"],
        "vroundps" => vec!["vroundps", "vrndscaleps"],
        "vroundss" => vec!["vroundss", "vrndscaless"],
        "vroundsd" => vec!["vroundsd", "vrndscalesd"],
        "vextractf32x4" => vec!["vextractf32x4", "vextractf128"],
        name => vec![name],
    }
}

/// The ways to complete an instruction that only some rows take.
fn forms(row: Row, width: Width, reg: u8, vvvv: u8, rm: u8) -> Vec<Encoded> {
    let digits: &[u8] = match row.name {
        "alu" => &[0, 1, 4, 5, 6, 7],
        "shift" => &[4, 5, 7],
        "unary" => &[2, 3, 6],
        "vpshiftd" => &[2, 4, 6],
        "mov" if row.op == 0xc7 => &[0],
        _ => &[],
    };
    let regs = if digits.is_empty() { vec![reg] } else { digits.to_vec() };
    let imms = [Imm::None, Imm::Byte(0x10), Imm::Dword(-77)];
    let all = regs.iter().flat_map(|&reg| [vvvv, 0].map(|vvvv| (reg, vvvv)));
    let all = all.flat_map(|(reg, vvvv)| imms.map(|imm| (reg, vvvv, imm)));
    all.map(|(reg, vvvv, imm)| Encoded { row, width, reg, vvvv, place: Place::Reg(rm), mask: 0, broadcast: false, imm })
        .collect()
}

fn all() -> Vec<(Row, Vec<Width>)> {
    let vectors = [Width::V128, Width::V256, Width::V512];
    let scalar = |row: &Row| {
        ["ss", "sd", "vmovd", "vmovq", "kmovw", "vpextrd", "vinsertps", "vpinsrd"].iter().any(|s| row.name.contains(s))
            && !row.name.contains("broadcast")
    };
    let widths = |row: &Row| match row.space {
        Space::Legacy if row.name == "set" || [rows::MOV_TO8, rows::TEST8].contains(row) => vec![Width::W8],
        Space::Legacy if row.name == "movsxd" => vec![Width::W64],
        Space::Legacy => vec![Width::W32, Width::W64],
        _ if scalar(row) => vec![Width::V128],
        _ if matches!(row.name, "vextractf32x4" | "vblendvps" | "vblendvpd") => vectors[1..2].to_vec(),
        Space::Vex => vectors[..2].to_vec(),
        _ => vectors.to_vec(),
    };
    let functions = [
        rows::add,
        rows::mul,
        rows::sub,
        rows::min,
        rows::div,
        rows::max,
        rows::sqrt,
        rows::cmp,
        rows::fma132,
        rows::fma213,
        rows::fma231,
        rows::round,
        rows::cmp_k,
    ];
    let floats = functions.iter().flat_map(|f| [Float::Ps, Float::Ss, Float::Sd].map(f));
    let jumps = [rows::cmov(4), rows::set(4)];
    let rows = rows::ALL.iter().copied().chain(floats).chain(jumps);
    // Those whose operand can only be memory are read below, or are stores of what is here.
    let of_registers = |r: &Row| ![rows::LEA, rows::KMOV_STORE].contains(r);
    rows.filter(of_registers).map(|row| (row, widths(&row))).collect()
}

#[test]
fn rows_are_the_instructions_they_are_called() {
    for (row, widths) in all() {
        for width in widths {
            // Low numbers first, which every kind of register has; then high ones, if all operands are vectors.
            let mut vectors = false;
            for (reg, vvvv, rm) in [(1, 2, 3), (7, 6, 5), (9, 18, 31), (31, 9, 16), (17, 30, 8)] {
                let limit = if row.space == Space::Vex || row.space == Space::Legacy { 15 } else { 31 };
                if reg > 7 && !vectors {
                    continue;
                }
                let [reg, vvvv, rm] = [reg, vvvv, rm].map(|n: u8| n & limit);
                let mut found = 0;
                for encoded in forms(row, width, reg, vvvv, rm) {
                    let Some(i) = decode(&write(&encoded)) else { continue };
                    let name = format!("{:?}", i.mnemonic()).to_lowercase();
                    assert!(names(&row).contains(&name.as_str()), "{} at {width:?} is {name}", row.name);
                    let seen = registers(&i);
                    let numbers: Vec<u8> = seen.iter().map(|(n, _)| *n).collect();
                    let Encoded { reg, vvvv, .. } = encoded;
                    // Some write their second operand; some have a digit for a register; bytes' registers do not count.
                    let right = match numbers[..] {
                        [a, b, c] | [a, b, c, 1] => [[reg, vvvv, rm], [rm, vvvv, reg]].contains(&[a, b, c]),
                        [a, b] => [[reg, rm], [rm, reg], [vvvv, rm]].contains(&[a, b]),
                        [a] => a == rm || a == reg,
                        _ => width == Width::W8,
                    };
                    assert!(right, "{} of {reg} {vvvv} {rm} at {width:?} is of {numbers:?}", row.name);
                    vectors = seen.iter().all(|(_, vector)| *vector) && !seen.is_empty();
                    found += 1;
                }
                assert!(found > 0, "{} at {width:?} with {reg} {vvvv} {rm} is no instruction", row.name);
            }
        }
    }
}

#[test]
fn addresses_are_read_as_they_were_written() {
    let mut rng = Rng::new(1);
    for row in [rows::MOV, rows::LOAD, rows::LEA, rows::STORE, rows::TERNLOG] {
        for _ in 0..2000 {
            let width = match row.space {
                Space::Legacy => Width::W64,
                _ => [Width::V128, Width::V256, Width::V512][rng.below(3)],
            };
            let base = rng.below(16) as u8;
            let index = (rng.below(2) == 1).then(|| (rng.below(16) as u8, rng.below(4) as u8)).filter(|i| i.0 != 4);
            let disp = [0, rng.below(256) as i32 - 128, rng.below(1 << 20) as i32 - (1 << 19)][rng.below(3)];
            let reg = rng.below(if row.space == Space::Legacy { 16 } else { 32 }) as u8;
            let imm = if row == rows::TERNLOG { Imm::Byte(9) } else { Imm::None };
            let place = Place::Mem { base, index, disp };
            let encoded = Encoded { row, width, reg, vvvv: 0, place, mask: 0, broadcast: false, imm };
            let i = decode(&write(&encoded)).unwrap_or_else(|| panic!("{encoded:?}"));
            assert_eq!(number(i.memory_base()).map(|b| b.0), Some(base), "{encoded:?}");
            assert_eq!(number(i.memory_index()).map(|b| b.0), index.map(|i| i.0), "{encoded:?}");
            assert!(index.is_none_or(|(_, s)| i.memory_index_scale() == 1 << s), "{encoded:?}");
            assert_eq!(i.memory_displacement64(), disp as i64 as u64, "{encoded:?}");
        }
    }
}

#[test]
fn masks_and_broadcasts_are_read_as_they_were_written() {
    let place = Place::Mem { base: 3, index: None, disp: 0 };
    let encoded = Encoded {
        row: rows::add(Float::Ps),
        width: Width::V512,
        reg: 20,
        vvvv: 30,
        place,
        mask: 5,
        broadcast: true,
        imm: Imm::None,
    };
    let i = decode(&write(&encoded)).unwrap();
    assert!(i.is_broadcast() && i.op_mask() == Register::K5 && !i.zeroing_masking());
    assert_eq!(registers(&i), [(20, true), (30, true)]);
    let rip = Encoded { place: Place::Rip, mask: 0, ..encoded };
    let mut bytes = Vec::new();
    let at = rip.write(&mut bytes).unwrap().unwrap();
    bytes[at..at + 4].copy_from_slice(&100i32.to_le_bytes());
    assert_eq!(decode(&bytes).unwrap().memory_displacement64(), bytes.len() as u64 + 100);
}
