//! The server under test: the relay of this repository, or coturn to test the tests with.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use shared::{clock::Clock, environment::Environment};
use tempfile::TempDir;

use crate::{
    authority::Authority,
    network::Network,
    process::{Process, free_port, listens},
    requirements::program,
};

/// The shared secret, as a homeserver has it.
const SECRET: &str = "Phohghe7Aes8aiSh-ohb1uiNgahch6ie";

const REALM: &str = "turn.example.org";

/// Which server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelayKind {
    /// `nocturne turn`.
    Nocturne,
    /// coturn's `turnserver`.
    Coturn,
}

/// Where the server runs.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// On loopback, which is permitted as a peer, too.
    Loopback,
    /// In a network of its own. Its only peers are its own relayed addresses.
    Network(&'a Network),
}

/// How a client talks to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
    Tls,
}

/// Which of the server's addresses a client uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    IPv4,
    IPv6,
}

/// What a homeserver gives to a client.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    pub(crate) username: String,
    pub(crate) password: String,
}

/// A server that is up; it is gone when this is dropped.
pub(crate) struct Relay {
    pub(crate) kind: RelayKind,
    pub(crate) authority: Authority,
    addresses: [IpAddr; 2],
    port: u16,
    tls_port: u16,
    _process: Process,
    folder: TempDir,
}

impl RelayKind {
    /// What `INTEROP_RELAY` asks for.
    pub(crate) fn chosen() -> Self {
        match Environment::of_process().get("INTEROP_RELAY") {
            None | Some("nocturne") => Self::Nocturne,
            Some("coturn") => Self::Coturn,
            Some(other) => panic!("INTEROP_RELAY is {other}; there are nocturne and coturn"),
        }
    }
}

impl Relay {
    /// Starts the server that was asked for, or skips the test where it is not installed.
    pub(crate) fn start(place: Place<'_>) -> Option<Self> {
        Self::start_kind(RelayKind::chosen(), place)
    }

    fn start_kind(kind: RelayKind, place: Place<'_>) -> Option<Self> {
        let binary = match kind {
            RelayKind::Nocturne => nocturne(),
            RelayKind::Coturn => program(&["turnserver"], "coturn")?,
        };
        let addresses = match place {
            Place::Loopback => [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            Place::Network(_) => Network::relay_addresses(),
        };
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        let authority = Authority::new(folder.path(), &addresses);
        let port = free_port();
        let tls_port = free_port();
        let mut command = match place {
            Place::Loopback => Command::new(&binary),
            Place::Network(network) => network.at_relay(&binary),
        };
        let layout = Layout {
            addresses,
            port,
            tls_port,
            authority: &authority,
            folder: folder.path(),
            is_loopback_a_peer: matches!(place, Place::Loopback),
        };
        match kind {
            RelayKind::Nocturne => layout.configure_nocturne(&mut command),
            RelayKind::Coturn => layout.configure_coturn(&mut command),
        }
        let mut process = Process::start("relay", &mut command, folder.path());
        let id = process.id();
        process.wait_until("listening", || {
            listens(id, "udp", port) && listens(id, "tcp", port) && listens(id, "tcp", tls_port)
        });
        Some(Self {
            kind,
            authority,
            addresses,
            port,
            tls_port,
            _process: process,
            folder,
        })
    }

    pub(crate) fn address(&self, transport: Transport, family: Family) -> SocketAddr {
        let [ipv4, ipv6] = self.addresses;
        let ip = match family {
            Family::IPv4 => ipv4,
            Family::IPv6 => ipv6,
        };
        let port = match transport {
            Transport::Udp | Transport::Tcp => self.port,
            Transport::Tls => self.tls_port,
        };
        SocketAddr::new(ip, port)
    }

    /// The URI of RFC 7065.
    pub(crate) fn uri(&self, transport: Transport, family: Family) -> String {
        let address = self.address(transport, family);
        match transport {
            Transport::Udp => format!("turn:{address}?transport=udp"),
            Transport::Tcp => format!("turn:{address}?transport=tcp"),
            Transport::Tls => format!("turns:{address}?transport=tcp"),
        }
    }

    /// A folder for what belongs to this test.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Credential {
    /// Of `user`, for an hour.
    pub(crate) fn fresh(user: &str) -> Self {
        let expiry = Clock::system().unix_seconds() + Duration::from_hours(1).as_secs();
        Self::signed(format!("{expiry}:{user}"))
    }

    /// Of `user`, an hour too late.
    pub(crate) fn expired(user: &str) -> Self {
        let expiry = Clock::system().unix_seconds() - Duration::from_hours(1).as_secs();
        Self::signed(format!("{expiry}:{user}"))
    }

    /// draft-uberti-behave-turn-rest-00 §2.2, as every homeserver does it.
    fn signed(username: String) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, SECRET.as_bytes());
        let password = STANDARD.encode(hmac::sign(&key, username.as_bytes()));
        Self { username, password }
    }
}

/// What the server's configuration says.
struct Layout<'a> {
    addresses: [IpAddr; 2],
    port: u16,
    tls_port: u16,
    authority: &'a Authority,
    folder: &'a Path,
    is_loopback_a_peer: bool,
}

impl Layout<'_> {
    fn configure_nocturne(&self, command: &mut Command) {
        let at = |port| self.addresses.map(|ip| SocketAddr::new(ip, port));
        let allowed: &[&str] = if self.is_loopback_a_peer {
            &["127.0.0.0/8", "::1/128"]
        } else {
            &[]
        };
        // JSON is YAML
        let configuration = json!({
            "realm": REALM,
            "secrets": [SECRET],
            "listen": {
                "udp": at(self.port),
                "tcp": at(self.port),
                "tls": at(self.tls_port),
            },
            "tls": {"certificate": self.authority.certificate, "key": self.authority.key},
            "relay": {"addresses": self.addresses},
            "peers": {"allow": allowed},
            "http": {"listen": [SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))]},
        });
        let file = self.folder.join("turn-relay.yaml");
        fs::write(&file, configuration.to_string()).expect("the folder can be written to");
        command
            .env_clear()
            .args(["turn", "--config"])
            .arg(file)
            .current_dir(self.folder);
    }

    fn configure_coturn(&self, command: &mut Command) {
        command.args(["-n", "--no-cli", "--no-rfc5780", "--log-file=stdout"]);
        command.args(["--fingerprint", "--use-auth-secret"]);
        command.arg(format!("--static-auth-secret={SECRET}"));
        command.arg(format!("--realm={REALM}"));
        for ip in self.addresses {
            command.arg(format!("--listening-ip={ip}"));
            command.arg(format!("--relay-ip={ip}"));
        }
        command.arg(format!("--listening-port={}", self.port));
        command.arg(format!("--tls-listening-port={}", self.tls_port));
        for (option, path) in [
            ("cert", &self.authority.certificate),
            ("pkey", &self.authority.key),
            ("pidfile", &self.folder.join("coturn.pid")),
            ("userdb", &self.folder.join("coturn.db")),
        ] {
            command.arg(format!("--{option}={}", path.display()));
        }
        if self.is_loopback_a_peer {
            command.arg("--allow-loopback-peers");
        }
        command.current_dir(self.folder);
    }
}

/// The command under test: `NOCTURNE_BIN`, else the one that was built beside this test.
fn nocturne() -> PathBuf {
    let environment = Environment::of_process();
    let path = environment.get("NOCTURNE_BIN").map_or_else(
        || {
            let test = env::current_exe().expect("a test knows where it is");
            // target/debug/deps/clients-…
            let built = test.ancestors().nth(2).expect("a test is built in target");
            built.join("nocturne")
        },
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "{} is not there: build it with `cargo build`, or name another one in NOCTURNE_BIN",
        path.display()
    );
    path
}
