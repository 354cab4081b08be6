//! Walks along the events of one gateway and cuts the time into intervals.

use super::{Event, Interval, Point, SILENCE_MAX_MS, Sign, State};

/// Where the walk stands.
pub(super) struct Walk<'a> {
    gateway: &'a str,
    from_ms: i64,
    to_ms: i64,
    state: State,
    cause: String,
    since: Point,
    /// The last record so far, and the epoch of the process that wrote it.
    last: Option<(u64, Point)>,
    done: Vec<Interval>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(gateway: &'a str, from_ms: i64, to_ms: i64) -> Self {
        Self {
            gateway,
            from_ms,
            to_ms,
            state: State::Down,
            cause: "not_started".to_owned(),
            since: Point { ms: i64::MIN, leaf: None },
            last: None,
            done: Vec::new(),
        }
    }

    pub(super) fn step(&mut self, event: &Event) {
        let (at, before) = (event.first, self.last);
        let same_process = before.is_some_and(|(epoch, _)| epoch == event.epoch);
        let silent = before.is_some_and(|(_, last)| at.ms.saturating_sub(last.ms) > SILENCE_MAX_MS);
        let was_up = self.state == State::Up;
        match &event.sign {
            Sign::Loss { cause, alive } => {
                self.lose(cause);
                // A command may say so too, of a gateway that does not run.
                if *alive && was_up {
                    self.turn(State::Up, "resumed", at);
                }
            }
            Sign::Start => {
                // A process that was up neither stopped nor was found lost.
                self.break_off("silence");
                self.turn(State::Up, "started", at);
            }
            Sign::Stop => {
                if silent || !same_process {
                    self.break_off("silence");
                }
                self.turn(State::Down, "stopped", at);
            }
            Sign::Life | Sign::Other => {
                if silent || !same_process {
                    self.break_off("silence");
                }
                if matches!(event.sign, Sign::Life) || was_up && same_process {
                    self.turn(State::Up, "resumed", at);
                }
            }
        }
        self.last = Some((event.epoch, event.last));
    }

    /// Takes it that the process that wrote the last record was lost after it.
    pub(super) fn lose(&mut self, cause: &str) {
        match self.state {
            State::Up => self.break_off(cause),
            // It may have been a command that broke off; one that left no record leaves no gap either.
            State::Down => {
                let last = self.last.map(|(_, last)| last);
                if let Some(last) = last.filter(|last| last.leaf != self.since.leaf) {
                    self.turn(State::Gap, cause, last);
                }
            }
            State::Gap => {}
        }
    }

    /// Ends what was up with the last record.
    fn break_off(&mut self, cause: &str) {
        if let (State::Up, Some((_, last))) = (self.state, self.last) {
            self.turn(State::Gap, cause, last);
        }
    }

    /// Changes the state, unless it is what it was.
    fn turn(&mut self, state: State, cause: &str, at: Point) {
        if self.state == state && (state == State::Up || self.cause == cause) {
            return;
        }
        let at = Point { ms: at.ms.max(self.since.ms), ..at };
        self.cut(at);
        (self.state, self.since) = (state, at);
        cause.clone_into(&mut self.cause);
    }

    /// Notes what was until now, as far as it is of the period.
    fn cut(&mut self, at: Point) {
        let (from_ms, to_ms) = (self.since.ms.max(self.from_ms), at.ms.min(self.to_ms));
        if from_ms < to_ms {
            self.done.push(Interval {
                gateway: self.gateway.to_owned(),
                state: self.state,
                from_ms,
                to_ms,
                cause: self.cause.clone(),
                first_leaf: self.since.leaf,
                last_leaf: at.leaf,
            });
        }
    }

    /// Ends the walk; the log says nothing about what comes after `known_ms`.
    pub(super) fn end(mut self, known_ms: i64) -> Vec<Interval> {
        let silent =
            self.last.is_some_and(|(_, last)| known_ms.saturating_sub(last.ms) > SILENCE_MAX_MS);
        if silent {
            self.break_off("silence");
        }
        let end = Point { ms: known_ms, leaf: None };
        if known_ms < self.to_ms {
            self.turn(State::Gap, "log_ends", end);
        }
        self.cut(Point { ms: self.to_ms, leaf: None });
        self.done
    }
}
