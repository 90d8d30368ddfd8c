//! What clients find under the server name.

use http::{StatusCode, header};
use serde_json::Value;

use super::{
    Context,
    finding::{Finding, Topic},
    reach::{self, Answer},
};

const FOR_CLIENTS: &str = "who logs in with a user ID of this server name is not led to the homeserver, or to a wrong place";
const SETUP: &str = "see step 7 of SETUP.md, which `nocturne init` writes";

pub(super) async fn examine(context: &Context) -> Vec<Finding> {
    let Some(page) = reach::well_known(context).await else {
        return vec![Finding::skipped(
            Topic::WellKnown,
            ".well-known/matrix/client",
            "not looked at, since the server name is not known",
            "name what is behind the colon in user IDs with --server-name",
        )];
    };
    let judge = Judge { url: &page.url };
    match &page.answer {
        Err(problem) => vec![judge.failure(
            format!("it cannot be had: {problem}"),
            FOR_CLIENTS,
            "serve it over HTTPS under the server name, with a certificate that fits the name",
        )],
        Ok(answer) => judge.answer(context, answer),
    }
}

struct Judge<'a> {
    url: &'a str,
}

impl Judge<'_> {
    fn answer(&self, context: &Context, answer: &Answer) -> Vec<Finding> {
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                return vec![self.warning(
                    "there is none",
                    "clients take the server name for the homeserver's address then; and when a call has trouble, \
                     Element asks its user whether to try turn.matrix.org, which then sees their address",
                    SETUP,
                )];
            }
            status => {
                return vec![self.failure(
                    format!("the answer is {status}"),
                    FOR_CLIENTS,
                    "serve the file itself at this URL",
                )];
            }
        }
        let Some(json) = answer.json().filter(Value::is_object) else {
            return vec![self.failure(
                "what is there is no JSON object",
                FOR_CLIENTS,
                "mend the file; `python3 -m json.tool` says where it is wrong",
            )];
        };
        vec![
            self.cors(answer),
            self.base_url(context, &json),
            self.fallback(&json),
        ]
    }

    fn cors(&self, answer: &Answer) -> Finding {
        let allowed = answer.headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        if allowed.is_some_and(|origin| origin == "*" || origin == reach::ORIGIN) {
            self.good("web clients of every origin may read it")
        } else {
            self.failure(
                "the header `Access-Control-Allow-Origin: *` is missing",
                "browsers do not let web clients such as Element read the file, and clients are not led to the homeserver",
                "have the web server add `Access-Control-Allow-Origin: *` to this file",
            )
        }
    }

    fn base_url(&self, context: &Context, json: &Value) -> Finding {
        let Some(url) = reach::base_url(json) else {
            return self.failure(
                "`base_url` of `m.homeserver` is missing or is no URL",
                FOR_CLIENTS,
                "write `\"m.homeserver\": {\"base_url\": \"https://matrix.example.org\"}` with your own name",
            );
        };
        let plain = |url: &url::Url| url.as_str().trim_end_matches('/').to_owned();
        match &context.homeserver {
            Some(given) if plain(given) != plain(&url) => self.warning(
                format!(
                    "clients are led to {}, and not to {}",
                    plain(&url),
                    plain(given)
                ),
                "everything here was tried at the URL of --homeserver, which clients may not use",
                "mend `base_url`, or leave --homeserver out",
            ),
            Some(_) | None if reach::is_in_clear(url.as_str()) => self.failure(
                format!("clients are led to {}, which has no TLS", plain(&url)),
                "whoever is on the way reads all that clients say and hear, and their access tokens",
                "serve the homeserver over HTTPS, and write `https://` in `base_url`",
            ),
            Some(_) | None => self.good(format!("clients are led to {}", plain(&url))),
        }
    }

    fn fallback(&self, json: &Value) -> Finding {
        if json["io.element.voip"]["disable_fallback_ice"] == Value::Bool(true) {
            self.good("clients do not fall back to a third party's STUN server")
        } else {
            self.warning(
                "`disable_fallback_ice` of `io.element.voip` is not true",
                "when a call has trouble, Element asks its user whether to try turn.matrix.org, which then sees their \
                 address",
                format!("add `\"io.element.voip\": {{\"disable_fallback_ice\": true}}`; {SETUP}"),
            )
        }
    }

    fn good(&self, what: impl Into<String>) -> Finding {
        Finding::good(Topic::WellKnown, self.url, what)
    }

    fn warning(
        &self,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding::warning(Topic::WellKnown, self.url, what, why, remedy)
    }

    fn failure(
        &self,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding::failure(Topic::WellKnown, self.url, what, why, remedy)
    }
}
