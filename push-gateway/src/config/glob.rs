//! Globs as Sygnal understands them.

/// A pattern: `*` is any run of characters, `?` any one, all else is literal; anchored at both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);
