//! The relay's threads on loopback: what a client sees of sockets, batches and connections.

mod client;
mod relay;
mod udp;
