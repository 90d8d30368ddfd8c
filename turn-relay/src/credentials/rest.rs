//! `/turn/credentials`: credentials for services that have an API key (draft-uberti-behave-turn-rest-00 §2).
//!
//! For servers, not for browsers: a key in a web page is everybody's, so there are no CORS headers.

use std::time::Duration;

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
    routing::any,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use http_body_util::{BodyExt as _, Limited};
use shared::{http_server::Peer, secret::Secret};
use tracing::debug;
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::{
    Service,
    limits::Source,
    metrics::{Outcome, Route},
    names::{self, Who},
    reply::{after, error, json},
};

const PATH: &str = "/turn/credentials";

/// A form with all parameters, generously.
const MAX_BODY: usize = 8 * 1024;
const BODY_TIME: Duration = Duration::from_secs(10);
/// Bytes of `username`.
const MAX_USERNAME: usize = 255;

/// Where keys are looked for by those who do not find the right place.
const OTHER_HEADERS: [&str; 3] = ["X-API-Key", "API-Key", "X-Auth-Token"];
const OTHER_PARAMETERS: [&str; 7] = [
    "api",
    "api_key",
    "apikey",
    "token",
    "access_token",
    "secret",
    "password",
];

const PLACES: &str = "as `Authorization: Bearer KEY` or as the parameter `key`";

/// The API keys, as what they hash to with a key of this process.
pub(super) struct ApiKeys {
    hash: hmac::Key,
    known: Vec<[u8; 32]>,
}

/// The parameters, from the query and from a form.
#[derive(Default)]
struct Parameters {
    service: Option<String>,
    username: Option<String>,
    keys: Vec<Zeroizing<String>>,
    /// One of [`OTHER_PARAMETERS`] that was there.
    other: Option<&'static str>,
}

pub(super) fn routes() -> Router<Service> {
    Router::new().route(PATH, any(credentials))
}

async fn credentials(State(service): State<Service>, request: Request) -> Response {
    let (outcome, response) = answer(&service, request).await;
    service.0.world.metrics.count(Route::Rest, outcome);
    debug!(
        route = Route::Rest.label(),
        result = outcome.label(),
        "asked for credentials"
    );
    response
}

async fn answer(service: &Service, request: Request) -> (Outcome, Response) {
    let (head, body) = request.into_parts();
    let bad = |status, text: &str| (Outcome::BadRequest, error(status, text));
    let mut parameters = Parameters::default();
    parameters.read(head.uri.query().unwrap_or_default().as_bytes());
    match head.method {
        Method::GET | Method::HEAD => {}
        Method::POST => match form(&head.headers, body).await {
            Ok(form) => parameters.read(&form),
            Err(response) => return (Outcome::BadRequest, response),
        },
        _ => {
            let (outcome, mut response) = bad(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path answers to GET and POST",
            );
            response
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
            return (outcome, response);
        }
    }
    let state = service.state();
    let world = &service.0.world;
    let peer = head.extensions.get::<Peer>();
    let source = Source::of(peer, &head.headers, &state.trusted_proxies);
    let now = world.clock.now();
    if let Err(wait) = service.0.limits.may_show_key(source, now) {
        let response = error(
            StatusCode::TOO_MANY_REQUESTS,
            "too many requests without a good API key",
        );
        return (Outcome::Limited, after(response, wait));
    }
    let Some(key) = state.api_keys.find_in(&head, &parameters) else {
        service.0.limits.showed_wrong_key(source, now);
        let mut response = error(
            StatusCode::UNAUTHORIZED,
            &state.api_keys.what_is_wrong(&head.headers, &parameters),
        );
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return (Outcome::Unauthorized, response);
    };
    if parameters.service.is_some_and(|service| service != "turn") {
        return bad(
            StatusCode::BAD_REQUEST,
            "the parameter `service` is not `turn`, and there is nothing else here",
        );
    }
    let name = match parameters.username.as_deref() {
        // Nobody in particular: two of them have nothing in common.
        None | Some("") => names::of_nobody(&world.random),
        Some(user) if user.contains(':') => {
            return bad(
                StatusCode::BAD_REQUEST,
                "the parameter `username` has a colon in it, which in TURN usernames separates the expiry from the \
                 rest: send something without (of a Matrix user ID, the part between `@` and the colon)",
            );
        }
        Some(user) if user.len() > MAX_USERNAME => {
            return bad(
                StatusCode::BAD_REQUEST,
                "the parameter `username` is longer than 255 bytes",
            );
        }
        Some(user) => names::of(Who::UserOfService { key, user }, &state.names),
    };
    let credential = state.issuer.issue(&name, world.clock.unix_seconds());
    (Outcome::Issued, json(StatusCode::OK, credential.to_json()))
}

/// The body of a POST, if it is a form; empty if there is none.
async fn form(headers: &HeaderMap, body: Body) -> Result<Bytes, Response> {
    let reading = tokio::time::timeout(BODY_TIME, Limited::new(body, MAX_BODY).collect());
    let body = match reading.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            return Err(closing(error(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body ended early or is longer than 8 KiB",
            )));
        }
        Err(_) => {
            return Err(closing(error(
                StatusCode::REQUEST_TIMEOUT,
                "the body did not come in time",
            )));
        }
    };
    let is_form = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|value| {
            value
                .trim()
                .eq_ignore_ascii_case("application/x-www-form-urlencoded")
        });
    if body.is_empty() || is_form {
        return Ok(body);
    }
    Err(error(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "the body is not a form (application/x-www-form-urlencoded): send the parameters as one, or in the query, \
         and the API key as `Authorization: Bearer KEY`",
    ))
}

/// After it the connection is closed: the rest of the request is not read.
fn closing(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

impl Parameters {
    /// Adds those of a query or a form; what was there before stays.
    fn read(&mut self, encoded: &[u8]) {
        for (name, value) in form_urlencoded::parse(encoded) {
            match &*name {
                "service" => {
                    self.service.get_or_insert_with(|| value.into_owned());
                }
                "username" => {
                    self.username.get_or_insert_with(|| value.into_owned());
                }
                "key" if !value.is_empty() => self.keys.push(Zeroizing::new(value.into_owned())),
                other => {
                    let other = OTHER_PARAMETERS.into_iter().find(|known| *known == other);
                    self.other = self.other.or(other);
                }
            }
        }
        // Nobody has more than one in each place.
        self.keys.truncate(2);
    }
}

impl ApiKeys {
    pub(super) fn new(keys: &[Secret<String>], hash: hmac::Key) -> Self {
        let known = keys.iter().map(|key| tag(&hash, key.expose())).collect();
        Self { hash, known }
    }

    /// The key that `text` is, by what it is known by here. How long that takes does not depend on how much of
    /// it is right.
    pub(super) fn find(&self, text: &str) -> Option<&[u8; 32]> {
        let tag = tag(&self.hash, text);
        self.known.iter().fold(None, |found, known| {
            let is_this = verify_slices_are_equal(known, &tag).is_ok();
            found.or(is_this.then_some(known))
        })
    }

    fn find_in(&self, head: &Parts, parameters: &Parameters) -> Option<&[u8; 32]> {
        let bearer = bearer(&head.headers).and_then(|key| self.find(key));
        bearer.or_else(|| {
            let keys = parameters.keys.iter();
            keys.fold(None, |found, key| found.or(self.find(key)))
        })
    }

    /// Why none of the keys was found, and what to do.
    fn what_is_wrong(&self, headers: &HeaderMap, parameters: &Parameters) -> String {
        if self.known.is_empty() {
            return "nobody may ask here: `credentials.api_keys` is empty".to_owned();
        }
        if bearer(headers).is_some() || !parameters.keys.is_empty() {
            return "the API key is none of `credentials.api_keys` (an access token of a homeserver belongs to \
                    /_matrix/client/v3/voip/turnServer)"
                .to_owned();
        }
        if headers.contains_key(header::AUTHORIZATION) {
            return format!("`Authorization` has no `Bearer KEY`: send the API key {PLACES}");
        }
        let other_header = OTHER_HEADERS
            .into_iter()
            .find(|name| headers.contains_key(*name));
        if let Some(name) = other_header {
            return format!(
                "an API key does not belong into the header `{name}`: send it {PLACES}"
            );
        }
        if let Some(name) = parameters.other {
            return format!(
                "an API key does not belong into the parameter `{name}`: send it {PLACES}"
            );
        }
        format!("there is no API key: send it {PLACES}")
    }
}

fn tag(hash: &hmac::Key, text: &str) -> [u8; 32] {
    let tag = hmac::sign(hash, text.as_bytes());
    *tag.as_ref()
        .first_chunk()
        .expect("HMAC-SHA256 gives 32 bytes")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    Some(key.trim()).filter(|key| scheme.eq_ignore_ascii_case("bearer") && !key.is_empty())
}
