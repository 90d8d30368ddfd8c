//! Who asks, and how often.
//!
//! The Matrix route asks the homeserver a question for every request, so each source has a share of that. The
//! REST route is for servers, which may ask as often as they like; what is limited there is asking with a
//! wrong key.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use shared::{address_policy::is_public, http_server::Peer, rate_limit::RateLimit};
use tracing::warn;

pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Questions to the homeserver in ten seconds. A client asks when it starts and every twelve hours or ten
/// minutes; many of them can be behind one address.
const QUESTIONS: (u32, Duration) = (100, Duration::from_secs(10));
/// Requests with a wrong API key, or none.
const WRONG_KEYS: (u32, Duration) = (20, Duration::from_mins(1));

/// The limits per source, which is an IPv4 address, or the /64 that an IPv6 host can choose its address from.
pub(super) struct Limits {
    questions: RateLimit,
    wrong_keys: RateLimit,
    warned: AtomicBool,
}

/// Who asks, as far as it can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Somebody at this address.
    Address(IpAddr),
    /// A program of this network, or all who come by way of a proxy at that address that does not say who they are. They
    /// have one limit together.
    Unnamed(IpAddr),
}

/// Whether a header that says for whom a request is passed on can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// It comes from a reverse proxy: one of those that are named, or if none is, anything of this machine or its network.
    Proxy,
    /// It comes from anywhere.
    Nobody,
}

impl Source {
    /// The source of a request that came from `peer` with these headers.
    pub(super) fn of(peer: Option<&Peer>, headers: &HeaderMap, proxies: &[IpNet]) -> Self {
        let unnamed = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |Peer(peer)| peer.ip());
        match (Trust::of(peer, proxies), peer) {
            (Trust::Nobody, Some(Peer(peer))) => Self::Address(network(peer.ip())),
            // The last one is what the proxy itself saw; a client can put others before it.
            (Trust::Proxy, _) | (Trust::Nobody, None) => headers
                .get_all(FORWARDED_FOR)
                .iter()
                .next_back()
                .and_then(|value| value.to_str().ok())
                .and_then(|value| address(value.rsplit(',').next()?.trim()))
                .map_or(Self::Unnamed(network(unnamed)), |address| {
                    Self::Address(network(address))
                }),
        }
    }
}

impl Source {
    /// Whose limit it is.
    const fn address(self) -> IpAddr {
        match self {
            Self::Address(address) | Self::Unnamed(address) => address,
        }
    }
}

impl Trust {
    /// `proxies` is `http.trusted_proxies`; none: whoever is not at a public address.
    pub(super) fn of(peer: Option<&Peer>, proxies: &[IpNet]) -> Self {
        let Some(Peer(peer)) = peer else {
            return Self::Proxy;
        };
        let ip = peer.ip().to_canonical();
        let is_trusted = if proxies.is_empty() {
            !is_public(ip)
        } else {
            proxies.iter().any(|network| network.contains(&ip))
        };
        if is_trusted {
            Self::Proxy
        } else {
            Self::Nobody
        }
    }
}

impl Limits {
    pub(super) fn new(now: Instant) -> Self {
        let limit = |(quota, period)| RateLimit::new(quota, period, now);
        Self {
            questions: limit(QUESTIONS),
            wrong_keys: limit(WRONG_KEYS),
            warned: AtomicBool::new(false),
        }
    }

    /// Takes one question to the homeserver; the error is how long to wait.
    pub(super) fn take_question(&self, source: Source, now: Instant) -> Result<(), Duration> {
        if matches!(source, Source::Unnamed(_)) && !self.warned.swap(true, Ordering::Relaxed) {
            warn!(
                "the reverse proxy does not say for whom it asks for credentials, so that all who come by way of it have \
                 one limit together: let it set X-Forwarded-For"
            );
        }
        self.questions.take(source.address(), now)
    }

    /// Whether the source may show another API key; the error is how long to wait.
    pub(super) fn may_show_key(&self, source: Source, now: Instant) -> Result<(), Duration> {
        self.wrong_keys.check(source.address(), now)
    }

    /// Notes a wrong API key.
    pub(super) fn showed_wrong_key(&self, source: Source, now: Instant) {
        // What is over the limit is refused the next time.
        let _ = self.wrong_keys.take(source.address(), now);
    }
}

/// An address as proxies write it: alone, with a port, in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    let with_port = || Some(text.parse::<SocketAddr>().ok()?.ip());
    bare.parse().ok().or_else(with_port)
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & (u128::MAX << 64)).into()),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn source(peer: Option<&str>, forwarded_for: &[&str]) -> Source {
        let peer = peer.map(|peer| Peer(peer.parse().unwrap()));
        let headers = forwarded_for
            .iter()
            .map(|value| (FORWARDED_FOR, HeaderValue::from_str(value).unwrap()))
            .collect();
        Source::of(peer.as_ref(), &headers, &[])
    }

    const UNNAMED: Source = Source::Unnamed(IpAddr::V4(Ipv4Addr::LOCALHOST));

    fn at(address: &str) -> Source {
        Source::Address(address.parse().unwrap())
    }

    #[test]
    fn a_proxy_of_this_network_says_who_asks() {
        for peer in [
            "127.0.0.1:1",
            "[::1]:1",
            "10.1.2.3:1",
            "[fd00::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert_eq!(source(Some(peer), &["198.51.100.7"]), at("198.51.100.7"));
        }
        assert_eq!(source(None, &["198.51.100.7"]), at("198.51.100.7"));
    }

    #[test]
    fn what_a_client_put_before_it_does_not_count() {
        let peer = Some("127.0.0.1:1");
        for forwarded_for in [
            &["192.0.2.1, 198.51.100.7"][..],
            &["192.0.2.1", "198.51.100.7"],
            &["nonsense,,198.51.100.7"],
        ] {
            assert_eq!(source(peer, forwarded_for), at("198.51.100.7"));
        }
    }

    #[test]
    fn nobody_else_is_believed() {
        assert_eq!(source(Some("8.8.8.8:1"), &["198.51.100.7"]), at("8.8.8.8"));
        assert_eq!(source(Some("[::ffff:8.8.8.8]:1"), &[]), at("8.8.8.8"));
        assert_eq!(source(Some("[2600::1:2:3:4]:1"), &[]), at("2600::"));
    }

    #[test]
    fn addresses_are_read_as_proxies_write_them() {
        let peer = Some("127.0.0.1:1");
        for (written, read) in [
            ("198.51.100.7:4711", at("198.51.100.7")),
            ("2001:db8:1:2:3::4", at("2001:db8:1:2::")),
            ("[2001:db8:1:2:3::4]", at("2001:db8:1:2::")),
            ("[2001:db8:1:2:3::4]:4711", at("2001:db8:1:2::")),
            ("::ffff:198.51.100.7", at("198.51.100.7")),
            ("unknown", UNNAMED),
            ("", UNNAMED),
            ("198.51.100.7,", UNNAMED),
        ] {
            assert_eq!(source(peer, &[written]), read, "{written}");
        }
        assert_eq!(source(peer, &[]), UNNAMED);
    }

    #[test]
    fn where_proxies_are_named_nobody_else_is_believed() {
        let proxies = ["172.18.0.0/16", "2001:db8::5/128"].map(|text| text.parse().unwrap());
        let trust = |peer: &str| {
            let peer = Peer(peer.parse().unwrap());
            Trust::of(Some(&peer), &proxies)
        };
        for proxy in ["172.18.0.2:1", "[::ffff:172.18.0.2]:1", "[2001:db8::5]:1"] {
            assert_eq!(trust(proxy), Trust::Proxy, "{proxy}");
        }
        for other in [
            "127.0.0.1:1",
            "[::1]:1",
            "10.1.2.3:1",
            "8.8.8.8:1",
            "[2001:db8::6]:1",
        ] {
            assert_eq!(trust(other), Trust::Nobody, "{other}");
        }
    }

    #[test]
    fn who_is_not_named_shares_the_limit_of_the_proxy() {
        let now = shared::clock::Clock::system().now();
        let limits = Limits::new(now);
        let (one, other) = (
            source(Some("127.0.0.1:1"), &[]),
            source(Some("10.0.0.1:1"), &[]),
        );
        for _ in 0..WRONG_KEYS.0 {
            assert!(limits.may_show_key(one, now).is_ok());
            limits.showed_wrong_key(one, now);
        }
        assert!(limits.may_show_key(one, now).is_err());
        assert!(limits.may_show_key(other, now).is_ok());
        for _ in 0..QUESTIONS.0 {
            assert!(limits.take_question(one, now).is_ok());
        }
        assert!(limits.take_question(one, now).is_err());
        assert!(limits.take_question(other, now).is_ok());
    }
}
