//! Datagrams that came: batches of them, one by one to the core.

use std::{io, net::UdpSocket};

use turn_relay_proto::{FiveTuple, Packet, Transport, address::Family};

use super::Worker;
use crate::io::{
    datagrams::{Arena, BATCH, Datagrams, Left, Place},
    locals::Local,
    ready::{Queued, Source},
    relays::RelaySocket,
};

/// How often an error that may be an earlier datagram's is taken for that.
const RECEIVE_ATTEMPTS: usize = 3;

/// ICMP errors that are read at once: as many datagrams as one batch sends may each bring one.
const ICMP_BATCH: usize = BATCH;

impl<D: Datagrams> Worker<D> {
    /// Takes a batch of a listener's. The result says how many packets those were.
    pub(super) fn serve_listener(&mut self, listener_index: u32) -> usize {
        let Some(listener) = self.sender.udp.get_mut(listener_index as usize) else {
            return 0;
        };
        let at_most = listener.appetite.ask(self.turn);
        let left = receive(
            &mut self.sender.datagrams,
            &listener.socket,
            &mut self.arena,
            at_most,
        );
        listener.appetite.learn(self.arena.len());
        listener.queued = Queued::No;
        #[cfg(feature = "dtls")]
        let is_encrypted = listener.is_encrypted;
        if left == Left::Something {
            self.ready
                .push(Source::UdpListener(listener_index), &mut listener.queued);
        }
        let mut served = 0;
        for index in 0.. {
            let Some(received) = self.arena.get(index) else {
                break;
            };
            let local = Local {
                listener: u16::try_from(listener_index).unwrap_or(u16::MAX),
                address: received.to,
            };
            let Some(link) = self.sender.locals.link(local) else {
                continue;
            };
            let client = FiveTuple {
                client: received.from,
                link,
                transport: Transport::Udp,
            };
            let traffic_class = received.traffic_class;
            // what goes to peers has its header taken off: there is room enough
            for place in self.arena.places(index) {
                #[cfg(feature = "dtls")]
                if is_encrypted {
                    self.take_records(client.client, link, &place, traffic_class);
                    served += 1;
                    continue;
                }
                let packet = packet(place, &mut self.arena);
                self.server.client_packet(
                    client,
                    packet,
                    traffic_class,
                    self.now,
                    &mut self.effects,
                );
                self.carry_out();
                served += 1;
            }
        }
        self.sender.flush(&self.arena);
        served
    }

    /// Takes what a relay socket has: a batch, or new connections. The result says how many packets or connections
    /// those were.
    pub(super) fn serve_relay(&mut self, slot: u32, family: Family) -> usize {
        let Some((id, relay)) = self.sender.relays.at(slot, family) else {
            return 0;
        };
        relay.queued = Queued::No;
        let RelaySocket::Udp(socket) = &relay.socket else {
            return self.accept_peers(slot, family);
        };
        let at_most = relay.appetite.ask(self.turn);
        let datagrams = &mut self.sender.datagrams;
        let left = receive(datagrams, socket, &mut self.arena, at_most);
        relay.appetite.learn(self.arena.len());
        if left == Left::Something {
            self.ready
                .push(Source::Relay(slot, family), &mut relay.queued);
        }
        let mut served = 0;
        for index in 0.. {
            let Some(received) = self.arena.get(index) else {
                break;
            };
            let (peer, traffic_class) = (received.from, received.traffic_class);
            if received.range.len() > received.stride {
                // what was spread before has to be sent before it is overwritten
                self.sender.flush(&self.arena);
            }
            for place in self.arena.spread(index) {
                let packet = packet(place, &mut self.arena);
                self.server.peer_packet(
                    id,
                    peer,
                    packet,
                    traffic_class,
                    self.now,
                    &mut self.effects,
                );
                self.carry_out();
                served += 1;
            }
        }
        self.sender.flush(&self.arena);
        served
    }

    /// Gives the core the ICMP errors that a relay socket got.
    pub(super) fn take_icmp_errors(&mut self, slot: u32, family: Family) {
        for _ in 0..ICMP_BATCH {
            let Some((id, relay)) = self.sender.relays.at(slot, family) else {
                return;
            };
            let RelaySocket::Udp(socket) = &relay.socket else {
                return;
            };
            let Some(error) = self.sender.datagrams.icmp_error(socket) else {
                return;
            };
            self.server
                .peer_unreachable(id, error, self.now, &mut self.effects);
            self.carry_out();
        }
    }
}

/// Fills the arena from a socket.
fn receive(
    datagrams: &mut impl Datagrams,
    socket: &UdpSocket,
    arena: &mut Arena,
    at_most: usize,
) -> Left {
    for _ in 0..RECEIVE_ATTEMPTS {
        match datagrams.receive(socket, arena, at_most) {
            Ok(left) => return left,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Left::Nothing,
            Err(_) => {}
        }
    }
    Left::Nothing
}

fn packet(place: Place, arena: &mut Arena) -> Packet<'_> {
    Packet::with_rooms(
        arena.memory_mut(),
        place.range,
        place.headroom,
        place.tailroom,
    )
}
