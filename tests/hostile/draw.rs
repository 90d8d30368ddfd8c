//! Bodies that are nearly, or not at all, what a homeserver sends.
//!
//! They are texts and not values, since half of what is wanted no JSON library writes: numbers and
//! members twice, lone surrogates, NaN. Everything is drawn from a seed and the same in each run.

use serde_json::Value;
use stand_ins::{PushService, Subscription};

/// Draws things from a seed (`SplitMix64`).
pub(crate) struct Draw {
    state: u64,
    /// Everything drawn so far that may not be written down.
    pub(crate) secrets: Vec<String>,
}

/// Devices that the stand-ins know.
pub(crate) struct Known {
    pub(crate) browser: Subscription,
    pub(crate) phone: Subscription,
}

impl Known {
    pub(crate) fn new(push_service: &PushService) -> Self {
        Self {
            browser: push_service.subscribe().expect("randomness"),
            phone: push_service.subscribe_unified_push().expect("randomness"),
        }
    }

    /// What nobody may write down of them.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        [&self.browser, &self.phone]
            .into_iter()
            .flat_map(|subscription| {
                let (_, path) = subscription
                    .endpoint
                    .rsplit_once('/')
                    .expect("an endpoint has a path");
                [path, &subscription.p256dh, &subscription.auth]
            })
    }
}

impl Draw {
    pub(crate) const fn new(seed: u64) -> Self {
        Self {
            state: seed,
            secrets: Vec::new(),
        }
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).expect("64 bits hold it");
        usize::try_from(self.number() % limit).expect("less than the limit")
    }

    /// True in so many of a hundred cases.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn one_of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }

    /// Letters and digits that occur nowhere else.
    pub(crate) fn secret(&mut self) -> String {
        let secret: String = (0..20)
            .map(|_| {
                char::from(
                    b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"[self.below(57)],
                )
            })
            .collect();
        self.secrets.push(secret.clone());
        secret
    }

    /// A request body: mostly the real shape with something wrong in it.
    pub(crate) fn body(&mut self, known: &Known) -> Vec<u8> {
        let body = match self.below(40) {
            0 => self.value(0),
            1 => self.deep(),
            2 => self.crowd(),
            3 => self.heavy(),
            _ => format!(r#"{{"notification":{}}}"#, self.notification(known)),
        };
        let mut body = body.into_bytes();
        match self.below(30) {
            0 => body.truncate(self.below(body.len())),
            1 => {
                let at = self.below(body.len());
                body[at] = u8::try_from(self.below(256)).expect("a byte");
            }
            2 => body.splice(0..0, *b"\xef\xbb\xbf").for_each(drop),
            3 => body.extend_from_slice(b"{}"),
            4 => body.extend_from_slice(b" \n\t"),
            5 => {
                let at = self.below(body.len());
                body.splice(at..at, *b"\xff\xfe").for_each(drop);
            }
            _ => {}
        }
        body
    }

    /// A notification for devices that are there, whatever else is in it.
    pub(crate) fn notification_to(&mut self, devices: &[Value]) -> String {
        let mut members = self.told();
        members.push(format!(r#""devices":{}"#, Value::from(devices)));
        self.object(members)
    }

    fn notification(&mut self, known: &Known) -> String {
        let mut members = self.told();
        let devices = match self.below(20) {
            0 => self.value(0),
            1 => "[]".to_owned(),
            2 => return self.object(members),
            _ => {
                let count = 1 + self.below(4);
                let devices: Vec<_> = (0..count).map(|_| self.device(known)).collect();
                format!("[{}]", devices.join(","))
            }
        };
        members.push(format!(r#""devices":{devices}"#));
        self.object(members)
    }

    /// Everything but the devices.
    fn told(&mut self) -> Vec<String> {
        let mut members = Vec::new();
        for (name, prefix) in [
            ("event_id", "$"),
            ("room_id", "!"),
            ("sender", "@"),
            ("sender_display_name", ""),
            ("room_name", ""),
            ("room_alias", "#"),
        ] {
            match self.below(10) {
                0 => {}
                1 => members.push(format!(r#""{name}":{}"#, self.value(0))),
                _ => members.push(format!(r#""{name}":"{prefix}{}""#, self.secret())),
            }
        }
        for (name, usual) in [
            (
                "type",
                [
                    r#""m.room.message""#,
                    r#""m.room.encrypted""#,
                    r#""m.call.invite""#,
                    r#""m.room.member""#,
                ]
                .as_slice(),
            ),
            ("prio", &[r#""high""#, r#""low""#]),
            ("membership", &[r#""invite""#, r#""join""#]),
            ("user_is_target", &["true", "false"]),
            (
                "counts",
                &[
                    r#"{"unread":1}"#,
                    r#"{"unread":9223372036854775807,"missed_calls":9223372036854775807}"#,
                    r#"{"unread":-99999999999999999999999}"#,
                    "{}",
                ],
            ),
        ] {
            match self.below(10) {
                0 | 1 => {}
                2 => members.push(format!(r#""{name}":{}"#, self.value(0))),
                _ => members.push(format!(r#""{name}":{}"#, self.one_of(usual))),
            }
        }
        match self.below(4) {
            0 => {}
            1 => members.push(format!(r#""content":{}"#, self.value(0))),
            _ => members.push(format!(
                r#""content":{{"msgtype":{},"body":{},"x":{}}}"#,
                self.one_of(&[r#""m.text""#, r#""m.image""#, r#""m.emote""#, "7"]),
                self.text(),
                self.value(1)
            )),
        }
        members
    }

    fn device(&mut self, known: &Known) -> String {
        let kind = self.one_of(&crate::gateway::TYPES.each_ref().map(|kind| *kind));
        let mode = self.one_of(&crate::gateway::MODES.each_ref().map(|mode| *mode));
        let app_id = match self.below(20) {
            0 => self.value(0),
            1 => format!(r#""{}""#, self.secret()),
            _ => format!(r#""{kind}.{mode}""#),
        };
        let pushkey = match (self.below(10), kind) {
            (0, _) => self.value(0),
            (1, _) => format!(r#""https://127.0.0.1:1/{}""#, self.secret()),
            (2..5, _) => format!(r#""{}""#, self.secret()),
            (_, "webpush") => format!(r#""{}""#, known.browser.p256dh),
            (_, "unifiedpush") => format!(r#""{}""#, known.phone.endpoint),
            (_, _) => format!(r#""{}""#, Self::token(self.number())),
        };
        let mut members = vec![
            format!(r#""app_id":{app_id}"#),
            format!(r#""pushkey":{pushkey}"#),
        ];
        match self.below(8) {
            0 => {}
            1 => members.push(format!(r#""data":{}"#, self.value(0))),
            2 => members.push(format!(
                r#""data":{{"default_payload":{},"nocturne":{}}}"#,
                self.value(0),
                self.value(0)
            )),
            _ => members.push(format!(
                r#""data":{{"endpoint":"{}","auth":"{}","default_payload":{},"only_last_per_room":true}}"#,
                known.browser.endpoint,
                known.browser.auth,
                self.one_of(&[r#"{"aps":{"alert":{"body":"x"}}}"#, r#"{"aps":7}"#, "{}"]),
            )),
        }
        for name in ["pushkey_ts", "tweaks"] {
            if self.chance(20) {
                members.push(format!(r#""{name}":{}"#, self.value(0)));
            }
        }
        self.object(members)
    }

    /// An APNs device token in base64 that is also a plausible FCM token.
    pub(crate) fn token(number: u64) -> String {
        format!("{number:032x}{:032x}", number.rotate_left(17))
    }

    /// Any JSON value, and some that are none.
    fn value(&mut self, depth: usize) -> String {
        match self.below(if depth > 4 { 12 } else { 16 }) {
            0 => "null".to_owned(),
            1 => self.one_of(&["true", "false"]).to_owned(),
            2 => self.number().to_string(),
            3 => self
                .one_of(&[
                    "0",
                    "-0",
                    "-1",
                    "1.5",
                    "1e5",
                    "-1E-400",
                    "1e999",
                    "1e-999",
                    "0.1e1",
                    "18446744073709551616",
                    "-9223372036854775809",
                    "1234567890123456789012345678901234567890",
                ])
                .to_owned(),
            4 => self
                .one_of(&["NaN", "Infinity", "-Infinity", "01", "+1", "0x1", "'a'", ""])
                .to_owned(),
            5..12 => self.text(),
            12 | 13 => {
                let count = self.below(5);
                let values: Vec<_> = (0..count).map(|_| self.value(depth + 1)).collect();
                format!("[{}]", values.join(","))
            }
            _ => {
                let count = self.below(5);
                let members = (0..count)
                    .map(|_| format!("{}:{}", self.name(), self.value(depth + 1)))
                    .collect();
                self.object(members)
            }
        }
    }

    /// The members in some order, now and then with one of them twice.
    fn object(&mut self, mut members: Vec<String>) -> String {
        for place in (1..members.len()).rev() {
            members.swap(place, self.below(place + 1));
        }
        if !members.is_empty() && self.chance(5) {
            members.push(members[self.below(members.len())].clone());
        }
        format!("{{{}}}", members.join(","))
    }

    fn name(&mut self) -> String {
        match self.below(8) {
            0 => r#""$serde_json::private::Number""#.to_owned(),
            1 => r#""$serde_json::private::RawValue""#.to_owned(),
            2 => self.text(),
            _ => format!(
                r#""{}""#,
                self.one_of(&[
                    "aps", "alert", "loc-args", "body", "v", "secret", "p256dh", "auth",
                    "google.x", "from", "nocturne"
                ])
            ),
        }
    }

    fn text(&mut self) -> String {
        match self.below(12) {
            0 => r#""""#.to_owned(),
            1 => r#""\ud800""#.to_owned(),
            2 => r#""\udc00\ud800x""#.to_owned(),
            3 => r#""\u0000\u001f\"\\\/\u2028""#.to_owned(),
            4 => format!(r#""{}""#, "é💥\u{301}".repeat(self.below(700))),
            5 => format!(r#""{}""#, r"\u0001".repeat(self.below(1500))),
            6 => format!(r#""{}{}""#, self.secret(), "x".repeat(self.below(6000))),
            7 => format!(r#""{} \r\nx: {}""#, self.secret(), self.secret()),
            _ => format!(r#""{}""#, self.secret()),
        }
    }

    /// Nested deeper than anybody needs.
    fn deep(&mut self) -> String {
        let depth = self.one_of(&[&100, &126, &127, &128, &130, &1000, &60_000]);
        let (open, close) = self.one_of(&[&("[", "]"), &(r#"{"a":"#, "}")]);
        format!(
            r#"{{"notification":{{"content":{}1{},"devices":[{{"app_id":"gcm.sygnal","pushkey":"k"}}]}}}}"#,
            open.repeat(*depth),
            close.repeat(*depth)
        )
    }

    /// As many devices as a body holds.
    fn crowd(&mut self) -> String {
        let kind = self.one_of(&["apns.sygnal", "gcm.opaque", "unifiedpush.wake", "nobody"]);
        let count = self.one_of(&[&64, &700, &8000]);
        let devices: Vec<_> = (0..*count)
            .map(|number| format!(r#"{{"app_id":"{kind}","pushkey":"{number}"}}"#))
            .collect();
        format!(
            r#"{{"notification":{{"event_id":"${}","devices":[{}]}}}}"#,
            self.secret(),
            devices.join(",")
        )
    }

    /// Half a megabyte of one thing.
    fn heavy(&mut self) -> String {
        let unit = self.one_of(&[
            "0,",
            "[],",
            "{},",
            r#""","#,
            r#"{"a":0},"#,
            "x",
            "\u{1f4a5}",
            r"\u0000",
        ]);
        let filling = unit.repeat(500 * 1024 / unit.len());
        let value = if unit.ends_with(',') {
            format!("[{filling}0]")
        } else {
            format!(r#""{filling}""#)
        };
        let place = self.one_of(&[
            "content",
            "event_id",
            "room_id",
            "sender",
            "room_name",
            "ignored",
        ]);
        let devices =
            r#"[{"app_id":"apns.sygnal","pushkey":"k"},{"app_id":"gcm.sygnal","pushkey":"k"}]"#;
        format!(
            r#"{{"notification":{{"type":"m.room.message","{place}":{value},"devices":{devices}}}}}"#
        )
    }
}
