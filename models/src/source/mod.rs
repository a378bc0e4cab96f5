//! Where a model's files are: a directory, a single file, or a repository of the hub and its cache.
//!
//! A [`Source`] gives files by name. It knows nothing of what is in them.

mod cache;
mod env;
mod error;
mod hub;

pub use env::HubEnv;
pub use error::SourceError;

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use hub::HubRepo;

/// How to find a model's files (CKP-08). The defaults are those of the environment.
#[derive(Clone, Debug, Default)]
pub struct SourceOptions {
    /// Branch, tag, commit or `refs/pr/N`; `main` if not given.
    pub revision: Option<String>,
    /// The cache, instead of the environment's.
    pub cache_dir: Option<PathBuf>,
    /// The token, instead of the environment's.
    pub token: Option<String>,
    /// The hub, instead of the environment's.
    pub endpoint: Option<String>,
    /// Use the cache only, open no socket.
    pub local_files_only: bool,
    /// Download again what the cache already has.
    pub force_download: bool,
    /// A folder inside the model's directory or repository.
    pub subfolder: Option<String>,
}

/// The files of one model, at one commit.
#[derive(Debug)]
pub struct Source {
    place: Place,
    /// `""`, or the subfolder with a slash at its end.
    prefix: String,
}

#[derive(Debug)]
enum Place {
    Folder { path: PathBuf, config: Option<PathBuf>, weights: Option<PathBuf> },
    Hub(Box<HubRepo>),
}

impl Source {
    /// Finds a model: a directory, a `config.json` or other JSON configuration, a `.safetensors` or PyTorch file
    /// with its configuration beside it (CKP-20), or the name of a repository, `org/name` or `org/name@revision`.
    /// For a repository its revision is resolved to a commit, once, and every file comes from that commit.
    pub fn open(model: &str, options: &SourceOptions, env: &HubEnv) -> Result<Source, SourceError> {
        let no_such = || SourceError::NoSuchModel { model: model.to_string() };
        let prefix = match options.subfolder.as_deref().map(|folder| folder.trim_matches('/')) {
            None | Some("") => String::new(),
            Some(folder) if is_inside(folder) => format!("{folder}/"),
            Some(folder) => return Err(SourceError::Outside { place: model.to_string(), name: folder.to_string() }),
        };
        let path = Path::new(model);
        if path.is_dir() {
            return Ok(Source {
                place: Place::Folder { path: path.to_path_buf(), config: None, weights: None },
                prefix,
            });
        }
        if path.is_file() {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let file = Some(path.to_path_buf());
            let (config, weights) = match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => (file, None),
                Some("safetensors" | "bin" | "pt" | "pth") => (None, file),
                _ => return Err(no_such()),
            };
            return Ok(Source { place: Place::Folder { path: folder.to_path_buf(), config, weights }, prefix });
        }
        let (repo, at) = model.split_once('@').map_or((model, None), |(repo, at)| (repo, Some(at)));
        if !is_repo_id(repo) {
            return Err(no_such());
        }
        let revision = options.revision.as_deref().or(at).unwrap_or("main");
        let repo = HubRepo::open(repo, revision, options, env)?;
        Ok(Source { place: Place::Hub(Box::new(repo)), prefix })
    }

    /// A local directory.
    pub fn folder_at(path: impl Into<PathBuf>) -> Source {
        Source { place: Place::Folder { path: path.into(), config: None, weights: None }, prefix: String::new() }
    }

    /// The directory the files are in: the model's own, or the snapshot in the cache.
    pub fn folder(&self) -> PathBuf {
        match &self.place {
            Place::Folder { path, .. } if self.prefix.is_empty() => path.clone(),
            Place::Folder { path, .. } => path.join(&self.prefix),
            Place::Hub(repo) => repo.snapshot().join(&self.prefix),
        }
    }

    /// What to call the model in messages: its path, or its repository and revision.
    pub fn describe(&self) -> String {
        match &self.place {
            Place::Folder { .. } => self.folder().display().to_string(),
            Place::Hub(repo) if self.prefix.is_empty() => repo.describe(),
            Place::Hub(repo) => format!("{}, folder {}", repo.describe(), self.prefix.trim_end_matches('/')),
        }
    }

    /// The commit every file comes from; `None` for a directory.
    pub fn commit(&self) -> Option<&str> {
        match &self.place {
            Place::Folder { .. } => None,
            Place::Hub(repo) => Some(repo.commit()),
        }
    }

    /// What the user should know, one sentence each: for instance that the hub could not be reached.
    pub fn warnings(&self) -> &[String] {
        match &self.place {
            Place::Folder { .. } => &[],
            Place::Hub(repo) => repo.warnings(),
        }
    }

    /// Why the hub is not asked for files the cache lacks; `None` when it is, and for a directory.
    pub fn offline(&self) -> Option<&str> {
        match &self.place {
            Place::Folder { .. } => None,
            Place::Hub(repo) => repo.offline(),
        }
    }

    /// The configuration: the file the user gave, or `config.json`.
    pub fn config_file(&self) -> Result<Option<PathBuf>, SourceError> {
        match &self.place {
            Place::Folder { config: Some(config), .. } => Ok(Some(config.clone())),
            _ => self.optional("config.json"),
        }
    }

    /// The weights, if the user gave them as a file.
    pub fn weights_file(&self) -> Option<&Path> {
        match &self.place {
            Place::Folder { weights, .. } => weights.as_deref(),
            Place::Hub(_) => None,
        }
    }

    fn full_name(&self, name: &str) -> Result<String, SourceError> {
        match is_inside(name) {
            true => Ok(format!("{}{name}", self.prefix)),
            false => Err(SourceError::Outside { place: self.describe(), name: name.to_string() }),
        }
    }

    /// Whether there is a file of that name. Downloads nothing.
    pub fn exists(&self, name: &str) -> Result<bool, SourceError> {
        let full = self.full_name(name)?;
        match &self.place {
            Place::Folder { path, .. } => Ok(path.join(full).is_file()),
            Place::Hub(repo) => repo.exists(&full),
        }
    }

    /// The path of a file, downloaded if need be; `None` if there is none of that name.
    pub fn optional(&self, name: &str) -> Result<Option<PathBuf>, SourceError> {
        let full = self.full_name(name)?;
        match &self.place {
            Place::Folder { path, .. } => Ok(Some(path.join(full)).filter(|path| path.is_file())),
            Place::Hub(repo) => repo.get(&full),
        }
    }

    /// The path of a file, downloaded if need be; an error if there is none of that name.
    pub fn required(&self, name: &str) -> Result<PathBuf, SourceError> {
        if let Some(path) = self.optional(name)? {
            return Ok(path);
        }
        match &self.place {
            Place::Folder { .. } => Err(SourceError::Missing { place: self.describe(), file: name.to_string() }),
            Place::Hub(repo) => Err(repo.missing(&self.full_name(name)?)),
        }
    }

    /// The names of the files directly in the directory, as far as they are known without asking again; sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names = match &self.place {
            Place::Hub(repo) => repo.names(),
            Place::Folder { path, .. } => {
                files_in(&path.join(&self.prefix)).into_iter().map(|name| self.prefix.clone() + &name).collect()
            }
        };
        names.retain_mut(|name| match name.strip_prefix(&self.prefix) {
            Some(rest) if !rest.contains('/') => {
                *name = rest.to_string();
                true
            }
            _ => false,
        });
        names.sort();
        names
    }
}

/// The names of the files in a directory; none if it cannot be read.
fn files_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_file()).filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Whether a name from outside stays inside the directory it is relative to.
pub fn is_inside(name: &str) -> bool {
    let mut parts = Path::new(name).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_))) && !name.contains(['\\', '\0'])
}

/// Whether `text` can be the name of a repository: `name` or `org/name` of letters, digits, `-`, `_` and `.`, without
/// `--` or `..` (the hub's rule).
fn is_repo_id(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let part = |part: &str| {
        !part.is_empty() && part.chars().all(plain) && !part.starts_with(['-', '.']) && !part.ends_with(['-', '.'])
    };
    let file = [".json", ".safetensors", ".bin", ".lith", ".gguf", ".onnx"].iter().any(|ending| text.ends_with(ending));
    text.len() <= 96
        && text.split('/').count() <= 2
        && text.split('/').all(part)
        && !text.contains("--")
        && !text.contains("..")
        && !file
}

/// Reads a text file of at most `limit` bytes.
pub fn read_text(path: &Path, limit: u64) -> Result<String, SourceError> {
    let io = |source| SourceError::Io { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(io)?;
    if !file.metadata().map_err(io)?.is_file() {
        return Err(SourceError::NotAFile { path: path.to_path_buf() });
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit {
        return Err(SourceError::TooLarge { path: path.to_path_buf(), limit });
    }
    String::from_utf8(bytes).map_err(|_| SourceError::NotText { path: path.to_path_buf() })
}
