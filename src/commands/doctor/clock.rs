//! Whether this machine's clock is right.

use super::{Context, finding::Finding};

#[expect(clippy::unused_async, reason = "nothing is asked yet")]
pub(super) async fn examine(_context: &Context) -> Vec<Finding> {
    Vec::new()
}
