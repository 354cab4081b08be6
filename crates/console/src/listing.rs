//! What a list is asked for: filters, page, shape and format.

use countersign_evidence::EvidenceError;
use countersign_evidence::query::Filter;
use serde_json::{Map, Value};

use crate::Console;
use crate::answer::ApiError;
use crate::limits::{PAGE_RECORDS, PAGE_RECORDS_MAX};
use crate::params::{Params, query, unknown};

/// The shape of a record in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The public part of the record.
    Record,
    /// A call as Agentic Control Plane has it.
    Acp,
}

impl Shape {
    /// Takes the parameter `shape`.
    pub(crate) fn take(params: &mut Params) -> Result<Option<Self>, ApiError> {
        match params.take("shape").as_deref() {
            None => Ok(None),
            Some("record") => Ok(Some(Self::Record)),
            Some("acp") => Ok(Some(Self::Acp)),
            Some(other) => {
                let message = format!("`{other}` is no shape: expected `record` or `acp`");
                Err(ApiError::parameter("shape", message))
            }
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Acp => "acp",
        }
    }
}

/// The format of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Csv,
}

/// One page of a list.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) filter: Filter,
    pub(crate) limit: u32,
    pub(crate) cursor: Option<String>,
    pub(crate) shape: Shape,
    pub(crate) format: Format,
    /// The filters as they came, sorted.
    filters: Vec<(String, String)>,
}

impl Listing {
    /// Reads a list's parameters. `accept` is the header; `shape` what the route gives unless told.
    pub(crate) fn parse(
        mut params: Params,
        accept: Option<&str>,
        shape: Shape,
    ) -> Result<Self, ApiError> {
        let limit = limit(params.take("limit"))?;
        let cursor = params.take("cursor");
        let format = format(params.take("format").as_deref(), accept)?;
        let shape = match (Shape::take(&mut params)?, format) {
            (Some(Shape::Acp), Format::Csv) => {
                return Err(ApiError::parameter("shape", "CSV has the shape `record` alone"));
            }
            (_, Format::Csv) => Shape::Record,
            (given, Format::Json) => given.unwrap_or(shape),
        };
        let mut filters = params.into_rest();
        filters.retain(|(_, value)| !value.is_empty());
        filters.sort();
        let mut filter = Filter::default();
        for (name, value) in &filters {
            let known = filter.set(name, value).map_err(|error| wrong(name, &error))?;
            if !known {
                return Err(unknown(name));
            }
        }
        filter.check_period().map_err(|error| wrong("to", &error))?;
        if shape == Shape::Acp {
            calls_only(&mut filter)?;
        }
        Ok(Self { filter, limit, cursor, shape, format, filters })
    }

    /// Returns the text that cursors are bound to: all that decides which records are in the list.
    pub(crate) fn query(&self) -> String {
        query(self.pairs())
    }

    /// Returns the address of the next page.
    pub(crate) fn next_page(&self, path: &str, cursor: &str) -> String {
        let limit = self.limit.to_string();
        let format = (self.format == Format::Csv).then_some(("format", "csv"));
        let page = [("limit", limit.as_str()), ("cursor", cursor)];
        format!("{path}?{}", query(self.pairs().chain(format).chain(page)))
    }

    /// Returns the filters for the record of the reading; a person is a pseudonym there, as in every leaf.
    pub(crate) fn recorded_filters(
        &self,
        console: &Console,
    ) -> Result<Map<String, Value>, ApiError> {
        let mut filters = Map::new();
        for (name, value) in &self.filters {
            let value = match name.as_str() {
                "principal" => console.store.pseudonym(value)?,
                _ => value.clone(),
            };
            filters.insert(name.clone(), value.into());
        }
        Ok(filters)
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let filters = self.filters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        filters.chain([("shape", self.shape.as_str())])
    }
}

fn limit(text: Option<String>) -> Result<u32, ApiError> {
    let Some(text) = text else { return Ok(PAGE_RECORDS) };
    let limit = text.parse().ok().filter(|limit| (1..=PAGE_RECORDS_MAX).contains(limit));
    limit.ok_or_else(|| {
        let message = format!("`{text}` is no number from 1 to {PAGE_RECORDS_MAX}");
        ApiError::parameter("limit", message)
    })
}

/// The parameter wins over the header.
fn format(text: Option<&str>, accept: Option<&str>) -> Result<Format, ApiError> {
    match text {
        Some("json") => Ok(Format::Json),
        Some("csv") => Ok(Format::Csv),
        None if accept.is_some_and(wants_csv) => Ok(Format::Csv),
        None => Ok(Format::Json),
        Some(other) => {
            let message = format!("`{other}` is no format: expected `json` or `csv`");
            Err(ApiError::parameter("format", message))
        }
    }
}

/// Tells whether `Accept` names CSV and does not name JSON before it.
fn wants_csv(accept: &str) -> bool {
    let mut named = accept
        .split(',')
        .map(|range| range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    named.find(|media| matches!(media.as_str(), "text/csv" | "application/json"))
        == Some("text/csv".to_owned())
}

/// Only calls have the other shape.
fn calls_only(filter: &mut Filter) -> Result<(), ApiError> {
    let message = "the shape `acp` has calls only; ask with `shape=record`";
    if filter.kind.as_deref().is_some_and(|kind| kind != "decision") {
        return Err(ApiError::parameter("kind", message));
    }
    if matches!(filter.result.as_deref(), Some("accepted" | "rejected")) {
        return Err(ApiError::parameter("result", message));
    }
    filter.kind = Some("decision".to_owned());
    Ok(())
}

fn wrong(name: &str, error: &EvidenceError) -> ApiError {
    ApiError::parameter(name, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str, accept: Option<&str>) -> Result<Listing, ApiError> {
        let params = Params::of(&format!("/api/v1/records?{query}").parse().unwrap())?;
        Listing::parse(params, accept, Shape::Record)
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        for (query, field) in [
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("limit=-1", "limit"),
            ("limit=all", "limit"),
            ("form=2026-03-15", "form"),
            ("from=yesterday", "from"),
            ("decision=maybe", "decision"),
            ("kind=calls", "kind"),
            ("format=xml", "format"),
            ("shape=xml", "shape"),
            ("shape=acp&format=csv", "shape"),
            ("shape=acp&kind=auth", "kind"),
            ("shape=acp&result=auth_failed", "result"),
        ] {
            let refused = format!("{:?}", parse(query, None).unwrap_err());
            assert!(refused.contains(&format!("fields: [\"{field}\"]")), "{query}: {refused}");
        }
    }

    #[test]
    fn csv_by_parameter_or_header() {
        for (query, accept, format) in [
            ("", None, Format::Json),
            ("format=csv", None, Format::Csv),
            ("", Some("text/csv"), Format::Csv),
            ("", Some("text/html, Text/CSV;q=0.9"), Format::Csv),
            ("", Some("application/json, text/csv"), Format::Json),
            ("", Some("*/*"), Format::Json),
            ("format=json", Some("text/csv"), Format::Json),
        ] {
            assert_eq!(parse(query, accept).unwrap().format, format, "{query} {accept:?}");
        }
    }

    #[test]
    fn the_next_page_keeps_every_parameter() {
        let listing = parse("tool=fs/a+b&kind=decision&format=csv&limit=7", None).unwrap();
        assert_eq!(
            listing.next_page("/api/v1/records", "abc"),
            "/api/v1/records?kind=decision&tool=fs%2Fa%20b&shape=record&format=csv&limit=7&cursor=abc"
        );
        let same = parse("kind=decision&limit=9&tool=fs/a+b", None).unwrap();
        assert_eq!(same.query(), listing.query());
    }
}
