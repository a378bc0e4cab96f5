//! What is dropped of what queries take of keys, in training.
//!
//! The number of 16 bits that decides for head h, query token t and the key at position j of its sequence is part j / 16 % 4
//! of the words that the [`Generator`] gives for the counter
//! (t · heads + h, j / 64 · 16 + j % 16): one evaluation serves four vectors of keys, and the numbers are the same whoever
//! computes them, in whatever order.

use super::super::random::Generator;
use super::super::simd::{LANES, Simd};

/// Keys that the evaluations for sixteen counters serve.
pub(super) const KEYS: usize = 4 * LANES;

/// What a key decides.
#[derive(Clone, Copy)]
pub(super) struct Draws {
    generator: Generator,
    /// Numbers below it drop.
    dropped: u32,
}

impl Draws {
    /// What `key` decides; none where it is null.
    ///
    /// # Safety
    /// `key` is null or points to two words.
    #[inline(always)]
    pub unsafe fn new(key: *const u32, dropped: u32) -> Option<Draws> {
        if key.is_null() {
            return None;
        }
        // SAFETY: the caller's promise.
        let key = unsafe { key.cast::<[u32; 2]>().read_unaligned() };
        Some(Draws { generator: Generator::new(key), dropped })
    }

    /// Numbers below it drop.
    #[inline(always)]
    pub fn limit<S: Simd>(self, s: S) -> S::V {
        s.splat(self.dropped as f32)
    }

    /// The numbers of a query and head, `row`, with the [`KEYS`] keys from position `place`, a multiple of their number.
    #[inline(always)]
    pub fn of_keys<S: Simd>(self, s: S, row: u32, place: usize) -> [S::V; 4] {
        let lanes: [u32; LANES] = std::array::from_fn(|lane| lane as u32);
        let first = s.splat_word((place / KEYS * LANES) as u32);
        let columns = s.add_words(s.words(lanes), first);
        self.numbers(s, s.splat_word(row), columns)
    }

    /// The numbers of sixteen queries of a head, the first of which is `row` and the next `heads` further, with the key at
    /// position `place` of the first sixteen of [`KEYS`], and those 16, 32 and 48 behind it.
    #[inline(always)]
    pub fn of_queries<S: Simd>(self, s: S, row: u32, heads: u32, place: usize) -> [S::V; 4] {
        let rows: [u32; LANES] = std::array::from_fn(|lane| row.wrapping_add(heads.wrapping_mul(lane as u32)));
        let column = (place / KEYS * LANES + place % LANES) as u32;
        self.numbers(s, s.words(rows), s.splat_word(column))
    }

    /// The four numbers of each counter.
    #[inline(always)]
    fn numbers<S: Simd>(self, s: S, first: S::I, second: S::I) -> [S::V; 4] {
        let [first, second] = self.generator.words(s, first, second);
        let ([a, b], [c, d]) = (s.halves(first), s.halves(second));
        [s.to_float(a), s.to_float(b), s.to_float(c), s.to_float(d)]
    }

    /// Sets what is dropped of the powers of `rows` rows of scores (`ld` apart) to zero; the first row is number `row`, the
    /// next `heads` further, and the keys are those from position `place`, a multiple of [`KEYS`].
    ///
    /// # Safety
    /// `scores` holds the rows `ld` apart, a multiple of sixteen.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn drop_of_rows<S: Simd>(
        self,
        s: S,
        scores: *mut f32,
        ld: usize,
        rows: usize,
        row: u32,
        heads: u32,
        place: usize,
    ) {
        let (zero, limit) = (s.splat(0.0), self.limit(s));
        for i in 0..rows {
            let row = row.wrapping_add(heads.wrapping_mul(i as u32));
            for first in (0..ld).step_by(KEYS) {
                let draws = self.of_keys(s, row, place + first);
                for (at, draw) in (first..ld.min(first + KEYS)).step_by(LANES).zip(draws) {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let power = scores.add(i * ld + at);
                        s.store(power, s.select_lt(draw, limit, zero, s.load(power)));
                    }
                }
            }
        }
    }

    /// Negates what is dropped of what sixteen queries take of `keys` keys, rows that are `ld` apart; `row` and `heads` as
    /// those of [`Draws::of_queries`].
    ///
    /// # Safety
    /// `p` holds sixteen columns of `keys` rows.
    #[inline(always)]
    pub unsafe fn negate_of_queries<S: Simd>(self, s: S, p: *mut f32, ld: usize, keys: usize, row: u32, heads: u32) {
        let (zero, limit) = (s.splat(0.0), self.limit(s));
        for block in (0..keys).step_by(KEYS) {
            for first in block..keys.min(block + LANES) {
                let draws = self.of_queries(s, row, heads, first);
                for (key, draw) in (first..keys.min(block + KEYS)).step_by(LANES).zip(draws) {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let at = p.add(key * ld);
                        let x = s.load(at);
                        s.store(at, s.select_lt(draw, limit, s.sub(zero, x), x));
                    }
                }
            }
        }
    }
}
