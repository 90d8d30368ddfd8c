//! What an operator decides. A reload replaces it as a whole.

use std::{net::IpAddr, sync::Arc, time::Duration};

use crate::{credential::Secrets, policy::PeerPolicy};

/// Settings of a [`Server`](crate::Server).
#[derive(Clone, Debug)]
pub struct Config {
    /// REALM: printable ASCII without quotes and backslashes, 1 to 127 bytes. The shorter, the shorter are answers to strangers.
    pub realm: String,
    /// What credentials are signed with.
    pub secrets: Arc<Secrets>,
    /// Where relayed addresses are made, one or more. An allocation of a family gets one of that family,
    /// drawn at random. Not changed by a reload.
    pub relay_addresses: Vec<RelayAddress>,
    /// `lifetime.default`: an allocation's life if it asks for less or for nothing.
    pub default_lifetime: Duration,
    /// `lifetime.max`: at least [`Self::default_lifetime`].
    pub max_lifetime: Duration,
    /// Whom clients may reach.
    pub policy: Arc<PeerPolicy>,
    /// What one user and one allocation may have.
    pub quotas: Quotas,
    /// Whether RFC 6062 is spoken.
    pub tcp_relay: bool,
    /// Whether logs may name users and addresses (`log.unsafe_identifiers`).
    pub unsafe_identifiers: bool,
}

/// An address of this host for relayed transport addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RelayAddress {
    /// What sockets are bound to.
    pub bind: IpAddr,
    /// What clients are told: the same, unless there is a 1:1 NAT (`relay.external`).
    pub advertised: IpAddr,
}

/// Shows no address.
impl std::fmt::Debug for RelayAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RelayAddress")
    }
}

/// Upper bounds; see `quotas` in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// At most this many allocations of one user.
    pub allocations_per_user: u32,
    /// At most this many allocations at all.
    pub allocations_total: u32,
    /// Peer addresses for which one allocation may have permission at one time.
    pub permissions_per_allocation: usize,
    /// Channels that one allocation may have bound at one time.
    pub channels_per_allocation: usize,
    /// Bytes a second in each direction that are relayed for one user, the headers of packets' IP and UDP included; `None`: as many as come.
    pub bandwidth_per_user: Option<u64>,
    /// Answers a second to unauthenticated requests from one /24 (IPv4) or /48 (IPv6), and as many at once.
    pub unauthenticated_per_prefix: u32,
}
