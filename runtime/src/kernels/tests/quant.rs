//! Packed quantized weights: nothing lost in packing, and both kinds of products against their definitions.

use lith_ir::dtype::DType;
use lith_ir::quant::{PER_ROW, QuantMatrix, Scales, Scheme, Storage, Values};

use super::{Random, bits, close};
use crate::kernels::embed::{EmbedArgs, embed_panels};
use crate::kernels::gemm::{GemmArgs, gemm_on};
use crate::kernels::{Isa, PackError, Packed, pack_floats, pack_quantized, packed_len};

const fn offset(bits: u8, zero: u8, group: usize, scales: Scales, mins: bool) -> Scheme {
    Scheme { bits, values: Values::Offset { zero }, group, scales, mins }
}

/// What files and quantizers make, and some that nobody makes yet.
const SCHEMES: [(&str, Scheme); 25] = [
    ("Q4_0", offset(4, 8, 32, Scales::F16, false)),
    ("Q4_1", offset(4, 0, 32, Scales::F16, true)),
    ("Q5_0", offset(5, 16, 32, Scales::F16, false)),
    ("Q5_1", offset(5, 0, 32, Scales::F16, true)),
    ("Q8_0", offset(8, 128, 32, Scales::F16, false)),
    ("Q2_K", offset(2, 0, 16, Scales::Super { groups: 16 }, true)),
    ("Q3_K", offset(3, 4, 16, Scales::Super { groups: 16 }, false)),
    ("Q4_K", offset(4, 0, 32, Scales::Super { groups: 8 }, true)),
    ("Q5_K", offset(5, 0, 32, Scales::Super { groups: 8 }, true)),
    ("Q6_K", offset(6, 32, 16, Scales::Super { groups: 16 }, false)),
    ("IQ4_NL", Scheme { values: Values::Nl4, ..offset(4, 0, 32, Scales::F16, false) }),
    ("IQ4_XS", Scheme { values: Values::Nl4, ..offset(4, 0, 32, Scales::Super { groups: 8 }, false) }),
    ("int8", offset(8, 128, PER_ROW, Scales::F32, false)),
    ("int8 group 32", offset(8, 128, 32, Scales::F32, false)),
    ("int4 group 32", offset(4, 8, 32, Scales::F16, false)),
    ("int4 group 128", offset(4, 8, 128, Scales::F16, false)),
    ("int4 group 128, minima", offset(4, 0, 128, Scales::F16, true)),
    ("nf4", Scheme { values: Values::Nf4, ..offset(4, 0, 64, Scales::F16, false) }),
    ("nf4, minima", Scheme { values: Values::Nf4, ..offset(4, 0, 64, Scales::F32, true) }),
    ("1 bit", offset(1, 0, 48, Scales::F32, true)),
    ("2 bits", offset(2, 1, 32, Scales::F32, false)),
    ("3 bits", offset(3, 3, PER_ROW, Scales::F32, true)),
    ("7 bits", offset(7, 64, 32, Scales::F32, false)),
    ("8 bits, minima", offset(8, 0, 16, Scales::F32, true)),
    ("4 bits, zero 128", offset(4, 128, 80, Scales::F32, false)),
];

/// Any codes, among them the extreme ones; scales a kind can hold.
fn matrix(random: &mut Random, scheme: Scheme, rows: usize, cols: usize) -> QuantMatrix {
    let most = u8::MAX >> (8 - scheme.bits);
    let extreme = random.bits().is_multiple_of(4);
    let codes = (0..rows * cols).map(|_| if extreme { most } else { random.bits() as u8 & most }).collect();
    let per_row = rows * scheme.scales_per_row(cols);
    let groups = if matches!(scheme.scales, Scales::Super { .. }) { rows * scheme.groups(cols) } else { 0 };
    let number = |random: &mut Random| {
        let x = random.value() / 16.0;
        if scheme.scales == Scales::F32 { x } else { half::f16::from_f32(x).to_f32() }
    };
    let found = QuantMatrix {
        scheme,
        rows,
        cols,
        codes,
        scales: (0..per_row).map(|_| number(random)).collect(),
        mins: (0..if scheme.mins { per_row } else { 0 }).map(|_| number(random)).collect(),
        sub_scales: (0..groups).map(|_| random.bits() as i8).collect(),
        sub_mins: (0..if scheme.mins { groups } else { 0 }).map(|_| random.bits() as u8).collect(),
    };
    found.check().unwrap();
    found
}

fn packed(matrix: &QuantMatrix) -> Vec<u8> {
    let mut out = vec![0xAA; packed_len(matrix.rows, matrix.cols, &Storage::Quantized(matrix.scheme)).unwrap()];
    pack_quantized(matrix, &mut out).unwrap();
    out
}

fn packed_f32(values: &[f32], n: usize, k: usize) -> Vec<u8> {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut out = vec![0; packed_len(n, k, &Storage::Float(DType::F32)).unwrap()];
    pack_floats(&bytes, DType::F32, n, k, &mut out).unwrap();
    out
}

/// Packed weights of every scheme, and of floats.
pub fn every_storage(random: &mut Random, n: usize, k: usize) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for (name, scheme) in SCHEMES {
        found.push((name.to_string(), packed(&matrix(random, scheme, n, k))));
    }
    let values = random.values(n * k);
    let halves = |half: &dyn Fn(f32) -> u16| values.iter().flat_map(|x| half(*x).to_le_bytes()).collect::<Vec<u8>>();
    for (dtype, bytes) in [
        (DType::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect()),
        (DType::F16, halves(&|x| half::f16::from_f32(x).to_bits())),
        (DType::Bf16, halves(&|x| half::bf16::from_f32(x).to_bits())),
    ] {
        let mut out = vec![0; packed_len(n, k, &Storage::Float(dtype)).unwrap()];
        pack_floats(&bytes, dtype, n, k, &mut out).unwrap();
        found.push((dtype.to_string(), out));
    }
    found
}

struct Product<'a> {
    a: &'a [f32],
    lda: usize,
    b: &'a [u8],
    n: usize,
    k: usize,
    activations: i64,
}

impl Product<'_> {
    fn run(&self, isa: Isa, threads: usize, rows: std::ops::Range<usize>) -> Vec<f32> {
        let m = rows.len();
        let mut c = vec![7.5f32; m * (self.n + 3)];
        let args = GemmArgs {
            a: self.a[rows.start * self.lda..].as_ptr(),
            lda: self.lda as i64,
            b: self.b.as_ptr(),
            c: c.as_mut_ptr(),
            ldc: self.n as i64 + 3,
            row: 0,
            m: m as i64,
            n: self.n as i64,
            k: self.k as i64,
            activations: self.activations,
            epilogue: None,
            env: std::ptr::null(),
        };
        for thread in 0..threads {
            // SAFETY: the operands above have the sizes the arguments name.
            unsafe { gemm_on(isa, &args, thread, threads) };
        }
        let mut out = Vec::new();
        for row in c.chunks_exact(self.n + 3) {
            out.extend_from_slice(&row[..self.n]);
            assert_eq!(row[self.n..], [7.5; 3], "nothing is written between the rows");
        }
        out
    }

    /// The result, the same on every instruction set, number of threads, and cut of rows. Where plain Rust has no fused
    /// multiply-add it rounds twice (see [`Isa`]) and is only close.
    fn same_everywhere(&self, random: &mut Random, m: usize, what: &str) -> Vec<f32> {
        let mut all = Vec::new();
        for isa in Isa::available() {
            let whole = self.run(isa, 1, 0..m);
            for threads in [2, 3] {
                assert_eq!(bits(&whole), bits(&self.run(isa, threads, 0..m)), "{what} {isa:?} on {threads} threads");
            }
            for _ in 0..2 {
                let start = random.bits() as usize % m;
                let end = start + 1 + random.bits() as usize % (m - start);
                let some = self.run(isa, 1, start..end);
                let there = &whole[start * self.n..end * self.n];
                assert_eq!(bits(&some), bits(there), "{what} {isa:?}: rows {start}..{end} of {m}");
            }
            all.push(whole);
        }
        let best = all.pop().unwrap_or_default();
        let largest = best.iter().fold(0.0, |m: f64, &x| m.max(f64::from(x.abs())));
        for (isa, other) in Isa::available().zip(&all) {
            if isa == Isa::Portable && !cfg!(target_feature = "fma") {
                let expected: Vec<_> = best.iter().map(|&x| (f64::from(x), largest)).collect();
                close(other, &expected, 1e-5, &format!("{what} {isa:?}"));
            } else {
                assert_eq!(bits(other), bits(&best), "{what}: instruction sets agree");
            }
        }
        best
    }
}

const KS: [usize; 10] = [1, 16, 31, 32, 48, 100, 256, 288, 300, 530];

#[test]
fn packing_loses_nothing() {
    let mut random = Random(21);
    for (name, scheme) in SCHEMES {
        for (n, k) in [(0, 40), (1, 1), (16, 32), (17, 100), (33, 0), (40, 300)] {
            let matrix = matrix(&mut random, scheme, n, k);
            let bytes = packed(&matrix);
            let view = Packed::new(&bytes).unwrap();
            assert_eq!((view.n(), view.k(), view.storage()), (n, k, Storage::Quantized(scheme)), "{name}");
            assert_eq!(view.quantized().unwrap(), matrix, "{name} {n} by {k}");
            let (mut found, mut expected) = (vec![0.0; k], vec![0.0; k]);
            for row in 0..n {
                view.row(row, &mut found);
                matrix.row(row, &mut expected);
                assert_eq!(bits(&found), bits(&expected), "{name} row {row} of {n} by {k}");
            }
        }
    }
}

#[test]
fn what_cannot_be_packed_is_an_error() {
    let mut random = Random(22);
    let good = matrix(&mut random, SCHEMES[1].1, 3, 40);
    let mut out = vec![0; packed_len(3, 40, &Storage::Quantized(good.scheme)).unwrap()];
    let mut error = |change: &dyn Fn(&mut QuantMatrix)| {
        let mut bad = good.clone();
        change(&mut bad);
        pack_quantized(&bad, &mut out).unwrap_err().to_string()
    };
    assert!(error(&|m| m.codes[41] = 16).contains("row 1 of a quantized matrix: code 16"));
    assert!(error(&|m| m.mins[5] = 0.1).contains("row 2 of a quantized matrix: minimum 0.1"));
    assert!(error(&|m| m.scheme.group = 24).contains("multiple of 16"));
    assert!(error(&|m| m.scheme.bits = 0).contains("1 to 8 bits"));
    assert!(error(&|m| m.scheme.bits = 9).contains("1 to 8 bits"));
    assert!(error(&|m| m.scheme.values = Values::Offset { zero: 129 }).contains("at most 128"));
    assert!(error(&|m| m.scheme.scales = Scales::Super { groups: 0 }).contains("super groups"));
    assert!(error(&|m| m.rows = 4).contains("codes of a quantized 4 by 40 matrix"));
    assert!(error(&|m| m.scales.truncate(2)).contains("scales"));
    let nf4 = Scheme { bits: 8, values: Values::Nf4, ..good.scheme };
    assert!(packed_len(1, 1, &Storage::Quantized(nf4)).unwrap_err().to_string().contains("four-bit"));
    for storage in [Storage::Quantized(good.scheme), Storage::Float(DType::F32)] {
        let (n, k) = (usize::MAX / 4, usize::MAX / 4);
        assert_eq!(packed_len(n, k, &storage), Err(PackError::TooLarge { n, k }));
        let (n, k) = (usize::MAX, 1);
        assert_eq!(packed_len(n, k, &storage), Err(PackError::TooLarge { n, k }));
    }
    assert_eq!(packed_len(1, 1, &Storage::Float(DType::I32)), Err(PackError::DType(DType::I32)));
    let found = pack_quantized(&good, &mut out[1..]).unwrap_err();
    assert!(matches!(found, PackError::Length { what: "the packed form", .. }), "{found}");
}

#[test]
fn bytes_that_are_no_packed_weights_are_errors() {
    let mut random = Random(23);
    for (_, scheme) in SCHEMES {
        let bytes = packed(&matrix(&mut random, scheme, 5, 48));
        assert!(Packed::new(&bytes).is_ok());
        for len in [0, 3, 63, 64, bytes.len() - 1] {
            assert!(Packed::new(&bytes[..len]).is_err(), "{len} bytes");
        }
        // Any header: an error or a view, never a panic.
        for _ in 0..300 {
            let mut bad = bytes.clone();
            for _ in 0..=random.bits() % 3 {
                bad[random.bits() as usize % 64] = random.bits() as u8;
            }
            if let Ok(view) = Packed::new(&bad) {
                let mut row = vec![0.0; view.k()];
                (0..view.n()).for_each(|i| view.row(i, &mut row));
            }
        }
    }
}

/// Columns of a unit of the sums of products: 32, or 16 where groups cut 32.
fn unit(w: &QuantMatrix) -> usize {
    let unit = if w.scheme.group == PER_ROW || w.scheme.group.is_multiple_of(32) { 32 } else { 16 };
    // With one group that reaches to the end of the row there is nothing to cut.
    if w.scheme.group >= w.cols.next_multiple_of(32) { 32 } else { unit }
}

/// The definition of the product of a row of floats and an output, as the module says.
fn float_product(a: &[f32], w: &QuantMatrix, output: usize) -> f32 {
    let mut acc = 0.0f32;
    for (number, x) in a.chunks(unit(w)).enumerate() {
        let column = number * unit(w);
        let (scale, min) = w.scale_and_min(output, column / w.scheme.group);
        let mut sum = 0.0f32;
        let mut lanes = [0.0f32; 16];
        for (i, &x) in x.iter().enumerate() {
            sum = x.mul_add(w.scheme.values.value(w.codes[output * w.cols + column + i]), sum);
            lanes[i % 16] += x;
        }
        acc = sum.mul_add(scale, acc);
        if w.scheme.mins {
            let eight: [f32; 8] = std::array::from_fn(|i| lanes[i] + lanes[i + 8]);
            let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
            acc = min.mul_add(-((four[0] + four[2]) + (four[1] + four[3])), acc);
        }
    }
    acc
}

#[test]
fn floats_times_codes_are_sums_of_units_scaled() {
    let mut random = Random(24);
    for (name, scheme) in SCHEMES {
        for m in [1, 2, 4, 5, 27] {
            let (n, k) = (random.pick(&[1, 15, 16, 33, 100, 600 / m]), random.pick(&KS));
            let lda = k + random.pick(&[0, 5]);
            let what = format!("{name}: {m} x {n} x {k}");
            let (matrix, a) = (matrix(&mut random, scheme, n, k), random.values(m * lda));
            let (codes, values) = (packed(&matrix), matrix.dequantize());
            let coded = if scheme.values == Values::Nf4 { 2 } else { 0 };
            for activations in 0..=coded {
                let product = Product { a: &a, lda, b: &codes, n, k, activations };
                let found = product.same_everywhere(&mut random, m, &what);
                for r in 0..m {
                    let mut row = a[r * lda..][..k].to_vec();
                    if activations != 0 {
                        let quantized = quantize(&row, activations);
                        row = quantized.iter().flat_map(|(c, s)| c.iter().map(move |&c| c as f32 * s)).collect();
                    }
                    for j in 0..n {
                        let (found, expected) = (found[r * n + j], float_product(&row, &matrix, j));
                        if Isa::detect() > Isa::Portable || cfg!(target_feature = "fma") {
                            assert_eq!(found.to_bits(), expected.to_bits(), "{what}: row {r} output {j}");
                        }
                        let terms = row.iter().zip(&values[j * k..]).map(|(&a, &w)| f64::from(a) * f64::from(w));
                        let sum: f64 = terms.sum();
                        // A minimum may cancel what codes sum to, so errors are relative to the parts.
                        let parts: f64 = row.iter().map(|a| f64::from(a.abs())).sum::<f64>() * 300.0;
                        let error = (f64::from(found) - sum).abs();
                        assert!(error <= 1e-6 * parts, "{what}: row {r} output {j}: {found} for {sum}");
                    }
                }
            }
        }
    }
}

/// The codes of a row in groups of 32 columns, and their scales.
fn quantize(row: &[f32], bytes: i64) -> Vec<(Vec<i32>, f32)> {
    let greatest = if bytes == 1 { 127.0 } else { 32512.0 };
    let group = |x: &[f32]| {
        let most = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let code = |x: &f32| if most == 0.0 { 0 } else { (x * (greatest / most)).round_ties_even() as i32 };
        (x.iter().map(code).collect(), most / greatest)
    };
    row.chunks(32).map(group).collect()
}

/// The bytes of a code, and what they count.
fn bytes_of(code: i32, bytes: i64) -> Vec<(i32, f32)> {
    if bytes == 1 {
        return vec![(code, 1.0)];
    }
    let first = (f64::from(code) / 255.0).round() as i32;
    vec![(first, 255.0), (code - 255 * first, 1.0)]
}

/// The definition of the product of a row of codes and an output, as the module says.
fn integer_product(a: &[(Vec<i32>, f32)], bytes: i64, w: &QuantMatrix, output: usize) -> f32 {
    let zero = if let Values::Offset { zero } = w.scheme.values { i32::from(zero) } else { 0 };
    let unit = unit(w);
    let mut acc = 0.0f32;
    for (block, (codes, scale)) in a.iter().enumerate() {
        for (half, codes) in codes.chunks(unit).enumerate() {
            let column = block * 32 + half * unit;
            let (w_scale, w_min) = w.scale_and_min(output, column / w.scheme.group);
            let value = |i: usize| match (w.codes[output * w.cols + column + i], w.scheme.values) {
                (code, Values::Offset { .. }) => i32::from(code) - zero,
                (code, values) => values.value(code) as i32,
            };
            for byte in 0..bytes as usize {
                let (_, counts) = bytes_of(0, bytes)[byte];
                let terms = codes.iter().enumerate().map(|(i, &a)| bytes_of(a, bytes)[byte].0 * value(i));
                acc = (terms.sum::<i32>() as f32).mul_add(w_scale * (scale * counts), acc);
            }
            if w.scheme.mins {
                acc = w_min.mul_add(-(scale * codes.iter().sum::<i32>() as f32), acc);
            }
        }
    }
    acc
}

#[test]
fn codes_of_activations_times_codes_are_exact_integers_scaled() {
    let mut random = Random(25);
    for (name, scheme) in SCHEMES.into_iter().filter(|(_, s)| s.values != Values::Nf4) {
        for (m, bytes) in [1, 2, 3, 4, 5, 9, 27].into_iter().flat_map(|m| [(m, 1), (m, 2)]) {
            let (n, k) = (random.pick(&[1, 15, 16, 33, 100, 600 / m]), random.pick(&KS));
            let lda = k + random.pick(&[0, 5]);
            let what = format!("{name}, {bytes} bytes: {m} x {n} x {k}");
            let (matrix, mut a) = (matrix(&mut random, scheme, n, k), random.values(m * lda));
            match random.bits() % 4 {
                // The greatest sums there are; a row of zeros.
                0 => a.fill(-1.0),
                1 => a[..k].fill(0.0),
                _ => {}
            }
            let b = packed(&matrix);
            let product = Product { a: &a, lda, b: &b, n, k, activations: bytes };
            let found = product.same_everywhere(&mut random, m, &what);
            let values = matrix.dequantize();
            for r in 0..m {
                let codes = quantize(&a[r * lda..][..k], bytes);
                let row: Vec<f32> = codes.iter().flat_map(|(c, s)| c.iter().map(move |&c| c as f32 * s)).collect();
                for j in 0..n {
                    let (found, expected) = (found[r * n + j], integer_product(&codes, bytes, &matrix, j));
                    if Isa::detect() > Isa::Portable || cfg!(target_feature = "fma") {
                        assert_eq!(found.to_bits(), expected.to_bits(), "{what}: row {r} output {j}");
                    }
                    let terms = row.iter().zip(&values[j * k..]).map(|(&a, &w)| f64::from(a) * f64::from(w));
                    let (sum, size) = terms.fold((0.0, 0.0), |(s, t), x| (s + x, t + x.abs()));
                    // A minimum may cancel what codes sum to, so errors are relative to the parts.
                    let parts: f64 = row.iter().map(|a| f64::from(a.abs())).sum::<f64>() * 300.0;
                    let error = (f64::from(found) - sum).abs();
                    assert!(error <= 1e-6 * (size + parts), "{what}: row {r} output {j}: {found} for {sum}");
                }
            }
        }
    }
}

#[test]
fn what_is_no_number_is_not_hidden() {
    let mut random = Random(26);
    let matrix = matrix(&mut random, SCHEMES[0].1, 16, 64);
    let b = packed(&matrix);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut a = random.values(3 * 64);
        a[64 + 7] = bad;
        for isa in Isa::available() {
            let product = Product { a: &a, lda: 64, b: &b, n: 16, k: 64, activations: 1 };
            let c = product.run(isa, 1, 0..3);
            assert!(c[..16].iter().chain(&c[32..]).all(|x| x.is_finite()), "{isa:?}");
            assert!(c[16..32].iter().all(|x| !x.is_finite()), "{isa:?}");
        }
    }
}

#[test]
fn codes_of_activations_of_float_weights() {
    let mut random = Random(27);
    for (bytes, (m, n, k)) in [1, 2].into_iter().flat_map(|b| [(b, (1, 17, 40)), (b, (30, 33, 300)), (b, (3, 5, 0))]) {
        let (a, w) = (random.values(m * k), random.values(n * k));
        let represented: Vec<f32> = a
            .chunks(k.max(1))
            .flat_map(|row| quantize(row, bytes))
            .flat_map(|(codes, scale)| codes.into_iter().map(move |c| c as f32 * scale))
            .collect();
        let b = packed_f32(&w, n, k);
        let what = format!("{bytes} bytes: {m} x {n} x {k}");
        let found = Product { a: &a, lda: k, b: &b, n, k, activations: bytes }.same_everywhere(&mut random, m, &what);
        let plain = Product { a: &represented, lda: k, b: &b, n, k, activations: 0 };
        assert_eq!(bits(&found), bits(&plain.same_everywhere(&mut random, m, &what)));
    }
}

#[test]
fn embedding_gives_rows_of_the_table() {
    let mut random = Random(28);
    let ids = [3, 0, 19, -4, 18, 700, 3];
    for (name, scheme) in SCHEMES {
        let matrix = matrix(&mut random, scheme, 19, 70);
        let values = matrix.dequantize();
        for table in [packed(&matrix), packed_f32(&values, 19, 70)] {
            let mut out = vec![7.5f32; ids.len() * 75];
            let args = EmbedArgs {
                ids: ids.as_ptr(),
                count: ids.len() as i64,
                table: table.as_ptr(),
                out: out.as_mut_ptr(),
                stride: 75,
            };
            for thread in 0..3 {
                // SAFETY: the operands above have the sizes the arguments name.
                unsafe { embed_panels(&args, thread, 3) };
            }
            for (&id, out) in ids.iter().zip(out.chunks_exact(75)) {
                let row = id.clamp(0, 18) as usize;
                assert_eq!(bits(&out[..70]), bits(&values[row * 70..][..70]), "{name} id {id}");
                assert_eq!(out[70..], [7.5; 5]);
            }
        }
    }
}
