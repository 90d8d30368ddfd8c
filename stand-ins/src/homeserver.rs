//! A homeserver's side of the Push Gateway API: the bodies that homeservers send, and a client that
//! sends them.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::other;

/// Where notifications are posted.
pub const NOTIFY_PATH: &str = "/_matrix/push/v1/notify";

/// A client of one gateway; every request has a connection of its own.
#[derive(Clone, Copy, Debug)]
pub struct Homeserver {
    gateway: SocketAddr,
}

/// What the gateway answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Homeserver {
    /// A client of the gateway at this address.
    #[must_use]
    pub const fn new(gateway: SocketAddr) -> Self {
        Self { gateway }
    }

    /// Posts a notification.
    pub async fn notify(&self, body: &Value) -> io::Result<Answer> {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/json"),
        );
        let body = Bytes::from(body.to_string());
        self.request(Method::POST, NOTIFY_PATH, headers, body).await
    }

    /// Sends any request.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> io::Result<Answer> {
        let stream = TcpStream::connect(self.gateway).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(other)?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.gateway.to_string())
            .body(Full::new(body))
            .map_err(other)?;
        request.headers_mut().extend(headers);
        // ends with the sender; what goes wrong is told to the exchange below
        tokio::spawn(connection);
        let (head, body) = sender
            .send_request(request)
            .await
            .map_err(other)?
            .into_parts();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.collect().await.map_err(other)?.to_bytes(),
        })
    }
}

impl Answer {
    /// The body as JSON; null if it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The rejected pushkeys; none if the answer is not what the specification asks for.
    #[must_use]
    pub fn rejected(&self) -> Option<Vec<String>> {
        if self.status != StatusCode::OK {
            return None;
        }
        self.json()
            .get("rejected")?
            .as_array()?
            .iter()
            .map(|pushkey| pushkey.as_str().map(ToOwned::to_owned))
            .collect()
    }
}

/// A device without `data`.
#[must_use]
pub fn device(app_id: &str, pushkey: &str) -> Value {
    json!({ "app_id": app_id, "pushkey": pushkey, "pushkey_ts": 42, "tweaks": {} })
}

/// A device with `data`.
#[must_use]
pub fn device_with(app_id: &str, pushkey: &str, data: Value) -> Value {
    let mut device = device(app_id, pushkey);
    device["data"] = data;
    device
}

/// Sygnal's fixture with everything in it.
#[must_use]
pub fn dummy(devices: &[Value]) -> Value {
    json!({ "notification": {
        "id": "$3957tyerfgewrf384",
        "event_id": "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs",
        "room_id": "!slw48wfj34rtnrf:example.com",
        "type": "m.room.message",
        "sender": "@exampleuser:matrix.org",
        "sender_display_name": "Major Tom",
        "room_name": "Mission Control",
        "room_alias": "#exampleroom:matrix.org",
        "prio": "high",
        "content": {
            "msgtype": "m.text",
            "body": "I'm floating in a most peculiar way.",
            "other": 1,
        },
        "counts": { "unread": 2, "missed_calls": 1 },
        "devices": devices,
    }})
}

/// Sygnal's fixture of a push of the format `event_id_only`.
#[must_use]
pub fn event_id_only(devices: &[Value]) -> Value {
    json!({ "notification": {
        "room_id": "!slw48wfj34rtnrf:example.com",
        "event_id": "$qTOWWTEL48yPm3uT-gdNhFcoHxfKbZuqRVnnWWSkGBs",
        "counts": { "unread": 2 },
        "devices": devices,
    }})
}

/// Sygnal's fixture of a push that has only a count.
#[must_use]
pub fn badge_only(devices: &[Value]) -> Value {
    json!({ "notification": {
        "id": "",
        "type": null,
        "sender": "",
        "counts": { "unread": 2 },
        "devices": devices,
    }})
}

/// Like Sygnal's fixture with members that have to be cut: a room name of 2050 characters, and a
/// text member of `content` with characters of several bytes on both sides of byte 1020.
#[must_use]
pub fn large_fields(devices: &[Value]) -> Value {
    let mut body = dummy(devices);
    body["notification"]["room_name"] = Value::from("xxxxxxxx".repeat(256) + "xx");
    // byte 1021 is inside the first of the characters of four bytes
    let other = format!("{}{}{}", "x".repeat(1019), "🎉🎉🎉", "y".repeat(400));
    body["notification"]["content"]["other"] = Value::from(other);
    body
}

/// What Synapse sends for an event to a pusher of the format `event_id_only`.
#[must_use]
pub fn synapse_event_id_only(event_id: &str, room_id: &str, unread: u64, device: &Value) -> Value {
    let mut device = device.clone();
    if let Some(device) = device.as_object_mut() {
        device.remove("tweaks");
    }
    json!({ "notification": {
        "event_id": event_id,
        "room_id": room_id,
        "counts": { "unread": unread },
        "prio": "high",
        "devices": [device],
    }})
}

/// What Synapse sends for an event to a pusher without a format.
#[must_use]
pub fn synapse_full(
    event_id: &str,
    room_id: &str,
    sender: &str,
    content: &Value,
    device: &Value,
) -> Value {
    json!({ "notification": {
        "id": event_id,
        "event_id": event_id,
        "room_id": room_id,
        "type": "m.room.message",
        "sender": sender,
        "prio": "high",
        "counts": { "unread": 1 },
        "sender_display_name": "Major Tom",
        "room_name": "Mission Control",
        "content": content,
        "devices": [device],
    }})
}

/// What Synapse sends when messages were read.
#[must_use]
pub fn synapse_badge(unread: u64, device: &Value) -> Value {
    let mut device = device.clone();
    if let Some(device) = device.as_object_mut() {
        device.remove("tweaks");
    }
    json!({ "notification": {
        "id": "",
        "type": null,
        "sender": "",
        "counts": { "unread": unread },
        "devices": [device],
    }})
}
