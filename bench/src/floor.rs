//! The floor: what the gateway's HTTP stack costs when nobody looks at what it carries.
//!
//! The same accept loop, the same router, the same client with the same connections to the same
//! stand-in: a notification's body is read and thrown away, and one constant request is sent for it.
//! That request is one that the gateway itself sent, so that it is as large as the gateway's.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use axum::{Router, body::Body, extract::State, response::Response, routing::post};
use bytes::Bytes;
use clap::Args;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use shared::{
    clock::Clock,
    environment::Environment,
    http_client::{ClientConfig, HttpClient, Origin, Versions},
    http_server::{self, Limits},
    lifecycle, tls,
};

use crate::{Kind, providers::Captured};

const MAX_BODY: usize = 512 * 1024;
const TIMEOUT: Duration = Duration::from_secs(10);

/// The process of the floor.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where notifications come in.
    listen: SocketAddr,
    /// Whom it sends to.
    provider: Kind,
    /// What it sends, as JSON.
    request: PathBuf,
}

struct Floor {
    origin: Origin,
    request: Request<Bytes>,
    clock: Clock,
}

/// Forwards until it is ended.
pub(crate) fn serve(arguments: &Arguments, environment: &Environment) -> Result<()> {
    let captured = fs::read(&arguments.request).context("read the request")?;
    let captured: Captured = serde_json::from_slice(&captured).context("read the request")?;
    let kind = arguments.provider;
    let client = HttpClient::new(ClientConfig {
        roots: Arc::new(tls::roots(environment).map_err(anyhow::Error::msg)?),
        identity: None,
        proxy: None,
        no_proxy: None,
        versions: match kind {
            Kind::Apns => Versions::Http2,
            Kind::Fcm | Kind::WebPush => Versions::Http2Or1,
        },
        policy: None,
        connect_timeout: TIMEOUT,
        max_connections: kind.connections(),
        max_response_body: 16 * 1024,
    })?;
    let request = request(&captured)?;
    let floor = Arc::new(Floor {
        origin: client.origin(request.uri())?,
        request,
        clock: Clock::system(),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = http_server::bind(arguments.listen)
            .await
            .map_err(anyhow::Error::msg)?;
        let router = Router::new()
            .route("/_matrix/push/v1/notify", post(notify))
            .with_state(floor);
        let (_trigger, shutdown) = lifecycle::shutdown();
        http_server::serve(listener, router, Limits::default(), shutdown).await;
        Ok(())
    })
}

async fn notify(State(floor): State<Arc<Floor>>, body: Body) -> Response {
    let answered = forward(&floor, body, floor.clock.now() + TIMEOUT).await;
    let (status, text) = match answered {
        Ok(()) => (StatusCode::OK, r#"{"rejected": []}"#),
        Err(()) => (StatusCode::BAD_GATEWAY, "{}"),
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

async fn forward(floor: &Floor, body: Body, deadline: Instant) -> Result<(), ()> {
    Limited::new(body, MAX_BODY).collect().await.map_err(drop)?;
    let answer = floor
        .origin
        .send(floor.request.clone(), deadline)
        .await
        .map_err(drop)?;
    if answer.status.is_success() {
        Ok(())
    } else {
        Err(())
    }
}

fn request(captured: &Captured) -> Result<Request<Bytes>> {
    let mut request = Request::post(&captured.url).body(Bytes::from(captured.body.clone()))?;
    for (name, value) in &captured.headers {
        let name = HeaderName::try_from(name)?;
        // hyper writes its own
        if name != header::CONTENT_LENGTH && name != header::HOST {
            request
                .headers_mut()
                .append(name, HeaderValue::from_bytes(value)?);
        }
    }
    Ok(request)
}
