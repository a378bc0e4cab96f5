//! What can go wrong with a tokenizer: each variant names the file, the token or the option.

/// An error of loading or using a tokenizer. Every variant is bad input or wrong usage (exit code 2).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// None of the files a tokenizer can be read from is there.
    #[error("no tokenizer in {place}: expected {expected}")]
    Missing {
        /// The directory or artifact that was searched.
        place: String,
        /// The names that were looked for.
        expected: String,
    },
    /// A tokenizer file is there but cannot be understood.
    #[error("{place}: {file}: {message}")]
    Broken {
        /// The directory or artifact the file belongs to.
        place: String,
        /// The file's name.
        file: String,
        /// What is wrong with it.
        message: String,
    },
    /// Only a SentencePiece model is there, which needs to be converted first.
    #[error(
        "{place}: tokenizer.json is missing and {file} is a SentencePiece model, which is not read directly: \
         save the tokenizer once with Transformers (`AutoTokenizer.from_pretrained(...).save_pretrained(...)`), \
         which writes tokenizer.json"
    )]
    SentencePiece {
        /// The directory or artifact.
        place: String,
        /// The SentencePiece file that was found.
        file: String,
    },
    /// Padding was asked for and there is no token to pad with.
    #[error(
        "cannot pad: the tokenizer has no padding token; name one that exists \
         (for example the end-of-sequence token: set_special_token(\"pad_token\", Some(eos_token))) or add a new one"
    )]
    NoPadToken,
    /// The sequence that should be shortened has too few tokens to give.
    #[error(
        "cannot truncate to {max_length} tokens ({specials} of them special): {strategy} may only shorten a sequence of \
         {len} tokens and {remove} have to go"
    )]
    TooShort {
        /// The truncation strategy.
        strategy: &'static str,
        /// The wished total length.
        max_length: usize,
        /// How many of those the special tokens take.
        specials: usize,
        /// Length of the sequence that the strategy names.
        len: usize,
        /// Tokens to remove.
        remove: usize,
    },
    /// The overlap of windows leaves no step forward.
    #[error(
        "stride {stride} must be less than the {room} tokens that max_length {max_length} leaves beside special tokens"
    )]
    Stride {
        /// The wished overlap.
        stride: usize,
        /// The wished total length.
        max_length: usize,
        /// Tokens of text in a window.
        room: usize,
    },
    /// `max_length` is smaller than the number of special tokens.
    #[error("max_length {max_length} leaves no room for the {specials} special tokens")]
    NoRoom {
        /// The wished total length.
        max_length: usize,
        /// The number of special tokens.
        specials: usize,
    },
    /// `only_second` without a second sequence.
    #[error("truncation only_second needs a pair of sequences")]
    NoSecond,
    /// Truncating and padding to lengths that contradict each other.
    #[error("truncation length {max_length} is not a multiple of pad_to_multiple_of {multiple}")]
    NotMultiple {
        /// The wished total length.
        max_length: usize,
        /// The wished divisor.
        multiple: usize,
    },
    /// Padding to this many tokens would exhaust memory.
    #[error("cannot pad to {length} tokens: the limit is {limit}")]
    PadTooLong {
        /// The wished length.
        length: usize,
        /// The largest length that is padded to.
        limit: usize,
    },
    /// An id that stands for no token.
    #[error("token id {id} is not in the vocabulary of {len} tokens")]
    UnknownId {
        /// The id.
        id: u32,
        /// Size of the vocabulary with added tokens.
        len: usize,
    },
    /// A token that stands for no id, where an unknown token does not exist either.
    #[error("token {token:?} is not in the vocabulary and the tokenizer has no unknown token")]
    UnknownToken {
        /// The token.
        token: String,
    },
    /// An option's value is not one of those allowed.
    #[error("{option}: {value:?} is not one of {allowed}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// The value given.
        value: String,
        /// The values allowed.
        allowed: &'static str,
    },
    /// A conversation cannot be made a prompt.
    #[error(transparent)]
    Chat(#[from] crate::chat::ChatError),
    /// The tokenizer's own rules failed on this text.
    #[error("tokenization failed: {0}")]
    Failed(String),
}
