//! What happened on loading, in words (WLD-08, WLD-11).

use std::collections::BTreeMap;
use std::fmt;

/// A tensor of another shape than the model's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The parameter.
    pub name: String,
    /// Its shape in the checkpoint.
    pub stored: Vec<usize>,
    /// Its shape in the model.
    pub wanted: Vec<usize>,
}

/// What happened on loading. Displayed with names collapsed by layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Parameters that were absent and are fresh.
    pub missing: Vec<String>,
    /// Tensors of the checkpoint that the model does not have.
    pub unexpected: Vec<String>,
    /// Parameters that are fresh because the checkpoint's tensor has another shape.
    pub mismatched: Vec<Mismatch>,
    /// `(name on disk, parameter)` where they differ.
    pub converted: Vec<(String, String)>,
    /// `(parameter, tensor it shares)`.
    pub tied: Vec<(String, String)>,
    /// `(parameter, tensor)` that should be tied and differ in the file: not tied.
    pub untied: Vec<(String, String)>,
    /// Tensors left over that need no mention: buffers that follow from the configuration.
    pub ignored: Vec<String>,
}

impl LoadReport {
    /// Whether there is nothing a user should know: every parameter came from the file and no tensor was left over.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty() && self.untied.is_empty()
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", if self.is_clean() { "all weights loaded" } else { "weights loaded, with remarks" })?;
        write_names(f, "fresh, untrained", &self.missing)?;
        write_mismatches(f, &self.mismatched)?;
        write_names(f, "left over", &self.unexpected)?;
        let untied: Vec<String> = self.untied.iter().map(|(name, with)| format!("{name} (from {with})")).collect();
        write_names(f, "not tied, as the file has two different tensors", &untied)
    }
}

/// A headline and collapsed names, one a line; nothing for no names.
pub(super) fn write_names(f: &mut fmt::Formatter<'_>, what: &str, names: &[String]) -> fmt::Result {
    if !names.is_empty() {
        write!(f, "\n  {what}:")?;
        for name in collapse(names.iter().map(String::as_str)) {
            write!(f, "\n    {name}")?;
        }
    }
    Ok(())
}

/// Both shapes of each tensor, tensors that differ by layer number only in one line.
pub(super) fn write_mismatches(f: &mut fmt::Formatter<'_>, mismatches: &[Mismatch]) -> fmt::Result {
    let mut by_shapes: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for Mismatch { name, stored, wanted } in mismatches {
        by_shapes.entry((wanted, stored)).or_default().push(name);
    }
    if !by_shapes.is_empty() {
        write!(f, "\n  of another shape:")?;
        for ((wanted, stored), names) in by_shapes {
            for name in collapse(names.into_iter()) {
                write!(f, "\n    {name}: expected {wanted:?}, found {stored:?}")?;
            }
        }
    }
    Ok(())
}

/// Writes names that differ in their first number only as one: `encoder.layer.{0..5}.output.dense.bias`. The result is
/// sorted.
pub fn collapse<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut groups: BTreeMap<(String, String), Vec<u64>> = BTreeMap::new();
    let mut lines = Vec::new();
    for name in names {
        let parts: Vec<&str> = name.split('.').collect();
        let number = parts.iter().enumerate().find_map(|(at, part)| {
            // Only numbers that print back as they were, so no name is changed by collapsing.
            part.parse::<u64>().ok().filter(|number| number.to_string() == *part).map(|number| (at, number))
        });
        match number {
            Some((at, number)) => {
                groups.entry((parts[..at].join("."), parts[at + 1..].join("."))).or_default().push(number);
            }
            None => lines.push(name.to_string()),
        }
    }
    for ((before, after), mut numbers) in groups {
        numbers.sort_unstable();
        numbers.dedup();
        let numbers = match numbers.as_slice() {
            [one] => one.to_string(),
            many => format!("{{{}}}", ranges(many)),
        };
        let parts = [before.as_str(), &numbers, &after];
        lines.push(parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("."));
    }
    lines.sort();
    lines
}

/// `0..5,7` for 0, 1, 2, 3, 4, 5, 7.
fn ranges(numbers: &[u64]) -> String {
    let runs = numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    let run = |run: &[u64]| match run {
        [] => String::new(),
        [one] => one.to_string(),
        [first, .., last] => format!("{first}..{last}"),
    };
    runs.map(run).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::collapse;

    /// WLD-08
    #[test]
    fn layers_collapse() {
        let names = ["l.1.w", "l.0.w", "l.2.w", "l.4.w", "l.3.b", "head.w", "007.x"];
        assert_eq!(collapse(names.into_iter()), ["007.x", "head.w", "l.3.b", "l.{0..2,4}.w"]);
        assert_eq!(collapse(["0", "1"].into_iter()), ["{0..1}"]);
        assert!(collapse([].into_iter()).is_empty());
    }
}
