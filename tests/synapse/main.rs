//! The gateway between a real Synapse and the stand-ins for the providers.
//!
//! `NOCTURNE_SYNAPSE_PYTHON` names the Python of a virtual environment with `matrix-synapse` in it
//! (CONTRIBUTING.md). Where it is not set, these tests say so and do nothing.

use std::{path::PathBuf, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use shared::environment::Environment;
use stand_ins::{DeviceKeys, Reply, Seen, seal_pushkey};

use crate::stage::{APNS, APNS_AS_SYGNAL, FCM, Stage, UNIFIED_PUSH, WEB_PUSH, apple_token};

mod gateway;
mod process;
mod stage;
mod synapse;
mod tap;

/// How long anything is waited for. Nothing waits this long unless it is about to fail.
const PATIENCE: Duration = Duration::from_mins(2);

/// Some time in 2100: Apple's `timestamp` of a device that is gone, later than any pusher's.
const IN_2100_MILLISECONDS: u64 = 4_102_444_800_000;

#[tokio::test]
async fn every_provider_gets_each_message_exactly_once() {
    let Some(python) = synapse_python() else {
        return;
    };
    let stage = Stage::set(&python).await;
    stage.register_every_device().await;

    for sent in 1..=2 {
        stage.bob.send(&stage.room, "dinner is ready").await;
        for server in stage.servers() {
            // a pusher sends in order, so a second copy of one message is here before the next message
            let seen = server.wait_for(sent, PATIENCE).await;
            assert_eq!(seen.len(), sent, "{seen:#?}");
            assert_eq!(complaints(&seen), [""; 0]);
        }
    }
    assert_eq!(stage.alice.pushers().await.len(), 4);
}

#[tokio::test]
async fn what_an_outage_held_up_arrives_once_after_it() {
    let Some(python) = synapse_python() else {
        return;
    };
    let stage = Stage::set(&python).await;
    stage.register_apple_device(APNS).await;
    let apple = &stage.stand_ins.apple;

    apple.stop().await;
    let held_up = stage.bob.send(&stage.room, "is anyone there?").await;
    let refused = stage
        .tap
        .wait_for("a push that Synapse has to send again", |exchange| {
            exchange.event_id() == Some(&held_up)
        })
        .await;
    assert_eq!(refused.status, 502);

    apple.start_again().expect("Apple's port is free");
    stage
        .tap
        .wait_for("the same push, delivered", |exchange| {
            exchange.event_id() == Some(&held_up) && exchange.status == 200
        })
        .await;
    stage.bob.send(&stage.room, "hello again").await;
    let seen = apple.wait_for(2, PATIENCE).await;
    assert_eq!(seen.len(), 2, "{seen:#?}");
    assert_eq!(stage.alice.pushers().await.len(), 1);
}

#[tokio::test]
async fn a_dead_token_takes_its_pusher_with_it() {
    let Some(python) = synapse_python() else {
        return;
    };
    let stage = Stage::set(&python).await;
    let devices = stage.register_every_device().await;
    stage.bob.send(&stage.room, "see you there").await;
    for server in stage.servers() {
        server.wait_for(1, PATIENCE).await;
    }
    assert_eq!(stage.alice.pushers().await.len(), 4);

    let gone = Reply::apns(410, "Unregistered").timestamp(IN_2100_MILLISECONDS);
    stage.stand_ins.apple.queue([gone]);
    stage
        .stand_ins
        .google
        .queue([Reply::fcm(404, "UNREGISTERED")]);
    stage.stand_ins.push_service.unsubscribe(&devices.web_push);
    stage.unified_push.unsubscribe(&devices.unified_push);
    stage.bob.send(&stage.room, "you left your phone").await;

    stage.alice.wait_for_pushers(0).await;
    assert!(
        stage
            .tap
            .exchanges()
            .iter()
            .all(|exchange| exchange.status == 200),
        "{:#?}",
        stage.tap.exchanges()
    );
}

#[tokio::test]
async fn a_device_that_lives_keeps_its_pusher_when_another_dies() {
    let Some(python) = synapse_python() else {
        return;
    };
    let stage = Stage::set(&python).await;
    stage.register_every_device().await;

    stage
        .stand_ins
        .google
        .queue([Reply::fcm(404, "UNREGISTERED")]);
    stage.bob.send(&stage.room, "you left your phone").await;
    stage.alice.wait_for_pushers(3).await;

    let left = stage.alice.pushers().await;
    assert!(left.iter().all(|pusher| pusher["app_id"] != FCM));
    stage.bob.send(&stage.room, "and your keys").await;
    stage.stand_ins.apple.wait_for(2, PATIENCE).await;
    assert_eq!(stage.stand_ins.apple.seen_count(), 2);
    assert_eq!(stage.stand_ins.google.seen_count(), 1);
}

#[tokio::test]
async fn a_read_receipt_sends_a_badge_update_and_it_is_answered() {
    let Some(python) = synapse_python() else {
        return;
    };
    let stage = Stage::set(&python).await;
    stage.register_every_device().await;

    let event = stage.bob.send(&stage.room, "read me").await;
    for server in stage.servers() {
        server.wait_for(1, PATIENCE).await;
    }
    stage.alice.mark_read(&stage.room, &event).await;

    for app_id in [APNS, FCM, WEB_PUSH, UNIFIED_PUSH] {
        let badge = stage
            .tap
            .wait_for("a badge update", |exchange| {
                exchange.event_id().is_none() && exchange.app_id() == Some(app_id)
            })
            .await;
        assert_eq!(badge.notification["type"], Value::Null);
        assert_eq!(badge.notification["counts"]["unread"], 0);
        assert_eq!(badge.status, 200);
        assert_eq!(badge.answer, json!({"rejected": []}));
    }
    // reading is nobody's business but the homeserver's
    assert_eq!(stage.stand_ins.apple.seen_count(), 1);
    assert_eq!(stage.stand_ins.google.seen_count(), 1);
}

#[tokio::test]
async fn opaque_pushes_carry_nothing_that_the_homeserver_knows_things_by() {
    let Some(python) = synapse_python() else {
        return;
    };
    let stage = Stage::set(&python).await;
    stage.register_every_device().await;

    let event = stage.bob.send(&stage.room, "cellarcake").await;
    let mut secrets = stage.identifiers();
    secrets.push(local_part(&event));
    secrets.push("cellarcake".to_owned());

    for server in stage.servers() {
        let seen = server.wait_for(1, PATIENCE).await;
        assert_eq!(seen.len(), 1, "{seen:#?}");
        let bytes = everything_in(&seen[0]);
        for secret in &secrets {
            assert!(!bytes.contains(secret), "{secret} is in {bytes}");
        }
    }
    // while the device, which has the keys, reads what it needs
    for server in [&*stage.stand_ins.push_service, &*stage.unified_push] {
        let opened = server.seen()[0].decrypted_json();
        assert_eq!(opened["room_id"], *stage.room);
        assert_eq!(opened["event_id"], *event);
    }
}

#[tokio::test]
async fn synapse_hands_on_the_keys_of_devices_from_either_place() {
    let Some(python) = synapse_python() else {
        return;
    };
    let stage = Stage::set(&python).await;
    let apple = DeviceKeys::generate().expect("keys can be made");
    let google = DeviceKeys::generate().expect("keys can be made");
    let nocturne =
        |keys: &DeviceKeys| json!({"v": 1, "p256dh": keys.p256dh(), "auth": keys.auth()});
    let data = json!({"nocturne": nocturne(&apple), "default_payload": {"client": "alice-phone"}});
    stage.register(APNS, &apple_token(), data).await;
    let default_payload = json!({"nocturne": nocturne(&google), "client": "alice-phone"});
    let token = "cellOfAlice:APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx";
    stage
        .register(FCM, token, json!({"default_payload": default_payload}))
        .await;

    let event = stage.bob.send(&stage.room, "cellarcake").await;
    for (server, keys, place) in [
        (&*stage.stand_ins.apple, &apple, "/p"),
        (&*stage.stand_ins.google, &google, "/message/data/p"),
    ] {
        let seen = server.wait_for(1, PATIENCE).await;
        assert_eq!(complaints(&seen), [""; 0]);
        let body = seen.first().expect("the push came").json();
        let blob = body.pointer(place).and_then(Value::as_str);
        let blob = URL_SAFE_NO_PAD
            .decode(blob.expect("a blob is in the push"))
            .expect("the blob is base64url");
        let opened = keys.open(&blob).expect("the blob is for this device");
        let opened: Value = serde_json::from_slice(&opened).expect("JSON was sealed");
        assert_eq!(opened["event_id"], *event);
        assert_eq!(opened["room_id"], *stage.room);
        assert_eq!(opened["unread"], 1);
        // with the device's own data, and without its keys
        assert_eq!(opened["data"], json!({"client": "alice-phone"}));
        assert!(!body.to_string().contains(&keys.auth()));
    }
}

#[tokio::test]
async fn a_sealed_pushkey_is_pushed_to_and_rejected_as_it_was_registered() {
    let Some(python) = synapse_python() else {
        return;
    };
    let stage = Stage::set(&python).await;
    let key = stage.gateway.pushkey_key().await;
    let sealed = seal_pushkey(&key, APNS, &apple_token()).expect("it can be sealed");
    stage.register(APNS, &sealed, json!({})).await;
    // what the homeserver keeps is not what Apple knows the device by
    let kept = stage.alice.pushers().await;
    assert_eq!(kept[0]["pushkey"], *sealed);
    assert!(!kept[0].to_string().contains(&apple_token()));

    stage.bob.send(&stage.room, "dinner is ready").await;
    let apple = &stage.stand_ins.apple;
    let seen = apple.wait_for(1, PATIENCE).await;
    assert_eq!(complaints(&seen), [""; 0]);
    assert_eq!(seen[0].device, "a5".repeat(32));
    assert_eq!(stage.alice.pushers().await.len(), 1);

    apple.queue([Reply::apns(410, "Unregistered").timestamp(IN_2100_MILLISECONDS)]);
    stage.bob.send(&stage.room, "you left your phone").await;
    let rejection = stage
        .tap
        .wait_for("a rejection", |exchange| {
            exchange.answer != json!({"rejected": []})
        })
        .await;
    assert_eq!(rejection.answer, json!({"rejected": [sealed]}));
    stage.alice.wait_for_pushers(0).await;
}

#[tokio::test]
async fn a_pushkey_sealed_for_another_app_takes_its_pusher_with_it() {
    let Some(python) = synapse_python() else {
        return;
    };
    let stage = Stage::set(&python).await;
    let key = stage.gateway.pushkey_key().await;
    let sealed = seal_pushkey(&key, FCM, &apple_token()).expect("it can be sealed");
    stage.register(APNS, &sealed, json!({})).await;
    stage.bob.send(&stage.room, "dinner is ready").await;
    stage.alice.wait_for_pushers(0).await;
    assert_eq!(stage.stand_ins.apple.seen_count(), 0);
}

#[tokio::test]
async fn an_app_in_mode_sygnal_gets_the_room_and_the_event() {
    let Some(python) = synapse_python() else {
        return;
    };
    let stage = Stage::set(&python).await;
    stage.register_apple_device(APNS_AS_SYGNAL).await;

    let event = stage.bob.send(&stage.room, "as ever").await;
    let seen = stage.stand_ins.apple.wait_for(1, PATIENCE).await;
    let body = seen.first().expect("Apple got the push").json();
    assert_eq!(body["room_id"], *stage.room);
    assert_eq!(body["event_id"], *event);
}

#[tokio::test]
async fn a_unified_push_client_of_today_reads_what_it_always_read() {
    let Some(python) = synapse_python() else {
        return;
    };
    let stage = Stage::set(&python).await;
    let endpoint = stage.subscribe_unified_push().endpoint;
    stage.register(UNIFIED_PUSH, &endpoint, json!({})).await;

    let event = stage.bob.send(&stage.room, "as ever").await;
    let seen = stage.unified_push.wait_for(1, PATIENCE).await;
    let notification = &seen.first().expect("the push came").json()["notification"];
    assert_eq!(notification["room_id"], *stage.room);
    assert_eq!(notification["event_id"], *event);
    assert_eq!(notification["counts"]["unread"], 1);
    assert_eq!(notification.get("devices"), None);
}

/// The Python that has Synapse, or word that these tests are left out.
fn synapse_python() -> Option<PathBuf> {
    let python = Environment::of_process()
        .get("NOCTURNE_SYNAPSE_PYTHON")
        .map(PathBuf::from);
    if python.is_none() {
        eprintln!("skipped: NOCTURNE_SYNAPSE_PYTHON names no Python with matrix-synapse");
    }
    python
}

/// What the stand-in found wrong with the requests.
fn complaints(seen: &[Seen]) -> Vec<&str> {
    seen.iter()
        .filter_map(|seen| seen.complaint.as_deref())
        .collect()
}

/// A Matrix identifier without its sigil and its server, so that no way of escaping those hides it.
fn local_part(identifier: &str) -> String {
    identifier
        .trim_start_matches(['@', '!', '$'])
        .split(':')
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// A request as its receiver could read it: path, headers and body.
fn everything_in(seen: &Seen) -> String {
    format!(
        "{} {:?} {}",
        seen.path,
        seen.headers,
        String::from_utf8_lossy(&seen.body)
    )
}
