//! Web Push: what the browser reads in mode `sygnal`, what its push service sees, and what each of
//! the push service's answers means for the homeserver. Sygnal has no test of it at all.

use std::fs;

use http::StatusCode;
use serde_json::{Value, json};
use stand_ins::{
    Reply, Seen, Subscription, VapidKey,
    homeserver::{badge_only, device_with, dummy, event_id_only},
};

use crate::harness::{
    Gateway, Options, PATIENCE, WEB, World, assert_rejected, changed, errcode, eventually, fresh,
    merged,
};

async fn with(world: &World, members: Value) -> Gateway {
    let app = merged(world.web_push(), &members);
    world.gateway(json!({ WEB: app })).await
}

async fn plain(world: &World) -> Gateway {
    with(world, json!({})).await
}

fn subscribe(world: &World) -> Subscription {
    world.stand_ins.push_service.subscribe().unwrap()
}

/// A pusher as web clients register it, with more members of `data`.
fn browser(subscription: &Subscription, more: &Value) -> Vec<Value> {
    let data = json!({ "endpoint": subscription.endpoint, "auth": subscription.auth });
    vec![device_with(WEB, &subscription.p256dh, merged(data, more))]
}

/// The only push that the push service got, which was in order and could be read.
fn only(world: &World) -> Seen {
    let mut seen = world.stand_ins.push_service.seen();
    assert_eq!(seen.len(), 1);
    let push = seen.remove(0);
    assert_eq!(push.complaint, None);
    assert!(push.decrypted.is_some());
    push
}

#[tokio::test]
async fn the_browser_reads_what_sygnal_writes() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let subscription = subscribe(&world);
    let devices = browser(
        &subscription,
        &json!({ "default_payload": { "session": "s1" } }),
    );
    assert_rejected(&gateway.notify(&dummy(&devices)).await, &[]);
    let push = only(&world);
    assert_eq!(
        push.decrypted_json(),
        json!({
            "session": "s1",
            "room_id": "!slw48wfj34rtnrf:example.com",
            "room_name": "Mission Control",
            "room_alias": "#exampleroom:matrix.org",
            "event_id": "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs",
            "sender": "@exampleuser:matrix.org",
            "sender_display_name": "Major Tom",
            "type": "m.room.message",
            "content": {
                "msgtype": "m.text",
                "body": "I'm floating in a most peculiar way.",
                "other": 1,
            },
            "unread": 2,
            "missed_calls": 1,
        })
    );
    assert_eq!(push.device, subscription.endpoint);
    assert_eq!(push.header("ttl"), Some("900"));
    assert_eq!(push.header("urgency"), Some("normal"));
    assert_eq!(push.header("content-encoding"), Some("aes128gcm"));
    assert_eq!(push.header("topic"), None);
}

#[tokio::test]
async fn ttl_and_urgency_follow_configuration_and_prio() {
    let world = World::new().await;
    let gateway = with(&world, json!({ "ttl": 60 })).await;
    let devices = browser(&subscribe(&world), &json!({}));
    let body = changed(dummy(&devices), &json!({ "prio": "low" }));
    assert_rejected(&gateway.notify(&body).await, &[]);
    let push = only(&world);
    assert_eq!(push.header("ttl"), Some("60"));
    assert_eq!(push.header("urgency"), Some("low"));
}

/// The push service checks the signature, the audience and the expiry for real; here it checks the
/// key, too.
#[tokio::test]
async fn vapid_identifies_the_gateway_by_its_own_key() {
    let world = World::new().await;
    let key = VapidKey::generate().unwrap();
    fs::write(&world.files.vapid_key, key.pem()).unwrap();
    let gateway = plain(&world).await;
    let subscription = world
        .stand_ins
        .push_service
        .subscribe_for(&key.public())
        .unwrap();
    let body = dummy(&browser(&subscription, &json!({})));
    assert_rejected(&gateway.notify(&body).await, &[]);
    let push = only(&world);
    let authorization = push.header("authorization").unwrap();
    assert!(authorization.contains(&key.public()));
}

#[tokio::test]
async fn events_only_keeps_counts_away() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let devices = browser(&subscribe(&world), &json!({ "events_only": true }));
    assert_rejected(&gateway.notify(&badge_only(&devices)).await, &[]);
    assert_eq!(world.stand_ins.push_service.seen_count(), 0);
    assert_rejected(&gateway.notify(&event_id_only(&devices)).await, &[]);
    assert_eq!(only(&world).decrypted_json()["unread"], 2);
}

#[tokio::test]
async fn a_count_of_zero_is_sent() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let devices = browser(&subscribe(&world), &json!({}));
    let body = changed(badge_only(&devices), &json!({ "counts": { "unread": 0 } }));
    assert_rejected(&gateway.notify(&body).await, &[]);
    assert_eq!(only(&world).decrypted_json(), json!({ "unread": 0 }));
}

/// Sygnal's topic is a plain hash of the room ID with `==` after it, which is not allowed.
#[tokio::test]
async fn only_last_per_room_gives_rooms_topics_of_their_own() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let devices = browser(&subscribe(&world), &json!({ "only_last_per_room": true }));
    let in_room = |room: &str| changed(fresh(dummy(&devices)), &json!({ "room_id": room }));
    for room in ["!one:example.com", "!one:example.com", "!two:example.com"] {
        assert_rejected(&gateway.notify(&in_room(room)).await, &[]);
    }
    let seen = world.stand_ins.push_service.seen();
    let topics: Vec<_> = seen
        .iter()
        .map(|push| push.header("topic").unwrap())
        .collect();
    assert_eq!(topics[0], topics[1]);
    assert_ne!(topics[0], topics[2]);
    // the push service checks the alphabet and the length
    assert!(seen.iter().all(|push| push.complaint.is_none()));
}

#[tokio::test]
async fn long_content_is_cut_as_in_sygnal() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let devices = browser(&subscribe(&world), &json!({}));
    let content = json!({
        "msgtype": "m.text",
        "body": "é".repeat(1001),
        "formatted_body": "<b>x</b>",
        "ciphertext": "x".repeat(2001),
        "kept": [1, { "a": "b" }],
    });
    let body = changed(dummy(&devices), &json!({ "content": content }));
    assert_rejected(&gateway.notify(&body).await, &[]);
    assert_eq!(
        only(&world).decrypted_json()["content"],
        json!({
            "msgtype": "m.text",
            "body": format!("{}…", "é".repeat(999)),
            "kept": [1, { "a": "b" }],
        })
    );
}

/// Sygnal does not look at the whole size; push services refuse more than 4096 bytes.
#[tokio::test]
async fn nothing_larger_than_4096_bytes_is_sent() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let devices = browser(&subscribe(&world), &json!({}));
    let content = json!({ "msgtype": "m.text", "body": "x", "large": "y".repeat(6000) });
    let body = changed(dummy(&devices), &json!({ "content": content }));
    let answer = gateway.notify(&body).await;
    assert!(answer.status == StatusCode::OK || answer.status == StatusCode::BAD_GATEWAY);
    let seen = world.stand_ins.push_service.seen();
    assert!(seen.iter().all(|push| push.body.len() <= 4096));
}

#[tokio::test]
async fn devices_without_what_is_needed_are_rejected() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let subscription = subscribe(&world);
    let key = subscription.p256dh.as_str();
    let endpoint = subscription.endpoint.as_str();
    let auth = subscription.auth.as_str();
    for (pushkey, data) in [
        (key, None),
        (key, Some(json!({}))),
        (key, Some(json!({ "endpoint": endpoint }))),
        (key, Some(json!({ "auth": auth }))),
        (key, Some(json!({ "endpoint": 7, "auth": auth }))),
        (key, Some(json!({ "endpoint": endpoint, "auth": 7 }))),
        // where Sygnal answers 500
        (key, Some(json!({ "endpoint": endpoint, "auth": "!!" }))),
        (key, Some(json!({ "endpoint": "no url", "auth": auth }))),
        (
            key,
            Some(json!({ "endpoint": "file:///etc/passwd", "auth": auth })),
        ),
        (
            "not a key",
            Some(json!({ "endpoint": endpoint, "auth": auth })),
        ),
        ("", Some(json!({ "endpoint": endpoint, "auth": auth }))),
    ] {
        let mut device = stand_ins::homeserver::device(WEB, pushkey);
        if let Some(data) = &data {
            device["data"] = data.clone();
        }
        let answer = gateway.notify(&fresh(dummy(&[device]))).await;
        assert_eq!(answer.json(), json!({ "rejected": [pushkey] }), "{data:?}");
    }
    assert_eq!(world.stand_ins.push_service.seen_count(), 0);
}

#[tokio::test]
async fn ended_subscriptions_are_rejected() {
    let world = World::new().await;
    let gateway = plain(&world).await;
    let subscription = subscribe(&world);
    let devices = browser(&subscription, &json!({}));
    assert_rejected(&gateway.notify(&fresh(dummy(&devices))).await, &[]);
    world.stand_ins.push_service.unsubscribe(&subscription);
    let answer = gateway.notify(&fresh(dummy(&devices))).await;
    assert_rejected(&answer, &[&subscription.p256dh]);
    let mut unknown = subscribe(&world);
    unknown.endpoint.push('x');
    let answer = gateway
        .notify(&fresh(dummy(&browser(&unknown, &json!({})))))
        .await;
    assert_rejected(&answer, &[&unknown.p256dh]);
}

/// Sygnal answers 200 to all of these, and the push is lost.
#[tokio::test]
async fn other_refusals_give_502() {
    let world = World::new().await;
    let service = &world.stand_ins.push_service;
    let gateway = plain(&world).await;
    let devices = browser(&subscribe(&world), &json!({}));
    for (status, attempts) in [
        (400, 1..=1),
        (403, 1..=2),
        (413, 1..=1),
        (429, 1..=1),
        (503, 2..=3),
    ] {
        service.forget();
        service.script(move |_, _| Some(Reply::status(status)));
        let answer = gateway.notify(&fresh(dummy(&devices))).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{status}");
        errcode(&answer);
        assert!(attempts.contains(&service.seen_count()), "{status}");
    }
    // any other success is one
    service.script(|_, _| Some(Reply::status(200)));
    assert_rejected(&gateway.notify(&fresh(dummy(&devices))).await, &[]);
}

#[tokio::test]
async fn an_outage_gives_502_and_passes() {
    let world = World::new().await;
    let service = &world.stand_ins.push_service;
    let gateway = plain(&world).await;
    let devices = browser(&subscribe(&world), &json!({}));
    service.stop().await;
    let answer = gateway.notify(&fresh(dummy(&devices))).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    service.start_again().unwrap();
    let recovered =
        eventually(async || gateway.notify(&fresh(dummy(&devices))).await.status == StatusCode::OK);
    assert!(recovered.await);
    assert!(!service.wait_for(1, PATIENCE).await.is_empty());
}

#[tokio::test]
async fn endpoints_that_are_not_allowed_get_nothing_and_are_not_rejected() {
    let world = World::new().await;
    let gateway = with(
        &world,
        json!({ "allowed_endpoints": ["updates.push.services.mozilla.com", "*.example.org"] }),
    )
    .await;
    let devices = browser(&subscribe(&world), &json!({}));
    assert_rejected(&gateway.notify(&dummy(&devices)).await, &[]);
    assert_eq!(world.stand_ins.push_service.seen_count(), 0);
}

#[tokio::test]
async fn allowed_endpoints_are_globs_over_host_and_port() {
    let world = World::new().await;
    let port = world.stand_ins.push_service.address().port();
    for (globs, sent) in [
        (json!([format!("127.0.0.1:{port}")]), 1),
        (json!(["127.0.0.*:*"]), 1),
        (json!(["*"]), 1),
        (json!(["127.0.0.1"]), 0),
    ] {
        world.stand_ins.push_service.forget();
        let gateway = with(&world, json!({ "allowed_endpoints": globs })).await;
        let devices = browser(&subscribe(&world), &json!({}));
        assert_rejected(&gateway.notify(&fresh(dummy(&devices))).await, &[]);
        assert_eq!(world.stand_ins.push_service.seen_count(), sent);
    }
}

/// Endpoints are whatever a homeserver's users say they are: they must not lead into the operator's
/// own network (Sygnal's issue 419).
#[tokio::test]
async fn private_addresses_are_out_of_reach_unless_allowed() {
    let world = World::new().await;
    let options = Options {
        config: json!({ "outbound": {} }),
        ..Options::default()
    };
    let gateway = world
        .gateway_with(json!({ WEB: world.web_push() }), options)
        .await;
    let subscription = subscribe(&world);
    let port = world.stand_ins.push_service.address().port();
    let path = subscription.endpoint.split_once("/push/").unwrap().1;
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "0x7f.1",
        "0.0.0.0",
    ] {
        let mut there = subscription.clone();
        there.endpoint = format!("https://{host}:{port}/push/{path}");
        let answer = gateway
            .notify(&fresh(dummy(&browser(&there, &json!({})))))
            .await;
        // and no pusher is lost to a configuration that names the network too late
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{host}");
    }
    assert_eq!(world.stand_ins.push_service.seen_count(), 0);
    assert_eq!(world.stand_ins.push_service.connections().opened, 0);
}

/// A push service could send the gateway on to an address that it must not reach.
#[tokio::test]
async fn redirects_are_not_followed() {
    let world = World::new().await;
    let service = &world.stand_ins.push_service;
    let gateway = plain(&world).await;
    let target = subscribe(&world);
    let location = target.endpoint.clone();
    service.queue([Reply::status(307).header("location", &location)]);
    let devices = browser(&subscribe(&world), &json!({}));
    let answer = gateway.notify(&dummy(&devices)).await;
    assert!(answer.status == StatusCode::OK || answer.status == StatusCode::BAD_GATEWAY);
    assert!(service.seen().iter().all(|push| push.device != location));
}
