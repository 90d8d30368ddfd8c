//! The client's side of sealed pushkeys (spec/opaque-push.md §7), written for itself: what is sealed
//! here, the gateway's own code has to open.

use std::io;

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{PrivateKey, UnparsedPublicKey, X25519, agree},
    digest::{SHA256, digest},
    error::Unspecified,
    hmac,
};

use crate::support::{base64url, other};

/// Seals a token, for one app, to a public key of `/_nocturne/v1/keys`: what the client registers as
/// its pushkey.
pub fn seal_pushkey(public: &[u8], app_id: &str, token: &str) -> io::Result<String> {
    let length = u16::try_from(token.len()).map_err(other)?;
    let mut text = [&length.to_be_bytes(), token.as_bytes()].concat();
    text.resize(256, 0);
    let own = PrivateKey::generate(&X25519).map_err(other)?;
    let (enc, text) = seal(
        &own,
        public,
        b"nocturne pushkey v1",
        app_id.as_bytes(),
        text,
    )
    .map_err(other)?;
    let hash = digest(&SHA256, public);
    let key_id = hash.as_ref().get(..1).unwrap_or_default();
    let sealed = [key_id, &enc, &text].concat();
    Ok(format!("nk1.{}", base64url(&sealed)))
}

/// RFC 9180, base mode with X25519, HKDF-SHA256 and AES-128-GCM: the encapsulated key and the
/// ciphertext of one message.
fn seal(
    own: &PrivateKey,
    public: &[u8],
    info: &[u8],
    associated: &[u8],
    mut text: Vec<u8>,
) -> Result<(Vec<u8>, Vec<u8>), Unspecified> {
    const KEM: &[u8] = b"KEM\x00\x20";
    const SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x01";
    let extract = |salt: &[u8], suite: &[u8], label: &[u8], secret: &[u8]| {
        hmac_sha256(salt, &[b"HPKE-v1", suite, label, secret])
    };
    // to at most 32 bytes, which is one block
    let expand = |secret: &[u8], suite: &[u8], label: &[u8], info: &[u8], length: u8| {
        let length_bytes = u16::from(length).to_be_bytes();
        let parts = [&length_bytes, &b"HPKE-v1"[..], suite, label, info, &[1]];
        let mut output = hmac_sha256(secret, &parts);
        output.truncate(usize::from(length));
        output
    };
    let enc = own.compute_public_key()?.as_ref().to_vec();
    let theirs = UnparsedPublicKey::new(&X25519, public);
    let shared = agree(own, theirs, Unspecified, |shared| Ok(shared.to_vec()))?;
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
    LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key)?).seal_in_place_append_tag(
        Nonce::try_assume_unique_for_key(&nonce)?,
        Aad::from(associated),
        &mut text,
    )?;
    Ok((enc, text))
}

fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, &parts.concat()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9180, Appendix A.1.1.
    #[test]
    fn seals_the_example_of_the_standard() {
        let own = PrivateKey::from_private_key(
            &X25519,
            &hex("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736"),
        )
        .unwrap();
        let (enc, text) = seal(
            &own,
            &hex("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d"),
            b"Ode on a Grecian Urn",
            b"Count-0",
            b"Beauty is truth, truth beauty".to_vec(),
        )
        .unwrap();
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

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|place| u8::from_str_radix(&text[place..place + 2], 16).unwrap())
            .collect()
    }
}
