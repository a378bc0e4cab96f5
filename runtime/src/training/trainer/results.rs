//! Figures as files and for people: `{split}_results.json`, `all_results.json`, the state, the model card, the report.
//! (EC-18, EX-03)

use std::path::Path;

use serde_json::Value;

use super::{Trainer, TrainerError};
use crate::training::card::ModelCard;
use crate::training::checkpoint::{CheckpointError, TRAINER_STATE, write_text};
use crate::training::report;
use crate::training::state::{Logs, pretty};

/// The results of all splits together.
const ALL: &str = "all";

impl Trainer<'_> {
    /// Saves the metrics of a split (`train`, `eval`, `test`) as `{split}_results.json`, and adds them to
    /// `all_results.json` where `combined` says so.
    ///
    /// # Errors
    /// When a file cannot be written, or `all_results.json` is there and is no JSON object.
    pub fn save_metrics(&self, split: &str, metrics: &Logs, combined: bool) -> Result<(), TrainerError> {
        self.write(&format!("{split}_results.json"), &pretty(&Value::Object(metrics.clone()), 4))?;
        if combined && split != ALL {
            let path = self.output(&format!("{ALL}_results.json"));
            let mut all = match std::fs::read_to_string(&path) {
                Ok(text) => serde_json::from_str::<Logs>(&text).map_err(|error| CheckpointError::Unusable {
                    path: path.clone(),
                    problem: format!("it is no JSON object: {error}"),
                })?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Logs::new(),
                Err(error) => {
                    return Err(CheckpointError::Unusable { path, problem: error.to_string() }.into());
                }
            };
            all.extend(metrics.clone());
            self.write(&format!("{ALL}_results.json"), &pretty(&Value::Object(all), 4))?;
        }
        Ok(())
    }

    /// Saves `trainer_state.json` in `output_dir`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_state(&self) -> Result<(), TrainerError> {
        self.write(TRAINER_STATE, &self.state.to_text())
    }

    /// Writes the model card, `README.md` in `output_dir`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create_model_card(&self, card: &ModelCard) -> Result<(), TrainerError> {
        self.write("README.md", &card.text(&self.args, &self.state))
    }

    /// Writes one page of HTML with curves and figures, which needs no other file; `facts` are told in its head.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_report(&self, path: &Path, title: &str, facts: &[(String, String)]) -> Result<(), TrainerError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            self.make_folder(folder)?;
        }
        Ok(write_text(&*self.disk, path, &report::html(title, facts, &self.args, &self.state))?)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), TrainerError> {
        self.make_folder(self.folder.path())?;
        Ok(write_text(&*self.disk, &self.output(name), text)?)
    }

    fn make_folder(&self, path: &Path) -> Result<(), TrainerError> {
        let made = self.disk.make_folder(path);
        made.map_err(|source| CheckpointError::Write { path: path.into(), source, kept: None }.into())
    }
}

/// Metrics as lines for people, names flush left and values flush right: times as hours, minutes and seconds, operations
/// in units of 2^30, numbers with four digits. (EC-18)
pub fn format_metrics(split: &str, metrics: &Logs) -> String {
    let mut rows: Vec<(&str, String)> =
        metrics.iter().map(|(name, value)| (name.as_str(), shown(name, value))).collect();
    rows.sort();
    let name = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let value = rows.iter().map(|(_, value)| value.len()).max().unwrap_or(0);
    let mut text = format!("***** {split} metrics *****\n");
    for (key, shown) in rows {
        text.push_str(&format!("  {key:<name$} = {shown:>value$}\n"));
    }
    text
}

fn shown(name: &str, value: &Value) -> String {
    let Some(number) = value.as_f64() else { return value.to_string() };
    if name.ends_with("_runtime") {
        let hundredths = (number * 100.0) as u64;
        let seconds = hundredths / 100;
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        format!("{hours}:{minutes:02}:{seconds:02}.{:02}", hundredths % 100)
    } else if name == "total_flos" {
        format!("{}GF", number as u64 >> 30)
    } else if value.is_f64() {
        let rounded = (number * 1e4).round() / 1e4;
        format!("{rounded:?}")
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// EC-18
    #[test]
    fn ec_18_metrics_for_people() {
        let metrics = json!({
            "train_runtime": 3725.129, "train_loss": 0.123456, "total_flos": 5e12, "epoch": 3.0, "train_samples": 120,
        });
        let text = format_metrics("train", metrics.as_object().unwrap());
        let expected = "\
            ***** train metrics *****\n\
            \x20 epoch         =        3.0\n\
            \x20 total_flos    =     4656GF\n\
            \x20 train_loss    =     0.1235\n\
            \x20 train_runtime = 1:02:05.12\n\
            \x20 train_samples =        120\n";
        assert_eq!(text, expected);
    }
}
