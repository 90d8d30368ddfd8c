//! The receiving end of Web Push encryption (RFC 8291), written for itself: what the gateway's own
//! code seals, this has to open.

use std::{fmt, io};

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree},
    error::Unspecified,
    hkdf::{HKDF_SHA256, KeyType, Salt},
};

use crate::support::{base64url, other, random};

/// Salt, record size and length of the key identifier: what an `aes128gcm` body begins with
/// (RFC 8188 §2.1).
const HEADER: usize = 16 + 4 + 1;
/// An uncompressed P-256 point.
const POINT: usize = 65;
/// What AES-GCM adds.
const TAG: usize = 16;

/// The key pair and the secret of a subscribed device.
pub struct DeviceKeys {
    private: PrivateKey,
    public: Vec<u8>,
    auth: [u8; 16],
}

/// Why a body could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotOpen {
    /// It is shorter than a header and one sealed byte.
    TooShort,
    /// The key identifier is not a P-256 point (RFC 8291 §4).
    KeyIdentifier,
    /// The record size is smaller than the record: there would be a second one, and RFC 8291 §4
    /// allows one only.
    RecordSize,
    /// It was not sealed to these keys, or it was changed.
    Sealed,
    /// The plaintext has no padding delimiter of a last record.
    Padding,
}

impl DeviceKeys {
    /// New keys.
    pub fn generate() -> io::Result<Self> {
        Self::new(PrivateKey::generate(&ECDH_P256).map_err(other)?, random())
    }

    fn new(private: PrivateKey, auth: [u8; 16]) -> io::Result<Self> {
        let public = private
            .compute_public_key()
            .map_err(other)?
            .as_ref()
            .to_vec();
        Ok(Self {
            private,
            public,
            auth,
        })
    }

    /// The public key as a browser or a Matrix client registers it.
    #[must_use]
    pub fn p256dh(&self) -> String {
        base64url(&self.public)
    }

    /// The authentication secret as a browser or a Matrix client registers it.
    #[must_use]
    pub fn auth(&self) -> String {
        base64url(&self.auth)
    }

    /// Opens an `aes128gcm` body; the padding is not part of the answer.
    pub fn open(&self, body: &[u8]) -> Result<Vec<u8>, CannotOpen> {
        if body.len() < HEADER + POINT + TAG + 1 {
            return Err(CannotOpen::TooShort);
        }
        let (salt, rest) = body.split_at(16);
        let (record_size, rest) = rest.split_at(4);
        let (key_length, rest) = rest.split_at(1);
        let (sender, sealed) = rest.split_at(POINT);
        if usize::from(key_length[0]) != POINT {
            return Err(CannotOpen::KeyIdentifier);
        }
        let record_size = record_size
            .iter()
            .fold(0_u64, |size, byte| size << 8 | u64::from(*byte));
        if record_size < sealed.len() as u64 {
            return Err(CannotOpen::RecordSize);
        }
        let key_material = self.key_material(sender)?;
        let secret = Salt::new(HKDF_SHA256, salt).extract(&key_material);
        let mut key = [0; 16];
        let mut nonce = [0; 12];
        derive(&secret, &[b"Content-Encoding: aes128gcm\0"], &mut key)
            .and_then(|()| derive(&secret, &[b"Content-Encoding: nonce\0"], &mut nonce))
            .map_err(|Unspecified| CannotOpen::Sealed)?;
        let mut sealed = sealed.to_vec();
        let plain = UnboundKey::new(&AES_128_GCM, &key)
            .map(LessSafeKey::new)
            .and_then(|key| {
                key.open_in_place(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::empty(),
                    &mut sealed,
                )
            })
            .map_err(|Unspecified| CannotOpen::Sealed)?;
        // RFC 8188 §2: the last record ends in 0x02 and any number of zero bytes
        let end = plain
            .iter()
            .rposition(|byte| *byte != 0)
            .ok_or(CannotOpen::Padding)?;
        if plain[end] != 2 {
            return Err(CannotOpen::Padding);
        }
        Ok(plain[..end].to_vec())
    }

    /// RFC 8291 §3.3 and §3.4: the input keying material shared with the sender.
    fn key_material(&self, sender: &[u8]) -> Result<[u8; 32], CannotOpen> {
        let info: [&[u8]; 3] = [b"WebPush: info\0", &self.public, sender];
        let mut material = [0; 32];
        agree(
            &self.private,
            UnparsedPublicKey::new(&ECDH_P256, sender),
            CannotOpen::KeyIdentifier,
            |shared| {
                derive(
                    &Salt::new(HKDF_SHA256, &self.auth).extract(shared),
                    &info,
                    &mut material,
                )
                .map_err(|Unspecified| CannotOpen::Sealed)
            },
        )?;
        Ok(material)
    }
}

impl fmt::Debug for DeviceKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DeviceKeys({})", self.p256dh())
    }
}

impl fmt::Display for CannotOpen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::TooShort => "too short for an aes128gcm body",
            Self::KeyIdentifier => "the key identifier is not a P-256 point",
            Self::RecordSize => "more than one record",
            Self::Sealed => "not sealed to these keys",
            Self::Padding => "no padding delimiter",
        })
    }
}

impl std::error::Error for CannotOpen {}

/// How many bytes to derive.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn derive(
    secret: &aws_lc_rs::hkdf::Prk,
    info: &[&[u8]],
    output: &mut [u8],
) -> Result<(), Unspecified> {
    secret.expand(info, Length(output.len()))?.fill(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::from_base64url;

    /// RFC 8291, Appendix A.
    #[test]
    fn opens_the_example_of_the_standard() {
        let bytes = |text| from_base64url(text).unwrap();
        let private = PrivateKey::from_private_key(
            &ECDH_P256,
            &bytes("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"),
        )
        .unwrap();
        let auth = bytes("BTBZMqHH6r4Tts7J_aSIgg").try_into().unwrap();
        let keys = DeviceKeys::new(private, auth).unwrap();
        assert_eq!(
            keys.p256dh(),
            "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
        );
        let body = bytes(concat!(
            "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27ml",
            "mlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPT",
            "pK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN",
        ));
        assert_eq!(
            keys.open(&body).unwrap(),
            b"When I grow up, I want to be a watermelon"
        );
        let mut changed = body.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(keys.open(&changed), Err(CannotOpen::Sealed));
        assert_eq!(keys.open(&body[..60]), Err(CannotOpen::TooShort));
        let others = DeviceKeys::generate().unwrap();
        assert_eq!(others.open(&body), Err(CannotOpen::Sealed));
    }
}
