//! Endpoints: the URLs that Web Push and UnifiedPush devices bring along.
//!
//! Whoever can reach the gateway can name any URL here, so this is the place that decides what the
//! gateway may be sent to: `https` to public addresses and to those that `outbound.allow_private`
//! names. Plain `http` is for a literal address that is not public and that `allow_private` names (a
//! push server in the same rack, a test): over the open internet it would show the path, which is
//! all that protects the endpoint, and a name cannot promise that it stays on the private network.

use std::{
    fmt,
    hash::Hash,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use shared::{
    address_policy::is_public,
    clock::Clock,
    http_client::{HttpClient, Origin},
};
use url::{Host, Url};

use super::{Attempt, transport};
use crate::{config::Glob, outcome::Outcome};

/// The longest endpoint that is taken. The longest in use (Windows) have about 800 bytes; UnifiedPush
/// allows 1000.
const LONGEST: usize = 2048;

/// The longest name that DNS knows (RFC 1035 §2.3.4), which bounds what is kept per push service.
const LONGEST_HOST: usize = 253;

/// A well-formed endpoint. It may not be printed: its path is the secret that lets one push.
pub(super) struct Endpoint {
    uri: Uri,
    origin: OriginKey,
    /// Host and, where the URL writes one, port: what `allowed_endpoints` is compared with.
    netloc: String,
    address: Option<IpAddr>,
    is_https: bool,
}

/// The push service behind a push: its scheme, host and port.
///
/// Web Push and UnifiedPush devices of one app are spread over many push services, which strangers can
/// add to. Whatever is counted about one of them, its failures above all, is counted by this key, so
/// that the failures of one service are not held against another. Shown as `[hidden]`: a host may belong
/// to one person.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct OriginKey(Arc<str>);

/// A request made ready for one endpoint.
pub(super) struct EndpointRequest {
    uri: Uri,
    connections: Origin,
    origin: OriginKey,
    headers: HeaderMap,
    body: Bytes,
}

impl Endpoint {
    /// Reads an absolute `https` or `http` URL with a host and without user or password.
    ///
    /// Nothing but ASCII without spaces, backslashes and control characters is taken, so that no
    /// reader of the URL can find another host in it than this one. A fragment is dropped.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > LONGEST
            || !text
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        {
            return None;
        }
        let (scheme, rest) = text.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        if authority.is_empty() || authority.contains('@') {
            return None;
        }
        let is_https = scheme.eq_ignore_ascii_case("https");
        if !is_https && !scheme.eq_ignore_ascii_case("http") {
            return None;
        }
        let mut url = Url::parse(text).ok()?;
        url.set_fragment(None);
        if url.port() == Some(0) {
            return None;
        }
        let address = match url.host()? {
            Host::Ipv4(address) => Some(IpAddr::V4(address)),
            Host::Ipv6(address) => Some(IpAddr::V6(address)),
            Host::Domain(_) => None,
        };
        let host = url.host_str()?;
        if host.len() > LONGEST_HOST {
            return None;
        }
        let netloc = if writes_port(authority) {
            format!("{host}:{}", url.port_or_known_default()?)
        } else {
            host.to_owned()
        };
        Some(Self {
            uri: url.as_str().parse().ok()?,
            origin: OriginKey(url.origin().ascii_serialization().into()),
            netloc,
            address,
            is_https,
        })
    }

    /// Whether `allowed_endpoints` names the endpoint's host, and its port where the URL writes one.
    pub(super) fn is_named_by(&self, allowed: Option<&[Glob]>) -> bool {
        allowed.is_none_or(|globs| {
            globs
                .iter()
                .any(|glob| glob.matches_ignoring_ascii_case(&self.netloc))
        })
    }

    /// The push service that the endpoint belongs to.
    pub(super) const fn origin(&self) -> &OriginKey {
        &self.origin
    }

    /// The connections to the endpoint's push service, if it may be reached; connects to nothing yet.
    ///
    /// What may not be reached fails and is not rejected: Sygnal reaches it, and whoever switches over has
    /// to learn of it from the log and not from pushers that are gone.
    pub(super) fn connections(&self, http: &HttpClient) -> Result<Origin, Outcome> {
        if !self.has_safe_scheme() {
            return Err(transport::denied(
                "http:// but for literal addresses of outbound.allow_private",
            )
            .into());
        }
        http.origin(&self.uri)
            .map_err(|error| transport::outcome(&error))
    }

    /// A request to the endpoint.
    pub(super) fn request(
        self,
        connections: Origin,
        headers: HeaderMap,
        body: impl Into<Bytes>,
    ) -> EndpointRequest {
        EndpointRequest {
            uri: self.uri,
            connections,
            origin: self.origin,
            headers,
            body: body.into(),
        }
    }

    /// `https`, or a literal address that is not public. That the latter is named by `allow_private` is
    /// what [`HttpClient::origin`] sees to.
    fn has_safe_scheme(&self) -> bool {
        self.is_https || self.address.is_some_and(|address| !is_public(address))
    }
}

/// Whether a URL's authority ends in a port.
fn writes_port(authority: &str) -> bool {
    authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

impl EndpointRequest {
    /// The push service that the request goes to.
    pub(super) const fn origin(&self) -> &OriginKey {
        &self.origin
    }

    /// Sends the request once; `meaning` says what an answer means.
    pub(super) async fn send(
        &self,
        clock: &Clock,
        timeout: Duration,
        deadline: Instant,
        meaning: fn(StatusCode, &HeaderMap, SystemTime) -> Outcome,
    ) -> Attempt {
        let mut request = http::Request::new(self.body.clone());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let deadline = clock
            .now()
            .checked_add(timeout)
            .map_or(deadline, |own| deadline.min(own));
        match self.connections.send(request, deadline).await {
            Ok(response) => Attempt {
                outcome: meaning(response.status, &response.headers, clock.wall()),
                status: Some(response.status.as_u16()),
            },
            Err(error) => Attempt {
                outcome: transport::outcome(&error),
                status: None,
            },
        }
    }
}

impl OriginKey {
    /// `scheme://host`, with the port where it is not the scheme's own (RFC 6454 §6.2).
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for OriginKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[hidden]")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn endpoints_of_the_push_services_in_use_are_taken() {
        for (text, origin) in [
            (
                "https://updates.push.services.mozilla.com/wpush/v2/gAAAAABk-_x",
                "https://updates.push.services.mozilla.com",
            ),
            (
                "https://fcm.googleapis.com/fcm/send/abc:APA91b_-",
                "https://fcm.googleapis.com",
            ),
            (
                "https://db5p.notify.windows.com/w/?token=BQYA%2bAbc%3d",
                "https://db5p.notify.windows.com",
            ),
            (
                "https://ntfy.example:8443/upAbc?up=1",
                "https://ntfy.example:8443",
            ),
            ("HTTPS://NTFY.Example:443/upAbc", "https://ntfy.example"),
            ("https://[2606:4700::1111]/up", "https://[2606:4700::1111]"),
        ] {
            let endpoint = parse(text);
            assert_eq!(endpoint.origin().as_str(), origin);
            assert!(endpoint.has_safe_scheme());
        }
    }

    #[test]
    fn path_and_query_reach_the_push_service_as_they_are_and_the_fragment_does_not() {
        let endpoint = parse("https://push.example/w/?token=a%2Bb&c=d#here");
        assert_eq!(endpoint.uri, "https://push.example/w/?token=a%2Bb&c=d");
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        let long = format!("https://push.example/{}", "x".repeat(LONGEST));
        let long_host = format!("https://{}example/x", "x.".repeat(LONGEST_HOST / 2));
        for text in [
            "",
            "push.example/x",
            "//push.example/x",
            "https:push.example/x",
            "https:///push.example/x",
            "https://",
            "https://?x",
            "https://#x",
            "https://:443/x",
            "https://user@push.example/x",
            "https://user:password@push.example/x",
            "https://@push.example/x",
            "https://push.example:0/x",
            "https://push.example:65536/x",
            "https://push.example:x/",
            "https://push.example\\@other.example/x",
            "https://push.example/\nHost: x",
            "https://push.example /x",
            " https://push.example/x",
            "https://pu\tsh.example/x",
            "https://püsh.example/x",
            "https://pu%00sh.example/x",
            "https://[::1/x",
            "https://1.2.3.4.5.6.7/x",
            "ftp://push.example/x",
            "file:///etc/passwd",
            "javascript://push.example/x",
            &long,
            &long_host,
        ] {
            assert!(Endpoint::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn an_address_in_any_disguise_is_seen_as_the_address() {
        for text in [
            "https://127.0.0.1/x",
            "https://127.1/x",
            "https://2130706433/x",
            "https://0x7f.0.0.1/x",
            "https://017700000001/x",
            "https://127.0.0.1./x",
            "https://%31%32%37.0.0.1/x",
        ] {
            assert_eq!(parse(text).address, Some([127, 0, 0, 1].into()), "{text}");
        }
    }

    #[test]
    fn plain_http_is_for_literal_private_addresses() {
        for (text, safe) in [
            ("http://127.0.0.1:8080/x", true),
            ("http://10.1.2.3/x", true),
            ("http://[::1]/x", true),
            ("http://[::ffff:10.1.2.3]/x", true),
            ("http://8.8.8.8/x", false),
            ("http://[::ffff:8.8.8.8]/x", false),
            ("http://localhost/x", false),
            ("http://push.example/x", false),
        ] {
            assert_eq!(parse(text).has_safe_scheme(), safe, "{text}");
        }
    }

    #[test]
    fn allowed_endpoints_are_compared_with_host_and_written_port() {
        let allowed = [Glob::new("*.Push.example"), Glob::new("ntfy.example:8443")];
        for (text, named) in [
            ("https://a.push.example/x", true),
            ("https://A.PUSH.EXAMPLE/x", true),
            ("https://a.push.example:443/x", false),
            ("https://push.example/x", false),
            ("https://a.push.example.evil.example/x", false),
            ("https://evil.example/a.push.example", false),
            ("https://evil.example?a.push.example", false),
            ("https://ntfy.example:8443/x", true),
            ("https://ntfy.example:08443/x", true),
            ("https://ntfy.example/x", false),
        ] {
            assert_eq!(parse(text).is_named_by(Some(&allowed)), named, "{text}");
        }
        assert!(parse("https://any.example/x").is_named_by(None));
        assert!(!parse("https://any.example/x").is_named_by(Some(&[])));
    }

    #[test]
    fn the_literal_of_an_ipv6_address_ends_in_no_port() {
        assert_eq!(parse("https://[2606::1]/x").netloc, "[2606::1]");
        assert_eq!(parse("https://[2606::1]:443/x").netloc, "[2606::1]:443");
    }

    #[test]
    fn an_origin_is_not_shown() {
        let endpoint = parse("https://push.example/secret");
        assert_eq!(format!("{:?}", endpoint.origin()), "[hidden]");
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_taken_has_one_host(text in "https?://[a-z0-9.:@/?#%\\[\\]\\\\é-]{0,40}") {
            if let Some(endpoint) = Endpoint::parse(&text) {
                let host = endpoint.uri.host().unwrap();
                prop_assert!(endpoint.netloc.starts_with(host), "{} {host}", endpoint.netloc);
                prop_assert!(endpoint.origin().as_str().contains(host));
                prop_assert!(!endpoint.uri.authority().unwrap().as_str().contains('@'));
            }
        }
    }

    fn parse(text: &str) -> Endpoint {
        Endpoint::parse(text).unwrap_or_else(|| panic!("{text} is an endpoint"))
    }
}
