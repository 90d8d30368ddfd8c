//! Datagrams with Linux's own system calls: many received by one (`recvmmsg`), many to one destination sent by one
//! (`UDP_SEGMENT`), and what stands beside the payload: local address, traffic class, ICMP errors.
//!
//! All unsafe code of the relay is in this file. It knows no token, no client and no allocation: sockets and bytes.
#![expect(
    unsafe_code,
    reason = "recvmmsg, segmented sends and control messages have no safe interface that neither copies nor allocates"
)]

use std::{
    io::{self, IoSlice},
    mem::{self, MaybeUninit},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    os::fd::{AsRawFd, RawFd},
    ptr,
};

use libc::{c_int, c_uint, c_void, cmsghdr, iovec, mmsghdr, msghdr, sa_family_t, socklen_t};
use mio::{Registry, Token};
use socket2::{Domain, Socket};
use turn_relay_proto::{IcmpError, policy::unmapped};

use super::datagrams::{Arena, BATCH, Datagrams, Envelope, Left, Role};

/// A segment no longer than this fits every link on which a segmented send works at all: IPv6's least MTU, less headers.
const ALWAYS_FITS: usize = 1232;

#[expect(clippy::cast_possible_truncation, reason = "a small number")]
const AF_INET: sa_family_t = libc::AF_INET as sa_family_t;
#[expect(clippy::cast_possible_truncation, reason = "a small number")]
const AF_INET6: sa_family_t = libc::AF_INET6 as sa_family_t;

/// Space for the control messages of one datagram: local address, traffic class, segment size.
const CONTROL_LEN: usize = 128;

/// As control messages have to be aligned.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_LEN]);

/// An address of either family as the kernel writes it.
#[repr(C)]
#[derive(Clone, Copy)]
union Name {
    family: sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// Headers for system calls, made once and used again and again.
pub struct LinuxDatagrams {
    messages: Box<[mmsghdr; BATCH]>,
    slots: Box<[Slot; BATCH]>,
    /// Segments longer than this are sent one by one; 0: all are.
    longest_segment: usize,
}

/// What the kernel writes beside the bytes of one datagram.
struct Slot {
    name: Name,
    control: Control,
    payload: iovec,
}

impl Default for LinuxDatagrams {
    fn default() -> Self {
        Self::new()
    }
}

impl LinuxDatagrams {
    /// With segmented sends, if the kernel has them.
    #[must_use]
    pub fn new() -> Self {
        let empty = || Slot {
            name: Name::empty(),
            control: Control([0; CONTROL_LEN]),
            payload: iovec {
                iov_base: ptr::null_mut(),
                iov_len: 0,
            },
        };
        // SAFETY: all fields of `mmsghdr` are integers and pointers, for which zero is a value
        let zeroed = || unsafe { mem::zeroed::<mmsghdr>() };
        Self {
            messages: Box::new(std::array::from_fn(|_| zeroed())),
            slots: Box::new(std::array::from_fn(|_| empty())),
            longest_segment: if has_segmented_sends() { usize::MAX } else { 0 },
        }
    }

    /// Points headers at the arena's slots, as the kernel wants them before each call.
    fn aim(&mut self, arena: &mut Arena, count: usize) {
        for (index, (message, slot)) in self
            .messages
            .iter_mut()
            .zip(self.slots.iter_mut())
            .take(count)
            .enumerate()
        {
            let space = arena.slot(index);
            slot.payload = iovec {
                iov_base: space.as_mut_ptr().cast(),
                iov_len: space.len(),
            };
            let header = &mut message.msg_hdr;
            header.msg_name = (&raw mut slot.name).cast();
            header.msg_namelen = length_of::<Name>();
            header.msg_iov = &raw mut slot.payload;
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut slot.control).cast();
            header.msg_controllen = CONTROL_LEN as _;
        }
    }

    /// Whether several datagrams of one length that came from one source, one behind the other, are received as one:
    /// half of what such a datagram costs.
    ///
    /// # Errors
    ///
    /// If the kernel does not know that (it does since 5.0).
    pub fn receive_runs(&self, socket: &impl AsRawFd, together: bool) -> io::Result<()> {
        set(socket, libc::SOL_UDP, libc::UDP_GRO, c_int::from(together))
    }

    /// Whether a run of datagrams of that length may be sent by one call.
    fn may_segment(&self, length: usize) -> bool {
        length != 0 && length <= self.longest_segment
    }

    /// A segmented send was refused.
    fn learn(&mut self, error: &io::Error, length: usize) {
        match error.raw_os_error() {
            // the device cannot, or the kernel does not know how
            Some(libc::EIO | libc::EOPNOTSUPP | libc::ENOPROTOOPT) => self.longest_segment = 0,
            // longer than the MTU; a peer may have forged a small one for itself, which must not matter to others
            Some(libc::EINVAL | libc::EMSGSIZE) if length > ALWAYS_FITS => {
                self.longest_segment = self.longest_segment.min(length - 1);
            }
            _ => {}
        }
    }
}

impl Datagrams for LinuxDatagrams {
    fn prepare(&self, socket: &Socket, role: Role) -> io::Result<()> {
        let (level, receive_class, packet_info, discover, no_discovery, receive_errors) =
            if socket.domain()? == Domain::IPV4 {
                (
                    libc::IPPROTO_IP,
                    libc::IP_RECVTOS,
                    libc::IP_PKTINFO,
                    libc::IP_MTU_DISCOVER,
                    libc::IP_PMTUDISC_DONT,
                    libc::IP_RECVERR,
                )
            } else {
                (
                    libc::IPPROTO_IPV6,
                    libc::IPV6_RECVTCLASS,
                    libc::IPV6_RECVPKTINFO,
                    libc::IPV6_MTU_DISCOVER,
                    libc::IPV6_PMTUDISC_DONT,
                    libc::IPV6_RECVERR,
                )
            };
        set(socket, level, receive_class, 1)?;
        // an old kernel hands over each datagram alone
        let _ = self.receive_runs(socket, true);
        set(socket, level, discover, no_discovery)?;
        match role {
            Role::Listener => Ok(()),
            Role::WildcardListener => set(socket, level, packet_info, 1),
            Role::Relay => set(socket, level, receive_errors, 1),
        }
    }

    /// The poll tells of what waits as often as it is asked, so that a socket need not be emptied to hear of it again.
    fn watch(&self, registry: &Registry, socket: &UdpSocket, token: Token) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN.cast_unsigned(),
            // as the poll itself names what it tells of
            u64: token.0 as u64,
        };
        // SAFETY: the kernel reads one event, which is there
        let result = unsafe {
            libc::epoll_ctl(
                registry.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                socket.as_raw_fd(),
                &raw mut event,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    fn receive(
        &mut self,
        socket: &UdpSocket,
        arena: &mut Arena,
        at_most: usize,
    ) -> io::Result<Left> {
        let at_most = at_most.min(BATCH);
        arena.clear();
        self.aim(arena, at_most);
        // SAFETY: each header points at a name, a control buffer and one payload buffer with their true lengths, all
        // of which live in `self` and `arena` and are not touched by anybody else during the call
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                c_uint::try_from(at_most).unwrap_or(1),
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (index, message) in self.messages.iter().take(count).enumerate() {
            let Some(from) = self.slots[index].name.address(message.msg_hdr.msg_namelen) else {
                continue;
            };
            let beside = Beside::read(&message.msg_hdr);
            let len = message.msg_len as usize;
            let stride = beside.segment.unwrap_or(len);
            arena.push_at(index, len, stride, from, beside.to, beside.traffic_class);
        }
        // of one that waits behind the only one that was asked for, the poll tells
        Ok(if count == at_most && at_most > 1 {
            Left::Something
        } else {
            Left::Nothing
        })
    }

    fn send(
        &mut self,
        socket: &UdpSocket,
        envelope: &Envelope,
        datagrams: &[IoSlice<'_>],
    ) -> usize {
        if envelope.dont_fragment {
            return with_dont_fragment(socket, envelope.to, || {
                send_each(socket.as_raw_fd(), envelope, datagrams)
            });
        }
        let Some((first, [_, ..])) = datagrams.split_first() else {
            return send_each(socket.as_raw_fd(), envelope, datagrams);
        };
        let length = first.len();
        if self.may_segment(length)
            && let Ok(segment) = u16::try_from(length)
        {
            match send_message(socket.as_raw_fd(), envelope, datagrams, Some(segment)) {
                Ok(()) => return 0,
                Err(error) if is_full(&error) => return datagrams.len(),
                Err(error) => self.learn(&error, length),
            }
        }
        send_each(socket.as_raw_fd(), envelope, datagrams)
    }

    fn icmp_error(&mut self, socket: &UdpSocket) -> Option<IcmpError> {
        // local errors stand in the same queue
        for _ in 0..BATCH {
            match next_error(socket.as_raw_fd()) {
                Queued::Icmp(error) => return Some(error),
                Queued::Other => {}
                Queued::Nothing => return None,
            }
        }
        None
    }
}

impl std::fmt::Debug for LinuxDatagrams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinuxDatagrams")
            .field("longest_segment", &self.longest_segment)
            .finish_non_exhaustive()
    }
}

/// Sends each datagram by a call of its own; the result says how many were not sent.
fn send_each(socket: RawFd, envelope: &Envelope, datagrams: &[IoSlice<'_>]) -> usize {
    datagrams
        .iter()
        .filter(|datagram| send_message(socket, envelope, &[**datagram], None).is_err())
        .count()
}

/// One call. If `segment` is given, the kernel makes a datagram of each `segment` bytes.
///
/// An error that is not about space may be that of an earlier datagram, of which the kernel tells once: then it is tried again.
fn send_message(
    socket: RawFd,
    envelope: &Envelope,
    payloads: &[IoSlice<'_>],
    segment: Option<u16>,
) -> io::Result<()> {
    let name = Name::from(envelope.to);
    let mut control = Control([0; CONTROL_LEN]);
    let mut writer = ControlWriter::new(&mut control);
    if let Some(from) = envelope.from {
        writer.local_address(from);
    }
    if envelope.traffic_class != 0 {
        let class = c_int::from(envelope.traffic_class);
        if envelope.to.is_ipv4() {
            writer.push(libc::IPPROTO_IP, libc::IP_TOS, class);
        } else {
            writer.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, class);
        }
    }
    if let Some(segment) = segment {
        writer.push(libc::SOL_UDP, libc::UDP_SEGMENT, segment);
    }
    let control_len = writer.len;
    // SAFETY: all fields of `msghdr` are integers and pointers, for which zero is a value
    let mut header = unsafe { mem::zeroed::<msghdr>() };
    header.msg_name = (&raw const name).cast_mut().cast();
    header.msg_namelen = name_len(envelope.to);
    // `IoSlice` has the layout of `iovec`, as its documentation promises
    header.msg_iov = payloads.as_ptr().cast_mut().cast();
    header.msg_iovlen = payloads.len() as _;
    if control_len != 0 {
        header.msg_control = (&raw mut control).cast();
        header.msg_controllen = control_len as _;
    }
    if control_len == 0
        && let [payload] = payloads
    {
        return send_to(socket, payload, &name, header.msg_namelen);
    }
    let attempt = || {
        // SAFETY: the header points at a name, payloads and control messages with their true lengths, which live until
        // the end of this function; the kernel only reads them
        let sent = unsafe { libc::sendmsg(socket, &raw const header, libc::MSG_NOSIGNAL) };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    attempt().or_else(|error| {
        if is_full(&error) {
            Err(error)
        } else {
            attempt()
        }
    })
}

/// As [`send_message`], for one datagram with nothing beside it: a sixth of a microsecond less.
fn send_to(socket: RawFd, payload: &[u8], name: &Name, name_len: socklen_t) -> io::Result<()> {
    let attempt = || {
        // SAFETY: payload and name are there with their true lengths; the kernel only reads them
        let sent = unsafe {
            libc::sendto(
                socket,
                payload.as_ptr().cast(),
                payload.len(),
                libc::MSG_NOSIGNAL,
                ptr::from_ref(name).cast(),
                name_len,
            )
        };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    attempt().or_else(|error| {
        if is_full(&error) {
            Err(error)
        } else {
            attempt()
        }
    })
}

/// Whether there is no space for what is to be sent.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// Sets the DF bit (IPv6: refuses to fragment) for what `send` sends.
///
/// What is longer than the MTU that the kernel believes in is sent nevertheless: the client looks for the MTU itself, by the
/// ICMP errors that it is told of.
fn with_dont_fragment(socket: &UdpSocket, to: SocketAddr, send: impl FnOnce() -> usize) -> usize {
    let (level, option, on, off) = if to.is_ipv4() {
        (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_PROBE,
            libc::IP_PMTUDISC_DONT,
        )
    } else {
        (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_PROBE,
            libc::IPV6_PMTUDISC_DONT,
        )
    };
    // neither is refused for a UDP socket
    let _ = set(socket, level, option, on);
    let lost = send();
    let _ = set(socket, level, option, off);
    lost
}

/// Whether the kernel knows segmented sends (4.18).
fn has_segmented_sends() -> bool {
    Socket::new(Domain::IPV4, socket2::Type::DGRAM, None)
        .and_then(|socket| set(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, 1_500))
        .is_ok()
}

fn set(socket: &impl AsRawFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one `c_int`, which is there
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            length_of::<c_int>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The length of a type that is a few dozen bytes long, as the kernel wants it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "lengths of structures of the kernel's"
)]
const fn length_of<T>() -> socklen_t {
    size_of::<T>() as socklen_t
}

impl Name {
    fn empty() -> Self {
        // SAFETY: all fields of `sockaddr_in6`, the longest, are integers, for which zero is a value
        Self {
            v6: unsafe { mem::zeroed() },
        }
    }

    /// What the kernel wrote, if it is a whole address.
    fn address(&self, len: socklen_t) -> Option<SocketAddr> {
        if len < length_of::<libc::sockaddr_in>() {
            return None;
        }
        // SAFETY: every variant is plain integers, all of which are initialized, and begins with the family
        let address = unsafe {
            match self.family {
                AF_INET => SocketAddr::V4(SocketAddrV4::new(
                    Ipv4Addr::from(u32::from_be(self.v4.sin_addr.s_addr)),
                    u16::from_be(self.v4.sin_port),
                )),
                AF_INET6 if len >= length_of::<libc::sockaddr_in6>() => {
                    SocketAddr::V6(SocketAddrV6::new(
                        Ipv6Addr::from(self.v6.sin6_addr.s6_addr),
                        u16::from_be(self.v6.sin6_port),
                        0,
                        self.v6.sin6_scope_id,
                    ))
                }
                _ => return None,
            }
        };
        Some(unmapped(address))
    }
}

impl From<SocketAddr> for Name {
    fn from(address: SocketAddr) -> Self {
        let mut name = Self::empty();
        match address {
            SocketAddr::V4(address) => {
                name.v4 = libc::sockaddr_in {
                    sin_family: AF_INET,
                    sin_port: address.port().to_be(),
                    sin_addr: in_addr(*address.ip()),
                    sin_zero: [0; 8],
                };
            }
            SocketAddr::V6(address) => {
                name.v6 = libc::sockaddr_in6 {
                    sin6_family: AF_INET6,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: address.ip().octets(),
                    },
                    sin6_scope_id: address.scope_id(),
                };
            }
        }
        name
    }
}

fn in_addr(address: Ipv4Addr) -> libc::in_addr {
    libc::in_addr {
        s_addr: u32::from(address).to_be(),
    }
}

/// Bytes of a [`Name`] that stand for `address`.
const fn name_len(address: SocketAddr) -> socklen_t {
    match address {
        SocketAddr::V4(_) => length_of::<libc::sockaddr_in>(),
        SocketAddr::V6(_) => length_of::<libc::sockaddr_in6>(),
    }
}

/// What control messages say about a received datagram.
#[derive(Default)]
struct Beside {
    to: Option<IpAddr>,
    traffic_class: u8,
    segment: Option<usize>,
}

impl Beside {
    fn read(header: &msghdr) -> Self {
        let mut beside = Self::default();
        for (level, kind, value) in control_messages(header) {
            // SAFETY: the kernel writes a value of the type that belongs to the level and the kind; `take` copies it if it is there in full
            unsafe {
                match (level, kind) {
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        beside.to = take::<libc::in_pktinfo>(value).map(|info| {
                            IpAddr::V4(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)))
                        });
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        beside.to = take::<libc::in6_pktinfo>(value).map(|info| {
                            IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)).to_canonical()
                        });
                    }
                    (libc::IPPROTO_IP, libc::IP_TOS) => {
                        beside.traffic_class = take::<u8>(value).unwrap_or(0);
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                        let class = take::<c_int>(value).unwrap_or(0);
                        beside.traffic_class = u8::try_from(class).unwrap_or(0);
                    }
                    (libc::SOL_UDP, libc::UDP_GRO) => {
                        beside.segment =
                            take::<c_int>(value).and_then(|segment| usize::try_from(segment).ok());
                    }
                    _ => {}
                }
            }
        }
        beside
    }
}

/// Level, kind and value of each control message that the kernel wrote.
fn control_messages(header: &msghdr) -> impl Iterator<Item = (c_int, c_int, &[u8])> {
    // SAFETY: the control buffer of `header` is initialized, and its length is the one that the kernel noted
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    std::iter::from_fn(move || {
        // SAFETY: `next` is null or points at a header within the control buffer, whose length the kernel wrote; the data
        // that belongs to it stands behind it
        unsafe {
            let message: &cmsghdr = next.as_ref()?;
            let data = libc::CMSG_DATA(next);
            let before = data.addr() - next.addr();
            let len = (message.cmsg_len as usize).saturating_sub(before);
            let value = std::slice::from_raw_parts(data, len);
            next = libc::CMSG_NXTHDR(header, next);
            Some((message.cmsg_level, message.cmsg_type, value))
        }
    })
}

/// Copies a value of the kernel's out of a control message, if there are enough bytes.
///
/// # Safety
///
/// `T` is plain integers.
unsafe fn take<T: Copy>(value: &[u8]) -> Option<T> {
    // SAFETY: there are enough bytes, and any bytes are integers
    (value.len() >= size_of::<T>()).then(|| unsafe { value.as_ptr().cast::<T>().read_unaligned() })
}

/// Puts control messages one behind the other.
struct ControlWriter<'a> {
    control: &'a mut Control,
    len: usize,
}

impl<'a> ControlWriter<'a> {
    const fn new(control: &'a mut Control) -> Self {
        Self { control, len: 0 }
    }

    fn push<T: Copy>(&mut self, level: c_int, kind: c_int, value: T) {
        let size = length_of::<T>();
        // SAFETY: these only compute
        let (space, len) = unsafe { (libc::CMSG_SPACE(size), libc::CMSG_LEN(size)) };
        let end = self.len + space as usize;
        assert!(end <= CONTROL_LEN, "no more than three control messages");
        // SAFETY: there is space for the message from `self.len` on, which is a multiple of the alignment of `cmsghdr`
        unsafe {
            let start: *mut c_void = self.control.0.as_mut_ptr().add(self.len).cast();
            let header: *mut cmsghdr = start.cast();
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = len as _;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        }
        self.len = end;
    }

    /// The address to send from.
    fn local_address(&mut self, from: IpAddr) {
        match from {
            IpAddr::V4(from) => self.push(
                libc::IPPROTO_IP,
                libc::IP_PKTINFO,
                libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: in_addr(from),
                    ipi_addr: in_addr(Ipv4Addr::UNSPECIFIED),
                },
            ),
            IpAddr::V6(from) => self.push(
                libc::IPPROTO_IPV6,
                libc::IPV6_PKTINFO,
                libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: from.octets(),
                    },
                    ipi6_ifindex: 0,
                },
            ),
        }
    }
}

/// What stands in the error queue of a socket.
enum Queued {
    Icmp(IcmpError),
    Other,
    Nothing,
}

fn next_error(socket: RawFd) -> Queued {
    let mut name = Name::empty();
    let mut control = [0_u64; 64];
    // the datagram itself, or its beginning: of no use
    let mut payload = MaybeUninit::<[u8; 1]>::uninit();
    let mut payloads = iovec {
        iov_base: payload.as_mut_ptr().cast::<c_void>(),
        iov_len: 1,
    };
    // SAFETY: all fields of `msghdr` are integers and pointers, for which zero is a value
    let mut header = unsafe { mem::zeroed::<msghdr>() };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = length_of::<Name>();
    header.msg_iov = &raw mut payloads;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the header points at buffers with their true lengths, which live until the end of this function
    let received = unsafe {
        libc::recvmsg(
            socket,
            &raw mut header,
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
        )
    };
    if received < 0 {
        return Queued::Nothing;
    }
    let Some(peer) = name.address(header.msg_namelen) else {
        return Queued::Other;
    };
    control_messages(&header)
        .filter(|(level, kind, _)| {
            matches!(
                (*level, *kind),
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
            )
        })
        // SAFETY: the structure is plain integers
        .find_map(|(_, _, value)| unsafe { take::<libc::sock_extended_err>(value) })
        .filter(|error| {
            matches!(
                error.ee_origin,
                libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6
            )
        })
        .map_or(Queued::Other, |error| {
            Queued::Icmp(IcmpError {
                peer,
                kind: error.ee_type,
                code: error.ee_code,
                data: if is_too_long(&error) {
                    error.ee_info
                } else {
                    0
                },
            })
        })
}

/// Whether the error tells an MTU: "fragmentation needed" or "packet too big".
fn is_too_long(error: &libc::sock_extended_err) -> bool {
    error.ee_errno == libc::EMSGSIZE.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use socket2::{Protocol, Type};

    use super::*;

    fn socket(address: &str, role: Role) -> UdpSocket {
        let address: SocketAddr = address.parse().expect("an address");
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).expect("possible");
        socket.set_nonblocking(true).expect("possible");
        LinuxDatagrams::new()
            .prepare(&socket, role)
            .expect("possible");
        socket.bind(&address.into()).expect("a free port");
        socket.into()
    }

    fn to(address: SocketAddr) -> Envelope {
        Envelope {
            to: address,
            from: None,
            traffic_class: 0,
            dont_fragment: false,
        }
    }

    /// Loopback delivers before the send returns.
    fn receive(socket: &UdpSocket) -> Arena {
        let mut arena = Arena::new();
        LinuxDatagrams::new()
            .receive(socket, &mut arena, BATCH)
            .expect("something waits");
        arena
    }

    #[test]
    fn a_datagram_says_where_it_came_from_and_with_which_traffic_class() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let (one, other) = (socket(loopback, Role::Relay), socket(loopback, Role::Relay));
            let address = other.local_addr().expect("bound");
            for traffic_class in [0, 0b1011_1001] {
                let envelope = Envelope {
                    traffic_class,
                    ..to(address)
                };
                let sent = LinuxDatagrams::new().send(&one, &envelope, &[IoSlice::new(b"hello")]);
                assert_eq!(sent, 0);
                let arena = receive(&other);
                let received = arena.get(0).expect("one came");
                assert_eq!(received.from, one.local_addr().expect("bound"));
                assert_eq!(received.traffic_class, traffic_class, "{loopback}");
                assert_eq!(&arena.memory()[received.range.clone()], b"hello");
            }
        }
    }

    #[test]
    fn a_socket_on_all_addresses_says_which_and_sends_from_it() {
        for (all, one) in [("0.0.0.0:0", "127.0.0.3:0"), ("[::]:0", "[::1]:0")] {
            let listener = socket(all, Role::WildcardListener);
            let client = socket(one, Role::Listener);
            let client_address = client.local_addr().expect("bound");
            let port = listener.local_addr().expect("bound").port();
            let local = SocketAddr::new(client_address.ip(), port);
            client.send_to(b"hello", local).expect("sent");
            assert_eq!(
                receive(&listener).get(0).expect("one came").to,
                Some(local.ip())
            );
            let envelope = Envelope {
                from: Some(local.ip()),
                ..to(client_address)
            };
            let hello = IoSlice::new(b"hello");
            assert_eq!(
                LinuxDatagrams::new().send(&listener, &envelope, &[hello]),
                0
            );
            assert_eq!(receive(&client).get(0).expect("one came").from, local);
        }
    }

    #[test]
    fn a_run_is_sent_by_one_call_and_received_as_one() {
        let (one, other) = (
            socket("127.0.0.1:0", Role::Relay),
            socket("127.0.0.1:0", Role::Relay),
        );
        let address = other.local_addr().expect("bound");
        let payload = [7; 1_000];
        let mut run = vec![IoSlice::new(&payload); 20];
        run.push(IoSlice::new(b"the last"));
        assert_eq!(LinuxDatagrams::new().send(&one, &to(address), &run), 0);
        let arena = receive(&other);
        assert_eq!(arena.len(), 1);
        let received = arena.get(0).expect("one came");
        assert_eq!((received.range.len(), received.stride), (20_008, 1_000));
    }

    #[test]
    fn without_segmented_sends_all_of_a_run_is_sent() {
        let (one, other) = (
            socket("127.0.0.1:0", Role::Relay),
            socket("127.0.0.1:0", Role::Relay),
        );
        let address = other.local_addr().expect("bound");
        let mut datagrams = LinuxDatagrams::new();
        datagrams.longest_segment = 0;
        let run = [IoSlice::new(&[7; 100]); 5];
        assert_eq!(datagrams.send(&one, &to(address), &run), 0);
        assert_eq!(receive(&other).len(), 5);
    }

    #[test]
    fn what_a_segmented_send_was_refused_for_is_remembered() {
        let mut datagrams = LinuxDatagrams::new();
        let refused = io::Error::from_raw_os_error;
        datagrams.learn(&refused(libc::EINVAL), 1_400);
        assert!(datagrams.may_segment(1_399) && !datagrams.may_segment(1_400));
        // a peer whose path is that narrow is alone with it
        datagrams.learn(&refused(libc::EMSGSIZE), 600);
        assert!(datagrams.may_segment(1_399));
        datagrams.learn(&refused(libc::EIO), 100);
        assert!(!datagrams.may_segment(100));
    }

    #[test]
    fn the_df_bit_is_set_for_the_datagrams_that_want_it_alone() {
        for (address, level, option, on, off) in [
            (
                "127.0.0.1:0",
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                libc::IP_PMTUDISC_PROBE,
                libc::IP_PMTUDISC_DONT,
            ),
            (
                "[::1]:0",
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                libc::IPV6_PMTUDISC_PROBE,
                libc::IPV6_PMTUDISC_DONT,
            ),
        ] {
            let socket = socket(address, Role::Relay);
            let discovery = || get(&socket, level, option);
            assert_eq!(discovery(), off);
            let to = socket.local_addr().expect("bound");
            let meanwhile = with_dont_fragment(&socket, to, || {
                usize::try_from(discovery()).expect("not negative")
            });
            assert_eq!(i32::try_from(meanwhile), Ok(on));
            assert_eq!(discovery(), off);
        }
    }

    fn get(socket: &UdpSocket, level: c_int, option: c_int) -> c_int {
        let mut value: c_int = -1;
        let mut len = length_of::<c_int>();
        // SAFETY: the kernel writes one `c_int`, for which there is space
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                level,
                option,
                (&raw mut value).cast(),
                &raw mut len,
            )
        };
        assert_eq!(result, 0);
        value
    }

    #[test]
    fn an_icmp_error_names_the_peer_and_later_datagrams_are_sent_nevertheless() {
        for (loopback, kind, code) in [("127.0.0.1:0", 3, 3), ("[::1]:0", 1, 4)] {
            let relay = socket(loopback, Role::Relay);
            let gone = {
                let peer = socket(loopback, Role::Relay);
                peer.local_addr().expect("bound")
            };
            let other = socket(loopback, Role::Relay);
            let mut datagrams = LinuxDatagrams::new();
            assert_eq!(datagrams.icmp_error(&relay), None);
            let hello = [IoSlice::new(b"hello")];
            assert_eq!(datagrams.send(&relay, &to(gone), &hello), 0);
            // the error of the one before must not be this one's
            let address = other.local_addr().expect("bound");
            assert_eq!(datagrams.send(&relay, &to(address), &hello), 0);
            assert_eq!(receive(&other).len(), 1);
            let expected = IcmpError {
                peer: gone,
                kind,
                code,
                data: 0,
            };
            assert_eq!(datagrams.icmp_error(&relay), Some(expected));
            assert_eq!(datagrams.icmp_error(&relay), None);
        }
    }

    #[test]
    fn what_was_not_sent_is_told() {
        let one = socket("127.0.0.1:0", Role::Relay);
        let address = one.local_addr().expect("bound");
        let (short, too_long) = ([0; 10], vec![0; 65_508]);
        let mut datagrams = LinuxDatagrams::new();
        assert_eq!(
            datagrams.send(&one, &to(address), &[IoSlice::new(&too_long)]),
            1
        );
        assert_eq!(
            datagrams.send(&one, &to(address), &[IoSlice::new(&short)]),
            0
        );
    }
}
