//! Plans of encoders: their kernels, their memory, and that depth adds no code.

mod common;

use common::*;
use lith_passes::{Options, dump, run};

#[test]
fn show() {
    for padded in [false, true] {
        let c = run(numbered(2, padded), &Options::default()).unwrap();
        println!("{}", dump::kernels(&c));
        println!("{}", dump::memory(&c, &|_| Some(100)));
    }
}
