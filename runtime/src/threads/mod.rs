//! The threads a program runs on: teams that execute a whole program SPMD, on workers that all programs of the process
//! share, and the barrier between kernels.
//!
//! This module knows closures only, nothing of programs or kernels.
#![allow(
    unsafe_code,
    reason = "jobs live on the caller's stack, and compiled code hands the barrier back as a raw pointer"
)]

mod barrier;
mod governor;
mod pin;
mod wait;
mod workers;

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use barrier::{Barrier, barrier_wait};
use governor::{Governor, stood_in_line};
pub use pin::pin;
use workers::Workers;

/// Most threads of a team: more than machines have cores, few enough that a slip of the pen does not stop one.
pub const MAX_THREADS: usize = 1024;

/// The workers of this process.
static WORKERS: LazyLock<Workers> = LazyLock::new(|| Workers::new(cores()));

/// What is known of how busy the cores are with other things.
static GOVERNOR: LazyLock<Governor> = LazyLock::new(Governor::new);

/// Threads that the machine runs at once.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What a thread of a running team knows of it.
#[derive(Debug)]
pub struct Team<'a> {
    /// This thread: 0 (the caller of [`Pool::run`]) to `threads` - 1.
    pub thread: usize,
    /// Threads of the team.
    pub threads: usize,
    /// The team's barrier.
    pub barrier: &'a Barrier,
}

thread_local! {
    /// Whether this thread is part of a running team.
    static IN_TEAM: Cell<bool> = const { Cell::new(false) };
}

/// Teams of one size. They take their threads from those of the process and start in the order they were asked for, as
/// many side by side as there are cores for.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    threads: usize,
}

impl Pool {
    /// Teams of `threads` threads, the calling one included; 0 means as many as the machine runs at once, more than
    /// [`MAX_THREADS`] are [`MAX_THREADS`].
    pub fn new(threads: usize) -> Pool {
        let threads = if threads == 0 { cores() } else { threads };
        Pool { threads: threads.min(MAX_THREADS) }
    }

    /// Threads of a team.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `body` on all threads at once and returns when the last is through. The team is smaller while other programs
    /// keep its threads from their cores. Inside a team, and where the system gives no threads, `body` runs on the calling
    /// thread alone, as a team of one.
    ///
    /// # Panics
    /// With the panic of a thread, once all threads have ended; those that wait at the barrier end by a panic too.
    pub fn run(&self, body: impl Fn(Team<'_>) + Sync) {
        if self.threads <= 1 || IN_TEAM.get() {
            return run_on(1, body);
        }
        let start = Instant::now();
        let threads = GOVERNOR.threads(self.threads, start);
        if threads <= 1 {
            return run_on(1, body);
        }
        let most: Mutex<Duration> = Mutex::default();
        run_on(threads, |team| {
            let before = stood_in_line();
            body(team);
            if let (Some(before), Some(after)) = (before, stood_in_line()) {
                let mut most = most.lock().unwrap_or_else(PoisonError::into_inner);
                *most = after.saturating_sub(before).max(*most);
            }
        });
        let now = Instant::now();
        GOVERNOR.learn(now - start, most.into_inner().unwrap_or_else(PoisonError::into_inner), now);
    }
}

/// Runs `body` on so many threads, if this thread is not part of a team and the system gives them; else on this one.
fn run_on(threads: usize, body: impl Fn(Team<'_>) + Sync) {
    let alone = || body(Team { thread: 0, threads: 1, barrier: &Barrier::new(1) });
    if threads <= 1 || IN_TEAM.get() {
        return alone();
    }
    pin::this_thread(0);
    let barrier = Barrier::new(threads);
    // The first panic is the one to report; later ones may only be its echo at the barrier.
    let panic: Mutex<Option<Box<dyn Any + Send>>> = Mutex::new(None);
    let part = |thread| {
        IN_TEAM.set(true);
        let team = Team { thread, threads, barrier: &barrier };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| body(team))) {
            panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
            barrier.break_up();
        }
        IN_TEAM.set(false);
    };
    if !WORKERS.run(threads, &part) {
        return alone();
    }
    if let Some(payload) = panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(payload);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_thread_runs_once_and_sees_what_others_wrote_before_the_barrier() {
        for threads in [1, 2, 3, 5] {
            let cells: Vec<_> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for round in 1..20 {
                run_on(threads, |team| {
                    assert_eq!(team.threads, threads);
                    for step in 0..10 {
                        cells[team.thread].fetch_add(round, Ordering::Relaxed);
                        team.barrier.wait();
                        let all = cells.iter().map(|c| c.load(Ordering::Relaxed)).min();
                        assert!(all >= Some(round * (round - 1) / 2 * 10 + round * (step + 1)));
                        // SAFETY: the barrier outlives the run.
                        unsafe { barrier_wait(team.barrier) };
                    }
                });
            }
        }
    }

    #[test]
    fn a_panic_ends_the_run_and_leaves_the_pool_usable() {
        for culprit in 0..3 {
            let run = catch_unwind(AssertUnwindSafe(|| {
                run_on(3, |team| {
                    if team.thread == culprit {
                        panic!("thread {culprit} fails");
                    }
                    team.barrier.wait();
                });
            }));
            let payload = run.unwrap_err();
            assert_eq!(payload.downcast_ref::<String>(), Some(&format!("thread {culprit} fails")));
            let count = AtomicUsize::new(0);
            run_on(3, |_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 3);
        }
    }

    #[test]
    fn a_run_inside_a_run_and_runs_side_by_side_do_not_hang() {
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    run_on(2, |team| {
                        Pool::new(2).run(|inner| {
                            assert_eq!(inner.threads, 1);
                            count.fetch_add(1, Ordering::Relaxed);
                        });
                        team.barrier.wait();
                    });
                });
            }
        });
        assert_eq!(count.into_inner(), 6);
    }

    /// Programs of several teams never have more threads at work than there are cores, and each gets its turn.
    #[test]
    fn teams_share_the_cores() {
        let workers = Workers::new(3);
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for threads in [2, 2, 3, 2] {
                let (workers, running, most) = (&workers, &running, &most);
                scope.spawn(move || {
                    for _ in 0..50 {
                        let ran = workers.run(threads, &|_| {
                            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            std::thread::sleep(Duration::from_micros(50));
                            running.fetch_sub(1, Ordering::SeqCst);
                        });
                        assert!(ran);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 3);
    }

    /// A team larger than the machine runs alone, and its threads sleep where they would wait long.
    #[test]
    fn threads_that_wait_long_sleep_and_wake() {
        for sleeper in 0..4 {
            let count = AtomicUsize::new(0);
            run_on(4, |team| {
                for _ in 0..3 {
                    if team.thread == sleeper {
                        std::thread::sleep(Duration::from_millis(4));
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    team.barrier.wait();
                }
                if team.thread == sleeper {
                    std::thread::sleep(Duration::from_millis(4));
                }
            });
            assert_eq!(count.into_inner(), 12);
        }
    }
}
