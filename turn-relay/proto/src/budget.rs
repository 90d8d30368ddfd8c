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
        let Some(cost) = SECOND.checked_div(u64::from(per_second)) else {
            return false;
        };
        self.cell(client)
            .is_some_and(|cell| cell.take(cost, SECOND, now))
    }

    fn cell(&self, client: IpAddr) -> Option<&Rate> {
        // a first byte of its own keeps the families apart
        let prefix = match client.to_canonical() {
            IpAddr::V4(address) => u64::from(address.to_bits() >> 8),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, ..] = address.octets();
                u64::from_be_bytes([1, 0, a, b, c, d, e, f])
            }
        };
        let mut hasher = self.hasher.clone();
        hasher.write_u64(prefix);
        let index = usize::try_from(hasher.finish() % CELLS as u64).ok()?;
        self.cells.get(index)
    }
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Budget")
    }
}
