//! Prometheus metrics, `nocturne_turn_*`. Every label is a closed enum; nobody is in them.
//!
//! The threads that relay count by themselves ([`turn_relay_proto::counters`]); their counts are added up
//! at each scrape.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        gauge::ConstGauge,
        info::Info,
    },
    registry::Registry,
};
use shared::{clock::Clock, process::ProcessMetrics};
use turn_relay_proto::counters::{Counters, Family, Label, Single};

use crate::{
    certificates::Certificates,
    credentials,
    workers::{Connections, Workers},
};

/// All metrics of the relay.
pub struct Metrics {
    registry: Registry,
    /// Reloads that were carried out.
    pub reloads: Counter,
    /// Reloads that were refused because the new configuration is bad.
    pub failed_reloads: Counter,
    /// Those of the credential service.
    pub credentials: credentials::Metrics,
    unsafe_identifiers: Arc<AtomicBool>,
}

impl Metrics {
    /// Registers everything.
    #[must_use]
    pub fn new(
        clock: &Clock,
        workers: Arc<Workers>,
        certificates: Option<Arc<Certificates>>,
    ) -> Self {
        let unsafe_identifiers = Arc::new(AtomicBool::new(false));
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessMetrics::new(clock)));
        registry.register(
            "nocturne_turn_build",
            "The version that runs",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let mut counter = |name, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let reloads = counter("nocturne_turn_reloads", "Configurations loaded anew");
        let failed_reloads = counter(
            "nocturne_turn_failed_reloads",
            "Reloads refused: the old configuration stays",
        );
        let credentials = credentials::Metrics::new(&mut registry);
        registry.register_collector(Box::new(AtScrape {
            workers,
            certificates,
            unsafe_identifiers: Arc::clone(&unsafe_identifiers),
        }));
        Self {
            registry,
            reloads,
            failed_reloads,
            credentials,
            unsafe_identifiers,
        }
    }

    /// Says whether `log.unsafe_identifiers` is on.
    pub fn set_unsafe_identifiers(&self, on: bool) {
        self.unsafe_identifiers.store(on, Ordering::Relaxed);
    }

    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

/// What is read at each scrape.
struct AtScrape {
    workers: Arc<Workers>,
    certificates: Option<Arc<Certificates>>,
    unsafe_identifiers: Arc<AtomicBool>,
}

impl fmt::Debug for AtScrape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AtScrape")
    }
}

impl Collector for AtScrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let not_after = self
            .certificates
            .as_ref()
            .map(|certificates| certificates.not_after());
        Encoder(&mut encoder).all(
            self.workers.counters(),
            self.workers.connections(),
            not_after,
            self.unsafe_identifiers.load(Ordering::Relaxed),
        )
    }
}

#[derive(Clone, Copy, Debug, EncodeLabelSet)]
struct ByDirection {
    direction: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet)]
struct ByOperation {
    operation: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet)]
struct ByQuota {
    quota: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet)]
struct ByTransport {
    transport: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet)]
struct ByTransportAndFamily {
    transport: &'static str,
    family: &'static str,
}

impl ByTransportAndFamily {
    /// Of a label such as `udp/ipv4`.
    fn new(kind: &'static str) -> Self {
        let (transport, family) = kind.split_once('/').unwrap_or((kind, ""));
        Self { transport, family }
    }
}

struct Encoder<'e, 'd>(&'e mut DescriptorEncoder<'d>);

impl Encoder<'_, '_> {
    fn all(
        mut self,
        of_threads: &[Arc<Counters>],
        connections: Connections,
        not_after: Option<i64>,
        unsafe_identifiers: bool,
    ) -> fmt::Result {
        self.allocations(of_threads)?;
        self.family(
            "nocturne_turn_packets",
            "Relayed packets",
            of_threads,
            |counters| &counters.packets,
            |direction| ByDirection { direction },
        )?;
        self.family(
            "nocturne_turn_bytes",
            "Relayed bytes, without any header",
            of_threads,
            |counters| &counters.bytes,
            |direction| ByDirection { direction },
        )?;
        self.family(
            "nocturne_turn_drops",
            "Packets that went no further",
            of_threads,
            |counters| &counters.drops,
            |reason| ByReason { reason },
        )?;
        self.family(
            "nocturne_turn_auth_failures",
            "Requests that were not authentic",
            of_threads,
            |counters| &counters.auth_failures,
            |reason| ByReason { reason },
        )?;
        self.family(
            "nocturne_turn_denials",
            "Peers that were denied",
            of_threads,
            |counters| &counters.denials,
            |operation| ByOperation { operation },
        )?;
        self.family(
            "nocturne_turn_quota_hits",
            "Requests and connections that a quota refused",
            of_threads,
            |counters| &counters.quota_hits,
            |quota| ByQuota { quota },
        )?;
        self.family(
            "nocturne_turn_handshakes",
            "TLS handshakes by how they ended",
            of_threads,
            |counters| &counters.handshakes,
            |result| ByResult { result },
        )?;
        self.family(
            "nocturne_turn_bind_failures",
            "Sockets for relayed addresses that could not be bound, not counting ports that something else has",
            of_threads,
            |counters| &counters.bind_failures,
            |reason| ByReason { reason },
        )?;
        self.family(
            "nocturne_turn_handovers",
            "Connections for the HTTPS backend by what came of them",
            of_threads,
            |counters| &counters.handovers,
            |result| ByResult { result },
        )?;
        #[cfg(feature = "dtls")]
        self.family(
            "nocturne_turn_dtls_handshakes",
            "DTLS handshakes by how they ended",
            of_threads,
            |counters| &counters.dtls_handshakes,
            |result| ByResult { result },
        )?;
        let bindings = sum(of_threads, |counters| Single::get(&counters.bindings));
        let bindings = ConstCounter::new(bindings);
        let metric = self.0.encode_descriptor(
            "nocturne_turn_bindings",
            "Binding requests that were answered",
            None,
            bindings.metric_type(),
        )?;
        bindings.encode(metric)?;
        self.connections(connections)?;
        if let Some(not_after) = not_after {
            self.gauge(
                "nocturne_turn_certificate_expiry",
                "When the certificate expires, in seconds since 1970",
                not_after,
            )?;
        }
        self.gauge(
            "nocturne_turn_unsafe_identifiers",
            "1 while log.unsafe_identifiers is on",
            i64::from(unsafe_identifiers),
        )
    }

    fn allocations(&mut self, of_threads: &[Arc<Counters>]) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(
            "nocturne_turn_allocations",
            "Allocations that there are",
            None,
            MetricType::Gauge,
        )?;
        let made = |kind| {
            sum(of_threads, |counters| {
                Family::get(&counters.allocations_made, kind)
            })
        };
        for kind in Label::ALL {
            // First what ended: each of these was made before.
            let ended = sum(of_threads, |counters| counters.allocations_ended.get(*kind));
            let there_are = made(*kind).saturating_sub(ended);
            let labels = ByTransportAndFamily::new(kind.label());
            ConstGauge::new(there_are.cast_signed()).encode(metric.encode_family(&labels)?)?;
        }
        self.family(
            "nocturne_turn_allocations_made",
            "Allocations that were made",
            of_threads,
            |counters| &counters.allocations_made,
            ByTransportAndFamily::new,
        )
    }

    fn connections(&mut self, connections: Connections) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(
            "nocturne_turn_connections",
            "Connections that are open",
            None,
            MetricType::Gauge,
        )?;
        let all = [
            ("tcp", connections.tcp),
            ("tls", connections.tls),
            ("https", connections.https),
            #[cfg(feature = "dtls")]
            ("dtls", connections.dtls),
        ];
        for (transport, number) in all {
            let labels = ByTransport { transport };
            ConstGauge::new(number.cast_signed()).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: i64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        let metric = self
            .0
            .encode_descriptor(name, help, None, gauge.metric_type())?;
        gauge.encode(metric)
    }

    /// A counter for each value of a label, also for those that nothing was counted for.
    fn family<L: Label, S: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        of_threads: &[Arc<Counters>],
        family: impl Fn(&Counters) -> &Family<L>,
        labels: impl Fn(&'static str) -> S,
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for label in L::ALL {
            let count = sum(of_threads, |counters| family(counters).get(*label));
            let labels = labels(label.label());
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn sum(of_threads: &[Arc<Counters>], count: impl Fn(&Counters) -> u64) -> u64 {
    of_threads
        .iter()
        .fold(0, |sum, counters| sum.wrapping_add(count(counters)))
}

#[cfg(test)]
mod tests {
    use turn_relay_proto::counters::{
        AllocationKind, AuthFailure, Denial, Direction, DropReason, Handover, Handshake, QuotaHit,
    };

    use super::*;

    #[derive(Debug)]
    struct Fixed(Vec<Arc<Counters>>);

    impl Collector for Fixed {
        fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
            let connections = Connections {
                tcp: 3,
                tls: 4,
                https: 5,
                #[cfg(feature = "dtls")]
                dtls: 5,
            };
            Encoder(&mut encoder).all(&self.0, connections, Some(1_800_000_000), true)
        }
    }

    fn encoded(of_threads: Vec<Arc<Counters>>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Fixed(of_threads)));
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("a string takes it");
        text
    }

    #[test]
    fn the_counts_of_all_threads_are_added_up() {
        let (one, other) = (Arc::new(Counters::default()), Arc::new(Counters::default()));
        one.packets.add(Direction::ClientToPeer, 2);
        other.packets.add(Direction::ClientToPeer, 3);
        other.bytes.add(Direction::ClientToClient, 1200);
        one.drops.add(DropReason::NoPermission, 5);
        one.auth_failures.add(AuthFailure::Expired, 6);
        one.denials.add(Denial::ChannelBind, 7);
        one.quota_hits.add(QuotaHit::UserAllocations, 8);
        one.handshakes.add(Handshake::TimedOut, 9);
        other.handovers.add(Handover::Failed, 4);
        one.dtls_handshakes.add(Handshake::Failed, 11);
        one.bindings.add(10);
        other.bindings.add(1);
        one.allocations_made.add(AllocationKind::TlsDual, 5);
        one.allocations_ended.add(AllocationKind::TlsDual, 3);
        let text = encoded(vec![one, other]);
        for line in [
            "nocturne_turn_packets_total{direction=\"client_to_peer\"} 5",
            "nocturne_turn_packets_total{direction=\"peer_to_client\"} 0",
            "nocturne_turn_bytes_total{direction=\"client_to_client\"} 1200",
            "nocturne_turn_drops_total{reason=\"no_permission\"} 5",
            "nocturne_turn_auth_failures_total{reason=\"expired\"} 6",
            "nocturne_turn_denials_total{operation=\"channel_bind\"} 7",
            "nocturne_turn_quota_hits_total{quota=\"user_allocations\"} 8",
            "nocturne_turn_handshakes_total{result=\"timed_out\"} 9",
            "nocturne_turn_handovers_total{result=\"failed\"} 4",
            "nocturne_turn_bindings_total 11",
            "nocturne_turn_allocations{transport=\"tls\",family=\"dual\"} 2",
            "nocturne_turn_allocations_made_total{transport=\"tls\",family=\"dual\"} 5",
            "nocturne_turn_connections{transport=\"tcp\"} 3",
            "nocturne_turn_connections{transport=\"tls\"} 4",
            "nocturne_turn_connections{transport=\"https\"} 5",
            #[cfg(feature = "dtls")]
            "nocturne_turn_connections{transport=\"dtls\"} 5",
            #[cfg(feature = "dtls")]
            "nocturne_turn_dtls_handshakes_total{result=\"failed\"} 11",
            "nocturne_turn_certificate_expiry 1800000000",
            "nocturne_turn_unsafe_identifiers 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
    }

    #[test]
    fn every_allocation_kind_has_a_transport_and_a_family() {
        for kind in AllocationKind::ALL {
            let labels = ByTransportAndFamily::new(kind.label());
            assert!(["udp", "tcp", "tls", "dtls"].contains(&labels.transport));
            assert!(["ipv4", "ipv6", "dual"].contains(&labels.family));
        }
    }
}
