//! UnifiedPush: the gateway between a homeserver and the endpoints of distributor apps.

use http::StatusCode;
use serde_json::{Value, json};
use stand_ins::{
    Reply, Seen, Subscription,
    homeserver::{badge_only, device, device_with, dummy, event_id_only},
};

use crate::harness::{
    Gateway, Options, UP, World, assert_rejected, changed, errcode, fresh, merged,
};

async fn with(world: &World, members: Value) -> Gateway {
    let app = merged(world.unified_push(), &members);
    world.gateway(json!({ UP: app })).await
}

async fn plain(world: &World) -> Gateway {
    with(world, json!({})).await
}

fn subscribe(world: &World) -> Subscription {
    world
        .stand_ins
        .push_service
        .subscribe_unified_push()
        .unwrap()
}

fn only(world: &World) -> Seen {
    let mut seen = world.stand_ins.push_service.seen();
    assert_eq!(seen.len(), 1);
    seen.remove(0)
}

/// Today's clients read the notification as it is; the list of devices is nobody's business.
#[tokio::test]
async fn todays_clients_get_the_notification_without_devices() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let subscription = subscribe(&world);
    let devices = [device(UP, &subscription.endpoint)];
    assert_rejected(&gateway.notify(&event_id_only(&devices)).await, &[]);
    let push = only(&world);
    let notification = &push.json()["notification"];
    assert_eq!(
        notification["event_id"],
        "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs"
    );
    assert_eq!(notification["room_id"], "!slw48wfj34rtnrf:example.com");
    assert_eq!(notification["counts"]["unread"], 2);
    assert_eq!(notification.get("devices"), None);
    // RFC 8030 demands it of every sender
    assert!(push.header("ttl").unwrap().parse::<u32>().is_ok());
}

#[tokio::test]
async fn counts_alone_are_forwarded() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let devices = [device(UP, &subscribe(&world).endpoint)];
    assert_rejected(&gateway.notify(&badge_only(&devices)).await, &[]);
    assert_eq!(only(&world).json()["notification"]["counts"]["unread"], 2);
}

#[tokio::test]
async fn clients_with_keys_get_it_encrypted() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let subscription = subscribe(&world);
    let data = json!({ "p256dh": subscription.p256dh, "auth": subscription.auth });
    let devices = [device_with(UP, &subscription.endpoint, data)];
    assert_rejected(&gateway.notify(&event_id_only(&devices)).await, &[]);
    let push = only(&world);
    assert_eq!(push.header("content-encoding"), Some("aes128gcm"));
    assert!(push.decrypted.is_some());
    let clear = String::from_utf8_lossy(&push.body);
    assert!(!clear.contains("example.com"));
    assert!(
        String::from_utf8(push.decrypted.unwrap())
            .unwrap()
            .contains("!slw48wfj34rtnrf")
    );
}

#[tokio::test]
async fn dead_endpoints_are_rejected_and_others_tried_again() {
    let world = World::new().await;
    let service = &world.stand_ins.push_service;
    let gateway = plain(&world).await;
    let subscription = subscribe(&world);
    let endpoint = subscription.endpoint.as_str();
    let devices = [device(UP, endpoint)];
    for (status, attempts) in [(429, 1..=1), (503, 2..=3)] {
        service.forget();
        service.script(move |_, _| Some(Reply::status(status)));
        let answer = gateway.notify(&fresh(event_id_only(&devices))).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
        errcode(&answer);
        assert!(attempts.contains(&service.seen_count()), "{status}");
    }
    service.unscript();
    assert_rejected(&gateway.notify(&fresh(event_id_only(&devices))).await, &[]);
    service.unsubscribe(&subscription);
    let answer = gateway.notify(&fresh(event_id_only(&devices))).await;
    assert_rejected(&answer, &[endpoint]);
    let unknown = format!("{endpoint}x");
    let answer = gateway
        .notify(&fresh(event_id_only(&[device(UP, &unknown)])))
        .await;
    assert_rejected(&answer, &[&unknown]);
}

#[tokio::test]
async fn what_is_no_endpoint_is_rejected() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    for pushkey in ["", "spqr", "ftp://example.org/x", "https://"] {
        let answer = gateway
            .notify(&fresh(event_id_only(&[device(UP, pushkey)])))
            .await;
        assert_rejected(&answer, &[pushkey]);
    }
}

#[tokio::test]
async fn allowed_endpoints_bind_here_too() {
    let world = World::new().await;
    let gateway = with(&world, json!({ "allowed_endpoints": ["up.example.org"] })).await;
    let devices = [device(UP, &subscribe(&world).endpoint)];
    assert_rejected(&gateway.notify(&event_id_only(&devices)).await, &[]);
    assert_eq!(world.stand_ins.push_service.seen_count(), 0);
}

#[tokio::test]
async fn private_addresses_are_out_of_reach_unless_allowed() {
    let world = World::new().await;
    let options = Options {
        config: json!({ "outbound": {} }),
        ..Options::default()
    };
    let gateway = world
        .gateway_with(json!({ UP: world.unified_push() }), options)
        .await;
    let endpoint = subscribe(&world).endpoint;
    let answer = gateway
        .notify(&event_id_only(&[device(UP, &endpoint)]))
        .await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(world.stand_ins.push_service.connections().opened, 0);
}

#[tokio::test]
async fn nothing_larger_than_4096_bytes_is_sent() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let devices = [device(UP, &subscribe(&world).endpoint)];
    let content = json!({ "msgtype": "m.text", "body": "x".repeat(6000) });
    let body = changed(dummy(&devices), &json!({ "content": content }));
    let answer = gateway.notify(&body).await;
    assert!(answer.status == StatusCode::OK || answer.status == StatusCode::BAD_GATEWAY);
    let seen = world.stand_ins.push_service.seen();
    assert!(seen.iter().all(|push| push.body.len() <= 4096));
}
