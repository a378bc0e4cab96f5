//! Tokens to programs. Text may be hostile: nesting, ranks and dimension expressions are bounded, and memory grows only
//! with the text.

use std::collections::HashMap;

use super::lexer::{ParseError, Token, error_at, tokens};
use super::printer::plain_nan;
use super::{implied, row};
use crate::attr::AttrValue;
use crate::dim::{Dim, Symbol, SymbolInfo};
use crate::dtype::DType;
use crate::graph::{Graph, Value};
use crate::op::Op;
use crate::program::Program;
use crate::types::{Literal, Type};
use crate::verify::is_symbol_name;

/// Nesting of lists and of `floor`.
const MAX_DEPTH: usize = 16;
/// Axes of a type.
const MAX_RANK: usize = 16;
/// Terms of a dimension.
const MAX_TERMS: usize = 64;
/// Factors of a term.
const MAX_FACTORS: usize = 16;
/// Terms of a shape's element count before like ones are collected.
const MAX_COUNT_TERMS: usize = 4096;

type Parsed<T> = Result<T, ParseError>;

/// The program of a text.
///
/// # Errors
/// At the first place that is no program.
pub fn parse(text: &str) -> Result<Program, ParseError> {
    let mut parser = Parser { text, tokens: tokens(text)?, next: 0, depth: 0 };
    parser.program()
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(Token<'a>, usize)>,
    next: usize,
    depth: usize,
}

/// What a line refers to by number.
type Names = HashMap<u64, Value>;

impl<'a> Parser<'a> {
    fn peek_at(&self, ahead: usize) -> &Token<'a> {
        self.tokens.get(self.next + ahead).map_or(&Token::End, |(t, _)| t)
    }

    fn peek(&self) -> &Token<'a> {
        self.peek_at(0)
    }

    fn take(&mut self) -> Token<'a> {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    /// The byte the next token starts at.
    fn here(&self) -> usize {
        self.tokens.get(self.next).map_or(self.text.len(), |(_, at)| *at)
    }

    fn fail<T>(&self, at: usize, message: impl Into<String>) -> Parsed<T> {
        Err(error_at(self.text, at, message.into()))
    }

    fn expected<T>(&self, what: &str) -> Parsed<T> {
        self.fail(self.here(), format!("expected {what}, found {}", self.peek()))
    }

    fn is(&self, mark: &str) -> bool {
        matches!(self.peek(), Token::Mark(m) if *m == mark)
    }

    fn accept(&mut self, mark: &str) -> bool {
        let found = self.is(mark);
        self.next += usize::from(found);
        found
    }

    fn mark(&mut self, mark: &str) -> Parsed<()> {
        if self.accept(mark) { Ok(()) } else { self.expected(&format!("`{mark}`")) }
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Token::Word(w) if *w == word);
        self.next += usize::from(found);
        found
    }

    fn keyword(&mut self, word: &str) -> Parsed<()> {
        if self.accept_word(word) { Ok(()) } else { self.expected(&format!("`{word}`")) }
    }

    fn word(&mut self, what: &str) -> Parsed<&'a str> {
        match *self.peek() {
            Token::Word(w) => {
                self.next += 1;
                Ok(w)
            }
            _ => self.expected(what),
        }
    }

    fn text(&mut self, what: &str) -> Parsed<String> {
        match self.peek() {
            Token::Text(t) => {
                let t = t.to_string();
                self.next += 1;
                Ok(t)
            }
            _ => self.expected(what),
        }
    }

    /// A name, bare or in quotes.
    fn name(&mut self, what: &str) -> Parsed<String> {
        if let Token::Word(w) = *self.peek() {
            self.next += 1;
            return Ok(w.into());
        }
        self.text(what)
    }

    /// `item, item` up to a closing mark, which is taken.
    fn list<T>(&mut self, close: &str, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut items = Vec::new();
        while !self.accept(close) {
            if !items.is_empty() {
                self.mark(",")?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth == MAX_DEPTH {
            return self.fail(self.here(), format!("nested deeper than {MAX_DEPTH}"));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn program(&mut self) -> Parsed<Program> {
        self.keyword("program")?;
        let mut program = Program::new(&self.text("the program's name in quotes")?);
        loop {
            let at = self.here();
            let fresh = if self.accept_word("symbol") {
                let (symbol, info) = self.symbol_info()?;
                program.symbols.insert(symbol, info).is_none()
            } else if self.accept_word("param") {
                let (name, ty) = self.declaration()?;
                program.params.insert(name, ty).is_none()
            } else if self.accept_word("state") {
                let (name, ty) = self.declaration()?;
                program.states.insert(name, ty).is_none()
            } else if self.accept_word("derived") {
                let (name, graph) = self.graph()?;
                program.derived.insert(name, graph).is_none()
            } else if self.accept_word("func") {
                let (name, graph) = self.graph()?;
                program.functions.insert(name, graph).is_none()
            } else if self.accept_word("entry") {
                let (name, graph) = self.graph()?;
                program.entries.insert(name, graph).is_none()
            } else if *self.peek() == Token::End {
                return Ok(program);
            } else {
                return self.expected("`symbol`, `param`, `state`, `derived`, `func` or `entry`");
            };
            if !fresh {
                return self.fail(at, "declared twice");
            }
        }
    }

    fn symbol_info(&mut self) -> Parsed<(Symbol, SymbolInfo)> {
        let symbol = self.symbol()?;
        self.keyword("in")?;
        let min = self.int()?;
        self.mark("..=")?;
        let max = self.int()?;
        let multiple_of = if self.accept_word("multiple_of") { self.int()? } else { 1 };
        Ok((symbol, SymbolInfo { min, max, multiple_of }))
    }

    fn declaration(&mut self) -> Parsed<(String, Type)> {
        let name = self.text("a name in quotes")?;
        self.mark(":")?;
        Ok((name, self.ty()?))
    }

    fn graph(&mut self) -> Parsed<(String, Graph)> {
        let name = self.text("the graph's name in quotes")?;
        let (mut graph, mut names) = (Graph::new(), Names::new());
        self.mark("(")?;
        let mut index = 0;
        self.list(")", |p| {
            let at = p.here();
            let number = p.definition(&names)?;
            let name = p.name("the argument's name")?;
            p.mark(":")?;
            let ty = p.ty()?;
            let path = p.path()?;
            let node = graph.add(Op::Arg { index, name, ty }, &[], &path).or_else(|e| p.fail(at, e.to_string()))?;
            names.insert(number, node);
            index += 1;
            Ok(())
        })?;
        self.mark("{")?;
        while !self.accept_word("return") {
            if !matches!(self.peek(), Token::Value(..)) {
                return self.expected("a node or `return`");
            }
            self.node(&mut graph, &mut names)?;
        }
        self.list("}", |p| {
            let name = p.name("the result's name")?;
            p.mark("=")?;
            let at = p.here();
            let value = p.value(&names)?;
            if graph.try_ty(value).is_none() {
                return p.fail(at, "the node has no such result");
            }
            graph.add_result(&name, value);
            Ok(())
        })?;
        Ok((name, graph))
    }

    /// The number of a new node.
    fn definition(&mut self, names: &Names) -> Parsed<u64> {
        let at = self.here();
        match self.take() {
            Token::Value(number, 0) if !names.contains_key(&number) => Ok(number),
            Token::Value(number, 0) => self.fail(at, format!("`%{number}` is there already")),
            other => self.fail(at, format!("expected a new node such as `%7`, found {other}")),
        }
    }

    fn value(&mut self, names: &Names) -> Parsed<Value> {
        let at = self.here();
        match self.take() {
            Token::Value(number, result) => match names.get(&number) {
                Some(v) => Ok(Value { node: v.node, result }),
                None => self.fail(at, format!("no node `%{number}` before this")),
            },
            other => self.fail(at, format!("expected a value such as `%7`, found {other}")),
        }
    }

    fn path(&mut self) -> Parsed<String> {
        if self.accept("@") { self.text("a path in quotes") } else { Ok(String::new()) }
    }

    fn node(&mut self, graph: &mut Graph, names: &mut Names) -> Parsed<()> {
        let start = self.here();
        let number = self.definition(names)?;
        self.mark(":")?;
        let types = if self.accept("(") { self.list(")", Self::ty)? } else { vec![self.ty()?] };
        self.mark("=")?;
        let at = self.here();
        let written = self.word("an op")?;
        let Some((name, function)) = row(written) else { return self.fail(at, format!("unknown op `{written}`")) };

        let (op, operands) = if name == "const" {
            (Op::Const { value: self.literal(&types, at)? }, Vec::new())
        } else {
            let operands = if self.accept("(") { self.list(")", |p| p.operand(names))? } else { Vec::new() };
            (self.op(name, function, &types, at)?, operands)
        };
        let path = self.path()?;
        let id = graph.add_with(op, &operands, &path).or_else(|e| self.fail(at, e.to_string()))?;
        let found = &graph.node(id).types;
        if *found != types {
            let list = |types: &[Type]| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return self.fail(start, format!("{name} gives ({}), written is ({})", list(found), list(&types)));
        }
        names.insert(number, id.into());
        Ok(())
    }

    fn operand(&mut self, names: &Names) -> Parsed<Option<Value>> {
        if self.accept_word("_") { Ok(None) } else { self.value(names).map(Some) }
    }

    /// The op of a row: attributes come from its name, from the braces or from the types.
    fn op(&mut self, name: &str, function: Option<&str>, types: &[Type], at: usize) -> Parsed<Op> {
        let mut written: Vec<(&str, AttrValue, usize)> = Vec::new();
        if self.accept("{") {
            written = self.list("}", |p| {
                let at = p.here();
                let name = p.word("an attribute")?;
                p.mark(":")?;
                Ok((name, p.attribute()?, at))
            })?;
        }
        let mut used: Vec<&'static str> = Vec::new();
        let op = Op::from_attributes(name, &mut |attribute| {
            used.push(attribute);
            if let Some((_, value, _)) = written.iter().find(|(n, _, _)| *n == attribute) {
                return Ok(value.clone());
            }
            match function {
                Some(f) if attribute == "f" => Ok(AttrValue::Word(f.into())),
                _ => implied(attribute, types).ok_or_else(|| format!("`{name}` needs the attribute `{attribute}`")),
            }
        });
        let op = op.or_else(|e| self.fail(at, e))?;
        for (i, (attribute, _, at)) in written.iter().enumerate() {
            let twice = written[..i].iter().any(|(n, _, _)| n == attribute);
            if twice || !used.contains(attribute) || (function.is_some() && *attribute == "f") {
                let message = if twice { "written twice" } else { "no attribute here" };
                return self.fail(*at, format!("`{attribute}` of `{name}`: {message}"));
            }
        }
        Ok(op)
    }

    fn attribute(&mut self) -> Parsed<AttrValue> {
        if let Token::Text(t) = self.peek() {
            let text = t.to_string();
            self.next += 1;
            return Ok(AttrValue::Text(text));
        }
        let at = self.here();
        if self.accept("[") {
            let items = self.nested(|p| p.list("]", Self::attribute))?;
            let dims = items.iter().filter_map(|i| match i {
                AttrValue::Dim(d) => Some(d),
                _ => None,
            });
            self.bounded_count(dims, at)?;
            return Ok(AttrValue::List(items));
        }
        let sign = usize::from(self.is("-"));
        match (self.peek_at(sign), self.peek_at(sign + 1)) {
            (Token::Float(_) | Token::Word("inf" | "nan"), _) => {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&self.float(DType::F64)?);
                Ok(AttrValue::Float(f64::from_le_bytes(bytes)))
            }
            (Token::Word(w), Token::Mark("[")) if sign == 0 && w.parse::<DType>().is_ok() => {
                Ok(AttrValue::Type(self.ty()?))
            }
            (Token::Word(w), next) if sign == 0 && *w != "floor" && !matches!(next, Token::Mark("*" | "+" | "-")) => {
                let word = w.to_string();
                self.next += 1;
                Ok(AttrValue::Word(word))
            }
            _ => Ok(AttrValue::Dim(self.dim()?)),
        }
    }

    fn ty(&mut self) -> Parsed<Type> {
        let at = self.here();
        let word = self.word("a type")?;
        let dtype = word.parse::<DType>().or_else(|e| self.fail(at, e.to_string()))?;
        self.mark("[")?;
        let shape = self.list("]", Self::dim)?;
        if shape.len() > MAX_RANK {
            return self.fail(at, format!("{} axes, at most {MAX_RANK} are allowed", shape.len()));
        }
        self.bounded_count(shape.iter(), at)?;
        Ok(Type { dtype, shape })
    }

    /// Refuses shapes whose element count would be a huge polynomial.
    fn bounded_count<'d>(&self, dims: impl Iterator<Item = &'d Dim>, at: usize) -> Parsed<()> {
        let terms = dims.fold(1usize, |n, d| n.saturating_mul(d.terms().count().max(1)));
        if terms > MAX_COUNT_TERMS { self.fail(at, "a shape of too many terms") } else { Ok(()) }
    }

    fn symbol(&mut self) -> Parsed<Symbol> {
        match *self.peek() {
            Token::Word(w) if is_symbol_name(w) => {
                self.next += 1;
                Ok(Symbol::new(w))
            }
            _ => self.expected("a symbol"),
        }
    }

    /// A number with its sign.
    fn int(&mut self) -> Parsed<i64> {
        let at = self.here();
        let negative = self.accept("-");
        let Token::Int(digits) = *self.peek() else { return self.expected("a whole number") };
        self.next += 1;
        let sign = if negative { "-" } else { "" };
        format!("{sign}{digits}").parse().or_else(|_| self.fail(at, format!("{sign}{digits} does not fit 64 bits")))
    }

    fn dim(&mut self) -> Parsed<Dim> {
        let at = self.here();
        let mut sum = Dim::default();
        let mut negative = self.accept("-");
        loop {
            sum = sum + self.term(negative)?;
            self.bounded_terms(sum.terms().count(), at)?;
            negative = self.is("-");
            if !self.accept("-") && !self.accept("+") {
                return Ok(sum);
            }
        }
    }

    fn bounded_terms(&self, terms: usize, at: usize) -> Parsed<()> {
        if terms > MAX_TERMS { self.fail(at, format!("a dimension of more than {MAX_TERMS} terms")) } else { Ok(()) }
    }

    fn term(&mut self, negative: bool) -> Parsed<Dim> {
        let at = self.here();
        let mut product = Dim::constant(if negative { -1 } else { 1 });
        for factors in 1.. {
            if factors > MAX_FACTORS {
                return self.fail(at, format!("a term of more than {MAX_FACTORS} factors"));
            }
            let factor = match *self.peek() {
                Token::Int(digits) => {
                    let at = self.here();
                    self.next += 1;
                    // The sign belongs to the number: the least value has no positive counterpart.
                    let sign = if negative && factors == 1 { "-" } else { "" };
                    let value: i64 = format!("{sign}{digits}")
                        .parse()
                        .or_else(|_| self.fail(at, format!("{sign}{digits} does not fit 64 bits")))?;
                    if negative && factors == 1 {
                        product = Dim::constant(1);
                    }
                    Dim::constant(value)
                }
                Token::Word("floor") => {
                    self.next += 1;
                    self.mark("(")?;
                    let inner = self.nested(Self::dim)?;
                    self.mark(",")?;
                    let at = self.here();
                    let by = self.int()?;
                    if by < 1 {
                        return self.fail(at, format!("expected a positive divisor, found {by}"));
                    }
                    self.mark(")")?;
                    inner.floor_div(by)
                }
                _ => Dim::symbol(&self.symbol()?),
            };
            self.bounded_terms(product.terms().count() * factor.terms().count(), at)?;
            product = product * factor;
            if !self.accept("*") {
                break;
            }
        }
        Ok(product)
    }

    /// A constant of the written type.
    fn literal(&mut self, types: &[Type], at: usize) -> Parsed<Literal> {
        let shape = types.first().and_then(Type::static_shape);
        let ([ty], Some(shape)) = (types, shape) else {
            return self.fail(at, "a constant needs one type of constant sizes");
        };
        let mut bytes = Vec::new();
        if self.accept_word("hex") {
            let at = self.here();
            let text = self.text("bytes in quotes")?;
            let nibble = |c: u8| (c as char).to_digit(16);
            for pair in text.as_bytes().chunks(2) {
                match pair {
                    [a, b] if nibble(*a).is_some() && nibble(*b).is_some() => {
                        bytes.push((nibble(*a).unwrap_or(0) * 16 + nibble(*b).unwrap_or(0)) as u8);
                    }
                    _ => return self.fail(at, "expected pairs of hexadecimal digits"),
                }
            }
        } else if self.accept("[") {
            let dtype = ty.dtype;
            for element in self.list("]", |p| p.element(dtype))? {
                bytes.extend(element);
            }
        } else {
            bytes = self.element(ty.dtype)?;
        }
        let count = bytes.len() / ty.dtype.size();
        match Literal::new(ty.dtype, shape, bytes) {
            Some(literal) => Ok(literal),
            None => self.fail(at, format!("{count} elements for {ty}")),
        }
    }

    /// The bytes of one element.
    fn element(&mut self, dtype: DType) -> Parsed<Vec<u8>> {
        if dtype.is_float() {
            return self.float(dtype);
        }
        let at = self.here();
        let value = match *self.peek() {
            Token::Word(w @ ("true" | "false")) if dtype == DType::Bool => {
                self.next += 1;
                i64::from(w == "true")
            }
            _ if dtype == DType::Bool => return self.expected("`true` or `false`"),
            _ => self.int()?,
        };
        if dtype.wrap(value) != value {
            return self.fail(at, format!("{value} does not fit {dtype}"));
        }
        Ok(value.to_le_bytes()[..dtype.size()].to_vec())
    }

    /// The bytes of a floating-point element.
    fn float(&mut self, dtype: DType) -> Parsed<Vec<u8>> {
        let at = self.here();
        let sign = if self.accept("-") { "-" } else { "" };
        let decimal = match *self.peek() {
            Token::Word("nan") if sign.is_empty() => {
                self.next += 1;
                return if self.accept("(") { self.nan_bits(dtype) } else { Ok(plain_nan(dtype)) };
            }
            Token::Word("inf") => "inf",
            Token::Int(digits) | Token::Float(digits) => digits,
            _ => return self.expected("a number"),
        };
        self.next += 1;
        let decimal = format!("{sign}{decimal}");
        let bad = |_| error_at(self.text, at, format!("`{decimal}` is no number"));
        Ok(match dtype {
            DType::F64 => decimal.parse::<f64>().map_err(bad)?.to_le_bytes().to_vec(),
            DType::F32 => decimal.parse::<f32>().map_err(bad)?.to_le_bytes().to_vec(),
            _ => Literal::float(dtype, decimal.parse::<f32>().map_err(bad)? as f64).bytes().to_vec(),
        })
    }

    fn nan_bits(&mut self, dtype: DType) -> Parsed<Vec<u8>> {
        let at = self.here();
        let hex = self.text("the bits in quotes")?;
        self.mark(")")?;
        let bits = u64::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == 2 * dtype.size());
        match bits {
            Some(bits) => Ok(bits.to_le_bytes()[..dtype.size()].to_vec()),
            None => self.fail(at, format!("expected {} hexadecimal digits", 2 * dtype.size())),
        }
    }
}
