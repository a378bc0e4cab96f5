//! The worker threads of the process, lent to teams. Knows closures only.
//!
//! All programs of a process share them, and teams start only as far as there are cores for them, in the order they asked:
//! more threads than cores would wait for each other at every barrier.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use super::pin;
use super::wait::{WAIT, patiently};

/// How long a worker waits for its next job before it sleeps. Between two steps of a language model lies the choice of a
/// token; waking a thread takes as long as that.
const IDLE: Duration = Duration::from_micros(200);

/// In [`Job::left`]: the caller sleeps until the last worker wakes it.
const CALLER_SLEEPS: usize = 1 << (usize::BITS - 1);

/// What workers are to do, on the stack of the caller.
struct Job<'a> {
    /// What to run, given the number of the thread in its team.
    body: &'a (dyn Fn(usize) + Sync),
    caller: Thread,
    /// Workers that are not through, and [`CALLER_SLEEPS`].
    left: AtomicUsize,
}

/// A thread that waits for jobs.
struct Worker {
    /// The job to do next; null without one.
    job: AtomicPtr<Job<'static>>,
    /// The worker's number in the team of that job.
    number: AtomicUsize,
    /// Whether it sleeps, or is about to.
    asleep: AtomicBool,
    /// Its thread, once that runs.
    thread: OnceLock<Thread>,
}

impl Worker {
    fn start(index: usize) -> std::io::Result<Arc<Worker>> {
        let worker = Arc::new(Worker {
            job: AtomicPtr::default(),
            number: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            thread: OnceLock::new(),
        });
        let own = worker.clone();
        let handle = std::thread::Builder::new().name(format!("lith-{index}")).spawn(move || {
            pin::this_thread(index);
            own.work();
        })?;
        let _ = worker.thread.set(handle.thread().clone());
        Ok(worker)
    }

    /// Does jobs for ever.
    fn work(&self) {
        loop {
            if !patiently(IDLE, || !self.job.load(Ordering::Relaxed).is_null()) {
                // In one order with `give`: either the job is seen here, or the sleeper there.
                self.asleep.store(true, Ordering::SeqCst);
                while self.job.load(Ordering::SeqCst).is_null() {
                    std::thread::park();
                }
                self.asleep.store(false, Ordering::Relaxed);
            }
            let job = self.job.swap(std::ptr::null_mut(), Ordering::Acquire);
            // SAFETY: the pointer is that of `give`; the job lives until `left` is counted down, after which it is not
            // touched here.
            let job = unsafe { &*job };
            let caller = job.caller.clone();
            (job.body)(self.number.load(Ordering::Relaxed));
            if job.left.fetch_sub(1, Ordering::AcqRel) == CALLER_SLEEPS + 1 {
                caller.unpark();
            }
        }
    }

    /// Has the worker do a job.
    ///
    /// # Safety
    /// The job lives until the worker has counted it down.
    unsafe fn give(&self, job: &Job<'_>, number: usize) {
        self.number.store(number, Ordering::Relaxed);
        let job: *const Job<'_> = job;
        self.job.store(job.cast_mut().cast(), Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}

/// The workers of a process, and who has them.
pub struct Workers {
    /// Threads that teams may have together; a larger team runs when no other does.
    cores: usize,
    state: Mutex<State>,
    /// Rung when a team's turn may have come.
    bell: Condvar,
}

#[derive(Default)]
struct State {
    /// Threads of the teams that run, callers included.
    running: usize,
    /// The number that the next team gets, and the one whose turn it is.
    next: u64,
    turn: u64,
    /// Workers without a team, the last one to be lent first.
    idle: Vec<Arc<Worker>>,
    started: usize,
}

impl Workers {
    /// Workers for teams that together have as many threads as there are cores.
    pub fn new(cores: usize) -> Workers {
        Workers { cores, state: Mutex::default(), bell: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `body` on the calling thread (0) and on workers (1 to `threads` - 1) at once, when it is this team's turn.
    /// Returns whether it ran: not if the system does not give the threads.
    ///
    /// `body` must not panic.
    pub fn run(&self, threads: usize, body: &(dyn Fn(usize) + Sync)) -> bool {
        let Some(team) = self.lend(threads) else { return false };
        let job = Job { body, caller: std::thread::current(), left: AtomicUsize::new(team.workers.len()) };
        for (i, worker) in team.workers.iter().enumerate() {
            // SAFETY: this function waits until all workers are through.
            unsafe { worker.give(&job, i + 1) };
        }
        body(0);
        if !patiently(WAIT, || job.left.load(Ordering::Acquire) == 0) {
            let mut left = job.left.fetch_or(CALLER_SLEEPS, Ordering::AcqRel);
            while left & !CALLER_SLEEPS > 0 {
                std::thread::park();
                left = job.left.load(Ordering::Acquire);
            }
        }
        true
    }

    /// Waits for this team's turn and takes its workers.
    fn lend(&self, threads: usize) -> Option<Lent<'_>> {
        let mut state = self.state();
        let ticket = state.next;
        state.next += 1;
        while ticket != state.turn || (state.running > 0 && state.running + threads > self.cores) {
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.turn += 1;
        state.running += threads;
        let mut lent = Lent { of: self, threads, workers: Vec::with_capacity(threads - 1) };
        while lent.workers.len() + 1 < threads {
            let worker = match state.idle.pop() {
                Some(idle) => idle,
                None => match Worker::start(state.started + 1) {
                    Ok(worker) => {
                        state.started += 1;
                        worker
                    }
                    Err(_) => break,
                },
            };
            lent.workers.push(worker);
        }
        let others_wait = state.next != state.turn;
        drop(state);
        if others_wait {
            self.bell.notify_all();
        }
        (lent.workers.len() + 1 == threads).then_some(lent)
    }
}

/// Workers of a team. They go back when it is dropped.
struct Lent<'a> {
    of: &'a Workers,
    threads: usize,
    workers: Vec<Arc<Worker>>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut state = self.of.state();
        state.running -= self.threads;
        // In the order that gives the next team the same workers at the same places.
        state.idle.extend(self.workers.drain(..).rev());
        let others_wait = state.next != state.turn;
        drop(state);
        if others_wait {
            self.of.bell.notify_all();
        }
    }
}
