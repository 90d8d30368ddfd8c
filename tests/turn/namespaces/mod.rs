//! The relay, clients and peers in network namespaces of their own: routing, NAT, IPv6, the peer policy and ICMP
//! as they are, on one machine.
//!
//! Namespaces have no name while a test runs: the last process that uses one takes it along, however it ends. Where
//! none can be made (it takes root, veth, and for NAT `iptables`) the tests say so and pass.

mod addresses;
mod icmp;
mod ip_header;
mod nat;
pub(crate) mod network;
mod policy;
