//! HPKE (RFC 9180) in base mode with X25519, HKDF-SHA256 and AES-128-GCM, the sender's side: what a client does
//! to seal its pushkey. Written for itself, so that it shares no mistake with the gateway.

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{PrivateKey, UnparsedPublicKey, X25519, agree},
    hmac,
};

const KEM: &[u8] = b"KEM\x00\x20";
const SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x01";

/// One message: the encapsulated key and the ciphertext.
pub(crate) fn seal(
    ephemeral: &[u8; 32],
    public: &[u8],
    info: &[u8],
    aad: &[u8],
    mut text: Vec<u8>,
) -> (Vec<u8>, Vec<u8>) {
    let own = PrivateKey::from_private_key(&X25519, ephemeral).unwrap();
    let enc = own.compute_public_key().unwrap().as_ref().to_vec();
    let theirs = UnparsedPublicKey::new(&X25519, public);
    let shared = agree(&own, theirs, (), |shared| Ok(shared.to_vec())).unwrap();
    let secret = extract(&[], KEM, b"eae_prk", &shared);
    let both = [&enc[..], public].concat();
    let secret = expand(&secret, KEM, b"shared_secret", &both, 32);
    let context = [
        &[0][..],
        &extract(&[], SUITE, b"psk_id_hash", b""),
        &extract(&[], SUITE, b"info_hash", info),
    ]
    .concat();
    let secret = extract(&secret, SUITE, b"secret", b"");
    let key = expand(&secret, SUITE, b"key", &context, 16);
    let nonce = expand(&secret, SUITE, b"base_nonce", &context, 12);
    LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).unwrap())
        .seal_in_place_append_tag(
            Nonce::try_assume_unique_for_key(&nonce).unwrap(),
            Aad::from(aad),
            &mut text,
        )
        .unwrap();
    (enc, text)
}

fn extract(salt: &[u8], suite: &[u8], label: &[u8], secret: &[u8]) -> Vec<u8> {
    hmac_sha256(salt, &[b"HPKE-v1", suite, label, secret])
}

fn expand(secret: &[u8], suite: &[u8], label: &[u8], info: &[u8], length: u16) -> Vec<u8> {
    let length_bytes = length.to_be_bytes();
    let parts = [&length_bytes, &b"HPKE-v1"[..], suite, label, info, &[1]];
    hmac_sha256(secret, &parts)[..usize::from(length)].to_vec()
}

fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, &parts.concat()).as_ref().to_vec()
}

/// RFC 9180, Appendix A.1.1.
#[test]
fn seals_as_the_standard_does() {
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|place| u8::from_str_radix(&text[place..place + 2], 16).unwrap())
            .collect()
    };
    let ephemeral = hex("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736");
    let (enc, text) = seal(
        &ephemeral.try_into().unwrap(),
        &hex("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d"),
        b"Ode on a Grecian Urn",
        b"Count-0",
        b"Beauty is truth, truth beauty".to_vec(),
    );
    assert_eq!(
        enc,
        hex("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431")
    );
    assert_eq!(
        text,
        hex(
            "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"
        )
    );
}
