//! RFC 7983 §7: the first byte says what a packet is.

use turn_relay_proto::{address::Family, address::Transport};

use crate::support::{
    client::Client,
    stun::{BINDING, Draft, channel_data},
    world::{World, socket},
};

#[test]
fn a_packet_of_another_protocol_is_not_answered() {
    let mut world = World::new();
    let (client, _) = Client::allocated(&mut world, "alice");
    let binding = Draft::request(BINDING).finish();
    for first in 4..=u8::MAX {
        if (0x40..=0x4F).contains(&first) {
            continue;
        }
        for mut packet in [binding.clone(), vec![0; 20], vec![0; 1]] {
            packet[0] = first;
            client.put(&mut world, &packet).nothing();
        }
    }
    client.put(&mut world, &[]).nothing();
}

#[test]
fn a_packet_of_another_protocol_does_no_harm_to_an_allocation() {
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    for first in 0..=u8::MAX {
        for len in 0..40 {
            let mut packet = vec![first; len];
            if let Some(last) = packet.last_mut() {
                *last = 0xFF;
            }
            client.put(&mut world, &packet).silence();
        }
    }
    client.refresh(&mut world, 600).success();
}

#[test]
fn reserved_channel_numbers_are_dropped() {
    // RFC 8656 §12.6: 0x5000 to 0xFFFF
    let mut world = World::new();
    let (mut client, _) = Client::allocated(&mut world, "alice");
    client
        .bind(&mut world, 0x4000, socket("198.51.100.1:9"))
        .success();
    for number in [0x5000, 0x5FFF, 0x7FFF, 0x8000, 0xFFFF] {
        client
            .put(&mut world, &channel_data(number, b"data"))
            .nothing();
    }
}

#[test]
fn each_transport_tells_stun_and_channel_data_apart() {
    for transport in [
        Transport::Udp,
        Transport::Tcp,
        Transport::Tls,
        Transport::Dtls,
    ] {
        let mut world = World::new();
        let mut client = Client::over(&mut world, "alice", transport, Family::V4);
        client.allocate(&mut world);
        let peer = socket("198.51.100.1:9");
        client.bind(&mut world, 0x4000, peer).success();
        let outcome = client.send_on(&mut world, 0x4000, b"data");
        assert_eq!(outcome.to_peer().payload, b"data");
        assert!(client.binding(&mut world).stun().is_success());
    }
}
