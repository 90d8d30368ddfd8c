//! Signals while requests are under way.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    PATIENCE,
    draw::Draw,
    gateway::World,
    wire::{Connection, post},
};

fn body(number: u64) -> Vec<u8> {
    let body = json!({"notification": {"event_id": format!("$event{number}"), "devices": [
        {"app_id": "apns.opaque", "pushkey": Draw::token(number)}]}});
    post(body.to_string().as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_requests_finish_and_takes_no_more() {
    const REQUESTS: u64 = 20;

    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    let mut gateway = world.gateway(&json!({})).await;
    // Apple allows one stream until it has answered once
    gateway.ask(&body(1000)).await.expect("an answer");
    apple.set_delay(Duration::from_millis(700));
    let mut requests = JoinSet::new();
    for number in 0..REQUESTS {
        let address = gateway.address;
        requests.spawn(async move {
            let mut connection = Connection::open(address).await.expect("a connection");
            connection.send(&body(number)).await.expect("sent");
            connection.answer().await
        });
    }
    // idle, and half of a head
    let mut idle = Connection::open(gateway.address)
        .await
        .expect("a connection");
    let mut half = Connection::open(gateway.address)
        .await
        .expect("a connection");
    half.send(b"POST /_matrix/push").await.expect("sent");
    apple.wait_for(21, PATIENCE).await;
    gateway.signal("TERM");
    for answer in requests.join_all().await {
        let answer = answer.expect("an answer").expect("an answer");
        assert_eq!(answer.json(), json!({"rejected": []}));
    }
    assert!(matches!(idle.answer().await, Ok(None) | Err(_)));
    half.send(b"/v1").await.ok();
    drop(half);
    assert_eq!(gateway.ended().await.code(), Some(0), "{}", gateway.log());
    assert!(gateway.ask(&body(2000)).await.is_err(), "nobody listens");
    gateway.assert_discreet([]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_sighups_with_good_and_bad_configurations_drops_nothing() {
    let world = World::new().await;
    let mut gateway = world.gateway(&json!({})).await;
    let good = fs::read_to_string(&gateway.config).expect("the configuration");
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for client in 0..4_u64 {
        let (address, stop) = (gateway.address, Arc::clone(&stop));
        clients.spawn(async move {
            let mut connection = Connection::open(address).await.expect("a connection");
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                connection
                    .send(&body(client << 32 | sent))
                    .await
                    .expect("sent");
                let answer = connection
                    .answer()
                    .await
                    .expect("an answer")
                    .expect("an answer");
                assert_eq!(answer.json(), json!({"rejected": []}));
                sent += 1;
            }
            usize::try_from(sent).expect("not so many")
        });
    }
    let reloads = |gateway: &crate::gateway::Gateway| {
        let log = gateway.log();
        log.matches("the configuration is reloaded").count()
            + log.matches("the new configuration is refused").count()
    };
    for round in 0..24 {
        match round % 4 {
            0 | 2 => fs::write(&gateway.config, &good),
            1 => fs::write(&gateway.config, "apps: [what, {"),
            _ => fs::write(
                &gateway.config,
                good.replace("\"apns\"", "\"carrier pigeon\""),
            ),
        }
        .expect("the file can be written to");
        let before = reloads(&gateway);
        gateway.signal("HUP");
        gateway.signal("HUP");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while reloads(&gateway) == before {
            assert!(tokio::time::Instant::now() < deadline, "it is not reloaded");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let sent: usize = clients.join_all().await.into_iter().sum();
    assert!(sent > 24);
    assert_eq!(world.stand_ins.apple.seen_count(), sent);
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    gateway.assert_discreet([]);
}
