//! Any bytes as a GGUF file: refused, or described, with its tokenizer, and every tensor read.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use lith_models::gguf::{Gguf, TensorData};

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes(bytes.to_vec(), Path::new("fuzz.gguf")) else { return };
    for (_, value) in gguf.metadata() {
        let _ = value.to_string();
    }
    let _ = gguf.config();
    let _ = gguf.tokenizer_files();
    for name in gguf.parameters() {
        let Some(tensor) = gguf.tensor(&name) else { continue };
        if let Ok(TensorData::Quantized(matrix)) = tensor.read() {
            assert!(
                matrix.check().is_ok()
                    && Ok(lith_ir::quant::Storage::Quantized(matrix.scheme)) == tensor.storage().map_err(drop)
            );
        }
        let _ = tensor.to_f32();
    }
});
