//! How often things occur, and how many two collections share. Must not know what they are.

use std::collections::HashMap;
use std::hash::Hash;

/// How often each item occurs.
pub(super) fn counts<T: Hash + Eq>(items: impl IntoIterator<Item = T>) -> HashMap<T, usize> {
    let mut counts = HashMap::new();
    items.into_iter().for_each(|item| *counts.entry(item).or_insert(0) += 1);
    counts
}

/// How many items two collections share, each as often as in the one with fewer of it.
pub(super) fn shared<T: Hash + Eq>(a: &HashMap<T, usize>, b: &HashMap<T, usize>) -> usize {
    a.iter().map(|(item, n)| b.get(item).map_or(0, |m| *n.min(m))).sum()
}

/// How often each run of `n` items occurs.
pub(super) fn ngrams<T: Hash + Eq>(items: &[T], n: usize) -> HashMap<&[T], usize> {
    counts(items.windows(n.max(1)))
}
