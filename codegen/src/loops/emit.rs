//! The state of a kernel's generation, and arithmetic on values that are one element or a vector of neighbouring ones.

use std::collections::{BTreeSet, HashMap};

use cranelift_codegen::cursor::FuncCursor;
use cranelift_codegen::ir::{self, AbiParam, InstBuilder, MemFlagsData, Signature, Type as Ty, types};
use cranelift_codegen::isa::CallConv;
use lith_ir::{DType, Graph, Literal, NodeId, Symbols, Value};

use super::index::Index;
use crate::CodegenError;
use crate::builder::{At, Builder, ENTRY, ScopeId, constant, plain};
use crate::constants::Constants;
use crate::dims::DimTable;

/// Lanes of the vectors that every target has.
pub const LANES: i64 = 4;

/// What code is generated for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Whether a fused multiply-add is one instruction.
    pub fma: bool,
    /// Lanes of the widest vectors: 4 for Cranelift, more for [`crate::wide`].
    pub lanes: i64,
}

impl Machine {
    /// Whether [`crate::wide`] compiles the function.
    pub fn wide(self) -> bool {
        self.lanes > LANES
    }
}

/// Why generation stops.
#[derive(Debug)]
pub enum Stop {
    /// The loop at hand cannot run a vector of elements at once.
    NotVector,
    /// The reduction of this node cannot run a vector of elements at once.
    NotVectorAt(NodeId),
    /// The loop cannot run over all axes as one.
    NotFlat,
    /// For good.
    Fail(CodegenError),
}

/// A step of generation.
pub type Res<T> = Result<T, Stop>;

/// One element, or a vector of neighbouring ones.
///
/// `f16` and `bf16` are held as `f32`; `bool` as one byte of 0 or 1, a vector of them as 32-bit masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Val {
    /// The value and its scope.
    pub at: At,
    /// Whether this is a vector.
    pub vector: bool,
}

/// Memory that a kernel reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Slot in the kernel's environment.
    pub slot: usize,
    /// Element type in memory; for 16-bit weights another than the value's.
    pub dtype: DType,
}

/// Environment entries before the buffers: the runtime's table, the dims table, the section of constants.
pub const ENV_HEAD: usize = 3;

/// What grows while the kernels of a program are generated.
#[derive(Debug, Default)]
pub struct Tables {
    /// The dims table.
    pub dims: DimTable,
    /// The constants.
    pub constants: Constants,
}

/// What a kernel's generation knows and has made so far.
pub struct Emit<'a> {
    /// The function.
    pub b: Builder,
    /// The kernel's graph.
    pub graph: &'a Graph,
    /// Where values from outside lie.
    pub buffers: &'a HashMap<Value, Buffer>,
    /// What all kernels of the program share.
    pub tables: &'a mut Tables,
    /// The program's symbols.
    pub symbols: &'a Symbols,
    /// What code is generated for.
    pub machine: Machine,
    /// Lanes of vectors in the loop at hand.
    pub lanes: i64,
    /// Reductions that run one element at a time.
    pub scalar: &'a BTreeSet<NodeId>,
    /// Whether all axes run as one loop.
    pub flat_loop: bool,
    /// Address of the environment.
    pub env: At,
    /// Address of the dims table.
    pub dims_base: At,
    /// Dimensions already loaded.
    pub dim_values: HashMap<usize, At>,
    /// Buffer addresses already loaded.
    pub bases: HashMap<usize, At>,
    /// Values already computed.
    pub memo: HashMap<(Value, Index), Val>,
    splats: HashMap<(ir::Value, i64), At>,
    floats: HashMap<(u64, Ty), At>,
    /// The bits of 32-bit constants.
    lane_bits: HashMap<ir::Value, u32>,
    table: Option<At>,
    /// Address of the section of constants, by scope.
    constants: HashMap<ScopeId, At>,
    zeros: Option<At>,
}

impl<'a> Emit<'a> {
    /// The start of a kernel whose first parameter is the environment.
    #[allow(clippy::too_many_arguments, reason = "the fields it starts from")]
    pub fn new(
        b: Builder,
        env: At,
        graph: &'a Graph,
        buffers: &'a HashMap<Value, Buffer>,
        tables: &'a mut Tables,
        symbols: &'a Symbols,
        machine: Machine,
        scalar: &'a BTreeSet<NodeId>,
    ) -> Self {
        let mut emit = Emit {
            b,
            graph,
            buffers,
            tables,
            symbols,
            machine,
            lanes: machine.lanes,
            scalar,
            flat_loop: false,
            env,
            dims_base: env,
            dim_values: HashMap::new(),
            bases: HashMap::new(),
            memo: HashMap::new(),
            splats: HashMap::new(),
            floats: HashMap::new(),
            lane_bits: HashMap::new(),
            table: None,
            constants: HashMap::new(),
            zeros: None,
        };
        emit.dims_base = emit.b.load_i64(env, 8);
        emit
    }

    /// Address of a buffer.
    pub fn base(&mut self, slot: usize) -> At {
        if let Some(&at) = self.bases.get(&slot) {
            return at;
        }
        let at = self.b.load_i64(self.env, 8 * (ENV_HEAD + slot) as i32);
        self.bases.insert(slot, at);
        at
    }

    /// A vector's bytes of zeros, read in place of what a guard forbids.
    pub fn zeros(&mut self) -> At {
        if let Some(at) = self.zeros {
            return at;
        }
        let bytes = 4 * self.machine.lanes as i32;
        let at = self.b.stack(bytes as u32);
        let zero = self.b.iconst(0);
        for offset in (0..bytes).step_by(8) {
            self.b.cursor(ENTRY).ins().store(MemFlagsData::new().with_notrap(), zero.v, at.v, offset);
        }
        self.zeros = Some(at);
        at
    }

    /// The Cranelift type of a value.
    pub fn ty(&self, x: Val) -> Ty {
        self.b.func.dfg.value_type(x.at.v)
    }

    /// A vector type of the loop at hand.
    pub fn vector_of(&self, lane: Ty) -> Res<Ty> {
        lane.by(self.lanes as u32).ok_or(Stop::NotVector)
    }

    /// The type of one element, or of a vector where there are vectors of it.
    pub fn lane_type(&self, dtype: DType, vector: bool) -> Res<Ty> {
        Ok(match (dtype, vector) {
            (DType::F32 | DType::F16 | DType::Bf16, false) => types::F32,
            (DType::F64, false) => types::F64,
            (DType::I64, false) => types::I64,
            (DType::I32 | DType::U32, false) => types::I32,
            (DType::I16, false) => types::I16,
            (DType::I8 | DType::U8 | DType::Bool, false) => types::I8,
            (DType::F32 | DType::F16 | DType::Bf16, true) => self.vector_of(types::F32)?,
            (DType::I32 | DType::U32 | DType::Bool, true) => self.vector_of(types::I32)?,
            (DType::F64 | DType::I64 | DType::I16 | DType::I8 | DType::U8, true) => return Err(Stop::NotVector),
        })
    }

    /// One element as a vector of equal ones.
    pub fn splat(&mut self, x: Val) -> Val {
        if x.vector {
            return x;
        }
        let key = (x.at.v, self.lanes);
        let at = match self.splats.get(&key) {
            Some(&at) => at,
            None => {
                let ty = self.ty(x);
                let lanes = self.lanes as u32;
                let of = |lane: Ty| lane.by(lanes).unwrap_or(lane);
                let at = self.b.put(x.at.scope, |c| match ty {
                    types::F32 => c.ins().splat(of(types::F32), x.at.v),
                    types::I32 => c.ins().splat(of(types::I32), x.at.v),
                    _ => {
                        let mask = c.ins().bmask(types::I32, x.at.v);
                        c.ins().splat(of(types::I32), mask)
                    }
                });
                self.splats.insert(key, at);
                at
            }
        };
        Val { at, vector: true }
    }

    /// `x` as an operand of a vector instruction in `scope`. Constants are operands in memory, which costs nothing;
    /// in registers they would crowd out all else. Wide vectors' back end sees to that by itself.
    fn operand(&mut self, x: Val, scope: ScopeId) -> Val {
        if self.machine.wide() {
            return self.splat(x);
        }
        let Some(&bits) = self.lane_bits.get(&x.at.v) else { return self.splat(x) };
        let base = match self.constants.get(&scope) {
            Some(&at) => at,
            None => {
                // Read anew in every turn of a loop, so that Cranelift does not move what is read through it.
                let env = self.env;
                let at = self.b.put(scope, |c| c.ins().load(types::I64, plain(), env.v, 16));
                self.constants.insert(scope, at);
                at
            }
        };
        let lanes: Vec<u8> = bits.to_le_bytes().repeat(LANES as usize);
        let Some(literal) = Literal::new(DType::U32, vec![LANES as usize], lanes) else { return self.splat(x) };
        let Ok(offset) = i32::try_from(self.tables.constants.place(&literal)) else { return self.splat(x) };
        let ty = if self.ty(x) == types::F32 { types::F32X4 } else { types::I32X4 };
        Val { at: self.b.put(scope, |c| c.ins().load(ty, constant(), base.v, offset)), vector: true }
    }

    /// An instruction on one value.
    pub fn un(&mut self, x: Val, f: impl FnOnce(&mut FuncCursor<'_>, ir::Value) -> ir::Value) -> Val {
        Val { at: self.b.put(x.at.scope, |c| f(c, x.at.v)), vector: x.vector }
    }

    /// An instruction on two values; when one is a vector, both are.
    pub fn bin(
        &mut self,
        x: Val,
        y: Val,
        f: impl FnOnce(&mut FuncCursor<'_>, ir::Value, ir::Value) -> ir::Value,
    ) -> Val {
        let vector = x.vector || y.vector;
        let scope = self.b.deeper(x.at.scope, y.at.scope);
        let (x, y) = if vector { (self.operand(x, scope), self.operand(y, scope)) } else { (x, y) };
        Val { at: self.b.put(scope, |c| f(c, x.at.v, y.at.v)), vector }
    }

    /// An instruction on three values; when one is a vector, all are.
    pub fn tern(
        &mut self,
        [x, y, z]: [Val; 3],
        f: impl FnOnce(&mut FuncCursor<'_>, ir::Value, ir::Value, ir::Value) -> ir::Value,
    ) -> Val {
        let vector = x.vector || y.vector || z.vector;
        let scope = self.b.deeper(x.at.scope, self.b.deeper(y.at.scope, z.at.scope));
        let [x, y, z] = if vector { [x, y, z].map(|x| self.operand(x, scope)) } else { [x, y, z] };
        Val { at: self.b.put(scope, |c| f(c, x.at.v, y.at.v, z.at.v)), vector }
    }

    /// A floating-point constant of type `ty` (`F32` or `F64`).
    pub fn float(&mut self, value: f64, ty: Ty) -> Val {
        let key = (value.to_bits(), ty);
        let at = match self.floats.get(&key) {
            Some(&at) => at,
            None => {
                let at = self.b.put(ENTRY, |c| match ty {
                    types::F64 => c.ins().f64const(value),
                    _ => c.ins().f32const(value as f32),
                });
                self.floats.insert(key, at);
                if ty == types::F32 {
                    self.lane_bits.insert(at.v, (value as f32).to_bits());
                }
                at
            }
        };
        Val { at, vector: false }
    }

    /// An integer constant of type `ty`.
    pub fn integer(&mut self, value: i64, ty: Ty) -> Val {
        let mask = if ty.bits() == 64 { -1 } else { (1i64 << ty.bits()) - 1 };
        let at = self.b.put(ENTRY, |c| c.ins().iconst(ty, value & mask));
        if ty == types::I32 {
            self.lane_bits.insert(at.v, value as u32);
        }
        Val { at, vector: false }
    }

    /// A 32-bit integer constant.
    pub fn i32(&mut self, value: i64) -> Val {
        self.integer(value, types::I32)
    }

    /// `a * b + c`, rounded once where the target can.
    pub fn fma(&mut self, a: Val, b: Val, c: Val) -> Val {
        if self.machine.fma {
            self.tern([a, b, c], |cur, a, b, c| cur.ins().fma(a, b, c))
        } else {
            let product = self.bin(a, b, |c, a, b| c.ins().fmul(a, b));
            self.bin(product, c, |c, a, b| c.ins().fadd(a, b))
        }
    }

    /// `cond ? a : b`; `cond` is a `bool` (a mask where values are vectors).
    pub fn choose(&mut self, cond: Val, a: Val, b: Val) -> Val {
        if !cond.vector {
            let (a, b) = if a.vector || b.vector { (self.splat(a), self.splat(b)) } else { (a, b) };
            let scope = self.b.deeper(cond.at.scope, self.b.deeper(a.at.scope, b.at.scope));
            return Val { at: self.b.put(scope, |c| c.ins().select(cond.at.v, a.at.v, b.at.v)), vector: a.vector };
        }
        let a = self.splat(a);
        let ty = self.ty(a);
        self.tern([cond, a, b], |c, m, a, b| {
            let m = if ty.lane_type().is_float() { c.ins().bitcast(ty, little(), m) } else { m };
            c.ins().bitselect(m, a, b)
        })
    }

    /// The bits of 32-bit floats as integers, or back.
    pub fn bits(&mut self, x: Val, float: bool) -> Val {
        let lane = if float { types::F32 } else { types::I32 };
        let ty = lane.by(self.ty(x).lane_count()).unwrap_or(lane);
        self.un(x, |c, v| c.ins().bitcast(ty, if ty.is_vector() { little() } else { MemFlagsData::new() }, v))
    }

    /// A function of the runtime's table at byte `offset`, of floating-point arguments of type `F64`.
    pub fn call_f64(&mut self, offset: usize, args: &[Val]) -> Val {
        let scope = args.iter().fold(ENTRY, |s, x| self.b.deeper(s, x.at.scope));
        let function = self.table_entry(offset);
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params.extend(args.iter().map(|_| AbiParam::new(types::F64)));
        signature.returns.push(AbiParam::new(types::F64));
        let signature = self.b.func.import_signature(signature);
        let args: Vec<_> = args.iter().map(|x| x.at.v).collect();
        let at = self.b.put(scope, |c| {
            let call = c.ins().call_indirect(signature, function.v, &args);
            c.func.dfg.first_result(call)
        });
        Val { at, vector: false }
    }

    fn table_entry(&mut self, offset: usize) -> At {
        let table = match self.table {
            Some(at) => at,
            None => {
                let at = self.b.load_i64(self.env, 0);
                self.table = Some(at);
                at
            }
        };
        self.b.put(ENTRY, |c| c.ins().load(types::I64, constant(), table.v, offset as i32))
    }

    /// Each lane of vectors on its own.
    pub fn per_lane(&mut self, xs: &[Val], mut f: impl FnMut(&mut Self, &[Val]) -> Res<Val>) -> Res<Val> {
        if xs.iter().all(|x| !x.vector) {
            return f(self, xs);
        }
        if self.lanes != LANES {
            return Err(Stop::NotVector);
        }
        let mut result: Option<Val> = None;
        for lane in 0..LANES as u8 {
            let parts: Vec<Val> = xs
                .iter()
                .map(|&x| match x.vector {
                    true => Val { at: self.b.put(x.at.scope, |c| c.ins().extractlane(x.at.v, lane)), vector: false },
                    false => x,
                })
                .collect();
            let y = f(self, &parts)?;
            result = Some(match result {
                None => self.splat(y),
                Some(v) => {
                    let scope = self.b.deeper(v.at.scope, y.at.scope);
                    Val { at: self.b.put(scope, |c| c.ins().insertlane(v.at.v, y.at.v, lane)), vector: true }
                }
            });
        }
        result.ok_or(Stop::NotVector)
    }

    /// A bug in a pass, found while generating this kernel.
    pub fn wrong<T>(&self, problem: impl Into<String>) -> Res<T> {
        Err(Stop::Fail(CodegenError::Internal { what: "loop kernel".into(), problem: problem.into() }))
    }
}

/// Bit casts of vectors name a byte order.
pub fn little() -> MemFlagsData {
    MemFlagsData::new().with_endianness(ir::Endianness::Little)
}
