//! Text to tokens.

use std::borrow::Cow;
use std::fmt;

/// Where and why text is no program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What was expected and found.
    pub message: String,
}

/// A token. Numbers keep their text: what they mean depends on the place.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// A letter or `_`, then letters, digits, `_`.
    Word(&'a str),
    /// Digits.
    Int(&'a str),
    /// Digits with a fraction or an exponent.
    Float(&'a str),
    /// Text in quotes, escapes resolved.
    Text(Cow<'a, str>),
    /// `%7` or `%7.1`: node and result.
    Value(u64, u32),
    /// Punctuation.
    Mark(&'static str),
    /// The end.
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(s) | Token::Int(s) | Token::Float(s) => write!(f, "`{s}`"),
            Token::Text(s) if s.len() > 40 => f.write_str("a long text"),
            Token::Text(s) => write!(f, "{s:?}"),
            Token::Value(node, 0) => write!(f, "`%{node}`"),
            Token::Value(node, result) => write!(f, "`%{node}.{result}`"),
            Token::Mark(s) => write!(f, "`{s}`"),
            Token::End => f.write_str("the end of the text"),
        }
    }
}

const MARKS: [&str; 14] = ["..=", "{", "}", "(", ")", "[", "]", ",", ":", "=", "*", "+", "-", "@"];

/// An error at a byte of the text.
pub(super) fn error_at(text: &str, at: usize, message: String) -> ParseError {
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |i| i + 1);
    ParseError { line: before.matches('\n').count() + 1, column: before[start..].chars().count() + 1, message }
}

/// The tokens of a text with the byte each starts at; the last is [`Token::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<(Token<'_>, usize)>, ParseError> {
    let mut out = Vec::new();
    let mut at = 0;
    loop {
        let rest = &text[at..];
        let trimmed = rest.trim_start();
        at += rest.len() - trimmed.len();
        if trimmed.starts_with("//") {
            at += trimmed.find('\n').unwrap_or(trimmed.len());
            continue;
        }
        let Some(first) = trimmed.chars().next() else {
            out.push((Token::End, at));
            return Ok(out);
        };
        let (token, length) = match first {
            'a'..='z' | 'A'..='Z' | '_' => {
                let n = span(trimmed, |c| c.is_ascii_alphanumeric() || c == '_');
                (Token::Word(&trimmed[..n]), n)
            }
            '0'..='9' => number(trimmed),
            '%' => value(trimmed).map_err(|m| error_at(text, at, m))?,
            '"' => quoted(trimmed).map_err(|(offset, m)| error_at(text, at + offset, m))?,
            _ => match MARKS.into_iter().find(|m| trimmed.starts_with(m)) {
                Some(mark) => (Token::Mark(mark), mark.len()),
                None => return Err(error_at(text, at, format!("unexpected character {first:?}"))),
            },
        };
        out.push((token, at));
        at += length;
    }
}

/// Length of the longest prefix of such characters.
fn span(s: &str, f: impl Fn(char) -> bool) -> usize {
    s.find(|c: char| !f(c)).unwrap_or(s.len())
}

fn digits(s: &str) -> usize {
    span(s, |c| c.is_ascii_digit())
}

fn number(s: &str) -> (Token<'_>, usize) {
    let whole = digits(s);
    let mut n = whole;
    if let Some(fraction) = s[n..].strip_prefix('.') {
        let d = digits(fraction);
        if d > 0 {
            n += 1 + d;
        }
    }
    if let Some(exponent) = s[n..].strip_prefix(['e', 'E']) {
        let sign = usize::from(exponent.starts_with(['+', '-']));
        let d = digits(&exponent[sign..]);
        if d > 0 {
            n += 1 + sign + d;
        }
    }
    (if n == whole { Token::Int(&s[..n]) } else { Token::Float(&s[..n]) }, n)
}

fn value(s: &str) -> Result<(Token<'_>, usize), String> {
    let node = digits(&s[1..]);
    let mut n = 1 + node;
    let parsed = s[1..n].parse().map_err(|_| "expected a node's number after `%`".to_string())?;
    let mut result = 0;
    if let Some(suffix) = s[n..].strip_prefix('.') {
        let d = digits(suffix);
        result = suffix[..d].parse().map_err(|_| "expected a result's number after `.`".to_string())?;
        n += 1 + d;
    }
    Ok((Token::Value(parsed, result), n))
}

/// Text in quotes; an error comes with its offset.
fn quoted(s: &str) -> Result<(Token<'_>, usize), (usize, String)> {
    let body = &s[1..];
    let plain = body.find(['"', '\\', '\n']).unwrap_or(body.len());
    if body[plain..].starts_with('"') {
        return Ok((Token::Text(Cow::Borrowed(&body[..plain])), plain + 2));
    }
    let mut out = String::from(&body[..plain]);
    let mut chars = body[plain..].char_indices();
    while let Some((i, c)) = chars.next() {
        let here = 1 + plain + i;
        match c {
            '"' => return Ok((Token::Text(Cow::Owned(out)), here + 1)),
            '\n' => break,
            '\\' => match chars.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, 't')) => out.push('\t'),
                Some((_, 'r')) => out.push('\r'),
                Some((_, c @ ('"' | '\\'))) => out.push(c),
                Some((_, 'u')) => {
                    let rest = chars.as_str();
                    let code = rest.strip_prefix('{').and_then(|r| r.split_once('}')).map(|(hex, _)| hex);
                    let parsed = code
                        .filter(|hex| hex.len() <= 6)
                        .and_then(|hex| u32::from_str_radix(hex, 16).ok())
                        .and_then(char::from_u32);
                    let Some((hex, c)) = code.zip(parsed) else {
                        return Err((here, "expected a character as `\\u{1f600}`".into()));
                    };
                    out.push(c);
                    // The braces and the digits, which are ASCII.
                    for _ in 0..hex.len() + 2 {
                        chars.next();
                    }
                }
                _ => return Err((here, "expected one of `\\n \\t \\r \\\" \\\\ \\u{..}`".into())),
            },
            c => out.push(c),
        }
    }
    Err((0, "text without a closing quote".into()))
}
