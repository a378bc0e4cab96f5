//! Scalar functions for compiled code: what it has no own form of, in 64 bits. Knows nothing of tensors.

use crate::abi::MathTable;

extern "C" fn exp(x: f64) -> f64 {
    x.exp()
}

extern "C" fn log(x: f64) -> f64 {
    x.ln()
}

extern "C" fn sin(x: f64) -> f64 {
    x.sin()
}

extern "C" fn cos(x: f64) -> f64 {
    x.cos()
}

extern "C" fn tanh(x: f64) -> f64 {
    x.tanh()
}

extern "C" fn erf(x: f64) -> f64 {
    libm::erf(x)
}

extern "C" fn pow(x: f64, y: f64) -> f64 {
    x.powf(y)
}

extern "C" fn rem(x: f64, y: f64) -> f64 {
    x % y
}

impl Default for MathTable {
    fn default() -> Self {
        MathTable { exp, log, sin, cos, tanh, erf, pow, rem }
    }
}
