//! How long a thread spins, when it offers its core to others, and when it had better sleep.

use std::time::{Duration, Instant};

/// Spinning before others are offered the core: as much as threads with equal shares of a kernel differ by. Offering costs
/// little more where nobody takes the core, and this much less where it is the other thread of the team that does.
const SPIN: Duration = Duration::from_micros(10);

/// Waiting for other threads of a team after which a thread should sleep. Waking it takes some 50 microseconds, which do
/// not show beside so long a wait.
pub const WAIT: Duration = Duration::from_millis(1);

/// An offer that takes so long was taken by somebody else. A thread that sleeps then comes back sooner than one that goes
/// on offering: each offer is good for a time slice.
const TAKEN: Duration = Duration::from_micros(100);

/// Looks between two looks at the clock, which cost more.
const LOOKS: u32 = 32;

/// Spins until `done`, then offers the core to others between looks, at most for `time`. Returns whether it is done;
/// otherwise the thread had better sleep.
pub fn patiently(time: Duration, done: impl Fn() -> bool) -> bool {
    let mut since = None;
    let since = loop {
        for _ in 0..LOOKS {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        let since = *since.get_or_insert_with(Instant::now);
        if since.elapsed() >= SPIN {
            break since;
        }
    };
    let mut before = Instant::now();
    while !done() {
        std::thread::yield_now();
        let now = Instant::now();
        if now - before >= TAKEN || now - since >= time {
            return done();
        }
        before = now;
    }
    true
}
