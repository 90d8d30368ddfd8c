//! Globs as Sygnal understands them.

use std::{collections::HashSet, fmt};

/// A pattern: `*` is any run of characters, `?` any one, all else is literal; anchored at both ends.
///
/// A newline is matched by a newline alone. There are no character classes and no escapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// The pattern of the configuration file; every text is one.
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    /// The pattern.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole of `text` matches, upper and lower case told apart: app IDs.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.matches_by(text, |pattern, character| pattern == character)
    }

    /// Whether the whole of `text` matches, with ASCII letters of either case the same: host names.
    #[must_use]
    pub fn matches_ignoring_ascii_case(&self, text: &str) -> bool {
        self.matches_by(text, |pattern, character| {
            pattern.eq_ignore_ascii_case(&character)
        })
    }

    /// Whether there is a text that both patterns match.
    ///
    /// Walks both patterns as automata at once, so that the work is bounded by the product of their
    /// lengths. For the configuration's check, not for a push.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let left: Vec<char> = self.0.chars().collect();
        let right: Vec<char> = other.0.chars().collect();
        let mut seen = HashSet::new();
        let mut waiting = vec![(0, 0)];
        while let Some((l, r)) = waiting.pop() {
            if !seen.insert((l, r)) {
                continue;
            }
            // a star that stands for nothing more
            if left.get(l) == Some(&'*') {
                waiting.push((l + 1, r));
            }
            if right.get(r) == Some(&'*') {
                waiting.push((l, r + 1));
            }
            // one character that both take
            let (a, b) = match (left.get(l), right.get(r)) {
                (Some(&a), Some(&b)) => (a, b),
                (None, None) => return true,
                (None, Some(_)) | (Some(_), None) => continue,
            };
            let both = match (a, b) {
                ('*' | '?', '*' | '?') => true,
                ('*' | '?', literal) | (literal, '*' | '?') => literal != '\n',
                (a, b) => a == b,
            };
            if both {
                waiting.push((l + usize::from(a != '*'), r + usize::from(b != '*')));
            }
        }
        false
    }

    /// Takes as few characters for each star as will do and comes back to the last star alone: an earlier
    /// one could only match later what was already matched. At most pattern × text steps.
    fn matches_by(&self, text: &str, same: impl Fn(char, char) -> bool) -> bool {
        let mut pattern = self.0.chars();
        let mut text = text.chars();
        let mut star = None;
        loop {
            match pattern.next() {
                Some('*') => {
                    star = Some((pattern.clone(), text.clone()));
                    continue;
                }
                None if text.as_str().is_empty() => return true,
                None => {}
                Some(expected) => {
                    let matched = text.next().is_some_and(|character| match expected {
                        '?' => character != '\n',
                        literal => same(literal, character),
                    });
                    if matched {
                        continue;
                    }
                }
            }
            let Some((after_star, rest)) = &mut star else {
                return false;
            };
            if matches!(rest.next(), None | Some('\n')) {
                return false;
            }
            pattern = after_star.clone();
            text = rest.clone();
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_as_in_sygnal() {
        for (pattern, text, expected) in [
            ("com.example.app", "com.example.app", true),
            ("com.example.app", "com.example.app.ios", false),
            ("com.example.app", "xcom.example.app", false),
            ("com.example.app", "comXexample.app", false),
            ("com.example.*", "com.example.", true),
            ("com.example.*", "com.example.app.ios", true),
            ("com.example.*", "com.example", false),
            ("*.ios", "com.example.ios", true),
            ("*.ios", "com.example.ios.dev", false),
            ("com.?xample", "com.example", true),
            ("com.?xample", "com.xample", false),
            ("com.EXAMPLE", "com.example", false),
            ("com.*", "com.*", true),
            ("?", "é", true),
            ("?", "", false),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "any\nthing", false),
            ("a?b", "a\nb", false),
            ("a\nb", "a\nb", true),
            ("*\n*", "a\nb", true),
            ("*a*b*c", "xaxbxabc", true),
            ("[ab]", "a", false),
            ("[ab]", "[ab]", true),
        ] {
            assert_eq!(
                Glob::new(pattern).matches(text),
                expected,
                "{pattern:?} {text:?}"
            );
        }
    }

    #[test]
    fn hosts_match_in_either_case_and_with_their_port() {
        let glob = Glob::new("*.Push.example:8443");
        assert!(glob.matches_ignoring_ascii_case("a.push.EXAMPLE:8443"));
        assert!(!glob.matches_ignoring_ascii_case("a.push.example"));
        assert!(!Glob::new("push.example").matches_ignoring_ascii_case("push.example:443"));
    }

    #[test]
    fn a_hostile_text_takes_no_exponential_time() {
        let glob = Glob::new(format!("{}b", "*a".repeat(30)));
        assert!(!glob.matches(&"a".repeat(512 * 1024)));
    }

    #[test]
    fn overlaps_of_typical_app_ids() {
        for (left, right, expected) in [
            ("com.example.*", "com.*.ios", true),
            ("com.example.*", "org.*", false),
            ("*.ios", "*.android", false),
            ("*.ios", "*.ios*", true),
            ("com.example", "com.example", true),
            ("com.example", "com.exampl?", true),
            ("com.example", "com.example?", false),
            ("?", "*", true),
            ("", "*", true),
            ("", "?", false),
            ("\n", "*", false),
        ] {
            let (left, right) = (Glob::new(left), Glob::new(right));
            assert_eq!(left.overlaps(&right), expected, "{left} {right}");
            assert_eq!(right.overlaps(&left), expected, "{right} {left}");
        }
    }

    proptest! {
        #[test]
        fn matches_as_the_definition_says(pattern in "[ab*?\n]{0,8}", text in "[ab\n]{0,10}") {
            let (glob, pattern) = (Glob::new(pattern.clone()), chars(&pattern));
            prop_assert_eq!(glob.matches(&text), by_definition(&pattern, &chars(&text)));
        }

        #[test]
        fn ignoring_case_is_matching_in_lower_case(pattern in "[aBé*?]{0,6}", text in "[Abé]{0,8}") {
            prop_assert_eq!(
                Glob::new(pattern.clone()).matches_ignoring_ascii_case(&text),
                Glob::new(pattern.to_ascii_lowercase()).matches(&text.to_ascii_lowercase())
            );
        }

        #[test]
        fn patterns_with_a_common_text_overlap(
            left in "[ab*?\n]{0,6}", right in "[ab*?\n]{0,6}", text in "[ab\n]{0,6}",
        ) {
            let (left, right) = (Glob::new(left), Glob::new(right));
            if left.matches(&text) && right.matches(&text) {
                prop_assert!(left.overlaps(&right));
            }
        }

        #[test]
        fn patterns_that_overlap_have_a_common_text(left in "[ab*?]{0,3}", right in "[ab*?]{0,3}") {
            let (left, right) = (Glob::new(left), Glob::new(right));
            // two patterns of three have a common text of six at the most, if they have any
            let common = texts(6).any(|text| left.matches(&text) && right.matches(&text));
            prop_assert_eq!(left.overlaps(&right), common);
        }
    }

    fn by_definition(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, rest) => rest.is_none(),
            (Some(('*', after)), rest) => {
                by_definition(after, text)
                    || rest
                        .is_some_and(|(&next, rest)| next != '\n' && by_definition(pattern, rest))
            }
            (Some((_, _)), None) => false,
            (Some(('?', after)), Some((&next, rest))) => next != '\n' && by_definition(after, rest),
            (Some((literal, after)), Some((next, rest))) => {
                literal == next && by_definition(after, rest)
            }
        }
    }

    /// All texts of `a` and `b` up to a length.
    fn texts(longest: u32) -> impl Iterator<Item = String> {
        (0..=longest).flat_map(|length| {
            (0..1_u32 << length).map(move |bits| {
                (0..length)
                    .map(|index| if bits >> index & 1 == 0 { 'a' } else { 'b' })
                    .collect()
            })
        })
    }

    fn chars(text: &str) -> Vec<char> {
        text.chars().collect()
    }
}
