//! What several topics need of the network: asked for once, with the time that each answer gives.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use push_gateway::{
    app::{Apps, Parts},
    metrics::Metrics,
    provider::Probe,
};
use serde_json::Value;
use shared::{
    address_policy::is_public,
    http_client::{ClientConfig, HttpClient, Response, Versions},
    tls,
};
use tokio::sync::OnceCell;
use url::{Host, Url};

use super::Context;

/// Longest answer that is read; what is cut off is no JSON any more.
const MAX_ANSWER: usize = 64 * 1024;
/// Connections to one host: the topics ask side by side.
const CONNECTIONS: usize = 8;
/// How often the well-known may be elsewhere.
const REDIRECTS: usize = 4;
/// What a web client sends along; some servers answer with CORS headers only then.
pub(super) const ORIGIN: HeaderValue = HeaderValue::from_static("https://nocturne-doctor.invalid");

/// What was asked so far.
#[derive(Default)]
pub(super) struct Reached {
    client: OnceLock<Result<HttpClient, String>>,
    server_name: OnceCell<Option<String>>,
    well_known: OnceCell<Option<Page>>,
    homeservers: OnceCell<Vec<Homeserver>>,
    probes: OnceCell<Result<Vec<Probed>, String>>,
}

/// What came of one GET request.
#[derive(Debug)]
pub(super) struct Page {
    /// What was asked first.
    pub(super) url: String,
    /// Why there is no answer, in words without anything secret.
    pub(super) answer: Result<Answer, String>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// See [`ahead`].
    pub(super) ahead: Option<i64>,
}

/// A homeserver's base URL, and what it answers at `/_matrix/client/versions`.
#[derive(Debug)]
pub(super) struct Homeserver {
    /// Without a slash at the end.
    pub(super) base: String,
    pub(super) role: Role,
    pub(super) versions: Page,
}

/// Who has to reach a homeserver at a base URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The credential service alone: `credentials.homeserver`.
    Inside,
    /// Clients, too.
    Public,
}

/// An app of the push gateway, and what its provider said.
#[derive(Debug)]
pub(super) struct Probed {
    pub(super) app: String,
    /// None: there is nobody to ask.
    pub(super) probe: Option<Probe>,
    /// See [`ahead`].
    pub(super) ahead: Option<i64>,
}

/// The name behind the colon in user IDs: as given, else what the homeserver calls itself.
pub(super) async fn server_name(context: &Context) -> Option<&str> {
    let asked = context.reached.server_name.get_or_init(async || {
        if context.server_name.is_some() {
            return context.server_name.clone();
        }
        let known = context.homeserver.as_ref().or_else(|| inside(context))?;
        let page = get(context, &format!("{}/_matrix/key/v2/server", base(known))).await;
        let key = page.answer.ok()?.json()?;
        let name = key.get("server_name")?.as_str()?;
        let is_name = Url::parse(&format!("https://{name}/")).is_ok_and(|url| {
            url.path() == "/"
                && url.query().is_none()
                && url.fragment().is_none()
                && url.username().is_empty()
        });
        is_name.then(|| name.to_owned())
    });
    asked.await.as_deref()
}

/// `https://SERVER_NAME/.well-known/matrix/client`, where redirects lead; none without a server name. Clients
/// take the whole server name, with its port if it has one.
pub(super) async fn well_known(context: &Context) -> Option<&Page> {
    let asked = context.reached.well_known.get_or_init(async || {
        let name = server_name(context).await?;
        let url = format!("https://{name}/.well-known/matrix/client");
        let mut page = get(context, &url).await;
        for _ in 0..REDIRECTS {
            let Some(next) = page.redirected() else {
                break;
            };
            page = get(context, next.as_str()).await;
        }
        Some(Page { url, ..page })
    });
    asked.await.as_ref()
}

/// `m.homeserver.base_url` of a well-known.
pub(super) fn base_url(well_known: &Value) -> Option<Url> {
    let text = well_known.get("m.homeserver")?.get("base_url")?.as_str()?;
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// Whether what is sent there can be read on the way.
pub(super) fn is_in_clear(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else {
        return false;
    };
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    url.scheme() == "http" && !is_here
}

/// The base URL that clients have, without a slash at the end: as given, else as the well-known says, else
/// `credentials.homeserver` where that can be the clients' address, too.
pub(super) async fn public_base(context: &Context) -> Option<String> {
    if let Some(given) = &context.homeserver {
        return Some(base(given));
    }
    let page = well_known(context).await;
    let said = page
        .and_then(|page| page.answer.as_ref().ok()?.json())
        .and_then(|json| base_url(&json));
    said.as_ref()
        .or_else(|| inside(context).filter(|url| is_for_clients(url)))
        .map(base)
}

/// Every base URL that is known, each once.
pub(super) async fn homeservers(context: &Context) -> &[Homeserver] {
    let asked = context.reached.homeservers.get_or_init(async || {
        let public = public_base(context).await;
        let inside = inside(context).map(base);
        let inside = inside.filter(|inside| Some(inside) != public.as_ref());
        let all = [(inside, Role::Inside), (public, Role::Public)];
        let asked = all.map(async |(base, role)| {
            let base = base?;
            let versions = get(context, &format!("{base}/_matrix/client/versions")).await;
            Some(Homeserver {
                base,
                role,
                versions,
            })
        });
        let answered = futures_util::future::join_all(asked).await;
        answered.into_iter().flatten().collect()
    });
    asked.await
}

/// What the providers of all apps say; an error when the apps cannot be made ready.
pub(super) async fn probes(context: &Context) -> &Result<Vec<Probed>, String> {
    let asked = context.reached.probes.get_or_init(async || {
        let Some(config) = &context.push else {
            return Ok(Vec::new());
        };
        let metrics = Metrics::new(&context.clock);
        let parts = Parts {
            clock: &context.clock,
            random: &context.random,
            roots: Arc::new(tls::roots(&context.environment)?),
            metrics: &metrics,
        };
        let apps = Apps::new(config, &parts, None)?;
        let asked = apps.iter().map(async |app| {
            let sent = context.clock.wall();
            let deadline = context.clock.now() + context.timeout;
            let probe = app.provider.probe(deadline).await;
            let received = context.clock.wall();
            let date = probe.as_ref().and_then(|probe| probe.date);
            Probed {
                app: app.name.to_string(),
                probe,
                ahead: date.map(|date| ahead(sent, received, date)),
            }
        });
        Ok(futures_util::future::join_all(asked).await)
    });
    asked.await
}

/// Asks as a web client would.
pub(super) async fn get(context: &Context, url: &str) -> Page {
    get_with(context, url, &[]).await
}

/// Asks with more headers.
pub(super) async fn get_with(
    context: &Context,
    url: &str,
    headers: &[(HeaderName, HeaderValue)],
) -> Page {
    Page {
        url: url.to_owned(),
        answer: send(context, url, headers).await,
    }
}

async fn send(
    context: &Context,
    url: &str,
    headers: &[(HeaderName, HeaderValue)],
) -> Result<Answer, String> {
    let client = context.reached.client.get_or_init(|| {
        HttpClient::new(ClientConfig {
            roots: tls::roots(&context.environment)?.into(),
            identity: None,
            proxy: None,
            no_proxy: None,
            versions: Versions::Http2Or1,
            policy: None,
            connect_timeout: context.timeout,
            max_connections: CONNECTIONS,
            max_response_body: MAX_ANSWER,
        })
        .map_err(|error| error.to_string())
    });
    let client = client.as_ref().map_err(Clone::clone)?;
    let mut request = Request::get(url)
        .header(header::ORIGIN, ORIGIN)
        .body(Bytes::new())
        .map_err(|error| error.to_string())?;
    for (name, value) in headers {
        request.headers_mut().insert(name, value.clone());
    }
    let origin = client.origin(request.uri()).map_err(|error| error.detail)?;
    let sent = context.clock.wall();
    let deadline = context.clock.now() + context.timeout;
    let answer = origin
        .send(request, deadline)
        .await
        .map_err(|error| error.detail)?;
    Ok(Answer::new(answer, sent, context.clock.wall()))
}

impl Page {
    /// Where a redirect leads; never to where everybody could answer.
    fn redirected(&self) -> Option<Url> {
        let answer = self.answer.as_ref().ok()?;
        if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let location = answer.headers.get(header::LOCATION)?.to_str().ok()?;
        let next = Url::parse(&self.url).ok()?.join(location).ok()?;
        (next.scheme() == "https").then_some(next)
    }
}

impl Answer {
    fn new(answer: Response, sent: SystemTime, received: SystemTime) -> Self {
        let is_stored = answer.headers.contains_key(header::AGE);
        let date = answer.headers.get(header::DATE).filter(|_| !is_stored);
        let date = date
            .and_then(|value| value.to_str().ok())
            .and_then(|text| httpdate::parse_http_date(text).ok());
        Self {
            status: answer.status,
            headers: answer.headers,
            body: answer.body,
            ahead: date.map(|date| ahead(sent, received, date)),
        }
    }

    /// The body, if it is JSON.
    pub(super) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// By how many seconds this machine's clock is ahead of the server's at the least, from a `Date` of whole seconds
/// that was written at some time between; negative: behind.
fn ahead(sent: SystemTime, received: SystemTime, date: SystemTime) -> i64 {
    let seconds = |later: SystemTime, earlier: SystemTime| {
        let since = later.duration_since(earlier).ok()?;
        i64::try_from(since.as_secs()).ok()
    };
    let end = date.checked_add(Duration::from_secs(1)).unwrap_or(date);
    match (seconds(sent, end), seconds(date, received)) {
        (Some(ahead), _) => ahead,
        (None, Some(behind)) => -behind,
        (None, None) => 0,
    }
}

/// `credentials.homeserver`
fn inside(context: &Context) -> Option<&Url> {
    context.turn.as_ref()?.credentials.homeserver.as_ref()
}

fn is_for_clients(url: &Url) -> bool {
    let is_public = match url.host() {
        Some(Host::Domain(name)) => name != "localhost" && name.contains('.'),
        Some(Host::Ipv4(address)) => is_public(address.into()),
        Some(Host::Ipv6(address)) => is_public(address.into()),
        None => false,
    };
    is_public && url.scheme() == "https"
}

fn base(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_clock_is_ahead_by_what_the_way_and_the_whole_seconds_cannot_explain() {
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        for (sent, received, date, expected) in [
            (1_000_000, 1_000_200, 1_000_000, 0),
            (1_000_900, 1_001_100, 1_000_000, 0),
            // a server that took ten seconds
            (1_000_000, 1_010_000, 1_005_000, 0),
            (1_000_000, 1_010_000, 1_000_000, 0),
            (1_003_000, 1_003_100, 1_000_000, 2),
            (1_000_000, 1_000_100, 1_060_000, -59),
            (4_600_000, 4_600_100, 1_000_000, 3599),
        ] {
            let ahead = ahead(at(sent), at(received), at(date));
            assert_eq!(ahead, expected, "{sent} {received} {date}");
        }
    }

    #[test]
    fn what_goes_to_others_without_tls_is_in_clear() {
        for url in [
            "http://matrix.example.org",
            "http://192.0.2.1:8008/",
            "http://[2001:db8::1]",
        ] {
            assert!(is_in_clear(url), "{url}");
        }
        for url in [
            "https://matrix.example.org",
            "http://localhost:8008",
            "http://127.0.0.1:8008",
            "http://[::1]",
        ] {
            assert!(!is_in_clear(url), "{url}");
        }
    }

    #[test]
    fn an_address_of_this_machine_is_not_what_clients_have() {
        for (url, expected) in [
            ("https://matrix.example.org", true),
            ("https://8.8.8.8", true),
            ("http://matrix.example.org", false),
            ("https://localhost:8448", false),
            ("https://synapse:8448", false),
            ("https://10.0.0.5", false),
            ("https://[::1]:8008", false),
        ] {
            let url = url.parse().expect("a URL");
            assert_eq!(is_for_clients(&url), expected, "{url}");
        }
    }
}
