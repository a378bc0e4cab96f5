//! Whether a model is a GGUF file: a directory or repository that has nothing else.

use std::path::PathBuf;

use super::GgufError;
use crate::source::Source;

/// The GGUF file that is the model of a directory or repository, downloaded if need be with all its parts; of a split
/// file the first part. `None` where there is a `config.json` or no GGUF file.
///
/// # Errors
/// Several files, of which one has to be chosen; a part that is missing or cannot be had.
pub fn find(source: &Source) -> Result<Option<PathBuf>, GgufError> {
    if source.config_file()?.is_some() {
        return Ok(None);
    }
    let names: Vec<String> = source.names().into_iter().filter(|name| is_gguf(name)).collect();
    let firsts: Vec<&String> =
        names.iter().filter(|name| part(name).is_none_or(|(_, number, _)| number == 1)).collect();
    match firsts.as_slice() {
        [] => Ok(None),
        [one] => {
            if let Some((stem, _, parts)) = part(one) {
                for number in 2..=parts {
                    source.required(&format!("{stem}-{number:05}-of-{parts:05}.gguf"))?;
                }
            }
            Ok(Some(source.required(one)?))
        }
        many => {
            let list = many.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            let reason = format!("several GGUF files; name one of them: {list}");
            Err(GgufError::File { file: source.folder(), reason })
        }
    }
}

/// Whether a file is one by its name.
pub fn is_gguf(name: &str) -> bool {
    name.len() > 5 && name.get(name.len() - 5..).is_some_and(|ending| ending.eq_ignore_ascii_case(".gguf"))
}

/// What comes before `-00001-of-0000N.gguf` in the name of a part, its number and the number of parts.
pub(super) fn part(name: &str) -> Option<(&str, usize, usize)> {
    let number =
        |text: &str| (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?;
    let (rest, parts) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    Some((stem, number(part)?, number(parts)?))
}
