//! The trace: the graph being recorded, the path at which it is recorded, and the parameters asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use lith_ir::graph::GraphError;
use lith_ir::infer::TypeError;
use lith_ir::{DType, Dim, Graph, Literal, Op, Program, Symbol, SymbolInfo, Symbols, Type, Value};

use crate::{Tensor, TraceError};

/// A recording in progress; clones share it.
///
/// Operators cannot return errors, so the first misfit is kept and everything computed from it is ignored;
/// [`Trace::finish`] tells it.
#[derive(Clone, Debug)]
pub struct Trace(Rc<RefCell<Recorder>>);

#[derive(Debug)]
struct Recorder {
    name: String,
    dtype: DType,
    graph: Graph,
    symbols: Symbols,
    params: BTreeMap<String, (Type, Value)>,
    states: BTreeMap<String, Type>,
    arguments: Vec<String>,
    dropout: Option<Dropout>,
    on_linear: Option<OnLinear>,
    path: Rc<str>,
    error: Option<TraceError>,
}

/// What chance is drawn from.
#[derive(Debug)]
struct Dropout {
    key: Value,
    /// How often it was.
    uses: usize,
}

/// What is called with each linear layer of a trace.
#[derive(Clone)]
struct OnLinear(Rc<Adapt>);

/// From a linear layer and its scope to what its output is to be.
type Adapt = dyn Fn(&Scope, LinearLayer<'_>) -> Tensor;

/// A linear layer that was recorded.
#[derive(Debug)]
pub struct LinearLayer<'a> {
    /// What goes in, `[.., in]`.
    pub x: &'a Tensor,
    /// What it is multiplied by, `[out, in]`.
    pub weight: &'a Tensor,
    /// What is added, `[out]`.
    pub bias: Option<&'a Tensor>,
    /// What comes out, `[.., out]`.
    pub y: Tensor,
    /// `[out, in]`.
    pub shape: [usize; 2],
}

impl std::fmt::Debug for OnLinear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnLinear")
    }
}

impl Trace {
    /// An empty trace of a program of this name whose parameters have this element type.
    pub fn new(name: &str, dtype: DType) -> Self {
        Trace(Rc::new(RefCell::new(Recorder {
            name: name.into(),
            dtype,
            graph: Graph::new(),
            symbols: Symbols::new(),
            params: BTreeMap::new(),
            states: BTreeMap::new(),
            arguments: Vec::new(),
            dropout: None,
            on_linear: None,
            path: "".into(),
            error: None,
        })))
    }

    /// Whether both are the same recording.
    pub(crate) fn is(&self, other: &Trace) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// The element type of parameters.
    pub fn dtype(&self) -> DType {
        self.0.borrow().dtype
    }

    /// A dimension that gets its value when the program runs.
    pub fn symbol(&self, name: &str, info: SymbolInfo) -> Dim {
        let symbol = Symbol::new(name);
        let known = self.0.borrow_mut().symbols.insert(symbol.clone(), info).is_some();
        if known {
            self.fail(|path| TraceError::Duplicate { path, what: "symbol", name: name.into() });
        }
        Dim::symbol(&symbol)
    }

    /// The next argument of the entry point.
    pub fn argument(&self, name: &str, dtype: DType, shape: impl IntoIterator<Item = impl Into<Dim>>) -> Tensor {
        let index = {
            let mut recorder = self.0.borrow_mut();
            recorder.arguments.push(name.into());
            recorder.arguments.len() - 1
        };
        if self.0.borrow().arguments[..index].iter().any(|other| other == name) {
            return self.fail(|path| TraceError::Duplicate { path, what: "argument", name: name.into() });
        }
        self.record(Op::Arg { index, name: name.into(), ty: Type::new(dtype, shape) }, &[])
    }

    /// Makes a tensor a result of the entry point.
    pub fn result(&self, name: &str, tensor: &Tensor) {
        let Some(value) = tensor.value() else { return };
        if self.0.borrow().graph.results().iter().any(|(other, _)| other == name) {
            self.fail(|path| TraceError::Duplicate { path, what: "result", name: name.into() });
        } else {
            self.0.borrow_mut().graph.add_result(name, value);
        }
    }

    /// A constant.
    pub fn constant(&self, value: Literal) -> Tensor {
        self.record(Op::Const { value }, &[])
    }

    /// A tensor of this shape whose elements are their index along `axis`.
    pub fn iota(&self, shape: &[Dim], axis: usize, dtype: DType) -> Tensor {
        self.record(Op::Iota { shape: shape.to_vec(), axis, dtype }, &[])
    }

    /// The value of a dimension as a scalar.
    pub fn size(&self, dim: Dim, dtype: DType) -> Tensor {
        self.record(Op::Size { dim }, &[]).cast(dtype)
    }

    /// The value that the state `name` has before the call. Each state is read once.
    pub fn state_read(&self, name: &str, dtype: DType, shape: impl IntoIterator<Item = impl Into<Dim>>) -> Tensor {
        let ty = Type::new(dtype, shape);
        let known = self.0.borrow_mut().states.insert(name.into(), ty.clone()).is_some();
        if known {
            return self.fail(|path| TraceError::Duplicate { path, what: "state", name: name.into() });
        }
        self.record(Op::StateRead { name: name.into(), ty }, &[])
    }

    /// Makes a tensor the value of the state `name` after the call.
    pub fn state_write(&self, name: &str, tensor: &Tensor) {
        self.record(Op::StateWrite { name: name.into() }, &[tensor]);
    }

    /// From here on [`Tensor::dropout`] drops: adds the argument `dropout_key u32[2]`, of which what is dropped is a function.
    pub fn start_dropout(&self) {
        let key = self.argument("dropout_key", DType::U32, [2i64]);
        if let Some(key) = key.value() {
            self.0.borrow_mut().dropout = Some(Dropout { key, uses: 0 });
        }
    }

    /// A key of its own for the next use of chance, if there is any.
    pub(crate) fn next_key(&self) -> Option<Tensor> {
        let (key, uses) = {
            let mut recorder = self.0.borrow_mut();
            let dropout = recorder.dropout.as_mut()?;
            dropout.uses += 1;
            (dropout.key, dropout.uses)
        };
        let ty = self.0.borrow().graph.try_ty(key).cloned()?;
        // By a stream of the call's key; the tensor itself is then of the same stream whichever use it is, so that layers
        // are alike.
        Some(
            self.record(Op::RandomBits { shape: vec![Dim::constant(2)], stream: uses }, &[&Tensor::new(self, key, ty)]),
        )
    }

    /// From here on every [`nn`](crate::nn) layer that multiplies by a weight `[out, in]` is shown to `f`, with its place; what
    /// `f` gives takes the place of what comes out.
    pub fn on_linear(&self, f: impl Fn(&Scope, LinearLayer<'_>) -> Tensor + 'static) {
        self.0.borrow_mut().on_linear = Some(OnLinear(Rc::new(f)));
    }

    /// The scope of the whole model: no path, names as they are.
    pub fn root(&self) -> Scope {
        Scope { trace: self.clone(), path: "".into(), names: String::new() }
    }

    /// Ends the recording: a program with the one entry point `entry`.
    ///
    /// # Errors
    /// The first misfit, with its model path and types.
    pub fn finish(self, entry: &str) -> Result<Program, TraceError> {
        let mut recorder = self.0.borrow_mut();
        // It may hold tensors, which hold the trace.
        let _hook = recorder.on_linear.take();
        if let Some(error) = recorder.error.take() {
            return Err(error);
        }
        let mut program = Program::new(&recorder.name);
        program.symbols = std::mem::take(&mut recorder.symbols);
        program.params = std::mem::take(&mut recorder.params).into_iter().map(|(name, (ty, _))| (name, ty)).collect();
        program.states = std::mem::take(&mut recorder.states);
        program.entries.insert(entry.into(), std::mem::take(&mut recorder.graph));
        Ok(program)
    }

    /// Records a node with all its operands there.
    pub(crate) fn record(&self, op: Op, operands: &[&Tensor]) -> Tensor {
        self.record_with(op, &operands.iter().copied().map(Some).collect::<Vec<_>>())
    }

    /// Records a node; `None` is an absent optional operand. A misfit or an operand that is none makes the result none.
    pub(crate) fn record_with(&self, op: Op, operands: &[Option<&Tensor>]) -> Tensor {
        let name = op.name();
        let mut values = Vec::with_capacity(operands.len());
        for operand in operands {
            match operand {
                None => values.push(None),
                Some(tensor) if !tensor.trace().is(self) => {
                    return self.fail(|path| TraceError::Foreign { path, op: name });
                }
                Some(tensor) => match tensor.value() {
                    Some(value) => values.push(Some(value)),
                    None => return Tensor::none(self),
                },
            }
        }
        let added = {
            let mut recorder = self.0.borrow_mut();
            let path = recorder.path.clone();
            let node = recorder.graph.add_with(op, &values, &path).map(Value::from);
            node.map(|value| (value, recorder.graph.ty(value).clone()))
        };
        match added {
            Ok((value, ty)) => Tensor::new(self, value, ty),
            Err(error) => self.fail(|_| error.into()),
        }
    }

    /// Records that something does not fit before a node could be made of it: nothing, and an error at the end.
    pub fn misfit(&self, op: &'static str, problem: String) -> Tensor {
        self.fail(|path| GraphError::Type { path, source: TypeError { op, problem } }.into())
    }

    fn fail(&self, error: impl FnOnce(String) -> TraceError) -> Tensor {
        let mut recorder = self.0.borrow_mut();
        if recorder.error.is_none() {
            recorder.error = Some(error(recorder.path.to_string()));
        }
        Tensor::none(self)
    }
}

/// A place in the model: the path that nodes get and the prefix of parameter names.
#[derive(Clone, Debug)]
pub struct Scope {
    trace: Trace,
    path: Rc<str>,
    names: String,
}

impl Scope {
    /// The trace.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The model path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The full name of the parameter `name` of this place.
    pub fn name(&self, name: &str) -> String {
        join(&self.names, name)
    }

    /// Runs `f` in the place `name` within this one; an empty name is this place. What `f` records has its path.
    pub fn at<R>(&self, name: &str, f: impl FnOnce(&Scope) -> R) -> R {
        self.shared(name, name, f)
    }

    /// As [`Scope::at`] where several places of the model share parameters: nodes get the path `place`, parameters
    /// are named by `names`.
    pub fn shared<R>(&self, place: &str, names: &str, f: impl FnOnce(&Scope) -> R) -> R {
        let scope =
            Scope { trace: self.trace.clone(), path: join(&self.path, place).into(), names: join(&self.names, names) };
        let before = std::mem::replace(&mut self.trace.0.borrow_mut().path, scope.path.clone());
        let result = f(&scope);
        self.trace.0.borrow_mut().path = before;
        result
    }

    /// What comes out of the linear layer of this place, see [`Trace::on_linear`].
    pub(crate) fn linear_layer(&self, layer: LinearLayer<'_>) -> Tensor {
        let on_linear = self.trace.0.borrow().on_linear.clone();
        match on_linear {
            Some(OnLinear(f)) => f(self, layer),
            None => layer.y,
        }
    }

    /// The parameter `name` of this place, in the trace's element type. Asking again gives the same value.
    pub fn param(&self, name: &str, shape: impl IntoIterator<Item = impl Into<Dim>>) -> Tensor {
        let name = self.name(name);
        let ty = Type::new(self.trace.dtype(), shape);
        let known = self.trace.0.borrow().params.get(&name).cloned();
        match known {
            Some((first, value)) if first == ty => Tensor::new(&self.trace, value, ty),
            Some((first, _)) => self.trace.fail(|path| TraceError::Parameter { path, name, first, second: ty }),
            None => {
                let tensor = self.trace.record(Op::Param { name: name.clone(), ty: ty.clone() }, &[]);
                if let Some(value) = tensor.value() {
                    self.trace.0.borrow_mut().params.insert(name, (ty, value));
                }
                tensor
            }
        }
    }
}

fn join(prefix: &str, name: &str) -> String {
    match (prefix, name) {
        ("", name) => name.into(),
        (prefix, "") => prefix.into(),
        (prefix, name) => format!("{prefix}.{name}"),
    }
}
