//! The barrier between the kernels of a program. Knows threads by their number alone.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use super::wait::{WAIT, patiently};

/// A counter in a cache line of its own, so that those who look at it are not disturbed by changes beside it.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line<T>(T);

/// A place where the threads of a team wait for each other, as often as they like. Waiting is quick where nobody else
/// wants the core and leaves it to others where somebody does. What a thread wrote before, all threads see after.
#[derive(Debug)]
pub struct Barrier {
    threads: usize,
    arrived: Line<AtomicUsize>,
    generation: Line<AtomicUsize>,
    /// Tickets drawn since all were here.
    tickets: Line<AtomicUsize>,
    broken: AtomicBool,
    /// Threads that sleep, or are about to.
    asleep: AtomicUsize,
    gate: Mutex<()>,
    bell: Condvar,
}

impl Barrier {
    /// A barrier of `threads` threads (at least 1).
    pub fn new(threads: usize) -> Barrier {
        Barrier {
            threads,
            arrived: Line::default(),
            generation: Line::default(),
            tickets: Line::default(),
            broken: AtomicBool::new(false),
            asleep: AtomicUsize::new(0),
            gate: Mutex::new(()),
            bell: Condvar::new(),
        }
    }

    /// Waits until all threads of the team have called this.
    ///
    /// # Panics
    /// If a thread of the team panicked and so will never come.
    pub fn wait(&self) {
        if self.threads <= 1 {
            self.tickets.0.store(0, Ordering::Relaxed);
            return;
        }
        let generation = self.generation.0.load(Ordering::Relaxed);
        if self.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            // These are reset before the new generation is seen, so nobody can arrive or draw in between.
            self.arrived.0.store(0, Ordering::Relaxed);
            self.tickets.0.store(0, Ordering::Relaxed);
            // In one order with `asleep`: either a sleeper is seen here, or it sees the new generation.
            self.generation.0.store(generation.wrapping_add(1), Ordering::SeqCst);
            self.ring();
            return;
        }
        let over = || self.generation.0.load(Ordering::Acquire) != generation || self.broken.load(Ordering::Relaxed);
        if !patiently(WAIT, over) {
            let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
            self.asleep.fetch_add(1, Ordering::SeqCst);
            while self.generation.0.load(Ordering::SeqCst) == generation && !self.broken.load(Ordering::SeqCst) {
                gate = self.bell.wait(gate).unwrap_or_else(PoisonError::into_inner);
            }
            self.asleep.fetch_sub(1, Ordering::Relaxed);
        }
        let through = self.generation.0.load(Ordering::Acquire) != generation;
        assert!(through, "another thread of the team panicked");
    }

    /// 0, 1, 2, ... to whoever asks first, from 0 again after each [`Barrier::wait`]: shares of work for threads that come
    /// to them.
    pub fn ticket(&self) -> usize {
        self.tickets.0.fetch_add(1, Ordering::Relaxed)
    }

    /// Wakes the threads that sleep.
    fn ring(&self) {
        if self.asleep.load(Ordering::SeqCst) > 0 {
            // A sleeper holds the gate from before it looks until it sleeps.
            drop(self.gate.lock().unwrap_or_else(PoisonError::into_inner));
            self.bell.notify_all();
        }
    }

    /// Frees all waiting threads, now and later, by a panic.
    pub(super) fn break_up(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.ring();
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
