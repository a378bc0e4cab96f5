//! The environment variables that govern the hub, read in one place (CKP-10).

use std::path::PathBuf;
use std::time::Duration;

/// What the environment says about the hub. Tests build it by hand or from their own variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubEnv {
    /// The cache: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, or `hub` in `HF_HOME`. `None` when not even a home
    /// directory is known.
    pub cache: Option<PathBuf>,
    /// The hub: `HF_ENDPOINT`, without a slash at its end.
    pub endpoint: String,
    /// The token: `HF_TOKEN`, or the token file; none with `HF_HUB_DISABLE_IMPLICIT_TOKEN`.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`: no socket is opened.
    pub offline: bool,
    /// Longest wait for an answer: `HF_HUB_ETAG_TIMEOUT`, in seconds.
    pub answer_timeout: Duration,
    /// Longest pause in a download: `HF_HUB_DOWNLOAD_TIMEOUT`, in seconds.
    pub stall_timeout: Duration,
    /// Whether snapshots link to blobs; `HF_HUB_DISABLE_SYMLINKS` makes them copies.
    pub symlinks: bool,
    /// Whether downloads show progress on a terminal; not with `HF_HUB_DISABLE_PROGRESS_BARS`.
    pub progress: bool,
}

/// Longest token file that is read.
const MAX_TOKEN_BYTES: u64 = 4096;

impl HubEnv {
    /// Reads the process's environment.
    pub fn from_env() -> HubEnv {
        HubEnv::from_vars(|name| std::env::var(name).ok())
    }

    /// Reads variables through `var`. An empty variable counts as unset.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> HubEnv {
        let get = |name: &str| var(name).filter(|value| !value.is_empty());
        let flag = |name: &str| {
            get(name).is_some_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
        };
        let seconds = |name: &str| {
            let value = get(name).and_then(|value| value.parse::<u32>().ok()).filter(|seconds| *seconds > 0);
            Duration::from_secs(u64::from(value.unwrap_or(10)))
        };
        let user = get("HOME").or_else(|| get("USERPROFILE")).map(PathBuf::from);
        let expand = |path: String| match (path.strip_prefix("~/"), &user) {
            (Some(rest), Some(user)) => user.join(rest),
            _ => PathBuf::from(path),
        };
        let caches = get("XDG_CACHE_HOME").map(expand).or_else(|| Some(user.as_ref()?.join(".cache")));
        let home = get("HF_HOME").map(expand).or_else(|| Some(caches?.join("huggingface")));
        let cache = get("HF_HUB_CACHE").or_else(|| get("HUGGINGFACE_HUB_CACHE")).map(expand);

        let token_file = get("HF_TOKEN_PATH").map(expand).or_else(|| Some(home.as_ref()?.join("token")));
        let token = get("HF_TOKEN").or_else(|| get("HUGGING_FACE_HUB_TOKEN"));
        let token = token.or_else(|| super::read_text(&token_file?, MAX_TOKEN_BYTES).ok());
        let token = token.map(|token| token.trim().to_string()).filter(|token| !token.is_empty());
        HubEnv {
            cache: cache.or_else(|| Some(home?.join("hub"))),
            endpoint: endpoint(&get("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into())),
            token: token.filter(|_| !flag("HF_HUB_DISABLE_IMPLICIT_TOKEN")),
            offline: flag("HF_HUB_OFFLINE") || flag("TRANSFORMERS_OFFLINE"),
            answer_timeout: seconds("HF_HUB_ETAG_TIMEOUT"),
            stall_timeout: seconds("HF_HUB_DOWNLOAD_TIMEOUT"),
            symlinks: !flag("HF_HUB_DISABLE_SYMLINKS"),
            progress: !flag("HF_HUB_DISABLE_PROGRESS_BARS"),
        }
    }
}

fn endpoint(url: &str) -> String {
    url.trim_end_matches('/').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(vars: &[(&str, &str)]) -> HubEnv {
        HubEnv::from_vars(|name| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string()))
    }

    /// CKP-09, CKP-10
    #[test]
    fn cache_places() {
        let cache = |vars: &[(&str, &str)]| env(vars).cache.map(|path| path.display().to_string());
        assert_eq!(cache(&[("HOME", "/u")]).as_deref(), Some("/u/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")]).as_deref(), Some("/x/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/u"), ("HF_HOME", "~/h")]).as_deref(), Some("/u/h/hub"));
        assert_eq!(cache(&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/o")]).as_deref(), Some("/o"));
        let both = [("HUGGINGFACE_HUB_CACHE", "/o"), ("HF_HUB_CACHE", "/n")];
        assert_eq!(cache(&both).as_deref(), Some("/n"));
        assert_eq!(cache(&[]), None);
    }

    /// CKP-10
    #[test]
    fn flags_endpoint_and_timeouts() {
        let plain = env(&[("HOME", "/nowhere")]);
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert!(!plain.offline && plain.symlinks && plain.progress && plain.token.is_none());
        assert_eq!((plain.answer_timeout, plain.stall_timeout), (Duration::from_secs(10), Duration::from_secs(10)));
        assert!(env(&[("HF_HUB_OFFLINE", "1")]).offline && env(&[("TRANSFORMERS_OFFLINE", "true")]).offline);
        assert!(!env(&[("HF_HUB_OFFLINE", "0")]).offline);
        assert_eq!(env(&[("HF_ENDPOINT", "http://mirror:1/")]).endpoint, "http://mirror:1");
        assert_eq!(env(&[("HF_HUB_ETAG_TIMEOUT", "3")]).answer_timeout, Duration::from_secs(3));
        assert_eq!(env(&[("HF_HUB_DOWNLOAD_TIMEOUT", "4")]).stall_timeout, Duration::from_secs(4));
        assert!(!env(&[("HF_HUB_DISABLE_SYMLINKS", "yes")]).symlinks);
        assert!(!env(&[("HF_HUB_DISABLE_PROGRESS_BARS", "1")]).progress);
    }

    /// CKP-10
    #[test]
    fn tokens() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "from-file\n").unwrap();
        let home = home.path().to_str().unwrap();
        assert_eq!(env(&[("HF_HOME", home)]).token.as_deref(), Some("from-file"));
        assert_eq!(env(&[("HF_HOME", home), ("HF_TOKEN", "t")]).token.as_deref(), Some("t"));
        assert_eq!(env(&[("HF_TOKEN", "t"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token, None);
    }
}
