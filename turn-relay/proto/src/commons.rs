//! What the servers of several threads have in common. Nothing of it is locked for a relayed packet.

use std::ops::RangeInclusive;

use crate::{
    budget::Budget, config::RelayAddress, connections::WaitingConnections, nonce::Nonces,
    ports::Ports, quota::Ledger,
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
    pub(crate) connections: WaitingConnections,
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
            ports: Ports::new(relay_addresses, ports),
            connections: WaitingConnections::default(),
        }
    }

    /// Allocations that there are now, of all servers.
    #[must_use]
    pub fn allocations(&self) -> u32 {
        self.ledger.allocations()
    }
}
