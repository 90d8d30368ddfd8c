//! Starts the relay as an operator does, and looks at it as one does.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::ClientConfig;
use serde_json::{Map, Value, json};
use shared::clock::Clock;
use stand_ins::{Authority, Identity};
use tempfile::TempDir;

#[cfg(target_os = "linux")]
use crate::namespaces::network::Namespace;
use crate::{
    client::{Client, REALM, SECRET},
    time::{PATIENCE, eventually, now},
    wire::{self, Wire},
};

/// A relay that is to be started.
pub(crate) struct Setup {
    folder: TempDir,
    authority: Authority,
    config: Value,
    environment: Vec<(String, String)>,
    before: String,
    place: Place,
}

/// Where processes are started and connections made.
#[derive(Clone, Debug, Default)]
struct Place {
    #[cfg(target_os = "linux")]
    namespace: Option<Namespace>,
}

impl Place {
    fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        #[cfg(target_os = "linux")]
        if let Some(namespace) = &self.namespace {
            return namespace.inside(act);
        }
        act()
    }
}

/// A running relay. Dropped: killed.
pub(crate) struct Relay {
    child: Child,
    config: Value,
    folder: TempDir,
    authority: Authority,
    place: Place,
    /// Where it listens, in the order of the configuration.
    pub(crate) udp: Vec<SocketAddr>,
    pub(crate) tcp: Vec<SocketAddr>,
    pub(crate) http: SocketAddr,
}

impl Setup {
    /// A relay on loopback whose clients may reach peers on loopback, with `more` in its configuration.
    pub(crate) fn new(more: &Value) -> Self {
        let usual = json!({
            "realm": REALM,
            "secrets": [SECRET],
            "listen": {"udp": ["127.0.0.1:0"], "tcp": ["127.0.0.1:0"], "tls": []},
            "relay": {"addresses": ["127.0.0.1"]},
            "peers": {"allow": ["127.0.0.0/8"]},
            "http": {"listen": ["127.0.0.1:0"]},
            "workers": 2,
        });
        Self::whole(merged(&usual, more))
    }

    /// A relay with this configuration and nothing else in it.
    pub(crate) fn whole(config: Value) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            authority: Authority::new().unwrap(),
            config,
            environment: Vec::new(),
            before: String::new(),
            place: Place::default(),
        }
    }

    /// Has a certificate for `localhost` and `names`: TLS on all stream ports.
    pub(crate) fn with_tls(mut self, names: &[&str]) -> Self {
        write_certificate(self.folder.path(), &self.authority, names);
        let file = |name| self.folder.path().join(name);
        let tls = json!({"certificate": file(CERTIFICATE), "key": file(KEY)});
        self.config = merged(&self.config, &json!({"tls": tls}));
        self
    }

    /// Has one instead that ran out an hour ago.
    pub(crate) fn with_expired_certificate(self) -> Self {
        let ago = Clock::system().wall() - Duration::from_hours(1);
        let identity = self.authority.client_identity("turn", ago).unwrap();
        write_identity(self.folder.path(), &identity);
        self
    }

    pub(crate) fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has the shell do this before it starts the relay.
    pub(crate) fn after(mut self, command: &str) -> Self {
        self.before = format!("{command} && ");
        self
    }

    /// Is on a host of its own.
    #[cfg(target_os = "linux")]
    pub(crate) fn within(mut self, namespace: &Namespace) -> Self {
        self.place.namespace = Some(namespace.clone());
        self
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it. It answers `/health` when this returns.
    pub(crate) fn start(self) -> Relay {
        let mut relay = self.spawn();
        let came_up = eventually(|| relay.is_serving() || relay.has_ended().is_some());
        assert!(came_up, "the relay does not come up:\n{}", relay.log());
        assert_eq!(relay.has_ended(), None, "the relay ended:\n{}", relay.log());
        relay
    }

    /// What a relay that refuses to start says.
    pub(crate) fn refusal(self) -> String {
        let mut relay = self.spawn();
        let status = relay.ended();
        assert_eq!(status.code(), Some(1), "{}", relay.log());
        relay.log()
    }

    fn spawn(self) -> Relay {
        let path = self.folder.path().join(FILE);
        // JSON is YAML
        fs::write(&path, self.config.to_string()).unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!(r#"{}exec "$0" "$@""#, self.before)])
            .arg(env!("CARGO_BIN_EXE_nocturne"))
            .args(["turn", "--config"])
            .arg(&path)
            .env_clear()
            .envs(self.environment)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.folder.path().join(LOG)).unwrap());
        let child = self.place.inside(|| command.spawn()).unwrap();
        Relay {
            child,
            config: self.config,
            folder: self.folder,
            authority: self.authority,
            place: self.place,
            udp: Vec::new(),
            tcp: Vec::new(),
            http: SocketAddr::from(([0; 4], 0)),
        }
    }
}

impl Relay {
    /// A relay on loopback, with `more` in its configuration.
    pub(crate) fn start(more: &Value) -> Self {
        Setup::new(more).start()
    }

    /// A client over UDP.
    pub(crate) fn udp_client(&self) -> Client {
        Client::new(wire::udp(self.udp[0]))
    }

    /// A client over TCP.
    pub(crate) fn tcp_client(&self) -> Client {
        Client::new(wire::tcp(self.tcp[0]))
    }

    /// A client over TLS.
    pub(crate) fn tls_client(&self) -> Client {
        Client::new(wire::tls(self.tcp[0], &self.tls_config(&[])))
    }

    /// A UDP socket of a client at that address.
    pub(crate) fn udp_wire_from(&self, local: IpAddr) -> Wire {
        wire::udp_from(local, self.udp[0])
    }

    /// A TCP connection of a client at that address.
    pub(crate) fn tcp_wire_from(&self, local: IpAddr) -> Wire {
        wire::tcp_on(wire::connect_from(local, self.tcp[0]))
    }

    /// A TLS connection of a client at that address.
    pub(crate) fn tls_wire_from(&self, local: IpAddr) -> Wire {
        let stream = wire::connect_from(local, self.tcp[0]);
        wire::try_tls(stream, &self.tls_config(&[])).unwrap()
    }

    /// TLS for clients that offer these protocols, and trust who signed the relay's certificate.
    pub(crate) fn tls_config(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        self.authority.client_config(alpn).unwrap()
    }

    /// Who signed the relay's certificate, as PEM.
    pub(crate) fn authority(&self) -> &str {
        self.authority.pem()
    }

    /// Whether it listens everywhere and answers; takes down where.
    fn is_serving(&mut self) -> bool {
        let log = self.log();
        let addresses = |message: &str| -> Vec<SocketAddr> {
            log.lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .filter(|line| line["message"] == message)
                .map(|line| line["address"].as_str().unwrap().parse().unwrap())
                .collect()
        };
        let [http] = addresses("serving health and metrics")[..] else {
            return false;
        };
        let mut listening = addresses("listening");
        let count = |key: &str| self.config["listen"][key].as_array().map_or(0, Vec::len);
        let of_udp = count("udp").min(listening.len());
        self.tcp = listening.split_off(of_udp);
        self.udp = listening;
        self.http = http;
        self.try_get("/health")
            .is_some_and(|(status, _)| status == 200)
    }

    /// Asks the HTTP server; none if it does not answer.
    pub(crate) fn try_get(&self, path: &str) -> Option<(u16, String)> {
        let connected = self.place.inside(|| TcpStream::connect(self.http));
        get(connected.ok()?, path)
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.try_get(path)
            .unwrap_or_else(|| panic!("{path} is not answered:\n{}", self.log()))
    }

    pub(crate) fn metrics(&self) -> String {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200);
        text
    }

    /// The sum over all lines of one metric that have this in their labels.
    pub(crate) fn metric(&self, name: &str, label: &str) -> u64 {
        let text = self.metrics();
        let name = format!("nocturne_turn_{name}");
        let values: Vec<u64> = text
            .lines()
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(series, _)| {
                (*series == name || series.starts_with(&format!("{name}{{")))
                    && series.contains(label)
            })
            .map(|(_, value)| value.parse().unwrap())
            .collect();
        assert!(!values.is_empty(), "no {name} with {label}:\n{text}");
        values.iter().sum()
    }

    /// Packets that went no further for this reason.
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        self.metric("drops_total", &format!("{{reason=\"{reason}\"}}"))
    }

    /// That as many packets as this went no further for this reason, now or soon.
    #[track_caller]
    pub(crate) fn assert_dropped(&self, reason: &str, count: u64) {
        let reached = eventually(|| self.dropped(reason) >= count);
        assert!(
            reached && self.dropped(reason) == count,
            "{}",
            self.metrics()
        );
    }

    /// Allocations that there are.
    pub(crate) fn allocations(&self) -> u64 {
        self.metric("allocations", "")
    }

    /// Everything that it has written so far.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(self.folder.path().join(LOG)).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// That it writes this, now or soon.
    #[track_caller]
    pub(crate) fn assert_says(&self, text: &str) {
        let said = eventually(|| self.log().contains(text));
        assert!(said, "it does not say {text:?}:\n{}", self.log());
    }

    /// Sends a signal, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -{name} {}", self.child.id()))
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Reloads the configuration with `more` in it, which must be accepted.
    #[track_caller]
    pub(crate) fn reload(&mut self, more: &Value) {
        let before = self.metric("reloads_total", "");
        self.write_config(more);
        self.signal("HUP");
        let reloaded = eventually(|| self.metric("reloads_total", "") > before);
        assert!(reloaded, "it is not reloaded:\n{}", self.log());
    }

    /// Puts `more` into the configuration's file.
    pub(crate) fn write_config(&mut self, more: &Value) {
        self.config = merged(&self.config, more);
        self.write_file(&self.config.to_string());
    }

    /// Writes the configuration's file.
    pub(crate) fn write_file(&self, text: &str) {
        fs::write(self.folder.path().join(FILE), text).unwrap();
    }

    /// A certificate as it is renewed: each file changes in one step.
    pub(crate) fn renew_certificate(&self, names: &[&str]) {
        write_certificate(self.folder.path(), &self.authority, names);
    }

    /// Where files of the relay are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How it ended, if it did.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let deadline = now() + PATIENCE;
        loop {
            if let Some(status) = self.has_ended() {
                return status;
            }
            assert!(now() < deadline, "the relay does not end:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Resident memory in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.unwrap().parse().unwrap()
    }

    /// Time on a processor so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = self.proc("stat");
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().unwrap())
            .sum();
        // a hundredth of a second each, on every Linux
        Duration::from_millis(10 * ticks)
    }

    /// How many file descriptors it has.
    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count()
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some((_, metrics)) = self.try_get("/metrics")
        {
            let counted = |line: &&str| !line.starts_with('#') && !line.ends_with(" 0");
            let counts: Vec<_> = metrics.lines().filter(counted).collect();
            eprintln!("--- what the relay counted ---\n{}", counts.join("\n"));
        }
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let from = log.ceil_char_boundary(log.len().saturating_sub(8000));
            eprintln!("--- the relay's log ---\n{}", &log[from..]);
        } else {
            let log = self.log();
            assert!(!log.contains("panicked"), "{log}");
        }
    }
}

const FILE: &str = "turn-relay.yaml";
const LOG: &str = "log";
pub(crate) const CERTIFICATE: &str = "certificate.pem";
pub(crate) const KEY: &str = "key.pem";

/// Writes a new certificate and its key, each in one step.
fn write_certificate(folder: &Path, authority: &Authority, names: &[&str]) {
    write_identity(folder, &authority.server_identity(names).unwrap());
}

fn write_identity(folder: &Path, identity: &Identity) {
    let write = |name: &str, text: &str| {
        let new: PathBuf = folder.join("new");
        stand_ins::write_secret(&new, text).unwrap();
        fs::rename(new, folder.join(name)).unwrap();
    };
    write(CERTIFICATE, &identity.certificate_pem);
    write(KEY, &identity.key_pem);
}

/// One request over a connection of its own.
pub(crate) fn get(mut stream: TcpStream, path: &str) -> Option<(u16, String)> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// One object with the members of another in it, at all depths; null takes a member out.
pub(crate) fn merged(value: &Value, more: &Value) -> Value {
    let (Value::Object(value), Value::Object(more)) = (value, more) else {
        return more.clone();
    };
    let mut members: Map<_, _> = value.clone();
    for (name, member) in more {
        match members.get(name) {
            _ if member.is_null() => {
                members.remove(name);
            }
            Some(old) => {
                let new = merged(old, member);
                members.insert(name.clone(), new);
            }
            None => {
                members.insert(name.clone(), member.clone());
            }
        }
    }
    Value::Object(members)
}
