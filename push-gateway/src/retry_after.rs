//! `Retry-After`: how long a provider asks to be left alone (RFC 9110 §10.2.3).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header::RETRY_AFTER};

/// The longest time that is believed.
///
/// No request lives long enough to wait even for this; the cap only keeps sums with the value in range.
pub(crate) const LONGEST: Duration = Duration::from_hours(1);

/// The time that the answer's `Retry-After` names: seconds, or an HTTP date compared with `now`.
///
/// Anything longer than [`LONGEST`] is cut to it. Zero and a date in the past name no time to wait, and
/// what is neither a number nor a date names none either: all count as absent, so that the caller's own
/// back-off holds.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let duration = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // only a number too large for u64 fails to parse here
        value.parse().map_or(LONGEST, Duration::from_secs)
    } else {
        let date = httpdate::parse_http_date(value).ok()?;
        date.duration_since(now).ok()?
    };
    (!duration.is_zero()).then_some(duration.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::HeaderValue;

    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT
    const NOW: u64 = 784_111_777;

    fn parsed(value: &[u8]) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(
            RETRY_AFTER,
            HeaderValue::from_bytes(value).expect("a value"),
        );
        retry_after(&headers, UNIX_EPOCH + Duration::from_secs(NOW))
    }

    #[test]
    fn seconds_are_taken_as_they_are() {
        assert_eq!(parsed(b"1"), Some(Duration::from_secs(1)));
        assert_eq!(parsed(b" 121 "), Some(Duration::from_secs(121)));
    }

    #[test]
    fn a_date_is_compared_with_now_in_all_three_forms() {
        for date in [
            "Sun, 06 Nov 1994 08:50:07 GMT",
            "Sunday, 06-Nov-94 08:50:07 GMT",
            "Sun Nov  6 08:50:07 1994",
        ] {
            assert_eq!(
                parsed(date.as_bytes()),
                Some(Duration::from_secs(30)),
                "{date}"
            );
        }
    }

    #[test]
    fn no_time_at_all_counts_as_absent() {
        for value in [
            "0",
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:36 GMT",
        ] {
            assert_eq!(parsed(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn long_times_are_cut() {
        assert_eq!(parsed(b"3601"), Some(LONGEST));
        assert_eq!(parsed(b"99999999999999999999999999"), Some(LONGEST));
        assert_eq!(parsed(b"Fri, 31 Dec 9999 23:59:59 GMT"), Some(LONGEST));
    }

    #[test]
    fn what_is_neither_counts_as_absent() {
        for value in [
            "",
            "-1",
            "1.5",
            "soon",
            "+3",
            "0x10",
            "Sun, 99 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(parsed(value.as_bytes()), None, "{value}");
        }
        assert_eq!(parsed(b"\xff\xfe"), None);
        assert_eq!(retry_after(&HeaderMap::new(), UNIX_EPOCH), None);
    }
}
