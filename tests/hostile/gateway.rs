//! The gateway under attack: the command as it is built, with an app of each type in each payload mode.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use serde_json::{Map, Value, json};
use stand_ins::{Files, KEY_ID, PROJECT_ID, StandIns, TEAM_ID, TOPIC};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    PATIENCE,
    wire::{Answer, Connection},
};

/// The app ID's first part: the provider's type.
pub(crate) const TYPES: [&str; 4] = ["apns", "gcm", "webpush", "unifiedpush"];
/// The app ID's second part: the payload mode.
pub(crate) const MODES: [&str; 3] = ["sygnal", "opaque", "wake"];

/// Providers, and what a gateway needs to use them.
pub(crate) struct World {
    pub(crate) stand_ins: StandIns,
    pub(crate) files: Files,
    folder: TempDir,
    /// What the shell does before it starts the gateway.
    pub(crate) before: &'static str,
}

/// A running gateway; it is gone when this is dropped.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) config: PathBuf,
    child: Child,
    log: PathBuf,
}

impl World {
    pub(crate) async fn new() -> Self {
        let stand_ins = StandIns::start().await.expect("loopback has free ports");
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        let files = stand_ins
            .write_files(folder.path())
            .expect("the folder can be written to");
        Self {
            stand_ins,
            files,
            folder,
            before: "",
        }
    }

    /// The app of a type and a mode.
    pub(crate) fn app(&self, kind: &str, mode: &str) -> Value {
        let mut app = match kind {
            "apns" => json!({
                "endpoint": self.stand_ins.apple.url(),
                "keyfile": self.files.apns_key,
                "key_id": KEY_ID,
                "team_id": TEAM_ID,
                "topic": TOPIC,
            }),
            "gcm" => json!({
                "api_version": "v1",
                "endpoint": self.stand_ins.google.url(),
                "project_id": PROJECT_ID,
                "service_account_file": self.files.service_account,
            }),
            "webpush" => json!({
                "vapid_private_key": self.files.vapid_key,
                "vapid_contact_email": "operator@example.org",
            }),
            _ => json!({}),
        };
        app["type"] = json!(kind);
        app["payload"] = json!(mode);
        app
    }

    /// A configuration with an app `type.mode` of each type in each mode, and `more` in it.
    pub(crate) fn configuration(&self, more: &Value) -> Value {
        let mut apps = Map::new();
        for kind in TYPES {
            for mode in MODES {
                apps.insert(format!("{kind}.{mode}"), self.app(kind, mode));
            }
        }
        let mut configuration = json!({
            "apps": apps,
            "outbound": {"allow_private": ["127.0.0.0/8"]},
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            configuration[name] = value.clone();
        }
        configuration
    }

    pub(crate) async fn gateway(&self, more: &Value) -> Gateway {
        self.gateway_of(self.configuration(more)).await
    }

    /// A gateway with this configuration. It answers `/health` when this returns.
    pub(crate) async fn gateway_of(&self, mut configuration: Value) -> Gateway {
        // somebody may take the port in between: then another one is tried
        for attempt in 0..5 {
            let address = free_address();
            configuration["http"] =
                json!({"bind_addresses": [address.ip().to_string()], "port": address.port()});
            let name = format!("gateway-{}-{attempt}", address.port());
            let config = self.folder.path().join(format!("{name}.yaml"));
            let log = self.folder.path().join(format!("{name}.log"));
            // JSON is YAML
            fs::write(&config, configuration.to_string()).expect("the folder can be written to");
            let output = fs::File::create(&log).expect("the folder can be written to");
            let child = Command::new("sh")
                .args(["-c", &format!(r#"{}exec "$0" "$@""#, self.before)])
                .arg(env!("CARGO_BIN_EXE_nocturne"))
                .env_clear()
                .env("SSL_CERT_FILE", &self.files.ca)
                .env("RUST_LOG", "trace")
                .args(["push", "--config"])
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(output)
                .spawn()
                .expect("the command starts");
            let mut gateway = Gateway {
                address,
                config,
                child,
                log,
            };
            if gateway.comes_up().await {
                return gateway;
            }
            let log = gateway.log();
            assert!(log.contains("another program"), "it does not start: {log}");
        }
        panic!("no free port");
    }
}

impl Gateway {
    async fn comes_up(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.has_ended().is_some() {
                return false;
            }
            if let Ok(Some(answer)) = self.ask(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await
                && answer.status == 200
            {
                return true;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("the gateway never got ready: {}", self.log());
    }

    /// Sends bytes on a connection of their own and reads one answer; none: it was closed.
    pub(crate) async fn ask(&self, bytes: &[u8]) -> std::io::Result<Option<Answer>> {
        let mut connection = Connection::open(self.address).await?;
        connection.send(bytes).await?;
        connection.answer().await
    }

    /// Posts a notification and reads the answer, which must come.
    pub(crate) async fn notify(&self, body: &Value) -> Answer {
        self.ask(&crate::wire::post(body.to_string().as_bytes()))
            .await
            .expect("the gateway answers")
            .expect("the gateway answers")
    }

    /// How it ended, if it did.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child is ours")
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.has_ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.log());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status()
            .expect("there is a kill");
        assert!(status.success(), "the gateway is not there any more");
    }

    /// What it has written so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Resident memory in KiB, where the system tells.
    pub(crate) fn resident(&self) -> Option<u64> {
        self.memory("VmRSS:")
    }

    /// The most that it ever was.
    pub(crate) fn most_resident(&self) -> Option<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, which: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(which))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// That it runs, never panicked, and wrote down nothing of what was in `secrets`.
    pub(crate) fn assert_sound<'a>(&mut self, secrets: impl IntoIterator<Item = &'a str>) {
        assert_eq!(self.has_ended(), None, "the gateway ended: {}", self.log());
        self.assert_discreet(secrets);
    }

    /// That it never panicked, and wrote down nothing of what was in `secrets`, not even in part.
    pub(crate) fn assert_discreet<'a>(&self, secrets: impl IntoIterator<Item = &'a str>) {
        /// So much of a secret is a part of it.
        const PART: usize = 8;

        let log = self.log();
        for word in ["panicked", "a fault in the gateway", "overflow"] {
            assert!(!log.contains(word), "{word}: {log}");
        }
        let parts: std::collections::HashSet<&[u8]> = secrets
            .into_iter()
            .flat_map(|secret| secret.as_bytes().windows(PART))
            .collect();
        for line in log.lines() {
            let told = line
                .as_bytes()
                .windows(PART)
                .find(|part| parts.contains(part));
            assert_eq!(told.map(String::from_utf8_lossy), None, "{line}");
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
            let from = log.ceil_char_boundary(log.len().saturating_sub(4000));
            eprintln!("--- the end of what the gateway wrote:\n{}", &log[from..]);
        }
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("loopback has free ports")
}
