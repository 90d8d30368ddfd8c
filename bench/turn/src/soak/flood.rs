//! Strangers: requests without or with wrong credentials and plain garbage, from addresses that are not
//! theirs.

use std::net::SocketAddrV4;

use anyhow::Result;
use shared::random::Random;

use crate::{
    crowd::Origin,
    stun::{Attribute, Key, Method, Request, channel_header},
    traffic::ratio,
    wire::Wire,
};

/// One packet in so many comes from the address of a client that has an allocation.
const VICTIMS: u32 = 16;
/// The longest garbage.
const LONGEST: usize = 1400;

/// The strangers' socket.
pub(super) struct Flood {
    wire: Wire,
    server: SocketAddrV4,
    packets: u64,
    bytes: u64,
    answers: u64,
    answered_bytes: u64,
}

impl Flood {
    pub(super) fn new(server: SocketAddrV4) -> Result<Self> {
        Ok(Self {
            wire: Wire::open()?,
            server,
            packets: 0,
            bytes: 0,
            answers: 0,
            answered_bytes: 0,
        })
    }

    /// Sends a packet from anywhere.
    pub(super) fn send(&mut self, random: &Random) -> Result<()> {
        let [a, b, c, d, ..] = random.bytes::<8>();
        let network = Origin::STRANGERS.address(usize::from(u16::from_be_bytes([a, b])));
        let source = (network.to_bits() & 0xFFFF_FF00 | u32::from(c).clamp(1, 254)).into();
        let packet = packet(d, random);
        self.wire.send(source, self.server, &packet)?;
        self.packets += 1;
        self.bytes += packet.len() as u64;
        Ok(())
    }

    /// Counts what came back.
    pub(super) fn count_answers(&mut self) -> Result<()> {
        let (mut answers, mut bytes) = (0, 0);
        self.wire.receive(|packet| {
            answers += 1;
            bytes += packet.len() as u64;
        })?;
        self.answers += answers;
        self.answered_bytes += bytes;
        Ok(())
    }

    pub(super) fn summary(&self) -> String {
        format!(
            "Strangers sent {} packets and got {} answers: {:.2} bytes for each byte.",
            self.packets,
            self.answers,
            ratio(self.answered_bytes, self.bytes.max(1))
        )
    }
}

/// Whom the next packet pretends to come from: the client with this number, counted modulo how many
/// there are, or nobody in particular.
pub(super) fn victim(random: &Random) -> Option<u32> {
    let number = u32::from_be_bytes(random.bytes());
    number.is_multiple_of(VICTIMS).then_some(number / VICTIMS)
}

/// Something that no server may act on.
fn packet(kind: u8, random: &Random) -> Vec<u8> {
    let transaction = random.bytes();
    let bare = |method| Request::new(method, transaction);
    let address = SocketAddrV4::new(Origin::PEERS.address(usize::from(kind)), 9);
    match kind % 12 {
        0 => bare(Method::Binding).into_bytes(),
        1..=3 => bare(Method::Allocate)
            .with_number(Attribute::RequestedTransport, 17 << 24)
            .into_bytes(),
        4 => signed_by_nobody(
            bare(Method::Allocate).with_number(Attribute::RequestedTransport, 17 << 24),
            random,
        ),
        5 => end_of_allocation(random),
        6 => bare(Method::CreatePermission)
            .with_address(Attribute::XorPeerAddress, address)
            .into_bytes(),
        7 => signed_by_nobody(
            bare(Method::ChannelBind)
                .with_number(Attribute::ChannelNumber, 0x4000 << 16)
                .with_address(Attribute::XorPeerAddress, address),
            random,
        ),
        8 => {
            let mut data = channel_header(0x4000 + u16::from(kind), 100).to_vec();
            data.resize(104, kind);
            data
        }
        9 => {
            // a request that is cut off
            let mut request = signed_by_nobody(bare(Method::Allocate), random);
            let [length] = random.bytes::<1>();
            request.truncate(usize::from(length) % request.len());
            request
        }
        10 => {
            // a request with some wrong bits
            let mut request = signed_by_nobody(bare(Method::Allocate), random);
            for [high, low, bit] in [random.bytes::<3>(), random.bytes::<3>()] {
                let place = usize::from(u16::from_be_bytes([high, low])) % request.len();
                if let Some(byte) = request.get_mut(place) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            request
        }
        _ => {
            let [high, low] = random.bytes::<2>();
            let mut garbage = vec![0; usize::from(u16::from_be_bytes([high, low])) % LONGEST];
            random.fill(&mut garbage);
            garbage
        }
    }
}

/// The end of an allocation, asked for by somebody who does not know the password.
pub(super) fn end_of_allocation(random: &Random) -> Vec<u8> {
    let request = Request::new(Method::Refresh, random.bytes()).with_number(Attribute::Lifetime, 0);
    let [coin] = random.bytes::<1>();
    if coin < 128 {
        request.into_bytes()
    } else {
        signed_by_nobody(request, random)
    }
}

fn signed_by_nobody(request: Request, random: &Random) -> Vec<u8> {
    let nonce: [u8; 16] = random.bytes();
    let username = format!("1999999999:{}", u32::from_be_bytes(random.bytes()));
    request
        .with(Attribute::Username, username.as_bytes())
        .with(Attribute::Realm, crate::relay::NAME.as_bytes())
        .with(Attribute::Nonce, &nonce)
        .with_integrity(&Key::new(&username, crate::relay::NAME, "guessed"))
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::Message;

    #[test]
    fn strangers_send_whole_requests_and_other_things() {
        let random = Random::seeded(7);
        let packets: Vec<_> = (0..=255).map(|kind| packet(kind, &random)).collect();
        let whole = packets
            .iter()
            .filter(|packet| Message::read(packet).is_some())
            .count();
        assert!((120..250).contains(&whole), "{whole}");
        assert!(packets.iter().all(|packet| packet.len() <= LONGEST));
    }
}
