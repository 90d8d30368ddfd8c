//! What concerns reading and writing together.

mod differential;
mod malformed;
mod vectors;

use std::net::SocketAddr;

use proptest::prelude::*;

use super::{
    AttributeType, Class, Kind, Message, MessageWriter, Method, TransactionId,
    integrity::{IntegrityKind, Key, PasswordAlgorithm},
};

pub(super) const USERNAME: &str = "1700000000:alice";
pub(super) const REALM: &str = "turn.example.org";
pub(super) const PASSWORD: &str = "o30ddbgBE240dQCagskzerYn2Hg=";

#[test]
fn the_first_byte_says_what_a_packet_is() {
    for byte in 0..=255 {
        let expected = match byte {
            0..4 => Kind::Stun,
            20..64 => Kind::Dtls,
            64..80 => Kind::ChannelData,
            _ => Kind::Unknown,
        };
        assert_eq!(Kind::of(&[byte, 0, 0]), expected, "{byte}");
    }
    assert_eq!(Kind::of(&[]), Kind::Unknown);
}

#[test]
fn several_messages_stand_in_one_buffer() {
    let mut buffer = b"before".to_vec();
    let id = TransactionId([3; 12]);
    let first = MessageWriter::new(&mut buffer, Class::Success, Method::Refresh, id)
        .number(AttributeType::LIFETIME, 600)
        .integrity(IntegrityKind::Sha256, &key(IntegrityKind::Sha256))
        .range();
    let second = MessageWriter::new(&mut buffer, Class::Error, Method::Allocate, id)
        .error_code(438)
        .fingerprint()
        .range();
    assert_eq!(&buffer[..first.start], b"before");
    assert_eq!((first.end, second.end), (second.start, buffer.len()));
    let first = Message::parse(&buffer[first]).unwrap();
    assert!(first.is_authentic(&key(IntegrityKind::Sha256)));
    assert_eq!(
        first.value(AttributeType::LIFETIME),
        Some([0, 0, 2, 88].as_slice())
    );
    let second = Message::parse(&buffer[second]).unwrap();
    assert_eq!(
        second.value(AttributeType::ERROR_CODE),
        Some([0, 0, 4, 38].as_slice())
    );
}

/// A message before it is written.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    class: Class,
    method: Method,
    id: TransactionId,
    attributes: Vec<(AttributeType, Vec<u8>)>,
    addresses: Vec<(AttributeType, SocketAddr)>,
    integrity: Vec<IntegrityKind>,
    fingerprint: bool,
}

impl Draft {
    fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = MessageWriter::new(&mut bytes, self.class, self.method, self.id);
        for (number, value) in &self.attributes {
            writer.attribute(*number, value);
        }
        for (number, address) in &self.addresses {
            writer.xor_address(*number, *address);
        }
        for kind in &self.integrity {
            writer.integrity(*kind, &key(*kind));
        }
        if self.fingerprint {
            writer.fingerprint();
        }
        bytes
    }
}

/// A key that goes with `kind` as with most clients.
fn key(kind: IntegrityKind) -> Key {
    let algorithm = match kind {
        IntegrityKind::Sha1 => PasswordAlgorithm::Md5,
        IntegrityKind::Sha256 => PasswordAlgorithm::Sha256,
    };
    Key::new(
        algorithm,
        USERNAME.as_bytes(),
        REALM.as_bytes(),
        PASSWORD.as_bytes(),
    )
}

fn any_draft() -> impl Strategy<Value = Draft> {
    (
        any_class(),
        any_method(),
        any::<[u8; 12]>().prop_map(TransactionId),
        prop::collection::vec(
            (any_plain_type(), prop::collection::vec(any::<u8>(), 0..70)),
            0..8,
        ),
        prop::collection::vec((any_address_type(), any_address()), 0..4),
        prop::sample::select(vec![
            vec![],
            vec![IntegrityKind::Sha1],
            vec![IntegrityKind::Sha256],
            vec![IntegrityKind::Sha1, IntegrityKind::Sha256],
        ]),
        any::<bool>(),
    )
        .prop_map(
            |(class, method, id, attributes, addresses, integrity, fingerprint)| Draft {
                class,
                method,
                id,
                attributes,
                addresses,
                integrity,
                fingerprint,
            },
        )
}

fn any_class() -> impl Strategy<Value = Class> {
    prop::sample::select(vec![
        Class::Request,
        Class::Indication,
        Class::Success,
        Class::Error,
    ])
}

fn any_method() -> impl Strategy<Value = Method> {
    prop_oneof![
        prop::sample::select(vec![
            Method::Binding,
            Method::Allocate,
            Method::Refresh,
            Method::Send,
            Method::Data,
            Method::CreatePermission,
            Method::ChannelBind,
            Method::Connect,
            Method::ConnectionBind,
            Method::ConnectionAttempt,
        ]),
        // the others have names
        (0x00D_u16..=0xFFF).prop_map(Method::Other),
    ]
}

/// Known and unknown types, but for addresses and those that end a message.
fn any_plain_type() -> impl Strategy<Value = AttributeType> {
    let known = prop::sample::select(vec![
        AttributeType::USERNAME,
        AttributeType::REALM,
        AttributeType::NONCE,
        AttributeType::DATA,
        AttributeType::LIFETIME,
        AttributeType::CHANNEL_NUMBER,
        AttributeType::SOFTWARE,
        AttributeType::EVEN_PORT,
        AttributeType::USERHASH,
        AttributeType::PASSWORD_ALGORITHMS,
    ]);
    let any = any::<u16>()
        .prop_map(AttributeType)
        .prop_filter("of no meaning here", |number| {
            !matches!(
                *number,
                AttributeType::MESSAGE_INTEGRITY
                    | AttributeType::MESSAGE_INTEGRITY_SHA256
                    | AttributeType::FINGERPRINT
                    | AttributeType::XOR_MAPPED_ADDRESS
                    | AttributeType::XOR_PEER_ADDRESS
                    | AttributeType::XOR_RELAYED_ADDRESS
            )
        });
    prop_oneof![known, any]
}

fn any_address_type() -> impl Strategy<Value = AttributeType> {
    prop::sample::select(vec![
        AttributeType::XOR_MAPPED_ADDRESS,
        AttributeType::XOR_PEER_ADDRESS,
        AttributeType::XOR_RELAYED_ADDRESS,
    ])
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    (any::<std::net::IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

proptest! {
    #[test]
    fn what_was_written_is_read(draft in any_draft()) {
        let bytes = draft.write();
        let message = Message::parse(&bytes).unwrap();
        prop_assert_eq!(
            (message.class(), message.method(), message.transaction_id()),
            (draft.class, draft.method, draft.id)
        );
        let (plain, addresses): (Vec<_>, Vec<_>) = message.attributes().enumerate().partition(
            |(index, _)| *index < draft.attributes.len(),
        );
        let plain: Vec<_> = plain.into_iter().map(|(_, (number, value))| (number, value.to_vec())).collect();
        prop_assert_eq!(&plain, &draft.attributes);
        let numbers = addresses.iter().map(|(_, (number, _))| *number);
        prop_assert!(numbers.eq(draft.addresses.iter().map(|(number, _)| *number)));

        // by type: the first
        for (number, value) in plain.iter().rev() {
            let first = plain.iter().find(|(other, _)| other == number);
            let known = number.index().is_some();
            prop_assert_eq!(message.value(*number), first.filter(|_| known).map(|(_, value)| value.as_slice()));
            prop_assert_eq!(message.has(*number), known);
            let _ = value;
        }
        for (number, _) in &draft.addresses {
            let first = draft.addresses.iter().find(|(other, _)| other == number).unwrap();
            prop_assert_eq!(message.xor_address(*number), Some(first.1));
        }
        let peers: Vec<_> = message.peer_addresses().collect();
        let expected: Vec<_> = draft
            .addresses
            .iter()
            .filter(|(number, _)| *number == AttributeType::XOR_PEER_ADDRESS)
            .map(|(_, address)| Some(*address))
            .collect();
        prop_assert_eq!(peers, expected);

        // the stronger of both
        prop_assert_eq!(message.integrity(), draft.integrity.last().copied());
        for kind in [IntegrityKind::Sha1, IntegrityKind::Sha256] {
            let authentic = message.is_authentic(&key(kind));
            prop_assert_eq!(authentic, draft.integrity.last() == Some(&kind));
        }
        prop_assert_eq!(message.has(AttributeType::FINGERPRINT), draft.fingerprint);
    }
}
