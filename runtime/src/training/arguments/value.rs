//! The types that training arguments have: how each is read from JSON and from the text of a command line. Must not
//! know which arguments there are.

use serde_json::{Map, Number, Value};

/// What an argument's value looks like, for command lines and help texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgumentKind {
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// `true` or `false`; on the command line the bare flag means `true`.
    Bool,
    /// A text.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Several texts; on the command line separated by commas.
    List,
    /// A JSON object.
    Object,
    /// Anything: of no meaning here.
    Any,
}

impl ArgumentKind {
    /// What a value must be, for messages.
    pub fn expected(self) -> String {
        match self {
            ArgumentKind::Int => "a whole number".into(),
            ArgumentKind::Float => "a number".into(),
            ArgumentKind::Bool => "true or false".into(),
            ArgumentKind::Text => "a text".into(),
            ArgumentKind::Choice(words) => format!("one of {}", words.join(", ")),
            ArgumentKind::List => "a list of texts".into(),
            ArgumentKind::Object => "a JSON object".into(),
            ArgumentKind::Any => "a value".into(),
        }
    }

    /// The JSON value that a command line's text stands for; types are checked afterwards.
    pub(super) fn parse(self, text: &str) -> Option<Value> {
        if text.eq_ignore_ascii_case("none") || text == "null" {
            return Some(Value::Null);
        }
        match self {
            ArgumentKind::Bool => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" => Some(Value::Bool(true)),
                "false" | "0" | "no" => Some(Value::Bool(false)),
                _ => None,
            },
            ArgumentKind::Int => match text.parse::<i64>() {
                Ok(number) => Some(number.into()),
                Err(_) => text.parse::<u64>().ok().map(Value::from),
            },
            ArgumentKind::Float => match text.parse::<i64>() {
                Ok(number) => Some(number.into()),
                Err(_) => Number::from_f64(text.parse().ok()?).map(Value::Number),
            },
            ArgumentKind::List if text.starts_with('[') => serde_json::from_str(text).ok(),
            ArgumentKind::List => Some(text.split(',').map(|part| Value::from(part.trim())).collect()),
            ArgumentKind::Object => serde_json::from_str(text).ok(),
            ArgumentKind::Text | ArgumentKind::Choice(_) => Some(text.into()),
            ArgumentKind::Any => Some(serde_json::from_str(text).unwrap_or_else(|_| text.into())),
        }
    }
}

/// A type of an argument.
pub(super) trait ArgumentValue: Sized {
    const KIND: ArgumentKind;
    /// The value, when `value` is one.
    fn read(value: &Value) -> Option<Self>;
    fn write(&self) -> Value;
}

impl ArgumentValue for bool {
    const KIND: ArgumentKind = ArgumentKind::Bool;
    fn read(value: &Value) -> Option<Self> {
        value.as_bool()
    }
    fn write(&self) -> Value {
        (*self).into()
    }
}

/// A number that is whole may be written as a float (`3.0`).
fn whole(value: &Value) -> Option<f64> {
    value.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15)
}

macro_rules! whole_numbers {
    ($($type:ty),*) => {
        $(impl ArgumentValue for $type {
            const KIND: ArgumentKind = ArgumentKind::Int;
            fn read(value: &Value) -> Option<Self> {
                match value.as_i64() {
                    Some(number) => number.try_into().ok(),
                    None => value.as_u64().and_then(|n| n.try_into().ok()).or_else(|| (whole(value)? as i64).try_into().ok()),
                }
            }
            fn write(&self) -> Value {
                (*self).into()
            }
        })*
    };
}

whole_numbers!(i64, u64, usize);

impl ArgumentValue for f64 {
    const KIND: ArgumentKind = ArgumentKind::Float;
    fn read(value: &Value) -> Option<Self> {
        value.as_f64().filter(|number| number.is_finite())
    }
    fn write(&self) -> Value {
        Number::from_f64(*self).map_or(Value::Null, Value::Number)
    }
}

impl ArgumentValue for String {
    const KIND: ArgumentKind = ArgumentKind::Text;
    fn read(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_string)
    }
    fn write(&self) -> Value {
        self.as_str().into()
    }
}

impl ArgumentValue for Vec<String> {
    const KIND: ArgumentKind = ArgumentKind::List;
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(one) => Some(vec![one.clone()]),
            Value::Array(many) => many.iter().map(String::read).collect(),
            _ => None,
        }
    }
    fn write(&self) -> Value {
        self.iter().map(String::as_str).collect()
    }
}

impl ArgumentValue for Map<String, Value> {
    const KIND: ArgumentKind = ArgumentKind::Object;
    /// An object, or a text that holds one. (TA-40)
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Object(map) => Some(map.clone()),
            Value::String(text) => serde_json::from_str(text).ok(),
            _ => None,
        }
    }
    fn write(&self) -> Value {
        Value::Object(self.clone())
    }
}

impl ArgumentValue for Value {
    const KIND: ArgumentKind = ArgumentKind::Any;
    fn read(value: &Value) -> Option<Self> {
        Some(value.clone())
    }
    fn write(&self) -> Value {
        self.clone()
    }
}

impl<T: ArgumentValue> ArgumentValue for Option<T> {
    const KIND: ArgumentKind = T::KIND;
    fn read(value: &Value) -> Option<Self> {
        if value.is_null() { Some(None) } else { T::read(value).map(Some) }
    }
    fn write(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::write)
    }
}

/// A number of updates: whole from 1 on; below, a share of all updates. (TA-08, TA-16)
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Steps(pub f64);

impl Steps {
    /// The number of updates of a run of `total`.
    pub fn of(self, total: u64) -> u64 {
        // Floats above the range of u64 become its end.
        if self.0 < 1.0 { (total as f64 * self.0).ceil() as u64 } else { self.0 as u64 }
    }
}

impl ArgumentValue for Steps {
    const KIND: ArgumentKind = ArgumentKind::Float;
    fn read(value: &Value) -> Option<Self> {
        f64::read(value).filter(|&n| (0.0..1.0).contains(&n) || whole(value).is_some_and(|n| n >= 1.0)).map(Steps)
    }
    fn write(&self) -> Value {
        if self.0.fract() == 0.0 { (self.0 as i64).into() } else { self.0.write() }
    }
}

/// A set of words, one of which is the value.
macro_rules! words {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $what:literal])+ $variant:ident = $word:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $what])+ $variant,)+ }

        impl $name {
            /// The words, as arguments have them.
            pub const WORDS: &[&str] = &[$($word),+];

            /// The value's word.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }

        impl ArgumentValue for $name {
            const KIND: ArgumentKind = ArgumentKind::Choice($name::WORDS);
            fn read(value: &Value) -> Option<Self> {
                match value.as_str()? { $($word => Some($name::$variant),)+ _ => None }
            }
            fn write(&self) -> Value {
                self.word().into()
            }
        }
    };
}

words! {
    /// When something is done in training.
    IntervalStrategy {
        /// Never.
        No = "no",
        /// After so many updates.
        Steps = "steps",
        /// After each epoch.
        Epoch = "epoch",
    }
}

words! {
    /// When checkpoints are saved. (TA-18)
    SaveStrategy {
        /// Never.
        No = "no",
        /// After so many updates.
        Steps = "steps",
        /// After each epoch.
        Epoch = "epoch",
        /// When an evaluation was better than all before.
        Best = "best",
    }
}

words! {
    /// In which order examples come. (TA-25, TI-06)
    SamplingStrategy {
        /// At random, anew in each epoch.
        Random = "random",
        /// As they lie.
        Sequential = "sequential",
        /// At random, examples of like length together.
        GroupByLength = "group_by_length",
        /// At random, lengths spread evenly over devices: on one device the same as at random.
        BatchRebalance = "batch_rebalance",
    }
}

words! {
    /// Which tokens are counted in `num_input_tokens_seen`. (TA-30)
    CountTokens {
        /// None.
        No = "no",
        /// All; batches here have no padding.
        All = "all",
        /// Those that are not padding.
        NonPadding = "non_padding",
    }
}
