//! What can go wrong on the way to a model's files.

use std::io;
use std::path::PathBuf;

/// Why a file of a model could not be had. Every variant is bad input (exit code 2).
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Neither a path that exists nor a repository's name.
    #[error("`{model}` is neither a file or directory that exists nor a hub repository (`organisation/name`)")]
    NoSuchModel {
        /// What was given.
        model: String,
    },
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A directory where a file should be.
    #[error("{}: not a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A text file that is too large to be what it should be.
    #[error("{}: larger than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The largest size that is read.
        limit: u64,
    },
    /// A text file that is not UTF-8.
    #[error("{}: not UTF-8 text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// A file name that leads out of the model's directory.
    #[error("`{name}` leads out of {place}")]
    Outside {
        /// The directory or repository.
        place: String,
        /// The name.
        name: String,
    },
    /// The directory or repository does not have the file.
    #[error("{place}: no {file}")]
    Missing {
        /// The directory or repository.
        place: String,
        /// The file.
        file: String,
    },
    /// The hub does not know the repository, or does not show it without a token.
    #[error(
        "{repo}: not found on {endpoint}; if it is private, {}",
        if *with_token { "the token may not have access" } else { "set HF_TOKEN" }
    )]
    RepoNotFound {
        /// The repository.
        repo: String,
        /// The hub.
        endpoint: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The hub answers 401.
    #[error(
        "{repo}: {endpoint} answers 401; the repository does not exist, or is private and {}",
        if *with_token { "the token is invalid" } else { "HF_TOKEN is not set" }
    )]
    Unauthorized {
        /// The repository.
        repo: String,
        /// The hub.
        endpoint: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The owner grants access by request.
    #[error("{repo}: access is restricted; ask for it at {link}, then set HF_TOKEN")]
    Gated {
        /// The repository.
        repo: String,
        /// Its page.
        link: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{repo}: no revision `{revision}`")]
    RevisionNotFound {
        /// The repository.
        repo: String,
        /// The revision.
        revision: String,
    },
    /// The hub answers with another error.
    #[error("{repo}: {endpoint} answers {status}; try again later")]
    Server {
        /// The repository.
        repo: String,
        /// The hub.
        endpoint: String,
        /// The HTTP status.
        status: u16,
    },
    /// The hub could not be reached, or the connection broke.
    #[error("{repo}: {what} failed: {reason}")]
    Network {
        /// The repository.
        repo: String,
        /// What was being done.
        what: String,
        /// What went wrong.
        reason: String,
    },
    /// The hub's answer makes no sense.
    #[error("{repo}: unusable answer from {endpoint}: {reason}")]
    Answer {
        /// The repository.
        repo: String,
        /// The hub.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Only the cache may be used and it does not have what is needed.
    #[error("{repo}: {file} is not in the cache {}, and {why}", cache.display())]
    Offline {
        /// The repository.
        repo: String,
        /// The missing file, or revision.
        file: String,
        /// The cache.
        cache: PathBuf,
        /// Why the hub is not asked.
        why: String,
    },
    /// A downloaded file is not what the hub announced.
    #[error("{repo}: {file} is damaged: expected {expected}, found {found}; nothing was kept, try again")]
    Damaged {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// The announced hash or size.
        expected: String,
        /// The hash or size of what came.
        found: String,
    },
    /// The cache cannot be written.
    #[error("{}: cannot write to the hub cache: {source}; set HF_HOME or HF_HUB_CACHE to a writable directory", path.display())]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}
