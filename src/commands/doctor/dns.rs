//! Where the names lead that clients are told, and which addresses clients are told to be theirs.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use futures_util::future::join_all;
use shared::address_policy::is_public;
use turn_relay::{addresses, config::Config};

use super::{
    Context,
    finding::{Finding, Topic},
    places::{self, list},
};

const TOPIC: Topic = Topic::Dns;

pub(super) async fn examine(context: &Context) -> Vec<Finding> {
    let Some(config) = &context.turn else {
        return context.without_turn(TOPIC);
    };
    let hosts = places::hosts(config);
    if hosts.is_empty() {
        return vec![Finding::skipped(
            TOPIC,
            config.path.display().to_string(),
            "clients are told no name: `realm` is no host name, and there are no `credentials.uris`",
            "set `credentials.uris`, unless all credentials come from elsewhere",
        )];
    }
    let found = join_all(hosts.iter().map(async |host| {
        let found = places::resolve(host, context.timeout).await;
        (host.as_str(), found)
    }))
    .await;
    let advertised = places::advertised(context);
    let known = known(context, config, &advertised);
    let mut findings = Vec::new();
    for (host, found) in &found {
        match found {
            Ok(addresses) => findings.extend(judge(host, addresses, &advertised, &known)),
            Err(problem) => findings.push(Finding::failure(
                TOPIC,
                *host,
                format!("the name cannot be resolved: {problem}"),
                "clients are sent to this name, and do not find the relay",
                format!(
                    "add an A record (and AAAA) for {host} that leads to {}, or name another host in \
                     `credentials.uris`",
                    if advertised.is_empty() {
                        "the relay".to_owned()
                    } else {
                        list(advertised.iter().copied())
                    }
                ),
            )),
        }
    }
    let leads_to = found.iter().filter_map(|(_, found)| found.as_ref().ok());
    let leads_to: Vec<_> = leads_to.flatten().copied().collect();
    findings.extend(told(config, &advertised, &leads_to));
    findings
}

/// The addresses at which the relay can be; none where that cannot be known from here.
fn known(context: &Context, config: &Config, advertised: &[IpAddr]) -> BTreeSet<IpAddr> {
    if context.elsewhere {
        return BTreeSet::new();
    }
    let listen = &config.listen;
    let listeners = [&listen.udp, &listen.tcp, &listen.tls]
        .into_iter()
        .flatten();
    let listeners: Vec<_> = listeners.map(SocketAddr::ip).collect();
    let relayed = addresses::find(&config.relay).unwrap_or_default();
    let mut known: BTreeSet<_> = listeners.iter().copied().collect();
    known.extend(advertised);
    known.extend(relayed.iter().map(|address| address.bind));
    if listeners.iter().any(IpAddr::is_unspecified) {
        known.extend(places::own());
    }
    known
}

fn judge(
    host: &str,
    addresses: &[IpAddr],
    advertised: &[IpAddr],
    known: &BTreeSet<IpAddr>,
) -> Vec<Finding> {
    let of = |ips: Vec<&IpAddr>| list(ips.into_iter().copied());
    let mut warnings = Vec::new();
    let foreign: Vec<_> = addresses
        .iter()
        .filter(|address| !known.is_empty() && !known.contains(*address))
        .collect();
    if !foreign.is_empty() {
        warnings.push(Finding::warning(
            TOPIC,
            host,
            format!(
                "leads to {}, which is neither an address of this machine nor one in the relay's configuration",
                of(foreign)
            ),
            "unless a router or a load balancer passes packets on from there, clients reach something else",
            "correct the record; or, behind a NAT, name the public address in `relay.external`. TURN says whether \
             the relay is reached",
        ));
    }
    let private: Vec<_> = addresses
        .iter()
        .filter(|address| !is_public(**address))
        .collect();
    if !private.is_empty() {
        warnings.push(Finding::warning(
            TOPIC,
            host,
            format!("leads to {}, which is not reachable from the internet", of(private)),
            "clients outside of this network do not reach the relay",
            "have the public DNS lead to the public address; if it does and only this network's DNS says otherwise, \
             or clients come from this network alone, nothing needs to be done",
        ));
    }
    let is_name = host.parse::<IpAddr>().is_err();
    if is_name && !addresses.iter().all(IpAddr::is_loopback) {
        for (has, wanted, record) in [
            (IpAddr::is_ipv4 as fn(&IpAddr) -> bool, "IPv4", "A"),
            (IpAddr::is_ipv6, "IPv6", "AAAA"),
        ] {
            let (named, served) = (addresses.iter().any(has), advertised.iter().any(has));
            if served && !named {
                let ours = list(advertised.iter().copied().filter(has));
                warnings.push(Finding::warning(
                    TOPIC,
                    host,
                    format!("has no {record} record, and the relay has an {wanted} address"),
                    format!("clients that have {wanted} alone do not find the relay"),
                    format!("add the {record} record {ours}, or leave it if that address is not to be used"),
                ));
            } else if named && !served && !advertised.is_empty() {
                warnings.push(Finding::warning(
                    TOPIC,
                    host,
                    format!("has the {record} record {}, and the relay has no {wanted} address for packets", list(addresses.iter().copied().filter(has))),
                    format!("clients that come over {wanted} get no relayed address of that family"),
                    format!("name the {wanted} address in `relay.addresses`, or remove the {record} record"),
                ));
            }
        }
    }
    if warnings.is_empty() {
        let leads = format!("leads to {}", list(addresses.iter().copied()));
        return vec![Finding::good(TOPIC, host, leads)];
    }
    warnings
}

/// What clients are told to be their addresses on the relay.
fn told(config: &Config, advertised: &[IpAddr], leads_to: &[IpAddr]) -> Vec<Finding> {
    let all_on_this_machine = !leads_to.is_empty() && leads_to.iter().all(IpAddr::is_loopback);
    let path = config.path.display();
    advertised
        .iter()
        .map(|address| {
            let subject = "relayed addresses";
            if is_public(*address) {
                let what = format!("clients are told that they are at {address}");
                return Finding::good(TOPIC, subject, what);
            }
            let what = format!(
                "clients are told that they are at {address}, which cannot be reached from the internet"
            );
            if address.is_loopback() && all_on_this_machine {
                return Finding::warning(
                    TOPIC,
                    subject,
                    what,
                    "this is good for trying things out on this machine, and for nothing else",
                    format!("for others set `realm` and `relay.addresses` in {path}"),
                );
            }
            Finding::failure(
                TOPIC,
                subject,
                what,
                "calls with anybody outside of this network fail: the other side sends to this address",
                format!(
                    "behind a NAT set `relay.external` in {path} to {{\"LOCAL\": \"PUBLIC\"}}; if the machine has a \
                     public address of its own, name it in `relay.addresses`. Then restart the relay"
                ),
            )
        })
        .collect()
}
