//! What a [`Server`](crate::Server) wants done.

use std::{net::SocketAddr, ops::Range};

use crate::address::{ConnectionId, FiveTuple, RelayId};

/// Where the bytes of an effect are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// In the buffer of the packet that was given to the server just now.
    Packet(Range<usize>),
    /// In [`Effects::scratch`].
    Scratch(Range<usize>),
}

/// One thing to be done by whoever does input and output. Effects are carried out in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send one message to a client: a datagram, or bytes on its stream.
    ///
    /// With a client of another thread, which happens only for [`Purpose::Relayed`]: datagrams are sent from a socket of this thread's with the
    /// same local address, bytes of a stream are handed to the thread that has the connection.
    SendToClient {
        /// The client.
        client: FiveTuple,
        /// The message, padded where the transport wants it.
        data: Data,
        /// What may be done with it when the client does not keep up.
        purpose: Purpose,
        /// DSCP and ECN of the IP header, RFC 8656 §14 to §16. 0 unless something else is to be copied.
        traffic_class: u8,
    },
    /// Send one datagram from a relayed transport address to a peer, to whom the policy allows it.
    SendToPeer {
        /// The socket.
        relay: RelayId,
        /// The peer.
        peer: SocketAddr,
        /// The payload, possibly empty.
        data: Data,
        /// Whether the DF bit has to be set (RFC 8656 §14); otherwise the system may fragment.
        dont_fragment: bool,
        /// As above.
        traffic_class: u8,
    },
    /// Bind a UDP socket to `address` and receive what comes to it. The answer is
    /// [`Server::relay_opened`](crate::Server::relay_opened) or
    /// [`Server::relay_failed`](crate::Server::relay_failed), before anything else is given to the server.
    OpenRelay {
        /// How the socket is named from now on.
        relay: RelayId,
        /// A configured relay address and a port that no other allocation has.
        address: SocketAddr,
        /// What kind of socket.
        kind: RelayKind,
    },
    /// Close the socket, and with [`RelayKind::Tcp`] all connections to peers that came of it. Its port is free for others after that.
    CloseRelay {
        /// The socket.
        relay: RelayId,
    },
    /// Connect from the relayed address (TCP) to a peer, RFC 6062 §5.2. The answer is
    /// [`Server::peer_connected`](crate::Server::peer_connected) or
    /// [`Server::peer_connect_failed`](crate::Server::peer_connect_failed), at some time, but not after 30 seconds.
    ConnectToPeer {
        /// From where.
        relay: RelayId,
        /// To whom.
        peer: SocketAddr,
        /// How the connection is named from now on.
        connection: ConnectionId,
    },
    /// From now on `client`'s stream and the connection to a peer are one: bytes go across unchanged, from what stands behind the ConnectionBind request on. If one
    /// closes, the other is closed; then [`Server::peer_connection_closed`](crate::Server::peer_connection_closed) is told to the server that named it.
    ///
    /// The answer to the ConnectionBind request comes before this effect and is the last that the server
    /// sends on that stream.
    JoinConnections {
        /// The client's data connection, not its control connection. May belong to another thread's listener: see
        /// `owner`.
        client: FiveTuple,
        /// The connection to the peer.
        connection: ConnectionId,
    },
    /// Close a connection to a peer.
    ClosePeerConnection {
        /// Which.
        connection: ConnectionId,
    },
    /// A client has shown that it has credentials, and has an allocation: its connection no longer counts as one of a stranger. Credentials alone do not
    /// make it one, since no quota counts the connections of who has them.
    /// Comes for each authentic request over a stream or DTLS from the Allocate request on until [`Effect::AllocationEnded`].
    Authenticated {
        /// Who.
        client: FiveTuple,
    },
    /// An allocation over a stream or DTLS has ended: the connection is idle from now on and may be closed
    /// when it stays so.
    AllocationEnded {
        /// Whose.
        client: FiveTuple,
    },
}

/// What a message to a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The answer to a request. A stream that cannot take it is broken and is closed.
    Answer,
    /// Data of a peer. Dropped where there is no space, as a network would.
    Relayed,
}

/// What a relayed transport address carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelayKind {
    /// Datagrams, RFC 8656.
    Udp,
    /// Connections, RFC 6062: a listening socket, from whose address connections to peers are made, too.
    Tcp,
}

/// Effects of the last calls, and the bytes they need. It is used again and again, so that a relayed packet
/// takes no memory from the allocator.
#[derive(Debug, Default)]
pub struct Effects {
    pub(crate) list: Vec<Effect>,
    pub(crate) scratch: Vec<u8>,
}

impl Effects {
    /// Empty ones.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is to be done, in this order.
    #[must_use]
    pub fn list(&self) -> &[Effect] {
        &self.list
    }

    /// Where [`Data::Scratch`] is.
    #[must_use]
    pub fn scratch(&self) -> &[u8] {
        &self.scratch
    }

    /// Forgets everything, once it is done.
    pub fn clear(&mut self) {
        self.list.clear();
        self.scratch.clear();
    }
}
