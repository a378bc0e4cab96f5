//! One row of a data set: named values and where they come from. Must not know files or data sets.

use std::sync::Arc;

use super::error::{DataError, Place, listed};
use super::value::Value;

/// Names of columns, shared by the rows that have the same.
pub(super) type Columns = Arc<[Box<str>]>;

/// Named values in order, and the place in a file that they come from, which every error about them names.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    columns: Columns,
    values: Vec<Value>,
    place: Place,
}

impl Row {
    /// A row of these fields; of two with one name the later counts.
    pub fn new<N: Into<Box<str>>, V: Into<Value>>(place: Place, fields: impl IntoIterator<Item = (N, V)>) -> Row {
        let (names, values): (Vec<Box<str>>, Vec<Value>) =
            fields.into_iter().map(|(name, value)| (name.into(), value.into())).unzip();
        Row::shared(names.into(), values, place)
    }

    /// A row whose columns other rows have too; one value for each column.
    pub(super) fn shared(columns: Columns, mut values: Vec<Value>, place: Place) -> Row {
        values.resize(columns.len(), Value::Null);
        Row { columns, values, place }
    }

    /// Where it comes from.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The names of its columns.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|name| &**name)
    }

    /// Its names and values.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.columns().zip(&self.values)
    }

    pub(super) fn shared_columns(&self) -> &Columns {
        &self.columns
    }

    /// The value of a column, if there is one.
    pub fn get(&self, column: &str) -> Option<&Value> {
        let at = self.columns.iter().rposition(|name| **name == *column)?;
        self.values.get(at)
    }

    /// The value of a column.
    ///
    /// # Errors
    /// [`DataError::Column`] naming the columns that there are.
    pub fn column(&self, column: &str) -> Result<&Value, DataError> {
        self.get(column).ok_or_else(|| DataError::Column {
            place: self.place.clone(),
            column: column.into(),
            known: listed(self.columns()),
        })
    }

    /// The text of a column.
    ///
    /// # Errors
    /// When the column does not exist or holds something else.
    pub fn text(&self, column: &str) -> Result<&str, DataError> {
        let value = self.column(column)?;
        value.as_str().ok_or_else(|| self.wrong(column, "a text", value))
    }

    /// The list of texts of a column.
    ///
    /// # Errors
    /// When the column does not exist or holds something else.
    pub fn texts(&self, column: &str) -> Result<Vec<String>, DataError> {
        let value = self.column(column)?;
        let text = |v: &Value| v.as_str().map(str::to_string);
        let all = value.as_list().and_then(|list| list.iter().map(text).collect());
        all.ok_or_else(|| self.wrong(column, "a list of texts", value))
    }

    /// The error of a column that holds something else than expected.
    pub(super) fn wrong(&self, column: &str, expected: &str, found: &Value) -> DataError {
        self.error(format!("column {column:?}: expected {expected}, found {}", found.kind()))
    }

    /// An error of this row.
    pub(super) fn error(&self, problem: impl Into<String>) -> DataError {
        DataError::row(&self.place, problem)
    }

    /// Sets the value of a column, a new one if it does not exist.
    pub fn set(&mut self, column: &str, value: impl Into<Value>) {
        match self.columns.iter().rposition(|name| **name == *column) {
            Some(at) => self.values[at] = value.into(),
            None => {
                self.columns = self.columns.iter().cloned().chain([column.into()]).collect();
                self.values.push(value.into());
            }
        }
    }

    /// The row without the columns that `keep` refuses.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        let kept: Vec<bool> = self.columns().map(&mut keep).collect();
        if kept.iter().all(|k| *k) {
            return;
        }
        let mut flags = kept.iter();
        self.values.retain(|_| flags.next().copied().unwrap_or(true));
        self.columns = self.columns.iter().zip(&kept).filter(|(_, k)| **k).map(|(name, _)| name.clone()).collect();
    }

    /// Gives a column another name; nothing happens when it does not exist.
    pub fn rename(&mut self, from: &str, to: &str) {
        if self.get(from).is_some() {
            self.columns = self.columns().map(|name| if name == from { to.into() } else { name.into() }).collect();
        }
    }

    /// The row as a JSON object.
    pub fn to_json(&self) -> serde_json::Map<String, serde_json::Value> {
        self.fields().map(|(name, value)| (name.to_string(), value.to_json())).collect()
    }
}

/// Gives rows with the same column names one list of them.
#[derive(Debug, Default)]
pub(super) struct ColumnCache(Option<Columns>);

impl ColumnCache {
    /// These names, shared with the row before if they are its.
    pub fn share(&mut self, names: Vec<Box<str>>) -> Columns {
        match &self.0 {
            Some(known) if **known == *names => known.clone(),
            _ => self.0.insert(names.into()).clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_set_renamed_and_dropped() {
        let mut row = Row::new(Place::memory(4), [("a", Value::from("x")), ("b", 2.into())]);
        row.set("c", true);
        row.set("b", 3);
        row.rename("a", "text");
        row.retain(|name| name != "c");
        assert_eq!(serde_json::Value::Object(row.to_json()).to_string(), r#"{"text":"x","b":3}"#);
        let missing = row.text("sentence").unwrap_err();
        assert_eq!(missing.to_string(), r#"memory, row 5: there is no column "sentence"; there are "text", "b""#);
        let wrong = row.text("b").unwrap_err();
        assert_eq!(wrong.to_string(), r#"memory, row 5: column "b": expected a text, found a whole number"#);
        assert!(missing.is_usage() && wrong.is_usage());
    }
}
