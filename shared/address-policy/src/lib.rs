//! Which addresses a connection to an endpoint that a stranger chose may go to.
//!
//! The built-in rule allows globally reachable unicast addresses and nothing else, by IANA's registries
//! of special-purpose addresses (RFC 6890) as of 2026. Where it is stricter than they are, it is because
//! no push server lives there: the anycast services inside `192.0.0.0/24` and `2001::/23`, AS112 and AMT.
//!
//! An address that stands for an IPv4 address (IPv4-mapped, NAT64, 6to4) is judged as that IPv4
//! address, so that `::ffff:127.0.0.1` or `64:ff9b::a00:1` opens nothing that `127.0.0.1` or
//! `10.0.0.1` does not. A network's own NAT64 prefix (RFC 6052 allows any) cannot be known here;
//! such a network names it in `deny`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Allows public addresses, and those that the configuration names.
#[derive(Clone, Debug, Default)]
pub struct AddressPolicy {
    /// Allowed although not public (`outbound.allow_private`).
    ///
    /// Compared with what an address stands for: a network of NAT64 or 6to4 addresses allows nothing,
    /// the IPv4 network behind it does.
    pub allow: Vec<IpNet>,
    /// Denied although public (`outbound.deny`); wins over `allow`.
    ///
    /// Compared with the address as it is and with what it stands for.
    pub deny: Vec<IpNet>,
}

impl AddressPolicy {
    /// Whether a connection may be made to `address`.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        let canonical = canonical(address);
        let denied = contain(&self.deny, canonical) || contain(&self.deny, address);
        !denied && (is_public(canonical) || contain(&self.allow, canonical))
    }

    /// Whether every address is permitted, so that there is nothing to check.
    #[must_use]
    pub fn permits_all(&self) -> bool {
        let allows = |all: IpNet| self.allow.contains(&all);
        self.deny.is_empty()
            && allows(IpNet::V4(Ipv4Net::default()))
            && allows(IpNet::V6(Ipv6Net::default()))
    }
}

/// Whether `address` is a globally reachable unicast address, or stands for one.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match canonical(address) {
        IpAddr::V4(address) => !SPECIAL_V4_BITS.contain(upper_bits(IpAddr::V4(address))),
        IpAddr::V6(address) => {
            let bits = upper_bits(IpAddr::V6(address));
            GLOBAL_UNICAST_BITS.contain(bits) && !SPECIAL_V6_BITS.contain(bits)
        }
    }
}

/// Why a text of the configuration names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// It is not an address.
    #[error(
        "{0:?} is not an IP address or network: write 192.0.2.7, 10.0.0.0/8, fd00::/8 (names and ranges are not understood here)"
    )]
    Address(String),
    /// What follows the slash is not a prefix length.
    #[error("{text:?}: the prefix length after the slash is a number from 0 to {max}")]
    Prefix {
        /// The whole text.
        text: String,
        /// The longest prefix that its address has.
        max: u8,
    },
    /// The address has bits beyond the prefix.
    #[error("{text:?} has bits set beyond its prefix: write {network} for the network")]
    HostBits {
        /// The whole text.
        text: String,
        /// The network that contains it.
        network: IpNet,
    },
}

/// Reads an address or a network, such as `10.0.0.0/8`, `192.168.1.5` or `::1`.
///
/// An IPv4-mapped one becomes the IPv4 network that it stands for.
///
/// # Errors
///
/// A text to be shown after the place in the file.
pub fn parse_network(text: &str) -> Result<IpNet, InvalidNetwork> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address
        .parse()
        .map_err(|_| InvalidNetwork::Address(text.to_owned()))?;
    let max = match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    let network = match prefix {
        None => IpNet::from(address),
        Some(prefix) => {
            let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
            prefix
                .parse()
                .ok()
                .filter(|_| digits)
                .and_then(|prefix| IpNet::new(address, prefix).ok())
                .ok_or_else(|| InvalidNetwork::Prefix {
                    text: text.to_owned(),
                    max,
                })?
        }
    };
    if network.addr() != network.network() {
        return Err(InvalidNetwork::HostBits {
            text: text.to_owned(),
            network: network.trunc(),
        });
    }
    Ok(unmapped(network))
}

/// `::ffff:0:0/96` and what is in it, as IPv4.
fn unmapped(network: IpNet) -> IpNet {
    let IpNet::V6(inner) = network else {
        return network;
    };
    inner
        .addr()
        .to_ipv4_mapped()
        .zip(inner.prefix_len().checked_sub(96))
        .and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok())
        .map_or(network, IpNet::V4)
}

/// The address that a packet to `address` ends up at, where the address itself says so: an IPv4-mapped,
/// NAT64 (well-known prefix) or 6to4 address becomes the IPv4 address in it.
#[must_use]
pub fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let embedded = match v6.octets() {
        // RFC 4291 §2.5.5.2, IPv4-mapped: ::ffff:0:0/96
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
        // RFC 6052 §2.1, the well-known NAT64 prefix: 64:ff9b::/96
        | [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
        // RFC 3056 §2, 6to4: 2002::/16
        | [0x20, 0x02, a, b, c, d, ..] => [a, b, c, d],
        _ => return address,
    };
    IpAddr::V4(Ipv4Addr::from(embedded))
}

fn contain(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// IANA IPv4 Special-Purpose Address Registry, multicast (RFC 5771) and class E.
const SPECIAL_V4: [IpNet; 18] = [
    v4([0, 0, 0, 0], 8),       // this network, RFC 791
    v4([10, 0, 0, 0], 8),      // private use, RFC 1918
    v4([100, 64, 0, 0], 10),   // shared address space, RFC 6598
    v4([127, 0, 0, 0], 8),     // loopback, RFC 1122
    v4([169, 254, 0, 0], 16),  // link local, RFC 3927: cloud metadata services
    v4([172, 16, 0, 0], 12),   // private use, RFC 1918
    v4([192, 0, 0, 0], 24),    // protocol assignments, RFC 6890
    v4([192, 0, 2, 0], 24),    // documentation, RFC 5737
    v4([192, 31, 196, 0], 24), // AS112, RFC 7535
    v4([192, 52, 193, 0], 24), // AMT, RFC 7450
    v4([192, 88, 99, 0], 24),  // 6to4 relay anycast, RFC 7526
    v4([192, 168, 0, 0], 16),  // private use, RFC 1918
    v4([192, 175, 48, 0], 24), // AS112, RFC 7534
    v4([198, 18, 0, 0], 15),   // benchmarking, RFC 2544
    v4([198, 51, 100, 0], 24), // documentation, RFC 5737
    v4([203, 0, 113, 0], 24),  // documentation, RFC 5737
    v4([224, 0, 0, 0], 4),     // multicast
    v4([240, 0, 0, 0], 4),     // reserved, RFC 1112, and the limited broadcast address
];

/// RFC 4291 §2.4 and IANA's allocation: all global unicast addresses there are. Outside it are, among
/// others, `::/96`, `64:ff9b:1::/48`, `100::/64`, `5f00::/16`, `fc00::/7`, `fe80::/10`, `fec0::/10`
/// and `ff00::/8`.
const GLOBAL_UNICAST: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// What IANA's IPv6 Special-Purpose Address Registry takes out of [`GLOBAL_UNICAST`]. 6to4 is not here:
/// [`canonical`] has turned it into IPv4.
const SPECIAL_V6: [IpNet; 4] = [
    v6([0x2001, 0, 0], 23), // protocol assignments, RFC 2928: Teredo, benchmarking, ORCHID
    v6([0x2001, 0xdb8, 0], 32), // documentation, RFC 3849
    v6([0x2620, 0x4f, 0x8000], 48), // AS112, RFC 7534
    v6([0x3fff, 0, 0], 20), // documentation, RFC 9637
];

const SPECIAL_V4_BITS: Bits<{ SPECIAL_V4.len() }> = Bits::of(SPECIAL_V4);
const GLOBAL_UNICAST_BITS: Bits<1> = Bits::of([IpNet::V6(GLOBAL_UNICAST)]);
const SPECIAL_V6_BITS: Bits<{ SPECIAL_V6.len() }> = Bits::of(SPECIAL_V6);

/// Networks of one family as numbers, for a relay that asks for every packet.
struct Bits<const N: usize> {
    networks: [u64; N],
    masks: [u64; N],
}

impl<const N: usize> Bits<N> {
    /// `networks` of one family, with prefixes of 64 bits at most.
    const fn of(networks: [IpNet; N]) -> Self {
        let mut bits = Self {
            networks: [0; N],
            masks: [0; N],
        };
        let mut index = 0;
        while index < N {
            let (network, rest) = match networks[index] {
                IpNet::V4(net) => (IpAddr::V4(net.addr()), 32 - net.prefix_len()),
                IpNet::V6(net) => (IpAddr::V6(net.addr()), 64 - net.prefix_len()),
            };
            bits.networks[index] = upper_bits(network);
            bits.masks[index] = u64::MAX << rest;
            index += 1;
        }
        bits
    }

    #[expect(
        clippy::needless_bitwise_bool,
        reason = "without an early end the compiler compares several at once"
    )]
    fn contain(&self, address: u64) -> bool {
        self.networks
            .iter()
            .zip(&self.masks)
            .fold(false, |found, (network, mask)| {
                found | (address & mask == *network)
            })
    }
}

/// All bits of an IPv4 address, the upper 64 of an IPv6 address.
const fn upper_bits(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => address.to_bits() as u64,
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

const fn v6([a, b, c]: [u16; 3], prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(
        Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0),
        prefix,
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// First and last address of every special range, with the public neighbours, where there are any.
    const EDGES: &[(&str, &str, &str, &str)] = &[
        // neighbour before, first, last, neighbour after; "" where the neighbour is special, too
        ("", "0.0.0.0", "0.255.255.255", "1.0.0.0"),
        ("9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"),
        (
            "100.63.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "100.128.0.0",
        ),
        (
            "126.255.255.255",
            "127.0.0.0",
            "127.255.255.255",
            "128.0.0.0",
        ),
        (
            "169.253.255.255",
            "169.254.0.0",
            "169.254.255.255",
            "169.255.0.0",
        ),
        (
            "172.15.255.255",
            "172.16.0.0",
            "172.31.255.255",
            "172.32.0.0",
        ),
        ("191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0"),
        ("192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"),
        (
            "192.31.195.255",
            "192.31.196.0",
            "192.31.196.255",
            "192.31.197.0",
        ),
        (
            "192.52.192.255",
            "192.52.193.0",
            "192.52.193.255",
            "192.52.194.0",
        ),
        (
            "192.88.98.255",
            "192.88.99.0",
            "192.88.99.255",
            "192.88.100.0",
        ),
        (
            "192.167.255.255",
            "192.168.0.0",
            "192.168.255.255",
            "192.169.0.0",
        ),
        (
            "192.175.47.255",
            "192.175.48.0",
            "192.175.48.255",
            "192.175.49.0",
        ),
        (
            "198.17.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "198.20.0.0",
        ),
        (
            "198.51.99.255",
            "198.51.100.0",
            "198.51.100.255",
            "198.51.101.0",
        ),
        (
            "203.0.112.255",
            "203.0.113.0",
            "203.0.113.255",
            "203.0.114.0",
        ),
        ("223.255.255.255", "224.0.0.0", "239.255.255.255", ""),
        ("", "240.0.0.0", "255.255.255.255", ""),
        // before 2000::/3: unspecified, loopback, IPv4-compatible, translated, local NAT64, discard
        ("", "::", "::1", ""),
        ("", "::808:808", "::ffff:ffff", ""),
        ("", "::ffff:0:808:808", "64:ff9a:ffff::", ""),
        ("", "64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", ""),
        ("", "64:ff9b::1:808:808", "64:ff9b:0:1::808:808", ""),
        ("", "100::", "100::ffff:ffff:ffff:ffff", ""),
        (
            "",
            "100:0:0:1::",
            "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2000::",
        ),
        (
            "2000:ffff:ffff::",
            "2001::",
            "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:200::",
        ),
        // the exceptions inside 2001::/23 that the registry calls globally reachable
        ("", "2001:1::1", "2001:1::3", ""),
        ("", "2001:3::", "2001:4:112::", ""),
        ("", "2001:20::", "2001:3f:ffff::", ""),
        (
            "2001:db7:ffff::",
            "2001:db8::",
            "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db9::",
        ),
        (
            "2620:4f:7fff::",
            "2620:4f:8000::",
            "2620:4f:8000:ffff::",
            "2620:4f:8001::",
        ),
        (
            "3ffe:ffff::",
            "3fff::",
            "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
            "3fff:1000::",
        ),
        ("3fff:ffff:ffff::", "4000::", "5eff:ffff::", ""),
        ("", "5f00::", "5f00:ffff::", ""),
        ("", "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""),
        ("", "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""),
        ("", "fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""),
        ("", "ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""),
    ];

    #[test]
    fn special_ranges_are_denied_from_their_first_to_their_last_address() {
        let policy = AddressPolicy::default();
        for (before, first, last, after) in EDGES {
            for special in [first, last] {
                assert!(!policy.permits(address(special)), "{special}");
            }
            for public in [before, after] {
                assert!(
                    public.is_empty() || policy.permits(address(public)),
                    "{public}"
                );
            }
        }
    }

    #[test]
    fn every_special_network_of_the_tables_has_its_edges_tested() {
        for network in SPECIAL_V4.iter().chain(&SPECIAL_V6) {
            assert!(
                EDGES
                    .iter()
                    .any(|edge| address(edge.1) == network.network()),
                "{network}"
            );
        }
    }

    #[test]
    fn ordinary_addresses_are_permitted() {
        for public in ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "2a01:4f8::1"] {
            assert!(
                AddressPolicy::default().permits(address(public)),
                "{public}"
            );
        }
    }

    #[test]
    fn an_address_that_stands_for_an_ipv4_address_is_judged_as_that() {
        let policy = AddressPolicy::default();
        for (text, permitted) in [
            ("::ffff:8.8.8.8", true),
            ("::ffff:127.0.0.1", false),
            ("64:ff9b::8.8.8.8", true),
            ("64:ff9b::169.254.169.254", false),
            ("2002:808:808::1", true),
            ("2002:a00:1::1", false),
            ("2002:7f00:1::", false),
        ] {
            assert_eq!(policy.permits(address(text)), permitted, "{text}");
        }
    }

    #[test]
    fn allow_opens_what_is_not_public_and_deny_wins() {
        let policy = policy(&["10.0.0.0/8", "::1"], &["10.1.0.0/16", "8.8.8.8"]);
        for (text, permitted) in [
            ("10.0.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("64:ff9b::10.0.0.1", true),
            ("::1", true),
            ("127.0.0.1", false),
            ("10.1.0.1", false),
            ("::ffff:10.1.0.1", false),
            ("8.8.8.8", false),
            ("64:ff9b::8.8.8.8", false),
            ("8.8.4.4", true),
        ] {
            assert_eq!(policy.permits(address(text)), permitted, "{text}");
        }
    }

    #[test]
    fn a_translated_form_can_be_denied_as_it_is_written() {
        let policy = policy(&[], &["64:ff9b::/96"]);
        assert!(!policy.permits(address("64:ff9b::8.8.8.8")));
        assert!(policy.permits(address("8.8.8.8")));
    }

    #[test]
    fn all_is_permitted_only_when_both_families_are_and_nothing_is_denied() {
        assert!(policy(&["0.0.0.0/0", "::/0"], &[]).permits_all());
        assert!(!policy(&["0.0.0.0/0", "::/0"], &["192.0.2.1"]).permits_all());
        assert!(!policy(&["0.0.0.0/0"], &[]).permits_all());
        assert!(!policy(&["::/0", "10.0.0.0/8"], &[]).permits_all());
        assert!(!AddressPolicy::default().permits_all());
    }

    #[test]
    fn networks_are_read_from_text() {
        for (text, network) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.168.1.5", "192.168.1.5/32"),
            ("::1", "::1/128"),
            ("fd00::/8", "fd00::/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:192.168.1.5", "192.168.1.5/32"),
        ] {
            assert_eq!(parse_network(text).unwrap().to_string(), network);
        }
    }

    #[test]
    fn what_is_no_network_is_refused_with_a_hint() {
        for (text, hint) in [
            ("ntfy.example", "not an IP address"),
            ("", "not an IP address"),
            ("10.0.0.1-10.0.0.9", "ranges are not understood"),
            ("[::1]", "not an IP address"),
            ("10.0.0.0/33", "from 0 to 32"),
            ("10.0.0.0/+8", "from 0 to 32"),
            ("10.0.0.0/", "from 0 to 32"),
            ("fd00::/129", "from 0 to 128"),
            ("10.1.2.3/8", "write 10.0.0.0/8"),
        ] {
            let error = parse_network(text).unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_embedded_form_opens_what_the_ipv4_address_does_not(
            bits in prop_oneof![any::<u32>(), interesting_v4()],
            low in any::<u128>(),
            allow in prop::collection::vec(any_network(), 0..3),
            deny in prop::collection::vec(any_network(), 0..3),
        ) {
            let policy = AddressPolicy { allow, deny };
            let v4 = IpAddr::from(Ipv4Addr::from(bits));
            let bits = u128::from(bits);
            let mapped = 0xffff << 32 | bits;
            let nat64 = 0x64_ff9b << 96 | bits;
            let six_to_four = 0x2002 << 112 | bits << 80 | low >> 48;
            for form in [mapped, nat64, six_to_four] {
                let form = IpAddr::from(Ipv6Addr::from(form));
                prop_assert!(!policy.permits(form) || policy.permits(v4), "{form} as {v4}");
            }
        }

        #[test]
        fn the_numbers_say_what_the_networks_say(
            v4 in prop_oneof![any::<u32>(), interesting_v4()],
            v6 in prop_oneof![any::<u128>(), (0x2000_u128..0x4000, any::<u128>())
                .prop_map(|(upper, lower)| upper << 112 | lower >> 16)],
        ) {
            let v4 = IpAddr::from(Ipv4Addr::from(v4));
            prop_assert_eq!(is_public(v4), !contain(&SPECIAL_V4, v4));
            let v6 = IpAddr::from(Ipv6Addr::from(v6));
            if canonical(v6) == v6 {
                let global = contain(&[IpNet::V6(GLOBAL_UNICAST)], v6);
                prop_assert_eq!(is_public(v6), global && !contain(&SPECIAL_V6, v6));
            }
        }

        #[test]
        fn deny_always_wins(address in any::<IpAddr>(), allow in any_network()) {
            let deny = IpNet::from(address);
            let policy = AddressPolicy { allow: vec![allow], deny: vec![deny] };
            prop_assert!(!policy.permits(address));
        }
    }

    /// Addresses near the edges of the special ranges.
    fn interesting_v4() -> impl Strategy<Value = u32> {
        (0..SPECIAL_V4.len(), -2_i32..3, any::<bool>()).prop_map(|(index, offset, last)| {
            let IpNet::V4(network) = SPECIAL_V4[index] else {
                unreachable!("the table is of IPv4")
            };
            let edge = if last {
                network.broadcast()
            } else {
                network.network()
            };
            u32::from(edge).wrapping_add_signed(offset)
        })
    }

    fn any_network() -> impl Strategy<Value = IpNet> {
        (any::<IpAddr>(), 0_u8..=128).prop_map(|(address, prefix)| {
            let longest = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new(address, prefix.min(longest)).unwrap().trunc()
        })
    }

    fn policy(allow: &[&str], deny: &[&str]) -> AddressPolicy {
        let parse = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| parse_network(text).unwrap())
                .collect()
        };
        AddressPolicy {
            allow: parse(allow),
            deny: parse(deny),
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }
}
