//! The page `docs/performance.md`.

use std::collections::BTreeSet;
use std::fmt::{self, Write};

use crate::latency::LatencySummary;
use crate::load::LoadReport;
use crate::report::{
    Cell, GOAL_ADDED_US, GOAL_FSYNCS, GOAL_IN_FLIGHT, GOAL_SHARE, Goal, Leg, Profile, Results,
};

const NOT_MEASURED: &str = "not measured";

/// Renders the page, in Markdown.
pub(crate) fn render(results: &Results) -> Result<String, fmt::Error> {
    let mut page = String::new();
    introduction(&mut page, results)?;
    goals(&mut page, results)?;
    closed_loop(&mut page, results)?;
    open_loop(&mut page, results)?;
    where_time_goes(&mut page, results)?;
    machine(&mut page, results)?;
    page.push_str(HOW_TO_RUN);
    Ok(page)
}

fn introduction(page: &mut String, results: &Results) -> fmt::Result {
    let s = &results.settings;
    writeln!(
        page,
        "# Performance\n\n\
         Made by `benches/run`; do not edit. Taken {}.\n\n\
         What a client sees when it calls a tool over MCP: straight to the upstream (*direct*), \
         through a reverse proxy that looks at nothing (what a second hop costs on this host), \
         through the gateway with its ledger on a memory file system (everything is recorded, nothing waits for a disk), \
         and through the gateway as it ships (*durable ledger*): the decision is on disk before \
         the call goes on, the outcome before the answer goes back.\n\n\
         Generator, gateway and upstream share the {} cores of one host. Each call carries 1 kB of \
         arguments and gets them back; every answer is checked. Each figure is the median of {} \
         rounds of {} s after {} s of warm-up; the legs of a round take turns. The upstream takes \
         {} ms for a call. Calls are those of the 2026-07-28 revision on kept-alive connections, \
         one call at a time on each.\n",
        results.taken_at, results.cores, s.rounds, s.seconds, s.warmup_seconds, s.service_time_ms
    )
}

fn goals(page: &mut String, results: &Results) -> fmt::Result {
    writeln!(page, "## Goals\n\n| goal | bound | reached | verdict |\n|---|---|---|---|")?;
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let name = format!(
        "with {GOAL_IN_FLIGHT} in flight, durable throughput as a share of the direct one, at least"
    );
    goal(page, &name, results.share_goal(), percent, &percent(GOAL_SHARE))?;
    let name = format!(
        "with 1 in flight, median added by the durable gateway, at most {GOAL_FSYNCS} fsyncs of \
         this disk + {} ms",
        GOAL_ADDED_US / 1000.0
    );
    let bound = results.fsync_us().map(|us| GOAL_FSYNCS * us + GOAL_ADDED_US);
    goal(page, &name, results.added_goal(), micros, &shown(bound, micros))?;
    writeln!(page)
}

fn goal(
    page: &mut String,
    name: &str,
    goal: Option<Goal>,
    show: impl Fn(f64) -> String,
    bound: &str,
) -> fmt::Result {
    let (reached, verdict) = match goal {
        Some(goal) if goal.holds => (show(goal.reached), "**holds**"),
        Some(goal) => (show(goal.reached), "**does not hold**"),
        None => ("–".to_owned(), NOT_MEASURED),
    };
    writeln!(page, "| {name} | {bound} | {reached} | {verdict} |")
}

fn closed_loop(page: &mut String, results: &Results) -> fmt::Result {
    writeln!(
        page,
        "## Closed loop\n\n\
         As many calls as fit, with a fixed number in flight. CPU time is that of each process \
         for one call.\n\n\
         | in flight | leg | p50 | p99 | calls/s | slowest to fastest round | of direct \
         | CPU gateway | CPU upstream | CPU generator | errors |\n\
         |---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    )?;
    let in_flight: BTreeSet<u16> =
        results.runs.iter().filter(|r| r.load.rate.is_none()).map(|r| r.load.in_flight).collect();
    for in_flight in in_flight {
        let direct = results.cell(Leg::Direct, in_flight, None).calls_per_second();
        for leg in Leg::ALL {
            let cell = results.cell(leg, in_flight, None);
            write!(page, "| {in_flight} | {} |", leg.title())?;
            closed_row(page, &cell, direct)?;
        }
    }
    writeln!(page)
}

fn closed_row(page: &mut String, cell: &Cell<'_>, direct: Option<f64>) -> fmt::Result {
    let Some((slowest, fastest)) = cell.range() else {
        return writeln!(page, " {NOT_MEASURED} | | | | | | | | |");
    };
    let calls = cell.calls_per_second();
    let share = calls.zip(direct).map(|(calls, direct)| 100.0 * calls / direct);
    writeln!(
        page,
        " {} | {} | {} | {}–{} | {} | {} | {} | {} | {} |",
        shown(cell.p50(), micros),
        shown(cell.median(|load| load.latency_us.p99 as f64), micros),
        shown(calls, grouped),
        grouped(slowest),
        grouped(fastest),
        shown(share, |share| format!("{share:.1} %")),
        shown(cell.cpu_us("gateway"), micros),
        shown(cell.cpu_us("upstream"), micros),
        shown(cell.cpu_us("generator"), micros),
        cell.errors(),
    )
}

fn open_loop(page: &mut String, results: &Results) -> fmt::Result {
    let loads: BTreeSet<(u32, u16)> = results
        .runs
        .iter()
        .filter_map(|r| r.load.rate.map(|rate| (rate, r.load.in_flight)))
        .collect();
    if loads.is_empty() {
        return Ok(());
    }
    writeln!(
        page,
        "## Open loop\n\n\
         Calls at constant intervals, whether or not earlier ones were answered. A latency runs \
         from the moment at which the call should have begun, so that a stall counts for every \
         call it kept waiting (no coordinated omission).\n\n\
         | intended calls/s | leg | calls/s | p50 | p90 | p99 | p99.9 | max | errors |\n\
         |---:|---|---:|---:|---:|---:|---:|---:|---:|"
    )?;
    for (rate, in_flight) in loads {
        for leg in Leg::ALL {
            let cell = results.cell(leg, in_flight, Some(rate));
            let errors = cell.range().map(|_| cell.errors().to_string());
            let latency = |figure: fn(&LatencySummary) -> u64| {
                shown(cell.median(|load| figure(&load.latency_us) as f64), micros)
            };
            writeln!(
                page,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                grouped(f64::from(rate)),
                leg.title(),
                shown(cell.calls_per_second(), grouped),
                latency(|l| l.p50),
                latency(|l| l.p90),
                latency(|l| l.p99),
                latency(|l| l.p999),
                latency(|l| l.max),
                errors.as_deref().unwrap_or("–"),
            )?;
        }
    }
    writeln!(page)
}

fn where_time_goes(page: &mut String, results: &Results) -> fmt::Result {
    writeln!(page, "## Where the time goes\n")?;
    one_in_flight(page, results)?;
    match &results.profile {
        Some(profile) => under_load(page, results, profile),
        None => writeln!(page, "Under load: {NOT_MEASURED}.\n"),
    }
}

/// Splits the median of a single call into its steps.
fn one_in_flight(page: &mut String, results: &Results) -> fmt::Result {
    let [direct, proxy, memory, durable] = Leg::ALL.map(|leg| results.cell(leg, 1, None).p50());
    let fsyncs = results.fsync_us().map(|us| GOAL_FSYNCS * us);
    let between = |from: Option<f64>, to: Option<f64>| from.zip(to).map(|(from, to)| to - from);
    let ledger = between(memory, durable);
    writeln!(page, "One call at a time, medians:\n\n| step | time |\n|---|---:|")?;
    for (step, time) in [
        ("the direct call", direct),
        ("added by a proxy that looks at nothing", between(direct, proxy)),
        ("added by the gateway with its ledger in memory", between(proxy, memory)),
        ("added by the durable ledger", ledger),
        ("… of which two fsyncs as measured beside it", fsyncs.filter(|_| ledger.is_some())),
        ("… of which everything else", between(fsyncs, ledger)),
    ] {
        writeln!(page, "| {step} | {} |", shown(time, micros))?;
    }
    writeln!(page)
}

/// Splits the core time that passes for one call under load, and shows the gateway's profile.
fn under_load(page: &mut String, results: &Results, profile: &Profile) -> fmt::Result {
    let load = &profile.load;
    let calls = load.calls.max(1) as f64;
    let per_call = |core_seconds: f64| core_seconds * 1_000_000.0 / calls;
    let processes: f64 = load.processes.iter().map(|p| p.cpu_seconds).sum();
    let host = &load.host;
    writeln!(
        page,
        "With {} in flight and the durable ledger, {} calls/s: the core time of the host that \
         passed for one call, all {} cores together.\n\n| spent on | time |\n|---|---:|",
        load.in_flight,
        grouped(load.calls_per_second),
        results.cores
    )?;
    for process in &load.processes {
        writeln!(page, "| {} | {} |", process.name, micros(per_call(process.cpu_seconds)))?;
    }
    for (what, core_seconds) in [
        ("other processes, and interrupts", (host.busy - processes).max(0.0)),
        ("idle while the disk was busy", host.iowait),
        ("idle otherwise", host.idle),
        ("taken by the hypervisor", host.steal),
    ] {
        writeln!(page, "| {what} | {} |", micros(per_call(core_seconds)))?;
    }
    writeln!(page)?;
    if let Some(syncs) = profile.syncs_per_second {
        writeln!(page, "{}", commits(results, load, syncs))?;
    }
    if profile.symbols.is_empty() {
        return writeln!(page, "By function: {NOT_MEASURED}.\n");
    }
    writeln!(page, "CPU samples of the gateway (`perf record`), by module and by function:\n")?;
    block(page, &profile.modules)?;
    block(page, &profile.symbols)
}

/// Says how many calls share an fsync, and what the disk alone would allow.
fn commits(results: &Results, load: &LoadReport, syncs_per_second: f64) -> String {
    if syncs_per_second == 0.0 {
        return "The gateway made no fsync meanwhile.\n".to_owned();
    }
    let mut text = format!(
        "The gateway made {} fsyncs a second: {:.1} calls for each, and a call waits for two \
         commits.\n",
        grouped(syncs_per_second),
        load.calls_per_second / syncs_per_second
    );
    if let Some(us) = results.fsync_us() {
        let most = f64::from(load.in_flight) * 1_000_000.0 / (GOAL_FSYNCS * us);
        text.push_str(&format!(
            "Were its fsyncs all a call cost, {} in flight could make {} calls/s on this disk.\n",
            load.in_flight,
            grouped(most)
        ));
    }
    text
}

fn block(page: &mut String, lines: &[String]) -> fmt::Result {
    writeln!(page, "```text\n{}\n```\n", lines.join("\n"))
}

fn machine(page: &mut String, results: &Results) -> fmt::Result {
    writeln!(page, "## Machine\n\n| | |\n|---|---|")?;
    for (name, value) in &results.machine {
        writeln!(page, "| {name} | {value} |")?;
    }
    let per_second: Vec<_> = results.fsync.iter().map(|f| grouped(f.per_second)).collect();
    let p99 = results.fsync.iter().map(|f| f.latency_us.p99).max();
    let noise = shown(results.noise_percent(), |percent| format!("{percent:.0} %"));
    writeln!(page, "| Cores' time spent on other processes and interrupts, median | {noise} |")?;
    writeln!(
        page,
        "| fsync of the ledger's disk (4 KiB append, `fdatasync`) | median {}, highest p99 of a \
         round {}; a second, by round: {} |\n",
        shown(results.fsync_us(), micros),
        shown(p99.map(|us| us as f64), micros),
        per_second.join(", ")
    )
}

const HOW_TO_RUN: &str = "\
## How to run

```sh
benches/run            # the whole matrix; writes benches/results.json and this page
benches/run --quick    # one short round, to see that it works
```

It builds the release binaries, starts the upstream and two gateways on 127.0.0.1 in a temporary
directory beside the build, and ends them again. `perf` is used for the profile if it is installed.
Parts can be run by hand: `mcp-bench echo`, `mcp-bench load`, `mcp-bench fsync`, `mcp-bench report`,
each with `--help`. How the generator compares with `wrk` is written in `benches/src/load.rs`.
";

fn shown(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "–".to_owned(), show)
}

/// Writes microseconds with a unit that keeps the number short.
fn micros(us: f64) -> String {
    if us.abs() < 1000.0 { format!("{us:.0} µs") } else { format!("{:.2} ms", us / 1000.0) }
}

/// Writes a whole number with thousands apart.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::results;

    #[test]
    fn the_page_says_whether_each_goal_holds() {
        let page = render(&results(1300, 12_345.6)).unwrap();
        let row = |start: &str| page.lines().find(|line| line.starts_with(start)).unwrap();
        assert!(row("| with 64 in flight").ends_with("| 25.0 % | 30.9 % | **holds** |"));
        assert!(row("| with 1 in flight").ends_with("| 1.10 ms | 1.20 ms | **does not hold** |"));
        let cell = row("| 64 | gateway with durable ledger");
        assert!(cell.contains("| 1.30 ms | 2.60 ms | 12,346 | 12,346–12,346 | 30.9 % | 100 µs |"));
    }

    #[test]
    fn the_page_says_what_was_not_measured() {
        let mut results = results(1300, 10_000.0);
        results.runs.retain(|run| run.leg == Leg::Direct);
        results.profile = None;
        let page = render(&results).unwrap();
        assert_eq!(page.matches(NOT_MEASURED).count(), 9, "{page}");
        assert!(!page.contains("hold**"), "{page}");
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (value, text) in
            [(0.0, "0"), (999.4, "999"), (1000.0, "1,000"), (1234567.0, "1,234,567")]
        {
            assert_eq!(grouped(value), text);
        }
    }
}
