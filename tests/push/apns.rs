//! Apple: what it is sent in mode `sygnal`, how the gateway proves who it is, and what each of
//! Apple's answers means for the homeserver.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use http::StatusCode;
use serde_json::{Value, json};
use stand_ins::{
    Reply, Seen, TOPIC, Then,
    homeserver::{badge_only, device, device_with, dummy, event_id_only, large_fields},
};

use crate::{
    apns_truncation::python_size,
    harness::{
        APNS, Gateway, Options, PATIENCE, PUSHKEY, PUSHKEY_HEX, World, assert_rejected, changed,
        errcode, eventually, fresh, merged,
    },
};

async fn with(world: &World, members: Value) -> Gateway {
    let app = merged(world.apns(), &members);
    world.gateway(json!({ APNS: app })).await
}

async fn plain(world: &World) -> Gateway {
    with(world, json!({})).await
}

fn to_device() -> Vec<Value> {
    vec![device(APNS, PUSHKEY)]
}

fn with_default_payload(default_payload: &Value) -> Vec<Value> {
    vec![device_with(
        APNS,
        PUSHKEY,
        json!({ "default_payload": default_payload }),
    )]
}

/// The default payload of Element's iOS clients.
fn elements_default_payload() -> Value {
    json!({ "aps": {
        "mutable-content": 1,
        "alert": { "loc-key": "SINGLE_UNREAD", "loc-args": [] },
    }})
}

/// The only push that Apple got, which was in order.
fn only(world: &World) -> Seen {
    let mut seen = world.stand_ins.apple.seen();
    assert_eq!(seen.len(), 1);
    let push = seen.remove(0);
    assert_eq!(push.complaint, None);
    push
}

/// S15 `test_payload_truncation`: at Apple's real limit of 4096 bytes, which cannot be lowered here.
#[tokio::test]
async fn s15_payload_truncation() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let body = changed(
        large_fields(&to_device()),
        &json!({ "content": { "msgtype": "m.text", "body": "x".repeat(6000) } }),
    );
    assert_rejected(&gateway.notify(&body).await, &[]);
    let push = only(&world);
    assert!(push.body.len() <= 4096);
    assert_eq!(python_size(&push.json()), 4096);
}

/// S16 `test_payload_truncation_test_validity`
#[tokio::test]
async fn s16_payload_that_fits_is_not_cut() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    assert_rejected(&gateway.notify(&dummy(&to_device())).await, &[]);
    assert!(python_size(&only(&world).json()) > 200);
}

/// S17 `test_expected`
#[tokio::test]
async fn s17_expected() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    assert_rejected(&gateway.notify(&dummy(&to_device())).await, &[]);
    let push = only(&world);
    assert_eq!(
        push.json(),
        json!({
            "room_id": "!slw48wfj34rtnrf:example.com",
            "event_id": "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs",
            "aps": {
                "alert": {
                    "loc-key": "MSG_FROM_USER_IN_ROOM_WITH_CONTENT",
                    "loc-args": [
                        "Major Tom",
                        "Mission Control",
                        "I'm floating in a most peculiar way.",
                    ],
                },
                "badge": 3,
            },
        })
    );
    assert_eq!(push.device, PUSHKEY_HEX);
    assert_eq!(push.path, format!("/3/device/{PUSHKEY_HEX}"));
    assert_eq!(push.header("apns-topic"), Some(TOPIC));
    assert_eq!(push.header("apns-priority"), Some("10"));
    assert_eq!(push.header("apns-push-type"), None);
    assert!(push.header("apns-id").is_some());
}

/// S18 `test_expected_event_id_only_with_default_payload`
#[tokio::test]
async fn s18_expected_event_id_only_with_default_payload() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let devices = with_default_payload(&elements_default_payload());
    assert_rejected(&gateway.notify(&event_id_only(&devices)).await, &[]);
    assert_eq!(
        only(&world).json(),
        json!({
            "room_id": "!slw48wfj34rtnrf:example.com",
            "event_id": "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs",
            "unread_count": 2,
            "aps": {
                "alert": { "loc-key": "SINGLE_UNREAD", "loc-args": [] },
                "mutable-content": 1,
            },
        })
    );
}

/// S19 `test_expected_badge_only_with_default_payload`
#[tokio::test]
async fn s19_expected_badge_only_with_default_payload() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let devices = with_default_payload(&elements_default_payload());
    assert_rejected(&gateway.notify(&badge_only(&devices)).await, &[]);
    assert_eq!(only(&world).json(), json!({ "aps": { "badge": 2 } }));
}

/// S20 `test_expected_full_with_default_payload`
#[tokio::test]
async fn s20_expected_full_with_default_payload() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let devices = with_default_payload(&elements_default_payload());
    assert_rejected(&gateway.notify(&dummy(&devices)).await, &[]);
    let aps = &only(&world).json()["aps"];
    assert_eq!(aps["mutable-content"], 1);
    assert_eq!(aps["badge"], 3);
    assert_eq!(
        aps["alert"]["loc-key"],
        "MSG_FROM_USER_IN_ROOM_WITH_CONTENT"
    );
    assert_eq!(
        aps["alert"]["loc-args"],
        json!([
            "Major Tom",
            "Mission Control",
            "I'm floating in a most peculiar way."
        ])
    );
}

/// S21 `test_misconfigured_payload_is_rejected`
#[tokio::test]
async fn s21_misconfigured_payload_is_rejected() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    for default_payload in [Value::Null, json!("x"), json!([]), json!(7)] {
        let devices = [device_with(
            APNS,
            "badpayload",
            json!({ "default_payload": default_payload }),
        )];
        let answer = gateway.notify(&fresh(dummy(&devices))).await;
        assert_rejected(&answer, &["badpayload"]);
        let answer = gateway.notify(&fresh(event_id_only(&devices))).await;
        assert_rejected(&answer, &["badpayload"]);
    }
    assert_eq!(world.stand_ins.apple.seen_count(), 0);
}

/// S22 `test_rejection`
#[tokio::test]
async fn s22_rejection() {
    let world = World::new().await;
    world
        .stand_ins
        .apple
        .script(|_, _| Some(Reply::apns(410, "Unregistered")));
    let gateway = plain(&world).await;
    assert_rejected(&gateway.notify(&dummy(&to_device())).await, &[PUSHKEY]);
    assert_eq!(world.stand_ins.apple.seen_count(), 1);
}

/// S23 `test_send_badge_counts`
#[tokio::test]
async fn s23_send_badge_counts() {
    let world = World::new().await;
    let gateway = with(&world, json!({ "send_badge_counts": false })).await;
    assert_rejected(&gateway.notify(&dummy(&to_device())).await, &[]);
    let aps = &only(&world).json()["aps"];
    assert_eq!(aps.get("badge"), None);
    assert!(aps["alert"].is_object());
}

/// S24 `test_send_badge_counts_with_badge_only_notification`
#[tokio::test]
async fn s24_send_badge_counts_with_badge_only_notification() {
    let world = World::new().await;
    let gateway = with(&world, json!({ "send_badge_counts": false })).await;
    assert_rejected(&gateway.notify(&badge_only(&to_device())).await, &[]);
    assert_eq!(world.stand_ins.apple.seen_count(), 0);
}

/// S25 `test_no_retry_on_4xx`
#[tokio::test]
async fn s25_no_retry_on_4xx() {
    let world = World::new().await;
    world
        .stand_ins
        .apple
        .script(|_, _| Some(Reply::apns(429, "TooManyRequests")));
    let gateway = plain(&world).await;
    let answer = gateway.notify(&dummy(&to_device())).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(world.stand_ins.apple.seen_count(), 1);
}

/// S26 `test_retry_on_5xx`
#[tokio::test]
async fn s26_retry_on_5xx() {
    let world = World::new().await;
    world
        .stand_ins
        .apple
        .script(|_, _| Some(Reply::apns(503, "ServiceUnavailable")));
    let gateway = plain(&world).await;
    let answer = gateway.notify(&dummy(&to_device())).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    errcode(&answer);
    let attempts = world.stand_ins.apple.seen();
    assert!((2..=3).contains(&attempts.len()), "{}", attempts.len());
    assert!(
        attempts
            .iter()
            .all(|attempt| attempt.body == attempts[0].body)
    );
}

/// S27 `test_expected_with_push_type`
#[tokio::test]
async fn s27_expected_with_push_type() {
    let world = World::new().await;
    let gateway = with(&world, json!({ "push_type": "alert" })).await;
    assert_rejected(&gateway.notify(&dummy(&to_device())).await, &[]);
    assert_eq!(only(&world).header("apns-push-type"), Some("alert"));
}

#[tokio::test]
async fn a_passing_5xx_is_not_seen_by_the_homeserver() {
    let world = World::new().await;
    world
        .stand_ins
        .apple
        .queue([Reply::apns(500, "InternalServerError")]);
    let gateway = plain(&world).await;
    assert_rejected(&gateway.notify(&dummy(&to_device())).await, &[]);
    assert_eq!(world.stand_ins.apple.seen_count(), 2);
}

#[tokio::test]
async fn apples_words_for_dead_tokens_reject_the_pushkey() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    // a gateway that has delivered nothing yet may have the wrong platform or topic
    assert_rejected(&gateway.notify(&fresh(dummy(&to_device()))).await, &[]);
    for (status, reason) in [
        (400, "BadDeviceToken"),
        (400, "DeviceTokenNotForTopic"),
        (410, "Unregistered"),
        (410, "ExpiredToken"),
    ] {
        world.stand_ins.apple.forget();
        world.stand_ins.apple.queue([Reply::apns(status, reason)]);
        let answer = gateway.notify(&fresh(dummy(&to_device()))).await;
        assert_rejected(&answer, &[PUSHKEY]);
        assert_eq!(world.stand_ins.apple.seen_count(), 1, "{reason}");
    }
}

#[tokio::test]
async fn the_wrong_platform_or_topic_deletes_no_pusher() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    for reason in ["BadDeviceToken", "DeviceTokenNotForTopic"] {
        world.stand_ins.apple.forget();
        world.stand_ins.apple.queue([Reply::apns(400, reason)]);
        let answer = gateway.notify(&fresh(dummy(&to_device()))).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{reason}");
        assert_eq!(world.stand_ins.apple.seen_count(), 1, "{reason}");
    }
}

#[tokio::test]
async fn apples_other_refusals_give_502_and_reject_nobody() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    for (status, reason) in [
        (400, "BadTopic"),
        (400, "BadExpirationDate"),
        (400, "TopicDisallowed"),
        (403, "InvalidProviderToken"),
        (403, "BadCertificate"),
        (403, "Forbidden"),
        (404, "BadPath"),
        (413, "PayloadTooLarge"),
        (429, "TooManyRequests"),
        (429, "TooManyProviderTokenUpdates"),
        (400, "AWordFromTheFuture"),
    ] {
        world
            .stand_ins
            .apple
            .script(move |_, _| Some(Reply::apns(status, reason)));
        let answer = gateway.notify(&fresh(dummy(&to_device()))).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{reason}");
        errcode(&answer);
    }
    // and a body that is not Apple's at all
    world
        .stand_ins
        .apple
        .script(|_, _| Some(Reply::text(400, "<html>")));
    let answer = gateway.notify(&fresh(dummy(&to_device()))).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
}

/// A device that registered again after Apple had noticed that it was gone is not gone.
#[tokio::test]
async fn unregistered_before_the_pusher_was_made_does_not_reject_it() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let registered = 1_700_000_000_u64;
    let mut device = device(APNS, PUSHKEY);
    device["pushkey_ts"] = json!(registered);
    let devices = [device];
    let gone = |seconds: u64| [Reply::apns(410, "Unregistered").timestamp(seconds * 1000)];
    world.stand_ins.apple.queue(gone(registered - 3600));
    let answer = gateway.notify(&fresh(dummy(&devices))).await;
    assert_ne!(answer.rejected(), Some(vec![PUSHKEY.to_owned()]));
    assert!(answer.status == StatusCode::OK || answer.status == StatusCode::BAD_GATEWAY);
    world.stand_ins.apple.queue(gone(registered + 3600));
    let answer = gateway.notify(&fresh(dummy(&devices))).await;
    assert_rejected(&answer, &[PUSHKEY]);
}

#[tokio::test]
async fn no_connection_gives_502_and_recovers_by_itself() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    world.stand_ins.apple.stop().await;
    let answer = gateway.notify(&fresh(dummy(&to_device()))).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    errcode(&answer);
    world.stand_ins.apple.start_again().unwrap();
    let recovered = eventually(async || {
        let answer = gateway.notify(&fresh(dummy(&to_device()))).await;
        answer.status == StatusCode::OK
    });
    assert!(recovered.await);
}

#[tokio::test]
async fn connections_that_apple_ends_lose_nothing() {
    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    let gateway = plain(&world).await;
    let push = async || gateway.notify(&fresh(dummy(&to_device()))).await;
    assert_rejected(&push().await, &[]);
    apple.go_away();
    assert_rejected(&push().await, &[]);
    apple.queue([Reply::status(200).then(Then::GoAway)]);
    assert_rejected(&push().await, &[]);
    assert_rejected(&push().await, &[]);
    apple.drop_connections();
    assert_rejected(&push().await, &[]);
    apple.queue([Reply::drop_connection()]);
    assert_rejected(&push().await, &[]);
}

/// Apple sometimes never answers a request (pushy issue 816).
#[tokio::test]
async fn a_request_that_hangs_is_tried_again() {
    let world = World::new().await;
    world.stand_ins.apple.queue([Reply::hang_forever()]);
    let app = merged(world.apns(), &json!({ "request_timeout": "1s" }));
    let options = Options {
        config: json!({ "limits": { "request_budget": "25s" } }),
        ..Options::default()
    };
    let gateway = world.gateway_with(json!({ APNS: app }), options).await;
    assert_rejected(&gateway.notify(&dummy(&to_device())).await, &[]);
    assert_eq!(world.stand_ins.apple.seen_count(), 2);
}

/// Apple allows one stream until a token was accepted, and fewer after errors (pushy issue 732).
#[tokio::test]
async fn one_stream_at_a_time_is_enough() {
    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    apple.set_max_concurrent_streams(1);
    let options = Options {
        config: json!({ "limits": { "request_budget": "25s" } }),
        ..Options::default()
    };
    let gateway = world
        .gateway_with(json!({ APNS: world.apns() }), options)
        .await;
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let homeserver = gateway.homeserver();
        let body = fresh(dummy(&to_device()));
        requests.spawn(async move { homeserver.notify(&body).await.unwrap().status });
    }
    while let Some(status) = requests.join_next().await {
        assert_eq!(status.unwrap(), StatusCode::OK);
    }
    assert_eq!(apple.connections().most_streams, 1);
}

#[tokio::test]
async fn the_provider_token_is_reused_and_not_renewed_more_often_than_apple_allows() {
    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    let gateway = plain(&world).await;
    for _ in 0..5 {
        assert_rejected(&gateway.notify(&fresh(dummy(&to_device()))).await, &[]);
    }
    assert_eq!(apple.provider_tokens(), 1);
    // Within 20 minutes of the last one Apple takes no other: the homeserver has to wait, and nobody is
    // rejected. That it is renewed after them is tested where time can be moved.
    apple.expire_tokens();
    for _ in 0..5 {
        let answer = gateway.notify(&fresh(dummy(&to_device()))).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    }
    assert_eq!(apple.provider_tokens(), 1);
    let ready = gateway.get("/ready").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_certificate_stands_for_key_and_topic() {
    let world = World::new().await;
    let app = json!({
        "type": "apns",
        "certfile": world.files.apns_certificate,
        "endpoint": world.stand_ins.apple.url(),
        "payload": "sygnal",
    });
    let gateway = world.gateway(json!({ APNS: app })).await;
    assert_rejected(&gateway.notify(&dummy(&to_device())).await, &[]);
    let push = only(&world);
    assert_eq!(push.header("apns-topic"), Some(TOPIC));
    assert_eq!(push.header("authorization"), None);
    let expiry = gateway
        .metric("sygnal_client_cert_expiry", &[("pushkin", APNS)])
        .await
        .unwrap();
    assert!(expiry > 1_700_000_000.0);
}

/// Sygnal: "certfile wins if both are set".
#[tokio::test]
async fn a_certificate_wins_over_a_key() {
    let world = World::new().await;
    let gateway = with(&world, json!({ "certfile": world.files.apns_certificate })).await;
    assert_rejected(&gateway.notify(&dummy(&to_device())).await, &[]);
    assert_eq!(only(&world).header("authorization"), None);
}

#[tokio::test]
async fn an_expired_certificate_is_an_error_for_check_and_stops_no_other_app() {
    let world = World::new().await;
    let identity = world
        .stand_ins
        .authority
        .client_identity(
            TOPIC,
            SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 40),
        )
        .unwrap();
    let path = world.directory().join("old.pem");
    fs::write(&path, identity.pem()).unwrap();
    let app = json!({
        "type": "apns",
        "certfile": path,
        "endpoint": world.stand_ins.apple.url(),
        "payload": "sygnal",
    });
    let config = world.directory().join("check.yaml");
    fs::write(&config, json!({ "apps": { APNS: app } }).to_string()).unwrap();
    let mut command = world.command();
    command.arg("check").arg(&config);
    let output = crate::harness::run(command).await;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        said.contains("error: ") && said.contains("EXPIRED"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(1));

    // the other apps go on, which is why the gateway starts all the same
    let gateway = world
        .gateway(json!({ APNS: app, "com.example.other": world.apns() }))
        .await;
    let devices = [device("com.example.other", PUSHKEY)];
    assert_rejected(&gateway.notify(&dummy(&devices)).await, &[]);
}

#[tokio::test]
async fn device_tokens_are_read_as_leniently_as_python_reads_base64() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    for (pushkey, token) in [
        ("spqr", "b29aab"),
        ("a:bcd", "69b71d"),
        ("sp\nqr", "b29aab"),
        ("sp-_qr", "b29aab"),
        ("spo=", "b29a"),
    ] {
        world.stand_ins.apple.forget();
        let answer = gateway
            .notify(&fresh(dummy(&[device(APNS, pushkey)])))
            .await;
        assert_rejected(&answer, &[]);
        assert_eq!(only(&world).device, token, "{pushkey:?}");
    }
    // where Sygnal answers 500
    for pushkey in ["abc", "a", "ü"] {
        let answer = gateway
            .notify(&fresh(dummy(&[device(APNS, pushkey)])))
            .await;
        assert_rejected(&answer, &[pushkey]);
    }
}

#[tokio::test]
async fn convert_device_token_to_hex_can_be_turned_off() {
    let world = World::new().await;
    let gateway = with(&world, json!({ "convert_device_token_to_hex": false })).await;
    let token = "00112233445566778899aabbccddeeff";
    assert_rejected(&gateway.notify(&dummy(&[device(APNS, token)])).await, &[]);
    assert_eq!(only(&world).device, token);
    // what would leave the path is not let into it
    let answer = gateway
        .notify(&fresh(dummy(&[device(APNS, "../x?y#z\r\n")])))
        .await;
    assert!(answer.status.as_u16() < 500);
    assert!(
        world
            .stand_ins
            .apple
            .seen()
            .iter()
            .all(|push| !push.path.contains(".."))
    );
}

#[tokio::test]
async fn priority_follows_prio() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    for (prio, priority) in [
        (json!("low"), "5"),
        (json!("high"), "10"),
        (Value::Null, "10"),
        (json!("other"), "10"),
    ] {
        world.stand_ins.apple.forget();
        let body = changed(fresh(dummy(&to_device())), &json!({ "prio": prio }));
        assert_rejected(&gateway.notify(&body).await, &[]);
        assert_eq!(only(&world).header("apns-priority"), Some(priority));
    }
}

/// Sygnal sends priority 10 here, which Apple documents as an error.
#[tokio::test]
async fn background_pushes_have_priority_5() {
    let world = World::new().await;
    let gateway = with(&world, json!({ "push_type": "background" })).await;
    assert_rejected(&gateway.notify(&dummy(&to_device())).await, &[]);
    let push = only(&world);
    assert_eq!(push.header("apns-push-type"), Some("background"));
    assert_eq!(push.header("apns-priority"), Some("5"));
}

#[tokio::test]
async fn event_id_only_without_default_payload_has_no_aps() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    assert_rejected(&gateway.notify(&event_id_only(&to_device())).await, &[]);
    assert_eq!(
        only(&world).json(),
        json!({
            "room_id": "!slw48wfj34rtnrf:example.com",
            "event_id": "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs",
            "unread_count": 2,
        })
    );
}

#[tokio::test]
async fn a_badge_of_zero_is_sent() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let body = changed(
        badge_only(&to_device()),
        &json!({ "counts": { "unread": 0 } }),
    );
    assert_rejected(&gateway.notify(&body).await, &[]);
    assert_eq!(only(&world).json(), json!({ "aps": { "badge": 0 } }));
}

/// The whole table of Sygnal's keys of localised alerts.
#[tokio::test]
async fn alerts_have_sygnals_keys_and_arguments() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let image = json!({ "content": { "msgtype": "m.image", "body": "b" } });
    let emote = json!({ "content": { "msgtype": "m.emote", "body": "b" } });
    let text = json!({ "content": { "msgtype": "m.text", "body": "b" } });
    let none = json!({ "content": {} });
    let no_body = json!({ "content": { "msgtype": "m.text" } });
    let in_room = json!({ "room_name": "R", "room_alias": null });
    let by_alias = json!({ "room_name": null, "room_alias": "#a" });
    let no_room = json!({ "room_name": null, "room_alias": null });
    let encrypted = json!({ "type": "m.room.encrypted", "content": null });
    let call =
        |sdp: &str| json!({ "type": "m.call.invite", "content": { "offer": { "sdp": sdp } } });
    let invite = json!({
        "type": "m.room.member", "user_is_target": true, "membership": "invite", "content": null,
    });
    let join = json!({
        "type": "m.room.member", "user_is_target": true, "membership": "join", "content": null,
    });
    let other = json!({ "type": "org.example.other" });
    let all = |parts: &[&Value]| {
        parts
            .iter()
            .fold(json!({}), |whole, part| merged(whole, part))
    };
    let alert = |key: &str, arguments: Value| Some((key.to_owned(), arguments));
    let cases = [
        (
            all(&[&image, &in_room]),
            alert("IMAGE_FROM_USER_IN_ROOM", json!(["U", "b", "R"])),
        ),
        (
            all(&[&text, &in_room]),
            alert("MSG_FROM_USER_IN_ROOM_WITH_CONTENT", json!(["U", "R", "b"])),
        ),
        (
            all(&[&text, &by_alias]),
            alert(
                "MSG_FROM_USER_IN_ROOM_WITH_CONTENT",
                json!(["U", "#a", "b"]),
            ),
        ),
        (
            all(&[&emote, &in_room]),
            alert("ACTION_FROM_USER_IN_ROOM", json!(["R", "U", "b"])),
        ),
        (
            all(&[&none, &in_room]),
            alert("MSG_FROM_USER_IN_ROOM", json!(["U", "R"])),
        ),
        (
            all(&[&no_body, &in_room]),
            alert("MSG_FROM_USER_IN_ROOM", json!(["U", "R"])),
        ),
        (
            all(&[&encrypted, &in_room]),
            alert("MSG_FROM_USER_IN_ROOM", json!(["U", "R"])),
        ),
        (
            all(&[&image, &no_room]),
            alert("IMAGE_FROM_USER", json!(["U", "b"])),
        ),
        (
            all(&[&text, &no_room]),
            alert("MSG_FROM_USER_WITH_CONTENT", json!(["U", "b"])),
        ),
        (
            all(&[&emote, &no_room]),
            alert("ACTION_FROM_USER", json!(["U", "b"])),
        ),
        (
            all(&[&none, &no_room]),
            alert("MSG_FROM_USER", json!(["U"])),
        ),
        (
            call("v=0\nm=audio 9\nm=video 9"),
            alert("VIDEO_CALL_FROM_USER", json!(["U"])),
        ),
        (
            call("v=0\nm=audio 9"),
            alert("VOICE_CALL_FROM_USER", json!(["U"])),
        ),
        (
            all(&[&invite, &in_room]),
            alert("USER_INVITE_TO_NAMED_ROOM", json!(["U", "R"])),
        ),
        (
            all(&[&invite, &by_alias]),
            alert("USER_INVITE_TO_NAMED_ROOM", json!(["U", "#a"])),
        ),
        (
            all(&[&invite, &no_room]),
            alert("USER_INVITE_TO_CHAT", json!(["U"])),
        ),
        (all(&[&join, &in_room]), None),
        (other, alert("MSG_FROM_USER", json!(["U"]))),
    ];
    for (members, expected) in cases {
        world.stand_ins.apple.forget();
        let base = changed(
            fresh(dummy(&to_device())),
            &json!({ "sender_display_name": "U", "counts": null }),
        );
        let answer = gateway.notify(&changed(base, &members)).await;
        assert_rejected(&answer, &[]);
        let Some((key, arguments)) = expected else {
            assert_eq!(world.stand_ins.apple.seen_count(), 0, "{members}");
            continue;
        };
        let alert = only(&world).json()["aps"]["alert"].clone();
        assert_eq!(alert["loc-key"], key.as_str(), "{members}");
        assert_eq!(alert["loc-args"], arguments, "{members}");
    }
}

#[tokio::test]
async fn the_senders_name_is_the_display_name_else_the_user_id_else_a_space() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    for (members, name) in [
        (json!({}), "Major Tom"),
        (
            json!({ "sender_display_name": null }),
            "@exampleuser:matrix.org",
        ),
        (json!({ "sender_display_name": null, "sender": null }), " "),
        (json!({ "sender_display_name": "", "sender": "" }), " "),
    ] {
        world.stand_ins.apple.forget();
        let body = changed(fresh(dummy(&to_device())), &members);
        assert_rejected(&gateway.notify(&body).await, &[]);
        assert_eq!(only(&world).json()["aps"]["alert"]["loc-args"][0], name);
    }
}

/// A default payload that Sygnal trips over (500) harms neither this device's push nor others.
#[tokio::test]
async fn a_default_payload_with_an_odd_aps_is_no_500() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    for default_payload in [
        json!({ "aps": "x" }),
        json!({ "aps": null }),
        json!({ "aps": { "alert": "text" } }),
        json!({ "aps": { "alert": { "loc-args": 7 } } }),
    ] {
        let answer = gateway
            .notify(&fresh(dummy(&with_default_payload(&default_payload))))
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{default_payload}");
    }
}

/// The host for `platform: sandbox` is Apple's own; it is reached through a proxy here.
#[tokio::test]
async fn platform_sandbox_means_apples_development_host() {
    let world = World::new().await;
    let proxy = stand_ins::Proxy::start().await.unwrap();
    for host in [
        "api.sandbox.push.apple.com:443",
        "api.development.push.apple.com:443",
    ] {
        proxy.map(host, world.stand_ins.apple.address());
    }
    let mut app = merged(world.apns(), &json!({ "platform": "sandbox" }));
    app.as_object_mut().unwrap().remove("endpoint");
    let options = Options {
        config: json!({ "proxy": proxy.url() }),
        ..Options::default()
    };
    let gateway = world.gateway_with(json!({ APNS: app }), options).await;
    assert_rejected(&gateway.notify(&dummy(&to_device())).await, &[]);
    let tunnels = proxy.wait_for(1, PATIENCE).await;
    assert!(tunnels[0].target.contains("sandbox") || tunnels[0].target.contains("development"));
    only(&world);
}
