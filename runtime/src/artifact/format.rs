//! The layout of an artifact file: an ELF64 file whose section `.lith.header` holds a [`Header`] that names and checks
//! all others, and the footer that marks an artifact appended to the runner. Knows bytes only: no files, no mapping.

use serde::{Deserialize, Serialize};

/// Raised with every change of this layout or of [`crate::abi`].
pub const FORMAT_VERSION: u32 = 6;

/// Value of the ELF header's OS ABI byte: none that an operating system would load.
pub const ELF_OS_ABI: u8 = 0xCE;

/// Alignment in the file of sections that are mapped: text and weights.
pub const PAGE: u64 = 4096;

/// Section names. All but the weights carry a checksum.
pub mod section {
    /// The [`super::Header`].
    pub const HEADER: &str = ".lith.header";
    /// Machine code, page-aligned.
    pub const TEXT: &str = ".text";
    /// The [`crate::manifest::Manifest`] as JSON.
    pub const MANIFEST: &str = ".lith.manifest";
    /// The optimised program in text form.
    pub const GRAPH: &str = ".lith.graph";
    /// Kernels and memory plan, readable.
    pub const PLAN: &str = ".lith.plan";
    /// Named files, see [`super::encode_assets`].
    pub const ASSETS: &str = ".lith.assets";
    /// Constants, aligned to 64 bytes.
    pub const CONSTS: &str = ".lith.consts";
    /// Weights, page-aligned, each aligned to 64 bytes.
    pub const WEIGHTS: &str = ".lith.weights";
}

const HEADER_MAGIC: [u8; 8] = *b"LITH\x7fart";
/// Bytes of a [`Footer`] at the end of an executable.
pub const FOOTER_BYTES: usize = 28;

/// The programs that an executable may hold. Footers stand at its end, that of [`Part::Answers`] last and that of
/// [`Part::Training`], where there is one, before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What answers.
    Answers,
    /// What learns.
    Training,
}

impl Part {
    fn magic(self) -> [u8; 8] {
        match self {
            Part::Answers => *b"LITH\x7fexe",
            Part::Training => *b"LITH\x7ftrn",
        }
    }
}

/// A section as the header lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// Name.
    pub name: String,
    /// Offset from the artifact's first byte.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
    /// CRC-32 of the content; absent for the weights.
    pub crc32: Option<u32>,
}

/// What is checked before anything else is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of Lith that wrote the file.
    pub lith: String,
    /// CPU features the code needs, by the names of `is_x86_feature_detected`.
    pub features: Vec<String>,
    /// Target architecture, as `x86_64`.
    pub arch: String,
    /// All sections but the header.
    pub sections: Vec<Section>,
}

/// Why bytes are no header, footer or asset table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// No magic number where it should be.
    #[error("no Lith artifact header")]
    Magic,
    /// Another version of the format.
    #[error("artifact format version {found}, this version of Lith reads {FORMAT_VERSION}: compile the model again")]
    Version {
        /// The version found.
        found: u32,
    },
    /// Fewer bytes than announced.
    #[error("{what} is truncated: {expected} bytes announced, {found} there")]
    Truncated {
        /// What was read.
        what: &'static str,
        /// Bytes announced.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// The checksum differs.
    #[error("{what} is damaged: checksum {found:08x}, expected {expected:08x}")]
    Checksum {
        /// What was read.
        what: String,
        /// The checksum written.
        expected: u32,
        /// The checksum of the bytes there.
        found: u32,
    },
    /// The content is not what it should be.
    #[error("{what} is malformed: {problem}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// CRC-32 (IEEE 802.3).
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// Checks `bytes` against a checksum; `what` names them in the error.
///
/// # Errors
/// [`FormatError::Checksum`] when they differ.
pub fn check_crc32(what: &str, bytes: &[u8], expected: u32) -> Result<(), FormatError> {
    let found = crc32(bytes);
    if found == expected { Ok(()) } else { Err(FormatError::Checksum { what: what.into(), expected, found }) }
}

/// The first `N` bytes at `at`, if they are there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

impl Header {
    /// Bytes of the header section: magic, format version, length and CRC-32 of the JSON that follows.
    pub fn encode(&self) -> Vec<u8> {
        // A struct of strings and integers always has a JSON form.
        let json = serde_json::to_vec(self).unwrap_or_default();
        let mut bytes = HEADER_MAGIC.to_vec();
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend((json.len() as u32).to_le_bytes());
        bytes.extend(crc32(&json).to_le_bytes());
        bytes.extend(json);
        bytes
    }

    /// Reads the header section.
    ///
    /// # Errors
    /// When the magic, the version, the length or the checksum is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Header, FormatError> {
        if array::<8>(bytes, 0) != Some(HEADER_MAGIC) {
            return Err(FormatError::Magic);
        }
        let word = |at| {
            array(bytes, at).map(u32::from_le_bytes).ok_or(FormatError::Truncated {
                what: "the header",
                expected: 20,
                found: bytes.len() as u64,
            })
        };
        let (version, length, crc) = (word(8)?, word(12)?, word(16)?);
        if version != FORMAT_VERSION {
            return Err(FormatError::Version { found: version });
        }
        let json = &bytes[20..];
        let json = json.get(..length as usize).ok_or(FormatError::Truncated {
            what: "the header",
            expected: length.into(),
            found: json.len() as u64,
        })?;
        check_crc32("the header", json, crc)?;
        serde_json::from_slice(json).map_err(|e| FormatError::Malformed { what: "the header", problem: e.to_string() })
    }

    /// The section of this name.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|s| s.name == name)
    }
}

/// At the end of an executable: where in the file an artifact lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Offset of the artifact in the file, page-aligned.
    pub offset: u64,
    /// Size of the artifact in bytes.
    pub size: u64,
}

impl Footer {
    /// The footer's bytes: magic, offset, size, CRC-32 of these two.
    pub fn encode(&self, part: Part) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[..8].copy_from_slice(&part.magic());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.size.to_le_bytes());
        let crc = crc32(&bytes[8..24]);
        bytes[24..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The footer of a part in a file of which these are the last bytes, or the last before other footers; `None` when
    /// there is none.
    ///
    /// # Errors
    /// When there is one and it is damaged or points outside the file.
    pub fn decode(part: Part, tail: &[u8], file_size: u64) -> Result<Option<Footer>, FormatError> {
        let Some(bytes) = tail.len().checked_sub(FOOTER_BYTES).and_then(|at| array::<FOOTER_BYTES>(tail, at)) else {
            return Ok(None);
        };
        if bytes[..8] != part.magic() {
            return Ok(None);
        }
        let word = |at| u64::from_le_bytes(array(&bytes, at).unwrap_or_default());
        check_crc32("the footer", &bytes[8..24], u32::from_le_bytes(array(&bytes, 24).unwrap_or_default()))?;
        let footer = Footer { offset: word(8), size: word(16) };
        match footer.offset.checked_add(footer.size) {
            Some(end) if end <= file_size => Ok(Some(footer)),
            _ => Err(FormatError::Truncated { what: "the artifact", expected: footer.size, found: file_size }),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct AssetIndex {
    files: Vec<(String, u64, u64)>,
}

/// The asset section: length of a JSON index, the index (name, offset, size), then the files' bytes.
pub fn encode_assets<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let (mut index, mut data) = (AssetIndex { files: Vec::new() }, Vec::new());
    for (name, bytes) in files {
        index.files.push((name.into(), data.len() as u64, bytes.len() as u64));
        data.extend_from_slice(bytes);
    }
    let json = serde_json::to_vec(&index).unwrap_or_default();
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json);
    out.extend(data);
    out
}

/// The files of an asset section, in the order written.
///
/// # Errors
/// When the section is truncated or its index is not one.
pub fn decode_assets(bytes: &[u8]) -> Result<Vec<(String, &[u8])>, FormatError> {
    const WHAT: &str = "the asset section";
    let truncated = |expected| FormatError::Truncated { what: WHAT, expected, found: bytes.len() as u64 };
    let length = array(bytes, 0).map(u64::from_le_bytes).ok_or_else(|| truncated(8))?;
    let rest = &bytes[8..];
    let json = usize::try_from(length).ok().and_then(|n| rest.get(..n)).ok_or_else(|| truncated(length))?;
    let data = &rest[json.len()..];
    let index: AssetIndex =
        serde_json::from_slice(json).map_err(|e| FormatError::Malformed { what: WHAT, problem: e.to_string() })?;
    let file = |(name, offset, size): (String, u64, u64)| {
        let (start, end) =
            (usize::try_from(offset).ok(), offset.checked_add(size).and_then(|e| usize::try_from(e).ok()));
        match (start, end) {
            (Some(s), Some(e)) => data.get(s..e).map(|b| (name, b)).ok_or_else(|| truncated(e as u64)),
            _ => Err(truncated(offset)),
        }
    };
    index.files.into_iter().map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            lith: "0.1.0".into(),
            features: vec!["avx2".into()],
            arch: "x86_64".into(),
            sections: vec![Section { name: section::TEXT.into(), offset: 4096, size: 10, crc32: Some(7) }],
        }
    }

    #[test]
    fn header_round_trip() {
        assert_eq!(Header::decode(&header().encode()), Ok(header()));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_header_is_refused() {
        let good = header().encode();
        for i in 0..good.len() {
            assert!(Header::decode(&good[..i]).is_err(), "cut at {i}");
            let mut bad = good.clone();
            bad[i] ^= 0x10;
            assert!(Header::decode(&bad).is_err(), "byte {i}");
        }
    }

    #[test]
    fn footer_round_trip() {
        let footer = Footer { offset: 8192, size: 100 };
        for (part, other) in [(Part::Answers, Part::Training), (Part::Training, Part::Answers)] {
            assert_eq!(Footer::decode(part, &footer.encode(part), 9000), Ok(Some(footer)));
            assert_eq!(Footer::decode(part, &footer.encode(other), 9000), Ok(None));
            assert_eq!(Footer::decode(part, &[0; 64], 64), Ok(None));
            assert!(Footer::decode(part, &footer.encode(part), 8200).is_err());
            let mut bad = footer.encode(part);
            bad[9] ^= 1;
            assert!(matches!(Footer::decode(part, &bad, 9000), Err(FormatError::Checksum { .. })));
        }
    }

    #[test]
    fn assets_round_trip() {
        let files = [("config.json", b"{}".as_slice()), ("empty", b"")];
        let bytes = encode_assets(files);
        let back = decode_assets(&bytes).unwrap();
        assert_eq!(back, files.map(|(n, b)| (n.to_string(), b)).to_vec());
        for i in 0..bytes.len() {
            let _ = decode_assets(&bytes[..i]);
        }
        assert!(decode_assets(&bytes[..bytes.len() - 1]).is_err());
    }
}
