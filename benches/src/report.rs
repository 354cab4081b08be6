//! The results of `benches/run` and what is computed from them: medians over rounds, and whether
//! the two goals hold. How they look on the page is in `page.rs`.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde::Deserialize;

use crate::disk::FsyncReport;
use crate::load::LoadReport;
use crate::page;

/// Goal: durable throughput at this many calls in flight …
pub(crate) const GOAL_IN_FLIGHT: u16 = 64;
/// … is at least this share of the direct throughput.
pub(crate) const GOAL_SHARE: f64 = 0.25;
/// Goal: with one call in flight, the median grows by at most this many fsyncs …
pub(crate) const GOAL_FSYNCS: f64 = 2.0;
/// … and this many microseconds.
pub(crate) const GOAL_ADDED_US: f64 = 500.0;

#[derive(Args)]
pub(crate) struct ReportArgs {
    /// Results of `benches/run`
    #[arg(long = "in", value_name = "RESULTS")]
    input: PathBuf,
    /// Page to write
    #[arg(long = "out", value_name = "PAGE")]
    output: PathBuf,
}

/// Everything a run of the matrix left.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Results {
    pub(crate) taken_at: String,
    /// Facts about the host, in the order in which they are shown.
    pub(crate) machine: Vec<(String, String)>,
    pub(crate) cores: u16,
    pub(crate) settings: Settings,
    /// The disk of the ledger, measured before each round.
    pub(crate) fsync: Vec<FsyncReport>,
    pub(crate) runs: Vec<Run>,
    pub(crate) profile: Option<Profile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
    pub(crate) warmup_seconds: u32,
    pub(crate) service_time_ms: u64,
}

/// One run of the generator, in one of the rounds: closed loop, or open if the load has a rate.
#[derive(Debug, Deserialize)]
pub(crate) struct Run {
    pub(crate) leg: Leg,
    pub(crate) load: LoadReport,
}

/// What stands between the generator and the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Leg {
    Direct,
    Proxy,
    Memory,
    Durable,
}

impl Leg {
    pub(crate) const ALL: [Self; 4] = [Self::Direct, Self::Proxy, Self::Memory, Self::Durable];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Proxy => "a proxy that looks at nothing",
            Self::Memory => "gateway, ledger in memory",
            Self::Durable => "gateway with durable ledger",
        }
    }
}

/// What `perf` saw of the gateway with the durable ledger under load.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    pub(crate) load: LoadReport,
    /// `fdatasync` and `fsync` calls of the gateway a second; none if they could not be counted.
    pub(crate) syncs_per_second: Option<f64>,
    /// `share module`, by falling share of the samples.
    pub(crate) modules: Vec<String>,
    /// `share module symbol`, by falling share of the samples.
    pub(crate) symbols: Vec<String>,
}

pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let read = |path: &PathBuf| -> anyhow::Result<Results> {
        Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
    };
    let input = args.input.display();
    let results = read(&args.input).with_context(|| format!("cannot read `{input}`"))?;
    let output = args.output.display();
    fs::write(&args.output, page::render(&results)?)
        .with_context(|| format!("cannot write `{output}`"))
}

impl Results {
    /// Returns the runs of one cell of the matrix, one for each round.
    pub(crate) fn cell(&self, leg: Leg, in_flight: u16, rate: Option<u32>) -> Cell<'_> {
        let wanted =
            |run: &&Run| run.leg == leg && run.load.in_flight == in_flight && run.load.rate == rate;
        Cell(self.runs.iter().filter(wanted).map(|run| &run.load).collect())
    }

    /// Returns the median fsync of the rounds' medians, in microseconds.
    pub(crate) fn fsync_us(&self) -> Option<f64> {
        median(self.fsync.iter().map(|f| f.latency_us.p50 as f64))
    }

    /// Returns the median share of the host's cores that was spent outside the bench, in percent.
    pub(crate) fn noise_percent(&self) -> Option<f64> {
        median(self.runs.iter().map(|run| {
            let load = &run.load;
            let bench: f64 = load.processes.iter().map(|p| p.cpu_seconds).sum();
            100.0 * (load.host.busy - bench).max(0.0) / (load.seconds * f64::from(self.cores))
        }))
    }

    /// Judges the throughput goal; `None` if a leg was not measured.
    pub(crate) fn share_goal(&self) -> Option<Goal> {
        let direct = self.cell(Leg::Direct, GOAL_IN_FLIGHT, None);
        let durable = self.cell(Leg::Durable, GOAL_IN_FLIGHT, None);
        let reached = durable.calls_per_second()? / direct.calls_per_second()?;
        let valid = direct.errors() + durable.errors() == 0;
        Some(Goal { reached, bound: GOAL_SHARE, holds: valid && reached >= GOAL_SHARE })
    }

    /// Judges the latency goal, in microseconds; `None` if a leg or the disk was not measured.
    pub(crate) fn added_goal(&self) -> Option<Goal> {
        let direct = self.cell(Leg::Direct, 1, None);
        let durable = self.cell(Leg::Durable, 1, None);
        let reached = durable.p50()? - direct.p50()?;
        let bound = GOAL_FSYNCS * self.fsync_us()? + GOAL_ADDED_US;
        let valid = direct.errors() + durable.errors() == 0;
        Some(Goal { reached, bound, holds: valid && reached <= bound })
    }
}

/// A goal and what was reached. It does not hold if a call failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Goal {
    pub(crate) reached: f64,
    pub(crate) bound: f64,
    pub(crate) holds: bool,
}

/// The rounds of one cell. Every figure is the median over them.
#[derive(Debug)]
pub(crate) struct Cell<'a>(Vec<&'a LoadReport>);

impl Cell<'_> {
    pub(crate) fn median(&self, figure: impl Fn(&LoadReport) -> f64) -> Option<f64> {
        median(self.0.iter().map(|load| figure(load)))
    }

    pub(crate) fn p50(&self) -> Option<f64> {
        self.median(|load| load.latency_us.p50 as f64)
    }

    pub(crate) fn calls_per_second(&self) -> Option<f64> {
        self.median(|load| load.calls_per_second)
    }

    /// Returns the CPU time of a process, in microseconds a call.
    pub(crate) fn cpu_us(&self, process: &str) -> Option<f64> {
        median(self.0.iter().filter_map(|load| load.cpu_us(process)))
    }

    /// Returns the slowest and the fastest round, in calls a second.
    pub(crate) fn range(&self) -> Option<(f64, f64)> {
        let rates = || self.0.iter().map(|load| load.calls_per_second);
        Some((rates().min_by(f64::total_cmp)?, rates().max_by(f64::total_cmp)?))
    }

    pub(crate) fn errors(&self) -> u64 {
        self.0.iter().map(|load| load.errors).sum()
    }
}

impl LoadReport {
    /// Returns the CPU time of a process, in microseconds a call.
    pub(crate) fn cpu_us(&self, process: &str) -> Option<f64> {
        let process = self.processes.iter().find(|p| p.name == process)?;
        Some(process.cpu_seconds_per_1000_calls * 1000.0)
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn load(in_flight: u16, rate: Option<u32>, p50: u64, calls_per_second: f64) -> Value {
        let latency = json!({"p50": p50, "p90": p50, "p99": 2 * p50, "p999": p50, "max": p50});
        json!({
            "era": "modern", "in_flight": in_flight, "rate": rate, "seconds": 1.0, "calls": 1000,
            "calls_per_second": calls_per_second, "errors": 0, "error_kinds": {},
            "first_error": null, "latency_us": latency,
            "processes": [{"name": "gateway", "cpu_seconds": 0.1, "rss_kib": 1,
                           "cpu_seconds_per_1000_calls": 0.1}],
            "host": {"busy": 1.5, "idle": 0.5, "iowait": 0.0, "steal": 0.0},
        })
    }

    /// Three rounds: direct 100 µs and 40,000/s; the gateway `p50` µs and `rate` a second.
    pub(crate) fn results(p50: u64, rate: f64) -> Results {
        let mut runs = Vec::new();
        for round in 1..=3 {
            for (leg, p50, rate) in [
                ("direct", 100, 40_000.0),
                ("proxy", 150, 25_000.0),
                ("memory", 200, 20_000.0),
                ("durable", p50, rate),
            ] {
                for in_flight in [1, 64] {
                    let load = load(in_flight, None, p50, rate);
                    runs.push(json!({"leg": leg, "round": round, "load": load}));
                }
                let open = load(64, Some(1000), p50, 1000.0);
                runs.push(json!({"leg": leg, "round": round, "load": open}));
            }
        }
        let fsync = json!({"n": 9, "per_second": 1.0,
            "latency_us": {"p50": 300, "p90": 300, "p99": 600, "p999": 600, "max": 600}});
        let profile = json!({"load": load(64, None, p50, rate), "syncs_per_second": 500.0,
            "modules": ["60.00% [kernel]", "40.00% countersign"], "symbols": ["1.00% a b"]});
        serde_json::from_value(json!({
            "taken_at": "2026-11-01T00:00:00Z", "machine": [["Kernel", "6.1"]], "cores": 2,
            "settings": {"rounds": 3, "seconds": 1, "warmup_seconds": 0, "service_time_ms": 0},
            "fsync": [fsync], "runs": runs, "profile": profile,
        }))
        .unwrap()
    }

    #[test]
    fn goals_hold_at_their_bound_and_not_beyond_it() {
        for (p50, rate, added, share) in
            [(1200, 10_000.0, true, true), (1201, 9_999.0, false, false)]
        {
            let results = results(p50, rate);
            assert_eq!(results.added_goal().unwrap().holds, added);
            assert_eq!(results.share_goal().unwrap().holds, share);
        }
    }

    #[test]
    fn goals_do_not_hold_when_a_call_failed() {
        let mut results = results(500, 20_000.0);
        assert!(results.share_goal().unwrap().holds);
        for run in results.runs.iter_mut().rev().take(9) {
            run.load.errors = 1; // the last round alone
        }
        assert!(!results.share_goal().unwrap().holds);
        assert!(!results.added_goal().unwrap().holds);
    }

    #[test]
    fn goals_are_open_without_a_gateway() {
        let mut results = results(500, 20_000.0);
        results.runs.retain(|run| run.leg == Leg::Direct);
        assert_eq!((results.share_goal(), results.added_goal()), (None, None));
    }

    #[test]
    fn medians_are_those_of_the_middle() {
        for (values, expected) in
            [(vec![], None), (vec![3.0, 1.0, 2.0], Some(2.0)), (vec![4.0, 1.0], Some(2.5))]
        {
            assert_eq!(median(values.into_iter()), expected);
        }
    }
}
