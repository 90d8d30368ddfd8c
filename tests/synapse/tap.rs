//! What passes between Synapse and the gateway, seen from the middle.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use stand_ins::homeserver::Homeserver;
use tokio::{net::TcpListener, sync::watch};

use crate::PATIENCE;

/// A server that Synapse takes for the gateway: it hands everything on to the gateway and notes it.
pub(crate) struct Tap {
    address: SocketAddr,
    exchanges: watch::Receiver<Vec<Exchange>>,
}

/// One notification and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// `notification` of the body.
    pub(crate) notification: Value,
    /// What the gateway answered.
    pub(crate) status: StatusCode,
    /// The answer's body.
    pub(crate) answer: Value,
}

impl Tap {
    pub(crate) async fn start(gateway: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let (notes, exchanges) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let notes = notes.clone();
                let service = service_fn(move |request| pass_on(gateway, request, notes.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, exchanges }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        self.exchanges.borrow().clone()
    }

    /// The first exchange that `wanted` is true of, now or later.
    pub(crate) async fn wait_for(
        &self,
        what: &str,
        wanted: impl Fn(&Exchange) -> bool,
    ) -> Exchange {
        let mut exchanges = self.exchanges.clone();
        let seen =
            tokio::time::timeout(PATIENCE, exchanges.wait_for(|all| all.iter().any(&wanted))).await;
        match seen {
            Ok(Ok(all)) => all.iter().find(|one| wanted(one)).cloned(),
            Ok(Err(_)) | Err(_) => None,
        }
        .unwrap_or_else(|| panic!("{what} did not come: {:#?}", self.exchanges()))
    }
}

impl Exchange {
    pub(crate) fn event_id(&self) -> Option<&str> {
        self.notification["event_id"].as_str()
    }

    pub(crate) fn app_id(&self) -> Option<&str> {
        self.notification["devices"][0]["app_id"].as_str()
    }
}

async fn pass_on(
    gateway: SocketAddr,
    request: Request<Incoming>,
    notes: watch::Sender<Vec<Exchange>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("Synapse sends the whole body");
    let body = body.to_bytes();
    let answer = Homeserver::new(gateway)
        .request(head.method, head.uri.path(), HeaderMap::new(), body.clone())
        .await
        .expect("the gateway answers");

    let mut notification: Value = serde_json::from_slice(&body).unwrap_or_default();
    let exchange = Exchange {
        notification: notification["notification"].take(),
        status: answer.status,
        answer: answer.json(),
    };
    notes.send_modify(|exchanges| exchanges.push(exchange));

    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    Ok(response)
}
