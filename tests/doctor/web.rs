//! Web servers on loopback that answer as a test says, and `nocturne doctor` that asks them.

use std::{
    fmt::Write as _,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;
use shared::clock::Clock;
use stand_ins::Authority;
use tempfile::TempDir;

/// How long a test waits for what has to come. Never reached on a machine that is not stuck.
const PATIENCE: Duration = Duration::from_mins(1);

/// What was asked.
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
}

/// What is answered.
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
    /// By how many seconds the server's clock is ahead; none: it says no time.
    pub(crate) ahead: Option<i64>,
}

/// A server. Dropped: closed.
pub(crate) struct Web {
    address: SocketAddr,
    is_tls: bool,
    is_over: Arc<AtomicBool>,
}

type Pages = Arc<dyn Fn(&Asked) -> Option<Page> + Send + Sync>;

impl Page {
    pub(crate) fn new(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            ahead: Some(0),
        }
    }

    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::new(status, body.to_string()).with("content-type", "application/json")
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// A Matrix error.
    pub(crate) fn error(status: u16, errcode: &str) -> Self {
        Self::json(
            status,
            &serde_json::json!({"errcode": errcode, "error": "as it is"}),
        )
    }
}

impl Web {
    /// HTTP. A page that is none is never answered.
    pub(crate) fn start(pages: impl Fn(&Asked) -> Option<Page> + Send + Sync + 'static) -> Self {
        Self::serve(None, Arc::new(pages))
    }

    /// HTTPS, with a certificate of the authority's for 127.0.0.1.
    pub(crate) fn start_tls(
        authority: &Authority,
        pages: impl Fn(&Asked) -> Option<Page> + Send + Sync + 'static,
    ) -> Self {
        let tls = authority.server_config(&[], &[b"http/1.1"]).unwrap();
        Self::serve(Some(tls), Arc::new(pages))
    }

    fn serve(tls: Option<Arc<rustls::ServerConfig>>, pages: Pages) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let web = Self {
            address: listener.local_addr().unwrap(),
            is_tls: tls.is_some(),
            is_over: Arc::clone(&is_over),
        };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let (tls, pages) = (tls.clone(), Arc::clone(&pages));
                thread::spawn(move || {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    // who hangs up is not this server's matter
                    let _ = match tls {
                        None => answer(stream, &*pages),
                        Some(tls) => rustls::ServerConnection::new(tls)
                            .map_err(io::Error::other)
                            .and_then(|connection| {
                                answer(rustls::StreamOwned::new(connection, stream), &*pages)
                            }),
                    };
                });
            }
        });
        web
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// `127.0.0.1:` and the port.
    pub(crate) fn name(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// One request, and the end of the connection.
fn answer(mut stream: impl Read + Write, pages: &dyn Fn(&Asked) -> Option<Page>) -> io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 || head.len() > 16 * 1024 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let asked = Asked {
        path: head.split(' ').nth(1).unwrap_or_default().to_owned(),
        authorization: head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("authorization")
                .then(|| value.to_owned())
        }),
    };
    let Some(page) = pages(&asked) else {
        // until the other side gives up
        while stream.read(&mut byte)? > 0 {}
        return Ok(());
    };
    let mut text = format!("HTTP/1.1 {} As It Is\r\nconnection: close\r\n", page.status);
    if let Some(ahead) = page.ahead {
        let now = Clock::system().wall();
        let by = Duration::from_secs(ahead.unsigned_abs());
        let date = if ahead < 0 { now - by } else { now + by };
        let _ = write!(text, "date: {}\r\n", httpdate::fmt_http_date(date));
    }
    for (name, value) in &page.headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    let _ = write!(
        text,
        "content-length: {}\r\n\r\n{}",
        page.body.len(),
        page.body
    );
    stream.write_all(text.as_bytes())?;
    stream.flush()
}

/// `nocturne doctor` with a folder of configurations.
pub(crate) struct Doctor {
    folder: TempDir,
    environment: Vec<(&'static str, String)>,
    timeout: u16,
}

/// What it found.
pub(crate) struct Report {
    pub(crate) json: Value,
    /// Standard output and standard error.
    pub(crate) printed: String,
}

impl Doctor {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            environment: Vec::new(),
            timeout: 30,
        }
    }

    /// Trusts the authority, too.
    pub(crate) fn trusting(self, authority: &Authority) -> Self {
        let path = self.write("ca.pem", authority.pem());
        self.with("SSL_CERT_FILE", path)
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Gives each try so many seconds.
    pub(crate) fn hurried(mut self, timeout: u16) -> Self {
        self.timeout = timeout;
        self
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file that only its owner may read, and says where.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Report {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nocturne"));
        command
            .args(["doctor", "--json", "--timeout", &self.timeout.to_string()])
            .arg("--config-dir")
            .arg(self.folder.path())
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let printed = text(&output.stdout) + &text(&output.stderr);
        let json: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error} in:\n{printed}"));
        assert_eq!(output.status.success(), json["sound"] == true, "{printed}");
        Report { json, printed }
    }

    /// As [`Doctor::run`], from a task.
    pub(crate) async fn run_aside(self, arguments: Vec<String>) -> Report {
        tokio::task::spawn_blocking(move || {
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            self.run(&arguments)
        })
        .await
        .unwrap()
    }
}

impl Report {
    /// The findings of a topic.
    pub(crate) fn of(&self, topic: &str) -> Vec<&Value> {
        let findings = self.json["findings"].as_array().unwrap();
        findings
            .iter()
            .filter(|finding| finding["topic"] == topic)
            .collect()
    }

    /// Checks that there is one finding of the topic that says `what`, and that it has this outcome. Gives the finding.
    #[track_caller]
    pub(crate) fn says(&self, topic: &str, outcome: &str, what: &str) -> &Value {
        let found: Vec<_> = self
            .of(topic)
            .into_iter()
            .filter(|finding| finding["what"].as_str().unwrap().contains(what))
            .collect();
        let [finding] = found[..] else {
            panic!("{} findings say {what:?}:\n{}", found.len(), self.printed);
        };
        assert_eq!(finding["outcome"], outcome, "{finding}");
        let is_told = |key: &str| finding[key].as_str().is_some_and(|text| !text.is_empty());
        assert!(is_told("subject"), "{finding}");
        assert_eq!(
            is_told("why"),
            matches!(outcome, "warning" | "failure"),
            "{finding}"
        );
        assert_eq!(is_told("remedy"), outcome != "good", "{finding}");
        finding
    }

    /// Checks that nothing of the topic is worse than good.
    #[track_caller]
    pub(crate) fn is_all_good(&self, topic: &str) {
        let findings = self.of(topic);
        assert!(!findings.is_empty(), "{}", self.printed);
        for finding in findings {
            assert_eq!(finding["outcome"], "good", "{finding}");
        }
    }

    /// Checks that none of these is anywhere in what was printed.
    #[track_caller]
    pub(crate) fn hides(&self, secrets: &[&str]) {
        for secret in secrets {
            assert!(
                !self.printed.contains(secret),
                "{secret} is in:\n{}",
                self.printed
            );
        }
    }
}
