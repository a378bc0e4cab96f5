//! A rule of equality saturation: one line of a table, and what makes it search and apply. Knows no particular rule.
//!
//! The left side is a pattern of [`super::language`], where a number stands for any tensor full of it. On the right,
//! `(@name ..)` is a function of attributes and facts (`functions`); where it has no value, the rule does not
//! apply. `(@full value like)` is a tensor of the type of `like` full of a number. Premises are such functions too.

use std::str::FromStr;

use egg::{Applier, ENodeOrVar, Id, Language, Pattern, PatternAst, RecExpr, Searcher, Subst, Symbol, Var};
use lith_ir::infer::result_types;
use lith_ir::{Literal, Op, Type};
use serde::{Deserialize, Serialize};

use super::analysis::{Classes, Fact, Facts, Splat, op_of};
use super::explain::Applied;
use super::functions::{self, Arg, Function};
use super::language::{Attr, Head, Node};

/// How much a rewrite may change numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Numeric {
    /// Not a bit.
    #[default]
    Exact,
    /// As reordering sums and products does: equal over the reals.
    Reassociate,
    /// Within a stated error.
    Approximate,
}

impl Numeric {
    /// Every class, strictest first.
    pub const ALL: [Numeric; 3] = [Numeric::Exact, Numeric::Reassociate, Numeric::Approximate];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Numeric::Exact => "exact",
            Numeric::Reassociate => "reassociate",
            Numeric::Approximate => "approximate",
        }
    }

    /// The class of this name.
    pub fn from_name(name: &str) -> Option<Numeric> {
        Numeric::ALL.into_iter().find(|n| n.name() == name)
    }
}

/// A rule: left and right are equal where the premises hold.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Name, unique among all rules.
    pub name: String,
    /// The equation, for people.
    pub equation: String,
    /// How much it changes numbers.
    pub numeric: Numeric,
    /// The error of an approximate rule relative to `max(1, |x|)`; else 0.
    pub eps: f64,
    /// What it finds.
    pub left: String,
    /// What that is equal to.
    pub right: String,
    /// What must hold: function calls.
    pub when: String,
    /// How tests make operands that fit the left side.
    pub sample: super::sample::Sample,
}

impl Rule {
    /// The rule under this premise too.
    pub fn when(mut self, premises: &str) -> Rule {
        self.when = format!("{} {premises}", self.when);
        self
    }

    /// The rule with operands made by `sample` in tests.
    pub fn sample(mut self, sample: super::sample::Sample) -> Rule {
        self.sample = sample;
        self
    }
}

fn rule(numeric: Numeric, name: &str, equation: &str, left: &str, right: &str) -> Rule {
    Rule {
        name: name.into(),
        equation: equation.into(),
        numeric,
        eps: 0.0,
        left: left.into(),
        right: right.into(),
        when: String::new(),
        sample: super::sample::Sample::default(),
    }
}

/// A rule that changes no bit.
pub fn exact(name: &str, equation: &str, left: &str, right: &str) -> Rule {
    rule(Numeric::Exact, name, equation, left, right)
}

/// A rule that is true of real numbers and rounds differently.
pub fn reassociate(name: &str, equation: &str, left: &str, right: &str) -> Rule {
    rule(Numeric::Reassociate, name, equation, left, right)
}

/// A rule that is true up to `eps * max(1, |x|)`.
pub fn approximate(eps: f64, name: &str, equation: &str, left: &str, right: &str) -> Rule {
    Rule { eps, ..rule(Numeric::Approximate, name, equation, left, right) }
}

/// Why a row of a rule table is wrong.
#[derive(Debug, thiserror::Error)]
#[error("rule `{rule}`: {problem}")]
pub struct RuleError {
    /// Name of the rule.
    pub rule: String,
    /// What is wrong.
    pub problem: String,
}

/// A rule that can search and apply.
#[derive(Clone, Debug)]
pub struct Compiled {
    index: usize,
    numeric: Numeric,
    /// The classes that are allowed: values of 16 bits need the last one for all but exact rules, since composites
    /// round them less often than primitives do.
    allowed: Numeric,
    /// The left side.
    pub left: Pattern<Node>,
    right: PatternAst<Node>,
    premises: Vec<PatternAst<Node>>,
    /// Which variables stand for numbers of the left side.
    pub numbers: Vec<(Var, f64)>,
}

impl Compiled {
    /// Reads a row; `index` is its place among all rules.
    ///
    /// # Errors
    /// When a side does not parse, names what is not there, or uses a variable that the left side does not bind.
    pub fn new(index: usize, rule: &Rule, allowed: Numeric) -> Result<Compiled, RuleError> {
        let error = |problem: String| RuleError { rule: rule.name.clone(), problem };
        let parse = |text: &str| PatternAst::<Node>::from_str(text).map_err(|e| error(format!("`{text}`: {e}")));
        let mut numbers = Vec::new();
        let mut left = parse(&rule.left)?;
        for node in left.as_mut() {
            if let ENodeOrVar::ENode(Node::Number(bits)) = node {
                let var = Var::from_str(&format!("?number{}", numbers.len())).map_err(|e| error(e.to_string()))?;
                numbers.push((var, f64::from_bits(*bits)));
                *node = ENodeOrVar::Var(var);
            }
        }
        // Premises stand one after the other; as operands of one function they parse together.
        let mut premises = Vec::new();
        if !rule.when.trim().is_empty() {
            let all = parse(&format!("(@all {})", rule.when))?;
            if let Some(ENodeOrVar::ENode(Node::Function(_, children))) = all.last() {
                premises.extend(children.iter().map(|&c| subterm(&all, c)));
            }
        }
        let (left, right) = (Pattern::new(left), parse(&rule.right)?);
        let bound = left.vars();
        for ast in premises.iter().chain([&right]) {
            for node in ast {
                match node {
                    ENodeOrVar::Var(v) if !bound.contains(v) => return Err(error(format!("`{v}` is not bound"))),
                    ENodeOrVar::ENode(Node::Function(name, _)) if name != "full" && functions::find(name).is_none() => {
                        return Err(error(format!("no function `{name}`")));
                    }
                    _ => {}
                }
            }
        }
        Ok(Compiled { index, numeric: rule.numeric, allowed, left, right, premises, numbers })
    }

    /// Whether numbers and premises hold for a match.
    fn holds(&self, classes: &mut Classes, subst: &Subst) -> bool {
        let tolerance = if self.numeric == Numeric::Exact { 0.0 } else { 2e-6 };
        let equal = |(var, wanted): &(Var, f64)| match &classes[subst[*var]].data {
            Fact::Tensor(t) => match &t.splat {
                Some(Splat::Number(found)) => {
                    let rounded = if t.ty.dtype.is_float() { t.ty.dtype.round(*wanted) } else { *wanted };
                    found.to_bits() == rounded.to_bits()
                        || tolerance > 0.0 && (found - wanted).abs() <= tolerance * wanted.abs()
                }
                _ => false,
            },
            _ => false,
        };
        self.numbers.iter().all(equal)
            && self.premises.iter().all(|p| match evaluate(classes, p, subst, &mut Vec::new()) {
                Some(Item::Attr(attr)) => attr != Attr::of(&false),
                _ => false,
            })
    }

    /// What the right side is for a match, unless a premise fails; e-nodes that were not there before go to `made`.
    pub fn instantiate(&self, classes: &mut Classes, subst: &Subst, made: &mut Vec<Node>) -> Option<Id> {
        if !self.holds(classes, subst) {
            return None;
        }
        match evaluate(classes, &self.right, subst, made)? {
            Item::Id(id) => Some(id),
            Item::Attr(_) => None,
        }
    }

    /// The e-nodes that a match found.
    fn matched(&self, classes: &Classes, subst: &Subst) -> Vec<Node> {
        let mut ids: Vec<Option<Id>> = Vec::new();
        let mut found = Vec::new();
        for node in &self.left.ast {
            ids.push(match node {
                ENodeOrVar::Var(v) => subst.get(*v).copied(),
                ENodeOrVar::ENode(n) => {
                    let known = n.all(|c| ids.get(usize::from(c)).is_some_and(Option::is_some));
                    let node = n.clone().map_children(|c| ids.get(usize::from(c)).copied().flatten().unwrap_or(c));
                    let id = known.then(|| classes.lookup(node.clone())).flatten();
                    if matches!(node, Node::Op(..)) {
                        found.push(node);
                    }
                    id
                }
            });
        }
        found
    }
}

impl Applier<Node, Facts> for Compiled {
    fn apply_one(
        &self,
        classes: &mut Classes,
        class: Id,
        subst: &Subst,
        _: Option<&PatternAst<Node>>,
        _: Symbol,
    ) -> Vec<Id> {
        let narrow = classes[class].data.tensor().is_some_and(|t| t.ty.dtype.is_float() && t.ty.dtype.size() == 2);
        if narrow && self.numeric != Numeric::Exact && self.allowed != Numeric::Approximate {
            return Vec::new();
        }
        let mut made = Vec::new();
        let Some(id) = self.instantiate(classes, subst, &mut made) else { return Vec::new() };
        let fits = match (&classes[class].data, &classes[id].data) {
            (Fact::Tensor(a), Fact::Tensor(b)) => a.ty == b.ty,
            _ => false,
        };
        if !fits {
            tracing::error!(rule = self.index, "a rule whose sides differ in type");
            debug_assert!(fits, "rule {}: {:?} and {:?}", self.index, classes[class].data, classes[id].data);
            return Vec::new();
        }
        if classes.find(id) == classes.find(class) && made.is_empty() {
            return Vec::new();
        }
        let matched = self.matched(classes, subst);
        classes.analysis.log.applied.push(Applied { rule: self.index, class, matched, made });
        if classes.union(class, id) { vec![class] } else { Vec::new() }
    }
}

/// The part of a term below a node.
fn subterm(ast: &PatternAst<Node>, root: Id) -> PatternAst<Node> {
    fn copy(ast: &PatternAst<Node>, at: Id, to: &mut PatternAst<Node>) -> Id {
        let node = ast[at].clone().map_children(|c| copy(ast, c, to));
        to.add(node)
    }
    let mut to = RecExpr::default();
    copy(ast, root, &mut to);
    to
}

/// What a node of a right side is.
#[derive(Clone)]
enum Item {
    Id(Id),
    Attr(Attr),
}

fn evaluate(classes: &mut Classes, ast: &PatternAst<Node>, subst: &Subst, made: &mut Vec<Node>) -> Option<Item> {
    let mut items: Vec<Item> = Vec::with_capacity(ast.len());
    for node in ast {
        let child = |id: &Id| items.get(usize::from(*id)).cloned();
        let item = match node {
            ENodeOrVar::Var(v) => Item::Id(classes.find(*subst.get(*v)?)),
            ENodeOrVar::ENode(Node::Attr(attr)) => Item::Attr(attr.clone()),
            ENodeOrVar::ENode(Node::Number(bits)) => Item::Attr(Attr::Float(*bits)),
            ENodeOrVar::ENode(Node::Absent) => Item::Id(classes.add(Node::Absent)),
            ENodeOrVar::ENode(Node::Function(name, children)) => {
                let children: Vec<Item> = children.iter().map(child).collect::<Option<_>>()?;
                if name == "full" {
                    Item::Id(full(classes, &children, made)?)
                } else {
                    Item::Attr(call(classes, functions::find(name)?, &children)?)
                }
            }
            ENodeOrVar::ENode(Node::Op(head, children)) => {
                let mut ids = Vec::with_capacity(children.len());
                for c in children {
                    ids.push(match child(c)? {
                        Item::Id(id) => id,
                        Item::Attr(attr) => classes.add(Node::Attr(attr)),
                    });
                }
                Item::Id(add(classes, *head, ids, made)?)
            }
            ENodeOrVar::ENode(Node::Opaque(..) | Node::Result(..)) => return None,
        };
        items.push(item);
    }
    items.pop()
}

fn call(classes: &Classes, function: Function, children: &[Item]) -> Option<Attr> {
    let args: Vec<Arg<'_>> = children
        .iter()
        .map(|item| match item {
            Item::Attr(attr) => Arg::Attr(attr.clone()),
            Item::Id(id) => match &classes[*id].data {
                Fact::Attr(attr) => Arg::Attr(attr.clone()),
                Fact::Tensor(facet) => Arg::Tensor(facet),
                Fact::Absent | Fact::Several(_) | Fact::Unknown => Arg::Absent,
            },
        })
        .collect();
    function(&args)
}

/// A tensor of the type of the second item full of the first.
fn full(classes: &mut Classes, items: &[Item], made: &mut Vec<Node>) -> Option<Id> {
    let [value, like] = items else { return None };
    let (Item::Attr(attr), Item::Id(like)) = (value, like) else { return None };
    let value: f64 = attr.get()?;
    let ty = classes[*like].data.tensor()?.ty.clone();
    let scalar = add_op(classes, &Op::Const { value: Literal::scalar(ty.dtype, value) }, &[], made)?;
    if ty.rank() == 0 {
        return Some(scalar);
    }
    add_op(classes, &Op::Broadcast { shape: ty.shape, axes: Vec::new() }, &[Some(scalar)], made)
}

/// The e-class of an op on operands.
pub fn add_op(classes: &mut Classes, op: &Op, operands: &[Option<Id>], made: &mut Vec<Node>) -> Option<Id> {
    let (head, attrs) = Head::of(op);
    let mut children: Vec<Id> = attrs.into_iter().map(|a| classes.add(Node::Attr(a))).collect();
    let positions = super::language::operand_positions(op).unwrap_or(0).max(operands.len());
    for i in 0..positions {
        let operand = operands.get(i).copied().flatten();
        children.push(operand.unwrap_or_else(|| classes.add(Node::Absent)));
    }
    add(classes, head, children, made)
}

/// The e-class of an e-node whose operands fit it. What would only wrap its operand is its operand: such wrappers are
/// never made, so no class holds a node that reads the class itself.
fn add(classes: &mut Classes, head: Head, children: Vec<Id>, made: &mut Vec<Node>) -> Option<Id> {
    let (op, operands) = op_of(classes, head, &children).ok()?;
    let mut types: Vec<Option<&Type>> = Vec::with_capacity(operands.len());
    for operand in &operands {
        types.push(match operand {
            Some(id) => Some(&classes[*id].data.tensor()?.ty),
            None => None,
        });
    }
    let result = result_types(&op, &types).ok()?.into_iter().next()?;
    if let (Some(Some(x)), Some(Some(ty))) = (operands.first(), types.first())
        && wraps(&op, ty, &result, operands.len())
    {
        return Some(*x);
    }
    let node = Node::Op(head, children);
    Some(match classes.lookup(node.clone()) {
        Some(id) => id,
        None => {
            made.push(node.clone());
            classes.add(node)
        }
    })
}

/// Whether an op gives its operand as it is.
fn wraps(op: &Op, operand: &Type, result: &Type, operands: usize) -> bool {
    operand == result
        && match op {
            Op::Reshape { .. } | Op::Cast { .. } | Op::Broadcast { .. } => true,
            Op::Transpose { perm } => perm.is_sorted(),
            Op::Slice { start, step, .. } => *step == 1 && start.as_const() == Some(0),
            Op::Concat { .. } => operands == 1,
            Op::Reduce { axes, .. } => axes.is_empty(),
            Op::Pad { before, after, .. } => *before == 0 && *after == 0,
            _ => false,
        }
}

/// Finds the matches of a compiled rule in one class; for tests and for running a rule by itself.
pub fn matches(rule: &Compiled, classes: &Classes, class: Id) -> Vec<Subst> {
    rule.left.search_eclass(classes, class).map_or_else(Vec::new, |m| m.substs)
}
