//! Disks that fill up and processes that die while checkpoints are written, replaced or removed: whatever happens, the
//! last complete checkpoint is there and usable.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;

use serde_json::{Value, json};
use tempfile::tempdir;

use super::frail::{End, Frail};
use super::mock::*;
use crate::training::trainer::{Resume, Trainer, TrainerError};

fn values(limit: i64) -> Value {
    json!({"max_steps": 5, "save_steps": 1, "save_total_limit": limit, "logging_steps": 2})
}

fn frail<'a>(program: &'a mut Linear, folder: &Path, limit: i64, left: &Rc<Cell<u64>>, end: End) -> Trainer<'a> {
    let disk = Frail { left: left.clone(), end };
    Trainer::on_disk(parts(program, folder, values(limit), 16), Box::new(disk)).unwrap()
}

/// EC-17, TL-19: training is killed at every single operation on the disk, and then resumed: the weights are those of the
/// run that nobody killed. The same where it is killed while it goes on in a folder with checkpoints of the same numbers.
#[test]
fn ec_17_killed_anywhere() {
    let whole = {
        let folder = tempdir().unwrap();
        let mut program = Linear::dropping(0.2);
        trainer(&mut program, folder.path(), values(2), 16).train(&Resume::No).unwrap();
        program.all()
    };
    for again in [false, true] {
        let mut kills = 0;
        for operations in 0.. {
            let folder = tempdir().unwrap();
            if again {
                let mut program = Linear::dropping(0.2);
                trainer(&mut program, folder.path(), values(0), 16).train(&Resume::No).unwrap();
            }
            let left = Rc::new(Cell::new(operations));
            let mut program = Linear::dropping(0.2);
            let killed = catch_unwind(AssertUnwindSafe(|| {
                frail(&mut program, folder.path(), 2, &left, End::Killed).train(&Resume::No).unwrap();
            }));
            if killed.is_ok() {
                break;
            }
            kills += 1;
            let mut program = Linear::dropping(0.2);
            let mut trainer = trainer(&mut program, folder.path(), values(2), 16);
            match trainer.train(&Resume::Last) {
                Ok(_) => {}
                Err(TrainerError::Checkpoint(error)) if trainer.checkpoints().steps().unwrap().is_empty() => {
                    assert!(!again && error.to_string().contains("no checkpoint"), "{operations}: {error}");
                    trainer.train(&Resume::No).unwrap();
                }
                Err(error) => panic!("{operations}: {error}"),
            }
            drop(trainer);
            assert_eq!(program.all(), whole, "{operations}");
            let hidden = std::fs::read_dir(folder.path()).unwrap();
            let hidden = hidden.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.')).count();
            assert_eq!(hidden, 0, "{operations}");
        }
        assert!(kills > 60, "{kills}");
    }
}

/// A disk that fills up at every single operation: training ends with an error that names file and last checkpoint, which
/// is as it was and goes on where there is room again.
#[test]
fn full_disks_leave_the_last_checkpoint() {
    let mut failures = 0;
    for operations in 0.. {
        let folder = tempdir().unwrap();
        let left = Rc::new(Cell::new(operations));
        let mut program = Linear::new();
        let mut trainer = frail(&mut program, folder.path(), 0, &left, End::Full);
        let Err(error) = trainer.train(&Resume::No) else { break };
        failures += 1;
        assert!(!error.is_usage());
        let message = error.to_string();
        assert!(message.contains("cannot be written: "), "{message}");
        let steps = trainer.checkpoints().steps().unwrap();
        let last = steps.last().map(|&step| trainer.checkpoints().checkpoint(step));
        drop(trainer);
        if let Some(last) = last {
            assert!(message.contains(&format!("last complete checkpoint is {}", last.display())), "{message}");
            left.set(u64::MAX);
            let mut program = Linear::new();
            frail(&mut program, folder.path(), 0, &left, End::Full).train(&Resume::Last).unwrap();
        }
    }
    assert!(failures > 50, "{failures}");
}
