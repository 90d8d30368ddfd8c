//! What it means for a push that its request got no answer.

use shared::http_client::{Error, ErrorKind};

use crate::outcome::{Cause, Failure, Outcome, Retry};

/// The outcome of a request without an answer, for every provider alike.
///
/// | error | outcome | tried again |
/// |---|---|---|
/// | `Dns`, `Connect`, `Proxy`, `Tls` | failed: `connect` | after back-off: at once would meet the same wall |
/// | `Closed`, `Protocol`, certainly not processed | failed: `connect` | at once, on another connection |
/// | `Closed`, `Protocol` otherwise | failed: `connect` | after back-off |
/// | `Timeout` | failed: `timeout` | after back-off |
/// | `Denied` | failed: `refused` | never |
///
/// A push whose connection ended or whose time ran out after it was sent may have been delivered, so
/// trying again can deliver it twice. That is the better fault: the clients drop a second push for an
/// event that they have shown, and nothing brings back one that was lost.
///
/// `Denied` is an endpoint that the configuration does not permit, by its address or after DNS. That may
/// be the configuration's fault (a push server of one's own that Sygnal reached) or the resolver's, so
/// it costs nobody the pusher; and it is no outage.
pub(crate) fn outcome(error: &Error) -> Outcome {
    failure(error).into()
}

/// The same for a request that is not a push.
pub(crate) fn failure(error: &Error) -> Failure {
    let (cause, retry) = match error.kind {
        ErrorKind::Denied => return denied("outbound.allow_private"),
        ErrorKind::Dns | ErrorKind::Connect | ErrorKind::Proxy | ErrorKind::Tls => {
            (Cause::Connect, Retry::Backoff)
        }
        ErrorKind::Closed | ErrorKind::Protocol if error.unprocessed => {
            (Cause::Connect, Retry::Now)
        }
        ErrorKind::Closed | ErrorKind::Protocol => (Cause::Connect, Retry::Backoff),
        ErrorKind::Timeout => (Cause::Timeout, Retry::Backoff),
    };
    Failure::new(cause, error.detail.as_str(), retry)
}

/// An endpoint that the gateway may not be sent to; `why` names what would permit it.
pub(crate) fn denied(why: &str) -> Failure {
    Failure::new(Cause::Refused, format!("denied: {why}"), Retry::Never)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: ErrorKind, unprocessed: bool) -> Outcome {
        outcome(&Error {
            kind,
            unprocessed,
            detail: "what happened".to_owned(),
        })
    }

    fn failed(cause: Cause, retry: Retry) -> Outcome {
        Failure::new(cause, "what happened", retry).into()
    }

    #[test]
    fn no_connection_is_tried_again_after_backoff() {
        for kind in [
            ErrorKind::Dns,
            ErrorKind::Connect,
            ErrorKind::Proxy,
            ErrorKind::Tls,
        ] {
            for unprocessed in [true, false] {
                assert_eq!(
                    of(kind, unprocessed),
                    failed(Cause::Connect, Retry::Backoff)
                );
            }
        }
    }

    #[test]
    fn a_lost_connection_is_replaced_at_once_only_if_nothing_was_processed() {
        for kind in [ErrorKind::Closed, ErrorKind::Protocol] {
            assert_eq!(of(kind, true), failed(Cause::Connect, Retry::Now));
            assert_eq!(of(kind, false), failed(Cause::Connect, Retry::Backoff));
        }
    }

    #[test]
    fn a_timeout_is_tried_again_after_backoff() {
        assert_eq!(
            of(ErrorKind::Timeout, false),
            failed(Cause::Timeout, Retry::Backoff)
        );
    }

    #[test]
    fn a_denied_address_costs_nobody_the_pusher() {
        assert_eq!(
            of(ErrorKind::Denied, true),
            Failure::new(
                Cause::Refused,
                "denied: outbound.allow_private",
                Retry::Never
            )
            .into()
        );
        assert!(!Cause::Refused.is_outage());
    }
}
