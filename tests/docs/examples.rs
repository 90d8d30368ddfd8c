//! The requests that docs/providers.md shows are those that providers get.

use push_gateway::{config, gateway::World};
use serde_json::{Value, json};
use shared::{clock::Clock, environment::Environment, lifecycle, random::Random};
use stand_ins::{
    KEY_ID, PROJECT_ID, Seen, Server, StandIns, TEAM_ID, TOPIC,
    homeserver::{Homeserver, device_with, synapse_event_id_only},
};

use crate::{code_blocks, read};

const EVENT_ID: &str = "$event:example.org";
/// As long as the other: one device gets one event once.
const OTHER_EVENT_ID: &str = "$other:example.org";
const ROOM_ID: &str = "!room:example.org";
/// `device token` in base64.
const APNS_TOKEN: &str = "ZGV2aWNlIHRva2Vu";
const FCM_TOKEN: &str = "an-fcm-registration-token";
const MODES: [&str; 3] = ["opaque", "wake", "sygnal"];

/// Headers that say nothing about a push.
const UNINTERESTING: [&str; 3] = ["content-length", "host", "accept"];

#[tokio::test]
async fn every_request_is_shown_as_it_is_sent() {
    let stand_ins = StandIns::start().await.expect("loopback has free ports");
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let files = stand_ins
        .write_files(folder.path())
        .expect("the folder can be written to");
    let mut apps = serde_json::Map::new();
    for mode in MODES {
        let app = |kind: &str, mut app: Value| {
            app["type"] = json!(kind);
            app["payload"] = json!(mode);
            (format!("{kind}.{mode}"), app)
        };
        apps.extend([
            app("apns", json!({
                "endpoint": stand_ins.apple.url(), "keyfile": files.apns_key, "key_id": KEY_ID, "team_id": TEAM_ID,
                "topic": TOPIC,
            })),
            app("gcm", json!({
                "api_version": "v1", "endpoint": stand_ins.google.url(), "project_id": PROJECT_ID,
                "service_account_file": files.service_account,
            })),
            app("webpush", json!({
                "vapid_private_key": files.vapid_key, "vapid_contact_email": "admin@example.org",
            })),
            app("unifiedpush", json!({})),
        ]);
    }
    let file = folder.path().join("push-gateway.yaml");
    let configuration = json!({
        "http": {"port": 0},
        "outbound": {"allow_private": ["127.0.0.0/8"]},
        "apps": apps,
    });
    std::fs::write(&file, configuration.to_string()).expect("the folder can be written to");

    let environment = Environment::from_iter([("SSL_CERT_FILE", files.ca.display().to_string())]);
    let clock = Clock::system();
    let loaded = config::load(&file, &environment, clock.wall());
    assert_eq!(loaded.errors, [""; 0]);
    let (trigger, shutdown) = lifecycle::shutdown();
    let world = World {
        environment,
        clock,
        random: Random::system(),
        shutdown,
    };
    let bound = push_gateway::bind(loaded.config.expect("no error"), world)
        .await
        .expect("free ports");
    let gateway = Homeserver::new(bound.addresses().next().expect("one address"));
    let serving = tokio::spawn(bound.serve());

    let browser = stand_ins.push_service.subscribe().expect("a subscription");
    let phone = stand_ins
        .push_service
        .subscribe_unified_push()
        .expect("a subscription");
    let default_payload = json!({"aps": {"mutable-content": 1, "alert": {"loc-key": "Notification", "loc-args": []}}});
    let secret = json!({"cs": "client-secret"});
    let mut missing = Vec::new();
    let shown = code_blocks(&read("docs/providers.md"), "http");
    for mode in MODES {
        let servers: [(&Server, _); 5] = [
            (
                &stand_ins.apple,
                device_with(
                    &format!("apns.{mode}"),
                    APNS_TOKEN,
                    json!({
                        "format": "event_id_only", "default_payload": default_payload,
                    }),
                ),
            ),
            (
                &stand_ins.google,
                device_with(
                    &format!("gcm.{mode}"),
                    FCM_TOKEN,
                    json!({
                        "format": "event_id_only", "default_payload": secret,
                    }),
                ),
            ),
            (
                &stand_ins.push_service,
                device_with(
                    &format!("webpush.{mode}"),
                    &browser.p256dh,
                    json!({
                        "format": "event_id_only", "endpoint": browser.endpoint, "auth": browser.auth,
                    }),
                ),
            ),
            (
                &stand_ins.push_service,
                device_with(
                    &format!("unifiedpush.{mode}"),
                    &phone.endpoint,
                    json!({
                        "format": "event_id_only",
                    }),
                ),
            ),
            (
                &stand_ins.push_service,
                device_with(
                    &format!("unifiedpush.{mode}"),
                    &phone.endpoint,
                    json!({
                        "format": "event_id_only", "p256dh": phone.p256dh, "auth": phone.auth,
                    }),
                ),
            ),
        ];
        for (server, device) in servers {
            server.forget();
            let event_id = if device["data"]["p256dh"].is_null() {
                EVENT_ID
            } else {
                OTHER_EVENT_ID
            };
            let notification = synapse_event_id_only(event_id, ROOM_ID, 3, &device);
            let answer = gateway.notify(&notification).await.expect("an answer");
            assert_eq!(answer.text(), r#"{"rejected": []}"#);
            let seen = server.seen().pop().expect("a push");
            let request = show(&seen);
            if !shown.contains(&request) {
                missing.push(format!(
                    "{} as {mode}:\n\n```http\n{request}\n```\n",
                    device["app_id"]
                ));
            }
        }
    }
    trigger.begin();
    serving.await.expect("no panic");
    assert!(
        missing.is_empty(),
        "docs/providers.md does not show\n\n{}",
        missing.join("\n")
    );
}

/// A request as text; what differs each time has a name instead.
fn show(seen: &Seen) -> String {
    let mut lines = vec![format!("{} {}", seen.method, path(seen))];
    let mut headers: Vec<_> = seen
        .headers
        .keys()
        .filter(|name| !UNINTERESTING.contains(&name.as_str()))
        .map(|name| {
            let value = seen.header(name.as_str()).unwrap_or_default();
            let value = match name.as_str() {
                "authorization" if value.starts_with("vapid") => "vapid t=<token>, k=<public key>",
                "authorization" => "bearer <token>",
                "apns-id" => "<apns-id>",
                "apns-expiration" => "<the next full hour + 24 hours>",
                _ => value,
            };
            format!("{name}: {value}")
        })
        .collect();
    headers.sort_unstable();
    lines.extend(headers);
    lines.push(String::new());
    lines.push(match &seen.decrypted {
        Some(_) => format!(
            "<{} bytes, from which the device reads>\n{}",
            seen.body.len(),
            masked(seen.decrypted_json())
        ),
        None => masked(seen.json()),
    });
    lines.join("\n")
}

/// The path without the device that it may end in.
fn path(seen: &Seen) -> String {
    match seen.path.rsplit_once('/') {
        Some((path, end)) if end != "messages:send" => format!("{path}/<device>"),
        Some(_) | None => seen.path.clone(),
    }
}

/// Compact JSON without what differs each time.
fn masked(mut body: Value) -> String {
    for place in ["/n", "/message/data/n", "/message/token", "/ts"] {
        if let Some(value) = body.pointer_mut(place) {
            *value = json!(format!(
                "<{}>",
                place.rsplit('/').next().unwrap_or_default()
            ));
        }
    }
    if let Some(event_id) = body
        .get_mut("event_id")
        .filter(|event_id| **event_id == OTHER_EVENT_ID)
    {
        *event_id = json!(EVENT_ID);
    }
    body.to_string()
}
