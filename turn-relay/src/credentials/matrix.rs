//! `GET /_matrix/client/v3/voip/turnServer` and the paths it had before: the Client-Server API's way to TURN
//! credentials, which a reverse proxy gives to this service instead of the homeserver.

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
    routing::any,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use shared::http_server::Peer;
use tracing::{debug, warn};
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::{
    Service,
    limits::{Source, Trust},
    metrics::{Outcome, Route},
    names::{self, Who},
    reply::{after, json, matrix_error, millis},
    whoami::{Question, Refusal},
};

/// What is said to an `Authorization` that is no bearer token, in a Matrix error of status 401. No homeserver
/// says it in these words: that is how `nocturne doctor` knows who answers.
pub const NO_BEARER: &str = "The access token does not stand in `Authorization: Bearer TOKEN`";

/// What is said to everybody where the configuration names no homeserver, in a Matrix error of status 404.
pub const NO_HOMESERVER: &str = "No homeserver is configured here: set `credentials.homeserver`";

/// Clients ask at v3; Element on phones before Element X at r0.
const PATHS: [&str; 5] = [
    "/_matrix/client/v3/voip/turnServer",
    "/_matrix/client/r0/voip/turnServer",
    "/_matrix/client/v1/voip/turnServer",
    "/_matrix/client/unstable/voip/turnServer",
    "/_matrix/client/api/v1/voip/turnServer",
];

/// What the specification's chapter on web browser clients asks for, on every answer.
const CORS: [(HeaderName, HeaderValue); 3] = [
    (
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        HeaderValue::from_static("*"),
    ),
    (
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS"),
    ),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("X-Requested-With, Content-Type, Authorization"),
    ),
];

/// Why no token was found.
#[derive(Debug, PartialEq, Eq)]
enum NoToken {
    Missing,
    Malformed,
}

pub(super) fn routes() -> Router<Service> {
    PATHS.into_iter().fold(Router::new(), |router, path| {
        router.route(path, any(turn_server))
    })
}

async fn turn_server(State(service): State<Service>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let mut response = match head.method {
        Method::GET | Method::HEAD => {
            let (outcome, response) = answer(&service, &head).await;
            service.0.world.metrics.count(Route::Matrix, outcome);
            debug!(
                route = Route::Matrix.label(),
                result = outcome.label(),
                "asked for credentials"
            );
            response
        }
        Method::OPTIONS => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        _ => {
            let mut response = matrix_error(
                StatusCode::METHOD_NOT_ALLOWED,
                "M_UNRECOGNIZED",
                "This path answers to GET",
            );
            response.headers_mut().insert(
                header::ALLOW,
                HeaderValue::from_static("GET, HEAD, OPTIONS"),
            );
            response
        }
    };
    response.headers_mut().extend(CORS);
    response
}

async fn answer(service: &Service, head: &Parts) -> (Outcome, Response) {
    let state = service.state();
    let world = &service.0.world;
    let Some(homeserver) = &state.homeserver else {
        let response = matrix_error(StatusCode::NOT_FOUND, "M_UNRECOGNIZED", NO_HOMESERVER);
        return (Outcome::NotConfigured, response);
    };
    let query = head.uri.query().unwrap_or_default();
    let token = match token(&head.headers, query) {
        Ok(token) => token,
        Err(NoToken::Missing) => {
            return unauthorized("M_MISSING_TOKEN", "Missing access token");
        }
        Err(NoToken::Malformed) => {
            return unauthorized("M_MISSING_TOKEN", NO_BEARER);
        }
    };
    // The homeserver has no need to see keys of this service.
    if state.api_keys.find(&token).is_some() {
        return unauthorized(
            "M_UNKNOWN_TOKEN",
            "This is an API key of /turn/credentials; what belongs here is an access token of the homeserver",
        );
    }
    let Ok(mut authorization) = HeaderValue::from_str(&format!("Bearer {}", token.as_str())) else {
        return unauthorized("M_UNKNOWN_TOKEN", "Unrecognised access token");
    };
    authorization.set_sensitive(true);
    let peer = head.extensions.get::<Peer>();
    let now = world.clock.now();
    let source = Source::of(peer, &head.headers, &state.trusted_proxies);
    if let Err(wait) = service.0.limits.take_question(source, now) {
        return (Outcome::Limited, limited(wait));
    }
    let Ok(_room) = service.0.questions.try_acquire() else {
        return (Outcome::Limited, limited(Duration::from_secs(1)));
    };
    let question = Question {
        authorization,
        user_id: user_id(query),
        headers: &head.headers,
        trust: Trust::of(peer, &state.trusted_proxies),
        peer: peer.map(|peer| peer.0.ip()),
    };
    let user = match homeserver.ask(question, world).await {
        Ok(user) => user,
        Err(refusal) => return refused(service, refusal),
    };
    if user.is_guest && !state.allow_guests {
        let response = matrix_error(
            StatusCode::FORBIDDEN,
            "M_GUEST_ACCESS_FORBIDDEN",
            "Guest access not allowed",
        );
        return (Outcome::Guest, response);
    }
    let name = names::of(Who::MatrixUser(&user.id), &state.names);
    let credential = state.issuer.issue(&name, world.clock.unix_seconds());
    (Outcome::Issued, json(StatusCode::OK, credential.to_json()))
}

/// The access token: in `Authorization`, or in the query, as old clients send it.
fn token(headers: &HeaderMap, query: &str) -> Result<Zeroizing<String>, NoToken> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let value = value.to_str().map_err(|_| NoToken::Malformed)?;
        let (scheme, token) = value.split_once(' ').ok_or(NoToken::Malformed)?;
        let token = token.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
            return Err(NoToken::Malformed);
        }
        return Ok(Zeroizing::new(token.to_owned()));
    }
    form_urlencoded::parse(query.as_bytes())
        .find(|(name, token)| name == "access_token" && !token.is_empty())
        .map(|(_, token)| Zeroizing::new(token.into_owned()))
        .ok_or(NoToken::Missing)
}

/// The parameter by which an application service speaks for one of its users, as it stands in the query.
fn user_id(query: &str) -> Option<&str> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix("user_id="))
        .filter(|user_id| !user_id.is_empty())
}

fn refused(service: &Service, refusal: Refusal) -> (Outcome, Response) {
    let unavailable = |text| matrix_error(StatusCode::BAD_GATEWAY, "M_UNKNOWN", text);
    let (outcome, reason, response) = match refusal {
        Refusal::Unauthorized(body) => {
            return (Outcome::Unauthorized, json(StatusCode::UNAUTHORIZED, body));
        }
        Refusal::Limited(body, retry_after) => {
            let mut response = json(StatusCode::TOO_MANY_REQUESTS, body);
            if let Some(retry_after) = retry_after {
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, retry_after);
            }
            return (Outcome::Limited, response);
        }
        Refusal::Unreachable(reason) => (
            Outcome::HomeserverUnreachable,
            reason,
            unavailable("The homeserver cannot be reached; please try again later"),
        ),
        Refusal::Slow => (
            Outcome::HomeserverSlow,
            "no answer in time".to_owned(),
            unavailable("The homeserver did not answer in time; please try again later"),
        ),
        Refusal::Nonsense(reason) => (
            Outcome::HomeserverNonsense,
            reason,
            unavailable(
                "The homeserver did not say whose the access token is; please try again later",
            ),
        ),
    };
    let inner = &service.0;
    if let Some(held_back) = inner.homeserver_log.pass(inner.world.clock.now()) {
        warn!(
            %reason,
            more_of_these = held_back,
            "the homeserver does not say whose access tokens are; nobody gets credentials of the Matrix route \
             meanwhile (see `credentials.homeserver`)"
        );
    }
    (outcome, response)
}

fn unauthorized(errcode: &str, text: &str) -> (Outcome, Response) {
    (
        Outcome::Unauthorized,
        matrix_error(StatusCode::UNAUTHORIZED, errcode, text),
    )
}

fn limited(wait: Duration) -> Response {
    let body = serde_json::json!({
        "errcode": "M_LIMIT_EXCEEDED",
        "error": "Too many requests",
        "retry_after_ms": millis(wait),
    });
    after(json(StatusCode::TOO_MANY_REQUESTS, body.to_string()), wait)
}
