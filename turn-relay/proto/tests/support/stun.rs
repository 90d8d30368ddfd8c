//! Messages: written attribute by attribute, so that they can be wrong in any way, and read with judgement.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

pub(crate) use stun_types::message::{MessageClass, Method};
use stun_types::{
    attribute::{
        AttributeExt as _, ErrorCode, Fingerprint, MessageIntegrity, MessageIntegritySha256, Nonce,
        PasswordAlgorithms, RawAttribute, Realm, Software, UnknownAttributes, XorSocketAddr,
    },
    message::{
        IntegrityAlgorithm, IntegrityKey, LongTermKeyCredentials, Message, MessageHeader,
        MessageType, MessageWrite as _, MessageWriteVec, TransactionId,
    },
};

pub(crate) const BINDING: Method = Method::new(0x001);
pub(crate) const ALLOCATE: Method = Method::new(0x003);
pub(crate) const REFRESH: Method = Method::new(0x004);
pub(crate) const SEND: Method = Method::new(0x006);
pub(crate) const DATA_METHOD: Method = Method::new(0x007);
pub(crate) const CREATE_PERMISSION: Method = Method::new(0x008);
pub(crate) const CHANNEL_BIND: Method = Method::new(0x009);
pub(crate) const CONNECT: Method = Method::new(0x00A);
pub(crate) const CONNECTION_BIND: Method = Method::new(0x00B);
pub(crate) const CONNECTION_ATTEMPT: Method = Method::new(0x00C);

/// Numbers of attributes, RFC 8489 §18.3, RFC 8656 §18, RFC 6062 §6.2.
pub(crate) mod attribute {
    pub(crate) const USERNAME: u16 = 0x0006;
    pub(crate) const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub(crate) const ERROR_CODE: u16 = 0x0009;
    pub(crate) const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
    pub(crate) const CHANNEL_NUMBER: u16 = 0x000C;
    pub(crate) const LIFETIME: u16 = 0x000D;
    pub(crate) const XOR_PEER_ADDRESS: u16 = 0x0012;
    pub(crate) const DATA: u16 = 0x0013;
    pub(crate) const REALM: u16 = 0x0014;
    pub(crate) const NONCE: u16 = 0x0015;
    pub(crate) const XOR_RELAYED_ADDRESS: u16 = 0x0016;
    pub(crate) const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
    pub(crate) const EVEN_PORT: u16 = 0x0018;
    pub(crate) const REQUESTED_TRANSPORT: u16 = 0x0019;
    pub(crate) const DONT_FRAGMENT: u16 = 0x001A;
    pub(crate) const MESSAGE_INTEGRITY_SHA256: u16 = 0x001C;
    pub(crate) const PASSWORD_ALGORITHM: u16 = 0x001D;
    pub(crate) const USERHASH: u16 = 0x001E;
    pub(crate) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub(crate) const RESERVATION_TOKEN: u16 = 0x0022;
    pub(crate) const CONNECTION_ID: u16 = 0x002A;
    pub(crate) const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
    pub(crate) const ADDRESS_ERROR_CODE: u16 = 0x8001;
    pub(crate) const PASSWORD_ALGORITHMS: u16 = 0x8002;
    pub(crate) const ICMP: u16 = 0x8004;
    pub(crate) const SOFTWARE: u16 = 0x8022;
    pub(crate) const FINGERPRINT: u16 = 0x8028;
    /// Comprehension-required types that nobody has defined, or that this relay cannot know.
    pub(crate) const UNKNOWN_REQUIRED: [u16; 3] = [0x0033, 0x4567, 0x7FFE];
    /// A comprehension-optional type that nobody has defined.
    pub(crate) const UNKNOWN_OPTIONAL: u16 = 0xFFEE;
}

/// How a password becomes a key, RFC 8489 §18.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Md5,
    Sha256,
}

/// Which attribute protects a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hmac {
    Sha1,
    Sha256,
}

pub(crate) fn long_term_key(
    username: &str,
    password: &str,
    realm: &str,
    kind: KeyKind,
) -> IntegrityKey {
    let credentials =
        LongTermKeyCredentials::new(username.to_owned(), password.to_owned(), realm.to_owned());
    credentials.make_key(match kind {
        KeyKind::Md5 => IntegrityAlgorithm::Sha1,
        KeyKind::Sha256 => IntegrityAlgorithm::Sha256,
    })
}

/// A message that is being written.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    bytes: Vec<u8>,
    id: TransactionId,
}

impl Draft {
    pub(crate) fn request(method: Method) -> Self {
        Self::new(MessageClass::Request, method, fresh_id())
    }

    pub(crate) fn indication(method: Method) -> Self {
        Self::new(MessageClass::Indication, method, fresh_id())
    }

    pub(crate) fn new(class: MessageClass, method: Method, id: u128) -> Self {
        let id = TransactionId::from(id);
        let kind = MessageType::from_class_method(class, method);
        let bytes = Message::builder(kind, id, MessageWriteVec::new()).finish();
        Self { bytes, id }
    }

    /// An Allocate request for a UDP relayed address, without credentials.
    pub(crate) fn allocate() -> Self {
        Self::request(ALLOCATE).transport(17)
    }

    pub(crate) fn with(mut self, number: u16, value: &[u8]) -> Self {
        self.bytes
            .extend(RawAttribute::new(number.into(), value).to_bytes());
        self.set_length(0);
        self
    }

    pub(crate) fn xor_address(self, number: u16, address: SocketAddr) -> Self {
        let value = XorSocketAddr::new(address, self.id);
        let value = value.to_raw(number.into()).value.to_vec();
        self.with(number, &value)
    }

    pub(crate) fn peer(self, address: SocketAddr) -> Self {
        self.xor_address(attribute::XOR_PEER_ADDRESS, address)
    }

    pub(crate) fn transport(self, protocol: u8) -> Self {
        self.with(attribute::REQUESTED_TRANSPORT, &[protocol, 0, 0, 0])
    }

    pub(crate) fn lifetime(self, seconds: u32) -> Self {
        self.with(attribute::LIFETIME, &seconds.to_be_bytes())
    }

    pub(crate) fn channel(self, number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        self.with(attribute::CHANNEL_NUMBER, &[high, low, 0, 0])
    }

    pub(crate) fn data(self, data: &[u8]) -> Self {
        self.with(attribute::DATA, data)
    }

    pub(crate) fn dont_fragment(self) -> Self {
        self.with(attribute::DONT_FRAGMENT, &[])
    }

    /// REQUESTED-ADDRESS-FAMILY: 1 or 2.
    pub(crate) fn family(self, family: u8) -> Self {
        self.with(attribute::REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0])
    }

    /// ADDITIONAL-ADDRESS-FAMILY.
    pub(crate) fn additional_family(self, family: u8) -> Self {
        self.with(attribute::ADDITIONAL_ADDRESS_FAMILY, &[family, 0, 0, 0])
    }

    /// EVEN-PORT without the R bit.
    pub(crate) fn even_port(self) -> Self {
        self.with(attribute::EVEN_PORT, &[0])
    }

    /// EVEN-PORT with the R bit.
    pub(crate) fn even_port_and_next(self) -> Self {
        self.with(attribute::EVEN_PORT, &[0x80])
    }

    pub(crate) fn token(self, token: &[u8]) -> Self {
        self.with(attribute::RESERVATION_TOKEN, token)
    }

    pub(crate) fn connection_id(self, id: u32) -> Self {
        self.with(attribute::CONNECTION_ID, &id.to_be_bytes())
    }

    /// MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256 over what was written so far.
    pub(crate) fn integrity(self, hmac: Hmac, key: &IntegrityKey) -> Self {
        match hmac {
            Hmac::Sha1 => {
                let value = self.clone().hmac(24, Hmac::Sha1, key);
                self.with(attribute::MESSAGE_INTEGRITY, &value)
            }
            Hmac::Sha256 => self.truncated_sha256(32, key),
        }
    }

    /// MESSAGE-INTEGRITY-SHA256 of which only `len` bytes are sent, RFC 8489 §14.6.
    pub(crate) fn truncated_sha256(self, len: usize, key: &IntegrityKey) -> Self {
        let value = self.clone().hmac(4 + len, Hmac::Sha256, key);
        self.with(attribute::MESSAGE_INTEGRITY_SHA256, &value[..len])
    }

    pub(crate) fn fingerprint(mut self) -> Self {
        self.set_length(8);
        let value = Fingerprint::new(Fingerprint::compute(&[&self.bytes]));
        let value = stun_types::attribute::AttributeWrite::to_raw(&value)
            .value
            .to_vec();
        self.with(attribute::FINGERPRINT, &value)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn hmac(mut self, more: usize, hmac: Hmac, key: &IntegrityKey) -> Vec<u8> {
        self.set_length(more);
        hmac_of(&self.bytes, hmac, key)
    }

    fn set_length(&mut self, more: usize) {
        let length = self.bytes.len() - MessageHeader::LENGTH + more;
        let length = u16::try_from(length).expect("the message fits");
        self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
    }
}

fn hmac_of(bytes: &[u8], hmac: Hmac, key: &IntegrityKey) -> Vec<u8> {
    match hmac {
        Hmac::Sha1 => MessageIntegrity::compute(&[bytes], key).unwrap().to_vec(),
        Hmac::Sha256 => MessageIntegritySha256::compute(&[bytes], key)
            .unwrap()
            .to_vec(),
    }
}

/// A transaction ID that no other message of this process has.
pub(crate) fn fresh_id() -> u128 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    u128::from(number) << 32 | 0x5EED_1234
}

/// A ChannelData message as a client sends it in a datagram.
pub(crate) fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(data.len()).expect("the data fit");
    [&number.to_be_bytes(), &len.to_be_bytes(), data].concat()
}

/// A message of the server, found to be well-formed by `stun-types` and by the rules of its class and method.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) class: MessageClass,
    pub(crate) method: Method,
    pub(crate) id: u128,
    pub(crate) attributes: Vec<(u16, Vec<u8>)>,
    pub(crate) bytes: Vec<u8>,
}

impl std::fmt::Debug for Decoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} of method {:#x}", self.class, self.method.value())?;
        if let Some(code) = self.code() {
            write!(f, ", code {code}")?;
        }
        f.debug_list().entries(&self.attributes).finish()
    }
}

impl Decoded {
    /// Reads what a server sent.
    ///
    /// # Panics
    ///
    /// If anything of it is not as the RFCs want it.
    #[track_caller]
    pub(crate) fn judge(bytes: &[u8]) -> Self {
        let message = Message::from_bytes(bytes)
            .unwrap_or_else(|error| panic!("stun-types refuses {bytes:02x?}: {error}"));
        let header = MessageHeader::from_bytes(bytes).unwrap();
        assert_eq!(
            usize::from(header.data_length()) + MessageHeader::LENGTH,
            bytes.len(),
            "the length in the header is that of the message"
        );
        let mut attributes = Vec::new();
        let mut end = MessageHeader::LENGTH;
        for (offset, raw) in message.iter_attributes() {
            assert_eq!(offset, end, "attributes stand one behind the other");
            end = offset + raw.padded_len();
            let padding = &bytes[offset + 4 + raw.value.len()..end];
            assert!(
                padding.iter().all(|byte| *byte == 0),
                "padding is zero, RFC 8489 §14"
            );
            judge_attribute(&raw, message.transaction_id());
            attributes.push((raw.get_type_number(), raw.value.to_vec()));
        }
        assert_eq!(
            end,
            bytes.len(),
            "nothing stands behind MESSAGE-INTEGRITY but FINGERPRINT"
        );
        let decoded = Self {
            class: message.class(),
            method: message.method(),
            id: message.transaction_id().into(),
            attributes,
            bytes: bytes.to_vec(),
        };
        decoded.judge_contents();
        decoded
    }

    pub(crate) fn value(&self, number: u16) -> Option<&[u8]> {
        let mut attributes = self.attributes.iter();
        attributes
            .find(|(found, _)| *found == number)
            .map(|(_, value)| value.as_slice())
    }

    pub(crate) fn has(&self, number: u16) -> bool {
        self.value(number).is_some()
    }

    pub(crate) fn addresses(&self, number: u16) -> Vec<SocketAddr> {
        let of_type = self.attributes.iter().filter(|(found, _)| *found == number);
        of_type
            .map(|(_, value)| {
                XorSocketAddr::from_raw(&RawAttribute::new(number.into(), value))
                    .unwrap()
                    .addr(self.id.into())
            })
            .collect()
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.addresses(attribute::XOR_PEER_ADDRESS)[0]
    }

    pub(crate) fn relayed(&self) -> Vec<SocketAddr> {
        self.addresses(attribute::XOR_RELAYED_ADDRESS)
    }

    pub(crate) fn mapped(&self) -> SocketAddr {
        self.addresses(attribute::XOR_MAPPED_ADDRESS)[0]
    }

    pub(crate) fn lifetime(&self) -> u32 {
        u32::from_be_bytes(self.value(attribute::LIFETIME).unwrap().try_into().unwrap())
    }

    pub(crate) fn data(&self) -> &[u8] {
        self.value(attribute::DATA).unwrap()
    }

    pub(crate) fn code(&self) -> Option<u16> {
        let value = self.value(attribute::ERROR_CODE)?;
        let raw = RawAttribute::new(attribute::ERROR_CODE.into(), value);
        Some(ErrorCode::try_from(&raw).unwrap().code())
    }

    pub(crate) fn is_success(&self) -> bool {
        self.class == MessageClass::Success
    }

    /// The types that UNKNOWN-ATTRIBUTES names.
    pub(crate) fn unknown_attributes(&self) -> Vec<u16> {
        let value = self.value(attribute::UNKNOWN_ATTRIBUTES).unwrap();
        let pairs = value.chunks_exact(2);
        pairs
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
            .collect()
    }

    /// Asserts that it is a success and gives it back.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert!(self.is_success(), "success wanted, not {self:?}");
        self
    }

    /// Asserts that it is that error and gives it back.
    #[track_caller]
    pub(crate) fn error(self, code: u16) -> Self {
        assert_eq!(self.code(), Some(code), "{self:?}");
        self
    }

    /// Which attribute protects it: the stronger, if there are both.
    pub(crate) fn hmac(&self) -> Option<Hmac> {
        if self.has(attribute::MESSAGE_INTEGRITY_SHA256) {
            Some(Hmac::Sha256)
        } else if self.has(attribute::MESSAGE_INTEGRITY) {
            Some(Hmac::Sha1)
        } else {
            None
        }
    }

    /// Whether what protects it was made with `key`.
    pub(crate) fn is_authentic(&self, key: &IntegrityKey) -> bool {
        let Some(hmac) = self.hmac() else {
            return false;
        };
        let number = match hmac {
            Hmac::Sha1 => attribute::MESSAGE_INTEGRITY,
            Hmac::Sha256 => attribute::MESSAGE_INTEGRITY_SHA256,
        };
        let message = Message::from_bytes(&self.bytes).unwrap();
        let (offset, raw) = message
            .iter_attributes()
            .find(|(_, raw)| raw.get_type_number() == number)
            .unwrap();
        let mut protected = self.bytes[..offset].to_vec();
        let length = u16::try_from(offset + raw.padded_len() - MessageHeader::LENGTH).unwrap();
        protected[2..4].copy_from_slice(&length.to_be_bytes());
        hmac_of(&protected, hmac, key) == raw.value.to_vec()
    }

    /// Each class and method has its attributes, and no others.
    #[track_caller]
    fn judge_contents(&self) {
        use attribute as a;
        let (required, optional): (&[u16], &[u16]) = match (self.class, self.method) {
            (MessageClass::Request, _) => panic!("a server sends no requests: {self:?}"),
            (MessageClass::Error, _) => {
                let required: &[u16] = match self.code().expect("an error has a code") {
                    // RFC 8489 §9.2.4
                    401 | 438 => &[a::ERROR_CODE, a::REALM, a::NONCE, a::PASSWORD_ALGORITHMS],
                    420 => &[a::ERROR_CODE, a::UNKNOWN_ATTRIBUTES],
                    400 | 403 | 405 | 437 | 440..=443 | 446 | 447 | 486 | 508 => &[a::ERROR_CODE],
                    code => panic!("code {code}: {self:?}"),
                };
                (required, &[a::SOFTWARE])
            }
            (MessageClass::Success, BINDING) => (&[a::XOR_MAPPED_ADDRESS], &[a::SOFTWARE]),
            (MessageClass::Success, ALLOCATE) => (
                &[a::XOR_RELAYED_ADDRESS, a::LIFETIME, a::XOR_MAPPED_ADDRESS],
                &[a::RESERVATION_TOKEN, a::ADDRESS_ERROR_CODE, a::SOFTWARE],
            ),
            (MessageClass::Success, REFRESH) => (&[a::LIFETIME], &[a::SOFTWARE]),
            (MessageClass::Success, CREATE_PERMISSION | CHANNEL_BIND | CONNECTION_BIND) => {
                (&[], &[a::SOFTWARE])
            }
            (MessageClass::Success, CONNECT) => (&[a::CONNECTION_ID], &[a::SOFTWARE]),
            (MessageClass::Indication, DATA_METHOD) => {
                let contents = if self.has(a::ICMP) { a::ICMP } else { a::DATA };
                (
                    match contents {
                        a::ICMP => &[a::XOR_PEER_ADDRESS, a::ICMP],
                        _ => &[a::XOR_PEER_ADDRESS, a::DATA],
                    },
                    &[],
                )
            }
            (MessageClass::Indication, CONNECTION_ATTEMPT) => {
                (&[a::XOR_PEER_ADDRESS, a::CONNECTION_ID], &[])
            }
            (class, method) => panic!("a server does not send {class:?} of {method}"),
        };
        for number in required {
            assert!(self.has(*number), "{number:#06x} is missing: {self:?}");
        }
        let protection = [
            a::MESSAGE_INTEGRITY,
            a::MESSAGE_INTEGRITY_SHA256,
            a::FINGERPRINT,
        ];
        for (number, _) in &self.attributes {
            let known = required.contains(number)
                || optional.contains(number)
                || (self.class != MessageClass::Indication && protection.contains(number));
            assert!(known, "{number:#06x} does not belong here: {self:?}");
            let count = self.attributes.iter().filter(|(n, _)| n == number).count();
            let most = if *number == a::XOR_RELAYED_ADDRESS {
                2
            } else {
                1
            };
            assert!(count <= most, "{number:#06x} is there {count} times");
        }
    }
}

/// What `stun-types` has a reader for is read with it; the rest has a length.
#[track_caller]
fn judge_attribute(raw: &RawAttribute<'_>, id: TransactionId) {
    use attribute as a;
    let number = raw.get_type_number();
    let len = raw.value.len();
    let right = match number {
        a::ERROR_CODE => ErrorCode::try_from(raw).is_ok(),
        a::UNKNOWN_ATTRIBUTES => UnknownAttributes::try_from(raw).is_ok(),
        a::REALM => Realm::try_from(raw).is_ok(),
        a::NONCE => Nonce::try_from(raw).is_ok_and(|nonce| nonce.nonce().len() < 128),
        a::SOFTWARE => Software::try_from(raw).is_ok(),
        a::PASSWORD_ALGORITHMS => PasswordAlgorithms::try_from(raw).is_ok(),
        a::XOR_MAPPED_ADDRESS | a::XOR_PEER_ADDRESS | a::XOR_RELAYED_ADDRESS => {
            raw.value[0] == 0
                && XorSocketAddr::from_raw(raw).is_ok_and(|address| {
                    let address = address.addr(id);
                    // what stands for an IPv4 address is written as one
                    address.ip().to_canonical() == address.ip()
                })
        }
        a::MESSAGE_INTEGRITY => MessageIntegrity::try_from(raw).is_ok(),
        a::MESSAGE_INTEGRITY_SHA256 => MessageIntegritySha256::try_from(raw).is_ok() && len == 32,
        a::FINGERPRINT => Fingerprint::try_from(raw).is_ok(),
        a::LIFETIME | a::CONNECTION_ID => len == 4,
        a::RESERVATION_TOKEN => len == 8,
        a::ICMP => len == 8 && raw.value[..2] == [0, 0],
        a::ADDRESS_ERROR_CODE => len >= 4 && raw.value[1] == 0 && raw.value[2] & 0xF8 == 0,
        a::DATA => true,
        _ => panic!("a server does not send {number:#06x}"),
    };
    assert!(right, "{number:#06x} is malformed: {raw:?}");
}

trait TypeNumber {
    fn get_type_number(&self) -> u16;
}

impl TypeNumber for RawAttribute<'_> {
    fn get_type_number(&self) -> u16 {
        self.header.get_type().value()
    }
}
