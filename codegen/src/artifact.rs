//! Artifact files: an ELF64 file whose sections are a module's parts, weights read, converted and packed one by one while
//! they are written. The layout of header and assets is the runtime's; here is only the ELF frame.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use lith_runtime::artifact::format::{ELF_OS_ABI, Header, PAGE, Section, crc32, encode_assets, section};
use lith_runtime::weights::{WeightData, stored};

use crate::{CodegenError, Module};

/// Writes an artifact under a temporary name, then renames it. `weights` gives each parameter by name; derived ones
/// are computed from what it gives. `assets` are
/// files to carry, by name. Same module, weights and assets: same bytes.
///
/// # Errors
/// When a weight is not to be had or not what the program says, or the file cannot be written. Nothing is left of it
/// then.
pub fn write_artifact<'w, E: From<CodegenError>>(
    path: &Path,
    module: &Module,
    weights: &mut dyn FnMut(&str) -> Result<WeightData<'w>, E>,
    assets: &[(&str, &[u8])],
) -> Result<(), E> {
    let io = |source| CodegenError::Io { path: path.into(), source };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = temporary(folder).map_err(io)?;
    let layout = Layout::new(module, assets)?;
    let mut out = Output { out: BufWriter::with_capacity(1 << 20, file.as_file_mut()), at: 0, path };
    out.write(&layout.head)?;
    for (offset, bytes) in &layout.sections {
        out.pad_to(*offset)?;
        out.write(bytes)?;
    }
    for entry in &module.manifest.params {
        out.pad_to(layout.weights + entry.offset)?;
        let data = match module.derived.sources(&entry.name) {
            None => weights(&entry.name)?,
            Some(sources) => {
                let given = sources.into_iter().map(|source| Ok((source, weights(source)?)));
                let given = given.collect::<Result<_, E>>()?;
                module.derived.value(&entry.name, given).map_err(CodegenError::from)?
            }
        };
        out.write(&stored(entry, &data).map_err(CodegenError::from)?)?;
    }
    out.pad_to(layout.size)?;
    out.out.flush().map_err(io)?;
    drop(out);
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(())
}

fn temporary(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".lith");
    // As any file that a program creates; the system takes off what the user's mask says.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// A file and how much of it is written.
struct Output<'a> {
    out: BufWriter<&'a mut File>,
    at: u64,
    path: &'a Path,
}

impl Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), CodegenError> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|source| CodegenError::Io { path: self.path.into(), source })
    }

    fn pad_to(&mut self, offset: u64) -> Result<(), CodegenError> {
        let zeros = [0; PAGE as usize];
        while self.at < offset {
            let n = (offset - self.at).min(PAGE) as usize;
            self.write(&zeros[..n])?;
        }
        Ok(())
    }
}

/// Where everything lies.
struct Layout<'m> {
    /// ELF header, header section, section names and section table.
    head: Vec<u8>,
    /// Offset and content of all other sections but the weights.
    sections: Vec<(u64, Cow<'m, [u8]>)>,
    /// Offset of the weights.
    weights: u64,
    /// Size of the file.
    size: u64,
}

impl<'m> Layout<'m> {
    fn new(module: &'m Module, assets: &[(&str, &[u8])]) -> Result<Layout<'m>, CodegenError> {
        let manifest = serde_json::to_vec(&module.manifest)
            .map_err(|e| CodegenError::Internal { what: "manifest".into(), problem: e.to_string() })?;
        let contents: [(&str, Cow<'m, [u8]>, u64); 6] = [
            (section::MANIFEST, manifest.into(), 8),
            (section::GRAPH, module.graph_text.as_bytes().into(), 8),
            (section::PLAN, module.plan_text.as_bytes().into(), 8),
            (section::ASSETS, encode_assets(assets.iter().copied()).into(), 8),
            (section::CONSTS, module.consts.as_slice().into(), 64),
            (section::TEXT, module.text.as_slice().into(), PAGE),
        ];
        let weight_bytes = module.manifest.params.iter().map(|p| p.offset + p.bytes).max().unwrap_or(0);
        let checksums: Vec<u32> = contents.iter().map(|(_, bytes, _)| crc32(bytes)).collect();
        // The head's size depends on the offsets it tells, and they on it: pages are added until it fits.
        let mut base = PAGE;
        loop {
            let mut sections = Vec::new();
            let mut end = base;
            for ((name, bytes, alignment), crc) in contents.iter().zip(&checksums) {
                let offset = end.next_multiple_of(*alignment);
                end = offset + bytes.len() as u64;
                sections.push(Section { name: (*name).into(), offset, size: bytes.len() as u64, crc32: Some(*crc) });
            }
            let weights = end.next_multiple_of(PAGE);
            sections.push(Section { name: section::WEIGHTS.into(), offset: weights, size: weight_bytes, crc32: None });
            let header = Header {
                lith: env!("CARGO_PKG_VERSION").into(),
                features: module.target().features().iter().map(|f| f.to_string()).collect(),
                arch: module.target().arch().into(),
                sections,
            };
            let head = elf_head(&header);
            if head.len() as u64 <= base {
                let offsets = header.sections.iter().map(|s| s.offset);
                let sections = offsets.zip(contents.into_iter().map(|(_, bytes, _)| bytes)).collect();
                return Ok(Layout { head, sections, weights, size: weights + weight_bytes });
            }
            base = (head.len() as u64).next_multiple_of(PAGE);
        }
    }
}

/// ELF header, header section, names, section table. A relocatable file without relocations: tools show its sections.
fn elf_head(header: &Header) -> Vec<u8> {
    const ELF_HEADER: usize = 64;
    const NAMES: &str = ".shstrtab";
    let content = header.encode();
    let mut names = vec![0u8];
    let mut name = |text: &str| {
        let at = names.len() as u32;
        names.extend_from_slice(text.as_bytes());
        names.push(0);
        at
    };
    // (name, type, flags, offset, size, alignment); the first is the empty one that ELF wants.
    let mut table: Vec<(u32, u32, u64, u64, u64, u64)> = vec![(0, 0, 0, 0, 0, 0)];
    let (progbits, alloc, exec) = (1, 2, 4);
    table.push((name(section::HEADER), progbits, 0, ELF_HEADER as u64, content.len() as u64, 8));
    for s in &header.sections {
        let (flags, alignment) = match s.name.as_str() {
            section::TEXT => (alloc | exec, PAGE),
            section::WEIGHTS => (alloc, PAGE),
            section::CONSTS => (alloc, 64),
            _ => (0, 8),
        };
        table.push((name(&s.name), progbits, flags, s.offset, s.size, alignment));
    }
    let names_at = ELF_HEADER + content.len();
    let names_name = name(NAMES);
    table.push((names_name, 3, 0, names_at as u64, names.len() as u64, 1));
    let table_at = (names_at + names.len()).next_multiple_of(8);

    let mut head = b"\x7fELF".to_vec();
    // 64 bits, little-endian, version 1, OS ABI and its version.
    head.extend([2, 1, 1, ELF_OS_ABI, 0]);
    head.resize(16, 0);
    let (relocatable, x86_64, version) = (1u16, 62u16, 1u32);
    head.extend(relocatable.to_le_bytes());
    head.extend(x86_64.to_le_bytes());
    head.extend(version.to_le_bytes());
    // Entry point, program headers: none.
    head.extend([0; 16]);
    head.extend((table_at as u64).to_le_bytes());
    // Flags; sizes of header, program headers (none) and their count, section headers and theirs, place of the names.
    head.extend(0u32.to_le_bytes());
    for half in [ELF_HEADER, 0, 0, 64, table.len(), table.len() - 1] {
        head.extend((half as u16).to_le_bytes());
    }
    head.extend(content);
    head.extend(names);
    head.resize(table_at, 0);
    for (name, kind, flags, offset, size, alignment) in table {
        head.extend(name.to_le_bytes());
        head.extend(kind.to_le_bytes());
        // Flags, address, offset, size, link and info (none), alignment, entry size (none).
        for word in [flags, 0, offset, size, 0, alignment, 0] {
            head.extend(word.to_le_bytes());
        }
    }
    head
}
