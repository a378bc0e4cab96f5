//! The values of a column of one batch, read from its buffers as they are asked for. Must not know files.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::super::value::Value;
use super::flatbuffer::Table;
use super::schema::{Field, Kind};
use super::{Result, broken};

/// The buffers of a batch, handed out in order.
pub(super) struct Buffers {
    /// Rows of the batch.
    pub length: u64,
    body: Arc<[u8]>,
    /// Length of each array, and how many of its values are null.
    nodes: std::vec::IntoIter<(i64, i64)>,
    /// Offset and length of each buffer in the body.
    buffers: std::vec::IntoIter<(i64, i64)>,
}

impl Buffers {
    /// The buffers that a batch's table describes.
    pub fn new(table: &Table, body: Vec<u8>) -> Result<Buffers> {
        if table.has(3) {
            return Err("compressed Arrow files are not read; write them without compression, or as Parquet".into());
        }
        Ok(Buffers {
            length: table.i64(0, 0).and_then(|n| u64::try_from(n).ok()).ok_or_else(broken)?,
            body: body.into(),
            nodes: table.pairs(1).ok_or_else(broken)?.into_iter(),
            buffers: table.pairs(2).ok_or_else(broken)?.into_iter(),
        })
    }

    /// The next buffer, of at least `size` bytes.
    fn next(&mut self, size: Option<u64>) -> Result<Slice> {
        let (offset, length) = self.buffers.next().ok_or_else(broken)?;
        let (start, length) = usize::try_from(offset).ok().zip(usize::try_from(length).ok()).ok_or_else(broken)?;
        let end = start.checked_add(length).filter(|end| *end <= self.body.len()).ok_or_else(broken)?;
        if size.is_none_or(|size| size > length as u64) {
            return Err(broken());
        }
        Ok(Slice { body: self.body.clone(), start, end })
    }
}

/// A part of a batch's bytes.
#[derive(Debug, Clone)]
struct Slice {
    body: Arc<[u8]>,
    start: usize,
    end: usize,
}

impl Slice {
    fn bytes(&self) -> &[u8] {
        self.body.get(self.start..self.end).unwrap_or_default()
    }

    fn bit(&self, at: u64) -> Result<bool> {
        let byte = usize::try_from(at / 8).ok().and_then(|at| self.bytes().get(at)).ok_or_else(broken)?;
        Ok(byte >> (at % 8) & 1 == 1)
    }

    /// The `at`-th number of `N` bytes.
    fn number<const N: usize>(&self, at: u64) -> Result<[u8; N]> {
        let start = usize::try_from(at).ok().and_then(|at| at.checked_mul(N)).ok_or_else(broken)?;
        let bytes = start.checked_add(N).and_then(|end| self.bytes().get(start..end)).ok_or_else(broken)?;
        bytes.try_into().map_err(|_| broken())
    }

    /// The `at`-th offset.
    fn offset(&self, at: u64, bytes: usize) -> Result<u64> {
        let offset = match bytes {
            4 => i64::from(i32::from_le_bytes(self.number(at)?)),
            _ => i64::from_le_bytes(self.number(at)?),
        };
        u64::try_from(offset).map_err(|_| broken())
    }

    fn int(&self, at: u64, bytes: usize, signed: bool) -> Result<Value> {
        Ok(Value::Int(match (bytes, signed) {
            (1, true) => i8::from_le_bytes(self.number(at)?).into(),
            (2, true) => i16::from_le_bytes(self.number(at)?).into(),
            (4, true) => i32::from_le_bytes(self.number(at)?).into(),
            (_, true) => i64::from_le_bytes(self.number(at)?),
            (1, false) => u8::from_le_bytes(self.number(at)?).into(),
            (2, false) => u16::from_le_bytes(self.number(at)?).into(),
            (4, false) => u32::from_le_bytes(self.number(at)?).into(),
            (_, false) => {
                let wide = u64::from_le_bytes(self.number(at)?);
                return Ok(i64::try_from(wide).map_or(Value::Float(wide as f64), Value::Int));
            }
        }))
    }

    fn float(&self, at: u64, bytes: usize) -> Result<f64> {
        Ok(match bytes {
            2 => half::f16::from_le_bytes(self.number(at)?).into(),
            4 => f32::from_le_bytes(self.number(at)?).into(),
            _ => f64::from_le_bytes(self.number(at)?),
        })
    }
}

/// The values of a column.
#[derive(Debug)]
pub(super) struct Array {
    length: u64,
    kind: Kind,
    /// A bit for each value that is there; `None` when all are.
    valid: Option<Slice>,
    /// Offsets, numbers or bits.
    first: Option<Slice>,
    /// The bytes of texts.
    second: Option<Slice>,
    children: Vec<(Box<str>, Array)>,
    /// The values that numbers are places of.
    dictionary: Option<Arc<Array>>,
}

impl Array {
    /// Takes the buffers of a field.
    pub fn read(field: &Field, buffers: &mut Buffers, dictionaries: &HashMap<i64, Arc<Array>>) -> Result<Array> {
        let (length, nulls) = buffers.nodes.next().ok_or_else(broken)?;
        let length = u64::try_from(length).map_err(|_| broken())?;
        let (kind, dictionary) = match field.dictionary {
            Some((id, places)) => (places, Some(dictionaries.get(&id).ok_or_else(broken)?.clone())),
            None => (field.kind, None),
        };
        let mut array =
            Array { length, kind, valid: None, first: None, second: None, children: Vec::new(), dictionary };
        if kind == Kind::Null {
            return Ok(array);
        }
        let valid = buffers.next(Some(if nulls == 0 { 0 } else { length.div_ceil(8) }))?;
        array.valid = Some(valid).filter(|_| nulls != 0);
        let offsets = |bytes: usize| length.checked_add(1).and_then(|n| n.checked_mul(bytes as u64));
        match kind {
            Kind::Null | Kind::Struct | Kind::FixedList { .. } => {}
            Kind::Bool => array.first = Some(buffers.next(Some(length.div_ceil(8)))?),
            Kind::Int { bytes, .. } | Kind::Float { bytes } => {
                array.first = Some(buffers.next(length.checked_mul(bytes as u64))?);
            }
            // An array of nothing may leave its only offset out.
            Kind::Text { offset } => {
                array.first = Some(buffers.next(if length == 0 { Some(0) } else { offsets(offset) })?);
                array.second = Some(buffers.next(Some(0))?);
            }
            Kind::List { offset } => {
                array.first = Some(buffers.next(if length == 0 { Some(0) } else { offsets(offset) })?);
            }
        }
        if field.dictionary.is_none() {
            for child in &field.children {
                let values = Array::read(child, buffers, dictionaries)?;
                // Lists say by offsets, or by their length, which values are theirs.
                if kind == Kind::Struct && values.length != length {
                    return Err(broken());
                }
                array.children.push((child.name.clone(), values));
            }
        }
        Ok(array)
    }

    /// Number of values.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether the number of values is bounded by the bytes that hold them.
    pub fn is_bounded(&self) -> bool {
        match self.kind {
            Kind::Null => false,
            Kind::Struct => self.valid.is_some() || self.children.iter().any(|(_, child)| child.is_bounded()),
            Kind::FixedList { length } => {
                self.valid.is_some() || (length > 0 && self.children.iter().any(|(_, child)| child.is_bounded()))
            }
            _ => true,
        }
    }

    /// The `at`-th value.
    pub fn value(&self, at: u64) -> Result<Value> {
        if at >= self.length {
            return Err(broken());
        }
        if self.kind == Kind::Null || self.valid.as_ref().is_some_and(|valid| valid.bit(at) == Ok(false)) {
            return Ok(Value::Null);
        }
        let first = || self.first.as_ref().ok_or_else(broken);
        match self.kind {
            Kind::Null => Ok(Value::Null),
            Kind::Bool => first()?.bit(at).map(Value::Bool),
            Kind::Int { bytes, signed } => {
                let value = first()?.int(at, bytes, signed)?;
                match &self.dictionary {
                    None => Ok(value),
                    Some(values) => {
                        let place = value.as_int().and_then(|i| u64::try_from(i).ok());
                        values.value(place.ok_or_else(broken)?)
                    }
                }
            }
            Kind::Float { bytes } => first()?.float(at, bytes).map(Value::Float),
            Kind::Text { offset } => {
                let (start, end) = (first()?.offset(at, offset)?, first()?.offset(at + 1, offset)?);
                let range = usize::try_from(start).ok().zip(usize::try_from(end).ok()).map(|(a, b)| a..b);
                let bytes = range.and_then(|range| self.second.as_ref()?.bytes().get(range)).ok_or_else(broken)?;
                let text = std::str::from_utf8(bytes).map_err(|_| "binary data cannot be read as text".to_string())?;
                Ok(text.into())
            }
            Kind::List { offset } => self.list(first()?.offset(at, offset)?, first()?.offset(at + 1, offset)?),
            Kind::FixedList { length } => {
                let start = at.checked_mul(length).ok_or_else(broken)?;
                self.list(start, start.checked_add(length).ok_or_else(broken)?)
            }
            Kind::Struct => {
                let field = |(name, child): &(Box<str>, Array)| Ok((name.clone(), child.value(at)?));
                Ok(Value::Struct(self.children.iter().map(field).collect::<Result<_>>()?))
            }
        }
    }

    /// The values `start..end` of the child.
    fn list(&self, start: u64, end: u64) -> Result<Value> {
        let Some((_, values)) = self.children.first().filter(|(_, values)| start <= end && end <= values.length) else {
            return Err(broken());
        };
        if start < end && !values.is_bounded() {
            return Err("a list of nothing but nulls cannot be read".into());
        }
        Ok(Value::List((start..end).map(|at| values.value(at)).collect::<Result<_>>()?))
    }
}
