//! The app on a device: what it registers so that its pushes mean something to it alone, and what it
//! makes of them. It knows its keys, its rooms and what arrives, nothing else.

use std::io;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use stand_ins::{DeviceKeys, TagSecret};

use super::message::{ROOMS, Room};

/// What the app keeps on the device.
#[derive(Debug)]
pub(super) enum Phone {
    /// No keys.
    Plain,
    /// The secret for tags.
    Tags(TagSecret),
    /// The keys for sealed blobs.
    Blobs(DeviceKeys),
}

/// What the app found out from one push.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// The rooms that `r` is the tag of.
    pub(super) rooms: Vec<Room>,
    /// The events of these rooms that `e` is the tag of.
    pub(super) events: Vec<&'static str>,
    /// What was sealed in `p`.
    pub(super) opened: Option<Vec<u8>>,
}

impl Phone {
    pub(super) fn with_tags() -> Self {
        Self::Tags(TagSecret::generate())
    }

    pub(super) fn with_blobs() -> io::Result<Self> {
        DeviceKeys::generate().map(Self::Blobs)
    }

    /// What the app puts into its pusher's `data` as `nocturne`.
    pub(super) fn registers(&self) -> Option<Value> {
        match self {
            Self::Plain => None,
            Self::Tags(secret) => Some(json!({"v": 1, "secret": secret.secret()})),
            Self::Blobs(keys) => {
                Some(json!({"v": 1, "p256dh": keys.p256dh(), "auth": keys.auth()}))
            }
        }
    }

    /// Reads what the provider handed on: the members of a push beside `aps`, or its `data`.
    pub(super) fn read(&self, push: &Value) -> Found {
        let member = |name: &str| push[name].as_str().unwrap_or_default();
        match self {
            Self::Plain => Found::default(),
            Self::Tags(secret) => {
                let (n, r, e) = (member("n"), member("r"), member("e"));
                let is_room = |room: &Room| secret.room(n, room.id).as_deref() == Some(r);
                let rooms: Vec<_> = ROOMS.into_iter().filter(is_room).collect();
                // the app synchronises the room, and then knows its events
                let is_event = |event: &&str| secret.event(n, event).as_deref() == Some(e);
                let events = rooms.iter().flat_map(|room| room.events).copied();
                Found {
                    events: events.filter(is_event).collect(),
                    rooms,
                    opened: None,
                }
            }
            Self::Blobs(keys) => Found {
                opened: URL_SAFE_NO_PAD
                    .decode(member("p"))
                    .ok()
                    .and_then(|sealed| keys.open(&sealed).ok()),
                ..Found::default()
            },
        }
    }
}
