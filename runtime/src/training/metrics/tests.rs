//! Metrics on fixed data; the values come from scikit-learn, SciPy, seqeval, sacrebleu and rouge-score on the same data, or are
//! computed by hand.

use super::*;

/// A linear congruential generator (Knuth's constants), as used to make the same data elsewhere.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-12, "{found} instead of {expected}");
}

fn same(scores: Scores, expected: [f64; 3]) {
    close(scores.precision, expected[0]);
    close(scores.recall, expected[1]);
    close(scores.f1, expected[2]);
}

/// References and predictions of four classes, and the generator after them.
fn classes() -> (Vec<i64>, Vec<i64>, Numbers) {
    let mut numbers = Numbers(12345);
    let (mut references, mut predictions) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        let (a, b) = (numbers.next(4) as i64, numbers.next(4) as i64);
        references.push(a);
        predictions.push(if numbers.next(3) > 0 { a } else { b });
    }
    (references, predictions, numbers)
}

/// EC-07: accuracy, precision, recall, F1, Matthews against scikit-learn.
#[test]
fn ec_07_classes() {
    let (t, p, _) = classes();
    close(accuracy(&p, &t).unwrap(), 0.73);
    let average = |average| precision_recall_f1(&p, &t, average).unwrap();
    same(average(Average::Micro), [0.73; 3]);
    same(average(Average::Macro), [0.7347608659371051, 0.7255258467023173, 0.7264743591456908]);
    same(average(Average::Weighted), [0.7376127720954629, 0.73, 0.7301132485542858]);
    same(average(Average::Binary { positive: 1 }), [0.6666666666666666, 0.6363636363636364, 0.6511627906976745]);
    let by_class = scores_by_class(&p, &t).unwrap();
    same(by_class[&2], [0.6612903225806451, 0.803921568627451, 0.7256637168141593]);
    assert_eq!(by_class[&2].support, 51);
    close(matthews_correlation(&p, &t).unwrap(), 0.6411904846929366);
    let one = |v: &[i64]| v.iter().map(|c| i64::from(*c == 1)).collect::<Vec<_>>();
    close(matthews_correlation(&one(&p), &one(&t)).unwrap(), 0.5559311428960552);

    // By hand: nothing of class 1 found; all of one class.
    same(precision_recall_f1(&[0, 0], &[0, 1], Average::Binary { positive: 1 }).unwrap(), [0.0; 3]);
    same(precision_recall_f1(&[0], &[0], Average::Binary { positive: 1 }).unwrap(), [0.0; 3]);
    close(matthews_correlation(&[0, 0], &[0, 1]).unwrap(), 0.0);
    assert_eq!(accuracy::<i64>(&[], &[]), Err(MetricError::Empty));
    assert_eq!(accuracy(&[1], &[1, 2]).unwrap_err().to_string(), "1 predictions for 2 references");
    close(exact_match(&["a", "b"], &["a", "B"]).unwrap(), 0.5);
}

/// EC-07: ROC-AUC with ties, top-k accuracy, correlations and errors of numbers against scikit-learn and SciPy.
#[test]
fn ec_07_scores_and_numbers() {
    let (t, _, mut numbers) = classes();
    let positive: Vec<bool> = t.iter().map(|c| *c == 1).collect();
    let scores: Vec<f64> = positive.iter().map(|p| (numbers.next(21) + if *p { 6 } else { 0 }) as f64 / 4.0).collect();
    close(roc_auc(&scores, &positive).unwrap(), 0.7684294871794871);
    assert!(roc_auc(&[0.1, 0.2], &[true, true]).unwrap().is_nan());
    assert!(roc_auc(&[0.1, f64::NAN], &[true, false]).is_err());
    close(roc_auc(&[0.0, -0.0], &[true, false]).unwrap(), 0.5);

    let logits: Vec<f32> = (0..800).map(|_| (numbers.next(50) as f64 / 7.0) as f32).collect();
    for (k, expected) in [(1, 0.275), (2, 0.505), (3, 0.745), (4, 1.0)] {
        close(top_k_accuracy(&logits, 4, &t, k).unwrap(), expected);
    }
    assert!(top_k_accuracy(&logits, 3, &t, 1).is_err());
    assert!(top_k_accuracy(&[0.0; 4], 4, &[4], 1).is_err());
    assert!(top_k_accuracy(&[0.0; 4], 4, &[-1], 1).is_err());

    let a: Vec<f64> = (0..100).map(|_| numbers.next(30) as f64 / 8.0 - 1.0).collect();
    let b: Vec<f64> = a.iter().map(|v| v * 0.5 + numbers.next(10) as f64 / 5.0).collect();
    close(pearson(&a, &b).unwrap(), 0.6851187875778635);
    close(spearman(&a, &b).unwrap(), 0.6801904228540452);
    close(mean_squared_error(&a, &b).unwrap(), 0.8811046874999998);
    close(mean_absolute_error(&a, &b).unwrap(), 0.783125);
    assert!(pearson(&[1.0, 1.0], &[1.0, 2.0]).unwrap().is_nan());
    assert!(spearman(&[1.0, f64::NAN], &[1.0, 2.0]).is_err());
    close(perplexity(2f64.ln()), 2.0);
    assert_eq!(perplexity(1e4), f64::INFINITY);
}

/// Random tags of kinds A and B.
fn tags(numbers: &mut Numbers, prefixes: &str) -> Vec<Vec<String>> {
    let prefixes: Vec<char> = prefixes.chars().collect();
    let mut tag = || match prefixes[numbers.next(prefixes.len() as u64) as usize] {
        'O' => "O".to_string(),
        prefix => format!("{prefix}-{}", ["A", "B"][numbers.next(2) as usize]),
    };
    (0..40).map(|_| (0..12).map(|_| tag()).collect()).collect()
}

fn borrowed(tags: &[Vec<String>]) -> Vec<Vec<&str>> {
    tags.iter().map(|tags| tags.iter().map(String::as_str).collect()).collect()
}

/// Number of entities and a sum over all of them that changes with each.
fn digest(all: &[Vec<Entity>]) -> (usize, u64) {
    let mut sum = 0u64;
    for (sentence, entities) in (1..).zip(all) {
        for entity in entities {
            let of = u64::from(entity.kind.as_bytes()[0]) * 10007 + entity.start as u64 * 101 + entity.end as u64;
            sum = (sum + sentence * 1_000_003 * of) % (1 << 61);
        }
    }
    (all.iter().map(Vec::len).sum(), sum)
}

/// EC-07: entities of random tags in every scheme against seqeval, lenient and strict.
#[test]
fn ec_07_entities() {
    let (t, _, mut numbers) = classes();
    // What was drawn between.
    for _ in 0..t.len() + 800 + 200 {
        numbers.next(2);
    }
    let mixed = tags(&mut numbers, "BIESO");
    let lenient: Vec<Vec<Entity>> = borrowed(&mixed).iter().map(|tags| entities(tags)).collect();
    assert_eq!(digest(&lenient), (351, 4714685705014683));
    for (name, prefixes, expected) in [
        ("IOB1", "IOB", (174, 2269086489239046)),
        ("IOB2", "IOB", (151, 2049315812928995)),
        ("IOE1", "IOE", (130, 1658149223432747)),
        ("IOE2", "IOE", (170, 2196716927131011)),
        ("IOBES", "IOBES", (122, 1467908126711169)),
        ("BILOU", "BILOU", (115, 1517661261970127)),
    ] {
        let scheme: Scheme = name.parse().unwrap();
        let tags = tags(&mut numbers, prefixes);
        let found: Vec<Vec<Entity>> = borrowed(&tags).iter().map(|t| strict_entities(t, scheme).unwrap()).collect();
        assert_eq!(digest(&found), expected, "{name}");
    }
    let references = tags(&mut numbers, "BIO");
    let predictions: Vec<Vec<String>> = references
        .iter()
        .map(|tags| tags.iter().map(|t| if numbers.next(4) > 0 { t.clone() } else { "O".into() }).collect())
        .collect();
    let (predictions, references) = (borrowed(&predictions), borrowed(&references));
    let scores = entity_scores(&predictions, &references, None).unwrap();
    same(scores.overall, [0.883495145631068, 0.7027027027027027, 0.7827956989247313]);
    close(scores.accuracy, 0.8333333333333334);
    same(scores.kinds["A"], [0.84375, 0.6694214876033058, 0.7465437788018433]);
    assert_eq!(scores.kinds["B"].support, 138);
    let strict = entity_scores(&predictions, &references, Some(Scheme::Iob2)).unwrap();
    same(strict.overall, [0.9145299145299145, 0.6815286624203821, 0.7810218978102189]);

    assert!(strict_entities(&["S-A"], Scheme::Iob2).unwrap_err().to_string().contains("\"S-A\""));
    assert!(strict_entities(&[""], Scheme::Iob2).is_err());
    assert!(strict_entities(&[], Scheme::Iobes).unwrap().is_empty());
    assert!("IOB3".parse::<Scheme>().is_err());
    assert!(entity_scores(&[vec!["O"]], &[vec![]], None).is_err());
    let odd = entities(&["", "B", "é", "PER"]);
    assert_eq!(odd[0], Entity { kind: "_".into(), start: 1, end: 3 });
}

/// EC-07: SQuAD's metrics, by hand.
#[test]
fn ec_07_squad() {
    let (exact, f1) =
        squad(&["The cat's hat!", "the cat sat"], &[vec!["x", "cats  hat"], vec!["A cat sat down"]]).unwrap();
    close(exact, 50.0);
    close(f1, 100.0 * (1.0 + 0.8) / 2.0);
    assert_eq!(squad(&["the"], &[vec!["a"]]).unwrap(), (100.0, 0.0));
    assert!(squad(&["x"], &[vec![]]).is_err());

    let answer = |text, no_answer_probability| SquadAnswer { text, no_answer_probability };
    let predictions = [answer("x", 0.1), answer("", 0.9), answer("z", 0.2)];
    let references = [vec!["x y"], vec![], vec![]];
    let named = |threshold| {
        let all = squad_v2(&predictions, &references, threshold).unwrap();
        move |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, value)| *value).unwrap()
    };
    let of = named(1.0);
    close(of("exact"), 100.0 / 3.0);
    close(of("f1"), 100.0 * (2.0 / 3.0 + 1.0) / 3.0);
    close(of("HasAns_exact"), 0.0);
    close(of("HasAns_f1"), 200.0 / 3.0);
    close(of("NoAns_exact"), 50.0);
    assert_eq!((of("total"), of("HasAns_total"), of("NoAns_total")), (3.0, 1.0, 2.0));
    close(of("best_exact"), 200.0 / 3.0);
    assert_eq!(of("best_exact_thresh"), 0.0);
    close(of("best_f1"), 100.0 * (2.0 + 2.0 / 3.0) / 3.0);
    close(of("best_f1_thresh"), 0.1);
    // Above the threshold an answer counts as none.
    close(named(0.15)("exact"), 200.0 / 3.0);
}

#[test]
fn answers_are_found_in_windows() {
    let context = "alpha béta gamma";
    // [CLS] question [SEP] alpha béta gamma
    let offsets = [-1, -1, -1, -1, -1, -1, 0, 5, 6, 10, 11, 16];
    let window = |start: &'static [f32; 6], end: &'static [f32; 6]| Window {
        question: 0,
        offsets: &offsets,
        start_logits: start,
        end_logits: end,
        null_token: 0,
    };
    let best =
        |windows: &[Window<'_>], settings: &AnswerSettings| extract_answers(&[context], windows, settings).unwrap();
    let plain = AnswerSettings::default();
    // The question is no part of an answer, and an answer does not end before it begins.
    let first = window(&[0.0, 9.0, 0.0, 1.0, 4.0, 0.5], &[0.0, 9.0, 0.0, 5.0, 1.0, 3.0]);
    assert_eq!(best(&[first], &plain)[0].text, "béta gamma");
    let short = AnswerSettings { max_answer_length: 1, ..plain };
    assert_eq!(best(&[first], &short)[0].text, "alpha");
    let second = window(&[9.0, 0.0, 0.0, 0.0, 0.0, 8.0], &[9.0, 0.0, 0.0, 0.0, 0.0, 8.0]);
    assert_eq!(best(&[first, second], &plain)[0].text, "gamma");
    let negative = AnswerSettings { version_2_with_negative: true, ..plain };
    let none = &best(&[second], &negative)[0];
    assert_eq!((none.text.as_str(), none.null_score_difference), ("", 2.0));
    // The lowest score of no answer counts, over all windows.
    assert_eq!(best(&[first, second], &negative)[0].text, "gamma");
    let tolerant = AnswerSettings { null_score_diff_threshold: 3.0, ..negative };
    assert_eq!(best(&[second], &tolerant)[0].text, "gamma");
    assert_eq!(best(&[], &plain), [Answer::default()]);
    let foreign = Window { question: 1, ..first };
    assert!(extract_answers(&[context], &[foreign], &plain).unwrap_err().to_string().contains("window 0"));
    assert!(extract_answers(&[context], &[Window { null_token: 6, ..first }], &plain).is_err());
}

/// EC-07: error rates by hand, ROUGE against rouge-score.
#[test]
fn ec_07_transcripts() {
    close(word_error_rate(&["a b c", "x"], &["a x c d", "x"]).unwrap(), 2.0 / 5.0);
    close(character_error_rate(&["kitten"], &[" sitting "]).unwrap(), 3.0 / 7.0);
    close(word_error_rate(&["a b c"], &["z"]).unwrap(), 3.0);
    assert!(word_error_rate(&["a"], &[" "]).is_err());
    let predictions = [
        "the quick brown fox jumps over the lazy dog",
        "police killed the gunman\nthe gunman kills police",
        "A b-c d's 42\n\nx y z",
        "",
    ];
    let references = [
        "the fast brown fox jumped over the lazy dogs today",
        "the gunman police killed\npolice ended the gunman",
        "z y x\na B c 42 D",
        "nothing",
    ];
    let scores = rouge(&predictions, &references).unwrap();
    close(scores.rouge1, 0.6119388544891641);
    close(scores.rouge2, 0.2620448179271709);
    close(scores.rouge_l, 0.40054179566563464);
    close(scores.rouge_lsum, 0.492453560371517);
}

/// EC-07: BLEU and chrF against sacrebleu.
#[test]
fn ec_07_translations() {
    let predictions = [
        "The cat sat on the mat.",
        "It costs $1,234.56 - or 3-4 euros, doesn't it?",
        "A quick (brown) fox &amp; hound jumped!",
        "short",
    ];
    let first = [
        "The cat is sitting on the mat.",
        "It costs $1,234.56, or 3-4 euros, does it not?",
        "The quick (brown) fox & hound jumped over it!",
        "short",
    ];
    let second = [
        "On the mat sat the cat .",
        "That is $1,234.56 or 3-4 euros.",
        "One quick brown fox and a hound leapt!",
        "a short one",
    ];
    let one: Vec<Vec<&str>> = first.iter().map(|r| vec![*r]).collect();
    let two: Vec<Vec<&str>> = first.iter().zip(second).map(|(a, b)| vec![*a, b]).collect();
    let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found} instead of {expected}");
    near(bleu(&predictions, &one).unwrap(), 55.024414744168325);
    near(bleu(&predictions, &two).unwrap(), 62.90023005225753);
    near(bleu(&["a b c d e f"], &[vec!["a x c y e z"]]).unwrap(), 10.682175159905853);
    near(bleu(&["the cat"], &[vec!["the cat"]]).unwrap(), 0.0);
    near(bleu(&["x y z w"], &[vec!["the cat"]]).unwrap(), 0.0);
    near(bleu(&[""], &[vec!["the cat"]]).unwrap(), 0.0);
    // Text that only the splitting of punctuation makes equal.
    let odd = "U.S.A. 5.5, .5 a.b,c 10-20 x-y -3 \"q\" 3.,4 ..";
    let split = "U . S . A . 5.5 , . 5 a . b , c 10 - 20 x-y -3 \" q \" 3 . , 4 . .";
    near(bleu(&[odd], &[vec![split]]).unwrap(), 100.0);
    near(bleu(&["<skipped>co-\noperate\nnow &lt;b&gt;"], &[vec!["cooperate now < b >"]]).unwrap(), 100.0);
    near(chrf(&predictions, &one, 0).unwrap(), 66.80083088792735);
    near(chrf(&predictions, &two, 2).unwrap(), 64.76734326207921);
    near(chrf(&["ab"], &[vec!["abcdefgh"]], 0).unwrap(), 23.404255319148938);
    near(chrf(&[""], &[vec![""]], 0).unwrap(), 0.0);
    assert!(bleu(&["x"], &[vec![]]).is_err() && chrf(&["x"], &[], 0).is_err());
}

/// The metrics of each task, by hand.
#[test]
fn reports_of_tasks() {
    let value = |metrics: &Metrics, name: &str| metrics.iter().find(|(n, _)| n == name).map(|(_, v)| *v).unwrap();
    // Predicted 1, 0, 1, 0 (the first of equals); there 1, 0, 0, 1.
    let binary = single_label(&[0.0, 1.0, 2.0, 1.0, 0.0, 3.0, 1.0, 1.0], 2, &[1, 0, 0, 1]).unwrap();
    for name in ["accuracy", "precision", "recall", "f1"] {
        close(value(&binary, name), 0.5);
    }
    close(value(&binary, "matthews_correlation"), 0.0);
    let three = single_label(&[1.0, 0.0, 0.0, 0.0, 0.0, 1.0], 3, &[0, 1]).unwrap();
    close(value(&three, "f1"), 1.0 / 3.0);
    assert!(single_label(&[0.0, 1.0], 2, &[2]).unwrap_err().to_string().contains("below 2"));
    assert!(single_label(&[0.0], 2, &[0]).is_err() && single_label(&[], 2, &[]).is_err());

    let labels = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
    let multi = multi_label(&[2.0, -1.0, -1.0, 1.0, 0.5, -2.0], 2, &labels).unwrap();
    close(value(&multi, "accuracy"), 2.0 / 3.0);
    close(value(&multi, "f1_micro"), 2.0 * 3.0 / (3.0 + 4.0));
    close(value(&multi, "f1_macro"), (1.0 + 2.0 / 3.0) / 2.0);
    close(value(&multi, "roc_auc"), (1.0 + 0.5) / 2.0);
    assert!(multi_label(&[0.0], 0, &[]).is_err());

    let numbers = regression_report(&[1.0, 2.0, 3.0], &[2.0, 4.0, 7.0]).unwrap();
    close(value(&numbers, "mse"), 7.0);
    close(value(&numbers, "mae"), 7.0 / 3.0);
    close(value(&numbers, "spearmanr"), 1.0);

    let names: Vec<String> = ["O", "B-A", "I-A"].map(String::from).into();
    let hot = |tags: &[usize]| {
        tags.iter().flat_map(|t| (0..3).map(move |i| f32::from(u8::from(i == *t)))).collect::<Vec<_>>()
    };
    // Two sequences; specials (-100) do not count: B-A I-A | B-A, predicted B-A O | B-A.
    let logits = hot(&[0, 1, 0, 0, 1]);
    let tokens = token_labels(&logits, &[-100, 1, 2, -100, 1], &[0, 3, 5], &names).unwrap();
    close(value(&tokens, "precision"), 0.5);
    close(value(&tokens, "recall"), 0.5);
    close(value(&tokens, "accuracy"), 2.0 / 3.0);
    assert!(token_labels(&logits, &[-100, 1, 2, -100, 1], &[0, 9], &names).is_err());
    assert!(token_labels(&logits, &[-100, 1, 2, -100, 1], &[3, 1], &names).is_err());
    assert!(token_labels(&logits, &[-100, 1, 7, -100, 1], &[0, 5], &names).is_err());
}
