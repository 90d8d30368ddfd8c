//! Which peers clients may reach: one rule for CreatePermission, ChannelBind, Send, Connect, and every packet that is sent.
//!
//! In this order:
//! 1. port 0, the unspecified address, multicast and broadcast are no peers, whatever is configured;
//! 2. the ports of `peers.deny_ports` are denied;
//! 3. what `peers.allow` contains is allowed. An IPv4-mapped address is the IPv4 address it stands for; NAT64 and 6to4 addresses are not looked through:
//!    a network of them has to be named itself;
//! 4. what `peers.deny` contains is denied, as it is written and as what it stands for ([`address_policy::canonical`]);
//! 5. everything that is not globally reachable unicast ([`address_policy::is_public`]) is denied, and so is every address that stands for an IPv4 address by translation:
//!    NAT64 (`64:ff9b::/96`), 6to4, Teredo (RFC 8656 §21.4);
//! 6. the addresses of this host that are not relayed ones are denied (public ones, too; `own`).
//!
//! The relay's own advertised addresses are no matter of this policy: the server knows which relayed transport addresses are in use, and
//! lets nothing through to any other port, unless `peers.allow` contains it ([`PeerPolicy::names`]).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use address_policy::{canonical, is_public};
use ipnet::IpNet;

/// The rule, made once for each configuration.
#[derive(Clone, Debug, Default)]
pub struct PeerPolicy {
    /// `peers.allow`.
    pub allow: Vec<IpNet>,
    /// `peers.deny`.
    pub deny: Vec<IpNet>,
    /// `peers.deny_ports`, in ascending order: a range of the configuration is all of its ports here.
    pub deny_ports: Vec<u16>,
    /// Addresses of this host's interfaces, but for the advertised relay addresses.
    pub own: Vec<IpAddr>,
}

impl PeerPolicy {
    /// Whether packets may be sent to `peer`, and taken from it.
    #[must_use]
    pub fn permits(&self, peer: SocketAddr) -> bool {
        peer.port() != 0
            && self.deny_ports.binary_search(&peer.port()).is_err()
            && self.permits_address(peer.ip())
    }

    /// Whether a permission may be given for `peer` (permissions know no ports).
    #[must_use]
    pub fn permits_address(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        let stands_for = canonical(peer);
        if is_nobody(peer) || is_nobody(stands_for) {
            return false;
        }
        if contain(&self.allow, peer) {
            return true;
        }
        stands_for == peer
            && is_public(peer)
            && !contain(&self.deny, peer)
            && !self.own.contains(&peer)
    }

    /// Whether `peers.allow` contains `peer`, and nothing above it denies it. Other ports of the relay's own advertised
    /// addresses, where clients are not reached, are peers only then: an SFU on the same host, say.
    #[must_use]
    pub fn names(&self, peer: SocketAddr) -> bool {
        contain(&self.allow, peer.ip().to_canonical()) && self.permits(peer)
    }

    /// Whether a client may be answered at all: Teredo and 6to4 clients may not (RFC 8656 §21.4), and port 0 cannot.
    #[must_use]
    pub fn permits_client(client: SocketAddr) -> bool {
        let translated = match client.ip() {
            // Teredo, RFC 4380 §2.6, and 6to4, RFC 3056 §2
            IpAddr::V6(address) => {
                matches!(address.segments(), [0x2001, 0, ..] | [0x2002, ..])
            }
            IpAddr::V4(_) => false,
        };
        client.port() != 0 && !translated
    }
}

/// Whether `address` is the unspecified one, multicast or the limited broadcast.
fn is_nobody(address: IpAddr) -> bool {
    address.is_unspecified() || address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn contain(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// The IPv4 address that an IPv4-mapped IPv6 address is, and any other address as it is: what all addresses from sockets and messages are made
/// before anything else is done with them.
#[must_use]
pub fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
