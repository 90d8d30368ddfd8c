//! STUN messages and `ChannelData` as a TURN client over IPv4 needs them.
//!
//! Written from RFC 8489 and RFC 8656 a second time, without a look at the relay's own code: what one
//! of the two misread shows. The long-term credentials are those that every server knows: an MD5 key
//! and HMAC-SHA1.

use std::net::{Ipv4Addr, SocketAddrV4};

use aws_lc_rs::hmac;
use md5::{Digest as _, Md5};

/// RFC 8489 §5: what stands in every message, and what addresses are combined with.
const MAGIC_COOKIE: u32 = 0x2112_A442;
/// RFC 8489 §5: bytes before the attributes.
const HEADER: usize = 20;
/// RFC 8489 §14.5: type, length and HMAC-SHA1.
const INTEGRITY_ATTRIBUTE: usize = 24;
/// RFC 8656 §12.4: channel number and length.
pub(crate) const CHANNEL_HEADER: usize = 4;

/// What is asked for: RFC 8489 §18.2, RFC 8656 §17.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Method {
    Binding = 0x001,
    Allocate = 0x003,
    Refresh = 0x004,
    CreatePermission = 0x008,
    ChannelBind = 0x009,
}

/// Attributes: RFC 8489 §18.3, RFC 8656 §18.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Attribute {
    Username = 0x0006,
    MessageIntegrity = 0x0008,
    ErrorCode = 0x0009,
    ChannelNumber = 0x000C,
    Lifetime = 0x000D,
    XorPeerAddress = 0x0012,
    Realm = 0x0014,
    Nonce = 0x0015,
    XorRelayedAddress = 0x0016,
    RequestedTransport = 0x0019,
    XorMappedAddress = 0x0020,
}

/// What a message is: RFC 8489 §5. Indications are not read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Request,
    Success,
    Error,
}

/// What a request and its answer have in common.
pub(crate) type Transaction = [u8; 12];

/// The key of long-term credentials.
#[derive(Clone)]
pub(crate) struct Key(hmac::Key);

/// A request that is being written.
pub(crate) struct Request(Vec<u8>);

/// A message that was read.
pub(crate) struct Message<'a> {
    pub(crate) class: Class,
    pub(crate) method: u16,
    pub(crate) transaction: Transaction,
    bytes: &'a [u8],
}

impl Key {
    /// RFC 8489 §9.2.2: MD5 of username, realm and password. They are ASCII here, which `OpaqueString`
    /// leaves as it is.
    pub(crate) fn new(username: &str, realm: &str, password: &str) -> Self {
        let key = Md5::digest(format!("{username}:{realm}:{password}"));
        Self(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key))
    }
}

impl Request {
    /// A request without attributes.
    pub(crate) fn new(method: Method, transaction: Transaction) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(message_type(method as u16, Class::Request).to_be_bytes());
        bytes.extend(0_u16.to_be_bytes());
        bytes.extend(MAGIC_COOKIE.to_be_bytes());
        bytes.extend(transaction);
        Self(bytes)
    }

    /// Adds an attribute, padded to a multiple of four (RFC 8489 §14).
    pub(crate) fn with(mut self, attribute: Attribute, value: &[u8]) -> Self {
        self.0.extend((attribute as u16).to_be_bytes());
        self.0.extend(length(value.len()).to_be_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        let after_header = length(self.0.len() - HEADER).to_be_bytes();
        self.0.splice(2..4, after_header);
        self
    }

    /// Adds a number of four bytes, as LIFETIME is.
    pub(crate) fn with_number(self, attribute: Attribute, value: u32) -> Self {
        self.with(attribute, &value.to_be_bytes())
    }

    /// Adds an address, combined with the magic cookie (RFC 8489 §14.2).
    pub(crate) fn with_address(self, attribute: Attribute, address: SocketAddrV4) -> Self {
        let [port_high, port_low] = (address.port() ^ COOKIE_HIGH).to_be_bytes();
        let [a, b, c, d] = (address.ip().to_bits() ^ MAGIC_COOKIE).to_be_bytes();
        self.with(attribute, &[0, 1, port_high, port_low, a, b, c, d])
    }

    /// Adds MESSAGE-INTEGRITY over all that is there, with a length in the header that counts it already
    /// (RFC 8489 §14.5).
    pub(crate) fn with_integrity(self, key: &Key) -> Self {
        let mut request = self.with(Attribute::MessageIntegrity, &[0; 20]);
        let signed = request.0.len() - INTEGRITY_ATTRIBUTE;
        let tag = hmac::sign(&key.0, request.0.get(..signed).unwrap_or_default());
        request.0.truncate(signed + 4);
        request.0.extend(tag.as_ref());
        request
    }

    /// The request as it is sent.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl<'a> Message<'a> {
    /// Reads a message; none if the bytes are no whole STUN message. What follows it is not looked at.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let kind = number(bytes, 0)?;
        let body = usize::from(number(bytes, 2)?);
        let cookie = u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?);
        if kind & 0xC000 != 0 || cookie != MAGIC_COOKIE || !body.is_multiple_of(4) {
            return None;
        }
        let class = match kind & 0x0110 {
            0x0000 => Class::Request,
            0x0100 => Class::Success,
            0x0110 => Class::Error,
            _ => return None,
        };
        Some(Self {
            class,
            method: (kind & 0x000F) | (kind & 0x00E0) >> 1 | (kind & 0x3E00) >> 2,
            transaction: bytes.get(8..HEADER)?.try_into().ok()?,
            bytes: bytes.get(..HEADER + body)?,
        })
    }

    /// The first attribute of that type.
    pub(crate) fn attribute(&self, wanted: Attribute) -> Option<&'a [u8]> {
        self.find(wanted).map(|(_, value)| value)
    }

    /// A number of four bytes, as LIFETIME is.
    pub(crate) fn number(&self, wanted: Attribute) -> Option<u32> {
        let value = self.attribute(wanted)?.try_into().ok()?;
        Some(u32::from_be_bytes(value))
    }

    /// An IPv4 address, combined with the magic cookie.
    pub(crate) fn address(&self, wanted: Attribute) -> Option<SocketAddrV4> {
        let value = self.attribute(wanted)?;
        let [_, 1, port_high, port_low, a, b, c, d] = value else {
            return None;
        };
        let port = u16::from_be_bytes([*port_high, *port_low]) ^ COOKIE_HIGH;
        let ip = u32::from_be_bytes([*a, *b, *c, *d]) ^ MAGIC_COOKIE;
        Some(SocketAddrV4::new(Ipv4Addr::from_bits(ip), port))
    }

    /// The code of an error (RFC 8489 §14.8).
    pub(crate) fn error_code(&self) -> Option<u16> {
        let [_, _, class, number, ..] = self.attribute(Attribute::ErrorCode)? else {
            return None;
        };
        Some(u16::from(*class & 7) * 100 + u16::from(*number))
    }

    /// Whether MESSAGE-INTEGRITY is there and right.
    pub(crate) fn is_signed_with(&self, key: &Key) -> bool {
        let Some((place, tag)) = self.find(Attribute::MessageIntegrity) else {
            return false;
        };
        let mut signed = self.bytes.get(..place).unwrap_or_default().to_vec();
        // the length counts MESSAGE-INTEGRITY and nothing behind it
        let after_header = length(place + INTEGRITY_ATTRIBUTE - HEADER).to_be_bytes();
        signed.splice(2..4, after_header);
        hmac::verify(&key.0, &signed, tag).is_ok()
    }

    /// Where the first attribute of that type begins, and its value.
    fn find(&self, wanted: Attribute) -> Option<(usize, &'a [u8])> {
        let mut place = HEADER;
        loop {
            let kind = number(self.bytes, place)?;
            let length = usize::from(number(self.bytes, place + 2)?);
            let value = self.bytes.get(place + 4..place + 4 + length)?;
            if kind == wanted as u16 {
                return Some((place, value));
            }
            place += 4 + length.next_multiple_of(4);
        }
    }
}

/// The header of `ChannelData` (RFC 8656 §12.4).
pub(crate) fn channel_header(channel: u16, size: usize) -> [u8; CHANNEL_HEADER] {
    let [a, b] = channel.to_be_bytes();
    let [c, d] = length(size).to_be_bytes();
    [a, b, c, d]
}

/// Channel and data of `ChannelData`; none if it is not, or not whole.
pub(crate) fn channel_data(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let channel = number(bytes, 0)?;
    let size = usize::from(number(bytes, 2)?);
    let data = bytes.get(CHANNEL_HEADER..CHANNEL_HEADER + size)?;
    (0x4000..=0x4FFF)
        .contains(&channel)
        .then_some((channel, data))
}

/// What ports are combined with.
const COOKIE_HIGH: u16 = (MAGIC_COOKIE >> 16) as u16;

/// RFC 8489 §5: the bits of the class stand among those of the method.
const fn message_type(method: u16, class: Class) -> u16 {
    let class = match class {
        Class::Request => 0x0000,
        Class::Success => 0x0100,
        Class::Error => 0x0110,
    };
    method & 0x000F | (method & 0x0070) << 1 | (method & 0x0F80) << 2 | class
}

fn number(bytes: &[u8], place: usize) -> Option<u16> {
    let bytes = bytes.get(place..place + 2)?.try_into().ok()?;
    Some(u16::from_be_bytes(bytes))
}

fn length(length: usize) -> u16 {
    u16::try_from(length).expect("messages of this client are short")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769 §2.4: a request with long-term credentials, whose username and password are what
    /// `SASLprep` makes of the ones there.
    const SAMPLE: &[u8] = &[
        0x00, 0x01, 0x00, 0x60, 0x21, 0x12, 0xa4, 0x42, 0x78, 0xad, 0x34, 0x33, 0xc6, 0xad, 0x72,
        0xc0, 0x29, 0xda, 0x41, 0x2e, 0x00, 0x06, 0x00, 0x12, 0xe3, 0x83, 0x9e, 0xe3, 0x83, 0x88,
        0xe3, 0x83, 0xaa, 0xe3, 0x83, 0x83, 0xe3, 0x82, 0xaf, 0xe3, 0x82, 0xb9, 0x00, 0x00, 0x00,
        0x15, 0x00, 0x1c, 0x66, 0x2f, 0x2f, 0x34, 0x39, 0x39, 0x6b, 0x39, 0x35, 0x34, 0x64, 0x36,
        0x4f, 0x4c, 0x33, 0x34, 0x6f, 0x4c, 0x39, 0x46, 0x53, 0x54, 0x76, 0x79, 0x36, 0x34, 0x73,
        0x41, 0x00, 0x14, 0x00, 0x0b, 0x65, 0x78, 0x61, 0x6d, 0x70, 0x6c, 0x65, 0x2e, 0x6f, 0x72,
        0x67, 0x00, 0x00, 0x08, 0x00, 0x14, 0xf6, 0x70, 0x24, 0x65, 0x6d, 0xd6, 0x4a, 0x3e, 0x02,
        0xb8, 0xe0, 0x71, 0x2e, 0x85, 0xc9, 0xa2, 0x8c, 0xa8, 0x96, 0x66,
    ];
    const USERNAME: &str = "マトリックス";
    const REALM: &str = "example.org";
    const NONCE: &[u8] = b"f//499k954d6OL34oL9FSTvy64sA";

    #[test]
    fn the_sample_of_rfc_5769_is_written_to_the_byte() {
        let transaction = SAMPLE[8..20].try_into().unwrap();
        let key = Key::new(USERNAME, REALM, "TheMatrIX");
        let request = Request::new(Method::Binding, transaction)
            .with(Attribute::Username, USERNAME.as_bytes())
            .with(Attribute::Nonce, NONCE)
            .with(Attribute::Realm, REALM.as_bytes())
            .with_integrity(&key);
        assert_eq!(request.into_bytes(), SAMPLE);
    }

    #[test]
    fn the_sample_of_rfc_5769_is_read_and_its_integrity_holds() {
        let message = Message::read(SAMPLE).unwrap();
        assert_eq!((message.class, message.method), (Class::Request, 1));
        assert_eq!(message.attribute(Attribute::Nonce), Some(NONCE));
        assert!(message.is_signed_with(&Key::new(USERNAME, REALM, "TheMatrIX")));
        assert!(!message.is_signed_with(&Key::new(USERNAME, REALM, "themAtrIX")));
        let mut changed = SAMPLE.to_vec();
        changed[30] ^= 1;
        let changed = Message::read(&changed).unwrap();
        assert!(!changed.is_signed_with(&Key::new(USERNAME, REALM, "TheMatrIX")));
    }

    #[test]
    fn an_address_that_was_written_is_read() {
        let address = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 32853);
        let request = Request::new(Method::ChannelBind, [7; 12])
            .with_address(Attribute::XorPeerAddress, address);
        let bytes = request.into_bytes();
        // RFC 5769 §2.2 has this address with this port
        assert_eq!(bytes[24..], [0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        let message = Message::read(&bytes).unwrap();
        assert_eq!(message.address(Attribute::XorPeerAddress), Some(address));
        assert_eq!(message.method, Method::ChannelBind as u16);
    }

    #[test]
    fn an_error_is_its_class_and_number() {
        let mut bytes = Request::new(Method::Allocate, [0; 12])
            .with(Attribute::ErrorCode, &[0, 0, 4, 38])
            .into_bytes();
        bytes[0..2].copy_from_slice(&[0x01, 0x13]);
        let message = Message::read(&bytes).unwrap();
        assert_eq!((message.class, message.method), (Class::Error, 3));
        assert_eq!(message.error_code(), Some(438));
    }

    #[test]
    fn what_is_cut_off_is_not_read() {
        for end in 0..SAMPLE.len() {
            assert!(Message::read(&SAMPLE[..end]).is_none(), "{end}");
        }
        let header = channel_header(0x4001, 5);
        assert_eq!(channel_data(&header), None);
        let mut whole = header.to_vec();
        whole.extend(b"hello and more");
        assert_eq!(channel_data(&whole), Some((0x4001, &b"hello"[..])));
        whole[0] = 0x50;
        assert_eq!(channel_data(&whole), None);
    }
}
