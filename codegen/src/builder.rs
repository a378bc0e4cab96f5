//! A function under construction: nested scopes over Cranelift blocks. A value remembers the scope that computes it, and
//! an instruction goes to the deepest scope among its operands', so whatever does not change in a loop is computed
//! before it. Knows nothing of graphs.

use std::collections::HashMap;

use cranelift_codegen::cursor::{Cursor, FuncCursor};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    self, AbiParam, BlockArg, Function, InstBuilder, MemFlagsData, Signature, StackSlotData, StackSlotKind, types,
};
use cranelift_codegen::isa::CallConv;

/// A scope: straight-line code whose end is still open. Scope 0 is the function's entry.
pub type ScopeId = u32;

/// The function's outermost scope.
pub const ENTRY: ScopeId = 0;

#[derive(Debug)]
struct Scope {
    depth: u32,
    /// The block that new instructions of this scope go to; moves on when a loop in it is finished.
    block: ir::Block,
    /// Integer arithmetic done in this scope, so that equal positions are equal values.
    known: HashMap<(IntOp, ir::Value, ir::Value), ir::Value>,
}

/// Integer operations that are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IntOp {
    /// Sum.
    Add,
    /// Product.
    Mul,
    /// Unsigned quotient.
    Div,
    /// Unsigned remainder.
    Rem,
}

/// A value and the scope that computes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct At {
    /// The value.
    pub v: ir::Value,
    /// Its scope.
    pub scope: ScopeId,
}

/// An open loop `for i in (begin..end).step_by(step)`, with values carried from turn to turn.
pub struct Loop {
    /// The scope of the body.
    pub scope: ScopeId,
    /// The counter.
    pub i: At,
    /// The carried values at the start of a turn.
    pub carried: Vec<At>,
    outer: ScopeId,
    header: ir::Block,
    begin: ir::Value,
    end: ir::Value,
    step: i64,
    init: Vec<ir::Value>,
}

/// The function and its scopes.
pub struct Builder {
    /// The function.
    pub func: Function,
    scopes: Vec<Scope>,
    iconsts: HashMap<i64, ir::Value>,
}

/// Memory that may be accessed at any alignment and never traps.
pub fn plain() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

/// Memory that does not change while the function runs.
pub fn constant() -> MemFlagsData {
    MemFlagsData::new().with_notrap().with_readonly().with_can_move()
}

impl Builder {
    /// A function of `params` 64-bit parameters, which are returned in the entry scope.
    pub fn new(params: usize, call_conv: CallConv) -> (Self, Vec<At>) {
        let mut signature = Signature::new(call_conv);
        signature.params.extend((0..params).map(|_| AbiParam::new(types::I64)));
        let mut func = Function::new();
        func.signature = signature;
        let block = func.dfg.make_block();
        func.layout.append_block(block);
        let params =
            (0..params).map(|_| At { v: func.dfg.append_block_param(block, types::I64), scope: ENTRY }).collect();
        let scopes = vec![Scope { depth: 0, block, known: HashMap::new() }];
        (Builder { func, scopes, iconsts: HashMap::new() }, params)
    }

    /// Ends the function, which returns a 64-bit integer or nothing.
    pub fn finish(mut self, result: Option<At>) -> Function {
        self.func.signature.returns.extend(result.map(|_| AbiParam::new(types::I64)));
        let results: Vec<_> = result.iter().map(|at| at.v).collect();
        self.cursor(ENTRY).ins().return_(&results);
        self.func
    }

    /// A cursor at the end of a scope.
    pub fn cursor(&mut self, scope: ScopeId) -> FuncCursor<'_> {
        let block = self.scopes[scope as usize].block;
        FuncCursor::new(&mut self.func).at_bottom(block)
    }

    /// The deeper of two scopes, one of which encloses the other.
    pub fn deeper(&self, a: ScopeId, b: ScopeId) -> ScopeId {
        if self.scopes[a as usize].depth >= self.scopes[b as usize].depth { a } else { b }
    }

    /// Emits an instruction into a scope.
    pub fn put(&mut self, scope: ScopeId, f: impl FnOnce(&mut FuncCursor<'_>) -> ir::Value) -> At {
        At { v: f(&mut self.cursor(scope)), scope }
    }

    /// The 64-bit integer `value`.
    pub fn iconst(&mut self, value: i64) -> At {
        if let Some(&v) = self.iconsts.get(&value) {
            return At { v, scope: ENTRY };
        }
        let at = self.put(ENTRY, |c| c.ins().iconst(types::I64, value));
        self.iconsts.insert(value, at.v);
        at
    }

    /// Integer arithmetic on 64 bits, each result computed once.
    pub fn int(&mut self, op: IntOp, a: At, b: At) -> At {
        let scope = self.deeper(a.scope, b.scope);
        let key = (op, a.v, b.v);
        if let Some(&v) = self.scopes[scope as usize].known.get(&key) {
            return At { v, scope };
        }
        let at = self.put(scope, |c| match op {
            IntOp::Add => c.ins().iadd(a.v, b.v),
            IntOp::Mul => c.ins().imul(a.v, b.v),
            IntOp::Div => c.ins().udiv(a.v, b.v),
            IntOp::Rem => c.ins().urem(a.v, b.v),
        });
        self.scopes[scope as usize].known.insert(key, at.v);
        at
    }

    /// `a * factor`.
    pub fn scale(&mut self, a: At, factor: i64) -> At {
        if factor == 1 {
            return a;
        }
        let factor = self.iconst(factor);
        self.int(IntOp::Mul, a, factor)
    }

    /// A comparison of 64-bit integers.
    pub fn icmp(&mut self, cc: IntCC, a: At, b: At) -> At {
        let scope = self.deeper(a.scope, b.scope);
        self.put(scope, |c| c.ins().icmp(cc, a.v, b.v))
    }

    /// `cond ? a : b`.
    pub fn select(&mut self, cond: At, a: At, b: At) -> At {
        let scope = self.deeper(cond.scope, self.deeper(a.scope, b.scope));
        self.put(scope, |c| c.ins().select(cond.v, a.v, b.v))
    }

    /// A 64-bit value from memory that does not change.
    pub fn load_i64(&mut self, base: At, offset: i32) -> At {
        self.put(base.scope, |c| c.ins().load(types::I64, constant(), base.v, offset))
    }

    /// Memory on the stack and its address.
    pub fn stack(&mut self, bytes: u32) -> At {
        let slot = self.func.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 4));
        self.put(ENTRY, |c| c.ins().stack_addr(types::I64, slot, 0))
    }

    /// Opens a loop in `outer` (or deeper, where its bounds are computed).
    pub fn open_loop(&mut self, outer: ScopeId, begin: At, end: At, step: i64, init: &[At]) -> Loop {
        let mut outer = self.deeper(outer, self.deeper(begin.scope, end.scope));
        for at in init {
            outer = self.deeper(outer, at.scope);
        }
        let header = self.func.dfg.make_block();
        self.func.layout.append_block(header);
        let scope = self.scopes.len() as ScopeId;
        let depth = self.scopes[outer as usize].depth + 1;
        self.scopes.push(Scope { depth, block: header, known: HashMap::new() });
        let i = At { v: self.func.dfg.append_block_param(header, types::I64), scope };
        let carried = init
            .iter()
            .map(|at| {
                let ty = self.func.dfg.value_type(at.v);
                At { v: self.func.dfg.append_block_param(header, ty), scope }
            })
            .collect();
        let init = init.iter().map(|at| at.v).collect();
        Loop { scope, i, carried, outer, header, begin: begin.v, end: end.v, step, init }
    }

    /// Closes a loop; the carried values after it, in the loop's outer scope.
    pub fn close_loop(&mut self, open: Loop, next: &[At]) -> Vec<At> {
        let Loop { scope, i, outer, header, begin, end, step, init, .. } = open;
        let exit = self.func.dfg.make_block();
        self.func.layout.append_block(exit);
        let results = init
            .iter()
            .map(|&v| {
                let ty = self.func.dfg.value_type(v);
                At { v: self.func.dfg.append_block_param(exit, ty), scope: outer }
            })
            .collect();
        // A turn runs while a whole step fits: `i + (step - 1) < end`.
        let enter = |first: ir::Value, carried: Vec<ir::Value>, c: &mut FuncCursor<'_>| {
            let last = if step == 1 { first } else { c.ins().iadd_imm_s(first, step - 1) };
            let more = c.ins().icmp(IntCC::SignedLessThan, last, end);
            let exit_args: Vec<BlockArg> = carried.iter().map(|&v| v.into()).collect();
            let mut args: Vec<BlockArg> = vec![first.into()];
            args.extend(&exit_args);
            c.ins().brif(more, header, &args, exit, &exit_args);
        };
        enter(begin, init, &mut self.cursor(outer));
        let mut c = self.cursor(scope);
        let following = c.ins().iadd_imm_s(i.v, step);
        enter(following, next.iter().map(|at| at.v).collect(), &mut c);
        self.scopes[outer as usize].block = exit;
        results
    }
}
