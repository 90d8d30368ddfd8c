//! `nocturne notify`: one test notification, and what the answer means.

use std::{io, process::ExitCode, time::Duration};

use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode, Uri, header};
use serde_json::{Map, Value, json};
use shared::{
    clock::Clock,
    environment::Environment,
    http_client::{ClientConfig, HttpClient, Response, Versions},
    random::Random,
    tls,
};

use super::{block_on, failed, say};

/// Longer than any gateway's request budget.
const PATIENCE: Duration = Duration::from_secs(65);
const PATH: &str = "/_matrix/push/v1/notify";

/// Send one test notification to a gateway and explain its answer
///
/// The notification is about an event that does not exist, in the form that Synapse sends for
/// `event_id_only` pushers.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  nocturne notify --gateway http://127.0.0.1:5000 --app-id org.example.app.ios --pushkey 'bGFtcA=='"
)]
pub(crate) struct Arguments {
    /// The gateway, with or without the path /_matrix/push/v1/notify.
    #[arg(long, value_name = "URL")]
    gateway: Uri,
    /// The pusher's `app_id`.
    #[arg(long, value_name = "ID")]
    app_id: String,
    /// The pusher's pushkey: the device token, for Web Push the p256dh key, for UnifiedPush the endpoint.
    #[arg(long, value_name = "KEY")]
    pushkey: String,
    /// The pusher's `data` as JSON; Web Push needs {"endpoint": …, "auth": …} in it.
    #[arg(long, value_name = "JSON", default_value = r#"{"format":"event_id_only"}"#, value_parser = object)]
    data: Map<String, Value>,
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, environment: &Environment) -> ExitCode {
    block_on(notify(arguments, environment))
}

async fn notify(arguments: &Arguments, environment: &Environment) -> ExitCode {
    let (clock, random) = (Clock::system(), Random::system());
    let url = match notify_url(&arguments.gateway) {
        Ok(url) => url,
        Err(problem) => return failed(&problem),
    };
    let (request, event_id) = match request(arguments, &url, &clock, &random) {
        Ok(request) => request,
        Err(problem) => return failed(&problem),
    };
    say(
        &mut io::stdout(),
        &format!("POST {url}\n  about the event {event_id}, which does not exist\n"),
    );
    let sent = async {
        let roots = tls::roots(environment)?;
        let client = HttpClient::new(ClientConfig {
            roots: roots.into(),
            identity: None,
            proxy: None,
            no_proxy: None,
            versions: Versions::Http2Or1,
            policy: None,
            connect_timeout: Duration::from_secs(10),
            max_connections: 1,
            max_response_body: 64 * 1024,
        })
        .map_err(|error| error.to_string())?;
        let origin = client.origin(&url).map_err(|error| error.to_string())?;
        origin.send(request, clock.now() + PATIENCE).await.map_err(|error| {
            format!("{error}\n  Is the gateway running, and is this its address? A homeserver would try again later.")
        })
    };
    match sent.await {
        Ok(response) => explain(&response, &arguments.pushkey),
        Err(problem) => failed(&problem),
    }
}

/// The route below a gateway's base URL, or the URL itself when it has the route.
fn notify_url(gateway: &Uri) -> Result<Uri, String> {
    let text = gateway.to_string();
    let base = text.trim_end_matches('/');
    let url = if base.ends_with(PATH) {
        base.to_owned()
    } else {
        format!("{base}{PATH}")
    };
    let url: Uri = url
        .parse()
        .map_err(|error| format!("--gateway {text}: {error}"))?;
    match (url.scheme_str(), url.host()) {
        (Some("http" | "https"), Some(_)) => Ok(url),
        (_, _) => Err(format!(
            "--gateway {text}: give it as http://HOST:PORT or https://HOST"
        )),
    }
}

fn request(
    arguments: &Arguments,
    url: &Uri,
    clock: &Clock,
    random: &Random,
) -> Result<(http::Request<Bytes>, String), String> {
    let event_id = format!("$nocturne-test-{:016x}", u64::from_be_bytes(random.bytes()));
    let body = json!({"notification": {
        "event_id": event_id,
        "room_id": "!nocturne-test:example.invalid",
        "prio": "high",
        "counts": {"unread": 1},
        "devices": [{
            "app_id": arguments.app_id,
            "pushkey": arguments.pushkey,
            "pushkey_ts": clock.unix_seconds(),
            "data": arguments.data,
        }],
    }});
    let request = http::Request::builder()
        .method(Method::POST)
        .uri(url.clone())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Bytes::from(body.to_string()))
        .map_err(|error| error.to_string())?;
    Ok((request, event_id))
}

/// What the answer means, for a person; success only when the push was taken.
fn explain(response: &Response, pushkey: &str) -> ExitCode {
    let body: Value = serde_json::from_slice(&response.body).unwrap_or(Value::Null);
    let text = body
        .get("error")
        .and_then(Value::as_str)
        .unwrap_or("no explanation in the answer");
    let rejected = body.get("rejected").and_then(Value::as_array);
    let (good, meaning) = match (response.status, rejected) {
        (StatusCode::OK, Some(rejected)) if rejected.iter().any(|key| key.as_str() == Some(pushkey)) => (
            false,
            "The pushkey was rejected: a homeserver would remove this pusher.\n  Either no app of the gateway's \
             configuration matches the app ID (or several globs do), or the provider says that the token is dead, \
             malformed or of another app. The gateway's log and its metrics nocturne_push_rejections and \
             nocturne_push_unmatched_devices say which."
                .to_owned(),
        ),
        (StatusCode::OK, Some(_)) => (
            true,
            "The push was taken: the provider accepted it, or the app's options say that nothing is sent for it (the metric nocturne_push_suppressed tells).\n  \
             What the device shows depends on its client and the app's payload mode."
                .to_owned(),
        ),
        (StatusCode::OK, None) => (false, "200, but without a `rejected` list: is this a Matrix push gateway?".to_owned()),
        (StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT | StatusCode::SERVICE_UNAVAILABLE, _)
            if body.get("errcode").is_none() =>
        {
            (
                false,
                "This answer is not the gateway's, but that of a reverse proxy before it: the gateway is not running, \
                 or the proxy does not reach it."
                    .to_owned(),
            )
        }
        (StatusCode::BAD_GATEWAY, _) => (
            false,
            format!(
                "The gateway could not reach the provider, or the provider does not accept its credentials: {text}\n  A \
                 homeserver would try again. `nocturne check` tests keys and certificates; the gateway's log says what \
                 failed."
            ),
        ),
        (StatusCode::TOO_MANY_REQUESTS, _) => (false, format!("Too many requests: {text}. Wait, or raise the gateway's limits.")),
        (StatusCode::BAD_REQUEST, _) => (false, format!("The gateway does not accept the request: {text}")),
        (StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED, _) => (
            false,
            format!("There is no push gateway at this path. Does a reverse proxy pass {PATH} on, whole?"),
        ),
        (_, _) => (false, format!("An answer that a homeserver would take for a failure, and try again: {text}")),
    };
    say(
        &mut io::stdout(),
        &format!("{}\n{meaning}\n", response.status),
    );
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_is_added_to_a_base_url_and_kept_where_it_is() {
        for given in [
            "http://127.0.0.1:5000",
            "http://127.0.0.1:5000/",
            "http://127.0.0.1:5000/_matrix/push/v1/notify",
            "http://127.0.0.1:5000/_matrix/push/v1/notify/",
        ] {
            let url = notify_url(&given.parse().expect("a URI")).expect("usable");
            assert_eq!(
                url.to_string(),
                "http://127.0.0.1:5000/_matrix/push/v1/notify"
            );
        }
        assert!(notify_url(&"gateway.example.org".parse().expect("a URI")).is_err());
    }
}
