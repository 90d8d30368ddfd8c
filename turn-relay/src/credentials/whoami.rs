//! Whose an access token is: one question to the homeserver for every request.
//!
//! Nothing is remembered, so that a token that was logged out is refused at once. The question is passed on as
//! the client asked, with its address and its program, as a reverse proxy would: the homeserver writes both
//! beside the session, and its user would take this service for a stranger otherwise.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use serde_json::Value;
use shared::http_client::{self, ClientConfig, ErrorKind, HttpClient, Origin, Response, Versions};
use url::Url;
use zeroize::Zeroizing;

use super::{
    World,
    limits::{FORWARDED_FOR, Trust},
};

const PATH: &str = "/_matrix/client/v3/account/whoami";
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Questions under way at once; over HTTP/2 the homeserver's own limit counts.
const CONNECTIONS: usize = 64;
/// TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is read.
const MAX_ANSWER: usize = 16 * 1024;
/// A user ID has 255 bytes at the most; some old ones are longer.
const MAX_USER_ID: usize = 1024;

/// The homeserver, with the connections to it.
pub(super) struct Homeserver {
    client: HttpClient,
    origin: Origin,
    whoami: String,
    deadline: Duration,
}

/// What is asked.
pub(super) struct Question<'a> {
    /// `Authorization`, with the token.
    pub(super) authorization: HeaderValue,
    /// The query's parameter `user_id`, still percent-encoded: an application service speaks for one of its
    /// users.
    pub(super) user_id: Option<&'a str>,
    /// The headers of the request that the question is asked for.
    pub(super) headers: &'a HeaderMap,
    /// Whether those that name the client are a proxy's.
    pub(super) trust: Trust,
    /// The address that the request came from.
    pub(super) peer: Option<std::net::IpAddr>,
}

/// Whose a token is.
pub(super) struct User {
    /// For hashing alone.
    pub(super) id: Zeroizing<String>,
    pub(super) is_guest: bool,
}

/// Why there is no user.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The token is not good: the homeserver's answer, a Matrix error of status 401.
    Unauthorized(Bytes),
    /// Too many questions: the homeserver's answer, a Matrix error of status 429, and its `Retry-After`.
    Limited(Bytes, Option<HeaderValue>),
    /// The homeserver cannot be reached.
    Unreachable(String),
    /// It did not answer in time.
    Slow,
    /// It answered something else.
    Nonsense(String),
}

impl Homeserver {
    pub(super) fn new(url: &Url, deadline: Duration, world: &World) -> Result<Self, String> {
        let client = HttpClient::new(ClientConfig {
            roots: world.roots.clone(),
            identity: None,
            proxy: None,
            no_proxy: None,
            versions: Versions::Http2Or1,
            policy: None,
            connect_timeout: CONNECT_TIMEOUT.min(deadline),
            max_connections: CONNECTIONS,
            max_response_body: MAX_ANSWER,
        });
        let whoami = format!("{}{PATH}", url.as_str().trim_end_matches('/'));
        let origin = client.and_then(|client| {
            let uri = whoami.parse::<Uri>().unwrap_or_default();
            let origin = client.origin(&uri)?;
            Ok((client, origin))
        });
        let (client, origin) =
            origin.map_err(|error| format!("credentials.homeserver: {error}"))?;
        Ok(Self {
            client,
            origin,
            whoami,
            deadline,
        })
    }

    pub(super) fn close_idle(&self) {
        self.client.close_idle();
    }

    /// Asks the homeserver.
    pub(super) async fn ask(&self, question: Question<'_>, world: &World) -> Result<User, Refusal> {
        let request = self.request(question).ok_or_else(|| {
            Refusal::Nonsense("the request for it cannot be put into words".to_owned())
        })?;
        let began = world.clock.now();
        let mut answer = self
            .origin
            .send(request.clone(), began + self.deadline)
            .await;
        // A connection that was kept may be closed at the very moment when it is used again.
        if answer
            .as_ref()
            .is_err_and(|error| error.kind == ErrorKind::Closed)
        {
            answer = self.origin.send(request, began + self.deadline).await;
        }
        let took = world.clock.now().saturating_duration_since(began);
        world.metrics.asked_homeserver(took);
        understand(answer)
    }

    fn request(&self, question: Question<'_>) -> Option<Request<Bytes>> {
        let uri = match question.user_id {
            Some(user_id) => format!("{}?user_id={user_id}", self.whoami),
            None => self.whoami.clone(),
        };
        let mut request = Request::get(uri).body(Bytes::new()).ok()?;
        let headers = request.headers_mut();
        headers.insert(header::AUTHORIZATION, question.authorization);
        if let Some(program) = question.headers.get(header::USER_AGENT) {
            headers.insert(header::USER_AGENT, program.clone());
        }
        match (question.trust, question.peer) {
            (Trust::Proxy, _) => {
                for name in [FORWARDED_FOR, FORWARDED_PROTO] {
                    for value in question.headers.get_all(&name) {
                        headers.append(&name, value.clone());
                    }
                }
            }
            (Trust::Nobody, Some(peer)) => {
                let value = HeaderValue::from_str(&peer.to_canonical().to_string()).ok()?;
                headers.insert(FORWARDED_FOR, value);
            }
            (Trust::Nobody, None) => {}
        }
        Some(request)
    }
}

/// What an answer means.
///
/// | answer | means |
/// |---|---|
/// | 200 with `user_id` | a user; a guest, if `is_guest` is true |
/// | 401, a Matrix error | the token is not good; passed on as it is |
/// | 429, a Matrix error | passed on as it is |
/// | no connection, or one that broke off | 502 |
/// | nothing in time | 502 |
/// | anything else | 502: clients end the session on a 401 and give up on a 403, and what is wrong may pass |
fn understand(answer: Result<Response, http_client::Error>) -> Result<User, Refusal> {
    let answer = answer.map_err(|error| match error.kind {
        ErrorKind::Timeout => Refusal::Slow,
        ErrorKind::Protocol => Refusal::Nonsense(error.detail),
        ErrorKind::Dns
        | ErrorKind::Denied
        | ErrorKind::Connect
        | ErrorKind::Proxy
        | ErrorKind::Tls
        | ErrorKind::Closed => Refusal::Unreachable(error.detail),
    })?;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let is_matrix_error = body.get("errcode").is_some_and(Value::is_string);
    match answer.status {
        StatusCode::OK => user(&body).ok_or_else(|| {
            Refusal::Nonsense("a 200 that does not say whose the token is".to_owned())
        }),
        StatusCode::UNAUTHORIZED if is_matrix_error => Err(Refusal::Unauthorized(answer.body)),
        StatusCode::TOO_MANY_REQUESTS if is_matrix_error => Err(Refusal::Limited(
            answer.body,
            answer.headers.get(header::RETRY_AFTER).cloned(),
        )),
        status => Err(Refusal::Nonsense(format!("a status of {status}"))),
    }
}

fn user(body: &Value) -> Option<User> {
    let id = body.get("user_id")?.as_str()?;
    let is_user_id = id.starts_with('@') && id.contains(':') && id.len() <= MAX_USER_ID;
    let is_guest = body.get("is_guest").map_or(Some(false), Value::as_bool)?;
    is_user_id.then(|| User {
        id: Zeroizing::new(id.to_owned()),
        is_guest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Response {
        Response {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from(body.to_owned()),
        }
    }

    #[test]
    fn a_user_is_told_from_a_guest() {
        for (body, is_guest) in [
            (r#"{"user_id":"@a:b"}"#, false),
            (
                r#"{"user_id":"@a:b","is_guest":false,"device_id":"D"}"#,
                false,
            ),
            (r#"{"user_id":"@a:b","is_guest":true}"#, true),
        ] {
            let user = understand(Ok(answer(200, body))).unwrap();
            assert_eq!(*user.id, "@a:b");
            assert_eq!(user.is_guest, is_guest, "{body}");
        }
    }

    #[test]
    fn only_a_matrix_error_ends_a_session() {
        let error = r#"{"errcode":"M_UNKNOWN_TOKEN","error":"x","soft_logout":true}"#;
        let refusal = understand(Ok(answer(401, error))).err();
        assert!(
            matches!(&refusal, Some(Refusal::Unauthorized(body)) if body == error),
            "{refusal:?}"
        );
        let refusal = understand(Ok(answer(429, error))).err();
        assert!(matches!(refusal, Some(Refusal::Limited(..))), "{refusal:?}");
        for (status, body) in [
            (401, "<html>"),
            (401, r#"{"errcode":7}"#),
            (403, error),
            (404, error),
            (429, ""),
            (500, error),
            (200, error),
            (200, r#"{"user_id":"@a:b","is_guest":1}"#),
            (200, r#"["@a:b"]"#),
        ] {
            let refusal = understand(Ok(answer(status, body))).err();
            assert!(
                matches!(refusal, Some(Refusal::Nonsense(_))),
                "{status} {body}: {refusal:?}"
            );
        }
    }
}
