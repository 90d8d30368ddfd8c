//! How many allocations each user has, and how many bytes a second.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use aws_lc_rs::hmac;

use crate::{config::Quotas, counters::QuotaHit, rate::Rate, time::Time};

const SECOND: u64 = 1_000_000_000;
/// The burst that every bandwidth has: one packet of the largest size there is.
const MIN_BURST_BYTES: u64 = 64 * 1024;

/// Who somebody is, as far as the relay remembers it: a keyed hash, with a key drawn at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UserId(u64);

/// All users that have an allocation.
pub struct Ledger {
    key: hmac::Key,
    accounts: Arc<Mutex<Accounts>>,
}

/// Only numbers of allocations are changed under the lock, so that a panic cannot leave them half changed.
#[derive(Default)]
struct Accounts {
    // the keys are hashes with a key of their own
    by_user: HashMap<UserId, Arc<Account>, foldhash::fast::FixedState>,
    total: u32,
}

/// What one user has now. Shared by all allocations of that user, on all threads.
#[derive(Debug, Default)]
pub struct Account {
    up: Rate,
    down: Rate,
    /// Changed only while the ledger is locked.
    allocations: AtomicU32,
}

/// One allocation's entry in the ledger; ends when it is dropped.
pub struct Admission {
    user: UserId,
    account: Arc<Account>,
    accounts: Arc<Mutex<Accounts>>,
}

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
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            accounts: Arc::default(),
        }
    }

    /// The hash of a name: of the part of a username behind the expiry, or of a whole username.
    #[must_use]
    pub fn identify(&self, name: &[u8]) -> UserId {
        let tag = hmac::sign(&self.key, name);
        let first = tag.as_ref().first_chunk().copied();
        UserId(u64::from_be_bytes(first.unwrap_or_default()))
    }

    /// Enters one more allocation for `user`.
    ///
    /// # Errors
    ///
    /// The quota that it would exceed, and nothing is entered.
    pub fn admit(&self, user: UserId, quotas: &Quotas) -> Result<Admission, QuotaHit> {
        let mut accounts = lock(&self.accounts);
        let account = accounts.by_user.get(&user);
        if account.map_or(0, |account| account.allocations()) >= quotas.allocations_per_user {
            return Err(QuotaHit::UserAllocations);
        }
        if accounts.total >= quotas.allocations_total {
            return Err(QuotaHit::TotalAllocations);
        }
        accounts.total += 1;
        let account = Arc::clone(accounts.by_user.entry(user).or_default());
        account.allocations.fetch_add(1, Ordering::Relaxed);
        Ok(Admission {
            user,
            account,
            accounts: Arc::clone(&self.accounts),
        })
    }

    /// Allocations of all users.
    #[must_use]
    pub fn allocations(&self) -> u32 {
        lock(&self.accounts).total
    }
}

/// Shows no user.
impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ledger of {} allocations", self.allocations())
    }
}

impl Admission {
    /// The user's account.
    #[must_use]
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }
}

/// Shows no user.
impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admission")
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut accounts = lock(&self.accounts);
        accounts.total = accounts.total.saturating_sub(1);
        if self.account.allocations.fetch_sub(1, Ordering::Relaxed) == 1 {
            accounts.by_user.remove(&self.user);
        }
    }
}

impl Account {
    /// Whether `bytes` more may go that way now, at `bandwidth` bytes a second on the long run and a burst of one second (at least 64 KiB, so that any
    /// packet fits).
    /// Takes no lock.
    #[must_use]
    pub fn take(&self, way: Way, bytes: usize, bandwidth: u64, now: Time) -> bool {
        if bandwidth == 0 {
            return false;
        }
        let time_of = |bytes: u64| bytes.saturating_mul(SECOND).div_ceil(bandwidth);
        let cost = time_of(u64::try_from(bytes).unwrap_or(u64::MAX));
        let burst = time_of(MIN_BURST_BYTES).max(SECOND);
        let rate = match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        };
        rate.take(cost, burst, now)
    }

    /// Allocations of this user.
    fn allocations(&self) -> u32 {
        self.allocations.load(Ordering::Relaxed)
    }
}

fn lock(accounts: &Mutex<Accounts>) -> MutexGuard<'_, Accounts> {
    accounts.lock().unwrap_or_else(PoisonError::into_inner)
}
