//! A Matrix push gateway, drop-in for Sygnal, that tells providers as little as possible.

use std::{sync::Arc, time::Duration};

use shared::{
    http_server::{self, Limits},
    lifecycle,
};
use tokio::{net::TcpListener, task::JoinSet};
use tracing::info;

pub mod app;
pub mod breaker;
pub mod config;
pub mod dedupe;
pub mod dispatch;
pub mod gateway;
pub mod metrics;
pub mod notification;
pub mod notify;
pub mod opaque;
pub mod outcome;
pub mod provider;
mod retry_after;
pub mod router;
pub mod sealed;
