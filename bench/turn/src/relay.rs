//! What is measured: coturn, Nocturne or the floor, each a process on the relays' cores.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::ClientConfig;
use shared::clock::Clock;
use stand_ins::Authority;
use tempfile::TempDir;

use crate::{
    client::Credentials,
    process::{Cores, Process, on_a_leash},
    stun::{Class, Message, Method, Request},
};

/// The name in the relays' certificate.
pub(crate) const NAME: &str = "turn.example.org";
/// What signs the usernames.
const SECRET: &str = "the secret of a benchmark is no secret";
/// How long a username is good for: longer than any run.
const USERNAME_LIFETIME: u64 = 24 * 3600;
/// Relayed ports.
pub(crate) const RELAYED_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;
/// Where free ports to listen on are looked for.
const LISTENING_PORTS: std::ops::Range<u16> = 10_000..20_000;
/// How long a relay may take until it answers.
const PATIENCE: Duration = Duration::from_secs(10);
const NAP: Duration = Duration::from_millis(50);

/// Whose figures they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    Coturn,
    Nocturne,
    /// The bare forwarding loop.
    Floor,
}

/// Relay threads of coturn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// As many as coturn takes without the option.
    Default,
    /// `-m N`
    Some(u32),
}

/// How relays are started.
pub(crate) struct Relays {
    pub(crate) coturn: PathBuf,
    pub(crate) threads: Threads,
    /// Nocturne's binary, if it is measured.
    pub(crate) nocturne: Option<PathBuf>,
    pub(crate) cores: Cores,
    pub(crate) clock: Clock,
    pub(crate) tls: Tls,
    /// The longest lifetime of an allocation.
    pub(crate) lifetime: Duration,
}

/// The relays' certificate, and clients that trust it.
pub(crate) struct Tls {
    directory: TempDir,
    pub(crate) client: Arc<ClientConfig>,
}

/// A running relay.
pub(crate) struct Relay {
    pub(crate) what: What,
    pub(crate) process: Process,
    /// Where clients reach it over UDP and TCP.
    pub(crate) address: SocketAddrV4,
    /// Where clients reach it over TLS.
    pub(crate) tls: SocketAddrV4,
    metrics: Option<SocketAddrV4>,
    expiry: u64,
    directory: TempDir,
}

impl What {
    /// Both relays.
    pub(crate) const RELAYS: [Self; 2] = [Self::Coturn, Self::Nocturne];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Coturn => "coturn",
            Self::Nocturne => "nocturne",
            Self::Floor => "bare loop",
        }
    }

    /// An address of its own, so that all have all relayed ports.
    const fn ip(self) -> Ipv4Addr {
        match self {
            Self::Coturn => Ipv4Addr::new(127, 10, 0, 1),
            Self::Nocturne => Ipv4Addr::new(127, 10, 0, 2),
            Self::Floor => Ipv4Addr::new(127, 10, 0, 3),
        }
    }
}

impl Threads {
    /// What coturn is told.
    pub(crate) fn option(self) -> Option<String> {
        match self {
            Self::Default => None,
            Self::Some(threads) => Some(format!("--relay-threads={threads}")),
        }
    }

    pub(crate) fn describe(self) -> String {
        match self {
            Self::Default => "coturn's default number of relay threads".to_owned(),
            Self::Some(threads) => format!("-m {threads}"),
        }
    }
}

impl Tls {
    /// A new authority, and its certificate for [`NAME`].
    pub(crate) fn new() -> Result<Self> {
        let directory = tempfile::tempdir().context("make a temporary folder")?;
        let authority = Authority::new()?;
        let identity = authority.server_identity(&[NAME])?;
        fs::write(
            directory.path().join("certificate.pem"),
            identity.certificate_pem.as_bytes(),
        )?;
        fs::write(
            directory.path().join("key.pem"),
            identity.key_pem.as_bytes(),
        )?;
        Ok(Self {
            client: authority.client_config(&[])?,
            directory,
        })
    }

    fn certificate(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    fn key(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }
}

impl Relays {
    /// Which relays are measured.
    pub(crate) fn measured(&self) -> Vec<What> {
        let wanted = |what: &What| *what != What::Nocturne || self.nocturne.is_some();
        What::RELAYS.into_iter().filter(wanted).collect()
    }

    /// Starts a relay.
    pub(crate) fn start(&self, what: What) -> Result<Relay> {
        match what {
            What::Coturn => Relay::coturn(self),
            What::Nocturne => Relay::nocturne(self),
            What::Floor => bail!("the floor is no relay"),
        }
    }
}

impl Relay {
    /// coturn, without all that costs it time here: no log, no command line interface, no DTLS, no
    /// database but an empty one of its own.
    fn coturn(relays: &Relays) -> Result<Self> {
        let directory = tempfile::tempdir().context("make a temporary folder")?;
        let ip = What::Coturn.ip();
        let [udp, tls] = free_ports(ip)?;
        let path = |name: &str| directory.path().join(name).display().to_string();
        let mut command = Command::new(&relays.coturn);
        command
            .arg("-n")
            .arg(format!("--listening-ip={ip}"))
            .arg(format!("--relay-ip={ip}"))
            .arg(format!("--listening-port={udp}"))
            .arg(format!("--tls-listening-port={tls}"))
            .arg(format!("--min-port={}", RELAYED_PORTS.start()))
            .arg(format!("--max-port={}", RELAYED_PORTS.end()))
            .arg(format!("--realm={NAME}"))
            .arg("--use-auth-secret")
            .arg(format!("--static-auth-secret={SECRET}"))
            .arg(format!("--cert={}", relays.tls.certificate().display()))
            .arg(format!("--pkey={}", relays.tls.key().display()))
            .arg(format!(
                "--max-allocate-lifetime={}",
                relays.lifetime.as_secs()
            ))
            .arg(format!("--userdb={}", path("turndb")))
            .arg(format!("--pidfile={}", path("pid")))
            .args(["--allow-loopback-peers", "--no-cli", "--no-dtls"])
            .args(["--no-rfc5780", "--no-software-attribute"])
            .args(["--log-file=/dev/null", "--simple-log", "--no-stdout-log"])
            .args(relays.threads.option());
        let remedy = "install the Debian package coturn, or name its turnserver with --coturn FILE";
        Self::run(
            What::Coturn,
            &command,
            remedy,
            relays,
            directory,
            [udp, tls],
            None,
        )
    }

    /// Nocturne with its defaults, but for what loopback and the size of the measurements need.
    fn nocturne(relays: &Relays) -> Result<Self> {
        let binary = relays.nocturne.as_ref().context("Nocturne's binary")?;
        let directory = tempfile::tempdir().context("make a temporary folder")?;
        let ip = What::Nocturne.ip();
        let [udp, tls] = free_ports(ip)?;
        let [metrics, _] = free_ports(Ipv4Addr::LOCALHOST)?;
        let metrics = SocketAddrV4::new(Ipv4Addr::LOCALHOST, metrics);
        let config = directory.path().join("turn-relay.yaml");
        let text = configuration(relays, ip, [udp, tls], metrics);
        fs::write(&config, text).context("write the configuration")?;
        let mut command = Command::new(binary);
        command.arg("turn").arg("--config").arg(&config);
        let remedy = "name a binary that has `nocturne turn` with --relay FILE";
        Self::run(
            What::Nocturne,
            &command,
            remedy,
            relays,
            directory,
            [udp, tls],
            Some(metrics),
        )
    }

    /// The bare loop, which forwards to `to`.
    pub(crate) fn floor(relays: &Relays, to: SocketAddrV4) -> Result<Self> {
        let directory = tempfile::tempdir().context("make a temporary folder")?;
        let [udp, tls] = free_ports(What::Floor.ip())?;
        let own = std::env::current_exe().context("find this executable")?;
        let mut command = Command::new(own);
        let listen = SocketAddrV4::new(What::Floor.ip(), udp);
        command.args(["floor", &listen.to_string(), &to.to_string()]);
        Self::run(
            What::Floor,
            &command,
            "",
            relays,
            directory,
            [udp, tls],
            None,
        )
    }

    fn run(
        what: What,
        command: &Command,
        remedy: &str,
        relays: &Relays,
        directory: TempDir,
        [udp, tls]: [u16; 2],
        metrics: Option<SocketAddrV4>,
    ) -> Result<Self> {
        let log = File::create(directory.path().join("log")).context("create a log")?;
        let mut leashed = on_a_leash(command)?;
        leashed
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let started = relays.cores.start_relay(&mut leashed);
        let process = started.with_context(|| format!("start {}", what.name()))?;
        let mut relay = Self {
            what,
            process,
            address: SocketAddrV4::new(what.ip(), udp),
            tls: SocketAddrV4::new(what.ip(), tls),
            metrics,
            expiry: relays.clock.unix_seconds() + USERNAME_LIFETIME,
            directory,
        };
        relay.wait(&relays.clock).with_context(|| {
            format!("{} does not answer: {remedy}\n{}", what.name(), relay.log())
        })?;
        Ok(relay)
    }

    /// Waits until it listens: a relay until it answers a Binding request, the floor until its port is
    /// taken.
    fn wait(&mut self, clock: &Clock) -> Result<()> {
        let end = clock.now() + PATIENCE;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(NAP))?;
        let request = Request::new(Method::Binding, *b"are you here").into_bytes();
        let mut answer = [0; 512];
        while clock.now() < end {
            ensure!(!self.process.has_ended(), "it has ended");
            if self.what == What::Floor {
                if UdpSocket::bind(self.address).is_err() {
                    return Ok(());
                }
                std::thread::sleep(NAP);
                continue;
            }
            socket.send_to(&request, self.address)?;
            if let Ok(size) = socket.recv(&mut answer)
                && let Some(message) = answer.get(..size).and_then(Message::read)
                && message.class == Class::Success
            {
                return Ok(());
            }
        }
        bail!("it did not answer within {PATIENCE:?}")
    }

    /// Credentials for a user of that name.
    pub(crate) fn credentials(&self, name: &str) -> Credentials {
        Credentials::rest(SECRET, self.expiry, name)
    }

    /// What it has written.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// How many allocations it says it has, if it says so at all.
    pub(crate) fn allocations(&self) -> Result<Option<u64>> {
        let Some(address) = self.metrics else {
            return Ok(None);
        };
        let mut stream = TcpStream::connect(address).context("connect to /metrics")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text).context("read /metrics")?;
        gauge(&text, ALLOCATIONS)
            .map(Some)
            .with_context(|| format!("/metrics has no gauge {ALLOCATIONS}"))
    }
}

/// The relayed ports that can be bound at the relay's address now.
pub(crate) fn bindable_ports(what: What) -> Vec<u16> {
    RELAYED_PORTS
        .filter(|port| UdpSocket::bind((what.ip(), *port)).is_ok())
        .collect()
}

/// Nocturne's gauge of allocations.
const ALLOCATIONS: &str = "nocturne_turn_allocations";

/// The sum of a metric over its labels; none if it is not there.
fn gauge(text: &str, name: &str) -> Option<u64> {
    let values: Vec<u64> = text
        .lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with([' ', '{']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse().ok())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

fn configuration(
    relays: &Relays,
    ip: Ipv4Addr,
    [udp, tls]: [u16; 2],
    metrics: SocketAddrV4,
) -> String {
    let lifetime = relays.lifetime.as_secs();
    format!(
        "realm: {NAME}\n\
         secrets: [\"{SECRET}\"]\n\
         listen:\n  udp: [\"{ip}:{udp}\"]\n  tcp: [\"{ip}:{udp}\"]\n  tls: [\"{ip}:{tls}\"]\n\
         tls: {{certificate: \"{}\", key: \"{}\"}}\n\
         relay:\n  addresses: [\"{ip}\"]\n  ports: \"{}-{}\"\n\
         peers: {{allow: [\"127.0.0.0/8\"]}}\n\
         quotas: {{allocations_per_user: 100000, allocations_total: 100000}}\n\
         lifetime: {{default: {}s, max: {lifetime}s}}\n\
         http: {{listen: [\"{metrics}\"]}}\n\
         log: {{level: warn}}\n",
        relays.tls.certificate().display(),
        relays.tls.key().display(),
        RELAYED_PORTS.start(),
        RELAYED_PORTS.end(),
        lifetime.min(600),
    )
}

/// Two ports that are free on `ip` over UDP and TCP.
fn free_ports(ip: Ipv4Addr) -> Result<[u16; 2]> {
    let first = u16::try_from(std::process::id() % 5_000).unwrap_or(0);
    let mut free = LISTENING_PORTS.skip(usize::from(first)).filter(|port| {
        UdpSocket::bind((ip, *port)).is_ok() && TcpListener::bind((ip, *port)).is_ok()
    });
    match (free.next(), free.next()) {
        (Some(first), Some(second)) => Ok([first, second]),
        _ => bail!("no two free ports on {ip} from 10000 to 19999"),
    }
}

/// Whether there is such a file to start; a name alone is looked for where the system looks.
pub(crate) fn is_there(binary: &Path) -> bool {
    Command::new(binary)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_is_the_sum_over_its_labels_and_not_another_s() {
        let text = "# HELP nocturne_turn_allocations Allocations\n\
                    nocturne_turn_allocations{transport=\"udp\",family=\"ipv4\"} 12\n\
                    nocturne_turn_allocations{transport=\"tcp\",family=\"ipv4\"} 3\n\
                    nocturne_turn_allocations_created_total 99\n";
        assert_eq!(gauge(text, ALLOCATIONS), Some(15));
        assert_eq!(gauge(text, "nocturne_turn_sockets"), None);
    }
}
