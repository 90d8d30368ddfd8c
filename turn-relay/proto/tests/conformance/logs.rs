//! What the relay says about its users: nothing. No username, and no address or port of a client, a peer or a relayed address, is in any event
//! or span at any level, nor in the `Debug` form of what the crate gives out.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};
use turn_relay_proto::{Effects, IcmpError, RelayFailure, address::Transport, policy::PeerPolicy};

use crate::support::{
    client::Client,
    stun::{Draft, MessageClass, Method, REFRESH, SEND, fresh_id},
    world::{World, socket},
};

/// Writes down every event and span, with all fields.
#[derive(Clone, Default)]
struct Listener(Arc<Mutex<String>>);

impl Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        span.record(&mut Note(&self.0));
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut Note(&self.0));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        // stun-types is a part of the test, not of the relay
        if event.metadata().target().starts_with("turn_relay_proto") {
            event.record(&mut Note(&self.0));
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Note<'a>(&'a Mutex<String>);

impl Visit for Note<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let mut log = self.0.lock().unwrap();
        writeln!(log, "{field}={value:?}").unwrap();
    }
}

/// Does a little of everything, right and wrong, and gives back what must not be read anywhere.
fn live(world: &mut World) -> Vec<String> {
    let mut secrets = Vec::new();
    let peer = socket("198.51.100.73:46123");
    let denied = socket("10.11.12.13:46124");
    for transport in [Transport::Udp, Transport::Tls] {
        let (mut client, relayed) = Client::allocated_over(world, "@alice:example.org", transport);
        secrets.extend([
            "alice".to_owned(),
            client.username.clone(),
            client.password.clone(),
            client.five_tuple.client.ip().to_string(),
            relayed.port().to_string(),
        ]);
        client.permit(world, peer);
        client.bind(world, 0x4000, peer).success();
        client.create_permissions(world, &[denied]).error(403);
        client.bind(world, 0x4001, denied).error(403);
        client.send(world, peer, b"data");
        client.send(world, denied, b"data");
        client.send(world, relayed, b"data");
        client.send_on(world, 0x4000, b"data");
        client.send_on(world, 0x4002, b"data");
        world.peer_says(relayed, peer, b"data");
        world.peer_says(relayed, denied, b"data");
        world.icmp(
            relayed,
            IcmpError {
                peer,
                kind: 3,
                code: 3,
                data: 0,
            },
        );
        client.call(world, Draft::allocate()).error(437);
        client
            .call(world, Draft::request(REFRESH).family(2))
            .error(443);
        let username = format!("{}:@mallory:example.org", world.now.unix_seconds + 1);
        secrets.push("mallory".to_owned());
        let mut mallory = client.clone().with_username(&username);
        mallory.refresh(world, 0).error(441);
        "wrong".clone_into(&mut mallory.password);
        mallory.refresh(world, 0).error(401);
        let mut expired = client.clone().with_username("1:@mallory:example.org");
        expired.five_tuple = world.five_tuple();
        expired.challenge(world);
        expired.call(world, Draft::allocate()).error(401);
        client.put(world, &Draft::indication(SEND).finish());
        client.put(
            world,
            &Draft::new(MessageClass::Request, Method::new(0x77), fresh_id()).finish(),
        );
        world.pass(Duration::from_secs(7200));
        client.call(world, Draft::request(REFRESH)).error(438);
        world.tick();
        world.failures = [Some(RelayFailure::PortInUse), Some(RelayFailure::Other)].into();
        let mut unlucky = Client::new(world, "@alice:example.org");
        unlucky.call(world, Draft::allocate()).error(508);
    }
    for address in [peer, denied] {
        secrets.extend([address.ip().to_string(), address.port().to_string()]);
    }
    secrets
}

#[track_caller]
fn assert_silent(text: &str, secrets: &[String]) {
    for secret in secrets {
        assert!(!text.contains(secret.as_str()), "{secret:?} is in {text}");
    }
}

#[test]
fn no_log_line_names_a_user_or_an_address() {
    let listener = Listener::default();
    let secrets = tracing::subscriber::with_default(listener.clone(), || {
        let mut world = World::with(|config| {
            config.quotas.allocations_per_user = 12;
            config.policy = Arc::new(PeerPolicy {
                allow: vec!["198.51.100.0/24".parse().unwrap()],
                ..PeerPolicy::default()
            });
        });
        live(&mut world)
    });
    let log = listener.0.lock().unwrap();
    assert_silent(&log, &secrets);
}

#[test]
fn no_debug_form_names_a_user_or_an_address() {
    let mut world = World::new();
    let (mut client, relayed) = Client::allocated(&mut world, "@alice:example.org");
    let peer = socket("198.51.100.73:46123");
    client.bind(&mut world, 0x4000, peer).success();
    client.permit(&mut world, relayed);
    let secrets = [
        "alice".to_owned(),
        client.five_tuple.client.ip().to_string(),
        client.five_tuple.client.port().to_string(),
        peer.ip().to_string(),
        peer.port().to_string(),
        relayed.port().to_string(),
        crate::support::world::SECRET.to_owned(),
        relayed.ip().to_string(),
    ];
    let icmp = IcmpError {
        peer,
        kind: 3,
        code: 3,
        data: 0,
    };
    for text in [
        format!("{:?}", client.five_tuple),
        format!("{icmp:?}"),
        format!("{:?}", world.config),
        format!("{:?}", world.servers[0]),
        format!("{:?}", world.commons),
        format!("{:?}", Effects::new()),
    ] {
        assert_silent(&text, &secrets);
    }
}
