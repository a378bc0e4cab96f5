//! Any bytes as an artifact: refused, or opened with every section it names inside. Nothing of it is run.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use lith_runtime::artifact::Artifact;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("room for it");
    if let Ok(artifact) = Artifact::open(file.path()) {
        let sections: Vec<String> = artifact.header().sections.iter().map(|s| s.name.clone()).collect();
        for name in sections {
            let _ = artifact.section(&name);
        }
        let _ = artifact.weights().len();
    }
});
