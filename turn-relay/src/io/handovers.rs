//! Connections that the HTTPS backend has: how many there may be in total, and from one part of the net.
//!
//! All threads count together. It knows numbers, and nothing of what is sent.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::strangers::{Stranger, Strangers};

/// How many connections the HTTPS backend has.
#[derive(Default)]
pub struct Handovers {
    total: AtomicUsize,
    of_prefixes: Arc<Strangers>,
}

/// How many it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In total.
    pub total: usize,
    /// Of one /24 or /48.
    pub of_prefix: usize,
}

/// One of its connections; counts until it is dropped.
pub struct Handover {
    handovers: Arc<Handovers>,
    _of_prefix: Stranger,
}

impl Handovers {
    /// One more connection from `client`, unless there are as many as there may be.
    #[must_use]
    pub fn enter(self: &Arc<Self>, client: IpAddr, limits: Limits) -> Option<Handover> {
        let of_prefix = self.of_prefixes.enter(client, limits.of_prefix)?;
        let more = |open: usize| (open < limits.total).then_some(open + 1);
        self.total
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        Some(Handover {
            handovers: Arc::clone(self),
            _of_prefix: of_prefix,
        })
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        self.handovers.total.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Shows no address.
impl fmt::Debug for Handovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handovers")
    }
}

/// Shows no address.
impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handover")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn both_limits_hold_and_what_is_over_gives_its_place_back() {
        let handovers = Arc::new(Handovers::default());
        let limits = Limits {
            total: 3,
            of_prefix: 2,
        };
        let first = handovers.enter(ip("192.0.2.1"), limits);
        let second = handovers.enter(ip("192.0.2.2"), limits);
        assert!(first.is_some() && second.is_some());
        assert!(handovers.enter(ip("192.0.2.3"), limits).is_none());
        let third = handovers.enter(ip("198.51.100.1"), limits);
        assert!(third.is_some());
        assert!(handovers.enter(ip("203.0.113.1"), limits).is_none());
        // whoever was refused counts nowhere
        drop(third);
        assert!(handovers.enter(ip("192.0.2.3"), limits).is_none());
        let fourth = handovers.enter(ip("203.0.113.1"), limits);
        assert!(fourth.is_some());
        drop(first);
        assert!(handovers.enter(ip("192.0.2.3"), limits).is_some());
    }
}
