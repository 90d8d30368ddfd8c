//! Many TURN clients behind one UDP socket.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use shared::clock::Clock;

use crate::{
    client::{Ask, Client, Credentials, Patience, Then},
    stun::{Message, Transaction},
    wire::Wire,
};

/// A request without an answer is sent again after so long …
const RETRANSMISSION: Duration = Duration::from_millis(250);
/// … so often.
const ATTEMPTS: u8 = 12;

/// Clients of one server. Each has at most one request under way.
pub(crate) struct Crowd {
    pub(crate) wire: Wire,
    server: SocketAddrV4,
    clients: Vec<Client>,
    pending: Vec<Option<Pending>>,
    /// When to look after which request, the soonest first.
    due: VecDeque<(Instant, usize, u32)>,
    finished: VecDeque<(usize, Ask, Outcome)>,
    serial: u32,
    under_way: usize,
    clock: Clock,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Granted,
    /// With this error code.
    Refused(u16),
    /// No answer came.
    Silence,
}

struct Pending {
    ask: Ask,
    bytes: Vec<u8>,
    serial: u32,
    attempts: u8,
    patience: Patience,
}

/// Where clients of a crowd come from: one address in each of as many networks of 24 bits, so that
/// no budget for a network is used up by the benchmark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin(u8);

impl Origin {
    /// 127.64.0.0/11
    pub(crate) const NEAR: Self = Self(64);
    /// 127.96.0.0/11
    pub(crate) const FAR: Self = Self(96);
    /// 127.128.0.0/11
    pub(crate) const PEERS: Self = Self(128);
    /// 127.192.0.0/11
    pub(crate) const STRANGERS: Self = Self(192);
    /// How many there are.
    pub(crate) const SIZE: usize = 32 << 8;

    /// The address of the one with this number, counted modulo [`Origin::SIZE`].
    pub(crate) fn address(self, number: usize) -> Ipv4Addr {
        let [.., c, d] = (number % Self::SIZE).to_be_bytes();
        Ipv4Addr::new(127, self.0 + c, d, 1)
    }
}

impl Crowd {
    /// Clients without allocations, each with credentials of its own.
    pub(crate) fn new(
        server: SocketAddrV4,
        origin: Origin,
        size: usize,
        credentials: impl Fn(usize) -> Credentials,
        clock: &Clock,
    ) -> Result<Self> {
        let wire = Wire::open().context("open a socket for clients")?;
        let port = wire.port();
        let client = |number| {
            let address = SocketAddrV4::new(origin.address(number), port);
            Client::new(address, credentials(number))
        };
        Ok(Self {
            wire,
            server,
            clients: (0..size).map(client).collect(),
            pending: (0..size).map(|_| None).collect(),
            due: VecDeque::new(),
            finished: VecDeque::new(),
            serial: 0,
            under_way: 0,
            clock: clock.clone(),
        })
    }

    pub(crate) fn clients(&self) -> &[Client] {
        &self.clients
    }

    pub(crate) fn client_mut(&mut self, who: usize) -> Option<&mut Client> {
        self.clients.get_mut(who)
    }

    /// Requests under way.
    pub(crate) const fn under_way(&self) -> usize {
        self.under_way
    }

    /// Sends a packet to the server from a client's address.
    pub(crate) fn send_as(&self, who: usize, packet: &[u8]) -> Result<()> {
        let client = self.clients.get(who).context("a client of this crowd")?;
        self.wire.send(*client.address.ip(), self.server, packet)?;
        Ok(())
    }

    /// Makes a request; how it ends is told by [`Crowd::finished`].
    pub(crate) fn start(&mut self, who: usize, ask: Ask) -> Result<()> {
        self.send(who, ask, Patience::default())?;
        self.under_way += 1;
        Ok(())
    }

    /// Reads what has arrived and sends again what was not answered. What is no answer goes to `other`.
    pub(crate) fn poll(&mut self, mut other: impl FnMut(&[u8])) -> Result<()> {
        let mut answers = Vec::new();
        self.wire.receive(|packet| {
            if Message::read(packet).is_some() {
                answers.push(packet.to_vec());
            } else {
                other(packet);
            }
        })?;
        for answer in answers {
            if let Some(message) = Message::read(&answer) {
                self.take(&message)?;
            }
        }
        self.send_again()
    }

    /// A request that has ended.
    pub(crate) fn finished(&mut self) -> Option<(usize, Ask, Outcome)> {
        self.finished.pop_front()
    }

    /// Makes many requests, `window` at once, and waits until all are granted.
    pub(crate) fn exchange(
        &mut self,
        window: usize,
        asks: impl IntoIterator<Item = (usize, Ask)>,
    ) -> Result<()> {
        let mut asks = asks.into_iter();
        let mut waiting = true;
        while waiting || self.under_way > 0 {
            while waiting && self.under_way < window {
                match asks.next() {
                    Some((who, ask)) => self.start(who, ask)?,
                    None => waiting = false,
                }
            }
            self.poll(|_| ())?;
            while let Some((who, ask, outcome)) = self.finished() {
                if outcome != Outcome::Granted {
                    bail!("client {who} asked for {ask:?} and got {outcome:?}");
                }
            }
        }
        Ok(())
    }

    /// An allocation for every client.
    pub(crate) fn allocate(&mut self, window: usize) -> Result<()> {
        let lifetime = Duration::from_hours(1);
        let everybody = 0..self.clients.len();
        self.exchange(
            window,
            everybody.map(|who| (who, Ask::Allocate { lifetime })),
        )
    }

    /// Ends every allocation.
    pub(crate) fn release(&mut self, window: usize) -> Result<()> {
        let lifetime = Duration::ZERO;
        let everybody = 0..self.clients.len();
        self.exchange(
            window,
            everybody.map(|who| (who, Ask::Refresh { lifetime })),
        )
    }

    /// Binds `channel` of every client, or binds it again, to the peer with the same number.
    pub(crate) fn bind(
        &mut self,
        window: usize,
        channel: u16,
        peer: impl Fn(usize) -> SocketAddrV4,
    ) -> Result<()> {
        let everybody = 0..self.clients.len();
        self.exchange(
            window,
            everybody.map(|who| {
                let peer = peer(who);
                (who, Ask::Bind { channel, peer })
            }),
        )
    }

    fn send(&mut self, who: usize, ask: Ask, patience: Patience) -> Result<()> {
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let client = self.clients.get(who).context("a client of this crowd")?;
        let bytes = client.request(ask, transaction(who, serial));
        self.wire.send(*client.address.ip(), self.server, &bytes)?;
        self.due
            .push_back((self.clock.now() + RETRANSMISSION, who, serial));
        let place = self.pending.get_mut(who).context("a client")?;
        *place = Some(Pending {
            ask,
            bytes,
            serial,
            attempts: 1,
            patience,
        });
        Ok(())
    }

    fn take(&mut self, message: &Message<'_>) -> Result<()> {
        let (who, serial) = owner(message.transaction);
        let (Some(place), Some(client)) = (self.pending.get_mut(who), self.clients.get_mut(who))
        else {
            return Ok(());
        };
        let Some(mut pending) = place.take_if(|pending| pending.serial == serial) else {
            return Ok(()); // an answer to a retransmission, after the first one
        };
        let ask = pending.ask;
        let ends = matches!(ask, Ask::Refresh { lifetime } if lifetime.is_zero());
        let outcome = match client.take(ask, message)? {
            Then::Again if pending.patience.again() => {
                return self.send(who, ask, pending.patience);
            }
            Then::Again => Outcome::Refused(438),
            // the answer to the first attempt was lost
            Then::Refused(437) if ends && pending.attempts > 1 => {
                client.forget();
                Outcome::Granted
            }
            Then::Refused(code) => Outcome::Refused(code),
            Then::Done => Outcome::Granted,
        };
        self.finish(who, ask, outcome);
        Ok(())
    }

    fn send_again(&mut self) -> Result<()> {
        let now = self.clock.now();
        while let Some((_, who, serial)) = self.due.pop_front_if(|(due, _, _)| *due <= now) {
            let (Some(place), Some(client)) = (self.pending.get_mut(who), self.clients.get(who))
            else {
                continue;
            };
            let Some(pending) = place.as_mut().filter(|pending| pending.serial == serial) else {
                continue;
            };
            if pending.attempts >= ATTEMPTS {
                let ask = pending.ask;
                *place = None;
                self.finish(who, ask, Outcome::Silence);
                continue;
            }
            pending.attempts += 1;
            self.wire
                .send(*client.address.ip(), self.server, &pending.bytes)?;
            self.due.push_back((now + RETRANSMISSION, who, serial));
        }
        Ok(())
    }

    fn finish(&mut self, who: usize, ask: Ask, outcome: Outcome) {
        self.under_way -= 1;
        self.finished.push_back((who, ask, outcome));
    }
}

/// Whose request it is stands in its transaction.
fn transaction(who: usize, serial: u32) -> Transaction {
    let mut bytes = [0; 12];
    let (client, rest) = bytes.split_at_mut(8);
    client.copy_from_slice(&(who as u64).to_be_bytes());
    rest.copy_from_slice(&serial.to_be_bytes());
    bytes
}

fn owner(transaction: Transaction) -> (usize, u32) {
    let [client @ .., a, b, c, d] = transaction;
    let client = usize::try_from(u64::from_be_bytes(client)).unwrap_or(usize::MAX);
    (client, u32::from_be_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_transaction_names_its_owner() {
        assert_eq!(owner(transaction(4999, 77)), (4999, 77));
    }

    #[test]
    fn no_two_of_an_origin_share_a_network_and_none_is_in_another_origin() {
        let origins = [Origin::NEAR, Origin::FAR, Origin::PEERS, Origin::STRANGERS];
        let networks: HashSet<_> = origins
            .iter()
            .flat_map(|origin| (0..Origin::SIZE).map(|number| origin.address(number)))
            .map(|address| address.to_bits() >> 8)
            .collect();
        assert_eq!(networks.len(), 4 * Origin::SIZE);
        assert_eq!(Origin::NEAR.address(257), Ipv4Addr::new(127, 65, 1, 1));
    }
}
