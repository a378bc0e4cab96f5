//! Holds the sides of a rule against each other.

use std::collections::BTreeMap;

use egg::{ENodeOrVar, Id, Language, Subst, Var};
use lith_ir::interp::{Interpreter, Mode, Tensor};
use lith_ir::testing::{Rng, close, tolerance};
use lith_ir::{DType, Dim, Graph, Literal, Op, Program, Symbol, SymbolInfo, Type, Value};

use super::Sample;
use super::draw::{Bindings, Draw, Operand, Wanted, name_of, value_of};
use crate::saturate::analysis::{Classes, Facts, Opaque, op_of};
use crate::saturate::language::Node;
use crate::saturate::rule::{Compiled, Numeric, Rule, add_op, matches};
use crate::weights::{Known, Weight};

/// What trying a rule came to.
#[derive(Clone, Debug)]
pub struct Tried {
    /// How many times both sides ran on operands that fit.
    pub instances: usize,
    /// How many drawings did not fit.
    pub refused: usize,
    /// The first difference.
    pub wrong: Option<String>,
}

/// Tries a rule on random operands until it ran `instances` times or `drawings` are spent.
///
/// # Errors
/// When the row is wrong.
pub fn try_rule(rule: &Rule, seed: u64, instances: usize, drawings: usize) -> Result<Tried, String> {
    let compiled = Compiled::new(0, rule, Numeric::Approximate).map_err(|e| e.to_string())?;
    let wanted = wanted(rule, &compiled);
    let mut rng = Rng::new(seed);
    let mut tried = Tried { instances: 0, refused: 0, wrong: None };
    while tried.instances < instances && tried.instances + tried.refused < drawings && tried.wrong.is_none() {
        match instance(rule, &compiled, &wanted, &mut rng) {
            Some(Ok(())) => tried.instances += 1,
            Some(Err(problem)) => {
                tried.instances += 1;
                tried.wrong = Some(problem);
            }
            None => tried.refused += 1,
        }
    }
    Ok(tried)
}

/// What numbers and premises of a row ask of its variables.
fn wanted(rule: &Rule, compiled: &Compiled) -> Wanted {
    let with = |premise: &str| -> Vec<String> {
        let marker = format!("(@{premise} ?");
        rule.when
            .match_indices(&marker)
            .filter_map(|(at, m)| rule.when[at + m.len()..].split([')', ' ']).next())
            .map(str::to_string)
            .collect()
    };
    let all = |premise: &str| -> Vec<String> {
        let after = rule.when.split(&format!("(@{premise} ")).nth(1).and_then(|rest| rest.split(')').next());
        after.into_iter().flat_map(str::split_whitespace).map(|v| v.trim_start_matches('?').to_string()).collect()
    };
    let has = |premise: &str| rule.when.contains(&format!("(@{premise} "));
    let dtypes = if has("integer") {
        vec![DType::I32, DType::I8]
    } else if rule.numeric != Numeric::Exact
        || has("float")
        || has("wide")
        || compiled.numbers.iter().any(|(_, v)| v.fract() != 0.0)
    {
        vec![DType::F32, DType::F32, DType::F64]
    } else {
        vec![DType::F32, DType::F32, DType::F64, DType::I32, DType::Bool]
    };
    Wanted {
        numbers: compiled.numbers.iter().map(|(v, n)| (name_of(v), *n)).collect(),
        splats: [with("splat"), with("splat_or_never")].concat(),
        counts: rule
            .when
            .match_indices("(@count ?")
            .filter_map(|(at, m)| rule.when[at + m.len()..].split(')').next()?.split_once(" ?"))
            .map(|(n, x)| (n.to_string(), x.to_string()))
            .collect(),
        params: [with("param"), with("plain"), all("alike")].concat(),
        dtypes,
    }
}

/// One try; `None` when the operands do not fit.
fn instance(rule: &Rule, compiled: &Compiled, wanted: &Wanted, rng: &mut Rng) -> Option<Result<(), String>> {
    let bound = match rule.sample {
        Sample::Drawn => Bindings::new(),
        Sample::Bound(bind) => bind(rng),
    };
    let mut draw = Draw { rng, ast: &compiled.left.ast, wanted, bound };
    draw.all()?;
    let bound = std::mem::take(&mut draw.bound);

    let mut bench = Bench { classes: Classes::new(Facts::default()), args: Vec::new() };
    let left = bench.left(compiled, &bound)?;
    bench.classes.rebuild();
    let subst = matches(compiled, &bench.classes, left).into_iter().next()?;
    let right = compiled.instantiate(&mut bench.classes, &subst, &mut Vec::new())?;
    let (a, b) = (bench.classes[left].data.tensor()?.ty.clone(), bench.classes[right].data.tensor()?.ty.clone());
    let told = || format!("{} with {bound:?}", rule.name);
    if a != b {
        return Some(Err(format!("{}: left is {a}, right is {b}", told())));
    }
    let program = bench.program(left, right)?;
    let exact = rule.numeric == Numeric::Exact;
    let args = bench.values(rng, exact)?;
    let run = |mode: Mode| Interpreter::new(&program, mode).and_then(|i| i.run_pure("main", &args));
    let mut modes = vec![Mode::Rounded];
    if !exact {
        modes.push(Mode::Exact);
    }
    for mode in modes {
        let results = match run(mode) {
            Ok(results) => results,
            // A size that is negative, say: no instance.
            Err(_) => return None,
        };
        let [x, y] = &results[..] else { return None };
        let within = match rule.numeric {
            Numeric::Exact => 0.0,
            // Sums of products in another order.
            Numeric::Reassociate => tolerance(DType::F32) * 10.0,
            Numeric::Approximate => rule.eps,
        };
        let compared = if exact { bits(x, y) } else { close_or_both_undefined(x, y, within) };
        if let Err(problem) = compared {
            return Some(Err(format!("{} in {mode:?}: {problem}\n{}", told(), lith_ir::text::print(&program))));
        }
    }
    Some(Ok(()))
}

/// Whether two tensors are equal to the bit; any NaN is like another.
fn bits(a: &Tensor, b: &Tensor) -> Result<(), String> {
    close(a, b, 0.0)?;
    if let (Some(x), Some(y)) = (a.as_floats(), b.as_floats())
        && let Some(i) = x.iter().zip(y).position(|(x, y)| *x == 0.0 && x.to_bits() != y.to_bits())
    {
        return Err(format!("element {i} is {} and {}", x[i], y[i]));
    }
    Ok(())
}

/// As [`close`]; where the left side overflows or has no value, the right side may have one.
fn close_or_both_undefined(a: &Tensor, b: &Tensor, tolerance: f64) -> Result<(), String> {
    let (Some(x), Some(y)) = (a.as_floats(), b.as_floats()) else { return close(a, b, tolerance) };
    let undefined: Vec<bool> = x.iter().zip(y).map(|(x, y)| !x.is_finite() || !y.is_finite()).collect();
    if !undefined.is_empty() && undefined.iter().filter(|u| **u).count() * 2 > undefined.len() {
        return close(a, b, tolerance);
    }
    let only = |v: &[f64]| -> Vec<f64> { v.iter().zip(&undefined).map(|(v, u)| if *u { 0.0 } else { *v }).collect() };
    let tensor = |v: &[f64]| Tensor::floats(a.dtype(), a.shape(), only(v)).map_err(|e| e.to_string());
    if a.shape() != b.shape() {
        return Err(format!("{:?} and {:?}", a.shape(), b.shape()));
    }
    close(&tensor(x)?, &tensor(y)?, tolerance)
}

/// An e-graph of one instance: each class is one node.
struct Bench {
    classes: Classes,
    args: Vec<(Type, Operand)>,
}

impl Bench {
    fn operand(&mut self, operand: &Operand) -> Option<Id> {
        let none = &mut Vec::new();
        match operand {
            Operand::Tensor(ty) | Operand::Param(ty) | Operand::SomeTrue(ty) => {
                let index = self.args.len();
                let param = matches!(operand, Operand::Param(_));
                let known = if param { Known::Packing(Weight::default()) } else { Known::Running };
                let op = Op::Arg { index, name: format!("x{index}"), ty: ty.clone() };
                self.classes.analysis.opaque.push(Opaque { op, types: vec![ty.clone()], known });
                self.args.push((ty.clone(), operand.clone()));
                Some(self.classes.add(Node::Opaque(index as u32, Vec::new())))
            }
            Operand::Splat(ty, v) => {
                let scalar = add_op(&mut self.classes, &Op::Const { value: Literal::scalar(ty.dtype, *v) }, &[], none)?;
                let op = Op::Broadcast { shape: ty.shape.clone(), axes: Vec::new() };
                add_op(&mut self.classes, &op, &[Some(scalar)], none)
            }
            Operand::Size(ty, dim) => {
                let scalar = match dim.as_const() {
                    Some(v) => {
                        let value = Literal::scalar(ty.dtype, v as f64);
                        add_op(&mut self.classes, &Op::Const { value }, &[], none)?
                    }
                    None => {
                        let size = add_op(&mut self.classes, &Op::Size { dim: dim.clone() }, &[], none)?;
                        add_op(&mut self.classes, &Op::Cast { dtype: ty.dtype }, &[Some(size)], none)?
                    }
                };
                let op = Op::Broadcast { shape: ty.shape.clone(), axes: Vec::new() };
                add_op(&mut self.classes, &op, &[Some(scalar)], none)
            }
            Operand::Attr(attr) => Some(self.classes.add(Node::Attr(attr.clone()))),
            Operand::Absent => Some(self.classes.add(Node::Absent)),
        }
    }

    /// The class of the left side.
    fn left(&mut self, compiled: &Compiled, bound: &Bindings) -> Option<Id> {
        let mut subst = Subst::default();
        let mut ids: Vec<Id> = Vec::new();
        for node in &compiled.left.ast {
            ids.push(match node {
                ENodeOrVar::Var(v) => match subst.get(*v) {
                    Some(&id) => id,
                    None => {
                        let id = self.operand(bound.get(&name_of(v))?)?;
                        subst.insert(*v as Var, id);
                        id
                    }
                },
                ENodeOrVar::ENode(Node::Op(head, children)) => {
                    let children: Vec<Id> = children.iter().map(|&c| ids[usize::from(c)]).collect();
                    let (op, operands) = op_of(&self.classes, *head, &children).ok()?;
                    let id = add_op(&mut self.classes, &op, &operands, &mut Vec::new())?;
                    // An op that does nothing is not made, so the pattern is not there.
                    self.classes[id].nodes.iter().any(|n| matches!(n, Node::Op(h, _) if h == head)).then_some(id)?
                }
                ENodeOrVar::ENode(n) if n.is_leaf() => self.classes.add(n.clone()),
                ENodeOrVar::ENode(_) => return None,
            });
        }
        ids.pop()
    }

    /// A program that computes two classes. Sizes that are symbols come with an argument that has them.
    fn program(&mut self, left: Id, right: Id) -> Option<Program> {
        let mut program = Program::new("rule");
        let mut graph = Graph::new();
        let mut values: BTreeMap<Id, Value> = BTreeMap::new();
        let mut symbols: Vec<Symbol> =
            self.args.iter().flat_map(|(t, _)| t.shape.iter().flat_map(Dim::symbols)).collect();
        let mut all: Vec<Id> = self.classes.classes().map(|c| c.id).collect();
        all.sort_unstable();
        for id in &all {
            if let Some(t) = self.classes[*id].data.tensor() {
                symbols.extend(t.ty.shape.iter().flat_map(Dim::symbols));
            }
        }
        symbols.sort();
        symbols.dedup();
        // Arguments first, in their order.
        for (index, (ty, _)) in self.args.iter().enumerate() {
            let op = Op::Arg { index, name: format!("x{index}"), ty: ty.clone() };
            let value = graph.add(op, &[], "").ok()?;
            values.insert(self.classes.lookup(Node::Opaque(index as u32, Vec::new()))?, value);
        }
        for (i, symbol) in symbols.iter().enumerate() {
            program.symbols.insert(symbol.clone(), SymbolInfo::default());
            let ty = Type { dtype: DType::Bool, shape: vec![Dim::symbol(symbol)] };
            let op = Op::Arg { index: self.args.len() + i, name: symbol.name().into(), ty };
            graph.add(op, &[], "").ok()?;
        }
        for (name, id) in [("left", left), ("right", right)] {
            let value = value(&self.classes, &mut graph, &mut values, id)?;
            graph.add_result(name, value);
        }
        for symbol in symbols {
            let n = usize::try_from(value_of(&symbol)?).ok()?;
            self.args.push((Type::new(DType::Bool, [n]), Operand::Absent));
        }
        program.entries.insert("main".into(), graph);
        Some(program)
    }

    /// Values for the arguments.
    fn values(&self, rng: &mut Rng, any: bool) -> Option<Vec<Tensor>> {
        const ODD: [f64; 8] = [0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e30];
        self.args
            .iter()
            .map(|(ty, operand)| {
                let shape: Vec<usize> = ty
                    .shape
                    .iter()
                    .map(|d| d.eval(&value_of).ok().and_then(|v| usize::try_from(v).ok()))
                    .collect::<Option<_>>()?;
                let count: usize = shape.iter().product();
                if ty.dtype.is_float() {
                    let odd = any && rng.one_in(2);
                    let value =
                        |rng: &mut Rng| if odd && rng.one_in(4) { rng.pick(&ODD) } else { rng.between(-2.0, 2.0) };
                    Tensor::floats(ty.dtype, &shape, (0..count).map(|_| value(rng)).collect()).ok()
                } else if let Operand::SomeTrue(_) = operand {
                    let last = shape.last().copied().unwrap_or(1).max(1);
                    Tensor::ints(
                        ty.dtype,
                        &shape,
                        (0..count).map(|i| i64::from(i % last == 0 || rng.one_in(2))).collect(),
                    )
                    .ok()
                } else {
                    let (low, high) = if ty.dtype == DType::Bool { (0, 1) } else { (-1, 5) };
                    let value = |rng: &mut Rng| low + rng.below((high - low + 1) as usize) as i64;
                    Tensor::ints(ty.dtype, &shape, (0..count).map(|_| value(rng)).collect()).ok()
                }
            })
            .collect()
    }
}

/// The value of a class of one node.
fn value(classes: &Classes, graph: &mut Graph, values: &mut BTreeMap<Id, Value>, id: Id) -> Option<Value> {
    let id = classes.find(id);
    if let Some(&v) = values.get(&id) {
        return Some(v);
    }
    let Node::Op(head, children) = classes[id].nodes.first()? else { return None };
    let (op, operands) = op_of(classes, *head, children).ok()?;
    let mut inputs = Vec::new();
    for operand in operands {
        inputs.push(match operand {
            Some(id) => Some(value(classes, graph, values, id)?),
            None => None,
        });
    }
    let v = Value::from(graph.add_with(op, &inputs, "").ok()?);
    values.insert(id, v);
    Some(v)
}
