//! Configuration files in YAML, read so that every problem can be pointed at.
//!
//! [`parse`] turns a text into a tree of [`Node`]s that know their lines; [`Value`] and [`Section`]
//! read typed values out of it. Nothing stops at the first problem: each goes to [`Diagnostics`], and
//! the reader carries on with a default.
//!
//! [`Variables`] puts keys from the environment in the place of the file's.
//!
//! [`prepend`] is the one change that is made to such a file.
//!
//! Scalars mean what they mean to `PyYAML` (YAML 1.1), since files written for it are read here too:
//! `yes` and `off` are booleans, `0644` is octal, `1_000` is a number, and what is in quotes is text.

mod diagnostics;
mod document;
mod edit;
mod file;
mod scalar;
mod unit;
mod variables;
mod view;

pub use diagnostics::{Diagnostics, Severity};
pub use document::{Node, parse};
pub use edit::{CannotEdit, prepend};
pub use file::read;
pub use scalar::Scalar;
pub use unit::{parse_duration, parse_size};
pub use variables::Variables;
pub use view::{Section, Value};
