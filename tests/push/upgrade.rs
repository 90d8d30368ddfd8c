//! A new gateway beside the old one: nothing is lost, nothing is sent twice.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use http::StatusCode;
use serde_json::{Value, json};
use stand_ins::homeserver::{NOTIFY_PATH, device, dummy};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    task::JoinSet,
};

use crate::harness::{APNS, Gateway, Options, PATIENCE, World, assert_rejected, eventually, fresh};

/// How often the gateway is exchanged, and how many pushes there are between two times at least.
const UPGRADES: usize = 4;
const BETWEEN: usize = 100;

/// Senders with a connection for each push, and with one for many.
const SENDERS: usize = 6;

/// To another device each time, since one device gets only so many.
fn push() -> Value {
    static DEVICE: AtomicUsize = AtomicUsize::new(0);
    let pushkey = format!("{:08}", DEVICE.fetch_add(1, Ordering::Relaxed));
    fresh(dummy(&[device(APNS, &pushkey)]))
}

fn event_id(body: &Value) -> String {
    body["event_id"].as_str().unwrap().to_owned()
}

async fn gateway(world: &World) -> Gateway {
    let options = Options {
        config: json!({ "limits": { "request_budget": "50s" }, "log": { "level": "info" } }),
        ..Options::default()
    };
    world
        .gateway_with(json!({ APNS: world.apns() }), options)
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_are_exchanged_under_load_and_no_push_is_lost_or_doubled() {
    let world = World::new().await;
    let apple = &world.stand_ins.apple;
    let mut old = gateway(&world).await;
    let load = Arc::new(Load {
        gateway: old.address,
        is_over: AtomicBool::new(false),
        answered: AtomicUsize::new(0),
    });
    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        senders.spawn(Arc::clone(&load).send_with_a_connection_each());
        senders.spawn(Arc::clone(&load).send_with_one_connection());
    }
    for _ in 0..UPGRADES {
        load.goes_on().await;
        let new = world.beside(&old).await;
        // half of the upgrades come while pushes are under way
        apple.hold();
        let held = apple.seen_count();
        old.signal("TERM");
        assert!(eventually(async || old.log().contains("stopping: nothing new")).await);
        apple.release();
        assert!(old.ended().await.success());
        assert!(held <= apple.seen_count());
        old = new;
    }
    load.goes_on().await;
    load.is_over.store(true, Ordering::Relaxed);

    let mut sent = Vec::new();
    while let Some(events) = senders.join_next().await {
        sent.extend(events.unwrap());
    }
    let mut arrived = HashMap::<_, usize>::new();
    for seen in apple.seen() {
        *arrived.entry(event_id(&seen.json())).or_default() += 1;
    }
    let lost: Vec<_> = sent
        .iter()
        .filter(|event| !arrived.contains_key(*event))
        .collect();
    let doubled: Vec<_> = arrived.iter().filter(|(_, times)| **times > 1).collect();
    assert!(
        lost.is_empty() && doubled.is_empty(),
        "{lost:?} {doubled:?}"
    );
    assert_eq!(sent.len(), arrived.len());
    assert!(sent.len() > UPGRADES * BETWEEN);
}

/// Those who send pushes all the time, and take nothing but success.
struct Load {
    gateway: SocketAddr,
    is_over: AtomicBool,
    answered: AtomicUsize,
}

impl Load {
    async fn goes_on(&self) {
        let enough = self.answered.load(Ordering::Relaxed) + BETWEEN;
        let goes_on = eventually(async || self.answered.load(Ordering::Relaxed) >= enough).await;
        assert!(goes_on);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    async fn send_with_a_connection_each(self: Arc<Self>) -> Vec<String> {
        let homeserver = stand_ins::homeserver::Homeserver::new(self.gateway);
        let mut sent = Vec::new();
        while !self.is_over() {
            let body = push();
            assert_rejected(&homeserver.notify(&body).await.unwrap(), &[]);
            self.answered();
            sent.push(event_id(&body["notification"]));
        }
        sent
    }

    /// Another connection is made when the gateway says that it closes this one, and at no other time.
    async fn send_with_one_connection(self: Arc<Self>) -> Vec<String> {
        let mut sent = Vec::new();
        while !self.is_over() {
            let stream = TcpStream::connect(self.gateway).await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut is_open = true;
            while is_open && !self.is_over() {
                let body = push();
                is_open = exchange(&mut stream, &body).await.unwrap();
                self.answered();
                sent.push(event_id(&body["notification"]));
            }
        }
        sent
    }
}

/// Sends a push and reads its answer, which has to be a good one; true if the connection stays open.
async fn exchange(stream: &mut BufReader<TcpStream>, body: &Value) -> io::Result<bool> {
    let body = body.to_string();
    let request = format!(
        "POST {NOTIFY_PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.get_mut().write_all(request.as_bytes()).await?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let head = head.to_ascii_lowercase();
    let header = |name: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    let mut answer = vec![0; header("content-length").unwrap().parse().unwrap()];
    stream.read_exact(&mut answer).await?;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer, json!({ "rejected": [] }));
    Ok(header("connection") != Some("close"))
}

/// A stopped process accepts nothing: the system must not have given it anything.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn the_new_gateway_gets_all_new_connections() {
    let world = World::new().await;
    let old = gateway(&world).await;
    let new = world.beside(&old).await;
    old.signal("STOP");
    for _ in 0..30 {
        let notified = tokio::time::timeout(PATIENCE, async { new.notify(&push()).await });
        assert_rejected(&notified.await.unwrap(), &[]);
    }
    // and all of it falls to the new one alone once the old one is gone
    drop(old);
    for _ in 0..30 {
        assert_rejected(&new.notify(&push()).await, &[]);
    }
}

/// Nobody should have two of them by mistake.
#[tokio::test]
async fn a_second_gateway_that_is_not_asked_to_take_over_does_not_start() {
    let world = World::new().await;
    let first = gateway(&world).await;
    let mut command = world.command();
    command.args(["push", "--config"]).arg(&first.config);
    let output = crate::harness::run(command).await;
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    let address = first.address.to_string();
    assert!(
        said.contains(&address) && said.contains("another Nocturne"),
        "{said}"
    );
    assert_eq!(first.get("/health").await.status, StatusCode::OK);
}
