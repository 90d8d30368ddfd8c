//! Whether providers take what the push gateway shows them, by a push to a device that cannot exist.

use push_gateway::{
    config::{App, Provider},
    outcome::{Cause, Failure, Outcome, Rejected},
    provider::Probe,
};

use super::{
    Context,
    finding::{Finding, Topic},
    reach::{self, Probed},
};

const NO_PUSHES: &str = "no push of this app reaches a device";
const TRY_AGAIN: &str = "try again later; if it stays so, see the provider's status page";
/// What no request to a device that does not exist can show.
const UNTRIED: &str = "whether a device's token fits, only a push to one shows: `nocturne notify`";

pub(super) async fn examine(context: &Context) -> Vec<Finding> {
    let Some(config) = &context.push else {
        return context.without_push(Topic::Push);
    };
    match reach::probes(context).await {
        Ok(probes) => config
            .apps
            .iter()
            .zip(probes)
            .map(|(app, probed)| judge(app, probed))
            .collect(),
        Err(problem) => vec![Finding::failure(
            Topic::Push,
            config.path.display().to_string(),
            format!("the apps cannot be made ready: {problem}"),
            "the gateway does not start",
            "mend what is named; `nocturne check` says more",
        )],
    }
}

/// What is wrong, why it matters, what to do.
struct Trouble {
    is_failure: bool,
    what: String,
    why: String,
    remedy: String,
}

impl Trouble {
    fn failure(what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            is_failure: true,
            what: what.into(),
            why: why.into(),
            remedy: remedy.into(),
        }
    }

    fn warning(what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            is_failure: false,
            ..Self::failure(what, why, remedy)
        }
    }
}

fn judge(app: &App, probed: &Probed) -> Finding {
    let subject = format!("apps.{} ({})", app.id, app.provider.label());
    let judged = match (&app.provider, &probed.probe) {
        (Provider::Apns(_), Some(probe)) => apple(probe),
        (Provider::Fcm(_), Some(probe)) => google(probe),
        (Provider::WebPush(web_push), _) => vapid(&web_push.vapid_subject),
        (Provider::UnifiedPush(_) | Provider::Apns(_) | Provider::Fcm(_), _) => Ok(
            "there is nothing to authenticate, and nothing was sent: devices choose their push servers".to_owned(),
        ),
    };
    match judged {
        Ok(what) => Finding::good(Topic::Push, subject, what),
        Err(Trouble {
            is_failure: true,
            what,
            why,
            remedy,
        }) => Finding::failure(Topic::Push, subject, what, why, remedy),
        Err(Trouble {
            is_failure: false,
            what,
            why,
            remedy,
        }) => Finding::warning(Topic::Push, subject, what, why, remedy),
    }
}

/// The key opened, or there would be no apps to ask about.
fn vapid(subject: &str) -> Result<String, Trouble> {
    const SENT: &str = "nothing was sent, since browsers choose their push services";

    let address = subject.strip_prefix("mailto:").unwrap_or_default();
    let is_address = address
        .split_once('@')
        .is_some_and(|(name, host)| !name.is_empty() && host.contains('.'));
    if is_address || subject.starts_with("https://") {
        Ok(format!(
            "the VAPID key opens, and the contact has the form that RFC 8292 asks for; {SENT}"
        ))
    } else {
        Err(Trouble::warning(
            format!("`vapid_contact_email` is no address that anybody could write to; {SENT}"),
            "some push services, Apple's among them, refuse every message then",
            "give an e-mail address that is read",
        ))
    }
}

fn apple(probe: &Probe) -> Result<String, Trouble> {
    let failure = match &probe.outcome {
        Outcome::Delivered
        | Outcome::Suppressed(_)
        | Outcome::Rejected(
            Rejected::Unregistered
            | Rejected::InvalidToken
            | Rejected::UnknownApp
            | Rejected::AmbiguousApp
            | Rejected::InvalidData
            | Rejected::Sealed,
        ) => {
            return Ok(format!("Apple takes the key or certificate; {UNTRIED}"));
        }
        Outcome::Rejected(Rejected::WrongTopic) => {
            return Err(Trouble::failure(
                "Apple takes the key, and says DeviceTokenNotForTopic",
                "it refuses every device of the app",
                "write the app's bundle ID into `topic` (with `.voip` behind it for VoIP pushes)",
            ));
        }
        Outcome::Failed(failure) => failure,
    };
    let (_, word) = split(&failure.detail);
    let said = format!("Apple answers {}", failure.detail);
    let refused = |remedy: &str| Err(Trouble::failure(said.clone(), NO_PUSHES, remedy));
    match word {
        "InvalidProviderToken" => refused(
            "check that `keyfile`, `key_id` and `team_id` belong together and that the key is not revoked \
             (developer.apple.com, Keys); Apple says so of a clock that is far ahead, too (see Clock)",
        ),
        "ExpiredProviderToken" => refused(
            "set this machine's clock: the token was signed just now, and Apple takes it for an hour old (see Clock)",
        ),
        "MissingProviderToken" => refused(
            "Apple wants a provider token or a certificate and saw neither: something between here and Apple takes \
             them away; check `endpoint` and `proxy`",
        ),
        "TopicDisallowed" => refused(
            "the key or certificate may not push to `topic`: write the app's bundle ID there, or take a key of the \
             team that the app belongs to",
        ),
        "BadTopic" | "MissingTopic" => refused("write the app's bundle ID into `topic`"),
        "BadCertificate" => refused(
            "`certfile` is revoked, expired or no push certificate: have Apple issue another",
        ),
        "BadCertificateEnvironment" | "BadEnvironmentKeyInToken" | "BadEnvironmentKeyIdInToken" => {
            refused(
                "the certificate or key is for Apple's other environment: change `platform` (`production`, `sandbox`), \
             or take a key for this one",
            )
        }
        "UnrelatedKeyIdInToken" => {
            refused("the key is limited to other topics: take one for the app in `topic`")
        }
        "TooManyProviderTokenUpdates" => Err(Trouble::warning(
            said,
            "Apple takes a key's tokens, but not another one within 20 minutes; it saw that of a running gateway, or \
             of an earlier try",
            "try again in 20 minutes, if it has to be known now",
        )),
        _ => unnamed("Apple", said, failure),
    }
}

fn google(probe: &Probe) -> Result<String, Trouble> {
    let taken = || {
        Ok(format!(
            "Google takes the service account for the project; {UNTRIED}"
        ))
    };
    let failure = match &probe.outcome {
        Outcome::Delivered
        | Outcome::Suppressed(_)
        | Outcome::Rejected(
            Rejected::Unregistered
            | Rejected::InvalidToken
            | Rejected::UnknownApp
            | Rejected::AmbiguousApp
            | Rejected::InvalidData
            | Rejected::Sealed,
        ) => {
            return taken();
        }
        Outcome::Rejected(Rejected::WrongTopic) => {
            return Err(Trouble::failure(
                "Google answers 403 SENDER_ID_MISMATCH",
                "the service account may not send to the app's devices",
                "take a service account of the Firebase project that the app is built with",
            ));
        }
        Outcome::Failed(failure) => failure,
    };
    let (status, word) = split(&failure.detail);
    let said = format!("Google answers {}", failure.detail);
    let refused = |remedy: &str| Err(Trouble::failure(said.clone(), NO_PUSHES, remedy));
    match (failure.detail.strip_prefix("oauth "), status, word) {
        (Some(_), _, "invalid_grant") => refused(
            "the key in `service_account_file` was deleted, or its account: make another (Firebase console, Project \
             settings, Service accounts); Google says so of a clock that is off, too (see Clock)",
        ),
        (Some(_), _, _) if failure.cause == Cause::Credentials => refused(
            "Google's token server refuses the service account: take a fresh `service_account_file` (Firebase console, \
             Project settings, Service accounts)",
        ),
        (None, "400", "INVALID_ARGUMENT") => taken(),
        (None, "401", "THIRD_PARTY_AUTH_ERROR") => Err(Trouble::warning(
            said,
            "Google takes the service account; the Firebase project's own APNs or Web Push key is bad, and devices of that kind get nothing",
            "put a good key into the Firebase project (Project settings, Cloud Messaging)",
        )),
        (None, "401", _) => refused(
            "Google gave an access token and does not take it: check that `endpoint` is FCM's, and take a fresh \
             `service_account_file`",
        ),
        (None, "403", _) => refused(
            "the service account may not send for `project_id`: check that it is of this project, that it has the role \
             Firebase Cloud Messaging API Admin, and that the Firebase Cloud Messaging API (V1) is switched on",
        ),
        (None, "404", _) => refused("there is no project of that name: correct `project_id`"),
        _ => unnamed("Google", said, failure),
    }
}

/// Everything that has no advice of its own.
fn unnamed(provider: &str, said: String, failure: &Failure) -> Result<String, Trouble> {
    let gone = |what: String| {
        Err(Trouble::failure(
            what,
            NO_PUSHES,
            format!(
                "see that this machine may connect to {provider}: firewall, DNS, `proxy`, and the certificate authorities of SSL_CERT_FILE"
            ),
        ))
    };
    match failure.cause {
        Cause::Connect => gone(format!("{provider} cannot be reached: {}", failure.detail)),
        Cause::Timeout => gone(format!(
            "{provider} does not answer in time: {}",
            failure.detail
        )),
        Cause::ProviderError | Cause::Throttled => Err(Trouble::warning(
            said,
            "whether it takes the credentials is not known",
            TRY_AGAIN,
        )),
        Cause::Credentials => Err(Trouble::failure(
            said,
            NO_PUSHES,
            "check the app's keys, and what they belong to",
        )),
        Cause::Refused
        | Cause::TooLarge
        | Cause::InFlightLimit
        | Cause::RateLimited
        | Cause::BreakerOpen
        | Cause::Budget
        | Cause::Internal => Err(Trouble::warning(
            said,
            "that is no answer about the credentials, so that it is not known whether they are good",
            "check `endpoint`, and send a notification to a device of your own: `nocturne notify`",
        )),
    }
}

/// Status and word of a failure's detail, which may begin with `oauth`.
fn split(detail: &str) -> (&str, &str) {
    let detail = detail.strip_prefix("oauth ").unwrap_or(detail);
    detail.split_once(' ').unwrap_or((detail, ""))
}

#[cfg(test)]
mod tests {
    use push_gateway::outcome::Retry;

    use super::*;

    /// Whether it is a failure, and the remedy; none: it is good.
    fn judged(
        of: fn(&Probe) -> Result<String, Trouble>,
        cause: Cause,
        detail: &str,
    ) -> Option<(bool, String)> {
        let probe = Probe {
            outcome: Failure::new(cause, detail, Retry::Never).into(),
            date: None,
        };
        of(&probe).err().map(|trouble| {
            assert!(trouble.what.contains(detail), "{detail}: {}", trouble.what);
            (trouble.is_failure, trouble.remedy)
        })
    }

    #[test]
    fn every_word_of_apples_has_its_remedy() {
        for (cause, detail, is_failure, remedy) in [
            (
                Cause::Credentials,
                "403 InvalidProviderToken",
                true,
                "`team_id`",
            ),
            (
                Cause::Credentials,
                "403 ExpiredProviderToken",
                true,
                "clock",
            ),
            (
                Cause::Credentials,
                "403 MissingProviderToken",
                true,
                "`proxy`",
            ),
            (Cause::Credentials, "400 TopicDisallowed", true, "`topic`"),
            (Cause::Refused, "400 BadTopic", true, "`topic`"),
            (Cause::Credentials, "400 BadCertificate", true, "`certfile`"),
            (
                Cause::Credentials,
                "403 BadCertificateEnvironment",
                true,
                "`platform`",
            ),
            (
                Cause::Credentials,
                "403 BadEnvironmentKeyIdInToken",
                true,
                "`platform`",
            ),
            (
                Cause::Credentials,
                "403 UnrelatedKeyIdInToken",
                true,
                "`topic`",
            ),
            (Cause::Credentials, "403 SomethingNew", true, "keys"),
            (
                Cause::Throttled,
                "429 TooManyProviderTokenUpdates",
                false,
                "20 minutes",
            ),
            (Cause::ProviderError, "503 Shutdown", false, "later"),
            (Cause::Refused, "404 BadPath", false, "`endpoint`"),
            (Cause::Timeout, "no answer in time", true, "firewall"),
        ] {
            let (failed, advice) = judged(apple, cause, detail).expect("it is trouble");
            assert_eq!(failed, is_failure, "{detail}");
            assert!(advice.contains(remedy), "{detail}: {advice}");
        }
    }

    #[test]
    fn every_word_of_googles_has_its_remedy() {
        for (cause, detail, is_failure, remedy) in [
            (
                Cause::Credentials,
                "oauth 400 invalid_grant",
                true,
                "deleted",
            ),
            (
                Cause::Credentials,
                "oauth 401 invalid_client",
                true,
                "token server",
            ),
            (
                Cause::Credentials,
                "401 UNAUTHENTICATED",
                true,
                "`endpoint`",
            ),
            (Cause::Credentials, "403 PERMISSION_DENIED", true, "role"),
            (Cause::Credentials, "404 NOT_FOUND", true, "`project_id`"),
            (
                Cause::Refused,
                "401 THIRD_PARTY_AUTH_ERROR",
                false,
                "Firebase project",
            ),
            (Cause::Throttled, "429 QUOTA_EXCEEDED", false, "later"),
            (Cause::ProviderError, "oauth 503", false, "later"),
            (Cause::Connect, "oauth no connection", true, "firewall"),
        ] {
            let (failed, advice) = judged(google, cause, detail).expect("it is trouble");
            assert_eq!(failed, is_failure, "{detail}");
            assert!(advice.contains(remedy), "{detail}: {advice}");
        }
        assert_eq!(judged(google, Cause::Refused, "400 INVALID_ARGUMENT"), None);
    }
}
