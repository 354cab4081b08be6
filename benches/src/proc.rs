//! CPU time and resident memory of processes and of the host, from `/proc` (proc(5)).

use std::fs;
use std::str::FromStr;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// Ticks per second of the times in `/proc`: `USER_HZ`, 100 on every architecture built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process to watch, written `PID` or `NAME=PID`.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    name: String,
    pid: u32,
}

impl Watched {
    /// Names the calling process.
    pub(crate) fn this_process(name: &str) -> Self {
        Self { name: name.to_owned(), pid: std::process::id() }
    }
}

impl FromStr for Watched {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, pid) = text.split_once('=').unwrap_or((text, text));
        match pid.parse() {
            Ok(pid) => Ok(Self { name: name.to_owned(), pid }),
            Err(_) => Err(format!("`{text}` is neither PID nor NAME=PID")),
        }
    }
}

/// What a process used while it was watched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProcessUse {
    pub(crate) name: String,
    /// User and system time together.
    pub(crate) cpu_seconds: f64,
    /// The same, for a thousand calls.
    pub(crate) cpu_seconds_per_1000_calls: f64,
    /// Resident memory at the end.
    pub(crate) rss_kib: u64,
}

/// What the host's cores did meanwhile, in core seconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct HostUse {
    pub(crate) busy: f64,
    pub(crate) idle: f64,
    pub(crate) iowait: f64,
    pub(crate) steal: f64,
}

/// The counters of all watched processes and of the host at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    processes: Vec<f64>,
    host: HostUse,
}

impl Snapshot {
    pub(crate) fn take(watched: &[Watched]) -> anyhow::Result<Self> {
        let processes = watched.iter().map(|w| cpu_seconds(w.pid)).collect::<Result<_, _>>()?;
        Ok(Self { processes, host: host_seconds(&fs::read_to_string("/proc/stat")?)? })
    }

    /// Returns what was used between this moment and `later`, over `calls` calls.
    pub(crate) fn until(
        &self,
        later: &Self,
        watched: &[Watched],
        calls: u64,
    ) -> anyhow::Result<(Vec<ProcessUse>, HostUse)> {
        let mut uses = Vec::new();
        for ((process, before), after) in watched.iter().zip(&self.processes).zip(&later.processes)
        {
            let cpu_seconds = after - before;
            uses.push(ProcessUse {
                name: process.name.clone(),
                cpu_seconds,
                cpu_seconds_per_1000_calls: cpu_seconds * 1000.0 / calls.max(1) as f64,
                rss_kib: rss_kib(process.pid)?,
            });
        }
        let host = HostUse {
            busy: later.host.busy - self.host.busy,
            idle: later.host.idle - self.host.idle,
            iowait: later.host.iowait - self.host.iowait,
            steal: later.host.steal - self.host.steal,
        };
        Ok((uses, host))
    }
}

fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("cannot watch process {pid}"))?;
    process_seconds(&stat)
}

/// Reads fields 14 and 15 (`utime`, `stime`) of `/proc/PID/stat`.
fn process_seconds(stat: &str) -> anyhow::Result<f64> {
    // The command's name may hold spaces and parentheses; the fields after it do not.
    let (_, rest) = stat.rsplit_once(')').context("no command in the process's stat")?;
    let times: Vec<f64> =
        rest.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    if times.len() != 2 {
        bail!("no times in the process's stat");
    }
    Ok(times.iter().sum::<f64>() / TICKS_PER_SECOND)
}

/// Reads the first line of `/proc/stat`; guest time is part of user time already.
fn host_seconds(stat: &str) -> anyhow::Result<HostUse> {
    let line = stat.lines().next().and_then(|l| l.strip_prefix("cpu ")).context("no cpu line")?;
    let ticks: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = ticks.as_slice() else {
        bail!("too few times in /proc/stat");
    };
    Ok(HostUse {
        busy: (user + nice + system + irq + softirq) / TICKS_PER_SECOND,
        idle: idle / TICKS_PER_SECOND,
        iowait: iowait / TICKS_PER_SECOND,
        steal: steal / TICKS_PER_SECOND,
    })
}

fn rss_kib(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} ended while it was watched"))?;
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = value.and_then(|v| v.split_whitespace().next()).context("no VmRSS")?;
    Ok(kib.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_an_awkward_command_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 10 0 0 0 150 50 0 0 20 0 3 0 99 1 1";
        assert_eq!(process_seconds(stat).unwrap(), 2.0);
    }

    #[test]
    fn host_time_is_split_into_busy_idle_iowait_and_steal() {
        let host = host_seconds("cpu  100 10 50 400 30 5 5 20 0 0\ncpu0 1 1 1\n").unwrap();
        assert_eq!((host.busy, host.idle, host.iowait, host.steal), (1.7, 4.0, 0.3, 0.2));
    }
}
