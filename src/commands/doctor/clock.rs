//! Whether this machine's clock is right, by the `Date` of whoever answered the other topics.

use super::{
    Context,
    finding::{Finding, Topic},
    reach,
};

/// Seconds; from here on it shows somewhere.
const NOTABLE: u64 = 30;
/// Seconds; from here on something does not work.
const TOO_FAR: u64 = 5 * 60;

const WHY: &str = "Apple and Google refuse tokens that are of another time, and TURN credentials end by the clock of \
                   whoever made them: if the relay's is ahead of it they are refused too early, or at once";
const REMEDY: &str = "let the clock be set by the network: `timedatectl set-ntp true`, or run chrony; if this \
                      machine's clock is right, mend the other one's";

pub(super) async fn examine(context: &Context) -> Vec<Finding> {
    let (well_known, homeservers, probes) = tokio::join!(
        reach::well_known(context),
        reach::homeservers(context),
        reach::probes(context)
    );
    let pages = well_known
        .into_iter()
        .chain(homeservers.iter().map(|homeserver| &homeserver.versions));
    let of_pages = pages.filter_map(|page| {
        let answer = page.answer.as_ref().ok()?;
        Some((page.url.as_str(), answer.ahead?))
    });
    let probes = probes.as_deref().unwrap_or_default();
    let of_probes = probes
        .iter()
        .filter_map(|probed| Some((probed.app.as_str(), probed.ahead?)));
    let mut findings: Vec<_> = of_pages
        .map(|(url, ahead)| compared(host(url), ahead))
        .chain(of_probes.map(|(app, ahead)| compared(format!("the provider of {app}"), ahead)))
        .collect();
    findings.dedup();
    if findings.is_empty() {
        findings.push(Finding::skipped(
            Topic::Clock,
            "this machine's clock",
            "compared with nobody's, since nothing that was reached says what time it is",
            "mend what could not be reached, or compare by hand: `timedatectl`",
        ));
    }
    findings
}

fn host(url: &str) -> String {
    let host = url
        .split("://")
        .nth(1)
        .and_then(|rest| rest.split('/').next());
    host.unwrap_or(url).to_owned()
}

fn compared(other: String, ahead: i64) -> Finding {
    let seconds = ahead.unsigned_abs();
    let direction = if ahead < 0 { "behind" } else { "ahead of" };
    let what = format!(
        "this machine's clock is {} {direction} that of {other}",
        spoken(seconds)
    );
    match seconds {
        0..=NOTABLE => Finding::good(
            Topic::Clock,
            other,
            format!("this machine's clock agrees with it to within {NOTABLE} seconds"),
        ),
        _ if seconds <= TOO_FAR => Finding::warning(Topic::Clock, other, what, WHY, REMEDY),
        _ => Finding::failure(Topic::Clock, other, what, WHY, REMEDY),
    }
}

fn spoken(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7200 => format!("{} minutes", seconds / 60),
        _ => format!("{} hours", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_minute_is_good_and_five_minutes_are_too_much_in_both_directions() {
        for (ahead, expected) in [
            (0, "good"),
            (30, "good"),
            (-30, "good"),
            (31, "warning"),
            (-31, "warning"),
            (300, "warning"),
            (301, "failure"),
            (-301, "failure"),
            (i64::MIN, "failure"),
        ] {
            let finding = compared("example.org".to_owned(), ahead);
            assert_eq!(finding.outcome.label(), expected, "{ahead}");
        }
    }
}
