//! Batched products of activations against f64.

use super::quant::every_storage;
use super::{Random, bits, close};
use crate::kernels::dot::{DotArgs, dot_on};
use crate::kernels::{Isa, Packed};

/// Strides of a `batch × rows × cols` operand in one of its layouts, and its length.
fn layout(random: &mut Random, batch: usize, rows: usize, cols: usize) -> ([i64; 3], usize) {
    let gap = random.pick(&[0, 2]);
    let strides = match random.pick(&[0, 1, 2]) {
        // Rows contiguous; columns contiguous; the matrices interleaved.
        0 => [rows * (cols + gap), cols + gap, 1],
        1 => [cols * (rows + gap), 1, rows + gap],
        _ => [cols, batch * cols + gap, 1],
    };
    (strides.map(|s| s as i64), batch.max(1) * (rows + gap) * (cols + gap) + (batch + 1) * (rows + cols) + 64)
}

#[test]
fn dot_is_the_product_on_every_isa_and_thread_count() {
    let mut random = Random(3);
    for round in 0..60 {
        let batch = random.pick(&[0, 1, 2, 3]);
        let m = random.pick(&[0, 1, 3, 12, 17, 97, 130]);
        let n = random.pick(&[0, 1, 5, 16, 33, 80, 300]);
        let k = random.pick(&[0, 1, 4, 31, 32, 256, 300]);
        // Deeper than what is packed at once.
        let (m, n, k) = if round % 20 == 7 { (m.min(17), n.min(80), 4200) } else { (m, n, k) };
        let (a_strides, a_len) = layout(&mut random, batch, m, k);
        let (b_strides, b_len) = layout(&mut random, batch, k, n);
        let (c_strides, c_len) = layout(&mut random, batch, m, n);
        let (a, b) = (random.values(a_len), random.values(b_len));
        let run = |isa: Isa, threads: usize, rows: std::ops::Range<usize>| {
            let mut c = vec![7.5f32; c_len];
            let args = DotArgs {
                a: a[rows.start * a_strides[1] as usize..].as_ptr(),
                a_batch: a_strides[0],
                a_row: a_strides[1],
                a_col: a_strides[2],
                weight: std::ptr::null(),
                b: b.as_ptr(),
                b_batch: b_strides[0],
                b_row: b_strides[1],
                b_col: b_strides[2],
                c: c.as_mut_ptr(),
                c_batch: c_strides[0],
                c_row: c_strides[1],
                c_col: c_strides[2],
                batch: batch as i64,
                m: rows.len() as i64,
                n: n as i64,
                k: k as i64,
            };
            for thread in 0..threads {
                // SAFETY: `layout` made the operands long enough for these sizes and strides.
                unsafe { dot_on(isa, &args, thread, threads) };
            }
            c
        };
        let at = |s: [i64; 3], b: usize, r: usize, c: usize| b * s[0] as usize + r * s[1] as usize + c * s[2] as usize;
        let mut expected = vec![(7.5, 0.0); c_len];
        for i in 0..batch {
            for r in 0..m {
                for j in 0..n {
                    let products =
                        (0..k).map(|x| f64::from(a[at(a_strides, i, r, x)]) * f64::from(b[at(b_strides, i, x, j)]));
                    let scale = products.clone().map(f64::abs).sum();
                    expected[at(c_strides, i, r, j)] = (products.sum(), scale);
                }
            }
        }
        let what = format!("round {round}: {batch} × {m} × {n} × {k}, {a_strides:?} {b_strides:?} {c_strides:?}");
        for isa in Isa::available() {
            let whole = run(isa, 1, 0..m);
            close(&whole, &expected, 4e-7, &format!("{what} {isa:?}"));
            for threads in [2, 3, 7] {
                assert_eq!(bits(&whole), bits(&run(isa, threads, 0..m)), "{what} {isa:?} on {threads} threads");
            }
            if m > 0 && batch > 0 {
                let row = random.bits() as usize % m;
                let alone = run(isa, 1, row..row + 1);
                for i in 0..batch {
                    for j in 0..n {
                        let found = alone[at(c_strides, i, 0, j)];
                        assert_eq!(found.to_bits(), whole[at(c_strides, i, row, j)].to_bits(), "{what} {isa:?}");
                    }
                }
            }
        }
    }
}

/// A weight as it is stored gives the bits that the rows of its values give.
#[test]
fn packed_weights_are_read_across() {
    let mut random = Random(29);
    // The last is deeper than what is packed at once.
    let sizes = [(3, 5, 0), (1, 1, 1), (2, 17, 5), (97, 48, 16), (5, 70, 33), (13, 430, 130), (2, 40, 4200)];
    for [m, n, k] in sizes.map(<[usize; 3]>::from) {
        let a = random.values(m * k);
        for (name, weight) in every_storage(&mut random, k, n) {
            let stored = Packed::new(&weight).unwrap();
            let mut rows = vec![0.0; k * n];
            rows.chunks_exact_mut(n).enumerate().for_each(|(i, row)| stored.row(i, row));
            for isa in Isa::available() {
                let run = |weight: *const u8, threads: usize| {
                    let mut c = vec![7.5f32; m * n];
                    let [m, n, k] = [m, n, k].map(|size| size as i64);
                    let args = DotArgs {
                        a: a.as_ptr(),
                        a_batch: m * k,
                        a_row: k,
                        a_col: 1,
                        weight,
                        b: rows.as_ptr(),
                        b_batch: k * n,
                        b_row: n,
                        b_col: 1,
                        c: c.as_mut_ptr(),
                        c_batch: m * n,
                        c_row: n,
                        c_col: 1,
                        batch: 1,
                        m,
                        n,
                        k,
                    };
                    for thread in 0..threads {
                        // SAFETY: the operands above have the sizes the arguments name.
                        unsafe { dot_on(isa, &args, thread, threads) };
                    }
                    bits(&c)
                };
                let expected = run(std::ptr::null(), 1);
                for threads in [1, 3] {
                    let found = run(weight.as_ptr(), threads);
                    assert!(found == expected, "{name} {m} × {n} × {k} {isa:?} on {threads} threads");
                }
            }
        }
    }
}
