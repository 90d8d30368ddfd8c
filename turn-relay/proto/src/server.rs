//! The relay of one thread.
//!
//! This file has what packets go through when everything is set up; what sets it up is in the modules below.

mod allocate;
mod allocation;
mod authenticate;
mod departed;
mod reply;
mod requests;
mod slots;
mod tcp;
mod timers;

use std::{
    cell::Cell,
    hash::{DefaultHasher, Hasher as _},
    net::SocketAddr,
    ops::Range,
    sync::Arc,
};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

pub use self::tcp::Payer;
use self::{
    allocation::{Allocation, Channel},
    departed::Departed,
    reply::Request,
    slots::Slots,
    timers::Timers,
};
use crate::{
    address::{Family, FiveTuple, RelayId},
    commons::{Commons, Random},
    config::Config,
    counters::{Counters, Denial, Direction, DropReason},
    effect::{Data, Effect, Effects, Purpose, RelayKind},
    packet::{HEADROOM, Packet},
    policy::{PeerPolicy, unmapped},
    ports::Crossing,
    quota::{Account, Way},
    stun::{
        AttributeType, Class, HEADER_LEN, Kind, Message, MessageWriter, Method, TransactionId,
        channel_data::{self, CHANNEL_DATA_HEADER_LEN, ChannelNumber},
    },
    time::{Now, Time},
};

/// All allocations of one thread's clients.
///
/// Whoever owns one gives it every packet, in the order in which they came, and after each call carries out the
/// [`Effects`] in their order and [clears](Effects::clear) them. It calls [`Self::handle_timeout`] when
/// [`Self::next_timeout`] has come: later is allowed, nothing is relayed for what has expired, but ports and
/// memory stay taken until then.
#[derive(Debug)]
pub struct Server<R> {
    config: Arc<Config>,
    commons: Arc<Commons>,
    counters: Arc<Counters>,
    random: R,
    allocations: Slots,
    slot_by_client: HashMap<FiveTuple, u32, RandomState>,
    timers: Timers,
    departed: Departed,
    /// Rises with each reload, so that channels ask the new policy once.
    policy_generation: u32,
    draining: bool,
    indications: Indications,
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

/// The most that a UDP datagram carries, over IPv4 (65,535 less 20 and 8 bytes of header).
const MAX_DATAGRAM: usize = 65_507;

impl<R: Random> Server<R> {
    /// A server without allocations.
    pub fn new(
        config: Arc<Config>,
        commons: Arc<Commons>,
        counters: Arc<Counters>,
        mut random: R,
    ) -> Self {
        let indications = Indications::new(&mut random);
        Self {
            config,
            commons,
            counters,
            random,
            allocations: Slots::default(),
            slot_by_client: HashMap::default(),
            timers: Timers::default(),
            departed: Departed::default(),
            policy_generation: 0,
            draining: false,
            indications,
        }
    }

    /// Takes a datagram, or one message of a stream (see [`frame`](crate::stun::channel_data::frame); without
    /// padding), that came from a client.
    ///
    /// `traffic_class` is the one of its IP header, 0 if unknown or on a stream.
    pub fn client_packet(
        &mut self,
        client: FiveTuple,
        mut packet: Packet<'_>,
        traffic_class: u8,
        now: Now,
        effects: &mut Effects,
    ) {
        match Kind::of(packet.bytes()) {
            Kind::ChannelData => {
                self.channel_data(client, &mut packet, traffic_class, now.time, effects);
            }
            Kind::Stun => self.stun(client, &mut packet, traffic_class, now, effects),
            Kind::Dtls | Kind::Unknown => self.drop_packet(DropReason::Malformed),
        }
    }

    /// RFC 8656 §12.6.
    fn channel_data(
        &mut self,
        client: FiveTuple,
        packet: &mut Packet<'_>,
        traffic_class: u8,
        now: Time,
        effects: &mut Effects,
    ) {
        let bytes = packet.bytes();
        let Some((number, len)) = channel_data::read_header(bytes)
            .filter(|(_, len)| *len <= bytes.len() - CHANNEL_DATA_HEADER_LEN)
        else {
            return self.drop_packet(DropReason::Malformed);
        };
        let data = packet.range().start + CHANNEL_DATA_HEADER_LEN;
        let data = data..data + len;
        let Some(slot) = self.slot_by_client.get(&client).copied() else {
            return self.drop_packet(DropReason::NoAllocation);
        };
        let Some(allocation) = self.allocations.get_mut(slot) else {
            return self.drop_packet(DropReason::NoAllocation);
        };
        let Some(channel) = allocation.channel_by_number(number, now) else {
            return drop_packet(&self.counters, DropReason::NoChannel);
        };
        let generation = self.policy_generation;
        if !is_still_permitted(channel, &self.config.policy, generation) {
            self.counters.denials.add(Denial::Send, 1);
            return drop_packet(&self.counters, DropReason::Policy);
        }
        let (peer, own) = (channel.peer, channel.own);
        if allocation.permission(peer.ip(), now).is_none() {
            return drop_packet(&self.counters, DropReason::NoPermission);
        }
        let send = Send {
            peer,
            own,
            data,
            dont_fragment: false,
            traffic_class,
        };
        self.send(slot, send, packet, now, effects);
    }

    fn stun(
        &mut self,
        client: FiveTuple,
        packet: &mut Packet<'_>,
        traffic_class: u8,
        now: Now,
        effects: &mut Effects,
    ) {
        let Ok(message) = Message::parse(packet.bytes()) else {
            return self.drop_packet(DropReason::Malformed);
        };
        match (message.class(), message.method()) {
            (Class::Indication, Method::Send) => {
                let send = self.send_indication(client, &message, traffic_class, now.time);
                let start = packet.range().start;
                match send {
                    Ok((slot, mut send)) => {
                        send.data = send.data.start + start..send.data.end + start;
                        self.send(slot, send, packet, now.time, effects);
                    }
                    Err(reason) => self.drop_packet(reason),
                }
            }
            // RFC 8489 §3: a keepalive
            (Class::Indication, Method::Binding) => {}
            (Class::Indication, _) => self.drop_packet(DropReason::BadIndication),
            // RFC 8489 §6.3: nothing was asked of this client; and methods that are not known are not answered
            (Class::Success | Class::Error, _)
            | (
                Class::Request,
                Method::Send | Method::Data | Method::ConnectionAttempt | Method::Other(_),
            ) => self.drop_packet(DropReason::Malformed),
            (Class::Request, _) if !PeerPolicy::permits_client(client.client) => {
                self.drop_packet(DropReason::Policy);
            }
            (Class::Request, method) => {
                let request = Request {
                    client,
                    method,
                    message: &message,
                };
                self.request(&request, now, effects);
            }
        }
    }

    /// RFC 8656 §11.2. The range of the result is within the message.
    fn send_indication(
        &mut self,
        client: FiveTuple,
        message: &Message<'_>,
        traffic_class: u8,
        now: Time,
    ) -> Result<(u32, Send), DropReason> {
        let slot = self
            .slot_by_client
            .get(&client)
            .copied()
            .ok_or(DropReason::NoAllocation)?;
        let allocation = self.allocations.get(slot).ok_or(DropReason::NoAllocation)?;
        let peer = message
            .xor_address(AttributeType::XOR_PEER_ADDRESS)
            .ok_or(DropReason::BadIndication)?;
        let data = message
            .value_range(AttributeType::DATA)
            .ok_or(DropReason::BadIndication)?;
        if !message.unknown_attributes().is_empty() {
            return Err(DropReason::BadIndication);
        }
        let peer = unmapped(peer);
        let own = allocation
            .permission(peer.ip(), now)
            .ok_or(DropReason::NoPermission)?
            .own;
        if !own && !self.config.policy.permits(peer) {
            self.counters.denials.add(Denial::Send, 1);
            return Err(DropReason::Policy);
        }
        Ok((
            slot,
            Send {
                peer,
                own,
                data,
                dont_fragment: message.has(AttributeType::DONT_FRAGMENT),
                traffic_class,
            },
        ))
    }

    /// Sends what permission and policy let through: from the relay socket, or straight to another client.
    fn send(
        &mut self,
        slot: u32,
        send: Send,
        packet: &mut Packet<'_>,
        now: Time,
        effects: &mut Effects,
    ) {
        let Some(allocation) = self.allocations.get(slot) else {
            return self.drop_packet(DropReason::NoAllocation);
        };
        let family = Family::of(send.peer.ip());
        let relay = match allocation.relay(family, now) {
            Some(relay) if allocation.kind == RelayKind::Udp => relay,
            Some(_) | None if allocation.is_alive(now) => {
                return self.drop_packet(DropReason::Family);
            }
            Some(_) | None => return self.drop_packet(DropReason::NoAllocation),
        };
        let size = send.data.len() + headers(family);
        if !self.has_bandwidth(allocation.admission.account(), Way::Up, size, now) {
            return self.drop_packet(DropReason::Bandwidth);
        }
        let relay_id = allocation.relay_id(family);
        if send.own {
            let from = relay.advertised;
            let crossing = self.commons.ports.crossing(send.peer);
            if let Some(crossing) = crossing.as_ref().and_then(|guard| guard.as_ref()) {
                return self.cross(from, crossing, &send, packet, now, effects);
            }
            if !self.config.policy.names(send.peer) {
                return self.drop_packet(DropReason::NoSuchRelay);
            }
        }
        let client = allocation.client;
        // RFC 8656 §13: DONT-FRAGMENT counts between datagrams of IPv4, and from streams
        let is_translated = client.client.is_ipv6() || send.peer.is_ipv6();
        let dont_fragment = send.dont_fragment && (client.transport.is_stream() || !is_translated);
        let traffic_class = copied(send.traffic_class, client);
        let len = send.data.len() as u64;
        effects.list.push(Effect::SendToPeer {
            relay: relay_id,
            peer: send.peer,
            data: Data::Packet(send.data),
            dont_fragment,
            traffic_class,
        });
        self.counters.packets.add(Direction::ClientToPeer, 1);
        self.counters.bytes.add(Direction::ClientToPeer, len);
    }

    /// Sends to the client behind another relayed transport address of this relay, as if the packet had gone out of
    /// the one at `from` and come in there.
    fn cross(
        &self,
        from: SocketAddr,
        crossing: &Crossing,
        send: &Send,
        packet: &mut Packet<'_>,
        now: Time,
        effects: &mut Effects,
    ) {
        if crossing.expires <= now {
            return drop_packet(&self.counters, DropReason::NoSuchRelay);
        }
        let permitted = crossing
            .permissions
            .iter()
            .any(|(address, expires)| *address == from.ip() && now < *expires);
        if !permitted {
            return drop_packet(&self.counters, DropReason::NoPermission);
        }
        let size = send.data.len() + headers(Family::of(from.ip()));
        if !self.has_bandwidth(&crossing.account, Way::Down, size, now) {
            return drop_packet(&self.counters, DropReason::Bandwidth);
        }
        let channel = crossing
            .channels
            .iter()
            .find(|(peer, _, expires)| *peer == from && now < *expires)
            .map(|(_, number, _)| *number);
        let client = crossing.client;
        let traffic_class = copied(send.traffic_class, client);
        let carrier = Carrier {
            client,
            channel,
            peer: from,
            traffic_class,
        };
        let ids = &self.indications;
        let result = carry(&carrier, packet, send.data.clone(), ids, effects);
        self.count_carried(result, Direction::ClientToClient, send.data.len());
    }

    /// Takes a datagram that came to a relayed transport address. One for a `relay` that was closed is ignored.
    ///
    /// RFC 8656 §11.3, §12.7.
    pub fn peer_packet(
        &mut self,
        relay: RelayId,
        peer: SocketAddr,
        mut packet: Packet<'_>,
        traffic_class: u8,
        now: Now,
        effects: &mut Effects,
    ) {
        let now = now.time;
        let peer = unmapped(peer);
        let Some(allocation) = self
            .allocations
            .get_same_mut(relay.slot, relay.generation)
            .filter(|allocation| allocation.relay(relay.family, now).is_some())
        else {
            return self.drop_packet(DropReason::NoAllocation);
        };
        let policy = &self.config.policy;
        // What other clients send comes across, not from sockets: whatever else has one of the relay's own addresses
        // is a peer only by name.
        match allocation.permission(peer.ip(), now) {
            Some(permission) if !permission.own || policy.names(peer) => {}
            Some(_) | None => return drop_packet(&self.counters, DropReason::NoPermission),
        }
        let generation = self.policy_generation;
        let (permitted, channel) = match allocation.channel_by_peer(peer, now) {
            Some(channel) => (
                is_still_permitted(channel, policy, generation),
                Some(channel.number),
            ),
            None => (policy.permits(peer), None),
        };
        if !permitted {
            return drop_packet(&self.counters, DropReason::Policy);
        }
        let data = packet.range();
        let carrier = Carrier {
            client: allocation.client,
            channel,
            peer,
            traffic_class: copied(traffic_class, allocation.client),
        };
        let len = data.len();
        let account = allocation.admission.account();
        let has_bandwidth = match self.config.quotas.bandwidth_per_user {
            Some(bandwidth) => account.take(Way::Down, len + headers(relay.family), bandwidth, now),
            None => true,
        };
        if !has_bandwidth {
            return drop_packet(&self.counters, DropReason::Bandwidth);
        }
        let result = carry(&carrier, &mut packet, data, &self.indications, effects);
        self.count_carried(result, Direction::PeerToClient, len);
    }

    /// Takes an ICMP error, RFC 8656 §11.5. Of no more kinds than are told there.
    pub fn peer_unreachable(
        &mut self,
        relay: RelayId,
        error: IcmpError,
        now: Now,
        effects: &mut Effects,
    ) {
        let peer = unmapped(error.peer);
        let is_told = match Family::of(peer.ip()) {
            // destination unreachable, time exceeded
            Family::V4 => matches!(error.kind, 3 | 11),
            // destination unreachable, packet too big, time exceeded
            Family::V6 => matches!(error.kind, 1..=3),
        };
        let has_mtu = match Family::of(peer.ip()) {
            Family::V4 => error.kind == 3 && error.code == 4,
            Family::V6 => error.kind == 2,
        };
        let permitted = |allocation: &&mut Allocation| {
            allocation
                .permission(peer.ip(), now.time)
                .is_some_and(|permission| permission.own || self.config.policy.permits(peer))
        };
        let Some(allocation) = self
            .allocations
            .get_same_mut(relay.slot, relay.generation)
            .filter(|allocation| allocation.relay(relay.family, now.time).is_some())
            .filter(permitted)
            .filter(|_| is_told)
        else {
            return;
        };
        let client = allocation.client;
        let data = if has_mtu { error.data } else { 0 };
        let [d0, d1, d2, d3] = data.to_be_bytes();
        let value = [0, 0, error.kind, error.code, d0, d1, d2, d3];
        let id = self.indications.next();
        let mut writer =
            MessageWriter::new(&mut effects.scratch, Class::Indication, Method::Data, id);
        writer
            .xor_address(AttributeType::XOR_PEER_ADDRESS, peer)
            .attribute(AttributeType::ICMP, &value);
        let range = writer.range();
        effects.list.push(Effect::SendToClient {
            client,
            data: Data::Scratch(range),
            purpose: Purpose::Relayed,
            traffic_class: 0,
        });
    }

    /// Takes new settings. Allocations stay; what the new policy denies is not relayed any more, and connections with peers that it denies are closed.
    pub fn reconfigure(&mut self, config: Arc<Config>, effects: &mut Effects) {
        self.config = config;
        self.policy_generation = self.policy_generation.wrapping_add(1);
        self.close_denied(effects);
    }

    /// From now on no allocation is made (508); those that there are live on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Allocations that there are now.
    #[must_use]
    pub fn allocations(&self) -> usize {
        self.slot_by_client.len()
    }

    fn has_bandwidth(&self, account: &Account, way: Way, len: usize, now: Time) -> bool {
        match self.config.quotas.bandwidth_per_user {
            Some(bandwidth) => account.take(way, len, bandwidth, now),
            None => true,
        }
    }

    fn count_carried(&self, result: Result<(), DropReason>, direction: Direction, len: usize) {
        match result {
            Ok(()) => {
                self.counters.packets.add(direction, 1);
                self.counters.bytes.add(direction, len as u64);
            }
            Err(reason) => self.drop_packet(reason),
        }
    }

    fn drop_packet(&self, reason: DropReason) {
        drop_packet(&self.counters, reason);
    }
}

/// What a packet takes of a bandwidth besides its payload, so that empty ones are not free: the headers of UDP and IP.
const fn headers(family: Family) -> usize {
    match family {
        Family::V4 => 28,
        Family::V6 => 48,
    }
}

/// Transaction IDs of indications: they need not be unguessable (nobody answers them), but different, and they must not
/// tell a client how many indications others get.
#[derive(Debug)]
struct Indications {
    /// What has read a key, and is to read a number.
    hasher: DefaultHasher,
    count: Cell<u64>,
}

impl Indications {
    fn new(random: &mut impl Random) -> Self {
        let mut key = [0; 16];
        random.fill(&mut key);
        let mut hasher = DefaultHasher::new();
        hasher.write(&key);
        Self {
            hasher,
            count: Cell::new(0),
        }
    }

    fn next(&self) -> TransactionId {
        let number = self.count.get().wrapping_add(1);
        self.count.set(number);
        let mut hasher = self.hasher.clone();
        hasher.write_u64(number);
        let mut id = [0; 12];
        // so many bits are different often enough
        id[4..].copy_from_slice(&hasher.finish().to_ne_bytes());
        TransactionId(id)
    }
}

/// What a client wants sent.
struct Send {
    peer: SocketAddr,
    /// Whether the peer is at one of this relay's own addresses.
    own: bool,
    /// Where the payload is.
    data: Range<usize>,
    dont_fragment: bool,
    traffic_class: u8,
}

/// How data gets to a client.
struct Carrier {
    client: FiveTuple,
    channel: Option<ChannelNumber>,
    peer: SocketAddr,
    traffic_class: u8,
}

/// Makes a ChannelData message (RFC 8656 §12.7) or a Data indication (§11.3) of the `data` in a packet, in place if
/// there is space.
fn carry(
    carrier: &Carrier,
    packet: &mut Packet<'_>,
    data: Range<usize>,
    indications: &Indications,
    effects: &mut Effects,
) -> Result<(), DropReason> {
    let is_stream = carrier.client.transport.is_stream();
    let padding = channel_data::padded(data.len()) - data.len();
    let mut header = [0; HEADROOM];
    let (header_len, padding) = if let Some(number) = carrier.channel {
        let len = u16::try_from(data.len()).map_err(|_| DropReason::TooLong)?;
        header[..CHANNEL_DATA_HEADER_LEN].copy_from_slice(&channel_data::header(number, len));
        // RFC 8656 §12.5: on datagrams there need not be any
        (CHANNEL_DATA_HEADER_LEN, if is_stream { padding } else { 0 })
    } else {
        let id = indications.next();
        let len = data_indication(carrier.peer, data.len(), id, &mut header)?;
        (len, padding)
    };
    if !is_stream && header_len + data.len() + padding > MAX_DATAGRAM {
        return Err(DropReason::TooLong);
    }
    let header = &header[..header_len];
    let data = if let Some(range) = packet.enclose(header, data.clone(), padding) {
        Data::Packet(range)
    } else {
        let start = effects.scratch.len();
        effects.scratch.extend_from_slice(header);
        effects.scratch.extend_from_slice(&packet.buffer()[data]);
        effects.scratch.extend_from_slice(&[0; 3][..padding]);
        Data::Scratch(start..effects.scratch.len())
    };
    effects.list.push(Effect::SendToClient {
        client: carrier.client,
        data,
        purpose: Purpose::Relayed,
        traffic_class: carrier.traffic_class,
    });
    Ok(())
}

/// Writes everything of a Data indication that is before its data; how many bytes that is.
fn data_indication(
    peer: SocketAddr,
    data_len: usize,
    id: TransactionId,
    header: &mut [u8; HEADROOM],
) -> Result<usize, DropReason> {
    use crate::stun::{MAGIC_COOKIE, attribute::write_xor_address};

    let mut address = [0; 20];
    let address_len = write_xor_address(peer, id, &mut address);
    let header_len = HEADER_LEN + 4 + address_len + 4;
    let length = header_len - HEADER_LEN + channel_data::padded(data_len);
    let [length, data_len, address_len_16] = [length, data_len, address_len].map(u16::try_from);
    let (Ok(length), Ok(data_len), Ok(address_len_16)) = (length, data_len, address_len_16) else {
        return Err(DropReason::TooLong);
    };
    // Data indication: method 0x007 of class 0b01
    header[..2].copy_from_slice(&0x0017_u16.to_be_bytes());
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    header[8..20].copy_from_slice(&id.0);
    header[20..22].copy_from_slice(&AttributeType::XOR_PEER_ADDRESS.0.to_be_bytes());
    header[22..24].copy_from_slice(&address_len_16.to_be_bytes());
    header[24..24 + address_len].copy_from_slice(&address[..address_len]);
    let data_header = &mut header[24 + address_len..header_len];
    data_header[..2].copy_from_slice(&AttributeType::DATA.0.to_be_bytes());
    data_header[2..].copy_from_slice(&data_len.to_be_bytes());
    Ok(header_len)
}

/// Asks the policy again once after each reload.
fn is_still_permitted(channel: &mut Channel, policy: &PeerPolicy, generation: u32) -> bool {
    if channel.own || channel.permitted_by == generation {
        return true;
    }
    let permitted = policy.permits(channel.peer);
    if permitted {
        channel.permitted_by = generation;
    }
    permitted
}

/// What is copied of a traffic class between a client's packets and a peer's, RFC 8656 §14 to §16: nothing where the
/// client has a stream, whose IP packets are not messages.
const fn copied(traffic_class: u8, client: FiveTuple) -> u8 {
    if client.transport.is_stream() {
        0
    } else {
        traffic_class
    }
}

fn drop_packet(counters: &Counters, reason: DropReason) {
    counters.drops.add(reason, 1);
}
