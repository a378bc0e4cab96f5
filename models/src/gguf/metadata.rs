//! The metadata of a GGUF file: typed values by key. Arrays stay where they are in the file; nothing here copies a
//! vocabulary. Knows no key by name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::GgufError;
use super::cursor::Cursor;

/// Arrays inside arrays, at most.
const MAX_DEPTH: usize = 4;

/// Type of a value: the ids of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Type {
    fn read(cursor: &mut Cursor<'_>) -> Result<Type, String> {
        use Type::*;
        const TYPES: [Type; 13] = [U8, I8, U16, I16, U32, I32, F32, Bool, Text, Array, U64, I64, F64];
        let id = cursor.u32()?;
        usize::try_from(id)
            .ok()
            .and_then(|id| TYPES.get(id))
            .copied()
            .ok_or_else(|| format!("unknown value type {id}, expected 0 to 12"))
    }

    /// The fewest bytes a value takes.
    fn least(self) -> usize {
        match self {
            Type::U8 | Type::I8 | Type::Bool => 1,
            Type::U16 | Type::I16 => 2,
            Type::U32 | Type::I32 | Type::F32 => 4,
            Type::U64 | Type::I64 | Type::F64 | Type::Text => 8,
            Type::Array => 12,
        }
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An unsigned integer of any width.
    Unsigned(u64),
    /// A signed integer of any width.
    Signed(i64),
    /// An `f32`.
    F32(f32),
    /// An `f64`.
    F64(f64),
    /// A truth value.
    Bool(bool),
    /// A string.
    Text(String),
    /// An array.
    Array(Array),
}

/// An array: where its elements are in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    element: Type,
    len: usize,
    start: usize,
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Value {
    fn read(cursor: &mut Cursor<'_>, of: Type, depth: usize) -> Result<Value, String> {
        Ok(match of {
            Type::U8 => Value::Unsigned(cursor.u8()?.into()),
            Type::I8 => Value::Signed((cursor.u8()? as i8).into()),
            Type::U16 => Value::Unsigned(cursor.u16()?.into()),
            Type::I16 => Value::Signed((cursor.u16()? as i16).into()),
            Type::U32 => Value::Unsigned(cursor.u32()?.into()),
            Type::I32 => Value::Signed((cursor.u32()? as i32).into()),
            Type::U64 => Value::Unsigned(cursor.u64()?),
            Type::I64 => Value::Signed(cursor.u64()? as i64),
            Type::F32 => Value::F32(f32::from_bits(cursor.u32()?)),
            Type::F64 => Value::F64(f64::from_bits(cursor.u64()?)),
            Type::Bool => match cursor.u8()? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(format!("expected a boolean, 0 or 1, found {other}")),
            },
            Type::Text => Value::Text(cursor.string()?.to_string()),
            Type::Array => {
                if depth == MAX_DEPTH {
                    return Err(format!("arrays nested more than {MAX_DEPTH} deep"));
                }
                let element = Type::read(cursor)?;
                let len = cursor.count("array elements", element.least())?;
                let start = cursor.at();
                match element {
                    // Elements of any length are walked once here, so that what comes after them is found and reading
                    // them later cannot fail.
                    Type::Text => (0..len).try_for_each(|_| cursor.string_bytes().map(drop))?,
                    Type::Array => (0..len).try_for_each(|_| Value::read(cursor, element, depth + 1).map(drop))?,
                    // The count above made sure that this does not overflow.
                    plain => cursor.take(len * plain.least()).map(drop)?,
                }
                Value::Array(Array { element, len, start })
            }
        })
    }

    /// As an integer that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::Unsigned(value) => Some(value),
            Value::Signed(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    /// As a number. An `f32` becomes the `f64` of its shortest decimal form, which is what the configuration it came
    /// from says: 1e-5, not 9.99999974737875e-6.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::F32(value) => value.to_string().parse().ok(),
            Value::F64(value) => Some(value),
            Value::Unsigned(value) => Some(value as f64),
            Value::Signed(value) => Some(value as f64),
            _ => None,
        }
    }
}

/// How messages show a value.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Unsigned(value) => write!(f, "integer {value}"),
            Value::Signed(value) => write!(f, "integer {value}"),
            Value::F32(value) => write!(f, "number {value}"),
            Value::F64(value) => write!(f, "number {value}"),
            Value::Bool(value) => write!(f, "boolean {value}"),
            Value::Text(text) => write!(f, "string {:?}", text.chars().take(40).collect::<String>()),
            Value::Array(array) => write!(f, "an array of {} elements", array.len),
        }
    }
}

/// The metadata of one file. Lent values borrow the file's bytes.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    file: PathBuf,
    entries: BTreeMap<String, Value>,
}

impl Metadata {
    /// Reads `count` entries at the cursor.
    pub fn read(cursor: &mut Cursor<'_>, count: usize, file: &Path) -> Result<Metadata, GgufError> {
        let mut entries = BTreeMap::new();
        for index in 0..count {
            let key =
                cursor.string().map_err(|reason| GgufError::file(file, format!("metadata key {index}: {reason}")))?;
            let value = Type::read(cursor).and_then(|of| Value::read(cursor, of, 0));
            let value = value.map_err(|reason| GgufError::key(file, key, reason))?;
            if entries.insert(key.to_string(), value).is_some() {
                return Err(GgufError::key(file, key, "given twice"));
            }
        }
        Ok(Metadata { file: file.to_path_buf(), entries })
    }

    /// The file, for messages.
    pub fn file(&self) -> &Path {
        &self.file
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// Every entry, by key.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    fn expect<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value)
            .map(Some)
            .ok_or_else(|| GgufError::key(&self.file, key, format!("expected {expected}, found {value}")))
    }

    pub fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.expect(key, "a string", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.expect(key, "a boolean", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    pub fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.expect(key, "a finite number", |value| value.as_f64().filter(|value| value.is_finite()))
    }

    /// A size: an integer from 0 to 2^31 - 1, so that the product of two never overflows 64 bits.
    pub fn size(&self, key: &str) -> Result<Option<usize>, GgufError> {
        self.expect(key, "an integer from 0 to 2147483647", |value| {
            value.as_u64().filter(|&value| value < 1 << 31).map(|value| value as usize)
        })
    }

    /// An absent entry that must be there.
    pub fn missing(&self, key: &str) -> GgufError {
        GgufError::key(&self.file, key, "expected, but it is not there")
    }

    pub fn array(&self, key: &str) -> Result<Option<&Array>, GgufError> {
        self.expect(key, "an array", |value| match value {
            Value::Array(array) => Some(array),
            _ => None,
        })
    }

    /// The strings of an array, out of the bytes of the file.
    pub fn texts<'b>(&self, key: &str, bytes: &'b [u8]) -> Result<Option<Vec<&'b str>>, GgufError> {
        let Some(array) = self.array(key)? else { return Ok(None) };
        if array.element != Type::Text {
            return Err(GgufError::key(&self.file, key, "expected an array of strings"));
        }
        let mut cursor = Cursor::new(bytes, array.start);
        let texts: Result<Vec<&str>, String> = (0..array.len).map(|_| cursor.string()).collect();
        texts.map(Some).map_err(|reason| GgufError::key(&self.file, key, reason))
    }

    /// The numbers of an array, out of the bytes of the file; booleans count as 0 and 1.
    pub fn numbers(&self, key: &str, bytes: &[u8]) -> Result<Option<Vec<f64>>, GgufError> {
        let Some(array) = self.array(key)? else { return Ok(None) };
        let wrong = |reason: String| GgufError::key(&self.file, key, reason);
        let mut cursor = Cursor::new(bytes, array.start);
        let mut numbers = Vec::new();
        for _ in 0..array.len {
            match Value::read(&mut cursor, array.element, MAX_DEPTH).map_err(wrong)? {
                // Exactly, not by its decimal form: scores of a vocabulary are compared with each other.
                Value::F32(value) => numbers.push(value.into()),
                Value::Bool(value) => numbers.push(f64::from(u8::from(value))),
                value => numbers.push(value.as_f64().ok_or_else(|| wrong(format!("expected numbers, found {value}")))?),
            }
        }
        Ok(Some(numbers))
    }

    /// The bytes of an array of bytes.
    pub fn raw<'b>(&self, key: &str, bytes: &'b [u8]) -> Result<Option<&'b [u8]>, GgufError> {
        let Some(array) = self.array(key)? else { return Ok(None) };
        match array.element {
            Type::U8 | Type::I8 => Ok(bytes.get(array.start..array.start.saturating_add(array.len))),
            _ => Err(GgufError::key(&self.file, key, "expected an array of bytes")),
        }
    }
}
