//! What a UnifiedPush push server's answer means.

use std::time::SystemTime;

use http::{HeaderMap, StatusCode};

use crate::{
    outcome::{Cause, Failure, Outcome, Retry},
    provider::{detail::detail, web_push},
};

/// The outcome of one request that a push server answered: as for
/// [Web Push](web_push::outcome::outcome), which the protocol is, but for one status.
///
/// | status | outcome | tried again by the gateway |
/// |---|---|---|
/// | 507 | failed: `refused` | never |
/// | other | as for Web Push | |
///
/// - **507** is ntfy's word for a topic that no device has listened to of late. The push server is well,
///   so it is no outage; the phone may come back, so the pushkey stays and the homeserver tries again.
/// - **401, 403**: some gateways reject here. A reverse proxy that asks for a password answers so, too,
///   and taking it away again should bring the pushes back.
/// - **A host name that does not exist** gets no answer and is a failed connection, not a rejection:
///   when the gateway's own resolver is out of order, no name exists.
pub(super) fn outcome(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Outcome {
    if status == StatusCode::INSUFFICIENT_STORAGE {
        return Failure::new(Cause::Refused, detail(status, None), Retry::Never).into();
    }
    web_push::outcome::outcome(status, headers, now)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::outcome::Rejected;

    #[test]
    fn the_table() {
        for (status, expected) in [
            (200, Outcome::Delivered),
            (201, Outcome::Delivered),
            (404, Outcome::Rejected(Rejected::Unregistered)),
            (410, Outcome::Rejected(Rejected::Unregistered)),
            (307, failed(Cause::Refused, "307", Retry::Never)),
            (401, failed(Cause::Refused, "401", Retry::Never)),
            (403, failed(Cause::Refused, "403", Retry::Never)),
            (413, failed(Cause::TooLarge, "413", Retry::Never)),
            (429, failed(Cause::Throttled, "429", Retry::Never)),
            (503, failed(Cause::ProviderError, "503", Retry::Backoff)),
            (507, failed(Cause::Refused, "507", Retry::Never)),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(outcome(status, &HeaderMap::new(), UNIX_EPOCH), expected);
        }
    }

    fn failed(cause: Cause, detail: &str, retry: Retry) -> Outcome {
        Failure::new(cause, detail, retry).into()
    }
}
