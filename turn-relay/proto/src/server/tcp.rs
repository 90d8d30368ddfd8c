//! TCP allocations, RFC 6062.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{
    ConnectFailure, Server,
    allocation::{ConnectionState, PeerConnection},
    authenticate::Authentic,
    reply::{Request, answer, fail, succeed},
};
use crate::{
    address::{ConnectionId, Family, RelayId},
    commons::{Commons, Random},
    connections::NotJoined,
    counters::{AuthFailure, Denial, Direction, QuotaHit},
    effect::{Data, Effect, Effects, Purpose, RelayKind},
    policy::{PeerPolicy, unmapped},
    quota::{Account, Way},
    stun::{AttributeType, Class, MessageWriter, Method},
    time::{Now, Time},
};

/// How long a connection to a peer waits for its ConnectionBind request, RFC 6062 §5.2 and §5.3.
const WAITS: Duration = Duration::from_secs(30);
/// Connections to peers that one allocation may have at one time.
const MAX_CONNECTIONS: usize = 64;
/// How often another name is drawn when a connection has the one that was drawn: there is one of four billion, seldom.
const NAME_ATTEMPTS: usize = 16;

/// Who pays for the bytes of two connections that are one: the user whose allocation it is, whichever thread moves them.
#[derive(Clone)]
pub struct Payer(Arc<Account>);

/// Shows no user.
impl std::fmt::Debug for Payer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Payer")
    }
}

impl<R: Random> Server<R> {
    /// Connect, RFC 6062 §5.2. It is answered once the connection is there, or not.
    pub(super) fn connect(
        &mut self,
        slot: u32,
        request: &Request<'_>,
        authentic: &Authentic,
        now: Time,
        effects: &mut Effects,
    ) -> Result<(), u16> {
        let peer = request
            .message
            .xor_address(AttributeType::XOR_PEER_ADDRESS)
            .ok_or(400u16)?;
        let peer = unmapped(peer);
        let family = Family::of(peer.ip());
        let allocation = self.allocations.get(slot).ok_or(437u16)?;
        if allocation.kind != RelayKind::Tcp {
            return Err(400);
        }
        if let Some(connection) = allocation.connections.iter().find(|c| c.peer == peer) {
            return match &connection.state {
                // the request came twice, and its answer is on the way
                ConnectionState::Connecting(reply, _)
                    if reply.transaction_id == authentic.reply.transaction_id =>
                {
                    Ok(())
                }
                ConnectionState::Connecting(..)
                | ConnectionState::Waiting(_)
                | ConnectionState::Joined => Err(446),
            };
        }
        if allocation.relay(family, now).is_none() {
            return Err(443);
        }
        if !permits(&self.commons, &self.config.policy, peer) {
            self.counters.denials.add(Denial::Connect, 1);
            return Err(403);
        }
        if allocation.connections.len() >= MAX_CONNECTIONS {
            self.counters.quota_hits.add(QuotaHit::PeerConnections, 1);
            return Err(508);
        }
        let relay = allocation.relay_id(family);
        let id = name_connection(&self.commons, &mut self.random).ok_or(508u16)?;
        if let Some(allocation) = self.allocations.get_mut(slot) {
            allocation.connections.push(PeerConnection {
                id,
                peer,
                state: ConnectionState::Connecting(authentic.reply, authentic.key.clone()),
            });
        }
        effects.list.push(Effect::ConnectToPeer {
            relay,
            peer,
            connection: id,
        });
        Ok(())
    }

    /// ConnectionBind, RFC 6062 §5.4: on a stream of its own, possibly on another thread than the allocation's.
    pub(super) fn connection_bind(
        &mut self,
        request: &Request<'_>,
        authentic: &Authentic,
        effects: &mut Effects,
    ) {
        let id = request
            .message
            .value(AttributeType::CONNECTION_ID)
            .and_then(|value| value.try_into().ok())
            .map(|value| ConnectionId(u32::from_be_bytes(value)));
        let client = request.client;
        let usable = client.transport.is_stream() && self.allocation_of(client).is_none();
        let (true, Some(id)) = (usable, id) else {
            return fail(request, authentic, 400, effects);
        };
        match self.commons.connections.join(id, authentic.username) {
            Ok(()) => {
                let nothing = |_: &mut MessageWriter<'_>| {};
                succeed(request, authentic.reply, &authentic.key, &nothing, effects);
                effects.list.push(Effect::JoinConnections {
                    client,
                    connection: id,
                });
            }
            Err(NotJoined::Unknown) => fail(request, authentic, 400, effects),
            Err(NotJoined::OtherUser) => {
                self.counters.auth_failures.add(AuthFailure::OtherUser, 1);
                fail(request, authentic, 441, effects);
            }
        }
    }

    /// [`Effect::ConnectToPeer`] was carried out.
    pub fn peer_connected(
        &mut self,
        relay: RelayId,
        connection: ConnectionId,
        now: Now,
        effects: &mut Effects,
    ) {
        self.connect_result(relay, connection, Ok(now.time + WAITS), effects);
    }

    /// [`Effect::ConnectToPeer`] could not be carried out.
    pub fn peer_connect_failed(
        &mut self,
        relay: RelayId,
        connection: ConnectionId,
        failure: ConnectFailure,
        effects: &mut Effects,
    ) {
        let code = match failure {
            ConnectFailure::Unreachable => 447,
            ConnectFailure::Exists => 446,
        };
        self.connect_result(relay, connection, Err(code), effects);
    }

    fn connect_result(
        &mut self,
        relay: RelayId,
        id: ConnectionId,
        result: Result<Time, u16>,
        effects: &mut Effects,
    ) {
        let connections = &self.commons.connections;
        let Some(allocation) = self.allocations.get_same_mut(relay.slot, relay.generation) else {
            if result.is_ok() {
                let connection = id;
                effects
                    .list
                    .push(Effect::ClosePeerConnection { connection });
            }
            return;
        };
        let (client, username) = (allocation.client, allocation.username);
        let account = Arc::clone(allocation.admission.account());
        let place = allocation.connections.iter().position(|c| c.id == id);
        let Some(place) = place else { return };
        let Some(connection) = allocation.connections.get_mut(place) else {
            return;
        };
        let ConnectionState::Connecting(reply, key) = &connection.state else {
            return;
        };
        let (reply, key) = (*reply, key.clone());
        let result = match result {
            Ok(until) => {
                connection.state = ConnectionState::Waiting(until);
                connections.wait(id, username, account);
                Ok(())
            }
            Err(code) => {
                connections.remove(id);
                allocation.connections.swap_remove(place);
                Err(code)
            }
        };
        self.reset_timer(relay.slot);
        let write = |writer: &mut MessageWriter<'_>| {
            writer.number(AttributeType::CONNECTION_ID, id.0);
        };
        let result: Result<&dyn Fn(&mut MessageWriter<'_>), u16> = match result {
            Ok(()) => Ok(&write),
            Err(code) => Err(code),
        };
        answer(client, Method::Connect, reply, &key, result, effects);
    }

    /// A peer has connected to a relayed transport address, RFC 6062 §5.3. If the server names the connection, nothing is
    /// read of it before [`Effect::JoinConnections`]; else it is closed at once: no permission.
    pub fn peer_accepted(
        &mut self,
        relay: RelayId,
        peer: SocketAddr,
        now: Now,
        effects: &mut Effects,
    ) -> Option<ConnectionId> {
        let peer = unmapped(peer);
        let indication = self.indications.next();
        let allocation = self
            .allocations
            .get_same_mut(relay.slot, relay.generation)?;
        allocation.relay(relay.family, now.time)?;
        allocation.permission(peer.ip(), now.time)?;
        if !permits(&self.commons, &self.config.policy, peer) {
            self.counters.denials.add(Denial::Connect, 1);
            return None;
        }
        if allocation.connections.len() >= MAX_CONNECTIONS {
            self.counters.quota_hits.add(QuotaHit::PeerConnections, 1);
            return None;
        }
        let id = name_connection(&self.commons, &mut self.random)?;
        let account = Arc::clone(allocation.admission.account());
        self.commons
            .connections
            .wait(id, allocation.username, account);
        allocation.connections.push(PeerConnection {
            id,
            peer,
            state: ConnectionState::Waiting(now.time + WAITS),
        });
        let client = allocation.client;
        let mut writer = MessageWriter::new(
            &mut effects.scratch,
            Class::Indication,
            Method::ConnectionAttempt,
            indication,
        );
        writer
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer)
            .number(AttributeType::CONNECTION_ID, id.0);
        let range = writer.range();
        effects.list.push(Effect::SendToClient {
            client,
            data: Data::Scratch(range),
            purpose: Purpose::Answer,
            traffic_class: 0,
        });
        self.reset_timer(relay.slot);
        Some(id)
    }

    /// A connection to a peer was closed, by whomever, joined or not.
    pub fn peer_connection_closed(&mut self, relay: RelayId, connection: ConnectionId) {
        // of an allocation that has ended the names are free already, and may be others'
        if let Some(allocation) = self.allocations.get_same_mut(relay.slot, relay.generation)
            && let Some(place) = allocation
                .connections
                .iter()
                .position(|c| c.id == connection)
        {
            allocation.connections.swap_remove(place);
            self.commons.connections.remove(connection);
        }
    }

    /// Who pays for the bytes of a connection for which there was [`Effect::JoinConnections`]; `None` once its allocation has ended.
    #[must_use]
    pub fn payer(&self, connection: ConnectionId) -> Option<Payer> {
        self.commons.connections.account(connection).map(Payer)
    }

    /// How many bytes, `most` at the most, may be read of two connections that are one, on the way `way`. [`Self::carried`] has to follow, with the same `now`.
    ///
    /// # Errors
    ///
    /// The user's bandwidth is used up: until when nothing is to be read.
    pub fn reserve(&self, payer: &Payer, way: Way, most: usize, now: Now) -> Result<usize, Time> {
        match self.config.quotas.bandwidth_per_user {
            Some(bandwidth) => payer.0.reserve(way, most, bandwidth, now.time),
            None => Ok(most),
        }
    }

    /// Of `reserved` bytes `read` were read, and `carried` were passed on: encrypted ones are others.
    pub fn carried(&self, payer: &Payer, way: Way, reserved: usize, read: usize, carried: usize) {
        if let Some(bandwidth) = self.config.quotas.bandwidth_per_user {
            let left = reserved.saturating_sub(read);
            payer.0.give_back(way, left, bandwidth);
        }
        let direction = match way {
            Way::Up => Direction::ClientToPeer,
            Way::Down => Direction::PeerToClient,
        };
        self.counters.bytes.add(direction, carried as u64);
    }

    /// Closes the connections to peers that the policy denies since a reload.
    pub(super) fn close_denied(&mut self, effects: &mut Effects) {
        for slot in self.allocations.taken() {
            let Some(allocation) = self.allocations.get_mut(slot) else {
                continue;
            };
            let (commons, policy) = (&self.commons, &self.config.policy);
            let mut denied = Vec::new();
            allocation.connections.retain_mut(|connection| {
                let permitted = permits(commons, policy, connection.peer);
                if !permitted {
                    let state = std::mem::replace(&mut connection.state, ConnectionState::Joined);
                    denied.push((connection.id, state));
                }
                permitted
            });
            let client = allocation.client;
            for (connection, state) in denied {
                self.counters.denials.add(Denial::Connect, 1);
                self.commons.connections.remove(connection);
                effects
                    .list
                    .push(Effect::ClosePeerConnection { connection });
                if let ConnectionState::Connecting(reply, key) = state {
                    answer(client, Method::Connect, reply, &key, Err(403), effects);
                }
                self.reset_timer(slot);
            }
        }
    }

    /// Gives up connections whose ConnectionBind request did not come in time.
    pub(super) fn expire_connections(&mut self, slot: u32, now: Time, effects: &mut Effects) {
        let connections = &self.commons.connections;
        let Some(allocation) = self.allocations.get_mut(slot) else {
            return;
        };
        allocation.connections.retain_mut(|connection| {
            match connection.state {
                ConnectionState::Waiting(until) if until <= now => {
                    let given_up = connections.give_up(connection.id);
                    if given_up {
                        let connection = connection.id;
                        effects
                            .list
                            .push(Effect::ClosePeerConnection { connection });
                    } else {
                        // a request came for it, here or on another thread
                        connection.state = ConnectionState::Joined;
                    }
                    !given_up
                }
                ConnectionState::Waiting(_)
                | ConnectionState::Connecting(..)
                | ConnectionState::Joined => true,
            }
        });
    }
}

/// Whether there may be a connection with a peer: by the policy; and at the relay's own addresses, which the policy does not know, with relayed
/// transport addresses, and with what `peers.allow` names. The host listens there, too.
fn permits(commons: &Commons, policy: &PeerPolicy, peer: SocketAddr) -> bool {
    if commons.ports.is_advertised(peer.ip()) {
        commons.listening.contains(peer) || policy.names(peer)
    } else {
        policy.permits(peer)
    }
}

/// A name that no other connection has. Unguessable: whoever knows it and the credentials has the connection (RFC 6062
/// §6.2.1). `None` if randomness gives none.
fn name_connection(commons: &Commons, random: &mut impl Random) -> Option<ConnectionId> {
    (0..NAME_ATTEMPTS).find_map(|_| {
        let mut id = [0; 4];
        random.fill(&mut id);
        let id = ConnectionId(u32::from_ne_bytes(id));
        commons.connections.name(id).then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RelayAddress;

    /// Gives each number twice.
    #[derive(Default)]
    struct Repetitive(u8);

    impl Random for Repetitive {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.fill(self.0 / 2);
            self.0 = self.0.saturating_add(1);
        }
    }

    #[test]
    fn no_two_connections_have_the_same_name_while_one_is_made_waits_or_is_joined() {
        let addresses: [RelayAddress; 0] = [];
        let commons = Commons::new(&addresses, 1..=1, &mut Repetitive::default());
        let (user, mut random) = (commons.ledger.identify(b"alice"), Repetitive::default());
        let mut name = || name_connection(&commons, &mut random).map(|id| id.0);
        let (zeros, ones, twos) = (0, 0x0101_0101, 0x0202_0202);
        assert_eq!(name(), Some(zeros));
        assert_eq!(name(), Some(ones));
        commons
            .connections
            .wait(ConnectionId(ones), user, Arc::default());
        assert_eq!(name(), Some(twos));
        commons
            .connections
            .wait(ConnectionId(twos), user, Arc::default());
        assert_eq!(commons.connections.join(ConnectionId(twos), user), Ok(()));
        for taken in [zeros, ones, twos] {
            assert!(!commons.connections.name(ConnectionId(taken)), "{taken}");
        }
        // only what waits is given up, and only what is closed is free
        assert!(!commons.connections.give_up(ConnectionId(twos)));
        assert!(commons.connections.give_up(ConnectionId(ones)));
        commons.connections.remove(ConnectionId(twos));
        for free in [ones, twos] {
            assert!(commons.connections.name(ConnectionId(free)), "{free}");
        }
    }

    #[test]
    fn randomness_that_always_gives_the_same_names_nothing_twice() {
        struct Stuck;
        impl Random for Stuck {
            fn fill(&mut self, bytes: &mut [u8]) {
                bytes.fill(7);
            }
        }
        let addresses: [RelayAddress; 0] = [];
        let commons = Commons::new(&addresses, 1..=1, &mut Stuck);
        assert!(name_connection(&commons, &mut Stuck).is_some());
        assert!(name_connection(&commons, &mut Stuck).is_none());
    }
}
