//! RFC 6062, Traversal Using Relays around NAT (TURN) Extensions for TCP Allocations.

mod section_5_1_receiving_an_allocate_request;
mod section_5_2_receiving_a_connect_request;
mod section_5_3_receiving_a_tcp_connection;
mod section_5_4_receiving_a_connection_bind_request;

use std::net::SocketAddr;

use turn_relay_proto::{address::Transport, effect::RelayKind};

use crate::support::{
    client::Client,
    stun::{ALLOCATE, Draft},
    world::World,
};

/// A world that speaks RFC 6062.
fn world() -> World {
    World::with(|config| config.tcp_relay = true)
}

/// A client over a stream, with a relayed address for TCP.
fn allocated(world: &mut World) -> (Client, SocketAddr) {
    let family = turn_relay_proto::address::Family::V4;
    let mut client = Client::over(world, "alice", Transport::Tcp, family);
    let request = Draft::request(ALLOCATE).transport(6);
    let (answer, outcome) = client.call_with_outcome(world, request);
    assert_eq!(outcome.opened[0].kind, RelayKind::Tcp);
    let relayed = answer.success().relayed()[0];
    (client, relayed)
}
