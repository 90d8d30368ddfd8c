//! What a client says first, and the cookie that shows that it is where its packets claim to come from (RFC 6347 §4.2.1).
//!
//! Until the cookie has come back nothing is stored, and the answer is shorter than the question: it is 60 bytes long, and what
//! is shorter than 61 bytes is not taken for a `ClientHello`.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use turn_relay_proto::{Link, Time};

/// How long cookies are made with one time in them, in nanoseconds. A cookie is good in that time and the next.
const PERIOD: u64 = 60_000_000_000;

/// Bytes of a cookie. What keeps sessions takes cookies of this length alone.
pub const COOKIE: usize = 32;

/// Bytes of a record's header (RFC 6347 §4.1).
const RECORD_HEADER: usize = 13;

/// Bytes of a handshake message's header (RFC 6347 §4.2.2).
const MESSAGE_HEADER: usize = 12;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const HELLO_VERIFY_REQUEST: u8 = 3;
const DTLS_1_0: [u8; 2] = [0xfe, 0xff];
const DTLS_1_2: [u8; 2] = [0xfe, 0xfd];

/// Bytes of a `HelloVerifyRequest`, as [`hello_verify_request`] writes it.
pub const ANSWER: usize = RECORD_HEADER + MESSAGE_HEADER + 3 + COOKIE;

/// A `ClientHello` without a cookie, which brings the keeper of a session to where it stands after it has sent a `HelloVerifyRequest`: message
/// numbers are part of what both sides prove to have seen.
pub const FIRST_HELLO: [u8; RECORD_HEADER + MESSAGE_HEADER + 42] = {
    let mut hello = [0; RECORD_HEADER + MESSAGE_HEADER + 42];
    let head = [HANDSHAKE, DTLS_1_2[0], DTLS_1_2[1]];
    let mut at = 0;
    while at < head.len() {
        hello[at] = head[at];
        at += 1;
    }
    hello[12] = 12 + 42;
    hello[13] = CLIENT_HELLO;
    hello[16] = 42;
    hello[24] = 42;
    hello[25] = DTLS_1_2[0];
    hello[26] = DTLS_1_2[1];
    // behind 32 bytes of randomness, no session and no cookie: one cipher suite and no compression
    hello[62] = 2;
    hello[63] = 0xc0;
    hello[64] = 0x2b;
    hello[65] = 1;
    hello
};

/// Says to a client that does not speak DTLS 1.2 that nobody here speaks its version: a fatal alert, `protocol_version`.
pub const OTHER_VERSION: [u8; RECORD_HEADER + 2] = [
    21,
    DTLS_1_0[0],
    DTLS_1_0[1],
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    2,
    2,
    70,
];

/// What is to be known of a `ClientHello`, of which the rest may come in other records.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// Whether the client speaks DTLS 1.2.
    pub is_understood: bool,
    /// The number of the message: 0, or 1 when it answers a `HelloVerifyRequest`.
    pub number: u16,
    /// What the client drew for this session.
    pub random: [u8; 32],
    /// Empty until the client was given one.
    pub cookie: &'a [u8],
}

impl<'a> ClientHello<'a> {
    /// Reads the first record of a datagram; `None` if it is anything else.
    #[must_use]
    pub fn read(datagram: &'a [u8]) -> Option<Self> {
        let (header, rest) = datagram.split_at_checked(RECORD_HEADER)?;
        let len = usize::from(u16::from_be_bytes([header[11], header[12]]));
        let is_handshake_in_clear = header[0] == HANDSHAKE && header[3..5] == [0, 0];
        let version = [header[1], header[2]];
        if !is_handshake_in_clear || ![DTLS_1_0, DTLS_1_2].contains(&version) {
            return None;
        }
        let (header, body) = rest.get(..len)?.split_at_checked(MESSAGE_HEADER)?;
        let is_beginning = header[6..9] == [0; 3];
        let len = u32::from_be_bytes([0, header[9], header[10], header[11]]);
        if header[0] != CLIENT_HELLO || !is_beginning {
            return None;
        }
        let body = body.get(..usize::try_from(len).ok()?)?;
        // later versions say the same, RFC 9147 §5.3
        let (version, body) = body.split_at_checked(2)?;
        let (random, body) = body.split_first_chunk::<32>()?;
        let (_session, body) = split_vector(body)?;
        let (cookie, _) = split_vector(body)?;
        Some(Self {
            is_understood: version == DTLS_1_2,
            number: u16::from_be_bytes([header[4], header[5]]),
            random: *random,
            cookie,
        })
    }
}

/// Bytes behind their number.
fn split_vector(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

/// Shows nothing of the client's.
impl std::fmt::Debug for ClientHello<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientHello {}", self.number)
    }
}

/// Asks a client to say it again, with the cookie.
///
/// Its record has always the number 0, though RFC 6347 §4.2.1 has it be the `ClientHello`'s: the next record that the client is sent has
/// the number 1, and must not look like one that it has had. If one of several gets lost another is taken in its place.
#[must_use]
pub fn hello_verify_request(cookie: &[u8; COOKIE]) -> [u8; ANSWER] {
    let mut answer = [0; ANSWER];
    let body = ANSWER - RECORD_HEADER - MESSAGE_HEADER;
    let len = |len: usize| u8::try_from(len).unwrap_or(u8::MAX);
    answer[0] = HANDSHAKE;
    answer[1..3].copy_from_slice(&DTLS_1_0);
    answer[12] = len(MESSAGE_HEADER + body);
    answer[13] = HELLO_VERIFY_REQUEST;
    answer[16] = len(body);
    answer[24] = len(body);
    answer[25..27].copy_from_slice(&DTLS_1_0);
    answer[27] = len(COOKIE);
    answer[28..].copy_from_slice(cookie);
    answer
}

/// Makes cookies, and knows them again, without keeping any.
pub struct Cookies(hmac::Key);

impl Cookies {
    /// With a key that `random` draws.
    #[must_use]
    pub fn new(random: &shared::random::Random) -> Self {
        let mut key = [0; 32];
        random.fill(&mut key);
        Self(hmac::Key::new(hmac::HMAC_SHA256, &key))
    }

    /// The cookie for what `client` said to the local address `local`.
    #[must_use]
    pub fn make(
        &self,
        client: SocketAddr,
        local: Link,
        random: &[u8; 32],
        now: Time,
    ) -> [u8; COOKIE] {
        self.of_period(client, local, random, now.as_nanos() / PERIOD)
    }

    /// Whether the cookie is one that this client was given a short while ago.
    #[must_use]
    pub fn is_good(
        &self,
        client: SocketAddr,
        local: Link,
        hello: &ClientHello<'_>,
        now: Time,
    ) -> bool {
        let period = now.as_nanos() / PERIOD;
        [Some(period), period.checked_sub(1)]
            .into_iter()
            .flatten()
            .map(|period| self.of_period(client, local, &hello.random, period))
            .any(|cookie| verify_slices_are_equal(&cookie, hello.cookie).is_ok())
    }

    fn of_period(
        &self,
        client: SocketAddr,
        local: Link,
        random: &[u8; 32],
        period: u64,
    ) -> [u8; COOKIE] {
        let address = match client.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&period.to_be_bytes());
        context.update(&address.octets());
        context.update(&client.port().to_be_bytes());
        context.update(&local.0.to_be_bytes());
        context.update(random);
        let mut cookie = [0; COOKIE];
        cookie.copy_from_slice(context.sign().as_ref());
        cookie
    }
}

/// Shows no key.
impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cookies")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::random::Random;

    use super::*;

    const LOCAL: Link = Link(0);

    fn client(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn hello(cookie: &[u8]) -> ClientHello<'_> {
        ClientHello {
            is_understood: true,
            number: 1,
            random: [7; 32],
            cookie,
        }
    }

    #[test]
    fn a_cookie_is_good_for_a_minute_or_two_and_for_one_client() {
        let cookies = Cookies::new(&Random::system());
        let now = Time::from_nanos(100 * PERIOD + 1);
        let cookie = cookies.make(client(1), LOCAL, &[7; 32], now);
        let is_good = |client, local, hello: &ClientHello<'_>, later| {
            cookies.is_good(client, local, hello, now + Duration::from_secs(later))
        };
        let good = hello(&cookie);
        assert!(is_good(client(1), LOCAL, &good, 0));
        assert!(is_good(client(1), LOCAL, &good, 60));
        assert!(!is_good(client(1), LOCAL, &good, 120));
        assert!(!is_good(client(2), LOCAL, &good, 0));
        assert!(!is_good(client(1), Link(1), &good, 0));
        assert!(!is_good(client(1), LOCAL, &hello(&[]), 0));
        let other = ClientHello {
            random: [8; 32],
            ..good
        };
        assert!(!is_good(client(1), LOCAL, &other, 0));
        let others = Cookies::new(&Random::system());
        assert!(!others.is_good(client(1), LOCAL, &good, now));
    }

    #[test]
    fn no_answer_is_longer_than_what_it_answers() {
        // without extensions, cipher suites, session and cookie: shorter is none
        let mut shortest = FIRST_HELLO[..RECORD_HEADER + MESSAGE_HEADER + 36].to_vec();
        shortest[12] = 12 + 36;
        shortest[24] = 36;
        assert!(ClientHello::read(&shortest).is_some());
        assert!(hello_verify_request(&[1; 32]).len() < shortest.len());
        assert!(OTHER_VERSION.len() < shortest.len());
        for len in 0..shortest.len() {
            assert_eq!(ClientHello::read(&shortest[..len]), None, "{len}");
        }
        shortest.pop();
        shortest[12] -= 1;
        shortest[24] -= 1;
        assert_eq!(ClientHello::read(&shortest), None);
    }

    #[test]
    fn a_client_hello_is_told_from_everything_else() {
        let hello = ClientHello::read(&FIRST_HELLO).expect("it is one");
        assert_eq!((hello.number, hello.cookie), (0, [].as_slice()));
        assert!(hello.is_understood);
        let mut old = FIRST_HELLO;
        old[26] = 0xff;
        assert!(!ClientHello::read(&old).expect("it is one").is_understood);
        // another type, version, epoch; another message, not from its beginning
        for (at, value) in [(0, 23), (1, 3), (4, 1), (13, 2), (21, 1)] {
            let mut other = FIRST_HELLO;
            other[at] = value;
            assert_eq!(ClientHello::read(&other), None, "{at}");
        }
    }
}
