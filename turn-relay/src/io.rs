//! Sockets: how bytes come in and go out.
//!
//! Nothing in here knows STUN, allocations or permissions: that is the core's. What is to be done with sockets stands
//! in the core's effects, which the worker carries out with what is here.

pub mod backend;
pub mod connections;
pub mod datagrams;
pub mod deadlines;
#[cfg(feature = "dtls")]
pub mod dtls;
pub mod handovers;
pub mod listeners;
pub mod locals;
pub mod mailbox;
pub mod outbox;
pub mod peers;
pub mod portable;
pub mod proxy_header;
pub mod ready;
pub mod relays;
pub mod strangers;
pub mod stream;

#[cfg(target_os = "linux")]
pub mod linux;

/// How this system's datagrams are moved.
#[cfg(target_os = "linux")]
pub type SystemDatagrams = linux::LinuxDatagrams;
/// How this system's datagrams are moved.
#[cfg(not(target_os = "linux"))]
pub type SystemDatagrams = portable::PortableDatagrams;
