//! The hub and its cache, against a server on the loopback interface: rows CKP-08 to CKP-14 of the surface
//! specification. No test reaches further than that.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use lith_models::{Checkpoint, Config, HubEnv, Source, SourceError, SourceOptions};
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server does with a file.
#[derive(Clone, Debug, PartialEq)]
enum Trouble {
    None,
    /// Answers this status, with this `X-Error-Code`.
    Status(u16, Option<&'static str>),
    /// Announces all of the file and closes the connection after this many bytes, once.
    DropAfter(usize),
    /// Sends other bytes of the same length.
    Corrupt,
    /// Keeps the connection open and says nothing.
    Hang,
    /// A redirect that leads nowhere.
    BadRedirect,
}

#[derive(Clone)]
struct Hub {
    files: BTreeMap<String, Vec<u8>>,
    /// Trouble by file name; `""` is the question about the repository.
    trouble: BTreeMap<String, Trouble>,
    /// Whether the listing tells sizes and hashes.
    detailed: bool,
}

struct Server {
    address: SocketAddr,
    hub: Arc<Mutex<Hub>>,
    /// `GET path`, range and authorization of every request.
    log: Arc<Mutex<Vec<(String, String, String)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let files = [("config.json", br#"{"model_type": "bert"}"#.to_vec()), ("model.safetensors", weights())];
        let files = files.into_iter().map(|(name, bytes)| (name.to_string(), bytes)).collect();
        let hub = Arc::new(Mutex::new(Hub { files, trouble: BTreeMap::new(), detailed: true }));
        let (log, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (hub, log, stop) = (hub.clone(), log.clone(), stop.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let (hub, log, stop) = (hub.clone(), log.clone(), stop.clone());
                    std::thread::spawn(move || serve(stream.unwrap(), &hub, &log, &stop));
                }
            })
        };
        Server { address, hub, log, stop, thread: Some(thread) }
    }

    fn trouble(&self, file: &str, trouble: Trouble) {
        self.hub.lock().unwrap().trouble.insert(file.to_string(), trouble);
    }

    fn requests(&self) -> Vec<(String, String, String)> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        TcpStream::connect(self.address).ok();
        self.thread.take().unwrap().join().ok();
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The etag of a file: SHA-256 for weights, something shorter for others.
fn etag(name: &str, bytes: &[u8]) -> String {
    if name.ends_with(".safetensors") { hash(bytes) } else { hash(bytes)[..40].to_string() }
}

/// A file of 100,008 bytes that is good safetensors.
fn weights() -> Vec<u8> {
    let mut header = br#"{"w": {"dtype": "U8", "shape": [99872], "data_offsets": [0, 99872]}}"#.to_vec();
    header.resize(128, b' ');
    let mut bytes = 128u64.to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend((0..99872u32).map(|index| (index * 31 / 7) as u8));
    bytes
}

fn serve(mut stream: TcpStream, hub: &Mutex<Hub>, log: &Mutex<Vec<(String, String, String)>>, stop: &AtomicBool) {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (mut path, mut range, mut authorization) = (String::new(), String::new(), String::new());
    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
        let Ok(line) = line else { return };
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
        match name.to_ascii_lowercase().as_str() {
            "range" => range = value.to_string(),
            "authorization" => authorization = value.to_string(),
            first if first.starts_with("get ") => path = line.split(' ').nth(1).unwrap_or_default().to_string(),
            _ => {}
        }
    }
    if path.is_empty() {
        return;
    }
    log.lock().unwrap().push((path.clone(), range.clone(), authorization));
    let mut state = hub.lock().unwrap().clone();
    let file = path
        .split_once("/resolve/")
        .and_then(|(_, rest)| rest.split_once('/'))
        .map_or("", |(_, file)| file)
        .to_string();
    let trouble = state.trouble.get(&file).cloned().unwrap_or(Trouble::None);
    let reply = |stream: &mut TcpStream, status: u16, headers: &str, body: &[u8]| {
        let head =
            format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len());
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).ok();
    };
    match trouble {
        Trouble::Status(status, code) => {
            let code = code.map(|code| format!("X-Error-Code: {code}\r\n")).unwrap_or_default();
            return reply(&mut stream, status, &code, b"no");
        }
        Trouble::Hang => {
            for _ in 0..100 {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            return;
        }
        Trouble::BadRedirect => {
            let etag = format!("ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\n", "a".repeat(40));
            return reply(&mut stream, 302, &etag, b"");
        }
        _ => {}
    }

    if let Some(revision) = path.strip_prefix("/api/models/org/model/revision/") {
        if !["main", "v1", COMMIT].iter().any(|known| revision.starts_with(known)) {
            return reply(&mut stream, 404, "X-Error-Code: RevisionNotFound\r\n", b"{}");
        }
        let files: Vec<String> = state
            .files
            .iter()
            .map(|(name, bytes)| {
                let (etag, size) = (etag(name, bytes), bytes.len());
                match (state.detailed, name.ends_with(".safetensors")) {
                    (false, _) => format!(r#"{{"rfilename": "{name}"}}"#),
                    (true, false) => format!(r#"{{"rfilename": "{name}", "size": {size}, "blobId": "{etag}"}}"#),
                    (true, true) => {
                        format!(r#"{{"rfilename": "{name}", "size": {size}, "blobId": "b", "lfs": {{"sha256": "{etag}", "size": {size}}}}}"#)
                    }
                }
            })
            .collect();
        let body = format!(r#"{{"sha": "{COMMIT}", "siblings": [{}]}}"#, files.join(", "));
        return reply(&mut stream, 200, "", body.as_bytes());
    }
    if path.starts_with("/api/") {
        return reply(&mut stream, 404, "X-Error-Code: RepoNotFound\r\n", b"{}");
    }
    let Some(bytes) = state.files.get_mut(&file) else { return reply(&mut stream, 404, "", b"") };
    let etag = etag(&file, bytes);
    if trouble == Trouble::Corrupt {
        bytes[0] ^= 1;
    }
    let total = bytes.len();
    let (from, to) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
    let from: usize = from.parse().unwrap();
    let to: usize = to.parse().map_or(total, |to: usize| to + 1);
    if from >= total {
        return reply(&mut stream, 416, "", b"");
    }
    let headers =
        format!("ETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {from}-{}/{total}\r\n", to - 1);
    match trouble {
        Trouble::DropAfter(count) if to - from > count => {
            let head = format!("HTTP/1.1 206 X\r\nContent-Length: {}\r\n{headers}\r\n", to - from);
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&bytes[from..from + count])).ok();
            hub.lock().unwrap().trouble.remove(&file);
        }
        _ => reply(&mut stream, 206, &headers, &bytes[from..to]),
    }
}

/// The environment of a test: its own cache and server, nothing else.
fn env(server: &Server, cache: &Path, more: &[(&str, &str)]) -> HubEnv {
    let endpoint = format!("http://{}", server.address);
    let cache = cache.to_str().unwrap();
    HubEnv::from_vars(|name| match name {
        "HF_ENDPOINT" => Some(endpoint.clone()),
        "HF_HUB_CACHE" => Some(cache.to_string()),
        "HF_HUB_DISABLE_PROGRESS_BARS" => Some("1".into()),
        "HF_HUB_ETAG_TIMEOUT" | "HF_HUB_DOWNLOAD_TIMEOUT" => Some("2".into()),
        _ => more.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string()),
    })
}

fn open(server: &Server, cache: &Path) -> Result<Source, SourceError> {
    Source::open("org/model", &SourceOptions::default(), &env(server, cache, &[]))
}

fn load(source: &Source) -> Checkpoint {
    assert_eq!(Config::load(source).unwrap().model_type(), "bert");
    let checkpoint = Checkpoint::open(source, &Default::default()).unwrap();
    assert_eq!(checkpoint.tensor("w").unwrap().bytes().as_ref(), &weights()[136..]);
    checkpoint
}

/// Every file below a directory that is no lock, by its path.
fn files_below(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => found.push(entry.path().strip_prefix(root).unwrap().display().to_string()),
            }
        }
    }
    found.retain(|name| !name.ends_with(".lock"));
    found.sort();
    found
}

/// CKP-08, CKP-09: one commit for all files, in the layout of Python's client, each file downloaded once.
#[test]
fn ckp_09_downloads_into_the_common_layout() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    let source = open(&server, cache.path()).unwrap();
    load(&source);
    assert_eq!(source.commit(), Some(COMMIT));
    let config = etag("config.json", br#"{"model_type": "bert"}"#);
    let mut expected = vec![
        format!("models--org--model/blobs/{config}"),
        format!("models--org--model/blobs/{}", hash(&weights())),
        "models--org--model/refs/main".to_string(),
        format!("models--org--model/snapshots/{COMMIT}/config.json"),
        format!("models--org--model/snapshots/{COMMIT}/model.safetensors"),
    ];
    expected.sort();
    assert_eq!(files_below(cache.path()), expected);
    let repo = cache.path().join("models--org--model");
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(repo.join("snapshots").join(COMMIT).join("config.json")).unwrap(),
        Path::new("../../blobs").join(config)
    );
    let requests = server.requests();
    let files: Vec<_> = requests.iter().filter(|(path, ..)| path.contains("/resolve/")).collect();
    assert!(files.iter().all(|(path, ..)| path.starts_with(&format!("/org/model/resolve/{COMMIT}/"))), "{requests:?}");

    load(&open(&server, cache.path()).unwrap());
    let again = server.requests();
    assert!(again.len() == 1 && again[0].0.starts_with("/api/models/org/model/revision/main"), "{again:?}");
    // A commit is not asked for again.
    let pinned =
        Source::open(&format!("org/model@{COMMIT}"), &SourceOptions::default(), &env(&server, cache.path(), &[]))
            .unwrap();
    load(&pinned);
    assert!(server.requests().is_empty());
}

/// CKP-09: a cache that Python wrote is read; files in folders and copies instead of links.
#[test]
fn ckp_09_reads_a_cache_of_pythons() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    let repo = cache.path().join("models--org--model");
    let snapshot = repo.join("snapshots").join(COMMIT);
    fs::create_dir_all(snapshot.join("sub")).unwrap();
    fs::create_dir_all(repo.join("refs/refs/pr")).unwrap();
    fs::write(repo.join("refs/refs/pr/1"), COMMIT).unwrap();
    fs::write(snapshot.join("sub/config.json"), r#"{"model_type": "albert"}"#).unwrap();
    let options =
        SourceOptions { revision: Some("refs/pr/1".into()), subfolder: Some("sub".into()), ..Default::default() };
    let source = Source::open("org/model", &options, &env(&server, cache.path(), &[("HF_HUB_OFFLINE", "1")])).unwrap();
    assert_eq!(Config::load(&source).unwrap().model_type(), "albert");
    assert_eq!(source.names(), ["config.json"]);
    assert!(server.requests().is_empty());
}

/// CKP-09: copies where links are off.
#[test]
fn ckp_10_copies_without_symlinks() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    let env = env(&server, cache.path(), &[("HF_HUB_DISABLE_SYMLINKS", "1")]);
    let source = Source::open("org/model", &SourceOptions::default(), &env).unwrap();
    load(&source);
    assert!(fs::symlink_metadata(source.required("config.json").unwrap()).unwrap().is_file());
}

/// CKP-10
#[test]
fn ckp_10_tokens_are_sent() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    let env = env(&server, cache.path(), &[("HF_TOKEN", "from-env")]);
    Source::open("org/model", &SourceOptions::default(), &env).unwrap().required("config.json").unwrap();
    assert!(server.requests().iter().all(|(_, _, authorization)| authorization == "Bearer from-env"));
    let options = SourceOptions { token: Some("given".into()), ..Default::default() };
    Source::open("org/model", &options, &env).unwrap();
    assert_eq!(server.requests()[0].2, "Bearer given");
}

/// CKP-11: offline, no socket is opened, and the error says what is missing and why.
#[test]
fn ckp_11_offline() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    let offline = env(&server, cache.path(), &[("HF_HUB_OFFLINE", "1")]);
    let local = SourceOptions { local_files_only: true, ..Default::default() };
    for (options, env, why) in [
        (SourceOptions::default(), &offline, "offline mode is on"),
        (local.clone(), &self::env(&server, cache.path(), &[]), "local_files_only"),
    ] {
        let text = Source::open("org/model", &options, env).unwrap_err().to_string();
        assert!(text.contains("org/model: revision `main` is not in the cache") && text.contains(why), "{text}");
    }
    assert!(server.requests().is_empty());

    open(&server, cache.path()).unwrap().required("model.safetensors").unwrap();
    server.requests();
    let source = Source::open("org/model", &SourceOptions::default(), &offline).unwrap();
    Checkpoint::open(&source, &Default::default()).unwrap();
    let text = Config::load(&source).unwrap_err().to_string();
    assert!(text.contains("org/model: config.json is not in the cache") && text.contains("HF_HUB_OFFLINE"), "{text}");
    assert_eq!(source.optional("tokenizer.json").unwrap(), None);
    assert!(server.requests().is_empty());
}

/// CKP-12: each refusal has its own error.
#[test]
fn ckp_12_distinct_errors() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    let refused = |trouble: Trouble| {
        server.trouble("", trouble);
        open(&server, cache.path()).unwrap_err()
    };
    assert!(matches!(
        refused(Trouble::Status(401, Some("RepoNotFound"))),
        SourceError::Unauthorized { with_token: false, .. }
    ));
    assert!(matches!(refused(Trouble::Status(401, None)), SourceError::Unauthorized { .. }));
    let gated = refused(Trouble::Status(403, Some("GatedRepo")));
    assert!(
        matches!(&gated, SourceError::Gated { link, .. } if *link == format!("http://{}/org/model", server.address)),
        "{gated}"
    );
    assert!(matches!(refused(Trouble::Status(401, Some("GatedRepo"))), SourceError::Gated { .. }));
    assert!(matches!(refused(Trouble::Status(403, None)), SourceError::Gated { .. }));
    assert!(matches!(refused(Trouble::Status(404, None)), SourceError::RepoNotFound { .. }));
    assert!(matches!(refused(Trouble::Status(500, None)), SourceError::Server { status: 500, .. }));
    server.trouble("", Trouble::None);
    let at = |model: &str| Source::open(model, &SourceOptions::default(), &env(&server, cache.path(), &[]));
    assert!(matches!(at("org/other").unwrap_err(), SourceError::RepoNotFound { .. }));
    let revision = at("org/model@nope").unwrap_err();
    assert!(matches!(&revision, SourceError::RevisionNotFound { revision, .. } if revision == "nope"), "{revision}");
    assert!(matches!(at("org/model@../x").unwrap_err(), SourceError::RevisionNotFound { .. }));
    for model in ["no/such/folder", "./missing", "missing.safetensors", "a b", "org/-x", "", "org/"] {
        assert!(matches!(at(model).unwrap_err(), SourceError::NoSuchModel { .. }), "{model}");
    }

    let source = open(&server, cache.path()).unwrap();
    let missing = source.required("tokenizer.json").unwrap_err();
    assert_eq!(missing.to_string(), "org/model@main: no tokenizer.json");
    // A file that the listing promised and the hub does not give.
    for (status, expected) in [(404, "no config.json"), (403, "access is restricted"), (401, "401"), (500, "500")] {
        server.trouble("config.json", Trouble::Status(status, None));
        let text = source.required("config.json").unwrap_err().to_string();
        assert!(text.contains("org/model") && text.contains(expected), "{text}");
    }
    assert!(files_below(cache.path()).iter().all(|name| name.ends_with("refs/main")), "nothing is left behind");
}

/// CKP-12: without the hub, what the cache has is used, with a warning.
#[test]
fn ckp_12_falls_back_to_the_cache() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    load(&open(&server, cache.path()).unwrap());
    let env = env(&server, cache.path(), &[]);
    for trouble in [Trouble::Status(503, None), Trouble::Hang] {
        server.trouble("", trouble);
        let source = open(&server, cache.path()).unwrap();
        load(&source);
        assert!(source.warnings().len() == 1 && source.warnings()[0].contains(COMMIT), "{:?}", source.warnings());
    }
    drop(server);
    let source = Source::open("org/model", &SourceOptions::default(), &env).unwrap();
    load(&source);
    let text = source.required("tokenizer.json").unwrap_err().to_string();
    assert!(text.contains("tokenizer.json is not in the cache") && text.contains("cannot be asked"), "{text}");
    let other = Source::open("org/unknown", &SourceOptions::default(), &env).unwrap_err();
    assert!(matches!(other, SourceError::Network { .. }), "{other}");
}

/// CKP-13: a connection that breaks leaves no file, and the next try goes on where it stopped.
#[test]
fn ckp_13_interrupted_downloads() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    server.trouble("model.safetensors", Trouble::DropAfter(40_000));
    let source = open(&server, cache.path()).unwrap();
    let error = source.required("model.safetensors").unwrap_err();
    assert!(matches!(error, SourceError::Network { .. }), "{error}");
    let left = files_below(cache.path());
    assert!(!left.iter().any(|name| name.contains("/blobs/") && !name.ends_with(".part")), "{left:?}");
    assert!(!left.iter().any(|name| name.starts_with("models--org--model/snapshots")), "{left:?}");
    server.requests();
    load(&source);
    let requests = server.requests();
    assert!(
        requests.iter().any(|(path, range, _)| path.ends_with("model.safetensors") && range == "bytes=40000-"),
        "{requests:?}"
    );
    assert!(!files_below(cache.path()).iter().any(|name| name.contains("incomplete")));
}

/// CKP-13: what is left of an interrupted download and does not fit any more is thrown away.
#[test]
fn ckp_13_leftovers_that_do_not_fit() {
    for left in [vec![9u8; 40_000], vec![9; 100_008], vec![9; 200_000]] {
        let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
        let etag = hash(&weights());
        let blobs =
            cache.path().join("models--org--model/.lith-incomplete").join(&etag).join("models--org--model/blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{etag}.part")), left).unwrap();
        load(&open(&server, cache.path()).unwrap());
    }
}

/// CKP-14: content whose hash is not what the hub announced is an error, and nothing of it stays.
#[test]
fn ckp_14_hashes_are_checked() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    server.trouble("model.safetensors", Trouble::Corrupt);
    let source = open(&server, cache.path()).unwrap();
    let error = source.required("model.safetensors").unwrap_err();
    let SourceError::Damaged { file, expected, .. } = &error else { panic!("{error}") };
    assert_eq!((file.as_str(), expected), ("model.safetensors", &format!("SHA-256 {}", hash(&weights()))));
    let left = files_below(cache.path());
    assert!(left.iter().all(|name| name.ends_with("refs/main")), "{left:?}");
    server.trouble("model.safetensors", Trouble::None);
    load(&source);

    // A file of another length than announced.
    server.hub.lock().unwrap().files.insert("config.json".into(), b"{}".to_vec());
    let cache = tempfile::tempdir().unwrap();
    let source = open(&server, cache.path()).unwrap();
    server.hub.lock().unwrap().files.insert("config.json".into(), b"{} ".to_vec());
    assert!(matches!(source.required("config.json").unwrap_err(), SourceError::Damaged { .. }));
}

/// Hubs that list names only, as some mirrors do.
#[test]
fn ckp_10_plain_mirrors() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    server.hub.lock().unwrap().detailed = false;
    load(&open(&server, cache.path()).unwrap());
    assert!(cache.path().join("models--org--model/blobs").join(hash(&weights())).is_file());
    server.trouble("model.safetensors", Trouble::Corrupt);
    let cache = tempfile::tempdir().unwrap();
    let error = open(&server, cache.path()).unwrap().required("model.safetensors").unwrap_err();
    assert!(matches!(error, SourceError::Damaged { .. }), "{error}");
}

/// Servers that hang or send nonsense.
#[test]
fn hostile_servers() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    let source = open(&server, cache.path()).unwrap();
    server.trouble("config.json", Trouble::Hang);
    let text = source.required("config.json").unwrap_err().to_string();
    assert!(text.contains("nothing came for 2 seconds"), "{text}");
    server.trouble("config.json", Trouble::BadRedirect);
    assert!(matches!(source.required("config.json").unwrap_err(), SourceError::Answer { .. }));
    let text = source.required("../config.json").unwrap_err().to_string();
    assert!(text.contains("leads out of"), "{text}");
}

/// CKP-01: force_download fetches again what is there, once.
#[test]
fn force_download() {
    let (server, cache) = (Server::start(), tempfile::tempdir().unwrap());
    load(&open(&server, cache.path()).unwrap());
    server.requests();
    let options = SourceOptions { force_download: true, ..Default::default() };
    let source = Source::open("org/model", &options, &env(&server, cache.path(), &[])).unwrap();
    load(&source);
    let count = server.requests().iter().filter(|(path, ..)| path.contains("/resolve/")).count();
    assert!(count >= 2);
    load(&source);
    assert!(server.requests().is_empty());
}

/// A cache that cannot be written.
#[test]
fn unwritable_cache() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = open(&server, &file.join("cache")).unwrap_err();
    assert!(matches!(error, SourceError::Cache { .. }), "{error}");
    assert!(error.to_string().contains("HF_HUB_CACHE"));
    let none = HubEnv { cache: None, ..env(&server, folder.path(), &[]) };
    assert!(matches!(
        Source::open("org/model", &SourceOptions::default(), &none).unwrap_err(),
        SourceError::Cache { .. }
    ));
}
