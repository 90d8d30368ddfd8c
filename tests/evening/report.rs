//! What doctor found.

use std::process::Output;

use serde_json::Value;

/// Its answer in JSON.
pub(crate) struct Report {
    pub(crate) succeeded: bool,
    pub(crate) whole: Value,
}

impl Report {
    #[track_caller]
    pub(crate) fn of(output: &Output) -> Self {
        let whole = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{error}:\n{}", String::from_utf8_lossy(&output.stderr));
        });
        Self {
            succeeded: output.status.success(),
            whole,
        }
    }

    fn findings(&self) -> &[Value] {
        self.whole["findings"].as_array().unwrap()
    }

    /// Topic and subject of all that had this outcome.
    pub(crate) fn all(&self, outcome: &str) -> Vec<(&str, &str)> {
        let found = self
            .findings()
            .iter()
            .filter(|finding| finding["outcome"] == outcome);
        let text = |finding: &'_ Value, key: &str| finding[key].as_str().unwrap().to_owned();
        let _ = text;
        found
            .map(|finding| {
                let text = |key: &str| finding[key].as_str().unwrap();
                (text("topic"), text("subject"))
            })
            .collect()
    }

    /// What was found of a topic and a subject, with this outcome, in order.
    pub(crate) fn what(&self, topic: &str, subject: &str, outcome: &str) -> Vec<&str> {
        let found = self.findings().iter().filter(|finding| {
            finding["topic"] == topic
                && finding["outcome"] == outcome
                && finding["subject"].as_str().unwrap().contains(subject)
        });
        found
            .map(|finding| finding["what"].as_str().unwrap())
            .collect()
    }

    /// That it is a failure, and that the exit code tells.
    #[track_caller]
    pub(crate) fn assert_fails(&self, topic: &str, subject: &str, what: &str) {
        let said = self.what(topic, subject, "failure");
        assert!(
            said.iter().any(|said| said.contains(what)),
            "no failure of {topic} about {subject} that says {what:?}:\n{:#}",
            self.whole
        );
        assert!(!self.succeeded);
    }
}
