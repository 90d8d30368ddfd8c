//! A topic.

use super::{Context, finding::Finding};

pub(super) async fn examine(_context: &Context) -> Vec<Finding> {
    Vec::new()
}
