//! Clients' DTLS sessions: begun when a cookie came back, fed, timed, and ended.
//!
//! It knows in which order a session goes through its life. What its messages mean is the core's matter.

use std::{
    io::IoSlice,
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use turn_relay_proto::{
    FiveTuple, Link, Packet, Time,
    counters::{DropReason, Handshake, QuotaHit},
};

use super::{Alarm, Worker, sender::Sender};
use crate::io::{
    datagrams::{Datagrams, Envelope, Place},
    dtls::{
        Broken, MAX_MESSAGE, MAX_MESSAGES, OVERHEAD, Output, Session,
        hello::{ClientHello, OTHER_VERSION, hello_verify_request},
    },
};

/// What came of looking for something to do at a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// The handshake is done.
    is_opened: bool,
    /// The client has said that it ends the session.
    is_ended: bool,
}

impl<D: Datagrams> Worker<D> {
    /// Takes a datagram that came to a DTLS listener.
    pub(super) fn take_records(
        &mut self,
        client: SocketAddr,
        local: Link,
        place: &Place,
        traffic_class: u8,
    ) {
        let datagram = self.arena.memory().get(place.range.clone()).unwrap_or(&[]);
        let mut slot = self.sender.sessions.of_client(client, local);
        if let Some(hello) = ClientHello::read(datagram) {
            if !hello.is_understood && slot.is_none() {
                return self.answer_stranger(client, local, &OTHER_VERSION);
            }
            let known = slot.and_then(|slot| self.sender.sessions.at(slot));
            if !known.is_some_and(|session| session.began_with(&hello)) {
                let is_second = hello.number == 1;
                if !is_second || !self.cookies.is_good(client, local, &hello, self.now.time) {
                    return self.ask_for_cookie(client, local, hello.number, hello.random);
                }
                slot = self.begin_session(client, local, place);
                if slot.is_none() {
                    return;
                }
            }
        }
        let Some(slot) = slot else {
            self.counters.drops.add(DropReason::Malformed, 1);
            return;
        };
        self.feed(slot, place, traffic_class);
    }

    /// Whoever has shown nothing gets a cookie.
    fn ask_for_cookie(&mut self, client: SocketAddr, local: Link, number: u16, random: [u8; 32]) {
        if number != 0 {
            self.counters.drops.add(DropReason::Malformed, 1);
            return;
        }
        let cookie = self.cookies.make(client, local, &random, self.now.time);
        self.answer_stranger(client, local, &hello_verify_request(&cookie));
    }

    /// Sends a record that is shorter than what it answers, if its prefix has answers left.
    fn answer_stranger(&mut self, client: SocketAddr, local: Link, record: &[u8]) {
        if self.server.may_answer_stranger_at(client.ip(), self.now) {
            self.sender.send_record(client, local, 0, record);
        }
    }

    /// A client has shown that it is where it claims to be: what it had there before has ended.
    fn begin_session(&mut self, client: SocketAddr, local: Link, place: &Place) -> Option<u32> {
        if let Some(old) = self.sender.sessions.of_client(client, local) {
            self.end_session(old, Farewell::None);
        }
        if !self.may_shake_hands(client.ip()) {
            return None;
        }
        let limit = self.reloadable.connections_per_prefix;
        let stranger = self.strangers.enter(client.ip(), limit);
        if stranger.is_none() {
            self.counters
                .quota_hits
                .add(QuotaHit::ConnectionsOfPrefix, 1);
            return None;
        }
        let server = self.dtls_config.as_ref()?.load_full();
        let times = (self.now.time, self.instant());
        let deadline = self.now.time + self.reloadable.tls_handshake;
        let datagram = self.arena.memory().get(place.range.clone())?;
        let hello = ClientHello::read(datagram)?;
        let slot = self.sender.sessions.insert(|link| {
            let mut session = Session::new(&server, link, client, local, &hello, times).ok()?;
            session.stranger = stranger;
            session.deadline = deadline;
            Some(session)
        });
        if slot.is_some() {
            self.pulse.dtls.fetch_add(1, Ordering::Relaxed);
        } else {
            self.counters.drops.add(DropReason::QueueFull, 1);
        }
        slot
    }

    /// Gives a session a datagram, and the core what was in it.
    fn feed(&mut self, slot: u32, place: &Place, traffic_class: u8) {
        let now = self.instant();
        let datagram = self.arena.memory().get(place.range.clone()).unwrap_or(&[]);
        let Some(session) = self.sender.sessions.at(slot) else {
            return;
        };
        let client = session.five_tuple();
        let received = session.receive(datagram, now);
        // what is in a record is put where the record was, with what it is shorter by before it
        let mut messages = [const { 0..0 }; MAX_MESSAGES];
        let mut count = 0;
        let (mut at, end) = (place.range.start, place.range.end);
        let memory = self.arena.memory_mut();
        let progress = self.sender.advance(slot, self.origin, |message| {
            let start = at + OVERHEAD;
            let range = start..start + message.len();
            if let (Some(entry), Some(space)) =
                (messages.get_mut(count), memory.get_mut(range.clone()))
                && range.end <= end
            {
                space.copy_from_slice(message);
                at = range.end;
                *entry = range;
                count += 1;
            }
        });
        if progress.is_opened {
            self.open_session(slot);
        }
        for message in messages.into_iter().take(count) {
            let packet = Packet::with_rooms(self.arena.memory_mut(), message, OVERHEAD, 0);
            self.server
                .client_packet(client, packet, traffic_class, self.now, &mut self.effects);
            self.carry_out();
        }
        if received.is_err() || progress.is_ended {
            // what came before its end goes on
            self.sender.flush(&self.arena);
            self.end_session(slot, Farewell::None);
        } else {
            self.set_session_alarm(slot);
        }
    }

    /// The handshake is done.
    fn open_session(&mut self, slot: u32) {
        let first_request = self.reloadable.first_request;
        if let Some(session) = self.sender.sessions.at(slot)
            && !session.is_open
        {
            session.is_open = true;
            session.deadline = session.begun + first_request;
            self.counters.dtls_handshakes.add(Handshake::Completed, 1);
        }
    }

    /// The client has shown that it has credentials.
    pub(super) fn session_is_no_stranger(&mut self, client: FiveTuple) {
        // whoever has an allocation comes back before its longest life is over
        let life = self.reloadable.core.max_lifetime + self.reloadable.idle;
        if let Some(slot) = self.sender.sessions.slot(client.link)
            && let Some(session) = self.sender.sessions.at(slot)
        {
            session.stranger = None;
            session.deadline = self.now.time + life;
            self.set_session_alarm(slot);
        }
    }

    /// The client has no allocation any more.
    pub(super) fn session_is_idle(&mut self, client: FiveTuple) {
        let by = self.now.time + self.reloadable.idle;
        if let Some(slot) = self.sender.sessions.slot(client.link)
            && let Some(session) = self.sender.sessions.at(slot)
        {
            session.deadline = by;
            self.set_session_alarm(slot);
        }
    }

    /// Looks at the session again when something is due.
    fn set_session_alarm(&mut self, slot: u32) {
        let Some(session) = self.sender.sessions.at(slot) else {
            return;
        };
        let by = session
            .resend
            .map_or(session.deadline, |resend| resend.min(session.deadline));
        if session.entered.is_none_or(|entered| by < entered) {
            session.entered = Some(by);
            self.deadlines.push(by, Alarm::Session(session.link));
        }
    }

    /// Something may be due at a session.
    pub(super) fn session_alarm(&mut self, link: Link) {
        let (now, instant) = (self.now.time, self.instant());
        let Some(slot) = self.sender.sessions.slot(link) else {
            return;
        };
        let Some(session) = self.sender.sessions.at(slot) else {
            return;
        };
        // several may have been entered; the earliest is the one that counts
        if session.entered.is_some_and(|entered| entered <= now) {
            session.entered = None;
        }
        if session.deadline <= now {
            if !session.is_open {
                self.counters.dtls_handshakes.add(Handshake::TimedOut, 1);
                // it is counted
                session.is_open = true;
            }
            return self.end_session(slot, Farewell::CloseNotify);
        }
        if session.resend.is_some_and(|resend| resend <= now) {
            if session.handle_timeout(instant).is_err() {
                return self.end_session(slot, Farewell::None);
            }
            self.sender.advance(slot, self.origin, |_| {});
        }
        self.set_session_alarm(slot);
    }

    /// Ends a session, and tells the core that its client is gone.
    pub(super) fn end_session(&mut self, slot: u32, farewell: Farewell) {
        if farewell == Farewell::CloseNotify
            && let Some(session) = self.sender.sessions.at(slot)
        {
            session.finish();
            self.sender.advance(slot, self.origin, |_| {});
        }
        let Some(session) = self.sender.sessions.remove(slot) else {
            return;
        };
        self.pulse.dtls.fetch_sub(1, Ordering::Relaxed);
        if !session.is_open {
            self.counters.dtls_handshakes.add(Handshake::Failed, 1);
        }
        let client = session.five_tuple();
        drop(session);
        self.server.client_closed(client, &mut self.effects);
        self.carry_out();
        self.sender.flush(&self.arena);
    }

    /// Tells all clients that this is the end.
    pub(super) fn end_all_sessions(&mut self) {
        for slot in self.sender.sessions.taken() {
            self.end_session(slot, Farewell::CloseNotify);
        }
    }

    /// The moment that this turn of the loop began with.
    fn instant(&self) -> Instant {
        self.origin + Duration::from_nanos(self.now.time.as_nanos())
    }
}

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// With a word to the client.
    CloseNotify,
    /// Silently: the client knows, or cannot be told.
    None,
}

impl<D: Datagrams> Sender<D> {
    /// Sends what a session has for its client, and hands out what the client has sent.
    fn advance(&mut self, slot: u32, origin: Instant, mut take: impl FnMut(&[u8])) -> Progress {
        let mut progress = Progress::default();
        let mut buffer = std::mem::take(&mut self.records);
        while let Some(session) = self.sessions.at(slot) {
            match session.poll(&mut buffer) {
                Output::Packet(record) => {
                    let (client, local) = (session.client, session.local);
                    self.send_record(client, local, 0, record);
                }
                Output::ApplicationData(message) => take(message),
                Output::Connected => progress.is_opened = true,
                Output::CloseNotify => progress.is_ended = true,
                Output::Timeout(at) => {
                    let after = at.saturating_duration_since(origin);
                    session.resend = Some(Time::default() + after);
                    break;
                }
                Output::BufferTooSmall { needed } => buffer.resize(needed, 0),
                // of the client's certificate, which was not asked for, and for SRTP
                Output::PeerCert(_) | Output::KeyingMaterial(..) | _ => {}
            }
        }
        self.records = buffer;
        progress
    }

    /// Sends a datagram from a DTLS listener. The result says whether it was not sent.
    pub(super) fn send_record(
        &mut self,
        client: SocketAddr,
        local: Link,
        traffic_class: u8,
        record: &[u8],
    ) -> bool {
        let Some(local) = self.locals.get(local) else {
            return true;
        };
        let Some(listener) = self.udp.get(usize::from(local.listener)) else {
            return true;
        };
        let envelope = Envelope {
            to: client,
            from: local.address,
            traffic_class,
            dont_fragment: false,
        };
        let messages = [IoSlice::new(record)];
        self.datagrams.send(&listener.socket, &envelope, &messages) > 0
    }

    /// Sends messages to a client of this thread, each in a record and a datagram of its own. The result says how many were lost.
    pub(super) fn send_by_session(
        &mut self,
        slot: u32,
        traffic_class: u8,
        messages: &[IoSlice<'_>],
    ) -> usize {
        let mut lost = 0;
        let mut buffer = std::mem::take(&mut self.records);
        for message in messages {
            let Some(session) = self.sessions.at(slot) else {
                lost += 1;
                continue;
            };
            if !session.is_open || message.len() > MAX_MESSAGE {
                lost += 1;
                continue;
            }
            if let Err(Broken) = session.send(message) {
                self.broken.push(session.link);
                lost += 1;
                continue;
            }
            let (client, local) = (session.client, session.local);
            while let Some(session) = self.sessions.at(slot) {
                match session.poll(&mut buffer) {
                    Output::Packet(record) => {
                        lost += usize::from(self.send_record(client, local, traffic_class, record));
                    }
                    Output::BufferTooSmall { needed } => buffer.resize(needed, 0),
                    Output::Timeout(_) => break,
                    // what comes in was taken before anything is sent
                    Output::Connected
                    | Output::PeerCert(_)
                    | Output::KeyingMaterial(..)
                    | Output::ApplicationData(_)
                    | Output::CloseNotify
                    | _ => {}
                }
            }
        }
        self.records = buffer;
        lost
    }
}
