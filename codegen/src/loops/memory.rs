//! Loads and stores of elements at an index.

use cranelift_codegen::ir::{self, InstBuilder, types};
use lith_ir::{DType, Dim};

use super::emit::{Buffer, Emit, LANES, Res, Stop, Val, little};
use super::index::{Index, Pos};
use crate::builder::{At, IntOp, plain};

impl Emit<'_> {
    /// Address and constant offset of an element.
    fn address(&mut self, buffer: Buffer, pos: &Pos) -> (At, i32) {
        let size = buffer.dtype.size() as i64;
        let mut address = self.base(buffer.slot);
        for &term in &pos.terms {
            let bytes = self.b.scale(term, size);
            address = self.b.int(IntOp::Add, address, bytes);
        }
        match i32::try_from(pos.konst.wrapping_mul(size)) {
            // Room for the further lanes.
            Ok(offset) if offset.checked_add(1 << 20).is_some() => (address, offset),
            _ => {
                let bytes = self.b.iconst(pos.konst.wrapping_mul(size));
                (self.b.int(IntOp::Add, address, bytes), 0)
            }
        }
    }

    /// The element (or vector) at an index of a value of this shape.
    pub fn load(&mut self, buffer: Buffer, index: &Index, shape: &[Dim]) -> Res<Val> {
        let pos = self.flat(index, shape)?;
        let (mut address, mut offset) = self.address(buffer, &pos);
        let step = pos.step;
        if let Some(guard) = index.guard {
            if step != 0 && step != 1 {
                return Err(Stop::NotVector);
            }
            let there = match offset {
                0 => address,
                _ => {
                    let bytes = self.b.iconst(offset.into());
                    self.b.int(IntOp::Add, address, bytes)
                }
            };
            let zeros = self.zeros();
            (address, offset) = (self.b.select(guard, there, zeros), 0);
        }
        match step {
            0 => self.load_at(buffer.dtype, address, offset, false),
            1 => self.load_at(buffer.dtype, address, offset, true),
            _ => {
                self.lane_type(buffer.dtype, true)?;
                if self.lanes != LANES {
                    return Err(Stop::NotVector);
                }
                let bytes = i32::try_from(step * buffer.dtype.size() as i64).map_err(|_| Stop::NotVector)?;
                let mut lanes = Vec::new();
                for lane in 0..LANES as i32 {
                    let offset = bytes.checked_mul(lane).and_then(|b| b.checked_add(offset)).ok_or(Stop::NotVector)?;
                    lanes.push(self.load_at(buffer.dtype, address, offset, false)?);
                }
                self.gather_lanes(&lanes)
            }
        }
    }

    /// Four elements as a vector.
    pub fn gather_lanes(&mut self, lanes: &[Val]) -> Res<Val> {
        if self.lanes != LANES {
            return Err(Stop::NotVector);
        }
        let Some((&first, rest)) = lanes.split_first() else { return Err(Stop::NotVector) };
        let mut v = self.splat(first);
        for (i, &lane) in rest.iter().enumerate() {
            // A mask is put together from masks.
            let lane =
                if self.ty(lane) == types::I8 { self.un(lane, |c, v| c.ins().bmask(types::I32, v)) } else { lane };
            let scope = self.b.deeper(v.at.scope, lane.at.scope);
            v = Val { at: self.b.put(scope, |c| c.ins().insertlane(v.at.v, lane.at.v, i as u8 + 1)), vector: true };
        }
        Ok(v)
    }

    fn load_at(&mut self, dtype: DType, address: At, offset: i32, vector: bool) -> Res<Val> {
        let ty = self.lane_type(dtype, vector)?;
        let load = |e: &mut Self, ty: ir::Type| Val {
            at: e.b.put(address.scope, |c| c.ins().load(ty, plain(), address.v, offset)),
            vector,
        };
        Ok(match (dtype, vector) {
            (DType::F16 | DType::Bf16, false) => {
                let half = load(self, types::I16);
                let wide = self.un(half, |c, v| c.ins().uextend(types::I32, v));
                self.widen_half(dtype, wide)
            }
            (DType::F16 | DType::Bf16, true) if self.machine.wide() => {
                let (narrow, wide) = (self.vector_of(types::I16)?, self.vector_of(types::I32)?);
                let halves = load(self, narrow);
                let wide = self.un(halves, |c, v| c.ins().uextend(wide, v));
                self.widen_half(dtype, wide)
            }
            (DType::Bool, true) if self.machine.wide() => {
                let (narrow, wide) = (self.vector_of(types::I8)?, self.vector_of(types::I32)?);
                let bytes = load(self, narrow);
                self.un(bytes, |c, v| {
                    let v = c.ins().uextend(wide, v);
                    c.ins().ineg(v)
                })
            }
            (DType::F16 | DType::Bf16, true) => {
                let halves = load(self, types::I64);
                let wide = self.un(halves, |c, v| {
                    let v = c.ins().scalar_to_vector(types::I64X2, v);
                    let v = c.ins().bitcast(types::I16X8, little(), v);
                    c.ins().uwiden_low(v)
                });
                self.widen_half(dtype, wide)
            }
            (DType::Bool, true) => {
                let bytes = load(self, types::I32);
                self.un(bytes, |c, v| {
                    let v = c.ins().scalar_to_vector(types::I32X4, v);
                    let v = c.ins().bitcast(types::I8X16, little(), v);
                    let v = c.ins().uwiden_low(v);
                    let v = c.ins().uwiden_low(v);
                    // 0 or 1 to a mask.
                    c.ins().ineg(v)
                })
            }
            _ => load(self, ty),
        })
    }

    /// Stores an element (or vector) of a value of this shape. `x` is a vector when the index varies.
    pub fn store(&mut self, buffer: Buffer, index: &Index, shape: &[Dim], x: Val, scope: u32) -> Res<()> {
        let pos = self.flat(index, shape)?;
        let vector = pos.step != 0;
        if vector && pos.step != 1 {
            return Err(Stop::NotVector);
        }
        if vector {
            self.lane_type(buffer.dtype, true)?;
        }
        let x = if vector { self.splat(x) } else { x };
        let (address, offset) = self.address(buffer, &pos);
        let x = match (buffer.dtype, vector) {
            (DType::F16 | DType::Bf16, _) => {
                let bits = self.narrow_half(buffer.dtype, x);
                match vector {
                    false => self.un(bits, |c, v| c.ins().ireduce(types::I16, v)),
                    true if self.machine.wide() => {
                        let narrow = self.vector_of(types::I16)?;
                        self.un(bits, |c, v| c.ins().ireduce(narrow, v))
                    }
                    true => self.un(bits, |c, v| {
                        // Values fit 16 bits unsigned.
                        let v = c.ins().unarrow(v, v);
                        let v = c.ins().bitcast(types::I64X2, little(), v);
                        c.ins().extractlane(v, 0)
                    }),
                }
            }
            (DType::Bool, true) if self.machine.wide() => {
                let (narrow, one) = (self.vector_of(types::I8)?, self.i32(1));
                let bits = self.bin(x, one, |c, a, b| c.ins().band(a, b));
                self.un(bits, |c, v| c.ins().ireduce(narrow, v))
            }
            (DType::Bool, true) => self.un(x, |c, v| {
                let v = c.ins().snarrow(v, v);
                let v = c.ins().snarrow(v, v);
                let v = c.ins().bitcast(types::I32X4, little(), v);
                let bytes = c.ins().extractlane(v, 0);
                c.ins().band_imm_s(bytes, 0x0101_0101)
            }),
            _ => x,
        };
        self.b.cursor(scope).ins().store(plain(), x.at.v, address.v, offset);
        Ok(())
    }
}
