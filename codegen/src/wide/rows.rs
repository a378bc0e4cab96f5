//! The instructions that are used, one row each.

use super::encode::{Row, Space};

/// 0F, 0F38 and 0F3A: opcode maps.
const M1: u8 = 1;
const M2: u8 = 2;
const M3: u8 = 3;
/// Mandatory prefixes.
const NP: u8 = 0;
const P66: u8 = 1;
const PF3: u8 = 2;
const PF2: u8 = 3;

/// Floating-point operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    /// A vector of `f32`.
    Ps,
    /// One `f32`.
    Ss,
    /// One `f64`.
    Sd,
}

/// An arithmetic instruction that differs only by the prefix for its operands.
const fn float(f: Float, names: [&'static str; 3], op: u8) -> Row {
    match f {
        Float::Ps => Row::both(names[0], NP, M1, op),
        Float::Ss => Row::both(names[1], PF3, M1, op),
        Float::Sd => Row::both(names[2], PF2, M1, op).wide(),
    }
}

macro_rules! floats {
    ($($(#[$doc:meta])* $name:ident $base:literal $op:literal;)*) => {
        $($(#[$doc])* pub const fn $name(f: Float) -> Row {
            float(f, [concat!($base, "ps"), concat!($base, "ss"), concat!($base, "sd")], $op)
        })*
    };
}

floats! {
    /// Sum.
    add "vadd" 0x58;
    /// Product.
    mul "vmul" 0x59;
    /// Difference.
    sub "vsub" 0x5c;
    /// `a < b ? a : b`
    min "vmin" 0x5d;
    /// Quotient.
    div "vdiv" 0x5e;
    /// `a > b ? a : b`
    max "vmax" 0x5f;
    /// Square root.
    sqrt "vsqrt" 0x51;
    /// Comparison, to what the prefix family decides.
    compare "vcmp" 0xc2;
}

macro_rules! fused {
    ($($(#[$doc:meta])* $name:ident $base:literal $op:literal;)*) => {
        $($(#[$doc])* pub const fn $name(f: Float) -> Row {
            match f {
                Float::Ps => Row::both(concat!($base, "ps"), P66, M2, $op),
                Float::Ss => Row::both(concat!($base, "ss"), P66, M2, $op + 1),
                Float::Sd => Row::both(concat!($base, "sd"), P66, M2, $op + 1).wide(),
            }
        })*
    };
}

fused! {
    /// `reg = reg * rm + vvvv`
    fma132 "vfmadd132" 0x98;
    /// `reg = vvvv * reg + rm`
    fma213 "vfmadd213" 0xa8;
    /// `reg = vvvv * rm + reg`
    fma231 "vfmadd231" 0xb8;
}

/// Rounding to a whole number; the immediate says how.
pub const fn round(f: Float) -> Row {
    match f {
        Float::Ps => Row::both("vroundps", P66, M3, 0x08),
        Float::Ss => Row::both("vroundss", P66, M3, 0x0a),
        Float::Sd => Row::both("vroundsd", P66, M3, 0x0b).wide(),
    }
}

/// Comparison of floats to a vector mask.
pub const fn cmp(f: Float) -> Row {
    Row { space: Space::Vex, ..compare(f) }
}

/// Comparison of floats to a mask register.
pub const fn cmp_k(f: Float) -> Row {
    Row { space: Space::Evex, ..compare(f) }
}

macro_rules! rows {
    ($($(#[$doc:meta])* $name:ident = $row:expr;)*) => {
        $($(#[$doc])* pub const $name: Row = $row;)*
        /// All of them.
        #[cfg(test)]
        pub const ALL: &[Row] = &[$($name),*];
    };
}

rows! {
    /// Integer load.
    MOV = Row::int("mov", 0x8b);
    /// Integer store.
    MOV_TO = Row::int("mov", 0x89);
    /// Store of a byte.
    MOV_TO8 = Row::int("mov", 0x88);
    /// Sign-extended immediate.
    MOV_IMM = Row::int("mov", 0xc7);
    /// Address.
    LEA = Row::int("lea", 0x8d);
    /// Difference.
    SUB = Row::int("sub", 0x2b);
    /// Difference with borrow.
    SBB = Row::int("sbb", 0x1b);
    /// Bits.
    AND = Row::int("and", 0x23);
    /// Bits.
    OR = Row::int("or", 0x0b);
    /// Bits.
    XOR = Row::int("xor", 0x33);
    /// Comparison.
    CMP = Row::int("cmp", 0x3b);
    /// Comparison of bits with 0.
    TEST = Row::int("test", 0x85);
    /// Comparison of a byte's bits with 0.
    TEST8 = Row::int("test", 0x84);
    /// `add`, `or`, `and`, `sub`, `xor`, `cmp` with an immediate, by digit.
    ALU_IMM = Row::int("alu", 0x81);
    /// `shl`, `shr`, `sar` by an immediate, by digit.
    SHIFT = Row::int("shift", 0xc1);
    /// `not`, `neg`, `div`, by digit.
    UNARY = Row::int("unary", 0xf7);
    /// Product.
    IMUL = Row::int0f("imul", 0xaf);
    /// Product with an immediate.
    IMUL_IMM = Row::int("imul", 0x69);
    /// Zero extension of a byte.
    MOVZX8 = Row::int0f("movzx", 0xb6);
    /// Zero extension of 16 bits.
    MOVZX16 = Row::int0f("movzx", 0xb7);
    /// Sign extension of a byte.
    MOVSX8 = Row::int0f("movsx", 0xbe);
    /// Sign extension of 16 bits.
    MOVSX16 = Row::int0f("movsx", 0xbf);
    /// Sign extension of 32 bits.
    MOVSXD = Row::int("movsxd", 0x63);

    /// Vector load.
    LOAD = Row::both("vmovups", NP, M1, 0x10);
    /// Vector store.
    STORE = Row::both("vmovups", NP, M1, 0x11);
    /// Move between registers.
    MOVE = Row::both("vmovaps", NP, M1, 0x28);
    /// Load of an `f32`.
    LOAD_SS = Row::both("vmovss", PF3, M1, 0x10);
    /// Store of an `f32`.
    STORE_SS = Row::both("vmovss", PF3, M1, 0x11);
    /// Load of an `f64`.
    LOAD_SD = Row::both("vmovsd", PF2, M1, 0x10).wide();
    /// Store of an `f64`.
    STORE_SD = Row::both("vmovsd", PF2, M1, 0x11).wide();
    /// 32 bits to a vector register.
    MOVD = Row::both("vmovd", P66, M1, 0x6e);
    /// 64 bits to a vector register.
    MOVQ = Row::both("vmovq", P66, M1, 0x6e).wide();
    /// 32 bits from a vector register.
    MOVD_TO = Row::both("vmovd", P66, M1, 0x7e);
    /// 64 bits from a vector register.
    MOVQ_TO = Row::both("vmovq", P66, M1, 0x7e).wide();
    /// One `f32` in all lanes.
    BROADCAST = Row::both("vbroadcastss", P66, M2, 0x18);
    /// One 32-bit integer in all lanes.
    BROADCAST_I32 = Row::both("vpbroadcastd", P66, M2, 0x58);
    /// One 32-bit integer register in all lanes.
    BROADCAST_GPR = Row::evex("vpbroadcastd", P66, M2, 0x7c);
    /// 128 of the bits.
    EXTRACT128 = Row::both("vextractf32x4", P66, M3, 0x19);
    /// Lanes of each 128 bits in another order.
    PERMUTE = Row::both("vpermilps", P66, M3, 0x04);
    /// One 32-bit lane.
    EXTRACT_I32 = Row::both("vpextrd", P66, M3, 0x16);
    /// One lane replaced.
    INSERT = Row::both("vinsertps", P66, M3, 0x21);
    /// One lane replaced.
    INSERT_I32 = Row::both("vpinsrd", P66, M3, 0x22);

    /// Bits.
    ANDPS = Row::both("vandps", NP, M1, 0x54);
    /// Bits: `!vvvv & rm`.
    ANDNPS = Row::both("vandnps", NP, M1, 0x55);
    /// Bits.
    ORPS = Row::both("vorps", NP, M1, 0x56);
    /// Bits.
    XORPS = Row::both("vxorps", NP, M1, 0x57);
    /// Any function of three bits, by its table.
    TERNLOG = Row::evex("vpternlogd", P66, M3, 0x25);
    /// Integer sum.
    PADD = Row::both("vpaddd", P66, M1, 0xfe);
    /// Integer difference.
    PSUB = Row::both("vpsubd", P66, M1, 0xfa);
    /// Integer product.
    PMUL = Row::both("vpmulld", P66, M2, 0x40);
    /// Integer magnitude.
    PABS = Row::both("vpabsd", P66, M2, 0x1e);
    /// Lesser unsigned integer.
    PMINU = Row::both("vpminud", P66, M2, 0x3b);
    /// Greater unsigned integer.
    PMAXU = Row::both("vpmaxud", P66, M2, 0x3f);
    /// Shifts by an immediate, by digit.
    PSHIFT = Row::both("vpshiftd", P66, M1, 0x72);
    /// Equal integers, to a vector mask.
    PCMPEQ = Row::vex("vpcmpeqd", P66, M1, 0x76);
    /// Greater signed integers, to a vector mask.
    PCMPGT = Row::vex("vpcmpgtd", P66, M1, 0x66);
    /// Comparison of signed integers to a mask register.
    PCMP_K = Row::evex("vpcmpd", P66, M3, 0x1f);
    /// Comparison of unsigned integers to a mask register.
    PCMPU_K = Row::evex("vpcmpud", P66, M3, 0x1e);
    /// Lanes of `rm` where the mask has a bit, else of `vvvv`.
    BLEND_K = Row::evex("vblendmps", P66, M2, 0x65);
    /// Lanes of `rm` where the mask has a bit, else of `vvvv`.
    BLEND_K64 = Row::evex("vblendmpd", P66, M2, 0x65).wide();
    /// Lanes of `rm` where the mask's sign is set, else of `vvvv`.
    BLEND_V = Row::vex("vblendvps", P66, M3, 0x4a);
    /// Lanes of `rm` where the mask's sign is set, else of `vvvv`.
    BLEND_V64 = Row::vex("vblendvpd", P66, M3, 0x4b);
    /// A mask register as a vector mask.
    MASK_TO_VECTOR = Row::evex("vpmovm2d", PF3, M2, 0x38);
    /// A mask register from an integer register.
    KMOV_FROM = Row::vex("kmovw", NP, M1, 0x92);
    /// A mask register to an integer register.
    KMOV_TO = Row::vex("kmovw", NP, M1, 0x93);
    /// A mask register from another or from memory.
    KMOV = Row::vex("kmovw", NP, M1, 0x90);
    /// A mask register to memory.
    KMOV_STORE = Row::vex("kmovw", NP, M1, 0x91);

    /// 32-bit integers to floats.
    CVT_I32 = Row::both("vcvtdq2ps", NP, M1, 0x5b);
    /// Floats to 32-bit integers, towards 0.
    CVT_TO_I32 = Row::both("vcvttps2dq", PF3, M1, 0x5b);
    /// An integer register to an `f32`.
    CVT_SI2SS = Row::both("vcvtsi2ss", PF3, M1, 0x2a);
    /// `f32` to `f64`.
    CVT_SS2SD = Row::both("vcvtss2sd", PF3, M1, 0x5a);
    /// `f64` to `f32`.
    CVT_SD2SS = Row::both("vcvtsd2ss", PF2, M1, 0x5a).wide();
    /// 16-bit lanes to 32-bit ones, unsigned.
    WIDEN16 = Row::both("vpmovzxwd", P66, M2, 0x33);
    /// 8-bit lanes to 32-bit ones, unsigned.
    WIDEN8 = Row::both("vpmovzxbd", P66, M2, 0x31);
    /// 32-bit lanes of two vectors to 16-bit ones, the largest where they do not fit.
    PACK16 = Row::both("vpackusdw", P66, M2, 0x2b);
    /// 16-bit lanes of two vectors to 8-bit ones, the largest where they do not fit.
    PACK8 = Row::both("vpackuswb", P66, M1, 0x67);
    /// 32-bit lanes to 16-bit ones.
    NARROW16 = Row::evex("vpmovdw", PF3, M2, 0x33);
    /// 32-bit lanes to 8-bit ones.
    NARROW8 = Row::evex("vpmovdb", PF3, M2, 0x31);
}

/// `cmov` on a condition.
pub const fn cmov(condition: u8) -> Row {
    Row::int0f("cmov", 0x40 + condition)
}

/// `set` on a condition.
pub const fn set(condition: u8) -> Row {
    Row::int0f("set", 0x90 + condition)
}
