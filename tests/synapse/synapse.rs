//! A Synapse of its own for each test, and what a Matrix client does with it.

use std::{fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};
use stand_ins::homeserver::Homeserver as Client;
use tempfile::TempDir;

use crate::{
    PATIENCE,
    process::{Process, free_address},
};

/// The homeserver's name, found nowhere else.
pub(crate) const SERVER_NAME: &str = "homeserver-of-this-test.example";

/// A running Synapse; it and its database are gone when this is dropped.
pub(crate) struct Synapse {
    pub(crate) address: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

/// Somebody with an account.
pub(crate) struct User {
    pub(crate) id: String,
    homeserver: SocketAddr,
    pub(crate) token: String,
}

impl Synapse {
    pub(crate) async fn start(python: &Path) -> Self {
        Self::start_with(python, |_| ()).await
    }

    /// With more in its configuration.
    pub(crate) async fn start_with(python: &Path, change: impl FnOnce(&mut Value)) -> Self {
        let address = free_address();
        let mut configuration = configuration(address);
        change(&mut configuration);
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        // a key that is worth nothing outside this test
        let signing_key = format!("ed25519 test {}\n", "A".repeat(43));
        write(folder.path(), "signing.key", &signing_key);
        write(folder.path(), "log.yaml", &logging().to_string());
        write(folder.path(), "homeserver.yaml", &configuration.to_string());

        let mut command = Command::new(python);
        command
            .env_clear()
            .args(["-m", "synapse.app.homeserver", "-c", "homeserver.yaml"]);
        let mut process = Process::start("synapse", &mut command, folder.path());
        process.wait_until_ready(address, "/health").await;
        Self {
            address,
            _process: process,
            _folder: folder,
        }
    }

    pub(crate) async fn register(&self, name: &str) -> User {
        let account = call(
            self.address,
            Method::POST,
            "/register",
            None,
            &json!({
                "username": name,
                "password": "correct horse battery staple",
                "auth": {"type": "m.login.dummy"},
            }),
        )
        .await;
        User {
            id: text(&account, "user_id"),
            homeserver: self.address,
            token: text(&account, "access_token"),
        }
    }
}

impl User {
    /// A room with just the two.
    pub(crate) async fn create_room_with(&self, other: &Self) -> String {
        let room = self
            .call(
                Method::POST,
                "/createRoom",
                json!({"preset": "trusted_private_chat", "invite": [other.id]}),
            )
            .await;
        let room = text(&room, "room_id");
        other
            .call(Method::POST, &format!("/join/{}", encode(&room)), json!({}))
            .await;
        room
    }

    /// Sends a message and returns its event ID.
    pub(crate) async fn send(&self, room: &str, message: &str) -> String {
        let path = format!("/rooms/{}/send/m.room.message", encode(room));
        let content = json!({"msgtype": "m.text", "body": message});
        text(&self.call(Method::POST, &path, content).await, "event_id")
    }

    pub(crate) async fn mark_read(&self, room: &str, event: &str) {
        let path = format!("/rooms/{}/receipt/m.read/{}", encode(room), encode(event));
        self.call(Method::POST, &path, json!({})).await;
    }

    pub(crate) async fn set_pusher(
        &self,
        gateway: SocketAddr,
        app_id: &str,
        pushkey: &str,
        data: Value,
    ) {
        let mut pusher = json!({
            "kind": "http",
            "app_id": app_id,
            "pushkey": pushkey,
            "app_display_name": "Test client",
            "device_display_name": "Test device",
            "lang": "en",
            "data": {
                "url": format!("http://{gateway}/_matrix/push/v1/notify"),
                "format": "event_id_only",
            },
        });
        if let (Some(all), Value::Object(more)) = (pusher["data"].as_object_mut(), data) {
            all.extend(more);
        }
        self.call(Method::POST, "/pushers/set", pusher).await;
    }

    pub(crate) async fn pushers(&self) -> Vec<Value> {
        let answer = self.call(Method::GET, "/pushers", json!({})).await;
        answer["pushers"]
            .as_array()
            .unwrap_or_else(|| panic!("a list is in {answer}"))
            .clone()
    }

    pub(crate) async fn wait_for_pushers(&self, count: usize) {
        let dropped = tokio::time::timeout(PATIENCE, async {
            while self.pushers().await.len() != count {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(
            dropped.await.is_ok(),
            "not {count} pushers: {:#?}",
            self.pushers().await
        );
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        call(self.homeserver, method, path, Some(&self.token), &body).await
    }
}

async fn call(
    homeserver: SocketAddr,
    method: Method,
    path: &str,
    token: Option<&str>,
    body: &Value,
) -> Value {
    let path = format!("/_matrix/client/v3{path}");
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        let bearer = HeaderValue::from_str(&format!("Bearer {token}")).expect("a token is ASCII");
        headers.insert(header::AUTHORIZATION, bearer);
    }
    let answer = Client::new(homeserver)
        .request(method, &path, headers, Bytes::from(body.to_string()))
        .await
        .unwrap_or_else(|error| panic!("Synapse does not answer {path}: {error}"));
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

fn text(answer: &Value, key: &str) -> String {
    answer[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} is in {answer}"))
        .to_owned()
}

/// An identifier as one segment of a path.
fn encode(identifier: &str) -> String {
    identifier
        .replace('!', "%21")
        .replace('$', "%24")
        .replace(':', "%3A")
}

/// JSON is YAML. Nothing but loopback is listened on or called; nothing is limited.
fn configuration(address: SocketAddr) -> Value {
    let unlimited = json!({"per_second": 10_000, "burst_count": 10_000});
    json!({
        "server_name": SERVER_NAME,
        "public_baseurl": format!("http://{address}/"),
        "listeners": [{
            "type": "http",
            "bind_addresses": [address.ip().to_string()],
            "port": address.port(),
            "resources": [{"names": ["client"]}],
        }],
        "database": {"name": "sqlite3", "args": {"database": "homeserver.db"}},
        "log_config": "log.yaml",
        "media_store_path": "media",
        "signing_key_path": "signing.key",
        "bcrypt_rounds": 4,
        "macaroon_secret_key": "worth nothing outside this test",
        "report_stats": false,
        "trusted_key_servers": [],
        "federation_domain_whitelist": [],
        "enable_registration": true,
        "enable_registration_without_verification": true,
        "presence": {"enabled": false},
        // or Synapse calls no gateway on loopback
        "ip_range_whitelist": ["127.0.0.0/8"],
        "rc_message": unlimited,
        "rc_registration": unlimited,
        "rc_login": {"address": unlimited, "account": unlimited, "failed_attempts": unlimited},
        "rc_joins": {"local": unlimited, "remote": unlimited},
        "rc_invites": {"per_room": unlimited, "per_user": unlimited, "per_issuer": unlimited},
    })
}

fn logging() -> Value {
    json!({
        "version": 1,
        "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
        "root": {"level": "INFO", "handlers": ["console"]},
    })
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).expect("the folder can be written to");
}
