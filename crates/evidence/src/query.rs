//! Which records match: filters in, records out, page after page until there are no more.

use std::collections::VecDeque;

use countersign_ledger::LeafIndex;
use countersign_store::{Query, Reader};

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
    /// The first moment after the last one, in Unix milliseconds.
    pub until_ms: Option<i64>,
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
