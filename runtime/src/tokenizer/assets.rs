//! Where tokenizer files come from: a directory on disk or the files stored inside a compiled artifact.
//! Must not know what the files mean.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// The files a tokenizer may consist of. A compiler that stores the tokenizer in an artifact stores those that exist.
pub const TOKENIZER_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/tool_use.jinja",
    "additional_chat_templates/rag.jinja",
];

/// SentencePiece models, recognised only to say what is missing.
pub(super) const SENTENCEPIECE_FILES: &[&str] = &["spiece.model", "sentencepiece.bpe.model", "tokenizer.model"];

/// A larger file is no tokenizer file.
const MAX_BYTES: u64 = 1 << 30;

/// A set of named files.
pub trait Assets {
    /// The bytes of the file `name`, `None` if there is no such file.
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    fn read(&self, name: &str) -> io::Result<Option<Cow<'_, [u8]>>>;

    /// How to call the whole set in a message (a path).
    fn place(&self) -> String;
}

/// The files of a directory.
#[derive(Debug, Clone)]
pub struct Directory(pub PathBuf);

impl Assets for Directory {
    fn read(&self, name: &str) -> io::Result<Option<Cow<'_, [u8]>>> {
        let path = self.0.join(name);
        match std::fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
            Ok(meta) if meta.len() > MAX_BYTES => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} bytes is more than a tokenizer file may have ({MAX_BYTES})", meta.len()),
            )),
            Ok(_) => std::fs::read(&path).map(|bytes| Some(Cow::Owned(bytes))),
        }
    }

    fn place(&self) -> String {
        self.0.display().to_string()
    }
}

/// Files in memory, by name.
impl<B: AsRef<[u8]>> Assets for BTreeMap<String, B> {
    fn read(&self, name: &str) -> io::Result<Option<Cow<'_, [u8]>>> {
        Ok(self.get(name).map(|bytes| Cow::Borrowed(bytes.as_ref())))
    }

    fn place(&self) -> String {
        "artifact".into()
    }
}
