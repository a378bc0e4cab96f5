//! Any bytes as a pickle: refused, or a list of tensors; nothing is executed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lith_models::checkpoint::pickle::parse;

fuzz_target!(|bytes: &[u8]| {
    let _ = parse(bytes);
});
