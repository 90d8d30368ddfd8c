//! What the server knows of one allocation, RFC 8656 §6.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::{
    address::{ConnectionId, Family, FiveTuple, RelayId, Transport},
    counters::AllocationKind,
    effect::RelayKind,
    ports::ReservationToken,
    quota::{Admission, UserId},
    rate::Rate,
    stun::{
        TransactionId,
        channel_data::ChannelNumber,
        integrity::{IntegrityKind, Key},
    },
    time::Time,
};

/// Exactly this long, RFC 8656 §9.
pub(super) const PERMISSION_LIFETIME: Duration = Duration::from_mins(5);
/// RFC 8656 §12.
pub(super) const CHANNEL_LIFETIME: Duration = Duration::from_mins(10);

pub(super) struct Allocation {
    /// What logs call it.
    pub(super) number: u64,
    pub(super) slot: u32,
    pub(super) generation: u32,
    pub(super) client: FiveTuple,
    /// The hash of the whole username (RFC 8656 §5: later requests have to have the same).
    pub(super) username: UserId,
    pub(super) key: Key,
    pub(super) kind: RelayKind,
    /// By family; see [`Self::relay`].
    pub(super) relays: [Option<Relay>; 2],
    pub(super) permissions: Vec<Permission>,
    pub(super) channels: Vec<Channel>,
    pub(super) admission: Admission,
    /// What the answer to the Allocate request says, so that its retransmission is answered alike.
    pub(super) granted: Granted,
    /// While relay sockets are being opened.
    pub(super) pending: Option<Box<Pending>>,
    /// The entry in the server's timers.
    pub(super) timer: Time,
    /// Whether packets of other clients can come straight.
    pub(super) published: bool,
    /// What metrics count it as, once it is made.
    pub(super) counted: Option<AllocationKind>,
    /// RFC 6062; empty for datagrams.
    pub(super) connections: Vec<PeerConnection>,
    /// Answers to what came from the client without proof: a sender who pretends to be the client gets no more of them
    /// than one of a prefix, and takes none from others of the client's prefix.
    pub(super) unproven: Rate,
}

/// A relayed transport address.
#[derive(Clone, Copy)]
pub(super) struct Relay {
    pub(super) bind: IpAddr,
    /// As the client and its peers know it.
    pub(super) advertised: SocketAddr,
    pub(super) expires: Time,
    pub(super) open: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Permission {
    pub(super) peer: IpAddr,
    pub(super) expires: Time,
    /// Whether it is one of this relay's own addresses.
    pub(super) own: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Channel {
    pub(super) peer: SocketAddr,
    pub(super) expires: Time,
    /// The generation of the policy that permits the peer.
    pub(super) permitted_by: u32,
    pub(super) number: ChannelNumber,
    /// Whether the peer is at one of this relay's own addresses.
    pub(super) own: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Granted {
    pub(super) transaction_id: TransactionId,
    pub(super) lifetime: Duration,
    pub(super) reservation: Option<ReservationToken>,
    /// For the family of a dual allocation that could not be had.
    pub(super) address_error: Option<(Family, u16)>,
}

/// How a request has to be answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reply {
    pub(super) transaction_id: TransactionId,
    pub(super) integrity: IntegrityKind,
    pub(super) fingerprint: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) reply: Reply,
    pub(super) wish: super::allocate::PortWish,
    /// Ports that may still be tried.
    pub(super) attempts: u8,
}

/// A connection to a peer, RFC 6062 §5.
pub(super) struct PeerConnection {
    pub(super) id: ConnectionId,
    pub(super) peer: SocketAddr,
    pub(super) state: ConnectionState,
}

pub(super) enum ConnectionState {
    /// The Connect request is not answered yet. The key is that of the request: one algorithm made the allocation, and
    /// another one may have made this.
    Connecting(Reply, Key),
    /// Until when a ConnectionBind has to come.
    Waiting(Time),
    /// It came.
    Joined,
}

/// Shows no address.
impl std::fmt::Debug for Allocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Allocation {}", self.number)
    }
}

impl Allocation {
    pub(super) const fn relay_id(&self, family: Family) -> RelayId {
        RelayId {
            slot: self.slot,
            generation: self.generation,
            family,
        }
    }

    /// The relayed address of that family, if it is open and has not expired.
    pub(super) fn relay(&self, family: Family, now: Time) -> Option<&Relay> {
        self.relays[place(family)]
            .as_ref()
            .filter(|relay| relay.open && now < relay.expires)
    }

    pub(super) fn relay_mut(&mut self, family: Family) -> Option<&mut Relay> {
        self.relays[place(family)].as_mut()
    }

    pub(super) fn take_relay(&mut self, family: Family) -> Option<Relay> {
        self.relays[place(family)].take()
    }

    pub(super) fn families(&self) -> impl Iterator<Item = Family> + use<> {
        let has = [self.relays[0].is_some(), self.relays[1].is_some()];
        [Family::V4, Family::V6]
            .into_iter()
            .filter(move |family| has[place(*family)])
    }

    /// Whether it can be used at all.
    pub(super) fn is_alive(&self, now: Time) -> bool {
        self.relays
            .iter()
            .flatten()
            .any(|relay| now < relay.expires)
    }

    /// When something has to be looked at.
    pub(super) fn next_timeout(&self) -> Option<Time> {
        let relays = self.relays.iter().flatten().map(|relay| relay.expires);
        let connections = self
            .connections
            .iter()
            .filter_map(|connection| match connection.state {
                ConnectionState::Waiting(until) => Some(until),
                ConnectionState::Connecting(..) | ConnectionState::Joined => None,
            });
        relays.chain(connections).min()
    }

    pub(super) fn permission(&self, peer: IpAddr, now: Time) -> Option<&Permission> {
        self.permissions
            .iter()
            .find(|permission| permission.peer == peer && now < permission.expires)
    }

    pub(super) fn channel_by_number(
        &mut self,
        number: ChannelNumber,
        now: Time,
    ) -> Option<&mut Channel> {
        self.channels
            .iter_mut()
            .find(|channel| channel.number == number && now < channel.expires)
    }

    pub(super) fn channel_by_peer(&mut self, peer: SocketAddr, now: Time) -> Option<&mut Channel> {
        self.channels
            .iter_mut()
            .find(|channel| channel.peer == peer && now < channel.expires)
    }

    /// Forgets permissions and channels whose time is over.
    pub(super) fn purge(&mut self, now: Time) {
        self.permissions
            .retain(|permission| now < permission.expires);
        self.channels.retain(|channel| now < channel.expires);
    }

    /// Installs or refreshes a permission.
    pub(super) fn permit(&mut self, peer: IpAddr, own: bool, now: Time) {
        let expires = now + PERMISSION_LIFETIME;
        let known = self
            .permissions
            .iter_mut()
            .find(|permission| permission.peer == peer);
        if let Some(permission) = known {
            permission.expires = expires;
        } else {
            reserve_few(&mut self.permissions);
            self.permissions.push(Permission { peer, expires, own });
        }
    }

    /// Binds or refreshes a channel.
    pub(super) fn bind(&mut self, channel: Channel) {
        let known = self
            .channels
            .iter_mut()
            .find(|bound| bound.number == channel.number);
        if let Some(bound) = known {
            *bound = channel;
        } else {
            reserve_few(&mut self.channels);
            self.channels.push(channel);
        }
    }

    /// What metrics count it as.
    pub(super) fn kind_for_metrics(&self) -> AllocationKind {
        use AllocationKind as Kind;
        let has = |family| self.relays[place(family)].is_some();
        match (self.client.transport, has(Family::V4), has(Family::V6)) {
            (Transport::Udp, true, true) => Kind::UdpDual,
            (Transport::Udp, _, false) => Kind::UdpV4,
            (Transport::Udp, false, true) => Kind::UdpV6,
            (Transport::Tcp, true, true) => Kind::TcpDual,
            (Transport::Tcp, _, false) => Kind::TcpV4,
            (Transport::Tcp, false, true) => Kind::TcpV6,
            (Transport::Tls, true, true) => Kind::TlsDual,
            (Transport::Tls, _, false) => Kind::TlsV4,
            (Transport::Tls, false, true) => Kind::TlsV6,
            (Transport::Dtls, true, true) => Kind::DtlsDual,
            (Transport::Dtls, _, false) => Kind::DtlsV4,
            (Transport::Dtls, false, true) => Kind::DtlsV6,
        }
    }
}

/// Most allocations have one or two permissions and channels: a list begins with space for one, and doubles.
fn reserve_few<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact(list.len().max(1));
    }
}

pub(super) const fn place(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}
