//! What is done on the machine itself: names, firewall, services, certificate.

use std::{collections::BTreeSet, fmt::Write as _, net::SocketAddr};

use super::{Facts, TLS_PORT, Transport, block, shell};
use crate::commands::init::{TURN, UNIT};

/// Where the units expect the program.
pub(in crate::commands::init) const PROGRAM: &str = "/usr/local/bin/nocturne";

pub(super) fn dns(facts: &Facts<'_>) -> String {
    let mut records = String::new();
    for (_, told) in facts.is.addresses {
        let kind = if told.is_ipv4() { "A" } else { "AAAA" };
        let _ = writeln!(records, "{}.  3600  IN  {kind:<4}  {told}", facts.host);
    }
    format!(
        "## 1. DNS: where clients find the relay\n\nAt your DNS provider, unless they are there already:\n\n{}",
        block("zone", &records)
    )
}

pub(super) fn firewall(facts: &Facts<'_>) -> String {
    let config = facts.is.turn;
    let ports = |addresses: &[SocketAddr]| -> BTreeSet<u16> {
        addresses.iter().map(SocketAddr::port).collect()
    };
    let udp = ports(&config.listen.udp);
    let mut tcp = ports(&config.listen.tcp);
    tcp.extend(ports(&config.listen.tls));
    if facts.waits_for_certificate() {
        tcp.insert(TLS_PORT);
    }
    let (first, last) = config.relay.ports.clone().into_inner();
    let listed = |ports: &BTreeSet<u16>| {
        let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
        ports.join(", ")
    };
    let mut nft = String::from("table inet filter {\n    chain input {\n");
    let mut all_udp = listed(&udp);
    if !all_udp.is_empty() {
        all_udp += ", ";
    }
    let _ = writeln!(
        nft,
        "        udp dport {{ {all_udp}{first}-{last} }} accept comment \"Nocturne\""
    );
    if !tcp.is_empty() {
        let _ = writeln!(
            nft,
            "        tcp dport {{ {} }} accept comment \"Nocturne\"",
            listed(&tcp)
        );
    }
    nft += "    }\n}\n";
    let mut ufw = String::new();
    for port in &udp {
        let _ = writeln!(ufw, "sudo ufw allow {port}/udp comment Nocturne");
    }
    let _ = writeln!(ufw, "sudo ufw allow {first}:{last}/udp comment Nocturne");
    for port in &tcp {
        let _ = writeln!(ufw, "sudo ufw allow {port}/tcp comment Nocturne");
    }
    let nat = if facts.is_behind_nat() {
        let locals: Vec<_> = facts
            .private_addresses()
            .iter()
            .map(ToString::to_string)
            .collect();
        format!(
            "This host is behind a NAT: the router has to pass the same ports on to {}, each to the same port there.\n\n",
            locals.join(" and ")
        )
    } else {
        String::new()
    };
    format!(
        "\
## 2. Firewall: let calls in

UDP {udp} and TCP {tcp} are for clients, UDP {first} to {last} for those whom they call. If your provider has a firewall of its own (\"security group\"), open the same ports there. If yours also filters what goes out, let UDP from these ports out.

{nat}### With nftables

Put the two lines into the chain that filters what comes in, before what drops the rest. On Debian that is `chain input` of `table inet filter` in `/etc/nftables.conf`; then `sudo systemctl reload nftables`.

{nft}### With ufw

{ufw}",
        udp = listed(&udp),
        tcp = listed(&tcp),
        nft = block("nft", &nft),
        ufw = block("sh", &ufw)
    )
}

pub(super) fn services(facts: &Facts<'_>) -> String {
    let mut commands = String::new();
    if let Some(program) = facts.is.program {
        let program = shell(&program.display().to_string());
        let _ = writeln!(commands, "sudo install -m 755 {program} {PROGRAM}");
    }
    let folder = facts.folder();
    let unit = facts.file(UNIT);
    let _ = write!(
        commands,
        "\
id -u nocturne >/dev/null 2>&1 || sudo useradd --system --no-create-home --shell /usr/sbin/nologin nocturne
sudo chown -R nocturne:nocturne {folder}
sudo -u nocturne nocturne check --config-dir {folder}
sudo install -m 644 {unit} /etc/systemd/system/
sudo systemctl daemon-reload
sudo systemctl enable --now nocturne
"
    );
    let tls = if facts.waits_for_certificate() {
        " A warning that there is no `tls` is right until step 4."
    } else {
        ""
    };
    format!(
        "\
## 3. Start the services

Both are one unit, and two processes, neither of which can read the other's keys. They get a user of their own, who alone can read the configurations. `check` says what is amiss, and then everything there is to say about the rest.{tls} If coturn runs on this machine, it has the same ports: `sudo systemctl disable --now coturn` first; and so it is with `nocturne-push` or `nocturne-turn`, should one of them be here from before.

{}`systemctl status nocturne` and `journalctl -u nocturne` show how they are; the log names nobody.

",
        block("sh", &commands)
    )
}

pub(super) fn certificate(facts: &Facts<'_>) -> String {
    let host = &facts.host;
    let heading = "## 4. A certificate: calls from networks that let nothing but TLS through";
    if let Some(tls) = &facts.is.turn.tls {
        return format!(
            "{heading}\n\nIt is there: `{}`, for {}, until {}. Whatever renews it has to put it there, readable for the user \
             `nocturne`; the relay reads it again within seconds.\n\n",
            tls.certificate.display(),
            tls.identity.names(),
            tls.identity.ends()
        );
    }
    let (certificate, key) = (
        shell(&facts.is.certificate.display().to_string()),
        shell(&facts.is.key.display().to_string()),
    );
    let install = "install -m 600 -o nocturne -g nocturne";
    let certbot = format!(
        "\
sudo certbot certonly --nginx -d {host}
sudo mkdir -p /etc/letsencrypt/renewal-hooks/deploy
sudo tee /etc/letsencrypt/renewal-hooks/deploy/nocturne >/dev/null <<'END'
#!/bin/sh
# The relay's own copy of its certificate, which it reads again within seconds.
set -e
{install} /etc/letsencrypt/live/{host}/fullchain.pem {certificate}
{install} /etc/letsencrypt/live/{host}/privkey.pem {key}
END
sudo chmod 755 /etc/letsencrypt/renewal-hooks/deploy/nocturne
sudo /etc/letsencrypt/renewal-hooks/deploy/nocturne
"
    );
    let caddy = format!("{host} {{\n\trespond 404\n}}\n");
    let copy = format!(
        "\
sudo systemctl reload caddy
sudo tee /etc/cron.daily/nocturne >/dev/null <<'END'
#!/bin/sh
# The relay's own copy of the certificate that Caddy renews; it reads it again within seconds.
set -e
newest=$(ls -t /var/lib/caddy/.local/share/caddy/certificates/*/{host}/{host}.crt | head -n 1)
{install} \"$newest\" {certificate}
{install} \"${{newest%.crt}}.key\" {key}
END
sudo chmod 755 /etc/cron.daily/nocturne
sudo /etc/cron.daily/nocturne
"
    );
    let configuration = facts.file(TURN);
    let switch = format!(
        "\
sudo sed -i 's/^#tls:/tls:/' {configuration}
sudo -u nocturne nocturne check --config-dir {}
sudo systemctl restart nocturne
",
        facts.folder()
    );
    let port = facts.uri(Transport::Tls).map_or(TLS_PORT, |uri| uri.port);
    format!(
        "\
{heading}

Without it calls work from most networks; do this later if you like. Step 1 has to be done. The services' user cannot read where certificates are kept, so it gets a copy.

### With certbot

Without nginx on this machine write `--standalone` for `--nginx`; port 80 has to be free then.

{certbot}### With Caddy

Caddy gets the certificate once its configuration has

{caddy}and from then on it has to be copied:

{copy}### Then switch TLS on

{switch}Clients are told of port {port} from now on. Some older apps for phones do not know the authority of Let's Encrypt, which is certbot's default; they use the other ways, or get TLS, too, with a certificate of ZeroSSL.

",
        certbot = block("sh", &certbot),
        caddy = block("caddyfile", &caddy),
        copy = block("sh", &copy),
        switch = block("sh", &switch),
    )
}
