//! Everybody who takes part: a homeserver, the relay with its credential service, and two people.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::OnceLock,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};
use shared::{
    clock::Clock,
    environment::Environment,
    lifecycle::{self, ShutdownTrigger},
    random::Random,
    telemetry::{self, Record},
};
use stand_ins::{Authority, ClientServer, homeserver::Homeserver, write_secret};
use tokio::task::JoinHandle;
use turn_relay::{
    config::{self, Config},
    credentials::Settings,
    relay::World,
};
use turn_relay_proto::credential::Secrets;

use super::{
    client::{Client, Credential},
    text,
};
use crate::commands::demo::folder::Folder;

/// The relay's name.
pub(super) const REALM: &str = "turn.example.org";
/// Where a client asks for credentials.
pub(super) const TURN_SERVER: &str = "/_matrix/client/v3/voip/turnServer";
/// Synapse's `turn_user_lifetime`, if nothing else is set, in seconds.
pub(super) const SYNAPSE_LIFETIME: u64 = 3600;

/// Everybody, running.
pub(super) struct Stage {
    pub(super) homeserver: ClientServer,
    pub(super) clock: Clock,
    pub(super) random: Random,
    authority: Authority,
    secret: String,
    /// The relay's HTTP server.
    http: Homeserver,
    log: Record,
    /// How much of the log is older.
    log_start: usize,
    relay: JoinHandle<()>,
    shutdown: ShutdownTrigger,
}

impl Stage {
    /// Starts everybody on free loopback ports.
    pub(super) async fn set() -> Result<Self, String> {
        let log = log()?;
        let log_start = log.text().len();
        let random = Random::system();
        // moved on when the story does so
        let clock = Clock::manual(Clock::system().wall());
        let authority = Authority::new().map_err(text)?;
        let homeserver = ClientServer::start(&authority, &[b"http/1.1"])
            .await
            .map_err(text)?;
        let secret = STANDARD.encode(random.bytes::<32>());

        // only until the relay has read everything
        let folder = Folder::create(&random).map_err(text)?;
        let config = configure(folder.path(), &authority, &secret, &homeserver.url())?;
        let ca = folder.path().join("ca.pem").display().to_string();
        let (shutdown, when) = lifecycle::shutdown();
        let world = World {
            clock: clock.clone(),
            random: random.clone(),
            environment: [("SSL_CERT_FILE", ca)].into_iter().collect::<Environment>(),
        };
        let mut settings = Settings::from(&config);
        let bound = turn_relay::bind(config, world).await?;
        drop(folder);

        let relay = bound.relay();
        settings.uris = uris(relay.listeners())?;
        relay.credentials().reload(&settings)?;
        drop(relay);
        let http = bound.http_addresses().next().ok_or("it serves no HTTP")?;
        Ok(Self {
            homeserver,
            clock,
            random,
            authority,
            secret,
            http: Homeserver::new(http),
            log,
            log_start,
            relay: tokio::spawn(bound.serve(when)),
            shutdown,
        })
    }

    /// Asks for credentials as a client of the homeserver's does.
    pub(super) async fn credential(&self, token: &str) -> Result<Credential, String> {
        let mut headers = HeaderMap::new();
        let bearer = HeaderValue::from_str(&format!("Bearer {token}")).map_err(text)?;
        headers.insert(header::AUTHORIZATION, bearer);
        let body = self.get(TURN_SERVER, headers).await?;
        Credential::read(body).ok_or_else(|| "the answer has no credential in it".to_owned())
    }

    /// What a homeserver with the same secret gives its user, as Synapse makes it (`rest/client/voip.py`).
    pub(super) fn homeservers_credential(&self, user: &str) -> Credential {
        let username = format!("{}:{user}", self.clock.unix_seconds() + SYNAPSE_LIFETIME);
        let secrets = Secrets::new(vec![self.secret.clone().into_bytes()]);
        Credential {
            password: secrets.password(username.as_bytes()).as_str().to_owned(),
            username,
            uris: Vec::new(),
            body: String::new(),
        }
    }

    /// A client that takes the credential's `turn` URI.
    pub(super) async fn udp(
        &self,
        from: Ipv4Addr,
        credential: Credential,
    ) -> Result<Client, String> {
        let relay = resolved(credential.port("turn")?);
        Client::over_udp(from, relay, credential, &self.random)
            .await
            .map_err(text)
    }

    /// A client that takes the credential's `turns` URI.
    pub(super) async fn tls(
        &self,
        from: Ipv4Addr,
        credential: Credential,
    ) -> Result<Client, String> {
        let relay = resolved(credential.port("turns")?);
        let config = self.authority.client_config(&[]).map_err(text)?;
        Client::over_tls(from, relay, REALM, config, credential, &self.random)
            .await
            .map_err(text)
    }

    /// What the relay counted so far.
    pub(super) async fn metrics(&self) -> Result<String, String> {
        self.get("/metrics", HeaderMap::new()).await
    }

    /// Stops the relay, after its last allocation; what it logged.
    pub(super) async fn strike(self) -> Result<String, String> {
        self.shutdown.begin();
        self.relay
            .await
            .map_err(|error| format!("the relay broke down: {error}"))?;
        let text = self.log.text();
        Ok(text.get(self.log_start..).unwrap_or_default().to_owned())
    }

    async fn get(&self, path: &str, headers: HeaderMap) -> Result<String, String> {
        let request = self.http.request(Method::GET, path, headers, Bytes::new());
        let answer = request.await.map_err(text)?;
        if !answer.status.is_success() {
            return Err(format!("{}: {}", answer.status, answer.text()));
        }
        Ok(answer.text())
    }
}

/// What DNS would say of the relay's name.
pub(super) fn resolved(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A process has one log.
fn log() -> Result<Record, String> {
    static LOG: OnceLock<Result<Record, String>> = OnceLock::new();
    LOG.get_or_init(|| telemetry::record("debug")).clone()
}

/// Writes the relay's files, and reads its configuration.
fn configure(
    folder: &Path,
    authority: &Authority,
    secret: &str,
    homeserver: &str,
) -> Result<Config, String> {
    let identity = authority.server_identity(&[REALM]).map_err(text)?;
    let file = |name: &str| folder.join(name);
    fs::write(file("ca.pem"), authority.pem()).map_err(text)?;
    for (name, content) in [
        ("certificate.pem", identity.certificate_pem),
        ("key.pem", identity.key_pem),
        (
            "turn-relay.yaml",
            configuration(folder, secret, homeserver).to_string(),
        ),
    ] {
        write_secret(&file(name), &content).map_err(text)?;
    }
    let loaded = config::load(
        &file("turn-relay.yaml"),
        &Environment::default(),
        Clock::system().wall(),
    );
    match loaded.config {
        Some(config) if loaded.errors.is_empty() => Ok(config),
        Some(_) | None => Err(loaded.errors.join("; ")),
    }
}

/// JSON is YAML.
fn configuration(folder: &Path, secret: &str, homeserver: &str) -> Value {
    json!({
        "realm": REALM,
        "secrets": [secret],
        "listen": {"udp": ["127.0.0.1:0"], "tcp": [], "tls": ["127.0.0.1:0"]},
        "tls": {
            "certificate": folder.join("certificate.pem"),
            "key": folder.join("key.pem"),
        },
        "relay": {"addresses": ["127.0.0.1"]},
        "credentials": {"homeserver": homeserver},
        "http": {"listen": ["127.0.0.1:0"]},
        "log": {"level": "debug"},
        "workers": 2,
    })
}

/// With the ports that the system chose.
fn uris(listeners: &[SocketAddr]) -> Result<Vec<String>, String> {
    let [udp, tls] = listeners else {
        return Err(format!("it listens at {} addresses", listeners.len()));
    };
    Ok(vec![
        format!("turns:{REALM}:{}?transport=tcp", tls.port()),
        format!("turn:{REALM}:{}?transport=udp", udp.port()),
    ])
}
