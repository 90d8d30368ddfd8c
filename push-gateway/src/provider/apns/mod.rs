//! Apple Push Notification service.

mod device_token;
mod outcome;
mod payload;
mod token;

use std::time::Instant;

use shared::{clock::Clock, http_client::HttpClient, random::Random};

use super::{AppContext, Attempt};
use crate::{
    config,
    notification::{Device, Notification},
    outcome::Outcome,
};

/// The provider of one app.
pub struct Apns {}

/// A request made ready for one device.
pub struct Push {}

impl Apns {
    /// Makes the provider of one app; connects to nothing yet.
    ///
    /// # Errors
    ///
    /// A text that names what cannot work.
    pub fn new(
        config: &config::Apns,
        request_timeout: std::time::Duration,
        http: HttpClient,
        clock: Clock,
        random: Random,
    ) -> Result<Self, String> {
        let _ = (config, request_timeout, http, clock, random);
        todo!("in work")
    }

    /// Makes the request for one device.
    pub(super) fn prepare(
        &self,
        context: &AppContext,
        notification: &Notification,
        device: &Device,
    ) -> Result<Push, Outcome> {
        let _ = (context, notification, device);
        todo!("in work")
    }

    /// Sends a request once.
    pub(super) async fn attempt(&self, push: &Push, deadline: Instant) -> Attempt {
        let _ = (push, deadline);
        todo!("in work")
    }

    pub(super) fn credentials_expire_at(&self) -> Option<i64> {
        todo!("in work")
    }
}
