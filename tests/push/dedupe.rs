//! A homeserver's retry reaches those devices alone that have not got the event.

use http::StatusCode;
use serde_json::{Value, json};
use stand_ins::{
    Reply,
    homeserver::{badge_only, device, dummy},
};

use crate::harness::{APNS, FCM, Gateway, PUSHKEY, World, assert_rejected, changed, fresh};

async fn both(world: &World) -> Gateway {
    world
        .gateway(json!({ APNS: world.apns(), FCM: world.fcm() }))
        .await
}

fn to_both() -> Value {
    fresh(dummy(&[device(APNS, PUSHKEY), device(FCM, PUSHKEY)]))
}

#[tokio::test]
async fn a_retry_reaches_only_who_failed() {
    let world = World::new().await;
    let (apple, google) = (&world.stand_ins.apple, &world.stand_ins.google);
    let gateway = both(&world).await;
    google.queue([Reply::fcm(429, "QUOTA_EXCEEDED")]);
    let body = to_both();
    let answer = gateway.notify(&body).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!((apple.seen_count(), google.seen_count()), (1, 1));
    assert_rejected(&gateway.notify(&body).await, &[]);
    assert_eq!((apple.seen_count(), google.seen_count()), (1, 2));
}

#[tokio::test]
async fn an_event_that_arrived_is_not_sent_again() {
    let world = World::new().await;
    let gateway = both(&world).await;
    let body = to_both();
    for _ in 0..3 {
        assert_rejected(&gateway.notify(&body).await, &[]);
    }
    assert_eq!(world.stand_ins.apple.seen_count(), 1);
    assert_eq!(world.stand_ins.google.seen_count(), 1);
}

#[tokio::test]
async fn a_push_that_failed_altogether_is_sent_again() {
    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    let gateway = both(&world).await;
    apple.queue([Reply::apns(429, "TooManyRequests")]);
    let body = fresh(dummy(&[device(APNS, PUSHKEY)]));
    assert_eq!(gateway.notify(&body).await.status, StatusCode::BAD_GATEWAY);
    assert_rejected(&gateway.notify(&body).await, &[]);
    assert_eq!(apple.seen_count(), 2);
}

#[tokio::test]
async fn other_events_and_other_devices_are_not_taken_for_retries() {
    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    let gateway = both(&world).await;
    let one = fresh(dummy(&[device(APNS, PUSHKEY)]));
    let elsewhere = changed(one.clone(), &json!({ "devices": [device(APNS, "aaaa")] }));
    for body in [one, elsewhere, fresh(dummy(&[device(APNS, PUSHKEY)]))] {
        assert_rejected(&gateway.notify(&body).await, &[]);
    }
    assert_eq!(apple.seen_count(), 3);
}

/// Without an event a push is not a retry of the one before: counts change.
#[tokio::test]
async fn counts_are_never_taken_for_retries() {
    let world = World::new().await;
    let gateway = both(&world).await;
    for _ in 0..3 {
        let body = badge_only(&[device(APNS, PUSHKEY)]);
        assert_rejected(&gateway.notify(&body).await, &[]);
    }
    assert_eq!(world.stand_ins.apple.seen_count(), 3);
}

/// The gateway's own attempts carry one identifier, so that a device can tell that they are one.
#[tokio::test]
async fn attempts_at_one_push_are_recognisable_in_opaque_mode() {
    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    let mut app = world.apns();
    app["payload"] = json!("opaque");
    let gateway = world.gateway(json!({ APNS: app })).await;
    apple.queue([
        Reply::apns(503, "ServiceUnavailable"),
        Reply::apns(429, "TooManyRequests"),
    ]);
    let body = fresh(dummy(&[device(APNS, PUSHKEY)]));
    assert_eq!(gateway.notify(&body).await.status, StatusCode::BAD_GATEWAY);
    assert_rejected(&gateway.notify(&body).await, &[]);
    let seen = apple.seen();
    assert_eq!(seen.len(), 3);
    for attempt in &seen {
        assert_eq!(attempt.json()["n"], seen[0].json()["n"]);
        assert_eq!(attempt.header("apns-id"), seen[0].header("apns-id"));
    }
}

/// The event of the clients' own push test is always the same one, and people try it twice.
#[tokio::test]
async fn the_clients_test_event_is_never_taken_for_a_retry() {
    let world = World::new().await;
    let gateway = both(&world).await;
    let body = changed(
        dummy(&[device(APNS, PUSHKEY)]),
        &json!({ "event_id": "$THIS_IS_A_FAKE_EVENT_ID", "type": null }),
    );
    for _ in 0..2 {
        assert_rejected(&gateway.notify(&body).await, &[]);
    }
    assert_eq!(world.stand_ins.apple.seen_count(), 2);
}
