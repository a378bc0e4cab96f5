//! Threads that stay on one core each, for those who ask for it: where nothing else runs, a thread that moves loses its
//! caches.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

static PINNING: AtomicBool = AtomicBool::new(false);

thread_local! {
    static PINNED: Cell<bool> = const { Cell::new(false) };
}

/// From now on each worker thread, when it starts, and each thread that calls a program on several threads keeps to one
/// core, the calling one to the first that the process may use. For processes with one calling thread; only Linux has it.
pub fn pin() {
    PINNING.store(true, Ordering::Relaxed);
}

/// Keeps the calling thread to the core of this number, counted round those that the process may use.
pub(super) fn this_thread(index: usize) {
    if PINNING.load(Ordering::Relaxed) && !PINNED.replace(true) {
        keep_to(index);
    }
}

/// Cores as the system's C library takes them: one bit each, of 1024.
#[cfg(target_os = "linux")]
type Cores = [u64; 16];

#[cfg(target_os = "linux")]
unsafe extern "C" {
    fn sched_getaffinity(thread: i32, bytes: usize, cores: *mut Cores) -> i32;
    fn sched_setaffinity(thread: i32, bytes: usize, cores: *const Cores) -> i32;
}

#[cfg(target_os = "linux")]
fn keep_to(index: usize) {
    /// The cores of the first call, when no thread is pinned.
    static CORES: std::sync::OnceLock<Vec<usize>> = std::sync::OnceLock::new();
    let cores = CORES.get_or_init(|| {
        let mut set: Cores = [0; 16];
        // SAFETY: the call fills as many bytes as it is told; 0 is the calling thread.
        unsafe { sched_getaffinity(0, size_of::<Cores>(), &mut set) };
        (0..64 * set.len()).filter(|core| (set[core / 64] >> (core % 64)) & 1 == 1).collect()
    });
    if cores.is_empty() {
        return;
    }
    let core = cores[index % cores.len()];
    let mut set: Cores = [0; 16];
    set[core / 64] = 1 << (core % 64);
    // SAFETY: as above; where the core is gone meanwhile the call fails, and the thread runs where it did.
    unsafe { sched_setaffinity(0, size_of::<Cores>(), &set) };
}

#[cfg(not(target_os = "linux"))]
fn keep_to(_index: usize) {}
