//! Requests other than Allocate: RFC 8489 §7 (Binding), RFC 8656 §8.2, §10.2, §12.2.

use std::net::{IpAddr, SocketAddr};

use super::{
    Server,
    allocate::{family, lifetime},
    allocation::{Allocation, CHANNEL_LIFETIME, Channel},
    authenticate::Authentic,
    reply::{Request, fail, is_no_stranger, push_answer, refuse_unknown, succeed},
};
use crate::{
    address::Family,
    commons::Random,
    counters::{AuthFailure, Denial, QuotaHit},
    effect::{Effects, RelayKind},
    policy::unmapped,
    stun::{AttributeType, Class, MessageWriter, Method, channel_data::ChannelNumber},
    time::{Now, Time},
};

impl<R: Random> Server<R> {
    /// Answers one request.
    pub(super) fn request(&mut self, request: &Request<'_>, now: Now, effects: &mut Effects) {
        if self.config.unsafe_identifiers {
            log_who_asks(request);
        }
        if request.method == Method::Binding {
            return self.binding(request, now, effects);
        }
        let Some(authentic) = self.authenticate(request, now, effects) else {
            return;
        };
        if self.allocation_of(request.client).is_some() {
            is_no_stranger(request.client, effects);
        }
        if !request.message.unknown_attributes().is_empty() {
            let known = Some((authentic.reply, &authentic.key));
            return refuse_unknown(request, known, effects);
        }
        if request.method == Method::Allocate {
            return self.allocate(request, &authentic, now, effects);
        }
        if request.method == Method::ConnectionBind {
            return self.connection_bind(request, &authentic, effects);
        }
        let client = request.client;
        if request.method == Method::Refresh
            && self
                .departed
                .contains(client, authentic.reply.transaction_id, now.time)
        {
            return succeed_refresh(request, &authentic, 0, effects);
        }
        self.end_if_expired(client, now.time, effects);
        let slot = self.slot_by_client.get(&client).copied();
        let owner = slot
            .and_then(|slot| self.allocations.get(slot))
            .filter(|allocation| allocation.is_alive(now.time) && allocation.pending.is_none())
            .map(|allocation| allocation.username);
        match (slot, owner) {
            (Some(slot), Some(owner)) if owner == authentic.username => {
                self.carry_out(slot, request, &authentic, now, effects);
            }
            (Some(_), Some(_)) => {
                self.counters.auth_failures.add(AuthFailure::OtherUser, 1);
                fail(request, &authentic, 441, effects);
            }
            (Some(_) | None, _) => fail(request, &authentic, 437, effects),
        }
    }

    fn carry_out(
        &mut self,
        slot: u32,
        request: &Request<'_>,
        authentic: &Authentic,
        now: Now,
        effects: &mut Effects,
    ) {
        let result = match request.method {
            Method::Refresh => match self.refresh(slot, request, authentic, now.time, effects) {
                Ok(lifetime) => {
                    return succeed_refresh(request, authentic, lifetime, effects);
                }
                Err(code) => Err(code),
            },
            Method::CreatePermission => self.create_permission(slot, request, now.time),
            Method::ChannelBind => self.channel_bind(slot, request, now.time),
            // answered when the connection is there, or not
            Method::Connect => match self.connect(slot, request, authentic, now.time, effects) {
                Ok(()) => return,
                Err(code) => Err(code),
            },
            Method::Binding
            | Method::Allocate
            | Method::Send
            | Method::Data
            | Method::ConnectionBind
            | Method::ConnectionAttempt
            | Method::Other(_) => Err(400),
        };
        match result {
            Ok(()) => {
                let nothing = |_: &mut MessageWriter<'_>| {};
                succeed(request, authentic.reply, &authentic.key, &nothing, effects);
            }
            Err(code) => fail(request, authentic, code, effects),
        }
    }

    /// RFC 8489 §7: whoever asks is told where they are seen, in as few bytes as possible.
    fn binding(&self, request: &Request<'_>, now: Now, effects: &mut Effects) {
        if !self.may_answer_stranger(request.client, now) {
            return;
        }
        if !request.message.unknown_attributes().is_empty() {
            return refuse_unknown(request, None, effects);
        }
        let id = request.message.transaction_id();
        let mut writer =
            MessageWriter::new(&mut effects.scratch, Class::Success, Method::Binding, id);
        writer.xor_address(AttributeType::XOR_MAPPED_ADDRESS, request.client.client);
        let range = writer.range();
        push_answer(request.client, range, effects);
        self.counters.bindings.add(1);
    }

    /// RFC 8656 §8.2; the lifetime in seconds that is left.
    fn refresh(
        &mut self,
        slot: u32,
        request: &Request<'_>,
        authentic: &Authentic,
        now: Time,
        effects: &mut Effects,
    ) -> Result<u32, u16> {
        let requested = lifetime(request.message)?;
        let only = family(request.message, AttributeType::REQUESTED_ADDRESS_FAMILY)?;
        let allocation = self.allocations.get_mut(slot).ok_or(437u16)?;
        let families: Vec<Family> = allocation
            .families()
            .filter(|family| only.is_none_or(|only| only == family.number()))
            .collect();
        if families.is_empty() {
            return Err(443);
        }
        if requested.is_some_and(|requested| requested.is_zero()) {
            let id = authentic.reply.transaction_id;
            self.departed.remember(request.client, id, now);
            if families.len() == allocation.families().count() {
                self.end(slot, effects);
            } else {
                for family in families {
                    self.end_family(slot, family, effects);
                }
                self.reset_timer(slot);
            }
            return Ok(0);
        }
        let lifetime = self.granted_lifetime(requested);
        let allocation = self.allocations.get_mut(slot).ok_or(437u16)?;
        for family in families {
            if let Some(relay) = allocation.relay_mut(family) {
                relay.expires = now + lifetime;
            }
        }
        allocation.purge(now);
        self.reset_timer(slot);
        self.publish(slot, now);
        Ok(u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX))
    }

    /// RFC 8656 §10.2: all of the addresses, or none.
    fn create_permission(
        &mut self,
        slot: u32,
        request: &Request<'_>,
        now: Time,
    ) -> Result<(), u16> {
        let most = self.config.quotas.permissions_per_allocation;
        let mut peers: Vec<(IpAddr, bool)> = Vec::new();
        for peer in request.message.peer_addresses() {
            let peer = unmapped(peer.ok_or(400u16)?).ip();
            if peers.iter().any(|(known, _)| *known == peer) {
                continue;
            }
            if peers.len() == most {
                self.counters.quota_hits.add(QuotaHit::Permissions, 1);
                return Err(508);
            }
            peers.push((peer, self.commons.ports.is_advertised(peer)));
        }
        if peers.is_empty() {
            return Err(400);
        }
        let allocation = self.allocations.get_mut(slot).ok_or(437u16)?;
        for (peer, own) in &peers {
            if allocation.relay(Family::of(*peer), now).is_none() {
                return Err(443);
            }
            if !own && !self.config.policy.permits_address(*peer) {
                self.counters.denials.add(Denial::CreatePermission, 1);
                return Err(403);
            }
        }
        allocation.purge(now);
        let more = |(peer, _): &&(IpAddr, bool)| allocation.permission(*peer, now).is_none();
        if allocation.permissions.len() + peers.iter().filter(more).count() > most {
            self.counters.quota_hits.add(QuotaHit::Permissions, 1);
            return Err(508);
        }
        for (peer, own) in peers {
            allocation.permit(peer, own, now);
        }
        self.publish(slot, now);
        Ok(())
    }

    /// RFC 8656 §12.2.
    fn channel_bind(&mut self, slot: u32, request: &Request<'_>, now: Time) -> Result<(), u16> {
        let message = request.message;
        let number = match message.value(AttributeType::CHANNEL_NUMBER) {
            Some(&[n0, n1, _, _]) => ChannelNumber::new(u16::from_be_bytes([n0, n1])),
            Some(_) | None => None,
        };
        let peer = message.xor_address(AttributeType::XOR_PEER_ADDRESS);
        let (Some(number), Some(peer)) = (number, peer) else {
            return Err(400);
        };
        let peer = unmapped(peer);
        let own = self.commons.ports.is_advertised(peer.ip());
        let allocation = self.allocations.get_mut(slot).ok_or(437u16)?;
        if allocation.kind == RelayKind::Tcp {
            return Err(400);
        }
        let elsewhere = allocation
            .channel_by_number(number, now)
            .is_some_and(|channel| channel.peer != peer)
            || allocation
                .channel_by_peer(peer, now)
                .is_some_and(|channel| channel.number != number);
        if elsewhere {
            return Err(400);
        }
        if allocation.relay(Family::of(peer.ip()), now).is_none() {
            return Err(443);
        }
        if peer.port() == 0 || !own && !self.config.policy.permits(peer) {
            self.counters.denials.add(Denial::ChannelBind, 1);
            return Err(403);
        }
        allocation.purge(now);
        let quotas = &self.config.quotas;
        if allocation.channel_by_number(number, now).is_none()
            && allocation.channels.len() >= quotas.channels_per_allocation
        {
            self.counters.quota_hits.add(QuotaHit::Channels, 1);
            return Err(508);
        }
        if allocation.permission(peer.ip(), now).is_none()
            && allocation.permissions.len() >= quotas.permissions_per_allocation
        {
            self.counters.quota_hits.add(QuotaHit::Permissions, 1);
            return Err(508);
        }
        bind(allocation, number, peer, own, self.policy_generation, now);
        self.publish(slot, now);
        Ok(())
    }
}

/// Names everybody. An operator has to want that: `log.unsafe_identifiers`.
fn log_who_asks(request: &Request<'_>) {
    let message = request.message;
    let username = message.value(AttributeType::USERNAME).unwrap_or_default();
    let peers: Vec<_> = message.peer_addresses().flatten().collect();
    tracing::debug!(
        client = %request.client.client,
        method = ?request.method,
        username = ?String::from_utf8_lossy(username),
        ?peers,
        "request"
    );
}

fn succeed_refresh(
    request: &Request<'_>,
    authentic: &Authentic,
    lifetime: u32,
    effects: &mut Effects,
) {
    let write = |writer: &mut MessageWriter<'_>| {
        writer.number(AttributeType::LIFETIME, lifetime);
    };
    succeed(request, authentic.reply, &authentic.key, &write, effects);
}

/// Binds or refreshes a channel, which gives permission, too.
fn bind(
    allocation: &mut Allocation,
    number: ChannelNumber,
    peer: SocketAddr,
    own: bool,
    permitted_by: u32,
    now: Time,
) {
    allocation.permit(peer.ip(), own, now);
    allocation.bind(Channel {
        peer,
        expires: now + CHANNEL_LIFETIME,
        permitted_by,
        number,
        own,
    });
}
