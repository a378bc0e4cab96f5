//! Checkpoints on disk: written whole or not at all, found again, rotated, and read back after all of it was checked.
//! Must not know how training is done.
//!
//! A checkpoint is made under a hidden name, synchronised and then renamed, so what is called `checkpoint-N` is complete
//! at any moment. Hidden names that an interrupted process left behind are put right when the folder is opened next.

mod disk;
mod error;
mod folder;
mod load;
mod save;
mod sizes;
mod weights;

pub use error::CheckpointError;
pub use folder::CheckpointFolder;
pub use load::SavedWeights;
pub use sizes::parse_size;
pub use weights::ReadTensor;

#[cfg(test)]
pub(super) use disk::DiskFile;
pub(super) use disk::{Disk, RealDisk};
pub(super) use load::{check, load_weights};
pub use save::{ModelFiles, save_weights};
pub(super) use save::{save_checkpoint, save_model, write_text};

/// `trainer_state.json`, beside the weights.
pub(super) const TRAINER_STATE: &str = "trainer_state.json";
/// The optimizer's states.
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
/// The arguments of the run.
pub(super) const TRAINING_ARGS: &str = "training_args.json";
