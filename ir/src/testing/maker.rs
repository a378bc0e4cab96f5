//! Builds one case: sizes, symbols, arguments and parameters with random values. A fault in here is a fault of the tests,
//! so building panics with the error at hand.

use std::collections::BTreeMap;

use super::Case;
use crate::build::{Builder, Built};
use crate::dim::{Dim, Symbol, SymbolInfo};
use crate::dtype::DType;
use crate::graph::{Graph, Value};
use crate::interp::Tensor;
use crate::op::Op;
use crate::program::Program;
use crate::types::Type;

/// A small deterministic generator of random numbers (SplitMix64: Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that always gives the same sequence for the same seed.
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// True with probability 1 to `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A number between `low` and `high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Which values an input gets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values {
    /// Small numbers of both signs (integers: up to 9).
    Small,
    /// Positive numbers from 0.1 to 4 (integers: 1 to 9).
    Positive,
    /// Anything: NaN, infinities, signed zeros, subnormals, halves, the ends of the integers.
    Any,
    /// Integers from `low` to `high`, both included.
    Range(i64, i64),
}

/// A size of an axis: how it is written and what it is.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub dim: Dim,
    pub size: usize,
}

/// A case in the making.
pub(super) struct Maker<'r> {
    pub rng: &'r mut Rng,
    pub program: Program,
    pub graph: Graph,
    pub args: Vec<Tensor>,
    pub params: BTreeMap<String, Tensor>,
    pub states: BTreeMap<String, Tensor>,
}

impl<'r> Maker<'r> {
    pub fn new(rng: &'r mut Rng) -> Self {
        Maker {
            rng,
            program: Program::new("case"),
            graph: Graph::new(),
            args: Vec::new(),
            params: BTreeMap::new(),
            states: BTreeMap::new(),
        }
    }

    /// An axis of this size, its dimension a new symbol by chance. A symbol must occur in an argument's shape.
    pub fn axis_of(&mut self, size: usize) -> Axis {
        if self.rng.one_in(2) { self.symbolic(size) } else { fixed(size) }
    }

    /// An axis of this size whose dimension is a new symbol.
    pub fn symbolic(&mut self, size: usize) -> Axis {
        let symbol = Symbol::new(&format!("s{}", self.program.symbols.len()));
        self.program.symbols.insert(symbol.clone(), SymbolInfo::default());
        Axis { dim: Dim::symbol(&symbol), size }
    }

    /// An axis of random size, with 0, 1 and odd ones more often than in nature.
    pub fn axis(&mut self) -> Axis {
        let size = self.size();
        self.axis_of(size)
    }

    pub fn size(&mut self) -> usize {
        self.rng.pick(&[0, 1, 1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 31, 33])
    }

    /// A small shape of some rank.
    pub fn shape(&mut self, rank: usize) -> Vec<Axis> {
        (0..rank).map(|_| self.axis()).collect()
    }

    /// A small shape of 0 to 3 axes.
    pub fn any_shape(&mut self) -> Vec<Axis> {
        let rank = self.rng.below(4);
        self.shape(rank)
    }

    pub fn build(&mut self) -> Builder<'_> {
        Builder::new(&mut self.graph, "block.op")
    }

    pub fn op(&mut self, op: Op, operands: &[Value]) -> Value {
        built(self.build().op(op, operands))
    }

    pub fn arg(&mut self, dtype: DType, shape: &[Axis], values: Values) -> Value {
        let tensor = self.tensor(dtype, shape, values);
        self.arg_of(tensor, shape)
    }

    /// An argument of this value.
    pub fn arg_of(&mut self, tensor: Tensor, shape: &[Axis]) -> Value {
        let ty = ty(tensor.dtype(), shape);
        let name = format!("x{}", self.args.len());
        self.args.push(tensor);
        built(self.build().arg(&name, ty))
    }

    /// A parameter; sizes become constants, as they are on disk.
    pub fn param(&mut self, dtype: DType, shape: &[Axis], values: Values) -> Value {
        let name = format!("layer.{}.weight", self.params.len());
        let fixed: Vec<Axis> = shape.iter().map(|a| fixed(a.size)).collect();
        let tensor = self.tensor(dtype, &fixed, values);
        self.program.params.insert(name.clone(), ty(dtype, &fixed));
        self.params.insert(name.clone(), tensor);
        built(self.build().param(&name, ty(dtype, &fixed)))
    }

    pub fn tensor(&mut self, dtype: DType, shape: &[Axis], values: Values) -> Tensor {
        let sizes: Vec<usize> = shape.iter().map(|a| a.size).collect();
        let count = sizes.iter().product();
        let tensor = if dtype.is_float() {
            Tensor::floats(dtype, &sizes, (0..count).map(|_| self.float(values)).collect())
        } else {
            Tensor::ints(dtype, &sizes, (0..count).map(|_| self.int(dtype, values)).collect())
        };
        tensor.unwrap_or_else(|e| panic!("test tensor: {e}"))
    }

    fn float(&mut self, values: Values) -> f64 {
        const ODD: [f64; 16] = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            0.5,
            -0.5,
            1.5,
            2.5,
            300.5,
            -129.75,
            1e-41,
            -7e9,
            3e19,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ];
        match values {
            Values::Small => self.rng.between(-2.0, 2.0),
            Values::Positive => self.rng.between(0.1, 4.0),
            Values::Any if self.rng.one_in(2) => self.rng.pick(&ODD),
            Values::Any => self.rng.between(-30.0, 30.0),
            Values::Range(low, high) => low as f64 + self.rng.below((high - low + 1) as usize) as f64,
        }
    }

    fn int(&mut self, dtype: DType, values: Values) -> i64 {
        let (min, max) = dtype.int_range().unwrap_or((0, 1));
        let (low, high) = match values {
            Values::Small => (-9, 9),
            Values::Positive => (1, 9),
            Values::Any if self.rng.one_in(2) => return self.rng.pick(&[min, max, min / 2 - 1, 0, 1]).max(min),
            Values::Any => return dtype.wrap(self.rng.bits() as i64),
            Values::Range(low, high) => (low, high),
        };
        (low + self.rng.below((high - low + 1) as usize) as i64).clamp(min, max)
    }

    /// The case with these results.
    pub fn finish(mut self, name: &str, results: &[Value], tolerance: f64) -> Case {
        for (i, value) in results.iter().enumerate() {
            self.graph.add_result(&format!("y{i}"), *value);
        }
        let shapes: Vec<String> = self.args.iter().map(|a| format!("{}{:?}", a.dtype(), a.shape())).collect();
        self.program.entries.insert("main".into(), self.graph);
        Case {
            name: format!("{name} of {}", shapes.join(", ")),
            program: self.program,
            args: self.args,
            params: self.params,
            states: self.states,
            tolerance,
        }
    }
}

/// An axis of constant size.
pub(super) fn fixed(size: usize) -> Axis {
    Axis { dim: Dim::from(size), size }
}

pub(super) fn dims(shape: &[Axis]) -> Vec<Dim> {
    shape.iter().map(|a| a.dim.clone()).collect()
}

pub(super) fn ty(dtype: DType, shape: &[Axis]) -> Type {
    Type { dtype, shape: dims(shape) }
}

pub(super) fn built(result: Built) -> Value {
    result.unwrap_or_else(|e| panic!("test graph: {e}"))
}
