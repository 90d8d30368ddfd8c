//! What a stranger can make the gateway connect to, and what one push server can do to the others.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use stand_ins::Reply;
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use crate::{
    PATIENCE,
    draw::{Draw, Known},
    gateway::{Gateway, World},
};

/// Ways to write this machine, or something near it, and hosts that only look like somewhere else.
const HOSTS: [&str; 52] = [
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "127.1",
    "127.0.1",
    "127.0.0.1.",
    "127.000.000.001",
    "2130706433",
    "0x7f000001",
    "0X7F.0.0.1",
    "0x7f.0x0.0x0.0x1",
    "0177.0.0.1",
    "017700000001",
    "0",
    "0.0.0.0",
    "0x0",
    "%31%32%37.0.0.1",
    "%6cocalhost",
    "127%2e0%2e0%2e1",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "ⓛocalhost",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:0001]",
    "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::127.0.0.1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[fe80::1%25lo]",
    "[::1%25lo]",
    "[fd00::1]",
    "10.0.0.1",
    "169.254.169.254",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "LocalHost.",
    "localhost.localdomain",
    "ip6-localhost",
    "ip6-loopback",
    "user@127.0.0.1",
    "user:password@localhost",
    "nowhere.invalid@127.0.0.1",
    "127.0.0.1\\@nowhere.invalid",
    "nowhere.invalid\\@127.0.0.1",
    "127.0.0.1\t",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_way_of_writing_it_leads_to_this_machine_unless_it_is_allowed() {
    let world = World::new().await;
    let known = Known::new(&world.stand_ins.push_service);
    let mut gateway = world
        .gateway(&json!({"outbound": {}, "limits": {"request_budget": "1s"}}))
        .await;
    // both families on one port, where there are both
    let bait = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = bait.local_addr().expect("an address").port();
    let bait6 = TcpListener::bind(("::1", port)).await.ok();
    let mut draw = Draw::new(1);
    let mut devices = Vec::new();
    for host in HOSTS {
        for scheme in ["https", "http", "HTTP"] {
            let endpoint = format!("{scheme}://{host}:{port}/{}", draw.secret());
            devices.push(unified_push(&endpoint));
            devices.push(json!({
                "app_id": "webpush.sygnal",
                "pushkey": known.browser.p256dh,
                "data": {"endpoint": endpoint, "auth": known.browser.auth},
            }));
        }
    }
    for text in [
        "127.0.0.1:%/x".to_owned(),
        format!("//127.0.0.1:{port}/x"),
        format!("https:127.0.0.1:{port}/x"),
        format!("https:/127.0.0.1:{port}/x"),
        format!("https:///127.0.0.1:{port}/x"),
        format!("file://127.0.0.1:{port}/x"),
        format!("ftp://127.0.0.1:{port}/x"),
        format!("https://nowhere.invalid#@127.0.0.1:{port}/x"),
        format!("https://nowhere.invalid?@127.0.0.1:{port}/x"),
        format!("https://127.0.0.1:{port}#.nowhere.invalid/x"),
        format!(" https://127.0.0.1:{port}/x"),
        format!("https://127.0.0.1:{port}/x\r\nHost: nowhere.invalid"),
        format!("https://127.0.0.1:{}/x", u32::from(port) + 65_536),
    ] {
        devices.push(unified_push(&text));
    }
    for devices in devices.chunks(40) {
        let answer = notify(&gateway, devices).await;
        assert!(matches!(answer.0, 200 | 502), "{}", answer.1);
    }
    let literal = notify(
        &gateway,
        &[unified_push(&format!("http://127.0.0.1:{port}/x"))],
    )
    .await;
    assert_eq!(literal.0, 502, "a literal costs nobody the pusher");
    assert_untouched(&bait).await;
    if let Some(bait6) = &bait6 {
        assert_untouched(bait6).await;
    }
    gateway.assert_sound(draw.secrets.iter().map(String::as_str));

    // and that the bait would have been taken
    let gateway = world
        .gateway(&json!({"limits": {"request_budget": "1s"}}))
        .await;
    for host in ["127.0.0.1", "0x7f000001"] {
        let device = unified_push(&format!("http://{host}:{port}/x"));
        let (answer, accepted) = tokio::join!(
            notify(&gateway, std::slice::from_ref(&device)),
            tokio::time::timeout(PATIENCE, bait.accept())
        );
        assert_eq!(answer.0, 502);
        assert!(accepted.is_ok(), "{host} is reached when it is allowed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_redirect_is_followed() {
    let world = World::new().await;
    let servers = &world.stand_ins;
    let known = Known::new(&servers.push_service);
    let gateway = world.gateway(&json!({})).await;
    let bait = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = format!("http://{}/x", bait.local_addr().expect("an address"));
    for (number, status) in [300, 301, 302, 303, 307, 308].into_iter().enumerate() {
        servers
            .push_service
            .queue([Reply::status(status).header("location", &target)]);
        let answer = notify(&gateway, &[unified_push(&known.phone.endpoint)]).await;
        assert_eq!(answer.0, 502, "{status}");
        assert_eq!(servers.push_service.seen_count(), number + 1, "asked once");
    }
    assert_untouched(&bait).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_endpoints_of_one_stranger_close_nobody_elses_way() {
    let world = World::new().await;
    let known = Known::new(&world.stand_ins.push_service);
    let mut gateway = world
        .gateway(&json!({"limits": {"request_budget": "1s"}}))
        .await;
    // many failures at one origin, and at more origins than breakers are kept
    let nobody = free_address().await;
    let dead: Vec<_> = (0..60)
        .map(|number| unified_push(&format!("http://{nobody}/{number}")))
        .collect();
    assert_eq!(notify(&gateway, &dead).await.0, 502);
    let origins: Vec<_> = (0..1500)
        .map(|number: u32| {
            let (high, low) = (number / 250 + 1, number % 250 + 1);
            unified_push(&format!("http://127.9.{high}.{low}:1/x"))
        })
        .collect();
    assert_eq!(notify(&gateway, &origins).await.0, 502);
    for _ in 0..3 {
        let answer = notify(&gateway, &[unified_push(&known.phone.endpoint)]).await;
        assert_eq!(answer.1, json!({"rejected": []}));
    }
    gateway.assert_sound([]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_push_server_answers_the_request_is_answered_in_time() {
    let world = World::new().await;
    let mut gateway = world
        .gateway(&json!({"limits": {"request_budget": "2s"}}))
        .await;
    let mut answers: Vec<Vec<u8>> = [
        "",
        "\r\n\r\n",
        "garbage",
        "HTTP/1.1",
        "HTTP/1.1 200",
        "HTTP/1.1 201 Created\r\n",
        "HTTP/1.1 000 x\r\n\r\n",
        "HTTP/1.1 1000 x\r\n\r\n",
        "HTTP/1.1 -1 x\r\n\r\n",
        "HTTP/1.1 999 x\r\ncontent-length: 0\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/0.9 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nwhat",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 429 x\r\nretry-after: -1\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 503 x\r\nretry-after: 99999999999999999999\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 503 x\r\nretry-after: Fri, 31 Dec 9999 23:59:59 GMT\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx\x01: \x02\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n",
    ]
    .iter()
    .map(|answer| answer.as_bytes().to_vec())
    .collect();
    answers.push(b"\xff\xfe\x00\x16\x03\x01".to_vec());
    answers.push("HTTP/1.1 100 Continue\r\n\r\n".repeat(20_000).into_bytes());
    answers.push(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(300_000)).into_bytes());
    answers.push(format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(5000)).into_bytes());
    answers.push(format!("HTTP/1.1 500 x\r\n\r\n{}", "endless ".repeat(1_000_000)).into_bytes());
    let mut draw = Draw::new(2);
    let mut requests = tokio::task::JoinSet::new();
    for (number, answer) in answers.into_iter().enumerate() {
        for closes in [true, false] {
            let address = answering(answer.clone(), closes).await;
            let endpoint = format!("http://{address}/{}", draw.secret());
            let body =
                json!({"notification": {"event_id": "$x", "devices": [unified_push(&endpoint)]}});
            let began = tokio::time::Instant::now();
            let asked = crate::wire::post(body.to_string().as_bytes());
            let gateway = gateway.address;
            requests.spawn(async move {
                let mut connection = crate::wire::Connection::open(gateway).await.expect("open");
                connection.send(&asked).await.expect("sent");
                let answer = connection
                    .answer()
                    .await
                    .expect("an answer")
                    .expect("an answer");
                answer.assert_well_formed();
                let took = began.elapsed();
                assert!(took < Duration::from_secs(12), "{number}: {took:?}");
                assert!(
                    matches!(answer.status, 200 | 502),
                    "{number}: {}",
                    answer.status
                );
            });
        }
    }
    requests.join_all().await;
    gateway.assert_sound(draw.secrets.iter().map(String::as_str));
}

fn unified_push(endpoint: &str) -> Value {
    json!({"app_id": "unifiedpush.opaque", "pushkey": endpoint})
}

/// The status and the body.
async fn notify(gateway: &Gateway, devices: &[Value]) -> (u16, Value) {
    let answer = gateway
        .notify(&json!({"notification": {"room_id": "!x", "counts": {"unread": 1}, "devices": devices}}))
        .await;
    answer.assert_well_formed();
    (answer.status, answer.json())
}

/// That nobody is waiting to be accepted, a connection of our own apart.
async fn assert_untouched(bait: &TcpListener) {
    let address = bait.local_addr().expect("an address");
    let own = tokio::net::TcpStream::connect(address)
        .await
        .expect("a connection");
    let (_, peer) = bait.accept().await.expect("our own connection at least");
    assert_eq!(
        own.local_addr().expect("an address"),
        peer,
        "somebody else came first"
    );
}

async fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("an address")
}

/// A server that reads a little, says this and then closes or falls silent.
async fn answering(answer: Vec<u8>, closes: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            // may be hung up on
            let task = tokio::spawn(async move {
                let _ = stream.readable().await;
                let _ = stream.write_all(&answer).await;
                if !closes {
                    std::future::pending::<()>().await;
                }
            });
            open.push(task);
        }
    });
    address
}
