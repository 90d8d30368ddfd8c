//! Opening the sockets that clients come to: one of each address for each thread, among which the system spreads clients.
//!
//! It knows addresses and socket options, and nothing of what is received.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{
    datagrams::{Appetite, Datagrams, Role},
    ready::Queued,
};

/// Bytes that may wait at a listener in each direction, as far as the system allows.
const BUFFER: usize = 4 * 1024 * 1024;

/// Connections that may wait to be accepted, as far as the system allows.
const BACKLOG: i32 = 1024;

/// A UDP socket that clients send to.
#[derive(Debug)]
pub struct UdpListener {
    /// The socket.
    pub socket: UdpSocket,
    /// Whether it waits to be read.
    pub queued: Queued,
    /// Whether clients speak DTLS here.
    pub is_encrypted: bool,
    /// For how much it is asked.
    pub appetite: Appetite,
}

/// A TCP socket that clients connect to, in clear or with TLS.
#[derive(Debug)]
pub struct StreamListener {
    /// The socket.
    pub socket: TcpListener,
    /// Whether there are connections to be accepted.
    pub queued: Queued,
    /// Whether HTTP over TLS is for the HTTPS backend.
    pub is_https: bool,
}

/// Opens `count` UDP sockets for `address`. With port 0 the system chooses one port for all of them.
///
/// # Errors
///
/// The address, what is wrong with it, and what to do about it.
pub fn udp(
    address: SocketAddr,
    count: usize,
    datagrams: &impl Datagrams,
) -> Result<(SocketAddr, Vec<UdpListener>), String> {
    let role = if address.ip().is_unspecified() {
        Role::WildcardListener
    } else {
        Role::Listener
    };
    let open = |address| -> io::Result<UdpListener> {
        let socket = new_socket(address, Type::DGRAM, Protocol::UDP)?;
        socket.set_reuse_port(true)?;
        datagrams.prepare(&socket, role)?;
        // less has to do if the system does not give that much
        let _ = socket.set_recv_buffer_size(BUFFER);
        let _ = socket.set_send_buffer_size(BUFFER);
        socket.bind(&address.into())?;
        Ok(UdpListener {
            socket: socket.into(),
            queued: Queued::No,
            is_encrypted: false,
            appetite: Appetite::default(),
        })
    };
    let all = || -> io::Result<_> {
        let address = probe(address, Type::DGRAM, Protocol::UDP)?;
        let sockets = (0..count)
            .map(|_| open(address))
            .collect::<io::Result<Vec<_>>>()?;
        Ok((address, sockets))
    };
    all().map_err(|error| explain("UDP", address, &error))
}

/// Opens `count` TCP listeners for `address`. With port 0 the system chooses one port for all of them.
///
/// # Errors
///
/// As with [`udp`].
pub fn tcp(address: SocketAddr, count: usize) -> Result<(SocketAddr, Vec<StreamListener>), String> {
    let open = |address| -> io::Result<StreamListener> {
        let socket = new_socket(address, Type::STREAM, Protocol::TCP)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(StreamListener {
            socket: socket.into(),
            queued: Queued::No,
            is_https: false,
        })
    };
    let all = || -> io::Result<_> {
        let address = probe(address, Type::STREAM, Protocol::TCP)?;
        let listeners = (0..count)
            .map(|_| open(address))
            .collect::<io::Result<Vec<_>>>()?;
        Ok((address, listeners))
    };
    all().map_err(|error| explain("TCP", address, &error))
}

/// A socket that does not block, of IPv6 alone if it is an IPv6 one.
pub(crate) fn new_socket(
    address: SocketAddr,
    kind: Type,
    protocol: Protocol,
) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Finds out whether anything else has the address, which sockets that share a port with each other would not notice, and
/// which port the system gives.
fn probe(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<SocketAddr> {
    let socket = new_socket(address, kind, protocol)?;
    if kind == Type::STREAM {
        // connections that ended lately do not count
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
}

fn explain(protocol: &str, address: SocketAddr, error: &io::Error) -> String {
    let remedy = if error.kind() == io::ErrorKind::AddrInUse {
        "; another program, or another Nocturne, listens there"
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "; ports below 1024 need root or CAP_NET_BIND_SERVICE"
    } else if error.kind() == io::ErrorKind::AddrNotAvailable {
        "; no interface of this machine has that address"
    } else {
        ""
    };
    format!("cannot listen on {address} ({protocol}): {error}{remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::SystemDatagrams;

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn all_sockets_of_an_address_share_the_port_that_the_system_chose() {
        let (address, sockets) = udp(loopback(), 3, &SystemDatagrams::new()).expect("free port");
        assert_ne!(address.port(), 0);
        assert_eq!(sockets.len(), 3);
        for listener in sockets {
            assert_eq!(listener.socket.local_addr().expect("bound"), address);
        }
    }

    #[test]
    fn a_second_relay_on_the_same_port_is_noticed() {
        let (address, _sockets) = udp(loopback(), 2, &SystemDatagrams::new()).expect("free port");
        let error = udp(address, 2, &SystemDatagrams::new()).expect_err("taken");
        assert!(error.contains(&address.to_string()), "{error}");
        assert!(error.contains("another Nocturne"), "{error}");

        let (address, _listeners) = tcp(loopback(), 2).expect("free port");
        let error = tcp(address, 2).expect_err("taken");
        assert!(error.contains("another Nocturne"), "{error}");
    }

    #[test]
    fn an_address_of_another_host_is_named_with_a_remedy() {
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 0));
        let error = tcp(elsewhere, 1).expect_err("not ours");
        assert!(
            error.contains("192.0.2.1:0") && error.contains("no interface"),
            "{error}"
        );
    }
}
