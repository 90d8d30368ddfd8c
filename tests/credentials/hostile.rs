//! Requests that nobody means well with.

use std::{fmt::Write as _, net::SocketAddr};

use shared::random::Random;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{ALICE, API_KEY, Credential, Stage, V3};

/// What a request may be made of; between them anything at all.
const PIECES: [&str; 28] = [
    "service=turn",
    "username=",
    "key=",
    "access_token=",
    "user_id=",
    "%",
    "%0",
    "%00",
    "%0d%0a",
    "%ff%fe",
    "%F0%9F%92%A9",
    "&",
    "&&",
    "=",
    "+",
    "?",
    ";",
    ":",
    "@",
    "/",
    "#",
    "Bearer",
    " ",
    "\t",
    "\u{80}",
    "Basic",
    "key-of-the-first-service",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

#[tokio::test]
async fn no_request_is_answered_with_a_fault_and_the_service_lives_on() {
    let stage = Stage::set().await;
    let random = Random::seeded(7);
    for _ in 0..3000 {
        let method = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "G E T"][below(&random, 6)];
        let path = [
            "/turn/credentials",
            V3,
            "/_matrix/client/r0/voip/turnServer",
        ][below(&random, 3)];
        let body = garbage(&random);
        let mut request = format!(
            "{method} {path}?{} HTTP/1.1\r\nHost: x\r\n",
            garbage(&random)
        );
        for name in [
            "Authorization",
            "X-Forwarded-For",
            "Content-Type",
            "User-Agent",
            "X-Api-Key",
        ] {
            if below(&random, 3) == 0 {
                let _ = write!(request, "{name}: {}\r\n", garbage(&random));
            }
        }
        if below(&random, 3) == 0 {
            request.push_str("Content-Type: application/x-www-form-urlencoded\r\n");
        }
        let _ = write!(
            request,
            "Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = send(stage.address, request.as_bytes()).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(
            ["200", "204", "400", "401", "405", "415", "429"].contains(&status),
            "{request:?}\n{answer}"
        );
    }
    // what was asked before counts against nobody any more
    stage.clock.advance(std::time::Duration::from_secs(10));
    let token = stage.homeserver.log_in(ALICE);
    Credential::of(&stage.turn_server(&token).await);
}

#[tokio::test]
async fn a_token_cannot_put_anything_into_the_question_to_the_homeserver() {
    let stage = Stage::set().await;
    let token = stage.homeserver.log_in(ALICE);
    let encoded = format!("{token}%0D%0AX-Evil:%20yes%0D%0A");
    let answer = stage
        .get(&format!("{V3}?access_token={encoded}"), &[])
        .await;
    assert_eq!(answer.status, 401);
    let bearer = format!("Bearer {token}");
    for user_id in [
        "x%0d%0aX-Evil:yes",
        "..%2f..%2fadmin",
        "a/../../admin",
        "a?b",
    ] {
        let path = format!("{V3}?user_id={user_id}&x=y");
        stage.get(&path, &[("authorization", &bearer)]).await;
    }
    for asked in stage.homeserver.seen() {
        assert_eq!(asked.header("x-evil"), None);
        let (path, _) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        assert_eq!(path, "/_matrix/client/v3/account/whoami");
        assert!(!asked.path.contains("x=y"), "{}", asked.path);
    }
    assert_eq!(stage.homeserver.seen_count(), 4);
}

#[tokio::test]
async fn a_long_head_is_refused() {
    let stage = Stage::set().await;
    let long = "a".repeat(64 * 1024);
    let request = format!("GET {V3}?access_token={long} HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = send(stage.address, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    let request = format!(
        "GET /turn/credentials?key={API_KEY} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    );
    let answer = send(stage.address, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

fn below(random: &Random, bound: u32) -> usize {
    usize::try_from(u32::from_be_bytes(random.bytes()) % bound).expect("small")
}

fn garbage(random: &Random) -> String {
    (0..below(random, 8))
        .map(|_| PIECES[below(random, 28)])
        .collect()
}

async fn send(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    // it may have answered before it has read all of it
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}
