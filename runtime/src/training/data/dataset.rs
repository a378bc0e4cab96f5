//! Rows in memory: chosen, ordered, mapped and joined. Every operation gives a new data set; rows are shared, not copied.
//! Must not know files.

use std::collections::HashSet;
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::error::{DataError, Place, listed};
use super::random::permutation;
use super::row::Row;
use super::stream::{RowStream, Turns};
use super::value::Value;

/// When mixing several data sets ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stopping {
    /// When the first of them has no row left.
    #[default]
    FirstExhausted,
    /// When all of them are through, each row once.
    AllExhausted,
}

/// Rows in memory.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    rows: Vec<Arc<Row>>,
}

impl Dataset {
    /// A data set of these rows.
    pub fn new(rows: impl IntoIterator<Item = Row>) -> Dataset {
        Dataset { rows: rows.into_iter().map(Arc::new).collect() }
    }

    /// Rows made in memory, from JSON objects.
    ///
    /// # Errors
    /// When a value is not an object.
    pub fn from_json(rows: impl IntoIterator<Item = serde_json::Value>) -> Result<Dataset, DataError> {
        let row = |(index, json)| {
            let place = Place::memory(index);
            match json {
                serde_json::Value::Object(fields) => Ok(Arc::new(Row::new(place, fields))),
                _ => Err(DataError::row(&place, "expected an object")),
            }
        };
        Ok(Dataset { rows: rows.into_iter().enumerate().map(row).collect::<Result<_, _>>()? })
    }

    /// All rows of a stream.
    ///
    /// # Errors
    /// The stream's first error.
    pub fn from_stream(stream: RowStream) -> Result<Dataset, DataError> {
        Ok(Dataset { rows: stream.map(|row| row.map(Arc::new)).collect::<Result<_, _>>()? })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// One row.
    pub fn get(&self, index: usize) -> Option<&Row> {
        self.rows.get(index).map(Arc::as_ref)
    }

    /// The rows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Row> {
        self.rows.iter().map(Arc::as_ref)
    }

    /// The rows as a stream.
    pub fn stream(&self) -> RowStream {
        let rows = self.rows.clone();
        RowStream::new(rows.into_iter().map(|row| Ok(Arc::unwrap_or_clone(row))))
    }

    /// The names of the columns, in the order in which they first appear.
    pub fn columns(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let mut before = None;
        for row in self.iter() {
            // Most rows share one list of names.
            if before.is_some_and(|b| Arc::ptr_eq(b, row.shared_columns())) {
                continue;
            }
            before = Some(row.shared_columns());
            for name in row.columns() {
                if !names.iter().any(|n| n == name) {
                    names.push(name.into());
                }
            }
        }
        names
    }

    /// The distinct values of a column as texts, in order of appearance.
    ///
    /// # Errors
    /// When a row lacks the column.
    pub fn unique(&self, column: &str) -> Result<Vec<String>, DataError> {
        let mut seen = HashSet::new();
        let mut values = Vec::new();
        for row in self.iter() {
            let value = row.column(column)?.to_string();
            if seen.insert(value.clone()) {
                values.push(value);
            }
        }
        Ok(values)
    }

    /// The rows of these numbers, in this order; a row may come more than once. (DS-01)
    ///
    /// # Errors
    /// When there is no such row.
    pub fn select(&self, indices: impl IntoIterator<Item = usize>) -> Result<Dataset, DataError> {
        let row = |index| {
            let problem = || format!("there is no row {index}: there are {}", self.len());
            self.rows.get(index).cloned().ok_or_else(|| DataError::argument("select", problem()))
        };
        Ok(Dataset { rows: indices.into_iter().map(row).collect::<Result<_, _>>()? })
    }

    /// The first `n` rows, or all.
    pub fn take(&self, n: usize) -> Dataset {
        Dataset { rows: self.rows.iter().take(n).cloned().collect() }
    }

    /// The rows in random order, a function of the seed and their number. (DS-01)
    pub fn shuffle(&self, seed: u64) -> Dataset {
        let order = permutation(self.len(), seed, 0);
        Dataset { rows: order.into_iter().map(|i| self.rows[i].clone()).collect() }
    }

    /// The rows for which `f` holds. (DS-01)
    pub fn filter(&self, mut f: impl FnMut(&Row) -> bool) -> Dataset {
        Dataset { rows: self.rows.iter().filter(|row| f(row)).cloned().collect() }
    }

    /// The rows that `f` makes of batches of `batch_size` rows, any number from each; in order, computed on all cores.
    /// (DS-02)
    ///
    /// # Errors
    /// The first of `f`, by order of rows; and when `batch_size` is 0.
    pub fn map_batched(
        &self,
        batch_size: usize,
        f: impl Fn(&[Arc<Row>]) -> Result<Vec<Row>, DataError> + Sync,
    ) -> Result<Dataset, DataError> {
        if batch_size == 0 {
            return Err(DataError::argument("batch_size", "must be at least 1"));
        }
        let batches: Vec<Result<Vec<Row>, DataError>> = match tokenizers::parallelism::get_parallelism() {
            true => self.rows.par_chunks(batch_size).map(&f).collect(),
            false => self.rows.chunks(batch_size).map(&f).collect(),
        };
        let mut rows = Vec::new();
        for batch in batches {
            rows.extend(batch?.into_iter().map(Arc::new));
        }
        Ok(Dataset { rows })
    }

    /// The row that `f` makes of each row; computed on all cores. (DS-02)
    ///
    /// # Errors
    /// The first of `f`, by order of rows.
    pub fn map(&self, f: impl Fn(Row) -> Result<Row, DataError> + Sync) -> Result<Dataset, DataError> {
        self.map_batched(256, |rows| rows.iter().map(|row| f(Row::clone(row))).collect())
    }

    /// The data set with only these columns. (DS-02)
    ///
    /// # Errors
    /// When one does not exist.
    pub fn select_columns(&self, columns: &[&str]) -> Result<Dataset, DataError> {
        self.check_columns(columns)?;
        self.map(|mut row| {
            row.retain(|name| columns.contains(&name));
            Ok(row)
        })
    }

    /// The data set without these columns. (DS-02)
    ///
    /// # Errors
    /// When one does not exist.
    pub fn remove_columns(&self, columns: &[&str]) -> Result<Dataset, DataError> {
        self.check_columns(columns)?;
        self.map(|mut row| {
            row.retain(|name| !columns.contains(&name));
            Ok(row)
        })
    }

    /// The data set with a column under another name.
    ///
    /// # Errors
    /// When it does not exist or the new name is taken.
    pub fn rename_column(&self, from: &str, to: &str) -> Result<Dataset, DataError> {
        self.check_columns(&[from])?;
        if from != to && self.columns().iter().any(|name| name == to) {
            return Err(DataError::argument("rename", format!("there is a column {to:?} already")));
        }
        self.map(|mut row| {
            row.rename(from, to);
            Ok(row)
        })
    }

    fn check_columns(&self, columns: &[&str]) -> Result<(), DataError> {
        let known = self.columns();
        match columns.iter().find(|c| !known.iter().any(|k| k == *c)) {
            Some(missing) => Err(DataError::Column {
                place: self.rows.first().map_or_else(|| Place::memory(0), |row| row.place().clone()),
                column: (*missing).into(),
                known: listed(known),
            }),
            None => Ok(()),
        }
    }

    /// Data sets one after the other. (DS-01)
    pub fn concatenate(parts: &[Dataset]) -> Dataset {
        Dataset { rows: parts.iter().flat_map(|part| part.rows.iter().cloned()).collect() }
    }

    /// Data sets mixed: in turn, or at random by probabilities.
    ///
    /// # Errors
    /// When there is none or the probabilities do not fit.
    pub fn interleave(
        parts: &[Dataset],
        probabilities: Option<&[f64]>,
        seed: u64,
        stopping: Stopping,
    ) -> Result<Dataset, DataError> {
        let mut turns = Turns::new(parts.len(), probabilities, seed, stopping)?;
        let mut sources: Vec<_> = parts.iter().map(|part| part.rows.iter()).collect();
        let mut rows = Vec::new();
        while let Some(source) = turns.next() {
            match sources[source].next() {
                Some(row) => rows.push(row.clone()),
                None => turns.exhausted(source),
            }
        }
        Ok(Dataset { rows })
    }

    /// A hash of all names and values, not of places.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for row in self.iter() {
            for (name, value) in row.fields() {
                hash_text(&mut hash, name);
                hash_value(&mut hash, value);
            }
            hash.update([b';']);
        }
        hash.finalize().into()
    }
}

fn hash_text(hash: &mut Sha256, text: &str) {
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text);
}

/// Every value begins with its kind and says its length, so that no two hash alike by the bytes of their neighbours.
fn hash_value(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Null => hash.update([b'n']),
        Value::Bool(b) => hash.update([b'b', u8::from(*b)]),
        Value::Int(i) => {
            hash.update([b'i']);
            hash.update(i.to_le_bytes());
        }
        Value::Float(f) => {
            hash.update([b'f']);
            hash.update(f.to_bits().to_le_bytes());
        }
        Value::Text(text) => {
            hash.update([b't']);
            hash_text(hash, text);
        }
        Value::List(values) => {
            hash.update([b'l']);
            hash.update((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| hash_value(hash, value));
        }
        Value::Struct(fields) => {
            hash.update([b's']);
            hash.update((fields.len() as u64).to_le_bytes());
            for (name, value) in fields {
                hash_text(hash, name);
                hash_value(hash, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(n: usize) -> Dataset {
        Dataset::from_json((0..n).map(|i| json!({ "n": i, "text": format!("t{i}") }))).unwrap()
    }

    fn numbers(dataset: &Dataset) -> Vec<i64> {
        dataset.iter().map(|row| row.get("n").and_then(Value::as_int).unwrap()).collect()
    }

    /// DS-01: select, filter, shuffle, concatenate, interleave.
    #[test]
    fn ds_01_rows_are_chosen_and_ordered() {
        let five = rows(5);
        assert_eq!(numbers(&five.select([4, 0, 4]).unwrap()), [4, 0, 4]);
        assert!(five.select([5]).unwrap_err().to_string().contains("there is no row 5: there are 5"));
        assert_eq!(numbers(&five.filter(|row| row.get("n").and_then(Value::as_int) != Some(3))), [0, 1, 2, 4]);
        let shuffled = five.shuffle(1);
        assert_eq!(numbers(&shuffled), numbers(&five.shuffle(1)));
        let mut sorted = numbers(&shuffled);
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4]);
        assert_eq!(numbers(&Dataset::concatenate(&[five.take(2), rows(1)])), [0, 1, 0]);
        let mixed = Dataset::interleave(&[five, rows(2)], None, 0, Stopping::AllExhausted).unwrap();
        assert_eq!(numbers(&mixed), [0, 0, 1, 1, 2, 3, 4]);
    }

    /// DS-02: a batch may become any number of rows; columns may go; the first error by order is reported.
    #[test]
    fn ds_02_rows_are_mapped() {
        let ten = rows(10);
        let twice =
            ten.map_batched(3, |batch| Ok(batch.iter().flat_map(|row| [Row::clone(row), Row::clone(row)]).collect()));
        assert_eq!(numbers(&twice.unwrap()).len(), 20);
        let first = ten.map_batched(4, |batch| Ok(vec![Row::clone(&batch[0])])).unwrap();
        assert_eq!(numbers(&first), [0, 4, 8]);
        let failing = ten.map(|row| if row.place().number > 3 { Err(row.error("no")) } else { Ok(row) });
        assert_eq!(failing.unwrap_err().to_string(), "memory, row 4: no");
        assert!(ten.map_batched(0, |_| Ok(Vec::new())).is_err());
        assert_eq!(ten.remove_columns(&["text"]).unwrap().columns(), ["n"]);
        assert_eq!(ten.select_columns(&["text"]).unwrap().columns(), ["text"]);
        assert_eq!(ten.rename_column("text", "sentence").unwrap().columns(), ["n", "sentence"]);
        let missing = ten.remove_columns(&["label"]).unwrap_err().to_string();
        assert_eq!(missing, r#"memory, row 1: there is no column "label"; there are "n", "text""#);
        assert!(ten.rename_column("text", "n").is_err());
    }

    #[test]
    fn fingerprints_see_every_value() {
        let of = |values: Vec<serde_json::Value>| Dataset::from_json(values).unwrap().fingerprint();
        let all = [
            vec![],
            vec![json!({"a": "x"})],
            vec![json!({"b": "x"})],
            vec![json!({"a": 1})],
            vec![json!({"a": 1.5})],
            vec![json!({"a": null})],
            vec![json!({"a": false})],
            vec![json!({"a": ["x"]})],
            vec![json!({"a": ["x", "y"]})],
            vec![json!({"a": {"x": "y"}})],
            vec![json!({"a": "x"}), json!({"a": "x"})],
        ];
        let distinct: HashSet<_> = all.iter().cloned().map(of).collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(rows(3).fingerprint(), rows(3).fingerprint());
    }
}
