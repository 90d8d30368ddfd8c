//! What providers and logs get to see.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    agreement::{PrivateKey, X25519},
    digest::{SHA256, digest},
    hmac,
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use stand_ins::{
    DeviceKeys, Reply, Seen, TOPIC,
    homeserver::{NOTIFY_PATH, badge_only, device, device_with, dummy, event_id_only},
    seal_pushkey,
};

use crate::harness::{
    APNS, FCM, Gateway, Options, PATIENCE, PUSHKEY, PUSHKEY_HEX, UP, WEB, World, assert_rejected,
    changed, eventually, fresh, merged,
};

/// The app without `payload:`, which means `opaque`, and with these options of `opaque:`.
fn opaque(mut app: Value, options: &Value) -> Value {
    app.as_object_mut().unwrap().remove("payload");
    merged(app, &json!({ "opaque": options }))
}

async fn apns(world: &World, options: Value) -> Gateway {
    let app = opaque(world.apns(), &options);
    world.gateway(json!({ APNS: app })).await
}

async fn fcm(world: &World, options: Value) -> Gateway {
    let app = opaque(world.fcm(), &options);
    world.gateway(json!({ FCM: app })).await
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, &parts.concat()).as_ref().to_vec()
}

fn with_length(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap();
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

/// The 16 bytes of a tag or identifier, which has to be written as 22 characters of base64url.
fn tag(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    assert_eq!(text.len(), 22);
    let bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
    assert_eq!(bytes.len(), 16);
    bytes
}

fn seconds() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "epochs are of the real time")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn members(value: &Value) -> BTreeSet<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

/// Very different things to say to one device.
fn all_kinds(app_id: &str, pushkey: &str) -> Vec<Value> {
    let devices = [device_with(
        app_id,
        pushkey,
        json!({ "default_payload": {
            "cs": "client-secret", "aps": { "alert": "from the client", "sound": "x.wav" },
        }}),
    )];
    vec![
        fresh(dummy(&devices)),
        fresh(event_id_only(&devices)),
        changed(fresh(dummy(&devices)), &json!({ "prio": "low" })),
        changed(
            fresh(dummy(&devices)),
            &json!({
                "room_id": format!("!{}:other.example", "long".repeat(50)),
                "room_name": "x".repeat(3000),
                "type": "m.call.invite",
                "content": { "offer": { "sdp": "m=video" } },
                "counts": { "unread": 99_999 },
            }),
        ),
    ]
}

/// What of [`all_kinds`] must not be found anywhere.
const GIVEN_AWAY: [&str; 14] = [
    "fresh-",
    "slw48wfj34rtnrf",
    "example.com",
    "longlong",
    "xxxxxxxx",
    "exampleuser",
    "Major Tom",
    "Mission Control",
    "exampleroom",
    "floating",
    "99999",
    "client-secret",
    "from the client",
    "m.room.message",
];

fn assert_nothing_given_away(text: &str) {
    for secret in GIVEN_AWAY {
        assert!(!text.contains(secret), "{secret} is in:\n{text}");
    }
}

/// The headers but those that are new for every push.
fn constant_headers(push: &Seen) -> HeaderMap {
    let mut headers = push.headers.clone();
    for name in [
        "apns-id",
        "apns-expiration",
        "authorization",
        "content-length",
    ] {
        headers.remove(name);
    }
    headers
}

#[tokio::test]
async fn apple_sees_a_constant_and_a_rotating_identifier() {
    let world = World::new().await;
    let gateway = apns(&world, json!({})).await;
    let kinds = all_kinds(APNS, PUSHKEY);
    for body in &kinds {
        assert_rejected(&gateway.notify(body).await, &[]);
    }
    let seen = world.stand_ins.apple.seen();
    assert_eq!(seen.len(), kinds.len());
    let mut identifiers = BTreeSet::new();
    for push in &seen {
        assert_eq!(push.complaint, None);
        let body = push.json();
        assert_eq!(members(&body), BTreeSet::from(["aps", "n"]));
        assert_eq!(
            body["aps"],
            json!({ "alert": { "loc-key": "Notification" }, "mutable-content": 1 })
        );
        let identifier = tag(&body["n"]);
        let id = push.header("apns-id").unwrap().replace('-', "");
        let number = u128::from_be_bytes(identifier.clone().try_into().unwrap());
        let hex = format!("{number:032x}");
        assert_eq!(id.to_lowercase(), hex);
        assert!(identifiers.insert(identifier));

        assert_eq!(push.header("apns-topic"), Some(TOPIC));
        assert_eq!(push.header("apns-push-type"), Some("alert"));
        assert_eq!(push.header("apns-priority"), Some("10"));
        assert_eq!(push.header("apns-collapse-id"), None);
        let expires: u64 = push.header("apns-expiration").unwrap().parse().unwrap();
        assert_eq!(expires % 3600, 0);
        let day = 24 * 3600;
        assert!((seconds() + day - 60..=seconds() + day + 3600).contains(&expires));

        // byte by byte the same, but for the identifier
        let text = String::from_utf8(push.body.to_vec()).unwrap();
        let constant = text.replace(body["n"].as_str().unwrap(), "");
        let first = String::from_utf8(seen[0].body.to_vec()).unwrap();
        let first = first.replace(seen[0].json()["n"].as_str().unwrap(), "");
        assert_eq!(constant, first);
        assert_eq!(constant_headers(push), constant_headers(&seen[0]));
        assert_nothing_given_away(&format!("{text} {:?} {}", push.headers, push.path));
    }
}

#[tokio::test]
async fn google_sees_a_rotating_identifier() {
    let world = World::new().await;
    let gateway = fcm(&world, json!({})).await;
    let kinds = all_kinds(FCM, PUSHKEY);
    for body in &kinds {
        assert_rejected(&gateway.notify(body).await, &[]);
    }
    let seen = world.stand_ins.google.seen();
    assert_eq!(seen.len(), kinds.len());
    let mut identifiers = BTreeSet::new();
    for push in &seen {
        assert_eq!(push.complaint, None);
        let body = push.json();
        let identifier = &body["message"]["data"]["n"];
        assert!(identifiers.insert(tag(identifier)));
        assert_eq!(
            body,
            json!({ "message": {
                "data": { "n": identifier },
                "android": { "priority": "high", "ttl": "86400s" },
                "token": PUSHKEY,
            }})
        );
        assert_eq!(constant_headers(push), constant_headers(&seen[0]));
    }
}

#[tokio::test]
async fn a_push_service_sees_bodies_of_one_size_and_one_urgency() {
    let world = World::new().await;
    let app = opaque(world.web_push(), &json!({}));
    let gateway = world.gateway(json!({ WEB: app })).await;
    let subscription = world.stand_ins.push_service.subscribe().unwrap();
    let data = json!({
        "endpoint": subscription.endpoint,
        "auth": subscription.auth,
        "only_last_per_room": true,
        "default_payload": { "cs": "client-secret" },
    });
    let kinds = all_kinds(WEB, &subscription.p256dh);
    for body in &kinds {
        let devices = [device_with(WEB, &subscription.p256dh, data.clone())];
        let body = changed(body.clone(), &json!({ "devices": devices }));
        assert_rejected(&gateway.notify(&body).await, &[]);
    }
    let seen = world.stand_ins.push_service.seen();
    assert_eq!(seen.len(), kinds.len());
    for push in &seen {
        assert_eq!(push.complaint, None);
        assert_eq!(push.header("urgency"), Some("high"));
        assert_eq!(push.header("ttl"), Some("86400"));
        assert_eq!(push.header("topic"), None);
        assert_eq!(constant_headers(push), constant_headers(&seen[0]));
        assert_eq!(push.body.len(), seen[0].body.len());
        let plain = push.decrypted_json();
        assert_eq!(plain["v"], 1);
        assert!(plain["ts"].as_u64().unwrap().abs_diff(seconds()) < 600);
        assert_eq!(plain["data"]["cs"], "client-secret");
        // what is not asked for is not in it, although nobody on the way could read it
        assert_eq!((plain.get("sender"), plain.get("content")), (None, None));
    }
    let first = seen[0].decrypted_json();
    assert_eq!(first["room_id"], "!slw48wfj34rtnrf:example.com");
    assert_eq!(first["event_id"], kinds[0]["notification"]["event_id"]);
    assert_eq!(first["unread"], 2);
    assert_eq!(first["missed_calls"], 1);
    assert_eq!(first["prio"], "high");
    assert_eq!(seen[2].decrypted_json()["prio"], "low");
}

#[tokio::test]
async fn with_sealed_content_the_device_reads_it_all() {
    let world = World::new().await;
    let app = opaque(world.web_push(), &json!({ "sealed_content": true }));
    let gateway = world.gateway(json!({ WEB: app })).await;
    let subscription = world.stand_ins.push_service.subscribe().unwrap();
    let data = json!({ "endpoint": subscription.endpoint, "auth": subscription.auth });
    let body = dummy(&[device_with(WEB, &subscription.p256dh, data)]);
    assert_rejected(&gateway.notify(&body).await, &[]);
    let plain = world.stand_ins.push_service.seen()[0].decrypted_json();
    for name in [
        "type",
        "sender",
        "sender_display_name",
        "room_name",
        "room_alias",
        "content",
    ] {
        assert_eq!(plain[name], body["notification"][name], "{name}");
    }
}

#[tokio::test]
async fn tags_let_the_device_find_room_and_event() {
    let world = World::new().await;
    let gateway = world
        .gateway(json!({
            APNS: opaque(world.apns(), &json!({})),
            FCM: opaque(world.fcm(), &json!({})),
        }))
        .await;
    let secret = [7; 32];
    let keys = json!({ "v": 1, "secret": URL_SAFE_NO_PAD.encode(secret) });
    let devices = [
        device_with(APNS, PUSHKEY, json!({ "nocturne": keys })),
        // where a client can set nothing else
        device_with(
            FCM,
            PUSHKEY,
            json!({ "default_payload": { "nocturne": keys } }),
        ),
    ];
    assert_rejected(&gateway.notify(&event_id_only(&devices)).await, &[]);
    let apple = world.stand_ins.apple.seen()[0].json();
    let google = world.stand_ins.google.seen()[0].json()["message"]["data"].clone();
    assert_eq!(members(&apple), BTreeSet::from(["aps", "n", "r", "e"]));
    assert_eq!(members(&google), BTreeSet::from(["n", "r", "e"]));
    for payload in [apple, google] {
        let n = tag(&payload["n"]);
        let of = |label: &[u8], text: &str| hmac(&secret, &[label, &n, text.as_bytes()]);
        let room = of(b"nocturne room\0", "!slw48wfj34rtnrf:example.com");
        let event = of(
            b"nocturne event\0",
            "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs",
        );
        assert_eq!(tag(&payload["r"]), room[..16]);
        assert_eq!(tag(&payload["e"]), event[..16]);
    }
}

#[tokio::test]
async fn a_device_with_keys_gets_a_sealed_blob_and_no_tags() {
    let world = World::new().await;
    let gateway = world
        .gateway(json!({
            APNS: opaque(world.apns(), &json!({})),
            FCM: opaque(world.fcm(), &json!({})),
        }))
        .await;
    let keys = DeviceKeys::generate().unwrap();
    let nocturne = json!({
        "v": 1,
        "secret": URL_SAFE_NO_PAD.encode([7; 32]),
        "p256dh": keys.p256dh(),
        // with padding, too
        "auth": format!("{}==", keys.auth()),
    });
    let data = json!({ "nocturne": nocturne, "default_payload": { "cs": "client-secret" } });
    let devices = [
        device_with(APNS, PUSHKEY, data.clone()),
        device_with(FCM, PUSHKEY, data),
    ];
    let body = fresh(dummy(&devices));
    assert_rejected(&gateway.notify(&body).await, &[]);
    let apple = world.stand_ins.apple.seen()[0].json();
    let google = world.stand_ins.google.seen()[0].json()["message"]["data"].clone();
    assert_eq!(members(&apple), BTreeSet::from(["aps", "n", "p"]));
    assert_eq!(members(&google), BTreeSet::from(["n", "p"]));
    for payload in [apple, google] {
        let blob = URL_SAFE_NO_PAD
            .decode(payload["p"].as_str().unwrap())
            .unwrap();
        // header, 512 bytes of padded text, tag
        assert_eq!(blob.len(), 86 + 512 + 16);
        let plain: Value = serde_json::from_slice(&keys.open(&blob).unwrap()).unwrap();
        assert_eq!(plain["v"], 1);
        assert_eq!(plain["event_id"], body["notification"]["event_id"]);
        assert_eq!(plain["room_id"], "!slw48wfj34rtnrf:example.com");
        assert_eq!(
            (&plain["unread"], &plain["missed_calls"]),
            (&json!(2), &json!(1))
        );
        assert_eq!(plain["prio"], "high");
        assert_eq!(plain["data"], json!({ "cs": "client-secret" }));
    }
}

#[tokio::test]
async fn sealed_blobs_have_three_sizes_and_never_burst_a_push() {
    let world = World::new().await;
    let gateway = apns(&world, json!({})).await;
    let keys = DeviceKeys::generate().unwrap();
    for (length, size, with_data) in [
        (10, 512, true),
        (600, 1024, true),
        (1500, 2048, true),
        (3000, 512, false),
    ] {
        world.stand_ins.apple.forget();
        let data = json!({
            "nocturne": { "v": 1, "p256dh": keys.p256dh(), "auth": keys.auth() },
            "default_payload": { "x": "x".repeat(length) },
        });
        let body = fresh(event_id_only(&[device_with(APNS, PUSHKEY, data)]));
        assert_rejected(&gateway.notify(&body).await, &[]);
        let blob = world.stand_ins.apple.seen()[0].json()["p"].clone();
        let blob = URL_SAFE_NO_PAD.decode(blob.as_str().unwrap()).unwrap();
        assert_eq!(blob.len(), 86 + size + 16, "{length}");
        let plain: Value = serde_json::from_slice(&keys.open(&blob).unwrap()).unwrap();
        assert_eq!(plain.get("data").is_some(), with_data, "{length}");
    }
}

#[tokio::test]
async fn malformed_device_keys_cost_the_tags_and_not_the_push() {
    let world = World::new().await;
    let gateway = apns(&world, json!({})).await;
    let keys = DeviceKeys::generate().unwrap();
    for nocturne in [
        json!("x"),
        Value::Null,
        json!({}),
        json!({ "v": 2, "secret": URL_SAFE_NO_PAD.encode([7; 32]) }),
        json!({ "v": 1, "secret": "short" }),
        json!({ "v": 1, "secret": 7 }),
        json!({ "v": 1, "p256dh": keys.p256dh() }),
        json!({ "v": 1, "p256dh": "AAAA", "auth": keys.auth() }),
        json!({ "v": 1, "p256dh": keys.p256dh(), "auth": "!!" }),
    ] {
        world.stand_ins.apple.forget();
        let data = json!({ "nocturne": nocturne });
        let body = fresh(event_id_only(&[device_with(APNS, PUSHKEY, data)]));
        assert_rejected(&gateway.notify(&body).await, &[]);
        let payload = world.stand_ins.apple.seen()[0].json();
        assert_eq!(
            members(&payload),
            BTreeSet::from(["aps", "n"]),
            "{nocturne}"
        );
    }
}

/// Not even where Sygnal's payload, default payload and all, is sent.
#[tokio::test]
async fn device_keys_are_never_forwarded() {
    let world = World::new().await;
    let gateway = world.gateway_with_all().await;
    let keys = json!({ "v": 1, "secret": URL_SAFE_NO_PAD.encode([7; 32]) });
    let data = json!({
        "nocturne": keys, "default_payload": { "nocturne": keys, "aps": { "alert": "x" } },
    });
    let endpoint = world
        .stand_ins
        .push_service
        .subscribe_unified_push()
        .unwrap()
        .endpoint;
    let devices = [
        device_with(APNS, PUSHKEY, data.clone()),
        device_with(FCM, PUSHKEY, data.clone()),
        device_with(UP, &endpoint, data),
    ];
    assert_rejected(&gateway.notify(&fresh(dummy(&devices))).await, &[]);
    assert_rejected(&gateway.notify(&fresh(event_id_only(&devices))).await, &[]);
    let everything: String = [
        world.stand_ins.apple.seen(),
        world.stand_ins.google.seen(),
        world.stand_ins.push_service.seen(),
    ]
    .concat()
    .iter()
    .map(|push| String::from_utf8_lossy(&push.body).into_owned())
    .collect();
    assert!(!everything.contains("nocturne"));
    assert!(!everything.contains(&URL_SAFE_NO_PAD.encode([7; 32])));
}

#[tokio::test]
async fn wake_mode_sends_the_same_bytes_every_time() {
    let world = World::new().await;
    let wake = json!({ "payload": "wake" });
    let gateway = world
        .gateway(json!({
            APNS: merged(world.apns(), &wake),
            FCM: merged(world.fcm(), &wake),
        }))
        .await;
    for app in [APNS, FCM] {
        for body in all_kinds(app, PUSHKEY) {
            assert_rejected(&gateway.notify(&body).await, &[]);
        }
    }
    let apple = world.stand_ins.apple.seen();
    let mut ids = BTreeSet::new();
    for push in &apple {
        assert_eq!(
            push.json(),
            json!({ "aps": { "alert": { "loc-key": "Notification" }, "mutable-content": 1 } })
        );
        assert_eq!(push.body, apple[0].body);
        assert_eq!(push.header("apns-collapse-id"), Some("wake"));
        assert_eq!(constant_headers(push), constant_headers(&apple[0]));
        assert!(ids.insert(push.header("apns-id").unwrap().to_owned()));
    }
    let google = world.stand_ins.google.seen();
    for push in &google {
        assert_eq!(push.complaint, None);
        assert_eq!(push.body, google[0].body);
        assert_eq!(push.json()["message"]["android"]["collapse_key"], "wake");
        assert_nothing_given_away(&String::from_utf8_lossy(&push.body));
    }
    assert_eq!((apple.len(), google.len()), (4, 4));
}

#[tokio::test]
async fn counts_alone_are_not_sent() {
    let world = World::new().await;
    let gateway = world
        .gateway(json!({
            APNS: opaque(world.apns(), &json!({})),
            FCM: opaque(world.fcm(), &json!({})),
        }))
        .await;
    let devices = [device(APNS, PUSHKEY), device(FCM, PUSHKEY)];
    assert_rejected(&gateway.notify(&badge_only(&devices)).await, &[]);
    assert_eq!(world.stand_ins.apple.seen_count(), 0);
    assert_eq!(world.stand_ins.google.seen_count(), 0);
}

#[tokio::test]
async fn badge_pushes_are_silent_and_sealed() {
    let world = World::new().await;
    let options = json!({ "badge_pushes": true });
    let gateway = world
        .gateway(json!({
            APNS: opaque(world.apns(), &options),
            FCM: opaque(world.fcm(), &options),
        }))
        .await;
    let keys = DeviceKeys::generate().unwrap();
    let data = json!({ "nocturne": { "v": 1, "p256dh": keys.p256dh(), "auth": keys.auth() } });
    let devices = [
        device_with(APNS, PUSHKEY, data.clone()),
        device_with(FCM, PUSHKEY, data),
        device(APNS, "aaaa"),
        device(FCM, "aaaa"),
    ];
    assert_rejected(&gateway.notify(&badge_only(&devices)).await, &[]);
    let apple = world.stand_ins.apple.seen();
    assert_eq!(apple.len(), 1);
    assert_eq!(apple[0].device, PUSHKEY_HEX);
    assert_eq!(apple[0].header("apns-push-type"), Some("background"));
    assert_eq!(apple[0].header("apns-priority"), Some("5"));
    let payload = apple[0].json();
    assert_eq!(members(&payload), BTreeSet::from(["aps", "n", "p"]));
    assert_eq!(payload["aps"], json!({ "content-available": 1 }));
    let blob = URL_SAFE_NO_PAD
        .decode(payload["p"].as_str().unwrap())
        .unwrap();
    let plain: Value = serde_json::from_slice(&keys.open(&blob).unwrap()).unwrap();
    assert_eq!(plain["unread"], 2);
    let google = world.stand_ins.google.seen();
    assert_eq!(google.len(), 1);
    assert_eq!(google[0].json()["message"]["android"]["priority"], "normal");
}

/// The clients' own push test looks for its event in clear.
#[tokio::test]
async fn the_clients_push_test_works_in_every_mode() {
    let world = World::new().await;
    for payload in ["opaque", "wake", "sygnal"] {
        world.stand_ins.apple.forget();
        world.stand_ins.google.forget();
        let mode = json!({ "payload": payload });
        let gateway = world
            .gateway(json!({
                APNS: merged(world.apns(), &mode),
                FCM: merged(world.fcm(), &mode),
            }))
            .await;
        let data = json!({ "default_payload": { "cs": "s", "aps": { "mutable-content": 1 } } });
        let body = changed(
            event_id_only(&[
                device_with(APNS, PUSHKEY, data.clone()),
                device_with(FCM, PUSHKEY, json!({ "default_payload": { "cs": "s" } })),
            ]),
            &json!({ "event_id": "$THIS_IS_A_FAKE_EVENT_ID" }),
        );
        assert_rejected(&gateway.notify(&body).await, &[]);
        let apple = world.stand_ins.apple.seen()[0].json();
        assert_eq!(apple["event_id"], "$THIS_IS_A_FAKE_EVENT_ID", "{payload}");
        assert_eq!(apple["cs"], "s");
        assert_eq!(apple["aps"]["mutable-content"], 1);
        let google = world.stand_ins.google.seen()[0].json()["message"]["data"].clone();
        assert_eq!(google["event_id"], "$THIS_IS_A_FAKE_EVENT_ID", "{payload}");
        assert_eq!(google["cs"], "s");
    }
}

#[tokio::test]
async fn options_of_the_alert() {
    let world = World::new().await;
    let options = json!({ "alert_loc_key": "SINGLE_UNREAD", "sound": "bell.caf" });
    let gateway = apns(&world, options).await;
    let body = event_id_only(&[device(APNS, PUSHKEY)]);
    assert_rejected(&gateway.notify(&body).await, &[]);
    assert_eq!(
        world.stand_ins.apple.seen()[0].json()["aps"],
        json!({
            "alert": { "loc-key": "SINGLE_UNREAD" }, "mutable-content": 1, "sound": "bell.caf",
        })
    );
}

#[tokio::test]
async fn low_priority_is_let_through_on_demand() {
    let world = World::new().await;
    let gateway = apns(&world, json!({ "low_priority": true })).await;
    for (prio, priority) in [("low", "5"), ("high", "10")] {
        world.stand_ins.apple.forget();
        let body = changed(
            fresh(dummy(&[device(APNS, PUSHKEY)])),
            &json!({ "prio": prio }),
        );
        assert_rejected(&gateway.notify(&body).await, &[]);
        let seen = world.stand_ins.apple.seen();
        assert_eq!(seen[0].header("apns-priority"), Some(priority));
    }
}

#[tokio::test]
async fn collapse_tags_are_of_one_device_and_one_room() {
    let world = World::new().await;
    let gateway = apns(&world, json!({ "collapse": "room" })).await;
    for (pushkey, room) in [
        ("aaaa", "!1:x"),
        ("aaaa", "!1:x"),
        ("aaaa", "!2:x"),
        ("bbbb", "!1:x"),
    ] {
        let body = changed(
            fresh(event_id_only(&[device(APNS, pushkey)])),
            &json!({ "room_id": room }),
        );
        assert_rejected(&gateway.notify(&body).await, &[]);
    }
    let seen = world.stand_ins.apple.seen();
    let tags: Vec<_> = seen
        .iter()
        .map(|push| push.header("apns-collapse-id").unwrap())
        .collect();
    assert_eq!(tags[0].len(), 22);
    assert_eq!(tags[0], tags[1]);
    assert_eq!(BTreeSet::from_iter(&tags).len(), 3);
}

/// Replicas that share a key agree on identifiers.
#[tokio::test]
async fn with_a_key_file_the_identifier_can_be_computed() {
    let world = World::new().await;
    let key = [9_u8; 32];
    let path = world.directory().join("epoch.key");
    stand_ins::write_secret(&path, &STANDARD.encode(key)).unwrap();
    let gateway = apns(&world, json!({ "key_file": path, "epoch": "24h" })).await;
    let body = event_id_only(&[device(APNS, PUSHKEY)]);
    let before = seconds();
    assert_rejected(&gateway.notify(&body).await, &[]);
    let possible = [before, seconds()].map(|time| {
        let epoch = hmac(&key, &[b"nocturne epoch", &(time / 86_400).to_be_bytes()]);
        let event = b"$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs";
        hmac(
            &epoch,
            &[&[1], &with_length(APNS), &with_length(PUSHKEY), event],
        )[..16]
            .to_vec()
    });
    let payload = world.stand_ins.apple.seen()[0].json();
    assert!(possible.contains(&tag(&payload["n"])));
}

/// Two gateways without a shared key do not agree: the key is random and in memory only.
#[tokio::test]
async fn without_a_key_file_identifiers_die_with_the_process() {
    let world = World::new().await;
    for _ in 0..2 {
        let gateway = apns(&world, json!({})).await;
        let body = event_id_only(&[device(APNS, PUSHKEY)]);
        assert_rejected(&gateway.notify(&body).await, &[]);
    }
    let seen = world.stand_ins.apple.seen();
    assert_ne!(seen[0].json()["n"], seen[1].json()["n"]);
}

/// With `jitter` the homeserver is answered at once; what became of the push it hears next time.
#[tokio::test]
async fn jitter_answers_first_and_rejects_later() {
    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    apple.script(|_, _| Some(Reply::apns(410, "Unregistered")));
    let gateway = apns(&world, json!({ "jitter": "1s" })).await;
    let push = || fresh(event_id_only(&[device(APNS, PUSHKEY)]));
    assert_rejected(&gateway.notify(&push()).await, &[]);
    assert_eq!(apple.wait_for(1, PATIENCE).await.len(), 1);
    let told = eventually(async || {
        gateway.notify(&push()).await.rejected() == Some(vec![PUSHKEY.to_owned()])
    });
    assert!(told.await);
}

/// The newest public key that the gateway gives out.
pub(crate) async fn served_key(gateway: &Gateway) -> String {
    let keys = gateway.get("/_nocturne/v1/keys").await;
    assert_eq!(keys.status, StatusCode::OK);
    let listed = &keys.json()["keys"][0];
    assert_eq!(listed["alg"], "x25519");
    let public = listed["key"].as_str().unwrap();
    assert_eq!(listed["id"], key_id(public));
    public.to_owned()
}

/// The key ID of a public key: the first byte of its hash.
pub(crate) fn key_id(public: &str) -> u8 {
    let public = URL_SAFE_NO_PAD.decode(public).unwrap();
    digest(&SHA256, &public).as_ref()[0]
}

#[tokio::test]
async fn sealed_pushkeys_are_opened_here_and_echoed_as_they_came() {
    let world = World::new().await;
    let key = world.directory().join("pushkeys.key");
    let mut command = world.command();
    command.arg("keygen").arg(&key);
    assert!(crate::harness::run(command).await.status.success());
    let options = Options {
        config: json!({ "pushkey_keys": [key] }),
        ..Options::default()
    };
    let gateway = world
        .gateway_with(json!({ APNS: opaque(world.apns(), &json!({})) }), options)
        .await;
    let public = served_key(&gateway).await;

    let sealed = seal_pushkey(&public, APNS, PUSHKEY).unwrap();
    assert!(sealed.len() <= 512);
    let answer = gateway
        .notify(&fresh(event_id_only(&[device(APNS, &sealed)])))
        .await;
    assert_rejected(&answer, &[]);
    assert_eq!(world.stand_ins.apple.seen()[0].device, PUSHKEY_HEX);

    world
        .stand_ins
        .apple
        .queue([Reply::apns(410, "Unregistered")]);
    let answer = gateway
        .notify(&fresh(event_id_only(&[device(APNS, &sealed)])))
        .await;
    assert_rejected(&answer, &[&sealed]);

    world.stand_ins.apple.forget();
    let of_other_app = seal_pushkey(&public, "com.example.other", PUSHKEY).unwrap();
    let of_other_key = {
        let other = PrivateKey::generate(&X25519).unwrap();
        {
            let public = other.compute_public_key().unwrap();
            seal_pushkey(&URL_SAFE_NO_PAD.encode(public), APNS, PUSHKEY).unwrap()
        }
    };
    let mut changed = sealed.clone();
    changed.pop();
    for broken in [
        of_other_app,
        of_other_key,
        changed,
        "nk1.".to_owned(),
        "nk1.!".to_owned(),
    ] {
        let answer = gateway
            .notify(&fresh(event_id_only(&[device(APNS, &broken)])))
            .await;
        assert_rejected(&answer, &[&broken]);
    }
    assert_eq!(world.stand_ins.apple.seen_count(), 0);
}

/// Each time that something of a push is given up, it is counted; now and then the log says why.
#[tokio::test]
async fn what_a_push_lacks_is_counted_and_explained_without_a_name() {
    const TIMES: usize = 20;
    let world = World::new().await;
    // fixed ones: of two that were drawn, one in 256 has the key ID of the other
    let [old, new] = [("old.key", [1; 32]), ("new.key", [2; 32])].map(|(name, key)| {
        let path = world.directory().join(name);
        stand_ins::write_secret(&path, &STANDARD.encode(key)).unwrap();
        path
    });
    let retired = {
        let options = Options {
            config: json!({ "pushkey_keys": [old] }),
            ..Options::default()
        };
        let app = json!({ APNS: opaque(world.apns(), &json!({})) });
        let gateway = world.gateway_with(app, options).await;
        let public = served_key(&gateway).await;
        seal_pushkey(&public, APNS, PUSHKEY).unwrap()
    };
    let options = Options {
        config: json!({
            "pushkey_keys": [new],
            "log": { "level": "info" },
            "limits": { "per_pushkey_per_minute": "off" },
        }),
        ..Options::default()
    };
    let app = json!({
        APNS: opaque(world.apns(), &json!({})),
        UP: opaque(world.unified_push(), &json!({})),
    });
    let gateway = world.gateway_with(app, options).await;
    let keys = DeviceKeys::generate().unwrap();
    let phone = world
        .stand_ins
        .push_service
        .subscribe_unified_push()
        .unwrap();
    let devices = [
        device_with(
            APNS,
            PUSHKEY,
            json!({ "nocturne": { "v": 1, "secret": "Ms9vHnRz" } }),
        ),
        device_with(
            APNS,
            "c3Bxcg==",
            json!({
                "nocturne": { "v": 1, "p256dh": keys.p256dh(), "auth": keys.auth() },
                "default_payload": { "Ms9vHnRz": "x".repeat(2500) },
            }),
        ),
        device_with(
            UP,
            &phone.endpoint,
            json!({ "nocturne": { "v": 2, "p256dh": "Ms9vHnRz" } }),
        ),
        device(APNS, &retired),
    ];
    for _ in 0..TIMES {
        let answer = gateway.notify(&fresh(event_id_only(&devices))).await;
        assert_rejected(&answer, &[&retired]);
    }

    let times = f64::from(u8::try_from(TIMES).unwrap());
    for (name, labels) in [
        (
            "nocturne_push_ignored_device_keys_total",
            &[("app", APNS), ("reason", "malformed")][..],
        ),
        (
            "nocturne_push_ignored_device_keys_total",
            &[("app", UP), ("reason", "version")],
        ),
        (
            "nocturne_push_trimmed_notifications_total",
            &[("app", APNS), ("reason", "data")],
        ),
        (
            "nocturne_push_unopened_pushkeys_total",
            &[("reason", "unknown_key")],
        ),
    ] {
        assert_eq!(gateway.metric(name, labels).await, Some(times), "{name}");
    }
    // present from the start, so that an alert has something to compare with
    let never = gateway
        .metric("nocturne_push_clock_set_back_total", &[("app", APNS)])
        .await;
    assert_eq!(never, Some(0.0));

    let log = gateway.log();
    let lines = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    for words in [
        "`secret` is not 32 bytes in base64url",
        "`v` of `nocturne` is a version that this gateway does not know",
        "does not fit into 2048 bytes",
        "no key of `pushkey_keys` is the one that it names",
    ] {
        // more than once where the machine takes longer than the gate stays shut
        assert!((1..TIMES).contains(&lines(words)), "{words}: {log}");
    }
    let path = phone.endpoint.rsplit_once('/').unwrap().1;
    for secret in [
        PUSHKEY,
        "c3Bxcg",
        "Ms9vHnRz",
        path,
        &retired[4..20],
        "fresh-",
    ] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
    // what the push server gets of a device that asked for encryption in vain
    let seen = world.stand_ins.push_service.seen();
    assert_eq!(seen.len(), TIMES);
    assert!(
        seen.iter()
            .all(|push| push.json() == json!({ "notification": {} }))
    );
}

#[tokio::test]
async fn without_keys_for_pushkeys_none_are_served() {
    let world = World::new().await;
    let gateway = apns(&world, json!({})).await;
    let answer = gateway.get("/_nocturne/v1/keys").await;
    assert_eq!(answer.json(), json!({ "keys": [] }));
}

/// What does not open is rejected, also where there is nothing to open it with.
#[tokio::test]
async fn without_keys_for_pushkeys_a_sealed_one_is_rejected() {
    let world = World::new().await;
    let gateway = apns(&world, json!({})).await;
    let key = PrivateKey::generate(&X25519).unwrap();
    let sealed = seal_pushkey(
        &URL_SAFE_NO_PAD.encode(key.compute_public_key().unwrap()),
        APNS,
        PUSHKEY,
    )
    .unwrap();
    let answer = gateway
        .notify(&fresh(event_id_only(&[device(APNS, &sealed)])))
        .await;
    assert_rejected(&answer, &[&sealed]);
    assert_eq!(world.stand_ins.apple.seen_count(), 0);
}

/// A day in the life of a gateway that logs all it can: everything goes wrong that can go wrong, and
/// still nobody is in its log, its metrics or its error messages.
#[tokio::test]
async fn nobody_is_named_in_logs_metrics_and_error_messages() {
    let world = World::new().await;
    let token = [0x5e; 32];
    let pushkey = STANDARD.encode(token);
    let fcm_token = "fcmtokenSECRET:APA91bHun4MxP5egoKMwt2KZFBaFUH";
    let web = world.stand_ins.push_service.subscribe().unwrap();
    let up = world
        .stand_ins
        .push_service
        .subscribe_unified_push()
        .unwrap();
    let mut secrets: Vec<String> = GIVEN_AWAY.iter().map(|&secret| secret.to_owned()).collect();
    // numbers and the names of apps may look like these
    secrets.retain(|secret| secret != "99999" && secret != "example.com");
    secrets.extend([
        pushkey.clone(),
        pushkey.trim_end_matches('=').to_owned(),
        "5e".repeat(32),
        fcm_token.to_owned(),
        web.p256dh.clone(),
        web.auth.clone(),
        web.endpoint.rsplit_once('/').unwrap().1.to_owned(),
        up.endpoint.rsplit_once('/').unwrap().1.to_owned(),
        "203.0.113.77".to_owned(),
        "homeserver.secret".to_owned(),
    ]);

    let mut said = String::new();
    for payload in ["sygnal", "opaque"] {
        let mut apps = world.all_apps();
        for app in apps.as_object_mut().unwrap().values_mut() {
            app["payload"] = json!(payload);
        }
        let mut gateway = world.gateway(apps).await;
        let devices = || {
            let default_payload = json!({ "cs": "client-secret" });
            vec![
                device_with(
                    APNS,
                    &pushkey,
                    json!({ "default_payload": default_payload }),
                ),
                device_with(
                    FCM,
                    fcm_token,
                    json!({ "default_payload": default_payload }),
                ),
                device_with(
                    WEB,
                    &web.p256dh,
                    json!({ "endpoint": web.endpoint, "auth": web.auth }),
                ),
                device(UP, &up.endpoint),
                device("org.unknown.app", &pushkey),
                device_with(APNS, &pushkey, json!({ "default_payload": null })),
                device_with(
                    WEB,
                    &web.p256dh,
                    json!({ "endpoint": web.endpoint, "auth": "!" }),
                ),
            ]
        };
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("203.0.113.77"));
        headers.insert("user-agent", HeaderValue::from_static("homeserver.secret"));
        let stand_ins = &world.stand_ins;
        let scenarios: [(Option<u16>, bool); 6] = [
            (None, false),
            (Some(400), false),
            (Some(404), false),
            (Some(429), false),
            (Some(503), false),
            (None, true),
        ];
        for (status, drop_connection) in scenarios {
            let reply = move || match status {
                Some(code) => Some(Reply::text(code, "upstream says no")),
                None => drop_connection.then(Reply::drop_connection),
            };
            stand_ins.apple.script(move |_, _| reply());
            stand_ins.google.script(move |_, _| reply());
            stand_ins.push_service.script(move |_, _| reply());
            let answer = gateway
                .homeserver()
                .request(
                    Method::POST,
                    NOTIFY_PATH,
                    headers.clone(),
                    fresh(dummy(&devices())).to_string().into(),
                )
                .await
                .unwrap();
            if answer.status != StatusCode::OK {
                said.push_str(&answer.text());
            }
        }
        // what cannot be parsed is not quoted
        let good = dummy(&devices()).to_string();
        for broken in [
            good.replacen("\"pushkey_ts\":42", "\"pushkey_ts\":\"203.0.113.77\"", 1),
            good.replacen("\"unread\":2", "\"unread\":\"Major Tom\"", 1),
            good[..good.len() / 2].to_owned(),
        ] {
            let answer = gateway.post(broken).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST);
            said.push_str(&answer.text());
        }
        for server in [
            &*stand_ins.apple,
            &*stand_ins.google,
            &*stand_ins.push_service,
        ] {
            server.stop().await;
        }
        said.push_str(&gateway.notify(&fresh(dummy(&devices()[..4]))).await.text());
        for server in [
            &*stand_ins.apple,
            &*stand_ins.google,
            &*stand_ins.push_service,
        ] {
            server.start_again().unwrap();
        }
        said.push_str(&gateway.metrics().await);
        gateway.signal("TERM");
        gateway.ended().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        said.push_str(&gateway.log());
    }
    assert!(said.len() > 1000, "there is a log to look at");
    for secret in secrets {
        let line = said.lines().find(|line| line.contains(&secret));
        assert!(line.is_none(), "{secret} is in: {}", line.unwrap());
    }
}

#[tokio::test]
async fn unsafe_identifiers_are_announced() {
    let world = World::new().await;
    let options = Options {
        config: json!({ "log": { "level": "info", "unsafe_identifiers": true } }),
        ..Options::default()
    };
    let gateway = world
        .gateway_with(json!({ APNS: world.apns() }), options)
        .await;
    let warned = eventually(async || gateway.log().contains("unsafe_identifiers"));
    assert!(warned.await);
}
