//! Message encryption for Web Push (RFC 8291) in the `aes128gcm` coding (RFC 8188): one record to one receiver.
//!
//! The same bytes are the body of a Web Push request and, in base64url, the sealed blob of the other
//! providers (spec/opaque-push.md §5). Every call draws a new ephemeral key and a new salt, so that the
//! content key and its nonce are used once.

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    agreement::{ECDH_P256, ParsedPublicKey, PrivateKey, PublicKey, UnparsedPublicKey, agree},
    error::Unspecified,
    hkdf::{HKDF_SHA256, KeyType, Salt},
};
use shared::random::Random;
use zeroize::Zeroizing;

use super::{keys::ReceiverKeys, plaintext::Plaintext};

/// The most bytes that a push service has to accept (RFC 8291 §4), and so the longest message made here.
pub const MAX_MESSAGE: usize = 4096;

/// RFC 8188 §2.1: salt, record size, length of the key ID, and as key ID the ephemeral public key (RFC 8291 §4).
const HEADER: usize = SALT + 4 + 1 + POINT;
const SALT: usize = 16;
const POINT: usize = 65;
const TAG: usize = 16;
/// Always the same, whatever the message's size: the last record of a message may be shorter.
const RECORD_SIZE: u32 = 4096;
/// RFC 8188 §2: what ends the content of a message's last record; zeros may follow.
const LAST_RECORD: u8 = 2;

/// Why a message was not encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The receiver's public key is not an uncompressed point on P-256.
    #[error("the receiver's public key is not a point on P-256")]
    InvalidKey,
    /// The plaintext does not fit into [`MAX_MESSAGE`] bytes, or into its own `padded_to`.
    #[error("the plaintext is too long")]
    TooLong,
    /// The cryptography library failed.
    #[error("the cryptography library failed")]
    Internal,
}

/// Encrypts `plaintext`, padded as it says, to `keys`.
///
/// # Errors
///
/// See [`SealError`].
pub fn seal(
    keys: &ReceiverKeys,
    plaintext: &Plaintext,
    random: &Random,
) -> Result<Vec<u8>, SealError> {
    // of 2^32 draws about one is not a private key
    let ephemeral = loop {
        if let Some(key) = Ephemeral::from_scalar(&Zeroizing::new(random.bytes())) {
            break key;
        }
    };
    seal_with(keys, plaintext, &ephemeral, random.bytes())
}

/// The sender's key pair for one message.
struct Ephemeral {
    private: PrivateKey,
    public: PublicKey,
}

impl Ephemeral {
    /// The key pair of a private key, which is a number from 1 to the order of the group, less one.
    fn from_scalar(scalar: &[u8; 32]) -> Option<Self> {
        let private = PrivateKey::from_private_key(&ECDH_P256, scalar).ok()?;
        let public = private.compute_public_key().ok()?;
        Some(Self { private, public })
    }
}

fn seal_with(
    keys: &ReceiverKeys,
    plaintext: &Plaintext,
    ephemeral: &Ephemeral,
    salt: [u8; SALT],
) -> Result<Vec<u8>, SealError> {
    let Plaintext {
        json, padded_to, ..
    } = plaintext;
    if *padded_to <= json.len() || HEADER + padded_to + TAG > MAX_MESSAGE {
        return Err(SealError::TooLong);
    }
    let (content_key, nonce) = derive_keys(keys, ephemeral, &salt)?;

    let mut message = Vec::with_capacity(HEADER + padded_to + TAG);
    message.extend_from_slice(&salt);
    message.extend_from_slice(&RECORD_SIZE.to_be_bytes());
    message.push(u8::try_from(POINT).unwrap_or(u8::MAX));
    message.extend_from_slice(ephemeral.public.as_ref());
    message.extend_from_slice(json);
    message.push(LAST_RECORD);
    message.resize(HEADER + padded_to, 0);
    let tag = content_key
        .seal_in_place_separate_tag(nonce, Aad::empty(), &mut message[HEADER..])
        .map_err(|_| SealError::Internal)?;
    message.extend_from_slice(tag.as_ref());
    Ok(message)
}

/// RFC 8291 §3.4. The nonce of the first record is the derived one (RFC 8188 §2.3).
fn derive_keys(
    keys: &ReceiverKeys,
    ephemeral: &Ephemeral,
    salt: &[u8; SALT],
) -> Result<(LessSafeKey, Nonce), SealError> {
    let receiver = receiver_key(keys).ok_or(SealError::InvalidKey)?;
    let mut input = Zeroizing::new([0; 32]);
    let info: [&[u8]; 3] = [b"WebPush: info\0", &keys.p256dh, ephemeral.public.as_ref()];
    agree(&ephemeral.private, receiver, Unspecified, |shared| {
        Salt::new(HKDF_SHA256, keys.auth.expose())
            .extract(shared)
            .expand(&info, Length(input.len()))?
            .fill(input.as_mut())
    })
    .map_err(|_| SealError::Internal)?;

    let derive = || -> Result<_, Unspecified> {
        let pseudorandom = Salt::new(HKDF_SHA256, salt).extract(input.as_ref());
        let mut key = Zeroizing::new([0; 16]);
        pseudorandom
            .expand(&[b"Content-Encoding: aes128gcm\0"], Length(key.len()))?
            .fill(key.as_mut())?;
        let mut nonce = [0; NONCE_LEN];
        pseudorandom
            .expand(&[b"Content-Encoding: nonce\0"], Length(nonce.len()))?
            .fill(&mut nonce)?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref())?);
        Ok((key, Nonce::assume_unique_for_key(nonce)))
    };
    derive().map_err(|_| SealError::Internal)
}

/// The receiver's point, if it is uncompressed and on the curve.
fn receiver_key(keys: &ReceiverKeys) -> Option<ParsedPublicKey> {
    let uncompressed = keys.p256dh[0] == 4;
    let key = UnparsedPublicKey::new(&ECDH_P256, &keys.p256dh);
    uncompressed
        .then(|| ParsedPublicKey::try_from(&key).ok())
        .flatten()
}

/// How many bytes to derive.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use proptest::prelude::*;
    use shared::secret::Secret;
    use web_push_native::{Auth, decrypt, p256};

    use super::*;
    use crate::sealed::plaintext::MAX_JSON;

    #[test]
    fn example_of_rfc_8291_appendix_a() {
        let keys = ReceiverKeys {
            p256dh: decode(
                "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
            ),
            auth: Secret::new(decode("BTBZMqHH6r4Tts7J_aSIgg")),
        };
        let ephemeral =
            Ephemeral::from_scalar(&decode("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw")).unwrap();
        let message = seal_with(
            &keys,
            &unpadded(b"When I grow up, I want to be a watermelon"),
            &ephemeral,
            decode("DGv6ra1nlYgDCS1FRnbzlw"),
        )
        .unwrap();
        assert_eq!(
            URL_SAFE_NO_PAD.encode(message),
            "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
        );
    }

    #[test]
    fn the_size_tells_nothing_but_what_it_was_padded_to() {
        let receiver = Receiver::new(1);
        for length in [0, 1, 200, 511] {
            let message = receiver.seal(&[b'x'; 511][..length], 512).unwrap();
            assert_eq!(message.len(), HEADER + 512 + TAG);
        }
    }

    #[test]
    fn the_longest_message_is_what_every_push_service_takes() {
        let receiver = Receiver::new(2);
        let longest = vec![b'x'; MAX_JSON];
        let message = receiver.seal(&longest, MAX_JSON + 1).unwrap();
        assert_eq!(message.len(), MAX_MESSAGE);
        assert_eq!(receiver.open(message), longest);
        for (json, padded_to) in [
            (1, MAX_JSON + 2),
            (MAX_JSON + 1, MAX_JSON + 2),
            (5, 5),
            (5, 0),
        ] {
            let sealed = receiver.seal(&vec![b'x'; json], padded_to);
            assert_eq!(sealed, Err(SealError::TooLong), "{json} {padded_to}");
        }
    }

    #[test]
    fn two_messages_share_neither_key_nor_salt() {
        let receiver = Receiver::new(3);
        let random = Random::seeded(4);
        let [first, second] =
            [(); 2].map(|()| seal(&receiver.keys, &unpadded(b"{}"), &random).unwrap());
        assert_ne!(first[..SALT], second[..SALT]);
        assert_ne!(
            first[HEADER - POINT..HEADER],
            second[HEADER - POINT..HEADER]
        );
    }

    #[test]
    fn a_key_that_is_no_uncompressed_point_is_refused() {
        let good = Receiver::new(5).keys;
        let off_the_curve = {
            let mut point = good.p256dh;
            point[64] ^= 1;
            point
        };
        let hybrid = {
            let mut point = good.p256dh;
            point[0] = 6 + (point[64] & 1);
            point
        };
        let at_infinity = {
            let mut point = [0; 65];
            point[0] = 4;
            point
        };
        for p256dh in [off_the_curve, hybrid, at_infinity, [0; 65], [0xff; 65]] {
            let keys = ReceiverKeys {
                p256dh,
                auth: good.auth.clone(),
            };
            let sealed = seal(&keys, &unpadded(b"{}"), &Random::seeded(6));
            assert_eq!(sealed, Err(SealError::InvalidKey));
        }
    }

    #[test]
    fn numbers_outside_the_group_are_no_private_keys() {
        let order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
        let mut order: [u8; 32] = std::array::from_fn(|index| {
            u8::from_str_radix(&order[2 * index..2 * index + 2], 16).unwrap()
        });
        assert!(Ephemeral::from_scalar(&order).is_none());
        assert!(Ephemeral::from_scalar(&[0; 32]).is_none());
        assert!(Ephemeral::from_scalar(&[0xff; 32]).is_none());
        order[31] -= 1;
        assert!(Ephemeral::from_scalar(&order).is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn another_implementation_opens_what_is_sealed(
            seed in any::<u64>(),
            json in prop::collection::vec(any::<u8>(), 0..=MAX_JSON),
            padding in 0_usize..MAX_JSON,
        ) {
            let receiver = Receiver::new(seed);
            let padded_to = (json.len() + 1 + padding).min(MAX_JSON + 1);
            let message = receiver.seal(&json, padded_to).unwrap();
            prop_assert_eq!(receiver.open(message), json);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn another_implementation_opens_every_size(
            seed in any::<u64>(),
            (size, json) in prop_oneof![
                (Just(512), prop::collection::vec(any::<u8>(), 0..512)),
                (Just(1024), prop::collection::vec(any::<u8>(), 512..1024)),
                (Just(2048), prop::collection::vec(any::<u8>(), 1024..2048)),
            ],
        ) {
            let receiver = Receiver::new(seed);
            let plaintext = Plaintext::padded(json.clone());
            let message = seal(&receiver.keys, &plaintext, &Random::seeded(seed)).unwrap();
            prop_assert_eq!(message.len(), HEADER + size + TAG);
            let other = Receiver::new(seed ^ 1);
            let theirs = decrypt(
                message.clone(),
                &other.private,
                &Auth::from(*other.keys.auth.expose()),
            );
            prop_assert!(theirs.is_err());
            prop_assert_eq!(receiver.open(message), json);
        }
    }

    #[test]
    #[ignore = "a measurement: run it with --release --ignored --nocapture"]
    fn how_long_sealing_takes() {
        let receiver = Receiver::new(7);
        let random = Random::system();
        let plaintext = Plaintext {
            json: vec![b'x'; 300],
            padded_to: 512,
            left_out: None,
        };
        let clock = shared::clock::Clock::system();
        let rounds = 5_000;
        let start = clock.now();
        for _ in 0..rounds {
            std::hint::black_box(seal(&receiver.keys, &plaintext, &random).unwrap());
        }
        println!("{:?} per message", (clock.now() - start) / rounds);
    }

    /// A browser, with its keys in another library.
    struct Receiver {
        private: p256::SecretKey,
        keys: ReceiverKeys,
    }

    impl Receiver {
        fn new(seed: u64) -> Self {
            let random = Random::seeded(seed);
            let scalar: [u8; 32] = random.bytes();
            let private = p256::SecretKey::from_slice(&scalar).unwrap();
            let point = private.public_key().to_sec1_bytes();
            let keys = ReceiverKeys {
                p256dh: (*point).try_into().unwrap(),
                auth: Secret::new(random.bytes()),
            };
            Self { private, keys }
        }

        fn seal(&self, json: &[u8], padded_to: usize) -> Result<Vec<u8>, SealError> {
            let plaintext = Plaintext {
                json: json.to_vec(),
                padded_to,
                left_out: None,
            };
            seal(&self.keys, &plaintext, &Random::seeded(8))
        }

        fn open(&self, message: Vec<u8>) -> Vec<u8> {
            decrypt(
                message,
                &self.private,
                &Auth::from(*self.keys.auth.expose()),
            )
            .unwrap()
        }
    }

    fn unpadded(json: &[u8]) -> Plaintext {
        Plaintext::unpadded(json.to_vec())
    }

    fn decode<const N: usize>(text: &str) -> [u8; N] {
        URL_SAFE_NO_PAD.decode(text).unwrap().try_into().unwrap()
    }
}
