//! Starts the relay as an operator does.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use shared::clock::Clock;
use tempfile::TempDir;

use crate::client::Client;

/// How long a test waits for what has to come. Never reached on a machine that is not stuck.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) const REALM: &str = "turn.example.org";
pub(crate) const SECRET: &str = "a secret of the tests";

/// The configuration of a relay on loopback whose clients may reach loopback; on lines 1 to 7.
const CONFIG: &str = "\
realm: turn.example.org
secrets_file: DIR/secrets
listen: {udp: '127.0.0.1:0', tcp: [], tls: []}
relay: {addresses: 127.0.0.1, ports: 20000-29999}
peers: {allow: 127.0.0.0/8}
http: {listen: '127.0.0.1:0'}
log: {format: json, level: trace}
";

/// A running relay. Dropped: killed.
pub(crate) struct Relay {
    child: Child,
    directory: TempDir,
    log: Arc<Mutex<String>>,
    pub(crate) udp: SocketAddr,
    pub(crate) http: SocketAddr,
}

impl Relay {
    pub(crate) fn start() -> Self {
        Self::start_with("", &[])
    }

    /// With more lines in the configuration, and environment variables.
    pub(crate) fn start_with(more: &str, environment: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), more, environment)
    }

    /// With its files in a folder that may have some already.
    pub(crate) fn start_in(directory: TempDir, more: &str, environment: &[(&str, &str)]) -> Self {
        write_secret(&directory.path().join("secrets"), SECRET);
        let config = write_config(directory.path(), more);
        let mut child = nocturne(&["turn", "--config", config.to_str().unwrap()])
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in stderr.lines().map_while(Result::ok) {
                    writeln!(log.lock().unwrap(), "{line}").unwrap();
                }
            }
        });
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut relay = Self {
            child,
            directory,
            log,
            udp: any,
            http: any,
        };
        let mut listening = None;
        relay.wait_for("the relay comes up", |relay| {
            listening = relay
                .address_of("listening")
                .zip(relay.address_of("serving health and metrics"));
            listening.is_some()
        });
        (relay.udp, relay.http) = listening.unwrap();
        relay
    }

    fn address_of(&self, message: &str) -> Option<SocketAddr> {
        self.lines()
            .iter()
            .find(|line| line["message"] == message)
            .and_then(|line| line["address"].as_str()?.parse().ok())
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.udp, SECRET)
    }

    pub(crate) fn client_with(&self, secret: &str) -> Client {
        Client::new(self.udp, secret)
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Puts another configuration in the place of the first.
    pub(crate) fn configure(&self, more: &str) {
        write_config(self.directory(), more);
    }

    pub(crate) fn set_secret(&self, secrets: &str) {
        write_secret(&self.directory().join("secrets"), secrets);
    }

    /// Everything that was logged.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        let log = self.log();
        log.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Whether a line of that level says that.
    pub(crate) fn has_logged(&self, level: &str, text: &str) -> bool {
        self.lines().iter().any(|line| {
            line["level"] == level
                && line["message"]
                    .as_str()
                    .is_some_and(|message| message.contains(text))
        })
    }

    /// Status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.request("GET", path)
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        (status, body.to_owned())
    }

    /// The value of one line of the metrics.
    pub(crate) fn metric(&self, line: &str) -> u64 {
        let (_, metrics) = self.get("/metrics");
        metrics
            .lines()
            .find_map(|found| found.strip_prefix(line)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("no {line} in:\n{metrics}"))
            .parse()
            .unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Sends SIGHUP and waits until it is carried out or refused.
    pub(crate) fn reload(&mut self) {
        let done = |relay: &Self| {
            relay.metric("nocturne_turn_reloads_total")
                + relay.metric("nocturne_turn_failed_reloads_total")
        };
        let before = done(self);
        self.signal("HUP");
        self.wait_for("the reload is done", |relay| done(relay) > before);
    }

    /// Waits until the process ends by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        self.wait_for("the relay ends", |relay| {
            status = relay.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn wait_for(&mut self, what: &str, mut question: impl FnMut(&mut Self) -> bool) {
        let give_up = now() + PATIENCE;
        while !question(self) {
            assert!(
                now() < give_up,
                "{what}: not after {PATIENCE:?}\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, without anything of this process's environment.
pub(crate) fn nocturne(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nocturne"));
    command
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// The configuration of a relay on loopback, with more lines.
pub(crate) fn write_config(directory: &Path, more: &str) -> PathBuf {
    let path = directory.join("turn-relay.yaml");
    // a key that is in both is the one that is added
    let added: Vec<_> = more
        .lines()
        .filter_map(|line| line.split(':').next())
        .collect();
    let mut text: String = CONFIG
        .lines()
        .filter(|line| !added.iter().any(|key| line.split(':').next() == Some(key)))
        .fold(String::new(), |text, line| text + line + "\n");
    text += more;
    fs::write(&path, text.replace("DIR", directory.to_str().unwrap())).unwrap();
    path
}

pub(crate) fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A peer on loopback.
pub(crate) fn peer() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub(crate) fn now() -> Instant {
    Clock::system().now()
}
