//! What has to hold at the end.

use crate::{report::median, traffic::ratio};

/// Memory may grow by this part of itself …
const GROWTH: f64 = 1.05;
/// … and so many bytes.
const SLACK: f64 = 1024.0 * 1024.0;

/// One of the things that have to hold.
pub(super) struct Check {
    pub(super) holds: bool,
    pub(super) text: String,
}

impl Check {
    pub(super) const fn new(holds: bool, text: String) -> Self {
        Self { holds, text }
    }
}

/// Whether memory is flat: its median over the last quarter of the time is at most 5 % and 1 MiB above that over
/// the second quarter. The first quarter is for growing.
pub(super) fn is_flat(resident: &[u64]) -> Check {
    let quarter = resident.len() / 4;
    let median_from = |start: usize| {
        let samples = resident.get(start..start + quarter).unwrap_or_default();
        median(samples.iter().map(|bytes| ratio(*bytes, 1)))
    };
    let last = resident.len() - quarter;
    let (Some(second), Some(last)) = (median_from(quarter), median_from(last)) else {
        return Check::new(
            false,
            "memory was looked at fewer than four times: that takes a minute of traffic".to_owned(),
        );
    };
    Check::new(
        last <= second * GROWTH + SLACK,
        format!(
            "memory is flat: {:.2} MiB in the second quarter, {:.2} MiB in the last, at most 5 % and 1 MiB more (medians of \
             what is resident)",
            second / SLACK,
            last / SLACK,
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_grows_in_the_first_quarter_and_stays_is_flat() {
        let resident = [1, 20, 50, 50, 51, 50, 52, 51, 50, 50, 51, 53].map(|size| size * MIB);
        assert!(is_flat(&resident).holds);
    }

    #[test]
    fn a_slow_leak_is_not_flat() {
        let resident: Vec<_> = (0..120)
            .map(|sample| (50 * MIB) + sample * MIB / 10)
            .collect();
        assert!(!is_flat(&resident).holds);
    }

    #[test]
    fn one_peak_does_not_count() {
        let resident = [50, 50, 50, 50, 50, 50, 50, 50, 50, 90, 50, 50].map(|size| size * MIB);
        assert!(is_flat(&resident).holds);
    }

    #[test]
    fn too_few_samples_are_no_proof() {
        assert!(!is_flat(&[MIB; 3]).holds);
    }
}
