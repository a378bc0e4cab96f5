//! The result of tokenization: one row of ids with everything that is known about each token, and a batch of rows.
//! Must not know how rows are made.

use serde_json::{Map, Value, json};

/// One sequence (or pair, or window of either) as the model takes it. All vectors have one entry per token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Which sequence of a pair a token counts to, as the model's segment embedding wants it.
    pub type_ids: Vec<u32>,
    /// The tokens' text forms.
    pub tokens: Vec<String>,
    /// Start and end in the original text, in characters (Unicode scalar values); (0, 0) for special tokens. (TE-03)
    pub offsets: Vec<(usize, usize)>,
    /// Index of the word a token belongs to, `None` for special tokens.
    pub word_ids: Vec<Option<u32>>,
    /// 0 or 1 for tokens of the first or second sequence, `None` for special tokens.
    pub sequence_ids: Vec<Option<usize>>,
    /// 1 for special tokens and padding.
    pub special_tokens_mask: Vec<u32>,
    /// 0 for padding.
    pub attention_mask: Vec<u32>,
}

impl Encoding {
    /// A row of which only the ids are known: text without special tokens, of one sequence.
    pub fn from_ids(ids: Vec<u32>) -> Self {
        let n = ids.len();
        Encoding {
            ids,
            type_ids: vec![0; n],
            tokens: vec![String::new(); n],
            offsets: vec![(0, 0); n],
            word_ids: vec![None; n],
            sequence_ids: vec![Some(0); n],
            special_tokens_mask: vec![0; n],
            attention_mask: vec![1; n],
        }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The characters of `token` and the sequence they are in.
    pub fn token_to_chars(&self, token: usize) -> Option<(usize, (usize, usize))> {
        Some(((*self.sequence_ids.get(token)?)?, *self.offsets.get(token)?))
    }

    /// The word of `token` and the sequence it is in.
    pub fn token_to_word(&self, token: usize) -> Option<(usize, u32)> {
        Some(((*self.sequence_ids.get(token)?)?, (*self.word_ids.get(token)?)?))
    }

    /// The tokens (first, one past the last) of a word of a sequence.
    pub fn word_to_tokens(&self, word: u32, sequence: usize) -> Option<(usize, usize)> {
        let of_word = |&t: &usize| self.token_to_word(t) == Some((sequence, word));
        let first = (0..self.len()).find(of_word)?;
        let last = (first..self.len()).rev().find(of_word)?;
        Some((first, last + 1))
    }

    /// The characters (start, end) of a word of a sequence.
    pub fn word_to_chars(&self, word: u32, sequence: usize) -> Option<(usize, usize)> {
        let (first, end) = self.word_to_tokens(word, sequence)?;
        Some((self.offsets.get(first)?.0, self.offsets.get(end.checked_sub(1)?)?.1))
    }

    /// The token that holds character `position` of a sequence.
    pub fn char_to_token(&self, position: usize, sequence: usize) -> Option<usize> {
        (0..self.len()).find(|&t| {
            self.token_to_chars(t).is_some_and(|(s, (start, end))| s == sequence && (start..end).contains(&position))
        })
    }

    /// The word that holds character `position` of a sequence.
    pub fn char_to_word(&self, position: usize, sequence: usize) -> Option<u32> {
        self.char_to_token(position, sequence).and_then(|t| self.token_to_word(t)).map(|(_, word)| word)
    }

    /// Appends or prepends padding up to `length` tokens; longer rows stay as they are. (PT-01)
    pub(super) fn pad(&mut self, length: usize, left: bool, id: u32, type_id: u32, token: &str) {
        fn grow<T: Clone>(v: &mut Vec<T>, n: usize, left: bool, value: T) {
            let at = if left { 0 } else { v.len() };
            v.splice(at..at, std::iter::repeat_n(value, n));
        }
        let n = length.saturating_sub(self.len());
        grow(&mut self.ids, n, left, id);
        grow(&mut self.type_ids, n, left, type_id);
        grow(&mut self.tokens, n, left, token.to_string());
        grow(&mut self.offsets, n, left, (0, 0));
        grow(&mut self.word_ids, n, left, None);
        grow(&mut self.sequence_ids, n, left, None);
        grow(&mut self.special_tokens_mask, n, left, 1);
        grow(&mut self.attention_mask, n, left, 0);
    }
}

/// Which of a row's vectors appear in [`BatchEncoding::to_json`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Fields {
    /// `token_type_ids`.
    pub token_type_ids: bool,
    /// `attention_mask`.
    pub attention_mask: bool,
    /// `special_tokens_mask`.
    pub special_tokens_mask: bool,
    /// `offset_mapping`.
    pub offset_mapping: bool,
    /// `length`.
    pub length: bool,
    /// `overflow_to_sample_mapping`.
    pub overflow_to_sample_mapping: bool,
}

/// Several encoded inputs. An input that was cut into windows has a row for each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchEncoding {
    /// The rows, windows of one input one after the other.
    pub rows: Vec<Encoding>,
    /// For each row the index of the input it comes from. (TE-05)
    pub overflow_to_sample_mapping: Vec<usize>,
}

impl BatchEncoding {
    /// The first row, for a call with one input; empty if there is none.
    pub fn into_single(mut self) -> Encoding {
        if self.rows.is_empty() { Encoding::default() } else { self.rows.swap_remove(0) }
    }

    /// The dictionary that Transformers' tokenizers return, with its key order.
    ///
    /// `single` leaves out the batch dimension, as for a call with one text (never with overflow windows). (TE-02)
    pub fn to_json(&self, fields: Fields, single: bool) -> Value {
        let single = single && !fields.overflow_to_sample_mapping;
        let column = |of: &dyn Fn(&Encoding) -> Value| match self.rows.first() {
            Some(row) if single => of(row),
            _ => self.rows.iter().map(of).collect(),
        };
        let mut map = Map::new();
        map.insert("input_ids".into(), column(&|row| json!(row.ids)));
        let mut put = |on: bool, name: &str, of: &dyn Fn(&Encoding) -> Value| {
            if on {
                map.insert(name.into(), column(of));
            }
        };
        put(fields.token_type_ids, "token_type_ids", &|row| json!(row.type_ids));
        put(fields.attention_mask, "attention_mask", &|row| json!(row.attention_mask));
        put(fields.special_tokens_mask, "special_tokens_mask", &|row| json!(row.special_tokens_mask));
        put(fields.offset_mapping, "offset_mapping", &|row| json!(row.offsets));
        if fields.length {
            // Upstream keeps the list even for a single input.
            map.insert("length".into(), self.rows.iter().map(Encoding::len).collect());
        }
        if fields.overflow_to_sample_mapping {
            map.insert("overflow_to_sample_mapping".into(), json!(self.overflow_to_sample_mapping));
        }
        Value::Object(map)
    }
}
