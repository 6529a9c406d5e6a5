//! Memory of a run: what all workers together may hold.

use std::sync::{Condvar, Mutex, PoisonError};

/// Bytes that workers share.
pub struct Budget {
    free_bytes: Mutex<u64>,
    changed: Condvar,
}

/// A part of a [`Budget`], given back when dropped.
pub struct Share<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Budget {
    pub fn new(bytes: u64) -> Self {
        Self {
            free_bytes: Mutex::new(bytes),
            changed: Condvar::new(),
        }
    }

    /// A share of `bytes`, at most the whole budget. `before_waiting` runs when others have to give theirs back first.
    pub fn share(&self, bytes: u64, before_waiting: impl FnOnce()) -> Share<'_> {
        let mut free = self
            .free_bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *free < bytes {
            before_waiting();
        }
        while *free < bytes {
            free = self
                .changed
                .wait(free)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *free -= bytes;
        Share {
            budget: self,
            bytes,
        }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let free = self.budget.free_bytes.lock();
        *free.unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.budget.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn shares_never_exceed_the_budget() {
        let budget = Budget::new(10);
        let (held, most) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for worker in 0..6 {
                let (budget, held, most) = (&budget, &held, &most);
                scope.spawn(move || {
                    for round in 0..200 {
                        let bytes = 1 + (worker * 7 + round) % 10;
                        let _share = budget.share(bytes, || {});
                        let now = held.fetch_add(bytes, Ordering::SeqCst) + bytes;
                        most.fetch_max(now, Ordering::SeqCst);
                        held.fetch_sub(bytes, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 10);
    }

    #[test]
    fn who_waits_is_told_before() {
        let budget = Budget::new(2);
        let first = budget.share(2, || panic!("nobody else is there"));
        std::thread::scope(|scope| {
            let (told, waits) = std::sync::mpsc::channel();
            let budget = &budget;
            scope.spawn(move || drop(budget.share(1, || told.send(()).unwrap())));
            waits.recv().unwrap();
            drop(first);
        });
    }
}
