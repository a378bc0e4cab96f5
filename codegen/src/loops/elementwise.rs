//! Elementwise functions of every dtype, as the op rows document them.

use std::mem::offset_of;

use cranelift_codegen::cursor::FuncCursor;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{self, InstBuilder, types};
use lith_ir::{Binary, Compare, DType, Unary};
use lith_runtime::abi::{MathTable, Table};

use super::emit::{Emit, Res, Val};

fn signed(dtype: DType) -> bool {
    !matches!(dtype, DType::U8 | DType::U32 | DType::Bool)
}

impl Emit<'_> {
    /// `f(x)`.
    pub fn unary(&mut self, f: Unary, dtype: DType, x: Val) -> Res<Val> {
        if !dtype.is_float() {
            return Ok(self.unary_int(f, dtype, x));
        }
        let ty = if dtype == DType::F64 { types::F64 } else { types::F32 };
        let y = match f {
            Unary::Neg => self.un(x, |c, v| c.ins().fneg(v)),
            Unary::Abs => self.un(x, |c, v| c.ins().fabs(v)),
            Unary::Sign => {
                let (zero, one) = (self.float(0.0, ty), self.float(1.0, ty));
                let sign = match dtype {
                    DType::F64 => self.bin(one, x, |c, a, b| c.ins().fcopysign(a, b)),
                    _ => self.signed(one, x),
                };
                // No magnitude above 0: a zero or NaN.
                let magnitude = self.un(x, |c, v| c.ins().fabs(v));
                let has = self.bin(magnitude, zero, |c, a, b| c.ins().fcmp(FloatCC::GreaterThan, a, b));
                self.choose(has, sign, x)
            }
            Unary::Sqrt => self.un(x, |c, v| c.ins().sqrt(v)),
            Unary::Rsqrt => {
                let root = self.un(x, |c, v| c.ins().sqrt(v));
                let one = self.float(1.0, ty);
                self.bin(one, root, |c, a, b| c.ins().fdiv(a, b))
            }
            Unary::Floor => self.un(x, |c, v| c.ins().floor(v)),
            Unary::Ceil => self.un(x, |c, v| c.ins().ceil(v)),
            Unary::Round => self.un(x, |c, v| c.ins().nearest(v)),
            Unary::Exp if dtype != DType::F64 => self.exp_f32(x),
            Unary::Tanh if dtype != DType::F64 => self.tanh_f32(x),
            Unary::Erf if dtype != DType::F64 => self.erf_f32(x),
            Unary::Exp => self.via_f64(offset_of!(MathTable, exp), &[x])?,
            Unary::Tanh => self.via_f64(offset_of!(MathTable, tanh), &[x])?,
            Unary::Erf => self.via_f64(offset_of!(MathTable, erf), &[x])?,
            Unary::Log => self.via_f64(offset_of!(MathTable, log), &[x])?,
            Unary::Sin => self.via_f64(offset_of!(MathTable, sin), &[x])?,
            Unary::Cos => self.via_f64(offset_of!(MathTable, cos), &[x])?,
            Unary::Not => return self.wrong("`not` of floats"),
        };
        Ok(self.rounded(dtype, y))
    }

    /// A function of the runtime on 64-bit floats, each lane on its own.
    fn via_f64(&mut self, offset: usize, xs: &[Val]) -> Res<Val> {
        self.per_lane(xs, |e, xs| {
            let wide = e.ty(xs[0]) == types::F64;
            let promoted: Vec<Val> =
                xs.iter().map(|&x| if wide { x } else { e.un(x, |c, v| c.ins().fpromote(types::F64, v)) }).collect();
            let y = e.call_f64(offset_of!(Table, math) + offset, &promoted);
            Ok(if wide { y } else { e.un(y, |c, v| c.ins().fdemote(types::F32, v)) })
        })
    }

    fn unary_int(&mut self, f: Unary, dtype: DType, x: Val) -> Val {
        match f {
            Unary::Neg => self.un(x, |c, v| c.ins().ineg(v)),
            Unary::Abs if signed(dtype) => self.un(x, |c, v| c.ins().iabs(v)),
            Unary::Sign => {
                let ty = self.ty(x).lane_type();
                let (zero, one, minus) = (self.integer(0, ty), self.integer(1, ty), self.integer(-1, ty));
                let some = self.int_compare(IntCC::NotEqual, x, zero);
                let mut y = self.choose(some, one, zero);
                if signed(dtype) {
                    let below = self.int_compare(IntCC::SignedLessThan, x, zero);
                    y = self.choose(below, minus, y);
                }
                y
            }
            Unary::Not if dtype == DType::Bool && !x.vector => self.un(x, |c, v| c.ins().bxor_imm_u(v, 1)),
            Unary::Not => self.un(x, |c, v| c.ins().bnot(v)),
            // The magnitude of an unsigned integer, and what the type rules exclude.
            _ => x,
        }
    }

    fn int_compare(&mut self, cc: IntCC, a: Val, b: Val) -> Val {
        self.bin(a, b, |c, a, b| c.ins().icmp(cc, a, b))
    }

    /// `f(a, b)`.
    pub fn binary(&mut self, f: Binary, dtype: DType, a: Val, b: Val) -> Res<Val> {
        if !dtype.is_float() {
            return self.binary_int(f, dtype, a, b);
        }
        let y = match f {
            Binary::Add => self.bin(a, b, |c, a, b| c.ins().fadd(a, b)),
            Binary::Sub => self.bin(a, b, |c, a, b| c.ins().fsub(a, b)),
            Binary::Mul => self.bin(a, b, |c, a, b| c.ins().fmul(a, b)),
            Binary::Div => self.bin(a, b, |c, a, b| c.ins().fdiv(a, b)),
            Binary::Max => self.bin(a, b, |c, a, b| c.ins().fmax(a, b)),
            Binary::Min => self.bin(a, b, |c, a, b| c.ins().fmin(a, b)),
            Binary::Pow => self.via_f64(offset_of!(MathTable, pow), &[a, b])?,
            Binary::Rem => self.via_f64(offset_of!(MathTable, rem), &[a, b])?,
            Binary::And | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr => return self.wrong("bits of floats"),
        };
        Ok(self.rounded(dtype, y))
    }

    fn binary_int(&mut self, f: Binary, dtype: DType, a: Val, b: Val) -> Res<Val> {
        let greater = if signed(dtype) { IntCC::SignedGreaterThan } else { IntCC::UnsignedGreaterThan };
        Ok(match f {
            Binary::Add => self.bin(a, b, |c, a, b| c.ins().iadd(a, b)),
            Binary::Sub => self.bin(a, b, |c, a, b| c.ins().isub(a, b)),
            Binary::Mul => self.bin(a, b, |c, a, b| c.ins().imul(a, b)),
            Binary::Div | Binary::Rem => self.per_lane(&[a, b], |e, xs| Ok(e.divide(f, dtype, xs[0], xs[1])))?,
            Binary::And => self.bin(a, b, |c, a, b| c.ins().band(a, b)),
            Binary::Or => self.bin(a, b, |c, a, b| c.ins().bor(a, b)),
            Binary::Xor => self.bin(a, b, |c, a, b| c.ins().bxor(a, b)),
            Binary::Shl => self.shift(a, b, |c, a, b| c.ins().ishl(a, b))?,
            Binary::Shr if signed(dtype) => self.shift(a, b, |c, a, b| c.ins().sshr(a, b))?,
            Binary::Shr => self.shift(a, b, |c, a, b| c.ins().ushr(a, b))?,
            Binary::Max => {
                let more = self.int_compare(greater, a, b);
                self.choose(more, a, b)
            }
            Binary::Min => {
                let more = self.int_compare(greater, a, b);
                self.choose(more, b, a)
            }
            Binary::Pow => return self.wrong("`pow` of integers"),
        })
    }

    /// An instruction that shifts `a` by `b` places, of which it takes the lowest bits: a vector by one number, or each lane
    /// on its own.
    fn shift(
        &mut self,
        a: Val,
        b: Val,
        f: impl Fn(&mut FuncCursor<'_>, ir::Value, ir::Value) -> ir::Value,
    ) -> Res<Val> {
        if b.vector {
            return self.per_lane(&[a, b], |e, xs| Ok(e.bin(xs[0], xs[1], &f)));
        }
        let scope = self.b.deeper(a.at.scope, b.at.scope);
        Ok(Val { at: self.b.put(scope, |c| f(c, a.at.v, b.at.v)), vector: a.vector })
    }

    /// Quotient or remainder of integers: by 0 it is 0, and the least value by -1 wraps. In 64 bits, where only the
    /// latter two need care.
    fn divide(&mut self, f: Binary, dtype: DType, a: Val, b: Val) -> Val {
        let narrow = self.ty(a);
        let widen = |e: &mut Self, x: Val| match (narrow, signed(dtype)) {
            (types::I64, _) => x,
            (_, true) => e.un(x, |c, v| c.ins().sextend(types::I64, v)),
            (_, false) => e.un(x, |c, v| c.ins().uextend(types::I64, v)),
        };
        let (a, b) = (widen(self, a), widen(self, b));
        let [zero, one, minus] = [0, 1, -1].map(|k| self.integer(k, types::I64));
        let is_zero = self.int_compare(IntCC::Equal, b, zero);
        let is_minus = self.int_compare(IntCC::Equal, b, minus);
        let odd = self.bin(is_zero, is_minus, |c, a, b| c.ins().bor(a, b));
        let divisor = self.choose(odd, one, b);
        let y = match f {
            Binary::Div => {
                let q = self.bin(a, divisor, |c, a, b| c.ins().sdiv(a, b));
                let negated = self.un(a, |c, v| c.ins().ineg(v));
                let q = self.choose(is_minus, negated, q);
                self.choose(is_zero, zero, q)
            }
            // By 1, which stands for 0 and -1, it is 0 as it should be.
            _ => self.bin(a, divisor, |c, a, b| c.ins().srem(a, b)),
        };
        if narrow == types::I64 { y } else { self.un(y, |c, v| c.ins().ireduce(narrow, v)) }
    }

    /// `f(a, b)` as `bool`.
    pub fn compare(&mut self, f: Compare, dtype: DType, a: Val, b: Val) -> Res<Val> {
        if dtype.is_float() {
            let cc = match f {
                Compare::Eq => FloatCC::Equal,
                Compare::Ne => FloatCC::NotEqual,
                Compare::Lt => FloatCC::LessThan,
                Compare::Le => FloatCC::LessThanOrEqual,
                Compare::Gt => FloatCC::GreaterThan,
                Compare::Ge => FloatCC::GreaterThanOrEqual,
            };
            return Ok(self.bin(a, b, |c, a, b| c.ins().fcmp(cc, a, b)));
        }
        let cc = match (f, signed(dtype)) {
            (Compare::Eq, _) => IntCC::Equal,
            (Compare::Ne, _) => IntCC::NotEqual,
            (Compare::Lt, true) => IntCC::SignedLessThan,
            (Compare::Le, true) => IntCC::SignedLessThanOrEqual,
            (Compare::Gt, true) => IntCC::SignedGreaterThan,
            (Compare::Ge, true) => IntCC::SignedGreaterThanOrEqual,
            (Compare::Lt, false) => IntCC::UnsignedLessThan,
            (Compare::Le, false) => IntCC::UnsignedLessThanOrEqual,
            (Compare::Gt, false) => IntCC::UnsignedGreaterThan,
            (Compare::Ge, false) => IntCC::UnsignedGreaterThanOrEqual,
        };
        Ok(self.int_compare(cc, a, b))
    }
}
