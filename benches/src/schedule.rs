//! When calls begin: as soon as a connection is free (closed loop), or at fixed times (open loop).
//!
//! In the open loop a late start is the server's fault, so a latency runs from the moment at which
//! the call *should* have begun: a server that stalls is charged for all calls it kept waiting, not
//! only for those that were under way (coordinated omission).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::Semaphore;

/// Gives each worker the start of its next call.
#[derive(Clone, Debug)]
pub(crate) enum Schedule {
    Closed { end: Instant },
    Open(Arc<Arrivals>),
}

impl Schedule {
    /// Waits for the next start; `None` when there are no more.
    pub(crate) async fn next_start(&self) -> Option<Instant> {
        match self {
            Self::Closed { end } => {
                let now = Instant::now();
                (now < *end).then_some(now)
            }
            Self::Open(arrivals) => arrivals.next().await,
        }
    }
}

/// Constant arrivals, `rate` a second.
#[derive(Debug)]
pub(crate) struct Arrivals {
    begin: Instant,
    rate: u32,
    total: u64,
    taken: AtomicU64,
    due: Semaphore,
}

impl Arrivals {
    /// Begins to release `rate` calls a second from `begin` for `duration` to `workers` workers.
    ///
    /// A thread of its own keeps the time: the runtime's timer ticks in milliseconds, and under
    /// load it is as late as the work it is to measure.
    pub(crate) fn start(
        begin: Instant,
        duration: Duration,
        rate: u32,
        workers: usize,
    ) -> anyhow::Result<Arc<Self>> {
        let total = duration.as_nanos() * u128::from(rate) / 1_000_000_000;
        let total = u64::try_from(total).context("too many calls")?;
        let due = Semaphore::new(0);
        let arrivals = Arc::new(Self { begin, rate, total, taken: AtomicU64::new(0), due });
        let pacer = Arc::clone(&arrivals);
        thread::Builder::new().name("pacer".to_owned()).spawn(move || pacer.pace(workers))?;
        Ok(arrivals)
    }

    /// Returns the moment at which arrival `k` should begin.
    fn at(&self, k: u64) -> Instant {
        let nanos = u128::from(k) * 1_000_000_000 / u128::from(self.rate.max(1));
        self.begin + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn pace(&self, workers: usize) {
        for k in 0..self.total {
            let wait = self.at(k).saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                thread::sleep(wait);
            }
            self.due.add_permits(1);
        }
        // One permit more for each worker, to learn that this was all.
        self.due.add_permits(workers);
    }

    async fn next(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let k = self.taken.fetch_add(1, Ordering::Relaxed);
        (k < self.total).then(|| self.at(k))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn arrivals_keep_their_times_when_nobody_takes_them() {
        let begin = Instant::now();
        let arrivals = Arrivals::start(begin, Duration::from_millis(100), 100, 1).unwrap();
        let mut starts = Vec::new();
        while let Some(start) = arrivals.next().await {
            if starts.is_empty() {
                thread::sleep(Duration::from_millis(60)); // the only worker is stuck
            }
            starts.push(start.duration_since(begin).as_millis());
        }
        assert_eq!(starts, [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]);
    }
}
