//! The columns of an Arrow stream: names and types. Must not know their values.

use super::flatbuffer::Table;
use super::{Result, broken};

/// More fields, nested ones included, are no table of rows.
const MAX_FIELDS: usize = 10_000;
/// Deeper nesting is refused.
const MAX_DEPTH: usize = 32;

/// The type of a column's values, as far as it decides how they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool,
    /// Whole numbers (dates and times too, in the unit they are stored in) of this many bytes.
    Int {
        bytes: usize,
        signed: bool,
    },
    /// Floats of this many bytes.
    Float {
        bytes: usize,
    },
    /// Texts or bytes with offsets of this many bytes.
    Text {
        offset: usize,
    },
    /// Lists with offsets of this many bytes.
    List {
        offset: usize,
    },
    /// Lists of this length.
    FixedList {
        length: u64,
    },
    Struct,
}

/// A column or a part of one.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub name: Box<str>,
    pub kind: Kind,
    pub children: Vec<Field>,
    /// For values that are places in a list of values: its number, and the type of the places.
    pub dictionary: Option<(i64, Kind)>,
}

impl Field {
    /// This field or the first within it whose values stand in the dictionary `id`.
    pub fn with_dictionary(&self, id: i64) -> Option<&Field> {
        if self.dictionary.is_some_and(|(own, _)| own == id) {
            return Some(self);
        }
        self.children.iter().find_map(|child| child.with_dictionary(id))
    }

    /// The field of the dictionary's values.
    pub fn values(&self) -> Field {
        Field { dictionary: None, ..self.clone() }
    }
}

/// The list of fields at `index` of a table.
pub(super) fn fields(table: &Table, index: usize) -> Result<Vec<Field>> {
    let mut left = MAX_FIELDS;
    nested(table, index, MAX_DEPTH, &mut left)
}

fn nested(table: &Table, index: usize, depth: usize, left: &mut usize) -> Result<Vec<Field>> {
    let tables = table.tables(index).ok_or_else(broken)?;
    *left = left.checked_sub(tables.len()).ok_or("the Arrow file has too many columns")?;
    if depth == 0 && !tables.is_empty() {
        return Err("the Arrow file's columns are nested too deeply".into());
    }
    tables.iter().map(|table| field(table, depth.saturating_sub(1), left)).collect()
}

fn field(table: &Table, depth: usize, left: &mut usize) -> Result<Field> {
    let name: Box<str> = table.text(0).ok_or_else(broken)?.into();
    let children = nested(table, 5, depth, left)?;
    let code = table.u8(2, 0).ok_or_else(broken)?;
    let kind = match (code, table.table(3)) {
        (_, None) => return Err(broken()),
        (1, _) => Kind::Null,
        (2, Some(int)) => self::int(&int)?,
        (3, Some(float)) => {
            Kind::Float { bytes: 2 << float.i16(0, 0).filter(|p| (0..3).contains(p)).ok_or_else(broken)? }
        }
        (4 | 5, _) => Kind::Text { offset: 4 },
        (6, _) => Kind::Bool,
        // Days, or milliseconds.
        (8, Some(date)) => Kind::Int { bytes: if date.i16(0, 1) == Some(0) { 4 } else { 8 }, signed: true },
        (9, Some(time)) => Kind::Int { bytes: if time.i32(1, 32) == Some(32) { 4 } else { 8 }, signed: true },
        (10 | 18, _) => Kind::Int { bytes: 8, signed: true },
        (12, _) | (17, _) => Kind::List { offset: 4 },
        (13, _) => Kind::Struct,
        (16, Some(list)) => {
            let length = list.i32(0, 0).and_then(|n| u64::try_from(n).ok()).ok_or_else(broken)?;
            Kind::FixedList { length }
        }
        (19 | 20, _) => Kind::Text { offset: 8 },
        (21, _) => Kind::List { offset: 8 },
        (code, _) => return Err(format!("column {name:?}: Arrow type {code} is not read")),
    };
    let lists = matches!(kind, Kind::List { .. } | Kind::FixedList { .. });
    if lists && children.len() != 1 {
        return Err(broken());
    }
    let dictionary = match table.table(4) {
        None if table.has(4) => return Err(broken()),
        None => None,
        Some(encoding) => {
            let id = encoding.i64(0, 0).ok_or_else(broken)?;
            let places = encoding.table(1).map_or(Ok(Kind::Int { bytes: 4, signed: true }), |int| self::int(&int))?;
            Some((id, places))
        }
    };
    Ok(Field { name, kind, children, dictionary })
}

fn int(table: &Table) -> Result<Kind> {
    let bits = table.i32(0, 0).filter(|bits| [8, 16, 32, 64].contains(bits)).ok_or_else(broken)?;
    Ok(Kind::Int { bytes: bits as usize / 8, signed: table.u8(1, 0) == Some(1) })
}
