//! The relay's threads on loopback: what a client sees of sockets, batches and connections.

mod client;
mod peers;
mod relay;
mod stream;
mod streams;
mod udp;
