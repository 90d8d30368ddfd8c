//! Google: what it is sent in mode `sygnal`, access tokens, and what each of Google's answers means
//! for the homeserver.
//!
//! Google's legacy API is gone. Where Sygnal's tests use it, the HTTP v1 API is tested here.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use stand_ins::{
    PROJECT_ID, Reply, Seen,
    homeserver::{badge_only, device, device_with, dummy, event_id_only, large_fields},
};
use tokio::time::Instant;

use crate::harness::{
    FCM, Gateway, Options, PATIENCE, PUSHKEY, World, assert_rejected, changed, errcode, eventually,
    fresh, merged,
};

async fn with(world: &World, members: Value) -> Gateway {
    let app = merged(world.fcm(), &members);
    world.gateway(json!({ FCM: app })).await
}

async fn plain(world: &World) -> Gateway {
    with(world, json!({})).await
}

fn to_device() -> Vec<Value> {
    vec![device(FCM, PUSHKEY)]
}

fn with_default_payload(default_payload: &Value) -> Vec<Value> {
    vec![device_with(
        FCM,
        PUSHKEY,
        json!({ "default_payload": default_payload }),
    )]
}

/// The only push that Google got, which was in order.
fn only(world: &World) -> Seen {
    let mut seen = world.stand_ins.google.seen();
    assert_eq!(seen.len(), 1);
    let push = seen.remove(0);
    assert_eq!(push.complaint, None);
    push
}

/// `fcm_options` as in Sygnal's test of the v1 API.
fn options() -> Value {
    json!({ "fcm_options": {
        "android": { "notification": { "body": "test body" } },
        "apns": { "payload": { "aps": {
            "content-available": 1, "mutable-content": 1, "alert": "",
        }}},
    }})
}

/// S36 `test_expected`: the legacy API that it uses is refused at the start, since all it would
/// achieve today is to reject every pushkey.
#[tokio::test]
async fn s36_the_legacy_api_is_refused_at_start() {
    let world = World::new().await;
    for app in [
        json!({ "type": "gcm", "api_version": "legacy", "api_key": "kii" }),
        json!({ "type": "gcm", "api_key": "kii" }),
    ] {
        let (status, said) = world.refusal(json!({ FCM: app }), Options::default()).await;
        assert!(!status.success());
        assert!(said.contains("api_version"), "{said}");
    }
}

/// S37 `test_expected_api_v1`
#[tokio::test]
async fn s37_expected() {
    let world = World::new().await;
    let gateway = with(&world, options()).await;
    assert_rejected(&gateway.notify(&dummy(&to_device())).await, &[]);
    let push = only(&world);
    assert_eq!(
        push.json(),
        json!({ "message": {
            "data": {
                "event_id": "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs",
                "type": "m.room.message",
                "sender": "@exampleuser:matrix.org",
                "room_name": "Mission Control",
                "room_alias": "#exampleroom:matrix.org",
                "sender_display_name": "Major Tom",
                "content_msgtype": "m.text",
                "content_body": "I'm floating in a most peculiar way.",
                "room_id": "!slw48wfj34rtnrf:example.com",
                "prio": "high",
                "unread": "2",
                "missed_calls": "1",
            },
            "android": {
                "notification": { "body": "test body" },
                "priority": "high",
            },
            "apns": { "payload": { "aps": {
                "content-available": 1, "mutable-content": 1, "alert": "",
            }}},
            "token": PUSHKEY,
        }})
    );
    assert_eq!(
        push.path,
        format!("/v1/projects/{PROJECT_ID}/messages:send")
    );
    assert_eq!(push.header("content-type"), Some("application/json"));
    assert!(push.header("authorization").unwrap().starts_with("Bearer "));
}

/// S38 `test_expected_with_default_payload`
#[tokio::test]
async fn s38_expected_with_default_payload() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let devices = with_default_payload(&json!({ "cs": "client", "pinned": "yes" }));
    assert_rejected(&gateway.notify(&dummy(&devices)).await, &[]);
    let data = &only(&world).json()["message"]["data"];
    assert_eq!(data["cs"], "client");
    assert_eq!(data["pinned"], "yes");
    assert_eq!(data["prio"], "high");
}

/// S39 `test_expected_api_v1_with_default_payload`; here what is nested (an iOS `aps`) becomes text,
/// since Google refuses anything else.
#[tokio::test]
async fn s39_expected_with_nested_default_payload() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let devices = with_default_payload(&json!({
        "aps": { "mutable-content": 1, "alert": { "loc-key": "SINGLE_UNREAD", "loc-args": [] } },
        "number": 7,
    }));
    assert_rejected(&gateway.notify(&dummy(&devices)).await, &[]);
    let body = only(&world).json();
    let data = body["message"]["data"].as_object().unwrap();
    assert!(data.values().all(Value::is_string));
}

/// S40 `test_misformed_default_payload_rejected`
#[tokio::test]
async fn s40_misformed_default_payload_rejected() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    for default_payload in [Value::Null, json!("x"), json!([])] {
        let body = fresh(dummy(&with_default_payload(&default_payload)));
        assert_rejected(&gateway.notify(&body).await, &[PUSHKEY]);
    }
    assert_eq!(world.stand_ins.google.seen_count(), 0);
}

/// S41 `test_rejected`
#[tokio::test]
async fn s41_rejected() {
    let world = World::new().await;
    world
        .stand_ins
        .google
        .script(|_, _| Some(Reply::fcm(404, "UNREGISTERED")));
    let gateway = plain(&world).await;
    assert_rejected(&gateway.notify(&dummy(&to_device())).await, &[PUSHKEY]);
    assert_eq!(world.stand_ins.google.seen_count(), 1);
}

/// S42 `test_batching` and S43 `test_batching_api_v1`: one request for each device.
#[tokio::test]
async fn s42_s43_batching() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let devices = [device(FCM, "spqr"), device(FCM, "spqr2")];
    assert_rejected(&gateway.notify(&dummy(&devices)).await, &[]);
    let mut targets: Vec<_> = world
        .stand_ins
        .google
        .seen()
        .into_iter()
        .map(|push| push.device)
        .collect();
    targets.sort();
    assert_eq!(targets, ["spqr", "spqr2"]);
}

/// S44 `test_batching_individual_failure`
#[tokio::test]
async fn s44_batching_individual_failure() {
    let world = World::new().await;
    world
        .stand_ins
        .google
        .queue_for("spqr2", [Reply::fcm(404, "UNREGISTERED")]);
    let gateway = plain(&world).await;
    let devices = [device(FCM, "spqr"), device(FCM, "spqr2")];
    assert_rejected(&gateway.notify(&dummy(&devices)).await, &["spqr2"]);
    assert_eq!(world.stand_ins.google.seen_count(), 2);
}

/// S45 `test_api_v1_retry`; here the homeserver hears of it in the end (502), while Sygnal answers
/// 200 and the push is lost.
#[tokio::test]
async fn s45_retry() {
    let world = World::new().await;
    world
        .stand_ins
        .google
        .script(|_, _| Some(Reply::fcm(503, "UNAVAILABLE")));
    let options = Options {
        config: json!({ "limits": { "request_budget": "25s" } }),
        ..Options::default()
    };
    let gateway = world
        .gateway_with(json!({ FCM: world.fcm() }), options)
        .await;
    let answer = gateway.notify(&dummy(&to_device())).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    errcode(&answer);
    let attempts = world.stand_ins.google.seen();
    assert_eq!(attempts.len(), 3);
    for attempt in attempts {
        let body = attempt.json();
        assert_eq!(body.as_object().unwrap().len(), 1);
        assert!(body["message"]["token"].is_string());
        assert_eq!(body["message"].get("message"), None);
    }
}

/// S46 `test_fcm_options`: inside `message`, where the v1 API has them.
#[tokio::test]
async fn s46_fcm_options() {
    let world = World::new().await;
    let gateway = with(
        &world,
        json!({ "fcm_options": {
            "notification": { "title": "t" },
            "android": { "ttl": "60s", "priority": "normal" },
        }}),
    )
    .await;
    for prio in ["high", "low", "high"] {
        let body = changed(fresh(dummy(&to_device())), &json!({ "prio": prio }));
        assert_rejected(&gateway.notify(&body).await, &[]);
    }
    let seen = world.stand_ins.google.seen();
    for (push, priority) in seen.iter().zip(["high", "normal", "high"]) {
        let message = &push.json()["message"];
        assert_eq!(message["notification"]["title"], "t");
        assert_eq!(message["android"]["ttl"], "60s");
        // the notification's, not the option's, and not the notification's before it
        assert_eq!(message["android"]["priority"], priority);
    }
    assert_eq!(seen.len(), 3);
}

/// S47 `test_send_badge_counts` and S48 `test_send_badge_counts_api_v1`
#[tokio::test]
async fn s47_s48_send_badge_counts() {
    let world = World::new().await;
    let gateway = with(&world, json!({ "send_badge_counts": false })).await;
    assert_rejected(&gateway.notify(&dummy(&to_device())).await, &[]);
    let data = &only(&world).json()["message"]["data"];
    assert_eq!((data.get("unread"), data.get("missed_calls")), (None, None));
    assert_eq!(data["content_msgtype"], "m.text");
}

/// S49 `test_send_badge_counts_with_badge_only_notification` and S50, its twin `…_api_v1`
#[tokio::test]
async fn s49_s50_send_badge_counts_with_badge_only_notification() {
    let world = World::new().await;
    let gateway = with(&world, json!({ "send_badge_counts": false })).await;
    assert_rejected(&gateway.notify(&badge_only(&to_device())).await, &[]);
    assert_eq!(world.stand_ins.google.seen_count(), 0);
}

/// S51 `test_send_badge_counts_with_event_id_only_notification` and S52, its twin `…_api_v1`
#[tokio::test]
async fn s51_s52_send_badge_counts_with_event_id_only_notification() {
    let world = World::new().await;
    let gateway = with(&world, json!({ "send_badge_counts": false })).await;
    assert_rejected(&gateway.notify(&event_id_only(&to_device())).await, &[]);
    assert_eq!(
        only(&world).json()["message"]["data"],
        json!({
            "event_id": "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs",
            "prio": "high",
            "room_id": "!slw48wfj34rtnrf:example.com",
        })
    );
}

/// S53 `test_api_v1_large_fields`
#[tokio::test]
async fn s53_large_fields() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    assert_rejected(&gateway.notify(&large_fields(&to_device())).await, &[]);
    let data = &only(&world).json()["message"]["data"];
    let room_name = data["room_name"].as_str().unwrap();
    assert_eq!(room_name.len(), 1024);
    assert_eq!(room_name, format!("{}…", "x".repeat(1021)));
    assert_eq!(data["content_other"], format!("{}…", "x".repeat(1019)));
    assert_eq!(data["content_body"], "I'm floating in a most peculiar way.");
    assert_eq!(data["sender"], "@exampleuser:matrix.org");
}

#[tokio::test]
async fn counts_of_zero_are_left_out_and_alone_are_not_sent() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let zero = json!({ "counts": { "unread": 0, "missed_calls": 0 } });
    let body = changed(badge_only(&to_device()), &zero);
    assert_rejected(&gateway.notify(&body).await, &[]);
    assert_eq!(world.stand_ins.google.seen_count(), 0);
    let body = changed(dummy(&to_device()), &zero);
    assert_rejected(&gateway.notify(&body).await, &[]);
    let data = &only(&world).json()["message"]["data"];
    assert_eq!((data.get("unread"), data.get("missed_calls")), (None, None));
}

#[tokio::test]
async fn a_badge_alone_is_sent() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    assert_rejected(&gateway.notify(&badge_only(&to_device())).await, &[]);
    assert_eq!(only(&world).json()["message"]["data"]["unread"], "2");
}

#[tokio::test]
async fn prio_low_is_normal() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let body = changed(dummy(&to_device()), &json!({ "prio": "low" }));
    assert_rejected(&gateway.notify(&body).await, &[]);
    let message = &only(&world).json()["message"];
    assert_eq!(message["data"]["prio"], "normal");
    assert_eq!(message["android"]["priority"], "normal");
}

/// Element X Android registers a Firebase installation ID, which is not a registration token.
#[tokio::test]
async fn installation_ids_are_told_from_tokens() {
    let world = World::new().await;
    let id = "cnVzdC1pcy1hLWNyYWItMQ";
    let token = "cnVzdC1pcy1hLWNyYWItMQ:APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx";
    for (kind, pushkey, expected) in [
        (None, id, "fid"),
        (None, token, "token"),
        (Some("token"), id, "token"),
        (Some("fid"), token, "fid"),
    ] {
        world.stand_ins.google.forget();
        let members = kind.map_or_else(|| json!({}), |kind| json!({ "token_kind": kind }));
        let gateway = with(&world, members).await;
        assert_rejected(
            &gateway.notify(&fresh(dummy(&[device(FCM, pushkey)]))).await,
            &[],
        );
        assert_eq!(only(&world).json()["message"][expected], pushkey);
    }
}

#[tokio::test]
async fn googles_words_for_dead_tokens_reject_the_pushkey() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    // a gateway that has delivered nothing yet may have the wrong project or kind of token
    assert_rejected(&gateway.notify(&fresh(dummy(&to_device()))).await, &[]);
    for (status, code) in [
        (404, "UNREGISTERED"),
        (400, "INVALID_ARGUMENT"),
        (403, "SENDER_ID_MISMATCH"),
    ] {
        world.stand_ins.google.queue([Reply::fcm(status, code)]);
        let answer = gateway.notify(&fresh(dummy(&to_device()))).await;
        assert_rejected(&answer, &[PUSHKEY]);
    }
}

#[tokio::test]
async fn the_wrong_project_or_kind_of_token_deletes_no_pusher() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    for (status, code) in [(400, "INVALID_ARGUMENT"), (403, "SENDER_ID_MISMATCH")] {
        world.stand_ins.google.queue([Reply::fcm(status, code)]);
        let answer = gateway.notify(&fresh(dummy(&to_device()))).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{code}");
    }
}

#[tokio::test]
async fn googles_other_refusals_give_502_and_reject_nobody() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let replies = [
        Reply::field_violation("message.data[0].value", "Invalid value (TYPE_STRING), 12"),
        Reply::fcm(401, "THIRD_PARTY_AUTH_ERROR"),
        Reply::google_error(403, "PERMISSION_DENIED", "denied", &json!({})),
        // what a retired address answers; Sygnal rejects every pushkey for it
        Reply::text(404, "<html>Not Found</html>"),
        Reply::fcm(429, "QUOTA_EXCEEDED"),
        Reply::status(418),
    ];
    for reply in replies {
        let status = reply.status;
        world
            .stand_ins
            .google
            .script(move |_, _| Some(reply.clone()));
        let answer = gateway.notify(&fresh(dummy(&to_device()))).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{status}");
        errcode(&answer);
    }
}

#[tokio::test]
async fn too_many_requests_are_not_answered_with_more() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    world
        .stand_ins
        .google
        .script(|_, _| Some(Reply::fcm(429, "QUOTA_EXCEEDED").retry_after("60")));
    let answer = gateway.notify(&dummy(&to_device())).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(world.stand_ins.google.seen_count(), 1);
}

#[tokio::test]
async fn retry_after_is_kept_within_the_budget() {
    let world = World::new().await;
    let google = &world.stand_ins.google;
    let options = Options {
        config: json!({ "limits": { "request_budget": "25s" } }),
        ..Options::default()
    };
    let gateway = world
        .gateway_with(json!({ FCM: world.fcm() }), options)
        .await;
    google.queue([Reply::fcm(503, "UNAVAILABLE").retry_after("2")]);
    assert_rejected(&gateway.notify(&fresh(dummy(&to_device()))).await, &[]);
    let seen = google.seen();
    assert_eq!(seen.len(), 2);
    let pause = seen[1].at.duration_since(seen[0].at);
    assert!(pause >= Duration::from_millis(1900), "{pause:?}");

    // a date, over which Sygnal trips
    google.queue([Reply::fcm(503, "UNAVAILABLE").retry_after("Wed, 21 Oct 2015 07:28:00 GMT")]);
    assert_rejected(&gateway.notify(&fresh(dummy(&to_device()))).await, &[]);

    // longer than a homeserver waits: it is told at once
    google.forget();
    google.queue([Reply::fcm(503, "UNAVAILABLE").retry_after("3600")]);
    let started = Instant::now();
    let answer = gateway.notify(&fresh(dummy(&to_device()))).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(google.seen_count(), 1);
}

#[tokio::test]
async fn an_access_token_is_fetched_once_for_all() {
    let world = World::new().await;
    let google = &world.stand_ins.google;
    let gateway = plain(&world).await;
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let homeserver = gateway.homeserver();
        let body = fresh(dummy(&to_device()));
        requests.spawn(async move { homeserver.notify(&body).await.unwrap().status });
    }
    while let Some(status) = requests.join_next().await {
        assert_eq!(status.unwrap(), StatusCode::OK);
    }
    assert_eq!(google.seen_count(), 30);
    assert_eq!(google.token_fetches(), 1);
}

#[tokio::test]
async fn an_access_token_that_google_no_longer_takes_is_replaced() {
    let world = World::new().await;
    let google = &world.stand_ins.google;
    let gateway = plain(&world).await;
    assert_rejected(&gateway.notify(&fresh(dummy(&to_device()))).await, &[]);
    google.revoke_tokens();
    let replaced = eventually(async || {
        let answer = gateway.notify(&fresh(dummy(&to_device()))).await;
        answer.status == StatusCode::OK
    });
    assert!(replaced.await);
    assert_eq!(google.token_fetches(), 2);
}

#[tokio::test]
async fn without_an_access_token_it_is_502_and_then_well_again() {
    let world = World::new().await;
    let google = &world.stand_ins.google;
    let refused = json!({ "error": "invalid_grant", "error_description": "no" });
    google.queue_token_replies([Reply::json(400, &refused)]);
    let gateway = plain(&world).await;
    let answer = gateway.notify(&fresh(dummy(&to_device()))).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(google.seen_count(), 0);
    let well = eventually(async || {
        let answer = gateway.notify(&fresh(dummy(&to_device()))).await;
        answer.status == StatusCode::OK
    });
    assert!(well.await);
}

#[tokio::test]
async fn no_connection_gives_502() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    world.stand_ins.google.stop().await;
    let answer = gateway.notify(&dummy(&to_device())).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    errcode(&answer);
}

#[tokio::test]
async fn a_message_that_google_would_find_too_big_is_not_a_500() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let content = json!({
        "msgtype": "m.text",
        "body": "x".repeat(3000),
        "formatted_body": "y".repeat(3000),
        "one": "z".repeat(3000),
        "two": "z".repeat(3000),
        "three": "z".repeat(3000),
    });
    let body = changed(dummy(&to_device()), &json!({ "content": content }));
    let answer = gateway.notify(&body).await;
    assert!(answer.status == StatusCode::OK || answer.status == StatusCode::BAD_GATEWAY);
    assert_ne!(answer.rejected(), Some(vec![PUSHKEY.to_owned()]));
}
