//! What the admin has before the evening begins: a Synapse behind nginx, names, certificates and a firewall.

use std::{fs, path::Path};

use serde_json::{Value, json};
use stand_ins::Authority;

use crate::{dns::Zone, machine::Machine, time::eventually};

/// Where certbot keeps things.
pub(crate) const CERTIFICATES: &str = "/etc/letsencrypt";

/// Where the blocks for the homeserver's name are pasted.
const PASTE: &str = "    # the end of matrix.example.org\n";

const NGINX: &str = "/etc/nginx/nginx.conf";
const NFTABLES: &str = "/etc/nftables.conf";

/// `base_url` is what has to be in it; the rest comes with step 7.
pub(crate) const WELL_KNOWN: &str = "/etc/nginx/well-known-client.json";

/// Of somebody else.
pub(crate) const PUSH_SERVER: &str = "push.example.net";

/// All of it, running.
pub(crate) fn set_up(server: &Machine, zone: &Zone, authority: &Authority, synapse: &Path) {
    for name in ["example.org", "matrix.example.org"] {
        zone.add(name, server.host.v4);
        zone.add(name, server.host.v6);
    }
    server.issue(
        authority,
        "example.org",
        &["example.org", "matrix.example.org"],
    );
    server.does("certbot certonly --nginx -d example.org");
    server.writes(NFTABLES, FIREWALL);
    server.does("systemctl reload nftables");
    server.writes(
        WELL_KNOWN,
        &json!({"m.homeserver": {"base_url": "https://matrix.example.org"}}).to_string(),
    );
    server.writes(NGINX, &nginx(server.folder()));
    start_synapse(server, synapse);
    server.does("nginx -e stderr -t");
    server.starts("nginx", "nginx -e stderr");
    wait_until(
        server,
        "nginx",
        "https://matrix.example.org/_matrix/client/versions",
    );
}

/// Waits until the URL is answered with success.
fn wait_until(machine: &Machine, name: &str, url: &str) {
    let asks = format!("curl -sf -o /dev/null {url}");
    let answers = eventually(|| machine.is_true(&asks));
    assert!(answers, "{name} never answers");
}

/// As Debian's example has it; nothing else comes in.
const FIREWALL: &str = r#"
flush ruleset

table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        iif lo accept comment "Accept any localhost traffic"
        ct state established,related accept comment "Accept traffic originated from us"
        meta l4proto { icmp, ipv6-icmp } accept
        tcp dport { 22, 80, 443 } accept
    }
}
"#;

fn nginx(folder: &Path) -> String {
    let servers = format!(
        "    ssl_certificate {CERTIFICATES}/live/example.org/fullchain.pem;
    ssl_certificate_key {CERTIFICATES}/live/example.org/privkey.pem;
server {{
    listen 443 ssl;
    listen [::]:443 ssl;
    server_name matrix.example.org;
    location ~ ^(/_matrix|/_synapse/client) {{
        proxy_pass http://127.0.0.1:8008;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header Host $host;
    }}
{PASTE}}}
server {{
    listen 443 ssl;
    listen [::]:443 ssl;
    server_name example.org;
    location = /.well-known/matrix/client {{
        alias {WELL_KNOWN};
        default_type application/json;
        add_header Access-Control-Allow-Origin *;
    }}
}}
"
    );
    nginx_with(folder, &servers)
}

/// That writes nowhere but into the machine's folder.
fn nginx_with(folder: &Path, servers: &str) -> String {
    let folder = folder.display();
    format!(
        "user root;
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{servers}}}
"
    )
}

/// A push server, as somebody's phone has one; it writes down what came.
pub(crate) fn start_push_server(machine: &Machine, zone: &Zone, authority: &Authority) {
    zone.add(PUSH_SERVER, machine.host.v4);
    machine.issue(authority, PUSH_SERVER, &[PUSH_SERVER]);
    machine.does(&format!("certbot certonly --nginx -d {PUSH_SERVER}"));
    let folder = machine.folder();
    let server = format!(
        "    log_format pushes '$request_method $request_uri';
server {{
    listen 443 ssl;
    ssl_certificate {CERTIFICATES}/live/{PUSH_SERVER}/fullchain.pem;
    ssl_certificate_key {CERTIFICATES}/live/{PUSH_SERVER}/privkey.pem;
    location = /health {{ return 200; }}
    location / {{
        access_log {}/pushes.log pushes;
        return 201;
    }}
}}
",
        folder.display()
    );
    machine.writes(NGINX, &nginx_with(folder, &server));
    machine.starts("nginx", "nginx -e stderr");
    wait_until(machine, "nginx", &format!("https://{PUSH_SERVER}/health"));
}

/// Puts a block into the server block of matrix.example.org, and loads it as SETUP.md says.
pub(crate) fn paste_into_nginx(server: &Machine, block: &str) {
    let before = nginx(server.folder());
    assert!(before.contains(PASTE));
    server.writes(NGINX, &before.replace(PASTE, &format!("{block}{PASTE}")));
    server.does("sudo nginx -e stderr -t && sudo systemctl reload nginx");
}

/// Puts the lines of a block into the chain that filters what comes in. nft adds to what is there.
pub(crate) fn paste_into_firewall(server: &Machine, block: &str) {
    server.writes(NFTABLES, &format!("{FIREWALL}\n{block}"));
    server.does("sudo systemctl reload nftables");
}

fn start_synapse(server: &Machine, python: &Path) {
    let folder = server.folder().join("synapse");
    fs::create_dir(&folder).unwrap();
    for (name, text) in [
        // a key that is worth nothing outside this test
        ("signing.key", format!("ed25519 test {}\n", "A".repeat(43))),
        ("log.yaml", logging().to_string()),
        ("homeserver.yaml", homeserver().to_string()),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
    server.starts(
        "synapse",
        &format!(
            "cd {} && exec {} -m synapse.app.homeserver -c homeserver.yaml",
            folder.display(),
            python.display()
        ),
    );
    wait_until(server, "synapse", "http://127.0.0.1:8008/health");
}

/// JSON is YAML. The lines about TURN are somebody's from years ago.
fn homeserver() -> Value {
    json!({
        "server_name": "example.org",
        "public_baseurl": "https://matrix.example.org/",
        "listeners": [{
            "type": "http",
            "bind_addresses": ["127.0.0.1"],
            "port": 8008,
            "x_forwarded": true,
            "resources": [{"names": ["client", "federation"]}],
        }],
        "database": {"name": "sqlite3", "args": {"database": "homeserver.db"}},
        "log_config": "log.yaml",
        "media_store_path": "media",
        "signing_key_path": "signing.key",
        "bcrypt_rounds": 4,
        "macaroon_secret_key": "worth nothing outside this test",
        "report_stats": false,
        "trusted_key_servers": [],
        "federation_domain_whitelist": [],
        "enable_registration": true,
        "enable_registration_without_verification": true,
        "turn_uris": ["turn:old.example.org?transport=udp"],
        "turn_shared_secret": "of a relay that is long gone",
    })
}

fn logging() -> Value {
    json!({
        "version": 1,
        "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
        "root": {"level": "INFO", "handlers": ["console"]},
    })
}
