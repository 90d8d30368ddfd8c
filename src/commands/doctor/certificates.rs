//! What clients see of the relay's certificate, at each TLS listener and for each host that they connect to.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use futures_util::future::join_all;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use shared::{
    environment::Environment,
    tls::{crypto_provider, roots},
};
use turn_relay::config::Config;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    Context,
    finding::{Finding, Topic},
    places,
    turn::{self, Fault, Wire, explain},
};
use crate::commands::turn_uri::{Transport, Uri};

const TOPIC: Topic = Topic::Certificates;

/// As long before its end a certificate is worth a warning: those for 90 days are renewed 30 days before theirs.
const SOON: Duration = Duration::from_hours(14 * 24);
const DAY: i64 = 24 * 3600;

/// Authorities whose roots the list in libwebrtc does not have: by the organisation in a certificate's issuer.
const NOT_IN_LIBWEBRTC: [&str; 2] = ["Let's Encrypt", "Internet Security Research Group"];

/// TLS as clients have it: with the system's authorities.
pub(super) fn client_config(environment: &Environment) -> Result<Arc<ClientConfig>, String> {
    let config = ClientConfig::builder_with_provider(crypto_provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(roots(environment)?)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

pub(super) async fn examine(context: &Context) -> Vec<Finding> {
    let Some(config) = &context.turn else {
        return context.without_turn(TOPIC);
    };
    let path = config.path.display().to_string();
    if config.listen.tls.is_empty() {
        return vec![Finding::skipped(
            TOPIC,
            path,
            "the relay listens nowhere for TLS",
            "get a certificate and set `tls`: only `turns:` on TCP gets through networks that let web pages alone \
             pass, and hides usernames from them",
        )];
    }
    let own = places::own();
    if places::is_elsewhere(context, config, &own) {
        return vec![Finding::skipped(
            TOPIC,
            path,
            "the relay is on another machine, so that its listeners are not tried here",
            "run doctor on the relay's machine; TURN says whether clients take the certificate",
        )];
    }
    let listeners = config.listen.tls.iter();
    let listeners: BTreeSet<_> = listeners
        .filter(|listener| !places::is_void(**listener, &own))
        .map(|listener| places::reachable(*listener))
        .collect();
    let hosts = hosts(config);
    let tries = listeners.iter().flat_map(|listener| {
        hosts
            .iter()
            .map(|host| try_listener(context, config, *listener, host))
    });
    let mut findings = Vec::new();
    for finding in join_all(tries).await.concat() {
        // All listeners have one certificate: what is wrong with it is said once.
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    findings
}

/// Those of `turns:` URIs, else the realm.
fn hosts(config: &Config) -> BTreeSet<String> {
    let uris = places::handed_out(config);
    let mut hosts: BTreeSet<_> = uris
        .iter()
        .filter(|text| !turn::is_dtls(text))
        .filter_map(|text| Uri::parse(text))
        .filter(|uri| uri.transport == Transport::Tls)
        .map(|uri| uri.bare_host().to_owned())
        .collect();
    if hosts.is_empty() {
        hosts.insert(config.realm.clone());
    }
    hosts
}

/// What was seen of a server, whatever is to be thought of it.
#[derive(Debug, Default)]
struct Seen {
    chain: Vec<CertificateDer<'static>>,
    verdict: Option<rustls::Error>,
}

/// Takes every certificate, and notes what a client would say to it. No credential goes over such a connection.
#[derive(Debug)]
struct Witness {
    judge: Arc<WebPkiServerVerifier>,
    seen: Mutex<Seen>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.judge.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        let chain = std::iter::once(end_entity).chain(intermediates);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.chain = chain
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        seen.verdict = verdict.err();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}

/// The chain that a listener shows to clients of `host`.
async fn look(context: &Context, listener: SocketAddr, host: &str) -> Result<Seen, Fault> {
    let other = |problem: String| Fault::Tls(io::Error::other(problem));
    let trusted = roots(&context.environment).map_err(other)?;
    let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(trusted), crypto_provider())
        .build()
        .map_err(|error| other(error.to_string()))?;
    let witness = Arc::new(Witness {
        judge,
        seen: Mutex::default(),
    });
    let config = ClientConfig::builder_with_provider(crypto_provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| other(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Witness>::clone(&witness))
        .with_no_client_auth();
    Wire::tls(listener, host, Arc::new(config), context.timeout).await?;
    let mut seen = witness.seen.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *seen))
}

async fn try_listener(
    context: &Context,
    config: &Config,
    listener: SocketAddr,
    host: &str,
) -> Vec<Finding> {
    match look(context, listener, host).await {
        Ok(seen) => judge(context, config, host, &seen),
        Err(fault) => {
            let way = format!("TCP port {} of {}", listener.port(), listener.ip());
            let what = match fault {
                Fault::Connection(error) => explain::connection(&error, &way),
                Fault::Tls(error) => format!("no TLS at {way}: {}", explain::tls(&error)),
                Fault::NoAnswer
                | Fault::Closed
                | Fault::Refused { .. }
                | Fault::Nonsense
                | Fault::Forged => format!("no TLS at {way}"),
            };
            vec![Finding::failure(
                TOPIC,
                host,
                what,
                "clients in networks with strict firewalls have no other way to the relay",
                "see that the relay runs and that its log does not complain of the certificate; Ports says what \
                 listens",
            )]
        }
    }
}

fn judge(context: &Context, config: &Config, host: &str, seen: &Seen) -> Vec<Finding> {
    let Some(parsed) = seen
        .chain
        .first()
        .and_then(|leaf| X509Certificate::from_der(leaf).ok())
        .map(|(_, parsed)| parsed)
    else {
        return vec![Finding::failure(
            TOPIC,
            host,
            "the certificate that is served cannot be read",
            "clients refuse the connection",
            "get it again, and reload the relay",
        )];
    };
    let mut findings = Vec::new();
    let ends = parsed.validity().not_after;
    let now = context.clock.wall().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    let left = ends.timestamp().saturating_sub(now);
    let renew = "renew it, and see why that does not happen by itself (`systemctl list-timers`; port 80 must be open \
                 for most ways); the relay takes the new files within seconds";
    if left < 0 {
        findings.push(Finding::failure(
            TOPIC,
            host,
            format!("the certificate expired on {ends}"),
            "clients refuse the connection",
            renew,
        ));
    } else if let Some(error) = &seen.verdict {
        let (what, remedy) = verdict(error, host, config);
        findings.push(Finding::failure(
            TOPIC,
            host,
            what,
            "clients refuse the connection",
            remedy,
        ));
    } else {
        findings.push(Finding::good(
            TOPIC,
            host,
            format!("clients with this system's authorities take the certificate, until {ends}"),
        ));
    }
    if (0..i64::try_from(SOON.as_secs()).unwrap_or(i64::MAX)).contains(&left) {
        findings.push(Finding::warning(
            TOPIC,
            host,
            format!("the certificate expires in {} days", left / DAY),
            "from then on clients refuse the connection",
            renew,
        ));
    }
    findings.extend(other_than_the_file(config, host, &seen.chain));
    findings.extend(unknown_to_libwebrtc(host, &seen.chain));
    findings
}

/// What is wrong, and what to do.
fn verdict(error: &rustls::Error, host: &str, config: &Config) -> (String, String) {
    let files = config.tls.as_ref();
    let file = files.map_or_else(
        || "`tls.certificate`".to_owned(),
        |tls| tls.certificate.display().to_string(),
    );
    let rustls::Error::InvalidCertificate(kind) = error else {
        return (
            format!("the certificate is refused: {error}"),
            format!("get another certificate into {file}"),
        );
    };
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "rustls adds kinds, and says them itself"
    )]
    match kind {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            format!(
                "the certificate is for {}, and not for {host}",
                files.map_or_else(|| "others".to_owned(), |tls| tls.identity.names())
            ),
            format!(
                "get one for {host}, which is what `credentials.uris` names (`realm`, where they are not set), or \
                 name there what the certificate is for"
            ),
        ),
        CertificateError::UnknownIssuer => (
            "the certificate's chain does not end at an authority that this system knows"
                .to_owned(),
            format!(
                "put the intermediate certificates behind the certificate in {file} (`fullchain.pem`, not \
                 `cert.pem`); one that you signed yourself is known to no client but yours"
            ),
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            "the certificate is not valid yet".to_owned(),
            "set this machine's clock, or wait".to_owned(),
        ),
        _ => (
            format!("the certificate is refused: {error}"),
            format!("get another certificate into {file}"),
        ),
    }
}

/// The relay reads its files again when they change: what differs could not be used.
fn other_than_the_file(
    config: &Config,
    host: &str,
    chain: &[CertificateDer<'_>],
) -> Option<Finding> {
    let tls = config.tls.as_ref()?;
    let served = chain.first()?.as_ref();
    (tls.identity.leaf() != served).then(|| {
        Finding::warning(
            TOPIC,
            host,
            format!("another certificate is served than the one in {}", tls.certificate.display()),
            "a renewal has no effect, until the old certificate expires",
            "wait some seconds and try again; then reload the relay (`systemctl reload nocturne`) and look into \
             its log. If a proxy in front of it ends TLS, the proxy's certificate counts",
        )
    })
}

fn unknown_to_libwebrtc(host: &str, chain: &[CertificateDer<'_>]) -> Option<Finding> {
    let is_of_theirs = |certificate: &CertificateDer<'_>| {
        let parsed = X509Certificate::from_der(certificate);
        parsed.is_ok_and(|(_, parsed)| {
            parsed.issuer().iter_organization().any(|organisation| {
                let name = organisation.as_str().unwrap_or_default();
                NOT_IN_LIBWEBRTC.contains(&name)
            })
        })
    };
    chain.iter().any(is_of_theirs).then(|| {
        Finding::warning(
            TOPIC,
            host,
            "the certificate is from Let's Encrypt, which many apps on phones do not know for TURN",
            "WebRTC in native apps (libwebrtc) brings a list of authorities of its own, without Let's Encrypt's \
             roots, and does not ask the system: such builds of Element Classic, Jitsi, Flutter apps and LiveKit's \
             native SDKs (before August 2026) refuse `turns:` with unknown_ca and use the other URIs. Browsers do \
             take it",
            "if calls fail on phones in networks with strict firewalls, get the relay's certificate from an authority \
             in that list: ZeroSSL is what Synapse's documentation names",
        )
    })
}
