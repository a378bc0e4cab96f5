//! As much of the zip container as PyTorch writes: entries stored without compression, zip64 where they are large.
//! Layout: PKWARE's APPNOTE, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16 (its end).

use std::collections::BTreeMap;
use std::ops::Range;

/// Where each entry's bytes are in the file.
pub(super) type Entries = BTreeMap<String, Range<usize>>;

/// Whether the bytes start like a zip file.
pub(super) fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

/// Reads the directory of a zip file. Every range lies inside `bytes`.
pub(super) fn entries(bytes: &[u8]) -> Result<Entries, String> {
    let (mut at, count) = directory(bytes).ok_or("truncated zip file: no end of central directory")?;
    let mut entries = Entries::new();
    for _ in 0..count {
        let (name, range, next) = entry(bytes, at)?;
        if entries.insert(name.clone(), range).is_some() {
            return Err(format!("zip entry `{name}` is there twice"));
        }
        at = next;
    }
    Ok(entries)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?)))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?)))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Offset of the central directory and the number of its entries.
fn directory(bytes: &[u8]) -> Option<(usize, u64)> {
    // The end record has 22 bytes and a comment of at most 65,535 that reaches to the end of the file.
    let tail = bytes.len().saturating_sub(22 + 0xffff);
    let is_end = |at: &usize| {
        let comment = bytes.len().checked_sub(at + 22);
        bytes[*at..].starts_with(b"PK\x05\x06") && comment.is_some_and(|len| u16_at(bytes, at + 20) == Some(len as u64))
    };
    let end = (tail..bytes.len()).rev().find(is_end)?;
    let (mut count, mut offset) = (u16_at(bytes, end + 10)?, u32_at(bytes, end + 16)?);
    let locator = end.checked_sub(20).filter(|at| bytes[*at..].starts_with(b"PK\x06\x07"));
    if let Some(locator) = locator {
        let end64 = usize::try_from(u64_at(bytes, locator + 8)?).ok()?;
        if !bytes.get(end64..)?.starts_with(b"PK\x06\x06") {
            return None;
        }
        count = u64_at(bytes, end64.checked_add(32)?)?;
        offset = u64_at(bytes, end64.checked_add(48)?)?;
    }
    Some((usize::try_from(offset).ok()?, count))
}

/// The entry of the central directory at `at`: its name, its bytes, and where the next one starts.
fn entry(bytes: &[u8], at: usize) -> Result<(String, Range<usize>, usize), String> {
    let cut = || "truncated zip directory".to_string();
    let record = bytes.get(at..).filter(|record| record.starts_with(b"PK\x01\x02")).ok_or_else(cut)?;
    let field16 = |at| u16_at(record, at).ok_or_else(cut);
    let field32 = |at| u32_at(record, at).ok_or_else(cut);
    let (flags, method) = (field16(8)?, field16(10)?);
    let (mut packed, mut size) = (field32(20)?, field32(24)?);
    let (name_len, extra_len, comment_len) = (field16(28)? as usize, field16(30)? as usize, field16(32)? as usize);
    let mut local = field32(42)?;
    let name = record.get(46..46 + name_len).ok_or_else(cut)?;
    let name = std::str::from_utf8(name).map_err(|_| "zip entry with a name that is not UTF-8".to_string())?;

    // Zip64: values that do not fit 32 bits stand in the extra field, in this order.
    let mut extra = record.get(46 + name_len..46 + name_len + extra_len).ok_or_else(cut)?;
    while let (Some(id), Some(len)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let body = extra.get(4..4 + len as usize).ok_or_else(cut)?;
        if id == 1 {
            let wide = [&mut size, &mut packed, &mut local].into_iter().filter(|value| **value == 0xffff_ffff);
            for (index, value) in wide.enumerate() {
                *value = u64_at(body, index * 8).ok_or_else(cut)?;
            }
        }
        extra = &extra[4 + len as usize..];
    }
    if flags & 1 != 0 || method != 0 || packed != size {
        return Err(format!("zip entry `{name}` is compressed or encrypted; PyTorch stores its entries plain"));
    }

    let outside = || format!("truncated file: zip entry `{name}` is past its end");
    let local = usize::try_from(local).map_err(|_| outside())?;
    let header = bytes.get(local..).filter(|header| header.starts_with(b"PK\x03\x04")).ok_or_else(outside)?;
    let lengths = u16_at(header, 26).zip(u16_at(header, 28)).ok_or_else(outside)?;
    // `local` is inside the file, so this cannot overflow.
    let start = local + 30 + (lengths.0 + lengths.1) as usize;
    let end = usize::try_from(size).ok().and_then(|size| start.checked_add(size)).filter(|end| *end <= bytes.len());
    let next = at + 46 + name_len + extra_len + comment_len;
    Ok((name.to_string(), start..end.ok_or_else(outside)?, next))
}
