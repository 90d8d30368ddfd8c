//! What the homeserver's address tells clients about TURN, and who tells it.

use std::{net::IpAddr, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::Value;
use shared::{
    address_policy::{canonical, is_public},
    secret::Secret,
};
use turn_relay::credentials::{self, MAX_URIS, NO_BEARER, NO_HOMESERVER, Settings};
use url::{Host, Url};

use super::{
    Context,
    finding::{Finding, Topic},
    reach::{self, Answer, Homeserver, Page, Role},
};

const TURN_SERVER: &str = "/_matrix/client/v3/voip/turnServer";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";
const NOTIFY: &str = "/_matrix/push/v1/notify";

/// Element Web looks every ten minutes whether its credentials last for ten more.
const SHORT_TTL: Duration = Duration::from_mins(10);
/// A shorter name may stand in a random one by chance.
const TELLING: usize = 4;

const NO_TURN: &str = "clients get no TURN server, so that calls fail wherever there is no direct way; some of them \
                       fall back to turn.matrix.org, which then sees their address";
const LEAK: &str =
    "whoever can watch the network between a caller and the relay reads there who is calling";
const PROXY: &str = "have the reverse proxy give the paths that end in `/voip/turnServer` to Nocturne: step 5 of the \
                     SETUP.md that `nocturne init` writes";

pub(super) async fn examine(context: &Context) -> Vec<Finding> {
    let (reached, turn_server, gateway) =
        tokio::join!(reached(context), turn_server(context), gateway(context));
    [reached, turn_server, gateway].concat()
}

async fn reached(context: &Context) -> Vec<Finding> {
    let homeservers = reach::homeservers(context).await;
    if homeservers.is_empty() {
        return vec![Finding::skipped(
            Topic::Homeserver,
            "homeserver",
            "not looked for, since nothing says where it is",
            "name it with --homeserver, or the server name with --server-name",
        )];
    }
    homeservers.iter().map(versions).collect()
}

fn versions(homeserver: &Homeserver) -> Finding {
    let subject = homeserver.base.as_str();
    let (why, remedy) = match homeserver.role {
        Role::Inside => (
            "the credential service asks it whose an access token is, and gives nobody TURN credentials meanwhile",
            "start it, or correct `credentials.homeserver` in turn-relay.yaml",
        ),
        Role::Public => (
            "this is where clients look for it",
            "start it and its reverse proxy, or correct the address that the well-known or --homeserver gives",
        ),
    };
    let what = match &homeserver.versions.answer {
        Err(problem) => format!("it cannot be reached: {problem}"),
        Ok(answer) => {
            let is_homeserver = answer
                .json()
                .is_some_and(|json| json["versions"].is_array());
            if answer.status == StatusCode::OK && is_homeserver {
                return Finding::good(Topic::Homeserver, subject, "a homeserver answers");
            }
            format!(
                "what answers at /_matrix/client/versions is no homeserver: {}",
                described(answer)
            )
        }
    };
    Finding::failure(Topic::Homeserver, subject, what, why, remedy)
}

async fn turn_server(context: &Context) -> Vec<Finding> {
    let Some(base) = reach::public_base(context).await else {
        return vec![Finding::skipped(
            Topic::Homeserver,
            TURN_SERVER,
            "not asked, since the homeserver's address for clients is not known",
            "name the server name with --server-name, or the address with --homeserver",
        )];
    };
    let url = format!("{base}{TURN_SERVER}");
    let odd = (
        header::AUTHORIZATION,
        HeaderValue::from_static("Nocturne-Doctor"),
    );
    let with_token = async {
        match &context.access_token {
            Some(token) => credentials_of(context, &base, &url, token).await,
            None => vec![Finding::skipped(
                Topic::Homeserver,
                &url,
                "what it hands out was not looked at, since that takes a user's access token",
                "give one with --access-token-file or in NOCTURNE_ACCESS_TOKEN: of any user, a fresh one for this",
            )],
        }
    };
    let headers = [odd];
    let (page, mut findings) = tokio::join!(reach::get_with(context, &url, &headers), with_token);
    findings.insert(0, who_answers(context, &page));
    findings
}

/// Nocturne and homeservers refuse a request without an access token in the same form. What Nocturne says to an
/// `Authorization` of another scheme, no other server says.
fn who_answers(context: &Context, page: &Page) -> Finding {
    let judge = Judge { url: &page.url };
    let answer = match &page.answer {
        Ok(answer) => answer,
        Err(problem) => {
            return judge.failure(
                format!("no answer to a request without an access token: {problem}"),
                NO_TURN,
                "start the homeserver and its reverse proxy, or correct its address",
            );
        }
    };
    let is_ours = context
        .turn
        .as_ref()
        .is_some_and(|turn| turn.credentials.homeserver.is_some());
    let body = answer.json().unwrap_or_default();
    let text = body["error"].as_str();
    let errcode = body["errcode"].as_str();
    match (answer.status.as_u16(), text, errcode) {
        (401, Some(NO_BEARER), _) => judge.good("Nocturne answers here, in the homeserver's place"),
        (404, Some(NO_HOMESERVER), _) => judge.failure(
            "Nocturne answers here, and does not know the homeserver",
            NO_TURN,
            "set `credentials.homeserver` in turn-relay.yaml, and reload the relay",
        ),
        (401 | 403, _, Some(_)) if is_ours => judge.failure(
            "the homeserver answers here, and not Nocturne, although `credentials.homeserver` is set",
            format!("homeservers put the caller's Matrix ID into the username, and {LEAK}"),
            PROXY,
        ),
        (401 | 403, _, Some(_)) => judge.warning(
            "the homeserver answers here, and not Nocturne",
            format!("homeservers put the caller's Matrix ID into the username, and {LEAK}"),
            format!("set `credentials.homeserver` in turn-relay.yaml, and {PROXY}"),
        ),
        (200, _, _) if body["username"].is_string() => judge.failure(
            "credentials are handed out to everybody, without an access token",
            "strangers relay through your server, at your cost",
            format!("forbid guests in the homeserver's TURN settings, and {PROXY}"),
        ),
        (502..=504, _, None) => judge.failure(
            format!("the reverse proxy gets no answer itself: {}", described(answer)),
            NO_TURN,
            "start Nocturne's relay (`nocturne turn`) or the homeserver, whichever the reverse proxy gives this path \
             to, and compare the address in the proxy's configuration with `http.listen`",
        ),
        (404, _, _) => judge.failure(format!("nobody answers here: {}", described(answer)), NO_TURN, PROXY),
        (429, _, _) => judge.warning(
            "too many requests: who answers cannot be told now",
            "the limit is for all requests of one address, and passes",
            "try again in a minute",
        ),
        _ => judge.failure(
            format!("it cannot be told who answers: {}", described(answer)),
            NO_TURN,
            PROXY,
        ),
    }
}

/// What a user gets.
async fn credentials_of(
    context: &Context,
    base: &str,
    url: &str,
    token: &Secret<String>,
) -> Vec<Finding> {
    let judge = Judge { url };
    if context.homeserver.is_none() && reach::is_in_clear(base) {
        return vec![judge.failure(
            "no access token was sent: the address has no TLS",
            "whoever is on the way would read it, as they read those of all users",
            "serve the homeserver over HTTPS, and correct `base_url` in the well-known",
        )];
    }
    let Ok(mut bearer) = HeaderValue::try_from(format!("Bearer {}", token.expose())) else {
        return vec![judge.failure(
            "the access token has characters that no access token has",
            "nothing can be asked with it",
            "give the access token alone, as the homeserver gave it",
        )];
    };
    bearer.set_sensitive(true);
    let headers: [(HeaderName, HeaderValue); 1] = [(header::AUTHORIZATION, bearer)];
    let whoami = format!("{base}{WHOAMI}");
    let (whoami, page) = tokio::join!(
        reach::get_with(context, &whoami, &headers),
        reach::get_with(context, url, &headers)
    );
    let user = whoami
        .answer
        .ok()
        .filter(|answer| answer.status == StatusCode::OK)
        .and_then(|answer| answer.json()?["user_id"].as_str().map(str::to_owned));
    let answer = match page.answer {
        Ok(answer) => answer,
        Err(problem) => {
            return vec![judge.failure(
                format!("no answer to a user: {problem}"),
                NO_TURN,
                "see that Nocturne's relay (`nocturne turn`) runs and reaches the homeserver",
            )];
        }
    };
    let json = answer.json().filter(Value::is_object);
    match (answer.status.as_u16(), json) {
        (200, Some(json)) => handed_out(context, &judge, &json, user.as_deref()),
        (401, _) => vec![judge.failure(
            format!("the access token is refused: {}", described(&answer)),
            "what users get cannot be seen with it",
            "give the access token of a session that is logged in",
        )],
        (403, _) => vec![judge.failure(
            format!("the user gets no credentials: {}", described(&answer)),
            "web clients do not ask again after a 403",
            "if it is a guest's access token, give a user's; or set `credentials.allow_guests` in turn-relay.yaml",
        )],
        (404, _) => vec![judge.failure(
            format!("a user gets no credentials: {}", described(&answer)),
            NO_TURN,
            PROXY,
        )],
        (429, _) => vec![judge.warning(
            "too many requests: what users get cannot be seen now",
            "the limit is for all requests of one address, and passes",
            "try again in a minute",
        )],
        (502..=504, _) => vec![judge.failure(
            format!("a user gets no credentials: {}", described(&answer)),
            NO_TURN,
            "see that `credentials.homeserver` in turn-relay.yaml is where the homeserver answers; the relay's log \
             says why it does not",
        )],
        _ => vec![judge.failure(
            format!("what a user gets is no answer of the Matrix specification: {}", described(&answer)),
            NO_TURN,
            PROXY,
        )],
    }
}

/// The answer of 200 to a user.
fn handed_out(
    context: &Context,
    judge: &Judge<'_>,
    json: &Value,
    user: Option<&str>,
) -> Vec<Finding> {
    if json.as_object().is_some_and(serde_json::Map::is_empty) {
        return vec![judge.failure(
            "the answer is empty: the homeserver has no TURN server configured",
            NO_TURN,
            PROXY,
        )];
    }
    let texts = |key: &str| json[key].as_str().filter(|text| !text.is_empty());
    let uris: Option<Vec<&str>> = json["uris"]
        .as_array()
        .map(|uris| uris.iter().filter_map(Value::as_str).collect());
    let (Some(username), Some(password), Some(uris)) = (texts("username"), texts("password"), uris)
    else {
        return vec![judge.failure(
            "`username`, `password` or `uris` is missing in the answer",
            NO_TURN,
            PROXY,
        )];
    };
    let signed = context
        .turn
        .as_ref()
        .map(|turn| credentials::is_signed(&Settings::from(turn), username, password));
    let mut findings = vec![judge.name(username, user)];
    findings.extend(judge.uris(context, &uris, signed));
    findings.push(judge.time(context, username, &json["ttl"]));
    findings
}

struct Judge<'a> {
    url: &'a str,
}

impl Judge<'_> {
    /// Whether the username says who calls.
    fn name(&self, username: &str, user: Option<&str>) -> Finding {
        let parts: Vec<_> = username.split(':').collect();
        let is_user_id = parts.iter().any(|part| part.starts_with('@'));
        let names_user = user.is_some_and(|user| {
            let (localpart, server) = user
                .trim_start_matches('@')
                .split_once(':')
                .unwrap_or((user, ""));
            let says = |name: &str| {
                !name.is_empty()
                    && (parts.contains(&name) || name.len() >= TELLING && username.contains(name))
            };
            username.contains(user) || says(localpart) || says(server)
        });
        if is_user_id || names_user {
            return self.failure(
                "the username that users get has their Matrix ID in clear",
                LEAK,
                PROXY,
            );
        }
        match user {
            Some(_) => self.good("the username that users get does not say who they are"),
            None => self.warning(
                "the username has the form of nobody's Matrix ID; whose the access token is could not be asked",
                "a name in another form would not be seen",
                "see that /_matrix/client/v3/account/whoami answers at this address",
            ),
        }
    }

    /// Whether the URIs lead to this relay, and whether it takes the credentials.
    fn uris(&self, context: &Context, uris: &[&str], signed: Option<bool>) -> Vec<Finding> {
        const OTHER_SECRET: &str = "let the homeserver have one of `secrets` of turn-relay.yaml as its shared secret, or \
                                    let Nocturne make the credentials";
        let hosts: Vec<_> = uris.iter().filter_map(|uri| host(uri)).collect();
        if uris.is_empty() || hosts.len() < uris.len() {
            return vec![self.failure(
                "`uris` is empty, or has something in it that is no TURN URI",
                NO_TURN,
                "correct `credentials.uris` in turn-relay.yaml, or `turn_uris` of the homeserver",
            )];
        }
        let mut findings = Vec::new();
        if let (Some(turn), Some(signed)) = (&context.turn, signed) {
            let ours: Vec<_> = turn
                .credentials
                .uris
                .iter()
                .filter_map(|uri| host(uri))
                .chain([turn.realm.as_str()])
                .collect();
            let is_ours = |host: &&&str| ours.iter().any(|own| own.eq_ignore_ascii_case(host));
            let mut others: Vec<_> = hosts
                .iter()
                .filter(|host| !is_ours(host))
                .copied()
                .collect();
            others.dedup();
            let all_others = hosts.iter().all(|host| others.contains(host));
            findings.push(match (others.is_empty(), all_others, signed) {
                (true, _, _) => self.good("clients are sent to this relay"),
                (false, true, false) => self.failure(
                    format!("clients are sent to other relays: {}", others.join(", ")),
                    "whoever runs those sees who calls whom; and this relay is not used",
                    PROXY,
                ),
                (false, _, _) => self.warning(
                    format!("clients are also sent to names that turn-relay.yaml does not know: {}", others.join(", ")),
                    "if those are other people's relays, they see who calls whom",
                    "write them into `credentials.uris` if they are yours, else take them out of the homeserver's settings",
                ),
            });
            if signed {
                findings.push(self.good(
                    "the password is made with a secret of turn-relay.yaml: the relay takes it",
                ));
            } else if !all_others {
                findings.push(self.failure(
                    "the password is made with none of the secrets in turn-relay.yaml",
                    "the relay refuses the credentials, and calls fail wherever there is no direct way",
                    OTHER_SECRET,
                ));
            }
        }
        findings.extend(self.choice(uris));
        findings
    }

    /// How many URIs there are, and which comes first.
    fn choice(&self, uris: &[&str]) -> Vec<Finding> {
        let mut findings = Vec::new();
        if uris.len() > MAX_URIS {
            findings.push(self.warning(
                format!("clients are told {} URIs", uris.len()),
                format!(
                    "browsers warn of more than {MAX_URIS}, and each makes calls slower to start"
                ),
                "leave out some of them",
            ));
        }
        let is_tls = |uri: &&str| uri.starts_with("turns:");
        if !uris.iter().any(is_tls) {
            findings.push(self.warning(
                "none of the URIs is a `turns:` one",
                "without TLS the username is readable on the way, and networks that let nothing else through let no calls through",
                "give the relay a certificate (`tls` in turn-relay.yaml), and the homeserver a `turns:` URI if it makes the credentials",
            ));
        } else if !uris.first().is_some_and(is_tls) {
            findings.push(self.warning(
                "the first of the URIs is not a `turns:` one",
                "some clients take the first alone, and without TLS the username is readable on the way",
                "put the `turns:` URIs first",
            ));
        }
        findings
    }

    /// For how long the credentials are good.
    fn time(&self, context: &Context, username: &str, ttl: &Value) -> Finding {
        let now = context.clock.unix_seconds();
        let expiry = username
            .split(':')
            .find_map(|part| part.parse::<u64>().ok());
        let is_over = expiry.is_some_and(|expiry| expiry <= now);
        let seconds = ttl.as_u64().or_else(|| {
            let seconds = ttl.as_f64().filter(|seconds| *seconds >= 0.0)?;
            Duration::try_from_secs_f64(seconds)
                .ok()
                .map(|ttl| ttl.as_secs())
        });
        match seconds {
            None => self.failure(
                "`ttl` is missing in the answer, or is no number",
                "clients do not know how long their credentials are good",
                PROXY,
            ),
            Some(_) if is_over => self.failure(
                "the credentials are expired when they are handed out",
                "the relay refuses them",
                "set the clocks of this machine and of the homeserver's (see Clock)",
            ),
            Some(seconds) if seconds <= SHORT_TTL.as_secs() => self.warning(
                format!("the credentials are good for {seconds} seconds"),
                "web clients look after them every ten minutes, so that calls fail in between",
                "set `credentials.ttl` in turn-relay.yaml, or `turn_user_lifetime` of the homeserver, to 12h",
            ),
            Some(seconds) => self.good(format!("the credentials are good for {} minutes", seconds / 60)),
        }
    }

    fn good(&self, what: impl Into<String>) -> Finding {
        Finding::good(Topic::Homeserver, self.url, what)
    }

    fn warning(
        &self,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding::warning(Topic::Homeserver, self.url, what, why, remedy)
    }

    fn failure(
        &self,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding::failure(Topic::Homeserver, self.url, what, why, remedy)
    }
}

/// The host of a TURN URI (RFC 7065 §3.1).
fn host(uri: &str) -> Option<&str> {
    let rest = uri
        .strip_prefix("turns:")
        .or_else(|| uri.strip_prefix("turn:"))?;
    let rest = rest.split('?').next()?;
    let host = match rest.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => rest.split(':').next()?,
    };
    (!host.is_empty()).then_some(host)
}

/// Status and, if it is one of Matrix's, the error code of an answer.
fn described(answer: &Answer) -> String {
    let json = answer.json();
    let errcode = json.as_ref().and_then(|json| json["errcode"].as_str());
    let is_code = |code: &&str| {
        code.len() <= 64
            && code
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte))
    };
    match (errcode.filter(is_code), json.is_some()) {
        (Some(errcode), _) => format!("{}, {errcode}", answer.status),
        (None, true) => format!("{}, JSON without an error code", answer.status),
        (None, false) => format!("{}, not JSON", answer.status),
    }
}

/// Whether the homeserver may post notifications where clients say: not seen from here, but half of it is.
async fn gateway(context: &Context) -> Vec<Finding> {
    if context.push.is_none() {
        return Vec::new();
    }
    let Some(base) = reach::public_base(context).await else {
        return Vec::new();
    };
    let url = format!("{base}{NOTIFY}");
    let (page, private) =
        tokio::join!(reach::get(context, &url), private_addresses(context, &base));
    let judge = Judge { url: &url };
    let mut findings = Vec::new();
    // That nothing answers at all is said already.
    if let Ok(answer) = page.answer {
        let json = answer.json().unwrap_or_default();
        let is_gateway = json["gateway"] == "matrix" || json["unifiedpush"]["gateway"] == "matrix";
        findings.push(if is_gateway {
            judge.good("the push gateway answers here")
        } else {
            judge.warning(
                "no push gateway answers here",
                "apps that register pushers with this address get no notifications",
                format!(
                    "have the reverse proxy give {NOTIFY} to the push gateway (step 5 of the SETUP.md that \
                     `nocturne init` writes); nothing, if your apps have another address"
                ),
            )
        });
    }
    if !private.is_empty() {
        let list: Vec<_> = private.iter().map(ToString::to_string).collect();
        findings.push(judge.warning(
            format!("the address has a private IP address: {}", list.join(", ")),
            "homeservers post no notifications to private addresses unless they are told to; whether yours does cannot \
             be seen from here",
            "Synapse: list the address under `ip_range_whitelist` in homeserver.yaml; Tuwunel and its relatives: take \
             its network out of `ip_range_denylist`; Dendrite needs nothing",
        ));
    }
    findings
}

/// The addresses of a URL's host that are not public, as this machine resolves it.
async fn private_addresses(context: &Context, url: &str) -> Vec<IpAddr> {
    let Ok(url) = Url::parse(url) else {
        return Vec::new();
    };
    let found = match url.host() {
        None => Vec::new(),
        Some(Host::Ipv4(address)) => vec![address.into()],
        Some(Host::Ipv6(address)) => vec![address.into()],
        Some(Host::Domain(name)) => {
            let looked_up = tokio::net::lookup_host((name.to_owned(), 443));
            match tokio::time::timeout(context.timeout, looked_up).await {
                Ok(Ok(addresses)) => addresses.map(|address| address.ip()).collect(),
                Ok(Err(_)) | Err(_) => Vec::new(),
            }
        }
    };
    let mut private: Vec<_> = found
        .into_iter()
        .map(canonical)
        .filter(|address: &IpAddr| !is_public(*address))
        .collect();
    private.sort_unstable();
    private.dedup();
    private
}
