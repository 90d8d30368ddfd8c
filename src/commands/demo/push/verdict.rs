//! Judges what the stand-ins recorded: what got through to whom, and whether that is as promised.

use std::collections::BTreeSet;

use http::Version;
use serde_json::Value;

use super::{
    message::{ELSEWHERE, Fact, ROOMS, STORY, default_payload},
    stage::{Channel, Delivery, Party, Way, handed_on},
};
use crate::commands::demo::{
    check::Check,
    search::{Exposure, Trace, readable_in},
};

/// What an `aes128gcm` message has besides its padded content: header, authentication tag (RFC 8188 §2).
const SEALED_OVERHEAD: usize = 16 + 4 + 1 + 65 + 16;
/// To this a sealed notification is padded, at least.
const PADDED: usize = 512;

/// How far something got in one push; none: the message does not have it.
pub(super) fn exposure(fact: Fact, delivery: &Delivery) -> Option<Exposure> {
    let traces = fact.traces(&delivery.message);
    if traces.is_empty() {
        return None;
    }
    let decrypted = delivery.decrypted.as_deref();
    Some(if delivery.request.shows(&traces) {
        Exposure::Readable
    } else if decrypted.is_some_and(|plain| readable_in(&traces, plain)) {
        Exposure::Sealed
    } else {
        Exposure::Stopped
    })
}

/// How far something got in the worst case of a device's pushes.
pub(super) fn worst(fact: Fact, deliveries: &[Delivery], channel: Channel) -> Exposure {
    of(deliveries, channel)
        .filter_map(|delivery| exposure(fact, delivery))
        .max()
        .unwrap_or(Exposure::Stopped)
}

/// A device's pushes.
pub(super) fn of(deliveries: &[Delivery], channel: Channel) -> impl Iterator<Item = &Delivery> {
    deliveries
        .iter()
        .filter(move |delivery| delivery.channel == channel)
}

/// Places in a device's requests that had another value in every push.
pub(super) fn renewed(deliveries: &[Delivery], channel: Channel) -> Vec<String> {
    let all: Vec<_> = of(deliveries, channel)
        .map(|delivery| delivery.request.values())
        .collect();
    let places: BTreeSet<_> = all.iter().flatten().map(|(place, _)| place).collect();
    let is_renewed = |place: &String| {
        let values: Vec<_> = all
            .iter()
            .flatten()
            .filter(|(candidate, value)| {
                // the names of members count as values, too
                candidate == place && !place.ends_with(&format!(".{value}"))
            })
            .map(|(_, value)| value)
            .collect();
        let distinct: BTreeSet<_> = values.iter().collect();
        values.len() == all.len() && distinct.len() == all.len()
    };
    places
        .into_iter()
        .filter(|place| is_renewed(place))
        .cloned()
        .collect()
}

/// What two pushes of one room have in common that a push of another room does not have.
pub(super) fn links(deliveries: &[Delivery], channel: Channel) -> Vec<String> {
    let (_, elsewhere) = ELSEWHERE.ids();
    let (same, other): (Vec<_>, Vec<_>) = of(deliveries, channel).partition(|delivery| {
        let (_, room) = delivery.message.ids();
        room != elsewhere
    });
    let common = same
        .iter()
        .map(|delivery| delivery.request.values())
        .reduce(|one, another| &one & &another)
        .unwrap_or_default();
    let other = other
        .iter()
        .flat_map(|delivery| delivery.request.values())
        .collect();
    (&common - &other)
        .into_iter()
        .map(|(place, _)| place)
        .collect()
}

/// Whether the size of what a provider got differs from message to message.
pub(super) fn size_varies(deliveries: &[Delivery], channel: Channel) -> bool {
    let sizes: BTreeSet<_> = of(deliveries, channel)
        .map(|delivery| delivery.request.body.len())
        .collect();
    sizes.len() > 1
}

/// Whether all of a device's pushes show this.
pub(super) fn always_shown(
    deliveries: &[Delivery],
    channel: Channel,
    traces: impl Fn(&Delivery) -> &[Trace],
) -> bool {
    of(deliveries, channel).all(|delivery| delivery.request.shows(traces(delivery)))
}

/// Everything that has to be so.
pub(super) fn checks(deliveries: &[Delivery]) -> Vec<Check> {
    let protected = deliveries.iter();
    let protected: Vec<_> = protected.filter(|one| is_protected(one.channel)).collect();
    let channels = || Channel::all().filter(|channel| is_protected(*channel));
    let facts = |delivery: &Delivery, facts: &[Fact], wanted: Exposure| {
        let wrong = facts.iter().filter_map(|fact| {
            let exposure = exposure(*fact, delivery)?;
            (exposure != wanted).then(|| {
                let what = fact.name();
                format!("{}: {what} is {}", place(delivery), adjective(exposure))
            })
        });
        wrong.collect::<Vec<_>>()
    };

    vec![
        Check::new(
            format!(
                "All {} pushes arrived, each once, over TLS and HTTP/2, signed for, and by the provider's rules.",
                Channel::all().count() * STORY.len(),
            ),
            missing(deliveries).chain(
                deliveries
                    .iter()
                    .filter(|delivery| delivery.version != Version::HTTP_2)
                    .map(|delivery| format!("{}: {:?}", place(delivery), delivery.version)),
            ),
        ),
        Check::new(
            "The search works: in what Sygnal would have sent it finds event, room, names, text and count at Apple \
             and Google.",
            deliveries
                .iter()
                .filter(|delivery| {
                    let Channel { party, way } = delivery.channel;
                    way == Way::Sygnal && matches!(party, Party::Apple | Party::Google)
                })
                .flat_map(|delivery| facts(delivery, &SHOWN_BY_SYGNAL, Exposure::Readable)),
        ),
        Check::new(
            format!(
                "The same search finds none of it in {} pushes of Nocturne's, bare, with tags or sealed (UnifiedPush: with keys), \
                 in clear, escaped, in base64 or in hex.",
                protected.len()
            ),
            protected.iter().flat_map(|delivery| {
                let shown = Fact::ALL
                    .iter()
                    .filter(|fact| exposure(**fact, delivery) == Some(Exposure::Readable));
                shown.map(|fact| format!("{}: {}", place(delivery), fact.name()))
            }),
        ),
        Check::new(
            "Of these, two of one room have nothing in common that one of another room does not have, too.",
            channels().flat_map(|channel| {
                let links = links(deliveries, channel).into_iter();
                links.map(move |link| format!("{}: {link}", device(channel)))
            }),
        ),
        Check::new(
            "Of these, all to one device have the same size, with a long message as with a short one.",
            channels()
                .filter(|channel| size_varies(deliveries, *channel))
                .map(device),
        ),
        Check::new(
            "No two pushes at Apple and Google, to one device or to two, have the same n, r, e, p or apns-id.",
            not_renewed(&protected),
        ),
        Check::new(
            format!(
                "With tags, the phone found the right room, as the only one of its {}, and the right event in it.",
                ROOMS.len()
            ),
            deliveries
                .iter()
                .filter(|delivery| delivery.channel.way == Way::Tags)
                .filter_map(|delivery| {
                    let problem = not_found(delivery)?;
                    Some(format!("{}: {problem}", place(delivery)))
                }),
        ),
        Check::new(
            "What is sealed was opened by the phone, the browser and the UnifiedPush app, and has the event, the room, \
             the count and what the app had put into its pusher.",
            deliveries
                .iter()
                .filter(|delivery| sealed(delivery))
                .filter_map(|delivery| {
                    let problem = not_opened(delivery)?;
                    Some(format!("{}: {problem}", place(delivery)))
                }),
        ),
        Check::new(
            "The homeserver's database has the device token of every phone but the one that sealed its pushkey. Apple got \
             that one's pushes, too.",
            deliveries
                .iter()
                .filter(|delivery| {
                    matches!(delivery.channel.party, Party::Apple | Party::Google)
                        && database_shows_token(delivery)
                            == (delivery.channel.way == Way::SealedPushkey)
                })
                .map(place),
        ),
        Check::new(
            "Mode wake sends the same bytes every time.",
            [Party::Apple, Party::Google]
                .into_iter()
                .filter_map(|party| {
                    let channel = Channel {
                        party,
                        way: Way::Wake,
                    };
                    let bodies: BTreeSet<_> = of(deliveries, channel)
                        .map(|delivery| &delivery.request.body)
                        .collect();
                    (bodies.len() != 1)
                        .then(|| format!("{}: {} bodies", party.name(), bodies.len()))
                }),
        ),
        Check::new(
            "What cannot be hidden was not hidden: every push shows its device and its app.",
            Channel::all().filter_map(|channel| {
                let shown = always_shown(deliveries, channel, |delivery| &delivery.token)
                    && always_shown(deliveries, channel, |delivery| &delivery.app);
                (!shown).then(|| device(channel))
            }),
        ),
    ]
}

/// What Sygnal tells Apple as well as Google, if the homeserver told it.
const SHOWN_BY_SYGNAL: [Fact; 6] = [
    Fact::EventId,
    Fact::RoomId,
    Fact::SenderName,
    Fact::RoomName,
    Fact::Text,
    Fact::Unread,
];

fn missing(deliveries: &[Delivery]) -> impl Iterator<Item = String> {
    Channel::all().filter_map(|channel| {
        let arrived = of(deliveries, channel).count();
        (arrived != STORY.len()).then(|| format!("{}: {arrived}", device(channel)))
    })
}

/// Whether as little as possible is to be seen of the device's pushes.
const fn is_protected(channel: Channel) -> bool {
    !matches!(channel.way, Way::Sygnal)
}

/// Whether what the homeserver's database holds of a device gives away its token.
pub(super) fn database_shows_token(delivery: &Delivery) -> bool {
    readable_in(&delivery.pushkey, delivery.pusher.to_string().as_bytes())
}

/// Identifiers that are missing, or that another push had, too.
fn not_renewed(deliveries: &[&Delivery]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for delivery in deliveries {
        let Channel { party, way } = delivery.channel;
        let members: &[&str] = match (party, way) {
            (Party::BrowserService | Party::UnifiedPush, _) | (_, Way::Sygnal | Way::Wake) => &[],
            (_, Way::Opaque) => &["n"],
            (_, Way::Tags) => &["n", "r", "e"],
            (_, Way::Blob | Way::SealedPushkey) => &["n", "p"],
        };
        let body = handed_on(party, &delivery.request);
        let mut values: Vec<_> = members
            .iter()
            .map(|name| (*name, body[*name].as_str().map(str::to_owned)))
            .collect();
        if party == Party::Apple {
            let id = delivery.request.header("apns-id").map(str::to_owned);
            values.push(("apns-id", id));
        }
        for (name, value) in values {
            if !value.is_some_and(|value| seen.insert(value)) {
                problems.push(format!("{}: {name}", place(delivery)));
            }
        }
    }
    problems
}

/// What is wrong with what the phone recognised by its tags.
fn not_found(delivery: &Delivery) -> Option<String> {
    let (event_id, room_id) = delivery.message.ids();
    let rooms = &delivery.found.rooms;
    match rooms.as_slice() {
        [room] if room.id != room_id => Some("another room".to_owned()),
        [_] if delivery.found.events != [event_id] => Some("not the event".to_owned()),
        [_] => None,
        _ => Some(format!("{} rooms", rooms.len())),
    }
}

/// Whether the device holds keys that its pushes are to be encrypted to, and is told the event.
fn sealed(delivery: &Delivery) -> bool {
    let Channel { party, way } = delivery.channel;
    match party {
        Party::Apple | Party::Google => matches!(way, Way::Blob | Way::SealedPushkey),
        Party::BrowserService | Party::UnifiedPush => way == Way::Opaque,
    }
}

fn not_opened(delivery: &Delivery) -> Option<String> {
    let Some(plain) = &delivery.decrypted else {
        return Some("not encrypted to the device".to_owned());
    };
    let json: Value = serde_json::from_slice(plain).unwrap_or_default();
    let message = delivery.message;
    let (event_id, room_id) = message.ids();
    if json["event_id"] != event_id || json["room_id"] != room_id {
        return Some("the event or the room is missing".to_owned());
    }
    if json["unread"] != message.unread() || json["data"] != default_payload() {
        return Some("the count or the pusher's data is missing".to_owned());
    }
    let size = match delivery.channel.party {
        Party::Apple | Party::Google => {
            let body = handed_on(delivery.channel.party, &delivery.request);
            let characters = body["p"].as_str().unwrap_or_default().len();
            characters * 3 / 4
        }
        Party::BrowserService | Party::UnifiedPush => delivery.request.body.len(),
    };
    (size != SEALED_OVERHEAD + PADDED).then(|| format!("{size} bytes"))
}

fn place(delivery: &Delivery) -> String {
    let number = STORY
        .iter()
        .position(|message| message.ids() == delivery.message.ids())
        .map_or(0, |index| index + 1);
    format!("{}, push {number}", device(delivery.channel))
}

fn device(channel: Channel) -> String {
    let name = channel.party.name();
    match (channel.party, channel.way) {
        (_, Way::Opaque) => name.to_owned(),
        (Party::UnifiedPush, Way::Sygnal) => format!("{name} without keys"),
        (_, Way::Sygnal) => format!("{name} in mode sygnal"),
        (_, Way::Wake) => format!("{name} in mode wake"),
        (_, Way::Tags) => format!("{name} with tags"),
        (_, Way::Blob) => format!("{name} with a sealed blob"),
        (_, Way::SealedPushkey) => format!("{name} with a sealed pushkey"),
    }
}

const fn adjective(exposure: Exposure) -> &'static str {
    match exposure {
        Exposure::Stopped => "not there",
        Exposure::Sealed => "encrypted",
        Exposure::Readable => "readable",
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::commands::demo::{
        push::{message::FULL, perform},
        search::{Request, hex},
    };

    const ARRIVED: &str = "All 51 pushes arrived";
    const SEARCH_WORKS: &str = "The search works";
    const NOTHING_FOUND: &str = "The same search finds none";
    const NOTHING_IN_COMMON: &str = "Of these, two of one room";
    const ONE_SIZE: &str = "Of these, all to one device";
    const NEW_IDENTIFIER: &str = "No two pushes at Apple and Google";
    const RECOGNISED: &str = "With tags, the phone found";
    const DECRYPTED: &str = "What is sealed was opened";
    const DATABASE: &str = "The homeserver's database has";
    const WAKE: &str = "Mode wake";
    const NOT_HIDDEN: &str = "What cannot be hidden";

    fn failing(deliveries: &[Delivery]) -> Vec<String> {
        let failing = |check: Check| (!check.counterexamples.is_empty()).then_some(check.claim);
        checks(deliveries).into_iter().filter_map(failing).collect()
    }

    #[track_caller]
    fn assert_fails(deliveries: &[Delivery], claim: &str) {
        let failing = failing(deliveries);
        let is_found = failing.iter().any(|failing| failing.starts_with(claim));
        assert!(is_found, "{claim}: {failing:?}");
    }

    /// The same deliveries, with those of one device changed.
    fn with(
        deliveries: &[Delivery],
        party: Party,
        way: Way,
        change: impl Fn(&mut Delivery),
    ) -> Vec<Delivery> {
        let mut deliveries = deliveries.to_vec();
        for delivery in &mut deliveries {
            if delivery.channel == (Channel { party, way }) {
                change(delivery);
                let Request {
                    path,
                    headers,
                    body,
                    ..
                } = delivery.request.clone();
                // read anew
                delivery.request = Request::new(path, headers, body);
            }
        }
        deliveries
    }

    fn change_json(delivery: &mut Delivery, change: impl Fn(&mut Value)) {
        let mut json = delivery.request.json().expect("the body is JSON");
        change(&mut json);
        delivery.request.body = Bytes::from(json.to_string());
    }

    #[tokio::test]
    async fn everything_holds_until_something_is_planted() {
        let seen = perform().await.expect("loopback has free ports");
        assert_eq!(failing(&seen), [""; 0]);

        let (event_id, room_id) = FULL.ids();
        let name = Fact::SenderName.value(&FULL).expect("it has a sender");
        let in_base64 = json!(URL_SAFE_NO_PAD.encode(&name));
        let in_hex = hex(event_id.as_bytes());
        let header = ("x".to_owned(), in_hex);
        for leaking in [
            with(&seen, Party::Apple, Way::Opaque, |delivery| {
                change_json(delivery, |body| body["aps"]["thread-id"] = json!(room_id));
            }),
            with(&seen, Party::Apple, Way::Wake, |delivery| {
                change_json(delivery, |body| body["aps"]["badge"] = json!(38));
            }),
            with(&seen, Party::Google, Way::Opaque, |delivery| {
                change_json(delivery, |body| {
                    body["message"]["data"]["x"] = in_base64.clone();
                });
            }),
            with(&seen, Party::BrowserService, Way::Opaque, |delivery| {
                delivery.request.headers.push(header.clone());
            }),
            with(&seen, Party::UnifiedPush, Way::Opaque, |delivery| {
                delivery.request.path += "?text=Your%20results%20are";
            }),
            with(&seen, Party::Apple, Way::Tags, |delivery| {
                change_json(delivery, |body| body["r"] = json!(room_id));
            }),
            with(&seen, Party::Google, Way::Blob, |delivery| {
                let opened = delivery.decrypted.clone().unwrap_or_default();
                change_json(delivery, |body| {
                    body["message"]["data"]["p"] = json!(URL_SAFE_NO_PAD.encode(&opened));
                });
            }),
        ] {
            assert_fails(&leaking, NOTHING_FOUND);
        }
    }

    #[tokio::test]
    async fn whatever_else_goes_wrong_is_seen() {
        let seen = perform().await.expect("loopback has free ports");

        assert_fails(&seen[1..], ARRIVED);
        let over_http1 = with(&seen, Party::Google, Way::Opaque, |delivery| {
            delivery.version = Version::HTTP_11;
        });
        assert_fails(&over_http1, ARRIVED);

        let blind = with(&seen, Party::Apple, Way::Sygnal, |delivery| {
            delivery.request.body = Bytes::from_static(b"{}");
        });
        assert_fails(&blind, SEARCH_WORKS);

        // a hash of the room that no search can find
        let tagged = with(&seen, Party::BrowserService, Way::Opaque, |delivery| {
            let (_, room_id) = delivery.message.ids();
            let tag = room_id.bytes().map(u32::from).sum::<u32>().to_string();
            delivery.request.headers.push(("topic".to_owned(), tag));
        });
        assert_fails(&tagged, NOTHING_IN_COMMON);

        let unpadded = with(&seen, Party::Google, Way::Opaque, |delivery| {
            let unread = Fact::Unread.value(&delivery.message).unwrap_or_default();
            let more = "x".repeat(unread.parse().unwrap_or_default());
            change_json(delivery, |body| body["message"]["data"]["x"] = json!(more));
        });
        assert_fails(&unpadded, ONE_SIZE);

        let constant = with(&seen, Party::Apple, Way::Opaque, |delivery| {
            change_json(delivery, |body| body["n"] = json!("AAAAAAAAAAAAAAAAAAAAAA"));
        });
        assert_fails(&constant, NEW_IDENTIFIER);
        // a tag that does not depend on n: the same for each push of the room
        let fixed_tag = with(&seen, Party::Google, Way::Tags, |delivery| {
            let (_, room_id) = delivery.message.ids();
            let tag = room_id.bytes().map(u32::from).sum::<u32>().to_string();
            change_json(delivery, |body| {
                body["message"]["data"]["r"] = json!(tag.as_str());
            });
        });
        assert_fails(&fixed_tag, NEW_IDENTIFIER);
        assert_fails(&fixed_tag, NOTHING_IN_COMMON);
        let same_for_two_devices = {
            let of_other = of(
                &seen,
                Channel {
                    party: Party::Apple,
                    way: Way::Opaque,
                },
            );
            let ids: Vec<_> = of_other
                .filter_map(|delivery| Some(delivery.request.json()?["n"].clone()))
                .collect();
            with(&seen, Party::Apple, Way::Tags, |delivery| {
                let index = STORY
                    .iter()
                    .position(|message| message.ids() == delivery.message.ids());
                change_json(delivery, |body| {
                    body["n"] = ids[index.unwrap_or_default()].clone();
                });
            })
        };
        assert_fails(&same_for_two_devices, NEW_IDENTIFIER);

        for change in [
            (|delivery: &mut Delivery| delivery.found.rooms.clear()) as fn(&mut Delivery),
            |delivery| delivery.found.rooms = ROOMS[3..4].to_vec(),
            |delivery| delivery.found.rooms = ROOMS[..2].to_vec(),
            |delivery| delivery.found.events.clear(),
        ] {
            assert_fails(&with(&seen, Party::Google, Way::Tags, change), RECOGNISED);
        }

        let sealed_to_another = with(&seen, Party::UnifiedPush, Way::Opaque, |delivery| {
            delivery.decrypted = None;
        });
        assert_fails(&sealed_to_another, DECRYPTED);
        for lost in ["event_id", "unread", "data"] {
            let incomplete = with(&seen, Party::Apple, Way::Blob, |delivery| {
                let opened = delivery.decrypted.as_deref().unwrap_or_default();
                let mut json: Value = serde_json::from_slice(opened).expect("it is JSON");
                json.as_object_mut().expect("an object").remove(lost);
                delivery.decrypted = Some(json.to_string().into_bytes());
            });
            assert_fails(&incomplete, DECRYPTED);
        }

        let in_clear = with(&seen, Party::Apple, Way::SealedPushkey, |delivery| {
            let Some(Trace::Text(pushkey)) = delivery.pushkey.first() else {
                panic!("it has a pushkey");
            };
            delivery.pusher["pushkey"] = json!(URL_SAFE_NO_PAD.encode(pushkey));
        });
        assert_fails(&in_clear, DATABASE);
        let not_searched = with(&seen, Party::Google, Way::Tags, |delivery| {
            delivery.pusher = json!({});
        });
        assert_fails(&not_searched, DATABASE);

        let counting = with(&seen, Party::Apple, Way::Wake, |delivery| {
            let unread = Fact::Unread.value(&delivery.message);
            change_json(delivery, |body| body["x"] = json!(unread));
        });
        assert_fails(&counting, WAKE);

        let elsewhere = with(&seen, Party::Apple, Way::Opaque, |delivery| {
            delivery.request.path = "/3/device/00".to_owned();
        });
        assert_fails(&elsewhere, NOT_HIDDEN);
    }
}
