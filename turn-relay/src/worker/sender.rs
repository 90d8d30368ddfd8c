//! Where messages of the core's effects leave: sockets, streams, and other threads' mailboxes.
//!
//! It knows how a destination is reached, and nothing of why something is sent.

use std::{io::IoSlice, ops::Range, sync::Arc};

use turn_relay_proto::{
    Data, FiveTuple, Link, Transport,
    address::Family,
    counters::{Counters, DropReason},
    effect::Purpose,
};

use super::Colleague;
use crate::io::{
    connections::{Connections, Stage},
    datagrams::{Arena, Datagrams, Envelope, MAX_SEGMENTS},
    listeners::UdpListener,
    locals::Locals,
    outbox::{Destination, Outbox},
    relays::{RelaySocket, Relays},
};

/// All of one thread's sockets, and what is to be sent by them.
pub(super) struct Sender<D> {
    pub(super) worker: usize,
    pub(super) datagrams: D,
    pub(super) udp: Vec<UdpListener>,
    pub(super) locals: Locals,
    pub(super) relays: Relays,
    pub(super) connections: Connections,
    #[cfg(feature = "dtls")]
    pub(super) sessions: crate::io::dtls::sessions::Sessions,
    /// Where DTLS sessions put what they have.
    #[cfg(feature = "dtls")]
    pub(super) records: Vec<u8>,
    /// Connections that are of no use any more, and have to be closed.
    pub(super) broken: Vec<Link>,
    /// Bytes that may wait for one client.
    pub(super) tcp_buffer: usize,
    pub(super) colleagues: Arc<[Colleague]>,
    pub(super) outbox: Outbox,
    pub(super) counters: Arc<Counters>,
}

impl<D: Datagrams> Sender<D> {
    /// How a client is reached.
    pub(super) fn way_to_client(
        &mut self,
        client: FiveTuple,
        purpose: Purpose,
        traffic_class: u8,
    ) -> Option<Destination> {
        match client.transport {
            Transport::Udp => {
                let local = self.locals.get(client.link)?;
                Some(Destination::Listener(
                    local.listener,
                    Envelope {
                        to: client.client,
                        from: local.address,
                        traffic_class,
                        dont_fragment: false,
                    },
                ))
            }
            Transport::Tcp | Transport::Tls => Some(Destination::Stream(client.link, purpose)),
            #[cfg(feature = "dtls")]
            Transport::Dtls => Some(Destination::Session(client.link, traffic_class)),
            #[cfg(not(feature = "dtls"))]
            Transport::Dtls => None,
        }
    }

    /// Sends a message, or collects it with others that are [flushed](Self::flush) later.
    pub(super) fn send(
        &mut self,
        destination: Destination,
        data: &Data,
        scratch: &[u8],
        arena: &Arena,
    ) {
        match data {
            Data::Packet(range) => {
                if self.outbox.push(destination, range).is_err() {
                    self.flush(arena);
                    // it is empty now, and takes anything
                    let _ = self.outbox.push(destination, range);
                }
            }
            Data::Scratch(range) => {
                self.flush(arena);
                if let Some(message) = scratch.get(range.clone()) {
                    self.transmit(destination, &[IoSlice::new(message)]);
                }
            }
        }
    }

    /// Sends what was collected.
    pub(super) fn flush(&mut self, arena: &Arena) {
        let Some((destination, messages)) = self.outbox.collected() else {
            return;
        };
        let memory = arena.memory();
        let slice = |range: &Range<usize>| IoSlice::new(memory.get(range.clone()).unwrap_or(&[]));
        if let [message] = messages {
            let message = slice(message);
            self.transmit(destination, &[message]);
        } else {
            let mut slices = [IoSlice::new(&[]); MAX_SEGMENTS];
            let count = messages.len().min(MAX_SEGMENTS);
            for (to, message) in slices.iter_mut().zip(messages) {
                *to = slice(message);
            }
            self.transmit(destination, &slices[..count]);
        }
        self.outbox.clear();
    }

    fn transmit(&mut self, destination: Destination, messages: &[IoSlice<'_>]) {
        let (lost, reason) = match destination {
            Destination::Listener(index, envelope) => {
                let lost = match self.udp.get(usize::from(index)) {
                    Some(listener) => self.datagrams.send(&listener.socket, &envelope, messages),
                    None => messages.len(),
                };
                (lost, DropReason::SendFailed)
            }
            Destination::Relay(slot, family, envelope) => {
                let lost = self.send_to_peer(slot, family, &envelope, messages);
                (lost, DropReason::SendFailed)
            }
            Destination::Stream(link, purpose) => {
                let lost = self.write(link, purpose, messages);
                (lost, DropReason::QueueFull)
            }
            #[cfg(feature = "dtls")]
            Destination::Session(link, traffic_class) => {
                let lost = match self.sessions.slot(link) {
                    Some(slot) => self.send_by_session(slot, traffic_class, messages),
                    // another thread has it
                    None => self.write(link, Purpose::Relayed, messages),
                };
                (lost, DropReason::SendFailed)
            }
        };
        if lost > 0 {
            self.counters.drops.add(reason, lost as u64);
        }
    }

    fn send_to_peer(
        &mut self,
        slot: u32,
        family: Family,
        envelope: &Envelope,
        messages: &[IoSlice<'_>],
    ) -> usize {
        match self.relays.at(slot, family).map(|(_, relay)| &relay.socket) {
            Some(RelaySocket::Udp(socket)) => self.datagrams.send(socket, envelope, messages),
            Some(RelaySocket::Tcp(_)) | None => messages.len(),
        }
    }

    /// Writes messages to a client's stream or DTLS session, or has the thread write them that has it.
    pub(super) fn write(
        &mut self,
        link: Link,
        purpose: Purpose,
        messages: &[IoSlice<'_>],
    ) -> usize {
        let Some(worker) = Connections::worker(link) else {
            return messages.len();
        };
        if worker != self.worker {
            return match self.colleagues.get(worker) {
                Some(colleague) => colleague.mailbox.put(link, messages),
                None => messages.len(),
            };
        }
        #[cfg(feature = "dtls")]
        if let Some(slot) = self.sessions.slot(link) {
            return self.send_by_session(slot, 0, messages);
        }
        let Some(slot) = self.connections.slot(link) else {
            return messages.len();
        };
        let Some(connection) = self.connections.at(slot) else {
            return messages.len();
        };
        if connection.stage != Stage::Messages {
            return messages.len();
        }
        let output = connection.stream.write(messages, self.tcp_buffer, purpose);
        if output.broken {
            self.broken.push(link);
        }
        output.lost
    }
}
