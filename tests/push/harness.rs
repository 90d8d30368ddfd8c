//! Starts the gateway as an operator does and talks to it as a homeserver does.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Map, Value, json};
use stand_ins::{
    Files, KEY_ID, PROJECT_ID, StandIns, TEAM_ID, TOPIC,
    homeserver::{Answer, Homeserver, NOTIFY_PATH},
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// How long a test waits for what has to come. Never reached on a machine that is not stuck.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// An app of type `apns`.
pub(crate) const APNS: &str = "com.example.apns";
/// An app of type `gcm`.
pub(crate) const FCM: &str = "com.example.gcm";
/// An app of type `webpush`.
pub(crate) const WEB: &str = "com.example.web";
/// An app of type `unifiedpush`.
pub(crate) const UP: &str = "com.example.up";

/// Sygnal's favourite pushkey, and what APNs is asked for because of it.
pub(crate) const PUSHKEY: &str = "spqr";
pub(crate) const PUSHKEY_HEX: &str = "b29aab";

/// Providers, the files that a gateway needs to use them, and a directory for its configuration.
pub(crate) struct World {
    pub(crate) stand_ins: StandIns,
    pub(crate) files: Files,
    directory: TempDir,
}

/// A running gateway. Dropped: killed.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) config: PathBuf,
    metrics: SocketAddr,
    log: Arc<Mutex<String>>,
}

/// What a gateway is started with besides its apps.
#[derive(Default)]
pub(crate) struct Options {
    /// Top-level members of the configuration, replacing the harness's own.
    pub(crate) config: Value,
    /// Environment variables.
    pub(crate) environment: Vec<(String, String)>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let stand_ins = StandIns::start().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let files = stand_ins.write_files(directory.path()).unwrap();
        Self {
            stand_ins,
            files,
            directory,
        }
    }

    /// Where files for the gateway may be put.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// An APNs app that sends what Sygnal sends.
    pub(crate) fn apns(&self) -> Value {
        json!({
            "type": "apns",
            "keyfile": self.files.apns_key,
            "key_id": KEY_ID,
            "team_id": TEAM_ID,
            "topic": TOPIC,
            "endpoint": self.stand_ins.apple.url(),
            "payload": "sygnal",
        })
    }

    /// An FCM app that sends what Sygnal sends.
    pub(crate) fn fcm(&self) -> Value {
        json!({
            "type": "gcm",
            "api_version": "v1",
            "project_id": PROJECT_ID,
            "service_account_file": self.files.service_account,
            "endpoint": self.stand_ins.google.url(),
            "payload": "sygnal",
        })
    }

    /// A Web Push app that sends what Sygnal sends.
    pub(crate) fn web_push(&self) -> Value {
        json!({
            "type": "webpush",
            "vapid_private_key": self.files.vapid_key,
            "vapid_contact_email": "push@example.org",
            "payload": "sygnal",
        })
    }

    /// A UnifiedPush app.
    #[expect(clippy::unused_self, reason = "reads like its siblings")]
    pub(crate) fn unified_push(&self) -> Value {
        json!({ "type": "unifiedpush" })
    }

    /// A gateway with these apps.
    pub(crate) async fn gateway(&self, apps: Value) -> Gateway {
        self.gateway_with(apps, Options::default()).await
    }

    /// A gateway with one app of each kind, by the names above.
    pub(crate) async fn gateway_with_all(&self) -> Gateway {
        self.gateway(self.all_apps()).await
    }

    pub(crate) fn all_apps(&self) -> Value {
        json!({
            APNS: self.apns(),
            FCM: self.fcm(),
            WEB: self.web_push(),
            UP: self.unified_push(),
        })
    }

    /// A gateway with these apps and more. It answers `/health` when this returns.
    pub(crate) async fn gateway_with(&self, apps: Value, options: Options) -> Gateway {
        // a port that was free a moment ago may be taken: by then another one is tried
        for _ in 0..5 {
            let ports = free_ports();
            let config = self.write_config(&apps, &options, ports);
            let mut gateway = self.spawn(config, &options, ports, &[]);
            if gateway.comes_up().await {
                return gateway;
            }
            assert!(
                gateway.log().to_lowercase().contains("in use"),
                "the gateway does not start:\n{}",
                gateway.log()
            );
        }
        panic!("no free port found");
    }

    /// What a gateway that refuses to start says on standard error, and its exit status.
    pub(crate) async fn refusal(&self, apps: Value, options: Options) -> (ExitStatus, String) {
        let ports = free_ports();
        let config = self.write_config(&apps, &options, ports);
        let mut gateway = self.spawn(config, &options, ports, &[]);
        let status = gateway.ended().await;
        // the thread that reads its output may be behind
        let deadline = Instant::now() + Duration::from_secs(5);
        while gateway.log().is_empty() && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
        (status, gateway.log())
    }

    fn write_config(&self, apps: &Value, options: &Options, ports: (u16, u16)) -> PathBuf {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let config = merged(
            json!({
                "http": { "port": ports.0, "bind_addresses": ["127.0.0.1"] },
                "metrics": { "prometheus": {
                    "enabled": true, "address": "127.0.0.1", "port": ports.1,
                }},
                "outbound": { "allow_private": ["127.0.0.0/8"] },
                "limits": { "request_budget": "5s" },
                "log": { "level": "trace" },
                "apps": apps,
            }),
            &options.config,
        );
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.directory().join(format!("sygnal-{number}.yaml"));
        fs::write(&path, yaml(&config)).unwrap();
        path
    }

    /// A gateway that takes over from another one. It serves when this returns.
    pub(crate) async fn beside(&self, other: &Gateway) -> Gateway {
        let ports = (other.address.port(), other.metrics.port());
        let config = other.config.clone();
        let mut gateway = self.spawn(config, &Options::default(), ports, &["--beside"]);
        let serves = eventually(async || {
            gateway.child.try_wait().unwrap().is_some() || gateway.log().contains("listening")
        });
        assert!(serves.await && gateway.child.try_wait().unwrap().is_none());
        gateway
    }

    fn spawn(
        &self,
        config: PathBuf,
        options: &Options,
        ports: (u16, u16),
        arguments: &[&str],
    ) -> Gateway {
        let mut command = self.command();
        command.args(["push", "--config"]).arg(&config);
        command.args(arguments);
        for (name, value) in &options.environment {
            command.env(name, value);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&log);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                let mut log = written.lock().unwrap();
                log.push_str(&String::from_utf8_lossy(&line));
                log.push('\n');
            }
        });
        Gateway {
            child,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, ports.0)),
            metrics: SocketAddr::from((Ipv4Addr::LOCALHOST, ports.1)),
            config,
            log,
        }
    }

    /// The command `nocturne` in a clean environment that trusts the stand-ins' certificates.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nocturne"));
        command
            .env_clear()
            .env("SSL_CERT_FILE", &self.files.ca)
            .current_dir(self.directory());
        command
    }
}

/// Runs a command to its end without holding up the stand-ins.
pub(crate) async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

impl Gateway {
    pub(crate) fn homeserver(&self) -> Homeserver {
        Homeserver::new(self.address)
    }

    /// Posts a notification.
    pub(crate) async fn notify(&self, body: &Value) -> Answer {
        self.homeserver().notify(body).await.unwrap()
    }

    /// Posts anything to the notify route.
    pub(crate) async fn post(&self, body: impl Into<Bytes>) -> Answer {
        self.request(Method::POST, NOTIFY_PATH, body).await
    }

    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Answer {
        self.homeserver()
            .request(method, path, HeaderMap::new(), body.into())
            .await
            .unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, "").await
    }

    /// The metrics page.
    pub(crate) async fn metrics(&self) -> String {
        let answer = Homeserver::new(self.metrics)
            .request(Method::GET, "/metrics", HeaderMap::new(), Bytes::new())
            .await
            .unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        answer.text()
    }

    /// The sum over all lines of one metric that have all these labels; none if there is no line.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Vec<_> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{value}\""))
            .collect();
        let mut sum = None;
        for line in self.metrics().await.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let of_name = series == name || series.starts_with(&format!("{name}{{"));
            if of_name && wanted.iter().all(|label| series.contains(label)) {
                sum = Some(sum.unwrap_or(0.0) + value.parse::<f64>().unwrap());
            }
        }
        sum
    }

    /// Everything that it has written to standard error so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
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

    /// Waits for the process to end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the gateway does not end:\n{}",
                self.log()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn comes_up(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            let health = self
                .homeserver()
                .request(Method::GET, "/health", HeaderMap::new(), Bytes::new())
                .await;
            // somebody else's server may have got the port in between, this one then ends
            if health.is_ok_and(|answer| answer.status == StatusCode::OK) {
                return true;
            }
            assert!(
                Instant::now() < deadline,
                "the gateway does not answer:\n{}",
                self.log()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(8000);
            let from = log.ceil_char_boundary(from);
            eprintln!("--- the gateway's log ---\n{}", &log[from..]);
        }
    }
}

/// Asks again and again until the answer is yes; false if it stays no.
pub(crate) async fn eventually(mut question: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if question().await {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// The object with the members of another put over its own.
pub(crate) fn merged(mut value: Value, more: &Value) -> Value {
    let target = value.as_object_mut().unwrap();
    for (name, member) in more.as_object().unwrap_or(&Map::new()) {
        target.insert(name.clone(), member.clone());
    }
    value
}

/// The same notification about another event, so that it is not taken for a retry.
pub(crate) fn fresh(mut body: Value) -> Value {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    body["notification"]["event_id"] = Value::from(format!("$fresh-{number}:example.com"));
    body
}

/// The notification with other values in it; null takes a member out.
pub(crate) fn changed(mut body: Value, members: &Value) -> Value {
    let notification = body["notification"].as_object_mut().unwrap();
    for (name, member) in members.as_object().unwrap() {
        if member.is_null() {
            notification.remove(name);
        } else {
            notification.insert(name.clone(), member.clone());
        }
    }
    body
}

/// Checks that an answer is a Matrix error object, and gives its `errcode`.
pub(crate) fn errcode(answer: &Answer) -> String {
    let content_type = answer.headers["content-type"].to_str().unwrap();
    assert!(
        content_type.starts_with("application/json"),
        "{content_type}"
    );
    let body = answer.json();
    assert!(body["error"].is_string(), "{body}");
    let errcode = body["errcode"].as_str().unwrap();
    assert!(errcode.starts_with("M_"), "{body}");
    errcode.to_owned()
}

/// Checks that all is well and that these pushkeys, in this order, are rejected.
pub(crate) fn assert_rejected(answer: &Answer, pushkeys: &[&str]) {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.json(), json!({ "rejected": pushkeys }));
}

/// Block-style YAML, as people write it, of a JSON value.
fn yaml(value: &Value) -> String {
    let mut text = String::new();
    write_yaml(value, 0, &mut text);
    text
}

fn write_yaml(value: &Value, depth: usize, text: &mut String) {
    let Value::Object(members) = value else {
        text.push(' ');
        text.push_str(&value.to_string());
        text.push('\n');
        return;
    };
    if members.is_empty() {
        text.push_str(" {}\n");
        return;
    }
    if depth > 0 {
        text.push('\n');
    }
    for (name, member) in members {
        let name = Value::from(name.as_str());
        text.push_str(&"  ".repeat(depth));
        text.push_str(&name.to_string());
        text.push(':');
        write_yaml(member, depth + 1, text);
    }
}

/// Two that are not the same.
fn free_ports() -> (u16, u16) {
    let [one, other] = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    (port(&one), port(&other))
}
