//! What a proxy says at the beginning of a connection about who is behind it: version 2 of the PROXY protocol
//! (<https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt>, §2.2), whose header is binary.
//!
//! It reads and writes bytes, and knows nothing of who may send them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use turn_relay_proto::policy::unmapped;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family, and the length of what follows.
const FIXED_LEN: usize = 16;

/// The longest header that is read: addresses, and more of what proxies add than they do.
pub const MAX_LEN: usize = 4_096;

/// What stands at the front of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// Not all of it is there yet.
    Incomplete,
    /// Something else, or a header of another version.
    Invalid,
    /// All of it.
    Complete {
        /// Bytes of the header.
        len: usize,
        /// Who has connected to the proxy; `None` if it has itself (`LOCAL`), or does not say who.
        client: Option<SocketAddr>,
    },
}

impl ProxyHeader {
    /// Reads the header at the front of `bytes`.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let known = bytes.len().min(SIGNATURE.len());
        if bytes[..known] != SIGNATURE[..known] {
            return Self::Invalid;
        }
        let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_LEN>() else {
            return Self::Incomplete;
        };
        let &[.., version_and_command, family, l0, l1] = fixed;
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        if FIXED_LEN + len > MAX_LEN {
            return Self::Invalid;
        }
        let Some(block) = rest.get(..len) else {
            return Self::Incomplete;
        };
        let client = match (version_and_command, family) {
            // LOCAL: the addresses do not count; PROXY, of something that has no address
            (0x20, _) | (0x21, 0x00) => Some(None),
            // PROXY, of a TCP connection
            (0x21, 0x11) => read_v4(block).map(Some),
            (0x21, 0x21) => read_v6(block).map(Some),
            _ => None,
        };
        client.map_or(Self::Invalid, |client| Self::Complete {
            len: FIXED_LEN + len,
            client: client.map(unmapped),
        })
    }
}

/// Source and destination address, source and destination port.
fn read_v4(block: &[u8]) -> Option<SocketAddr> {
    let &[a, b, c, d, _, _, _, _, p0, p1, _, _] = block.first_chunk::<12>()?;
    let ip = Ipv4Addr::new(a, b, c, d);
    Some(SocketAddr::new(
        IpAddr::V4(ip),
        u16::from_be_bytes([p0, p1]),
    ))
}

fn read_v6(block: &[u8]) -> Option<SocketAddr> {
    let block = block.first_chunk::<36>()?;
    let (ip, _) = block.split_first_chunk::<16>()?;
    let &[p0, p1, ..] = block.get(32..)? else {
        return None;
    };
    Some(SocketAddr::new(
        IpAddr::V6(Ipv6Addr::from(*ip)),
        u16::from_be_bytes([p0, p1]),
    ))
}

/// The header of a TCP connection that `client` has made to `server`.
#[must_use]
pub fn written(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let (family, addresses) = match (client.ip(), server.ip()) {
        (IpAddr::V4(client), IpAddr::V4(server)) => {
            (0x11, [client.octets(), server.octets()].concat())
        }
        // both have to be of one family
        (client, server) => (0x21, [mapped(client), mapped(server)].concat()),
    };
    let ports = [client.port().to_be_bytes(), server.port().to_be_bytes()].concat();
    // less than 256 bytes
    let [.., len] = (addresses.len() + ports.len()).to_be_bytes();
    [&SIGNATURE[..], &[0x21, family, 0, len], &addresses, &ports].concat()
}

/// RFC 4291 §2.5.5.2, for IPv4.
const fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Shows no address.
impl std::fmt::Debug for ProxyHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Incomplete => f.write_str("Incomplete"),
            Self::Invalid => f.write_str("Invalid"),
            Self::Complete { len, client } => {
                write!(f, "{len} bytes, client: {}", client.is_some())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header, and the beginning of a STUN message behind it.
    fn header(version_and_command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([version_and_command, family]);
        bytes.extend(u16::try_from(block.len()).expect("short").to_be_bytes());
        bytes.extend(block);
        bytes.extend([0, 1, 0, 0]);
        bytes
    }

    fn v4_block() -> Vec<u8> {
        vec![192, 0, 2, 1, 198, 51, 100, 1, 0x30, 0x39, 0x0D, 0x96]
    }

    fn complete(bytes: &[u8], client: Option<&str>) {
        let expected = ProxyHeader::Complete {
            len: bytes.len() - 4,
            client: client.map(|client| client.parse().expect("an address")),
        };
        assert_eq!(ProxyHeader::parse(bytes), expected);
        for end in 0..bytes.len() - 4 {
            assert_eq!(ProxyHeader::parse(&bytes[..end]), ProxyHeader::Incomplete);
        }
    }

    #[test]
    fn the_client_is_the_source_address() {
        complete(&header(0x21, 0x11, &v4_block()), Some("192.0.2.1:12345"));
        let mut block = vec![0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        block.extend([9; 16]);
        block.extend([0x30, 0x39, 0, 1]);
        complete(&header(0x21, 0x21, &block), Some("[2001:db8::7]:12345"));
    }

    #[test]
    fn an_ipv4_client_of_an_ipv6_proxy_is_ipv4() {
        let mut block = Ipv4Addr::new(192, 0, 2, 1)
            .to_ipv6_mapped()
            .octets()
            .to_vec();
        block.extend([9; 16]);
        block.extend([0x30, 0x39, 0, 1]);
        complete(&header(0x21, 0x21, &block), Some("192.0.2.1:12345"));
    }

    #[test]
    fn what_proxies_add_is_skipped() {
        let mut block = v4_block();
        block.extend([0x04, 0, 3, 1, 2, 3]);
        complete(&header(0x21, 0x11, &block), Some("192.0.2.1:12345"));
    }

    #[test]
    fn a_proxys_own_connection_has_no_client_behind_it() {
        complete(&header(0x20, 0x00, &[]), None);
        complete(&header(0x20, 0x11, &v4_block()), None);
        complete(&header(0x21, 0x00, &[]), None);
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let (v4, v6) = ("192.0.2.1:12345", "[2001:db8::7]:12345");
        for (client, server, family, len) in [
            (v4, "198.51.100.1:443", 0x11, 12),
            (v6, "[2001:db8::1]:443", 0x21, 36),
            (v4, "[2001:db8::1]:443", 0x21, 36),
            (v6, "198.51.100.1:443", 0x21, 36),
        ] {
            let address = |text: &str| text.parse().expect("an address");
            let bytes = written(address(client), address(server));
            assert_eq!(bytes[12..16], [0x21, family, 0, len]);
            assert_eq!(bytes.len(), 16 + usize::from(len));
            assert_eq!(bytes[bytes.len() - 2..], [1, 0xBB], "port 443");
            complete(&[&bytes[..], &[0, 1, 0, 0]].concat(), Some(client));
        }
        let bytes = written(
            "1.2.3.4:5".parse().expect("an address"),
            v4.parse().expect("an address"),
        );
        assert_eq!(bytes[16..], [1, 2, 3, 4, 192, 0, 2, 1, 0, 5, 0x30, 0x39]);
    }

    #[test]
    fn anything_else_is_refused() {
        for bytes in [
            // a STUN message at once, TLS, version 1
            [0, 1, 0, 0].to_vec(),
            vec![0x16, 3, 1],
            b"PROXY TCP4 ".to_vec(),
            // another version, another command, datagrams, addresses that are cut off
            header(0x11, 0x11, &v4_block()),
            header(0x22, 0x11, &v4_block()),
            header(0x21, 0x12, &v4_block()),
            header(0x21, 0x11, &v4_block()[..11]),
            header(0x21, 0x21, &v4_block()),
            header(0x21, 0x11, &[0; MAX_LEN]),
        ] {
            assert_eq!(ProxyHeader::parse(&bytes), ProxyHeader::Invalid);
        }
    }
}
