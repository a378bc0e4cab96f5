//! Who computes what: the tasks of a call, and their blocks of keys, dealt out to threads. Knows no arithmetic on values.

use std::ops::Range;

use super::{KEY_BLOCK, PagedArgs, Sizes};

/// Query rows of a task: many share what is read of the cache; where there is little work, less of it balances better.
const ROWS: usize = 96;
const FEW_ROWS: usize = 48;

/// Query rows of one key head of one sequence: `tokens` neighbouring tokens, each with the query heads of the key head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub sequence: usize,
    /// The key head.
    pub head: usize,
    /// The first token, among the tokens of all sequences.
    pub token: usize,
    pub tokens: usize,
    /// Position of the first token in its sequence.
    pub position: usize,
    /// Keys that a token sees at most, itself included.
    pub window: usize,
}

impl Unit {
    /// Keys that token `i` of the unit sees.
    pub fn seen(&self, i: usize) -> Range<usize> {
        let end = self.position + i + 1;
        end.saturating_sub(self.window)..end
    }

    /// The same within a block: counted from its first key.
    pub fn seen_in(&self, i: usize, block: usize) -> Range<usize> {
        let seen = self.seen(i);
        let within = |key: usize| key.saturating_sub(block * KEY_BLOCK).min(KEY_BLOCK);
        within(seen.start)..within(seen.end)
    }

    /// Keys that any token of the unit sees.
    fn keys(&self) -> Range<usize> {
        self.seen(0).start..self.seen(self.tokens - 1).end
    }
}

/// A unit and where it stands in the list of all work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub unit: Unit,
    /// Cost of all tasks before, and of a key of this one.
    before: usize,
    key_cost: usize,
    /// Whether its blocks may go to several threads.
    divisible: bool,
    total: usize,
    threads: usize,
}

impl Task {
    /// All blocks with a key that it sees.
    fn all_blocks(&self) -> Range<usize> {
        let keys = self.unit.keys();
        keys.start / KEY_BLOCK..keys.end.div_ceil(KEY_BLOCK)
    }

    /// The thread whose share of all work holds the middle of the keys.
    fn owner(&self, keys: Range<usize>) -> usize {
        let first = self.unit.keys().start;
        let twice = 2 * self.before + self.key_cost * (keys.start + keys.end - 2 * first);
        let owner = twice as u128 * self.threads as u128 / (2 * self.total.max(1)) as u128;
        (owner as usize).min(self.threads - 1)
    }

    /// The thread that has a block.
    fn thread(&self, block: usize) -> usize {
        let keys = self.unit.keys();
        if self.divisible {
            self.owner(keys.start.max(block * KEY_BLOCK)..keys.end.min((block + 1) * KEY_BLOCK))
        } else {
            self.owner(keys)
        }
    }

    /// The thread that has the first block.
    pub fn first_thread(&self) -> usize {
        self.thread(self.all_blocks().start)
    }

    /// Whether several threads have blocks of it.
    pub fn is_split(&self) -> bool {
        self.threads > 1 && self.divisible && self.first_thread() != self.thread(self.all_blocks().end - 1)
    }

    /// The blocks that `thread` has.
    pub fn blocks(&self, thread: usize) -> Range<usize> {
        let all = self.all_blocks();
        if self.threads == 1 {
            return all;
        }
        // The threads of blocks ascend.
        let start = |thread: usize| {
            let (mut low, mut high) = (all.start, all.end);
            while low < high {
                let middle = (low + high) / 2;
                if self.thread(middle) < thread { low = middle + 1 } else { high = middle }
            }
            low
        };
        start(thread)..start(thread + 1)
    }

    /// The blocks that other threads have than the first.
    pub fn blocks_of_others(&self) -> Range<usize> {
        self.blocks(self.first_thread()).end..self.all_blocks().end
    }

    /// Shared memory: the merged result of the first thread's blocks, then a result for each block of the others.
    pub fn shared_floats(&self, sizes: &Sizes) -> usize {
        let results = if self.is_split() { 1 + self.blocks_of_others().len() } else { 0 };
        results * sizes.state(self.unit.tokens * sizes.group)
    }
}

/// The work of a call.
pub(super) struct Plan<'a> {
    offsets: &'a [i32],
    past: &'a [i32],
    kv_heads: usize,
    group: usize,
    window: usize,
    /// Tokens of a unit.
    tokens: usize,
    threads: usize,
    total: usize,
}

impl<'a> Plan<'a> {
    /// # Safety
    /// `offsets` of `args` has `sequences` + 1 values and `past` has `sequences`.
    pub unsafe fn new(args: &'a PagedArgs, threads: usize) -> Plan<'a> {
        let sequences = args.sequences as usize;
        // SAFETY: the caller's promise.
        let (offsets, past) = unsafe {
            let offsets = std::slice::from_raw_parts(args.offsets, sequences + 1);
            (offsets, std::slice::from_raw_parts(args.past, sequences))
        };
        let kv_heads = args.kv_heads as usize;
        let group = args.heads as usize / kv_heads;
        let all_rows = (offsets[sequences] - offsets[0]).max(0) as usize * args.heads as usize;
        let rows = if all_rows >= 4 * threads * ROWS { ROWS } else { FEW_ROWS };
        let window = if args.window > 0 { args.window as usize } else { usize::MAX };
        let tokens = (rows / group.max(1)).max(1);
        let mut plan = Plan { offsets, past, kv_heads, group, window, tokens, threads, total: 0 };
        plan.total = plan.tasks().last().map_or(0, |task| task.before + task.key_cost * task.unit.keys().len());
        plan
    }

    /// Most rows of a task.
    pub fn most_rows(&self) -> usize {
        self.tokens * self.group
    }

    /// Shared memory of all tasks.
    pub fn shared_floats(&self, sizes: &Sizes) -> usize {
        if self.threads == 1 { 0 } else { self.tasks().map(|task| task.shared_floats(sizes)).sum() }
    }

    /// All tasks, in order.
    pub fn tasks(&self) -> impl Iterator<Item = Task> {
        let units = self.offsets.windows(2).zip(self.past).enumerate().flat_map(move |(sequence, (pair, &past))| {
            let (start, len) = (pair[0] as usize, (pair[1] - pair[0]).max(0) as usize);
            (0..self.kv_heads).flat_map(move |head| {
                (0..len).step_by(self.tokens).map(move |first| Unit {
                    sequence,
                    head,
                    token: start + first,
                    tokens: self.tokens.min(len - first),
                    position: past as usize + first,
                    window: self.window,
                })
            })
        });
        let mut next = 0;
        units.map(move |unit| {
            let rows = unit.tokens * self.group;
            let before = next;
            // A key costs its products with the rows, and to be read.
            let key_cost = rows + 4;
            next += key_cost * unit.keys().len();
            let divisible = unit.tokens == 1 || rows <= FEW_ROWS;
            Task { unit, before, key_cost, divisible, total: self.total, threads: self.threads }
        })
    }
}
