//! Element types of stored tensors: those Lith computes with, and those it only knows by name.

use std::fmt;

use lith_ir::DType;

/// The element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// A type Lith has.
    Known(DType),
    /// A type that files hold and Lith does not read: its safetensors name and its size in bits.
    Foreign(&'static str, u8),
}

/// The safetensors name of each type.
const NAMES: &[(&str, Element)] = &[
    ("BOOL", Element::Known(DType::Bool)),
    ("U8", Element::Known(DType::U8)),
    ("I8", Element::Known(DType::I8)),
    ("I16", Element::Known(DType::I16)),
    ("I32", Element::Known(DType::I32)),
    ("U32", Element::Known(DType::U32)),
    ("I64", Element::Known(DType::I64)),
    ("F16", Element::Known(DType::F16)),
    ("BF16", Element::Known(DType::Bf16)),
    ("F32", Element::Known(DType::F32)),
    ("F64", Element::Known(DType::F64)),
    ("U16", Element::Foreign("U16", 16)),
    ("U64", Element::Foreign("U64", 64)),
    ("C64", Element::Foreign("C64", 64)),
    ("F8_E4M3", Element::Foreign("F8_E4M3", 8)),
    ("F8_E5M2", Element::Foreign("F8_E5M2", 8)),
    ("F8_E8M0", Element::Foreign("F8_E8M0", 8)),
    ("F8_E4M3FNUZ", Element::Foreign("F8_E4M3FNUZ", 8)),
    ("F8_E5M2FNUZ", Element::Foreign("F8_E5M2FNUZ", 8)),
    ("F6_E2M3", Element::Foreign("F6_E2M3", 6)),
    ("F6_E3M2", Element::Foreign("F6_E3M2", 6)),
    ("F4", Element::Foreign("F4", 4)),
];

impl Element {
    /// The type with this safetensors name.
    pub fn from_safetensors(name: &str) -> Option<Element> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, element)| *element)
    }

    /// Size of one element in bits.
    pub const fn bits(self) -> usize {
        match self {
            Element::Known(dtype) => dtype.size() * 8,
            Element::Foreign(_, bits) => bits as usize,
        }
    }

    /// Bytes of a tensor of this type, or `None` when that overflows or is no whole number of bytes.
    pub fn bytes_of(self, shape: &[usize]) -> Option<usize> {
        let elements = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))?;
        let bits = elements.checked_mul(self.bits())?;
        (bits % 8 == 0).then_some(bits / 8)
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Known(dtype) => dtype.fmt(f),
            Element::Foreign(name, _) => f.write_str(name),
        }
    }
}
