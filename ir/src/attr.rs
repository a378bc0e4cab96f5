//! Attributes of ops as plain values, so that printer, parser and tools treat all ops alike.

use crate::dim::{Dim, Symbol};
use crate::dtype::DType;
use crate::types::{Literal, Type};

/// The value of an attribute in a form that does not depend on the op.
#[derive(Clone, Debug, PartialEq)]
pub enum AttrValue {
    /// An integer or a dimension expression.
    Dim(Dim),
    /// A floating-point number.
    Float(f64),
    /// A bare word: a dtype, `true`, the name of a reduction, or a single symbol.
    Word(String),
    /// Text in quotes.
    Text(String),
    /// A tensor type.
    Type(Type),
    /// A constant tensor.
    Literal(Literal),
    /// A list.
    List(Vec<AttrValue>),
}

/// A Rust type that can be an attribute of an op.
pub trait Attribute: Sized {
    /// The plain value.
    fn to_value(&self) -> AttrValue;
    /// Back from the plain value; the error says what was expected.
    fn from_value(value: &AttrValue) -> Result<Self, String>;
}

fn expected<T>(what: &str, found: &AttrValue) -> Result<T, String> {
    Err(format!("expected {what}, found {found:?}"))
}

impl Attribute for Dim {
    fn to_value(&self) -> AttrValue {
        AttrValue::Dim(self.clone())
    }
    fn from_value(value: &AttrValue) -> Result<Self, String> {
        match value {
            AttrValue::Dim(d) => Ok(d.clone()),
            AttrValue::Word(w) => Ok(Dim::symbol(&Symbol::new(w))),
            other => expected("a dimension", other),
        }
    }
}

impl Attribute for usize {
    fn to_value(&self) -> AttrValue {
        AttrValue::Dim(Dim::from(*self))
    }
    fn from_value(value: &AttrValue) -> Result<Self, String> {
        match value {
            AttrValue::Dim(d) => match d.as_const().and_then(|v| usize::try_from(v).ok()) {
                Some(v) => Ok(v),
                None => expected("a whole number", value),
            },
            other => expected("a whole number", other),
        }
    }
}

impl Attribute for i64 {
    fn to_value(&self) -> AttrValue {
        AttrValue::Dim(Dim::from(*self))
    }
    fn from_value(value: &AttrValue) -> Result<Self, String> {
        match value {
            AttrValue::Dim(d) => d.as_const().ok_or_else(|| format!("expected an integer, found {value:?}")),
            other => expected("an integer", other),
        }
    }
}

impl Attribute for f64 {
    fn to_value(&self) -> AttrValue {
        AttrValue::Float(*self)
    }
    fn from_value(value: &AttrValue) -> Result<Self, String> {
        match value {
            AttrValue::Float(v) => Ok(*v),
            AttrValue::Dim(d) => d.as_const().map(|v| v as f64).ok_or_else(|| "expected a number".to_string()),
            other => expected("a number", other),
        }
    }
}

impl Attribute for bool {
    fn to_value(&self) -> AttrValue {
        AttrValue::Word(self.to_string())
    }
    fn from_value(value: &AttrValue) -> Result<Self, String> {
        match value {
            AttrValue::Word(w) if w == "true" => Ok(true),
            AttrValue::Word(w) if w == "false" => Ok(false),
            other => expected("true or false", other),
        }
    }
}

impl Attribute for String {
    fn to_value(&self) -> AttrValue {
        AttrValue::Text(self.clone())
    }
    fn from_value(value: &AttrValue) -> Result<Self, String> {
        match value {
            AttrValue::Text(t) => Ok(t.clone()),
            other => expected("text in quotes", other),
        }
    }
}

impl Attribute for DType {
    fn to_value(&self) -> AttrValue {
        AttrValue::Word(self.name().to_string())
    }
    fn from_value(value: &AttrValue) -> Result<Self, String> {
        match value {
            AttrValue::Word(w) => w.parse().map_err(|e: crate::dtype::UnknownDType| e.to_string()),
            other => expected("a dtype", other),
        }
    }
}

impl Attribute for Type {
    fn to_value(&self) -> AttrValue {
        AttrValue::Type(self.clone())
    }
    fn from_value(value: &AttrValue) -> Result<Self, String> {
        match value {
            AttrValue::Type(t) => Ok(t.clone()),
            other => expected("a type", other),
        }
    }
}

impl Attribute for Literal {
    fn to_value(&self) -> AttrValue {
        AttrValue::Literal(self.clone())
    }
    fn from_value(value: &AttrValue) -> Result<Self, String> {
        match value {
            AttrValue::Literal(l) => Ok(l.clone()),
            other => expected("a constant", other),
        }
    }
}

impl<T: Attribute> Attribute for Vec<T> {
    fn to_value(&self) -> AttrValue {
        AttrValue::List(self.iter().map(Attribute::to_value).collect())
    }
    fn from_value(value: &AttrValue) -> Result<Self, String> {
        match value {
            AttrValue::List(items) => items.iter().map(T::from_value).collect(),
            other => expected("a list", other),
        }
    }
}
