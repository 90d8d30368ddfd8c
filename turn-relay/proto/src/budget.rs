//! How many answers strangers get: a bound on what can be reflected by way of the relay, and nothing stored for a packet that may be spoofed.

use std::net::IpAddr;

use crate::time::Time;

/// A table of fixed size: one cell for each of 16,384 groups of source prefixes (/24 and /48), chosen by a keyed hash. Prefixes that share a cell share its budget.
#[derive(Debug)]
pub struct Budget {}

impl Budget {
    /// With a key from good randomness.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        unimplemented!()
    }

    /// Whether one more answer may go to `client` now, at `per_second` answers (and a burst of as many). Takes no lock.
    #[must_use]
    pub fn take(&self, client: IpAddr, per_second: u32, now: Time) -> bool {
        unimplemented!()
    }
}
