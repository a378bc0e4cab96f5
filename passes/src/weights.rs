//! Which values are known when weights are packed: parameters, arguments that are parameters at every call, and what is
//! computed from those and from constants alone. Knows no rule and no cost.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use lith_ir::quant::Storage;
use lith_ir::{Binary, Class, Graph, Op, Program, Type, Unary, Value};

use crate::quantize::bits_per_weight;
use crate::saturate::Numeric;

/// A value that is known when weights are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// How it is stored: equal numbers in one graph stand for equal storage at every call. 0 is what nothing special was
    /// asked for: plain floats, that may be computed with. Others are codes, or floats that a file brought: they can be put
    /// one after the other, and rounding anything made of them again would change them.
    pub stored: u32,
    /// Whether something else reads it too, so that a value made of it lies beside it in memory. Only matrices count.
    pub shared: bool,
}

/// When a value is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Known {
    /// When the program runs.
    #[default]
    Running,
    /// As soon as the program is: it depends on no parameter.
    Constant,
    /// When weights are packed.
    Packing(Weight),
}

impl Known {
    /// The weight, if it is one.
    pub fn weight(self) -> Option<Weight> {
        match self {
            Known::Packing(weight) => Some(weight),
            Known::Running | Known::Constant => None,
        }
    }

    /// What is known of a value about which two things are known.
    pub fn and(self, other: Known) -> Known {
        match (self, other) {
            (Known::Constant, _) | (_, Known::Constant) => Known::Constant,
            (Known::Packing(a), Known::Packing(b)) => {
                // The easier to compute with; what is made is read by nothing else yet.
                let easier = |w: &Weight| (w.stored, w.shared);
                Known::Packing(if easier(&a) <= easier(&b) { a } else { b })
            }
            (Known::Packing(w), Known::Running) | (Known::Running, Known::Packing(w)) => Known::Packing(w),
            (Known::Running, Known::Running) => Known::Running,
        }
    }
}

/// When the result of an op is known, of type `ty` and on operands of which this is known. `allowed` is how much numbers may
/// change: sums come out in another order than in compiled code.
pub fn known_after(op: &Op, operands: &[Known], ty: &Type, allowed: Numeric) -> Known {
    let weights: Vec<Weight> = operands.iter().filter_map(|k| k.weight()).collect();
    let exact = match op {
        Op::Const { .. } | Op::Iota { .. } => return Known::Constant,
        Op::Binary { f } => !matches!(f, Binary::Pow | Binary::Rem),
        Op::Unary { f } => {
            !matches!(f, Unary::Exp | Unary::Log | Unary::Sin | Unary::Cos | Unary::Tanh | Unary::Erf | Unary::Rsqrt)
        }
        Op::Compare { .. }
        | Op::Select {}
        | Op::Cast { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Broadcast { .. }
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Pad { .. }
        | Op::Gather { .. } => true,
        op => match op.class() {
            Class::Source | Class::Control => return Known::Running,
            Class::Primitive | Class::Composite => false,
        },
    };
    if operands.is_empty() || operands.contains(&Known::Running) || ty.static_shape().is_none() {
        return Known::Running;
    }
    let Some(first) = weights.first() else { return Known::Constant };
    let alike = weights.iter().all(|w| w.stored == first.stored);
    let rows = matches!(op, Op::Concat { axis: 0 }) && weights.len() == operands.len() && alike;
    let plain = weights.iter().all(|w| w.stored == 0) && (exact || allowed != Numeric::Exact);
    if weights.iter().any(|w| w.shared) || !(rows || plain) {
        return Known::Running;
    }
    Known::Packing(*first)
}

/// The weights of one graph.
#[derive(Clone, Debug, Default)]
pub struct GraphWeights {
    params: BTreeMap<String, Weight>,
    args: BTreeMap<usize, Weight>,
    /// How much numbers may change.
    pub allowed: Numeric,
}

impl GraphWeights {
    /// Forgets which weights something else reads too.
    pub fn settle(&mut self) {
        for weight in self.params.values_mut().chain(self.args.values_mut()) {
            weight.shared = false;
        }
    }

    /// When the value that a source brings is known.
    pub fn source(&self, op: &Op) -> Known {
        let weight = match op {
            Op::Param { name, .. } => Some(self.params.get(name).copied().unwrap_or_default()),
            Op::Arg { index, .. } => self.args.get(index).copied(),
            Op::Const { .. } | Op::Iota { .. } => return Known::Constant,
            _ => None,
        };
        weight.map_or(Known::Running, Known::Packing)
    }
}

/// The calls of each function: the graph where one stands, and what it gives.
type Calls<'p> = BTreeMap<&'p str, Vec<(&'p str, &'p Graph, Vec<Value>)>>;

fn calls(program: &Program) -> Calls<'_> {
    let mut calls = Calls::new();
    for (name, graph) in program.graphs() {
        for node in graph.petgraph().node_indices() {
            if let Op::Call { function, .. } = &graph.node(node).op {
                calls.entry(function).or_default().push((name, graph, graph.inputs(node)));
            }
        }
    }
    calls
}

/// How many bytes an element of each matrix of weights takes as it is stored, where that is not what its type says.
#[derive(Clone, Debug, Default)]
pub struct ElementBytes {
    params: HashMap<String, f64>,
    /// By function and argument: of the widest that any call gives.
    args: HashMap<(String, usize), f64>,
}

impl ElementBytes {
    /// Those of a program; `stored` as for [`find`].
    pub fn of(program: &Program, stored: &BTreeMap<String, Storage>) -> ElementBytes {
        let mut found = ElementBytes::default();
        if stored.is_empty() {
            return found;
        }
        let mut bytes_of = |name: &str, storages: &[Option<&Storage>]| {
            let ty = program.param_type(name).filter(|ty| ty.rank() >= 2);
            let columns = ty.and_then(|ty| usize::try_from(ty.shape.last()?.as_const()?).ok());
            // What is made of parameters that are stored in several ways is stored as its type says.
            let alike = storages.windows(2).all(|w| w[0] == w[1]);
            let bytes = match storages.first().copied().flatten().filter(|_| alike).zip(columns) {
                Some((Storage::Float(dtype), _)) => dtype.size() as f64,
                Some((Storage::Quantized(scheme), columns)) => bits_per_weight(scheme, columns) / 8.0,
                None => return,
            };
            found.params.insert(name.into(), bytes);
        };
        for name in program.params.keys() {
            bytes_of(name, &[stored.get(name)]);
        }
        for (name, graph) in &program.derived {
            let sources = graph.petgraph().node_weights().filter_map(|node| match &node.op {
                Op::Param { name, .. } => Some(stored.get(name)),
                _ => None,
            });
            bytes_of(name, &sources.collect::<Vec<_>>());
        }
        for ((function, index), params) in leaves(program) {
            let all: Option<Vec<f64>> =
                params.unwrap_or_default().into_iter().map(|p| found.params.get(p).copied()).collect();
            if let Some(widest) = all.and_then(|all| all.into_iter().reduce(f64::max)) {
                found.args.insert((function.into(), index), widest);
            }
        }
        found
    }

    /// Of the matrix that a source of graph `name` brings.
    pub fn of_weight(&self, name: &str, op: &Op) -> Option<f64> {
        match op {
            Op::Param { name, .. } => self.params.get(name).copied(),
            Op::Arg { index, .. } if !self.args.is_empty() => self.args.get(&(name.to_string(), *index)).copied(),
            _ => None,
        }
    }
}

/// The weights of every graph of a program, by name. `stored` has the parameters that are not stored as plain floats of the
/// type that is the default.
pub fn find(program: &Program, stored: &BTreeMap<String, Storage>, allowed: Numeric) -> BTreeMap<String, GraphWeights> {
    let leaves = leaves(program);
    // Who reads each parameter, calls aside: the first, and whether there are others. Only matrices count.
    type Reader<'p> = (&'p str, lith_ir::NodeId, usize);
    let mut readers: HashMap<&str, (Reader<'_>, bool)> = HashMap::new();
    for (name, graph) in program.graphs() {
        for node in graph.petgraph().node_indices().filter(|&n| is_matrix(graph, n)) {
            let Some(params) = params_of(name, &graph.node(node).op, &leaves) else { continue };
            let users = graph.users(node.into());
            let reads = users.into_iter().filter(|(user, _)| !matches!(graph.node(*user).op, Op::Call { .. }));
            for (user, operand) in reads {
                let read = (name, user, operand);
                for &param in params.iter() {
                    let (first, others) = readers.entry(param).or_insert((read, false));
                    *others |= *first != read;
                }
            }
        }
    }
    let mut kinds: Vec<Vec<Option<Storage>>> = Vec::new();
    let mut weight = |params: &[&str], matrix: bool| {
        let is_plain = stored.is_empty() || params.iter().all(|&p| !stored.contains_key(p));
        let stored = if is_plain {
            0
        } else {
            let kind: Vec<Option<Storage>> = params.iter().map(|&p| stored.get(p).copied()).collect();
            let known = kinds.iter().position(|k| *k == kind);
            1 + known.unwrap_or_else(|| {
                kinds.push(kind);
                kinds.len() - 1
            })
        };
        let shared = matrix && params.iter().any(|p| readers.get(p).is_some_and(|(_, others)| *others));
        Weight { stored: u32::try_from(stored).unwrap_or(u32::MAX), shared }
    };
    let mut found = BTreeMap::new();
    for (name, graph) in program.graphs() {
        let mut here = GraphWeights { allowed, ..GraphWeights::default() };
        for node in graph.petgraph().node_indices() {
            let op = &graph.node(node).op;
            let Some(params) = params_of(name, op, &leaves) else { continue };
            let weight = weight(&params, is_matrix(graph, node));
            match op {
                // There may be thousands.
                Op::Param { .. } if weight == Weight::default() => {}
                Op::Param { name, .. } => drop(here.params.insert(name.clone(), weight)),
                Op::Arg { index, .. } => drop(here.args.insert(*index, weight)),
                _ => {}
            }
        }
        found.insert(name.to_string(), here);
    }
    found
}

fn is_matrix(graph: &Graph, node: lith_ir::NodeId) -> bool {
    graph.node(node).types.first().is_some_and(|ty| ty.rank() >= 2)
}

/// For each argument of a function the parameters that it is, call by call; `None` for one that is something else at some
/// call.
pub(crate) type Leaves<'p> = BTreeMap<(&'p str, usize), Option<Vec<&'p str>>>;

pub(crate) fn leaves(program: &Program) -> Leaves<'_> {
    let calls = calls(program);
    let mut leaves = Leaves::new();
    for (name, graph) in &program.functions {
        for index in 0..graph.args().len() {
            leaves_of(name, index, &calls, &mut leaves);
        }
    }
    leaves
}

/// The parameters that a source of graph `name` is.
pub(crate) fn params_of<'l, 'p: 'l>(name: &'p str, op: &'p Op, leaves: &'l Leaves<'p>) -> Option<Cow<'l, [&'p str]>> {
    match op {
        Op::Param { name, .. } => Some(Cow::Owned(vec![name.as_str()])),
        Op::Arg { index, .. } => leaves.get(&(name, *index))?.as_deref().map(Cow::Borrowed),
        _ => None,
    }
}

/// The parameters that an argument of a function is, call by call.
fn leaves_of<'p>(function: &'p str, index: usize, calls: &Calls<'p>, known: &mut Leaves<'p>) -> Option<Vec<&'p str>> {
    if let Some(found) = known.get(&(function, index)) {
        return found.clone();
    }
    // What nobody calls is an entry point, whose arguments come when the program runs.
    let called = calls.get(function).map(Vec::as_slice).unwrap_or_default();
    let mut params = (!called.is_empty()).then(Vec::new);
    for (caller, graph, given) in called {
        let more = given.get(index).and_then(|v| match &graph.node(v.node).op {
            Op::Param { name, .. } => Some(vec![name.as_str()]),
            Op::Arg { index, .. } => leaves_of(caller, *index, calls, known),
            _ => None,
        });
        params = params.zip(more).map(|(mut all, more)| {
            all.extend(more);
            all
        });
    }
    known.insert((function, index), params.clone());
    params
}
