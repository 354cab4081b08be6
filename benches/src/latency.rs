//! Latencies in microseconds: recording and the five figures that are reported.

use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest latency told apart; a longer one counts as this.
const LATENCY_US_MAX: u64 = 600_000_000;
/// Three significant figures: a reported value is within 0.1 % of the measured one.
const SIGNIFICANT_FIGURES: u8 = 3;

/// A histogram of latencies.
#[derive(Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Histogram::new_with_bounds(1, LATENCY_US_MAX, SIGNIFICANT_FIGURES)
            .map(Self)
            .context("cannot make a histogram")
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(LATENCY_US_MAX));
    }

    pub(crate) fn summary(&self) -> LatencySummary {
        LatencySummary {
            p50: self.0.value_at_quantile(0.5),
            p90: self.0.value_at_quantile(0.9),
            p99: self.0.value_at_quantile(0.99),
            p999: self.0.value_at_quantile(0.999),
            max: self.0.max(),
        }
    }
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LatencySummary {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_recorded_values() {
        let mut latencies = Latencies::new().unwrap();
        for us in 1..=1000 {
            latencies.record(Duration::from_micros(us));
        }
        let expected = LatencySummary { p50: 500, p90: 900, p99: 990, p999: 999, max: 1000 };
        assert_eq!(latencies.summary(), expected);
    }
}
