//! The relay of one thread.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    address::{ConnectionId, FiveTuple, Link, RelayId},
    commons::{Commons, Random},
    config::Config,
    counters::Counters,
    effect::Effects,
    packet::Packet,
    time::{Now, Time},
};

/// All allocations of one thread's clients.
///
/// Whoever owns one gives it every packet, in the order in which they came, and after each call carries out the [`Effects`] in their order and
/// [clears](Effects::clear) them. It calls [`Self::handle_timeout`] when [`Self::next_timeout`] has come: later is allowed, nothing is relayed for what has
/// expired, but ports and memory stay taken until then.
#[derive(Debug)]
pub struct Server<R> {
    config: Arc<Config>,
    commons: Arc<Commons>,
    counters: Arc<Counters>,
    random: R,
}

/// Why a socket could not be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayFailure {
    /// Something else has the port: another one may be free.
    PortInUse,
    /// There are no more sockets, or the address is not one of this host's.
    Other,
}

/// Why a peer could not be connected to, RFC 6062 §5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// No answer, or a refusal: 447.
    Unreachable,
    /// There is a connection with the same two ends: 446.
    Exists,
}

/// An ICMP error about a datagram that a relay socket sent, RFC 8656 §11.5.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IcmpError {
    /// Where the datagram was sent to.
    pub peer: SocketAddr,
    /// The ICMP or ICMPv6 type, by the family of `peer`.
    pub kind: u8,
    /// The code of that type.
    pub code: u8,
    /// The MTU, with "fragmentation needed" and "packet too big"; else 0.
    pub data: u32,
}

/// Shows no address.
impl std::fmt::Debug for IcmpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ICMP error {}/{}", self.kind, self.code)
    }
}

impl<R: Random> Server<R> {
    /// A server without allocations.
    pub fn new(
        config: Arc<Config>,
        commons: Arc<Commons>,
        counters: Arc<Counters>,
        random: R,
    ) -> Self {
        Self {
            config,
            commons,
            counters,
            random,
        }
    }

    /// Takes a datagram, or one message of a stream (see [`frame`](crate::stun::channel_data::frame); without padding), that came from a client.
    ///
    /// `traffic_class` is the one of its IP header, 0 if unknown or on a stream.
    pub fn client_packet(
        &mut self,
        client: FiveTuple,
        packet: Packet<'_>,
        traffic_class: u8,
        now: Now,
        effects: &mut Effects,
    ) {
    }

    /// Takes a datagram that came to a relayed transport address. One for a `relay` that was closed is ignored.
    pub fn peer_packet(
        &mut self,
        relay: RelayId,
        peer: SocketAddr,
        packet: Packet<'_>,
        traffic_class: u8,
        now: Now,
        effects: &mut Effects,
    ) {
    }

    /// Takes an ICMP error.
    pub fn peer_unreachable(
        &mut self,
        relay: RelayId,
        error: IcmpError,
        now: Now,
        effects: &mut Effects,
    ) {
    }

    /// [`Effect::OpenRelay`](crate::Effect::OpenRelay) was carried out.
    pub fn relay_opened(&mut self, relay: RelayId, now: Now, effects: &mut Effects) {}

    /// [`Effect::OpenRelay`](crate::Effect::OpenRelay) could not be carried out.
    pub fn relay_failed(
        &mut self,
        relay: RelayId,
        failure: RelayFailure,
        now: Now,
        effects: &mut Effects,
    ) {
    }

    /// A client's stream (or DTLS association) was closed, by whomever. Its allocation ends.
    pub fn client_closed(&mut self, client: FiveTuple, now: Now, effects: &mut Effects) {}

    /// [`Effect::ConnectToPeer`](crate::Effect::ConnectToPeer) was carried out.
    pub fn peer_connected(
        &mut self,
        relay: RelayId,
        connection: ConnectionId,
        now: Now,
        effects: &mut Effects,
    ) {
    }

    /// [`Effect::ConnectToPeer`](crate::Effect::ConnectToPeer) could not be carried out.
    pub fn peer_connect_failed(
        &mut self,
        relay: RelayId,
        connection: ConnectionId,
        failure: ConnectFailure,
        now: Now,
        effects: &mut Effects,
    ) {
    }

    /// A peer has connected to a relayed transport address, RFC 6062 §5.3. If the server names the connection, nothing is read of it before
    /// [`Effect::JoinConnections`](crate::Effect::JoinConnections); else it is closed at once: no permission.
    pub fn peer_accepted(
        &mut self,
        relay: RelayId,
        peer: SocketAddr,
        now: Now,
        effects: &mut Effects,
    ) -> Option<ConnectionId> {
        None
    }

    /// A connection to a peer was closed, by whomever, joined or not.
    pub fn peer_connection_closed(&mut self, connection: ConnectionId, now: Now) {}

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        None
    }

    /// Ends what has expired.
    pub fn handle_timeout(&mut self, now: Now, effects: &mut Effects) {}

    /// Takes new settings. Allocations stay; what the new policy denies is not relayed any more.
    pub fn reconfigure(&mut self, config: Arc<Config>) {
        self.config = config;
    }

    /// From now on no allocation is made (508); those that there are live on.
    pub fn drain(&mut self) {}

    /// Ends all allocations, as at the end of the process.
    pub fn close(&mut self, now: Now, effects: &mut Effects) {}

    /// Allocations that there are now.
    #[must_use]
    pub fn allocations(&self) -> usize {
        0
    }
}
