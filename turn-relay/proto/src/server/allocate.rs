//! Allocate requests, RFC 8656 §7.2, and how allocations end.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::{
    RelayFailure, Server,
    allocation::{Allocation, Granted, Pending, Relay, place},
    authenticate::Authentic,
    reply::{Challenge, Request, answer, fail, is_no_stranger, write_allocated},
};
use crate::{
    address::{Family, FiveTuple, RelayId},
    commons::{Commons, Random},
    config::RelayAddress,
    counters::{AuthFailure, QuotaHit},
    effect::{Effect, Effects, RelayKind},
    ports::{Crossing, Parity, ReservationToken},
    quota::UserId,
    rate::Rate,
    stun::{AttributeType, Message, MessageWriter, Method},
    time::{Now, Time},
};

/// How often another port is tried when something else on the host has the one that was drawn.
const PORT_ATTEMPTS: u8 = 16;

/// Numbers of REQUESTED-TRANSPORT (IANA's protocol numbers), RFC 8656 §18.8, RFC 6062 §5.1.
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;

/// Which port an allocation wants.
#[derive(Clone, Copy, Debug)]
pub(super) enum PortWish {
    Any,
    Even,
    /// An even one, with the next one held.
    Pair,
    Reserved(ReservationToken),
}

/// What an Allocate request asks for.
struct Wish {
    kind: RelayKind,
    port: PortWish,
    family: FamilyWish,
    lifetime: Option<Duration>,
}

enum FamilyWish {
    /// RFC 8656 §7.2: IPv4, if nothing is said.
    One(Family),
    Both,
}

impl<R: Random> Server<R> {
    /// Carries out an Allocate request.
    pub(super) fn allocate(
        &mut self,
        request: &Request<'_>,
        authentic: &Authentic,
        now: Now,
        effects: &mut Effects,
    ) {
        let client = request.client;
        self.end_if_expired(client, now.time, effects);
        if let Some(allocation) = self.allocation_of(client) {
            let is_repeated = allocation.granted.transaction_id == authentic.reply.transaction_id
                && allocation.username == authentic.username;
            match (is_repeated, &allocation.pending) {
                (true, None) => answer(
                    client,
                    Method::Allocate,
                    authentic.reply,
                    &authentic.key,
                    Ok(&|writer| write_allocated(allocation, writer)),
                    effects,
                ),
                // its answer is on the way
                (true, Some(_)) => {}
                (false, _) => fail(request, authentic, 437, effects),
            }
            return;
        }
        if now.unix_seconds >= authentic.expiry {
            self.counters.auth_failures.add(AuthFailure::Expired, 1);
            // as a wrong one: draft-uberti-behave-turn-rest-00 §2.2
            return self.refuse(request, 401, Challenge::Yes, now, effects);
        }
        let wish = match self.read_wish(request) {
            Ok(wish) => wish,
            Err(code) => return fail(request, authentic, code, effects),
        };
        if let Err(code) = self.begin(client, authentic, &wish, now, effects) {
            fail(request, authentic, code, effects);
        }
    }

    /// RFC 8656 §7.2, steps 3 to 9, in that order.
    fn read_wish(&self, request: &Request<'_>) -> Result<Wish, u16> {
        let message = request.message;
        let kind = match message.value(AttributeType::REQUESTED_TRANSPORT) {
            Some([PROTOCOL_UDP, _, _, _]) => RelayKind::Udp,
            Some([PROTOCOL_TCP, _, _, _]) if self.config.tcp_relay => RelayKind::Tcp,
            Some([_, _, _, _]) => return Err(442),
            Some(_) | None => return Err(400),
        };
        let even_port = match message.value(AttributeType::EVEN_PORT) {
            Some(&[flags]) => Some(flags & 0x80 != 0),
            Some(_) => return Err(400),
            None => None,
        };
        let token = match message.value(AttributeType::RESERVATION_TOKEN) {
            Some(value) => Some(ReservationToken(value.try_into().map_err(|_| 400u16)?)),
            None => None,
        };
        let requested = family(message, AttributeType::REQUESTED_ADDRESS_FAMILY)?;
        let additional = family(message, AttributeType::ADDITIONAL_ADDRESS_FAMILY)?;
        if kind == RelayKind::Tcp
            && (!request.client.transport.is_stream()
                || message.has(AttributeType::DONT_FRAGMENT)
                || even_port.is_some()
                || token.is_some())
        {
            return Err(400); // RFC 6062 §5.1
        }
        if token.is_some() && (even_port.is_some() || requested.is_some() || additional.is_some()) {
            return Err(400);
        }
        if requested.is_some() && additional.is_some() {
            return Err(400);
        }
        let family = match (requested, additional) {
            (Some(number), _) => FamilyWish::One(Family::from_number(number).ok_or(440u16)?),
            // RFC 8656 §7.2: asked for beside IPv4, so that it cannot be IPv4
            (None, Some(number)) if Family::from_number(number) != Some(Family::V6) => {
                return Err(400);
            }
            (None, Some(_)) if even_port == Some(true) => return Err(400),
            (None, Some(_)) => FamilyWish::Both,
            (None, None) => FamilyWish::One(Family::V4),
        };
        let port = match (token, even_port) {
            (Some(token), _) => PortWish::Reserved(token),
            (None, Some(true)) => PortWish::Pair,
            (None, Some(false)) => PortWish::Even,
            (None, None) => PortWish::Any,
        };
        Ok(Wish {
            kind,
            port,
            family,
            lifetime: lifetime(message)?,
        })
    }

    /// Takes ports and asks for sockets. Nothing is left behind on an error, but for what was in the ledger: that goes with
    /// the admission.
    fn begin(
        &mut self,
        client: FiveTuple,
        authentic: &Authentic,
        wish: &Wish,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), u16> {
        if self.draining {
            return Err(508);
        }
        let admission = self
            .commons
            .ledger
            .admit(authentic.user, &self.config.quotas)
            .map_err(|quota| {
                self.counters.quota_hits.add(quota, 1);
                if quota == QuotaHit::UserAllocations {
                    486u16
                } else {
                    508
                }
            })?;
        let (slot, generation) = self.allocations.next().ok_or(508u16)?;
        let lifetime = self.granted_lifetime(wish.lifetime);
        let mut relays = [None, None];
        let mut reservation = None;
        let mut address_error = None;
        let families: &[Family] = match wish.family {
            FamilyWish::One(Family::V4) => &[Family::V4],
            FamilyWish::One(Family::V6) => &[Family::V6],
            FamilyWish::Both => &[Family::V4, Family::V6],
        };
        for wanted in families {
            match self.take_port(*wanted, wish.port, authentic.user, now.time) {
                Ok((address, port, token)) => {
                    reservation = token;
                    let advertised = SocketAddr::new(address.advertised, port);
                    let family = Family::of(address.bind);
                    relays[place(family)] = Some(Relay {
                        bind: address.bind,
                        advertised,
                        expires: now.time + lifetime,
                        open: false,
                    });
                }
                Err(code) => address_error = Some((*wanted, code)),
            }
        }
        if let ([None, None], Some((_, code))) = (&relays, address_error) {
            // RFC 8656 §7.2: neither of two families is a lack of capacity
            return Err(if families.len() == 2 { 508 } else { code });
        }
        let timer = now.time + lifetime;
        let allocation = Allocation {
            number: self.commons.next_number(),
            slot,
            generation,
            client,
            username: authentic.username,
            key: authentic.key.clone(),
            kind: wish.kind,
            relays,
            permissions: Vec::new(),
            channels: Vec::new(),
            admission,
            granted: Granted {
                transaction_id: authentic.reply.transaction_id,
                lifetime,
                reservation,
                address_error,
            },
            pending: Some(Box::new(Pending {
                reply: authentic.reply,
                wish: wish.port,
                attempts: PORT_ATTEMPTS,
            })),
            timer,
            published: false,
            counted: None,
            connections: Vec::new(),
            unproven: Rate::default(),
        };
        for family in allocation.families() {
            open(&allocation, family, effects);
        }
        self.allocations.insert(allocation);
        self.slot_by_client.insert(client, slot);
        self.timers.set(slot, timer);
        Ok(())
    }

    /// A port of one of the relay addresses of that family.
    fn take_port(
        &mut self,
        family: Family,
        wish: PortWish,
        user: UserId,
        now: Time,
    ) -> Result<(RelayAddress, u16, Option<ReservationToken>), u16> {
        let ports = &self.commons.ports;
        let addresses = &self.config.relay_addresses;
        if let PortWish::Reserved(token) = wish {
            let (bind, port) = ports.take_reserved(token, now).ok_or(508u16)?;
            let address = addresses.iter().find(|address| address.bind == bind);
            return address.map(|address| (*address, port, None)).ok_or(508);
        }
        let mut candidates: Vec<RelayAddress> = addresses
            .iter()
            .filter(|address| Family::of(address.bind) == family)
            .copied()
            .collect();
        if candidates.is_empty() {
            return Err(440);
        }
        // a port that is held outlives the allocation that it is held with
        let most = self.config.quotas.allocations_per_user;
        if matches!(wish, PortWish::Pair)
            && u32::try_from(ports.reserved_by(user, now)).is_ok_and(|held| held >= most)
        {
            self.counters.quota_hits.add(QuotaHit::UserAllocations, 1);
            return Err(486);
        }
        let mut draw = [0];
        self.random.fill(&mut draw);
        let first = usize::from(draw[0]) % candidates.len();
        candidates.rotate_left(first);
        let random = &mut self.random;
        let found = candidates.into_iter().find_map(|address| {
            let bind = address.bind;
            match wish {
                PortWish::Pair => ports
                    .take_pair(bind, user, now, random)
                    .map(|(port, token)| (address, port, Some(token))),
                PortWish::Even => ports
                    .take(bind, Parity::Even, now, random)
                    .map(|port| (address, port, None)),
                PortWish::Any | PortWish::Reserved(_) => ports
                    .take(bind, Parity::Any, now, random)
                    .map(|port| (address, port, None)),
            }
        });
        found.ok_or_else(|| {
            self.counters.quota_hits.add(QuotaHit::Ports, 1);
            508
        })
    }

    /// [`Effect::OpenRelay`] was carried out.
    pub fn relay_opened(&mut self, relay: RelayId, effects: &mut Effects) {
        let Some(allocation) = self.allocations.get_same_mut(relay.slot, relay.generation) else {
            return;
        };
        let kind = allocation.kind;
        if let Some(relay) = allocation.relay_mut(relay.family) {
            relay.open = true;
            if kind == RelayKind::Tcp {
                self.commons.listening.insert(relay.advertised);
            }
        }
        self.finish_if_decided(relay.slot, effects);
    }

    /// [`Effect::OpenRelay`] could not be carried out. Another port may be asked for.
    pub fn relay_failed(
        &mut self,
        relay: RelayId,
        failure: RelayFailure,
        now: Now,
        effects: &mut Effects,
    ) {
        let RelayId {
            slot,
            generation,
            family,
        } = relay;
        let Some(allocation) = self.allocations.get_same_mut(slot, generation) else {
            return;
        };
        let Some(failed) = allocation.take_relay(family) else {
            return;
        };
        let again = match (&mut allocation.pending, failure) {
            (Some(pending), RelayFailure::PortInUse) if pending.attempts > 1 => {
                pending.attempts -= 1;
                match pending.wish {
                    PortWish::Any | PortWish::Even | PortWish::Pair => Some(pending.wish),
                    PortWish::Reserved(_) => None,
                }
            }
            (Some(_) | None, RelayFailure::PortInUse | RelayFailure::Other) => None,
        };
        // the token of a pair that did not come about opens nothing
        if let Some(token) = allocation.granted.reservation.take()
            && let Some((bind, port)) = self.commons.ports.take_reserved(token, now.time)
        {
            self.commons.ports.give_back(bind, port);
        }
        self.commons
            .ports
            .set_aside(failed.bind, failed.advertised.port(), now.time);
        let user = allocation.admission.user();
        let found = again.map(|wish| self.take_port(family, wish, user, now.time));
        let Some(allocation) = self.allocations.get_same_mut(slot, generation) else {
            return;
        };
        if let Some(Ok((address, port, token))) = found {
            allocation.granted.reservation = token;
            allocation.relays[place(family)] = Some(Relay {
                bind: address.bind,
                advertised: SocketAddr::new(address.advertised, port),
                ..failed
            });
            open(allocation, family, effects);
        } else {
            allocation.granted.address_error = Some((family, 508));
            self.finish_if_decided(slot, effects);
        }
    }

    /// Answers the Allocate request once each socket is open or was given up.
    fn finish_if_decided(&mut self, slot: u32, effects: &mut Effects) {
        let Some(allocation) = self.allocations.get_mut(slot) else {
            return;
        };
        if allocation.relays.iter().flatten().any(|relay| !relay.open) {
            return;
        }
        let Some(pending) = allocation.pending.take() else {
            return;
        };
        let client = allocation.client;
        let made = allocation.relays.iter().any(Option::is_some);
        if made {
            let kind = allocation.kind_for_metrics();
            allocation.counted = Some(kind);
            self.counters.allocations_made.add(kind, 1);
        }
        let Some(allocation) = self.allocations.get(slot) else {
            return;
        };
        if made {
            is_no_stranger(client, effects);
        }
        let result: Result<&dyn Fn(&mut MessageWriter<'_>), u16> = if made {
            Ok(&|writer| write_allocated(allocation, writer))
        } else {
            Err(508)
        };
        answer(
            client,
            Method::Allocate,
            pending.reply,
            &allocation.key,
            result,
            effects,
        );
        if made {
            self.log_made(allocation);
        } else {
            self.end(slot, effects);
        }
    }

    fn log_made(&self, allocation: &Allocation) {
        let transport = allocation.client.transport.label();
        if self.config.unsafe_identifiers {
            tracing::debug!(
                allocation = allocation.number,
                transport,
                client = %allocation.client.client,
                relayed = ?allocation.relays.iter().flatten().map(|relay| relay.advertised).collect::<Vec<_>>(),
                "allocation made"
            );
        } else {
            tracing::debug!(allocation = allocation.number, transport, "allocation made");
        }
    }

    /// RFC 8656 §7.2: at least the default, at most the maximum.
    pub(super) fn granted_lifetime(&self, requested: Option<Duration>) -> Duration {
        let default = self.config.default_lifetime;
        requested.map_or(default, |requested| {
            requested.min(self.config.max_lifetime).max(default)
        })
    }

    /// Ends an allocation: its sockets are closed, its ports are free, and nothing is left of it.
    pub(super) fn end(&mut self, slot: u32, effects: &mut Effects) {
        let Some(mut allocation) = self.allocations.remove(slot) else {
            return;
        };
        self.slot_by_client.remove(&allocation.client);
        self.timers.unset(slot, allocation.timer);
        for connection in std::mem::take(&mut allocation.connections) {
            self.commons.connections.remove(connection.id);
        }
        for family in allocation.families() {
            close_relay(&self.commons, &mut allocation, family, effects);
        }
        let client = allocation.client;
        if let Some(kind) = allocation.counted {
            self.counters.allocations_ended.add(kind, 1);
            tracing::debug!(allocation = allocation.number, "allocation ended");
        }
        if client.transport != crate::Transport::Udp {
            effects.list.push(Effect::AllocationEnded { client });
        }
    }

    /// Tells other threads, and this one, how packets of other clients get to this one.
    pub(super) fn publish(&mut self, slot: u32, now: Time) {
        let Some(allocation) = self.allocations.get_mut(slot) else {
            return;
        };
        let reachable = allocation.kind == RelayKind::Udp
            && allocation
                .permissions
                .iter()
                .any(|permission| permission.own && now < permission.expires);
        if !reachable && !allocation.published {
            return;
        }
        allocation.published = reachable;
        let own_permissions = || {
            let own = |permission: &&super::allocation::Permission| permission.own;
            let permissions = allocation.permissions.iter().filter(own);
            permissions.map(|permission| (permission.peer, permission.expires))
        };
        let own_channels = || {
            let own = |channel: &&super::allocation::Channel| channel.own;
            let channels = allocation.channels.iter().filter(own);
            channels.map(|channel| (channel.peer, channel.number, channel.expires))
        };
        for relay in allocation.relays.iter().flatten() {
            let of_family = |address: IpAddr| Family::of(address) == Family::of(relay.bind);
            let crossing = reachable.then(|| {
                Arc::new(Crossing {
                    client: allocation.client,
                    permissions: own_permissions()
                        .filter(|(address, _)| of_family(*address))
                        .collect(),
                    channels: own_channels()
                        .filter(|(peer, ..)| of_family(peer.ip()))
                        .collect(),
                    expires: relay.expires,
                    account: allocation.admission.account().clone(),
                })
            });
            self.commons.ports.publish(relay.advertised, crossing);
        }
    }

    /// Moves the entry of an allocation in the timers after its times changed.
    pub(super) fn reset_timer(&mut self, slot: u32) {
        let Some(allocation) = self.allocations.get_mut(slot) else {
            return;
        };
        if let Some(at) = allocation.next_timeout()
            && at != allocation.timer
        {
            self.timers.unset(slot, allocation.timer);
            self.timers.set(slot, at);
            allocation.timer = at;
        }
    }

    /// Ends what has expired by now of a client's allocation, should nobody have come to it.
    pub(super) fn end_if_expired(&mut self, client: FiveTuple, now: Time, effects: &mut Effects) {
        if let Some(slot) = self.slot_by_client.get(&client).copied() {
            self.expire(slot, now, effects);
        }
    }

    /// Ends what has expired of an allocation.
    fn expire(&mut self, slot: u32, now: Time, effects: &mut Effects) {
        let Some(allocation) = self.allocations.get(slot) else {
            return;
        };
        if !allocation.is_alive(now) {
            return self.end(slot, effects);
        }
        let expired: Vec<Family> = allocation
            .families()
            .filter(|family| {
                let relay = allocation.relays[place(*family)].as_ref();
                relay.is_some_and(|relay| relay.expires <= now)
            })
            .collect();
        for family in expired {
            self.end_family(slot, family, effects);
        }
        if let Some(allocation) = self.allocations.get_mut(slot) {
            allocation.purge(now);
        }
        self.expire_connections(slot, now, effects);
        self.reset_timer(slot);
    }

    /// Ends one of two relayed addresses.
    pub(super) fn end_family(&mut self, slot: u32, family: Family, effects: &mut Effects) {
        if let Some(allocation) = self.allocations.get_mut(slot) {
            close_relay(&self.commons, allocation, family, effects);
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    /// Ends what has expired.
    pub fn handle_timeout(&mut self, now: Now, effects: &mut Effects) {
        while let Some(slot) = self.timers.pop(now.time) {
            self.expire(slot, now.time, effects);
        }
    }

    /// A client's stream (or DTLS association) was closed, by whomever. Its allocation ends.
    pub fn client_closed(&mut self, client: FiveTuple, effects: &mut Effects) {
        if let Some(slot) = self.slot_by_client.get(&client).copied() {
            self.end(slot, effects);
        }
    }

    /// Ends all allocations, as at the end of the process.
    pub fn close(&mut self, effects: &mut Effects) {
        for slot in self.allocations.taken() {
            self.end(slot, effects);
        }
    }

    pub(super) fn allocation_of(&self, client: FiveTuple) -> Option<&Allocation> {
        self.allocations.get(*self.slot_by_client.get(&client)?)
    }
}

/// Closes one relayed address of an allocation.
fn close_relay(
    commons: &Commons,
    allocation: &mut Allocation,
    family: Family,
    effects: &mut Effects,
) {
    let id = allocation.relay_id(family);
    let Some(relay) = allocation.take_relay(family) else {
        return;
    };
    if allocation.published {
        commons.ports.publish(relay.advertised, None);
    }
    if allocation.kind == RelayKind::Tcp {
        commons.listening.remove(relay.advertised);
    }
    effects.list.push(Effect::CloseRelay { relay: id });
    commons.ports.give_back(relay.bind, relay.advertised.port());
}

fn open(allocation: &Allocation, family: Family, effects: &mut Effects) {
    if let Some(relay) = &allocation.relays[place(family)] {
        effects.list.push(Effect::OpenRelay {
            relay: allocation.relay_id(family),
            address: SocketAddr::new(relay.bind, relay.advertised.port()),
            kind: allocation.kind,
        });
    }
}

/// The number in an attribute that names a family; 400 if it has not the right length.
pub(super) fn family(message: &Message<'_>, attribute: AttributeType) -> Result<Option<u8>, u16> {
    match message.value(attribute) {
        Some(&[number, _, _, _]) => Ok(Some(number)),
        Some(_) => Err(400),
        None => Ok(None),
    }
}

/// LIFETIME; 400 if it has not the right length.
pub(super) fn lifetime(message: &Message<'_>) -> Result<Option<Duration>, u16> {
    match message.value(AttributeType::LIFETIME) {
        Some(value) => {
            let seconds = u32::from_be_bytes(value.try_into().map_err(|_| 400u16)?);
            Ok(Some(Duration::from_secs(u64::from(seconds))))
        }
        None => Ok(None),
    }
}
