//! Conversions between dtypes, and the 16-bit floats, which are computed in 32 bits and rounded after every op.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, types};
use lith_ir::DType;

use super::emit::{Emit, Res, Stop, Val};

impl Emit<'_> {
    /// A 32-bit float rounded to the dtype it is held for.
    pub fn rounded(&mut self, dtype: DType, x: Val) -> Val {
        match dtype {
            DType::F16 | DType::Bf16 => {
                let bits = self.narrow_half(dtype, x);
                self.widen_half(dtype, bits)
            }
            _ => x,
        }
    }

    fn and(&mut self, x: Val, mask: i64) -> Val {
        let mask = self.i32(mask);
        self.bin(x, mask, |c, a, b| c.ins().band(a, b))
    }

    fn or(&mut self, x: Val, y: Val) -> Val {
        self.bin(x, y, |c, a, b| c.ins().bor(a, b))
    }

    fn plus(&mut self, x: Val, k: i64) -> Val {
        let k = self.i32(k);
        self.bin(x, k, |c, a, b| c.ins().iadd(a, b))
    }

    /// Whether the magnitude bits `x` (no sign) are at least `k`.
    fn at_least(&mut self, x: Val, k: i64) -> Val {
        let k = self.i32(k);
        self.bin(x, k, |c, a, b| c.ins().icmp(IntCC::SignedGreaterThanOrEqual, a, b))
    }

    /// 16 bits in 32-bit integers to 32-bit floats.
    pub fn widen_half(&mut self, dtype: DType, bits: Val) -> Val {
        if dtype == DType::Bf16 {
            let bits = self.un(bits, |c, v| c.ins().ishl_imm_u(v, 16));
            return self.bits(bits, true);
        }
        // Exponent and mantissa in place, then the exponents' difference of 112 as a product, which also normalises
        // subnormal values; infinities and NaNs keep the largest exponent.
        let magnitude = self.and(bits, 0x7fff);
        let shifted = self.un(magnitude, |c, v| c.ins().ishl_imm_u(v, 13));
        let scaled = self.bits(shifted, true);
        let factor = self.float(2f64.powi(112), types::F32);
        let scaled = self.bin(scaled, factor, |c, a, b| c.ins().fmul(a, b));
        let scaled = self.bits(scaled, false);
        let special = self.at_least(magnitude, 0x7c00);
        let exponent = self.i32(0x7f80_0000);
        let unbounded = self.or(shifted, exponent);
        let value = self.choose(special, unbounded, scaled);
        let sign = self.and(bits, 0x8000);
        let sign = self.un(sign, |c, v| c.ins().ishl_imm_u(v, 16));
        let value = self.or(value, sign);
        self.bits(value, true)
    }

    /// 32-bit floats to the nearest 16 bits, ties to even, in 32-bit integers.
    pub fn narrow_half(&mut self, dtype: DType, x: Val) -> Val {
        let bits = self.bits(x, false);
        let magnitude = self.and(bits, 0x7fff_ffff);
        let sign = self.un(bits, |c, v| c.ins().ushr_imm_u(v, 16));
        let sign = self.and(sign, 0x8000);
        let nan = self.at_least(magnitude, 0x7f80_0001);
        let shift = if dtype == DType::Bf16 { 16 } else { 13 };
        // Half of what is lost, less 1, plus the last bit kept.
        let odd = self.un(magnitude, |c, v| c.ins().ushr_imm_u(v, shift));
        let odd = self.and(odd, 1);
        let rebias = if dtype == DType::Bf16 { 0 } else { -112 << 23 };
        let up = self.plus(magnitude, rebias + (1 << (shift - 1)) - 1);
        let up = self.bin(up, odd, |c, a, b| c.ins().iadd(a, b));
        let normal = self.un(up, |c, v| c.ins().ushr_imm_u(v, shift));
        let quiet = self.i32(if dtype == DType::Bf16 { 0x7fc0 } else { 0x7e00 });
        let value = if dtype == DType::Bf16 {
            self.choose(nan, quiet, normal)
        } else {
            // Below 2^-14 the result is subnormal: adding 1/2 lets the hardware round at its last bit.
            let half = self.float(0.5, types::F32);
            let positive = self.bits(magnitude, true);
            let sum = self.bin(positive, half, |c, a, b| c.ins().fadd(a, b));
            let sum = self.bits(sum, false);
            let subnormal = self.plus(sum, -0x3f00_0000);
            let is_normal = self.at_least(magnitude, 0x3880_0000);
            let value = self.choose(is_normal, normal, subnormal);
            let huge = self.at_least(magnitude, 0x4780_0000);
            let infinity = self.i32(0x7c00);
            let value = self.choose(huge, infinity, value);
            self.choose(nan, quiet, value)
        };
        self.or(value, sign)
    }

    /// A 64-bit float to 32 bits such that rounding on to 16 bits gives what rounding once would: inexact results have
    /// their last bit set (rounding to odd, Boldo & Melquiond 2008).
    fn demote_to_odd(&mut self, x: Val) -> Val {
        let y = self.un(x, |c, v| c.ins().fdemote(types::F32, v));
        let back = self.un(y, |c, v| c.ins().fpromote(types::F64, v));
        let exact = self.bin(back, x, |c, a, b| c.ins().fcmp(FloatCC::Equal, a, b));
        let unordered = self.bin(back, x, |c, a, b| c.ins().fcmp(FloatCC::Unordered, a, b));
        let keep = self.or(exact, unordered);
        let (a, b) = (self.un(back, |c, v| c.ins().fabs(v)), self.un(x, |c, v| c.ins().fabs(v)));
        let beyond = self.bin(a, b, |c, a, b| c.ins().fcmp(FloatCC::GreaterThan, a, b));
        let bits = self.bits(y, false);
        let less = self.plus(bits, -1);
        let truncated = self.choose(beyond, less, bits);
        let one = self.i32(1);
        let odd = self.or(truncated, one);
        let odd = self.bits(odd, true);
        self.choose(keep, y, odd)
    }

    /// `x` of `from` as `to`.
    pub fn cast(&mut self, from: DType, to: DType, x: Val) -> Res<Val> {
        if from == to {
            return Ok(x);
        }
        if x.vector {
            return self.cast_vector(from, to, x);
        }
        let ty = self.lane_type(to, false)?;
        match (from.is_float(), to.is_float()) {
            (true, true) => {
                let y = match (from, to) {
                    (DType::F64, DType::F32) => self.un(x, |c, v| c.ins().fdemote(types::F32, v)),
                    (DType::F64, _) => self.demote_to_odd(x),
                    (_, DType::F64) => self.un(x, |c, v| c.ins().fpromote(types::F64, v)),
                    _ => x,
                };
                Ok(self.rounded(to, y))
            }
            (true, false) => {
                let float = self.ty(x);
                if to == DType::Bool {
                    let zero = self.float(0.0, float);
                    return Ok(self.bin(x, zero, |c, a, b| c.ins().fcmp(FloatCC::NotEqual, a, b)));
                }
                let mut y = self.un(x, |c, v| c.ins().fcvt_to_sint_sat(types::I64, v));
                if let (Some((least, most)), true) = (to.int_range(), ty != types::I64) {
                    for (bound, cc) in [(least, IntCC::SignedLessThan), (most, IntCC::SignedGreaterThan)] {
                        let bound = self.integer(bound, types::I64);
                        let outside = self.bin(y, bound, |c, a, b| c.ins().icmp(cc, a, b));
                        y = self.choose(outside, bound, y);
                    }
                    y = self.un(y, |c, v| c.ins().ireduce(ty, v));
                }
                Ok(y)
            }
            (false, true) => {
                let wide = self.widen_int(from, x);
                let y = match to {
                    DType::F64 => self.un(wide, |c, v| c.ins().fcvt_from_sint(types::F64, v)),
                    DType::F32 => self.un(wide, |c, v| c.ins().fcvt_from_sint(types::F32, v)),
                    // By way of 64 bits, where every 32-bit integer is exact.
                    _ => {
                        let y = self.un(wide, |c, v| c.ins().fcvt_from_sint(types::F64, v));
                        self.demote_to_odd(y)
                    }
                };
                Ok(self.rounded(to, y))
            }
            (false, false) => {
                if to == DType::Bool {
                    let zero = self.integer(0, self.ty(x));
                    return Ok(self.bin(x, zero, |c, a, b| c.ins().icmp(IntCC::NotEqual, a, b)));
                }
                let wide = self.widen_int(from, x);
                Ok(if ty == types::I64 { wide } else { self.un(wide, |c, v| c.ins().ireduce(ty, v)) })
            }
        }
    }

    /// An integer or `bool` as 64 bits.
    fn widen_int(&mut self, from: DType, x: Val) -> Val {
        match from {
            DType::I64 => x,
            DType::U8 | DType::U32 | DType::Bool => self.un(x, |c, v| c.ins().uextend(types::I64, v)),
            _ => self.un(x, |c, v| c.ins().sextend(types::I64, v)),
        }
    }

    fn cast_vector(&mut self, from: DType, to: DType, x: Val) -> Res<Val> {
        let half = |d: DType| matches!(d, DType::F32 | DType::F16 | DType::Bf16);
        Ok(match (from, to) {
            (a, b) if half(a) && half(b) => self.rounded(to, x),
            (DType::I32, b) if half(b) => {
                let ty = self.vector_of(types::F32)?;
                let y = self.un(x, |c, v| c.ins().fcvt_from_sint(ty, v));
                // 32 bits rounded twice on the way to 16 may differ from once.
                if to == DType::F32 { y } else { return Err(Stop::NotVector) }
            }
            (DType::Bool, b) if half(b) => {
                let one = self.float(1.0, types::F32);
                let one = self.bits(one, false);
                let bits = self.bin(x, one, |c, a, b| c.ins().band(a, b));
                self.bits(bits, true)
            }
            (DType::Bool, DType::I32 | DType::U32) => self.un(x, |c, v| c.ins().ineg(v)),
            (a, DType::Bool) if half(a) => {
                let zero = self.float(0.0, types::F32);
                self.bin(x, zero, |c, a, b| c.ins().fcmp(FloatCC::NotEqual, a, b))
            }
            (DType::I32 | DType::U32, DType::Bool) => {
                let zero = self.i32(0);
                self.bin(x, zero, |c, a, b| c.ins().icmp(IntCC::NotEqual, a, b))
            }
            (a, DType::I32) if half(a) => {
                let ty = self.vector_of(types::I32)?;
                self.un(x, |c, v| c.ins().fcvt_to_sint_sat(ty, v))
            }
            (DType::I32, DType::U32) | (DType::U32, DType::I32) => x,
            _ => return Err(Stop::NotVector),
        })
    }
}
