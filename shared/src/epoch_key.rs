//! A random key that lives for one epoch, in memory alone.
//!
//! What is keyed with it is the same within an epoch. Once the key is gone nobody can tell any more what it
//! stood for, nor link it with what another key made of the same. The key goes when its epoch is over: at the
//! next use, or at the next [`EpochKey::expire`].

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::{clock::Clock, random::Random};

/// The HMAC-SHA256 key of the current epoch. Epochs are counted on the monotonic clock, from the start on.
pub struct EpochKey {
    epoch: Duration,
    clock: Clock,
    random: Random,
    current: ArcSwap<Current>,
    /// Held while the next key is drawn, so that all threads agree on one.
    replacing: Mutex<()>,
}

/// `hmac::Key` erases itself when dropped.
struct Current {
    key: hmac::Key,
    /// None: never, since the clock cannot tell so late a time.
    ends_at: Option<Instant>,
}

impl EpochKey {
    /// A fresh key, and another one each time that `epoch` is over.
    #[must_use]
    pub fn new(epoch: Duration, clock: Clock, random: Random) -> Self {
        Self {
            epoch,
            current: ArcSwap::from_pointee(Current::draw(&random, clock.now(), epoch)),
            clock,
            random,
            replacing: Mutex::new(()),
        }
    }

    /// How long each key lives.
    #[must_use]
    pub const fn epoch(&self) -> Duration {
        self.epoch
    }

    /// Lends the key of the current epoch; moves on to the next epoch first if it is time.
    pub fn with<T>(&self, use_key: impl FnOnce(&hmac::Key) -> T) -> T {
        let now = self.clock.now();
        if self.current.load().is_over(now) {
            let _guard = self
                .replacing
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if self.current.load().is_over(now) {
                let next = Current::draw(&self.random, now, self.epoch);
                self.current.store(Arc::new(next));
            }
        }
        use_key(&self.current.load().key)
    }

    /// Erases the key of an epoch that is over.
    ///
    /// To be called about once a minute: without it the last key before a quiet time would stay in memory
    /// until the next use.
    pub fn expire(&self) {
        self.with(|_| ());
    }
}

impl Current {
    fn draw(random: &Random, now: Instant, epoch: Duration) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        random.fill(bytes.as_mut());
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, bytes.as_ref()),
            ends_at: now.checked_add(epoch),
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.ends_at.is_some_and(|ends_at| ends_at <= now)
    }
}

impl fmt::Debug for EpochKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("EpochKey([hidden])")
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn key(epoch: Duration) -> (EpochKey, Clock) {
        let clock = Clock::manual(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let key = EpochKey::new(epoch, clock.clone(), Random::seeded(1));
        (key, clock)
    }

    fn tag(key: &EpochKey) -> Vec<u8> {
        key.with(|key| hmac::sign(key, b"something").as_ref().to_vec())
    }

    #[test]
    fn the_key_stays_within_an_epoch_and_is_another_after_it() {
        let (key, clock) = key(HOUR);
        let first = tag(&key);
        clock.advance(HOUR.saturating_sub(Duration::from_secs(1)));
        assert_eq!(tag(&key), first);
        clock.advance(Duration::from_secs(1));
        assert_ne!(tag(&key), first);
    }

    #[test]
    fn expire_erases_the_key_without_a_use() {
        let (key, clock) = key(HOUR);
        let before = Arc::downgrade(&key.current.load_full());
        key.expire();
        assert!(before.upgrade().is_some());
        clock.advance(HOUR);
        key.expire();
        assert!(before.upgrade().is_none(), "the old key is dropped");
    }

    #[test]
    fn the_wall_clock_changes_nothing() {
        let (key, clock) = key(HOUR);
        let first = tag(&key);
        clock.set_wall(UNIX_EPOCH - HOUR);
        assert_eq!(tag(&key), first);
    }

    #[test]
    fn an_endless_epoch_does_not_panic() {
        let (key, clock) = key(Duration::MAX);
        let first = tag(&key);
        clock.advance(1000 * HOUR);
        assert_eq!(tag(&key), first);
    }
}
