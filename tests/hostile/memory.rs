//! How much memory strangers can take. Where the system does not tell, nothing is asserted.

use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    draw::Draw,
    gateway::World,
    wire::{Connection, post},
};

/// What half a megabyte of the shortest values becomes when all of it is kept as values: some 27 MB.
fn many_values() -> String {
    format!("[{}0]", "0,".repeat(250_000))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_bodies_at_once_take_their_turn_and_small_ones_do_not_wait() {
    let world = World::new().await;
    let nobody_answers = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = nobody_answers.local_addr().expect("an address");
    let mut gateway = world
        .gateway(&json!({"limits": {"request_budget": "10s"}}))
        .await;
    let mut clients = JoinSet::new();
    for number in 0..64 {
        let body = format!(
            r#"{{"notification":{{"event_id":"${number}","content":{},"devices":[
                {{"app_id":"unifiedpush.opaque","pushkey":"http://{endpoint}/{number}"}}]}}}}"#,
            many_values()
        );
        let address = gateway.address;
        clients.spawn(async move {
            let mut connection = Connection::open(address).await.expect("a connection");
            // it may be answered and closed before it has all
            let _ = connection.send(&post(body.as_bytes())).await;
            connection.answer().await
        });
    }
    // until the first of them occupy the gateway
    let _held = nobody_answers.accept().await.expect("a push");
    let small = json!({"notification": {"event_id": "$x", "devices": [
        {"app_id": "apns.opaque", "pushkey": Draw::token(1)}]}});
    let answer = gateway.notify(&small).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    assert!(!clients.is_empty());

    for answer in clients.join_all().await {
        // a connection that is closed with a part of the body unread may lose its answer
        if let Ok(Some(answer)) = answer {
            assert!(
                matches!(answer.status, 408 | 429 | 502),
                "{}",
                answer.status
            );
            answer.assert_well_formed();
        }
    }
    if let Some(peak) = gateway.most_resident() {
        assert!(peak < 500 * 1024, "{peak} KiB");
    }
    gateway.assert_sound([]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_waits_out_its_jitter_keeps_what_is_sent_and_nothing_else() {
    let world = World::new().await;
    let mut configuration = world.configuration(&json!({}));
    configuration["apps"]["apns.opaque"]["opaque"] = json!({"jitter": "1h"});
    let mut gateway = world.gateway_of(configuration).await;
    let mut draw = Draw::new(1);
    let mut notify = async |number: usize| {
        let values: Value = serde_json::from_str(&many_values()).expect("JSON");
        let mut body = json!({"notification": {"event_id": format!("${number}"), "devices": [
            {"app_id": "apns.opaque", "pushkey": Draw::token(draw.number())}]}});
        if number.is_multiple_of(2) {
            body["notification"]["content"] = values;
        } else {
            body["notification"]["devices"][0]["data"] = json!({"x": values});
        }
        let answer = gateway.notify(&body).await;
        assert_eq!(answer.json(), json!({"rejected": []}));
        gateway.resident()
    };
    for number in 0..4 {
        notify(number).await;
    }
    let before = notify(4).await;
    for number in 5..40 {
        notify(number).await;
    }
    if let (Some(before), Some(after)) = (before, notify(40).await) {
        assert!(
            after < before + 200 * 1024,
            "{before} KiB, then {after} KiB"
        );
    }
    gateway.assert_sound([]);
}
