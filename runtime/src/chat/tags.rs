//! The tag pair `{% generation %}` ... `{% endgeneration %}`, which Transformers adds to Jinja: it is written as a call
//! block, which is what it is there too, so that whitespace control and scopes stay as they were. (CT-08)

/// The function that the call block calls; no name that a template could mean by accident.
pub(super) const FUNCTION: &str = "lith_generation__";

/// The template with generation tags as call blocks and line ends as `\n`; whether there were any such tags.
pub(super) fn rewrite(source: &str) -> (String, bool) {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let (mut rest, mut found) = (source.as_str(), false);
    while let Some(start) = rest.find('{') {
        let (before, tail) = rest.split_at(start);
        out.push_str(before);
        let length = match tail.as_bytes().get(1) {
            Some(b'#') => tail.find("#}").map_or(tail.len(), |end| end + 2),
            Some(b'{') => tag_end(tail, "}}"),
            Some(b'%') => tag_end(tail, "%}"),
            _ => 1,
        };
        let (tag, after) = tail.split_at(length);
        rest = after;
        match name(tag) {
            Some("generation") => {
                found = true;
                out.push_str(&tag.replacen("generation", &format!("call {FUNCTION}()"), 1));
            }
            Some("endgeneration") => out.push_str(&tag.replacen("endgeneration", "endcall", 1)),
            Some("raw") => {
                // Up to and with the end tag, unchanged.
                out.push_str(tag);
                while let Some(start) = rest.find("{%") {
                    let length = start + rest[start..].find("%}").map_or(rest.len() - start, |end| end + 2);
                    let (piece, after) = rest.split_at(length);
                    out.push_str(piece);
                    rest = after;
                    if name(&piece[start..]) == Some("endraw") {
                        break;
                    }
                }
            }
            _ => out.push_str(tag),
        }
    }
    out.push_str(rest);
    (out, found)
}

/// The name of a block tag that is nothing else.
fn name(tag: &str) -> Option<&str> {
    let inner = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    Some(inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim())
}

/// Length of the tag that `text` begins with: to its end outside of strings, or all of the text.
fn tag_end(text: &str, end: &str) -> usize {
    let bytes = text.as_bytes();
    let mut i = 2;
    while i < bytes.len() {
        match bytes[i] {
            quote @ (b'"' | b'\'') => {
                i += 1;
                while i < bytes.len() && bytes[i] != quote {
                    i += if bytes[i] == b'\\' { 2 } else { 1 };
                }
            }
            _ if bytes[i..].starts_with(end.as_bytes()) => return i + 2,
            _ => {}
        }
        i += 1;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(source: &str) -> String {
        rewrite(source).0.replace(FUNCTION, "F")
    }

    /// CT-08: only tags are rewritten: no text, string, comment or raw block.
    #[test]
    fn ct_08_only_tags_are_rewritten() {
        assert_eq!(rewritten("a {%- generation -%} b {% endgeneration +%}"), "a {%- call F() -%} b {% endcall +%}");
        for same in [
            "generation {{ 'a {% generation %}' }}",
            "{# {% generation %} #}",
            "{% raw %}{% generation %}{{ ' }}{% endraw %}",
            "{% set generation = 1 %}{{ generation }}",
            "{{ \"é\\\" {% generation %}\" }} é { é",
            "{% 'é",
            "{% raw %} {% é",
            "{{ '\\",
            "{",
        ] {
            assert_eq!(rewritten(same), same);
        }
        assert_eq!(rewritten("{% raw %}{{{% endraw %}{% generation %}"), "{% raw %}{{{% endraw %}{% call F() %}");
        assert_eq!(rewrite("a\r\nb\rc"), ("a\nb\nc".into(), false));
    }
}
