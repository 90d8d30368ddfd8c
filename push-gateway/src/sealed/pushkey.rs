//! Sealed pushkeys (spec/opaque-push.md §7): the device token is encrypted to the gateway, so that the
//! homeserver and its database never hold it.
//!
//! HPKE in base mode (RFC 9180) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-128-GCM; one message
//! per encapsulated key, so that only sequence number 0 is needed.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    agreement::{PrivateKey, UnparsedPublicKey, X25519, agree},
    digest, hmac,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// How a sealed pushkey begins.
pub const PREFIX: &str = "nk1.";

/// The longest sealed pushkey: homeservers take no longer ones.
const LONGEST: usize = 512;
const INFO: &[u8] = b"nocturne pushkey v1";
/// `enc`: an X25519 public key.
const ENC: usize = 32;
const KEY: usize = 16;
const HASH: usize = 32;
/// RFC 9180 §4.1: `"KEM"` and the KEM's number.
const KEM_SUITE: &[u8] = b"KEM\x00\x20";
/// RFC 9180 §5.1: `"HPKE"` and the numbers of KEM, KDF and AEAD.
const HPKE_SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x01";

/// The gateway's keys for sealed pushkeys, newest first.
#[derive(Default)]
pub struct PushkeyKeys(Vec<PushkeyKey>);

/// One key pair.
pub struct PushkeyKey {
    id: u8,
    private: PrivateKey,
    public: [u8; 32],
}

/// Two keys with the same key ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SameId {
    /// The key ID.
    pub id: u8,
    /// The place in the list of the one.
    pub first: usize,
    /// The place in the list of the other.
    pub second: usize,
}

/// Why a sealed pushkey does not open. Closed set: it is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CannotOpen {
    /// The configuration has no key at all: `pushkey_keys` was lost, or never there.
    NoKeys,
    /// Too long, not base64url, or too short to be one.
    Malformed,
    /// No key of the configuration has its key ID: it was retired.
    UnknownKey,
    /// It was made for another app or key, or was changed.
    Authentication,
}

impl PushkeyKey {
    /// The key pair of a private key.
    #[must_use]
    pub fn new(private: &[u8; 32]) -> Option<Self> {
        let private = PrivateKey::from_private_key(&X25519, private).ok()?;
        let public = private.compute_public_key().ok()?;
        let public: [u8; 32] = public.as_ref().try_into().ok()?;
        let id = digest::digest(&digest::SHA256, &public)
            .as_ref()
            .first()
            .copied()?;
        Some(Self {
            id,
            private,
            public,
        })
    }

    /// The first byte of SHA-256 of the public key.
    #[must_use]
    pub const fn id(&self) -> u8 {
        self.id
    }

    /// The public key: what clients seal to.
    #[must_use]
    pub const fn public(&self) -> &[u8; 32] {
        &self.public
    }
}

impl PushkeyKeys {
    /// Takes the keys in, newest first.
    ///
    /// # Errors
    ///
    /// Which two of them have the same key ID.
    pub fn new(keys: Vec<PushkeyKey>) -> Result<Self, SameId> {
        let mut seen = [None; 256];
        for (second, key) in keys.iter().enumerate() {
            if let Some(first) = seen[usize::from(key.id)].replace(second) {
                let id = key.id;
                return Err(SameId { id, first, second });
            }
        }
        Ok(Self(keys))
    }

    /// The keys, newest first.
    pub fn iter(&self) -> impl Iterator<Item = &PushkeyKey> {
        self.0.iter()
    }

    /// What a sealed pushkey stands for; `None` for a pushkey that is not sealed.
    ///
    /// # Errors
    ///
    /// See [`CannotOpen`]: the pushkey is to be rejected.
    pub fn open(&self, app_id: &str, pushkey: &str) -> Result<Option<String>, CannotOpen> {
        let Some(sealed) = pushkey.strip_prefix(PREFIX) else {
            return Ok(None);
        };
        if self.0.is_empty() {
            return Err(CannotOpen::NoKeys);
        }
        if pushkey.len() > LONGEST {
            return Err(CannotOpen::Malformed);
        }
        let mut sealed = URL_SAFE_NO_PAD
            .decode(sealed.trim_end_matches('='))
            .map_err(|_| CannotOpen::Malformed)?;
        let Some((id, rest)) = sealed.split_first_mut() else {
            return Err(CannotOpen::Malformed);
        };
        let Some((enc, ciphertext)) = rest.split_first_chunk_mut::<ENC>() else {
            return Err(CannotOpen::Malformed);
        };
        let key = self
            .0
            .iter()
            .find(|key| key.id == *id)
            .ok_or(CannotOpen::UnknownKey)?;
        let plaintext = key
            .open(enc, INFO, app_id.as_bytes(), ciphertext)
            .ok_or(CannotOpen::Authentication)?;
        token(plaintext).map(Some).ok_or(CannotOpen::Malformed)
    }
}

/// `len16(token) ‖ token ‖ zeros`
fn token(plaintext: &[u8]) -> Option<String> {
    let (length, rest) = plaintext.split_first_chunk::<2>()?;
    let token = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
    String::from_utf8(token.to_vec()).ok()
}

impl PushkeyKey {
    /// RFC 9180 §6.1: `OpenBase`.
    fn open<'text>(
        &self,
        enc: &[u8; ENC],
        info: &[u8],
        aad: &[u8],
        ciphertext: &'text mut [u8],
    ) -> Option<&'text [u8]> {
        let secret = self.decapsulate(enc)?;
        let (key, nonce) = schedule(&secret, info);
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).ok()?);
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.open_in_place(nonce, Aad::from(aad), ciphertext)
            .ok()
            .map(|text| &*text)
    }

    /// RFC 9180 §4.1: `Decap`.
    fn decapsulate(&self, enc: &[u8; ENC]) -> Option<Zeroizing<[u8; HASH]>> {
        let theirs = UnparsedPublicKey::new(&X25519, enc);
        let eae_prk = agree(&self.private, theirs, (), |shared| {
            Ok::<_, ()>(extract(&[], KEM_SUITE, b"eae_prk", shared))
        })
        .ok()?;
        let mut both = [0; 2 * ENC];
        both[..ENC].copy_from_slice(enc);
        both[ENC..].copy_from_slice(&self.public);
        Some(expand(&eae_prk, KEM_SUITE, b"shared_secret", &both))
    }
}

/// RFC 9180 §5.1: `KeySchedule` in base mode; the AEAD key and the nonce of the first message.
fn schedule(shared_secret: &[u8; HASH], info: &[u8]) -> (Zeroizing<[u8; KEY]>, [u8; NONCE_LEN]) {
    let mut context = [0; 1 + 2 * HASH];
    context[1..=HASH].copy_from_slice(&*extract(&[], HPKE_SUITE, b"psk_id_hash", b""));
    context[1 + HASH..].copy_from_slice(&*extract(&[], HPKE_SUITE, b"info_hash", info));
    let secret = extract(shared_secret, HPKE_SUITE, b"secret", b"");
    let key = expand(&secret, HPKE_SUITE, b"key", &context);
    let nonce = expand(&secret, HPKE_SUITE, b"base_nonce", &context);
    (key, *nonce)
}

/// RFC 9180 §4: `LabeledExtract` with HKDF-SHA256, whose extraction is one HMAC (RFC 5869 §2.2).
fn extract(salt: &[u8], suite: &[u8], label: &[u8], secret: &[u8]) -> Zeroizing<[u8; HASH]> {
    hmac_sha256(salt, &[b"HPKE-v1", suite, label, secret])
}

/// RFC 9180 §4: `LabeledExpand` to at most one block of HKDF-SHA256 (RFC 5869 §2.3).
fn expand<const N: usize>(
    secret: &[u8; HASH],
    suite: &[u8],
    label: &[u8],
    info: &[u8],
) -> Zeroizing<[u8; N]> {
    const { assert!(N <= HASH, "one block of output") };
    let length = u16::try_from(N).unwrap_or(u16::MAX).to_be_bytes();
    let block = hmac_sha256(secret, &[&length, b"HPKE-v1", suite, label, info, &[1]]);
    let mut output = Zeroizing::new([0; N]);
    output.copy_from_slice(&block[..N]);
    output
}

fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; HASH]> {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        mac.update(part);
    }
    let mut output = Zeroizing::new([0; HASH]);
    output.copy_from_slice(mac.sign().as_ref());
    output
}

impl CannotOpen {
    /// The metric label and log value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoKeys => "no_keys",
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown_key",
            Self::Authentication => "authentication",
        }
    }

    /// What an operator or the app's developer may do about it.
    #[must_use]
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::NoKeys => "the configuration has no `pushkey_keys`",
            Self::Malformed => "it is not what the specification describes",
            Self::UnknownKey => {
                "no key of `pushkey_keys` is the one that it names (a key stays in the list until the last pusher \
                 that was sealed to it is gone)"
            }
            Self::Authentication => "it was made for another app ID or another key, or was changed",
        }
    }
}

impl fmt::Debug for PushkeyKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PushkeyKeys({})", self.0.len())
    }
}

impl fmt::Debug for PushkeyKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PushkeyKey({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hpke::{
        Deserializable as _, Kem, OpModeS, Serializable as _,
        aead::AesGcm128,
        kdf::HkdfSha256,
        kem::X25519HkdfSha256,
        rand_core::{TryCryptoRng, TryRng},
        single_shot_seal_with_rng,
    };
    use proptest::prelude::*;
    use shared::random::Random;

    use super::*;

    const APP: &str = "org.example.app";
    const TOKEN: &str = "a device token";

    /// Appendix A.1.1: base mode, with this suite.
    mod rfc_9180 {
        pub(super) const INFO: &str = "4f6465206f6e2061204772656369616e2055726e";
        pub(super) const RECEIVER_PRIVATE: &str =
            "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8";
        pub(super) const RECEIVER_PUBLIC: &str =
            "3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d";
        pub(super) const ENC: &str =
            "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431";
        pub(super) const SHARED_SECRET: &str =
            "fe0e18c9f024ce43799ae393c7e8fe8fce9d218875e8227b0187c04e7d2ea1fc";
        pub(super) const KEY: &str = "4531685d41d65f03dc48f6b8302c05b0";
        pub(super) const BASE_NONCE: &str = "56d890e5accaaf011cff4b7d";
        pub(super) const AAD: &str = "436f756e742d30";
        pub(super) const PLAINTEXT: &str =
            "4265617574792069732074727574682c20747275746820626561757479";
        pub(super) const CIPHERTEXT: &str = "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a";
    }

    #[test]
    fn test_vector_of_rfc_9180_appendix_a_1_1() {
        let key = PushkeyKey::new(&bytes(rfc_9180::RECEIVER_PRIVATE)).unwrap();
        assert_eq!(key.public(), &bytes(rfc_9180::RECEIVER_PUBLIC));
        let enc = bytes(rfc_9180::ENC);
        let secret = key.decapsulate(&enc).unwrap();
        assert_eq!(*secret, bytes(rfc_9180::SHARED_SECRET));
        let info: [u8; 20] = bytes(rfc_9180::INFO);
        let (aead_key, nonce) = schedule(&secret, &info);
        assert_eq!(*aead_key, bytes(rfc_9180::KEY));
        assert_eq!(nonce, bytes(rfc_9180::BASE_NONCE));

        let aad: [u8; 7] = bytes(rfc_9180::AAD);
        let ciphertext: [u8; 45] = bytes(rfc_9180::CIPHERTEXT);
        let plaintext: [u8; 29] = bytes(rfc_9180::PLAINTEXT);
        assert_eq!(
            key.open(&enc, &info, &aad, &mut ciphertext.clone()),
            Some(&plaintext[..])
        );
        for (info, aad) in [(&info[1..], &aad[..]), (&info, &aad[1..])] {
            assert_eq!(key.open(&enc, info, aad, &mut ciphertext.clone()), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_another_implementation_seals_opens(
            seed in any::<u64>(),
            app_id in any::<String>(),
            token in "[ -~]{0,254}|\\PC{0,60}",
        ) {
            let keys = keys(&[1, 2, 3]);
            for key in keys.iter() {
                let sealed = seal(key, &app_id, &padded(&token), seed);
                prop_assert!(sealed.len() <= LONGEST);
                prop_assert_eq!(keys.open(&app_id, &sealed), Ok(Some(token.clone())));
                let padding = "=".repeat((4 - (sealed.len() - PREFIX.len()) % 4) % 4);
                prop_assert_eq!(
                    keys.open(&app_id, &(sealed + &padding)),
                    Ok(Some(token.clone()))
                );
            }
        }

        #[test]
        fn nothing_that_was_changed_opens(
            seed in any::<u64>(),
            place in 0_usize..305,
            change in 1_u8..=255,
        ) {
            let keys = keys(&[1]);
            let sealed = seal(&keys.0[0], APP, &padded(TOKEN), seed);
            let mut bytes = URL_SAFE_NO_PAD.decode(&sealed[PREFIX.len()..]).unwrap();
            prop_assert_eq!(bytes.len(), 305);
            bytes[place] ^= change;
            // X25519 ignores the highest bit of a public key; the key schedule does not
            let expected = if place == 0 {
                CannotOpen::UnknownKey
            } else {
                CannotOpen::Authentication
            };
            prop_assert_eq!(keys.open(APP, &written(&bytes)), Err(expected));
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), bytes in any::<Vec<u8>>()) {
            let keys = keys(&[1]);
            let _ = keys.open(APP, &text);
            let sealed = PREFIX.to_owned() + &text;
            prop_assert!(keys.open(APP, &sealed).is_err());
            prop_assert!(keys.open(APP, &written(&bytes)).is_err());
            let of_ours = [&[keys.0[0].id()][..], &bytes].concat();
            prop_assert!(keys.open(APP, &written(&of_ours)).is_err());
        }
    }

    #[test]
    fn it_is_of_one_app_alone() {
        let keys = keys(&[1]);
        let sealed = seal(&keys.0[0], APP, &padded(TOKEN), 1);
        assert_eq!(keys.open(APP, &sealed), Ok(Some(TOKEN.to_owned())));
        for other in [
            "org.example.other",
            "org.example.ap",
            "",
            "org.example.app ",
        ] {
            assert_eq!(keys.open(other, &sealed), Err(CannotOpen::Authentication));
        }
    }

    #[test]
    fn a_pushkey_without_the_prefix_is_not_sealed() {
        let keys = keys(&[1]);
        let sealed = seal(&keys.0[0], APP, &padded(TOKEN), 1);
        for pushkey in ["", "nk1", "nk2.AAAA", "NK1.AAAA", " nk1.AAAA", &sealed[4..]] {
            assert_eq!(keys.open(APP, pushkey), Ok(None), "{pushkey}");
        }
    }

    #[test]
    fn keys_that_were_rotated_out_stay_good_while_they_are_listed() {
        let [old, new] = [1, 2].map(|seed| keys(&[seed]).0.remove(0));
        let (of_old, of_new) = (
            seal(&old, APP, &padded("old"), 1),
            seal(&new, APP, &padded("new"), 1),
        );
        let both = PushkeyKeys::new(vec![new, old]).unwrap();
        assert_eq!(both.open(APP, &of_old), Ok(Some("old".to_owned())));
        assert_eq!(both.open(APP, &of_new), Ok(Some("new".to_owned())));
        let newest_first: Vec<_> = both.iter().map(PushkeyKey::id).collect();
        let PushkeyKeys(mut all) = both;
        assert_eq!(newest_first, [all[0].id(), all[1].id()]);
        all.pop();
        let retired = PushkeyKeys::new(all).unwrap();
        assert_eq!(retired.open(APP, &of_old), Err(CannotOpen::UnknownKey));
        assert_eq!(retired.open(APP, &of_new), Ok(Some("new".to_owned())));
        let none = PushkeyKeys::default();
        assert_eq!(none.open(APP, &of_new), Err(CannotOpen::NoKeys));
        assert_eq!(none.open(APP, TOKEN), Ok(None));
    }

    #[test]
    fn what_is_malformed_is_told_from_what_is_not_for_us() {
        let keys = keys(&[1]);
        let key = &keys.0[0];
        let sealed = seal(key, APP, &padded(TOKEN), 1);
        let all = URL_SAFE_NO_PAD.decode(&sealed[PREFIX.len()..]).unwrap();
        let standard_alphabet = sealed.replace('-', "+").replace('_', "/");
        assert_ne!(standard_alphabet, sealed);
        let too_long = seal(key, APP, &[0; 340], 1);
        assert!(too_long.len() > LONGEST);
        let at_the_limit = seal(key, APP, &[0; 332], 1);
        assert_eq!(at_the_limit.len(), LONGEST);
        for (pushkey, expected) in [
            ("nk1.".to_owned(), Err(CannotOpen::Malformed)),
            ("nk1.!".to_owned(), Err(CannotOpen::Malformed)),
            (format!("{sealed} "), Err(CannotOpen::Malformed)),
            (standard_alphabet, Err(CannotOpen::Malformed)),
            (too_long, Err(CannotOpen::Malformed)),
            // the key ID, and less than an encapsulated key
            (written(&all[..1]), Err(CannotOpen::Malformed)),
            (written(&all[..32]), Err(CannotOpen::Malformed)),
            // nothing, and less than a tag, to decrypt
            (written(&all[..33]), Err(CannotOpen::Authentication)),
            (written(&all[..48]), Err(CannotOpen::Authentication)),
            (written(&all[..304]), Err(CannotOpen::Authentication)),
            // what a length of 0 gives
            (at_the_limit, Ok(Some(String::new()))),
        ] {
            assert_eq!(keys.open(APP, &pushkey), expected, "{pushkey}");
        }
    }

    /// RFC 9180 §7.1.4: such a public key gives everybody the same secret.
    #[test]
    fn an_encapsulated_key_of_small_order_does_not_open() {
        let keys = keys(&[1]);
        let mut one = [0; ENC];
        one[0] = 1;
        for enc in [[0; ENC], one] {
            assert!(keys.0[0].decapsulate(&enc).is_none());
            let pushkey = [&[keys.0[0].id()][..], &enc, &[0; 272]].concat();
            assert_eq!(
                keys.open(APP, &written(&pushkey)),
                Err(CannotOpen::Authentication)
            );
        }
    }

    #[test]
    fn a_plaintext_that_holds_no_token_is_malformed() {
        let keys = keys(&[1]);
        let mut longer_than_it_is = padded(TOKEN);
        longer_than_it_is[..2].copy_from_slice(&255_u16.to_be_bytes());
        let mut not_utf_8 = padded(TOKEN);
        not_utf_8[2] = 0xff;
        for plaintext in [&[][..], &[0], &longer_than_it_is, &not_utf_8] {
            let sealed = seal(&keys.0[0], APP, plaintext, 1);
            assert_eq!(keys.open(APP, &sealed), Err(CannotOpen::Malformed));
        }
    }

    #[test]
    fn two_keys_with_one_id_are_refused() {
        let (first, second) = two_with_one_id();
        let [first, second] = [first, second].map(|seed| keys(&[seed]).0.remove(0));
        assert_ne!(first.public(), second.public());
        let id = first.id();
        assert_eq!(second.id(), id);
        assert_eq!(
            PushkeyKeys::new(vec![first, keys(&[1]).0.remove(0), second]).err(),
            Some(SameId {
                id,
                first: 0,
                second: 2
            })
        );
    }

    #[test]
    fn debug_shows_no_key() {
        let keys = keys(&[1]);
        assert_eq!(format!("{keys:?}"), "PushkeyKeys(1)");
        let id = keys.0[0].id();
        assert_eq!(format!("{:?}", keys.0[0]), format!("PushkeyKey({id})"));
    }

    /// The key ID as the specification has it.
    #[test]
    fn a_key_id_is_the_first_byte_of_the_hash() {
        for seed in 0..20 {
            let key = keys(&[seed]).0.remove(0);
            let hash = digest::digest(&digest::SHA256, key.public());
            assert_eq!(key.id(), hash.as_ref()[0]);
        }
    }

    fn keys(seeds: &[u64]) -> PushkeyKeys {
        let key = |seed: &u64| PushkeyKey::new(&Random::seeded(*seed).bytes()).unwrap();
        PushkeyKeys::new(seeds.iter().map(key).collect()).unwrap()
    }

    /// The seeds of two keys that have the same key ID.
    fn two_with_one_id() -> (u64, u64) {
        let mut seeds = [None; 256];
        for seed in 2_000.. {
            let id = usize::from(keys(&[seed]).0[0].id());
            if let Some(other) = seeds[id].replace(seed) {
                return (other, seed);
            }
        }
        unreachable!("of 257 keys two have one ID");
    }

    /// `len16(token) ‖ token ‖ zeros` to 256 bytes.
    fn padded(token: &str) -> Vec<u8> {
        let mut plaintext = u16::try_from(token.len()).unwrap().to_be_bytes().to_vec();
        plaintext.extend(token.as_bytes());
        plaintext.resize(256, 0);
        plaintext
    }

    fn seal(key: &PushkeyKey, app_id: &str, plaintext: &[u8], seed: u64) -> String {
        let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(key.public()).unwrap();
        let (enc, ciphertext) =
            single_shot_seal_with_rng::<AesGcm128, HkdfSha256, X25519HkdfSha256>(
                &OpModeS::Base,
                &public,
                b"nocturne pushkey v1",
                plaintext,
                app_id.as_bytes(),
                &mut Repeatable(Random::seeded(seed)),
            )
            .unwrap();
        written(&[&[key.id()], &enc.to_bytes()[..], &ciphertext].concat())
    }

    fn written(bytes: &[u8]) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        assert_eq!(hex.len(), 2 * N);
        std::array::from_fn(|place| u8::from_str_radix(&hex[2 * place..][..2], 16).unwrap())
    }

    struct Repeatable(Random);

    impl TryRng for Repeatable {
        type Error = Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            Ok(u32::from_be_bytes(self.0.bytes()))
        }

        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            Ok(u64::from_be_bytes(self.0.bytes()))
        }

        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
            self.0.fill(bytes);
            Ok(())
        }
    }

    impl TryCryptoRng for Repeatable {}
}
