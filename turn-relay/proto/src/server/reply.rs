//! Answers, RFC 8489 §6.3 and §9.2.4.

use std::net::IpAddr;

use super::{
    Server,
    allocation::{Allocation, Reply},
    authenticate::Authentic,
};
use crate::{
    address::{FiveTuple, Transport},
    budget,
    commons::Random,
    effect::{Data, Effect, Effects, Purpose},
    stun::{AttributeType, Class, Message, MessageWriter, Method, integrity::Key},
    time::Now,
};

/// A request as it came.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) client: FiveTuple,
    pub(super) method: Method,
    pub(super) message: &'a Message<'a>,
}

/// Said to those who are authentic, RFC 8656 §5. No version: that is nobody's business.
const SOFTWARE: &[u8] = b"Nocturne";

/// PASSWORD-ALGORITHMS (RFC 8489 §14.11): SHA-256, then MD5, both without parameters.
pub(super) const PASSWORD_ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

impl<R: Random> Server<R> {
    /// Answers a request of a stranger with an error, as short as can be, and with what a client needs to authenticate if
    /// `challenge` is set.
    pub(super) fn refuse(
        &self,
        request: &Request<'_>,
        code: u16,
        challenge: Challenge,
        now: Now,
        effects: &mut Effects,
    ) {
        if !self.may_answer_stranger(request.client, now) {
            return;
        }
        let id = request.message.transaction_id();
        let nonce = self.commons.nonces.issue(request.client.client, now.time);
        let mut writer = MessageWriter::new(&mut effects.scratch, Class::Error, request.method, id);
        writer.error_code(code);
        match challenge {
            Challenge::Yes => {
                writer
                    .attribute(AttributeType::REALM, self.config.realm.as_bytes())
                    .attribute(AttributeType::NONCE, &nonce)
                    .attribute(AttributeType::PASSWORD_ALGORITHMS, &PASSWORD_ALGORITHMS);
            }
            Challenge::No => {}
        }
        let range = writer.range();
        push_answer(request.client, range, effects);
    }

    /// 438, RFC 8489 §9.2.4: to somebody who is authentic but for the nonce.
    pub(super) fn refuse_stale(
        &self,
        request: &Request<'_>,
        reply: Reply,
        key: &Key,
        now: Now,
        effects: &mut Effects,
    ) {
        // its nonce is not this client's: the request may be a copy that somebody sends from an address of their choice
        if !self.may_answer_stranger(request.client, now) {
            return;
        }
        let id = reply.transaction_id;
        let nonce = self.commons.nonces.issue(request.client.client, now.time);
        let mut writer = MessageWriter::new(&mut effects.scratch, Class::Error, request.method, id);
        writer
            .error_code(438)
            .attribute(AttributeType::REALM, self.config.realm.as_bytes())
            .attribute(AttributeType::NONCE, &nonce)
            .attribute(AttributeType::PASSWORD_ALGORITHMS, &PASSWORD_ALGORITHMS)
            .integrity(reply.integrity, key);
        if reply.fingerprint {
            writer.fingerprint();
        }
        let range = writer.range();
        push_answer(request.client, range, effects);
    }

    /// Whether something that may come from anybody gets an answer. On a stream nobody can pretend to be at another
    /// address, so that nothing is reflected. Who has an allocation has a budget of its own, which no flood from its prefix uses up.
    pub(super) fn may_answer_stranger(&self, client: FiveTuple, now: Now) -> bool {
        let limit = self.config.quotas.unauthenticated_per_prefix;
        match self.allocation_of(client) {
            _ if client.transport.is_stream() => true,
            Some(allocation) => self.may(budget::take(&allocation.unproven, limit, now.time)),
            None => self.may_answer_stranger_at(client.client.ip(), now),
        }
    }

    /// Whether somebody who has shown nothing yet gets an answer there, for which the budget of its prefix pays: also for what is
    /// answered before a message comes here, as by DTLS.
    pub fn may_answer_stranger_at(&self, client: IpAddr, now: Now) -> bool {
        let limit = self.config.quotas.unauthenticated_per_prefix;
        self.may(self.commons.budget.take(client, limit, now.time))
    }

    /// Counts what gets no answer.
    fn may(&self, may: bool) -> bool {
        if !may {
            self.drop_packet(crate::counters::DropReason::UnauthenticatedBudget);
        }
        may
    }
}

/// Answers a request that is authentic: with success, for which `write` adds attributes, or with an error.
pub(super) fn answer(
    client: FiveTuple,
    method: Method,
    reply: Reply,
    key: &Key,
    result: Result<&dyn Fn(&mut MessageWriter<'_>), u16>,
    effects: &mut Effects,
) {
    let class = match result {
        Ok(_) => Class::Success,
        Err(_) => Class::Error,
    };
    let id = reply.transaction_id;
    let mut writer = MessageWriter::new(&mut effects.scratch, class, method, id);
    match result {
        Ok(write) => write(&mut writer),
        Err(code) => {
            writer.error_code(code);
        }
    }
    if matches!(method, Method::Allocate | Method::Refresh) {
        writer.attribute(AttributeType::SOFTWARE, SOFTWARE);
    }
    writer.integrity(reply.integrity, key);
    if reply.fingerprint {
        writer.fingerprint();
    }
    let range = writer.range();
    push_answer(client, range, effects);
}

/// 420, RFC 8489 §6.3.1.
pub(super) fn refuse_unknown(
    request: &Request<'_>,
    authentic: Option<(Reply, &Key)>,
    effects: &mut Effects,
) {
    let id = request.message.transaction_id();
    let mut writer = MessageWriter::new(&mut effects.scratch, Class::Error, request.method, id);
    let mut unknown = [0; 16];
    let mut len = 0;
    for (place, attribute) in unknown
        .chunks_exact_mut(2)
        .zip(request.message.unknown_attributes())
    {
        place.copy_from_slice(&attribute.0.to_be_bytes());
        len += 2;
    }
    writer
        .error_code(420)
        .attribute(AttributeType::UNKNOWN_ATTRIBUTES, &unknown[..len]);
    if let Some((reply, key)) = authentic {
        writer.integrity(reply.integrity, key);
        if reply.fingerprint {
            writer.fingerprint();
        }
    }
    let range = writer.range();
    push_answer(request.client, range, effects);
}

/// Answers an authentic request with an error.
pub(super) fn fail(request: &Request<'_>, authentic: &Authentic, code: u16, effects: &mut Effects) {
    let Authentic { reply, key, .. } = authentic;
    answer(
        request.client,
        request.method,
        *reply,
        key,
        Err(code),
        effects,
    );
}

/// Answers an authentic request with success.
pub(super) fn succeed(
    request: &Request<'_>,
    reply: Reply,
    key: &Key,
    write: &dyn Fn(&mut MessageWriter<'_>),
    effects: &mut Effects,
) {
    answer(
        request.client,
        request.method,
        reply,
        key,
        Ok(write),
        effects,
    );
}

/// Whether an error tells how to authenticate.
#[derive(Clone, Copy)]
pub(super) enum Challenge {
    Yes,
    No,
}

/// An authentic request came of a client that has an allocation, or has it now.
pub(super) fn is_no_stranger(client: FiveTuple, effects: &mut Effects) {
    if client.transport != Transport::Udp {
        effects.list.push(Effect::Authenticated { client });
    }
}

pub(super) fn push_answer(client: FiveTuple, range: std::ops::Range<usize>, effects: &mut Effects) {
    effects.list.push(Effect::SendToClient {
        client,
        data: Data::Scratch(range),
        purpose: Purpose::Answer,
        traffic_class: 0,
    });
}

/// The attributes of an Allocate success response, RFC 8656 §7.2.
pub(super) fn write_allocated(allocation: &Allocation, writer: &mut MessageWriter<'_>) {
    for relay in allocation
        .relays
        .iter()
        .flatten()
        .filter(|relay| relay.open)
    {
        writer.xor_address(AttributeType::XOR_RELAYED_ADDRESS, relay.advertised);
    }
    let granted = &allocation.granted;
    let lifetime = u32::try_from(granted.lifetime.as_secs()).unwrap_or(u32::MAX);
    writer
        .number(AttributeType::LIFETIME, lifetime)
        .xor_address(AttributeType::XOR_MAPPED_ADDRESS, allocation.client.client);
    if let Some(token) = granted.reservation {
        writer.attribute(AttributeType::RESERVATION_TOKEN, &token.0);
    }
    if let Some((family, code)) = granted.address_error {
        // RFC 8656 §18.12: as ERROR-CODE, with the family in front
        let [class, number] = [code / 100, code % 100].map(|part| part.to_be_bytes()[1]);
        let value = [family.number(), 0, class, number];
        writer.attribute(AttributeType::ADDRESS_ERROR_CODE, &value);
    }
}
