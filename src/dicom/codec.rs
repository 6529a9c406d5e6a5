//! Codecs that may give up with a panic on damaged data, which is an error here and no message on stderr.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a decoder; `None` when it panics. Nothing is printed then: the panic hook of the process is
/// wrapped once, and stays silent on threads that are in here. Other panics print as before.
pub(super) fn guarded<T>(decode: impl FnOnce() -> T) -> Option<T> {
    static WRAPPED: Once = Once::new();
    WRAPPED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                before(panic);
            }
        }));
    });
    let outer = IS_GUARDED.replace(true);
    // What a decoder leaves half done is dropped with it.
    let outcome = panic::catch_unwind(AssertUnwindSafe(decode));
    IS_GUARDED.set(outer);
    outcome.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_none_and_ends_with_its_call() {
        assert_eq!(guarded(|| 5), Some(5));
        let broken: Option<u8> = guarded(|| panic!("damaged"));
        assert_eq!(broken, None);
        assert!(!IS_GUARDED.get());
        assert_eq!(guarded(|| guarded(|| 1)), Some(Some(1)));
    }
}
