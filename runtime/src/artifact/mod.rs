//! Opening an artifact: mapping the file, checking every section before it is used. Knows nothing of running code.

pub mod format;
mod map;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::manifest::Manifest;
use crate::states::Arena;
use format::{FOOTER_BYTES, Footer, FormatError, Header, Part, check_crc32, section};
use map::{CodeMap, FileMap};

/// Why an artifact cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is no artifact, or a damaged one.
    #[error("{}: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: FormatError,
    },
    /// A section is missing.
    #[error("{}: no section `{section}`", path.display())]
    NoSection {
        /// The file.
        path: PathBuf,
        /// The section.
        section: String,
    },
    /// The artifact was made for another processor.
    #[error("{}: compiled for {arch} with {needed}, which this machine lacks; compile with a lower --target", path.display())]
    Cpu {
        /// The file.
        path: PathBuf,
        /// Architecture it was made for.
        arch: String,
        /// What is missing here.
        needed: String,
    },
}

/// An open artifact. Sections are mapped, not copied; the file must not be changed while it is open.
#[derive(Debug)]
pub struct Artifact {
    path: PathBuf,
    map: FileMap,
    code: CodeMap,
    header: Header,
    manifest: Manifest,
    assets: Vec<(String, std::ops::Range<usize>)>,
    /// Where in the file it begins.
    offset: u64,
    /// Weights instead of the file's.
    replaced: Option<Arena>,
}

impl Artifact {
    /// Opens an artifact file or an executable that carries one.
    ///
    /// # Errors
    /// When the file cannot be read, is no artifact, is truncated, has a section that does not match its checksum, was
    /// written by another version, or needs another processor.
    pub fn open(path: &Path) -> Result<Artifact, ArtifactError> {
        let (file, size, [_, answers]) = footers(path)?;
        Artifact::at(path, &file, answers.unwrap_or(Footer { offset: 0, size }))
    }

    /// Opens the artifact that learns in an executable that carries one.
    ///
    /// # Errors
    /// As [`Artifact::open`].
    pub fn open_training(path: &Path) -> Result<Option<Artifact>, ArtifactError> {
        let (file, _, [training, _]) = footers(path)?;
        training.map(|at| Artifact::at(path, &file, at)).transpose()
    }

    /// Opens what a footer tells the place of.
    fn at(path: &Path, file: &File, at: Footer) -> Result<Artifact, ArtifactError> {
        let io = |source| ArtifactError::Io { path: path.into(), source };
        let bad = |source| ArtifactError::Format { path: path.into(), source };
        let map = FileMap::new(file, at.offset, at.size).map_err(io)?;
        let header = Header::decode(elf_section(map.bytes(), section::HEADER).map_err(bad)?).map_err(bad)?;
        check_cpu(path, &header)?;
        for s in &header.sections {
            let end = s.offset.checked_add(s.size);
            if end.is_none_or(|end| end > at.size) {
                let what = if s.name == section::WEIGHTS { "the weight section" } else { "the artifact" };
                return Err(bad(FormatError::Truncated { what, expected: end.unwrap_or(u64::MAX), found: at.size }));
            }
        }
        let get = |name: &str| section_of(path, &map, &header, name);
        let text = header.section(section::TEXT).ok_or_else(|| no_section(path, section::TEXT))?;
        let code = get(section::TEXT)?;
        let code = CodeMap::new(file, at.offset + text.offset, code).map_err(io)?;
        get(section::CONSTS)?;
        let manifest: Manifest = serde_json::from_slice(get(section::MANIFEST)?)
            .map_err(|e| bad(FormatError::Malformed { what: "the manifest", problem: e.to_string() }))?;
        let asset_bytes = get(section::ASSETS)?;
        let base = asset_bytes.as_ptr().addr() - map.bytes().as_ptr().addr();
        let assets = format::decode_assets(asset_bytes).map_err(bad)?;
        let assets = assets
            .into_iter()
            .map(|(name, bytes)| {
                let start = base + (bytes.as_ptr().addr() - asset_bytes.as_ptr().addr());
                (name, start..start + bytes.len())
            })
            .collect();
        let weights = header.section(section::WEIGHTS).map_or(0, |s| s.size);
        manifest.check(text.size, weights).map_err(bad)?;
        Ok(Artifact { path: path.into(), map, code, header, manifest, assets, offset: at.offset, replaced: None })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checked header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What the artifact says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// A section's content, checked against its checksum.
    ///
    /// # Errors
    /// When the section is missing or damaged.
    pub fn section(&self, name: &str) -> Result<&[u8], ArtifactError> {
        section_of(&self.path, &self.map, &self.header, name)
    }

    /// A section of text, checked.
    ///
    /// # Errors
    /// When the section is missing, damaged or not UTF-8.
    pub fn text_section(&self, name: &str) -> Result<&str, ArtifactError> {
        std::str::from_utf8(self.section(name)?).map_err(|e| ArtifactError::Format {
            path: self.path.clone(),
            source: FormatError::Malformed { what: "a text section", problem: format!("{name}: {e}") },
        })
    }

    /// The file of this name that the artifact carries, such as `tokenizer.json`.
    pub fn asset(&self, name: &str) -> Option<&[u8]> {
        let (_, range) = self.assets.iter().find(|(n, _)| n == name)?;
        self.map.bytes().get(range.clone())
    }

    /// Names of all files the artifact carries.
    pub fn asset_names(&self) -> impl Iterator<Item = &str> {
        self.assets.iter().map(|(n, _)| n.as_str())
    }

    /// Start of the executable mapping of the text section.
    pub(crate) fn code(&self) -> &[u8] {
        self.code.bytes()
    }

    /// The weight section; empty when there is none.
    pub fn weights(&self) -> &[u8] {
        let own = section_bytes(&self.map, &self.header, section::WEIGHTS).unwrap_or_default();
        self.replaced.as_ref().and_then(|new| new.0.get(..own.len())).unwrap_or(own)
    }

    /// Where in the file the weight section begins.
    pub(crate) fn weights_offset(&self) -> u64 {
        self.offset + self.header.section(section::WEIGHTS).map_or(0, |s| s.offset)
    }

    /// Takes other weights in the place of the file's; those of another size are not taken.
    pub(crate) fn replace_weights(&mut self, weights: Arena) {
        self.replaced = Some(weights);
    }

    /// Gives back the memory of the file's pages: of weights that were copied, for instance.
    pub(crate) fn release(&self) {
        self.map.release();
    }

    /// The section of constants, which was checked at opening.
    pub(crate) fn consts(&self) -> &[u8] {
        section_bytes(&self.map, &self.header, section::CONSTS).unwrap_or_default()
    }
}

/// A file, its size and the footers of [`Part::Training`] and [`Part::Answers`].
fn footers(path: &Path) -> Result<(File, u64, [Option<Footer>; 2]), ArtifactError> {
    let read = || -> io::Result<(File, u64, Vec<u8>)> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut tail = vec![0; size.min(2 * FOOTER_BYTES as u64) as usize];
        file.seek(SeekFrom::Start(size - tail.len() as u64))?;
        file.read_exact(&mut tail)?;
        Ok((file, size, tail))
    };
    let (file, size, tail) = read().map_err(|source| ArtifactError::Io { path: path.into(), source })?;
    let bad = |source| ArtifactError::Format { path: path.into(), source };
    let answers = Footer::decode(Part::Answers, &tail, size).map_err(bad)?;
    let before = tail.get(..tail.len().saturating_sub(FOOTER_BYTES)).filter(|_| answers.is_some());
    let training = Footer::decode(Part::Training, before.unwrap_or_default(), size).map_err(bad)?;
    Ok((file, size, [training, answers]))
}

fn no_section(path: &Path, name: &str) -> ArtifactError {
    ArtifactError::NoSection { path: path.into(), section: name.into() }
}

fn section_bytes<'a>(map: &'a FileMap, header: &Header, name: &str) -> Option<&'a [u8]> {
    let s = header.section(name)?;
    let start = usize::try_from(s.offset).ok()?;
    map.bytes().get(start..start.checked_add(usize::try_from(s.size).ok()?)?)
}

fn section_of<'a>(path: &Path, map: &'a FileMap, header: &Header, name: &str) -> Result<&'a [u8], ArtifactError> {
    let listed = header.section(name).ok_or_else(|| no_section(path, name))?;
    let bytes = section_bytes(map, header, name).ok_or_else(|| no_section(path, name))?;
    if let Some(crc) = listed.crc32 {
        check_crc32(&format!("section `{name}`"), bytes, crc)
            .map_err(|source| ArtifactError::Format { path: path.into(), source })?;
    }
    Ok(bytes)
}

/// The bytes of a section of an ELF64 little-endian file.
fn elf_section<'a>(bytes: &'a [u8], name: &str) -> Result<&'a [u8], FormatError> {
    use object::read::elf::{FileHeader, SectionHeader};
    type Elf = object::elf::FileHeader64<object::LittleEndian>;
    let malformed = |e: object::Error| FormatError::Malformed { what: "the ELF structure", problem: e.to_string() };
    let elf = Elf::parse(bytes).map_err(|_| FormatError::Magic)?;
    let endian = object::LittleEndian;
    if elf.e_ident.os_abi.0 != format::ELF_OS_ABI {
        return Err(FormatError::Magic);
    }
    let sections = elf.sections(endian, bytes).map_err(malformed)?;
    let (_, found) = sections.section_by_name(endian, name.as_bytes()).ok_or(FormatError::Magic)?;
    found.data(endian, bytes).map_err(malformed)
}

fn check_cpu(path: &Path, header: &Header) -> Result<(), ArtifactError> {
    let error = |needed: String| Err(ArtifactError::Cpu { path: path.into(), arch: header.arch.clone(), needed });
    if header.arch != std::env::consts::ARCH {
        return error(format!("the {} instruction set", header.arch));
    }
    let missing: Vec<&str> = header.features.iter().map(String::as_str).filter(|f| !has_feature(f)).collect();
    if missing.is_empty() { Ok(()) } else { error(missing.join(", ")) }
}

/// Whether this CPU has a feature; unknown names count as missing.
pub fn has_feature(name: &str) -> bool {
    macro_rules! known {
        ($($feature:tt),*) => { match name { $($feature => std::arch::is_x86_feature_detected!($feature),)* _ => false } };
    }
    #[cfg(target_arch = "x86_64")]
    {
        known!(
            "sse3",
            "ssse3",
            "sse4.1",
            "sse4.2",
            "popcnt",
            "avx",
            "avx2",
            "fma",
            "bmi1",
            "bmi2",
            "lzcnt",
            "f16c",
            "avx512f",
            "avx512vl",
            "avx512dq",
            "avx512bw",
            "avx512vbmi",
            "avx512bitalg",
            "avx512vnni"
        )
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = name;
        false
    }
}
