//! Clients' connections: accepted, told apart, read, and closed when their time is over.
//!
//! It knows in which order a connection goes through its stages. What its messages mean is the core's matter.

use std::{
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr, TcpStream},
    ops::Range,
    os::fd::AsRawFd as _,
    sync::atomic::Ordering,
    time::Duration,
};

use mio::{Interest, Token, event::Event, unix::SourceFd};
use turn_relay_proto::{
    FiveTuple, Link, Packet, Time,
    counters::{DropReason, Handshake, QuotaHit},
    effect::Purpose,
    packet::HEADROOM,
    policy::unmapped,
    stun::channel_data::{Frame, frame},
};

use super::{Alarm, Worker, backend::stage_after_handshake};
use crate::io::{
    connections::{Connection, Stage},
    datagrams::{Arena, Datagrams, MAX_SEGMENTS},
    mailbox,
    proxy_header::{self, ProxyHeader},
    ready::{Queued, Source},
    stream::{Input, MAX_READ, READ, Stream, Then},
};

/// Connections that are accepted at once.
const ACCEPT_BATCH: usize = 16;

/// How long nothing is accepted when there are no more open files.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What is read at once of a connection that has no allocation: the thread serves others before it reads on.
const STRANGE_READ: usize = 4_096;

/// Requests that are answered on a connection without there being an allocation. A client needs two or three, and some more if credentials
/// have ended.
const UNPROVEN_REQUESTS: u8 = 16;

/// TLS handshakes a second of one prefix, for each connection that strangers of it may have at one time.
const HANDSHAKES: usize = 4;

/// The longest message that a stranger may send: longer than any request.
const MAX_STRANGE_MESSAGE: usize = 4_096;

/// How long a client that has sent everything may take to read everything.
pub(super) const LEAVING: Duration = Duration::from_secs(10);

/// The first byte of a TLS handshake (RFC 8446 §5.1), which no STUN message and no ChannelData begins with.
const TLS_HANDSHAKE: u8 = 0x16;

/// Where in the arena what was read begins: before it is space for a header.
const PLAIN: usize = HEADROOM.next_multiple_of(64);

/// Where in the arena encrypted bytes are read to: behind the longest leftover and all that is read at once.
const CIPHER: usize = PLAIN + 65_600 + MAX_READ;

/// Bytes that are taken for as much work as a datagram.
pub(super) const PACKET: usize = 1_500;

/// What comes after a step in a connection's life.
pub(super) enum Next {
    /// There may be more in what was read.
    Continue,
    /// More has to be read.
    Wait,
    /// The connection is of no use.
    Close,
}

impl<D: Datagrams> Worker<D> {
    /// Accepts connections. The result says how many.
    pub(super) fn accept_clients(&mut self, index: u32) -> usize {
        for accepted in 0..ACCEPT_BATCH {
            let Some(listener) = self.tcp.get_mut(index as usize) else {
                return accepted;
            };
            match listener.socket.accept() {
                Ok((socket, client)) => {
                    let is_https = listener.is_https;
                    self.enter(socket, unmapped(client), is_https);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    listener.queued = Queued::No;
                    return accepted;
                }
                Err(error) if is_exhausted(&error) => {
                    // still counts as queued, so that it does not come back before its time
                    self.retry_later(Source::TcpListener(index));
                    return accepted;
                }
                // that connection is gone already
                Err(_) => {}
            }
        }
        if let Some(listener) = self.tcp.get_mut(index as usize) {
            listener.queued = Queued::No;
            self.ready
                .push(Source::TcpListener(index), &mut listener.queued);
        }
        ACCEPT_BATCH
    }

    /// Serves a source again when there may be open files once more.
    pub(super) fn retry_later(&mut self, source: Source) {
        let alarm = Alarm::Retry(source.token().0);
        self.deadlines.push(self.now.time + ACCEPT_PAUSE, alarm);
    }

    /// A source may be served again.
    pub(super) fn retry(&mut self, token: usize) {
        match Source::from_token(Token(token)) {
            Some(source @ Source::TcpListener(index)) => {
                if let Some(listener) = self.tcp.get_mut(index as usize) {
                    listener.queued = Queued::No;
                    self.ready.push(source, &mut listener.queued);
                }
            }
            Some(source @ Source::Relay(slot, family)) => {
                if let Some((_, relay)) = self.sender.relays.at(slot, family) {
                    self.ready.push(source, &mut relay.queued);
                }
            }
            Some(Source::Waker | Source::UdpListener(_) | Source::Client(_) | Source::Peer(_))
            | None => {}
        }
    }

    /// A connection was accepted.
    fn enter(&mut self, socket: TcpStream, client: SocketAddr, is_https: bool) {
        let is_proxy = self
            .reloadable
            .proxies
            .iter()
            .any(|network| network.contains(&client.ip()));
        let stranger = if is_proxy {
            None
        } else {
            let limit = self.reloadable.connections_per_prefix;
            let stranger = self.strangers.enter(client.ip(), limit);
            if stranger.is_none() {
                self.counters
                    .quota_hits
                    .add(QuotaHit::ConnectionsOfPrefix, 1);
                return;
            }
            stranger
        };
        if socket.set_nonblocking(true).is_err() {
            return;
        }
        // a message is a packet: it does not wait for more
        let _ = socket.set_nodelay(true);
        let accepted = self.now.time;
        let slot = self.sender.connections.insert(|link| Connection {
            link,
            stream: Stream::new(socket),
            client,
            stage: if is_proxy {
                Stage::Proxy
            } else {
                Stage::FirstByte
            },
            leftover: Vec::new(),
            queued: Queued::No,
            is_ending: false,
            stranger,
            has_allocation: false,
            unproven: 0,
            is_https,
            handover: None,
            accepted,
            deadline: None,
            entered: None,
        });
        let Some(slot) = slot else { return };
        let Some(connection) = self.sender.connections.at(slot) else {
            return;
        };
        let token = Source::Client(slot).token();
        let watched = self.poll.registry().register(
            &mut SourceFd(&connection.stream.as_raw_fd()),
            token,
            Interest::READABLE | Interest::WRITABLE,
        );
        self.pulse.tcp.fetch_add(1, Ordering::Relaxed);
        if watched.is_err() {
            self.close(slot);
            return;
        }
        self.set_deadline(slot, accepted + self.reloadable.first_request);
    }

    /// Something happened at a connection.
    pub(super) fn note_client(&mut self, slot: u32, event: &Event) {
        let Some(connection) = self.sender.connections.at(slot) else {
            return;
        };
        connection.is_ending |= event.is_read_closed() || event.is_error();
        if event.is_writable() && !connection.stream.is_flushed() {
            let flushed = connection.stream.flush();
            self.after_flush(slot, flushed);
        }
        if (event.is_readable() || event.is_read_closed() || event.is_error())
            && let Some(connection) = self.sender.connections.at(slot)
        {
            self.ready
                .push(Source::Client(slot), &mut connection.queued);
        }
    }

    fn after_flush(&mut self, slot: u32, flushed: io::Result<bool>) {
        let Some(connection) = self.sender.connections.at(slot) else {
            return;
        };
        match (flushed, connection.stage) {
            (Err(_), _) | (Ok(true), Stage::Leaving) => self.close(slot),
            (Ok(true), Stage::Joined(peer)) => self.client_took_all(slot, peer),
            (Ok(_), _) => {}
        }
    }

    /// Reads a connection once. The result says how many packets that were, or would have been.
    pub(super) fn serve_client(&mut self, slot: u32) -> usize {
        let Some(connection) = self.sender.connections.at(slot) else {
            return 0;
        };
        connection.queued = Queued::No;
        match connection.stage {
            Stage::Leaving => return 0,
            Stage::Joined(peer) => return self.pass_to_peer(slot, peer),
            Stage::Proxy
            | Stage::FirstByte
            | Stage::Handshake
            | Stage::Opening
            | Stage::Head(_)
            | Stage::Messages => {}
        }
        let start = PLAIN + connection.leftover.len();
        let (plain, cipher) = self.arena.memory_mut().split_at_mut(CIPHER);
        let was_handshaking = connection.stream.is_handshaking();
        let most = if connection.has_allocation {
            READ
        } else {
            STRANGE_READ
        };
        let Ok(input) = connection.stream.read(&mut plain[start..], cipher, most) else {
            self.close(slot);
            return 1;
        };
        if was_handshaking {
            self.note_handshake(slot);
        }
        let messages = self.take_input(slot, start..start + input.len);
        self.go_on(slot, input);
        1 + messages.max(input.taken / PACKET)
    }

    /// Has a connection read again, or ended.
    fn go_on(&mut self, slot: u32, input: Input) {
        let Some(connection) = self.sender.connections.at(slot) else {
            return;
        };
        match input.then {
            Then::More => self
                .ready
                .push(Source::Client(slot), &mut connection.queued),
            // the poll does not tell again of an end that it told of together with the bytes before it
            Then::Nothing if connection.is_ending && input.len > 0 => {
                self.ready
                    .push(Source::Client(slot), &mut connection.queued);
            }
            Then::Nothing => {}
            Then::End => {
                if let Stage::Joined(peer) = connection.stage {
                    self.client_has_ended(slot, peer);
                } else {
                    self.leave(slot);
                }
            }
        }
    }

    /// The client has sent everything. What waits for it is still written.
    fn leave(&mut self, slot: u32) {
        let Some(connection) = self.sender.connections.at(slot) else {
            return;
        };
        if connection.stream.is_flushed() || connection.stage != Stage::Messages {
            return self.close(slot);
        }
        connection.stage = Stage::Leaving;
        let client = connection.five_tuple();
        self.forget(client);
        self.set_deadline(slot, self.now.time + LEAVING);
    }

    /// Bytes that came, at `new` of the arena: behind the space for the leftover. The result says how many messages that were.
    fn take_input(&mut self, slot: u32, new: Range<usize>) -> usize {
        let mut messages = 0;
        let Some(connection) = self.sender.connections.at(slot) else {
            return messages;
        };
        if new.is_empty() {
            return messages;
        }
        if !connection.leftover.is_empty() {
            let bytes = self.arena.memory().get(new.clone()).unwrap_or(&[]);
            if connection.stage == Stage::Messages && lacks(&connection.leftover, bytes.len()) {
                connection.leftover.extend_from_slice(bytes);
                return messages;
            }
            let start = new.start - connection.leftover.len();
            if let Some(space) = self.arena.memory_mut().get_mut(start..new.start) {
                space.copy_from_slice(&connection.leftover);
            }
            connection.leftover.clear();
        }
        let mut rest = PLAIN..new.end;
        while let Some(stage) = self.sender.connections.at(slot).map(|c| c.stage) {
            let next = match stage {
                Stage::Proxy => self.take_proxy_header(slot, &mut rest),
                Stage::FirstByte => self.take_first_byte(slot, &mut rest),
                Stage::Opening => self.take_opening(slot, &rest),
                Stage::Head(searched) => self.take_head(slot, searched, &mut rest),
                Stage::Messages => {
                    messages += 1;
                    self.take_message(slot, &mut rest)
                }
                Stage::Joined(peer) => {
                    self.pass_rest_to_peer(peer, rest.clone());
                    rest.start = rest.end;
                    Next::Wait
                }
                Stage::Handshake | Stage::Leaving => Next::Wait,
            };
            match next {
                Next::Continue => {}
                Next::Wait => break,
                Next::Close => {
                    self.sender.flush(&self.arena);
                    self.close(slot);
                    return messages;
                }
            }
        }
        self.sender.flush(&self.arena);
        if let Some(connection) = self.sender.connections.at(slot)
            && let Some(rest) = self.arena.memory().get(rest)
        {
            connection.leftover.extend_from_slice(rest);
            if rest.is_empty() && connection.leftover.capacity() > MAX_STRANGE_MESSAGE {
                connection.leftover = Vec::new();
            }
        }
        messages
    }

    fn take_proxy_header(&mut self, slot: u32, rest: &mut Range<usize>) -> Next {
        let bytes = self.arena.memory().get(rest.clone()).unwrap_or(&[]);
        match ProxyHeader::parse(bytes) {
            ProxyHeader::Incomplete if bytes.len() < proxy_header::MAX_LEN => Next::Wait,
            ProxyHeader::Incomplete | ProxyHeader::Invalid => Next::Close,
            ProxyHeader::Complete { len, client } => {
                rest.start += len;
                let Some(connection) = self.sender.connections.at(slot) else {
                    return Next::Close;
                };
                connection.stage = Stage::FirstByte;
                if let Some(client) = client {
                    connection.client = client;
                    let limit = self.reloadable.connections_per_prefix;
                    connection.stranger = self.strangers.enter(client.ip(), limit);
                    if connection.stranger.is_none() {
                        self.counters
                            .quota_hits
                            .add(QuotaHit::ConnectionsOfPrefix, 1);
                        return Next::Close;
                    }
                }
                Next::Continue
            }
        }
    }

    fn take_first_byte(&mut self, slot: u32, rest: &mut Range<usize>) -> Next {
        let Some(connection) = self.sender.connections.at(slot) else {
            return Next::Close;
        };
        match self.arena.memory().get(rest.start) {
            _ if rest.start == rest.end => Next::Wait,
            Some(&TLS_HANDSHAKE) => self.begin_tls(slot, rest),
            Some(_) | None => {
                connection.stage = Stage::Messages;
                Next::Continue
            }
        }
    }

    /// Whether the prefix of `client` has not begun too many handshakes of late.
    pub(super) fn may_shake_hands(&self, client: IpAddr) -> bool {
        let connections = self.reloadable.connections_per_prefix;
        let per_second = u32::try_from(connections.saturating_mul(HANDSHAKES)).unwrap_or(u32::MAX);
        let may = self
            .commons
            .may_shake_hands(client, per_second, self.now.time);
        if !may {
            let hits = &self.counters.quota_hits;
            hits.add(QuotaHit::HandshakesOfPrefix, 1);
        }
        may
    }

    /// What was read of the connection was not in clear.
    fn begin_tls(&mut self, slot: u32, rest: &mut Range<usize>) -> Next {
        let client = self.sender.connections.at(slot).map(|c| c.client.ip());
        if !client.is_some_and(|client| self.may_shake_hands(client)) {
            return Next::Close;
        }
        let (Some(connection), Some(config)) =
            (self.sender.connections.at(slot), self.tls_config.as_ref())
        else {
            self.counters.handshakes.add(Handshake::Failed, 1);
            return Next::Close;
        };
        let takes_http = connection.is_https && self.reloadable.https_backend.is_some();
        connection.stream.encrypt(config.load_full(), takes_http);
        self.pulse.tcp.fetch_sub(1, Ordering::Relaxed);
        self.pulse.tls.fetch_add(1, Ordering::Relaxed);
        connection.stage = Stage::Handshake;
        let by = self.now.time + self.reloadable.tls_handshake;
        let sooner = connection.deadline.map_or(by, |deadline| deadline.min(by));
        let len = rest.len();
        let memory = self.arena.memory_mut();
        memory.copy_within(rest.clone(), CIPHER);
        let (plain, cipher) = memory.split_at_mut(CIPHER);
        let Ok(input) =
            connection
                .stream
                .decrypt(&cipher[..len], &mut plain[PLAIN..], Then::Nothing)
        else {
            return Next::Close;
        };
        // a client does not send data before it has heard of the server
        *rest = PLAIN..PLAIN + input.len;
        self.set_deadline(slot, sooner);
        self.note_handshake(slot);
        Next::Continue
    }

    /// Looks whether a handshake is done.
    fn note_handshake(&mut self, slot: u32) {
        let first_request = self.reloadable.first_request;
        let has_backend = self.reloadable.https_backend.is_some();
        let Some(connection) = self.sender.connections.at(slot) else {
            return;
        };
        if connection.stage == Stage::Handshake && !connection.stream.is_handshaking() {
            connection.stage = stage_after_handshake(connection, has_backend);
            let by = connection.accepted + first_request;
            self.counters.handshakes.add(Handshake::Completed, 1);
            self.set_deadline(slot, by);
        }
    }

    /// Gives the core the next message.
    fn take_message(&mut self, slot: u32, rest: &mut Range<usize>) -> Next {
        let Some(connection) = self.sender.connections.at(slot) else {
            return Next::Close;
        };
        let stream = self.arena.memory().get(rest.clone()).unwrap_or(&[]);
        let (len, padded_len) = match frame(stream) {
            Frame::Incomplete => return Next::Wait,
            Frame::Garbage => return Next::Close,
            Frame::Message { len, .. }
                if connection.stranger.is_some() && len > MAX_STRANGE_MESSAGE =>
            {
                return Next::Close;
            }
            Frame::Message { padded_len, .. } if padded_len > stream.len() => return Next::Wait,
            Frame::Message { len, padded_len } => (len, padded_len),
        };
        // what is no request is not answered, and costs little
        let is_stun = stream.first().is_some_and(|first| first & 0xC0 == 0);
        if !connection.has_allocation && is_stun {
            if connection.unproven == UNPROVEN_REQUESTS {
                self.counters.quota_hits.add(QuotaHit::UnprovenRequests, 1);
                return Next::Close;
            }
            connection.unproven += 1;
        }
        let client = connection.five_tuple();
        let message = rest.start..rest.start + len;
        // what stands before the first message is of no use to anybody; what stands before others may wait to be sent
        let headroom = if rest.start == PLAIN { HEADROOM } else { 0 };
        rest.start += padded_len;
        let packet =
            Packet::with_rooms(self.arena.memory_mut(), message, headroom, padded_len - len);
        self.server
            .client_packet(client, packet, 0, self.now, &mut self.effects);
        self.carry_out();
        Next::Continue
    }

    /// The client has shown that it has credentials.
    pub(super) fn is_no_stranger(&mut self, client: FiveTuple) {
        // whoever has an allocation comes back before its longest life is over
        let by = self.now.time + self.reloadable.core.max_lifetime + self.reloadable.idle;
        if let Some(slot) = self.sender.connections.slot(client.link) {
            if let Some(connection) = self.sender.connections.at(slot) {
                connection.stranger = None;
                connection.has_allocation = true;
                connection.unproven = 0;
            }
            self.set_deadline(slot, by);
        }
    }

    /// The client has no allocation any more.
    pub(super) fn is_idle(&mut self, client: FiveTuple) {
        let by = self.now.time + self.reloadable.idle;
        if let Some(slot) = self.sender.connections.slot(client.link) {
            if let Some(connection) = self.sender.connections.at(slot) {
                connection.has_allocation = false;
            }
            self.set_deadline(slot, by);
        }
    }

    /// The connection is closed at `by`, unless another deadline is set.
    pub(super) fn set_deadline(&mut self, slot: u32, by: Time) {
        let Some(connection) = self.sender.connections.at(slot) else {
            return;
        };
        connection.deadline = Some(by);
        if connection.entered.is_none_or(|entered| by < entered) {
            connection.entered = Some(by);
            self.deadlines.push(by, Alarm::Client(connection.link));
        }
    }

    /// A deadline of a connection's has come, unless it was moved.
    pub(super) fn client_deadline(&mut self, link: Link) {
        let Some(slot) = self.sender.connections.slot(link) else {
            return;
        };
        let Some(connection) = self.sender.connections.at(slot) else {
            return;
        };
        connection.entered = None;
        match connection.deadline {
            None => return,
            Some(by) if by > self.now.time => return self.set_deadline(slot, by),
            Some(_) => {}
        }
        let stage = connection.stage;
        if stage == Stage::Handshake {
            self.counters.handshakes.add(Handshake::TimedOut, 1);
            // it is counted
            connection.stage = Stage::Messages;
        }
        match stage {
            Stage::Joined(peer) if self.is_being_reached(peer) => {
                self.end_reaching(peer, &io::ErrorKind::TimedOut.into());
            }
            Stage::Joined(_)
            | Stage::Proxy
            | Stage::FirstByte
            | Stage::Handshake
            | Stage::Opening
            | Stage::Head(_)
            | Stage::Messages
            | Stage::Leaving => self.close(slot),
        }
    }

    /// Closes a connection at once. What waits to be written is lost.
    pub(super) fn close(&mut self, slot: u32) {
        let Some(mut connection) = self.sender.connections.remove(slot) else {
            return;
        };
        let open = if connection.handover.is_some() {
            &self.pulse.https
        } else if connection.stream.is_encrypted() {
            &self.pulse.tls
        } else {
            &self.pulse.tcp
        };
        open.fetch_sub(1, Ordering::Relaxed);
        connection.stream.finish();
        let client = connection.five_tuple();
        let stage = connection.stage;
        drop(connection);
        match stage {
            Stage::Proxy | Stage::FirstByte | Stage::Opening | Stage::Head(_) | Stage::Leaving => {}
            Stage::Handshake => self.counters.handshakes.add(Handshake::Failed, 1),
            Stage::Messages => self.forget(client),
            Stage::Joined(peer) => self.close_pipe(peer),
        }
    }

    /// Tells the core that the client is gone.
    fn forget(&mut self, client: FiveTuple) {
        self.server.client_closed(client, &mut self.effects);
        self.carry_out();
        self.sender.flush(&self.arena);
    }

    /// Closes the connections that writing has shown to be of no use.
    pub(super) fn close_broken(&mut self) {
        while let Some(link) = self.sender.broken.pop() {
            if let Some(slot) = self.sender.connections.slot(link) {
                self.close(slot);
            }
            #[cfg(feature = "dtls")]
            if let Some(slot) = self.sender.sessions.slot(link) {
                self.end_session(slot, super::sessions::Farewell::None);
            }
        }
    }

    /// Writes what other threads have for connections of this one.
    pub(super) fn open_letters(&mut self) {
        let Some(me) = self.sender.colleagues.get(self.sender.worker) else {
            return;
        };
        let mut letters = std::mem::take(&mut self.letters);
        me.mailbox.take(&mut letters);
        let mut lost = 0;
        let mut all = mailbox::letters(&letters).peekable();
        // what stands together for one stream is written together
        while let Some((link, message)) = all.next() {
            let mut messages = [IoSlice::new(&[]); MAX_SEGMENTS];
            messages[0] = IoSlice::new(message);
            let mut count = 1;
            while count < MAX_SEGMENTS
                && let Some((_, message)) = all.next_if(|(of, _)| *of == link)
            {
                messages[count] = IoSlice::new(message);
                count += 1;
            }
            lost += self
                .sender
                .write(link, Purpose::Relayed, &messages[..count]);
        }
        drop(all);
        self.letters = letters;
        self.counters.drops.add(DropReason::QueueFull, lost as u64);
    }
}

/// Space for what is read of a connection, and for what of it is encrypted.
pub(super) fn buffers(arena: &mut Arena) -> (&mut [u8], &mut [u8]) {
    let (plain, cipher) = arena.memory_mut().split_at_mut(CIPHER);
    (&mut plain[PLAIN..], cipher)
}

/// Whether there is not enough for one message in what waits and `new` bytes more.
fn lacks(waits: &[u8], new: usize) -> bool {
    match frame(waits) {
        Frame::Message { padded_len, .. } => padded_len > waits.len() + new,
        // what it is has to be found out
        Frame::Incomplete | Frame::Garbage => false,
    }
}

/// Whether no connection can be accepted for lack of something that others have.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

const _: () = assert!(CIPHER + READ < 2_000_000, "the arena has space for both");
