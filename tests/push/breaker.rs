//! A provider that is down is left alone for a while, and nobody else suffers.

use http::StatusCode;
use serde_json::json;
use stand_ins::{
    Reply,
    homeserver::{device, dummy},
};

use crate::harness::{
    APNS, FCM, Gateway, PATIENCE, PUSHKEY, World, assert_rejected, errcode, eventually, fresh,
};

/// Whether one more push for Apple fails without Apple being asked.
async fn fails_fast(world: &World, gateway: &Gateway) -> bool {
    let before = world.stand_ins.apple.seen_count();
    let answer = gateway
        .notify(&fresh(dummy(&[device(APNS, PUSHKEY)])))
        .await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    errcode(&answer);
    world.stand_ins.apple.seen_count() == before
}

#[tokio::test]
async fn an_outage_opens_the_breaker_and_its_end_closes_it() {
    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    apple.script(|_, _| Some(Reply::apns(503, "ServiceUnavailable")));
    let gateway = world
        .gateway(json!({ APNS: world.apns(), FCM: world.fcm() }))
        .await;
    // An outage is twenty failures within ten seconds: several homeservers at once.
    let opened = eventually(async || {
        let mut requests = tokio::task::JoinSet::new();
        for _ in 0..25 {
            let homeserver = gateway.homeserver();
            let body = fresh(dummy(&[device(APNS, PUSHKEY)]));
            requests.spawn(async move { homeserver.notify(&body).await.unwrap().status });
        }
        while let Some(status) = requests.join_next().await {
            assert_eq!(status.unwrap(), StatusCode::BAD_GATEWAY);
        }
        fails_fast(&world, &gateway).await
    });
    assert!(opened.await);
    let ready = gateway.get("/ready").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(gateway.get("/health").await.status, StatusCode::OK);

    // Google is not Apple
    let answer = gateway.notify(&fresh(dummy(&[device(FCM, PUSHKEY)]))).await;
    assert_rejected(&answer, &[]);

    apple.unscript();
    let well = eventually(async || {
        let body = fresh(dummy(&[device(APNS, PUSHKEY)]));
        gateway.notify(&body).await.status == StatusCode::OK
    });
    assert!(well.await);
    let ready = eventually(async || gateway.get("/ready").await.status == StatusCode::OK);
    assert!(ready.await);
}

/// Refusals of single devices and throttling are no outage.
#[tokio::test]
async fn rejections_and_429_do_not_open_it() {
    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    let gateway = world.gateway(json!({ APNS: world.apns() })).await;
    for reply in [
        Reply::apns(410, "Unregistered"),
        Reply::apns(429, "TooManyRequests"),
    ] {
        apple.script(move |_, _| Some(reply.clone()));
        for _ in 0..50 {
            gateway
                .notify(&fresh(dummy(&[device(APNS, PUSHKEY)])))
                .await;
        }
    }
    assert_eq!(apple.seen_count(), 100);
    assert_eq!(gateway.get("/ready").await.status, StatusCode::OK);
    apple.unscript();
    let answer = gateway
        .notify(&fresh(dummy(&[device(APNS, PUSHKEY)])))
        .await;
    assert_rejected(&answer, &[]);
}

/// The homeserver of a push that waits out its jitter was answered: only the gateway can try again.
#[tokio::test]
async fn a_delayed_push_outlives_a_failure_of_its_provider() {
    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    let mut app = world.apns();
    app["payload"] = json!("opaque");
    app["opaque"] = json!({ "jitter": "10ms" });
    let gateway = world.gateway(json!({ APNS: app })).await;
    // as many as one request's own attempts, and one more
    apple.queue((0..4).map(|_| Reply::apns(503, "ServiceUnavailable")));
    let answer = gateway
        .notify(&fresh(dummy(&[device(APNS, PUSHKEY)])))
        .await;
    assert_rejected(&answer, &[]);
    assert_eq!(apple.wait_for(5, PATIENCE).await.len(), 5);
    let delivered = eventually(async || {
        let metrics = gateway.metrics().await;
        metrics.contains("nocturne_push_delivered_total{app=\"com.example.apns\"} 1")
    });
    assert!(delivered.await);
}
