//! The gateway: the command as it is built, with an app of each kind.

use std::{fs, net::SocketAddr, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::json;
use stand_ins::{
    KEY_ID, PROJECT_ID, StandIns, TEAM_ID, TOPIC, homeserver::Homeserver as Client, write_secret,
};
use tempfile::TempDir;

use crate::{
    process::{Process, free_address},
    stage::{APNS, APNS_AS_SYGNAL, FCM, UNIFIED_PUSH, WEB_PUSH},
};

/// A running gateway; it is gone when this is dropped.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

impl Gateway {
    pub(crate) async fn start(stand_ins: &StandIns) -> Self {
        let address = free_address();
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        let files = stand_ins
            .write_files(folder.path())
            .expect("the folder can be written to");
        let apns = json!({
            "type": "apns",
            "endpoint": stand_ins.apple.url(),
            "keyfile": files.apns_key,
            "key_id": KEY_ID,
            "team_id": TEAM_ID,
            "topic": TOPIC,
        });
        let mut apns_as_sygnal = apns.clone();
        apns_as_sygnal["payload"] = json!("sygnal");
        let pushkey_key = folder.path().join("pushkeys.key");
        write_secret(&pushkey_key, &STANDARD.encode([7; 32]))
            .expect("the folder can be written to");
        // JSON is YAML
        let configuration = json!({
            "http": {"bind_addresses": [address.ip().to_string()], "port": address.port()},
            "apps": {
                APNS: apns,
                APNS_AS_SYGNAL: apns_as_sygnal,
                FCM: {
                    "type": "gcm",
                    "api_version": "v1",
                    "endpoint": stand_ins.google.url(),
                    "project_id": PROJECT_ID,
                    "service_account_file": files.service_account,
                },
                WEB_PUSH: {
                    "type": "webpush",
                    "vapid_private_key": files.vapid_key,
                    "vapid_contact_email": "operator@example.org",
                },
                UNIFIED_PUSH: {"type": "unifiedpush"},
            },
            "pushkey_keys": [pushkey_key],
            "outbound": {"allow_private": ["127.0.0.0/8"]},
            // an outage is told the homeserver soon
            "limits": {"request_budget": "3s"},
        });
        let file = folder.path().join("push-gateway.yaml");
        fs::write(&file, configuration.to_string()).expect("the folder can be written to");

        let mut command = Command::new(env!("CARGO_BIN_EXE_nocturne"));
        command
            .env_clear()
            .env("SSL_CERT_FILE", files.ca)
            .args(["push", "--config"])
            .arg(file);
        let mut process = Process::start("nocturne", &mut command, folder.path());
        process.wait_until_ready(address, "/health").await;
        Self {
            address,
            _process: process,
            _folder: folder,
        }
    }

    /// The public key that clients seal pushkeys to.
    pub(crate) async fn pushkey_key(&self) -> String {
        let answer = Client::new(self.address)
            .request(
                Method::GET,
                "/_nocturne/v1/keys",
                HeaderMap::new(),
                Bytes::new(),
            )
            .await
            .expect("the gateway answers")
            .json();
        let key = answer["keys"][0]["key"].as_str();
        key.expect("a key is served").to_owned()
    }
}
