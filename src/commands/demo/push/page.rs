//! The part about push as a person reads it.

use std::collections::BTreeSet;

use super::{
    message::{BRIEF, ELSEWHERE, FULL, Fact, Message},
    search::{Exposure, Request, Trace},
    stage::{Channel, Delivery, Party, Way},
    verdict,
};
use crate::commands::demo::paper::{Line, Paper, Style};

/// Rows of a body of random bytes that are shown; the rest looks the same.
const HEX_ROWS: usize = 3;
/// Of longer words in headers, which are signatures, only the beginning is shown.
const LONGEST_WORD: usize = 40;

/// What happened: provider by provider, then what follows from several pushes together.
pub(super) fn story(deliveries: &[Delivery], paper: &Paper) -> String {
    let mut text = introduction(paper);
    let shown = |party, way, message: Message| {
        let channel = Channel { party, way };
        verdict::of(deliveries, channel).find(|delivery| delivery.message.ids() == message.ids())
    };
    for (heading, party, way) in [
        (
            "Apple, if the gateway were Sygnal",
            Party::Apple,
            Way::Sygnal,
        ),
        ("Apple, with Nocturne", Party::Apple, Way::Opaque),
        (
            "Google, if the gateway were Sygnal",
            Party::Google,
            Way::Sygnal,
        ),
        ("Google, with Nocturne", Party::Google, Way::Opaque),
        (
            "A browser's push service, with Nocturne",
            Party::BrowserService,
            Way::Opaque,
        ),
        (
            "A UnifiedPush server, with Nocturne, for a device with keys",
            Party::UnifiedPush,
            Way::Opaque,
        ),
    ] {
        if let Some(delivery) = shown(party, way, FULL) {
            text += &side_by_side(heading, delivery, paper);
        }
    }
    text += &brief(&shown, paper);
    text += &linking(deliveries, paper);
    text + &wake(deliveries, paper)
}

/// Who can read what, what cannot be helped, and the result in numbers.
pub(super) fn conclusion(deliveries: &[Delivery], paper: &Paper) -> String {
    table(deliveries, paper) + &limits(deliveries, paper) + &result(deliveries, paper)
}

fn introduction(paper: &Paper) -> String {
    let title = Line::default().with(
        "A notification goes in. Who gets to see what?",
        Style::Heading,
    );
    let prose = "Everything here happens now, on loopback: this gateway, a homeserver that sends what Synapse sends, and \
                 stand-ins for Apple, Google, a browser's push service and a UnifiedPush server, over real TLS and \
                 HTTP/2. Below are the bytes that each of them received. What Sygnal would have shown them is seen by \
                 the gateway's mode sygnal, which sends what Sygnal sends.";
    let legend = [
        Line::default()
            .with("✗ ", Style::Good)
            .with("did not get through", Style::Stopped),
        Line::default().with("! got through", Style::Leaked),
        Line::default().with("~ encrypted, for the device alone", Style::Sealed),
        Line::default().with("• cannot be hidden", Style::Unavoidable),
    ];
    format!(
        "\n{}\n{}\n{}",
        paper.wrapped(&title),
        paper.paragraph("", Style::Plain, prose),
        paper.flow(&legend)
    )
}

/// What the homeserver sent beside what a provider saw.
fn side_by_side(heading: &str, delivery: &Delivery, paper: &Paper) -> String {
    let (left_width, _) = paper.column_widths();
    let mut left = vec![Line::default().with("THE HOMESERVER SENT", Style::Heading)];
    left.extend(
        Fact::ALL
            .iter()
            .filter_map(|fact| sent(*fact, delivery, left_width)),
    );
    if let Some(Trace::Text(token)) = delivery.token.first() {
        left.push(marked_member(
            ("• ", Style::Unavoidable),
            "device token",
            token,
            left_width,
        ));
    }
    let name = delivery.channel.party.name().to_uppercase();
    let mut right = vec![Line::default().with(&format!("{name} SAW"), Style::Heading)];
    right.extend(request(&delivery.request, &marks(delivery)));
    let mut text = paper.rule(heading) + &paper.columns(&left, &right);
    if let Some(plain) = &delivery.decrypted {
        let line = Line::default()
            .with("~ only the device itself read: ", Style::Sealed)
            .with(&String::from_utf8_lossy(plain), Style::Plain);
        text += &paper.wrapped(&line);
    }
    text + &summary(delivery, paper)
}

/// One identifying value, with a mark for how far it got.
fn sent(fact: Fact, delivery: &Delivery, width: usize) -> Option<Line> {
    let mark = match verdict::exposure(fact, delivery)? {
        Exposure::Stopped => ("✗ ", Style::Stopped),
        Exposure::Sealed => ("~ ", Style::Sealed),
        Exposure::Readable => ("! ", Style::Leaked),
    };
    let value = fact.value(&delivery.message)?;
    Some(marked_member(mark, fact.member()?, &value, width))
}

fn marked_member((mark, style): (&str, Style), member: &str, value: &str, width: usize) -> Line {
    const MEMBER_WIDTH: usize = 22;

    let mark_style = if style == Style::Stopped {
        Style::Good
    } else {
        style
    };
    let mut line = Line::default()
        .with(mark, mark_style)
        .with(member, Style::Plain);
    line.pad(MEMBER_WIDTH);
    line.with(value, style).cut(width)
}

/// How much got through, in a sentence.
fn summary(delivery: &Delivery, paper: &Paper) -> String {
    let known: Vec<_> = Fact::ALL
        .iter()
        .filter_map(|fact| Some((fact.name(), verdict::exposure(*fact, delivery)?)))
        .collect();
    let of = |wanted: Exposure| -> Vec<_> {
        let found = known.iter().filter(|(_, exposure)| *exposure == wanted);
        found.map(|(name, _)| *name).collect()
    };
    let (readable, stopped) = (of(Exposure::Readable), of(Exposure::Stopped));
    if readable.is_empty() {
        let sealed = of(Exposure::Sealed);
        let rest = if sealed.is_empty() {
            String::new()
        } else {
            format!(" Encrypted for the device: {}.", sealed.join(", "))
        };
        let prose = format!("0 of {} got through in clear.{rest}", known.len());
        return paper.paragraph("✗ ", Style::Good, &prose);
    }
    let rest = if stopped.is_empty() {
        String::new()
    } else {
        format!(" Not: {}.", stopped.join(", "))
    };
    let prose = format!(
        "{} of {} got through: {}.{rest}",
        readable.len(),
        known.len(),
        readable.join(", ")
    );
    paper.paragraph("! ", Style::Leaked, &prose)
}

/// What is to be coloured in a request, and how.
fn marks(delivery: &Delivery) -> Vec<(Trace, Style)> {
    let facts = Fact::ALL
        .iter()
        .flat_map(|fact| fact.traces(&delivery.message))
        .map(|trace| (trace, Style::Leaked));
    let unavoidable = delivery.token.iter().chain(&delivery.app);
    let unavoidable = unavoidable.map(|trace| (trace.clone(), Style::Unavoidable));
    facts.chain(unavoidable).collect()
}

/// A request, with what is in it marked.
fn request(request: &Request, marks: &[(Trace, Style)]) -> Vec<Line> {
    let mut lines = vec![coloured(
        &format!("POST {}", request.path),
        Style::Plain,
        marks,
    )];
    for (name, value) in &request.headers {
        let words = value.split(' ').map(|word| {
            if word.chars().count() > LONGEST_WORD && !is_marked(word, marks) {
                word.chars().take(LONGEST_WORD / 2).chain(['…']).collect()
            } else {
                word.to_owned()
            }
        });
        let value = words.collect::<Vec<_>>().join(" ");
        lines.push(coloured(&format!("{name}: {value}"), Style::Faint, marks));
    }
    lines.push(Line::default());
    match std::str::from_utf8(&request.body) {
        Ok(body) => lines.push(coloured(body, Style::Plain, marks)),
        Err(_) => lines.extend(hex_rows(&request.body)),
    }
    lines
}

fn hex_rows(body: &[u8]) -> Vec<Line> {
    const BYTES: usize = 16;

    let row = |bytes: &[u8]| {
        let text: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Line::default().with(&text.join(" "), Style::Sealed)
    };
    let mut rows: Vec<_> = body.chunks(BYTES).take(HEX_ROWS).map(row).collect();
    let hidden = body.len().saturating_sub(BYTES * HEX_ROWS);
    let rest = format!("… and {hidden} more bytes, encrypted and padded");
    rows.push(Line::default().with(&rest, Style::Sealed));
    rows
}

fn is_marked(text: &str, marks: &[(Trace, Style)]) -> bool {
    marks
        .iter()
        .any(|(trace, _)| !found(text, trace).is_empty())
}

fn coloured(text: &str, plain: Style, marks: &[(Trace, Style)]) -> Line {
    let mut styles = vec![plain; text.len()];
    for (trace, style) in marks {
        for (start, length) in found(text, trace) {
            styles[start..start + length].fill(*style);
        }
    }
    let mut line = Line::default();
    for (index, character) in text.char_indices() {
        line.push(character.encode_utf8(&mut [0; 4]), styles[index]);
    }
    line
}

/// Where a text has a trace: positions and lengths in bytes.
fn found(text: &str, trace: &Trace) -> Vec<(usize, usize)> {
    match trace {
        Trace::Text(wanted) => text
            .match_indices(wanted.as_str())
            .map(|(start, wanted)| (start, wanted.len()))
            .collect(),
        Trace::Number(number) => {
            let number = number.to_string();
            let stands_alone = |start: usize| {
                let ends = [
                    text[..start].chars().next_back(),
                    text[start + number.len()..].chars().next(),
                ];
                ends.into_iter()
                    .all(|end| matches!(end, Some(':' | '"' | ',' | '}' | ' ')))
            };
            text.match_indices(&number)
                .filter(|(start, _)| stands_alone(*start))
                .map(|(start, found)| (start, found.len()))
                .collect()
        }
    }
}

/// The same for the short format, bodies alone.
fn brief<'a>(
    shown: &impl Fn(Party, Way, Message) -> Option<&'a Delivery>,
    paper: &Paper,
) -> String {
    let Some((sygnal, opaque)) =
        shown(Party::Apple, Way::Sygnal, BRIEF).zip(shown(Party::Apple, Way::Opaque, BRIEF))
    else {
        return String::new();
    };
    let (left_width, _) = paper.column_widths();
    let mut left = vec![Line::default().with("THE HOMESERVER SENT", Style::Heading)];
    left.extend(
        Fact::ALL
            .iter()
            .filter_map(|fact| sent(*fact, opaque, left_width)),
    );
    let mut right = Vec::new();
    for (heading, delivery) in [
        ("APPLE SAW, WITH SYGNAL", sygnal),
        ("APPLE SAW, WITH NOCTURNE", opaque),
    ] {
        right.push(Line::default().with(heading, Style::Heading));
        let body = String::from_utf8_lossy(&delivery.request.body);
        right.push(coloured(&body, Style::Plain, &marks(delivery)));
    }
    paper.rule("Pushers of the format event_id_only")
        + &paper.columns(&left, &right)
        + &summary(opaque, paper)
}

/// Two pushes of one room, and one of another.
fn linking(deliveries: &[Delivery], paper: &Paper) -> String {
    let channel = Channel {
        party: Party::Apple,
        way: Way::Opaque,
    };
    let find = |message: Message| {
        verdict::of(deliveries, channel).find(|delivery| delivery.message.ids() == message.ids())
    };
    let mut lines = Vec::new();
    for (room, message) in [("room 1", BRIEF), ("room 2", ELSEWHERE), ("room 1", FULL)] {
        let Some(delivery) = find(message) else {
            continue;
        };
        let id = delivery.request.header("apns-id").unwrap_or("none");
        let json = delivery.request.json().unwrap_or_default();
        let n = json["n"].as_str().unwrap_or("none");
        let line = Line::default()
            .with(&format!("{room}   "), Style::Plain)
            .with(&format!("n {n}   apns-id {id}"), Style::Faint);
        lines.push(line.cut(paper.width()));
    }
    let in_common = verdict::links(deliveries, channel);
    let (mark, style, prose) = if in_common.is_empty() {
        (
            "✗ ",
            Style::Good,
            "Apple cannot tell which two are of one room: what they have in common, the third has, too.".to_owned(),
        )
    } else {
        (
            "! ",
            Style::Leaked,
            format!(
                "Pushes of one room can be linked by: {}.",
                in_common.join(", ")
            ),
        )
    };
    paper.rule("Three pushes to one device: which two are of the same room?")
        + &paper.lines(&lines)
        + &paper.paragraph(mark, style, &prose)
}

/// Mode `wake`, bodies alone.
fn wake(deliveries: &[Delivery], paper: &Paper) -> String {
    let mut text = paper.rule("Less still, for apps that only need to be woken: mode wake");
    for (party, name) in [(Party::Apple, "Apple saw"), (Party::Google, "Google saw")] {
        let channel = Channel {
            party,
            way: Way::Wake,
        };
        let all: Vec<_> = verdict::of(deliveries, channel).collect();
        let bodies: BTreeSet<_> = all.iter().map(|delivery| &delivery.request.body).collect();
        let times = if bodies.len() == 1 {
            format!("{name}, {} times the same:", all.len())
        } else {
            format!("{name}:")
        };
        text += &paper.lines(&[Line::default().with(&times, Style::Plain)]);
        for (delivery, body) in all.iter().zip(bodies) {
            let body = String::from_utf8_lossy(body);
            text += &paper.wrapped(&coloured(&body, Style::Plain, &marks(delivery)));
        }
    }
    text
}

/// Who can read what, by provider and by gateway.
fn table(deliveries: &[Delivery], paper: &Paper) -> String {
    const LABEL: usize = 17;
    const CELL: usize = 10;
    const SYGNAL_AND_NOCTURNE: [&str; 2] = ["Sygnal", "Nocturne"];

    let groups = [
        (Party::Apple, "Apple", SYGNAL_AND_NOCTURNE),
        (Party::Google, "Google", SYGNAL_AND_NOCTURNE),
        (
            Party::BrowserService,
            "browser's service",
            SYGNAL_AND_NOCTURNE,
        ),
        (
            Party::UnifiedPush,
            "UnifiedPush server",
            ["no keys", "with keys"],
        ),
    ];
    let per_row = match (paper.width() - LABEL) / (2 * CELL) {
        0 | 1 => 1,
        2 | 3 => 2,
        _ => groups.len(),
    };
    let mut text = paper.rule("Who can read what");
    for groups in groups.chunks(per_row) {
        let mut names = Line::default();
        let mut gateways = Line::default();
        names.pad(LABEL);
        gateways.pad(LABEL);
        for (index, (_, name, [without, with])) in groups.iter().enumerate() {
            names.push(name, Style::Heading);
            names.pad(LABEL + 2 * CELL * (index + 1));
            gateways.push(without, Style::Faint);
            gateways.pad(LABEL + CELL * (2 * index + 1));
            gateways.push(with, Style::Faint);
            gateways.pad(LABEL + CELL * (2 * index + 2));
        }
        let mut lines = vec![names, gateways];
        let channels: Vec<_> = groups
            .iter()
            .flat_map(|(party, _, _)| {
                [Way::Sygnal, Way::Opaque].map(|way| Channel { party: *party, way })
            })
            .collect();
        let mut row = |label: &str, cell: &dyn Fn(Channel) -> (&'static str, Style)| {
            let mut line = Line::default().with(label, Style::Plain);
            for (index, channel) in channels.iter().enumerate() {
                line.pad(LABEL + CELL * index);
                let (word, style) = cell(*channel);
                line.push(word, style);
            }
            lines.push(line);
        };
        for fact in Fact::ALL {
            row(fact.name(), &|channel| cell(fact, deliveries, channel));
        }
        row("size of content", &|channel| {
            if verdict::size_varies(deliveries, channel) {
                READABLE
            } else {
                STOPPED
            }
        });
        let unavoidable = |shown: bool| {
            if shown {
                ("yes", Style::Unavoidable)
            } else {
                STOPPED
            }
        };
        row("device token", &|channel| {
            unavoidable(verdict::always_shown(deliveries, channel, |delivery| {
                &delivery.token
            }))
        });
        row("app", &|channel| {
            unavoidable(verdict::always_shown(deliveries, channel, |delivery| {
                &delivery.app
            }))
        });
        row("time", &|channel| {
            let latest = verdict::of(deliveries, channel)
                .map(|delivery| delivery.known_after)
                .max();
            unavoidable(latest.is_some())
        });
        text += &paper.lines(&lines);
        text.push('\n');
    }
    text + &paper.paragraph(
        "",
        Style::Plain,
        "rotating: in its place is an identifier that is a new one with every push. \
         encrypted: the service carries it, the device alone can read it.",
    )
}

const READABLE: (&str, Style) = ("YES", Style::Leaked);
const STOPPED: (&str, Style) = ("no", Style::Good);

fn cell(fact: Fact, deliveries: &[Delivery], channel: Channel) -> (&'static str, Style) {
    match verdict::worst(fact, deliveries, channel) {
        Exposure::Readable => READABLE,
        Exposure::Sealed => ("encrypted", Style::Sealed),
        // in its place there is one that nobody but the gateway can connect with it
        Exposure::Stopped
            if fact == Fact::EventId && !verdict::renewed(deliveries, channel).is_empty() =>
        {
            ("rotating", Style::Good)
        }
        Exposure::Stopped => STOPPED,
    }
}

fn limits(deliveries: &[Delivery], paper: &Paper) -> String {
    let latest = deliveries.iter().map(|delivery| delivery.known_after).max();
    let latest = latest.unwrap_or_default().as_millis() + 1;
    let mut text = paper.rule("What no gateway can hide");
    for prose in [
        format!(
            "That a device got a push for an app, and when: here less than {latest} ms after the homeserver sent it. \
             The providers know the device by its token, and mostly its owner and its network address, too."
        ),
        "A UnifiedPush app that registers no keys (few do so far) gets the notification as it is. Its push server \
         reads it, so let that be your own."
            .to_owned(),
        "With mode opaque, an app asks its homeserver for the message to show it. An app that needs event_id and \
         room_id from the push shows a general text, or has to be served with mode sygnal."
            .to_owned(),
    ] {
        text += &paper.paragraph("• ", Style::Unavoidable, &prose);
    }
    text
}

/// Of how much each provider could read, for either gateway.
fn result(deliveries: &[Delivery], paper: &Paper) -> String {
    let mut text = paper.rule("In short");
    let all = Fact::ALL.len();
    for (name, way) in [("Sygnal", Way::Sygnal), ("Nocturne", Way::Opaque)] {
        let readable = |party| {
            let channel = Channel { party, way };
            let facts = Fact::ALL.iter();
            facts
                .filter(|fact| verdict::worst(**fact, deliveries, channel) == Exposure::Readable)
                .count()
        };
        let mut pieces = vec![padded(&format!("With {name}, of {all}:"), Style::Plain, 21)];
        for (party, name) in [
            (Party::Apple, "Apple"),
            (Party::Google, "Google"),
            (Party::BrowserService, "the browser's service"),
        ] {
            let count = readable(party);
            let style = if count == 0 {
                Style::Good
            } else {
                Style::Leaked
            };
            pieces.push(padded(&format!("{name} reads {count}"), style, 15));
        }
        text += &paper.flow(&pieces);
    }
    text + "\n"
}

fn padded(text: &str, style: Style, width: usize) -> Line {
    let mut line = Line::default().with(text, style);
    line.pad(width);
    line
}
