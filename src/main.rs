//! The `lith` command.
fn main() {}
