//! Bad input through the real command: models to be damaged, and what a refusal looks like.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::fixtures;

/// A copy of a fixture to be damaged, beside a cache of its own.
pub struct Case {
    root: TempDir,
}

impl Case {
    pub fn new(fixture: &str) -> Case {
        let case = Case { root: tempfile::tempdir().unwrap() };
        case.copy(fixture, "model");
        case
    }

    /// Copies a fixture to a folder of this name.
    pub fn copy(&self, fixture: &str, name: &str) {
        let folder = self.root().join(name);
        fs::create_dir(&folder).unwrap();
        for entry in fs::read_dir(fixtures().join(fixture)).unwrap() {
            let from = entry.unwrap().path();
            if from.is_file() && from.file_name().unwrap() != "golden.json" {
                fs::copy(&from, folder.join(from.file_name().unwrap())).unwrap();
            }
        }
    }

    /// The folder all of it lies in.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn model(&self) -> PathBuf {
        self.root().join("model")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.model().join(name)
    }

    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.file(name)).unwrap();
        change(&mut bytes);
        fs::write(self.file(name), bytes).unwrap();
    }

    /// Replaces text in a file; the text must be there.
    pub fn replace(&self, name: &str, from: &str, to: &str) {
        self.edit(name, |bytes| {
            let text = String::from_utf8(std::mem::take(bytes)).unwrap();
            assert!(text.contains(from), "{name} holds no {from}");
            *bytes = text.replace(from, to).into_bytes();
        });
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lith"));
        command
            .args(args)
            .current_dir(self.root())
            .env("LITH_CACHE", self.root().join("cache"))
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HOME", self.root().join("hub"))
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs and expects exit code 2 and a message with all of these, and that no file came into being.
    pub fn refused(&self, args: &[&str], message: &[&str]) {
        let before = self.files();
        let output = self.run(args);
        expect_refusal(&output, message);
        assert_eq!(before, self.files(), "{args:?} left files behind");
    }

    pub fn compile_refused(&self, message: &[&str]) {
        self.refused(&["compile", "model", "-o", "out"], message);
    }

    /// All files but the cache's own.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.root().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true if path.ends_with("cache") || path.ends_with("hub") => {}
                    true => folders.push(path),
                    false => found.push(path),
                }
            }
        }
        found.sort();
        found
    }

    /// The compiled artifact of the model.
    pub fn artifact(&self) -> PathBuf {
        let output = self.run(&["compile", "model", "--emit", "artifact", "-o", "good.lith"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.root().join("good.lith")
    }
}

/// Expects exit code 2 and a message with all of these.
pub fn expect_refusal(output: &Output, message: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "stderr: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    for part in message {
        assert!(stderr.contains(part), "`{part}` is not in: {stderr}");
    }
}
