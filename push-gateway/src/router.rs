//! Every route of the gateway, and how requests are answered.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
    routing::{any, get, post},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use shared::http_server::Peer;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    app::Credentials,
    breaker::BreakerState,
    dispatch::{self, Answer},
    gateway::{Gateway, State as Running},
    notify,
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// A body that is larger than this waits for its turn. What homeservers send has one to five kilobytes.
const SMALL_BODY: usize = 16 * 1024;

/// How long the rest of a large body may take once it has its turn.
const LARGE_BODY_TIME: Duration = Duration::from_secs(5);

/// What a UnifiedPush client asks a push server's host, to find out whether a gateway is there.
const DISCOVERY: &str = r#"{"gateway":"matrix","unifiedpush":{"gateway":"matrix"}}"#;

/// The routes of the gateway itself.
pub fn gateway(gateway: Arc<Gateway>) -> Router {
    let notify = || get(discover).post(notify).fallback(method_not_allowed);
    Router::new()
        .route("/_matrix/push/v1/notify", notify())
        // Sygnal answers below its path, too; homeservers are configured with a slash at the end.
        .route("/_matrix/push/v1/notify/", notify())
        .route(
            "/_matrix/push/v1/notify/{*rest}",
            post(self::notify).fallback(method_not_allowed),
        )
        .route(
            "/_nocturne/v1/keys",
            get(pushkey_keys).fallback(method_not_allowed),
        )
        .route("/health", get(health).fallback(method_not_allowed))
        .route("/ready", get(ready).fallback(method_not_allowed))
        .fallback(unrecognized)
        .with_state(gateway)
}

/// The route of the metrics, for a listener of its own. As in Sygnal, any path answers.
pub fn metrics(gateway: Arc<Gateway>) -> Router {
    Router::new().fallback(any(scrape)).with_state(gateway)
}

async fn discover() -> Response {
    json(StatusCode::OK, DISCOVERY)
}

/// The public keys that clients may seal their pushkeys to, newest first (spec/opaque-push.md §7).
async fn pushkey_keys(State(gateway): State<Arc<Gateway>>) -> Response {
    let state = gateway.state();
    let keys: Vec<_> = state
        .pushkey_keys
        .iter()
        .map(|key| {
            serde_json::json!({
                "id": key.id(),
                "alg": "x25519",
                "key": URL_SAFE_NO_PAD.encode(key.public()),
                "not_after": null,
            })
        })
        .collect();
    json(
        StatusCode::OK,
        serde_json::json!({"keys": keys}).to_string(),
    )
}

async fn health() -> Response {
    json(StatusCode::OK, "{}")
}

/// Whether pushes can be expected to get through: 503 with the reasons when not.
async fn ready(State(gateway): State<Arc<Gateway>>) -> Response {
    let now = gateway.clock.now();
    let mut reasons = Vec::new();
    if gateway.shutdown.has_begun() {
        reasons.push("stopping".to_owned());
    }
    for app in gateway.state().apps.iter() {
        if app.credentials(now) == Credentials::Refused {
            reasons.push(format!(
                "{}: the provider refuses the gateway's credentials",
                app.name
            ));
        }
        // Half open is not down: somebody has to send it the push that finds out.
        if app.breaker_state(now) == BreakerState::Open {
            reasons.push(format!("{}: the provider is down", app.name));
        }
    }
    let status = if reasons.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = serde_json::json!({"ready": reasons.is_empty(), "reasons": reasons});
    json(status, body.to_string())
}

async fn scrape(State(gateway): State<Arc<Gateway>>, method: Method) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return method_not_allowed().await;
    }
    gateway.update_gauges();
    respond(StatusCode::OK, OPENMETRICS, gateway.metrics.encode())
}

async fn method_not_allowed() -> Response {
    error(
        StatusCode::METHOD_NOT_ALLOWED,
        "M_UNRECOGNIZED",
        "This path does not answer to that method",
    )
}

async fn unrecognized() -> Response {
    error(
        StatusCode::NOT_FOUND,
        "M_UNRECOGNIZED",
        "Unrecognized request",
    )
}

/// `POST /_matrix/push/v1/notify`
async fn notify(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let began = gateway.clock.now();
    let _in_flight = gateway.metrics.request();
    let response = answer(&gateway, request, began).await;
    let took = gateway.clock.now().saturating_duration_since(began);
    gateway.metrics.answered(response.status().as_u16(), took);
    response
}

async fn answer(gateway: &Arc<Gateway>, request: Request, began: Instant) -> Response {
    let state = gateway.state();
    let deadline = state.deadline(began);
    if let (Some(limit), Some(Peer(peer))) = (&state.source_limit, request.extensions().get())
        && let Err(wait) = limit.take(source(peer.ip()), began)
    {
        gateway.metrics.source_limited.inc();
        return limited(wait);
    }
    let (body, room) = match read(gateway, &state, request.into_body(), deadline).await {
        Ok(read) => read,
        Err(response) => return response,
    };
    let request = match notify::parse(&body) {
        Ok(request) => request,
        Err(invalid) => {
            if invalid == notify::Invalid::NoDevices {
                gateway.metrics.notifications_received.inc();
            }
            return error(
                StatusCode::BAD_REQUEST,
                invalid.errcode(),
                &invalid.to_string(),
            );
        }
    };
    drop(body);
    gateway.metrics.notifications_received.inc();
    gateway
        .metrics
        .devices_received
        .inc_by(request.devices.len().try_into().unwrap_or(u64::MAX));
    // In a task of its own: a homeserver that hangs up does not stop a push that is half under way.
    let task = tokio::spawn({
        let gateway = Arc::clone(gateway);
        async move {
            let (_alive, _room) = (gateway.alive(), room);
            dispatch::dispatch(&gateway, &state, request, deadline).await
        }
    });
    match task.await {
        Ok(Answer::Done(rejected)) => done(&rejected),
        Ok(Answer::ProviderFailed { failed, devices }) => error(
            StatusCode::BAD_GATEWAY,
            "M_UNKNOWN",
            &format!(
                "The push provider failed for {failed} of {devices} devices; please try again"
            ),
        ),
        Ok(Answer::RateLimited { wait }) => limited(wait),
        Err(_) => error(
            StatusCode::BAD_GATEWAY,
            "M_UNKNOWN",
            "The gateway failed; please try again",
        ),
    }
}

/// Reads a body up to the limit, and by the deadline. A large one waits for its turn, and keeps it for as
/// long as what is given besides lives.
async fn read(
    gateway: &Gateway,
    state: &Running,
    mut body: Body,
    mut deadline: Instant,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Response> {
    let limit = state.limits.max_body;
    let declared = http_body::Body::size_hint(&body).lower();
    if declared > limit.try_into().unwrap_or(u64::MAX) {
        return Err(too_large(limit));
    }
    let mut read = BytesMut::new();
    let mut room = None;
    loop {
        let frame = match tokio::time::timeout_at(deadline.into(), body.frame()).await {
            Ok(None) => return Ok((read.freeze(), room)),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => {
                return Err(closing(error(
                    StatusCode::BAD_REQUEST,
                    "M_NOT_JSON",
                    "The request body ended early",
                )));
            }
            Err(_) => {
                return Err(closing(error(
                    StatusCode::REQUEST_TIMEOUT,
                    "M_UNKNOWN",
                    "The request body did not come in time",
                )));
            }
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if read.len() + data.len() > limit {
            return Err(too_large(limit));
        }
        read.extend_from_slice(&data);
        if read.len() > SMALL_BODY && room.is_none() {
            let turn = Arc::clone(&gateway.large_bodies).acquire_owned();
            match tokio::time::timeout_at(deadline.into(), turn).await {
                Ok(turn) => {
                    room = turn.ok();
                    // Others wait for it: whoever has the turn sends on.
                    deadline = deadline.min(gateway.clock.now() + LARGE_BODY_TIME);
                }
                Err(_) => return Err(closing(limited(Duration::from_secs(1)))),
            }
        }
    }
}

fn too_large(limit: usize) -> Response {
    closing(error(
        StatusCode::PAYLOAD_TOO_LARGE,
        "M_TOO_LARGE",
        &format!("The request body is longer than {limit} bytes"),
    ))
}

/// What counts as one source: an IPv4 address, or the /64 that an IPv6 host can choose its address from.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = address.to_bits() & (u128::MAX << 64);
            IpAddr::V6(network.into())
        }
    }
}

/// `{"rejected": […]}`, to the byte as Sygnal writes it.
fn done(rejected: &[String]) -> Response {
    let pushkeys: Vec<String> = rejected
        .iter()
        .map(|pushkey| serde_json::Value::from(pushkey.as_str()).to_string())
        .collect();
    json(
        StatusCode::OK,
        format!("{{\"rejected\": [{}]}}", pushkeys.join(", ")),
    )
}

fn limited(wait: Duration) -> Response {
    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    let body = serde_json::json!({
        "errcode": "M_LIMIT_EXCEEDED",
        "error": "Too many requests",
        "retry_after_ms": millis,
    });
    let mut response = json(StatusCode::TOO_MANY_REQUESTS, body.to_string());
    response.headers_mut().insert(
        header::RETRY_AFTER,
        HeaderValue::from(millis.div_ceil(1000)),
    );
    response
}

/// A Matrix error object.
fn error(status: StatusCode, errcode: &str, text: &str) -> Response {
    json(
        status,
        serde_json::json!({"errcode": errcode, "error": text}).to_string(),
    )
}

/// The same, after which the connection is closed: the rest of the request is not read.
fn closing(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    respond(status, JSON, body)
}

fn respond(status: StatusCode, content_type: HeaderValue, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}
