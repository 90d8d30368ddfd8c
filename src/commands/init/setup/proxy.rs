//! The reverse proxy: which paths of the homeserver's name are Nocturne's.

use std::fmt::Write as _;

use super::{Facts, block};
use crate::commands::init::configuration::quoted;

/// Where clients ask for TURN credentials, old ones and new ones.
const CREDENTIALS: [&str; 5] = [
    "/_matrix/client/v3/voip/turnServer",
    "/_matrix/client/r0/voip/turnServer",
    "/_matrix/client/v1/voip/turnServer",
    "/_matrix/client/unstable/voip/turnServer",
    "/_matrix/client/api/v1/voip/turnServer",
];
const NOTIFY: &str = "/_matrix/push/v1/notify";
const KEYS: &str = "/_nocturne/v1/keys";
/// For services with an API key.
const REST: &str = "/turn/credentials";

pub(super) fn section(facts: &Facts<'_>) -> String {
    let host = &facts.matrix_host;
    let first = if facts.is.turn.credentials.homeserver.is_some() {
        String::new()
    } else {
        let homeserver = facts
            .is
            .homeserver
            .nearest()
            .as_str()
            .trim_end_matches('/')
            .to_owned();
        let lines = format!("credentials:\n  homeserver: {}\n", quoted(&homeserver));
        format!(
            "`turn-relay.yaml` does not say yet whose users get credentials. Add, and then `sudo systemctl reload \
             nocturne`:\n\n{}",
            block("yaml", &lines)
        )
    };
    format!(
        "\
## 5. Reverse proxy: who answers which path

Everything stays with the homeserver but three things, under the same name `{host}`: `{NOTIFY}` is where homeservers post notifications, `{KEYS}` has the public key for apps that seal their pushkeys, and `…/voip/turnServer` is where clients ask for TURN credentials. Nocturne answers that one in the homeserver's place, and no Matrix ID is in what it hands out.

{first}### With nginx

Into the `server` block of `{host}`; where in it does not matter. Then `sudo nginx -t && sudo systemctl reload nginx`.

{nginx}### With Caddy

Into the block `{host} {{ … }}`; where in it does not matter. Then `sudo systemctl reload caddy`.

{caddy}### For other services that ask for credentials over HTTP

Only if you want that: `credentials.api_keys` in `turn-relay.yaml` says who may ask at `{REST}`. A service on this machine asks http://{credentials}{REST}; for those elsewhere, nginx and Caddy:

{rest_nginx}{rest_caddy}",
        nginx = block("nginx", &nginx(facts)),
        caddy = block("caddyfile", &caddy(facts)),
        credentials = facts.credentials(),
        rest_nginx = block("nginx", &nginx_credentials(facts, REST)),
        rest_caddy = block(
            "caddyfile",
            &format!("handle {REST} {{\n\treverse_proxy {}\n}}\n", facts.credentials())
        ),
    )
}

/// Exact paths, so that no order and no regular expression that is there already gets in the way.
fn nginx(facts: &Facts<'_>) -> String {
    let push = facts.push();
    let mut text = format!(
        "\
# Nocturne: notifications for phones
location = {NOTIFY} {{
    proxy_pass http://{push};
    proxy_read_timeout 60s;
    client_max_body_size 512k;
    access_log off;   # it would keep when which homeserver sent a push
}}
location = {KEYS} {{
    proxy_pass http://{push};
}}
# Nocturne: TURN credentials that name nobody, instead of the homeserver's
"
    );
    for path in CREDENTIALS {
        text += &nginx_credentials(facts, path);
    }
    text
}

/// The client's address is what limits count by, and what the homeserver shows beside the session.
fn nginx_credentials(facts: &Facts<'_>, path: &str) -> String {
    format!(
        "\
location = {path} {{
    proxy_pass http://{};
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    access_log off;
}}
",
        facts.credentials()
    )
}

/// `handle` with a matcher comes before what is there without one.
fn caddy(facts: &Facts<'_>) -> String {
    let mut text = format!(
        "\
# Nocturne: notifications for phones
handle {NOTIFY} {{
\treverse_proxy {push}
}}
handle {KEYS} {{
\treverse_proxy {push}
}}
# Nocturne: TURN credentials that name nobody, instead of the homeserver's
@turn_credentials path",
        push = facts.push()
    );
    for path in CREDENTIALS {
        let _ = write!(text, " {path}");
    }
    let _ = write!(
        text,
        "\nhandle @turn_credentials {{\n\treverse_proxy {}\n}}\n",
        facts.credentials()
    );
    text
}
