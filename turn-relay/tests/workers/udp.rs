//! Datagrams.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use turn_relay_proto::{
    config::RelayAddress,
    counters::{BindFailure, Direction},
    credential::Secrets,
    stun::{AttributeType, Class, Method},
};

use crate::{
    client::{PATIENCE, send_indication, udp_client},
    relay::{core, reloadable, settings, start},
};

fn peer() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
    socket
}

#[test]
fn a_binding_request_tells_where_it_came_from() {
    let relay = start(settings(), reloadable());
    let mut client = udp_client(relay.local_addresses()[0]);
    let answer = client.ask(Method::Binding, &|_| {});
    let message = answer.message();
    assert_eq!(message.class(), Class::Success);
    assert_eq!(
        message.xor_address(AttributeType::XOR_MAPPED_ADDRESS),
        client.wire.local_addr().ok()
    );
}

#[test]
fn data_goes_both_ways_over_channels_and_indications() {
    let relay = start(settings(), reloadable());
    let mut client = udp_client(relay.local_addresses()[0]);
    let relayed = client.allocate();
    let peer = peer();
    let peer_address = peer.local_addr().expect("bound");
    let mut buffer = [0; 2_000];

    client.permit(peer_address);
    for payload in [b"indication".as_slice(), b""] {
        let message = send_indication(peer_address, payload, false);
        client.wire.send(&message).expect("sent");
        let (len, from) = peer.recv_from(&mut buffer).expect("relayed");
        assert_eq!((&buffer[..len], from), (payload, relayed));
        peer.send_to(payload, relayed).expect("sent");
        let data = client.indication(Method::Data);
        assert_eq!(data.message().value(AttributeType::DATA), Some(payload));
    }

    let channel = client.bind(0x4000, peer_address);
    for payload in [b"channel".as_slice(), b"", &[7; 1_200]] {
        client.wire.send(&channel.message(payload)).expect("sent");
        let (len, from) = peer.recv_from(&mut buffer).expect("relayed");
        assert_eq!((&buffer[..len], from), (payload, relayed));
        peer.send_to(payload, relayed).expect("sent");
        assert_eq!(client.channel_data().as_deref(), Some(payload));
    }
}

/// More than one batch, in runs of one length and of different ones, so that some go out as segments of one send.
#[test]
fn a_burst_arrives_in_order_and_in_full() {
    let relay = start(settings(), reloadable());
    let mut client = udp_client(relay.local_addresses()[0]);
    let relayed = client.allocate();
    let peer = peer();
    let channel = client.bind(0x4000, peer.local_addr().expect("bound"));
    let payloads: Vec<Vec<u8>> = (0..200_u8)
        .map(|number| {
            let len = match number {
                0..60 => 1_000,
                60..120 => 100 + usize::from(number),
                120..130 => 0,
                _ => 1_000 - usize::from(number % 7 / 6),
            };
            vec![number; len]
        })
        .collect();
    let mut buffer = [0; 2_000];
    // no more at once than what waits at a socket of the usual size
    for burst in payloads.chunks(50) {
        for payload in burst {
            client.wire.send(&channel.message(payload)).expect("sent");
        }
        for payload in burst {
            let (len, _) = peer.recv_from(&mut buffer).expect("relayed");
            assert!(buffer[..len] == *payload, "{len}, {:?}", buffer.first());
        }
        for payload in burst {
            peer.send_to(payload, relayed).expect("sent");
        }
        for payload in burst {
            assert!(client.channel_data().as_ref() == Some(payload));
        }
    }
}

/// What comes as one is relayed as many, both ways.
#[test]
#[cfg(target_os = "linux")]
fn a_segmented_burst_arrives_in_order_and_in_full() {
    use std::io::IoSlice;

    use turn_relay::io::{
        datagrams::{Datagrams as _, Envelope},
        linux::LinuxDatagrams,
    };

    let mut datagrams = LinuxDatagrams::new();
    let mut send = |socket: &UdpSocket, to: SocketAddr, messages: &[Vec<u8>]| {
        let envelope = Envelope {
            to,
            from: None,
            traffic_class: 0,
            dont_fragment: false,
        };
        let slices: Vec<_> = messages
            .iter()
            .map(|message| IoSlice::new(message))
            .collect();
        assert_eq!(datagrams.send(socket, &envelope, &slices), 0);
    };
    let relay = start(settings(), reloadable());
    let address = relay.local_addresses()[0];
    let mut client = udp_client(address);
    let relayed = client.allocate();
    let peer = peer();
    let peer_address = peer.local_addr().expect("bound");
    client.permit(peer_address);
    let mut buffer = [0; 2_000];
    // first without a channel, so that headers are long
    for bound in [false, true] {
        let channel = bound.then(|| client.bind(0x4000, peer_address));
        for (count, len, last) in [
            (2_u8, 1_200, 1_200),
            (50, 1_200, 7),
            (63, 160, 159),
            (64, 1, 1),
        ] {
            let payloads: Vec<Vec<u8>> = (1..=count)
                .map(|number| vec![number; if number == count { last } else { len }])
                .collect();
            let messages: Vec<Vec<u8>> = payloads
                .iter()
                .map(|payload| match channel {
                    Some(channel) => channel.message(payload),
                    None => send_indication(peer_address, payload, false),
                })
                .collect();
            for run in messages.chunks(40) {
                send(&client.wire, address, run);
            }
            for payload in &payloads {
                let (len, from) = peer.recv_from(&mut buffer).expect("relayed");
                assert_eq!((&buffer[..len], from), (payload.as_slice(), relayed));
            }
            send(&peer, relayed, &payloads);
            for payload in &payloads {
                if bound {
                    assert_eq!(client.channel_data().as_ref(), Some(payload));
                } else {
                    let data = client.indication(Method::Data);
                    let message = data.message();
                    assert_eq!(message.value(AttributeType::DATA), Some(payload.as_slice()));
                }
            }
        }
    }
}

#[test]
fn the_longest_datagrams_are_relayed() {
    let relay = start(settings(), reloadable());
    let mut client = udp_client(relay.local_addresses()[0]);
    let relayed = client.allocate();
    let peer = peer();
    let channel = client.bind(0x4000, peer.local_addr().expect("bound"));
    let payload = vec![1; 65_000];
    client.wire.send(&channel.message(&payload)).expect("sent");
    let mut buffer = vec![0; 65_536];
    let (len, _) = peer.recv_from(&mut buffer).expect("relayed");
    assert_eq!(len, payload.len());
    peer.send_to(&payload, relayed).expect("sent");
    assert_eq!(client.channel_data().map(|data| data.len()), Some(65_000));
}

#[test]
fn an_answer_leaves_from_the_address_that_the_client_sent_to() {
    let mut settings = settings();
    settings.udp = vec![SocketAddr::from(([0, 0, 0, 0], 0))];
    let relay = start(settings, reloadable());
    let port = relay.local_addresses()[0].port();
    for last in 1..4 {
        // the socket is connected: it takes nothing from another address
        let mut client = udp_client(SocketAddr::from(([127, 0, 0, last], port)));
        assert_eq!(
            client.ask(Method::Binding, &|_| {}).message().class(),
            Class::Success
        );
        client.allocate();
    }
}

#[test]
fn a_client_on_ipv6_reaches_a_peer_on_ipv4() {
    let mut settings = settings();
    settings.udp = vec!["[::]:0".parse().expect("an address")];
    let relay = start(settings, reloadable());
    let port = relay.local_addresses()[0].port();
    let mut client = udp_client(SocketAddr::new("::1".parse::<IpAddr>().expect("ip"), port));
    let relayed = client.allocate();
    assert!(relayed.is_ipv4());
    let peer = peer();
    let channel = client.bind(0x4001, peer.local_addr().expect("bound"));
    client.wire.send(&channel.message(b"hello")).expect("sent");
    let mut buffer = [0; 100];
    let (len, _) = peer.recv_from(&mut buffer).expect("relayed");
    assert_eq!(&buffer[..len], b"hello");
}

#[test]
#[cfg(target_os = "linux")]
fn a_peer_that_is_not_there_is_told_by_an_icmp_attribute() {
    let relay = start(settings(), reloadable());
    // destination unreachable, port unreachable
    for (loopback, family, icmp) in [
        ("127.0.0.1:0", 1, [0, 0, 3, 3, 0, 0, 0, 0]),
        ("[::1]:0", 2, [0, 0, 1, 4, 0, 0, 0, 0]),
    ] {
        let mut client = udp_client(relay.local_addresses()[0]);
        client.allocate_with(&|writer| {
            writer
                .attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
                .attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0]);
        });
        let peer = UdpSocket::bind(loopback).expect("a free port");
        let gone = peer.local_addr().expect("bound");
        drop(peer);
        client.permit(gone);
        client
            .wire
            .send(&send_indication(gone, b"is anybody there", false))
            .expect("sent");
        let data = client.indication(Method::Data);
        let message = data.message();
        assert_eq!(message.value(AttributeType::ICMP), Some(icmp.as_slice()));
        assert_eq!(
            message.xor_address(AttributeType::XOR_PEER_ADDRESS),
            Some(gone)
        );
    }
}

/// RFC 8656 §14.1: DSCP and ECN.
#[test]
#[cfg(target_os = "linux")]
fn the_traffic_class_is_copied_both_ways() {
    use turn_relay::io::{
        datagrams::{Arena, Datagrams as _, Role},
        linux::LinuxDatagrams,
    };

    const CLASS: u32 = 0b1011_1001;

    let received_class = |socket: &UdpSocket| {
        let mut arena = Arena::new();
        // waits until something is there
        socket.peek_from(&mut [0; 1]).expect("relayed");
        LinuxDatagrams::new()
            .receive(socket, &mut arena, 1)
            .expect("it is there");
        arena
            .get(0)
            .map(|received| u32::from(received.traffic_class))
    };
    let relay = start(settings(), reloadable());
    let mut client = udp_client(relay.local_addresses()[0]);
    let relayed = client.allocate();
    let peer = peer();
    let channel = client.bind(0x4000, peer.local_addr().expect("bound"));
    let sockets = [&client.wire, &peer].map(socket2::SockRef::from);
    for class in [0, CLASS] {
        for socket in &sockets {
            LinuxDatagrams::new()
                .prepare(socket, Role::Listener)
                .expect("possible");
            socket.set_tos_v4(class).expect("possible");
        }
        client.wire.send(&channel.message(b"up")).expect("sent");
        assert_eq!(received_class(&peer), Some(class));
        peer.send_to(b"down", relayed).expect("sent");
        assert_eq!(received_class(&client.wire), Some(class));
    }
}

#[test]
fn new_secrets_hold_at_once_and_allocations_stay() {
    let relay = start(settings(), reloadable());
    let mut old = udp_client(relay.local_addresses()[0]);
    old.allocate();
    let mut new_core = core();
    new_core.secrets = Arc::new(Secrets::new(vec![b"another secret".to_vec()]));
    let mut reloadable = reloadable();
    reloadable.core = Arc::new(new_core);
    relay.reconfigure(reloadable);
    // each thread takes it up before what comes later
    let mut new = udp_client(relay.local_addresses()[0]);
    assert!(new.try_to_ask(Method::Allocate, &|_| {}).is_none());
    assert_eq!(
        old.ask(Method::Refresh, &|_| {}).message().class(),
        Class::Success
    );
    assert_eq!(relay.allocations(), 1);
}

/// Two clients of one relay, on whichever of its threads.
#[test]
fn two_clients_of_the_relay_reach_each_other() {
    let relay = start(settings(), reloadable());
    for _ in 0..4 {
        let mut one = udp_client(relay.local_addresses()[0]);
        let mut other = udp_client(relay.local_addresses()[0]);
        let (relayed_one, relayed_other) = (one.allocate(), other.allocate());
        let channel = one.bind(0x4000, relayed_other);
        other.permit(relayed_one);
        one.wire.send(&channel.message(b"across")).expect("sent");
        let data = other.indication(Method::Data);
        assert_eq!(
            data.message().value(AttributeType::DATA),
            Some(b"across".as_slice())
        );
    }
}

#[test]
fn what_expires_while_nothing_happens_is_given_back() {
    let relay = start(settings(), reloadable());
    let mut client = udp_client(relay.local_addresses()[0]);
    client.allocate();
    assert_eq!(relay.allocations(), 1);
    // lifetime 0 ends it; nothing else comes after that
    let answer = client.ask(Method::Refresh, &|writer| {
        writer.number(AttributeType::LIFETIME, 0);
    });
    assert_eq!(answer.message().class(), Class::Success);
    assert_eq!(relay.allocations(), 0);
}

#[test]
fn threads_tell_that_they_live() {
    let relay = start(settings(), reloadable());
    assert!(relay.are_alive());
    std::thread::sleep(Duration::from_millis(50));
    assert!(relay.are_alive());
}

#[test]
fn a_drained_relay_makes_no_allocations_and_keeps_those_that_there_are() {
    let relay = start(settings(), reloadable());
    let address = relay.local_addresses()[0];
    let mut old = udp_client(address);
    let relayed = old.allocate();
    relay.drain();
    // threads hear of it before anything that comes later
    let mut new = udp_client(address);
    let answer = new.ask(Method::Allocate, &|writer| {
        writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    });
    assert_eq!(answer.message().class(), Class::Error);
    assert_eq!(relay.allocations(), 1);
    old.permit(relayed);
    relay.stop();
}

#[test]
fn an_address_that_is_not_this_hosts_is_told_as_508_and_counted_by_why() {
    let mut core = core();
    // of a network for documentation
    let elsewhere = std::net::Ipv4Addr::new(192, 0, 2, 77).into();
    core.relay_addresses = vec![RelayAddress {
        bind: elsewhere,
        advertised: elsewhere,
    }];
    let mut reloadable = reloadable();
    reloadable.core = Arc::new(core);
    let relay = start(settings(), reloadable);
    let mut client = udp_client(relay.local_addresses()[0]);
    let answer = client.ask(Method::Allocate, &|writer| {
        writer.attribute(AttributeType::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    });
    let message = answer.message();
    assert_eq!(
        message.value(AttributeType::ERROR_CODE),
        Some([0, 0, 5, 8].as_slice())
    );
    let count = |kind| -> u64 {
        let counters = relay.counters().iter();
        counters
            .map(|counters| counters.bind_failures.get(kind))
            .sum()
    };
    assert_eq!(count(BindFailure::AddressGone), 1);
    assert_eq!(count(BindFailure::Other), 0);
}

/// What one thread does for a client no other one has to know of.
#[test]
fn a_clients_packets_stay_on_its_thread() {
    const PACKETS: u64 = 50;
    let mut settings = settings();
    settings.workers = 4;
    let relay = start(settings, reloadable());
    let counts = |direction| -> Vec<u64> {
        let counters = relay.counters().iter();
        counters
            .map(|counters| counters.packets.get(direction))
            .collect()
    };
    for _ in 0..6 {
        let before = [Direction::ClientToPeer, Direction::PeerToClient].map(counts);
        let mut client = udp_client(relay.local_addresses()[0]);
        let relayed = client.allocate();
        let peer = peer();
        let channel = client.bind(0x4000, peer.local_addr().expect("bound"));
        let mut buffer = [0; 64];
        for _ in 0..PACKETS {
            client.wire.send(&channel.message(b"up")).expect("sent");
            peer.recv(&mut buffer).expect("relayed");
            peer.send_to(b"down", relayed).expect("sent");
            assert_eq!(client.channel_data().as_deref(), Some(&b"down"[..]));
        }
        let after = [Direction::ClientToPeer, Direction::PeerToClient].map(counts);
        let threads = before.iter().zip(&after).map(|(before, after)| {
            let differences = before
                .iter()
                .zip(after)
                .map(|(before, after)| after - before);
            let busy: Vec<_> = differences
                .enumerate()
                .filter(|(_, packets)| *packets > 0)
                .collect();
            let [(thread, PACKETS)] = busy[..] else {
                panic!("{busy:?}");
            };
            thread
        });
        let [up, down] = threads.collect::<Vec<_>>()[..] else {
            panic!("two directions");
        };
        assert_eq!(up, down);
    }
}
