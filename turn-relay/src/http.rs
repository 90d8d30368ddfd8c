//! The routes of the HTTP server on `http.listen`: for operators, and by way of a reverse proxy for those who
//! want credentials.

use std::sync::Arc;

use axum::{Router, body::Body, extract::State, response::Response, routing::get};
use http::{HeaderValue, StatusCode, header};

use crate::relay::Relay;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// All routes.
pub fn router(relay: Arc<Relay>) -> Router {
    let credentials = relay.credentials().router();
    Router::new()
        .route("/health", get(health).fallback(method_not_allowed))
        .route("/ready", get(ready).fallback(method_not_allowed))
        .route("/metrics", get(metrics).fallback(method_not_allowed))
        .fallback(not_found)
        .with_state(relay)
        .merge(credentials)
}

/// Whether the process works: for whoever would start it again otherwise.
async fn health(State(relay): State<Arc<Relay>>) -> Response {
    if relay.is_alive() {
        json(StatusCode::OK, "{}".to_owned())
    } else {
        error(
            StatusCode::SERVICE_UNAVAILABLE,
            "a thread that relays is stuck or has ended",
        )
    }
}

/// Whether clients can get allocations: 503 with the reasons when not.
async fn ready(State(relay): State<Arc<Relay>>) -> Response {
    let reasons = relay.unready();
    let status = if reasons.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = serde_json::json!({"ready": reasons.is_empty(), "reasons": reasons});
    json(status, body.to_string())
}

async fn metrics(State(relay): State<Arc<Relay>>) -> Response {
    respond(StatusCode::OK, OPENMETRICS, relay.metrics().encode())
}

async fn method_not_allowed() -> Response {
    error(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not answer to that method",
    )
}

async fn not_found() -> Response {
    error(
        StatusCode::NOT_FOUND,
        "there is nothing here; see /health, /ready, /metrics and /turn/credentials",
    )
}

fn error(status: StatusCode, text: &str) -> Response {
    json(status, serde_json::json!({"error": text}).to_string())
}

fn json(status: StatusCode, body: String) -> Response {
    respond(status, JSON, body)
}

fn respond(status: StatusCode, content_type: HeaderValue, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
