//! How byte-level BPE tokenizers cut text before merging, by the name that GGUF gives the rule. The rules are those of
//! the models' own `tokenizer.json`; their names, and which of them skip merges for whole words or begin with a token,
//! are llama.cpp's.

use serde_json::{Value, json};

/// One cut after another; what one leaves, the next cuts further.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Every match is a piece, and so is what lies between two.
    Regex(&'static str),
    /// Runs of punctuation.
    Punctuation,
    /// Digits, each alone or in runs.
    Digits { each: bool },
    /// GPT-2's words, then bytes as characters.
    Words,
    /// Bytes as characters.
    Bytes,
}

use Cut::{Bytes, Digits, Punctuation, Regex, Words};

/// A named rule.
#[derive(Debug)]
pub(super) struct Pre {
    names: &'static [&'static str],
    cuts: &'static [Cut],
    /// Text is composed first (NFC).
    compose: bool,
    /// A piece that is a token is that token, whatever the merges say.
    pub ignore_merges: bool,
    /// Texts begin with a token unless the file says otherwise.
    pub add_bos: bool,
}

const fn rule(names: &'static [&'static str], cuts: &'static [Cut]) -> Pre {
    Pre { names, cuts, compose: false, ignore_merges: false, add_bos: false }
}

const fn composed(names: &'static [&'static str], cuts: &'static [Cut]) -> Pre {
    Pre { compose: true, ..rule(names, cuts) }
}

const fn whole_words(names: &'static [&'static str], cuts: &'static [Cut]) -> Pre {
    Pre { ignore_merges: true, add_bos: true, ..rule(names, cuts) }
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &[Cut] = &[
    Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    Bytes,
];
const QWEN2: &[Cut] = &[
    Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    Bytes,
];
const WORDS_AND_MARKS: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

/// Cased letters of the scripts DeepSeek's first tokenizers keep together. Some are written by number, because
/// composing this text (NFC) would make other letters of them.
const DEEPSEEK_LETTERS: &str = "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝ\u{1F5F}-\u{1F7D}ᾀ-ᾴᾶ-ᾼ\u{1FBE}ῂ-ῄῆ-ῌ\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝ\u{2124}\u{2126}\u{2128}\u{212A}-\u{212D}ℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_CJK: &str = "[一-龥ࠀ-一가-퟿]+";

/// Every rule.
static RULES: [Pre; 17] = [
    rule(&["default"], &[Regex(r"[\p{P}$+<=>^~|]+"), Regex(GPT2), Regex(r"\p{N}+"), Regex("[0-9][0-9][0-9]"), Bytes]),
    rule(
        &["gpt-2", "phi-2", "gigachat", "mellum", "a.x-4.0", "exaone4", "jais", "trillion", "granite-docling"],
        &[Words],
    ),
    composed(&["olmo", "mpt"], &[Words]),
    whole_words(&["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"], LLAMA3),
    rule(&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], LLAMA3),
    composed(&["qwen2", "megrez"], QWEN2),
    rule(&["deepseek-r1-qwen", "stablelm2", "hunyuan", "grok-2", "solar-open", "kormo", "f2llmv2"], QWEN2),
    composed(
        &["qwen35"],
        &[
            Regex(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
            Bytes,
        ],
    ),
    rule(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[Digits { each: true }, Words],
    ),
    rule(
        &["deepseek-llm"],
        &[
            Regex("[\r\n]"),
            Regex(DEEPSEEK_LETTERS),
            Regex("\\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            Regex(r"\s+$"),
            Regex(DEEPSEEK_CJK),
            Digits { each: true },
            Bytes,
        ],
    ),
    rule(
        &["deepseek-coder"],
        &[Regex("[\r\n]"), Regex(r"\s?\p{L}+"), Regex(r"\s?\p{P}+"), Regex(DEEPSEEK_CJK), Digits { each: true }, Bytes],
    ),
    rule(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        &[
            Regex(r"\p{N}{1,3}"),
            Regex("[一-龥぀-ゟ゠-ヿ]+"),
            Regex(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
            ),
            Bytes,
        ],
    ),
    rule(&["falcon"], &[Punctuation, Words, Digits { each: false }, Regex("[0-9][0-9][0-9]")]),
    whole_words(
        &["tekken"],
        &[
            Regex(
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
            Bytes,
        ],
    ),
    rule(
        &["gpt-4o", "llama4", "kanana2", "minimax-m2"],
        &[
            Regex(
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ),
            Bytes,
        ],
    ),
    rule(&["bloom", "poro-chat", "gpt3-finnish"], &[Regex(WORDS_AND_MARKS), Bytes]),
    rule(&["viking"], &[Regex(WORDS_AND_MARKS), Digits { each: true }, Bytes]),
];

impl Pre {
    /// The rule of this name.
    pub fn find(name: &str) -> Option<&'static Pre> {
        RULES.iter().find(|rule| rule.names.contains(&name))
    }

    /// Every name, for messages.
    pub fn names() -> String {
        RULES.iter().flat_map(|rule| rule.names).copied().collect::<Vec<_>>().join(", ")
    }

    /// The `normalizer` of a `tokenizer.json`.
    pub fn normalizer(&self) -> Value {
        if self.compose { json!({"type": "NFC"}) } else { Value::Null }
    }

    /// The `pre_tokenizer` of a `tokenizer.json`.
    pub fn pre_tokenizer(&self) -> Value {
        let bytes = |words: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": words});
        let cut = |cut: &Cut| match *cut {
            Regex(regex) => {
                json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
            }
            Punctuation => json!({"type": "Punctuation", "behavior": "Contiguous"}),
            Digits { each } => json!({"type": "Digits", "individual_digits": each}),
            Words => bytes(true),
            Bytes => bytes(false),
        };
        json!({"type": "Sequence", "pretokenizers": self.cuts.iter().map(cut).collect::<Vec<_>>()})
    }
}
