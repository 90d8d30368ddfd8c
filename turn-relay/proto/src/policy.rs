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

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    /// The networks that a peer may not be in unless the configuration says so: IANA's special-purpose registries, multicast,
    /// and addresses that stand for others.
    const DENIED: &[&str] = &[
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "255.255.255.255/32",
        "::/128",
        "::1/128",
        "::/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "100:0:0:1::/64",
        "2001::/23",
        "2001::/32",
        "2001:2::/48",
        "2001:20::/28",
        "2001:db8::/32",
        "2002::/16",
        "2620:4f:8000::/48",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
        // not one of the lists, and nothing that is allocated
        "4000::/2",
        "::ffff:0:0:0/96",
    ];

    const PUBLIC: &[&str] = &[
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "198.17.255.255",
        "223.255.255.255",
        "2000::1",
        "2001:200::1",
        "2606:4700::1111",
        "2a01:4f8::1",
        "2003::1",
        "3ffe::1",
    ];

    #[test]
    fn special_networks_are_denied_from_their_first_to_their_last_address() {
        let policy = PeerPolicy::default();
        for network in DENIED.iter().map(|text| network(text)) {
            for address in [network.network(), network.broadcast()] {
                assert!(!policy.permits(at(address)), "{address} of {network}");
                assert!(!policy.permits_address(address), "{address} of {network}");
            }
        }
    }

    #[test]
    fn public_addresses_are_permitted() {
        for text in PUBLIC {
            assert!(PeerPolicy::default().permits(at(address(text))), "{text}");
            assert!(
                PeerPolicy::default().permits_address(address(text)),
                "{text}"
            );
        }
    }

    #[test]
    fn an_ipv4_mapped_address_is_the_ipv4_address() {
        let policy = policy(&["10.0.0.0/8"], &["8.8.8.0/24"]);
        for (text, permitted) in [
            ("::ffff:8.8.4.4", true),
            ("::ffff:10.1.2.3", true),
            ("::ffff:8.8.8.8", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("::ffff:0.0.0.0", false),
        ] {
            assert_eq!(policy.permits(at(address(text))), permitted, "{text}");
        }
    }

    #[test]
    fn an_address_that_stands_for_a_public_one_is_denied_all_the_same() {
        for text in [
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:0:808:808::f7f7:f7f7",
            "::8.8.8.8",
            "::ffff:0:8.8.8.8",
        ] {
            assert!(!PeerPolicy::default().permits(at(address(text))), "{text}");
        }
    }

    #[test]
    fn translated_addresses_are_allowed_by_name_alone() {
        // the IPv4 network opens nothing that is written otherwise
        let v4 = policy(&["10.0.0.0/8"], &[]);
        assert!(v4.permits_address(address("10.0.0.1")));
        assert!(!v4.permits_address(address("64:ff9b::10.0.0.1")));
        assert!(!v4.permits_address(address("2002:a00:1::1")));
        let nat64 = policy(&["64:ff9b::/96"], &[]);
        assert!(nat64.permits_address(address("64:ff9b::8.8.8.8")));
        // whoever names the network has named all of it
        assert!(nat64.permits_address(address("64:ff9b::10.0.0.1")));
        assert!(!nat64.permits_address(address("10.0.0.1")));
    }

    #[test]
    fn nobody_is_at_port_zero_nor_at_an_address_of_nobody_or_of_many() {
        let all = policy(&["0.0.0.0/0", "::/0"], &[]);
        for text in [
            "0.0.0.0",
            "::",
            "::ffff:0.0.0.0",
            "64:ff9b::0.0.0.0",
            "2002::",
            "2002:0:0:1::1",
            "224.0.0.1",
            "239.255.255.255",
            "::ffff:224.0.0.1",
            "64:ff9b::224.0.0.1",
            "2002:e000:1::1",
            "ff02::1",
            "ff0e::1",
            "255.255.255.255",
            "::ffff:255.255.255.255",
            "64:ff9b::255.255.255.255",
        ] {
            assert!(!all.permits(at(address(text))), "{text}");
            assert!(!all.permits_address(address(text)), "{text}");
        }
        assert!(all.permits(at(address("127.0.0.1"))));
        assert!(!all.permits(SocketAddr::new(address("8.8.8.8"), 0)));
        assert!(!PeerPolicy::default().permits(SocketAddr::new(address("8.8.8.8"), 0)));
    }

    #[test]
    fn denied_ports_are_denied_whatever_is_allowed() {
        let policy = PeerPolicy {
            deny_ports: vec![53, 11211],
            ..policy(&["10.0.0.0/8"], &[])
        };
        for ip in ["10.0.0.1", "8.8.8.8", "2606:4700::1111"].map(address) {
            assert!(!policy.permits(SocketAddr::new(ip, 53)));
            assert!(!policy.permits(SocketAddr::new(ip, 11211)));
            assert!(policy.permits(SocketAddr::new(ip, 54)));
            // a permission has no port
            assert!(policy.permits_address(ip));
        }
    }

    #[test]
    fn allow_wins_over_deny_and_over_the_hosts_own_addresses() {
        let policy = PeerPolicy {
            own: vec![
                address("10.0.0.7"),
                address("8.8.8.7"),
                address("2606:4700::7"),
            ],
            ..policy(
                &["10.0.0.0/8", "2606:4700::/32"],
                &["10.0.0.0/16", "8.8.8.0/29", "2606::/16"],
            )
        };
        for (text, permitted) in [
            ("10.0.0.1", true),
            ("10.0.0.7", true),
            ("2606:4700::1", true),
            ("2606:4700::7", true),
            ("8.8.8.1", false),
            ("8.8.8.8", true),
            ("2606:4600::1", false),
            ("10.255.0.1", true),
            ("11.0.0.1", true),
            ("192.168.0.1", false),
        ] {
            assert_eq!(policy.permits(at(address(text))), permitted, "{text}");
        }
    }

    #[test]
    fn only_what_is_allowed_by_name_is_named() {
        let policy = PeerPolicy {
            deny_ports: vec![53],
            ..policy(
                &["10.0.0.0/8", "0.0.0.0/32", "2606:4700::/32"],
                &["10.1.0.0/16"],
            )
        };
        for (peer, named) in [
            ("10.0.0.1:40000", true),
            ("10.1.0.1:40000", true),
            ("[::ffff:10.0.0.1]:40000", true),
            ("[2606:4700::1]:40000", true),
            ("8.8.8.8:40000", false),
            ("10.0.0.1:53", false),
            ("10.0.0.1:0", false),
            ("0.0.0.0:40000", false),
        ] {
            assert_eq!(policy.names(peer.parse().unwrap()), named, "{peer}");
        }
    }

    #[test]
    fn the_hosts_own_addresses_are_denied_public_ones_too() {
        let policy = PeerPolicy {
            own: vec![address("8.8.8.8"), address("2606:4700::7")],
            ..PeerPolicy::default()
        };
        for (text, permitted) in [
            ("8.8.8.8", false),
            ("::ffff:8.8.8.8", false),
            ("2606:4700::7", false),
            ("8.8.8.9", true),
            ("2606:4700::8", true),
        ] {
            assert_eq!(policy.permits(at(address(text))), permitted, "{text}");
        }
    }

    #[test]
    fn a_networks_own_nat64_prefix_can_be_denied() {
        let policy = policy(&[], &["2a01:4f8:64::/96"]);
        assert!(!policy.permits_address(address("2a01:4f8:64::10.0.0.1")));
        assert!(policy.permits_address(address("2a01:4f8:65::1")));
    }

    #[test]
    fn teredo_and_6to4_clients_and_port_zero_get_no_answer() {
        for (client, permitted) in [
            ("[2001::1]:40000", false),
            ("[2001:0:ffff:ffff:ffff:ffff:ffff:ffff]:40000", false),
            ("[2002::1]:40000", false),
            ("[2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:40000", false),
            ("8.8.8.8:0", false),
            ("[2606:4700::1]:0", false),
            ("[2001:1::1]:40000", true),
            ("[2001:db8::1]:40000", true),
            ("[2003::1]:40000", true),
            ("[2606:4700::1]:40000", true),
            ("[::1]:40000", true),
            ("[fd00::1]:40000", true),
            ("8.8.8.8:40000", true),
            ("10.0.0.1:1", true),
            ("127.0.0.1:40000", true),
        ] {
            let client = client.parse().unwrap();
            assert_eq!(PeerPolicy::permits_client(client), permitted, "{client}");
        }
    }

    #[test]
    fn only_ipv4_mapped_addresses_are_unmapped() {
        for (from, to) in [
            ("[::ffff:192.0.2.1]:5", "192.0.2.1:5"),
            ("192.0.2.1:5", "192.0.2.1:5"),
            ("[::192.0.2.1]:5", "[::192.0.2.1]:5"),
            ("[64:ff9b::192.0.2.1]:5", "[64:ff9b::192.0.2.1]:5"),
            ("[2001:db8::1]:5", "[2001:db8::1]:5"),
        ] {
            assert_eq!(unmapped(from.parse().unwrap()), to.parse().unwrap());
        }
    }

    proptest! {
        #[test]
        fn no_address_of_a_special_network_is_permitted(
            index in 0..DENIED.len(),
            host in any::<u128>(),
            port in any::<u16>(),
        ) {
            let address = host_of(network(DENIED[index]), host);
            prop_assert!(!PeerPolicy::default().permits(SocketAddr::new(address, port)));
        }

        #[test]
        fn no_form_of_an_ipv4_address_opens_what_the_address_does_not(
            address in any_v4(),
            low in any::<u128>(),
            allow in prop::collection::vec(any_v4_network(), 0..3),
            deny in prop::collection::vec(any_network(), 0..3),
            own in prop::collection::vec(any::<IpAddr>(), 0..3),
        ) {
            let policy = PeerPolicy { allow, deny, own, ..PeerPolicy::default() };
            let v4 = at(IpAddr::V4(address));
            let bits = u128::from(address.to_bits());
            let mapped = 0xffff << 32 | bits;
            prop_assert_eq!(policy.permits(at(v6(mapped))), policy.permits(v4));
            let others = [
                ("compatible", bits),
                ("translated, SIIT", 0xffff << 48 | bits),
                ("NAT64", 0x64_ff9b << 96 | bits),
                ("NAT64, local", 0x64_ff9b_0001 << 80 | bits),
                ("6to4", 0x2002 << 112 | bits << 80 | low >> 48),
                ("Teredo", 0x2001 << 112 | (low >> 32 & !0xffff_ffff) >> 32 << 32 | (bits ^ 0xffff_ffff)),
            ];
            for (name, form) in others {
                prop_assert!(!policy.permits(at(v6(form))), "{}: {}", name, v6(form));
            }
        }

        #[test]
        fn the_order_of_the_rules_is_that_of_the_documentation(
            peer in prop_oneof![any::<IpAddr>(), any_v4().prop_map(IpAddr::V4), any_special()],
            port in prop_oneof![Just(0_u16), Just(53), any::<u16>()],
            allow in prop::collection::vec(any_network(), 0..3),
            deny in prop::collection::vec(any_network(), 0..3),
            (allow_it, deny_it, own_it) in any::<(bool, bool, bool)>(),
        ) {
            let it = |yes: bool| yes.then(|| IpNet::from(peer.to_canonical()));
            let policy = PeerPolicy {
                allow: allow.into_iter().chain(it(allow_it)).collect(),
                deny: deny.into_iter().chain(it(deny_it)).collect(),
                deny_ports: vec![53],
                own: it(own_it).map(|net| net.addr()).into_iter().collect(),
            };
            prop_assert_eq!(
                policy.permits(SocketAddr::new(peer, port)),
                by_the_documentation(&policy, peer, port)
            );
        }
    }

    /// The module's documentation, point by point.
    fn by_the_documentation(policy: &PeerPolicy, peer: IpAddr, port: u16) -> bool {
        let peer = peer.to_canonical();
        let stands_for = canonical(peer);
        let within = |networks: &[IpNet], address: IpAddr| {
            networks.iter().any(|network| network.contains(&address))
        };
        let nobody = |address: IpAddr| {
            [
                "0.0.0.0/32",
                "::/128",
                "224.0.0.0/4",
                "ff00::/8",
                "255.255.255.255/32",
            ]
            .iter()
            .any(|text| network(text).contains(&address))
        };
        // 1
        if port == 0 || nobody(peer) || nobody(stands_for) {
            return false;
        }
        // 2
        if policy.deny_ports.contains(&port) {
            return false;
        }
        // 3
        if within(&policy.allow, peer) {
            return true;
        }
        // 4
        if within(&policy.deny, peer) || within(&policy.deny, stands_for) {
            return false;
        }
        // 5
        if DENIED.iter().any(|text| network(text).contains(&peer)) {
            return false;
        }
        if peer.is_ipv6() && !network("2000::/3").contains(&peer) {
            return false;
        }
        // 6
        !policy.own.contains(&peer)
    }

    /// Addresses in and just around the special networks.
    fn any_special() -> impl Strategy<Value = IpAddr> {
        (0..DENIED.len(), any::<u128>(), -2_i8..=2).prop_map(|(index, host, offset)| {
            let network = network(DENIED[index]);
            let offset = i128::from(offset);
            match offset {
                0 => host_of(network, host),
                _ => match if offset < 0 {
                    network.network()
                } else {
                    network.broadcast()
                } {
                    IpAddr::V4(edge) => {
                        let offset = i32::try_from(offset).unwrap();
                        IpAddr::from(edge.to_bits().wrapping_add_signed(offset).to_be_bytes())
                    }
                    IpAddr::V6(edge) => v6(edge.to_bits().wrapping_add_signed(offset)),
                },
            }
        })
    }

    fn any_v4() -> impl Strategy<Value = Ipv4Addr> {
        prop_oneof![
            any::<Ipv4Addr>(),
            any_special().prop_filter_map("of IPv4", |address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            }),
        ]
    }

    fn any_network() -> impl Strategy<Value = IpNet> {
        (any::<IpAddr>(), 0_u8..=128).prop_map(|(address, prefix)| {
            let longest = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new(address, prefix.min(longest)).unwrap().trunc()
        })
    }

    fn any_v4_network() -> impl Strategy<Value = IpNet> {
        (any::<Ipv4Addr>(), 0_u8..=32)
            .prop_map(|(address, prefix)| IpNet::new(address.into(), prefix).unwrap().trunc())
    }

    /// The address of `network` that has the lower bits of `host`.
    fn host_of(network: IpNet, host: u128) -> IpAddr {
        match network {
            IpNet::V4(network) => {
                let [.., a, b, c, d] = host.to_be_bytes();
                let host = u32::from_be_bytes([a, b, c, d]) & network.hostmask().to_bits();
                IpAddr::from((network.network().to_bits() | host).to_be_bytes())
            }
            IpNet::V6(network) => {
                v6(network.network().to_bits() | host & network.hostmask().to_bits())
            }
        }
    }

    fn policy(allow: &[&str], deny: &[&str]) -> PeerPolicy {
        PeerPolicy {
            allow: allow.iter().map(|text| network(text)).collect(),
            deny: deny.iter().map(|text| network(text)).collect(),
            ..PeerPolicy::default()
        }
    }

    fn network(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn v6(bits: u128) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from_bits(bits))
    }

    fn at(address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, 40000)
    }
}
