//! The routes, the shape of answers, and how one device's failure leaves the others alone.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use stand_ins::{
    Reply,
    homeserver::{NOTIFY_PATH, device, dummy},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{
    APNS, Gateway, Options, PATIENCE, PUSHKEY, World, assert_rejected, errcode, fresh,
};

/// Device tokens that Apple accepts, says are unregistered, and fails for. As pushkeys: base64.
const ACCEPT: &str = "aaaa";
const REJECT: &str = "bbbb";
const FAIL: &str = "cccc";
const ACCEPT_HEX: &str = "69a69a";
const REJECT_HEX: &str = "6db6db";
const FAIL_HEX: &str = "71c71c";

/// A gateway with one app and an Apple that answers by device.
async fn three_kinds_of_device() -> (World, Gateway) {
    let world = World::new().await;
    world
        .stand_ins
        .apple
        .script(|seen, _| match seen.device.as_str() {
            REJECT_HEX => Some(Reply::apns(410, "Unregistered")),
            FAIL_HEX => Some(Reply::apns(429, "TooManyRequests")),
            _ => None,
        });
    let gateway = world.gateway(json!({ APNS: world.apns() })).await;
    (world, gateway)
}

fn devices(pushkeys: &[&str]) -> Vec<Value> {
    pushkeys.iter().map(|key| device(APNS, key)).collect()
}

/// How many pushes there were to a device.
fn pushes_to(world: &World, device: &str) -> usize {
    let seen = world.stand_ins.apple.seen();
    seen.iter().filter(|push| push.device == device).count()
}

/// S1 `test_good_requests_give_200`; here the answer is `application/json`, not `text/html`.
#[tokio::test]
async fn s01_good_requests_give_200() {
    let (_world, gateway) = three_kinds_of_device().await;
    let answer = gateway.notify(&dummy(&devices(&[ACCEPT, REJECT]))).await;
    assert_eq!(answer.status, StatusCode::OK);
    let content_type = answer.headers["content-type"].to_str().unwrap();
    assert!(content_type.starts_with("application/json"));
    assert!(answer.json()["rejected"].is_array());
}

/// S2 `test_accepted_devices_are_not_rejected`
#[tokio::test]
async fn s02_accepted_devices_are_not_rejected() {
    let (_world, gateway) = three_kinds_of_device().await;
    let answer = gateway.notify(&dummy(&devices(&[ACCEPT]))).await;
    assert_rejected(&answer, &[]);
}

/// S3 `test_rejected_devices_are_rejected`
#[tokio::test]
async fn s03_rejected_devices_are_rejected() {
    let (_world, gateway) = three_kinds_of_device().await;
    let answer = gateway.notify(&dummy(&devices(&[REJECT]))).await;
    assert_rejected(&answer, &[REJECT]);
}

/// S4 `test_only_rejected_devices_are_rejected`
#[tokio::test]
async fn s04_only_rejected_devices_are_rejected() {
    let (_world, gateway) = three_kinds_of_device().await;
    let answer = gateway.notify(&dummy(&devices(&[REJECT, ACCEPT]))).await;
    assert_rejected(&answer, &[REJECT]);
}

/// S5 `test_bad_requests_give_400`; here with a Matrix error object, not a text.
#[tokio::test]
async fn s05_bad_requests_give_400() {
    let (_world, gateway) = three_kinds_of_device().await;
    let answer = gateway.post("{}").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    errcode(&answer);
}

/// S6 `test_exceptions_give_500`: what makes Sygnal answer 500 and forget the other devices (here a
/// pushkey that is not base64) is that device's own affair: it can never work, so it is rejected.
#[tokio::test]
async fn s06_what_is_an_exception_in_sygnal_is_never_a_500() {
    for order in [&["abc"][..], &["abc", ACCEPT], &[ACCEPT, "abc"]] {
        let (world, gateway) = three_kinds_of_device().await;
        let answer = gateway.notify(&dummy(&devices(order))).await;
        assert_rejected(&answer, &["abc"]);
        assert_eq!(pushes_to(&world, ACCEPT_HEX), order.len() - 1);
    }
}

/// S7 `test_remote_errors_give_502`; here the other devices get theirs all the same, and the
/// homeserver's retry does not reach them again.
#[tokio::test]
async fn s07_remote_errors_give_502_and_stop_nobody_else() {
    for order in [&[FAIL][..], &[FAIL, ACCEPT], &[ACCEPT, FAIL]] {
        let (world, gateway) = three_kinds_of_device().await;
        let body = dummy(&devices(order));
        let answer = gateway.notify(&body).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
        errcode(&answer);
        assert_eq!(pushes_to(&world, ACCEPT_HEX), order.len() - 1);
        let answer = gateway.notify(&body).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
        assert_eq!(pushes_to(&world, ACCEPT_HEX), order.len() - 1);
        assert_eq!(pushes_to(&world, FAIL_HEX), 2);
    }
}

/// A rejection that a failure beside it hid (502 has no room for it) is reported on the retry.
#[tokio::test]
async fn a_rejection_hidden_by_a_failure_is_not_lost() {
    let (world, gateway) = three_kinds_of_device().await;
    let body = dummy(&devices(&[REJECT, FAIL]));
    let answer = gateway.notify(&body).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    world
        .stand_ins
        .apple
        .script(|seen, _| (seen.device == REJECT_HEX).then(|| Reply::apns(410, "Unregistered")));
    let answer = gateway.notify(&body).await;
    assert_rejected(&answer, &[REJECT]);
}

/// S8 `test_overlong_requests_are_rejected`; here with 413, not by cutting the connection.
#[tokio::test]
async fn s08_overlong_requests_are_rejected() {
    let (_world, gateway) = three_kinds_of_device().await;
    let answer = gateway.request(Method::POST, "/", "{}").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(errcode(&answer), "M_UNRECOGNIZED");

    let start = format!("POST {NOTIFY_PATH} HTTP/1.1\r\nHost: localhost\r\n");
    // announced by its length
    let head = format!("{start}Content-Length: {}\r\n\r\n", 513 * 1024);
    assert_eq!(status_of(&gateway, head, "x".repeat(1024)).await, "413");
    // not announced: in chunks
    let head = format!("{start}Transfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    assert_eq!(status_of(&gateway, head, chunk).await, "413");

    // just below the limit, padded with what JSON allows
    let mut body = fresh(dummy(&devices(&[ACCEPT]))).to_string();
    body.push_str(&" ".repeat(512 * 1024 - body.len()));
    let answer = gateway.post(body).await;
    assert_rejected(&answer, &[]);
}

/// The status of the answer to a head and 513 times the same bytes.
async fn status_of(gateway: &Gateway, head: String, bytes: String) -> String {
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let writer = tokio::spawn(async move {
        writing.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..513 {
            // the gateway may have answered and closed by then
            if writing.write_all(bytes.as_bytes()).await.is_err() {
                break;
            }
        }
        writing
    });
    let mut answer = [0; 12];
    timeout(PATIENCE, reading.read_exact(&mut answer))
        .await
        .expect("an answer")
        .unwrap();
    drop(writer);
    String::from_utf8_lossy(&answer[9..]).into_owned()
}

#[tokio::test]
async fn unknown_routes_and_methods_get_matrix_errors() {
    let (_world, gateway) = three_kinds_of_device().await;
    for (method, path, status) in [
        (Method::GET, "/", 404),
        (Method::POST, "/_matrix/push/v1/other", 404),
        (Method::PUT, NOTIFY_PATH, 405),
        (Method::DELETE, NOTIFY_PATH, 405),
    ] {
        let answer = gateway.request(method, path, "").await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert_eq!(errcode(&answer), "M_UNRECOGNIZED");
    }
}

#[tokio::test]
async fn get_on_the_notify_route_says_that_this_is_a_gateway() {
    let (_world, gateway) = three_kinds_of_device().await;
    let answer = gateway.get(NOTIFY_PATH).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(
        answer.json(),
        json!({ "gateway": "matrix", "unifiedpush": { "gateway": "matrix" } })
    );
}

#[tokio::test]
async fn health_and_readiness() {
    let (_world, gateway) = three_kinds_of_device().await;
    assert_eq!(gateway.get("/health").await.status, StatusCode::OK);
    assert_eq!(gateway.get("/ready").await.status, StatusCode::OK);
    let head = gateway.request(Method::HEAD, "/health", "").await;
    assert_eq!(head.status, StatusCode::OK);
}

#[tokio::test]
async fn rejected_pushkeys_come_in_the_order_of_the_devices() {
    let (_world, gateway) = three_kinds_of_device().await;
    let devices = [
        device("unknown.app", "first"),
        device(APNS, ACCEPT),
        device(APNS, REJECT),
        device("unknown.app", "last ü"),
    ];
    let answer = gateway.notify(&dummy(&devices)).await;
    assert_rejected(&answer, &["first", REJECT, "last ü"]);
}

#[tokio::test]
async fn a_connection_carries_many_requests() {
    let (_world, gateway) = three_kinds_of_device().await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    for _ in 0..3 {
        let body = fresh(dummy(&devices(&[ACCEPT]))).to_string();
        let request = format!(
            "POST {NOTIFY_PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn more_pushes_to_a_pushkey_than_allowed_give_429() {
    let world = World::new().await;
    let options = Options {
        config: json!({ "limits": { "per_pushkey_per_minute": 3 } }),
        ..Options::default()
    };
    let gateway = world
        .gateway_with(json!({ APNS: world.apns() }), options)
        .await;
    let mut statuses = Vec::new();
    for _ in 0..20 {
        let answer = gateway
            .notify(&fresh(dummy(&[device(APNS, PUSHKEY)])))
            .await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(errcode(&answer), "M_LIMIT_EXCEEDED");
        }
        statuses.push(answer.status.as_u16());
    }
    assert_eq!(statuses[..3], [200, 200, 200]);
    assert!(statuses.contains(&429), "{statuses:?}");
    // another pushkey is not concerned
    let answer = gateway.notify(&fresh(dummy(&[device(APNS, ACCEPT)]))).await;
    assert_rejected(&answer, &[]);
}

#[tokio::test]
async fn more_requests_of_a_source_than_allowed_give_429() {
    let world = World::new().await;
    let options = Options {
        config: json!({ "limits": { "per_source_per_second": 1 } }),
        ..Options::default()
    };
    let gateway = world
        .gateway_with(json!({ APNS: world.apns() }), options)
        .await;
    let mut limited = 0;
    for _ in 0..200 {
        let answer = gateway
            .notify(&fresh(dummy(&[device(APNS, PUSHKEY)])))
            .await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            limited += 1;
            assert_eq!(errcode(&answer), "M_LIMIT_EXCEEDED");
            break;
        }
    }
    assert_ne!(limited, 0);
}

/// Whatever a provider does, the homeserver gets an answer within the budget, and some slack for a
/// busy machine.
#[tokio::test]
async fn a_provider_that_never_answers_gives_502_within_the_budget() {
    let world = World::new().await;
    world
        .stand_ins
        .apple
        .script(|_, _| Some(Reply::hang_forever()));
    let options = Options {
        config: json!({ "limits": { "request_budget": "3s" } }),
        ..Options::default()
    };
    let gateway = world
        .gateway_with(json!({ APNS: world.apns() }), options)
        .await;
    let body = dummy(&[device(APNS, PUSHKEY)]);
    let answer = timeout(Duration::from_secs(25), gateway.notify(&body))
        .await
        .expect("an answer long before a homeserver gives up");
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    errcode(&answer);
}
