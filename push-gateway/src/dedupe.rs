//! Which devices got which event, so that a homeserver's retry does not reach them again.

use std::{
    collections::{HashSet, hash_map::RandomState},
    hash::BuildHasher as _,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::notification::{Device, TEST_EVENT_ID};

/// How long a delivery is remembered, at least, while there is room.
const MEMORY: Duration = Duration::from_mins(10);
/// Deliveries in one of the two generations: 16 bytes each or less.
const GENERATION: usize = 131_072;

/// Remembers deliveries as keyed hashes, in memory alone, for ten to twenty minutes; for a shorter
/// time when there are more than 131,072 of them in ten minutes.
#[derive(Debug)]
pub struct Deliveries {
    hasher: RandomState,
    generations: Mutex<Generations>,
}

#[derive(Debug)]
struct Generations {
    current: HashSet<u64>,
    previous: HashSet<u64>,
    since: Instant,
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
        };
        Self {
            hasher: RandomState::new(),
            generations: Mutex::new(generations),
        }
    }

    /// The delivery of an event to a device. None where a repetition is wanted or cannot be told: a
    /// push without an event, and the push test of the clients, whose event ID is always the same.
    #[must_use]
    pub fn of(&self, event_id: Option<&str>, device: &Device) -> Option<Delivery> {
        let event_id = event_id.filter(|event_id| *event_id != TEST_EVENT_ID)?;
        Some(Delivery(self.hasher.hash_one((
            event_id,
            device.app_id.as_str(),
            device.pushkey.expose(),
        ))))
    }

    /// Whether this delivery was made.
    #[must_use]
    pub fn contains(&self, delivery: Delivery, now: Instant) -> bool {
        let mut generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        generations.turn(now);
        generations.current.contains(&delivery.0) || generations.previous.contains(&delivery.0)
    }

    /// Remembers a delivery.
    pub fn insert(&self, delivery: Delivery, now: Instant) {
        let mut generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        generations.turn(now);
        generations.current.insert(delivery.0);
    }
}

impl Generations {
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
    use shared::clock::Clock;

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

    #[test]
    fn a_delivery_is_remembered_for_ten_minutes_and_forgotten_after_twenty() {
        let now = Clock::system().now();
        let deliveries = Deliveries::new(now);
        let delivery = deliveries
            .of(Some("$event"), &device("key"))
            .expect("an event");
        assert!(!deliveries.contains(delivery, now));
        let inserted = now + Duration::from_secs(590);
        deliveries.insert(delivery, inserted);
        assert!(deliveries.contains(delivery, inserted + MEMORY));
        assert!(!deliveries.contains(delivery, inserted + MEMORY * 2));
        deliveries.insert(delivery, inserted + MEMORY * 2);
        assert!(
            !deliveries.contains(delivery, inserted + MEMORY * 5),
            "also when nothing happened in between"
        );
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
            deliveries.insert(Delivery(number), now);
        }
        let generations = deliveries.generations.lock().expect("not poisoned");
        assert!(generations.current.len() + generations.previous.len() <= GENERATION * 2);
        drop(generations);
        let newest = u64::try_from(GENERATION).expect("small") * 3 - 1;
        assert!(deliveries.contains(Delivery(newest), now));
    }
}
