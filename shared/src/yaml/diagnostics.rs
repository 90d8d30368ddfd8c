//! What is wrong with a file, collected.

use std::{cell::RefCell, collections::BTreeSet, fmt::Display};

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Should be looked at; stops nothing.
    Warning,
    /// Stops a part of what the file describes; the rest can be used.
    Failing,
    /// Must be mended.
    Error,
}

/// Lines from here on stand for environment variables. No file has so many.
const FIRST_VARIABLE: usize = usize::MAX / 2;

/// The problems of one file, in whatever order they are found.
///
/// Readers share it by reference, so that a value can report a problem wherever it is read.
#[derive(Debug)]
pub struct Diagnostics {
    file: String,
    found: RefCell<Vec<Problem>>,
    variables: RefCell<Vec<String>>,
    absent: RefCell<BTreeSet<String>>,
}

#[derive(Debug)]
struct Problem {
    severity: Severity,
    line: usize,
    text: String,
}

impl Diagnostics {
    /// For the file of that name; the name is put before every problem.
    pub fn new(file: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            found: RefCell::default(),
            variables: RefCell::default(),
            absent: RefCell::default(),
        }
    }

    /// The line that stands for a variable.
    pub(super) fn line_of_variable(&self, name: &str) -> usize {
        let mut variables = self.variables.borrow_mut();
        let known = variables.iter().position(|known| known == name);
        FIRST_VARIABLE
            + known.unwrap_or_else(|| {
                variables.push(name.to_owned());
                variables.len() - 1
            })
    }

    /// Whether a line stands for a variable.
    pub(super) fn is_variable(line: usize) -> bool {
        line >= FIRST_VARIABLE
    }

    /// `on line 3`, or `in NAME` for a variable.
    pub(super) fn place(&self, line: usize) -> String {
        match self.variable(line) {
            Some(name) => format!("in {name}"),
            None => format!("on line {line}"),
        }
    }

    fn variable(&self, line: usize) -> Option<String> {
        let index = line.checked_sub(FIRST_VARIABLE)?;
        self.variables.borrow().get(index).cloned()
    }

    /// Notes that a reader asked for a key that the file does not have.
    pub(super) fn note_absent(&self, key: String) {
        self.absent.borrow_mut().insert(key);
    }

    /// Every key that was asked for and is not in the file: an example that claims to show all keys
    /// must leave none.
    #[must_use]
    pub fn absent_keys(&self) -> Vec<String> {
        self.absent.borrow().iter().cloned().collect()
    }

    /// Adds a problem: `file:line: key: text`, or `environment variable NAME: key: text`. Line 0 means the file as a whole; an empty `key` is
    /// left out.
    pub fn report(&self, severity: Severity, line: usize, key: &str, text: impl Display) {
        let mut place = match self.variable(line) {
            Some(name) => format!("environment variable {name}"),
            None if line > 0 => format!("{}:{line}", self.file),
            None => self.file.clone(),
        };
        if !key.is_empty() {
            place = format!("{place}: {key}");
        }
        self.found.borrow_mut().push(Problem {
            severity,
            line,
            text: format!("{place}: {text}"),
        });
    }

    /// Whether there is an error among the problems.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.found
            .borrow()
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }

    /// All problems of one severity, in the order of the file.
    #[must_use]
    pub fn of(&self, severity: Severity) -> Vec<String> {
        let found = self.found.borrow();
        let mut problems: Vec<_> = found
            .iter()
            .filter(|problem| problem.severity == severity)
            .collect();
        problems.sort_by_key(|problem| problem.line);
        // A section that is read twice has its problems told once.
        let mut told = BTreeSet::new();
        problems.retain(|problem| told.insert(&problem.text));
        problems
            .into_iter()
            .map(|problem| problem.text.clone())
            .collect()
    }
}
