//! One TURN client: which requests it makes and what it learns from the answers, over whatever
//! transport.

use std::{net::SocketAddrV4, time::Duration};

use anyhow::{Result, bail, ensure};
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::stun::{Attribute, Class, Key, Message, Method, Request, Transaction};

/// How often a client takes a new nonce for one request before it gives up.
const NONCES: u8 = 3;
/// RFC 8656 §18.8: UDP.
const REQUESTED_UDP: u32 = 17 << 24;

/// A client, and its allocation if it has one.
pub(crate) struct Client {
    /// Where it sends from.
    pub(crate) address: SocketAddrV4,
    credentials: Credentials,
    session: Option<Session>,
    /// Its relayed address.
    pub(crate) relayed: Option<SocketAddrV4>,
    /// For how long the server promised the allocation, last time.
    pub(crate) lifetime: Duration,
}

/// What a REST service would have handed out.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
}

/// What the server said about itself, and the key that follows from it.
struct Session {
    realm: String,
    nonce: Vec<u8>,
    key: Key,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// An allocation of a UDP port.
    Allocate { lifetime: Duration },
    /// The allocation for longer; zero ends it.
    Refresh { lifetime: Duration },
    /// A channel to the peer, which permits its address, too.
    Bind { channel: u16, peer: SocketAddrV4 },
}

/// What an answer means for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It was granted.
    Done,
    /// It has to be made again, with what was learned.
    Again,
    /// It was refused with this code.
    Refused(u16),
}

impl Credentials {
    /// draft-uberti-behave-turn-rest-00 §2.2: a username that expires, and its HMAC-SHA1 as the password.
    pub(crate) fn rest(secret: &str, expiry: u64, name: &str) -> Self {
        let username = format!("{expiry}:{name}");
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
        let password = STANDARD.encode(hmac::sign(&key, username.as_bytes()));
        Self { username, password }
    }
}

impl Ask {
    const fn method(self) -> Method {
        match self {
            Self::Allocate { .. } => Method::Allocate,
            Self::Refresh { .. } => Method::Refresh,
            Self::Bind { .. } => Method::ChannelBind,
        }
    }
}

impl Client {
    /// A client without an allocation.
    pub(crate) const fn new(address: SocketAddrV4, credentials: Credentials) -> Self {
        Self {
            address,
            credentials,
            session: None,
            relayed: None,
            lifetime: Duration::ZERO,
        }
    }

    /// The request as it is sent. The first one of all has no credentials, since they need the server's
    /// realm and nonce.
    pub(crate) fn request(&self, ask: Ask, transaction: Transaction) -> Vec<u8> {
        let request = Request::new(ask.method(), transaction);
        let request = match ask {
            Ask::Allocate { lifetime } => request
                .with_number(Attribute::RequestedTransport, REQUESTED_UDP)
                .with_number(Attribute::Lifetime, seconds(lifetime)),
            Ask::Refresh { lifetime } => {
                request.with_number(Attribute::Lifetime, seconds(lifetime))
            }
            Ask::Bind { channel, peer } => request
                .with_number(Attribute::ChannelNumber, u32::from(channel) << 16)
                .with_address(Attribute::XorPeerAddress, peer),
        };
        let Some(session) = &self.session else {
            return request.into_bytes();
        };
        request
            .with(Attribute::Username, self.credentials.username.as_bytes())
            .with(Attribute::Realm, session.realm.as_bytes())
            .with(Attribute::Nonce, &session.nonce)
            .with_integrity(&session.key)
            .into_bytes()
    }

    /// Takes the answer to a request. An answer that no server may give is an error.
    pub(crate) fn take(&mut self, ask: Ask, answer: &Message<'_>) -> Result<Then> {
        ensure!(
            answer.method == ask.method() as u16,
            "the server answered {ask:?} with method {:#05x}",
            answer.method
        );
        match answer.class {
            Class::Error => self.take_error(ask, answer),
            Class::Success => self.take_success(ask, answer).map(|()| Then::Done),
            Class::Request => bail!("the server answered {ask:?} with a request"),
        }
    }

    /// Forgets the allocation, as after its end.
    pub(crate) fn forget(&mut self) {
        self.session = None;
        self.relayed = None;
    }

    fn take_error(&mut self, ask: Ask, answer: &Message<'_>) -> Result<Then> {
        let Some(code) = answer.error_code() else {
            bail!("the server's error for {ask:?} has no code");
        };
        // 401 to the first request is how one learns the realm; to a signed one it is a refusal
        let learns = code == 438 || code == 401 && self.session.is_none();
        if !learns {
            return Ok(Then::Refused(code));
        }
        let (Some(realm), Some(nonce)) = (
            answer.attribute(Attribute::Realm),
            answer.attribute(Attribute::Nonce),
        ) else {
            bail!("the server's {code} for {ask:?} lacks REALM or NONCE (RFC 8489 §9.2.4)");
        };
        let realm = String::from_utf8(realm.to_vec())?;
        let Credentials { username, password } = &self.credentials;
        self.session = Some(Session {
            key: Key::new(username, &realm, password),
            realm,
            nonce: nonce.to_vec(),
        });
        Ok(Then::Again)
    }

    fn take_success(&mut self, ask: Ask, answer: &Message<'_>) -> Result<()> {
        let signed = self
            .session
            .as_ref()
            .is_some_and(|session| answer.is_signed_with(&session.key));
        ensure!(
            signed,
            "the server's success for {ask:?} is not signed (RFC 8489 §9.2.4)"
        );
        match ask {
            Ask::Allocate { .. } => {
                let mapped = answer.address(Attribute::XorMappedAddress);
                ensure!(
                    mapped == Some(self.address),
                    "the server takes {} for {mapped:?}",
                    self.address
                );
                self.relayed = answer.address(Attribute::XorRelayedAddress);
                ensure!(
                    self.relayed.is_some(),
                    "an allocation without a relayed address"
                );
                self.take_lifetime(answer)?;
            }
            Ask::Refresh { lifetime } if lifetime.is_zero() => self.forget(),
            Ask::Refresh { .. } => self.take_lifetime(answer)?,
            Ask::Bind { .. } => {}
        }
        Ok(())
    }

    fn take_lifetime(&mut self, answer: &Message<'_>) -> Result<()> {
        let Some(lifetime) = answer.number(Attribute::Lifetime) else {
            bail!("an allocation without a lifetime");
        };
        self.lifetime = Duration::from_secs(lifetime.into());
        Ok(())
    }
}

/// Counts the nonces that a request was refused for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Patience(u8);

impl Patience {
    /// Whether the request may be made once more.
    pub(crate) fn again(&mut self) -> bool {
        self.0 += 1;
        self.0 <= NONCES
    }
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4000);
    const ALLOCATE: Ask = Ask::Allocate {
        lifetime: Duration::from_mins(10),
    };

    fn client() -> Client {
        Client::new(ADDRESS, Credentials::rest("north", 1_900_000_000, "alice"))
    }

    fn challenge(code: [u8; 4]) -> Vec<u8> {
        let mut bytes = Request::new(Method::Allocate, [1; 12])
            .with(Attribute::ErrorCode, &code)
            .with(Attribute::Realm, b"example.org")
            .with(Attribute::Nonce, b"abc")
            .into_bytes();
        bytes[0..2].copy_from_slice(&[0x01, 0x13]);
        bytes
    }

    #[test]
    fn a_password_is_what_any_rest_service_computes() {
        // printf %s 1900000000:alice | openssl dgst -sha1 -hmac north -binary | base64
        let credentials = Credentials::rest("north", 1_900_000_000, "alice");
        assert_eq!(credentials.username, "1900000000:alice");
        assert_eq!(credentials.password, "SnH0MEKWgnUzXU+ElSVhRG+O/9g=");
    }

    #[test]
    fn the_first_refusal_teaches_and_the_second_is_one() {
        let mut client = client();
        let bare = client.request(ALLOCATE, [1; 12]);
        let bare = Message::read(&bare).unwrap();
        assert_eq!(bare.attribute(Attribute::Username), None);
        let refusal = challenge([0, 0, 4, 1]);
        let refusal = Message::read(&refusal).unwrap();
        assert_eq!(client.take(ALLOCATE, &refusal).unwrap(), Then::Again);
        let signed = client.request(ALLOCATE, [2; 12]);
        let signed = Message::read(&signed).unwrap();
        assert_eq!(signed.attribute(Attribute::Nonce), Some(&b"abc"[..]));
        assert_eq!(client.take(ALLOCATE, &refusal).unwrap(), Then::Refused(401));
        let stale = challenge([0, 0, 4, 38]);
        let stale = Message::read(&stale).unwrap();
        assert_eq!(client.take(ALLOCATE, &stale).unwrap(), Then::Again);
    }

    #[test]
    fn an_unsigned_success_is_an_error() {
        let mut client = client();
        let refusal = challenge([0, 0, 4, 1]);
        client
            .take(ALLOCATE, &Message::read(&refusal).unwrap())
            .unwrap();
        let mut success = Request::new(Method::Allocate, [1; 12])
            .with_address(Attribute::XorMappedAddress, ADDRESS)
            .with_address(Attribute::XorRelayedAddress, ADDRESS)
            .with_number(Attribute::Lifetime, 600)
            .into_bytes();
        success[0..2].copy_from_slice(&[0x01, 0x03]);
        let success = Message::read(&success).unwrap();
        assert!(client.take(ALLOCATE, &success).is_err());
        assert_eq!(client.relayed, None);
    }
}
