//! A provider's word for what went wrong, made safe for a log.

use http::StatusCode;

/// `<status> <reason>`, or the status alone when the answer gives no reason.
///
/// Every reason that Apple and Google document is one word of letters and underscores. Anything else
/// becomes `other`: an answer could quote the request, and no token or identifier of ours consists of
/// letters alone.
pub(crate) fn detail(status: StatusCode, reason: Option<&str>) -> String {
    match reason {
        None => status.as_str().to_owned(),
        Some(reason) if is_word(reason) => format!("{} {reason}", status.as_str()),
        Some(_) => format!("{} other", status.as_str()),
    }
}

fn is_word(reason: &str) -> bool {
    (1..=64).contains(&reason.len())
        && reason
            .bytes()
            .all(|byte| byte.is_ascii_alphabetic() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_documented_reason_is_kept() {
        assert_eq!(
            detail(StatusCode::BAD_REQUEST, Some("BadTopic")),
            "400 BadTopic"
        );
        assert_eq!(
            detail(StatusCode::SERVICE_UNAVAILABLE, Some("UNAVAILABLE")),
            "503 UNAVAILABLE"
        );
    }

    #[test]
    fn no_reason_leaves_the_status() {
        assert_eq!(detail(StatusCode::BAD_GATEWAY, None), "502");
    }

    #[test]
    fn what_could_quote_the_request_becomes_other() {
        let long = "a".repeat(65);
        let hex = "0a".repeat(32);
        for reason in [
            "",
            "two words",
            "a\nb",
            "!room:example.org",
            "é",
            &long,
            &hex,
        ] {
            assert_eq!(detail(StatusCode::BAD_REQUEST, Some(reason)), "400 other");
        }
    }
}
