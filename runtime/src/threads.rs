//! The threads a program runs on: one persistent team that executes a whole program SPMD, and the barrier between its
//! kernels.
//!
//! This module knows closures only, nothing of programs or kernels.
#![allow(unsafe_code, reason = "compiled code hands the barrier back as a raw pointer")]

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Turns of spinning before a waiting thread offers its core to others: a few tens of microseconds, more than kernels of
/// equal parts differ by, less than a time slice.
const SPINS: u32 = 1000;

/// A place where the threads of a team wait for each other, as often as they like. It spins, and yields to the system
/// when that takes long. What a thread wrote before, all threads see after.
#[derive(Debug)]
pub struct Barrier {
    threads: usize,
    arrived: AtomicUsize,
    generation: AtomicUsize,
    broken: AtomicBool,
}

impl Barrier {
    /// A barrier of `threads` threads (at least 1).
    pub fn new(threads: usize) -> Barrier {
        Barrier {
            threads,
            arrived: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
        }
    }

    /// Waits until all threads of the team have called this.
    ///
    /// # Panics
    /// If a thread of the team panicked and so will never come.
    pub fn wait(&self) {
        if self.threads <= 1 {
            return;
        }
        let generation = self.generation.load(Ordering::Relaxed);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            // The count is reset before the new generation is seen, so nobody can arrive in between.
            self.arrived.store(0, Ordering::Relaxed);
            self.generation.store(generation.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut spins = 0;
        while self.generation.load(Ordering::Acquire) == generation {
            assert!(!self.broken.load(Ordering::Relaxed), "another thread of the team panicked");
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }

    /// Frees all waiting threads, now and later, by a panic.
    fn break_up(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }
}

/// [`Barrier::wait`] for compiled code. A broken barrier ends the process, since there is no unwinding through it.
///
/// # Safety
/// `barrier` points to a [`Barrier`] that lives until all threads have left.
pub unsafe extern "C" fn barrier_wait(barrier: *const Barrier) {
    // SAFETY: the caller's promise.
    unsafe { &*barrier }.wait();
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

/// A team of threads that persists from run to run; started by its first run.
#[derive(Debug)]
pub struct Pool {
    threads: usize,
    /// All but the calling thread.
    workers: OnceLock<rayon::ThreadPool>,
    /// Teams run one after the other: two half teams would wait for each other for ever.
    turn: Mutex<()>,
}

impl Pool {
    /// A pool of `threads` threads, the calling one included; 0 means as many as the machine runs at once.
    pub fn new(threads: usize) -> Pool {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            given => given,
        };
        Pool { threads, workers: OnceLock::new(), turn: Mutex::new(()) }
    }

    /// Threads of a team.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `body` on all threads at once and returns when the last is through. Inside a team, and where the system
    /// gives no threads, it runs on the calling thread alone, as a team of one.
    ///
    /// # Panics
    /// With the panic of a thread, once all threads have ended; those that wait at the barrier end by a panic too.
    pub fn run(&self, body: impl Fn(Team<'_>) + Sync) {
        let alone = || body(Team { thread: 0, threads: 1, barrier: &Barrier::new(1) });
        if self.threads <= 1 || IN_TEAM.get() {
            return alone();
        }
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(workers) = self.workers() else {
            drop(turn);
            return alone();
        };
        let barrier = Barrier::new(self.threads);
        // The first panic is the one to report; later ones may only be its echo at the barrier.
        let panic: Mutex<Option<Box<dyn Any + Send>>> = Mutex::new(None);
        let part = |thread| {
            IN_TEAM.set(true);
            let team = Team { thread, threads: self.threads, barrier: &barrier };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| body(team))) {
                panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
                barrier.break_up();
            }
            IN_TEAM.set(false);
        };
        workers.in_place_scope(|scope| {
            scope.spawn_broadcast(|_, context| part(context.index() + 1));
            part(0);
        });
        drop(turn);
        if let Some(payload) = panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(payload);
        }
    }

    fn workers(&self) -> Option<&rayon::ThreadPool> {
        if self.workers.get().is_none() {
            let builder = rayon::ThreadPoolBuilder::new()
                .num_threads(self.threads - 1)
                .thread_name(|i| format!("lith-{}", i + 1));
            // Runs take turns, so nobody else sets it meanwhile.
            let _ = self.workers.set(builder.build().ok()?);
        }
        self.workers.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_runs_once_and_sees_what_others_wrote_before_the_barrier() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads);
            let cells: Vec<_> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for round in 1..20 {
                pool.run(|team| {
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
            let pool = Pool::new(3);
            let run = catch_unwind(AssertUnwindSafe(|| {
                pool.run(|team| {
                    if team.thread == culprit {
                        panic!("thread {culprit} fails");
                    }
                    team.barrier.wait();
                });
            }));
            let payload = run.unwrap_err();
            assert_eq!(payload.downcast_ref::<String>(), Some(&format!("thread {culprit} fails")));
            let count = AtomicUsize::new(0);
            pool.run(|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 3);
        }
    }

    #[test]
    fn a_run_inside_a_run_and_runs_side_by_side_do_not_hang() {
        let pool = Pool::new(2);
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    pool.run(|team| {
                        pool.run(|inner| {
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
}
