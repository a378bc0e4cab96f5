//! Tables of the FlatBuffers format, read in place: every read is checked against the buffer's end. Must not know what tables
//! mean.

use std::sync::Arc;

/// A table: a position in a buffer, and where its fields are.
#[derive(Debug, Clone)]
pub(super) struct Table {
    bytes: Arc<[u8]>,
    at: usize,
    /// Where the list of field offsets begins.
    fields: usize,
    /// How many fields that list has.
    count: usize,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// A position and the offset from it that is stored there.
fn follow(bytes: &[u8], at: usize) -> Option<usize> {
    at.checked_add(u32::from_le_bytes(number(bytes, at)?) as usize)
}

impl Table {
    /// The buffer's outermost table.
    pub fn root(bytes: &Arc<[u8]>) -> Option<Table> {
        Table::at(bytes, follow(bytes, 0)?)
    }

    fn at(bytes: &Arc<[u8]>, at: usize) -> Option<Table> {
        let back = i32::from_le_bytes(number(bytes, at)?);
        let vtable = usize::try_from(i64::try_from(at).ok()?.checked_sub(i64::from(back))?).ok()?;
        let size = usize::from(u16::from_le_bytes(number(bytes, vtable)?));
        Some(Table { bytes: bytes.clone(), at, fields: vtable.checked_add(4)?, count: size.checked_sub(4)? / 2 })
    }

    /// Where a field is: `Some(None)` when the table leaves it out.
    fn field(&self, index: usize) -> Option<Option<usize>> {
        if index >= self.count {
            return Some(None);
        }
        let offset = usize::from(u16::from_le_bytes(number(&self.bytes, self.fields.checked_add(2 * index)?)?));
        if offset == 0 { Some(None) } else { self.at.checked_add(offset).map(Some) }
    }

    fn scalar<const N: usize>(&self, index: usize, default: [u8; N]) -> Option<[u8; N]> {
        match self.field(index)? {
            Some(at) => number(&self.bytes, at),
            None => Some(default),
        }
    }

    /// A number of one byte; `default` when it is left out, `None` when the buffer is broken.
    pub fn u8(&self, index: usize, default: u8) -> Option<u8> {
        self.scalar(index, [default]).map(|[byte]| byte)
    }

    /// A number of two bytes.
    pub fn i16(&self, index: usize, default: i16) -> Option<i16> {
        self.scalar(index, default.to_le_bytes()).map(i16::from_le_bytes)
    }

    /// A number of four bytes.
    pub fn i32(&self, index: usize, default: i32) -> Option<i32> {
        self.scalar(index, default.to_le_bytes()).map(i32::from_le_bytes)
    }

    /// A number of eight bytes.
    pub fn i64(&self, index: usize, default: i64) -> Option<i64> {
        self.scalar(index, default.to_le_bytes()).map(i64::from_le_bytes)
    }

    /// A table within this one; `None` also when it is left out.
    pub fn table(&self, index: usize) -> Option<Table> {
        Table::at(&self.bytes, follow(&self.bytes, self.field(index)??)?)
    }

    /// Whether a field is there.
    pub fn has(&self, index: usize) -> bool {
        matches!(self.field(index), Some(Some(_)))
    }

    /// Where the entries of a list begin and how many there are, of `size` bytes each; none when it is left out.
    fn list(&self, index: usize, size: usize) -> Option<(usize, usize)> {
        let Some(at) = self.field(index)? else { return Some((0, 0)) };
        let at = follow(&self.bytes, at)?;
        let count = u32::from_le_bytes(number(&self.bytes, at)?) as usize;
        let first = at.checked_add(4)?;
        self.bytes.get(first..first.checked_add(count.checked_mul(size)?)?)?;
        Some((first, count))
    }

    /// A text; empty when it is left out.
    pub fn text(&self, index: usize) -> Option<&str> {
        let (first, count) = self.list(index, 1)?;
        std::str::from_utf8(self.bytes.get(first..first + count)?).ok()
    }

    /// A list of tables.
    pub fn tables(&self, index: usize) -> Option<Vec<Table>> {
        let (first, count) = self.list(index, 4)?;
        (0..count).map(|i| Table::at(&self.bytes, follow(&self.bytes, first + 4 * i)?)).collect()
    }

    /// A list of pairs of numbers.
    pub fn pairs(&self, index: usize) -> Option<Vec<(i64, i64)>> {
        let (first, count) = self.list(index, 16)?;
        let word = |at| number(&self.bytes, at).map(i64::from_le_bytes);
        (0..count).map(|i| Some((word(first + 16 * i)?, word(first + 16 * i + 8)?))).collect()
    }
}
