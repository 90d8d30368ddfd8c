//! A homeserver's side of the Client-Server API, as far as somebody asks it whose an access token is:
//! `GET /_matrix/client/v3/account/whoami`, with the answers that Synapse gives.
//!
//! Documented in the specification's "Client Authentication" and "Current account information".

use std::{
    collections::HashMap,
    fmt, io,
    ops::Deref,
    sync::{Arc, Mutex},
};

use http::{Method, header};
use serde_json::{Value, json};

use crate::{
    Authority,
    reply::Reply,
    server::{Arrived, Rules, Server, Verdict},
    support::{lock, random_name},
};

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

/// A stand-in for a homeserver. What it was asked is in [`Server::seen`], `device` being the user ID;
/// [`Server::queue`], [`Server::set_delay`], [`Server::hold`] and [`Server::stop`] make it talk nonsense, slow
/// or be gone.
#[derive(Debug)]
pub struct ClientServer {
    server: Server,
    rules: Arc<Sessions>,
}

#[derive(Default)]
struct Sessions {
    by_token: Mutex<HashMap<String, Session>>,
}

#[derive(Clone)]
struct Session {
    user: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Account,
    Guest,
    /// An application service's token, for any user that it names.
    Bridge,
    /// The token has to be renewed.
    Expired,
}

impl ClientServer {
    /// Starts it without any users; `alpn` is what it speaks, such as `http/1.1`.
    pub async fn start(authority: &Authority, alpn: &[&[u8]]) -> io::Result<Self> {
        let tls = authority.server_config(&[], alpn)?;
        let rules = Arc::new(Sessions::default());
        let server = Server::start(tls, |_| Box::new(Arc::clone(&rules))).await?;
        Ok(Self { server, rules })
    }

    /// A new access token for a user.
    #[must_use]
    pub fn log_in(&self, user: &str) -> String {
        self.open(user, Kind::Account)
    }

    /// A new access token for a guest.
    #[must_use]
    pub fn log_in_guest(&self, user: &str) -> String {
        self.open(user, Kind::Guest)
    }

    /// The access token of an application service, which may speak for any user.
    #[must_use]
    pub fn register_bridge(&self, user: &str) -> String {
        self.open(user, Kind::Bridge)
    }

    /// Ends a session.
    pub fn log_out(&self, token: &str) {
        lock(&self.rules.by_token).remove(token);
    }

    /// Lets an access token run out, while its session goes on (a soft logout).
    pub fn expire(&self, token: &str) {
        if let Some(session) = lock(&self.rules.by_token).get_mut(token) {
            session.kind = Kind::Expired;
        }
    }

    fn open(&self, user: &str, kind: Kind) -> String {
        let token = format!("syt_{}", random_name());
        let session = Session {
            user: user.to_owned(),
            kind,
        };
        lock(&self.rules.by_token).insert(token.clone(), session);
        token
    }
}

impl Deref for ClientServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Rules for Arc<Sessions> {
    fn judge(&self, request: &Arrived) -> Verdict {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        if path != WHOAMI || request.method != Method::GET {
            let reply = error(404, "M_UNRECOGNIZED", "Unrecognized request");
            return Verdict::refused(reply, "", "no such path");
        }
        let token = request
            .headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let Some(token) = token else {
            let reply = error(401, "M_MISSING_TOKEN", "Missing access token");
            return Verdict::refused(reply, "", "no access token");
        };
        let session = lock(&self.by_token).get(token).cloned();
        let unknown = |error: &str, soft_logout| {
            let body =
                json!({"errcode": "M_UNKNOWN_TOKEN", "error": error, "soft_logout": soft_logout});
            Verdict::refused(Reply::json(401, &body), "", "not a good access token")
        };
        let Some(Session { user, kind }) = session else {
            return unknown("Invalid access token passed.", false);
        };
        let asserted = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("user_id="));
        let user = match (kind, asserted) {
            (Kind::Expired, _) => return unknown("Access token has expired", true),
            (Kind::Bridge, Some(user)) => user.replace("%40", "@").replace("%3A", ":"),
            (Kind::Account | Kind::Guest | Kind::Bridge, _) => user,
        };
        let body = json!({
            "user_id": user,
            "is_guest": kind == Kind::Guest,
            "device_id": "ASTANDIN",
        });
        Verdict::accepted(Reply::json(200, &body), user)
    }
}

fn error(status: u16, errcode: &str, text: &str) -> Reply {
    let body: Value = json!({"errcode": errcode, "error": text});
    Reply::json(status, &body)
}

impl fmt::Debug for Sessions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Sessions")
    }
}
