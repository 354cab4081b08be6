//! Which records match: filters in, records out, page after page until there are no more.

use std::collections::VecDeque;

use countersign_ledger::LeafIndex;
use countersign_model::Kind;
use countersign_store::{Query, Reader};
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::Error as WordError;

use crate::time::{Edge, parse};
use crate::{EvidenceError, Record};

/// Results that `auth` records have; the others belong to calls.
const AUTH_RESULTS: [&str; 2] = ["accepted", "rejected"];

/// What to look for; every field that is set must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The agent's name or id.
    pub agent: Option<String>,
    /// The plain id of the person, service account or organisation.
    pub principal: Option<String>,
    /// The tool, `<server>/<tool>`.
    pub tool: Option<String>,
    /// The id of a policy that determined the verdict.
    pub policy: Option<String>,
    /// The verdict: `allow`, `deny` or `hold`.
    pub decision: Option<String>,
    /// The record's kind.
    pub kind: Option<String>,
    /// `accepted` or `rejected` of credentials; `executed`, `failed`, `not_forwarded` or `unknown` of calls
    /// and their outcomes.
    pub result: Option<String>,
    /// The first moment, in Unix milliseconds.
    pub from_ms: Option<i64>,
    /// The first moment that is left out, in Unix milliseconds.
    pub until_ms: Option<i64>,
}

/// Records that are read at a time to see whether one more matches.
const PEEKED: u32 = 16;

/// Verdicts that a filter may name.
const DECISIONS: [&str; 3] = ["allow", "deny", "hold"];

/// Results that a filter may name.
const RESULTS: [&str; 6] =
    ["accepted", "rejected", "executed", "failed", "not_forwarded", "unknown"];

impl Filter {
    /// Sets a field by the name that command line and API have for it; returns `false` if there is none.
    ///
    /// # Errors
    /// [`EvidenceError::BadFilter`], [`EvidenceError::BadTime`].
    pub fn set(&mut self, name: &str, value: &str) -> Result<bool, EvidenceError> {
        let text = || Some(value.to_owned());
        match name {
            "agent" => self.agent = text(),
            "principal" => self.principal = text(),
            "tool" => self.tool = text(),
            "policy" => self.policy = text(),
            "decision" => self.decision = Some(decision(value)?),
            "kind" => self.kind = Some(kind(value)?),
            "result" => self.result = Some(result(value)?),
            "from" => self.from_ms = Some(parse(value, Edge::Start)?),
            "to" => self.until_ms = Some(parse(value, Edge::Start)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Filter {
    /// Refuses a period without a moment, which a date that is meant as its last day would make.
    ///
    /// # Errors
    /// [`EvidenceError::EmptyPeriod`].
    pub fn check_period(&self) -> Result<(), EvidenceError> {
        match (self.from_ms, self.until_ms) {
            (Some(from), Some(until)) if from >= until => Err(EvidenceError::EmptyPeriod),
            _ => Ok(()),
        }
    }
}

/// Reads a verdict; `require-approval` is another word for `hold`.
///
/// # Errors
/// [`EvidenceError::BadFilter`].
pub fn decision(text: &str) -> Result<String, EvidenceError> {
    let word = if text == "require-approval" { "hold" } else { text };
    word_of("decision", word, &DECISIONS)
}

/// Reads a result; `auth_failed` is another word for `rejected`.
///
/// # Errors
/// [`EvidenceError::BadFilter`].
pub fn result(text: &str) -> Result<String, EvidenceError> {
    let word = if matches!(text, "auth_failed" | "auth-failed") { "rejected" } else { text };
    word_of("result", word, &RESULTS)
}

/// Reads a kind of record.
///
/// # Errors
/// [`EvidenceError::BadFilter`].
pub fn kind(text: &str) -> Result<String, EvidenceError> {
    let kind = Kind::deserialize(text.into_deserializer());
    kind.map(|kind| kind.as_str().to_owned()).map_err(|error: WordError| {
        let error = error.to_string();
        let expected = error.split_once("expected ").map_or("", |(_, expected)| expected);
        bad("kind", text, expected)
    })
}

fn word_of(name: &'static str, word: &str, words: &[&str]) -> Result<String, EvidenceError> {
    if words.contains(&word) {
        return Ok(word.to_owned());
    }
    let expected = words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    Err(bad(name, word, &format!("one of {expected}")))
}

fn bad(name: &'static str, value: &str, expected: &str) -> EvidenceError {
    EvidenceError::BadFilter { name, value: value.to_owned(), expected: expected.to_owned() }
}

/// A part of what matches a filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The records, newest first.
    pub records: Vec<Record>,
    /// Where the next page begins, if there are more records: its records stand before this position.
    pub next: Option<LeafIndex>,
}

/// Returns the newest records that match a filter, of those before a position.
///
/// # Errors
/// [`EvidenceError::UnknownAgent`]; [`EvidenceError::Store`].
pub async fn page(
    reader: &Reader,
    filter: Filter,
    before: LeafIndex,
    limit: u32,
) -> Result<Page, EvidenceError> {
    let mut rows = Rows::open(reader, filter).await?.before(before);
    // One more than asked for: whether there is another page is known, not guessed.
    rows.query.limit = limit.saturating_add(1);
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut records = Vec::new();
    while records.len() < wanted
        && let Some(record) = rows.next().await?
    {
        records.push(record);
    }
    rows.query.limit = PEEKED;
    let more = rows.next().await?.is_some();
    let next = records.last().filter(|_| more).map(|last| LeafIndex(last.index()));
    Ok(Page { records, next })
}

/// The records that match a filter, newest first. Nothing is cut: pages are read as they are needed.
#[derive(Debug)]
pub struct Rows<'a> {
    reader: &'a Reader,
    query: Query,
    /// The result that `auth` records must have: the index knows only those of calls.
    auth: Option<String>,
    page: VecDeque<Record>,
    more: bool,
}

impl<'a> Rows<'a> {
    /// Begins a query.
    ///
    /// # Errors
    /// [`EvidenceError::UnknownAgent`]; [`EvidenceError::Store`].
    pub async fn open(reader: &'a Reader, filter: Filter) -> Result<Self, EvidenceError> {
        let agent = match &filter.agent {
            Some(agent) => Some(agent_id(reader, agent).await?),
            None => None,
        };
        let (auth, result) = match filter.result {
            Some(result) if AUTH_RESULTS.contains(&result.as_str()) => (Some(result), None),
            result => (None, result),
        };
        // A credential's result asks for records of that kind; any other kind has none.
        let contradiction =
            auth.is_some() && filter.kind.as_deref().is_some_and(|kind| kind != "auth");
        let kind = filter.kind.or_else(|| auth.is_some().then(|| "auth".to_owned()));
        let query = Query {
            agent,
            principal: filter.principal,
            tool: filter.tool,
            rule: filter.policy,
            decision: filter.decision,
            kind,
            result,
            from_ms: filter.from_ms,
            until_ms: filter.until_ms,
            ..Query::default()
        };
        Ok(Self { reader, query, auth, page: VecDeque::new(), more: !contradiction })
    }

    /// Leaves out what stands at or after a position: what is recorded meanwhile.
    #[must_use]
    pub fn before(mut self, position: LeafIndex) -> Self {
        self.query.before = Some(position);
        self
    }

    /// Counts what is left, but at most `limit`.
    ///
    /// # Errors
    /// [`EvidenceError::Store`].
    pub async fn count(mut self, limit: u64) -> Result<u64, EvidenceError> {
        let mut count = 0;
        while count < limit && self.next().await?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// Returns the next record, `None` after the last.
    ///
    /// # Errors
    /// [`EvidenceError::Store`].
    pub async fn next(&mut self) -> Result<Option<Record>, EvidenceError> {
        loop {
            while let Some(record) = self.page.pop_front() {
                let other =
                    self.auth.as_deref().is_some_and(|auth| record.text("result") != Some(auth));
                if !other {
                    return Ok(Some(record));
                }
            }
            if !self.more {
                return Ok(None);
            }
            let page = self.reader.query(&self.query).await?;
            self.page = page.records.into_iter().map(Record::from).collect();
            self.query.before = page.next;
            self.more = page.next.is_some();
        }
    }
}

/// Returns the id of an agent that is given by name or id.
///
/// # Errors
/// [`EvidenceError::UnknownAgent`]; [`EvidenceError::Store`].
pub async fn agent_id(reader: &Reader, agent: &str) -> Result<String, EvidenceError> {
    let agents = reader.agents().await?;
    let known = agents.iter().find(|known| {
        known.name.as_str() == agent || known.id.to_string().eq_ignore_ascii_case(agent)
    });
    known
        .map(|known| known.id.to_string())
        .ok_or_else(|| EvidenceError::UnknownAgent(agent.to_owned()))
}

/// Returns the decision about a tool that is nearest to a time, the earlier one of two.
///
/// # Errors
/// [`EvidenceError::Store`].
pub async fn nearest(
    reader: &Reader,
    tool: &str,
    at_ms: i64,
) -> Result<Option<Record>, EvidenceError> {
    let before = Query { until_ms: Some(at_ms.saturating_add(1)), ..decisions(tool) };
    let before = reader.query(&Query { limit: 1, ..before }).await?.records.pop().map(Record::from);
    let after = first_from(reader, tool, at_ms).await?;
    Ok(match (before, after) {
        (Some(before), Some(after)) => {
            let later = after.time_ms() - at_ms < at_ms - before.time_ms();
            Some(if later { after } else { before })
        }
        (before, after) => before.or(after),
    })
}

/// Returns the first decision about a tool from a time on, looking at ever larger windows.
async fn first_from(
    reader: &Reader,
    tool: &str,
    at_ms: i64,
) -> Result<Option<Record>, EvidenceError> {
    let all = Query { from_ms: Some(at_ms), limit: 1, ..decisions(tool) };
    if reader.query(&all).await?.records.is_empty() {
        return Ok(None);
    }
    let mut window_ms = 60_000_i64;
    loop {
        let until_ms = at_ms.checked_add(window_ms);
        let mut query = Query { from_ms: Some(at_ms), until_ms, ..decisions(tool) };
        let mut oldest = None;
        loop {
            let mut page = reader.query(&query).await?;
            oldest = page.records.pop().or(oldest);
            let Some(next) = page.next else { break };
            query.before = Some(LeafIndex(next.0));
        }
        if oldest.is_some() || until_ms.is_none() {
            return Ok(oldest.map(Record::from));
        }
        window_ms = window_ms.saturating_mul(2);
    }
}

fn decisions(tool: &str) -> Query {
    let (tool, kind) = (Some(tool.to_owned()), Some("decision".to_owned()));
    Query { tool, kind, ..Query::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_filters() {
        for (name, value, ok) in [
            ("decision", "allow", true),
            ("decision", "require-approval", true),
            ("decision", "Allow", false),
            ("kind", "legal_hold", true),
            ("kind", "decision", true),
            ("kind", "decisions", false),
            ("result", "auth_failed", true),
            ("result", "not_forwarded", true),
            ("result", "", false),
            ("from", "2026-03-15", true),
            ("to", "yesterday", false),
            ("agent", "any text", true),
        ] {
            let set = Filter::default().set(name, value);
            assert_eq!(set.is_ok(), ok, "{name}={value}: {set:?}");
        }
        assert!(!Filter::default().set("form", "2026-03-15").unwrap());
        let period = |from, to| {
            let mut filter = Filter::default();
            assert!(filter.set("from", from).unwrap() && filter.set("to", to).unwrap());
            (filter.until_ms, filter.check_period().is_ok())
        };
        let (day, next) = ("2026-03-15", "2026-03-16");
        assert_eq!(period(day, next), (Some(parse(next, Edge::Start).unwrap()), true));
        assert!(period(day, "2026-03-15T00:00:01Z").1);
        assert!(!period(day, day).1);
        let bad = kind("x").unwrap_err().to_string();
        assert!(bad.starts_with("`x` is no kind: expected one of `decision`, `outcome`"), "{bad}");
        let bad = decision("x").unwrap_err().to_string();
        assert_eq!(bad, "`x` is no decision: expected one of `allow`, `deny`, `hold`");
    }
}
