//! The push gateway's behaviour, seen from outside: the real `nocturne push` on one side, a
//! homeserver's HTTP requests on the other, and stand-ins for the providers behind it.
//!
//! The numbers (S1 to S61) are those of the 61 tests of Sygnal's own suite; each is named beside its
//! number. What they check inside Sygnal is checked here over HTTP. Where this gateway deliberately
//! does better than Sygnal, the test says so in one line. Tests without a number check what Sygnal's
//! suite leaves open.
//!
//! | numbers | Sygnal's file | here |
//! |---|---|---|
//! | S1–S8 | `test_pushgateway_api_v1` | [`api`] |
//! | S9–S11 | `test_http` | [`app_matching`] |
//! | S12–S14 | `test_concurrency_limit` | [`concurrency`] |
//! | S15–S27 | `test_apns` | [`apns`] |
//! | S28–S35 | `test_apnstruncate` | [`apns_truncation`] |
//! | S36–S53 | `test_gcm` | [`fcm`] |
//! | S54–S61 | `test_httpproxy_asyncio`, `test_httpproxy_twisted`, `test_proxy_url_parsing` | [`proxy`] |

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod api;
mod apns;
mod apns_truncation;
mod app_matching;
mod breaker;
mod cli;
mod concurrency;
mod dedupe;
mod exposure;
mod fcm;
mod harness;
mod lifecycle;
mod metrics;
mod privacy;
mod proxy;
mod unified_push;
mod upgrade;
mod validation;
mod web_push;
