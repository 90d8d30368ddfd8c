//! The pushers of docs/opaque-push.md, registered as they stand there, get what it says.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use push_gateway::{config, gateway::World};
use serde_json::{Value, json};
use shared::{clock::Clock, environment::Environment, lifecycle, random::Random};
use stand_ins::{
    DeviceKeys, KEY_ID, PROJECT_ID, StandIns, TEAM_ID, TOPIC, TagSecret,
    homeserver::{Homeserver, device_with, synapse_event_id_only},
    seal_pushkey, write_secret,
};

use crate::{code_blocks, read};

const EVENT_ID: &str = "$event:example.org";
const ROOM_ID: &str = "!room:example.org";
/// The app at Google; the document's own is at Apple.
const FCM_APP: &str = "org.example.app.android";

#[tokio::test]
async fn what_arrives_is_what_the_document_says() {
    let stand_ins = StandIns::start().await.expect("loopback has free ports");
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let files = stand_ins
        .write_files(folder.path())
        .expect("the folder can be written to");
    let pushkey_key = folder.path().join("pushkeys.key");
    write_secret(&pushkey_key, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").expect("a file");
    let file = folder.path().join("push-gateway.yaml");
    let configuration = json!({
        "http": {"port": 0},
        "outbound": {"allow_private": ["127.0.0.0/8"]},
        "pushkey_keys": [pushkey_key],
        "apps": {
            "org.example.app.ios": {
                "type": "apns", "payload": "opaque", "endpoint": stand_ins.apple.url(), "keyfile": files.apns_key,
                "key_id": KEY_ID, "team_id": TEAM_ID, "topic": TOPIC,
            },
            FCM_APP: {
                "type": "gcm", "payload": "opaque", "api_version": "v1", "endpoint": stand_ins.google.url(),
                "project_id": PROJECT_ID, "service_account_file": files.service_account,
            },
        },
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
    let keys = gateway
        .request(
            http::Method::GET,
            "/_nocturne/v1/keys",
            http::HeaderMap::new(),
            bytes::Bytes::new(),
        )
        .await
        .expect("an answer")
        .json();
    let gateway_key = keys["keys"][0]["key"].as_str().expect("a key");

    let mut opened = 0;
    let blocks: Vec<Value> = code_blocks(&read("docs/opaque-push.md"), "json")
        .iter()
        .map(|block| serde_json::from_str(block).unwrap_or_else(|error| panic!("{block}: {error}")))
        .collect();
    let is_pusher = |block: &&Value| block["kind"] == "http";
    assert_eq!(blocks.iter().filter(is_pusher).count(), 4);
    for (index, pusher) in blocks
        .iter()
        .enumerate()
        .filter(|(_, block)| is_pusher(block))
    {
        let shown: Vec<_> = blocks[index + 1..]
            .iter()
            .take_while(|block| !is_pusher(block))
            .collect();
        let mut data = pusher["data"].clone();
        data.as_object_mut().expect("an object").remove("url");
        // the same keys, but for the pair, whose private half the document does not have
        let pair = DeviceKeys::generate().expect("keys");
        for (app, number) in [
            ("org.example.app.ios", 0),
            (FCM_APP, 1),
            ("org.example.app.ios", 2),
        ] {
            let mut data = data.clone();
            if number == 2 {
                if data["nocturne"]["p256dh"].is_null() {
                    continue;
                }
                data["nocturne"]["p256dh"] = json!(pair.p256dh());
                data["nocturne"]["auth"] = json!(pair.auth());
            }
            // one device gets one event once
            let name = format!("{:032}", index * 3 + number);
            let token = STANDARD.encode(name);
            let pushkey = match pusher["pushkey"].as_str().expect("a pushkey") {
                sealed if sealed.starts_with("nk1.") => {
                    let pushkey = seal_pushkey(gateway_key, app, &token).expect("it fits");
                    assert_eq!(sealed, format!("nk1.<{} characters>", pushkey.len() - 4));
                    pushkey
                }
                _ => token,
            };
            let device = device_with(app, &pushkey, data);
            let notification = synapse_event_id_only(EVENT_ID, ROOM_ID, 3, &device);
            let answer = gateway.notify(&notification).await.expect("an answer");
            assert_eq!(answer.text(), r#"{"rejected": []}"#);
            let server = if app == FCM_APP {
                &*stand_ins.google
            } else {
                &*stand_ins.apple
            };
            let mut body = server.seen().pop().expect("a push").json();
            if app == FCM_APP {
                body = body["message"]["data"].take();
            }
            if number == 2 {
                let blob = body["p"].as_str().expect("a blob");
                let mut text: Value = serde_json::from_slice(
                    &pair
                        .open(&URL_SAFE_NO_PAD.decode(blob).expect("base64url"))
                        .expect("it was sealed to these keys"),
                )
                .expect("JSON");
                assert!(text["ts"].is_u64());
                text["ts"] = shown[2]["ts"].clone();
                assert_eq!(text.to_string(), shown[2].to_string());
                opened += 1;
            } else if let Some(shown) = shown.get(number) {
                assert_eq!(masked(&body).to_string(), masked(shown).to_string());
            }
        }
    }
    assert_eq!(opened, 1);
    trigger.begin();
    serving.await.expect("no panic");
}

#[test]
fn the_tags_are_true() {
    let blocks = code_blocks(&read("docs/opaque-push.md"), "json");
    let blocks: Vec<Value> = blocks
        .iter()
        .map(|block| serde_json::from_str(block).expect("JSON"))
        .collect();
    let secret = blocks
        .iter()
        .find_map(|block| block["data"]["nocturne"]["secret"].as_str())
        .and_then(TagSecret::parse)
        .expect("a secret");
    let tagged: Vec<_> = blocks
        .iter()
        .filter(|block| block["r"].is_string())
        .collect();
    assert_eq!(tagged.len(), 2);
    for block in tagged {
        let n = block["n"].as_str().expect("an identifier");
        assert_eq!(json!(secret.room(n, ROOM_ID)), block["r"]);
        assert_eq!(json!(secret.event(n, EVENT_ID)), block["e"]);
    }
}

/// The same with lengths in place of what differs each time.
fn masked(body: &Value) -> Value {
    let mut body = body.clone();
    for name in ["n", "r", "e", "p"] {
        if let Some(text) = body[name].as_str().filter(|text| !text.starts_with('<')) {
            body[name] = json!(format!("<{} characters>", text.len()));
        }
    }
    body
}
