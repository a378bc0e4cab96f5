//! The `lith` command.

fn main() -> std::process::ExitCode {
    lith::cli::main()
}
