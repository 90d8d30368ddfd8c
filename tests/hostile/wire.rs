//! HTTP/1.1 by hand: whatever bytes a client can send.

use std::{io, net::SocketAddr};

use futures_util::FutureExt as _;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::PATIENCE;

/// A connection to the gateway.
pub(crate) struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// All of the head, in lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            unread: Vec::new(),
        })
    }

    /// Sends bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = tokio::time::timeout(PATIENCE, self.stream.write_all(bytes)).await;
        sent.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Says that nothing more will be sent, and goes on listening.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Reads one answer; none: the gateway closed the connection.
    pub(crate) async fn answer(&mut self) -> io::Result<Option<Answer>> {
        tokio::time::timeout(PATIENCE, self.read_answer())
            .await
            .expect("the gateway answers or closes")
    }

    /// An answer, if it has already come.
    pub(crate) fn answered(&mut self) -> Option<Answer> {
        let mut received = [0; 4096];
        while let Ok(length @ 1..) = self.stream.try_read(&mut received) {
            self.unread.extend_from_slice(&received[..length]);
        }
        find(&self.unread, b"\r\n\r\n")?;
        self.read_answer().now_or_never()?.ok().flatten()
    }

    async fn read_answer(&mut self) -> io::Result<Option<Answer>> {
        let head_end = loop {
            if let Some(end) = find(&self.unread, b"\r\n\r\n") {
                break end + 4;
            }
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.unread[..head_end]).to_lowercase();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or_else(|| panic!("no status: {head}"));
        let length = header(&head, "content-length").map_or(0, |length| {
            length.parse().expect("a length that is a number")
        });
        while self.unread.len() < head_end + length {
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                return Ok(None);
            }
        }
        let rest = self.unread.split_off(head_end + length);
        let body = std::mem::replace(&mut self.unread, rest).split_off(head_end);
        Ok(Some(Answer { status, head, body }))
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// The body, which must be JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("{}: {}", self.head, String::from_utf8_lossy(&self.body)))
    }

    /// That this is an answer as the interface promises it: `rejected`, or a Matrix error.
    pub(crate) fn assert_well_formed(&self) {
        let body = self.json();
        if self.status == 200 {
            assert!(body["rejected"].is_array(), "{body}");
        } else {
            let code = body["errcode"].as_str().unwrap_or_default();
            assert!(code.starts_with("M_"), "{body}");
            assert!(body["error"].is_string(), "{body}");
        }
    }
}

/// A request to the notify route with a body of a known length.
pub(crate) fn post(body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST /_matrix/push/v1/notify HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// The same in chunks of these sizes, over and over.
pub(crate) fn post_chunked(body: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut request =
        b"POST /_matrix/push/v1/notify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_vec();
    let mut rest = body;
    let mut sizes = sizes.iter().cycle();
    while !rest.is_empty() {
        let size = sizes.next().copied().unwrap_or(rest.len()).max(1);
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
        rest = after;
    }
    request.extend_from_slice(b"0\r\n\r\n");
    request
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| *found == name)
        .map(|(_, value)| value.trim())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}
