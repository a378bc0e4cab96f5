//! The language of equality saturation: an e-node is an op row whose children are its attributes, each a leaf, and then
//! its operands, an [`Node::Absent`] leaf for an optional one that is not there. So a pattern can bind attributes:
//! `(transpose ?p (transpose ?q ?x))`. Rows with a function (`unary`, `binary`, `compare`, `activation`, `reduce`) are
//! one head for each function: `exp`, `add`, `lt`, `gelu`, `reduce_sum`. Knows no rule.

use std::fmt;
use std::sync::LazyLock;

use egg::{FromOp, Id, Language};
use lith_ir::attr::{AttrValue, Attribute};
use lith_ir::{Activation, Arity, Binary, Compare, DType, Dim, Literal, Op, Reduction, Symbol, Type, Unary};

/// What an e-node computes apart from attributes and operands: an op row, with its function where it has one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Head(u16);

struct HeadRow {
    name: String,
    row: &'static str,
    function: Option<&'static str>,
}

static HEADS: LazyLock<Vec<HeadRow>> = LazyLock::new(|| {
    let mut heads = Vec::new();
    for &row in Op::NAMES {
        let (prefix, functions): (&str, Vec<&'static str>) = match row {
            "unary" => ("", Unary::ALL.iter().map(|f| f.name()).collect()),
            "binary" => ("", Binary::ALL.iter().map(|f| f.name()).collect()),
            "compare" => ("", Compare::ALL.iter().map(|f| f.name()).collect()),
            "activation" => ("", Activation::ALL.iter().map(|f| f.name()).collect()),
            "reduce" => ("reduce_", Reduction::ALL.iter().map(|f| f.name()).collect()),
            _ => {
                heads.push(HeadRow { name: row.into(), row, function: None });
                continue;
            }
        };
        heads.extend(functions.into_iter().map(|f| HeadRow { name: format!("{prefix}{f}"), row, function: Some(f) }));
    }
    heads
});

impl Head {
    /// The head of this name.
    pub fn from_name(name: &str) -> Option<Head> {
        HEADS.iter().position(|h| h.name == name).and_then(|i| u16::try_from(i).ok()).map(Head)
    }

    fn row(self) -> &'static HeadRow {
        &HEADS[self.0 as usize]
    }

    /// The name of the op row.
    pub fn row_name(self) -> &'static str {
        self.row().row
    }

    /// The name in patterns.
    pub fn name(self) -> &'static str {
        &self.row().name
    }

    /// The head of an op and its attributes without the function.
    pub fn of(op: &Op) -> (Head, Vec<Attr>) {
        let mut function = None;
        let mut attrs = Vec::new();
        for (name, value) in op.attributes() {
            match (name, value) {
                ("f", AttrValue::Word(word)) if !matches!(op, Op::SegmentPool { .. }) => function = Some(word),
                (_, value) => attrs.push(Attr::from(value)),
            }
        }
        let row = op.name();
        let at = HEADS.iter().position(|h| h.row == row && h.function == function.as_deref());
        // Every row and every function of it is in the table, which is made of the same lists.
        (Head(at.and_then(|i| u16::try_from(i).ok()).unwrap_or(u16::MAX)), attrs)
    }

    /// The op with these attributes, and how many of them it took.
    ///
    /// # Errors
    /// When the attributes do not fit the row.
    pub fn op(self, attrs: &[&Attr]) -> Result<(Op, usize), String> {
        let (mut taken, row) = (0, self.row());
        let op = Op::from_attributes(row.row, &mut |name| match (name, row.function) {
            ("f", Some(f)) => Ok(AttrValue::Word(f.into())),
            _ => {
                let attr =
                    attrs.get(taken).ok_or_else(|| format!("attribute `{name}` of `{}` is missing", row.name))?;
                taken += 1;
                Ok((*attr).clone().into())
            }
        })?;
        Ok((op, taken))
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Number of operand positions of a row that has no repeated operand.
pub fn operand_positions(op: &Op) -> Option<usize> {
    let row = op.operands();
    row.iter().all(|(_, a)| *a != Arity::Many).then_some(row.len())
}

/// An attribute that can be compared and hashed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Attr {
    /// An integer or a dimension.
    Dim(Dim),
    /// The bits of a floating-point number.
    Float(u64),
    /// A word.
    Word(String),
    /// A text.
    Text(String),
    /// A type.
    Type(DType, Vec<Dim>),
    /// A constant: type, shape, bytes.
    Literal(DType, Vec<usize>, Vec<u8>),
    /// A list.
    List(Vec<Attr>),
}

impl From<AttrValue> for Attr {
    fn from(value: AttrValue) -> Self {
        match value {
            AttrValue::Dim(d) => Attr::Dim(d),
            AttrValue::Float(v) => Attr::Float(v.to_bits()),
            AttrValue::Word(w) => Attr::Word(w),
            AttrValue::Text(t) => Attr::Text(t),
            AttrValue::Type(t) => Attr::Type(t.dtype, t.shape),
            AttrValue::Literal(l) => Attr::Literal(l.dtype(), l.shape().to_vec(), l.bytes().to_vec()),
            AttrValue::List(items) => Attr::List(items.into_iter().map(Attr::from).collect()),
        }
    }
}

impl From<Attr> for AttrValue {
    fn from(attr: Attr) -> Self {
        match attr {
            Attr::Dim(d) => AttrValue::Dim(d),
            Attr::Float(bits) => AttrValue::Float(f64::from_bits(bits)),
            Attr::Word(w) => AttrValue::Word(w),
            Attr::Text(t) => AttrValue::Text(t),
            Attr::Type(dtype, shape) => AttrValue::Type(Type { dtype, shape }),
            // Made from a literal, so its bytes fit.
            Attr::Literal(dtype, shape, bytes) => {
                Literal::new(dtype, shape, bytes).map_or_else(|| AttrValue::Word("broken".into()), AttrValue::Literal)
            }
            Attr::List(items) => AttrValue::List(items.into_iter().map(AttrValue::from).collect()),
        }
    }
}

impl Attr {
    /// The attribute of a Rust value.
    pub fn of(value: &impl Attribute) -> Attr {
        value.to_value().into()
    }

    /// The Rust value, if it is one of this type.
    pub fn get<T: Attribute>(&self) -> Option<T> {
        T::from_value(&self.clone().into()).ok()
    }
}

impl fmt::Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attr::Dim(d) => write!(f, "#{d}"),
            Attr::Float(bits) => write!(f, "{}", f64::from_bits(*bits)),
            Attr::Word(w) => f.write_str(w),
            Attr::Text(t) => write!(f, "'{t}'"),
            Attr::Type(dtype, shape) => write!(f, "{}", Type { dtype: *dtype, shape: shape.clone() }),
            Attr::Literal(dtype, shape, _) => write!(f, "const:{dtype}{shape:?}"),
            Attr::List(items) => {
                let items: Vec<String> = items.iter().map(Attr::to_string).collect();
                write!(f, "[{}]", items.join(","))
            }
        }
    }
}

/// An e-node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Node {
    /// An op on its attributes and operands.
    Op(Head, Vec<Id>),
    /// An attribute.
    Attr(Attr),
    /// An optional operand that is not there.
    Absent,
    /// What is never rewritten, by its index in the analysis: arguments, parameters, large constants, states, calls.
    Opaque(u32, Vec<Id>),
    /// One of several results of an opaque node.
    Result(u32, Id),
    /// In rules only: a function of attributes, or a premise.
    Function(String, Vec<Id>),
    /// In rules only: the bits of a number; on the left any tensor full of it.
    Number(u64),
}

/// What is the same of all e-nodes that one pattern node can match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An op.
    Op(Head),
    /// Something else, by its variant.
    Other(u8),
}

impl Language for Node {
    type Discriminant = Kind;

    fn discriminant(&self) -> Kind {
        match self {
            Node::Op(head, _) => Kind::Op(*head),
            Node::Attr(_) => Kind::Other(0),
            Node::Absent => Kind::Other(1),
            Node::Opaque(..) => Kind::Other(2),
            Node::Result(..) => Kind::Other(3),
            Node::Function(..) => Kind::Other(4),
            Node::Number(_) => Kind::Other(5),
        }
    }

    fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (Node::Op(a, x), Node::Op(b, y)) => a == b && x.len() == y.len(),
            (Node::Attr(a), Node::Attr(b)) => a == b,
            (Node::Absent, Node::Absent) => true,
            (Node::Opaque(a, x), Node::Opaque(b, y)) => a == b && x.len() == y.len(),
            (Node::Result(a, _), Node::Result(b, _)) => a == b,
            (Node::Function(a, x), Node::Function(b, y)) => a == b && x.len() == y.len(),
            (Node::Number(a), Node::Number(b)) => a == b,
            _ => false,
        }
    }

    fn children(&self) -> &[Id] {
        match self {
            Node::Op(_, children) | Node::Opaque(_, children) | Node::Function(_, children) => children,
            Node::Result(_, call) => std::slice::from_ref(call),
            Node::Attr(_) | Node::Absent | Node::Number(_) => &[],
        }
    }

    fn children_mut(&mut self) -> &mut [Id] {
        match self {
            Node::Op(_, children) | Node::Opaque(_, children) | Node::Function(_, children) => children,
            Node::Result(_, call) => std::slice::from_mut(call),
            Node::Attr(_) | Node::Absent | Node::Number(_) => &mut [],
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Op(head, _) => f.write_str(head.name()),
            Node::Attr(attr) => write!(f, "{attr}"),
            Node::Absent => f.write_str("absent"),
            Node::Opaque(i, _) => write!(f, "opaque{i}"),
            Node::Result(k, _) => write!(f, "result{k}"),
            Node::Function(name, _) => write!(f, "@{name}"),
            Node::Number(bits) => write!(f, "{}", f64::from_bits(*bits)),
        }
    }
}

/// Why a token of a rule means nothing.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no op, function, number or attribute")]
pub struct UnknownToken(String);

/// Tokens of rules: ops by name, `@name` functions, numbers, and attributes: `#2` and `#tokens` (a dimension),
/// `[0,2,1]` (a list of them), `true`, `f32` (words).
impl FromOp for Node {
    type Error = UnknownToken;

    fn from_op(token: &str, children: Vec<Id>) -> Result<Self, UnknownToken> {
        let dim = |text: &str| {
            let text = text.trim();
            text.parse::<i64>().map_or_else(|_| Attr::Dim(Dim::symbol(&Symbol::new(text))), |v| Attr::Dim(Dim::from(v)))
        };
        if let Some(name) = token.strip_prefix('@') {
            return Ok(Node::Function(name.into(), children));
        }
        if !children.is_empty() {
            let head = Head::from_name(token).ok_or_else(|| UnknownToken(token.into()))?;
            return Ok(Node::Op(head, children));
        }
        if let Some(text) = token.strip_prefix('#') {
            return Ok(Node::Attr(dim(text)));
        }
        if let Some(items) = token.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            let items = items.split(',').filter(|t| !t.is_empty()).map(dim).collect();
            return Ok(Node::Attr(Attr::List(items)));
        }
        if token == "absent" {
            return Ok(Node::Absent);
        }
        if let Ok(number) = token.parse::<f64>() {
            return Ok(Node::Number(number.to_bits()));
        }
        if token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Ok(Node::Attr(Attr::Word(token.into())));
        }
        Err(UnknownToken(token.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_come_back_from_heads() {
        let ops = [
            Op::Unary { f: Unary::Exp },
            Op::Reduce { f: Reduction::Max, axes: vec![1], keep: true },
            Op::Activation { f: Activation::Gelu },
            Op::SegmentPool { f: lith_ir::Pool::Mean },
            Op::Transpose { perm: vec![1, 0] },
            Op::LayerNorm { eps: 1e-5 },
            Op::Const { value: Literal::float(DType::F32, 0.5) },
        ];
        for op in ops {
            let (head, attrs) = Head::of(&op);
            let attrs: Vec<&Attr> = attrs.iter().collect();
            assert_eq!(head.op(&attrs), Ok((op, attrs.len())));
        }
        let mut names: Vec<&str> = HEADS.iter().map(|h| h.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), HEADS.len(), "heads of one name");
    }

    #[test]
    fn patterns_parse() {
        let p: egg::Pattern<Node> = "(transpose [0,2,1] (mul ?x 0.5))".parse().unwrap();
        assert_eq!(p.to_string(), "(transpose [#0,#2,#1] (mul ?x 0.5))");
        assert!("(nonsense ?x)".parse::<egg::Pattern<Node>>().is_err());
    }
}
