//! The relay's configuration: what the rest of the relay works with.
//!
//! A file is read by [`load()`]: everything in it is checked, certificate and key are opened, and all
//! problems are reported at once. What is here afterwards is valid.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use shared::secret::Secret;
use url::Url;

use crate::{certificates::Identity, io::backend::Backend};

mod backend;
mod credentials;
mod load;
mod network;
pub mod report;
#[cfg(test)]
mod tests;

pub use load::{Loaded, VARIABLES, http_addresses, load};
pub use shared::telemetry::{Log, LogFormat};

/// Whether this program speaks DTLS: it was built with the feature `dtls`.
pub const DTLS: bool = cfg!(feature = "dtls");

/// A whole, valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the file was read from.
    pub path: PathBuf,
    /// `realm`: 1 to 127 printable ASCII characters, neither quotation mark nor backslash among them.
    pub realm: String,
    /// `secrets`, then those of `secrets_file`: newest first, 1 to 16, none of them empty.
    pub secrets: Vec<Secret<String>>,
    /// `listen`
    pub listen: Listen,
    /// `tls`: there whenever `listen.tls` or `listen.dtls` is not empty.
    pub tls: Option<Tls>,
    /// `relay`
    pub relay: Relay,
    /// `peers`
    pub peers: Peers,
    /// `quotas`
    pub quotas: Quotas,
    /// `lifetime`
    pub lifetime: Lifetime,
    /// `timeouts`
    pub timeouts: Timeouts,
    /// `drain_timeout` (default 30 s, up to 24 h): how long SIGTERM waits for the last allocation.
    pub drain_timeout: Duration,
    /// `workers` (1 to 255): threads that relay; none: one for each core that the process may use.
    pub workers: Option<NonZeroUsize>,
    /// `http.listen` (default `127.0.0.1:3480`): where health and metrics are served.
    pub http_listen: Vec<SocketAddr>,
    /// `http.trusted_proxies` (default none): whose `X-Forwarded-For` counts in the credential service; none: that of everything
    /// that is not at a public address
    pub trusted_proxies: Vec<IpNet>,
    /// `credentials`
    pub credentials: Credentials,
    /// `log`
    pub log: Log,
}

/// `listen:` where clients reach the relay. There is at least one address in all lists together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    /// `udp` (default port 3478 of every address)
    pub udp: Vec<SocketAddr>,
    /// `tcp` (default port 3478 of every address). The first byte of a connection tells whether it is TLS,
    /// here and in `tls`.
    pub tcp: Vec<SocketAddr>,
    /// `tls` (default port 5349 of every address where there is a certificate)
    pub tls: Vec<SocketAddr>,
    /// `dtls` (default none); none where [`DTLS`] is false.
    pub dtls: Vec<SocketAddr>,
    /// `proxy_protocol` (default none): TCP and TLS connections from these networks begin with a header of
    /// the PROXY protocol, version 2.
    pub proxy_protocol: Vec<IpNet>,
    /// `https_backend` (default none), and `https_backend_proxy_protocol` (default false): who gets HTTP that
    /// comes over TLS to an address in `tls`.
    pub https_backend: Option<Backend>,
}

/// `tls:`
#[derive(Clone, Debug)]
pub struct Tls {
    /// `certificate`: the PEM file with the certificate and the chain above it.
    pub certificate: PathBuf,
    /// `key`: the PEM file with the certificate's private key.
    pub key: PathBuf,
    /// What is in the two files.
    pub identity: Arc<Identity>,
}

/// `relay:` the addresses and ports that peers see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// `addresses`; empty: those that [`crate::addresses::find`] finds.
    pub addresses: Vec<IpAddr>,
    /// `external`: what clients are told in the place of an address, of the same family.
    pub external: Vec<(IpAddr, IpAddr)>,
    /// `ports` (default 49152 to 65535; none below 1024)
    pub ports: RangeInclusive<u16>,
    /// `tcp` (default false): TCP allocations, RFC 6062.
    pub tcp: bool,
}

/// `peers:` whom clients may reach through the relay, beside the built-in list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// `allow` (default none): wins over `deny` and over the built-in list.
    pub allow: Vec<IpNet>,
    /// `deny` (default none): added to the built-in list of special-purpose ranges.
    pub deny: Vec<IpNet>,
    /// `deny_ports` (default none): ports, 1 to 65535, that no peer may have; in order, each once.
    pub deny_ports: Vec<u16>,
}

/// `quotas:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// `allocations_per_user` (default 12, at least 1), a user being what follows the expiry in a username
    pub allocations_per_user: u32,
    /// `allocations_total` (default 10000, 1 to 1,000,000)
    pub allocations_total: u32,
    /// `permissions_per_allocation` (default 64, 1 to 4096)
    pub permissions_per_allocation: usize,
    /// `channels_per_allocation` (default 64, 1 to 4096, which is all there are)
    pub channels_per_allocation: usize,
    /// `bandwidth_per_user` (default none, at least 1000): bytes a second in each direction
    pub bandwidth_per_user: Option<u64>,
    /// `unauthenticated_per_prefix` (default 100, at least 1): answers a second to requests without valid
    /// credentials from one /24 (IPv6: /48)
    pub unauthenticated_per_prefix: u32,
    /// `connections_per_prefix` (default 64, at least 1): TCP and TLS connections of one /24 (IPv6: /48)
    /// that have not authenticated, and DTLS sessions; of handshakes four times as many may begin in a second
    pub connections_per_prefix: usize,
    /// `https_connections` (default 2048, 1 to 1,000,000): connections that `listen.https_backend` has
    pub https_connections: usize,
    /// `https_connections_per_prefix` (default 128, 1 to 1,000,000): those of one /24 (IPv6: /48)
    pub https_connections_per_prefix: usize,
    /// `tcp_buffer` (default 256 KiB, 128 KiB to 64 MiB): bytes that wait for one slow TCP or TLS client
    pub tcp_buffer: usize,
}

/// `lifetime:` of allocations, in whole seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// `default` (600 s, at least 1 s): when a client asks for none, or for less
    pub default: Duration,
    /// `max` (default 3600 s, at least `default`, at most 24 h)
    pub max: Duration,
}

/// `timeouts:` of TCP and TLS connections and DTLS sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// `tls_handshake` (default 10 s, 1 s to 5 min): from accepting to the end of the handshake
    pub tls_handshake: Duration,
    /// `first_request` (default 10 s, 1 s to 5 min): until there is an allocation
    pub first_request: Duration,
    /// `idle` (default 60 s, 1 s to 1 h): from the end of its allocation
    pub idle: Duration,
    /// `https_idle` (default 10 min, 1 s to 24 h): how long nothing may go to or fro between a client and
    /// `listen.https_backend`
    pub https_idle: Duration,
}

/// `credentials:`
#[derive(Clone, Debug)]
pub struct Credentials {
    /// `ttl` (default 12 h, 1 min to 30 days)
    pub ttl: Duration,
    /// `uris` of RFC 7065 (default: TLS, UDP and TCP in this order, at `realm` with the first port of each
    /// list; none when `realm` is no host name). Not empty if [`Credentials::is_used`].
    pub uris: Vec<String>,
    /// `api_keys` (default none): who may ask for credentials
    pub api_keys: Vec<Secret<String>>,
    /// `homeserver` (default none): base URL without a slash at its end
    pub homeserver: Option<Url>,
    /// `allow_guests` (default false)
    pub allow_guests: bool,
    /// `pseudonym_epoch` (default 24 h, 1 h to 30 days)
    pub pseudonym_epoch: Duration,
}

impl Credentials {
    /// Whether anybody can get credentials here.
    #[must_use]
    pub fn is_used(&self) -> bool {
        !self.api_keys.is_empty() || self.homeserver.is_some()
    }
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            external: Vec::new(),
            ports: 49_152..=65_535,
            tcp: false,
        }
    }
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            allocations_per_user: 12,
            allocations_total: 10_000,
            permissions_per_allocation: 64,
            channels_per_allocation: 64,
            bandwidth_per_user: None,
            unauthenticated_per_prefix: 100,
            connections_per_prefix: 64,
            https_connections: 2048,
            https_connections_per_prefix: 128,
            tcp_buffer: 256 * 1024,
        }
    }
}

impl Default for Lifetime {
    fn default() -> Self {
        Self {
            default: Duration::from_mins(10),
            max: Duration::from_hours(1),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tls_handshake: Duration::from_secs(10),
            first_request: Duration::from_secs(10),
            idle: Duration::from_mins(1),
            https_idle: Duration::from_mins(10),
        }
    }
}
