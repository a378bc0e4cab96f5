//! Calls of functions: a run of calls of one function is a loop over a table of addresses, so that code does not grow
//! with the number of layers.

use std::mem::offset_of;

use cranelift_codegen::ir::{InstBuilder, types};
use lith_ir::plan::{Kernel, KernelKind, Layout, Place};
use lith_ir::{DType, Literal, NodeId, Op, Value};
use lith_runtime::abi::Context;

use crate::CodegenError;
use crate::builder::{At, ENTRY, IntOp, plain};
use crate::entry::{GraphCode, signature};
use crate::link::import;

/// An address as the table has it: one of a few base addresses and an offset that is known now.
struct Address {
    base: At,
    offset: i64,
}

impl GraphCode<'_, '_, '_> {
    /// Emits the calls at the start of `kernels` that go to one function; returns how many there are.
    pub(crate) fn calls(&mut self, kernels: &[Kernel]) -> Result<usize, CodegenError> {
        let callee = |kernel: &Kernel| match kernel.kind {
            KernelKind::Call { core } => match &self.graph.node(core).op {
                Op::Call { function, .. } => Some((core, function.clone())),
                _ => None,
            },
            _ => None,
        };
        let Some((_, function)) = kernels.first().and_then(callee) else { return Ok(0) };
        let run: Vec<NodeId> =
            kernels.iter().map_while(callee).take_while(|(_, f)| *f == function).map(|(core, _)| core).collect();
        // Functions leave no thread behind, so this is the one barrier of the run.
        if self.hazards.pending() {
            self.barrier();
        }
        let mut rows = Vec::with_capacity(run.len());
        for &core in &run {
            rows.push(self.addresses(core, &function)?);
        }
        let operands = self.graph.inputs(run[0]).len();
        self.call_loop(&function, operands, &rows)?;
        Ok(run.len())
    }

    /// Addresses of the operands, the results and the arena of a call.
    fn addresses(&mut self, core: NodeId, function: &str) -> Result<Vec<Address>, CodegenError> {
        let Op::Call { results, .. } = &self.graph.node(core).op else {
            return self.wrong("a call of no function");
        };
        let Some(offset) = self.plan.call_arenas.get(&core) else {
            return self.wrong(format!("no arena for the call of `{function}`"));
        };
        let layouts = self.shared.arg_layouts.get(function).cloned().unwrap_or_default();
        let mut addresses = Vec::new();
        for (i, value) in self.graph.inputs(core).into_iter().enumerate() {
            addresses.push(self.table_address(value, layouts.get(i).copied().unwrap_or(Layout::Rows))?);
        }
        for result in 0..results.len() {
            addresses.push(self.table_address(Value { node: core, result: result as u32 }, Layout::Rows)?);
        }
        let offset = self.dim(offset);
        let base = self.b.int(IntOp::Add, self.arena, offset);
        addresses.push(Address { base, offset: 0 });
        Ok(addresses)
    }

    /// Weights and states differ from call to call and go by their offset; all else has few addresses, which repeat.
    fn table_address(&mut self, value: Value, layout: Layout) -> Result<Address, CodegenError> {
        match self.plan.places.get(&self.root(value)) {
            Some(Place::Param(name)) => {
                let Some(entry) = self.shared.weights.get(name, layout) else {
                    return self.wrong(format!("parameter `{name}` has no {layout:?} layout"));
                };
                let offset = entry.offset as i64;
                let base = self.field(self.context, offset_of!(Context, weights) as i32);
                Ok(Address { base, offset })
            }
            Some(Place::State(name)) => {
                let name = name.clone();
                let (base, offset) = self.state(&name)?;
                Ok(Address { base, offset })
            }
            _ => Ok(Address { base: self.address(value, layout)?, offset: 0 }),
        }
    }

    /// `for row in table { for slot in row { pointers[slot] = bases[slot.base] + slot.offset }; function(pointers) }`
    fn call_loop(&mut self, function: &str, operands: usize, rows: &[Vec<Address>]) -> Result<(), CodegenError> {
        let Some(&id) = self.shared.functions.get(function) else {
            return self.wrong(format!("no function `{function}`"));
        };
        let slots = rows[0].len();
        if rows.iter().any(|row| row.len() != slots) {
            return self.wrong(format!("calls of `{function}` with different numbers of operands"));
        }
        let mut bases: Vec<At> = Vec::new();
        let mut table: Vec<u8> = Vec::new();
        for address in rows.iter().flatten() {
            let at = bases.iter().position(|b| *b == address.base).unwrap_or_else(|| {
                bases.push(address.base);
                bases.len() - 1
            });
            table.extend((8 * at as i64).to_le_bytes());
            table.extend(address.offset.to_le_bytes());
        }
        let Some(literal) = Literal::new(DType::I64, vec![rows.len(), slots, 2], table) else {
            return self.wrong("a table of calls that does not fit its shape");
        };
        let table = self.shared.tables.constants.place(&literal) as i64;
        let consts = self.field(self.context, offset_of!(Context, consts) as i32);
        let table = self.b.iconst(table);
        let table = self.b.int(IntOp::Add, consts, table);
        let base_array = self.b.stack(8 * bases.len() as u32);
        for (i, base) in bases.iter().enumerate() {
            self.b.cursor(ENTRY).ins().store(plain(), base.v, base_array.v, 8 * i as i32);
        }
        let pointers = self.b.stack(8 * slots as u32);
        let [zero, row_count, slot_count] = [0, rows.len() as i64, slots as i64].map(|k| self.b.iconst(k));

        let calls = self.b.open_loop(ENTRY, zero, row_count, 1, &[]);
        let row = self.b.scale(calls.i, 16 * slots as i64);
        let row = self.b.int(IntOp::Add, table, row);
        let fill = self.b.open_loop(calls.scope, zero, slot_count, 1, &[]);
        let entry = self.b.scale(fill.i, 16);
        let entry = self.b.int(IntOp::Add, row, entry);
        let (base, offset) = (self.b.load_i64(entry, 0), self.b.load_i64(entry, 8));
        let base = self.b.int(IntOp::Add, base_array, base);
        // The array of bases is written before the loops and by nobody in them.
        let base = self.b.put(base.scope, |c| c.ins().load(types::I64, plain(), base.v, 0));
        let pointer = self.b.int(IntOp::Add, base, offset);
        let to = self.b.scale(fill.i, 8);
        let to = self.b.int(IntOp::Add, pointers, to);
        self.b.cursor(fill.scope).ins().store(plain(), pointer.v, to.v, 0);
        self.b.close_loop(fill, &[]);

        let scope = calls.scope;
        let results = self.b.iconst(8 * operands as i64);
        let results = self.b.int(IntOp::Add, pointers, results);
        let arena = self.b.put(scope, |c| c.ins().load(types::I64, plain(), pointers.v, 8 * (slots as i32 - 1)));
        let args = [self.context, self.thread, self.threads, arena, pointers, results];
        let args: Vec<_> = args.iter().map(|a| a.v).collect();
        let callee = import(&mut self.b.func, id, signature(args.len()));
        self.b.cursor(scope).ins().call(callee, &args);
        self.b.close_loop(calls, &[]);
        Ok(())
    }
}
