//! The relay as its operator sees it: started, reloaded, drained, and asked how it is.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use rustls::RootCertStore;
use shared::{clock::Clock, environment::Environment, open_files, random::Random, tls};
use tracing::{error, info, warn};
use turn_relay_proto::{
    config::{Quotas, RelayAddress},
    credential::Secrets,
    policy::PeerPolicy,
};

use crate::{
    addresses,
    certificates::Certificates,
    config::{self, Config},
    credentials::{self, Service},
    io::handovers,
    metrics::Metrics,
    workers::{Reloadable, Settings, Workers},
};

/// How often it is looked at whether the last allocation is gone.
const DRAIN_INTERVAL: Duration = Duration::from_millis(200);

/// How long before its end a certificate that is still in use is warned of, every day.
const EXPIRES_SOON: i64 = 14 * 24 * 60 * 60;

/// What is wrong when no more sockets can be bound for relayed addresses.
const ADDRESS_GONE: &str = "an address that relayed addresses are made on is no longer this host's (set `relay.addresses` to \
                            one that stays, and restart)";

/// Open files for everything but allocations.
const OTHER_FILES: u64 = 512;

/// What the relay takes from outside.
#[derive(Clone, Debug)]
pub struct World {
    /// Both clocks.
    pub clock: Clock,
    /// Good randomness.
    pub random: Random,
    /// Names the certificate authorities, where they are not the system's alone.
    pub environment: Environment,
}

/// A running relay.
pub struct Relay {
    /// What the process started with: what cannot be reloaded is still so.
    started: Config,
    /// What is in force but for that.
    config: ArcSwap<Config>,
    addresses: Vec<RelayAddress>,
    own: Mutex<Vec<IpAddr>>,
    workers: Arc<Workers>,
    certificates: Option<Arc<Certificates>>,
    metrics: Metrics,
    credentials: Service,
    clock: Clock,
    environment: Environment,
    stopping: AtomicBool,
}

impl Relay {
    /// Finds the relay's addresses, says what clients will be told, opens all sockets and starts the
    /// threads.
    ///
    /// # Errors
    ///
    /// A text that names what cannot work, and what to do about it.
    pub fn start(config: Config, world: World) -> Result<Self, String> {
        let World {
            clock,
            random,
            environment,
        } = world;
        let addresses = addresses::find(&config.relay).map_err(|error| error.to_string())?;
        let told = addresses::told(&addresses, &config.relay);
        info!("{}", told.line);
        if let Some(warning) = told.warning {
            warn!("{warning}");
        }
        let own = own_addresses(&addresses)?;
        if let Some(warning) = opened(&config.peers.allow, &addresses, &own) {
            warn!("{warning}");
        }
        check_open_files(&config, open_files::raise());
        let certificates = match &config.tls {
            Some(tls) => {
                let identity = Arc::clone(&tls.identity);
                let certificates = Certificates::new(identity, &tls.certificate, &tls.key)?;
                #[cfg(feature = "dtls")]
                let certificates = if config.listen.dtls.is_empty() {
                    certificates
                } else {
                    certificates.with_dtls()?
                };
                Some(Arc::new(certificates))
            }
            None => None,
        };
        let workers = Workers::start(
            settings(&config, certificates.as_deref(), has_ipv6()),
            reloadable(&config, &config.realm, &addresses, &own),
            clock.clone(),
            random.clone(),
        )?;
        let workers = Arc::new(workers);
        let metrics = Metrics::new(&clock, Arc::clone(&workers), certificates.clone());
        metrics.set_unsafe_identifiers(config.log.unsafe_identifiers);
        let credentials = Service::new(
            &credentials::Settings::from(&config),
            credentials::World {
                clock: clock.clone(),
                random,
                roots: Arc::new(roots(&config, &environment)?),
                metrics: metrics.credentials.clone(),
            },
        )?;
        Ok(Self {
            config: ArcSwap::from_pointee(config.clone()),
            started: config,
            addresses,
            own: Mutex::new(own),
            workers,
            certificates,
            metrics,
            credentials,
            clock,
            environment,
            stopping: AtomicBool::new(false),
        })
    }

    /// The configuration in force. What takes a restart is not in force before one.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Everything that is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Who makes credentials.
    #[must_use]
    pub fn credentials(&self) -> &Service {
        &self.credentials
    }

    /// Where clients reach the relay.
    #[must_use]
    pub fn listeners(&self) -> &[SocketAddr] {
        self.workers.local_addresses()
    }

    /// Whether all threads work.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.workers.are_alive()
    }

    /// Why clients do not get allocations; nothing when they do.
    #[must_use]
    pub fn unready(&self) -> Vec<&'static str> {
        let certificate_expired = self
            .certificates
            .as_ref()
            .is_some_and(|certificates| certificates.not_after() <= self.unix_seconds());
        [
            (self.stopping.load(Ordering::Relaxed), "stopping"),
            (
                !self.is_alive(),
                "a thread that relays is stuck or has ended",
            ),
            (certificate_expired, "the certificate has expired"),
            (!addresses::gone(&self.addresses).is_empty(), ADDRESS_GONE),
        ]
        .into_iter()
        .filter_map(|(applies, reason)| applies.then_some(reason))
        .collect()
    }

    /// How long allocations may go on when the relay is told to stop.
    #[must_use]
    pub fn drain_timeout(&self) -> Duration {
        self.config.load().drain_timeout
    }

    /// Makes no allocations any more, and waits until the last one is gone.
    pub async fn drain(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.workers.drain();
        let allocations = self.workers.allocations();
        if allocations > 0 {
            info!(allocations, "waiting until the last allocation is gone");
        }
        while self.workers.allocations() > 0 {
            tokio::time::sleep(DRAIN_INTERVAL).await;
        }
    }

    /// Ends all allocations and threads. Does nothing but log when somebody else still holds the threads.
    pub fn stop(self) {
        let Self {
            workers, metrics, ..
        } = self;
        drop(metrics);
        if let Some(workers) = Arc::into_inner(workers) {
            workers.stop();
        } else {
            warn!("the threads that relay are in use and end with the process");
        }
    }

    /// Reads the configuration, secrets and certificate anew. No allocation is touched. When the new ones
    /// are bad the old ones stay in force, and the problems are logged.
    pub async fn reload(&self) {
        let (path, now) = (self.started.path.clone(), self.clock.wall());
        let environment = self.environment.clone();
        let read =
            tokio::task::spawn_blocking(move || config::load(&path, &environment, now)).await;
        let refused = match read {
            Err(_) => vec!["a fault in the relay while reading the configuration".to_owned()],
            Ok(loaded) => {
                for warning in loaded.failing.iter().chain(&loaded.warnings) {
                    warn!("{warning}");
                }
                match loaded.config {
                    Some(config) => self.replace(config).err().into_iter().collect(),
                    None => loaded.errors,
                }
            }
        };
        if refused.is_empty() {
            self.metrics.reloads.inc();
            info!("the configuration is reloaded");
        } else {
            self.metrics.failed_reloads.inc();
            for problem in &refused {
                error!("{problem}");
            }
            error!(
                problems = refused.len(),
                "the new configuration is refused, the old one stays in force"
            );
        }
    }

    fn replace(&self, config: Config) -> Result<(), String> {
        let own = own_addresses(&self.addresses)?;
        // what may fail comes first, so that nothing of what is refused is in force
        let settings = credentials::Settings::from(&config);
        let prepared = self.credentials.prepare(&settings)?;
        if let (Some(certificates), Some(tls)) = (&self.certificates, &config.tls) {
            certificates.replace(Arc::clone(&tls.identity), &tls.certificate, &tls.key)?;
        }
        self.credentials.put(prepared);
        let changed = restart_only(&self.started, &config);
        if !changed.is_empty() {
            warn!(
                "changed, and takes a restart to come into force: {}",
                changed.join(", ")
            );
        }
        let unsafe_identifiers = config.log.unsafe_identifiers;
        self.metrics.set_unsafe_identifiers(unsafe_identifiers);
        if unsafe_identifiers && !self.config.load().log.unsafe_identifiers {
            warn_of_unsafe_identifiers();
        }
        if let Some(warning) = opened(&config.peers.allow, &self.addresses, &own) {
            warn!("{warning}");
        }
        // locked until all of it is in force: whoever follows this host's addresses meanwhile would put the old
        // settings back
        let mut known = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        self.configure(&config, &own);
        self.config.store(Arc::new(config));
        *known = own;
        Ok(())
    }

    fn configure(&self, config: &Config, own: &[IpAddr]) {
        self.workers.reconfigure(reloadable(
            config,
            &self.started.realm,
            &self.addresses,
            own,
        ));
    }

    /// What is done without being asked, for as long as the relay runs.
    pub async fn keep_house(&self) {
        let mut minutes = tokio::time::interval(Duration::from_mins(1));
        let (mut was_alive, mut was_gone) = (true, Vec::new());
        for minute in 0_u64.. {
            minutes.tick().await;
            let is_alive = self.is_alive();
            if was_alive && !is_alive {
                error!("a thread that relays is stuck or has ended: its clients are cut off");
            }
            was_alive = is_alive;
            self.follow_own_addresses();
            let gone = addresses::gone(&self.addresses);
            if gone != was_gone {
                for address in &gone {
                    error!(%address, "{ADDRESS_GONE}: allocations fail");
                }
                was_gone = gone;
            }
            if minute % 60 == 0 && self.config.load().log.unsafe_identifiers {
                warn_of_unsafe_identifiers();
            }
            if minute > 0 && minute % (24 * 60) == 0 {
                self.warn_of_expiry();
            }
        }
    }

    /// An address that this host gets while the relay runs is none for peers, either.
    fn follow_own_addresses(&self) {
        match own_addresses(&self.addresses) {
            Ok(own) => {
                let mut known = self.own.lock().unwrap_or_else(PoisonError::into_inner);
                if *known != own {
                    info!("this host's addresses changed: clients cannot reach the new ones");
                    self.configure(&self.config.load(), &own);
                    *known = own;
                }
            }
            Err(problem) => warn!("{problem}; those known before are in force"),
        }
    }

    fn warn_of_expiry(&self) {
        let Some(certificates) = &self.certificates else {
            return;
        };
        let left = certificates.not_after() - self.unix_seconds();
        if left <= 0 {
            warn!("the certificate has EXPIRED: no client connects over TLS until it is replaced");
        } else if left < EXPIRES_SOON {
            warn!(
                days = left / (24 * 60 * 60),
                "the certificate expires soon; does its renewal work?"
            );
        }
    }

    /// Looks at the certificate's files, for as long as the relay runs.
    pub async fn watch_certificates(&self) {
        match &self.certificates {
            Some(certificates) => Arc::clone(certificates).watch().await,
            None => std::future::pending().await,
        }
    }

    fn unix_seconds(&self) -> i64 {
        i64::try_from(self.clock.unix_seconds()).unwrap_or(i64::MAX)
    }
}

/// Whom the homeserver may have its certificate from. Without any the relay starts all the same, if nothing
/// depends on them.
fn roots(config: &Config, environment: &Environment) -> Result<RootCertStore, String> {
    let homeserver = config.credentials.homeserver.as_ref();
    match tls::roots(environment) {
        Ok(roots) => Ok(roots),
        Err(problem) if homeserver.is_some_and(|url| url.scheme() == "https") => {
            Err(format!("credentials.homeserver: {problem}"))
        }
        Err(_) => Ok(RootCertStore::empty()),
    }
}

/// Each allocation takes a socket, one of both families two; each connection of the HTTPS backend takes two.
fn check_open_files(config: &Config, open_files: u64) {
    let allocations = config.quotas.allocations_total;
    let https = match config.listen.https_backend {
        Some(_) => 2 * config.quotas.https_connections as u64,
        None => 0,
    };
    if open_files < u64::from(allocations) + https + OTHER_FILES {
        warn!(
            open_files,
            allocations_total = allocations,
            "the system lets this process have fewer open files than `quotas.allocations_total` and \
             `quotas.https_connections` need (raise LimitNOFILE= or `ulimit -n`)"
        );
    }
}

fn own_addresses(relay: &[RelayAddress]) -> Result<Vec<IpAddr>, String> {
    addresses::own(relay).map_err(|error| {
        format!("this host's own addresses, which no client may reach, cannot be found: {error}")
    })
}

/// What `peers.allow` opens on this host itself, which who allows a network may not think of. Loopback and link-local addresses are
/// warned of where the configuration is read.
fn opened(allow: &[IpNet], relay: &[RelayAddress], own: &[IpAddr]) -> Option<String> {
    let mut open: Vec<IpAddr> = relay
        .iter()
        .flat_map(|address| [address.bind, address.advertised])
        .chain(own.iter().copied())
        .filter(|address| allow.iter().any(|network| network.contains(address)))
        .filter(|address| !address.is_loopback() && !is_link_local(*address))
        .collect();
    open.sort_unstable();
    open.dedup();
    (!open.is_empty()).then(|| {
        let open: Vec<_> = open.iter().map(ToString::to_string).collect();
        format!(
            "`peers.allow` contains {}, which this host has itself: whoever has credentials reaches all of its services there",
            open.join(", ")
        )
    })
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn warn_of_unsafe_identifiers() {
    warn!(
        "log.unsafe_identifiers is on: usernames and addresses of clients and peers are written to the log; \
         switch it off when you are done"
    );
}

/// Keys whose values take a restart, and have changed.
fn restart_only(started: &Config, config: &Config) -> Vec<&'static str> {
    let files = |config: &Config| config.tls.is_some();
    [
        ("realm", started.realm != config.realm),
        ("listen.udp", started.listen.udp != config.listen.udp),
        ("listen.tcp", started.listen.tcp != config.listen.tcp),
        ("listen.tls", started.listen.tls != config.listen.tls),
        ("listen.dtls", started.listen.dtls != config.listen.dtls),
        ("tls", files(started) != files(config)),
        (
            "relay.addresses",
            started.relay.addresses != config.relay.addresses,
        ),
        (
            "relay.external",
            started.relay.external != config.relay.external,
        ),
        ("relay.ports", started.relay.ports != config.relay.ports),
        ("workers", started.workers != config.workers),
        ("http.listen", started.http_listen != config.http_listen),
        ("log.level", started.log.level != config.log.level),
        ("log.format", started.log.format != config.log.format),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}

fn settings(config: &Config, certificates: Option<&Certificates>, has_ipv6: bool) -> Settings {
    let listen = &config.listen;
    let usable = |addresses: &[SocketAddr]| without_missing_family(addresses, has_ipv6);
    Settings {
        workers: config.workers.map_or_else(
            || std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            std::num::NonZero::get,
        ),
        udp: usable(&listen.udp),
        tcp: usable(&listen.tcp),
        tls: usable(&listen.tls),
        dtls: usable(&listen.dtls),
        relay_ports: config.relay.ports.clone(),
        tls_config: certificates.map(Certificates::current),
        #[cfg(feature = "dtls")]
        dtls_config: certificates.and_then(Certificates::current_dtls),
    }
}

/// "Every address" of IPv6 is left out where there is no IPv6 and another address to listen on: it is a
/// default, and machines without IPv6 are common.
fn without_missing_family(addresses: &[SocketAddr], has_ipv6: bool) -> Vec<SocketAddr> {
    let is_needless = |address: &SocketAddr| {
        !has_ipv6
            && address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            && addresses.iter().any(SocketAddr::is_ipv4)
    };
    let (needless, usable) = addresses.iter().partition::<Vec<_>, _>(|a| is_needless(a));
    for address in needless {
        info!(%address, "this machine has no IPv6: nothing listens there");
    }
    usable
}

fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

fn reloadable(
    config: &Config,
    realm: &str,
    addresses: &[RelayAddress],
    own: &[IpAddr],
) -> Reloadable {
    let quotas = &config.quotas;
    let secrets = config
        .secrets
        .iter()
        .map(|secret| secret.expose().clone().into_bytes())
        .collect();
    Reloadable {
        core: Arc::new(turn_relay_proto::Config {
            realm: realm.to_owned(),
            secrets: Arc::new(Secrets::new(secrets)),
            relay_addresses: addresses.to_vec(),
            default_lifetime: config.lifetime.default,
            max_lifetime: config.lifetime.max,
            policy: Arc::new(PeerPolicy {
                allow: config.peers.allow.clone(),
                deny: config.peers.deny.clone(),
                deny_ports: config.peers.deny_ports.clone(),
                own: own.to_vec(),
            }),
            quotas: Quotas {
                allocations_per_user: quotas.allocations_per_user,
                allocations_total: quotas.allocations_total,
                permissions_per_allocation: quotas.permissions_per_allocation,
                channels_per_allocation: quotas.channels_per_allocation,
                bandwidth_per_user: quotas.bandwidth_per_user,
                unauthenticated_per_prefix: quotas.unauthenticated_per_prefix,
            },
            tcp_relay: config.relay.tcp,
            unsafe_identifiers: config.log.unsafe_identifiers,
        }),
        proxies: config.listen.proxy_protocol.clone(),
        connections_per_prefix: quotas.connections_per_prefix,
        tcp_buffer: quotas.tcp_buffer,
        tls_handshake: config.timeouts.tls_handshake,
        first_request: config.timeouts.first_request,
        idle: config.timeouts.idle,
        https_backend: config.listen.https_backend.clone(),
        https_connections: handovers::Limits {
            total: quotas.https_connections,
            of_prefix: quotas.https_connections_per_prefix,
        },
        https_idle: config.timeouts.https_idle,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// Writes another certificate with its key, and reads the configuration that names them.
    fn with_new_certificate(folder: &Path) -> Config {
        let write = |name: &str, content: &str| {
            use std::os::unix::fs::PermissionsExt as _;

            let path = folder.join(name);
            std::fs::write(&path, content).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
            path
        };
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec!["turn.example.org".to_owned()])
            .and_then(|params| params.self_signed(&key))
            .expect("a certificate");
        let key = write("key.pem", &key.serialize_pem());
        let certificate = write("fullchain.pem", &certificate.pem());
        let text = format!(
            "realm: turn.example.org\nsecrets: [kPlaXzQyVqFhMEUwbzcx]\ntls: {{certificate: {}, key: {}}}\nlisten: {{udp: \
             '127.0.0.1:0', tcp: [], tls: '127.0.0.1:0'}}\nrelay: {{addresses: [127.0.0.1]}}\nworkers: 1\n",
            certificate.display(),
            key.display()
        );
        let file = write("turn-relay.yaml", &text);
        let loaded = config::load(&file, Clock::system().wall());
        loaded
            .config
            .unwrap_or_else(|| panic!("{:?}", loaded.errors))
    }

    #[test]
    fn nothing_of_a_refused_reload_is_in_force() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let world = World {
            clock: Clock::system(),
            random: Random::system(),
            environment: Environment::default(),
        };
        let relay = Relay::start(with_new_certificate(folder.path()), world).expect("it starts");
        let certificate = || {
            let certificates = relay.certificates.as_ref().expect("with TLS");
            certificates.current().load_full()
        };
        let first = certificate();
        // what the credential service alone refuses
        let mut refused = with_new_certificate(folder.path());
        refused.secrets.clear();
        assert!(relay.replace(refused).is_err());
        assert!(Arc::ptr_eq(&first, &certificate()));
        assert!(relay.unready().is_empty(), "{:?}", relay.unready());
        let good = with_new_certificate(folder.path());
        relay.replace(good).expect("nothing is wrong with it");
        assert!(!Arc::ptr_eq(&first, &certificate()));
        relay.stop();
    }

    #[test]
    fn a_list_that_opens_this_host_is_warned_of() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let relay = [RelayAddress {
            bind: ip("10.0.0.5"),
            advertised: ip("9.9.9.9"),
        }];
        let own = ["127.0.0.1", "10.0.0.5", "172.17.0.1", "fe80::1", "fd00::5"].map(ip);
        for (allow, open) in [
            (&[][..], None),
            (&["192.168.0.0/16"], None),
            (&["10.1.0.0/16", "127.0.0.0/8", "fe80::/10"], None),
            (&["10.0.0.0/8"], Some("10.0.0.5")),
            (&["9.9.9.9/32"], Some("9.9.9.9")),
            (&["172.16.0.0/12", "fc00::/7"], Some("172.17.0.1, fd00::5")),
        ] {
            let allow: Vec<IpNet> = allow.iter().map(|text| text.parse().unwrap()).collect();
            let warning = opened(&allow, &relay, &own);
            let named = warning.as_deref().map(|text| {
                let rest = text.strip_prefix("`peers.allow` contains ").unwrap();
                rest.split_once(", which this host has").unwrap().0
            });
            assert_eq!(named, open, "{allow:?}");
        }
    }
}
