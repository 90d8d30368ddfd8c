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
        let &[t0, t1, l0, l1, c0, c1, c2, c3] =
            bytes.first_chunk::<8>().ok_or(ParseError::NoHeader)?;
        let message_type = u16::from_be_bytes([t0, t1]);
        if bytes.len() < HEADER_LEN
            || message_type & 0xC000 != 0
            || u32::from_be_bytes([c0, c1, c2, c3]) != MAGIC_COOKIE
        {
            return Err(ParseError::NoHeader);
        }
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if length % 4 != 0 || length != bytes.len() - HEADER_LEN {
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
                    !std::mem::replace(&mut protected_sha256, true)
                }
                AttributeType::MESSAGE_INTEGRITY => {
                    let counts = !protected && !protected_sha256;
                    protected = true;
                    counts
                }
                _ => !protected && !protected_sha256,
            };
            if !counts {
                continue;
            }
            match number.index() {
                Some(index) => {
                    let slot = &mut self.values[index];
                    if slot.0 == 0 {
                        // both fit: a message is no longer than 20 + 65,535 bytes, and its values end before that
                        let (Ok(offset), Ok(len)) =
                            (u16::try_from(offset), u16::try_from(value.len()))
                        else {
                            return Err(ParseError::AttributeLength);
                        };
                        *slot = (offset, len);
                    }
                }
                None => self.note_unknown(number),
            }
        }
        Ok(())
    }

    fn note_unknown(&mut self, number: AttributeType) {
        let noted = self.unknown_attributes().contains(&number);
        if number.is_comprehension_required() && !noted && self.unknown_count < MAX_UNKNOWN {
            self.unknown[self.unknown_count] = number;
            self.unknown_count += 1;
        }
    }

    fn check_fingerprint(&self) -> Result<(), ParseError> {
        let Some(value) = self.value(AttributeType::FINGERPRINT) else {
            return Ok(());
        };
        let offset = self.offset(AttributeType::FINGERPRINT);
        let right =
            value.len() == 4 && fingerprint(self.protected_by(offset, 4)).to_be_bytes() == value;
        right.then_some(()).ok_or(ParseError::Fingerprint)
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
        let mut id = [0; 12];
        id.copy_from_slice(&self.bytes[8..HEADER_LEN]);
        TransactionId(id)
    }

    /// The whole message.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether there is an attribute of that type. `false` for types that are not named in [`AttributeType`].
    #[must_use]
    pub fn has(&self, attribute: AttributeType) -> bool {
        self.offset(attribute) != 0
    }

    /// The value of the first attribute of that type, without padding.
    #[must_use]
    pub fn value(&self, attribute: AttributeType) -> Option<&'a [u8]> {
        let (offset, len) = self.values[attribute.index()?];
        let start = usize::from(offset);
        (start != 0).then(|| &self.bytes[start..start + usize::from(len)])
    }

    /// As [`Self::value`], and where in [`Self::as_bytes`] it begins.
    #[must_use]
    pub fn value_range(&self, attribute: AttributeType) -> Option<std::ops::Range<usize>> {
        let (offset, len) = self.values[attribute.index()?];
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
        &self.unknown[..self.unknown_count]
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
        let (attribute, full) = match kind {
            IntegrityKind::Sha1 => (AttributeType::MESSAGE_INTEGRITY, 20),
            IntegrityKind::Sha256 => (AttributeType::MESSAGE_INTEGRITY_SHA256, 32),
        };
        let Some(value) = self.value(attribute) else {
            return false;
        };
        let length_fits = match kind {
            IntegrityKind::Sha1 => value.len() == full,
            // RFC 8489 §14.6
            IntegrityKind::Sha256 => (16..=full).contains(&value.len()) && value.len() % 4 == 0,
        };
        let offset = self.offset(attribute);
        length_fits && {
            let tag = key.sign(kind, self.protected_by(offset, value.len()));
            constant_time::verify_slices_are_equal(&tag.as_ref()[..value.len()], value).is_ok()
        }
    }

    /// What the attribute with its value of `len` bytes at `offset` protects: type, the length as if the
    /// attribute was the last one, and all that is before it.
    fn protected_by(&self, offset: usize, len: usize) -> [&[u8]; 3] {
        let length = LENGTHS.get((offset + len - HEADER_LEN) / 4);
        [
            &self.bytes[..2],
            length.map_or(&[], |length| length.as_slice()),
            &self.bytes[4..offset - 4],
        ]
    }

    /// 0 if there is none: no value is there.
    fn offset(&self, attribute: AttributeType) -> usize {
        attribute
            .index()
            .map_or(0, |index| usize::from(self.values[index].0))
    }
}

/// The big-endian forms of all lengths that a message may have, so that one can be borrowed.
static LENGTHS: [[u8; 2]; 16384] = {
    let mut lengths = [[0; 2]; 16384];
    let mut index: u16 = 0;
    while index < 16384 {
        lengths[index as usize] = (index * 4).to_be_bytes();
        index += 1;
    }
    lengths
};

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
            // the padding has to be there, too
            (value.len().next_multiple_of(4) <= rest.len()).then_some(Attribute {
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
