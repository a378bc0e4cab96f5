//! The methods of Python's texts, lists and dictionaries that templates call: what `minijinja-contrib` lacks, or does
//! without bounds, and the rest from there. Methods that change a value are refused, as in Jinja's sandbox. (CT-02)

use minijinja::value::{Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// Longest number in a format specification: a width beyond is no layout.
const MAX_WIDTH_DIGITS: usize = 4;

fn invalid(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}

/// Called for every method that the value itself does not have.
pub(super) fn call(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => text(state, value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Seq => list(value, method, args)?,
        ValueKind::Map => dict(value, method, args)?,
        _ => None,
    };
    match own {
        Some(answer) => Ok(answer),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn refused(kind: &str, method: &str) -> Error {
    invalid(format!("`{kind}.{method}` changes its {kind}, which templates may not do"))
}

fn dict(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "copy" => {
            let () = from_args(args)?;
            value.clone()
        }
        "update" | "pop" | "popitem" | "clear" | "setdefault" => return Err(refused("dict", method)),
        _ => return Ok(None),
    }))
}

fn list(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            let found = value.try_iter()?.position(|item| item == *wanted);
            Value::from(found.ok_or_else(|| invalid(format!("{wanted} is not in the list")))?)
        }
        "copy" => {
            let () = from_args(args)?;
            value.clone()
        }
        "append" | "extend" | "insert" | "pop" | "remove" | "clear" | "sort" | "reverse" => {
            return Err(refused("list", method));
        }
        _ => return Ok(None),
    }))
}

fn text(state: &State<'_, '_>, s: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            let goes = |c: char| chars.map_or(is_space(c), |chars| chars.contains(c));
            let s = if method == "rstrip" { s } else { s.trim_start_matches(goes) };
            Value::from(if method == "lstrip" { s } else { s.trim_end_matches(goes) })
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(s.strip_prefix(prefix).unwrap_or(s))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(s.strip_suffix(suffix).unwrap_or(s))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(invalid("empty separator"));
            }
            let cut = if method == "partition" { s.split_once(separator) } else { s.rsplit_once(separator) };
            Value::from(Tuple::from(match (cut, method) {
                (Some((before, after)), _) => [before, separator, after].map(Value::from),
                (None, "partition") => [s, "", ""].map(Value::from),
                (None, _) => ["", "", s].map(Value::from),
            }))
        }
        "split" | "rsplit" => {
            let (separator, most): (Option<&str>, Option<i64>) = match args.last().filter(|last| last.is_kwargs()) {
                Some(kwargs) => {
                    let (separator, most) = (kwargs.get_attr("sep")?, kwargs.get_attr("maxsplit")?);
                    let positional: (Option<&str>,) = from_args(&args[..args.len() - 1])?;
                    let named = (!separator.is_undefined()).then_some(separator);
                    let most = if most.is_undefined() { None } else { Some(most.try_into()?) };
                    return split(
                        s,
                        named.as_ref().and_then(|v| v.as_str()).or(positional.0),
                        most,
                        method == "rsplit",
                    )
                    .map(Some);
                }
                None => from_args(args)?,
            };
            split(s, separator, most, method == "rsplit")?
        }
        "join" => {
            let (values,): (&Value,) = from_args(args)?;
            let mut out = String::new();
            for (i, item) in values.try_iter()?.enumerate() {
                let Some(piece) = item.as_str() else {
                    return Err(invalid(format!("join: item {i} is a {}, not a text", item.kind())));
                };
                state.consume_fuel(1 + (piece.len() + s.len()) as u64 / 64)?;
                if i > 0 {
                    out.push_str(s);
                }
                out.push_str(piece);
            }
            Value::from(out)
        }
        "replace" => {
            let (old, new, most): (&str, &str, Option<i64>) = from_args(args)?;
            let most = most.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
            let found = s.matches(old).take(most).count();
            state.consume_fuel((found as u64).saturating_mul(1 + new.len() as u64 / 64))?;
            Value::from(s.replacen(old, new, most))
        }
        "index" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            let at = if method == "index" { s.find(what) } else { s.rfind(what) };
            let at = at.ok_or_else(|| invalid(format!("{what:?} is not in the text")))?;
            Value::from(s[..at].chars().count())
        }
        "casefold" => {
            let () = from_args(args)?;
            Value::from(s.to_lowercase())
        }
        "title" => {
            let () = from_args(args)?;
            let (mut out, mut inside) = (String::with_capacity(s.len()), false);
            for c in s.chars() {
                if inside {
                    out.extend(c.to_lowercase())
                } else {
                    out.extend(c.to_uppercase())
                }
                inside = c.is_alphabetic();
            }
            Value::from(out)
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swap = |c: char| -> String {
                if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
            };
            Value::from(s.chars().map(swap).collect::<String>())
        }
        "isdecimal" => {
            let () = from_args(args)?;
            Value::from(!s.is_empty() && s.chars().all(|c| c.is_ascii_digit()))
        }
        "ljust" | "rjust" | "center" | "zfill" => {
            let (width, fill): (u16, Option<&str>) = from_args(args)?;
            let fill = fill.unwrap_or(if method == "zfill" { "0" } else { " " });
            let missing = usize::from(width).saturating_sub(s.chars().count());
            let left = match method {
                "ljust" => 0,
                // Python gives the odd one to the left only when the width is odd too.
                "center" => missing / 2 + (missing & usize::from(width) & 1),
                _ => missing,
            };
            let (sign, digits) = match s.strip_prefix(['+', '-']) {
                Some(digits) if method == "zfill" => s.split_at(s.len() - digits.len()),
                _ => ("", s),
            };
            Value::from(format!("{sign}{}{digits}{}", fill.repeat(left), fill.repeat(missing - left)))
        }
        // Widths are work, and a width may be an argument: both are kept to what layouts need.
        "format" if has_wide_field(s) => return Err(invalid("format: a width is too large or not a number")),
        _ => return Ok(None),
    }))
}

fn texts(parts: Vec<&str>) -> Value {
    parts.into_iter().map(Value::from).collect()
}

/// What Python's `str.isspace` takes for a space.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn split(s: &str, separator: Option<&str>, most: Option<i64>, from_right: bool) -> Result<Value, Error> {
    let pieces = most.and_then(|n| usize::try_from(n).ok()).map_or(usize::MAX, |n| n.saturating_add(1));
    let mut parts: Vec<&str> = match separator {
        Some("") => return Err(invalid("empty separator")),
        Some(separator) if from_right => s.rsplitn(pieces, separator).collect(),
        Some(separator) => s.splitn(pieces, separator).collect(),
        None if pieces == usize::MAX => s.split(is_space).filter(|part| !part.is_empty()).collect(),
        None => words(s, pieces, from_right),
    };
    if from_right && (separator.is_some() || pieces < usize::MAX) {
        parts.reverse();
    }
    Ok(texts(parts))
}

/// At most `pieces` words, the last with what is left; in the order they are found.
fn words(s: &str, pieces: usize, from_right: bool) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), s);
    loop {
        rest = if from_right { rest.trim_end_matches(is_space) } else { rest.trim_start_matches(is_space) };
        if rest.is_empty() {
            return parts;
        }
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        match cut {
            Some(at) if parts.len() + 1 < pieces => {
                let space = rest[at..].chars().next().map_or(1, char::len_utf8);
                let (word, left) =
                    if from_right { (&rest[at + space..], &rest[..at]) } else { (&rest[..at], &rest[at..]) };
                parts.push(word);
                rest = left;
            }
            _ => {
                parts.push(rest);
                return parts;
            }
        }
    }
}

/// Whether a replacement field has a number that is too long, or a field inside it.
fn has_wide_field(format: &str) -> bool {
    let (mut depth, mut digits) = (0usize, 0usize);
    for c in format.replace("{{", "").replace("}}", "").chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        digits = if depth > 0 && c.is_ascii_digit() { digits + 1 } else { 0 };
        if depth > 1 || digits > MAX_WIDTH_DIGITS {
            return true;
        }
    }
    false
}
