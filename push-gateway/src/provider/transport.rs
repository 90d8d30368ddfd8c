//! What it means for a push that its request got no answer.

use shared::http_client::{Error, ErrorKind};

use crate::outcome::{Cause, Failure, Outcome, Rejected, Retry};

/// The outcome of a request without an answer, for every provider alike.
///
/// | error | outcome | tried again |
/// |---|---|---|
/// | `Dns`, `Connect`, `Proxy`, `Tls` | failed: `connect` | after back-off: at once would meet the same wall |
/// | `Closed`, `Protocol`, certainly not processed | failed: `connect` | at once, on another connection |
/// | `Closed`, `Protocol` otherwise | failed: `connect` | after back-off |
/// | `Timeout` | failed: `timeout` | after back-off |
/// | `Denied` | rejected: `endpoint_forbidden` | |
///
/// A push whose connection ended or whose time ran out after it was sent may have been delivered, so
/// trying again can deliver it twice. That is the better fault: the clients drop a second push for an
/// event that they have shown, and nothing brings back one that was lost.
pub(crate) fn outcome(error: &Error) -> Outcome {
    match error.kind {
        ErrorKind::Denied => Outcome::Rejected(Rejected::EndpointForbidden),
        ErrorKind::Dns
        | ErrorKind::Connect
        | ErrorKind::Proxy
        | ErrorKind::Tls
        | ErrorKind::Timeout
        | ErrorKind::Closed
        | ErrorKind::Protocol => failure(error).into(),
    }
}

/// The same for a request that is not a push; there is no pushkey to reject then.
pub(crate) fn failure(error: &Error) -> Failure {
    let (cause, retry) = match error.kind {
        ErrorKind::Denied => (Cause::Connect, Retry::Never),
        ErrorKind::Dns | ErrorKind::Connect | ErrorKind::Proxy | ErrorKind::Tls => {
            (Cause::Connect, Retry::Backoff)
        }
        ErrorKind::Closed | ErrorKind::Protocol if error.unprocessed => {
            (Cause::Connect, Retry::Now)
        }
        ErrorKind::Closed | ErrorKind::Protocol => (Cause::Connect, Retry::Backoff),
        ErrorKind::Timeout => (Cause::Timeout, Retry::Backoff),
    };
    Failure::new(cause, detail(error), retry)
}

/// The kind of error alone: the client's own text may name an address, and with some push services
/// an address is an identifier.
fn detail(error: &Error) -> &'static str {
    match error.kind {
        ErrorKind::Dns => "dns",
        ErrorKind::Denied => "denied",
        ErrorKind::Connect => "connect",
        ErrorKind::Proxy => "proxy",
        ErrorKind::Tls => "tls",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Closed => "closed",
        ErrorKind::Protocol => "protocol",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: ErrorKind, unprocessed: bool) -> Outcome {
        outcome(&Error {
            kind,
            unprocessed,
            detail: "10.1.2.3 said no".to_owned(),
        })
    }

    fn failed(cause: Cause, detail: &str, retry: Retry) -> Outcome {
        Failure::new(cause, detail, retry).into()
    }

    #[test]
    fn no_connection_is_tried_again_after_backoff() {
        for (kind, detail) in [
            (ErrorKind::Dns, "dns"),
            (ErrorKind::Connect, "connect"),
            (ErrorKind::Proxy, "proxy"),
            (ErrorKind::Tls, "tls"),
        ] {
            for unprocessed in [true, false] {
                assert_eq!(
                    of(kind, unprocessed),
                    failed(Cause::Connect, detail, Retry::Backoff)
                );
            }
        }
    }

    #[test]
    fn a_lost_connection_is_replaced_at_once_only_if_nothing_was_processed() {
        for (kind, detail) in [
            (ErrorKind::Closed, "closed"),
            (ErrorKind::Protocol, "protocol"),
        ] {
            assert_eq!(of(kind, true), failed(Cause::Connect, detail, Retry::Now));
            assert_eq!(
                of(kind, false),
                failed(Cause::Connect, detail, Retry::Backoff)
            );
        }
    }

    #[test]
    fn a_timeout_is_tried_again_after_backoff() {
        assert_eq!(
            of(ErrorKind::Timeout, false),
            failed(Cause::Timeout, "timeout", Retry::Backoff)
        );
    }

    #[test]
    fn a_denied_address_rejects_the_pushkey() {
        assert_eq!(
            of(ErrorKind::Denied, true),
            Outcome::Rejected(Rejected::EndpointForbidden)
        );
    }
}
