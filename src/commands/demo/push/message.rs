//! What happens on the homeserver: three messages in two of a user's rooms, and what in them identifies
//! somebody.

use serde_json::{Value, json};
use stand_ins::homeserver;

use crate::commands::demo::search::Trace;

/// The homeserver that the story happens on.
const HOMESERVER: &str = "clinic.example";
const TYPE: &str = "m.room.message";
/// What Element for iOS puts into its pushers, so that it knows for which account a push is.
const ACCOUNT_TAG: &str = "qyD7rPzGm3Vx0eLkTfUwNs5hJbYc2A";
const ACCOUNT_TAG_MEMBER: &str = "pusher_notification_client_identifier";

/// A message that a homeserver tells the gateway about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    event_id: &'static str,
    room_id: &'static str,
    unread: u64,
    /// What is told besides, unless the pusher has the format `event_id_only`.
    details: Option<Details>,
}

#[derive(Clone, Copy, Debug)]
struct Details {
    sender: &'static str,
    sender_name: &'static str,
    room_name: &'static str,
    text: &'static str,
}

/// Something about a message that identifies people, or what they talk about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    EventId,
    RoomId,
    Homeserver,
    Type,
    Sender,
    SenderName,
    RoomName,
    Text,
    Unread,
    AccountTag,
}

/// A message of the room, in the format `event_id_only`.
pub(super) const BRIEF: Message = Message {
    event_id: "$Kq7mZ2vXc0pRtYb4LwHn8sUe1aFd5gJo6iNz3xPyQkE",
    room_id: "!jWqXmTzLkYhRvPcBnD:clinic.example",
    unread: 36,
    details: None,
};

/// A message of another room.
pub(super) const ELSEWHERE: Message = Message {
    event_id: "$8uYt2RbVw5Xc0ZsQm7NkLp1oIj4HgFd9aEe6rTiUySg",
    room_id: "!hBsQpZrGxLwKyMtVdN:clinic.example",
    unread: 37,
    details: Some(Details {
        sender: "@nadia.berg:clinic.example",
        sender_name: "Nadia Berg",
        room_name: "Allotment neighbours",
        text: "Whoever was last in the shed: the key is missing again. Please look in your pockets, all of you!",
    }),
};

/// Another message of the first room, with everything that a homeserver can tell.
pub(super) const FULL: Message = Message {
    event_id: "$3nVx9KsRe7QmLp0ZtWc5YhUb2GfJd8AoIi1vXwTqMkE",
    room_id: BRIEF.room_id,
    unread: 38,
    details: Some(Details {
        sender: "@amara.okafor:clinic.example",
        sender_name: "Dr. Amara Okafor",
        room_name: "Oncology follow-up",
        text: "Your results are back. Can you come on Thursday?",
    }),
};

/// All messages in the order in which they are sent. The two of one room have another one between them.
pub(super) const STORY: [Message; 3] = [BRIEF, ELSEWHERE, FULL];

/// A room that the user is in, as the app on the device knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    /// What the app finds in the room when it synchronises it.
    pub(super) events: &'static [&'static str],
}

/// All rooms of the user; the messages come in the first two.
pub(super) const ROOMS: [Room; 5] = [
    Room {
        id: BRIEF.room_id,
        name: "Oncology follow-up",
        events: &[
            "$Zr0pLx8Tn4VbQc6WmYkJd2HsGf9AuEi7oX1tNvKqB3M",
            BRIEF.event_id,
            FULL.event_id,
        ],
    },
    Room {
        id: ELSEWHERE.room_id,
        name: "Allotment neighbours",
        events: &[
            "$5mQeTy1UiOp7AsDf3GhJk9LzXc2VbNm8WrRt4YqZx6E",
            ELSEWHERE.event_id,
        ],
    },
    Room {
        id: "!yTzKwQnMbVcXlRpSdF:clinic.example",
        name: "Family",
        events: &["$a7SdF2gHj9KlZx4CvBn1Mq6WeRt8YuIo3PpLkJhGfDs"],
    },
    Room {
        id: "!dGkRmWtYpNqLxZvBhJ:clinic.example",
        name: "Choir",
        events: &["$b3NmK8jHg5FdSa1PoIu7YtRe2WqZx9CvLl4XkJmQnBw"],
    },
    Room {
        id: "!vLsXcMfKjTrWbQnZpH:other.example",
        name: "Announcements",
        events: &["$c9VbT4xZq1LkJh6GfDs3PoIu8YtRe5WqMm2NnBvXcAz"],
    },
];

impl Message {
    /// The body that Synapse posts for a device.
    pub(super) fn notification(&self, device: &Value) -> Value {
        let Some(details) = self.details else {
            return homeserver::synapse_event_id_only(
                self.event_id,
                self.room_id,
                self.unread,
                device,
            );
        };
        let content = json!({"msgtype": "m.text", "body": details.text});
        let mut body = homeserver::synapse_full(
            self.event_id,
            self.room_id,
            details.sender,
            &content,
            device,
        );
        let notification = &mut body["notification"];
        notification["type"] = json!(TYPE);
        notification["sender_display_name"] = json!(details.sender_name);
        notification["room_name"] = json!(details.room_name);
        notification["counts"] = json!({"unread": self.unread});
        body
    }

    /// The unread count.
    pub(super) const fn unread(&self) -> u64 {
        self.unread
    }

    /// The event ID and the room ID.
    pub(super) const fn ids(&self) -> (&'static str, &'static str) {
        (self.event_id, self.room_id)
    }
}

/// What every pusher of the story has in its `data`.
pub(super) fn default_payload() -> Value {
    json!({ACCOUNT_TAG_MEMBER: ACCOUNT_TAG})
}

impl Fact {
    /// All of them.
    pub(super) const ALL: [Self; 10] = [
        Self::EventId,
        Self::RoomId,
        Self::Homeserver,
        Self::Type,
        Self::Sender,
        Self::SenderName,
        Self::RoomName,
        Self::Text,
        Self::Unread,
        Self::AccountTag,
    ];

    /// What a person calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::EventId => "event ID",
            Self::RoomId => "room ID",
            Self::Homeserver => "homeserver",
            Self::Type => "event type",
            Self::Sender => "sender",
            Self::SenderName => "sender's name",
            Self::RoomName => "room's name",
            Self::Text => "message text",
            Self::Unread => "unread count",
            Self::AccountTag => "account tag",
        }
    }

    /// Where it is in the notification; none: it is a part of other members.
    pub(super) const fn member(self) -> Option<&'static str> {
        match self {
            Self::EventId => Some("event_id"),
            Self::RoomId => Some("room_id"),
            Self::Homeserver => None,
            Self::Type => Some("type"),
            Self::Sender => Some("sender"),
            Self::SenderName => Some("sender_display_name"),
            Self::RoomName => Some("room_name"),
            Self::Text => Some("content.body"),
            Self::Unread => Some("counts.unread"),
            Self::AccountTag => Some("default_payload"),
        }
    }

    /// What it is in a message; none: the message does not have it.
    pub(super) fn value(self, message: &Message) -> Option<String> {
        let details = message.details;
        let text = match self {
            Self::EventId => Some(message.event_id),
            Self::RoomId => Some(message.room_id),
            Self::Homeserver => Some(HOMESERVER),
            Self::Type => details.map(|_| TYPE),
            Self::Sender => details.map(|details| details.sender),
            Self::SenderName => details.map(|details| details.sender_name),
            Self::RoomName => details.map(|details| details.room_name),
            Self::Text => details.map(|details| details.text),
            Self::AccountTag => Some(ACCOUNT_TAG),
            Self::Unread => return Some(message.unread.to_string()),
        };
        text.map(ToOwned::to_owned)
    }

    /// What gives it away in what a provider sees: any one of these.
    pub(super) fn traces(self, message: &Message) -> Vec<Trace> {
        let Some(value) = self.value(message) else {
            return Vec::new();
        };
        let (local, _) = value.split_once(':').unwrap_or((&value, ""));
        match self {
            // without the sign at the front and the homeserver at the end
            Self::EventId | Self::RoomId | Self::Sender => {
                vec![Trace::Text(local.chars().skip(1).collect())]
            }
            // a shortened text is one, too
            Self::Text => {
                let words: Vec<_> = value.split(' ').collect();
                words
                    .chunks(3)
                    .map(|words| Trace::Text(words.join(" ")))
                    .collect()
            }
            Self::Unread => vec![Trace::Number(message.unread)],
            Self::Homeserver
            | Self::Type
            | Self::SenderName
            | Self::RoomName
            | Self::AccountTag => {
                vec![Trace::Text(value)]
            }
        }
    }
}
