//! Which devices got which event, so that a homeserver's retry does not reach them again.

use std::{
    collections::{HashSet, hash_map::RandomState},
    hash::BuildHasher as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use shared::clock::Clock;
use tokio::sync::Notify;

use crate::notification::{Device, TEST_EVENT_ID};

/// How long a delivery is remembered, at least, while there is room.
const MEMORY: Duration = Duration::from_mins(10);
/// Deliveries in one of the two generations: 16 bytes each or less.
const GENERATION: usize = 262_144;

/// Remembers deliveries as keyed hashes, in memory alone, for ten to twenty minutes; for a shorter
/// time when there are more than 262,144 of them in ten minutes (437 a second).
#[derive(Debug)]
pub struct Deliveries {
    hasher: RandomState,
    generations: Mutex<Generations>,
    /// Rung when a delivery that was under way is so no longer.
    ended: Notify,
}

#[derive(Debug)]
struct Generations {
    current: HashSet<u64>,
    previous: HashSet<u64>,
    since: Instant,
    /// As many as pushes are under way.
    under_way: HashSet<u64>,
}

/// The right to make a delivery, which nobody else has meanwhile. Dropped: it was not made.
#[derive(Debug)]
#[must_use]
pub struct Making<'a> {
    deliveries: &'a Deliveries,
    delivery: Delivery,
}

/// One event for one device, as a keyed hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery(u64);

impl Deliveries {
    /// Nothing remembered, and a key of its own.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let generations = Generations {
            current: HashSet::new(),
            previous: HashSet::new(),
            since: now,
            under_way: HashSet::new(),
        };
        Self {
            hasher: RandomState::new(),
            generations: Mutex::new(generations),
            ended: Notify::new(),
        }
    }

    /// The delivery of an event to a device. None where a repetition is wanted or cannot be told: a
    /// push without an event, and the push test of the clients, whose event ID is always the same.
    #[must_use]
    pub fn of(&self, event_id: Option<&str>, device: &Device) -> Option<Delivery> {
        let event_id = event_id.filter(|event_id| *event_id != TEST_EVENT_ID)?;
        // `data` is an account's: two accounts on one device may share its pushkey, and be in one room.
        let key = (
            event_id,
            device.app_id.as_str(),
            device.pushkey.expose(),
            &device.data,
        );
        Some(Delivery(self.hasher.hash_one(key)))
    }

    /// The right to make this delivery; none: it was made. Waits while somebody else is making it.
    pub async fn begin(&self, delivery: Delivery, clock: &Clock) -> Option<Making<'_>> {
        loop {
            // Made before the look, so that no end is missed between the two.
            let ended = self.ended.notified();
            {
                let mut generations = self.generations();
                if generations.contain(delivery, clock.now()) {
                    return None;
                }
                if generations.under_way.insert(delivery.0) {
                    return Some(Making {
                        deliveries: self,
                        delivery,
                    });
                }
            }
            ended.await;
        }
    }

    fn generations(&self) -> MutexGuard<'_, Generations> {
        self.generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Making<'_> {
    /// Remembers the delivery.
    pub fn made(self, now: Instant) {
        self.deliveries.generations().insert(self.delivery, now);
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.deliveries
            .generations()
            .under_way
            .remove(&self.delivery.0);
        self.deliveries.ended.notify_waiters();
    }
}

impl Generations {
    fn contain(&mut self, delivery: Delivery, now: Instant) -> bool {
        self.turn(now);
        self.current.contains(&delivery.0) || self.previous.contains(&delivery.0)
    }

    fn insert(&mut self, delivery: Delivery, now: Instant) {
        self.turn(now);
        self.current.insert(delivery.0);
    }

    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if age >= MEMORY * 2 {
            self.previous.clear();
        }
        if age >= MEMORY || self.current.len() >= GENERATION {
            // The older set's memory is used again, so that there are never more than two.
            std::mem::swap(&mut self.current, &mut self.previous);
            self.current.clear();
            if age >= MEMORY * 2 {
                self.previous.clear();
            }
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::Pushkey;

    fn device(pushkey: &str) -> Device {
        Device {
            app_id: "app".to_owned(),
            pushkey: Pushkey::new(pushkey),
            pushkey_ts: None,
            data: None,
        }
    }

    fn contains(deliveries: &Deliveries, delivery: Delivery, now: Instant) -> bool {
        deliveries.generations().contain(delivery, now)
    }

    fn insert(deliveries: &Deliveries, delivery: Delivery, now: Instant) {
        deliveries.generations().insert(delivery, now);
    }

    #[tokio::test]
    async fn a_delivery_under_way_is_waited_for_and_taken_over_when_it_was_not_made() {
        let clock = Clock::system();
        let deliveries = Deliveries::new(clock.now());
        let delivery = deliveries
            .of(Some("$event"), &device("key"))
            .expect("an event");
        let first = deliveries.begin(delivery, &clock).await.expect("the first");
        let mut second = std::pin::pin!(deliveries.begin(delivery, &clock));
        let mut third = std::pin::pin!(deliveries.begin(delivery, &clock));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        assert!(futures_util::poll!(third.as_mut()).is_pending());
        drop(first);
        let second = second.await.expect("its turn");
        assert!(futures_util::poll!(third.as_mut()).is_pending());
        second.made(clock.now());
        assert!(third.await.is_none(), "it was made");
        assert!(deliveries.generations().under_way.is_empty());
    }

    #[test]
    fn a_delivery_is_remembered_for_ten_minutes_and_forgotten_after_twenty() {
        let now = Clock::system().now();
        let deliveries = Deliveries::new(now);
        let delivery = deliveries
            .of(Some("$event"), &device("key"))
            .expect("an event");
        assert!(!contains(&deliveries, delivery, now));
        let inserted = now + Duration::from_secs(590);
        insert(&deliveries, delivery, inserted);
        assert!(contains(&deliveries, delivery, inserted + MEMORY));
        assert!(!contains(&deliveries, delivery, inserted + MEMORY * 2));
        insert(&deliveries, delivery, inserted + MEMORY * 2);
        assert!(
            !contains(&deliveries, delivery, inserted + MEMORY * 5),
            "also when nothing happened in between"
        );
    }

    #[test]
    fn two_accounts_on_one_device_both_get_the_event() {
        let deliveries = Deliveries::new(Clock::system().now());
        let account = |session: &str| {
            let mut device = device("key");
            device.data = serde_json::from_value(serde_json::json!({"session_id": session})).ok();
            deliveries.of(Some("$event"), &device)
        };
        assert_ne!(account("one"), account("two"));
        assert_eq!(account("one"), account("one"));
    }

    #[test]
    fn another_device_or_event_is_another_delivery() {
        let deliveries = Deliveries::new(Clock::system().now());
        let one = deliveries.of(Some("$event"), &device("key"));
        assert_ne!(one, deliveries.of(Some("$event"), &device("other")));
        assert_ne!(one, deliveries.of(Some("$other"), &device("key")));
        assert_eq!(one, deliveries.of(Some("$event"), &device("key")));
    }

    #[test]
    fn pushes_without_an_event_and_the_push_test_may_repeat() {
        let deliveries = Deliveries::new(Clock::system().now());
        assert_eq!(deliveries.of(None, &device("key")), None);
        assert_eq!(deliveries.of(Some(TEST_EVENT_ID), &device("key")), None);
    }

    #[test]
    fn memory_stays_bounded() {
        let now = Clock::system().now();
        let deliveries = Deliveries::new(now);
        for number in 0..u64::try_from(GENERATION).expect("small") * 3 {
            insert(&deliveries, Delivery(number), now);
        }
        let generations = deliveries.generations.lock().expect("not poisoned");
        assert!(generations.current.len() + generations.previous.len() <= GENERATION * 2);
        drop(generations);
        let newest = u64::try_from(GENERATION).expect("small") * 3 - 1;
        assert!(contains(&deliveries, Delivery(newest), now));
    }
}
