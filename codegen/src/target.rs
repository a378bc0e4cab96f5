//! What machine code is made for: an architecture and its instruction set extensions.

use std::sync::Arc;

use cranelift_codegen::isa::{self, OwnedTargetIsa, TargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use target_lexicon::Triple;

use crate::CodegenError;
use crate::wide::Isa;

/// A target: x86-64 at one of its levels, or with what this machine has.
#[derive(Clone)]
pub struct Target {
    name: String,
    features: Vec<&'static str>,
    isa: OwnedTargetIsa,
    wide: bool,
}

/// Extensions of the x86-64 levels that code uses, by CPUID name, and Cranelift's setting where it has one.
const LEVELS: [(&str, &[(&str, &str)]); 3] = [
    (
        "x86-64-v2",
        &[
            ("sse3", "has_sse3"),
            ("ssse3", "has_ssse3"),
            ("sse4.1", "has_sse41"),
            ("sse4.2", "has_sse42"),
            ("popcnt", "has_popcnt"),
        ],
    ),
    (
        "x86-64-v3",
        &[
            ("avx", "has_avx"),
            ("avx2", "has_avx2"),
            ("fma", "has_fma"),
            ("bmi1", "has_bmi1"),
            ("bmi2", "has_bmi2"),
            ("lzcnt", "has_lzcnt"),
        ],
    ),
    (
        "x86-64-v4",
        &[("avx512f", "has_avx512f"), ("avx512bw", ""), ("avx512dq", "has_avx512dq"), ("avx512vl", "has_avx512vl")],
    ),
];

impl Target {
    /// The names [`Target::new`] takes.
    pub const NAMES: [&str; 4] = ["native", "x86-64-v2", "x86-64-v3", "x86-64-v4"];

    /// The target of this name. `native` is the highest level that this machine has.
    ///
    /// # Errors
    /// When the name is none of [`Target::NAMES`], or `native` is asked for on a machine that is no x86-64-v2.
    pub fn new(name: &str) -> Result<Target, CodegenError> {
        let level = match name {
            "native" => native_level()
                .ok_or_else(|| CodegenError::Target { name: "native (this machine has no x86-64-v2)".into() })?,
            other => LEVELS
                .iter()
                .position(|(n, _)| *n == other)
                .ok_or_else(|| CodegenError::Target { name: name.into() })?,
        };
        let features: Vec<_> = LEVELS[..=level].iter().flat_map(|(_, f)| f.iter().copied()).collect();
        let isa = build(&features).map_err(|problem| CodegenError::Internal { what: "target".into(), problem })?;
        Ok(Target {
            name: LEVELS[level].0.into(),
            features: features.iter().map(|(cpuid, _)| *cpuid).collect(),
            isa,
            wide: true,
        })
    }

    /// Name of the level.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The architecture, as in artifacts' headers.
    pub fn arch(&self) -> &'static str {
        "x86_64"
    }

    /// CPU features the code may use, by the names of `is_x86_feature_detected`.
    pub fn features(&self) -> &[&'static str] {
        &self.features
    }

    /// Whether a fused multiply-add is one instruction.
    pub fn has_fma(&self) -> bool {
        self.features.contains(&"fma")
    }

    /// The same target, but loops have vectors of 128 bits whatever it has: for comparison.
    pub fn without_wide_vectors(self) -> Target {
        Target { wide: false, ..self }
    }

    /// The instruction set of [`crate::wide`] that the target has.
    pub(crate) fn wide_isa(&self) -> Option<Isa> {
        let has = |feature| self.wide && self.features.contains(&feature);
        match (has("avx512f"), has("avx2")) {
            (true, _) => Some(Isa::Avx512),
            (_, true) => Some(Isa::Avx2),
            _ => None,
        }
    }

    /// Lanes of the vectors that [`crate::wide`] has on this target, the most first.
    pub(crate) fn wide_lanes(&self) -> &'static [i64] {
        match self.wide_isa() {
            Some(Isa::Avx512) => &[16, 8],
            Some(Isa::Avx2) => &[8],
            None => &[],
        }
    }

    pub(crate) fn isa(&self) -> &dyn TargetIsa {
        &*self.isa
    }
}

fn build(features: &[(&str, &str)]) -> Result<OwnedTargetIsa, String> {
    let mut flags = settings::builder();
    for (name, value) in [
        ("opt_level", "speed"),
        // All code is one section, where a near address is relative anyway; "pic" would ask for a table of addresses.
        ("is_pic", "false"),
        ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
        ("unwind_info", "false"),
        ("enable_alias_analysis", "true"),
    ] {
        flags.set(name, value).map_err(|e| e.to_string())?;
    }
    let triple: Triple = "x86_64-unknown-linux-gnu".parse().map_err(|e| format!("{e}"))?;
    let mut builder = isa::lookup(triple).map_err(|e| e.to_string())?;
    for (_, setting) in features.iter().filter(|(_, setting)| !setting.is_empty()) {
        builder.enable(setting).map_err(|e| format!("{setting}: {e}"))?;
    }
    let isa: Arc<dyn TargetIsa> = builder.finish(settings::Flags::new(flags)).map_err(|e| e.to_string())?;
    Ok(isa)
}

#[cfg(target_arch = "x86_64")]
fn native_level() -> Option<usize> {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt");
    let v3 = has!("avx") && has!("avx2") && has!("fma") && has!("bmi1") && has!("bmi2") && has!("lzcnt");
    let v4 = v3 && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
    v2.then_some(usize::from(v3) + usize::from(v4))
}

#[cfg(not(target_arch = "x86_64"))]
fn native_level() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_add_up() {
        assert!(!Target::new("x86-64-v2").unwrap().has_fma());
        let v3 = Target::new("x86-64-v3").unwrap();
        assert!(v3.has_fma() && v3.features().contains(&"sse4.1"));
        assert!(Target::new("vax").is_err());
    }
}
