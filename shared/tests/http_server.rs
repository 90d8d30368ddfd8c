//! The server against clients that do not let go: it has one place, and the next client gets it.

use std::{future::Future, net::SocketAddr, time::Duration};

use axum::{Router, body::Bytes, routing::get};
use shared::{
    http_server::{self, Limits},
    lifecycle::{self, ShutdownTrigger},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const GET: &[u8] = b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n";

struct Server {
    address: SocketAddr,
    trigger: ShutdownTrigger,
    task: JoinHandle<()>,
}

async fn server() -> Server {
    server_with(Duration::from_millis(300)).await
}

async fn server_with(head_timeout: Duration) -> Server {
    let listener = http_server::bind("127.0.0.1:0".parse().expect("an address"))
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = Router::new()
        .route("/small", get(async || "small"))
        .route("/large", get(async || Bytes::from(vec![b'x'; 50_000_000])));
    let limits = Limits {
        connections: 1,
        head_timeout,
        write_timeout: Duration::from_millis(300),
    };
    let (trigger, shutdown) = lifecycle::shutdown();
    let task = tokio::spawn(http_server::serve(listener, router, limits, shutdown));
    Server {
        address,
        trigger,
        task,
    }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address)
            .await
            .expect("a connection")
    }

    /// That another client is served, which takes the only place.
    async fn assert_serves(&self) {
        let mut stream = self.connect().await;
        stream.write_all(GET).await.expect("sent");
        let mut answer = [0; 15];
        let read = stream.read_exact(&mut answer);
        within(read).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("in time")
}

/// That the server closed the connection.
async fn assert_closed(stream: &mut TcpStream) {
    // a reset is as good
    let _ = within(stream.read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn who_says_nothing_is_cut_off() {
    let server = server().await;
    let mut silent = server.connect().await;
    server.assert_serves().await;
    assert_closed(&mut silent).await;
}

#[tokio::test]
async fn who_says_nothing_more_after_a_request_is_cut_off() {
    let server = server().await;
    let mut idle = server.connect().await;
    idle.write_all(GET).await.expect("sent");
    server.assert_serves().await;
    assert_closed(&mut idle).await;
}

#[tokio::test]
async fn a_head_byte_by_byte_does_not_win_time() {
    let server = server().await;
    let slow = server.connect().await;
    let (mut reads, mut writes) = slow.into_split();
    let dribble = tokio::spawn(async move {
        for byte in b"GET /small HTTP/1.1\r\nHost: x\r\nX: "
            .iter()
            .chain(std::iter::repeat_n(&b'y', 10_000))
        {
            if writes.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    server.assert_serves().await;
    let _ = within(reads.read_to_end(&mut Vec::new())).await;
    dribble.abort();
}

#[tokio::test]
async fn who_leaves_an_answer_unread_is_cut_off() {
    let server = server().await;
    let mut deaf = server.connect().await;
    deaf.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .expect("sent");
    server.assert_serves().await;
    let mut read = Vec::new();
    let _ = within(deaf.read_to_end(&mut read)).await;
    assert!(read.len() < 50_000_000, "it was cut off in the middle");
}

#[tokio::test]
async fn half_a_head_does_not_hold_up_a_stop() {
    let server = server().await;
    let mut half = server.connect().await;
    half.write_all(b"GET /sm").await.expect("sent");
    server.trigger.begin();
    within(server.task).await.expect("no panic");
    assert_closed(&mut half).await;
}

/// Asks for the answer to a request on its way when the server stops, until the connection is closed.
async fn last_answer(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    // a reset is no answer
    let _ = within(stream.read_to_string(&mut answer)).await;
    answer
}

fn assert_is_last(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

/// There is a second for it, which a machine that is stuck may miss, but not again and again.
#[tokio::test]
async fn who_begins_a_request_on_an_open_connection_while_the_server_stops_is_answered() {
    for attempt in 1..=5 {
        let server = server_with(PATIENCE).await;
        let mut stream = server.connect().await;
        stream.write_all(GET).await.expect("sent");
        let mut first = Vec::new();
        while !first.ends_with(b"small") {
            let read = stream.read_buf(&mut first);
            assert_ne!(within(read).await.expect("an answer"), 0);
        }
        server.trigger.begin();
        tokio::time::sleep(Duration::from_millis(20)).await;
        // it may be closed already
        let _ = stream.write_all(GET).await;
        let answer = last_answer(&mut stream).await;
        within(server.task).await.expect("no panic");
        if !answer.is_empty() || attempt == 5 {
            assert_is_last(&answer);
            return;
        }
    }
}

#[tokio::test]
async fn connections_that_wait_to_be_accepted_when_the_server_stops_are_served() {
    let server = server_with(PATIENCE).await;
    // it has the only place
    let mut idle = server.connect().await;
    idle.write_all(GET).await.expect("sent");
    within(idle.read_exact(&mut [0; 15])).await.expect("read");
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let mut stream = server.connect().await;
        stream.write_all(GET).await.expect("sent");
        waiting.push(stream);
    }
    server.trigger.begin();
    for stream in &mut waiting {
        assert_is_last(&last_answer(stream).await);
    }
    assert_closed(&mut idle).await;
    within(server.task).await.expect("no panic");
}

#[tokio::test]
async fn an_address_is_shared_with_a_successor_alone() {
    let server = server().await;
    let refused = http_server::bind(server.address).await.expect_err("taken");
    assert!(refused.contains("another Nocturne"), "{refused}");
    let successor = http_server::bind_beside(server.address);
    let successor = successor.expect("shared");
    assert_eq!(successor.local_addr().ok(), Some(server.address));
    // who does not share keeps the successor away, too
    let alone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = alone.local_addr().expect("an address");
    let refused = http_server::bind_beside(address).expect_err("taken");
    assert!(refused.contains(&address.to_string()), "{refused}");
}
