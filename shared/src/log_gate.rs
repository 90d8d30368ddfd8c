//! Keeps one cause from filling the log.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Lets one log line through in ten seconds and counts the others.
#[derive(Debug)]
pub struct LogGate {
    start: Instant,
    /// Milliseconds since `start`, plus one; 0: never.
    last: AtomicU64,
    held_back: AtomicU64,
}

impl LogGate {
    /// A gate that lets the first one through.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self {
            start: now,
            last: AtomicU64::new(0),
            held_back: AtomicU64::new(0),
        }
    }

    /// How many lines were held back since the last one, when this one may be written.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let now = millis(now.saturating_duration_since(self.start)).saturating_add(1);
        let last = self.last.load(Ordering::Relaxed);
        let due = last == 0 || now.saturating_sub(last) >= millis(INTERVAL);
        if due
            && self
                .last
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            Some(self.held_back.swap(0, Ordering::Relaxed))
        } else {
            self.held_back.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}
