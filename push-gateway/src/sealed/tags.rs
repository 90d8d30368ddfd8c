//! Tags `r` and `e` (spec/opaque-push.md §4): the device finds the room and the event in what it knows,
//! and to everyone else they are random.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::opaque::Identifier;

/// The tag of a room: 22 characters.
#[must_use]
pub fn room(secret: &[u8; 32], n: Identifier, room_id: &str) -> String {
    tag(secret, b"nocturne room\0", n, room_id)
}

/// The tag of an event: 22 characters.
#[must_use]
pub fn event(secret: &[u8; 32], n: Identifier, event_id: &str) -> String {
    tag(secret, b"nocturne event\0", n, event_id)
}

fn tag(secret: &[u8; 32], label: &[u8], n: Identifier, id: &str) -> String {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    mac.update(label);
    mac.update(&n.0);
    mac.update(id.as_bytes());
    let tag = mac.sign();
    URL_SAFE_NO_PAD.encode(tag.as_ref().get(..16).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 2104 and the specification, written out: two hashes and no HMAC of a library.
    fn expected(secret: &[u8; 32], label: &str, n: [u8; 16], id: &str) -> String {
        let sha256 = |parts: &[&[u8]]| {
            let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &parts.concat());
            hash.as_ref().to_vec()
        };
        let block = |fill: u8| {
            let mut block = [fill; 64];
            for (byte, key) in block.iter_mut().zip(secret) {
                *byte ^= key;
            }
            block
        };
        let inner = sha256(&[&block(0x36), label.as_bytes(), b"\0", &n, id.as_bytes()]);
        URL_SAFE_NO_PAD.encode(&sha256(&[&block(0x5c), &inner])[..16])
    }

    proptest! {
        #[test]
        fn tags_are_what_the_specification_says(
            secret in any::<[u8; 32]>(),
            n in any::<[u8; 16]>(),
            id in any::<String>(),
        ) {
            let of_room = room(&secret, Identifier(n), &id);
            let of_event = event(&secret, Identifier(n), &id);
            prop_assert_eq!(&of_room, &expected(&secret, "nocturne room", n, &id));
            prop_assert_eq!(&of_event, &expected(&secret, "nocturne event", n, &id));
            prop_assert_eq!(of_room.len(), 22);
            prop_assert_ne!(of_room, of_event);
        }
    }

    /// Computed with Python's `hmac`.
    #[test]
    fn a_fixed_example() {
        let secret = std::array::from_fn(|place| u8::try_from(place).unwrap());
        let n = Identifier([0xa5; 16]);
        assert_eq!(
            room(&secret, n, "!room:example.org"),
            "UteqmyGG7B3xSlC41UONTQ"
        );
        assert_eq!(event(&secret, n, "$event"), "BYtiLs6kzK1GSH8-ObOViQ");
    }

    #[test]
    fn everything_that_goes_in_changes_what_comes_out() {
        let first = room(&[1; 32], Identifier([1; 16]), "!a");
        assert_ne!(first, room(&[2; 32], Identifier([1; 16]), "!a"));
        assert_ne!(first, room(&[1; 32], Identifier([2; 16]), "!a"));
        assert_ne!(first, room(&[1; 32], Identifier([1; 16]), "!b"));
    }
}
