//! What the providers of push see of a notification.
//!
//! [`stage`] has everybody who takes part, [`message`] what happens on the homeserver, [`phone`] what an
//! app makes of its pushes. What the stand-ins recorded is searched by [`search`](super::search), judged by [`verdict`]
//! and shown by [`page`].

mod message;
mod page;
mod phone;
mod stage;
mod verdict;

use self::stage::{Delivery, Stage};
use super::{Played, paper::Paper};

/// Sends the notifications, and tells what became of them.
pub(super) async fn play(paper: &Paper) -> Result<Played, String> {
    let deliveries = perform().await?;
    Ok(Played {
        story: page::story(&deliveries, paper),
        conclusion: page::conclusion(&deliveries, paper),
        checks: verdict::checks(&deliveries),
    })
}

async fn perform() -> Result<Vec<Delivery>, String> {
    let stage = Stage::set().await?;
    let mut deliveries = Vec::new();
    for message in message::STORY {
        deliveries.extend(stage.send(message).await?);
    }
    stage.strike().await?;
    Ok(deliveries)
}
