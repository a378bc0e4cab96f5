//! How many threads a team had better have while others use the cores as well.
//!
//! A kernel ends when its slowest thread does. Where a thread shares its core with another program the whole team waits for
//! it at every barrier, a time slice each, and fewer threads are faster. Results do not depend on their number.

use std::fs::File;
use std::io::{Read, Seek};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Share of a run that a thread may be kept from its core: more, and the team is halved.
const SHARE: f64 = 0.25;

/// How long a halved team stays so before a larger one is tried, at first and at most; each failure doubles it.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(200)];

/// Watches runs and sizes teams.
pub struct Governor(Mutex<State>);

struct State {
    /// How often teams are halved.
    halvings: u32,
    /// When a larger team is tried.
    until: Instant,
    pause: Duration,
}

impl Governor {
    /// One that has seen nothing, and lets teams be whole.
    pub fn new() -> Governor {
        Governor(Mutex::new(State { halvings: 0, until: Instant::now(), pause: PAUSES[0] }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Threads that a team which wants so many gets at this time.
    pub fn threads(&self, wanted: usize, now: Instant) -> usize {
        let mut state = self.state();
        if state.halvings > 0 && now >= state.until {
            state.halvings -= 1;
            state.until = now + state.pause;
        }
        (wanted >> state.halvings).max(1)
    }

    /// Learns of a team's run that ended now and took so long, of which the thread that had to wait most stood in line
    /// for its core for `waited`.
    pub fn learn(&self, took: Duration, waited: Duration, now: Instant) {
        let mut state = self.state();
        if waited > took.mul_f64(SHARE) {
            state.halvings = (state.halvings + 1).min(usize::BITS - 1);
            state.until = now + state.pause;
            state.pause = (state.pause * 2).min(PAUSES[1]);
        } else {
            state.pause = PAUSES[0];
        }
    }
}

thread_local! {
    /// Where the system tells how this thread was scheduled; Linux does.
    static SCHEDULED: Option<File> = File::open("/proc/thread-self/schedstat").ok();
}

/// Time that the calling thread has stood in line for a core, in all its life; `None` where the system does not tell.
pub fn stood_in_line() -> Option<Duration> {
    SCHEDULED.with(|file| {
        // Nanoseconds computed, nanoseconds in line, time slices.
        let mut text = [0; 64];
        let mut file = file.as_ref()?;
        file.rewind().ok()?;
        let length = file.read(&mut text).ok()?;
        let mut numbers = std::str::from_utf8(text.get(..length)?).ok()?.split_ascii_whitespace().skip(1);
        let nanoseconds = numbers.next()?.parse().ok()?;
        // A thread that runs has a time slice, unless the system does not count.
        numbers.next().filter(|slices| *slices != "0")?;
        Some(Duration::from_nanos(nanoseconds))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn teams_shrink_where_others_run_and_grow_again() {
        let (governor, start) = (Governor::new(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let run = |ms: u64, waited: u64| {
            governor.learn(Duration::from_millis(10), Duration::from_millis(waited), at(ms));
        };
        assert_eq!(governor.threads(8, at(0)), 8);
        run(10, 2);
        assert_eq!(governor.threads(8, at(10)), 8);
        run(20, 3);
        assert_eq!([8, 2, 1].map(|wanted| governor.threads(wanted, at(20))), [4, 1, 1]);
        run(29, 9);
        assert_eq!(governor.threads(8, at(48)), 2);
        // After 20 ms a larger team is tried, and after as long again the whole one.
        assert_eq!(governor.threads(8, at(49)), 4);
        run(60, 0);
        assert_eq!(governor.threads(8, at(88)), 4);
        assert_eq!(governor.threads(8, at(89)), 8);
        // Failures in a row make the pauses longer, up to a limit.
        let mut now = 100;
        for pause in [10, 20, 40, 80, 160, 200, 200] {
            run(now, 10);
            assert_eq!(governor.threads(2, at(now + pause - 1)), 1);
            assert_eq!(governor.threads(2, at(now + pause)), 2);
            now += pause;
        }
    }

    /// Threads that want one core each stand in line for it where there are more of them than cores.
    #[test]
    fn standing_in_line() {
        // A kernel that does not tell has nothing to test.
        if stood_in_line().is_none() {
            return;
        }
        let waits = || {
            let (before, since) = (stood_in_line().unwrap(), Instant::now());
            while since.elapsed() < Duration::from_millis(60) {
                std::hint::spin_loop();
            }
            stood_in_line().unwrap() - before
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let waited: Duration = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3 * cores).map(|_| scope.spawn(waits)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(waited > Duration::from_millis(10), "{waited:?}");
    }
}
