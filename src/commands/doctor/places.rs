//! Host names and addresses, as several topics need them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{net::lookup_host, time::timeout};
use turn_relay::{
    addresses,
    config::Config,
    credentials::{MAX_URIS, Settings},
};

use super::Context;
use crate::commands::turn_uri::{Uri, bare};

/// The URIs that credentials name, those that clients get first, as they are written.
pub(super) fn handed_out(config: &Config) -> Vec<String> {
    let uris = Settings::from(config).uris;
    let (tls, others): (Vec<_>, Vec<_>) =
        uris.into_iter().partition(|uri| uri.starts_with("turns:"));
    tls.into_iter().chain(others).take(MAX_URIS).collect()
}

/// The hosts of these URIs, each once, in their order.
pub(super) fn hosts(config: &Config) -> Vec<String> {
    let mut hosts: Vec<String> = Vec::new();
    for uri in handed_out(config)
        .iter()
        .filter_map(|text| Uri::parse(text))
    {
        let host = uri.bare_host().to_owned();
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

/// The addresses of a host, in the system's order, each once; itself, if it is one.
///
/// # Errors
///
/// Why there are none.
pub(super) async fn resolve(host: &str, limit: Duration) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = bare(host).parse() {
        return Ok(vec![address]);
    }
    let found = timeout(limit, lookup_host((host, 0)))
        .await
        .map_err(|_| format!("no answer from DNS within {} seconds", limit.as_secs()))?
        .map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|address| address.ip()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err("it has no addresses".to_owned());
    }
    Ok(addresses)
}

/// All addresses of this machine.
pub(super) fn own() -> BTreeSet<IpAddr> {
    addresses::own(&[])
        .unwrap_or_default()
        .into_iter()
        .collect()
}

/// Whether the relay is on another machine: because that was said, or because its addresses are given and none is
/// this one's.
pub(super) fn is_elsewhere(context: &Context, config: &Config, own: &BTreeSet<IpAddr>) -> bool {
    let given = &config.relay.addresses;
    let is_none_here = given.iter().all(|address| !own.contains(address));
    context.elsewhere || (!own.is_empty() && !given.is_empty() && is_none_here)
}

/// A listener's address as a program on this machine reaches it.
pub(super) fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listener.port())
}

/// As the relay does: "every address" of IPv6 is none on a machine that has no IPv6.
pub(super) fn is_void(listener: SocketAddr, own: &BTreeSet<IpAddr>) -> bool {
    let any_v6 = listener.is_ipv6() && listener.ip().is_unspecified();
    any_v6 && !own.is_empty() && !own.iter().any(IpAddr::is_ipv6)
}

/// `203.0.113.7 and 2001:db8::7`
pub(super) fn list(addresses: impl IntoIterator<Item = IpAddr>) -> String {
    let texts: Vec<_> = addresses.into_iter().map(|ip| ip.to_string()).collect();
    texts.join(" and ")
}

/// Where clients are told that they are; empty where that cannot be found.
pub(super) fn advertised(context: &Context) -> Vec<IpAddr> {
    let Some(relay) = context.turn.as_ref().map(|config| &config.relay) else {
        return Vec::new();
    };
    // Without addresses in the file those of this machine would be found.
    let found: Vec<_> = if context.elsewhere && relay.addresses.is_empty() {
        relay.external.iter().map(|(_, told)| *told).collect()
    } else {
        let found = addresses::find(relay).unwrap_or_default();
        found.iter().map(|address| address.advertised).collect()
    };
    let mut advertised: Vec<IpAddr> = Vec::new();
    for address in found {
        if !advertised.contains(&address) {
            advertised.push(address);
        }
    }
    advertised
}
