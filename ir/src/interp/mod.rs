//! The reference interpreter: runs primitives one after the other on whole tensors, plainly. A composite means its
//! decomposition. Results are the oracle of every other way to run a program, so nothing here is clever, nothing depends
//! on the machine, and no input makes it panic.
//!
//! ```
//! use lith_ir::interp::{Interpreter, Mode, Tensor};
//! use lith_ir::{Builder, DType, Graph, Program, Type, Unary};
//!
//! let mut graph = Graph::new();
//! let mut b = Builder::new(&mut graph, "");
//! let x = b.arg("x", Type::new(DType::F32, [2i64])).unwrap();
//! let y = b.unary(Unary::Neg, x).unwrap();
//! graph.add_result("y", y);
//! let mut program = Program::new("example");
//! program.entries.insert("main".into(), graph);
//!
//! let x = Tensor::floats(DType::F32, &[2], vec![1.0, -2.0]).unwrap();
//! let results = Interpreter::new(&program, Mode::Exact).unwrap().run_pure("main", &[x]).unwrap();
//! assert_eq!(results[0].as_floats(), Some([-1.0, 2.0].as_slice()));
//! ```

mod elementwise;
mod eval;
mod layout;
mod sums;
mod symbols;
mod tensor;

use std::collections::BTreeMap;

pub use tensor::{Data, MAX_ELEMENTS, Tensor, TensorError};

use crate::decompose::decompose_all;
use crate::dim::Dim;
use crate::graph::{Graph, NodeId, Value};
use crate::op::Op;
use crate::program::Program;
use crate::types::Type;
use crate::verify::{VerifyError, verify};
use eval::evaluate;
use symbols::Bindings;

/// How floats are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In `f64` throughout, whatever the element type: the mathematical result, for comparisons within a tolerance.
    Exact,
    /// Every result is rounded to its element type, sums accumulate as `Op` says: what compiled code does, but for the
    /// order of sums and the last bits of transcendental functions.
    Rounded,
}

/// Why a program did not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterpError {
    /// The program is not sound.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// No entry point has this name.
    #[error("no entry point `{0}`")]
    NoEntry(String),
    /// Too few or too many arguments.
    #[error("entry point `{entry}` takes {expected} arguments, found {found}")]
    ArgumentCount {
        /// The entry point.
        entry: String,
        /// How many it takes.
        expected: usize,
        /// How many were given.
        found: usize,
    },
    /// An argument, parameter or state is of another element type or rank.
    #[error("{place} is {found}, expected {expected}")]
    WrongType {
        /// Which one.
        place: String,
        /// Its type in the program.
        expected: Type,
        /// The type given.
        found: Type,
    },
    /// A size contradicts another, or a symbol has no value or one out of its range.
    #[error("{place}: {problem}")]
    Shape {
        /// Which argument, parameter, state or symbol.
        place: String,
        /// What was expected and found.
        problem: String,
    },
    /// A parameter has no value.
    #[error("parameter `{0}` has no value")]
    NoParam(String),
    /// A node could not be computed.
    #[error("graph `{graph}`, node `{path}`: {op}: {problem}")]
    Node {
        /// Name of the graph.
        graph: String,
        /// The node's model path.
        path: String,
        /// Name of its op.
        op: &'static str,
        /// What was expected and found.
        problem: String,
    },
}

/// A program made ready to run: verified, its composites decomposed.
#[derive(Clone, Debug)]
pub struct Interpreter {
    program: Program,
    orders: BTreeMap<String, Vec<NodeId>>,
    derived: BTreeMap<String, Vec<NodeId>>,
    mode: Mode,
}

impl Interpreter {
    /// Makes a program ready.
    ///
    /// # Errors
    /// When the program is not sound.
    pub fn new(program: &Program, mode: Mode) -> Result<Self, InterpError> {
        verify(program)?;
        let mut program = program.clone();
        let order = |(name, graph): (&String, &mut Graph)| {
            let problem = |e: crate::GraphError| {
                InterpError::Verify(VerifyError::Graph { graph: name.clone(), problem: e.to_string() })
            };
            decompose_all(graph, |_| true).map_err(problem)?;
            Ok((name.clone(), graph.topological().map_err(problem)?))
        };
        let derived = program.derived.iter_mut().map(order).collect::<Result<_, InterpError>>()?;
        let orders = program.functions.iter_mut().chain(&mut program.entries).map(order);
        let orders = orders.collect::<Result<_, InterpError>>()?;
        Ok(Interpreter { program, orders, derived, mode })
    }

    /// The value of a derived parameter. `params` hands out those that it follows from.
    ///
    /// # Errors
    /// When there is no such derived parameter, or one that it follows from is absent or of another type.
    pub fn derive(&self, name: &str, params: &dyn Fn(&str) -> Option<Tensor>) -> Result<Tensor, InterpError> {
        let missing = || InterpError::NoParam(name.into());
        let (graph, order) = self.program.derived.get(name).zip(self.derived.get(name)).ok_or_else(missing)?;
        let bindings = Bindings::solve(&BTreeMap::new(), &[])?;
        let states = BTreeMap::new();
        let mut call = Call { interpreter: self, bindings, params, states: &states, written: BTreeMap::new() };
        call.graph(name, graph, order, &[])?.into_iter().next().ok_or_else(missing)
    }

    /// Runs an entry point. `params` hands out parameters by name. `states` hold what earlier calls left (a state that is
    /// absent is zeros) and get what this call writes. A derived parameter that `params` has not is computed. Symbols take their values from the shapes of arguments and states.
    /// Results are in the order of the graph's.
    ///
    /// # Errors
    /// When arguments, parameters or states do not fit the entry point, or a size turns out negative or too large.
    pub fn run(
        &self,
        entry: &str,
        args: &[Tensor],
        params: &dyn Fn(&str) -> Option<Tensor>,
        states: &mut BTreeMap<String, Tensor>,
    ) -> Result<Vec<Tensor>, InterpError> {
        let graph = self.program.entries.get(entry).ok_or_else(|| InterpError::NoEntry(entry.into()))?;
        let arg_nodes = graph.args();
        if arg_nodes.len() != args.len() {
            return Err(InterpError::ArgumentCount {
                entry: entry.into(),
                expected: arg_nodes.len(),
                found: args.len(),
            });
        }
        let mut sizes = Vec::new();
        for (&node, arg) in arg_nodes.iter().zip(args) {
            if let Op::Arg { name, ty, .. } = &graph.node(node).op {
                collect_sizes(ty, arg, || format!("argument `{name}`"), &mut sizes)?;
            }
        }
        for (name, state) in states.iter() {
            if let Some(ty) = self.program.states.get(name) {
                collect_sizes(ty, state, || format!("state `{name}`"), &mut sizes)?;
            }
        }
        let bindings = Bindings::solve(&self.program.symbols, &sizes)?;
        let mut call = Call { interpreter: self, bindings, params, states, written: BTreeMap::new() };
        let results = call.graph(entry, graph, self.order(entry), args)?;
        let written = call.written;
        states.extend(written);
        Ok(results)
    }

    fn order(&self, graph: &str) -> &[NodeId] {
        self.orders.get(graph).map(Vec::as_slice).unwrap_or_default()
    }

    /// [`Interpreter::run`] for an entry point without parameters and states.
    ///
    /// # Errors
    /// As [`Interpreter::run`].
    pub fn run_pure(&self, entry: &str, args: &[Tensor]) -> Result<Vec<Tensor>, InterpError> {
        self.run(entry, args, &|_| None, &mut BTreeMap::new())
    }
}

/// Each dimension of `ty` with the size it has in `tensor`.
fn collect_sizes(
    ty: &Type,
    tensor: &Tensor,
    place: impl Fn() -> String,
    out: &mut Vec<(Dim, usize, String)>,
) -> Result<(), InterpError> {
    if ty.dtype != tensor.dtype() || ty.rank() != tensor.shape().len() {
        let found = Type::new(tensor.dtype(), tensor.shape().iter().copied());
        return Err(InterpError::WrongType { place: place(), expected: ty.clone(), found });
    }
    for (i, (dim, &size)) in ty.shape.iter().zip(tensor.shape()).enumerate() {
        out.push((dim.clone(), size, format!("{}, axis {i}", place())));
    }
    Ok(())
}

/// One run of an entry point.
struct Call<'a> {
    interpreter: &'a Interpreter,
    bindings: Bindings,
    params: &'a dyn Fn(&str) -> Option<Tensor>,
    states: &'a BTreeMap<String, Tensor>,
    written: BTreeMap<String, Tensor>,
}

impl Call<'_> {
    /// Runs a graph on arguments of its argument types. Values go as soon as their last user ran.
    fn graph(
        &mut self,
        name: &str,
        graph: &Graph,
        order: &[NodeId],
        args: &[Tensor],
    ) -> Result<Vec<Tensor>, InterpError> {
        let mut values: BTreeMap<Value, (Tensor, usize)> = BTreeMap::new();
        for &id in order {
            let node = graph.node(id);
            let error = |problem: String| InterpError::Node {
                graph: name.into(),
                path: node.path.to_string(),
                op: node.op.name(),
                problem,
            };
            let mut operands = Vec::new();
            for value in graph.inputs(id) {
                let (tensor, users) = values.get_mut(&value).ok_or_else(|| error("operand not computed".into()))?;
                operands.push(tensor.clone());
                *users -= 1;
                if *users == 0 {
                    values.remove(&value);
                }
            }
            let results = self.node(&node.op, &node.types, operands, args).map_err(|e| match e {
                Failed::Here(problem) => error(problem),
                Failed::Inside(e) => e,
            })?;
            for (i, result) in results.into_iter().enumerate() {
                let value = Value { node: id, result: i as u32 };
                let users = graph.users(value).len() + graph.results().iter().filter(|(_, v)| *v == value).count();
                if users > 0 {
                    values.insert(value, (result, users));
                }
            }
        }
        let missing =
            |result: &str| InterpError::Shape { place: format!("result `{result}`"), problem: "no value".into() };
        graph
            .results()
            .iter()
            .map(|(name, v)| values.get(v).map(|(t, _)| t.clone()).ok_or_else(|| missing(name)))
            .collect()
    }

    fn node(&mut self, op: &Op, types: &[Type], operands: Vec<Tensor>, args: &[Tensor]) -> Result<Vec<Tensor>, Failed> {
        let result = match op {
            Op::Arg { index, .. } => args.get(*index).cloned().ok_or("no such argument".to_string())?,
            Op::Param { name, ty } => {
                let param = match (self.params)(name) {
                    Some(param) => param,
                    None => self.interpreter.derive(name, self.params).map_err(Failed::Inside)?,
                };
                self.checked(param, ty, || format!("parameter `{name}`"))?
            }
            Op::StateRead { name, ty } => match self.states.get(name) {
                Some(state) => self.checked(state.clone(), ty, || format!("state `{name}`"))?,
                None => Tensor::zeros(ty.dtype, &self.bindings.shape(&ty.shape)?).map_err(|e| e.to_string())?,
            },
            Op::StateWrite { name } => {
                let value = operands.into_iter().next().ok_or("no operand".to_string())?;
                self.written.insert(name.clone(), value.clone());
                value
            }
            Op::Call { function, .. } => {
                let interpreter = self.interpreter;
                let graph =
                    interpreter.program.functions.get(function).ok_or_else(|| format!("no function `{function}`"))?;
                return self.graph(function, graph, interpreter.order(function), &operands).map_err(Failed::Inside);
            }
            _ => evaluate(op, types, &operands, &self.bindings, self.interpreter.mode)?,
        };
        Ok(vec![result])
    }

    /// A tensor from outside, when it is of this type.
    fn checked(&self, tensor: Tensor, ty: &Type, place: impl Fn() -> String) -> Result<Tensor, Failed> {
        let shape = self.bindings.shape(&ty.shape)?;
        if tensor.dtype() == ty.dtype && tensor.shape() == shape {
            return Ok(tensor);
        }
        let found = Type::new(tensor.dtype(), tensor.shape().iter().copied());
        Err(Failed::Inside(InterpError::WrongType { place: place(), expected: ty.clone(), found }))
    }
}

/// Where a node's failure belongs: to it, or to something that says so itself.
enum Failed {
    Here(String),
    Inside(InterpError),
}

impl From<String> for Failed {
    fn from(problem: String) -> Self {
        Failed::Here(problem)
    }
}
