//! Every environment variable that Lith itself reads, with what it means; those that compiled programs read too stand in
//! `lith_runtime::env`. The hub's variables are read by `lith_models::source`.

use std::path::PathBuf;

/// Folder for compiled artifacts and bundled models; default `$XDG_CACHE_HOME/lith` or `~/.cache/lith`.
pub const CACHE: &str = "LITH_CACHE";
/// Path of the runner that executables are made of; default `lith-runner` beside the running program,
/// or `lith-trainer` for one that learns.
pub const RUNNER: &str = "LITH_RUNNER";

/// The cache folder; `None` when no variable names a place for it.
pub fn cache_folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set(CACHE)
        .or_else(|| set("XDG_CACHE_HOME").map(|p| p.join("lith")))
        .or_else(|| set("HOME").map(|p| p.join(".cache/lith")))
}

/// The runner's path, when it is set.
pub fn runner() -> Option<PathBuf> {
    std::env::var_os(RUNNER).filter(|v| !v.is_empty()).map(PathBuf::from)
}
