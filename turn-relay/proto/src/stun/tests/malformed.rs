//! Whatever comes, reading it does not panic, and nothing of it lies outside of it.

use super::{
    super::{
        AttributeType, Class, HEADER_LEN, Kind, MAGIC_COOKIE, Message, MessageWriter, Method,
        TransactionId,
        attribute::read_xor_address,
        channel_data::{self, Frame},
        integrity::{IntegrityKind, Key},
    },
    key,
};
use crate::commons::{Random as _, testing::Repeatable};

/// How many packets of each kind.
const PACKETS: usize = if cfg!(debug_assertions) {
    20_000
} else {
    400_000
};

#[test]
fn random_bytes() {
    let mut random = Repeatable(1);
    let reader = Reader::new();
    for _ in 0..PACKETS {
        let mut bytes = vec![0; below(&mut random, 120)];
        random.fill(&mut bytes);
        reader.read(&bytes);
    }
}

#[test]
fn random_bytes_behind_a_header_that_is_right() {
    let mut random = Repeatable(2);
    let reader = Reader::new();
    let mut parsed = 0_usize;
    for _ in 0..PACKETS {
        let words = below(&mut random, 40);
        let mut bytes = vec![0; HEADER_LEN + words * 4];
        random.fill(&mut bytes);
        bytes[0] &= 0x3F;
        set_length(&mut bytes, words * 4);
        bytes[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        // lengths of attributes that are small enough to be walked over
        for word in bytes[HEADER_LEN..].chunks_mut(4) {
            word[2] = 0;
            word[3] &= 0x1F;
        }
        parsed += usize::from(reader.read(&bytes));
    }
    assert!(
        parsed > PACKETS / 50,
        "too few of them are messages: {parsed}"
    );
}

#[test]
fn known_attributes_of_random_lengths_in_random_order() {
    let mut random = Repeatable(3);
    let reader = Reader::new();
    let mut parsed = 0_usize;
    for _ in 0..PACKETS {
        let mut bytes = Vec::new();
        let id = TransactionId([5; 12]);
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, Method::Allocate, id);
        for _ in 0..below(&mut random, 9) {
            let number = KNOWN[below(&mut random, KNOWN.len())];
            let mut value = vec![0; below(&mut random, 40)];
            random.fill(&mut value);
            if below(&mut random, 2) == 0 && value.len() > 1 {
                value[1] = u8::try_from(below(&mut random, 4)).unwrap();
            }
            writer.attribute(number, &value);
        }
        match below(&mut random, 4) {
            0 => writer.integrity(IntegrityKind::Sha1, &reader.sha1),
            1 => writer.integrity(IntegrityKind::Sha256, &reader.sha256),
            2 => writer.fingerprint(),
            _ => &mut writer,
        };
        parsed += usize::from(reader.read(&bytes));
    }
    assert!(
        parsed > PACKETS / 4,
        "too few of them are messages: {parsed}"
    );
}

#[test]
fn changed_messages() {
    let mut random = Repeatable(4);
    let reader = Reader::new();
    let valid = valid_messages();
    for round in 0..PACKETS {
        let mut bytes = valid[round % valid.len()].clone();
        for _ in 0..=below(&mut random, 4) {
            let place = below(&mut random, bytes.len());
            match below(&mut random, 4) {
                0 => bytes[place] ^= 1 << below(&mut random, 8),
                1 => bytes[place] = [0, 1, 4, 8, 0x7F, 0x80, 0xFE, 0xFF][below(&mut random, 8)],
                2 => drop(bytes.drain(..place.min(bytes.len() - 1))),
                _ => bytes.truncate(place.max(1)),
            }
        }
        if below(&mut random, 3) == 0 && bytes.len() >= HEADER_LEN {
            // with a length that is right again
            let length = bytes.len() - HEADER_LEN;
            set_length(&mut bytes, length);
        }
        reader.read(&bytes);
    }
}

#[test]
fn no_changed_bit_goes_unnoticed_in_what_is_protected() {
    let reader = Reader::new();
    for bytes in valid_messages() {
        let message = Message::parse(&bytes).unwrap();
        let authentic = reader.is_authentic(&message);
        let fingerprint = message.value_range(AttributeType::FINGERPRINT);
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let read = Message::parse(&changed);
            let in_fingerprint = fingerprint
                .as_ref()
                .is_some_and(|range| bit / 8 + 4 >= range.start);
            if authentic && !in_fingerprint {
                assert!(
                    !read
                        .as_ref()
                        .is_ok_and(|message| reader.is_authentic(message))
                );
            }
            if fingerprint.is_some() {
                // unless the fingerprint is none any more, but a part of something else
                assert!(!read.is_ok_and(|message| message.has(AttributeType::FINGERPRINT)));
            }
        }
    }
}

#[test]
fn every_beginning_of_a_message() {
    let reader = Reader::new();
    for bytes in valid_messages() {
        for len in 0..bytes.len() {
            assert!(
                !reader.read(&bytes[..len]),
                "{len} of {} bytes",
                bytes.len()
            );
            // and one that says that it is all there is
            let mut short = bytes[..len].to_vec();
            if len >= HEADER_LEN {
                set_length(&mut short, len - HEADER_LEN);
                reader.read(&short);
            }
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(!reader.read(&longer));
    }
}

/// Reads a packet in every way that there is.
struct Reader {
    sha1: Key,
    sha256: Key,
}

impl Reader {
    fn new() -> Self {
        Self {
            sha1: key(IntegrityKind::Sha1),
            sha256: key(IntegrityKind::Sha256),
        }
    }

    fn is_authentic(&self, message: &Message<'_>) -> bool {
        message.is_authentic(&self.sha1) || message.is_authentic(&self.sha256)
    }

    /// Whether it is a message.
    fn read(&self, bytes: &[u8]) -> bool {
        let _ = Kind::of(bytes);
        if let Some((number, _)) = channel_data::read_header(bytes) {
            assert!((0x4000..0x5000).contains(&number.get()));
        }
        match channel_data::frame(bytes) {
            Frame::Message { len, padded_len } => {
                assert!((4..=65_552).contains(&len) && (len..len + 4).contains(&padded_len));
            }
            Frame::Incomplete => assert!(bytes.len() < 4),
            // a message's first byte may be larger than that of those on a wire with others (RFC 7983)
            Frame::Garbage => {
                assert!(Kind::of(bytes) != Kind::Stun || Message::parse(bytes).is_err());
            }
        }
        for len in [0, 3, 4, 8, 12, 19, 20, 21] {
            if let Some(value) = bytes.get(..len) {
                let address = read_xor_address(value, TransactionId([1; 12]));
                assert!(address.is_none() || len == 8 || len == 20);
            }
        }
        let Ok(message) = Message::parse(bytes) else {
            return false;
        };
        assert_eq!(message.as_bytes(), bytes);
        let _ = (message.class(), message.method(), message.transaction_id());
        for number in KNOWN {
            let value = message.value(number);
            let range = message.value_range(number);
            assert_eq!(value, range.map(|range| &bytes[range]));
            assert_eq!(message.has(number), value.is_some());
            let _ = message.xor_address(number);
        }
        assert!(
            message
                .attributes()
                .map(|(_, value)| value.len() + 4)
                .sum::<usize>()
                <= bytes.len()
        );
        assert!(message.peer_addresses().count() <= bytes.len() / 4);
        let unknown = message.unknown_attributes();
        assert!(unknown.len() <= 8);
        assert!(
            unknown
                .iter()
                .all(|number| number.0 < 0x8000 && !KNOWN.contains(number))
        );
        if self.is_authentic(&message) {
            assert!(message.integrity().is_some());
        }
        true
    }
}

/// All types with a name.
const KNOWN: [AttributeType; 30] = [
    AttributeType::MAPPED_ADDRESS,
    AttributeType::USERNAME,
    AttributeType::MESSAGE_INTEGRITY,
    AttributeType::ERROR_CODE,
    AttributeType::UNKNOWN_ATTRIBUTES,
    AttributeType::CHANNEL_NUMBER,
    AttributeType::LIFETIME,
    AttributeType::XOR_PEER_ADDRESS,
    AttributeType::DATA,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::XOR_RELAYED_ADDRESS,
    AttributeType::REQUESTED_ADDRESS_FAMILY,
    AttributeType::EVEN_PORT,
    AttributeType::REQUESTED_TRANSPORT,
    AttributeType::DONT_FRAGMENT,
    AttributeType::MESSAGE_INTEGRITY_SHA256,
    AttributeType::PASSWORD_ALGORITHM,
    AttributeType::USERHASH,
    AttributeType::XOR_MAPPED_ADDRESS,
    AttributeType::RESERVATION_TOKEN,
    AttributeType::CONNECTION_ID,
    AttributeType::ADDITIONAL_ADDRESS_FAMILY,
    AttributeType::ADDRESS_ERROR_CODE,
    AttributeType::PASSWORD_ALGORITHMS,
    AttributeType::ALTERNATE_DOMAIN,
    AttributeType::ICMP,
    AttributeType::SOFTWARE,
    AttributeType::ALTERNATE_SERVER,
    AttributeType::FINGERPRINT,
];

/// What clients send, with every way to end a message.
fn valid_messages() -> Vec<Vec<u8>> {
    let endings: [fn(&mut MessageWriter<'_>); 6] = [
        |_| {},
        |writer| {
            writer.fingerprint();
        },
        |writer| {
            writer.integrity(IntegrityKind::Sha1, &key(IntegrityKind::Sha1));
        },
        |writer| {
            writer.integrity(IntegrityKind::Sha256, &key(IntegrityKind::Sha256));
        },
        |writer| {
            writer
                .integrity(IntegrityKind::Sha1, &key(IntegrityKind::Sha1))
                .fingerprint();
        },
        |writer| {
            writer
                .integrity(IntegrityKind::Sha1, &key(IntegrityKind::Sha1))
                .integrity(IntegrityKind::Sha256, &key(IntegrityKind::Sha256))
                .fingerprint();
        },
    ];
    let mut messages = Vec::new();
    for end in endings {
        let mut bytes = Vec::new();
        let id = TransactionId([7; 12]);
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, Method::Allocate, id);
        writer
            .attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
            .attribute(AttributeType::USERNAME, b"1700000000:alice")
            .attribute(AttributeType::REALM, b"turn.example.org")
            .attribute(AttributeType::NONCE, b"obMatJos2gAABAAAAAAAAAAAAAAA");
        end(&mut writer);
        messages.push(bytes);

        let mut bytes = Vec::new();
        let mut writer = MessageWriter::new(&mut bytes, Class::Indication, Method::Send, id);
        writer
            .xor_address(
                AttributeType::XOR_PEER_ADDRESS,
                "192.0.2.1:5000".parse().unwrap(),
            )
            .xor_address(
                AttributeType::XOR_PEER_ADDRESS,
                "[2001:db8::1]:5000".parse().unwrap(),
            )
            .attribute(AttributeType::DONT_FRAGMENT, &[])
            .attribute(AttributeType::DATA, &[0xA5; 41]);
        end(&mut writer);
        messages.push(bytes);
    }
    messages
}

fn set_length(bytes: &mut [u8], length: usize) {
    let length = u16::try_from(length).unwrap();
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
}

fn below(random: &mut Repeatable, end: usize) -> usize {
    usize::try_from(random.next() % u64::try_from(end).unwrap()).unwrap()
}
