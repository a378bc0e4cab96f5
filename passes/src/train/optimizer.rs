//! Optimizers as graphs: the formulas, sign conventions and order of operations of PyTorch's (`torch.optim`) and, for
//! Adafactor and Lion, of Transformers'. One optimizer, one arm.

use lith_ir::build::Built;
use lith_ir::{Binary, Builder, DType, Dim, GraphError, Op, Reduction, Type, Unary, Value};

use super::HYPERPARAMETERS;

/// How a gradient becomes a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optimizer {
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW,
    /// Adam (Kingma and Ba 2015); decay is added to the gradient.
    Adam,
    /// Stochastic gradient descent; `beta1` is the momentum, 0 for none. With `nesterov`, momentum looks ahead (Sutskever
    /// et al. 2013).
    Sgd {
        /// Whether momentum looks ahead.
        nesterov: bool,
    },
    /// Adafactor with a given rate, without momentum (Shazeer and Stern 2018): `scale_parameter` and `relative_step` off.
    Adafactor,
    /// Lion (Chen et al. 2023).
    Lion,
    /// RMSprop; `beta2` is its smoothing factor.
    RmsProp,
    /// Adagrad (Duchi et al. 2011).
    Adagrad,
}

/// The scalars of a step, `f64` but where a field says otherwise.
pub(super) struct Scalars {
    rate: Value,
    decay: Value,
    beta1: Value,
    beta2: Value,
    /// `f32`
    epsilon: Value,
    step: Value,
    pub(super) max_grad_norm: Value,
}

impl Scalars {
    /// Adds [`HYPERPARAMETERS`] to the arguments of a graph.
    pub(super) fn arguments(b: &mut Builder<'_>) -> Result<Scalars, GraphError> {
        let mut values = Vec::new();
        for name in HYPERPARAMETERS {
            values.push(b.arg(name, Type::scalar(DType::F64))?);
        }
        let [rate, decay, beta1, beta2, epsilon, max_grad_norm, step] = values[..] else {
            unreachable!("one argument for each")
        };
        let epsilon = b.cast(epsilon, DType::F32)?;
        Ok(Scalars { rate, decay, beta1, beta2, epsilon, step, max_grad_norm })
    }
}

/// What an optimizer keeps for each element of a parameter.
const EXP_AVG: &str = "exp_avg";
const EXP_AVG_SQ: &str = "exp_avg_sq";
const MOMENTUM: &str = "momentum_buffer";
const SQUARE_AVG: &str = "square_avg";
const SUM: &str = "sum";
/// Adafactor keeps the means of rows and of columns of a matrix only.
const EXP_AVG_SQ_ROW: &str = "exp_avg_sq_row";
const EXP_AVG_SQ_COL: &str = "exp_avg_sq_col";

/// Adafactor: added to squared gradients, the exponent of its growing memory, and the greatest root mean square of a step.
const ADAFACTOR_EPS: f64 = 1e-30;
const ADAFACTOR_DECAY: f64 = -0.8;
const ADAFACTOR_CLIP: f64 = 1.0;

/// Name of the state `what` of a parameter.
fn state(what: &str, param: &str) -> String {
    format!("{param}/{what}")
}

impl Optimizer {
    /// Every optimizer by the names that Transformers has for it (`optim`, TA-09), its variants for other devices included:
    /// what they compute is the same.
    pub const NAMES: &'static [(&'static str, Optimizer)] = &[
        ("adamw_torch", Optimizer::AdamW),
        ("adamw_torch_fused", Optimizer::AdamW),
        ("adam", Optimizer::Adam),
        ("sgd", Optimizer::Sgd { nesterov: false }),
        ("sgd_nesterov", Optimizer::Sgd { nesterov: true }),
        ("adafactor", Optimizer::Adafactor),
        ("lion_32bit", Optimizer::Lion),
        ("rmsprop", Optimizer::RmsProp),
        ("adagrad", Optimizer::Adagrad),
    ];

    /// The optimizer of this name.
    pub fn from_name(name: &str) -> Option<Optimizer> {
        Optimizer::NAMES.iter().find(|(n, _)| *n == name).map(|(_, optimizer)| *optimizer)
    }

    /// The states that it keeps for a parameter, zeros at first.
    pub fn states(self, param: &str, ty: &Type) -> Vec<(String, Type)> {
        let like = |names: &[&str]| names.iter().map(|what| (state(what, param), ty.clone())).collect();
        match self {
            Optimizer::AdamW | Optimizer::Adam => like(&[EXP_AVG, EXP_AVG_SQ]),
            Optimizer::Sgd { .. } => like(&[MOMENTUM]),
            Optimizer::Lion => like(&[EXP_AVG]),
            Optimizer::RmsProp => like(&[SQUARE_AVG]),
            Optimizer::Adagrad => like(&[SUM]),
            Optimizer::Adafactor if ty.rank() < 2 => like(&[EXP_AVG_SQ]),
            Optimizer::Adafactor => {
                let (rows, cols) = factored(ty);
                vec![(state(EXP_AVG_SQ_ROW, param), rows), (state(EXP_AVG_SQ_COL, param), cols)]
            }
        }
    }

    /// The new value of a parameter from its value and gradient. States are read and written on the way.
    pub(super) fn update(
        self,
        b: &mut Builder<'_>,
        s: &Scalars,
        param: &str,
        value: Value,
        gradient: Value,
        decays: bool,
    ) -> Built {
        let mut p = Parameter { b, s, name: param, ty: Type::scalar(DType::F32) };
        p.ty = p.b.ty(value);
        match self {
            Optimizer::AdamW => {
                let value = if decays { p.decayed(value)? } else { value };
                p.adam(value, gradient)
            }
            Optimizer::Adam => {
                let gradient = if decays { p.with_decay(gradient, value)? } else { gradient };
                p.adam(value, gradient)
            }
            Optimizer::Sgd { nesterov } => {
                let gradient = if decays { p.with_decay(gradient, value)? } else { gradient };
                // buffer = momentum * buffer + g, from zeros as from nothing.
                let momentum = p.scalar(s.beta1)?;
                let buffer = p.read(MOMENTUM)?;
                let kept = p.b.mul(buffer, momentum)?;
                let buffer = p.b.add(kept, gradient)?;
                p.write(MOMENTUM, buffer)?;
                let direction = match nesterov {
                    true => {
                        let ahead = p.b.mul(buffer, momentum)?;
                        p.b.add(gradient, ahead)?
                    }
                    false => buffer,
                };
                let rate = p.scalar(s.rate)?;
                p.step_along(value, direction, rate)
            }
            Optimizer::Lion => {
                let value = if decays { p.decayed(value)? } else { value };
                let average = p.read(EXP_AVG)?;
                let between = p.lerp(average, gradient, s.beta1)?;
                let direction = p.b.unary(Unary::Sign, between)?;
                let average = p.lerp(average, gradient, s.beta2)?;
                p.write(EXP_AVG, average)?;
                let rate = p.scalar(s.rate)?;
                p.step_along(value, direction, rate)
            }
            Optimizer::RmsProp => {
                let gradient = if decays { p.with_decay(gradient, value)? } else { gradient };
                let average = p.moving_square(SQUARE_AVG, gradient)?;
                p.step_over_root(value, gradient, average)
            }
            Optimizer::Adagrad => {
                let gradient = if decays { p.with_decay(gradient, value)? } else { gradient };
                let (sum, square) = (p.read(SUM)?, p.b.mul(gradient, gradient)?);
                let sum = p.b.add(sum, square)?;
                p.write(SUM, sum)?;
                p.step_over_root(value, gradient, sum)
            }
            Optimizer::Adafactor => {
                let step = p.adafactor(gradient)?;
                let value = if decays { p.decayed(value)? } else { value };
                let rate = p.scalar(s.rate)?;
                p.step_along(value, step, rate)
            }
        }
    }
}

/// Types of the means of rows and of columns of the last two axes.
fn factored(ty: &Type) -> (Type, Type) {
    let rank = ty.rank();
    let without = |axis: usize| -> Vec<Dim> {
        ty.shape.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, d)| d.clone()).collect()
    };
    (Type::new(ty.dtype, without(rank - 1)), Type::new(ty.dtype, without(rank - 2)))
}

/// A parameter on its way.
struct Parameter<'a, 'g> {
    b: &'a mut Builder<'g>,
    s: &'a Scalars,
    name: &'a str,
    ty: Type,
}

impl Parameter<'_, '_> {
    /// An `f64` scalar at every element, rounded once.
    fn scalar(&mut self, x: Value) -> Built {
        let x = self.b.cast(x, self.ty.dtype)?;
        self.b.expand(x, &self.ty.shape)
    }

    fn read(&mut self, what: &str) -> Built {
        self.b.op(Op::StateRead { name: state(what, self.name), ty: self.ty.clone() }, &[])
    }

    fn write(&mut self, what: &str, x: Value) -> Result<(), GraphError> {
        self.b.op(Op::StateWrite { name: state(what, self.name) }, &[x]).map(drop)
    }

    /// `1 - x`
    fn rest(&mut self, x: Value) -> Built {
        let one = self.b.full_like(x, 1.0)?;
        self.b.sub(one, x)
    }

    /// `1 - beta^step`
    fn correction(&mut self, beta: Value) -> Built {
        let power = self.b.binary(Binary::Pow, beta, self.s.step)?;
        self.rest(power)
    }

    /// `average + (1 - beta) (x - average)`
    fn lerp(&mut self, average: Value, x: Value, beta: Value) -> Built {
        let rest = self.rest(beta)?;
        let rest = self.scalar(rest)?;
        let away = self.b.sub(x, average)?;
        let away = self.b.mul(away, rest)?;
        self.b.add(average, away)
    }

    /// `state = beta2 state + (1 - beta2) g^2`
    fn moving_square(&mut self, what: &str, gradient: Value) -> Built {
        let old = self.read(what)?;
        let (beta, rest) = (self.scalar(self.s.beta2)?, self.rest(self.s.beta2)?);
        let rest = self.scalar(rest)?;
        let kept = self.b.mul(old, beta)?;
        let square = self.b.mul(gradient, gradient)?;
        let new = self.b.mul(square, rest)?;
        let average = self.b.add(kept, new)?;
        self.write(what, average)?;
        Ok(average)
    }

    /// `value (1 - rate decay)`
    fn decayed(&mut self, value: Value) -> Built {
        let lost = self.b.mul(self.s.rate, self.s.decay)?;
        let kept = self.rest(lost)?;
        let kept = self.scalar(kept)?;
        self.b.mul(value, kept)
    }

    /// `g + decay value`
    fn with_decay(&mut self, gradient: Value, value: Value) -> Built {
        let decay = self.scalar(self.s.decay)?;
        let pull = self.b.mul(value, decay)?;
        self.b.add(gradient, pull)
    }

    /// `value - rate direction`
    fn step_along(&mut self, value: Value, direction: Value, rate: Value) -> Built {
        let step = self.b.mul(direction, rate)?;
        self.b.sub(value, step)
    }

    /// `value - rate g / (sqrt(squares) + eps)`
    fn step_over_root(&mut self, value: Value, gradient: Value, squares: Value) -> Built {
        let (root, epsilon) = (self.b.unary(Unary::Sqrt, squares)?, self.scalar(self.s.epsilon)?);
        let below = self.b.add(root, epsilon)?;
        let direction = self.b.div(gradient, below)?;
        let rate = self.scalar(self.s.rate)?;
        self.step_along(value, direction, rate)
    }

    /// `value - rate / c1 * m / (sqrt(v) / sqrt(c2) + eps)` with moments `m`, `v` and their corrections `c = 1 - beta^step`.
    fn adam(&mut self, value: Value, gradient: Value) -> Built {
        let average = self.read(EXP_AVG)?;
        let average = self.lerp(average, gradient, self.s.beta1)?;
        self.write(EXP_AVG, average)?;
        let squares = self.moving_square(EXP_AVG_SQ, gradient)?;
        let first = self.correction(self.s.beta1)?;
        let rate = self.b.div(self.s.rate, first)?;
        let second = self.correction(self.s.beta2)?;
        let second = self.b.unary(Unary::Sqrt, second)?;
        let (rate, second) = (self.scalar(rate)?, self.scalar(second)?);
        let root = self.b.unary(Unary::Sqrt, squares)?;
        let root = self.b.div(root, second)?;
        let epsilon = self.scalar(self.s.epsilon)?;
        let below = self.b.add(root, epsilon)?;
        let direction = self.b.div(average, below)?;
        self.step_along(value, direction, rate)
    }

    /// The gradient over the root of its moving square, which for matrices is the product of means of rows and columns; at
    /// most of root mean square 1.
    fn adafactor(&mut self, gradient: Value) -> Built {
        // beta2 = 1 - step^-0.8
        let exponent = self.b.scalar(DType::F64, ADAFACTOR_DECAY)?;
        let rest = self.b.binary(Binary::Pow, self.s.step, exponent)?;
        let square = self.b.mul(gradient, gradient)?;
        let square = self.b.add_const(square, ADAFACTOR_EPS)?;
        let rank = self.ty.rank();
        let root = if rank < 2 {
            let average = self.moving(EXP_AVG_SQ, self.ty.clone(), square, rest)?;
            self.b.unary(Unary::Rsqrt, average)?
        } else {
            let (row_ty, col_ty) = factored(&self.ty);
            let rows = self.mean(square, rank - 1)?;
            let rows = self.moving(EXP_AVG_SQ_ROW, row_ty, rows, rest)?;
            let cols = self.mean(square, rank - 2)?;
            let cols = self.moving(EXP_AVG_SQ_COL, col_ty, cols, rest)?;
            // rsqrt(row / mean(rows)) rsqrt(column)
            let all = self.mean(rows, rank - 2)?;
            let row_shape = self.b.ty(rows).shape;
            let axes: Vec<usize> = (0..rank - 2).collect();
            let all = self.b.broadcast(all, &row_shape, &axes)?;
            let rows = self.b.div(rows, all)?;
            let (rows, cols) = (self.b.unary(Unary::Rsqrt, rows)?, self.b.unary(Unary::Rsqrt, cols)?);
            let shape = self.ty.shape.clone();
            let rows = self.b.broadcast(rows, &shape, &(0..rank - 1).collect::<Vec<_>>())?;
            let cols = self.b.broadcast(cols, &shape, &(0..rank).filter(|&a| a != rank - 2).collect::<Vec<_>>())?;
            self.b.mul(rows, cols)?
        };
        let step = self.b.mul(gradient, root)?;
        let mut mean = self.b.mul(step, step)?;
        for axis in (0..rank).rev() {
            mean = self.mean(mean, axis)?;
        }
        let size = self.b.unary(Unary::Sqrt, mean)?;
        let size = self.b.mul_const(size, 1.0 / ADAFACTOR_CLIP)?;
        let one = self.b.full_like(size, 1.0)?;
        let size = self.b.binary(Binary::Max, size, one)?;
        let size = self.b.expand(size, &self.ty.shape)?;
        self.b.div(step, size)
    }

    /// The mean along an axis, which vanishes.
    fn mean(&mut self, x: Value, axis: usize) -> Built {
        let count = self.b.ty(x).shape[axis].clone();
        let sum = self.b.reduce(Reduction::Sum, x, &[axis], false)?;
        let count = self.b.size(&count, self.ty.dtype)?;
        let shape = self.b.ty(sum).shape;
        let count = self.b.expand(count, &shape)?;
        self.b.div(sum, count)
    }

    /// `state = state + rest (x - state)`
    fn moving(&mut self, what: &str, ty: Type, x: Value, rest: Value) -> Built {
        let name = state(what, self.name);
        let old = self.b.op(Op::StateRead { name: name.clone(), ty: ty.clone() }, &[])?;
        let rest = self.b.cast(rest, ty.dtype)?;
        let rest = self.b.expand(rest, &ty.shape)?;
        let away = self.b.sub(x, old)?;
        let away = self.b.mul(away, rest)?;
        let new = self.b.add(old, away)?;
        self.b.op(Op::StateWrite { name }, &[new])?;
        Ok(new)
    }
}
