//! The messages of RFC 5769 (§2.1 to §2.4) and of RFC 8489 (appendix B.1, as its erratum 6268 has it).

use aws_lc_rs::digest;

use super::super::{
    AttributeType, Class, Message, MessageWriter, Method, TransactionId,
    integrity::{IntegrityKind, Key, PasswordAlgorithm},
};

const REQUEST: &str = "00010058 2112a442 b7e7a701 bc34d686 fa87dfae \
    80220010 5354554e 20746573 7420636c 69656e74 00240004 6e0001ff 80290008 932ff9b1 51263b36 \
    00060009 6576746a 3a683676 59202020 00080014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2 \
    80280004 e57a3bcf";
const RESPONSE_V4: &str = "0101003c 2112a442 b7e7a701 bc34d686 fa87dfae \
    8022000b 74657374 20766563 746f7220 00200008 0001a147 e112a643 \
    00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7 80280004 c07d4c96";
const RESPONSE_V6: &str = "01010048 2112a442 b7e7a701 bc34d686 fa87dfae \
    8022000b 74657374 20766563 746f7220 00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9 \
    00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41 80280004 c8fb0b4c";
const LONG_TERM: &str = "00010060 2112a442 78ad3433 c6ad72c0 29da412e \
    00060012 e3839ee3 8388e383 aae38383 e382afe3 82b90000 \
    0015001c 662f2f34 39396b39 35346436 4f4c3334 6f4c3946 53547679 36347341 \
    0014000b 6578616d 706c652e 6f726700 00080014 f6702465 6dd64a3e 02b8e071 2e85c9a2 8ca89666";
const LONG_TERM_SHA256: &str = "00010090 2112a442 78ad3433 c6ad72c0 29da412e \
    001e0020 4a3cf38f ef6992bd a952c678 0417da0f 24819415 569e60b2 05c46e41 407f1704 \
    00150029 6f624d61 744a6f73 32414141 43662f2f 3439396b 39353464 364f4c33 346f4c39 46535476 \
    79363473 41000000 0014000b 6578616d 706c652e 6f726700 001d0004 00020000 \
    001c0020 b5c7bf00 5b6c52a2 1c51c5e8 92f81924 136296cb 927c4314 9309278c c6518e65";

const SHORT_TERM_PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";
const ICE_ID: TransactionId = TransactionId([
    0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
]);
const LONG_TERM_ID: TransactionId = TransactionId([
    0x78, 0xad, 0x34, 0x33, 0xc6, 0xad, 0x72, 0xc0, 0x29, 0xda, 0x41, 0x2e,
]);
const MATRIX: &str = "マトリックス";
/// As both string preparations (RFC 4013, RFC 8265) leave it.
const MATRIX_PASSWORD: &[u8] = b"TheMatrIX";
const MATRIX_REALM: &[u8] = b"example.org";

#[test]
fn section_2_1_sample_request() {
    let bytes = bytes(REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.class(), Class::Request);
    assert_eq!(message.method(), Method::Binding);
    assert_eq!(message.transaction_id(), ICE_ID);
    assert_eq!(text(&message, AttributeType::SOFTWARE), "STUN test client");
    assert_eq!(text(&message, AttributeType::USERNAME), "evtj:h6vY");
    // PRIORITY is none of TURN's, ICE-CONTROLLED may be ignored
    assert_eq!(message.unknown_attributes(), [AttributeType(0x0024)]);
    assert!(message.has(AttributeType::FINGERPRINT));
    assert_eq!(message.integrity(), Some(IntegrityKind::Sha1));
    is_authentic_as_it_is(&bytes, &Key::of_password(SHORT_TERM_PASSWORD));
}

#[test]
fn section_2_2_sample_ipv4_response() {
    let bytes = bytes(RESPONSE_V4);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.class(), Class::Success);
    assert_eq!(message.method(), Method::Binding);
    assert_eq!(message.transaction_id(), ICE_ID);
    assert_eq!(text(&message, AttributeType::SOFTWARE), "test vector");
    let mapped = message.xor_address(AttributeType::XOR_MAPPED_ADDRESS);
    assert_eq!(mapped, Some("192.0.2.1:32853".parse().unwrap()));
    is_authentic_as_it_is(&bytes, &Key::of_password(SHORT_TERM_PASSWORD));
    address_is_written_as_there(&message);
}

#[test]
fn section_2_3_sample_ipv6_response() {
    let bytes = bytes(RESPONSE_V6);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.class(), Class::Success);
    assert_eq!(message.transaction_id(), ICE_ID);
    assert_eq!(text(&message, AttributeType::SOFTWARE), "test vector");
    let mapped = message.xor_address(AttributeType::XOR_MAPPED_ADDRESS);
    let expected = "[2001:db8:1234:5678:11:2233:4455:6677]:32853";
    assert_eq!(mapped, Some(expected.parse().unwrap()));
    is_authentic_as_it_is(&bytes, &Key::of_password(SHORT_TERM_PASSWORD));
    address_is_written_as_there(&message);
}

#[test]
fn section_2_4_sample_request_with_long_term_authentication() {
    let bytes = bytes(LONG_TERM);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.class(), Class::Request);
    assert_eq!(message.method(), Method::Binding);
    assert_eq!(message.transaction_id(), LONG_TERM_ID);
    assert_eq!(text(&message, AttributeType::USERNAME), MATRIX);
    let nonce = text(&message, AttributeType::NONCE);
    assert_eq!(nonce, "f//499k954d6OL34oL9FSTvy64sA");
    assert_eq!(message.value(AttributeType::REALM), Some(MATRIX_REALM));
    let key = matrix_key(PasswordAlgorithm::Md5);
    is_authentic_as_it_is(&bytes, &key);

    let mut written = Vec::new();
    MessageWriter::new(&mut written, Class::Request, Method::Binding, LONG_TERM_ID)
        .attribute(AttributeType::USERNAME, MATRIX.as_bytes())
        .attribute(AttributeType::NONCE, nonce.as_bytes())
        .attribute(AttributeType::REALM, MATRIX_REALM)
        .integrity(IntegrityKind::Sha1, &key);
    assert_eq!(written, bytes);
}

#[test]
fn rfc_8489_appendix_b_1_sample_request_with_sha_256_and_userhash() {
    let bytes = bytes(LONG_TERM_SHA256);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.transaction_id(), LONG_TERM_ID);
    let hashed = [MATRIX.as_bytes(), b":", MATRIX_REALM].concat();
    let userhash = digest::digest(&digest::SHA256, &hashed);
    assert_eq!(
        message.value(AttributeType::USERHASH),
        Some(userhash.as_ref())
    );
    let nonce = text(&message, AttributeType::NONCE);
    assert_eq!(nonce, "obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA");
    let algorithm = [0, 2, 0, 0];
    assert_eq!(
        message.value(AttributeType::PASSWORD_ALGORITHM),
        Some(algorithm.as_slice())
    );
    assert!(message.unknown_attributes().is_empty());
    assert_eq!(message.integrity(), Some(IntegrityKind::Sha256));
    let key = matrix_key(PasswordAlgorithm::Sha256);
    is_authentic_as_it_is(&bytes, &key);

    let mut written = Vec::new();
    MessageWriter::new(&mut written, Class::Request, Method::Binding, LONG_TERM_ID)
        .attribute(AttributeType::USERHASH, userhash.as_ref())
        .attribute(AttributeType::NONCE, nonce.as_bytes())
        .attribute(AttributeType::REALM, MATRIX_REALM)
        .attribute(AttributeType::PASSWORD_ALGORITHM, &algorithm)
        .integrity(IntegrityKind::Sha256, &key);
    assert_eq!(written, bytes);
}

/// Authentic with `key`, and not with any bit of it changed, before the attribute that protects it or in it.
fn is_authentic_as_it_is(bytes: &[u8], key: &Key) {
    assert!(Message::parse(bytes).unwrap().is_authentic(key));
    let without_fingerprint = match bytes.split_last_chunk::<8>() {
        Some((before, [0x80, 0x28, ..])) => before,
        _ => bytes,
    };
    let mut changed = without_fingerprint.to_vec();
    let length = u16::try_from(changed.len() - 20).unwrap();
    changed[2..4].copy_from_slice(&length.to_be_bytes());
    assert!(Message::parse(&changed).unwrap().is_authentic(key));
    for bit in 0..changed.len() * 8 {
        changed[bit / 8] ^= 1 << (bit % 8);
        let authentic = Message::parse(&changed).is_ok_and(|message| message.is_authentic(key));
        assert!(!authentic, "bit {bit}");
        changed[bit / 8] ^= 1 << (bit % 8);
    }
}

fn address_is_written_as_there(message: &Message<'_>) {
    let mut written = Vec::new();
    let address = message
        .xor_address(AttributeType::XOR_MAPPED_ADDRESS)
        .unwrap();
    MessageWriter::new(
        &mut written,
        message.class(),
        message.method(),
        message.transaction_id(),
    )
    .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address);
    let written = Message::parse(&written).unwrap();
    assert_eq!(
        written.value(AttributeType::XOR_MAPPED_ADDRESS),
        message.value(AttributeType::XOR_MAPPED_ADDRESS)
    );
}

fn matrix_key(algorithm: PasswordAlgorithm) -> Key {
    Key::new(algorithm, MATRIX.as_bytes(), MATRIX_REALM, MATRIX_PASSWORD)
}

fn text<'a>(message: &Message<'a>, attribute: AttributeType) -> &'a str {
    str::from_utf8(message.value(attribute).unwrap()).unwrap()
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<u8> = hexadecimal
        .chars()
        .filter_map(|digit| {
            digit
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        })
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}
