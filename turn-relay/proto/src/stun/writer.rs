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
        self.buffer.resize(self.buffer.len() + padding, 0);
        self.set_length(self.message().len() - HEADER_LEN);
        self
    }

    /// Adds an XOR-…-ADDRESS, RFC 8489 §14.2.
    pub fn xor_address(&mut self, attribute: AttributeType, address: SocketAddr) -> &mut Self {
        let mut value = [0; 20];
        let len = write_xor_address(address, self.transaction_id, &mut value);
        self.attribute(attribute, value.get(..len).unwrap_or(&value))
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
        self.set_length(self.message().len() - HEADER_LEN + 4 + len);
        let tag = key.sign(kind, [self.message(), &[], &[]]);
        self.attribute(attribute, tag.as_ref())
    }

    /// Adds FINGERPRINT, after which nothing may come.
    pub fn fingerprint(&mut self) -> &mut Self {
        self.set_length(self.message().len() - HEADER_LEN + 8);
        let value = fingerprint([self.message(), &[], &[]]);
        self.number(AttributeType::FINGERPRINT, value)
    }

    /// Where in the buffer the message is.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.start..self.buffer.len()
    }

    /// As far as it is written.
    fn message(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    fn set_length(&mut self, length: usize) {
        let length = u16::try_from(length).expect("a message of the relay's own fits");
        if let Some(field) = self.buffer.get_mut(self.start + 2..self.start + 4) {
            field.copy_from_slice(&length.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_true_after_each_attribute() {
        let mut buffer = vec![0xAA; 5];
        let id = TransactionId([7; 12]);
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::Binding, id);
        for len in 0..9 {
            writer.attribute(AttributeType::DATA, &vec![1; len]);
            let message = writer.message();
            let length = usize::from(u16::from_be_bytes([message[2], message[3]]));
            assert_eq!(length, message.len() - HEADER_LEN);
            assert_eq!(length % 4, 0);
        }
        assert_eq!(writer.range(), 5..buffer.len());
    }

    #[test]
    fn padding_is_zeros() {
        let mut buffer = Vec::new();
        let id = TransactionId([7; 12]);
        MessageWriter::new(&mut buffer, Class::Request, Method::Binding, id)
            .attribute(AttributeType::SOFTWARE, &[0xFF; 5]);
        assert_eq!(
            buffer[20..],
            [0x80, 0x22, 0, 5, 255, 255, 255, 255, 255, 0, 0, 0]
        );
    }

    #[test]
    fn an_error_code_has_its_class_and_number_and_no_reason() {
        for (code, class, number) in [
            (300, 3, 0),
            (401, 4, 1),
            (438, 4, 38),
            (508, 5, 8),
            (699, 6, 99),
        ] {
            let mut buffer = Vec::new();
            let id = TransactionId([7; 12]);
            MessageWriter::new(&mut buffer, Class::Error, Method::Binding, id).error_code(code);
            assert_eq!(buffer[20..], [0, 9, 0, 4, 0, 0, class, number]);
        }
    }

    #[test]
    #[should_panic(expected = "fits")]
    fn a_message_of_the_relays_own_is_never_too_long() {
        let mut buffer = Vec::new();
        let id = TransactionId([7; 12]);
        MessageWriter::new(&mut buffer, Class::Error, Method::Binding, id)
            .attribute(AttributeType::DATA, &vec![0; 40_000])
            .attribute(AttributeType::DATA, &vec![0; 40_000]);
    }
}
