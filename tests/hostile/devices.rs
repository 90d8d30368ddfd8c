//! Several devices in one request, and the same request more than once.

use std::time::Duration;

use serde_json::{Value, json};
use stand_ins::Reply;
use tokio::time::Instant;

use crate::{
    PATIENCE,
    draw::{Draw, Known},
    gateway::{Gateway, World},
    wire::{Connection, post},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_hangs_neither_holds_up_the_others_nor_lets_them_be_reached_twice() {
    let world = World::new().await;
    let servers = &world.stand_ins;
    let known = Known::new(&servers.push_service);
    let gateway = world
        .gateway(&json!({"limits": {"request_budget": "2s"}}))
        .await;
    servers.apple.script(|_, _| Some(Reply::hang_forever()));
    let body = notification(&[
        json!({"app_id": "apns.opaque", "pushkey": Draw::token(1)}),
        json!({"app_id": "gcm.opaque", "pushkey": Draw::token(2)}),
        json!({"app_id": "webpush.opaque", "pushkey": known.browser.p256dh,
            "data": {"endpoint": known.browser.endpoint, "auth": known.browser.auth}}),
        json!({"app_id": "unifiedpush.opaque", "pushkey": known.phone.endpoint}),
        json!({"app_id": "nobody", "pushkey": "unknown"}),
    ]);

    let began = Instant::now();
    assert_eq!(gateway.notify(&body).await.status, 502);
    assert!(began.elapsed() < Duration::from_secs(12));
    assert_eq!(reached(&world), [1, 1, 2]);

    // the homeserver tries again while Apple still hangs, and then once more
    assert_eq!(gateway.notify(&body).await.status, 502);
    servers.apple.unscript();
    let answer = gateway.notify(&body).await;
    assert_eq!(answer.json(), json!({"rejected": ["unknown"]}));
    assert_eq!(reached(&world), [3, 1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_homeserver_that_hangs_up_does_not_stop_the_push() {
    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    let gateway = world.gateway(&json!({})).await;
    apple.set_delay(Duration::from_millis(500));
    let body = notification(&[json!({"app_id": "apns.opaque", "pushkey": Draw::token(1)})]);
    let mut connection = Connection::open(gateway.address)
        .await
        .expect("a connection");
    connection
        .send(&post(body.to_string().as_bytes()))
        .await
        .expect("sent");
    apple.wait_for(1, PATIENCE).await;
    drop(connection);
    until_logged(&gateway, r#""outcome":"delivered""#).await;
    let answer = gateway.notify(&body).await;
    assert_eq!(answer.json(), json!({"rejected": []}));
    assert_eq!(apple.seen_count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_at_the_same_time_reaches_the_device_once() {
    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    let gateway = world.gateway(&json!({})).await;
    apple.set_delay(Duration::from_millis(500));
    let body = notification(&[json!({"app_id": "apns.opaque", "pushkey": Draw::token(1)})]);
    let answers = tokio::join!(
        gateway.notify(&body),
        gateway.notify(&body),
        gateway.notify(&body)
    );
    for answer in [answers.0, answers.1, answers.2] {
        assert_eq!(answer.json(), json!({"rejected": []}));
    }
    assert_eq!(apple.seen_count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_at_the_same_time_takes_over_when_the_first_fails() {
    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    let gateway = world.gateway(&json!({})).await;
    apple.queue([Reply::apns(400, "PayloadEmpty").after(Duration::from_millis(500))]);
    let body = notification(&[json!({"app_id": "apns.opaque", "pushkey": Draw::token(1)})]);
    let (one, other) = tokio::join!(gateway.notify(&body), gateway.notify(&body));
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502]);
    assert_eq!(apple.seen_count(), 2);
}

fn notification(devices: &[Value]) -> Value {
    json!({"notification": {"event_id": "$event", "room_id": "!room", "devices": devices}})
}

/// How many pushes Apple, Google and the push service got.
fn reached(world: &World) -> [usize; 3] {
    let servers = &world.stand_ins;
    [
        servers.apple.seen_count(),
        servers.google.seen_count(),
        servers.push_service.seen_count(),
    ]
}

async fn until_logged(gateway: &Gateway, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !gateway.log().contains(text) {
        assert!(Instant::now() < deadline, "{text} never came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
