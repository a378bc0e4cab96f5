//! Every rule of equality saturation on random operands, against the reference interpreter, from its own row.

use std::collections::BTreeSet;

use lith_passes::saturate::rule::{exact, reassociate};
use lith_passes::saturate::rules::all;
use lith_passes::saturate::sample::try_rule;

/// How many times both sides of each rule are run.
const INSTANCES: usize = 12;
/// How many random operands are drawn for that; most fit no premise.
const DRAWINGS: usize = 30_000;

#[test]
fn every_rule_holds_on_random_operands() {
    let only = std::env::var("LITH_RULE").ok();
    let (mut wrong, mut seldom) = (Vec::new(), Vec::new());
    for (i, rule) in all().iter().enumerate().filter(|(_, r)| only.as_ref().is_none_or(|o| r.name.contains(o.as_str())))
    {
        let start = std::time::Instant::now();
        let tried = try_rule(rule, i as u64, INSTANCES, DRAWINGS).unwrap();
        if start.elapsed().as_secs() >= 1 {
            println!("{}: {:.1} s, {} refused", rule.name, start.elapsed().as_secs_f64(), tried.refused);
        }
        wrong.extend(tried.wrong);
        if tried.instances < INSTANCES {
            seldom.push(format!("{} ran {} times, {} drawings did not fit", rule.name, tried.instances, tried.refused));
        }
    }
    let (wrong, seldom) = (wrong.join("\n\n"), seldom.join("\n"));
    assert!(wrong.is_empty() && seldom.is_empty(), "wrong:\n{wrong}\nneed a sample of their own:\n{seldom}");
}

#[test]
fn names_are_unique_and_rules_are_many() {
    let rules = all();
    let names: BTreeSet<&str> = rules.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names.len(), rules.len());
    assert!(rules.len() >= 80, "{} rules", rules.len());
}

#[test]
fn a_wrong_rule_is_found() {
    let planted = [
        exact("planted-sign", "a - b = b - a", "(sub ?a ?b)", "(sub ?b ?a)"),
        // Right but for the shape of one of the operands.
        reassociate("planted-axes", "", "(transpose ?p (transpose ?q ?x))", "(transpose (@compose ?q ?p) ?x)"),
        // True of real numbers, not to the bit.
        exact("planted-class", "", "(add (add ?a ?b) ?c)", "(add ?a (add ?b ?c))").when("(@float ?a)"),
        // True but for zeros.
        exact("planted-zero", "", "(add ?x 0)", "?x").when("(@varies ?x) (@float ?x)"),
        // A constant that is slightly off.
        reassociate("planted-constant", "", "(pow ?x 2)", "(mul (mul ?x ?x) (@full 1.001 ?x))"),
    ];
    for rule in planted {
        let tried = try_rule(&rule, 7, 200, 20_000).unwrap();
        assert!(tried.wrong.is_some(), "{}: {} instances, and nothing found", rule.name, tried.instances);
    }
}
