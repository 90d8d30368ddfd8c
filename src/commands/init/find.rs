//! What an installation needs to know and nobody has to be asked: this host's addresses, what DNS says of
//! the relay's name, where the homeserver is, and whether there is a certificate.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::Value;
use shared::{
    address_policy::is_public,
    clock::Clock,
    environment::Environment,
    http_client::{ClientConfig, HttpClient, Versions},
    tls,
};
use turn_relay::{addresses, config::Relay};
use url::Url;

/// How long DNS may take.
const DNS_PATIENCE: Duration = Duration::from_secs(5);
/// How long a server on this machine may take to answer.
const LOCAL_PATIENCE: Duration = Duration::from_secs(2);
/// How long one elsewhere may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where homeservers listen behind their reverse proxy: Synapse, Dendrite, Tuwunel and Continuwuity on the
/// first, older Conduits on the second.
const LOCAL_PORTS: [u16; 2] = [8008, 6167];

/// This host's addresses, without a packet sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Host {
    /// Those that packets to the internet leave from, IPv4 first.
    pub(super) found: Vec<IpAddr>,
    /// All of its interfaces.
    pub(super) interfaces: Vec<IpAddr>,
}

impl Host {
    /// Asks the operating system.
    pub(super) fn of_this_machine() -> Self {
        let found = addresses::find(&Relay::default()).unwrap_or_default();
        Self {
            found: found.iter().map(|address| address.bind).collect(),
            interfaces: addresses::own(&[]).unwrap_or_default(),
        }
    }
}

/// Where the relay is, for itself and for clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    /// This host's own address, and what clients are told.
    pub(super) pairs: Vec<(IpAddr, IpAddr)>,
    /// Whether the relay would find the own ones by itself.
    pub(super) are_found: bool,
    /// Those of `pairs` that DNS gave.
    pub(super) from_dns: Vec<IpAddr>,
    /// Found ones that clients are not told, since nobody outside reaches them.
    pub(super) left_out: Vec<IpAddr>,
}

/// Why nobody knows where the relay can be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unknown {
    #[error(
        "this host has no route to the internet, so that its address cannot be found: say it with \
         --public-address ADDRESS"
    )]
    NoRoute,
    #[error(
        "this host has the private address {local}, so it is behind a NAT (a router, or a cloud that translates). Which \
         public address leads here? Say it with --public-address ADDRESS (the router or the provider's console shows \
         it), or give {host} that address in DNS first and run this again. If calls are to stay inside this network: \
         --public-address {local}"
    )]
    BehindNat { local: IpAddr, host: String },
    #[error(
        "this host has the private address {local}, so it is behind a NAT, and {host} has several addresses in DNS: \
         which of them leads here? Say it with --public-address ADDRESS"
    )]
    Ambiguous { local: IpAddr, host: String },
    #[error("--public-address {0} is no address that a host can have")]
    Impossible(IpAddr),
    #[error(
        "--public-address {0}: this host has no address of that kind with a route to the internet that it could lead to"
    )]
    NothingBehind(IpAddr),
    #[error("--public-address {0} and {1} would lead to the same address of this host")]
    Twice(IpAddr, IpAddr),
}

/// Puts together what the host knows, what was said on the command line, and what DNS has for `turn_host`.
pub(super) fn addresses(
    host: &Host,
    given: &[IpAddr],
    in_dns: &[IpAddr],
    turn_host: &str,
) -> Result<Addresses, Unknown> {
    let mut addresses = Addresses::default();
    for public in given {
        if public.is_unspecified()
            || public.is_multicast()
            || *public == IpAddr::V4(Ipv4Addr::BROADCAST)
        {
            return Err(Unknown::Impossible(*public));
        }
        let local = if host.interfaces.contains(public) {
            *public
        } else {
            let same_family = |local: &&IpAddr| local.is_ipv4() == public.is_ipv4();
            *host
                .found
                .iter()
                .find(same_family)
                .ok_or(Unknown::NothingBehind(*public))?
        };
        if let Some((_, other)) = addresses.pairs.iter().find(|(known, _)| *known == local) {
            if other != public {
                return Err(Unknown::Twice(*other, *public));
            }
            continue;
        }
        addresses.pairs.push((local, *public));
    }
    for local in &host.found {
        let said = |family_of: &IpAddr| family_of.is_ipv4() == local.is_ipv4();
        if given.iter().any(said) {
            continue;
        }
        if is_public(*local) {
            addresses.pairs.push((*local, *local));
        } else if !given.is_empty() || local.is_ipv6() {
            addresses.left_out.push(*local);
        } else {
            let candidates: BTreeSet<_> = in_dns
                .iter()
                .filter(|address| address.is_ipv4() && is_public(**address))
                .collect();
            let mut candidates = candidates.into_iter();
            let (local, host) = (*local, turn_host.to_owned());
            match (candidates.next(), candidates.next()) {
                (Some(public), None) => {
                    addresses.pairs.push((local, *public));
                    addresses.from_dns.push(*public);
                }
                (None, _) => return Err(Unknown::BehindNat { local, host }),
                (Some(_), Some(_)) => return Err(Unknown::Ambiguous { local, host }),
            }
        }
    }
    if addresses.pairs.is_empty() {
        return Err(match addresses.left_out.first() {
            Some(local) => Unknown::BehindNat {
                local: *local,
                host: turn_host.to_owned(),
            },
            None => Unknown::NoRoute,
        });
    }
    addresses.pairs.sort_by_key(|(local, _)| local.is_ipv6());
    let locals: Vec<_> = addresses.pairs.iter().map(|(local, _)| *local).collect();
    addresses.are_found = locals == host.found;
    Ok(addresses)
}

/// What DNS has for a name; nothing if it does not answer.
pub(super) async fn in_dns(name: &str) -> Vec<IpAddr> {
    let asked = tokio::time::timeout(DNS_PATIENCE, tokio::net::lookup_host((name, 0))).await;
    let Ok(Ok(found)) = asked else {
        return Vec::new();
    };
    let found: BTreeSet<_> = found.map(|address| address.ip().to_canonical()).collect();
    found.into_iter().collect()
}

/// Where the homeserver is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Homeserver {
    /// Its base URL for clients.
    pub(super) public: Url,
    /// Its base URL for this machine, where that is another.
    pub(super) local: Option<Url>,
    /// Whether anything but its name speaks for `public`.
    pub(super) is_found: bool,
}

impl Homeserver {
    /// What the credential service asks.
    pub(super) fn nearest(&self) -> &Url {
        self.local.as_ref().unwrap_or(&self.public)
    }
}

/// Asks this machine's usual ports, and the server name's well-known file.
pub(super) async fn homeserver(
    server_name: &str,
    domain: &str,
    environment: &Environment,
) -> Homeserver {
    let Ok(client) = client(environment) else {
        return guessed(domain);
    };
    let (local, public) = tokio::join!(
        local(&client, server_name, &LOCAL_PORTS),
        well_known(&client, domain)
    );
    let is_found = public.is_some();
    Homeserver {
        public: public.unwrap_or_else(|| guessed(domain).public),
        local,
        is_found,
    }
}

/// The homeserver's place when nobody says where it is.
pub(super) fn guessed(domain: &str) -> Homeserver {
    Homeserver {
        public: base_url(&format!("https://matrix.{domain}"))
            .expect("a URL because the domain was checked"),
        local: None,
        is_found: false,
    }
}

/// The homeserver that somebody named: clients reach it there if that is a public address.
pub(super) fn named(url: Url, domain: &str) -> Homeserver {
    let is_local = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => !is_public(address.into()),
        Some(url::Host::Ipv6(address)) => !is_public(address.into()),
        None => true,
    };
    if is_local || url.scheme() == "http" {
        Homeserver {
            local: Some(url),
            ..guessed(domain)
        }
    } else {
        Homeserver {
            public: url,
            local: None,
            is_found: true,
        }
    }
}

/// A base URL as the relay's configuration takes it.
pub(super) fn base_url(text: &str) -> Result<Url, String> {
    Url::parse(text)
        .ok()
        .filter(|url| {
            matches!(url.scheme(), "https" | "http")
                && url.host_str().is_some_and(|host| !host.is_empty())
                && url.query().is_none()
                && url.fragment().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        })
        .ok_or_else(|| "give it as https://matrix.example.org or http://127.0.0.1:8008".to_owned())
}

fn client(environment: &Environment) -> Result<HttpClient, String> {
    HttpClient::new(ClientConfig {
        roots: tls::roots(environment)?.into(),
        identity: None,
        proxy: None,
        no_proxy: None,
        versions: Versions::Http2Or1,
        policy: None,
        connect_timeout: PATIENCE,
        max_connections: 1,
        max_response_body: 64 * 1024,
    })
    .map_err(|error| error.to_string())
}

async fn local(client: &HttpClient, server_name: &str, ports: &[u16]) -> Option<Url> {
    for port in ports {
        let base = format!("http://127.0.0.1:{port}");
        let Some(versions) = get(
            client,
            &format!("{base}/_matrix/client/versions"),
            LOCAL_PATIENCE,
        )
        .await
        else {
            continue;
        };
        if !versions["versions"].is_array() {
            continue;
        }
        let key = get(
            client,
            &format!("{base}/_matrix/key/v2/server"),
            LOCAL_PATIENCE,
        )
        .await;
        // not every listener says whose it is
        let is_other = key.is_some_and(|key| {
            key["server_name"]
                .as_str()
                .is_some_and(|name| name != server_name)
        });
        if !is_other {
            return base_url(&base).ok();
        }
    }
    None
}

async fn well_known(client: &HttpClient, domain: &str) -> Option<Url> {
    let answer = get(
        client,
        &format!("https://{domain}/.well-known/matrix/client"),
        PATIENCE,
    )
    .await?;
    base_url(answer["m.homeserver"]["base_url"].as_str()?).ok()
}

async fn get(client: &HttpClient, url: &str, patience: Duration) -> Option<Value> {
    let request = http::Request::builder()
        .method(Method::GET)
        .uri(url)
        .body(Bytes::new())
        .ok()?;
    let origin = client.origin(request.uri()).ok()?;
    let answer = origin
        .send(request, Clock::system().now() + patience)
        .await
        .ok()?;
    if answer.status != StatusCode::OK {
        return None;
    }
    serde_json::from_slice(&answer.body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| ip(text)).collect()
    }

    fn host(found: &[&str]) -> Host {
        let mut interfaces = ips(found);
        interfaces.push(ip("127.0.0.1"));
        Host {
            found: ips(found),
            interfaces,
        }
    }

    fn decided(found: &[&str], given: &[&str], in_dns: &[&str]) -> Result<Addresses, Unknown> {
        addresses(&host(found), &ips(given), &ips(in_dns), "turn.example.org")
    }

    fn pairs(addresses: &Addresses) -> Vec<String> {
        let pairs = addresses.pairs.iter();
        pairs
            .map(|(local, told)| format!("{local}={told}"))
            .collect()
    }

    #[test]
    fn public_addresses_are_found_again_at_each_start() {
        let addresses = decided(&["8.8.8.8", "2606:4700::7"], &[], &[]).expect("known");
        assert_eq!(
            pairs(&addresses),
            ["8.8.8.8=8.8.8.8", "2606:4700::7=2606:4700::7"]
        );
        assert!(addresses.are_found);
        assert!(addresses.left_out.is_empty());
    }

    #[test]
    fn behind_a_nat_the_command_line_wins_over_dns_and_dns_over_asking() {
        let addresses = decided(&["10.0.0.5"], &["8.8.8.8"], &["9.9.9.9"]).expect("said");
        assert_eq!(pairs(&addresses), ["10.0.0.5=8.8.8.8"]);
        assert!(addresses.are_found);
        assert!(addresses.from_dns.is_empty());

        let addresses = decided(&["10.0.0.5"], &[], &["9.9.9.9", "2606:4700::7"]).expect("in DNS");
        assert_eq!(pairs(&addresses), ["10.0.0.5=9.9.9.9"]);
        assert_eq!(addresses.from_dns, ips(&["9.9.9.9"]));

        let asked = decided(&["10.0.0.5"], &[], &[])
            .expect_err("nobody knows")
            .to_string();
        assert!(asked.contains("--public-address"), "{asked}");
        assert!(
            asked.contains("10.0.0.5") && asked.contains("turn.example.org"),
            "{asked}"
        );
        // a private address in DNS is not where the world comes from
        assert!(decided(&["10.0.0.5"], &[], &["10.0.0.5"]).is_err());
        assert_eq!(
            decided(&["100.64.0.5"], &[], &["9.9.9.9", "8.8.8.8"]),
            Err(Unknown::Ambiguous {
                local: ip("100.64.0.5"),
                host: "turn.example.org".to_owned()
            })
        );
    }

    #[test]
    fn a_public_ipv6_address_does_not_make_up_for_a_private_ipv4_one() {
        assert!(decided(&["10.0.0.5", "2606:4700::7"], &[], &[]).is_err());
        let addresses = decided(&["10.0.0.5", "2606:4700::7"], &["8.8.8.8"], &[]).expect("said");
        assert_eq!(
            pairs(&addresses),
            ["10.0.0.5=8.8.8.8", "2606:4700::7=2606:4700::7"]
        );
        // whoever names the one of IPv6 alone does without IPv4
        let addresses =
            decided(&["10.0.0.5", "2606:4700::7"], &["2606:4700::7"], &[]).expect("said");
        assert_eq!(pairs(&addresses), ["2606:4700::7=2606:4700::7"]);
        assert!(!addresses.are_found);
        assert_eq!(addresses.left_out, ips(&["10.0.0.5"]));
    }

    #[test]
    fn private_ipv6_addresses_are_told_to_nobody() {
        let addresses = decided(&["8.8.8.8", "fd00::5"], &[], &[]).expect("known");
        assert_eq!(pairs(&addresses), ["8.8.8.8=8.8.8.8"]);
        assert!(!addresses.are_found);
        assert_eq!(addresses.left_out, ips(&["fd00::5"]));
        assert!(matches!(
            decided(&["fd00::5"], &[], &[]),
            Err(Unknown::BehindNat { .. })
        ));
    }

    #[test]
    fn an_address_of_this_host_is_taken_as_it_is() {
        for address in ["127.0.0.1", "10.0.0.5"] {
            let addresses = decided(&["10.0.0.5"], &[address], &[]).expect("said");
            assert_eq!(pairs(&addresses), [format!("{address}={address}")]);
            assert_eq!(addresses.are_found, address == "10.0.0.5");
        }
        // where there is no route at all
        let addresses = decided(&[], &["127.0.0.1"], &[]).expect("said");
        assert_eq!(pairs(&addresses), ["127.0.0.1=127.0.0.1"]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(decided(&[], &[], &["9.9.9.9"]), Err(Unknown::NoRoute));
        for address in ["0.0.0.0", "::", "255.255.255.255", "224.0.0.1"] {
            let refused = decided(&["10.0.0.5"], &[address], &[]);
            assert_eq!(refused, Err(Unknown::Impossible(ip(address))));
        }
        assert_eq!(
            decided(&["10.0.0.5"], &["2606:4700::7"], &[]),
            Err(Unknown::NothingBehind(ip("2606:4700::7")))
        );
        assert_eq!(
            decided(&["10.0.0.5"], &["8.8.8.8", "9.9.9.9"], &[]),
            Err(Unknown::Twice(ip("8.8.8.8"), ip("9.9.9.9")))
        );
    }

    #[test]
    fn a_homeserver_that_is_named_is_asked_there() {
        let named = |text: &str| named(base_url(text).expect("a URL"), "example.org");
        let public = named("https://chat.example.org");
        assert_eq!(public.public.as_str(), "https://chat.example.org/");
        assert_eq!(public.nearest(), &public.public);
        assert!(public.is_found);
        for local in [
            "http://127.0.0.1:8008",
            "http://synapse:8008",
            "https://10.0.0.7",
            "http://[::1]:8008",
        ] {
            let found = named(local);
            assert_eq!(found.nearest(), &base_url(local).expect("a URL"));
            assert_eq!(found.public.as_str(), "https://matrix.example.org/");
            assert!(!found.is_found);
        }
        for text in [
            "matrix.example.org",
            "ftp://a.example",
            "https://a.example?b",
            "https://a:b@c.example",
            "https://",
        ] {
            assert!(base_url(text).is_err(), "{text}");
        }
    }

    /// A server that answers each path with what is given for it, and 404 else.
    async fn server(answers: &'static [(&'static str, &'static str)]) -> u16 {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.expect("a request"));
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let found = answers.iter().find(|(known, _)| *known == path);
                let (status, body) =
                    found.map_or(("404 Not Found", "{}"), |(_, body)| ("200 OK", body));
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream
                    .write_all(answer.as_bytes())
                    .await
                    .expect("it is read");
            }
        });
        port
    }

    #[tokio::test]
    async fn a_homeserver_on_this_machine_is_found_if_it_is_the_right_one() {
        const VERSIONS: (&str, &str) = ("/_matrix/client/versions", r#"{"versions": ["v1.11"]}"#);
        let nothing = server(&[]).await;
        let other_program = server(&[(VERSIONS.0, r#"{"hello": "world"}"#)]).await;
        let other_homeserver = server(&[
            VERSIONS,
            (
                "/_matrix/key/v2/server",
                r#"{"server_name": "other.example"}"#,
            ),
        ])
        .await;
        let ours = server(&[
            VERSIONS,
            (
                "/_matrix/key/v2/server",
                r#"{"server_name": "example.org"}"#,
            ),
        ])
        .await;
        let silent_on_its_name = server(&[VERSIONS]).await;
        let client = client(&Environment::of_process()).expect("a client");
        let found = async |ports: &[u16]| {
            let url = local(&client, "example.org", ports).await?;
            Some(url.port().expect("a port"))
        };
        assert_eq!(
            found(&[nothing, other_program, other_homeserver]).await,
            None
        );
        assert_eq!(
            found(&[nothing, other_program, other_homeserver, ours]).await,
            Some(ours)
        );
        assert_eq!(
            found(&[silent_on_its_name, ours]).await,
            Some(silent_on_its_name)
        );
    }
}
