//! A relay on loopback whose clients may reach peers on loopback.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use shared::{clock::Clock, random::Random};
use turn_relay::{
    io::handovers::Limits,
    workers::{Reloadable, Settings, Workers},
};
use turn_relay_proto::{
    Config,
    config::{Quotas, RelayAddress},
    credential::Secrets,
    policy::PeerPolicy,
};

pub(crate) const REALM: &str = "turn.example.org";
pub(crate) const SECRET: &[u8] = b"a secret of the tests";

pub(crate) fn settings() -> Settings {
    Settings {
        workers: 2,
        udp: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        tcp: Vec::new(),
        tls: Vec::new(),
        dtls: Vec::new(),
        relay_ports: 20_000..=29_999,
        tls_config: None,
        #[cfg(feature = "dtls")]
        dtls_config: None,
    }
}

pub(crate) fn reloadable() -> Reloadable {
    Reloadable {
        core: Arc::new(core()),
        proxies: Vec::new(),
        connections_per_prefix: 1_000,
        tcp_buffer: 256 * 1024,
        tls_handshake: Duration::from_secs(10),
        first_request: Duration::from_secs(10),
        idle: Duration::from_secs(10),
        https_backend: None,
        https_connections: Limits {
            total: 1_000,
            of_prefix: 1_000,
        },
        https_idle: Duration::from_secs(10),
    }
}

pub(crate) fn core() -> Config {
    let relay = |ip: IpAddr| RelayAddress {
        bind: ip,
        advertised: ip,
    };
    Config {
        realm: REALM.to_owned(),
        secrets: Arc::new(Secrets::new(vec![SECRET.to_vec()])),
        relay_addresses: vec![
            relay(Ipv4Addr::LOCALHOST.into()),
            relay(Ipv6Addr::LOCALHOST.into()),
        ],
        default_lifetime: Duration::from_mins(10),
        max_lifetime: Duration::from_hours(1),
        policy: Arc::new(PeerPolicy {
            allow: vec![
                "127.0.0.0/8".parse().expect("a network"),
                "::1/128".parse().expect("a network"),
            ],
            deny: Vec::new(),
            deny_ports: Vec::new(),
            own: Vec::new(),
        }),
        quotas: Quotas {
            allocations_per_user: 10_000,
            allocations_total: 10_000,
            permissions_per_allocation: 64,
            channels_per_allocation: 64,
            bandwidth_per_user: None,
            unauthenticated_per_prefix: 1_000_000,
        },
        tcp_relay: true,
        unsafe_identifiers: false,
    }
}

pub(crate) fn start(settings: Settings, reloadable: Reloadable) -> Workers {
    Workers::start(settings, reloadable, Clock::system(), Random::system())
        .expect("loopback has free ports")
}
