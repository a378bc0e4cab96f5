//! Any bytes as a safetensors file: refused, or described.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use lith_models::checkpoint::safetensors::parse_header;

fuzz_target!(|bytes: &[u8]| {
    let _ = parse_header(bytes, Path::new("fuzz.safetensors"));
});
