//! Judges what was recorded: who could read what of whom, and whether that is as promised.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use turn_relay_proto::stun::{AttributeType, Class, MAGIC_COOKIE, Message};

use super::{
    ALICE, BOB, Call, Person,
    client::Credential,
    stage::{REALM, SYNAPSE_LIFETIME},
    wire::{Direction, Packet, Record, records},
};
use crate::commands::demo::{
    check::Check,
    search::{Trace, readable_in},
};

/// To so many seconds the end of Nocturne's usernames is rounded up, and with it when they were fetched.
const ROUNDED_TO: u64 = 3600;

/// Somebody who could read along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// On Alice's wire, if her client had a homeserver's username.
    WireWithHomeserversName,
    /// On Alice's wire.
    WireOfUdp,
    /// On Bob's wire.
    WireOfTls,
    /// The other person of the call.
    Other,
    /// Whoever reads the relay's log and metrics.
    Operator,
}

/// What could be read about somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    MatrixId,
    /// What the username has for a name.
    Name,
    /// What the username has for a time.
    Expiry,
    Address,
    RelaysName,
}

/// What a reader has, and whom it is about.
pub(super) struct View<'a> {
    /// Addresses in headers of packets.
    addresses: Vec<SocketAddr>,
    bytes: Vec<Vec<u8>>,
    person: &'a Person,
    credential: &'a Credential,
}

impl Reader {
    pub(super) const ALL: [Self; 5] = [
        Self::WireWithHomeserversName,
        Self::WireOfUdp,
        Self::WireOfTls,
        Self::Other,
        Self::Operator,
    ];

    /// All that the reader has.
    pub(super) fn views(self, call: &Call) -> Vec<View<'_>> {
        let Call {
            alice,
            bob,
            next_day,
            ..
        } = call;
        match self {
            Self::WireWithHomeserversName => vec![View {
                addresses: vec![alice.address],
                bytes: pieces(&call.would_be),
                person: alice,
                credential: &call.homeservers,
            }],
            Self::WireOfUdp => vec![View::wire(alice), View::wire(next_day)],
            Self::WireOfTls => vec![View::wire(bob)],
            Self::Other => vec![View::of(alice, &bob.read), View::of(bob, &alice.read)],
            Self::Operator => {
                let written = [&call.log, &call.metrics].map(|text| text.clone().into_bytes());
                let people = [alice, bob, next_day];
                people
                    .map(|person| View::of(person, &written))
                    .into_iter()
                    .collect()
            }
        }
    }
}

impl<'a> View<'a> {
    fn wire(person: &'a Person) -> Self {
        let packets = person.packets.iter();
        let mut bytes: Vec<_> = packets.map(|packet| packet.bytes.clone()).collect();
        // what is cut in two is found, too
        bytes.extend([Direction::Sent, Direction::Received].map(|direction| {
            let packets = person.packets.iter();
            let packets = packets.filter(|packet| packet.direction == direction);
            packets.flat_map(|packet| packet.bytes.clone()).collect()
        }));
        Self {
            addresses: vec![person.address],
            ..Self::of(person, &bytes)
        }
    }

    fn of(person: &'a Person, bytes: &[Vec<u8>]) -> Self {
        Self {
            addresses: Vec::new(),
            bytes: bytes.iter().flat_map(|bytes| pieces(bytes)).collect(),
            person,
            credential: &person.credential,
        }
    }

    pub(super) fn shows(&self, fact: Fact) -> bool {
        let (expiry, name) = self.credential.parts();
        match fact {
            Fact::MatrixId => self.reads(&traces(self.person.user)),
            Fact::Name => self.reads(&[Trace::Text(name.to_owned())]),
            Fact::Expiry => self.reads(&[Trace::Text(expiry.to_owned())]),
            Fact::RelaysName => self.reads(&[Trace::Text(REALM.to_owned())]),
            Fact::Address => {
                let address = self.person.address;
                self.addresses.contains(&address)
                    || self.bytes.iter().any(|bytes| has_address(bytes, address))
            }
        }
    }

    fn reads(&self, traces: &[Trace]) -> bool {
        self.bytes.iter().any(|bytes| readable_in(traces, bytes))
    }
}

/// A message, and the values in it each alone: a neighbour must not hide where something encoded begins.
fn pieces(message: &[u8]) -> Vec<Vec<u8>> {
    let mut pieces = vec![message.to_vec()];
    if let Ok(message) = Message::parse(message) {
        pieces.extend(message.attributes().map(|(_, value)| value.to_vec()));
    }
    pieces
}

/// Whether a reader can read something about anybody.
pub(super) fn shown(call: &Call, reader: Reader, fact: Fact) -> bool {
    reader.views(call).iter().any(|view| view.shows(fact))
}

/// What gives away who it is: the Matrix ID, or its first part alone.
fn traces(user: &str) -> [Trace; 2] {
    let local = user.trim_start_matches('@').split(':').next();
    [user, local.unwrap_or(user)].map(|text| Trace::Text(text.to_owned()))
}

/// Whether an address is there: as STUN masks it (RFC 8489 §14.2), as it is, or as text; without its port
/// if it is one of its own.
fn has_address(bytes: &[u8], address: SocketAddr) -> bool {
    let IpAddr::V4(ip) = address.ip() else {
        return false;
    };
    let masked = (u32::from(ip) ^ MAGIC_COOKIE).to_be_bytes();
    let [high, low, ..] = MAGIC_COOKIE.to_be_bytes();
    let [port_high, port_low] = address.port().to_be_bytes();
    let (plain, masked, text) = if ip == Ipv4Addr::LOCALHOST {
        (
            [&[port_high, port_low][..], &ip.octets()].concat(),
            [&[port_high ^ high, port_low ^ low][..], &masked].concat(),
            address.to_string(),
        )
    } else {
        (ip.octets().to_vec(), masked.to_vec(), ip.to_string())
    };
    [plain, masked, text.into_bytes()]
        .iter()
        .any(|wanted| contains(bytes, wanted))
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// The usernames in a person's requests.
fn usernames(person: &Person) -> impl Iterator<Item = String> {
    person.packets.iter().filter_map(|packet| {
        let Packet { direction, bytes } = packet;
        let message = Message::parse(bytes).ok()?;
        if *direction != Direction::Sent || message.class() != Class::Request {
            return None;
        }
        let username = message.value(AttributeType::USERNAME)?;
        Some(String::from_utf8_lossy(username).into_owned())
    })
}

/// The TLS records on a person's wire.
fn sealed(person: &Person) -> Result<Vec<Record>, String> {
    records(&person.packets)
}

/// Everything that has to be so.
pub(super) fn checks(call: &Call) -> Vec<Check> {
    let packets = call.alice.packets.len() + call.next_day.packets.len();
    let records = sealed(&call.bob).map_or(0, |records| records.len());
    vec![
        Check::new(
            "Each of four times the homeserver was asked whose the access token is, and credentials came that \
             name nobody.",
            not_credentials(call),
        ),
        Check::new(
            format!(
                "{} bytes went from Alice to Bob and as many back, through the relay, and arrived as they were sent.",
                call.question.len()
            ),
            not_arrived(call),
        ),
        Check::new(
            "The search works: in the request with a homeserver's username it finds the Matrix ID, and the second at \
             which it was fetched.",
            not_found(call),
        ),
        Check::new(
            format!(
                "The same search finds nothing of the kind in {packets} packets on Alice's wire."
            ),
            leaks(call, Reader::WireOfUdp, &[Fact::MatrixId]),
        ),
        Check::new(
            "Every request of Alice's that is signed has the username that she was given. An hour later she has the \
             same name, on the next day another, and when each was fetched can be told to the hour alone.",
            wrong_names(call),
        ),
        Check::new(
            format!(
                "Bob's wire has TLS alone, in {records} records. The search finds neither him nor his username, nor what \
                 was relayed, which it finds on Alice's wire."
            ),
            not_sealed(call),
        ),
        Check::new(
            "Each of the two was told an address of the relay's for the other, and not where the other is.",
            wrong_addresses(call),
        ),
        Check::new(
            "The relay's log has every allocation. The search finds nobody in it or in /metrics: no Matrix ID, no \
             username, no address.",
            wrongly_logged(call),
        ),
        Check::new(
            "What cannot be hidden was not hidden: both wires show the client's address and the relay's name.",
            [Reader::WireOfUdp, Reader::WireOfTls]
                .into_iter()
                .flat_map(|reader| {
                    [Fact::Address, Fact::RelaysName]
                        .into_iter()
                        .filter(move |fact| !shown(call, reader, *fact))
                        .map(move |fact| format!("{}: {}", place(reader), what(fact)))
                }),
        ),
    ]
}

fn not_credentials(call: &Call) -> Vec<String> {
    let mut problems = Vec::new();
    if call.asked != [ALICE, BOB, ALICE, ALICE] {
        problems.push(format!("it was asked about {:?}", call.asked));
    }
    for (user, credential) in [
        (ALICE, &call.alice.credential),
        (BOB, &call.bob.credential),
        (ALICE, &call.later),
        (ALICE, &call.next_day.credential),
    ] {
        if readable_in(&traces(user), credential.body.as_bytes()) {
            problems.push(format!("the answer to {user} has the name in it"));
        }
    }
    problems
}

fn not_arrived(call: &Call) -> Vec<String> {
    let Call { alice, bob, .. } = call;
    [("Bob", bob, call.question), ("Alice", alice, call.answer)]
        .into_iter()
        .filter(|(_, person, sent)| {
            let [got] = person.got.as_slice() else {
                return true;
            };
            got.payload != sent
        })
        .map(|(name, person, _)| format!("{name} got {} packets, or other bytes", person.got.len()))
        .collect()
}

fn not_found(call: &Call) -> Vec<String> {
    let reader = Reader::WireWithHomeserversName;
    let (expiry, _) = call.homeservers.parts();
    let mut problems: Vec<_> = [Fact::MatrixId, Fact::Expiry]
        .into_iter()
        .filter(|fact| !shown(call, reader, *fact))
        .map(|fact| what(fact).to_owned())
        .collect();
    if expiry != (call.fetched_at + SYNAPSE_LIFETIME).to_string() {
        problems.push("its end is not to the second".to_owned());
    }
    problems
}

/// Facts that a reader can read, of those that it must not.
fn leaks<'a>(call: &'a Call, reader: Reader, facts: &'a [Fact]) -> impl Iterator<Item = String> {
    let leaked = facts.iter().filter(move |fact| shown(call, reader, **fact));
    leaked.map(move |fact| format!("{}: {}", place(reader), what(*fact)))
}

fn wrong_names(call: &Call) -> Vec<String> {
    let mut problems = Vec::new();
    for person in [&call.alice, &call.next_day] {
        let mut requests = 0;
        for username in usernames(person) {
            requests += 1;
            if username != person.credential.username {
                problems.push(format!("a request has {username}"));
            }
        }
        if requests == 0 {
            problems.push("no request has a username".to_owned());
        }
    }
    let [(first, name), (_, later), (_, next_day)] = [
        &call.alice.credential,
        &call.later,
        &call.next_day.credential,
    ]
    .map(Credential::parts);
    if name != later {
        problems.push("another name an hour later".to_owned());
    }
    if name == next_day {
        problems.push("the same name on the next day".to_owned());
    }
    if !first
        .parse()
        .is_ok_and(|expiry: u64| expiry.is_multiple_of(ROUNDED_TO))
    {
        problems.push(format!("{first} tells more than the hour"));
    }
    problems
}

fn not_sealed(call: &Call) -> Vec<String> {
    let facts = [Fact::MatrixId, Fact::Name, Fact::Expiry];
    let mut problems: Vec<_> = leaks(call, Reader::WireOfTls, &facts).collect();
    match sealed(&call.bob) {
        Ok(records) if records.iter().any(Record::is_sealed) => {}
        Ok(_) => problems.push("nothing on Bob's wire is ciphertext".to_owned()),
        Err(problem) => problems.push(format!("Bob's wire: {problem}")),
    }
    for payload in [&call.question, &call.answer] {
        let on_wire_of = |person| {
            let View { bytes, .. } = View::wire(person);
            bytes.iter().any(|bytes| contains(bytes, payload))
        };
        if on_wire_of(&call.bob) {
            problems.push("Bob's wire has what was relayed".to_owned());
        }
        if !on_wire_of(&call.alice) {
            problems.push("Alice's wire does not have what was relayed".to_owned());
        }
    }
    problems
}

fn wrong_addresses(call: &Call) -> Vec<String> {
    let Call { alice, bob, .. } = call;
    let mut problems: Vec<_> = leaks(call, Reader::Other, &[Fact::Address]).collect();
    let told = bob.got.first().and_then(|got| got.from);
    if told != Some(alice.relayed) {
        problems.push(format!("Bob was told {told:?}"));
    }
    if [alice.relayed, bob.relayed].contains(&alice.address) {
        problems.push("a relayed address is the client's own".to_owned());
    }
    // each is told its own
    for (name, person) in [("Alice", alice), ("Bob", bob)] {
        let own = person.read.iter();
        if !own
            .into_iter()
            .any(|bytes| has_address(bytes, person.address))
        {
            problems.push(format!("the search does not find what {name} was told"));
        }
    }
    problems
}

fn wrongly_logged(call: &Call) -> Vec<String> {
    let facts = [Fact::MatrixId, Fact::Name, Fact::Expiry, Fact::Address];
    let mut problems: Vec<_> = leaks(call, Reader::Operator, &facts).collect();
    for person in [&call.alice, &call.bob, &call.next_day] {
        let relayed = person.relayed.to_string();
        if call.log.contains(&relayed) {
            problems.push("the log has a relayed address".to_owned());
        }
    }
    for (transport, wanted) in [("udp", 2), ("tls", 1)] {
        let made = "allocation made allocation=";
        let of_transport = format!("transport=\"{transport}\"");
        let lines = call.log.lines();
        let found = lines.filter(|line| line.contains(made) && line.contains(&of_transport));
        if found.count() < wanted {
            problems.push(format!("the log does not have {wanted} over {transport}"));
        }
        let counted = call.metrics.lines().any(|line| {
            line.starts_with("nocturne_turn_allocations_made_total{")
                && line.contains(&of_transport)
                && line.ends_with(&format!("}} {wanted}"))
        });
        if !counted {
            problems.push(format!("/metrics does not have {wanted} over {transport}"));
        }
    }
    problems
}

const fn place(reader: Reader) -> &'static str {
    match reader {
        Reader::WireWithHomeserversName => "the request with a homeserver's username",
        Reader::WireOfUdp => "Alice's wire",
        Reader::WireOfTls => "Bob's wire",
        Reader::Other => "the other side",
        Reader::Operator => "the log or /metrics",
    }
}

const fn what(fact: Fact) -> &'static str {
    match fact {
        Fact::MatrixId => "the Matrix ID",
        Fact::Name => "the username's name",
        Fact::Expiry => "the username's time",
        Fact::Address => "the client's address",
        Fact::RelaysName => "the relay's name",
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;
    use crate::commands::demo::turn::perform;

    const CREDENTIALS: &str = "Each of four times";
    const ARRIVED: &str = "160 bytes went";
    const SEARCH_WORKS: &str = "The search works";
    const NOTHING_FOUND: &str = "The same search finds nothing";
    const NAMES: &str = "Every request of Alice's";
    const SEALED: &str = "Bob's wire has TLS alone";
    const ADDRESSES: &str = "Each of the two was told";
    const LOG: &str = "The relay's log";
    const NOT_HIDDEN: &str = "What cannot be hidden";

    /// What is done to a recording, and the claim that does not hold of it then.
    type Change<'a> = (&'static str, &'a dyn Fn(&mut Call));

    fn failing(call: &Call) -> Vec<String> {
        let failing = |check: Check| (!check.counterexamples.is_empty()).then_some(check.claim);
        checks(call).into_iter().filter_map(failing).collect()
    }

    fn plant(packets: &mut Vec<Packet>, bytes: &[u8]) {
        packets.push(Packet {
            direction: Direction::Sent,
            bytes: bytes.to_vec(),
        });
    }

    /// Something in a TLS record that says it is ciphertext.
    fn record_of(bytes: &[u8]) -> Vec<u8> {
        let len = u16::try_from(bytes.len()).expect("it is short");
        [&[23, 3, 3], &len.to_be_bytes()[..], bytes].concat()
    }

    #[tokio::test]
    async fn everything_holds_until_something_is_planted_or_taken_away() {
        let seen = perform().await.expect("loopback has free ports");
        assert_eq!(failing(&seen), [""; 0]);

        let changes: [Change; _] = [
            (CREDENTIALS, &|call| call.asked.truncate(3)),
            (CREDENTIALS, &|call| call.later.body += ALICE),
            (ARRIVED, &|call| call.bob.got[0].payload[7] ^= 1),
            (ARRIVED, &|call| call.alice.got.clear()),
            (SEARCH_WORKS, &|call| call.would_be.clear()),
            (SEARCH_WORKS, &|call| call.fetched_at += 1),
            (NOTHING_FOUND, &|call| {
                plant(&mut call.alice.packets, b"ALICE");
            }),
            (NOTHING_FOUND, &|call| {
                plant(
                    &mut call.next_day.packets,
                    STANDARD.encode(ALICE).as_bytes(),
                );
            }),
            (NAMES, &|call| {
                call.alice.credential = call.homeservers.clone();
            }),
            (NAMES, &|call| call.next_day.packets.clear()),
            (NAMES, &|call| call.later.username += "A"),
            (NAMES, &|call| call.next_day = call.alice.clone()),
            (SEALED, &|call| plant(&mut call.bob.packets, b"in clear")),
            (SEALED, &|call| {
                let username = call.bob.credential.username.clone();
                plant(&mut call.bob.packets, &record_of(username.as_bytes()));
            }),
            (SEALED, &|call| {
                let sound = record_of(&call.answer);
                plant(&mut call.bob.packets, &sound);
            }),
            (SEALED, &|call| call.alice.packets.clear()),
            (SEALED, &|call| call.bob.packets.clear()),
            (ADDRESSES, &|call| {
                let own = call.alice.read[1].clone();
                call.bob.read.push(own);
            }),
            (ADDRESSES, &|call| {
                call.bob.got[0].from = Some(call.alice.address);
            }),
            (ADDRESSES, &|call| {
                call.alice.relayed = call.alice.address;
            }),
            (ADDRESSES, &|call| call.alice.read.clear()),
            (LOG, &|call| call.log += "client=@alice:example.org"),
            (LOG, &|call| call.log += &call.alice.address.to_string()),
            (LOG, &|call| call.log += &call.bob.relayed.to_string()),
            (LOG, &|call| {
                call.metrics += &call.next_day.credential.username;
            }),
            (LOG, &|call| call.log.clear()),
            (LOG, &|call| call.metrics.clear()),
            (NOT_HIDDEN, &|call| call.bob.packets.clear()),
        ];
        for (index, (claim, change)) in changes.into_iter().enumerate() {
            let mut call = seen.clone();
            change(&mut call);
            let failing = failing(&call);
            let is_found = failing.iter().any(|failing| failing.starts_with(claim));
            assert!(is_found, "change {index}: {claim}: {failing:?}");
        }
    }

    #[test]
    fn an_address_is_found_masked_plain_and_as_text() {
        for (address, ip_is_enough) in [("127.0.0.2:49294", true), ("127.0.0.1:49294", false)] {
            let address: SocketAddr = address.parse().expect("an address");
            // RFC 8489 §14.2: the port with the first half of 0x2112A442, the address with all of it
            let last = address.to_string().as_bytes()[8] - b'0';
            for found in [
                vec![0, 1, 0xE1, 0x9C, 0x5E, 0x12, 0xA4, 0x42 ^ last],
                vec![0xC0, 0x8E, 127, 0, 0, last],
                format!("client={address},").into_bytes(),
            ] {
                assert!(has_address(&found, address), "{address} {found:?}");
            }
            let other_port = [0xC0, 0x8F, 127, 0, 0, last];
            assert_eq!(has_address(&other_port, address), ip_is_enough);
            assert!(!has_address(b"127.0.0.9:49294", address));
        }
    }
}
