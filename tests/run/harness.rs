//! Both services on loopback, and what can be seen of them from outside.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use shared::clock::Clock;
use stand_ins::Authority;
use tempfile::TempDir;

/// How long a test waits for what has to come. Never reached on a machine that is not stuck.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The first pause of tests in which services are started again: the others follow from it.
pub(crate) const SHORT: &str = "10";

pub(crate) const PUSH: &str = "push-gateway.yaml";
pub(crate) const TURN: &str = "turn-relay.yaml";
const LOG: &str = "log";
const PROGRAM: &str = "nocturne";

/// What is to be run.
pub(crate) struct Setup {
    folder: TempDir,
    environment: Vec<(String, String)>,
    first_pause: &'static str,
    arguments: &'static [&'static str],
    /// Whether the program is a file of this test's own.
    has_own_program: bool,
    /// Where both answer `/health`.
    push: SocketAddr,
    turn: SocketAddr,
}

/// A running supervisor. Dropped: killed, and its children with it.
pub(crate) struct Run {
    child: Child,
    folder: TempDir,
    pub(crate) push: SocketAddr,
    pub(crate) turn: SocketAddr,
}

impl Setup {
    /// Good configurations of both services.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = folder.path().join("authorities.pem");
        fs::write(&authority, Authority::new().unwrap().pem()).unwrap();
        let setup = Self {
            environment: vec![("SSL_CERT_FILE".to_owned(), text(&authority))],
            folder,
            first_pause: "250",
            arguments: &[],
            has_own_program: false,
            push: free_address(),
            turn: free_address(),
        };
        fs::create_dir(setup.configurations()).unwrap();
        setup.write(PUSH, &setup.push_configuration());
        setup.write(TURN, &setup.turn_configuration());
        setup
    }

    pub(crate) fn push_configuration(&self) -> Value {
        push_configuration(self.push)
    }

    pub(crate) fn turn_configuration(&self) -> Value {
        json!({
            "realm": "turn.example.org",
            "secrets": ["a secret that is long enough"],
            "listen": {"udp": ["127.0.0.1:0"], "tcp": [], "tls": []},
            "relay": {"addresses": ["127.0.0.1"]},
            "http": {"listen": [self.turn.to_string()]},
            "workers": 1,
        })
    }

    /// With pauses as short as this, in milliseconds.
    pub(crate) fn with_first_pause(mut self, milliseconds: &'static str) -> Self {
        self.first_pause = milliseconds;
        self
    }

    pub(crate) fn with_arguments(mut self, arguments: &'static [&'static str]) -> Self {
        self.arguments = arguments;
        self
    }

    /// With a copy of the program that the test may replace.
    pub(crate) fn with_own_program(mut self) -> Self {
        self.has_own_program = true;
        self
    }

    pub(crate) fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn configurations(&self) -> PathBuf {
        self.folder.path().join("configurations")
    }

    /// JSON is YAML.
    pub(crate) fn write(&self, file: &str, configuration: &Value) {
        fs::write(self.configurations().join(file), configuration.to_string()).unwrap();
    }

    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.configurations().join(file)).unwrap();
    }

    /// Starts it. All that have a configuration serve when this returns.
    pub(crate) fn start(mut self) -> Run {
        // a port that was free a moment ago may be taken: by then another one is tried
        for _ in 0..5 {
            let wanted: Vec<_> = [(PUSH, "push"), (TURN, "turn")]
                .into_iter()
                .filter(|(file, _)| self.configurations().join(file).exists())
                .map(|(_, service)| service)
                .collect();
            let mut run = self.spawn();
            let came_up = eventually(|| {
                wanted.iter().all(|service| run.ready(service).is_some())
                    || run.has_ended().is_some()
            });
            assert!(came_up, "{}", run.log());
            if run.has_ended().is_none() {
                return run;
            }
            assert!(run.log().to_lowercase().contains("in use"), "{}", run.log());
            let again = Self::new();
            self = Self {
                environment: self.environment,
                first_pause: self.first_pause,
                arguments: self.arguments,
                has_own_program: self.has_own_program,
                ..again
            };
        }
        panic!("no free port found");
    }

    /// Starts it and waits for nothing.
    pub(crate) fn spawn(&mut self) -> Run {
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        let mut program = PathBuf::from(env!("CARGO_BIN_EXE_nocturne"));
        if self.has_own_program {
            let own = folder.path().join(PROGRAM);
            fs::copy(program, &own).unwrap();
            program = own;
        }
        let child = Command::new(program)
            .args(["run", "--first-pause", self.first_pause, "--config-dir"])
            .arg(folder.path().join("configurations"))
            .args(self.arguments)
            .env_clear()
            .envs(self.environment.iter().cloned())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(
                fs::File::options()
                    .create(true)
                    .append(true)
                    .open(folder.path().join(LOG))
                    .unwrap(),
            )
            .spawn()
            .unwrap();
        Run {
            child,
            folder,
            push: self.push,
            turn: self.turn,
        }
    }
}

fn push_configuration(address: SocketAddr) -> Value {
    json!({
        "http": {"port": address.port(), "bind_addresses": ["127.0.0.1"]},
        "apps": {"org.example.app": {"type": "unifiedpush", "payload": "opaque"}},
    })
}

impl Run {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where a service answers `/health`.
    pub(crate) fn address(&self, service: &str) -> SocketAddr {
        if service == "push" {
            self.push
        } else {
            self.turn
        }
    }

    /// The process of a service that serves; none if the last one started does not (yet).
    pub(crate) fn ready(&self, service: &str) -> Option<u32> {
        let said = |message: &str| {
            let lines = self.lines();
            let mut pids = lines
                .iter()
                .rev()
                .filter(|line| line["message"] == message && line["service"] == service)
                .map(|line| line["pid"].as_u64().unwrap());
            pids.next()
        };
        let pid = said("ready").filter(|pid| said("started") == Some(*pid))?;
        Some(u32::try_from(pid).unwrap())
    }

    /// The process of a service that serves, now or soon, and is another than `before`.
    #[track_caller]
    pub(crate) fn next_ready(&self, service: &str, before: Option<u32>) -> u32 {
        let mut found = None;
        eventually(|| {
            found = self.ready(service).filter(|pid| Some(*pid) != before);
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("{service} does not come up:\n{}", self.log()))
    }

    /// The lines of the log that are JSON.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let log = self.log();
        log.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Everything that all three have written so far.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(self.folder.path().join(LOG)).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How many lines have this in them.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains(text))
            .count()
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        fs::write(self.configuration(file), text).unwrap();
    }

    /// Puts another file in the place of one.
    pub(crate) fn replace(&self, file: &str, text: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.configuration(file)).unwrap();
    }

    /// The test's own copy of the program.
    pub(crate) fn program(&self) -> PathBuf {
        self.folder.path().join(PROGRAM)
    }

    /// Puts another copy in its place.
    pub(crate) fn replace_program(&self) {
        let new = self.folder.path().join("nocturne.new");
        fs::copy(env!("CARGO_BIN_EXE_nocturne"), &new).unwrap();
        fs::rename(new, self.program()).unwrap();
    }

    pub(crate) fn configuration(&self, file: &str) -> PathBuf {
        self.folder.path().join("configurations").join(file)
    }

    /// Sends the supervisor a signal, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        kill(name, self.pid());
    }

    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until the supervisor has ended.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        eventually(|| {
            status = self.has_ended();
            status.is_some()
        });
        status.unwrap_or_else(|| panic!("it does not end:\n{}", self.log()))
    }

    /// All processes that have this test's folder in their command line: supervisor and services.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let folder = text(self.folder.path());
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
            .filter(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).contains(&folder)
            })
            .collect()
    }

    /// That nothing is left of the supervisor and its children, now or soon.
    #[track_caller]
    pub(crate) fn assert_nothing_is_left(&self) {
        let gone = eventually(|| self.processes().is_empty());
        assert!(gone, "{:?} are left:\n{}", self.processes(), self.log());
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the log ---\n{}", self.log());
        } else {
            self.assert_nothing_is_left();
            assert!(!self.log().contains("panicked"), "{}", self.log());
        }
    }
}

/// Where systemd would be told.
pub(crate) struct Systemd {
    socket: UnixDatagram,
    pub(crate) path: PathBuf,
    _folder: TempDir,
}

impl Systemd {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            path,
            _folder: folder,
        }
    }

    /// Waits for this word, and gives the message that it is in. Words of `others` may come before it.
    #[track_caller]
    pub(crate) fn hears(&self, wanted: &str, others: &[&str]) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("before {wanted}: {error}"),
            };
            let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
            if message.lines().any(|line| line.starts_with(wanted)) {
                return message;
            }
            let expected = |line: &str| others.iter().any(|other| line.starts_with(other));
            assert!(message.lines().all(expected), "before {wanted}: {message}");
        }
    }
}

/// Runs the command to its end in `folder`.
pub(crate) fn nocturne(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_nocturne"))
        .args(arguments)
        .env_clear()
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.stdout.is_empty());
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

pub(crate) fn kill(signal: &str, pid: u32) {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -{signal} {pid}")])
        .status()
        .unwrap();
    assert!(status.success(), "{signal} to {pid}");
}

/// Whether `/health` is answered with 200.
pub(crate) fn is_healthy(address: SocketAddr) -> bool {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    asked().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
}

/// Asks again and again until the answer is yes; false if it stays no.
pub(crate) fn eventually(mut question: impl FnMut() -> bool) -> bool {
    let deadline = now() + PATIENCE;
    loop {
        if question() {
            return true;
        }
        if now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn now() -> Instant {
    Clock::system().now()
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// An address that nothing uses, for TCP and UDP: below the ports that outgoing connections get.
fn free_address() -> SocketAddr {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let of_this_process = u16::try_from(std::process::id() % 100).unwrap();
    for _ in 0..1000 {
        let port = 20_000 + of_this_process * 100 + TAKEN.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port is free");
}
