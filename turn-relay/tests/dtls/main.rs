//! Clients over DTLS, and those who only look like clients: a relay's threads on loopback, with `dimpl` and OpenSSL on the other side.

#[path = "../workers/client.rs"]
mod client;
mod hostile;
mod life;
mod malformed;
mod openssl;
#[path = "../workers/relay.rs"]
#[expect(dead_code, reason = "shared with the tests of the other transports")]
mod relay;
mod session;
mod traffic;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use shared::{clock::Clock, random::Random};
use stand_ins::Authority;
use turn_relay::{
    io::dtls::ServerConfig,
    workers::{Reloadable, Settings, Workers},
};
use turn_relay_proto::counters::{Counters, DropReason, Handshake, QuotaHit};

use crate::client::PATIENCE;

/// A relay that listens for UDP and DTLS on two threads.
struct Relay {
    workers: Workers,
    authority: Authority,
    certificate: Arc<ArcSwap<ServerConfig>>,
}

impl Relay {
    fn start() -> Self {
        Self::with(relay::settings(), relay::reloadable(), Clock::system())
    }

    fn with(settings: Settings, reloadable: Reloadable, clock: Clock) -> Self {
        let authority = Authority::new().expect("keys can be made");
        let certificate = Arc::new(ArcSwap::from_pointee(certificate(&authority, &[])));
        let settings = Settings {
            dtls: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            dtls_config: Some(Arc::clone(&certificate)),
            ..settings
        };
        let workers = Workers::start(settings, reloadable, clock, Random::system())
            .expect("loopback has free ports");
        Self {
            workers,
            authority,
            certificate,
        }
    }

    fn udp(&self) -> SocketAddr {
        self.workers.local_addresses()[0]
    }

    fn dtls(&self) -> SocketAddr {
        self.workers.local_addresses()[1]
    }

    fn sessions(&self) -> u64 {
        self.workers.connections().dtls
    }

    fn count(&self, of_thread: impl Fn(&Counters) -> u64) -> u64 {
        let counters = self.workers.counters();
        counters.iter().map(|counters| of_thread(counters)).sum()
    }

    fn handshakes(&self, label: Handshake) -> u64 {
        self.count(|counters| counters.dtls_handshakes.get(label))
    }

    fn drops(&self, label: DropReason) -> u64 {
        self.count(|counters| counters.drops.get(label))
    }

    fn quota_hits(&self, label: QuotaHit) -> u64 {
        self.count(|counters| counters.quota_hits.get(label))
    }
}

/// A new certificate of the authority's for localhost and `names`.
fn certificate(authority: &Authority, names: &[&str]) -> ServerConfig {
    let identity = authority
        .server_identity(names)
        .expect("a certificate can be made");
    let certificate =
        CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).expect("it is PEM");
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).expect("it is PEM");
    ServerConfig::new(&certificate, key.secret_der()).expect("its key is an ECDSA one")
}

fn now() -> Instant {
    Clock::system().now()
}

/// Waits until something becomes true that nobody tells of.
#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = now() + PATIENCE;
    while !is_so() {
        assert!(now() < deadline, "{what}: did not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}
