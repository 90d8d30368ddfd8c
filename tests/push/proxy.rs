//! Reaching providers through an HTTP proxy.

use std::fs;

use http::StatusCode;
use serde_json::{Value, json};
use stand_ins::{
    Proxy,
    homeserver::{device, device_with, dummy},
};

use crate::harness::{
    APNS, FCM, Gateway, Options, PATIENCE, PUSHKEY, WEB, World, assert_rejected, errcode,
    eventually, fresh,
};

async fn through(world: &World, apps: Value, proxy: &str) -> Gateway {
    let options = Options {
        config: json!({ "proxy": proxy }),
        ..Options::default()
    };
    world.gateway_with(apps, options).await
}

/// A message for Apple, which is reached at its own name through the proxy.
async fn apple_by_name(world: &World, proxy: &Proxy, url: &str) -> Gateway {
    proxy.map("api.push.apple.com:443", world.stand_ins.apple.address());
    let mut app = world.apns();
    app.as_object_mut().unwrap().remove("endpoint");
    through(world, json!({ APNS: app }), url).await
}

fn push() -> Value {
    fresh(dummy(&[device(APNS, PUSHKEY)]))
}

/// S54 `test_connect_no_credentials`: CONNECT without credentials; also when the answer's head comes
/// in pieces or in HTTP/1.0. What follows the head in the same segment is the tunnel's: were it
/// dropped, the TLS handshake below would not notice that the first bytes are not TLS.
#[tokio::test]
async fn s54_connect_no_credentials() {
    let world = World::new().await;
    let proxy = Proxy::start().await.unwrap();
    let gateway = apple_by_name(&world, &proxy, &proxy.url()).await;
    assert_rejected(&gateway.notify(&push()).await, &[]);
    let tunnels = proxy.wait_for(1, PATIENCE).await;
    assert_eq!(tunnels[0].target, "api.push.apple.com:443");
    assert!(tunnels[0].version.starts_with("HTTP/1."));
    assert_eq!(tunnels[0].authorization, None);
    assert_eq!(tunnels[0].answered, 200);

    proxy.split_answer(true);
    proxy.answer_in_http_1_0(true);
    world.stand_ins.apple.drop_connections();
    assert_rejected(&gateway.notify(&push()).await, &[]);

    proxy.split_answer(false);
    proxy.send_surplus(b"not TLS at all, and long enough to be seen as such");
    world.stand_ins.apple.drop_connections();
    let answer = gateway.notify(&push()).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
}

/// S55 `test_connect_correct_credentials`
#[tokio::test]
async fn s55_connect_correct_credentials() {
    let world = World::new().await;
    let proxy = Proxy::start().await.unwrap();
    proxy.require("user", "secret");
    let gateway = apple_by_name(&world, &proxy, &proxy.url_with("user", "secret")).await;
    assert_rejected(&gateway.notify(&push()).await, &[]);
    let tunnels = proxy.wait_for(1, PATIENCE).await;
    let (scheme, credentials) = tunnels[0]
        .authorization
        .as_deref()
        .and_then(|value| value.split_once(' '))
        .unwrap();
    assert!(scheme.eq_ignore_ascii_case("basic"));
    assert_eq!(credentials, "dXNlcjpzZWNyZXQ=");
    assert!(!gateway.log().contains("dXNlcjpzZWNyZXQ="));
    assert!(!gateway.log().contains("user:secret"));
}

/// S56 `test_connect_failure`
#[tokio::test]
async fn s56_connect_failure() {
    let world = World::new().await;
    let proxy = Proxy::start().await.unwrap();
    let gateway = apple_by_name(&world, &proxy, &proxy.url()).await;
    for status in [401, 403, 407, 502, 503] {
        proxy.refuse(Some(status));
        let answer = gateway.notify(&push()).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{status}");
        errcode(&answer);
    }
    assert_eq!(world.stand_ins.apple.connections().opened, 0);
}

/// S57 `test_connect_no_credentials` over TLS: the provider's certificate is checked through the
/// tunnel; one for another name is refused.
#[tokio::test]
async fn s57_tls_is_end_to_end() {
    let world = World::new().await;
    let proxy = Proxy::start().await.unwrap();
    // Google's certificate does not name Apple
    let gateway = {
        proxy.map("api.push.apple.com:443", world.stand_ins.google.address());
        let mut app = world.apns();
        app.as_object_mut().unwrap().remove("endpoint");
        through(&world, json!({ APNS: app }), &proxy.url()).await
    };
    let answer = gateway.notify(&push()).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(world.stand_ins.google.connections().opened, 0);
    proxy.map("api.push.apple.com:443", world.stand_ins.apple.address());
    let well = eventually(async || gateway.notify(&push()).await.status == StatusCode::OK);
    assert!(well.await);
}

/// S58 `test_https_request_via_proxy`: names, not addresses, are given to the proxy, and the request
/// inside is for the same name. Google's OAuth server is reached the same way.
#[tokio::test]
async fn s58_https_request_via_proxy() {
    let world = World::new().await;
    let proxy = Proxy::start().await.unwrap();
    let google = &world.stand_ins.google;
    proxy.map("fcm.googleapis.com:443", google.address());
    proxy.map("oauth2.googleapis.com:443", google.address());
    let account = google
        .service_account()
        .json("https://oauth2.googleapis.com/token");
    fs::write(&world.files.service_account, account).unwrap();
    let mut app = world.fcm();
    app.as_object_mut().unwrap().remove("endpoint");
    let gateway = through(&world, json!({ FCM: app }), &proxy.url()).await;
    let body = dummy(&[device(FCM, PUSHKEY)]);
    assert_rejected(&gateway.notify(&body).await, &[]);
    let mut targets: Vec<_> = proxy
        .wait_for(2, PATIENCE)
        .await
        .into_iter()
        .map(|tunnel| tunnel.target)
        .collect();
    targets.sort();
    assert_eq!(
        targets,
        ["fcm.googleapis.com:443", "oauth2.googleapis.com:443"]
    );
    assert_eq!(google.seen_count(), 1);
}

/// S59 `test_decompose_proxy_url`
#[tokio::test]
async fn s59_proxy_urls_are_taken_apart() {
    let world = World::new().await;
    for url in [
        "http://proxy.example.org",
        "http://proxy.example.org:8080",
        "http://proxy.example.org:8080/",
        "http://user:secret@proxy.example.org",
    ] {
        let gateway = through(&world, json!({ APNS: world.apns() }), url).await;
        assert_eq!(gateway.get("/health").await.status, StatusCode::OK);
    }
}

/// S60 `test_decompose_username_only`: a user without a password is no credentials.
#[tokio::test]
async fn s60_a_user_alone_is_no_credentials() {
    let world = World::new().await;
    let proxy = Proxy::start().await.unwrap();
    let url = format!("http://user@{}", proxy.address());
    let gateway = apple_by_name(&world, &proxy, &url).await;
    assert_rejected(&gateway.notify(&push()).await, &[]);
    assert_eq!(proxy.tunnels()[0].authorization, None);
}

/// S61 `test_decompose_invalid`: refused at the start, for every kind of app.
#[tokio::test]
async fn s61_other_proxy_urls_are_refused_at_start() {
    let world = World::new().await;
    for url in [
        "ftp://proxy.example.org:8080",
        "http://",
        "proxy.example.org:8080",
    ] {
        let options = Options {
            config: json!({ "proxy": url }),
            ..Options::default()
        };
        let (status, said) = world.refusal(json!({ APNS: world.apns() }), options).await;
        assert!(!status.success(), "{url}");
        assert!(said.to_lowercase().contains("proxy"), "{said}");
    }
}

/// Sygnal's issue 304: after a restart of the proxy APNs never came back.
#[tokio::test]
async fn a_restarted_proxy_is_found_again() {
    let world = World::new().await;
    let proxy = Proxy::start().await.unwrap();
    let gateway = apple_by_name(&world, &proxy, &proxy.url()).await;
    assert_rejected(&gateway.notify(&push()).await, &[]);
    proxy.stop().await;
    let answer = gateway.notify(&push()).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    proxy.start_again().unwrap();
    let well = eventually(async || gateway.notify(&push()).await.status == StatusCode::OK);
    assert!(well.await);
}

#[tokio::test]
async fn the_environment_names_a_proxy_where_the_file_does_not() {
    let world = World::new().await;
    let proxy = Proxy::start().await.unwrap();
    let options = Options {
        config: json!({}),
        environment: vec![("HTTPS_PROXY".to_owned(), proxy.url())],
    };
    let gateway = world
        .gateway_with(json!({ APNS: world.apns() }), options)
        .await;
    assert_rejected(&gateway.notify(&push()).await, &[]);
    assert_eq!(proxy.tunnels().len(), 1);

    let other = Proxy::start().await.unwrap();
    let options = Options {
        config: json!({ "proxy": other.url() }),
        environment: vec![("HTTPS_PROXY".to_owned(), proxy.url())],
    };
    let gateway = world
        .gateway_with(json!({ APNS: world.apns() }), options)
        .await;
    assert_rejected(&gateway.notify(&push()).await, &[]);
    assert_eq!((proxy.tunnels().len(), other.tunnels().len()), (1, 1));
}

#[tokio::test]
async fn push_services_are_reached_through_the_proxy_too() {
    let world = World::new().await;
    let proxy = Proxy::start().await.unwrap();
    let gateway = through(&world, json!({ WEB: world.web_push() }), &proxy.url()).await;
    let subscription = world.stand_ins.push_service.subscribe().unwrap();
    let data = json!({ "endpoint": subscription.endpoint, "auth": subscription.auth });
    let body = dummy(&[device_with(WEB, &subscription.p256dh, data)]);
    assert_rejected(&gateway.notify(&body).await, &[]);
    let address = world.stand_ins.push_service.address().to_string();
    assert_eq!(proxy.tunnels()[0].target, address);
}
