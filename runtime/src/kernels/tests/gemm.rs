//! Packed products against f64.

use half::{bf16, f16};
use lith_ir::dtype::DType;
use lith_ir::quant::Storage;

use super::{Random, bits, close};
use crate::kernels::gemm::{GemmArgs, gemm_on};
use crate::kernels::{Isa, pack_floats, packed_len};

struct Case {
    m: usize,
    n: usize,
    k: usize,
    lda: usize,
    ldc: usize,
    a: Vec<f32>,
    /// The weights as stored, widened again: `[n, k]`.
    w: Vec<f32>,
    panels: Vec<u8>,
}

impl Case {
    fn new(random: &mut Random, m: usize, n: usize, k: usize, dtype: DType) -> Case {
        let (lda, ldc) = (k + random.pick(&[0, 0, 3]), n + random.pick(&[0, 0, 5]));
        let a = random.values(m * lda);
        let w = random.values(n * k);
        let bytes: Vec<u8> = match dtype {
            DType::F32 => w.iter().flat_map(|x| x.to_le_bytes()).collect(),
            DType::Bf16 => w.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
            _ => w.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        };
        let w = match dtype {
            DType::F32 => w,
            DType::Bf16 => w.iter().map(|&x| bf16::from_f32(x).to_f32()).collect(),
            _ => w.iter().map(|&x| f16::from_f32(x).to_f32()).collect(),
        };
        let mut panels = vec![0; packed_len(n, k, &Storage::Float(dtype)).unwrap()];
        pack_floats(&bytes, dtype, n, k, &mut panels).unwrap();
        Case { m, n, k, lda, ldc, a, w, panels }
    }

    /// C with the epilogue `2 c + 1`, its gaps and each element's number of epilogue calls checked.
    fn run(&self, isa: Isa, threads: usize, rows: std::ops::Range<usize>) -> Vec<f32> {
        let m = rows.len();
        let gap = 7.5;
        let mut c = vec![gap; m * self.ldc];
        let mut env = Env { c: c.as_mut_ptr(), ldc: self.ldc, calls: vec![0; m * self.n], n: self.n };
        let args = GemmArgs {
            a: self.a[rows.start * self.lda..].as_ptr(),
            lda: self.lda as i64,
            b: self.panels.as_ptr(),
            c: c.as_mut_ptr(),
            ldc: self.ldc as i64,
            row: 0,
            m: m as i64,
            n: self.n as i64,
            k: self.k as i64,
            activations: 0,
            epilogue: Some(epilogue),
            env: (&raw mut env).cast(),
        };
        for thread in 0..threads {
            // SAFETY: the operands above have the sizes the arguments name, and outlive the call.
            unsafe { gemm_on(isa, &args, thread, threads) };
        }
        assert!(env.calls.iter().all(|&calls| calls == 1), "the epilogue sees each element once");
        let mut out = Vec::new();
        for row in c.chunks(self.ldc.max(1)) {
            out.extend_from_slice(&row[..self.n]);
            assert!(row[self.n..].iter().all(|&x| x == gap), "nothing is written between the rows");
        }
        out
    }

    /// Values, and the scale their rounding errors are relative to.
    fn reference(&self) -> Vec<(f64, f64)> {
        let mut out = Vec::new();
        for r in 0..self.m {
            for j in 0..self.n {
                let products =
                    (0..self.k).map(|i| f64::from(self.a[r * self.lda + i]) * f64::from(self.w[j * self.k + i]));
                let sum: f64 = products.clone().sum();
                out.push((2.0 * sum + 1.0, 2.0 * products.map(f64::abs).sum::<f64>() + 1.0));
            }
        }
        out
    }
}

struct Env {
    c: *mut f32,
    ldc: usize,
    calls: Vec<u32>,
    n: usize,
}

extern "C" fn epilogue(env: *const u8, r0: i64, r1: i64, c0: i64, c1: i64) {
    // SAFETY: `Case::run` passes an `Env` whose C has these rows and columns; the calls come one after the other.
    let env = unsafe { &mut *env.cast::<Env>().cast_mut() };
    for r in r0 as usize..r1 as usize {
        for j in c0 as usize..c1 as usize {
            env.calls[r * env.n + j] += 1;
            // SAFETY: as above.
            unsafe {
                let c = env.c.add(r * env.ldc + j);
                *c = 2.0 * *c + 1.0;
            }
        }
    }
}

const SIZES: [usize; 12] = [1, 2, 5, 7, 12, 13, 16, 31, 48, 65, 100, 129];

#[test]
fn gemm_is_the_product_on_every_isa_thread_count_and_batch() {
    let mut random = Random(1);
    for round in 0..60 {
        let dtype = random.pick(&[DType::F32, DType::F32, DType::Bf16, DType::F16]);
        let (m, n) = (random.pick(&SIZES), random.pick(&SIZES));
        let k = random.pick(&[0, 1, 3, 16, 33, 256, 257, 700]);
        let case = Case::new(&mut random, m, n, k, dtype);
        let what = format!("round {round}: m {m} n {n} k {k} {dtype:?}");
        let mut all = Vec::new();
        for isa in Isa::available() {
            let whole = case.run(isa, 1, 0..m);
            close(&whole, &case.reference(), 3e-7, &format!("{what} {isa:?}"));
            for threads in [2, 3, 7] {
                assert_eq!(bits(&whole), bits(&case.run(isa, threads, 0..m)), "{what} {isa:?} on {threads} threads");
            }
            let row = random.bits() as usize % m;
            let alone = case.run(isa, 1, row..row + 1);
            assert_eq!(bits(&alone), bits(&whole[row * n..][..n]), "{what} {isa:?}: row {row} alone");
            if isa != Isa::Portable {
                all.push(bits(&whole));
            }
        }
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{what}: instruction sets with FMA agree");
    }
}

#[test]
fn gemm_of_nothing_does_nothing() {
    let mut random = Random(2);
    for (m, n) in [(0, 5), (3, 0), (0, 0)] {
        let case = Case::new(&mut random, m, n, 4, DType::F32);
        for isa in Isa::available() {
            assert!(case.run(isa, 2, 0..m).is_empty());
        }
    }
}
