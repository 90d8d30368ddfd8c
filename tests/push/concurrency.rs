//! `inflight_request_limit`.

use http::StatusCode;
use serde_json::json;
use stand_ins::homeserver::{device, dummy};

use crate::harness::{
    APNS, FCM, PATIENCE, PUSHKEY, World, assert_rejected, errcode, fresh, merged,
};

/// S12 `test_passes_under_limit_one`
#[tokio::test]
async fn s12_passes_under_limit_one() {
    let world = World::new().await;
    let app = merged(world.apns(), &json!({ "inflight_request_limit": 1 }));
    let gateway = world.gateway(json!({ APNS: app })).await;
    for _ in 0..3 {
        let body = fresh(dummy(&[device(APNS, PUSHKEY)]));
        assert_rejected(&gateway.notify(&body).await, &[]);
    }
}

/// S13 `test_passes_under_limit_multiple_no_interfere`
#[tokio::test]
async fn s13_passes_under_limit_multiple_no_interfere() {
    let world = World::new().await;
    let limit = json!({ "inflight_request_limit": 1 });
    let gateway = world
        .gateway(json!({
            APNS: merged(world.apns(), &limit),
            FCM: merged(world.fcm(), &limit),
        }))
        .await;
    let body = dummy(&[device(APNS, PUSHKEY), device(FCM, PUSHKEY)]);
    assert_rejected(&gateway.notify(&body).await, &[]);
    assert_eq!(world.stand_ins.apple.seen_count(), 1);
    assert_eq!(world.stand_ins.google.seen_count(), 1);
}

/// S14 `test_fails_when_limit_hit`
#[tokio::test]
async fn s14_fails_when_limit_hit() {
    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    let app = merged(
        world.apns(),
        &json!({ "inflight_request_limit": 1, "request_timeout": "60s" }),
    );
    let options = crate::harness::Options {
        config: json!({ "limits": { "request_budget": "60s" } }),
        ..Default::default()
    };
    let gateway = world.gateway_with(json!({ APNS: app }), options).await;
    apple.hold();
    let body = fresh(dummy(&[device(APNS, PUSHKEY)]));
    let homeserver = gateway.homeserver();
    let first = tokio::spawn(async move { homeserver.notify(&body).await.unwrap() });
    assert_eq!(apple.wait_for(1, PATIENCE).await.len(), 1);
    let second = gateway
        .notify(&fresh(dummy(&[device(APNS, PUSHKEY)])))
        .await;
    assert_eq!(second.status, StatusCode::BAD_GATEWAY);
    errcode(&second);
    apple.release();
    assert_rejected(&first.await.unwrap(), &[]);
    assert_eq!(apple.seen_count(), 1);
    let dropped = gateway
        .metric(
            "sygnal_inflight_request_limit_drop_total",
            &[("pushkin", APNS)],
        )
        .await;
    assert_eq!(dropped, Some(1.0));
    // and the place is free again
    let third = gateway
        .notify(&fresh(dummy(&[device(APNS, PUSHKEY)])))
        .await;
    assert_rejected(&third, &[]);
}

#[tokio::test]
async fn many_at_once_share_a_connection_and_all_arrive() {
    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    let gateway = world.gateway(json!({ APNS: world.apns() })).await;
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let homeserver = gateway.homeserver();
        let body = fresh(dummy(&[device(APNS, PUSHKEY)]));
        requests.spawn(async move { homeserver.notify(&body).await.unwrap().status });
    }
    while let Some(status) = requests.join_next().await {
        assert_eq!(status.unwrap(), StatusCode::OK);
    }
    assert_eq!(apple.seen_count(), 100);
    assert!(apple.connections().opened <= 10);
    assert_eq!(apple.provider_tokens(), 1);
}
