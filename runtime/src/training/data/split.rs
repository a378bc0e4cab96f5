//! Parts of data sets: `train[:10%]`, a held-out test set, and which file of a folder belongs to which part.
//! Must not know file formats.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use super::dataset::Dataset;
use super::error::{DataError, listed};
use super::random::{Draws, permutation};

/// A place in a data set: a number of rows or a percentage, from the end when negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Rows(i64),
    Percent(i64),
}

impl Bound {
    fn resolve(self, len: usize) -> i64 {
        let len = i64::try_from(len).unwrap_or(i64::MAX);
        let at = match self {
            Bound::Rows(rows) => rows,
            Bound::Percent(percent) => round_half_even(percent, len),
        };
        if at < 0 { at.saturating_add(len).max(0) } else { at.min(len) }
    }
}

/// `percent * len / 100` to the nearest whole number, halves to the even one, as Python rounds.
fn round_half_even(percent: i64, len: i64) -> i64 {
    let product = i128::from(percent) * i128::from(len);
    let (down, rest) = (product.div_euclid(100), product.rem_euclid(100));
    let up = rest > 50 || (rest == 50 && down % 2 != 0);
    i64::try_from(down + i128::from(up)).unwrap_or(i64::MAX)
}

/// Which rows of which parts: `train`, `train[:10%]`, `train[100:200]+validation[-50:]`. (DS-01)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitSpec(Vec<(String, Option<Bound>, Option<Bound>)>);

impl FromStr for SplitSpec {
    type Err = DataError;

    fn from_str(s: &str) -> Result<Self, DataError> {
        let wrong = || {
            let problem = format!(
                "{s:?} is not of the form name, name[from:to] or a sum of such; from and to are rows or percent"
            );
            DataError::argument("split", problem)
        };
        let bound = |text: &str| -> Result<Option<Bound>, DataError> {
            let text = text.trim();
            if text.is_empty() {
                return Ok(None);
            }
            let bound = match text.strip_suffix('%') {
                Some(percent) => Bound::Percent(percent.trim().parse().map_err(|_| wrong())?),
                None => Bound::Rows(text.replace('_', "").parse().map_err(|_| wrong())?),
            };
            match bound {
                Bound::Percent(p) if !(-100..=100).contains(&p) => Err(wrong()),
                bound => Ok(Some(bound)),
            }
        };
        let part = |part: &str| {
            let (name, range) = match part.trim().split_once('[') {
                None => (part.trim(), ":"),
                Some((name, range)) => (name.trim(), range.strip_suffix(']').ok_or_else(wrong)?),
            };
            let (from, to) = range.split_once(':').ok_or_else(wrong)?;
            if name.is_empty() || name.contains(']') {
                return Err(wrong());
            }
            Ok((name.to_string(), bound(from)?, bound(to)?))
        };
        Ok(SplitSpec(s.split('+').map(part).collect::<Result<_, _>>()?))
    }
}

impl SplitSpec {
    /// The rows that are meant, of named parts.
    ///
    /// # Errors
    /// When a part does not exist, or no row is left.
    pub fn of(&self, parts: &BTreeMap<String, Dataset>) -> Result<Dataset, DataError> {
        let mut chosen = Vec::new();
        for (name, from, to) in &self.0 {
            let part = parts.get(name).ok_or_else(|| {
                DataError::argument("split", format!("there is no part {name:?}; there are {}", listed(parts.keys())))
            })?;
            let from = from.map_or(0, |b| b.resolve(part.len()));
            let to = to.map_or(part.len() as i64, |b| b.resolve(part.len()));
            chosen.push(part.select(from as usize..to.max(from) as usize)?);
        }
        let rows = Dataset::concatenate(&chosen);
        if rows.is_empty() {
            let names = self.0.iter().map(|(name, ..)| name);
            return Err(DataError::Empty { what: format!("split of {}", listed(names)) });
        }
        Ok(rows)
    }
}

/// The part that a file belongs to by its name (`train-00000.parquet`, `reviews_dev.csv`, `test/0.jsonl`): `train`,
/// `validation` or `test`; `train` for any other name.
pub fn part_of(path: &Path) -> &'static str {
    const WORDS: &[(&str, &[&str])] = &[
        ("train", &["train", "training"]),
        ("validation", &["validation", "valid", "dev", "val"]),
        ("test", &["test", "testing", "eval", "evaluation"]),
    ];
    // The file's own name says more than its folders' names.
    for component in path.components().rev() {
        let name = component.as_os_str().to_string_lossy().to_lowercase();
        let words: Vec<&str> = name.split(|c: char| !c.is_alphanumeric()).collect();
        if let Some((part, _)) = WORDS.iter().find(|(_, known)| words.iter().any(|w| known.contains(w))) {
            return part;
        }
    }
    "train"
}

/// How large a part is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Size {
    /// This many rows.
    Rows(usize),
    /// This share of all rows, between 0 and 1.
    Share(f64),
}

/// How a test set is held out. (DS-01)
#[derive(Debug, Clone, PartialEq)]
pub struct TrainTestSplit<'a> {
    /// Rows for testing; a share is rounded up.
    pub test_size: Size,
    /// Rows for training, a share rounded down; `None` takes all others.
    pub train_size: Option<Size>,
    /// Whether rows are shuffled first.
    pub shuffle: bool,
    /// The seed of the order.
    pub seed: u64,
    /// A column whose values should be as frequent in both parts.
    pub stratify_by_column: Option<&'a str>,
}

impl Default for TrainTestSplit<'_> {
    fn default() -> Self {
        TrainTestSplit {
            test_size: Size::Share(0.25),
            train_size: None,
            shuffle: true,
            seed: 42,
            stratify_by_column: None,
        }
    }
}

impl Dataset {
    /// Two parts without a common row: for training and for testing.
    ///
    /// # Errors
    /// When the sizes leave one part empty or ask for more rows than there are; when a class has too few rows to be in both
    /// parts.
    pub fn train_test_split(&self, options: &TrainTestSplit<'_>) -> Result<(Dataset, Dataset), DataError> {
        let n = self.len();
        let test = options.test_size.rows("test_size", n, f64::ceil)?;
        let train = match options.train_size {
            Some(size) => size.rows("train_size", n, f64::floor)?,
            None => n.saturating_sub(test),
        };
        if test == 0 || train == 0 || test.checked_add(train).is_none_or(|sum| sum > n) {
            let problem = format!("{n} rows cannot be split into {train} for training and {test} for testing");
            return Err(DataError::argument("test_size", problem));
        }
        let (train, test) = match options.stratify_by_column {
            Some(_) if !options.shuffle => {
                return Err(DataError::argument("stratify_by_column", "needs shuffle"));
            }
            Some(column) => self.stratified(column, train, test, options.seed)?,
            None if options.shuffle => {
                let order = permutation(n, options.seed, 0);
                (order[test..test + train].to_vec(), order[..test].to_vec())
            }
            None => ((0..train).collect(), (train..train + test).collect()),
        };
        Ok((self.select(train)?, self.select(test)?))
    }

    /// Row numbers for training and testing with each class's share of both, by largest remainders (of equal ones the
    /// larger class first, then the one that appears first).
    fn stratified(
        &self,
        column: &str,
        train: usize,
        test: usize,
        seed: u64,
    ) -> Result<(Vec<usize>, Vec<usize>), DataError> {
        let names = self.unique(column)?;
        let mut classes: Vec<Vec<usize>> = vec![Vec::new(); names.len()];
        let number: BTreeMap<&str, usize> = names.iter().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
        for (index, row) in self.iter().enumerate() {
            if let Some(&class) = number.get(row.column(column)?.to_string().as_str()) {
                classes[class].push(index);
            }
        }
        if let Some(few) = classes.iter().position(|rows| rows.len() < 2) {
            let problem =
                format!("{:?} of column {column:?} has one row alone and cannot be in both parts", names[few]);
            return Err(DataError::argument("stratify_by_column", problem));
        }
        if train.min(test) < classes.len() {
            let problem =
                format!("{} rows are fewer than the {} classes of {column:?}", train.min(test), classes.len());
            return Err(DataError::argument("stratify_by_column", problem));
        }
        let sizes: Vec<usize> = classes.iter().map(Vec::len).collect();
        let for_train = shares(&sizes, train);
        let rest: Vec<usize> = sizes.iter().zip(&for_train).map(|(all, taken)| all - taken).collect();
        let for_test = shares(&rest, test);
        let (mut train_rows, mut test_rows) = (Vec::with_capacity(train), Vec::with_capacity(test));
        for (class, rows) in classes.iter().enumerate() {
            let order = permutation(rows.len(), seed, class as u64 + 1);
            let mut rows = order.into_iter().map(|i| rows[i]);
            train_rows.extend(rows.by_ref().take(for_train[class]));
            test_rows.extend(rows.take(for_test[class]));
        }
        let mix = |rows: Vec<usize>, stream: u64| -> Vec<usize> {
            let seed = Draws::new(seed, 0).bits(stream);
            permutation(rows.len(), seed, stream).into_iter().map(|i| rows[i]).collect()
        };
        Ok((mix(train_rows, 0), mix(test_rows, 1)))
    }
}

impl Size {
    fn rows(self, name: &'static str, n: usize, round: fn(f64) -> f64) -> Result<usize, DataError> {
        match self {
            Size::Rows(rows) => Ok(rows),
            Size::Share(share) if share > 0.0 && share < 1.0 => Ok(round(share * n as f64) as usize),
            Size::Share(share) => {
                Err(DataError::argument(name, format!("{share} is neither a number of rows nor between 0 and 1")))
            }
        }
    }
}

/// `total` shared out in proportion to `sizes` (whose sum is at least `total`), none getting more than its size.
fn shares(sizes: &[usize], total: usize) -> Vec<usize> {
    let all: u128 = sizes.iter().map(|&s| s as u128).sum::<u128>().max(1);
    let exact = |size: usize| (size as u128 * total as u128 / all, size as u128 * total as u128 % all);
    let mut counts: Vec<usize> = sizes.iter().map(|&size| exact(size).0 as usize).collect();
    let mut by_rest: Vec<usize> = (0..sizes.len()).collect();
    by_rest.sort_by_key(|&i| std::cmp::Reverse((exact(sizes[i]).1, sizes[i])));
    let missing = total - counts.iter().sum::<usize>().min(total);
    by_rest.into_iter().take(missing).for_each(|i| counts[i] += 1);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::data::Value;
    use serde_json::json;

    fn rows(n: usize) -> Dataset {
        Dataset::from_json((0..n).map(|i| json!({ "n": i, "class": if i % 4 == 0 { "rare" } else { "common" } })))
            .unwrap()
    }

    fn numbers(dataset: &Dataset) -> Vec<i64> {
        dataset.iter().map(|row| row.get("n").and_then(Value::as_int).unwrap()).collect()
    }

    /// DS-01: the split grammar; percentages round to the nearest row, halves to even.
    #[test]
    fn ds_01_split_selection() {
        let parts = BTreeMap::from([("train".to_string(), rows(25)), ("test".to_string(), rows(3))]);
        let of = |spec: &str| spec.parse::<SplitSpec>().and_then(|s| s.of(&parts)).map(|d| numbers(&d));
        assert_eq!(of("train[:10%]").unwrap(), [0, 1]); // 2.5 rows
        assert_eq!(of("train[:30%]").unwrap().len(), 8); // 7.5 rows
        assert_eq!(of("train[90%:]").unwrap(), [22, 23, 24]); // from row 22.5
        assert_eq!(of("train[-2:]").unwrap(), [23, 24]);
        assert_eq!(of("train[-10%:]").unwrap(), [23, 24]);
        assert_eq!(of("train[5:7]+test[:1]").unwrap(), [5, 6, 0]);
        assert_eq!(of(" test ").unwrap(), [0, 1, 2]);
        assert_eq!(of("test[1:1000]").unwrap(), [1, 2]);
        assert!(of("dev").unwrap_err().to_string().contains(r#"there is no part "dev"; there are "test", "train""#));
        assert!(matches!(of("test[2:1]").unwrap_err(), DataError::Empty { .. }));
        for wrong in ["", "train[", "train[1]", "train[a:]", "train[:101%]", "train[1:2", "[1:2]", "train+", "a]"] {
            assert!(of(wrong).unwrap_err().to_string().starts_with("split: "), "{wrong}");
        }
    }

    /// DS-01: sizes as scikit-learn rounds them; no row in both parts; the classes' shares stay.
    #[test]
    fn ds_01_train_test_split() {
        let all = rows(101);
        let split = |options: TrainTestSplit<'_>| all.train_test_split(&options).unwrap();
        let (train, test) = split(TrainTestSplit { test_size: Size::Share(0.1), ..Default::default() });
        assert_eq!((train.len(), test.len()), (90, 11));
        let mut both = [numbers(&train), numbers(&test)].concat();
        both.sort_unstable();
        assert_eq!(both, (0..101).collect::<Vec<_>>());
        assert_ne!(numbers(&test), (0..11).collect::<Vec<_>>());

        let (train, test) = split(TrainTestSplit { test_size: Size::Rows(1), shuffle: false, ..Default::default() });
        assert_eq!((train.len(), numbers(&test)), (100, vec![100]));

        let stratified = |seed| {
            let stratify_by_column = Some("class");
            split(TrainTestSplit { test_size: Size::Rows(40), seed, stratify_by_column, ..Default::default() })
        };
        let (train, test) = stratified(1);
        let rare = |d: &Dataset| d.iter().filter(|r| r.get("class") == Some(&Value::from("rare"))).count();
        assert_eq!((rare(&train), rare(&test)), (16, 10)); // 26 of 101 are rare
        assert_eq!(numbers(&test), numbers(&stratified(1).1));
        assert_ne!(numbers(&test), numbers(&stratified(2).1));

        for (test_size, train_size) in [
            (Size::Rows(0), None),
            (Size::Rows(101), None),
            (Size::Share(1.0), None),
            (Size::Share(f64::NAN), None),
            (Size::Rows(60), Some(Size::Rows(60))),
            (Size::Rows(usize::MAX), Some(Size::Rows(1))),
        ] {
            assert!(all.train_test_split(&TrainTestSplit { test_size, train_size, ..Default::default() }).is_err());
        }
        let alone = Dataset::from_json([json!({"class": "a"}), json!({"class": "a"}), json!({"class": "b"})]).unwrap();
        let options = TrainTestSplit { stratify_by_column: Some("class"), ..Default::default() };
        assert!(alone.train_test_split(&options).unwrap_err().to_string().contains("\"b\""));
    }

    #[test]
    fn files_name_their_part() {
        for (path, part) in [
            ("data/train-00000-of-00002.parquet", "train"),
            ("reviews_dev.csv", "validation"),
            ("valid.jsonl", "validation"),
            ("test/0.jsonl", "test"),
            ("train/my.test.txt", "test"),
            ("constrained.txt", "train"),
            ("latest.json", "train"),
        ] {
            assert_eq!(part_of(Path::new(path)), part, "{path}");
        }
    }
}
