//! Executables: the runner with an artifact behind it in the same file; where they learn, with two. No linker is needed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use lith_runtime::artifact::Artifact;
use lith_runtime::artifact::format::{Footer, PAGE, Part};
use lith_runtime::training::executable::not_learnt;

use crate::error::{Error, Result};

/// What executables that answer are made of, and what those are that learn, too.
const RUNNER_NAMES: [&str; 2] = ["lith-runner", "lith-trainer"];

/// The runner, or the one with a trainer for an executable that learns: the one the environment names, else the one beside
/// the running program, else one folder up (where Cargo puts binaries for its tests).
///
/// # Errors
/// When there is none.
pub fn find_runner(learns: bool) -> Result<PathBuf> {
    let runner_name = RUNNER_NAMES[usize::from(learns)];
    if let Some(path) = crate::env::runner() {
        return Ok(path);
    }
    let exe = std::env::current_exe().map_err(Error::failure)?;
    let name = format!("{runner_name}{}", std::env::consts::EXE_SUFFIX);
    let folders = exe.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(&name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        Error::failure(format!(
            "no `{runner_name}` beside {}: install all (cargo install), or name it with {}",
            exe.display(),
            crate::env::RUNNER
        ))
    })
}

/// Writes an executable of the runner, the artifact that learns if there is one, and the artifact that answers, under a
/// temporary name that is then renamed.
///
/// # Errors
/// When one of the files cannot be read or the executable cannot be written; nothing is then left of it. When the
/// artifact that answers could not be given what the other learns.
pub fn write_executable(runner: &Path, training: Option<&Path>, artifact: &Path, output: &Path) -> Result<()> {
    if let Some(training) = training {
        check_pair(artifact, training)?;
    }
    let folder = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |e: io::Error| Error::input(format!("{}: {e}", output.display()));
    let mut file = tempfile::Builder::new().prefix(".lith").tempfile_in(folder).map_err(failed)?;
    let append = |file: &mut File, path: &Path| -> Result<u64> {
        let mut source = File::open(path).map_err(|e| Error::io(path, e))?;
        io::copy(&mut source, file).map_err(failed)
    };
    let mut end = append(file.as_file_mut(), runner)?;
    let mut footers = Vec::new();
    let parts = [(Part::Training, training), (Part::Answers, Some(artifact))];
    for (part, path) in parts.into_iter().filter_map(|(part, path)| Some((part, path?))) {
        let offset = end.next_multiple_of(PAGE);
        file.as_file_mut().seek(SeekFrom::Start(offset)).map_err(failed)?;
        let size = append(file.as_file_mut(), path)?;
        footers.extend(Footer { offset, size }.encode(part));
        end = offset + size;
    }
    file.write_all(&footers).map_err(failed)?;
    make_executable(file.as_file()).map_err(failed)?;
    file.persist(output).map_err(|e| failed(e.error))?;
    Ok(())
}

/// Sees to it that what one artifact learns is all that the other is made of, and can be stored there.
fn check_pair(answers: &Path, training: &Path) -> Result<()> {
    let [answers, training] = [answers, training].map(|path| Artifact::open(path).map_err(Error::failure));
    let (answers, training) = (answers?, training?);
    if let Some(codes) = answers.manifest().params.iter().find(|entry| entry.scheme.is_some()) {
        let problem = "is stored as codes, which training does not give: --train goes without quantized weights";
        return Err(Error::input(format!("`{}` {problem}", codes.name)));
    }
    match not_learnt(&answers, &training).map_err(Error::failure)?.first() {
        Some(name) => Err(Error::failure(format!("`{name}` answers, but is not learnt"))),
        None => Ok(()),
    }
}

#[cfg(unix)]
fn make_executable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn make_executable(_: &File) -> io::Result<()> {
    Ok(())
}

/// Whether this is a file that is an artifact or carries one, by its first and last bytes.
///
/// # Errors
/// When it is a file and cannot be read.
pub fn holds_artifact(path: &Path) -> Result<bool> {
    Ok(path.is_file() && is_marked(path).map_err(|e| Error::io(path, e))?)
}

fn is_marked(path: &Path) -> io::Result<bool> {
    use lith_runtime::artifact::format::{ELF_OS_ABI, FOOTER_BYTES};
    let mut file = File::open(path)?;
    let mut ident = [0; 8];
    let size = file.metadata()?.len();
    if size < FOOTER_BYTES as u64 {
        return Ok(false);
    }
    file.read_exact(&mut ident)?;
    if ident[..4] == *b"\x7fELF" && ident[7] == ELF_OS_ABI {
        return Ok(true);
    }
    let mut tail = [0; FOOTER_BYTES];
    file.seek(SeekFrom::End(-(FOOTER_BYTES as i64)))?;
    file.read_exact(&mut tail)?;
    // A damaged footer still says that the file was made by Lith: opening it then tells what is wrong.
    Ok(!matches!(Footer::decode(Part::Answers, &tail, size), Ok(None)))
}
