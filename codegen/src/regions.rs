//! Regions as machine code, twice: as a function of a block of rows, which runs all kernels for them, and as one that
//! shares each kernel among the threads, with barriers. The runtime takes the one that suits the number of rows.

use std::mem::{offset_of, size_of};

use cranelift_codegen::ir::{InstBuilder, types};
use cranelift_codegen::isa::CallConv;
use lith_ir::plan::{Kernel, Region};
use lith_ir::{Dim, Value};
use lith_runtime::abi::{RegionArgs, Table};

use crate::CodegenError;
use crate::builder::{At, Builder, ENTRY, IntOp};
use crate::cores::Field;
use crate::entry::{GraphCode, Of, signature};
use crate::hazards::{Access, Bytes};
use crate::link::{FunctionId, import};
use crate::loops::Span;

/// The rows that a function computes, and where it keeps what is inner to the region.
pub(crate) struct Block<'s> {
    region: &'s Region,
    begin: At,
    end: At,
    /// How many rows behind the place of its first row the block's rows of inner values lie; may be negative.
    ahead: At,
}

impl GraphCode<'_, '_, '_> {
    /// First row and number of rows of the block; of `all` rows where there is none.
    pub(crate) fn first_and_count(&mut self, all: &Dim) -> [At; 2] {
        match self.block {
            None => [self.b.iconst(0), self.dim(all)],
            Some(Block { begin, end, .. }) => {
                let count = self.b.put(ENTRY, |c| c.ins().isub(end.v, begin.v));
                [begin, count]
            }
        }
    }

    /// The bounds of a loop for the rows of the block, if there is one.
    pub(crate) fn block_of(&mut self, span: &Span, kernel: &Kernel) -> Result<Option<[At; 2]>, CodegenError> {
        let Some(Block { region, begin, end, .. }) = self.block else { return Ok(None) };
        let total = match span {
            Span::Elements(n) => n,
            Span::Rows { rows, .. } => rows,
        };
        // What the loop counts for each row of the region: elements of some of the axes behind the first.
        let shapes = kernel.outputs.iter().map(|v| &self.graph.ty(*v).shape);
        let mut counts = shapes.flat_map(|shape| {
            shape.iter().skip(1).scan(Dim::constant(1), |n, d| {
                *n = n.clone() * d.clone();
                Some(n.clone())
            })
        });
        let one = Dim::constant(1);
        let fits = |n: &Dim| region.rows.clone() * n.clone() == *total;
        let unit = if fits(&one) { Some(one) } else { counts.find(fits) };
        let Some(unit) = unit else {
            return self.wrong("a loop of a region over other rows");
        };
        let unit = self.dim(&unit);
        Ok(Some([begin, end].map(|row| self.b.int(IntOp::Mul, row, unit))))
    }

    /// The address that makes row r of a value lie where the block has it, from the address of the whole value.
    pub(crate) fn shifted(&mut self, value: Value, at: At) -> At {
        let Some(Block { region, ahead, .. }) = self.block else { return at };
        if !region.inner.contains(&value) {
            return at;
        }
        let bytes = row_bytes(self, value);
        let bytes = self.dim(&bytes);
        let bytes = self.b.int(IntOp::Mul, ahead, bytes);
        self.b.int(IntOp::Add, at, bytes)
    }

    /// Emits a region.
    pub(crate) fn region(&mut self, region: &Region) -> Result<(), CodegenError> {
        let kernels = &self.plan.kernels[region.kernels.clone()];
        let mut accesses: Vec<Access> = kernels.iter().flat_map(|k| self.accesses(k)).collect();
        accesses.push(Access { bytes: Bytes::Tickets, write: true });
        if self.hazards.conflict(&accesses, &self.shared.program.symbols) {
            self.barrier();
        }
        let by_rows = self.part(region, true)?;
        let by_kernels = self.part(region, false)?;
        // What a row of the widest kernel reads and stores.
        let bytes = |v: Value| row_bytes(self, v).as_const().unwrap_or(0);
        let of_rows = |v: &Value| self.graph.ty(*v).shape.first() == Some(&region.rows);
        let touched =
            |k: &Kernel| self.operands(k).into_iter().filter(of_rows).chain(k.outputs.iter().copied()).map(bytes).sum();
        let row: i64 = kernels.iter().map(touched).max().unwrap_or(0);
        let fields = vec![
            (offset_of!(RegionArgs, context), Field::At(self.context)),
            (offset_of!(RegionArgs, arena), Field::At(self.arena)),
            (offset_of!(RegionArgs, args), Field::At(self.args)),
            (offset_of!(RegionArgs, results), Field::At(self.results)),
            (offset_of!(RegionArgs, rows), Field::Size(region.rows.clone())),
            (offset_of!(RegionArgs, row_bytes), Field::Number(row)),
            (offset_of!(RegionArgs, by_rows), Field::At(self.pointer(by_rows, 7))),
            (offset_of!(RegionArgs, by_kernels), Field::At(self.pointer(by_kernels, 6))),
        ];
        self.core(offset_of!(Table, region), size_of::<RegionArgs>(), fields)?;
        self.hazards.add(accesses);
        Ok(())
    }

    /// The address of a function of so many integers.
    pub(crate) fn pointer(&mut self, function: FunctionId, params: usize) -> At {
        let function = import(&mut self.b.func, function, signature(params));
        self.b.put(ENTRY, |c| c.ins().func_addr(types::I64, function))
    }

    /// The kernels of a region as a function: a `lith_runtime::abi::RowsFn`, or a `lith_runtime::abi::KernelsFn`.
    fn part(&mut self, region: &Region, by_rows: bool) -> Result<FunctionId, CodegenError> {
        let (mut b, params) = Builder::new(if by_rows { 7 } else { 6 }, CallConv::SystemV);
        let of = Of { name: self.name, graph: self.graph, plan: self.plan };
        let form = if by_rows { "by rows" } else { "by kernels" };
        let name = format!("{}.{}..{} {form}", self.name, region.kernels.start, region.kernels.end);
        let [context, x, y, z, begin, end] = [0, 1, 2, 3, 4, 5].map(|i| params[i]);
        let mut code = if by_rows {
            let alone = [b.iconst(0), b.iconst(1)];
            let mut code = GraphCode::new(self.shared, of, b, context, alone, [x, y, z]);
            let first = params[6];
            let ahead = code.b.put(ENTRY, |c| c.ins().isub(first.v, begin.v));
            code.block = Some(Block { region, begin, end, ahead });
            code
        } else {
            GraphCode::new(self.shared, of, b, context, [x, y], [z, begin, end])
        };
        for index in region.kernels.clone() {
            code.kernel(index, &code.plan.kernels[index])?;
        }
        let function = code.b.finish(None);
        let id = self.shared.text.declare(name);
        self.shared.text.define(id, function)?;
        Ok(id)
    }
}

/// Bytes of a row of a value.
fn row_bytes(code: &GraphCode<'_, '_, '_>, value: Value) -> Dim {
    let ty = code.graph.ty(value);
    let elements = ty.shape.iter().skip(1).cloned().fold(Dim::constant(1), |a, d| a * d);
    elements * Dim::constant(ty.dtype.size() as i64)
}
