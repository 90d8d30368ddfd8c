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
    let listener = http_server::bind("127.0.0.1:0".parse().expect("an address"))
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = Router::new()
        .route("/small", get(async || "small"))
        .route("/large", get(async || Bytes::from(vec![b'x'; 50_000_000])));
    let limits = Limits {
        connections: 1,
        head_timeout: Duration::from_millis(300),
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
