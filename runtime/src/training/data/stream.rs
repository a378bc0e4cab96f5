//! Rows one after the other, more of them than memory holds: shuffled within a window, or several streams mixed.
//! Must not know files.

use super::dataset::Stopping;
use super::error::DataError;
use super::random::Draws;
use super::row::Row;

/// Rows that come as they are asked for. (DS-06)
pub struct RowStream(Box<dyn Iterator<Item = Result<Row, DataError>> + Send>);

impl std::fmt::Debug for RowStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RowStream")
    }
}

impl RowStream {
    /// A stream of what an iterator gives.
    pub fn new(rows: impl Iterator<Item = Result<Row, DataError>> + Send + 'static) -> RowStream {
        RowStream(Box::new(rows))
    }

    /// The same stream, which ends after its first error: what follows a broken row cannot be trusted.
    pub(super) fn until_error(self) -> RowStream {
        let mut failed = false;
        let mut rows = self.0;
        RowStream::new(std::iter::from_fn(move || {
            let row = if failed { None } else { rows.next() };
            failed = matches!(row, Some(Err(_)));
            row
        }))
    }

    /// The rows that `f` makes of each row: one, none or several. (DS-02)
    pub fn map_rows(mut self, mut f: impl FnMut(Row) -> Result<Vec<Row>, DataError> + Send + 'static) -> RowStream {
        let mut ready = Vec::new().into_iter();
        RowStream::new(std::iter::from_fn(move || {
            loop {
                if let Some(row) = ready.next() {
                    return Some(Ok(row));
                }
                match self.0.next()?.and_then(&mut f) {
                    Ok(rows) => ready = rows.into_iter(),
                    Err(error) => return Some(Err(error)),
                }
            }
        }))
    }

    /// The rows for which `f` holds.
    pub fn filter_rows(self, mut f: impl FnMut(&Row) -> bool + Send + 'static) -> RowStream {
        RowStream::new(self.0.filter(move |row| row.as_ref().map_or(true, &mut f)))
    }

    /// The rows in an order random within a window of `buffer` rows; the same for the same seed and epoch.
    ///
    /// # Errors
    /// When `buffer` is 0.
    pub fn shuffle(self, buffer: usize, seed: u64, epoch: u64) -> Result<RowStream, DataError> {
        Ok(RowStream::new(ShuffleBuffer::new(self.0, buffer, seed, epoch)?))
    }
}

impl Iterator for RowStream {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

/// What comes in, in an order random within a window: each time one of the waiting items goes out at random and the next
/// comes in for it. Errors go out at once.
#[derive(Debug)]
pub struct ShuffleBuffer<I: Iterator> {
    items: I,
    waiting: Vec<I::Item>,
    size: usize,
    draws: Draws,
    given: u64,
}

impl<T, I: Iterator<Item = Result<T, DataError>>> ShuffleBuffer<I> {
    /// A window of `size` items over `items`.
    ///
    /// # Errors
    /// When `size` is 0.
    pub fn new(items: I, size: usize, seed: u64, epoch: u64) -> Result<Self, DataError> {
        if size == 0 {
            return Err(DataError::argument("shuffle buffer", "must hold at least one row"));
        }
        Ok(ShuffleBuffer { items, waiting: Vec::new(), size, draws: Draws::new(seed, epoch), given: 0 })
    }
}

impl<T, I: Iterator<Item = Result<T, DataError>>> Iterator for ShuffleBuffer<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<Self::Item> {
        while self.waiting.len() < self.size {
            match self.items.next() {
                Some(Ok(item)) => self.waiting.push(Ok(item)),
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            }
        }
        if self.waiting.is_empty() {
            return None;
        }
        let at = self.draws.below(self.given, self.waiting.len());
        self.given += 1;
        Some(self.waiting.swap_remove(at))
    }
}

/// Which of `sources` gives the next row, for mixing: in turn, or at random by `probabilities`.
///
/// Calls `next` with the number of a source until the mix ends; `next` says whether that source had a row. A source that
/// has none left ends the mix ([`Stopping::FirstExhausted`]), is left out ([`Stopping::AllExhausted`] in turn and at random
/// alike), so that each row comes once.
pub(super) struct Turns {
    weights: Vec<f64>,
    live: Vec<bool>,
    random: bool,
    stopping: Stopping,
    draws: Draws,
    place: u64,
    turn: usize,
}

impl Turns {
    /// # Errors
    /// When there is no source, or the probabilities are not one for each, none negative, with a sum above 0.
    pub fn new(
        sources: usize,
        probabilities: Option<&[f64]>,
        seed: u64,
        stopping: Stopping,
    ) -> Result<Self, DataError> {
        if sources == 0 {
            return Err(DataError::argument("interleave", "there is nothing to interleave"));
        }
        if let Some(p) = probabilities {
            let valid =
                p.len() == sources && p.iter().all(|p| p.is_finite() && *p >= 0.0) && p.iter().sum::<f64>() > 0.0;
            if !valid {
                let problem = format!("needs one probability for each of {sources} data sets, found {p:?}");
                return Err(DataError::argument("probabilities", problem));
            }
        }
        Ok(Turns {
            weights: probabilities.map_or_else(|| vec![1.0; sources], <[f64]>::to_vec),
            live: vec![true; sources],
            random: probabilities.is_some(),
            stopping,
            draws: Draws::new(seed, 0),
            place: 0,
            turn: 0,
        })
    }

    /// The source whose turn it is; `None` at the end.
    pub fn next(&mut self) -> Option<usize> {
        let usable = |i: usize| self.live[i] && self.weights[i] > 0.0;
        if !(0..self.live.len()).any(usable) {
            return None;
        }
        if !self.random {
            while !self.live[self.turn] {
                self.turn = (self.turn + 1) % self.live.len();
            }
            let chosen = self.turn;
            self.turn = (self.turn + 1) % self.live.len();
            return Some(chosen);
        }
        let total: f64 = (0..self.live.len()).filter(|&i| usable(i)).map(|i| self.weights[i]).sum();
        let mut left = self.draws.uniform(self.place) * total;
        self.place += 1;
        let mut chosen = None;
        for i in (0..self.live.len()).filter(|&i| usable(i)) {
            chosen = Some(i);
            left -= self.weights[i];
            if left < 0.0 {
                break;
            }
        }
        chosen
    }

    /// Says that a source had no row left.
    pub fn exhausted(&mut self, source: usize) {
        match self.stopping {
            Stopping::FirstExhausted => self.live.fill(false),
            Stopping::AllExhausted => self.live[source] = false,
        }
    }
}

/// Mixes streams: in turn, or at random by probabilities.
///
/// # Errors
/// When there is no stream or the probabilities do not fit.
pub fn interleave(
    mut streams: Vec<RowStream>,
    probabilities: Option<&[f64]>,
    seed: u64,
    stopping: Stopping,
) -> Result<RowStream, DataError> {
    let mut turns = Turns::new(streams.len(), probabilities, seed, stopping)?;
    Ok(RowStream::new(std::iter::from_fn(move || {
        while let Some(source) = turns.next() {
            match streams[source].next() {
                Some(row) => return Some(row),
                None => turns.exhausted(source),
            }
        }
        None
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::data::{Place, Value};

    fn numbers(range: std::ops::Range<i64>) -> RowStream {
        RowStream::new(range.map(|i| Ok(Row::new(Place::memory(i as usize), [("n", Value::from(i))]))))
    }

    fn read(stream: RowStream) -> Vec<i64> {
        stream.map(|row| row.unwrap().get("n").and_then(Value::as_int).unwrap()).collect()
    }

    /// DS-06: every row once, none earlier than the window allows, another order in each epoch.
    #[test]
    fn ds_06_shuffle_buffer() {
        let order = |epoch| read(numbers(0..500).shuffle(50, 1, epoch).unwrap());
        let first = order(0);
        assert_eq!(first, order(0));
        assert_ne!(first, order(1));
        assert!(first.iter().enumerate().all(|(at, n)| (*n as usize) < at + 50));
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..500).collect::<Vec<_>>());
        assert_ne!(first, sorted);
        assert_eq!(read(numbers(0..9).shuffle(1, 1, 0).unwrap()), (0..9).collect::<Vec<_>>());
        assert!(numbers(0..1).shuffle(0, 0, 0).is_err());
    }

    #[test]
    fn rows_are_mapped_and_filtered_on_the_way() {
        let twice = numbers(0..4).filter_rows(|row| row.get("n") != Some(&Value::Int(2)));
        let twice = twice.map_rows(|row| Ok(vec![row.clone(), row]));
        assert_eq!(read(twice), [0, 0, 1, 1, 3, 3]);
        let none = numbers(0..4).map_rows(|_| Ok(Vec::new()));
        assert!(read(none).is_empty());
    }

    #[test]
    fn streams_are_interleaved() {
        let two = || vec![numbers(0..2), numbers(10..14)];
        let mix = |p: Option<&[f64]>, stopping| read(interleave(two(), p, 5, stopping).unwrap());
        assert_eq!(mix(None, Stopping::FirstExhausted), [0, 10, 1, 11]);
        assert_eq!(mix(None, Stopping::AllExhausted), [0, 10, 1, 11, 12, 13]);
        assert_eq!(mix(Some(&[0.0, 1.0]), Stopping::AllExhausted), [10, 11, 12, 13]);
        let many = interleave(
            vec![numbers(0..10_000), numbers(10_000..20_000)],
            Some(&[3.0, 1.0]),
            5,
            Stopping::FirstExhausted,
        );
        let many = read(many.unwrap());
        let share = many.iter().filter(|n| **n < 10_000).count() as f64 / many.len() as f64;
        assert!((share - 0.75).abs() < 0.02, "{share}");
        for wrong in [&[1.0][..], &[0.0, 0.0], &[-1.0, 2.0], &[f64::NAN, 1.0]] {
            assert!(interleave(two(), Some(wrong), 0, Stopping::AllExhausted).is_err());
        }
    }
}
