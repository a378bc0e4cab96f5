//! Values as text, as Python's `str` and `repr` show them. Every value is paid for with the engine's fuel, because shared
//! values may be exponentially larger as text than in memory. (CT-06)

use minijinja::value::{ValueKind, ValueOrKwargs};
use minijinja::{Error, ErrorKind, State, Value};

use super::json::float;

/// Deepest nesting that is shown, as Python's recursion limit.
const MAX_DEPTH: usize = 900;

/// The text of a value, as Python's `str`.
pub(super) fn text(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_string()),
        None => {
            let mut out = String::new();
            repr(state, value, 0, &mut out)?;
            Ok(out)
        }
    }
}

/// Writes a value as Python's `repr`.
fn repr(state: &State<'_, '_>, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    state.consume_fuel(1)?;
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "nested too deeply to be printed"));
    }
    match value.kind() {
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(x) => out.push_str(&float(x)),
            Err(_) => out.push_str(&value.to_string()),
        },
        ValueKind::Seq | ValueKind::Iterable => {
            let tuple = value.is_tuple();
            out.push(if tuple { '(' } else { '[' });
            let mut items = 0;
            for item in value.try_iter()? {
                if items > 0 {
                    out.push_str(", ");
                }
                repr(state, &item, depth + 1, out)?;
                items += 1;
            }
            out.push_str(match (tuple, items) {
                (true, 1) => ",)",
                (true, _) => ")",
                (false, _) => "]",
            });
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                repr(state, &key, depth + 1, out)?;
                out.push_str(": ");
                repr(state, &value.get_item(&key)?, depth + 1, out)?;
            }
            out.push('}');
        }
        // Nothing, truth and whole numbers read in the engine as in Python; other objects hold no values.
        _ => out.push_str(&value.to_string()),
    }
    // What has been written is paid for when it is printed or stored; here only that there is an end to it.
    state.consume_fuel(value.as_str().map_or(0, str::len) as u64 / 64)
}

/// A text in quotes: single ones, unless it has those and no double ones.
fn quote(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c < ' ' || ('\u{7f}'..='\u{a0}').contains(&c) || c == '\u{ad}' => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// The filter `join(separator="", attribute=None)`.
pub(super) fn join(
    state: &State<'_, '_>,
    values: &Value,
    separator: Option<ValueOrKwargs>,
    attribute: Option<ValueOrKwargs>,
) -> Result<Value, Error> {
    let (mut between, mut path) = (Value::from(""), Value::from(()));
    for (i, given) in [separator, attribute].into_iter().enumerate() {
        let Some(given) = given.map(ValueOrKwargs::into_value) else { continue };
        if given.is_kwargs() {
            for (name, slot) in [("d", &mut between), ("attribute", &mut path)] {
                let named = given.get_attr(name)?;
                if !named.is_undefined() {
                    *slot = named;
                }
            }
        } else if i == 0 {
            between = given;
        } else {
            path = given;
        }
    }
    let between = text(state, &between)?;
    let mut out = String::new();
    for (i, mut item) in values.try_iter()?.enumerate() {
        for step in path.as_str().into_iter().flat_map(|path| path.split('.')) {
            item = step.parse().map_or_else(|_| item.get_attr(step), |index: usize| item.get_item_by_index(index))?;
        }
        let piece = text(state, &item)?;
        state.consume_fuel(1 + (piece.len() + between.len()) as u64 / 64)?;
        if i > 0 {
            out.push_str(&between);
        }
        out.push_str(&piece);
    }
    Ok(Value::from(out))
}
