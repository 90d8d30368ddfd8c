//! Everybody who takes part: a homeserver, the gateway, and stand-ins for the providers.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Method, Version};
use push_gateway::{
    config::{self, Config},
    gateway::World,
};
use serde_json::{Value, json};
use shared::{
    clock::Clock,
    environment::Environment,
    lifecycle::{self, ShutdownTrigger},
    random::Random,
};
use stand_ins::{
    Files, KEY_ID, PROJECT_ID, PushService, Seen, Server, StandIns, TEAM_ID, TOPIC, VapidKey,
    homeserver::{Homeserver, device_with},
    seal_pushkey, write_secret,
};
use tokio::task::JoinHandle;

use super::{
    message::{self, Message},
    phone::{Found, Phone},
};
use crate::commands::demo::{
    folder::Folder,
    search::{Request, Trace, hex},
};

/// Longer than anything on loopback takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whom a push goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Party {
    Apple,
    Google,
    BrowserService,
    UnifiedPush,
}

/// In which form a provider is told of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As Sygnal does it. At a UnifiedPush server: for a device that registered no keys.
    Sygnal,
    /// As this gateway does it unless it is told otherwise.
    Opaque,
    /// The same, for a device that registered a secret.
    Tags,
    /// The same, for a device that registered keys.
    Blob,
    /// The same, and the device's pushkey is sealed to the gateway.
    SealedPushkey,
    /// As this gateway does it for apps that only need to be woken.
    Wake,
}

/// One device: whom its pushes go through, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Channel {
    pub(super) party: Party,
    pub(super) way: Way,
}

/// A message that got to a device's provider.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    /// Which device.
    pub(super) channel: Channel,
    /// Which message.
    pub(super) message: Message,
    /// All that the provider received.
    pub(super) request: Request,
    /// What the device decrypted from it, where it is encrypted.
    pub(super) decrypted: Option<Vec<u8>>,
    /// The rooms and the events that the device recognised by their tags.
    pub(super) found: Found,
    /// What the homeserver's database holds of the device.
    pub(super) pusher: Value,
    /// By which version of HTTP.
    pub(super) version: Version,
    /// How long after the homeserver sent the message the provider knew of it.
    pub(super) known_after: Duration,
    /// What names the device to its provider.
    pub(super) token: Vec<Trace>,
    /// The same as the app would register it, if it did not seal it.
    pub(super) pushkey: Vec<Trace>,
    /// What names the app to the provider.
    pub(super) app: Vec<Trace>,
}

/// Everybody, running.
pub(super) struct Stage {
    stand_ins: StandIns,
    unified_push: PushService,
    homeserver: Homeserver,
    devices: Vec<Device>,
    clock: Clock,
    gateway: JoinHandle<()>,
    shutdown: ShutdownTrigger,
}

struct Device {
    channel: Channel,
    /// As it is in the notification.
    pusher: Value,
    phone: Phone,
    /// As the app has it before sealing.
    pushkey: String,
    /// As its stand-in calls it.
    address: String,
    token: String,
    app: String,
}

impl Party {
    /// In the order of the demo.
    pub(super) const ALL: [Self; 4] = [
        Self::Apple,
        Self::Google,
        Self::BrowserService,
        Self::UnifiedPush,
    ];

    /// What a person calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Apple => "Apple",
            Self::Google => "Google",
            Self::BrowserService => "the browser's push service",
            Self::UnifiedPush => "the UnifiedPush server",
        }
    }

    /// The kinds of devices that it has in the demo.
    pub(super) const fn ways(self) -> &'static [Way] {
        match self {
            Self::Apple => &[
                Way::Sygnal,
                Way::Wake,
                Way::Opaque,
                Way::Tags,
                Way::Blob,
                Way::SealedPushkey,
            ],
            Self::Google => &[Way::Sygnal, Way::Wake, Way::Opaque, Way::Tags, Way::Blob],
            // these encrypt to the device in any case
            Self::BrowserService | Self::UnifiedPush => &[Way::Sygnal, Way::Wake, Way::Opaque],
        }
    }

    const fn app_id(self) -> &'static str {
        match self {
            Self::Apple => "org.example.app.ios",
            Self::Google => "org.example.app.android",
            Self::BrowserService => "org.example.app.web",
            Self::UnifiedPush => "org.example.app.unifiedpush",
        }
    }
}

impl Way {
    /// The word of the gateway's configuration.
    const fn mode(self) -> &'static str {
        match self {
            Self::Sygnal => "sygnal",
            Self::Opaque | Self::Tags | Self::Blob | Self::SealedPushkey => "opaque",
            Self::Wake => "wake",
        }
    }
}

impl Channel {
    /// Every device of the demo.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Party::ALL.into_iter().flat_map(|party| {
            let ways = party.ways().iter();
            ways.map(move |way| Self { party, way: *way })
        })
    }

    fn app_id(self) -> String {
        let app_id = self.party.app_id();
        // its server is not told less, it is told less by devices that have keys
        let way = match (self.party, self.way) {
            (Party::UnifiedPush, Way::Sygnal) => Way::Opaque,
            (_, way) => way,
        };
        match way {
            Way::Opaque | Way::Tags | Way::Blob | Way::SealedPushkey => app_id.to_owned(),
            Way::Sygnal | Way::Wake => format!("{app_id}.{}", way.mode()),
        }
    }
}

impl Stage {
    /// Starts everybody on free loopback ports.
    pub(super) async fn set() -> Result<Self, String> {
        let (clock, random) = (Clock::system(), Random::system());
        let broken = |error: io::Error| error.to_string();
        let stand_ins = StandIns::start().await.map_err(broken)?;
        let unified_push = PushService::start(&stand_ins.authority)
            .await
            .map_err(broken)?;
        let vapid = VapidKey::generate().map_err(broken)?;

        // only until the gateway has read everything
        let folder = Folder::create(&random).map_err(broken)?;
        let files = stand_ins.write_files(folder.path()).map_err(broken)?;
        write_secret(&files.vapid_key, vapid.pem()).map_err(broken)?;
        let ca = files.ca.display().to_string();
        let environment: Environment = [("SSL_CERT_FILE", ca)].into_iter().collect();
        let config = folder.path().join("push-gateway.yaml");
        let pushkey_key = folder.path().join("pushkeys.key");
        let key = STANDARD.encode(random.bytes::<32>());
        write_secret(&pushkey_key, &key).map_err(broken)?;
        let text = configuration(&stand_ins, &files, &pushkey_key).to_string();
        fs::write(&config, text).map_err(broken)?;
        let config = load(&config, &environment, &clock)?;
        let (trigger, shutdown) = lifecycle::shutdown();
        let world = World {
            environment,
            clock: clock.clone(),
            random: random.clone(),
            shutdown,
        };
        let bound = push_gateway::bind(config, world).await?;
        drop(folder);

        let address = bound
            .addresses()
            .next()
            .ok_or("the gateway does not listen")?;
        let gateway = tokio::spawn(bound.serve());
        let homeserver = Homeserver::new(address);
        let gateway_key = gateway_key(&homeserver).await?;
        let devices = Channel::all()
            .map(|channel| {
                let device = register(channel, &stand_ins, &unified_push, &vapid, &random)?;
                device.finished(&gateway_key)
            })
            .collect::<io::Result<_>>()
            .map_err(broken)?;
        Ok(Self {
            homeserver,
            devices,
            stand_ins,
            unified_push,
            clock,
            gateway,
            shutdown: trigger,
        })
    }

    /// Sends a message to every device as Synapse does, one notification for each.
    pub(super) async fn send(&self, message: Message) -> Result<Vec<Delivery>, String> {
        let mut deliveries = Vec::new();
        for device in &self.devices {
            let delivery = self.send_to(device, message).await;
            let channel = device.channel;
            deliveries.push(delivery.map_err(|problem| {
                format!(
                    "a push in mode {} through {}: {problem}",
                    channel.way.mode(),
                    channel.party.name()
                )
            })?);
        }
        Ok(deliveries)
    }

    /// Stops the gateway; what is under way is finished.
    pub(super) async fn strike(self) -> Result<(), String> {
        self.shutdown.begin();
        match tokio::time::timeout(PATIENCE, self.gateway).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("the gateway broke down: {error}")),
            Err(_) => Err("the gateway does not stop".to_owned()),
        }
    }

    async fn send_to(&self, device: &Device, message: Message) -> Result<Delivery, String> {
        let server = self.server(device.channel.party);
        let before = server.seen().len();
        let sent_at = self.clock.now();
        let body = message.notification(&device.pusher);
        let answer = tokio::time::timeout(PATIENCE, self.homeserver.notify(&body))
            .await
            .map_err(|_| "the gateway does not answer")?
            .map_err(|error| format!("the gateway cannot be reached: {error}"))?;
        if answer.rejected() != Some(Vec::new()) {
            return Err(format!(
                "the gateway answered {}: {}",
                answer.status,
                answer.text()
            ));
        }
        let seen = server.seen();
        let arrived = seen.get(before..).unwrap_or_default();
        let [arrived] = arrived else {
            return Err(format!(
                "it arrived {} times instead of once",
                arrived.len()
            ));
        };
        // in clear, the app reads it as it is: there is nothing to decrypt
        let without_keys = Channel {
            party: Party::UnifiedPush,
            way: Way::Sygnal,
        };
        if let Some(complaint) = &arrived.complaint
            && device.channel != without_keys
        {
            return Err(format!("it breaks the provider's rules: {complaint}"));
        }
        if arrived.device != device.address {
            return Err("it arrived for another device".to_owned());
        }
        Ok(delivery(device, message, arrived, sent_at))
    }

    fn server(&self, party: Party) -> &Server {
        match party {
            Party::Apple => &self.stand_ins.apple,
            Party::Google => &self.stand_ins.google,
            Party::BrowserService => &self.stand_ins.push_service,
            Party::UnifiedPush => &self.unified_push,
        }
    }
}

fn delivery(device: &Device, message: Message, seen: &Seen, sent_at: Instant) -> Delivery {
    let headers = seen.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    });
    let request = Request::new(seen.path.clone(), headers.collect(), seen.body.clone());
    let found = device
        .phone
        .read(&handed_on(device.channel.party, &request));
    Delivery {
        channel: device.channel,
        message,
        decrypted: seen.decrypted.clone().or_else(|| found.opened.clone()),
        request,
        found,
        pusher: device.pusher.clone(),
        version: seen.version,
        known_after: seen.at.saturating_duration_since(sent_at),
        token: vec![Trace::Text(device.token.clone())],
        pushkey: [&device.pushkey, &device.token]
            .map(|text| Trace::Text(text.clone()))
            .into(),
        app: vec![Trace::Text(device.app.clone())],
    }
}

/// What the provider hands on to the app: members beside `aps`, or `data`.
pub(super) fn handed_on(party: Party, request: &Request) -> Value {
    let mut body = request.json().unwrap_or_default();
    match party {
        Party::Google => body["message"]["data"].take(),
        Party::Apple | Party::BrowserService | Party::UnifiedPush => body,
    }
}

/// The gateway's configuration. JSON is YAML.
fn configuration(stand_ins: &StandIns, files: &Files, pushkey_key: &Path) -> Value {
    let mut apps = serde_json::Map::new();
    for channel in Channel::all() {
        let mut app = match channel.party {
            Party::Apple => json!({
                "type": "apns",
                "endpoint": stand_ins.apple.url(),
                "keyfile": files.apns_key,
                "key_id": KEY_ID,
                "team_id": TEAM_ID,
                "topic": TOPIC,
            }),
            Party::Google => json!({
                "type": "gcm",
                "api_version": "v1",
                "endpoint": stand_ins.google.url(),
                "project_id": PROJECT_ID,
                "service_account_file": files.service_account,
            }),
            Party::BrowserService => json!({
                "type": "webpush",
                "vapid_private_key": files.vapid_key,
                "vapid_contact_email": "operator@example.org",
            }),
            Party::UnifiedPush => json!({"type": "unifiedpush"}),
        };
        match (channel.party, channel.way) {
            // the default
            (_, Way::Opaque | Way::Tags | Way::Blob | Way::SealedPushkey)
            | (Party::UnifiedPush, Way::Sygnal) => {}
            (_, way @ (Way::Sygnal | Way::Wake)) => app["payload"] = json!(way.mode()),
        }
        apps.insert(channel.app_id(), app);
    }
    json!({
        "http": {"bind_addresses": [Ipv4Addr::LOCALHOST.to_string()], "port": 0},
        "apps": apps,
        "pushkey_keys": [pushkey_key],
        // where the stand-ins are
        "outbound": {"allow_private": ["127.0.0.0/8"]},
    })
}

fn load(path: &Path, environment: &Environment, clock: &Clock) -> Result<Config, String> {
    let loaded = config::load(path, environment, clock.wall());
    match loaded.config {
        Some(config) if loaded.errors.is_empty() => Ok(config),
        Some(_) | None => Err(loaded.errors.join("; ")),
    }
}

/// The newest public key that the gateway serves for sealed pushkeys.
async fn gateway_key(client: &Homeserver) -> Result<String, String> {
    let request = client.request(
        Method::GET,
        "/_nocturne/v1/keys",
        HeaderMap::new(),
        Bytes::new(),
    );
    let answer = tokio::time::timeout(PATIENCE, request)
        .await
        .map_err(|_| "the gateway does not answer")?
        .map_err(|error| format!("the gateway cannot be reached: {error}"))?;
    let key = answer.json()["keys"][0]["key"].as_str().map(str::to_owned);
    key.ok_or_else(|| format!("the gateway serves no key: {}", answer.text()))
}

impl Device {
    /// The device after its app has registered its keys, and sealed its pushkey, where it does so.
    fn finished(mut self, gateway_key: &str) -> io::Result<Self> {
        self.phone = match self.channel.way {
            Way::Sygnal | Way::Opaque | Way::Wake => Phone::Plain,
            Way::Tags => Phone::with_tags(),
            Way::Blob | Way::SealedPushkey => Phone::with_blobs()?,
        };
        if let Some(keys) = self.phone.registers() {
            self.pusher["data"]["nocturne"] = keys;
        }
        if self.channel.way == Way::SealedPushkey {
            let app_id = self.channel.app_id();
            self.pusher["pushkey"] = json!(seal_pushkey(gateway_key, &app_id, &self.pushkey)?);
        }
        Ok(self)
    }
}

fn register(
    channel: Channel,
    stand_ins: &StandIns,
    unified_push: &PushService,
    vapid: &VapidKey,
    random: &Random,
) -> io::Result<Device> {
    let app_id = channel.app_id();
    let default_payload = message::default_payload();
    let device = match channel.party {
        Party::Apple => {
            let token: [u8; 32] = random.bytes();
            let address = hex(&token);
            // as clients on iOS register it
            let pushkey = STANDARD.encode(token);
            let data = json!({"default_payload": default_payload});
            Device {
                channel,
                pusher: device_with(&app_id, &pushkey, data),
                phone: Phone::Plain,
                pushkey,
                token: address.clone(),
                address,
                app: TOPIC.to_owned(),
            }
        }
        Party::Google => {
            let name = |length| hex(&random.bytes::<64>()).chars().take(length).collect();
            let (first, second): (String, String) = (name(22), name(118));
            let address = format!("{first}:APA91b{second}");
            let data = json!({"default_payload": default_payload});
            Device {
                channel,
                pusher: device_with(&app_id, &address, data),
                phone: Phone::Plain,
                pushkey: address.clone(),
                token: address.clone(),
                address,
                app: PROJECT_ID.to_owned(),
            }
        }
        Party::BrowserService => {
            let subscription = stand_ins.push_service.subscribe_for(&vapid.public())?;
            let data = json!({
                "default_payload": default_payload,
                "endpoint": subscription.endpoint,
                "auth": subscription.auth,
            });
            Device {
                channel,
                pusher: device_with(&app_id, &subscription.p256dh, data),
                phone: Phone::Plain,
                pushkey: subscription.p256dh,
                token: path_of(&subscription.endpoint),
                address: subscription.endpoint,
                app: vapid.public(),
            }
        }
        Party::UnifiedPush => {
            let subscription = unified_push.subscribe_unified_push()?;
            let mut data = json!({"default_payload": default_payload});
            match channel.way {
                Way::Sygnal => {}
                Way::Opaque | Way::Tags | Way::Blob | Way::SealedPushkey | Way::Wake => {
                    data["p256dh"] = json!(subscription.p256dh);
                    data["auth"] = json!(subscription.auth);
                }
            }
            Device {
                channel,
                pusher: device_with(&app_id, &subscription.endpoint, data),
                phone: Phone::Plain,
                pushkey: subscription.endpoint.clone(),
                token: path_of(&subscription.endpoint),
                // an endpoint is one app's on one device
                app: path_of(&subscription.endpoint),
                address: subscription.endpoint,
            }
        }
    };
    Ok(device)
}

fn path_of(endpoint: &str) -> String {
    let uri: http::Uri = endpoint.parse().unwrap_or_default();
    uri.path().to_owned()
}
