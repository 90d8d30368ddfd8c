//! Steps of the demo that have to be seen to work.

use super::paper::{Line, Paper, Style};

/// One claim, and what speaks against it.
#[derive(Clone, Debug)]
pub(super) struct Check {
    /// What is claimed, as a sentence.
    pub(super) claim: String,
    /// What was seen instead; nothing: the claim holds.
    pub(super) counterexamples: Vec<String>,
}

impl Check {
    /// A claim that holds unless there are counterexamples.
    pub(super) fn new(
        claim: impl Into<String>,
        counterexamples: impl IntoIterator<Item = String>,
    ) -> Self {
        Self {
            claim: claim.into(),
            counterexamples: counterexamples.into_iter().collect(),
        }
    }
}

/// All claims, each with how it went.
pub(super) fn text(checks: &[Check], paper: &Paper) -> String {
    let mut text = paper.rule("Checked on the recorded bytes");
    for check in checks {
        let (mark, style) = if check.counterexamples.is_empty() {
            ("✓ ", Style::Good)
        } else {
            ("FAILED ", Style::Leaked)
        };
        text += &paper.paragraph(mark, style, &check.claim);
        for counterexample in &check.counterexamples {
            let line = Line::default()
                .with("    ", Style::Plain)
                .with(counterexample, Style::Leaked);
            text += &paper.wrapped(&line);
        }
    }
    text
}

/// The claims that do not hold, with what speaks against them.
pub(super) fn problems(checks: &[Check]) -> Vec<String> {
    let failed = checks
        .iter()
        .filter(|check| !check.counterexamples.is_empty());
    failed
        .map(|check| format!("{} ({})", check.claim, check.counterexamples.join("; ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_with_a_counterexample_is_shown_as_failed_and_is_a_problem() {
        let checks = [
            Check::new("This holds.", []),
            Check::new(
                "This does not.",
                ["there".to_owned(), "and there".to_owned()],
            ),
        ];
        let text = text(&checks, &Paper::plain(40));
        assert!(
            text.contains("✓ This holds.\nFAILED This does not.\n    there\n"),
            "{text}"
        );
        assert_eq!(problems(&checks), ["This does not. (there; and there)"]);
        assert_eq!(problems(&checks[..1]), [""; 0]);
    }
}
