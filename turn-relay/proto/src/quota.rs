//! How many allocations each user has, and how many bytes a second.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::hmac;

use crate::{config::Quotas, counters::QuotaHit, rate::Rate, time::Time};

const SECOND: u64 = 1_000_000_000;
/// The burst that every bandwidth has: one packet of the largest size there is.
const MIN_BURST_BYTES: u64 = 64 * 1024;

/// Bytes of a stream that are worth a read.
const MIN_READ_BYTES: usize = 4096;
/// How long at the least nothing is read of a stream whose user has no bandwidth left.
const MIN_PAUSE: Duration = Duration::from_millis(10);
/// How long it is where there is no bandwidth at all, until a reload may have given some.
const LONG_PAUSE: Duration = Duration::from_secs(1);

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
    /// Whose it is.
    #[must_use]
    pub const fn user(&self) -> UserId {
        self.user
    }

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
        self.rate(way)
            .take(cost(bytes, bandwidth), burst(bandwidth), now)
    }

    /// Takes bandwidth for what is about to be read of a stream: as much as there is, but for no more than `most` bytes. What is read less than that is
    /// [given back](Self::give_back). Takes no lock.
    ///
    /// # Errors
    ///
    /// There is not enough for a read that would be worth it: until when to wait.
    pub fn reserve(&self, way: Way, most: usize, bandwidth: u64, now: Time) -> Result<usize, Time> {
        if bandwidth == 0 {
            return Err(now + LONG_PAUSE);
        }
        let (rate, burst) = (self.rate(way), burst(bandwidth));
        let left = u128::from(rate.left(burst, now)) * u128::from(bandwidth) / u128::from(SECOND);
        let least = most.min(MIN_READ_BYTES);
        let reserved = usize::try_from(left).unwrap_or(most).clamp(least, most);
        if rate.take(cost(reserved, bandwidth), burst, now) {
            Ok(reserved)
        } else {
            Err(now + Duration::from_nanos(cost(least, bandwidth)).max(MIN_PAUSE))
        }
    }

    /// Gives back bandwidth that was [reserved](Self::reserve) just now. Takes no lock.
    pub fn give_back(&self, way: Way, bytes: usize, bandwidth: u64) {
        let nanos = u64::try_from(bytes)
            .unwrap_or(u64::MAX)
            .saturating_mul(SECOND);
        // never more than was taken for them, which was rounded up
        if let Some(back) = nanos.checked_div(bandwidth) {
            self.rate(way).give_back(back);
        }
    }

    const fn rate(&self, way: Way) -> &Rate {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }

    /// Allocations of this user.
    fn allocations(&self) -> u32 {
        self.allocations.load(Ordering::Relaxed)
    }
}

/// In nanoseconds of a bandwidth that is not 0.
fn cost(bytes: usize, bandwidth: u64) -> u64 {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    bytes.saturating_mul(SECOND).div_ceil(bandwidth)
}

/// What may be owed, in nanoseconds.
fn burst(bandwidth: u64) -> u64 {
    let longest = MIN_BURST_BYTES.saturating_mul(SECOND);
    longest.div_ceil(bandwidth).max(SECOND)
}

fn lock(accounts: &Mutex<Accounts>) -> MutexGuard<'_, Accounts> {
    accounts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_user_has_as_many_allocations_as_the_quota_says() {
        let ledger = ledger();
        let alice = ledger.identify(b"alice");
        let quotas = quotas(2, 100);
        let first = ledger.admit(alice, &quotas).unwrap();
        let second = ledger.admit(alice, &quotas).unwrap();
        assert!(Arc::ptr_eq(first.account(), second.account()));
        assert_eq!(
            ledger.admit(alice, &quotas).unwrap_err(),
            QuotaHit::UserAllocations
        );
        // another user has another account
        let bob = ledger.admit(ledger.identify(b"bob"), &quotas).unwrap();
        assert!(!Arc::ptr_eq(first.account(), bob.account()));
        assert_eq!(ledger.allocations(), 3);
        drop(first);
        assert_eq!(ledger.allocations(), 2);
        let _third = ledger.admit(alice, &quotas).unwrap();
        assert_eq!(
            ledger.admit(alice, &quotas).unwrap_err(),
            QuotaHit::UserAllocations
        );
    }

    #[test]
    fn all_users_have_as_many_allocations_as_the_quota_says() {
        let ledger = ledger();
        let quotas = quotas(2, 3);
        let user = |number: u8| ledger.identify(&[number]);
        let mut admissions: Vec<_> = (0..3)
            .map(|number| ledger.admit(user(number), &quotas).unwrap())
            .collect();
        assert_eq!(
            ledger.admit(user(9), &quotas).unwrap_err(),
            QuotaHit::TotalAllocations
        );
        // a refusal leaves nothing behind
        assert_eq!(ledger.allocations(), 3);
        assert_eq!(lock(&ledger.accounts).by_user.len(), 3);
        admissions.pop();
        admissions.push(ledger.admit(user(9), &quotas).unwrap());
    }

    #[test]
    fn a_quota_of_zero_admits_nobody() {
        let ledger = ledger();
        let alice = ledger.identify(b"alice");
        assert_eq!(
            ledger.admit(alice, &quotas(0, 9)).unwrap_err(),
            QuotaHit::UserAllocations
        );
        assert_eq!(
            ledger.admit(alice, &quotas(9, 0)).unwrap_err(),
            QuotaHit::TotalAllocations
        );
    }

    #[test]
    fn a_lower_quota_holds_from_the_next_allocation_on() {
        let ledger = ledger();
        let alice = ledger.identify(b"alice");
        let mut admissions: Vec<_> = (0..4)
            .map(|_| ledger.admit(alice, &quotas(4, 9)).unwrap())
            .collect();
        assert!(ledger.admit(alice, &quotas(2, 9)).is_err());
        admissions.truncate(1);
        assert!(ledger.admit(alice, &quotas(2, 9)).is_ok());
    }

    #[test]
    fn a_user_is_forgotten_with_the_last_allocation() {
        let ledger = ledger();
        let quotas = quotas(2, 100);
        let alice = ledger.identify(b"alice");
        let first = ledger.admit(alice, &quotas).unwrap();
        let second = ledger.admit(alice, &quotas).unwrap();
        drop(first);
        assert_eq!(lock(&ledger.accounts).by_user.len(), 1);
        // a packet on its way may still hold the account
        let account = Arc::clone(second.account());
        drop(second);
        assert!(lock(&ledger.accounts).by_user.is_empty());
        assert_eq!(ledger.allocations(), 0);
        drop(account);
    }

    #[test]
    fn an_admission_may_outlive_the_ledger() {
        let ledger = ledger();
        let admission = ledger
            .admit(ledger.identify(b"alice"), &quotas(1, 1))
            .unwrap();
        drop(ledger);
        drop(admission);
    }

    #[test]
    fn quotas_are_exact_when_threads_ask_at_once() {
        let ledger = ledger();
        for (per_user, total) in [(7, 1000), (1000, 11), (5, 13)] {
            let quotas = quotas(per_user, total);
            let barrier = Barrier::new(4);
            let admissions: Vec<_> = std::thread::scope(|scope| {
                let ask = || {
                    barrier.wait();
                    (0..100_u8)
                        .filter_map(|n| ledger.admit(ledger.identify(&[n % 4]), &quotas).ok())
                        .collect::<Vec<_>>()
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
                threads
                    .into_iter()
                    .flat_map(|thread| thread.join().unwrap())
                    .collect()
            });
            let expected = (4 * per_user).min(total).min(400);
            assert_eq!(admissions.len(), usize::try_from(expected).unwrap());
            assert_eq!(ledger.allocations(), expected);
            for admission in &admissions {
                assert!(admission.account().allocations() <= per_user);
            }
            drop(admissions);
            assert_eq!(ledger.allocations(), 0);
            assert!(lock(&ledger.accounts).by_user.is_empty());
        }
    }

    #[test]
    fn allocations_that_come_and_go_on_all_threads_leave_nothing() {
        let ledger = ledger();
        let quotas = quotas(3, 7);
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let (ledger, quotas) = (&ledger, &quotas);
                scope.spawn(move || {
                    let mut held = Vec::new();
                    for n in 0..2_000_u16 {
                        let user = ledger.identify(&[n.to_be_bytes()[1] % 3]);
                        held.extend(ledger.admit(user, quotas));
                        assert!(ledger.allocations() <= 7);
                        if held.len() > usize::from(thread) {
                            held.remove(0);
                        }
                    }
                });
            }
        });
        assert_eq!(ledger.allocations(), 0);
        assert!(lock(&ledger.accounts).by_user.is_empty());
    }

    #[test]
    fn a_user_is_a_keyed_hash_of_all_of_the_name() {
        let (one, other) = (Ledger::new([1; 32]), Ledger::new([2; 32]));
        assert_eq!(one.identify(b"alice"), one.identify(b"alice"));
        assert_ne!(one.identify(b"alice"), one.identify(b"alicf"));
        assert_ne!(one.identify(b"alice"), one.identify(b"alice "));
        assert_ne!(one.identify(b"alice"), other.identify(b"alice"));
    }

    #[test]
    fn an_account_is_small_and_shows_nobody() {
        assert!(size_of::<Account>() <= 24 && size_of::<Admission>() <= 24);
        let ledger = ledger();
        let admission = ledger
            .admit(ledger.identify(b"alice"), &quotas(1, 1))
            .unwrap();
        assert_eq!(
            format!("{ledger:?}, {admission:?}"),
            "Ledger of 1 allocations, Admission"
        );
    }

    #[test]
    fn a_second_of_bandwidth_may_go_at_once_and_then_as_much_as_time_allows() {
        let account = Account::default();
        let take = |bytes, millis| account.take(Way::Up, bytes, 1_000_000, time(millis));
        assert!(take(1_000_000, 5_000));
        assert!(!take(1, 5_000));
        assert!(take(1_000, 5_001));
        assert!(!take(1, 5_001));
        assert!(take(500_000, 5_501));
        assert!(!take(1, 5_501));
        // not more than a second is saved up
        assert!(take(1_000_000, 60_000));
        assert!(!take(1, 60_000));
    }

    #[test]
    fn each_way_has_its_bandwidth() {
        let account = Account::default();
        assert!(account.take(Way::Up, 100_000, 100_000, time(5_000)));
        assert!(!account.take(Way::Up, 1, 100_000, time(5_000)));
        assert!(account.take(Way::Down, 100_000, 100_000, time(5_000)));
    }

    #[test]
    fn the_largest_packet_fits_every_bandwidth() {
        for bandwidth in [1, 3, 1_000, 65_535, 65_536, 70_000, 1 << 40, u64::MAX] {
            let account = Account::default();
            assert!(
                account.take(Way::Up, 65_535, bandwidth, time(0)),
                "{bandwidth}"
            );
            assert!(account.take(Way::Up, 0, bandwidth, time(0)), "{bandwidth}");
        }
        assert!(!Account::default().take(Way::Up, 1, 0, time(5_000)));
        assert!(!Account::default().take(Way::Up, usize::MAX, 1_000, time(5_000)));
    }

    #[test]
    fn a_reload_to_more_bandwidth_helps_at_once() {
        let account = Account::default();
        // at ten bytes a second this is paid for in 6,500 seconds
        assert!(account.take(Way::Up, 65_000, 10, time(5_000)));
        assert!(!account.take(Way::Up, 1_000, 10, time(6_000)));
        assert!(!account.take(Way::Up, 1_000, 1_000_000, time(6_000)));
        assert!(account.take(Way::Up, 1_000, 1_000_000, time(6_001)));
    }

    #[test]
    fn threads_whose_clocks_differ_a_little_get_no_more() {
        let account = Account::default();
        let mut taken = 0;
        for _ in 0..10_000 {
            for millis in [5_000, 5_003] {
                taken += u32::from(account.take(Way::Up, 1_000, 1_000_000, time(millis)));
            }
        }
        assert!((1_000..=1_003).contains(&taken), "{taken}");
    }

    #[test]
    fn threads_that_take_at_once_get_no_more_together() {
        let account = Account::default();
        let total: u32 = std::thread::scope(|scope| {
            let take = || {
                (0..20_000)
                    .map(|_| u32::from(account.take(Way::Up, 100, 1_000_000, time(5_000))))
                    .sum::<u32>()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(total, 10_000);
    }

    proptest! {
        #[test]
        fn no_time_has_more_than_its_bytes_and_a_burst(
            packets in prop::collection::vec((0_u64..20_000_000, 0_usize..9_000), 1..300),
            bandwidth in 1_000_u64..10_000_000,
        ) {
            let account = Account::default();
            let mut now = time(10_000_000);
            let mut sent: Vec<(Time, usize)> = Vec::new();
            for (pause, bytes) in packets {
                now = now + Duration::from_nanos(pause);
                if account.take(Way::Down, bytes, bandwidth, now) {
                    sent.push((now, bytes));
                }
            }
            // all of it times a billion
            let second = u128::from(SECOND);
            let burst = u128::from(bandwidth.max(MIN_BURST_BYTES) + 1) * second;
            for (index, (from, _)) in sent.iter().enumerate().step_by(7) {
                let mut bytes = 0;
                for (until, more) in &sent[index..] {
                    bytes += u128::try_from(*more).unwrap() * second;
                    let elapsed = until.since(*from).as_nanos();
                    prop_assert!(bytes <= burst + u128::from(bandwidth) * elapsed);
                }
            }
        }

        #[test]
        fn who_sends_no_more_than_the_bandwidth_is_never_refused(
            packets in prop::collection::vec(1_u64..1_500, 1..300),
            bandwidth in 10_000_u64..100_000_000,
        ) {
            let account = Account::default();
            let mut now = time(10_000_000);
            for bytes in packets {
                let size = usize::try_from(bytes).unwrap();
                prop_assert!(account.take(Way::Down, size, bandwidth, now));
                now = now + Duration::from_nanos((bytes * SECOND).div_ceil(bandwidth));
            }
        }
    }

    fn ledger() -> Ledger {
        Ledger::new([7; 32])
    }

    fn quotas(allocations_per_user: u32, allocations_total: u32) -> Quotas {
        Quotas {
            allocations_per_user,
            allocations_total,
            permissions_per_allocation: 1,
            channels_per_allocation: 1,
            bandwidth_per_user: None,
            unauthenticated_per_prefix: 1,
        }
    }

    fn time(millis: u64) -> Time {
        Time::default() + Duration::from_millis(millis)
    }
}
