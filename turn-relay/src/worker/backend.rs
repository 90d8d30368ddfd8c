//! Connections that speak HTTP: found out, and handed to the HTTPS backend with everything that they say.
//!
//! It reads no more of HTTP than where the first request's head ends. How the bytes go to and fro is the same as for
//! connections with peers ([`peers`](super::peers)).

use std::{
    io::{self, IoSlice},
    ops::Range,
    time::Duration,
};

use mio::Interest;
use socket2::SockRef;
use tracing::warn;
use turn_relay_proto::{counters, effect::Purpose, policy::unmapped};

use super::{
    Worker,
    streams::{LEAVING, Next},
};
use crate::{
    certificates::ALPN_HTTP,
    io::{
        backend::{Opening, has_head},
        connections::{Connection, Stage},
        datagrams::Datagrams,
        peers::{Peer, PeerStage, Pipe},
        proxy_header,
        ready::{Queued, Source},
        stream::Stream,
    },
};

/// How long the backend may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// A head of more bytes than this goes to the backend before it is complete, which then says what it thinks of it.
const LONG_HEAD: usize = 16_384;

/// How long it is not said again that the backend cannot be reached.
const SILENCE: Duration = Duration::from_mins(1);

/// The answer where the backend cannot be reached (RFC 9110 §15.6.3).
const BAD_GATEWAY: &[u8] =
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// The answer where there are too many connections (RFC 9110 §15.6.4).
const UNAVAILABLE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\nRetry-After: 10\r\n\r\n";

/// What is expected of a client whose TLS handshake is done.
pub(super) fn stage_after_handshake(connection: &Connection, has_backend: bool) -> Stage {
    match connection.stream.protocol() {
        Some(ALPN_HTTP) => Stage::Head(0),
        None if connection.is_https && has_backend => Stage::Opening,
        Some(_) | None => Stage::Messages,
    }
}

impl<D: Datagrams> Worker<D> {
    /// Looks whether it is STUN or HTTP.
    pub(super) fn take_opening(&mut self, slot: u32, rest: &Range<usize>) -> Next {
        let Some(connection) = self.sender.connections.at(slot) else {
            return Next::Close;
        };
        let bytes = self.arena.memory().get(rest.clone()).unwrap_or(&[]);
        connection.stage = match Opening::of(bytes) {
            Opening::Unclear => return Next::Wait,
            Opening::Http => Stage::Head(0),
            Opening::Other => Stage::Messages,
        };
        Next::Continue
    }

    /// Waits for the first request's head, so that a slow client is nobody's burden but the relay's.
    pub(super) fn take_head(
        &mut self,
        slot: u32,
        searched: usize,
        rest: &mut Range<usize>,
    ) -> Next {
        let Some(connection) = self.sender.connections.at(slot) else {
            return Next::Close;
        };
        let bytes = self.arena.memory().get(rest.clone()).unwrap_or(&[]);
        if bytes.len() < LONG_HEAD && !has_head(bytes, searched) {
            connection.stage = Stage::Head(bytes.len());
            return Next::Wait;
        }
        self.hand_over(slot, rest)
    }

    /// Gives a connection to the backend, with what it has said.
    fn hand_over(&mut self, slot: u32, rest: &mut Range<usize>) -> Next {
        let bytes = rest.clone();
        rest.start = rest.end;
        let reloadable = std::sync::Arc::clone(&self.reloadable);
        let (Some(backend), Some(connection)) =
            (&reloadable.https_backend, self.sender.connections.at(slot))
        else {
            return Next::Close;
        };
        let ip = connection.client.ip();
        let Some(handover) = self.handovers.enter(ip, reloadable.https_connections) else {
            self.counters.handovers.add(counters::Handover::Refused, 1);
            return self.answer(slot, UNAVAILABLE);
        };
        let link = connection.link;
        let client = connection.client;
        let server = connection.stream.local_address().map(unmapped);
        let begun = backend.address.connect().and_then(|socket| {
            let mut stream = Stream::new(socket);
            if backend.proxy_protocol {
                stream.keep(&proxy_header::written(client, server?));
            }
            stream.keep(self.arena.memory().get(bytes).unwrap_or(&[]));
            let peer = Peer {
                connection: None,
                stream,
                stage: PeerStage::Reaching(Pipe::new(link)),
                payer: None,
                waits: false,
                queued: Queued::No,
            };
            self.watch_peer(peer, Interest::READABLE | Interest::WRITABLE)
        });
        let peer = match begun {
            Ok(peer) => peer,
            Err(error) => {
                self.complain_of_backend(&error);
                return self.answer(slot, BAD_GATEWAY);
            }
        };
        if let Some(connection) = self.sender.connections.at(slot) {
            connection.stage = Stage::Joined(peer);
            connection.stranger = None;
            connection.handover = Some(handover);
            self.pulse.moves_to_https();
        }
        self.set_deadline(slot, self.now.time + CONNECT);
        Next::Wait
    }

    /// Something happened at a connection with the backend that is being made.
    pub(super) fn note_backend(&mut self, peer_slot: u32) {
        let Some(peer) = self.peers.at(peer_slot) else {
            return;
        };
        let PeerStage::Reaching(pipe) = peer.stage else {
            return;
        };
        let socket = SockRef::from(&peer.stream);
        match socket.take_error() {
            Ok(Some(error)) | Err(error) => return self.end_reaching(peer_slot, &error),
            Ok(None) if socket.peer_addr().is_err() => return,
            Ok(None) => {}
        }
        peer.stage = PeerStage::Joined(pipe);
        let flushed = peer.stream.flush();
        self.ready.push(Source::Peer(peer_slot), &mut peer.queued);
        self.counters.handovers.add(counters::Handover::Done, 1);
        if let Some(slot) = self.sender.connections.slot(pipe.client) {
            self.set_deadline(slot, self.now.time + self.reloadable.https_idle);
        }
        self.after_peer_flush(peer_slot, &flushed);
    }

    /// The backend cannot be reached: its client hears of it.
    pub(super) fn end_reaching(&mut self, peer_slot: u32, error: &io::Error) {
        let Some(peer) = self.peers.at(peer_slot) else {
            return;
        };
        let PeerStage::Reaching(pipe) = peer.stage else {
            return;
        };
        self.peers.remove(peer_slot);
        self.complain_of_backend(error);
        let Some(slot) = self.sender.connections.slot(pipe.client) else {
            return;
        };
        if matches!(self.answer(slot, BAD_GATEWAY), Next::Close) {
            self.close(slot);
        }
    }

    /// Says something to a client in the backend's place, and no more.
    fn answer(&mut self, slot: u32, answer: &[u8]) -> Next {
        let Some(connection) = self.sender.connections.at(slot) else {
            return Next::Close;
        };
        connection.stage = Stage::Leaving;
        let answer = [IoSlice::new(answer)];
        let output = connection
            .stream
            .write(&answer, usize::MAX, Purpose::Relayed);
        if output.broken || connection.stream.is_flushed() {
            return Next::Close;
        }
        self.set_deadline(slot, self.now.time + LEAVING);
        Next::Wait
    }

    /// Counts that the backend cannot be reached, and says so now and then.
    fn complain_of_backend(&mut self, error: &io::Error) {
        self.counters.handovers.add(counters::Handover::Failed, 1);
        if self.now.time < self.silent_until {
            return;
        }
        self.silent_until = self.now.time + SILENCE;
        if let Some(backend) = &self.reloadable.https_backend {
            warn!(
                %error,
                "`listen.https_backend` does not take connections at {}: clients are answered 502",
                backend.address
            );
        }
    }
}
