//! The schemes that Lith quantizes weights by itself, by the names users give.

use lith_ir::quant::{PER_ROW, Scales, Scheme, Values};

const fn int8(group: usize, scales: Scales) -> Scheme {
    Scheme { bits: 8, values: Values::Offset { zero: 128 }, group, scales, mins: false }
}

const fn int4(group: usize, mins: bool) -> Scheme {
    let zero = if mins { 0 } else { 8 };
    Scheme { bits: 4, values: Values::Offset { zero }, group, scales: Scales::F16, mins }
}

/// Every scheme: its name, and what it is.
pub const SCHEMES: &[(&str, Scheme)] = &[
    ("int8", int8(PER_ROW, Scales::F32)),
    ("int8-32", int8(32, Scales::F16)),
    ("int4-32", int4(32, false)),
    ("int4-128", int4(128, false)),
    ("int4-32-min", int4(32, true)),
    ("int4-128-min", int4(128, true)),
    ("nf4", Scheme { bits: 4, values: Values::Nf4, group: 64, scales: Scales::F16, mins: false }),
];

/// The scheme of this name.
pub fn scheme(name: &str) -> Option<Scheme> {
    SCHEMES.iter().find(|(known, _)| *known == name).map(|(_, scheme)| *scheme)
}

/// The name of a scheme, or a description of one that files bring.
pub fn describe(scheme: &Scheme) -> String {
    if let Some((name, _)) = SCHEMES.iter().find(|(_, known)| known == scheme) {
        return (*name).into();
    }
    let group = match scheme.group {
        PER_ROW => "row".into(),
        group => group.to_string(),
    };
    let scales = match scheme.scales {
        Scales::F32 | Scales::F16 => String::new(),
        Scales::Super { groups } => format!(" in blocks of {}", groups * scheme.group),
    };
    let kind = match scheme.values {
        Values::Offset { .. } => "int",
        Values::Nl4 => "nl",
        Values::Nf4 => "nf",
    };
    format!("{kind}{}-{group}{}{scales}", scheme.bits, if scheme.mins { "-min" } else { "" })
}
