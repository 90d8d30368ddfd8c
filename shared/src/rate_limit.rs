//! A rate limit per key, in bounded memory.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher as _, Hash},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Keys that are remembered; when there are more, those that have been quiet go first.
const KEYS: usize = 65_536;

/// Lets each key through at a steady rate with bursts up to the whole quota (the generic cell rate
/// algorithm). Keys are kept as keyed hashes alone.
#[derive(Debug)]
pub struct RateLimit {
    /// Between two of a key's requests at the steady rate.
    interval: Duration,
    /// How far a key may run ahead of the steady rate.
    tolerance: Duration,
    hasher: RandomState,
    start: Instant,
    /// When each key will be back at rest, since `start`.
    at_rest: Mutex<HashMap<u64, Duration>>,
}

impl RateLimit {
    /// `quota` requests a `period` for each key, in a burst or spread.
    #[must_use]
    pub fn new(quota: u32, period: Duration, now: Instant) -> Self {
        let interval = period / quota.max(1);
        Self {
            interval,
            tolerance: period.saturating_sub(interval),
            hasher: RandomState::new(),
            start: now,
            at_rest: Mutex::default(),
        }
    }

    /// Whether [`RateLimit::take`] would let a request of `key` through; takes nothing.
    ///
    /// # Errors
    ///
    /// How long to wait, when the key's quota is used up.
    pub fn check(&self, key: impl Hash, now: Instant) -> Result<(), Duration> {
        let key = self.hasher.hash_one(key);
        let now = now.saturating_duration_since(self.start);
        let at_rest = self.at_rest.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = at_rest.get(&key).copied().unwrap_or_default();
        let wait = rest.saturating_sub(self.tolerance).saturating_sub(now);
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }

    /// Takes one request of `key`.
    ///
    /// # Errors
    ///
    /// How long to wait, when the key's quota is used up.
    pub fn take(&self, key: impl Hash, now: Instant) -> Result<(), Duration> {
        let key = self.hasher.hash_one(key);
        let now = now.saturating_duration_since(self.start);
        let mut at_rest = self.at_rest.lock().unwrap_or_else(PoisonError::into_inner);
        if at_rest.len() >= KEYS && !at_rest.contains_key(&key) {
            at_rest.retain(|_, rest| *rest > now);
            if at_rest.len() >= KEYS {
                // All of them are busy: a flood of keys. Forgetting them lets some run ahead once more,
                // which is better than growing or refusing everybody.
                at_rest.clear();
            }
        }
        let rest = at_rest.entry(key).or_insert(now);
        let earliest = rest.saturating_sub(self.tolerance);
        if now < earliest {
            return Err(earliest.saturating_sub(now));
        }
        *rest = (*rest).max(now) + self.interval;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn start() -> Instant {
        Clock::system().now()
    }

    #[test]
    fn a_burst_of_the_quota_passes_and_the_next_waits_for_its_share() {
        let now = start();
        let limit = RateLimit::new(4, Duration::from_mins(1), now);
        for _ in 0..4 {
            assert_eq!(limit.take("a", now), Ok(()));
        }
        assert_eq!(limit.take("a", now), Err(Duration::from_secs(15)));
        assert_eq!(
            limit.take("b", now),
            Ok(()),
            "another key has its own quota"
        );
        assert_eq!(limit.take("a", now + Duration::from_secs(15)), Ok(()));
        assert!(limit.take("a", now + Duration::from_secs(15)).is_err());
        for _ in 0..4 {
            assert_eq!(
                limit.take("a", now + Duration::from_secs(90)),
                Ok(()),
                "a quiet minute restores all of it"
            );
        }
    }

    #[test]
    fn a_check_says_what_would_be_let_through_and_takes_nothing() {
        let now = start();
        let limit = RateLimit::new(1, Duration::from_secs(4), now);
        for _ in 0..3 {
            assert_eq!(limit.check("a", now), Ok(()));
        }
        assert_eq!(limit.take("a", now), Ok(()));
        assert_eq!(limit.check("a", now), Err(Duration::from_secs(4)));
        assert_eq!(limit.take("a", now), Err(Duration::from_secs(4)));
        assert_eq!(limit.check("a", now + Duration::from_secs(4)), Ok(()));
    }

    #[test]
    fn memory_stays_bounded_and_quiet_keys_go_first() {
        let now = start();
        let limit = RateLimit::new(1, Duration::from_secs(1), now);
        for key in 0..KEYS {
            assert_eq!(limit.take(key, now), Ok(()));
        }
        let later = now + Duration::from_secs(2);
        assert_eq!(limit.take("busy", later), Ok(()));
        assert!(limit.at_rest.lock().unwrap().len() < KEYS);
        assert!(limit.take("busy", later).is_err(), "the busy key was kept");
    }
}
