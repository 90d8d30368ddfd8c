//! TURN URIs (RFC 7065), taken apart.

/// The port of TLS where a URI names none (RFC 7065 §3.1).
pub(super) const TLS_PORT: u16 = 5349;
/// The same of UDP and TCP.
const PORT: u16 = 3478;

/// A TURN URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Uri {
    pub(super) text: String,
    /// As it is written: an IPv6 address is in brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) transport: Transport,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Tls,
    Udp,
    Tcp,
}

impl Uri {
    /// None for what is no TURN URI.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (rest, secure) = match text.strip_prefix("turns:") {
            Some(rest) => (rest, true),
            None => (text.strip_prefix("turn:")?, false),
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let transport = match (secure, query) {
            (true, _) => Transport::Tls,
            (false, "transport=tcp") => Transport::Tcp,
            (false, _) => Transport::Udp,
        };
        let default = if secure { TLS_PORT } else { PORT };
        // the colons of an IPv6 address are in brackets
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
            _ => (place, default),
        };
        Some(Self {
            text: text.to_owned(),
            host: host.to_owned(),
            port,
            transport,
        })
    }

    /// The host as names and addresses are looked up: without brackets.
    pub(super) fn bare_host(&self) -> &str {
        bare(&self.host)
    }
}

/// Without the brackets of an IPv6 address.
pub(super) fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_taken_apart() {
        for (text, host, port, transport) in [
            (
                "turns:turn.example.org:443?transport=tcp",
                "turn.example.org",
                443,
                Transport::Tls,
            ),
            (
                "turns:turn.example.org",
                "turn.example.org",
                5349,
                Transport::Tls,
            ),
            (
                "turn:turn.example.org:3478?transport=udp",
                "turn.example.org",
                3478,
                Transport::Udp,
            ),
            (
                "turn:turn.example.org?transport=tcp",
                "turn.example.org",
                3478,
                Transport::Tcp,
            ),
            ("turn:[2001:db8::7]", "[2001:db8::7]", 3478, Transport::Udp),
            ("turn:[2001:db8::7]:99", "[2001:db8::7]", 99, Transport::Udp),
        ] {
            let expected = Uri {
                text: text.to_owned(),
                host: host.to_owned(),
                port,
                transport,
            };
            assert_eq!(Uri::parse(text), Some(expected));
        }
        assert_eq!(Uri::parse("stun:turn.example.org"), None);
    }
}
