//! What a client can do with its connection.

use std::time::Duration;

use serde_json::json;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    draw::Draw,
    gateway::{Gateway, World},
    wire::{Answer, Connection, post, post_chunked},
};

const NOTIFY: &str = "/_matrix/push/v1/notify";
const BODY: &str = r#"{"notification":{"devices":[{"app_id":"nobody","pushkey":"k"}]}}"#;

/// An answer, or none because the connection was closed without one.
async fn ask(gateway: &Gateway, request: impl AsRef<[u8]>) -> Option<Answer> {
    gateway.ask(request.as_ref()).await.ok().flatten()
}

async fn status(gateway: &Gateway, request: impl AsRef<[u8]>) -> Option<u16> {
    ask(gateway, request).await.map(|answer| answer.status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_and_target_is_answered_in_json_and_never_with_a_500() {
    let world = World::new().await;
    let mut gateway = world.gateway(&json!({})).await;
    for (method, target, expected) in [
        ("GET", NOTIFY, 200),
        ("PUT", NOTIFY, 405),
        ("DELETE", NOTIFY, 405),
        ("OPTIONS", NOTIFY, 405),
        ("PATCH", NOTIFY, 405),
        ("TRACE", NOTIFY, 405),
        ("BREW", NOTIFY, 405),
        ("post", NOTIFY, 405),
        ("OPTIONS", "*", 404),
        ("CONNECT", "x:443", 404),
        ("POST", "/_matrix/push/v1/notify/", 200),
        ("POST", "/_matrix/push/v1/notify?access_token=x", 200),
        ("POST", "/_matrix/push/v1/notify/more", 200),
        ("POST", "http://x/_matrix/push/v1/notify", 200),
        ("POST", "HTTPS://user@[::1]:1/_matrix/push/v1/notify", 200),
        ("POST", "//_matrix/push/v1/notify", 404),
        ("POST", "/_matrix//push/v1/notify", 404),
        ("POST", "/_matrix/push/v1/../v1/notify", 404),
        ("POST", "/_matrix/push/v1/%2e%2e/v1/notify", 404),
        ("POST", "/%00", 404),
        ("POST", "/%ff%fe%", 404),
        ("GET", "/metrics", 404),
        ("POST", "/health", 405),
        ("GET", "/ready", 200),
        ("GET", "/", 404),
    ] {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{BODY}",
            BODY.len()
        );
        let answer = ask(&gateway, request).await;
        let answer = answer.unwrap_or_else(|| panic!("no answer to {method} {target}"));
        assert_eq!(answer.status, expected, "{method} {target}");
        if method != "CONNECT" {
            answer.json();
            assert_eq!(answer.header("content-type"), Some("application/json"));
        }
    }
    let mut connection = Connection::open(gateway.address).await.expect("open");
    connection
        .send(format!("HEAD {NOTIFY} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
        .await
        .expect("sent");
    connection.finish().await.expect("open");
    gateway.assert_sound([]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_quite_http_is_refused_and_nothing_is_smuggled() {
    let world = World::new().await;
    let mut gateway = world.gateway(&json!({})).await;
    let head = format!("POST {NOTIFY} HTTP/1.1\r\nHost: x\r\n");
    let smuggled = format!(
        "GET /health HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "y".repeat(9)
    );
    let length = BODY.len();
    let chunked = format!("{length:x}\r\n{BODY}\r\n0\r\n\r\n");
    for request in [
        // two lengths, or none that is one
        format!("{head}Content-Length: {length}\r\nContent-Length: 0\r\n\r\n{BODY}"),
        format!("{head}Content-Length: {length}, 0\r\n\r\n{BODY}"),
        format!("{head}Content-Length: -1\r\n\r\n{BODY}"),
        format!("{head}Content-Length: +{length}\r\n\r\n{BODY}"),
        format!("{head}Content-Length: 0x10\r\n\r\n{BODY}"),
        format!("{head}Content-Length: 99999999999999999999999999\r\n\r\n{BODY}"),
        // chunks that are none
        format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n{BODY}"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n-1\r\n{BODY}"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{BODY}"),
        format!("{head}Transfer-Encoding: identity, x\r\n\r\n{chunked}"),
        format!("{head}Transfer-Encoding: chunked, gzip\r\n\r\n{chunked}"),
        // heads that are none
        format!("{head}Content-Length : {length}\r\n\r\n{BODY}"),
        format!("{head} folded\r\nContent-Length: {length}\r\n\r\n{BODY}"),
        format!("{head}X\0: y\r\n\r\n"),
        format!("{head}{}\r\n", "X: y\r\n".repeat(200)),
        format!("{head}X: {}\r\n\r\n", "y".repeat(200_000)),
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "y".repeat(200_000)),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "GET /\r\n".to_owned() + &"z".repeat(100),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}".to_owned() + &"z".repeat(500),
    ] {
        let mut connection = Connection::open(gateway.address).await.expect("open");
        // it may be closed before it has all
        let _ = connection
            .send(format!("{request}{smuggled}").as_bytes())
            .await;
        let _ = connection.finish().await;
        let first = connection.answer().await.ok().flatten();
        let status = first.as_ref().map(|answer| answer.status);
        assert!(
            matches!(status, None | Some(400 | 404 | 405 | 414 | 431)),
            "{status:?}: {}",
            &request[..request.len().min(300)]
        );
        let second = connection.answer().await.ok().flatten();
        assert!(second.is_none(), "{}", &request[..request.len().min(300)]);
    }
    // both a length and chunks: the chunks count, and what follows them is another request
    let both = format!("{head}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}");
    assert_eq!(status(&gateway, &both).await, Some(200));
    gateway.assert_sound([]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_past_the_limit_gets_a_413_however_it_comes() {
    let world = World::new().await;
    let mut gateway = world
        .gateway(&json!({"limits": {"max_body": "20KiB"}}))
        .await;
    let padded = |length: usize| {
        let mut body = BODY.as_bytes().to_vec();
        body.resize(length, b' ');
        body
    };
    for (length, expected) in [(20 * 1024, 200), (20 * 1024 + 1, 413)] {
        assert_eq!(
            status(&gateway, post(&padded(length))).await,
            Some(expected)
        );
        for sizes in [[1000], [20_480], [100_000]] {
            let request = post_chunked(&padded(length), &sizes);
            assert_eq!(status(&gateway, request).await, Some(expected), "{sizes:?}");
        }
    }
    // announced and not sent, with and without waiting for leave
    for expect in ["", "Expect: 100-continue\r\n"] {
        let head =
            format!("POST {NOTIFY} HTTP/1.1\r\nHost: x\r\n{expect}Content-Length: 9999999\r\n\r\n");
        assert_eq!(status(&gateway, head).await, Some(413));
    }
    // a client that reads no answer before it has sent all
    for length in [300_000, 5_000_000] {
        let answer = ask(&gateway, post(&padded(length)))
            .await
            .expect("an answer");
        assert_eq!(answer.status, 413, "{length}");
        answer.assert_well_formed();
        assert_eq!(
            status(&gateway, post_chunked(&padded(length), &[4096])).await,
            Some(413)
        );
    }
    gateway.assert_sound([]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_half_open_clients_are_cut_off_and_others_do_not_notice() {
    let world = World::new().await;
    let mut gateway = world
        .gateway(&json!({"limits": {"request_budget": "2s"}}))
        .await;
    let mut clients = JoinSet::new();
    for number in 0..300 {
        let address = gateway.address;
        clients.spawn(async move {
            let mut connection = Connection::open(address).await.expect("open");
            let request = post(BODY.as_bytes());
            match number % 3 {
                // one byte of the body now and then
                0 => {
                    let (head, body) = request.split_at(request.len() - BODY.len());
                    connection.send(head).await.expect("sent");
                    for byte in body {
                        if connection.send(&[*byte]).await.is_err() {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(500)).await;
                        if let Some(answer) = connection.answered() {
                            return Some(answer);
                        }
                    }
                    connection.answer().await.ok().flatten()
                }
                // a body that never comes
                1 => {
                    connection
                        .send(&request[..request.len() - 1])
                        .await
                        .expect("sent");
                    connection.answer().await.ok().flatten()
                }
                // a body that ends early
                _ => {
                    connection
                        .send(&request[..request.len() - 1])
                        .await
                        .expect("sent");
                    connection.finish().await.expect("open");
                    connection.answer().await.ok().flatten()
                }
            }
        });
    }
    for number in 0..20 {
        let began = Instant::now();
        let body = json!({"notification": {"event_id": "$x", "devices": [
            {"app_id": "apns.opaque", "pushkey": Draw::token(number)}]}});
        assert_eq!(gateway.notify(&body).await.status, 200);
        assert!(began.elapsed() < Duration::from_secs(12));
    }
    for answer in clients.join_all().await.into_iter().flatten() {
        assert!(matches!(answer.status, 400 | 408), "{}", answer.status);
        answer.assert_well_formed();
    }
    gateway.assert_sound([]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_answered_in_their_order() {
    let world = World::new().await;
    let gateway = world.gateway(&json!({})).await;
    let mut connection = Connection::open(gateway.address).await.expect("open");
    let mut requests = Vec::new();
    for number in 0..200 {
        let body = BODY.replace('k', &number.to_string());
        let body = body.replace(&format!("push{number}ey"), "pushkey");
        requests.extend(if number % 2 == 0 {
            post(body.as_bytes())
        } else {
            post_chunked(body.as_bytes(), &[7])
        });
    }
    connection.send(&requests).await.expect("sent");
    for number in 0..200 {
        let answer = connection.answer().await.expect("open").expect("open");
        assert_eq!(answer.json(), json!({"rejected": [number.to_string()]}));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_do_nothing_leave_room_for_pushes() {
    let mut world = World::new().await;
    for before in ["ulimit -S -n 150; ", "ulimit -n 150; "] {
        world.before = before;
        let mut gateway = world.gateway(&json!({})).await;
        let mut homeserver = Connection::open(gateway.address).await.expect("open");
        let health = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
        homeserver.send(health).await.expect("sent");
        homeserver.answer().await.expect("open").expect("open");
        let mut idle = Vec::new();
        for _ in 0..170 {
            let mut connection = Connection::open(gateway.address).await.expect("open");
            connection.send(b"GET").await.expect("sent");
            idle.push(connection);
        }
        for kind in ["apns", "gcm"] {
            let body = json!({"notification": {"event_id": "$x", "devices": [
                {"app_id": format!("{kind}.opaque"), "pushkey": Draw::token(1)}]}});
            homeserver
                .send(&post(body.to_string().as_bytes()))
                .await
                .expect("sent");
            let answer = homeserver.answer().await.expect("open").expect("open");
            assert_eq!(answer.json(), json!({"rejected": []}), "{before}");
        }
        gateway.assert_sound([]);
    }
}
