//! What was asked and how it went, per operation, in counters that cost a few nanoseconds.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::router::Operation;

/// Upper bounds of the latency histogram, in microseconds; the last bucket is open.
pub const BOUNDS_US: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 17_500, 25_000, 50_000, 75_000, 100_000, 175_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000,
];

/// Counters of one operation.
#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    latency_us: AtomicU64,
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
}

/// Counters of all operations, and of connections.
pub struct Metrics {
    operations: Vec<Counters>,
    connections: AtomicU64,
    connections_refused: AtomicU64,
}

/// What [`Metrics::snapshot`] tells of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationMetrics {
    /// Amazon's name.
    pub operation: &'static str,
    /// Requests answered.
    pub requests: u64,
    /// Those answered with 4xx.
    pub refused: u64,
    /// Those answered with 5xx.
    pub failed: u64,
    /// Payload bytes taken.
    pub bytes_in: u64,
    /// Payload bytes given.
    pub bytes_out: u64,
    /// Sum of the times until the head of the answer was ready, in microseconds.
    pub latency_us: u64,
    /// Requests by that time: counts per bucket of [`BOUNDS_US`], not cumulated, then the rest.
    pub buckets: [u64; BOUNDS_US.len() + 1],
}

/// How many requests of any kind took how long, since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// Requests by time: counts per bucket of [`BOUNDS_US`], then the rest.
    pub buckets: [u64; BOUNDS_US.len() + 1],
}

impl Latencies {
    /// Requests since `before`, and their 99th percentile: within a bucket requests count as spread evenly.
    pub fn since(&self, before: &Latencies) -> (u64, Duration) {
        let counts: Vec<u64> =
            self.buckets.iter().zip(&before.buckets).map(|(now, then)| now.saturating_sub(*then)).collect();
        let all: u64 = counts.iter().sum();
        let wanted = all - all / 100;
        let mut seen = 0;
        for (at, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            if seen + count >= wanted {
                let from = at.checked_sub(1).map_or(0, |at| BOUNDS_US[at]);
                let to = BOUNDS_US.get(at).copied().unwrap_or(2 * from);
                return (all, Duration::from_micros(from + (to - from) * (wanted - seen) / count));
            }
            seen += count;
        }
        (0, Duration::ZERO)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            operations: Operation::ALL.iter().map(|_| Counters::default()).collect(),
            connections: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
        }
    }
}

impl Metrics {
    /// Counts one answered request.
    pub(crate) fn record(&self, operation: Operation, status: u16, took: Duration, bytes_in: u64, bytes_out: u64) {
        let counters = &self.operations[operation as usize];
        counters.requests.fetch_add(1, Relaxed);
        match status {
            400..500 => _ = counters.refused.fetch_add(1, Relaxed),
            500.. => _ = counters.failed.fetch_add(1, Relaxed),
            _ => {}
        }
        counters.bytes_in.fetch_add(bytes_in, Relaxed);
        counters.bytes_out.fetch_add(bytes_out, Relaxed);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        counters.latency_us.fetch_add(us, Relaxed);
        counters.buckets[BOUNDS_US.partition_point(|bound| *bound < us)].fetch_add(1, Relaxed);
    }

    pub(crate) fn connected(&self) -> u64 {
        self.connections.fetch_add(1, Relaxed) + 1
    }

    pub(crate) fn disconnected(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }

    pub(crate) fn refused_connection(&self) {
        self.connections_refused.fetch_add(1, Relaxed);
    }

    /// Connections open now.
    pub fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// Connections closed at once because too many were open.
    pub fn connections_refused(&self) -> u64 {
        self.connections_refused.load(Relaxed)
    }

    /// How long requests of any kind took.
    pub fn latencies(&self) -> Latencies {
        let of = |at: usize| self.operations.iter().map(|one| one.buckets[at].load(Relaxed)).sum();
        Latencies { buckets: std::array::from_fn(of) }
    }

    /// Every operation that was asked at least once.
    pub fn snapshot(&self) -> Vec<OperationMetrics> {
        let one = |(operation, counters): (&Operation, &Counters)| OperationMetrics {
            operation: operation.name(),
            requests: counters.requests.load(Relaxed),
            refused: counters.refused.load(Relaxed),
            failed: counters.failed.load(Relaxed),
            bytes_in: counters.bytes_in.load(Relaxed),
            bytes_out: counters.bytes_out.load(Relaxed),
            latency_us: counters.latency_us.load(Relaxed),
            buckets: std::array::from_fn(|at| counters.buckets[at].load(Relaxed)),
        };
        let all = Operation::ALL.iter().zip(&self.operations).map(one);
        all.filter(|operation| operation.requests > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_operation_outcome_and_time() {
        let metrics = Metrics::default();
        metrics.record(Operation::GetObject, 200, Duration::from_micros(100), 0, 10);
        metrics.record(Operation::GetObject, 404, Duration::from_micros(101), 0, 5);
        metrics.record(Operation::GetObject, 503, Duration::from_secs(60), 1, 0);
        let all = metrics.snapshot();
        assert_eq!(all.len(), 1);
        let got = &all[0];
        assert_eq!((got.operation, got.requests, got.refused, got.failed), ("GetObject", 3, 1, 1));
        assert_eq!((got.bytes_in, got.bytes_out), (1, 15));
        assert_eq!((got.buckets[0], got.buckets[1], got.buckets[BOUNDS_US.len()]), (1, 1, 1));
    }

    #[test]
    fn the_99th_percentile_of_a_while_is_where_one_in_a_hundred_is_slower() {
        let metrics = Metrics::default();
        metrics.record(Operation::GetObject, 200, Duration::from_secs(5), 0, 0);
        let before = metrics.latencies();
        assert_eq!(metrics.latencies().since(&before), (0, Duration::ZERO));
        for _ in 0..990 {
            metrics.record(Operation::GetObject, 200, Duration::from_micros(60), 0, 0);
        }
        for _ in 0..10 {
            metrics.record(Operation::PutObject, 200, Duration::from_millis(60), 0, 0);
        }
        assert_eq!(metrics.latencies().since(&before), (1000, Duration::from_micros(100)));
        metrics.record(Operation::PutObject, 200, Duration::from_millis(60), 0, 0);
        let (requests, p99) = metrics.latencies().since(&before);
        assert!(requests == 1001 && p99 > Duration::from_millis(50) && p99 < Duration::from_millis(75), "{p99:?}");
    }
}
