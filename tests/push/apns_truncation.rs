//! How a payload is cut to Apple's 4096 bytes: exactly as Sygnal cuts it.
//!
//! Sygnal's tests call its function with small budgets; over HTTP the budget is Apple's, so the
//! texts are longer here. Sygnal measures JSON with `", "` and `": "` between members and characters
//! unescaped; the result is the same whichever way the gateway writes it.

use http::StatusCode;
use serde_json::{Value, json};
use stand_ins::homeserver::{device_with, dummy, event_id_only};

use crate::harness::{APNS, PUSHKEY, World, assert_rejected, changed, fresh};

const LIMIT: usize = 4096;

/// The number of bytes of `json.dumps(value, ensure_ascii=False)` in Python.
pub(crate) fn python_size(value: &Value) -> usize {
    match value {
        Value::Object(members) => {
            let inner: usize = members
                .iter()
                .map(|(name, member)| {
                    Value::from(name.as_str()).to_string().len() + 2 + python_size(member)
                })
                .sum();
            2 + inner + 2 * members.len().saturating_sub(1)
        }
        Value::Array(items) => {
            let inner: usize = items.iter().map(python_size).sum();
            2 + inner + 2 * items.len().saturating_sub(1)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            value.to_string().len()
        }
    }
}

/// What Apple gets of an `event_id_only` push with this `aps` in its default payload.
async fn cut(aps: Value) -> Value {
    let world = World::new().await;
    let gateway = world.gateway(json!({ APNS: world.apns() })).await;
    let data = json!({ "default_payload": { "aps": aps } });
    let body = event_id_only(&[device_with(APNS, PUSHKEY, data)]);
    assert_rejected(&gateway.notify(&body).await, &[]);
    let seen = world.stand_ins.apple.seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].body.len() <= LIMIT);
    seen[0].json()
}

/// S28 `test_dont_truncate`
#[tokio::test]
async fn s28_dont_truncate() {
    let payload = cut(json!({ "alert": "hello" })).await;
    assert_eq!(payload["aps"]["alert"], "hello");
}

/// S29 `test_truncate_alert`
#[tokio::test]
async fn s29_truncate_alert() {
    let payload = cut(json!({ "alert": "x".repeat(5000) })).await;
    assert_eq!(python_size(&payload), LIMIT);
    let alert = payload["aps"]["alert"].as_str().unwrap();
    assert!(alert.bytes().all(|byte| byte == b'x'));
}

/// S30 `test_truncate_alert_body`
#[tokio::test]
async fn s30_truncate_alert_body() {
    let long = json!({ "title": "not cut", "body": "x".repeat(5000) });
    let payload = cut(json!({ "alert": long })).await;
    assert_eq!(python_size(&payload), LIMIT);
    assert_eq!(payload["aps"]["alert"]["title"], "not cut");
}

/// S31 `test_truncate_loc_arg`
#[tokio::test]
async fn s31_truncate_loc_arg() {
    let long = json!({ "loc-key": "K", "loc-args": ["x".repeat(5000)] });
    let payload = cut(json!({ "alert": long })).await;
    assert_eq!(python_size(&payload), LIMIT);
    assert_eq!(payload["aps"]["alert"]["loc-key"], "K");
}

/// S32 `test_truncate_loc_args`: the longest is cut first, the first of two that are equally long.
#[tokio::test]
async fn s32_truncate_loc_args() {
    let long = json!({ "loc-key": "K", "loc-args": ["x".repeat(5000), "short", "y".repeat(5000)] });
    let payload = cut(json!({ "alert": long })).await;
    assert_eq!(python_size(&payload), LIMIT);
    let arguments = &payload["aps"]["alert"]["loc-args"];
    assert_eq!(arguments[1], "short");
    let first = arguments[0].as_str().unwrap().len();
    let last = arguments[2].as_str().unwrap().len();
    assert!(first == last || first + 1 == last, "{first} and {last}");
}

/// S33 `test_python_unicode_support`: names are cut to 1024 characters, not bytes.
#[tokio::test]
async fn s33_characters_are_counted_as_characters() {
    let world = World::new().await;
    let gateway = world.gateway(json!({ APNS: world.apns() })).await;
    let body = changed(
        dummy(&[stand_ins::homeserver::device(APNS, PUSHKEY)]),
        &json!({ "sender_display_name": "é".repeat(1100) }),
    );
    assert_rejected(&gateway.notify(&body).await, &[]);
    let payload = world.stand_ins.apple.seen()[0].json();
    let name = payload["aps"]["alert"]["loc-args"][0].as_str().unwrap();
    assert_eq!(name.chars().count(), 1024);
}

/// S34 `test_truncate_string_with_multibyte`
#[tokio::test]
async fn s34_truncate_string_with_multibyte() {
    let payload = cut(json!({ "alert": format!("🎉{}", "x".repeat(5000)) })).await;
    assert_eq!(python_size(&payload), LIMIT);
    assert!(payload["aps"]["alert"].as_str().unwrap().starts_with("🎉x"));
}

/// S35 `test_truncate_multibyte`
#[tokio::test]
async fn s35_truncate_multibyte() {
    let payload = cut(json!({ "alert": "🎉".repeat(2000) })).await;
    assert!((LIMIT - 3..=LIMIT).contains(&python_size(&payload)));
    let alert = payload["aps"]["alert"].as_str().unwrap();
    assert!(alert.chars().all(|character| character == '🎉'));
}

/// Escaped characters count as what they are written as.
#[tokio::test]
async fn quotes_and_line_ends_are_measured_escaped() {
    let payload = cut(json!({ "alert": "\"\n\\".repeat(2000) })).await;
    assert!((LIMIT - 1..=LIMIT).contains(&python_size(&payload)));
}

/// Where nothing that may be cut is left Sygnal answers 500; here it is a failure of this device,
/// or of nobody.
#[tokio::test]
async fn what_cannot_be_cut_is_no_500() {
    let world = World::new().await;
    let gateway = world.gateway(json!({ APNS: world.apns() })).await;
    for default_payload in [
        json!({ "custom": "x".repeat(5000) }),
        json!({ "aps": { "alert": { "title": "x".repeat(5000) } } }),
    ] {
        let data = json!({ "default_payload": default_payload });
        let devices = [device_with(APNS, PUSHKEY, data)];
        let answer = gateway.notify(&fresh(event_id_only(&devices))).await;
        assert_ne!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert!(
        world
            .stand_ins
            .apple
            .seen()
            .iter()
            .all(|push| push.complaint.is_none())
    );
}

/// Sygnal needs seconds for this (and does nothing else meanwhile); an attacker could send many.
#[tokio::test]
async fn the_longest_body_is_cut_without_effort() {
    let world = World::new().await;
    let gateway = world.gateway(json!({ APNS: world.apns() })).await;
    let content = json!({ "msgtype": "m.text", "body": "x".repeat(500_000) });
    for _ in 0..20 {
        let body = changed(
            fresh(dummy(&[stand_ins::homeserver::device(APNS, PUSHKEY)])),
            &json!({ "content": content }),
        );
        assert_rejected(&gateway.notify(&body).await, &[]);
    }
    for push in world.stand_ins.apple.seen() {
        assert_eq!(python_size(&push.json()), LIMIT);
    }
}
