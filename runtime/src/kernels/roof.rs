//! The memory roof: how fast this machine reads memory with the widest loads it has. What decoding is held against.

use std::hint::black_box;
use std::thread;
use std::time::Instant;

use super::isa::Isa;
use super::simd::{Kernel, LANES, Simd};

/// Vectors summed in chains of their own, so that loads are what limits the sum.
const CHAINS: usize = 8;

/// Bytes in a second that `threads` threads together read from memory, each from a buffer of `bytes` of its own, from front
/// to back or as two streams: the best of a few rounds. Buffers that caches hold measure caches.
pub fn read_bandwidth(threads: usize, bytes: usize) -> f64 {
    let (threads, isa) = (threads.max(1), Isa::current());
    let buffers: Vec<Vec<f32>> = (0..threads).map(|_| vec![1.0; bytes / 4]).collect();
    let mut best = 0.0f64;
    for round in 0..8 {
        let start = Instant::now();
        thread::scope(|scope| {
            for buffer in &buffers {
                let streams = 1 + round % 2;
                scope.spawn(move || black_box(isa.run(Sum { values: buffer, streams })));
            }
        });
        best = best.max((threads * bytes) as f64 / start.elapsed().as_secs_f64());
    }
    best
}

/// The sum of a multiple of [`CHAINS`] vectors, read as one stream or as two.
struct Sum<'a> {
    values: &'a [f32],
    streams: usize,
}

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.0); CHAINS];
        let chunks = self.values.len() / (CHAINS * LANES);
        let apart = chunks.div_ceil(self.streams);
        for i in 0..apart {
            for chunk in (i..chunks).step_by(apart) {
                let chunk = &self.values[chunk * CHAINS * LANES..][..CHAINS * LANES];
                for (sum, lanes) in sums.iter_mut().zip(chunk.chunks_exact(LANES)) {
                    // SAFETY: a chunk of sixteen values.
                    *sum = s.add(*sum, unsafe { s.load(lanes.as_ptr()) });
                }
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
            for streams in [1, 2] {
                assert_eq!(isa.run(Sum { values: &values, streams }), values.iter().sum::<f32>());
            }
        }
    }
}
