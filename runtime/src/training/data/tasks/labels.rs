//! Classes by name and number, and what a column of targets means. Must not know tasks.

use std::collections::HashMap;

use super::{DataError, Feature, Row, Value};
use crate::training::data::{Dataset, listed};

/// The classes of a model: their names in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels {
    names: Vec<String>,
    index: HashMap<String, usize>,
}

impl Labels {
    /// Classes of these names.
    ///
    /// # Errors
    /// When there is none or two have one name.
    pub fn new(names: Vec<String>) -> Result<Labels, DataError> {
        let mut index = HashMap::new();
        for (i, name) in names.iter().enumerate() {
            if index.insert(name.clone(), i).is_some() {
                return Err(DataError::argument("labels", format!("there are two labels {name:?}")));
            }
        }
        if names.is_empty() {
            return Err(DataError::argument("labels", "there are no labels"));
        }
        Ok(Labels { names, index })
    }

    /// The classes that a column holds, or lists of which it holds: in order of numbers if all are whole numbers, else of
    /// names. Numbers from 0 on are named `LABEL_0`, `LABEL_1`, ... as in Transformers.
    ///
    /// # Errors
    /// When a row lacks the column or has nothing in it, and when there is no class.
    pub fn of_column(dataset: &Dataset, column: &str) -> Result<Labels, DataError> {
        let mut distinct = std::collections::BTreeSet::new();
        for row in dataset.iter() {
            let value = row.column(column)?;
            for value in value.as_list().unwrap_or(std::slice::from_ref(value)) {
                match value {
                    Value::Null | Value::List(_) | Value::Struct(_) => return Err(row.wrong(column, "a label", value)),
                    value => distinct.insert(name_of(value)),
                };
            }
        }
        let numbers: Option<Vec<i64>> = distinct.iter().map(|name| name.parse().ok()).collect();
        let names: Vec<String> = match numbers {
            Some(mut numbers) => {
                numbers.sort_unstable();
                let from_zero = (0..).zip(&numbers).all(|(i, n)| i == *n);
                let name = |n: &i64| if from_zero { format!("LABEL_{n}") } else { n.to_string() };
                numbers.iter().map(name).collect()
            }
            None => distinct.into_iter().collect(),
        };
        if names.is_empty() {
            return Err(DataError::Empty { what: format!("labels of column {column:?}") });
        }
        Labels::new(names)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Their names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The number of the class called `name`.
    pub fn get(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// The number of the class that a value names, or is the number of.
    ///
    /// # Errors
    /// [`DataError::Label`].
    pub fn id(&self, row: &Row, column: &str, value: &Value) -> Result<i32, DataError> {
        let named = match value {
            Value::Null | Value::List(_) | Value::Struct(_) => return Err(row.wrong(column, "a label", value)),
            value => self.get(&name_of(value)),
        };
        let numbered = || value.as_int().and_then(|i| usize::try_from(i).ok()).filter(|i| *i < self.len());
        let id = named.or_else(numbered).and_then(|i| i32::try_from(i).ok());
        id.ok_or_else(|| DataError::Label {
            place: row.place().clone(),
            column: column.into(),
            label: value.to_string(),
            known: listed(&self.names),
        })
    }
}

/// A label's name: a whole number is the same with and without a fraction of zero.
fn name_of(value: &Value) -> String {
    match value {
        Value::Float(_) => value.as_int().map_or_else(|| value.to_string(), |i| i.to_string()),
        value => value.to_string(),
    }
}

/// What a column of targets means. (DS-04)
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// One class a row: whole numbers.
    Single(Labels),
    /// Any number of classes a row: a list of names or numbers, or of as many floats as there are classes.
    Multi(Labels),
    /// A number, or a list of this many.
    Regression(usize),
}

impl Target {
    /// What the values of a column say by themselves: lists of classes, lists of numbers or numbers with fractions, else one
    /// class a row.
    ///
    /// # Errors
    /// As [`Labels::of_column`]; and when there are no rows.
    pub fn infer(dataset: &Dataset, column: &str) -> Result<Target, DataError> {
        let mut all_lists = true;
        let (mut numbers, mut fractions) = (true, false);
        for row in dataset.iter() {
            let value = row.column(column)?;
            all_lists &= value.as_list().is_some();
            numbers &= value.as_float().is_some();
            fractions |= value.as_int().is_none() || matches!(value, Value::Float(_));
        }
        if dataset.is_empty() {
            return Err(DataError::Empty { what: format!("column {column:?}") });
        }
        Ok(if all_lists {
            Target::Multi(Labels::of_column(dataset, column)?)
        } else if numbers && fractions {
            Target::Regression(1)
        } else {
            Target::Single(Labels::of_column(dataset, column)?)
        })
    }

    /// Transformers' `problem_type`.
    pub fn problem_type(&self) -> &'static str {
        match self {
            Target::Single(_) => "single_label_classification",
            Target::Multi(_) => "multi_label_classification",
            Target::Regression(_) => "regression",
        }
    }

    /// Number of outputs that a model needs.
    pub fn num_labels(&self) -> usize {
        match self {
            Target::Single(labels) | Target::Multi(labels) => labels.len(),
            Target::Regression(outputs) => *outputs,
        }
    }

    /// The feature `label` of a row.
    pub(super) fn feature(&self, row: &Row, column: &str) -> Result<Feature, DataError> {
        let value = row.column(column)?;
        let number = |value: &Value| {
            let number = value.as_float().map(|f| f as f32).filter(|f| f.is_finite());
            number.ok_or_else(|| row.wrong(column, "a number", value))
        };
        match self {
            Target::Single(labels) => labels.id(row, column, value).map(Feature::Int),
            Target::Regression(1) if value.as_list().is_none() => number(value).map(Feature::Float),
            Target::Regression(outputs) => {
                let list = value.as_list().filter(|list| list.len() == *outputs);
                let list = list.ok_or_else(|| row.wrong(column, &format!("a list of {outputs} numbers"), value))?;
                list.iter().map(number).collect::<Result<_, _>>().map(Feature::Floats)
            }
            Target::Multi(labels) => {
                let list = value.as_list().ok_or_else(|| row.wrong(column, "a list of labels", value))?;
                if list.len() == labels.len() && list.iter().all(|v| matches!(v, Value::Float(_))) {
                    return list.iter().map(number).collect::<Result<_, _>>().map(Feature::Floats);
                }
                let mut hot = vec![0.0; labels.len()];
                for value in list {
                    let id = labels.id(row, column, value)?;
                    if let Some(hot) = usize::try_from(id).ok().and_then(|id| hot.get_mut(id)) {
                        *hot = 1.0;
                    }
                }
                Ok(Feature::Floats(hot))
            }
        }
    }
}
