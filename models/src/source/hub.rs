//! A repository of the hub, by way of the `hf-hub` crate.
//!
//! `hf-hub` speaks to the hub; this file adds what it leaves open: offline mode, one commit for all files, distinct
//! errors, time limits, hashes checked before a file is kept, and the fallback to the cache. A download goes to a
//! folder of its own inside the repository's cache and becomes a blob only when it is complete and right, so a broken
//! one is never seen; what came of an interrupted one is kept there and continued.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::ProgressBar;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::cache::{RepoCache, cannot_write, is_plain};
use super::{HubEnv, SourceError, SourceOptions, is_inside};

/// Largest answer about a repository that is read, in bytes.
const MAX_LISTING_BYTES: u64 = 64 << 20;

/// One repository at one commit.
#[derive(Debug)]
pub(super) struct HubRepo {
    remote: Remote,
    cache: RepoCache,
    revision: String,
    commit: String,
    /// Why the hub is not asked; `None` when it may be.
    offline: Option<String>,
    listing: OnceLock<Listing>,
    /// With `force_download`: what has been downloaded since.
    fresh: Option<Mutex<BTreeSet<String>>>,
    symlinks: bool,
    warnings: Vec<String>,
}

/// What the hub says a commit holds.
type Listing = BTreeMap<String, RemoteFile>;

#[derive(Clone, Debug, Default)]
struct RemoteFile {
    size: Option<u64>,
    /// SHA-256 of large files, git's hash of others.
    etag: Option<String>,
}

/// How to reach a repository.
#[derive(Clone, Debug)]
struct Remote {
    repo: String,
    endpoint: String,
    token: Option<String>,
    answer_timeout: Duration,
    stall_timeout: Duration,
    progress: bool,
}

impl HubRepo {
    pub fn open(repo: &str, revision: &str, options: &SourceOptions, env: &HubEnv) -> Result<HubRepo, SourceError> {
        let endpoint = options.endpoint.as_ref().unwrap_or(&env.endpoint).trim_end_matches('/').to_string();
        if !is_inside(revision) {
            return Err(SourceError::RevisionNotFound { repo: repo.to_string(), revision: revision.to_string() });
        }
        let Some(root) = options.cache_dir.clone().or_else(|| env.cache.clone()) else {
            let source = io::Error::new(io::ErrorKind::NotFound, "no home directory");
            return Err(SourceError::Cache { path: "~/.cache/huggingface/hub".into(), source });
        };
        let remote = Remote {
            repo: repo.to_string(),
            endpoint,
            token: options.token.clone().or_else(|| env.token.clone()),
            answer_timeout: env.answer_timeout,
            stall_timeout: env.stall_timeout,
            progress: env.progress,
        };
        let mut this = HubRepo {
            cache: RepoCache::new(&root, repo),
            remote,
            revision: revision.to_string(),
            commit: String::new(),
            offline: None,
            listing: OnceLock::new(),
            fresh: options.force_download.then(Mutex::default),
            symlinks: env.symlinks,
            warnings: Vec::new(),
        };
        let cached = this.cache.commit_of(revision);
        if env.offline || options.local_files_only {
            let why = if env.offline { "offline mode is on (HF_HUB_OFFLINE)" } else { "local_files_only is set" };
            this.offline = Some(why.to_string());
            this.commit = cached.ok_or_else(|| this.offline_error(&format!("revision `{revision}`")))?;
            return Ok(this);
        }
        // A commit never changes: nothing to ask while its files are in the cache.
        if cached.as_deref() == Some(revision) && !options.force_download {
            this.commit = revision.to_string();
            return Ok(this);
        }
        match (this.remote.list(revision), cached) {
            (Ok((commit, listing)), _) => {
                this.cache.set_commit(revision, &commit)?;
                this.commit = commit;
                this.listing = OnceLock::from(listing);
            }
            (Err(error @ (SourceError::Network { .. } | SourceError::Server { .. })), Some(commit)) => {
                let warning = format!("{error}; using commit {commit} from the cache");
                tracing::warn!("{warning}");
                this.warnings.push(warning);
                this.offline = Some(format!("the hub cannot be asked ({error})"));
                this.commit = commit;
            }
            (Err(error), _) => return Err(error),
        }
        Ok(this)
    }

    pub fn describe(&self) -> String {
        format!("{}@{}", self.remote.repo, self.revision)
    }

    pub fn commit(&self) -> &str {
        &self.commit
    }

    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub fn offline(&self) -> Option<&str> {
        self.offline.as_deref()
    }

    pub fn snapshot(&self) -> PathBuf {
        self.cache.snapshot(&self.commit)
    }

    fn listing(&self) -> Result<&Listing, SourceError> {
        if let Some(listing) = self.listing.get() {
            return Ok(listing);
        }
        let (_, listing) = self.remote.list(&self.commit)?;
        Ok(self.listing.get_or_init(|| listing))
    }

    pub fn names(&self) -> Vec<String> {
        match self.listing.get() {
            Some(listing) => listing.keys().cloned().collect(),
            None => files_below(&self.snapshot()),
        }
    }

    /// The file in the cache, unless it is to be downloaded anew.
    fn cached(&self, name: &str) -> Option<PathBuf> {
        let stale = self.offline.is_none()
            && self
                .fresh
                .as_ref()
                .is_some_and(|fresh| !fresh.lock().unwrap_or_else(PoisonError::into_inner).contains(name));
        Some(self.snapshot().join(name)).filter(|path| !stale && path.is_file())
    }

    pub fn exists(&self, name: &str) -> Result<bool, SourceError> {
        Ok(self.cached(name).is_some() || self.offline.is_none() && self.listing()?.contains_key(name))
    }

    pub fn get(&self, name: &str) -> Result<Option<PathBuf>, SourceError> {
        if let Some(path) = self.cached(name) {
            return Ok(Some(path));
        }
        if self.offline.is_some() {
            return Ok(None);
        }
        match self.listing()?.get(name) {
            Some(file) => self.download(name, file).map(Some),
            None => Ok(None),
        }
    }

    /// Why [`get`](Self::get) found nothing.
    pub fn missing(&self, name: &str) -> SourceError {
        match self.offline {
            Some(_) => self.offline_error(name),
            None => SourceError::Missing { place: self.describe(), file: name.to_string() },
        }
    }

    fn offline_error(&self, file: &str) -> SourceError {
        SourceError::Offline {
            repo: self.remote.repo.clone(),
            file: file.to_string(),
            cache: self.cache.root().to_path_buf(),
            why: self.offline.clone().unwrap_or_default(),
        }
    }

    /// Brings a file into the cache.
    fn download(&self, name: &str, file: &RemoteFile) -> Result<PathBuf, SourceError> {
        let etag = match file.etag.clone() {
            Some(etag) => etag,
            None => self.remote.etag(&self.commit, name)?,
        };
        let _lock = self.cache.lock(&etag)?;
        if self.fresh.is_some() || !self.cache.blob(&etag).is_file() {
            let staging = self.cache.staging(&etag);
            fs::create_dir_all(&staging).map_err(cannot_write(&staging))?;
            let continued = has_part(&staging);
            let mut result = self.fetch(name, &etag, file.size, &staging);
            if continued && !matches!(result, Ok(_) | Err(SourceError::Network { .. } | SourceError::Cache { .. })) {
                // What was there before did not fit what came now: once more, from the start.
                remove(&staging)?;
                fs::create_dir_all(&staging).map_err(cannot_write(&staging))?;
                result = self.fetch(name, &etag, file.size, &staging);
            }
            if let Err(SourceError::Damaged { .. }) = result {
                remove(&staging)?;
            }
            self.cache.keep_blob(&etag, &result?)?;
            remove(&staging)?;
        }
        if let Some(fresh) = &self.fresh {
            fresh.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_string());
        }
        self.cache.link(&self.commit, name, &etag, self.symlinks)
    }

    /// Downloads to `staging` and checks size and hash. Returns the path of the bytes.
    fn fetch(&self, name: &str, etag: &str, size: Option<u64>, staging: &Path) -> Result<PathBuf, SourceError> {
        // `hf-hub` keeps a cache of its own in there; a link from an earlier try would stop it.
        let own = staging.join(Repo::model(self.remote.repo.clone()).folder_name());
        remove(&own.join("snapshots"))?;
        let path = self.remote.download(&self.commit, name, staging)?;
        let io = |source| SourceError::Io { path: path.clone(), source };
        let path = fs::canonicalize(&path).map_err(io)?;
        let damaged = |expected: String, found: String| SourceError::Damaged {
            repo: self.remote.repo.clone(),
            file: name.to_string(),
            expected,
            found,
        };
        let found = fs::metadata(&path).map_err(io)?.len();
        if let Some(size) = size.filter(|size| *size != found) {
            return Err(damaged(format!("{size} bytes"), format!("{found} bytes")));
        }
        if etag.len() == 64 {
            let found = sha256(&path).map_err(io)?;
            if !found.eq_ignore_ascii_case(etag) {
                return Err(damaged(format!("SHA-256 {etag}"), found));
            }
        }
        Ok(path)
    }
}

impl Remote {
    fn api(&self, cache: &Path) -> Result<Api, SourceError> {
        ApiBuilder::from_cache(Cache::new(cache.to_path_buf()))
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_progress(false)
            .with_user_agent("lith", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| self.network("setting up the connection", &error.to_string()))
    }

    fn repo(&self, revision: &str, cache: &Path) -> Result<ApiRepo, SourceError> {
        let repo = Repo::with_revision(self.repo.clone(), RepoType::Model, revision.to_string());
        Ok(self.api(cache)?.repo(repo))
    }

    /// What the hub says about a revision: its commit and its files.
    fn list(&self, revision: &str) -> Result<(String, Listing), SourceError> {
        let (status, code, body) = self.ask(revision)?;
        if status != 200 {
            let mut error = self.refusal(status, code.as_deref(), revision);
            // Without a code, 404 may mean the repository or the revision.
            if status == 404 && code.is_none() && revision != "main" && self.ask("main")?.0 == 200 {
                error = self.no_revision(revision);
            }
            return Err(error);
        }
        let info: Value = serde_json::from_str(&body).map_err(|error| self.answer(error.to_string()))?;
        let commit = info.get("sha").and_then(Value::as_str).filter(|sha| is_plain(sha));
        let commit = commit.ok_or_else(|| self.answer("no commit (`sha`)"))?.to_string();
        let siblings =
            info.get("siblings").and_then(Value::as_array).ok_or_else(|| self.answer("no files (`siblings`)"))?;
        let mut listing = Listing::new();
        for sibling in siblings {
            let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_string);
            let Some(name) = text(sibling, "rfilename").filter(|name| is_inside(name)) else { continue };
            let large = sibling.get("lfs").and_then(|lfs| text(lfs, "sha256").or_else(|| text(lfs, "oid")));
            let etag = large.or_else(|| text(sibling, "blobId")).filter(|etag| is_plain(etag));
            listing.insert(name, RemoteFile { size: sibling.get("size").and_then(Value::as_u64), etag });
        }
        Ok((commit, listing))
    }

    /// Status, `X-Error-Code` and body of the hub's answer about a revision.
    fn ask(&self, revision: &str) -> Result<(u16, Option<String>, String), SourceError> {
        // No cache is used for this.
        let request = self.repo(revision, Path::new(""))?.info_request().query("blobs", "true");
        let request = request.config().http_status_as_error(false).timeout_global(Some(self.answer_timeout)).build();
        let failed = |error: &dyn std::fmt::Display| self.network("asking the hub", &error.to_string());
        let mut response = request.call().map_err(|error| failed(&error))?;
        let code = response.headers().get("x-error-code").and_then(|code| code.to_str().ok()).map(str::to_string);
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(MAX_LISTING_BYTES).read_to_string();
        match body {
            Ok(body) => Ok((status, code, body)),
            // The text of an error page says nothing the status does not.
            Err(_) if status != 200 => Ok((status, code, String::new())),
            Err(error) => Err(failed(&error)),
        }
    }

    /// The error of a status that is not 200.
    fn refusal(&self, status: u16, code: Option<&str>, revision: &str) -> SourceError {
        let (repo, endpoint, with_token) = (self.repo.clone(), self.endpoint.clone(), self.token.is_some());
        match (status, code) {
            (_, Some("GatedRepo")) | (403, _) => SourceError::Gated { link: format!("{endpoint}/{repo}"), repo },
            (_, Some("RevisionNotFound")) => self.no_revision(revision),
            (401, _) => SourceError::Unauthorized { repo, endpoint, with_token },
            (404, _) => SourceError::RepoNotFound { repo, endpoint, with_token },
            _ => SourceError::Server { repo, endpoint, status },
        }
    }

    fn no_revision(&self, revision: &str) -> SourceError {
        SourceError::RevisionNotFound { repo: self.repo.clone(), revision: revision.to_string() }
    }

    fn network(&self, what: &str, reason: &str) -> SourceError {
        SourceError::Network { repo: self.repo.clone(), what: what.to_string(), reason: reason.to_string() }
    }

    fn answer(&self, reason: impl Into<String>) -> SourceError {
        SourceError::Answer { repo: self.repo.clone(), endpoint: self.endpoint.clone(), reason: reason.into() }
    }

    /// The etag of a file, for hubs whose listing does not tell.
    fn etag(&self, commit: &str, name: &str) -> Result<String, SourceError> {
        let repo = self.repo(commit, Path::new(""))?;
        let api = self.api(Path::new(""))?;
        let url = repo.url(name);
        let metadata = self.guarded(commit, name, Path::new(""), self.answer_timeout, move |_| api.metadata(&url))?;
        let etag = metadata.etag().trim_start_matches("W/").to_string();
        if is_plain(&etag) { Ok(etag) } else { Err(self.answer(format!("etag `{etag}` of {name}"))) }
    }

    /// Downloads a file into a cache of `hf-hub`'s own at `staging`.
    fn download(&self, commit: &str, name: &str, staging: &Path) -> Result<PathBuf, SourceError> {
        let repo = self.repo(commit, staging)?;
        let (file, bar) = (name.to_string(), self.progress.then(|| ProgressBar::new(0)));
        let fetch = move |beat| repo.download_with_progress(&file, Heartbeat { beat, bar });
        self.guarded(commit, name, staging, self.stall_timeout.max(self.answer_timeout), fetch)
    }

    /// Runs a call of `hf-hub` that may hang, on a thread of its own, until it ends or gives no sign of life for
    /// `patience`. `hf-hub` has no time limits; a thread that is given up ends with the process.
    fn guarded<T: Send + 'static>(
        &self,
        commit: &str,
        name: &str,
        staging: &Path,
        patience: Duration,
        call: impl FnOnce(Sender<Signal<T>>) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let (sender, receiver) = mpsc::channel();
        let what = format!("downloading {name}");
        let worker = move || {
            let result = call(sender.clone());
            // The receiver may have given up.
            sender.send(Signal::Done(result)).ok();
        };
        std::thread::Builder::new()
            .name("lith-download".into())
            .spawn(worker)
            .map_err(|error| self.network(&what, &error.to_string()))?;
        loop {
            match receiver.recv_timeout(patience) {
                Ok(Signal::Alive) => {}
                Ok(Signal::Done(Ok(value))) => return Ok(value),
                Ok(Signal::Done(Err(error))) => return Err(self.failure(error, commit, name, staging)),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.network(&what, &format!("nothing came for {} seconds", patience.as_secs())));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.answer(format!("{what} came to an unexpected end")));
                }
            }
        }
    }

    fn failure(&self, error: ApiError, commit: &str, name: &str, staging: &Path) -> SourceError {
        match error {
            ApiError::RequestError(error) => match *error {
                ureq::Error::StatusCode(404) => {
                    SourceError::Missing { place: format!("{}@{commit}", self.repo), file: name.to_string() }
                }
                ureq::Error::StatusCode(status) => self.refusal(status, None, commit),
                error => self.network(&format!("downloading {name}"), &error.to_string()),
            },
            ApiError::IoError(source) if is_disk_error(source.kind()) => {
                SourceError::Cache { path: staging.to_path_buf(), source }
            }
            ApiError::IoError(error) => self.network(&format!("downloading {name}"), &error.to_string()),
            error => self.answer(format!("{name}: {error}")),
        }
    }
}

/// Whether an error of a download is the disk's, not the network's.
fn is_disk_error(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::*;
    matches!(
        kind,
        StorageFull | QuotaExceeded | FileTooLarge | PermissionDenied | ReadOnlyFilesystem | NotADirectory | NotFound
    )
}

enum Signal<T> {
    Alive,
    Done(Result<T, ApiError>),
}

/// Tells the waiting thread that bytes are coming, and the user how many.
struct Heartbeat<T> {
    beat: Sender<Signal<T>>,
    bar: Option<ProgressBar>,
}

impl<T> Progress for Heartbeat<T> {
    fn init(&mut self, size: usize, file: &str) {
        if let Some(bar) = &mut self.bar {
            Progress::init(bar, size, file);
        }
        self.beat.send(Signal::Alive).ok();
    }

    fn update(&mut self, size: usize) {
        if let Some(bar) = &mut self.bar {
            Progress::update(bar, size);
        }
        self.beat.send(Signal::Alive).ok();
    }

    fn finish(&mut self) {
        if let Some(bar) = &mut self.bar {
            Progress::finish(bar);
        }
    }
}

/// Whether an earlier try left something to continue.
fn has_part(staging: &Path) -> bool {
    files_below(staging).iter().any(|name| name.ends_with(".part"))
}

/// Removes a directory with everything in it; one that is not there is removed already.
fn remove(path: &Path) -> Result<(), SourceError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot_write(path)(error)),
        _ => Ok(()),
    }
}

/// The files below a directory, by their path in it with `/` between the parts. Links to directories are not followed.
fn files_below(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(format!("{folder}{name}/")),
                Ok(_) => names.push(format!("{folder}{name}")),
                Err(_) => {}
            }
        }
    }
    names
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
