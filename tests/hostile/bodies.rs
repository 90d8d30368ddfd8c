//! What a homeserver can put into a request's body.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    draw::{Draw, Known},
    gateway::{Gateway, MODES, TYPES, World},
    wire::{Connection, post, post_chunked},
};

/// Clients that send at once.
const CLIENTS: u64 = 8;
/// Bodies from each of them in one round.
const BODIES: u64 = 150;
/// Memory that another round like the first may take besides, in KiB.
const GROWTH: u64 = 30 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_body_gets_a_500_or_a_line_in_the_log_or_memory_for_good() {
    let world = World::new().await;
    let known = Arc::new(Known::new(&world.stand_ins.push_service));
    let mut gateway = world
        .gateway(&json!({"limits": {"request_budget": "1s", "per_pushkey_per_minute": 100_000}}))
        .await;
    let mut secrets = round(&gateway, &known, 1).await;
    let mut resident = gateway.resident();
    // How much an allocator keeps varies from round to round; a leak grows in each of them.
    for number in 2..=4 {
        secrets.extend(round(&gateway, &known, number).await);
        let before = std::mem::replace(&mut resident, gateway.resident());
        match (before, resident) {
            (Some(before), Some(after)) if after >= before + GROWTH => {
                assert!(number < 4, "{before} KiB, then {after} KiB");
            }
            _ => break,
        }
    }
    gateway.assert_sound(secrets.iter().map(String::as_str).chain(known.secrets()));
}

/// Sends some thousands of bodies and gives what may not be written down of them.
async fn round(gateway: &Gateway, known: &Arc<Known>, number: u64) -> Vec<String> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (address, known) = (gateway.address, Arc::clone(known));
        clients.spawn(async move {
            let mut draw = Draw::new(number << 32 | client);
            let mut connection = Connection::open(address).await.expect("a connection");
            for body_number in 0..BODIES {
                let body = draw.body(&known);
                let request = if draw.chance(30) {
                    let sizes = [1 + draw.below(10), 1 + draw.below(5000), 65_536];
                    post_chunked(&body, &sizes)
                } else {
                    post(&body)
                };
                connection.send(&request).await.expect("the gateway reads");
                let answer = connection.answer().await.expect("the gateway answers");
                let Some(answer) = answer else {
                    panic!("no answer to body {body_number} of client {client} in round {number}");
                };
                assert!(
                    matches!(answer.status, 200 | 400 | 413 | 429 | 502),
                    "{} for {}",
                    answer.status,
                    String::from_utf8_lossy(&body[..body.len().min(2000)])
                );
                answer.assert_well_formed();
                if answer.header("connection") == Some("close") {
                    connection = Connection::open(address).await.expect("a connection");
                }
            }
            draw.secrets
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_told_never_fails_at_providers_that_are_well() {
    let world = World::new().await;
    let known = Known::new(&world.stand_ins.push_service);
    let mut gateway = world.gateway(&json!({})).await;
    let mut draw = Draw::new(3);
    let mut taken = 0;
    for _ in 0..60 {
        for mode in MODES {
            let devices: Vec<_> = TYPES
                .iter()
                .map(|kind| device(kind, mode, &known, draw.number()))
                .collect();
            let body = format!(r#"{{"notification":{}}}"#, draw.notification_to(&devices));
            let answer = gateway.ask(&post(body.as_bytes())).await;
            let answer = answer.expect("an answer").expect("an answer");
            answer.assert_well_formed();
            if answer.status == 400 {
                continue;
            }
            assert_eq!(answer.status, 200, "{mode}: {body}");
            assert_eq!(answer.json(), json!({"rejected": []}), "{mode}: {body}");
            taken += 1;
        }
    }
    assert!(taken > 60, "{taken} of 180 bodies were taken");
    let servers = &world.stand_ins;
    for seen in [
        servers.apple.seen(),
        servers.google.seen(),
        servers.push_service.seen(),
    ] {
        assert!(!seen.is_empty());
        for push in seen {
            assert_eq!(
                push.complaint,
                None,
                "{:?}",
                String::from_utf8_lossy(&push.body)
            );
        }
    }
    gateway.assert_sound(
        draw.secrets
            .iter()
            .map(String::as_str)
            .chain(known.secrets()),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_devices_and_a_crowd_of_members_are_answered_within_the_budget() {
    let world = World::new().await;
    let mut gateway = world
        .gateway(&json!({"limits": {"request_budget": "1s"}}))
        .await;
    let members: Vec<_> = (0..24_000)
        .map(|number| format!(r#""{number}":"""#))
        .collect();
    let content = format!(r#""event_id":"$x","content":{{{}}}"#, members.join(","));
    let long = format!(r#""event_id":"${}""#, "x".repeat(250_000));
    for (app_id, told) in [
        ("gcm.sygnal", &content),
        ("apns.opaque", &long),
        ("webpush.opaque", &long),
    ] {
        let devices: Vec<_> = (0..4000)
            .map(|number| format!(r#"{{"app_id":"{app_id}","pushkey":"{number}"}}"#))
            .collect();
        let body = format!(
            r#"{{"notification":{{"type":"m.room.message",{told},"devices":[{}]}}}}"#,
            devices.join(",")
        );
        let began = Instant::now();
        let answer = gateway.ask(&post(body.as_bytes())).await;
        let answer = answer.expect("an answer").expect("an answer");
        answer.assert_well_formed();
        let took = began.elapsed();
        assert!(took < Duration::from_secs(12), "{app_id}: {took:?}");
    }
    gateway.assert_sound([]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_bad_pushkeys_are_rejected_without_thousands_of_lines() {
    let world = World::new().await;
    let mut gateway = world.gateway(&json!({})).await;
    let long = "x".repeat(5000);
    for (app_id, tail) in [("nobody", ""), ("apns.sygnal", "!"), ("gcm.sygnal", &*long)] {
        let count = 50_000 / (50 + tail.len());
        let devices: Vec<_> = (0..count)
            .map(|number| json!({"app_id": app_id, "pushkey": format!("{number}{tail}")}))
            .collect();
        let answer = gateway
            .notify(&json!({"notification": {"event_id": "$x", "devices": devices}}))
            .await;
        assert_eq!(
            answer.json()["rejected"].as_array().map(Vec::len),
            Some(count),
            "{app_id}"
        );
    }
    let lines = gateway.log().matches("a pushkey is rejected").count();
    assert!((3..20).contains(&lines), "{lines}");
    assert_eq!(world.stand_ins.google.seen_count(), 0);
    gateway.assert_sound([]);
}

/// A device with everything that its type needs.
fn device(kind: &str, mode: &str, known: &Known, number: u64) -> Value {
    let (pushkey, subscription) = match kind {
        "webpush" => (known.browser.p256dh.clone(), &known.browser),
        "unifiedpush" => (known.phone.endpoint.clone(), &known.phone),
        _ => (Draw::token(number), &known.browser),
    };
    json!({
        "app_id": format!("{kind}.{mode}"),
        "pushkey": pushkey,
        "data": {
            "endpoint": subscription.endpoint,
            "p256dh": subscription.p256dh,
            "auth": subscription.auth,
        },
    })
}
