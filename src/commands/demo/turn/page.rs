//! The part about calls as a person reads it.

use turn_relay_proto::stun::{AttributeType, Class, Message, channel_data};

use super::{
    ALICE, Call, Person,
    client::error_code,
    stage::{REALM, TURN_SERVER},
    verdict::{Fact, Reader, shown},
    wire::{Direction, Packet, Record, records},
};
use crate::commands::demo::paper::{Line, Paper, Style};

/// What happened, in its order.
pub(super) fn story(call: &Call, paper: &Paper) -> String {
    introduction(paper)
        + &credentials(call, paper)
        + &wires(call, paper)
        + &homeservers(call, paper)
        + &days(call, paper)
        + &other_side(call, paper)
        + &operator(call, paper)
}

/// Who can read what, and what cannot be helped.
pub(super) fn conclusion(call: &Call, paper: &Paper) -> String {
    table(call, paper) + &limits(paper)
}

fn introduction(paper: &Paper) -> String {
    let title = Line::default().with("A call is made. Who gets to see what?", Style::Heading);
    let prose = "Alice calls Bob. Their phones cannot reach each other, so a TURN relay carries what they say. Again \
                 everything happens now, on loopback: this relay, a homeserver that says whose an access token is, \
                 and two clients that do what WebRTC does, Alice's over UDP and Bob's over TLS. Every byte that went \
                 over their wires was recorded.";
    format!(
        "\n{}\n{}",
        paper.wrapped(&title),
        paper.paragraph("", Style::Plain, prose)
    )
}

fn credentials(call: &Call, paper: &Paper) -> String {
    let ask = Line::default().with(&format!("GET {TURN_SERVER}"), Style::Plain);
    let body = Line::default().with(&call.alice.credential.body, Style::Plain);
    let prose = format!(
        "The client asks as it would ask the homeserver, with {ALICE}'s access token. The relay's credential service asks \
         the homeserver whose that is, and makes a username that does not say it: when it ends, to the hour, and a name \
         that nobody can connect with her."
    );
    paper.rule("Alice's client gets credentials")
        + &paper.wrapped(&ask)
        + &paper.wrapped(&body)
        + &paper.paragraph("✗ ", Style::Good, &prose)
}

/// Both wires, packet by packet.
fn wires(call: &Call, paper: &Paper) -> String {
    let Call { alice, bob, .. } = call;
    let heading = |name: &str, person: &Person| {
        [
            Line::default().with(name, Style::Heading),
            Line::default()
                .with("• ", Style::Unavoidable)
                .with(&format!("of {}", person.address), Style::Unavoidable),
        ]
    };
    let mut left = heading("ALICE'S WIRE, UDP", alice).to_vec();
    left.extend(alice.packets.iter().flat_map(packet));
    let mut right = heading("BOB'S WIRE, TLS", bob).to_vec();
    right.push(
        Line::default()
            .with("• ", Style::Unavoidable)
            .with(&format!("to {REALM}"), Style::Unavoidable),
    );
    right.extend(records(&bob.packets).iter().flatten().map(record));
    let prose = "Alice's wire shows a relay being used, and a name in each request that is of nobody. What they say is \
                 encrypted by the apps, for each other (here random bytes stand for it). Bob's wire shows not even that.";
    paper.rule("What a listener has: one packet a line, with its size in bytes")
        + &paper.columns(&left, &right)
        + &paper.paragraph("✗ ", Style::Good, prose)
}

fn arrow(direction: Direction, size: usize) -> Line {
    let arrow = match direction {
        Direction::Sent => "→",
        Direction::Received => "←",
    };
    Line::default().with(&format!("{arrow} {size:>4} "), Style::Faint)
}

fn packet(packet: &Packet) -> Vec<Line> {
    let Packet { direction, bytes } = packet;
    let line = arrow(*direction, bytes.len());
    if let Some((number, len)) = channel_data::read_header(bytes) {
        let text = format!("~ {len} bytes in channel {:#x}", number.get());
        return vec![line.with(&text, Style::Sealed)];
    }
    let Ok(message) = Message::parse(bytes) else {
        return vec![line.with("something else", Style::Leaked)];
    };
    let text = format!("{:?}{}", message.method(), outcome(&message));
    let mut lines = vec![line.with(&text, Style::Plain)];
    lines.extend(username(&message, ("• ", Style::Unavoidable)));
    lines
}

fn outcome(message: &Message<'_>) -> String {
    let address = |attribute| message.xor_address(attribute);
    match message.class() {
        Class::Request | Class::Indication => address(AttributeType::XOR_PEER_ADDRESS)
            .map_or_else(String::new, |peer| format!(" for {peer}")),
        Class::Error => {
            error_code(message).map_or_else(String::new, |code| format!(": who is it? ({code})"))
        }
        Class::Success => address(AttributeType::XOR_RELAYED_ADDRESS).map_or_else(
            || ": done".to_owned(),
            |relayed| format!(": reached at {relayed}"),
        ),
    }
}

fn username(message: &Message<'_>, (mark, style): (&str, Style)) -> Option<Line> {
    let username = message.value(AttributeType::USERNAME)?;
    let username = String::from_utf8_lossy(username);
    let line = Line::default()
        .with("  ", Style::Plain)
        .with(mark, style)
        .with("as ", Style::Plain);
    Some(line.with(&username, style))
}

fn record(record: &Record) -> Line {
    let style = if record.is_sealed() {
        Style::Sealed
    } else {
        Style::Plain
    };
    let mark = if record.is_sealed() { "~ " } else { "" };
    arrow(record.direction, record.bytes.len())
        .with(mark, style)
        .with(record.kind(), style)
}

/// The same request with another username.
fn homeservers(call: &Call, paper: &Paper) -> String {
    let column = |heading: &str, bytes: &[u8], mark| {
        let mut lines = vec![Line::default().with(heading, Style::Heading)];
        let Ok(message) = Message::parse(bytes) else {
            return lines;
        };
        let text = format!("{:?}", message.method());
        lines.push(arrow(Direction::Sent, bytes.len()).with(&text, Style::Plain));
        lines.extend(username(&message, mark));
        lines
    };
    let sent = call.alice.packets.iter().find(|packet| {
        Message::parse(&packet.bytes).is_ok_and(|message| message.has(AttributeType::USERNAME))
    });
    let sent = sent.map_or(&[][..], |packet| &packet.bytes);
    let left = column(
        "WITH A HOMESERVER'S USERNAME",
        &call.would_be,
        ("! ", Style::Leaked),
    );
    let right = column("WITH NOCTURNE'S", sent, ("• ", Style::Unavoidable));
    let prose = "The left one is what Alice's client would have sent to coturn, with the username that Synapse makes for \
                 it (<end>:<Matrix ID>). It was written by the same code; neither Synapse nor coturn ran here. Everybody on \
                 the way could read who is calling, in each request, and when she fetched her credentials, to the second.";
    paper.rule("The same request, as coturn would have got it")
        + &paper.columns(&left, &right)
        + &paper.paragraph("! ", Style::Leaked, prose)
}

fn days(call: &Call, paper: &Paper) -> String {
    let usernames = [
        ("now", &call.alice.credential),
        ("an hour later", &call.later),
        ("the day after", &call.next_day.credential),
    ];
    let lines = usernames.map(|(when, credential)| {
        let mut line = Line::default().with(when, Style::Faint);
        line.pad(16);
        paper.wrapped(&line.with(&credential.username, Style::Unavoidable))
    });
    let prose = "Within a day Alice's calls can be recognised as one person's by the name, then no more: the key that it was \
                 made with is forgotten, and nobody can make it again. (The clock of the relay was moved on for this.)";
    paper.rule("Alice's username, from day to day")
        + &lines.concat()
        + &paper.paragraph("✗ ", Style::Good, prose)
}

fn other_side(call: &Call, paper: &Paper) -> String {
    let Call { alice, bob, .. } = call;
    let got = bob.got.iter().map(|got| {
        let from = got.from.map_or_else(String::new, |from| from.to_string());
        let text = format!("Bob got {} bytes from {from}", got.payload.len());
        Line::default().with(&text, Style::Plain)
    });
    let prose = format!(
        "That is an address of the relay. Alice is at {}, which Bob is not told.",
        alice.address
    );
    paper.rule("And the other side?")
        + &paper.lines(&got.collect::<Vec<_>>())
        + &paper.paragraph("✗ ", Style::Good, &prose)
}

/// What the relay itself keeps.
fn operator(call: &Call, paper: &Paper) -> String {
    const COUNTED: [&str; 4] = [
        "nocturne_turn_allocations_made_total",
        "nocturne_turn_packets_total",
        "nocturne_turn_bytes_total",
        "nocturne_turn_credentials_total",
    ];

    let debug = call.log.lines().filter(|line| line.contains(" DEBUG "));
    let counted = call.metrics.lines().filter(|line| {
        let name = line.split('{').next().unwrap_or_default();
        COUNTED.contains(&name) && !line.ends_with(" 0")
    });
    let plain = |line: &str| Line::default().with(line, Style::Plain);
    let title = |text: &str| vec![Line::default().with(text, Style::Heading)];
    let mut lines = title("THE LOG, AT LEVEL DEBUG");
    lines.extend(debug.map(plain));
    lines.extend(title("/metrics"));
    lines.extend(counted.map(plain));
    let text: String = lines.iter().map(|line| paper.wrapped(line)).collect();
    let prose =
        "It says that there were calls, not whose. An allocation has a number, people have none.";
    paper.rule("What the relay wrote down") + &text + &paper.paragraph("✗ ", Style::Good, prose)
}

/// Who can read what.
fn table(call: &Call, paper: &Paper) -> String {
    const LABEL: usize = 22;
    const CELL: usize = 15;

    let per_row = ((paper.width() - LABEL) / CELL).clamp(1, Reader::ALL.len());
    let mut text = paper.rule("Who can read what of a caller");
    for readers in Reader::ALL.chunks(per_row) {
        let mut lines = vec![Line::default(), Line::default()];
        for (index, reader) in readers.iter().enumerate() {
            for (line, word) in lines.iter_mut().zip(name(*reader)) {
                line.pad(LABEL + CELL * index);
                line.push(word, Style::Heading);
            }
        }
        for (label, fact) in [
            ("Matrix ID", Fact::MatrixId),
            ("a name that returns", Fact::Name),
            ("credentials fetched", Fact::Expiry),
            ("the client's address", Fact::Address),
            ("the relay's name", Fact::RelaysName),
        ] {
            let mut line = Line::default().with(label, Style::Plain);
            for (index, reader) in readers.iter().enumerate() {
                line.pad(LABEL + CELL * index);
                let (word, style) = cell(call, *reader, fact);
                line.push(word, style);
            }
            lines.push(line);
        }
        text += &paper.lines(&lines);
        text.push('\n');
    }
    let prose = "coturn: computed from the request above, which is what would have been sent. Over TLS, listeners see what \
                 they see of Bob, whatever the username is.";
    text + &paper.paragraph("", Style::Plain, prose)
}

const fn name(reader: Reader) -> [&'static str; 2] {
    match reader {
        Reader::WireWithHomeserversName => ["listener, UDP", "coturn"],
        Reader::WireOfUdp => ["listener, UDP", "Nocturne"],
        Reader::WireOfTls => ["listener, TLS", "Nocturne"],
        Reader::Other => ["the other", "Nocturne"],
        Reader::Operator => ["log, metrics", "Nocturne"],
    }
}

fn cell(call: &Call, reader: Reader, fact: Fact) -> (&'static str, Style) {
    let of_homeserver = reader == Reader::WireWithHomeserversName;
    match fact {
        _ if !shown(call, reader, fact) => ("no", Style::Good),
        Fact::MatrixId => ("YES", Style::Leaked),
        Fact::Name if of_homeserver => ("for good", Style::Leaked),
        Fact::Name => ("for a day", Style::Unavoidable),
        Fact::Expiry if of_homeserver => ("to the second", Style::Leaked),
        Fact::Expiry => ("to the hour", Style::Unavoidable),
        Fact::Address | Fact::RelaysName => ("yes", Style::Unavoidable),
    }
}

fn limits(paper: &Paper) -> String {
    let mut text = paper.rule("What no relay can hide");
    for prose in [
        "From those who listen near a client: its own address, that it uses this relay, and when and how much is \
         said. Who can listen at both ends can tell by that who talks to whom.",
        "From the other side: the address, unless the app is told to go through the relay alone, as here. Otherwise phones \
         tell each other where they are, by way of the homeserver, since a direct way is the shortest.",
        "From the relay: the addresses of both while the call lasts, and, for the moment in which it makes credentials, \
         whose they are. It writes neither down, as long as log.unsafe_identifiers is off.",
    ] {
        text += &paper.paragraph("• ", Style::Unavoidable, prose);
    }
    text + "\n"
}
