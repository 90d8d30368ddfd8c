//! An independent implementation, `stun-types`, reads what is written here, and writes what is read here.

use proptest::prelude::*;
use stun_types::{
    attribute as theirs,
    attribute::{Attribute as _, AttributeStaticType as _},
    message::{
        IntegrityAlgorithm, LongTermKeyCredentials, Message as TheirMessage, MessageClass,
        MessageIntegrityCredentials, MessageType, MessageWrite as _, MessageWriteExt as _,
        MessageWriteVec, Method as TheirMethod,
    },
    prelude::{AttributeFromRaw as _, AttributeWrite as _},
};

use super::{
    super::{AttributeType, Class, Message, TransactionId, integrity::IntegrityKind},
    Draft, PASSWORD, REALM, USERNAME, any_draft, key,
};

proptest! {
    #[test]
    fn they_read_what_we_write(draft in any_draft()) {
        let bytes = draft.write();
        let ours = Message::parse(&bytes).unwrap();
        let theirs = TheirMessage::from_bytes(&bytes).unwrap();
        prop_assert!(theirs.has_class(their_class(draft.class)));
        let their_id: u128 = theirs.transaction_id().into();
        prop_assert_eq!(&their_id.to_be_bytes()[4..], &draft.id.0);

        let mut expected: Vec<(u16, Vec<u8>)> =
            ours.attributes().map(|(number, value)| (number.0, value.to_vec())).collect();
        let seen: Vec<(u16, Vec<u8>)> = theirs
            .iter_attributes()
            .map(|(_, attribute)| (attribute.get_type().value(), attribute.value.to_vec()))
            .collect();
        for ending in [
            AttributeType::MESSAGE_INTEGRITY,
            AttributeType::MESSAGE_INTEGRITY_SHA256,
            AttributeType::FINGERPRINT,
        ] {
            expected.extend(ours.value(ending).map(|value| (ending.0, value.to_vec())));
        }
        prop_assert_eq!(seen, expected);

        let transaction = theirs.transaction_id();
        for (number, address) in &draft.addresses {
            // all three are written alike, and theirs names only the first
            let (_, raw) = theirs
                .iter_attributes()
                .find(|(_, raw)| raw.get_type().value() == number.0)
                .unwrap();
            let first = draft.addresses.iter().find(|(other, _)| other == number).unwrap();
            let raw = theirs::RawAttribute::new(theirs::XorMappedAddress::TYPE, &raw.value);
            let read = theirs::XorMappedAddress::from_raw(raw).unwrap();
            prop_assert_eq!(read.addr(transaction), first.1, "{}", address);
        }

        let verdict = theirs.validate_integrity(&credentials());
        match draft.integrity.last() {
            Some(kind) => prop_assert_eq!(verdict.unwrap(), their_algorithm(*kind)),
            None => prop_assert!(verdict.is_err()),
        }
    }

    #[test]
    fn we_read_what_they_write(draft in any_draft()) {
        let bytes = write_theirs(&draft);
        let ours = Message::parse(&bytes).unwrap();
        prop_assert_eq!(
            (ours.class(), ours.method(), ours.transaction_id()),
            (draft.class, draft.method, draft.id)
        );
        let plain: Vec<_> = ours
            .attributes()
            .take(draft.attributes.len())
            .map(|(number, value)| (number, value.to_vec()))
            .collect();
        prop_assert_eq!(&plain, &draft.attributes);
        for (number, _) in &draft.addresses {
            let first = draft.addresses.iter().find(|(other, _)| other == number).unwrap();
            prop_assert_eq!(ours.xor_address(*number), Some(first.1));
        }
        prop_assert_eq!(ours.integrity(), draft.integrity.last().copied());
        for kind in &draft.integrity {
            prop_assert_eq!(ours.is_authentic(&key(*kind)), draft.integrity.last() == Some(kind));
        }
        prop_assert_eq!(ours.has(AttributeType::FINGERPRINT), draft.fingerprint);
        // and it is to the byte what we write
        prop_assert_eq!(draft.write(), bytes);
    }

    #[test]
    fn what_we_read_they_read_alike(
        draft in any_draft(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut bytes = draft.write();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        // they say no to less than we do: what they refuse, we refuse
        let Ok(ours) = Message::parse(&bytes) else {
            return Ok(());
        };
        let theirs = TheirMessage::from_bytes(&bytes).unwrap();
        prop_assert!(theirs.has_class(their_class(ours.class())));
        let their_id: u128 = theirs.transaction_id().into();
        prop_assert_eq!(&their_id.to_be_bytes()[4..], &ours.transaction_id().0);
        let seen = theirs
            .iter_attributes()
            .map(|(_, attribute)| (attribute.get_type().value(), attribute.value.to_vec()))
            .take_while(|(number, _)| ![0x0008, 0x001C, 0x8028].contains(number));
        let expected = ours.attributes().map(|(number, value)| (number.0, value.to_vec()));
        prop_assert!(seen.eq(expected));
        if theirs.validate_integrity(&credentials()).is_ok() {
            let kind = ours.integrity().unwrap();
            prop_assert!(ours.is_authentic(&key(kind)));
        } else if let Some(kind) = ours.integrity() {
            prop_assert!(!ours.is_authentic(&key(kind)));
        }
    }
}

#[test]
fn they_read_our_error_codes_and_we_read_theirs() {
    for code in [
        300, 400, 401, 403, 420, 437, 438, 440, 441, 442, 443, 446, 447, 486, 500, 508,
    ] {
        let mut bytes = Vec::new();
        let id = TransactionId([9; 12]);
        super::MessageWriter::new(&mut bytes, Class::Error, super::Method::Allocate, id)
            .error_code(code);
        let theirs = TheirMessage::from_bytes(&bytes).unwrap();
        let read = theirs.attribute::<theirs::ErrorCode>().unwrap();
        assert_eq!((read.code(), read.reason()), (code, ""));

        let theirs = theirs::ErrorCode::builder(code).reason("").build().unwrap();
        let theirs = theirs.to_raw();
        let ours = Message::parse(&bytes).unwrap();
        assert_eq!(ours.value(AttributeType::ERROR_CODE), Some(&*theirs.value));
    }
}

fn write_theirs(draft: &Draft) -> Vec<u8> {
    let mut id = [0; 16];
    id[4..].copy_from_slice(&draft.id.0);
    let id = u128::from_be_bytes(id).into();
    let method = TheirMethod::new(number_of(draft));
    let kind = MessageType::from_class_method(their_class(draft.class), method);
    let mut builder = TheirMessage::builder(kind, id, MessageWriteVec::new());
    for (number, value) in &draft.attributes {
        let raw = theirs::RawAttribute::new(theirs::AttributeType::new(number.0), value);
        builder.add_attribute(&raw).unwrap();
    }
    for (number, address) in &draft.addresses {
        let mapped = theirs::XorMappedAddress::new(*address, id);
        let value = mapped.to_raw().value.to_vec();
        let raw = theirs::RawAttribute::new(theirs::AttributeType::new(number.0), &value);
        builder.add_attribute(&raw).unwrap();
    }
    for kind in &draft.integrity {
        builder
            .add_message_integrity(&credentials(), their_algorithm(*kind))
            .unwrap();
    }
    if draft.fingerprint {
        builder.add_fingerprint().unwrap();
    }
    builder.finish()
}

/// The method's number, from the first two bytes that we write (RFC 8489 §5, figure 3).
fn number_of(draft: &Draft) -> u16 {
    use super::Method;
    match draft.method {
        Method::Binding => 0x001,
        Method::Allocate => 0x003,
        Method::Refresh => 0x004,
        Method::Send => 0x006,
        Method::Data => 0x007,
        Method::CreatePermission => 0x008,
        Method::ChannelBind => 0x009,
        Method::Connect => 0x00A,
        Method::ConnectionBind => 0x00B,
        Method::ConnectionAttempt => 0x00C,
        Method::Other(number) => number,
    }
}

fn credentials() -> MessageIntegrityCredentials {
    LongTermKeyCredentials::new(USERNAME.to_owned(), PASSWORD.to_owned(), REALM.to_owned()).into()
}

fn their_class(class: Class) -> MessageClass {
    match class {
        Class::Request => MessageClass::Request,
        Class::Indication => MessageClass::Indication,
        Class::Success => MessageClass::Success,
        Class::Error => MessageClass::Error,
    }
}

fn their_algorithm(kind: IntegrityKind) -> IntegrityAlgorithm {
    match kind {
        IntegrityKind::Sha1 => IntegrityAlgorithm::Sha1,
        IntegrityKind::Sha256 => IntegrityAlgorithm::Sha256,
    }
}
