//! webrtc-rs: two peer connections that may use relayed candidates alone, and a data channel between them. It speaks
//! TURN over UDP only.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_lc_rs::digest::{Context, Digest, SHA256, digest};
use bytes::BytesMut;
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::{interval, timeout},
};
use webrtc::{
    data_channel::{DataChannel, DataChannelEvent},
    peer_connection::{
        PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfigurationBuilder,
        RTCIceGatheringState, RTCIceServer, RTCIceTransportPolicy, RTCPeerConnectionState,
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
    let called = timeout(PATIENCE, call(&relay)).await;
    let (sent, received) = called.expect("the call ends in time");
    assert_eq!(received.as_ref(), sent.as_ref());
}

/// Sends the data from one to the other, and gives the digests of what was sent and of what came.
async fn call(relay: &Relay) -> (Digest, Digest) {
    let (told, mut caller_tells) = unbounded_channel();
    let caller = connect(relay, "alice", told).await;
    let (told, mut callee_tells) = unbounded_channel();
    let callee = connect(relay, "bob", told).await;
    let outgoing = caller
        .create_data_channel("file", None)
        .await
        .expect("a channel can be made");

    let offer = caller.create_offer(None).await.expect("an offer is made");
    caller
        .set_local_description(offer)
        .await
        .expect("the offer is its own");
    gathered(&mut caller_tells).await;
    let offer = caller.local_description().await.expect("there is one now");
    assert_only_relayed(&offer.sdp);
    callee
        .set_remote_description(offer)
        .await
        .expect("the offer is understood");
    let answer = callee.create_answer(None).await.expect("an answer is made");
    callee
        .set_local_description(answer)
        .await
        .expect("the answer is its own");
    gathered(&mut callee_tells).await;
    let answer = callee.local_description().await.expect("there is one now");
    assert_only_relayed(&answer.sdp);
    caller
        .set_remote_description(answer)
        .await
        .expect("the answer is understood");

    let file: Vec<u8> = (0..SIZE).map(|place| byte_at(place)).collect();
    let sent = digest(&SHA256, &file);
    let mut beside = JoinSet::new();
    beside.spawn(send(outgoing, file));
    let incoming = loop {
        match callee_tells.recv().await.expect("the handler lives") {
            Told::Channel(channel) => break channel,
            Told::Gathered => {}
            Told::Failed => panic!("no connection came about"),
        }
    };
    beside.spawn(tick(incoming.clone()));
    let received = receive(&*incoming).await;
    beside.shutdown().await;
    for connection in [&caller, &callee] {
        connection.close().await.expect("it can be closed");
    }
    (sent, received)
}

async fn connect(relay: &Relay, user: &str, told: UnboundedSender<Told>) -> impl PeerConnection {
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
    PeerConnectionBuilder::new()
        .with_configuration(configuration)
        .with_handler(Arc::new(Handler(told)))
        .with_runtime(default_runtime().expect("the runtime is tokio"))
        .with_udp_addrs(vec!["127.0.0.1:0"])
        .with_data_channel_send_buffer_limit(IN_FLIGHT)
        .build()
        .await
        .expect("a connection can be made")
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

async fn gathered(tells: &mut tokio::sync::mpsc::UnboundedReceiver<Told>) {
    let told = tells.recv().await;
    assert!(matches!(told, Some(Told::Gathered)), "no candidates");
}

/// There is a candidate, and each is relayed.
fn assert_only_relayed(sdp: &str) {
    let candidates: Vec<_> = sdp
        .lines()
        .filter(|line| line.starts_with("a=candidate:"))
        .collect();
    assert!(!candidates.is_empty(), "{sdp}");
    for candidate in candidates {
        assert!(candidate.contains(" typ relay"), "{candidate}");
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
    loop {
        match channel.poll().await.expect("the channel lives") {
            DataChannelEvent::OnOpen => return,
            DataChannelEvent::OnClose => panic!("the channel was closed"),
            _ => {}
        }
    }
}

/// The digest of all that comes.
async fn receive(channel: &dyn DataChannel) -> Digest {
    let mut context = Context::new(&SHA256);
    let mut length = 0;
    while length < SIZE {
        match channel.poll().await.expect("the channel lives") {
            DataChannelEvent::OnMessage(message) => {
                context.update(&message.data);
                length += message.data.len();
            }
            DataChannelEvent::OnClose => panic!("the channel was closed after {length} bytes"),
            _ => {}
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
