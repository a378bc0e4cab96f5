//! The AVX-512 tile of eight rows by three panels, in assembly: compilers move its loads until registers run out. Where
//! a core's other hardware thread is busy, the two share the instructions of a cycle, and what counts is how many there
//! are beside the multiply-adds: here one for two. Knows only registers and [`TileArgs`].

use std::arch::asm;

use super::simd::LANES;
use super::tile::{Next, TileArgs};

/// Rows of the tile.
pub(super) const ROWS: usize = 8;
/// Panels of the tile.
pub(super) const PANELS: usize = 3;

/// For each row of C at `{t}`, `{ldc}` bytes apart, the given instructions on its three vectors.
macro_rules! rows_of_c {
    ($each:ident) => {
        concat!(
            "mov {t}, {c}\n",
            $each!("8", "9", "10"),
            $each!("11", "12", "13"),
            $each!("14", "15", "16"),
            $each!("17", "18", "19"),
            $each!("20", "21", "22"),
            $each!("23", "24", "25"),
            $each!("26", "27", "28"),
            $each!("29", "30", "31"),
        )
    };
}

macro_rules! load {
    ($x:literal, $y:literal, $z:literal) => {
        concat!(
            "vmovups zmm",
            $x,
            ", [{t}]\nvmovups zmm",
            $y,
            ", [{t} + 64]\nvmovups zmm",
            $z,
            ", [{t} + 128]\n",
            "add {t}, {ldc}\n",
        )
    };
}

macro_rules! zero {
    ($x:literal, $y:literal, $z:literal) => {
        concat!(
            "vpxord zmm",
            $x,
            ", zmm",
            $x,
            ", zmm",
            $x,
            "\nprefetchw [{t}]\n",
            "vpxord zmm",
            $y,
            ", zmm",
            $y,
            ", zmm",
            $y,
            "\nprefetchw [{t} + 64]\n",
            "vpxord zmm",
            $z,
            ", zmm",
            $z,
            ", zmm",
            $z,
            "\nprefetchw [{t} + 128]\n",
            "add {t}, {ldc}\n",
        )
    };
}

macro_rules! store {
    ($x:literal, $y:literal, $z:literal) => {
        concat!(
            "vmovups [{t}], zmm",
            $x,
            "\nvmovups [{t} + 64], zmm",
            $y,
            "\nvmovups [{t} + 128], zmm",
            $z,
            "\n",
            "add {t}, {ldc}\n",
        )
    };
}

/// The products of one value of A, broadcast through register `$a`, with the columns of B.
macro_rules! row {
    ($a:literal, $row:literal, $at:literal, $x:literal, $y:literal, $z:literal) => {
        concat!(
            "vbroadcastss zmm",
            $a,
            ", dword ptr [",
            $row,
            $at,
            "]\n",
            "vfmadd231ps zmm",
            $x,
            ", zmm",
            $a,
            ", zmm0\n",
            "vfmadd231ps zmm",
            $y,
            ", zmm",
            $a,
            ", zmm1\n",
            "vfmadd231ps zmm",
            $z,
            ", zmm",
            $a,
            ", zmm2\n",
        )
    };
}

/// A step of k: values of A and columns of B so many bytes from where the pointers stand.
macro_rules! step {
    ($a:literal, $b:literal) => {
        concat!(
            "vmovups zmm0, [{b} + ",
            $b,
            "]\n",
            "vmovups zmm1, [{b} + {panel} + ",
            $b,
            "]\n",
            "vmovups zmm2, [{b} + 2*{panel} + ",
            $b,
            "]\n",
            row!("3", "{a} + ", $a, "8", "9", "10"),
            row!("4", "{a} + {l} + ", $a, "11", "12", "13"),
            row!("5", "{a} + 2*{l} + ", $a, "14", "15", "16"),
            row!("6", "{a} + {l3} + ", $a, "17", "18", "19"),
            row!("7", "{a4} + ", $a, "20", "21", "22"),
            row!("3", "{a4} + {l} + ", $a, "23", "24", "25"),
            row!("4", "{a4} + 2*{l} + ", $a, "26", "27", "28"),
            row!("5", "{a4} + {l3} + ", $a, "29", "30", "31"),
        )
    };
}

/// The tile. Its B is contiguous: [`TileArgs::b_step`] is one row of a panel.
///
/// # Safety
/// See [`TileArgs`]; the CPU has AVX-512 F.
#[inline(always)]
pub(super) unsafe fn tile(args: &TileArgs<f32>) {
    debug_assert_eq!(args.b_step, LANES);
    let Next { lines, step } = args.next.unwrap_or(Next { lines: args.b.cast(), step: 0 });
    let l = args.lda * size_of::<f32>();
    // SAFETY: reads and writes what the contract of `TileArgs` names, for eight rows and three panels.
    unsafe {
        asm!(
            "test {t}, {t}",
            "jz 2f",
            rows_of_c!(load),
            "jmp 3f",
            "2:",
            rows_of_c!(zero),
            "3:",
            "mov {t}, {k}",
            "shr {t}, 2",
            "jz 5f",
            ".p2align 5",
            "4:",
            "prefetcht0 [{lines}]",
            step!("0", "0"),
            step!("4", "64"),
            step!("8", "128"),
            step!("12", "192"),
            "add {lines}, {step}",
            "add {a}, 16",
            "add {a4}, 16",
            "add {b}, 256",
            "dec {t}",
            "jnz 4b",
            "5:",
            "and {k}, 3",
            "jz 7f",
            "6:",
            step!("0", "0"),
            "add {a}, 4",
            "add {a4}, 4",
            "add {b}, 64",
            "dec {k}",
            "jnz 6b",
            "7:",
            rows_of_c!(store),
            t = inout(reg) usize::from(args.accumulate) => _,
            c = in(reg) args.c,
            ldc = in(reg) args.ldc * size_of::<f32>(),
            k = inout(reg) args.k => _,
            a = inout(reg) args.a => _,
            a4 = inout(reg) args.a.wrapping_add(4 * args.lda) => _,
            l = in(reg) l,
            l3 = in(reg) 3 * l,
            b = inout(reg) args.b => _,
            panel = in(reg) args.b_panel * size_of::<f32>(),
            lines = inout(reg) lines => _,
            step = in(reg) 4 * step,
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
            out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
            out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
            out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
            out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
            out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
            out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
            out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
            options(nostack),
        );
    }
}
