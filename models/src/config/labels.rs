//! Labels of classification heads: `id2label`, `label2id`, `num_labels`, `problem_type` (CFG-14, CFG-15).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::{ConfigError, wrong_type};

/// Most labels a config may have by number alone, so that a typing error does not fill the memory. (The largest
/// published classifiers have about 22,000.)
const MAX_LABELS: u64 = 1 << 20;

/// The labels of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    id2label: BTreeMap<usize, String>,
    label2id: BTreeMap<String, usize>,
}

impl Default for Labels {
    /// `LABEL_0` and `LABEL_1`, what a config without labels means.
    fn default() -> Self {
        Labels::numbered(2)
    }
}

impl Labels {
    /// `LABEL_0` to `LABEL_{count - 1}`.
    pub fn numbered(count: usize) -> Labels {
        let id2label: BTreeMap<_, _> = (0..count).map(|id| (id, format!("LABEL_{id}"))).collect();
        Labels { label2id: invert(&id2label), id2label }
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.id2label.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.id2label.is_empty()
    }

    /// The name of a label.
    pub fn name(&self, id: usize) -> Option<&str> {
        self.id2label.get(&id).map(String::as_str)
    }

    /// The id of a name.
    pub fn id(&self, name: &str) -> Option<usize> {
        self.label2id.get(name).copied()
    }

    /// Ids and names, by id.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &str)> {
        self.id2label.iter().map(|(id, name)| (*id, name.as_str()))
    }

    /// Takes `id2label`, `label2id` and `num_labels` out of `fields`. With `id2label` its length counts, and a
    /// `num_labels` that says otherwise is a warning.
    pub(super) fn from_fields(
        fields: &mut Map<String, Value>,
        file: &Path,
        warnings: &mut Vec<String>,
    ) -> Result<Labels, ConfigError> {
        let num_labels = match fields.remove("num_labels") {
            None | Some(Value::Null) => None,
            Some(value) => match value.as_u64().filter(|count| *count <= MAX_LABELS) {
                Some(count) => Some(count as usize),
                None => return Err(wrong_type(file, "num_labels", "integer from 0 to 1048576", &value)),
            },
        };
        let given_ids = match fields.remove("label2id") {
            Some(Value::Object(map)) => Some(map),
            _ => None,
        };
        let Some(Value::Object(map)) = fields.remove("id2label") else {
            return Ok(num_labels.map_or_else(Labels::default, Labels::numbered));
        };
        let mut id2label = BTreeMap::new();
        for (key, value) in &map {
            let field = format!("id2label.{key}");
            let Ok(id) = key.parse::<usize>() else {
                return Err(wrong_type(file, &field, "integer as key", &key.as_str().into()));
            };
            let Some(name) = value.as_str() else { return Err(wrong_type(file, &field, "string", value)) };
            id2label.insert(id, name.to_string());
        }
        if num_labels.is_some_and(|count| count != id2label.len()) {
            let (file, count) = (file.display(), id2label.len());
            warnings.push(format!("{file}: num_labels disagrees with id2label, which has {count} labels and counts"));
        }
        let label2id = match given_ids {
            None => invert(&id2label),
            Some(map) => {
                let id = |(name, value): (&String, &Value)| match value.as_u64() {
                    Some(id) => Ok((name.clone(), id as usize)),
                    None => Err(wrong_type(file, &format!("label2id.{name}"), "integer", value)),
                };
                map.iter().map(id).collect::<Result<_, _>>()?
            }
        };
        Ok(Labels { id2label, label2id })
    }

    /// Writes `id2label` and `label2id`, unless they are what a config without them means.
    pub(super) fn write_to(&self, map: &mut Map<String, Value>) {
        if *self != Labels::default() {
            let names = self.id2label.iter().map(|(id, name)| (id.to_string(), name.as_str().into())).collect();
            map.insert("id2label".into(), Value::Object(names));
            let ids = self.label2id.iter().map(|(name, id)| (name.clone(), (*id).into())).collect();
            map.insert("label2id".into(), Value::Object(ids));
        }
    }
}

fn invert(id2label: &BTreeMap<usize, String>) -> BTreeMap<String, usize> {
    id2label.iter().map(|(id, name)| (name.clone(), *id)).collect()
}

/// What a sequence classification head predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemType {
    /// Numbers.
    Regression,
    /// One of the labels.
    SingleLabelClassification,
    /// Any subset of the labels.
    MultiLabelClassification,
}

impl ProblemType {
    pub(super) fn from_fields(
        fields: &Map<String, Value>,
        labels: &Labels,
        file: &Path,
    ) -> Result<Option<ProblemType>, ConfigError> {
        let Some(value) = fields.get("problem_type").filter(|value| !value.is_null()) else { return Ok(None) };
        match value.as_str() {
            Some("regression") => Ok(Some(ProblemType::Regression)),
            Some("multi_label_classification") => Ok(Some(ProblemType::MultiLabelClassification)),
            Some("single_label_classification") if labels.len() == 1 => {
                Err(wrong_type(file, "problem_type", "regression (there is one label) or more than one label", value))
            }
            Some("single_label_classification") => Ok(Some(ProblemType::SingleLabelClassification)),
            _ => Err(wrong_type(
                file,
                "problem_type",
                "regression, single_label_classification or multi_label_classification",
                value,
            )),
        }
    }
}
