//! Which instruction set the kernels use: found once by CPUID, narrowed on request.
//!
//! This module knows no kernel; it only decides which [`Simd`](super::simd::Simd) implementation runs one.

use std::sync::atomic::{AtomicU8, Ordering};

use super::simd::{Kernel, Portable, Simd};
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};

/// An instruction set the kernels are written for. All of them give the same bits, but for one exception:
/// [`Isa::Portable`], compiled for a target without a fused multiply-add, takes it in f64 and rounds twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Isa {
    /// Plain Rust, any machine: the oracle of the others.
    Portable = 1,
    /// AVX2 with FMA and F16C (x86-64-v3).
    Avx2 = 2,
    /// AVX-512 F, DQ, BW and VL (x86-64-v4), with VNNI.
    Avx512 = 3,
}

/// A request for an instruction set that cannot be met.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IsaError {
    /// The name is none of `portable`, `avx2`, `avx512`.
    #[error("unknown instruction set `{0}`: expected portable, avx2 or avx512")]
    Unknown(String),
    /// The CPU lacks it.
    #[error("this CPU has no {requested}: the best it has is {best}", requested = .requested.name(), best = .best.name())]
    Missing {
        /// What was asked for.
        requested: Isa,
        /// What [`Isa::detect`] finds.
        best: Isa,
    },
}

/// 0 until the first use; then the `Isa` in force.
static CURRENT: AtomicU8 = AtomicU8::new(0);

impl Isa {
    /// All instruction sets, from the plainest on.
    pub const ALL: [Isa; 3] = [Isa::Portable, Isa::Avx2, Isa::Avx512];

    /// The best instruction set of this CPU (and operating system), by CPUID.
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            let v4 = has!("avx512f") && has!("avx512dq") && has!("avx512bw") && has!("avx512vl");
            if avx2 && v4 && has!("avx512vnni") {
                return Isa::Avx512;
            }
            if avx2 {
                return Isa::Avx2;
            }
        }
        Isa::Portable
    }

    /// The instruction sets this CPU can run, from the plainest on.
    pub fn available() -> impl Iterator<Item = Isa> {
        let best = Isa::detect();
        Isa::ALL.into_iter().filter(move |&isa| isa <= best)
    }

    /// `portable`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// The instruction set in force: what [`select`] chose, else the best of the CPU.
    pub fn current() -> Isa {
        match CURRENT.load(Ordering::Relaxed) {
            1 => Isa::Portable,
            2 => Isa::Avx2,
            3 => Isa::Avx512,
            _ => {
                let isa = Isa::detect();
                // Losing a race against `select` must not undo the selection.
                let _ = CURRENT.compare_exchange(0, isa as u8, Ordering::Relaxed, Ordering::Relaxed);
                Isa::current()
            }
        }
    }

    /// Runs `kernel` compiled for this instruction set.
    ///
    /// # Panics
    /// If the CPU lacks it ([`Isa::current`] never names such a one).
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Isa::Portable => Portable.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::new().expect("a CPU with AVX2").vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::new().expect("a CPU with AVX-512").vectorize(kernel),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => unreachable!("x86 instruction sets are never detected elsewhere"),
        }
    }
}

/// Makes all kernels of this process use the instruction set called `name` (the value of `LITH_ISA`), or the best of
/// the CPU again for `None`.
///
/// # Errors
/// If the name is unknown, or the CPU lacks that instruction set.
pub fn select(name: Option<&str>) -> Result<Isa, IsaError> {
    let best = Isa::detect();
    let isa = match name {
        None => best,
        Some(name) => {
            Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| IsaError::Unknown(name.to_owned()))?
        }
    };
    if isa > best {
        return Err(IsaError::Missing { requested: isa, best });
    }
    CURRENT.store(isa as u8, Ordering::Relaxed);
    Ok(isa)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_select_and_unknown_names_do_not() {
        // Only the error cases touch nothing; a successful `select` is process-wide, so re-select what is in force.
        assert_eq!(select(Some("sse")), Err(IsaError::Unknown("sse".into())));
        assert_eq!(select(Some(Isa::detect().name())), Ok(Isa::detect()));
        assert_eq!(Isa::current(), Isa::detect());
        assert_eq!(Isa::available().last(), Some(Isa::detect()));
    }
}
