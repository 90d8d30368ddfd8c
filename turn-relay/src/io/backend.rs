//! The HTTPS backend: where it is, how it is reached, and which connections are for it.
//!
//! It knows how HTTP/1.1 begins, and nothing of what follows.

use std::{
    fmt, io,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
};

use socket2::{Domain, SockAddr, Socket, Type};

/// The longest method that is taken for one; the longest that is registered has 17 bytes.
const LONGEST_METHOD: usize = 20;

/// Who gets connections that speak HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it takes connections in clear.
    pub address: BackendAddress,
    /// Whether it is told who the client is, by version 2 of the PROXY protocol.
    pub proxy_protocol: bool,
}

/// Where the backend is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl BackendAddress {
    /// Begins to connect, without waiting. Of what came of it the poll tells, for a Unix socket at once.
    ///
    /// # Errors
    ///
    /// If that cannot be begun, or nobody is there.
    pub fn connect(&self) -> io::Result<TcpStream> {
        let (domain, address) = match self {
            Self::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
            Self::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        if domain != Domain::UNIX {
            let _ = socket.set_tcp_nodelay(true);
        }
        match socket.connect(&address) {
            Ok(()) => {}
            // a Unix socket whose queue is full says the same as one that would have to wait, and will not tell
            Err(error)
                if domain != Domain::UNIX
                    && (error.kind() == io::ErrorKind::WouldBlock
                        || error.raw_os_error() == Some(libc::EINPROGRESS)) => {}
            Err(error) => return Err(error),
        }
        // reading, writing and closing is the same for both
        Ok(socket.into())
    }
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(formatter, "{address}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Too little to tell.
    Unclear,
    /// A method of HTTP and the space behind it (RFC 9112 §3).
    Http,
    /// Something else.
    Other,
}

impl Opening {
    /// What `bytes` are the first ones of.
    ///
    /// Some methods begin as ChannelData does. But before its first request a client has no channel.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let is_method = |byte: &u8| matches!(byte, b'A'..=b'Z' | b'-');
        let method = bytes.iter().take_while(|byte| is_method(byte)).count();
        match bytes.get(method) {
            _ if method > LONGEST_METHOD => Self::Other,
            None => Self::Unclear,
            Some(b' ') if method > 0 => Self::Http,
            Some(_) => Self::Other,
        }
    }
}

/// Whether the head of a request ends in `bytes`, of which the first `searched` were searched before. That of a line may be
/// a line feed alone (RFC 9112 §2.2).
#[must_use]
pub fn has_head(bytes: &[u8], searched: usize) -> bool {
    let new = searched.saturating_sub(2).min(bytes.len());
    let bytes = &bytes[new..];
    let two = bytes.windows(2).any(|window| window == b"\n\n");
    two || bytes.windows(3).any(|window| window == b"\n\r\n")
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn http_begins_with_a_method_and_a_space() {
        for http in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"OPTIONS * HTTP/1.1\r\n",
            b"UPDATEREDIRECTREF /x HTTP/1.1\r\n",
            b"M-SEARCH * HTTP/1.1\r\n",
        ] {
            assert_eq!(Opening::of(http), Opening::Http);
            let method = http.iter().position(|byte| *byte == b' ').expect("there");
            for end in 0..=method {
                assert_eq!(Opening::of(&http[..end]), Opening::Unclear, "{end}");
            }
        }
        for other in [
            // Allocate, Binding, ChannelData, TLS
            &[0, 3, 0, 0][..],
            &[0, 1, 0, 0],
            &[0x40, 0, 0, 4],
            &[0x4F, 0xFF, 0, 4],
            &[0x16, 3, 1],
            b" / HTTP/1.1\r\n",
            b"get / HTTP/1.1\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"ABCDEFGHIJKLMNOPQRSTU /",
            b"ABCDEFGHIJKLMNOPQRSTU",
        ] {
            assert_eq!(Opening::of(other), Opening::Other, "{other:?}");
        }
    }

    #[test]
    fn a_head_ends_with_an_empty_line_however_it_comes() {
        for head in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"GET / HTTP/1.1\nHost: a\n\n",
            b"GET / HTTP/1.1\nHost: a\n\r\n",
        ] {
            assert!(has_head(head, 0));
            for searched in 0..head.len() {
                let before = &head[..searched];
                assert!(!has_head(before, 0), "{searched}");
                assert!(has_head(head, searched), "{searched}");
            }
        }
        assert!(!has_head(b"", 0));
        assert!(!has_head(b"\r\nGET", 100));
    }

    #[test]
    fn a_unix_socket_is_connected_to_at_once_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let path = folder.path().join("backend.sock");
        let address = BackendAddress::Unix(path.clone());
        assert!(address.connect().is_err());
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a new path");
        let mut stream = address.connect().expect("somebody listens");
        stream.write_all(b"ping").expect("it is connected");
        let (mut accepted, _) = listener.accept().expect("it is connected");
        let mut heard = [0; 4];
        accepted.read_exact(&mut heard).expect("it was sent");
        assert_eq!(&heard, b"ping");
    }
}
