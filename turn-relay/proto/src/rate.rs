//! How much of something may pass in a time, in one number: the generic cell rate algorithm.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::Time;

/// By how much the clocks of two threads may differ: each reads it once for many packets.
const SKEW: u64 = 1_000_000_000;

/// The moment, in nanoseconds, at which everything that was taken will have been paid for.
#[derive(Debug, Default)]
pub(crate) struct Rate(AtomicU64);

impl Rate {
    /// Whether something that is paid for in `cost` nanoseconds may pass now, when at most `burst` nanoseconds may be owed after it. If not, nothing is
    /// taken.
    ///
    /// Both may be others than the last time. What is owed beyond `burst` is owed by a stricter rule of before, and is forgiven.
    pub(crate) fn take(&self, cost: u64, burst: u64, now: Time) -> bool {
        let now = now.as_nanos();
        let limit = now.saturating_add(burst);
        let mut paid_at = self.0.load(Ordering::Relaxed);
        loop {
            let owed = if paid_at > limit.saturating_add(SKEW) {
                limit
            } else {
                paid_at
            };
            let after = owed.max(now).saturating_add(cost);
            let taken = after <= limit;
            let next = if taken { after } else { owed };
            if next == paid_at {
                return taken;
            }
            match self
                .0
                .compare_exchange_weak(paid_at, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return taken,
                Err(actual) => paid_at = actual,
            }
        }
    }

    /// The highest `cost` that [`Self::take`] would let pass now. Nothing is taken.
    pub(crate) fn left(&self, burst: u64, now: Time) -> u64 {
        let now = now.as_nanos();
        let owed = self.0.load(Ordering::Relaxed).max(now);
        now.saturating_add(burst).saturating_sub(owed)
    }

    /// Gives back what was taken just now, and was not needed.
    pub(crate) fn give_back(&self, cost: u64) {
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid_at| {
                Some(paid_at.saturating_sub(cost))
            });
    }
}
