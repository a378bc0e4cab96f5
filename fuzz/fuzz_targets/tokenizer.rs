//! Any bytes as a tokenizer.json: refused, or a tokenizer that encodes and decodes a text.
#![no_main]

use std::borrow::Cow;
use std::io;

use libfuzzer_sys::fuzz_target;
use lith_runtime::tokenizer::{Assets, AutoTokenizer, EncodeOptions};

struct One<'a>(&'a [u8]);

impl Assets for One<'_> {
    fn read(&self, name: &str) -> io::Result<Option<Cow<'_, [u8]>>> {
        Ok((name == "tokenizer.json").then_some(Cow::Borrowed(self.0)))
    }

    fn place(&self) -> String {
        "fuzz".into()
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tokenizer) = AutoTokenizer::from_assets(&One(bytes)) {
        let _ = tokenizer.encode("A naïve café, 中文 😀.", None, &EncodeOptions::default());
    }
});
