//! What a failure on the way to the relay means, and what to do about it.

use std::{io, net::SocketAddr};

use turn_relay::config::Config;

use super::{Fault, Step};
use crate::commands::turn_uri::{Transport, Uri};

/// What happened, why that matters, what to do.
pub(super) fn explain(
    step: Step,
    fault: &Fault,
    uri: &Uri,
    server: SocketAddr,
    config: &Config,
) -> (String, String, String) {
    let path = config.path.display();
    let protocol = match uri.transport {
        Transport::Udp => "UDP",
        Transport::Tcp | Transport::Tls => "TCP",
    };
    let port = server.port();
    let way = format!("{protocol} port {port} of {}", server.ip());
    let open = format!(
        "see that the relay runs (`systemctl status nocturne`) and that `listen` in {path} has port {port} for \
         this; then let {protocol} port {port} in, in the firewall of the machine, of the provider, and in the \
         router's forwarding"
    );
    let lost =
        "clients that use this URI get no relay, and their calls fail where no other way is left";
    let of_three = |what: String, why: &str, remedy: String| (what, why.to_owned(), remedy);
    match fault {
        Fault::NoAnswer if step == Step::Pass => of_three(
            "both allocations are made, but no packet goes from one to the other".to_owned(),
            "calls through the relay connect and stay silent",
            format!(
                "look at `nocturne_turn_drops` in the relay's metrics: the reason there says where the packet ended; \
                 `quotas.bandwidth_per_user` in {path} may be too small"
            ),
        ),
        Fault::NoAnswer => of_three(
            format!("no answer: nothing comes back from {way}"),
            lost,
            open,
        ),
        Fault::Connection(error) => of_three(connection(error, &way), lost, open),
        Fault::Tls(error) => of_three(
            format!("{way} is open, but there is no TLS: {}", tls(error)),
            "clients refuse the connection, and it is the only one that gets through networks with strict firewalls",
            "see Certificates; if something else is in front of the relay there (a reverse proxy), its certificate \
             counts"
                .to_owned(),
        ),
        Fault::Closed => of_three(
            format!("{way} takes connections and closes them"),
            lost,
            format!(
                "see that it is the relay that listens there, and that `quotas.connections_per_prefix` and \
                 `listen.proxy_protocol` in {path} do not keep this machine out"
            ),
        ),
        Fault::Nonsense => of_three(
            format!("what answers at {way} is no TURN server"),
            lost,
            format!("see what listens on port {port} there (`ss -lntup`), and that the URI names the relay's port"),
        ),
        Fault::Forged => of_three(
            format!("the answers of {way} are not signed with the credential's key"),
            "clients ignore such answers",
            "see that the URI leads to this relay and that nothing on the way changes packets".to_owned(),
        ),
        Fault::Refused { code, realm } => refused(step, *code, realm.as_deref(), config),
    }
}

fn refused(
    step: Step,
    code: u16,
    realm: Option<&str>,
    config: &Config,
) -> (String, String, String) {
    let path = config.path.display();
    let limits = |key: &str| {
        format!("raise `{key}` in {path}, or find out who has them: see the relay's metrics")
    };
    let (what, why, remedy) = match code {
        401 => {
            let elsewhere = match realm {
                Some(realm) if realm != config.realm => format!(
                    " (its realm is {realm:?}, and that of this configuration {:?}: it may be another server)",
                    config.realm
                ),
                _ => String::new(),
            };
            (
                format!("the credential is refused with 401{elsewhere}"),
                "everybody who has credentials by this configuration's secret is refused"
                    .to_owned(),
                format!(
                    "the relay there has another secret than the first one in {path}: reload it \
                     (`systemctl reload nocturne`), and give relays on other machines the same `secrets`; else \
                     its clock is far ahead, so that credentials look expired"
                ),
            )
        }
        403 => (
            "the relay refuses the peer with 403".to_owned(),
            "most calls go from one client of a relay to another, and nothing goes through this one".to_owned(),
            format!(
                "Nocturne never refuses its own addresses: see that the URI leads to this relay, and what the peer \
                 policy of that server denies; what {path} denies is in `peers`"
            ),
        ),
        440 => (
            "the relay has no address of the wanted family (440)".to_owned(),
            "clients of that family get no relay".to_owned(),
            format!(
                "name an address of each family in `relay.addresses` in {path}, and restart the relay"
            ),
        ),
        486 => (
            "the quota is full (486)".to_owned(),
            "clients beyond it get no relay".to_owned(),
            limits("quotas.allocations_per_user"),
        ),
        508 => (
            "the relay has no room left (508)".to_owned(),
            "new calls get no relay until others end".to_owned(),
            format!(
                "raise `quotas.allocations_total` in {path}, or make `relay.ports` wider: the relay's metrics say \
                 which of them is full. A relay that is stopping answers so, too"
            ),
        ),
        300 => (
            "the server sends its clients to another one (300)".to_owned(),
            "many clients do not follow that".to_owned(),
            "name the other server in `credentials.uris`".to_owned(),
        ),
        _ => (
            format!("the server answers with error {code}"),
            "clients get no relay here".to_owned(),
            format!(
                "see that the URI leads to this relay; its log and metrics say more than {code} does"
            ),
        ),
    };
    let what = match step {
        Step::AllocateAnother => format!("the first allocation works; for a second one {what}"),
        Step::Permit => format!("allocations work; for a permission {what}"),
        Step::Connect | Step::Allocate | Step::Pass => what,
    };
    (what, why, remedy)
}

/// What became of a connection, or of a UDP socket that was told by ICMP.
pub(in crate::commands::doctor) fn connection(error: &io::Error, way: &str) -> String {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the system says the others itself"
    )]
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("nothing listens at {way}"),
        io::ErrorKind::TimedOut => format!("no answer: nothing comes back from {way}"),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            format!("this machine has no route to {way}")
        }
        _ => format!("{way} cannot be reached: {error}"),
    }
}

/// rustls's own words say best what is wrong with a certificate.
pub(in crate::commands::doctor) fn tls(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::TimedOut {
        return "no answer to the handshake".to_owned();
    }
    let inner = error.get_ref().map(ToString::to_string);
    inner.unwrap_or_else(|| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::SystemTime};

    use shared::environment::Environment;

    use super::*;

    fn config() -> Config {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let path = folder.path().join("turn-relay.yaml");
        let text = "realm: turn.example.org\nsecrets: [a secret of the tests]\n";
        std::fs::write(&path, text).expect("write a file of the test");
        let loaded =
            turn_relay::config::load(&path, &Environment::default(), SystemTime::UNIX_EPOCH);
        let mut config = loaded.config.expect("it is valid");
        config.path = Path::new("turn-relay.yaml").to_owned();
        config
    }

    fn said(step: Step, fault: &Fault) -> (String, String) {
        let uri = Uri::parse("turn:turn.example.org:3478?transport=udp").expect("a URI");
        let server = SocketAddr::from(([192, 0, 2, 7], 3478));
        let (what, why, remedy) = explain(step, fault, &uri, server, &config());
        assert!(!why.is_empty());
        (what, remedy)
    }

    #[test]
    fn each_error_has_its_own_remedy() {
        let here = || Some("turn.example.org".to_owned());
        for (step, code, what, remedy) in [
            (
                Step::Allocate,
                401,
                "is refused with 401",
                "systemctl reload nocturne",
            ),
            (
                Step::Permit,
                403,
                "allocations work; for a permission the relay refuses",
                "peer policy",
            ),
            (Step::Allocate, 440, "(440)", "relay.addresses"),
            (
                Step::AllocateAnother,
                486,
                "the quota is full (486)",
                "quotas.allocations_per_user",
            ),
            (Step::Allocate, 508, "no room left (508)", "relay.ports"),
            (Step::Allocate, 300, "(300)", "credentials.uris"),
            (Step::Allocate, 500, "error 500", "log"),
        ] {
            let (found, mends) = said(
                step,
                &Fault::Refused {
                    code,
                    realm: here(),
                },
            );
            assert!(found.contains(what), "{code}: {found}");
            assert!(mends.contains(remedy), "{code}: {mends}");
        }
    }

    #[test]
    fn a_refusal_in_another_realm_names_both() {
        let realm = Some("elsewhere.example".to_owned());
        let (what, _) = said(Step::Allocate, &Fault::Refused { code: 401, realm });
        assert!(
            what.contains("\"elsewhere.example\"") && what.contains("\"turn.example.org\""),
            "{what}"
        );
    }

    #[test]
    fn silence_means_something_else_before_and_after_the_allocation() {
        let (what, remedy) = said(Step::Allocate, &Fault::NoAnswer);
        assert!(
            what.contains("nothing comes back from UDP port 3478 of 192.0.2.7"),
            "{what}"
        );
        assert!(remedy.contains("firewall"), "{remedy}");
        let (what, remedy) = said(Step::Pass, &Fault::NoAnswer);
        assert!(what.contains("no packet goes"), "{what}");
        assert!(remedy.contains("nocturne_turn_drops"), "{remedy}");
        for fault in [Fault::Closed, Fault::Nonsense, Fault::Forged] {
            assert!(!said(Step::Allocate, &fault).0.is_empty());
        }
    }
}
