//! What was found: one line each if it is good, else what is wrong, why that matters and what to do.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// What a finding is about. The order is that in which topics are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    Configuration,
    Dns,
    Ports,
    Certificates,
    Turn,
    Homeserver,
    WellKnown,
    LiveKit,
    Push,
    Clock,
}

impl Topic {
    /// All of them, in the order in which they are shown.
    pub(crate) const ALL: [Self; 10] = [
        Self::Configuration,
        Self::Dns,
        Self::Ports,
        Self::Certificates,
        Self::Turn,
        Self::Homeserver,
        Self::WellKnown,
        Self::LiveKit,
        Self::Push,
        Self::Clock,
    ];

    /// The name in JSON.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Dns => "dns",
            Self::Ports => "ports",
            Self::Certificates => "certificates",
            Self::Turn => "turn",
            Self::Homeserver => "homeserver",
            Self::WellKnown => "well_known",
            Self::LiveKit => "livekit",
            Self::Push => "push",
            Self::Clock => "clock",
        }
    }

    /// The heading for people.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Configuration => "Configuration",
            Self::Dns => "DNS",
            Self::Ports => "Ports",
            Self::Certificates => "Certificates",
            Self::Turn => "TURN",
            Self::Homeserver => "Homeserver",
            Self::WellKnown => "Well-known",
            Self::LiveKit => "LiveKit",
            Self::Push => "Push providers",
            Self::Clock => "Clock",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) topic: Topic,
    /// What was looked at: a URI, a file, a host name. Never anything secret.
    pub(crate) subject: String,
    pub(crate) outcome: Outcome,
}

/// How it went. Each text is a sentence or a few, without a line break and without anything secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It works.
    Good { what: String },
    /// It works, but not as well as it could.
    Warning {
        what: String,
        why: String,
        remedy: String,
    },
    /// It does not work.
    Failure {
        what: String,
        why: String,
        remedy: String,
    },
    /// It was not looked at; `remedy` says what doctor needs for that.
    Skipped { what: String, remedy: String },
}

impl Outcome {
    /// The name in JSON, and before a line for people.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Good { .. } => "good",
            Self::Warning { .. } => "warning",
            Self::Failure { .. } => "failure",
            Self::Skipped { .. } => "skipped",
        }
    }
}

impl Finding {
    /// `what` works.
    pub(crate) fn good(topic: Topic, subject: impl Into<String>, what: impl Into<String>) -> Self {
        let what = printable(what.into());
        Self::new(topic, subject.into(), Outcome::Good { what })
    }

    /// `what` could be better: `why` it matters, and what to do (`remedy`).
    pub(crate) fn warning(
        topic: Topic,
        subject: impl Into<String>,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let outcome = Outcome::Warning {
            what: printable(what.into()),
            why: printable(why.into()),
            remedy: printable(remedy.into()),
        };
        Self::new(topic, subject.into(), outcome)
    }

    /// `what` does not work: `why` it matters, and what to do (`remedy`).
    pub(crate) fn failure(
        topic: Topic,
        subject: impl Into<String>,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let outcome = Outcome::Failure {
            what: printable(what.into()),
            why: printable(why.into()),
            remedy: printable(remedy.into()),
        };
        Self::new(topic, subject.into(), outcome)
    }

    /// `what` was not looked at; what doctor would need for it (`remedy`).
    pub(crate) fn skipped(
        topic: Topic,
        subject: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let outcome = Outcome::Skipped {
            what: printable(what.into()),
            remedy: printable(remedy.into()),
        };
        Self::new(topic, subject.into(), outcome)
    }

    fn new(topic: Topic, subject: String, outcome: Outcome) -> Self {
        let subject = printable(subject);
        Self {
            topic,
            subject,
            outcome,
        }
    }

    /// Whether the set-up does not work because of this.
    pub(crate) const fn is_failure(&self) -> bool {
        matches!(self.outcome, Outcome::Failure { .. })
    }

    /// Lines for a person, the first of them indented.
    pub(super) fn text(&self) -> String {
        let label = self.outcome.label();
        let (what, below) = match &self.outcome {
            Outcome::Good { what } => (what, Vec::new()),
            Outcome::Warning { what, why, remedy } | Outcome::Failure { what, why, remedy } => {
                (what, vec![("Why it matters", why), ("What to do", remedy)])
            }
            Outcome::Skipped { what, remedy } => (what, vec![("What to do", remedy)]),
        };
        let mut text = format!("  {label:<8} {}: {what}\n", self.subject);
        for (heading, sentence) in below {
            let _ = writeln!(text, "           {heading}: {sentence}");
        }
        text
    }

    /// The finding as it is in `findings` of the JSON.
    pub(super) fn json(&self) -> Value {
        let (what, why, remedy) = match &self.outcome {
            Outcome::Good { what } => (what, None, None),
            Outcome::Warning { what, why, remedy } | Outcome::Failure { what, why, remedy } => {
                (what, Some(why), Some(remedy))
            }
            Outcome::Skipped { what, remedy } => (what, None, Some(remedy)),
        };
        json!({
            "topic": self.topic.label(),
            "subject": self.subject,
            "outcome": self.outcome.label(),
            "what": what,
            "why": why,
            "remedy": remedy,
        })
    }
}

/// Without control characters: some of it was said by strangers, and it is shown on a terminal.
fn printable(text: String) -> String {
    if text.contains(char::is_control) {
        let spaced = text.replace(char::is_control, " ");
        spaced.split_whitespace().collect::<Vec<_>>().join(" ")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_said_does_not_steer_the_terminal() {
        let finding = Finding::failure(
            Topic::Turn,
            "turn:host\u{1b}[2J",
            "it says\r\n\u{1b}]0;title\u{7} hello",
            "why",
            "remedy",
        );
        assert_eq!(
            finding.text(),
            "  failure  turn:host [2J: it says ]0;title hello\n           Why it matters: why\n           \
             What to do: remedy\n"
        );
    }

    #[test]
    fn every_topic_is_shown_once() {
        let labels: std::collections::BTreeSet<_> =
            Topic::ALL.iter().map(|topic| topic.label()).collect();
        assert_eq!(labels.len(), Topic::ALL.len());
        assert!(Topic::ALL.is_sorted());
    }
}
