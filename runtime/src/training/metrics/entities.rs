//! Entities in sequences of tags, and how many were found: seqeval's two readings of tags. Must not know words.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use super::classification::{Hits, Scores, share};
use super::error::{MetricError, paired};

/// An entity: what it is and the tags `start..end` that say so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entity {
    /// Its kind: the tag without its prefix, `_` when nothing is left.
    pub kind: String,
    /// Its first tag.
    pub start: usize,
    /// The tag behind its last.
    pub end: usize,
}

/// The prefix of a tag (`B`) and the rest (`PER`).
fn parts(tag: &str) -> (char, &str) {
    let mut chars = tag.chars();
    let prefix = chars.next().unwrap_or('O');
    let rest = chars.as_str();
    let kind = rest.split_once('-').map_or(rest, |(_, kind)| kind);
    (prefix, if kind.is_empty() { "_" } else { kind })
}

/// The entities of a sequence, read as conlleval does: prefixes of all schemes at once, and what cannot be is taken for what is
/// nearest. Among the prefixes B, I, E, S and O an entity begins at B and S; at I and E behind O, E or S; and where the kind
/// changes. It ends behind E and S, before B, S and O, and where the kind changes.
pub fn entities(tags: &[&str]) -> Vec<Entity> {
    let mut found = Vec::new();
    let (mut before, mut kind_before, mut start) = ('O', "", 0);
    for (at, tag) in tags.iter().copied().chain(["O"]).enumerate() {
        let (prefix, kind) = parts(tag);
        let changed = kind != kind_before;
        let inside = |prefix: char| prefix != 'O' && prefix != '.';
        let ends = match before {
            'E' | 'S' => true,
            'B' | 'I' if matches!(prefix, 'B' | 'S' | 'O') => true,
            _ => inside(before) && changed,
        };
        let begins = match prefix {
            'B' | 'S' => true,
            'E' | 'I' if matches!(before, 'E' | 'S' | 'O') => true,
            _ => inside(prefix) && changed,
        };
        if ends {
            found.push(Entity { kind: kind_before.into(), start, end: at });
        }
        if begins {
            start = at;
        }
        (before, kind_before) = (prefix, kind);
    }
    found
}

/// A scheme of prefixes, read strictly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// I inside; B only where an entity follows another of its kind at once.
    Iob1,
    /// B at the first tag of every entity, I at the others.
    Iob2,
    /// I inside; E only at the end of an entity that another of its kind follows at once.
    Ioe1,
    /// E at the last tag of every entity, I at the others.
    Ioe2,
    /// B first, I inside, E last, S alone.
    Iobes,
    /// B first, I inside, L last, U alone.
    Bilou,
}

impl FromStr for Scheme {
    type Err = MetricError;

    fn from_str(s: &str) -> Result<Self, MetricError> {
        Ok(match s.to_ascii_uppercase().as_str() {
            "IOB1" => Scheme::Iob1,
            "IOB2" => Scheme::Iob2,
            "IOE1" => Scheme::Ioe1,
            "IOE2" => Scheme::Ioe2,
            "IOBES" => Scheme::Iobes,
            "BILOU" => Scheme::Bilou,
            _ => {
                let expected = "IOB1, IOB2, IOE1, IOE2, IOBES or BILOU".into();
                return Err(MetricError::Value { what: "scheme".into(), expected, found: format!("{s:?}") });
            }
        })
    }
}

/// Whether the kinds of two neighbours matter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kinds {
    Any,
    Same,
    Different,
}

/// Pairs of neighbouring prefixes: those that the first string has, those that the second has.
type Pattern = (&'static str, &'static str, Kinds);

/// The patterns at which an entity begins, goes on, and is complete.
struct Rules {
    prefixes: &'static str,
    begins: &'static [Pattern],
    goes_on: &'static [Pattern],
    ends: &'static [Pattern],
}

impl Scheme {
    fn rules(self) -> Rules {
        use Kinds::{Any, Different, Same};
        match self {
            Scheme::Iob1 => Rules {
                prefixes: "IOB",
                begins: &[("OB", "I", Any), ("I", "I", Different), ("IB", "B", Same)],
                goes_on: &[("BI", "I", Same)],
                ends: &[("IB", "O", Any), ("IB", "I", Different), ("I", "B", Any), ("B", "B", Same)],
            },
            Scheme::Iob2 => Rules {
                prefixes: "IOB",
                begins: &[("IOB", "B", Any)],
                goes_on: &[("BI", "I", Same)],
                ends: &[("IB", "OB", Any), ("IB", "I", Different)],
            },
            Scheme::Ioe1 => Rules {
                prefixes: "IOE",
                begins: &[("OE", "I", Any), ("I", "I", Different), ("E", "E", Same)],
                goes_on: &[("I", "IE", Same)],
                ends: &[("I", "O", Any), ("I", "IE", Different), ("E", "IE", Same)],
            },
            Scheme::Ioe2 => Rules {
                prefixes: "IOE",
                begins: &[("OE", "IE", Any), ("I", "IE", Different)],
                goes_on: &[("I", "IE", Same)],
                ends: &[("E", "IOE", Any)],
            },
            Scheme::Iobes => Rules {
                prefixes: "IOBES",
                begins: &[("IOBES", "BS", Any)],
                goes_on: &[("BI", "IE", Same)],
                ends: &[("SE", "IOBES", Any)],
            },
            Scheme::Bilou => Rules {
                prefixes: "BILOU",
                begins: &[("BILOU", "BU", Any)],
                goes_on: &[("BI", "IL", Same)],
                ends: &[("UL", "BILOU", Any)],
            },
        }
    }
}

/// The entities of a sequence that a scheme allows (seqeval's strict mode); parts of others are none.
///
/// # Errors
/// When a prefix is not of the scheme.
pub fn strict_entities(tags: &[&str], scheme: Scheme) -> Result<Vec<Entity>, MetricError> {
    let rules = scheme.rules();
    let mut tokens = Vec::with_capacity(tags.len() + 1);
    for tag in tags.iter().chain(&["O"]) {
        let mut chars = tag.chars();
        let prefix = chars.next().filter(|p| rules.prefixes.contains(*p)).ok_or_else(|| MetricError::Value {
            what: "tag".into(),
            expected: format!("a prefix of {scheme:?} ({})", rules.prefixes),
            found: format!("{tag:?}"),
        })?;
        let kind = chars.as_str().trim_matches('-');
        tokens.push((prefix, if kind.is_empty() { "_" } else { kind }));
    }
    let matches = |patterns: &[Pattern], before: (char, &str), now: (char, &str)| {
        patterns.iter().any(|(first, second, kinds)| {
            let kinds = match kinds {
                Kinds::Any => true,
                Kinds::Same => before.1 == now.1,
                Kinds::Different => before.1 != now.1,
            };
            first.contains(before.0) && second.contains(now.0) && kinds
        })
    };
    let outside = ('O', "_");
    let mut found = Vec::new();
    let mut at = 0;
    while at < tags.len() {
        let before = if at == 0 { outside } else { tokens[at - 1] };
        if !matches(rules.begins, before, tokens[at]) {
            at += 1;
            continue;
        }
        let mut end = at + 1;
        while matches(rules.goes_on, tokens[end - 1], tokens[end]) {
            end += 1;
        }
        if matches(rules.ends, tokens[end - 1], tokens[end]) {
            found.push(Entity { kind: tokens[at].1.into(), start: at, end });
        }
        at = end;
    }
    Ok(found)
}

/// How many entities were found.
#[derive(Debug, Clone, PartialEq)]
pub struct EntityScores {
    /// Of all kinds together (micro average).
    pub overall: Scores,
    /// Of each kind.
    pub kinds: BTreeMap<String, Scores>,
    /// The share of tags that are right.
    pub accuracy: f64,
}

/// Precision, recall and F1 of entities: one is right when kind, first and last tag are. Tags are read leniently
/// ([`entities`]), or strictly by a scheme.
///
/// # Errors
/// When there are no sequences, they are not of one number or length, or a tag is not of the scheme.
pub fn entity_scores(
    predictions: &[Vec<&str>],
    references: &[Vec<&str>],
    scheme: Option<Scheme>,
) -> Result<EntityScores, MetricError> {
    paired(predictions.len(), references.len())?;
    let read = |tags: &[&str]| match scheme {
        None => Ok(entities(tags)),
        Some(scheme) => strict_entities(tags, scheme),
    };
    let mut kinds: BTreeMap<String, Hits> = BTreeMap::new();
    let (mut right, mut all) = (0, 0);
    for (prediction, reference) in predictions.iter().zip(references) {
        if prediction.len() != reference.len() {
            return Err(MetricError::Lengths { predictions: prediction.len(), references: reference.len() });
        }
        all += reference.len();
        right += prediction.iter().zip(reference).filter(|(p, r)| p == r).count();
        let found: BTreeSet<Entity> = read(prediction)?.into_iter().collect();
        let there: BTreeSet<Entity> = read(reference)?.into_iter().collect();
        for entity in &found {
            let hits = kinds.entry(entity.kind.clone()).or_default();
            hits.found += 1;
            hits.right += usize::from(there.contains(entity));
        }
        there.into_iter().for_each(|entity| kinds.entry(entity.kind).or_default().there += 1);
    }
    Ok(EntityScores {
        overall: Hits::sum(kinds.values()).scores(),
        kinds: kinds.into_iter().map(|(kind, hits)| (kind, hits.scores())).collect(),
        accuracy: share(right, all),
    })
}
