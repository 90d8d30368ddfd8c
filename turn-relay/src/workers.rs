//! The threads that relay: each with its own sockets, its own [`Server`](turn_relay_proto::Server) and its own loop.

use std::{net::SocketAddr, ops::RangeInclusive, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use shared::{clock::Clock, random::Random};
use turn_relay_proto::{Config, counters::Counters};

/// What cannot be changed while the relay runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads, 1 or more.
    pub workers: usize,
    /// `listen.udp`.
    pub udp: Vec<SocketAddr>,
    /// `listen.tcp`. Plain and TLS are told apart by the first byte, here and in `tls`.
    pub tcp: Vec<SocketAddr>,
    /// `listen.tls`.
    pub tls: Vec<SocketAddr>,
    /// `listen.dtls`. With the cargo feature `dtls` alone.
    pub dtls: Vec<SocketAddr>,
    /// `relay.ports`.
    pub relay_ports: RangeInclusive<u16>,
    /// The current certificate; `None` if there is none: then nothing listens for TLS, and a TLS handshake on a plain port is refused.
    pub tls_config: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
}

/// What a reload may change.
#[derive(Clone, Debug)]
pub struct Reloadable {
    /// The core's settings.
    pub core: Arc<Config>,
    /// Networks of proxies, whose TCP connections begin with a PROXY protocol v2 header (`listen.proxy_protocol`).
    pub proxies: Vec<IpNet>,
    /// Connections of one /24 or /48 that have not authenticated (`quotas.connections_per_prefix`).
    pub connections_per_prefix: usize,
    /// Bytes that wait for one slow TCP or TLS client (`quotas.tcp_buffer`).
    pub tcp_buffer: usize,
    /// `timeouts.tls_handshake`.
    pub tls_handshake: Duration,
    /// `timeouts.first_request`: how long a connection may be open without an authentic request.
    pub first_request: Duration,
    /// `timeouts.idle`: how long a connection may be open after its allocation ended.
    pub idle: Duration,
}

/// The running threads.
#[derive(Debug)]
pub struct Workers {}

impl Workers {
    /// Opens all sockets and starts the threads.
    ///
    /// # Errors
    ///
    /// Which address could not be listened on, why, and what to do about it.
    pub fn start(
        settings: Settings,
        reloadable: Reloadable,
        clock: Clock,
        random: Random,
    ) -> Result<Self, String> {
        unimplemented!()
    }

    /// Takes new settings, on all threads, without touching an allocation.
    pub fn reconfigure(&self, reloadable: Reloadable) {
        unimplemented!()
    }

    /// No new allocations from now on; new connections are still taken, since clients refresh over them.
    pub fn drain(&self) {
        unimplemented!()
    }

    /// Allocations that there are now.
    #[must_use]
    pub fn allocations(&self) -> u32 {
        unimplemented!()
    }

    /// What each thread counts.
    #[must_use]
    pub fn counters(&self) -> &[Arc<Counters>] {
        unimplemented!()
    }

    /// TCP and TLS connections that are open now.
    #[must_use]
    pub fn connections(&self) -> Connections {
        unimplemented!()
    }

    /// Whether all threads run, and each went through its loop within the last seconds: for `/health` and systemd's watchdog.
    #[must_use]
    pub fn are_alive(&self) -> bool {
        unimplemented!()
    }

    /// Local addresses in use, as bound (for port 0 the one that the system chose): UDP, TCP, TLS, in the order of the settings.
    #[must_use]
    pub fn local_addresses(&self) -> &[SocketAddr] {
        unimplemented!()
    }

    /// Ends all allocations and threads, and waits for them.
    pub fn stop(self) {
        unimplemented!()
    }
}

/// Numbers of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// In clear.
    pub tcp: u64,
    /// Encrypted.
    pub tls: u64,
}
