//! Reading and checking JSON Web Tokens (RFC 7515), by hand: the gateway signs with a library, and
//! a check by the same library would share its mistakes.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
};
use serde_json::Value;

use crate::support::from_base64url;

/// A token whose signature has not been checked yet.
pub(crate) struct Jwt<'a> {
    header: Value,
    claims: Value,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Jwt<'a> {
    /// Takes a compact token apart.
    pub(crate) fn parse(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let json = |part: &str| -> Option<Value> {
            // RFC 7515 §2: base64url with all trailing `=` omitted
            if part.contains('=') {
                return None;
            }
            let value: Value = serde_json::from_slice(&from_base64url(part)?).ok()?;
            value.is_object().then_some(value)
        };
        Some(Self {
            header: json(header)?,
            claims: json(claims)?,
            signed,
            signature: from_base64url(signature)?,
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.header.get(name)?.as_str()
    }

    pub(crate) fn claim(&self, name: &str) -> Option<&str> {
        self.claims.get(name)?.as_str()
    }

    pub(crate) fn seconds(&self, name: &str) -> Option<u64> {
        self.claims.get(name)?.as_u64()
    }

    /// Whether the token is signed with ES256 by this uncompressed P-256 point.
    pub(crate) fn is_signed_by_p256(&self, public: &[u8]) -> bool {
        self.header("alg") == Some("ES256")
            && UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public)
                .verify(self.signed.as_bytes(), &self.signature)
                .is_ok()
    }

    /// Whether the token is signed with RS256 by this key.
    pub(crate) fn is_signed_by_rsa(&self, public: &[u8]) -> bool {
        self.header("alg") == Some("RS256")
            && UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public)
                .verify(self.signed.as_bytes(), &self.signature)
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use serde_json::json;

    use super::*;
    use crate::{ApnsKey, ServiceAccount};

    #[test]
    fn es256_is_accepted_from_the_right_key_alone() {
        let key = ApnsKey::generate("K", "T").unwrap();
        let token = encode(
            &Header::new(Algorithm::ES256),
            &json!({"iss": "T", "iat": 1}),
            &EncodingKey::from_ec_pem(key.pem().as_bytes()).unwrap(),
        )
        .unwrap();
        let jwt = Jwt::parse(&token).unwrap();
        assert_eq!((jwt.claim("iss"), jwt.seconds("iat")), (Some("T"), Some(1)));
        assert!(jwt.is_signed_by_p256(key.public()));
        let other = ApnsKey::generate("K", "T").unwrap();
        assert!(!jwt.is_signed_by_p256(other.public()));
    }

    #[test]
    fn rs256_is_accepted_from_the_right_key_alone() {
        let account = ServiceAccount::generate("p").unwrap();
        let file: Value = serde_json::from_str(&account.json("https://localhost/token")).unwrap();
        let key = file["private_key"].as_str().unwrap();
        let token = encode(
            &Header::new(Algorithm::RS256),
            &json!({"iss": account.client_email()}),
            &EncodingKey::from_rsa_pem(key.as_bytes()).unwrap(),
        )
        .unwrap();
        let jwt = Jwt::parse(&token).unwrap();
        assert!(jwt.is_signed_by_rsa(account.public()));
        assert!(!jwt.is_signed_by_rsa(ServiceAccount::generate("p").unwrap().public()));
    }

    #[test]
    fn a_token_with_other_claims_than_those_signed_is_refused() {
        let key = ApnsKey::generate("K", "T").unwrap();
        let sign = |claims| {
            encode(
                &Header::new(Algorithm::ES256),
                &claims,
                &EncodingKey::from_ec_pem(key.pem().as_bytes()).unwrap(),
            )
            .unwrap()
        };
        let (one, two) = (sign(json!({"iat": 1})), sign(json!({"iat": 2})));
        let (signed, _) = one.rsplit_once('.').unwrap();
        let (_, signature) = two.rsplit_once('.').unwrap();
        let forged = format!("{signed}.{signature}");
        assert!(!Jwt::parse(&forged).unwrap().is_signed_by_p256(key.public()));
        assert!(Jwt::parse("only.two").is_none());
    }
}
