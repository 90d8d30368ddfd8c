//! A folder with configurations, the services that run by them, and what doctor says.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// What the relay signs with; doctor must never show it.
pub(crate) const SECRET: &str = "a secret that nobody may be shown";

/// A service comes up within this, on a machine that does other things, too.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);
/// How often other ports are tried, when somebody was faster.
const STARTS: usize = 5;

/// Ports that were free a moment ago.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) udp: u16,
    pub(crate) tcp: u16,
    pub(crate) tls: u16,
    pub(crate) http: u16,
    pub(crate) push: u16,
}

impl Ports {
    fn free() -> Self {
        let streams: Vec<_> = (0..4)
            .map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap())
            .collect();
        let port = |index: usize| streams[index].local_addr().unwrap().port();
        let udp = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        Self {
            udp: udp.local_addr().unwrap().port(),
            tcp: port(0),
            tls: port(1),
            http: port(2),
            push: port(3),
        }
    }
}

/// A folder of an installation.
pub(crate) struct Installation {
    folder: TempDir,
    pub(crate) ports: Ports,
    turn: Value,
    roots: Option<PathBuf>,
    children: Vec<Child>,
}

impl Installation {
    /// A relay at `localhost`, with all addresses that this name has; nothing runs yet.
    pub(crate) fn new() -> Self {
        let ports = Ports::free();
        let mut installation = Self {
            folder: tempfile::tempdir().unwrap(),
            ports,
            turn: Value::Null,
            roots: None,
            children: Vec::new(),
        };
        installation.turn = usual(ports);
        installation.write();
        installation
    }

    /// With `more` in turn-relay.yaml. A running relay does not know of it.
    pub(crate) fn with(mut self, more: &Value) -> Self {
        self.change(more);
        self
    }

    pub(crate) fn change(&mut self, more: &Value) {
        merge(&mut self.turn, more);
        self.write();
    }

    /// Has a certificate and its key for TLS, by an authority that doctor's system knows.
    pub(crate) fn with_certificate(mut self, certificate: &str, key: &str, root: &str) -> Self {
        let ports = self.ports;
        let listen: Vec<_> = local().iter().map(|ip| at(*ip, ports.tls)).collect();
        let files = [
            ("cert.pem", certificate),
            ("key.pem", key),
            ("root.pem", root),
        ];
        let [certificate, key, root] = files.map(|(name, text)| {
            let path = self.folder.path().join(name);
            write(&path, text);
            path
        });
        self.roots = Some(root);
        self.with(&json!({
            "listen": {"tls": listen},
            "tls": {"certificate": certificate, "key": key},
        }))
    }

    /// Has a push gateway whose only app needs no provider.
    pub(crate) fn with_push(self) -> Self {
        let config = json!({
            "apps": {"im.example.up": {"type": "unifiedpush", "payload": "opaque"}},
            "http": {"bind_addresses": ["127.0.0.1"], "port": self.ports.push},
        });
        fs::write(self.path("push-gateway.yaml"), config.to_string()).unwrap();
        self
    }

    /// With this turn-relay.yaml and nothing else in it but the certificate.
    pub(crate) fn with_whole(mut self, config: &Value) -> Self {
        let tls = self.turn["tls"].take();
        self.turn = config.clone();
        self.with(&json!({"tls": tls}))
    }

    /// Where doctor finds the authority of the certificate.
    pub(crate) fn roots(&self) -> &Path {
        self.roots.as_deref().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the relay, and the push gateway if there is one.
    pub(crate) fn started(mut self) -> Self {
        self.start("turn", "turn-relay.yaml", self.ports.http);
        if self.path("push-gateway.yaml").exists() {
            self.start("push", "push-gateway.yaml", self.ports.push);
        }
        self
    }

    fn start(&mut self, command: &str, file: &str, http: u16) {
        for _ in 0..STARTS {
            let log = self.path(&format!("{command}.log"));
            let mut child = Command::new(env!("CARGO_BIN_EXE_nocturne"))
                .args([command, "--config"])
                .arg(self.path(file))
                .env_clear()
                .current_dir(self.folder.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(fs::File::create(&log).unwrap())
                .spawn()
                .unwrap();
            let mut waited = Duration::ZERO;
            while waited < PATIENCE && child.try_wait().unwrap().is_none() {
                if is_up(http) {
                    self.children.push(child);
                    return;
                }
                thread::sleep(PAUSE);
                waited += PAUSE;
            }
            let _ = child.kill();
            let _ = child.wait();
            let said = fs::read_to_string(log).unwrap();
            assert!(said.contains("in use"), "it does not come up:\n{said}");
        }
        panic!("others take every port");
    }

    /// What doctor says of this folder.
    pub(crate) fn examine(&self, arguments: &[&str]) -> Report {
        let output = self.doctor(arguments).arg("--json").output().unwrap();
        Report::of(&output)
    }

    /// The command, for this folder, with a short time for each try.
    pub(crate) fn doctor(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nocturne"));
        command
            .args(["doctor", "--config-dir"])
            .arg(self.folder.path())
            .args(arguments)
            .env_clear()
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        if let Some(roots) = &self.roots {
            command.env("SSL_CERT_FILE", roots);
        }
        command
    }

    fn write(&self) {
        // JSON is YAML
        fs::write(self.path("turn-relay.yaml"), self.turn.to_string()).unwrap();
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What doctor found.
pub(crate) struct Report {
    pub(crate) code: i32,
    pub(crate) whole: Value,
    pub(crate) findings: Vec<Value>,
}

impl Report {
    /// What `--json` printed.
    #[track_caller]
    pub(crate) fn of(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        let whole: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error}:\n{text}\n{complaints}"));
        assert!(!text.contains(SECRET), "it shows the secret:\n{text}");
        Self {
            code: output.status.code().unwrap(),
            findings: whole["findings"].as_array().unwrap().clone(),
            whole,
        }
    }

    /// The findings of a topic about what has `subject` in its name.
    pub(crate) fn about(&self, topic: &str, subject: &str) -> Vec<&Value> {
        self.findings
            .iter()
            .filter(|finding| finding["topic"] == topic)
            .filter(|finding| finding["subject"].as_str().unwrap().contains(subject))
            .collect()
    }

    /// That there is a finding about `subject` whose outcome is this and that says this.
    #[track_caller]
    pub(crate) fn assert_says(
        &self,
        topic: &str,
        subject: &str,
        outcome: &str,
        what: &str,
    ) -> &Value {
        let found = self.about(topic, subject).into_iter().find(|finding| {
            finding["outcome"] == outcome && finding["what"].as_str().unwrap().contains(what)
        });
        found.unwrap_or_else(|| {
            panic!(
                "no {outcome} of {topic} about {subject:?} that says {what:?}:\n{:#}",
                self.whole
            )
        })
    }

    /// That it is a failure, which has a reason and this in its remedy; and that the exit code tells.
    #[track_caller]
    pub(crate) fn assert_fails(&self, topic: &str, subject: &str, what: &str, remedy: &str) {
        let finding = self.assert_says(topic, subject, "failure", what);
        let text = |key: &str| finding[key].as_str().unwrap();
        assert!(!text("why").is_empty());
        assert!(text("remedy").contains(remedy), "{finding:#}");
        assert_eq!(self.code, 1);
        assert_eq!(self.whole["sound"], false);
    }

    /// That everything is good or skipped in this topic, and something good.
    #[track_caller]
    pub(crate) fn assert_good(&self, topic: &str) {
        let found = self.about(topic, "");
        assert!(
            found.iter().any(|finding| finding["outcome"] == "good"),
            "{:#}",
            self.whole
        );
        for finding in found {
            let outcome = finding["outcome"].as_str().unwrap();
            assert!(["good", "skipped"].contains(&outcome), "{finding:#}");
        }
    }
}

fn usual(ports: Ports) -> Value {
    let all = |port: u16| -> Vec<_> { local().iter().map(|ip| at(*ip, port)).collect() };
    let own: Vec<_> = local().iter().map(ToString::to_string).collect();
    json!({
        "realm": "localhost",
        "secrets": [SECRET],
        "listen": {"udp": all(ports.udp), "tcp": all(ports.tcp), "tls": []},
        // below the ports that the system gives to whoever asks for any
        "relay": {"addresses": own, "ports": "10000-19999"},
        "http": {"listen": [at("127.0.0.1".parse().unwrap(), ports.http)]},
        "workers": 1,
    })
}

/// The addresses of `localhost` here.
pub(crate) fn local() -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for address in ("localhost", 0).to_socket_addrs().unwrap() {
        if !found.contains(&address.ip()) && UdpSocket::bind((address.ip(), 0)).is_ok() {
            found.push(address.ip());
        }
    }
    assert!(!found.is_empty());
    found
}

fn at(ip: IpAddr, port: u16) -> String {
    SocketAddr::new(ip, port).to_string()
}

fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                let member = into.entry(key).or_insert(Value::Object(Map::new()));
                merge(member, value);
            }
        }
        (into, more) => *into = more.clone(),
    }
}

fn is_up(port: u16) -> bool {
    let answer = || -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream
            .write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    };
    answer().is_some_and(|text| text.starts_with("HTTP/1.1 200"))
}

/// What a program printed.
pub(crate) fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Writes a file that only its owner may read.
pub(crate) fn write(path: &Path, text: &str) {
    stand_ins::write_secret(path, text).unwrap();
}
