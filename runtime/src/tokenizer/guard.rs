//! The boundary to the `tokenizers` crate: turns its panics into errors.
//!
//! A tokenizer.json is data that others wrote, and the crate trusts it in places (offsets of precompiled tables, ids a
//! template refers to, regular expressions that hit their retry limit). Input-derived data may not take the process down,
//! so every call that depends on such data goes through [`guarded`]. Must not know: what is being called.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Calls `f`; a panic inside becomes `Err` with its message and prints nothing.
///
/// The tokenizers crate keeps no state across calls but a cache that tolerates a poisoned lock, so going on after a panic
/// is sound.
pub(crate) fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    // The default hook would print a backtrace notice for a panic that is about to become an ordinary error. Panics
    // outside of guarded calls still reach the hook that was there before.
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                before(info);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    GUARDED.set(outer);
    result.map_err(|payload| match payload.downcast::<String>() {
        Ok(message) => *message,
        Err(payload) => payload.downcast_ref::<&str>().map_or_else(|| "internal failure".into(), |m| (*m).to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_errors() {
        assert_eq!(guarded(|| 3), Ok(3));
        assert_eq!(guarded(|| panic!("plain")).unwrap_err(), "plain");
        let n = 4;
        assert_eq!(guarded(|| panic!("formatted {n}")).unwrap_err(), "formatted 4");
    }
}
