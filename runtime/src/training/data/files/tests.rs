//! Files as users have them, and broken ones.

use std::fs;
use std::sync::Arc;

use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use tempfile::TempDir;

use super::*;
use crate::training::data::Row;

struct Folder(TempDir);

impl Folder {
    fn new(files: &[(&str, &[u8])]) -> Folder {
        let folder = Folder(TempDir::new().unwrap());
        for (name, bytes) in files {
            let path = folder.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        folder
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn read(&self, name: &str, options: ReadOptions) -> Result<Vec<String>, DataError> {
        let dataset = DataFiles::new(&[self.path(name)], options)?.read()?;
        Ok(dataset.iter().map(|row| serde_json::Value::Object(row.to_json()).to_string()).collect())
    }

    /// The error without the folder's name.
    fn error(&self, name: &str, options: ReadOptions) -> String {
        let error = self.read(name, options).unwrap_err();
        assert!(error.is_usage(), "{error}");
        error.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn one(name: &str, bytes: &[u8]) -> Folder {
    Folder::new(&[(name, bytes)])
}

/// DS-01: objects by line, with what editors leave in files.
#[test]
fn ds_01_json_lines() {
    let text = "\u{feff}{\"text\": \"a\", \"label\": 1}\r\n\n  \n{\"text\": \"b\\n\", \"label\": null, \"more\": [1]}";
    let folder = one("a.jsonl", text.as_bytes());
    let rows = folder.read("a.jsonl", ReadOptions::default()).unwrap();
    assert_eq!(rows, [r#"{"text":"a","label":1}"#, r#"{"text":"b\n","label":null,"more":[1]}"#]);
    let last = DataFiles::new(&[folder.path("a.jsonl")], ReadOptions::default()).unwrap().stream().last().unwrap();
    assert_eq!(last.unwrap().place().number, 4);
}

/// DS-12: a bad line is named by file and line; nothing after it is read.
#[test]
fn ds_12_bad_json_lines() {
    let error = |bytes: &[u8]| one("a.jsonl", bytes).error("a.jsonl", ReadOptions::default());
    assert_eq!(error(b"{\"a\": 1}\n{\"a\": }\n"), "a.jsonl, line 2: not JSON: expected value at column 7");
    assert_eq!(error(b"{}\n\n[1]"), "a.jsonl, line 3: expected an object, found a list");
    assert_eq!(error(b"{\"a\": \"\xff\"}"), "a.jsonl, line 1: not UTF-8 from byte 7 on");
    assert!(error(format!("{}1{}", "[".repeat(5000), "]".repeat(5000)).as_bytes()).contains("recursion limit"));
    assert_eq!(error(b""), "\"a.jsonl\": there are no rows");
    assert_eq!(error(b"\n\n"), "\"a.jsonl\": there are no rows");
    let folder = one("a.jsonl", b"{}\nx\n{}\n");
    let stream = DataFiles::new(&[folder.path("a.jsonl")], ReadOptions::default()).unwrap().stream();
    assert_eq!(stream.map(|row| row.is_ok()).collect::<Vec<_>>(), [true, false]);
}

/// DS-01: a list of objects, an object that holds one, an object alone, and objects by line under the name `.json`.
#[test]
fn ds_01_json_documents() {
    let read = |bytes: &[u8], field: Option<&str>| {
        let options = ReadOptions { field: field.map(Into::into), ..Default::default() };
        let folder = one("a.json", bytes);
        folder.read("a.json", options.clone()).map_err(|_| folder.error("a.json", options))
    };
    let rows = vec![r#"{"a":1}"#.to_string(), r#"{"a":2}"#.to_string()];
    assert_eq!(read(b" [\n{\"a\": 1},\n{\"a\": 2}]", None).unwrap(), rows);
    assert_eq!(read(b"{\"a\": 1}\n{\"a\": 2}\n", None).unwrap(), rows);
    assert_eq!(read(b"{\"version\": 2,\n\"data\": [{\"a\": 1}, {\"a\": 2}]}", Some("data")).unwrap(), rows);
    assert_eq!(read(b"{\n\"a\": 1\n}", None).unwrap(), rows[..1]);
    assert_eq!(read(b"{\"x\": []}", Some("data")).unwrap_err(), r#"a.json: there is no field "data"; there are "x""#);
    assert_eq!(read(b"[1]", None).unwrap_err(), "a.json, row 1: expected an object, found a whole number");
    assert_eq!(read(b"\"x\"", None).unwrap_err(), "a.json: expected a list of objects, found a text");
    assert_eq!(read(b"[{}", None).unwrap_err(), "a.json: not JSON: EOF while parsing a list at line 1 column 3");
    assert_eq!(read(b"[]", None).unwrap_err(), "\"a.json\": there are no rows");
    assert_eq!(read(b"", None).unwrap_err(), "\"a.json\": there are no rows");
}

/// DS-01: quoted cells with delimiters and line breaks; empty cells are nothing; tabs; no header; no quoting.
#[test]
fn ds_01_tables() {
    let text = "\u{feff}text,label\r\n\"one, \"\"two\"\"\nlines\",1\r\n,\"0\"\r\n";
    let folder = Folder::new(&[("a.csv", text.as_bytes()), ("b.tsv", b"x\ty\n\"a\tb\n"), ("c.csv", b"a;1\nb;2\n")]);
    let rows = folder.read("a.csv", ReadOptions::default()).unwrap();
    assert_eq!(rows, [r#"{"text":"one, \"two\"\nlines","label":"1"}"#, r#"{"text":null,"label":"0"}"#]);
    let plain = ReadOptions { quoting: false, ..Default::default() };
    assert_eq!(folder.read("b.tsv", plain).unwrap(), [r#"{"x":"\"a","y":"b"}"#]);
    let named = ReadOptions {
        delimiter: Some(b';'),
        column_names: Some(vec!["text".into(), "stars".into()]),
        ..Default::default()
    };
    let rows = folder.read("c.csv", named).unwrap();
    assert_eq!(rows, [r#"{"text":"a","stars":"1"}"#, r#"{"text":"b","stars":"2"}"#]);
}

/// DS-12: rows with too few or too many cells, bytes that are no text, columns of one name.
#[test]
fn ds_12_bad_tables() {
    let error = |bytes: &[u8]| one("a.csv", bytes).error("a.csv", ReadOptions::default());
    assert_eq!(error(b"a,b\n1,2\n3\n"), "a.csv, line 3: 1 cells, where the table has 2 columns");
    assert_eq!(error(b"a,b\n1,2,3\n"), "a.csv, line 2: 3 cells, where the table has 2 columns");
    assert_eq!(error(b"a,b\n1,\xff\n"), "a.csv, line 2: not UTF-8");
    assert_eq!(error(b"a,a\n1,2\n"), "a.csv: there are two columns \"a\"");
    assert_eq!(error(b"a,b\n"), "\"a.csv\": there are no rows");
    assert_eq!(error(b""), "\"a.csv\": there are no rows");
}

/// A line or record without an end is refused before it fills memory.
#[test]
fn ds_12_endless_records() {
    let folder = Folder::new(&[("a.csv", b"a,b\n1,2\n\"never closed"), ("a.jsonl", b"{}\n{")]);
    for name in ["a.csv", "a.jsonl"] {
        // The rest of the file is a hole, which takes no space and reads as zeros.
        fs::File::options().write(true).open(folder.path(name)).unwrap().set_len(80 << 20).unwrap();
    }
    let csv = folder.error("a.csv", ReadOptions::default());
    assert_eq!(csv, "a.csv, line 3: a record is longer than 67108864 bytes: is a quote never closed?");
    let lines = folder.error("a.jsonl", ReadOptions::default());
    assert_eq!(lines, "a.jsonl, line 2: the line is longer than 67108864 bytes");
}

#[test]
fn ds_01_text() {
    let folder = one("a.txt", b"one\r\ntwo\n\n\nthree");
    let read = |sample_by| folder.read("a.txt", ReadOptions { sample_by, ..Default::default() }).unwrap();
    assert_eq!(read(SampleBy::Line).len(), 5);
    assert_eq!(read(SampleBy::Paragraph), [r#"{"text":"one\ntwo"}"#, r#"{"text":"three"}"#]);
    assert_eq!(read(SampleBy::Document), [r#"{"text":"one\ntwo\n\n\nthree"}"#]);
}

/// DS-01: several files, folders and patterns, in order of names; formats mixed; chosen columns.
#[test]
fn ds_01_folders_and_patterns() {
    let folder = Folder::new(&[
        ("d/b.csv", b"n\n2\n"),
        ("d/a.jsonl", b"{\"n\": 1}"),
        ("d/deep/c.json", b"[{\"n\": 3, \"m\": 4}]"),
        ("d/README.md", b"#"),
        ("d/.hidden.csv", b"n\n9\n"),
        ("e.bin", b""),
    ]);
    let numbers = |name: &str| {
        let files = DataFiles::new(&[folder.path(name)], ReadOptions::default())?;
        let number = |row: &Row| row.get("n").and_then(crate::training::data::Value::as_int).unwrap();
        Ok::<_, DataError>(files.read()?.iter().map(number).collect::<Vec<_>>())
    };
    assert_eq!(numbers("d").unwrap(), [1, 2, 3]);
    assert_eq!(numbers("d/").unwrap(), [1, 2, 3]);
    assert_eq!(numbers("d/*.csv").unwrap(), [2]);
    assert_eq!(numbers("d/**/[bc].*").unwrap(), [2, 3]);
    for name in ["nothing.csv", "d/*.parquet", "e.bin"] {
        assert!(numbers(name).is_err(), "{name}");
    }
    let columns = |column: &str| ReadOptions { columns: Some(vec![column.into()]), ..Default::default() };
    assert_eq!(folder.read("d/deep/c.json", columns("m")).unwrap(), [r#"{"m":4}"#]);
    let missing = folder.error("d/deep/c.json", columns("x"));
    assert_eq!(missing, r#"d/deep/c.json, row 1: there is no column "x"; there are "n", "m""#);
    assert!("xlsx".parse::<Format>().unwrap_err().to_string().contains("jsonl"));
}

/// DS-01: the parts of a folder go by its files' names, wherever the folder lies.
#[test]
fn ds_01_parts() {
    let folder = Folder::new(&[
        ("test/d/train-0.csv", b"n\n1\n"),
        ("test/d/train-1.csv", b"n\n2\n"),
        ("test/d/dev/a.csv", b"n\n3\n"),
        ("test/d/more.csv", b"n\n4\n"),
    ]);
    let sizes = |name: &str| {
        let parts = DataFiles::new(&[folder.path(name)], ReadOptions::default()).unwrap().parts();
        parts.into_iter().map(|(part, files)| (part, files.read().unwrap().len())).collect::<Vec<_>>()
    };
    assert_eq!(sizes("test/d"), [("train".into(), 3), ("validation".into(), 1)]);
    assert_eq!(sizes("test/d/more.csv"), [("train".into(), 1)]);
}

fn parquet_file(compression: Compression) -> Vec<u8> {
    let schema = "message rows { required binary text (UTF8); optional int64 label; optional double score;
        optional group tags (LIST) { repeated group list { optional binary element (UTF8); } } }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
    for group in 0..2i64 {
        let mut rows = writer.next_row_group().unwrap();
        let text = |s: String| ByteArray::from(s.into_bytes());
        let mut column = rows.next_column().unwrap().unwrap();
        let texts: Vec<ByteArray> = (0..100).map(|i| text(format!("text {group} {i}"))).collect();
        column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
        column.close().unwrap();
        let mut column = rows.next_column().unwrap().unwrap();
        let levels: Vec<i16> = (0..100).map(|i| i16::from(i != 1)).collect();
        let labels: Vec<i64> = (0..99).collect();
        column.typed::<Int64Type>().write_batch(&labels, Some(&levels), None).unwrap();
        column.close().unwrap();
        let mut column = rows.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(&[0.5; 100], Some(&[1; 100]), None).unwrap();
        column.close().unwrap();
        let mut column = rows.next_column().unwrap().unwrap();
        // Row 0 has the tags a and b, all others have an empty list.
        let definition: Vec<i16> = [3, 3].into_iter().chain([1; 99]).collect();
        let repetition: Vec<i16> = [0, 1].into_iter().chain([0; 99]).collect();
        let tags = [text("a".into()), text("b".into())];
        column.typed::<ByteArrayType>().write_batch(&tags, Some(&definition), Some(&repetition)).unwrap();
        column.close().unwrap();
        rows.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

/// DS-01: all codecs, nulls, lists, several row groups, chosen columns.
#[test]
fn ds_01_parquet() {
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(ZstdLevel::default()),
        Compression::LZ4_RAW,
        Compression::GZIP(Default::default()),
    ] {
        let folder = one("a.parquet", &parquet_file(compression));
        let rows = folder.read("a.parquet", ReadOptions::default()).unwrap();
        assert_eq!(rows.len(), 200, "{compression}");
        assert_eq!(rows[0], r#"{"text":"text 0 0","label":0,"score":0.5,"tags":["a","b"]}"#);
        assert_eq!(rows[101], r#"{"text":"text 1 1","label":null,"score":0.5,"tags":[]}"#);
        let columns = ReadOptions { columns: Some(vec!["label".into()]), ..Default::default() };
        assert_eq!(folder.read("a.parquet", columns).unwrap()[199], r#"{"label":98}"#);
        let columns = ReadOptions { columns: Some(vec!["none".into()]), ..Default::default() };
        assert!(folder.error("a.parquet", columns).contains(r#"there are "text", "label", "score", "tags""#));
    }
}

/// The folder of tables that Apache's own library wrote.
fn tables() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tables")
}

fn rows_of(path: &Path, columns: Option<Vec<String>>) -> Result<Vec<String>, DataError> {
    let options = ReadOptions { columns, ..Default::default() };
    let dataset = DataFiles::new(&[path.display().to_string()], options)?.read()?;
    Ok(dataset.iter().map(|row| serde_json::Value::Object(row.to_json()).to_string()).collect())
}

/// DS-01: Parquet and Arrow as Apache's library writes them: nested columns, dictionaries, all kinds of numbers.
#[test]
fn ds_01_tables_of_others() {
    let expected = rows_of(&tables().join("rows.jsonl"), None).unwrap();
    assert_eq!(rows_of(&tables().join("rows.arrow"), None).unwrap(), expected);
    assert_eq!(rows_of(&tables().join("stream.arrow"), None).unwrap(), expected);
    let first: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&expected[0]).unwrap();
    let names: Vec<String> = first.keys().cloned().collect();
    assert_eq!(rows_of(&tables().join("rows.parquet"), Some(names)).unwrap(), expected);
    let money = rows_of(&tables().join("rows.parquet"), Some(vec!["money".into()])).unwrap();
    assert_eq!(money, [r#"{"money":1.25}"#, r#"{"money":null}"#, r#"{"money":-3.0}"#]);
}

/// DS-01: a folder as Hugging Face's library saves it holds rows in Arrow files and other things beside them.
#[test]
fn ds_01_saved_data_sets() {
    let stream = fs::read(tables().join("stream.arrow")).unwrap();
    let folder = Folder::new(&[
        ("d/dataset_dict.json", b"{\"splits\": []}"),
        ("d/train/data-00000-of-00002.arrow", &stream),
        ("d/train/data-00001-of-00002.arrow", &stream),
        ("d/train/cache-1f.arrow", b"x"),
        ("d/train/dataset_info.json", b"{}"),
        ("d/train/state.json", b"{}"),
        ("d/test/data-00000-of-00001.arrow", &stream),
    ]);
    let parts = DataFiles::new(&[folder.path("d")], ReadOptions::default()).unwrap().parts();
    let sizes: Vec<_> = parts.into_iter().map(|(part, files)| (part, files.read().unwrap().len())).collect();
    assert_eq!(sizes, [("test".into(), 3), ("train".into(), 6)]);
}

/// DS-12: an Arrow file cut off anywhere, or with any byte changed, gives an error or other rows, never a panic.
#[test]
fn ds_12_broken_arrow() {
    for name in ["rows.arrow", "stream.arrow"] {
        let whole = fs::read(tables().join(name)).unwrap();
        let folder = one("a.arrow", &whole);
        let path = folder.path("a.arrow");
        for length in (0..whole.len()).step_by(61) {
            fs::write(&path, &whole[..length]).unwrap();
            // What is behind the last batch is not needed.
            if let Err(error) = folder.read("a.arrow", ReadOptions::default()) {
                assert!(error.is_usage() && error.to_string().contains("a.arrow"), "{error}");
            }
        }
        let mut refused = 0;
        for (at, mask) in (0..whole.len()).step_by(7).zip([0x01, 0x80, 0x55, 0xff].into_iter().cycle()) {
            let mut broken = whole.clone();
            broken[at] ^= mask;
            fs::write(&path, &broken).unwrap();
            refused += usize::from(folder.read("a.arrow", ReadOptions::default()).is_err());
        }
        assert!(refused > 0);
    }
    assert!(one("a.arrow", b"").error("a.arrow", ReadOptions::default()).contains("not an Arrow file"));
    assert!(one("a.arrow", b"text").error("a.arrow", ReadOptions::default()).contains("not an Arrow file"));
}

/// DS-12: a file cut off anywhere, or with any byte changed, gives an error or other rows, never a panic.
#[test]
fn ds_12_broken_parquet() {
    let whole = parquet_file(Compression::SNAPPY);
    let folder = one("a.parquet", &whole);
    let path = folder.path("a.parquet");
    for length in (0..whole.len()).step_by(37) {
        fs::write(&path, &whole[..length]).unwrap();
        let error = folder.error("a.parquet", ReadOptions::default());
        assert!(error.starts_with("a.parquet: not a readable Parquet file"), "{length}: {error}");
    }
    let mut refused = 0;
    for at in (0..whole.len()).step_by(11) {
        let mut broken = whole.clone();
        broken[at] ^= 0x55;
        fs::write(&path, &broken).unwrap();
        refused += usize::from(folder.read("a.parquet", ReadOptions::default()).is_err());
    }
    assert!(refused > 0);
}

#[test]
fn fingerprints_see_bytes_and_options() {
    let folder = Folder::new(&[("a.txt", b"one\n"), ("b.txt", b"one\n"), ("c.txt", b"two\n")]);
    let of = |name: &str, options| DataFiles::new(&[folder.path(name)], options).unwrap().fingerprint().unwrap();
    let plain = of("a.txt", ReadOptions::default());
    assert_eq!(plain, of("b.txt", ReadOptions::default()));
    assert_ne!(plain, of("c.txt", ReadOptions::default()));
    assert_ne!(plain, of("a.txt", ReadOptions { sample_by: SampleBy::Document, ..Default::default() }));
}
