//! Sockets: how bytes come in and go out.
//!
//! Nothing in here knows STUN, allocations or permissions: that is the core's. What is to be done with sockets stands
//! in the core's effects, which [`worker`](crate::worker) carries out with what is here.

pub mod datagrams;
pub mod listeners;
pub mod locals;
pub mod outbox;
pub mod ready;
pub mod relays;

#[cfg(target_os = "linux")]
pub mod linux;
#[cfg(any(test, not(target_os = "linux")))]
pub mod portable;

/// How this system's datagrams are moved.
#[cfg(target_os = "linux")]
pub type SystemDatagrams = linux::LinuxDatagrams;
/// How this system's datagrams are moved.
#[cfg(not(target_os = "linux"))]
pub type SystemDatagrams = portable::PortableDatagrams;
