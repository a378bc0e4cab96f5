//! The values of rows: what JSON, CSV and Parquet have in common. Must not know rows or files.

use std::fmt;

use serde_json::Number;

/// One value of a row.
///
/// Three words, where a `serde_json::Value` takes nine: a data set holds many. Whole numbers and others are told apart,
/// because the ones are classes and the others regression targets. Fields of a struct keep their order.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// Nothing: null, an empty cell, a field that a row lacks.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(Box<str>),
    /// Several values.
    List(Box<[Value]>),
    /// Named values.
    Struct(Box<[(Box<str>, Value)]>),
}

impl Value {
    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number it is or, as CSV has nothing but texts, spells.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Bool(b) => Some(i64::from(*b)),
            Value::Int(i) => Some(*i),
            // Exactly the numbers that lie within i64.
            Value::Float(f) if f.fract() == 0.0 && (-(2f64.powi(63))..2f64.powi(63)).contains(f) => Some(*f as i64),
            Value::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// The finite number it is or spells.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Value::Bool(b) => Some(f64::from(u8::from(*b))),
            Value::Int(i) => Some(*i as f64),
            Value::Float(f) => Some(*f),
            Value::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
        .filter(|f| f.is_finite())
    }

    /// The values of a list.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::List(values) => Some(values),
            _ => None,
        }
    }

    /// The field `name` of a struct.
    pub fn field(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Struct(fields) => fields.iter().find(|(n, _)| **n == *name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Whether it is nothing.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// What kind of value it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Int(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Struct(_) => "a struct",
        }
    }

    /// The same as JSON; a number that is not finite becomes null.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Null => serde_json::Value::Null,
            Value::Bool(b) => (*b).into(),
            Value::Int(i) => (*i).into(),
            Value::Float(f) => Number::from_f64(*f).map_or(serde_json::Value::Null, serde_json::Value::Number),
            Value::Text(text) => (**text).into(),
            Value::List(values) => values.iter().map(Value::to_json).collect(),
            Value::Struct(fields) => fields.iter().map(|(n, v)| (n.to_string(), v.to_json())).collect(),
        }
    }
}

impl From<serde_json::Value> for Value {
    /// Whole numbers beyond 64 bits become floats.
    fn from(json: serde_json::Value) -> Value {
        match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(b) => Value::Bool(b),
            serde_json::Value::Number(n) => match n.as_i64() {
                Some(i) => Value::Int(i),
                None => n.as_f64().map_or(Value::Null, Value::Float),
            },
            serde_json::Value::String(text) => Value::Text(text.into()),
            serde_json::Value::Array(values) => Value::List(values.into_iter().map(Value::from).collect()),
            serde_json::Value::Object(fields) => {
                Value::Struct(fields.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
            }
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text.into())
    }
}

impl From<i64> for Value {
    fn from(i: i64) -> Value {
        Value::Int(i)
    }
}

impl From<f64> for Value {
    fn from(f: f64) -> Value {
        Value::Float(f)
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Value {
        Value::Bool(b)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(values: Vec<T>) -> Value {
        Value::List(values.into_iter().map(Into::into).collect())
    }
}

impl fmt::Display for Value {
    /// Texts as they are, all else as JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            other => other.to_json().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_small_and_survive_json() {
        assert!(size_of::<Value>() <= 24);
        let text = r#"{"a":[1,2.5,null,true,"x"],"b":{"c":-9223372036854775808}}"#;
        let json: serde_json::Value = serde_json::from_str(text).unwrap();
        let value = Value::from(json);
        assert_eq!(value.to_json().to_string(), text);
        assert_eq!(value.field("b").and_then(|b| b.field("c")).and_then(Value::as_int), Some(i64::MIN));
        let huge = Value::from(serde_json::from_str::<serde_json::Value>("18446744073709551615").unwrap());
        assert_eq!(huge, Value::Float(18446744073709551615.0));
    }

    #[test]
    fn numbers_are_read_from_texts_too() {
        assert_eq!(Value::from(" 7 ").as_int(), Some(7));
        assert_eq!(Value::from("7.5").as_int(), None);
        assert_eq!(Value::from("7.5").as_float(), Some(7.5));
        assert_eq!(Value::Float(3.0).as_int(), Some(3));
        for f in [3.5, f64::NAN, f64::INFINITY, 9.3e18, -9.3e18] {
            assert_eq!(Value::Float(f).as_int(), None, "{f}");
        }
        assert_eq!(Value::from("nan").as_float(), None);
    }
}
