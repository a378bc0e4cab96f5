//! Any text as a program: refused, or printed and parsed back to the same text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lith_ir::text::{parse, print};

fuzz_target!(|text: &str| {
    if let Ok(program) = parse(text) {
        let printed = print(&program);
        let again = parse(&printed).expect("what is printed parses");
        assert_eq!(printed, print(&again));
    }
});
