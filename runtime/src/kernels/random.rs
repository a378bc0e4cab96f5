//! Numbers of a counter-based generator: Threefry-2x32 with 20 rounds (Salmon et al. 2011, section 3.3). They are the same
//! whoever computes them, in whatever order.

use super::gemm::part;
use super::isa::Isa;
use super::simd::{Kernel, LANES, Simd};

/// Makes the third word of a key from the other two.
const PARITY: u32 = 0x1bd1_1bda;

/// A generator under a key of two words.
#[derive(Clone, Copy)]
pub(super) struct Generator {
    /// The key, and its third word.
    keys: [u32; 3],
}

impl Generator {
    /// Under the key of these words.
    #[inline(always)]
    pub fn new([first, second]: [u32; 2]) -> Generator {
        Generator { keys: [first, second, first ^ second ^ PARITY] }
    }

    /// The two words of each of sixteen counters of two words.
    #[inline(always)]
    pub fn words<S: Simd>(self, s: S, first: S::I, second: S::I) -> [S::I; 2] {
        let mut words = [first, second];
        macro_rules! add_key {
            ($n:literal) => {
                words[0] = s.add_words(words[0], s.splat_word(self.keys[$n % 3]));
                words[1] = s.add_words(words[1], s.splat_word(self.keys[($n + 1) % 3].wrapping_add($n)));
            };
        }
        macro_rules! rounds {
            ($($up:literal),*) => {$(
                words[0] = s.add_words(words[0], words[1]);
                words[1] = s.xor_words(s.rotate::<$up, { 32 - $up }>(words[1]), words[0]);
            )*};
        }
        add_key!(0);
        rounds!(13, 15, 26, 6);
        add_key!(1);
        rounds!(17, 29, 16, 24);
        add_key!(2);
        rounds!(13, 15, 26, 6);
        add_key!(3);
        rounds!(17, 29, 16, 24);
        add_key!(4);
        rounds!(13, 15, 26, 6);
        add_key!(5);
        words
    }
}

/// Arguments of [`random_bits`].
#[repr(C)]
pub struct RandomArgs {
    /// The two words of the key.
    pub key: *const u32,
    /// Where the words go: `count` of them.
    pub out: *mut u32,
    /// How many.
    pub count: i64,
    /// The second word of the counter; the first is the place of the result.
    pub stream: i64,
}

/// `out[i]`: one word of the other of Threefry of the counter (i, stream): the part of `thread` of `threads`.
///
/// # Safety
/// The operands are as [`RandomArgs`] describes them, alive, and `out` not accessed by others until all threads are through.
pub unsafe extern "C" fn random_bits(args: *const RandomArgs, thread: i64, threads: i64) {
    // SAFETY: the caller's promise.
    unsafe { random_on(Isa::current(), &*args, thread as usize, threads as usize) }
}

/// [`random_bits`] on a given instruction set.
///
/// # Safety
/// As for [`random_bits`].
pub(crate) unsafe fn random_on(isa: Isa, args: &RandomArgs, thread: usize, threads: usize) {
    isa.run(Random { args, thread, threads });
}

struct Random<'a> {
    args: &'a RandomArgs,
    thread: usize,
    threads: usize,
}

impl Kernel for Random<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Random { args, thread, threads } = self;
        let count = args.count.max(0) as usize;
        // SAFETY: `RandomArgs` promises two words, at any address.
        let generator = Generator::new(unsafe { args.key.cast::<[u32; 2]>().read_unaligned() });
        let lanes = s.words(std::array::from_fn(|lane| lane as u32));
        let stream = s.splat_word(args.stream as u32);
        for vector in part(count.div_ceil(LANES), thread, threads) {
            let first = vector * LANES;
            let [a, b] = generator.words(s, s.add_words(lanes, s.splat_word(first as u32)), stream);
            let mut words = [0; LANES];
            s.store_words(&mut words, s.xor_words(a, b));
            let there = LANES.min(count - first);
            // SAFETY: these words are among the `count`, and this thread's.
            unsafe { std::ptr::copy_nonoverlapping(words.as_ptr(), args.out.add(first), there) };
        }
    }
}
