//! Other services that send their clients to the relay.

use std::fmt::Write as _;

use super::{Facts, LIFETIME_HOURS, Transport, Uri, block, shell};
use crate::commands::init::configuration::quoted;

pub(super) fn sections(facts: &Facts<'_>) -> String {
    format!(
        "\
# Other services

They sign credentials with the same secret. Do what is for those that you run.

{}{}{}{}{}",
        live_kit(facts),
        nextcloud(facts),
        jitsi(facts),
        prosody(facts),
        ejabberd(facts)
    )
}

fn live_kit(facts: &Facts<'_>) -> String {
    let mut text = String::from("rtc:\n");
    if let Some(uri) = facts.uri(Transport::Udp) {
        let _ = write!(text, "  stun_servers:\n    - {}\n", quoted(&place(uri)));
    }
    text += "  turn_servers:\n";
    for uri in &facts.uris {
        let protocol = match uri.transport {
            Transport::Tls => "tls",
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        let _ = write!(
            text,
            "    - host: {}\n      port: {}\n      protocol: {protocol}\n      secret: {}\n      ttl: 14400\n",
            quoted(&uri.host),
            uri.port,
            quoted(facts.secret)
        );
    }
    let told: Vec<_> = facts
        .is
        .addresses
        .iter()
        .map(|(_, told)| quoted(&told.to_string()))
        .collect();
    let (first, last) = facts.is.turn.relay.ports.clone().into_inner();
    format!(
        "\
## LiveKit, for Element Call and Element X

Without this, LiveKit sends every client to STUN servers of Google and Twilio, which see their addresses. Into the section `rtc` of its configuration (`secret` takes a version newer than June 2025):

{}If LiveKit runs on this very machine, clients must be allowed to reach it through the relay. In `turn-relay.yaml`, and then `sudo systemctl reload nocturne`:

{}and LiveKit's `port_range_start` and `port_range_end` (50000 to 60000) should not be in the relay's own range, {first} to {last}: give one of the two another.

",
        block("yaml", &text),
        block("yaml", &format!("peers:\n  allow: [{}]\n", told.join(", "))),
    )
}

fn nextcloud(facts: &Facts<'_>) -> String {
    let secret = shell(facts.secret);
    let occ = "sudo -u www-data php occ";
    let mut text = String::new();
    if let Some(uri) = facts.uri(Transport::Udp) {
        let place = place(uri);
        let protocols = if facts
            .uri(Transport::Tcp)
            .is_some_and(|tcp| tcp.port == uri.port)
        {
            "udp,tcp"
        } else {
            "udp"
        };
        let _ = write!(
            text,
            "{occ} talk:stun:add {place}\n{occ} talk:stun:delete stun.nextcloud.com:443\n\
             {occ} talk:turn:add --secret={secret} turn {place} {protocols}\n"
        );
    }
    if let Some(uri) = facts.uri(Transport::Tls) {
        let _ = writeln!(
            text,
            "{occ} talk:turn:add --secret={secret} turns {} tcp",
            place(uri)
        );
    }
    format!(
        "## Nextcloud Talk\n\nIn Nextcloud's folder:\n\n{}",
        block("sh", &text)
    )
}

fn jitsi(facts: &Facts<'_>) -> String {
    let mut text = format!(
        "external_service_secret = {};\nexternal_services = {{\n",
        lua(facts.secret)
    );
    if let Some(uri) = facts.uri(Transport::Udp) {
        let _ = writeln!(
            text,
            "    {{ type = \"stun\", host = {}, port = {} }},",
            lua(&uri.host),
            uri.port
        );
    }
    for uri in &facts.uris {
        let (kind, transport) = match uri.transport {
            Transport::Tls => ("turns", "tcp"),
            Transport::Udp => ("turn", "udp"),
            Transport::Tcp => ("turn", "tcp"),
        };
        let _ = writeln!(
            text,
            "    {{ type = \"{kind}\", host = {}, port = {}, transport = \"{transport}\", secret = true, ttl = {}, \
             algorithm = \"turn\" }},",
            lua(&uri.host),
            uri.port,
            LIFETIME_HOURS * 3600
        );
    }
    text += "};\n";
    let stun = facts.uri(Transport::Udp).map_or_else(String::new, |uri| {
        format!(
            "and in `config.js` let `p2p.stunServers` name `stun:{}` instead of Jitsi's own.\n\n",
            place(uri)
        )
    });
    format!(
        "\
## Jitsi Meet

Into Prosody's configuration for it, `/etc/prosody/conf.avail/….cfg.lua`, in the place of the two entries that are there:

{}{stun}",
        block("lua", &text)
    )
}

fn prosody(facts: &Facts<'_>) -> String {
    let mut text = format!(
        "turn_external_host = {}\nturn_external_secret = {}\nturn_external_ttl = {}\n",
        lua(&facts.host),
        lua(facts.secret),
        LIFETIME_HOURS * 3600
    );
    if let Some(uri) = facts.uri(Transport::Udp) {
        let _ = writeln!(text, "turn_external_port = {}", uri.port);
    }
    if facts.uri(Transport::Tcp).is_some() {
        text += "turn_external_tcp = true\n";
    }
    if let Some(uri) = facts.uri(Transport::Tls) {
        let _ = writeln!(text, "turn_external_tls_port = {}", uri.port);
    }
    format!(
        "## XMPP: Prosody\n\nAdd `\"turn_external\"` to `modules_enabled`, and\n\n{}",
        block("lua", &text)
    )
}

fn ejabberd(facts: &Facts<'_>) -> String {
    let mut text = format!(
        "modules:\n  mod_stun_disco:\n    secret: {}\n    credentials_lifetime: {LIFETIME_HOURS} hours\n    services:\n",
        quoted(facts.secret)
    );
    let mut service = |uri: &Uri, kind: &str, transport: &str, restricted: bool| {
        let _ = write!(
            text,
            "      - host: {}\n        port: {}\n        type: {kind}\n        transport: {transport}\n        \
             restricted: {restricted}\n",
            quoted(&uri.host),
            uri.port
        );
    };
    if let Some(uri) = facts.uri(Transport::Udp) {
        service(uri, "stun", "udp", false);
    }
    for uri in &facts.uris {
        match uri.transport {
            Transport::Tls => service(uri, "turns", "tcp", true),
            Transport::Udp => service(uri, "turn", "udp", true),
            Transport::Tcp => service(uri, "turn", "tcp", true),
        }
    }
    format!(
        "## XMPP: ejabberd\n\nInto the section `modules` that is there:\n\n{}",
        block("yaml", &text)
    )
}

fn place(uri: &Uri) -> String {
    format!("{}:{}", uri.host, uri.port)
}

/// A text as Lua has it in quotation marks.
pub(super) fn lua(text: &str) -> String {
    let escaped = text.replace('\\', r"\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}
