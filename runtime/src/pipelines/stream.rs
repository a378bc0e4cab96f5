//! Inputs that come one by one, gathered into batches: a batch goes to the model when it has enough tokens, or when its
//! oldest input has waited long enough. Must not know tasks, nor where inputs come from.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::run::BATCH_TOKENS;
use super::{Args, Input, Pipeline, PipelineError};
use crate::tokenizer::{EncodeOptions, Text};

/// Inputs that are read ahead while the model runs.
const READ_AHEAD: usize = 1024;

/// When a batch goes to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gather {
    /// Most tokens of a batch; an input with more goes alone.
    pub tokens: usize,
    /// Most inputs of a batch.
    pub inputs: usize,
    /// How long the oldest input of a batch waits for others. While the model runs inputs wait for it, too; then what has
    /// come meanwhile goes at once.
    pub wait: Duration,
}

impl Default for Gather {
    fn default() -> Gather {
        Gather { tokens: BATCH_TOKENS, inputs: usize::MAX, wait: Duration::from_millis(5) }
    }
}

/// What comes next from where inputs come from.
enum Next<T> {
    /// An item, and when it came.
    Item(T, Instant),
    /// Nothing until the time given.
    Nothing,
    /// Nothing any more.
    End,
}

/// Where inputs come from, with a clock.
trait Source<T> {
    /// The next item: one that is there already, or one that comes until the time given, where one is.
    fn next(&mut self, until: Option<Instant>) -> Next<T>;
}

/// Items that another thread takes from an iterator.
struct Channel<T>(Receiver<(T, Instant)>);

impl<T: Send + 'static> Channel<T> {
    fn new(items: impl Iterator<Item = T> + Send + 'static) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(READ_AHEAD);
        // It ends with the iterator, or when nobody receives any more.
        std::thread::Builder::new().name("lith-inputs".into()).spawn(move || {
            for item in items {
                if sender.send((item, Instant::now())).is_err() {
                    break;
                }
            }
        })?;
        Ok(Channel(receiver))
    }
}

impl<T> Source<T> for Channel<T> {
    fn next(&mut self, until: Option<Instant>) -> Next<T> {
        let found = match until.map(|until| until.saturating_duration_since(Instant::now())) {
            None => self.0.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(Duration::ZERO) => self.0.try_recv().map_err(|e| match e {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            }),
            Some(time) => self.0.recv_timeout(time),
        };
        match found {
            Ok((item, came)) => Next::Item(item, came),
            Err(RecvTimeoutError::Timeout) => Next::Nothing,
            Err(RecvTimeoutError::Disconnected) => Next::End,
        }
    }
}

/// Cuts what comes from a source into batches.
struct Cutter<S, T> {
    source: S,
    gather: Gather,
    /// The item that did not fit into the last batch, its tokens, and when it came.
    held: Option<(T, usize, Instant)>,
    ended: bool,
}

impl<T, S: Source<T>> Cutter<S, T> {
    fn new(source: S, gather: Gather) -> Self {
        Cutter { source, gather, held: None, ended: false }
    }

    /// The next batch, in the order of the source; empty at the end. `tokens` tells an item's size.
    fn next(&mut self, tokens: impl Fn(&T) -> usize) -> Vec<T> {
        let mut batch = Vec::new();
        let (mut sum, mut until) = (0usize, None);
        while !self.ended && sum < self.gather.tokens && batch.len() < self.gather.inputs.max(1) {
            let (item, size, came) = match self.held.take() {
                Some(held) => held,
                None => match self.source.next(until) {
                    Next::Item(item, came) => {
                        let size = tokens(&item);
                        (item, size, came)
                    }
                    Next::Nothing => break,
                    Next::End => {
                        self.ended = true;
                        break;
                    }
                },
            };
            if !batch.is_empty() && sum.saturating_add(size) > self.gather.tokens {
                self.held = Some((item, size, came));
                break;
            }
            sum = sum.saturating_add(size);
            until = until.or_else(|| came.checked_add(self.gather.wait));
            batch.push(item);
        }
        batch
    }
}

/// Items of an iterator, in batches for a pipeline. The iterator is read by a thread of its own, ahead of the model.
pub(crate) struct Batches<T> {
    cutter: Cutter<Channel<T>, T>,
}

impl<T: Send + 'static> Batches<T> {
    /// Batches of what `items` gives.
    ///
    /// # Errors
    /// When the system does not give the thread that reads them.
    pub fn new(items: impl Iterator<Item = T> + Send + 'static, gather: Gather) -> std::io::Result<Self> {
        Ok(Batches { cutter: Cutter::new(Channel::new(items)?, gather) })
    }

    /// The next batch, in order; empty at the end. `tokens` tells how many tokens an item has.
    pub fn next(&mut self, tokens: impl Fn(&T) -> usize) -> Vec<T> {
        self.cutter.next(tokens)
    }

    /// Whether the last batch was the end. If not, more may come or not.
    pub fn ended(&self) -> bool {
        self.cutter.ended
    }
}

/// Answers to a stream of inputs, in their order; see [`Pipeline::stream`].
pub struct Answers<'a> {
    pipeline: &'a Pipeline,
    args: Args,
    batches: Batches<Input>,
    /// Answers that are not taken yet, and the error after them.
    ready: VecDeque<Value>,
    error: Option<PipelineError>,
    /// Inputs of the batches so far.
    inputs: usize,
}

impl Iterator for Answers<'_> {
    type Item = Result<Value, PipelineError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && self.error.is_none() {
            let batch = self.batches.next(|input| self.pipeline.tokens(input));
            if batch.is_empty() {
                return None;
            }
            let (answers, error) = self.pipeline.answer(&batch, &self.args);
            self.ready.extend(answers);
            self.error = error.map(|e| e.after(self.inputs));
            self.inputs += batch.len();
        }
        match self.ready.pop_front() {
            Some(answer) => Some(Ok(answer)),
            None => {
                // After an error nothing comes.
                let error = self.error.take();
                self.batches.cutter.ended = true;
                self.batches.cutter.held = None;
                error.map(Err)
            }
        }
    }
}

impl Pipeline {
    /// Answers inputs as they come, each with the same bits as alone, in their order. Inputs that come close together
    /// share calls of the model, by [`Gather`]; one that comes alone waits no longer than told there. What relates inputs
    /// to each other (`similarity`) does so within a batch only. The first input that cannot be answered ends the answers
    /// with its error, after those of all inputs before it.
    ///
    /// # Errors
    /// When the system does not give the thread that reads the inputs.
    pub fn stream<I>(&self, inputs: I, args: Args, gather: Gather) -> std::io::Result<Answers<'_>>
    where
        I: IntoIterator<Item = Input>,
        I::IntoIter: Send + 'static,
    {
        let batches = Batches::new(inputs.into_iter(), gather)?;
        Ok(Answers { pipeline: self, args, batches, ready: VecDeque::new(), error: None, inputs: 0 })
    }

    /// Answers to inputs up to the first that cannot be answered, and its error, whose input is counted within `inputs`.
    /// What is answered does not depend on how a stream was cut into batches.
    pub(crate) fn answer(&self, inputs: &[Input], args: &Args) -> (Vec<Value>, Option<PipelineError>) {
        let error = match self.call(inputs, args) {
            Ok(answers) => return (answers, None),
            Err(error) => error,
        };
        let mut answers = Vec::new();
        // An answer that relates inputs to each other is no answer to one alone.
        let alone = args.over(&self.defaults).flag("similarity") != Some(true);
        for (i, input) in inputs.iter().enumerate().filter(|_| alone) {
            match self.call(std::slice::from_ref(input), args) {
                Ok(mut answer) => answers.append(&mut answer),
                Err(error) => return (answers, Some(error.after(i))),
            }
        }
        (Vec::new(), Some(error))
    }

    /// About how many tokens an input has: those of its texts, each no more than the model takes. It decides how inputs
    /// are gathered, never what the answers are.
    pub(crate) fn tokens(&self, input: &Input) -> usize {
        let limit = self.tokenizer.model_max_length.unwrap_or(usize::MAX);
        let count = |text: &str| {
            let encoded = self.tokenizer.encode(Text::Raw(text), None, &EncodeOptions::default());
            encoded.map_or(0, |encoded| encoded.into_single().len().min(limit))
        };
        match input {
            Input::Text(text) => count(text),
            Input::Words(words) => count(&words.join(" ")),
            Input::Record(record) => record.values().filter_map(Value::as_str).map(count).sum(),
            Input::Messages(messages) => {
                messages.iter().filter_map(|message| message.get("content")?.as_str()).map(count).sum()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items that come at given milliseconds, and a clock that moves to them.
    struct Timed {
        start: Instant,
        now: Duration,
        items: VecDeque<(u64, usize)>,
    }

    impl Source<usize> for Timed {
        fn next(&mut self, until: Option<Instant>) -> Next<usize> {
            let Some(&(ms, tokens)) = self.items.front() else { return Next::End };
            let came = Duration::from_millis(ms);
            if let Some(until) = until.map(|until| until - self.start)
                && came > self.now.max(until)
            {
                self.now = self.now.max(until);
                return Next::Nothing;
            }
            self.items.pop_front();
            self.now = self.now.max(came);
            Next::Item(tokens, self.start + came)
        }
    }

    /// The batches, each with the millisecond at which it goes; the model then takes `model` milliseconds.
    fn batches(items: &[(u64, usize)], gather: Gather, model: u64) -> Vec<(u64, Vec<usize>)> {
        let source = Timed { start: Instant::now(), now: Duration::ZERO, items: items.iter().copied().collect() };
        let mut cutter = Cutter::new(source, gather);
        let mut found = Vec::new();
        loop {
            let batch = cutter.next(|&tokens| tokens);
            if batch.is_empty() {
                return found;
            }
            found.push((cutter.source.now.as_millis() as u64, batch));
            cutter.source.now += Duration::from_millis(model);
        }
    }

    fn gather(tokens: usize, wait: u64) -> Gather {
        Gather { tokens, wait: Duration::from_millis(wait), ..Gather::default() }
    }

    #[test]
    fn a_batch_goes_when_it_is_full() {
        let items = [(0, 4), (0, 5), (0, 1), (0, 7), (0, 30), (0, 2), (0, 2)];
        let expected = [(0, vec![4, 5, 1]), (0, vec![7]), (0, vec![30]), (0, vec![2, 2])];
        assert_eq!(batches(&items, gather(10, 5), 0), expected);
        let two = Gather { inputs: 2, ..gather(100, 5) };
        let expected = [(0, vec![4, 5]), (0, vec![1, 7]), (0, vec![30, 2]), (0, vec![2])];
        assert_eq!(batches(&items, two, 0), expected);
    }

    #[test]
    fn the_oldest_input_waits_no_longer_than_told() {
        // 3 comes within 5 ms of the first, 4 does not, and is the oldest of the next batch.
        let items = [(10, 1), (12, 2), (15, 3), (16, 4), (40, 5)];
        assert_eq!(batches(&items, gather(100, 5), 0), [(15, vec![1, 2, 3]), (21, vec![4]), (40, vec![5])]);
        assert_eq!(batches(&items, gather(100, 0), 0).len(), 5);
    }

    #[test]
    fn what_comes_while_the_model_runs_goes_at_once() {
        let items = [(0, 1), (3, 2), (7, 3), (8, 4), (9, 5), (31, 6)];
        assert_eq!(
            batches(&items, gather(9, 1), 20),
            [(1, vec![1]), (21, vec![2, 3, 4]), (41, vec![5]), (61, vec![6])]
        );
    }

    #[test]
    fn a_reader_that_ends_or_falls_behind() {
        let mut batches = Batches::new((0..5).map(|i| i * 2), gather(9, 1000)).unwrap();
        assert_eq!(batches.next(|&n| n), [0, 2, 4]);
        assert!(!batches.ended());
        assert_eq!(batches.next(|&n| n), [6]);
        assert_eq!(batches.next(|&n| n), [8]);
        assert!(batches.ended());
        assert!(batches.next(|&n| n).is_empty());
    }
}
