//! What a compiled executable that learns is made of: the runtime with its trainer, and behind it in the same file two
//! artifacts, one that learns and one that answers. It holds no compiler.

fn main() -> std::process::ExitCode {
    lith_runtime::command::learn::executable_main()
}
