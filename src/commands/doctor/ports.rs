//! Whether something listens where the configurations say, and whether it is ours.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use http::{Method, StatusCode};
use rustls::RootCertStore;
use serde_json::Value;
use shared::http_client::{ClientConfig, HttpClient, Response, Versions};
use turn_relay::config::Config;

use super::{
    Context,
    finding::{Finding, Topic},
    places,
    turn::{Fault, Wire, connect, explain, greet},
};

const TOPIC: Topic = Topic::Ports;

const LOST: &str = "clients that are sent there get no relay";

pub(super) async fn examine(context: &Context) -> Vec<Finding> {
    let own = places::own();
    let mut tries: Vec<BoxFuture<'_, Finding>> = Vec::new();
    let mut others = Vec::new();
    match &context.turn {
        None => others.extend(context.without_turn(TOPIC)),
        Some(config) if places::is_elsewhere(context, config, &own) => {
            others.push(Finding::skipped(
                TOPIC,
                config.path.display().to_string(),
                "the relay is on another machine, so that its ports are not tried here",
                "run doctor on the relay's machine; TURN goes the way that clients go",
            ));
        }
        Some(config) => {
            tries.extend(relay(context, config, &own));
            others.push(Finding::skipped(
                TOPIC,
                "from outside",
                format!(
                    "all of this is tried from this machine: a firewall or router in front of it is not seen, nor \
                     whether it lets UDP to the ports {} to {} in",
                    config.relay.ports.start(),
                    config.relay.ports.end()
                ),
                "run doctor with --elsewhere on a machine elsewhere, where a turn-relay.yaml with `realm`, `secrets` and \
                 `credentials.uris` is enough; and make a call from a mobile network",
            ));
        }
    }
    match &context.push {
        None => others.extend(context.without_push(TOPIC)),
        Some(config) if context.elsewhere => others.push(Finding::skipped(
            TOPIC,
            config.path.display().to_string(),
            "the push gateway is on another machine, so that its port is not tried here",
            "run doctor on its machine",
        )),
        Some(config) => {
            let listeners = listeners(&config.listen, &own);
            tries.extend(listeners.into_iter().map(|listener| {
                let what = "push gateway";
                served(context, listener, what).boxed()
            }));
        }
    }
    let mut findings = join_all(tries).await;
    findings.extend(others);
    findings
}

fn listeners(configured: &[SocketAddr], own: &BTreeSet<IpAddr>) -> BTreeSet<SocketAddr> {
    configured
        .iter()
        .filter(|listener| !places::is_void(**listener, own))
        .map(|listener| places::reachable(*listener))
        .collect()
}

fn relay<'a>(
    context: &'a Context,
    config: &'a Config,
    own: &BTreeSet<IpAddr>,
) -> Vec<BoxFuture<'a, Finding>> {
    let mut tries: Vec<BoxFuture<'a, Finding>> = Vec::new();
    for listener in listeners(&config.listen.udp, own) {
        tries.push(udp(context, config, listener).boxed());
    }
    let streams: Vec<_> = [&config.listen.tcp, &config.listen.tls]
        .into_iter()
        .flatten()
        .copied()
        .collect();
    for listener in listeners(&streams, own) {
        tries.push(tcp(context, config, listener).boxed());
    }
    for listener in listeners(&config.http_listen, own) {
        tries.push(served(context, listener, "relay").boxed());
    }
    tries
}

async fn udp(context: &Context, config: &Config, listener: SocketAddr) -> Finding {
    let subject = format!("UDP {listener}");
    let mut local = None;
    let greeting = async {
        let wire = Wire::udp(listener).await?;
        local = wire.local_address();
        greet(context, wire).await
    };
    let greeting = match greeting.await {
        Ok(greeting) => greeting,
        Err(fault) => return silent(subject, "UDP", listener, config, &fault),
    };
    match greeting.realm {
        Some(realm) if realm == config.realm => {}
        Some(realm) => {
            return Finding::failure(
                TOPIC,
                subject,
                format!("a TURN server answers whose realm is {realm:?}, and not this relay's"),
                LOST,
                format!(
                    "see what listens there (`ss -lnup`): another TURN server, or this relay before a restart with {}",
                    config.path.display()
                ),
            );
        }
        None => {
            return Finding::failure(
                TOPIC,
                subject,
                "a STUN server answers that is no TURN server",
                LOST,
                "see what listens there (`ss -lnup`), and stop it or give it another port",
            );
        }
    }
    match (greeting.mapped, local) {
        (Some(mapped), Some(local)) if mapped == local => Finding::good(
            TOPIC,
            subject,
            "the relay answers, and sees where packets of this machine come from",
        ),
        (Some(_), _) => Finding::warning(
            TOPIC,
            subject,
            "the relay answers, but sees packets of this machine come from another address",
            "if it saw all clients so, each would be told a wrong address, and limits by address would hit all of \
             them together",
            "if the relay is in a container, give it the host's network (`network_mode: host`)",
        ),
        (None, _) => Finding::failure(
            TOPIC,
            subject,
            "the answer to a Binding request has no mapped address",
            "clients do not learn their own public address",
            "see what listens there (`ss -lnup`): it is not this relay",
        ),
    }
}

async fn tcp(context: &Context, config: &Config, listener: SocketAddr) -> Finding {
    let subject = format!("TCP {listener}");
    match connect(listener, context.timeout).await {
        Ok(_) => Finding::good(TOPIC, subject, "takes connections"),
        Err(fault) => silent(subject, "TCP", listener, config, &fault),
    }
}

fn silent(
    subject: String,
    protocol: &str,
    listener: SocketAddr,
    config: &Config,
    fault: &Fault,
) -> Finding {
    let way = format!("{protocol} port {} of {}", listener.port(), listener.ip());
    let what = match fault {
        Fault::Connection(error) => explain::connection(error, &way),
        Fault::NoAnswer => format!("no answer from {way}"),
        Fault::Tls(_) | Fault::Closed | Fault::Refused { .. } | Fault::Nonsense | Fault::Forged => {
            format!("what answers at {way} is no TURN server")
        }
    };
    Finding::failure(
        TOPIC,
        subject,
        what,
        LOST,
        format!(
            "start the relay (`systemctl start nocturne`), or restart it if `listen` in {} was changed since; \
             `journalctl -u nocturne` says why it does not start. If it runs on another machine, run doctor there",
            config.path.display()
        ),
    )
}

/// `/health` and `/ready` of a service.
async fn served(context: &Context, listener: SocketAddr, what: &str) -> Finding {
    let subject = format!("HTTP {listener}");
    let start =
        "start it (`systemctl start nocturne`), or see what else has the port (`ss -lntp`); `journalctl -u nocturne` says \
         why it does not start. If it runs on another machine, run doctor there".to_owned();
    let why = match what {
        "relay" => "nobody gets credentials here, and nobody can see how the relay does",
        _ => "the homeserver cannot hand over notifications",
    };
    for path in ["/health", "/ready"] {
        let answer = match get(context, listener, path).await {
            Ok(answer) => answer,
            Err(problem) => {
                let what = format!("the {what} does not answer: {problem}");
                return Finding::failure(TOPIC, subject, what, why, start);
            }
        };
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        match answer.status {
            StatusCode::OK if body.is_object() => {}
            StatusCode::SERVICE_UNAVAILABLE => {
                let reasons: Vec<_> = body
                    .get("reasons")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                let reasons = match reasons.as_slice() {
                    [] => "it gives no reason".to_owned(),
                    some => some.join("; "),
                };
                return Finding::failure(
                    TOPIC,
                    subject,
                    format!("the {what} says at {path} that it does not work: {reasons}"),
                    why,
                    "mend what it names; `journalctl -u nocturne` says more".to_owned(),
                );
            }
            status => {
                return Finding::failure(
                    TOPIC,
                    subject,
                    format!("something answers {path} with {status}, and is not the {what}"),
                    why,
                    start,
                );
            }
        }
    }
    Finding::good(TOPIC, subject, format!("the {what} is up and ready"))
}

async fn get(context: &Context, listener: SocketAddr, path: &str) -> Result<Response, String> {
    let client = HttpClient::new(ClientConfig {
        roots: RootCertStore::empty().into(),
        identity: None,
        proxy: None,
        no_proxy: None,
        versions: Versions::Http2Or1,
        policy: None,
        connect_timeout: context.timeout,
        max_connections: 1,
        max_response_body: 64 * 1024,
    })
    .map_err(|error| error.to_string())?;
    let uri: http::Uri = format!("http://{listener}{path}")
        .parse()
        .map_err(|error| format!("{error}"))?;
    let request = http::Request::builder()
        .method(Method::GET)
        .uri(uri.clone())
        .body(Bytes::new())
        .map_err(|error| error.to_string())?;
    let origin = client.origin(&uri).map_err(|error| error.to_string())?;
    let deadline = context.clock.now() + context.timeout;
    origin
        .send(request, deadline)
        .await
        .map_err(|error| error.to_string())
}
