//! Sygnal's metric names, so that its dashboards go on working; and nothing in them that names a
//! user.

use serde_json::json;
use stand_ins::{
    Reply,
    homeserver::{device, device_with, dummy},
};

use crate::harness::{APNS, FCM, PUSHKEY, WEB, World, assert_rejected, eventually, fresh};

#[tokio::test]
async fn requests_and_devices_are_counted_under_sygnals_names() {
    let world = World::new().await;
    let gateway = world.gateway_with_all().await;
    let body = dummy(&[device(APNS, PUSHKEY), device(FCM, PUSHKEY)]);
    assert_rejected(&gateway.notify(&body).await, &[]);
    world
        .stand_ins
        .apple
        .queue([Reply::apns(410, "Unregistered")]);
    let body = fresh(dummy(&[device(APNS, PUSHKEY)]));
    assert_rejected(&gateway.notify(&body).await, &[PUSHKEY]);
    gateway.post("{}").await;
    let subscription = world.stand_ins.push_service.subscribe().unwrap();
    let data = json!({ "endpoint": subscription.endpoint, "auth": subscription.auth });
    let body = fresh(dummy(&[device_with(WEB, &subscription.p256dh, data)]));
    assert_rejected(&gateway.notify(&body).await, &[]);

    for (name, labels, value) in [
        ("sygnal_notifications_received_total", &[][..], 3.0),
        ("sygnal_notifications_devices_received_total", &[], 4.0),
        ("sygnal_per_pushkin_type_total", &[("pushkin", APNS)], 2.0),
        ("sygnal_per_pushkin_type_total", &[("pushkin", FCM)], 1.0),
        ("sygnal_per_pushkin_type_total", &[("pushkin", WEB)], 1.0),
        (
            "sygnal_pushgateway_status_codes_total",
            &[("code", "200")],
            3.0,
        ),
        (
            "sygnal_pushgateway_status_codes_total",
            &[("code", "400")],
            1.0,
        ),
        ("sygnal_notify_time_count", &[("code", "200")], 3.0),
        (
            "sygnal_notify_time_bucket",
            &[("code", "200"), ("le", "+Inf")],
            3.0,
        ),
        (
            "sygnal_requests_in_flight",
            &[("resource", "V1NotifyHandler")],
            0.0,
        ),
        (
            "sygnal_inflight_request_limit_drop_total",
            &[("pushkin", APNS)],
            0.0,
        ),
        ("sygnal_apns_request_time_count", &[], 2.0),
        ("sygnal_active_apns_requests", &[], 0.0),
        (
            "sygnal_apns_status_codes_total",
            &[("pushkin", APNS), ("code", "200")],
            1.0,
        ),
        (
            "sygnal_apns_status_codes_total",
            &[("pushkin", APNS), ("code", "410")],
            1.0,
        ),
        ("sygnal_gcm_request_time_count", &[], 1.0),
        ("sygnal_gcm_queue_time_count", &[], 1.0),
        ("sygnal_pending_gcm_requests", &[], 0.0),
        ("sygnal_active_gcm_requests", &[], 0.0),
        (
            "sygnal_gcm_status_codes_total",
            &[("pushkin", FCM), ("code", "200")],
            1.0,
        ),
        ("sygnal_webpush_request_time_count", &[], 1.0),
        ("sygnal_webpush_queue_time_count", &[], 1.0),
        ("sygnal_pending_webpush_requests", &[], 0.0),
        ("sygnal_active_webpush_requests", &[], 0.0),
    ] {
        // some are counted when the answer is already on its way
        let counted = eventually(async || gateway.metric(name, labels).await == Some(value));
        assert!(counted.await, "{name} {labels:?} is not {value}");
    }
}

/// Labels come from the configuration, not from requests: anybody can send those.
#[tokio::test]
async fn unknown_apps_make_no_series() {
    let world = World::new().await;
    let gateway = world
        .gateway(json!({ "com.example.*": world.apns() }))
        .await;
    for app_id in ["com.example.one", "com.example.two", "org.unknown.three"] {
        gateway
            .notify(&fresh(dummy(&[device(app_id, PUSHKEY)])))
            .await;
    }
    let page = gateway.metrics().await;
    for name in ["com.example.one", "com.example.two", "org.unknown.three"] {
        assert!(!page.contains(name));
    }
    let counted = gateway
        .metric(
            "sygnal_per_pushkin_type_total",
            &[("pushkin", "com.example.*")],
        )
        .await;
    assert_eq!(counted, Some(2.0));
}

#[tokio::test]
async fn metrics_are_not_on_the_api_port() {
    let world = World::new().await;
    let gateway = world.gateway(json!({ APNS: world.apns() })).await;
    assert_eq!(gateway.get("/metrics").await.status.as_u16(), 404);
}
