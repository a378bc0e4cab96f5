//! Where a page keeps what is written to it.

use half::{bf16, f16};
use lith_ir::CachePart;
use lith_ir::plan::PAGE_TOKENS;

use super::Random;
use crate::kernels::append::append_on;
use crate::kernels::{AppendArgs, CacheType, Isa};

/// The element's bytes in a cache of type `to`, by the plainest way there is.
fn stored(x: f32, to: CacheType) -> Vec<u8> {
    match to {
        CacheType::F32 => x.to_ne_bytes().to_vec(),
        CacheType::Bf16 => bf16::from_f32(x).to_ne_bytes().to_vec(),
        CacheType::F16 => f16::from_f32(x).to_ne_bytes().to_vec(),
        CacheType::I8 => (x as i8).to_ne_bytes().to_vec(),
    }
}

/// Element `column` of a head at a place of a page, counted in elements from the cache's part of the page.
fn place(part: CachePart, head: usize, place: usize, column: usize, dim: usize) -> usize {
    head * PAGE_TOKENS * dim
        + match part {
            CachePart::Keys => (place / 16 * dim + column) * 16 + place % 16,
            CachePart::Values => place * dim + column,
            CachePart::Scales => place,
        }
}

/// Every part and type, slots in runs and alone, and slots that are not in the cache.
#[test]
fn tokens_go_where_pages_keep_them() {
    use CacheType::{Bf16, F16, F32, I8};
    let mut random = Random(11);
    for round in 0..200 {
        let (from, to) = random.pick(&[(F32, F32), (F32, F16), (F32, Bf16), (F16, F16), (Bf16, Bf16), (I8, I8)]);
        let part = random.pick(CachePart::ALL);
        let dim = if part == CachePart::Scales { 1 } else { random.pick(&[1, 8, 16, 20, 64]) };
        let (heads, pages) = (random.pick(&[1, 2, 3]), 4);
        let mut slots: Vec<i32> = (0..pages as i32 * 64).collect();
        // A run from any slot on, then some that are apart, then some outside.
        slots.rotate_left(random.pick(&[0, 16, 37, 64]));
        for i in 150..slots.len() {
            slots.swap(i, 150 + (random.bits() % (i as u64 - 149)) as usize);
        }
        slots.truncate(random.pick(&[0, 1, 17, 100, 256]));
        for outside in [-1, i32::MIN, 256, i32::MAX] {
            slots.insert((random.bits() % (slots.len() as u64 + 1)) as usize, outside);
        }
        let (tokens, stride) = (slots.len(), heads * dim + 5);
        let values: Vec<f32> = match from {
            I8 => (0..tokens * stride).map(|_| (random.value() * 127.0).round()).collect(),
            F16 => random.values(tokens * stride).into_iter().map(|x| f16::from_f32(x).to_f32()).collect(),
            Bf16 => random.values(tokens * stride).into_iter().map(|x| bf16::from_f32(x).to_f32()).collect(),
            F32 => random.values(tokens * stride),
        };
        let x: Vec<u8> = values.iter().flat_map(|&x| stored(x, from)).collect();
        let size = stored(0.0, to).len();
        let part_bytes = PAGE_TOKENS * heads * dim * size;
        let page_bytes = part_bytes + 64;
        let mut expected = vec![0xA5; pages * page_bytes];
        for (token, &slot) in slots.iter().enumerate() {
            for (head, column) in (0..heads).flat_map(|h| (0..dim).map(move |c| (h, c))) {
                if (0..256).contains(&slot) {
                    let at =
                        slot as usize / 64 * page_bytes + size * place(part, head, slot as usize % 64, column, dim);
                    expected[at..at + size].copy_from_slice(&stored(values[token * stride + head * dim + column], to));
                }
            }
        }
        for isa in Isa::available() {
            for threads in [1, 3] {
                let mut memory = vec![0xA5u8; pages * page_bytes + 64];
                let shift = memory.as_ptr().align_offset(64);
                let cache = &mut memory[shift..shift + pages * page_bytes];
                let args = AppendArgs {
                    cache: cache.as_mut_ptr(),
                    page_stride: page_bytes as i64,
                    pages: pages as i64,
                    part: part as i64,
                    dtype: to as i64,
                    x: x.as_ptr(),
                    x_dtype: from as i64,
                    x_stride: stride as i64,
                    heads: heads as i64,
                    head_dim: dim as i64,
                    slots: slots.as_ptr(),
                    tokens: tokens as i64,
                };
                for thread in 0..threads {
                    // SAFETY: the operands above have the sizes the arguments name.
                    unsafe { append_on(isa, &args, thread, threads) };
                }
                assert!(*cache == expected, "round {round}: {from:?} to {part:?} {to:?}, {heads} × {dim}, {isa:?}");
            }
        }
    }
}

/// Ties go to even, in whole vectors and alone.
#[test]
fn floats_are_rounded_to_nearest_even() {
    let ties = [1.0f32 + 0.5 / 1024.0, 1.0 + 1.5 / 1024.0, 1.0 + 0.5 / 128.0, 1.0 + 1.5 / 128.0, 70000.0, 1e-7, -3e-8];
    for (to, expected) in [
        (CacheType::F16, [0x3C00, 0x3C02, 0x3C04, 0x3C0C, 0x7C00, 0x0002, 0x8001u16]),
        (CacheType::Bf16, [0x3F80, 0x3F80, 0x3F80, 0x3F82, 0x4789, 0x33D7, 0xB301]),
    ] {
        for (tie, expected) in ties.into_iter().zip(expected) {
            let (rows, slots) = (vec![tie; 17 * 16], (0..17).collect::<Vec<i32>>());
            let mut page = vec![0u16; 64 * 16];
            let args = AppendArgs {
                cache: page.as_mut_ptr().cast(),
                page_stride: 64 * 16 * 2,
                pages: 1,
                part: CachePart::Keys as i64,
                dtype: to as i64,
                x: rows.as_ptr().cast(),
                x_dtype: CacheType::F32 as i64,
                x_stride: 16,
                heads: 1,
                head_dim: 16,
                slots: slots.as_ptr(),
                tokens: 17,
            };
            // SAFETY: the operands above have the sizes the arguments name.
            unsafe { append_on(Isa::current(), &args, 0, 1) };
            assert_eq!(page[..256], [expected; 256], "{tie} to {to:?}, in a panel");
            assert!(page[256..512].chunks_exact(16).all(|keys| keys[0] == expected), "{tie} to {to:?}, alone");
        }
    }
}
