//! The homeserver: what it has to know, and what it needs only where the reverse proxy cannot be changed.

use std::fmt::Write as _;

use serde_json::json;

use super::{Facts, LIFETIME_HOURS, block};
use crate::commands::init::configuration::quoted;

pub(super) fn section(facts: &Facts<'_>) -> String {
    format!(
        "\
## 6. Homeserver: who makes the credentials

**Choose one of two.**

**Nocturne makes them** (the better way): nothing is to be pasted here. With step 5 done, clients get their credentials from Nocturne. Lines about TURN that the homeserver has from before do nothing any more and can go.

**The homeserver makes them**: for those who cannot change the reverse proxy, and leave the part on `voip/turnServer` out of step 5. Calls work just as well, but the homeserver puts the caller's Matrix ID into the username, and whoever can watch the network reads there who is calling. Paste what is for yours, and restart it:

### Synapse

Into `homeserver.yaml`:

{synapse}### Dendrite

Into `dendrite.yaml`, in the section `client_api` that is there:

{dendrite}### Tuwunel, Continuwuity, Conduwuit

Into the section `[global]` that is there:

{tuwunel}### Conduit

{conduit}{whitelist}",
        synapse = block("yaml", &synapse(facts)),
        dendrite = block("yaml", &dendrite(facts)),
        tuwunel = block("toml", &tuwunel(facts)),
        conduit = block("toml", &conduit(facts)),
        whitelist = whitelist(facts)
    )
}

fn synapse(facts: &Facts<'_>) -> String {
    format!(
        "\
turn_uris:
{}turn_shared_secret: {}
turn_user_lifetime: {LIFETIME_HOURS}h
turn_allow_guests: false
",
        yaml_list(facts, 2),
        quoted(facts.secret)
    )
}

fn dendrite(facts: &Facts<'_>) -> String {
    format!(
        "\
client_api:
  turn:
    turn_uris:
{}    turn_shared_secret: {}
    turn_user_lifetime: {LIFETIME_HOURS}h
",
        yaml_list(facts, 6),
        quoted(facts.secret)
    )
}

fn tuwunel(facts: &Facts<'_>) -> String {
    format!(
        "\
[global]
turn_uris = [
{}]
turn_secret = {}
turn_ttl = {}
turn_allow_guests = false
",
        toml_list(facts),
        quoted(facts.secret),
        LIFETIME_HOURS * 3600
    )
}

fn conduit(facts: &Facts<'_>) -> String {
    format!(
        "[global.turn]\nuris = [\n{}]\nsecret = {}\n",
        toml_list(facts),
        quoted(facts.secret)
    )
}

fn yaml_list(facts: &Facts<'_>, indentation: usize) -> String {
    facts.uris.iter().fold(String::new(), |mut list, uri| {
        let _ = writeln!(list, "{:indentation$}- {}", "", quoted(&uri.text));
        list
    })
}

fn toml_list(facts: &Facts<'_>) -> String {
    facts.uris.iter().fold(String::new(), |mut list, uri| {
        let _ = writeln!(list, "    {},", quoted(&uri.text));
        list
    })
}

/// Homeservers do not post to private addresses unless they are told to.
fn whitelist(facts: &Facts<'_>) -> String {
    let private = facts.private_addresses();
    if private.is_empty() {
        return String::new();
    }
    let lines = private.iter().fold(
        String::from("ip_range_whitelist:\n"),
        |mut lines, address| {
            let _ = writeln!(lines, "  - {}", quoted(&address.to_string()));
            lines
        },
    );
    format!(
        "\
### Notifications to a private address

This machine has one. Where the homeserver finds `{host}` to be a private address (ask `getent hosts {host}` there), it sends no notifications, and Synapse logs `DNS lookup failed` or `Blocked … from DNS resolution`. Then, in `homeserver.yaml`:

{}Tuwunel and its relatives: take the network out of `ip_range_denylist`. Dendrite needs nothing.

",
        block("yaml", &lines),
        host = facts.matrix_host
    )
}

pub(super) fn well_known(facts: &Facts<'_>) -> String {
    let file = json!({
        "m.homeserver": {"base_url": facts.is.homeserver.public.as_str().trim_end_matches('/')},
        "io.element.voip": {"disable_fallback_ice": true},
    });
    let file = serde_json::to_string_pretty(&file).unwrap_or_default();
    format!(
        "\
## 7. Well-known: no server of others as a fallback

When a call has trouble, Element asks its user whether to try `turn.matrix.org`, which then sees their address. `https://{}/.well-known/matrix/client` can rule that out. Keep what the file has, and add the last entry:

{}",
        facts.is.domain,
        block("json", &file)
    )
}
