//! What a server counts: numbers by closed enums, about nobody.
//!
//! One thread writes a [`Counters`], with plain loads and stores; others read it at any time and add up.

use std::{
    marker::PhantomData,
    sync::atomic::{AtomicU64, Ordering},
};

/// A closed enum that metrics are labelled with.
pub trait Label: Copy + 'static {
    /// All values, in the order of [`Self::index`].
    const ALL: &'static [Self];
    /// The place in [`Self::ALL`].
    fn index(self) -> usize;
    /// The label's value.
    fn label(self) -> &'static str;
}

/// One counter for each value of a label.
#[derive(Debug)]
pub struct Family<L>(Box<[AtomicU64]>, PhantomData<L>);

impl<L: Label> Default for Family<L> {
    fn default() -> Self {
        Self(
            L::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            PhantomData,
        )
    }
}

impl<L: Label> Family<L> {
    /// Adds `count`. For the one thread that writes.
    pub fn add(&self, label: L, count: u64) {
        if let Some(cell) = self.0.get(label.index()) {
            cell.store(
                cell.load(Ordering::Relaxed).wrapping_add(count),
                Ordering::Relaxed,
            );
        }
    }

    /// The count.
    #[must_use]
    pub fn get(&self, label: L) -> u64 {
        self.0
            .get(label.index())
            .map_or(0, |cell| cell.load(Ordering::Relaxed))
    }
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $label:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$value_doc])* $value,)*
        }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$value),*];

            fn index(self) -> usize {
                self as usize
            }

            fn label(self) -> &'static str {
                match self {
                    $(Self::$value => $label,)*
                }
            }
        }
    )*};
}

labels! {
    /// Which way relayed data went.
    Direction {
        /// From a client to a peer.
        ClientToPeer = "client_to_peer",
        /// From a peer to a client.
        PeerToClient = "peer_to_client",
        /// From a client to another client of this relay, straight across.
        ClientToClient = "client_to_client",
    }
    /// Why a packet went no further.
    DropReason {
        /// Neither STUN nor ChannelData, or malformed.
        Malformed = "malformed",
        /// An indication that lacks an attribute or has an unknown one.
        BadIndication = "bad_indication",
        /// From a 5-tuple without an allocation.
        NoAllocation = "no_allocation",
        /// A channel that is not bound.
        NoChannel = "no_channel",
        /// No permission for the peer.
        NoPermission = "no_permission",
        /// A peer that the policy denies.
        Policy = "policy",
        /// One of the relay's own addresses, with a port that no allocation has.
        NoSuchRelay = "no_such_relay",
        /// The user's bandwidth is used up.
        Bandwidth = "bandwidth",
        /// Too long for the message that would carry it.
        TooLong = "too_long",
        /// No family in common: an allocation without a relayed address of the peer's family.
        Family = "family",
        /// An unauthenticated request beyond what its source prefix is answered.
        UnauthenticatedBudget = "unauthenticated_budget",
        /// The client's connection or another thread's mailbox does not take more.
        QueueFull = "queue_full",
        /// The system did not send it.
        SendFailed = "send_failed",
    }
    /// Why a request was not authentic.
    AuthFailure {
        /// Without credentials: how every client begins, no sign of an attack.
        Challenged = "challenged",
        /// An attribute is missing or contradicts another.
        Malformed = "malformed",
        /// The username is not one that REST credentials have.
        BadUsername = "bad_username",
        /// The username's time is over.
        Expired = "expired",
        /// No secret makes the password.
        BadPassword = "bad_password",
        /// The nonce is not ours for that client, or too old: how every client goes on after an hour.
        StaleNonce = "stale_nonce",
        /// An authentic request for somebody else's allocation.
        OtherUser = "other_user",
    }
    /// At what a peer was denied by the policy.
    Denial {
        /// CreatePermission.
        CreatePermission = "create_permission",
        /// ChannelBind.
        ChannelBind = "channel_bind",
        /// A Send indication or ChannelData, when it was sent.
        Send = "send",
        /// Connect, RFC 6062.
        Connect = "connect",
    }
    /// What was used up.
    QuotaHit {
        /// Allocations of one user.
        UserAllocations = "user_allocations",
        /// Allocations in total.
        TotalAllocations = "total_allocations",
        /// Permissions of one allocation.
        Permissions = "permissions",
        /// Channels of one allocation.
        Channels = "channels",
        /// Ports of a relay address.
        Ports = "ports",
        /// Connections of one prefix that have not authenticated.
        ConnectionsOfPrefix = "connections_of_prefix",
        /// TLS handshakes a second of one prefix.
        HandshakesOfPrefix = "handshakes_of_prefix",
        /// Connections of one allocation, RFC 6062.
        PeerConnections = "peer_connections",
        /// Requests on a connection that has no allocation.
        UnprovenRequests = "unproven_requests",
    }
    /// An allocation's transport to the client and family of its first relayed address.
    AllocationKind {
        /// UDP, IPv4.
        UdpV4 = "udp/ipv4",
        /// UDP, IPv6.
        UdpV6 = "udp/ipv6",
        /// UDP, both.
        UdpDual = "udp/dual",
        /// TCP, IPv4.
        TcpV4 = "tcp/ipv4",
        /// TCP, IPv6.
        TcpV6 = "tcp/ipv6",
        /// TCP, both.
        TcpDual = "tcp/dual",
        /// TLS, IPv4.
        TlsV4 = "tls/ipv4",
        /// TLS, IPv6.
        TlsV6 = "tls/ipv6",
        /// TLS, both.
        TlsDual = "tls/dual",
        /// DTLS, IPv4.
        DtlsV4 = "dtls/ipv4",
        /// DTLS, IPv6.
        DtlsV6 = "dtls/ipv6",
        /// DTLS, both.
        DtlsDual = "dtls/dual",
    }
    /// Why a socket for a relayed address could not be bound, other than that something else has the port.
    BindFailure {
        /// The address is not this host's, or not any more.
        AddressGone = "address_gone",
        /// There are no open files left.
        OpenFiles = "open_files",
        /// The system has no memory for it.
        Memory = "memory",
        /// The system forbids it.
        Denied = "denied",
        /// Anything else.
        Other = "other",
    }
    /// How a TLS or DTLS handshake ended.
    Handshake {
        /// Done.
        Completed = "completed",
        /// The client broke it off or spoke something else.
        Failed = "failed",
        /// Not done within the deadline.
        TimedOut = "timed_out",
    }
    /// What came of a connection that speaks HTTP.
    Handover {
        /// The HTTPS backend took it.
        Done = "done",
        /// The HTTPS backend cannot be reached.
        Failed = "failed",
        /// There are too many.
        Refused = "refused",
    }
}

/// Everything that one thread counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// Relayed packets.
    pub packets: Family<Direction>,
    /// Relayed bytes: payload, without any header.
    pub bytes: Family<Direction>,
    /// Packets that went no further.
    pub drops: Family<DropReason>,
    /// Requests that were not authentic.
    pub auth_failures: Family<AuthFailure>,
    /// Peers that were denied.
    pub denials: Family<Denial>,
    /// Requests that a quota refused.
    pub quota_hits: Family<QuotaHit>,
    /// Allocations that were made.
    pub allocations_made: Family<AllocationKind>,
    /// Allocations that ended.
    pub allocations_ended: Family<AllocationKind>,
    /// Binding requests that were answered.
    pub bindings: Single,
    /// Sockets for relayed addresses that could not be bound; counted by whoever does input and output.
    pub bind_failures: Family<BindFailure>,
    /// TLS handshakes; counted by whoever does input and output.
    pub handshakes: Family<Handshake>,
    /// Connections for the HTTPS backend; counted by whoever does input and output.
    pub handovers: Family<Handover>,
    /// DTLS handshakes, as [`Self::handshakes`].
    pub dtls_handshakes: Family<Handshake>,
}

/// A counter without a label.
#[derive(Debug, Default)]
pub struct Single(AtomicU64);

impl Single {
    /// Adds `count`. For the one thread that writes.
    pub fn add(&self, count: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(count),
            Ordering::Relaxed,
        );
    }

    /// The count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
