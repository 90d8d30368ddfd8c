//! The load: requests over keep-alive HTTP/1.1 connections, each sent when the one before is answered, and every
//! answer checked.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use shared::clock::Clock;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use crate::device::API_KEY;

/// Nobody waits longer than this for one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Microseconds; a latency beyond is written down as this.
const LONGEST: u64 = 60_000_000;
/// Users, each at an address of his own, who ask in turn.
const USERS: u32 = 65_536;

/// Requests of one kind.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    address: SocketAddr,
    /// What stands for `{user}` and `{from}` is another user's each time.
    request: &'static str,
    /// Begins every right answer's body.
    expected: &'static str,
}

/// Requests of one kind on some connections.
pub(crate) struct Load {
    kind: Kind,
    connections: usize,
}

/// What came of a load.
pub(crate) struct Served {
    /// Requests answered.
    pub(crate) count: u64,
    took: Duration,
    latency: Histogram<u64>,
}

pub(crate) fn rest(address: SocketAddr) -> Kind {
    Kind {
        address,
        request: "GET /turn/credentials?service=turn&username=u{user} HTTP/1.1\r\nhost: turn.example.org\r\n\
                  authorization: Bearer {key}\r\nx-forwarded-for: {from}\r\n\r\n",
        expected: r#"{"username":""#,
    }
}

pub(crate) fn matrix(address: SocketAddr) -> Kind {
    Kind {
        address,
        request: "GET /_matrix/client/v3/voip/turnServer HTTP/1.1\r\nhost: matrix.example.org\r\n\
                  authorization: Bearer syt_dXNlcg_QWERTYUIOPASDFGHJKLZ_{user}\r\nx-forwarded-for: {from}\r\n\
                  x-forwarded-proto: https\r\nuser-agent: Mozilla/5.0 (X11; Linux x86_64; rv:143.0)\r\n\r\n",
        expected: r#"{"username":""#,
    }
}

/// The question that the Matrix route asks, asked without it.
pub(crate) fn whoami(address: SocketAddr) -> Kind {
    Kind {
        address,
        request: "GET /_matrix/client/v3/account/whoami HTTP/1.1\r\nhost: matrix.example.org\r\n\
                  authorization: Bearer syt_dXNlcg_QWERTYUIOPASDFGHJKLZ_{user}\r\n\r\n",
        expected: r#"{"user_id":""#,
    }
}

impl Kind {
    pub(crate) const fn on(self, connections: usize) -> Load {
        Load {
            kind: self,
            connections,
        }
    }

    fn request_of(self, user: u32) -> Vec<u8> {
        let from = Ipv4Addr::from(0xc633_0000 | user);
        let text = self
            .request
            .replace("{user}", &format!("{user:05}"))
            .replace("{from}", &from.to_string())
            .replace("{key}", API_KEY);
        text.into_bytes()
    }
}

impl Load {
    /// For so long, every connection sends a request as soon as it has the answer to the one before.
    pub(crate) async fn run(&self, duration: Duration, clock: &Clock) -> Result<Served> {
        let mut streams = Vec::new();
        for _ in 0..self.connections {
            let stream = TcpStream::connect(self.kind.address).await?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        let began = clock.now();
        let end = began + duration;
        let mut tasks = JoinSet::new();
        for (number, mut stream) in streams.into_iter().enumerate() {
            let (kind, clock) = (self.kind, clock.clone());
            // Made beforehand: the load shares its cores with the homeserver.
            let share = USERS / u32::try_from(self.connections)?;
            let first = share * u32::try_from(number)?;
            let requests: Vec<_> = (first..first + share.min(1024))
                .map(|user| kind.request_of(user))
                .collect();
            tasks.spawn(async move {
                let mut latency = Histogram::<u64>::new_with_max(LONGEST, 3)?;
                let mut answer = vec![0; 4096];
                let mut sent = clock.now();
                for request in requests.iter().cycle() {
                    if sent >= end {
                        break;
                    }
                    let exchange = exchange(&mut stream, request, &mut answer, kind.expected);
                    tokio::time::timeout(PATIENCE, exchange)
                        .await
                        .context("no answer in time")??;
                    let answered = clock.now();
                    let took = answered.saturating_duration_since(sent);
                    latency.saturating_record(u64::try_from(took.as_micros())?);
                    sent = answered;
                }
                anyhow::Ok(latency)
            });
        }
        let mut latency = Histogram::<u64>::new_with_max(LONGEST, 3)?;
        while let Some(ended) = tasks.join_next().await {
            latency.add(ended??)?;
        }
        Ok(Served {
            count: latency.len(),
            took: clock.now().saturating_duration_since(began),
            latency,
        })
    }
}

impl Served {
    /// Requests a second.
    pub(crate) fn rate(&self) -> f64 {
        f64::from(u32::try_from(self.count).unwrap_or(u32::MAX)) / self.took.as_secs_f64()
    }

    pub(crate) fn micros(&self, quantile: f64) -> f64 {
        let micros = self.latency.value_at_quantile(quantile);
        f64::from(u32::try_from(micros).unwrap_or(u32::MAX))
    }

    pub(crate) fn quantile(&self, quantile: f64) -> String {
        format!("{:.2} ms", self.micros(quantile) / 1000.0)
    }
}

async fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    answer: &mut [u8],
    expected: &str,
) -> Result<()> {
    stream.write_all(request).await?;
    let mut read = 0;
    loop {
        let free = answer.get_mut(read..).unwrap_or_default();
        let more = stream.read(free).await?;
        read += more;
        let text = std::str::from_utf8(answer.get(..read).unwrap_or_default())?;
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            if !head.starts_with("HTTP/1.1 200 ") || !body.is_empty() && !body.starts_with(expected)
            {
                bail!("an answer that is not the right one: {text}");
            }
            if body.len() == length(head).context("an answer without a length")? {
                return Ok(());
            }
        }
        if more == 0 {
            bail!("the connection was closed after {text:?}");
        }
    }
}

fn length(head: &str) -> Option<usize> {
    head.lines()
        .find_map(|line| line.strip_prefix("content-length: "))?
        .parse()
        .ok()
}
