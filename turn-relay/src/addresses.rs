//! Which addresses clients are told to be theirs on the relay.
//!
//! Where the configuration names none, they are those that this host sends from: the operating system is
//! asked by connecting a UDP socket, which sends nothing. That looks up the route and takes the source
//! address that a packet would have, on Linux, macOS and the BSDs alike.

use std::{
    fmt,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use shared::address_policy::is_public;

use crate::config::Relay;

/// One address to relay at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelayAddress {
    /// The host's own, which sockets are bound to.
    pub local: IpAddr,
    /// What clients and peers are told: another one behind a 1:1 NAT, else the same.
    pub told: IpAddr,
}

/// Why there is no address to relay at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// None is configured, and the routing table has none.
    #[error(
        "this host has no default route, so that its address cannot be found: set `relay.addresses`"
    )]
    NotFound,
    /// `relay.external` speaks of an address that was not found.
    #[error(
        "`relay.external` has {local}, and the addresses that this host sends from are {}: set \
         `relay.addresses`", list(.found)
    )]
    Unknown {
        /// The key of `relay.external`
        local: IpAddr,
        /// What was found
        found: Vec<IpAddr>,
    },
}

/// The addresses of the configuration, or those that are found, as clients are told them.
///
/// # Errors
///
/// When there is none, or `relay.external` does not fit.
pub fn find(relay: &Relay) -> Result<Vec<RelayAddress>, NoAddress> {
    resolve(relay, of_default_routes)
}

fn resolve(
    relay: &Relay,
    of_default_routes: impl FnOnce() -> Vec<IpAddr>,
) -> Result<Vec<RelayAddress>, NoAddress> {
    let locals = if relay.addresses.is_empty() {
        of_default_routes()
    } else {
        relay.addresses.clone()
    };
    if locals.is_empty() {
        return Err(NoAddress::NotFound);
    }
    if let Some((local, _)) = relay
        .external
        .iter()
        .find(|(local, _)| !locals.contains(local))
    {
        return Err(NoAddress::Unknown {
            local: *local,
            found: locals,
        });
    }
    let told = |local| {
        let external = relay.external.iter().find(|(key, _)| *key == local);
        external.map_or(local, |(_, told)| *told)
    };
    Ok(locals
        .into_iter()
        .map(|local| RelayAddress {
            local,
            told: told(local),
        })
        .collect())
}

/// The addresses, IPv4 first, that packets to the internet leave from.
fn of_default_routes() -> Vec<IpAddr> {
    FAR_AWAY
        .into_iter()
        .filter_map(|destination| source_address(destination).ok())
        .filter(|address| !address.is_unspecified() && !address.is_loopback())
        .collect()
}

/// Where nothing is sent to: the documentation's networks, which only a default route leads to.
const FAR_AWAY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// The address that a packet to `destination` would be from. Nothing is sent.
fn source_address(destination: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match destination {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(SocketAddr::new(destination, PORT))?;
    Ok(socket.local_addr()?.ip())
}

/// Any port but 0 will do.
const PORT: u16 = 9;

/// What is said at start: the one line on what clients are told, and whether that is worth a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The line
    pub line: String,
    /// Why most peers will not get through to one of the addresses
    pub warning: Option<String>,
}

/// Says what clients will be told. The relay's own addresses are no secret of any client's.
#[must_use]
pub fn told(addresses: &[RelayAddress], relay: &Relay) -> Told {
    let each: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let source = if relay.addresses.is_empty() {
        "found from the routing table"
    } else {
        "from `relay.addresses`"
    };
    let private: Vec<_> = addresses
        .iter()
        .map(|address| address.told)
        .filter(|told| !is_public(*told))
        .collect();
    let warning = (!private.is_empty()).then(|| {
        format!(
            "{} cannot be reached from the internet: calls will fail for everybody outside of this network. \
             Behind a NAT set `relay.external` to the public address; and if the host has a public address of \
             its own, name it in `relay.addresses`",
            list(&private)
        )
    });
    Told {
        line: format!(
            "clients will be told that they are at {}, ports {} to {} ({source})",
            each.join(" and "),
            relay.ports.start(),
            relay.ports.end()
        ),
        warning,
    }
}

impl fmt::Display for RelayAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { local, told } = self;
        if local == told {
            write!(formatter, "{told}")
        } else {
            write!(formatter, "{told} (here {local})")
        }
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}
