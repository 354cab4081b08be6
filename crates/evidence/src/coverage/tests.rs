use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn record(index: u64, ms: i64, gateway: &str, epoch: u64, more: &Value) -> Record {
    let mut leaf = json!({"record_id": "r", "gw": {"replica": gateway, "epoch": epoch, "seq": 1},
        "time": {"ms": ms, "n": 0}});
    leaf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Record::parse(index, leaf.to_string().into_bytes()).unwrap()
}

fn kind(word: &str) -> Value {
    match word {
        "start" | "stop" => json!({"kind": "heartbeat", "event": word}),
        "unclean_stop" | "connection_lost" | "database_failed" => {
            json!({"kind": "gap", "gap": word})
        }
        kind => json!({"kind": kind}),
    }
}

/// Takes `(second, gateway, epoch, word)`; a word with `@` names the gateway and the epoch that were lost.
fn coverage(records: &[(i64, &str, u64, &str)]) -> Coverage {
    let mut coverage = Coverage::default();
    for (index, (s, gateway, epoch, word)) in (0_u64..).zip(records) {
        let more = match word.split_once('@').zip(word.split_once('/')) {
            Some(((cause, _), (name, epoch))) => {
                let replica = name.split_once('@').unwrap().1;
                let epoch: u64 = epoch.parse().unwrap();
                json!({"kind": "gap", "gap": cause, "last": {"replica": replica, "epoch": epoch}})
            }
            None => kind(word),
        };
        coverage.add(&record(index, s * 1_000, gateway, *epoch, &more));
    }
    coverage
}

fn shown(intervals: &[Interval]) -> String {
    let leaf = |leaf: Option<u64>| leaf.map_or_else(|| "-".to_owned(), |leaf| leaf.to_string());
    let line = |it: &Interval| {
        format!(
            "{} {} {}..{} {} {}..{}\n",
            it.gateway,
            it.state.as_str(),
            it.from_ms / 1_000,
            it.to_ms / 1_000,
            it.cause,
            leaf(it.first_leaf),
            leaf(it.last_leaf),
        )
    };
    intervals.iter().map(line).collect()
}

#[test]
fn a_crash_is_a_gap_and_a_stop_is_not() {
    let log = coverage(&[
        (10, "g1", 1, "change"),
        (20, "g1", 2, "start"),
        (30, "g1", 2, "decision"),
        (90, "g1", 2, "heartbeat"),
        (300, "g1", 3, "unclean_stop"),
        (300, "g1", 3, "outcome"),
        (301, "g1", 3, "start"),
        (310, "g1", 3, "auth"),
        (320, "g1", 3, "stop"),
        (5_000, "g1", 4, "change"),
        (6_000, "g1", 5, "start"),
        (6_001, "g1", 5, "stop"),
    ]);
    insta::assert_snapshot!(shown(&log.intervals(0, 10_000_000, Some(9_000_000))), @r"
    g1 down 0..20 not_started -..1
    g1 up 20..90 started 1..3
    g1 gap 90..301 unclean_stop 3..6
    g1 up 301..320 started 6..8
    g1 down 320..6000 stopped 8..10
    g1 up 6000..6001 started 10..11
    g1 down 6001..9000 stopped 11..-
    g1 gap 9000..10000 log_ends -..-
    ");
    insta::assert_snapshot!(shown(&log.intervals(100_000, 305_000, None)), @r"
    g1 gap 100..301 unclean_stop 3..6
    g1 up 301..305 started 6..8
    ");
}

#[test]
fn silence_is_a_gap_only_if_it_is_longer_than_the_heartbeat_allows() {
    let log = coverage(&[
        (0, "g1", 1, "start"),
        (90, "g1", 1, "heartbeat"),
        (181, "g1", 1, "outcome"),
        (200, "g1", 1, "decision"),
    ]);
    let expected = "g1 up 0..90 started 0..1\ng1 gap 90..181 silence 1..2\n";
    let live = "g1 up 181..290 resumed 2..-\n";
    assert_eq!(shown(&log.intervals(0, 290_000, Some(290_000))), format!("{expected}{live}"));
    let dead = "g1 up 181..200 resumed 2..3\ng1 gap 200..291 silence 3..-\n";
    assert_eq!(shown(&log.intervals(0, 291_000, Some(291_000))), format!("{expected}{dead}"));
}

#[test]
fn a_gateway_that_others_found_lost_is_in_a_gap_until_it_serves_again() {
    let log = coverage(&[
        (0, "g1", 1, "start"),
        (0, "g2", 1, "start"),
        (50, "g2", 1, "heartbeat"),
        (70, "g2", 1, "gateway_lost@g1/1"),
        // Ordered late: it stands before the loss in its stream.
        (35, "g1", 1, "decision"),
        (80, "g1", 3, "decision"),
        (85, "g1", 4, "connection_lost"),
        (90, "g1", 4, "stop"),
        (90, "g2", 1, "stop"),
    ]);
    insta::assert_snapshot!(shown(&log.intervals(0, 100_000, Some(100_000))), @r"
    g1 up 0..35 started 0..4
    g1 gap 35..80 gateway_lost 4..5
    g1 gap 80..85 connection_lost 5..6
    g1 up 85..90 resumed 6..7
    g1 down 90..100 stopped 7..-
    g2 up 0..90 started 1..8
    g2 down 90..100 stopped 8..-
    ");
}

#[test]
fn a_command_that_broke_off_while_nothing_ran_is_a_gap_only_if_it_left_records() {
    let began = [(0, "g1", 1, "start"), (5, "g1", 1, "stop")];
    let silent = [(50, "g1", 3, "unclean_stop"), (50, "g1", 3, "start"), (51, "g1", 3, "stop")];
    let log = coverage(&[&began[..], &silent].concat());
    assert_eq!(
        shown(&log.intervals(0, 51_000, None)),
        "g1 up 0..5 started 0..1\ng1 down 5..50 stopped 1..3\ng1 up 50..51 started 3..4\n"
    );
    let log = coverage(&[&began[..], &[(20, "g1", 2, "change")], &silent].concat());
    assert_eq!(
        shown(&log.intervals(0, 51_000, None)),
        "g1 up 0..5 started 0..1\ng1 down 5..20 stopped 1..2\ng1 gap 20..50 unclean_stop 2..4\n\
         g1 up 50..51 started 4..5\n"
    );
}

const WORDS: [&str; 13] = [
    "start",
    "stop",
    "heartbeat",
    "decision",
    "outcome",
    "change",
    "close",
    "access",
    "unclean_stop",
    "connection_lost",
    "database_failed",
    "gateway_lost@g1/2",
    "unclean_stop@g2/1",
];

/// Asserts that the intervals of each gateway fill the period, one after the other.
fn tile(intervals: &[Interval], from_ms: i64, to_ms: i64) {
    let mut at: BTreeMap<&str, i64> = BTreeMap::new();
    for interval in intervals {
        let at = at.entry(&interval.gateway).or_insert(from_ms);
        assert_eq!(interval.from_ms, *at, "{intervals:#?}");
        assert!(interval.from_ms < interval.to_ms, "{intervals:#?}");
        *at = interval.to_ms;
    }
    assert!(at.values().all(|at| *at == to_ms), "{intervals:#?}");
    for states in durations(intervals).values() {
        assert_eq!(states.values().sum::<i64>(), to_ms - from_ms);
    }
}

proptest! {
    #[test]
    fn intervals_fill_any_period_of_any_records(
        records in prop::collection::vec((0_i64..2_000, 0_usize..2, 0_u64..5, 0..WORDS.len()), 0..60),
        from in -100_i64..2_100,
        length in 1_i64..2_500,
        as_of in prop::option::of(0_i64..5_000),
    ) {
        let records: Vec<_> = records
            .into_iter()
            .map(|(s, gateway, epoch, word)| (s, ["g1", "g2"][gateway], epoch, WORDS[word]))
            .collect();
        let (from_ms, to_ms) = (from * 1_000, (from + length) * 1_000);
        let log = coverage(&records);
        let intervals = log.intervals(from_ms, to_ms, as_of.map(|s| s * 1_000));
        tile(&intervals, from_ms, to_ms);
        let gateways: std::collections::BTreeSet<_> = records.iter().map(|it| it.1).collect();
        let found: std::collections::BTreeSet<_> =
            intervals.iter().map(|it| it.gateway.as_str()).collect();
        prop_assert_eq!(gateways, found);
        // A period in two parts has the same intervals as the whole.
        let half_ms = i64::midpoint(from_ms, to_ms);
        let part = |from, to| log.intervals(from, to, as_of.map(|s| s * 1_000));
        let parts = [part(from_ms, half_ms), part(half_ms, to_ms)].concat();
        prop_assert_eq!(durations(&parts), durations(&intervals));
    }

    /// Lives of a gateway as it records them: each is some calls and heartbeats, and a stop or a crash.
    #[test]
    fn the_intervals_are_those_that_the_gateway_lived(
        lives in prop::collection::vec(
            (1_i64..500, prop::collection::vec(1_i64..=90, 0..20), any::<bool>()), 1..12),
    ) {
        let (mut records, mut truth) = (Vec::new(), Vec::new());
        let (mut now, mut crashed, mut ended) = (0, false, 0);
        for (epoch, (pause, steps, crashes)) in (1_u64..).zip(lives) {
            now += pause;
            truth.push((if crashed { State::Gap } else { State::Down }, ended, now));
            if crashed {
                records.push((now, "g1", epoch, "unclean_stop"));
            }
            records.push((now, "g1", epoch, "start"));
            let began = now;
            for (n, step) in steps.iter().enumerate() {
                now += step;
                records.push((now, "g1", epoch, ["heartbeat", "decision", "outcome"][n % 3]));
            }
            if !crashes {
                now += 1;
                records.push((now, "g1", epoch, "stop"));
            }
            truth.push((State::Up, began, now));
            (crashed, ended) = (crashes, now);
        }
        truth.retain(|(_, from, to)| from < to);
        let intervals = coverage(&records).intervals(0, now * 1_000, None);
        let found: Vec<_> = intervals
            .iter()
            .map(|it| (it.state, it.from_ms / 1_000, it.to_ms / 1_000))
            .collect();
        // A crash right after the start leaves two gaps in a row.
        let merged = |all: &[(State, i64, i64)]| {
            let mut merged: Vec<(State, i64, i64)> = Vec::new();
            for next in all {
                match merged.last_mut() {
                    Some(last) if last.0 == next.0 => last.2 = next.2,
                    _ => merged.push(*next),
                }
            }
            merged
        };
        prop_assert_eq!(merged(&found), merged(&truth));
    }
}
