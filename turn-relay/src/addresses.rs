//! Which addresses clients are told to be theirs on the relay.
//!
//! Where the configuration names none, they are those that this host sends from: the operating system is
//! asked by connecting a UDP socket, which sends nothing. That looks up the route and takes the source
//! address that a packet would have, on Linux, macOS and the BSDs alike.

#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd as _;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use nix::ifaddrs::getifaddrs;
use shared::address_policy::is_public;

use turn_relay_proto::config::RelayAddress;

use crate::config::Relay;

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
            bind: local,
            advertised: told(local),
        })
        .collect())
}

/// The addresses, IPv4 first, that packets to the internet leave from.
fn of_default_routes() -> Vec<IpAddr> {
    FAR_AWAY
        .into_iter()
        .filter_map(|destination| source_address(destination).ok())
        .filter(|address| leads_here_from_afar(*address))
        .collect()
}

/// A host with a route and no address for it sends from a link-local one, or from loopback.
fn leads_here_from_afar(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_unspecified() && !address.is_loopback() && !is_link_local
}

/// The root name server A, as anything that nothing but a default route leads to. Addresses for
/// documentation would do where nobody blocks their routes.
const FAR_AWAY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 41, 0, 4)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30)),
];

/// The address that a packet to `destination` would be from. Nothing is sent.
fn source_address(destination: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match destination {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    if destination.is_ipv6() {
        // else the one that is found may do for some days
        let _ = prefer_lasting(&socket);
    }
    socket.connect(SocketAddr::new(destination, PORT))?;
    Ok(socket.local_addr()?.ip())
}

/// Has the system choose among the addresses of an IPv6 host one that stays, where it would rather take a temporary one (RFC 8981), which
/// is replaced each day and gone after a week.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no safe wrapper knows this option")]
fn prefer_lasting(socket: &UdpSocket) -> io::Result<()> {
    // linux/in6.h, RFC 5014 §3
    const IPV6_ADDR_PREFERENCES: libc::c_int = 72;
    const IPV6_PREFER_SRC_PUBLIC: libc::c_int = 2;
    let value = IPV6_PREFER_SRC_PUBLIC;
    // SAFETY: the option is an int, which lives through the call and whose length is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            IPV6_ADDR_PREFERENCES,
            (&raw const value).cast(),
            size_of::<libc::c_int>().try_into().unwrap_or_default(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Elsewhere the system chooses.
#[cfg(not(target_os = "linux"))]
const fn prefer_lasting(_: &UdpSocket) -> io::Result<()> {
    Ok(())
}

/// Those of the addresses that no relayed address can be made on, since this host does not have them, or not any more.
///
/// A socket is bound to each, since a host may have addresses that no interface shows.
#[must_use]
pub fn gone(relay: &[RelayAddress]) -> Vec<IpAddr> {
    let is_gone = |address: &IpAddr| {
        UdpSocket::bind((*address, 0))
            .is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
    };
    let bound = relay.iter().map(|address| address.bind);
    bound.filter(is_gone).collect()
}

/// Any port but 0 will do.
const PORT: u16 = 9;

/// The addresses of this host that no client is told: packets to them reach the host's own services, also
/// where they are public.
///
/// # Errors
///
/// When the system does not say which addresses it has.
pub fn own(relay: &[RelayAddress]) -> io::Result<Vec<IpAddr>> {
    let mut own: Vec<_> = getifaddrs()?
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|address| relay.iter().all(|relay| relay.advertised != *address))
        .collect();
    own.sort_unstable();
    own.dedup();
    Ok(own)
}

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
    let each: Vec<_> = addresses.iter().map(show).collect();
    let source = if relay.addresses.is_empty() {
        "found from the routing table"
    } else {
        "from `relay.addresses`"
    };
    let private: Vec<_> = addresses
        .iter()
        .map(|address| address.advertised)
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

fn show(address: &RelayAddress) -> String {
    let RelayAddress { bind, advertised } = address;
    if bind == advertised {
        advertised.to_string()
    } else {
        format!("{advertised} (here {bind})")
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn relay(addresses: &[&str], external: &[(&str, &str)]) -> Relay {
        Relay {
            addresses: addresses.iter().map(|text| ip(text)).collect(),
            external: external
                .iter()
                .map(|(local, told)| (ip(local), ip(told)))
                .collect(),
            ..Relay::default()
        }
    }

    fn resolved(relay: &Relay, found: &[&str]) -> Result<Vec<RelayAddress>, NoAddress> {
        resolve(relay, || found.iter().map(|text| ip(text)).collect())
    }

    #[test]
    fn configured_addresses_win_over_found_ones() {
        let relay = relay(&["198.51.100.7", "2001:db8::7"], &[]);
        let addresses = resolved(&relay, &["10.0.0.5"]).expect("addresses");
        assert_eq!(addresses.len(), 2);
        assert!(addresses[0].bind == ip("198.51.100.7"));
        assert!(addresses[1].advertised == ip("2001:db8::7"));
    }

    #[test]
    fn clients_are_told_the_external_address() {
        let relay = relay(&[], &[("10.0.0.5", "8.8.8.8")]);
        let addresses = resolved(&relay, &["10.0.0.5", "2606:4700::7"]).expect("addresses");
        let told = told(&addresses, &relay);
        assert_eq!(
            told.line,
            "clients will be told that they are at 8.8.8.8 (here 10.0.0.5) and 2606:4700::7, ports 49152 to 65535 \
             (found from the routing table)"
        );
        assert_eq!(told.warning, None);
    }

    #[test]
    fn a_private_address_is_warned_of() {
        let relay = relay(&["10.0.0.5", "8.8.8.8", "fd00::5"], &[]);
        let addresses = resolved(&relay, &[]).expect("addresses");
        let warning = told(&addresses, &relay).warning.expect("a warning");
        assert!(
            warning.starts_with("10.0.0.5, fd00::5 cannot be reached from the internet"),
            "{warning}"
        );
    }

    #[test]
    fn no_address_is_an_error_with_a_remedy() {
        assert_eq!(
            resolved(&relay(&[], &[]), &[])
                .expect_err("none")
                .to_string(),
            "this host has no default route, so that its address cannot be found: set `relay.addresses`"
        );
        let external = relay(&[], &[("10.0.0.6", "8.8.8.8")]);
        assert_eq!(
            resolved(&external, &["10.0.0.5", "fd00::5"])
                .expect_err("another one")
                .to_string(),
            "`relay.external` has 10.0.0.6, and the addresses that this host sends from are 10.0.0.5, fd00::5: set \
             `relay.addresses`"
        );
    }

    #[test]
    fn addresses_that_mean_nothing_elsewhere_are_not_found() {
        for text in [
            "0.0.0.0",
            "127.0.0.1",
            "169.254.3.4",
            "::",
            "::1",
            "fe80::1",
        ] {
            assert!(!leads_here_from_afar(ip(text)), "{text}");
        }
        for text in ["10.0.0.5", "8.8.8.8", "fd00::5", "2606:4700::1"] {
            assert!(leads_here_from_afar(ip(text)), "{text}");
        }
    }

    #[test]
    fn the_source_address_of_a_route_is_found_without_sending() {
        assert_eq!(
            source_address(ip("127.0.0.1")).expect("loopback has a route"),
            ip("127.0.0.1")
        );
    }

    #[test]
    fn an_address_that_no_socket_can_be_bound_to_is_gone() {
        let at = |text| RelayAddress {
            bind: ip(text),
            advertised: ip("8.8.8.8"),
        };
        // of networks for documentation
        let relay = ["127.0.0.1", "192.0.2.77", "2001:db8::77"].map(at);
        assert!(gone(&relay[..1]).is_empty());
        assert!(gone(&relay).contains(&ip("192.0.2.77")));
        assert!(!gone(&relay).contains(&ip("127.0.0.1")));
    }

    #[test]
    fn own_addresses_are_those_of_the_interfaces_that_no_client_is_told() {
        let own_of = |relay: &[RelayAddress]| own(relay).expect("the system says");
        let loopback = ip("127.0.0.1");
        assert!(own_of(&[]).contains(&loopback));
        let advertised = RelayAddress {
            bind: loopback,
            advertised: loopback,
        };
        assert!(!own_of(&[advertised]).contains(&loopback));
        let behind_nat = RelayAddress {
            bind: loopback,
            advertised: ip("8.8.8.8"),
        };
        assert!(own_of(&[behind_nat]).contains(&loopback));
    }
}
