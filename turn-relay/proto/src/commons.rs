//! What the servers of several threads have in common. Nothing of it is locked for a relayed packet.

use std::{
    net::IpAddr,
    ops::RangeInclusive,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    budget::Budget,
    config::RelayAddress,
    connections::{Connections, Listening},
    nonce::Nonces,
    ports::Ports,
    quota::Ledger,
    time::Time,
};

/// Randomness as an argument. What it gives must not be guessable.
pub trait Random {
    /// Fills `bytes`.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// Shared by all servers of a process, behind an `Arc`. The times of all of them count from the same moment.
#[derive(Debug)]
pub struct Commons {
    pub(crate) nonces: Nonces,
    pub(crate) ledger: Ledger,
    pub(crate) ports: Ports,
    pub(crate) budget: Budget,
    handshakes: Budget,
    pub(crate) connections: Connections,
    pub(crate) listening: Listening,
    made: AtomicU64,
}

impl Commons {
    /// For relayed addresses on `relay_addresses` with ports of `ports`.
    pub fn new(
        relay_addresses: &[RelayAddress],
        ports: RangeInclusive<u16>,
        random: &mut impl Random,
    ) -> Self {
        let mut draw = || {
            let mut key = [0; 32];
            random.fill(&mut key);
            key
        };
        Self {
            nonces: Nonces::new(draw()),
            ledger: Ledger::new(draw()),
            budget: Budget::new(draw()),
            handshakes: Budget::new(draw()),
            ports: Ports::new(relay_addresses, ports),
            connections: Connections::default(),
            listening: Listening::default(),
            made: AtomicU64::new(0),
        }
    }

    /// Whether one more TLS handshake from the prefix (/24 or /48) of `client` may begin now, at `per_second` (and a burst of as many). For whoever does
    /// input and output: a signature takes longer than anything else that a stranger can ask for. Takes no lock.
    #[must_use]
    pub fn may_shake_hands(&self, client: IpAddr, per_second: u32, now: Time) -> bool {
        self.handshakes.take(client, per_second, now)
    }

    /// The number of the next allocation in logs, over all servers.
    pub(crate) fn next_number(&self) -> u64 {
        self.made.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Allocations that there are now, of all servers.
    #[must_use]
    pub fn allocations(&self) -> u32 {
        self.ledger.allocations()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::Random;

    /// Numbers that look random and are the same in every run (`SplitMix64`).
    pub(crate) struct Repeatable(pub u64);

    impl Repeatable {
        pub(crate) fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut bits = self.0;
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            bits ^ (bits >> 31)
        }
    }

    impl Random for Repeatable {
        fn fill(&mut self, bytes: &mut [u8]) {
            for chunk in bytes.chunks_mut(8) {
                chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use super::{testing::Repeatable, *};

    #[test]
    fn each_part_has_a_key_of_its_own() {
        let mut random = Repeatable(1);
        let first = Commons::new(&[], 49152..=65535, &mut random);
        let second = Commons::new(&[], 49152..=65535, &mut random);
        let client: SocketAddr = "192.0.2.1:40000".parse().unwrap();
        let now = Time::default() + Duration::from_mins(1);
        let nonce = first.nonces.issue(client, now);
        assert!(first.nonces.is_valid(&nonce, client, now));
        assert!(!second.nonces.is_valid(&nonce, client, now));
        assert_ne!(
            first.ledger.identify(b"alice"),
            second.ledger.identify(b"alice")
        );
        assert_eq!(
            first.ledger.identify(b"alice"),
            first.ledger.identify(b"alice")
        );
    }
}
