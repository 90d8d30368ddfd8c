//! Each way to the relay that clients are told of, tried as they use it: two allocations, and a packet from one
//! to the other and back.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use futures_util::future::join_all;
use rustls::ClientConfig;
use serde_json::Value;
use shared::address_policy::is_public;
use tokio::time::timeout;
use turn_relay::{
    config::Config,
    credentials::{Settings, by_hand},
};
use turn_relay_proto::stun::attribute::Family;
use zeroize::Zeroizing;

use super::{
    Context, certificates,
    finding::{Finding, Topic},
    places,
};
use crate::commands::turn_uri::{Transport, Uri};

mod client;
pub(super) mod explain;
mod wire;

pub(super) use client::{Fault, Greeting};
pub(super) use wire::{Wire, connect};

use client::{Client, Credential, pass};
use explain::explain;

const TOPIC: Topic = Topic::Turn;
/// One way makes several tries, each within [`Context::timeout`]; together they get this many times as long.
const WAY_TIMEOUTS: u32 = 4;

/// A URI with one address of its host.
struct Way<'a> {
    uri: &'a Uri,
    server: SocketAddr,
    /// Whether the host has others.
    has_others: bool,
}

/// How far it went before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Connect,
    Allocate,
    /// The first allocation is there, and a second is asked for.
    AllocateAnother,
    Permit,
    Pass,
}

pub(super) async fn examine(context: &Context) -> Vec<Finding> {
    let Some(config) = &context.turn else {
        return context.without_turn(TOPIC);
    };
    let uris = places::handed_out(config);
    if uris.is_empty() {
        return vec![Finding::skipped(
            TOPIC,
            config.path.display().to_string(),
            "not tried: `realm` is no host name, and there are no `credentials.uris`",
            "set `credentials.uris` to what your homeserver tells clients",
        )];
    }
    let tls = certificates::client_config(&context.environment);
    let of_uri = |text: String| {
        let tls = tls.clone();
        async move { try_uri(context, config, &text, tls).await }
    };
    join_all(uris.into_iter().map(of_uri)).await.concat()
}

/// Who answers at a listener: a request without credentials, which needs no secret.
pub(super) async fn greet(context: &Context, wire: Wire) -> Result<Greeting, Fault> {
    client::greet(wire, (&context.clock, &context.random), context.timeout).await
}

async fn try_uri(
    context: &Context,
    config: &Config,
    text: &str,
    tls: Result<Arc<ClientConfig>, String>,
) -> Vec<Finding> {
    let uri = match Uri::parse(text) {
        Some(uri) if !is_dtls(text) => uri,
        Some(_) if !config.listen.dtls.is_empty() => {
            return vec![Finding::skipped(
                TOPIC,
                text,
                "TURN over DTLS is not tried: doctor does not speak it",
                "try it with a client that does, such as coturn's `turnutils_uclient -S`",
            )];
        }
        Some(_) | None => {
            return vec![Finding::failure(
                TOPIC,
                text,
                "TURN over DTLS, which this relay does not speak",
                "clients lose time with an address at which nobody answers",
                "take it out of `credentials.uris`",
            )];
        }
    };
    let addresses = match places::resolve(uri.bare_host(), context.timeout).await {
        Ok(addresses) => addresses,
        Err(problem) => {
            return vec![Finding::failure(
                TOPIC,
                text,
                format!("the name {} cannot be resolved: {problem}", uri.host),
                "clients cannot find the relay at this URI",
                "see DNS",
            )];
        }
    };
    let tls = match tls {
        Ok(tls) => tls,
        Err(problem) => {
            return vec![Finding::failure(
                TOPIC,
                text,
                problem,
                "without certificate authorities TLS cannot be tried",
                "install ca-certificates, or name a file in SSL_CERT_FILE",
            )];
        }
    };
    let has_others = addresses.len() > 1;
    let tries = addresses.into_iter().map(|address| {
        let way = Way {
            uri: &uri,
            server: SocketAddr::new(address, uri.port),
            has_others,
        };
        try_way(context, config, way, Arc::clone(&tls))
    });
    join_all(tries).await
}

async fn try_way(
    context: &Context,
    config: &Config,
    way: Way<'_>,
    tls: Arc<ClientConfig>,
) -> Finding {
    let subject = if way.has_others {
        format!("{} ({})", way.uri.text, way.server.ip())
    } else {
        way.uri.text.clone()
    };
    let through = timeout(
        context.timeout * WAY_TIMEOUTS,
        through(context, config, &way, tls),
    );
    let result = through
        .await
        .unwrap_or(Err((Step::Allocate, Fault::NoAnswer)));
    match result {
        // What the relay really says, also where its configuration is not this one.
        Ok(relayed) if is_public(way.server.ip()) && !is_public(relayed) => Finding::failure(
            TOPIC,
            subject,
            format!(
                "it works, but the relay tells clients that they are at {relayed}, a private address"
            ),
            "calls with anybody outside of the relay's network fail: the other side sends to this address",
            format!(
                "set `relay.external` in {} on the relay's machine to {{\"LOCAL\": \"PUBLIC\"}}, and restart it",
                config.path.display()
            ),
        ),
        Ok(_) => Finding::good(
            TOPIC,
            subject,
            "a credential is taken, and a packet goes through from one client to another and back",
        ),
        Err((step, fault)) => {
            let (what, why, remedy) = explain(step, &fault, way.uri, way.server, config);
            Finding::failure(TOPIC, subject, what, why, remedy)
        }
    }
}

/// The address that a client is told, if everything works.
async fn through(
    context: &Context,
    config: &Config,
    way: &Way<'_>,
    tls: Arc<ClientConfig>,
) -> Result<IpAddr, (Step, Fault)> {
    let mut first = client(context, config, way, &tls).await?;
    let mut second = client(context, config, way, &tls).await?;
    let family = family(context, way.server.ip());
    let result = converse(context, &mut first, &mut second, family).await;
    // Nothing depends on it: an allocation ends by itself.
    let _ = tokio::join!(first.release(), second.release());
    result
}

/// A packet there and back; the address that the first client is told.
async fn converse(
    context: &Context,
    first: &mut Client<'_>,
    second: &mut Client<'_>,
    family: Option<Family>,
) -> Result<IpAddr, (Step, Fault)> {
    let at = |step| move |fault| (step, fault);
    let one = first.allocate(family).await.map_err(at(Step::Allocate))?;
    let other = second
        .allocate(family)
        .await
        .map_err(at(Step::AllocateAnother))?;
    first.permit(other.ip()).await.map_err(at(Step::Permit))?;
    second.permit(one.ip()).await.map_err(at(Step::Permit))?;
    let [there, back] = [context.random.bytes::<32>(), context.random.bytes()];
    pass((&mut *first, one), (&mut *second, other), &there)
        .await
        .map_err(at(Step::Pass))?;
    pass((second, other), (first, one), &back)
        .await
        .map_err(at(Step::Pass))?;
    Ok(one.ip())
}

async fn client<'a>(
    context: &'a Context,
    config: &Config,
    way: &Way<'_>,
    tls: &Arc<ClientConfig>,
) -> Result<Client<'a>, (Step, Fault)> {
    let limit = context.timeout;
    let host = way.uri.bare_host();
    let wire = match way.uri.transport {
        Transport::Udp => Wire::udp(way.server).await,
        Transport::Tcp => Wire::tcp(way.server, limit).await,
        Transport::Tls => Wire::tls(way.server, host, Arc::clone(tls), limit).await,
    };
    let wire = wire.map_err(|fault| (Step::Connect, fault))?;
    let source = (&context.clock, &context.random);
    Ok(Client::new(
        wire,
        credential(context, config),
        source,
        limit,
    ))
}

/// Of somebody new each time: what others have does not count against it.
fn credential(context: &Context, config: &Config) -> Credential {
    let settings = Settings::from(config);
    let made = by_hand(&settings, None, &context.clock, &context.random);
    let json = Zeroizing::new(made.to_json());
    let mut members: Value = serde_json::from_str(&json).unwrap_or_default();
    let mut text = |key: &str| match members.get_mut(key).map(Value::take) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    Credential {
        username: text("username"),
        password: Zeroizing::new(text("password")),
    }
}

/// The family of relayed addresses that is asked for: that of the way there, if the relay has it.
fn family(context: &Context, server: IpAddr) -> Option<Family> {
    let advertised = places::advertised(context);
    let same = advertised
        .iter()
        .find(|address| address.is_ipv4() == server.is_ipv4());
    same.or_else(|| advertised.first())
        .map(|address| Family::of(*address))
}

/// RFC 7350: TLS over UDP.
pub(super) fn is_dtls(uri: &str) -> bool {
    uri.starts_with("turns:") && uri.ends_with("transport=udp")
}
