use std::net::SocketAddr;

use aws_lc_rs::constant_time;

use super::{
    HEADER_LEN, MAGIC_COOKIE,
    attribute::{AttributeType, read_xor_address},
    integrity::{IntegrityKind, Key, fingerprint},
};

/// What a message is, RFC 8489 §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// 0b00.
    Request,
    /// 0b01.
    Indication,
    /// 0b10: the answer to a request that was carried out.
    Success,
    /// 0b11: the answer to a request that was not.
    Error,
}

/// What a message is about, RFC 8489 §18.2, RFC 8656 §17, RFC 6062 §6.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// 0x001.
    Binding,
    /// 0x003.
    Allocate,
    /// 0x004.
    Refresh,
    /// 0x006, an indication.
    Send,
    /// 0x007, an indication.
    Data,
    /// 0x008.
    CreatePermission,
    /// 0x009.
    ChannelBind,
    /// 0x00A, RFC 6062.
    Connect,
    /// 0x00B, RFC 6062.
    ConnectionBind,
    /// 0x00C, an indication of RFC 6062.
    ConnectionAttempt,
    /// Any other number of twelve bits.
    Other(u16),
}

impl Method {
    const fn from_number(number: u16) -> Self {
        match number {
            0x001 => Self::Binding,
            0x003 => Self::Allocate,
            0x004 => Self::Refresh,
            0x006 => Self::Send,
            0x007 => Self::Data,
            0x008 => Self::CreatePermission,
            0x009 => Self::ChannelBind,
            0x00A => Self::Connect,
            0x00B => Self::ConnectionBind,
            0x00C => Self::ConnectionAttempt,
            other => Self::Other(other),
        }
    }

    const fn number(self) -> u16 {
        match self {
            Self::Binding => 0x001,
            Self::Allocate => 0x003,
            Self::Refresh => 0x004,
            Self::Send => 0x006,
            Self::Data => 0x007,
            Self::CreatePermission => 0x008,
            Self::ChannelBind => 0x009,
            Self::Connect => 0x00A,
            Self::ConnectionBind => 0x00B,
            Self::ConnectionAttempt => 0x00C,
            Self::Other(number) => number & 0xFFF,
        }
    }
}

/// The two first bytes of a message: class and method interleaved, RFC 8489 §5.
pub(super) const fn message_type(class: Class, method: Method) -> u16 {
    let number = method.number();
    let class = match class {
        Class::Request => 0,
        Class::Indication => 0x0010,
        Class::Success => 0x0100,
        Class::Error => 0x0110,
    };
    (number & 0x000F) | (number & 0x0070) << 1 | (number & 0x0F80) << 2 | class
}

/// What ties an answer to its request, RFC 8489 §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransactionId(pub [u8; 12]);

/// Why bytes are not a STUN message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Shorter than a header, not beginning with two zero bits, or without the magic cookie.
    #[error("no STUN header")]
    NoHeader,
    /// The length is not that of the bytes, or no multiple of four.
    #[error("the length does not fit")]
    Length,
    /// An attribute reaches beyond the end of the message.
    #[error("an attribute reaches beyond the end")]
    AttributeLength,
    /// FINGERPRINT is there and wrong, or not the last attribute.
    #[error("the fingerprint is wrong")]
    Fingerprint,
}

/// How many unknown attributes are told to a client: an answer has to stay small.
const MAX_UNKNOWN: usize = 8;

/// A message, checked for its form, that borrows the bytes it came in.
///
/// Attributes behind MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256 are not seen, but for the latter
/// behind the former and FINGERPRINT (RFC 8489 §14.5, §14.6): somebody on the path may have added them.
/// Of several attributes of one type the first counts (RFC 8489 §14), but for XOR-PEER-ADDRESS, of which
/// [`Message::peer_addresses`] gives all.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    header: &'a [u8; HEADER_LEN],
    class: Class,
    method: Method,
    /// Offset of the first value of each known type, and its length. Offsets below `HEADER_LEN` mean none.
    values: [(u16, u16); AttributeType::KNOWN],
    unknown: [AttributeType; MAX_UNKNOWN],
    unknown_count: usize,
}

impl<'a> Message<'a> {
    /// Reads `bytes`, which hold one message and nothing else.
    ///
    /// # Errors
    ///
    /// If they do not. What attributes mean is not looked at.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (header, attributes) = bytes
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(ParseError::NoHeader)?;
        let &[t0, t1, l0, l1, c0, c1, c2, c3, ..] = header;
        let message_type = u16::from_be_bytes([t0, t1]);
        if message_type & 0xC000 != 0 || u32::from_be_bytes([c0, c1, c2, c3]) != MAGIC_COOKIE {
            return Err(ParseError::NoHeader);
        }
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if length % 4 != 0 || length != attributes.len() {
            return Err(ParseError::Length);
        }
        let class = match (message_type & 0x0100 != 0, message_type & 0x0010 != 0) {
            (false, false) => Class::Request,
            (false, true) => Class::Indication,
            (true, false) => Class::Success,
            (true, true) => Class::Error,
        };
        let number =
            (message_type & 0x000F) | (message_type & 0x00E0) >> 1 | (message_type & 0x3E00) >> 2;
        let mut message = Self {
            bytes,
            header,
            class,
            method: Method::from_number(number),
            values: [(0, 0); AttributeType::KNOWN],
            unknown: [AttributeType(0); MAX_UNKNOWN],
            unknown_count: 0,
        };
        message.index()?;
        message.check_fingerprint()?;
        Ok(message)
    }

    /// Notes where the attributes are.
    fn index(&mut self) -> Result<(), ParseError> {
        let mut protected = false;
        let mut protected_sha256 = false;
        let mut fingerprint_seen = false;
        for attribute in Walk::new(self.bytes) {
            let Attribute {
                number,
                offset,
                value,
            } = attribute?;
            if fingerprint_seen {
                return Err(ParseError::Fingerprint);
            }
            let counts = match number {
                AttributeType::FINGERPRINT => {
                    fingerprint_seen = true;
                    true
                }
                AttributeType::MESSAGE_INTEGRITY_SHA256 => {
                    protected_sha256 = true;
                    true
                }
                AttributeType::MESSAGE_INTEGRITY => {
                    protected = true;
                    !protected_sha256
                }
                _ => !protected && !protected_sha256,
            };
            if !counts {
                continue;
            }
            match number.index().and_then(|index| self.values.get_mut(index)) {
                Some(slot) if slot.0 == 0 => {
                    // an offset that does not fit is one of the last 20 bytes of the longest message on a stream
                    let (Ok(offset), Ok(len)) = (u16::try_from(offset), u16::try_from(value.len()))
                    else {
                        return Err(ParseError::AttributeLength);
                    };
                    *slot = (offset, len);
                }
                Some(_) => {}
                None => self.note_unknown(number),
            }
        }
        Ok(())
    }

    fn note_unknown(&mut self, number: AttributeType) {
        let noted = self.unknown_attributes().contains(&number);
        if number.is_comprehension_required()
            && !noted
            && let Some(slot) = self.unknown.get_mut(self.unknown_count)
        {
            *slot = number;
            self.unknown_count += 1;
        }
    }

    fn check_fingerprint(&self) -> Result<(), ParseError> {
        let Some(range) = self.value_range(AttributeType::FINGERPRINT) else {
            return Ok(());
        };
        let length = length_until(range.end);
        let expected = fingerprint(self.protected(range.start, &length)).to_be_bytes();
        // a value of another length is not equal
        if self.value(AttributeType::FINGERPRINT) == Some(&expected) {
            Ok(())
        } else {
            Err(ParseError::Fingerprint)
        }
    }

    /// Request, indication or answer.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.class
    }

    /// What it is about.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// What an answer repeats.
    #[must_use]
    pub fn transaction_id(&self) -> TransactionId {
        let &[_, _, _, _, _, _, _, _, ref id @ ..] = self.header;
        TransactionId(*id)
    }

    /// The whole message.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether there is an attribute of that type. `false` for types that are not named in [`AttributeType`].
    #[must_use]
    pub fn has(&self, attribute: AttributeType) -> bool {
        self.value_range(attribute).is_some()
    }

    /// The value of the first attribute of that type, without padding.
    #[must_use]
    pub fn value(&self, attribute: AttributeType) -> Option<&'a [u8]> {
        self.bytes.get(self.value_range(attribute)?)
    }

    /// As [`Self::value`], and where in [`Self::as_bytes`] it begins.
    #[must_use]
    pub fn value_range(&self, attribute: AttributeType) -> Option<std::ops::Range<usize>> {
        let (offset, len) = *self.values.get(attribute.index()?)?;
        let start = usize::from(offset);
        (start != 0).then(|| start..start + usize::from(len))
    }

    /// The address in the first attribute of that type, if it is a well-formed XOR-…-ADDRESS.
    #[must_use]
    pub fn xor_address(&self, attribute: AttributeType) -> Option<SocketAddr> {
        read_xor_address(self.value(attribute)?, self.transaction_id())
    }

    /// All XOR-PEER-ADDRESS attributes in their order; `None` for one that is malformed.
    pub fn peer_addresses(&self) -> impl Iterator<Item = Option<SocketAddr>> {
        let id = self.transaction_id();
        self.attributes()
            .filter(|(number, _)| *number == AttributeType::XOR_PEER_ADDRESS)
            .map(move |(_, value)| read_xor_address(value, id))
    }

    /// All attributes before the first that protects the message, in their order.
    pub fn attributes(&self) -> impl Iterator<Item = (AttributeType, &'a [u8])> {
        Walk::new(self.bytes)
            .map_while(Result::ok)
            .take_while(|attribute| {
                !matches!(
                    attribute.number,
                    AttributeType::MESSAGE_INTEGRITY
                        | AttributeType::MESSAGE_INTEGRITY_SHA256
                        | AttributeType::FINGERPRINT
                )
            })
            .map(|attribute| (attribute.number, attribute.value))
    }

    /// Comprehension-required types that are not named in [`AttributeType`], eight at most.
    #[must_use]
    pub fn unknown_attributes(&self) -> &[AttributeType] {
        self.unknown.get(..self.unknown_count).unwrap_or_default()
    }

    /// Which attribute protects the message: the stronger, if there are both (RFC 8489 §9.2.4).
    #[must_use]
    pub fn integrity(&self) -> Option<IntegrityKind> {
        if self.has(AttributeType::MESSAGE_INTEGRITY_SHA256) {
            Some(IntegrityKind::Sha256)
        } else if self.has(AttributeType::MESSAGE_INTEGRITY) {
            Some(IntegrityKind::Sha1)
        } else {
            None
        }
    }

    /// Whether the attribute that [`Self::integrity`] names was made with `key`. Compares in constant time.
    #[must_use]
    pub fn is_authentic(&self, key: &Key) -> bool {
        let Some(kind) = self.integrity() else {
            return false;
        };
        let attribute = match kind {
            IntegrityKind::Sha1 => AttributeType::MESSAGE_INTEGRITY,
            IntegrityKind::Sha256 => AttributeType::MESSAGE_INTEGRITY_SHA256,
        };
        let Some((range, value)) = self.value_range(attribute).zip(self.value(attribute)) else {
            return false;
        };
        let length_fits = match kind {
            IntegrityKind::Sha1 => value.len() == 20,
            // RFC 8489 §14.6
            IntegrityKind::Sha256 => (16..=32).contains(&value.len()) && value.len() % 4 == 0,
        };
        let length = length_until(range.end);
        length_fits && {
            let tag = key.sign(kind, self.protected(range.start, &length));
            tag.as_ref()
                .get(..value.len())
                .is_some_and(|tag| constant_time::verify_slices_are_equal(tag, value).is_ok())
        }
    }

    /// What the attribute protects whose value begins at `offset`: type, the `length` that the header has if the
    /// attribute is the last one, and all that is before it.
    fn protected<'b>(&self, offset: usize, length: &'b [u8; 2]) -> [&'b [u8]; 3]
    where
        'a: 'b,
    {
        let before = self.bytes.get(4..offset.saturating_sub(4));
        [&self.header[..2], length, before.unwrap_or_default()]
    }
}

/// The length in the header of a message that ends at `end`; for values whose own length is a multiple of four.
fn length_until(end: usize) -> [u8; 2] {
    let length = u16::try_from(end.saturating_sub(HEADER_LEN));
    // the length of the message that this is a part of fits, too
    length.unwrap_or_default().to_be_bytes()
}

struct Attribute<'a> {
    number: AttributeType,
    /// Of the value.
    offset: usize,
    value: &'a [u8],
}

/// Walks over all attributes of a message whose header was checked.
struct Walk<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Walk<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            offset: HEADER_LEN,
        }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<Attribute<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.offset..)?;
        if rest.is_empty() {
            return None;
        }
        let attribute = rest.split_first_chunk::<4>().and_then(|(header, rest)| {
            let &[t0, t1, l0, l1] = header;
            let value = rest.get(..usize::from(u16::from_be_bytes([l0, l1])))?;
            // its padding is there, too: the message is as long as a multiple of four
            Some(Attribute {
                number: AttributeType(u16::from_be_bytes([t0, t1])),
                offset: self.offset + 4,
                value,
            })
        });
        let Some(attribute) = attribute else {
            self.offset = self.bytes.len();
            return Some(Err(ParseError::AttributeLength));
        };
        self.offset = attribute.offset + attribute.value.len().next_multiple_of(4);
        Some(Ok(attribute))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::{MessageWriter, integrity::PasswordAlgorithm};

    const ID: TransactionId = TransactionId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);

    #[test]
    fn class_and_method_are_interleaved() {
        // RFC 8489 §5, figure 3, and §18.2
        for (class, method, number) in [
            (Class::Request, Method::Binding, 0x0001),
            (Class::Indication, Method::Binding, 0x0011),
            (Class::Success, Method::Binding, 0x0101),
            (Class::Error, Method::Binding, 0x0111),
            (Class::Request, Method::Allocate, 0x0003),
            (Class::Success, Method::Allocate, 0x0103),
            (Class::Error, Method::Allocate, 0x0113),
            (Class::Request, Method::Refresh, 0x0004),
            (Class::Indication, Method::Send, 0x0016),
            (Class::Indication, Method::Data, 0x0017),
            (Class::Request, Method::CreatePermission, 0x0008),
            (Class::Request, Method::ChannelBind, 0x0009),
            (Class::Request, Method::Connect, 0x000A),
            (Class::Request, Method::ConnectionBind, 0x000B),
            (Class::Indication, Method::ConnectionAttempt, 0x001C),
            (Class::Request, Method::Other(0xFFF), 0x3EEF),
            (Class::Error, Method::Other(0xFFF), 0x3FFF),
            (Class::Request, Method::Other(0x080), 0x0200),
            (Class::Request, Method::Other(0x010), 0x0020),
        ] {
            assert_eq!(message_type(class, method), number, "{class:?} {method:?}");
            let bytes = written(class, method, |_| {});
            assert_eq!(bytes[..2], number.to_be_bytes());
            let message = Message::parse(&bytes).unwrap();
            assert_eq!((message.class(), message.method()), (class, method));
        }
    }

    #[test]
    fn what_has_no_header_is_no_message() {
        let bytes = written(Class::Request, Method::Binding, |_| {});
        assert!(Message::parse(&bytes).is_ok());
        for len in 0..20 {
            assert_eq!(error_of(&bytes[..len]), ParseError::NoHeader);
        }
        for (place, value) in [(0, 0x40), (0, 0x80), (4, 0x20), (5, 0), (6, 0), (7, 0x43)] {
            let mut wrong = bytes.clone();
            wrong[place] = value;
            assert_eq!(error_of(&wrong), ParseError::NoHeader, "byte {place}");
        }
    }

    #[test]
    fn the_length_is_that_of_the_bytes() {
        let mut bytes = written(Class::Request, Method::Binding, |writer| {
            writer.number(AttributeType::LIFETIME, 1);
        });
        for length in [0, 4, 7, 9, 12, 0xFF] {
            bytes[3] = length;
            assert_eq!(error_of(&bytes), ParseError::Length, "{length}");
        }
        bytes[3] = 8;
        assert!(Message::parse(&bytes).is_ok());
        // no multiple of four, although the bytes are there
        bytes[3] = 9;
        bytes.push(0);
        assert_eq!(error_of(&bytes), ParseError::Length);
    }

    #[test]
    fn an_attribute_ends_within_the_message() {
        for (length, fits) in [
            (4, true),
            (3, true),
            (1, true),
            (5, false),
            (8, false),
            // what was the value is a header then, of a value that is not there
            (0, false),
        ] {
            let mut bytes = written(Class::Request, Method::Binding, |writer| {
                writer.number(AttributeType::LIFETIME, 1);
            });
            bytes[23] = length;
            let error = Message::parse(&bytes).err();
            let expected = (!fits).then_some(ParseError::AttributeLength);
            assert_eq!(error, expected, "{length}");
        }
        // a value whose padding is missing, and a header that is cut off
        for body in [
            [0, 0x0D, 0, 3, 1, 2, 3].as_slice(),
            &[0, 0x0D],
            &[0, 0x0D, 0, 0, 0, 6],
        ] {
            let mut bytes = written(Class::Request, Method::Binding, |_| {});
            bytes.extend_from_slice(body);
            bytes[3] = u8::try_from(body.len()).unwrap();
            assert!(Message::parse(&bytes).is_err());
        }
    }

    #[test]
    fn of_several_attributes_of_a_type_the_first_counts() {
        let bytes = written(Class::Request, Method::Allocate, |writer| {
            writer
                .attribute(AttributeType::USERNAME, b"first")
                .attribute(AttributeType::USERNAME, b"second")
                .attribute(AttributeType::EVEN_PORT, b"")
                .attribute(AttributeType::EVEN_PORT, &[0x80]);
        });
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(
            message.value(AttributeType::USERNAME),
            Some(b"first".as_slice())
        );
        // an empty one is one, too
        assert_eq!(message.value(AttributeType::EVEN_PORT), Some([].as_slice()));
        assert_eq!(message.value_range(AttributeType::USERNAME), Some(24..29));
        assert_eq!(message.attributes().count(), 4);
    }

    #[test]
    fn all_peer_addresses_are_seen_and_a_malformed_one_is_told() {
        let bytes = written(Class::Request, Method::CreatePermission, |writer| {
            writer
                .xor_address(
                    AttributeType::XOR_PEER_ADDRESS,
                    "192.0.2.1:1".parse().unwrap(),
                )
                .attribute(AttributeType::XOR_PEER_ADDRESS, &[0, 3, 0, 0, 1, 2, 3, 4])
                .xor_address(
                    AttributeType::XOR_PEER_ADDRESS,
                    "[2001:db8::1]:2".parse().unwrap(),
                );
        });
        let message = Message::parse(&bytes).unwrap();
        let peers: Vec<_> = message.peer_addresses().collect();
        assert_eq!(
            peers,
            [
                Some("192.0.2.1:1".parse().unwrap()),
                None,
                Some("[2001:db8::1]:2".parse().unwrap())
            ]
        );
    }

    #[test]
    fn attributes_that_had_to_be_understood_are_told_once_and_eight_at_most() {
        let bytes = written(Class::Request, Method::Allocate, |writer| {
            for number in [0x8024, 0x0024, 0x0025, 0x0024, 0xC001, 0x7FFF, 0x0026] {
                writer.attribute(AttributeType(number), &[1]);
            }
        });
        let message = Message::parse(&bytes).unwrap();
        let unknown = [0x0024, 0x0025, 0x7FFF, 0x0026].map(AttributeType);
        assert_eq!(message.unknown_attributes(), unknown);
        assert!(!message.has(unknown[0]) && message.value(unknown[0]).is_none());

        let many = written(Class::Request, Method::Allocate, |writer| {
            for number in 0x4000..0x4100 {
                writer.attribute(AttributeType(number), &[]);
            }
        });
        let told: Vec<_> = (0x4000..0x4008).map(AttributeType).collect();
        assert_eq!(Message::parse(&many).unwrap().unknown_attributes(), told);
    }

    #[test]
    fn attributes_behind_the_integrity_are_not_seen() {
        for kind in [IntegrityKind::Sha1, IntegrityKind::Sha256] {
            let bytes = written(Class::Request, Method::Refresh, |writer| {
                writer
                    .attribute(AttributeType::USERNAME, b"alice")
                    .integrity(kind, &key())
                    // as somebody on the path would
                    .number(AttributeType::LIFETIME, 0)
                    .attribute(AttributeType::USERNAME, b"mallory")
                    .attribute(AttributeType(0x0024), &[])
                    .xor_address(
                        AttributeType::XOR_PEER_ADDRESS,
                        "192.0.2.1:1".parse().unwrap(),
                    )
                    .fingerprint();
            });
            let message = Message::parse(&bytes).unwrap();
            assert!(message.is_authentic(&key()));
            assert_eq!(
                message.value(AttributeType::USERNAME),
                Some(b"alice".as_slice())
            );
            assert!(!message.has(AttributeType::LIFETIME));
            assert!(message.unknown_attributes().is_empty());
            assert_eq!(message.peer_addresses().count(), 0);
            assert_eq!(message.attributes().count(), 1);
            assert!(message.has(AttributeType::FINGERPRINT));
        }
    }

    #[test]
    fn of_both_integrities_the_stronger_counts_if_it_is_the_second() {
        let both = written(Class::Request, Method::Refresh, |writer| {
            writer
                .integrity(IntegrityKind::Sha1, &key())
                .integrity(IntegrityKind::Sha256, &key());
        });
        let message = Message::parse(&both).unwrap();
        assert_eq!(message.integrity(), Some(IntegrityKind::Sha256));
        assert!(message.is_authentic(&key()));
        // the weaker one does not help where the stronger is wrong
        let mut wrong = both.clone();
        *wrong.last_mut().unwrap() ^= 1;
        assert!(!Message::parse(&wrong).unwrap().is_authentic(&key()));

        let reversed = written(Class::Request, Method::Refresh, |writer| {
            writer
                .integrity(IntegrityKind::Sha256, &key())
                .integrity(IntegrityKind::Sha1, &key());
        });
        let message = Message::parse(&reversed).unwrap();
        assert!(message.has(AttributeType::MESSAGE_INTEGRITY_SHA256));
        assert!(!message.has(AttributeType::MESSAGE_INTEGRITY));
        assert!(message.is_authentic(&key()));
    }

    #[test]
    fn a_second_integrity_of_a_kind_does_not_count() {
        for kind in [IntegrityKind::Sha1, IntegrityKind::Sha256] {
            let bytes = written(Class::Request, Method::Refresh, |writer| {
                writer.integrity(kind, &other_key()).integrity(kind, &key());
            });
            assert!(!Message::parse(&bytes).unwrap().is_authentic(&key()));
            assert!(Message::parse(&bytes).unwrap().is_authentic(&other_key()));
        }
    }

    #[test]
    fn an_integrity_of_sha_256_may_be_cut_to_16_bytes() {
        for len in 0..=40_usize {
            let mut bytes = written(Class::Request, Method::Refresh, |writer| {
                writer.attribute(AttributeType::USERNAME, b"alice");
            });
            let before = bytes.len();
            let padded = len.next_multiple_of(4);
            let length = u16::try_from(before + 4 + padded - HEADER_LEN).unwrap();
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            let tag = key().sign(IntegrityKind::Sha256, [&bytes, &[], &[]]);
            let tag: Vec<u8> = tag
                .as_ref()
                .iter()
                .copied()
                .chain([0; 8])
                .take(len)
                .collect();
            bytes.extend_from_slice(&AttributeType::MESSAGE_INTEGRITY_SHA256.0.to_be_bytes());
            bytes.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
            bytes.extend_from_slice(&tag);
            bytes.resize(before + 4 + padded, 0);
            let authentic = Message::parse(&bytes).unwrap().is_authentic(&key());
            assert_eq!(
                authentic,
                [16, 20, 24, 28, 32].contains(&len),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn an_integrity_of_sha_1_is_whole() {
        let bytes = written(Class::Request, Method::Refresh, |writer| {
            writer.attribute(AttributeType::MESSAGE_INTEGRITY, &[]);
        });
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.integrity(), Some(IntegrityKind::Sha1));
        assert!(!message.is_authentic(&key()));
        for len in [16, 19, 21, 24] {
            let mut bytes = Vec::new();
            let mut writer = MessageWriter::new(&mut bytes, Class::Request, Method::Refresh, ID);
            writer.attribute(AttributeType::MESSAGE_INTEGRITY, &vec![0; len]);
            let tag = key().sign(IntegrityKind::Sha1, [&bytes[..20], &[], &[]]);
            let part = len.min(20);
            bytes[24..24 + part].copy_from_slice(&tag.as_ref()[..part]);
            assert!(
                !Message::parse(&bytes).unwrap().is_authentic(&key()),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn a_message_without_integrity_is_not_authentic() {
        let bytes = written(Class::Request, Method::Refresh, |_| {});
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.integrity(), None);
        assert!(!message.is_authentic(&key()));
    }

    #[test]
    fn a_fingerprint_is_right_and_the_last() {
        let good = written(Class::Request, Method::Binding, |writer| {
            writer
                .attribute(AttributeType::SOFTWARE, b"x")
                .fingerprint();
        });
        assert!(
            Message::parse(&good)
                .unwrap()
                .has(AttributeType::FINGERPRINT)
        );
        let mut wrong = good.clone();
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(error_of(&wrong), ParseError::Fingerprint);
        let mut changed = good;
        changed[9] ^= 1;
        assert_eq!(error_of(&changed), ParseError::Fingerprint);

        for more in [AttributeType::SOFTWARE, AttributeType::FINGERPRINT] {
            let followed = written(Class::Request, Method::Binding, |writer| {
                writer.fingerprint().attribute(more, &[0; 4]);
            });
            assert_eq!(error_of(&followed), ParseError::Fingerprint);
        }
        for len in [0, 3, 5, 8] {
            let other = written(Class::Request, Method::Binding, |writer| {
                writer.attribute(AttributeType::FINGERPRINT, &vec![0; len]);
            });
            assert_eq!(error_of(&other), ParseError::Fingerprint, "{len} bytes");
        }
    }

    #[test]
    fn the_longest_message_is_read() {
        let bytes = written(Class::Indication, Method::Send, |writer| {
            writer
                .xor_address(
                    AttributeType::XOR_PEER_ADDRESS,
                    "192.0.2.1:1".parse().unwrap(),
                )
                .attribute(AttributeType::DATA, &vec![7; 65_532 - 12 - 4]);
        });
        assert_eq!(bytes.len(), 65_552);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(
            message.value(AttributeType::DATA).map(<[u8]>::len),
            Some(65_516)
        );

        // an attribute whose value begins where no 16 bits reach
        let bytes = written(Class::Indication, Method::Send, |writer| {
            writer
                .attribute(AttributeType::DATA, &vec![7; 65_532 - 8])
                .attribute(AttributeType::DONT_FRAGMENT, &[]);
        });
        assert_eq!(error_of(&bytes), ParseError::AttributeLength);
    }

    fn written(
        class: Class,
        method: Method,
        write: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut MessageWriter::new(&mut bytes, class, method, ID));
        bytes
    }

    fn error_of(bytes: &[u8]) -> ParseError {
        Message::parse(bytes).unwrap_err()
    }

    fn key() -> Key {
        Key::new(
            PasswordAlgorithm::Sha256,
            b"alice",
            b"turn.example.org",
            b"secret",
        )
    }

    fn other_key() -> Key {
        Key::new(
            PasswordAlgorithm::Sha256,
            b"mallory",
            b"turn.example.org",
            b"secret",
        )
    }
}
