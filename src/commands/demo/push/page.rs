//! The part about push as a person reads it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    message::{BRIEF, FULL, Fact, Message, ROOMS},
    stage::{Channel, Delivery, Party, Way},
    verdict,
};
use crate::commands::demo::{
    paper::{Line, Paper, Style},
    search::{Exposure, Request, Trace},
};

/// Rows of a body of random bytes that are shown; the rest looks the same.
const HEX_ROWS: usize = 3;
/// Of longer words in headers, which are signatures, only the beginning is shown.
const LONGEST_WORD: usize = 40;
/// Of longer keys and sealed blobs, too.
const LONGEST_KEY: usize = 30;

/// What happened: provider by provider, then what follows from several pushes together.
pub(super) fn story(deliveries: &[Delivery], paper: &Paper) -> String {
    let mut text = introduction(paper);
    let shown = |party, way, message: Message| {
        let channel = Channel { party, way };
        verdict::of(deliveries, channel).find(|delivery| delivery.message.ids() == message.ids())
    };
    for (heading, way) in [
        ("Apple, if the gateway were Sygnal", Way::Sygnal),
        (
            "Apple, with Nocturne, for an app that registers no keys",
            Way::Opaque,
        ),
    ] {
        if let Some(delivery) = shown(Party::Apple, way, FULL) {
            text += &side_by_side(heading, delivery, paper);
        }
    }
    text += &with_keys(&shown, paper);
    text += &linking(deliveries, paper);
    text += &database(&shown, paper);
    text += &google(&shown, paper);
    if let Some(delivery) = shown(Party::BrowserService, Way::Opaque, FULL) {
        text += &side_by_side("A browser's push service, with Nocturne", delivery, paper);
    }
    text += &brief(&shown, paper);
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

/// What an app registers, what Apple saw, and what the app on the phone made of it.
fn with_keys<'a>(
    shown: &impl Fn(Party, Way, Message) -> Option<&'a Delivery>,
    paper: &Paper,
) -> String {
    let mut text = String::new();
    for (heading, way) in [
        (
            "Apple, with Nocturne, for an app that registers a secret: tags",
            Way::Tags,
        ),
        (
            "Apple, with Nocturne, for an app that registers keys: a sealed blob",
            Way::Blob,
        ),
    ] {
        let Some(delivery) = shown(Party::Apple, way, FULL) else {
            continue;
        };
        let registered = shortened(&delivery.pusher["data"]["nocturne"]).to_string();
        let left = [
            Line::default().with("THE PUSHER'S DATA HAS", Style::Heading),
            Line::default()
                .with("\"nocturne\":", Style::Plain)
                .with(&registered, Style::Plain),
        ];
        let right = [
            Line::default().with("APPLE SAW", Style::Heading),
            body(delivery),
        ];
        text += &paper.rule(heading);
        text += &paper.columns(&left, &right);
        text += &understood(delivery, paper);
        text += &summary(delivery, paper);
    }
    text
}

/// What the app on the phone made of a push with tags or a blob.
fn understood(delivery: &Delivery, paper: &Paper) -> String {
    let mut line = Line::default();
    if let Some(opened) = &delivery.decrypted {
        line.push("~ the phone opened p: ", Style::Sealed);
        line.push(&String::from_utf8_lossy(opened), Style::Plain);
    } else {
        line.push("~ the phone found: ", Style::Sealed);
        line.push(&recognised(delivery), Style::Plain);
    }
    paper.wrapped(&line)
}

/// What the phone recognised by the tags.
fn recognised(delivery: &Delivery) -> String {
    match delivery.found.rooms.as_slice() {
        [room] => format!(
            "r fits {:?} alone of its {} rooms, and in there e fits {}",
            room.name,
            ROOMS.len(),
            delivery.found.events.join(" and ")
        ),
        rooms => format!("r fits {} of its {} rooms", rooms.len(), ROOMS.len()),
    }
}

/// The body of a push, shortened and with what is in it marked.
fn body(delivery: &Delivery) -> Line {
    let text = match delivery.request.json() {
        // as it came, unless it has to be shorter
        Some(json) if shortened(&json) != json => shortened(&json).to_string(),
        Some(_) | None => String::from_utf8_lossy(&delivery.request.body).into_owned(),
    };
    coloured(&text, Style::Plain, &marks(delivery))
}

/// The same with only the beginnings of keys and sealed blobs.
fn shortened(json: &Value) -> Value {
    let Value::Object(members) = json else {
        return json.clone();
    };
    let shorten = |(name, value): (&String, &Value)| {
        let shorter = match value.as_str() {
            Some(text) if text.len() > LONGEST_KEY && ["p", "p256dh"].contains(&name.as_str()) => {
                let beginning: String = text.chars().take(LONGEST_KEY / 2).collect();
                json!(format!("{beginning}… ({} characters)", text.len()))
            }
            Some(_) | None => shortened(value),
        };
        (name.clone(), shorter)
    };
    Value::Object(members.iter().map(shorten).collect())
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

/// Two pushes of one room, and one of another: for Apple, and for the phone.
fn linking(deliveries: &[Delivery], paper: &Paper) -> String {
    const TAGS_WIDTH: usize = 56;

    let channel = Channel {
        party: Party::Apple,
        way: Way::Tags,
    };
    let mut heading = Line::default().with("APPLE SAW", Style::Heading);
    heading.pad(TAGS_WIDTH);
    let heading = heading.with("THE PHONE FOUND", Style::Heading);
    let mut lines = vec![heading.cut(paper.width())];
    for delivery in verdict::of(deliveries, channel) {
        let json = delivery.request.json().unwrap_or_default();
        let member = |name: &str| json[name].as_str().unwrap_or("none").to_owned();
        let tags = format!("n {}   r {}", member("n"), member("r"));
        let mut line = Line::default().with(&tags, Style::Faint);
        line.pad(TAGS_WIDTH);
        let rooms: Vec<_> = delivery.found.rooms.iter().map(|room| room.name).collect();
        lines.push(
            line.with(&rooms.join(", "), Style::Sealed)
                .cut(paper.width()),
        );
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
    paper.rule("Three pushes to one phone: which two are of the same room?")
        + &paper.lines(&lines)
        + &paper.paragraph(mark, style, &prose)
}

/// What the homeserver keeps of a device, with its pushkey as it is and sealed.
fn database<'a>(
    shown: &impl Fn(Party, Way, Message) -> Option<&'a Delivery>,
    paper: &Paper,
) -> String {
    let mut left = vec![Line::default().with("THE DATABASE HOLDS", Style::Heading)];
    let mut right = vec![Line::default().with("APPLE SAW", Style::Heading)];
    let mut sealed = None;
    for way in [Way::Blob, Way::SealedPushkey] {
        let Some(delivery) = shown(Party::Apple, way, FULL) else {
            continue;
        };
        let mark = if verdict::database_shows_token(delivery) {
            ("! ", Style::Leaked)
        } else {
            sealed = Some(delivery);
            ("~ ", Style::Sealed)
        };
        let pushkey = delivery.pusher["pushkey"].as_str().unwrap_or("none");
        let (left_width, right_width) = paper.column_widths();
        left.push(marked_member(mark, "pushkey", pushkey, left_width));
        let post = format!("POST {}", delivery.request.path);
        right.push(coloured(&post, Style::Plain, &marks(delivery)).cut(right_width));
    }
    let (mark, style, prose) = match sealed {
        Some(_) => (
            "✗ ",
            Style::Good,
            "The second app sealed its pushkey to the gateway's public key. Whoever reads the homeserver's database \
             has no device token of it.",
        ),
        None => (
            "! ",
            Style::Leaked,
            "The homeserver's database has every device token.",
        ),
    };
    paper.rule("And the homeserver's database? A sealed pushkey")
        + &paper.columns(&left, &right)
        + &paper.paragraph(mark, style, prose)
}

/// The same at Google, bodies alone.
fn google<'a>(
    shown: &impl Fn(Party, Way, Message) -> Option<&'a Delivery>,
    paper: &Paper,
) -> String {
    let column = |ways: &[(&str, Way)]| -> Vec<Line> {
        let pushes = ways.iter().filter_map(|(heading, way)| {
            let delivery = shown(Party::Google, *way, FULL)?;
            let heading = Line::default().with(heading, Style::Heading);
            Some([heading, body(delivery)])
        });
        pushes.flatten().collect()
    };
    let left = column(&[("GOOGLE SAW, WITH SYGNAL", Way::Sygnal)]);
    let right = column(&[
        ("GOOGLE SAW, WITH NOCTURNE", Way::Opaque),
        ("THE SAME WITH TAGS", Way::Tags),
        ("THE SAME SEALED", Way::Blob),
    ]);
    let mut text = paper.rule("Google, the same message") + &paper.columns(&left, &right);
    for way in [Way::Sygnal, Way::Opaque] {
        if let Some(delivery) = shown(Party::Google, way, FULL) {
            text += &summary(delivery, paper);
        }
    }
    text
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
         encrypted: the service carries it, the device alone can read it. So it is at Apple and Google, too, for \
         devices with keys.",
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
         room_id in clear shows a general text, or has to be served with mode sygnal."
            .to_owned(),
    ] {
        text += &paper.paragraph("• ", Style::Unavoidable, &prose);
    }
    text
}

/// Of how much each provider could read, and what the phone makes of it, from Sygnal to everything sealed.
fn result(deliveries: &[Delivery], paper: &Paper) -> String {
    const GATEWAY: usize = 24;
    const CELL: usize = 10;

    let mut heading = Line::default();
    heading.pad(GATEWAY);
    for (index, name) in ["Apple", "Google", "the phone, from the push itself"]
        .into_iter()
        .enumerate()
    {
        heading.push(name, Style::Heading);
        heading.pad(GATEWAY + CELL * (index + 1));
    }
    let mut text =
        paper.rule("In short: of the ten, how many each can read") + &paper.wrapped(&heading);
    for (gateway, way) in [
        ("Sygnal", Way::Sygnal),
        ("Nocturne, mode wake", Way::Wake),
        ("Nocturne", Way::Opaque),
        ("  with tags", Way::Tags),
        ("  sealed", Way::Blob),
        ("  pushkey sealed, too", Way::SealedPushkey),
    ] {
        let of_all = |wanted: Exposure, party| -> Vec<_> {
            let facts = Fact::ALL.into_iter();
            let channel = Channel { party, way };
            facts
                .filter(|fact| verdict::worst(*fact, deliveries, channel) == wanted)
                .map(Fact::name)
                .collect()
        };
        let mut line = Line::default().with(gateway, Style::Plain);
        for (index, party) in [Party::Apple, Party::Google].into_iter().enumerate() {
            line.pad(GATEWAY + CELL * index);
            if !party.ways().contains(&way) {
                line.push("-", Style::Faint);
                continue;
            }
            let count = of_all(Exposure::Readable, party).len();
            let style = if count == 0 {
                Style::Good
            } else {
                Style::Leaked
            };
            line.push(&format!("{count} of {}", Fact::ALL.len()), style);
        }
        line.pad(GATEWAY + 2 * CELL);
        let sealed = of_all(Exposure::Sealed, Party::Apple);
        let known = match way {
            Way::Sygnal => "what Apple and Google know".to_owned(),
            Way::Wake => "something is new".to_owned(),
            Way::Opaque => "something is new; n is the same in a repetition".to_owned(),
            Way::Tags => "which of its rooms, and there which event".to_owned(),
            Way::Blob | Way::SealedPushkey => sealed.join(", "),
        };
        text += &paper.wrapped(&line.with(&known, Style::Sealed));
    }
    text + "\n"
}
