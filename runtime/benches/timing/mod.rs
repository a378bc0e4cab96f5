//! How the benches of kernels take time.

use std::time::Instant;

use lith_runtime::threads::Pool;

/// Seconds of the calling thread on a core, where the system tells: a team of one is then timed without its neighbours.
fn on_core() -> Option<f64> {
    #[cfg(target_os = "linux")]
    {
        #[repr(C)]
        struct Timespec {
            seconds: i64,
            nanoseconds: i64,
        }
        unsafe extern "C" {
            fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
        }
        const THREAD_CPU_TIME: i32 = 3;
        let mut time = Timespec { seconds: 0, nanoseconds: 0 };
        // SAFETY: POSIX writes one `timespec`, which on 64-bit Linux is this.
        if cfg!(target_pointer_width = "64") && unsafe { clock_gettime(THREAD_CPU_TIME, &mut time) } == 0 {
            return Some(time.seconds as f64 + time.nanoseconds as f64 * 1e-9);
        }
    }
    None
}

/// Seconds of the quickest of the repetitions that fit in about `budget` seconds.
pub fn best(pool: &Pool, budget: f64, mut body: impl FnMut()) -> f64 {
    let start = Instant::now();
    let now = || match on_core() {
        Some(seconds) if pool.threads() == 1 => seconds,
        _ => start.elapsed().as_secs_f64(),
    };
    let (mut best, mut rounds) = (f64::INFINITY, 0);
    while rounds < 5 || start.elapsed().as_secs_f64() < budget {
        let one = now();
        body();
        best = best.min(now() - one);
        rounds += 1;
    }
    best
}
