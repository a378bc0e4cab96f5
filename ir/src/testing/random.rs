//! Random words one by one, as their definitions say: what vectors, graphs and kernels are held against.

/// The words of a counter: Threefry-2x32 with 20 rounds (Salmon et al. 2011, section 3.3).
pub fn threefry(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    let keys = [key[0], key[1], key[0] ^ key[1] ^ 0x1BD1_1BDA];
    let [mut a, mut b] = [counter[0].wrapping_add(keys[0]), counter[1].wrapping_add(keys[1])];
    for round in 0..20 {
        a = a.wrapping_add(b);
        b = b.rotate_left([13, 15, 26, 6, 17, 29, 16, 24][round % 8]) ^ a;
        if round % 4 == 3 {
            let n = round / 4 + 1;
            a = a.wrapping_add(keys[n % 3]);
            b = b.wrapping_add(keys[(n + 1) % 3]).wrapping_add(n as u32);
        }
    }
    [a, b]
}

/// The number below 65536 that decides whether attention drops the key at `place`; `row` is query token · heads + head.
pub fn attention_number(key: [u32; 2], row: usize, place: usize) -> u32 {
    let counter = [row as u32, (place / 64 * 16 + place % 16) as u32];
    let word = threefry(key, counter)[place / 32 % 2];
    if (place / 16).is_multiple_of(2) { word & 0xffff } else { word >> 16 }
}

/// The known answers that the generator's authors publish with it: counter, key, words.
pub const THREEFRY_ANSWERS: [[[u32; 2]; 3]; 3] = [
    [[0; 2], [0; 2], [0x6b20_0159, 0x99ba_4efe]],
    [[u32::MAX; 2], [u32::MAX; 2], [0x1cb9_96fc, 0xbb00_2be7]],
    [[0x243f_6a88, 0x85a3_08d3], [0x1319_8a2e, 0x0370_7344], [0xc492_3a9c, 0x483d_f7a0]],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_answers() {
        for [counter, key, words] in THREEFRY_ANSWERS {
            assert_eq!(threefry(key, counter), words);
        }
    }
}
