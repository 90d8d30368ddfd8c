//! How many answers strangers get: a bound on what can be reflected by way of the relay, and nothing stored for a packet that may be spoofed.

use std::{
    hash::{DefaultHasher, Hasher as _},
    net::IpAddr,
};

use crate::{rate::Rate, time::Time};

/// Groups of prefixes that have a budget together.
const CELLS: usize = 1 << 14;
const SECOND: u64 = 1_000_000_000;

/// A table of fixed size: one cell for each of 16,384 groups of source prefixes (/24 and /48), chosen by a keyed hash. Prefixes that share a cell share its budget.
///
/// The hash is SipHash rather than HMAC, since it is asked for every packet of strangers.
pub(crate) struct Budget {
    /// What has read the key, and is to read a prefix.
    hasher: DefaultHasher,
    cells: Box<[Rate]>,
}

impl Budget {
    /// With a key from good randomness.
    #[must_use]
    pub(crate) fn new(key: [u8; 32]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(&key);
        Self {
            hasher,
            cells: std::iter::repeat_with(Rate::default).take(CELLS).collect(),
        }
    }

    /// Whether one more answer may go to `client` now, at `per_second` answers (and a burst of as many). Takes no lock.
    #[must_use]
    pub(crate) fn take(&self, client: IpAddr, per_second: u32, now: Time) -> bool {
        self.cell(client)
            .is_some_and(|cell| take(cell, per_second, now))
    }

    fn cell(&self, client: IpAddr) -> Option<&Rate> {
        let prefix = match client.to_canonical() {
            IpAddr::V4(address) => u64::from(address.to_bits() >> 8),
            // a bit above the 48 keeps the families apart
            IpAddr::V6(address) => 1 << 48 | u64::try_from(address.to_bits() >> 80).ok()?,
        };
        let mut hasher = self.hasher.clone();
        hasher.write_u64(prefix);
        let index = usize::try_from(hasher.finish() % CELLS as u64).ok()?;
        self.cells.get(index)
    }
}

/// Whether one more answer may be given now, at `per_second` answers (and a burst of as many) that are counted by `rate`. Takes no lock.
#[must_use]
pub(crate) fn take(rate: &Rate, per_second: u32, now: Time) -> bool {
    SECOND
        .checked_div(u64::from(per_second))
        .is_some_and(|cost| rate.take(cost, SECOND, now))
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Budget")
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, net::Ipv4Addr, time::Duration};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_prefix_gets_as_many_answers_at_once_as_in_a_second() {
        for per_second in [1, 3, 7, 20, 999] {
            let budget = Budget::new([1; 32]);
            let now = time(5.0);
            let client = address("198.51.100.1");
            assert_eq!(answered(&budget, client, per_second, now), per_second);
            // a while later there is as much again as that while is long
            assert_eq!(answered(&budget, client, per_second, time(6.0)), per_second);
            assert_eq!(
                answered(&budget, client, per_second, time(900.0)),
                per_second
            );
        }
    }

    #[test]
    fn answers_come_back_one_by_one() {
        let budget = Budget::new([1; 32]);
        let client = address("198.51.100.1");
        assert_eq!(answered(&budget, client, 10, time(5.0)), 10);
        assert_eq!(answered(&budget, client, 10, time(5.05)), 0);
        assert_eq!(answered(&budget, client, 10, time(5.101)), 1);
        assert_eq!(answered(&budget, client, 10, time(5.501)), 4);
    }

    #[test]
    fn nobody_is_answered_at_zero_a_second() {
        let budget = Budget::new([1; 32]);
        assert!(!budget.take(address("198.51.100.1"), 0, time(5.0)));
        // and what was not answered costs nothing when a reload allows answers
        assert_eq!(answered(&budget, address("198.51.100.1"), 4, time(5.0)), 4);
    }

    #[test]
    fn a_reload_counts_from_the_next_answer_on() {
        let budget = Budget::new([1; 32]);
        let client = address("198.51.100.1");
        assert_eq!(answered(&budget, client, 1, time(5.0)), 1);
        assert_eq!(answered(&budget, client, 1000, time(5.5)), 500);
        assert_eq!(answered(&budget, client, 2, time(6.0)), 1);
    }

    #[test]
    fn a_budget_is_a_slash_24s_or_a_slash_48s() {
        let cases = [
            ("198.51.100.1", "198.51.100.254", true),
            ("198.51.100.1", "::ffff:198.51.100.9", true),
            ("198.51.100.1", "198.51.101.1", false),
            ("2001:db8:1::1", "2001:db8:1:ffff:ffff::9", true),
            ("2001:db8:1::1", "2001:db8:2::1", false),
            // the same 24 bits, in different families
            ("0.0.1.9", "0:0:1::9", false),
        ];
        for (one, other, same) in cases {
            let budget = Budget::new([1; 32]);
            assert_eq!(answered(&budget, address(one), 5, time(5.0)), 5);
            let left = answered(&budget, address(other), 5, time(5.0));
            assert_eq!(left, if same { 0 } else { 5 }, "{one} and {other}");
        }
    }

    #[test]
    fn the_key_decides_who_shares_a_cell() {
        let cells = |key: u8| -> Vec<usize> {
            let budget = Budget::new([key; 32]);
            let cell = |prefix: u32| {
                let client = IpAddr::V4(Ipv4Addr::from_bits(prefix << 8));
                let cell: *const Rate = budget.cell(client).unwrap();
                let first: *const Rate = &raw const budget.cells[0];
                (cell.addr() - first.addr()) / size_of::<Rate>()
            };
            (0..10_000).map(cell).collect()
        };
        let (one, other) = (cells(1), cells(2));
        assert!(
            one.iter()
                .zip(&other)
                .filter(|(one, other)| one == other)
                .count()
                < 20
        );
        // 10,000 of 16,384 cells at random: 7,485 different ones are to be expected
        let different = one.iter().collect::<HashSet<_>>().len();
        assert!((7_300..7_700).contains(&different), "{different}");
    }

    #[test]
    fn threads_that_take_at_once_get_no_more_together() {
        let budget = Budget::new([1; 32]);
        let client = address("198.51.100.1");
        let total: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| answered(&budget, client, 5_000, time(5.0))))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(total, 5_000);
    }

    proptest! {
        #[test]
        fn answers_are_those_of_the_time_that_went_by_and_of_one_second_more(
            steps in prop::collection::vec((0_u64..50_000_000, 1_u32..20), 1..400),
            per_second in 1_u32..200,
        ) {
            let budget = Budget::new([1; 32]);
            let client = address("2001:db8::1");
            let mut now = Time::from_nanos(1_000_000_000_000);
            let start = now;
            let mut taken = 0_u32;
            for (pause, requests) in steps {
                now = now + Duration::from_nanos(pause);
                let before = taken;
                for _ in 0..requests {
                    taken += u32::from(budget.take(client, per_second, now));
                }
                let elapsed = now.since(start).as_secs_f64();
                let allowed = f64::from(per_second) * (1.0 + elapsed);
                prop_assert!(f64::from(taken) <= allowed + 1e-3);
                // who is refused has had all that there was, but for a part of an answer
                if taken - before < requests {
                    prop_assert!(f64::from(taken) > f64::from(per_second) * 0.999 - 1.0);
                }
            }
        }
    }

    /// How many answers there are at once, up to 10,000.
    fn answered(budget: &Budget, client: IpAddr, per_second: u32, now: Time) -> u32 {
        (0..10_000)
            .map(|_| u32::from(budget.take(client, per_second, now)))
            .sum()
    }

    fn time(seconds: f64) -> Time {
        Time::default() + Duration::from_secs_f64(seconds)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }
}
