//! Starting, reloading, draining.

use std::fs;

use http::StatusCode;
use serde_json::{Value, json};
use stand_ins::{
    ApnsKey, KEY_ID, TEAM_ID,
    homeserver::{device, dummy},
};

use crate::harness::{
    APNS, Options, PATIENCE, PUSHKEY, World, assert_rejected, eventually, fresh, merged,
};

fn push(app_id: &str) -> Value {
    fresh(dummy(&[device(app_id, PUSHKEY)]))
}

#[tokio::test]
async fn sigterm_lets_requests_finish() {
    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    let mut gateway = world.gateway(json!({ APNS: world.apns() })).await;
    apple.hold();
    let homeserver = gateway.homeserver();
    let under_way = tokio::spawn(async move { homeserver.notify(&push(APNS)).await });
    assert_eq!(apple.wait_for(1, PATIENCE).await.len(), 1);
    gateway.signal("TERM");
    // by then it takes no new connections, or says that it is not ready
    let draining = eventually(async || {
        let ready = homeserver
            .request(
                http::Method::GET,
                "/ready",
                http::HeaderMap::new(),
                "".into(),
            )
            .await;
        ready.is_ok_and(|answer| answer.status == StatusCode::SERVICE_UNAVAILABLE)
            || homeserver
                .request(
                    http::Method::GET,
                    "/health",
                    http::HeaderMap::new(),
                    "".into(),
                )
                .await
                .is_err()
    });
    assert!(draining.await);
    apple.release();
    assert_rejected(&under_way.await.unwrap().unwrap(), &[]);
    assert!(gateway.ended().await.success());
}

#[tokio::test]
async fn sigterm_ends_an_idle_gateway() {
    let world = World::new().await;
    for signal in ["TERM", "INT"] {
        let mut gateway = world.gateway(json!({ APNS: world.apns() })).await;
        gateway.signal(signal);
        assert!(gateway.ended().await.success());
    }
}

#[tokio::test]
async fn sighup_takes_new_apps_and_keys_and_drops_no_request() {
    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    let gateway = world.gateway(json!({ APNS: world.apns() })).await;
    assert_rejected(&gateway.notify(&push("com.example.new")).await, &[PUSHKEY]);

    apple.hold();
    let homeserver = gateway.homeserver();
    let under_way = tokio::spawn(async move { homeserver.notify(&push(APNS)).await.unwrap() });
    assert_eq!(apple.wait_for(1, PATIENCE).await.len(), 1);
    let config = fs::read_to_string(&gateway.config).unwrap();
    fs::write(&gateway.config, config.replace(APNS, "com.example.new")).unwrap();
    let key = ApnsKey::generate(KEY_ID, TEAM_ID).unwrap();
    fs::write(&world.files.apns_key, key.pem()).unwrap();
    gateway.signal("HUP");
    apple.register_key(&key);
    apple.release();
    // sent with the old key and accepted before it was replaced
    assert_rejected(&under_way.await.unwrap(), &[]);
    let taken = eventually(async || {
        let answer = gateway.notify(&push("com.example.new")).await;
        answer.rejected() == Some(Vec::new())
    });
    assert!(taken.await);
    assert_rejected(&gateway.notify(&push(APNS)).await, &[PUSHKEY]);
}

#[tokio::test]
async fn sighup_with_a_broken_file_changes_nothing() {
    let world = World::new().await;
    let gateway = world.gateway(json!({ APNS: world.apns() })).await;
    fs::write(&gateway.config, "apps: [").unwrap();
    let name = gateway.config.file_name().unwrap().to_str().unwrap();
    let said = gateway.log().matches(name).count();
    gateway.signal("HUP");
    let complained = eventually(async || gateway.log().matches(name).count() > said);
    assert!(complained.await);
    assert_rejected(&gateway.notify(&push(APNS)).await, &[]);
}

/// Where Sygnal starts and fails later, or fails with a traceback.
#[tokio::test]
async fn a_gateway_that_could_not_work_does_not_start_and_says_why() {
    let world = World::new().await;
    let apns = |members: Value| merged(world.apns(), &members);
    let without = |name: &str| {
        let mut app = world.apns();
        app.as_object_mut().unwrap().remove(name);
        app
    };
    for (apps, word) in [
        (json!({}), "app"),
        (json!({ APNS: { "type": "apns" } }), "keyfile"),
        (json!({ APNS: { "type": "pigeon" } }), "pigeon"),
        (json!({ APNS: {} }), "type"),
        (json!({ APNS: without("topic") }), "topic"),
        (
            json!({ APNS: apns(json!({ "keyfile": "/nonexistent.p8" })) }),
            "nonexistent.p8",
        ),
        (
            json!({ APNS: apns(json!({ "keyfile": world.files.ca })) }),
            "ca.pem",
        ),
        (
            json!({ APNS: apns(json!({ "platform": "android" })) }),
            "platform",
        ),
        (
            json!({ APNS: apns(json!({ "push_type": "loud" })) }),
            "push_type",
        ),
        (
            json!({ APNS: apns(json!({ "payload": "secret" })) }),
            "payload",
        ),
        (
            json!({ APNS: apns(json!({ "send_badge_counts": "x" })) }),
            "send_badge_counts",
        ),
        (
            json!({ APNS: apns(json!({ "inflight_request_limit": "x" })) }),
            "inflight_request_limit",
        ),
        (
            json!({ "g": merged(world.fcm(), &json!({ "service_account_file": "/nonexistent" })) }),
            "nonexistent",
        ),
        (
            json!({ "g": merged(world.fcm(), &json!({ "fcm_options": { "token": "x" } })) }),
            "fcm_options",
        ),
        (
            json!({ "w": merged(world.web_push(), &json!({ "vapid_private_key": "/nonexistent" })) }),
            "nonexistent",
        ),
    ] {
        let shown = apps.to_string();
        let (status, said) = world.refusal(apps, Options::default()).await;
        assert!(!status.success(), "{shown}");
        assert!(said.contains(word), "{shown}:\n{said}");
    }
}

/// A `sygnal.yaml` as it is in use, with everything that means nothing here.
#[tokio::test]
async fn sygnals_own_members_are_accepted() {
    let world = World::new().await;
    let options = Options {
        config: json!({
            "log": {
                "setup": { "version": 1, "root": { "level": "INFO", "handlers": ["stderr"] } },
                "access": { "file": {}, "enabled": true, "x_forwarded_for": false },
            },
            "db": null,
            "database": null,
            "proxy": null,
            "limits": null,
            "unknown_of_the_future": { "a": 1 },
        }),
        ..Options::default()
    };
    let app = merged(world.apns(), &json!({ "unknown": 1 }));
    let gateway = world.gateway_with(json!({ APNS: app }), options).await;
    assert_rejected(&gateway.notify(&push(APNS)).await, &[]);
}

#[tokio::test]
async fn the_file_is_found_where_sygnal_finds_it() {
    let world = World::new().await;
    let gateway = world.gateway(json!({ APNS: world.apns() })).await;
    let config = gateway.config.clone();
    drop(gateway);
    let mut command = world.command();
    // a file that does not exist is named: so the variable was read
    command
        .arg("push")
        .env("SYGNAL_CONF", config.with_file_name("missing.yaml"));
    let output = crate::harness::run(command).await;
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("missing.yaml"));
}

/// What systemd is told of a service of type `notify-reload`, and its watchdog.
#[tokio::test]
async fn systemd_is_told_of_start_reload_and_stop() {
    let world = World::new().await;
    let path = world.directory().join("notify.socket");
    let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
    let next = async |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let received = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await;
            let length = received.unwrap().unwrap();
            let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
            if message.contains(wanted) {
                return message;
            }
            // the watchdog's may come at any time
            assert_eq!(message.trim(), "WATCHDOG=1", "before {wanted}");
        }
    };
    let options = Options {
        environment: vec![
            (
                "NOTIFY_SOCKET".to_owned(),
                path.to_str().unwrap().to_owned(),
            ),
            ("WATCHDOG_USEC".to_owned(), "200000".to_owned()),
        ],
        ..Options::default()
    };
    let mut gateway = world
        .gateway_with(json!({ APNS: world.apns() }), options)
        .await;
    next("READY=1").await;
    next("WATCHDOG=1").await;
    gateway.signal("HUP");
    assert!(next("RELOADING=1").await.contains("MONOTONIC_USEC="));
    next("READY=1").await;
    gateway.signal("TERM");
    next("STOPPING=1").await;
    assert!(gateway.ended().await.success());
}
