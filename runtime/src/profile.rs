//! Where the time of a call goes, kernel by kernel, as its first thread sees it. Knows kernels by number only.
#![allow(unsafe_code, reason = "compiled code tells of itself by a raw pointer")]

use std::time::Instant;

use crate::abi::Context;

/// What kernels took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelTime {
    /// Name of the kernel.
    pub name: String,
    /// Kind of its code.
    pub kind: String,
    /// How often it ran.
    pub calls: u64,
    /// What all of that took, waiting for the other threads included.
    pub nanoseconds: u64,
}

/// Times by kernel.
#[derive(Debug)]
pub struct Profile {
    /// The kernel that runs, and since when.
    running: Option<(usize, Instant)>,
    /// Calls and nanoseconds of each kernel.
    pub times: Vec<(u64, u64)>,
}

impl Profile {
    /// Nothing measured of so many kernels.
    pub fn new(kernels: usize) -> Profile {
        Profile { running: None, times: vec![(0, 0); kernels] }
    }

    /// The kernel of this number starts, so the one before is through.
    fn starts(&mut self, kernel: usize) {
        self.ends();
        self.running = Some((kernel, Instant::now()));
    }

    /// The last kernel is through.
    pub fn ends(&mut self) {
        if let Some((kernel, since)) = self.running.take()
            && let Some((calls, nanoseconds)) = self.times.get_mut(kernel)
        {
            *calls += 1;
            *nanoseconds += since.elapsed().as_nanos() as u64;
        }
    }
}

/// Compiled code tells that it comes to the kernel of this number.
///
/// # Safety
/// `context` is that of a running call; its profile is null or this thread's alone.
pub unsafe extern "C" fn kernel_starts(context: *const Context, kernel: i64) {
    // SAFETY: the caller's promise.
    if let Some(profile) = unsafe { (*context).profile.as_mut() } {
        profile.starts(kernel as usize);
    }
}
