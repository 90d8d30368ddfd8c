//! How many allocations each user has, and how many bytes a second.

use std::sync::Arc;

use crate::{config::Quotas, counters::QuotaHit, time::Time};

/// Who somebody is, as far as the relay remembers it: a keyed hash, with a key drawn at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UserId(u64);

/// All users that have an allocation.
#[derive(Debug)]
pub struct Ledger {}

/// What one user has now. Shared by all allocations of that user, on all threads.
#[derive(Debug)]
pub struct Account {}

/// One allocation's entry in the ledger; ends when it is dropped.
#[derive(Debug)]
pub struct Admission {}

/// Which way bytes go, seen from the client: each has a bandwidth of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client.
    Up,
    /// To the client.
    Down,
}

impl Ledger {
    /// With a key from good randomness.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        unimplemented!()
    }

    /// The hash of a name: of the part of a username behind the expiry, or of a whole username.
    #[must_use]
    pub fn identify(&self, name: &[u8]) -> UserId {
        unimplemented!()
    }

    /// Enters one more allocation for `user`.
    ///
    /// # Errors
    ///
    /// The quota that it would exceed, and nothing is entered.
    pub fn admit(&self, user: UserId, quotas: &Quotas) -> Result<Admission, QuotaHit> {
        unimplemented!()
    }

    /// Allocations of all users.
    #[must_use]
    pub fn allocations(&self) -> u32 {
        unimplemented!()
    }
}

impl Admission {
    /// The user's account.
    #[must_use]
    pub fn account(&self) -> &Arc<Account> {
        unimplemented!()
    }
}

impl Account {
    /// Whether `bytes` more may go that way now, at `bandwidth` bytes a second on the long run and a burst of one second (at least 64 KiB, so that any
    /// packet fits).
    /// Takes no lock.
    #[must_use]
    pub fn take(&self, way: Way, bytes: usize, bandwidth: u64, now: Time) -> bool {
        unimplemented!()
    }
}
