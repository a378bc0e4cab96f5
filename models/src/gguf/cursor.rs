//! Little-endian numbers and strings out of a slice of bytes, never past its end.

/// A place in a slice of bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Cursor<'a> {
        Cursor { bytes, at }
    }

    /// Bytes read so far, from the start of the slice.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    pub fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// The next `count` bytes, or what is missing of them.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| {
            format!(
                "truncated: {count} bytes at byte {} are past the end of the file, {} are left",
                self.at,
                self.left()
            )
        })?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub fn u8(&mut self) -> Result<u8, String> {
        self.array().map(u8::from_le_bytes)
    }

    pub fn u16(&mut self) -> Result<u16, String> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of things that take at least `least` bytes each: no more than can follow.
    pub fn count(&mut self, what: &str, least: usize) -> Result<usize, String> {
        let count = self.u64()?;
        let most = self.left() / least.max(1);
        usize::try_from(count).ok().filter(|&count| count <= most).ok_or_else(|| {
            format!("truncated or broken: {count} {what}, but the {} bytes left hold {most} at most", self.left())
        })
    }

    /// The bytes of a string.
    pub fn string_bytes(&mut self) -> Result<&'a [u8], String> {
        let length = self.count("bytes of a string", 1)?;
        self.take(length)
    }

    /// A string.
    pub fn string(&mut self) -> Result<&'a str, String> {
        let at = self.at;
        std::str::from_utf8(self.string_bytes()?)
            .map_err(|error| format!("the string at byte {at} is not UTF-8: {error}"))
    }
}
