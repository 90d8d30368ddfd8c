//! A relay with clients and peers around it, ready for traffic.

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result};

use crate::{
    crowd::{Crowd, Origin},
    relay::{Relay, Relays, What},
    traffic::Flow,
    wire::Wire,
};

/// Requests under way at once while everything is set up.
pub(crate) const WINDOW: usize = 32;
/// A near client's channel to its peer.
const TO_PEER: u16 = 0x4000;
/// The channel between a near client and a far one, at both.
const TO_CLIENT: u16 = 0x4001;

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ClientToPeer,
    PeerToClient,
    /// Between two clients of the relay.
    ClientToClient,
}

/// The stage. Every near client has an allocation and a channel to a peer of its own, and one to a far
/// client, which has an allocation, too.
pub(crate) struct Stage {
    pub(crate) relay: Relay,
    near: Crowd,
    far: Crowd,
    peers: Wire,
}

impl Way {
    pub(crate) const ALL: [Self; 3] =
        [Self::ClientToPeer, Self::PeerToClient, Self::ClientToClient];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ClientToPeer => "client → peer",
            Self::PeerToClient => "peer → client",
            Self::ClientToClient => "client → client",
        }
    }
}

impl Stage {
    /// Starts `what` and gives it so many flows of each way. The floor has no allocations and no way
    /// but one.
    pub(crate) fn set(relays: &Relays, what: What, flows: usize) -> Result<Self> {
        let peers = Wire::open().context("open a socket for peers")?;
        let relay = match what {
            What::Coturn | What::Nocturne => relays.start(what)?,
            What::Floor => Relay::floor(
                relays,
                SocketAddrV4::new(Origin::PEERS.address(0), peers.port()),
            )?,
        };
        let crowd = |origin, name: &str| {
            let credentials = |number| relay.credentials(&format!("{name}{number}"));
            Crowd::new(relay.address, origin, flows, credentials, &relays.clock)
        };
        let mut stage = Self {
            near: crowd(Origin::NEAR, "near")?,
            far: crowd(Origin::FAR, "far")?,
            relay,
            peers,
        };
        if what != What::Floor {
            stage.near.allocate(WINDOW)?;
            stage.far.allocate(WINDOW)?;
        }
        stage.bind()?;
        Ok(stage)
    }

    /// Binds all channels, or binds them again before they expire.
    pub(crate) fn bind(&mut self) -> Result<()> {
        if self.relay.what == What::Floor {
            return Ok(());
        }
        let (near, far) = (relayed(&self.near)?, relayed(&self.far)?);
        let peers: Vec<_> = (0..near.len()).map(|number| self.peer(number)).collect();
        let of = |addresses: Vec<SocketAddrV4>| {
            move |number: usize| addresses.get(number).copied().unwrap_or(UNKNOWN)
        };
        self.near.bind(WINDOW, TO_PEER, of(peers))?;
        self.near.bind(WINDOW, TO_CLIENT, of(far))?;
        self.far.bind(WINDOW, TO_CLIENT, of(near))
    }

    /// The flows of one way.
    pub(crate) fn flows(&self, way: Way) -> Vec<Flow> {
        let near = self.near.clients().iter().enumerate();
        near.map(|(number, client)| {
            let from_client = Flow {
                from: *client.address.ip(),
                to: self.relay.address,
                sent_on: None,
                received_on: None,
            };
            match way {
                _ if self.relay.what == What::Floor => from_client,
                Way::ClientToPeer => Flow {
                    sent_on: Some(TO_PEER),
                    ..from_client
                },
                Way::PeerToClient => Flow {
                    from: *self.peer(number).ip(),
                    to: client.relayed.unwrap_or(UNKNOWN),
                    sent_on: None,
                    received_on: Some(TO_PEER),
                },
                Way::ClientToClient => Flow {
                    sent_on: Some(TO_CLIENT),
                    received_on: Some(TO_CLIENT),
                    ..from_client
                },
            }
        })
        .collect()
    }

    /// Who sends and who receives one way.
    pub(crate) fn ends(&mut self, way: Way) -> (&Wire, &mut Wire) {
        match way {
            _ if self.relay.what == What::Floor => (&self.near.wire, &mut self.peers),
            Way::ClientToPeer => (&self.near.wire, &mut self.peers),
            Way::PeerToClient => (&self.peers, &mut self.near.wire),
            Way::ClientToClient => (&self.near.wire, &mut self.far.wire),
        }
    }

    fn peer(&self, number: usize) -> SocketAddrV4 {
        SocketAddrV4::new(Origin::PEERS.address(number), self.peers.port())
    }
}

/// Where nothing is sent to.
const UNKNOWN: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 9);

fn relayed(crowd: &Crowd) -> Result<Vec<SocketAddrV4>> {
    let clients = crowd.clients().iter();
    clients
        .map(|client| client.relayed.context("every client has an allocation"))
        .collect()
}
