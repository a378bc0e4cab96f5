//! Any text as a configuration: refused, or traced to a program or refused then.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use lith_models::config::parse_str;

fuzz_target!(|text: &str| {
    if let Ok(config) = parse_str(text, Path::new("config.json")) {
        let _ = config.to_json();
    }
});
