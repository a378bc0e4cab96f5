//! Collators on small samples, each value computed by hand from Transformers' rules.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::tokenizer::{AutoTokenizer, Directory, Padding, Side};

fn ints(values: &[i32]) -> Feature {
    Feature::Ints(values.to_vec())
}

fn tokens(ids: &[i32]) -> Example {
    Example::new().with("input_ids", ints(ids))
}

fn collate(collator: &dyn Collator, examples: &[Example]) -> Result<Batch, CollateError> {
    let samples: Vec<Sample<'_>> = examples.iter().zip(0..).map(|(example, draw)| Sample { example, draw }).collect();
    collator.collate(&samples)
}

fn pad() -> Pad {
    Pad {
        padding: Padding::Longest,
        max_length: None,
        pad_to_multiple_of: None,
        padding_side: Side::Right,
        pad_token_id: Some(9),
        pad_token_type_id: 7,
    }
}

/// A vocabulary of 160 pieces; [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4.
fn tokenizer() -> AutoTokenizer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/bert-base");
    AutoTokenizer::from_assets(&Directory(folder)).unwrap()
}

/// Names with shapes and whole numbers.
fn shown(batch: &Batch) -> BTreeMap<&str, (Vec<usize>, Vec<i32>)> {
    batch.iter().map(|(name, t)| (name, (t.shape().to_vec(), batch.i32s(name).to_vec()))).collect()
}

fn expect(batch: &Batch, expected: &[(&str, &[usize], &[i32])]) {
    let expected = expected.iter().map(|(name, shape, values)| (*name, (shape.to_vec(), values.to_vec())));
    assert_eq!(shown(batch), expected.collect());
}

/// COL-01, DS-04: equal shapes are stacked, whole labels stay whole and others are floats; unequal lengths are an error.
#[test]
fn col_01_default() {
    let rows = [tokens(&[1, 2]).with("label", Feature::Int(5)), tokens(&[3, 4]).with("label", Feature::Int(6))];
    let batch = collate(&DefaultDataCollator, &rows).unwrap();
    expect(&batch, &[("input_ids", &[2, 2], &[1, 2, 3, 4]), ("labels", &[2], &[5, 6])]);
    let float = |x| tokens(&[1]).with("label", Feature::Float(x));
    let batch = collate(&DefaultDataCollator, &[float(0.5), float(1.0)]).unwrap();
    assert_eq!((batch.f32s("labels"), batch.get("labels").unwrap().shape()), (&[0.5, 1.0][..], &[2][..]));
    let multi = tokens(&[1]).with("label_ids", Feature::Floats(vec![0.0, 1.0, 1.0]));
    let batch = collate(&DefaultDataCollator, &[multi.clone(), multi]).unwrap();
    assert_eq!((batch.f32s("labels").len(), batch.get("labels").unwrap().shape()), (6, &[2, 3][..]));

    let error = |rows: &[Example]| collate(&DefaultDataCollator, rows).unwrap_err().to_string();
    assert_eq!(
        error(&[tokens(&[1]), tokens(&[1, 2])]),
        r#"feature "input_ids" of sample 1: expected 1 whole numbers, as in sample 0, found 2 whole numbers"#
    );
    assert_eq!(error(&[rows[0].clone(), tokens(&[1, 2])]), r#"sample 1 has no feature "label"; it has "input_ids""#);
    assert!(error(&[rows[0].clone(), tokens(&[1, 2]).with("label", Feature::Float(1.0))]).contains("found a number"));
    assert_eq!(error(&[]), "a batch needs at least one sample");
}

/// COL-02: padded to the longest, to a multiple, to a length, on either side; padding's own values for each feature.
#[test]
fn col_02_padding() {
    let rows = [
        tokens(&[1, 2, 3]).with("token_type_ids", ints(&[0, 0, 1])).with("label", Feature::Int(1)),
        tokens(&[4]).with("token_type_ids", ints(&[0])).with("label", Feature::Int(0)),
    ];
    let padded = |pad: Pad| collate(&DataCollatorWithPadding { layout: Layout::Padded(pad) }, &rows);
    expect(
        &padded(pad()).unwrap(),
        &[
            ("input_ids", &[2, 3], &[1, 2, 3, 4, 9, 9]),
            ("token_type_ids", &[2, 3], &[0, 0, 1, 0, 7, 7]),
            ("attention_mask", &[2, 3], &[1, 1, 1, 1, 0, 0]),
            ("labels", &[2], &[1, 0]),
        ],
    );
    let left = Pad { padding_side: Side::Left, pad_to_multiple_of: Some(4), ..pad() };
    let batch = padded(left).unwrap();
    assert_eq!(batch.i32s("input_ids"), [9, 1, 2, 3, 9, 9, 9, 4]);
    assert_eq!(batch.i32s("attention_mask"), [0, 1, 1, 1, 0, 0, 0, 1]);
    let fixed = Pad { padding: Padding::MaxLength, max_length: Some(5), ..pad() };
    assert_eq!(padded(fixed).unwrap().get("input_ids").unwrap().shape(), [2, 5]);
    let off = padded(Pad { padding: Padding::DoNotPad, ..pad() }).unwrap_err().to_string();
    assert!(off.contains("because padding is off"), "{off}");
    let no_token = padded(Pad { pad_token_id: None, ..pad() }).unwrap_err().to_string();
    assert!(no_token.contains("no padding token"), "{no_token}");
    let huge = Pad { padding: Padding::MaxLength, max_length: Some(usize::MAX), ..pad() };
    assert!(matches!(padded(huge).unwrap_err(), CollateError::TooLarge { .. }));

    // Padding-free: joined, with offsets; what the samples' own masks rule out is left out.
    let free = DataCollatorWithPadding::default();
    let joined: &[(&str, &[usize], &[i32])] = &[
        ("input_ids", &[4], &[1, 2, 3, 4]),
        ("token_type_ids", &[4], &[0, 0, 1, 0]),
        ("offsets", &[3], &[0, 3, 4]),
        ("labels", &[2], &[1, 0]),
    ];
    expect(&collate(&free, &rows).unwrap(), joined);
    let masked = tokens(&[4, 9]).with("token_type_ids", ints(&[0, 0])).with("label", Feature::Int(0));
    let rows = [rows[0].clone().with("attention_mask", ints(&[1, 1, 1])), masked.with("attention_mask", ints(&[1, 0]))];
    expect(&collate(&free, &rows).unwrap(), joined);

    let short = [tokens(&[1, 2]).with("token_type_ids", ints(&[0]))];
    let error = collate(&free, &short).unwrap_err().to_string();
    assert_eq!(error, r#"feature "token_type_ids" of sample 0: expected 2 values, one a token, found 1 values"#);
    let no_ids = [Example::new().with("label", Feature::Int(1))];
    assert_eq!(
        collate(&free, &no_ids).unwrap_err().to_string(),
        r#"sample 0 has no feature "input_ids"; it has "label""#
    );
}

/// COL-03: labels go along with their tokens.
#[test]
fn col_03_token_classification() {
    let rows = [tokens(&[1, 2]).with("labels", ints(&[-100, 3])), tokens(&[4]).with("labels", ints(&[5]))];
    let batch = collate(&DataCollatorForTokenClassification::default(), &rows).unwrap();
    expect(&batch, &[("input_ids", &[3], &[1, 2, 4]), ("offsets", &[3], &[0, 2, 3]), ("labels", &[3], &[-100, 3, 5])]);
    let layout = Layout::Padded(Pad { padding_side: Side::Left, ..pad() });
    let left = DataCollatorForTokenClassification { layout, label_pad_token_id: -1 };
    assert_eq!(collate(&left, &rows).unwrap().i32s("labels"), [-100, 3, -1, 5]);
    let wrong = [tokens(&[1, 2]).with("labels", ints(&[3]))];
    assert!(collate(&left, &wrong).unwrap_err().to_string().contains("one a token"));
}

/// COL-04: labels have lengths of their own and move to the right for the decoder.
#[test]
fn col_04_seq2seq() {
    let rows = [tokens(&[1, 2]).with("labels", ints(&[5, 6, 7])), tokens(&[4]).with("labels", ints(&[8]))];
    let seq2seq = |layout| DataCollatorForSeq2Seq {
        layout,
        decoder_start_token_id: Some(0),
        pad_token_id: 9,
        ..DataCollatorForSeq2Seq::default()
    };
    expect(
        &collate(&seq2seq(Layout::Padded(Pad { pad_to_multiple_of: Some(2), ..pad() })), &rows).unwrap(),
        &[
            ("input_ids", &[2, 2], &[1, 2, 4, 9]),
            ("attention_mask", &[2, 2], &[1, 1, 1, 0]),
            ("labels", &[2, 4], &[5, 6, 7, -100, 8, -100, -100, -100]),
            ("decoder_input_ids", &[2, 4], &[0, 5, 6, 7, 0, 8, 9, 9]),
        ],
    );
    expect(
        &collate(&seq2seq(Layout::PaddingFree), &rows).unwrap(),
        &[
            ("input_ids", &[3], &[1, 2, 4]),
            ("offsets", &[3], &[0, 2, 3]),
            ("labels", &[4], &[5, 6, 7, 8]),
            ("decoder_offsets", &[3], &[0, 3, 4]),
            ("decoder_input_ids", &[4], &[0, 5, 6, 0]),
        ],
    );
}

/// COL-05: shares of masked, random and kept tokens; special tokens never; a function of seed and sample number alone.
#[test]
fn col_05_masked_language_model() {
    let tokenizer = tokenizer();
    let ids: Vec<i32> = (0..40_000).map(|i| if i % 10 == 0 { 2 } else { 50 + i % 100 }).collect();
    let row = tokens(&ids);
    let masked = |seed| {
        let masking = Masking { seed, ..Masking::default() };
        DataCollatorForLanguageModeling::masked(&tokenizer, Layout::PaddingFree, masking).unwrap()
    };
    let batch = collate(&masked(1), std::slice::from_ref(&row)).unwrap();
    let (after, labels) = (batch.i32s("input_ids"), batch.i32s("labels"));
    let (mut chosen, mut mask, mut kept) = (0, 0, 0);
    for ((&before, &after), &label) in ids.iter().zip(after).zip(labels) {
        if label == IGNORE_INDEX {
            assert_eq!(before, after);
            continue;
        }
        assert_eq!(label, before);
        assert_ne!(before, 2, "special tokens are never masked");
        assert!((0..tokenizer.len() as i32).contains(&after));
        chosen += 1;
        mask += i32::from(after == 4);
        kept += i32::from(after == before);
    }
    let share = |part: i32, of: i32| f64::from(part) / f64::from(of);
    assert!((share(chosen, 36_000) - 0.15).abs() < 0.006, "{chosen}");
    // A random token is the mask token or the same one once in 160 times each.
    assert!((share(mask, chosen) - 0.8 - 0.1 / 160.0).abs() < 0.02, "{mask} of {chosen}");
    assert!((share(kept, chosen) - 0.1 - 0.1 / 160.0).abs() < 0.015, "{kept} of {chosen}");

    assert_eq!(batch, collate(&masked(1), std::slice::from_ref(&row)).unwrap());
    assert_ne!(batch, collate(&masked(2), std::slice::from_ref(&row)).unwrap());
    let visit = |draw| masked(1).collate(&[Sample { example: &row, draw }]).unwrap();
    assert_ne!(visit(0), visit(1));
    // Of one sample the same tokens are masked whatever is beside it.
    let other = tokens(&[60; 100]);
    let both = masked(1).collate(&[Sample { example: &other, draw: 5 }, Sample { example: &row, draw: 0 }]).unwrap();
    assert_eq!(both.i32s("labels")[100..], *labels);
    // A mask that was made before goes first.
    let all_special = row.clone().with("special_tokens_mask", ints(&vec![1; ids.len()]));
    let batch = collate(&masked(1), &[all_special]).unwrap();
    assert!(batch.i32s("labels").iter().all(|l| *l == IGNORE_INDEX) && batch.get("special_tokens_mask").is_none());

    let wrong = |masking| DataCollatorForLanguageModeling::masked(&tokenizer, Layout::PaddingFree, masking).is_err();
    assert!(wrong(Masking { mlm_probability: 1.5, ..Masking::default() }));
    assert!(wrong(Masking { mlm_probability: f64::NAN, ..Masking::default() }));
    assert!(wrong(Masking { random_replace_prob: 0.3, ..Masking::default() }));
    let mut without = self::tokenizer();
    without.set_special_token("mask_token", None).unwrap();
    let error = DataCollatorForLanguageModeling::masked(&without, Layout::PaddingFree, Masking::default()).unwrap_err();
    assert!(error.to_string().contains("no mask token"));
}

/// COL-06: a word's tokens are masked together, all by the mask token.
#[test]
fn col_06_whole_words() {
    let masking = Masking { mlm_probability: 0.5, whole_word_mask: true, ..Masking::default() };
    let collator = DataCollatorForLanguageModeling::masked(&tokenizer(), Layout::PaddingFree, masking).unwrap();
    // [CLS], then words of three pieces with a space between, 5 characters each.
    let words = 500;
    let ids: Vec<i32> = [2].into_iter().chain([50, 51, 52].repeat(words)).collect();
    let pairs = (0..words as i32).flat_map(|w| [(0, 1), (1, 3), (3, 4)].map(|(a, b)| [5 * w + a, 5 * w + b]));
    let offsets: Vec<i32> = [0, 0].into_iter().chain(pairs.flatten()).collect();
    let batch = collate(&collator, &[tokens(&ids).with("offset_mapping", Feature::Ints(offsets))]).unwrap();
    assert!(batch.get("offset_mapping").is_none());
    let (ids, labels) = (batch.i32s("input_ids"), batch.i32s("labels"));
    assert_eq!((ids[0], labels[0]), (2, IGNORE_INDEX));
    let mut masked = 0;
    for word in 0..words {
        let at = 1 + 3 * word..4 + 3 * word;
        let whole = ids[at.clone()] == [4, 4, 4] && labels[at.clone()] == [50, 51, 52];
        let none = ids[at.clone()] == [50, 51, 52] && labels[at] == [IGNORE_INDEX; 3];
        assert!(whole != none, "{word}");
        masked += usize::from(whole);
    }
    assert!((200..300).contains(&masked), "{masked}");
    assert!(collate(&collator, &[tokens(&[50])]).unwrap_err().to_string().contains("offset_mapping"));
}

/// COL-07: labels are the tokens; the padding token is none. Given labels stay. Joined samples do not predict each other.
#[test]
fn col_07_causal_language_model() {
    let tokenizer = tokenizer(); // [PAD] is 0
    let padded = Layout::Padded(Pad::longest(&tokenizer));
    let rows = [tokens(&[50, 0, 51]), tokens(&[52])];
    let batch = collate(&DataCollatorForLanguageModeling::causal(&tokenizer, padded.clone()), &rows).unwrap();
    expect(
        &batch,
        &[
            ("input_ids", &[2, 3], &[50, 0, 51, 52, 0, 0]),
            ("attention_mask", &[2, 3], &[1, 1, 1, 1, 0, 0]),
            ("labels", &[2, 3], &[50, -100, 51, 52, -100, -100]),
        ],
    );
    let mut keeping = DataCollatorForLanguageModeling::causal(&tokenizer, padded);
    keeping.ignored_label = None;
    assert_eq!(collate(&keeping, &rows).unwrap().i32s("labels"), [50, 0, 51, 52, -100, -100]);
    let free = DataCollatorForLanguageModeling::causal(&tokenizer, Layout::PaddingFree);
    assert_eq!(collate(&free, &rows).unwrap().i32s("labels"), [-100, -100, 51, -100]);
    let answers = [tokens(&[50, 51]).with("labels", ints(&[-100, 51])), tokens(&[52]).with("labels", ints(&[52]))];
    assert_eq!(collate(&free, &answers).unwrap().i32s("labels"), [-100, 51, -100]);
}

/// COL-08: Transformers' own names beside `offsets`.
#[test]
fn col_08_flattening() {
    let rows = [tokens(&[1, 2, 3]), tokens(&[4, 5])];
    expect(
        &collate(&DataCollatorWithFlattening::default(), &rows).unwrap(),
        &[
            ("input_ids", &[5], &[1, 2, 3, 4, 5]),
            ("offsets", &[3], &[0, 3, 5]),
            ("labels", &[5], &[-100, 2, 3, -100, 5]),
            ("position_ids", &[5], &[0, 1, 2, 0, 1]),
        ],
    );
    let all = DataCollatorWithFlattening {
        return_position_ids: false,
        return_flash_attn_kwargs: true,
        return_seq_idx: true,
        separator_id: -7,
        ..DataCollatorWithFlattening::default()
    };
    let rows = rows.map(|row| row.clone().with("labels", ints(&vec![8; row.tokens()])));
    expect(
        &collate(&all, &rows).unwrap(),
        &[
            ("input_ids", &[5], &[1, 2, 3, 4, 5]),
            ("offsets", &[3], &[0, 3, 5]),
            ("labels", &[5], &[-7, 8, 8, -7, 8]),
            ("seq_idx", &[5], &[0, 0, 0, 1, 1]),
            ("cu_seq_lens_q", &[3], &[0, 3, 5]),
            ("cu_seq_lens_k", &[3], &[0, 3, 5]),
            ("max_length_q", &[], &[3]),
            ("max_length_k", &[], &[3]),
        ],
    );
    let shifted = DataCollatorWithFlattening { position_ids_start: 2, ..Default::default() };
    assert_eq!(collate(&shifted, &rows).unwrap().i32s("position_ids"), [2, 3, 4, 2, 3]);
}
