//! Memory of a run: what all workers together may hold.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// The memory of workers that do a case each: every one has its part, and who needs more gets it once the others have
/// left enough.
pub struct Room {
    budget: Budget,
    /// A worker's part, and the whole.
    limits: [u64; 2],
    largest_peak: AtomicU64,
}

impl Room {
    /// `limit_bytes` for all of `workers`.
    pub fn new(limit_bytes: u64, workers: usize) -> Self {
        Self {
            budget: Budget::new(limit_bytes),
            limits: [limit_bytes / workers.max(1) as u64, limit_bytes],
            largest_peak: AtomicU64::new(0),
        }
    }

    /// Plans a case within its worker's part or, where that does not suffice, within the whole; and that limit. `plan`
    /// is last called with it.
    ///
    /// # Errors
    /// Those of `plan` for the whole. A plan above the limit is none.
    pub fn plan<P>(
        &self,
        mut plan: impl FnMut(u64) -> anyhow::Result<P>,
        peak_bytes: impl Fn(&P) -> u64,
    ) -> anyhow::Result<(P, u64)> {
        let [part, whole] = self.limits;
        let (planned, limit) = match plan(part) {
            Ok(planned) if peak_bytes(&planned) <= part => (planned, part),
            _ => (plan(whole)?, whole),
        };
        let peak = peak_bytes(&planned);
        self.largest_peak.fetch_max(peak, Ordering::Relaxed);
        Ok((planned, limit))
    }

    /// As [`Budget::share`].
    pub fn share(&self, bytes: u64, before_waiting: impl FnOnce()) -> Share<'_> {
        self.budget.share(bytes, before_waiting)
    }

    /// The largest peak of any case so far.
    pub fn largest_peak(&self) -> u64 {
        self.largest_peak.load(Ordering::Relaxed)
    }
}

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

    #[test]
    fn a_case_gets_its_part_or_all_there_is() {
        let room = Room::new(100, 4);
        let plan = |bytes: u64| room.plan(|_| Ok(bytes), |&bytes| bytes).unwrap();
        assert_eq!(plan(25), (25, 25));
        assert_eq!(plan(26), (26, 100));
        assert_eq!(room.largest_peak(), 26);
        // A case that takes more time where it may take less memory.
        let columns = room.plan(|limit| Ok(limit.min(60)), |&bytes| bytes);
        assert_eq!(columns.unwrap(), (25, 25));
        let mut asked = Vec::new();
        let refused = room.plan(
            |limit| {
                asked.push(limit);
                anyhow::ensure!(limit > 1000, "limit {limit}");
                Ok(1)
            },
            |&bytes| bytes,
        );
        assert_eq!(refused.unwrap_err().to_string(), "limit 100");
        assert_eq!(asked, [25, 100]);
        // What no way fits is for the caller to refuse.
        assert_eq!(plan(101), (101, 100));
        let all = Room::new(u64::MAX, 3).plan(Ok, |_| 1);
        assert_eq!(all.unwrap(), (u64::MAX / 3, u64::MAX / 3));
    }

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
