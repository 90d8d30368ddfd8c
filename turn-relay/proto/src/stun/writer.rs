use std::{net::SocketAddr, ops::Range};

use super::{
    Class, HEADER_LEN, MAGIC_COOKIE, Method, TransactionId,
    attribute::{AttributeType, write_xor_address},
    integrity::{IntegrityKind, Key, fingerprint},
    message::message_type,
};

/// Appends one message to a buffer that may hold others before it.
///
/// The length in the header is kept true after each attribute.
#[derive(Debug)]
pub struct MessageWriter<'a> {
    buffer: &'a mut Vec<u8>,
    start: usize,
    transaction_id: TransactionId,
}

impl<'a> MessageWriter<'a> {
    /// Begins a message.
    pub fn new(
        buffer: &'a mut Vec<u8>,
        class: Class,
        method: Method,
        transaction_id: TransactionId,
    ) -> Self {
        let start = buffer.len();
        buffer.extend_from_slice(&message_type(class, method).to_be_bytes());
        buffer.extend_from_slice(&[0, 0]);
        buffer.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        buffer.extend_from_slice(&transaction_id.0);
        Self {
            buffer,
            start,
            transaction_id,
        }
    }

    /// Adds an attribute with its padding.
    ///
    /// # Panics
    ///
    /// If the message grows beyond 65,535 bytes: what is written here is the relay's own.
    pub fn attribute(&mut self, attribute: AttributeType, value: &[u8]) -> &mut Self {
        let len = u16::try_from(value.len()).expect("a value of the relay's own fits");
        self.buffer.extend_from_slice(&attribute.0.to_be_bytes());
        self.buffer.extend_from_slice(&len.to_be_bytes());
        self.buffer.extend_from_slice(value);
        let padding = value.len().next_multiple_of(4) - value.len();
        self.buffer.extend_from_slice(&[0; 3][..padding]);
        self.set_length(self.buffer.len() - self.start - HEADER_LEN);
        self
    }

    /// Adds an XOR-…-ADDRESS, RFC 8489 §14.2.
    pub fn xor_address(&mut self, attribute: AttributeType, address: SocketAddr) -> &mut Self {
        let mut value = [0; 20];
        let len = write_xor_address(address, self.transaction_id, &mut value);
        self.attribute(attribute, &value[..len])
    }

    /// Adds an attribute that is a number of 32 bits, such as LIFETIME.
    pub fn number(&mut self, attribute: AttributeType, value: u32) -> &mut Self {
        self.attribute(attribute, &value.to_be_bytes())
    }

    /// Adds ERROR-CODE (RFC 8489 §14.8) without a reason phrase, which nobody reads and which makes answers long.
    /// `code` is 300 to 699.
    pub fn error_code(&mut self, code: u16) -> &mut Self {
        let [class, number] = [code / 100, code % 100].map(|part| part.to_be_bytes()[1]);
        self.attribute(AttributeType::ERROR_CODE, &[0, 0, class, number])
    }

    /// Adds MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256 over what was written so far.
    pub fn integrity(&mut self, kind: IntegrityKind, key: &Key) -> &mut Self {
        let (attribute, len) = match kind {
            IntegrityKind::Sha1 => (AttributeType::MESSAGE_INTEGRITY, 20),
            IntegrityKind::Sha256 => (AttributeType::MESSAGE_INTEGRITY_SHA256, 32),
        };
        self.set_length(self.buffer.len() - self.start - HEADER_LEN + 4 + len);
        let tag = key.sign(kind, [&self.buffer[self.start..], &[], &[]]);
        self.attribute(attribute, tag.as_ref())
    }

    /// Adds FINGERPRINT, after which nothing may come.
    pub fn fingerprint(&mut self) -> &mut Self {
        self.set_length(self.buffer.len() - self.start - HEADER_LEN + 8);
        let value = fingerprint([&self.buffer[self.start..], &[], &[]]);
        self.number(AttributeType::FINGERPRINT, value)
    }

    /// Where in the buffer the message is.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.start..self.buffer.len()
    }

    fn set_length(&mut self, length: usize) {
        let length = u16::try_from(length).expect("a message of the relay's own fits");
        self.buffer[self.start + 2..self.start + 4].copy_from_slice(&length.to_be_bytes());
    }
}
