//! What a compiled executable is made of: the runtime, and behind it in the same file the artifact. It holds no
//! compiler and takes what `lith run ARTIFACT` takes.

fn main() -> std::process::ExitCode {
    lith_runtime::command::executable_main()
}
