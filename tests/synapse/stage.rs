//! Everybody who takes part: two users in one room on a Synapse, the gateway, the providers.

use std::path::Path;

use serde_json::{Value, json};
use stand_ins::{PushService, Server, StandIns, Subscription};

use crate::{
    gateway::Gateway,
    local_part,
    synapse::{SERVER_NAME, Synapse, User},
    tap::Tap,
};

/// The app IDs of the gateway's configuration.
pub(crate) const APNS: &str = "org.example.apns";
pub(crate) const APNS_AS_SYGNAL: &str = "org.example.unmodified";
pub(crate) const FCM: &str = "org.example.fcm";
pub(crate) const WEB_PUSH: &str = "org.example.web";
pub(crate) const UNIFIED_PUSH: &str = "org.example.unifiedpush";

/// All of them, running.
pub(crate) struct Stage {
    pub(crate) alice: User,
    pub(crate) bob: User,
    pub(crate) room: String,
    pub(crate) stand_ins: StandIns,
    pub(crate) unified_push: PushService,
    pub(crate) tap: Tap,
    pub(crate) gateway: Gateway,
    _synapse: Synapse,
}

/// Alice's subscriptions, to be ended.
pub(crate) struct Devices {
    pub(crate) web_push: Subscription,
    pub(crate) unified_push: Subscription,
}

impl Stage {
    pub(crate) async fn set(python: &Path) -> Self {
        let stand_ins = StandIns::start().await.expect("loopback has free ports");
        let unified_push = PushService::start(&stand_ins.authority)
            .await
            .expect("loopback has free ports");
        let gateway = Gateway::start(&stand_ins).await;
        let tap = Tap::start(gateway.address).await;

        let synapse = Synapse::start(python).await;
        let alice = synapse.register("alicewonder").await;
        let bob = synapse.register("bobbuilder").await;
        let room = bob.create_room_with(&alice).await;
        Self {
            alice,
            bob,
            room,
            stand_ins,
            unified_push,
            tap,
            gateway,
            _synapse: synapse,
        }
    }

    /// Everybody a push can end at.
    pub(crate) fn servers(&self) -> [&Server; 4] {
        [
            &self.stand_ins.apple,
            &self.stand_ins.google,
            &self.stand_ins.push_service,
            &self.unified_push,
        ]
    }

    /// One pusher of Alice's for each kind of provider, with keys where the provider passes on any bytes.
    pub(crate) async fn register_every_device(&self) -> Devices {
        self.register_apple_device(APNS).await;

        let fcm_token = "cellOfAlice:APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx";
        self.register(FCM, fcm_token, json!({})).await;

        let web_push = self
            .stand_ins
            .push_service
            .subscribe()
            .expect("keys can be made");
        let keys = json!({"endpoint": web_push.endpoint, "auth": web_push.auth});
        self.register(WEB_PUSH, &web_push.p256dh, keys).await;

        let unified_push = self.subscribe_unified_push();
        let keys = json!({"p256dh": unified_push.p256dh, "auth": unified_push.auth});
        self.register(UNIFIED_PUSH, &unified_push.endpoint, keys)
            .await;
        Devices {
            web_push,
            unified_push,
        }
    }

    /// A pusher with a device token in base64, as the clients on iOS register it.
    pub(crate) async fn register_apple_device(&self, app_id: &str) {
        let default_payload = json!({"aps": {"mutable-content": 1}, "client": "alicewonder-phone"});
        let data = json!({"default_payload": default_payload});
        self.register(app_id, &apple_token(), data).await;
    }

    /// What names the users, their server and their room, in the part that no escaping changes.
    pub(crate) fn identifiers(&self) -> Vec<String> {
        [&self.alice.id, &self.bob.id, &self.room]
            .map(|identifier| local_part(identifier))
            .into_iter()
            .chain([SERVER_NAME.to_owned()])
            .collect()
    }

    pub(crate) fn subscribe_unified_push(&self) -> Subscription {
        self.unified_push
            .subscribe_unified_push()
            .expect("keys can be made")
    }

    /// A pusher of Alice's.
    pub(crate) async fn register(&self, app_id: &str, pushkey: &str, data: Value) {
        self.alice
            .set_pusher(self.tap.address(), app_id, pushkey, data)
            .await;
    }
}

/// A device token of 32 bytes in base64, as the clients on iOS register it.
pub(crate) fn apple_token() -> String {
    format!("{}paU=", "paWl".repeat(10))
}
