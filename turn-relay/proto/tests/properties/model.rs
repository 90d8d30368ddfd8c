//! What clients have, by RFC 8656 alone.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use turn_relay_proto::{Time, address::Family};

pub(crate) const PERMISSION: Duration = Duration::from_secs(300);
pub(crate) const CHANNEL: Duration = Duration::from_secs(600);
pub(crate) const RESERVATION: Duration = Duration::from_secs(30);
pub(crate) const DEFAULT_LIFETIME: u32 = 600;
pub(crate) const MAX_LIFETIME: u32 = 3600;

pub(crate) const ALLOCATIONS_PER_USER: usize = 2;
pub(crate) const ALLOCATIONS_TOTAL: usize = 4;
pub(crate) const PERMISSIONS: usize = 3;
pub(crate) const CHANNELS: usize = 2;

/// Clients' numbers, and what they have.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) allocations: BTreeMap<usize, Allocation>,
    /// Ports that are held for a token.
    pub(crate) held: Vec<Held>,
    /// Expired allocations whose end the servers were not told of yet: their users.
    pub(crate) untold: Vec<(usize, String)>,
    /// Until when it is not known which ports are free, since sockets failed or are still open.
    pub(crate) unsure_until: Time,
}

#[derive(Clone, Debug)]
pub(crate) struct Allocation {
    pub(crate) username: String,
    pub(crate) user: String,
    pub(crate) relays: Vec<Relay>,
    pub(crate) permissions: BTreeMap<IpAddr, Time>,
    pub(crate) channels: BTreeMap<u16, (SocketAddr, Time)>,
    /// The Allocate request, for one that comes again, and the answer.
    pub(crate) request: Vec<u8>,
    pub(crate) answer: Vec<u8>,
    /// Whether one of two relayed addresses was deleted: what was permitted there may or may not count.
    pub(crate) halved: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    pub(crate) expires: Time,
}

#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) address: SocketAddr,
    pub(crate) token: Vec<u8>,
    pub(crate) until: Time,
}

impl Model {
    /// The allocation that a client has now.
    pub(crate) fn alive(&self, client: usize, now: Time) -> Option<&Allocation> {
        let allocation = self.allocations.get(&client)?;
        let alive = allocation.relays.iter().any(|relay| now < relay.expires);
        alive.then_some(allocation)
    }

    pub(crate) fn alive_mut(&mut self, client: usize, now: Time) -> Option<&mut Allocation> {
        self.alive(client, now)?;
        self.allocations.get_mut(&client)
    }

    /// Moves what has expired to what the servers still have to be told.
    pub(crate) fn expire(&mut self, now: Time) {
        let unsure = &mut self.unsure_until;
        let untold = &mut self.untold;
        self.allocations.retain(|client, allocation| {
            let before = allocation.relays.len();
            allocation.relays.retain(|relay| now < relay.expires);
            if allocation.relays.len() < before {
                *unsure = Time::from_nanos(u64::MAX);
                allocation.halved = true;
            }
            let alive = !allocation.relays.is_empty();
            if !alive {
                untold.push((*client, allocation.user.clone()));
            }
            alive
        });
    }

    /// The servers were told of the time.
    pub(crate) fn told(&mut self) {
        self.untold.clear();
        if self.unsure_until == Time::from_nanos(u64::MAX) {
            self.unsure_until = Time::default();
        }
        self.held.retain(|held| !held.token.is_empty());
    }

    /// Who is behind a relayed transport address.
    pub(crate) fn behind(&self, address: SocketAddr, now: Time) -> Option<(usize, &Allocation)> {
        let mut allocations = self.allocations.iter();
        allocations
            .find(|(_, allocation)| {
                let mut relays = allocation.relays.iter();
                relays.any(|relay| relay.address == address && now < relay.expires)
            })
            .map(|(client, allocation)| (*client, allocation))
    }

    /// Ports of an address that somebody has or that are held.
    pub(crate) fn taken(&self, ip: IpAddr, now: Time) -> Vec<u16> {
        let relays = self
            .allocations
            .values()
            .flat_map(|allocation| &allocation.relays);
        let used = relays.map(|relay| relay.address);
        let held = self.held.iter().filter(|held| now < held.until);
        let mut ports: Vec<u16> = used
            .chain(held.map(|held| held.address))
            .filter(|address| address.ip() == ip)
            .map(|address| address.port())
            .collect();
        ports.sort_unstable();
        ports
    }

    /// Whether it is known which ports are free.
    pub(crate) fn is_sure(&self, now: Time) -> bool {
        self.untold.is_empty()
            && now >= self.unsure_until
            && self.held.iter().all(|held| held.until != now)
    }
}

impl Allocation {
    pub(crate) fn relay(&self, family: Family, now: Time) -> Option<Relay> {
        let mut relays = self.relays.iter();
        relays
            .find(|relay| Family::of(relay.address.ip()) == family && now < relay.expires)
            .copied()
    }

    pub(crate) fn permits(&self, peer: IpAddr, now: Time) -> bool {
        self.permissions
            .get(&peer)
            .is_some_and(|expires| now < *expires)
    }

    /// The channel that is bound to `peer`.
    pub(crate) fn channel_to(&self, peer: SocketAddr, now: Time) -> Option<u16> {
        let mut channels = self.channels.iter();
        channels
            .find(|(_, (bound, expires))| *bound == peer && now < *expires)
            .map(|(number, _)| *number)
    }

    /// The peer that a channel is bound to.
    pub(crate) fn peer_of(&self, number: u16, now: Time) -> Option<SocketAddr> {
        let (peer, expires) = self.channels.get(&number)?;
        (now < *expires).then_some(*peer)
    }

    pub(crate) fn permission_count(&self, now: Time) -> usize {
        self.permissions
            .values()
            .filter(|expires| now < **expires)
            .count()
    }

    pub(crate) fn channel_count(&self, now: Time) -> usize {
        self.channels
            .values()
            .filter(|(_, expires)| now < *expires)
            .count()
    }
}

/// RFC 8656 §7.2: the time-to-expiry for a requested lifetime.
pub(crate) fn granted(requested: Option<u32>) -> u32 {
    requested.unwrap_or(0).clamp(DEFAULT_LIFETIME, MAX_LIFETIME)
}
