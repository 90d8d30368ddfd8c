//! webrtc-rs: two peer connections that may use relayed candidates alone, and a data channel between them. It speaks
//! TURN over UDP only.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_lc_rs::digest::{Context, Digest, SHA256, digest};
use bytes::BytesMut;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::{interval, timeout},
};
use webrtc::{
    data_channel::{DataChannel, DataChannelEvent},
    peer_connection::{
        PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfigurationBuilder,
        RTCIceGatheringState, RTCIceServer, RTCIceTransportPolicy, RTCPeerConnectionState,
        RTCSessionDescription,
    },
    runtime::default_runtime,
};

use crate::{
    PATIENCE,
    relay::{Credential, Family, Place, Relay, Transport},
};

/// What goes through.
const SIZE: usize = 10_000_000;

/// One message of the data channel: larger than a packet.
const CHUNK: usize = 16_384;

/// How much may be on its way, in bytes: what the relay's socket holds if the relay is not woken in time.
const IN_FLIGHT: usize = 1 << 16;

/// webrtc-rs (0.21.1) answers what came through a relay when it is next woken by something else. So that this is not a
/// timer of 200 ms, the receiving side says something this often.
const TICK: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread")]
async fn ten_megabytes_arrive_as_they_were_sent() {
    let Some(relay) = Relay::start(Place::Loopback) else {
        return;
    };
    let called = timeout(PATIENCE, Box::pin(call(&relay))).await;
    let (sent, received) = called.expect("the call ends in time");
    assert_eq!(received.as_ref(), sent.as_ref());
}

/// Sends the data from Alice to Bob, and gives the digests of what was sent and of what came.
async fn call(relay: &Relay) -> (Digest, Digest) {
    let mut alice = Party::new(relay, "alice").await;
    let mut bob = Party::new(relay, "bob").await;
    let outgoing = alice
        .connection
        .create_data_channel("file", None)
        .await
        .expect("a channel can be made");
    let offer = alice.connection.create_offer(None).await;
    let offer = alice.describe(offer.expect("an offer is made")).await;
    bob.connection
        .set_remote_description(offer)
        .await
        .expect("the offer is understood");
    let answer = bob.connection.create_answer(None).await;
    let answer = bob.describe(answer.expect("an answer is made")).await;
    alice
        .connection
        .set_remote_description(answer)
        .await
        .expect("the answer is understood");

    let file: Vec<u8> = (0..SIZE).map(byte_at).collect();
    let sent = digest(&SHA256, &file);
    let mut beside = JoinSet::new();
    beside.spawn(send(outgoing, file));
    let incoming = bob.channel().await;
    beside.spawn(tick(incoming.clone()));
    let received = receive(&*incoming).await;
    beside.shutdown().await;
    for party in [alice, bob] {
        let closed = party.connection.close().await;
        closed.expect("it can be closed");
    }
    (sent, received)
}

/// One end of the call.
struct Party {
    connection: Box<dyn PeerConnection>,
    tells: UnboundedReceiver<Told>,
}

impl Party {
    async fn new(relay: &Relay, user: &str) -> Self {
        let Credential { username, password } = Credential::fresh(user);
        let server = RTCIceServer {
            urls: vec![relay.uri(Transport::Udp, Family::IPv4)],
            username,
            credential: password,
        };
        let configuration = RTCConfigurationBuilder::new()
            .with_ice_servers(vec![server])
            .with_ice_transport_policy(RTCIceTransportPolicy::Relay)
            .build();
        let (told, tells) = unbounded_channel();
        let builder = PeerConnectionBuilder::new()
            .with_configuration(configuration)
            .with_handler(Arc::new(Handler(told)))
            .with_runtime(default_runtime().expect("the runtime is tokio"))
            .with_udp_addrs(vec!["127.0.0.1:0"])
            .with_data_channel_send_buffer_limit(IN_FLIGHT);
        let connection = Box::pin(builder.build()).await;
        Self {
            connection: Box::new(connection.expect("a connection can be made")),
            tells,
        }
    }

    /// Makes the description its own, and gives it with candidates: there are some, and each is relayed.
    async fn describe(&mut self, description: RTCSessionDescription) -> RTCSessionDescription {
        self.connection
            .set_local_description(description)
            .await
            .expect("the description is its own");
        let told = self.tells.recv().await;
        assert!(matches!(told, Some(Told::Gathered)), "no candidates");
        let description = self.connection.local_description().await;
        let description = description.expect("there is one now");
        let candidates: Vec<_> = description
            .sdp
            .lines()
            .filter(|line| line.starts_with("a=candidate:"))
            .collect();
        assert!(!candidates.is_empty(), "{}", description.sdp);
        for candidate in candidates {
            assert!(candidate.contains(" typ relay"), "{candidate}");
        }
        description
    }

    /// The channel that the other one made.
    async fn channel(&mut self) -> Arc<dyn DataChannel> {
        loop {
            match self.tells.recv().await.expect("the handler lives") {
                Told::Channel(channel) => return channel,
                Told::Gathered => {}
                Told::Failed => panic!("no connection came about"),
            }
        }
    }
}

/// What a connection tells of itself.
enum Told {
    Gathered,
    Channel(Arc<dyn DataChannel>),
    Failed,
}

struct Handler(UnboundedSender<Told>);

impl Handler {
    fn tell(&self, told: Told) {
        // nobody may be interested any more
        let _ = self.0.send(told);
    }
}

#[async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.tell(Told::Gathered);
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        if state == RTCPeerConnectionState::Failed {
            self.tell(Told::Failed);
        }
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        self.tell(Told::Channel(channel));
    }
}

/// Sends all of it, and takes what comes from the other side for as long as it is let.
async fn send(channel: Arc<dyn DataChannel>, file: Vec<u8>) {
    wait_until_open(&channel).await;
    let sending = async {
        for chunk in file.chunks(CHUNK) {
            let sent = channel.send(BytesMut::from(chunk)).await;
            sent.expect("the channel is open");
        }
    };
    let taking = async { while channel.poll().await.is_some() {} };
    tokio::join!(sending, taking);
}

async fn tick(channel: Arc<dyn DataChannel>) {
    let mut ticks = interval(TICK);
    loop {
        ticks.tick().await;
        let sent = channel.send(BytesMut::from(&b"tick"[..])).await;
        sent.expect("the channel is open");
    }
}

async fn wait_until_open(channel: &Arc<dyn DataChannel>) {
    while !matches!(next(&**channel).await, DataChannelEvent::OnOpen) {}
}

async fn next(channel: &dyn DataChannel) -> DataChannelEvent {
    let event = channel.poll().await.expect("the channel lives");
    assert!(
        !matches!(event, DataChannelEvent::OnClose),
        "the channel was closed"
    );
    event
}

/// The digest of all that comes.
async fn receive(channel: &dyn DataChannel) -> Digest {
    let mut context = Context::new(&SHA256);
    let mut length = 0;
    while length < SIZE {
        if let DataChannelEvent::OnMessage(message) = next(channel).await {
            context.update(&message.data);
            length += message.data.len();
        }
    }
    assert_eq!(length, SIZE);
    context.finish()
}

/// Data in which no two places close to each other look alike.
fn byte_at(place: usize) -> u8 {
    let [low, ..] = (place.wrapping_mul(0x9e37_79b9) >> 13).to_le_bytes();
    low
}
