//! Addresses, networks and ports: `listen`, `relay`, `peers` and `http`.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use shared::yaml::{Scalar, Section, Severity, Value};

use super::{DTLS, Listen, Peers, Relay, backend};

/// Ports below are other services'; RFC 8656 §7.2 keeps relays away from them.
const LOWEST_RELAY_PORT: u16 = 1024;

/// `listen:`. TLS listeners are there by default where there is a certificate for them.
pub(super) fn listen(root: &Section<'_>, has_certificate: bool) -> Listen {
    let section = root.section("listen");
    let everywhere = |port| {
        vec![
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        ]
    };
    let tls_value = section.get("tls");
    let dtls = section.get("dtls").filter(|value| !value.is_empty());
    let listen = Listen {
        udp: section
            .get("udp")
            .map_or_else(|| everywhere(3478), |value| socket_addresses(&value)),
        tcp: section
            .get("tcp")
            .map_or_else(|| everywhere(3478), |value| socket_addresses(&value)),
        tls: match &tls_value {
            Some(value) => socket_addresses(value),
            None if has_certificate => everywhere(5349),
            None => Vec::new(),
        },
        dtls: dtls.as_ref().map_or_else(Vec::new, socket_addresses),
        proxy_protocol: section.networks("proxy_protocol"),
        https_backend: backend::read(&section),
    };
    match &tls_value {
        Some(value) if !has_certificate && !value.is_empty() => value.error(
            "TLS takes a certificate (set `tls.certificate` and `tls.key`, or `listen.tls: []`)",
        ),
        None if !has_certificate => root.warning(
            "there is no `tls`, so that the relay does not listen for TLS: networks that let nothing but TLS \
             through keep their users from calling (set `tls`; `listen: {tls: []}` ends this warning)",
        ),
        Some(_) | None => {}
    }
    if let Some(value) = dtls {
        check_dtls(&value, &listen, has_certificate);
    }
    let lists = [&listen.udp, &listen.tcp, &listen.tls, &listen.dtls];
    if lists.into_iter().all(Vec::is_empty) {
        section.error("there is no address to listen on (set `udp`, `tcp` or `tls`)");
    }
    if let Some(value) = section.get("proxy_protocol")
        && covered(&listen.proxy_protocol)
    {
        value.error(
            "covers all addresses, so that everybody could claim any address to be theirs (name the \
             proxies)",
        );
    }
    section.finish(Severity::Error);
    listen
}

fn check_dtls(value: &Value<'_>, listen: &Listen, has_certificate: bool) {
    if !DTLS {
        value.error(
            "this program speaks no DTLS: it was built without the cargo feature `dtls` (remove the addresses: \
             browsers use TLS over TCP, `listen.tls`; or build it with `--features dtls`)",
        );
    } else if !has_certificate {
        value.error(
            "DTLS takes a certificate (set `tls.certificate` and `tls.key`, or `listen.dtls: []`)",
        );
    }
    for address in &listen.dtls {
        if let Some(other) = listen.udp.iter().find(|other| clash(*address, **other)) {
            value.error(format_args!(
                "cannot listen on {address}, since `listen.udp` has {other} (choose another port)"
            ));
        }
    }
}

/// `http.listen` and `http.trusted_proxies`
pub(super) fn http(section: &Section<'_>, listen: &Listen) -> (Vec<SocketAddr>, Vec<IpNet>) {
    let value = section.get("listen");
    let addresses = value.as_ref().map_or_else(
        || vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 3480))],
        socket_addresses,
    );
    let proxies = section.networks("trusted_proxies");
    if let Some(value) = section.get("trusted_proxies")
        && covered(&proxies)
    {
        value.error(
            "covers all addresses, so that everybody could claim any address to be theirs (name the \
             proxies)",
        );
    }
    section.finish(Severity::Error);
    for address in &addresses {
        let others = [("listen.tcp", &listen.tcp), ("listen.tls", &listen.tls)];
        for (key, others) in others {
            if let Some(other) = others.iter().find(|other| clash(*address, **other)) {
                let text = format!(
                    "cannot listen on {address}, since `{key}` has {other} (choose another port)"
                );
                match &value {
                    Some(value) => value.error(text),
                    None => section.error(text),
                }
            }
        }
    }
    (addresses, proxies)
}

/// Whether only one of two listeners can be there.
pub(super) fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && one.port() != 0
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

fn socket_addresses(value: &Value<'_>) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for item in value.one_or_more() {
        let Some(address) = socket_address(&item) else {
            continue;
        };
        if addresses.contains(&address) {
            item.warning(format_args!("{address} is in the list already"));
        } else {
            addresses.push(address);
        }
    }
    addresses
}

fn socket_address(value: &Value<'_>) -> Option<SocketAddr> {
    const EXPECTED: &str = "an address of this host with a port (\"0.0.0.0:3478\", \"[::]:3478\")";
    let Some((Scalar::Text, text)) = value.meaning() else {
        value.unexpected(EXPECTED);
        return None;
    };
    match text.parse::<SocketAddr>() {
        Ok(address) if !is_mapped(address.ip()) => Some(address),
        Ok(address) => {
            value.unexpected(format_args!(
                "{}:{}, which is the same",
                address.ip().to_canonical(),
                address.port()
            ));
            None
        }
        Err(_) => {
            value.unexpected(EXPECTED);
            None
        }
    }
}

/// `relay:`
pub(super) fn relay(section: &Section<'_>, listen: &Listen) -> Relay {
    let defaults = Relay::default();
    let addresses = section.get("addresses").map_or_else(Vec::new, |value| {
        let mut addresses = Vec::new();
        for item in value.one_or_more() {
            let Some(address) = item.text().and_then(|text| relay_address(&item, text)) else {
                continue;
            };
            if addresses.contains(&address) {
                item.warning(format_args!("{address} is in the list already"));
            } else {
                addresses.push(address);
            }
        }
        addresses
    });
    let ports = section.get("ports");
    let relay = Relay {
        external: section
            .get("external")
            .map_or_else(Vec::new, |value| external(&value, &addresses)),
        ports: ports
            .as_ref()
            .and_then(|value| port_range(value, LOWEST_RELAY_PORT))
            .unwrap_or(defaults.ports),
        tcp: section
            .get("tcp")
            .and_then(|value| value.boolean())
            .unwrap_or(defaults.tcp),
        addresses,
    };
    check_ports_are_free(section, ports.as_ref(), &relay, listen);
    section.finish(Severity::Error);
    relay
}

/// An address that can be this host's and somebody else's destination.
fn relay_address(value: &Value<'_>, text: &str) -> Option<IpAddr> {
    let Ok(address) = text.parse::<IpAddr>() else {
        value.unexpected("an IP address without a port (203.0.113.7, \"2001:db8::7\")");
        return None;
    };
    let problem = match address {
        _ if address.is_unspecified() => {
            "stands for every address of the host, and clients have to be told one that peers can send to \
             (leave `relay.addresses` out: it is found from the routing table)"
        }
        _ if address.is_multicast() => "is a multicast address, which is no host's own",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "is the broadcast address, which is no host's own",
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            "is a link-local address, which has no meaning on another link"
        }
        _ if is_mapped(address) => "is an IPv4 address in IPv6's form: write the IPv4 address",
        IpAddr::V4(_) | IpAddr::V6(_) => return Some(address),
    };
    value.error(format_args!("{address} {problem}"));
    None
}

fn is_mapped(address: IpAddr) -> bool {
    address.to_canonical() != address
}

/// `relay.external`: local address to the one that clients are told.
fn external(value: &Value<'_>, addresses: &[IpAddr]) -> Vec<(IpAddr, IpAddr)> {
    let mut external: Vec<(IpAddr, IpAddr)> = Vec::new();
    for (key, value) in value.entries() {
        let Ok(local) = key.parse::<IpAddr>() else {
            value.error(
                "the key is not an IP address (write the host's own address, then the one that peers can \
                 send to: \"10.0.0.5\": \"203.0.113.7\")",
            );
            continue;
        };
        let told = value.text().and_then(|text| relay_address(&value, text));
        let Some(told) = told else {
            continue;
        };
        if !addresses.is_empty() && !addresses.contains(&local) {
            value.error(format_args!(
                "{local} is not in `relay.addresses`, so that nothing is relayed there"
            ));
        }
        if local.is_ipv4() != told.is_ipv4() {
            value.error(format_args!(
                "{told} is of another family than {local}: a relayed address stays IPv4 or IPv6"
            ));
        }
        if external.iter().any(|(_, other)| *other == told) {
            value.error(format_args!(
                "{told} stands for another address already: packets to it could not be told apart"
            ));
        }
        external.push((local, told));
    }
    external
}

/// A relay port that is a listener's, too, would take the listener's packets.
fn check_ports_are_free(
    section: &Section<'_>,
    ports: Option<&Value<'_>>,
    relay: &Relay,
    listen: &Listen,
) {
    let lists = [
        ("listen.udp", &listen.udp, true),
        ("listen.dtls", &listen.dtls, true),
        ("listen.tcp", &listen.tcp, relay.tcp),
        ("listen.tls", &listen.tls, relay.tcp),
    ];
    for (key, listeners, relays_there) in lists {
        let taken = listeners.iter().filter(|_| relays_there).find(|listener| {
            relay.ports.contains(&listener.port())
                && (relay.addresses.is_empty()
                    || listener.ip().is_unspecified()
                    || relay.addresses.contains(&listener.ip()))
        });
        let Some(listener) = taken else {
            continue;
        };
        let (first, last) = (relay.ports.start(), relay.ports.end());
        let text = format!(
            "{first}-{last} has the port of {listener}, on which `{key}` listens (choose ports without it)"
        );
        match ports {
            Some(value) => value.error(text),
            None => section.error(format_args!("ports: {text}")),
        }
    }
}

/// `49152-65535`, or one port.
fn port_range(value: &Value<'_>, lowest: u16) -> Option<RangeInclusive<u16>> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits)
    };
    let range = match value.meaning() {
        Some((Scalar::Integer(Some(number)), _)) => {
            u16::try_from(number).ok().map(|number| (number, number))
        }
        Some((Scalar::Text, text)) => match text.split_once('-') {
            Some((first, last)) => port(first.trim()).zip(port(last.trim())),
            None => port(text.trim()).map(|number| (number, number)),
        },
        _ => None,
    };
    let range = range.filter(|(first, last)| first <= last && *first >= lowest);
    if range.is_none() {
        value.unexpected(format_args!(
            "a port or a range of ports from {lowest} to 65535, such as \"49152-65535\""
        ));
    }
    range.map(|(first, last)| first..=last)
}

/// `peers:`
pub(super) fn peers(section: &Section<'_>) -> Peers {
    let peers = Peers {
        allow: section.networks("allow"),
        deny: section.networks("deny"),
        deny_ports: section.get("deny_ports").map_or_else(Vec::new, |value| {
            let items = value.one_or_more();
            let ranges = items.iter().filter_map(|item| port_range(item, 1));
            let ports: BTreeSet<_> = ranges.flatten().collect();
            ports.into_iter().collect()
        }),
    };
    if let Some(value) = section.get("allow") {
        check_allow(&value, &peers.allow);
    }
    section.finish(Severity::Error);
    peers
}

/// What is allowed wins over all but denied ports, so that a list that is too wide makes an open door of the relay.
fn check_allow(value: &Value<'_>, allow: &[IpNet]) {
    let in_full = ALL.iter().all(|all| allow.contains(all));
    if covered(allow) && !in_full {
        value.error(
            "allows, taken together, every address of IPv4 or of IPv6, those inside this host and its networks \
             among them. Name the networks that are meant; whoever does mean everything writes both \"0.0.0.0/0\" and \
             \"::/0\"",
        );
        return;
    }
    if in_full {
        value.warning(
            "allows everything: whoever has credentials reaches this host's own services and its networks",
        );
        return;
    }
    for (network, what) in SENSITIVE {
        let opens = |allowed: &&IpNet| allowed.contains(&network) || network.contains(*allowed);
        if let Some(allowed) = allow.iter().find(opens) {
            value.warning(format_args!("{allowed} lets clients reach {what}"));
        }
    }
}

/// Whether the networks together are all of IPv4 or all of IPv6.
fn covered(networks: &[IpNet]) -> bool {
    let together = IpNet::aggregate(&networks.to_vec());
    ALL.iter().any(|all| together.contains(all))
}

const ALL: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
];

/// What nobody means to open who allows a private network.
const SENSITIVE: [(IpNet, &str); 6] = [
    (
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
        "this host's own services on its loopback addresses",
    ),
    (
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
        "this host's own services on its loopback address",
    ),
    (
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)),
        "link-local addresses, where clouds have their metadata services with this host's credentials",
    ),
    (
        IpNet::V6(Ipv6Net::new_assert(
            Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0),
            10,
        )),
        "link-local addresses",
    ),
    // What is allowed is not asked what it stands for.
    (
        IpNet::V6(Ipv6Net::new_assert(
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0),
            96,
        )),
        "IPv4 addresses through NAT64, private ones among them",
    ),
    (
        IpNet::V6(Ipv6Net::new_assert(
            Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0),
            16,
        )),
        "IPv4 addresses through 6to4, private ones among them",
    ),
];
