//! The memory roof: how fast this machine reads memory with the widest loads it has. What decoding is held against.

use std::hint::black_box;
use std::thread;
use std::time::Instant;

use super::isa::Isa;
use super::simd::{Kernel, LANES, Simd};

/// Vectors summed in chains of their own, so that loads are what limits the sum.
const CHAINS: usize = 8;

/// Bytes in a second that `threads` threads together read from memory, each from a buffer of `bytes` of its own: the best
/// of a few rounds. Buffers that caches hold measure caches.
pub fn read_bandwidth(threads: usize, bytes: usize) -> f64 {
    let (threads, isa) = (threads.max(1), Isa::current());
    let buffers: Vec<Vec<f32>> = (0..threads).map(|_| vec![1.0; bytes / 4]).collect();
    let mut best = 0.0f64;
    for _ in 0..6 {
        let start = Instant::now();
        thread::scope(|scope| {
            for buffer in &buffers {
                scope.spawn(move || black_box(isa.run(Sum(buffer))));
            }
        });
        best = best.max((threads * bytes) as f64 / start.elapsed().as_secs_f64());
    }
    best
}

struct Sum<'a>(&'a [f32]);

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.0); CHAINS];
        for chunk in self.0.chunks_exact(CHAINS * LANES) {
            for (sum, lanes) in sums.iter_mut().zip(chunk.chunks_exact(LANES)) {
                // SAFETY: a chunk of sixteen values.
                *sum = s.add(*sum, unsafe { s.load(lanes.as_ptr()) });
            }
        }
        let total = sums.into_iter().fold(s.splat(0.0), |a, b| s.add(a, b));
        s.to_array(total).iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_read() {
        let values: Vec<f32> = (0..3 * CHAINS * LANES).map(|i| (i % 7) as f32).collect();
        for isa in Isa::available() {
            assert_eq!(isa.run(Sum(&values)), values.iter().sum::<f32>());
        }
    }
}
