//! One error for the command and the library, which knows whose fault it is.

use std::path::{Path, PathBuf};

/// Whose fault a failure is; the command's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Something failed that input cannot help: exit code 1.
    Failure = 1,
    /// Wrong usage, bad input, or a place to write to that cannot be written: exit code 2.
    Input = 2,
}

/// An error with the message a user reads.
#[derive(Debug)]
pub struct Error {
    blame: Blame,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The result of what can fail for a user.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Bad input or wrong usage.
    pub fn input(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error { blame: Blame::Input, source: source.into() }
    }

    /// A failure that input cannot help.
    pub fn failure(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error { blame: Blame::Failure, source: source.into() }
    }

    /// A file that cannot be read or written. Absence is bad input, all else a failure.
    pub fn io(path: &Path, source: std::io::Error) -> Error {
        let blame = match source.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidData => Blame::Input,
            _ => Blame::Failure,
        };
        Error { blame, source: Box::new(FileError { path: path.into(), source }) }
    }

    /// The same error of a step on the way to this file.
    pub fn on_the_way_to(self, path: &Path) -> Error {
        Error { blame: self.blame, source: format!("{}: {}", path.display(), self.source).into() }
    }

    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        self.blame
    }
}

impl From<lith_codegen::CodegenError> for Error {
    /// An artifact that cannot be written where the user wants it is the user's to mend; all else is a bug.
    fn from(error: lith_codegen::CodegenError) -> Error {
        match error {
            lith_codegen::CodegenError::Io { .. } => Error::input(error),
            _ => Error::failure(error),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
struct FileError {
    path: PathBuf,
    source: std::io::Error,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.source)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.source()
    }
}
