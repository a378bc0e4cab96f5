//! Sizes in bytes as people write them.

/// Bytes of a text such as `50GB`, `512MiB` or `1000`: `max_shard_size`. Units with an `i` are powers of 1024. (EX-01)
/// `None` for anything else, and for 0.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        "TIB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit).filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    /// EX-01
    #[test]
    fn ex_01_sizes() {
        let rows = [
            ("50GB", Some(50_000_000_000)),
            ("2 GiB", Some(2 << 30)),
            ("5mb", Some(5_000_000)),
            ("17", Some(17)),
            ("", None),
            ("GB", None),
            ("0", None),
            ("1.5GB", None),
            ("-1MB", None),
            ("99999999999TB", None),
        ];
        for (text, bytes) in rows {
            assert_eq!(super::parse_size(text), bytes, "{text}");
        }
    }
}
