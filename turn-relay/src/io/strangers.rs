//! Connections whose clients have not shown credentials: how many there may be from one part of the net.
//!
//! All threads count together. It knows prefixes, and nothing of what is sent.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// The first 24 bits of an IPv4 address, or 48 of an IPv6 one: what one customer of a provider has, or few.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Prefix {
    V4([u8; 3]),
    V6([u16; 3]),
}

impl Prefix {
    const fn of(client: IpAddr) -> Self {
        match client {
            IpAddr::V4(ip) => {
                let [bytes @ .., _] = ip.octets();
                Self::V4(bytes)
            }
            IpAddr::V6(ip) => {
                let [a, b, c, ..] = ip.segments();
                Self::V6([a, b, c])
            }
        }
    }
}

/// How many connections there are of each prefix: no more entries than open connections.
#[derive(Default)]
pub struct Strangers(Mutex<HashMap<Prefix, usize>>);

/// One connection of a stranger's; counts until it is dropped.
pub struct Stranger {
    strangers: Arc<Strangers>,
    prefix: Prefix,
}

impl Strangers {
    /// One more connection from `client`, unless there are `limit` of its prefix.
    #[must_use]
    pub fn enter(self: &Arc<Self>, client: IpAddr, limit: usize) -> Option<Stranger> {
        let prefix = Prefix::of(client);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.entry(prefix) {
            Entry::Occupied(count) if *count.get() >= limit => return None,
            Entry::Occupied(mut count) => *count.get_mut() += 1,
            Entry::Vacant(_) if limit == 0 => return None,
            Entry::Vacant(count) => {
                count.insert(1);
            }
        }
        Some(Stranger {
            strangers: Arc::clone(self),
            prefix,
        })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut counts = self
            .strangers
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(self.prefix) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Shows no address.
impl fmt::Debug for Strangers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Strangers")
    }
}

/// Shows no address.
impl fmt::Debug for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stranger")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_prefix_has_its_share_and_no_more() {
        let strangers = Arc::new(Strangers::default());
        let first = strangers.enter(ip("192.0.2.1"), 2);
        let second = strangers.enter(ip("192.0.2.200"), 2);
        assert!(first.is_some() && second.is_some());
        assert!(strangers.enter(ip("192.0.2.3"), 2).is_none());
        assert!(strangers.enter(ip("192.0.3.3"), 2).is_some());
        drop(first);
        assert!(strangers.enter(ip("192.0.2.3"), 2).is_some());
    }

    #[test]
    fn ipv6_is_counted_by_48_bits() {
        let strangers = Arc::new(Strangers::default());
        let _first = strangers.enter(ip("2001:db8:1::1"), 1);
        assert!(strangers.enter(ip("2001:db8:1:ffff::1"), 1).is_none());
        assert!(strangers.enter(ip("2001:db8:2::1"), 1).is_some());
    }

    #[test]
    fn nothing_is_remembered_of_who_has_left() {
        let strangers = Arc::new(Strangers::default());
        drop(strangers.enter(ip("192.0.2.1"), 2));
        assert!(strangers.enter(ip("192.0.2.1"), 0).is_none());
        assert!(strangers.0.lock().expect("not poisoned").is_empty());
    }
}
