//! Names of values that are made of parameters.

/// The name of what is made of these parameters: what their names share, and in braces where they differ
/// (`layer.0.{query,key,value}.weight`), or, of one, its name with an ending; with a number where that is `taken`.
pub(super) fn of(parts: &[String], taken: impl Fn(&str) -> bool) -> String {
    let base = match parts {
        [one] => format!("{one}.derived"),
        parts => braced(parts),
    };
    let numbered = (2..).map(|i: usize| format!("{base}_{i}"));
    std::iter::once(base.clone()).chain(numbered).find(|n| !taken(n)).unwrap_or(base)
}

fn braced(parts: &[String]) -> String {
    let split: Vec<Vec<&str>> = parts.iter().map(|p| p.split('.').collect()).collect();
    let shortest = split.iter().map(Vec::len).min().unwrap_or(0);
    let alike = |at: &dyn Fn(&[&'_ str]) -> usize| {
        let mut segments = split.iter().map(|s| s.get(at(s)).copied());
        let first = segments.next();
        segments.all(|s| Some(s) == first)
    };
    let lead = (0..shortest).take_while(|&i| alike(&|_| i)).count();
    let tail = (0..shortest - lead).take_while(|&i| alike(&|s: &[&str]| s.len() - 1 - i)).count();
    let differing: Vec<String> = split.iter().map(|s| s[lead..s.len() - tail].join(".")).collect();
    let Some(first) = split.first() else { return "derived".into() };
    let mut name: Vec<String> = first[..lead].iter().map(|s| s.to_string()).collect();
    name.push(format!("{{{}}}", differing.join(",")));
    name.extend(first[first.len() - tail..].iter().map(|s| s.to_string()));
    name.join(".")
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn names_say_what_they_are_made_of() {
        let name = |parts: &[&str]| {
            let parts: Vec<String> = parts.iter().map(|p| p.to_string()).collect();
            of(&parts, |n| n == "a.derived")
        };
        assert_eq!(name(&["l.0.q.weight", "l.0.k.weight"]), "l.0.{q,k}.weight");
        assert_eq!(name(&["norm.weight", "l.0.k.weight"]), "{norm,l.0.k}.weight");
        assert_eq!(name(&["a"]), "a.derived_2");
        assert_eq!(name(&["a", "b"]), "{a,b}");
        assert_eq!(name(&["a.b", "a"]), "a.{b,}");
    }
}
