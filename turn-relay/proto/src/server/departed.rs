//! Allocations that their clients ended just now, so that a Refresh request with lifetime 0 that comes twice is answered alike (RFC 8656 §8.2).

use std::{collections::VecDeque, time::Duration};

use crate::{address::FiveTuple, stun::TransactionId, time::Time};

/// Longer than a client repeats a request: 39.5 s with RFC 8489's defaults (§6.2.1).
const REMEMBERED: Duration = Duration::from_secs(40);
/// What is remembered at most; older entries go first.
const CAPACITY: usize = 1024;

/// The last requests that ended something.
#[derive(Debug, Default)]
pub(super) struct Departed(VecDeque<(Time, FiveTuple, TransactionId)>);

impl Departed {
    pub(super) fn remember(&mut self, client: FiveTuple, id: TransactionId, now: Time) {
        while self.0.len() >= CAPACITY || self.0.front().is_some_and(|(until, ..)| *until <= now) {
            self.0.pop_front();
        }
        self.0.push_back((now + REMEMBERED, client, id));
    }

    pub(super) fn contains(&self, client: FiveTuple, id: TransactionId, now: Time) -> bool {
        self.0
            .iter()
            .any(|(until, whose, which)| *which == id && *whose == client && now < *until)
    }
}
