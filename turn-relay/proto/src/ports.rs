//! Relayed ports: which are free, which are held for a RESERVATION-TOKEN, and which client is behind one.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
};

use crate::{
    address::FiveTuple, commons::Random, config::RelayAddress, quota::Account,
    stun::channel_data::ChannelNumber, time::Time,
};

/// The value of RESERVATION-TOKEN, RFC 8656 §18.10.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReservationToken(pub [u8; 8]);

/// Which ports a client takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// Any.
    Any,
    /// An even one, RFC 8656 §18.7.
    Even,
}

/// All ports of all relay addresses.
///
/// Ports are drawn at random among the free ones (RFC 6056), and one is found as long as one is free. Methods without a note take a lock: they are for
/// allocations, not for packets.
#[derive(Debug)]
pub struct Ports {}

impl Ports {
    /// Ports of `range` on each of `addresses`, all of them free.
    #[must_use]
    pub fn new(addresses: &[RelayAddress], range: RangeInclusive<u16>) -> Self {
        unimplemented!()
    }

    /// Takes a free port of the address that sockets are bound to.
    pub fn take(
        &self,
        bind: IpAddr,
        parity: Parity,
        now: Time,
        random: &mut impl Random,
    ) -> Option<u16> {
        unimplemented!()
    }

    /// Takes a free even port, and holds the one above it for whoever shows the token within 30 seconds
    /// (RFC 8656 §7.2).
    pub fn take_pair(
        &self,
        bind: IpAddr,
        now: Time,
        random: &mut impl Random,
    ) -> Option<(u16, ReservationToken)> {
        unimplemented!()
    }

    /// Takes the port that is held for `token`, once.
    pub fn take_reserved(&self, token: ReservationToken, now: Time) -> Option<(IpAddr, u16)> {
        unimplemented!()
    }

    /// A taken port is free again, and nobody is behind it.
    pub fn give_back(&self, bind: IpAddr, port: u16) {
        unimplemented!()
    }

    /// As [`Self::give_back`], but the port is not given to anybody for a second: something else on this host has it.
    pub fn set_aside(&self, bind: IpAddr, port: u16, now: Time) {
        unimplemented!()
    }

    /// Whether clients are told of relayed transport addresses on `ip`, so that other clients may be reached there. Takes no lock.
    #[must_use]
    pub fn is_advertised(&self, ip: IpAddr) -> bool {
        unimplemented!()
    }

    /// Tells all threads who is behind the relayed transport address `relayed` (as advertised), or that it is
    /// nobody that could be reached straight.
    pub fn publish(&self, relayed: SocketAddr, crossing: Option<Arc<Crossing>>) {
        unimplemented!()
    }

    /// Who is behind a relayed transport address (as advertised). Takes no lock.
    #[must_use]
    pub fn crossing(&self, relayed: SocketAddr) -> Option<arc_swap::Guard<Option<Arc<Crossing>>>> {
        unimplemented!()
    }
}

/// What another client's packet has to know to go straight to the client behind a relayed transport address.
///
/// Published whenever it changes, and only by allocations with a permission for one of the relay's own addresses.
pub struct Crossing {
    /// The client.
    pub client: FiveTuple,
    /// Addresses from which the client takes packets, and until when; only those of the relay's own.
    pub permissions: Box<[(IpAddr, Time)]>,
    /// Channels that are bound to relayed transport addresses of this relay, and until when.
    pub channels: Box<[(SocketAddr, ChannelNumber, Time)]>,
    /// Until when the allocation lives.
    pub expires: Time,
    /// Whose bandwidth it is.
    pub account: Arc<Account>,
}

/// Shows no address.
impl std::fmt::Debug for Crossing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crossing").finish_non_exhaustive()
    }
}
