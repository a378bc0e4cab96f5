//! The log as TensorBoard's event files (TI-08): records of a length, its checksum, a message and its checksum, as
//! TFRecord has it; the messages are `Event` of TensorFlow's `event.proto`, of which four fields are needed.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Callback, CallbackError, Event, TrainerControl};
use crate::training::arguments::TrainingArguments;
use crate::training::state::{Logs, TrainerState};

/// Writes what is logged into a folder that TensorBoard reads.
#[derive(Debug)]
pub struct TensorBoard {
    folder: PathBuf,
    file: Option<File>,
}

impl TensorBoard {
    /// Event files in this folder, a new one for each run.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        TensorBoard { folder: folder.into(), file: None }
    }

    fn begin(&mut self) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let name = format!("events.out.tfevents.{}.{}", now() as u64, std::process::id());
        let mut file = File::create(self.folder.join(name))?;
        // Event { wall_time = 1, file_version = 3 }
        let mut event = field_f64(1, now());
        event.extend(field_bytes(3, b"brain.Event:2"));
        record(&mut file, &event)?;
        self.file = Some(file);
        Ok(())
    }

    fn write(&mut self, logs: &Logs, step: u64) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut summary = Vec::new();
        for (name, value) in logs.iter().filter_map(|(name, value)| Some((name, value.as_f64()?))) {
            // Summary.Value { tag = 1, simple_value = 2 }
            let mut entry = field_bytes(1, tag(name).as_bytes());
            entry.push(2 << 3 | 5);
            entry.extend((value as f32).to_le_bytes());
            summary.extend(field_bytes(1, &entry));
        }
        // Event { wall_time = 1, step = 2, summary = 5 }
        let mut event = field_f64(1, now());
        event.push(2 << 3);
        event.extend(varint(step));
        event.extend(field_bytes(5, &summary));
        record(file, &event)
    }
}

/// A figure's name as Transformers tells it to TensorBoard.
fn tag(name: &str) -> String {
    match name.split_once('_') {
        Some((split @ ("eval" | "test"), rest)) => format!("{split}/{rest}"),
        _ => format!("train/{name}"),
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn field_bytes(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    field.extend(varint(bytes.len() as u64));
    field.extend_from_slice(bytes);
    field
}

fn field_f64(number: u8, value: f64) -> Vec<u8> {
    let mut field = vec![number << 3 | 1];
    field.extend(value.to_le_bytes());
    field
}

fn record(file: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let length = (message.len() as u64).to_le_bytes();
    let mut bytes = length.to_vec();
    bytes.extend(masked(&length).to_le_bytes());
    bytes.extend_from_slice(message);
    bytes.extend(masked(message).to_le_bytes());
    file.write_all(&bytes)
}

/// The checksum of a record, turned so that checksums of data with checksums in them are sound.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// CRC-32C (Castagnoli; RFC 3720, appendix B.4), bit by bit: logs are short.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 })
    })
}

impl Callback for TensorBoard {
    fn name(&self) -> &'static str {
        "TensorBoardCallback"
    }

    fn on(
        &mut self,
        event: &Event<'_>,
        _: &TrainingArguments,
        state: &TrainerState,
        _: &mut TrainerControl,
    ) -> Result<(), CallbackError> {
        let written = match event {
            Event::TrainBegin => self.begin(),
            Event::Log(logs) => self.write(logs, state.global_step),
            _ => Ok(()),
        };
        written.map_err(|error| CallbackError::Other(format!("{}: {error}", self.folder.display()).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of RFC 3720, appendix B.4, and of the protocol buffers' encoding.
    #[test]
    fn known_answers() {
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46DD_794E);
        assert_eq!((varint(1), varint(300)), (vec![1], vec![0xAC, 2]));
        assert_eq!(
            (tag("eval_loss"), tag("loss"), tag("train_loss")),
            ("eval/loss".into(), "train/loss".into(), "train/train_loss".into())
        );
    }
}
