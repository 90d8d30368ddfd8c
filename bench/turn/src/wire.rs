//! A UDP socket that speaks as any address of 127.0.0.0/8.
//!
//! A thousand clients are a thousand source addresses of one socket: it is bound to no address, and
//! says with each packet from which one that goes out (`IP_PKTINFO`). What comes back for all of them
//! is read in batches (`recvmmsg`), and whose it is stands in the packet. With a socket for each
//! client, the load generator would be slower than what it measures.

use std::{
    ffi::OsString,
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicU16, Ordering},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmsg, setsockopt, sockopt,
    },
};

/// Packets that are read in one call.
const BATCH: usize = 64;
/// The longest packet that is read.
const LONGEST: usize = 2048;
/// Bytes of queue that are asked for; the system gives what `net.core.rmem_max` allows.
const BUFFER: usize = 4 << 20;
/// Where free ports are looked for: below the ports that systems hand out, and so below those that
/// relays hand out.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// The socket.
pub(crate) struct Wire {
    socket: UdpSocket,
    port: u16,
    headers: MultiHeaders<SockaddrIn>,
    buffer: Vec<u8>,
}

impl Wire {
    /// A socket on a free port, the same for all addresses, of the loopback interface alone.
    pub(crate) fn open() -> io::Result<Self> {
        let (socket, port) = loop {
            let port = next_port()
                .ok_or_else(|| io::Error::other("no free UDP port from 20000 to 29999"))?;
            match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)) {
                Ok(socket) => break (socket, port),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        };
        setsockopt(&socket, sockopt::BindToDevice, &OsString::from("lo"))?;
        enlarge_queues(&socket)?;
        Ok(Self {
            socket,
            port,
            headers: MultiHeaders::preallocate(BATCH, None),
            buffer: vec![0; BATCH * LONGEST],
        })
    }

    /// The port that it has on every address.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Sends a packet as `source`. Whether it arrives is for the other side to say: a full queue drops it.
    pub(crate) fn send(&self, source: Ipv4Addr, to: SocketAddrV4, packet: &[u8]) -> io::Result<()> {
        let info = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr {
                s_addr: u32::from_ne_bytes(source.octets()),
            },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let sent = sendmsg(
            self.socket.as_raw_fd(),
            &[IoSlice::new(packet)],
            &[ControlMessage::Ipv4PacketInfo(&info)],
            MsgFlags::MSG_DONTWAIT,
            Some(&SockaddrIn::from(to)),
        );
        match sent {
            // refused: somebody before had sent to a port that was closed meanwhile
            Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ECONNREFUSED) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what has arrived, at most [`BATCH`] packets, and says how many there were. Does not wait.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<usize> {
        let mut lengths = [0; BATCH];
        let count = self.read(&mut lengths)?;
        let packets = self.buffer.chunks_exact(LONGEST);
        for (length, packet) in lengths.iter().take(count).zip(packets) {
            each(packet.get(..*length).unwrap_or_default());
        }
        Ok(count)
    }

    /// Reads into the buffer, and notes how long each packet is.
    fn read(&mut self, lengths: &mut [usize; BATCH]) -> io::Result<usize> {
        let packets = self.buffer.chunks_exact_mut(LONGEST);
        let mut slices: Vec<_> = packets.map(|packet| [IoSliceMut::new(packet)]).collect();
        let received = recvmmsg(
            self.socket.as_raw_fd(),
            &mut self.headers,
            &mut slices,
            MsgFlags::MSG_DONTWAIT,
            None,
        );
        match received {
            Ok(messages) => Ok(lengths
                .iter_mut()
                .zip(messages)
                .map(|(length, message)| *length = message.bytes)
                .count()),
            Err(Errno::EAGAIN | Errno::ECONNREFUSED) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Throws away what has arrived.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        while self.receive(|_| ())? > 0 {}
        Ok(())
    }
}

/// Long queues, so that it is not their length that is measured.
pub(crate) fn enlarge_queues(socket: &UdpSocket) -> io::Result<()> {
    setsockopt(socket, sockopt::RcvBuf, &BUFFER)?;
    setsockopt(socket, sockopt::SndBuf, &BUFFER)?;
    Ok(())
}

/// A port that no socket of this process has had yet: a relay may remember clients for a while.
fn next_port() -> Option<u16> {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    // two benchmarks at once do not begin with the same
    let first = u16::try_from(std::process::id() % 100).unwrap_or(0) * 50;
    let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
    let port = PORTS.start.checked_add(first)?.checked_add(taken)?;
    PORTS.contains(&port).then_some(port)
}
