//! When the recorder of each gateway was up, down or gone: intervals that fill a period without overlap or hole.
//!
//! A gateway records `heartbeat` with `event` `start` before it serves and `stop` after, and a heartbeat
//! whenever it recorded nothing else for a minute. So it was
//!
//! - `up` from a start, or from another record that only a serving gateway writes, to its last record before
//!   a stop, a loss or a silence;
//! - `down` before its first start, and from a stop on;
//! - in a `gap` from the last record before a loss (a `gap` record) or a silence of more than
//!   [`SILENCE_MAX_MS`] until it serves again, and wherever the log does not reach.
//!
//! What commands record while no gateway runs changes nothing. Pure: the records are handed in, in the
//! log's order, and all of them: those before the period say how it began, those after it how it ended.

mod walk;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use countersign_store::limits::HEARTBEAT_MS;
use serde::Serialize;
use serde_json::Value;

use crate::Record;
use walk::Walk;

/// The longest silence of a gateway that is up: a heartbeat may be half its rhythm late.
pub const SILENCE_MAX_MS: i64 = HEARTBEAT_MS.cast_signed() / 2 * 3;

/// What a recorder did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It recorded.
    Up,
    /// It was not started, or stopped on purpose: nothing could be called through it.
    Down,
    /// Nobody knows: it ended without a word, was silent, or the log does not reach that far.
    Gap,
}

impl State {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Up, Self::Down, Self::Gap];

    /// Returns the state's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Gap => "gap",
        }
    }
}

/// A stretch of time in which a gateway's recorder was in one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The gateway's name among the writers of the log.
    pub gateway: String,
    /// What it did.
    pub state: State,
    /// The first millisecond.
    pub from_ms: i64,
    /// The millisecond after the last one.
    pub to_ms: i64,
    /// Why: `started`, `resumed`, `stopped`, `not_started`, `silence`, `log_ends`, or what the `gap` record
    /// says, as `unclean_stop`, `gateway_lost`, `connection_lost`, `database_failed`.
    pub cause: String,
    /// The record with which it begins, also if that is before the period.
    pub first_leaf: Option<u64>,
    /// The record with which it ends, also if that is after the period.
    pub last_leaf: Option<u64>,
}

impl Interval {
    /// Returns its length in milliseconds.
    #[must_use]
    pub fn ms(&self) -> i64 {
        self.to_ms.saturating_sub(self.from_ms)
    }

    /// Shows it as a JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "gateway": self.gateway, "state": self.state, "from": crate::time::utc(self.from_ms),
            "to": crate::time::utc(self.to_ms), "duration_ms": self.ms(), "cause": self.cause,
            "first_leaf": self.first_leaf, "last_leaf": self.last_leaf,
        })
    }
}

/// Returns how long each gateway was in each state, in milliseconds.
#[must_use]
pub fn durations(intervals: &[Interval]) -> BTreeMap<String, BTreeMap<State, i64>> {
    let mut all: BTreeMap<String, BTreeMap<State, i64>> = BTreeMap::new();
    for interval in intervals {
        let states = all.entry(interval.gateway.clone());
        let states = states.or_insert_with(|| State::ALL.map(|state| (state, 0)).into());
        *states.entry(interval.state).or_default() += interval.ms();
    }
    all
}

/// A record's time and position.
#[derive(Clone, Copy, Debug)]
struct Point {
    ms: i64,
    leaf: Option<u64>,
}

/// What a record says about the recorder of the gateway that wrote it.
#[derive(Clone, Debug)]
enum Sign {
    /// It begins to serve.
    Start,
    /// It stopped serving.
    Stop,
    /// Only a serving gateway writes this.
    Life,
    /// Commands write this too.
    Other,
    /// Something was lost before this; `alive` if by a gateway that went on serving.
    Loss { cause: String, alive: bool },
}

/// Records of one stream, one after the other without a silence, of which the first one decides.
#[derive(Clone, Debug)]
struct Event {
    epoch: u64,
    sign: Sign,
    first: Point,
    last: Point,
}

impl Event {
    /// Returns whether a record adds nothing but its time.
    fn takes(&self, epoch: u64, sign: &Sign, at: Point) -> bool {
        let near = epoch == self.epoch && at.ms.saturating_sub(self.last.ms) <= SILENCE_MAX_MS;
        let serves = matches!(self.sign, Sign::Start | Sign::Life | Sign::Loss { alive: true, .. });
        near && match sign {
            Sign::Other => true,
            Sign::Life => serves,
            Sign::Start | Sign::Stop | Sign::Loss { .. } => false,
        }
    }
}

/// What is known of one gateway.
#[derive(Clone, Debug, Default)]
struct Stream {
    events: Vec<Event>,
    /// The last epoch of each process that others found lost, and what they said.
    lost: Vec<(u64, String)>,
}

/// The records of a log, as far as they say when its recorders were up.
///
/// Grows with starts, stops and silences, not with records.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    streams: BTreeMap<String, Stream>,
    newest_ms: Option<i64>,
}

impl Coverage {
    /// Takes the next record of the log.
    pub fn add(&mut self, record: &Record) {
        let place = record.fields().get("gw");
        let text = |value: Option<&Value>, name: &str| {
            value.and_then(|value| value.get(name)?.as_str().map(str::to_owned))
        };
        let number = |value: Option<&Value>, name: &str| {
            value.and_then(|value| value.get(name)?.as_u64()).unwrap_or_default()
        };
        let gateway = text(place, "replica").unwrap_or_default();
        let epoch = number(place, "epoch");
        let at = Point { ms: record.time_ms(), leaf: Some(record.index()) };
        self.newest_ms = self.newest_ms.max(Some(at.ms));
        let mut sign = sign(record);
        if let Sign::Loss { cause, .. } = &sign {
            let last = record.fields().get("last");
            let lost = text(last, "replica").filter(|lost| *lost != gateway);
            if let Some(lost) = lost {
                let stream = self.streams.entry(lost).or_default();
                stream.lost.push((number(last, "epoch"), cause.clone()));
                // Only a serving gateway looks after others.
                sign = if cause == "gateway_lost" { Sign::Life } else { Sign::Other };
            }
        }
        let events = &mut self.streams.entry(gateway).or_default().events;
        match events.last_mut() {
            Some(event) if event.takes(epoch, &sign, at) => event.last = at,
            _ => events.push(Event { epoch, sign, first: at, last: at }),
        }
    }

    /// Returns the intervals that fill `[from_ms, to_ms)`, gateway by gateway, in their order.
    ///
    /// `as_of_ms` is the time until which nothing else can have been recorded; that of the newest record, or
    /// that one if it is later. What comes after it is a gap with the cause `log_ends`.
    #[must_use]
    pub fn intervals(&self, from_ms: i64, to_ms: i64, as_of_ms: Option<i64>) -> Vec<Interval> {
        let known_ms = as_of_ms.max(self.newest_ms).unwrap_or(from_ms);
        let mut all = Vec::new();
        for (gateway, stream) in self.streams.iter().filter(|(_, found)| !found.events.is_empty()) {
            let mut walk = Walk::new(gateway, from_ms, to_ms);
            let mut lost = stream.lost.clone();
            lost.sort_by_key(|(epoch, _)| *epoch);
            let mut lost = lost.into_iter().peekable();
            for event in &stream.events {
                while let Some((_, cause)) = lost.next_if(|(epoch, _)| *epoch < event.epoch) {
                    walk.lose(&cause);
                }
                walk.step(event);
            }
            lost.for_each(|(_, cause)| walk.lose(&cause));
            all.extend(walk.end(known_ms));
        }
        all
    }
}

fn sign(record: &Record) -> Sign {
    match record.kind() {
        "heartbeat" => match record.text("event") {
            Some("start") => Sign::Start,
            Some("stop") => Sign::Stop,
            _ => Sign::Life,
        },
        "decision" | "auth" | "close" => Sign::Life,
        "gap" => {
            let cause = record.text("gap").unwrap_or("unclean_stop").to_owned();
            let alive = matches!(cause.as_str(), "connection_lost" | "database_failed");
            Sign::Loss { cause, alive }
        }
        _ => Sign::Other,
    }
}
