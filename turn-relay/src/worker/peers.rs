//! TCP allocations (RFC 6062): connections with peers are made and accepted, wait unread, and become one with a
//! client's data connection. Those with the HTTPS backend are begun in [`backend`](super::backend), and then the same.
//!
//! Of a pipe's two ends each is read only when the other has taken everything, so that no more than one read waits.

use std::{
    io::{self, IoSlice},
    net::{SocketAddr, TcpListener, TcpStream},
    ops::Range,
    os::fd::AsRawFd as _,
    time::Duration,
};

use mio::{Interest, event::Event, unix::SourceFd};
use socket2::{Protocol, SockRef, Type};
use turn_relay_proto::{
    ConnectFailure, FiveTuple, RelayId, Time,
    address::{ConnectionId, Family},
    effect::Purpose,
    policy::unmapped,
    quota::Way,
};

use super::{Alarm, Command, Worker, streams};
use crate::io::{
    connections::Stage,
    datagrams::Datagrams,
    listeners::new_socket,
    peers::{Entry, Peer, PeerStage, Pipe, Place},
    ready::{Queued, Source},
    relays::RelaySocket,
    stream::{Input, READ, Stream, Then},
};

/// How long a peer may take to answer, RFC 6062 §5.2.
const CONNECT: Duration = Duration::from_secs(30);

/// Connections that are accepted at once.
const ACCEPT_BATCH: usize = 16;

impl<D: Datagrams> Worker<D> {
    /// Begins to connect to a peer.
    pub(super) fn connect_to_peer(
        &mut self,
        relay: RelayId,
        peer: SocketAddr,
        connection: ConnectionId,
    ) {
        let begun = match self.sender.relays.get(relay).map(|relay| &relay.socket) {
            Some(RelaySocket::Tcp(listener)) => connect(listener, peer),
            Some(RelaySocket::Udp(_)) | None => Err(io::ErrorKind::NotFound.into()),
        };
        let entered = begun.and_then(|socket| {
            let peer = Peer {
                connection: Some(connection),
                stream: Stream::new(socket),
                stage: PeerStage::Connecting(relay),
                payer: None,
                waits: false,
                queued: Queued::No,
            };
            self.watch_peer(peer, Interest::WRITABLE)
        });
        match entered {
            Ok(slot) => {
                let alarm = Alarm::Connect(slot, connection.0);
                self.deadlines.push(self.now.time + CONNECT, alarm);
            }
            Err(error) => {
                let failure = failure(&error);
                let effects = &mut self.further_effects;
                self.server
                    .peer_connect_failed(relay, connection, failure, effects);
            }
        }
    }

    pub(super) fn watch_peer(&mut self, peer: Peer, interest: Interest) -> io::Result<u32> {
        let fd = peer.stream.as_raw_fd();
        let slot = self
            .peers
            .insert(peer)
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let token = Source::Peer(slot).token();
        let watched = self
            .poll
            .registry()
            .register(&mut SourceFd(&fd), token, interest);
        if let Err(error) = watched {
            self.peers.remove(slot);
            return Err(error);
        }
        Ok(slot)
    }

    /// A peer does not answer.
    pub(super) fn connect_deadline(&mut self, slot: u32, connection: u32) {
        if self
            .peers
            .at(slot)
            .is_some_and(|peer| peer.connection == Some(ConnectionId(connection)))
        {
            self.end_connecting(slot, Err(ConnectFailure::Unreachable));
        }
    }

    /// Something happened at a connection with a peer.
    pub(super) fn note_peer(&mut self, slot: u32, event: &Event) {
        let Some(peer) = self.peers.at(slot) else {
            return;
        };
        match &peer.stage {
            PeerStage::Connecting(_) => {
                let socket = SockRef::from(&peer.stream);
                match socket.take_error() {
                    Ok(Some(error)) | Err(error) => {
                        self.end_connecting(slot, Err(failure(&error)));
                    }
                    Ok(None) if socket.peer_addr().is_ok() => self.end_connecting(slot, Ok(())),
                    Ok(None) => {}
                }
            }
            PeerStage::Reaching(_) => self.note_backend(slot),
            PeerStage::Joined(_) => {
                if event.is_writable() && !peer.stream.is_flushed() {
                    let flushed = peer.stream.flush();
                    self.after_peer_flush(slot, &flushed);
                }
                if let Some(peer) = self.peers.at(slot)
                    && (event.is_readable() || event.is_read_closed() || event.is_error())
                {
                    self.ready.push(Source::Peer(slot), &mut peer.queued);
                }
            }
        }
    }

    /// What waited for a peer was written, or some of it.
    pub(super) fn after_peer_flush(&mut self, slot: u32, flushed: &io::Result<bool>) {
        let Some(peer) = self.peers.at(slot) else {
            return;
        };
        let PeerStage::Joined(pipe) = &mut peer.stage else {
            return;
        };
        match flushed {
            Ok(false) => {}
            Err(_) if peer.connection.is_some() => self.sender.broken.push(pipe.client),
            Err(_) => {
                grow_deaf(pipe, &mut peer.stream);
                self.peer_took_all(slot);
            }
            Ok(true) => self.peer_took_all(slot),
        }
    }

    /// Whether the HTTPS backend has not answered yet.
    pub(super) fn is_being_reached(&mut self, slot: u32) -> bool {
        self.peers
            .at(slot)
            .is_some_and(|peer| matches!(peer.stage, PeerStage::Reaching(_)))
    }

    /// An attempt to connect has come to its end.
    fn end_connecting(&mut self, slot: u32, result: Result<(), ConnectFailure>) {
        let Some(peer) = self.peers.at(slot) else {
            return;
        };
        let PeerStage::Connecting(relay) = peer.stage else {
            return;
        };
        let Some(connection) = peer.connection else {
            return;
        };
        let fd = peer.stream.as_raw_fd();
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        let Some(peer) = self.peers.remove(slot) else {
            return;
        };
        let effects = &mut self.effects;
        match result {
            Ok(()) => {
                // the request that joins it may come, on any thread, as soon as the client has the answer
                let socket = peer.stream.into_socket();
                self.peer_registry
                    .insert(connection, self.sender.worker, relay, socket);
                self.server
                    .peer_connected(relay, connection, self.now, effects);
            }
            Err(failure) => {
                self.server
                    .peer_connect_failed(relay, connection, failure, effects);
            }
        }
        self.carry_out();
    }

    /// Takes connections that peers have made to a relayed address. The result says how many.
    pub(super) fn accept_peers(&mut self, slot: u32, family: Family) -> usize {
        for accepted in 0..ACCEPT_BATCH {
            let Some((relay, socket)) = self.sender.relays.at(slot, family) else {
                return accepted;
            };
            let RelaySocket::Tcp(listener) = &socket.socket else {
                return accepted;
            };
            match listener.accept() {
                Ok((socket, peer)) => self.offer(relay, socket, unmapped(peer)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return accepted,
                Err(error) if streams::is_exhausted(&error) => {
                    self.retry_later(Source::Relay(slot, family));
                    return accepted;
                }
                // that connection is gone already
                Err(_) => {}
            }
        }
        if let Some((_, relay)) = self.sender.relays.at(slot, family) {
            self.ready
                .push(Source::Relay(slot, family), &mut relay.queued);
        }
        ACCEPT_BATCH
    }

    /// Asks the core whether a peer may have connected.
    fn offer(&mut self, relay: RelayId, socket: TcpStream, peer: SocketAddr) {
        if socket.set_nonblocking(true).is_err() {
            return;
        }
        let _ = socket.set_nodelay(true);
        let named = self
            .server
            .peer_accepted(relay, peer, self.now, &mut self.effects);
        if let Some(connection) = named {
            self.peer_registry
                .insert(connection, self.sender.worker, relay, socket);
        }
        self.carry_out();
    }

    /// Makes a client's connection and one with a peer one.
    pub(super) fn join(&mut self, client: FiveTuple, connection: ConnectionId) {
        let worker = self.sender.worker;
        let joined = self
            .peer_registry
            .join(connection, worker)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
            .and_then(|socket| {
                let peer = Peer {
                    connection: Some(connection),
                    stream: Stream::new(socket),
                    stage: PeerStage::Joined(Pipe::new(client.link)),
                    payer: self.server.payer(connection),
                    waits: false,
                    queued: Queued::No,
                };
                self.watch_peer(peer, Interest::READABLE | Interest::WRITABLE)
            });
        let slot = self.sender.connections.slot(client.link);
        let connection = slot.and_then(|slot| self.sender.connections.at(slot));
        match (joined, connection) {
            (Ok(peer), Some(connection)) => {
                connection.stage = Stage::Joined(peer);
                connection.stranger = None;
                connection.deadline = None;
            }
            (Ok(peer), None) => self.close_pipe(peer),
            (Err(_), _) => self.sender.broken.push(client.link),
        }
    }

    /// Passes on what stood behind the request that joined the connections.
    pub(super) fn pass_rest_to_peer(&mut self, slot: u32, rest: Range<usize>) {
        let bytes = self.arena.memory().get(rest).unwrap_or(&[]);
        if let Some(peer) = self.peers.at(slot)
            && let PeerStage::Joined(pipe) = &peer.stage
        {
            let client = pipe.client;
            if let Some(payer) = &peer.payer {
                // it came with the request, and is little
                let (len, now) = (bytes.len(), self.now);
                let reserved = self.server.reserve(payer, Way::Up, len, now).unwrap_or(0);
                self.server.carried(payer, Way::Up, reserved, reserved, len);
            }
            let output = peer
                .stream
                .write(&[IoSlice::new(bytes)], usize::MAX, Purpose::Relayed);
            if output.broken {
                self.sender.broken.push(client);
            }
        }
    }

    /// Reads a client's connection once, if its peer has taken everything. The result says how many packets' worth
    /// that was.
    pub(super) fn pass_to_peer(&mut self, slot: u32, peer_slot: u32) -> usize {
        let (Some(connection), Some(peer)) =
            (self.sender.connections.at(slot), self.peers.at(peer_slot))
        else {
            return 0;
        };
        let PeerStage::Joined(pipe) = &mut peer.stage else {
            return 0;
        };
        if pipe.client_ended || !peer.stream.is_flushed() {
            return 0;
        }
        let most = match &peer.payer {
            Some(payer) => self.server.reserve(payer, Way::Up, READ, self.now),
            None => Ok(READ),
        };
        let most = match most {
            Ok(most) => most,
            Err(until) => return self.wait_for_bandwidth(peer_slot, until),
        };
        let (plain, cipher) = streams::buffers(&mut self.arena);
        let input = connection.stream.read(plain, cipher, most);
        let Ok(input) = input else {
            self.sender.broken.push(connection.link);
            return 1;
        };
        if let Some(payer) = &peer.payer {
            self.server
                .carried(payer, Way::Up, most, input.taken, input.len);
        }
        let bytes = plain.get(..input.len).unwrap_or(&[]);
        if !pipe.is_deaf {
            let bytes = [IoSlice::new(bytes)];
            let output = peer.stream.write(&bytes, usize::MAX, Purpose::Relayed);
            if output.broken && peer.connection.is_some() {
                self.sender.broken.push(connection.link);
                return 1;
            }
            if output.broken {
                grow_deaf(pipe, &mut peer.stream);
            }
        }
        match input.then {
            Then::More => self
                .ready
                .push(Source::Client(slot), &mut connection.queued),
            Then::Nothing if connection.is_ending && input.len > 0 => {
                self.ready
                    .push(Source::Client(slot), &mut connection.queued);
            }
            Then::Nothing => {}
            Then::End => self.client_has_ended(slot, peer_slot),
        }
        self.keep_alive(slot, peer_slot, input.len);
        1 + input.len / streams::PACKET
    }

    /// The client of a pipe has sent everything.
    pub(super) fn client_has_ended(&mut self, slot: u32, peer_slot: u32) {
        let Some(peer) = self.peers.at(peer_slot) else {
            return;
        };
        match &mut peer.stage {
            PeerStage::Connecting(_) => {}
            PeerStage::Reaching(pipe) => pipe.client_ended = true,
            PeerStage::Joined(pipe) => {
                pipe.client_ended = true;
                if peer.stream.is_flushed() {
                    peer.stream.finish();
                }
                self.after_end(slot, peer_slot);
            }
        }
    }

    /// Something went to the HTTPS backend, or came from it.
    fn keep_alive(&mut self, slot: u32, peer_slot: u32, bytes: usize) {
        if bytes > 0
            && let Some(peer) = self.peers.at(peer_slot)
            && peer.connection.is_none()
            && let PeerStage::Joined(Pipe {
                peer_ended: false, ..
            }) = peer.stage
        {
            self.set_deadline(slot, self.now.time + self.reloadable.https_idle);
        }
    }

    /// Reads a connection with a peer once, if its client has taken everything. The result says how many packets'
    /// worth that was.
    pub(super) fn pass_to_client(&mut self, peer_slot: u32) -> usize {
        let Some(peer) = self.peers.at(peer_slot) else {
            return 0;
        };
        peer.queued = Queued::No;
        let PeerStage::Joined(pipe) = &mut peer.stage else {
            return 0;
        };
        let Some(slot) = self.sender.connections.slot(pipe.client) else {
            return 0;
        };
        let Some(connection) = self.sender.connections.at(slot) else {
            return 0;
        };
        if pipe.peer_ended || !connection.stream.is_flushed() {
            return 0;
        }
        let most = match &peer.payer {
            Some(payer) => self.server.reserve(payer, Way::Down, READ, self.now),
            None => Ok(READ),
        };
        let most = match most {
            Ok(most) => most,
            Err(until) => return self.wait_for_bandwidth(peer_slot, until),
        };
        let (plain, cipher) = streams::buffers(&mut self.arena);
        let input = match peer.stream.read(plain, cipher, most) {
            Ok(input) => input,
            Err(_) if peer.connection.is_some() => {
                self.sender.broken.push(connection.link);
                return 1;
            }
            Err(_) => {
                // an answer that came before is passed on
                grow_deaf(pipe, &mut peer.stream);
                Input {
                    len: 0,
                    taken: 0,
                    then: Then::End,
                }
            }
        };
        if let Some(payer) = &peer.payer {
            self.server
                .carried(payer, Way::Down, most, input.taken, input.len);
        }
        let bytes = plain.get(..input.len).unwrap_or(&[]);
        let output = connection
            .stream
            .write(&[IoSlice::new(bytes)], usize::MAX, Purpose::Relayed);
        if output.broken {
            self.sender.broken.push(connection.link);
            return 1;
        }
        match input.then {
            // an end that came with these bytes shows at the next read
            Then::More => self.ready.push(Source::Peer(peer_slot), &mut peer.queued),
            Then::Nothing if input.len > 0 => {
                self.ready.push(Source::Peer(peer_slot), &mut peer.queued);
            }
            Then::Nothing => {}
            Then::End => {
                pipe.peer_ended = true;
                if pipe.is_deaf {
                    connection.stream.cut_off();
                }
                if connection.stream.is_flushed() {
                    connection.stream.finish();
                }
                self.after_end(slot, peer_slot);
            }
        }
        self.keep_alive(slot, peer_slot, input.len);
        1 + input.len / streams::PACKET
    }

    /// Whoever pays for the bytes has no bandwidth left: nothing is read until there may be some. The result is the work that this was.
    fn wait_for_bandwidth(&mut self, peer_slot: u32, until: Time) -> usize {
        if let Some(peer) = self.peers.at(peer_slot)
            && let (false, Some(connection)) = (peer.waits, peer.connection)
        {
            peer.waits = true;
            let alarm = Alarm::Bandwidth(peer_slot, connection.0);
            self.deadlines.push(until, alarm);
        }
        1
    }

    /// There may be bandwidth again for a connection that was joined.
    pub(super) fn bandwidth_deadline(&mut self, peer_slot: u32, connection: u32) {
        let Some(peer) = self
            .peers
            .at(peer_slot)
            .filter(|peer| peer.connection == Some(ConnectionId(connection)))
        else {
            return;
        };
        peer.waits = false;
        self.ready.push(Source::Peer(peer_slot), &mut peer.queued);
        if let PeerStage::Joined(pipe) = &peer.stage
            && let Some(slot) = self.sender.connections.slot(pipe.client)
            && let Some(connection) = self.sender.connections.at(slot)
        {
            self.ready
                .push(Source::Client(slot), &mut connection.queued);
        }
    }

    /// The client's connection has taken everything that the peer sent.
    pub(super) fn client_took_all(&mut self, slot: u32, peer_slot: u32) {
        let (Some(connection), Some(peer)) =
            (self.sender.connections.at(slot), self.peers.at(peer_slot))
        else {
            return;
        };
        let PeerStage::Joined(pipe) = &peer.stage else {
            return;
        };
        if pipe.peer_ended {
            connection.stream.finish();
            self.after_end(slot, peer_slot);
        } else {
            self.ready.push(Source::Peer(peer_slot), &mut peer.queued);
        }
    }

    /// The peer has taken everything that the client sent.
    fn peer_took_all(&mut self, peer_slot: u32) {
        let Some(peer) = self.peers.at(peer_slot) else {
            return;
        };
        let PeerStage::Joined(pipe) = &peer.stage else {
            return;
        };
        let Some(slot) = self.sender.connections.slot(pipe.client) else {
            return;
        };
        if pipe.client_ended {
            peer.stream.finish();
            self.after_end(slot, peer_slot);
        } else if let Some(connection) = self.sender.connections.at(slot) {
            self.ready
                .push(Source::Client(slot), &mut connection.queued);
        }
    }

    /// One side has sent everything: the other has some time left. Both have: that is the end.
    fn after_end(&mut self, slot: u32, peer_slot: u32) {
        let (Some(connection), Some(peer)) =
            (self.sender.connections.at(slot), self.peers.at(peer_slot))
        else {
            return;
        };
        let PeerStage::Joined(pipe) = &peer.stage else {
            return;
        };
        let is_over = pipe.client_ended
            && pipe.peer_ended
            && connection.stream.is_flushed()
            && peer.stream.is_flushed();
        let patience = match peer.connection {
            Some(_) => self.reloadable.idle,
            None if pipe.peer_ended && connection.stream.is_flushed() => streams::LEAVING,
            None => self.reloadable.https_idle,
        };
        if is_over {
            self.sender.broken.push(connection.link);
        } else {
            self.set_deadline(slot, self.now.time + patience);
        }
    }

    /// The client's end of a pipe is closed: so is the peer's.
    pub(super) fn close_pipe(&mut self, peer_slot: u32) {
        let Some(mut peer) = self.peers.remove(peer_slot) else {
            return;
        };
        peer.stream.finish();
        let Some(connection) = peer.connection else {
            return;
        };
        // if it is not there any more, it was the server that wanted it closed
        let Some(Entry { owner, relay, .. }) = self.peer_registry.remove(connection) else {
            return;
        };
        if owner == self.sender.worker {
            self.server.peer_connection_closed(relay, connection);
        } else {
            self.tell(owner, Command::PeerClosed(relay, connection));
        }
    }

    /// Closes a connection with a peer, wherever it is.
    pub(super) fn close_peer(&mut self, connection: ConnectionId) {
        match self.peer_registry.remove(connection) {
            Some(entry) => self.close_entry(connection, entry),
            // one that is not made yet
            None => self.close_peers_here(|peer| {
                peer.connection == Some(connection)
                    && matches!(peer.stage, PeerStage::Connecting(_))
            }),
        }
    }

    /// Closes all connections with peers of a relayed address.
    pub(super) fn close_peers_of(&mut self, relay: RelayId) {
        self.close_peers_here(
            |peer| matches!(peer.stage, PeerStage::Connecting(of) if of == relay),
        );
        let worker = self.sender.worker;
        for (connection, entry) in self.peer_registry.remove_all(worker, relay) {
            self.close_entry(connection, entry);
        }
    }

    fn close_entry(&mut self, connection: ConnectionId, entry: Entry) {
        match entry.place {
            Place::Waiting(socket) => drop(socket),
            Place::Joined(worker) if worker == self.sender.worker => {
                self.close_joined(connection);
            }
            Place::Joined(worker) => self.tell(worker, Command::ClosePeer(connection)),
        }
    }

    /// Closes a connection that was joined on this thread.
    pub(super) fn close_joined(&mut self, connection: ConnectionId) {
        self.close_peers_here(|peer| {
            peer.connection == Some(connection) && matches!(peer.stage, PeerStage::Joined(_))
        });
    }

    fn close_peers_here(&mut self, is_meant: impl Fn(&Peer) -> bool) {
        for slot in self.peers.find(is_meant) {
            match self.peers.at(slot).map(|peer| &peer.stage) {
                // with the client's connection goes the peer's
                Some(PeerStage::Joined(pipe) | PeerStage::Reaching(pipe)) => {
                    self.sender.broken.push(pipe.client);
                }
                Some(PeerStage::Connecting(_)) | None => {
                    self.peers.remove(slot);
                }
            }
        }
    }
}

/// The HTTPS backend takes nothing any more. What it says is still passed on: it may be why.
fn grow_deaf(pipe: &mut Pipe, stream: &mut Stream) {
    pipe.is_deaf = true;
    stream.discard();
}

/// Begins to connect from the address of a listening socket.
fn connect(listener: &TcpListener, peer: SocketAddr) -> io::Result<TcpStream> {
    let socket = new_socket(peer, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&listener.local_addr()?.into())?;
    let _ = socket.set_tcp_nodelay(true);
    match socket.connect(&peer.into()) {
        Ok(()) => {}
        Err(error)
            if error.kind() == io::ErrorKind::WouldBlock
                || error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

/// RFC 6062 §5.2.
fn failure(error: &io::Error) -> ConnectFailure {
    // the kernel has a connection with these two ends
    if matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse
    ) {
        ConnectFailure::Exists
    } else {
        ConnectFailure::Unreachable
    }
}
