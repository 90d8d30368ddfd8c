//! Who a packet comes from and where it goes.

use std::net::SocketAddr;

pub use crate::stun::attribute::Family;

/// How a client reaches the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream in clear.
    Tcp,
    /// A stream, encrypted.
    Tls,
    /// Datagrams, encrypted.
    Dtls,
}

impl Transport {
    /// Whether messages follow each other on a stream, so that ChannelData is padded (RFC 8656 §12.5).
    #[must_use]
    pub const fn is_stream(self) -> bool {
        match self {
            Self::Tcp | Self::Tls => true,
            Self::Udp | Self::Dtls => false,
        }
    }

    /// As metrics name it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Dtls => "dtls",
        }
    }
}

/// The relay's end of a 5-tuple, numbered by whoever does input and output.
///
/// For datagrams it stands for one local transport address; the number is the same on all threads. For streams (and DTLS) it is
/// one connection, and no two connections of a process ever have the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link(pub u64);

/// Client's address, server's address and transport (RFC 8656 §2): what an allocation belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    /// The client's transport address as the relay sees it. IPv4 addresses are IPv4 here, also if the socket is an
    /// IPv6 one.
    pub client: SocketAddr,
    /// The relay's end.
    pub link: Link,
    /// How packets travel.
    pub transport: Transport,
}

/// Shows no address.
impl std::fmt::Debug for FiveTuple {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} client on {:?}", self.transport, self.link)
    }
}

/// One relayed transport address of one allocation. Never used twice in the life of a [`Server`](crate::Server).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelayId {
    /// The place of the allocation among the server's: small, dense, and used again after the allocation ended.
    pub slot: u32,
    /// Which of the allocations that had this place.
    pub generation: u32,
    /// An allocation has one or two relayed addresses, of one family each.
    pub family: Family,
}

/// A connection between a relayed address and a peer, RFC 6062 §5. The value of CONNECTION-ID: drawn at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u32);
