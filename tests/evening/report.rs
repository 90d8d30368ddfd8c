//! What doctor found.

use std::process::Output;

use serde_json::Value;

/// Its answer in JSON.
pub(crate) struct Report {
    code: Option<i32>,
    whole: Value,
}

impl Report {
    #[track_caller]
    pub(crate) fn of(output: &Output) -> Self {
        let whole = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{error}:\n{}", String::from_utf8_lossy(&output.stderr));
        });
        Self {
            code: output.status.code(),
            whole,
        }
    }

    /// Topic, subject and text of all that had this outcome.
    fn all(&self, outcome: &str) -> Vec<[&str; 3]> {
        let findings = self.whole["findings"].as_array().unwrap();
        findings
            .iter()
            .filter(|finding| finding["outcome"] == outcome)
            .map(|finding| ["topic", "subject", "what"].map(|key| finding[key].as_str().unwrap()))
            .collect()
    }

    /// That everything is good, of this certainly and in these words, and nothing but `skipped` was left out: topics
    /// and subjects.
    #[track_caller]
    pub(crate) fn assert_green(&self, good: &[[&str; 3]], skipped: &[[&str; 2]]) {
        let none: [[&str; 3]; 0] = [];
        assert_eq!(self.all("failure"), none);
        assert_eq!(self.all("warning"), none);
        assert_eq!(self.code, Some(0));
        let left_out = self.all("skipped");
        let left_out: Vec<_> = left_out
            .iter()
            .map(|[topic, subject, _]| [*topic, *subject])
            .collect();
        assert_eq!(left_out, skipped);
        for finding in good {
            assert!(self.has("good", *finding), "{finding:?}:\n{:#}", self.whole);
        }
    }

    /// That these fail, that nothing of another topic does, and that the exit code tells.
    #[track_caller]
    pub(crate) fn assert_red(&self, failures: &[[&str; 3]]) {
        for failure in failures {
            assert!(
                self.has("failure", *failure),
                "{failure:?}:\n{:#}",
                self.whole
            );
        }
        for [topic, subject, what] in self.all("failure") {
            let expected = failures.iter().any(|[expected, ..]| *expected == topic);
            assert!(expected, "{topic}: {subject}: {what}");
        }
        assert_eq!(self.code, Some(1));
    }

    fn has(&self, outcome: &str, [topic, subject, what]: [&str; 3]) -> bool {
        let all = self.all(outcome);
        all.iter()
            .any(|found| found[0] == topic && found[1] == subject && found[2].contains(what))
    }
}
