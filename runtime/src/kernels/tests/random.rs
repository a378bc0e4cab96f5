//! Numbers of the generator, word by word.

use lith_ir::testing::threefry;

use crate::kernels::Isa;
use crate::kernels::random::{RandomArgs, random_on};

#[test]
fn random_bits_are_those_of_the_counter_on_every_isa_and_thread_count() {
    for (count, key, stream) in
        [(0, [0, 0], 0), (1, [1, 2], 0), (16, [0xffff_ffff, 5], 3), (1003, [7, 0x8000_0000], 41)]
    {
        let expected: Vec<u32> =
            (0..count as u32).map(|i| threefry(key, [i, stream])).map(|[first, second]| first ^ second).collect();
        for isa in Isa::available() {
            for threads in [1, 2, 5] {
                let mut out = vec![9u32; count + 1];
                let args = RandomArgs {
                    key: key.as_ptr(),
                    out: out.as_mut_ptr(),
                    count: count as i64,
                    stream: i64::from(stream),
                };
                for thread in 0..threads {
                    // SAFETY: the operands have the sizes that the arguments tell.
                    unsafe { random_on(isa, &args, thread, threads) };
                }
                assert_eq!(out[..count], expected, "{count} on {isa:?}, {threads} threads");
                assert_eq!(out[count], 9, "past the end");
            }
        }
    }
}
