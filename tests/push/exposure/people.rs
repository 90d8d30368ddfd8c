//! People with devices, and what happens in their rooms: all of it drawn at random.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Map, Value, json};
use shared::random::Random;
use stand_ins::{
    DeviceKeys, PushService,
    homeserver::{device, device_with},
    seal_pushkey,
};

use super::search::Secrets;

/// Repeats itself for the same seed.
pub(super) struct Dice(Random);

/// What kind of provider an app has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Apns,
    Fcm,
    WebPush,
    UnifiedPush,
}

/// What a device registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    None,
    Tags,
    Blob,
}

/// One app on one device of one person.
pub(super) struct Registration {
    pub(super) person: usize,
    /// As a homeserver sends it.
    pub(super) json: Value,
    /// What stands for the device in a request to its provider.
    pub(super) target: String,
}

/// What must not be seen by whom.
pub(super) struct Hidden {
    /// From providers and from whoever reads logs and metrics.
    pub(super) secrets: Secrets,
    /// As above, but that a provider has to be told where a push goes.
    pub(super) counts: Vec<String>,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(Random::seeded(seed))
    }

    /// A number less than `end`.
    pub(super) fn below(&self, end: usize) -> usize {
        let number = u32::from_be_bytes(self.0.bytes());
        usize::try_from(number).unwrap() % end
    }

    pub(super) fn one_in(&self, many: usize) -> bool {
        self.below(many) == 0
    }

    pub(super) fn bytes<const N: usize>(&self) -> [u8; N] {
        self.0.bytes()
    }

    fn of(&self, alphabet: &[char], length: usize) -> String {
        (0..length)
            .map(|_| alphabet[self.below(alphabet.len())])
            .collect()
    }

    /// As in the identifiers of homeservers.
    pub(super) fn word(&self, length: usize) -> String {
        let alphabet: Vec<char> = ('a'..='z').chain('A'..='Z').chain('0'..='9').collect();
        self.of(&alphabet, length)
    }

    /// As people write, and worse.
    pub(super) fn text(&self, length: usize) -> String {
        let alphabet: Vec<char> = ('a'..='z')
            .chain(" ÄÖéßøłжщ漢字\u{1f9e6}\u{1f4a5}\"\\\n\t\u{1}%&<>{}':/".chars())
            .collect();
        self.of(&alphabet, length)
    }

    fn server(&self) -> String {
        format!(
            "{}.{}",
            self.word(9).to_lowercase(),
            self.word(4).to_lowercase()
        )
    }
}

impl Hidden {
    pub(super) fn new() -> Self {
        Self {
            secrets: Secrets::new(),
            counts: Vec::new(),
        }
    }

    fn text(&mut self, name: &str, text: String) -> String {
        self.secrets.add(name, &text);
        text
    }

    fn key(&mut self, name: &str, key: &[u8]) -> String {
        let written = URL_SAFE_NO_PAD.encode(key);
        self.secrets.add(name, key);
        self.text(name, written)
    }

    /// A number that occurs by chance nowhere.
    fn count(&mut self, dice: &Dice) -> u64 {
        let count = 100_000_000_000_000 + u64::from_be_bytes(dice.bytes()) % 900_000_000_000_000;
        self.counts.push(count.to_string());
        count
    }
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|half| char::from_digit(half.into(), 16));
    bytes.iter().flat_map(digits).flatten().collect()
}

/// A device of this person with this app, known to its provider.
pub(super) fn register(
    (dice, hidden): (&Dice, &mut Hidden),
    push_service: &PushService,
    (kind, app_id, keys): (Kind, &str, Keys),
    person: usize,
    sealed_to: Option<&str>,
) -> Registration {
    let mut data = Map::new();
    let (token, target) = match kind {
        Kind::Apns => {
            let token: [u8; 32] = dice.bytes();
            hidden.secrets.add("device token", token);
            (STANDARD.encode(token), hex(&token))
        }
        Kind::Fcm => {
            let token = format!("{}:{}", dice.word(22), dice.word(118));
            (token.clone(), token)
        }
        Kind::WebPush => {
            let browser = push_service.subscribe().unwrap();
            data.insert("endpoint".to_owned(), browser.endpoint.clone().into());
            data.insert("auth".to_owned(), hidden.text("auth", browser.auth).into());
            let path = browser.endpoint.rsplit_once('/').unwrap().1.to_owned();
            (browser.p256dh, hidden.text("endpoint", path))
        }
        Kind::UnifiedPush => {
            let phone = push_service.subscribe_unified_push().unwrap();
            let path = phone.endpoint.rsplit_once('/').unwrap().1.to_owned();
            data.insert(
                "p256dh".to_owned(),
                hidden.text("p256dh", phone.p256dh).into(),
            );
            data.insert("auth".to_owned(), hidden.text("auth", phone.auth).into());
            (phone.endpoint, hidden.text("endpoint", path))
        }
    };
    if kind != Kind::UnifiedPush {
        hidden.secrets.add("pushkey", &token);
    }
    let mut default_payload = Map::new();
    let client = hidden.text("default_payload", dice.word(16));
    default_payload.insert(client, hidden.text("default_payload", dice.text(20)).into());
    if matches!(kind, Kind::Apns | Kind::Fcm) {
        let object = match keys {
            Keys::None => None,
            Keys::Tags => {
                let secret = hidden.key("secret", &dice.bytes::<32>());
                Some(json!({ "v": 1, "secret": secret }))
            }
            Keys::Blob => {
                let keys = DeviceKeys::generate().unwrap();
                let p256dh = hidden.text("p256dh", keys.p256dh());
                let auth = hidden.text("auth", keys.auth());
                Some(json!({ "v": 1, "p256dh": p256dh, "auth": auth }))
            }
        };
        if let Some(object) = object {
            let place = if dice.one_in(2) {
                &mut data
            } else {
                &mut default_payload
            };
            place.insert("nocturne".to_owned(), object);
        }
    }
    data.insert("default_payload".to_owned(), default_payload.into());
    let pushkey = match sealed_to {
        None => token,
        Some(public) => {
            let sealed = seal_pushkey(public, app_id, &token).unwrap();
            hidden.text("sealed pushkey", sealed["nk1.".len()..].to_owned());
            sealed
        }
    };
    Registration {
        person,
        json: device_with(app_id, &pushkey, data.into()),
        target,
    }
}

/// Devices that cannot be pushed to, each for another reason.
pub(super) fn unfortunate(
    (dice, hidden): (&Dice, &mut Hidden),
    app_id: &str,
    key_id: u8,
) -> Vec<Value> {
    let token = || URL_SAFE_NO_PAD.encode(dice.bytes::<32>());
    let sealed = |first: u8| {
        let bytes = [&[first][..], &[0; 304].map(|_: u8| dice.bytes::<1>()[0])].concat();
        format!("nk1.{}", URL_SAFE_NO_PAD.encode(bytes))
    };
    let mut devices = vec![
        device(&hidden.text("app ID", dice.word(20)), &token()),
        device(app_id, &sealed(key_id)),
        device(app_id, &sealed(key_id.wrapping_add(1))),
        device(app_id, &format!("nk1.{}", dice.text(30))),
        device_with(
            app_id,
            &token(),
            json!({ "default_payload": dice.word(12) }),
        ),
    ];
    for object in [
        json!(dice.word(30)),
        json!({ "v": dice.word(9) }),
        json!({ "v": 1, "secret": dice.word(30) }),
        json!({ "v": 1, "p256dh": dice.word(87), "auth": dice.word(22) }),
    ] {
        devices.push(device_with(app_id, &token(), json!({ "nocturne": object })));
    }
    for device in &devices {
        let pushkey = device["pushkey"].as_str().unwrap();
        hidden.text("pushkey", pushkey.trim_start_matches("nk1.").to_owned());
        let object = &device["data"]["nocturne"];
        let words = [object, &object["v"], &object["secret"], &object["p256dh"]];
        for word in words.into_iter().filter_map(Value::as_str) {
            hidden.text("device key", word.to_owned());
        }
    }
    devices
}

/// What a homeserver says of one event, or of a counter alone.
pub(super) fn notification((dice, hidden): (&Dice, &mut Hidden), devices: &[Value]) -> Value {
    let mut members = Map::new();
    let mut counts = Map::new();
    if !dice.one_in(4) {
        counts.insert("unread".to_owned(), hidden.count(dice).into());
    }
    if dice.one_in(3) {
        counts.insert("missed_calls".to_owned(), hidden.count(dice).into());
    }
    members.insert("counts".to_owned(), counts.into());
    if dice.one_in(3) {
        members.insert("prio".to_owned(), ["high", "low"][dice.below(2)].into());
    }
    members.insert("devices".to_owned(), devices.into());
    let with_event = !dice.one_in(12);
    if with_event {
        let event = if dice.one_in(3) {
            format!("${}:{}", dice.word(18), dice.server())
        } else {
            format!("${}", URL_SAFE_NO_PAD.encode(dice.bytes::<32>()))
        };
        let room = format!("!{}:{}", dice.word(18), dice.server());
        for (name, id) in [("event_id", event), ("room_id", room)] {
            members.insert(name.to_owned(), hidden.text(name, id).into());
        }
    }
    if with_event && !dice.one_in(4) {
        let server = dice.server();
        // some longer than any blob has room for
        let body = dice.text(if dice.one_in(15) {
            2500
        } else {
            8 + dice.below(90)
        });
        let texts = [
            ("type", format!("org.{}", dice.word(9))),
            ("sender", format!("@{}:{server}", dice.word(8))),
            ("sender_display_name", dice.text(8 + dice.below(20))),
            ("room_name", dice.text(8 + dice.below(30))),
            ("room_alias", format!("#{}:{server}", dice.word(9))),
            ("membership", dice.word(8)),
        ];
        for (name, text) in texts {
            if !dice.one_in(6) {
                members.insert(name.to_owned(), hidden.text(name, text).into());
            }
        }
        let (key, kind) = (dice.word(10), dice.word(10));
        let content = json!({
            "msgtype": hidden.text("msgtype", kind),
            "body": hidden.text("body", body),
            hidden.text("key", key): [{ "number": hidden.count(dice) }],
        });
        members.insert("content".to_owned(), content);
    }
    json!({ "notification": members })
}
